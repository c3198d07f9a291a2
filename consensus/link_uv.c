/* One connection of a link: see link.c for the story. */
#include "base/alloc.h"
#include "base/assert.h"
#include "base/bytes.h"
#include "base/logf.h"
#include "base/metric.h"
#include "consensus/link_uv.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEEP_PLAIN (1u << 20) /* of an empty read buffer; more is given back */
#define BURST (1u << 20)      /* bytes encrypted ahead of the socket */

/* ---- the end of a connection ---------------------------------------------- */

void link_conn_put(struct link_conn *c)
{
	struct link_net *l = c->net;

	if (c->tcp_open || c->resolving)
		return;
	list_remove(&c->link);
	tls_free(c->tls);
	buf_release(&c->plain);
	buf_release(&c->out);
	buf_release(&c->fly);
	free(c);
	link_net_put(l);
}

static void on_conn_closed(uv_handle_t *h)
{
	struct link_conn *c = h->data;

	c->tcp_open = false;
	link_conn_put(c);
}

static void redial_later(struct link_peer *p)
{
	struct link_net *l = p->dial->net;
	uint64_t half;

	p->retry_ms = p->retry_ms ? 2 * p->retry_ms : LINK_RETRY_MIN_MS;
	if (p->retry_ms > LINK_RETRY_MAX_MS)
		p->retry_ms = LINK_RETRY_MAX_MS;
	half = p->retry_ms / 2;
	p->dial_at_ms = uv_now(l->loop) + half + rand_below(l->rand, half + 1);
}

/* The only way out.  A link that was up is told of to the owner. */
void link_conn_close(struct link_conn *c)
{
	struct link_net *l = c->net;
	struct link_peer *p = c->peer;
	enum state was = c->state;

	if (was == CLOSED)
		return;
	c->state = CLOSED;
	AN(p || (!c->dialed && was != UP));
	if (!c->dialed && was < UP)
		l->n_accepting--;
	if (c->dialed && !l->closing && !p->dropped) {
		AN(p->dial == c);
		/* One that lasted starts the waits anew. */
		if (was == UP && uv_now(l->loop) - p->stats.up_since_ms > 1000)
			p->retry_ms = 0;
		redial_later(p);
	}
	if (c->dialed)
		p->dial = NULL;
	if (c->resolving)
		uv_cancel((uv_req_t *)&c->gai);
	if (was == UP) {
		p->conn = NULL;
		p->stats.up = false;
		link_queue_clear(&p->queue);
	}
	uv_close((uv_handle_t *)&c->tcp, on_conn_closed);
	if (was == UP && !l->closing && l->net.on_down)
		l->net.on_down(l->net.arg, p->id);
	if (p && p->dropped)
		link_peer_gone(p);
}

static void log_failure(const struct link_conn *c, const struct link_peer *p,
			const struct err *e, bool again)
{
	if (c->disk == REFUSED_HERE)
		log_event(again ? LOG_DEBUG : LOG_WARN, "peer_disk_refused",
			  "peer=%" PRIu64 " addr=%s why=%s", p->id, c->from,
			  log_quote(e->msg));
	else if (c->disk == REFUSED_THERE)
		log_event(again ? LOG_DEBUG : LOG_ERROR, "disk_refused",
			  "peer=%" PRIu64 " addr=%s why=%s", p->id, c->from,
			  log_quote(e->msg));
	else
		log_event(again ? LOG_DEBUG : LOG_WARN,
			  c->state == UP ? "link_down" : "link_failed",
			  "peer=%" PRIu64 " addr=%s err=%s why=%s", p->id,
			  c->from, err_name(e->code), log_quote(e->msg));
}

/* Close and say why.  The same trouble of a peer is a warning once, then only
 * of interest to who debugs; strangers fill the log at one line a second. */
void link_conn_fail(struct link_conn *c, const struct err *e)
{
	struct link_net *l = c->net;
	struct link_peer *p = c->peer ? c->peer : c->from_peer;
	uint64_t now = uv_now(l->loop);

	if (c->state == CLOSED || l->closing)
		return;
	if (!c->peer)
		metric_add(M_LINK_REFUSED, 1);
	if (!p) {
		l->refusals++;
		if (l->refusals == 1 || now - l->refusal_log_ms >= 1000) {
			log_event(LOG_WARN, "link_refused",
				  "from=%s refused=%" PRIu64 " err=%s why=%s",
				  c->from, l->refusals, err_name(e->code),
				  log_quote(e->msg));
			l->refusal_log_ms = now;
		}
	} else {
		bool again = c->state < UP &&
			     strncmp(p->stats.last_error, e->msg,
				     sizeof p->stats.last_error - 1) == 0;

		log_failure(c, p, e, again);
		p->stats.refused_here = c->disk == REFUSED_HERE;
		/* That it does not answer is no change of mind. */
		if (c->disk == REFUSED_THERE || c->state >= HELLO)
			p->stats.refused_there = c->disk == REFUSED_THERE;
		if (!p->stats.refused_there || c->disk == REFUSED_THERE)
			snprintf(p->stats.last_error,
				 sizeof p->stats.last_error, "%.159s", e->msg);
	}
	link_conn_close(c);
}

/* As link_conn_fail(), from inside a call of the owner. */
void link_conn_break(struct link_conn *c, const struct err *e)
{
	if (c->broken || c->state == CLOSED)
		return;
	c->broken = true;
	c->why = *e;
	uv_async_send(&c->net->async);
}

/* ---- writing -------------------------------------------------------------- */

/* Move up to BURST bytes of the peer's queue to `out`, in full records where
 * there is enough.  Small pieces are gathered, large ones are encrypted from
 * where they lie. */
static int gather(struct link_conn *c, struct err *e)
{
	struct link_queue *q = &c->peer->queue;
	size_t start = c->out.len, staged = 0, n, k;
	uint8_t *stage = c->net->stage;
	const uint8_t *p;
	int rv = 0;

	while (!rv && c->out.len - start < BURST &&
	       link_queue_peek(q, &p, &n)) {
		if (!c->tls) {
			k = n < BURST ? n : BURST;
			buf_put(&c->out, p, k);
		} else if (staged == 0 && n >= TLS_RECORD_MAX) {
			k = n < BURST ? n - n % TLS_RECORD_MAX : BURST;
			rv = tls_write(c->tls, p, k, &c->out, e);
		} else {
			k = TLS_RECORD_MAX - staged;
			k = n < k ? n : k;
			memcpy(stage + staged, p, k);
			staged += k;
			if (staged == TLS_RECORD_MAX) {
				rv = tls_write(c->tls, stage, staged, &c->out,
					       e);
				staged = 0;
			}
		}
		link_queue_take(q, k);
	}
	if (!rv && staged)
		rv = tls_write(c->tls, stage, staged, &c->out, e);
	return rv;
}

static void on_written(uv_write_t *req, int status)
{
	struct link_conn *c = req->data;

	c->writing = false;
	if (c->state == CLOSED)
		return;
	if (status < 0) {
		struct err e;

		err_set(&e, ERR_CLOSED, "write: %s", uv_strerror(status));
		link_conn_fail(c, &e);
		return;
	}
	buf_clear(&c->fly);
	c->fly_at = 0;
	link_conn_flush(c);
}

/* What the socket did not take stays with libuv; `out` is free for more. */
static void conn_write_rest(struct link_conn *c)
{
	struct buf taken = c->fly;
	uv_buf_t b;
	int rv;

	c->fly = c->out;
	c->fly_at = c->out_at;
	buf_clear(&taken);
	c->out = taken;
	c->out_at = 0;
	b = uv_buf_init((char *)c->fly.data + c->fly_at,
			(unsigned)(c->fly.len - c->fly_at));
	c->wreq.data = c;
	rv = uv_write(&c->wreq, (uv_stream_t *)&c->tcp, &b, 1, on_written);
	if (rv < 0) {
		struct err e;

		err_set(&e, ERR_CLOSED, "write: %s", uv_strerror(rv));
		link_conn_break(c, &e);
		return;
	}
	c->writing = true;
}

/* All that can go now: what is in `out` first, then the queue.  One write for
 * each BURST; what the socket does not take waits with libuv. */
void link_conn_flush(struct link_conn *c)
{
	struct err e = { 0, "" };
	uv_buf_t b;
	int n;

	while (!c->writing && !c->broken && c->state != CLOSED) {
		if (c->state == UP && gather(c, &e)) {
			link_conn_break(c, &e);
			return;
		}
		if (c->out.len == c->out_at)
			break;
		b = uv_buf_init((char *)c->out.data + c->out_at,
				(unsigned)(c->out.len - c->out_at));
		n = uv_try_write((uv_stream_t *)&c->tcp, &b, 1);
		if (n < 0 && n != UV_EAGAIN) {
			err_set(&e, ERR_CLOSED, "write: %s", uv_strerror(n));
			link_conn_break(c, &e);
			return;
		}
		c->tx_ms = uv_now(c->net->loop);
		metric_add(M_LINK_WRITES, 1);
		if (c->peer)
			c->peer->stats.writes++;
		if (n > 0)
			c->out_at += (size_t)n;
		if (c->out_at < c->out.len) {
			conn_write_rest(c);
			return;
		}
		buf_clear(&c->out);
		c->out_at = 0;
	}
	if (!c->writing && c->out.len == 0 && c->out.cap > 2 * BURST)
		buf_release(&c->out);
	if (!c->writing && c->fly.cap > 2 * BURST)
		buf_release(&c->fly);
}

/* ---- hello ---------------------------------------------------------------- */

static int check_name(const struct link_conn *c, uint64_t id, struct err *e)
{
	char expected[TLS_NAME_MAX];

	if (!c->tls)
		return 0;
	link_node_name(c->net, id, expected);
	if (strcmp(c->name, expected) != 0)
		return err_set(e, ERR_TLS, "the peer's certificate is for %s, "
			       "not for %s", c->name, expected);
	return 0;
}

/* Handshake frames go straight to `out`, before anything of the queue. */
static int put_frame(struct link_conn *c, const struct buf *frame, struct err *e)
{
	if (c->tls)
		return tls_write(c->tls, frame->data, frame->len, &c->out, e);
	buf_put(&c->out, frame->data, frame->len);
	return 0;
}

static int say_hello(struct link_conn *c, uint64_t to, struct err *e)
{
	struct link_net *l = c->net;
	struct link_hello h = { .version = (uint16_t)c->version,
				.from = l->self,
				.to = to,
				.boot = l->boot,
				.joined = l->joined,
				.founders = l->founders,
				.shards = l->shards };
	struct buf frame = BUF_INIT;
	int rv;

	memcpy(h.cluster_id, l->cluster_id, sizeof h.cluster_id);
	memcpy(h.disk_id, l->disk_id, sizeof h.disk_id);
	link_hello_put(&frame, &h);
	rv = put_frame(c, &frame, e);
	buf_release(&frame);
	return rv;
}

static int say_welcome(struct link_conn *c, struct err *e)
{
	struct buf frame = BUF_INIT;
	int rv;

	link_welcome_put(&frame);
	rv = put_frame(c, &frame, e);
	buf_release(&frame);
	return rv;
}

/* Once, as far as the socket takes it. */
static void say_no(struct link_conn *c, const struct err *why)
{
	struct buf frame = BUF_INIT;
	struct err drop;

	link_refusal_put(&frame, c->disk == REFUSED_HERE &&
				 c->version > LINK_VERSION_OLD, why->msg);
	if (put_frame(c, &frame, &drop) == 0)
		link_conn_flush(c);
	buf_release(&frame);
}

static void conn_up(struct link_conn *c, struct link_peer *p, uint64_t boot)
{
	struct link_net *l = c->net;

	if (p->conn) {
		/* The dialer would not be here if it had not given up the old
		 * one, whose end has not been heard of. */
		struct err e;

		err_set(&e, ERR_CLOSED, "the peer connected anew%s",
			p->boot == boot ? "" : " after a restart");
		link_conn_fail(p->conn, &e);
		if (c->state == CLOSED || l->closing)
			return;
	}
	if (!c->dialed)
		l->n_accepting--;
	c->peer = p;
	c->from_peer = NULL;
	c->state = UP;
	c->deadline_ms = UINT64_MAX;
	p->conn = c;
	p->boot = boot;
	p->attempts = 0;
	p->stats.up = true;
	p->stats.refused_here = p->stats.refused_there = false;
	p->stats.up_since_ms = uv_now(l->loop);
	p->stats.ups++;
	p->stats.last_error[0] = 0;
	l->refusals = 0;
	metric_add(M_LINK_UPS, 1);
	log_event(LOG_INFO, "link_up", "peer=%" PRIu64 " addr=%s tls=%s", p->id,
		  c->from, c->tls ? "yes" : "no");
	if (l->net.on_up)
		l->net.on_up(l->net.arg, p->id);
}

static int check_hello(struct link_conn *c, const struct link_hello *h,
		       struct link_peer **peer, struct err *e)
{
	struct link_net *l = c->net;
	struct link_peer *p = link_peer_of(l, h->from);

	if (memcmp(h->cluster_id, l->cluster_id, sizeof h->cluster_id) != 0)
		return err_set(e, ERR_PERM, "node %" PRIu64 " belongs to "
			       "another cluster, this is %s", h->from,
			       l->cluster);
	if (h->to != l->self)
		return err_set(e, ERR_PERM, "node %" PRIu64 " wants node %"
			       PRIu64 ", this is node %" PRIu64, h->from,
			       h->to, l->self);
	if (!p)
		return err_set(e, ERR_PERM, "node %" PRIu64 " is not one of "
			       "the peers of node %" PRIu64, h->from, l->self);
	if (c->dialed && p != c->peer)
		return err_set(e, ERR_PERM, "node %" PRIu64 " answers at the "
			       "address of node %" PRIu64, h->from,
			       c->peer->id);
	if (!c->dialed && h->from > l->self)
		return err_set(e, ERR_PERM, "node %" PRIu64 " dialled, but the "
			       "lower id dials", h->from);
	if (h->founders && l->founders && h->founders != l->founders)
		return err_set(e, ERR_PERM, "node %" PRIu64 " says that nodes "
			       "%" PRIx64 " (bits) made the cluster, here it "
			       "is %" PRIx64 ": [peers] of one of them was "
			       "wrong at its first start", h->from, h->founders,
			       l->founders);
	*peer = p;
	return check_name(c, h->from, e);
}

/* The last question, for the answer may be remembered for ever. */
static int admit(struct link_conn *c, const struct link_hello *h,
		 struct link_peer *p, struct err *e)
{
	const struct link_admit *a = &c->net->admit;
	bool old = h->version == LINK_VERSION_OLD;
	int rv;

	if (!c->dialed)
		c->from_peer = p;
	p->stats.shards = h->shards;
	if (!a->admit)
		return 0;
	rv = a->admit(a->arg, p->id, old ? NULL : h->disk_id, h->joined, e);
	if (rv == ERR_PERM) {
		c->disk = REFUSED_HERE;
		metric_add(M_LINK_DISKS_REFUSED, 1);
	}
	return rv;
}

/* A peer said no.  For the disk: perhaps nobody may hear this node any more. */
static void on_refusal(struct link_conn *c, const struct link_hello *h,
		       struct err *e)
{
	struct link_net *l = c->net;
	struct link_peer *p = c->peer ? c->peer : c->from_peer;
	uint64_t id = p->id; /* it may be gone after the end of its link */
	struct err why = *e;

	if (c->dialed)
		p->version = link_refusal_version(e->msg);
	if (h->disk_refused)
		c->disk = REFUSED_THERE;
	link_conn_fail(c, e);
	if (!h->disk_refused || !l->admit.refused ||
	    !l->admit.refused(l->admit.arg, id, why.msg))
		return;
	err_set(&why, ERR_PERM, "this node's disk was refused by node %" PRIu64,
		id);
	LIST_FOREACH(it, &l->conns) {
		struct link_conn *other = container_of(it, struct link_conn, link);

		if (other->state == UP)
			link_conn_fail(other, &why);
	}
}

static void on_hello(struct link_conn *c, const uint8_t *msg, size_t n)
{
	struct link_hello h;
	struct link_peer *p = NULL;
	struct err e = { 0, "" };
	int rv = link_hello_get(&h, msg, n, &e);

	if (rv == ERR_PERM && c->dialed) {
		on_refusal(c, &h, &e);
		return;
	}
	if (!rv)
		rv = check_hello(c, &h, &p, &e);
	if (!rv)
		rv = admit(c, &h, p, &e);
	if (!c->dialed)
		c->version = h.version == LINK_VERSION_OLD ? h.version :
							     LINK_VERSION;
	/* Nobody may hear this node; what the dialer thinks of it is still of
	 * interest, and said in answer to its hello. */
	if (rv == ERR_FAULTY && !c->dialed && c->version > LINK_VERSION_OLD) {
		c->why = e;
		rv = 0;
	}
	if (rv && (!c->dialed || c->version > LINK_VERSION_OLD))
		say_no(c, &e);
	c->boot = h.boot;
	if (!rv && !c->dialed)
		rv = say_hello(c, h.from, &e);
	else if (!rv && c->version > LINK_VERSION_OLD)
		rv = say_welcome(c, &e);
	if (rv)
		link_conn_fail(c, &e);
	else if (c->dialed || c->version == LINK_VERSION_OLD) {
		AN(p); /* check_hello() has found it */
		conn_up(c, p, h.boot);
	} else
		c->state = ADMIT;
}

/* What the dialer makes of this node's hello. */
static void on_welcome(struct link_conn *c, const uint8_t *msg, size_t n)
{
	struct link_hello h;
	struct err e = { 0, "" };

	if (!link_is_welcome(msg, n)) {
		if (link_hello_get(&h, msg, n, &e) == ERR_PERM) {
			on_refusal(c, &h, &e);
			return;
		}
		err_set(&e, ERR_PROTOCOL, "neither a welcome nor a refusal");
	} else if (c->from_peer->dropped) {
		err_set(&e, ERR_PERM, "it is no peer any more");
	} else if (c->why.code) {
		e = c->why; /* the dialer is up and hears no refusal any more */
	} else {
		conn_up(c, c->from_peer, c->boot);
		return;
	}
	link_conn_fail(c, &e);
}

/* ---- reading -------------------------------------------------------------- */

static void on_alloc(uv_handle_t *h, size_t hint, uv_buf_t *b)
{
	struct link_conn *c = h->data;

	(void)hint;
	if (c->tls)
		*b = uv_buf_init((char *)c->net->in, LINK_READ_BYTES);
	else
		*b = uv_buf_init((char *)buf_reserve(&c->plain, LINK_READ_BYTES),
				 LINK_READ_BYTES);
}

/* Hand out the whole frames in c->plain.  Any callback may close anything. */
static void deliver(struct link_conn *c)
{
	struct link_net *l = c->net;
	size_t at = 0, len, used;
	const uint8_t *msg;
	struct err e;
	int rv;

	while (c->state == HELLO || c->state == ADMIT || c->state == UP) {
		size_t max = c->state == UP ? NET_MESSAGE_MAX : LINK_HELLO_MAX;

		rv = link_frame_next(c->plain.data + at, c->plain.len - at, max,
				     &msg, &len, &used);
		if (rv == ERR_AGAIN)
			break;
		if (rv) {
			err_set(&e, rv, "a frame of %u bytes, at most %zu are "
				"allowed", get_u32(c->plain.data + at), max);
			link_conn_fail(c, &e);
			return;
		}
		at += used;
		if (c->state == HELLO) {
			on_hello(c, msg, len);
		} else if (c->state == ADMIT) {
			on_welcome(c, msg, len);
		} else if (len) {
			c->peer->stats.messages_in++;
			c->peer->stats.bytes_in += len;
			metric_add(M_LINK_MESSAGES_IN, 1);
			metric_add(M_LINK_BYTES_IN, len);
			if (l->net.on_message)
				l->net.on_message(l->net.arg, c->peer->id, msg,
						  len);
		}
	}
	if (c->state == CLOSED)
		return;
	buf_consume(&c->plain, at);
	if (c->plain.len == 0 && c->plain.cap > KEEP_PLAIN)
		buf_release(&c->plain);
}

static void shaken(struct link_conn *c)
{
	struct err e;
	int rv = tls_peer_name(c->tls, c->name, &e);

	if (!rv && c->dialed)
		rv = check_name(c, c->peer->id, &e);
	if (!rv && c->dialed)
		rv = say_hello(c, c->peer->id, &e);
	if (rv)
		link_conn_fail(c, &e);
	else
		c->state = HELLO;
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *b)
{
	struct link_conn *c = s->data;
	struct err e = { 0, "" };
	int rv = 0;

	if (c->state == CLOSED || n == 0)
		return;
	if (n < 0) {
		err_set(&e, ERR_CLOSED, "%s",
			n == UV_EOF ? "closed by the peer" :
				      uv_strerror((int)n));
		link_conn_fail(c, &e);
		return;
	}
	c->rx_ms = uv_now(c->net->loop);
	if (c->tls)
		rv = tls_feed(c->tls, b->base, (size_t)n, &c->plain, &c->out,
			      &e);
	else
		c->plain.len += (size_t)n;
	if (!rv && c->state == SHAKE && tls_is_up(c->tls))
		shaken(c);
	/* What came before the end is still good. */
	deliver(c);
	if (c->state == CLOSED)
		return;
	link_conn_flush(c); /* answers of TLS, hello */
	if (rv)
		link_conn_fail(c, &e);
}

/* ---- beginning ------------------------------------------------------------ */

struct link_conn *link_conn_new(struct link_net *l, bool dialed)
{
	struct link_conn *c = xcalloc(1, sizeof *c);

	c->net = l;
	c->dialed = dialed;
	c->version = LINK_VERSION;
	list_append(&l->conns, &c->link);
	AZ(uv_tcp_init(l->loop, &c->tcp));
	c->tcp.data = c;
	c->tcp_open = true;
	l->open++;
	c->deadline_ms = uv_now(l->loop) + LINK_HANDSHAKE_MS;
	c->rx_ms = c->tx_ms = uv_now(l->loop);
	return c;
}

/* The socket is connected: TLS, or hello at once. */
void link_conn_start(struct link_conn *c)
{
	struct link_net *l = c->net;
	struct err e = { 0, "" };
	int rv = 0;

	uv_tcp_nodelay(&c->tcp, 1);
	if (c->dialed && c->peer->version) {
		c->version = c->peer->version;
		c->peer->version = 0; /* it may be another one next time */
	}
	if (l->server) {
		c->state = SHAKE;
		rv = tls_new(&c->tls, c->dialed ? l->client : l->server, NULL,
			     &e);
		if (!rv && c->dialed)
			rv = tls_start(c->tls, &c->out, &e);
	} else {
		c->state = HELLO;
		if (c->dialed)
			rv = say_hello(c, c->peer->id, &e);
	}
	if (!rv) {
		int s = uv_read_start((uv_stream_t *)&c->tcp, on_alloc,
				      on_read);
		if (s < 0)
			rv = err_set(&e, ERR_IO, "read: %s", uv_strerror(s));
	}
	if (rv) {
		link_conn_fail(c, &e);
		return;
	}
	link_conn_flush(c);
}

