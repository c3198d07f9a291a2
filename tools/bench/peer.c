/* One device: frames out, frames in. */
#include "base/alloc.h"
#include "base/assert.h"
#include "base/bytes.h"
#include "tools/bench/fleet.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define RECV_DELAY_US 100000 /* a recv waits so long for company */

static void put_message(struct peer *p, const struct wire *w)
{
	struct fleet *f = p->fleet;
	uint8_t mask[4];

	buf_clear(&f->scratch);
	wire_encode(w, WIRE_CBOR, &f->scratch);
	put_u32(mask, (uint32_t)rand_u64(&f->rand));
	ws_frame(&p->out, WS_BINARY, f->scratch.data, f->scratch.len, mask);
	fleet_dirty(p);
}

void peer_hello(struct peer *p)
{
	struct wire w;

	wire_start(&w, WIRE_HELLO);
	wire_set(&w, W_ID, 1);
	wire_puts(&w, W_TOKEN, p->token);
	wire_puts(&w, W_AGENT, "quipu-bench");
	wire_set(&w, W_WINDOW, p->fleet->window);
	wire_set(&w, W_EPOCH, 1);
	wire_set(&w, W_CURSOR, p->cursor);
	put_message(p, &w);
}

static void put_recv(struct peer *p)
{
	struct wire w;

	wire_start(&w, WIRE_RECV);
	wire_set(&w, W_CURSOR, p->cursor);
	put_message(p, &w);
	p->told = p->cursor;
}

void peer_ping(struct peer *p)
{
	struct wire w;

	wire_start(&w, WIRE_PING);
	wire_set(&w, W_ID, 1);
	put_message(p, &w);
}

void peer_sync(struct peer *p, uint64_t id, uint64_t cursor, unsigned limit)
{
	struct wire w;

	wire_start(&w, WIRE_SYNC);
	wire_set(&w, W_ID, id);
	wire_set(&w, W_LIMIT, limit);
	wire_set(&w, W_CURSOR, cursor);
	put_message(p, &w);
}

/* ---- sending --------------------------------------------------------------- */

static void put_send(struct peer *p, struct peer_send *s)
{
	struct wire w;
	uint8_t mid[16];

	memcpy(mid, p->fleet->nonce, 8);
	put_u64(mid + 8, s->tag);
	wire_start(&w, WIRE_SEND);
	wire_set(&w, W_ID, s->seq);
	wire_set(&w, W_SEQ, s->seq);
	wire_set(&w, W_AFTER, s->after);
	wire_set(&w, W_TO, s->to);
	wire_put(&w, W_MID, mid, sizeof mid);
	wire_set(&w, W_SEEN, s->seen);
	wire_set(&w, W_CLASS, 1);
	wire_put(&w, W_BODY, s->body, s->len);
	wire_set(&w, W_LIST, 0);
	put_message(p, &w);
	s->retry_us = 0;
	s->sent_us = p->fleet->now_us;
	s->tries++;
}

bool fleet_tag(const struct fleet *f, struct wire_bytes mid, uint64_t *tag)
{
	if (mid.n != 16 || memcmp(mid.p, f->nonce, 8) != 0)
		return false;
	*tag = get_u64(mid.p + 8);
	return true;
}

uint64_t peer_send(struct peer *p, uint64_t to, uint64_t after, const void *body,
		   uint32_t len, uint64_t tag)
{
	struct peer_send *s = &p->ring[p->next_seq % PEER_SPAN];

	AN(peer_can_send(p));
	AN(!s->open);
	s->open = true;
	s->seq = p->next_seq++;
	s->after = after;
	s->to = to;
	s->seen = p->clock;
	s->start_us = bench_now_us();
	s->tag = tag;
	s->body = body;
	s->len = len;
	s->tries = 0;
	s->retry_us = 0;
	p->n_open++;
	if (p->state >= PEER_CATCHUP)
		put_send(p, s);
	return s->seq;
}

static void hear_clock(struct peer *p, const struct wire *w)
{
	if (wire_u(w, W_LAMPORT) > p->clock)
		p->clock = w->u[W_LAMPORT];
	if (wire_u(w, W_STAMP) > p->clock)
		p->clock = w->u[W_STAMP];
}

static void settle(struct peer *p, struct peer_send *s)
{
	s->open = false;
	p->n_open--;
	while (p->low_seq < p->next_seq &&
	       !p->ring[p->low_seq % PEER_SPAN].open)
		p->low_seq++;
}

static struct peer_send *send_of(struct peer *p, uint64_t seq)
{
	struct peer_send *s = &p->ring[seq % PEER_SPAN];

	return s->open && s->seq == seq ? s : NULL;
}

static void on_ack(struct peer *p, const struct wire *w)
{
	struct peer_send *s = send_of(p, w->u[W_SEQ]);

	hear_clock(p, w);
	if (!s)
		return; /* a second answer to a send that was repeated */
	p->fleet->stats.acks++;
	p->fleet->stats.dups += wire_u(w, W_DUP);
	settle(p, s);
	if (p->fleet->on_ack)
		p->fleet->on_ack(p, s, w);
}

/* What may pass is tried again with the same seq and mid; the rest is a failure
 * that the command reports. */
static void on_error(struct peer *p, const struct wire *w)
{
	static const char *const passing[] = {
		"no-leader", "unavailable", "busy", "mailbox-full", "disk-full",
		"draining", "rate", "too-many-open", "gap", "internal",
	};
	struct fleet *f = p->fleet;
	uint64_t seq = wire_has(w, W_SEQ) ? w->u[W_SEQ] : wire_u(w, W_ID);
	struct peer_send *s = send_of(p, seq);
	unsigned status, i;
	char name[40];

	wire_problem_name(w, name, sizeof name, &status);
	snprintf(f->stats.last_error, sizeof f->stats.last_error,
		 "%s (%u) to seq %" PRIu64 " of %016" PRIx64, name, status, seq,
		 p->account);
	if (!s)
		return; /* of the session; a close follows */
	for (i = 0; i < sizeof passing / sizeof *passing; i++)
		if (strcmp(name, passing[i]) == 0)
			break;
	if (i < sizeof passing / sizeof *passing) {
		f->stats.retries++;
		s->retry_us = f->now_us + FLEET_RETRY_MS * 1000;
		fleet_wake(p, s->retry_us);
		return;
	}
	f->stats.refused++;
	settle(p, s);
	if (f->on_ack)
		f->on_ack(p, s, NULL);
}

/* ---- receiving --------------------------------------------------------------- */

static void on_deliver(struct peer *p, const struct wire *w)
{
	struct fleet *f = p->fleet;

	hear_clock(p, w);
	if (w->u[W_N] <= p->cursor) {
		f->stats.redelivered++;
		return;
	}
	if (w->u[W_N] != p->cursor + 1)
		f->stats.holes++;
	p->cursor = w->u[W_N];
	f->stats.delivered++;
	if (!p->no_recv) {
		if (p->cursor - p->told >= f->window / 4)
			put_recv(p);
		else
			fleet_wake(p, f->now_us + RECV_DELAY_US);
	}
	if (f->on_deliver)
		f->on_deliver(p, w);
}

static void live(struct peer *p)
{
	struct fleet *f = p->fleet;

	if (p->state == PEER_LIVE)
		return;
	p->state = PEER_LIVE;
	p->attempts = 0;
	f->live++;
	f->dialing--;
	if (p->was_live)
		f->stats.reconnects++;
	p->was_live = true;
	if (f->on_live)
		f->on_live(p);
}

static void on_welcome(struct peer *p)
{
	uint64_t seq;

	if (p->state != PEER_HELLO)
		return;
	p->state = PEER_CATCHUP;
	p->told = p->cursor;
	for (seq = p->low_seq; seq < p->next_seq; seq++) {
		struct peer_send *s = &p->ring[seq % PEER_SPAN];

		if (!s->open)
			continue;
		if (s->tries)
			p->fleet->stats.retries++;
		put_send(p, s);
	}
}

void peer_message(struct peer *p, const struct ws_message *m)
{
	struct fleet *f = p->fleet;
	struct err e = { 0, "" };
	struct wire w;
	uint8_t mask[4];
	char why[160];

	switch (m->op) {
	case WS_PING:
		put_u32(mask, (uint32_t)rand_u64(&f->rand));
		ws_frame(&p->out, WS_PONG, m->p, m->n, mask);
		fleet_dirty(p);
		return;
	case WS_CLOSE:
		snprintf(why, sizeof why, "closed by the gateway: %u %.*s",
			 m->code, m->n > 2 && m->n < 120 ? (int)m->n - 2 : 0,
			 m->p + 2);
		peer_lost(p, why);
		return;
	case WS_BINARY:
		break;
	default:
		return;
	}
	if (wire_decode(&w, WIRE_CBOR, WIRE_SERVER, m->p, m->n, NULL, &e)) {
		if (e.code == ERR_NOT_FOUND)
			return; /* an unknown frame: ignored (protocol.md 1) */
		snprintf(why, sizeof why, "not understood: %.100s", e.msg);
		f->stats.refused++;
		peer_lost(p, why);
		return;
	}
	switch (w.u[W_T]) {
	case WIRE_WELCOME:
		on_welcome(p);
		break;
	case WIRE_ACK:
		on_ack(p, &w);
		break;
	case WIRE_DELIVER:
		on_deliver(p, &w);
		break;
	case WIRE_PAGE:
		if (f->on_page)
			f->on_page(p, &w);
		break;
	case WIRE_CAUGHT_UP:
		live(p);
		break;
	case WIRE_ERROR:
		on_error(p, &w);
		break;
	default:
		break;
	}
}

/* Its time came: repeat, say what was received, give up a mute gateway. */
void peer_tick(struct peer *p)
{
	struct fleet *f = p->fleet;
	uint64_t seq, next = UINT64_MAX;

	if (p->state < PEER_CATCHUP)
		return;
	if (p->cursor > p->told && !p->no_recv)
		put_recv(p);
	for (seq = p->low_seq; seq < p->next_seq; seq++) {
		struct peer_send *s = &p->ring[seq % PEER_SPAN];

		if (!s->open || !s->retry_us)
			continue;
		if (s->retry_us <= f->now_us)
			put_send(p, s);
		else if (s->retry_us < next)
			next = s->retry_us;
	}
	if (next != UINT64_MAX)
		fleet_wake(p, next);
}
