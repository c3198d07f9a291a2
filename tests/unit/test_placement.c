/* The planner: a few plans by hand, then random clusters that are taken through
 * random trouble to rest.  After every step of every plan the rules of placement.h
 * are checked; at rest, that nothing is left which should and could be better.
 *
 * The clusters come from PLACEMENT_SEED (default 1) on, PLACEMENT_RUNS of them. */
#include "base/alloc.h"
#include "base/rand.h"
#include "consensus/placement.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SHARDS_TRIED 64

struct story {
	struct place_world w;
	struct place_shard shard[SHARDS_TRIED];
	struct rand rand;
	uint64_t seed;
	unsigned steps, stuck; /* carried out; of the last plan */
};

#define CHECK(st, cond, ...)                                                   \
	do {                                                                   \
		if (!(cond)) {                                                 \
			print_error("seed %llu step %u: ",                     \
				    (unsigned long long)(st)->seed,            \
				    (st)->steps);                              \
			print_error(__VA_ARGS__);                              \
			print_error("\n");                                     \
			fail();                                                \
		}                                                              \
	} while (0)

static struct place_replica *at(struct place_shard *s, uint8_t id)
{
	unsigned i;

	for (i = 0; i < s->n; i++)
		if (s->replica[i].node == id)
			return &s->replica[i];
	return NULL;
}

static unsigned n_voters(const struct place_shard *s, const struct place_world *w,
			 bool up_only)
{
	unsigned i, n = 0;

	for (i = 0; i < s->n; i++)
		n += s->replica[i].voter &&
		     (!up_only || w->node[s->replica[i].node].up);
	return n;
}

static bool is_leaving(const struct place_world *w, uint8_t id)
{
	return w->node[id].state == PLACE_LEAVING ||
	       w->node[id].state == PLACE_GONE;
}

/* ---- what a step must obey ------------------------------------------------------ */

static void check_step(struct story *st, const struct place_step *p)
{
	struct place_shard *s = &st->shard[p->shard];
	struct place_replica *r = at(s, p->node);
	const struct place_node *n = &st->w.node[p->node];

	CHECK(st, s->leader && !s->busy, "shard %u: busy or without a leader",
	      p->shard);
	CHECK(st, p->why[0], "shard %u: no reason", p->shard);
	switch (p->op) {
	case PLACE_ADD:
		CHECK(st, !r, "shard %u: node %u twice", p->shard, p->node);
		CHECK(st, n->state == PLACE_ACTIVE && n->up,
		      "shard %u: added on node %u, %s", p->shard, p->node,
		      place_state_name(n->state));
		break;
	case PLACE_PROMOTE:
		CHECK(st, r && !r->voter && r->ready,
		      "shard %u: promoted node %u before its time", p->shard,
		      p->node);
		break;
	case PLACE_REMOVE:
		CHECK(st, r && p->node != s->leader,
		      "shard %u: removed node %u", p->shard, p->node);
		if (r->voter) {
			unsigned v = n_voters(s, &st->w, false) - 1;
			unsigned up = n_voters(s, &st->w, true) - n->up;

			CHECK(st, v >= st->w.factor, "shard %u: %u voters left",
			      p->shard, v);
			CHECK(st, up >= v / 2 + 1, "shard %u: %u of %u up",
			      p->shard, up, v);
		}
		break;
	case PLACE_TRANSFER:
		CHECK(st, r && r->voter && r->ready && n->up &&
		      p->from == s->leader && p->node != p->from &&
		      (n->state == PLACE_ACTIVE || n->state == PLACE_CORDONED ||
		       (n->state == PLACE_DRAINING && is_leaving(&st->w, p->from))),
		      "shard %u: led by node %u, %s", p->shard, p->node,
		      place_state_name(n->state));
		break;
	}
}

static unsigned in_a_move(const struct story *st)
{
	unsigned i, n = 0;

	for (i = 0; i < st->w.n_shards; i++) {
		unsigned v = n_voters(&st->shard[i], &st->w, false);

		n += st->shard[i].leader && v < st->shard[i].n;
	}
	return n;
}

static void check_plan(struct story *st, const struct place_plan *p)
{
	unsigned i, k, adds = 0, transfers = 0;

	for (i = 0; i < p->n; i++) {
		for (k = 0; k < i; k++)
			CHECK(st, p->step[k].shard != p->step[i].shard,
			      "shard %u: two steps at a time", p->step[i].shard);
		adds += p->step[i].op == PLACE_ADD;
		transfers += p->step[i].op == PLACE_TRANSFER;
		check_step(st, &p->step[i]);
	}
	CHECK(st, !adds || in_a_move(st) + adds <= place_usual.moves_max,
	      "%u shards in a move and %u more", in_a_move(st), adds);
	CHECK(st, transfers <= place_usual.transfers_max, "%u hand-overs",
	      transfers);
}

/* ---- what is to be seen at rest --------------------------------------------------- */

static bool same_rack(const struct place_world *w, uint8_t a, uint8_t b)
{
	return a == b || (w->node[a].rack[0] &&
			  strcmp(w->node[a].rack, w->node[b].rack) == 0);
}

static unsigned shares(const struct story *st, const struct place_shard *s,
		       uint8_t id, uint8_t but)
{
	unsigned i, n = 0;

	for (i = 0; i < s->n; i++)
		n += s->replica[i].node != but && s->replica[i].node != id &&
		     !is_leaving(&st->w, s->replica[i].node) &&
		     same_rack(&st->w, s->replica[i].node, id);
	return n;
}

static bool is_place(const struct story *st, struct place_shard *s, uint8_t id)
{
	return st->w.node[id].state == PLACE_ACTIVE && st->w.node[id].up &&
	       !at(s, id);
}

static bool has_place(const struct story *st, struct place_shard *s)
{
	uint8_t id;

	for (id = 1; id < PLACE_NODES; id++)
		if (is_place(st, s, id))
			return true;
	return false;
}

static void check_shard_at_rest(struct story *st, uint32_t i)
{
	struct place_shard *s = &st->shard[i];
	unsigned k, v = n_voters(s, &st->w, false);
	uint8_t id;

	if (!s->leader)
		return;
	CHECK(st, v == s->n, "shard %u rests with a standby", i);
	CHECK(st, v <= st->w.factor || st->stuck,
	      "shard %u rests with %u voters and nobody was told", i, v);
	if (v > st->w.factor) /* too few are up to remove one */
		return;
	if (has_place(st, s))
		CHECK(st, v >= st->w.factor, "shard %u rests with %u voters", i, v);
	for (k = 0; k < s->n; k++) {
		uint8_t a = s->replica[k].node;

		CHECK(st, !is_leaving(&st->w, a) || !has_place(st, s),
		      "shard %u rests on leaving node %u", i, a);
		if (st->w.node[a].state != PLACE_ACTIVE)
			continue;
		for (id = 1; id < PLACE_NODES; id++)
			if (is_place(st, s, id))
				CHECK(st, shares(st, s, id, a) >= shares(st, s, a, 0),
				      "shard %u: node %u shares a rack, node %u "
				      "would not", i, a, id);
	}
}

static void check_leader_at_rest(struct story *st, uint32_t i)
{
	struct place_shard *s = &st->shard[i];
	enum place_state ls = st->w.node[s->leader].state;
	unsigned k;

	if (!s->leader)
		return;
	for (k = 0; k < s->n; k++) {
		uint8_t id = s->replica[k].node;
		enum place_state h = st->w.node[id].state;

		if (id == s->leader || !st->w.node[id].up ||
		    (h != PLACE_ACTIVE && h != PLACE_CORDONED))
			continue;
		CHECK(st, ls == PLACE_ACTIVE || ls == PLACE_CORDONED,
		      "shard %u rests led by node %u, %s", i, s->leader,
		      place_state_name(ls));
		CHECK(st, place_leads(&st->w, s->leader) <
			      place_leads(&st->w, id) + place_usual.leader_slack,
		      "shard %u: node %u leads %u, node %u %u", i, s->leader,
		      place_leads(&st->w, s->leader), id, place_leads(&st->w, id));
	}
}

static void check_loads_at_rest(struct story *st, uint32_t i)
{
	struct place_shard *s = &st->shard[i];
	unsigned k;
	uint8_t id;

	if (!s->leader || n_voters(s, &st->w, false) != st->w.factor)
		return;
	for (k = 0; k < s->n; k++) {
		uint8_t a = s->replica[k].node;

		for (id = 1; id < PLACE_NODES; id++) {
			if (!is_place(st, s, id) ||
			    st->w.node[a].state != PLACE_ACTIVE ||
			    shares(st, s, id, a) > shares(st, s, a, 0))
				continue;
			CHECK(st, place_replicas(&st->w, a) <
				      place_replicas(&st->w, id) +
					      place_usual.replica_slack,
			      "shard %u: node %u has %u replicas, node %u %u", i, a,
			      place_replicas(&st->w, a), id,
			      place_replicas(&st->w, id));
		}
	}
}

/* ---- the stories -------------------------------------------------------------------- */

/* Standbys catch up, leaders that are down are followed by another voter. */
static void time_passes(struct story *st, bool all)
{
	uint32_t i;
	unsigned k;

	for (i = 0; i < st->w.n_shards; i++) {
		struct place_shard *s = &st->shard[i];

		for (k = 0; k < s->n; k++) {
			struct place_replica *r = &s->replica[k];

			if (!st->w.node[r->node].up)
				r->ready = false;
			else if (all || rand_below(&st->rand, 3) == 0)
				r->ready = true;
		}
		s->busy = !all && rand_below(&st->rand, 10) == 0;
		if (s->leader && st->w.node[s->leader].up)
			continue;
		s->leader = 0;
		if (n_voters(s, &st->w, true) <
		    n_voters(s, &st->w, false) / 2 + 1)
			continue;
		k = (unsigned)rand_below(&st->rand, s->n);
		while (!s->replica[k].voter || !st->w.node[s->replica[k].node].up)
			k = (k + 1) % s->n;
		s->leader = s->replica[k].node;
	}
}

/* One plan, carried out in whole or in part; how many steps it had. */
static unsigned round_of(struct story *st, bool all)
{
	struct place_plan p;
	unsigned i;

	time_passes(st, all);
	place_plan(&st->w, &place_usual, &p);
	check_plan(st, &p);
	st->stuck = p.n_stuck;
	for (i = 0; i < p.n; i++) {
		if (!all && rand_below(&st->rand, 4) == 0)
			continue;
		place_apply(&st->w, &p.step[i]);
		st->steps++;
	}
	return p.n;
}

static unsigned nodes_in(const struct story *st, enum place_state state)
{
	unsigned id, n = 0;

	for (id = 1; id < PLACE_NODES; id++)
		n += st->w.node[id].state == state;
	return n;
}

static void label(struct story *st, uint8_t id)
{
	if (rand_below(&st->rand, 3))
		snprintf(st->w.node[id].rack, sizeof st->w.node[id].rack,
			 "rack-%u", (unsigned)rand_below(&st->rand, 4));
}

static void trouble(struct story *st)
{
	uint8_t id = (uint8_t)(1 + rand_below(&st->rand, 12));
	struct place_node *n = &st->w.node[id];

	switch (rand_below(&st->rand, 6)) {
	case 0: /* a new node, or one that comes back empty under a new number */
		if (n->state == PLACE_NONE) {
			n->state = PLACE_ACTIVE;
			n->up = true;
			label(st, id);
		}
		break;
	case 1:
		if (n->state != PLACE_NONE)
			n->up = !n->up;
		break;
	case 2:
		if (n->state != PLACE_NONE && n->state != PLACE_GONE)
			n->state = (enum place_state)(PLACE_ACTIVE +
						      rand_below(&st->rand, 3));
		break;
	case 3:
		if (n->state == PLACE_ACTIVE &&
		    nodes_in(st, PLACE_ACTIVE) > st->w.factor)
			n->state = PLACE_LEAVING;
		break;
	case 4:
		if (n->state == PLACE_ACTIVE && !n->up &&
		    nodes_in(st, PLACE_ACTIVE) > st->w.factor) {
			n->state = PLACE_GONE;
			n->successor = (uint8_t)rand_below(&st->rand, 12);
		}
		break;
	default:
		if (rand_below(&st->rand, 8) == 0)
			st->w.factor = 1 + (unsigned)rand_below(&st->rand, 3) * 2;
	}
}

static void story_init(struct story *st, uint64_t seed)
{
	unsigned nodes, i, k;

	memset(st, 0, sizeof *st);
	st->seed = seed;
	rand_seeded(&st->rand, seed);
	st->w.shard = st->shard;
	st->w.factor = 1 + (unsigned)rand_below(&st->rand, 3) * 2;
	st->w.n_shards = 1 + (uint32_t)rand_below(&st->rand, SHARDS_TRIED);
	nodes = st->w.factor + (unsigned)rand_below(&st->rand, 6);
	for (i = 1; i <= nodes; i++) {
		st->w.node[i].state = PLACE_ACTIVE;
		st->w.node[i].up = true;
		label(st, (uint8_t)i);
	}
	for (i = 0; i < st->w.n_shards; i++) {
		struct place_shard *s = &st->shard[i];

		/* Half of them all on the first nodes, as a cluster that grew. */
		for (k = 0; s->n < st->w.factor; k++) {
			uint8_t id = (uint8_t)(1 + (i % 2 ? rand_below(&st->rand,
								      nodes)
							   : k));
			if (!at(s, id))
				s->replica[s->n++] = (struct place_replica){
					id, true, true };
		}
		s->leader = s->replica[0].node;
	}
}

static void rest(struct story *st)
{
	unsigned rounds = 0;

	while (round_of(st, true)) {
		rounds++;
		CHECK(st, rounds < 60 * st->w.n_shards + 60, "no rest in %u rounds",
		      rounds);
	}
}

static void to_rest(struct story *st)
{
	bool settled = true;
	uint32_t i;

	rest(st);
	for (i = 0; i < st->w.n_shards; i++)
		settled &= st->shard[i].leader != 0 &&
			   st->shard[i].n <= st->w.factor;
	for (i = 0; i < st->w.n_shards; i++) {
		check_shard_at_rest(st, i);
		check_leader_at_rest(st, i);
		if (settled) /* else a move that cannot go on is counted */
			check_loads_at_rest(st, i);
	}
}

static void test_random_clusters_come_to_rest(void **state)
{
	const char *from = getenv("PLACEMENT_SEED"), *runs = getenv("PLACEMENT_RUNS");
	uint64_t seed = from ? strtoull(from, NULL, 10) : 1;
	unsigned n = runs ? (unsigned)strtoul(runs, NULL, 10) : 400, i, k;
	unsigned steps = 0;

	(void)state;
	print_message("placement: seeds %llu to %llu\n", (unsigned long long)seed,
		      (unsigned long long)(seed + n - 1));
	for (i = 0; i < n; i++) {
		struct story *st = xcalloc(1, sizeof *st);

		story_init(st, seed + i);
		to_rest(st);
		for (k = 0; k < 60; k++) {
			trouble(st);
			round_of(st, false);
		}
		to_rest(st);
		/* All who can come back do. */
		for (k = 1; k < PLACE_NODES; k++)
			if (st->w.node[k].state != PLACE_GONE)
				st->w.node[k].up = st->w.node[k].state != PLACE_NONE;
		to_rest(st);
		steps += st->steps;
		free(st);
	}
	print_message("placement: %u steps\n", steps);
}

/* ---- by hand -------------------------------------------------------------------------- */

static void three_nodes(struct story *st, uint32_t shards)
{
	uint32_t i;
	uint8_t k;

	memset(st, 0, sizeof *st);
	st->w.shard = st->shard;
	st->w.factor = 3;
	st->w.n_shards = shards;
	for (k = 1; k <= 3; k++)
		st->w.node[k] = (struct place_node){ .state = PLACE_ACTIVE,
						     .up = true };
	for (i = 0; i < shards; i++) {
		for (k = 1; k <= 3; k++)
			st->shard[i].replica[st->shard[i].n++] =
				(struct place_replica){ k, true, true };
		st->shard[i].leader = (uint8_t)(1 + i % 3);
	}
}

static void test_a_cluster_at_rest_is_left_alone(void **state)
{
	struct story st;
	struct place_plan p;

	(void)state;
	three_nodes(&st, 16); /* leads 6, 5, 5 */
	place_plan(&st.w, &place_usual, &p);
	assert_int_equal(p.n, 0);
	assert_int_equal(p.n_stuck, 0);
}

static void test_leaders_leave_a_draining_node_and_stay_away(void **state)
{
	struct story st;
	struct place_plan p;

	(void)state;
	three_nodes(&st, 16);
	st.w.node[2].state = PLACE_DRAINING;
	place_plan(&st.w, &place_usual, &p);
	assert_int_equal(p.n, 4); /* of 5: transfers_max */
	assert_int_equal(p.step[0].op, PLACE_TRANSFER);
	assert_int_equal(p.step[0].from, 2);
	assert_string_equal(p.step[0].why, "node 2 is draining and leads it");
	rest(&st);
	assert_int_equal(place_leads(&st.w, 2), 0);
	assert_int_equal(place_leads(&st.w, 1), 8);
	assert_int_equal(place_replicas(&st.w, 2), 16);
	/* Back: a third each again, as far as the slack goes. */
	st.w.node[2].state = PLACE_ACTIVE;
	rest(&st);
	assert_true(place_leads(&st.w, 2) >= 5);
}

static void test_a_replacement_comes_before_the_removal(void **state)
{
	static const enum place_op want[] = { PLACE_TRANSFER, PLACE_ADD,
					      PLACE_PROMOTE, PLACE_REMOVE };
	struct story st;
	struct place_plan p;
	unsigned i;

	(void)state;
	three_nodes(&st, 1);
	st.w.node[1].state = PLACE_LEAVING;
	st.w.node[1].successor = 9;
	st.w.node[8] = (struct place_node){ .state = PLACE_ACTIVE, .up = true };
	st.w.node[9] = (struct place_node){ .state = PLACE_ACTIVE, .up = true };
	for (i = 0; i < 4; i++) {
		time_passes(&st, true);
		place_plan(&st.w, &place_usual, &p);
		assert_int_equal(p.n, 1);
		assert_int_equal(p.step[0].op, want[i]);
		if (want[i] == PLACE_ADD)
			assert_int_equal(p.step[0].node, 9);
		place_apply(&st.w, &p.step[0]);
	}
	assert_int_equal(p.step[0].node, 1);
	place_plan(&st.w, &place_usual, &p);
	assert_int_equal(p.n, 0);
}

static void test_who_has_nowhere_to_go_is_told(void **state)
{
	struct story st;
	struct place_plan p;

	(void)state;
	three_nodes(&st, 12);
	st.w.node[3].state = PLACE_LEAVING;
	rest(&st);
	place_plan(&st.w, &place_usual, &p);
	assert_int_equal(p.n, 0);
	assert_int_equal(p.n_stuck, 12);
	assert_string_equal(p.stuck[0].why, "its replica on node 3, which is "
			    "leaving, has nowhere to go");
	assert_int_equal(place_leads(&st.w, 3), 0);
}

static void test_racks_come_before_loads(void **state)
{
	struct story st;
	uint32_t i;
	uint8_t k;

	(void)state;
	three_nodes(&st, 8);
	for (k = 1; k <= 3; k++)
		snprintf(st.w.node[k].rack, sizeof st.w.node[k].rack, "%s",
			 k < 3 ? "north" : "south");
	st.w.node[4] = (struct place_node){ .state = PLACE_ACTIVE, .up = true,
					    .rack = "west" };
	to_rest(&st);
	/* One of each shard must be in the only rack that is left. */
	assert_int_equal(place_replicas(&st.w, 4), 8);
	assert_int_equal(place_replicas(&st.w, 1), 4);
	for (i = 0; i < 8; i++)
		assert_int_equal(st.shard[i].n, 3);
}

static void test_one_grows_to_three_and_back(void **state)
{
	struct story st;
	uint32_t i;

	(void)state;
	memset(&st, 0, sizeof st);
	st.w.shard = st.shard;
	st.w.factor = 1;
	st.w.n_shards = 16;
	st.w.node[1] = (struct place_node){ .state = PLACE_ACTIVE, .up = true };
	for (i = 0; i < 16; i++) {
		st.shard[i].replica[0] = (struct place_replica){ 1, true, true };
		st.shard[i].n = 1;
		st.shard[i].leader = 1;
	}
	to_rest(&st);
	assert_int_equal(st.steps, 0);
	st.w.factor = 3;
	st.w.node[2] = st.w.node[3] = st.w.node[1];
	to_rest(&st);
	assert_int_equal(place_replicas(&st.w, 3), 16);
	assert_true(place_leads(&st.w, 1) <= 6);
	st.w.factor = 1;
	st.w.node[2].state = st.w.node[3].state = PLACE_LEAVING;
	to_rest(&st);
	assert_int_equal(place_replicas(&st.w, 1), 16);
	assert_int_equal(place_leads(&st.w, 1), 16);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_cluster_at_rest_is_left_alone),
		cmocka_unit_test(test_leaders_leave_a_draining_node_and_stay_away),
		cmocka_unit_test(test_a_replacement_comes_before_the_removal),
		cmocka_unit_test(test_who_has_nowhere_to_go_is_told),
		cmocka_unit_test(test_racks_come_before_loads),
		cmocka_unit_test(test_one_grows_to_three_and_back),
		cmocka_unit_test(test_random_clusters_come_to_rest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
