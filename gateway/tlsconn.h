/* TLS of a client that has left the HTTP parser: beside OpenSSL's own state an idle
 * one owns these few bytes and no buffer.  Plain bytes are sealed when they are
 * written, through the loop's one scratch buffer; only what the socket does not
 * take is kept. */
#ifndef QUIPU_GATEWAY_TLSCONN_H
#define QUIPU_GATEWAY_TLSCONN_H

#include "base/buf.h"
#include "base/tls.h"

#include <stdbool.h>
#include <sys/types.h>

struct tlsconn {
	struct tls *tls;
	struct buf out;  /* sealed, not yet taken by the socket from `sent` on */
	size_t sent;
	bool eof;        /* nothing more comes: close_notify or the socket's end */
	bool shut;       /* our close_notify is in `out` or on its way */
};

/* Both are taken over: the state, and sealed bytes that go out before all else. */
struct tlsconn *tlsconn_new(struct tls *tls, struct buf *out);
void tlsconn_free(struct tlsconn *t); /* NULL is fine */

static inline size_t tlsconn_unsent(const struct tlsconn *t)
{
	return t->out.len - t->sent;
}

/* Unseal n bytes of the socket: plain bytes are appended to `plain`.  False: the
 * connection is of no more use (the alert that says why is in `out`); the end of
 * their direction only sets `eof`. */
bool tlsconn_open(struct tlsconn *t, const void *p, size_t n, struct buf *plain);
/* Seal n bytes and write, what waits first.  Bytes that the socket took, or -1. */
ssize_t tlsconn_write(struct tlsconn *t, int fd, const void *p, size_t n,
		      struct buf *scratch);
/* The last that we say: close_notify, as far as the socket takes it now. */
void tlsconn_end(struct tlsconn *t, int fd, struct buf *scratch);

#endif
