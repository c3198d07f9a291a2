/* Histogram of u64 values (microseconds, bytes), log-linear: every power of two
 * is cut into 32 steps, so a percentile is at most 1/32 too high.  15 KiB, no
 * allocation.  One writer; another thread may read at the same time and sees
 * each cell as of some moment. */
#ifndef QUIPU_BASE_HIST_H
#define QUIPU_BASE_HIST_H

#include <stdint.h>

#define HIST_STEP_BITS 5
#define HIST_STEPS (1u << HIST_STEP_BITS)
#define HIST_CELLS ((64 - HIST_STEP_BITS + 1) * HIST_STEPS)

struct hist {
	uint64_t count, sum, min, max; /* min is valid if count > 0 */
	uint64_t cells[HIST_CELLS];
};

void hist_clear(struct hist *h); /* all zeros is clear too */
void hist_add(struct hist *h, uint64_t v);
/* Add all of `from`. */
void hist_merge(struct hist *h, const struct hist *from);
/* Smallest value such that p (0..1) of all are not above it; the upper end of
 * its step, never above max.  0 when empty. */
uint64_t hist_percentile(const struct hist *h, double p);
double hist_mean(const struct hist *h);
/* How many values lie below 2^bits. */
uint64_t hist_below_pow2(const struct hist *h, unsigned bits);

#endif
