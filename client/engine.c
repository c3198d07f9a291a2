/* The device engine's states, deadlines and messages: see quipu.h for the story,
 * impl.h for who does what. */
#include "base/alloc.h"
#include "base/assert.h"
#include "client/impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MS 1000ull
#define HEARTBEAT_S 60 /* until welcome says another */

const char *client_state_name(enum client_state st)
{
	static const char *const name[] = { "idle", "dial", "hello", "catchup",
					    "live", "stopped" };

	return (unsigned)st < sizeof name / sizeof name[0] ? name[st] : "?";
}

/* ---- states --------------------------------------------------------------- */

#define S(st) (1u << CLIENT_##st)
static const uint8_t allowed[] = {
	[CLIENT_IDLE] = S(DIAL) | S(STOPPED),
	[CLIENT_DIAL] = S(HELLO) | S(IDLE) | S(STOPPED),
	[CLIENT_HELLO] = S(CATCHUP) | S(IDLE) | S(STOPPED),
	[CLIENT_CATCHUP] = S(LIVE) | S(IDLE) | S(STOPPED),
	[CLIENT_LIVE] = S(IDLE) | S(STOPPED),
	[CLIENT_STOPPED] = S(IDLE),
};
#undef S

void client_move(struct client *c, enum client_state st, const char *reason)
{
	struct client_event ev = { .type = CLIENT_EV_STATE, .state = st };

	AN(allowed[c->state] >> st & 1);
	c->state = st;
	c->since_us = client_now(c);
	if (reason != c->reason)
		snprintf(c->reason, sizeof c->reason, "%s", reason ? reason : "");
	ev.reason = c->reason[0] ? c->reason : NULL;
	if (c->cfg.event)
		c->cfg.event(c->cfg.arg, &ev);
}

void client_stop(struct client *c, const char *reason)
{
	if (c->state == CLIENT_STOPPED)
		return;
	c->want_close = c->linked;
	client_move(c, CLIENT_STOPPED, reason);
}

void client_store_failed(struct client *c, const struct err *e)
{
	if (c->err.code == 0)
		c->err = *e;
	client_stop(c, "store");
}

void client_drop(struct client *c, unsigned code, const char *reason)
{
	if (c->want_close)
		return;
	c->want_close = true;
	c->drop_code = code;
	snprintf(c->reason, sizeof c->reason, "%s", reason);
}

bool client_sync(struct client *c)
{
	struct err e;

	if (c->err.code)
		return false;
	if (!c->dirty)
		return true;
	if (c->cfg.store->ops->sync(c->cfg.store, &e)) {
		client_store_failed(c, &e);
		return false;
	}
	c->dirty = false;
	c->gen++;
	outbox_synced(c);
	return true;
}

void client_heard_clock(struct client *c, uint64_t lamport, uint64_t stamp)
{
	uint64_t heard = lamport > stamp ? lamport : stamp;

	if (heard >= c->lamport && heard < WIRE_U_MAX)
		c->lamport = heard + 1;
}

/* ---- opening and closing -------------------------------------------------- */

static void load_entry(void *arg, const struct client_entry *e)
{
	outbox_load(arg, e);
}

int client_open(struct client **out, const struct client_config *cfg,
		struct err *e)
{
	struct client_meta m;
	struct client *c;
	unsigned i;
	int rv;

	if (!cfg->token || !cfg->agent || strlen(cfg->agent) > 64 ||
	    strlen(cfg->token) > 2048)
		return err_set(e, ERR_INVALID, "a device needs a token of at most "
			       "2048 bytes and an agent of at most 64");
	if (cfg->n_gateways > CLIENT_GATEWAYS_MAX ||
	    (cfg->n_gateways == 0 && !cfg->message_mode))
		return err_set(e, ERR_INVALID, "a device needs 1 to %u gateways",
			       CLIENT_GATEWAYS_MAX);
	for (i = 0; i < cfg->n_gateways; i++) {
		struct gateway_url u;

		rv = gateway_url_parse(&u, cfg->gateways[i], e);
		if (rv)
			return rv;
	}
	c = xcalloc(1, sizeof *c);
	c->cfg = *cfg;
	c->gen = 1;
	outbox_init(&c->outbox);
	memset(&m, 0, sizeof m);
	rv = cfg->store->ops->load(cfg->store, &m, load_entry, c, e);
	if (rv) {
		outbox_release(&c->outbox);
		free(c);
		return rv;
	}
	if (m.seq > c->outbox.seq)
		c->outbox.seq = m.seq;
	outbox_synced(c);
	c->lamport = m.lamport;
	c->inbox.cursor = c->inbox.end = m.cursor;
	c->inbox.epoch = m.epoch;
	c->inbox.known = m.known;
	c->inbox.window = cfg->window ? cfg->window : CLIENT_WINDOW;
	c->token = xstrdup(cfg->token);
	c->agent = xstrdup(cfg->agent);
	for (i = 0; i < cfg->n_gateways; i++)
		c->gateways[i] = xstrdup(cfg->gateways[i]);
	if (cfg->n_gateways)
		c->gateway = (unsigned)rand_below(cfg->rand, cfg->n_gateways);
	c->dial_us = client_now(c);
	*out = c;
	return 0;
}

void client_free(struct client *c)
{
	unsigned i;

	if (!c)
		return;
	outbox_release(&c->outbox);
	link_release(c);
	for (i = 0; i < c->cfg.n_gateways; i++)
		free(c->gateways[i]);
	free(c->token);
	free(c->agent);
	free(c);
}

void client_close(struct client *c)
{
	if (c->state == CLIENT_STOPPED)
		return;
	if (c->linked && !c->up)
		c->want_close = true;
	c->closing = c->up;
	client_move(c, CLIENT_STOPPED, "closed");
}

void client_resume(struct client *c)
{
	if (c->err.code)
		return; /* the store is of no more use */
	c->attempt = 0;
	c->angry = c->has_retry = false;
	c->dial_us = client_now(c);
	/* An old connection closes first. */
	c->resuming = c->state == CLIENT_STOPPED && c->linked;
	if (c->state == CLIENT_STOPPED && !c->linked)
		client_move(c, CLIENT_IDLE, NULL);
}

void client_set_token(struct client *c, const char *token)
{
	AN(strlen(token) <= 2048);
	free(c->token);
	c->token = xstrdup(token);
	if (c->state == CLIENT_CATCHUP || c->state == CLIENT_LIVE)
		c->auth_due = true;
	else if (c->state == CLIENT_STOPPED && strcmp(c->reason, "token") == 0)
		client_resume(c);
}

/* ---- what the owner asks -------------------------------------------------- */

enum client_state client_state(const struct client *c)
{
	return c->state;
}
const char *client_reason(const struct client *c)
{
	return c->reason;
}
size_t client_outbox_len(const struct client *c)
{
	return c->outbox.n;
}
uint64_t client_cursor(const struct client *c)
{
	return c->inbox.cursor;
}
uint64_t client_lamport(const struct client *c)
{
	return c->lamport;
}
uint64_t client_inbox_end(const struct client *c)
{
	return c->inbox.end;
}
const struct err *client_error(const struct client *c)
{
	return &c->err;
}

/* ---- dialling ------------------------------------------------------------- */

const char *client_wants_dial(struct client *c)
{
	if (c->state != CLIENT_IDLE || c->linked || client_now(c) < c->dial_us)
		return NULL;
	c->linked = true;
	c->connected = c->up = c->want_close = c->close_sent = c->closing = false;
	c->draining = c->hello_due = c->auth_due = false;
	c->ping_due = c->pong_due = false;
	c->ping_us = 0;
	c->code = 0;
	c->drop_code = 1000;
	c->first_id = c->id;
	c->heartbeat_us = HEARTBEAT_S * 1000 * MS;
	client_move(c, CLIENT_DIAL, NULL);
	return c->cfg.n_gateways ? c->gateways[c->gateway] : "";
}

bool client_wants_close(const struct client *c)
{
	return c->linked && c->want_close;
}

bool client_linked(const struct client *c)
{
	return c->linked;
}

void client_upgraded(struct client *c)
{
	c->up = true;
	c->hello_due = true;
	c->heard_us = c->sent_us = client_now(c);
	client_move(c, CLIENT_HELLO, NULL);
}

void client_on_connect(struct client *c)
{
	AN(c->linked && !c->connected);
	c->connected = true;
	if (c->state != CLIENT_DIAL)
		return; /* closed meanwhile */
	c->since_us = client_now(c);
	if (c->cfg.message_mode)
		client_upgraded(c);
	else
		link_start(c);
}

/* protocol.md 11: what a close code asks of the client. */
void client_close_code(struct client *c, unsigned code)
{
	c->code = code;
	if (c->state == CLIENT_STOPPED)
		return;
	if (code == 4401)
		client_stop(c, "token");
	else if (code == 4403)
		client_stop(c, "device-removed");
	else if (code == 4409)
		client_stop(c, "elsewhere");
	else if (code == 1008 || code == 1011)
		c->angry = true;
}

/* random(0, min(60 s, 0.5 s x 2^k)); retry_ms wins. */
static uint64_t backoff_ms(struct client *c)
{
	uint64_t cap = (uint64_t)CLIENT_BACKOFF_MIN_MS
		       << (c->attempt < 16 ? c->attempt : 16);
	uint64_t wait;

	if (cap > CLIENT_BACKOFF_MAX_MS)
		cap = CLIENT_BACKOFF_MAX_MS;
	c->attempt++;
	wait = rand_below(c->cfg.rand, cap + 1);
	if (c->angry)
		wait += CLIENT_ANGRY_MS;
	if (c->has_retry)
		wait = c->retry_ms < CLIENT_BACKOFF_MAX_MS ? c->retry_ms
							   : CLIENT_BACKOFF_MAX_MS;
	c->has_retry = c->angry = false;
	return wait;
}

void client_on_closed(struct client *c, unsigned code)
{
	uint64_t now = client_now(c);
	char why[sizeof c->reason];

	AN(c->linked);
	if (c->state == CLIENT_LIVE &&
	    now - c->since_us >= CLIENT_LIVE_RESET_MS * MS)
		c->attempt = 0;
	if (code && !c->code)
		client_close_code(c, code);
	c->linked = c->connected = c->up = c->want_close = c->closing = false;
	outbox_disconnected(c);
	inbox_disconnected(c);
	link_release(c);
	if (c->state == CLIENT_STOPPED) {
		if (c->resuming && !c->err.code)
			client_move(c, CLIENT_IDLE, NULL);
		c->resuming = false;
		return;
	}
	if (c->reason[0])
		snprintf(why, sizeof why, "%s", c->reason);
	else if (c->code)
		snprintf(why, sizeof why, "close %u", c->code);
	else
		snprintf(why, sizeof why, "connection lost");
	c->dial_us = now + backoff_ms(c) * MS;
	if (c->cfg.n_gateways)
		c->gateway = (c->gateway + 1) % c->cfg.n_gateways;
	client_move(c, CLIENT_IDLE, why);
}

/* ---- messages from the gateway -------------------------------------------- */

static void on_welcome(struct client *c, const struct wire *w)
{
	if (c->state != CLIENT_HELLO || c->hello_due) {
		client_drop(c, 1002, "welcome out of place");
		return;
	}
	if (wire_u(w, W_HEARTBEAT))
		c->heartbeat_us = w->u[W_HEARTBEAT] * 1000 * MS;
	inbox_on_welcome(c, w);
	if (c->state == CLIENT_HELLO)
		client_move(c, CLIENT_CATCHUP, NULL);
}

static void on_goodbye(struct client *c, const struct wire *w)
{
	c->draining = true;
	c->drain_us = client_now(c) + CLIENT_DRAIN_MS * MS;
	c->has_retry = wire_has(w, W_RETRY_MS);
	c->retry_ms = wire_u(w, W_RETRY_MS);
	snprintf(c->reason, sizeof c->reason, "goodbye %u",
		 (unsigned)wire_u(w, W_CODE));
}

/* Of the session, as nobody's request has the id. */
static void on_error(struct client *c, const struct wire *w)
{
	char name[32];

	if (outbox_on_error(c, w) || inbox_on_error(c, w))
		return;
	if (!wire_has(w, W_CODE))
		return;
	wire_problem_name(w, name, sizeof name, NULL);
	client_close_code(c, (unsigned)w->u[W_CODE]);
	client_drop(c, 1000, name);
}

static void take(struct client *c, const struct wire *w)
{
	bool session = c->state == CLIENT_CATCHUP || c->state == CLIENT_LIVE;

	switch (w->u[W_T]) {
	case WIRE_WELCOME:
		on_welcome(c, w);
		break;
	case WIRE_ACK:
		outbox_on_ack(c, w);
		break;
	case WIRE_ERROR:
		on_error(c, w);
		break;
	case WIRE_DELIVER:
		if (session)
			inbox_on_deliver(c, w);
		break;
	case WIRE_PAGE:
		if (session)
			inbox_on_page(c, w);
		break;
	case WIRE_CAUGHT_UP:
		if (c->state == CLIENT_CATCHUP)
			client_move(c, CLIENT_LIVE, NULL);
		break;
	case WIRE_PING:
		c->pong_due = true;
		c->pong_id = wire_u(w, W_ID);
		break;
	case WIRE_GOODBYE:
		if (session)
			on_goodbye(c, w);
		break;
	default: /* pong, ok, hints: being heard is all */
		break;
	}
}

void client_take(struct client *c, const void *p, size_t n)
{
	struct err e;
	int rv;

	if (!c->up || c->want_close)
		return;
	c->heard_us = client_now(c);
	c->ping_us = 0;
	rv = wire_decode(&c->w, WIRE_CBOR, WIRE_SERVER, p, n, NULL, &e);
	if (rv == ERR_NOT_FOUND)
		return; /* a frame of later versions */
	/* Only acks count once we are leaving. */
	if (rv == 0 && c->state == CLIENT_STOPPED && c->w.u[W_T] != WIRE_ACK)
		return;
	if (rv)
		client_drop(c, 1002, "bad frame");
	else
		take(c, &c->w);
}

void client_on_message(struct client *c, const void *p, size_t n)
{
	AN(c->cfg.message_mode);
	client_take(c, p, n);
}

/* ---- messages to the gateway ---------------------------------------------- */

static void hello(struct client *c)
{
	struct wire *w = &c->w;

	wire_start(w, WIRE_HELLO);
	wire_set(w, W_ID, ++c->id);
	wire_puts(w, W_TOKEN, c->token);
	wire_puts(w, W_AGENT, c->agent);
	wire_set(w, W_WINDOW, c->cfg.window ? c->cfg.window : CLIENT_WINDOW);
	if (c->inbox.known) {
		wire_set(w, W_EPOCH, c->inbox.epoch);
		wire_set(w, W_CURSOR, c->inbox.cursor);
	}
}

static void short_frame(struct client *c, enum wire_frame t, uint64_t id)
{
	wire_start(&c->w, t);
	wire_set(&c->w, W_ID, id);
}

/* The most urgent frame that is due, in c->w. */
static bool next_frame(struct client *c)
{
	if (c->hello_due) {
		/* The gateway takes our cursor as what is stored. */
		if (c->state != CLIENT_HELLO || !client_sync(c))
			return false;
		c->hello_due = false;
		hello(c);
		return true;
	}
	if (c->state == CLIENT_HELLO)
		return false;
	if (c->pong_due && !c->closing) {
		c->pong_due = false;
		short_frame(c, WIRE_PONG, c->pong_id);
		return true;
	}
	if (c->auth_due && !c->closing && !c->draining) {
		c->auth_due = false;
		short_frame(c, WIRE_AUTH, ++c->id);
		wire_puts(&c->w, W_TOKEN, c->token);
		return true;
	}
	if (c->ping_due && !c->closing && !c->draining) {
		c->ping_due = false;
		short_frame(c, WIRE_PING, ++c->id);
		return true;
	}
	if (inbox_next(c))
		return true;
	return !c->closing && !c->draining && outbox_next(c);
}

bool client_next_message(struct client *c, struct buf *out)
{
	if (!c->up || c->want_close)
		return false;
	if (c->state == CLIENT_STOPPED && !c->closing)
		return false;
	if (next_frame(c)) {
		wire_encode(&c->w, WIRE_CBOR, out);
		c->sent_us = client_now(c);
		return true;
	}
	/* Nothing is left to say. */
	if (c->closing || (c->draining && outbox_on_wire(c) == 0))
		c->want_close = true;
	return false;
}

/* ---- time ----------------------------------------------------------------- */

static uint64_t at_most(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Either direction was silent for so long: a ping. */
static uint64_t ping_at(const struct client *c)
{
	return at_most(c->heard_us, c->sent_us) + c->heartbeat_us;
}

uint64_t client_deadline_us(const struct client *c)
{
	uint64_t at;

	if (c->state == CLIENT_STOPPED)
		return UINT64_MAX;
	if (c->state == CLIENT_IDLE)
		return c->dial_us;
	if (c->want_close)
		return UINT64_MAX;
	if (c->state < CLIENT_CATCHUP)
		return c->since_us + CLIENT_DIAL_MS * MS;
	at = c->ping_us ? c->ping_us + CLIENT_PONG_MS * MS
			: ping_at(c);
	if (c->draining)
		at = at_most(at, c->drain_us);
	if (c->inbox.recv_us)
		at = at_most(at, c->inbox.recv_us);
	return at_most(at, outbox_deadline(c));
}

void client_tick(struct client *c)
{
	uint64_t now = client_now(c);

	if (c->state == CLIENT_STOPPED || c->state == CLIENT_IDLE || c->want_close)
		return;
	if (c->state < CLIENT_CATCHUP) {
		if (now >= c->since_us + CLIENT_DIAL_MS * MS)
			client_drop(c, 1000, c->state == CLIENT_HELLO ? "no welcome"
				       : c->connected ? "no upgrade"
						      : "no connection");
		return;
	}
	if (c->draining && now >= c->drain_us)
		client_drop(c, 1000, "goodbye");
	if (c->ping_us && now >= c->ping_us + CLIENT_PONG_MS * MS) {
		client_drop(c, 1000, "silence");
	} else if (!c->ping_us && now >= ping_at(c)) {
		c->ping_us = now;
		c->ping_due = true;
	}
	outbox_tick(c);
}
