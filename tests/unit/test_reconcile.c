/* The loop that moves replicas and leaderships, over a pretended cluster in which every
 * step does at once what it should. */
#include "consensus/reconcile.h"
#include "base/logf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { SHARDS = 12 };

static struct cluster {
	struct reconcile r;
	struct members t;
	uint64_t up, unfit, now_ms;
	struct shard_picture shard[SHARDS];
	uint64_t lacks[SHARDS];   /* bits by id */
	bool mute[SHARDS];        /* its leader does not answer */
	bool lazy;                /* steps have no outcome */
	bool frozen;              /* standbys get nothing */
	bool looked[SHARDS];
	struct place_step asked[PLACE_STEPS_MAX + SHARDS];
	bool to_one[PLACE_STEPS_MAX + SHARDS];
	unsigned n_asked;
	unsigned looks, steps;
} *c;

static void no_log(void *arg, const char *line)
{
	(void)arg;
	(void)line;
}

static void view(void *arg, uint32_t shard)
{
	(void)arg;
	c->looked[shard] = true;
	c->looks++;
}

static void ask_step(void *arg, const struct place_step *s, bool to_one)
{
	(void)arg;
	c->to_one[c->n_asked] = to_one;
	c->asked[c->n_asked++] = *s;
	c->steps++;
}

static bool lacks(void *arg, uint8_t id, uint32_t shard)
{
	(void)arg;
	return c->lacks[shard] >> id & 1;
}

static const struct reconcile_ops ops = { view, ask_step, lacks };

static unsigned voters(uint32_t shard)
{
	unsigned i, n = 0;

	for (i = 0; i < c->shard[shard].n; i++)
		n += c->shard[shard].member[i].voter;
	return n;
}

static bool has(uint32_t shard, uint8_t id)
{
	unsigned i;

	for (i = 0; i < c->shard[shard].n; i++)
		if (c->shard[shard].member[i].id == id)
			return true;
	return false;
}

static void do_step(const struct place_step *s)
{
	struct shard_picture *p = &c->shard[s->shard];
	unsigned i;

	for (i = 0; i < p->n; i++)
		if (p->member[i].id == s->node)
			break;
	switch (s->op) {
	case PLACE_ADD:
		assert_int_equal(i, p->n);
		c->lacks[s->shard] &= ~(1ull << s->node);
		memset(&p->member[p->n], 0, sizeof p->member[0]);
		p->member[p->n++].id = s->node;
		break;
	case PLACE_PROMOTE:
		assert_true(p->member[i].ready && !p->member[i].voter);
		p->member[i].voter = true;
		break;
	case PLACE_REMOVE:
		assert_true(i < p->n && s->node != p->leader);
		p->member[i] = p->member[--p->n];
		c->lacks[s->shard] |= 1ull << s->node;
		assert_true(voters(s->shard) >= 1);
		break;
	case PLACE_TRANSFER:
		assert_true(i < p->n && p->member[i].voter);
		p->leader = s->node;
		break;
	}
}

static void answers(void)
{
	uint32_t i;
	unsigned k, n = c->n_asked;

	for (i = 0; i < SHARDS; i++) {
		if (!c->looked[i] || c->mute[i])
			continue;
		c->looked[i] = false;
		reconcile_viewed(&c->r, c->r.round, i, &c->shard[i]);
	}
	c->n_asked = 0;
	for (k = 0; k < n && !c->lazy; k++) {
		do_step(&c->asked[k]);
		reconcile_stepped(&c->r, c->r.round, &c->asked[k], 0, "");
	}
	for (i = 0; i < SHARDS && !c->frozen; i++)
		for (k = 0; k < c->shard[i].n; k++)
			if (!c->shard[i].member[k].ready)
				c->shard[i].member[k].ready = true;
}

static void run(uint64_t ms)
{
	uint64_t end = c->now_ms + ms;

	while (c->now_ms < end) {
		c->now_ms += 100;
		reconcile_tick(&c->r, c->now_ms, true, &c->t, c->up, c->unfit);
		answers();
	}
}

static void node(uint8_t id, enum place_state s)
{
	struct member *m = &c->t.m[id];

	*m = (struct member){ .id = id, .state = s, .version = ++c->t.epoch,
			      .replaced = m->replaced };
	if (s != PLACE_GONE)
		c->up |= 1ull << id;
	else
		c->up &= ~(1ull << id);
}

/* So many founders, each with a replica of everything. */
static void make(unsigned founders, struct reconcile_config cfg)
{
	unsigned id, i;

	reconcile_init(&c->r, SHARDS, &cfg, &ops, NULL);
	for (id = 1; id <= founders; id++) {
		node((uint8_t)id, PLACE_ACTIVE);
		c->t.founders |= 1ull << id;
		for (i = 0; i < SHARDS; i++) {
			struct shard_picture *p = &c->shard[i];

			p->known = true;
			p->leader = (uint8_t)(1 + i % founders);
			p->member[p->n].id = (uint8_t)id;
			p->member[p->n].voter = p->member[p->n].ready = true;
			p->n++;
		}
	}
}

static const struct reconcile_config usual = { .automatic = true };

static int setup(void **state)
{
	(void)state;
	log_set_sink(no_log, NULL);
	c = calloc(1, sizeof *c);
	assert_non_null(c);
	c->now_ms = 1000;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	free(c);
	return 0;
}

static unsigned held_by(uint8_t id)
{
	unsigned n = 0;
	uint32_t i;

	for (i = 0; i < SHARDS; i++)
		n += has(i, id);
	return n;
}

static unsigned led_by(uint8_t id)
{
	unsigned n = 0;
	uint32_t i;

	for (i = 0; i < SHARDS; i++)
		n += c->shard[i].leader == id;
	return n;
}

static void all_have(unsigned want)
{
	uint32_t i;

	for (i = 0; i < SHARDS; i++) {
		assert_int_equal(c->shard[i].n, want);
		assert_int_equal(voters(i), want);
	}
}

static void test_founders_are_left_alone(void **state)
{
	(void)state;
	make(3, usual);
	run(60000);
	assert_int_equal(c->looks, 0);
	assert_int_equal(c->steps, 0);
}

static void test_only_the_leader_of_the_meta_shard(void **state)
{
	unsigned i;

	(void)state;
	make(1, usual);
	node(2, PLACE_ACTIVE);
	for (i = 0; i < 100; i++)
		reconcile_tick(&c->r, 1000 + 100 * i, false, &c->t, c->up, c->unfit);
	assert_int_equal(c->looks, 0);
}

/* The story of the cluster: 1, 3, 5, one dead and replaced, drained, 3. */
static void test_a_clusters_life(void **state)
{
	uint8_t id;

	(void)state;
	make(1, usual);
	node(2, PLACE_ACTIVE);
	node(3, PLACE_ACTIVE);
	run(120000);
	all_have(3);
	for (id = 1; id <= 3; id++)
		assert_in_range(led_by(id), 3, 5);
	node(4, PLACE_ACTIVE);
	node(5, PLACE_ACTIVE);
	run(300000);
	all_have(3);
	for (id = 1; id <= 5; id++)
		assert_in_range(held_by(id), 6, 9);
	node(2, PLACE_GONE);
	run(300000);
	all_have(3);
	assert_int_equal(held_by(2), 0);
	node(6, PLACE_ACTIVE);
	run(300000);
	assert_in_range(held_by(6), 5, 9);
	node(3, PLACE_DRAINING);
	run(60000);
	assert_int_equal(led_by(3), 0);
	node(3, PLACE_ACTIVE);
	node(4, PLACE_LEAVING);
	node(5, PLACE_LEAVING);
	run(300000);
	all_have(3);
	assert_int_equal(held_by(4) + held_by(5), 0);
	assert_int_equal(held_by(1), SHARDS);
	id = (uint8_t)c->steps;
	run(60000);
	assert_int_equal((uint8_t)c->steps, id); /* it is at rest */
}

static void test_down_to_one(void **state)
{
	unsigned i, ones = 0;

	(void)state;
	make(2, usual);
	node(2, PLACE_LEAVING);
	run(60000);
	all_have(1);
	for (i = 0; i < SHARDS; i++)
		ones += c->to_one[i];
	assert_true(ones > 0);
	assert_int_equal(led_by(1), SHARDS);
}

static void test_another_disk(void **state)
{
	uint32_t i;

	(void)state;
	make(3, usual);
	for (i = 0; i < SHARDS; i++)
		if (c->shard[i].leader == 3)
			c->shard[i].leader = 1;
	c->t.m[3].replaced = true;
	c->t.epoch++;
	for (i = 0; i < SHARDS; i++)
		c->lacks[i] = 1ull << 3;
	run(1500); /* all of them at once, for it copies nothing; then four copies */
	assert_in_range(held_by(3), 0, 4);
	assert_true(c->steps >= SHARDS);
	run(120000);
	all_have(3);
	assert_int_equal(held_by(3), SHARDS);
}

static void test_a_standby_that_stands_still(void **state)
{
	(void)state;
	make(1, usual);
	c->frozen = true;
	node(2, PLACE_ACTIVE);
	run(RECONCILE_STALL_MS - 60000);
	assert_true(held_by(2) > 0);
	assert_int_equal(c->r.plan.n, 0); /* waits */
	run(120000);
	assert_true(c->steps > 4); /* taken away, and tried again */
	c->frozen = false;
	run(120000);
	all_have(2);
}

static void test_who_does_not_answer(void **state)
{
	(void)state;
	make(1, usual);
	c->mute[5] = true;
	node(2, PLACE_ACTIVE);
	run(200000);
	assert_int_equal(held_by(2), SHARDS - 1);
	c->mute[5] = false;
	c->lazy = true; /* nor do steps */
	run(RECONCILE_STEPS_MS);
	c->lazy = false;
	run(2 * RECONCILE_STEPS_MS);
	all_have(2);
}

static void test_not_by_itself(void **state)
{
	struct reconcile_config cfg = { .replicas = 3 };
	uint32_t i;

	(void)state;
	make(3, cfg);
	for (i = 0; i < SHARDS; i++)
		c->shard[i].leader = 1;
	node(4, PLACE_ACTIVE);
	run(60000);
	assert_int_equal(held_by(4), 0);
	assert_int_equal(led_by(1), SHARDS);
	/* What a state demands is done all the same. */
	node(2, PLACE_LEAVING);
	run(200000);
	assert_int_equal(held_by(4), SHARDS);
	assert_int_equal(held_by(2), 0);
}

static void test_a_short_break(void **state)
{
	(void)state;
	make(3, usual);
	node(4, PLACE_ACTIVE);
	c->frozen = true;
	run(20000);
	assert_true(held_by(4) > 0);
	c->up &= ~(1ull << 4); /* its standbys would go */
	run(RECONCILE_DOWN_MS - 1000);
	assert_true(held_by(4) > 0);
	run(20000);
	assert_int_equal(held_by(4), 0);
}

/* A node whose disk is full leads nothing and gets nothing, and keeps what it has. */
static void test_a_full_disk(void **state)
{
	(void)state;
	make(3, usual);
	node(4, PLACE_ACTIVE);
	c->unfit = 1ull << 4 | 1ull << 2;
	run(120000);
	assert_int_equal(held_by(4), 0);
	assert_int_equal(held_by(2), SHARDS);
	assert_int_equal(led_by(2), 0);
	c->unfit = 0;
	run(300000);
	assert_in_range(held_by(4), 8, 9);
	assert_in_range(led_by(2), 2, 4);
}

static unsigned foreseen;
static void count(void *arg, const struct place_step *s)
{
	(void)arg;
	(void)s;
	foreseen++;
}

static void test_foresee(void **state)
{
	static struct place_shard places[SHARDS];
	struct place_world w = { .shard = places, .n_shards = SHARDS };
	struct place_plan last;
	unsigned n;
	uint32_t i;

	(void)state;
	make(3, usual);
	node(4, PLACE_ACTIVE);
	node(2, PLACE_LEAVING);
	for (i = 0; i < SHARDS; i++)
		assert_true(reconcile_shard(&places[i], &c->shard[i]));
	reconcile_nodes(&w, &c->t, c->up, 0, 0);
	foreseen = 0;
	n = reconcile_foresee(&w, true, count, NULL, &last);
	assert_int_equal(n, foreseen);
	/* Add, promote, remove of each, and some hand-overs. */
	assert_in_range(foreseen, 3 * SHARDS, 5 * SHARDS);
	assert_int_equal(last.n_stuck, 0);
	assert_int_equal(place_replicas(&w, 2), 0);
	assert_int_equal(place_replicas(&w, 4), SHARDS);
}

static void test_factor(void **state)
{
	(void)state;
	make(1, usual);
	assert_int_equal(reconcile_factor(&c->t, 0), 1);
	node(2, PLACE_ACTIVE);
	assert_int_equal(reconcile_factor(&c->t, 0), 2);
	node(3, PLACE_DRAINING);
	node(4, PLACE_ACTIVE);
	assert_int_equal(reconcile_factor(&c->t, 0), 3);
	assert_int_equal(reconcile_factor(&c->t, 5), 4);
	node(4, PLACE_LEAVING);
	assert_int_equal(reconcile_factor(&c->t, 5), 3);
	c->t.founders = 0x3e;
	node(4, PLACE_ACTIVE);
	node(5, PLACE_ACTIVE);
	assert_int_equal(reconcile_factor(&c->t, 0), 5);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_founders_are_left_alone),
		T(test_only_the_leader_of_the_meta_shard),
		T(test_a_clusters_life),
		T(test_down_to_one),
		T(test_another_disk),
		T(test_a_standby_that_stands_still),
		T(test_who_does_not_answer),
		T(test_not_by_itself),
		T(test_a_short_break),
		T(test_a_full_disk),
		T(test_foresee),
		T(test_factor),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
