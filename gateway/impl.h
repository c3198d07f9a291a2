/* Insides of struct gateway, for the files of this folder that touch sockets. */
#ifndef QUIPU_GATEWAY_IMPL_H
#define QUIPU_GATEWAY_IMPL_H

#include "base/conf.h"
#include "base/list.h"
#include "base/map.h"
#include "base/tls.h"
#include "gateway/admin.h"
#include "gateway/admit.h"
#include "gateway/gateway.h"
#include "gateway/session.h"

#include <sys/socket.h>
#include <uv.h>

#define GATEWAY_READ_MAX (64u << 10)   /* bytes of one read */
#define GATEWAY_HEAD_MS 10000          /* a request head must end by then */
#define GATEWAY_BODY_MS 30000          /* a request's body likewise */
#define GATEWAY_KEEPALIVE_MS 75000     /* between requests */
#define GATEWAY_DRAIN_MS 10000
#define GATEWAY_ACCEPTS_MAX 64         /* per readable event */
#define GATEWAY_BUFFERS_MAX 1024       /* spare output buffers kept */
#define GATEWAY_WHEEL 256              /* slots of the timer wheel */
#define GATEWAY_WHEEL_MS 128           /* per slot */
#define GATEWAY_ORIGINS_MAX 32

struct http;

struct gateway {
	uv_loop_t *loop;
	struct node *node;
	const struct conf *conf;
	struct clock *clock;
	struct rand *rand;
	struct token_keys *keys;
	struct route route;
	struct session_env env;
	struct admit admit;
	struct tls_ctx *tls;
	struct net *links;        /* borrowed; NULL: a single node */

	uv_timer_t reaper;        /* never runs: its end frees the gateway */

	/* listen.c */
	uv_poll_t listener;
	int listen_fd;
	unsigned port;
	bool listening;
	uint64_t accept_again_ms; /* out of descriptors: pause until then */

	struct http *http;        /* http.c */
	struct list peeks;        /* peek.c */
	struct list bridges;      /* tlsgate.c */
	struct map bridge_of;     /* the parser's descriptor -> bridge */
	struct admin *admin;

	/* conn.c */
	struct list conns;        /* all */
	struct list dirty;        /* with output of this turn */
	struct list buffers;      /* spare output buffers */
	unsigned n_buffers;
	struct list wheel[GATEWAY_WHEEL];
	uint64_t wheel_slot;      /* absolute number of the next slot to look at */
	uint8_t *read_buf;
	struct buf opened, sealed; /* of TLS, for the time of one read or write */

	uint32_t n_sockets;       /* accepted and not yet closed */
	uint64_t started_ms, second_ms;
	bool leaving, draining, drained, in_flush;
	uint64_t drain_deadline_ms, drain_next_ms;
	unsigned drain_left, drain_step; /* goodbyes: to be said, at a look */
	void (*drain_done)(void *arg);
	void *drain_arg;
	void (*drain_asked)(void *arg);
	void *drain_asked_arg;
};

/* listen.c */
int listen_open(struct gateway *g, struct err *e);
void listen_stop(struct gateway *g);
void listen_tick(struct gateway *g, uint64_t now_ms);

/* http.c.  The socket is taken over, plain bytes flow over it. */
int http_open(struct gateway *g, struct err *e);
void http_close(struct gateway *g);
void http_take(struct gateway *g, int fd, const struct sockaddr *addr,
	       socklen_t len);
/* Look at what resumed requests and timers want; every turn. */
void http_turn(struct gateway *g);
uint64_t http_deadline_ms(const struct gateway *g);
void http_tick(struct gateway *g, uint64_t now_ms);
uint32_t http_connections(const struct gateway *g);

/* peek.c: the first head of a connection.  peek_open() takes a plain socket over. */
void peek_open(struct gateway *g, int fd, const struct sockaddr *addr,
	       socklen_t len);
void peek_tick(struct gateway *g, uint64_t now_ms);
void peek_close_all(struct gateway *g);
/* Is the head in these bytes here whole, and bad?  Then the answer is appended. */
bool peek_refusal(struct gateway *g, const void *p, size_t n, struct buf *out);

/* tlsgate.c: TLS in front of the HTTP parser, which gets one end of a socket pair
 * for the plain bytes. */
void bridge_open(struct gateway *g, int fd, const struct sockaddr *addr,
		 socklen_t len);
/* The client whose parser's descriptor is `http_fd` has upgraded: the pair goes, the
 * client's socket is returned with the TLS state, and what the client has sent
 * behind its request is appended to `in`.  -1: it is gone. */
struct tlsconn;
int bridge_leave(struct gateway *g, int http_fd, struct tlsconn **tls,
		 struct buf *in);
void bridge_tick(struct gateway *g, uint64_t now_ms);
void bridge_close_all(struct gateway *g);

/* certs.c */
int certs_open(struct gateway *g, struct err *e);
/* Unix time in seconds at which the certificate expires; 0: there is none. */
uint64_t certs_links_until(const struct gateway *g);
uint64_t certs_gateway_until(const struct gateway *g);
void certs_look(struct gateway *g); /* once a second: metrics */

/* gateway.c */
bool gateway_is_ready(const struct gateway *g);
/* Every descriptor that a client caused counts. */
void gateway_socket_new(struct gateway *g);
void gateway_socket_gone(struct gateway *g);

#endif
