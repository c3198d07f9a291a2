/* Raft messages to peers and back.  Little endian, after the group's head:
 *
 *   kind u8
 *   APPEND         term u64, prev u64, prev_term u64, commit u64, n u32,
 *                  n x (term u64, len u32), then the n payloads
 *   APPEND_RESULT  term u64, rejected u64, last u64
 *   VOTE           term u64, last u64, last_term u64, flags u8 (1 pre-vote,
 *                  2 disrupt the leader)
 *   VOTE_RESULT    term u64, flags u8 (1 pre-vote, 2 granted)
 *   TIMEOUT_NOW    term u64, last u64, last_term u64
 *   PROBE          seq u64
 *   PROBE_RESULT   term u64, seq u64
 *   NEEDED         term u64, index u64
 *   JOINING        life u64, index u64 and term u64 (0: unknown) of the entry since
 *                  which it is a member, joins u8
 *   REMOVED        life u64, index u64, term u64: with all applied up to there, that
 *                  replica is no member
 *
 * A replica that joined puts its life (u64) behind a RESULT; a founder nothing.
 *
 * What the core must never see is stopped here: each guard names its bug. */
#include "consensus/raft_impl.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/logf.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define APPEND_ROW 12 /* bytes per entry in an APPEND's table */

/* ---- out ------------------------------------------------------------------------ */

void msg_begin(struct group *g, enum group_msg kind)
{
	buf_clear(&g->out);
	buf_u8(&g->out, NODE_MSG_GROUP);
	buf_u32(&g->out, g->cfg.shard);
	buf_u8(&g->out, (uint8_t)kind);
}

/* Nothing leaves while a term or vote of ours is not durable.  A message that is
 * lost for want of room is one that the link lost: raft sends again. */
bool msg_post(struct group *g, uint64_t peer, struct entry *const *es,
		      unsigned n)
{
	struct held_msg *h;
	unsigned i;

	if (!g->net)
		return false;
	if (!g->votes_pending)
		return !g->net->ops->send(g->net, peer, g->out.data, g->out.len,
					  es, n);
	if (g->n_held >= GROUP_HELD_MAX)
		return false;
	h = xcalloc(1, sizeof *h + n * sizeof(struct entry *));
	h->peer = peer;
	buf_put(&h->head, g->out.data, g->out.len);
	h->n = n;
	for (i = 0; i < n; i++)
		h->entries[i] = entry_ref(es[i]);
	list_append(&g->held, &h->link);
	g->n_held++;
	return true;
}

static void held_free(struct held_msg *h)
{
	unsigned i;

	for (i = 0; i < h->n; i++)
		entry_unref(h->entries[i]);
	buf_release(&h->head);
	free(h);
}

void msg_held_flush(struct group *g)
{
	struct list *it;

	while ((it = list_pop(&g->held))) {
		struct held_msg *h = container_of(it, struct held_msg, link);

		if (!g->broken)
			g->net->ops->send(g->net, h->peer, h->head.data,
					  h->head.len, h->entries, h->n);
		held_free(h);
	}
	g->n_held = 0;
}

void msg_release(struct group *g)
{
	struct list *it;

	while ((it = list_pop(&g->held)))
		held_free(container_of(it, struct held_msg, link));
	buf_release(&g->out);
}

/* Entries of one message, up to the limits; references in es[]. */
static unsigned append_gather(struct group *g, uint64_t index, unsigned n,
			      struct entry **es)
{
	size_t bytes = 0;
	unsigned k = 0;

	if (n > GROUP_INFLIGHT_MAX)
		n = GROUP_INFLIGHT_MAX;
	while (k < n && bytes < GROUP_AE_BYTES_MAX) {
		struct entry *e = log_get(g, index + k);

		if (!e)
			break;
		if (k && bytes + e->len > GROUP_AE_BYTES_MAX) {
			entry_unref(e);
			break;
		}
		bytes += e->len;
		es[k++] = e;
	}
	return k;
}

static bool append_one(struct group *g, uint64_t peer,
		       const struct raft_append_entries *a,
		       struct entry *const *es, unsigned n)
{
	unsigned i;

	msg_begin(g, GM_APPEND);
	buf_u64(&g->out, a->term);
	buf_u64(&g->out, a->prev_log_index);
	buf_u64(&g->out, a->prev_log_term);
	buf_u64(&g->out, a->leader_commit);
	buf_u32(&g->out, n);
	for (i = 0; i < n; i++) {
		buf_u64(&g->out, es[i]->term);
		buf_u32(&g->out, es[i]->len);
	}
	return msg_post(g, peer, es, n);
}

static void lag_report(struct group *g, uint64_t peer, uint64_t index)
{
	g->lagging |= 1ull << peer;
	if (g->peers[peer].lag_reported)
		return;
	g->peers[peer].lag_reported = true;
	log_event(LOG_WARN, "follower_behind_journal",
		  "shard=%u peer=%" PRIu64 " needs=%" PRIu64, g->cfg.shard,
		  peer, index);
}

/* A link delivers in order or breaks, so what went out in this term on this link
 * need not go again: not when the follower has been slow for a heartbeat (B22).
 * It may have had no room for it, though, hence once per election timeout. */
static void append_skip_sent(struct group *g, uint64_t peer,
			     struct raft_append_entries *a)
{
	struct group_peer *p = &g->peers[peer];
	uint64_t end = a->prev_log_index + a->n_entries, term;

	if (p->sent_term != a->term || p->sent_upto <= a->prev_log_index ||
	    g->now_ms - p->sent_ms >= g->cfg.election_ms)
		return;
	if (end <= p->sent_upto) {
		g->resent += a->n_entries;
		a->n_entries = 0;
		return;
	}
	term = log_term(g, p->sent_upto);
	if (!term)
		return;
	g->resent += p->sent_upto - a->prev_log_index;
	a->n_entries = (unsigned)(end - p->sent_upto);
	a->prev_log_index = p->sent_upto;
	a->prev_log_term = term;
}

static void append_send(struct group *g, uint64_t peer,
			const struct raft_append_entries *msg)
{
	struct group_peer *p = &g->peers[peer];
	struct raft_append_entries a = *msg;
	struct entry *es[GROUP_INFLIGHT_MAX];
	unsigned left, n, i;
	bool sent;

	if (!g->net || !g->net->ops->is_up(g->net, peer))
		return;
	if (a.n_entries)
		append_skip_sent(g, peer, &a);
	left = a.n_entries;
	/* With a full window each submit makes an empty message (B15). */
	if (!left && p->ae_any && p->ae_ms == g->now_ms &&
	    p->ae_term == a.term && p->ae_prev == a.prev_log_index &&
	    p->ae_commit == a.leader_commit)
		return;
	do {
		n = left ? append_gather(g, a.prev_log_index + 1, left, es) : 0;
		if (left && !n)
			lag_report(g, peer, a.prev_log_index + 1);
		sent = append_one(g, peer, &a, es, n);
		p->ae_any = sent;
		p->ae_ms = g->now_ms;
		p->ae_term = a.term;
		p->ae_commit = a.leader_commit;
		if (n) {
			a.prev_log_index += n;
			a.prev_log_term = es[n - 1]->term;
			left -= n;
			if (sent) {
				p->sent_term = a.term;
				p->sent_upto = a.prev_log_index;
				p->sent_ms = g->now_ms;
			}
		} else {
			left = 0;
		}
		p->ae_prev = a.prev_log_index;
		for (i = 0; i < n; i++)
			entry_unref(es[i]);
	} while (left && sent);
}

/* Who answers: binaries from before there were lives send and take none. */
void msg_life_put(struct group *g)
{
	if (g->cfg.life)
		buf_u64(&g->out, g->cfg.life);
}

uint64_t msg_life_get(struct cursor *c)
{
	uint64_t life;

	if (c->bad || !cursor_left(c))
		return 0;
	life = cursor_u64(c);
	if (!life)
		c->bad = true;
	return life;
}

void msg_send(struct group *g, const struct raft_message *m)
{
	uint64_t peer = m->server_id;

	AN(peer > 0 && peer < NET_NODE_MAX);
	switch (m->type) {
	case RAFT_APPEND_ENTRIES:
		append_send(g, peer, &m->append_entries);
		return;
	case RAFT_APPEND_ENTRIES_RESULT:
		msg_begin(g, GM_APPEND_RESULT);
		buf_u64(&g->out, m->append_entries_result.term);
		buf_u64(&g->out, m->append_entries_result.rejected);
		buf_u64(&g->out, m->append_entries_result.last_log_index);
		msg_life_put(g);
		break;
	case RAFT_REQUEST_VOTE:
		msg_begin(g, GM_VOTE);
		buf_u64(&g->out, m->request_vote.term);
		buf_u64(&g->out, m->request_vote.last_log_index);
		buf_u64(&g->out, m->request_vote.last_log_term);
		buf_u8(&g->out,
		       (uint8_t)(m->request_vote.pre_vote |
				 m->request_vote.disrupt_leader << 1));
		break;
	case RAFT_REQUEST_VOTE_RESULT:
		msg_begin(g, GM_VOTE_RESULT);
		/* A pre-vote's answer repeats the asker's term and so never
		 * teaches a higher one (B18). */
		buf_u64(&g->out, g->prevote_from == peer
					 ? raft_current_term(&g->raft)
					 : m->request_vote_result.term);
		buf_u8(&g->out,
		       (uint8_t)(m->request_vote_result.pre_vote |
				 m->request_vote_result.vote_granted << 1));
		msg_life_put(g);
		break;
	case RAFT_TIMEOUT_NOW:
		msg_begin(g, GM_TIMEOUT_NOW);
		buf_u64(&g->out, m->timeout_now.term);
		buf_u64(&g->out, m->timeout_now.last_log_index);
		buf_u64(&g->out, m->timeout_now.last_log_term);
		break;
	case RAFT_INSTALL_SNAPSHOT:
		/* Its fields are uninitialised, and no core ever installs: the
		 * owner offers what it has (B2, install.h). */
		lag_report(g, peer, 0);
		return;
	default:
		WRONG("unknown message from the core");
	}
	msg_post(g, peer, NULL, 0);
}

void msg_send_probe(struct group *g, uint64_t peer)
{
	msg_begin(g, GM_PROBE);
	buf_u64(&g->out, g->probe_seq);
	msg_post(g, peer, NULL, 0);
}

void msg_send_joining(struct group *g, uint64_t peer,
		      const struct group_since *since, bool joins)
{
	msg_begin(g, GM_JOINING);
	buf_u64(&g->out, g->cfg.life);
	buf_u64(&g->out, since->index);
	buf_u64(&g->out, since->term);
	buf_u8(&g->out, joins);
	msg_post(g, peer, NULL, 0);
}

void msg_send_removed(struct group *g, uint64_t peer, uint64_t life)
{
	msg_begin(g, GM_REMOVED);
	buf_u64(&g->out, life);
	buf_u64(&g->out, g->applied);
	buf_u64(&g->out, g->applied_term);
	msg_post(g, peer, NULL, 0);
}

/* ---- in ------------------------------------------------------------------------- */

int msg_refuse(struct err *e, uint64_t from, const char *what)
{
	return err_set(e, ERR_PROTOCOL, "%s from node %" PRIu64, what, from);
}

int msg_receive(struct group *g, uint64_t from, struct raft_message *m)
{
	struct raft_event ev = { 0 };

	m->server_id = from;
	m->server_address = raft_addr(g->addr, from);
	ev.type = RAFT_RECEIVE;
	ev.receive.message = m;
	return core_step(g, &ev);
}

/* B1, B2: the core answers an append of a lower term with whatever is on its
 * stack as last index, and a leader elected in our term would commit by it. */
static void append_refuse_stale(struct group *g, uint64_t from)
{
	g->dropped_stale++;
	msg_begin(g, GM_APPEND_RESULT);
	buf_u64(&g->out, raft_current_term(&g->raft));
	buf_u64(&g->out, UINT64_MAX);
	buf_u64(&g->out, 0);
	msg_life_put(g);
	msg_post(g, from, NULL, 0);
}

struct append {
	uint64_t term, prev, prev_term, commit;
	uint32_t n;
	const uint8_t *table, *payloads;
};

static const char *append_decode(struct cursor *c, struct append *a)
{
	uint64_t last_term;
	uint32_t i;

	a->term = cursor_u64(c);
	a->prev = cursor_u64(c);
	a->prev_term = cursor_u64(c);
	a->commit = cursor_u64(c);
	a->n = cursor_u32(c);
	if (c->bad || a->n > GROUP_AE_ENTRIES_MAX)
		return "malformed append";
	a->table = cursor_bytes(c, (size_t)a->n * APPEND_ROW);
	if (c->bad)
		return "short append";
	a->payloads = c->p;
	last_term = a->prev_term;
	if (!a->term || !a->prev != !a->prev_term || last_term > a->term ||
	    a->prev > UINT64_MAX / 2)
		return "impossible append";
	for (i = 0; i < a->n; i++) {
		uint64_t term = get_u64(a->table + i * APPEND_ROW);
		uint32_t len = get_u32(a->table + i * APPEND_ROW + 8);
		const uint8_t *p;

		if (!term || term < last_term || term > a->term)
			return "append with terms out of order";
		last_term = term;
		if (!len || len > ENTRY_PAYLOAD_MAX)
			return "append with a bad length";
		p = cursor_bytes(c, len);
		if (!p)
			return "short append";
		if (p[0] < GROUP_COMMAND || p[0] > GROUP_CHANGE)
			return "entry of unknown type";
		if (p[0] == GROUP_CHANGE && !conf_valid(p + 1, len - 1))
			return "refused configuration";
	}
	return cursor_done(c) ? NULL : "append with trailing bytes";
}

static void append_drop_first(struct append *a)
{
	a->prev++;
	a->prev_term = get_u64(a->table);
	a->payloads += get_u32(a->table + 8);
	a->table += APPEND_ROW;
	a->n--;
}

/* B9: nothing below our compaction point reaches the core; what is committed
 * there is the leader's too. */
static void append_trim(struct group *g, struct append *a)
{
	if (a->prev < g->trail_first && a->prev < g->snap_index) {
		while (a->n && a->prev < g->snap_index)
			append_drop_first(a);
		if (a->prev <= g->snap_index) {
			a->prev = g->snap_index;
			a->prev_term = g->snap_term;
		}
	}
	/* Entries that we hold already need no copy. */
	while (a->n && a->prev < g->cache.last && a->prev >= g->snap_index &&
	       log_term(g, a->prev + 1) == get_u64(a->table))
		append_drop_first(a);
	/* Our journal is full: take the heartbeat, not the entries. */
	if (g->n_waiting)
		a->n = 0;
}

/* A change that follows another one proves that one committed: its leader made it
 * only then.  The core goes back to the last configuration that it knows to be
 * committed when a tail is cut, and must know of it (B4); entry 1 is committed by
 * agreement. */
static void append_commit_change(struct group *g, uint64_t from, uint64_t term,
				 uint64_t prev, uint64_t prev_term)
{
	struct raft_message m = { .type = RAFT_APPEND_ENTRIES };
	struct raft_append_entries *ae = &m.append_entries;

	if (!g->n_changes || g->changes[g->n_changes - 1] > prev ||
	    g->changes[g->n_changes - 1] <= raft_commit_index(&g->raft) ||
	    log_term(g, prev) != prev_term)
		return;
	ae->term = term;
	ae->prev_log_index = prev;
	ae->prev_log_term = prev_term;
	ae->leader_commit = g->changes[g->n_changes - 1];
	msg_receive(g, from, &m);
}

/* One step per piece, so that each change is the first entry of its step: the
 * core gives a change the index of the first (B4). */
static void append_pieces(struct group *g, uint64_t from,
			  const struct append *a, struct entry **es,
			  struct raft_entry *re)
{
	uint64_t prev_term = a->prev_term;
	uint32_t at = 0;

	calm_down(g);
	do {
		struct raft_message m = { .type = RAFT_APPEND_ENTRIES };
		struct raft_append_entries *ae = &m.append_entries;
		uint32_t end = at, i;

		if (at < a->n)
			end++;
		while (end < a->n && re[end].type != RAFT_CHANGE)
			end++;
		ae->term = a->term;
		ae->prev_log_index = a->prev + at;
		ae->prev_log_term = prev_term;
		ae->leader_commit = a->commit;
		if (end > at && re[at].type == RAFT_CHANGE) {
			append_commit_change(g, from, a->term, a->prev + at,
					     prev_term);
			if (g->broken)
				break;
		}
		if (!ae->prev_log_index && end > at && !ae->leader_commit)
			ae->leader_commit = 1;
		ae->n_entries = end - at;
		/* B3: a low probe would move the core's commit index back, and
		 * with it what it defends against conflicts. */
		if (ae->prev_log_index + ae->n_entries <
		    raft_commit_index(&g->raft))
			ae->leader_commit = 0;
		ae->entries = re + at;
		if (end > at) {
			/* The core frees it when it keeps nothing. */
			void *batch = raft_malloc(1);

			AN(batch);
			for (i = at; i < end; i++)
				re[i].batch = batch;
			prev_term = re[end - 1].term;
		}
		g->in_raft = re + at;
		g->in_entries = es + at;
		g->in_n = end - at;
		g->in_batch = true;
		msg_receive(g, from, &m);
		g->in_raft = NULL;
		g->in_n = 0;
		at = end;
	} while (at < a->n && !g->broken && g->cache.last >= a->prev + at);
}

static int on_append(struct group *g, uint64_t from, struct cursor *c,
		     struct err *e)
{
	struct entry *small[16], **es = small;
	struct raft_entry small_re[16], *re = small_re;
	struct append a;
	const char *why = append_decode(c, &a);
	uint32_t i;

	if (why)
		return msg_refuse(e, from, why);
	if (a.term < raft_current_term(&g->raft)) {
		append_refuse_stale(g, from);
		return 0;
	}
	if (a.term == raft_current_term(&g->raft) && group_leads(g)) {
		log_event(LOG_ERROR, "two_leaders",
			  "shard=%u term=%" PRIu64 " peer=%" PRIu64,
			  g->cfg.shard, a.term, from);
		return msg_refuse(e, from, "append of our own term");
	}
	g->heard_leader_ms = group_now(g);
	append_trim(g, &a);
	if (a.n > 16) {
		es = xmalloc(a.n * sizeof *es);
		re = xmalloc(a.n * sizeof *re);
	}
	for (i = 0; i < a.n; i++) {
		uint32_t len = get_u32(a.table + i * APPEND_ROW + 8);

		es[i] = entry_new(g->cfg.shard, len);
		memcpy(entry_payload(es[i]), a.payloads, len);
		a.payloads += len;
		memset(&re[i], 0, sizeof re[i]);
		re[i].term = get_u64(a.table + i * APPEND_ROW);
		re[i].type = (enum raft_entry_type)entry_payload(es[i])[0];
		re[i].buf.base = entry_payload(es[i]) + 1;
		re[i].buf.len = len - 1;
	}
	append_pieces(g, from, &a, es, re);
	if (g->tell) {
		g->tell = false;
		group_tell_matched(g, from);
	}
	for (i = 0; i < a.n; i++)
		entry_unref(es[i]);
	if (es != small) {
		free(es);
		free(re);
	}
	return 0;
}

/* The voter to lead next: it answers, keeps what it acks, and has the most.  While a
 * transfer waits for its target nobody writes, and this one is tried again for as
 * long as it takes: one that is slow would stop the group for half of the time.
 * 0: none. */
static uint64_t follower_best(const struct group *g)
{
	const struct raft_configuration *c = &g->raft.configuration;
	uint64_t best = 0, most = 0;
	unsigned i;

	for (i = 0; i < c->n; i++) {
		uint64_t id = c->servers[i].id;
		const struct group_peer *p = &g->peers[id];
		raft_index match = 0;

		if (id == g->cfg.self || c->servers[i].role != RAFT_VOTER ||
		    !g->net->ops->is_up(g->net, id) || p->short_ms ||
		    !p->heard_ms || g->now_ms - p->heard_ms >= g->cfg.election_ms)
			continue;
		raft_match_index(&g->raft, id, &match);
		if (match > most) {
			most = match;
			best = id;
		}
	}
	return best;
}

/* It says again and again that it lacks what it had acked: its disk has lost it, with
 * nothing left to see that by.  The core's match index never falls, so under this
 * leader it would stay behind for good; the next one begins without an opinion. */
static void follower_short(struct group *g, uint64_t from, uint64_t last,
			   uint64_t match)
{
	struct group_peer *p = &g->peers[from];
	uint64_t now = group_now(g), to;

	if (!p->short_ms)
		p->short_ms = now;
	/* Late rejections look the same, but an answer with more follows. */
	if (now - p->short_ms < 2 * (uint64_t)g->cfg.election_ms)
		return;
	p->short_ms = now;
	log_event(LOG_ERROR, "follower_lost_entries",
		  "shard=%u peer=%" PRIu64 " acked=%" PRIu64 " has=%" PRIu64,
		  g->cfg.shard, from, match, last);
	to = follower_best(g);
	if (to)
		group_transfer(g, to);
}

static int on_append_result(struct group *g, uint64_t from, struct cursor *c,
			    struct err *e)
{
	struct raft_message m = { .type = RAFT_APPEND_ENTRIES_RESULT };
	struct raft_append_entries_result *r = &m.append_entries_result;
	raft_index match = 0;
	uint64_t life;

	r->version = 2;
	r->term = cursor_u64(c);
	r->rejected = cursor_u64(c);
	r->last_log_index = cursor_u64(c);
	life = msg_life_get(c);
	if (!cursor_done(c) || !r->term)
		return msg_refuse(e, from, "malformed append result");
	/* What another replica on that node has, a member's successor has not. */
	if (!peer_is(g, from, life)) {
		g->dropped_strange++;
		return 0;
	}
	g->peers[from].heard_ms = group_now(g);
	if (r->rejected) {
		/* It has not kept what we sent. */
		g->peers[from].sent_upto = 0;
		/* B11: a late rejection of what has matched since aborts, and
		 * so does the answer of one that has lost what it had. */
		if (group_leads(g) && r->term == raft_current_term(&g->raft) &&
		    !raft_match_index(&g->raft, from, &match) &&
		    (r->rejected <= match || r->last_log_index < match)) {
			g->dropped_rej++;
			if (r->last_log_index < match)
				follower_short(g, from, r->last_log_index, match);
			return 0;
		}
	} else {
		g->peers[from].short_ms = 0;
	}
	msg_receive(g, from, &m);
	transfer_poll(g);
	return 0;
}

static int on_probe(struct group *g, uint64_t from, struct cursor *c,
		    struct err *e)
{
	uint64_t seq = cursor_u64(c);

	if (!cursor_done(c))
		return msg_refuse(e, from, "malformed probe");
	msg_begin(g, GM_PROBE_RESULT);
	buf_u64(&g->out, raft_current_term(&g->raft));
	buf_u64(&g->out, seq);
	msg_life_put(g);
	msg_post(g, from, NULL, 0);
	return 0;
}

/* What a leader's journal keeps for a slow follower the others must keep too: one
 * of them may lead next, and there is no way to what no leader has. */
void group_tell_needed(struct group *g)
{
	const struct raft_configuration *c = &g->raft.configuration;
	unsigned i;

	if (g->broken || !g->net || !group_leads(g))
		return;
	msg_begin(g, GM_NEEDED);
	buf_u64(&g->out, raft_current_term(&g->raft));
	buf_u64(&g->out, group_needed_index(g));
	for (i = 0; i < c->n; i++)
		if (c->servers[i].id != g->cfg.self &&
		    g->net->ops->is_up(g->net, c->servers[i].id))
			msg_post(g, c->servers[i].id, NULL, 0);
}

static int on_needed(struct group *g, uint64_t from, struct cursor *c,
		     struct err *e)
{
	uint64_t term = cursor_u64(c), index = cursor_u64(c);

	/* 0: a leader that has not heard of all followers yet. */
	if (!cursor_done(c) || !term)
		return msg_refuse(e, from, "malformed needed index");
	if (term == raft_current_term(&g->raft) && !group_leads(g))
		g->needed = index;
	return 0;
}

static int on_probe_result(struct group *g, uint64_t from, struct cursor *c,
			   struct err *e)
{
	uint64_t term = cursor_u64(c), seq = cursor_u64(c), life = msg_life_get(c);

	if (!cursor_done(c))
		return msg_refuse(e, from, "malformed probe result");
	if (peer_is(g, from, life))
		reads_on_probe_result(g, from, term, seq);
	else
		g->dropped_strange++;
	return 0;
}

static int on_joining(struct group *g, uint64_t from, struct cursor *c,
		      struct err *e)
{
	uint64_t life = cursor_u64(c);
	struct group_since since = { .index = cursor_u64(c) };
	uint8_t joins;

	since.term = cursor_u64(c);
	joins = cursor_u8(c);

	if (!cursor_done(c) || joins > 1 || (joins && !life))
		return msg_refuse(e, from, "malformed word of a joining replica");
	on_joining_heard(g, from, life, &since, joins);
	return 0;
}

static int on_removed(struct group *g, uint64_t from, struct cursor *c,
		      struct err *e)
{
	uint64_t life = cursor_u64(c), index = cursor_u64(c), term = cursor_u64(c);

	if (!cursor_done(c) || !index || !term)
		return msg_refuse(e, from, "malformed word of a removal");
	on_removed_heard(g, life, index, term);
	return 0;
}

int group_receive(struct group *g, uint64_t from, const uint8_t *p, size_t n,
		  struct err *e)
{
	struct cursor c = cursor_of(p, n);

	if (from < 1 || from >= NET_NODE_MAX || from == g->cfg.self)
		return msg_refuse(e, from, "message");
	if (g->broken || g->frozen)
		return 0;
	switch (cursor_u8(&c)) {
	case GM_APPEND:
		return on_append(g, from, &c, e);
	case GM_APPEND_RESULT:
		return on_append_result(g, from, &c, e);
	case GM_VOTE:
		return on_vote(g, from, &c, e);
	case GM_VOTE_RESULT:
		return on_vote_result(g, from, &c, e);
	case GM_TIMEOUT_NOW:
		return on_timeout_now(g, from, &c, e);
	case GM_PROBE:
		return on_probe(g, from, &c, e);
	case GM_NEEDED:
		return on_needed(g, from, &c, e);
	case GM_PROBE_RESULT:
		return on_probe_result(g, from, &c, e);
	case GM_JOINING:
		return on_joining(g, from, &c, e);
	case GM_REMOVED:
		return on_removed(g, from, &c, e);
	default:
		return msg_refuse(e, from, "unknown message kind");
	}
}
