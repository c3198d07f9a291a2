/* The first half of an orderly stop: leaderships move away while everything goes on,
 * so that no client waits for a leader that nobody chose yet. */
#include "base/logf.h"
#include "consensus/node.h"
#include "consensus/node_impl.h"

#include <inttypes.h>

#define LEAVE_MAX_MS 5000 /* then the rest is given up as the node stops */
#define LEAVE_MOVES_MAX 8 /* transfers under way: sends to such a shard wait */

/* Is a transfer under way, or begun now? */
static bool leader_gives_up(struct node *n, struct shard *s, uint64_t now_ms)
{
	struct group_info gi;
	unsigned k;

	group_info(s->group, &gi);
	if (gi.transferring)
		return true;
	for (k = 0; k < gi.n_voters; k++) {
		uint64_t to = gi.voters[(s->id + k) % gi.n_voters];

		if (to != n->cfg.id && node_peer_fit(n, s, to, now_ms, 0))
			return group_transfer(s->group, to) == 0;
	}
	return false;
}

void node_give_up(struct node *n, uint64_t now_ms, unsigned at_once)
{
	unsigned moving = 0;
	uint32_t i;

	for (i = 0; i < n->n_shards && moving < at_once; i++) {
		struct shard *s = &n->shards[i];

		if (shard_works(s) && s->role == GROUP_LEADER)
			moving += leader_gives_up(n, s, now_ms);
	}
}

/* How many shards this node leads yet, or knows no leader of. */
static unsigned leaders_left(const struct node *n)
{
	unsigned left = 0;
	uint32_t i;

	for (i = 0; i < n->n_shards; i++)
		left += shard_works(&n->shards[i]) &&
			shard_has_peers(&n->shards[i]) &&
			(n->shards[i].role == GROUP_LEADER || !n->shards[i].leader);
	return left;
}

/* Is anybody there who could lead?  Not when the whole cluster is stopped. */
static bool has_heir(const struct node *n)
{
	uint64_t id;

	for (id = 1; id < NET_NODE_MAX; id++)
		if (n->up_since_ms[id] && !n->leaving[id])
			return true;
	return false;
}

void node_leave_look(struct node *n, uint64_t now_ms)
{
	void (*left)(void *) = n->left;
	unsigned rest = leaders_left(n);

	if (rest && has_heir(n) && now_ms - n->left_begun_ms < LEAVE_MAX_MS) {
		node_give_up(n, now_ms, LEAVE_MOVES_MAX);
		return;
	}
	n->left = NULL;
	log_event(rest ? LOG_WARN : LOG_INFO, "handed_over",
		  "left=%u ms=%" PRIu64, rest, now_ms - n->left_begun_ms);
	left(n->left_arg);
}

void node_leave(struct node *n, void (*done)(void *arg), void *arg)
{
	n->going = true;
	n->left = done;
	n->left_arg = arg;
	n->left_begun_ms = n->tick_ms = clock_ms(n->env.clock);
	if (n->env.net)
		rpc_leaving(n, 0);
}
