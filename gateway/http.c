/* HTTP through libmicrohttpd, which parses and nothing else.
 *
 * The way of a request
 *   - the acceptor, or the TLS bridge, looks at the first head (peek.c) and gives
 *     the socket to MHD_add_connection
 *   - on_target keeps the raw target and makes the request object
 *   - on_request, first call: our own check of the head (head.c), then the route
 *     and the token; a refusal is queued here, before any body byte, and closes the
 *     connection where one would follow
 *   - further calls gather the body; the last one calls the handler, which answers
 *     at once or later (the connection is suspended then)
 *   - /v1/stream leaves with MHD_UPGRADE_ACTION_CLOSE: a copy of the descriptor
 *     (with TLS: the client's own, as the bridge ends) goes on in conn.c, and MHD
 *     keeps nothing
 *
 * The library's timeout is an idle timer: a byte a second holds a head open for
 * ever.  Every connection has an absolute deadline of ours besides, and passing it
 * shuts the socket down. */
#include "gateway/http.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/logf.h"
#include "base/metric.h"
#include "gateway/conn.h"
#include "gateway/head.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#if MHD_VERSION < 0x01000100
#error "libmicrohttpd >= 1.0.1 is needed: tools/dev/deps builds it"
#endif

#define MHD_MEMORY (16u << 10)  /* per connection: head and reply head */
#define MHD_IDLE_S 60
#define LOOK_MS 1000

struct http {
	struct gateway *g;
	struct MHD_Daemon *daemon;
	uv_poll_t poll;
	struct list peers, reqs;
	uint32_t n_peers;
	uint64_t deadline_ms;   /* the library's */
	uint64_t later_ms;      /* earliest of all requests' */
	uint64_t look_ms;       /* next look at the peers' deadlines */
	bool run_again;
};

/* One connection that MHD holds. */
struct peer {
	struct list link;
	struct http *h;
	int fd;
	uint64_t deadline_ms;
	bool busy;              /* a request is open */
};

static struct peer *peer_of(struct MHD_Connection *mc)
{
	const union MHD_ConnectionInfo *i =
		MHD_get_connection_info(mc, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

	return i ? i->socket_context : NULL;
}

static void on_connection(void *cls, struct MHD_Connection *mc, void **ctx,
			  enum MHD_ConnectionNotificationCode toe)
{
	struct http *h = cls;
	struct peer *p = *ctx;

	if (toe == MHD_CONNECTION_NOTIFY_STARTED) {
		p = xcalloc(1, sizeof *p);
		p->h = h;
		p->fd = MHD_get_connection_info(
				mc, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
		p->deadline_ms = clock_ms(h->g->clock) + GATEWAY_HEAD_MS;
		list_append(&h->peers, &p->link);
		h->n_peers++;
		gateway_socket_new(h->g);
		*ctx = p;
	} else if (p) {
		list_remove(&p->link);
		h->n_peers--;
		gateway_socket_gone(h->g);
		free(p);
		*ctx = NULL;
	}
}

static void *on_target(void *cls, const char *uri, struct MHD_Connection *mc)
{
	struct http *h = cls;
	struct http_req *r = xcalloc(1, sizeof *r);
	struct peer *p = peer_of(mc);

	if (p)
		p->busy = true;
	r->magic = HTTP_REQ_MAGIC;
	r->g = h->g;
	r->mc = mc;
	r->target = xstrdup(uri);
	r->target_len = strlen(uri);
	r->start_us = clock_us(h->g->clock);
	snprintf(r->id, sizeof r->id, "%016" PRIx64, rand_u64(h->g->rand));
	list_append(&h->reqs, &r->link);
	return r;
}

static void on_completed(void *cls, struct MHD_Connection *mc, void **con_cls,
			 enum MHD_RequestTerminationCode why)
{
	struct http *h = cls;
	struct http_req *r = *con_cls;
	struct peer *p = peer_of(mc);

	(void)why;
	if (p) {
		p->busy = false;
		p->deadline_ms = clock_ms(h->g->clock) + GATEWAY_KEEPALIVE_MS;
	}
	if (!r)
		return;
	AN(r->magic == HTTP_REQ_MAGIC);
	if (r->call)
		route_cancel(&r->g->route, r->call);
	list_remove(&r->link);
	buf_release(&r->body);
	buf_release(&r->reply);
	buf_release(&r->keep);
	free(r->target);
	r->magic = 0;
	free(r);
	*con_cls = NULL;
}

static void on_log(void *cls, const char *fmt, va_list ap)
{
	char line[256];

	(void)cls;
	vsnprintf(line, sizeof line, fmt, ap);
	line[strcspn(line, "\r\n")] = 0;
	/* TCP_NODELAY and friends on a socketpair: nothing to tell. */
	log_event(LOG_DEBUG, "http", "text=%s", log_quote(line));
}

/* ---- answers ---------------------------------------------------------------- */

static const char *status_name(unsigned status)
{
	static __thread char text[8];

	snprintf(text, sizeof text, "%u", status);
	return text;
}

static void add(struct MHD_Response *resp, const char *name, const char *value)
{
	AN(MHD_add_response_header(resp, name, value) == MHD_YES);
}

static enum MHD_Result queue_reply(struct http_req *r)
{
	struct MHD_Response *resp = MHD_create_response_from_buffer(
		r->reply.len, r->reply.data ? (void *)r->reply.data : (void *)"",
		MHD_RESPMEM_MUST_COPY);
	enum MHD_Result rv;
	char num[16];

	AN(resp);
	if (r->type)
		add(resp, MHD_HTTP_HEADER_CONTENT_TYPE, r->type);
	add(resp, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
	add(resp, "X-Content-Type-Options", "nosniff");
	add(resp, "X-Request-Id", r->id);
	add(resp, "Content-Security-Policy",
	    "default-src 'none'; frame-ancestors 'none'; sandbox");
	add(resp, "Referrer-Policy", "no-referrer");
	add(resp, "Cross-Origin-Resource-Policy", "same-origin");
	if (r->g->tls)
		add(resp, "Strict-Transport-Security", "max-age=31536000");
	if (r->allow)
		add(resp, MHD_HTTP_HEADER_ALLOW, r->allow);
	if (r->status == 401)
		add(resp, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
	if (r->status == 426) {
		add(resp, MHD_HTTP_HEADER_UPGRADE, "websocket");
		add(resp, "Sec-WebSocket-Version", "13");
	}
	if (r->retry_s) {
		snprintf(num, sizeof num, "%u", r->retry_s);
		add(resp, MHD_HTTP_HEADER_RETRY_AFTER, num);
	}
	if (r->close || r->g->draining)
		add(resp, MHD_HTTP_HEADER_CONNECTION, "close");
	metric_add_label(M_HTTP_REQUESTS, status_name(r->status), 1);
	r->queued = true;
	rv = MHD_queue_response(r->mc, r->status, resp);
	MHD_destroy_response(resp);
	return rv;
}

static void wake(struct http_req *r)
{
	struct peer *p;

	if (!r->suspended)
		return;
	r->suspended = false;
	p = peer_of(r->mc);
	if (p)
		p->deadline_ms = clock_ms(r->g->clock) + GATEWAY_BODY_MS;
	MHD_resume_connection(r->mc);
	r->g->http->run_again = true;
}

void http_reply(struct http_req *r, unsigned status, const char *type)
{
	AN(!r->status);
	r->status = status;
	r->type = type;
	wake(r);
}

/* Names and titles are our own, details may quote what came in. */
static void put_quoted(struct buf *b, const char *s)
{
	buf_u8(b, '"');
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;

		if (c < 0x20 || c >= 0x7f)
			buf_u8(b, '?');
		else if (c == '"' || c == '\\')
			buf_printf(b, "\\%c", c);
		else
			buf_u8(b, c);
	}
	buf_u8(b, '"');
}

void http_problem(struct http_req *r, unsigned status, const char *name,
		  const char *title, const char *detail)
{
	buf_clear(&r->reply);
	buf_printf(&r->reply, "{\"type\":\"/problems/%s\",\"title\":\"%s\","
		   "\"status\":%u,", name, title, status);
	if (detail) {
		buf_puts(&r->reply, "\"detail\":");
		put_quoted(&r->reply, detail);
		buf_u8(&r->reply, ',');
	}
	buf_printf(&r->reply, "\"instance\":\"%s\"}", r->id);
	http_reply(r, status, "application/problem+json");
}

void http_problem_status(struct http_req *r, int status)
{
	if (status == ST_DISK_FULL)
		r->retry_s = DISK_FULL_RETRY_MS / 1000;
	else if (status_http(status) == 503)
		r->retry_s = 1;
	http_problem(r, (unsigned)status_http(status), status_problem(status),
		     status_title(status), NULL);
}

void http_problem_route(struct http_req *r, int err)
{
	bool unknown = err == ERR_UNKNOWN_OUTCOME;

	if (err == ERR_FORMAT) {
		http_problem(r, 500, "internal", "Internal error", NULL);
		return;
	}
	buf_clear(&r->reply);
	buf_printf(&r->reply, "{\"type\":\"/problems/unavailable\",\"title\":"
		   "\"The shard has no leader to answer\",\"status\":503,"
		   "\"outcome\":\"%s\",\"instance\":\"%s\"}",
		   unknown ? "unknown" : "none", r->id);
	r->retry_s = 1;
	http_reply(r, 503, "application/problem+json");
}

const char *http_field(struct http_req *r, const char *name)
{
	return MHD_lookup_connection_value(r->mc, MHD_HEADER_KIND, name);
}

const char *http_arg(struct http_req *r, const char *name)
{
	return MHD_lookup_connection_value(r->mc, MHD_GET_ARGUMENT_KIND, name);
}

bool http_arg_u64(struct http_req *r, const char *name, uint64_t max,
		  uint64_t *v, bool *bad)
{
	const char *s = http_arg(r, name);
	uint64_t n = 0;

	if (!s)
		return false;
	if (!*s || strlen(s) > 16)
		*bad = true;
	for (; *s && !*bad; s++) {
		if (*s < '0' || *s > '9')
			*bad = true;
		else
			n = n * 10 + (uint64_t)(*s - '0');
	}
	if (n > max)
		*bad = true;
	if (*bad)
		return false;
	*v = n;
	return true;
}

/* ---- requests ---------------------------------------------------------------- */

static enum MHD_Result on_field(void *cls, enum MHD_ValueKind kind,
				const char *name, size_t name_len,
				const char *value, size_t value_len)
{
	(void)kind;
	head_field(cls, name, name_len, value, value_len);
	return MHD_YES;
}

/* The path against a route's; "{}" takes one non-empty segment. */
static bool path_matches(const char *path, const char *want, char *param)
{
	for (; *want; want++, path++) {
		if (want[0] == '{' && want[1] == '}') {
			size_t n = strcspn(path, "/");

			if (n == 0 || n >= HTTP_PARAM_MAX)
				return false;
			memcpy(param, path, n);
			param[n] = 0;
			path += n - 1;
			want++;
		} else if (*path != *want) {
			return false;
		}
	}
	return *path == 0;
}

static const struct http_route *const tables[] = {
	rest_system, rest_messages, rest_account,
};

static const struct http_route *find_route(struct http_req *r,
					   const char *method, const char *path)
{
	unsigned i;

	r->head = strcmp(method, "HEAD") == 0;
	if (r->head)
		method = "GET";
	for (i = 0; i < sizeof tables / sizeof tables[0]; i++) {
		const struct http_route *t;

		for (t = tables[i]; t->method; t++) {
			if (!path_matches(path, t->path, r->param))
				continue;
			if (strcmp(method, t->method) == 0)
				return t;
			r->allow = t->method;
		}
	}
	return NULL;
}

static bool is_json(const char *type)
{
	static const char json[] = "application/json";
	size_t n = sizeof json - 1;

	return type && strncasecmp(type, json, n) == 0 &&
	       (type[n] == 0 || type[n] == ';' || type[n] == ' ');
}

static bool bearer_good(struct http_req *r)
{
	const char *auth = http_field(r, MHD_HTTP_HEADER_AUTHORIZATION);
	const char *why = "no bearer token";
	enum token_verdict v = TOKEN_MISSING;

	if (auth && strncasecmp(auth, "Bearer ", 7) == 0)
		v = token_verify(r->g->keys, auth + 7, strlen(auth + 7),
				 clock_wall_ms(r->g->clock) / 1000, &r->claims,
				 &why);
	if (v == TOKEN_OK)
		return true;
	metric_add_label(M_TOKENS_REFUSED, token_problem(v), 1);
	http_problem(r, 401, token_problem(v), "The token was refused", why);
	return false;
}

/* First call: all that can be refused without the body. */
static void on_head(struct http_req *r, const char *url, const char *method,
		    const char *version)
{
	const char *why, *length;
	struct head h;

	head_begin(&h, method, version, r->target, r->target_len);
	MHD_get_connection_values_n(r->mc, MHD_HEADER_KIND, on_field, &h);
	why = head_end(&h);
	r->v10 = h.v10;
	if (why) {
		r->close = true;
		http_problem(r, 400, "bad-request", "Malformed request head",
			     why);
		return;
	}
	r->route = find_route(r, method, url);
	length = http_field(r, MHD_HTTP_HEADER_CONTENT_LENGTH);
	if (!r->route) {
		r->close = length || http_field(r, "Transfer-Encoding");
		if (r->allow)
			http_problem(r, 405, "method-not-allowed",
				     "The resource has no such method", NULL);
		else
			http_problem(r, 404, "not-found", "No such resource",
				     NULL);
		return;
	}
	if (http_field(r, "Transfer-Encoding") ||
	    (r->route->body && !length)) {
		r->close = true;
		http_problem(r, 411, "length-required",
			     "A body needs a Content-Length", NULL);
	} else if (length && strtoull(length, NULL, 10) >
				     (r->route->body ? HTTP_BODY_MAX : 0)) {
		r->close = true;
		http_problem(r, 413, "too-large", "The body is too large", NULL);
	} else if (r->route->body && !is_json(http_field(r, "Content-Type"))) {
		r->close = true;
		http_problem(r, 415, "media-type", "The body is not JSON", NULL);
	} else if (r->route->bearer && !bearer_good(r)) {
		/* Whoever has no account has no memory here either. */
		r->close = r->route->body;
	}
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *mc,
				  const char *url, const char *method,
				  const char *version, const char *data,
				  size_t *size, void **con_cls)
{
	struct http *h = cls;
	struct http_req *r = *con_cls;
	struct peer *p = peer_of(mc);

	AN(r && r->magic == HTTP_REQ_MAGIC);
	if (r->queued)
		return MHD_YES;
	if (!r->checked) {
		r->checked = true;
		if (p)
			p->deadline_ms = clock_ms(h->g->clock) +
					 GATEWAY_BODY_MS;
		on_head(r, url, method, version);
		/* An answer given here ends the connection: only where that is
		 * meant. */
		return r->status && r->close ? queue_reply(r) : MHD_YES;
	}
	if (*size) {
		/* Content-Length was checked; the library keeps to it. */
		if (r->body.len + *size > HTTP_BODY_MAX)
			return MHD_NO;
		buf_put(&r->body, data, *size);
		*size = 0;
		return MHD_YES;
	}
	if (!r->status)
		r->route->handle(r);
	if (r->upgrade)
		return MHD_YES;
	if (r->status)
		return queue_reply(r);
	if (p)
		p->deadline_ms = UINT64_MAX;
	r->suspended = true;
	MHD_suspend_connection(mc);
	return MHD_YES;
}

/* ---- WebSocket -------------------------------------------------------------- */

static void on_upgraded(void *cls, struct MHD_Connection *mc, void *con_cls,
			const char *extra, size_t extra_len, MHD_socket sock,
			struct MHD_UpgradeResponseHandle *urh)
{
	struct gateway *g = cls;
	struct http_req *r = con_cls;
	struct buf in = BUF_INIT;
	struct tlsconn *tls = NULL;
	int fd;

	(void)mc;
	if (extra_len)
		buf_put(&in, extra, extra_len);
	if (g->tls)
		fd = bridge_leave(g, sock, &tls, &in);
	else
		fd = fcntl(sock, F_DUPFD_CLOEXEC, 3);
	if (fd >= 0) {
		fcntl(fd, F_SETFL, O_NONBLOCK | fcntl(fd, F_GETFL));
		conn_open(g, fd, tls, (enum wire_format)r->limit, in.data,
			  in.len);
	} else {
		metric_add(M_CONNECTS_REFUSED, 1);
	}
	buf_release(&in);
	MHD_upgrade_action(urh, MHD_UPGRADE_ACTION_CLOSE);
	/* MHD closes its copy in the next MHD_run only. */
	g->http->run_again = true;
}

void http_upgrade(struct http_req *r, const char *accept, const char *protocol)
{
	struct MHD_Response *resp =
		MHD_create_response_for_upgrade(on_upgraded, r->g);

	AN(resp);
	add(resp, MHD_HTTP_HEADER_UPGRADE, "websocket");
	add(resp, "Sec-WebSocket-Accept", accept);
	add(resp, "Sec-WebSocket-Protocol", protocol);
	metric_add_label(M_HTTP_REQUESTS, "101", 1);
	r->queued = r->upgrade = true;
	AN(MHD_queue_response(r->mc, MHD_HTTP_SWITCHING_PROTOCOLS, resp) ==
	   MHD_YES);
	MHD_destroy_response(resp);
}

/* ---- the loop --------------------------------------------------------------- */

static void run(struct http *h)
{
	uint64_t ms;
	unsigned i;

	for (i = 0; i < 64; i++) {
		h->run_again = false;
		MHD_run(h->daemon);
		if (MHD_get_timeout64(h->daemon, &ms) != MHD_YES) {
			h->deadline_ms = UINT64_MAX;
			return;
		}
		if (ms && !h->run_again) {
			h->deadline_ms = clock_ms(h->g->clock) + ms;
			return;
		}
	}
	h->deadline_ms = clock_ms(h->g->clock);
}

static void on_poll(uv_poll_t *p, int status, int events)
{
	(void)status;
	(void)events;
	run(p->data);
}

int http_open(struct gateway *g, struct err *e)
{
	struct http *h = xcalloc(1, sizeof *h);
	const union MHD_DaemonInfo *info;

	h->g = g;
	h->deadline_ms = h->later_ms = UINT64_MAX;
	list_init(&h->peers);
	list_init(&h->reqs);
	h->daemon = MHD_start_daemon(
		MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_UPGRADE |
			MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG,
		0, NULL, NULL, on_request, h,
		MHD_OPTION_EXTERNAL_LOGGER, on_log, h,
		MHD_OPTION_CLIENT_DISCIPLINE_LVL, 1,
		MHD_OPTION_URI_LOG_CALLBACK, on_target, h,
		MHD_OPTION_NOTIFY_COMPLETED, on_completed, h,
		MHD_OPTION_NOTIFY_CONNECTION, on_connection, h,
		MHD_OPTION_CONNECTION_LIMIT,
		(unsigned)g->conf->gateway.max_connections,
		MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)MHD_IDLE_S,
		MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)MHD_MEMORY,
		MHD_OPTION_END);
	if (!h->daemon) {
		free(h);
		return err_set(e, ERR_IO, "the HTTP library did not start");
	}
	info = MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD);
	AN(info);
	AZ(uv_poll_init(g->loop, &h->poll, info->epoll_fd));
	h->poll.data = h;
	uv_poll_start(&h->poll, UV_READABLE, on_poll);
	g->http = h;
	return 0;
}

void http_take(struct gateway *g, int fd, const struct sockaddr *addr,
	       socklen_t len)
{
	/* Closes the socket where it fails. */
	if (MHD_add_connection(g->http->daemon, fd, addr, len) != MHD_YES)
		metric_add(M_CONNECTS_REFUSED, 1);
	g->http->run_again = true;
}

void http_turn(struct gateway *g)
{
	if (g->http->run_again)
		run(g->http);
}

uint32_t http_connections(const struct gateway *g)
{
	return g->http->n_peers;
}

uint64_t http_deadline_ms(const struct gateway *g)
{
	const struct http *h = g->http;

	return h->later_ms < h->deadline_ms ? h->later_ms : h->deadline_ms;
}

void http_later(struct http_req *r, uint64_t ms, void (*later)(struct http_req *))
{
	struct http *h = r->g->http;

	r->later = later;
	r->later_ms = clock_ms(r->g->clock) + ms;
	if (r->later_ms < h->later_ms)
		h->later_ms = r->later_ms;
}

bool http_gone(const struct http_req *r)
{
	const struct peer *p = peer_of(r->mc);
	char byte;
	ssize_t n;

	if (!p)
		return true;
	n = recv(p->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
	return n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}

static void laters(struct http *h, uint64_t now_ms)
{
	h->later_ms = UINT64_MAX;
	LIST_FOREACH(l, &h->reqs)
	{
		struct http_req *r = container_of(l, struct http_req, link);

		if (!r->later_ms)
			continue;
		if (r->later_ms <= now_ms || h->g->draining) {
			r->later_ms = 0;
			r->later(r); /* answers only wake it: it stays */
		}
		if (r->later_ms && r->later_ms < h->later_ms)
			h->later_ms = r->later_ms;
	}
}

void http_tick(struct gateway *g, uint64_t now_ms)
{
	struct http *h = g->http;

	if (h->later_ms <= now_ms || g->draining)
		laters(h, now_ms);
	/* Absolute deadlines to the second: cheap, and near enough. */
	if (h->look_ms <= now_ms || g->draining) {
		h->look_ms = now_ms + LOOK_MS;
		LIST_FOREACH(l, &h->peers)
		{
			struct peer *p = container_of(l, struct peer, link);

			if (p->deadline_ms > now_ms &&
			    (p->busy || !g->draining))
				continue;
			p->deadline_ms = UINT64_MAX;
			shutdown(p->fd, SHUT_RDWR);
		}
	}
	if (h->deadline_ms <= now_ms)
		run(h);
}

static void on_closed(uv_handle_t *handle)
{
	free(handle->data);
}

void http_close(struct gateway *g)
{
	struct http *h = g->http;

	if (!h)
		return;
	/* The library ends the process when it is stopped with suspended
	 * connections: answer them first. */
	LIST_FOREACH(l, &h->reqs)
	{
		struct http_req *r = container_of(l, struct http_req, link);

		if (!r->suspended)
			continue;
		if (r->call)
			route_cancel(&g->route, r->call);
		r->call = NULL;
		r->close = true;
		http_problem(r, 503, "draining", "The server is going away",
			     NULL);
	}
	MHD_run(h->daemon);
	uv_poll_stop(&h->poll);
	MHD_stop_daemon(h->daemon);
	g->http = NULL;
	uv_close((uv_handle_t *)&h->poll, on_closed);
}
