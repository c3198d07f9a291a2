/* From readable to written, one connection:
 *
 *	readable -> read() into the loop's buffer -> ws_read() -> session_message()
 *	the session's frames -> pooled buffer, connection marked dirty
 *	end of the turn: conn_flush_all() -> one write per dirty connection
 *
 * On a TLS socket tlsconn.c stands between: unsealing behind read(), sealing in
 * front of the write, where all that is pooled goes through at once.
 *
 * What the socket does not take stays in its buffer and the poll asks for
 * "writable"; above CONN_QUEUE_MAX nothing more is read, neither from the log nor
 * from the socket.  A connection is only ever freed at the end of its own event,
 * flush or timer, never below a call of its session. */
#include "gateway/conn.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/metric.h"
#include "base/wsframe.h"
#include "gateway/tlsconn.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CONN_MAGIC 0x636f6e6eu
#define OUT_KEEP (16u << 10)  /* a spare buffer is at most so large, */
#define OUT_LARGE_KEPT 16     /* but for so many */
#define DRAIN_RETRY_MS 100    /* a client that was said goodbye comes back within */

struct out {
	struct list link;
	struct buf b;
};

struct conn {
	uint32_t magic;
	int fd;
	struct gateway *g;
	struct list link, dirty, timer;
	struct tlsconn *tls;   /* NULL: plain */
	struct out *out;       /* NULL when all is written, or sealed */
	uint32_t sent;         /* bytes of it */
	uint32_t at;           /* where the open frame begins */
	uint64_t slot;         /* of the wheel, absolute; UINT64_MAX: none */
	uint64_t linger_ms;
	bool text, closing, got_close, broken, paused;
	bool failed;           /* their frames cannot be read any more */
	uint8_t events;        /* that the poll asks for */
	struct ws_reader reader;
	uv_poll_t poll;
	struct session session;
};

static void on_poll(uv_poll_t *p, int status, int events);

/* ---- buffers ---------------------------------------------------------------- */

static struct buf *out_of(struct conn *c)
{
	struct gateway *g = c->g;
	struct list *l;

	if (c->out)
		return &c->out->b;
	l = list_pop(&g->buffers);
	if (l) {
		g->n_buffers--;
		c->out = container_of(l, struct out, link);
	} else {
		c->out = xcalloc(1, sizeof *c->out);
	}
	c->sent = 0;
	return &c->out->b;
}

static void out_put(struct conn *c)
{
	struct gateway *g = c->g;
	struct out *o = c->out;

	c->out = NULL;
	c->sent = 0;
	buf_clear(&o->b);
	if (g->n_buffers >= GATEWAY_BUFFERS_MAX ||
	    (o->b.cap > OUT_KEEP && g->n_buffers >= OUT_LARGE_KEPT)) {
		buf_release(&o->b);
		free(o);
		return;
	}
	list_prepend(&g->buffers, &o->link);
	g->n_buffers++;
}

static size_t unsent(const struct conn *c)
{
	size_t n = c->out ? c->out->b.len - c->sent : 0;

	return c->tls ? n + tlsconn_unsent(c->tls) : n;
}

static void mark_dirty(struct conn *c)
{
	if (list_empty(&c->dirty))
		list_append(&c->g->dirty, &c->dirty);
}

/* ---- the timer wheel --------------------------------------------------------- */

static uint64_t due_ms(const struct conn *c)
{
	return c->closing ? c->linger_ms : session_deadline_ms(&c->session);
}

/* Deadlines mostly move away (every message moves the one of silence), so a
 * connection stays in its slot until that comes and is then put in the right one;
 * only an earlier time moves it at once. */
static void arm(struct conn *c, uint64_t deadline_ms)
{
	struct gateway *g = c->g;
	uint64_t slot = deadline_ms / GATEWAY_WHEEL_MS + 1;

	if (slot < g->wheel_slot)
		slot = g->wheel_slot;
	if (deadline_ms == UINT64_MAX || slot > g->wheel_slot + GATEWAY_WHEEL - 1)
		slot = g->wheel_slot + GATEWAY_WHEEL - 1;
	if (slot >= c->slot)
		return;
	list_remove(&c->timer);
	c->slot = slot;
	list_append(&g->wheel[slot % GATEWAY_WHEEL], &c->timer);
}

/* ---- closing ------------------------------------------------------------------ */

static void on_closed(uv_handle_t *h)
{
	free(h->data);
}

static void conn_destroy(struct conn *c)
{
	struct gateway *g = c->g;

	AN(c->magic == CONN_MAGIC);
	c->magic = 0;
	session_release(&c->session);
	ws_reader_release(&c->reader);
	list_remove(&c->link);
	list_remove(&c->dirty);
	list_remove(&c->timer);
	if (c->out)
		out_put(c);
	if (c->tls && !c->broken)
		tlsconn_end(c->tls, c->fd, &g->sealed);
	tlsconn_free(c->tls);
	uv_close((uv_handle_t *)&c->poll, on_closed);
	close(c->fd);
	gateway_socket_gone(g);
}

/* Our close frame goes out behind what was written; then theirs is waited for, as
 * a socket that is closed with unread bytes would lose both (RFC 6455 7.1.1). */
static void begin_close(struct conn *c, unsigned code, const char *reason)
{
	if (c->closing)
		return;
	c->closing = true;
	c->paused = false; /* their close frame must be read */
	c->linger_ms = clock_ms(c->g->clock) + CONN_LINGER_MS;
	ws_close_frame(out_of(c), code, reason, NULL);
	mark_dirty(c);
	arm(c, c->linger_ms);
}

/* Nothing is left to do but to free it. */
static bool is_over(const struct conn *c)
{
	return c->broken || (c->got_close && c->closing && !unsent(c));
}

/* ---- writing ------------------------------------------------------------------ */

static void poll_for(struct conn *c, int events)
{
	if (c->events == events)
		return;
	c->events = (uint8_t)events;
	if (events)
		uv_poll_start(&c->poll, events, on_poll);
	else
		uv_poll_stop(&c->poll);
}

static void poll_again(struct conn *c)
{
	int events = c->paused ? 0 : UV_READABLE;

	/* What they make TLS itself answer is bounded too. */
	if (c->tls && (c->tls->eof || tlsconn_unsent(c->tls) > CONN_QUEUE_MAX))
		events = 0;
	poll_for(c, unsent(c) && !c->broken ? events | UV_WRITABLE : events);
}

/* Both: what the socket took, or -1. */
static ssize_t write_plain(struct conn *c)
{
	ssize_t n;

	do
		n = send(c->fd, c->out->b.data + c->sent, unsent(c), MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -1;
	metric_add(M_WS_BYTES_OUT, (uint64_t)n);
	c->sent += (uint32_t)n;
	if (!unsent(c)) {
		out_put(c);
	} else if (c->sent > CONN_QUEUE_MAX) {
		buf_consume(&c->out->b, c->sent);
		c->sent = 0;
	}
	return n;
}

static ssize_t write_sealed(struct conn *c)
{
	struct buf *b = c->out ? &c->out->b : NULL;
	ssize_t n = tlsconn_write(c->tls, c->fd, b ? b->data : NULL,
				  b ? b->len : 0, &c->g->sealed);

	if (b) {
		metric_add(M_WS_BYTES_OUT, b->len);
		out_put(c);
	}
	return n;
}

/* Their close frame will not be seen: the end of ours tells them to go. */
static void end_output(struct conn *c)
{
	if (c->tls && !c->tls->shut)
		tlsconn_end(c->tls, c->fd, &c->g->sealed);
	if (!unsent(c))
		shutdown(c->fd, SHUT_WR);
}

static void write_out(struct conn *c)
{
	ssize_t n;

	if (c->broken || !unsent(c))
		return;
	n = c->tls ? write_sealed(c) : write_plain(c);
	if (n < 0) {
		c->broken = true;
		return;
	}
	if (c->failed && !unsent(c))
		end_output(c);
	if (c->paused && n > 0) {
		/* Also while it stays full: it moves, so it is not stalled. */
		c->paused = unsent(c) > CONN_QUEUE_LOW;
		session_pause(&c->session, c->paused);
	}
}

static struct buf *io_begin(void *arg)
{
	struct conn *c = arg;
	struct buf *b = out_of(c);

	c->at = (uint32_t)ws_begin(b);
	return b;
}

static void io_end(void *arg)
{
	struct conn *c = arg;

	ws_end(&c->out->b, c->at, c->text ? WS_TEXT : WS_BINARY);
	mark_dirty(c);
	if (unsent(c) <= CONN_QUEUE_MAX)
		return;
	if (!c->paused)
		write_out(c);
	if (!c->paused && unsent(c) > CONN_QUEUE_MAX) {
		c->paused = true;
		session_pause(&c->session, true);
	}
}

static void io_close(void *arg, unsigned code, const char *reason)
{
	begin_close(arg, code, reason);
}

static void io_arm(void *arg, uint64_t deadline_ms)
{
	struct conn *c = arg;

	if (!c->closing)
		arm(c, deadline_ms);
}

static const struct session_io conn_io = { io_begin, io_end, io_close, io_arm };

void conn_flush_all(struct gateway *g)
{
	struct list *l;

	while ((l = list_pop(&g->dirty)) != NULL) {
		struct conn *c = container_of(l, struct conn, dirty);

		write_out(c);
		if (is_over(c))
			conn_destroy(c);
		else
			poll_again(c);
	}
}

/* ---- reading ------------------------------------------------------------------ */

static void on_ws_message(struct conn *c, const struct ws_message *m)
{
	switch (m->op) {
	case WS_TEXT:
	case WS_BINARY:
		if (c->closing)
			break; /* sent before they saw our close frame */
		if ((m->op == WS_TEXT) != c->text)
			session_abort(&c->session, 4400,
				      c->text ? "text messages only" :
						"binary messages only");
		else
			session_message(&c->session, m->p, m->n);
		break;
	case WS_PING:
		session_heard(&c->session);
		if (!c->closing && unsent(c) <= CONN_QUEUE_MAX) {
			ws_frame(out_of(c), WS_PONG, m->p, m->n, NULL);
			mark_dirty(c);
		}
		break;
	case WS_PONG:
		session_heard(&c->session);
		break;
	case WS_CLOSE:
		c->got_close = true;
		session_release(&c->session);
		begin_close(c, m->code, NULL);
		mark_dirty(c);
		break;
	case WS_CONT:
		break; /* the reader joins them */
	}
}

static void feed(struct conn *c, uint8_t *p, size_t n)
{
	struct ws_message m;
	const char *why;
	unsigned code;
	int rv;

	while (!c->broken && !c->failed) {
		rv = ws_read(&c->reader, &p, &n, &m, &code, &why);
		if (rv == 0)
			break;
		if (rv < 0) {
			c->failed = true;
			session_abort(&c->session, code, why);
			break;
		}
		on_ws_message(c, &m);
	}
}

static void feed_sealed(struct conn *c, const uint8_t *p, size_t n)
{
	struct buf *plain = &c->g->opened;
	bool good;

	buf_clear(plain);
	good = tlsconn_open(c->tls, p, n, plain);
	metric_add(M_WS_BYTES_IN, plain->len);
	feed(c, plain->data, plain->len);
	if (!good)
		write_out(c); /* the alert */
	/* Who has sent a close frame still gets ours. */
	if (!good || (c->tls->eof && !c->got_close))
		c->broken = true;
	else if (tlsconn_unsent(c->tls))
		mark_dirty(c);
}

static void on_readable(struct conn *c)
{
	struct gateway *g = c->g;
	ssize_t n;

	do
		n = read(c->fd, g->read_buf, GATEWAY_READ_MAX);
	while (n < 0 && errno == EINTR);
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return;
	if (n <= 0) {
		c->broken = true;
		return;
	}
	if (c->tls) {
		feed_sealed(c, g->read_buf, (size_t)n);
		return;
	}
	metric_add(M_WS_BYTES_IN, (uint64_t)n);
	feed(c, g->read_buf, (size_t)n);
}

static void on_poll(uv_poll_t *p, int status, int events)
{
	struct conn *c = p->data;

	AN(c->magic == CONN_MAGIC);
	if (status < 0)
		c->broken = true;
	if (!c->broken && (events & UV_WRITABLE))
		write_out(c);
	if (!c->broken && (events & UV_READABLE))
		on_readable(c);
	if (is_over(c))
		conn_destroy(c);
	else
		poll_again(c);
}

/* ---- from outside --------------------------------------------------------------- */

void conn_open(struct gateway *g, int fd, struct tlsconn *tls,
	       enum wire_format format, uint8_t *p, size_t n)
{
	struct conn *c = xcalloc(1, sizeof *c);
	int one = 1;

	/* The HTTP library left it off.  An ack and a delivery are two small
	 * writes: the second would wait for the peer's delayed TCP ack. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	c->magic = CONN_MAGIC;
	c->g = g;
	c->fd = fd;
	c->tls = tls;
	c->text = format == WIRE_JSON;
	c->slot = UINT64_MAX;
	list_append(&g->conns, &c->link);
	list_init(&c->dirty);
	list_init(&c->timer);
	gateway_socket_new(g);
	ws_reader_init(&c->reader, true, SESSION_MESSAGE_MAX);
	session_init(&c->session, &g->env, format, &conn_io, c);
	AZ(uv_poll_init(g->loop, &c->poll, fd));
	c->poll.data = c;
	arm(c, due_ms(c));
	poll_again(c);
	metric_add(M_WS_BYTES_IN, n);
	feed(c, p, n);
	if (tls && tls->eof && !c->got_close)
		c->broken = true;
	/* Destroyed, if it must be, by the flush of this turn. */
	if (n || tls)
		mark_dirty(c);
	if (g->draining)
		session_drain(&c->session, rand_below(g->rand, DRAIN_RETRY_MS));
}

void conn_tick(struct gateway *g, uint64_t now_ms)
{
	struct list due;

	list_init(&due);
	while (g->wheel_slot <= now_ms / GATEWAY_WHEEL_MS) {
		struct list *slot = &g->wheel[g->wheel_slot % GATEWAY_WHEEL], *l;

		while ((l = list_pop(slot)) != NULL)
			list_append(&due, l);
		g->wheel_slot++;
	}
	while (!list_empty(&due)) {
		struct conn *c = container_of(list_pop(&due), struct conn,
					      timer);

		c->slot = UINT64_MAX;
		if (due_ms(c) <= now_ms) {
			if (c->closing)
				c->broken = true;
			else
				session_tick(&c->session);
		}
		if (c->broken)
			conn_destroy(c);
		else
			arm(c, due_ms(c));
	}
}

uint64_t conn_deadline_ms(const struct gateway *g)
{
	unsigned i;

	for (i = 0; i < GATEWAY_WHEEL; i++) {
		uint64_t slot = g->wheel_slot + i;

		if (!list_empty(&g->wheel[slot % GATEWAY_WHEEL]))
			return slot * GATEWAY_WHEEL_MS;
	}
	return UINT64_MAX;
}

unsigned conn_count(const struct gateway *g)
{
	unsigned n = 0;

	LIST_FOREACH(l, &g->conns)
		n++;
	return n;
}

void conn_drain(struct gateway *g, unsigned n)
{
	while (n-- && !list_empty(&g->conns)) {
		struct conn *c = container_of(g->conns.next, struct conn, link);

		list_remove(&c->link);
		list_append(&g->conns, &c->link);
		session_drain(&c->session, rand_below(g->rand, DRAIN_RETRY_MS));
	}
}

void conn_close_all(struct gateway *g)
{
	struct list *l;

	while (!list_empty(&g->conns))
		conn_destroy(container_of(g->conns.next, struct conn, link));
	while ((l = list_pop(&g->buffers)) != NULL) {
		struct out *o = container_of(l, struct out, link);

		buf_release(&o->b);
		free(o);
	}
	g->n_buffers = 0;
	buf_release(&g->opened);
	buf_release(&g->sealed);
}
