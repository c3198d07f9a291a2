#include "tests/lib/sim.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/hash.h"
#include "base/logf.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t sim_mono_us(struct clock *c)
{
	return ((struct sim *)(void *)c)->now_us;
}

static uint64_t sim_wall_ms(struct clock *c)
{
	struct sim *s = (struct sim *)(void *)c;

	return s->wall_base_ms + s->now_us / 1000;
}

void sim_init(struct sim *s, uint64_t seed)
{
	memset(s, 0, sizeof *s);
	s->clock.mono_us = sim_mono_us;
	s->clock.wall_ms = sim_wall_ms;
	s->now_us = 1000000;
	s->wall_base_ms = 1700000000000;
	rand_seeded(&s->rand, seed);
}

void sim_release(struct sim *s)
{
	free(s->heap);
	s->heap = NULL;
	s->n = s->cap = 0;
}

static bool earlier(const struct sim_event *a, const struct sim_event *b)
{
	return a->at_us < b->at_us ||
	       (a->at_us == b->at_us && a->order < b->order);
}

void sim_after(struct sim *s, int owner, uint64_t delay_us, void (*fn)(void *),
	       void *arg)
{
	struct sim_event e = { s->now_us + delay_us, s->order++, fn, arg, owner };
	size_t i;

	if (s->n == s->cap) {
		s->cap = s->cap ? 2 * s->cap : 1024;
		s->heap = xrealloc(s->heap, s->cap * sizeof *s->heap);
	}
	for (i = s->n++; i && earlier(&e, &s->heap[(i - 1) / 2]);
	     i = (i - 1) / 2)
		s->heap[i] = s->heap[(i - 1) / 2];
	s->heap[i] = e;
}

bool sim_step(struct sim *s, int *owner)
{
	struct sim_event top, last;
	size_t i = 0, k;

	if (!s->n)
		return false;
	top = s->heap[0];
	last = s->heap[--s->n];
	while ((k = 2 * i + 1) < s->n) {
		if (k + 1 < s->n && earlier(&s->heap[k + 1], &s->heap[k]))
			k++;
		if (!earlier(&s->heap[k], &last))
			break;
		s->heap[i] = s->heap[k];
		i = k;
	}
	if (s->n)
		s->heap[i] = last;
	AN(top.at_us >= s->now_us);
	s->now_us = top.at_us;
	s->events++;
	*owner = top.owner;
	top.fn(top.arg);
	return true;
}

static void owner_after(struct sim_sched *sched, uint64_t delay_us,
			void (*fn)(void *arg), void *arg)
{
	struct sim_owner *o = (struct sim_owner *)(void *)sched;

	sim_after(o->sim, o->node, delay_us, fn, arg);
}

void sim_owner_init(struct sim_owner *o, struct sim *s, int node)
{
	o->sched.after = owner_after;
	o->sim = s;
	o->node = node;
}

void sim_trace(struct sim *s, const char *fmt, ...)
{
	struct {
		uint64_t hash, now_us;
		char line[256];
	} t;
	va_list ap;

	memset(&t, 0, sizeof t);
	t.hash = s->trace_hash;
	t.now_us = s->now_us;
	va_start(ap, fmt);
	vsnprintf(t.line, sizeof t.line, fmt, ap);
	va_end(ap);
	s->trace_hash = xxh3(&t, sizeof t);
	if (s->verbose)
		printf("[%9.3f] %s\n", (double)s->now_us / 1000, t.line);
}

static void drop_line(void *arg, const char *line)
{
	(void)arg;
	(void)line;
}

void sim_quiet(void)
{
	if (!getenv("VERBOSE"))
		log_set_sink(drop_line, NULL);
}
