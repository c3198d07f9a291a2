/* Randomness.  rand_real asks the kernel; the seeded twin (xoshiro256**) makes
 * a simulation repeat itself. */
#ifndef QUIPU_BASE_RAND_H
#define QUIPU_BASE_RAND_H

#include <stddef.h>
#include <stdint.h>

struct rand {
	void (*fill)(struct rand *r, void *p, size_t n);
	uint64_t s[4]; /* of the seeded twin */
};

extern struct rand rand_real;
void rand_seeded(struct rand *r, uint64_t seed);

void rand_fill(struct rand *r, void *p, size_t n);
uint64_t rand_u64(struct rand *r);
/* 0 <= result < n; n > 0 */
uint64_t rand_below(struct rand *r, uint64_t n);
/* true with probability p in thousandths */
int rand_permille(struct rand *r, unsigned p);

#endif
