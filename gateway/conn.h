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

/* Takes `fd`.  `http_fd` is the number of the descriptor that the HTTP parser had,
 * which finds the TLS bridge; `extra` came after the request. */
void conn_open(struct gateway *g, int fd, int http_fd, enum wire_format format,
	       const uint8_t *extra, size_t extra_len);
/* All output of this turn. */
void conn_flush_all(struct gateway *g);
void conn_tick(struct gateway *g, uint64_t now_ms);
uint64_t conn_deadline_ms(const struct gateway *g);
/* goodbye to all; returns how many are open. */
unsigned conn_drain(struct gateway *g);
void conn_close_all(struct gateway *g);

#endif
