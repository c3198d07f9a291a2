/* Linearizable reads and the hand-over of leadership.
 *
 * Read index (raft.md rule 20): note the commit index R, ask every voter for its
 * term; when a majority, ourselves included, is still in ours, nobody had been
 * elected when the read began, and R is new enough.  The reader is called when
 * R is applied.  Reads that arrive while a round is out share the next one.
 *
 * Transfer (rule 16, B19): the core sends TimeoutNow at the first partial ack
 * and never again, so the target must have everything before the core hears of
 * the transfer.  Submits are refused meanwhile. */
#include "consensus/raft_impl.h"
#include "base/assert.h"

void reads_init(struct group_reads *q)
{
	q->head = NULL;
	q->tail = &q->head;
}

static void reads_push(struct group_reads *q, struct group_read *r)
{
	r->next = NULL;
	*q->tail = r;
	q->tail = &r->next;
}

static struct group_read *reads_pop(struct group_reads *q)
{
	struct group_read *r = q->head;

	if (r) {
		q->head = r->next;
		if (!q->head)
			q->tail = &q->head;
	}
	return r;
}

void reads_fail(struct group *g, struct group_reads *q, int status)
{
	struct group_read *r;

	while ((r = reads_pop(q))) {
		r->priv[0] = (uint64_t)(int64_t)status;
		reads_push(&g->reads_failed, r);
	}
}

void group_read_index(struct group *g, struct group_read *r)
{
	r->priv[0] = 0;
	if (g->broken)
		r->priv[0] = (uint64_t)(int64_t)ERR_UNAVAILABLE;
	else if (!group_leads(g))
		r->priv[0] = (uint64_t)(int64_t)ERR_NOT_LEADER;
	reads_push(r->priv[0] ? &g->reads_failed : &g->reads_new, r);
}

/* No reads before what we had when we were elected is committed. */
static bool round_may_start(const struct group *g)
{
	return g->reads_new.head && !g->reads_probing.head && group_leads(g) &&
	       g->commit >= g->lead_index;
}

static void round_check(struct group *g)
{
	const struct raft_configuration *c = &g->raft.configuration;
	unsigned have = 0, i;
	struct group_read *r;

	if (!g->reads_probing.head || !group_leads(g))
		return;
	for (i = 0; i < c->n; i++) {
		uint64_t id = c->servers[i].id;

		if (c->servers[i].role != RAFT_VOTER)
			continue;
		have += id == g->cfg.self ||
			g->peers[id].probe_seq == g->probe_seq;
	}
	if (have <= conf_voters(c) / 2)
		return;
	while ((r = reads_pop(&g->reads_probing))) {
		r->priv[0] = g->probe_index;
		reads_push(&g->reads_ok, r);
	}
}

void reads_resend(struct group *g, uint64_t peer)
{
	const struct raft_configuration *c = &g->raft.configuration;
	unsigned i;

	if (!g->reads_probing.head)
		return;
	for (i = 0; i < c->n; i++) {
		uint64_t id = c->servers[i].id;

		if (c->servers[i].role == RAFT_VOTER && id != g->cfg.self &&
		    (!peer || peer == id) &&
		    g->peers[id].probe_seq != g->probe_seq)
			msg_send_probe(g, id);
	}
	g->probe_ms = g->now_ms;
}

void reads_on_probe_result(struct group *g, uint64_t from, uint64_t term,
			   uint64_t seq)
{
	if (!group_leads(g) || seq != g->probe_seq)
		return;
	if (term != raft_current_term(&g->raft))
		return; /* a later leader may exist: this voter does not count */
	g->peers[from].probe_seq = seq;
	round_check(g);
}

bool reads_want_run(const struct group *g)
{
	return g->reads_failed.head || round_may_start(g) ||
	       (g->reads_ok.head && g->reads_ok.head->priv[0] <= g->applied);
}

void reads_run(struct group *g)
{
	struct group_read *r;

	if (round_may_start(g)) {
		g->reads_probing = g->reads_new;
		reads_init(&g->reads_new);
		g->probe_seq++;
		g->probe_index = g->commit;
		reads_resend(g, 0);
		round_check(g);
	}
	while (g->reads_ok.head && g->reads_ok.head->priv[0] <= g->applied) {
		r = reads_pop(&g->reads_ok);
		r->cb(r, 0, r->priv[0]);
	}
	while ((r = reads_pop(&g->reads_failed)))
		r->cb(r, (int)(int64_t)r->priv[0], 0);
}

void transfer_poll(struct group *g)
{
	struct raft_event ev = { 0 };
	raft_index match = 0;

	if (!g->xfer_to)
		return;
	if (!group_leads(g) || group_now(g) >= g->xfer_deadline_ms) {
		g->xfer_to = 0;
		return;
	}
	if (g->xfer_sent ||
	    raft_match_index(&g->raft, g->xfer_to, &match) ||
	    match != raft_last_index(&g->raft))
		return;
	g->xfer_sent = true;
	ev.type = RAFT_TRANSFER;
	ev.transfer.server_id = g->xfer_to;
	if (core_step(g, &ev))
		g->xfer_to = 0;
}

int group_transfer(struct group *g, uint64_t to)
{
	if (!group_leads(g))
		return ERR_NOT_LEADER;
	/* A change that is under way would lose its outcome. */
	if (g->xfer_to || raft_transferee(&g->raft) ||
	    (g->chg && !g->chg_applied))
		return ERR_BUSY;
	if (to == g->cfg.self || !conf_has_voter(&g->raft.configuration, to))
		return ERR_NOT_FOUND;
	g->xfer_to = to;
	g->xfer_sent = false;
	g->xfer_deadline_ms = group_now(g) + g->cfg.election_ms;
	transfer_poll(g);
	return 0;
}
