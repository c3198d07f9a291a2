/* Groups of one, three and five nodes over simulated disks, network and time. */
#include "base/alloc.h"
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

/* A process that ends closes its links: nobody waits for an election timeout.  Two
 * that ask at the same time may have to ask again. */
static void test_a_dead_leader_is_replaced_soon(void **state)
{
	unsigned seed, soon = 0;

	(void)state;
	for (seed = 100; seed < 120; seed++) {
		world(3, seed);
		assert_true(gw_run_until(&w, gw_has_leader, 5000));
		gw_run_ms(&w, 500);
		gw_crash(&w, gw_leader(&w), false);
		soon += gw_run_until(&w, gw_has_leader, 450);
		assert_true(gw_run_until(&w, gw_has_leader, 5000));
		gw_release(&w);
	}
	assert_true(soon >= 16);
}

/* Submits for so long; only what the leader takes. */
static void load(unsigned ms)
{
	while (ms--) {
		unsigned l = gw_leader(&w);

		if (l)
			gw_submit(&w, l, 2, 1000);
		gw_run_ms(&w, 1);
	}
}

static void cut_off(unsigned node, bool cut)
{
	unsigned b;

	for (b = 1; b <= w.cfg.nodes; b++) {
		if (b == node)
			continue;
		net_sim_cut(w.net, node, b, cut);
		net_sim_cut(w.net, b, node, cut);
	}
}

static void settle(void)
{
	assert_true(gw_run_until(&w, gw_has_leader, 5000));
	while (gw_submit(&w, gw_leader(&w), 1, 1))
		gw_run_ms(&w, 5);
	assert_true(gw_run_until(&w, gw_settled, 5000));
	gw_check_logs(&w);
}

/* What a leader takes while it is cut off is not committed, it steps down, and on
 * its return all have the log of its successor. */
static void test_leader_cut_off(void **state)
{
	unsigned old;
	uint64_t ok, last;

	(void)state;
	world(3, 5);
	assert_true(gw_run_until(&w, gw_has_leader, 5000));
	load(50);
	old = gw_leader(&w);
	cut_off(old, true);
	gw_run_ms(&w, 1);
	last = w.last;
	assert_int_equal(gw_submit(&w, old, 20, 100), 0);
	ok = w.stats.reads_ok;
	gw_read(&w, old);
	gw_run_ms(&w, 900);
	assert_int_equal(w.stats.reads_ok, ok);
	gw_run_ms(&w, 4000);
	assert_int_not_equal(w.n[old].role, GROUP_LEADER);
	assert_int_equal(w.stats.reads_ok, ok);
	assert_int_equal(w.stats.reads_failed, 1);
	assert_int_not_equal(gw_leader(&w), old);
	load(50);
	assert_true(w.last > last);
	cut_off(old, false);
	gw_run_ms(&w, 3000);
	settle();
	gw_release(&w);
}

/* One direction is enough: a leader that hears nobody leads nobody. */
static void test_leader_is_deaf(void **state)
{
	unsigned old, b;

	(void)state;
	world(3, 6);
	assert_true(gw_run_until(&w, gw_has_leader, 5000));
	old = gw_leader(&w);
	for (b = 1; b <= 3; b++)
		if (b != old)
			net_sim_cut(w.net, b, old, true);
	gw_run_ms(&w, 6000);
	assert_int_not_equal(gw_leader(&w), old);
	load(50);
	net_sim_heal_all(w.net);
	gw_run_ms(&w, 3000);
	settle();
	gw_release(&w);
}

/* Leadership goes where it is told, without an election timeout. */
static void test_transfer(void **state)
{
	unsigned round, i;

	(void)state;
	world(3, 7);
	assert_true(gw_run_until(&w, gw_has_leader, 5000));
	for (round = 0; round < 6; round++) {
		unsigned from = gw_leader(&w), to = from % 3 + 1;

		load(30);
		assert_int_equal(group_transfer(w.n[from].group, to), 0);
		for (i = 0; i < 100 && gw_leader(&w) != to; i++)
			gw_run_ms(&w, 1);
		assert_int_equal(gw_leader(&w), to);
	}
	settle();
	gw_release(&w);
}

/* A follower that was away gets from the journal what memory holds no more. */
static void test_lagging_follower(void **state)
{
	struct gw_config cfg = { .nodes = 3,
				 .seed = 8,
				 .cache_bytes = 20000,
				 .net = gw_net_calm,
				 .disk = disk_sim_fast };
	unsigned away;
	uint64_t had;

	(void)state;
	gw_init(&w, &cfg);
	gw_start_all(&w);
	assert_true(gw_run_until(&w, gw_has_leader, 5000));
	away = gw_leader(&w) % 3 + 1;
	load(20);
	gw_crash(&w, away, true);
	load(1500);
	had = w.last;
	assert_true(had > 2000);
	gw_start(&w, away);
	gw_run_ms(&w, 2000);
	assert_true(applied_at(away) >= had);
	settle();
	gw_release(&w);
}

/* A slow disk at one follower slows nobody; at the leader the others commit. */
static void test_slow_disks(void **state)
{
	unsigned l, f;
	uint64_t last;

	(void)state;
	world(3, 9);
	assert_true(gw_run_until(&w, gw_has_leader, 5000));
	l = gw_leader(&w);
	f = l % 3 + 1;
	disk_sim_stall(w.n[f].medium, 400000);
	last = w.last;
	load(200);
	assert_true(w.last >= last + 350);
	disk_sim_stall(w.n[f].medium, 0);
	gw_run_ms(&w, 1000);
	disk_sim_stall(w.n[l].medium, 400000);
	last = w.last;
	gw_submit(&w, l, 1, 10);
	gw_run_ms(&w, 200);
	/* Committed, and known to the followers, but the leader applies
	 * only what its own journal has. */
	assert_int_equal(applied_at(f), last + 1);
	assert_int_equal(applied_at(l), last);
	gw_run_ms(&w, 400);
	assert_int_equal(applied_at(l), last + 1);
	settle();
	gw_release(&w);
}

/* All lose power at once, again and again: what was answered is there. */
static void test_all_lose_power(void **state)
{
	unsigned round, i;

	(void)state;
	world(3, 10);
	for (round = 0; round < 10; round++) {
		uint64_t told;

		assert_true(gw_run_until(&w, gw_has_leader, 5000));
		load(20 + round);
		told = w.told;
		for (i = 1; i <= 3; i++)
			gw_crash(&w, i, true);
		for (i = 1; i <= 3; i++)
			gw_start(&w, i);
		settle();
		assert_true(applied_at(gw_leader(&w)) > told);
	}
	gw_release(&w);
}

/* ---- five nodes ---- */

static void test_five_outlive_two(void **state)
{
	unsigned i, dead = 0;
	uint64_t last;

	(void)state;
	world(5, 11);
	for (i = 0; i < 2; i++) {
		assert_true(gw_run_until(&w, gw_has_leader, 5000));
		load(50);
		gw_crash(&w, gw_leader(&w), i);
	}
	assert_true(gw_run_until(&w, gw_has_leader, 8000));
	last = w.last;
	load(50);
	assert_true(w.last > last + 50);
	assert_true(gw_run_until(&w, gw_settled, 2000));
	/* A third is too many: nothing is committed any more. */
	gw_crash(&w, gw_leader(&w), false);
	last = w.last;
	gw_run_ms(&w, 10000);
	load(50);
	assert_int_equal(w.last, last);
	assert_int_equal(gw_leader(&w), 0);
	for (i = 1; i <= 5; i++) {
		if (w.n[i].alive)
			continue;
		dead++;
		gw_start(&w, i);
	}
	assert_int_equal(dead, 3);
	settle();
	gw_release(&w);
}

static const struct CMUnitTest tests[] = {
	cmocka_unit_test(test_lone_voter_leads_at_once),
	cmocka_unit_test(test_lone_voter_keeps_all_over_restarts),
	cmocka_unit_test(test_three_elect_and_replicate),
	cmocka_unit_test(test_leader_loss),
	cmocka_unit_test(test_a_dead_leader_is_replaced_soon),
	cmocka_unit_test(test_leader_cut_off),
	cmocka_unit_test(test_leader_is_deaf),
	cmocka_unit_test(test_transfer),
	cmocka_unit_test(test_lagging_follower),
	cmocka_unit_test(test_slow_disks),
	cmocka_unit_test(test_all_lose_power),
	cmocka_unit_test(test_five_outlive_two),
};

int main(void)
{
	sim_quiet();
	if (getenv("GROUP_ONLY"))
		cmocka_set_test_filter(getenv("GROUP_ONLY"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
