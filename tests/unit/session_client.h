/* What a client says to a session, for the tests of the session machine. */
#ifndef QUIPU_TESTS_UNIT_SESSION_CLIENT_H
#define QUIPU_TESTS_UNIT_SESSION_CLIENT_H

#include "tests/unit/session_world.h"

static inline int setup_as(void **state, enum wire_format format)
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

static inline int setup(void **state)
{
	return setup_as(state, WIRE_CBOR);
}

static inline int setup_json(void **state)
{
	return setup_as(state, WIRE_JSON);
}

static inline int teardown(void **state)
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

static inline void token_text(char text[96], uint64_t account, uint32_t device,
		       uint32_t epoch, uint64_t left_s)
{
	snprintf(text, 96, "good %llx %x %x %llx", (unsigned long long)account,
		 device, epoch,
		 (unsigned long long)(the_world->wall_ms / 1000 + left_s));
}

static inline void hello_with(struct world *d, const char *token, uint64_t window,
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

static inline void hello(struct world *d, uint64_t window, uint64_t cursor)
{
	char token[96];

	token_text(token, ANN, 1, 1, 600);
	hello_with(d, token, window, cursor, cursor == NONE ? NONE : 1);
}

/* The shard's word: an inbox of `end` records, `kept` of them acknowledged. */
static inline void start(struct world *d, uint64_t end, uint64_t kept, uint32_t devices)
{
	struct result r = { .inbox_end = end, .inbox_oldest = 1, .cursor = kept,
			    .epoch = 1, .n_devices = devices };

	assert_non_null(d->sub);
	d->sub->start(d->sub, &r);
}

/* Said hello without a cursor, caught up with an empty inbox. */
static inline void live(struct world *d, uint32_t devices)
{
	hello(d, 256, NONE);
	start(d, 0, 0, devices);
	expect(d, WIRE_WELCOME);
	expect(d, WIRE_CAUGHT_UP);
	assert_int_equal(d->s.state, SESSION_LIVE);
}

static inline void recv_to(struct world *d, uint64_t cursor)
{
	struct wire w;

	wire_start(&w, WIRE_RECV);
	wire_set(&w, W_CURSOR, cursor);
	say(d, &w);
}

static inline void send_start(struct wire *w, uint64_t id, uint64_t seq, uint64_t after)
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

static inline void send_one(struct world *d, uint64_t id, uint64_t seq, uint64_t after)
{
	struct wire w;

	send_start(&w, id, seq, after);
	say(d, &w);
}

static inline void ping(struct world *d)
{
	struct wire w;

	wire_start(&w, WIRE_PING);
	wire_set(&w, W_ID, 9);
	say(d, &w);
}

static inline void appended(struct world *d, unsigned i, uint64_t offset, uint64_t n)
{
	struct result r = { .lamport = 1000 + offset, .stamp = 1001 + offset,
			    .offset = offset, .time_ms = 123456, .n = n,
			    .shard = d->asked[i].shard };

	answer(d, i, 0, &r);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
/* The same words in JSON. */
#define J(f) { #f " in JSON", f, setup_json, teardown, NULL }

#endif
