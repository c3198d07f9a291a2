/* The session machine, state by state: protocol.md 5 (states and close codes), 11
 * (resume, drain). */
#include "tests/unit/session_client.h"

/* ---- OPEN -------------------------------------------------------------- */

static void no_hello_in_time_closes_4408(void **state)
{
	struct world *d = *state;

	pass(d, 4999);
	assert_int_equal(d->code, 0);
	pass(d, 1);
	expect_close(d, 4408);
}

static void another_frame_before_hello_closes_4400(void **state)
{
	struct world *d = *state;

	ping(d);
	expect_error(d, "bad-frame", NONE, 4400);
	expect_close(d, 4400);
}

static void a_frame_between_hello_and_welcome_closes_4400(void **state)
{
	struct world *d = *state;

	hello(d, 256, NONE);
	send_one(d, 2, 1, 0);
	expect_error(d, "bad-frame", NONE, 4400);
	expect_close(d, 4400);
}

static void bytes_that_are_no_frame_close_4400(void **state)
{
	struct world *d = *state;

	session_message(&d->s, (const uint8_t *)"\xff\xff", 2);
	expect_error(d, "bad-frame", NONE, 4400);
	expect_close(d, 4400);
	session_message(&d->s, (const uint8_t *)"\xff\xff", 2); /* too late */
	expect_close(d, 4400);
}

static void tokens_are_refused_with_4401(void **state)
{
	static const struct {
		const char *token, *problem;
	} rows[] = {
		{ "", "token-missing" },
		{ "forged", "token-invalid" },
		{ "good a11ce 1 1 10", "token-expired" },
	};
	unsigned i;

	for (i = 0; i < 3; i++) {
		struct world *d;

		if (i) {
			teardown(state);
			setup(state);
		}
		d = *state;
		hello_with(d, rows[i].token, 256, NONE, NONE);
		expect_error(d, rows[i].problem, 1, 4401);
		expect_close(d, 4401);
		assert_int_equal(d->subs, 0);
	}
}

static void a_window_of_0_is_refused_and_a_large_one_is_cut(void **state)
{
	struct world *d = *state;

	hello(d, 0, NONE);
	expect_error(d, "bad-frame", 1, 4400);
	expect_close(d, 4400);
	teardown(state);
	setup(state);
	d = *state;
	d->env.window_max = 100;
	hello(d, 1024, NONE);
	start(d, 0, 0, 1);
	assert_int_equal(expect(d, WIRE_WELCOME)->u[W_WINDOW], 100);
	assert_int_equal(d->sub->window, 100);
}

static void a_removed_device_gets_4403(void **state)
{
	static const int ends[] = { ERR_PERM, ERR_NOT_FOUND };
	unsigned i;

	for (i = 0; i < 2; i++) {
		struct world *d;

		if (i) {
			teardown(state);
			setup(state);
		}
		d = *state;
		hello(d, 256, NONE);
		sub_end(d, ends[i]);
		expect_error(d, "device-removed", NONE, 4403);
		expect_close(d, 4403);
	}
}

static void a_token_of_an_older_device_epoch_gets_4403(void **state)
{
	struct world *d = *state;
	struct result r = { .inbox_oldest = 1, .epoch = 2, .n_devices = 1 };

	hello(d, 256, NONE);
	d->sub->start(d->sub, &r);
	expect_error(d, "device-removed", NONE, 4403);
	expect_close(d, 4403);
}

static void without_a_leader_hello_is_answered_after_10_s(void **state)
{
	struct world *d = *state;
	unsigned i;

	hello(d, 256, NONE);
	for (i = 0; i < 1000 && !d->code; i++) {
		if (d->sub)
			sub_end(d, ERR_NOT_LEADER);
		pass(d, 50);
	}
	assert_in_range(d->subs, 40, 120); /* tried again with pauses */
	expect_error(d, "no-leader", 1, 1013);
	expect_close(d, 1013);
}

/* ---- welcome, one row of protocol.md 11 each --------------------------- */

static void expect_welcome(struct world *d, bool resumed, const char *reason,
			   uint64_t n, uint64_t truncated)
{
	struct wire *w = expect(d, WIRE_WELCOME);

	assert_int_equal(w->u[W_ID], 1);
	assert_int_equal(w->b[W_SESSION].n, 16);
	assert_int_equal(w->u[W_EPOCH], 1);
	assert_int_equal(w->u[W_HEARTBEAT], 60);
	assert_int_equal(w->u[W_TIME], d->wall_ms);
	assert_int_equal(w->u[W_RESUMED], resumed);
	assert_int_equal(w->u[W_N], n);
	assert_int_equal(wire_u(w, W_TRUNCATED), truncated);
	assert_int_equal(wire_has(w, W_REASON), reason != NULL);
	if (reason) {
		assert_int_equal(w->b[W_REASON].n, strlen(reason));
		assert_memory_equal(w->b[W_REASON].p, reason, strlen(reason));
	}
}

static void without_a_cursor_the_kept_one_counts(void **state)
{
	struct world *d = *state;

	hello(d, 256, NONE);
	assert_int_equal(d->sub->from, 0);
	start(d, 9, 6, 1);
	expect_welcome(d, false, "new", 9, 0);
	assert_int_equal(d->w.u[W_CURSOR], 6);
	records(d, 7, 9);
	assert_int_equal(expect(d, WIRE_DELIVER)->u[W_N], 7);
	expect(d, WIRE_DELIVER);
	assert_int_equal(expect(d, WIRE_DELIVER)->u[W_N], 9);
	assert_int_equal(expect(d, WIRE_CAUGHT_UP)->u[W_N], 9);
	expect_nothing(d);
}

static void the_same_epoch_resumes_after_its_cursor(void **state)
{
	struct world *d = *state;

	hello(d, 256, 8);
	assert_int_equal(d->sub->from, 9);
	start(d, 9, 6, 1);
	expect_welcome(d, true, NULL, 9, 0);
	expect_nothing(d);
	records(d, 9, 9);
	expect(d, WIRE_DELIVER);
	expect(d, WIRE_CAUGHT_UP);
	/* What hello said counts as received, and the shard is told. */
	pass(d, 1000);
	assert_int_equal(d->asked[0].cmd.type, CMD_CURSOR);
	assert_int_equal(d->asked[0].cmd.cursor, 8);
}

static void a_trimmed_inbox_says_where_it_starts(void **state)
{
	struct world *d = *state;
	struct result r = { .inbox_end = 5000, .inbox_oldest = 4000, .cursor = 3,
			    .epoch = 1, .n_devices = 1 };

	hello(d, 256, 10);
	d->sub->start(d->sub, &r);
	expect_welcome(d, true, NULL, 5000, 4000);
	sub_end(d, ERR_TRUNCATED);
	pass(d, 200);
	assert_int_equal(d->sub->from, 4000);
	assert_int_equal(d->sub->window, 256);
	d->sub->start(d->sub, &r);
	records(d, 4000, 4001);
	assert_int_equal(expect(d, WIRE_DELIVER)->u[W_N], 4000);
}

static void another_history_epoch_restarts_the_cursor(void **state)
{
	struct world *d = *state;
	char token[96];

	token_text(token, ANN, 1, 1, 600);
	hello_with(d, token, 256, 500, 2);
	assert_int_equal(d->sub->from, 0);
	start(d, 9, 6, 1);
	expect_welcome(d, false, "epoch", 9, 0);
	assert_int_equal(d->w.u[W_CURSOR], 6);
}

static void a_storage_that_went_back_gets_no_records(void **state)
{
	struct world *d = *state;

	hello(d, 256, 5);
	start(d, 9, 6, 1);
	expect_welcome(d, false, "rollback", 9, 0);
	assert_int_equal(d->credit_window, 0);
	records(d, 6, 7); /* were on their way */
	expect_nothing(d);
	recv_to(d, 7); /* and may not acknowledge any */
	expect_error(d, "bad-frame", NONE, 4400);
	expect_close(d, 4400);
	assert_int_equal(d->n_asked, 0);
}

static void a_cursor_ahead_of_the_inbox_is_never_clamped(void **state)
{
	struct world *d = *state;

	hello(d, 256, 10);
	start(d, 9, 6, 1);
	expect_welcome(d, false, "ahead", 9, 0);
	assert_int_equal(d->credit_window, 0);
	session_release(&d->s);
	assert_int_equal(d->n_asked, 0);
}

/* Whoever lies about its cursor may not outlive its device that way. */
static void a_session_without_records_ends_with_its_device(void **state)
{
	struct world *d = *state;
	struct wire w;

	hello(d, 256, 10);
	start(d, 9, 6, 1);
	expect_welcome(d, false, "ahead", 9, 0);
	wire_start(&w, WIRE_CREDIT);
	wire_set(&w, W_WINDOW, 99);
	say(d, &w);
	assert_int_equal(d->credit_window, 0);
	sub_end(d, ERR_NOT_LEADER);
	pass(d, 200);
	assert_non_null(d->sub);
	assert_int_equal(d->sub->window, 0);
	start(d, 12, 6, 1);
	assert_int_equal(d->credit_window, 0);
	expect_nothing(d);
	sub_end(d, ERR_PERM);
	expect_error(d, "device-removed", NONE, 4403);
	expect_close(d, 4403);
}

static void a_newer_connection_of_the_device_closes_4409(void **state)
{
	struct world *d = *state;

	live(d, 1);
	sub_end(d, ERR_EXISTS);
	expect_close(d, 4409);
}

/* ---- the rest of a life ------------------------------------------------ */

static void ping_is_answered_and_unknown_frames_are_named(void **state)
{
	struct world *d = *state;
	struct wire w;

	live(d, 1);
	ping(d);
	assert_int_equal(expect(d, WIRE_PONG)->u[W_ID], 9);
	/* {0: 99, 1: 4} */
	if (d->format == WIRE_CBOR)
		session_message(&d->s, (const uint8_t *)"\xa2\x00\x18\x63\x01\x04",
				6);
	else
		session_message(&d->s, (const uint8_t *)"{\"t\":99,\"id\":4}", 15);
	expect_error(d, "unknown-frame", 4, 0);
	wire_start(&w, WIRE_PRESENCE);
	wire_set(&w, W_PRESENCE, 1);
	say(d, &w);
	expect_error(d, "unknown-frame", NONE, 0);
	assert_int_equal(d->s.state, SESSION_LIVE);
	hello(d, 256, NONE);
	expect_error(d, "bad-frame", 1, 4400);
	expect_close(d, 4400);
}

static void silence_of_two_and_a_half_heartbeats_closes_1001(void **state)
{
	struct world *d = *state;

	live(d, 1);
	pass(d, 149000);
	session_heard(&d->s);
	pass(d, 149000);
	ping(d);
	expect(d, WIRE_PONG);
	pass(d, 149999);
	assert_int_equal(d->code, 0);
	pass(d, 1);
	expect_close(d, 1001);
}

static void auth(struct world *d, const char *token)
{
	struct wire w;

	wire_start(&w, WIRE_AUTH);
	wire_set(&w, W_ID, 3);
	wire_puts(&w, W_TOKEN, token);
	say(d, &w);
}

static void keep_alive(struct world *d, uint64_t ms)
{
	for (; ms > 100000; ms -= 100000) {
		pass(d, 100000);
		session_heard(&d->s);
	}
	pass(d, ms);
	session_heard(&d->s);
}

static void a_token_that_ran_out_closes_4401_after_30_s(void **state)
{
	struct world *d = *state;
	char token[96];

	live(d, 1);
	keep_alive(d, 500000);
	token_text(token, ANN, 1, 1, 600);
	auth(d, token);
	assert_int_equal(expect(d, WIRE_OK)->u[W_ID], 3);
	keep_alive(d, 629999);
	assert_int_equal(d->code, 0);
	keep_alive(d, 1);
	expect_error(d, "token-expired", NONE, 4401);
	expect_close(d, 4401);
}

static void auth_takes_no_other_device(void **state)
{
	struct world *d = *state;
	char token[96];

	live(d, 1);
	token_text(token, ANN, 2, 1, 600);
	auth(d, token);
	expect_error(d, "token-invalid", 3, 4401);
	expect_close(d, 4401);
}

static void a_protocol_error_of_the_transport_closes_with_its_code(void **state)
{
	struct world *d = *state;

	live(d, 1);
	session_abort(&d->s, 1009, "message too large");
	expect_close(d, 1009);
	session_abort(&d->s, 1002, "again");
	expect_close(d, 1009);
}

/* ---- drain ------------------------------------------------------------- */

static void a_drain_waits_for_open_sends(void **state)
{
	struct world *d = *state;
	struct wire *w;

	live(d, 1);
	records(d, 1, 2);
	d->frame = d->n_frames;
	send_one(d, 2, 1, 0);
	session_drain(&d->s, 1234);
	w = expect(d, WIRE_GOODBYE);
	assert_int_equal(w->u[W_CODE], 1012);
	assert_int_equal(w->u[W_RETRY_MS], 1234);
	assert_int_equal(d->s.state, SESSION_DRAINING);
	assert_null(d->sub); /* nothing new is delivered */
	send_one(d, 3, 2, 1);
	expect_error(d, "draining", 3, 0);
	recv_to(d, 2);
	assert_int_equal(d->code, 0);
	appended(d, 0, 50, 3);
	assert_int_equal(expect(d, WIRE_ACK)->u[W_SEQ], 1);
	expect_close(d, 1012);
	assert_int_equal(d->asked[0].cmd.cursor, 2); /* told on the way out */
}

static void a_drain_ends_after_10_s(void **state)
{
	struct world *d = *state;

	live(d, 1);
	pass(d, 1000);
	send_one(d, 2, 1, 0);
	pass(d, 5000);
	session_drain(&d->s, 0);
	expect(d, WIRE_GOODBYE);
	pass(d, 5000); /* the send's own time is over first */
	expect_error(d, "unavailable", 2, 0);
	expect_close(d, 1012);
}

static void a_drain_ends_idle_and_open_sessions_at_once(void **state)
{
	struct world *d = *state;

	live(d, 1);
	session_drain(&d->s, 5);
	expect(d, WIRE_GOODBYE);
	expect_close(d, 1012);
	teardown(state);
	setup(state);
	d = *state;
	session_drain(&d->s, 5);
	expect(d, WIRE_GOODBYE);
	expect_close(d, 1012);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(no_hello_in_time_closes_4408),
		T(another_frame_before_hello_closes_4400),
		T(a_frame_between_hello_and_welcome_closes_4400),
		T(bytes_that_are_no_frame_close_4400),
		T(tokens_are_refused_with_4401),
		T(a_window_of_0_is_refused_and_a_large_one_is_cut),
		T(a_removed_device_gets_4403),
		T(a_token_of_an_older_device_epoch_gets_4403),
		T(without_a_leader_hello_is_answered_after_10_s),
		T(without_a_cursor_the_kept_one_counts),
		T(the_same_epoch_resumes_after_its_cursor),
		T(a_trimmed_inbox_says_where_it_starts),
		T(another_history_epoch_restarts_the_cursor),
		T(a_storage_that_went_back_gets_no_records),
		T(a_cursor_ahead_of_the_inbox_is_never_clamped),
		T(a_session_without_records_ends_with_its_device),
		T(a_newer_connection_of_the_device_closes_4409),
		T(ping_is_answered_and_unknown_frames_are_named),
		T(silence_of_two_and_a_half_heartbeats_closes_1001),
		T(a_token_that_ran_out_closes_4401_after_30_s),
		T(auth_takes_no_other_device),
		T(a_protocol_error_of_the_transport_closes_with_its_code),
		T(a_drain_waits_for_open_sends),
		T(a_drain_ends_after_10_s),
		T(a_drain_ends_idle_and_open_sessions_at_once),
		J(without_a_cursor_the_kept_one_counts),
		J(ping_is_answered_and_unknown_frames_are_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
