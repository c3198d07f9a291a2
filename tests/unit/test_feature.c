/* The feature level of a cluster (consensus/feature.h): real nodes in simulated time,
 * some of them held at what an older program knows. */
#include "base/alloc.h"
#include "consensus/node_impl.h"
#include "tests/lib/world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { NODES = 3, ACCOUNT = 7 };

static struct world *w;
static uint64_t until; /* how far run() went: nothing may happen for a while */

static void run(uint64_t us)
{
	until = (until > w->sim.now_us ? until : w->sim.now_us) + us;

	while (w->sim.n && w->sim.heap[0].at_us <= until)
		if (!world_step(w))
			break;
}

static struct node *node(unsigned i)
{
	return w->nodes[i].node;
}

static uint32_t level(unsigned i)
{
	struct node_feature_info fi;

	node_feature_info(node(i), &fi);
	return fi.level;
}

/* What the folder of a node says. */
static struct nodemeta kept(unsigned i)
{
	struct nodemeta m = { 0 };
	uint8_t bytes[NODEMETA_SIZE];
	struct disk *d = w->nodes[i].disk;
	struct disk_file *f;
	struct err e;
	size_t n;

	assert_int_equal(d->ops->open(d, "node.meta", DISK_READ, &f, &e), 0);
	assert_int_equal(d->ops->pread(f, bytes, sizeof bytes, 0, &n, &e), 0);
	d->ops->close(f);
	assert_int_equal(nodemeta_decode(&m, bytes, n, &e), 0);
	return m;
}

static bool all_ready(void)
{
	unsigned i;

	for (i = 1; i <= NODES; i++)
		if (!node(i) || !node_ready(node(i)))
			return false;
	return true;
}

static void wait_ready(void)
{
	unsigned tries;

	for (tries = 0; tries < 500 && !all_ready(); tries++)
		run(20000);
	assert_true(all_ready());
	run(500000);
	if (w->failure[0])
		fail_msg("%s", w->failure);
}

static void open_world(unsigned old, bool automatic)
{
	struct world_config cfg = { .seed = 3, .nodes = NODES };
	unsigned i;

	world_config_small(&cfg);
	cfg.net.delay_min_us = cfg.net.delay_max_us = 100;
	cfg.node.shards = 2;
	cfg.node.election_ms = 200;
	cfg.node.heartbeat_ms = 20;
	cfg.node.feature_auto = automatic;
	w = xcalloc(1, sizeof *w);
	world_init(w, &cfg);
	until = 0;
	for (i = 1; i <= NODES; i++) {
		w->nodes[i].feature_max = old >> i & 1 ? 1 : 0;
		assert_true(world_start(w, i));
	}
	wait_ready();
}

static int teardown(void **state)
{
	(void)state;
	world_release(w);
	free(w);
	return 0;
}

static void restart(unsigned i, unsigned feature_max)
{
	world_crash(w, i, WORLD_KILL);
	w->nodes[i].feature_max = feature_max;
	run(500000);
	assert_true(world_start(w, i));
	wait_ready();
}

struct answer {
	bool came;
	int status;
	int result;
};

static void on_result(struct node_call *c, int status, const struct result *r)
{
	struct answer *a = c->arg;

	a->came = true;
	a->status = status;
	a->result = r ? r->status : -1;
}

static struct answer propose(unsigned i, const struct cmd *cmd)
{
	struct answer a = { 0 };
	struct node_call c = { .cb = on_result, .arg = &a };
	unsigned tries;

	node_propose(node(i), 0, cmd, &c);
	world_poke(w, i);
	for (tries = 0; tries < 100 && !a.came; tries++)
		run(20000);
	assert_true(a.came);
	return a;
}

static struct answer set_ttl(unsigned i)
{
	struct cmd cmd = { .type = CMD_RETAIN };

	cmd.retain.op = RETAIN_POLICY;
	cmd.retain.ttl_ms = 5000;
	return propose(i, &cmd);
}

/* ---- tests ------------------------------------------------------------------------ */

static void test_a_new_cluster_is_of_the_newest_level(void **state)
{
	unsigned i;

	(void)state;
	open_world(0, false);
	for (i = 1; i <= NODES; i++) {
		assert_int_equal(level(i), FEATURE_MAX);
		assert_int_equal(kept(i).feature_level, FEATURE_MAX);
		assert_int_equal(node_epoch(node(i)), 1);
	}
	assert_int_equal(set_ttl(1).result, ST_OK);
}

static void test_the_oldest_program_holds_it_down(void **state)
{
	struct node_feature_info fi;
	unsigned i;

	(void)state;
	open_world(1u << 2, true);
	for (i = 1; i <= NODES; i++) {
		assert_int_equal(level(i), 1);
		assert_int_equal(set_ttl(i).status, ERR_BUSY);
		assert_int_equal(kept(i).feature_level, 0); /* as an older program wrote it */
	}
	node_feature_info(node(1), &fi);
	assert_int_equal(fi.possible, 1);
	assert_int_equal(fi.lacking, 1u << 2);
	restart(2, 0);
	for (i = 1; i <= NODES; i++) {
		assert_int_equal(level(i), 2);
		assert_int_equal(kept(i).feature_level, 2);
		assert_int_equal(set_ttl(i).result, ST_OK);
	}
	node_feature_info(node(1), &fi);
	assert_int_equal(fi.lacking, 0);
}

/* One that is down may come back as anything. */
static void test_a_member_that_is_down_is_waited_for(void **state)
{
	(void)state;
	open_world(1u << 2, true);
	world_crash(w, 3, WORLD_KILL);
	world_crash(w, 2, WORLD_KILL);
	w->nodes[2].feature_max = 0;
	assert_true(world_start(w, 2));
	run(5000000);
	assert_int_equal(level(1), 1);
	assert_int_equal(level(2), 1);
	assert_true(world_start(w, 3));
	wait_ready();
	run(1000000);
	assert_int_equal(level(1), 2);
	assert_int_equal(level(3), 2);
}

static void test_by_hand_only(void **state)
{
	struct cmd cmd = { .type = CMD_FEATURE, .level = 2 };
	unsigned i;

	(void)state;
	open_world(1u << 1, false);
	restart(1, 0);
	run(3000000);
	for (i = 1; i <= NODES; i++)
		assert_int_equal(level(i), 1);
	assert_int_equal(propose(3, &cmd).result, ST_OK);
	run(1000000);
	for (i = 1; i <= NODES; i++)
		assert_int_equal(level(i), 2);
	assert_int_equal(propose(2, &cmd).result, ST_EXISTS);
	/* It outlives all of them going at once. */
	for (i = 1; i <= NODES; i++)
		world_crash(w, i, WORLD_POWER);
	for (i = 1; i <= NODES; i++)
		assert_true(world_start(w, i));
	for (i = 1; i <= NODES; i++)
		assert_int_equal(level(i), 2);
}

static void test_an_older_program_does_not_open_the_folder(void **state)
{
	(void)state;
	open_world(0, true);
	world_crash(w, 3, WORLD_KILL);
	w->nodes[3].feature_max = 1;
	assert_false(world_start(w, 3));
	assert_non_null(strstr(w->failure, "feature level 2; this program knows 1"));
	assert_non_null(strstr(w->failure, "nothing was changed"));
	w->failure[0] = 0;
	w->nodes[3].feature_max = 0;
	assert_true(world_start(w, 3));
	wait_ready();
}

/* Its folder says nothing of it yet: it ends when it hears of the level. */
static void test_an_older_program_ends_when_it_hears_of_it(void **state)
{
	struct cmd cmd = { .type = CMD_FEATURE, .level = 2 };

	(void)state;
	open_world(1u << 3, false);
	world_crash(w, 3, WORLD_KILL);
	assert_int_equal(propose(1, &cmd).result, ST_OK);
	assert_true(world_start(w, 3));
	run(3000000);
	assert_null(node(3));
	assert_non_null(strstr(w->failure, "a newer version is needed"));
}

static void test_nonsense_changes_nothing(void **state)
{
	static const uint32_t bad[][4] = {
		{ 0, 2, 2, 1 },
		{ 3, 2, 1, 1 },
		{ 1, 2, 3, 1 },
	};
	unsigned i, k;

	(void)state;
	open_world(1u << 2, true);
	for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct buf b = BUF_INIT;

		buf_u8(&b, MSG_ABOUT);
		for (k = 0; k < 4; k++)
			buf_u32(&b, bad[i][k]);
		rpc_on_message(node(1), 2, b.data, b.len);
		rpc_on_message(node(1), 2, b.data, b.len - 1);
		buf_release(&b);
	}
	run(1000000);
	assert_int_equal(level(1), 1);
}

int main(void)
{
#define T(f) cmocka_unit_test_teardown(f, teardown)
	static const struct CMUnitTest tests[] = {
		T(test_a_new_cluster_is_of_the_newest_level),
		T(test_the_oldest_program_holds_it_down),
		T(test_a_member_that_is_down_is_waited_for),
		T(test_by_hand_only),
		T(test_an_older_program_does_not_open_the_folder),
		T(test_an_older_program_ends_when_it_hears_of_it),
		T(test_nonsense_changes_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
