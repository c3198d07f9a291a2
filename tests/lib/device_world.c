#include "base/alloc.h"
#include "base/assert.h"
#include "tests/lib/device_world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t mono(struct clock *c)
{
	return ((struct device_world *)c)->now_us;
}

static uint64_t wall(struct clock *c)
{
	return 1700000000000ull + ((struct device_world *)c)->now_us / 1000;
}

static void on_event(void *arg, const struct client_event *ev)
{
	struct device_world *d = arg;
	struct device_event *o;

	if (d->n_events == d->cap_events) {
		d->cap_events = d->cap_events ? 2 * d->cap_events : 16;
		d->events = xrealloc(d->events, d->cap_events * sizeof *d->events);
	}
	o = &d->events[d->n_events++];
	memset(o, 0, sizeof *o);
	o->type = ev->type;
	o->state = ev->state;
	o->from = ev->from;
	o->to = ev->to;
	o->n_records = ev->n_records;
	if (ev->reason)
		snprintf(o->reason, sizeof o->reason, "%s", ev->reason);
	if (ev->record) {
		o->n = ev->record->n;
		memcpy(o->mid, ev->record->mid, 16);
	}
	if (ev->settled) {
		o->seq = ev->settled->seq;
		o->outcome = ev->settled->outcome;
		o->dup = ev->settled->dup;
		memcpy(o->mid, ev->settled->mid, 16);
		if (ev->settled->problem)
			snprintf(o->reason, sizeof o->reason, "%s",
				 ev->settled->problem);
	}
}

void device_world_init(struct device_world *d, uint64_t seed)
{
	memset(d, 0, sizeof *d);
	d->clock.mono_us = mono;
	d->clock.wall_ms = wall;
	d->now_us = 1000000;
	rand_seeded(&d->rand, seed);
	store_mem_init(&d->mem);
}

void device_world_release(struct device_world *d)
{
	client_free(d->client);
	store_mem_release(&d->mem);
	buf_release(&d->message);
	free(d->events);
}

void device_open(struct device_world *d)
{
	static const char *const gateways[] = { "ws://a.example:1", "ws://b.example:2" };
	struct client_config cfg = {
		.account = 7, .device = 1, .token = "token", .agent = "test/1",
		.message_mode = !d->bytes, .clock = &d->clock, .rand = &d->rand,
		.store = &d->mem.store, .event = on_event, .arg = d,
		.gateways = gateways, .n_gateways = d->bytes ? 2 : 0,
	};

	AZ(client_open(&d->client, &cfg, NULL));
}

void device_crash(struct device_world *d, size_t survive)
{
	client_free(d->client);
	store_mem_crash(&d->mem, survive);
	device_open(d);
}

void device_pass(struct device_world *d, uint64_t ms)
{
	d->now_us += ms * 1000;
	client_tick(d->client);
}

void device_connect(struct device_world *d)
{
	if (client_deadline_us(d->client) > d->now_us)
		d->now_us = client_deadline_us(d->client);
	AN(client_wants_dial(d->client));
	client_on_connect(d->client);
}

void device_live(struct device_world *d)
{
	struct wire w;

	device_connect(d);
	device_expect(d, WIRE_HELLO);
	say_welcome(d, wire_has(&d->w, W_CURSOR), "new", client_cursor(d->client));
	wire_start(&w, WIRE_CAUGHT_UP);
	wire_set(&w, W_N, client_cursor(d->client));
	say(d, &w);
	AN(client_state(d->client) == CLIENT_LIVE);
}

void device_lose(struct device_world *d)
{
	client_on_closed(d->client, 0);
}

bool device_take(struct device_world *d)
{
	struct err e;

	buf_clear(&d->message);
	if (!client_next_message(d->client, &d->message))
		return false;
	AZ(wire_decode(&d->w, WIRE_CBOR, WIRE_CLIENT, d->message.data,
		       d->message.len, NULL, &e));
	return true;
}

void device_expect(struct device_world *d, enum wire_frame t)
{
	AN(device_take(d));
	if (d->w.u[W_T] != t) {
		fprintf(stderr, "expected %s, came %s\n", wire_frame_name(t),
			wire_frame_name((unsigned)d->w.u[W_T]));
		WRONG("another frame");
	}
}

void device_expect_nothing(struct device_world *d)
{
	if (device_take(d)) {
		fprintf(stderr, "came %s\n",
			wire_frame_name((unsigned)d->w.u[W_T]));
		WRONG("a frame");
	}
}

uint64_t device_send(struct device_world *d, uint64_t to, const char *text)
{
	struct client_draft draft = { .to = to, .cls = 1, .body = text,
				      .body_len = strlen(text) };
	uint64_t seq = 0;

	AZ(client_send(d->client, &draft, &seq, NULL));
	return seq;
}

/* ---- the gateway ---------------------------------------------------------- */

void say(struct device_world *d, struct wire *w)
{
	struct buf b = BUF_INIT;

	wire_encode(w, WIRE_CBOR, &b);
	client_on_message(d->client, b.data, b.len);
	buf_release(&b);
}

void say_welcome(struct device_world *d, bool resumed, const char *reason,
		 uint64_t n)
{
	struct buf limits = BUF_INIT;
	struct wire w;

	wire_make_limits(&limits, NULL, 0);
	wire_start(&w, WIRE_WELCOME);
	wire_set(&w, W_ID, d->w.u[W_ID]);
	wire_put(&w, W_SESSION, "0123456789abcdef", 16);
	wire_set(&w, W_EPOCH, 1);
	wire_set(&w, W_N, n);
	wire_set(&w, W_RESUMED, resumed);
	wire_set(&w, W_HEARTBEAT, 60);
	wire_set(&w, W_WINDOW, 8);
	wire_put(&w, W_LIMITS, limits.data, limits.len);
	wire_set(&w, W_TIME, 1);
	if (!resumed) {
		wire_puts(&w, W_REASON, reason);
		wire_set(&w, W_CURSOR, n);
	}
	say(d, &w);
	buf_release(&limits);
}

void say_ack(struct device_world *d, uint64_t seq, uint64_t lamport, bool dup)
{
	struct wire w;

	wire_start(&w, WIRE_ACK);
	wire_set(&w, W_ID, 1);
	wire_set(&w, W_SEQ, seq);
	wire_set(&w, W_LAMPORT, lamport);
	wire_set(&w, W_STAMP, lamport);
	wire_set(&w, W_SHARD, 3);
	wire_set(&w, W_OFFSET, 100 + seq);
	wire_set(&w, W_TIME, 5);
	if (dup)
		wire_set(&w, W_DUP, 1);
	say(d, &w);
}

void say_deliver(struct device_world *d, uint64_t n, uint64_t lamport)
{
	uint8_t mid[16] = { 0 };
	struct wire w;

	memcpy(mid, &n, sizeof n);
	wire_start(&w, WIRE_DELIVER);
	wire_set(&w, W_N, n);
	wire_set(&w, W_FROM, 9);
	wire_set(&w, W_DEV, 1);
	wire_set(&w, W_SEQ, n);
	wire_put(&w, W_MID, mid, 16);
	wire_set(&w, W_LAMPORT, lamport);
	wire_set(&w, W_STAMP, lamport);
	wire_set(&w, W_TIME, 5);
	wire_set(&w, W_CLASS, 1);
	wire_set(&w, W_FLAGS, 0);
	wire_put(&w, W_BODY, "hello", 5);
	say(d, &w);
}

void say_error(struct device_world *d, const struct wire *send, const char *name,
	       unsigned status, unsigned code)
{
	say_error_retry(d, send, name, status, code, 0);
}

void say_error_retry(struct device_world *d, const struct wire *send,
		     const char *name, unsigned status, unsigned code,
		     uint64_t retry_ms)
{
	struct wire_problem p = { .type = name, .title = "t", .status = status };
	struct buf b = BUF_INIT;
	struct wire w;

	wire_make_problem(&b, &p);
	wire_start(&w, WIRE_ERROR);
	wire_put(&w, W_PROBLEM, b.data, b.len);
	if (send) {
		wire_set(&w, W_ID, send->u[W_ID]);
		if (wire_has(send, W_SEQ))
			wire_set(&w, W_SEQ, send->u[W_SEQ]);
	}
	if (code)
		wire_set(&w, W_CODE, code);
	if (retry_ms)
		wire_set(&w, W_RETRY_MS, retry_ms);
	say(d, &w);
	buf_release(&b);
}

void say_goodbye(struct device_world *d, unsigned code, uint64_t retry_ms)
{
	struct wire w;

	wire_start(&w, WIRE_GOODBYE);
	wire_set(&w, W_CODE, code);
	wire_set(&w, W_RETRY_MS, retry_ms);
	say(d, &w);
}

void say_id(struct device_world *d, enum wire_frame t, uint64_t id)
{
	struct wire w;

	wire_start(&w, t);
	wire_set(&w, W_ID, id);
	say(d, &w);
}

/* ---- what the owner heard ------------------------------------------------- */

const struct device_event *device_last(const struct device_world *d,
				       enum client_event_type type)
{
	size_t i;

	for (i = d->n_events; i--;)
		if (d->events[i].type == type)
			return &d->events[i];
	return NULL;
}

size_t device_count(const struct device_world *d, enum client_event_type type)
{
	size_t i, n = 0;

	for (i = 0; i < d->n_events; i++)
		n += d->events[i].type == type;
	return n;
}
