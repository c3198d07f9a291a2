/* UTF-8 (RFC 3629), also in pieces: WebSocket text fragments. */
#ifndef QUIPU_BASE_UTF8_H
#define QUIPU_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct utf8 {
	uint8_t need, lo, hi; /* zeroed at the start */
};
/* false: not UTF-8.  At the end u->need must be 0. */
bool utf8_feed(struct utf8 *u, const void *p, size_t n);
bool utf8_valid(const void *p, size_t n);

#endif
