/* base64url without padding (RFC 4648 5), strict: no other characters, no padding,
 * no bits left over (RFC 7515 2). */
#ifndef QUIPU_BASE_BASE64_H
#define QUIPU_BASE_BASE64_H

#include "base/buf.h"

#include <stdbool.h>

void base64url_put(struct buf *out, const void *p, size_t n);
/* Appends what `n` characters stand for; false (and nothing appended) when they are
 * not base64url. */
bool base64url_get(struct buf *out, const char *s, size_t n);
/* With padding and the standard alphabet: Sec-WebSocket-Accept. */
void base64_put(struct buf *out, const void *p, size_t n);

#endif
