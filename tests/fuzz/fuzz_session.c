/* A session between a client that says anything and a node that answers in any
 * order.  The input is a script: one byte of what to do, then its arguments.  Held
 * after each step: the limits, one subscription at most, records in order and
 * within the window, nothing after the end; at last nothing is left over. */
#define SESSION_WORLD_ASSERTS
#include "tests/unit/session_world.h"
#include "base/cursor.h"
#include "base/logf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void no_log(void *arg, const char *line)
{
	(void)arg;
	(void)line;
}

static const int outcomes[] = {
	0, ERR_NOT_LEADER, ERR_UNKNOWN_OUTCOME, ERR_UNAVAILABLE, ERR_FORMAT,
};
static const int ends[] = {
	ERR_NOT_LEADER, ERR_UNAVAILABLE, ERR_TRUNCATED, ERR_DAMAGED,
	ERR_EXISTS, ERR_PERM,
};

static void open_world(struct world *d, uint8_t how)
{
	memset(d, 0, sizeof *d);
	the_world = d;
	d->clock = (struct clock){ world_mono, world_wall };
	d->now_us = 50000000;
	d->wall_ms = 1700000000000;
	d->format = how & 1 ? WIRE_JSON : WIRE_CBOR;
	rand_seeded(&d->rand, how);
	route_init(&d->route, NULL, &d->clock, &d->rand);
	d->env = (struct session_env){
		.route = &d->route, .clock = &d->clock, .rand = &d->rand,
		.verify = world_verify, .hello_ms = 5000, .heartbeat_s = 60,
		.window_max = 1024, .history_epoch = 1,
	};
	session_init(&d->s, &d->env, d->format, &world_io, d);
	d->armed_ms = session_deadline_ms(&d->s);
}

/* What was said: in order, in the window; then forgotten. */
static void check_frames(struct world *d, uint64_t *last_n)
{
	for (; d->frame < d->n_frames; d->frame++) {
		struct buf *b = &d->frames[d->frame];
		struct err e;

		AZ(wire_decode(&d->w, d->format, WIRE_SERVER, b->data, b->len,
			       &d->scratch, &e));
		if (d->w.u[W_T] == WIRE_DELIVER) {
			AN(d->w.u[W_N] > *last_n);
			*last_n = d->w.u[W_N];
		}
		buf_release(b);
	}
	d->n_frames = d->frame = 0;
}

static void hello(struct world *d, struct cursor *in)
{
	uint8_t how = cursor_u8(in);
	struct wire w;

	wire_start(&w, WIRE_HELLO);
	wire_set(&w, W_ID, 1);
	wire_puts(&w, W_TOKEN, how & 1 ? "good a11ce 1 1 ffffffffff" : "bad");
	wire_puts(&w, W_AGENT, "fuzz");
	wire_set(&w, W_WINDOW, how >> 1 & 15);
	if (how & 64)
		wire_set(&w, W_CURSOR, cursor_u8(in));
	if (how & 128)
		wire_set(&w, W_EPOCH, 1);
	say(d, &w);
}

static void some_frame(struct world *d, struct cursor *in)
{
	static const uint8_t mid[16] = { 1 };
	uint8_t how = cursor_u8(in);
	struct wire w;

	switch (how % 6) {
	case 0:
		wire_start(&w, WIRE_SEND);
		wire_set(&w, W_ID, 7);
		wire_set(&w, W_SEQ, cursor_u8(in));
		wire_set(&w, W_AFTER, cursor_u8(in));
		wire_put(&w, W_MID, mid, 16);
		wire_set(&w, W_TO, how & 64 ? ANN : BOB);
		wire_set(&w, W_SEEN, 1);
		wire_set(&w, W_CLASS, how >> 3 & 7);
		if (how & 128)
			wire_put(&w, W_BODY, mid, 5);
		break;
	case 1:
		wire_start(&w, WIRE_RECV);
		wire_set(&w, W_CURSOR, cursor_u8(in));
		break;
	case 2:
		wire_start(&w, WIRE_CREDIT);
		wire_set(&w, W_WINDOW, cursor_u8(in));
		break;
	case 3:
		wire_start(&w, WIRE_SYNC);
		wire_set(&w, W_ID, 8);
		wire_set(&w, W_LIMIT, 10);
		wire_set(&w, how & 64 ? W_BEFORE : W_CURSOR, cursor_u8(in));
		break;
	case 4:
		wire_start(&w, WIRE_PING);
		wire_set(&w, W_ID, 9);
		break;
	default:
		wire_start(&w, WIRE_AUTH);
		wire_set(&w, W_ID, 2);
		wire_puts(&w, W_TOKEN, "good a11ce 1 1 ffffffffff");
	}
	say(d, &w);
}

static void some_answer(struct world *d, struct cursor *in)
{
	uint8_t which = cursor_u8(in), how = cursor_u8(in);
	struct result r = { .inbox_end = cursor_u8(in), .inbox_oldest = 1,
			    .epoch = 1, .n_devices = how >> 6, .n = 5,
			    .dup = how & 32 };
	int status = outcomes[how % 5];

	if (!d->n_asked)
		return;
	if (how & 16)
		r.status = which % 14;
	answer(d, which % d->n_asked, status, status ? NULL : &r);
}

static void some_of_the_inbox(struct world *d, struct cursor *in)
{
	uint8_t how = cursor_u8(in), n = cursor_u8(in);
	struct result r = { .inbox_end = n, .inbox_oldest = 1 + (how & 3),
			    .cursor = how >> 4, .epoch = 1, .n_devices = 2 };

	if (!d->sub)
		return;
	if (how % 3 == 0 && !d->s.started) {
		d->sub->start(d->sub, &r);
	} else if (how % 3 == 1 && d->s.started) {
		uint64_t from = d->s.next_n, to = from + n % 32;

		/* The reader keeps to the window that it was given. */
		if (to > d->s.acked + d->s.window)
			to = d->s.acked + d->s.window;
		records(d, from, to);
	} else if (how % 3 == 2) {
		sub_end(d, ends[n % 6]);
	}
}

static void step(struct world *d, struct cursor *in)
{
	const uint8_t *p;
	size_t n;

	switch (cursor_u8(in) % 9) {
	case 0:
		p = cursor_lv(in, 4096, &n);
		if (p)
			session_message(&d->s, p, n);
		break;
	case 1:
		hello(d, in);
		break;
	case 2:
	case 3:
		some_frame(d, in);
		break;
	case 4:
		some_answer(d, in);
		break;
	case 5:
		some_of_the_inbox(d, in);
		break;
	case 6:
		pass(d, cursor_u8(in) * 50ull);
		break;
	case 7:
		if (d->s.state != SESSION_CLOSED)
			session_pause(&d->s, cursor_u8(in) & 1);
		break;
	default:
		if (cursor_u8(in) & 1)
			session_drain(&d->s, 7);
		else
			session_abort(&d->s, 1002, "fuzz");
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct world world;
	struct world *d = &world;
	struct cursor in = cursor_of(data, size);
	uint64_t last_n = 0;

	log_set_sink(no_log, NULL);
	open_world(d, cursor_u8(&in));
	while (!in.bad && cursor_left(&in)) {
		step(d, &in);
		check_frames(d, &last_n);
		AN(d->s.n_sends <= SESSION_SENDS_MAX);
		AN(d->s.n_pages <= SESSION_PAGES_MAX);
		AN(!d->code == (d->s.state != SESSION_CLOSED));
		AN(!d->sub == !d->s.subscribed);
		AN(d->s.proposed <= d->s.acked || d->s.barren);
	}
	session_release(&d->s);
	AZ(d->sub);
	AZ(d->env.live);
	/* A last cursor may still be on its way, or be tried again. */
	while (d->route.n_open) {
		while (d->n_asked)
			answer_status(d, 0, ST_OK);
		pass(d, 100);
	}
	AZ(d->route.bytes);
	route_release(&d->route);
	buf_release(&d->scratch);
	buf_release(&d->env.scratch);
	return 0;
}
