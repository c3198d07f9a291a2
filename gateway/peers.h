/* Peers of this process: the cluster's table (consensus/members.h) carried to the
 * links, and who may come by all that is known of disks. */
#ifndef QUIPU_GATEWAY_PEERS_H
#define QUIPU_GATEWAY_PEERS_H

#include "consensus/known.h"
#include "consensus/link.h"
#include "consensus/node.h"

struct peers {
	struct known *known;
	struct net *net;      /* NULL: no links, nothing to do */
	struct node *node;    /* NULL: not open yet */
	uint64_t configured;  /* bits by id: rows of [peers], dialled without a table */
};

/* For link_config; `p` stays where it is. */
struct link_admit peers_admit(struct peers *p);
/* From now on what the table says: addresses are set, nodes that are gone dropped,
 * replacements approved. */
void peers_watch(struct peers *p, struct net *net, struct node *node);

#endif
