/* A node and how full its disk is: a look once a second (sooner only when
 * it wrote much itself), what follows from it here,
 * and what the peers are told (the levels are in level.h).
 *
 * A leader goes by the median of its voters: while a majority has room, one full
 * disk stops nobody, and when a majority has none, no leader may go on filling it.
 * The full one takes what it can, then no entries (the journal says "full", which
 * raft knows), and catches up when there is room again. */
#include "base/logf.h"
#include "base/metric.h"
#include "consensus/node_impl.h"

#include <inttypes.h>

#define LOOK_MS 1000
#define LOOK_BYTES_MIN (32u << 10)

/* A peer that is down helps no commit: it counts as the fullest of the others, so
 * the median is that of those that are left. */
static enum level voters_level(struct node *n, struct shard *s)
{
	enum level v[GROUP_VOTERS_MAX], most = LEVEL_OK;
	struct group_info gi;
	unsigned i, up = 0;

	group_info(s->group, &gi);
	for (i = 0; i < gi.n_voters; i++) {
		uint64_t id = gi.voters[i];

		if (id == n->cfg.id)
			v[up] = n->level;
		else if (n->up_since_ms[id])
			v[up] = n->peer_level[id];
		else
			continue;
		if (v[up] > most)
			most = v[up];
		up++;
	}
	while (up < gi.n_voters)
		v[up++] = most;
	return up ? level_median(v, up) : n->level;
}

void node_disk_judge(struct node *n)
{
	uint32_t i;

	for (i = 0; i < n->n_shards; i++) {
		struct shard *s = &n->shards[i];

		if (shard_works(s))
			s->level = voters_level(n, s);
	}
}

int node_disk_takes(const struct shard *s, enum cmd_type type)
{
	switch (s->level) {
	case LEVEL_OK:
	case LEVEL_WARN:
		break;
	case LEVEL_REFUSE:
		if (type == CMD_SEND || type == CMD_ACCOUNT_ADD ||
		    type == CMD_DEVICE_ADD)
			return ERR_NOSPACE;
		break;
	case LEVEL_READONLY:
		return ERR_NOSPACE;
	}
	/* A leader that cannot write its own entries takes none; while the others
	 * can, the next leader will, and callers need not hear of it. */
	return s->node->level == LEVEL_READONLY ? ERR_BUSY : 0;
}

/* ---- peers -------------------------------------------------------------------- */

/* A link that takes no more now is tried again at the next look. */
static void tell(struct node *n)
{
	uint64_t peer;

	if (!n->env.net)
		return;
	for (peer = 1; peer < NET_NODE_MAX; peer++) {
		if (!n->up_since_ms[peer] || n->told_level[peer] == (int)n->level)
			continue;
		if (!rpc_level(n, peer))
			n->told_level[peer] = (int)n->level;
	}
}

void node_disk_peer_up(struct node *n, uint64_t peer)
{
	n->peer_level[peer] = LEVEL_OK;
	n->told_level[peer] = -1;
	tell(n);
	node_disk_judge(n);
}

void node_disk_heard(struct node *n, uint64_t peer, unsigned l)
{
	if (l > LEVEL_READONLY) /* a step that a newer version knows */
		l = LEVEL_READONLY;
	if (n->peer_level[peer] == l)
		return;
	log_event(LOG_INFO, "peer_disk_level", "peer=%" PRIu64 " level=%s was=%s",
		  peer, level_name((enum level)l), level_name(n->peer_level[peer]));
	n->peer_level[peer] = (enum level)l;
	node_disk_judge(n);
}

/* ---- the look ------------------------------------------------------------------- */

/* How much this node may write before it looks again, whatever the time: part of the
 * way to the next level, and never more than a quarter of the reserve, for somebody
 * else may be taking the rest. */
static uint64_t next_look(const struct node *n)
{
	const struct level_config *c = &n->cfg.level;
	uint64_t reserve = level_reserve(c, n->disk_total), bytes = UINT64_MAX;
	enum level l;

	for (l = LEVEL_READONLY; l > n->level; l--) {
		uint64_t room = level_begin(c, l, n->disk_total);

		if (room)
			bytes = n->disk_free > room ? n->disk_free - room : 0;
	}
	if (bytes == UINT64_MAX)
		return bytes; /* no level is left to reach */
	if (reserve && bytes > reserve / 4)
		bytes = reserve / 4;
	return bytes > LOOK_BYTES_MIN ? bytes : LOOK_BYTES_MIN;
}

void node_disk_look(struct node *n)
{
	uint64_t left, least;
	enum level l;

	n->disk_wrote = 0;
	/* If it fails, the writers will say what is wrong with the disk. */
	if (n->env.disk->ops->space(n->env.disk, &left, &n->disk_total, NULL))
		return;
	l = level_of(&n->cfg.level, n->level, left, n->disk_total);
	if (l != n->level)
		log_event(l >= LEVEL_REFUSE ? LOG_ERROR
			  : l == LEVEL_WARN ? LOG_WARN
					    : LOG_INFO,
			  "disk_level",
			  "level=%s was=%s free=%" PRIu64 " total=%" PRIu64,
			  level_name(l), level_name(n->level), left, n->disk_total);
	n->level = l;
	n->disk_free = left;
	n->disk_next = next_look(n);
	metric_set(M_DISK_LEVEL, l);
	metric_set(M_DISK_FREE, left);
	metric_set(M_DISK_SIZE, n->disk_total);
	/* New journal files leave the disk above `readonly`: what is below that is
	 * for what is committed, for rows and votes. */
	least = level_begin(&n->cfg.level, LEVEL_READONLY, n->disk_total);
	journal_limit(n->journal, left > least ? left - least : 0,
		      l < LEVEL_READONLY);
	tell(n);
	/* Also when nothing changed here: voters come and go. */
	node_disk_judge(n);
}

void node_disk_tick(struct node *n, uint64_t now_ms)
{
	if (now_ms < n->disk_ms)
		return;
	n->disk_ms = now_ms + LOOK_MS;
	node_disk_look(n);
}
