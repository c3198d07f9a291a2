#include "base/rand.h"
#include "base/assert.h"
#include "base/clock.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

static void fill_kernel(struct rand *r, void *p, size_t n)
{
	uint8_t *q = p;

	(void)r;
	while (n) {
		ssize_t got = getrandom(q, n > 256 ? 256 : n, 0);

		if (got < 0 && errno == EINTR)
			continue;
		AN(got > 0);
		q += got;
		n -= (size_t)got;
	}
}

struct rand rand_real = { .fill = fill_kernel };

static uint64_t rotl(uint64_t x, int k)
{
	return (x << k) | (x >> (64 - k));
}

/* xoshiro256** 1.0 (Blackman, Vigna 2018) */
static uint64_t xoshiro(uint64_t *s)
{
	uint64_t result = rotl(s[1] * 5, 7) * 9, t = s[1] << 17;

	s[2] ^= s[0];
	s[3] ^= s[1];
	s[1] ^= s[2];
	s[0] ^= s[3];
	s[2] ^= t;
	s[3] = rotl(s[3], 45);
	return result;
}

static void fill_seeded(struct rand *r, void *p, size_t n)
{
	uint8_t *q = p;

	while (n) {
		uint64_t v = xoshiro(r->s);
		size_t k = n < 8 ? n : 8;

		memcpy(q, &v, k);
		q += k;
		n -= k;
	}
}

void rand_seeded(struct rand *r, uint64_t seed)
{
	int i;

	r->fill = fill_seeded;
	for (i = 0; i < 4; i++) { /* splitmix64 */
		uint64_t z = (seed += 0x9e3779b97f4a7c15ull);

		z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
		z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
		r->s[i] = z ^ (z >> 31);
	}
}

void rand_fill(struct rand *r, void *p, size_t n)
{
	r->fill(r, p, n);
}

uint64_t rand_u64(struct rand *r)
{
	uint64_t v;

	r->fill(r, &v, sizeof v);
	return v;
}

uint64_t rand_below(struct rand *r, uint64_t n)
{
	uint64_t v, lim;

	AN(n > 0);
	lim = UINT64_MAX - UINT64_MAX % n;
	do
		v = rand_u64(r);
	while (v >= lim);
	return v % n;
}

int rand_permille(struct rand *r, unsigned p)
{
	return rand_below(r, 1000) < p;
}

static uint64_t real_mono_us(struct clock *c)
{
	struct timespec t;

	(void)c;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static uint64_t real_wall_ms(struct clock *c)
{
	struct timespec t;

	(void)c;
	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

struct clock clock_real = { real_mono_us, real_wall_ms };
