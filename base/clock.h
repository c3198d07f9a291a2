/* Time.  The core asks a clock that it was given: the real one, or the
 * simulator's. */
#ifndef QUIPU_BASE_CLOCK_H
#define QUIPU_BASE_CLOCK_H

#include <stdint.h>

struct clock {
	uint64_t (*mono_us)(struct clock *c); /* never goes back */
	uint64_t (*wall_ms)(struct clock *c); /* Unix time, may jump */
};

static inline uint64_t clock_us(struct clock *c)
{
	return c->mono_us(c);
}
static inline uint64_t clock_ms(struct clock *c)
{
	return c->mono_us(c) / 1000;
}
static inline uint64_t clock_wall_ms(struct clock *c)
{
	return c->wall_ms(c);
}

extern struct clock clock_real;

#endif
