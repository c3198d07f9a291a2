/* The gateway: sockets of clients on one side, the node's calls and
 * subscriptions on the other.  It holds no durable fact; every one is in the log.
 *
 *	accept (listen.c, admit.c) -> TLS (tlsgate.c) -> first head (peek.c, head.c)
 *	  -> HTTP (http.c)
 *	  REST: rest_*.c ------------------+
 *	  /v1/stream: conn.c -> session.c -+-> route.c -> node_propose/query
 *	                        ^----------------------- node_subscribe
 *
 * One loop thread, the node's.  The owner's loop turn is
 *	events of sockets and disks, node_turn(), gateway_flush(), block
 * so that all output of one turn to one connection leaves in one write.
 *
 *	main: uv_prepare callback:
 *		node_turn(node);
 *		gateway_flush(gw);
 *	main: one uv_timer for min(node_deadline_us, gateway_deadline_us):
 *		node_tick(node) and gateway_tick(gw) */
#ifndef QUIPU_GATEWAY_GATEWAY_H
#define QUIPU_GATEWAY_GATEWAY_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define QUIPU_VERSION "0.1.0"

struct conf;
struct gateway;
struct net;
struct node;

/* Bind and listen (gateway.listen), load or make the token keys, open the admin
 * socket, serve.  `loop` is the uv_loop_t of the node's thread.  Borrows node and
 * conf until gateway_close().  Every failure names the setting, file or address. */
int gateway_open(struct gateway **out, void *loop, struct node *node,
		 const struct conf *conf, struct err *e);

/* All output of this turn to the sockets; after node_turn(). */
void gateway_flush(struct gateway *g);
/* Timers: in the clock's mono_us; UINT64_MAX never. */
uint64_t gateway_deadline_us(const struct gateway *g);
void gateway_tick(struct gateway *g);

/* A stop has begun: /readyz says 503 from now on, all else goes on. */
void gateway_leave(struct gateway *g);
/* Stop accepting, goodbye to one session after the other, so that not all of them
 * come to the other gateways at once: a thousand a second, all within 5 s; done()
 * runs from gateway_tick() or a socket's event once all have left, after 10 s at
 * the latest. */
void gateway_drain(struct gateway *g, void (*done)(void *arg), void *arg);
/* Close all sockets.  Handles of the loop close in its next turns: run the loop
 * once more (UV_RUN_DEFAULT ends by itself) before the loop is closed. */
void gateway_close(struct gateway *g);

/* Links to peers (consensus/link.h), whose certificates are this process's too.
 * Borrowed until gateway_close(). */
void gateway_links(struct gateway *g, struct net *links);
/* Read the certificates of links and gateway again, from the files that the
 * configuration named at the start: all of them, or an error (also an event) and
 * none.  Handshakes from now on go by them, connections that are up stay. */
int gateway_reload(struct gateway *g, struct err *e);

/* The port listened on (conf port 0: the one that the system chose), and
 * gateway.listen with it ("127.0.0.1:8080"; allocated). */
unsigned gateway_port(const struct gateway *g);
char *gateway_address(const struct gateway *g);

/* What the `drain` verb of the admin socket asks of the process: called once. */
void gateway_on_drain(struct gateway *g, void (*cb)(void *arg), void *arg);

#endif
