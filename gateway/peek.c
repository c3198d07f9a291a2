/* A look at the first head of a connection before the HTTP parser gets it: what the
 * parser refuses itself it refuses in HTML, and everything else here speaks
 * problem+json.
 *
 *	plain: the bytes are looked at in the socket (MSG_PEEK) and stay there
 *	TLS:   the bridge has them and asks peek_refusal()
 *
 * One look, when the first bytes are here.  A head that comes in pieces goes to the
 * parser, as do later requests of the connection: they are refused there, with the
 * same status. */
#include "base/alloc.h"
#include "base/assert.h"
#include "base/metric.h"
#include "gateway/head.h"
#include "gateway/impl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PEEK_LINGER_MS 2000 /* who was refused may read why until then */

struct peek {
	struct list link;
	struct gateway *g;
	int fd;
	bool refused;
	uint64_t deadline_ms;
	struct sockaddr_storage addr;
	socklen_t addr_len;
	uv_poll_t poll;
};

/* ---- the refusal -------------------------------------------------------------- */

static void put_date(struct buf *out, uint64_t wall_ms)
{
	time_t t = (time_t)(wall_ms / 1000);
	char text[64];
	struct tm tm;

	gmtime_r(&t, &tm);
	strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &tm);
	buf_printf(out, "Date: %s\r\n", text);
}

static const char *phrase(unsigned status)
{
	return status == 431 ? "Request Header Fields Too Large" :
	       status == 505 ? "HTTP Version Not Supported" : "Bad Request";
}

static void put_refusal(struct gateway *g, const char *p, size_t n,
			unsigned status, const char *why, struct buf *out)
{
	struct buf body = BUF_INIT;
	uint64_t id = rand_u64(g->rand);
	char label[8];

	snprintf(label, sizeof label, "%u", status);
	metric_add_label(M_HTTP_REQUESTS, label, 1);
	buf_printf(&body,
		   "{\"type\":\"/problems/bad-request\",\"title\":\"Malformed "
		   "request head\",\"status\":%u,\"detail\":\"%s\","
		   "\"instance\":\"%016" PRIx64 "\"}", status, why, id);
	buf_printf(out, "HTTP/1.1 %u %s\r\nConnection: close\r\n", status,
		   phrase(status));
	put_date(out, clock_wall_ms(g->clock));
	buf_printf(out,
		   "Content-Type: application/problem+json\r\n"
		   "Content-Length: %zu\r\nCache-Control: no-store\r\n"
		   "X-Content-Type-Options: nosniff\r\n"
		   "X-Request-Id: %016" PRIx64 "\r\n", body.len, id);
	if (g->tls)
		buf_puts(out, "Strict-Transport-Security: max-age=31536000\r\n");
	buf_puts(out, "\r\n");
	if (n < 5 || memcmp(p, "HEAD ", 5) != 0)
		buf_put(out, body.data, body.len);
	buf_release(&body);
}

bool peek_refusal(struct gateway *g, const void *p, size_t n, struct buf *out)
{
	unsigned status;
	const char *why;

	if (head_look(p, n, &status, &why) != HEAD_BAD)
		return false;
	put_refusal(g, p, n, status, why, out);
	return true;
}

/* ---- plain sockets -------------------------------------------------------------- */

static void on_closed(uv_handle_t *h)
{
	free(h->data);
}

/* The descriptor goes on elsewhere, if it is not -1 by now. */
static void peek_end(struct peek *k)
{
	list_remove(&k->link);
	uv_poll_stop(&k->poll);
	uv_close((uv_handle_t *)&k->poll, on_closed);
	gateway_socket_gone(k->g);
	if (k->fd >= 0)
		close(k->fd);
	k->fd = -1;
}

static void hand_over(struct peek *k)
{
	int fd = k->fd;

	k->fd = -1;
	peek_end(k);
	http_take(k->g, fd, (struct sockaddr *)&k->addr, k->addr_len);
}

/* A socket that is closed with unread bytes would take the answer along. */
static void refuse(struct peek *k, const struct buf *answer)
{
	k->refused = true;
	k->deadline_ms = clock_ms(k->g->clock) + PEEK_LINGER_MS;
	/* An empty socket takes so little whole. */
	if (send(k->fd, answer->data, answer->len, MSG_NOSIGNAL) < 0 ||
	    shutdown(k->fd, SHUT_WR))
		peek_end(k);
}

static void on_first(struct peek *k)
{
	struct gateway *g = k->g;
	struct buf answer = BUF_INIT;
	ssize_t n = recv(k->fd, g->read_buf, GATEWAY_READ_MAX, MSG_PEEK);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0)
		peek_end(k);
	else if (peek_refusal(g, g->read_buf, (size_t)n, &answer))
		refuse(k, &answer);
	else
		hand_over(k);
	buf_release(&answer);
}

static void on_poll(uv_poll_t *p, int status, int events)
{
	struct peek *k = p->data;
	ssize_t n;

	(void)events;
	if (status < 0) {
		peek_end(k);
		return;
	}
	if (!k->refused) {
		on_first(k);
		return;
	}
	n = recv(k->fd, k->g->read_buf, GATEWAY_READ_MAX, 0);
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		peek_end(k);
}

void peek_open(struct gateway *g, int fd, const struct sockaddr *addr,
	       socklen_t len)
{
	struct peek *k = xcalloc(1, sizeof *k);

	AN(len <= sizeof k->addr);
	memcpy(&k->addr, addr, len);
	k->addr_len = len;
	k->g = g;
	k->fd = fd;
	k->deadline_ms = clock_ms(g->clock) + GATEWAY_HEAD_MS;
	list_append(&g->peeks, &k->link);
	gateway_socket_new(g);
	AZ(uv_poll_init(g->loop, &k->poll, fd));
	k->poll.data = k;
	uv_poll_start(&k->poll, UV_READABLE, on_poll);
}

void peek_tick(struct gateway *g, uint64_t now_ms)
{
	LIST_FOREACH_SAFE(l, &g->peeks)
	{
		struct peek *k = container_of(l, struct peek, link);

		if (k->deadline_ms <= now_ms || (g->draining && !k->refused))
			peek_end(k);
	}
}

void peek_close_all(struct gateway *g)
{
	while (!list_empty(&g->peeks))
		peek_end(container_of(g->peeks.next, struct peek, link));
}
