/* The table of nodes on every node: its file, how it comes to be, who is let in. */
#include "consensus/members.h"
#include "base/alloc.h"
#include "base/logf.h"
#include "tests/lib/world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define S 1000000ull

/* ---- the file ---------------------------------------------------------------------- */

static const uint8_t cluster[16] = "cluster-0123456";

static struct members *two(void)
{
	struct members *t = xcalloc(1, sizeof *t);

	t->epoch = 300;
	t->founders = 2;
	t->m[1] = (struct member){ .id = 1, .state = PLACE_ACTIVE, .version = 1,
				   .since_ms = 1700000000000,
				   .address = "10.0.0.1:7300", .rack = "a" };
	memset(t->m[1].disk_id, '1', 16);
	t->m[4] = (struct member){ .id = 4, .state = PLACE_LEAVING,
				   .version = 300, .since_ms = 1700000000500,
				   .successor = 1, .address = "[::1]:7300" };
	return t;
}

static void test_bytes(void **state)
{
	struct members *t = two(), *got = xcalloc(1, sizeof *got);
	const char *path = "tests/golden/format/members";
	struct buf b = BUF_INIT;
	uint8_t want[512];
	struct err e;
	size_t n, i;
	FILE *f;

	(void)state;
	members_encode(&b, t, cluster);
	if (getenv("QUIPU_GOLDEN")) {
		f = fopen(path, "wb");
		assert_non_null(f);
		assert_int_equal(fwrite(b.data, 1, b.len, f), b.len);
		fclose(f);
	}
	f = fopen(path, "rb");
	assert_non_null(f);
	n = fread(want, 1, sizeof want, f);
	fclose(f);
	assert_int_equal(n, b.len);
	assert_memory_equal(want, b.data, n);
	assert_int_equal(members_decode(got, cluster, want, n, &e), 0);
	assert_memory_equal(got, t, sizeof *t);
	assert_int_equal(members_decode(got, (const uint8_t *)"another cluster!",
					want, n, &e), ERR_CONFIG);
	for (i = 0; i < n; i++) {
		int rv;

		assert_true(members_decode(got, cluster, want, i, &e) < 0);
		want[i] ^= 0x10;
		rv = members_decode(got, cluster, want, n, &e);
		assert_true(rv == ERR_CHECKSUM || rv == ERR_FORMAT ||
			    rv == ERR_VERSION);
		assert_int_equal(got->epoch, 0);
		want[i] ^= 0x10;
	}
	buf_release(&b);
	free(t);
	free(got);
}

/* ---- a cluster --------------------------------------------------------------------- */

static struct world *w;

static void no_log(void *arg, const char *line)
{
	(void)arg;
	(void)line;
}

static int setup(void **state)
{
	struct world_config cfg = { .seed = 5, .nodes = 3,
				    .net = { .delay_min_us = 200,
					     .delay_max_us = 2000 } };
	unsigned i;

	(void)state;
	log_set_sink(no_log, NULL);
	world_config_small(&cfg);
	cfg.node.shards = 4;
	cfg.node.election_ms = 300;
	cfg.node.heartbeat_ms = 60;
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

static bool run_until(bool (*cond)(void), uint64_t us)
{
	uint64_t end = w->sim.now_us + us;

	while (!cond() && w->sim.now_us < end && !w->failure[0])
		if (!world_step(w))
			break;
	if (w->failure[0])
		fail_msg("%s", w->failure);
	return cond();
}

/* All three know three nodes, their addresses and disks. */
static bool all_entered(void)
{
	unsigned i, k;

	for (i = 1; i <= 3; i++) {
		const struct members *t;

		if (!w->nodes[i].node)
			return false;
		t = node_members(w->nodes[i].node);
		for (k = 1; k <= 3; k++)
			if (t->m[k].state != PLACE_ACTIVE ||
			    strcmp(t->m[k].address, "simulated:1") ||
			    t->m[k].disk_id[3] != k)
				return false;
	}
	return true;
}

static void test_founders_are_entered(void **state)
{
	const struct members *t;
	unsigned k;

	(void)state;
	assert_true(run_until(all_entered, 60 * S));
	t = node_members(w->nodes[2].node);
	assert_int_equal(t->m[4].state, PLACE_NONE);
	assert_int_equal(t->epoch, 6); /* three rows, three disks */
	assert_int_equal(t->founders, 0xe);
	for (k = 1; k <= 3; k++)
		assert_true(t->m[k].version >= 1 && t->m[k].version <= 6);
}

static unsigned told;
static void on_change(void *arg)
{
	(void)arg;
	told++;
}

static bool one_saved(void)
{
	struct members t;
	struct err e;

	return !members_load(&t, w->nodes[1].disk, w->cfg.node.cluster_id, &e) &&
	       t.epoch == 6;
}

static void test_a_restart_knows(void **state)
{
	(void)state;
	assert_true(run_until(all_entered, 60 * S));
	assert_true(run_until(one_saved, 10 * S));
	world_crash(w, 1, WORLD_POWER);
	world_crash(w, 2, WORLD_POWER);
	assert_true(world_start(w, 1));
	assert_int_equal(node_members(w->nodes[1].node)->epoch, 6);
	/* Damage is no reason not to start: the others know. */
	world_crash(w, 1, WORLD_POWER);
	assert_true(disk_sim_flip(w->nodes[1].medium, "members", 60, 1));
	assert_true(world_start(w, 1));
	assert_int_equal(node_members(w->nodes[1].node)->epoch, 0);
	node_members_watch(w->nodes[1].node, on_change, NULL);
	told = 0;
	assert_true(world_start(w, 2));
	assert_true(run_until(all_entered, 60 * S));
	assert_true(told >= 1);
}

static void test_who_is_let_in(void **state)
{
	uint8_t disk[16];
	struct node *n;
	struct err e;

	(void)state;
	n = w->nodes[1].node;
	memset(disk, 9, 16);
	assert_int_equal(node_admit(n, 3, disk, &e), 0); /* nothing is known yet */
	assert_true(run_until(all_entered, 60 * S));
	assert_int_equal(node_admit(n, 4, disk, &e), ERR_PERM);
	assert_non_null(strstr(e.msg, "node add"));
	assert_int_equal(node_admit(n, 64, disk, &e), ERR_PERM);
	assert_null(node_knocked(n, 3));
	assert_int_equal(node_admit(n, 3, disk, &e), ERR_PERM);
	assert_non_null(strstr(e.msg, "another disk"));
	assert_memory_equal(node_knocked(n, 3), disk, 16);
	memset(disk, 3, 16);
	assert_int_equal(node_admit(n, 3, disk, &e), 0);
	assert_null(node_knocked(n, 3));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bytes),
		cmocka_unit_test_setup_teardown(test_founders_are_entered, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_a_restart_knows, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_who_is_let_in, setup,
						teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
