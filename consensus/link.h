/* Links: struct net over TCP and TLS 1.3, one connection for each pair of nodes,
 * both ways, all shards.
 *
 *   The node with the lower id dials, the higher one accepts, so there is never
 *   a second link.  After TLS both say hello: version, cluster, who to whom,
 *   boot nonce, disk.  The certificate must be of our CA and named for the node
 *   that hello names: node-N.CLUSTER.quipu.  What does not fit is logged, told to
 *   the peer and closed; the dialer tries again after 50 ms to 2 s.  The dialer's
 *   welcome ends it, so neither side hears a message of who was not admitted.
 *
 *       u32 length | message          length 0: a sign of life
 *
 *   send() queues; flush() encrypts all that waits for a peer into full records
 *   and gives them to the socket in one write.  An idle link says something
 *   every keepalive_ms; one silent for dead_ms is down.
 *
 * Without certificates links are plain; that is for tests, warned of, and
 * refused for addresses that are not loopback. */
#ifndef QUIPU_CONSENSUS_LINK_H
#define QUIPU_CONSENSUS_LINK_H

#include "base/err.h"
#include "base/rand.h"
#include "consensus/net.h"

#define LINK_CLUSTER_NAME_MAX 40
#define LINK_KEEPALIVE_MS 500
#define LINK_DEAD_MS 2000
#define LINK_HANDSHAKE_MS 5000 /* from connect to hello */
#define LINK_ACCEPTING_MAX 32  /* accepted, not yet said hello */
#define LINK_RETRY_MIN_MS 50
#define LINK_RETRY_MAX_MS 2000

struct link_peer_config {
	uint64_t id;
	const char *addr; /* host:port */
};

/* Who may come, beyond what names and certificates say (consensus/known.h). */
struct link_admit {
	/* 0, or the peer is turned away: ERR_PERM for its disk, which it is told
	 * apart from all other reasons; ERR_FAULTY because nobody may hear this
	 * node.  `disk_id` NULL: a version that says none. */
	int (*admit)(void *arg, uint64_t id, const uint8_t disk_id[16],
		     bool joined, struct err *e);
	/* A peer has turned this node away for its disk.  true: then nobody may
	 * hear it, all links end. */
	bool (*refused)(void *arg, uint64_t id, const char *why);
	void *arg;
};

struct link_config {
	uint64_t self;
	uint8_t disk_id[16];
	bool joined;        /* not a founder; said in hello, as the next two */
	uint64_t founders;  /* bits by id; two that differ do not talk.  0: not known */
	uint32_t shards;    /* of the cluster; 0: not known */
	struct link_admit admit; /* of NULLs: all may come */
	uint8_t cluster_id[16];
	const char *cluster_name; /* part of the certificates' names */
	const char *listen;       /* host:port; port 0: see link_port() */
	const struct link_peer_config *peers; /* may include self */
	unsigned n_peers;
	const char *ca, *cert, *key; /* PEM files; all NULL: plain */
	unsigned keepalive_ms, dead_ms; /* 0: the defaults above */
};

struct link_stats {
	bool up;
	bool refused_here;    /* this node turned its disk away */
	bool refused_there;   /* it turned this node's disk away */
	uint32_t shards;      /* as it said last; 0: not known */
	uint64_t up_since_ms; /* of the loop's clock */
	uint64_t ups;         /* times it came up; reconnects are ups - 1 */
	uint64_t bytes_in, bytes_out, messages_in, messages_out;
	uint64_t writes;      /* to the socket */
	char last_error[160]; /* why it is not up, or broke last */
};

/* `loop` is a uv_loop_t, whose thread makes all calls.  Copies what it needs of
 * the configuration.  The message of an error names the file, the address or
 * the value that is wrong.  Callbacks of struct net come from the loop, never
 * from inside send(), flush() or these calls. */
int link_open(struct net **out, void *loop, const struct link_config *cfg,
	      struct rand *rand, struct err *e);
/* From now on no callback but closed(), once the loop let go of everything. */
void link_close(struct net *n, void (*closed)(void *arg), void *arg);

/* Read the certificates again: handshakes from now on go by them, links that are
 * up stay.  An error, and nothing has changed: what a file is not good for is found
 * before.  Without certificates (plain links): 0, nothing is read. */
struct tls_files;
int link_reload(struct net *n, const struct tls_files *files, struct err *e);
/* Unix time at which this node's certificate expires; 0: plain links. */
int64_t link_cert_expires(const struct net *n);

/* Peers that come, move and go while links run.  A new address counts from the next
 * dial on; a link that is up stays.  ERR_CONFIG: no node id, this node, no address, or
 * a plain link off loopback. */
int link_peer_set(struct net *n, uint64_t id, const char *addr, struct err *e);
/* Its link ends (on_down() follows from the loop), it is dialled no more and refused
 * as a stranger.  Nothing where there is no such peer. */
void link_peer_drop(struct net *n, uint64_t id);

uint16_t link_port(const struct net *n);
/* How many peers turn this node away for its disk, and what one of them says. */
unsigned link_refused(const struct net *n, char why[160]);
/* ERR_NOT_FOUND: no such peer. */
int link_stats(const struct net *n, uint64_t peer, struct link_stats *out);

#endif
