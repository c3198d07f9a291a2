/* A growing byte buffer.  Owned by whoever embeds it; buf_release() frees.
 * Appends never fail (base/alloc.h); who fills one from outside bounds it. */
#ifndef QUIPU_BASE_BUF_H
#define QUIPU_BASE_BUF_H

#include <stddef.h>
#include <stdint.h>

struct buf {
	uint8_t *data;
	size_t len, cap;
};

#define BUF_INIT { NULL, 0, 0 }

static inline void buf_init(struct buf *b)
{
	b->data = NULL;
	b->len = b->cap = 0;
}
static inline void buf_clear(struct buf *b) /* keeps the memory */
{
	b->len = 0;
}
void buf_release(struct buf *b);
/* Room for `n` more bytes; returns where they go (len is not moved). */
uint8_t *buf_reserve(struct buf *b, size_t n);
/* The same, and len moves by n. */
uint8_t *buf_extend(struct buf *b, size_t n);
void buf_put(struct buf *b, const void *p, size_t n);
void buf_puts(struct buf *b, const char *s);
void buf_printf(struct buf *b, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
void buf_u8(struct buf *b, uint8_t v);
void buf_u16(struct buf *b, uint16_t v); /* little endian */
void buf_u32(struct buf *b, uint32_t v);
void buf_u64(struct buf *b, uint64_t v);
/* LEB128, at most 10 bytes. */
void buf_varint(struct buf *b, uint64_t v);
/* varint length, then the bytes */
void buf_lv(struct buf *b, const void *p, size_t n);
/* Drop the first n bytes (moves the rest). */
void buf_consume(struct buf *b, size_t n);
/* Take the memory out; `b` is empty afterwards. */
uint8_t *buf_take(struct buf *b, size_t *len);

#endif
