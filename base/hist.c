#include "base/hist.h"

#include <string.h>

#define GET(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define SET(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)

/* Values below HIST_STEPS have a cell each; a value with its highest bit at b
 * lies in cell (b - STEP_BITS + 1) * STEPS + the next STEP_BITS bits. */
static unsigned cell_of(uint64_t v)
{
	unsigned b;

	if (v < HIST_STEPS)
		return (unsigned)v;
	b = 63 - (unsigned)__builtin_clzll(v);
	return (b - HIST_STEP_BITS + 1) * HIST_STEPS +
	       (unsigned)((v >> (b - HIST_STEP_BITS)) & (HIST_STEPS - 1));
}

/* Greatest value of a cell. */
static uint64_t cell_top(unsigned i)
{
	unsigned shift = i / HIST_STEPS;
	uint64_t step = i % HIST_STEPS;

	if (shift == 0)
		return step;
	shift--;
	return ((HIST_STEPS + step) << shift) + ((1ull << shift) - 1);
}

void hist_clear(struct hist *h)
{
	memset(h, 0, sizeof *h);
}

void hist_add(struct hist *h, uint64_t v)
{
	uint64_t *cell = &h->cells[cell_of(v)];

	if (h->count == 0 || v < h->min)
		SET(&h->min, v);
	if (v > h->max)
		SET(&h->max, v);
	SET(cell, *cell + 1);
	SET(&h->sum, h->sum + v);
	SET(&h->count, h->count + 1);
}

void hist_merge(struct hist *h, const struct hist *from)
{
	unsigned i;

	if (GET(&from->count) == 0)
		return;
	if (h->count == 0 || GET(&from->min) < h->min)
		h->min = GET(&from->min);
	if (GET(&from->max) > h->max)
		h->max = GET(&from->max);
	h->count += GET(&from->count);
	h->sum += GET(&from->sum);
	for (i = 0; i < HIST_CELLS; i++)
		h->cells[i] += GET(&from->cells[i]);
}

uint64_t hist_percentile(const struct hist *h, double p)
{
	uint64_t count = GET(&h->count), max = GET(&h->max), seen = 0, rank;
	unsigned i;

	if (count == 0)
		return 0;
	rank = (uint64_t)(p * (double)count);
	if ((double)rank < p * (double)count || rank == 0)
		rank++;
	for (i = 0; i < HIST_CELLS; i++) {
		seen += GET(&h->cells[i]);
		if (seen >= rank) {
			uint64_t top = cell_top(i);

			return top < max ? top : max;
		}
	}
	return max;
}

double hist_mean(const struct hist *h)
{
	uint64_t count = GET(&h->count);

	return count ? (double)GET(&h->sum) / (double)count : 0;
}

uint64_t hist_below_pow2(const struct hist *h, unsigned bits)
{
	unsigned i, end = bits >= 64 ? HIST_CELLS : cell_of(1ull << bits);
	uint64_t n = 0;

	for (i = 0; i < end; i++)
		n += GET(&h->cells[i]);
	return n;
}
