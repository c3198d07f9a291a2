#include "consensus/repair.h"
#include "base/cursor.h"
#include "base/logf.h"
#include "consensus/node_impl.h"
#include "log/snapshot.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define QUARANTINE "quarantine"

/* ---- the damaged one ------------------------------------------------------------ */

/* Group and store go as soon as nothing of theirs is under way. */
static bool shut(struct shard *s)
{
	if (!s->group && !s->store)
		return true;
	if (s->group) {
		group_stop(s->group);
		group_run(s->group); /* who waits is answered */
		if (!group_quiet(s->group))
			return false;
	}
	if (s->source || s->marking || !list_empty(&s->reads) ||
	    (s->store && store_checkpoint_running(s->store)))
		return false;
	shard_shut(s);
	return true;
}

static uint64_t next_peer(const struct node *n, uint64_t after)
{
	uint64_t k, peer;

	for (k = 1; k <= NET_NODE_MAX; k++) {
		peer = (after + k) % NET_NODE_MAX;
		if (peer && peer != n->cfg.id &&
		    n->env.net->ops->is_up(n->env.net, peer))
			return peer;
	}
	return 0;
}

static void ask(struct shard *s, uint64_t now_ms)
{
	struct node *n = s->node;
	struct buf *b = &n->snap.out;
	uint64_t peer = next_peer(n, s->repair.asked);

	s->repair.ask_ms = now_ms + REPAIR_ASK_MS;
	if (!peer)
		return;
	s->repair.asked = peer;
	buf_clear(b);
	buf_u8(b, MSG_REPAIR_ASK);
	buf_u32(b, s->id);
	buf_u64(b, journal_shard(n->journal, s->id)->mark_index);
	n->env.net->ops->send(n->env.net, peer, b->data, b->len, NULL, 0);
}

void repair_tick(struct shard *s, uint64_t now_ms)
{
	struct node *n = s->node;

	if (s->fault != FAULT_STATE || s->going || !n->env.net ||
	    n->stopping || s->install || !shut(s))
		return;
	if (now_ms >= s->repair.ask_ms && now_ms >= s->install_retry_ms)
		ask(s, now_ms);
}

bool repair_takes(const struct shard *s, const struct snap_manifest *m)
{
	return s->fault == FAULT_STATE && !s->group && !s->store &&
	       m->index >= journal_shard(s->node->journal, s->id)->mark_index;
}

void repair_record(const struct shard *s, const struct snap_manifest *m,
		   uint32_t incarnation, struct journal_req *r)
{
	const struct journal *j = s->node->journal;
	const struct journal_shard *js = journal_shard(j, s->id);

	r->shard = s->id;
	r->install = incarnation;
	r->install_index = m->index;
	r->install_term = m->term;
	/* Below the first entry there is only what the mark covers. */
	r->install_keeps = m->index <= js->last_index &&
			   (m->index < js->first_index ||
			    journal_term(j, s->id, m->index) == m->term);
	/* A term that this node has not heard of yet; it has no vote in it. */
	if (js->term < m->term) {
		r->has_vote = true;
		r->term = m->term;
	}
}

const char *repair_state(const struct shard *s)
{
	if (s->fault != FAULT_STATE)
		return "";
	return s->install	     ? install_state(s)
	       : s->group || s->store ? "close"
	       : s->node->env.net && next_peer(s->node, 0) ? "ask" : "alone";
}

int node_repair(struct node *n, uint32_t shard, struct err *e)
{
	struct err why = { 0 };
	struct shard *s;
	uint64_t peer;

	if (shard >= n->n_shards || n->shards[shard].absent)
		return err_set(e, ERR_NOT_FOUND,
			       "no replica of shard %u is here", shard);
	s = &n->shards[shard];
	if (s->fault == FAULT_STATE)
		return 0;
	if (s->fault == FAULT_LOG)
		return err_set(e, ERR_INVALID,
			       "the journal of this replica is damaged: it has "
			       "to be removed from its group and added again");
	if (!n->env.net || !next_peer(n, n->cfg.id))
		return err_set(e, ERR_INVALID, "no other node can be reached");
	if (s->install || s->going || s->making || n->stopping)
		return err_set(e, ERR_BUSY, "it comes or goes, takes a snapshot, or stops");
	if (s->role == GROUP_LEADER) {
		for (peer = 1; peer < NET_NODE_MAX; peer++)
			if (node_peer_fit(n, s, peer, clock_ms(n->env.clock),
					  0) &&
			    !group_transfer(s->group, peer))
				break;
		return err_set(e, ERR_BUSY,
			       "this replica leads; it hands leadership over");
	}
	err_set(&why, ERR_DAMAGED, "a repair was asked for");
	shard_leave(s, FAULT_STATE, &why);
	return 0;
}

/* ---- quarantine -------------------------------------------------------------------- */

struct keeping {
	struct disk *disk;
	uint32_t shard, incarnation;
	const char *dir;      /* being moved */
	unsigned numbers[2 * REPAIR_KEPT_MAX], n, last; /* kept; the newest */
	unsigned drop;        /* this number and those below go */
	int rv;
	struct err *e;
};

static bool number_of(const char *name, unsigned *number)
{
	return sscanf(name, "%6u-", number) == 1;
}

static void see_kept(void *arg, const char *name, bool is_dir)
{
	struct keeping *k = arg;
	unsigned number;

	if (is_dir || !number_of(name, &number) || number == k->last)
		return;
	/* Sorted by name, so by number. */
	k->last = number;
	if (k->n == 2 * REPAIR_KEPT_MAX)
		memmove(k->numbers, k->numbers + 1,
			--k->n * sizeof k->numbers[0]);
	k->numbers[k->n++] = number;
}

static void drop_kept(void *arg, const char *name, bool is_dir)
{
	struct keeping *k = arg;
	char path[300];
	unsigned number;

	if (is_dir || !number_of(name, &number) || number > k->drop)
		return;
	snprintf(path, sizeof path, QUARANTINE "/%s", name);
	if (!k->rv)
		k->rv = k->disk->ops->unlink(k->disk, path, k->e);
}

static void move_one(void *arg, const char *name, bool is_dir)
{
	struct keeping *k = arg;
	char from[300], to[300];

	if (is_dir || k->rv)
		return;
	snprintf(from, sizeof from, "%s/%s", k->dir, name);
	snprintf(to, sizeof to, QUARANTINE "/%06u-%04u-%u-%s", k->last, k->shard,
		 k->incarnation, name);
	k->rv = k->disk->ops->rename(k->disk, from, to, k->e);
}

int repair_keep(struct disk *d, uint32_t shard, uint32_t incarnation,
		unsigned *n, struct err *e)
{
	static const char *const dirs[] = { "", "/seg", "/tree" };
	struct keeping k = { .disk = d, .shard = shard,
			     .incarnation = incarnation, .e = e };
	char dir[64];
	unsigned i;

	k.rv = d->ops->mkdir(d, QUARANTINE, e);
	if (!k.rv)
		k.rv = d->ops->list(d, QUARANTINE, see_kept, &k, e);
	if (!k.rv && k.n >= REPAIR_KEPT_MAX) {
		k.drop = k.numbers[k.n - REPAIR_KEPT_MAX];
		k.rv = d->ops->list(d, QUARANTINE, drop_kept, &k, e);
	}
	*n = ++k.last;
	for (i = 0; i < 3 && !k.rv; i++) {
		snprintf(dir, sizeof dir, "shards/%04u-%u%s", shard, incarnation,
			 dirs[i]);
		k.dir = dir;
		d->ops->list(d, dir, move_one, &k, NULL);
		if (!k.rv)
			k.rv = d->ops->fsync_dir(d, dir, e);
	}
	if (!k.rv)
		k.rv = d->ops->fsync_dir(d, QUARANTINE, e);
	return k.rv;
}

/* ---- the sound one ------------------------------------------------------------------- */

void repair_on_ask(struct node *n, uint64_t peer, struct cursor *c)
{
	uint32_t shard = cursor_u32(c);
	uint64_t min = cursor_u64(c);
	struct shard *s;

	if (!cursor_done(c) || shard >= n->n_shards) {
		log_event(LOG_WARN, "peer_message_refused",
			  "peer=%" PRIu64 " why=\"repair asked for\"", peer);
		return;
	}
	s = &n->shards[shard];
	/* Another will be asked next. */
	if (!shard_works(s) || n->stopping ||
	    store_meta(s->store)->applied_index < min)
		return;
	if (!s->repair.askers || min > s->repair.min)
		s->repair.min = min;
	s->repair.askers |= 1ull << peer;
	s->repair.asked_ms = clock_ms(n->env.clock);
}

bool repair_wants_checkpoint(const struct shard *s)
{
	return s->repair.askers && s->durable_index < s->repair.min;
}

uint64_t repair_askers(struct shard *s, uint64_t now_ms)
{
	if (now_ms - s->repair.asked_ms > REPAIR_ASKED_MS)
		s->repair.askers = 0;
	return repair_wants_checkpoint(s) ? 0 : s->repair.askers;
}
