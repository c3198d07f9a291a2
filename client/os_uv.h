/* libuv under the device engine: sockets, TLS, names, one timer.
 *
 *	client_open(&c, ...); client_os_open(&os, loop, c, ca, &e); uv_run(loop)
 *	client_send(c, ...);  client_os_kick(os);
 *	client_close(c);      client_os_kick(os);    leaves in good order
 *	client_os_close(os, closed, arg);
 *
 * Events of the engine come inside uv_run() and inside client_os_kick().  The program
 * ignores SIGPIPE: a gateway may leave at any time. */
#ifndef QUIPU_CLIENT_OS_UV_H
#define QUIPU_CLIENT_OS_UV_H

#include "client/quipu.h"

#include <uv.h>

#define CLIENT_OS_WRITE_MAX (1u << 20) /* unsent bytes; the engine waits */

struct client_os;

/* Begin to connect in the next turn of the loop.  Borrows the engine until the
 * close callback.  `ca`: PEM file for wss://, NULL: the system's.  ERR_TLS. */
int client_os_open(struct client_os **out, uv_loop_t *loop, struct client *c,
		   const char *ca, struct err *e);
/* Something was asked of the engine: look after it. */
void client_os_kick(struct client_os *os);
/* Close the socket as it is and free; `closed` runs in a later turn of the loop,
 * then the engine may be freed.  Call client_close() before, to leave in good
 * order. */
void client_os_close(struct client_os *os, void (*closed)(void *arg), void *arg);
/* Why the last connection failed, for people; "" when none did. */
const char *client_os_error(const struct client_os *os);

#endif
