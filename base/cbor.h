/* The subset of CBOR that Quipu speaks (RFC 8949 4.2, deterministic): lengths and
 * numbers in their shortest form, definite lengths, map keys ascending bytewise and
 * unique, text in UTF-8, no tags, no floats; simple values false, true, null.
 * Reading is strict: what these functions accept has no second spelling. */
#ifndef QUIPU_BASE_CBOR_H
#define QUIPU_BASE_CBOR_H

#include "base/buf.h"
#include "base/cursor.h"

enum cbor_major {
	CBOR_UINT = 0, CBOR_NINT = 1, CBOR_BYTES = 2, CBOR_TEXT = 3,
	CBOR_ARRAY = 4, CBOR_MAP = 5, CBOR_SIMPLE = 7
};
enum { CBOR_FALSE = 20, CBOR_TRUE = 21, CBOR_NULL = 22 };
#define CBOR_HEAD_MAX 9

/* Write a head where CBOR_HEAD_MAX bytes are free; returns its end. */
static inline uint8_t *cbor_head_at(uint8_t *p, enum cbor_major major, uint64_t v)
{
	uint8_t m = (uint8_t)(major << 5);
	unsigned i, n;

	if (v < 24) {
		*p++ = (uint8_t)(m | v);
		return p;
	}
	n = v <= UINT8_MAX ? 1 : v <= UINT16_MAX ? 2 : v <= UINT32_MAX ? 4 : 8;
	*p++ = (uint8_t)(m | (n == 1 ? 24 : n == 2 ? 25 : n == 4 ? 26 : 27));
	for (i = n; i-- > 0;)
		*p++ = (uint8_t)(v >> 8 * i);
	return p;
}
static inline void cbor_put_head(struct buf *b, enum cbor_major major, uint64_t v)
{
	uint8_t *p = buf_reserve(b, CBOR_HEAD_MAX);

	b->len += (size_t)(cbor_head_at(p, major, v) - p);
}
void cbor_put_text(struct buf *b, const char *s);
void cbor_put_bytes(struct buf *b, enum cbor_major major, const void *p, size_t n);

/* A head: what it is, and its number, length or count.  Anything outside the
 * subset makes the cursor bad. */
static inline enum cbor_major cbor_head(struct cursor *c, uint64_t *v)
{
	uint8_t first = cursor_u8(c);
	unsigned info = first & 31, major = first >> 5;

	*v = info;
	if (major >= 6) {
		if (major == 6 || info < CBOR_FALSE || info > CBOR_NULL)
			c->bad = true;
	} else if (info >= 24) {
		static const uint64_t least[] = { 24, 1u << 8, 1u << 16, 1ull << 32 };
		const uint8_t *p = info > 27 ? NULL
					     : cursor_bytes(c, 1u << (info - 24));
		unsigned i;

		*v = 0;
		for (i = 0; p && i < 1u << (info - 24); i++)
			*v = *v << 8 | p[i];
		if (!p || *v < least[info - 24])
			c->bad = true;
	}
	return (enum cbor_major)major;
}
/* The same when one kind is wanted; anything else is bad.  Counts are not larger
 * than the bytes left could hold. */
uint64_t cbor_want(struct cursor *c, enum cbor_major major);
/* Bytes or text (checked to be UTF-8) of at most `max`; NULL and bad else. */
const uint8_t *cbor_string(struct cursor *c, enum cbor_major major, size_t max,
			   size_t *n);

enum cbor_kind {
	CBOR_ANY,
	CBOR_PLAIN /* what JSON can say too: text keys, numbers <= 2^53 - 1 */
};
/* Over one whole value with at most `depth` levels of arrays and maps; bad when it
 * is not well formed. */
void cbor_skip(struct cursor *c, enum cbor_kind kind, unsigned depth);

#endif
