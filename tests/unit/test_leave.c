/* The first half of an orderly stop, in simulated time: three nodes, the leaderships
 * of one go to the others while everything goes on. */
#include "base/alloc.h"
#include "consensus/node_impl.h"
#include "tests/lib/world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { NODES = 3, SHARDS = 60, SECOND = 1000000 };

static struct story {
	struct world w;
	uint64_t seed;
	unsigned most;  /* transfers that were under way at one time */
	unsigned led_at_stop; /* by node 1 when it began to stop taking sends */
	uint64_t stop_us;     /* when that was; 0: not yet */
	unsigned downs;
} *t;

static unsigned leads(const struct node *n, unsigned *moving)
{
	unsigned led = 0;
	uint32_t i;

	*moving = 0;
	for (i = 0; i < n->n_shards; i++) {
		struct group_info gi;

		if (n->shards[i].role != GROUP_LEADER)
			continue;
		led++;
		group_info(n->shards[i].group, &gi);
		*moving += gi.transferring;
	}
	return led;
}

static void turned(void *arg, unsigned id)
{
	const struct node *n = t->w.nodes[id].node;
	unsigned moving, led;

	(void)arg;
	if (id != 1 || !n->going)
		return;
	led = leads(n, &moving);
	if (!n->stopping && moving > t->most)
		t->most = moving;
	if (n->stopping && !t->stop_us) {
		t->stop_us = t->w.sim.now_us;
		t->led_at_stop = led;
	}
}

static void down(void *arg, unsigned id)
{
	(void)arg;
	(void)id;
	t->downs++;
}

static void run(uint64_t us)
{
	uint64_t until = t->w.sim.now_us + us;

	while (t->w.sim.n && t->w.sim.heap[0].at_us <= until)
		if (!world_step(&t->w))
			break;
	if (t->w.failure[0])
		fail_msg("seed %llu: %s", (unsigned long long)t->seed, t->w.failure);
}

/* Every shard is led by somebody whom all nodes that are up know. */
static bool settled(void)
{
	uint32_t s;
	unsigned i;

	for (s = 0; s < SHARDS; s++)
		for (i = 1; i <= NODES; i++)
			if (t->w.nodes[i].node &&
			    !t->w.nodes[i].node->shards[s].leader)
				return false;
	return true;
}

static void begin(uint64_t seed)
{
	struct world_config cfg = { .seed = seed, .nodes = NODES };
	struct node_config *n = &cfg.node;
	unsigned i, moving;

	cfg.net.delay_min_us = 200;
	cfg.net.delay_max_us = 3000;
	world_config_small(&cfg);
	n->shards = SHARDS;
	n->election_ms = 400;
	n->heartbeat_ms = 80;
	n->journal.max_bytes = 16u << 20;
	n->level.refuse = 98;
	t = xcalloc(1, sizeof *t);
	t->seed = seed;
	world_init(&t->w, &cfg);
	t->w.turned = turned;
	t->w.down = down;
	for (i = 1; i <= NODES; i++)
		assert_true(world_start(&t->w, i));
	/* Long enough for every shard to go home, so that node 1 leads a third. */
	for (i = 0; i < 30 && (!settled() || leads(t->w.nodes[1].node, &moving) !=
						     SHARDS / NODES); i++)
		run(SECOND);
	assert_true(settled());
	assert_int_equal(leads(t->w.nodes[1].node, &moving), SHARDS / NODES);
}

static void end(void)
{
	world_release(&t->w);
	free(t);
}

static void all_is_handed_over_before_sends_are_refused(void **state)
{
	uint64_t seed, from;
	unsigned moving;

	(void)state;
	for (seed = 1; seed <= 20; seed++) {
		begin(seed);
		from = t->w.sim.now_us;
		world_stop(&t->w, 1);
		run(10 * SECOND);
		print_message("seed %llu: handed over in %llu ms, %u at once\n",
			      (unsigned long long)seed,
			      (unsigned long long)(t->stop_us - from) / 1000, t->most);
		assert_int_equal(t->downs, 1);
		assert_true(t->stop_us > from && t->stop_us - from < SECOND);
		assert_int_equal(t->led_at_stop, 0);
		assert_in_range(t->most, 1, 8);
		/* Nothing was given back, and nothing went on without a leader. */
		assert_int_equal(leads(t->w.nodes[2].node, &moving) +
				 leads(t->w.nodes[3].node, &moving), SHARDS);
		end();
	}
}

/* Two of three stop: who is left cannot take anything, and nobody waits for it. */
static void a_node_without_heirs_waits_for_nobody(void **state)
{
	uint64_t from;

	(void)state;
	begin(7);
	world_crash(&t->w, 2, WORLD_KILL);
	world_crash(&t->w, 3, WORLD_KILL);
	run(5 * SECOND); /* until the links are known to be down */
	from = t->w.sim.now_us;
	world_stop(&t->w, 1);
	run(SECOND);
	assert_true(t->stop_us && t->stop_us - from < SECOND / 10);
	end();
}

/* All at once, as a service manager does it. */
static void a_cluster_that_stops_does_not_wait_for_itself(void **state)
{
	uint64_t from;
	unsigned i;

	(void)state;
	begin(11);
	from = t->w.sim.now_us;
	for (i = 1; i <= NODES; i++)
		world_stop(&t->w, i);
	run(SECOND);
	assert_true(t->stop_us && t->stop_us - from < SECOND);
	run(20 * SECOND);
	assert_int_equal(t->downs, NODES);
	end();
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_is_handed_over_before_sends_are_refused),
		cmocka_unit_test(a_node_without_heirs_waits_for_nobody),
		cmocka_unit_test(a_cluster_that_stops_does_not_wait_for_itself),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
