/* Reading: by offset, and by key forwards and backwards.  Bytes come from the cache
 * of decoded frames or by one pread a frame. */
#include "base/alloc.h"
#include "base/bytes.h"
#include "log/store_impl.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static uint64_t place_end(const struct segment *g, const struct sindex *x,
			  uint32_t i)
{
	return i + 1 < x->n_places ? x->places[i + 1].off : g->bytes;
}

/* Record i of a decoded frame. */
static void slot_record(const struct cached_frame *c, uint32_t i,
			struct record *r)
{
	struct frame_iter it = { .f = &c->f,
				 .p = c->raw.data + c->slots[i].off,
				 .end = c->raw.data + c->raw.len,
				 .lamport = c->slots[i].prev_lamport,
				 .i = i };

	/* It was decoded once when the frame came into the cache. */
	frame_next(&it, r);
}

int store_read(struct store *s, uint64_t from_offset, unsigned limit,
	       bool (*cb)(void *arg, const struct record *r), void *arg,
	       struct err *e)
{
	const struct cached_frame *c;
	struct sindex *x;
	struct record r;

	while (limit && from_offset < s->meta.next_offset) {
		struct segment *g = from_offset < s->trim
					    ? NULL
					    : segment_of(s, from_offset);
		uint32_t lo = 0, hi, i;
		int rv;

		if (!g)
			return err_set(e, ERR_TRUNCATED,
				       "record %" PRIu64 " is gone",
				       from_offset);
		rv = segment_index(s, g, &x, e);
		if (rv)
			return rv;
		for (hi = x->n_places; hi - lo > 1;) {
			uint32_t mid = (lo + hi) / 2;

			if (x->places[mid].base <= from_offset)
				lo = mid;
			else
				hi = mid;
		}
		for (; lo < x->n_places && limit; lo++) {
			const struct place *p = &x->places[lo];

			rv = segment_frame(s, g, p, place_end(g, x, lo), &c, e);
			if (rv)
				return rv;
			if (from_offset < p->base ||
			    from_offset >= p->base + p->count)
				return err_set(e, ERR_DAMAGED,
					       "shard %u: the index of segment "
					       "%016" PRIx64 " has a gap",
					       s->cfg.shard, g->base);
			for (i = (uint32_t)(from_offset - p->base);
			     i < p->count && limit; i++, limit--) {
				slot_record(c, i, &r);
				from_offset++;
				if (!cb(arg, &r))
					return 0;
			}
		}
	}
	return 0;
}

/* ---- by key ----------------------------------------------------------------------- */

static const uint8_t *key_row(struct store *s, uint64_t key)
{
	uint64_t be = __builtin_bswap64(key);
	uint32_t len;

	return row_get(s, T_STORE_KEY, &be, 8, &len);
}

uint64_t store_key_last(struct store *s, uint64_t key)
{
	const uint8_t *row = key_row(s, key);

	return row ? get_u64(row) : 0;
}

struct key_read {
	uint64_t key, from, before;
	unsigned limit;
	size_t left;
	bool any, stop;
	bool (*cb)(void *arg, const struct record *r);
	void *arg;
};

static bool give(struct key_read *k, const struct record *r)
{
	if (k->any && r->payload_len > k->left)
		return !(k->stop = true);
	k->left -= r->payload_len < k->left ? r->payload_len : k->left;
	k->any = true;
	if (!k->cb(k->arg, r) || !--k->limit)
		k->stop = true;
	return !k->stop;
}

static int damaged(struct store *s, struct segment *g, uint64_t n,
		   struct err *e)
{
	return err_set(e, ERR_DAMAGED,
		       "shard %u: number %" PRIu64
		       " of an inbox is not where segment %016" PRIx64
		       " says",
		       s->cfg.shard, n, g->base);
}

/* The records of one segment from k->from on. */
static int read_segment(struct store *s, struct segment *g,
			const struct sindex *x, const struct kidx *ki,
			struct key_read *k, struct err *e)
{
	const struct cached_frame *c;
	uint32_t lo = 0, hi, i;
	struct record r;

	for (hi = ki->n; hi - lo > 1;) {
		uint32_t mid = (lo + hi) / 2;

		if (ki->firsts[mid] <= k->from)
			lo = mid;
		else
			hi = mid;
	}
	for (; lo < ki->n && !k->stop; lo++) {
		uint32_t at = ki->frames[lo];
		int rv = segment_frame(s, g, &x->places[at],
				       place_end(g, x, at), &c, e);

		if (rv)
			return rv;
		for (i = 0; i < c->f.count && !k->stop; i++) {
			if (c->slots[i].key != k->key)
				continue;
			slot_record(c, i, &r);
			if (!r.n || r.n < k->from)
				continue;
			if (r.n != k->from)
				return damaged(s, g, k->from, e);
			k->from++;
			give(k, &r);
		}
	}
	return 0;
}

/* The first number of a key in a segment that is not trimmed; 0: none.  Trim points
 * are between frames. */
static uint64_t first_kept(const struct store *s, const struct segment *g,
			   const struct sindex *x, const struct kidx *ki)
{
	uint32_t i;

	if (g->base >= s->trim)
		return ki->first_n;
	for (i = 0; i < ki->n; i++)
		if (x->places[ki->frames[i]].base >= s->trim)
			return ki->firsts[i];
	return 0;
}

/* The segment with number n of a key, from the row's back along the links. */
static int find_segment(struct store *s, uint64_t key, uint64_t n,
			struct segment **out, struct sindex **x,
			struct kidx **ki, struct err *e)
{
	const uint8_t *row = key_row(s, key);
	uint64_t base = row ? get_u64(row + 16) : KIDX_NO_PREV;

	for (;;) {
		struct segment *g = segment_by_base(s, base);
		uint64_t first;
		int rv;

		if (!g)
			return ERR_TRUNCATED;
		rv = segment_index(s, g, x, e);
		if (rv)
			return rv;
		*ki = map_get(&(*x)->keys, key);
		first = *ki ? first_kept(s, g, *x, *ki) : 0;
		if (first && first <= n) {
			*out = g;
			return 0;
		}
		if (g->base < s->trim)
			return ERR_TRUNCATED;
		/* After a rebuild the link may lead to one without the key. */
		if (*ki)
			base = (*ki)->prev;
		else
			base = g > s->segs ? g[-1].base : KIDX_NO_PREV;
	}
}

int store_key_oldest(struct store *s, uint64_t key, uint64_t from,
		     uint64_t *oldest, struct err *e)
{
	const uint8_t *row = s->trim ? key_row(s, key) : NULL;
	uint64_t base;

	*oldest = 1;
	if (!row)
		return 0;
	*oldest = get_u64(row) + 1;
	base = get_u64(row + 8) < s->trim ? KIDX_NO_PREV : get_u64(row + 16);
	while (*oldest > from) {
		struct segment *g = segment_by_base(s, base);
		struct sindex *x;
		struct kidx *ki;
		uint64_t first;
		int rv;

		if (!g)
			break;
		rv = segment_index(s, g, &x, e);
		if (rv)
			return rv;
		ki = map_get(&x->keys, key);
		first = ki ? first_kept(s, g, x, ki) : 0;
		if (first)
			*oldest = first;
		if (g->base < s->trim)
			break;
		if (ki)
			base = ki->prev;
		else
			base = g > s->segs ? g[-1].base : KIDX_NO_PREV;
	}
	return 0;
}

static int truncated(struct store *s, uint64_t key, uint64_t from,
		     uint64_t *oldest, struct err *e)
{
	int rv = store_key_oldest(s, key, from, oldest, e);

	if (!rv && *oldest <= from) /* no trim explains the hole */
		return err_set(e, ERR_DAMAGED,
			       "shard %u: number %" PRIu64
			       " of an inbox is missing",
			       s->cfg.shard, from);
	return rv ? rv : err_set(e, ERR_TRUNCATED,
				 "numbers below %" PRIu64 " are gone", *oldest);
}

int store_read_key(struct store *s, uint64_t key, uint64_t from,
		   unsigned limit, size_t max_bytes,
		   bool (*cb)(void *arg, const struct record *r), void *arg,
		   uint64_t *oldest, struct err *e)
{
	struct key_read k = { .key = key, .from = from ? from : 1,
			      .limit = limit, .left = max_bytes, .cb = cb,
			      .arg = arg };
	uint64_t last = store_key_last(s, key);

	*oldest = 1;
	while (limit && !k.stop && k.from <= last) {
		struct segment *g;
		struct sindex *x;
		struct kidx *ki;
		uint64_t before = k.from;
		int rv = find_segment(s, key, k.from, &g, &x, &ki, e);

		if (rv == ERR_TRUNCATED)
			return truncated(s, key, k.from, oldest, e);
		if (!rv)
			rv = read_segment(s, g, x, ki, &k, e);
		if (rv)
			return rv;
		if (k.from == before && !k.stop)
			return damaged(s, g, k.from, e);
	}
	return 0;
}

/* Places of a key's records in a frame, so that they can be given newest first. */
static int back_frame(struct store *s, struct segment *g,
		      const struct sindex *x, uint32_t at, struct key_read *k,
		      struct err *e)
{
	const struct cached_frame *c;
	struct record r;
	uint32_t i;
	int rv = segment_frame(s, g, &x->places[at], place_end(g, x, at), &c,
			       e);

	if (rv)
		return rv;
	for (i = c->f.count; i-- > 0 && !k->stop;) {
		if (c->slots[i].key != k->key)
			continue;
		slot_record(c, i, &r);
		if (!r.n || r.n >= k->before)
			continue;
		if (r.n != k->before - 1)
			return damaged(s, g, k->before - 1, e);
		k->before--;
		give(k, &r);
	}
	return 0;
}

int store_read_key_back(struct store *s, uint64_t key, uint64_t before,
			unsigned limit, size_t max_bytes,
			bool (*cb)(void *arg, const struct record *r),
			void *arg, uint64_t *oldest, struct err *e)
{
	uint64_t last = store_key_last(s, key);
	struct key_read k = { .key = key, .limit = limit, .left = max_bytes,
			      .cb = cb, .arg = arg };

	*oldest = 1;
	k.before = before && before <= last ? before : last + 1;
	while (limit && !k.stop && k.before > 1) {
		struct segment *g;
		struct sindex *x;
		struct kidx *ki;
		uint64_t was = k.before;
		uint32_t i;
		int rv = find_segment(s, key, k.before - 1, &g, &x, &ki, e);

		if (rv == ERR_TRUNCATED)
			return truncated(s, key, k.before - 1, oldest, e);
		for (i = rv ? 0 : ki->n; i-- > 0 && !k.stop && !rv;)
			if (x->places[ki->frames[i]].base < s->trim)
				break;
			else if (ki->firsts[i] < k.before)
				rv = back_frame(s, g, x, ki->frames[i], &k, e);
		if (rv)
			return rv;
		if (k.before == was && !k.stop)
			return damaged(s, g, was - 1, e);
	}
	return 0;
}
