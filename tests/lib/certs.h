/* Certificates made at run time, for tests of TLS. */
#ifndef QUIPU_TESTS_LIB_CERTS_H
#define QUIPU_TESTS_LIB_CERTS_H

#include <stddef.h>

/* A CA in the folder: NAME.crt, NAME.key. */
void certs_ca(const char *dir, const char *name);
/* NAME.crt and NAME.key signed by CA.  cn and san may differ; san NULL: the
 * same as cn, "": none.  days < 0: expired. */
void certs_leaf(const char *dir, const char *ca, const char *name,
		const char *cn, const char *san, int days);
/* The same for `usage` alone ("serverAuth"), good for 10 days. */
void certs_leaf_for(const char *dir, const char *ca, const char *name,
		    const char *cn, const char *usage);
/* A new folder under TMPDIR; the path goes to `out`. */
void certs_dir(char *out, size_t n);
void certs_remove(const char *dir);

#endif
