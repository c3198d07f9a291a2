/* The happy path of a link between nodes 1 and 2:
 *   - node 1 dials: resolve, connect, TLS, hello
 *   - node 2 accepts: TLS, hello of node 1 is checked, answers hello: up
 *   - node 1 checks the hello of node 2: up
 *   - messages are queued by send() and leave at flush(); the timer keeps an idle
 *     link alive
 *
 *     RESOLVE -> CONNECT --+-> SHAKE -> HELLO -> UP
 *        |          |      |     |        |      |
 *        |          |  (accepted)|        |      |
 *        +----------+------------+--------+------+--> CLOSED (memory goes when
 *                                                     libuv let go of it)
 * What can fail: every step, by error, refusal, deadline or silence; all end in
 * conn_close(), and the timer dials again.  A failure met while sending is only
 * marked; the loop closes the link later, so that no callback comes from inside
 * send() or flush(). */
#include "consensus/link.h"
#include "base/addr.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/bytes.h"
#include "base/list.h"
#include "base/logf.h"
#include "base/metric.h"
#include "base/tls.h"
#include "consensus/link_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#define READ_BYTES (256u << 10)
#define KEEP_PLAIN (1u << 20) /* of an empty read buffer; more is given back */
#define BURST (1u << 20)      /* bytes encrypted ahead of the socket */
#define BACKLOG 64
#define TICK_MAX_MS 50

enum state { RESOLVE, CONNECT, SHAKE, HELLO, UP, CLOSED };

struct conn {
	struct list link; /* net->conns */
	struct link_net *net;
	struct peer *peer; /* of an accepted one: known from UP on */
	enum state state;
	bool dialed, writing, tcp_open, resolving, broken;
	uv_tcp_t tcp;
	uv_getaddrinfo_t gai;
	uv_connect_t creq;
	uv_write_t wreq;
	struct tls *tls; /* NULL: plain */
	char name[TLS_NAME_MAX]; /* of the peer's certificate */
	char from[64]; /* address, for the log */
	struct buf plain, out;
	size_t out_at; /* sent of `out` */
	uint64_t deadline_ms, rx_ms, tx_ms;
	struct err why; /* of `broken` */
};

struct peer {
	uint64_t id; /* 0: none */
	struct addr addr;
	struct conn *conn; /* UP */
	struct conn *dial; /* on its way there */
	struct link_queue queue;
	uint64_t retry_ms, dial_at_ms, boot;
	unsigned attempts;
	struct link_stats stats;
};

struct link_net {
	struct net net;
	uv_loop_t *loop;
	struct rand *rand;
	uint64_t self, boot;
	uint8_t cluster_id[16];
	char cluster[LINK_CLUSTER_NAME_MAX + 1];
	unsigned keepalive_ms, dead_ms, tick_ms;
	struct tls_ctx *server, *client;
	struct peer peers[NET_NODE_MAX];
	struct list conns;
	unsigned n_accepting;
	uint16_t port;
	uv_tcp_t listener;
	uv_timer_t timer;
	uv_async_t async;
	uint64_t ticked_ms, refusal_log_ms, refusals;
	unsigned open; /* handles and lookups that libuv holds */
	bool closing;
	void (*closed)(void *arg);
	void *closed_arg;
	uint8_t *in, *stage;
};

static const struct net_ops link_ops;
static void conn_flush(struct conn *c);

static struct link_net *of_net(const struct net *n)
{
	AN(n->ops == &link_ops);
	return (struct link_net *)(void *)n;
}

static struct peer *peer_of(struct link_net *l, uint64_t id)
{
	return id > 0 && id < NET_NODE_MAX && l->peers[id].id ? &l->peers[id] :
								NULL;
}

static void net_release(struct link_net *l)
{
	unsigned i;

	for (i = 0; i < NET_NODE_MAX; i++)
		link_queue_release(&l->peers[i].queue);
	tls_ctx_free(l->server);
	tls_ctx_free(l->client);
	free(l->in);
	free(l->stage);
	free(l);
}

/* libuv let go of one thing; the last one ends the net. */
static void net_put(struct link_net *l)
{
	AN(l->open);
	if (--l->open == 0) {
		void (*closed)(void *arg) = l->closed;
		void *arg = l->closed_arg;

		AN(l->closing);
		net_release(l);
		if (closed)
			closed(arg);
	}
}

/* ---- the end of a connection ---------------------------------------------- */

static void conn_put(struct conn *c)
{
	struct link_net *l = c->net;

	if (c->tcp_open || c->resolving)
		return;
	list_remove(&c->link);
	tls_free(c->tls);
	buf_release(&c->plain);
	buf_release(&c->out);
	free(c);
	net_put(l);
}

static void on_conn_closed(uv_handle_t *h)
{
	struct conn *c = h->data;

	c->tcp_open = false;
	conn_put(c);
}

static void redial_later(struct peer *p)
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
static void conn_close(struct conn *c)
{
	struct link_net *l = c->net;
	struct peer *p = c->peer;
	enum state was = c->state;

	if (was == CLOSED)
		return;
	c->state = CLOSED;
	if (!c->dialed && was < UP)
		l->n_accepting--;
	if (c->dialed && !l->closing) {
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
}

/* Close and say why.  The same trouble of a peer is a warning once, then only
 * of interest to who debugs; strangers fill the log at one line a second. */
static void conn_fail(struct conn *c, const struct err *e)
{
	struct link_net *l = c->net;
	struct peer *p = c->peer;
	uint64_t now = uv_now(l->loop);

	if (c->state == CLOSED || l->closing)
		return;
	if (!p) {
		metric_add(M_LINK_REFUSED, 1);
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

		log_event(again ? LOG_DEBUG : LOG_WARN,
			  c->state == UP ? "link_down" : "link_failed",
			  "peer=%" PRIu64 " addr=%s err=%s why=%s", p->id,
			  c->from, err_name(e->code), log_quote(e->msg));
		snprintf(p->stats.last_error, sizeof p->stats.last_error, "%s",
			 e->msg);
	}
	conn_close(c);
}

/* As conn_fail(), from inside a call of the owner. */
static void conn_break(struct conn *c, const struct err *e)
{
	if (c->broken || c->state == CLOSED)
		return;
	c->broken = true;
	c->why = *e;
	uv_async_send(&c->net->async);
}

static void on_async(uv_async_t *h)
{
	struct link_net *l = h->data;

	/* on_down may close others, which stay in the list till later. */
	LIST_FOREACH(it, &l->conns) {
		struct conn *c = container_of(it, struct conn, link);

		if (c->broken)
			conn_fail(c, &c->why);
	}
}

/* ---- writing -------------------------------------------------------------- */

/* Move up to BURST bytes of the peer's queue to `out`, in full records where
 * there is enough.  Small pieces are gathered, large ones are encrypted from
 * where they lie. */
static int gather(struct conn *c, struct err *e)
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
	struct conn *c = req->data;

	c->writing = false;
	if (c->state == CLOSED)
		return;
	if (status < 0) {
		struct err e;

		err_set(&e, ERR_CLOSED, "write: %s", uv_strerror(status));
		conn_fail(c, &e);
		return;
	}
	buf_clear(&c->out);
	c->out_at = 0;
	conn_flush(c);
}

/* All that can go now: what is in `out` first, then the queue.  One write for
 * each BURST; what the socket does not take waits with libuv. */
static void conn_flush(struct conn *c)
{
	struct err e = { 0, "" };
	uv_buf_t b;
	int n;

	while (!c->writing && !c->broken && c->state != CLOSED) {
		if (c->state == UP && gather(c, &e)) {
			conn_break(c, &e);
			return;
		}
		if (c->out.len == c->out_at)
			break;
		b = uv_buf_init((char *)c->out.data + c->out_at,
				(unsigned)(c->out.len - c->out_at));
		n = uv_try_write((uv_stream_t *)&c->tcp, &b, 1);
		if (n < 0 && n != UV_EAGAIN) {
			err_set(&e, ERR_CLOSED, "write: %s", uv_strerror(n));
			conn_break(c, &e);
			return;
		}
		c->tx_ms = uv_now(c->net->loop);
		metric_add(M_LINK_WRITES, 1);
		if (c->peer)
			c->peer->stats.writes++;
		if (n > 0)
			c->out_at += (size_t)n;
		if (c->out_at < c->out.len) {
			b = uv_buf_init((char *)c->out.data + c->out_at,
					(unsigned)(c->out.len - c->out_at));
			c->wreq.data = c;
			n = uv_write(&c->wreq, (uv_stream_t *)&c->tcp, &b, 1,
				     on_written);
			if (n < 0) {
				err_set(&e, ERR_CLOSED, "write: %s",
					uv_strerror(n));
				conn_break(c, &e);
				return;
			}
			c->writing = true;
			return;
		}
		buf_clear(&c->out);
		c->out_at = 0;
	}
	if (!c->writing && c->out.len == 0 && c->out.cap > 2 * BURST)
		buf_release(&c->out);
}

/* ---- hello ---------------------------------------------------------------- */

static void node_name(const struct link_net *l, uint64_t id,
		      char out[TLS_NAME_MAX])
{
	snprintf(out, TLS_NAME_MAX, "node-%" PRIu64 ".%s.quipu", id,
		 l->cluster);
}

static int check_name(const struct conn *c, uint64_t id, struct err *e)
{
	char expected[TLS_NAME_MAX];

	if (!c->tls)
		return 0;
	node_name(c->net, id, expected);
	if (strcmp(c->name, expected) != 0)
		return err_set(e, ERR_TLS, "the peer's certificate is for %s, "
			       "not for %s", c->name, expected);
	return 0;
}

/* Handshake frames go straight to `out`, before anything of the queue. */
static int put_frame(struct conn *c, const struct buf *frame, struct err *e)
{
	if (c->tls)
		return tls_write(c->tls, frame->data, frame->len, &c->out, e);
	buf_put(&c->out, frame->data, frame->len);
	return 0;
}

static int say_hello(struct conn *c, uint64_t to, struct err *e)
{
	struct link_hello h = { .version = LINK_VERSION,
				.from = c->net->self,
				.to = to,
				.boot = c->net->boot };
	struct buf frame = BUF_INIT;
	int rv;

	memcpy(h.cluster_id, c->net->cluster_id, sizeof h.cluster_id);
	link_hello_put(&frame, &h);
	rv = put_frame(c, &frame, e);
	buf_release(&frame);
	return rv;
}

static void conn_up(struct conn *c, struct peer *p, uint64_t boot)
{
	struct link_net *l = c->net;

	if (p->conn) {
		/* The dialer would not be here if it had not given up the old
		 * one, whose end has not been heard of. */
		struct err e;

		err_set(&e, ERR_CLOSED, "the peer connected anew%s",
			p->boot == boot ? "" : " after a restart");
		conn_fail(p->conn, &e);
		if (c->state == CLOSED || l->closing)
			return;
	}
	if (!c->dialed)
		l->n_accepting--;
	c->peer = p;
	c->state = UP;
	c->deadline_ms = UINT64_MAX;
	p->conn = c;
	p->boot = boot;
	p->attempts = 0;
	p->stats.up = true;
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

static int check_hello(struct conn *c, const struct link_hello *h,
		       struct peer **peer, struct err *e)
{
	struct link_net *l = c->net;
	struct peer *p = peer_of(l, h->from);

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
	*peer = p;
	return check_name(c, h->from, e);
}

static void on_hello(struct conn *c, const uint8_t *msg, size_t n)
{
	struct link_hello h;
	struct peer *p = NULL;
	struct err e = { 0, "" };
	int rv = link_hello_get(&h, msg, n, &e);

	if (!rv)
		rv = check_hello(c, &h, &p, &e);
	if (rv && !c->dialed) {
		struct buf frame = BUF_INIT;
		struct err drop;

		/* Once, as far as the socket takes it. */
		link_refusal_put(&frame, e.msg);
		if (put_frame(c, &frame, &drop) == 0)
			conn_flush(c);
		buf_release(&frame);
	}
	if (!rv && !c->dialed)
		rv = say_hello(c, h.from, &e);
	if (rv)
		conn_fail(c, &e);
	else
		conn_up(c, p, h.boot);
}

/* ---- reading -------------------------------------------------------------- */

static void on_alloc(uv_handle_t *h, size_t hint, uv_buf_t *b)
{
	struct conn *c = h->data;

	(void)hint;
	if (c->tls)
		*b = uv_buf_init((char *)c->net->in, READ_BYTES);
	else
		*b = uv_buf_init((char *)buf_reserve(&c->plain, READ_BYTES),
				 READ_BYTES);
}

/* Hand out the whole frames in c->plain.  Any callback may close anything. */
static void deliver(struct conn *c)
{
	struct link_net *l = c->net;
	size_t at = 0, len, used;
	const uint8_t *msg;
	struct err e;
	int rv;

	while (c->state == HELLO || c->state == UP) {
		size_t max = c->state == UP ? NET_MESSAGE_MAX : LINK_HELLO_MAX;

		rv = link_frame_next(c->plain.data + at, c->plain.len - at, max,
				     &msg, &len, &used);
		if (rv == ERR_AGAIN)
			break;
		if (rv) {
			err_set(&e, rv, "a frame of %u bytes, at most %zu are "
				"allowed", get_u32(c->plain.data + at), max);
			conn_fail(c, &e);
			return;
		}
		at += used;
		if (c->state == HELLO) {
			on_hello(c, msg, len);
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

static void shaken(struct conn *c)
{
	struct err e;
	int rv = tls_peer_name(c->tls, c->name, &e);

	if (!rv && c->dialed)
		rv = check_name(c, c->peer->id, &e);
	if (!rv && c->dialed)
		rv = say_hello(c, c->peer->id, &e);
	if (rv)
		conn_fail(c, &e);
	else
		c->state = HELLO;
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *b)
{
	struct conn *c = s->data;
	struct err e = { 0, "" };
	int rv = 0;

	if (c->state == CLOSED || n == 0)
		return;
	if (n < 0) {
		err_set(&e, ERR_CLOSED, "%s",
			n == UV_EOF ? "closed by the peer" :
				      uv_strerror((int)n));
		conn_fail(c, &e);
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
	conn_flush(c); /* answers of TLS, hello */
	if (rv)
		conn_fail(c, &e);
}

/* ---- beginning ------------------------------------------------------------ */

static struct conn *conn_new(struct link_net *l, bool dialed)
{
	struct conn *c = xcalloc(1, sizeof *c);

	c->net = l;
	c->dialed = dialed;
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
static void conn_start(struct conn *c)
{
	struct link_net *l = c->net;
	struct err e = { 0, "" };
	int rv = 0;

	uv_tcp_nodelay(&c->tcp, 1);
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
		conn_fail(c, &e);
		return;
	}
	conn_flush(c);
}

static void addr_text(const struct sockaddr *sa, char *out, size_t n)
{
	char host[48] = "?";
	unsigned port = 0;

	if (sa->sa_family == AF_INET) {
		const struct sockaddr_in *s = (const void *)sa;

		uv_ip4_name(s, host, sizeof host);
		port = ntohs(s->sin_port);
		snprintf(out, n, "%s:%u", host, port);
	} else if (sa->sa_family == AF_INET6) {
		const struct sockaddr_in6 *s = (const void *)sa;

		uv_ip6_name(s, host, sizeof host);
		port = ntohs(s->sin6_port);
		snprintf(out, n, "[%s]:%u", host, port);
	}
}

static void on_connection(uv_stream_t *server, int status)
{
	struct link_net *l = server->data;
	struct sockaddr_storage ss;
	int n = sizeof ss;
	struct conn *c;

	if (l->closing)
		return;
	if (status < 0) {
		log_event(LOG_WARN, "link_accept_failed", "why=%s",
			  log_quote(uv_strerror(status)));
		return;
	}
	c = conn_new(l, false);
	l->n_accepting++;
	c->state = SHAKE;
	snprintf(c->from, sizeof c->from, "?");
	if (uv_accept(server, (uv_stream_t *)&c->tcp) < 0) {
		conn_close(c);
		return;
	}
	if (uv_tcp_getpeername(&c->tcp, (struct sockaddr *)&ss, &n) == 0)
		addr_text((struct sockaddr *)&ss, c->from, sizeof c->from);
	if (l->n_accepting > LINK_ACCEPTING_MAX) {
		struct err e;

		err_set(&e, ERR_FULL, "%d connections are shaking hands "
			"already", LINK_ACCEPTING_MAX);
		conn_fail(c, &e);
		return;
	}
	conn_start(c);
}

static void on_connect(uv_connect_t *req, int status)
{
	struct conn *c = req->data;

	if (c->state == CLOSED)
		return;
	if (status < 0) {
		struct err e;

		err_set(&e, ERR_UNAVAILABLE, "connect: %s",
			uv_strerror(status));
		conn_fail(c, &e);
		return;
	}
	conn_start(c);
}

static void on_resolved(uv_getaddrinfo_t *req, int status, struct addrinfo *ai)
{
	struct conn *c = req->data;
	struct addrinfo *it;
	unsigned n = 0, pick;
	struct err e;
	int rv;

	c->resolving = false;
	if (c->state == CLOSED) {
		uv_freeaddrinfo(ai);
		conn_put(c);
		return;
	}
	for (it = ai; it; it = it->ai_next)
		n++;
	if (status < 0 || n == 0) {
		err_set(&e, ERR_UNAVAILABLE, "cannot resolve %s: %s",
			c->peer->addr.host,
			status < 0 ? uv_strerror(status) : "no address");
		uv_freeaddrinfo(ai);
		conn_fail(c, &e);
		return;
	}
	/* Another one of several at each try. */
	pick = c->peer->attempts++ % n;
	for (it = ai; pick--; it = it->ai_next)
		;
	addr_text(it->ai_addr, c->from, sizeof c->from);
	c->state = CONNECT;
	c->creq.data = c;
	rv = uv_tcp_connect(&c->creq, &c->tcp, it->ai_addr, on_connect);
	uv_freeaddrinfo(ai);
	if (rv < 0) {
		err_set(&e, ERR_UNAVAILABLE, "connect: %s", uv_strerror(rv));
		conn_fail(c, &e);
	}
}

static void dial(struct link_net *l, struct peer *p)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM,
				  .ai_flags = AI_NUMERICSERV };
	struct conn *c = conn_new(l, true);
	char port[8];
	int rv;

	c->peer = p;
	p->dial = c;
	c->state = RESOLVE;
	snprintf(c->from, sizeof c->from, "%.50s:%u", p->addr.host,
		 p->addr.port);
	snprintf(port, sizeof port, "%u", p->addr.port);
	c->gai.data = c;
	rv = uv_getaddrinfo(l->loop, &c->gai, on_resolved, p->addr.host, port,
			    &hints);
	if (rv < 0) {
		struct err e;

		err_set(&e, ERR_UNAVAILABLE, "cannot resolve %s: %s",
			p->addr.host, uv_strerror(rv));
		conn_fail(c, &e);
		return;
	}
	c->resolving = true;
}

/* ---- time ----------------------------------------------------------------- */

static void conn_tick(struct conn *c, uint64_t now)
{
	struct link_net *l = c->net;
	struct err e;

	if (c->state == UP && now >= c->rx_ms + l->dead_ms) {
		err_set(&e, ERR_TIMEOUT, "silent for %" PRIu64 " ms",
			now - c->rx_ms);
		conn_fail(c, &e);
	} else if (c->state == UP && now >= c->tx_ms + l->keepalive_ms &&
		   !c->writing && c->peer->queue.queued == 0) {
		link_queue_put_empty(&c->peer->queue);
		conn_flush(c);
	} else if (now >= c->deadline_ms) {
		err_set(&e, ERR_TIMEOUT, "no hello within %d ms",
			LINK_HANDSHAKE_MS);
		conn_fail(c, &e);
	}
}

static void on_timer(uv_timer_t *h)
{
	struct link_net *l = h->data;
	uint64_t now = uv_now(l->loop), late;
	unsigned i;

	/* When this loop was busy or the process stood still, peers were not
	 * silent: their bytes wait unread.  Do not count that time. */
	late = now - l->ticked_ms;
	late = l->ticked_ms && late > 2 * l->tick_ms ? late - l->tick_ms : 0;
	l->ticked_ms = now;
	LIST_FOREACH(it, &l->conns) {
		struct conn *c = container_of(it, struct conn, link);

		c->rx_ms += late;
		conn_tick(c, now);
		if (l->closing)
			return;
	}
	for (i = 1; i < NET_NODE_MAX; i++) {
		struct peer *p = &l->peers[i];

		if (p->id > l->self && !p->dial && now >= p->dial_at_ms)
			dial(l, p);
	}
}

/* ---- struct net ----------------------------------------------------------- */

static int net_send(struct net *n, uint64_t peer, const void *head, size_t len,
		    struct entry *const *entries, unsigned n_entries)
{
	struct peer *p = peer_of(of_net(n), peer);
	size_t before;
	int rv;

	if (!p || !p->conn || p->conn->broken)
		return ERR_CLOSED;
	before = p->queue.queued;
	rv = link_queue_put(&p->queue, head, len, entries, n_entries);
	if (rv)
		return rv;
	p->stats.messages_out++;
	p->stats.bytes_out += p->queue.queued - before - LINK_FRAME_HEADER;
	metric_add(M_LINK_MESSAGES_OUT, 1);
	metric_add(M_LINK_BYTES_OUT,
		   p->queue.queued - before - LINK_FRAME_HEADER);
	return 0;
}

static void net_flush(struct net *n)
{
	struct link_net *l = of_net(n);

	/* Links are few; a peer without anything queued costs two loads. */
	LIST_FOREACH(it, &l->conns) {
		struct conn *c = container_of(it, struct conn, link);

		if (c->state == UP && c->peer->queue.queued)
			conn_flush(c);
	}
}

static bool net_is_up(struct net *n, uint64_t peer)
{
	struct peer *p = peer_of(of_net(n), peer);

	return p && p->conn && !p->conn->broken;
}

static size_t net_queued(struct net *n, uint64_t peer)
{
	struct peer *p = peer_of(of_net(n), peer);

	if (!p || !p->conn)
		return 0;
	return p->queue.queued + p->conn->out.len - p->conn->out_at;
}

static const struct net_ops link_ops = { net_send, net_flush, net_is_up,
					 net_queued };

/* ---- open and close ------------------------------------------------------- */

static int open_tls(struct link_net *l, const struct link_config *cfg,
		    struct err *e)
{
	struct tls_files files = { cfg->ca, cfg->cert, cfg->key };
	char name[TLS_NAME_MAX];
	int rv;

	if (!cfg->ca && !cfg->cert && !cfg->key) {
		log_event(LOG_WARN, "link_plain", "node=%" PRIu64 " why=%s",
			  l->self,
			  log_quote("links are not encrypted: for tests on "
				    "loopback only"));
		return 0;
	}
	rv = tls_ctx_new(&l->server, TLS_MUTUAL_SERVER, &files, e);
	if (!rv)
		rv = tls_ctx_new(&l->client, TLS_MUTUAL_CLIENT, &files, e);
	node_name(l, l->self, name);
	if (!rv && tls_ctx_check_own(l->server, name, e))
		rv = err_wrap(e, "certificate file %s", cfg->cert);
	return rv;
}

static int set_peers(struct link_net *l, const struct link_config *cfg,
		     struct err *e)
{
	unsigned i;

	for (i = 0; i < cfg->n_peers; i++) {
		uint64_t id = cfg->peers[i].id;
		struct peer *p;
		int rv;

		if (id == 0 || id >= NET_NODE_MAX)
			return err_set(e, ERR_CONFIG, "node id %" PRIu64
				       " is not 1 to %d", id, NET_NODE_MAX - 1);
		p = &l->peers[id];
		rv = addr_parse(&p->addr, cfg->peers[i].addr, e);
		if (rv)
			return err_wrap(e, "address of node %" PRIu64, id);
		if (!l->server && !addr_is_loopback(&p->addr))
			return err_set(e, ERR_CONFIG, "a plain link to node %"
				       PRIu64 " at %s: only TLS may leave "
				       "loopback", id, cfg->peers[i].addr);
		if (id == l->self)
			continue;
		if (p->id)
			return err_set(e, ERR_CONFIG, "node %" PRIu64
				       " is given twice", id);
		p->id = id;
	}
	return 0;
}

/* A socket that is bound and listens.  By hand, so that an error is told before
 * libuv holds anything. */
static int open_socket(const char *text, bool plain, uint16_t *port, int *out,
		       struct err *e)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM,
				  .ai_flags = AI_PASSIVE | AI_NUMERICSERV };
	struct addrinfo *ai;
	struct sockaddr_storage ss;
	socklen_t len = sizeof ss;
	char service[8];
	struct addr a;
	int fd, one = 1, rv = addr_parse(&a, text, e);

	if (rv)
		return err_wrap(e, "address to listen at");
	if (plain && !addr_is_loopback(&a))
		return err_set(e, ERR_CONFIG, "plain links at %s: only TLS may "
			       "leave loopback", text);
	snprintf(service, sizeof service, "%u", a.port);
	rv = getaddrinfo(a.host, service, &hints, &ai);
	if (rv)
		return err_set(e, ERR_CONFIG, "cannot resolve %s: %s", a.host,
			       gai_strerror(rv));
	fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
		    0);
	if (fd < 0) {
		rv = err_errno(e, errno, "socket");
	} else if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) ||
		   bind(fd, ai->ai_addr, ai->ai_addrlen) ||
		   listen(fd, BACKLOG)) {
		rv = err_errno(e, errno, "cannot listen for peers at %s", text);
	} else if (getsockname(fd, (struct sockaddr *)&ss, &len)) {
		rv = err_errno(e, errno, "getsockname");
	}
	freeaddrinfo(ai);
	if (rv) {
		if (fd >= 0)
			close(fd);
		return rv;
	}
	*port = ntohs(ss.ss_family == AF_INET6 ?
			      ((struct sockaddr_in6 *)&ss)->sin6_port :
			      ((struct sockaddr_in *)&ss)->sin_port);
	*out = fd;
	return 0;
}

static void open_handles(struct link_net *l, int fd)
{
	AZ(uv_tcp_init(l->loop, &l->listener));
	AZ(uv_timer_init(l->loop, &l->timer));
	AZ(uv_async_init(l->loop, &l->async, on_async));
	l->listener.data = l->timer.data = l->async.data = l;
	l->open = 3;
	AZ(uv_tcp_open(&l->listener, fd));
	AZ(uv_listen((uv_stream_t *)&l->listener, BACKLOG, on_connection));
	AZ(uv_timer_start(&l->timer, on_timer, 0, l->tick_ms));
}

int link_open(struct net **out, void *loop, const struct link_config *cfg,
	      struct rand *rand, struct err *e)
{
	struct link_net *l;
	int fd = -1, rv;

	*out = NULL;
	if (cfg->self == 0 || cfg->self >= NET_NODE_MAX)
		return err_set(e, ERR_CONFIG, "node id %" PRIu64
			       " is not 1 to %d", cfg->self, NET_NODE_MAX - 1);
	if (strlen(cfg->cluster_name) > LINK_CLUSTER_NAME_MAX)
		return err_set(e, ERR_CONFIG, "the cluster's name is longer "
			       "than %d bytes", LINK_CLUSTER_NAME_MAX);
	if (!cfg->listen)
		return err_set(e, ERR_CONFIG, "no address to listen at");
	l = xcalloc(1, sizeof *l);
	l->net.ops = &link_ops;
	l->loop = loop;
	l->rand = rand;
	l->self = cfg->self;
	l->boot = rand_u64(rand);
	memcpy(l->cluster_id, cfg->cluster_id, sizeof l->cluster_id);
	snprintf(l->cluster, sizeof l->cluster, "%s", cfg->cluster_name);
	l->keepalive_ms = cfg->keepalive_ms ? cfg->keepalive_ms :
					      LINK_KEEPALIVE_MS;
	l->dead_ms = cfg->dead_ms ? cfg->dead_ms : LINK_DEAD_MS;
	l->tick_ms = l->keepalive_ms / 4 + 1;
	if (l->tick_ms > TICK_MAX_MS)
		l->tick_ms = TICK_MAX_MS;
	list_init(&l->conns);
	rv = open_tls(l, cfg, e);
	if (!rv)
		rv = set_peers(l, cfg, e);
	if (!rv)
		rv = open_socket(cfg->listen, !l->server, &l->port, &fd, e);
	if (rv) {
		net_release(l);
		return rv;
	}
	l->in = xmalloc(READ_BYTES);
	l->stage = xmalloc(TLS_RECORD_MAX);
	open_handles(l, fd);
	log_event(LOG_INFO, "link_open", "node=%" PRIu64 " listen=%s port=%u "
		  "tls=%s", l->self, cfg->listen, l->port,
		  l->server ? "yes" : "no");
	*out = &l->net;
	return 0;
}

static void on_handle_closed(uv_handle_t *h)
{
	net_put(h->data);
}

void link_close(struct net *n, void (*closed)(void *arg), void *arg)
{
	struct link_net *l = of_net(n);

	AN(!l->closing);
	l->closing = true;
	l->closed = closed;
	l->closed_arg = arg;
	LIST_FOREACH(it, &l->conns)
		conn_close(container_of(it, struct conn, link));
	uv_close((uv_handle_t *)&l->listener, on_handle_closed);
	uv_close((uv_handle_t *)&l->timer, on_handle_closed);
	uv_close((uv_handle_t *)&l->async, on_handle_closed);
}

uint16_t link_port(const struct net *n)
{
	return of_net(n)->port;
}

int link_stats(const struct net *n, uint64_t peer, struct link_stats *out)
{
	struct peer *p = peer_of(of_net(n), peer);

	if (!p)
		return ERR_NOT_FOUND;
	*out = p->stats;
	return 0;
}
