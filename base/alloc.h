/* Allocation.  A process that cannot get a few bytes ends: all that was acked
 * is in the journal, and half-done work is worse than a restart (decision
 * 0002).  Sizes that a peer names are bounded before they come here. */
#ifndef QUIPU_BASE_ALLOC_H
#define QUIPU_BASE_ALLOC_H

#include <stddef.h>

void *xmalloc(size_t n);
void *xcalloc(size_t n, size_t size); /* zeroed */
void *xrealloc(void *p, size_t n);
char *xstrdup(const char *s);
char *xasprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
