/* The one caller of raft_step().  raft_impl.h has the order of a step; this file
 * has open, close, submit, timers, what the owner is told, and compaction.
 *
 * An error of a step other than SUBMIT or TRANSFER means that memory and disk
 * may differ: the group stops for good (group_break) and is whole again after a
 * restart. */
#include "consensus/raft_impl.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/logf.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
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

const char *raft_addr(char out[24], uint64_t id)
{
	snprintf(out, 24, "%" PRIu64, id);
	return out;
}

unsigned conf_voters(const struct raft_configuration *c)
{
	unsigned i, n = 0;

	for (i = 0; i < c->n; i++)
		n += c->servers[i].role == RAFT_VOTER;
	return n;
}

bool conf_has_voter(const struct raft_configuration *c, uint64_t id)
{
	unsigned i;

	for (i = 0; i < c->n; i++)
		if (c->servers[i].id == id)
			return c->servers[i].role == RAFT_VOTER;
	return false;
}

void group_break(struct group *g, const char *why)
{
	if (g->broken)
		return;
	g->broken = true;
	log_event(LOG_ERROR, "group_stopped", "shard=%u why=%s", g->cfg.shard,
		  log_quote(why));
	reads_fail(g, &g->reads_new, ERR_UNAVAILABLE);
	reads_fail(g, &g->reads_probing, ERR_UNAVAILABLE);
	reads_fail(g, &g->reads_ok, ERR_UNAVAILABLE);
}

/* ---- one step ------------------------------------------------------------------ */

static void changes_add(struct group *g, uint64_t index)
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

	if (re >= g->in_raft && re < g->in_raft + g->in_n) {
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
	disk_write(g, vote, truncate, es, n);
	entry_unref(own);
}

static void update_role(struct group *g)
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
	    g->n_waiting)
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

		/* Changes have rules of their own (B5, B14, B20) and no caller
		 * yet. */
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

void group_timeout(struct group *g)
{
	uint64_t now = group_now(g);
	struct raft_event ev = { 0 };

	if (g->broken)
		return;
	if (now >= raft_timeout(&g->raft)) {
		bool candidate = g->raft.state == RAFT_CANDIDATE;

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
	       reads_want_run(g);
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
	    index - sh->first_index > n)
		n = index - sh->first_index;
	return n > UINT32_MAX ? UINT32_MAX : (unsigned)n;
}

void group_durable(struct group *g, uint64_t index, uint64_t term)
{
	struct raft_event ev = { 0 };
	struct raft_snapshot_metadata *m = &ev.snapshot.metadata;
	const struct raft_configuration *c = &g->raft.configuration_committed;
	char addr[24];
	unsigned i;

	/* Twice the same index, or an install under way, would abort (B8). */
	if (g->broken || index <= g->snap_index || index > apply_end(g) ||
	    index > g->applied || g->raft.snapshot.installing ||
	    g->raft.configuration_committed_index > index)
		return;
	AN(log_term(g, index) == term);
	raft_configuration_init(&m->configuration);
	for (i = 0; i < c->n; i++)
		AZ(raft_configuration_add(&m->configuration, c->servers[i].id,
					  raft_addr(addr, c->servers[i].id),
					  c->servers[i].role));
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

/* ---- open and close --------------------------------------------------------------------- */

static int cmp_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* In ascending order of ids, so that entry 1 is the same everywhere. */
static void conf_build(struct raft_configuration *c,
		       const struct group_boot *boot)
{
	uint64_t v[GROUP_VOTERS_MAX];
	char addr[24];
	unsigned i;

	AN(boot->n_voters >= 1 && boot->n_voters <= GROUP_VOTERS_MAX);
	memcpy(v, boot->voters, boot->n_voters * sizeof *v);
	qsort(v, boot->n_voters, sizeof *v, cmp_u64);
	raft_configuration_init(c);
	for (i = 0; i < boot->n_voters; i++)
		AZ(raft_configuration_add(c, v[i], raft_addr(addr, v[i]),
					  RAFT_VOTER));
}

static struct entry *first_entry(struct group *g, const struct group_boot *boot)
{
	struct raft_configuration c;
	struct raft_buffer buf;
	struct entry *e;

	conf_build(&c, boot);
	AZ(raft_configuration_encode(&c, &buf));
	raft_configuration_close(&c);
	e = entry_new(g->cfg.shard, (uint32_t)buf.len + 1);
	entry_payload(e)[0] = GROUP_CHANGE;
	memcpy(entry_payload(e) + 1, buf.base, buf.len);
	raft_free(buf.base);
	e->term = 1;
	e->index = 1;
	return e;
}

struct boot_log {
	uint64_t first, last; /* what the core is started with */
	struct raft_entry *re;
	struct entry **held; /* configurations, whose bytes the core reads */
	unsigned n_held;
};

static void boot_log_release(struct boot_log *b)
{
	unsigned i;

	for (i = 0; i < b->n_held; i++)
		entry_unref(b->held[i]);
	free(b->held);
	free(b->re);
}

/* Terms of what was applied, and the entries after it, from the journal. */
static int boot_load(struct group *g, const struct group_boot *boot,
		     struct boot_log *b, struct err *e)
{
	static char batch;
	uint64_t i;

	b->re = xcalloc(b->last - b->first + 1, sizeof *b->re);
	for (i = b->first; i <= b->last; i++) {
		struct raft_entry *re = &b->re[i - b->first];
		struct entry *en;
		uint8_t type;

		re->type = RAFT_COMMAND;
		re->batch = &batch;
		if (i <= boot->applied_index) {
			re->term = journal_term(g->journal, g->cfg.shard, i);
			if (!re->term)
				return err_set(e, ERR_FAULTY,
					       "journal has no term of %" PRIu64,
					       i);
			continue;
		}
		if (journal_read(g->journal, g->cfg.shard, i, &en, e)) {
			e->code = ERR_FAULTY;
			return err_wrap(e, "entry %" PRIu64, i);
		}
		type = entry_payload(en)[0];
		re->term = en->term;
		re->buf.base = entry_payload(en) + 1;
		re->buf.len = en->len - 1;
		if (type == GROUP_BARRIER)
			re->type = RAFT_BARRIER;
		if (type == GROUP_CHANGE) {
			re->type = RAFT_CHANGE;
			if (!conf_valid(g, re->buf.base, re->buf.len)) {
				entry_unref(en);
				return err_set(e, ERR_FAULTY,
					       "entry %" PRIu64
					       " is no configuration",
					       i);
			}
			changes_add(g, i);
			b->held = xrealloc(b->held, (b->n_held + 1) *
							    sizeof *b->held);
			b->held[b->n_held++] = entry_ref(en);
		}
		raft_cache_append(&g->cache, en);
		raft_cache_evict(&g->cache, i);
		entry_unref(en);
	}
	return 0;
}

/* The journal holds what was applied and what follows it, or says with its mark
 * that the store has it. */
static int boot_check(struct group *g, const struct group_boot *boot,
		      const struct journal_shard *sh, struct err *e)
{
	uint64_t applied = boot->applied_index, term;

	if (sh->faulty)
		return err_set(e, ERR_FAULTY, "%s", sh->why);
	if (sh->last_index >= sh->first_index && sh->first_index) {
		if (sh->first_index > applied + 1)
			return err_set(e, ERR_FAULTY,
				       "journal starts at %" PRIu64
				       ", applied is %" PRIu64,
				       sh->first_index, applied);
		if (sh->last_index < applied)
			return err_set(e, ERR_FAULTY,
				       "journal ends at %" PRIu64
				       ", applied is %" PRIu64,
				       sh->last_index, applied);
		term = journal_term(g->journal, g->cfg.shard, applied);
		if (term && term != boot->applied_term)
			return err_set(e, ERR_FAULTY,
				       "entry %" PRIu64 " has term %" PRIu64
				       " in the journal, %" PRIu64
				       " was applied",
				       applied, term, boot->applied_term);
	} else if (applied != sh->mark_index) {
		return err_set(e, ERR_FAULTY,
			       "journal has no entries, mark %" PRIu64
			       ", applied is %" PRIu64,
			       sh->mark_index, applied);
	}
	if (sh->term < sh->last_term || sh->term < boot->applied_term)
		return err_set(e, ERR_FAULTY,
			       "term %" PRIu64 " is below that of an entry",
			       sh->term);
	return 0;
}

static int boot_start(struct group *g, const struct group_boot *boot,
		      struct err *e)
{
	const struct journal_shard *sh =
		journal_shard(g->journal, g->cfg.shard);
	static const struct journal_shard none;
	struct raft_snapshot_metadata meta = { 0 };
	struct raft_event ev = { 0 };
	struct boot_log b = { 0 };
	struct raft_entry re1 = { 0 };
	struct entry *e1 = NULL;
	bool vote = false;
	uint64_t applied = boot->applied_index;
	int rv;

	if (!sh || !sh->present)
		sh = &none;
	raft_cache_init(&g->cache, g->cfg.cache_bytes, applied + 1);
	rv = boot_check(g, boot, sh, e);
	if (rv)
		return rv;
	g->applied = g->snap_index = applied;
	g->applied_term = g->snap_term = boot->applied_term;
	ev.type = RAFT_START;
	ev.start.term = sh->term;
	ev.start.voted_for = sh->vote;
	if (sh->last_index >= sh->first_index && sh->first_index) {
		b.first = sh->first_index;
		b.last = sh->last_index;
		rv = boot_load(g, boot, &b, e);
		if (rv) {
			boot_log_release(&b);
			return rv;
		}
		ev.start.start_index = b.first;
		ev.start.entries = b.re;
		ev.start.n_entries = (unsigned)(b.last - b.first + 1);
		if (!applied && b.re[0].type != RAFT_CHANGE) {
			boot_log_release(&b);
			return err_set(e, ERR_FAULTY,
				       "entry 1 is no configuration");
		}
		g->durable = b.last;
	} else if (applied) {
		b.last = applied;
		ev.start.start_index = applied + 1;
		g->durable = applied;
	} else {
		e1 = first_entry(g, boot);
		re1.term = 1;
		re1.type = RAFT_CHANGE;
		re1.buf.base = entry_payload(e1) + 1;
		re1.buf.len = e1->len - 1;
		re1.batch = &re1;
		raft_cache_append(&g->cache, e1);
		changes_add(g, 1);
		ev.start.start_index = 1;
		ev.start.entries = &re1;
		ev.start.n_entries = 1;
		b.last = 1;
		vote = true;
	}
	/* The cache may have let go of what the journal can read again. */
	if (g->cache.last < b.last) {
		g->cache.first = b.last + 1;
		g->cache.last = b.last;
	}
	g->trail_first = ev.start.start_index;
	if (applied) {
		conf_build(&meta.configuration, boot);
		meta.index = applied;
		meta.term = boot->applied_term;
		meta.configuration_index =
			boot->conf_index ? boot->conf_index : 1;
		ev.start.metadata = &meta;
	}
	if (!ev.start.term) {
		ev.start.term = 1;
		vote = true;
	}
	/* A lone voter leads at once, without asking anybody; the new term and
	 * its vote for itself are in front of all its entries in the journal. */
	if (boot->n_voters == 1 && boot->voters[0] == g->cfg.self) {
		ev.start.term++;
		ev.start.voted_for = g->cfg.self;
		vote = true;
	} else if (!e1) {
		/* [HOLD] It may have helped a leader just before it stopped. */
		g->hold_until_ms = g->now_ms + g->cfg.election_ms;
	}
	g->raft.current_term = ev.start.term;
	g->raft.voted_for = ev.start.voted_for;
	if (vote)
		disk_write(g, true, 0, &e1, e1 ? 1 : 0);
	rv = core_step(g, &ev);
	boot_log_release(&b);
	entry_unref(e1);
	if (rv)
		return err_set(e, ERR_FAULTY, "raft does not start: %s",
			       raft_strerror(rv));
	update_role(g);
	return 0;
}

int group_open(struct group **out, const struct group_config *cfg,
	       const struct group_boot *boot, struct journal *journal,
	       struct net *net, struct clock *clock, struct rand *rand,
	       const struct group_ops *ops, void *arg, struct err *e)
{
	struct group *g = xcalloc(1, sizeof *g);
	char addr[24];
	int rv;

	g->cfg = *cfg;
	if (!g->cfg.election_ms)
		g->cfg.election_ms = 1000;
	if (!g->cfg.heartbeat_ms)
		g->cfg.heartbeat_ms = 100;
	if (!g->cfg.cache_bytes)
		g->cfg.cache_bytes = 2u << 20;
	g->journal = journal;
	g->net = net;
	g->clock = clock;
	g->rand = rand;
	g->ops = ops;
	g->arg = arg;
	list_init(&g->reqs);
	list_init(&g->held);
	reads_init(&g->reads_new);
	reads_init(&g->reads_probing);
	reads_init(&g->reads_ok);
	reads_init(&g->reads_failed);
	group_now(g);
	AZ(raft_init(&g->raft, NULL, NULL, cfg->self,
		     raft_addr(addr, cfg->self)));
	g->raft.tracer = NULL; /* its buffer is static, its work not free */
	g->raft.now = g->now_ms;
	raft_seed(&g->raft, (unsigned)rand_u64(rand));
	raft_set_pre_vote(&g->raft, true);
	raft_set_heartbeat_timeout(&g->raft, g->cfg.heartbeat_ms);
	raft_set_election_timeout(&g->raft, g->cfg.election_ms);
	raft_set_max_inflight_entries(&g->raft, GROUP_INFLIGHT_MAX);
	rv = boot_start(g, boot, e);
	if (rv) {
		group_close(g);
		return rv;
	}
	*out = g;
	return 0;
}

void group_close(struct group *g)
{
	raft_close(&g->raft, NULL);
	disk_release(g);
	msg_release(g);
	raft_cache_release(&g->cache);
	free(g->changes);
	free(g);
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
		if (!raft_match_index(&g->raft, c->servers[i].id, &match) &&
		    match + 1 < low)
			low = match + 1;
	}
	return low;
}
