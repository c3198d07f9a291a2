/* Who is where: for every key of a segment its frames, and the row of each key that
 * names the last segment with its records.  From there the way back goes over
 * `prev`, so a read touches only segments that hold the key. */
#include "base/alloc.h"
#include "base/assert.h"
#include "base/bytes.h"
#include "log/store_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Row of a key (table 31): last number, its offset, base of the last segment with a
 * record of it, base of the one before (KIDX_NO_PREV: none). */
#define KEY_ROW 32u

static void key_of(uint8_t out[8], uint64_t key)
{
	key = __builtin_bswap64(key);
	memcpy(out, &key, 8);
}

struct sindex *sindex_new(void)
{
	struct sindex *x = xcalloc(1, sizeof *x);

	map_init(&x->keys);
	return x;
}

void sindex_free(struct sindex *x)
{
	if (!x)
		return;
	MAP_FOREACH(slot, &x->keys)
	{
		struct kidx *k = slot->val;

		free(k->frames);
		free(k->firsts);
		free(k);
	}
	map_release(&x->keys);
	free(x->places);
	free(x);
}

static uint32_t place_add(struct sindex *x, uint64_t base, uint32_t off,
			  uint32_t count)
{
	if (x->n_places == x->cap_places) {
		x->cap_places = x->cap_places ? 2 * x->cap_places : 64;
		x->places = xrealloc(x->places,
				     x->cap_places * sizeof *x->places);
	}
	x->places[x->n_places] = (struct place){ base, off, count };
	return x->n_places++;
}

static struct kidx *key_add(struct sindex *x, uint64_t key, uint64_t first,
			    uint64_t prev)
{
	struct kidx *k = xcalloc(1, sizeof *k);

	k->key = key;
	k->first_n = first;
	k->prev = prev;
	map_put(&x->keys, key, k);
	return k;
}

static void key_frame(struct kidx *k, uint32_t frame, uint64_t first)
{
	if (k->n == k->cap) {
		k->cap = k->cap ? 2 * k->cap : 2;
		k->frames = xrealloc(k->frames, k->cap * sizeof *k->frames);
		k->firsts = xrealloc(k->firsts, k->cap * sizeof *k->firsts);
	}
	k->frames[k->n] = frame;
	k->firsts[k->n++] = first;
}

/* The row of a key gets this record; returns the segment before. */
static uint64_t row_note(struct store *s, uint64_t seg, const struct record *r)
{
	uint8_t key[8], *row;
	uint32_t len;

	key_of(key, r->key);
	row = row_get(s, T_STORE_KEY, key, 8, &len);
	if (!row) {
		row = row_put(s, T_STORE_KEY, key, 8, KEY_ROW);
		put_u64(row + 16, seg);
		put_u64(row + 24, KIDX_NO_PREV);
	} else {
		AN(len == KEY_ROW);
		if (get_u64(row + 16) != seg) {
			put_u64(row + 24, get_u64(row + 16));
			put_u64(row + 16, seg);
		}
		row_dirty(s, row);
	}
	put_u64(row, r->n);
	put_u64(row + 8, r->offset);
	return get_u64(row + 24);
}

/* After a crash the rows are as of the same durable end as the segment. */
static uint64_t row_prev(struct store *s, uint64_t seg, uint64_t key)
{
	uint8_t k[8];
	const uint8_t *row;
	uint32_t len;

	key_of(k, key);
	row = row_get(s, T_STORE_KEY, k, 8, &len);
	if (!row || len != KEY_ROW || get_u64(row + 16) != seg)
		return KIDX_NO_PREV;
	return get_u64(row + 24);
}

void sindex_add(struct store *s, struct sindex *x, uint64_t seg,
		const struct frame *f, uint32_t off, const struct record *recs,
		unsigned n, bool rebuild)
{
	uint32_t frame = place_add(x, f->base, off, f->count);
	unsigned i;

	for (i = 0; i < n; i++) {
		const struct record *r = &recs[i];
		struct kidx *k;
		uint64_t prev = 0;

		if (!r->n)
			continue; /* in nobody's inbox */
		if (!rebuild)
			prev = row_note(s, seg, r);
		k = map_get(&x->keys, r->key);
		if (!k)
			k = key_add(x, r->key, r->n,
				    rebuild ? row_prev(s, seg, r->key) : prev);
		k->last_n = r->n;
		if (!k->n || k->frames[k->n - 1] != frame)
			key_frame(k, frame, r->n);
	}
}

/* ---- files ------------------------------------------------------------------------- */

static int by_key(const void *a, const void *b)
{
	const struct kidx *x = *(struct kidx *const *)a,
			  *y = *(struct kidx *const *)b;

	return x->key < y->key ? -1 : x->key > y->key;
}

int sindex_write(struct store *s, struct segment *g, uint64_t *sum,
		 struct err *e)
{
	struct sindex *x = g->index;
	struct kidx **keys = xmalloc((x->keys.len + 1) * sizeof(void *));
	struct buf b = BUF_INIT;
	struct disk_file *file;
	struct iovec iov;
	char path[96];
	uint32_t i, n = 0;
	int rv;

	MAP_FOREACH(slot, &x->keys)
		keys[n++] = slot->val;
	qsort(keys, n, sizeof *keys, by_key);
	index_head_put(&b, s->cfg.shard, g->base, g->end, x->n_places, n);
	for (i = 0; i < x->n_places; i++)
		index_place_put(&b, &x->places[i]);
	for (i = 0; i < n; i++)
		index_key_put(&b, keys[i]);
	free(keys);
	*sum = index_end_put(&b);
	segment_path(s, g, "idx", path, sizeof path);
	rv = s->disk->ops->open(s->disk, path, DISK_WRITE | DISK_CREATE, &file,
				e);
	if (!rv) {
		iov = (struct iovec){ b.data, b.len };
		rv = s->disk->ops->pwritev(file, &iov, 1, 0, e);
		if (!rv)
			rv = s->disk->ops->truncate(file, b.len, e);
		s->disk->ops->close(file);
	}
	buf_release(&b);
	return rv;
}

static int index_fill(struct sindex *x, struct index_reader *r)
{
	struct kidx k = { 0 };
	const uint8_t *p;
	uint32_t i;
	int rv;

	for (i = 0; i < r->n_places; i++) {
		struct place pl;

		index_place(r, i, &pl);
		place_add(x, pl.base, pl.off, pl.count);
	}
	while ((rv = index_key(r, &k, &p)) == 1) {
		struct kidx *to = key_add(x, k.key, k.first_n, k.prev);

		to->last_n = k.last_n;
		for (i = 0; i < k.n; i++)
			key_frame(to, get_u32(p + 12 * (size_t)i + 8),
				  get_u64(p + 12 * (size_t)i));
	}
	return rv;
}

/* ERR_* when the file is missing or damaged: it can be made again. */
static int index_load(struct store *s, const struct segment *g,
		      struct sindex **out)
{
	struct index_reader r;
	struct sindex *x;
	struct disk_file *file;
	uint64_t size;
	size_t got = 0;
	uint8_t *p;
	char path[96];
	int rv;

	segment_path(s, g, "idx", path, sizeof path);
	rv = s->disk->ops->open(s->disk, path, DISK_READ, &file, NULL);
	if (rv)
		return rv;
	rv = s->disk->ops->size(file, &size, NULL);
	if (!rv && size > 1u << 30)
		rv = ERR_DAMAGED;
	p = rv ? NULL : xmalloc(size + 1);
	if (!rv)
		rv = s->disk->ops->pread(file, p, size, 0, &got, NULL);
	s->disk->ops->close(file);
	if (!rv)
		rv = index_open(&r, p, got, NULL);
	if (!rv && (r.base != g->base || r.end != g->end ||
		    r.shard != s->cfg.shard))
		rv = ERR_DAMAGED;
	if (!rv) {
		x = sindex_new();
		rv = index_fill(x, &r);
		if (rv)
			sindex_free(x);
		else
			*out = x;
	}
	free(p);
	return rv;
}

struct rebuild {
	struct store *s;
	struct segment *g;
	struct sindex *x;
	struct record *recs;
	uint32_t cap;
	uint64_t clock;
	bool open;             /* the rows know it as the last segment */
};

static int rebuild_frame(void *arg, const struct frame *f, uint32_t off,
			 const struct buf *raw, struct err *e)
{
	struct rebuild *b = arg;
	struct frame_iter it;
	uint32_t i;

	if (f->count > b->cap) {
		if (f->count > raw->len)
			goto damaged;
		b->cap = f->count;
		b->recs = xrealloc(b->recs, b->cap * sizeof *b->recs);
	}
	frame_iter_init(&it, f, raw);
	for (i = 0; i < f->count; i++)
		if (frame_next(&it, &b->recs[i]) != 1)
			goto damaged;
	sindex_add(b->s, b->x, b->open ? b->g->base : UINT64_MAX - 1, f, off,
		   b->recs, f->count, true);
	return 0;
damaged:
	return err_set(e, ERR_DAMAGED,
		       "shard %u: segment %016" PRIx64
		       " has a damaged record at byte %u",
		       b->s->cfg.shard, b->g->base, off);
}

int sindex_recover(struct store *s, struct segment *g, struct err *e)
{
	struct rebuild b = { .s = s, .g = g, .x = sindex_new(), .open = true };
	uint8_t bytes[SEGMENT_HEADER];
	struct segment_head h;
	size_t got;
	int rv = s->disk->ops->pread(g->file, bytes, sizeof bytes, 0, &got, e);

	if (!rv)
		rv = segment_head_decode(&h, bytes, e);
	if (!rv)
		rv = segment_scan(s, g, g->bytes, h.chain, rebuild_frame, &b,
				  e);
	free(b.recs);
	if (!rv && memcmp(h.chain, s->meta.chain, 32))
		rv = err_set(e, ERR_DAMAGED,
			     "shard %u: the chain of segment %016" PRIx64
			     " does not lead to the state's",
			     s->cfg.shard, g->base);
	if (rv) {
		sindex_free(b.x);
		return rv;
	}
	g->index = b.x;
	return 0;
}

/* A sealed segment's index from its frames.  Which segment was before is not known
 * any more: the reader tries the one in front. */
static int index_rebuild(struct store *s, struct segment *g,
			 struct sindex **out, struct err *e)
{
	struct rebuild b = { .s = s, .g = g, .x = sindex_new() };
	uint64_t prev = g > s->segs ? g[-1].base : KIDX_NO_PREV;
	int rv = segment_scan(s, g, g->bytes, NULL, rebuild_frame, &b, e);

	free(b.recs);
	if (rv) {
		sindex_free(b.x);
		return rv;
	}
	MAP_FOREACH(slot, &b.x->keys)
		((struct kidx *)slot->val)->prev = prev;
	*out = b.x;
	return 0;
}

int segment_index(struct store *s, struct segment *g, struct sindex **out,
		  struct err *e)
{
	struct segment *old = NULL;
	unsigned loaded = 0;
	uint32_t i;
	int rv;

	g->used = ++s->use_clock;
	if (g->index) {
		*out = g->index;
		return 0;
	}
	rv = index_load(s, g, &g->index);
	if (rv)
		rv = index_rebuild(s, g, &g->index, e);
	if (rv)
		return rv;
	for (i = 0; i < s->n_segs; i++) {
		struct segment *x = &s->segs[i];

		if (!x->sealed || !x->index || x == g)
			continue;
		loaded++;
		if (!old || x->used < old->used)
			old = x;
	}
	if (loaded >= SEALED_INDEXES_MAX) {
		sindex_free(old->index);
		old->index = NULL;
	}
	*out = g->index;
	return 0;
}
