/* A client's WebSocket on a real socket pair and a real loop, the node and the
 * clock being the test's: framing, control frames, closing, slow readers, timers.
 * Every test runs over plain bytes and over TLS. */
#include "tests/unit/session_world.h"
#include "base/alloc.h"
#include "base/wsframe.h"
#include "gateway/conn.h"
#include "gateway/tlsconn.h"
#include "tests/lib/certs.h"

#include <sys/socket.h>
#include <unistd.h>

struct bench {
	struct world w;        /* clock, fake node */
	uv_loop_t loop;
	struct gateway g;
	int fd;                /* the client's end */
	bool secure, notified; /* TLS; their close_notify has come */
	struct tls *tls;
	struct ws_reader reader;
	struct buf in;         /* read and not yet looked at */
	size_t looked;
	struct ws_message m;
};

/* gateway.c is not linked: it would bring the real node along. */
void gateway_socket_new(struct gateway *g)
{
	g->n_sockets++;
}

void gateway_socket_gone(struct gateway *g)
{
	assert_true(g->n_sockets > 0);
	g->n_sockets--;
}

/* ---- TLS ------------------------------------------------------------------------- */

static struct tls_ctx *server_ctx, *client_ctx;

/* In memory; what the server says last goes out with the first bytes. */
static struct tlsconn *shake(struct bench *b)
{
	struct buf up = BUF_INIT, down = BUF_INIT, none = BUF_INIT;
	struct tls *server;
	struct tlsconn *t;
	struct err e;

	tls_free(b->tls);
	assert_int_equal(tls_new(&server, server_ctx, NULL, &e), 0);
	assert_int_equal(tls_new(&b->tls, client_ctx, "localhost", &e), 0);
	assert_int_equal(tls_start(b->tls, &up, &e), 0);
	while (up.len) {
		buf_clear(&down);
		assert_int_equal(tls_feed(server, up.data, up.len, &none, &down,
					  &e), 0);
		buf_clear(&up);
		if (tls_is_up(b->tls))
			break;
		assert_int_equal(tls_feed(b->tls, down.data, down.len, &none,
					  &up, &e), 0);
	}
	assert_true(tls_is_up(server) && tls_is_up(b->tls));
	assert_int_equal(tls_write(server, "101", 3, &down, &e), 0);
	t = tlsconn_new(server, &down);
	buf_release(&up);
	buf_release(&none);
	return t;
}

static int make_contexts(void **state)
{
	char dir[256], ca[300], cert[300], key[300];
	struct tls_files files = { .ca = ca, .cert = cert, .key = key };
	struct err e;

	(void)state;
	certs_dir(dir, sizeof dir);
	certs_ca(dir, "ca");
	certs_leaf(dir, "ca", "web", "localhost", NULL, 10);
	snprintf(ca, sizeof ca, "%s/ca.crt", dir);
	snprintf(cert, sizeof cert, "%s/web.crt", dir);
	snprintf(key, sizeof key, "%s/web.key", dir);
	assert_int_equal(tls_ctx_new(&server_ctx, TLS_SERVER, &files, &e), 0);
	assert_int_equal(tls_ctx_new(&client_ctx, TLS_CLIENT, &files, &e), 0);
	certs_remove(dir);
	return 0;
}

static int drop_contexts(void **state)
{
	(void)state;
	tls_ctx_free(server_ctx);
	tls_ctx_free(client_ctx);
	return 0;
}

static bool take(struct bench *b);

static void open_with(struct bench *b, void *extra, size_t n)
{
	struct tlsconn *t = b->secure ? shake(b) : NULL;
	int fds[2];

	b->notified = false;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds),
			 0);
	b->fd = fds[0];
	conn_open(&b->g, fds[1], t, WIRE_CBOR, extra, n);
	ws_reader_init(&b->reader, false, 1u << 20);
	if (t) {
		/* As the HTTP parser's answer, before all else. */
		conn_flush_all(&b->g);
		take(b);
		assert_true(b->in.len >= 3);
		assert_memory_equal(b->in.data, "101", 3);
		buf_consume(&b->in, 3);
	}
}

static int setup(void **state)
{
	struct bench *b = calloc(1, sizeof *b);
	struct gateway *g = &b->g;
	unsigned i;

	the_world = &b->w;
	b->w.clock = (struct clock){ world_mono, world_wall };
	b->w.now_us = 50000000;
	b->w.wall_ms = 1700000000000;
	rand_seeded(&b->w.rand, 7);
	uv_loop_init(&b->loop);
	g->loop = &b->loop;
	g->clock = &b->w.clock;
	g->rand = &b->w.rand;
	g->read_buf = xmalloc(GATEWAY_READ_MAX);
	list_init(&g->conns);
	list_init(&g->dirty);
	list_init(&g->buffers);
	for (i = 0; i < GATEWAY_WHEEL; i++)
		list_init(&g->wheel[i]);
	g->wheel_slot = 50000 / GATEWAY_WHEEL_MS;
	route_init(&g->route, NULL, g->clock, g->rand);
	g->env = (struct session_env){
		.route = &g->route, .clock = g->clock, .rand = g->rand,
		.verify = world_verify, .hello_ms = 5000, .heartbeat_s = 60,
		.window_max = 1024, .history_epoch = 1,
	};
	*state = b;
	return 0;
}

static int setup_secure(void **state)
{
	setup(state);
	((struct bench *)*state)->secure = true;
	return 0;
}

static int teardown(void **state)
{
	struct bench *b = *state;

	conn_close_all(&b->g);
	assert_int_equal(b->g.n_sockets, 0);
	assert_true(list_empty(&b->g.dirty));
	uv_run(&b->loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&b->loop), 0);
	while (b->w.n_asked)
		answer_status(&b->w, 0, ST_OK);
	route_release(&b->g.route);
	buf_release(&b->g.env.scratch);
	ws_reader_release(&b->reader);
	buf_release(&b->in);
	free(b->g.read_buf);
	tls_free(b->tls);
	if (b->fd >= 0)
		close(b->fd);
	free(b);
	return 0;
}

/* Turns of the loop as quipud makes them. */
static void turns(struct bench *b)
{
	unsigned i;

	for (i = 0; i < 4; i++) {
		conn_flush_all(&b->g);
		uv_run(&b->loop, UV_RUN_NOWAIT);
	}
	conn_flush_all(&b->g);
}

static void wait_ms(struct bench *b, uint64_t ms)
{
	uint64_t until = b->w.now_us / 1000 + ms, due;

	while ((due = conn_deadline_ms(&b->g)) <= until) {
		if (due * 1000 > b->w.now_us)
			b->w.now_us = due * 1000;
		conn_tick(&b->g, b->w.now_us / 1000);
		turns(b);
	}
	b->w.now_us = until * 1000;
}

/* ---- the client's end ----------------------------------------------------------- */

static const uint8_t mask[4] = { 1, 2, 3, 4 };

static void put_raw(struct bench *b, const void *p, size_t n)
{
	assert_int_equal(send(b->fd, p, n, MSG_NOSIGNAL), n);
}

static void put(struct bench *b, const void *p, size_t n)
{
	struct buf sealed = BUF_INIT;
	struct err e;

	if (!b->secure) {
		put_raw(b, p, n);
		return;
	}
	assert_int_equal(tls_write(b->tls, p, n, &sealed, &e), 0);
	put_raw(b, sealed.data, sealed.len);
	buf_release(&sealed);
}

static void put_frame(struct bench *b, enum ws_op op, const void *p, size_t n)
{
	struct buf f = BUF_INIT;

	ws_frame(&f, op, p, n, mask);
	put(b, f.data, f.len);
	buf_release(&f);
}

static void put_hello(struct bench *b)
{
	struct buf f = BUF_INIT;
	struct wire w;

	wire_start(&w, WIRE_HELLO);
	wire_set(&w, W_ID, 1);
	wire_puts(&w, W_TOKEN, "good a11ce 1 1 ffffffffff");
	wire_puts(&w, W_AGENT, "test");
	wire_set(&w, W_WINDOW, 1024);
	wire_encode(&w, WIRE_CBOR, &f);
	put_frame(b, WS_BINARY, f.data, f.len);
	buf_release(&f);
}

static void sub_start(struct bench *b, uint64_t end)
{
	struct result r = { .inbox_end = end, .inbox_oldest = 1, .epoch = 1,
			    .n_devices = 1 };

	assert_non_null(b->w.sub);
	b->w.sub->start(b->w.sub, &r);
}

/* All that the socket holds; false at its end. */
static bool take(struct bench *b)
{
	static uint8_t raw[65536];
	struct buf none = BUF_INIT;
	struct err e;
	ssize_t n;
	int rv;

	while ((n = read(b->fd, raw, sizeof raw)) > 0) {
		if (!b->secure) {
			buf_put(&b->in, raw, (size_t)n);
			continue;
		}
		assert_false(b->notified);
		rv = tls_feed(b->tls, raw, (size_t)n, &b->in, &none, &e);
		b->notified = rv == ERR_CLOSED;
		assert_true(rv == 0 || b->notified);
	}
	buf_release(&none);
	return n != 0;
}

static bool next(struct bench *b)
{
	uint8_t *p = b->in.data + b->looked;
	size_t n = b->in.len - b->looked;
	const char *why;
	unsigned code;
	int rv = n ? ws_read(&b->reader, &p, &n, &b->m, &code, &why) : 0;

	assert_true(rv >= 0);
	b->looked = b->in.len - n;
	return rv;
}

static void expect_frame_of(struct bench *b, enum ws_op op)
{
	turns(b);
	take(b);
	assert_true(next(b));
	assert_int_equal(b->m.op, op);
}

static void expect_wire(struct bench *b, unsigned t)
{
	struct err e;

	expect_frame_of(b, WS_BINARY);
	assert_int_equal(wire_decode(&b->w.w, WIRE_CBOR, WIRE_SERVER, b->m.p,
				     b->m.n, NULL, &e), 0);
	assert_int_equal(b->w.w.u[W_T], t);
}

static void expect_closed(struct bench *b, unsigned code)
{
	expect_frame_of(b, WS_CLOSE);
	assert_int_equal(b->m.code, code);
}

static void expect_eof(struct bench *b)
{
	turns(b);
	assert_false(take(b));
	assert_false(next(b));
	assert_int_equal(b->g.n_sockets, 0);
}

static void live(struct bench *b)
{
	open_with(b, NULL, 0);
	put_hello(b);
	turns(b);
	sub_start(b, 0);
	expect_wire(b, WIRE_WELCOME);
	expect_wire(b, WIRE_CAUGHT_UP);
}

/* ---- framing ---------------------------------------------------------------------- */

static void pings_are_answered_and_fragments_joined(void **state)
{
	static const uint8_t ping_frame[] = { 0xa2, 0, 17, 1, 9 }; /* {0: 17, 1: 9} */
	struct buf f = BUF_INIT;
	struct bench *b = *state;
	size_t i;

	live(b);
	/* The first fragment, a ping between, the last one; byte by byte. */
	ws_frame(&f, WS_BINARY, ping_frame, 2, mask);
	f.data[0] &= 0x7f;
	ws_frame(&f, WS_PING, "abc", 3, mask);
	i = f.len;
	ws_frame(&f, WS_CONT, ping_frame + 2, 3, mask);
	f.data[i] = 0x80;
	for (i = 0; i < f.len; i++) {
		put(b, f.data + i, 1);
		turns(b);
	}
	expect_frame_of(b, WS_PONG);
	assert_int_equal(b->m.n, 3);
	assert_memory_equal(b->m.p, "abc", 3);
	expect_wire(b, WIRE_PONG);
	assert_int_equal(b->w.w.u[W_ID], 9);
	buf_release(&f);
}

static void bytes_behind_the_request_are_the_first(void **state)
{
	struct bench *b = *state;
	struct buf f = BUF_INIT;

	ws_frame(&f, WS_PING, "x", 1, mask);
	open_with(b, f.data, f.len);
	buf_release(&f);
	expect_frame_of(b, WS_PONG);
}

static void framing_errors_close_with_their_code(void **state)
{
	static const struct {
		const char *bytes;
		size_t n;
		unsigned code;
	} rows[] = {
		{ "\x82\x01x", 3, 1002 },                     /* no mask */
		{ "\xc2\x81\1\2\3\4x", 7, 1002 },             /* reserved bit */
		{ "\x83\x81\1\2\3\4x", 7, 1002 },             /* opcode */
		{ "\x80\x81\1\2\3\4x", 7, 1002 },             /* nothing to continue */
		{ "\x81\x81\0\0\0\0\xff", 7, 1007 },          /* text not UTF-8 */
		{ "\x82\xff\0\0\0\0\0\2\0\1\0\0\0\0", 14, 1009 }, /* 128 KiB + 1 */
		{ "\x81\x81\0\0\0\0x", 7, 4400 },             /* text to CBOR */
		{ "\x82\x81\0\0\0\0\xff", 7, 4400 },          /* no frame */
	};
	struct bench *b = *state;
	unsigned i;

	for (i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		open_with(b, NULL, 0);
		put(b, rows[i].bytes, rows[i].n);
		if (rows[i].code == 4400)
			expect_wire(b, WIRE_ERROR);
		expect_closed(b, rows[i].code);
		put_frame(b, WS_CLOSE, "\x03\xe8", 2);
		close(b->fd);
		turns(b);
		assert_int_equal(b->g.n_sockets, 0);
		b->in.len = b->looked = 0;
	}
	b->fd = -1;
}

/* ---- closing ------------------------------------------------------------------------ */

static void a_close_of_the_peer_is_echoed_and_over(void **state)
{
	struct bench *b = *state;

	live(b);
	put_frame(b, WS_CLOSE, "\x0f\xa0" "bye", 5);
	expect_closed(b, 4000);
	assert_null(b->w.sub);
	expect_eof(b);
	assert_int_equal(b->notified, b->secure);
}

static void our_close_waits_for_theirs(void **state)
{
	struct bench *b = *state;

	live(b);
	sub_end(&b->w, ERR_EXISTS);
	expect_closed(b, 4409);
	put_frame(b, WS_BINARY, "late", 4); /* no harm, no answer */
	turns(b);
	assert_int_equal(b->g.n_sockets, 1);
	put_frame(b, WS_CLOSE, "\x0f\xa0", 2);
	expect_eof(b);
}

static void but_not_for_ever(void **state)
{
	struct bench *b = *state;

	live(b);
	sub_end(&b->w, ERR_EXISTS);
	expect_closed(b, 4409);
	wait_ms(b, CONN_LINGER_MS - 200);
	assert_int_equal(b->g.n_sockets, 1);
	wait_ms(b, 200 + 2 * GATEWAY_WHEEL_MS);
	expect_eof(b);
}

static void a_socket_that_breaks_ends_the_session(void **state)
{
	struct bench *b = *state;

	live(b);
	close(b->fd);
	b->fd = -1;
	turns(b);
	assert_null(b->w.sub);
	assert_int_equal(b->g.n_sockets, 0);
}

static void no_hello_closes_in_time(void **state)
{
	struct bench *b = *state;

	open_with(b, NULL, 0);
	wait_ms(b, 4900);
	take(b);
	assert_false(next(b));
	wait_ms(b, 100 + 2 * GATEWAY_WHEEL_MS);
	expect_closed(b, 4408);
}

static void silence_is_counted_over_many_rounds_of_the_wheel(void **state)
{
	struct bench *b = *state;

	live(b);
	wait_ms(b, 149000);
	put_frame(b, WS_PING, "", 0); /* life */
	expect_frame_of(b, WS_PONG);
	wait_ms(b, 149000);
	turns(b);
	take(b);
	assert_false(next(b));
	wait_ms(b, 1000 + 2 * GATEWAY_WHEEL_MS);
	expect_closed(b, 1001);
}

static void a_drain_says_goodbye_to_all(void **state)
{
	struct bench *b = *state;

	live(b);
	assert_int_equal(conn_count(&b->g), 1);
	conn_drain(&b->g, 1);
	expect_wire(b, WIRE_GOODBYE);
	assert_int_equal(b->w.w.u[W_CODE], 1012);
	expect_closed(b, 1012);
}

/* ---- output --------------------------------------------------------------------------- */

static void idle_connections_hold_no_buffer(void **state)
{
	struct bench *b = *state;

	live(b);
	turns(b);
	/* The one that the welcome went through is a spare now. */
	assert_int_equal(b->g.n_buffers, 1);
}

static void a_slow_reader_pauses_the_log_and_loses_nothing(void **state)
{
	static uint8_t body[8192];
	struct bench *b = *state;
	uint64_t sent = 0, got = 0;

	live(b);
	/* Until the socket and then the queue are full. */
	while (!b->w.sub_paused && sent < 1024) {
		struct record r = record_of(++sent);

		r.payload = body;
		r.payload_len = sizeof body;
		b->w.sub->record(b->w.sub, &r);
		turns(b);
	}
	assert_true(b->w.sub_paused);
	assert_in_range(sent, CONN_QUEUE_MAX / sizeof body, 1023);
	while (got < sent) {
		turns(b);
		take(b);
		while (next(b)) {
			struct err e;

			assert_int_equal(wire_decode(&b->w.w, WIRE_CBOR,
						     WIRE_SERVER, b->m.p,
						     b->m.n, NULL, &e), 0);
			assert_int_equal(b->w.w.u[W_N], ++got);
		}
		assert_true(b->w.sub_paused || got);
	}
	assert_false(b->w.sub_paused);
	assert_int_equal(b->w.code, 0);
}

static void who_does_not_read_at_all_is_let_go(void **state)
{
	static uint8_t body[8192];
	struct bench *b = *state;
	uint64_t n = 0;

	live(b);
	while (!b->w.sub_paused && n < 1024) {
		struct record r = record_of(++n);

		r.payload = body;
		r.payload_len = sizeof body;
		b->w.sub->record(b->w.sub, &r);
		turns(b);
	}
	wait_ms(b, SESSION_STALL_MS + 2 * GATEWAY_WHEEL_MS);
	assert_null(b->w.sub);
	wait_ms(b, CONN_LINGER_MS + 2 * GATEWAY_WHEEL_MS);
	assert_int_equal(b->g.n_sockets, 0);
}

/* ---- TLS only ------------------------------------------------------------------------- */

static void noise_is_answered_with_an_alert(void **state)
{
	struct bench *b = *state;
	struct buf none = BUF_INIT;
	uint8_t raw[256];
	struct err e;
	ssize_t n;

	live(b);
	put_raw(b, "no record of TLS", 16);
	turns(b);
	assert_int_equal(b->g.n_sockets, 0);
	assert_null(b->w.sub);
	n = read(b->fd, raw, sizeof raw);
	assert_true(n > 0);
	assert_int_equal(tls_feed(b->tls, raw, (size_t)n, &b->in, &none, &e),
			 ERR_TLS);
	buf_release(&none);
}

/* A record that was changed on its way. */
static void a_forged_record_ends_it(void **state)
{
	struct bench *b = *state;
	struct buf sealed = BUF_INIT;
	struct err e;

	live(b);
	assert_int_equal(tls_write(b->tls, "x", 1, &sealed, &e), 0);
	sealed.data[sealed.len - 1] ^= 1;
	put_raw(b, sealed.data, sealed.len);
	buf_release(&sealed);
	turns(b);
	assert_int_equal(b->g.n_sockets, 0);
}

static void put_notify(struct bench *b, struct buf *sealed)
{
	tls_close(b->tls, sealed);
	put_raw(b, sealed->data, sealed->len);
	buf_release(sealed);
}

static void their_close_notify_is_the_end(void **state)
{
	struct bench *b = *state;
	struct buf sealed = BUF_INIT;

	live(b);
	put_notify(b, &sealed);
	turns(b);
	assert_null(b->w.sub);
	assert_int_equal(b->g.n_sockets, 0);
}

static void a_close_frame_before_it_is_answered(void **state)
{
	struct bench *b = *state;
	struct buf frame = BUF_INIT, sealed = BUF_INIT;
	struct err e;

	live(b);
	ws_frame(&frame, WS_CLOSE, "\x0f\xa0", 2, mask);
	assert_int_equal(tls_write(b->tls, frame.data, frame.len, &sealed, &e), 0);
	put_notify(b, &sealed);
	expect_closed(b, 4000);
	expect_eof(b);
	assert_true(b->notified);
	buf_release(&frame);
}

#define PLAIN(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define SECURE(f) { #f ", TLS", f, setup_secure, teardown, NULL }
#define T(f) PLAIN(f), SECURE(f)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(pings_are_answered_and_fragments_joined),
		T(bytes_behind_the_request_are_the_first),
		T(framing_errors_close_with_their_code),
		T(a_close_of_the_peer_is_echoed_and_over),
		T(our_close_waits_for_theirs),
		T(but_not_for_ever),
		T(a_socket_that_breaks_ends_the_session),
		T(no_hello_closes_in_time),
		T(silence_is_counted_over_many_rounds_of_the_wheel),
		T(a_drain_says_goodbye_to_all),
		T(idle_connections_hold_no_buffer),
		T(a_slow_reader_pauses_the_log_and_loses_nothing),
		T(who_does_not_read_at_all_is_let_go),
		SECURE(noise_is_answered_with_an_alert),
		SECURE(a_forged_record_ends_it),
		SECURE(their_close_notify_is_the_end),
		SECURE(a_close_frame_before_it_is_answered),
	};

	return cmocka_run_group_tests(tests, make_contexts, drop_contexts);
}
