/* The session machine, state by state: protocol.md 5 (states and close codes), 6
 * (sends), 11 (resume, flow, drain). */
#include "tests/unit/session_world.h"

static int setup_as(void **state, enum wire_format format)
{
	struct world *d = calloc(1, sizeof *d);

	the_world = d;
	d->clock = (struct clock){ world_mono, world_wall };
	d->now_us = 50000000;
	d->wall_ms = 1700000000000;
	d->armed_ms = UINT64_MAX;
	d->format = format;
	rand_seeded(&d->rand, 7);
	route_init(&d->route, NULL, &d->clock, &d->rand);
	d->env = (struct session_env){
		.route = &d->route, .clock = &d->clock, .rand = &d->rand,
		.verify = world_verify, .hello_ms = 5000, .heartbeat_s = 60,
		.window_max = 1024, .history_epoch = 1,
	};
	session_init(&d->s, &d->env, format, &world_io, d);
	d->armed_ms = session_deadline_ms(&d->s);
	*state = d;
	return 0;
}

static int setup(void **state)
{
	return setup_as(state, WIRE_CBOR);
}

static int setup_json(void **state)
{
	return setup_as(state, WIRE_JSON);
}

static int teardown(void **state)
{
	struct world *d = *state;
	unsigned i;

	session_release(&d->s);
	session_release(&d->s); /* twice is harmless */
	assert_null(d->sub);
	assert_int_equal(d->env.live, 0);
	while (d->n_asked) /* cursors that nobody waits for */
		answer_status(d, 0, ST_OK);
	assert_int_equal(d->route.n_open, 0);
	assert_int_equal(d->route.bytes, 0);
	route_release(&d->route);
	for (i = 0; i < d->n_frames; i++)
		buf_release(&d->frames[i]);
	buf_release(&d->scratch);
	buf_release(&d->env.scratch);
	free(d);
	return 0;
}

/* ---- words of the client --------------------------------------------------------- */

#define NONE UINT64_MAX

static void token_text(char text[96], uint64_t account, uint32_t device,
		       uint32_t epoch, uint64_t left_s)
{
	snprintf(text, 96, "good %llx %x %x %llx", (unsigned long long)account,
		 device, epoch,
		 (unsigned long long)(the_world->wall_ms / 1000 + left_s));
}

static void hello_with(struct world *d, const char *token, uint64_t window,
		       uint64_t cursor, uint64_t epoch)
{
	struct wire w;

	wire_start(&w, WIRE_HELLO);
	wire_set(&w, W_ID, 1);
	wire_puts(&w, W_TOKEN, token);
	wire_puts(&w, W_AGENT, "test");
	wire_set(&w, W_WINDOW, window);
	if (cursor != NONE)
		wire_set(&w, W_CURSOR, cursor);
	if (epoch != NONE)
		wire_set(&w, W_EPOCH, epoch);
	say(d, &w);
}

static void hello(struct world *d, uint64_t window, uint64_t cursor)
{
	char token[96];

	token_text(token, ANN, 1, 1, 600);
	hello_with(d, token, window, cursor, cursor == NONE ? NONE : 1);
}

/* The shard's word: an inbox of `end` records, `kept` of them acknowledged. */
static void start(struct world *d, uint64_t end, uint64_t kept, uint32_t devices)
{
	struct result r = { .inbox_end = end, .inbox_oldest = 1, .cursor = kept,
			    .epoch = 1, .n_devices = devices };

	assert_non_null(d->sub);
	d->sub->start(d->sub, &r);
}

/* Said hello without a cursor, caught up with an empty inbox. */
static void live(struct world *d, uint32_t devices)
{
	hello(d, 256, NONE);
	start(d, 0, 0, devices);
	expect(d, WIRE_WELCOME);
	expect(d, WIRE_CAUGHT_UP);
	assert_int_equal(d->s.state, SESSION_LIVE);
}

static void recv_to(struct world *d, uint64_t cursor)
{
	struct wire w;

	wire_start(&w, WIRE_RECV);
	wire_set(&w, W_CURSOR, cursor);
	say(d, &w);
}

static void send_start(struct wire *w, uint64_t id, uint64_t seq, uint64_t after)
{
	static const uint8_t mid[16] = "a message's id.";

	wire_start(w, WIRE_SEND);
	wire_set(w, W_ID, id);
	wire_set(w, W_SEQ, seq);
	wire_set(w, W_AFTER, after);
	wire_put(w, W_MID, mid, 16);
	wire_set(w, W_TO, BOB);
	wire_set(w, W_SEEN, 77);
	wire_set(w, W_CLASS, 1);
	wire_put(w, W_BODY, "hi", 2);
}

static void send_one(struct world *d, uint64_t id, uint64_t seq, uint64_t after)
{
	struct wire w;

	send_start(&w, id, seq, after);
	say(d, &w);
}

static void ping(struct world *d)
{
	struct wire w;

	wire_start(&w, WIRE_PING);
	wire_set(&w, W_ID, 9);
	say(d, &w);
}

static void appended(struct world *d, unsigned i, uint64_t offset, uint64_t n)
{
	struct result r = { .lamport = 1000 + offset, .stamp = 1001 + offset,
			    .offset = offset, .time_ms = 123456, .n = n,
			    .shard = d->asked[i].shard };

	answer(d, i, 0, &r);
}

/* ---- OPEN ------------------------------------------------------------------------ */

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

/* ---- welcome, one row of protocol.md 11 each ----------------------------------------- */

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
	expect_nothing(d);
	assert_null(d->sub);
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
	assert_null(d->sub);
	session_release(&d->s);
	assert_int_equal(d->n_asked, 0);
}

static void a_newer_connection_of_the_device_closes_4409(void **state)
{
	struct world *d = *state;

	live(d, 1);
	sub_end(d, ERR_EXISTS);
	expect_close(d, 4409);
}

/* ---- deliver and flow ------------------------------------------------------------------ */

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

/* ---- sends -------------------------------------------------------------------------------- */

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

/* ---- pages --------------------------------------------------------------------------------- */

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

/* ---- the rest of a life ----------------------------------------------------------------------- */

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

/* ---- drain ------------------------------------------------------------------------------------- */

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

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
/* The same words in JSON. */
#define J(f) { #f " in JSON", f, setup_json, teardown, NULL }

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
		T(a_newer_connection_of_the_device_closes_4409),
		T(a_record_becomes_a_deliver_frame),
		T(what_ran_out_keeps_its_number),
		T(received_records_are_told_once_a_second),
		T(a_thousand_records_are_told_at_once),
		T(the_last_acknowledgement_survives_the_socket),
		T(recv_beyond_the_inbox_closes_4400),
		T(the_window_moves_with_recv_and_credit),
		T(a_full_window_without_progress_closes_1013),
		T(unread_output_pauses_the_reader_and_then_closes_1013),
		T(a_moved_leader_is_only_a_pause),
		T(a_pause_outlives_the_subscription),
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
		T(the_33rd_open_send_is_refused),
		T(open_sends_hold_at_most_a_mebibyte),
		T(malformed_sends_are_named_and_the_session_lives),
		T(a_socket_that_goes_takes_its_sends_along),
		T(a_page_is_read_and_moves_nothing),
		T(a_page_stays_below_256_kib),
		T(four_pages_at_one_time),
		T(ping_is_answered_and_unknown_frames_are_named),
		T(silence_of_two_and_a_half_heartbeats_closes_1001),
		T(a_token_that_ran_out_closes_4401_after_30_s),
		T(auth_takes_no_other_device),
		T(a_protocol_error_of_the_transport_closes_with_its_code),
		T(a_drain_waits_for_open_sends),
		T(a_drain_ends_after_10_s),
		T(a_drain_ends_idle_and_open_sessions_at_once),
		J(without_a_cursor_the_kept_one_counts),
		J(a_record_becomes_a_deliver_frame),
		J(a_send_is_acked_when_part_0_is_in),
		J(with_other_devices_the_ack_waits_for_the_own_copy),
		J(keys_go_to_the_record_they_are_for),
		J(a_page_is_read_and_moves_nothing),
		J(a_page_stays_below_256_kib),
		J(ping_is_answered_and_unknown_frames_are_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
