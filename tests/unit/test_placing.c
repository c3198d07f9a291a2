/* What nodes say of their replicas, gathered on one of them. */
#include "consensus/placing.h"
#include "base/alloc.h"
#include "base/logf.h"
#include "tests/lib/world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define S 1000000ull
enum { SHARDS = 6 };

static struct world *w;
static unsigned looked;

static void no_log(void *arg, const char *line)
{
	(void)arg;
	(void)line;
}

static int setup(void **state)
{
	struct world_config cfg = { .seed = 7, .nodes = 3,
				    .net = { .delay_min_us = 200,
					     .delay_max_us = 2000 } };
	unsigned i;

	(void)state;
	log_set_sink(no_log, NULL);
	world_config_small(&cfg);
	cfg.node.shards = SHARDS;
	cfg.node.election_ms = 300;
	cfg.node.heartbeat_ms = 60;
	w = xcalloc(1, sizeof *w);
	world_init(w, &cfg);
	for (i = 1; i <= 3; i++)
		assert_true(world_start(w, i));
	looked = 0;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	world_release(w);
	free(w);
	w = NULL;
	return 0;
}

static void on_look(struct node_look *l)
{
	(void)l;
	looked++;
}

static void run(uint64_t us)
{
	uint64_t end = w->sim.now_us + us;

	while (w->sim.now_us < end && !w->failure[0] && world_step(w))
		;
	if (w->failure[0])
		fail_msg("%s", w->failure);
}

static void test_all_shards_are_seen(void **state)
{
	struct node_look l[3] = { { .cb = on_look }, { .cb = on_look },
				  { .cb = on_look } };
	struct node *n = w->nodes[2].node;
	unsigned leads = 0, k;
	uint32_t i;

	(void)state;
	run(20 * S);
	node_look(n, &l[0]);
	node_look(n, &l[1]); /* the same look answers both */
	node_look(n, &l[2]);
	node_look_cancel(n, &l[2]);
	assert_int_equal(looked, 0);
	world_poke(w, 2);
	run(2 * S);
	assert_int_equal(looked, 2);
	assert_int_equal(node_reach(n), 0xe);
	for (i = 0; i < SHARDS; i++) {
		const struct shard_picture *p = node_picture(n, i);

		assert_true(p->known && !p->busy);
		assert_int_equal(p->n, 3);
		leads += p->leader == 1;
		for (k = 0; k < 3; k++) {
			assert_true(p->member[k].voter && p->member[k].ready);
			assert_false(node_lacks(n, p->member[k].id, i));
		}
	}
	assert_int_equal(leads, SHARDS / 3);
}

static void test_who_is_silent(void **state)
{
	struct node_look l = { .cb = on_look };
	struct node *n = w->nodes[2].node;
	unsigned k, ready = 0;
	uint32_t i;

	(void)state;
	run(20 * S);
	world_crash(w, 3, WORLD_POWER);
	node_look(n, &l); /* before this node has heard of it */
	world_poke(w, 2);
	run(10 * S);
	assert_int_equal(looked, 1);
	node_look(n, &l);
	world_poke(w, 2);
	run(2 * S);
	assert_int_equal(looked, 2);
	assert_int_equal(node_reach(n), 6);
	for (i = 0; i < SHARDS; i++) {
		const struct shard_picture *p = node_picture(n, i);

		assert_true(p->known && p->leader != 3);
		/* It said nothing, so nothing is concluded. */
		assert_false(node_lacks(n, 3, i));
		for (k = 0; k < p->n; k++)
			ready += p->member[k].ready;
	}
	assert_int_equal(ready, 2 * SHARDS);
}

/* A look that is under way when the node ends is forgotten with it. */
static void test_the_node_ends(void **state)
{
	struct node_look l = { .cb = on_look };

	(void)state;
	run(5 * S);
	node_look(w->nodes[1].node, &l);
	world_crash(w, 1, WORLD_KILL);
	run(5 * S);
	assert_int_equal(looked, 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_all_shards_are_seen),
		T(test_who_is_silent),
		T(test_the_node_ends),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
