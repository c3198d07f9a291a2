/* The log of each shard, kept outside of the product record by record as the first
 * replica applies it, and what may have gone of it.
 *
 * A record may be trimmed, or become a stub, when every device of its account has
 * stored it, when its time is over by the clock of some node, or when its account
 * was erased; nothing of an account on hold may.  That is judged when it is first
 * seen to be gone, not at the end, when everything is acknowledged. */
#include "base/alloc.h"
#include "base/assert.h"
#include "base/hash.h"
#include "consensus/node_impl.h"
#include "tests/sim/run.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

void kept_of(struct kept *k, const struct record *rec, uint32_t shard)
{
	memset(k, 0, sizeof *k);
	memcpy(k->mid, rec->mid, 16);
	k->n = rec->n;
	k->key = rec->key;
	k->offset = rec->offset;
	k->lamport = rec->lamport;
	k->sender = rec->sender;
	k->seq = rec->seq;
	k->time_ms = rec->time_ms;
	k->device = rec->device;
	k->part = rec->part;
	k->cls = rec->cls;
	k->kind = rec->kind;
	k->shard = shard;
	k->body_hash = xxh3(rec->payload, rec->payload_len);
	if (rec->flags & RECORD_HAS_ORIGIN) {
		k->origin_lamport = rec->origin_lamport;
		k->origin_offset = rec->origin_offset;
		k->origin_shard = rec->origin_shard;
	}
	if (rec->flags & RECORD_STUB) {
		k->stub = true;
		k->body_hash = 0;
	}
}

struct reading {
	struct run *run;
	struct history *h;
	unsigned node;
	uint32_t shard;
};

static bool take(void *arg, const struct record *rec)
{
	struct reading *g = arg;
	struct history *h = g->h;

	if (h->n == h->cap) {
		h->cap = h->cap ? 2 * h->cap : 256;
		h->v = xrealloc(h->v, h->cap * sizeof *h->v);
	}
	if (rec->offset != h->n)
		run_fail(g->run, "shard %u: record %" PRIu64 " instead of %zu",
			 g->shard, rec->offset, h->n);
	kept_of(&h->v[h->n++], rec, g->shard);
	return true;
}

/* ---- what may be gone ------------------------------------------------------------- */

static uint64_t latest_wall_ms(struct run *r)
{
	uint64_t most = 0;
	unsigned i;

	for (i = 1; i <= r->world.cfg.nodes; i++) {
		uint64_t ms = clock_wall_ms(&r->world.nodes[i].clock);

		if (ms > most)
			most = ms;
	}
	return most;
}

static bool all_stored(const struct run *r, unsigned account, uint64_t n)
{
	unsigned k;

	for (k = 0; k < r->p.devices[account]; k++)
		if (r->devices[account][k]->store.state.meta.cursor < n)
			return false;
	return r->p.devices[account] > 0;
}

static void may_go(struct run *r, const struct kept *k, unsigned node,
		   const char *how)
{
	int i = account_index(r, k->key);

	if (!k->n || i < 0 || k->key == r->erased || all_stored(r, (unsigned)i, k->n))
		return;
	if (r->wall_max_ms >= k->time_ms + r->p.ttl_ms)
		return;
	run_fail(r, "node %u shard %u: number %" PRIu64 " of account %d was %s, "
		    "and not all devices have it", node, k->shard, k->n, i, how);
}

static bool look_stub(void *arg, const struct record *rec)
{
	struct reading *g = arg;
	struct kept *k = &g->h->v[rec->offset];

	if (rec->flags & RECORD_STUB && !k->stubbed) {
		k->stubbed = true;
		may_go(g->run, k, g->node, "made a stub");
	}
	return true;
}

/* A look at what a replica has applied since the last one. */
void history_look(struct run *r, struct shard *s, unsigned node)
{
	struct history *h = &r->history[s->id];
	struct reading g = { r, h, node, s->id };
	struct store_stats st;
	struct err e = { 0 };
	uint64_t trim = store_trimmed(s->store), wall = latest_wall_ms(r);
	int rv = 0;

	if (wall > r->wall_max_ms)
		r->wall_max_ms = wall;
	if (store_meta(s->store)->next_offset > h->n)
		rv = store_read(s->store, h->n, UINT32_MAX, take, &g, &e);
	if (rv) {
		if (!r->world.nodes[node].rotten)
			run_fail(r, "node %u shard %u cannot be read: %s", node,
				 s->id, e.msg);
		return;
	}
	for (; h->trim < trim; h->trim++)
		may_go(r, &h->v[h->trim], node, "trimmed");
	if (trim > h->trimmed)
		h->trimmed = trim;
	store_stats(s->store, &st);
	if (st.rewritten_segments != r->rewritten[node][s->id]) {
		r->rewritten[node][s->id] = st.rewritten_segments;
		h->rewrites += st.rewritten_segments > 0;
		if (st.rewritten_segments &&
		    store_read(s->store, trim, UINT32_MAX, look_stub, &g, &e) &&
		    !r->world.nodes[node].rotten)
			run_fail(r, "node %u shard %u cannot be read after a "
				    "rewrite: %s", node, s->id, e.msg);
	}
}

/* A device was told that numbers will not come: they are gone indeed. */
void history_hole(struct run *r, struct device *d, uint64_t from, uint64_t to)
{
	uint64_t slot = xxh3(&d->account, 8) % SLOTS;
	struct history *h = &r->history[slot % r->p.world.node.shards];
	uint64_t n = from;
	size_t i;

	for (i = 0; i < h->n && n <= to; i++) {
		if (h->v[i].key != d->account || h->v[i].n != n)
			continue;
		if (h->v[i].offset >= h->trimmed && !h->v[i].stubbed)
			run_fail(r, "device %u.%u was told that %" PRIu64
				    " is gone, and it is there",
				 d->account_i, d->number, n);
		n++;
	}
	if (n <= to)
		run_fail(r, "device %u.%u was told that %" PRIu64
			    " is gone, which never was", d->account_i, d->number,
			 n);
}

void history_release(struct run *r)
{
	uint32_t i;

	for (i = 0; i < SHARDS_MAX; i++)
		free(r->history[i].v);
}
