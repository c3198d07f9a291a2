/* Disk levels: the numbers, then stories of clusters whose disks fill up while
 * messages are sent, in simulated time. */
#include "base/alloc.h"
#include "base/bytes.h"
#include "consensus/level.h"
#include "consensus/node_impl.h"
#include "tests/lib/world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- numbers ---------------------------------------------------------------------- */

#define GIB (1ull << 30)

static const struct level_config usual = { .warn = 85, .refuse = 92,
					   .readonly = 97, .reserve = GIB / 2 };

static void test_a_level_begins_at_its_share(void **state)
{
	(void)state;
	assert_int_equal(level_of(&usual, LEVEL_OK, 2600, 10000), LEVEL_OK);
	assert_int_equal(level_of(&(struct level_config){ 85, 92, 97, 0 },
				  LEVEL_OK, 1500, 10000), LEVEL_OK);
	assert_int_equal(level_of(&(struct level_config){ 85, 92, 97, 0 },
				  LEVEL_OK, 1499, 10000), LEVEL_WARN);
	assert_int_equal(level_of(&usual, LEVEL_OK, 79 * GIB, 1000 * GIB),
			 LEVEL_REFUSE);
	assert_int_equal(level_of(&usual, LEVEL_OK, 29 * GIB, 1000 * GIB),
			 LEVEL_READONLY);
	assert_int_equal(level_of(&usual, LEVEL_OK, 0, 1000 * GIB), LEVEL_READONLY);
	/* No product of bytes and points may overflow. */
	assert_int_equal(level_of(&usual, LEVEL_OK, UINT64_MAX / 2, UINT64_MAX),
			 LEVEL_OK);
	assert_int_equal(level_of(&usual, LEVEL_OK, UINT64_MAX / 100, UINT64_MAX),
			 LEVEL_READONLY);
}

static void test_a_level_is_left_three_points_lower(void **state)
{
	const uint64_t all = 1000 * GIB;

	(void)state;
	assert_int_equal(level_of(&usual, LEVEL_REFUSE, 109 * GIB, all), LEVEL_REFUSE);
	assert_int_equal(level_of(&usual, LEVEL_REFUSE, 110 * GIB, all), LEVEL_WARN);
	assert_int_equal(level_of(&usual, LEVEL_WARN, 179 * GIB, all), LEVEL_WARN);
	assert_int_equal(level_of(&usual, LEVEL_WARN, 180 * GIB, all), LEVEL_OK);
	assert_int_equal(level_of(&usual, LEVEL_READONLY, 59 * GIB, all),
			 LEVEL_READONLY);
	/* Above it, the next one holds as long as it would have. */
	assert_int_equal(level_of(&usual, LEVEL_READONLY, 60 * GIB, all), LEVEL_REFUSE);
	assert_int_equal(level_of(&usual, LEVEL_READONLY, 109 * GIB, all), LEVEL_REFUSE);
	assert_int_equal(level_of(&usual, LEVEL_READONLY, 900 * GIB, all), LEVEL_OK);
}

static void test_the_reserve_counts_on_small_disks(void **state)
{
	const struct level_config never = { .warn = 100, .refuse = 0 };

	(void)state;
	/* 4 GiB: 8 % are less than the reserve. */
	assert_int_equal(level_begin(&usual, LEVEL_REFUSE, 4 * GIB), GIB / 2);
	assert_int_equal(level_begin(&usual, LEVEL_WARN, 4 * GIB), GIB);
	assert_int_equal(level_begin(&usual, LEVEL_READONLY, 4 * GIB), GIB / 4);
	/* An eighth is the most. */
	assert_int_equal(level_begin(&usual, LEVEL_REFUSE, GIB), GIB / 8);
	assert_int_equal(level_of(&never, LEVEL_OK, 0, GIB), LEVEL_OK);
	assert_int_equal(level_of(&never, LEVEL_REFUSE, 0, GIB), LEVEL_OK);
}

static void test_a_majority_must_have_room(void **state)
{
	enum level one[] = { LEVEL_REFUSE };
	enum level two[] = { LEVEL_OK, LEVEL_READONLY };
	enum level three[] = { LEVEL_READONLY, LEVEL_OK, LEVEL_WARN };
	enum level four[] = { LEVEL_OK, LEVEL_REFUSE, LEVEL_OK, LEVEL_REFUSE };
	enum level five[] = { LEVEL_READONLY, LEVEL_OK, LEVEL_REFUSE, LEVEL_OK,
			      LEVEL_REFUSE };

	(void)state;
	assert_int_equal(level_median(one, 1), LEVEL_REFUSE);
	assert_int_equal(level_median(two, 2), LEVEL_READONLY);
	assert_int_equal(level_median(three, 3), LEVEL_WARN);
	assert_int_equal(level_median(four, 4), LEVEL_REFUSE);
	assert_int_equal(level_median(five, 5), LEVEL_REFUSE);
}

/* ---- stories ----------------------------------------------------------------------- */

enum { SHARDS = 3, ACCOUNTS = 12, SENDER = 99 };

static struct test {
	struct world world;
	unsigned nodes;
	struct node_call call;
	unsigned answers;
	int status;
	struct result result;
	uint64_t sent[ACCOUNTS]; /* acked sends to each */
} *t;

static void run(uint64_t us)
{
	uint64_t until = t->world.sim.now_us + us;
	unsigned i;

	for (i = 1; i <= t->nodes; i++)
		if (world_up(&t->world, i))
			world_poke(&t->world, i);
	while (t->world.sim.n && t->world.sim.heap[0].at_us <= until)
		if (!world_step(&t->world))
			break;
	t->world.sim.now_us = until; /* nothing is due before that */
	if (t->world.failure[0])
		fail_msg("%s", t->world.failure);
}

static void on_result(struct node_call *c, int status, const struct result *r)
{
	(void)c;
	t->answers++;
	t->status = status;
	if (r)
		t->result = *r;
}

/* Until it has an answer that is not "again, soon". */
static int propose(unsigned node, const struct cmd *cmd)
{
	uint64_t to = cmd->type == CMD_SEND ? cmd->send.to : cmd->account;
	unsigned tries, before, waited;

	for (tries = 0; tries < 200; tries++) {
		struct node *n = t->world.nodes[node].node;

		before = t->answers;
		t->call = (struct node_call){ .cb = on_result };
		node_propose(n, node_shard_of(n, to), cmd, &t->call);
		for (waited = 0; t->answers == before && waited < 500; waited++)
			run(5000);
		assert_int_equal(t->answers, before + 1);
		if (t->status == ERR_NOSPACE || t->status == 0)
			return t->status;
		run(50000);
	}
	fail_msg("no answer: %s", err_name(t->status));
	return t->status;
}

static int send_to(unsigned node, unsigned a)
{
	static uint8_t body[8000];
	struct cmd c = { .type = CMD_SEND };
	uint64_t seq = t->sent[a] + 1;
	struct rand r;
	int rv;

	rand_seeded(&r, a << 20 | seq); /* nothing for LZ4 */
	rand_fill(&r, body, sizeof body);
	c.send = (struct cmd_send){ .to = a + 1, .from = SENDER + a, .device = 1,
				    .cls = 1, .seq = seq, .after = seq - 1,
				    .body = body, .body_len = sizeof body };
	put_u64(c.send.mid, seq);
	rv = propose(node, &c);
	if (!rv) {
		assert_int_equal(t->result.status, ST_OK);
		assert_int_equal(t->result.n, seq);
		t->sent[a]++;
	}
	return rv;
}

static int cursor_of_one(unsigned node, unsigned a)
{
	struct cmd c = { .type = CMD_CURSOR, .account = a + 1, .device = 1,
			 .cursor = t->sent[a] };
	int rv = propose(node, &c);

	if (!rv)
		assert_int_equal(t->result.status, ST_OK);
	return rv;
}

static void limit(unsigned node, uint64_t left)
{
	struct disk_sim_stats st;

	disk_sim_stats(t->world.nodes[node].medium, &st);
	disk_sim_set_total(t->world.nodes[node].medium, st.used_bytes + left);
}

static struct node *node_at(unsigned i)
{
	return t->world.nodes[i].node;
}

static void ready(void)
{
	unsigned tries, i;
	bool all;

	for (tries = 0; tries < 500; tries++) {
		for (all = true, i = 1; i <= t->nodes; i++)
			all &= node_ready(node_at(i));
		if (all)
			return;
		run(20000);
	}
	fail_msg("not ready");
}

static void begin(unsigned nodes)
{
	struct world_config cfg = { .seed = 7, .nodes = nodes };
	struct node_config *n = &cfg.node;
	unsigned i;

	cfg.net.delay_min_us = 50;
	cfg.net.delay_max_us = 200;
	world_config_small(&cfg);
	n->shards = SHARDS;
	n->election_ms = 200;
	n->heartbeat_ms = 20;
	n->journal.max_bytes = 64u << 20;
	n->journal.queue_bytes = 1 << 20;
	n->checkpoint_bytes = 128 << 10;
	n->checkpoint_age_ms = 1000;
	n->batch_bytes = 32 << 10;
	n->batch_records = 64;
	n->level = (struct level_config){ .warn = 85, .refuse = 92, .readonly = 97,
					  .reserve = 2u << 20 };
	t = xcalloc(1, sizeof *t);
	t->nodes = nodes;
	world_init(&t->world, &cfg);
	for (i = 1; i <= nodes; i++)
		assert_true(world_start(&t->world, i));
	ready();
	for (i = 0; i < ACCOUNTS; i++) {
		struct cmd c = { .type = CMD_ACCOUNT_ADD, .account = i + 1 };

		assert_int_equal(propose(1, &c), 0);
		c.type = CMD_DEVICE_ADD;
		assert_int_equal(propose(1, &c), 0);
	}
}

/* Every replica has everything that was acked, and all have the same. */
static void same_everywhere(void)
{
	struct node_shard_info a, b;
	unsigned s, i, a_no, tries;

	for (s = 0; s < SHARDS; s++) {
		uint64_t acked = 0;

		for (a_no = 0; a_no < ACCOUNTS; a_no++)
			if (node_shard_of(node_at(1), a_no + 1) == s)
				acked += t->sent[a_no];
		for (tries = 0, i = 2; tries < 1000 && i <= t->nodes; tries++) {
			node_shard_info(node_at(1), s, &a);
			node_shard_info(node_at(i), s, &b);
			if (a.store.records == b.store.records &&
			    a.digest == b.digest && !memcmp(a.root, b.root, 32))
				i++;
			else
				run(20000);
		}
		if (t->nodes > 1)
			assert_int_equal(i, t->nodes + 1);
		node_shard_info(node_at(1), s, &a);
		assert_false(a.faulty);
		assert_true(a.records >= acked);
	}
	/* Numbers without holes: the next send is the next one. */
	for (a_no = 0; a_no < ACCOUNTS; a_no++)
		assert_int_equal(send_to(1, a_no), 0);
}

static void end(void)
{
	assert_int_equal(t->world.disk_deaths, 0);
	world_release(&t->world);
	free(t);
}

/* Until the first refusal; a bounded number. */
static unsigned fill(unsigned node, unsigned most)
{
	unsigned i;

	for (i = 0; i < most; i++)
		if (send_to(node, i % ACCOUNTS))
			return i;
	return most;
}

static void test_one_node_fills_its_disk_and_lives(void **state)
{
	struct node_info ni;
	unsigned i, n;

	(void)state;
	begin(1);
	limit(1, 6u << 20);
	n = fill(1, 5000);
	assert_in_range(n, 100, 4999);
	node_info(node_at(1), &ni);
	assert_int_equal(ni.level, LEVEL_REFUSE);
	/* What makes room, and what clients owe, goes on for as long as it takes. */
	for (i = 0; i < 3000; i++)
		assert_int_equal(cursor_of_one(1, i % ACCOUNTS), 0);
	for (i = 0; i < 50; i++) {
		assert_int_equal(send_to(1, i % ACCOUNTS), ERR_NOSPACE);
		run(200000);
	}
	node_info(node_at(1), &ni);
	assert_int_equal(ni.level, LEVEL_REFUSE);
	/* Somebody else's file takes the rest: nothing is taken at all. */
	limit(1, 64 << 10);
	run(1200000);
	assert_int_equal(cursor_of_one(1, 0), ERR_NOSPACE);
	run(30000000);
	node_info(node_at(1), &ni);
	assert_int_equal(ni.level, LEVEL_READONLY);
	/* A start finds the disk as it was left. */
	world_crash(&t->world, 1, WORLD_POWER);
	assert_true(world_start(&t->world, 1));
	ready();
	assert_int_equal(send_to(1, 0), ERR_NOSPACE);
	limit(1, 64u << 20);
	run(1200000);
	same_everywhere();
	end();
}

static void test_a_full_minority_stops_nobody(void **state)
{
	struct node_info ni;
	unsigned i;

	(void)state;
	begin(3);
	run(5000000); /* each leads a shard */
	node_info(node_at(2), &ni);
	assert_int_equal(ni.led, 1);
	assert_int_equal(fill(1, 400), 400);
	limit(2, 500 << 10);
	run(1200000);
	node_info(node_at(2), &ni);
	assert_int_equal(ni.level, LEVEL_REFUSE);
	/* Its shard is led elsewhere, and the others know why. */
	run(6000000);
	node_info(node_at(2), &ni);
	assert_int_equal(ni.led, 0);
	node_info(node_at(1), &ni);
	assert_int_equal(ni.member_level[1], LEVEL_REFUSE);
	/* More than it has room for; what it has it keeps for what it took. */
	for (i = 0; i < 600; i++)
		assert_int_equal(send_to(1 + i % 3, i % ACCOUNTS), 0);
	node_info(node_at(2), &ni);
	assert_int_equal(ni.level, LEVEL_READONLY);
	assert_true(ni.disk_free > 0);
	limit(2, 64u << 20);
	run(10000000);
	same_everywhere();
	run(10000000);
	node_info(node_at(2), &ni);
	assert_int_equal(ni.level, LEVEL_OK);
	assert_int_equal(ni.led, 1);
	end();
}

/* Somebody else's file takes the last of a leader's disk between two looks: until
 * its shard is led elsewhere callers wait, for the cluster has room. */
static void test_a_leader_that_is_full_at_once_refuses_nothing(void **state)
{
	struct node_info ni;
	unsigned i, looks, full = 0;

	(void)state;
	begin(3);
	run(5000000);
	node_info(node_at(2), &ni);
	assert_int_equal(ni.led, 1);
	limit(2, 20 << 10);
	for (looks = 0; looks < 200 && ni.level != LEVEL_READONLY; looks++) {
		run(10000);
		node_info(node_at(2), &ni);
	}
	assert_int_equal(ni.level, LEVEL_READONLY);
	assert_int_equal(ni.led, 1); /* it still has the shard */
	for (i = 0; i < ACCOUNTS; i++)
		full += node_shard_of(node_at(2), i + 1) == 1;
	assert_true(full);
	for (i = 0; i < 3 * ACCOUNTS; i++) {
		assert_int_equal(cursor_of_one(1 + i % 3, i % ACCOUNTS), 0);
		assert_int_equal(send_to(1 + i % 3, i % ACCOUNTS), 0);
	}
	node_info(node_at(2), &ni);
	assert_int_equal(ni.led, 0);
	assert_int_equal(ni.level, LEVEL_READONLY);
	limit(2, 64u << 20);
	run(10000000);
	same_everywhere();
	end();
}

static void test_a_full_majority_refuses_and_comes_back(void **state)
{
	unsigned i, n;

	(void)state;
	begin(3);
	limit(2, 6u << 20);
	limit(3, 6u << 20);
	n = fill(1, 5000);
	assert_in_range(n, 100, 4999);
	run(3000000);
	for (i = 0; i < 3; i++) {
		assert_int_equal(send_to(1 + i, i), ERR_NOSPACE);
		assert_int_equal(cursor_of_one(1 + i, i), 0);
	}
	/* One of them down: of the two that are left, one is full. */
	world_crash(&t->world, 3, WORLD_KILL);
	run(5000000);
	assert_int_equal(send_to(1, 0), ERR_NOSPACE);
	assert_int_equal(cursor_of_one(1, 0), 0);
	assert_true(world_start(&t->world, 3));
	ready();
	/* Room on one of the two is a majority with room. */
	limit(3, 64u << 20);
	run(3000000);
	assert_int_equal(send_to(1, 0), 0);
	limit(2, 64u << 20);
	run(3000000);
	same_everywhere();
	end();
}

#define T(name) cmocka_unit_test(test_##name)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_level_begins_at_its_share),
		T(a_level_is_left_three_points_lower),
		T(the_reserve_counts_on_small_disks),
		T(a_majority_must_have_room),
		T(one_node_fills_its_disk_and_lives),
		T(a_full_minority_stops_nobody),
		T(a_leader_that_is_full_at_once_refuses_nothing),
		T(a_full_majority_refuses_and_comes_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
