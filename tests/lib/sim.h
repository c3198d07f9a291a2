/* Simulated time: one queue of events, one thread, one seed.  Everything that
 * happens in a simulated world is an event here, so a seed repeats a run to the
 * byte; the trace hash proves it. */
#ifndef QUIPU_TESTS_LIB_SIM_H
#define QUIPU_TESTS_LIB_SIM_H

#include "base/clock.h"
#include "base/rand.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What simulated devices are given to come back later. */
struct sim_sched {
	void (*after)(struct sim_sched *s, uint64_t delay_us,
		      void (*fn)(void *arg), void *arg);
};

struct sim_event {
	uint64_t at_us, order;
	void (*fn)(void *arg);
	void *arg;
	int owner; /* node that the event touches, -1: none */
};

struct sim {
	struct clock clock; /* first: the vtable casts back */
	uint64_t now_us;
	uint64_t wall_base_ms;
	struct rand rand;   /* of the world; nodes have their own */
	struct sim_event *heap;
	size_t n, cap;
	uint64_t order, events;
	uint64_t trace_hash;
	bool verbose;
};

/* A sched whose events belong to one node. */
struct sim_owner {
	struct sim_sched sched;
	struct sim *sim;
	int node;
};

void sim_init(struct sim *s, uint64_t seed);
void sim_release(struct sim *s);
void sim_owner_init(struct sim_owner *o, struct sim *s, int node);
void sim_after(struct sim *s, int owner, uint64_t delay_us, void (*fn)(void *),
	       void *arg);
/* Run the next event; its owner in *owner.  false: none left. */
bool sim_step(struct sim *s, int *owner);
/* Mix a line into the trace hash; printed when verbose. */
void sim_trace(struct sim *s, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* For test programs: no log on stderr, unless the environment has VERBOSE. */
void sim_quiet(void);

#endif
