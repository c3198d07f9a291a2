/* Replicas that come and go: nodes without any, which find the leaders of all shards
 * elsewhere. */
#include "base/alloc.h"
#include "base/bytes.h"
#include "base/hash.h"
#include "consensus/node_impl.h"
#include "tests/lib/world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
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

/* A shard whose replicas go from one set of nodes to another, step by step. */
static struct mover {
	struct node_change_call call;
	uint32_t shard;
	unsigned at;
	bool busy;
} movers[SHARDS];

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

static void down(void *arg, unsigned node);

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
	t->w.down = down;
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
static void down(void *arg, unsigned node)
{
	unsigned i;

	(void)arg;
	for (i = 0; i < ACCOUNTS; i++)
		if (t->writers[i].at == node)
			t->writers[i].busy = false;
	for (i = 0; i < SHARDS; i++)
		if (movers[i].at == node)
			movers[i].busy = false;
}

static void power_cut(unsigned node)
{
	if (node_at(node))
		world_crash(&t->w, node, WORLD_POWER);
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

/* ---- replicas that move --------------------------------------------------------------- */

static unsigned changes_ok;

static void on_moved(struct node_change_call *c, int status, const char *why)
{
	struct mover *m = c->arg;

	assert_true(status ? why[0] != 0 : !why[0]);
	m->busy = false;
	changes_ok += !status;
}

/* The newest configuration of the leader of the highest term; false: none. */
static bool leader_view(uint32_t shard, struct group_info *gi)
{
	bool found = false;
	unsigned i;

	for (i = 1; i <= t->nodes; i++) {
		struct shard *s = node_at(i) ? &node_at(i)->shards[shard] : NULL;
		struct group_info x;

		if (!s || !shard_works(s) || s->role != GROUP_LEADER)
			continue;
		group_info(s->group, &x);
		if (!found || x.term > gi->term)
			*gi = x;
		found = true;
	}
	return found;
}

static const struct group_member *member(const struct group_info *gi, uint64_t id)
{
	unsigned i;

	for (i = 0; i < gi->conf.n; i++)
		if (gi->conf.members[i].id == id)
			return &gi->conf.members[i];
	return NULL;
}

/* Replicas of the shard are on `from` to `from` + 2 and nowhere else. */
static bool shard_moved(uint32_t shard, unsigned from)
{
	struct group_info gi;
	unsigned i;

	if (!leader_view(shard, &gi) || gi.conf.n != 3 || gi.n_voters != 3)
		return false;
	for (i = 1; i <= t->nodes; i++) {
		bool in = i >= from && i < from + 3;
		const struct shard *s = node_at(i) ? &node_at(i)->shards[shard] : NULL;

		if (!s || (member(&gi, i) != NULL) != in || s->absent == in ||
		    s->going || s->making)
			return false;
	}
	return true;
}

static void move_next(struct mover *m, unsigned from)
{
	unsigned at = some_node();
	struct node *n = node_at(at);
	struct group_info gi;
	uint64_t id;

	if (m->busy || !n || !leader_view(m->shard, &gi))
		return;
	m->call = (struct node_change_call){ .cb = on_moved, .arg = m };
	m->at = at;
	for (id = from; id < from + 3; id++) {
		const struct group_member *x = member(&gi, id);

		if (x && x->voter)
			continue;
		m->busy = true;
		node_change(n, m->shard, x ? GROUP_PROMOTE : GROUP_ADD, id, false,
			    &m->call);
		return;
	}
	for (id = 1; id <= t->nodes; id++) {
		if ((id >= from && id < from + 3) || !member(&gi, id))
			continue;
		m->busy = true;
		if (gi.leader == id)
			node_transfer_to(n, m->shard, from + rand_below(&t->rand, 3),
					 &m->call);
		else
			node_change(n, m->shard, GROUP_REMOVE, id, false,
				    &m->call);
		return;
	}
}

static bool all_moved(unsigned from)
{
	uint32_t i;

	for (i = 0; i < SHARDS; i++)
		if (!shard_moved(i, from))
			return false;
	return true;
}

/* Each step asked for at any node, under load; `cuts`: nodes lose their power now and
 * then, one at a time. */
static bool one_is_down(unsigned *node)
{
	for (*node = 1; *node <= t->nodes; (*node)++)
		if (!node_at(*node))
			return true;
	return false;
}

static void move_all(unsigned from, bool cuts)
{
	uint64_t until = t->now_us + 600ull * SECOND, up_us = 0;
	bool waits = false, was_down = false;
	unsigned i, node;

	for (i = 0; i < SHARDS; i++)
		movers[i] = (struct mover){ .shard = i };
	while (!all_moved(from) || waits) {
		bool is_down = one_is_down(&node);

		if (t->now_us >= until)
			fail_msg("seed %llu: not moved", (unsigned long long)t->seed);
		if (is_down && !was_down)
			up_us = t->now_us + rand_below(&t->rand, 2 * SECOND);
		was_down = is_down;
		if (is_down && t->now_us >= up_us) {
			world_start(&t->w, node);
			/* And once more while it reads its files. */
			if (cuts && node_at(node) && !rand_below(&t->rand, 4))
				world_crash_at(&t->w, node,
					       1 + rand_below(&t->rand, 30));
		}
		for (i = 0; i < SHARDS; i++)
			move_next(&movers[i], from);
		work(20000);
		waits = false;
		for (i = 0; i < SHARDS; i++)
			waits |= movers[i].busy;
		waits |= one_is_down(&node);
		if (!cuts || is_down || rand_below(&t->rand, 30))
			continue;
		node = some_node();
		if (rand_below(&t->rand, 2))
			power_cut(node);
		else
			world_crash_at(&t->w, node, 1 + rand_below(&t->rand, 60));
	}
	for (i = 1; i <= t->nodes; i++)
		world_crash_at(&t->w, i, 0);
}

static void on_page(struct node_call *c, int status, const struct result *r)
{
	uint64_t *next = c->arg;
	struct cursor in;
	struct record rec;
	uint32_t i;

	if (status) {
		next[1] = 1; /* again */
		return;
	}
	assert_int_equal(r->status, ST_OK);
	in = cursor_of(r->records, r->records_len);
	for (i = 0; i < r->n_records; i++) {
		assert_int_equal(record_get_wire(&rec, &in), 0);
		assert_int_equal(rec.n, next[0]);
		assert_int_equal(rec.seq, next[0]); /* each once, in order */
		next[0]++;
	}
	next[1] = r->n_records ? 1 : 2;
}

/* All that was acknowledged is there, once, in order. */
static void nothing_is_lost(void)
{
	unsigned i, tries;

	for (tries = 0; tries < 500; tries++) {
		bool busy = false;

		for (i = 0; i < ACCOUNTS; i++)
			busy |= t->writers[i].busy;
		if (!busy)
			break;
		run(20000);
	}
	for (i = 0; i < ACCOUNTS; i++) {
		struct writer *x = &t->writers[i];
		uint64_t next[2] = { 1, 1 };

		for (tries = 0; next[1] != 2; tries++) {
			struct node_call call = { .cb = on_page, .arg = next };
			struct query q = { .type = QUERY_PAGE,
					   .account = x->account,
					   .from = next[0], .limit = 100,
					   .max_bytes = 100000 };
			struct node *n = node_at(some_node());
			unsigned k;

			assert_true(tries < 2000);
			next[1] = 0;
			node_query(n, node_shard_of(n, x->account), &q, &call);
			for (k = 0; k < 1000 && !next[1]; k++)
				run(5000);
			assert_true(next[1] != 0);
		}
		assert_true(next[0] > x->acked);
	}
}

static void see_file(void *arg, const char *name, bool is_dir)
{
	if (!is_dir)
		fail_msg("%s of shard %u is left", name, *(uint32_t *)arg);
}

/* What is not there is not on the disk either. */
static void nothing_is_left(unsigned node)
{
	static const char *const dirs[] = { "", "/seg", "/tree" };
	struct disk *d = t->w.nodes[node].disk;
	struct node_info ni;
	char path[64];
	uint32_t i;
	unsigned inc, k;

	node_info(node_at(node), &ni);
	assert_int_equal(ni.present, 0);
	for (i = 0; i < SHARDS; i++)
		for (inc = 1; inc < 20; inc++)
			for (k = 0; k < 3; k++) {
				snprintf(path, sizeof path, "shards/%04u-%u%s",
					 i, inc, dirs[k]);
				d->ops->list(d, path, see_file, &i, NULL);
			}
}

static void shards_move_to_nodes_that_joined(void **state)
{
	unsigned i;

	(void)state;
	begin(3, 3, 5);
	writers_make();
	changes_ok = 0;
	move_all(3, false);
	assert_true(changes_ok >= SHARDS * 6);
	nothing_is_left(1);
	nothing_is_left(2);
	wait_for(all_ready, "not ready after the move", 30 * SECOND);
	nothing_is_lost();
	/* And back, to replicas of other lives; then all start again. */
	move_all(1, false);
	nothing_is_left(4);
	nothing_is_left(5);
	for (i = 1; i <= 5; i++)
		power_cut(i);
	for (i = 1; i <= 5; i++)
		assert_true(world_start(&t->w, i));
	wait_for(all_ready, "not ready again", 30 * SECOND);
	nothing_is_lost();
	work(SECOND);
	end();
}

static void shards_move_while_nodes_lose_their_power(void **state)
{
	const char *n = getenv("SHARDS_SEEDS");
	uint64_t seed, seeds = n ? strtoull(n, NULL, 10) : 6;

	(void)state;
	for (seed = 100; seed < 100 + seeds; seed++) {
		print_message("seed %llu\n", (unsigned long long)seed);
		begin(seed, 3, 5);
		writers_make();
		move_all(3, true);
		nothing_is_left(1);
		wait_for(all_ready, "not ready after the move", 30 * SECOND);
		nothing_is_lost();
		move_all(1, true);
		wait_for(all_ready, "not ready at the end", 30 * SECOND);
		nothing_is_lost();
		end();
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_node_without_replicas_serves),
		cmocka_unit_test(a_node_without_replicas_starts_again),
		cmocka_unit_test(shards_move_to_nodes_that_joined),
		cmocka_unit_test(shards_move_while_nodes_lose_their_power),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
