/* TLS in front of everything that speaks plain: the HTTP parser gets one end of a
 * socket pair, and bytes are pumped between its other end and the client.
 *
 *	client == fd: TLS == bridge == pair, plain == HTTP parser
 *	client == fd: TLS == conn.c                       after an upgrade
 *
 * The pair is made when the first plain bytes are here, so those who never get that
 * far cost the parser nothing, and ends with the upgrade (bridge_leave).  Each
 * direction reads no further while its queue is above BRIDGE_QUEUE_MAX; an idle
 * bridge owns no buffer. */
#include "base/alloc.h"
#include "base/assert.h"
#include "base/logf.h"
#include "base/metric.h"
#include "gateway/impl.h"
#include "gateway/tlsconn.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BRIDGE_QUEUE_MAX (128u << 10)
/* More than the parser alone ever queues: the rest is what TLS itself answers, and
 * who does not read that is not read either. */
#define BRIDGE_ANSWERS_MAX (2 * BRIDGE_QUEUE_MAX)
#define BRIDGE_LINGER_MS 5000 /* for our last bytes, alert included */

struct side {
	uv_poll_t poll;
	struct bridge *b;
	int fd;                  /* -1: not there */
	struct buf out;          /* waits to be written here */
	bool eof;                /* nothing more to read */
	int events;
};

struct bridge {
	struct list link;
	struct gateway *g;
	struct tls *tls;
	struct side net, app;
	int http_fd;             /* the parser's end; -1: none yet */
	struct sockaddr_storage addr;
	socklen_t addr_len;
	uint64_t deadline_ms;    /* UINT64_MAX: none */
	unsigned handles;
	bool counted, failed, shut, closing;
	bool refused;            /* their head; what comes yet is dropped */
};

static void on_net(uv_poll_t *p, int status, int events);
static void on_app(uv_poll_t *p, int status, int events);

/* ---- the end ---------------------------------------------------------------- */

static void on_closed(uv_handle_t *h)
{
	struct side *s = h->data;
	struct bridge *b = s->b;

	if (--b->handles == 0)
		free(b);
}

/* Without its descriptor, which goes on elsewhere. */
static void side_release(struct side *s)
{
	if (s->fd < 0)
		return;
	uv_poll_stop(&s->poll);
	uv_close((uv_handle_t *)&s->poll, on_closed);
	s->fd = -1;
	buf_release(&s->out);
}

static void side_close(struct side *s)
{
	int fd = s->fd;

	side_release(s);
	if (fd >= 0)
		close(fd);
}

static void uncount(struct bridge *b)
{
	if (b->counted)
		gateway_socket_gone(b->g);
	b->counted = false;
}

static void bridge_close(struct bridge *b)
{
	if (b->closing)
		return;
	b->closing = true;
	uncount(b);
	list_remove(&b->link);
	/* The number may be another one's by now. */
	if (b->http_fd >= 0 &&
	    map_get(&b->g->bridge_of, (uint64_t)b->http_fd) == b)
		map_del(&b->g->bridge_of, (uint64_t)b->http_fd);
	tls_free(b->tls);
	b->tls = NULL;
	side_close(&b->net);
	side_close(&b->app);
	/* Room for plain bytes is made before there is a pair. */
	buf_release(&b->app.out);
}

/* ---- pumping ---------------------------------------------------------------- */

static void side_open(struct side *s, struct bridge *b, int fd)
{
	s->b = b;
	s->fd = fd;
	AZ(uv_poll_init(b->g->loop, &s->poll, fd));
	s->poll.data = s;
	b->handles++;
}

/* What is queued, as far as the socket takes it; false: it is broken. */
static bool side_write(struct side *s)
{
	size_t at = 0;

	while (at < s->out.len) {
		ssize_t n = send(s->fd, s->out.data + at, s->out.len - at,
				 MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN)
			return false;
		if (n < 0)
			break;
		at += (size_t)n;
	}
	if (at == s->out.len)
		buf_release(&s->out);
	else
		buf_consume(&s->out, at);
	return true;
}

static void side_poll(struct side *s, bool want_read, uv_poll_cb cb)
{
	int events = 0;

	if (s->fd < 0)
		return;
	if (want_read && !s->eof)
		events |= UV_READABLE;
	if (s->out.len)
		events |= UV_WRITABLE;
	if (events == s->events)
		return;
	s->events = events;
	if (events)
		uv_poll_start(&s->poll, events, cb);
	else
		uv_poll_stop(&s->poll);
}

/* Write what there is, end what is over, wait for what may come. */
static void pump(struct bridge *b)
{
	if (b->app.fd >= 0 && !side_write(&b->app)) {
		b->app.eof = true;
		buf_release(&b->app.out);
	}
	if (b->app.eof && !b->shut && !b->failed) {
		tls_close(b->tls, &b->net.out);
		b->shut = true;
	}
	if (!side_write(&b->net)) {
		bridge_close(b);
		return;
	}
	if ((b->shut || b->failed) && !b->net.out.len) {
		if (!b->refused || b->net.eof) {
			bridge_close(b);
			return;
		}
		/* Closed with unread bytes it would take the answer along. */
		shutdown(b->net.fd, SHUT_WR);
	}
	if ((b->shut || b->failed) && b->deadline_ms == UINT64_MAX)
		b->deadline_ms = clock_ms(b->g->clock) + BRIDGE_LINGER_MS;
	if (b->net.eof && !b->app.out.len && b->app.fd >= 0)
		shutdown(b->app.fd, SHUT_WR);
	side_poll(&b->net, b->app.out.len < BRIDGE_QUEUE_MAX &&
			   b->net.out.len < BRIDGE_ANSWERS_MAX && !b->failed,
		  on_net);
	side_poll(&b->app, b->net.out.len < BRIDGE_QUEUE_MAX && !b->failed,
		  on_app);
}

static bool hand_over(struct bridge *b)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0,
		       pair)) {
		log_event(LOG_WARN, "accept", "error=%s",
			  log_quote(strerror(errno)));
		return false;
	}
	side_open(&b->app, b, pair[0]);
	b->http_fd = pair[1];
	map_put(&b->g->bridge_of, (uint64_t)pair[1], b);
	b->deadline_ms = UINT64_MAX;
	uncount(b);
	http_take(b->g, pair[1], (struct sockaddr *)&b->addr, b->addr_len);
	return true;
}

/* The first plain bytes: to the parser, unless our own look refuses them. */
static bool on_first(struct bridge *b)
{
	struct buf answer = BUF_INIT;
	struct err e = { 0 };

	if (!peek_refusal(b->g, b->app.out.data, b->app.out.len, &answer))
		return hand_over(b);
	b->refused = b->shut = true;
	b->deadline_ms = clock_ms(b->g->clock) + BRIDGE_LINGER_MS;
	if (tls_write(b->tls, answer.data, answer.len, &b->net.out, &e))
		b->failed = true;
	tls_close(b->tls, &b->net.out);
	buf_release(&answer);
	return true;
}

static void on_net(uv_poll_t *p, int status, int events)
{
	struct bridge *b = ((struct side *)p->data)->b;
	struct err e = { 0 };
	ssize_t n = 0;
	int rv = 0;

	if (b->closing)
		return;
	if (status < 0) {
		bridge_close(b);
		return;
	}
	if (events & UV_READABLE && !b->net.eof) {
		n = recv(b->net.fd, b->g->read_buf, GATEWAY_READ_MAX, 0);
		if (n < 0 && errno != EAGAIN && errno != EINTR) {
			bridge_close(b);
			return;
		}
		if (n == 0)
			rv = ERR_CLOSED;
		else if (n > 0)
			rv = tls_feed(b->tls, b->g->read_buf, (size_t)n,
				      &b->app.out, &b->net.out, &e);
	}
	if (rv == ERR_CLOSED) {
		b->net.eof = true;
	} else if (rv) {
		log_event(LOG_DEBUG, "tls_refused", "why=%s", log_quote(e.msg));
		b->failed = true;
	}
	if (b->refused)
		buf_release(&b->app.out);
	else if (!b->failed && b->app.fd < 0 &&
		 (b->app.out.len ? !on_first(b) : b->net.eof)) {
		bridge_close(b);
		return;
	}
	pump(b);
}

static void on_app(uv_poll_t *p, int status, int events)
{
	struct bridge *b = ((struct side *)p->data)->b;
	struct err e = { 0 };
	ssize_t n;

	if (b->closing)
		return;
	if (status < 0) {
		bridge_close(b);
		return;
	}
	if (events & UV_READABLE && !b->app.eof) {
		n = recv(b->app.fd, b->g->read_buf, GATEWAY_READ_MAX, 0);
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
			b->app.eof = true;
		else if (n > 0 && tls_write(b->tls, b->g->read_buf, (size_t)n,
					    &b->net.out, &e))
			b->failed = true;
	}
	pump(b);
}

/* ---- for the other files ---------------------------------------------------- */

void bridge_open(struct gateway *g, int fd, const struct sockaddr *addr,
		 socklen_t len)
{
	struct bridge *b = xcalloc(1, sizeof *b);
	struct err e = { 0 };

	b->g = g;
	b->app.fd = b->http_fd = -1;
	if (tls_new(&b->tls, g->tls, NULL, &e)) {
		log_event(LOG_WARN, "accept", "error=%s", log_quote(e.msg));
		metric_add(M_CONNECTS_REFUSED, 1);
		close(fd);
		free(b);
		return;
	}
	AN(len <= sizeof b->addr);
	memcpy(&b->addr, addr, len);
	b->addr_len = len;
	b->counted = true;
	gateway_socket_new(g);
	b->deadline_ms = clock_ms(g->clock) + GATEWAY_HEAD_MS;
	list_append(&g->bridges, &b->link);
	side_open(&b->net, b, fd);
	side_poll(&b->net, true, on_net);
}

/* What the parser has written comes first: its 101. */
static bool seal_rest(struct bridge *b)
{
	struct err e = { 0 };
	ssize_t n;

	while ((n = recv(b->app.fd, b->g->read_buf, GATEWAY_READ_MAX, 0)) > 0)
		if (tls_write(b->tls, b->g->read_buf, (size_t)n, &b->net.out,
			      &e))
			return false;
	return true;
}

/* Frames on their way to the parser, in their order: what it has read is in `in`. */
static void take_back(struct bridge *b, struct buf *in)
{
	ssize_t n;

	while ((n = recv(b->http_fd, buf_reserve(in, GATEWAY_READ_MAX),
			 GATEWAY_READ_MAX, MSG_DONTWAIT)) > 0)
		in->len += (size_t)n;
	buf_put(in, b->app.out.data, b->app.out.len);
}

int bridge_leave(struct gateway *g, int http_fd, struct tlsconn **tls,
		 struct buf *in)
{
	struct bridge *b = map_get(&g->bridge_of, (uint64_t)http_fd);
	int fd;

	if (!b || b->failed || b->shut)
		return -1;
	if (!seal_rest(b)) {
		bridge_close(b);
		return -1;
	}
	take_back(b, in);
	*tls = tlsconn_new(b->tls, &b->net.out);
	(*tls)->eof = b->net.eof;
	b->tls = NULL;
	fd = b->net.fd;
	side_release(&b->net);
	bridge_close(b);
	return fd;
}

void bridge_tick(struct gateway *g, uint64_t now_ms)
{
	LIST_FOREACH_SAFE(l, &g->bridges)
	{
		struct bridge *b = container_of(l, struct bridge, link);

		if (b->deadline_ms <= now_ms)
			bridge_close(b);
	}
}

void bridge_close_all(struct gateway *g)
{
	while (!list_empty(&g->bridges))
		bridge_close(container_of(g->bridges.next, struct bridge, link));
	map_release(&g->bridge_of);
}
