/* The admin sockets: one call, or thousands of accounts, pipelined. */
#include "base/alloc.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/rand.h"
#include "gateway/admin.h"
#include "gateway/token.h"
#include "tools/bench/bench.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define DEPTH (ADMIN_PIPELINE_MAX / 2)
#define TRIES_MAX 50
#define WAIT_MS 20000

static int admin_connect(const char *path, struct err *e)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return err_errno(e, errno, "socket");
	if (strlen(path) >= sizeof sa.sun_path) {
		close(fd);
		return err_set(e, ERR_CONFIG, "%s: too long for a socket", path);
	}
	snprintf(sa.sun_path, sizeof sa.sun_path, "%s", path);
	if (connect(fd, (struct sockaddr *)&sa, sizeof sa)) {
		int rv = err_errno(e, errno, "admin socket %s", path);

		close(fd);
		return rv;
	}
	return fd;
}

static int write_all(int fd, const char *p, size_t n, struct err *e)
{
	while (n) {
		ssize_t w = send(fd, p, n, MSG_NOSIGNAL);

		if (w < 0 && errno == EINTR)
			continue;
		if (w < 0)
			return err_errno(e, errno, "admin socket");
		p += w;
		n -= (size_t)w;
	}
	return 0;
}

json_t *admin_call(const char *path, const char *request, struct err *e)
{
	struct buf in = BUF_INIT;
	json_error_t je;
	json_t *j = NULL;
	int fd = admin_connect(path, e);

	if (fd < 0)
		return NULL;
	if (write_all(fd, request, strlen(request), e) ||
	    write_all(fd, "\n", 1, e))
		goto out;
	for (;;) {
		struct pollfd pf = { fd, POLLIN, 0 };
		ssize_t n;

		if (poll(&pf, 1, WAIT_MS) <= 0) {
			err_set(e, ERR_TIMEOUT, "admin socket %s: no answer", path);
			goto out;
		}
		n = read(fd, buf_reserve(&in, 65536), 65536);
		if (n <= 0) {
			err_set(e, ERR_CLOSED, "admin socket %s: closed", path);
			goto out;
		}
		in.len += (size_t)n;
		if (in.data[in.len - 1] == '\n')
			break;
	}
	j = json_loadb((const char *)in.data, in.len, 0, &je);
	if (!j)
		err_set(e, ERR_FORMAT, "admin socket %s: %s", path, je.text);
out:
	buf_release(&in);
	close(fd);
	return j;
}

/* ---- many accounts --------------------------------------------------------------- */

struct maker {
	struct user *u;
	size_t n, next_account, done;
	uint8_t *tries;
	/* Ready for device-add, and to be tried again. */
	size_t *ready, n_ready, *again, n_again;
	struct err *e;
};

struct door {
	int fd;
	const char *path;
	struct buf in;
	size_t asked[DEPTH];     /* user * 2 + (device-add) */
	unsigned first, n;
};

static int ask(struct maker *m, struct door *d, size_t what)
{
	const struct user *u = &m->u[what / 2];
	char line[128];
	int n = snprintf(line, sizeof line,
			 what & 1 ? "{\"verb\":\"device-add\",\"account\":\"%016"
				    PRIx64 "\"}\n" :
				    "{\"verb\":\"account-add\",\"id\":\"%016"
				    PRIx64 "\"}\n", u->account);

	d->asked[(d->first + d->n++) % DEPTH] = what;
	return write_all(d->fd, line, (size_t)n, m->e);
}

static int fill(struct maker *m, struct door *d)
{
	int rv = 0;

	while (!rv && d->n < DEPTH) {
		if (m->n_ready)
			rv = ask(m, d, m->ready[--m->n_ready] * 2 + 1);
		else if (m->n_again)
			rv = ask(m, d, m->again[--m->n_again] * 2);
		else if (m->next_account < m->n)
			rv = ask(m, d, m->next_account++ * 2);
		else
			break;
	}
	return rv;
}

/* An outcome that is not known is left behind with the account: another one is
 * made, which is certain to have one device. */
static int answer(struct maker *m, struct door *d, json_t *j)
{
	size_t what = d->asked[d->first], i = what / 2;
	const char *error = json_string_value(json_object_get(j, "error"));

	d->first = (d->first + 1) % DEPTH;
	d->n--;
	if (json_is_true(json_object_get(j, "ok"))) {
		if (what & 1) {
			m->u[i].device = (uint32_t)json_integer_value(
				json_object_get(j, "device"));
			m->u[i].epoch = (uint32_t)json_integer_value(
				json_object_get(j, "epoch"));
			m->done++;
		} else {
			m->ready[m->n_ready++] = i;
		}
		return 0;
	}
	if (!error || strcmp(error, "bad-request") == 0 ||
	    ++m->tries[i] > TRIES_MAX) {
		const char *detail =
			json_string_value(json_object_get(j, "detail"));

		return err_set(m->e, ERR_UNAVAILABLE, "%s at %s: %s: %s",
			       what & 1 ? "device-add" : "account-add", d->path,
			       error ? error : "?", detail ? detail : "?");
	}
	usleep(20000);
	m->u[i].account = rand_u64(&rand_real) >> 1 | 1;
	m->again[m->n_again++] = i;
	return 0;
}

static int hear(struct maker *m, struct door *d)
{
	ssize_t n = read(d->fd, buf_reserve(&d->in, 65536), 65536);
	size_t at = 0;
	int rv = 0;

	if (n <= 0)
		return err_set(m->e, ERR_CLOSED, "admin socket %s: closed",
			       d->path);
	d->in.len += (size_t)n;
	while (!rv) {
		char *line = (char *)d->in.data + at;
		char *end = memchr(line, '\n', d->in.len - at);
		json_error_t je;
		json_t *j;

		if (!end)
			break;
		if (!d->n)
			return err_set(m->e, ERR_PROTOCOL, "admin socket %s: an "
				       "answer to nothing", d->path);
		j = json_loadb(line, (size_t)(end - line), 0, &je);
		if (!j)
			return err_set(m->e, ERR_FORMAT, "admin socket %s: %s",
				       d->path, je.text);
		rv = answer(m, d, j);
		json_decref(j);
		at += (size_t)(end - line) + 1;
	}
	buf_consume(&d->in, at);
	return rv;
}

static int make_all(struct maker *m, struct door *d, unsigned n_doors)
{
	struct pollfd pf[SERVERS_MAX];
	unsigned i;
	int rv = 0;

	while (!rv && m->done < m->n) {
		for (i = 0; i < n_doors && !rv; i++) {
			rv = fill(m, &d[i]);
			pf[i] = (struct pollfd){ d[i].fd, POLLIN, 0 };
		}
		if (rv)
			break;
		if (poll(pf, n_doors, WAIT_MS) <= 0)
			return err_set(m->e, ERR_TIMEOUT, "no answer of the admin "
				       "sockets");
		for (i = 0; i < n_doors && !rv; i++)
			if (pf[i].revents)
				rv = hear(m, &d[i]);
	}
	return rv;
}

static int make_tokens(const struct options *o, struct user *u, size_t n,
		       struct err *e)
{
	uint64_t now = clock_wall_ms(&clock_real) / 1000;
	struct token_keys *k;
	struct buf b = BUF_INIT;
	size_t i;
	int rv;

	if (!o->token_key)
		return err_set(e, ERR_CONFIG, "--token-key FILE is needed: the "
			       "cluster's token.key");
	rv = token_keys_open(&k, o->token_key, false, &rand_real, e);
	if (rv)
		return rv;
	for (i = 0; i < n; i++) {
		struct token_claims c = { u[i].account, u[i].device, u[i].epoch,
					  now, now + TOKEN_TTL_BENCH_S };
		size_t len;

		buf_clear(&b);
		token_make(k, &c, &rand_real, &b);
		buf_u8(&b, 0);
		u[i].token = (char *)buf_take(&b, &len);
	}
	token_keys_free(k);
	return 0;
}

int users_make(const struct options *o, struct user *u, size_t n, struct err *e)
{
	struct door doors[SERVERS_MAX];
	struct maker m = { .u = u, .n = n, .e = e };
	char *copy = xstrdup(o->admins ? o->admins : ""), *save, *t;
	unsigned n_doors = 0, i;
	size_t k;
	int rv = 0;

	memset(doors, 0, sizeof doors);
	for (t = strtok_r(copy, ",", &save); t && n_doors < SERVERS_MAX;
	     t = strtok_r(NULL, ",", &save)) {
		int fd = admin_connect(t, e);

		if (fd < 0)
			continue; /* another one does as well */
		doors[n_doors].fd = fd;
		doors[n_doors++].path = t;
	}
	for (k = 0; k < n; k++) {
		memset(&u[k], 0, sizeof u[k]);
		u[k].account = rand_u64(&rand_real) >> 1 | 1; /* no group id */
	}
	m.tries = xcalloc(n, 1);
	m.ready = xcalloc(n, sizeof *m.ready);
	m.again = xcalloc(n, sizeof *m.again);
	if (!n_doors)
		rv = e->code ? e->code :
			       err_set(e, ERR_CONFIG, "--admin SOCKET is needed");
	if (!rv)
		rv = make_all(&m, doors, n_doors);
	if (!rv)
		rv = make_tokens(o, u, n, e);
	for (i = 0; i < n_doors; i++) {
		close(doors[i].fd);
		buf_release(&doors[i].in);
	}
	free(m.tries);
	free(m.ready);
	free(m.again);
	free(copy);
	return rv;
}

void users_free(struct user *u, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++)
		free(u[i].token);
	free(u);
}
