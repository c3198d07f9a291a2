/* Recent entries in memory, older ones from the journal.
 *
 * The ring never drops an entry that is not yet durable and applied: the journal
 * cannot give it back, or apply would have to read it at once. */
#include "consensus/raft_impl.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/logf.h"

#include <inttypes.h>
#include <stdlib.h>

void raft_cache_init(struct raft_cache *c, size_t max_bytes, uint64_t next)
{
	c->ring = NULL;
	c->cap = 0;
	c->first = next;
	c->last = next - 1;
	c->bytes = 0;
	c->max_bytes = max_bytes;
}

void raft_cache_release(struct raft_cache *c)
{
	for (; c->first <= c->last; c->first++)
		entry_unref(c->ring[c->first & (c->cap - 1)]);
	free(c->ring);
	c->ring = NULL;
	c->cap = 0;
}

static void cache_grow(struct raft_cache *c)
{
	size_t cap = c->cap ? 2 * c->cap : 64;
	struct entry **ring = xmalloc(cap * sizeof *ring);
	uint64_t i;

	for (i = c->first; i <= c->last; i++)
		ring[i & (cap - 1)] = c->ring[i & (c->cap - 1)];
	free(c->ring);
	c->ring = ring;
	c->cap = cap;
}

void raft_cache_append(struct raft_cache *c, struct entry *e)
{
	AN(e->index == c->last + 1);
	if (c->last + 1 - c->first == c->cap)
		cache_grow(c);
	c->last++;
	c->ring[c->last & (c->cap - 1)] = entry_ref(e);
	c->bytes += e->rec_len;
}

void raft_cache_truncate(struct raft_cache *c, uint64_t from)
{
	while (c->last >= from && c->last >= c->first) {
		struct entry *e = c->ring[c->last & (c->cap - 1)];

		c->bytes -= e->rec_len;
		entry_unref(e);
		c->last--;
	}
	if (c->last >= from) {
		c->first = from;
		c->last = from - 1;
	}
}

void raft_cache_evict(struct raft_cache *c, uint64_t upto)
{
	while (c->bytes > c->max_bytes && c->first <= c->last &&
	       c->first <= upto) {
		struct entry *e = c->ring[c->first & (c->cap - 1)];

		c->bytes -= e->rec_len;
		entry_unref(e);
		c->first++;
	}
}

struct entry *raft_cache_get(const struct raft_cache *c, uint64_t index)
{
	if (index < c->first || index > c->last)
		return NULL;
	return c->ring[index & (c->cap - 1)];
}

struct entry *log_get(struct group *g, uint64_t index)
{
	struct entry *e = raft_cache_get(&g->cache, index);
	struct err err = { 0 };
	int rv;

	if (e)
		return entry_ref(e);
	rv = journal_read(g->journal, g->cfg.shard, index, &e, &err);
	if (!rv)
		return e;
	if (rv != ERR_NOT_FOUND)
		log_event(LOG_ERROR, "entry_unreadable",
			  "shard=%u index=%" PRIu64 " why=%s", g->cfg.shard,
			  index, log_quote(err.msg));
	return NULL;
}

uint64_t log_term(const struct group *g, uint64_t index)
{
	const struct entry *e = raft_cache_get(&g->cache, index);

	if (e)
		return e->term;
	if (index == 0 || index > g->cache.last)
		return 0;
	if (index == g->snap_index)
		return g->snap_term;
	return journal_term(g->journal, g->cfg.shard, index);
}

void log_evict(struct group *g)
{
	uint64_t upto = g->applied < g->durable ? g->applied : g->durable;

	raft_cache_evict(&g->cache, upto);
}
