/* Messages between nodes, as a vtable: consensus/link.c (one TLS 1.3 connection
 * per pair of nodes) and the simulator's network.
 *
 * A link delivers messages of one peer in order, at most once, and tells of every
 * break: between net_up and net_down of a peer nothing is lost, doubled or
 * reordered; what was queued when a link broke may or may not have arrived. */
#ifndef QUIPU_CONSENSUS_NET_H
#define QUIPU_CONSENSUS_NET_H

#include "base/buf.h"

#include <stdbool.h>

#define NET_MESSAGE_MAX (8u << 20)  /* bytes of one message */
#define NET_QUEUE_MAX (32u << 20)   /* bytes queued to one peer */
/* Entries stop this far below it: results, ends and heartbeats find room. */
#define NET_QUEUE_RESERVE (4u << 20)
#define NET_NODE_MAX 64             /* node ids are 1..63 */

struct entry;
struct net;

/* A message goes out as head bytes plus, optionally, the payloads of entries,
 * which are sent from where they lie (references taken until written):
 *   head | for each entry: payload bytes (entry_payload, len) */
struct net_ops {
	/* Queue one message to `peer`.  ERR_CLOSED: no link; ERR_FULL: the
	 * queue is at NET_QUEUE_MAX.  `head` is copied.  Bytes leave at flush. */
	int (*send)(struct net *n, uint64_t peer, const void *head, size_t len,
		    struct entry *const *entries, unsigned n_entries);
	/* All queued bytes of all peers to the sockets; once per loop turn. */
	void (*flush)(struct net *n);
	bool (*is_up)(struct net *n, uint64_t peer);
	size_t (*queued)(struct net *n, uint64_t peer);
};

struct net {
	const struct net_ops *ops;
	/* Set by the owner (node.c) before messages flow; called on the loop. */
	void (*on_up)(void *arg, uint64_t peer);
	void (*on_down)(void *arg, uint64_t peer);
	/* One whole message, borrowed during the call. */
	void (*on_message)(void *arg, uint64_t peer, const uint8_t *p, size_t n);
	void *arg;
};

#endif
