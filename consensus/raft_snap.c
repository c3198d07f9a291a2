/* What a group says and knows of snapshots, which pass the core by (install.h). */
#include "consensus/raft_impl.h"

/* What is committed is in every leader's log, what is durable is ours to vouch for. */
void group_tell_matched(struct group *g, uint64_t peer)
{
	uint64_t upto = g->commit < g->durable ? g->commit : g->durable;

	if (g->broken || g->frozen || g->raft.state != RAFT_FOLLOWER || !upto)
		return;
	msg_begin(g, GM_APPEND_RESULT);
	buf_u64(&g->out, raft_current_term(&g->raft));
	buf_u64(&g->out, 0);
	buf_u64(&g->out, upto);
	msg_life_put(g);
	msg_post(g, peer, NULL, 0);
}

void group_tell_at_contact(struct group *g)
{
	g->tell = true;
}

uint64_t group_take_lagging(struct group *g)
{
	uint64_t lagging = group_leads(g) ? g->lagging : 0;

	g->lagging = 0;
	return lagging;
}

bool group_leads_on(const struct group *g, uint64_t index)
{
	return index >= g->trail_first || index == g->snap_index;
}

void group_offered(struct group *g, uint64_t peer, uint64_t index)
{
	g->peers[peer].offered = index;
}

bool group_wants_snapshot(const struct group *g, uint64_t index, uint64_t term)
{
	uint64_t have = g->commit < g->durable ? g->commit : g->durable;
	const struct journal_shard *sh =
		journal_shard(g->journal, g->cfg.shard);

	/* An empty replica that has heard of no leader yet: its term would be below
	 * that of its state, which looks like a lost vote. */
	if (sh->term < term)
		return false;
	return !g->broken && !group_leads(g) && index > have &&
	       index > g->applied && log_term(g, index) != term;
}

void group_freeze(struct group *g, bool on)
{
	g->frozen = on;
}

void group_void(struct group *g)
{
	g->frozen = g->voided = true;
}

bool group_quiet(const struct group *g)
{
	LIST_FOREACH(it, &g->reqs)
		if (container_of(it, struct disk_req, link)->submitted)
			return false;
	return true;
}
