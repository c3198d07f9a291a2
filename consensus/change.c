/* Changes of groups asked for on any node: they go to the shard's leader, and what it
 * says comes back (messages: node_impl.h). */
#include "base/alloc.h"
#include "base/logf.h"
#include "consensus/node_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OP_TRANSFER 16
#define WHY_MAX 200

struct change {
	struct list link;      /* node->changes */
	struct shard *shard;
	struct node_change_call *call; /* of this node; NULL: of a peer */
	uint64_t peer, id;     /* who asked, and by which number; or who was asked */
	uint32_t asked_on;     /* node->links[peer] at that time */
	bool sent, done, in_group;
	struct group_change gc;
	uint8_t op;
	int status;
	char why[WHY_MAX];
};

static struct change *change_new(struct node *n, struct shard *s)
{
	struct change *x = xcalloc(1, sizeof *x);

	x->shard = s;
	list_append(&n->changes, &x->link);
	return x;
}

static void change_free(struct change *x)
{
	list_remove(&x->link);
	free(x);
}

/* True: a peer has asked and is answered; x is over.  False: its callback is due. */
static bool answer(struct node *n, struct change *x, int status, const char *why)
{
	x->in_group = x->sent = false;
	if (x->call) {
		x->done = true;
		x->status = status;
		snprintf(x->why, sizeof x->why, "%s", status ? why : "");
		n->woken = true;
		return false;
	}
	if (n->links[x->peer] == x->asked_on) {
		buf_clear(&n->scratch);
		buf_u8(&n->scratch, MSG_CHANGED);
		buf_u64(&n->scratch, x->id);
		buf_u32(&n->scratch, (uint32_t)status);
		buf_put(&n->scratch, why, status ? strlen(why) : 0);
		rpc_post(n, x->peer);
	}
	return true;
}

static void finish(struct node *n, struct change *x, int status, const char *why)
{
	if (answer(n, x, status, why))
		change_free(x);
}

/* ---- at the leader ----------------------------------------------------------------- */

static void on_changed(struct group_change *c, int status)
{
	struct change *x = c->arg;

	finish(x->shard->node, x, status, err_text(status));
}

/* The leader tells a node without an empty replica to make one. */
static int want_replica(struct shard *s, uint64_t id, struct err *e)
{
	struct node *n = s->node;

	if (!n->up_since_ms[id])
		return err_set(e, ERR_BUSY, "node %" PRIu64 " is not connected",
			       id);
	replica_ask(n, s->id, id);
	return err_set(e, ERR_BUSY,
		       "node %" PRIu64 " was told to make an empty replica of "
		       "shard %u", id, s->id);
}

static int transfer(struct shard *s, uint64_t to, struct err *e)
{
	int rv = group_transfer(s->group, to);

	if (rv)
		return err_set(e, rv, "shard %u to node %" PRIu64 ": %s", s->id,
			       to, err_text(rv));
	return 0;
}

static void run_here(struct node *n, struct change *x)
{
	struct shard *s = x->shard;
	struct err e = { 0 };
	int rv;

	if (!shard_works(s) || s->going || s->role != GROUP_LEADER) {
		finish(n, x, ERR_NOT_LEADER, "the node asked leads it no more");
		return;
	}
	if (x->op == OP_TRANSFER) {
		finish(n, x, transfer(s, x->gc.id, &e), e.msg);
		return;
	}
	x->gc.op = (enum group_change_op)x->op;
	x->gc.cb = on_changed;
	x->gc.arg = x;
	rv = group_change(s->group, &x->gc, &e);
	if (rv == ERR_NOT_FOUND && x->op == GROUP_ADD)
		rv = want_replica(s, x->gc.id, &e);
	if (rv) {
		finish(n, x, rv, e.msg);
		return;
	}
	x->in_group = true;
	shard_refresh_deadline(s);
}

static void on_change(struct node *n, uint64_t peer, struct cursor *c)
{
	uint64_t id = cursor_u64(c), node;
	uint32_t shard = cursor_u32(c);
	uint8_t op = cursor_u8(c), to_one;
	struct change *x;

	node = cursor_u64(c);
	to_one = cursor_u8(c);
	if (!cursor_done(c) || shard >= n->n_shards || to_one > 1 || !node ||
	    node >= NET_NODE_MAX || (op > GROUP_REMOVE && op != OP_TRANSFER)) {
		log_event(LOG_WARN, "peer_message_refused",
			  "peer=%" PRIu64 " type=%d why=\"malformed\"", peer,
			  MSG_CHANGE);
		return;
	}
	x = change_new(n, &n->shards[shard]);
	x->peer = peer;
	x->id = id;
	x->asked_on = n->links[peer];
	x->op = op;
	x->gc.id = node;
	x->gc.to_one = to_one;
	if (x->shard->role != GROUP_LEADER)
		lead_redirect(n, x->shard, peer);
	n->woken = true;
	run_here(n, x);
}

/* ---- where it was asked for --------------------------------------------------------- */

static void send_to(struct node *n, struct change *x, uint64_t peer)
{
	x->peer = peer;
	x->id = ++n->change_next;
	x->sent = true;
	buf_clear(&n->scratch);
	buf_u8(&n->scratch, MSG_CHANGE);
	buf_u64(&n->scratch, x->id);
	buf_u32(&n->scratch, x->shard->id);
	buf_u8(&n->scratch, x->op);
	buf_u64(&n->scratch, x->gc.id);
	buf_u8(&n->scratch, x->gc.to_one);
	if (rpc_post(n, peer))
		finish(n, x, ERR_UNAVAILABLE, "no way to the leader");
}

static void ask(struct node *n, uint32_t shard, uint8_t op, uint64_t id,
		bool to_one, struct node_change_call *call)
{
	struct change *x;
	uint64_t peer;

	if (shard >= n->n_shards)
		shard = n->n_shards; /* no such one: answered all the same */
	x = change_new(n, shard < n->n_shards ? &n->shards[shard] : NULL);
	x->call = call;
	x->op = op;
	x->gc.id = id;
	x->gc.to_one = to_one;
	n->woken = true;
	if (!x->shard || !id || id >= NET_NODE_MAX) {
		finish(n, x, ERR_INVALID, x->shard ? "no such node"
						   : "no such shard");
		return;
	}
	if (x->shard->role == GROUP_LEADER) {
		run_here(n, x);
		return;
	}
	peer = lead_of(n, x->shard);
	if (peer)
		send_to(n, x, peer);
	else
		finish(n, x, ERR_NOT_LEADER, "no leader is known");
}

void node_change(struct node *n, uint32_t shard, enum group_change_op op,
		 uint64_t id, bool to_one, struct node_change_call *c)
{
	ask(n, shard, (uint8_t)op, id, to_one, c);
}

void node_transfer_to(struct node *n, uint32_t shard, uint64_t to,
		      struct node_change_call *c)
{
	ask(n, shard, OP_TRANSFER, to, false, c);
}

static void on_answer(struct node *n, uint64_t peer, struct cursor *c)
{
	uint64_t id = cursor_u64(c);
	int status = (int)cursor_u32(c);
	size_t len = cursor_left(c);
	char why[WHY_MAX];

	if (c->bad)
		return;
	if (len >= sizeof why)
		len = sizeof why - 1;
	memcpy(why, c->p, len);
	why[len] = 0;
	LIST_FOREACH(it, &n->changes)
	{
		struct change *x = container_of(it, struct change, link);

		if (!x->sent || x->peer != peer || x->id != id)
			continue;
		lead_was_wrong(n, x->shard->id, peer, status);
		finish(n, x, status, why);
		return;
	}
}

bool change_on_message(struct node *n, uint64_t peer, uint8_t type,
		       struct cursor *c)
{
	switch (type) {
	case MSG_MAKE:
		replica_on_make(n, peer, c);
		return true;
	case MSG_CHANGE:
		on_change(n, peer, c);
		return true;
	case MSG_CHANGED:
		on_answer(n, peer, c);
		return true;
	default:
		return false;
	}
}

/* ---- ends ---------------------------------------------------------------------------- */

static struct change *take(struct node *n)
{
	struct list *it = list_pop(&n->changes);

	return it ? container_of(it, struct change, link) : NULL;
}

static unsigned count(struct node *n)
{
	unsigned k = 0;

	LIST_FOREACH(it, &n->changes)
		k++;
	return k;
}

bool changes_done(struct node *n)
{
	/* What a callback asks for waits for the next round. */
	unsigned left = count(n);
	struct change *x;
	bool did = false;

	while (left-- && (x = take(n)) != NULL) {
		struct node_change_call *call = x->call;
		char why[WHY_MAX];
		int status = x->status;

		if (!x->done) {
			list_append(&n->changes, &x->link);
			continue;
		}
		memcpy(why, x->why, sizeof why);
		free(x);
		call->cb(call, status, why);
		did = true;
	}
	return did;
}

/* The group of `s` is closed, or where that is NULL the link to `peer` is. */
static void gone(struct node *n, const struct shard *s, uint64_t peer,
		 const char *why)
{
	unsigned left = count(n);
	struct change *x;

	while (left-- && (x = take(n)) != NULL) {
		bool is = s ? x->in_group && x->shard == s
			    : x->sent && x->peer == peer;

		if (is && answer(n, x, ERR_UNKNOWN_OUTCOME, why))
			free(x);
		else
			list_append(&n->changes, &x->link);
	}
}

void changes_gone(struct shard *s)
{
	gone(s->node, s, 0, "the replica stopped");
}

void changes_on_down(struct node *n, uint64_t peer)
{
	gone(n, NULL, peer, "the leader's link broke");
}

void changes_close(struct node *n)
{
	struct list *it;

	while ((it = list_pop(&n->changes)))
		free(container_of(it, struct change, link));
}
