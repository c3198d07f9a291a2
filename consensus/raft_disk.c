/* From updates to the journal and back.
 *
 * - One update becomes one request: vote, truncation, entries, in this order.
 * - Messages leave only while no vote of ours is on its way to the disk
 *   (votes_pending); entries are written while they are being sent.
 * - When the request returns, its entries count as persisted, save those that a
 *   later truncation has voided (B13): the truncation shortens the requests in
 *   flight, so an old write can never vouch for a new entry, not even for one
 *   with the same index and term that came back after being cut.
 * - A full journal takes votes and truncations only.  Entries then wait here, in
 *   order, and the group takes no more of them (group_room() is 0, appends are cut
 *   to none). */
#include "consensus/raft_impl.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/logf.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static void req_free(struct disk_req *d)
{
	unsigned i;

	for (i = 0; i < d->n; i++)
		entry_unref(d->entries[i]);
	free(d);
}

/* Nothing above the report before, nothing twice (B12), nothing as candidate:
 * one has everything stored. */
static void report_persisted(struct group *g)
{
	struct raft_event ev = { 0 };

	if (g->broken || g->durable <= g->raft.last_stored)
		return;
	AN(g->raft.state == RAFT_LEADER || g->raft.state == RAFT_FOLLOWER);
	AN(g->durable <= g->cache.last);
	ev.type = RAFT_PERSISTED_ENTRIES;
	ev.persisted_entries.index = g->durable;
	core_step(g, &ev);
}

static void on_disk(struct journal_req *r)
{
	struct disk_req *d = r->arg;
	struct group *g = d->g;

	list_remove(&d->link);
	if (r->has_vote)
		g->votes_pending--;
	if (!g->voided && d->count && d->first + d->count - 1 > g->durable)
		g->durable = d->first + d->count - 1;
	req_free(d);
	if (!g->votes_pending)
		msg_held_flush(g);
	report_persisted(g);
	disk_retry(g);
	transfer_poll(g);
}

static struct disk_req *req_new(struct group *g, struct entry *const *entries,
				unsigned n)
{
	struct disk_req *d = xcalloc(1, sizeof *d + n * sizeof(struct entry *));
	unsigned i;

	d->g = g;
	d->n = d->count = n;
	d->first = n ? entries[0]->index : 0;
	for (i = 0; i < n; i++)
		d->entries[i] = entry_ref(entries[i]);
	d->jr.shard = g->cfg.shard;
	d->jr.entries = d->entries;
	d->jr.n_entries = n;
	d->jr.cb = on_disk;
	d->jr.arg = d;
	return d;
}

static void req_vote(struct group *g, struct disk_req *d)
{
	d->jr.has_vote = true;
	d->jr.term = raft_current_term(&g->raft);
	d->jr.vote = raft_voted_for(&g->raft);
	g->votes_pending++;
}

/* Votes alone are never refused as full; a refusal means a dead journal. */
static void vote_submit(struct group *g, struct disk_req *d)
{
	d->submitted = true;
	list_prepend(&g->reqs, &d->link);
	if (journal_submit(g->journal, &d->jr))
		group_break(g, "the journal takes no vote");
}

/* Its entries were refused as full, and what they replace may be what fills the
 * journal: that goes first, alone, and is not refused. */
static void truncation_submit(struct group *g, struct disk_req *d)
{
	struct disk_req *t = req_new(g, NULL, 0);

	t->jr.truncate_from = d->jr.truncate_from;
	d->jr.truncate_from = 0;
	t->submitted = true;
	list_prepend(&g->reqs, &t->link);
	if (journal_submit(g->journal, &t->jr))
		group_break(g, "the journal takes no truncation");
}

void disk_retry(struct group *g)
{
	/* Frozen, what the journal has not taken yet is forgotten with the group. */
	while (g->n_waiting && !g->frozen) {
		struct disk_req *d = NULL;

		LIST_FOREACH(it, &g->reqs)
		{
			d = container_of(it, struct disk_req, link);
			if (!d->submitted)
				break;
		}
		AN(d && !d->submitted);
		if (journal_submit(g->journal, &d->jr)) {
			if (d->jr.truncate_from)
				truncation_submit(g, d);
			return;
		}
		d->submitted = true;
		g->n_waiting--;
	}
}

/* How many of these make one request. */
static unsigned req_fit(const struct group *g, struct entry *const *entries,
			unsigned n)
{
	uint64_t max = journal_request_max(g->journal), bytes = 0;
	unsigned i;

	for (i = 0; i < n; i++) {
		bytes += entries[i]->rec_len;
		if (i && bytes > max)
			break;
	}
	return i;
}

void disk_write(struct group *g, bool vote, uint64_t truncate_from,
		struct entry *const *entries, unsigned n)
{
	struct disk_req *d;
	unsigned at, k;

	if (truncate_from) {
		LIST_FOREACH(it, &g->reqs)
		{
			d = container_of(it, struct disk_req, link);
			if (d->count && d->first + d->count > truncate_from)
				d->count = d->first >= truncate_from
						   ? 0
						   : (unsigned)(truncate_from -
								d->first);
		}
		if (g->durable >= truncate_from)
			g->durable = truncate_from - 1;
	}
	/* A vote does not wait behind entries for which there is no room. */
	if (vote && g->n_waiting) {
		d = req_new(g, NULL, 0);
		req_vote(g, d);
		vote_submit(g, d);
		vote = false;
	}
	if (!vote && !truncate_from && !n)
		return;
	k = req_fit(g, entries, n);
	d = req_new(g, entries, k);
	if (vote)
		req_vote(g, d);
	d->jr.truncate_from = truncate_from;
	list_append(&g->reqs, &d->link);
	g->n_waiting++;
	for (at = k; at < n; at += k) {
		struct disk_req *next;

		k = req_fit(g, entries + at, n - at);
		next = req_new(g, entries + at, k);
		list_append(&g->reqs, &next->link);
		g->n_waiting++;
	}
	disk_retry(g);
	if (!d->submitted && vote) {
		/* Refused as full: the vote goes alone. */
		struct disk_req *v = req_new(g, NULL, 0);

		v->jr.has_vote = true;
		v->jr.term = d->jr.term;
		v->jr.vote = d->jr.vote;
		d->jr.has_vote = false;
		vote_submit(g, v);
	}
}

void disk_release(struct group *g)
{
	struct list *it;

	while ((it = list_pop(&g->reqs)))
		req_free(container_of(it, struct disk_req, link));
}
