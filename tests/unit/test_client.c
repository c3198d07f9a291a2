/* The device engine against words of a gateway: what it sends, keeps, repeats and
 * gives to its owner (protocol.md 6, 7, 8, 11). */
#include "tests/lib/device_world.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
/* after the four headers that it needs */
#include <cmocka.h>

#define BOB 0xb0b
#define EVE 0xe7e

static int setup(void **state)
{
	struct device_world *d = calloc(1, sizeof *d);

	device_world_init(d, 1);
	device_open(d);
	*state = d;
	return 0;
}

static int teardown(void **state)
{
	device_world_release(*state);
	free(*state);
	return 0;
}

/* ---- sends ---------------------------------------------------------------- */

static void a_send_is_stored_before_it_leaves(void **state)
{
	struct device_world *d = *state;
	uint8_t mid[16];

	device_live(d);
	device_send(d, BOB, "one");
	device_expect(d, WIRE_SEND);
	memcpy(mid, d->w.b[W_MID].p, 16);
	/* The power fails right after the bytes left. */
	device_crash(d, 0);
	assert_int_equal(client_outbox_len(d->client), 1);
	device_live(d);
	device_expect(d, WIRE_SEND);
	assert_int_equal(d->w.u[W_SEQ], 1);
	assert_memory_equal(d->w.b[W_MID].p, mid, 16);
	assert_memory_equal(d->w.b[W_BODY].p, "one", 3);
	say_ack(d, 1, 10, true);
	assert_int_equal(device_last(d, CLIENT_EV_SETTLED)->outcome, CLIENT_ACKED);
	assert_int_equal(client_outbox_len(d->client), 0);
}

static void numbers_are_never_used_twice(void **state)
{
	struct device_world *d = *state;

	device_live(d);
	assert_int_equal(device_send(d, BOB, "one"), 1);
	device_expect(d, WIRE_SEND);
	say_ack(d, 1, 10, false);
	/* The settlement is lost, then kept: the number stays used. */
	device_crash(d, 0);
	assert_int_equal(device_send(d, BOB, "two"), 2);
	device_crash(d, 1);
	assert_int_equal(device_send(d, BOB, "three"), 3);
}

static void what_has_no_answer_goes_again_with_the_same_number(void **state)
{
	struct device_world *d = *state;
	uint64_t first_id;

	device_live(d);
	device_send(d, BOB, "one");
	device_expect(d, WIRE_SEND);
	first_id = d->w.u[W_ID];
	device_lose(d);
	device_live(d);
	device_expect(d, WIRE_SEND);
	assert_int_equal(d->w.u[W_SEQ], 1);
	assert_true(d->w.u[W_ID] != first_id);
	/* On a connection that stays, after a while. */
	device_pass(d, CLIENT_RESEND_MS - 1);
	device_expect_nothing(d);
	device_pass(d, 1);
	device_expect(d, WIRE_SEND);
	assert_int_equal(d->w.u[W_SEQ], 1);
	/* Both tries are answered: it is settled once. */
	say_ack(d, 1, 10, false);
	say_ack(d, 1, 10, true);
	assert_int_equal(device_count(d, CLIENT_EV_SETTLED), 1);
}

static void sends_to_one_destination_name_the_one_before(void **state)
{
	struct device_world *d = *state;

	device_live(d);
	device_send(d, BOB, "1");
	device_send(d, EVE, "2");
	device_send(d, BOB, "3");
	device_expect(d, WIRE_SEND);
	assert_int_equal(d->w.u[W_AFTER], 0);
	device_expect(d, WIRE_SEND);
	assert_int_equal(d->w.u[W_AFTER], 0);
	device_expect(d, WIRE_SEND);
	assert_int_equal(d->w.u[W_AFTER], 1);
}

static void the_span_counts_from_the_lowest_unsettled(void **state)
{
	struct device_world *d = *state;
	unsigned i;

	device_live(d);
	for (i = 0; i < 40; i++)
		device_send(d, i % 2 ? BOB : EVE, "x");
	for (i = 1; i <= CLIENT_SPAN; i++) {
		device_expect(d, WIRE_SEND);
		assert_int_equal(d->w.u[W_SEQ], i);
	}
	device_expect_nothing(d);
	say_ack(d, 2, 10, false);
	device_expect_nothing(d);
	say_ack(d, 1, 11, false);
	device_expect(d, WIRE_SEND);
	assert_int_equal(d->w.u[W_SEQ], 33);
	device_expect(d, WIRE_SEND);
	device_expect_nothing(d);
}

/* The shard knows the newest 64 numbers of a device.  What a crash brings back
 * must be among them, so settlements are synced before the span goes on. */
static void the_span_holds_across_a_crash(void **state)
{
	struct device_world *d = *state;
	uint64_t sent = 0, acked = 0;
	unsigned i;

	device_live(d);
	for (i = 0; i < 200; i++)
		device_send(d, BOB, "x");
	while (sent < 150) {
		while (device_take(d)) {
			assert_int_equal(d->w.u[W_T], WIRE_SEND);
			sent = d->w.u[W_SEQ];
		}
		for (; acked < sent; acked++)
			say_ack(d, acked + 1, acked + 2, false);
	}
	device_crash(d, 0);
	device_live(d);
	device_expect(d, WIRE_SEND);
	assert_true(sent - d->w.u[W_SEQ] < 64);
}

static void a_gap_waits_for_the_predecessor(void **state)
{
	struct device_world *d = *state;
	struct wire one, two;

	device_live(d);
	device_send(d, BOB, "1");
	device_send(d, BOB, "2");
	device_send(d, BOB, "3");
	device_expect(d, WIRE_SEND);
	one = d->w;
	device_expect(d, WIRE_SEND);
	two = d->w;
	device_expect(d, WIRE_SEND);
	say_error(d, &d->w, "gap", 409, 0);
	say_error(d, &two, "gap", 409, 0);
	say_error(d, &one, "unavailable", 503, 0);
	device_expect_nothing(d);
	device_pass(d, CLIENT_RETRY_MIN_MS);
	device_expect(d, WIRE_SEND);
	assert_int_equal(d->w.u[W_SEQ], 1);
	say_ack(d, 1, 10, false);
	device_expect(d, WIRE_SEND);
	assert_int_equal(d->w.u[W_SEQ], 2);
	device_expect(d, WIRE_SEND);
	assert_int_equal(d->w.u[W_SEQ], 3);
	device_expect_nothing(d);
}

static void a_full_disk_is_waited_for_as_long_as_it_says(void **state)
{
	struct device_world *d = *state;

	device_live(d);
	device_send(d, BOB, "1");
	device_expect(d, WIRE_SEND);
	say_error_retry(d, &d->w, "disk-full", 503, 0, 7000);
	device_pass(d, 6900);
	device_expect_nothing(d);
	device_pass(d, 200);
	device_expect(d, WIRE_SEND);
	assert_int_equal(d->w.u[W_SEQ], 1);
	say_ack(d, 1, 10, false);
	device_expect_nothing(d);
}

static void an_unknown_recipient_ends_a_send_and_is_no_predecessor(void **state)
{
	struct device_world *d = *state;

	device_live(d);
	device_send(d, BOB, "1");
	device_send(d, BOB, "2");
	device_expect(d, WIRE_SEND);
	say_error(d, &d->w, "unknown-recipient", 404, 0);
	assert_int_equal(device_last(d, CLIENT_EV_SETTLED)->outcome, CLIENT_REFUSED);
	assert_string_equal(device_last(d, CLIENT_EV_SETTLED)->reason,
			    "unknown-recipient");
	device_expect(d, WIRE_SEND);
	assert_int_equal(d->w.u[W_SEQ], 2);
	assert_int_equal(d->w.u[W_AFTER], 0);
}

static void a_predecessor_that_is_gone_is_not_named_again(void **state)
{
	struct device_world *d = *state;

	device_live(d);
	device_send(d, BOB, "1");
	device_send(d, BOB, "2");
	device_expect(d, WIRE_SEND);
	say_error(d, &d->w, "unknown-recipient", 404, 0);
	/* After a restart 2 names 1 again, as it is stored. */
	device_expect(d, WIRE_SEND);
	device_crash(d, 9);
	device_live(d);
	device_expect(d, WIRE_SEND);
	assert_int_equal(d->w.u[W_AFTER], 1);
	say_error(d, &d->w, "gap", 409, 0);
	device_expect(d, WIRE_SEND);
	assert_int_equal(d->w.u[W_SEQ], 2);
	assert_int_equal(d->w.u[W_AFTER], 0);
}

static void a_refused_send_becomes_a_void(void **state)
{
	struct device_world *d = *state;
	uint8_t mid[16];

	device_live(d);
	device_send(d, BOB, "1");
	device_expect(d, WIRE_SEND);
	memcpy(mid, d->w.b[W_MID].p, 16);
	say_error(d, &d->w, "forbidden", 403, 0);
	assert_int_equal(device_count(d, CLIENT_EV_SETTLED), 0);
	device_expect(d, WIRE_SEND);
	assert_int_equal(d->w.u[W_SEQ], 1);
	assert_int_equal(d->w.u[W_CLASS], 0);
	assert_false(wire_has(&d->w, W_BODY));
	assert_memory_equal(d->w.b[W_MID].p, mid, 16);
	/* It was kept first: a crash does not bring the message back. */
	device_crash(d, 0);
	device_live(d);
	device_expect(d, WIRE_SEND);
	assert_int_equal(d->w.u[W_CLASS], 0);
	/* `dup` is the void of before. */
	say_ack(d, 1, 10, true);
	assert_int_equal(device_last(d, CLIENT_EV_SETTLED)->outcome, CLIENT_REFUSED);
}

static void a_void_that_comes_too_late_shows_that_the_message_went_out(void **state)
{
	struct device_world *d = *state;

	device_live(d);
	device_send(d, BOB, "1");
	device_expect(d, WIRE_SEND);
	say_error(d, &d->w, "too-large", 413, 0);
	device_expect(d, WIRE_SEND);
	assert_int_equal(d->w.u[W_CLASS], 0);
	say_ack(d, 1, 10, true);
	assert_int_equal(device_last(d, CLIENT_EV_SETTLED)->outcome, CLIENT_ACKED);
}

static void a_number_of_a_past_life_stops_the_device(void **state)
{
	struct device_world *d = *state;

	device_live(d);
	device_send(d, BOB, "1");
	device_expect(d, WIRE_SEND);
	say_error(d, &d->w, "seq-conflict", 409, 0);
	assert_int_equal(client_state(d->client), CLIENT_STOPPED);
	assert_string_equal(client_reason(d->client), "rollback");
	assert_int_equal(client_outbox_len(d->client), 1);
	assert_true(client_wants_close(d->client));
}

static void overload_is_waited_for_longer_each_time(void **state)
{
	struct device_world *d = *state;
	uint64_t max = CLIENT_RETRY_MIN_MS, start, wait;
	unsigned i;

	device_live(d);
	device_send(d, BOB, "1");
	device_expect(d, WIRE_SEND);
	for (i = 0; i < 12; i++) {
		say_error(d, &d->w, i % 2 ? "busy" : "rate", i % 2 ? 503 : 429, 0);
		start = d->now_us;
		while (!device_take(d)) {
			assert_true(client_deadline_us(d->client) > d->now_us);
			d->now_us = client_deadline_us(d->client);
			client_tick(d->client);
		}
		assert_int_equal(d->w.u[W_T], WIRE_SEND);
		wait = (d->now_us - start) / 1000;
		assert_in_range(wait, max / 2, max);
		max = max * 2 < CLIENT_RETRY_MAX_MS ? max * 2 : CLIENT_RETRY_MAX_MS;
	}
	assert_int_equal(device_count(d, CLIENT_EV_SETTLED), 0);
}

static void a_full_outbox_says_so(void **state)
{
	struct device_world *d = *state;
	static uint8_t big[CLIENT_BODY_MAX + 1];
	struct client_draft draft = { .to = BOB, .cls = 1 };
	uint64_t seq;
	unsigned i;

	for (i = 0; i < CLIENT_OUTBOX_MAX; i++)
		assert_int_equal(client_send(d->client, &draft, &seq, NULL), 0);
	assert_int_equal(client_send(d->client, &draft, &seq, NULL), ERR_FULL);
	draft.body = big;
	draft.body_len = sizeof big;
	assert_int_equal(client_send(d->client, &draft, &seq, NULL), ERR_TOO_LARGE);
	draft.body_len = 1;
	draft.to = 0;
	assert_int_equal(client_send(d->client, &draft, &seq, NULL), ERR_INVALID);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_send_is_stored_before_it_leaves),
		T(numbers_are_never_used_twice),
		T(what_has_no_answer_goes_again_with_the_same_number),
		T(sends_to_one_destination_name_the_one_before),
		T(the_span_counts_from_the_lowest_unsettled),
		T(the_span_holds_across_a_crash),
		T(a_gap_waits_for_the_predecessor),
		T(a_full_disk_is_waited_for_as_long_as_it_says),
		T(an_unknown_recipient_ends_a_send_and_is_no_predecessor),
		T(a_predecessor_that_is_gone_is_not_named_again),
		T(a_refused_send_becomes_a_void),
		T(a_void_that_comes_too_late_shows_that_the_message_went_out),
		T(a_number_of_a_past_life_stops_the_device),
		T(overload_is_waited_for_longer_each_time),
		T(a_full_outbox_says_so),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
