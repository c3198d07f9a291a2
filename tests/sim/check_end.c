/* At the end: every replica's log in full against the history. */
#include "base/alloc.h"
#include "base/assert.h"
#include "base/bytes.h"
#include "base/hash.h"
#include "consensus/node_impl.h"
#include "tests/sim/run.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* All that a replica has of a shard, in order. */
struct log {
	struct run *run;
	unsigned node;
	uint32_t shard;
	struct kept *v;
	size_t n, cap;
};

static bool keep(void *arg, const struct record *rec)
{
	struct log *l = arg;

	if (l->n == l->cap) {
		l->cap = l->cap ? 2 * l->cap : 256;
		l->v = xrealloc(l->v, l->cap * sizeof *l->v);
	}
	kept_of(&l->v[l->n++], rec, l->shard);
	return true;
}

static bool log_read(struct log *l)
{
	struct store *st = l->run->world.nodes[l->node].node->shards[l->shard]
				   .store;
	struct err e = { 0 };

	if (store_read(st, store_trimmed(st), UINT32_MAX, keep, l, &e)) {
		run_fail(l->run, "node %u shard %u cannot be read: %s", l->node,
			 l->shard, e.msg);
		return false;
	}
	if (store_trimmed(st) + l->n != store_meta(st)->next_offset)
		run_fail(l->run, "node %u shard %u has %zu records, not %" PRIu64,
			 l->node, l->shard, l->n,
			 store_meta(st)->next_offset - store_trimmed(st));
	return true;
}

/* A stub lacks its content only. */
static bool same_kept(const struct kept *a, const struct kept *b)
{
	return !memcmp(a->mid, b->mid, 16) && a->n == b->n && a->key == b->key &&
	       a->offset == b->offset && a->lamport == b->lamport &&
	       a->sender == b->sender && a->seq == b->seq &&
	       a->time_ms == b->time_ms &&
	       a->origin_lamport == b->origin_lamport &&
	       a->origin_offset == b->origin_offset &&
	       (a->stub || a->body_hash == b->body_hash) &&
	       a->device == b->device && a->shard == b->shard &&
	       a->origin_shard == b->origin_shard && a->part == b->part &&
	       a->cls == b->cls && a->kind == b->kind;
}

/* What is there is what was applied. */
static void same_log(const struct log *l, const struct history *h)
{
	size_t i;

	for (i = 0; i < l->n; i++) {
		const struct kept *k = &l->v[i];

		if (k->offset >= h->n || !same_kept(k, &h->v[k->offset])) {
			run_fail(l->run, "shard %u: record %" PRIu64
					 " of node %u is not the one that was "
					 "applied", l->shard, k->offset, l->node);
			return;
		}
	}
}

static struct sent *sent_of(struct check *c, const struct kept *k)
{
	struct sent *s = map_get(&c->sends, get_u64(k->mid));

	return s && !memcmp(s->mid, k->mid, 16) ? s : NULL;
}

/* FIFO: the last sequence number of a device in a destination's log. */
static uint64_t *fifo_place(struct map *m, const struct kept *k)
{
	uint64_t id[3] = { k->sender, k->device, k->key };
	uint64_t key = xxh3(id, sizeof id), *v = map_get(m, key);

	if (!v) {
		v = xcalloc(1, sizeof *v);
		map_put(m, key, v);
	}
	return v;
}

static void check_one(struct check *c, const struct kept *k, struct map *fifo)
{
	struct run *r = c->run;
	struct sent *s;

	if (k->kind == RECORD_TRIM || k->kind == RECORD_ERASE)
		return; /* the log's own */
	s = sent_of(c, k);
	if (!s) {
		run_fail(r, "shard %u offset %" PRIu64 " holds what nobody wrote",
			 k->shard, k->offset);
		return;
	}
	if (!k->cls) /* a void: it took its number, and there is no message */
		return;
	if (s->fate == FATE_FORGOTTEN || s->fate == FATE_REFUSED || s->to_nobody ||
	    !s->durable)
		run_fail(r, "%" PRIu64 " is in the log, though %s", s->number,
			 s->durable ? "it was refused" : "it never left");
	if (k->sender != s->from || k->device != s->device || k->seq != s->seq ||
	    k->cls != s->cls || k->body_hash != s->body_hash ||
	    k->key != (k->part ? s->from : s->to))
		run_fail(r, "%" PRIu64 " is in the log, but changed", s->number);
	if (k->part) {
		s->copies++;
		if (s->fate == FATE_ACKED &&
		    (k->origin_lamport != s->lamport ||
		     k->origin_offset != s->offset ||
		     k->origin_shard != s->shard))
			run_fail(r, "the copy of %" PRIu64
				    " names another origin", s->number);
		return;
	}
	s->found++;
	if (s->fate == FATE_ACKED &&
	    (k->lamport != s->lamport || k->offset != s->offset ||
	     k->shard != s->shard))
		run_fail(r, "%" PRIu64 " is not where its ack said", s->number);
	if (k->lamport <= s->seen) {
		c->reordered++;
		run_fail(r, "%" PRIu64 " has lamport %" PRIu64
			    ", its writer had seen %" PRIu64, s->number,
			 k->lamport, s->seen);
	}
	if (s->seq <= *fifo_place(fifo, k)) {
		c->reordered++;
		run_fail(r, "%" PRIu64 " was overtaken by seq %" PRIu64,
			 s->number, *fifo_place(fifo, k));
	}
	*fifo_place(fifo, k) = s->seq;
}

static void check_devices(struct check *c, const struct kept *k)
{
	struct run *r = c->run;
	int i = account_index(r, k->key);
	unsigned d;

	for (d = 0; i >= 0 && k->n && d < r->p.devices[i]; d++) {
		struct device *dev = r->devices[i][d];
		struct seen *seen = k->n < dev->inbox_cap ? &dev->inbox[k->n]
							   : NULL;

		if (seen && seen->hole && !seen->from)
			continue; /* it was told: history_hole() */
		if (k->n > dev->last_n || !seen ||
		    memcmp(seen->mid, k->mid, 16)) {
			c->lost++;
			run_fail(r, "device %d.%u was not given number %" PRIu64,
				 i, d + 1, k->n);
			continue;
		}
		if (seen->lamport != (k->part ? k->origin_lamport : k->lamport))
			run_fail(r, "device %d.%u was told another lamport of %"
				    PRIu64, i, d + 1, k->n);
	}
}

static void check_shard(struct check *c, uint32_t shard,
			uint64_t last[ACCOUNTS_MAX])
{
	struct run *r = c->run;
	struct history *h = &r->history[shard];
	struct map fifo;
	unsigned node;
	size_t k;

	map_init(&fifo);
	for (k = 0; k < h->n; k++) {
		const struct kept *x = &h->v[k];
		int i = account_index(r, x->key);

		if (x->offset != k ||
		    (k && x->lamport <= h->v[k - 1].lamport))
			run_fail(r, "shard %u: offset or lamport of record %zu",
				 shard, k);
		if (x->cls && i >= 0 && x->n != ++last[i])
			run_fail(r, "account %d: number %" PRIu64 " instead of %"
				    PRIu64, i, x->n, last[i]);
		check_one(c, x, &fifo);
		check_devices(c, x);
	}
	for (node = 1; node <= r->world.cfg.nodes; node++) {
		struct log l = { r, node, shard, NULL, 0, 0 };

		/* A damaged one may be late, and may not be able to read. */
		if (r->world.nodes[node].rotten)
			continue;
		if (log_read(&l))
			same_log(&l, h);
		free(l.v);
	}
	MAP_FOREACH(slot, &fifo)
		free(slot->val);
	map_release(&fifo);
}

/* Received and stored, and the shard knows: no more, no less. */
static void check_cursors(struct check *c)
{
	struct run *r = c->run;
	unsigned i, k;

	for (i = 0; i < r->p.accounts; i++) {
		uint32_t shard = node_shard_of(r->world.nodes[1].node, r->ids[i]);
		struct machine *m =
			&r->world.nodes[1].node->shards[shard].machine;

		for (k = 0; k < r->p.devices[i]; k++) {
			struct device *d = r->devices[i][k];
			struct result res = { 0 };

			machine_device(m, d->account, d->device, &res);
			if (res.cursor != machine_inbox_end(m, d->account) ||
			    res.cursor != d->store.state.meta.cursor)
				run_fail(r, "device %u.%u: cursor %" PRIu64
					    " in the shard, %" PRIu64
					    " stored, inbox end %" PRIu64,
					 i, k + 1, res.cursor,
					 d->store.state.meta.cursor,
					 machine_inbox_end(m, d->account));
		}
	}
}

void check_end(struct check *c)
{
	struct run *r = c->run;
	uint64_t last[ACCOUNTS_MAX] = { 0 };
	uint32_t shard;

	for (shard = 0; shard < node_shards(r->world.nodes[1].node); shard++)
		check_shard(c, shard, last);
	check_cursors(c);
	MAP_FOREACH(slot, &c->sends)
	{
		struct sent *s = slot->val;
		int from = account_index(r, s->from);
		bool copied = (s->cls == 1 || s->cls == 3) && r->listed[from] > 1;

		if (s->fate == FATE_ACKED && !s->found) {
			c->lost++;
			run_fail(r, "%" PRIu64 " was acked and is lost",
				 s->number);
		}
		if (s->found > 1 || s->copies > 1) {
			c->duplicated++;
			run_fail(r, "%" PRIu64 " is there %u times, its copy %u",
				 s->number, s->found, s->copies);
		}
		if (s->fate == FATE_ACKED && s->copies != copied)
			run_fail(r, "%" PRIu64 " was acked with %u own copies",
				 s->number, s->copies);
		if (s->fate == FATE_OPEN)
			run_fail(r, "%" PRIu64 " was never answered", s->number);
	}
}
