/* Who is in the cluster, as one node knows it: the rows of the meta shard, read again
 * now and then and at a peer's hint, and kept in the file `members` of the data folder
 * so that a restart finds its peers (docs/format.md).
 *
 * The meta shard's leader enters the founders once, when the feature level allows it.
 * Each node enters its own disk id while its row has none.
 *
 * Messages between nodes, after the type byte, little endian:
 *   MEMBERS      epoch u64: the sender's table; who has an older one asks for it
 *   MEMBERS_ASK  nothing
 *   MEMBERS_ARE  the sender's table, as in the file
 * The meta shard's leader is asked too, but a node that joins may know only peers that
 * do not lead it, and before it has a table it lets nobody else in. */
#ifndef QUIPU_CONSENSUS_MEMBERS_H
#define QUIPU_CONSENSUS_MEMBERS_H

#include "base/cursor.h"
#include "consensus/member.h"
#include "log/disk.h"

struct node;

#define MEMBERS_FILE_MAX (32u << 10) /* bytes */
#define MEMBERS_VERSION 1

enum members_message {
	MSG_MEMBERS = 70,
	MSG_MEMBERS_ASK = 73,
	MSG_MEMBERS_ARE = 74,
};

struct members {
	uint64_t epoch; /* of the newest change; 0: no table is known */
	uint64_t founders; /* entered as such, bits by id; also who has left since */
	struct member m[PLACE_NODES]; /* by id; PLACE_NONE: no row */
};

void members_encode(struct buf *out, const struct members *t,
		    const uint8_t cluster_id[16]);
/* ERR_FORMAT, ERR_CHECKSUM, ERR_CONFIG (another cluster's), ERR_VERSION (newer). */
int members_decode(struct members *t, const uint8_t cluster_id[16],
		   const uint8_t *p, size_t n, struct err *e);
/* The file of a data folder.  None: an empty table.  ERR_VERSION and errors of the
 * disk; damage is logged and gives an empty table, for the cluster has it too. */
int members_load(struct members *t, struct disk *disk,
		 const uint8_t cluster_id[16], struct err *e);

/* The newest table this node has; it stays where it is. */
const struct members *node_members(const struct node *n);
/* cb from node_tick(), after each change. */
void node_members_watch(struct node *n, void (*cb)(void *arg), void *arg);
/* May a peer that says it is `id`, with that disk, take part?  0, or ERR_PERM with the
 * reason in words.  As long as no table is known, everybody may. */
int node_admit(struct node *n, uint64_t id, const uint8_t disk_id[16],
	       struct err *e);
/* The disk with which `id` was last turned away since this node started, because
 * another one is in its row; NULL: none. */
const uint8_t *node_knocked(const struct node *n, uint64_t id);
/* Ask again now. */
void node_members_refresh(struct node *n);

/* For node.c and rpc.c. */
int members_open(struct node *n, struct err *e);
void members_close(struct node *n);
void members_tick(struct node *n, uint64_t now_ms);
void members_on_up(struct node *n, uint64_t peer);
/* True: the message was one of these. */
bool members_on_message(struct node *n, uint64_t peer, uint8_t type,
			struct cursor *c);

#endif
