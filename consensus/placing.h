/* What all nodes say of their replicas, gathered for the planner: one question to each
 * peer, one answer from each.
 *
 * Messages between nodes, after the type byte, little endian:
 *   ASK   round u32
 *   ARE   round u32, disk id 16, replicas 32 (bit by shard), shards that the sender
 *         leads u16, then for each: shard u16, term u64, flags u8 (1: a change or
 *         hand-over is under way), members u8, and per member: id u8, flags u8 (1
 *         voter, 2 near the end of the log and connected), match u64 */
#ifndef QUIPU_CONSENSUS_PLACING_H
#define QUIPU_CONSENSUS_PLACING_H

#include "base/list.h"
#include "consensus/reconcile.h"

#define PLACING_WAIT_MS 3000 /* for answers; who is silent is left out */

enum placing_message { MSG_PLACES_ASK = 71, MSG_PLACES_ARE = 72 };

struct node;

/* The struct is the caller's and stays put until cb, which runs once, from
 * node_tick(), or until node_look_cancel(). */
struct node_look {
	void (*cb)(struct node_look *l);
	void *arg;
	struct list link;
};
void node_look(struct node *n, struct node_look *l);
void node_look_cancel(struct node *n, struct node_look *l);
/* As of the last look. */
const struct shard_picture *node_picture(const struct node *n, uint32_t shard);
/* Did the node answer the last look, and say that it has no replica of the shard? */
bool node_lacks(const struct node *n, uint8_t id, uint32_t shard);
/* Nodes that this one can reach, itself included; bits by id. */
uint64_t node_reach(const struct node *n);

/* For node.c and rpc.c. */
struct placing_peer {
	bool answered;
	uint8_t holds[PLACE_SHARDS_MAX / 8];
};

struct placing {
	struct list waiting;   /* looks that the one under way answers */
	struct list late;      /* that came since */
	uint32_t round;
	bool looking;
	uint64_t asked, deadline_ms;
	struct placing_peer peer[PLACE_NODES];
	struct shard_picture shard[PLACE_SHARDS_MAX];
	uint64_t term[PLACE_SHARDS_MAX];
};

/* What `from`, whose row is `m`, says (ARE, from behind the round on).  false:
 * malformed; what was good before that is taken. */
bool placing_take(struct placing *pl, uint32_t n_shards, const struct member *m,
		  uint64_t from, struct cursor *c);
void placing_open(struct node *n);
void placing_close(struct node *n);
void placing_tick(struct node *n, uint64_t now_ms);
bool placing_on_message(struct node *n, uint64_t peer, uint8_t type,
			struct cursor *c);

#endif
