/* Calls and subscriptions that cross a link: a gateway's node asks, the shard
 * leader's node answers.  Message layouts (after the type byte, little endian):
 *
 *   CALL     id u64, shard u32, command (cmd.h)
 *   QUERY    id u64, shard u32, query
 *   REPLY    id u64, status i32, result
 *   SUB      id u64, shard u32, account u64, device u32, window u32, from u64,
 *            born u64, again u8
 *   CREDIT   id u64, acked u64, window u32, paused u8
 *   UNSUB    id u64
 *   START    id u64, result
 *   RECORDS  id u64, record (record_put_wire), repeated to the end
 *   END      id u64, why i32
 *   LEAVING  nothing: the sender stops
 *   LEVEL    u8: how full the sender's disk is (level.h)
 *   ABOUT    what its program knows, and what is in force (feature.h)
 *
 * Ids are the asker's.  A broken link ends everything that crossed it: calls
 * with an unknown outcome, subscriptions with ERR_UNAVAILABLE. */
#include "base/alloc.h"
#include "base/assert.h"
#include "base/cursor.h"
#include "base/logf.h"
#include "consensus/node_impl.h"

#include <inttypes.h>
#include <stdlib.h>

enum rpc_message {
	MSG_CALL = 16,
	MSG_QUERY = 17,
	MSG_REPLY = 18,
	MSG_SUB = 19,
	MSG_CREDIT = 20,
	MSG_UNSUB = 21,
	MSG_START = 22,
	MSG_RECORDS = 23,
	MSG_END = 24,
	MSG_LEAVING = 25,
	MSG_LEVEL = 26,
};

/* ---- what this node asked of others ------------------------------------------- */

#define NO_SLOT UINT32_MAX

void remotes_init(struct remotes *r)
{
	memset(r, 0, sizeof *r);
	r->free_head = NO_SLOT;
}

void remotes_release(struct remotes *r)
{
	free(r->slots);
}

static uint64_t remote_add(struct remotes *r, void *what, uint32_t shard,
			   uint64_t peer, bool is_sub, bool is_query,
			   uint32_t *slot)
{
	uint32_t i = r->free_head;
	struct remote *m;

	if (i != NO_SLOT) {
		r->free_head = r->slots[i].next_free;
	} else {
		if (r->used == r->cap) {
			r->cap = r->cap ? 2 * r->cap : 256;
			AN(r->cap <= REMOTE_SLOTS_MAX);
			r->slots = xrealloc(r->slots,
					    r->cap * sizeof *r->slots);
		}
		i = r->used++;
		r->slots[i].gen = 1;
	}
	m = &r->slots[i];
	m->what = what;
	m->shard = shard;
	m->peer = peer;
	m->is_sub = is_sub;
	m->is_query = is_query;
	*slot = i + 1;
	return i | (uint64_t)m->gen << 20;
}

static void remote_del(struct remotes *r, uint32_t i)
{
	struct remote *m = &r->slots[i];

	m->what = NULL;
	m->gen = (m->gen + 1) & 0xfffffff;
	m->next_free = r->free_head;
	r->free_head = i;
}

static struct remote *remote_find(struct remotes *r, uint64_t peer, uint64_t id)
{
	uint32_t i = (uint32_t)(id & (REMOTE_SLOTS_MAX - 1));

	/* An answer to something that was given up is dropped in silence. */
	if (i >= r->used || !r->slots[i].what || r->slots[i].gen != id >> 20 ||
	    r->slots[i].peer != peer)
		return NULL;
	return &r->slots[i];
}

static uint8_t *head(struct node *n, uint8_t type, uint64_t id)
{
	uint8_t *p;

	buf_clear(&n->scratch);
	p = buf_extend(&n->scratch, 9);
	p[0] = type;
	put_u64(p + 1, id);
	return p;
}

int rpc_post(struct node *n, uint64_t peer)
{
	return n->env.net->ops->send(n->env.net, peer, n->scratch.data,
				     n->scratch.len, NULL, 0);
}

static void call_remote(struct node *n, struct node_call *c, uint32_t shard,
			uint64_t peer, bool is_query)
{
	struct call_priv *cp = call_priv(c);
	int rv;

	put_u64(n->scratch.data + 1,
		cp->id = remote_add(&n->remotes, c, shard, peer, false, is_query,
				    &cp->remote));
	rv = rpc_post(n, peer);
	if (rv) {
		remote_del(&n->remotes, cp->remote - 1);
		cp->remote = 0;
		node_call_finish(n, c,
				 rv == ERR_FULL ? ERR_BUSY : ERR_UNAVAILABLE);
	}
}

void rpc_propose(struct node *n, struct shard *s, const struct cmd *cmd,
		 struct node_call *c)
{
	uint64_t peer;
	int rv;

	if (s->role == GROUP_LEADER) {
		struct waiter w = { .call = c };

		buf_clear(&n->scratch);
		cmd_encode(&n->scratch, cmd);
		rv = shard_propose(s, n->scratch.data, n->scratch.len, &w);
		if (rv)
			node_call_finish(n, c, rv);
		return;
	}
	peer = lead_of(n, s);
	if (!peer) {
		node_call_finish(n, c, ERR_NOT_LEADER);
		return;
	}
	head(n, MSG_CALL, 0);
	buf_u32(&n->scratch, s->id);
	cmd_encode(&n->scratch, cmd);
	call_remote(n, c, s->id, peer, false);
}

void rpc_query(struct node *n, struct shard *s, const struct query *q,
	       struct node_call *c)
{
	uint64_t peer;
	int rv;

	if (s->role == GROUP_LEADER) {
		struct waiter w = { .call = c };

		rv = shard_query(s, q, &w);
		if (rv)
			node_call_finish(n, c, rv);
		return;
	}
	peer = lead_of(n, s);
	if (!peer) {
		node_call_finish(n, c, ERR_NOT_LEADER);
		return;
	}
	head(n, MSG_QUERY, 0);
	buf_u32(&n->scratch, s->id);
	query_encode(&n->scratch, q);
	call_remote(n, c, s->id, peer, true);
}

void rpc_forget_call(struct node *n, struct node_call *c)
{
	struct call_priv *cp = call_priv(c);

	if (cp->remote)
		remote_del(&n->remotes, cp->remote - 1);
	cp->remote = 0;
}

void rpc_subscribe(struct node *n, struct shard *s, struct node_sub *sub)
{
	struct sub_priv *sp = sub_priv(sub);
	uint64_t peer;
	int rv;

	sp->shard = s;
	if (s->role == GROUP_LEADER) {
		struct follower *f = xcalloc(1, sizeof *f);

		f->account = sub->account;
		f->device = sub->device;
		f->next_n = sub->from;
		f->window = sub->window;
		f->born_ms = sub->born_ms;
		f->again = sub->again;
		f->local = sub;
		sp->follower = f;
		shard_follow(s, f);
		return;
	}
	peer = lead_of(n, s);
	if (!peer) {
		node_sub_finish(n, sub, ERR_NOT_LEADER);
		return;
	}
	sp->id = remote_add(&n->remotes, sub, s->id, peer, true, false,
			    &sp->remote);
	head(n, MSG_SUB, sp->id);
	buf_u32(&n->scratch, s->id);
	buf_u64(&n->scratch, sub->account);
	buf_u32(&n->scratch, sub->device);
	buf_u32(&n->scratch, sub->window);
	buf_u64(&n->scratch, sub->from);
	buf_u64(&n->scratch, sub->born_ms);
	buf_u8(&n->scratch, sub->again);
	rv = rpc_post(n, peer);
	if (rv)
		node_sub_finish(n, sub, ERR_UNAVAILABLE);
}

/* paused: -1 leaves it as it is. */
void rpc_sub_state(struct node *n, struct node_sub *sub, uint64_t acked,
		   uint32_t window, int paused)
{
	struct sub_priv *sp = sub_priv(sub);

	sub->window = window;
	if (sp->follower) {
		struct follower *f = sp->follower;

		if (acked > f->acked)
			f->acked = acked;
		f->window = window;
		if (paused >= 0)
			f->paused = paused;
		shard_follower_wake(sp->shard, f);
	} else if (sp->remote) {
		uint64_t peer = n->remotes.slots[sp->remote - 1].peer;

		head(n, MSG_CREDIT, sp->id);
		buf_u64(&n->scratch, acked);
		buf_u32(&n->scratch, window);
		buf_u8(&n->scratch, paused < 0 ? 2 : (uint8_t)paused);
		if (rpc_post(n, peer) == ERR_FULL)
			node_sub_finish(n, sub, ERR_UNAVAILABLE);
	}
}

void rpc_unsubscribe(struct node *n, struct node_sub *sub)
{
	struct sub_priv *sp = sub_priv(sub);

	if (sp->follower) {
		shard_unfollow(sp->shard, sp->follower);
		sp->follower = NULL;
	}
	if (sp->remote) {
		uint64_t peer = n->remotes.slots[sp->remote - 1].peer;

		remote_del(&n->remotes, sp->remote - 1);
		sp->remote = 0;
		head(n, MSG_UNSUB, sp->id);
		rpc_post(n, peer);
	}
}

/* ---- answers ---------------------------------------------------------------------- */

void waiter_answer(struct node *n, const struct waiter *w, int status,
		   const struct result *r)
{
	if (w->call) {
		if (status || !r)
			node_call_finish(n, w->call, status);
		else
			node_call_result(n, w->call, r);
		return;
	}
	/* Cancelled, nobody's, or of a link that broke: who asked then may be
	 * gone, and its next life gives the same ids to other calls. */
	if (!w->peer || w->link != n->links[w->peer])
		return;
	/* A slow peer's pages would take the room of all that is small. */
	if (r && r->records_len &&
	    n->env.net->ops->queued(n->env.net, w->peer) > SUB_NET_BACKLOG_MAX)
		status = ERR_BUSY;
	head(n, MSG_REPLY, w->id);
	buf_u32(&n->scratch, (uint32_t)status);
	if (!status && r)
		result_encode(&n->scratch, r);
	rpc_post(n, w->peer);
}

void follower_start(struct node *n, struct follower *f, const struct result *r)
{
	if (f->local) {
		f->local->start(f->local, r);
		return;
	}
	head(n, MSG_START, f->id);
	result_encode(&n->scratch, r);
	rpc_post(n, f->peer);
}

void follower_record(struct node *n, struct follower *f, const struct record *r)
{
	if (f->local) {
		f->local->record(f->local, r);
		return;
	}
	if (!n->page.len) {
		buf_u8(&n->page, MSG_RECORDS);
		buf_u64(&n->page, f->id);
	}
	record_put_wire(&n->page, r);
}

int follower_flush(struct node *n, struct follower *f)
{
	int rv;

	if (f->local) {
		f->local->flush(f->local);
		return 0;
	}
	if (!n->page.len)
		return 0;
	rv = n->env.net->ops->send(n->env.net, f->peer, n->page.data,
				   n->page.len, NULL, 0);
	buf_clear(&n->page);
	return rv;
}

void follower_end(struct node *n, struct follower *f, int why)
{
	if (f->local) {
		sub_priv(f->local)->follower = NULL;
		node_sub_finish(n, f->local, why);
		f->local = NULL;
		return;
	}
	head(n, MSG_END, f->id);
	buf_u32(&n->scratch, (uint32_t)why);
	rpc_post(n, f->peer);
}

/* ---- messages of peers -------------------------------------------------------------- */

static struct shard *shard_by_id(struct node *n, uint32_t id)
{
	return id < n->n_shards ? &n->shards[id] : NULL;
}

static void on_call(struct node *n, uint64_t peer, struct cursor *c)
{
	struct waiter w = { .peer = peer, .link = n->links[peer],
			    .id = cursor_u64(c) };
	uint32_t shard = cursor_u32(c);
	struct shard *s = shard_by_id(n, shard);
	int rv = ERR_FORMAT;

	if (!c->bad && s)
		rv = shard_propose(s, c->p, cursor_left(c), &w);
	if (rv == ERR_NOT_LEADER)
		lead_redirect(n, s, peer);
	if (rv)
		waiter_answer(n, &w, rv, NULL);
}

static void on_query(struct node *n, uint64_t peer, struct cursor *c)
{
	struct waiter w = { .peer = peer, .link = n->links[peer],
			    .id = cursor_u64(c) };
	uint32_t shard = cursor_u32(c);
	struct shard *s = shard_by_id(n, shard);
	struct query q;
	struct err e;
	int rv;

	if (c->bad || !s)
		rv = ERR_FORMAT;
	else
		rv = query_decode(&q, c->p, cursor_left(c), &e);
	if (!rv)
		rv = shard_query(s, &q, &w);
	if (rv == ERR_NOT_LEADER)
		lead_redirect(n, s, peer);
	if (rv)
		waiter_answer(n, &w, rv, NULL);
}

static void on_reply(struct node *n, uint64_t peer, struct cursor *c)
{
	uint64_t id = cursor_u64(c);
	int status = (int)cursor_u32(c);
	struct remote *m = remote_find(&n->remotes, peer, id);
	struct node_call *call;
	struct result r;
	struct err e;

	if (!m || m->is_sub || c->bad)
		return;
	call = m->what;
	lead_was_wrong(n, m->shard, peer, status);
	rpc_forget_call(n, call);
	if (!status && result_decode(&r, c->p, cursor_left(c), &e))
		status = ERR_UNKNOWN_OUTCOME;
	if (status)
		node_call_finish(n, call, status);
	else
		node_call_result(n, call, &r);
}

static void on_sub(struct node *n, uint64_t peer, struct cursor *c)
{
	uint64_t id = cursor_u64(c), key = peer << 48 ^ id;
	struct shard *s = shard_by_id(n, cursor_u32(c));
	struct follower tmp = { .peer = peer, .id = id }, *f;

	tmp.account = cursor_u64(c);
	tmp.device = cursor_u32(c);
	tmp.window = cursor_u32(c);
	tmp.next_n = cursor_u64(c);
	tmp.born_ms = cursor_u64(c);
	tmp.again = cursor_u8(c);
	if (!cursor_done(c) || !s || map_get(&n->peer_followers, key) ||
	    n->peer_followers.len >= NODE_SUBS_MAX) {
		follower_end(n, &tmp, ERR_UNAVAILABLE);
		return;
	}
	if (s->role != GROUP_LEADER || !shard_works(s)) {
		lead_redirect(n, s, peer);
		follower_end(n, &tmp, ERR_NOT_LEADER);
		return;
	}
	f = xmalloc(sizeof *f);
	*f = tmp;
	f->shard = s;
	map_put(&n->peer_followers, key, f);
	shard_follow(s, f);
}

static void on_credit(struct node *n, uint64_t peer, struct cursor *c)
{
	uint64_t id = cursor_u64(c), acked = cursor_u64(c);
	uint32_t window = cursor_u32(c);
	uint8_t paused = cursor_u8(c);
	struct follower *f = map_get(&n->peer_followers, peer << 48 ^ id);

	if (!f || !cursor_done(c))
		return;
	if (acked > f->acked)
		f->acked = acked;
	f->window = window;
	if (paused < 2)
		f->paused = paused;
	shard_follower_wake(f->shard, f);
}

static void on_unsub(struct node *n, uint64_t peer, struct cursor *c)
{
	uint64_t id = cursor_u64(c);
	struct follower *f = map_get(&n->peer_followers, peer << 48 ^ id);

	if (f)
		shard_unfollow(f->shard, f);
}

static struct node_sub *sub_of(struct node *n, uint64_t peer, struct cursor *c)
{
	uint64_t id = cursor_u64(c);
	struct remote *m = remote_find(&n->remotes, peer, id);

	return m && m->is_sub && !c->bad ? m->what : NULL;
}

static void on_start(struct node *n, uint64_t peer, struct cursor *c)
{
	struct node_sub *sub = sub_of(n, peer, c);
	struct result r;
	struct err e;

	if (!sub)
		return;
	if (result_decode(&r, c->p, cursor_left(c), &e))
		node_sub_finish(n, sub, ERR_UNAVAILABLE);
	else
		sub->start(sub, &r);
}

static void on_records(struct node *n, uint64_t peer, struct cursor *c)
{
	struct node_sub *sub = sub_of(n, peer, c);
	uint32_t slot;

	if (!sub)
		return;
	slot = sub_priv(sub)->remote - 1;
	while (cursor_left(c)) {
		struct record r;

		if (record_get_wire(&r, c)) {
			node_sub_finish(n, sub, ERR_UNAVAILABLE);
			return;
		}
		sub->record(sub, &r);
		if (n->remotes.slots[slot].what != sub)
			return; /* it left inside the callback */
	}
	sub->flush(sub);
}

static void on_end(struct node *n, uint64_t peer, struct cursor *c)
{
	struct node_sub *sub = sub_of(n, peer, c);
	int why = (int)cursor_u32(c);

	if (!sub)
		return;
	lead_was_wrong(n, sub_priv(sub)->shard->id, peer, why);
	node_sub_finish(n, sub, c->bad || !why ? ERR_UNAVAILABLE : why);
}

static void on_group(struct node *n, uint64_t peer, struct cursor *c)
{
	struct shard *s = shard_by_id(n, cursor_u32(c));
	struct err e = { 0 };

	if (!s || !shard_works(s) || c->bad)
		return;
	if (group_receive(s->group, peer, c->p, cursor_left(c), &e))
		log_event(LOG_WARN, "peer_message_refused",
			  "peer=%" PRIu64 " shard=%u why=%s", peer, s->id,
			  log_quote(e.msg));
	shard_refresh_deadline(s);
}

void rpc_on_message(void *arg, uint64_t peer, const uint8_t *p, size_t len)
{
	struct node *n = arg;
	struct cursor c = cursor_of(p, len);
	uint8_t type = cursor_u8(&c);

	if (n->dead || n->deaf)
		return;
	if (n->feature.foreign >> peer & 1 && type != MSG_ABOUT)
		return;
	switch (type) {
	case NODE_MSG_GROUP:
		on_group(n, peer, &c);
		break;
	case MSG_CALL:
		on_call(n, peer, &c);
		break;
	case MSG_QUERY:
		on_query(n, peer, &c);
		break;
	case MSG_REPLY:
		on_reply(n, peer, &c);
		break;
	case MSG_SUB:
		on_sub(n, peer, &c);
		break;
	case MSG_CREDIT:
		on_credit(n, peer, &c);
		break;
	case MSG_UNSUB:
		on_unsub(n, peer, &c);
		break;
	case MSG_START:
		on_start(n, peer, &c);
		break;
	case MSG_RECORDS:
		on_records(n, peer, &c);
		break;
	case MSG_END:
		on_end(n, peer, &c);
		break;
	case MSG_LEAVING:
		n->leaving[peer] = true;
		break;
	case MSG_LEVEL:
		type = cursor_u8(&c);
		if (!c.bad)
			node_disk_heard(n, peer, type);
		break;
	case MSG_ABOUT:
		feature_on_about(n, peer, &c);
		break;
	default:
		if (snap_on_message(n, peer, type, &c) ||
		    members_on_message(n, peer, type, &c) ||
		    placing_on_message(n, peer, type, &c) ||
		    lead_on_message(n, peer, type, &c) ||
		    change_on_message(n, peer, type, &c))
			break;
		log_event(LOG_WARN, "peer_message_refused",
			  "peer=%" PRIu64 " type=%u why=\"unknown type\"", peer,
			  type);
	}
}

void rpc_leaving(struct node *n, uint64_t to)
{
	uint64_t peer;

	for (peer = 1; peer < NET_NODE_MAX; peer++) {
		if (!n->up_since_ms[peer] || (to && peer != to))
			continue;
		buf_clear(&n->scratch);
		buf_u8(&n->scratch, MSG_LEAVING);
		n->env.net->ops->send(n->env.net, peer, n->scratch.data,
				      n->scratch.len, NULL, 0);
	}
}

int rpc_level(struct node *n, uint64_t peer)
{
	buf_clear(&n->scratch);
	buf_u8(&n->scratch, MSG_LEVEL);
	buf_u8(&n->scratch, (uint8_t)n->level);
	return rpc_post(n, peer);
}

void rpc_on_up(void *arg, uint64_t peer)
{
	struct node *n = arg;
	uint32_t i;

	if (n->dead)
		return;
	log_event(LOG_INFO, "peer_up", "peer=%" PRIu64, peer);
	n->up_since_ms[peer] = clock_ms(n->env.clock);
	n->leaving[peer] = false;
	if (n->going)
		rpc_leaving(n, peer);
	feature_peer_up(n, peer); /* first, before anything of its level */
	node_disk_peer_up(n, peer);
	members_on_up(n, peer);
	for (i = 0; i < n->n_shards; i++) {
		struct shard *s = &n->shards[i];

		if (!shard_works(s))
			continue;
		group_peer_up(s->group, peer);
		shard_refresh_deadline(s);
	}
	snap_on_up(n, peer);
	lead_on_up(n, peer);
}

static void peer_followers_drop(struct node *n, uint64_t peer)
{
	bool again = true;

	while (again) {
		again = false;
		MAP_FOREACH(slot, &n->peer_followers)
		{
			struct follower *f = slot->val;

			if (f->peer == peer) {
				shard_unfollow(f->shard, f);
				again = true;
				break; /* the map has moved */
			}
		}
	}
}

void rpc_on_down(void *arg, uint64_t peer)
{
	struct node *n = arg;
	uint32_t i;

	if (n->dead)
		return;
	log_event(LOG_INFO, "peer_down", "peer=%" PRIu64, peer);
	n->up_since_ms[peer] = 0;
	n->links[peer]++;
	feature_peer_down(n, peer);
	node_disk_judge(n);
	for (i = 0; i < n->remotes.used; i++) {
		struct remote *m = &n->remotes.slots[i];

		if (!m->what || m->peer != peer)
			continue;
		if (m->is_sub) {
			node_sub_finish(n, m->what, ERR_UNAVAILABLE);
		} else {
			struct node_call *c = m->what;
			bool query = m->is_query;

			rpc_forget_call(n, c);
			node_call_finish(n, c,
					 query ? ERR_UNAVAILABLE
					       : ERR_UNKNOWN_OUTCOME);
		}
	}
	peer_followers_drop(n, peer);
	lead_on_down(n, peer);
	changes_on_down(n, peer);
	for (i = 0; i < n->n_shards; i++) {
		struct shard *s = &n->shards[i];

		if (!shard_works(s))
			continue;
		group_peer_down(s->group, peer);
		shard_refresh_deadline(s);
	}
}
