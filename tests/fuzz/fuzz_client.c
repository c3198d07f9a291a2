/* The device engine between a gateway that says anything, a connection that breaks
 * and a process that dies.  The input is a script: one byte of what to do, then its
 * arguments.  Held after each step:
 *   - a number is used for one message id only, and is in the store before it is
 *     on the wire; numbers on the wire span less than CLIENT_SPAN;
 *   - what is acknowledged, and the cursor in hello, is in the store;
 *   - records come in order, each once in a life; a send is settled once;
 *   - the engine never asks for time that has passed without using it up. */
#include "base/assert.h"
#include "base/cursor.h"
#include "tests/lib/device_world.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SEQS 512

struct play {
	struct device_world d;
	struct cursor in;
	uint8_t mid[SEQS][16];
	bool used[SEQS], settled[SEQS];
	uint64_t last_n;  /* given to the owner */
	bool restarted;   /* the cursor was set by the gateway */
	struct wire send; /* the last one taken */
	bool has_send;
};

static void events(struct play *p)
{
	struct device_world *d = &p->d;
	size_t i;

	for (i = 0; i < d->n_events; i++) {
		const struct device_event *ev = &d->events[i];

		if (ev->type == CLIENT_EV_RECORD) {
			AN(ev->n > p->last_n || p->restarted);
			p->restarted = false;
			p->last_n = ev->n;
		} else if (ev->type == CLIENT_EV_HOLE) {
			AN(ev->from <= ev->to);
		} else if (ev->type == CLIENT_EV_SETTLED && ev->seq < SEQS) {
			AN(p->used[ev->seq] && !p->settled[ev->seq]);
			AN(memcmp(p->mid[ev->seq], ev->mid, 16) == 0);
			p->settled[ev->seq] = true;
		}
	}
	d->n_events = 0;
}

static bool in_store(const struct play *p, uint64_t seq)
{
	return map_get(&p->d.mem.state.entries, seq) != NULL;
}

static void check_send(struct play *p, const struct wire *w)
{
	uint64_t seq = w->u[W_SEQ], low = 1;

	AN(seq > 0 && seq <= p->d.mem.state.meta.seq && in_store(p, seq));
	AN(w->u[W_AFTER] < seq);
	if (seq >= SEQS)
		return;
	AN(!p->settled[seq]);
	AN(!p->used[seq] || memcmp(p->mid[seq], w->b[W_MID].p, 16) == 0);
	p->used[seq] = true;
	memcpy(p->mid[seq], w->b[W_MID].p, 16);
	/* A crash brings back at most what a shard still knows. */
	while (low < seq && !in_store(p, low))
		low++;
	AN(seq - low < CLIENT_SPAN);
}

static void drain(struct play *p)
{
	struct device_world *d = &p->d;
	unsigned n = 0;

	while (device_take(d)) {
		uint64_t durable = d->mem.state.meta.cursor;

		AN(n++ < 4 * CLIENT_SPAN);
		if (d->w.u[W_T] == WIRE_SEND) {
			check_send(p, &d->w);
			p->send = d->w;
			p->has_send = true;
		} else if (d->w.u[W_T] == WIRE_RECV) {
			AN(d->w.u[W_CURSOR] <= durable);
		} else if (d->w.u[W_T] == WIRE_HELLO && wire_has(&d->w, W_CURSOR)) {
			AN(d->w.u[W_CURSOR] == durable);
		}
	}
	events(p);
}

/* The owner's part, as os_uv does it. */
static void look_after(struct play *p)
{
	struct client *c = p->d.client;

	if (client_state(c) >= CLIENT_HELLO)
		drain(p);
	if (client_wants_close(c)) {
		client_on_closed(c, 0);
		AN(!client_linked(c) && !client_wants_close(c));
	}
	if (client_wants_dial(c))
		client_on_connect(c);
	if (client_state(c) >= CLIENT_HELLO)
		drain(p);
	events(p);
}

static void pass(struct play *p, uint64_t ms)
{
	struct client *c = p->d.client;
	unsigned i;

	p->d.now_us += ms * 1000;
	for (i = 0; client_deadline_us(c) <= p->d.now_us; i++) {
		AN(i < 16);
		client_tick(c);
		look_after(p);
	}
}

static void crash(struct play *p, size_t survive)
{
	client_free(p->d.client);
	store_mem_crash(&p->d.mem, survive);
	memset(p->settled, 0, sizeof p->settled);
	p->d.n_events = 0;
	device_open(&p->d);
	/* A number that was not durable was on no wire: it is free again. */
	p->last_n = client_cursor(p->d.client);
	p->has_send = false;
}

static void welcome(struct play *p)
{
	static const char *const reason[] = { "new", "epoch", "rollback", "ahead" };
	uint8_t how = cursor_u8(&p->in);
	bool hello = client_state(p->d.client) == CLIENT_HELLO;

	p->d.w.u[W_ID] = 1;
	if (hello && !(how & 1))
		p->restarted = true;
	say_welcome(&p->d, how & 1, reason[how >> 1 & 3], cursor_u8(&p->in));
}

static void raw(struct play *p)
{
	size_t n = cursor_u8(&p->in), left = cursor_left(&p->in);
	const uint8_t *b = cursor_bytes(&p->in, n < left ? n : left);

	/* Its welcome may say any place. */
	p->restarted = true;
	client_on_message(p->d.client, b, n < left ? n : left);
}

static void error(struct play *p)
{
	static const char *const name[] = { "unavailable", "gap", "seq-conflict",
					    "unknown-recipient", "forbidden", "rate",
					    "settled", "internal" };
	static const unsigned status[] = { 503, 409, 409, 404, 403, 429, 409, 500 };
	uint8_t how = cursor_u8(&p->in);

	if (p->has_send)
		say_error(&p->d, how & 128 ? NULL : &p->send, name[how & 7],
			  status[how & 7], how & 64 ? 4401 : 0);
}

static void step(struct play *p)
{
	struct device_world *d = &p->d;
	struct client *c = d->client;
	uint8_t what = cursor_u8(&p->in);

	switch (what & 15) {
	case 0:
	case 1: /* a destination of three; the text is longer now and then */
		if (client_outbox_len(c) < 100)
			device_send(d, 1 + cursor_u8(&p->in) % 3, "text");
		break;
	case 2:
		say_ack(d, cursor_u8(&p->in), cursor_u8(&p->in), what & 16);
		break;
	case 3:
		if (p->has_send)
			say_ack(d, p->send.u[W_SEQ], what, what & 16);
		break;
	case 4:
		say_deliver(d, cursor_u8(&p->in), cursor_u8(&p->in));
		break;
	case 5:
		say_deliver(d, client_cursor(c) + 1, what);
		break;
	case 6:
		welcome(p);
		break;
	case 7:
		error(p);
		break;
	case 8:
		pass(p, cursor_u8(&p->in));
		break;
	case 9:
		pass(p, 250ull * cursor_u8(&p->in));
		break;
	case 10:
		crash(p, cursor_u8(&p->in));
		break;
	case 11:
		if (client_linked(c))
			client_on_closed(c, cursor_u16(&p->in));
		break;
	case 12:
		say_goodbye(d, 1012, cursor_u16(&p->in));
		break;
	case 13:
		client_resume(c);
		break;
	case 14:
		raw(p);
		break;
	case 15:
		if (what & 16)
			client_close(c);
		else if (what & 32)
			client_set_token(c, "another");
		else if (what & 64)
			client_fetch(c, cursor_u8(&p->in), cursor_u8(&p->in), 5, NULL);
		else
			say_id(d, what & 128 ? WIRE_PING : WIRE_PONG, 5);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct play *p = calloc(1, sizeof *p);

	AN(p);
	device_world_init(&p->d, 1);
	device_open(&p->d);
	p->in = cursor_of(data, size < 4096 ? size : 4096);
	while (!p->in.bad && cursor_left(&p->in)) {
		step(p);
		look_after(p);
	}
	device_world_release(&p->d);
	free(p);
	return 0;
}
