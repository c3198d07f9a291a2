/* One test for each bug of libraft 0.22.1 that our rules of use guard against
 * (docs/decisions/0003): test_b07_... is the guard against B7.
 * What the bare core does is shown by test_raft_core.c. */
#include "base/alloc.h"
#include "base/err.h"
#include "tests/lib/group_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

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

/* Leads three voters; `n` entries are on all of them. */
static void lead_with(unsigned n)
{
	uint64_t last;

	rig_open(&r, 3);
	rig_elect(&r);
	while (n) {
		unsigned k = n < GROUP_SUBMIT_MAX ? n : GROUP_SUBMIT_MAX;

		assert_int_equal(rig_submit(&r, k), 0);
		n -= k;
		rig_run_ms(&r, 3);
		last = info().last_index;
		assert_int_equal(rig_ack(&r, 2, term(), 0, last), 0);
		assert_int_equal(rig_ack(&r, 3, term(), 0, last), 0);
	}
	rig_forget(&r);
}

/* An append of a lower term is answered by us with fields that mean nothing,
 * since the core would fill them from its stack. */
static void test_b01_append_of_lower_term(void **state)
{
	const struct rig_msg *m;

	(void)state;
	rig_open(&r, 3);
	assert_int_equal(rig_append(&r, 2, 5, 1, 1, 1, 3, NULL, NULL), 0);
	rig_run_ms(&r, 5);
	rig_forget(&r);
	assert_int_equal(rig_append(&r, 3, 4, 1, 1, 1, 2, NULL, NULL), 0);
	m = rig_last(&r, GM_APPEND_RESULT, 3);
	assert_non_null(m);
	assert_int_equal(m->term, 5);
	assert_true(m->rejected == UINT64_MAX);
	assert_int_equal(m->last, 0);
	assert_int_equal(info().last_index, 4);
	assert_int_equal(info().dropped_stale, 1);
	/* prev 0 is what the core takes for success */
	assert_int_equal(rig_append(&r, 3, 4, 0, 0, 0, 0, NULL, NULL), 0);
	assert_true(rig_last(&r, GM_APPEND_RESULT, 3)->rejected == UINT64_MAX);
	rig_close(&r);
}

/* The asker may be elected in our term meanwhile: our answer moves nothing. */
static void test_b01_answer_to_a_later_leader(void **state)
{
	uint64_t commit;

	(void)state;
	lead_with(0);
	assert_int_equal(rig_submit(&r, 10), 0);
	rig_run_ms(&r, 3);
	commit = info().commit_index;
	assert_int_equal(rig_ack(&r, 3, term(), UINT64_MAX, 0), 0);
	assert_int_equal(info().commit_index, commit);
	assert_int_equal(info().match[2], 0);
	assert_int_equal(r.role, GROUP_LEADER);
	rig_close(&r);
}

/* It wants what it has not got, and says what it is sure of. */
static void test_snapshot_for_a_follower(void)
{
	unsigned i;

	rig_open(&r, 3);
	assert_int_equal(rig_append(&r, 2, 5, 1, 1, 1, 9, NULL, NULL), 0);
	assert_int_equal(rig_append(&r, 2, 5, 10, 5, 6, 0, NULL, NULL), 0);
	rig_run_ms(&r, 5);
	assert_int_equal(r.applied, 6);
	assert_false(group_wants_snapshot(r.g, 6, 5));
	assert_false(group_wants_snapshot(r.g, 8, 5)); /* it has that entry */
	assert_false(group_wants_snapshot(r.g, 8, 6)); /* a term it has not heard of */
	assert_int_equal(rig_append(&r, 2, 6, 10, 5, 6, 0, NULL, NULL), 0);
	rig_run_ms(&r, 5);
	assert_true(group_wants_snapshot(r.g, 8, 6));
	assert_true(group_wants_snapshot(r.g, 11, 5));
	r.n_sent = 0;
	group_tell_matched(r.g, 2);
	assert_int_equal(r.n_sent, 1);
	assert_int_equal(r.sent[0].kind, GM_APPEND_RESULT);
	assert_int_equal(r.sent[0].last, 6);
	assert_int_equal(r.sent[0].rejected, 0);
	/* Deaf, it neither answers nor asks. */
	group_freeze(r.g, true);
	r.n_sent = 0;
	for (i = 0; i < 20; i++) {
		assert_int_equal(rig_append(&r, 2, 5, 10, 5, 10, 0, NULL, NULL),
				 0);
		rig_run_ms(&r, 500);
	}
	assert_int_equal(r.n_sent, 0);
	assert_true(group_quiet(r.g));
	rig_close(&r);
}

/* There is no message that installs a snapshot, in neither direction. */
static void test_b02_no_install_snapshot(void **state)
{
	struct err e = { 0 };
	uint64_t i;

	(void)state;
	rig_open(&r, 3);
	for (i = 0; i < 256; i++) {
		uint8_t kind[40] = { (uint8_t)i };

		if (i >= GM_APPEND && i <= GM_NEEDED)
			continue;
		assert_int_equal(group_receive(r.g, 2, kind, sizeof kind, &e),
				 ERR_PROTOCOL);
	}
	rig_close(&r);
	/* A follower behind all that the core knows gets heartbeats only. */
	lead_with(2000);
	assert_int_equal(r.applied, info().commit_index);
	group_durable(r.g, r.applied, term());
	rig_ack(&r, 3, term(), info().last_index, 0);
	for (i = 0; i < 30; i++) {
		rig_ack(&r, 2, term(), 0, info().last_index);
		rig_timeout(&r);
	}
	for (i = 0; i < r.n_sent; i++)
		assert_int_equal(r.sent[i].kind, GM_APPEND);
	assert_false(group_wants_snapshot(r.g, 5000, term()));
	rig_close(&r);
	test_snapshot_for_a_follower();
}

/* What was seen as committed stays so, whatever a low probe says. */
static void test_b03_commit_never_goes_back(void **state)
{
	(void)state;
	rig_open(&r, 3);
	assert_int_equal(rig_append(&r, 2, 5, 1, 1, 1, 9, NULL, NULL), 0);
	assert_int_equal(rig_append(&r, 2, 5, 10, 5, 10, 0, NULL, NULL), 0);
	rig_run_ms(&r, 5);
	assert_int_equal(info().commit_index, 10);
	assert_int_equal(r.applied, 10);
	assert_int_equal(rig_append(&r, 3, 6, 4, 5, 11, 0, NULL, NULL), 0);
	assert_int_equal(info().commit_index, 10);
	assert_int_equal(raft_commit_index(&r.g->raft), 10);
	rig_run_ms(&r, 5);
	assert_int_equal(rig_append(&r, 3, 6, 10, 5, 11, 1, NULL, NULL), 0);
	rig_run_ms(&r, 5);
	assert_int_equal(r.applied, 11);
	rig_close(&r);
}

/* A change in the middle of an append gets its own index, so that its commit is
 * seen and a truncation behind it leaves it. */
static void test_b04_change_inside_a_batch(void **state)
{
	struct entry *es[4] = { rig_command(), rig_command(),
				rig_change("vvvs"), rig_command() };
	const uint64_t terms[4] = { 2, 2, 2, 2 };
	unsigned i;

	(void)state;
	rig_open(&r, 3);
	assert_int_equal(rig_append(&r, 2, 2, 1, 1, 1, 4, terms, es), 0);
	assert_int_equal(info().last_index, 5);
	assert_int_equal(r.g->raft.configuration.n, 4);
	assert_int_equal(r.g->raft.configuration_uncommitted_index, 4);
	rig_run_ms(&r, 5);
	/* Entry 5 is replaced: the change stands. */
	assert_int_equal(rig_append(&r, 3, 3, 4, 2, 1, 1, NULL, NULL), 0);
	assert_int_equal(r.g->raft.configuration.n, 4);
	assert_int_equal(rig_append(&r, 3, 3, 5, 3, 5, 0, NULL, NULL), 0);
	assert_int_equal(r.g->raft.configuration_uncommitted_index, 0);
	assert_int_equal(r.g->raft.configuration_committed_index, 4);
	assert_int_equal(r.g->raft.configuration_committed.n, 4);
	for (i = 0; i < 4; i++)
		entry_unref(es[i]);
	rig_close(&r);
}

/* ... and a truncation in front of it takes it back. */
static void test_b04_change_is_rolled_back(void **state)
{
	struct entry *es[3] = { rig_command(), rig_change("vvvs"),
				rig_command() };
	const uint64_t terms[3] = { 2, 2, 2 };
	unsigned i;

	(void)state;
	rig_open(&r, 3);
	assert_int_equal(rig_append(&r, 2, 2, 1, 1, 1, 3, terms, es), 0);
	assert_int_equal(rig_append(&r, 3, 3, 2, 2, 2, 1, NULL, NULL), 0);
	assert_int_equal(info().last_index, 3);
	assert_int_equal(r.g->raft.configuration.n, 3);
	assert_int_equal(r.g->raft.configuration_uncommitted_index, 0);
	rig_run_ms(&r, 10);
	assert_int_equal(r.g->durable, 3);
	for (i = 0; i < 3; i++)
		entry_unref(es[i]);
	rig_close(&r);
}

/* A follower that becomes the only voter asks nobody, and the core would have it
 * lead in the term that its leader led in: it takes a new one, and its vote is on
 * the disk before anything else. */
static void test_b05_lone_voter_takes_a_new_term(void **state)
{
	static const char *const bad[] = { "sss", "vvp" };
	struct entry *e;
	const uint64_t terms[1] = { 2 };
	unsigned i;

	(void)state;
	rig_open(&r, 3);
	for (i = 0; i < 2; i++) {
		e = rig_change(bad[i]);
		assert_int_equal(rig_append(&r, 2, 2, 1, 1, 1, 1, terms, &e),
				 ERR_PROTOCOL);
		entry_unref(e);
	}
	assert_int_equal(info().last_index, 1);
	e = rig_change("vss");
	assert_int_equal(rig_append(&r, 2, 2, 1, 1, 1, 1, terms, &e), 0);
	entry_unref(e);
	rig_run_ms(&r, 10);
	assert_int_equal(term(), 2);
	while (r.role != GROUP_LEADER)
		rig_timeout(&r);
	assert_int_equal(term(), 3);
	rig_run_ms(&r, 10);
	assert_int_equal(journal_shard(r.journal, RIG_SHARD)->term, 3);
	assert_int_equal(journal_shard(r.journal, RIG_SHARD)->vote, 1);
	/* The same after a restart, by the log alone. */
	rig_reopen(&r);
	assert_int_equal(r.role, GROUP_LEADER);
	assert_int_equal(term(), 4);
	rig_close(&r);
}

/* Spares, whose leader's timer stands still, are refused, and no deadline stays
 * in the past. */
static void test_b06_no_spares_no_spinning(void **state)
{
	struct entry *e = rig_change("vvvp");
	const uint64_t terms[1] = { 2 };
	unsigned i;

	(void)state;
	rig_open(&r, 3);
	assert_int_equal(rig_append(&r, 2, 2, 1, 1, 1, 1, terms, &e),
			 ERR_PROTOCOL);
	entry_unref(e);
	rig_elect(&r);
	for (i = 0; i < 200; i++) {
		uint64_t now;

		rig_timeout(&r);
		now = r.sim.now_us / 1000;
		assert_true(group_deadline_ms(r.g) > now);
		rig_ack(&r, 2, term(), 0, info().last_index);
	}
	rig_close(&r);
}

/* A checkpoint is reported once per index; the same again is no event. */
static void test_b08_checkpoint_twice(void **state)
{
	(void)state;
	lead_with(600);
	group_durable(r.g, 300, log_term(r.g, 300));
	group_durable(r.g, 300, log_term(r.g, 300));
	group_durable(r.g, 200, log_term(r.g, 200));
	assert_int_equal(r.g->snap_index, 300);
	/* Above what is applied there is nothing to report. */
	group_durable(r.g, r.applied + 1, term());
	assert_int_equal(r.g->snap_index, 300);
	group_durable(r.g, r.applied, term());
	assert_int_equal(r.g->snap_index, r.applied);
	rig_close(&r);
}

static void on_mark(struct journal_req *q)
{
	(void)q;
}

/* A late append from below the compaction point is moved up to it. */
static void test_b09_append_below_the_compaction_point(void **state)
{
	struct journal_req mark = { .shard = RIG_SHARD,
				    .has_mark = true,
				    .mark_index = 1000,
				    .mark_term = 2,
				    .cb = on_mark };
	struct entry *es[50], *big = entry_new(RIG_SHARD, 2000);
	const struct rig_msg *m;
	uint64_t terms[50], i, low;

	(void)state;
	memset(entry_payload(big), GROUP_COMMAND, 2000);
	for (i = 0; i < 50; i++) {
		es[i] = big;
		terms[i] = 2;
	}
	rig_open(&r, 3);
	for (i = 1; i < 2000; i += 50) {
		assert_int_equal(rig_append(&r, 2, 2, i, i == 1 ? 1 : 2, i, 50,
					    terms, es),
				 0);
		rig_run_ms(&r, 2);
		/* The journal forgets the first thousand or so. */
		if (i == 1501)
			assert_int_equal(journal_submit(r.journal, &mark), 0);
	}
	assert_int_equal(rig_append(&r, 2, 2, 2001, 2, 2001, 0, NULL, NULL), 0);
	rig_run_ms(&r, 50);
	assert_int_equal(r.applied, 2001);
	group_durable(r.g, 2001, 2);
	low = r.g->trail_first;
	assert_true(low > 100);
	assert_int_equal(low, journal_shard(r.journal, RIG_SHARD)->first_index);
	for (i = 0; i <= low; i++) {
		rig_forget(&r);
		assert_int_equal(rig_append(&r, 2, 2, i, i == 0 ? 0
						       : i == 1 ? 1
								: 2,
					    2001, i ? 20 : 0, NULL, NULL),
				 0);
		m = rig_last(&r, GM_APPEND_RESULT, 2);
		assert_non_null(m);
		assert_int_equal(m->rejected, 0);
		assert_true(m->last >= (i ? i + 20 : 2001));
	}
	assert_int_equal(info().last_index, 2001);
	entry_unref(big);
	rig_close(&r);
}

/* A rejection of what has matched since is old news. */
static void test_b11_late_rejection(void **state)
{
	uint64_t last;
	unsigned i;

	(void)state;
	lead_with(10);
	last = info().last_index;
	/* 3 falls silent, so the leader probes it from its match on. */
	for (i = 0; i < 30; i++) {
		rig_timeout(&r);
		assert_int_equal(rig_ack(&r, 2, term(), 0, last), 0);
	}
	assert_int_equal(rig_ack(&r, 3, term(), last, last - 1), 0);
	assert_int_equal(rig_ack(&r, 3, term(), 3, 2), 0);
	assert_int_equal(info().dropped_rej, 2);
	assert_int_equal(info().match[2], last);
	/* A rejection above the match is answered. */
	assert_int_equal(rig_submit(&r, 1), 0);
	rig_forget(&r);
	assert_int_equal(rig_ack(&r, 3, term(), last + 1, last), 0);
	assert_int_equal(info().dropped_rej, 2);
	rig_close(&r);
}

/* A follower whose disk has lost what it had acked: the core would abort, or drop its
 * answers for ever.  It is told from a late rejection by saying so again and again. */
static void test_b11_follower_that_lost_its_tail(void **state)
{
	uint64_t last, since;

	(void)state;
	lead_with(10);
	last = info().last_index;
	assert_int_equal(rig_submit(&r, 1), 0);
	rig_run_ms(&r, 3);
	assert_int_equal(rig_ack(&r, 2, term(), 0, last + 1), 0);
	/* The core sends from its match on, and from above it. */
	assert_int_equal(rig_ack(&r, 3, term(), last, last - 4), 0);
	assert_int_equal(rig_ack(&r, 3, term(), last + 1, last - 4), 0);
	assert_int_equal(info().dropped_rej, 2);
	assert_false(info().transferring);
	/* An answer with more: it was a late one. */
	assert_int_equal(rig_ack(&r, 3, term(), 0, last), 0);
	since = group_now(r.g);
	do {
		assert_true(group_now(r.g) - since < 10000);
		rig_timeout(&r);
		rig_ack(&r, 2, term(), 0, last + 1);
		rig_ack(&r, 3, term(), last, last - 4);
	} while (!rig_count(&r, GM_TIMEOUT_NOW, 2));
	assert_true(group_now(r.g) - since >= 2000);
	assert_int_equal(rig_count(&r, GM_TIMEOUT_NOW, 3), 0);
	assert_int_equal(info().match[2], last);
	rig_close(&r);
}

/* Leadership moves to one that has the log, not to the first with a link: it would
 * not get there in time, again and again, and meanwhile nobody writes. */
static void test_b11_leadership_goes_to_the_best(void **state)
{
	uint64_t last, since;
	unsigned i;

	(void)state;
	rig_open(&r, 5);
	while (r.g->raft.state != RAFT_CANDIDATE)
		rig_timeout(&r);
	for (i = 2; i <= 3; i++)
		assert_int_equal(rig_vote_result(&r, i, term() + 1,
						 RIG_PRE | RIG_GRANTED), 0);
	rig_run_ms(&r, 5);
	for (i = 2; i <= 3; i++)
		assert_int_equal(rig_vote_result(&r, i, term(), RIG_GRANTED), 0);
	assert_int_equal(r.role, GROUP_LEADER);
	assert_int_equal(rig_submit(&r, 10), 0);
	rig_run_ms(&r, 3);
	last = info().last_index;
	assert_int_equal(rig_ack(&r, 4, term(), 0, last), 0);
	assert_int_equal(rig_ack(&r, 5, term(), 0, last), 0);
	rig_forget(&r);
	since = group_now(r.g);
	do {
		assert_true(group_now(r.g) - since < 10000);
		rig_timeout(&r);
		rig_ack(&r, 2, term(), 0, 2); /* slow */
		/* 3 is silent */
		rig_ack(&r, 4, term(), 0, last);
		rig_ack(&r, 5, term(), last, last - 4);
	} while (!info().transferring);
	assert_true(group_now(r.g) - since >= 2000);
	assert_int_equal(rig_count(&r, GM_TIMEOUT_NOW, 4), 1);
	rig_close(&r);
}

/* The same entries are reported durable once, whatever else is written. */
static void test_b12_persisted_once(void **state)
{
	(void)state;
	rig_open(&r, 3);
	assert_int_equal(rig_append(&r, 2, 2, 1, 1, 1, 5, NULL, NULL), 0);
	rig_run_ms(&r, 5);
	assert_int_equal(r.g->raft.last_stored, 6);
	assert_int_equal(rig_append(&r, 2, 2, 1, 1, 1, 5, NULL, NULL), 0);
	/* A vote alone comes back from the disk too. */
	assert_int_equal(rig_vote(&r, 3, 9, 50, 8, RIG_DISRUPT), 0);
	rig_run_ms(&r, 5);
	assert_int_equal(rig_last(&r, GM_VOTE_RESULT, 3)->flags, RIG_GRANTED);
	assert_int_equal(r.g->raft.last_stored, 6);
	rig_close(&r);
}

static uint64_t highest_ack(uint64_t peer)
{
	uint64_t high = 0;
	unsigned i;

	for (i = 0; i < r.n_sent; i++)
		if (r.sent[i].kind == GM_APPEND_RESULT &&
		    r.sent[i].peer == peer && !r.sent[i].rejected &&
		    r.sent[i].last > high)
			high = r.sent[i].last;
	return high;
}

/* A write under way when its entries were cut vouches for none of those that
 * took their places. */
static void test_b13_stale_write_after_truncation(void **state)
{
	(void)state;
	rig_open(&r, 3);
	rig_forget(&r);
	assert_int_equal(rig_append(&r, 2, 2, 1, 1, 1, 4, NULL, NULL), 0);
	assert_int_equal(rig_append(&r, 3, 3, 2, 2, 1, 3, NULL, NULL), 0);
	assert_int_equal(info().last_index, 5);
	assert_int_equal(r.g->durable, 1);
	/* The first write is back: of it only entry 2 still stands. */
	while (r.g->durable == 1)
		rig_run_ms(&r, 1);
	assert_int_equal(r.g->durable, 2);
	assert_true(highest_ack(3) <= 2);
	rig_run_ms(&r, 10);
	assert_int_equal(r.g->durable, 5);
	assert_int_equal(highest_ack(3), 5);
	rig_close(&r);
}

/* Not even when the very same entries come back: the truncation between lies in
 * the journal. */
static void test_b13_same_entries_come_back(void **state)
{
	const uint64_t old[3] = { 2, 2, 2 };

	(void)state;
	rig_open(&r, 3);
	rig_forget(&r);
	assert_int_equal(rig_append(&r, 2, 2, 1, 1, 1, 3, NULL, NULL), 0);
	assert_int_equal(rig_append(&r, 3, 3, 1, 1, 1, 1, NULL, NULL), 0);
	assert_int_equal(rig_append(&r, 2, 4, 1, 1, 1, 3, old, NULL), 0);
	assert_int_equal(info().last_index, 4);
	rig_run_ms(&r, 1);
	assert_int_equal(r.g->durable, 1);
	assert_int_equal(highest_ack(2), 0);
	rig_run_ms(&r, 10);
	assert_int_equal(r.g->durable, 4);
	assert_int_equal(highest_ack(2), 4);
	rig_reopen(&r);
	assert_int_equal(info().last_index, 4);
	assert_int_equal(log_term(r.g, 4), 2);
	rig_close(&r);
}

/* Nobody submits a change yet, so none can be refused in the middle of a batch;
 * the same line stands for B17, B20 and B21. */
static void test_b14_no_changes_from_above(void **state)
{
	struct entry *es[2];

	(void)state;
	lead_with(1);
	es[0] = rig_command();
	es[1] = rig_change("vvvv");
	assert_int_equal(group_submit(r.g, es, 2), ERR_INVALID);
	assert_int_equal(info().last_index, raft_last_index(&r.g->raft));
	entry_unref(es[0]);
	entry_unref(es[1]);
	rig_close(&r);
}

/* With a full window a follower gets one empty append per tick, not one per
 * submit, and submits end before the window does. */
static void test_b15_full_window(void **state)
{
	unsigned i, empty = 0;

	(void)state;
	lead_with(1);
	/* 3 is in touch but slow; 2 alone carries the group on. */
	while (info().last_index - info().match[2] < GROUP_INFLIGHT_MAX) {
		assert_int_equal(rig_submit(&r, 64), 0);
		rig_run_ms(&r, 2);
		rig_ack(&r, 2, term(), 0, info().last_index);
		rig_ack(&r, 3, term(), 0, info().match[2]);
	}
	rig_forget(&r);
	for (i = 0; i < 50; i++)
		assert_int_equal(rig_submit(&r, 1), 0);
	for (i = 0; i < r.n_sent; i++) {
		if (r.sent[i].kind != GM_APPEND || r.sent[i].peer != 3)
			continue;
		assert_int_equal(r.sent[i].n, 0);
		empty++;
	}
	assert_int_equal(empty, 1);
	/* Nobody answers: no submits beyond the window. */
	while (rig_submit(&r, 1) == 0)
		assert_true(info().last_index - info().commit_index <
			    GROUP_INFLIGHT_MAX);
	assert_int_equal(group_room(r.g), 0);
	rig_close(&r);
}

/* Vote results reach the core of a candidate only. */
static void test_b16_vote_result_for_a_follower(void **state)
{
	unsigned flags;

	(void)state;
	rig_open(&r, 3);
	assert_int_equal(rig_append(&r, 2, 5, 1, 1, 1, 1, NULL, NULL), 0);
	for (flags = 0; flags < 4; flags++)
		assert_int_equal(rig_vote_result(&r, 3, 6, flags), 0);
	assert_int_equal(term(), 5);
	assert_int_equal(r.role, GROUP_FOLLOWER);
	rig_close(&r);
	lead_with(1);
	for (flags = 0; flags < 4; flags++)
		assert_int_equal(rig_vote_result(&r, 3, term() + 1, flags), 0);
	assert_int_equal(r.role, GROUP_LEADER);
	rig_close(&r);
}

/* The answer to a pre-vote of a lower term carries our term ... */
static void test_b18_prevote_teaches_the_term(void **state)
{
	const struct rig_msg *m;
	uint64_t t;

	(void)state;
	rig_open(&r, 3);
	assert_int_equal(rig_vote(&r, 2, 19, 0, 0, 0), 0);
	rig_run_ms(&r, 5);
	assert_int_equal(term(), 19);
	assert_int_equal(rig_vote(&r, 3, 14, 99, 13, RIG_PRE), 0);
	m = rig_last(&r, GM_VOTE_RESULT, 3);
	assert_int_equal(m->term, 19);
	assert_int_equal(m->flags, RIG_PRE);
	assert_int_equal(term(), 19);
	/* ... and moves the asker up. */
	while (r.g->raft.state != RAFT_CANDIDATE)
		rig_timeout(&r);
	t = term();
	assert_int_equal(rig_vote_result(&r, 2, t + 7, RIG_PRE), 0);
	assert_int_equal(term(), t + 7);
	/* One of a higher term gets its own back, as the core has it. */
	rig_forget(&r);
	assert_int_equal(rig_vote(&r, 3, 90, 99, 80, RIG_PRE), 0);
	rig_run_ms(&r, 5);
	m = rig_last(&r, GM_VOTE_RESULT, 3);
	assert_int_equal(m->term, 90);
	assert_int_equal(m->flags, RIG_PRE | RIG_GRANTED);
	rig_close(&r);
}

/* A transfer waits for the whole log of its target, and takes no submits. */
static void test_b19_transfer_waits_for_the_log(void **state)
{
	const struct rig_msg *m;
	uint64_t last;

	(void)state;
	lead_with(5);
	assert_int_equal(rig_submit(&r, 10), 0);
	rig_run_ms(&r, 3);
	last = info().last_index;
	assert_int_equal(rig_ack(&r, 2, term(), 0, last), 0);
	assert_int_equal(group_transfer(r.g, 3), 0);
	assert_int_equal(group_transfer(r.g, 2), ERR_BUSY);
	assert_int_equal(group_room(r.g), 0);
	assert_int_equal(rig_submit(&r, 1), ERR_BUSY);
	assert_int_equal(rig_ack(&r, 3, term(), 0, last - 5), 0);
	assert_int_equal(rig_count(&r, GM_TIMEOUT_NOW, 3), 0);
	assert_int_equal(rig_ack(&r, 3, term(), 0, last), 0);
	assert_int_equal(rig_count(&r, GM_TIMEOUT_NOW, 3), 1);
	m = rig_last(&r, GM_TIMEOUT_NOW, 3);
	assert_int_equal(m->last, last);
	assert_int_equal(m->term, term());
	assert_true(info().transferring);
	/* The target does nothing: after an election timeout all is as before. */
	while (info().transferring) {
		rig_timeout(&r);
		rig_ack(&r, 2, term(), 0, last);
	}
	assert_int_equal(rig_submit(&r, 1), 0);
	assert_int_equal(group_transfer(r.g, 1), ERR_NOT_FOUND);
	assert_int_equal(group_transfer(r.g, 4), ERR_NOT_FOUND);
	rig_close(&r);
}

/* Entries that go to node 3 within so many heartbeats, 2 being in touch. */
static unsigned sent_to_3(unsigned heartbeats)
{
	unsigned i, n = 0;

	while (heartbeats--) {
		rig_ack(&r, 2, term(), 0, info().last_index);
		rig_timeout(&r);
	}
	for (i = 0; i < r.n_sent; i++)
		if (r.sent[i].kind == GM_APPEND && r.sent[i].peer == 3)
			n += r.sent[i].n;
	rig_forget(&r);
	return n;
}

/* The window of a silent follower is not sent again with each heartbeat, but it
 * is over a new link, after a rejection, and once per election timeout. */
static void test_b22_window_is_sent_once(void **state)
{
	(void)state;
	lead_with(1);
	assert_int_equal(rig_submit(&r, 50), 0);
	assert_int_equal(sent_to_3(3), 50);
	group_peer_down(r.g, 3);
	group_peer_up(r.g, 3);
	assert_int_equal(sent_to_3(3), 50);
	assert_int_equal(rig_ack(&r, 3, term(), info().match[2],
				 info().match[2] - 1),
			 0);
	assert_int_equal(sent_to_3(3), 50);
	assert_int_equal(sent_to_3(5), 0);
	assert_int_equal(sent_to_3(10), 50);
	rig_close(&r);
}

/* ---- rules without a number ------------------------------------------------ */

/* Rule 2: no message of an update leaves before its term and vote are durable. */
static void test_vote_is_durable_first(void **state)
{
	(void)state;
	rig_open(&r, 3);
	rig_forget(&r);
	assert_int_equal(rig_vote(&r, 2, 4, 9, 3, 0), 0);
	assert_int_equal(r.n_sent, 0);
	/* What follows waits behind it. */
	assert_int_equal(rig_append(&r, 2, 4, 1, 1, 1, 0, NULL, NULL), 0);
	assert_int_equal(r.n_sent, 0);
	rig_run_ms(&r, 5);
	assert_int_equal(r.sent[0].kind, GM_VOTE_RESULT);
	assert_int_equal(r.sent[0].flags, RIG_GRANTED);
	assert_int_equal(rig_count(&r, GM_APPEND_RESULT, 2), 1);
	/* And it is remembered: 3 gets nothing in this term. */
	rig_reopen(&r);
	rig_run_ms(&r, 1001); /* [HOLD] */
	rig_forget(&r);
	assert_int_equal(rig_vote(&r, 3, 4, 9, 3, 0), 0);
	rig_run_ms(&r, 5);
	assert_int_equal(rig_last(&r, GM_VOTE_RESULT, 3)->flags, 0);
	rig_close(&r);
}

/* Rule 20 [HOLD]: a restarted server answers no vote for an election timeout. */
static void test_restarted_server_holds_its_vote(void **state)
{
	(void)state;
	rig_open(&r, 3);
	rig_reopen(&r);
	rig_forget(&r);
	assert_int_equal(rig_vote(&r, 2, 4, 9, 3, 0), 0);
	assert_int_equal(rig_vote(&r, 2, 4, 9, 3, RIG_PRE), 0);
	rig_run_ms(&r, 5);
	assert_int_equal(r.n_sent, 0);
	assert_int_equal(term(), 1);
	assert_int_equal(rig_vote(&r, 2, 4, 9, 3, RIG_DISRUPT), 0);
	rig_run_ms(&r, 5);
	assert_int_equal(rig_count(&r, GM_VOTE_RESULT, 2), 1);
	rig_close(&r);
}

/* A candidate whose votes do not come asks for pre-votes again and leaves its term
 * as it is: on its return it deposes nobody. */
static void test_candidate_cut_off_keeps_its_term(void **state)
{
	uint64_t t;
	unsigned i;

	(void)state;
	rig_open(&r, 3);
	while (r.g->raft.state != RAFT_CANDIDATE)
		rig_timeout(&r);
	t = term();
	assert_int_equal(rig_vote_result(&r, 2, t + 1, RIG_PRE | RIG_GRANTED),
			 0);
	assert_int_equal(term(), t + 1);
	for (i = 0; i < 5; i++)
		rig_timeout(&r);
	assert_int_equal(term(), t + 1);
	assert_int_equal(rig_last(&r, GM_VOTE, 2)->flags, RIG_PRE);
	/* It still wins when somebody answers. */
	assert_int_equal(rig_vote_result(&r, 2, t + 2, RIG_PRE | RIG_GRANTED),
			 0);
	assert_int_equal(term(), t + 2);
	rig_run_ms(&r, 5);
	assert_int_equal(rig_vote_result(&r, 2, t + 2, RIG_GRANTED), 0);
	assert_int_equal(r.role, GROUP_LEADER);
	rig_close(&r);
}

static int read_status;
static uint64_t read_index;

static void on_read(struct group_read *rd, int status, uint64_t index)
{
	(void)rd;
	read_status = status;
	read_index = index;
}

static int probe_result(uint64_t from, uint64_t t, uint64_t seq)
{
	struct buf b = BUF_INIT;
	struct err e = { 0 };
	int rv;

	buf_u8(&b, GM_PROBE_RESULT);
	buf_u64(&b, t);
	buf_u64(&b, seq);
	rv = group_receive(r.g, from, b.data, b.len, &e);
	buf_release(&b);
	rig_turn(&r);
	return rv;
}

/* Rule 20: a read waits for a majority that is still in our term. */
static void test_read_needs_a_majority_in_our_term(void **state)
{
	struct group_read rd = { .cb = on_read };
	uint64_t seq;

	(void)state;
	lead_with(3);
	read_status = 1;
	group_read_index(r.g, &rd);
	rig_turn(&r);
	seq = rig_last(&r, GM_PROBE, 2)->seq;
	assert_int_equal(rig_last(&r, GM_PROBE, 3)->seq, seq);
	assert_int_equal(probe_result(2, term(), seq - 1), 0);
	assert_int_equal(probe_result(2, term() + 1, seq), 0);
	assert_int_equal(probe_result(4, term(), seq), 0); /* no voter */
	assert_int_equal(read_status, 1);
	assert_int_equal(probe_result(3, term(), seq), 0);
	assert_int_equal(read_status, 0);
	assert_int_equal(read_index, info().commit_index);
	/* Leadership lost: the read fails. */
	group_read_index(r.g, &rd);
	rig_turn(&r);
	assert_int_equal(rig_append(&r, 2, term() + 1, info().last_index,
				    term(), 1, 0, NULL, NULL),
			 0);
	assert_int_equal(read_status, ERR_NOT_LEADER);
	group_read_index(r.g, &rd);
	rig_turn(&r);
	assert_int_equal(read_status, ERR_NOT_LEADER);
	rig_close(&r);
}

/* Rule 20: no read before what the log held at the election is committed. */
static void test_read_waits_for_the_first_commit(void **state)
{
	struct group_read rd = { .cb = on_read };

	(void)state;
	rig_open(&r, 3);
	/* Two entries that may have been committed by an older leader */
	assert_int_equal(rig_append(&r, 2, 2, 1, 1, 1, 2, NULL, NULL), 0);
	rig_run_ms(&r, 5);
	rig_elect(&r);
	rig_forget(&r);
	read_status = 1;
	group_read_index(r.g, &rd);
	rig_run_ms(&r, 5);
	assert_int_equal(rig_count(&r, GM_PROBE, 2), 0);
	assert_int_equal(rig_ack(&r, 2, term(), 0, 3), 0); /* old terms only */
	assert_int_equal(rig_count(&r, GM_PROBE, 2), 0);
	assert_int_equal(rig_ack(&r, 2, term(), 0, 4), 0);
	assert_int_equal(rig_count(&r, GM_PROBE, 2), 1);
	assert_int_equal(probe_result(2, term(),
				      rig_last(&r, GM_PROBE, 2)->seq),
			 0);
	assert_int_equal(read_status, 0);
	assert_int_equal(read_index, 4);
	rig_close(&r);
}

/* Bytes that no group sends close the link and change nothing. */
static void test_malformed_messages(void **state)
{
	const uint64_t falling[2] = { 3, 2 }, future[1] = { 9 };
	static const unsigned whole[] = { 0, 37, 25, 26, 10, 25, 9, 17, 17 };
	int kind;
	unsigned n;

	(void)state;
	rig_open(&r, 3);
	assert_int_equal(rig_append(&r, 2, 5, 1, 1, 1, 2, NULL, NULL), 0);
	assert_int_equal(rig_append(&r, 2, 5, 3, 5, 1, 2, falling, NULL),
			 ERR_PROTOCOL);
	assert_int_equal(rig_append(&r, 2, 5, 3, 5, 1, 1, future, NULL),
			 ERR_PROTOCOL);
	assert_int_equal(rig_append(&r, 2, 5, 0, 3, 1, 0, NULL, NULL),
			 ERR_PROTOCOL);
	assert_int_equal(rig_append(&r, 2, 0, 0, 0, 0, 0, NULL, NULL),
			 ERR_PROTOCOL);
	assert_int_equal(rig_append(&r, 1, 5, 3, 5, 1, 0, NULL, NULL),
			 ERR_PROTOCOL); /* from ourselves */
	assert_int_equal(rig_vote(&r, 2, 6, 1, 1, 4), ERR_PROTOCOL);
	assert_int_equal(rig_vote_result(&r, 2, 0, 1), ERR_PROTOCOL);
	assert_int_equal(rig_ack(&r, 2, 0, 0, 0), ERR_PROTOCOL);
	for (kind = GM_APPEND; kind <= GM_NEEDED; kind++)
		for (n = 1; n < 48; n++) {
			uint8_t bytes[48] = { (uint8_t)kind, 1 };
			struct err e = { 0 };

			if (n != whole[kind])
				assert_int_equal(group_receive(r.g, 2, bytes,
							       n, &e),
						 ERR_PROTOCOL);
		}
	assert_int_equal(term(), 5);
	assert_int_equal(info().last_index, 3);
	rig_close(&r);
}

static int reopen_at(uint64_t applied, uint64_t applied_term)
{
	static const struct group_ops none;
	struct group_config gc = { .shard = RIG_SHARD, .self = 1 };
	struct group_boot boot = { .applied_index = applied,
				   .applied_term = applied_term,
				   .voters = { 1, 2, 3 },
				   .n_voters = 3 };
	struct group *g;
	struct err e = { 0 };
	int rv = group_open(&g, &gc, &boot, r.journal, &r.net, &r.sim.clock,
			    &r.rand, &none, NULL, &e);

	if (!rv)
		group_close(g);
	else
		assert_true(e.msg[0]);
	return rv;
}

/* A store and a journal that do not belong together start no group. */
static void test_store_and_journal_disagree(void **state)
{
	(void)state;
	rig_open(&r, 3);
	assert_int_equal(rig_append(&r, 2, 2, 1, 1, 1, 5, NULL, NULL), 0);
	rig_run_ms(&r, 5);
	assert_int_equal(reopen_at(0, 0), 0);
	assert_int_equal(reopen_at(4, 2), 0);
	assert_int_equal(reopen_at(6, 2), 0);
	assert_int_equal(reopen_at(4, 1), ERR_FAULTY); /* another entry */
	assert_int_equal(reopen_at(7, 2), ERR_FAULTY); /* behind its end */
	assert_int_equal(reopen_at(6, 9), ERR_FAULTY);
	rig_close(&r);
}

#define T(name) cmocka_unit_test(name)
static const struct CMUnitTest tests[] = {
	T(test_b01_append_of_lower_term),
	T(test_b01_answer_to_a_later_leader),
	T(test_b02_no_install_snapshot),
	T(test_b03_commit_never_goes_back),
	T(test_b04_change_inside_a_batch),
	T(test_b04_change_is_rolled_back),
	T(test_b05_lone_voter_takes_a_new_term),
	T(test_b06_no_spares_no_spinning),
	T(test_b08_checkpoint_twice),
	T(test_b09_append_below_the_compaction_point),
	T(test_b11_late_rejection),
	T(test_b11_follower_that_lost_its_tail),
	T(test_b11_leadership_goes_to_the_best),
	T(test_b12_persisted_once),
	T(test_b13_stale_write_after_truncation),
	T(test_b13_same_entries_come_back),
	T(test_b14_no_changes_from_above),
	T(test_b15_full_window),
	T(test_b16_vote_result_for_a_follower),
	T(test_b18_prevote_teaches_the_term),
	T(test_b19_transfer_waits_for_the_log),
	T(test_b22_window_is_sent_once),
	T(test_vote_is_durable_first),
	T(test_restarted_server_holds_its_vote),
	T(test_candidate_cut_off_keeps_its_term),
	T(test_read_needs_a_majority_in_our_term),
	T(test_read_waits_for_the_first_commit),
	T(test_malformed_messages),
	T(test_store_and_journal_disagree),
};

int main(void)
{
	sim_quiet();
	if (getenv("GROUP_ONLY"))
		cmocka_set_test_filter(getenv("GROUP_ONLY"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
