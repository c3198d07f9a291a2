/* Who is in the group: one change at a time, by the leader.
 *
 *   asked     rules looked at; a barrier goes out if no entry of this leader's own
 *             term is committed yet, else two leaders could change the group from
 *             different ends (B20)
 *   waiting   until one is
 *   sent      the new configuration, alone in its submit (B14), in the order of the
 *             old one (progress in the core goes by place)
 *   applied   done, save for a promotion: the new voter must have it too.  A voter
 *             that does not know that it is one is what elections stall on (B17)
 *
 * Answers count by life: a replica that was removed, and one that was made anew on
 * the same node, have other names in the configuration (docs/decisions/0010). */
#include "consensus/raft_impl.h"
#include "base/assert.h"
#include "base/logf.h"

#include <inttypes.h>
#include <string.h>

static const char *const op_names[] = { "add", "promote", "demote", "remove" };

/* ---- rules ---------------------------------------------------------------------- */

static bool heard(const struct group *g, uint64_t id)
{
	return id == g->cfg.self ||
	       (g->peers[id].heard_ms &&
		g->now_ms - g->peers[id].heard_ms < g->cfg.election_ms);
}

/* The group as it would be must be able to commit with who is heard of now. */
static int check_alive(const struct group *g, const struct group_conf *next,
		       struct err *e)
{
	unsigned i, voters = 0, alive = 0;

	for (i = 0; i < next->n; i++) {
		if (!next->members[i].voter)
			continue;
		voters++;
		alive += heard(g, next->members[i].id);
	}
	if (alive <= voters / 2)
		return err_set(e, ERR_BUSY,
			       "only %u of the %u voters that it would leave are "
			       "heard of", alive, voters);
	return 0;
}

static int check_add(const struct group *g, const struct group_change *c,
		     struct group_conf *next, struct err *e)
{
	if (next->n == GROUP_MEMBERS_MAX)
		return err_set(e, ERR_INVALID, "a group has at most %d members",
			       GROUP_MEMBERS_MAX);
	if (!g->peers[c->id].joining)
		return err_set(e, ERR_NOT_FOUND,
			       "no empty replica of shard %u on node %" PRIu64
			       " has asked to join", g->cfg.shard, c->id);
	next->members[next->n++] = (struct group_member){
		.id = c->id, .life = g->peers[c->id].joining
	};
	return 0;
}

static int check_promote(const struct group *g, const struct group_change *c,
			 struct group_conf *next, unsigned at, unsigned voters,
			 struct err *e)
{
	raft_index match = 0;

	if (voters == GROUP_VOTERS_MAX)
		return err_set(e, ERR_INVALID, "a group has at most %d voters",
			       GROUP_VOTERS_MAX);
	if (!heard(g, c->id))
		return err_set(e, ERR_BUSY, "node %" PRIu64 " is silent", c->id);
	raft_match_index(&g->raft, c->id, &match);
	if (match + GROUP_CHANGE_LAG_MAX < g->cache.last || !match)
		return err_set(e, ERR_BUSY,
			       "node %" PRIu64 " has the log up to %" PRIu64
			       " of %" PRIu64, c->id, (uint64_t)match,
			       g->cache.last);
	next->members[at].voter = true;
	return 0;
}

static int check_less(const struct group *g, const struct group_change *c,
		      struct group_conf *next, unsigned at, unsigned voters,
		      struct err *e)
{
	if (c->id == g->cfg.self)
		return err_set(e, ERR_INVALID,
			       "node %" PRIu64 " leads: hand leadership over first",
			       c->id);
	if (next->members[at].voter && voters == 2 && !c->to_one)
		return err_set(e, ERR_INVALID,
			       "one single voter would be left, which must be "
			       "asked for by name");
	if (c->op == GROUP_DEMOTE) {
		next->members[at].voter = false;
		return 0;
	}
	next->n--;
	memmove(next->members + at, next->members + at + 1,
		(next->n - at) * sizeof *next->members);
	return 0;
}

/* The configuration that the change would make of the newest one. */
static int change_plan(const struct group *g, const struct group_change *c,
		       struct group_conf *next, struct err *e)
{
	unsigned at, voters = conf_voters(&g->raft.configuration);
	bool voter;
	int rv;

	conf_view(next, 0, &g->raft.configuration);
	if (c->id < 1 || c->id >= NET_NODE_MAX || c->op > GROUP_REMOVE)
		return err_set(e, ERR_INVALID, "no node has the id %" PRIu64,
			       c->id);
	for (at = 0; at < next->n && next->members[at].id != c->id; at++)
		;
	if (c->op == GROUP_ADD) {
		if (at < next->n)
			return err_set(e, ERR_EXISTS,
				       "node %" PRIu64 " is a member", c->id);
		rv = check_add(g, c, next, e);
		return rv ? rv : check_alive(g, next, e);
	}
	if (at == next->n)
		return err_set(e, ERR_NOT_FOUND, "node %" PRIu64 " is no member",
			       c->id);
	voter = next->members[at].voter;
	if (c->op == GROUP_PROMOTE ? voter : c->op == GROUP_DEMOTE && !voter)
		return err_set(e, ERR_EXISTS, "node %" PRIu64 " is a %s",
			       c->id, voter ? "voter" : "standby");
	if (c->op == GROUP_PROMOTE)
		rv = check_promote(g, c, next, at, voters, e);
	else
		rv = check_less(g, c, next, at, voters, e);
	return rv ? rv : check_alive(g, next, e);
}

/* ---- one change ------------------------------------------------------------------- */

static bool own_term_committed(const struct group *g)
{
	return log_term(g, g->commit) == raft_current_term(&g->raft);
}

static void change_end(struct group *g, int status)
{
	g->chg_ended = true;
	g->chg_status = status;
}

static int barrier_submit(struct group *g)
{
	struct entry *e = entry_new(g->cfg.shard, 1);
	int rv;

	entry_payload(e)[0] = GROUP_BARRIER;
	rv = group_submit(g, &e, 1);
	if (rv)
		entry_unref(e);
	return rv;
}

static int conf_submit(struct group *g, const struct group_conf *next)
{
	struct raft_entry re = { .type = RAFT_CHANGE, .batch = &re };
	struct raft_event ev = { .type = RAFT_SUBMIT };
	struct raft_configuration c;
	struct entry *e;
	char addr[24];
	unsigned i;
	int rv;

	raft_configuration_init(&c);
	for (i = 0; i < next->n; i++) {
		const struct group_member *m = &next->members[i];

		AZ(raft_configuration_add(&c, m->id,
					  conf_addr(addr, m->id, m->life),
					  m->voter ? RAFT_VOTER : RAFT_STANDBY));
	}
	e = conf_entry(g->cfg.shard, &c);
	raft_configuration_close(&c);
	re.term = raft_current_term(&g->raft);
	re.buf.base = entry_payload(e) + 1;
	re.buf.len = e->len - 1;
	ev.submit.entries = &re;
	ev.submit.n = 1;
	g->in_raft = &re;
	g->in_entries = &e;
	g->in_n = 1;
	g->in_batch = false;
	rv = core_step(g, &ev);
	g->in_raft = NULL;
	g->in_n = 0;
	entry_unref(e);
	return rv;
}

static void change_submit(struct group *g)
{
	struct group_change *c = g->chg;
	struct group_conf next;
	struct err e = { 0 };
	int rv = change_plan(g, c, &next, &e);

	if (rv) {
		change_end(g, rv);
		return;
	}
	/* What went out to the replica of before is not here (B22). */
	if (c->op == GROUP_ADD) {
		g->peers[c->id].sent_upto = 0;
		g->peers[c->id].ae_any = false;
		g->peers[c->id].offered = 0;
		g->peers[c->id].lag_reported = false;
		g->peers[c->id].joining = 0;
	}
	g->chg_index = g->cache.last + 1;
	rv = conf_submit(g, &next);
	if (rv) {
		change_end(g, rv == RAFT_NOTLEADER ? ERR_NOT_LEADER : ERR_BUSY);
		return;
	}
	log_event(LOG_INFO, "member_change",
		  "shard=%u op=%s node=%" PRIu64 " index=%" PRIu64,
		  g->cfg.shard, op_names[c->op], c->id, g->chg_index);
}

int group_change(struct group *g, struct group_change *c, struct err *e)
{
	struct group_conf next;
	int rv;

	group_now(g);
	if (!group_leads(g))
		return err_set(e, ERR_NOT_LEADER, "this node does not lead shard %u",
			       g->cfg.shard);
	/* A voter that was promoted and never heard of may go again. */
	if (g->chg && !(g->chg_applied && g->chg->id == c->id &&
			c->op >= GROUP_DEMOTE))
		return err_set(e, ERR_BUSY, "node %" PRIu64 " is being %s",
			       g->chg->id,
			       g->chg->op == GROUP_ADD	     ? "added"
			       : g->chg->op == GROUP_PROMOTE ? "promoted"
			       : g->chg->op == GROUP_DEMOTE  ? "demoted"
							     : "removed");
	if (g->chg_ended)
		return err_set(e, ERR_BUSY, "a change is ending");
	if (g->raft.configuration_uncommitted_index)
		return err_set(e, ERR_BUSY, "a change is not committed yet");
	rv = change_plan(g, c, &next, e);
	if (rv)
		return rv;
	if (!group_room(g))
		return err_set(e, ERR_BUSY, "the group takes no entries now");
	if (!own_term_committed(g) &&
	    log_term(g, g->cache.last) != raft_current_term(&g->raft) &&
	    barrier_submit(g))
		return err_set(e, ERR_BUSY, "the group takes no entries now");
	if (g->chg) {
		g->chg_before = g->chg;
		g->chg = NULL;
	}
	g->chg = c;
	g->chg_term = raft_current_term(&g->raft);
	g->chg_index = 0;
	g->chg_applied = false;
	return 0;
}

/* What the change can do now. */
enum change_step { CHG_REST, CHG_SUBMIT, CHG_APPLIED, CHG_OVER, CHG_LOST };

static enum change_step change_next(const struct group *g)
{
	raft_index match = 0;

	if (!g->chg)
		return CHG_REST;
	if (g->chg_ended)
		return CHG_OVER;
	if (!group_leads(g) || raft_current_term(&g->raft) != g->chg_term)
		return CHG_LOST;
	if (!g->chg_index)
		return own_term_committed(g) && group_room(g) ? CHG_SUBMIT
							      : CHG_REST;
	if (g->applied < g->chg_index)
		return CHG_REST;
	if (g->chg->op != GROUP_PROMOTE)
		return CHG_OVER;
	raft_match_index(&g->raft, g->chg->id, &match);
	if (match >= g->chg_index)
		return CHG_OVER;
	return g->chg_applied ? CHG_REST : CHG_APPLIED;
}

bool change_wants_run(const struct group *g)
{
	return g->chg_before || change_next(g) != CHG_REST;
}

static void change_tell(struct group *g, int status)
{
	struct group_change *c = g->chg;

	g->chg = NULL;
	g->chg_ended = g->chg_applied = false;
	c->cb(c, status);
}

void change_run(struct group *g)
{
	struct group_change *before = g->chg_before;

	if (before) {
		g->chg_before = NULL;
		before->cb(before, ERR_TIMEOUT);
	}
	switch (change_next(g)) {
	case CHG_REST:
		break;
	case CHG_SUBMIT:
		change_submit(g);
		break;
	case CHG_APPLIED:
		g->chg_applied = true;
		break;
	case CHG_OVER:
		change_tell(g, g->chg_ended ? g->chg_status : 0);
		break;
	case CHG_LOST:
		change_tell(g, g->broken	? ERR_UNAVAILABLE
			       : g->chg_index	? ERR_UNKNOWN_OUTCOME
						: ERR_NOT_LEADER);
		break;
	}
}

/* ---- who answers -------------------------------------------------------------------- */

bool peer_is(const struct group *g, uint64_t id, uint64_t life)
{
	return conf_has(&g->raft.configuration, id, life);
}

bool self_is_member(const struct group *g)
{
	return peer_is(g, g->cfg.self, g->cfg.life);
}

bool self_votes(const struct group *g)
{
	return self_is_member(g) &&
	       conf_has_voter(&g->raft.configuration, g->cfg.self);
}

/* ---- joining and leaving --------------------------------------------------------------- */

const struct group_conf *group_conf(const struct group *g)
{
	return &g->conf;
}

/* The entry since which this replica is a member by its own log: all configurations
 * in it from there on have it.
 *
 * It starts from what the core knows to be committed: what is applied may be behind
 * that, and g->changes has nothing of what lies in between. */
static struct group_since member_since(const struct group *g)
{
	uint64_t index = g->raft.configuration_committed_index;
	bool in = conf_has(&g->raft.configuration_committed, g->cfg.self,
			   g->cfg.life);
	struct group_conf c;
	unsigned i;

	for (i = 0; i < g->n_changes; i++) {
		struct entry *e;
		bool has;

		if (g->changes[i] <= g->raft.configuration_committed_index)
			continue;
		e = log_get((struct group *)(uintptr_t)g, g->changes[i]);
		has = e && !group_conf_decode(&c, 0, entry_payload(e) + 1,
					      e->len - 1) &&
		      conf_view_has(&c, g->cfg.self, g->cfg.life);
		entry_unref(e);
		if (has && !in)
			index = g->changes[i];
		in = has;
	}
	if (!in)
		index = conf_newest_index(g);
	return (struct group_since){ index, log_term(g, index) };
}

/* Somebody applied all up to (index, term), and is left with a configuration that
 * has not got the replica that is a member since `s`.  Is it out?  A change in its
 * log that adds it again would have been preceded there by the removal, and be the
 * one since which it is a member.  So that one is gone, whatever else its log ends
 * with, when it is behind: by the index it would be among what was applied; by the
 * term it cannot be committed any more, as terms never fall. */
static bool since_is_over(const struct group_since *s, uint64_t index,
			  uint64_t term)
{
	return index > s->index || (s->term && term > s->term);
}

/* Nothing of what it has acknowledged is missed when it goes now: it had no entry
 * of a configuration that adds it again, and nobody counts it before that one is
 * committed, and with it all that comes before. */
bool group_removed(const struct group *g)
{
	if (g->removed_at) {
		struct group_since s = member_since(g);

		if (since_is_over(&s, g->removed_at, g->removed_term))
			return true;
	}
	return g->was_member && !self_is_member(g) &&
	       !conf_view_has(&g->conf, g->cfg.self, g->cfg.life);
}

void conf_applied(struct group *g, const struct entry *e)
{
	const uint8_t *p = entry_payload((struct entry *)(uintptr_t)e);

	/* It was looked at when it came in. */
	AZ(group_conf_decode(&g->conf, e->index, p + 1, e->len - 1));
	g->was_member |= conf_view_has(&g->conf, g->cfg.self, g->cfg.life);
	if (g->ops->conf)
		g->ops->conf(g->arg, &g->conf);
}

bool conf_view_has(const struct group_conf *c, uint64_t id, uint64_t life)
{
	unsigned i;

	for (i = 0; i < c->n; i++)
		if (c->members[i].id == id)
			return c->members[i].life == life;
	return false;
}

/* The entry that removes a replica is never sent to it, so it asks: one that
 * hears of no leader, those of its configuration; an empty one, everybody. */
void group_tell_joining(struct group *g)
{
	/* An empty one may have had entries from before it was added. */
	bool joins = g->cfg.life && !g->was_member && !self_is_member(g) &&
		     !conf_view_has(&g->conf, g->cfg.self, g->cfg.life);
	struct group_since since;
	uint64_t id;

	if (g->broken || g->frozen || group_removed(g) || !g->net ||
	    g->raft.state == RAFT_LEADER)
		return;
	if (!joins && group_now(g) - g->heard_leader_ms < 2 * g->cfg.election_ms)
		return;
	since = member_since(g);
	for (id = 1; id < NET_NODE_MAX; id++)
		if (id != g->cfg.self && g->net->ops->is_up(g->net, id))
			msg_send_joining(g, id, &since, joins);
}

/* A peer says what it is.  Whoever knows that it is none of the members says so. */
void on_joining_heard(struct group *g, uint64_t from, uint64_t life,
		      const struct group_since *since, bool joins)
{
	if (joins && life && !peer_is(g, from, life))
		g->peers[from].joining = life;
	if (!joins && g->conf.index && !conf_view_has(&g->conf, from, life) &&
	    since_is_over(since, g->applied, g->applied_term))
		msg_send_removed(g, from, life);
}

void on_removed_heard(struct group *g, uint64_t life, uint64_t index,
		      uint64_t term)
{
	struct group_since since = member_since(g);

	if (life != g->cfg.life || !self_is_member(g) ||
	    !since_is_over(&since, index, term) || group_leads(g))
		return;
	if (!group_removed(g))
		log_event(LOG_INFO, "removed_from_group",
			  "shard=%u index=%" PRIu64, g->cfg.shard, index);
	g->removed_at = index;
	g->removed_term = term;
}

uint64_t conf_newest_index(const struct group *g)
{
	return g->raft.configuration_uncommitted_index
		       ? g->raft.configuration_uncommitted_index
		       : g->raft.configuration_committed_index;
}
