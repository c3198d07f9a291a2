/* The feature level: learned, told, raised (feature.h). */
#include "consensus/feature.h"
#include "base/alloc.h"
#include "base/cursor.h"
#include "base/logf.h"
#include "base/metric.h"
#include "consensus/node_impl.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define BIRTH_MS 2000 /* a new cluster waits for its nodes this long, and no longer */

uint32_t feature_of_cmd(enum cmd_type type)
{
	switch (type) {
	case CMD_NODE_SET:
	case CMD_RETAIN:
		return 2;
	case CMD_ACCOUNT_ADD:
	case CMD_DEVICE_ADD:
	case CMD_DEVICE_REMOVE:
	case CMD_SEND:
	case CMD_CURSOR:
	case CMD_META_INIT:
	case CMD_FEATURE: /* proposed by none who was not told that all know it */
		break;
	}
	return 1;
}

/* ---- what is in force ----------------------------------------------------------- */

static int too_old(const struct node *n, uint32_t level, struct err *e)
{
	return err_set(e, ERR_VERSION,
		       "the cluster is at feature level %u; this program knows "
		       "%u: a newer version is needed",
		       level, n->feature.max);
}

/* The folder must say so before anything of that level is in it. The file has its
 * size already: a full disk does not matter. */
static void keep(struct node *n)
{
	struct nodemeta *m = &n->cfg.meta;
	struct err e = { 0 };

	if (!m->node_id ||
	    (m->feature_level == n->feature.level &&
	     m->history_epoch == n->feature.epoch))
		return;
	m->feature_level = n->feature.level;
	m->history_epoch = n->feature.epoch;
	if (nodemeta_save(n->env.disk, m, &e))
		node_fatal(n, &e);
}

static void learn(struct node *n, uint32_t level, uint32_t epoch)
{
	struct feature_node *f = &n->feature;
	struct err e = { 0 };

	if (level <= f->level && epoch <= f->epoch)
		return;
	if (level > f->max) {
		too_old(n, level, &e);
		node_fatal(n, &e);
		return;
	}
	if (level > f->level)
		f->level = level;
	if (epoch > f->epoch) {
		f->epoch = epoch;
		memset(f->told, 0, sizeof f->told);
	}
	log_event(LOG_INFO, "feature_level", "level=%u epoch=%u", f->level,
		  f->epoch);
	metric_set(M_FEATURE_LEVEL, f->level);
	keep(n);
}

static uint32_t meta_row(struct node *n, const char *name, unsigned len)
{
	uint32_t got;
	const uint8_t *row = row_get(n->shards[0].store, T_META, name, len, &got);

	return row ? get_u32(row) : 0;
}

void feature_load(struct node *n)
{
	uint32_t level = meta_row(n, "feature", 7);

	learn(n, level, meta_row(n, "history", 7));
}

int feature_open(struct node *n, struct err *e)
{
	struct feature_node *f = &n->feature;
	const struct nodemeta *m = &n->cfg.meta;

	f->max = n->cfg.feature_max && n->cfg.feature_max < FEATURE_MAX
			 ? n->cfg.feature_max
			 : FEATURE_MAX;
	f->level = m->node_id && m->feature_level > 1 ? m->feature_level : 1;
	f->epoch = m->history_epoch ? (uint32_t)m->history_epoch : !m->joined;
	if (f->level > f->max) {
		too_old(n, f->level, e);
		return err_wrap(e, "node.meta; nothing was changed");
	}
	metric_set(M_FEATURE_LEVEL, f->level);
	f->opened_ms = clock_ms(n->env.clock);
	f->call = xcalloc(1, sizeof *f->call);
	return 0;
}

void feature_release(struct node *n)
{
	free(n->feature.call);
	n->feature.call = NULL;
}

/* ---- peers ------------------------------------------------------------------------ */

static void tell(struct node *n, uint64_t peer)
{
	struct feature_node *f = &n->feature;

	buf_clear(&n->scratch);
	buf_u8(&n->scratch, MSG_ABOUT);
	buf_u32(&n->scratch, FEATURE_MIN);
	buf_u32(&n->scratch, f->max);
	buf_u32(&n->scratch, f->level);
	buf_u32(&n->scratch, f->epoch);
	if (!n->env.net->ops->send(n->env.net, peer, n->scratch.data,
				   n->scratch.len, NULL, 0))
		f->told[peer] = f->level;
}

void feature_peer_up(struct node *n, uint64_t peer)
{
	n->feature.told[peer] = 0;
	/* Who was there before histories had epochs says nothing, and has the first. */
	if (n->feature.epoch > 1)
		n->feature.foreign |= 1ull << peer;
	tell(n, peer);
}

void feature_peer_down(struct node *n, uint64_t peer)
{
	n->feature.foreign &= ~(1ull << peer);
	n->feature.peer_min[peer] = n->feature.peer_max[peer] = 0;
}

void feature_on_about(struct node *n, uint64_t peer, struct cursor *c)
{
	uint32_t min = cursor_u32(c), max = cursor_u32(c), level = cursor_u32(c),
		 epoch = cursor_u32(c);

	if (c->bad || !min || max < min || level > max) {
		log_event(LOG_WARN, "peer_message_refused",
			  "peer=%" PRIu64 " type=%u why=\"levels out of range\"",
			  peer, MSG_ABOUT);
		return;
	}
	/* A node of before the cluster was restored, or the other way round: what it
	 * says of entries and terms is of other ones. */
	if (epoch && n->feature.epoch && epoch != n->feature.epoch) {
		n->feature.foreign |= 1ull << peer;
		log_event(LOG_ERROR, "peer_of_another_history",
			  "peer=%" PRIu64 " epoch=%u own=%u", peer, epoch,
			  n->feature.epoch);
		return;
	}
	n->feature.foreign &= ~(1ull << peer);
	n->feature.peer_min[peer] = min;
	n->feature.peer_max[peer] = max;
	learn(n, level, epoch);
}

/* ---- raising ---------------------------------------------------------------------- */

/* Who has to know the level before it may be in force; bits by id. */
static uint64_t members(struct node *n)
{
	const struct members *t = node_members(n);
	uint64_t bits = 0;
	struct group_info gi;
	unsigned i;

	if (t->epoch)
		for (i = 1; i < PLACE_NODES; i++)
			if (t->m[i].state != PLACE_NONE &&
			    t->m[i].state != PLACE_GONE)
				bits |= 1ull << i;
	if (!bits)
		for (i = 0; i < n->cfg.n_members; i++)
			bits |= 1ull << n->cfg.members[i];
	if (shard_works(&n->shards[0])) {
		group_info(n->shards[0].group, &gi);
		for (i = 0; i < gi.conf.n; i++)
			bits |= 1ull << gi.conf.members[i].id;
	}
	return bits & ~(1ull << n->cfg.id);
}

uint32_t feature_of_birth(struct node *n, uint64_t now_ms)
{
	uint64_t of = members(n), peer;
	uint32_t level = n->feature.max;

	for (peer = 1; peer < NET_NODE_MAX; peer++) {
		uint32_t max = n->feature.peer_max[peer];

		if (!(of >> peer & 1))
			continue;
		if (!n->up_since_ms[peer]) {
			if (now_ms - n->feature.opened_ms < BIRTH_MS)
				return 0;
			continue;
		}
		if (!max) /* it is up and says nothing */
			max = 1;
		if (max < level)
			level = max;
	}
	return level;
}

uint32_t feature_possible(struct node *n, uint64_t *lacking)
{
	uint64_t of = members(n), peer;
	uint32_t level = n->feature.max;

	*lacking = 0;
	for (peer = 1; peer < NET_NODE_MAX; peer++) {
		uint32_t max = n->feature.peer_max[peer];

		if (!(of >> peer & 1))
			continue;
		if (max < n->feature.max)
			*lacking |= 1ull << peer;
		if (max < level)
			level = max ? max : 1;
	}
	return level;
}

static void raised(struct node_call *c, int status, const struct result *r)
{
	struct node *n = c->arg;

	(void)status; /* tried again at the next tick while it is not in force */
	(void)r;
	n->feature.raising = false;
}

void feature_tick(struct node *n)
{
	struct feature_node *f = &n->feature;
	struct shard *s = &n->shards[0];
	struct cmd cmd = { .type = CMD_FEATURE };
	uint64_t peer, lacking;

	if (n->env.net)
		for (peer = 1; peer < NET_NODE_MAX; peer++)
			if (n->up_since_ms[peer] && f->told[peer] != f->level)
				tell(n, peer);
	if (f->raising || !n->cfg.feature_auto || n->stopping || !shard_works(s) ||
	    s->role != GROUP_LEADER || !n->slots_epoch)
		return;
	cmd.level = feature_possible(n, &lacking);
	if (cmd.level <= f->level)
		return;
	f->raising = true;
	*f->call = (struct node_call){ .cb = raised, .arg = n };
	node_propose(n, 0, &cmd, f->call);
}
