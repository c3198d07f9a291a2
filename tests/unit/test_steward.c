/* The loop of reconcile.h on real nodes: what an operator sets in a row comes true. */
#include "base/alloc.h"
#include "base/logf.h"
#include "consensus/members.h"
#include "consensus/placing.h"
#include "consensus/steward.h"
#include "tests/lib/world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define S 1000000ull
enum { SHARDS = 6 };

static struct world *w;

static void no_log(void *arg, const char *line)
{
	(void)arg;
	(void)line;
}

static int setup(void **state)
{
	struct world_config cfg = { .seed = 11, .nodes = 3,
				    .net = { .delay_min_us = 200,
					     .delay_max_us = 2000 } };
	unsigned i;

	(void)state;
	log_set_sink(no_log, NULL);
	world_config_small(&cfg);
	cfg.node.shards = SHARDS;
	cfg.node.election_ms = 300;
	cfg.node.heartbeat_ms = 60;
	cfg.node.placement.automatic = true;
	w = xcalloc(1, sizeof *w);
	world_init(w, &cfg);
	for (i = 1; i <= 3; i++)
		assert_true(world_start(w, i));
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

static bool until(bool (*cond)(void), uint64_t us)
{
	uint64_t end = w->sim.now_us + us;

	while (!cond() && w->sim.now_us < end && !w->failure[0])
		if (!world_step(w))
			break;
	if (w->failure[0])
		fail_msg("%s", w->failure);
	return cond();
}

static bool never(void)
{
	return false;
}

static unsigned led_by(unsigned id)
{
	struct node_info ni;

	if (!w->nodes[id].node)
		return 0;
	node_info(w->nodes[id].node, &ni);
	return ni.led;
}

static bool spread(void)
{
	return led_by(1) == 2 && led_by(2) == 2 && led_by(3) == 2;
}

static bool entered(void)
{
	unsigned i, k;

	for (i = 1; i <= 3; i++)
		for (k = 1; k <= 3; k++)
			if (!member_has_disk(
				    &node_members(w->nodes[i].node)->m[k]))
				return false;
	return spread();
}

static bool two_leads_nothing(void)
{
	return led_by(1) + led_by(3) == SHARDS && led_by(2) == 0;
}

static struct {
	bool done;
	int status;
} told;

static void on_set(struct node_call *c, int status, const struct result *r)
{
	(void)c;
	told.done = true;
	told.status = status ? status : r->status;
}

static bool answered(void)
{
	return told.done;
}

static void set_state(unsigned id, enum place_state s)
{
	static struct node_call call;
	struct member m = node_members(w->nodes[1].node)->m[id];
	struct cmd c;

	m.state = s;
	c = cmd_node_of(NODE_SET, &m);
	call = (struct node_call){ .cb = on_set };
	told.done = false;
	node_propose(w->nodes[1].node, 0, &c, &call);
	world_poke(w, 1);
	assert_true(until(answered, 10 * S));
	assert_int_equal(told.status, 0);
}

static bool seen_active(void)
{
	unsigned i;

	for (i = 1; i <= 3; i++)
		if (node_is_kept(w->nodes[i].node))
			return false;
	return true;
}

static void test_drain(void **state)
{
	(void)state;
	assert_true(until(entered, 60 * S));
	set_state(2, PLACE_DRAINING);
	assert_true(until(two_leads_nothing, 30 * S));
	/* It stays so, and the other two have as many. */
	assert_false(until(never, 30 * S));
	assert_true(two_leads_nothing());
	assert_int_equal(led_by(1), 3);
	set_state(2, PLACE_ACTIVE);
	assert_true(until(seen_active, 10 * S));
	assert_true(until(spread, 30 * S));
}

/* The leader of the meta shard itself, and the loop goes on elsewhere. */
static bool one_leads_nothing(void)
{
	return led_by(2) + led_by(3) == SHARDS && led_by(1) == 0;
}

static void test_drain_of_the_meta_leader(void **state)
{
	(void)state;
	assert_true(until(entered, 60 * S));
	set_state(1, PLACE_DRAINING);
	assert_true(until(one_leads_nothing, 30 * S));
	world_crash(w, 3, WORLD_POWER);
	/* No majority is lost, and rather the drained one than nobody. */
	assert_false(until(never, 20 * S));
	assert_int_equal(led_by(1) + led_by(2), SHARDS);
	assert_true(world_start(w, 3));
	assert_true(until(one_leads_nothing, 60 * S));
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_drain),
		T(test_drain_of_the_meta_leader),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
