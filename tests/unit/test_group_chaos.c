/* Groups under partitions, crashes, slow disks and transfers, by seed.
 *
 *   GROUP_SEEDS=500 test_group_chaos     that many seeds of each kind
 *   GROUP_SEED=17 test_group_chaos       this one, with its story on stdout */
#include "base/alloc.h"
#include "tests/lib/group_chaos.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CHAOS_MS 12000
#define SEEDS 12 /* of each kind, unless GROUP_SEEDS says so */

static struct gw w;

static uint64_t below(uint64_t n)
{
	return rand_below(&w.sim.rand, n);
}

static unsigned some_node(void)
{
	return 1 + (unsigned)below(w.cfg.nodes);
}

static void cut_both(unsigned a, unsigned b)
{
	net_sim_cut(w.net, a, b, true);
	net_sim_cut(w.net, b, a, true);
}

static void isolate(unsigned node)
{
	unsigned b;

	sim_trace(&w.sim, "node %u is cut off", node);
	for (b = 1; b <= w.cfg.nodes; b++)
		if (b != node)
			cut_both(node, b);
}

static void split(void)
{
	unsigned a, b, side = (unsigned)below(1u << w.cfg.nodes);

	sim_trace(&w.sim, "split %x", side);
	for (a = 1; a <= w.cfg.nodes; a++)
		for (b = a + 1; b <= w.cfg.nodes; b++)
			if ((side >> (a - 1) ^ side >> (b - 1)) & 1)
				cut_both(a, b);
}

static void crash(unsigned node)
{
	if (w.n[node].alive)
		gw_crash(&w, node, below(3) > 0);
}

static void transfer(void)
{
	unsigned l = gw_leader(&w), to = some_node();

	if (l && to != l && !group_transfer(w.n[l].group, to))
		sim_trace(&w.sim, "transfer %u to %u", l, to);
}

static void disaster(void)
{
	unsigned a = some_node(), b = some_node(), l = gw_leader(&w);

	switch (below(14)) {
	case 0:
		if (l)
			isolate(l);
		break;
	case 1:
		isolate(a);
		break;
	case 2:
		split();
		break;
	case 3:
	case 4:
		if (a != b)
			net_sim_cut(w.net, a, b, true);
		break;
	case 5:
	case 6:
		crash(a);
		break;
	case 7:
		if (l)
			crash(l);
		break;
	case 8:
		crash(a);
		crash(b);
		break;
	case 9:
		if (below(8) == 0) /* all at once */
			for (a = 1; a <= w.cfg.nodes; a++)
				crash(a);
		break;
	case 10:
		disk_sim_stall(w.n[a].medium, below(300000));
		break;
	case 11:
		transfer();
		break;
	default:
		net_sim_heal_all(w.net);
		disk_sim_stall(w.n[a].medium, 0);
		break;
	}
	chaos_restart_some(&w);
}

static uint64_t chaos(unsigned nodes, uint64_t seed, bool verbose)
{
	struct gw_config cfg = { .nodes = nodes, .verbose = verbose };
	uint64_t end, next, hash;

	chaos_config(&cfg, seed);
	if (seed % 10 == 3) {
		/* The journal is full now and then.  It holds twice what may
		 * be uncommitted: full of that alone, it would never empty. */
		cfg.ring_bytes = 4u << 20;
		cfg.checkpoint_ms = 2500;
	}
	gw_init(&w, &cfg);
	gw_start_all(&w);
	end = w.sim.now_us + CHAOS_MS * 1000;
	next = w.sim.now_us;
	while (w.sim.now_us < end) {
		if (w.sim.now_us >= next) {
			disaster();
			next += 20000 + below(400000);
		}
		chaos_clients(&w, 12, 3000);
		gw_run_ms(&w, 1 + below(15));
	}
	chaos_heal(&w);
	chaos_ends_well(&w, 2500);
	gw_check_logs(&w);
	hash = w.sim.trace_hash;
	printf("  seed %-5" PRIu64 " nodes %u: %" PRIu64 " entries, %" PRIu64
	       " leaders, %" PRIu64 " crashes, %" PRIu64 "+%" PRIu64
	       " reads, %" PRIu64 " refused\n",
	       seed, nodes, w.last, w.stats.leaders, w.stats.crashes,
	       w.stats.reads_ok, w.stats.reads_failed, w.stats.refused);
	gw_release(&w);
	return hash;
}

static void run(const void *nodes, uint64_t seed, bool verbose)
{
	chaos(*(const unsigned *)nodes, seed, verbose);
}

static void seeds(unsigned nodes)
{
	chaos_seeds(SEEDS, run, &nodes);
}

static void test_one(void **state)
{
	(void)state;
	seeds(1);
}

static void test_three(void **state)
{
	(void)state;
	seeds(3);
}

static void test_five(void **state)
{
	(void)state;
	seeds(5);
}

/* A finding is worth nothing if its seed does not repeat it. */
static void test_seeds_repeat(void **state)
{
	(void)state;
	assert_int_equal(chaos(3, 1001, false), chaos(3, 1001, false));
	assert_int_not_equal(chaos(3, 1001, false), chaos(3, 1002, false));
}

static const struct CMUnitTest tests[] = {
	cmocka_unit_test(test_one),
	cmocka_unit_test(test_three),
	cmocka_unit_test(test_five),
	cmocka_unit_test(test_seeds_repeat),
};

int main(void)
{
	sim_quiet();
	if (getenv("GROUP_ONLY"))
		cmocka_set_test_filter(getenv("GROUP_ONLY"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
