/* A client's WebSocket after the upgrade: the socket, its frames, the session
 * behind it.  An idle one owns this struct and no buffer: what is read goes
 * through the loop's one read buffer, what is written through a pooled buffer that
 * goes back when the socket has taken all of it. */
#ifndef QUIPU_GATEWAY_CONN_H
#define QUIPU_GATEWAY_CONN_H

#include "gateway/impl.h"

#define CONN_QUEUE_MAX (256u << 10) /* unsent bytes: the log is read no further */
#define CONN_QUEUE_LOW (64u << 10)  /* and goes on below these */
#define CONN_LINGER_MS 5000         /* our close frame waits so long for theirs */

struct tlsconn;

/* Takes `fd` and, on a TLS socket, its state; `tls` is NULL on a plain one.  The n
 * plain bytes at `p` came behind the request; they are unmasked in place. */
void conn_open(struct gateway *g, int fd, struct tlsconn *tls,
	       enum wire_format format, uint8_t *p, size_t n);
/* All output of this turn. */
void conn_flush_all(struct gateway *g);
void conn_tick(struct gateway *g, uint64_t now_ms);
uint64_t conn_deadline_ms(const struct gateway *g);
unsigned conn_count(const struct gateway *g);
/* goodbye to the next n, those first who are here longest; who has left meanwhile
 * counts too, who has had one hears no other. */
void conn_drain(struct gateway *g, unsigned n);
void conn_close_all(struct gateway *g);

#endif
