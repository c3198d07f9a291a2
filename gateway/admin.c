/* The admin socket: connections, lines, answers in order. */
#include "gateway/admin.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/logf.h"
#include "gateway/admin_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

struct admin {
	struct gateway *g;
	uv_pipe_t listener;
	char *path;
	struct list conns;
	unsigned n_conns;
};

struct admin_conn {
	struct list link;
	struct admin *a;
	uv_pipe_t pipe;
	struct buf in;
	struct list reqs;
	unsigned n_reqs, n_writes;
	bool reading, ended, closing; /* ended: nothing more will be read */
	char chunk[ADMIN_LINE_MAX];
};

struct write {
	uv_write_t req;
	struct admin_conn *conn;
	char *bytes;
};

/* ---- answers ---------------------------------------------------------------- */

static void conn_close_admin(struct admin_conn *c);
static void read_more(struct admin_conn *c);

static void req_free(struct admin_req *r)
{
	if (r->call)
		route_cancel(&r->g->route, r->call);
	if (r->drop)
		r->drop(r);
	list_remove(&r->link);
	r->conn->n_reqs--;
	json_decref(r->in);
	free(r->out);
	free(r);
}

static void on_written(uv_write_t *req, int status)
{
	struct write *w = (struct write *)(void *)req;
	struct admin_conn *c = w->conn;

	c->n_writes--;
	free(w->bytes);
	free(w);
	if (c->closing)
		return;
	if (status < 0 || (c->ended && !c->n_writes && !c->n_reqs))
		conn_close_admin(c);
	else
		read_more(c);
}

/* What is answered at the head of the queue leaves. */
static void answers_write(struct admin_conn *c)
{
	while (!list_empty(&c->reqs)) {
		struct admin_req *r = container_of(c->reqs.next,
						   struct admin_req, link);
		struct write *w;
		uv_buf_t b;

		if (!r->out)
			break;
		w = xcalloc(1, sizeof *w);
		w->conn = c;
		w->bytes = r->out;
		b = uv_buf_init(r->out, (unsigned)r->out_len);
		r->out = NULL;
		req_free(r);
		c->n_writes++;
		if (uv_write(&w->req, (uv_stream_t *)&c->pipe, &b, 1,
			     on_written)) {
			c->n_writes--;
			free(w->bytes);
			free(w);
			conn_close_admin(c);
			return;
		}
	}
}

static void answer(struct admin_req *r, json_t *o)
{
	char *text = json_dumps(o, JSON_COMPACT);

	AN(text && !r->out);
	json_decref(o);
	r->out_len = strlen(text) + 1;
	r->out = xmalloc(r->out_len);
	memcpy(r->out, text, r->out_len - 1);
	r->out[r->out_len - 1] = '\n';
	free(text);
	if (!r->conn->closing)
		answers_write(r->conn);
}

void admin_ok(struct admin_req *r, json_t *members)
{
	json_t *o = json_pack("{s:b}", "ok", 1);

	AN(o);
	if (members) {
		AZ(json_object_update(o, members));
		json_decref(members);
	}
	answer(r, o);
}

void admin_fail(struct admin_req *r, const char *error, const char *fmt, ...)
{
	char text[ERR_MSG_MAX];
	va_list ap;
	json_t *o;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	o = json_pack("{s:b,s:s,s:s}", "ok", 0, "error", error, "detail", text);
	if (!o) /* the text was cut inside a character, or never was UTF-8 */
		o = json_pack("{s:b,s:s,s:s}", "ok", 0, "error", error,
			      "detail", "not to be shown");
	answer(r, o);
}

/* ---- lines ------------------------------------------------------------------ */

static struct admin_req *req_new(struct admin_conn *c)
{
	struct admin_req *r = xcalloc(1, sizeof *r);

	r->conn = c;
	r->g = c->a->g;
	list_append(&c->reqs, &r->link);
	c->n_reqs++;
	return r;
}

static void line(struct admin_conn *c, const char *p, size_t n)
{
	struct admin_req *r = req_new(c);
	json_error_t why;

	r->in = json_loadb(p, n, JSON_REJECT_DUPLICATES, &why);
	if (!r->in)
		admin_fail(r, "bad-request", "not JSON: %s", why.text);
	else if (!json_is_object(r->in))
		admin_fail(r, "bad-request", "not a JSON object");
	else
		admin_verb(r);
}

/* Requests without an answer, and answers that nobody has read. */
static bool is_full(const struct admin_conn *c)
{
	return c->n_reqs + c->n_writes >= ADMIN_PIPELINE_MAX;
}

static void lines(struct admin_conn *c)
{
	size_t at = 0;

	while (!c->closing && !c->ended && !is_full(c)) {
		const char *p = (const char *)c->in.data + at;
		const char *nl = c->in.len > at ?
					 memchr(p, '\n', c->in.len - at) : NULL;

		if ((nl ? (size_t)(nl - p) : c->in.len - at) > ADMIN_LINE_MAX) {
			c->ended = true;
			admin_fail(req_new(c), "bad-request",
				   "a line is at most %d bytes", ADMIN_LINE_MAX);
			break;
		}
		if (!nl)
			break;
		at += (size_t)(nl - p) + 1;
		line(c, p, (size_t)(nl - p));
	}
	if (!c->closing)
		buf_consume(&c->in, at);
}

static void on_alloc(uv_handle_t *h, size_t want, uv_buf_t *b)
{
	struct admin_conn *c = h->data;

	(void)want;
	*b = uv_buf_init(c->chunk, sizeof c->chunk);
}

static void stop_reading(struct admin_conn *c)
{
	if (c->reading)
		uv_read_stop((uv_stream_t *)&c->pipe);
	c->reading = false;
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *b)
{
	struct admin_conn *c = s->data;

	if (n < 0) {
		/* A peer that only ended its side still gets its answers. */
		c->ended = true;
		stop_reading(c);
		if (n != UV_EOF || (!c->n_reqs && !c->n_writes))
			conn_close_admin(c);
		return;
	}
	buf_put(&c->in, b->base, (size_t)n);
	read_more(c);
}

/* The lines that are here, then more of them as long as few are open. */
static void read_more(struct admin_conn *c)
{
	lines(c);
	if (c->closing)
		return;
	if (c->ended || is_full(c)) {
		stop_reading(c);
	} else if (!c->reading) {
		c->reading = true;
		uv_read_start((uv_stream_t *)&c->pipe, on_alloc, on_read);
	}
}

/* ---- connections ------------------------------------------------------------ */

static void on_conn_closed(uv_handle_t *h)
{
	struct admin_conn *c = h->data;

	buf_release(&c->in);
	free(c);
}

static void conn_close_admin(struct admin_conn *c)
{
	struct list *l;

	if (c->closing)
		return;
	c->closing = true;
	while ((l = list_pop(&c->reqs)))
		req_free(container_of(l, struct admin_req, link));
	list_remove(&c->link);
	c->a->n_conns--;
	uv_close((uv_handle_t *)&c->pipe, on_conn_closed);
}

static void on_connection(uv_stream_t *s, int status)
{
	struct admin *a = s->data;
	struct admin_conn *c;

	if (status < 0)
		return;
	c = xcalloc(1, sizeof *c);
	c->a = a;
	list_init(&c->reqs);
	AZ(uv_pipe_init(a->g->loop, &c->pipe, 0));
	c->pipe.data = c;
	list_append(&a->conns, &c->link);
	a->n_conns++;
	if (uv_accept(s, (uv_stream_t *)&c->pipe) ||
	    a->n_conns > ADMIN_CONNS_MAX) {
		conn_close_admin(c);
		return;
	}
	read_more(c);
}

/* ---- open and close --------------------------------------------------------- */

/* A socket's address holds 107 bytes, a data folder's path may hold more: the way
 * through an open folder is always short. */
static int address(struct sockaddr_un *sa, const char *path, int *dir,
		   struct err *e)
{
	const char *slash = strrchr(path, '/');
	char *folder;

	*dir = -1;
	memset(sa, 0, sizeof *sa);
	sa->sun_family = AF_UNIX;
	if (strlen(path) < sizeof sa->sun_path) {
		memcpy(sa->sun_path, path, strlen(path) + 1);
		return 0;
	}
	folder = xstrdup(path);
	folder[slash - path] = 0;
	*dir = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	free(folder);
	if (*dir < 0)
		return err_errno(e, errno, "admin socket %s", path);
	snprintf(sa->sun_path, sizeof sa->sun_path, "/proc/self/fd/%d/%.60s",
		 *dir, slash + 1);
	return 0;
}

static int bind_socket(int fd, const char *path, struct err *e)
{
	struct sockaddr_un sa;
	struct stat st;
	mode_t mask;
	int dir, rv = address(&sa, path, &dir, e);

	if (rv)
		return rv;
	if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode)) {
		int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		bool served = probe >= 0 &&
			      connect(probe, (struct sockaddr *)&sa,
				      sizeof sa) == 0;

		if (probe >= 0)
			close(probe);
		if (served)
			rv = err_set(e, ERR_EXISTS,
				     "admin socket %s: another process "
				     "serves it", path);
		else
			unlink(path);
	}
	mask = umask(0177);
	if (!rv && (bind(fd, (struct sockaddr *)&sa, sizeof sa) ||
		    listen(fd, ADMIN_CONNS_MAX)))
		rv = err_errno(e, errno, "admin socket %s", path);
	umask(mask);
	if (dir >= 0)
		close(dir);
	return rv;
}

int admin_open(struct admin **out, struct gateway *g, const char *path,
	       struct err *e)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct admin *a;
	int rv;

	if (fd < 0)
		return err_errno(e, errno, "admin socket %s", path);
	rv = bind_socket(fd, path, e);
	if (rv) {
		close(fd);
		return rv;
	}
	a = xcalloc(1, sizeof *a);
	a->g = g;
	a->path = xstrdup(path);
	list_init(&a->conns);
	AZ(uv_pipe_init(g->loop, &a->listener, 0));
	a->listener.data = a;
	AZ(uv_pipe_open(&a->listener, fd));
	AZ(uv_listen((uv_stream_t *)&a->listener, ADMIN_CONNS_MAX,
		     on_connection));
	*out = a;
	return 0;
}

static void on_listener_closed(uv_handle_t *h)
{
	struct admin *a = h->data;

	free(a->path);
	free(a);
}

void admin_close(struct admin *a)
{
	if (!a)
		return;
	while (!list_empty(&a->conns))
		conn_close_admin(container_of(a->conns.next, struct admin_conn,
					      link));
	unlink(a->path);
	uv_close((uv_handle_t *)&a->listener, on_listener_closed);
}
