/* Segment and tree files of a shard, and the cache of decoded frames. */
#include "base/alloc.h"
#include "base/assert.h"
#include "base/bytes.h"
#include "log/store_impl.h"
#include "log/walk.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SEGMENT_ROW 48u /* number, end, bytes, logical u64, generation, sealed u32 */

static void base_key(uint8_t key[8], uint64_t base)
{
	base = __builtin_bswap64(base);
	memcpy(key, &base, 8);
}

void segment_path(const struct store *s, const struct segment *g,
		  const char *ext, char *path, size_t size)
{
	snprintf(path, size, "%s/seg/%016" PRIx64 ".%u.%s", s->dir, g->base,
		 g->generation, ext);
}

/* ---- list ---------------------------------------------------------------------- */

struct segment *segment_of(struct store *s, uint64_t offset)
{
	uint32_t lo = 0, hi = s->n_segs;

	while (lo < hi) {
		uint32_t mid = (lo + hi) / 2;

		if (s->segs[mid].end <= offset)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < s->n_segs && s->segs[lo].base <= offset ? &s->segs[lo]
							    : NULL;
}

struct segment *segment_by_base(struct store *s, uint64_t base)
{
	uint32_t lo = 0, hi = s->n_segs;

	while (lo < hi) {
		uint32_t mid = (lo + hi) / 2;

		if (s->segs[mid].base < base)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < s->n_segs && s->segs[lo].base == base ? &s->segs[lo] : NULL;
}

static struct segment *list_add(struct store *s)
{
	struct segment *g;

	if (s->n_segs == s->cap_segs) {
		s->cap_segs = s->cap_segs ? 2 * s->cap_segs : 8;
		s->segs = xrealloc(s->segs, s->cap_segs * sizeof *s->segs);
	}
	g = &s->segs[s->n_segs++];
	memset(g, 0, sizeof *g);
	return g;
}

void segment_row(struct store *s, const struct segment *g)
{
	uint8_t key[8], *row;

	base_key(key, g->base);
	row = row_put(s, T_STORE_SEGMENT, key, 8, SEGMENT_ROW);
	put_u64(row, g->number);
	put_u64(row + 8, g->end);
	put_u64(row + 16, g->bytes);
	put_u64(row + 24, g->logical);
	put_u32(row + 32, g->generation);
	put_u32(row + 36, g->sealed);
	row_dirty(s, row);
}

/* ---- files ---------------------------------------------------------------------- */

/* Descriptors of sealed segments are few and given back, oldest use first. */
static void close_idle_file(struct store *s)
{
	struct segment *old = NULL;
	unsigned open = 0;
	uint32_t i;

	if (s->ckpt)
		return; /* it may be syncing one of them */
	for (i = 0; i < s->n_segs; i++) {
		struct segment *g = &s->segs[i];

		if (!g->file || !g->sealed || !g->synced)
			continue;
		open++;
		if (!old || g->used < old->used)
			old = g;
	}
	if (open > SEALED_FILES_MAX) {
		s->disk->ops->close(old->file);
		old->file = NULL;
	}
}

int segment_file(struct store *s, struct segment *g, struct err *e)
{
	char path[96];
	int rv;

	g->used = ++s->use_clock;
	if (g->file)
		return 0;
	close_idle_file(s);
	segment_path(s, g, "seg", path, sizeof path);
	rv = s->disk->ops->open(s->disk, path, DISK_WRITE, &g->file, e);
	if (rv == ERR_NOT_FOUND)
		return err_set(e, ERR_DAMAGED, "%s is missing", path);
	return rv;
}

struct segment *segment_new(struct store *s, uint64_t term, uint64_t index,
			    uint64_t time_ms, struct err *e)
{
	struct segment_head h = { .shard = s->cfg.shard };
	struct segment *g = list_add(s);
	uint8_t bytes[SEGMENT_HEADER];
	struct iovec iov = { bytes, sizeof bytes };
	char path[96];

	memcpy(h.cluster_id, s->cfg.cluster_id, 16);
	h.number = g->number = s->n_segs > 1 ? g[-1].number + 1
					      : s->next_number;
	h.base = g->base = g->end = s->meta.next_offset;
	h.clock = s->meta.clock;
	h.time_ms = time_ms;
	h.term = term;
	h.index = index;
	memcpy(h.chain, s->meta.chain, 32);
	segment_head_encode(&h, bytes);
	g->bytes = SEGMENT_HEADER;
	g->index = sindex_new();
	s->new_files = true;
	segment_path(s, g, "seg", path, sizeof path);
	if (s->disk->ops->open(s->disk, path, DISK_WRITE | DISK_CREATE,
			       &g->file, e) ||
	    s->disk->ops->pwritev(g->file, &iov, 1, 0, e))
		return NULL;
	segment_row(s, g);
	s->stats.segments++;
	return g;
}

int segment_seal(struct store *s, struct segment *g, struct err *e)
{
	struct segment_foot f = {
		.shard = s->cfg.shard,
		.generation = g->generation,
		.number = g->number,
		.base = g->base,
		.end = g->end,
		.bytes = g->bytes,
		.logical = g->logical,
		.frames = g->index->n_places,
		.lamport = s->meta.clock,
		.time_ms = s->meta.last_time_ms,
	};
	uint8_t bytes[SEGMENT_FOOTER];
	struct iovec iov = { bytes, sizeof bytes };
	int rv = sindex_write(s, g, &f.index_sum, e);

	if (rv)
		return rv;
	memcpy(f.chain, s->meta.chain, 32);
	frontier_root(&s->tree, f.root);
	segment_foot_encode(&f, bytes);
	rv = s->disk->ops->pwritev(g->file, &iov, 1, g->bytes, e);
	/* What replay after a crash overwrote may have been longer. */
	if (!rv)
		rv = s->disk->ops->truncate(g->file, g->bytes + SEGMENT_FOOTER,
					    e);
	if (rv)
		return rv;
	g->sealed = true;
	g->used = ++s->use_clock;
	segment_row(s, g);
	return 0;
}

struct list_arg {
	struct store *s;
	bool bad;
};

static bool list_row(void *arg, const void *key, unsigned klen,
		     const void *val, uint32_t len)
{
	struct list_arg *a = arg;
	const uint8_t *p = val;
	struct segment *g;

	if (klen != 8 || len != SEGMENT_ROW) {
		a->bad = true;
		return false;
	}
	g = list_add(a->s);
	memcpy(&g->base, key, 8);
	g->base = __builtin_bswap64(g->base);
	g->number = get_u64(p);
	g->end = get_u64(p + 8);
	g->bytes = get_u64(p + 16);
	g->logical = get_u64(p + 24);
	g->generation = get_u32(p + 32);
	g->sealed = g->synced = get_u32(p + 36) & 1;
	return true;
}

/* Header of the open segment, footer of a sealed one. */
static int check_ends(struct store *s, struct segment *g, struct err *e)
{
	uint8_t bytes[SEGMENT_HEADER];
	struct segment_head h;
	struct segment_foot f;
	char path[96];
	size_t got;
	int rv = segment_file(s, g, e);

	if (rv)
		return rv;
	segment_path(s, g, "seg", path, sizeof path);
	rv = s->disk->ops->pread(g->file, bytes, sizeof bytes,
				 g->sealed ? g->bytes : 0, &got, e);
	if (!rv && got != sizeof bytes)
		rv = err_set(e, ERR_DAMAGED, "the file is too short");
	if (!rv && g->sealed) {
		rv = segment_foot_decode(&f, bytes, e);
		if (!rv && (f.shard != s->cfg.shard || f.base != g->base ||
			    f.end != g->end || f.bytes != g->bytes))
			rv = err_set(e, ERR_DAMAGED,
				     "the footer is another segment's");
	} else if (!rv) {
		rv = segment_head_decode(&h, bytes, e);
		if (!rv && (h.shard != s->cfg.shard || h.base != g->base ||
			    memcmp(h.cluster_id, s->cfg.cluster_id, 16)))
			rv = err_set(e, ERR_DAMAGED,
				     "the header is another segment's");
	}
	/* A program that writes newer segments gives the state a newer version, which
	 * was seen before this. */
	if (rv == ERR_FORMAT || rv == ERR_CHECKSUM || rv == ERR_VERSION)
		e->code = rv = ERR_DAMAGED;
	if (rv)
		err_wrap(e, "shard %u: %s", s->cfg.shard, path);
	return rv;
}

int segments_open(struct store *s, uint64_t open_base, uint64_t open_bytes,
		  uint64_t open_logical, struct err *e)
{
	struct list_arg a = { .s = s };
	struct segment *g;
	uint64_t next;
	uint32_t i;
	int rv = row_walk(s, T_STORE_SEGMENT, list_row, &a, e);

	if (!rv && trim_load(s))
		rv = err_set(e, ERR_DAMAGED,
			     "shard %u: the row of the trim point is damaged",
			     s->cfg.shard);
	if (rv)
		return rv;
	/* What was trimmed has left the list from the front. */
	next = s->n_segs && s->segs[0].base <= s->trim ? s->segs[0].base
						       : s->trim;
	for (i = 0; i < s->n_segs && !a.bad; i++) {
		g = &s->segs[i];
		if (g->base != next || (!g->sealed && i + 1 < s->n_segs))
			a.bad = true;
		if (!g->sealed) {
			a.bad |= g->base != open_base;
			g->bytes = open_bytes;
			g->logical = open_logical;
			g->end = s->meta.next_offset;
		}
		next = g->end;
	}
	if (a.bad || next != s->meta.next_offset)
		return err_set(e, ERR_DAMAGED,
			       "shard %u: the list of segments has a gap at "
			       "record %" PRIu64,
			       s->cfg.shard, next);
	for (i = 0; i < s->n_segs; i++) {
		rv = check_ends(s, &s->segs[i], e);
		if (rv)
			return rv;
		close_idle_file(s);
	}
	s->stats.segments = s->n_segs;
	rv = retain_load(s, e);
	if (rv)
		return rv;
	if (s->n_segs && !s->segs[s->n_segs - 1].sealed)
		return sindex_recover(s, &s->segs[s->n_segs - 1], e);
	return 0;
}

void segments_close(struct store *s)
{
	uint32_t i;

	for (i = 0; i < s->n_segs; i++) {
		if (s->segs[i].file)
			s->disk->ops->close(s->segs[i].file);
		sindex_free(s->segs[i].index);
	}
	free(s->segs);
	free(s->doomed);
	closing_close(s);
	if (s->tree_file)
		s->disk->ops->close(s->tree_file);
	while (s->n_old_trees)
		s->disk->ops->close(s->old_trees[--s->n_old_trees]);
	free(s->old_trees);
	for (i = 0; i < FRAME_CACHE_SLOTS; i++) {
		buf_release(&s->cache[i].raw);
		free(s->cache[i].slots);
	}
}

/* ---- frames ------------------------------------------------------------------------ */

static struct cached_frame *cache_slot(struct store *s, uint64_t seg,
				       uint32_t off)
{
	uint64_t h = (seg + 1) * 0x9e3779b97f4a7c15u + off / 8;

	h ^= h >> 29;
	h *= 0xbf58476d1ce4e5b9u;
	return &s->cache[(h >> 40) % FRAME_CACHE_SLOTS];
}

static void cache_drop(struct store *s, struct cached_frame *c)
{
	s->cache_bytes -= c->raw.cap + c->cap_slots * sizeof *c->slots;
	buf_release(&c->raw);
	free(c->slots);
	c->slots = NULL;
	c->cap_slots = 0;
	c->seg = 0;
}

/* Where each record starts; false: the body is damaged. */
static bool fill_slots(struct cached_frame *c)
{
	struct frame_iter it;
	struct record r;
	uint32_t i;

	if (c->cap_slots < c->f.count) {
		c->cap_slots = c->f.count;
		c->slots = xrealloc(c->slots, c->cap_slots * sizeof *c->slots);
	}
	frame_iter_init(&it, &c->f, &c->raw);
	for (i = 0; i < c->f.count; i++) {
		struct rec_slot *sl = &c->slots[i];

		sl->off = (uint32_t)(it.p - c->raw.data);
		sl->prev_lamport = it.lamport;
		sl->zero = 0;
		if (frame_next(&it, &r) != 1)
			return false;
		sl->key = r.key;
	}
	return frame_next(&it, &r) == 0;
}

static struct cached_frame *cache_fill(struct store *s, uint64_t seg,
				       uint32_t off, const struct frame *f,
				       struct buf *raw)
{
	struct cached_frame *c = cache_slot(s, seg, off);
	struct buf old = c->raw;

	/* The slot's old memory is the next body's. */
	s->cache_bytes -= c->raw.cap + c->cap_slots * sizeof *c->slots;
	c->raw = *raw;
	*raw = old;
	buf_clear(raw);
	c->f = *f;
	c->off = off;
	c->seg = 0;
	if (f->count > (1u << 20) || !fill_slots(c)) {
		s->cache_bytes += c->raw.cap + c->cap_slots * sizeof *c->slots;
		return NULL;
	}
	c->seg = seg + 1;
	s->cache_bytes += c->raw.cap + c->cap_slots * sizeof *c->slots;
	while (s->cache_bytes > s->cfg.tail_cache_bytes) {
		struct cached_frame *v =
			&s->cache[s->cache_hand++ % FRAME_CACHE_SLOTS];

		if (v != c && (v->raw.cap || v->cap_slots))
			cache_drop(s, v);
		else if (s->cache_bytes ==
			 c->raw.cap + c->cap_slots * sizeof *c->slots)
			break; /* nothing else is left */
	}
	return c;
}

void frame_cache_forget(struct store *s, uint64_t seg)
{
	unsigned i;

	for (i = 0; i < FRAME_CACHE_SLOTS; i++)
		if (s->cache[i].seg == seg + 1)
			cache_drop(s, &s->cache[i]);
}

void frame_cache_put(struct store *s, uint64_t seg, uint32_t off,
		     const struct frame *f, struct buf *raw)
{
	AN(cache_fill(s, seg, off, f, raw));
}

int segment_frame(struct store *s, struct segment *g, const struct place *pl,
		  uint64_t next, const struct cached_frame **out,
		  struct err *e)
{
	struct cached_frame *c = cache_slot(s, g->base, pl->off);
	struct frame f;
	size_t n, got;
	uint8_t *p;
	int rv;

	if (c->seg == g->base + 1 && c->off == pl->off) {
		s->stats.tail_hits++;
		*out = c;
		return 0;
	}
	s->stats.tail_misses++;
	rv = segment_file(s, g, e);
	if (rv)
		return rv;
	if (next <= pl->off || next > g->bytes || next - pl->off > 2u << 20)
		return err_set(e, ERR_DAMAGED,
			       "shard %u: the index of segment %016" PRIx64
			       " is damaged",
			       s->cfg.shard, g->base);
	n = next - pl->off;
	buf_clear(&s->io);
	p = buf_extend(&s->io, n);
	rv = s->disk->ops->pread(g->file, p, n, pl->off, &got, e);
	if (rv)
		return rv;
	rv = got == n ? frame_header(&f, p, n) : ERR_CHECKSUM;
	if (!rv && (f.length != n || f.base != pl->base ||
		    f.count != pl->count))
		rv = ERR_CHECKSUM;
	if (!rv)
		rv = frame_unpack(&f, p, &s->raw);
	c = rv ? NULL : cache_fill(s, g->base, pl->off, &f, &s->raw);
	if (!c)
		return err_set(e, ERR_DAMAGED,
			       "shard %u: segment %016" PRIx64
			       " is damaged at byte %u (records from %" PRIu64
			       " on)",
			       s->cfg.shard, g->base, pl->off, pl->base);
	*out = c;
	return 0;
}

int segment_scan(struct store *s, struct segment *g, uint64_t end,
		 uint8_t *chain,
		 int (*cb)(void *arg, const struct frame *f, uint32_t off,
			   const struct buf *raw, struct err *e),
		 void *arg, struct err *e)
{
	struct segment_walk w;
	const uint8_t *head;
	struct frame f;
	uint64_t off;
	int rv = segment_file(s, g, e);

	if (rv)
		return rv;
	segment_walk_init(&w, s->disk, g->file, end);
	for (;;) {
		off = w.off;
		rv = segment_walk_next(&w, &f, &head, e);
		if (rv == 1 && chain && !frame_follows(head, chain))
			rv = ERR_DAMAGED;
		if (rv == ERR_DAMAGED)
			err_set(e, ERR_DAMAGED,
				"shard %u: segment %016" PRIx64
				" is damaged at byte %" PRIu64,
				s->cfg.shard, g->base, off);
		if (rv != 1)
			break;
		if (chain)
			memcpy(chain, f.chain, 32);
		rv = cb(arg, &f, (uint32_t)off, &w.raw, e);
		if (rv)
			break;
	}
	segment_walk_release(&w);
	return rv;
}

/* ---- tree --------------------------------------------------------------------------- */

int tree_flush(struct store *s, struct err *e)
{
	while (s->tree_out.len) {
		uint64_t no = s->tree_at / STORE_TREE_LEAVES;
		uint64_t place = s->tree_at % STORE_TREE_LEAVES;
		size_t n = s->tree_out.len;
		struct iovec iov;
		char path[64];
		int rv;

		if (s->tree_file && s->tree_no != no) {
			s->old_trees = xrealloc(s->old_trees,
						(s->n_old_trees + 1) *
							sizeof *s->old_trees);
			s->old_trees[s->n_old_trees++] = s->tree_file;
			s->tree_file = NULL;
		}
		if (!s->tree_file) {
			snprintf(path, sizeof path, "%s/tree/0-%" PRIu64
						    ".hash",
				 s->dir, no);
			rv = s->disk->ops->open(s->disk, path,
						DISK_WRITE | DISK_CREATE,
						&s->tree_file, e);
			if (rv)
				return rv;
			s->tree_no = no;
			s->new_files = true;
		}
		if (n > (STORE_TREE_LEAVES - place) * 32)
			n = (size_t)(STORE_TREE_LEAVES - place) * 32;
		iov = (struct iovec){ s->tree_out.data, n };
		rv = s->disk->ops->pwritev(s->tree_file, &iov, 1, place * 32,
					   e);
		if (rv)
			return rv;
		buf_consume(&s->tree_out, n);
		s->tree_at += n / 32;
	}
	return 0;
}

int tree_add(struct store *s, uint64_t first, const uint8_t *leaves, unsigned n,
	     struct err *e)
{
	if (!s->tree_out.len)
		s->tree_at = first;
	buf_put(&s->tree_out, leaves, 32 * (size_t)n);
	return s->tree_out.len > TREE_BUFFER_MAX ? tree_flush(s, e) : 0;
}
