/* The device engine's inbox and connection: records once and in order, acks after
 * the store, close codes, waits, and the bytes of the handshake. */
#include "base/base64.h"
#include "base/wsframe.h"
#include "client/upgrade.h"
#include "tests/lib/device_world.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* after the four headers that it needs */
#include <cmocka.h>

static int setup(void **state)
{
	struct device_world *d = calloc(1, sizeof *d);

	device_world_init(d, 2);
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

/* ---- records -------------------------------------------------------------- */

static void records_come_once_and_in_order(void **state)
{
	struct device_world *d = *state;

	device_live(d);
	say_deliver(d, 1, 5);
	say_deliver(d, 2, 6);
	say_deliver(d, 1, 5);
	say_deliver(d, 2, 6);
	say_deliver(d, 3, 7);
	assert_int_equal(device_count(d, CLIENT_EV_RECORD), 3);
	assert_int_equal(device_last(d, CLIENT_EV_RECORD)->n, 3);
	assert_int_equal(client_cursor(d->client), 3);
	assert_int_equal(client_lamport(d->client), 8);
}

/* What the engine does not take for a clock, its store must not either. */
static void a_clock_at_its_end_is_not_believed(void **state)
{
	struct device_world *d = *state;

	device_live(d);
	say_deliver(d, 1, 5);
	say_deliver(d, 2, WIRE_U_MAX);
	assert_int_equal(client_lamport(d->client), 6);
	device_crash(d, SIZE_MAX);
	assert_int_equal(client_cursor(d->client), 2);
	assert_int_equal(client_lamport(d->client), 6);
	device_send(d, 9, "goes out");
	device_live(d);
	device_expect(d, WIRE_SEND);
}

static void numbers_that_are_gone_are_told(void **state)
{
	struct device_world *d = *state;

	device_live(d);
	say_deliver(d, 1, 5);
	say_deliver(d, 5, 6);
	assert_int_equal(device_count(d, CLIENT_EV_HOLE), 1);
	assert_int_equal(device_last(d, CLIENT_EV_HOLE)->from, 2);
	assert_int_equal(device_last(d, CLIENT_EV_HOLE)->to, 4);
	assert_int_equal(client_cursor(d->client), 5);
}

static void an_ack_leaves_after_the_store_has_synced(void **state)
{
	struct device_world *d = *state;
	uint64_t syncs;

	device_live(d);
	device_expect_nothing(d);
	syncs = d->mem.syncs;
	say_deliver(d, 1, 5);
	say_deliver(d, 2, 6);
	device_expect_nothing(d);
	assert_int_equal(d->mem.syncs, syncs);
	device_pass(d, CLIENT_RECV_DELAY_MS);
	device_expect(d, WIRE_RECV);
	assert_int_equal(d->w.u[W_CURSOR], 2);
	assert_int_equal(d->mem.syncs, syncs + 1);
	/* What is acknowledged survives the worst crash. */
	device_crash(d, 0);
	assert_int_equal(client_cursor(d->client), 2);
	device_connect(d);
	device_expect(d, WIRE_HELLO);
	assert_int_equal(d->w.u[W_CURSOR], 2);
	assert_int_equal(d->w.u[W_EPOCH], 1);
}

static void half_a_window_is_acknowledged_at_once(void **state)
{
	struct device_world *d = *state;
	uint64_t n;

	device_live(d);
	for (n = 1; n <= 3; n++)
		say_deliver(d, n, n);
	device_expect_nothing(d);
	say_deliver(d, 4, 4); /* welcome said a window of 8 */
	device_expect(d, WIRE_RECV);
	assert_int_equal(d->w.u[W_CURSOR], 4);
}

static void what_was_not_synced_comes_again_after_a_crash(void **state)
{
	struct device_world *d = *state;

	device_live(d);
	say_deliver(d, 1, 5);
	say_deliver(d, 2, 6);
	/* welcome's place and the first record made it */
	device_crash(d, 2);
	assert_int_equal(client_cursor(d->client), 1);
	assert_int_equal(client_lamport(d->client), 6);
	device_connect(d);
	device_expect(d, WIRE_HELLO);
	assert_int_equal(d->w.u[W_CURSOR], 1);
	say_welcome(d, true, NULL, 2);
	say_deliver(d, 2, 6);
	assert_int_equal(device_count(d, CLIENT_EV_RECORD), 3);
}

static void a_crash_between_sync_and_ack_loses_and_doubles_nothing(void **state)
{
	struct device_world *d = *state;

	device_live(d);
	say_deliver(d, 1, 5);
	device_pass(d, CLIENT_RECV_DELAY_MS);
	device_expect(d, WIRE_RECV);
	device_crash(d, 0); /* the recv never arrived */
	device_connect(d);
	device_expect(d, WIRE_HELLO);
	say_welcome(d, true, NULL, 1);
	say_deliver(d, 1, 5);
	assert_int_equal(device_count(d, CLIENT_EV_RECORD), 1);
	/* and the gateway is told */
	device_pass(d, CLIENT_RECV_DELAY_MS);
	device_expect(d, WIRE_RECV);
	assert_int_equal(d->w.u[W_CURSOR], 1);
}

static void truncated_history_is_a_hole(void **state)
{
	struct device_world *d = *state;
	struct wire w;
	struct buf limits = BUF_INIT;

	device_live(d);
	say_deliver(d, 1, 5);
	device_lose(d);
	device_connect(d);
	device_expect(d, WIRE_HELLO);
	wire_make_limits(&limits, NULL, 0);
	wire_start(&w, WIRE_WELCOME);
	wire_set(&w, W_ID, d->w.u[W_ID]);
	wire_put(&w, W_SESSION, "0123456789abcdef", 16);
	wire_set(&w, W_EPOCH, 1);
	wire_set(&w, W_N, 20);
	wire_set(&w, W_RESUMED, 1);
	wire_set(&w, W_HEARTBEAT, 60);
	wire_set(&w, W_WINDOW, 8);
	wire_put(&w, W_LIMITS, limits.data, limits.len);
	wire_set(&w, W_TIME, 1);
	wire_set(&w, W_TRUNCATED, 11);
	say(d, &w);
	buf_release(&limits);
	assert_int_equal(device_last(d, CLIENT_EV_HOLE)->from, 2);
	assert_int_equal(device_last(d, CLIENT_EV_HOLE)->to, 10);
	say_deliver(d, 11, 30);
	assert_int_equal(client_cursor(d->client), 11);
	assert_int_equal(device_count(d, CLIENT_EV_HOLE), 1);
}

static void a_store_that_cannot_sync_stops_the_device(void **state)
{
	struct device_world *d = *state;

	device_live(d);
	say_deliver(d, 1, 5);
	d->mem.fail_sync = ERR_NOSPACE;
	device_pass(d, CLIENT_RECV_DELAY_MS);
	device_expect_nothing(d);
	assert_int_equal(client_state(d->client), CLIENT_STOPPED);
	assert_string_equal(client_reason(d->client), "store");
	assert_int_equal(client_error(d->client)->code, ERR_NOSPACE);
	assert_true(client_wants_close(d->client));
	client_on_closed(d->client, 0);
	client_resume(d->client);
	assert_int_equal(client_state(d->client), CLIENT_STOPPED);
}

static int full_put(struct client_store *s, const struct client_entry *entry,
		    struct err *e)
{
	(void)s;
	(void)entry;
	return err_set(e, ERR_NOSPACE, "put: as the test asked");
}

static void a_store_that_takes_no_send_stops_the_device(void **state)
{
	struct device_world *d = *state;
	struct client_store_ops ops = *d->mem.store.ops;
	struct client_draft draft = { .to = 9, .cls = 2, .body = "x", .body_len = 1 };
	uint64_t seq;

	ops.put = full_put;
	device_live(d);
	d->mem.store.ops = &ops;
	assert_int_equal(client_send(d->client, &draft, &seq, NULL), ERR_NOSPACE);
	assert_int_equal(client_state(d->client), CLIENT_STOPPED);
	assert_int_equal(client_error(d->client)->code, ERR_NOSPACE);
}

static void a_page_moves_nothing(void **state)
{
	struct device_world *d = *state;
	struct buf items = BUF_INIT;
	uint8_t mid[16] = { 1 };
	struct wire w, item;
	unsigned i;

	device_live(d);
	assert_int_equal(client_fetch(d->client, 0, 9, 3, NULL), 0);
	device_expect(d, WIRE_SYNC);
	assert_int_equal(d->w.u[W_BEFORE], 9);
	wire_make_array(&items, 3);
	for (i = 0; i < 3; i++) {
		wire_start(&item, WIRE_DELIVER);
		wire_set(&item, W_N, 8 - i);
		wire_set(&item, W_FROM, 9);
		wire_set(&item, W_DEV, 1);
		wire_set(&item, W_SEQ, 8 - i);
		wire_put(&item, W_MID, mid, 16);
		wire_set(&item, W_LAMPORT, 70 - i);
		wire_set(&item, W_STAMP, 70 - i);
		wire_set(&item, W_TIME, 5);
		wire_set(&item, W_CLASS, 1);
		wire_set(&item, W_FLAGS, i == 1 ? 16 : 0);
		wire_make_item(&items, &item);
	}
	wire_start(&w, WIRE_PAGE);
	wire_set(&w, W_ID, d->w.u[W_ID]);
	wire_put(&w, W_ITEMS, items.data, items.len);
	wire_set(&w, W_NEXT, 6);
	wire_set(&w, W_COMPLETE, 0);
	say(d, &w);
	say(d, &w); /* nobody asked for a second one */
	buf_release(&items);
	assert_int_equal(device_count(d, CLIENT_EV_PAGE), 1);
	assert_int_equal(device_last(d, CLIENT_EV_PAGE)->n_records, 3);
	assert_int_equal(client_cursor(d->client), 0);
	assert_int_equal(client_lamport(d->client), 71);
	for (i = 0; i < CLIENT_FETCHES_MAX; i++)
		assert_int_equal(client_fetch(d->client, 1, 0, 9, NULL), 0);
	assert_int_equal(client_fetch(d->client, 1, 0, 9, NULL), ERR_FULL);
	device_expect(d, WIRE_SYNC);
	say_error(d, &d->w, "unavailable", 503, 0);
	assert_string_equal(device_last(d, CLIENT_EV_PAGE)->reason, "unavailable");
}

/* ---- connection ----------------------------------------------------------- */

static void close_codes_do_what_the_table_says(void **state)
{
	static const struct {
		unsigned code;
		const char *stopped;
		uint64_t min_ms, max_ms;
	} row[] = {
		{ 1000, NULL, 0, 500 },		  { 1001, NULL, 0, 500 },
		{ 1012, NULL, 0, 500 },		  { 1013, NULL, 0, 500 },
		{ 4400, NULL, 0, 500 },		  { 4408, NULL, 0, 500 },
		{ 1008, NULL, 30000, 30500 },	  { 1011, NULL, 30000, 30500 },
		{ 4401, "token", 0, 0 },	  { 4403, "device-removed", 0, 0 },
		{ 4409, "elsewhere", 0, 0 },
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof row / sizeof row[0]; i++) {
		struct device_world d;
		uint64_t wait;

		device_world_init(&d, i);
		device_open(&d);
		device_live(&d);
		client_on_closed(d.client, row[i].code);
		if (row[i].stopped) {
			assert_int_equal(client_state(d.client), CLIENT_STOPPED);
			assert_string_equal(client_reason(d.client), row[i].stopped);
			assert_true(client_deadline_us(d.client) == UINT64_MAX);
			assert_null(client_wants_dial(d.client));
			if (row[i].code == 4401)
				client_set_token(d.client, "fresh");
			else
				client_resume(d.client);
			device_connect(&d);
		} else {
			assert_int_equal(client_state(d.client), CLIENT_IDLE);
			wait = (client_deadline_us(d.client) - d.now_us) / 1000;
			assert_in_range(wait, row[i].min_ms, row[i].max_ms);
		}
		device_world_release(&d);
	}
}

static void a_new_token_is_used_at_once(void **state)
{
	struct device_world *d = *state;

	device_live(d);
	client_set_token(d->client, "fresh");
	device_expect(d, WIRE_AUTH);
	assert_memory_equal(d->w.b[W_TOKEN].p, "fresh", 5);
	say_id(d, WIRE_OK, d->w.u[W_ID]);
	device_lose(d);
	device_connect(d);
	device_expect(d, WIRE_HELLO);
	assert_memory_equal(d->w.b[W_TOKEN].p, "fresh", 5);
	/* Refused in words first, and then by the code. */
	say_error(d, NULL, "token-expired", 401, 4401);
	assert_int_equal(client_state(d->client), CLIENT_STOPPED);
	client_on_closed(d->client, 4401);
	client_set_token(d->client, "fresher");
	device_connect(d);
	device_expect(d, WIRE_HELLO);
	assert_memory_equal(d->w.b[W_TOKEN].p, "fresher", 7);
}

/* The user acts while the old connection is still closing. */
static void a_resume_waits_for_the_old_connection(void **state)
{
	struct device_world *d = *state;

	device_live(d);
	client_close(d->client);
	client_resume(d->client);
	device_expect_nothing(d);
	assert_true(client_wants_close(d->client));
	assert_null(client_wants_dial(d->client));
	client_on_closed(d->client, 0);
	assert_int_equal(client_state(d->client), CLIENT_IDLE);
	device_live(d);
}

/* random(0, min(60 s, 0.5 s x 2^k)), for many seeds; both ends are met. */
static void waits_are_spread_below_a_bound_that_doubles(void **state)
{
	uint64_t cap = CLIENT_BACKOFF_MIN_MS, sum, wait, seed;
	unsigned k;

	(void)state;
	for (k = 0; k < 10; k++) {
		sum = 0;
		for (seed = 0; seed < 200; seed++) {
			struct device_world d;
			unsigned i;

			device_world_init(&d, seed);
			device_open(&d);
			for (i = 0; i <= k; i++) {
				device_connect(&d);
				device_lose(&d);
			}
			wait = (client_deadline_us(d.client) - d.now_us) / 1000;
			assert_true(wait <= cap);
			sum += wait;
			device_world_release(&d);
		}
		assert_in_range(sum / 200, cap * 4 / 10, cap * 6 / 10);
		cap = cap * 2 < CLIENT_BACKOFF_MAX_MS ? cap * 2 : CLIENT_BACKOFF_MAX_MS;
	}
}

static void ten_seconds_of_live_start_the_waits_anew(void **state)
{
	struct device_world *d = *state;
	unsigned i;

	for (i = 0; i < 8; i++) {
		device_connect(d);
		device_lose(d);
	}
	device_live(d);
	device_pass(d, CLIENT_LIVE_RESET_MS);
	device_lose(d);
	assert_true(client_deadline_us(d->client) - d->now_us <=
		    CLIENT_BACKOFF_MIN_MS * 1000);
}

static void goodbye_ends_open_sends_and_names_the_wait(void **state)
{
	struct device_world *d = *state;

	device_live(d);
	device_send(d, 9, "1");
	device_expect(d, WIRE_SEND);
	say_goodbye(d, 1012, 7000);
	device_send(d, 9, "2");
	device_expect_nothing(d);
	assert_false(client_wants_close(d->client));
	say_deliver(d, 1, 4);
	device_expect(d, WIRE_RECV);
	say_ack(d, 1, 9, false);
	device_expect_nothing(d);
	assert_true(client_wants_close(d->client));
	client_on_closed(d->client, 1012);
	assert_int_equal(client_deadline_us(d->client), d->now_us + 7000000);
	device_live(d);
	device_expect(d, WIRE_SEND);
	assert_int_equal(d->w.u[W_SEQ], 2);
}

static void a_gateway_that_never_answers_the_goodbye_is_left(void **state)
{
	struct device_world *d = *state;

	device_live(d);
	device_send(d, 9, "1");
	device_expect(d, WIRE_SEND);
	say_goodbye(d, 1012, 1);
	device_pass(d, CLIENT_DRAIN_MS);
	assert_true(client_wants_close(d->client));
}

static void silence_is_broken_by_a_ping_and_then_by_leaving(void **state)
{
	struct device_world *d = *state;

	device_live(d);
	device_pass(d, 59999);
	device_expect_nothing(d);
	device_pass(d, 1);
	device_expect(d, WIRE_PING);
	say_id(d, WIRE_PONG, d->w.u[W_ID]);
	device_pass(d, CLIENT_PONG_MS);
	assert_false(client_wants_close(d->client));
	device_pass(d, 60000);
	device_expect(d, WIRE_PING);
	device_pass(d, CLIENT_PONG_MS);
	assert_true(client_wants_close(d->client));
	say_id(d, WIRE_PING, 77);
	device_expect_nothing(d);
}

static void pings_are_answered(void **state)
{
	struct device_world *d = *state;

	device_live(d);
	say_id(d, WIRE_PING, 77);
	device_expect(d, WIRE_PONG);
	assert_int_equal(d->w.u[W_ID], 77);
}

static void every_step_of_connecting_has_a_limit(void **state)
{
	struct device_world *d = *state;

	assert_non_null(client_wants_dial(d->client));
	assert_null(client_wants_dial(d->client));
	device_pass(d, CLIENT_DIAL_MS);
	assert_true(client_wants_close(d->client));
	client_on_closed(d->client, 0);
	device_connect(d);
	device_expect(d, WIRE_HELLO);
	device_pass(d, CLIENT_DIAL_MS - 1);
	assert_false(client_wants_close(d->client));
	device_pass(d, 1);
	assert_true(client_wants_close(d->client));
}

static void storage_that_went_back_stops_the_device(void **state)
{
	static const char *const why[] = { "rollback", "ahead" };
	unsigned i;

	(void)state;
	for (i = 0; i < 2; i++) {
		struct device_world d;

		device_world_init(&d, i);
		device_open(&d);
		device_live(&d);
		say_deliver(&d, 1, 5);
		device_lose(&d);
		device_connect(&d);
		device_expect(&d, WIRE_HELLO);
		say_welcome(&d, false, why[i], 0);
		assert_int_equal(client_state(d.client), CLIENT_STOPPED);
		assert_string_equal(client_reason(d.client), why[i]);
		assert_int_equal(client_cursor(d.client), 1);
		device_world_release(&d);
	}
}

static void another_epoch_restarts_the_cursor_and_sends_again(void **state)
{
	struct device_world *d = *state;

	device_live(d);
	say_deliver(d, 1, 5);
	say_deliver(d, 2, 6);
	device_send(d, 9, "1");
	device_expect(d, WIRE_SEND);
	device_lose(d);
	device_connect(d);
	device_expect(d, WIRE_HELLO);
	say_welcome(d, false, "epoch", 0);
	assert_int_equal(client_state(d->client), CLIENT_CATCHUP);
	assert_int_equal(client_cursor(d->client), 0);
	device_expect(d, WIRE_SEND);
	assert_int_equal(d->w.u[W_SEQ], 1);
}

static void closing_acknowledges_what_is_stored(void **state)
{
	struct device_world *d = *state;

	device_live(d);
	say_deliver(d, 1, 5);
	client_close(d->client);
	device_expect(d, WIRE_RECV);
	assert_int_equal(d->w.u[W_CURSOR], 1);
	device_expect_nothing(d);
	assert_true(client_wants_close(d->client));
	client_on_closed(d->client, 0);
	assert_int_equal(client_state(d->client), CLIENT_STOPPED);
}

static void nonsense_closes_the_connection_and_nothing_else(void **state)
{
	struct device_world *d = *state;

	device_live(d);
	client_on_message(d->client, "\xff\x00", 2);
	assert_true(client_wants_close(d->client));
	client_on_closed(d->client, 0);
	assert_int_equal(client_state(d->client), CLIENT_IDLE);
	device_live(d);
	client_on_message(d->client, "\xa1\x00\x18\xc8", 4); /* frame 200 */
	assert_false(client_wants_close(d->client));
}

/* ---- bytes ---------------------------------------------------------------- */

#define ANSWER "HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\n" \
	       "Connection: keep-alive, Upgrade\r\nSec-WebSocket-Accept: %s\r\n" \
	       "Sec-WebSocket-Protocol: quipu.v1.cbor\r\n\r\n"

static void the_upgrade_is_checked(void **state)
{
	static const struct {
		const char *answer;
		int rv;
	} row[] = {
		{ ANSWER, 1 },
		{ "HTTP/1.1 503 Unavailable\r\nRetry-After: 7\r\n\r\n", ERR_UNAVAILABLE },
		{ "SSH-2.0-x\r\n\r\n", ERR_PROTOCOL },
		{ "HTTP/1.1 101 x\r\nConnection: upgrade\r\nSec-WebSocket-Accept: %s\r\n"
		  "Sec-WebSocket-Protocol: quipu.v1.cbor\r\n\r\n", ERR_PROTOCOL },
		{ "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
		  "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
		  "Sec-WebSocket-Protocol: quipu.v1.cbor\r\n\r\n", ERR_PROTOCOL },
		{ "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
		  "Sec-WebSocket-Accept: %s\r\nSec-WebSocket-Protocol: chat\r\n\r\n",
		  ERR_PROTOCOL },
		{ "HTTP/1.1 101 x\r\nno colon\r\n\r\n", ERR_PROTOCOL },
		{ "HTTP/1.1 101 x\nUpgrade: websocket\n\r\n\r\n", ERR_PROTOCOL },
	};
	size_t i, cut;

	(void)state;
	for (i = 0; i < sizeof row / sizeof row[0]; i++) {
		char text[512], accept[29];
		size_t n, used;

		for (cut = 1; cut < 200; cut += 7) {
			struct buf out = BUF_INIT;
			struct upgrade u;
			struct err e;
			int rv;

			upgrade_init(&u);
			upgrade_request(&u, "h:1", "quipu.v1.cbor", &rand_real, &out);
			buf_release(&out);
			ws_accept(u.key, 24, accept);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
			n = (size_t)snprintf(text, sizeof text, row[i].answer, accept);
#pragma GCC diagnostic pop
			memcpy(text + n, "rest", 4);
			if (cut >= n)
				break;
			used = 0;
			rv = upgrade_feed(&u, text, cut, &used, "quipu.v1.cbor", &e);
			if (rv == 0) {
				rv = upgrade_feed(&u, text + cut, n + 4 - cut, &used,
						  "quipu.v1.cbor", &e);
				if (rv == 1)
					assert_int_equal(cut + used, n);
			}
			assert_int_equal(rv, row[i].rv);
			if (rv == ERR_UNAVAILABLE)
				assert_int_equal(u.retry_s, 7);
			upgrade_release(&u);
		}
	}
}

static void an_endless_head_is_refused(void **state)
{
	struct buf out = BUF_INIT;
	struct upgrade u;
	size_t used, n = 0;
	int rv = 0;

	(void)state;
	upgrade_init(&u);
	upgrade_request(&u, "h:1", "p", &rand_real, &out);
	buf_release(&out);
	while (rv == 0 && n++ < 10000)
		rv = upgrade_feed(&u, "x: y\r\n", 6, &used, "p", NULL);
	assert_int_equal(rv, ERR_PROTOCOL);
	assert_in_range(n, UPGRADE_HEAD_MAX / 6, UPGRADE_HEAD_MAX / 6 + 2);
	upgrade_release(&u);
}

static void gateways_are_urls(void **state)
{
	struct gateway_url u;

	(void)state;
	assert_int_equal(gateway_url_parse(&u, "ws://127.0.0.1:8080", NULL), 0);
	assert_string_equal(u.host, "127.0.0.1");
	assert_int_equal(u.port, 8080);
	assert_false(u.tls);
	assert_int_equal(gateway_url_parse(&u, "wss://[::1]:9/", NULL), 0);
	assert_string_equal(u.host, "::1");
	assert_string_equal(u.authority, "[::1]:9");
	assert_true(u.tls);
	assert_int_equal(gateway_url_parse(&u, "https://chat.example", NULL), 0);
	assert_int_equal(u.port, 443);
	assert_int_equal(gateway_url_parse(&u, "ftp://a:1", NULL), ERR_CONFIG);
	assert_int_equal(gateway_url_parse(&u, "ws://a:1/path", NULL), ERR_CONFIG);
	assert_int_equal(gateway_url_parse(&u, "ws://a:0", NULL), ERR_CONFIG);
	assert_int_equal(gateway_url_parse(&u, "ws://a:70000", NULL), ERR_CONFIG);
	assert_int_equal(gateway_url_parse(&u, "ws://a\r\nb:1", NULL), ERR_CONFIG);
	assert_int_equal(gateway_url_parse(&u, "ws://:1", NULL), ERR_CONFIG);
	assert_int_equal(gateway_url_parse(&u, "ws://[::1", NULL), ERR_CONFIG);
}

/* The first request of a device in bytes mode, and its hello, masked. */
static void bytes_wrap_the_same_messages(void **state)
{
	struct device_world d;
	struct buf out = BUF_INIT;
	struct ws_reader r;
	struct ws_message m;
	char answer[512], accept[29];
	const char *key;
	uint8_t *p;
	unsigned code;
	const char *why;
	size_t n;

	(void)state;
	device_world_init(&d, 3);
	d.bytes = true;
	device_open(&d);
	assert_non_null(client_wants_dial(d.client));
	client_on_connect(d.client);
	client_output(d.client, &out);
	key = memmem(out.data, out.len, "Sec-WebSocket-Key: ", 19);
	assert_non_null(key);
	ws_accept(key + 19, 24, accept);
	snprintf(answer, sizeof answer, ANSWER, accept);
	client_on_bytes(d.client, answer, strlen(answer));
	assert_int_equal(client_state(d.client), CLIENT_HELLO);
	buf_clear(&out);
	client_output(d.client, &out);
	ws_reader_init(&r, true, 1 << 17);
	p = out.data;
	n = out.len;
	assert_int_equal(ws_read(&r, &p, &n, &m, &code, &why), 1);
	assert_int_equal(m.op, WS_BINARY);
	assert_int_equal(wire_decode(&d.w, WIRE_CBOR, WIRE_CLIENT, m.p, m.n, NULL,
				     NULL), 0);
	assert_int_equal(d.w.u[W_T], WIRE_HELLO);
	/* Their close frame is answered, and its code is heard. */
	buf_clear(&out);
	ws_close_frame(&out, 4409, "elsewhere", NULL);
	client_on_bytes(d.client, out.data, out.len);
	assert_string_equal(client_reason(d.client), "elsewhere");
	assert_true(client_wants_close(d.client));
	buf_clear(&out);
	client_output(d.client, &out);
	p = out.data;
	n = out.len;
	assert_int_equal(ws_read(&r, &p, &n, &m, &code, &why), 1);
	assert_int_equal(m.op, WS_CLOSE);
	assert_int_equal(m.code, 4409);
	ws_reader_release(&r);
	buf_release(&out);
	device_world_release(&d);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(records_come_once_and_in_order),
		T(a_clock_at_its_end_is_not_believed),
		T(numbers_that_are_gone_are_told),
		T(an_ack_leaves_after_the_store_has_synced),
		T(half_a_window_is_acknowledged_at_once),
		T(what_was_not_synced_comes_again_after_a_crash),
		T(a_crash_between_sync_and_ack_loses_and_doubles_nothing),
		T(truncated_history_is_a_hole),
		T(a_store_that_cannot_sync_stops_the_device),
		T(a_store_that_takes_no_send_stops_the_device),
		T(a_page_moves_nothing),
		cmocka_unit_test(close_codes_do_what_the_table_says),
		T(a_new_token_is_used_at_once),
		T(a_resume_waits_for_the_old_connection),
		cmocka_unit_test(waits_are_spread_below_a_bound_that_doubles),
		T(ten_seconds_of_live_start_the_waits_anew),
		T(goodbye_ends_open_sends_and_names_the_wait),
		T(a_gateway_that_never_answers_the_goodbye_is_left),
		T(silence_is_broken_by_a_ping_and_then_by_leaving),
		T(pings_are_answered),
		T(every_step_of_connecting_has_a_limit),
		cmocka_unit_test(storage_that_went_back_stops_the_device),
		T(another_epoch_restarts_the_cursor_and_sends_again),
		T(closing_acknowledges_what_is_stored),
		T(nonsense_closes_the_connection_and_nothing_else),
		cmocka_unit_test(the_upgrade_is_checked),
		cmocka_unit_test(an_endless_head_is_refused),
		cmocka_unit_test(gateways_are_urls),
		cmocka_unit_test(bytes_wrap_the_same_messages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
