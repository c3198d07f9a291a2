/* Insides of link.c and link_uv.c: one connection, a peer, all links. */
#ifndef QUIPU_CONSENSUS_LINK_UV_H
#define QUIPU_CONSENSUS_LINK_UV_H

#include "base/addr.h"
#include "base/list.h"
#include "base/tls.h"
#include "consensus/link.h"
#include "consensus/link_impl.h"

#include <uv.h>

#define LINK_READ_BYTES (256u << 10)

enum state { RESOLVE, CONNECT, SHAKE, HELLO, ADMIT, UP, CLOSED };

struct link_conn {
	struct list link; /* net->conns */
	struct link_net *net;
	struct link_peer *peer; /* of an accepted one: known from UP on */
	/* Of an accepted one: who it says it is, and the certificate agrees. */
	struct link_peer *from_peer;
	enum { REFUSED_NOT, REFUSED_HERE, REFUSED_THERE } disk; /* was turned away */
	unsigned version; /* of its hello */
	uint64_t boot;
	enum state state;
	bool dialed, writing, tcp_open, resolving, broken;
	uv_tcp_t tcp;
	uv_getaddrinfo_t gai;
	uv_connect_t creq;
	uv_write_t wreq;
	struct tls *tls; /* NULL: plain */
	char name[TLS_NAME_MAX]; /* of the peer's certificate */
	char from[64]; /* address, for the log */
	struct buf plain; /* read, not yet handed out */
	struct buf out;   /* to be written; TLS may add to it at any time */
	struct buf fly;   /* with libuv while `writing` */
	size_t out_at, fly_at; /* of them written */
	uint64_t deadline_ms, rx_ms, tx_ms;
	struct err why; /* of `broken`, or in ADMIT of a refusal to come */
};

struct link_peer {
	uint64_t id; /* 0: none */
	bool dropped; /* goes when its connections are closed */
	struct addr addr;
	struct link_conn *conn; /* UP */
	struct link_conn *dial; /* on its way there */
	struct link_queue queue;
	uint64_t retry_ms, dial_at_ms, boot;
	unsigned attempts;
	unsigned version; /* to be spoken at the next dial; 0: ours */
	struct link_stats stats;
};

struct link_net {
	struct net net;
	uv_loop_t *loop;
	struct rand *rand;
	uint64_t self, boot, founders;
	uint8_t cluster_id[16], disk_id[16];
	uint32_t shards;
	bool joined;
	struct link_admit admit;
	char cluster[LINK_CLUSTER_NAME_MAX + 1];
	unsigned keepalive_ms, dead_ms, tick_ms;
	struct tls_ctx *server, *client;
	struct link_peer peers[NET_NODE_MAX];
	struct list conns;
	unsigned n_accepting;
	uint16_t port;
	uv_tcp_t listener;
	uv_timer_t timer;
	uv_async_t async;
	uint64_t ticked_ms, refusal_log_ms, refusals;
	unsigned open; /* handles and lookups that libuv holds */
	bool closing;
	void (*closed)(void *arg);
	void *closed_arg;
	uint8_t *in, *stage;
};

/* link.c: libuv let go of one thing; the last one ends the net. */
void link_net_put(struct link_net *l);
/* A connection of a dropped peer is closed: the last one ends the peer. */
void link_peer_gone(struct link_peer *p);
/* NULL: none, or dropped. */
struct link_peer *link_peer_of(struct link_net *l, uint64_t id);
/* node-N.CLUSTER.quipu */
void link_node_name(const struct link_net *l, uint64_t id,
		    char out[TLS_NAME_MAX]);

/* link_uv.c */
struct link_conn *link_conn_new(struct link_net *l, bool dialed);
/* The socket is connected: TLS, or hello at once. */
void link_conn_start(struct link_conn *c);
/* All that can go now, in one write if the socket takes it. */
void link_conn_flush(struct link_conn *c);
/* The only way out.  A link that was up is told of to the owner. */
void link_conn_close(struct link_conn *c);
/* Close and say why. */
void link_conn_fail(struct link_conn *c, const struct err *e);
/* As link_conn_fail(), from inside a call of the owner: soon, from the loop. */
void link_conn_break(struct link_conn *c, const struct err *e);
/* A lookup ended after the connection was closed. */
void link_conn_put(struct link_conn *c);

#endif
