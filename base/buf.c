#include "base/buf.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/bytes.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void buf_release(struct buf *b)
{
	free(b->data);
	buf_init(b);
}

uint8_t *buf_reserve(struct buf *b, size_t n)
{
	if (b->cap - b->len < n) {
		size_t cap = b->cap ? b->cap : 64;

		while (cap - b->len < n)
			cap *= 2;
		b->data = xrealloc(b->data, cap);
		b->cap = cap;
	}
	return b->len ? b->data + b->len : b->data; /* null when nothing was asked */
}

uint8_t *buf_extend(struct buf *b, size_t n)
{
	uint8_t *p = buf_reserve(b, n);

	b->len += n;
	return p;
}

void buf_put(struct buf *b, const void *p, size_t n)
{
	if (n)
		memcpy(buf_extend(b, n), p, n);
}

void buf_puts(struct buf *b, const char *s)
{
	buf_put(b, s, strlen(s));
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	AN(n >= 0);
	va_start(ap, fmt);
	vsnprintf((char *)buf_reserve(b, (size_t)n + 1), (size_t)n + 1, fmt,
		  ap);
	va_end(ap);
	b->len += (size_t)n;
}

void buf_u8(struct buf *b, uint8_t v)
{
	*buf_extend(b, 1) = v;
}

void buf_u16(struct buf *b, uint16_t v)
{
	put_u16(buf_extend(b, 2), v);
}

void buf_u32(struct buf *b, uint32_t v)
{
	put_u32(buf_extend(b, 4), v);
}

void buf_u64(struct buf *b, uint64_t v)
{
	put_u64(buf_extend(b, 8), v);
}

void buf_varint(struct buf *b, uint64_t v)
{
	uint8_t *p = buf_reserve(b, 10), *q = p;

	while (v >= 0x80) {
		*q++ = (uint8_t)(v | 0x80);
		v >>= 7;
	}
	*q++ = (uint8_t)v;
	b->len += (size_t)(q - p);
}

void buf_lv(struct buf *b, const void *p, size_t n)
{
	buf_varint(b, n);
	buf_put(b, p, n);
}

void buf_consume(struct buf *b, size_t n)
{
	AN(n <= b->len);
	b->len -= n;
	if (b->len)
		memmove(b->data, b->data + n, b->len);
}

uint8_t *buf_take(struct buf *b, size_t *len)
{
	uint8_t *p = b->data;

	*len = b->len;
	buf_init(b);
	return p;
}
