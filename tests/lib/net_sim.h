/* The simulator's network: struct net for each node over simulated links.
 *
 * A link is a TCP connection: ordered, without loss while it stands.  A cut makes
 * messages wait; a link that stays cut for DEAD_US goes down on both sides and
 * what was under way is gone; it comes up again some time after the cut healed.
 * A crashed node's links go down at once (reset) or after DEAD_US (power). */
#ifndef QUIPU_TESTS_LIB_NET_SIM_H
#define QUIPU_TESTS_LIB_NET_SIM_H

#include "consensus/link.h"
#include "consensus/net.h"
#include "tests/lib/sim.h"

#define NET_SIM_NODES 9

struct net_sim;

struct net_sim_config {
	uint64_t delay_min_us, delay_max_us;
	unsigned slow_permille;     /* messages that take slow_us more */
	uint64_t slow_us;
	uint64_t far_us;            /* at most, of each direction of each link */
};

/* Nodes are 1..n.  `touched(arg, node)` is called before each callback. */
struct net_sim *net_sim_new(struct sim *s, unsigned n,
			    const struct net_sim_config *cfg);
void net_sim_free(struct net_sim *ns);
/* The endpoint of a node that starts now: links to living peers come up soon. */
struct net *net_sim_start(struct net_sim *ns, unsigned node);
/* Who may come, and as whom it comes itself: asked as the hello of a link does, before
 * a link is up.  Copied; until the node starts again.  Without: all may come. */
struct net_sim_door {
	uint8_t disk_id[16];
	bool joined;
	struct link_admit admit;
};
void net_sim_door(struct net_sim *ns, unsigned node, const struct net_sim_door *d);
/* The node is gone: no callback for it any more. */
void net_sim_stop(struct net_sim *ns, unsigned node, bool reset);
/* Direction a -> b is cut or healed. */
void net_sim_cut(struct net_sim *ns, unsigned a, unsigned b, bool cut);
void net_sim_heal_all(struct net_sim *ns);
bool net_sim_is_up(const struct net_sim *ns, unsigned a, unsigned b);
/* See every message as it is sent. */
void net_sim_tap(struct net_sim *ns,
		 void (*tap)(void *arg, unsigned from, unsigned to,
			     const uint8_t *p, size_t n),
		 void *arg);
uint64_t net_sim_messages(const struct net_sim *ns);

#endif
