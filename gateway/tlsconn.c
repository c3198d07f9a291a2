#include "gateway/tlsconn.h"
#include "base/alloc.h"
#include "base/err.h"
#include "base/logf.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

#define SENT_KEEP (256u << 10) /* bytes in front of `sent` */

struct tlsconn *tlsconn_new(struct tls *tls, struct buf *out)
{
	struct tlsconn *t = xcalloc(1, sizeof *t);

	t->tls = tls;
	t->out = *out;
	buf_init(out);
	return t;
}

void tlsconn_free(struct tlsconn *t)
{
	if (!t)
		return;
	tls_free(t->tls);
	buf_release(&t->out);
	free(t);
}

bool tlsconn_open(struct tlsconn *t, const void *p, size_t n, struct buf *plain)
{
	struct err e = { 0 };
	int rv = tls_feed(t->tls, p, n, plain, &t->out, &e);

	if (rv == ERR_CLOSED) {
		t->eof = true;
	} else if (rv) {
		log_event(LOG_DEBUG, "tls_refused", "why=%s", log_quote(e.msg));
		return false;
	}
	return true;
}

/* As much of p as the socket takes; -1: it is broken. */
static ssize_t put(int fd, const uint8_t *p, size_t n)
{
	ssize_t took;

	do
		took = send(fd, p, n, MSG_NOSIGNAL);
	while (took < 0 && errno == EINTR);
	if (took < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return 0;
	return took;
}

static ssize_t put_waiting(struct tlsconn *t, int fd)
{
	ssize_t took = put(fd, t->out.data + t->sent, tlsconn_unsent(t));

	if (took < 0)
		return -1;
	t->sent += (size_t)took;
	if (t->sent == t->out.len) {
		buf_release(&t->out);
		t->sent = 0;
	} else if (t->sent > SENT_KEEP) {
		buf_consume(&t->out, t->sent);
		t->sent = 0;
	}
	return took;
}

ssize_t tlsconn_write(struct tlsconn *t, int fd, const void *p, size_t n,
		      struct buf *scratch)
{
	struct err e = { 0 };
	ssize_t took;

	/* Records leave in the order in which they were sealed: behind what waits,
	 * and behind what sealing itself adds. */
	if (tlsconn_unsent(t)) {
		if (n && tls_write(t->tls, p, n, &t->out, &e))
			return -1;
		return put_waiting(t, fd);
	}
	if (!n)
		return 0;
	buf_clear(scratch);
	if (tls_write(t->tls, p, n, scratch, &e))
		return -1;
	took = put(fd, scratch->data, scratch->len);
	if (took >= 0 && (size_t)took < scratch->len)
		buf_put(&t->out, scratch->data + took,
			scratch->len - (size_t)took);
	return took;
}

void tlsconn_end(struct tlsconn *t, int fd, struct buf *scratch)
{
	if (!t->shut) {
		t->shut = true;
		tls_close(t->tls, &t->out);
	}
	(void)tlsconn_write(t, fd, NULL, 0, scratch);
}
