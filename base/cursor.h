/* Bytes are read only through a cursor that knows its end.  A read past the end
 * sets `bad` and yields zeros, so a decoder checks once, at its end:
 * cursor_done() is true when nothing failed and nothing is left over. */
#ifndef QUIPU_BASE_CURSOR_H
#define QUIPU_BASE_CURSOR_H

#include "base/bytes.h"

#include <stdbool.h>
#include <stddef.h>

struct cursor {
	const uint8_t *p, *end;
	bool bad;
};

static inline struct cursor cursor_of(const void *p, size_t n)
{
	/* Nothing may be NULL, and NULL + 0 is undefined. */
	struct cursor c = { p, n ? (const uint8_t *)p + n : p, false };
	return c;
}
static inline size_t cursor_left(const struct cursor *c)
{
	return (size_t)(c->end - c->p);
}
static inline bool cursor_done(const struct cursor *c)
{
	return !c->bad && c->p == c->end;
}
/* n bytes, borrowed from the input; NULL and bad when there are fewer. */
static inline const uint8_t *cursor_bytes(struct cursor *c, size_t n)
{
	const uint8_t *p = c->p;

	if (c->bad || cursor_left(c) < n) {
		c->bad = true;
		return NULL;
	}
	c->p += n;
	return p;
}
static inline uint8_t cursor_u8(struct cursor *c)
{
	const uint8_t *p = cursor_bytes(c, 1);
	return p ? *p : 0;
}
static inline uint16_t cursor_u16(struct cursor *c)
{
	const uint8_t *p = cursor_bytes(c, 2);
	return p ? get_u16(p) : 0;
}
static inline uint32_t cursor_u32(struct cursor *c)
{
	const uint8_t *p = cursor_bytes(c, 4);
	return p ? get_u32(p) : 0;
}
static inline uint64_t cursor_u64(struct cursor *c)
{
	const uint8_t *p = cursor_bytes(c, 8);
	return p ? get_u64(p) : 0;
}
/* LEB128; over-long and overflowing forms are bad. */
static inline uint64_t cursor_varint(struct cursor *c)
{
	uint64_t v = 0;
	unsigned shift;

	for (shift = 0; shift < 64; shift += 7) {
		uint8_t b = cursor_u8(c);

		if (c->bad)
			return 0;
		if (shift == 63 && b > 1)
			break;
		v |= (uint64_t)(b & 0x7f) << shift;
		if (!(b & 0x80)) {
			if (b == 0 && shift != 0)
				break;
			return v;
		}
	}
	c->bad = true;
	return 0;
}
/* varint length, then bytes; more than `max` is bad. */
static inline const uint8_t *cursor_lv(struct cursor *c, size_t max,
				       size_t *len)
{
	uint64_t n = cursor_varint(c);

	*len = 0;
	if (c->bad || n > max || n > cursor_left(c)) {
		c->bad = true;
		return NULL;
	}
	*len = (size_t)n;
	return cursor_bytes(c, *len);
}

#endif
