/* The one caller of raft_step().  raft_impl.h has the order of a step; this file
 * has submit, timers, what the owner is told, and compaction; raft_boot.c opens
 * and closes.
 *
 * An error of a step other than SUBMIT or TRANSFER means that memory and disk
 * may differ: the group stops for good (group_break) and is whole again after a
 * restart. */
#include "consensus/raft_impl.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/logf.h"

#include <inttypes.h>
#include <string.h>

_Static_assert((int)GROUP_COMMAND == RAFT_COMMAND &&
		       (int)GROUP_BARRIER == RAFT_BARRIER &&
		       (int)GROUP_CHANGE == RAFT_CHANGE,
	       "entry types are the core's");

uint64_t group_now(struct group *g)
{
	uint64_t now = clock_ms(g->clock);

	if (now > g->now_ms)
		g->now_ms = now;
	return g->now_ms;
}

static void serve_no_more(struct group *g)
{
	g->broken = true;
	reads_fail(g, &g->reads_new, ERR_UNAVAILABLE);
	reads_fail(g, &g->reads_probing, ERR_UNAVAILABLE);
	reads_fail(g, &g->reads_ok, ERR_UNAVAILABLE);
}

void group_break(struct group *g, const char *why)
{
	if (g->broken)
		return;
	log_event(LOG_ERROR, "group_stopped", "shard=%u why=%s", g->cfg.shard,
		  log_quote(why));
	serve_no_more(g);
}

void group_stop(struct group *g)
{
	serve_no_more(g);
	g->frozen = true;
	g->chg = g->chg_before = NULL;
}

/* ---- one step ------------------------------------------------------------------ */

void changes_add(struct group *g, uint64_t index)
{
	if (g->n_changes == g->cap_changes) {
		g->cap_changes = g->cap_changes ? 2 * g->cap_changes : 4;
		g->changes = xrealloc(g->changes, g->cap_changes *
							  sizeof *g->changes);
	}
	g->changes[g->n_changes++] = index;
}

/* The no-op of a new leader is the core's own entry; its bytes live in a field of
 * the core that the next one overwrites. */
static struct entry *barrier_new(struct group *g, const struct raft_entry *re)
{
	struct entry *e = entry_new(g->cfg.shard, 1);

	AN(re->type == RAFT_BARRIER);
	entry_payload(e)[0] = GROUP_BARRIER;
	raft_free(re->batch);
	return e;
}

/* Entries of an update into the cache; their request to the journal. */
static void update_entries(struct group *g, const struct raft_update *u,
			   bool vote)
{
	uint64_t index = u->entries.index, truncate = 0;
	const struct raft_entry *re = u->entries.batch;
	struct entry *own = NULL, **es;
	unsigned n = u->entries.n, i;

	if (g->in_n && re >= g->in_raft && re < g->in_raft + g->in_n) {
		AN((size_t)(re - g->in_raft) + n <= g->in_n);
		es = g->in_entries + (re - g->in_raft);
		if (g->in_batch)
			raft_free(re->batch);
	} else {
		AN(n == 1);
		own = barrier_new(g, re);
		es = &own;
	}
	if (index <= g->cache.last) {
		truncate = index;
		raft_cache_truncate(&g->cache, index);
		while (g->n_changes && g->changes[g->n_changes - 1] >= index)
			g->n_changes--;
	}
	for (i = 0; i < n; i++) {
		es[i]->index = index + i;
		es[i]->term = re[i].term;
		raft_cache_append(&g->cache, es[i]);
		if (re[i].type == RAFT_CHANGE)
			changes_add(g, index + i);
	}
	/* A change of ours is on our disk before it is on any other: were it only
	 * with the voter that it demotes, nobody could be elected, that one by its
	 * own log and we by ours.  With a vote in its request all messages wait. */
	if (n && re[0].type == RAFT_CHANGE && !g->in_batch && !own &&
	    g->raft.state == RAFT_LEADER)
		vote = true;
	disk_write(g, vote, truncate, es, n);
	entry_unref(own);
}

void update_role(struct group *g)
{
	bool leads = group_leads(g);
	unsigned i;

	if (leads && !g->was_leader) {
		g->terms_led++;
		g->lead_index = raft_last_index(&g->raft);
		for (i = 0; i < NET_NODE_MAX; i++)
			g->peers[i].probe_seq = 0;
	}
	if (g->raft.state == RAFT_CANDIDATE && !leads)
		g->elections++;
	if (!leads && g->was_leader) {
		reads_fail(g, &g->reads_new, ERR_NOT_LEADER);
		reads_fail(g, &g->reads_probing, ERR_NOT_LEADER);
		g->xfer_to = 0;
	}
	g->was_leader = leads;
}

/* Tell the core of each committed configuration, in order (rule 8). */
static void configurations_commit(struct group *g)
{
	while (!g->broken && g->n_changes && g->changes[0] <= g->commit) {
		uint64_t index = g->changes[0];
		struct raft_event ev = { 0 };
		struct entry *e = log_get(g, index);
		struct raft_buffer buf;
		int rv;

		if (!e) {
			group_break(g, "a committed configuration is unreadable");
			return;
		}
		g->n_changes--;
		memmove(g->changes, g->changes + 1,
			g->n_changes * sizeof *g->changes);
		buf.base = entry_payload(e) + 1;
		buf.len = e->len - 1;
		ev.type = RAFT_CONFIGURATION;
		ev.configuration.index = index;
		rv = raft_configuration_decode(&buf, &ev.configuration.conf);
		entry_unref(e);
		if (rv) {
			group_break(g, "a committed configuration is malformed");
			return;
		}
		core_step(g, &ev);
	}
}

int core_step(struct group *g, struct raft_event *ev)
{
	struct raft_update u = { 0 };
	uint64_t term = raft_current_term(&g->raft);
	uint64_t vote = raft_voted_for(&g->raft);
	bool voted;
	unsigned i;
	int rv;

	ev->time = group_now(g);
	rv = raft_step(&g->raft, ev, &u);
	if (rv) {
		if (ev->type != RAFT_SUBMIT && ev->type != RAFT_TRANSFER)
			group_break(g, raft_strerror(rv));
		return rv;
	}
	/* The core flags a repeated vote as a change too; writing it again would
	 * be harmless, but is not needed. */
	voted = (u.flags & (RAFT_UPDATE_CURRENT_TERM)) |
		(u.flags & (RAFT_UPDATE_VOTED_FOR));
	if (voted && ev->type != RAFT_START)
		voted = term != raft_current_term(&g->raft) ||
			vote != raft_voted_for(&g->raft);
	if (u.flags & (RAFT_UPDATE_ENTRIES))
		update_entries(g, &u, voted);
	else if (voted)
		disk_write(g, true, 0, NULL, 0);
	if (u.flags & (RAFT_UPDATE_MESSAGES))
		for (i = 0; i < u.messages.n; i++)
			msg_send(g, &u.messages.batch[i]);
	if (u.flags & (RAFT_UPDATE_STATE))
		update_role(g);
	/* It can go back on a low probe (B3). */
	if (raft_commit_index(&g->raft) > g->commit) {
		g->commit = raft_commit_index(&g->raft);
		configurations_commit(g);
	}
	return 0;
}

/* ---- what the owner asks ---------------------------------------------------------- */

unsigned group_room(const struct group *g)
{
	uint64_t out;

	if (!group_leads(g) || g->xfer_to || g->raft.leader_state.transferee ||
	    g->n_waiting || journal_crowded(g->journal))
		return 0;
	/* Outstanding entries stay below the window, or followers get nothing
	 * but empty messages (B15). */
	out = g->cache.last - g->commit;
	return out < GROUP_INFLIGHT_MAX - 1
		       ? (unsigned)(GROUP_INFLIGHT_MAX - 1 - out)
		       : 0;
}

int group_submit(struct group *g, struct entry **entries, unsigned n)
{
	struct raft_entry re[GROUP_SUBMIT_MAX];
	static char batch; /* submits keep their memory: only told apart from NULL */
	struct raft_event ev = { 0 };
	unsigned i;
	int rv;

	if (!group_leads(g))
		return ERR_NOT_LEADER;
	if (!n || n > GROUP_SUBMIT_MAX)
		return ERR_INVALID;
	for (i = 0; i < n; i++) {
		uint8_t type = entry_payload(entries[i])[0];

		/* Changes have rules of their own (group_change; B14, B20). */
		if (type != GROUP_COMMAND && type != GROUP_BARRIER)
			return ERR_INVALID;
		re[i].type = type == GROUP_COMMAND ? RAFT_COMMAND : RAFT_BARRIER;
		re[i].term = raft_current_term(&g->raft);
		re[i].buf.base = entry_payload(entries[i]);
		re[i].buf.len = entries[i]->len;
		re[i].batch = &batch;
	}
	if (n > group_room(g))
		return ERR_BUSY;
	g->in_raft = re;
	g->in_entries = entries;
	g->in_n = n;
	g->in_batch = false;
	ev.type = RAFT_SUBMIT;
	ev.submit.entries = re;
	ev.submit.n = n;
	rv = core_step(g, &ev);
	g->in_raft = NULL;
	g->in_n = 0;
	if (rv)
		return rv == RAFT_NOTLEADER ? ERR_NOT_LEADER : ERR_BUSY;
	for (i = 0; i < n; i++)
		entry_unref(entries[i]);
	return 0;
}

uint64_t group_deadline_ms(const struct group *g)
{
	uint64_t t;

	if (g->broken)
		return UINT64_MAX;
	if (g->frozen)
		return UINT64_MAX;
	/* Never in the past for ever (B6): at most one call per millisecond. */
	t = raft_timeout(&g->raft);
	if (t <= g->last_timeout_ms)
		t = g->last_timeout_ms + 1;
	if (g->xfer_to && g->xfer_deadline_ms < t)
		t = g->xfer_deadline_ms;
	if (g->n_waiting && g->now_ms + GROUP_DISK_RETRY_MS < t)
		t = g->now_ms + GROUP_DISK_RETRY_MS;
	return t;
}

/* The core never forgets the leader of who is no voter, and would refuse votes for
 * its sake (B17); after an election timeout without a word there is none. */
void leader_forget(struct group *g)
{
	if (g->raft.state != RAFT_FOLLOWER || self_votes(g) ||
	    group_now(g) - g->heard_leader_ms < g->cfg.election_ms)
		return;
	g->raft.follower_state.current_leader.id = 0;
	raft_free(g->raft.follower_state.current_leader.address);
	g->raft.follower_state.current_leader.address = NULL;
}

/* A follower's timer is due. */
static void follower_timeout(struct group *g)
{
	leader_forget(g);
	/* Not this replica but another one of this node is the voter, or it knows
	 * that it was removed: it does not stand. */
	if (group_removed(g) || !self_is_member(g)) {
		g->raft.election_timer_start = g->now_ms;
		return;
	}
	/* The only voter leads without asking anybody, and without a new term: the
	 * core would give one term two leaders (B5). */
	if (conf_lone(g) && g->raft.last_stored == g->cache.last) {
		g->raft.current_term++;
		g->raft.voted_for = g->cfg.self;
		disk_write(g, true, 0, NULL, 0);
	}
}

void group_timeout(struct group *g)
{
	uint64_t now = group_now(g);
	struct raft_event ev = { 0 };

	if (g->broken || g->frozen)
		return;
	if (now >= raft_timeout(&g->raft)) {
		bool candidate = g->raft.state == RAFT_CANDIDATE;

		if (g->raft.state == RAFT_FOLLOWER)
			follower_timeout(g);

		/* A candidate that once won a pre-vote would raise its term with
		 * each timeout, however long it is cut off, and depose a good
		 * leader on its return: it asks again first. */
		if (candidate) {
			g->raft.candidate_state.in_pre_vote = true;
			g->raft.candidate_state.disrupt_leader = false;
		}
		g->last_timeout_ms = now;
		ev.type = RAFT_TIMEOUT;
		core_step(g, &ev);
		if (candidate && g->raft.state == RAFT_CANDIDATE)
			g->elections++;
	}
	disk_retry(g);
	transfer_poll(g);
	if (g->reads_probing.head && group_leads(g) &&
	    now - g->probe_ms >= g->cfg.heartbeat_ms)
		reads_resend(g, 0);
}

static enum group_role role_of(const struct group *g)
{
	if (g->broken)
		return GROUP_FOLLOWER;
	switch (g->raft.state) {
	case RAFT_LEADER:
		return GROUP_LEADER;
	case RAFT_CANDIDATE:
		return GROUP_CANDIDATE;
	default:
		return GROUP_FOLLOWER;
	}
}

static uint64_t leader_of(const struct group *g)
{
	raft_id id = 0;
	const char *address = NULL;

	if (g->broken)
		return 0;
	raft_leader((struct raft *)&g->raft, &id, &address);
	return id;
}

static uint64_t apply_end(const struct group *g)
{
	return g->commit < g->durable ? g->commit : g->durable;
}

static bool state_changed(const struct group *g)
{
	return g->told_role != role_of(g) ||
	       g->told_term != raft_current_term(&g->raft) ||
	       g->told_leader != leader_of(g);
}

bool group_wants_run(const struct group *g)
{
	return (!g->broken && g->applied < apply_end(g)) || state_changed(g) ||
	       reads_want_run(g) || change_wants_run(g);
}

/* Applied entries are durable here too, not only on a majority, so that the
 * state never runs ahead of this node's journal (decision 0003). */
static void run_apply(struct group *g)
{
	unsigned n = 0;

	while (!g->broken && g->applied < apply_end(g) &&
	       n++ < GROUP_RUN_APPLY_MAX) {
		struct entry *e = log_get(g, g->applied + 1);

		if (!e) {
			group_break(g, "a committed entry is unreadable");
			return;
		}
		g->applied = e->index;
		g->applied_term = e->term;
		g->ops->apply(g->arg, e);
		if (entry_payload(e)[0] == GROUP_CHANGE && !g->broken)
			conf_applied(g, e);
		entry_unref(e);
	}
	log_evict(g);
}

static void run_state(struct group *g)
{
	enum group_role role = role_of(g);
	uint64_t term = raft_current_term(&g->raft), leader = leader_of(g);

	if (!state_changed(g))
		return;
	/* Leadership that was lost and won again between two runs: entries of
	 * the old term have an unknown outcome all the same. */
	if (g->told_role == GROUP_LEADER && role == GROUP_LEADER)
		g->ops->state(g->arg, GROUP_FOLLOWER, term, 0);
	g->told_role = role;
	g->told_term = term;
	g->told_leader = leader;
	g->ops->state(g->arg, role, term, leader);
}

void group_run(struct group *g)
{
	run_apply(g);
	/* Commits of the term before come first; the rest in the next run. */
	if (g->broken || g->applied >= apply_end(g))
		run_state(g);
	reads_run(g);
	change_run(g);
}

/* ---- compaction --------------------------------------------------------------------- */

/* How many entries below the snapshot the core keeps terms of: as many as the
 * journal can still send to a lagging follower. */
static unsigned trailing(const struct group *g, uint64_t index)
{
	const struct journal_shard *sh =
		journal_shard(g->journal, g->cfg.shard);
	uint64_t n = GROUP_TRAILING_MIN;

	if (sh && sh->present && sh->first_index && sh->first_index < index &&
	    index - sh->first_index >= n)
		n = index - sh->first_index + 1;
	return n > UINT32_MAX ? UINT32_MAX : (unsigned)n;
}

void group_durable(struct group *g, uint64_t index, uint64_t term)
{
	struct raft_event ev = { 0 };
	struct raft_snapshot_metadata *m = &ev.snapshot.metadata;
	const struct raft_configuration *c = &g->raft.configuration_committed;

	/* Twice the same index, or an install under way, would abort (B8). */
	if (g->broken || index <= g->snap_index || index > apply_end(g) ||
	    index > g->applied || g->raft.snapshot.installing ||
	    g->raft.configuration_committed_index > index)
		return;
	AN(log_term(g, index) == term);
	conf_copy(&m->configuration, c);
	m->index = index;
	m->term = term;
	m->configuration_index = g->raft.configuration_committed_index;
	ev.type = RAFT_SNAPSHOT;
	ev.snapshot.trailing = trailing(g, index);
	g->snap_index = index;
	g->snap_term = term;
	if (index > ev.snapshot.trailing &&
	    index - ev.snapshot.trailing >= g->trail_first)
		g->trail_first = index - ev.snapshot.trailing + 1;
	core_step(g, &ev);
	log_evict(g);
}

/* ---- information ------------------------------------------------------------------------- */

void group_info(const struct group *g, struct group_info *out)
{
	const struct raft_configuration *c = &g->raft.configuration;
	unsigned i;

	memset(out, 0, sizeof *out);
	out->role = role_of(g);
	out->term = raft_current_term(&g->raft);
	out->leader = leader_of(g);
	out->last_index = g->cache.last;
	out->commit_index = g->commit;
	out->applied_index = g->applied;
	out->transferring = g->xfer_to || (group_leads(g) &&
					   raft_transferee(&g->raft));
	for (i = 0; i < c->n && out->n_voters < GROUP_VOTERS_MAX; i++) {
		raft_index match = 0;

		if (c->servers[i].role != RAFT_VOTER)
			continue;
		if (c->servers[i].id == g->cfg.self)
			match = g->durable;
		else if (group_leads(g))
			raft_match_index(&g->raft, c->servers[i].id, &match);
		out->match[out->n_voters] = match;
		out->voters[out->n_voters++] = c->servers[i].id;
	}
	conf_view(&out->conf, conf_newest_index(g), c);
	for (i = 0; i < c->n; i++) {
		raft_index match = 0;

		if (c->servers[i].id == g->cfg.self)
			match = g->durable;
		else if (group_leads(g))
			raft_match_index(&g->raft, c->servers[i].id, &match);
		out->member_match[i] = match;
	}
	out->conf_committed = !g->raft.configuration_uncommitted_index;
	for (i = 1; i < NET_NODE_MAX; i++)
		if (g->peers[i].joining)
			out->joiners |= 1ull << i;
	out->changing = g->chg || !out->conf_committed;
	out->removed = group_removed(g);
	out->elections = g->elections;
	out->terms_led = g->terms_led;
	out->dropped_stale = g->dropped_stale;
	out->dropped_rej = g->dropped_rej;
	out->resent = g->resent;
}

uint64_t group_needed_index(const struct group *g)
{
	const struct raft_configuration *c = &g->raft.configuration;
	uint64_t low = g->cache.last;
	unsigned i;

	if (!group_leads(g))
		return g->needed;
	for (i = 0; i < c->n; i++) {
		raft_index match = 0;

		if (c->servers[i].id == g->cfg.self)
			continue;
		/* The matching entry too: its term goes in front of the next. */
		if (raft_match_index(&g->raft, c->servers[i].id, &match))
			continue;
		/* Behind the log: it goes on after the snapshot. */
		if (match < g->peers[c->servers[i].id].offered)
			match = g->peers[c->servers[i].id].offered;
		if (match < low)
			low = match;
	}
	return low;
}
