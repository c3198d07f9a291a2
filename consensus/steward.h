/* The loop of reconcile.h on a node: when it leads the meta shard, it looks (placing.h)
 * and asks the shards' leaders for steps (node_change()). */
#ifndef QUIPU_CONSENSUS_STEWARD_H
#define QUIPU_CONSENSUS_STEWARD_H

#include "consensus/reconcile.h"

struct node;

/* Does this loop say where leaderships are, and not the shards' numbers? */
bool node_is_kept(const struct node *n);
/* Nodes that should neither lead nor get a replica now: too full a disk, about to
 * stop, up for a moment only; bits by id. */
uint64_t node_unfit(const struct node *n);
/* The plan that this node is carrying out, or the last; empty on others. */
const struct place_plan *node_plan(const struct node *n);

void steward_open(struct node *n);
void steward_close(struct node *n);
void steward_tick(struct node *n, uint64_t now_ms);

#endif
