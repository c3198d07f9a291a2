/* One raft group (consensus/raft_*.c) of three under peers that say anything: the
 * input is a script of raw messages, well-formed ones with small numbers near the
 * group's own, time, submits, transfers, checkpoints and restarts.
 *
 * Held: nobody dies; the term and the commit index never fall; in a term one vote
 * at most is given, over restarts too; what is acknowledged is durable, or was in
 * the term of the message (it may have waited for a vote to be durable, and a later
 * leader's entries came meanwhile, as on a slow network).  A group may stop (a peer
 * contradicts what is committed) and starts again. */
#include "base/assert.h"
#include "base/cursor.h"
#include "base/logf.h"
#include "tests/lib/group_rig.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { STEPS_MAX = 400, TERMS_MAX = 8192 };

struct script {
	struct rig rig;
	uint64_t term, commit;
	uint8_t vote_in[TERMS_MAX];
	uint64_t durable_in[TERMS_MAX];
};

static void no_log(void *arg, const char *line)
{
	(void)arg;
	(void)line;
}

static void voted(struct script *s, uint64_t term, uint64_t peer)
{
	AN(term < TERMS_MAX);
	AN(!s->vote_in[term] || s->vote_in[term] == peer);
	s->vote_in[term] = (uint8_t)peer;
}

static void check(struct script *s)
{
	struct group *g = s->rig.g;
	uint64_t term = raft_current_term(&g->raft);
	unsigned i;

	AN(term < TERMS_MAX);
	if (s->durable_in[term] < g->durable)
		s->durable_in[term] = g->durable;
	for (i = 0; i < s->rig.n_sent; i++) {
		const struct rig_msg *m = &s->rig.sent[i];

		if (m->kind == GM_VOTE_RESULT && m->flags == RIG_GRANTED)
			voted(s, m->term, m->peer);
		if (m->kind == GM_VOTE && !(m->flags & RIG_PRE))
			voted(s, m->term, s->rig.self);
		if (m->kind == GM_APPEND_RESULT && !m->rejected) {
			AN(m->term <= term);
			AN(m->last <= g->durable ||
			   m->last <= s->durable_in[m->term]);
		}
	}
	rig_forget(&s->rig);
	AN(term >= s->term);
	AN(g->commit >= s->commit);
	AN(g->applied <= g->commit && g->applied <= g->durable);
	AN(g->durable <= g->cache.last || g->broken);
	s->term = term;
	s->commit = g->commit;
}

/* The process ends and comes back: what was not durable may be forgotten, unless
 * a message told of it. */
static void restart(struct script *s)
{
	rig_reopen(&s->rig);
	s->term = raft_current_term(&s->rig.g->raft);
	s->commit = 1;
}

/* A number near the group's own: what peers say is about here. */
static uint64_t near(struct cursor *c, uint64_t n)
{
	uint8_t d = cursor_u8(c) % 16;

	return n + d >= 8 ? n + d - 8 : 0;
}

static void raw(struct script *s, struct cursor *c, uint64_t from)
{
	size_t n = cursor_u8(c);
	struct err e = { 0 };
	const uint8_t *p;

	if (n > cursor_left(c))
		n = cursor_left(c);
	p = cursor_bytes(c, n);
	/* Terms may be anything, but the check counts them. */
	if (n >= 9 && get_u64(p + 1) >= TERMS_MAX - 16)
		return;
	if (p)
		group_receive(s->rig.g, from, p, n, &e);
}

static void append(struct script *s, struct cursor *c, uint64_t from)
{
	uint64_t term = near(c, s->term), prev = near(c, s->rig.g->cache.last);
	uint64_t prev_term = log_term(s->rig.g, prev);
	uint64_t commit = near(c, s->commit), terms[4];
	unsigned i, n = cursor_u8(c);

	/* Mostly what is true of the entry in front. */
	if (n & 0x80 || (prev && !prev_term))
		prev_term = near(c, s->term);
	for (i = 0; i < n % 5; i++)
		terms[i] = n & 0x40 ? prev_term : term;
	rig_append(&s->rig, from, term, prev, prev_term, commit, n % 5, terms,
		   NULL);
}

static void step(struct script *s, struct cursor *c)
{
	uint8_t op = cursor_u8(c);
	uint64_t from = 2 + (op >> 4 & 1), term, last;
	struct rig *r = &s->rig;

	switch (op & 15) {
	case 0:
		raw(s, c, from);
		break;
	case 1:
	case 2:
	case 3:
		append(s, c, from);
		break;
	case 4:
	case 5:
		term = near(c, s->term);
		last = near(c, r->g->cache.last);
		rig_ack(r, from, term, op & 0x20 ? last + 1 : 0, last);
		break;
	case 6:
		term = near(c, s->term);
		last = near(c, r->g->cache.last);
		rig_vote(r, from, term, last, near(c, s->term), op >> 5 & 3);
		break;
	case 7:
		rig_vote_result(r, from, near(c, s->term), op >> 5 & 3);
		break;
	case 8:
		term = near(c, s->term);
		rig_timeout_now(r, from, term, r->g->cache.last,
				near(c, s->term));
		break;
	case 9:
		rig_timeout(r);
		break;
	case 10:
		if (r->role == GROUP_LEADER)
			rig_submit(r, 1 + op % 7);
		break;
	case 11:
		group_transfer(r->g, from);
		break;
	case 12:
		if (!r->g->broken)
			group_durable(r->g, r->applied,
				      log_term(r->g, r->applied));
		break;
	case 13:
		group_peer_down(r->g, from);
		group_peer_up(r->g, from);
		break;
	case 14:
		restart(s);
		break;
	default:
		rig_run_ms(r, op >> 4);
		break;
	}
	if (r->g->broken)
		restart(s);
	rig_turn(r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct script s;
	struct cursor c = cursor_of(data, size);
	unsigned steps = 0;

	log_set_sink(no_log, NULL);
	memset(&s, 0, sizeof s);
	rig_open(&s.rig, 3);
	check(&s);
	while (cursor_left(&c) && steps++ < STEPS_MAX && s.term < TERMS_MAX / 2) {
		step(&s, &c);
		check(&s);
	}
	rig_close(&s.rig);
	return 0;
}
