/* Sends through a session: parts, own copies, outcomes, gaps, limits (protocol.md
 * 6, 7). */
#include "tests/unit/session_client.h"

/* ---- sends ------------------------------------------------------------- */

static void a_send_is_acked_when_part_0_is_in(void **state)
{
	struct world *d = *state;
	const struct cmd_send *m;
	struct wire *w;

	live(d, 1);
	send_one(d, 2, 7, 6);
	assert_int_equal(d->n_asked, 1);
	assert_int_equal(d->asked[0].shard, BOB % 16);
	m = &d->asked[0].cmd.send;
	assert_int_equal(m->to, BOB);
	assert_int_equal(m->from, ANN);
	assert_int_equal(m->device, 1);
	assert_int_equal(m->part, 0);
	assert_int_equal(m->cls, 1);
	assert_int_equal(m->seq, 7);
	assert_int_equal(m->after, 6);
	assert_int_equal(m->seen, 77);
	assert_memory_equal(m->mid, "a message's id.", 16);
	assert_int_equal(m->body_len, 2);
	assert_memory_equal(d->asked[0].body, "hi", 2);
	expect_nothing(d);
	appended(d, 0, 50, 3);
	w = expect(d, WIRE_ACK);
	assert_int_equal(w->u[W_ID], 2);
	assert_int_equal(w->u[W_SEQ], 7);
	assert_int_equal(w->u[W_LAMPORT], 1050);
	assert_int_equal(w->u[W_STAMP], 1051);
	assert_int_equal(w->u[W_OFFSET], 50);
	assert_int_equal(w->u[W_SHARD], BOB % 16);
	assert_int_equal(w->u[W_TIME], 123456);
	assert_false(wire_has(w, W_N)); /* the recipient's number is his */
	assert_false(wire_has(w, W_DUP));
	assert_int_equal(d->n_asked, 0);
}

static void with_other_devices_the_ack_waits_for_the_own_copy(void **state)
{
	struct world *d = *state;
	const struct cmd_send *m;
	struct wire *w;

	live(d, 2);
	send_one(d, 2, 7, 0);
	appended(d, 0, 50, 3);
	expect_nothing(d);
	assert_int_equal(d->n_asked, 1);
	assert_int_equal(d->asked[0].shard, ANN % 16);
	m = &d->asked[0].cmd.send;
	assert_int_equal(m->part, 1);
	assert_int_equal(m->to, ANN);
	assert_int_equal(m->seq, 7);
	assert_int_equal(m->origin_shard, BOB % 16);
	assert_int_equal(m->origin_offset, 50);
	assert_int_equal(m->origin_lamport, 1050);
	assert_memory_equal(d->asked[0].body, "hi", 2);
	appended(d, 0, 90, 12);
	w = expect(d, WIRE_ACK);
	assert_int_equal(w->u[W_LAMPORT], 1050); /* part 0's word */
	assert_int_equal(w->u[W_OFFSET], 50);
	assert_int_equal(w->u[W_N], 12);
}

static void keys_go_to_the_record_they_are_for(void **state)
{
	struct wire_key key = { .device = 4, .kind = 2, .bytes = { (const uint8_t *)"k4", 2 } };
	struct world *d = *state;
	struct buf keys = BUF_INIT, own = BUF_INIT;
	struct wire w;

	live(d, 2);
	wire_make_array(&keys, 1);
	wire_make_key(&keys, &key);
	key.device = 2;
	key.bytes.p = (const uint8_t *)"k2";
	wire_make_array(&own, 1);
	wire_make_key(&own, &key);
	send_start(&w, 2, 1, 0);
	wire_set(&w, W_LIST, 3);
	wire_put(&w, W_KEYS, keys.data, keys.len);
	wire_set(&w, W_OWNLIST, 5);
	wire_put(&w, W_OWN, own.data, own.len);
	say(d, &w);
	assert_int_equal(d->asked[0].cmd.send.headers_len, 7);
	assert_memory_equal(d->asked[0].headers, "\x03\x01\x04\x02\x02k4", 7);
	appended(d, 0, 50, 3);
	assert_int_equal(d->asked[0].cmd.send.headers_len, 7);
	assert_memory_equal(d->asked[0].headers, "\x05\x01\x02\x02\x02k2", 7);
	buf_release(&keys);
	buf_release(&own);
}

static void receipts_and_notes_to_self_have_no_copy(void **state)
{
	struct world *d = *state;
	struct wire w;

	live(d, 2);
	send_start(&w, 2, 1, 0);
	wire_set(&w, W_CLASS, 2);
	say(d, &w);
	appended(d, 0, 50, 3);
	expect(d, WIRE_ACK);
	send_start(&w, 3, 2, 0);
	wire_set(&w, W_TO, ANN);
	say(d, &w);
	appended(d, 0, 51, 4);
	assert_int_equal(expect(d, WIRE_ACK)->u[W_N], 4);
	assert_int_equal(d->n_asked, 0);
}

static void a_linked_device_is_noticed_within_5_s(void **state)
{
	struct world *d = *state;
	struct result info = { .epoch = 1, .n_devices = 2 };

	live(d, 1);
	pass(d, 5001);
	send_one(d, 2, 1, 0);
	assert_int_equal(d->n_asked, 2);
	assert_true(d->asked[1].is_query);
	assert_int_equal(d->asked[1].query.type, QUERY_ACCOUNT);
	assert_int_equal(d->asked[1].query.device, 1);
	appended(d, 0, 50, 3);
	expect_nothing(d); /* it is not known whether there is a copy */
	answer(d, 0, 0, &info);
	assert_int_equal(d->asked[0].cmd.send.part, 1);
	appended(d, 0, 51, 4);
	expect(d, WIRE_ACK);
	/* A removed one too. */
	pass(d, 5001);
	send_one(d, 3, 2, 0);
	answer_status(d, 1, ST_DEVICE_REMOVED);
	expect_error(d, "device-removed", NONE, 4403);
	expect_close(d, 4403);
	assert_int_equal(d->cancelled, 1);
}

static void a_repeated_send_gets_the_first_ack_again(void **state)
{
	struct world *d = *state;
	struct result r = { .lamport = 5, .stamp = 5, .offset = 1, .time_ms = 9,
			    .dup = true };

	live(d, 1);
	send_one(d, 2, 1, 0);
	answer(d, 0, 0, &r);
	assert_int_equal(expect(d, WIRE_ACK)->u[W_DUP], 1);
}

static void an_unknown_outcome_is_tried_again_with_the_same_bytes(void **state)
{
	struct world *d = *state;
	struct asked first;

	live(d, 1);
	send_one(d, 2, 1, 0);
	first = d->asked[0];
	answer(d, 0, ERR_UNKNOWN_OUTCOME, NULL);
	pass(d, 20);
	assert_int_equal(d->n_asked, 1);
	assert_int_equal(d->asked[0].cmd.send.seq, 1);
	assert_memory_equal(d->asked[0].cmd.send.mid, first.cmd.send.mid, 16);
	assert_memory_equal(d->asked[0].body, "hi", 2);
	appended(d, 0, 50, 3);
	expect(d, WIRE_ACK);
}

static void expect_outcome(struct world *d, const char *outcome)
{
	struct wire_bytes b = wire_problem_member(&d->w, "outcome");

	assert_int_equal(b.n, strlen(outcome));
	assert_memory_equal(b.p, outcome, b.n);
}

static void after_10_s_the_outcome_is_said(void **state)
{
	struct world *d = *state;
	unsigned i;

	live(d, 1);
	send_one(d, 2, 1, 0);
	send_one(d, 3, 2, 1);
	answer(d, 1, ERR_UNKNOWN_OUTCOME, NULL);
	for (i = 0; i < 2000 && d->s.n_sends; i++) {
		while (d->n_asked)
			answer(d, 0, ERR_NOT_LEADER, NULL);
		pass(d, 10);
	}
	expect_error(d, "unavailable", 2, 0);
	assert_int_equal(d->w.u[W_SEQ], 1);
	expect_outcome(d, "none");
	expect_error(d, "unavailable", 3, 0);
	expect_outcome(d, "unknown");
	assert_int_equal(d->code, 0); /* the session lives on */
}

static void refusals_of_the_shard_keep_their_names(void **state)
{
	static const struct {
		int status;
		const char *name;
	} rows[] = {
		{ ST_UNKNOWN_RECIPIENT, "unknown-recipient" },
		{ ST_SEQ_CONFLICT, "seq-conflict" },
		{ ST_SETTLED, "settled" },
		{ ST_CLOCK, "clock" },
		{ ST_MAILBOX_FULL, "mailbox-full" },
	};
	struct world *d = *state;
	unsigned i;

	live(d, 1);
	for (i = 0; i < 5; i++) {
		send_one(d, 2 + i, 1 + i, 0);
		answer_status(d, 0, rows[i].status);
		expect_error(d, rows[i].name, 2 + i, 0);
		assert_int_equal(d->w.u[W_SEQ], 1 + i);
	}
}

static void who_overtook_waits_for_its_predecessor(void **state)
{
	struct world *d = *state;
	unsigned i;

	live(d, 1);
	send_one(d, 2, 1, 0);
	send_one(d, 3, 2, 1);
	/* The first one's try was lost, the second one came through. */
	answer(d, 0, ERR_NOT_LEADER, NULL);
	answer_status(d, 0, ST_GAP);
	for (i = 0; i < 10; i++) {
		pass(d, 250);
		assert_int_equal(d->n_asked, 1); /* 2 stands aside */
		assert_int_equal(d->asked[0].cmd.send.seq, 1);
		answer(d, 0, ERR_NOT_LEADER, NULL);
	}
	pass(d, 250);
	send_one(d, 4, 3, 2); /* comes too early as well */
	assert_int_equal(d->n_asked, 2);
	answer_status(d, 1, ST_GAP);
	expect_nothing(d);
	appended(d, 0, 50, 3);
	/* Both at once, in order, without a pause. */
	assert_int_equal(d->n_asked, 2);
	assert_int_equal(d->asked[0].cmd.send.seq, 2);
	assert_int_equal(d->asked[1].cmd.send.seq, 3);
	assert_int_equal(expect(d, WIRE_ACK)->u[W_SEQ], 1);
	appended(d, 0, 51, 4);
	assert_int_equal(expect(d, WIRE_ACK)->u[W_SEQ], 2);
	appended(d, 0, 52, 5);
	assert_int_equal(expect(d, WIRE_ACK)->u[W_SEQ], 3);
	assert_int_equal(d->s.n_aside, 0);
}

/* What stood aside is asked again when its predecessor failed, and gets its own
 * answer. */
static void who_waits_outlives_its_predecessor(void **state)
{
	struct world *d = *state;
	unsigned i;

	live(d, 1);
	send_one(d, 2, 1, 0);
	send_one(d, 3, 2, 1);
	answer_status(d, 1, ST_GAP);
	assert_int_equal(d->n_asked, 1);
	answer_status(d, 0, ST_UNKNOWN_RECIPIENT);
	expect_error(d, "unknown-recipient", 2, 0);
	for (i = 0; i < 10 && d->s.n_sends; i++) {
		answer_status(d, 0, ST_GAP);
		pass(d, 250);
	}
	expect_error(d, "gap", 3, 0);
	assert_int_equal(d->s.n_aside, 0);
}

static void a_gap_that_nobody_fills_is_answered(void **state)
{
	struct world *d = *state;
	unsigned i;

	live(d, 1);
	send_one(d, 2, 9, 8);
	for (i = 0; i < 10 && d->s.n_sends; i++) {
		answer_status(d, 0, ST_GAP);
		pass(d, 250);
	}
	expect_error(d, "gap", 2, 0);
	assert_in_range(i, 2, 9);
}

/* Only a send to the same account can be what it waits for. */
static void a_gap_does_not_wait_for_another_destination(void **state)
{
	struct world *d = *state;
	struct wire w;
	unsigned i;

	live(d, 1);
	send_one(d, 2, 8, 0);
	send_start(&w, 3, 9, 8);
	wire_set(&w, W_TO, BOB + 1);
	say(d, &w);
	for (i = 0; i < 10 && d->s.n_sends == 2; i++) {
		assert_int_equal(d->n_asked, 2);
		answer_status(d, 1, ST_GAP);
		pass(d, 250);
	}
	expect_error(d, "gap", 3, 0);
}

static void the_33rd_open_send_is_refused(void **state)
{
	struct world *d = *state;
	unsigned i;

	live(d, 1);
	for (i = 0; i < SESSION_SENDS_MAX; i++)
		send_one(d, 10 + i, 1 + i, i);
	expect_nothing(d);
	send_one(d, 99, 50, 0);
	expect_error(d, "too-many-open", 99, 0);
	expect_outcome(d, "none");
	appended(d, 0, 1, 1);
	expect(d, WIRE_ACK);
	send_one(d, 100, 51, 0);
	expect_nothing(d);
	assert_int_equal(d->n_asked, SESSION_SENDS_MAX);
}

static void open_sends_hold_at_most_a_mebibyte(void **state)
{
	static uint8_t body[BODY_MAX];
	struct world *d = *state;
	struct wire w;
	unsigned i;

	live(d, 1);
	for (i = 0; i < 17; i++) {
		send_start(&w, 10 + i, 1 + i, 0);
		wire_put(&w, W_BODY, body, sizeof body);
		say(d, &w);
	}
	expect_nothing(d);
	send_start(&w, 99, 50, 0);
	wire_put(&w, W_BODY, body, sizeof body);
	say(d, &w);
	expect_error(d, "too-many-open", 99, 0);
}

static void malformed_sends_are_named_and_the_session_lives(void **state)
{
	struct world *d = *state;
	struct wire w;

	live(d, 1);
	send_start(&w, 2, 0, 0);
	say(d, &w);
	expect_error(d, "bad-request", 2, 0);
	send_start(&w, 2, 4, 4);
	say(d, &w);
	expect_error(d, "bad-request", 2, 0);
	send_start(&w, 2, 1, 0);
	wire_set(&w, W_CLASS, 7);
	say(d, &w);
	expect_error(d, "bad-request", 2, 0);
	send_start(&w, 2, 1, 0);
	wire_set(&w, W_CLASS, 0); /* a void with a body */
	say(d, &w);
	expect_error(d, "bad-request", 2, 0);
	send_start(&w, 2, 1, 0);
	wire_set(&w, W_CLASS, 6); /* state for somebody else */
	say(d, &w);
	expect_error(d, "bad-request", 2, 0);
	send_start(&w, 2, 1, 0);
	wire_set(&w, W_TTL, 30 * 86400 + 1);
	say(d, &w);
	expect_error(d, "bad-request", 2, 0);
	send_start(&w, 2, 1, 0);
	wire_set(&w, W_CLASS, 2); /* a receipt: 7 days */
	wire_set(&w, W_TTL, 7 * 86400 + 1);
	say(d, &w);
	expect_error(d, "bad-request", 2, 0);
	send_start(&w, 2, 1, 0);
	wire_set(&w, W_CLASS, 0);
	w.has &= ~(1ull << W_BODY);
	wire_set(&w, W_TTL, UINT32_MAX); /* more than any command may say */
	say(d, &w);
	expect_error(d, "bad-request", 2, 0);
	assert_int_equal(d->n_asked, 0);
	assert_int_equal(d->s.state, SESSION_LIVE);
}

static void a_socket_that_goes_takes_its_sends_along(void **state)
{
	struct world *d = *state;

	live(d, 1);
	send_one(d, 2, 1, 0);
	send_one(d, 3, 2, 1);
	session_release(&d->s);
	assert_int_equal(d->cancelled, 2);
	assert_int_equal(d->n_asked, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_send_is_acked_when_part_0_is_in),
		T(with_other_devices_the_ack_waits_for_the_own_copy),
		T(keys_go_to_the_record_they_are_for),
		T(receipts_and_notes_to_self_have_no_copy),
		T(a_linked_device_is_noticed_within_5_s),
		T(a_repeated_send_gets_the_first_ack_again),
		T(an_unknown_outcome_is_tried_again_with_the_same_bytes),
		T(after_10_s_the_outcome_is_said),
		T(refusals_of_the_shard_keep_their_names),
		T(who_overtook_waits_for_its_predecessor),
		T(who_waits_outlives_its_predecessor),
		T(a_gap_that_nobody_fills_is_answered),
		T(a_gap_does_not_wait_for_another_destination),
		T(the_33rd_open_send_is_refused),
		T(open_sends_hold_at_most_a_mebibyte),
		T(malformed_sends_are_named_and_the_session_lives),
		T(a_socket_that_goes_takes_its_sends_along),
		J(a_send_is_acked_when_part_0_is_in),
		J(with_other_devices_the_ack_waits_for_the_own_copy),
		J(keys_go_to_the_record_they_are_for),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
