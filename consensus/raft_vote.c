/* Who leads: votes that others ask for, answers to ours, the word of a leader that
 * goes, and links that come and go. */
#include "consensus/raft_impl.h"
#include "base/assert.h"

#include <string.h>

/* ---- votes ------------------------------------------------------------------------ */

/* [VOTE] B17: whoever asks counts its own voters only, so this replica is one by
 * a log that is newer than ours, and the election may hang on it.  For the step
 * the core sees a configuration in which it votes. */
static void vote_as_stranger(struct group *g, uint64_t from,
			     struct raft_message *m)
{
	struct raft_configuration own = g->raft.configuration, self;
	char addr[24];

	leader_forget(g);
	raft_configuration_init(&self);
	AZ(raft_configuration_add(&self, g->cfg.self,
				  raft_addr(addr, g->cfg.self), RAFT_VOTER));
	g->raft.configuration = self;
	msg_receive(g, from, m);
	self = g->raft.configuration;
	g->raft.configuration = own;
	raft_configuration_close(&self);
}

int on_vote(struct group *g, uint64_t from, struct cursor *c,
	    struct err *e)
{
	struct raft_message m = { .type = RAFT_REQUEST_VOTE };
	struct raft_request_vote *v = &m.request_vote;
	uint8_t flags;

	v->version = 2;
	v->candidate_id = from;
	v->term = cursor_u64(c);
	v->last_log_index = cursor_u64(c);
	v->last_log_term = cursor_u64(c);
	flags = cursor_u8(c);
	if (!cursor_done(c) || !v->term || flags > 3)
		return msg_refuse(e, from, "malformed vote request");
	v->pre_vote = flags & 1;
	v->disrupt_leader = flags & 2;
	/* [HOLD] A restarted server may have forgotten a leader that counts on
	 * its silence; a transfer is that leader's own wish. */
	if (group_now(g) < g->hold_until_ms && !v->disrupt_leader)
		return 0;
	if (v->pre_vote && v->term < raft_current_term(&g->raft))
		g->prevote_from = from;
	if (self_votes(g) || g->raft.state != RAFT_FOLLOWER)
		msg_receive(g, from, &m);
	else
		vote_as_stranger(g, from, &m);
	g->prevote_from = 0;
	return 0;
}

int on_vote_result(struct group *g, uint64_t from, struct cursor *c,
		   struct err *e)
{
	struct raft_message m = { .type = RAFT_REQUEST_VOTE_RESULT };
	struct raft_request_vote_result *r = &m.request_vote_result;
	uint64_t life;
	uint8_t flags;

	r->version = 2;
	r->term = cursor_u64(c);
	flags = cursor_u8(c);
	life = msg_life_get(c);
	if (!cursor_done(c) || !r->term || flags > 3)
		return msg_refuse(e, from, "malformed vote result");
	r->pre_vote = flags & 1;
	r->vote_granted = flags & 2;
	if (!peer_is(g, from, life)) {
		g->dropped_strange++;
		return 0;
	}
	/* B16: elsewhere the core reads a candidate's flag from other bytes. */
	if (g->raft.state != RAFT_CANDIDATE)
		return 0;
	if (r->vote_granted && r->term > raft_current_term(&g->raft) + 1)
		return msg_refuse(e, from, "vote for a term that was not asked for");
	msg_receive(g, from, &m);
	return 0;
}

int on_timeout_now(struct group *g, uint64_t from, struct cursor *c,
		   struct err *e)
{
	struct raft_message m = { .type = RAFT_TIMEOUT_NOW };

	m.timeout_now.term = cursor_u64(c);
	m.timeout_now.last_log_index = cursor_u64(c);
	m.timeout_now.last_log_term = cursor_u64(c);
	if (!cursor_done(c) || !m.timeout_now.term)
		return msg_refuse(e, from, "malformed timeout-now");
	/* No leader is left to say so to the only voter (B5). */
	if (conf_lone(g) || !self_is_member(g))
		return 0;
	msg_receive(g, from, &m);
	return 0;
}

/* ---- a leader that is gone --------------------------------------------------------
 * A link that breaks tells of a dead process at once, a silent leader only after an
 * election timeout.  Whoever loses the link to its leader asks for votes within a
 * third of that; where the leader lives, the others' pre-votes refuse. */

static void hurry_up(struct group *g)
{
	unsigned spread = g->cfg.election_ms / 4;
	uint64_t at = group_now(g) - g->raft.election_timer_start +
		      g->cfg.election_ms / 20 + rand_below(g->rand, spread + 1);

	if (at >= g->raft.follower_state.randomized_election_timeout)
		return;
	g->raft.follower_state.randomized_election_timeout = (unsigned)at;
	g->hurried = true;
}

/* A leader was heard: the core keeps the short timeout, which is for once only. */
void calm_down(struct group *g)
{
	if (!g->hurried)
		return;
	g->hurried = false;
	if (g->raft.state == RAFT_FOLLOWER)
		g->raft.follower_state.randomized_election_timeout =
			g->cfg.election_ms +
			(unsigned)rand_below(g->rand, g->cfg.election_ms);
}

/* ---- links ----------------------------------------------------------------------- */

static void peer_reset(struct group *g, uint64_t peer)
{
	struct group_peer *p = &g->peers[peer];
	bool reported = p->lag_reported;
	uint64_t seq = p->probe_seq;

	memset(p, 0, sizeof *p);
	p->lag_reported = reported;
	p->probe_seq = seq;
}

void group_peer_up(struct group *g, uint64_t peer)
{
	AN(peer > 0 && peer < NET_NODE_MAX);
	peer_reset(g, peer);
	if (group_leads(g))
		reads_resend(g, peer);
}

void group_peer_down(struct group *g, uint64_t peer)
{
	AN(peer > 0 && peer < NET_NODE_MAX);
	peer_reset(g, peer);
	if (!g->broken && g->raft.state == RAFT_FOLLOWER &&
	    g->raft.follower_state.current_leader.id == peer)
		hurry_up(g);
}
