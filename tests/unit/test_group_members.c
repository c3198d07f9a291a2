/* Groups whose members change under partitions, crashes and wiped disks, by seed:
 * one to three to five voters and back, replacements on the same node, removed
 * replicas that go on without knowing.  What is checked is group_world's list.
 *
 *   GROUP_SEEDS=500 test_group_members     that many seeds of each kind
 *   GROUP_SEED=17 test_group_members       this one, with its story on stdout */
#include "base/alloc.h"
#include "consensus/raft_impl.h"
#include "tests/lib/group_chaos.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CHAOS_MS 15000
#define HEAL_MS 30000
#define SEEDS 12 /* of each kind, unless GROUP_SEEDS says so */
#define OPS 4

static struct gw w;
static struct group_change change;
static bool asked;
static unsigned done[OPS], unknown, lost, peak;

static uint64_t below(uint64_t n)
{
	return rand_below(&w.sim.rand, n);
}

static unsigned some_node(void)
{
	return 1 + (unsigned)below(w.cfg.nodes);
}

/* ---- changes ---------------------------------------------------------------------- */

static void on_change(struct group_change *c, int status)
{
	asked = false;
	sim_trace(&w.sim, "change %d of node %" PRIu64 ": %d", c->op, c->id,
		  status);
	if (!status) {
		done[c->op]++;
	} else if (status == ERR_UNKNOWN_OUTCOME) {
		unknown++;
	} else {
		lost++;
	}
}

static unsigned voters(void)
{
	unsigned i, n = 0;

	for (i = 0; i < w.conf.n; i++)
		n += w.conf.members[i].voter;
	if (n > peak)
		peak = n;
	return n;
}

/* Any change at all, wanted or not: the group has to refuse what must not be. */
static void some_change(void)
{
	unsigned l = gw_leader(&w), id = some_node(), goal;
	struct group_info info;
	struct err e = { 0 };

	if (!l || asked)
		return;
	group_info(w.n[l].group, &info);
	goal = 1 + 2 * (unsigned)below(3);
	memset(&change, 0, sizeof change);
	change.cb = on_change;
	change.id = id;
	change.to_one = below(3) == 0;
	if (below(4) == 0)
		change.op = (enum group_change_op)below(OPS);
	else if (info.joiners >> id & 1)
		change.op = GROUP_ADD;
	else if (voters() < goal)
		change.op = GROUP_PROMOTE;
	else
		change.op = below(2) ? GROUP_REMOVE : GROUP_DEMOTE;
	if (id == l && change.op >= GROUP_DEMOTE && below(2)) {
		group_transfer(w.n[l].group, some_node());
		return;
	}
	if (!group_change(w.n[l].group, &change, &e)) {
		sim_trace(&w.sim, "leader %u: change %d of node %u", l,
			  change.op, id);
		asked = true;
	}
}

/* A replica that is no member may be wiped and made anew; others never. */
static void some_joiner(void)
{
	unsigned id = some_node();

	if (!gw_is_member(&w, id) && w.n_old < GW_OLD_MEDIA_MAX - 1) {
		sim_trace(&w.sim, "node %u: a new replica", id);
		gw_join(&w, id);
	}
}

/* ---- disasters -------------------------------------------------------------------- */

/* A node that dies takes the struct of its change along: no callback comes. */
static void crash(unsigned node)
{
	if (!w.n[node].alive)
		return;
	if (w.n[node].role == GROUP_LEADER)
		asked = false;
	gw_crash(&w, node, below(3) > 0);
}

static void disaster(void)
{
	unsigned a = some_node(), b = some_node(), l = gw_leader(&w), i, side;

	switch (below(12)) {
	case 0:
	case 1:
		side = (unsigned)below(1u << w.cfg.nodes);
		for (a = 1; a <= w.cfg.nodes; a++)
			for (b = 1; b <= w.cfg.nodes; b++)
				if ((side >> (a - 1) ^ side >> (b - 1)) & 1)
					net_sim_cut(w.net, a, b, true);
		break;
	case 2:
		if (l)
			for (i = 1; i <= w.cfg.nodes; i++)
				if (i != l && below(4)) {
					net_sim_cut(w.net, l, i, true);
					net_sim_cut(w.net, i, l, true);
				}
		break;
	case 3:
		if (a != b)
			net_sim_cut(w.net, a, b, true);
		break;
	case 4:
		crash(a);
		break;
	case 5:
		if (l)
			crash(l);
		break;
	case 6:
		crash(a);
		crash(b);
		break;
	case 7:
		disk_sim_stall(w.n[a].medium, below(300000));
		break;
	default:
		net_sim_heal_all(w.net);
		disk_sim_stall(w.n[a].medium, 0);
		break;
	}
	chaos_restart_some(&w);
}

/* Replicas that were members once know by now that they are none. */
static bool outsiders_know(struct gw *gw)
{
	unsigned i;

	for (i = 1; i <= gw->cfg.nodes; i++) {
		const struct gw_node *n = &gw->n[i];

		if (!n->alive || gw_is_member(gw, i) || group_removed(n->group))
			continue;
		/* One that never knew that it was one asks to join. */
		if (self_is_member(n->group))
			return false;
	}
	return true;
}

static uint64_t chaos(unsigned nodes, unsigned founders, uint64_t seed,
		      bool verbose)
{
	struct gw_config cfg = { .nodes = nodes,
				 .founders = founders,
				 .verbose = verbose };
	uint64_t end, next, hash;

	chaos_config(&cfg, seed);
	asked = false;
	unknown = lost = peak = 0;
	memset(done, 0, sizeof done);
	gw_init(&w, &cfg);
	gw_start_all(&w);
	end = w.sim.now_us + CHAOS_MS * 1000;
	next = w.sim.now_us;
	while (w.sim.now_us < end) {
		if (w.sim.now_us >= next) {
			if (seed % 6) /* else changes alone */
				disaster();
			next += 20000 + below(500000);
		}
		if (below(4) == 0)
			some_change();
		if (below(60) == 0)
			some_joiner();
		chaos_clients(&w, 8, 500);
		gw_run_ms(&w, 1 + below(30));
	}
	chaos_heal(&w);
	chaos_ends_well(&w, 4000);
	if (!gw_run_until(&w, outsiders_know, HEAL_MS))
		gw_fail(&w, "a removed replica does not know it");
	gw_check_logs(&w);
	hash = w.sim.trace_hash;
	printf("  seed %-5" PRIu64 " of %u: %" PRIu64 " entries, %" PRIu64
	       " leaders, %" PRIu64 " crashes, %u+%u+%u+%u changes, %u unknown,"
	       " up to %u voters, %u at the end, %" PRIu64 " installs\n",
	       seed, nodes, w.last, w.stats.leaders, w.stats.crashes,
	       done[GROUP_ADD], done[GROUP_PROMOTE], done[GROUP_DEMOTE],
	       done[GROUP_REMOVE], unknown, peak, voters(),
	       w.stats.installs);
	gw_release(&w);
	return hash;
}

struct kind {
	unsigned nodes, founders;
};

static void run(const void *arg, uint64_t seed, bool verbose)
{
	const struct kind *k = arg;

	chaos(k->nodes, k->founders, seed, verbose);
}

static void seeds(unsigned nodes, unsigned founders)
{
	struct kind k = { nodes, founders };

	chaos_seeds(SEEDS, run, &k);
}

static void test_grown_from_one(void **state)
{
	(void)state;
	seeds(5, 1);
}

static void test_three_of_five(void **state)
{
	(void)state;
	seeds(5, 3);
}

static void test_five_of_seven(void **state)
{
	(void)state;
	seeds(7, 5);
}

static void test_seeds_repeat(void **state)
{
	(void)state;
	assert_int_equal(chaos(5, 3, 1001, false), chaos(5, 3, 1001, false));
	assert_int_not_equal(chaos(5, 3, 1001, false), chaos(5, 3, 1002, false));
}

static const struct CMUnitTest tests[] = {
	cmocka_unit_test(test_grown_from_one),
	cmocka_unit_test(test_three_of_five),
	cmocka_unit_test(test_five_of_seven),
	cmocka_unit_test(test_seeds_repeat),
};

int main(void)
{
	sim_quiet();
	if (getenv("GROUP_ONLY"))
		cmocka_set_test_filter(getenv("GROUP_ONLY"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
