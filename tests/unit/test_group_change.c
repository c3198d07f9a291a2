/* Membership by hand: one group, whose peers are the test.  One test per rule
 * (raft.md 8, 13 to 16; docs/decisions/0010).  Chaos is in test_group_members.c. */
#include "base/err.h"
#include "tests/lib/group_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define LIFE 0x1234567890abcdefull
#define OTHER 0xfedcba0987654321ull

static struct rig r;

static uint64_t term(void)
{
	return raft_current_term(&r.g->raft);
}

static struct group_info info(void)
{
	struct group_info i;

	group_info(r.g, &i);
	return i;
}

/* What became of the changes that were asked for. */
static struct group_change chg;
static int status, n_told;

static void on_change(struct group_change *c, int s)
{
	assert_ptr_equal(c, &chg);
	status = s;
	n_told++;
}

static int n_other;

static void on_other(struct group_change *c, int s)
{
	(void)c;
	assert_int_equal(s, 0);
	n_other++;
}

static int change(enum group_change_op op, uint64_t id)
{
	int rv;

	memset(&r.err, 0, sizeof r.err);
	chg = (struct group_change){ .op = op, .id = id, .cb = on_change };
	status = 1;
	n_told = 0;
	rv = group_change(r.g, &chg, &r.err);
	assert_true(!rv || (r.err.code == rv && r.err.msg[0]));
	rig_turn(&r);
	return rv;
}

static void ack(uint64_t from)
{
	rig_life(&r, from == 4 ? LIFE : 0);
	assert_int_equal(rig_ack(&r, from, term(), 0, info().last_index), 0);
	rig_life(&r, 0);
}

static void acks(void)
{
	rig_run_ms(&r, 3);
	ack(2);
	ack(3);
	rig_run_ms(&r, 3);
}

/* Leads founders 1, 2, 3; an entry of its term is committed. */
static void lead(void)
{
	rig_open(&r, 3);
	rig_elect(&r);
	assert_int_equal(rig_submit(&r, 1), 0);
	acks();
	assert_int_equal(info().commit_index, info().last_index);
	rig_forget(&r);
}

/* 4 is a standby, and has the log. */
static void add_four(void)
{
	assert_int_equal(rig_joining(&r, 4, LIFE, 0, 0, 1), 0);
	assert_int_equal(change(GROUP_ADD, 4), 0);
	acks();
	assert_int_equal(n_told, 1);
	assert_int_equal(status, 0);
	ack(4);
}

static void promote_four(void)
{
	assert_int_equal(change(GROUP_PROMOTE, 4), 0);
	acks();
	assert_int_equal(n_told, 0);
	ack(4);
	rig_run_ms(&r, 1);
	assert_int_equal(n_told, 1);
	assert_int_equal(status, 0);
}

/* The whole way of a replacement. */
static void test_replacement(void **state)
{
	(void)state;
	lead();
	add_four();
	assert_int_equal(r.n_confs, 2);
	assert_int_equal(r.conf.n, 4);
	assert_int_equal(r.conf.members[3].id, 4);
	assert_true(r.conf.members[3].life == LIFE);
	assert_false(r.conf.members[3].voter);
	assert_int_equal(info().n_voters, 3);
	promote_four();
	assert_true(r.conf.members[3].voter);
	assert_int_equal(info().n_voters, 4);
	assert_int_equal(change(GROUP_REMOVE, 2), 0);
	acks();
	ack(4);
	rig_run_ms(&r, 1);
	assert_int_equal(status, 0);
	assert_int_equal(r.conf.n, 3);
	assert_int_equal(r.conf.members[0].id, 1);
	assert_int_equal(r.conf.members[1].id, 3);
	assert_int_equal(r.conf.members[2].id, 4);
	rig_close(&r);
}

/* What cannot be is refused in words, and nothing is written. */
static void test_refusals(void **state)
{
	uint64_t last;

	(void)state;
	rig_open(&r, 3);
	assert_int_equal(change(GROUP_REMOVE, 2), ERR_NOT_LEADER);
	rig_close(&r);
	lead();
	last = info().last_index;
	assert_int_equal(change(GROUP_ADD, 4), ERR_NOT_FOUND); /* nobody asked */
	assert_int_equal(change(GROUP_ADD, 2), ERR_EXISTS);
	assert_int_equal(change(GROUP_ADD, 64), ERR_INVALID);
	assert_int_equal(change(GROUP_ADD, 0), ERR_INVALID);
	assert_int_equal(change(GROUP_PROMOTE, 4), ERR_NOT_FOUND);
	assert_int_equal(change(GROUP_PROMOTE, 2), ERR_EXISTS);
	assert_int_equal(change(GROUP_REMOVE, 7), ERR_NOT_FOUND);
	assert_int_equal(change((enum group_change_op)9, 2), ERR_INVALID);
	assert_int_equal(info().last_index, last);
	assert_int_equal(n_told, 0);
	rig_close(&r);
}

/* [SELF] */
static void test_leader_stays(void **state)
{
	(void)state;
	lead();
	assert_int_equal(change(GROUP_DEMOTE, 1), ERR_INVALID);
	assert_int_equal(change(GROUP_REMOVE, 1), ERR_INVALID);
	rig_close(&r);
}

/* [ONEVOTER] Two voters go down to one only when that was asked for. */
static void test_down_to_one(void **state)
{
	(void)state;
	lead();
	assert_int_equal(change(GROUP_REMOVE, 2), 0);
	acks();
	assert_int_equal(status, 0);
	assert_int_equal(change(GROUP_REMOVE, 3), ERR_INVALID);
	assert_int_equal(change(GROUP_DEMOTE, 3), ERR_INVALID);
	chg = (struct group_change){ .op = GROUP_REMOVE, .id = 3, .to_one = true,
				     .cb = on_change };
	assert_int_equal(group_change(r.g, &chg, &r.err), 0);
	rig_turn(&r);
	rig_run_ms(&r, 5);
	assert_int_equal(status, 0);
	assert_int_equal(r.conf.n, 1);
	/* It goes on alone, and keeps it over a restart in a new term. */
	assert_int_equal(rig_submit(&r, 1), 0);
	rig_run_ms(&r, 5);
	assert_int_equal(info().commit_index, info().last_index);
	rig_reopen(&r);
	assert_int_equal(r.role, GROUP_LEADER);
	rig_run_ms(&r, 5);
	assert_int_equal(r.conf.n, 1);
	rig_close(&r);
}

/* One voter grows: its term has no entry of its own after a start. */
static void test_up_from_one(void **state)
{
	(void)state;
	rig_open(&r, 1);
	assert_int_equal(r.role, GROUP_LEADER);
	assert_int_equal(rig_joining(&r, 4, LIFE, 0, 0, 1), 0);
	assert_int_equal(change(GROUP_ADD, 4), 0);
	rig_run_ms(&r, 5);
	assert_int_equal(status, 0);
	ack(4);
	assert_int_equal(change(GROUP_PROMOTE, 4), 0);
	rig_run_ms(&r, 5);
	assert_true(info().commit_index < info().last_index);
	ack(4);
	rig_run_ms(&r, 1);
	assert_int_equal(status, 0);
	assert_int_equal(info().n_voters, 2);
	rig_close(&r);
}

/* [OWNTERM] B20: nothing changes before an entry of this leader's term is
 * committed; it takes care of one itself. */
static void test_own_term_first(void **state)
{
	unsigned i;

	(void)state;
	rig_open(&r, 3);
	rig_elect(&r); /* the log is committed: the core adds no barrier */
	rig_forget(&r);
	assert_int_equal(change(GROUP_REMOVE, 3), ERR_BUSY); /* 3 alone is heard.. */
	ack(2);
	ack(3);
	assert_int_equal(change(GROUP_REMOVE, 3), 0);
	rig_run_ms(&r, 3);
	for (i = 1; i <= info().last_index; i++) {
		struct entry *e = log_get(r.g, i);

		assert_true(i == 1 || entry_payload(e)[0] == GROUP_BARRIER);
		entry_unref(e);
	}
	assert_int_equal(info().conf.n, 3);
	assert_int_equal(n_told, 0);
	ack(2);
	rig_run_ms(&r, 3);
	assert_int_equal(info().conf.n, 2);
	ack(2);
	rig_run_ms(&r, 3);
	assert_int_equal(status, 0);
	rig_close(&r);
}

/* One at a time, also while a barrier is awaited. */
static void test_one_at_a_time(void **state)
{
	struct group_change second = { .op = GROUP_REMOVE, .id = 3,
				       .cb = on_change };

	(void)state;
	lead();
	assert_int_equal(change(GROUP_REMOVE, 2), 0);
	assert_int_equal(group_change(r.g, &second, &r.err), ERR_BUSY);
	rig_run_ms(&r, 3);
	assert_true(info().changing);
	assert_int_equal(group_change(r.g, &second, &r.err), ERR_BUSY);
	assert_int_equal(group_transfer(r.g, 3), ERR_BUSY);
	acks();
	assert_int_equal(status, 0);
	assert_false(info().changing);
	rig_close(&r);
}

/* A standby is promoted when it has the log, and speaks. */
static void test_promote_waits_for_the_log(void **state)
{
	unsigned i;

	(void)state;
	lead();
	for (i = 0; i < 3; i++) {
		assert_int_equal(rig_submit(&r, 60), 0);
		acks();
	}
	assert_int_equal(rig_joining(&r, 4, LIFE, 0, 0, 1), 0);
	assert_int_equal(change(GROUP_ADD, 4), 0);
	acks();
	assert_int_equal(change(GROUP_PROMOTE, 4), ERR_BUSY); /* silent */
	rig_life(&r, LIFE);
	assert_int_equal(rig_ack(&r, 4, term(), 0, 50), 0);
	rig_life(&r, 0);
	assert_int_equal(change(GROUP_PROMOTE, 4), ERR_BUSY); /* behind */
	ack(4);
	assert_int_equal(change(GROUP_PROMOTE, 4), 0);
	rig_close(&r);
}

/* Until the new voter knows that it is one nothing else is changed, save that it
 * may go again. */
static void test_promotion_is_heard(void **state)
{
	struct group_change go = { .op = GROUP_REMOVE, .id = 2, .cb = on_other };
	int i;

	(void)state;
	lead();
	add_four();
	assert_int_equal(change(GROUP_PROMOTE, 4), 0);
	acks();
	assert_int_equal(info().commit_index, info().last_index);
	assert_int_equal(group_change(r.g, &go, &r.err), ERR_BUSY);
	assert_int_equal(n_told, 0);
	for (i = 0; i < 5; i++) { /* 4 falls silent, the others do not */
		rig_run_ms(&r, 300);
		ack(2);
		ack(3);
	}
	go.id = 4;
	n_other = 0;
	assert_int_equal(group_change(r.g, &go, &r.err), 0);
	rig_turn(&r);
	assert_int_equal(n_told, 1);
	assert_int_equal(status, ERR_TIMEOUT);
	acks();
	assert_int_equal(n_other, 1);
	assert_int_equal(info().conf.n, 3);
	rig_close(&r);
}

/* A group is not made smaller or larger than who is alive can carry. */
static void test_enough_must_live(void **state)
{
	int i;

	(void)state;
	lead();
	for (i = 0; i < 5; i++) { /* 3 falls silent */
		rig_run_ms(&r, 300);
		ack(2);
	}
	assert_int_equal(r.role, GROUP_LEADER);
	assert_int_equal(change(GROUP_REMOVE, 2), ERR_BUSY);
	assert_int_equal(change(GROUP_REMOVE, 3), 0);
	rig_close(&r);
}

/* Leadership is lost in the middle: nobody can say what became of it. */
static void test_outcome_unknown(void **state)
{
	(void)state;
	lead();
	assert_int_equal(change(GROUP_REMOVE, 3), 0);
	rig_run_ms(&r, 3);
	assert_int_equal(rig_append(&r, 2, term() + 1, 1, 1, 1, 0, NULL, NULL), 0);
	rig_run_ms(&r, 3);
	assert_int_equal(n_told, 1);
	assert_int_equal(status, ERR_UNKNOWN_OUTCOME);
	rig_close(&r);
	/* Before it was submitted nothing was done. */
	rig_open(&r, 3);
	rig_elect(&r);
	ack(2);
	assert_int_equal(change(GROUP_REMOVE, 3), 0);
	assert_int_equal(rig_append(&r, 2, term() + 1, 1, 1, 1, 0, NULL, NULL), 0);
	rig_run_ms(&r, 3);
	assert_int_equal(n_told, 1);
	assert_int_equal(status, ERR_NOT_LEADER);
	rig_close(&r);
}

/* What a replica acknowledged that was there before is not what its successor
 * has, on the same node and the same link. */
static void test_late_ack_of_a_predecessor(void **state)
{
	uint64_t commit;

	(void)state;
	lead();
	add_four();
	promote_four();
	assert_int_equal(change(GROUP_REMOVE, 4), 0);
	acks();
	assert_int_equal(status, 0);
	/* Its late word is of no member. */
	ack(4);
	assert_int_equal(rig_joining(&r, 4, OTHER, 0, 0, 1), 0);
	rig_forget(&r);
	assert_int_equal(change(GROUP_ADD, 4), 0);
	acks();
	assert_int_equal(status, 0);
	assert_true(info().conf.members[3].life == OTHER);
	/* All of it goes out anew, whatever the link carried before. */
	assert_true(rig_count(&r, GM_APPEND, 4) > 0);
	ack(4); /* LIFE, not OTHER */
	assert_int_equal(info().member_match[3], 0);
	assert_int_equal(change(GROUP_PROMOTE, 4), ERR_BUSY);
	assert_true(r.g->dropped_strange > 0);
	rig_life(&r, OTHER);
	assert_int_equal(rig_ack(&r, 4, term(), 0, info().last_index), 0);
	assert_int_equal(change(GROUP_PROMOTE, 4), 0);
	rig_run_ms(&r, 3);
	assert_int_equal(rig_ack(&r, 4, term(), 0, info().last_index), 0);
	rig_life(&r, 0);
	/* Four voters: 1 and the right 4 and one more commit, 1 and two wrong
	 * ones do not. */
	ack(2);
	rig_run_ms(&r, 3);
	assert_int_equal(status, 0);
	commit = info().commit_index;
	assert_int_equal(rig_submit(&r, 1), 0);
	rig_run_ms(&r, 3);
	ack(2);
	ack(4);
	assert_int_equal(info().commit_index, commit);
	rig_life(&r, OTHER);
	assert_int_equal(rig_ack(&r, 4, term(), 0, info().last_index), 0);
	assert_int_equal(info().commit_index, commit + 1);
	rig_close(&r);
}

/* The same for votes. */
static void test_vote_of_a_predecessor(void **state)
{
	struct entry *e = rig_conf("1v 2v 4v.1234567890abcdef");
	const uint64_t terms[1] = { 2 };

	(void)state;
	rig_open(&r, 2);
	assert_int_equal(rig_append(&r, 2, 2, 1, 1, 1, 1, terms, &e), 0);
	entry_unref(e);
	rig_run_ms(&r, 5);
	while (r.g->raft.state != RAFT_CANDIDATE)
		rig_timeout(&r);
	rig_life(&r, OTHER);
	assert_int_equal(rig_vote_result(&r, 4, 3, RIG_PRE | RIG_GRANTED), 0);
	assert_true(r.g->raft.candidate_state.in_pre_vote);
	rig_life(&r, 0);
	assert_int_equal(rig_vote_result(&r, 4, 3, RIG_PRE | RIG_GRANTED), 0);
	assert_true(r.g->raft.candidate_state.in_pre_vote);
	rig_life(&r, LIFE);
	assert_int_equal(rig_vote_result(&r, 4, 3, RIG_PRE | RIG_GRANTED), 0);
	assert_false(r.g->raft.candidate_state.in_pre_vote);
	rig_close(&r);
}

/* A joiner: empty, silent, no candidate; it says that it waits, and once it has a
 * configuration with its life, it stops saying so. */
static void test_joiner(void **state)
{
	struct entry *es[3];
	const uint64_t terms[3] = { 1, 2, 2 };
	const struct rig_msg *m;
	int i;

	(void)state;
	rig_open_joiner(&r, LIFE);
	assert_int_equal(info().last_index, 0);
	for (i = 0; i < 20; i++) {
		rig_run_ms(&r, 500);
		assert_int_equal(r.role, GROUP_FOLLOWER);
	}
	assert_int_equal(r.n_sent, 0);
	group_tell_joining(r.g);
	m = rig_last(&r, GM_JOINING, 1);
	assert_non_null(m);
	assert_true(m->life == LIFE && m->flags == 1);
	rig_forget(&r);
	/* Another replica's configuration does not make it a member. */
	es[0] = rig_change("vvv");
	es[1] = rig_command();
	es[2] = rig_conf("1v 2v 3v 4s.fedcba0987654321");
	assert_int_equal(rig_append(&r, 1, 2, 0, 0, 0, 3, terms, es), 0);
	rig_run_ms(&r, 5);
	m = rig_last(&r, GM_APPEND_RESULT, 1);
	assert_non_null(m);
	assert_int_equal(m->last, 3);
	assert_true(m->life == LIFE);
	group_tell_joining(r.g);
	assert_non_null(rig_last(&r, GM_JOINING, 1));
	rig_forget(&r);
	/* The tail is replaced by one that adds it. */
	entry_unref(es[2]);
	es[2] = rig_conf("1v 2v 3v 4s.1234567890abcdef");
	assert_int_equal(rig_append(&r, 2, 3, 2, 2, 3, 1,
				    (const uint64_t[]){ 3 }, es + 2), 0);
	rig_run_ms(&r, 5);
	group_tell_joining(r.g);
	assert_null(rig_last(&r, GM_JOINING, 1));
	assert_int_equal(r.conf.n, 4);
	assert_int_equal(r.conf.index, 3);
	/* It is still one after a restart. */
	rig_reopen(&r);
	for (i = 0; i < 20; i++) {
		rig_run_ms(&r, 500);
		assert_int_equal(r.role, GROUP_FOLLOWER);
	}
	assert_int_equal(rig_count(&r, GM_VOTE, 1), 0);
	for (i = 0; i < 3; i++)
		entry_unref(es[i]);
	rig_close(&r);
}

/* A joiner on the node of a founder that was once alone comes back when it has not
 * got further than that: the only voter is another replica.  It waits as before. */
static void test_joiner_behind_a_lone_founder(void **state)
{
	struct entry *es[4];
	const uint64_t terms[4] = { 1, 2, 2, 2 };
	int i;

	(void)state;
	rig_open_joiner(&r, LIFE);
	es[0] = rig_conf("4v");
	es[1] = rig_conf("2v 4v");
	es[2] = rig_conf("2v");
	es[3] = rig_conf("2v 4s.1234567890abcdef");
	assert_int_equal(rig_append(&r, 2, 2, 0, 0, 1, 1, terms, es), 0);
	rig_run_ms(&r, 5);
	for (i = 0; i < 2; i++) {
		rig_reopen(&r);
		assert_int_equal(info().last_index, 1);
		assert_int_equal(term(), 2);
		rig_run_ms(&r, 5000);
		assert_int_equal(r.role, GROUP_FOLLOWER);
		assert_int_equal(term(), 2);
	}
	assert_int_equal(rig_append(&r, 2, 2, 1, 1, 4, 3, terms + 1, es + 1), 0);
	rig_run_ms(&r, 5);
	assert_int_equal(r.conf.index, 4);
	assert_int_equal(rig_last(&r, GM_APPEND_RESULT, 2)->last, 4);
	assert_false(info().removed);
	for (i = 0; i < 4; i++)
		entry_unref(es[i]);
	rig_close(&r);
}

/* [VOTE] B17: a promoted voter that does not know it yet is asked for its vote, and
 * the group hangs on it.  While a leader is heard it refuses as all do. */
static void test_standby_votes_when_asked(void **state)
{
	struct entry *e = rig_conf("1v 2v 4s.1234567890abcdef");
	const uint64_t terms[1] = { 1 };
	const struct rig_msg *m;

	(void)state;
	rig_open_joiner(&r, LIFE);
	rig_run_ms(&r, 2500); /* no hold any more */
	assert_int_equal(rig_append(&r, 1, 1, 0, 0, 1, 1, terms, &e), 0);
	rig_run_ms(&r, 10);
	rig_forget(&r);
	assert_int_equal(rig_vote(&r, 2, 2, 5, 1, RIG_PRE), 0);
	m = rig_last(&r, GM_VOTE_RESULT, 2);
	assert_int_equal(m->flags & RIG_GRANTED, 0);
	rig_run_ms(&r, 2500);
	assert_int_equal(rig_vote(&r, 2, 2, 5, 1, RIG_PRE), 0);
	m = rig_last(&r, GM_VOTE_RESULT, 2);
	assert_int_equal(m->flags & RIG_GRANTED, RIG_GRANTED);
	assert_true(m->life == LIFE);
	assert_int_equal(rig_vote(&r, 2, 2, 5, 1, 0), 0);
	rig_run_ms(&r, 5);
	assert_int_equal(rig_last(&r, GM_VOTE_RESULT, 2)->flags, RIG_GRANTED);
	assert_int_equal(journal_shard(r.journal, RIG_SHARD)->vote, 2);
	/* Not to a shorter log, and not twice. */
	assert_int_equal(rig_vote(&r, 1, 2, 5, 1, 0), 0);
	assert_int_equal(rig_last(&r, GM_VOTE_RESULT, 1)->flags, 0);
	assert_int_equal(rig_vote(&r, 1, 3, 0, 0, 0), 0);
	rig_run_ms(&r, 5);
	assert_int_equal(rig_last(&r, GM_VOTE_RESULT, 1)->flags, 0);
	/* What it showed the core is gone again. */
	assert_int_equal(info().conf.n, 3);
	entry_unref(e);
	rig_close(&r);
}

/* B4: a tail with a second change is cut: the first one, which it proved to be
 * committed, is what is left. */
static void test_cut_back_to_the_change_before(void **state)
{
	struct entry *es[3];
	const uint64_t terms[3] = { 2, 2, 2 };

	(void)state;
	rig_open(&r, 3);
	es[0] = rig_conf("1v 2v 3v 4s.1234567890abcdef");
	es[1] = rig_command();
	es[2] = rig_conf("1v 2v 3v 4v.1234567890abcdef");
	/* The new leader does not know yet what is committed. */
	assert_int_equal(rig_append(&r, 2, 2, 1, 1, 1, 3, terms, es), 0);
	rig_run_ms(&r, 5);
	assert_int_equal(info().n_voters, 4);
	assert_int_equal(rig_append(&r, 3, 3, 3, 2, 1, 1,
				    (const uint64_t[]){ 3 }, es + 1), 0);
	rig_run_ms(&r, 5);
	assert_int_equal(info().conf.n, 4);
	assert_int_equal(info().n_voters, 3);
	assert_true(info().conf_committed);
	assert_int_equal(info().conf.index, 2);
	entry_unref(es[0]);
	entry_unref(es[1]);
	entry_unref(es[2]);
	rig_close(&r);
}

/* A removed replica never gets the entry that removes it: it asks. */
static void test_removed_is_told(void **state)
{
	const struct rig_msg *m;
	int i;

	(void)state;
	lead();
	assert_int_equal(change(GROUP_REMOVE, 3), 0);
	acks();
	assert_int_equal(status, 0);
	rig_forget(&r);
	/* One that knows more than we do is let be. */
	assert_int_equal(rig_joining(&r, 3, 0, info().last_index, term(), 0), 0);
	assert_null(rig_last(&r, GM_REMOVED, 3));
	assert_int_equal(rig_joining(&r, 2, 0, 1, 1, 0), 0);
	assert_null(rig_last(&r, GM_REMOVED, 2));
	assert_int_equal(rig_joining(&r, 3, 0, 1, 1, 0), 0);
	m = rig_last(&r, GM_REMOVED, 3);
	assert_non_null(m);
	assert_int_equal(m->last, info().conf.index);
	assert_int_equal(m->term, term());
	rig_close(&r);
	/* The other end. */
	rig_open(&r, 3);
	assert_int_equal(rig_removed(&r, 2, LIFE, 9, 2), 0); /* somebody else */
	assert_false(group_removed(r.g));
	assert_int_equal(rig_removed(&r, 2, 0, 1, 1), 0); /* old news */
	assert_false(group_removed(r.g));
	assert_int_equal(rig_removed(&r, 2, 0, 9, 2), 0);
	assert_true(group_removed(r.g));
	rig_forget(&r);
	for (i = 0; i < 20; i++)
		rig_run_ms(&r, 500);
	assert_int_equal(rig_count(&r, GM_VOTE, 2), 0);
	rig_close(&r);
}

/* An end of the log that nobody committed, with a configuration of its own, is not
 * newer than a removal, whatever the indexes.  After a restart the replica has
 * applied none of the configurations that have it. */
static void test_removed_behind_a_dead_end(void **state)
{
	struct entry *es[7];
	const uint64_t terms[7] = { 1, 2, 2, 2, 2, 2, 3 };
	int i;

	(void)state;
	rig_open_joiner(&r, LIFE);
	es[0] = rig_change("vvv");
	es[1] = rig_conf("1v 2v 3v 4s.1234567890abcdef");
	es[2] = rig_command();
	es[3] = rig_conf("1v 2v 3v 4v.1234567890abcdef");
	es[4] = rig_command();
	es[5] = rig_command();
	es[6] = rig_conf("1v 2v 4v.1234567890abcdef"); /* a leader that lost */
	assert_int_equal(rig_append(&r, 1, 3, 0, 0, 0, 7, terms, es), 0);
	rig_run_ms(&r, 5);
	rig_reopen(&r);
	assert_int_equal(info().last_index, 7);
	assert_int_equal(r.conf.index, 1);
	assert_false(info().removed);
	/* From a replica that is behind: before it was added. */
	assert_int_equal(rig_removed(&r, 2, LIFE, 1, 1), 0);
	assert_false(info().removed);
	rig_run_ms(&r, 3000);
	rig_forget(&r);
	group_tell_joining(r.g);
	assert_non_null(rig_last(&r, GM_JOINING, 2));
	assert_int_equal(rig_last(&r, GM_JOINING, 2)->last, 4);
	assert_int_equal(rig_last(&r, GM_JOINING, 2)->term, 2);
	assert_int_equal(rig_last(&r, GM_JOINING, 2)->flags, 0);
	assert_int_equal(rig_removed(&r, 2, LIFE, 5, 4), 0);
	assert_true(info().removed);
	/* Added again under the same name: with that it comes to have its removal. */
	entry_unref(es[4]);
	entry_unref(es[5]);
	es[4] = rig_change("vvv");
	es[5] = rig_conf("1v 2v 3v 4s.1234567890abcdef");
	assert_int_equal(rig_append(&r, 2, 4, 4, 2, 4, 2,
				    (const uint64_t[]){ 4, 4 }, es + 4), 0);
	assert_int_equal(info().last_index, 6);
	assert_false(info().removed);
	assert_int_equal(rig_removed(&r, 3, LIFE, 5, 4), 0);
	assert_false(info().removed);
	for (i = 0; i < 7; i++)
		entry_unref(es[i]);
	rig_close(&r);
}

/* The change that added it is at the end of a dead leader's log, and the others have
 * not written as much since: no index says so, but the terms do. */
static void test_added_at_a_dead_end(void **state)
{
	struct entry *es[4];
	const uint64_t terms[4] = { 1, 2, 2, 2 };
	int i;

	(void)state;
	/* Those that know. */
	lead();
	assert_int_equal(term(), 2);
	assert_int_equal(rig_joining(&r, 4, LIFE, 9, 2, 0), 0); /* it may be */
	assert_null(rig_last(&r, GM_REMOVED, 4));
	assert_int_equal(rig_joining(&r, 4, LIFE, 9, 0, 0), 0);
	assert_null(rig_last(&r, GM_REMOVED, 4));
	assert_int_equal(rig_joining(&r, 4, LIFE, 9, 1, 0), 0);
	assert_non_null(rig_last(&r, GM_REMOVED, 4));
	assert_int_equal(rig_last(&r, GM_REMOVED, 4)->last, info().last_index);
	rig_close(&r);
	/* The other end. */
	rig_open_joiner(&r, LIFE);
	es[0] = rig_change("vvv");
	es[1] = rig_command();
	es[2] = rig_command();
	es[3] = rig_conf("1v 2v 3v 4s.1234567890abcdef");
	assert_int_equal(rig_append(&r, 1, 2, 0, 0, 1, 4, terms, es), 0);
	rig_run_ms(&r, 3000);
	rig_forget(&r);
	group_tell_joining(r.g);
	assert_int_equal(rig_last(&r, GM_JOINING, 1)->last, 4);
	assert_int_equal(rig_last(&r, GM_JOINING, 1)->term, 2);
	assert_int_equal(rig_last(&r, GM_JOINING, 1)->flags, 0);
	assert_int_equal(rig_removed(&r, 2, LIFE, 3, 2), 0);
	assert_false(info().removed);
	assert_int_equal(rig_removed(&r, 2, LIFE, 3, 3), 0);
	assert_true(info().removed);
	/* The next leader adds it. */
	assert_int_equal(rig_append(&r, 2, 3, 3, 2, 3, 1,
				    (const uint64_t[]){ 3 }, es + 3), 0);
	assert_false(info().removed);
	for (i = 0; i < 4; i++)
		entry_unref(es[i]);
	rig_close(&r);
}

/* A removal and what came after it are committed, and the disk is slow: neither is
 * applied.  The word of one that knows only of the removal is old news. */
static void test_removal_is_old_before_it_is_applied(void **state)
{
	struct entry *es[4];
	const uint64_t terms[4] = { 1, 2, 2, 2 };
	int i;

	(void)state;
	rig_open_joiner(&r, LIFE);
	es[0] = rig_change("vvv");
	es[1] = rig_conf("1v 2v 3v 4s.1234567890abcdef");
	es[2] = rig_change("vvv");
	es[3] = rig_conf("1v 2v 3v 4s.1234567890abcdef");
	assert_int_equal(rig_append(&r, 1, 2, 0, 0, 2, 2, terms, es), 0);
	rig_run_ms(&r, 5);
	assert_int_equal(r.conf.index, 2);
	assert_int_equal(rig_append(&r, 1, 2, 2, 2, 4, 2, terms + 2, es + 2), 0);
	assert_int_equal(info().commit_index, 4);
	assert_int_equal(r.conf.index, 2);
	assert_int_equal(rig_removed(&r, 2, LIFE, 3, 2), 0);
	assert_false(info().removed);
	rig_run_ms(&r, 5);
	assert_int_equal(r.conf.index, 4);
	assert_false(info().removed);
	assert_int_equal(rig_removed(&r, 2, LIFE, 5, 2), 0);
	assert_true(info().removed);
	for (i = 0; i < 4; i++)
		entry_unref(es[i]);
	rig_close(&r);
}

/* Old configurations come again after a link broke, also those with one voter. */
static void test_resends_are_taken(void **state)
{
	struct entry *es[3];
	const uint64_t terms[3] = { 1, 2, 2 };

	(void)state;
	rig_open_joiner(&r, LIFE);
	es[0] = rig_change("v");
	es[1] = rig_conf("1v 4s.1234567890abcdef");
	es[2] = rig_conf("1v 4v.1234567890abcdef");
	assert_int_equal(rig_append(&r, 1, 2, 0, 0, 3, 3, terms, es), 0);
	assert_int_equal(rig_append(&r, 1, 2, 0, 0, 3, 3, terms, es), 0);
	rig_run_ms(&r, 5);
	assert_int_equal(rig_append(&r, 1, 2, 1, 1, 3, 2, terms + 1, es + 1), 0);
	assert_int_equal(info().n_voters, 2);
	assert_int_equal(r.applied, 3);
	assert_int_equal(r.n_confs, 3);
	entry_unref(es[0]);
	entry_unref(es[1]);
	entry_unref(es[2]);
	rig_close(&r);
}

/* Bytes of configurations that nobody wrote are refused, not read. */
static void test_configurations_as_bytes(void **state)
{
	struct group_conf c;
	uint8_t p[200];
	unsigned i, k;

	(void)state;
	for (k = 0; k < 3; k++) {
		struct entry *e = rig_conf(k == 0 ? "1v 2s.1"
					   : k == 1 ? "63v.ffffffffffffffff"
						    : "9v 10v 11v 12s.10");
		const uint8_t *b = entry_payload(e) + 1;
		size_t n = e->len - 1;

		assert_true(n <= sizeof p);
		assert_int_equal(group_conf_decode(&c, 7, b, n), 0);
		assert_int_equal(c.index, 7);
		for (i = 0; i < n; i++)
			assert_int_equal(group_conf_decode(&c, 7, b, i / 8 * 8),
					 ERR_FORMAT);
		memcpy(p, b, n);
		for (i = 0; i < n * 8; i++) {
			p[i / 8] ^= (uint8_t)(1 << i % 8);
			/* Where it still is one, it is written in one way. */
			if (!group_conf_decode(&c, 0, p, n))
				assert_true(c.n >= 1 && c.n <= 4);
			p[i / 8] ^= (uint8_t)(1 << i % 8);
		}
		entry_unref(e);
	}
	assert_int_equal(group_conf_decode(&c, 0, NULL, 0), ERR_FORMAT);
}

#define T(name) cmocka_unit_test(name)

static const struct CMUnitTest tests[] = {
	T(test_replacement),
	T(test_refusals),
	T(test_leader_stays),
	T(test_down_to_one),
	T(test_up_from_one),
	T(test_own_term_first),
	T(test_one_at_a_time),
	T(test_promote_waits_for_the_log),
	T(test_promotion_is_heard),
	T(test_enough_must_live),
	T(test_outcome_unknown),
	T(test_late_ack_of_a_predecessor),
	T(test_vote_of_a_predecessor),
	T(test_joiner),
	T(test_joiner_behind_a_lone_founder),
	T(test_standby_votes_when_asked),
	T(test_cut_back_to_the_change_before),
	T(test_removed_is_told),
	T(test_removed_behind_a_dead_end),
	T(test_added_at_a_dead_end),
	T(test_removal_is_old_before_it_is_applied),
	T(test_resends_are_taken),
	T(test_configurations_as_bytes),
};

int main(void)
{
	sim_quiet();
	if (getenv("GROUP_ONLY"))
		cmocka_set_test_filter(getenv("GROUP_ONLY"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
