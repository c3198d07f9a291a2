/* XXH3-64 (accidents) and SHA-256 (tampering, FIPS 180-4). */
#ifndef QUIPU_BASE_HASH_H
#define QUIPU_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#define SHA256_LEN 32

uint64_t xxh3(const void *p, size_t n);
/* XXH3-64 of the concatenation of n parts, without copying. */
struct hash_part {
	const void *p;
	size_t n;
};
uint64_t xxh3_parts(const struct hash_part *parts, size_t n);
/* SHA-256 of the concatenation.  Not for signal handlers; one reused context
 * per thread. */
void sha256_parts(const struct hash_part *parts, size_t n,
		  uint8_t out[SHA256_LEN]);
void sha256(const void *p, size_t n, uint8_t out[SHA256_LEN]);
/* SHA-1, for RFC 6455's handshake alone: nothing rests on its strength. */
#define SHA1_LEN 20
void sha1_parts(const struct hash_part *parts, size_t n, uint8_t out[SHA1_LEN]);

#endif
