/* Certificates and keys of a private CA: made, read, written. */
#ifndef QUIPU_TOOLS_QUIPUCTL_PKI_H
#define QUIPU_TOOLS_QUIPUCTL_PKI_H

#include "base/err.h"

#include <openssl/x509.h>
#include <stdbool.h>
#include <stdint.h>

#define PKI_PATH_MAX 512
#define PKI_NAMES_MAX 16     /* of a gateway's certificate */
#define PKI_CLUSTER_MAX 40   /* bytes of a cluster's name */
#define PKI_BACK_S 3600      /* a new certificate is good since then: clocks differ */

enum pki_kind {
	PKI_CA,      /* signs, and nothing else */
	PKI_NODE,    /* both ends of a link: serverAuth and clientAuth */
	PKI_GATEWAY, /* what clients see: serverAuth alone */
};

struct pki_pair {
	X509 *cert;
	EVP_PKEY *key; /* NULL: not read */
};

/* A new key and its certificate, signed by `by` (NULL: by itself).  cluster is the
 * subject's O, cn its CN; san as OpenSSL writes it ("DNS:a,IP:::1"), of checked
 * names, NULL: none. */
void pki_make(struct pki_pair *out, enum pki_kind kind, const char *cluster,
	      const char *cn, const char *san, unsigned days,
	      const struct pki_pair *by);
void pki_release(struct pki_pair *p);

/* The first certificate of a PEM file; its key.  ERR_NOT_FOUND, ERR_CONFIG. */
int pki_read_cert(const char *path, X509 **out, struct err *e);
int pki_read_key(const char *path, EVP_PKEY **out, struct err *e);
/* Through a temporary file, synced.  Keys are of mode 0600.  ERR_EXISTS without
 * `force` when the file is there. */
int pki_write_cert(const char *path, X509 *const *certs, unsigned n, bool force,
		   struct err *e);
int pki_write_key(const char *path, EVP_PKEY *key, bool force, struct err *e);

/* A part of the subject (NID_commonName, NID_organizationName); "": none. */
void pki_name(const X509 *x, int nid, char *out, size_t n);
int64_t pki_until(const X509 *x); /* Unix time; 0: unreadable */
bool pki_signed_by(X509 *x, X509 *ca);
enum pki_kind pki_kind_of(X509 *x);

/* As node.cluster: letters, digits, dashes inside; at most PKI_CLUSTER_MAX. */
bool pki_cluster_ok(const char *s);
/* Append "DNS:s" or "IP:s" to a list; false: neither a host name nor an address. */
bool pki_san_add(char *san, size_t n, const char *s);

#endif
