/* What a node says of itself and of its shards, for operators. */
#include "consensus/node_impl.h"

#include <stdio.h>
#include <string.h>

bool node_ready(const struct node *n)
{
	uint32_t i;

	for (i = 0; i < n->n_shards; i++) {
		uint64_t term;

		if (n->shards[i].faulty || !lead_known(&n->shards[i], &term))
			return false;
	}
	return n->slots_epoch != 0;
}

void node_shard_info(struct node *n, uint32_t shard, struct node_shard_info *out)
{
	struct shard *s = &n->shards[shard];
	uint64_t term, leader;

	memset(out, 0, sizeof *out);
	out->shard = shard;
	out->present = !s->absent;
	out->faulty = s->faulty;
	out->amnesiac = s->fault == FAULT_LOG;
	snprintf(out->repair, sizeof out->repair, "%s", repair_state(s));
	memcpy(out->why, s->why, sizeof out->why);
	if (s->group)
		group_info(s->group, &out->raft);
	leader = lead_known(s, &term);
	if (!shard_works(s) || !out->raft.leader)
		out->raft.leader = leader;
	if (s->absent)
		out->raft.term = term;
	if (s->store) {
		const struct store_meta *m = store_meta(s->store);

		store_stats(s->store, &out->store);
		out->records = m->next_offset;
		out->clock = m->clock;
		out->digest = m->digest;
		store_root(s->store, out->root);
	}
	out->durable_index = s->durable_index;
	out->subs = s->n_followers;
}

static void add_member(const struct node *n, struct node_info *out, uint64_t id)
{
	unsigned i = out->n_members++;

	out->members[i] = id;
	out->member_up[i] = id == n->cfg.id || n->up_since_ms[id];
	out->member_level[i] = id == n->cfg.id ? n->level : n->peer_level[id];
}

static bool is_founder(const struct node *n, uint64_t id)
{
	unsigned i;

	for (i = 0; i < n->cfg.n_members; i++)
		if (n->cfg.members[i] == id)
			return true;
	return false;
}

void node_info(struct node *n, struct node_info *out)
{
	uint64_t id;
	uint32_t i;

	memset(out, 0, sizeof *out);
	out->id = n->cfg.id;
	out->shards = n->n_shards;
	for (id = 1; id < NET_NODE_MAX; id++)
		if (id == n->cfg.id || n->up_since_ms[id] || is_founder(n, id))
			add_member(n, out, id);
	for (i = 0; i < n->n_shards; i++) {
		out->present += !n->shards[i].absent;
		out->led += n->shards[i].role == GROUP_LEADER;
		out->faulty += n->shards[i].faulty;
		if (n->shards[i].store)
			out->dirty_bytes += store_dirty_bytes(n->shards[i].store);
	}
	out->calls = n->calls;
	out->subs = n->subs;
	out->level = n->level;
	out->disk_free = n->disk_free;
	out->disk_total = n->disk_total;
	journal_stats(n->journal, &out->journal);
}

uint32_t node_epoch(const struct node *n)
{
	return n->feature.epoch ? n->feature.epoch : 1;
}

void node_feature_info(struct node *n, struct node_feature_info *out)
{
	const struct feature_node *f = &n->feature;

	memset(out, 0, sizeof *out);
	out->level = f->level;
	out->max = f->max;
	out->possible = feature_possible(n, &out->lacking);
	out->epoch = node_epoch(n);
	out->automatic = n->cfg.feature_auto;
	memcpy(out->peer_max, f->peer_max, sizeof out->peer_max);
}

int node_transfer(struct node *n, uint32_t shard, uint64_t to)
{
	if (shard >= n->n_shards || !shard_works(&n->shards[shard]))
		return ERR_NOT_FOUND;
	return group_transfer(n->shards[shard].group, to);
}
