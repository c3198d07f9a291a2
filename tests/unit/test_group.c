/* Groups of one, three and five nodes over simulated disks, network and time. */
#include "base/alloc.h"
#include "base/logf.h"
#include "tests/lib/group_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct gw w;

static void world(unsigned nodes, uint64_t seed)
{
	struct gw_config cfg = { .nodes = nodes,
				 .seed = seed,
				 .net = gw_net_calm,
				 .disk = disk_sim_fast,
				 .verbose = getenv("VERBOSE") != NULL };

	gw_init(&w, &cfg);
	gw_start_all(&w);
}

static void quiet(void *arg, const char *line)
{
	(void)arg;
	(void)line;
}

static uint64_t applied_at(unsigned node)
{
	return w.n[node].applied;
}

/* ---- one node ---- */

static void test_lone_voter_leads_at_once(void **state)
{
	(void)state;
	world(1, 1);
	assert_int_equal(w.n[1].role, GROUP_LEADER);
	assert_int_equal(w.n[1].applied, 0); /* nothing is durable yet */
	assert_int_equal(gw_submit(&w, 1, 5, 100), 0);
	assert_true(gw_run_until(&w, gw_settled, 100));
	assert_int_equal(applied_at(1), 6); /* the configuration is entry 1 */
	gw_read(&w, 1);
	assert_int_equal(w.stats.reads_ok, 1);
	gw_release(&w);
}

static void test_lone_voter_keeps_all_over_restarts(void **state)
{
	uint64_t term = 0;
	unsigned i;

	(void)state;
	world(1, 2);
	for (i = 0; i < 20; i++) {
		assert_true(w.n[1].term > term); /* a new term each time */
		term = w.n[1].term;
		assert_int_equal(gw_submit(&w, 1, 10, 2000), 0);
		assert_true(gw_run_until(&w, gw_settled, 100));
		assert_int_equal(w.last, 1 + 10 * (i + 1));
		/* What is under way may be lost or kept, not what is applied */
		gw_crash(&w, 1, i % 2);
		gw_start(&w, 1);
	}
	assert_true(gw_run_until(&w, gw_settled, 100));
	gw_check_logs(&w);
	gw_release(&w);
}

/* ---- three nodes ---- */

static void test_three_elect_and_replicate(void **state)
{
	unsigned l, i;

	(void)state;
	world(3, 3);
	assert_true(gw_run_until(&w, gw_has_leader, 5000));
	l = gw_leader(&w);
	for (i = 0; i < 50; i++) {
		assert_int_equal(gw_submit(&w, l, 4, 500), 0);
		gw_run_ms(&w, 5);
	}
	assert_true(gw_run_until(&w, gw_settled, 1000));
	assert_int_equal(gw_leader(&w), l);
	assert_true(w.last >= 201);
	for (i = 1; i <= 3; i++)
		assert_int_equal(w.n[i].leader, l);
	gw_check_logs(&w);
	gw_release(&w);
}

static void test_leader_loss(void **state)
{
	unsigned old, l;
	uint64_t last;

	(void)state;
	world(3, 4);
	assert_true(gw_run_until(&w, gw_has_leader, 5000));
	old = gw_leader(&w);
	assert_int_equal(gw_submit(&w, old, 10, 100), 0);
	assert_true(gw_run_until(&w, gw_settled, 1000));
	last = w.last;
	gw_crash(&w, old, false);
	assert_true(gw_run_until(&w, gw_has_leader, 5000));
	l = gw_leader(&w);
	assert_int_not_equal(l, old);
	assert_int_equal(gw_submit(&w, l, 10, 100), 0);
	assert_true(gw_run_until(&w, gw_settled, 1000));
	assert_true(w.last >= last + 10);
	gw_start(&w, old);
	gw_run_ms(&w, 1500);
	assert_true(gw_run_until(&w, gw_settled, 3000));
	assert_int_equal(gw_leader(&w), l); /* nobody is disturbed */
	assert_int_equal(applied_at(old), w.last);
	gw_check_logs(&w);
	gw_release(&w);
}

static const struct CMUnitTest tests[] = {
	cmocka_unit_test(test_lone_voter_leads_at_once),
	cmocka_unit_test(test_lone_voter_keeps_all_over_restarts),
	cmocka_unit_test(test_three_elect_and_replicate),
	cmocka_unit_test(test_leader_loss),
};

int main(void)
{
	if (!getenv("VERBOSE"))
		log_set_sink(quiet, NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
