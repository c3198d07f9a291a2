/* What holds between replicas: looked at after every turn of a node, with eyes
 * that no user has. */
#include "base/alloc.h"
#include "base/assert.h"
#include "base/bytes.h"
#include "base/hash.h"
#include "consensus/node_impl.h"
#include "tests/sim/run.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* The state of a shard at an applied index, from whoever got there first. */
struct point {
	uint8_t chain[32];
	uint64_t next_offset, clock;
	unsigned node;
};

static uint64_t stored_of(struct run *r, unsigned node, uint32_t shard)
{
	const struct node *n = r->world.nodes[node].node;
	struct group_info gi;
	unsigned i;

	group_info(n->shards[shard].group, &gi);
	for (i = 0; i < gi.conf.n; i++)
		if (gi.conf.members[i].id == node)
			return gi.member_match[i];
	/* One that joins, and has not its own configuration yet. */
	return journal_shard(n->journal, shard)->last_index;
}

/* Layout of group messages: consensus/raft_msg.c. */
enum { MSG_SHARD = 1, MSG_KIND = 5, MSG_TERM = 6, MSG_BODY = 14 };
enum { APPEND_RESULT = 2, VOTE = 3, VOTE_RESULT = 4 };
enum { VOTE_PRE = 1, VOTE_GRANTED = 2 };

/* An answer to entries says what its sender has: nothing more counts as stored
 * than is, and no refusal invents a place to go on from (raft.md B1). */
static void look_append_result(struct run *r, unsigned from, unsigned to,
			       uint32_t shard, const uint8_t *body)
{
	uint64_t rejected = get_u64(body), last = get_u64(body + 8);

	if (rejected == UINT64_MAX) /* nothing of it was looked at */
		return;
	/* An empty replica refuses what does not begin with the first entry. */
	if (!r->world.nodes[from].node->shards[shard].group)
		return; /* it spoke before it went */
	if (rejected ? !last && stored_of(r, from, shard)
		     : last > stored_of(r, from, shard))
		run_fail(r, "node %u tells node %u that its log of shard %u "
			    "ends at %" PRIu64 " (%s), and has %" PRIu64,
			 from, to, shard, last,
			 rejected ? "refused" : "stored",
			 stored_of(r, from, shard));
}

/* Nobody hears of a vote or a term that a power cut could still take back. */
static void look_vote(struct run *r, unsigned from, unsigned to, uint32_t shard,
		      uint64_t term, uint64_t vote)
{
	const struct journal_shard *js = journal_shard(
		r->world.nodes[from].node->journal, shard);

	if (js->term < term || (vote && js->term == term && js->vote != vote))
		run_fail(r, "node %u speaks to node %u of term %" PRIu64
			    " of shard %u and a vote for %" PRIu64
			    ", and has term %" PRIu64 " and a vote for %" PRIu64,
			 from, to, term, shard, vote, js->term, js->vote);
}

static void on_message(void *arg, unsigned from, unsigned to, const uint8_t *p,
		       size_t n)
{
	struct run *r = arg;
	const uint8_t *body = p + MSG_BODY;
	uint64_t term;
	uint32_t shard;

	if (n < MSG_BODY + 1 || p[0] != NODE_MSG_GROUP)
		return;
	shard = get_u32(p + MSG_SHARD);
	term = get_u64(p + MSG_TERM);
	switch (p[MSG_KIND]) {
	case APPEND_RESULT:
		look_vote(r, from, to, shard, term, 0);
		look_append_result(r, from, to, shard, body);
		break;
	case VOTE:
		if (!(body[16] & VOTE_PRE))
			look_vote(r, from, to, shard, term, from);
		break;
	case VOTE_RESULT:
		if (!(body[0] & VOTE_PRE))
			look_vote(r, from, to, shard, term,
				  body[0] & VOTE_GRANTED ? to : 0);
		break;
	default:
		break;
	}
}

void replicas_init(struct run *r)
{
	map_init(&r->chains);
	map_init(&r->leaders);
	net_sim_tap(r->world.net, on_message, r);
}

void replicas_release(struct run *r)
{
	MAP_FOREACH(slot, &r->chains)
		free(slot->val);
	map_release(&r->chains);
	map_release(&r->leaders);
}

static void look_leader(struct run *r, const struct shard *s, unsigned node)
{
	uint64_t key = (uint64_t)s->id << 48 ^ s->term;
	unsigned i;
	void *was;

	if (s->role != GROUP_LEADER)
		return;
	was = map_put(&r->leaders, key, &r->world.nodes[node]);
	if (was && was != &r->world.nodes[node])
		run_fail(r, "shard %u has two leaders in term %" PRIu64, s->id,
			 s->term);
	for (i = 1; i <= r->world.cfg.nodes; i++)
		if (i != node && chaos_leads(r, i, s->id)) {
			chaos_two_leaders(r, s->id);
			break;
		}
}

/* A leader knows of no entry at a follower that is not there, and commits none
 * that is not durable on a majority. */
static void look_stored(struct run *r, const struct shard *s, unsigned node)
{
	struct group_info gi;
	unsigned i, have = 0;
	uint64_t own;

	/* What a wiped disk had still counts: its votes do not. */
	if (r->world.nodes[node].wiped)
		return;
	group_info(s->group, &gi);
	r->term[node][s->id] = gi.term;
	own = stored_of(r, node, s->id);
	r->coverage.seen[COVER_TRUNCATED] += own < r->stored[node][s->id];
	r->coverage.seen[COVER_LONE] += gi.n_voters == 1 && r->world.cfg.nodes > 1;
	r->stored[node][s->id] = own;
	for (i = 0; i < gi.n_voters; i++) {
		unsigned peer = (unsigned)gi.voters[i];
		uint64_t *stored = &r->stored[peer][s->id];

		if (peer != node && gi.role == GROUP_LEADER && gi.match[i] > *stored &&
		    gi.match[i] > r->retired[peer][s->id] &&
		    r->term[peer][s->id] <= gi.term)
			run_fail(r, "shard %u: leader %u counts %" PRIu64
				    " entries at node %u, which has %" PRIu64,
				 s->id, node, gi.match[i], peer, *stored);
		have += *stored >= gi.commit_index ||
			r->retired[peer][s->id] >= gi.commit_index;
	}
	/* A follower may have the configuration before the one that its leader counts
	 * by, of which this entry needs no majority. */
	if (gi.role != GROUP_LEADER && r->p.weight[FAULT_MEMBER])
		return;
	/* Entry 1 is the first configuration, the same everywhere from birth. */
	if (gi.commit_index > 1 && gi.conf_committed && have <= gi.n_voters / 2)
		run_fail(r, "shard %u: node %u commits %" PRIu64
			    ", which %u of %u nodes have", s->id, node,
			 gi.commit_index, have, gi.n_voters);
}

static void look_state(struct run *r, const struct shard *s, unsigned node)
{
	const struct store_meta *m = store_meta(s->store);
	uint64_t key = (uint64_t)s->id << 48 ^ m->applied_index;
	struct point *p = map_get(&r->chains, key);

	if (!p) {
		p = xcalloc(1, sizeof *p);
		memcpy(p->chain, m->chain, 32);
		p->next_offset = m->next_offset;
		p->clock = m->clock;
		p->node = node;
		map_put(&r->chains, key, p);
		return;
	}
	if (memcmp(p->chain, m->chain, 32) || p->next_offset != m->next_offset ||
	    p->clock != m->clock)
		run_fail(r, "shard %u at index %" PRIu64
			    ": node %u has another history than node %u",
			 s->id, m->applied_index, node, p->node);
}

/* No replica knows a cursor that the device has not on its storage. */
static void look_cursors(struct run *r, struct shard *s, unsigned node)
{
	unsigned i, k;

	for (i = 0; i < r->p.accounts; i++) {
		if (node_shard_of(s->node, r->ids[i]) != s->id)
			continue;
		for (k = 0; k < r->p.devices[i]; k++) {
			struct device *d = r->devices[i][k];
			struct result res = { 0 };

			if (!d || !d->device ||
			    !machine_device(&s->machine, d->account, d->device,
					    &res))
				continue;
			if (res.cursor > d->store.state.meta.cursor)
				run_fail(r, "node %u has cursor %" PRIu64
					    " of device %u.%u, which stored %"
					    PRIu64, node, res.cursor, i, k + 1,
					 d->store.state.meta.cursor);
		}
	}
}

/* What the journal has of a replica only grows: the mark, and the folder in force. */
static void look_journal(struct run *r, const struct shard *s, unsigned node)
{
	const struct journal_shard *js = journal_shard(s->node->journal, s->id);
	uint64_t *mark = &r->mark[node][s->id];
	uint32_t *inc = &r->incarnation[node][s->id];

	r->coverage.seen[COVER_INSTALLED] += js->incarnation > *inc &&
					     js->mark_index;
	/* A replica that is gone leaves no mark. */
	if (((js->mark_index < *mark && (js->mark_index || js->incarnation == *inc)) ||
	     js->incarnation < *inc) &&
	    !r->world.nodes[node].rotten)
		run_fail(r, "node %u shard %u: the mark went from %" PRIu64
			    " to %" PRIu64 ", the incarnation from %u to %u",
			 node, s->id, *mark, js->mark_index, *inc,
			 js->incarnation);
	*mark = js->mark_index;
	*inc = js->incarnation;
}

/* What it had durable when it went was counted, and may be. */
static bool look_absent(struct run *r, const struct shard *s, unsigned node)
{
	bool *was = &r->absent[node][s->id];

	if (s->absent && !*was) {
		r->coverage.seen[COVER_RETIRED]++;
		r->retired[node][s->id] = r->stored[node][s->id];
		r->stored[node][s->id] = 0;
		r->applied[node][s->id] = UINT64_MAX;
		r->rewritten[node][s->id] = 0;
	}
	r->coverage.seen[COVER_MADE] += !s->absent && *was;
	*was = s->absent;
	return s->absent;
}

void replicas_look(struct run *r, unsigned node)
{
	struct node *n = r->world.nodes[node].node;
	uint64_t *seen = r->coverage.seen;
	uint32_t i;

	seen[COVER_CROWDED] += journal_crowded(n->journal);
	seen[COVER_DISK_LEVEL] += n->level != LEVEL_OK;
	for (i = 0; i < n->n_shards; i++) {
		struct shard *s = &n->shards[i];
		uint64_t applied;

		if (s->level == LEVEL_READONLY)
			r->readonly_us = r->world.sim.now_us;
		look_journal(r, s, node);
		if (look_absent(r, s, node))
			continue;
		seen[COVER_FAULTY] += s->faulty;
		seen[COVER_INSTALLING] += s->install != NULL;
		seen[COVER_DIRTY_FULL] += !s->faulty && store_full(s->store);

		if (s->faulty && r->world.nodes[node].rotten) {
			/* What it answered before it noticed counts. */
			if (s->group)
				look_stored(r, s, node);
			continue;
		}
		if (s->faulty) {
			run_fail(r, "node %u shard %u is faulty: %s", node, i,
				 s->why);
			continue;
		}
		look_leader(r, s, node);
		look_stored(r, s, node);
		history_look(r, s, node);
		applied = store_meta(s->store)->applied_index;
		if (applied == r->applied[node][i])
			continue;
		r->applied[node][i] = applied;
		look_state(r, s, node);
		look_cursors(r, s, node);
	}
}

bool replicas_level(struct run *r)
{
	unsigned node, leaders;
	uint32_t i;

	for (i = 0; i < r->world.nodes[1].node->n_shards; i++) {
		uint64_t applied = 0;

		leaders = 0;
		for (node = 1; node <= r->world.cfg.nodes; node++) {
			struct shard *s;
			struct group_info gi;

			if (!run_sound(r, node, i)) {
				if (r->world.nodes[node].rotten)
					continue;
				return false;
			}
			s = &r->world.nodes[node].node->shards[i];
			group_info(s->group, &gi);
			leaders += s->role == GROUP_LEADER;
			if (r->world.nodes[node].rotten)
				continue;
			/* A follower may have more than its leader, where a
			 * deposed one left it: till the next entry, which a
			 * quiet shard has not. */
			if ((node > 1 && gi.commit_index != applied) ||
			    (s->role == GROUP_LEADER &&
			     gi.last_index != gi.commit_index))
				return false;
			applied = gi.commit_index;
			if (store_meta(s->store)->applied_index != applied)
				return false;
		}
		if (leaders != 1)
			return false;
	}
	return true;
}

void replicas_trace(struct run *r)
{
	unsigned node;
	uint32_t i;

	for (node = 1; node <= r->world.cfg.nodes; node++) {
		struct node *n = r->world.nodes[node].node;
		struct journal_stats js;

		if (!n)
			continue;
		journal_stats(n->journal, &js);
		sim_trace(&r->world.sim,
			  "node %u journal: %" PRIu64 " files, %" PRIu64
			  " used, %" PRIu64 " bytes queued, idle %d", node,
			  js.files, js.files_used, js.queued_bytes,
			  journal_idle(n->journal));
		for (i = 0; i < n->n_shards; i++) {
			struct group_info gi;

			if (!shard_works(&n->shards[i]))
				continue;
			group_info(n->shards[i].group, &gi);
			sim_trace(&r->world.sim,
				  "node %u shard %u role %d term %" PRIu64
				  " last %" PRIu64 " commit %" PRIu64
				  " applied %" PRIu64 " durable %" PRIu64
				  " journal from %" PRIu64 " mark %" PRIu64
				  " install %s",
				  node, i, gi.role, gi.term, gi.last_index,
				  gi.commit_index,
				  store_meta(n->shards[i].store)->applied_index,
				  n->shards[i].durable_index,
				  journal_shard(n->journal, i)->first_index,
				  journal_shard(n->journal, i)->mark_index,
				  install_state(&n->shards[i]) ?
					  install_state(&n->shards[i]) : "-");
		}
	}
}

struct rows {
	uint64_t hash, n;
};

static bool add_row(void *arg, const void *key, unsigned klen, const void *val,
		    uint32_t len)
{
	struct rows *w = arg;
	uint64_t v[4] = { w->hash, xxh3(key, klen), xxh3(val, len), w->n++ };

	w->hash = xxh3(v, sizeof v);
	return true;
}

void replicas_end(struct run *r)
{
	/* 28 and 29: what the store was told to rewrite and to trim. */
	static const unsigned tables[] = { T_ACCOUNT, T_DEVICE,	 T_DEDUPE, T_META,
					   T_NODE,    T_RETAIN,	 T_RECEIPT, 28,
					   29 };
	struct node_shard_info first, info;
	uint64_t rows[9] = { 0 };
	unsigned node, t;
	uint32_t i;

	for (i = 0; i < r->world.nodes[1].node->n_shards; i++) {
		for (node = 1; node <= r->world.cfg.nodes; node++) {
			struct node *n = r->world.nodes[node].node;
			struct err e = { 0 };

			if (r->world.nodes[node].rotten)
				continue;
			node_shard_info(n, i, &info);
			if (node == 1)
				first = info;
			else if (memcmp(info.root, first.root, 32) ||
				 info.records != first.records ||
				 info.clock != first.clock)
				run_fail(r, "shard %u: nodes 1 and %u end with "
					    "different roots", i, node);
			for (t = 0; t < 9; t++) {
				struct rows w = { 0 };

				if (row_walk(n->shards[i].store, tables[t],
					     add_row, &w, &e))
					run_fail(r, "node %u shard %u: %s",
						 node, i, e.msg);
				if (node == 1)
					rows[t] = w.hash;
				else if (rows[t] != w.hash)
					run_fail(r, "shard %u table %u differs "
						    "on node %u", i, tables[t],
						 node);
			}
		}
	}
}
