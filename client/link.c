/* Bytes of a connection around the engine's messages: the upgrade, then WebSocket
 * frames, masked as RFC 6455 asks of clients. */
#include "base/alloc.h"
#include "base/assert.h"
#include "client/impl.h"

#include <stdio.h>
#include <string.h>

void link_start(struct client *c)
{
	struct gateway_url u;

	AZ(gateway_url_parse(&u, c->gateways[c->gateway], NULL));
	upgrade_init(&c->upgrade);
	ws_reader_init(&c->ws, false, CLIENT_MESSAGE_MAX);
	upgrade_request(&c->upgrade, u.authority, WIRE_SUBPROTOCOL_CBOR,
			c->cfg.rand, &c->out);
}

/* Also of one that never started. */
void link_release(struct client *c)
{
	upgrade_release(&c->upgrade);
	ws_reader_release(&c->ws);
	buf_release(&c->out);
	buf_release(&c->msg);
}

static void mask(struct client *c, uint8_t m[4])
{
	rand_fill(c->cfg.rand, m, 4);
}

static void close_frame(struct client *c, unsigned code)
{
	uint8_t m[4];

	if (c->close_sent || !c->up)
		return;
	c->close_sent = true;
	mask(c, m);
	ws_close_frame(&c->out, code, "", m);
}

/* ---- in ------------------------------------------------------------------- */

static void on_ws(struct client *c, const struct ws_message *m)
{
	uint8_t k[4];

	switch (m->op) {
	case WS_BINARY:
		client_take(c, m->p, m->n);
		break;
	case WS_TEXT:
		client_drop(c, 1003, "text message");
		break;
	case WS_PING:
		/* At most one waits to be written: the peer's flood is its own. */
		if (c->out.len < CLIENT_MESSAGE_MAX) {
			mask(c, k);
			ws_frame(&c->out, WS_PONG, m->p, m->n, k);
		}
		break;
	case WS_CLOSE:
		client_close_code(c, m->code);
		close_frame(c, m->code == 1005 ? 1000 : m->code);
		c->want_close = true;
		break;
	default:
		break;
	}
}

/* Frames of a server are not masked, so ws_read() writes nothing to them. */
static void read_frames(struct client *c, const void *bytes, size_t n)
{
	uint8_t *p = (uint8_t *)(uintptr_t)bytes;
	struct ws_message m;
	const char *why = "?";
	unsigned code = 0;
	int rv;

	while (!c->want_close && (rv = ws_read(&c->ws, &p, &n, &m, &code, &why)) != 0) {
		if (rv < 0) {
			client_drop(c, code, why);
			return;
		}
		on_ws(c, &m);
	}
}

static void read_answer(struct client *c, const uint8_t *p, size_t n)
{
	struct err e;
	size_t used = 0;
	int rv = upgrade_feed(&c->upgrade, p, n, &used, WIRE_SUBPROTOCOL_CBOR, &e);

	if (rv == 0)
		return;
	if (rv < 0) {
		if (c->upgrade.retry_s) {
			c->has_retry = true;
			c->retry_ms = c->upgrade.retry_s * 1000;
		}
		client_drop(c, 1000, e.msg);
		return;
	}
	client_upgraded(c);
	read_frames(c, p + used, n - used);
}

void client_on_bytes(struct client *c, const void *p, size_t n)
{
	AN(!c->cfg.message_mode && c->connected);
	if (c->want_close)
		return;
	if (!c->up) {
		if (c->state == CLIENT_DIAL)
			read_answer(c, p, n);
		return;
	}
	read_frames(c, p, n);
}

/* ---- out ------------------------------------------------------------------ */

void client_output(struct client *c, struct buf *out)
{
	uint8_t m[4];

	AN(!c->cfg.message_mode);
	if (!c->connected)
		return;
	while (buf_clear(&c->msg), client_next_message(c, &c->msg)) {
		mask(c, m);
		ws_frame(&c->out, WS_BINARY, c->msg.data, c->msg.len, m);
	}
	if (c->want_close)
		close_frame(c, c->drop_code);
	buf_put(out, c->out.data, c->out.len);
	buf_clear(&c->out);
	/* An idle device keeps no buffers. */
	if (c->out.cap > 4096)
		buf_release(&c->out);
	if (c->msg.cap > 4096)
		buf_release(&c->msg);
}
