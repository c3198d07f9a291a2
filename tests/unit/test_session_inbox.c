/* The inbox side of a session: deliver, the window, recv, stalls, a moved leader,
 * pages (protocol.md 4, 11). */
#include "tests/unit/session_client.h"

/* ---- deliver and flow -------------------------------------------------- */

static void a_record_becomes_a_deliver_frame(void **state)
{
	static const uint8_t headers[] = { 3, 2, /* list 3, two keys */
					   2, 1, 3, 'f', 'o', 'o',
					   1, 2, 2, 'm', 'e' };
	struct world *d = *state;
	struct record r = record_of(1);
	struct wire_iter it;
	struct wire_key key;
	struct wire *w;

	live(d, 1);
	r.headers = headers;
	r.headers_len = sizeof headers;
	r.flags = RECORD_HAS_ORIGIN;
	r.origin_lamport = 4;
	r.msg_flags = 1;
	memcpy(r.mid, "0123456789abcdef", 16);
	d->sub->record(d->sub, &r);
	w = expect(d, WIRE_DELIVER);
	assert_int_equal(w->u[W_N], 1);
	assert_int_equal(w->u[W_FROM], BOB);
	assert_int_equal(w->u[W_DEV], 1);
	assert_int_equal(w->u[W_SEQ], 1);
	assert_memory_equal(w->b[W_MID].p, r.mid, 16);
	assert_int_equal(w->u[W_LAMPORT], 4);
	assert_int_equal(w->u[W_STAMP], 10);
	assert_int_equal(w->u[W_TIME], 5001);
	assert_int_equal(w->u[W_CLASS], 1);
	assert_int_equal(w->u[W_FLAGS], 1);
	assert_int_equal(w->u[W_LIST], 3);
	assert_memory_equal(w->b[W_BODY].p, "hello", 5);
	wire_iter_init(&it, w, W_KEY);
	assert_true(wire_iter_key(&it, &key));
	assert_int_equal(key.device, 1);
	assert_int_equal(key.kind, 2);
	assert_memory_equal(key.bytes.p, "me", 2);
	/* Keys, but none for this device. */
	r = record_of(2);
	r.headers = headers;
	r.headers_len = 8;
	d->sub->record(d->sub, &r);
	w = expect(d, WIRE_DELIVER);
	assert_false(wire_has(w, W_KEY));
}

static void what_ran_out_keeps_its_number(void **state)
{
	struct world *d = *state;
	struct record r = record_of(1);
	struct wire *w;

	live(d, 1);
	r.ttl = 60;
	r.time_ms = d->wall_ms - 61000;
	d->sub->record(d->sub, &r);
	w = expect(d, WIRE_DELIVER);
	assert_int_equal(w->u[W_FLAGS], 16);
	assert_false(wire_has(w, W_BODY));
	assert_memory_equal(w->b[W_KIND].p, "expired", 7);
	r = record_of(2);
	r.flags = RECORD_STUB;
	d->sub->record(d->sub, &r);
	w = expect(d, WIRE_DELIVER);
	assert_int_equal(w->u[W_FLAGS], 16);
	assert_memory_equal(w->b[W_KIND].p, "erased", 6);
}

static void received_records_are_told_once_a_second(void **state)
{
	struct world *d = *state;

	live(d, 1);
	records(d, 1, 5);
	recv_to(d, 2);
	recv_to(d, 4);
	recv_to(d, 3); /* lower: ignored */
	assert_int_equal(d->n_asked, 0);
	pass(d, 1000);
	assert_int_equal(d->n_asked, 1);
	assert_int_equal(d->asked[0].cmd.cursor, 4);
	assert_int_equal(d->asked[0].cmd.account, ANN);
	assert_int_equal(d->asked[0].cmd.device, 1);
	recv_to(d, 5);
	pass(d, 5000); /* one at a time */
	assert_int_equal(d->n_asked, 1);
	answer_status(d, 0, ST_OK);
	pass(d, 999);
	assert_int_equal(d->n_asked, 0);
	pass(d, 1);
	assert_int_equal(d->asked[0].cmd.cursor, 5);
	answer_status(d, 0, ST_OK);
	pass(d, 5000);
	assert_int_equal(d->n_asked, 0);
}

static void a_thousand_records_are_told_at_once(void **state)
{
	struct world *d = *state;

	hello(d, 1024, NONE);
	start(d, 0, 0, 1);
	records(d, 1, 1000);
	recv_to(d, 999);
	assert_int_equal(d->n_asked, 0);
	recv_to(d, 1000);
	assert_int_equal(d->n_asked, 1);
	assert_int_equal(d->asked[0].cmd.cursor, 1000);
}

static void the_last_acknowledgement_survives_the_socket(void **state)
{
	struct world *d = *state;

	live(d, 1);
	records(d, 1, 3);
	recv_to(d, 3);
	session_release(&d->s);
	assert_int_equal(d->n_asked, 1);
	assert_int_equal(d->asked[0].cmd.cursor, 3);
	/* Its answer finds nobody, and the call its pool: teardown looks. */
}

static void recv_beyond_the_inbox_closes_4400(void **state)
{
	struct world *d = *state;

	live(d, 1);
	records(d, 1, 3);
	while (d->frame < d->n_frames)
		expect(d, WIRE_DELIVER);
	recv_to(d, 4);
	expect_error(d, "bad-frame", NONE, 4400);
	expect_close(d, 4400);
}

static void the_window_moves_with_recv_and_credit(void **state)
{
	struct world *d = *state;
	struct wire w;

	hello(d, 4, NONE);
	start(d, 0, 0, 1);
	records(d, 1, 4);
	recv_to(d, 1); /* the reader waits for it: told at once */
	assert_int_equal(d->credits, 1);
	assert_int_equal(d->credit_acked, 1);
	assert_int_equal(d->credit_window, 4);
	wire_start(&w, WIRE_CREDIT);
	wire_set(&w, W_WINDOW, 10);
	say(d, &w);
	assert_int_equal(d->credits, 2);
	assert_int_equal(d->credit_window, 10);
	wire_set(&w, W_WINDOW, 0);
	d->frame = d->n_frames;
	say(d, &w);
	expect_error(d, "bad-frame", NONE, 4400);
	expect_close(d, 4400);
}

static void a_full_window_without_progress_closes_1013(void **state)
{
	struct world *d = *state;

	hello(d, 4, NONE);
	start(d, 0, 0, 1);
	records(d, 1, 4);
	pass(d, 29000);
	recv_to(d, 1); /* progress */
	records(d, 5, 5);
	pass(d, 29000);
	assert_int_equal(d->code, 0);
	d->frame = d->n_frames;
	pass(d, 1100);
	expect_close(d, 1013);
}

static void unread_output_pauses_the_reader_and_then_closes_1013(void **state)
{
	struct world *d = *state;

	live(d, 1);
	session_pause(&d->s, true);
	assert_true(d->sub_paused);
	pass(d, 20000);
	session_pause(&d->s, true); /* some bytes left */
	pass(d, 20000);
	session_pause(&d->s, false);
	assert_false(d->sub_paused);
	pass(d, 12000);
	ping(d);
	expect(d, WIRE_PONG);
	session_pause(&d->s, true);
	pass(d, 30000);
	expect_close(d, 1013);
}

static void a_gap_is_never_delivered(void **state)
{
	struct world *d = *state;
	struct record r = record_of(3);

	live(d, 1);
	records(d, 1, 1);
	assert_int_equal(expect(d, WIRE_DELIVER)->u[W_N], 1);
	d->sub->record(d->sub, &r); /* where is 2? */
	expect_nothing(d);
	assert_null(d->sub);
	pass(d, 20);
	assert_non_null(d->sub); /* asked again, from what is missing */
	assert_int_equal(d->sub->from, 2);
	start(d, 3, 0, 1);
	records(d, 2, 3);
	assert_int_equal(expect(d, WIRE_DELIVER)->u[W_N], 2);
	assert_int_equal(expect(d, WIRE_DELIVER)->u[W_N], 3);
}

static void a_moved_leader_is_only_a_pause(void **state)
{
	struct world *d = *state;

	hello(d, 10, NONE);
	start(d, 20, 0, 1);
	expect(d, WIRE_WELCOME);
	records(d, 1, 6);
	recv_to(d, 2);
	d->frame = d->n_frames;
	sub_end(d, ERR_NOT_LEADER);
	assert_null(d->sub);
	pass(d, 10);
	assert_non_null(d->sub);
	sub_end(d, ERR_UNAVAILABLE);
	pass(d, 20);
	/* 4 of 10 are on their way: room for 6. */
	assert_int_equal(d->sub->from, 7);
	assert_int_equal(d->sub->window, 6);
	recv_to(d, 5);
	start(d, 20, 2, 1);
	/* 7..15 may come now: after 6, which it takes as received, 9. */
	assert_int_equal(d->credit_acked, 6);
	assert_int_equal(d->credit_window, 9);
	records(d, 5, 8); /* what was sent is not sent again */
	assert_int_equal(expect(d, WIRE_DELIVER)->u[W_N], 7);
	assert_int_equal(expect(d, WIRE_DELIVER)->u[W_N], 8);
	expect_nothing(d);
	assert_int_equal(d->subs, 3);
}

static void a_pause_outlives_the_subscription(void **state)
{
	struct world *d = *state;

	live(d, 1);
	session_pause(&d->s, true);
	sub_end(d, ERR_UNAVAILABLE);
	pass(d, 10);
	start(d, 0, 0, 1);
	assert_true(d->sub_paused);
}

/* ---- pages ------------------------------------------------------------- */

static void sync_call(struct world *d, uint64_t id, uint64_t cursor,
		      uint64_t before, uint64_t limit)
{
	struct wire w;

	wire_start(&w, WIRE_SYNC);
	wire_set(&w, W_ID, id);
	wire_set(&w, W_LIMIT, limit);
	if (cursor != NONE)
		wire_set(&w, W_CURSOR, cursor);
	if (before != NONE)
		wire_set(&w, W_BEFORE, before);
	say(d, &w);
}

static void answer_page(struct world *d, uint64_t from, uint64_t to,
			uint32_t body_len, bool back)
{
	static uint8_t body[BODY_MAX];
	struct buf b = BUF_INIT;
	struct result r = { .inbox_end = 900, .inbox_oldest = 1,
			    .complete = true, .next = to + 1 };

	for (; back ? from >= to : from <= to; back ? from-- : from++) {
		struct record rec = record_of(from);

		rec.payload = body;
		rec.payload_len = body_len;
		record_put_wire(&b, &rec);
		r.n_records++;
	}
	if (back)
		r.next = to;
	r.records = b.data;
	r.records_len = b.len;
	answer(d, 0, 0, &r);
	buf_release(&b);
}

static void a_page_is_read_and_moves_nothing(void **state)
{
	struct world *d = *state;
	struct wire_iter it;
	struct wire item;
	struct wire *w;
	uint64_t n;

	live(d, 1);
	sync_call(d, 5, 10, NONE, 100);
	assert_int_equal(d->asked[0].query.type, QUERY_PAGE);
	assert_int_equal(d->asked[0].query.from, 11);
	assert_int_equal(d->asked[0].query.limit, 100);
	assert_false(d->asked[0].query.back);
	answer_page(d, 11, 14, 5, false);
	w = expect(d, WIRE_PAGE);
	assert_int_equal(w->u[W_ID], 5);
	assert_int_equal(w->u[W_NEXT], 15);
	assert_int_equal(w->u[W_COMPLETE], 1);
	wire_iter_init(&it, w, W_ITEMS);
	for (n = 11; n <= 14; n++) {
		assert_true(wire_iter_item(&it, &item));
		assert_int_equal(item.u[W_N], n);
	}
	assert_false(wire_iter_item(&it, &item));
	sync_call(d, 6, NONE, 14, 2);
	assert_true(d->asked[0].query.back);
	assert_int_equal(d->asked[0].query.from, 14);
	answer_page(d, 13, 12, 5, true);
	assert_int_equal(expect(d, WIRE_PAGE)->u[W_NEXT], 12);
	assert_int_equal(d->s.acked, 0);
	/* What pages showed may be acknowledged, and does not come again. */
	recv_to(d, 14);
	assert_int_equal(d->code, 0);
	records(d, 1, 15);
	assert_int_equal(expect(d, WIRE_DELIVER)->u[W_N], 15);
}

static void a_page_stays_below_256_kib(void **state)
{
	struct world *d = *state;
	struct wire *w;

	live(d, 1);
	sync_call(d, 5, 0, NONE, 500);
	answer_page(d, 1, 5, BODY_MAX, false);
	w = expect(d, WIRE_PAGE);
	assert_true(d->frames[d->frame - 1].len <= 256u << 10);
	assert_int_equal(w->u[W_COMPLETE], 0);
	assert_in_range(w->u[W_NEXT], 3, 5);
}

static void four_pages_at_one_time(void **state)
{
	struct world *d = *state;
	unsigned i;

	live(d, 1);
	for (i = 0; i < SESSION_PAGES_MAX; i++)
		sync_call(d, i, 0, NONE, 10);
	sync_call(d, 9, 0, NONE, 10);
	expect_error(d, "too-many-open", 9, 0);
	sync_call(d, 10, 0, 5, 10); /* both ways at once */
	expect_error(d, "bad-request", 10, 0);
	answer(d, 0, ERR_FORMAT, NULL);
	expect_error(d, "internal", 0, 0);
	answer_status(d, 0, ST_NOT_FOUND);
	expect_error(d, "not-found", 1, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_record_becomes_a_deliver_frame),
		T(what_ran_out_keeps_its_number),
		T(received_records_are_told_once_a_second),
		T(a_thousand_records_are_told_at_once),
		T(the_last_acknowledgement_survives_the_socket),
		T(recv_beyond_the_inbox_closes_4400),
		T(the_window_moves_with_recv_and_credit),
		T(a_full_window_without_progress_closes_1013),
		T(unread_output_pauses_the_reader_and_then_closes_1013),
		T(a_gap_is_never_delivered),
		T(a_moved_leader_is_only_a_pause),
		T(a_pause_outlives_the_subscription),
		T(a_page_is_read_and_moves_nothing),
		T(a_page_stays_below_256_kib),
		T(four_pages_at_one_time),
		J(a_record_becomes_a_deliver_frame),
		J(a_page_is_read_and_moves_nothing),
		J(a_page_stays_below_256_kib),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
