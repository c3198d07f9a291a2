/* A shard's store: open, append, facts.  The parts: store_rows.c (state and
 * checkpoints), store_segment.c (files), store_index.c (who is where),
 * store_read.c. */
#include "base/alloc.h"
#include "base/assert.h"
#include "base/cursor.h"
#include "log/store_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- meta row ---------------------------------------------------------------------
 * version u32, conf length u32, applied index, applied term, clock, next offset, last
 * time, digest, conf index, then of the open segment base, bytes, logical u64 (base
 * UINT64_MAX: none is open), chain 32, root 32, peaks u32, peaks x 32, conf */

void meta_encode(const struct store *s, struct buf *b)
{
	const struct store_meta *m = &s->meta;
	const struct segment *g =
		s->n_segs && !s->segs[s->n_segs - 1].sealed
			? &s->segs[s->n_segs - 1]
			: NULL;
	uint8_t root[32];
	unsigned i;

	buf_u32(b, s->retains ? STATE_VERSION_RETAIN : STATE_VERSION);
	buf_u32(b, m->conf_len);
	buf_u64(b, m->applied_index);
	buf_u64(b, m->applied_term);
	buf_u64(b, m->clock);
	buf_u64(b, m->next_offset);
	buf_u64(b, m->last_time_ms);
	buf_u64(b, m->digest);
	buf_u64(b, m->conf_index);
	buf_u64(b, g ? g->base : UINT64_MAX);
	buf_u64(b, g ? g->bytes : 0);
	buf_u64(b, g ? g->logical : 0);
	buf_put(b, m->chain, 32);
	frontier_root(&s->tree, root);
	buf_put(b, root, 32);
	buf_u32(b, s->tree.n);
	for (i = 0; i < s->tree.n; i++)
		buf_put(b, s->tree.peak[i], 32);
	buf_put(b, m->conf, m->conf_len);
}

int meta_decode(struct store *s, const void *p, size_t n,
		struct open_segment *open, struct err *e)
{
	struct store_meta *m = &s->meta;
	struct cursor c = cursor_of(p, n);
	uint32_t version = cursor_u32(&c), peaks, i;
	const uint8_t *q;
	uint8_t root[32];

	if (version > STATE_VERSION_RETAIN)
		return err_set(e, ERR_VERSION,
			       "shard %u: state format %u is newer than this "
			       "program's (%d)",
			       s->cfg.shard, version, STATE_VERSION_RETAIN);
	s->retains = version == STATE_VERSION_RETAIN;
	m->conf_len = cursor_u32(&c);
	m->applied_index = cursor_u64(&c);
	m->applied_term = cursor_u64(&c);
	m->clock = cursor_u64(&c);
	m->next_offset = cursor_u64(&c);
	m->last_time_ms = cursor_u64(&c);
	m->digest = cursor_u64(&c);
	m->conf_index = cursor_u64(&c);
	open->base = cursor_u64(&c);
	open->bytes = cursor_u64(&c);
	open->logical = cursor_u64(&c);
	q = cursor_bytes(&c, 64);
	if (q) {
		memcpy(m->chain, q, 32);
		memcpy(m->root, q + 32, 32);
	}
	peaks = cursor_u32(&c);
	if (peaks > 64 || m->conf_len > sizeof m->conf)
		goto damaged;
	for (i = 0; i < peaks; i++) {
		q = cursor_bytes(&c, 32);
		if (q)
			memcpy(s->tree.peak[i], q, 32);
	}
	s->tree.n = peaks;
	s->tree.size = m->next_offset;
	q = cursor_bytes(&c, m->conf_len);
	if (!cursor_done(&c))
		goto damaged;
	memcpy(m->conf, q, m->conf_len);
	frontier_root(&s->tree, root);
	if (peaks != (unsigned)__builtin_popcountll(m->next_offset) ||
	    memcmp(root, m->root, 32))
		goto damaged;
	return 0;
damaged:
	return err_set(e, ERR_DAMAGED, "shard %u: the meta row is damaged",
		       s->cfg.shard);
}

/* ---- open ------------------------------------------------------------------------- */

static void first_chain(struct store *s)
{
	uint8_t shard[4];
	struct hash_part parts[] = { { s->cfg.cluster_id, 16 }, { shard, 4 } };

	put_u32(shard, s->cfg.shard);
	sha256_parts(parts, 2, s->meta.chain);
}

void store_folder(char out[32], uint32_t shard, uint32_t incarnation)
{
	snprintf(out, 32, "shards/%04u-%u", shard, incarnation ? incarnation : 1);
}

static int make_folders(struct store *s, struct err *e)
{
	static const char *const names[] = { "shards", "", "/seg", "/tree" };
	char path[64];
	unsigned i;
	int rv = 0;

	for (i = 0; i < 4 && !rv; i++) {
		snprintf(path, sizeof path, "%s%s", i ? s->dir : "", names[i]);
		rv = s->disk->ops->mkdir(s->disk, path, e);
	}
	if (!rv)
		rv = s->disk->ops->fsync_dir(s->disk, "", e);
	if (!rv)
		rv = s->disk->ops->fsync_dir(s->disk, "shards", e);
	if (!rv)
		rv = s->disk->ops->fsync_dir(s->disk, s->dir, e);
	return rv;
}

int store_open(struct store **out, struct disk *disk, const struct kv_ops *kv,
	       void *kv_arg, const struct store_config *cfg, struct err *e)
{
	struct store *s = xcalloc(1, sizeof *s);
	struct open_segment open = { UINT64_MAX, 0, 0 };
	struct buf meta = BUF_INIT;
	int rv;

	s->disk = disk;
	s->cfg = *cfg;
	s->kv_ops = kv;
	AN(cfg->segment_bytes && cfg->segment_bytes < UINT32_MAX - (4u << 20));
	store_folder(s->dir, cfg->shard, cfg->incarnation);
	rows_init(s);
	rv = make_folders(s, e);
	if (!rv)
		rv = rows_open(s, kv_arg, &meta, e);
	if (!rv) {
		rv = meta_decode(s, meta.data, meta.len, &open, e);
	} else if (rv == ERR_NOT_FOUND) {
		rv = 0;
		first_chain(s);
	}
	buf_release(&meta);
	if (!rv)
		rv = segments_open(s, open.base, open.bytes, open.logical, e);
	if (rv) {
		store_close(s);
		return rv;
	}
	*out = s;
	return 0;
}

void store_close(struct store *s)
{
	ckpt_abandon(s);
	segments_close(s);
	rows_close(s);
	buf_release(&s->raw);
	buf_release(&s->out);
	buf_release(&s->io);
	buf_release(&s->tree_out);
	free(s->leaves);
	free(s);
}

/* ---- facts -------------------------------------------------------------------------- */

const struct store_meta *store_meta(const struct store *s)
{
	return &s->meta;
}

void store_root(const struct store *s, uint8_t out[32])
{
	frontier_root(&s->tree, out);
}

void store_stats(const struct store *s, struct store_stats *out)
{
	*out = s->stats;
	out->segments = s->n_segs;
	out->records = s->meta.next_offset;
	out->cached_rows = s->n_rows;
	out->dirty_bytes = s->dirty_bytes + s->pinned_bytes;
}

void store_raise_clock(struct store *s, uint64_t lamport)
{
	if (lamport > s->meta.clock)
		s->meta.clock = lamport;
}

void store_set_conf(struct store *s, uint64_t index, const void *conf,
		    uint32_t len)
{
	AN(len <= sizeof s->meta.conf);
	s->meta.conf_index = index;
	s->meta.conf_len = len;
	memcpy(s->meta.conf, conf, len);
}

/* ---- append ------------------------------------------------------------------------- */

int store_append(struct store *s, uint64_t term, uint64_t index,
		 struct record *recs, unsigned n, struct err *e)
{
	struct store_meta *m = &s->meta;
	struct frame f = { .term = term, .index = index,
			   .base = m->next_offset };
	struct segment *g = s->n_segs ? &s->segs[s->n_segs - 1] : NULL;
	struct iovec iov;
	uint32_t off;
	unsigned i;
	int rv;

	AN(index > m->applied_index);
	rv = store_check(s, e);
	if (rv)
		return rv;
	m->applied_index = index;
	m->applied_term = term;
	if (!n)
		return 0;
	if (!g || g->sealed) {
		g = segment_new(s, term, index, recs[0].time_ms, e);
		if (!g)
			return e->code;
	}
	if (n > s->cap_leaves) {
		s->cap_leaves = n;
		s->leaves = xrealloc(s->leaves, 32 * (size_t)n);
	}
	for (i = 0; i < n; i++)
		recs[i].offset = m->next_offset + i;
	frame_body(&s->raw, recs, n, s->leaves);
	buf_clear(&s->out);
	frame_encode(&s->out, &f, &s->raw, recs, n, s->leaves, m->chain);
	off = (uint32_t)g->bytes;
	iov = (struct iovec){ s->out.data, s->out.len };
	rv = s->disk->ops->pwritev(g->file, &iov, 1, off, e);
	if (!rv)
		rv = tree_add(s, m->next_offset, s->leaves, n, e);
	if (rv)
		return rv;
	for (i = 0; i < n; i++)
		frontier_add(&s->tree, s->leaves + 32 * (size_t)i);
	g->bytes += s->out.len;
	g->logical += FRAME_HEADER + s->raw.len;
	g->end += n;
	memcpy(m->chain, f.chain, 32);
	m->next_offset += n;
	m->last_time_ms = recs[n - 1].time_ms;
	if (recs[n - 1].lamport > m->clock)
		m->clock = recs[n - 1].lamport;
	s->stats.frames++;
	s->stats.raw_bytes += s->raw.len;
	s->stats.stored_bytes += s->out.len;
	sindex_add(s, g->index, g->base, &f, off, recs, n, false);
	frame_cache_put(s, g->base, off, &f, &s->raw);
	if (g->logical >= s->cfg.segment_bytes)
		return segment_seal(s, g, e);
	return 0;
}
