/* What the bare library does, bug by bug (docs/decisions/0003): a new release that
 * does something else tells here which guards can go.  The last tests show that
 * the library we link has its assertions. */
#include "base/alloc.h"
#include "base/assert.h"
#include "consensus/raft_impl.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static struct raft A;
static struct raft_update u;
static raft_time now;
static char command[8];
static void *bufs[16]; /* encoded configurations */
static unsigned n_bufs;

static int step(struct raft_event *ev)
{
	memset(&u, 0, sizeof u);
	ev->time = now;
	return raft_step(&A, ev, &u);
}

static void conf_of(struct raft_configuration *c, const char *roles)
{
	char addr[24];
	unsigned i;

	raft_configuration_init(c);
	for (i = 0; roles[i]; i++)
		AZ(raft_configuration_add(c, i + 1, raft_addr(addr, i + 1),
					  roles[i] == 'v'   ? RAFT_VOTER
					  : roles[i] == 's' ? RAFT_STANDBY
							    : RAFT_SPARE));
}

static void entry_of(struct raft_entry *e, raft_term term, const char *roles)
{
	struct raft_configuration c;

	memset(e, 0, sizeof *e);
	e->term = term;
	e->type = roles ? RAFT_CHANGE : RAFT_COMMAND;
	e->buf.base = command;
	e->buf.len = sizeof command;
	e->batch = command; /* only told apart from NULL */
	if (roles) {
		AN(n_bufs < 16);
		conf_of(&c, roles);
		AZ(raft_configuration_encode(&c, &e->buf));
		raft_configuration_close(&c);
		bufs[n_bufs++] = e->buf.base;
	}
}

static void done(void)
{
	raft_close(&A, NULL);
	while (n_bufs)
		raft_free(bufs[--n_bufs]);
}

/* Server `id` of `roles`, with n more entries of term 1 behind the first. */
static void start(raft_id id, const char *roles, raft_term term, unsigned n)
{
	struct raft_entry *es = raft_malloc((n + 1) * sizeof *es);
	struct raft_event ev = { .type = RAFT_START };
	char addr[24];
	unsigned i;

	now = 1000;
	memset(&A, 0, sizeof A);
	AZ(raft_init(&A, NULL, NULL, id, raft_addr(addr, id)));
	A.tracer = NULL;
	raft_seed(&A, 7);
	entry_of(&es[0], 1, roles);
	for (i = 1; i <= n; i++)
		entry_of(&es[i], 1, NULL);
	ev.start.term = term;
	ev.start.start_index = 1;
	ev.start.entries = es;
	ev.start.n_entries = n + 1;
	AZ(step(&ev));
	raft_free(es);
}

static int timeout(void)
{
	struct raft_event ev = { .type = RAFT_TIMEOUT };

	if (raft_timeout(&A) > now)
		now = raft_timeout(&A);
	return step(&ev);
}

static int persisted(raft_index index)
{
	struct raft_event ev = { .type = RAFT_PERSISTED_ENTRIES };

	ev.persisted_entries.index = index;
	return step(&ev);
}

static int receive(raft_id from, struct raft_message *m)
{
	struct raft_event ev = { .type = RAFT_RECEIVE };
	static char addr[24];

	m->server_id = from;
	m->server_address = raft_addr(addr, from);
	ev.receive.message = m;
	return step(&ev);
}

static int ack(raft_id from, raft_term term, raft_index rejected,
	       raft_index last)
{
	struct raft_message m = { .type = RAFT_APPEND_ENTRIES_RESULT };

	m.append_entries_result.version = 2;
	m.append_entries_result.term = term;
	m.append_entries_result.rejected = rejected;
	m.append_entries_result.last_log_index = last;
	return receive(from, &m);
}

static int vote(raft_id from, raft_term term, bool pre)
{
	struct raft_message m = { .type = RAFT_REQUEST_VOTE_RESULT };

	m.request_vote_result.version = 2;
	m.request_vote_result.term = term;
	m.request_vote_result.pre_vote = pre;
	m.request_vote_result.vote_granted = true;
	return receive(from, &m);
}

/* n entries of `term`; the one at `change`, if any, is a configuration. */
static int append(raft_id from, raft_term term, raft_index prev,
		  raft_term prev_term, raft_index commit, unsigned n,
		  unsigned change, const char *roles)
{
	static struct raft_entry es[64];
	struct raft_message m = { .type = RAFT_APPEND_ENTRIES };
	void *batch = n ? raft_malloc(1) : NULL;
	unsigned i;
	int rv;

	for (i = 0; i < n; i++) {
		entry_of(&es[i], term, i == change ? roles : NULL);
		es[i].batch = batch;
	}
	m.append_entries.term = term;
	m.append_entries.prev_log_index = prev;
	m.append_entries.prev_log_term = prev_term;
	m.append_entries.leader_commit = commit;
	m.append_entries.n_entries = n;
	m.append_entries.entries = es;
	rv = receive(from, &m);
	if (u.flags & (RAFT_UPDATE_ENTRIES))
		raft_free(batch); /* ours to keep, else the core's to free */
	return rv;
}

static int submit(unsigned n, unsigned change, const char *roles)
{
	static struct raft_entry es[512];
	struct raft_event ev = { .type = RAFT_SUBMIT };
	unsigned i;

	for (i = 0; i < n; i++)
		entry_of(&es[i], raft_current_term(&A),
			 i == change ? roles : NULL);
	ev.submit.entries = es;
	ev.submit.n = n;
	return step(&ev);
}

static void elect(void)
{
	timeout();
	vote(2, raft_current_term(&A), false);
	assert_int_equal(raft_state(&A), RAFT_LEADER);
}

static struct raft_message *sent(raft_id to, int type)
{
	unsigned i;

	for (i = 0; i < u.messages.n; i++)
		if (u.messages.batch[i].server_id == to &&
		    (int)u.messages.batch[i].type == type)
			return &u.messages.batch[i];
	return NULL;
}

#define NO_CHANGE 999

/* ---- wrong answers --------------------------------------------------------- */

static void __attribute__((noinline)) poison_stack(void)
{
	volatile unsigned char x[16384];
	size_t i;

	for (i = 0; i < sizeof x; i++)
		x[i] = 0x11;
}

static void test_b01_stale_append_is_acknowledged(void **state)
{
	struct raft_message *m;

	(void)state;
	start(2, "vvv", 3, 0);
	poison_stack();
	append(1, 1, 0, 0, 0, 0, NO_CHANGE, NULL);
	m = sent(1, RAFT_APPEND_ENTRIES_RESULT);
	assert_non_null(m);
	assert_int_equal(m->append_entries_result.rejected, 0); /* success */
	assert_int_equal(m->append_entries_result.term, 3);
	/* last_log_index is whatever lay on the stack. */
	done();
}

static void test_b03_commit_goes_back(void **state)
{
	(void)state;
	start(2, "vvv", 1, 40);
	append(1, 1, 41, 1, 40, 0, NO_CHANGE, NULL);
	assert_int_equal(raft_commit_index(&A), 40);
	append(1, 1, 5, 1, 41, 0, NO_CHANGE, NULL);
	assert_int_equal(raft_commit_index(&A), 5);
	done();
}

static void test_b04_change_has_the_index_of_its_batch(void **state)
{
	(void)state;
	start(2, "vvv", 1, 0);
	append(1, 2, 1, 1, 1, 3, 2, "vvvv");
	assert_int_equal(A.configuration_uncommitted_index, 2); /* it is 4 */
	done();
}

static void test_b05_one_voter_leads_without_a_new_term(void **state)
{
	(void)state;
	/* Server 2 leads term 2 and steps down to standby: 1 is told. */
	start(1, "vv", 2, 0);
	append(2, 2, 1, 1, 1, 1, 0, "vs");
	persisted(2);
	now += 3000;
	timeout();
	assert_int_equal(raft_state(&A), RAFT_LEADER);
	assert_int_equal(raft_current_term(&A), 2);
	done();
}

static void test_b06_timer_stands_still(void **state)
{
	unsigned i, past = 0;

	(void)state;
	start(1, "vvv", 1, 0);
	elect();
	ack(2, 2, 0, 1);
	ack(3, 2, 0, 1);
	assert_int_equal(submit(1, 0, "vvp"), 0);
	persisted(2);
	ack(2, 2, 0, 2);
	now += 200;
	for (i = 0; i < 20; i++) {
		struct raft_event ev = { .type = RAFT_TIMEOUT };

		ack(2, 2, 0, 2);
		step(&ev);
		past += raft_timeout(&A) <= now;
	}
	assert_true(past > 15);
	done();
}

static void test_b13_stale_report_is_believed(void **state)
{
	struct raft_message *m;

	(void)state;
	start(2, "vvv", 1, 0);
	append(1, 2, 1, 1, 1, 4, NO_CHANGE, NULL);
	append(3, 3, 2, 2, 1, 3, NO_CHANGE, NULL);
	persisted(5); /* of the first write */
	m = sent(3, RAFT_APPEND_ENTRIES_RESULT);
	assert_non_null(m);
	assert_int_equal(m->append_entries_result.last_log_index, 5);
	done();
}

static void test_b14_phantom_entries(void **state)
{
	raft_index last;

	(void)state;
	start(1, "vvv", 1, 0);
	elect();
	ack(2, 2, 0, 1);
	assert_int_equal(submit(1, 0, "vvvv"), 0);
	last = raft_last_index(&A);
	assert_int_equal(submit(3, 1, "vvvvv"), RAFT_CANTCHANGE);
	assert_int_equal(raft_last_index(&A), last + 1);
	done();
}

static void test_b15_empty_appends(void **state)
{
	unsigned i, k, empty = 0;

	(void)state;
	start(1, "vvv", 1, 0);
	raft_set_max_inflight_entries(&A, 4);
	elect();
	ack(2, 2, 0, 1);
	ack(3, 2, 0, 1);
	for (i = 0; i < 20; i++) {
		submit(1, NO_CHANGE, NULL);
		for (k = 0; k < u.messages.n; k++)
			empty += !u.messages.batch[k].append_entries.n_entries;
	}
	assert_int_equal(empty, 2 * (20 - 4));
	done();
}

static void test_b17_standby_never_forgets_its_leader(void **state)
{
	struct raft_message m = { .type = RAFT_REQUEST_VOTE };
	struct raft_message *r;
	const char *address;
	raft_id leader;
	unsigned i;

	(void)state;
	start(2, "vsv", 1, 0);
	append(1, 1, 1, 1, 1, 0, NO_CHANGE, NULL);
	for (i = 0; i < 20; i++) {
		now += 2000;
		timeout();
	}
	raft_leader(&A, &leader, &address);
	assert_int_equal(leader, 1);
	m.request_vote.version = 2;
	m.request_vote.term = 2;
	m.request_vote.candidate_id = 3;
	m.request_vote.last_log_index = 9;
	m.request_vote.last_log_term = 1;
	receive(3, &m);
	r = sent(3, RAFT_REQUEST_VOTE_RESULT);
	assert_false(r->request_vote_result.vote_granted);
	done();
}

static void test_b18_prevote_repeats_the_askers_term(void **state)
{
	struct raft_message m = { .type = RAFT_REQUEST_VOTE };
	struct raft_message *r;

	(void)state;
	start(2, "vvv", 19, 0);
	m.request_vote.version = 2;
	m.request_vote.term = 14;
	m.request_vote.candidate_id = 3;
	m.request_vote.last_log_index = 9;
	m.request_vote.last_log_term = 13;
	m.request_vote.pre_vote = true;
	receive(3, &m);
	r = sent(3, RAFT_REQUEST_VOTE_RESULT);
	assert_int_equal(r->request_vote_result.term, 14);
	done();
}

static void test_b19_transfer_too_early(void **state)
{
	struct raft_event ev = { .type = RAFT_TRANSFER };
	bool partial, whole;

	(void)state;
	start(1, "vvv", 1, 0);
	raft_set_max_inflight_entries(&A, 64);
	elect();
	ack(2, 2, 0, 1);
	ack(3, 2, 0, 1);
	submit(10, NO_CHANGE, NULL);
	persisted(11);
	ack(2, 2, 0, 11);
	ev.transfer.server_id = 3;
	assert_int_equal(step(&ev), 0);
	ack(3, 2, 0, 5);
	partial = sent(3, RAFT_TIMEOUT_NOW) != NULL;
	ack(3, 2, 0, 11);
	whole = sent(3, RAFT_TIMEOUT_NOW) != NULL;
	assert_true(partial);
	assert_false(whole);
	done();
}

static void test_b20_change_before_an_own_commit(void **state)
{
	(void)state;
	start(1, "vvv", 1, 0);
	elect();
	assert_int_equal(submit(1, 0, "vvvv"), 0);
	assert_true(raft_commit_index(&A) < raft_last_index(&A));
	done();
}

static void test_b22_window_again_and_again(void **state)
{
	unsigned i, entries = 0;

	(void)state;
	start(1, "vvv", 1, 0);
	raft_set_max_inflight_entries(&A, 64);
	elect();
	ack(2, 2, 0, 1);
	ack(3, 2, 0, 1);
	submit(50, NO_CHANGE, NULL);
	persisted(51);
	ack(2, 2, 0, 51);
	for (i = 0; i < 9; i++) {
		struct raft_message *m;

		timeout();
		m = sent(3, RAFT_APPEND_ENTRIES);
		entries += m ? m->append_entries.n_entries : 0;
		now++;
		ack(2, 2, 0, 51);
	}
	assert_true(entries >= 350);
	done();
}

/* ---- aborts ------------------------------------------------------------------- */

/* The signal that ends a child which runs fn, 0 if it comes back. */
static int ends_with(void (*fn)(void))
{
	int st = 0;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	AN(pid >= 0);
	if (!pid) {
		const struct rlimit none = { 0, 0 };
		int null = open("/dev/null", O_WRONLY);

		setrlimit(RLIMIT_CORE, &none);
		signal(SIGABRT, SIG_DFL);
		signal(SIGSEGV, SIG_DFL);
		dup2(null, 2);
		fn();
		_exit(0);
	}
	AN(waitpid(pid, &st, 0) == pid);
	return WIFSIGNALED(st) ? WTERMSIG(st) : 0;
}

static void snapshot_at(raft_index index, unsigned trailing)
{
	struct raft_event ev = { .type = RAFT_SNAPSHOT };

	ev.snapshot.metadata.index = index;
	ev.snapshot.metadata.term = 1;
	conf_of(&ev.snapshot.metadata.configuration, "vvv");
	ev.snapshot.metadata.configuration_index = 1;
	ev.snapshot.trailing = trailing;
	step(&ev);
}

static void install(void)
{
	struct raft_message m = { .type = RAFT_INSTALL_SNAPSHOT };

	m.install_snapshot.term = 2;
	m.install_snapshot.last_index = 50;
	m.install_snapshot.last_term = 2;
	m.install_snapshot.conf_index = 1;
	conf_of(&m.install_snapshot.conf, "vvv");
	receive(1, &m);
}

static void b07(void)
{
	start(2, "vvv", 1, 0);
	append(1, 2, 1, 1, 1, 2, NO_CHANGE, NULL);
	install();
	persisted(3);
}

static void b08(void)
{
	start(2, "vvv", 1, 2);
	install();
	snapshot_at(3, 0);
}

static void b08_twice(void)
{
	start(2, "vvv", 1, 30);
	append(1, 1, 31, 1, 31, 0, NO_CHANGE, NULL);
	snapshot_at(20, 4);
	snapshot_at(20, 4);
}

static void b09(void)
{
	start(2, "vvv", 1, 30);
	append(1, 1, 31, 1, 31, 0, NO_CHANGE, NULL);
	snapshot_at(31, 4);
	append(1, 1, 0, 0, 31, 4, 0, "vvv");
}

static void b10(void)
{
	struct raft_event ev = { .type = RAFT_CATCH_UP };

	start(2, "vvv", 1, 0);
	append(1, 2, 1, 1, 1, 0, NO_CHANGE, NULL);
	ev.catch_up.server_id = 3;
	step(&ev);
}

static void b11(void)
{
	unsigned i;

	start(1, "vvv", 1, 4);
	timeout();
	vote(2, raft_current_term(&A), false);
	persisted(6);
	ack(2, 2, 0, 6);
	ack(3, 2, 0, 3);
	for (i = 0; i < 4; i++) {
		timeout();
		now++;
		ack(2, 2, 0, 6);
	}
	ack(3, 2, 3, 2);
}

static void b12(void)
{
	start(2, "vvv", 1, 0);
	append(1, 2, 1, 1, 1, 2, NO_CHANGE, NULL);
	persisted(3);
	persisted(3);
}

static void test_aborts(void **state)
{
	(void)state;
	assert_int_equal(ends_with(b07), SIGABRT);
	assert_int_equal(ends_with(b08), SIGABRT);
	assert_int_equal(ends_with(b08_twice), SIGABRT);
	assert_int_equal(ends_with(b09), SIGABRT);
	assert_int_not_equal(ends_with(b10), 0);
	assert_int_equal(ends_with(b11), SIGABRT);
	assert_int_equal(ends_with(b12), SIGABRT);
}

#define T(name) cmocka_unit_test(name)
static const struct CMUnitTest tests[] = {
	T(test_b01_stale_append_is_acknowledged),
	T(test_b03_commit_goes_back),
	T(test_b04_change_has_the_index_of_its_batch),
	T(test_b05_one_voter_leads_without_a_new_term),
	T(test_b06_timer_stands_still),
	T(test_b13_stale_report_is_believed),
	T(test_b14_phantom_entries),
	T(test_b15_empty_appends),
	T(test_b17_standby_never_forgets_its_leader),
	T(test_b18_prevote_repeats_the_askers_term),
	T(test_b19_transfer_too_early),
	T(test_b20_change_before_an_own_commit),
	T(test_b22_window_again_and_again),
	T(test_aborts),
};

int main(void)
{
	return cmocka_run_group_tests(tests, NULL, NULL);
}
