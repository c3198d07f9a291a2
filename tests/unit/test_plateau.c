/* What is kept stays within what can be computed: one node, one busy shard, in simulated
 * time.  No device acknowledges anything; only time lets records go. */
#include "base/alloc.h"
#include "base/bytes.h"
#include "consensus/node_impl.h"
#include "tests/lib/world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { SHARD = 1, ANNE = 11, BERT = 22, BODY = 40, SECOND = 1000000, SEGMENT = 64 << 10 };

static struct story {
	struct world w;
	struct node_call call;
	struct cmd cmd;
	bool answered;
	struct result res;
	uint64_t seq;
} *t;

static void run(uint64_t us)
{
	uint64_t until = t->w.sim.now_us + us;

	while (t->w.sim.n && t->w.sim.heap[0].at_us <= until)
		if (!world_step(&t->w))
			break;
	if (t->w.failure[0])
		fail_msg("%s", t->w.failure);
}

static struct node *node(void)
{
	return t->w.nodes[1].node;
}

static void on_answer(struct node_call *c, int status, const struct result *r)
{
	(void)c;
	assert_int_equal(status, 0);
	t->answered = true;
	t->res = *r;
}

static void propose(void)
{
	t->answered = false;
	t->call = (struct node_call){ .cb = on_answer };
	node_propose(node(), SHARD, &t->cmd, &t->call);
	world_poke(&t->w, 1);
	while (!t->answered)
		run(1000);
	assert_int_equal(t->res.status, 0);
}

static void policy(uint64_t ttl_ms)
{
	t->cmd = (struct cmd){ .type = CMD_RETAIN };
	t->cmd.retain.op = RETAIN_POLICY;
	t->cmd.retain.ttl_ms = ttl_ms;
	propose();
}

static void account(uint64_t id)
{
	t->cmd = (struct cmd){ .type = CMD_ACCOUNT_ADD, .account = id };
	propose();
	t->cmd.type = CMD_DEVICE_ADD;
	propose();
}

static void send_to(uint64_t to, uint32_t ttl_s)
{
	static uint8_t body[BODY];
	struct cmd_send *s = &t->cmd.send;

	t->cmd = (struct cmd){ .type = CMD_SEND, .account = to };
	*s = (struct cmd_send){ .to = to, .from = ANNE, .device = 1, .cls = 1,
				.ttl = ttl_s, .seq = ++t->seq, .body = body,
				.body_len = BODY };
	put_u64(s->mid, t->seq);
	rand_fill(&t->w.sim.rand, body, BODY);
	propose();
}

static void begin(uint64_t ttl_ms)
{
	struct world_config cfg = { .seed = 3, .nodes = 1 };

	world_config_small(&cfg);
	cfg.node.shards = 2;
	cfg.node.election_ms = 200;
	cfg.node.heartbeat_ms = 50;
	cfg.node.store.segment_bytes = SEGMENT;
	cfg.node.checkpoint_age_ms = 2000;
	cfg.node.retain = (struct retain_config){ .enabled = true, .period_ms = 1000,
						  .rate = 64 << 20, .live = 30,
						  .roll_ms = 86400 * 1000 };
	t = xcalloc(1, sizeof *t);
	world_init(&t->w, &cfg);
	assert_true(world_start(&t->w, 1));
	while (node()->shards[SHARD].role != GROUP_LEADER ||
	       node()->feature.level < FEATURE_MAX)
		run(SECOND / 10);
	policy(ttl_ms);
	account(ANNE);
	account(BERT);
}

static void end(void)
{
	world_release(&t->w);
	free(t);
}

static uint32_t segments(void)
{
	return store_segments(node()->shards[SHARD].store);
}

/* One record lives long and all behind it briefly, in segments that are not worth being
 * written anew: when it goes, they all go with it. */
static void the_first_holds_back_the_others_only_while_it_lives(void **state)
{
	uint64_t sent_us;
	uint32_t most;

	(void)state;
	begin(60000);
	send_to(BERT, 0);
	sent_us = t->w.sim.now_us;
	while (segments() < 12)
		send_to(BERT, 1);
	most = segments();
	assert_true(t->w.sim.now_us < sent_us + 20 * SECOND);
	run(sent_us + 59 * SECOND - t->w.sim.now_us);
	assert_true(segments() >= most);
	run(6 * SECOND);
	assert_true(segments() <= 1);
	end();
}

/* A shard with a record now and then keeps no open segment for a day where records live
 * for seconds. */
static void an_open_segment_is_sealed_in_time(void **state)
{
	uint64_t records;
	unsigned i;

	(void)state;
	begin(8000);
	for (i = 0; i < 20; i++) {
		send_to(BERT, 0);
		run(SECOND);
		/* 8 s of life, a quarter of it open, and the looks. */
		assert_true(segments() <= 7);
	}
	assert_true(store_trimmed(node()->shards[SHARD].store) > 4);
	run(16 * SECOND);
	/* What tells of the last trims is no reason for another one. */
	assert_int_equal(segments(), 1);
	records = store_meta(node()->shards[SHARD].store)->next_offset;
	assert_true(store_trimmed(node()->shards[SHARD].store) >= records - 4);
	run(60 * SECOND);
	assert_int_equal(store_meta(node()->shards[SHARD].store)->next_offset, records);
	end();
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_first_holds_back_the_others_only_while_it_lives),
		cmocka_unit_test(an_open_segment_is_sealed_in_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
