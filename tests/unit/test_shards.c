/* Replicas that come and go: nodes without any, which find the leaders of all shards
 * elsewhere. */
#include "base/alloc.h"
#include "base/bytes.h"
#include "base/hash.h"
#include "consensus/node_impl.h"
#include "tests/lib/world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { SHARDS = 6, SECOND = 1000000, ACCOUNTS = 12 };

/* An account, and a device of another that writes to it: one message after the other,
 * each tried until it is there. */
struct writer {
	struct node_call call;
	uint64_t account, seq, acked, n;
	unsigned at;           /* the node that was asked */
	bool busy, made;
};

static struct test {
	struct world w;
	struct rand rand;
	uint64_t seed, now_us;
	unsigned nodes;
	struct writer writers[ACCOUNTS];
	bool writing;
	/* a reader */
	struct node_sub sub;
	uint64_t sub_n;
	unsigned sub_starts, sub_ends;
	int sub_why;
} *t;

static void run(uint64_t us)
{
	unsigned i;

	/* The world's own clock stands still between events. */
	t->now_us += us;
	for (i = 1; i <= t->nodes; i++)
		world_poke(&t->w, i);
	while (t->w.sim.n && t->w.sim.heap[0].at_us <= t->now_us)
		if (!world_step(&t->w))
			break;
	if (t->w.failure[0])
		fail_msg("seed %llu: %s", (unsigned long long)t->seed, t->w.failure);
}

static struct node *node_at(unsigned i)
{
	return t->w.nodes[i].node;
}

static bool all_ready(void)
{
	unsigned i;

	for (i = 1; i <= t->nodes; i++)
		if (node_at(i) && !node_ready(node_at(i)))
			return false;
	return true;
}

static void wait_for(bool (*done)(void), const char *what, uint64_t us)
{
	uint64_t until = t->now_us + us;

	while (!done()) {
		if (t->now_us >= until)
			fail_msg("seed %llu: %s", (unsigned long long)t->seed, what);
		run(20000);
	}
}

static void begin(uint64_t seed, unsigned founders, unsigned nodes)
{
	struct world_config cfg = { .seed = seed, .nodes = nodes,
				    .founders = founders };
	struct node_config *n = &cfg.node;
	unsigned i;

	cfg.net.delay_min_us = 200;
	cfg.net.delay_max_us = 3000;
	world_config_small(&cfg);
	n->shards = SHARDS;
	n->election_ms = 300;
	n->heartbeat_ms = 60;
	n->journal.max_bytes = 16u << 20;
	n->level.refuse = 98;
	t = xcalloc(1, sizeof *t);
	t->seed = seed;
	t->nodes = nodes;
	rand_seeded(&t->rand, seed);
	world_init(&t->w, &cfg);
	for (i = 1; i <= nodes; i++)
		assert_true(world_start(&t->w, i));
	wait_for(all_ready, "not ready", 30 * SECOND);
}

static void end(void)
{
	world_release(&t->w);
	free(t);
}

/* ---- writers -------------------------------------------------------------------- */

static void on_written(struct node_call *c, int status, const struct result *r)
{
	struct writer *x = c->arg;

	x->busy = false;
	if (status)
		return;
	if (!x->made) {
		x->made = true;
		return;
	}
	assert_int_equal(r->status, ST_OK);
	x->acked = x->seq++;
	assert_true(r->n > x->n);
	x->n = r->n;
}

/* At a node that is up. */
static unsigned some_node(void)
{
	unsigned first = (unsigned)rand_below(&t->rand, t->nodes), i;

	for (i = 0; i < t->nodes; i++)
		if (node_at(1 + (first + i) % t->nodes))
			return 1 + (first + i) % t->nodes;
	return 0;
}

static void write_next(struct writer *x)
{
	static const uint8_t body[200] = "a body";
	unsigned at = some_node();
	struct node *n = node_at(at);
	struct cmd c = { .type = CMD_ACCOUNT_ADD, .account = x->account };

	if (!n || x->busy)
		return;
	if (x->made) {
		c = (struct cmd){ .type = CMD_SEND };
		c.send = (struct cmd_send){ .to = x->account, .from = 1000 + x->account,
					    .device = 1, .cls = 1,
					    .seq = x->seq, .after = x->seq - 1,
					    .body = body, .body_len = sizeof body };
		put_u64(c.send.mid, x->account);
		put_u64(c.send.mid + 8, x->seq);
	}
	x->busy = true;
	x->at = at;
	x->call = (struct node_call){ .cb = on_written, .arg = x };
	node_propose(n, node_shard_of(n, x->account), &c, &x->call);
}

/* What it was asked is asked again of another. */
static void power_cut(unsigned node)
{
	unsigned i;

	if (node_at(node))
		world_crash(&t->w, node, WORLD_POWER);
	for (i = 0; i < ACCOUNTS; i++)
		if (t->writers[i].at == node)
			t->writers[i].busy = false;
}

/* Some time under load. */
static void work(uint64_t us)
{
	uint64_t until = t->now_us + us;
	unsigned i;

	while (t->now_us < until) {
		for (i = 0; i < ACCOUNTS; i++)
			write_next(&t->writers[i]);
		run(5000);
	}
}

static void writers_make(void)
{
	unsigned i;

	for (i = 0; i < ACCOUNTS; i++) {
		t->writers[i].account = 100 + i;
		t->writers[i].seq = 1;
	}
	work(2 * SECOND);
	for (i = 0; i < ACCOUNTS; i++)
		assert_true(t->writers[i].acked > 0);
}

/* ---- a reader ---------------------------------------------------------------------- */

static void on_start(struct node_sub *s, const struct result *r)
{
	(void)s;
	(void)r;
	t->sub_starts++;
}

static void on_record(struct node_sub *s, const struct record *r)
{
	(void)s;
	assert_int_equal(r->n, t->sub_n + 1);
	t->sub_n = r->n;
}

static void on_flush(struct node_sub *s)
{
	(void)s;
}

static void on_end(struct node_sub *s, int why)
{
	(void)s;
	t->sub_ends++;
	t->sub_why = why;
}

static void subscribe(struct node *n, uint64_t account)
{
	t->sub = (struct node_sub){ .account = account, .device = 1,
				    .window = 10000, .from = t->sub_n + 1,
				    .start = on_start, .record = on_record,
				    .flush = on_flush, .end = on_end };
	node_subscribe(n, node_shard_of(n, account), &t->sub);
}

/* ---- nodes without replicas ---------------------------------------------------------- */

static void a_node_without_replicas_serves(void **state)
{
	struct node_shard_info si;
	struct node_info ni;
	struct cmd add = { .type = CMD_DEVICE_ADD, .account = 100 };
	struct writer *x;
	struct node *n;
	unsigned i, led;

	(void)state;
	begin(1, 3, 4);
	n = node_at(4);
	writers_make();
	x = &t->writers[0];
	node_info(n, &ni);
	assert_int_equal(ni.present, 0);
	assert_int_equal(ni.n_members, 4);
	for (i = 0; i < SHARDS; i++) {
		node_shard_info(n, i, &si);
		assert_false(si.present);
		assert_in_range(si.raft.leader, 1, 3);
	}
	assert_memory_equal(n->slots, node_at(1)->slots, sizeof n->slots);
	assert_int_equal(n->slots_epoch, node_at(1)->slots_epoch);
	/* What it forwards. */
	while (x->busy)
		run(5000);
	x->busy = true;
	x->made = false;
	x->at = 4;
	x->call = (struct node_call){ .cb = on_written, .arg = x };
	node_propose(n, node_shard_of(n, x->account), &add, &x->call);
	run(SECOND);
	assert_true(x->made && !x->busy);
	subscribe(n, x->account);
	run(SECOND);
	assert_int_equal(t->sub_starts, 1);
	assert_int_equal(t->sub_n, x->n);
	work(SECOND);
	run(SECOND);
	assert_int_equal(t->sub_n, x->n);
	assert_int_equal(t->sub_ends, 0);
	/* The leader goes: it ends, and goes on at the next one. */
	node_shard_info(n, node_shard_of(n, x->account), &si);
	led = (unsigned)si.raft.leader;
	power_cut(led);
	for (i = 0; i < 100 && !t->sub_ends; i++)
		work(SECOND / 10);
	assert_int_equal(t->sub_ends, 1);
	wait_for(all_ready, "no leaders after a crash", 10 * SECOND);
	subscribe(n, x->account);
	run(SECOND);
	assert_int_equal(t->sub_starts, 2);
	assert_true(world_start(&t->w, led));
	wait_for(all_ready, "not ready again", 30 * SECOND);
	assert_int_equal(t->sub_n, x->n);
	node_unsubscribe(n, &t->sub);
	end();
}

/* It starts before anybody else, and again. */
static void a_node_without_replicas_starts_again(void **state)
{
	unsigned i;

	(void)state;
	begin(2, 3, 4);
	writers_make();
	for (i = 1; i <= 4; i++)
		power_cut(i);
	assert_true(world_start(&t->w, 4));
	run(5 * SECOND);
	assert_false(node_ready(node_at(4)));
	assert_int_equal(node_at(4)->calls, 0);
	for (i = 1; i <= 3; i++)
		assert_true(world_start(&t->w, i));
	wait_for(all_ready, "not ready again", 30 * SECOND);
	work(SECOND);
	/* It has nothing to hand over. */
	world_stop(&t->w, 4);
	run(SECOND);
	assert_false(world_up(&t->w, 4));
	power_cut(4);
	work(SECOND);
	end();
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_node_without_replicas_serves),
		cmocka_unit_test(a_node_without_replicas_starts_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
