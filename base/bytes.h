/* Little-endian loads and stores.  Every file format and the peer protocol are
 * little endian; these compile to single moves. */
#ifndef QUIPU_BASE_BYTES_H
#define QUIPU_BASE_BYTES_H

#include <stdint.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
	       "hosts are little endian; add byte swaps here for others");

static inline uint16_t get_u16(const void *p)
{
	uint16_t v;
	memcpy(&v, p, 2);
	return v;
}
static inline uint32_t get_u32(const void *p)
{
	uint32_t v;
	memcpy(&v, p, 4);
	return v;
}
static inline uint64_t get_u64(const void *p)
{
	uint64_t v;
	memcpy(&v, p, 8);
	return v;
}
static inline void put_u16(void *p, uint16_t v)
{
	memcpy(p, &v, 2);
}
static inline void put_u32(void *p, uint32_t v)
{
	memcpy(p, &v, 4);
}
static inline void put_u64(void *p, uint64_t v)
{
	memcpy(p, &v, 8);
}

static inline uint64_t zigzag(int64_t v)
{
	return ((uint64_t)v << 1) ^ (uint64_t)(v >> 63);
}
static inline int64_t unzigzag(uint64_t v)
{
	return (int64_t)(v >> 1) ^ -(int64_t)(v & 1);
}

#endif
