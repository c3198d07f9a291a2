/* The feature level: which formats and commands the cluster may use.  A number that
 * only rises, kept in the meta shard (T_META, "feature"), in each node.meta and in
 * memory.
 *
 *	1  all that there was before
 *	2  CMD_RETAIN, CMD_NODE_SET, CMD_FEATURE, and the rows that they make
 *
 * Nodes tell each other the levels between which their program works, and the one
 * that they know to be in force (ABOUT), at link up and when it rises; a program that
 * says nothing is of level 1.  The leader of the meta shard raises the level when all
 * members are up and have said that they can.  A node that learns the level writes it
 * into node.meta before it uses it, so that an older program refuses the folder before
 * it has touched anything.  A new cluster is made at the newest level that its members
 * have.
 *
 * ABOUT carries the history's epoch too (docs/protocol.md, hello): 1 in a cluster that
 * began empty, greater in one that was restored, 0 from who does not know it yet. Nodes
 * of two histories hear nothing of each other. */
#ifndef QUIPU_CONSENSUS_FEATURE_H
#define QUIPU_CONSENSUS_FEATURE_H

#include "consensus/cmd.h"
#include "consensus/net.h"

#define FEATURE_MIN 1u /* a cluster at a lower level has to be raised first */
#define FEATURE_MAX 2u /* what this program knows */

/* Message between nodes; behind its type, little endian: lowest and highest level of
 * the program, level in force, epoch (u32 each).  What a later version has behind
 * these is not looked at. */
#define MSG_ABOUT 60

struct node;
struct cursor;

struct feature_node {
	uint32_t level;          /* in force, as far as known; at least 1 */
	uint32_t epoch;          /* of the history; 0: this node joined and has not
				    heard of it yet */
	uint64_t foreign;        /* bits of peers of another history: not heard */
	uint32_t max;            /* of this node: FEATURE_MAX, or what it is held at */
	uint64_t opened_ms;
	bool raising;
	struct node_call *call;
	/* What a peer said on this link; 0: nothing yet. */
	uint32_t peer_min[NET_NODE_MAX], peer_max[NET_NODE_MAX];
	uint32_t told[NET_NODE_MAX]; /* level that it was told; 0: none yet */
};

/* The level from which on commands of a type may be proposed. */
uint32_t feature_of_cmd(enum cmd_type type);
/* ERR_VERSION when the folder is of a level that this program does not know. */
int feature_open(struct node *n, struct err *e);
void feature_release(struct node *n);
/* From the rows of shard 0, when they are there and after each of its entries. */
void feature_load(struct node *n);
void feature_tick(struct node *n);
void feature_peer_up(struct node *n, uint64_t peer);
void feature_peer_down(struct node *n, uint64_t peer);
void feature_on_about(struct node *n, uint64_t peer, struct cursor *c);
/* The level at which a new cluster is made; 0: not yet, not all are up. */
uint32_t feature_of_birth(struct node *n, uint64_t now_ms);
/* The highest level that all members have said they know; `lacking`: bits of those
 * that have not said that they know this program's. */
uint32_t feature_possible(struct node *n, uint64_t *lacking);

#endif
