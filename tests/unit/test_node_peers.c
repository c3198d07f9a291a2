/* What a shard's leader owes a peer whose link is slow or full, and what it takes from
 * its own gateway: a real node in simulated time, with the test as its network. */
#include "base/alloc.h"
#include "base/cursor.h"
#include "consensus/node_impl.h"
#include "tests/lib/world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* consensus/rpc.c */
enum { CALL = 16 };
enum { QUERY = 17, REPLY = 18, SUB = 19, CREDIT = 20, START = 22, RECORDS = 23, END = 24 };
enum { PEER = 2, SUB_ID = 5, ACCOUNT = 7, SENDER = 9 };

static struct test {
	struct world world;
	struct node *node;
	struct net net;
	size_t queued;
	int refuse;            /* RECORDS get this answer */
	unsigned refused, starts, ends, replies, asked;
	uint64_t asked_id;     /* of the last call */
	int reply;             /* status of the last */
	uint64_t last_n;       /* of the records that came */
	struct node_call call;
	unsigned answers;
	int status;
	struct result result;
} *t;

/* ---- the network ---------------------------------------------------------------- */

static int net_send(struct net *net, uint64_t peer, const void *head, size_t len,
		    struct entry *const *entries, unsigned n)
{
	struct cursor c = cursor_of(head, len);
	uint8_t type = cursor_u8(&c);
	struct record r;

	(void)net;
	(void)entries;
	assert_int_equal(peer, PEER);
	assert_int_equal(n, 0);
	t->asked += type == CALL;
	t->asked_id = cursor_u64(&c);
	if (type == RECORDS && t->refuse) {
		t->refused++;
		return t->refuse;
	}
	t->starts += type == START;
	t->ends += type == END;
	if (type == REPLY) {
		t->replies++;
		t->reply = (int)cursor_u32(&c);
	}
	while (type == RECORDS && cursor_left(&c)) {
		assert_int_equal(record_get_wire(&r, &c), 0);
		assert_int_equal(r.n, t->last_n + 1); /* no gap, nothing twice */
		t->last_n = r.n;
	}
	return 0;
}

static void net_flush(struct net *net)
{
	(void)net;
}

static bool net_is_up(struct net *net, uint64_t peer)
{
	(void)net;
	return peer == PEER;
}

static size_t net_queued(struct net *net, uint64_t peer)
{
	(void)net;
	assert_int_equal(peer, PEER);
	return t->queued;
}

static const struct net_ops ops = { net_send, net_flush, net_is_up, net_queued };

/* ---- the node -------------------------------------------------------------------- */

static void run(uint64_t us)
{
	uint64_t until = t->world.sim.now_us + us;

	world_poke(&t->world, 1);
	while (t->world.sim.n && t->world.sim.heap[0].at_us <= until)
		if (!world_step(&t->world))
			break;
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

static int propose(const struct cmd *cmd)
{
	unsigned before = t->answers;

	t->call = (struct node_call){ .cb = on_result };
	node_propose(t->node, 0, cmd, &t->call);
	run(20000);
	assert_int_equal(t->answers, before + 1);
	return t->status;
}

static struct cmd a_send(uint64_t seq)
{
	static uint8_t body[3000];
	struct cmd c = { .type = CMD_SEND };
	struct rand r;

	rand_seeded(&r, 1); /* nothing for LZ4 */
	rand_fill(&r, body, sizeof body);
	c.send = (struct cmd_send){ .to = ACCOUNT, .from = SENDER, .device = 1,
				    .cls = 1, .seq = seq, .after = seq - 1,
				    .body = body, .body_len = sizeof body };
	put_u64(c.send.mid, seq);
	return c;
}

static void send_one(uint64_t seq)
{
	struct cmd c = a_send(seq);

	assert_int_equal(propose(&c), 0);
	assert_int_equal(t->result.status, ST_OK);
	assert_int_equal(t->result.n, seq);
}

static void from_peer(struct buf *b)
{
	rpc_on_message(t->node, PEER, b->data, b->len);
	buf_release(b);
	run(20000);
}

static void subscribe(uint32_t window)
{
	struct buf b = BUF_INIT;

	buf_u8(&b, SUB);
	buf_u64(&b, SUB_ID);
	buf_u32(&b, 0);
	buf_u64(&b, ACCOUNT);
	buf_u32(&b, 1);
	buf_u32(&b, window);
	buf_u64(&b, 1);
	buf_u64(&b, 0); /* born */
	buf_u8(&b, 0);  /* again */
	from_peer(&b);
	assert_int_equal(t->starts, 1);
}

static int setup(void **state)
{
	struct world_config cfg = { .seed = 1, .nodes = 1 };
	struct cmd c = { .type = CMD_ACCOUNT_ADD, .account = ACCOUNT };
	struct node_config *n = &cfg.node;
	unsigned tries;

	(void)state;
	cfg.net.delay_min_us = cfg.net.delay_max_us = 100;
	world_config_small(&cfg);
	n->shards = 1;
	n->election_ms = 50;
	n->heartbeat_ms = 10;
	n->level.refuse = 98;
	t = xcalloc(1, sizeof *t);
	world_init(&t->world, &cfg);
	assert_true(world_start(&t->world, 1));
	t->node = t->world.nodes[1].node;
	t->net.ops = &ops;
	t->node->env.net = &t->net;
	for (tries = 0; !node_ready(t->node) && tries < 100; tries++)
		run(20000);
	assert_true(node_ready(t->node));
	assert_int_equal(propose(&c), 0);
	c.type = CMD_DEVICE_ADD;
	assert_int_equal(propose(&c), 0);
	assert_int_equal(t->result.device, 1);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	world_release(&t->world);
	free(t);
	return 0;
}

/* ---- tests ------------------------------------------------------------------------ */

static void test_a_full_link_is_waited_for(void **state)
{
	(void)state;
	send_one(1);
	subscribe(100);
	assert_int_equal(t->last_n, 1);
	t->queued = SUB_NET_BACKLOG_MAX + 1;
	send_one(2);
	run(500000);
	assert_int_equal(t->last_n, 1);
	/* It drains.  No credit comes and no message, and still: */
	t->queued = 0;
	run(500000);
	assert_int_equal(t->last_n, 2);
	assert_int_equal(t->ends, 0);
}

static void test_a_page_that_found_no_room_comes_again(void **state)
{
	uint64_t i;

	(void)state;
	subscribe(100);
	t->refuse = ERR_FULL;
	for (i = 1; i <= 5; i++)
		send_one(i);
	assert_true(t->refused > 0);
	assert_int_equal(t->last_n, 0);
	t->refuse = 0;
	run(500000);
	assert_int_equal(t->last_n, 5);
	send_one(6);
	assert_int_equal(t->last_n, 6);
	assert_int_equal(t->starts, 1);
	assert_int_equal(t->ends, 0);
}

static void test_the_window_holds_through_it(void **state)
{
	struct buf b = BUF_INIT;
	uint64_t i;

	(void)state;
	subscribe(3);
	t->refuse = ERR_FULL;
	for (i = 1; i <= 5; i++)
		send_one(i);
	t->refuse = 0;
	run(500000);
	assert_int_equal(t->last_n, 3);
	buf_u8(&b, CREDIT);
	buf_u64(&b, SUB_ID);
	buf_u64(&b, 2);
	buf_u32(&b, 3);
	buf_u8(&b, 2);
	from_peer(&b);
	assert_int_equal(t->last_n, 5);
}

static void ask_page(void)
{
	struct query q = { .type = QUERY_PAGE, .account = ACCOUNT, .from = 1 };
	struct buf b = BUF_INIT;

	buf_u8(&b, QUERY);
	buf_u64(&b, 77);
	buf_u32(&b, 0);
	query_encode(&b, &q);
	from_peer(&b);
}

static void test_pages_leave_room_for_what_is_small(void **state)
{
	(void)state;
	send_one(1);
	ask_page();
	assert_int_equal(t->replies, 1);
	assert_int_equal(t->reply, 0);
	t->queued = SUB_NET_BACKLOG_MAX + 1;
	ask_page();
	assert_int_equal(t->replies, 2);
	assert_int_equal(t->reply, ERR_BUSY);
}

static void test_a_malformed_command_is_not_proposed(void **state)
{
	struct cmd c = a_send(1);

	(void)state;
	c.send.ttl = TTL_MAX_S + 1;
	assert_int_equal(propose(&c), ERR_FORMAT);
	c.send.ttl = 0;
	c.send.body_len = BODY_MAX + 1;
	c.send.body = xcalloc(1, BODY_MAX + 1);
	assert_int_equal(propose(&c), ERR_FORMAT);
	free((void *)(uintptr_t)c.send.body);
	c = (struct cmd){ .type = CMD_CURSOR, .account = 0 };
	assert_int_equal(propose(&c), ERR_FORMAT);
	/* The node lives, and so does the number. */
	send_one(1);
}

static void test_a_disk_that_is_nearly_full_takes_no_sends(void **state)
{
	struct cmd c = a_send(2), cursor = { .type = CMD_CURSOR, .account = ACCOUNT,
					     .device = 1, .cursor = 1 };
	struct disk_sim *medium = t->world.nodes[1].medium;
	struct disk_sim_stats st;

	(void)state;
	send_one(1);
	disk_sim_stats(medium, &st);
	/* 2 % of it is left, less a page. */
	disk_sim_set_total(medium, st.used_bytes + st.used_bytes / 49 - 8192);
	run(1200000);
	assert_int_equal(propose(&c), ERR_NOSPACE);
	/* What makes room goes on. */
	assert_int_equal(propose(&cursor), 0);
	assert_int_equal(t->result.status, ST_OK);
	/* A little more is not enough to begin again; this is: */
	disk_sim_set_total(medium, st.used_bytes + st.used_bytes / 40);
	run(1200000);
	assert_int_equal(propose(&c), ERR_NOSPACE);
	disk_sim_set_total(medium, st.used_bytes * 2);
	run(1200000);
	send_one(2);
	assert_true(world_up(&t->world, 1));
}

/* A retry whose first record lies in a damaged segment: that shard stops on this
 * node, and says why; the node lives. */
static void test_damage_met_by_apply_stops_the_shard_only(void **state)
{
	struct node_shard_info info;
	struct buf b = BUF_INIT;
	struct cmd c = a_send(40);
	uint64_t seq, off;

	(void)state;
	subscribe(1000);
	for (seq = 1; seq <= 100; seq++)
		send_one(seq);
	assert_int_equal(t->last_n, 100);
	/* Frames 30 to 50 or so of a sealed segment, which nobody has in memory. */
	for (off = 100000; off < 160000; off += 1500)
		assert_true(disk_sim_flip(t->world.nodes[1].medium,
					  "shards/0000-1/seg/0000000000000000.0.seg",
					  off, 3));
	c.send.body_len = 10;
	assert_int_equal(propose(&c), ERR_UNKNOWN_OUTCOME);
	assert_true(world_up(&t->world, 1));
	node_shard_info(t->node, 0, &info);
	assert_true(info.faulty);
	assert_non_null(strstr(info.why, "damaged"));
	assert_false(node_ready(t->node));
	assert_int_equal(t->ends, 1); /* the peer's device looks elsewhere */
	/* The peer may have a sound replica: it is asked. */
	c = a_send(101);
	t->call = (struct node_call){ .cb = on_result };
	node_propose(t->node, 0, &c, &t->call);
	assert_int_equal(t->asked, 1);
	buf_u8(&b, REPLY);
	buf_u64(&b, t->asked_id);
	buf_u32(&b, (uint32_t)ERR_NOT_LEADER);
	from_peer(&b);
	assert_int_equal(t->status, ERR_NOT_LEADER);
	run(30000000); /* no checkpoint, no timer, no end */
	assert_true(world_up(&t->world, 1));
}

static void on_written(struct journal_req *r)
{
	(void)r;
}

/* Entries that wait in a ring which nobody empties: the stop gives them up when its
 * time is over, and not before. */
static void test_a_full_journal_does_not_hold_up_the_end(void **state)
{
	/* A shard that marks nothing.  The first burst is short, so that the last one
	 * does not end where the ring does: some of it must wait. */
	enum { SHARD = 9, LEN = 60000, MAX = 4096, SHORT = 8 };
	struct journal_req *reqs = xcalloc(MAX, sizeof *reqs);
	struct journal *j = t->node->journal;
	bool refused = false;
	unsigned n = 0;
	int rv;

	(void)state;
	for (;;) {
		struct entry *e = entry_new(SHARD, LEN);

		assert_true(n < MAX);
		memset(entry_payload(e), 1, LEN);
		e->term = 1;
		e->index = n + 1;
		reqs[n] = (struct journal_req){ .shard = SHARD, .entries = &e,
						.n_entries = 1, .cb = on_written };
		rv = journal_submit(j, &reqs[n]);
		entry_unref(e);
		if (!rv) {
			n++;
			refused = false;
			if (n == SHORT)
				run(100000);
			continue;
		}
		assert_int_equal(rv, ERR_FULL);
		assert_false(refused); /* full, and yet nothing waits */
		refused = true;
		run(100000);
		if (journal_stalled(j))
			break;
	}
	assert_false(journal_idle(j));
	world_stop(&t->world, 1);
	run(4500000);
	assert_true(world_up(&t->world, 1));
	run(1500000);
	assert_false(world_up(&t->world, 1));
	free(reqs);
}

#define T(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_full_link_is_waited_for),
		T(a_page_that_found_no_room_comes_again),
		T(the_window_holds_through_it),
		T(pages_leave_room_for_what_is_small),
		T(a_malformed_command_is_not_proposed),
		T(a_disk_that_is_nearly_full_takes_no_sends),
		T(damage_met_by_apply_stops_the_shard_only),
		T(a_full_journal_does_not_hold_up_the_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
