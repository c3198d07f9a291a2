/* One connection at a time:
 *
 *   wants_dial -> name looked up -> address by address connected -> (TLS up) ->
 *   client_on_connect, bytes both ways -> wants_close or EOF -> what is left is
 *   written -> socket closed -> client_on_closed
 *
 * A `conn` lives until its handles have closed; late callbacks find conn->dead. */
#include "base/alloc.h"
#include "base/assert.h"
#include "base/tls.h"
#include "client/os_uv.h"
#include "client/upgrade.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define READ_SIZE 65536
#define LINGER_MS 2000  /* our last bytes may take so long */
#define FULL_WAIT_MS 50
/* What TLS itself answers (key updates) while nothing is read of it. */
#define ANSWERS_MAX (256u << 10)

struct conn {
	struct client_os *os;
	uv_tcp_t tcp;
	uv_timer_t linger;
	uv_getaddrinfo_t lookup;
	uv_connect_t connect;
	uv_write_t write;
	struct gateway_url url;
	struct addrinfo *found, *next; /* addresses left to try */
	struct tls *tls;
	struct buf out;  /* for the socket */
	struct buf sent; /* that libuv is writing */
	struct buf plain;
	size_t answers;  /* of TLS itself, since all was written */
	uv_shutdown_t shutdown;
	unsigned handles; /* tcp, linger, lookup: not closed yet */
	bool looking, tcp_open, up, writing, ending, dead;
};

struct client_os {
	uv_loop_t *loop;
	struct client *client;
	struct tls_ctx *ctx;
	uv_timer_t timer;
	struct conn *conn;
	char why[200];
	char *read;
	unsigned handles;
	bool closing, inside, again;
	void (*closed)(void *arg);
	void *arg;
};

static void look_after(struct client_os *os);

/* The engine is fed: a kick from its events is for afterwards. */
static void feed_begin(struct client_os *os)
{
	AN(!os->inside);
	os->inside = true;
}

static void feed_end(struct client_os *os)
{
	os->inside = false;
}

static void connect_next(struct conn *c);

/* ---- the end -------------------------------------------------------------- */

static void os_gone(struct client_os *os)
{
	void (*closed)(void *) = os->closed;
	void *arg = os->arg;

	if (os->handles || os->conn)
		return;
	tls_ctx_free(os->ctx);
	free(os->read);
	free(os);
	if (closed)
		closed(arg);
}

static void conn_gone(struct conn *c)
{
	struct client_os *os = c->os;

	if (--c->handles)
		return;
	if (c->found)
		uv_freeaddrinfo(c->found);
	tls_free(c->tls);
	buf_release(&c->out);
	buf_release(&c->sent);
	buf_release(&c->plain);
	free(c);
	os->conn = NULL;
	if (os->closing) {
		os_gone(os);
		return;
	}
	feed_begin(os);
	client_on_closed(os->client, 0);
	feed_end(os);
	look_after(os);
}

static void on_conn_closed(uv_handle_t *h)
{
	conn_gone(h->data);
}

static void conn_close(struct conn *c)
{
	if (c->dead)
		return;
	c->dead = true;
	if (c->looking)
		uv_cancel((uv_req_t *)&c->lookup);
	/* One that failed to connect may be closing already. */
	if (c->tcp_open && !uv_is_closing((uv_handle_t *)&c->tcp))
		uv_close((uv_handle_t *)&c->tcp, on_conn_closed);
	uv_close((uv_handle_t *)&c->linger, on_conn_closed);
}

static void conn_fail(struct conn *c, const char *what, const char *why)
{
	if (c->dead)
		return;
	snprintf(c->os->why, sizeof c->os->why, "%.80s: %s%s%.100s",
		 c->url.authority, what, *what ? ": " : "", why);
	conn_close(c);
}

/* ---- writing -------------------------------------------------------------- */

static void conn_write(struct conn *c);

static void on_shutdown(uv_shutdown_t *req, int status)
{
	struct conn *c = req->data;

	if (status < 0)
		conn_close(c);
}

/* All is written.  Their EOF is waited for, or our last bytes might be thrown away
 * with what of theirs we have not read (RFC 9293 3.6.1). */
static void conn_shutdown(struct conn *c)
{
	if (c->dead || c->writing || c->out.len)
		return;
	c->shutdown.data = c;
	if (uv_shutdown(&c->shutdown, (uv_stream_t *)&c->tcp, on_shutdown))
		conn_close(c);
}

static void on_written(uv_write_t *req, int status)
{
	struct conn *c = req->data;

	c->writing = false;
	buf_clear(&c->sent);
	if (c->out.len == 0)
		c->answers = 0;
	if (c->dead)
		return;
	if (status < 0) {
		conn_fail(c, "write", uv_strerror(status));
		return;
	}
	conn_write(c);
	if (c->ending)
		conn_shutdown(c);
	else
		look_after(c->os);
}

/* One write at a time, of all there is. */
static void conn_write(struct conn *c)
{
	struct buf empty = c->sent;
	uv_buf_t b;
	int rv;

	if (c->writing || c->out.len == 0 || c->dead)
		return;
	c->sent = c->out;
	c->out = empty;
	b = uv_buf_init((char *)c->sent.data, (unsigned)c->sent.len);
	c->write.data = c;
	rv = uv_write(&c->write, (uv_stream_t *)&c->tcp, &b, 1, on_written);
	if (rv) {
		conn_fail(c, "write", uv_strerror(rv));
		return;
	}
	c->writing = true;
}

static void on_linger(uv_timer_t *t)
{
	conn_close(t->data);
}

/* The engine is done with this connection: its last bytes, then the end. */
static void conn_end(struct conn *c)
{
	if (c->dead || c->ending)
		return;
	if (!c->up) {
		conn_close(c);
		return;
	}
	c->ending = true;
	if (c->tls)
		tls_close(c->tls, &c->out);
	uv_timer_start(&c->linger, on_linger, LINGER_MS, 0);
	conn_write(c);
	conn_shutdown(c);
}

static bool room(const struct conn *c)
{
	return c->out.len + c->sent.len <= CLIENT_OS_WRITE_MAX;
}

static void pull_output(struct conn *c)
{
	struct client_os *os = c->os;
	struct buf b = BUF_INIT;
	struct err e;

	if (!c->up || c->dead || c->ending || !room(c))
		return;
	if (!c->tls) {
		client_output(os->client, &c->out);
	} else {
		client_output(os->client, &b);
		if (b.len && tls_write(c->tls, b.data, b.len, &c->out, &e))
			conn_fail(c, "TLS", e.msg);
		buf_release(&b);
	}
	conn_write(c);
}

/* ---- reading -------------------------------------------------------------- */

static void conn_up(struct conn *c)
{
	c->up = true;
	c->os->why[0] = 0;
	feed_begin(c->os);
	client_on_connect(c->os->client);
	feed_end(c->os);
}

static void feed(struct conn *c, const char *p, size_t n)
{
	size_t before = c->out.len;
	struct err e = { 0 };
	int rv;

	if (!c->tls) {
		feed_begin(c->os);
		client_on_bytes(c->os->client, p, n);
		feed_end(c->os);
		return;
	}
	buf_clear(&c->plain);
	rv = tls_feed(c->tls, p, n, &c->plain, &c->out, &e);
	c->answers += c->out.len - before;
	if (c->answers > ANSWERS_MAX) {
		conn_fail(c, "", "the gateway asks much and reads nothing");
		return;
	}
	if (!c->up && rv == 0 && tls_is_up(c->tls))
		conn_up(c);
	if (c->up && c->plain.len) {
		feed_begin(c->os);
		client_on_bytes(c->os->client, c->plain.data, c->plain.len);
		feed_end(c->os);
	}
	if (c->plain.cap > READ_SIZE)
		buf_release(&c->plain);
	conn_write(c);
	if (rv == ERR_CLOSED)
		conn_close(c);
	else if (rv)
		conn_fail(c, "", e.msg);
}

static void on_alloc(uv_handle_t *h, size_t hint, uv_buf_t *b)
{
	struct conn *c = h->data;

	(void)hint;
	*b = uv_buf_init(c->os->read, READ_SIZE);
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *b)
{
	struct conn *c = s->data;

	if (n == 0 || c->dead)
		return;
	if (n < 0) {
		if (n == UV_EOF)
			conn_close(c);
		else
			conn_fail(c, "read", uv_strerror((int)n));
		return;
	}
	if (!c->ending)
		feed(c, b->base, (size_t)n);
	look_after(c->os);
}

/* ---- connecting ----------------------------------------------------------- */

static void on_connected(uv_connect_t *req, int status)
{
	struct conn *c = req->data;
	struct err e;

	if (c->dead)
		return;
	if (status < 0) {
		if (c->next)
			connect_next(c);
		else
			conn_fail(c, "connect", uv_strerror(status));
		return;
	}
	uv_tcp_nodelay(&c->tcp, 1);
	uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read);
	if (!c->url.tls) {
		conn_up(c);
	} else if (tls_new(&c->tls, c->os->ctx, c->url.host, &e) ||
		   tls_start(c->tls, &c->out, &e)) {
		conn_fail(c, "TLS", e.msg);
		return;
	} else {
		conn_write(c);
	}
	look_after(c->os);
}

static void on_retry_closed(uv_handle_t *h)
{
	struct conn *c = h->data;

	c->handles--;
	c->tcp_open = false;
	if (c->dead) {
		c->handles++;
		conn_gone(c);
		return;
	}
	connect_next(c);
}

/* A socket that failed to connect is closed before the next address is tried. */
static void connect_next(struct conn *c)
{
	struct addrinfo *a = c->next;
	int rv;

	if (c->tcp_open) {
		uv_close((uv_handle_t *)&c->tcp, on_retry_closed);
		return;
	}
	c->next = a->ai_next;
	AZ(uv_tcp_init(c->os->loop, &c->tcp));
	c->tcp.data = c;
	c->tcp_open = true;
	c->handles++;
	c->connect.data = c;
	rv = uv_tcp_connect(&c->connect, &c->tcp, a->ai_addr, on_connected);
	if (rv) {
		if (c->next)
			connect_next(c);
		else
			conn_fail(c, "connect", uv_strerror(rv));
		return;
	}
}

static void on_found(uv_getaddrinfo_t *req, int status, struct addrinfo *res)
{
	struct conn *c = req->data;

	c->looking = false;
	c->found = c->next = res;
	if (c->dead) {
		conn_gone(c);
		return;
	}
	c->handles--;
	if (status < 0)
		conn_fail(c, "", uv_strerror(status));
	else
		connect_next(c);
}

static void dial(struct client_os *os, const char *url)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
	struct conn *c = xcalloc(1, sizeof *c);
	char port[8];
	int rv;

	c->os = os;
	os->conn = c;
	/* client_open() has parsed them all. */
	AZ(gateway_url_parse(&c->url, url, NULL));
	AZ(uv_timer_init(os->loop, &c->linger));
	c->linger.data = c;
	snprintf(port, sizeof port, "%u", c->url.port);
	c->lookup.data = c;
	c->handles = 2; /* linger, lookup */
	rv = uv_getaddrinfo(os->loop, &c->lookup, on_found, c->url.host, port, &hints);
	c->looking = rv == 0;
	if (rv) {
		c->handles = 1;
		c->dead = true;
		snprintf(os->why, sizeof os->why, "%.80s: %.100s", c->url.authority,
			 uv_strerror(rv));
		uv_close((uv_handle_t *)&c->linger, on_conn_closed);
	}
}

/* ---- the engine's wishes -------------------------------------------------- */

static void on_timer(uv_timer_t *t)
{
	struct client_os *os = t->data;

	feed_begin(os);
	client_tick(os->client);
	feed_end(os);
	look_after(os);
}

static void arm(struct client_os *os)
{
	uint64_t at = client_deadline_us(os->client), now = clock_us(&clock_real), wait;

	if (at == UINT64_MAX) {
		uv_timer_stop(&os->timer);
		return;
	}
	wait = at > now ? (at - now) / 1000 + 1 : 0;
	/* What is due waits for the socket. */
	if (os->conn && !room(os->conn) && wait < FULL_WAIT_MS)
		wait = FULL_WAIT_MS;
	uv_update_time(os->loop);
	uv_timer_start(&os->timer, on_timer, wait, 0);
}

/* The engine's events may call client_os_kick(): one at a time. */
static void look_after(struct client_os *os)
{
	const char *url;

	if (os->closing)
		return;
	if (os->inside) {
		os->again = true;
		return;
	}
	os->inside = true;
	do {
		os->again = false;
		if (os->conn) {
			pull_output(os->conn);
			if (client_wants_close(os->client))
				conn_end(os->conn);
		} else if ((url = client_wants_dial(os->client))) {
			dial(os, url);
		}
	} while (os->again);
	os->inside = false;
	arm(os);
}

void client_os_kick(struct client_os *os)
{
	look_after(os);
}

int client_os_open(struct client_os **out, uv_loop_t *loop, struct client *c,
		   const char *ca, struct err *e)
{
	const struct tls_files files = { .ca = ca };
	struct client_os *os = xcalloc(1, sizeof *os);
	int rv = tls_ctx_new(&os->ctx, TLS_CLIENT, &files, e);

	if (rv) {
		free(os);
		return rv;
	}
	os->loop = loop;
	os->client = c;
	os->read = xmalloc(READ_SIZE);
	AZ(uv_timer_init(loop, &os->timer));
	os->timer.data = os;
	os->handles = 1;
	uv_timer_start(&os->timer, on_timer, 0, 0);
	*out = os;
	return 0;
}

static void on_os_closed(uv_handle_t *h)
{
	struct client_os *os = h->data;

	os->handles--;
	os_gone(os);
}

void client_os_close(struct client_os *os, void (*closed)(void *arg), void *arg)
{
	AN(!os->closing);
	os->closing = true;
	os->closed = closed;
	os->arg = arg;
	if (os->conn)
		conn_close(os->conn);
	uv_close((uv_handle_t *)&os->timer, on_os_closed);
}

const char *client_os_error(const struct client_os *os)
{
	return os->why;
}
