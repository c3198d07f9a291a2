/* TLS 1.3 without sockets: bytes in, bytes out.  Links (mutual, own CA), the
 * gateway (server) and clients wrap their own sockets around it.
 *
 *   bytes from the socket -> tls_feed() -> plain bytes, and bytes to send
 *   plain bytes           -> tls_write() -> bytes to send
 *
 * The caller owns all buffers.  Whatever these calls append to `out` must go to
 * the socket, also after an error (the alert tells the peer why). */
#ifndef QUIPU_BASE_TLS_H
#define QUIPU_BASE_TLS_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define TLS_RECORD_MAX 16384 /* plain bytes of one record */
#define TLS_NAME_MAX 128     /* a certificate's name, with the zero */

struct tls_ctx;
struct tls;

enum tls_role {
	TLS_CLIENT,        /* checks the server by `ca` and its host name */
	TLS_SERVER,        /* shows its certificate, asks for none */
	TLS_MUTUAL_CLIENT, /* both show a certificate of `ca`; the caller */
	TLS_MUTUAL_SERVER, /* checks the peer's name (tls_peer_name) */
};

struct tls_files {
	const char *ca;   /* PEM; clients: NULL for the system's */
	const char *cert; /* PEM chain; not for TLS_CLIENT */
	const char *key;  /* PEM */
};

/* ERR_TLS, or what opening a file gave; the message names the file and the
 * reason.  Paths are not kept. */
int tls_ctx_new(struct tls_ctx **out, enum tls_role role,
		const struct tls_files *files, struct err *e);
/* Connections keep what they need; NULL is fine. */
void tls_ctx_free(struct tls_ctx *ctx);
/* Is the context's own certificate named `name` (CN and dNSName), in date and,
 * with a mutual role, of its own CA and good for both ends of a link? */
int tls_ctx_check_own(const struct tls_ctx *ctx, const char *name,
		      struct err *e);
/* Unix time in seconds at which the first certificate of the context's own chain
 * expires; not for TLS_CLIENT. */
int64_t tls_ctx_expires(const struct tls_ctx *ctx);

/* `host` is what a TLS_CLIENT expects: a DNS name or an address; else NULL. */
int tls_new(struct tls **out, struct tls_ctx *ctx, const char *host,
	    struct err *e);
void tls_free(struct tls *t); /* NULL is fine */
/* Clients begin: the first bytes to send. */
int tls_start(struct tls *t, struct buf *out, struct err *e);
/* Take n bytes from the peer: plain bytes are appended to `plain` (at most n and
 * what an unfinished record held, TLS_RECORD_MAX), answers to `out`.  0;
 * ERR_CLOSED after the peer's close_notify, which ends one direction only: writing
 * goes on; ERR_TLS with the reason, after which the connection is of no more use. */
int tls_feed(struct tls *t, const void *p, size_t n, struct buf *plain,
	     struct buf *out, struct err *e);
/* The handshake is over; writing is allowed. */
bool tls_is_up(const struct tls *t);
/* Encrypt.  Full records of TLS_RECORD_MAX are cheapest. */
int tls_write(struct tls *t, const void *p, size_t n, struct buf *out,
	      struct err *e);
/* close_notify */
void tls_close(struct tls *t, struct buf *out);

/* Name in the peer's certificate: its CN, which must be one of its dNSNames too
 * and free of wildcards.  ERR_TLS otherwise. */
int tls_peer_name(struct tls *t, char name[TLS_NAME_MAX], struct err *e);

#endif
