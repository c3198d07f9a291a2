#include "base/alloc.h"
#include "base/buf.h"
#include "tools/lib/admin_client.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct admin_client {
	int fd;
	unsigned wait_ms;
	char *path;
	struct buf in;
};

int admin_client_open(struct admin_client **out, const char *path, struct err *e)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	struct admin_client *a;
	int fd;

	if (strlen(path) >= sizeof sa.sun_path)
		return err_set(e, ERR_CONFIG, "%s: a socket's path has at most %zu "
			       "bytes", path, sizeof sa.sun_path - 1);
	memcpy(sa.sun_path, path, strlen(path));
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_errno(e, errno, "socket");
	if (connect(fd, (struct sockaddr *)&sa, sizeof sa)) {
		int no = errno;

		close(fd);
		if (no == ENOENT || no == ECONNREFUSED)
			return err_set(e, ERR_UNAVAILABLE, "%s: no server: %s", path,
				       strerror(no));
		return err_errno(e, no, "%s", path);
	}
	a = xcalloc(1, sizeof *a);
	a->fd = fd;
	a->wait_ms = ADMIN_WAIT_MS;
	a->path = xstrdup(path);
	*out = a;
	return 0;
}

void admin_client_free(struct admin_client *a)
{
	if (!a)
		return;
	close(a->fd);
	buf_release(&a->in);
	free(a->path);
	free(a);
}

void admin_client_patience(struct admin_client *a, unsigned ms)
{
	a->wait_ms = ms;
}

static int send_all(struct admin_client *a, const char *p, size_t n, struct err *e)
{
	while (n) {
		ssize_t w = send(a->fd, p, n, MSG_NOSIGNAL);

		if (w < 0 && errno == EINTR)
			continue;
		if (w < 0)
			return err_errno(e, errno, "%s", a->path);
		p += w;
		n -= (size_t)w;
	}
	return 0;
}

/* One line into a->in, without its newline. */
static int read_line(struct admin_client *a, struct err *e)
{
	buf_clear(&a->in);
	for (;;) {
		struct pollfd p = { .fd = a->fd, .events = POLLIN };
		int n = poll(&p, 1, (int)a->wait_ms);
		uint8_t *to;
		ssize_t r;

		if (n < 0 && errno != EINTR)
			return err_errno(e, errno, "%s: poll", a->path);
		if (n == 0)
			return err_set(e, ERR_TIMEOUT, "%s: no answer in %u s", a->path,
				       a->wait_ms / 1000);
		to = buf_reserve(&a->in, 65536);
		r = n < 0 ? -1 : recv(a->fd, to, 65536, 0);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return err_errno(e, errno, "%s", a->path);
		if (r == 0)
			return err_set(e, ERR_CLOSED, "%s: the server closed the "
				       "connection before it answered", a->path);
		a->in.len += (size_t)r;
		if (a->in.data[a->in.len - 1] == '\n') {
			a->in.len--;
			return 0;
		}
		if (a->in.len > ADMIN_ANSWER_MAX)
			return err_set(e, ERR_TOO_LARGE, "%s: endless answer", a->path);
	}
}

int admin_client_call(struct admin_client *a, json_t *request, json_t **answer,
		      char name[ADMIN_NAME_MAX], struct err *e)
{
	char *line = json_dumps(request, JSON_COMPACT);
	json_t *o;
	int rv;

	json_decref(request);
	name[0] = 0;
	if (!line)
		return err_set(e, ERR_INVALID, "a name that is not UTF-8");
	rv = send_all(a, line, strlen(line), e);
	if (rv == 0)
		rv = send_all(a, "\n", 1, e);
	free(line);
	if (rv == 0)
		rv = read_line(a, e);
	if (rv)
		return rv;
	o = json_loadb((const char *)a->in.data, a->in.len, JSON_REJECT_DUPLICATES,
		       NULL);
	if (!json_is_boolean(json_object_get(o, "ok"))) {
		json_decref(o);
		return err_set(e, ERR_PROTOCOL, "%s: the answer is not one of a Quipu "
			       "server", a->path);
	}
	if (json_is_true(json_object_get(o, "ok"))) {
		*answer = o;
		return 0;
	}
	{
		const char *why = json_string_value(json_object_get(o, "error"));
		const char *detail = json_string_value(json_object_get(o, "detail"));

		snprintf(name, ADMIN_NAME_MAX, "%s", why ? why : "internal");
		err_set(e, ERR_INVALID, "%s", detail ? detail : name);
	}
	json_decref(o);
	return ERR_INVALID;
}
