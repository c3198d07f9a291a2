/* Calls and subscriptions between nodes (consensus/rpc.c) under a peer that says
 * anything: three real nodes in simulated time, one shard.  The input is a script
 * of own calls, messages that the leader or a follower seems to get from a peer,
 * and time.  Group messages are left out, as raft trusts its voters.
 *
 * Held: nobody dies, each own call is answered exactly once, records of an own
 * subscription stop after its end. */
#include "base/assert.h"
#include "base/cursor.h"
#include "base/logf.h"
#include "consensus/node_impl.h"
#include "tests/lib/world.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CALLS_MAX = 16, SUBS_MAX = 4, STEPS_MAX = 64 };
enum { MSG_FIRST = 16, MSG_LAST = 24, CHANGES_FIRST = 40, CHANGES_LAST = 47 };
enum { CHANGES_MAX = 8 };

struct own_call {
	struct node_call call;
	unsigned node; /* 0: never asked */
	unsigned answers;
	bool cancelled;
};

struct own_sub {
	struct node_sub sub;
	unsigned node;
	bool on;
};

struct own_change {
	struct node_change_call call;
	unsigned answers;
};

struct script {
	struct world world;
	struct own_call calls[CALLS_MAX];
	struct own_sub subs[SUBS_MAX];
	struct own_change changes[CHANGES_MAX];
	unsigned n_calls, n_subs, n_changes, leader;
	uint64_t now_us;
	uint64_t ids[NET_NODE_MAX]; /* of the last call or subscription */
};

static void no_log(void *arg, const char *line)
{
	(void)arg;
	(void)line;
}

static void on_result(struct node_call *c, int status, const struct result *r)
{
	struct own_call *x = c->arg;

	AN(!status == !!r);
	AZ(x->cancelled);
	AN(++x->answers == 1);
}

static void on_start(struct node_sub *s, const struct result *r)
{
	AN(((struct own_sub *)s->arg)->on && r);
}

static void on_record(struct node_sub *s, const struct record *r)
{
	AN(((struct own_sub *)s->arg)->on && r);
}

static void on_flush(struct node_sub *s)
{
	AN(((struct own_sub *)s->arg)->on);
}

static void on_end(struct node_sub *s, int why)
{
	struct own_sub *x = s->arg;

	AN(why && x->on);
	x->on = false;
}

static void run(struct script *s, uint64_t us)
{
	unsigned i;

	/* The world's own clock stands still between events. */
	s->now_us += us;
	for (i = 1; i <= 3; i++)
		world_poke(&s->world, i);
	while (s->world.sim.n && s->world.sim.heap[0].at_us <= s->now_us)
		if (!world_step(&s->world))
			break;
	if (s->world.failure[0])
		WRONG(s->world.failure);
}

static bool leads(const struct script *s, unsigned node)
{
	struct node *n = s->world.nodes[node].node;

	return n && n->shards[0].role == GROUP_LEADER;
}

static void start(struct script *s)
{
	struct world_config cfg = { .seed = 1, .nodes = 3 };
	struct node_config *n = &cfg.node;
	unsigned i, tries;

	memset(s, 0, sizeof *s);
	cfg.net.delay_min_us = cfg.net.delay_max_us = 100;
	world_config_small(&cfg);
	n->shards = 1;
	n->election_ms = 50;
	n->heartbeat_ms = 10;
	world_init(&s->world, &cfg);
	for (i = 1; i <= 3; i++)
		AN(world_start(&s->world, i));
	for (tries = 0; !s->leader && tries < 200; tries++) {
		run(s, 10000);
		for (i = 1; i <= 3; i++)
			if (leads(s, i) && node_ready(s->world.nodes[i].node))
				s->leader = i;
	}
	AN(s->leader);
	s->now_us = s->world.sim.now_us;
	run(s, 50000);
}

/* ---- steps -------------------------------------------------------------------------- */

/* Node that does it: the leader, or the follower after it. */
static unsigned node_of(const struct script *s, uint8_t which)
{
	return which & 1 ? s->leader : s->leader % 3 + 1;
}

static void ask(struct script *s, struct cursor *c)
{
	uint8_t how = cursor_u8(c);
	struct own_call *x;
	struct node *n;

	if (s->n_calls == CALLS_MAX)
		return;
	x = &s->calls[s->n_calls++];
	x->node = node_of(s, how);
	x->call.cb = on_result;
	x->call.arg = x;
	n = s->world.nodes[x->node].node;
	if (how & 2) {
		struct query q = { .type = how & 4 ? QUERY_PAGE : QUERY_ACCOUNT,
				   .account = 7, .from = 1, .limit = 10,
				   .max_bytes = 1000 };

		node_query(n, 0, &q, &x->call);
	} else {
		struct cmd cmd = { .type = how & 4 ? CMD_DEVICE_ADD
						   : CMD_ACCOUNT_ADD,
				   .account = 7 };

		node_propose(n, 0, &cmd, &x->call);
	}
	if (call_priv(&x->call)->remote)
		s->ids[x->node] = call_priv(&x->call)->id;
}

static void on_changed(struct node_change_call *c, int status, const char *why)
{
	struct own_change *x = c->arg;

	AN(why && (status || !why[0]));
	AN(++x->answers == 1);
}

/* Changes that the leader refuses, or that leave a majority. */
static void change(struct script *s, struct cursor *c)
{
	uint8_t how = cursor_u8(c);
	struct node *n = s->world.nodes[node_of(s, how)].node;
	struct own_change *x;

	if (s->n_changes == CHANGES_MAX)
		return;
	x = &s->changes[s->n_changes++];
	x->call = (struct node_change_call){ .cb = on_changed, .arg = x };
	if (how & 2)
		node_transfer_to(n, 0, how >> 4, &x->call);
	else
		node_change(n, how & 4, (enum group_change_op)(how >> 6),
			    how >> 3 & 7, false, &x->call);
}

static void cancel(struct script *s, struct cursor *c)
{
	uint8_t i = cursor_u8(c);
	struct own_call *x = &s->calls[i % CALLS_MAX];

	if (!x->node || x->answers || x->cancelled)
		return;
	x->cancelled = true;
	node_call_cancel(s->world.nodes[x->node].node, &x->call);
}

static void subscribe(struct script *s, struct cursor *c)
{
	uint8_t how = cursor_u8(c);
	struct own_sub *x;

	if (s->n_subs == SUBS_MAX)
		return;
	x = &s->subs[s->n_subs++];
	x->node = node_of(s, how);
	x->on = true;
	x->sub = (struct node_sub){ .account = 7, .device = 1, .window = 8,
				    .start = on_start, .record = on_record,
				    .flush = on_flush, .end = on_end, .arg = x };
	node_subscribe(s->world.nodes[x->node].node, 0, &x->sub);
	if (sub_priv(&x->sub)->remote)
		s->ids[x->node] = sub_priv(&x->sub)->id;
}

static void unsubscribe(struct script *s, struct cursor *c)
{
	uint8_t how = cursor_u8(c);
	struct own_sub *x = &s->subs[how % SUBS_MAX];
	struct node *n = s->world.nodes[x->node].node;

	if (!x->on)
		return;
	if (how & 128) {
		x->on = false;
		node_unsubscribe(n, &x->sub);
	} else {
		node_sub_credit(n, &x->sub, how, how & 31);
		node_sub_pause(n, &x->sub, how & 64);
	}
}

/* Type, the id of something that is open at the receiver or a small number, and
 * the script's bytes. */
static void message(struct script *s, struct cursor *c, bool changes)
{
	uint8_t how = cursor_u8(c), type = cursor_u8(c), len = cursor_u8(c);
	unsigned to = node_of(s, how);
	uint64_t from = how & 2 ? s->leader : to % 3 + 1;
	struct buf m = BUF_INIT;
	const uint8_t *p;

	if (len > cursor_left(c))
		len = (uint8_t)cursor_left(c);
	p = cursor_bytes(c, len);
	if (type == 255) {
		/* A higher level ends a node, as it should. */
		buf_u8(&m, MSG_ABOUT);
		buf_put(&m, p, len);
		if (len >= 12 && get_u32(m.data + 9) > FEATURE_MAX)
			put_u32(m.data + 9, FEATURE_MAX);
		if (from != to)
			rpc_on_message(s->world.nodes[to].node, from, m.data,
				       m.len);
		buf_release(&m);
		return;
	}
	if (type >= 250) { /* members.h, placing.h */
		buf_u8(&m, (uint8_t)(MSG_MEMBERS + type % 5));
		buf_put(&m, p, len);
		if (from != to)
			rpc_on_message(s->world.nodes[to].node, from, m.data,
				       m.len);
		buf_release(&m);
		return;
	}
	buf_u8(&m, changes ? (uint8_t)(CHANGES_FIRST +
				       type % (CHANGES_LAST - CHANGES_FIRST + 1))
			   : (uint8_t)(MSG_FIRST +
				       type % (MSG_LAST - MSG_FIRST + 2)));
	if (!(how & 16))
		buf_u64(&m, how & 4 ? s->ids[to] : how >> 5);
	if (how & 8)
		buf_u32(&m, 0); /* shard, or status */
	buf_put(&m, p, len);
	if (from != to)
		rpc_on_message(s->world.nodes[to].node, from, m.data, m.len);
	buf_release(&m);
}

/* The link between two nodes breaks, or stands again. */
static void cut(struct script *s, struct cursor *c)
{
	uint8_t how = cursor_u8(c);
	unsigned a = how % 3 + 1, b = a % 3 + 1;

	net_sim_cut(s->world.net, a, b, how & 4);
	net_sim_cut(s->world.net, b, a, how & 4);
}

static void finish(struct script *s)
{
	unsigned i;

	net_sim_heal_all(s->world.net);
	run(s, 5000000);
	for (i = 0; i < s->n_calls; i++)
		AN(s->calls[i].cancelled || s->calls[i].answers == 1);
	for (i = 0; i < s->n_changes; i++)
		AN(s->changes[i].answers == 1);
	for (i = 0; i < s->n_subs; i++)
		if (s->subs[i].on)
			node_unsubscribe(s->world.nodes[s->subs[i].node].node,
					 &s->subs[i].sub);
	world_release(&s->world);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct script s;
	struct cursor c = cursor_of(data, size);
	unsigned steps;

	log_set_sink(no_log, NULL);
	start(&s);
	for (steps = 0; steps < STEPS_MAX && cursor_left(&c); steps++) {
		uint8_t op = cursor_u8(&c);

		if (op >= 192) {
			if (op & 1)
				change(&s, &c);
			else
				message(&s, &c, true);
			run(&s, 200);
			continue;
		}
		switch (op % 8) {
		case 0:
			ask(&s, &c);
			break;
		case 1:
			cancel(&s, &c);
			break;
		case 2:
			subscribe(&s, &c);
			break;
		case 3:
			unsubscribe(&s, &c);
			break;
		case 4:
			cut(&s, &c);
			break;
		case 5:
			run(&s, (uint64_t)(op >> 3) * 10000);
			break;
		default:
			message(&s, &c, false);
			break;
		}
		if (op & 64)
			run(&s, 200);
	}
	finish(&s);
	return 0;
}
