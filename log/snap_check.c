/* The receiving side of a snapshot: everything is read before anything is believed.
 *
 *   the tree's files:      leaves of what was trimmed (the root proves them)
 *   segments, one a step:  header, frames, chain, leaves against each frame's root
 *   then the rows:         checksums, digest, meta row against the manifest
 *   at the end:            chain and root of the whole, everything synced
 *
 * Leaves of the tree are written on the way, rows go into a new state file. */
#include "base/alloc.h"
#include "base/assert.h"
#include "base/bytes.h"
#include "log/snap_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STEP_BYTES (32u << 20)
#define STEP_ROWS 16384u
#define READ_CHUNK (1u << 20)

struct snap_check {
	struct disk *disk;
	const struct kv_ops *kv_ops;
	void *kv_arg;
	const struct snap_manifest *m;
	struct store *s;       /* segments and tree, as far as they were read */
	struct store *meta;    /* what the meta row says */
	struct open_segment open;
	uint32_t tree;         /* file of the tree, next to be read */
	uint32_t segment;      /* next to be read */
	struct err bad;        /* the first that was not as it should be */
	uint8_t chain[32];
	uint64_t next;         /* record */
	struct record *recs;
	uint8_t *leaves;
	uint32_t cap;
	struct buf raw;

	struct kv *kv;
	struct disk_file *rows;
	struct buf in;
	uint64_t rows_at;      /* bytes read of the stream */
	uint64_t n_rows, digest;
	bool meta_seen;
};

struct snap_check *snap_check_new(struct disk *disk, const struct kv_ops *kv,
				  void *kv_arg, const struct snap_manifest *m,
				  uint32_t incarnation)
{
	struct snap_check *c = xcalloc(1, sizeof *c);
	uint8_t shard[4];
	struct hash_part parts[] = { { m->cluster_id, 16 }, { shard, 4 } };

	c->disk = disk;
	c->kv_ops = kv;
	c->kv_arg = kv_arg;
	c->m = m;
	c->s = xcalloc(1, sizeof *c->s);
	c->s->disk = disk;
	c->s->cfg.shard = m->shard;
	c->s->cfg.incarnation = incarnation;
	memcpy(c->s->cfg.cluster_id, m->cluster_id, 16);
	store_folder(c->s->dir, m->shard, incarnation);
	c->meta = xcalloc(1, sizeof *c->meta);
	c->meta->cfg = c->s->cfg;
	put_u32(shard, m->shard);
	sha256_parts(parts, 2, c->chain);
	c->next = m->base;
	if (m->base && !m->n_segments)
		memcpy(c->chain, m->chain, 32);
	return c;
}

static void trees_close(struct snap_check *c)
{
	struct store *s = c->s;

	while (s->n_old_trees)
		c->disk->ops->close(s->old_trees[--s->n_old_trees]);
	if (s->tree_file)
		c->disk->ops->close(s->tree_file);
	s->tree_file = NULL;
}

void snap_check_free(struct snap_check *c)
{
	if (!c)
		return;
	trees_close(c);
	free(c->s->old_trees);
	buf_release(&c->s->tree_out);
	free(c->s);
	free(c->meta);
	if (c->kv)
		c->kv_ops->close(c->kv);
	if (c->rows)
		c->disk->ops->close(c->rows);
	buf_release(&c->in);
	buf_release(&c->raw);
	free(c->recs);
	free(c->leaves);
	free(c);
}

/* ---- leaves of what was trimmed ----------------------------------------------------- */

/* The file goes on with the leaves of the segments. */
static int check_tree(struct snap_check *c, uint32_t k, struct err *e)
{
	const struct disk_ops *ops = c->disk->ops;
	uint32_t file = 1 + 2 * c->m->n_segments + k;
	uint64_t bytes = snap_file_bytes(c->m, file), i;
	struct disk_file *f;
	char path[64];
	uint8_t *p;
	size_t got;
	int rv;

	snap_file_path(c->m, file, c->s->cfg.incarnation, path, sizeof path);
	rv = ops->open(c->disk, path, DISK_WRITE, &f, e);
	if (rv)
		return rv;
	p = xmalloc(bytes);
	rv = ops->pread(f, p, bytes, 0, &got, e);
	if (!rv && got != bytes)
		rv = err_set(e, ERR_DAMAGED, "%s is too short", path);
	if (!rv)
		rv = ops->fdatasync(f, e);
	ops->close(f);
	for (i = 0; i < bytes && !rv; i += 32)
		frontier_add(&c->s->tree, p + i);
	free(p);
	return rv;
}

/* ---- segments --------------------------------------------------------------------- */

/* Encoding the records again gives the leaves. */
static int check_frame(void *arg, const struct frame *f, uint32_t off,
		       const struct buf *raw, struct err *e)
{
	struct snap_check *c = arg;
	struct frame_iter it;
	uint8_t root[32];
	uint32_t i;
	int rv;

	if (f->base != c->next || !f->count || f->count > raw->len)
		goto damaged;
	if (f->count > c->cap) {
		c->cap = f->count;
		c->recs = xrealloc(c->recs, c->cap * sizeof *c->recs);
		c->leaves = xrealloc(c->leaves, 32 * (size_t)c->cap);
	}
	frame_iter_init(&it, f, raw);
	for (i = 0; i < f->count; i++)
		if (frame_next(&it, &c->recs[i]) != 1)
			goto damaged;
	frame_body(&c->raw, c->recs, f->count, c->leaves);
	merkle_root(c->leaves, f->count, root);
	if (memcmp(root, f->root, 32))
		goto damaged;
	for (i = 0; i < f->count && !c->bad.code; i++)
		frontier_add(&c->s->tree, c->leaves + 32 * (size_t)i);
	rv = c->bad.code ? 0 : tree_add(c->s, c->next, c->leaves, f->count, e);
	c->next += f->count;
	return rv;
damaged:
	return err_set(e, ERR_DAMAGED, "a frame at byte %u has other records",
		       off);
}

/* Derived: a bad one is made again by whoever needs it. */
static int check_index(struct snap_check *c, uint32_t k,
		       uint64_t sum, const char *path, struct err *e)
{
	const struct snap_segment *g = &c->m->segments[k];
	struct index_reader r;
	struct disk_file *f;
	uint8_t *p;
	size_t got = 0;
	int rv, good;

	if (!g->idx_bytes)
		return 0;
	rv = c->disk->ops->open(c->disk, path, DISK_WRITE, &f, e);
	if (rv)
		return rv;
	p = xmalloc(g->idx_bytes);
	rv = c->disk->ops->pread(f, p, g->idx_bytes, 0, &got, e);
	good = !rv && got == g->idx_bytes && !index_open(&r, p, got, NULL) &&
	       r.sum == sum && r.base == g->base && r.end == g->end;
	free(p);
	if (!rv && good)
		rv = c->disk->ops->fdatasync(f, e);
	c->disk->ops->close(f);
	if (!rv && !good)
		rv = c->disk->ops->unlink(c->disk, path, e);
	return rv;
}

static int check_segment(struct snap_check *c, uint32_t k, struct err *e)
{
	const struct snap_segment *g = &c->m->segments[k];
	const struct disk_ops *ops = c->disk->ops;
	struct segment seg = { .number = k, .base = g->base, .end = g->end,
			       .bytes = g->bytes,
			       .generation = g->generation };
	uint8_t bytes[SEGMENT_HEADER], root[32];
	struct segment_head h;
	struct segment_foot f = { 0 };
	char path[96];
	size_t got;
	int rv;

	if (c->bad.code && k) { /* what came before says nothing of this one */
		c->next = g->base;
		memcpy(c->chain, g[-1].chain, 32);
	}
	segment_path(c->s, &seg, "seg", path, sizeof path);
	rv = ops->open(c->disk, path, DISK_WRITE, &seg.file, e);
	if (rv)
		return rv;
	rv = ops->pread(seg.file, bytes, sizeof bytes, 0, &got, e);
	if (!rv && got != sizeof bytes)
		rv = ERR_DAMAGED;
	if (!rv)
		rv = segment_head_decode(&h, bytes, e);
	if (!rv && !k && c->m->base) /* the end of the chain proves it */
		memcpy(c->chain, h.chain, 32);
	if (!rv && (memcmp(h.cluster_id, c->m->cluster_id, 16) ||
		    h.shard != c->m->shard || h.base != g->base ||
		    h.generation != g->generation ||
		    memcmp(h.chain, c->chain, 32)))
		rv = ERR_DAMAGED;
	if (!rv)
		rv = segment_scan(c->s, &seg, g->bytes, c->chain, check_frame, c,
				  e);
	if (!rv && (c->next != g->end || memcmp(c->chain, g->chain, 32)))
		rv = ERR_DAMAGED;
	if (!rv && g->sealed) {
		rv = ops->pread(seg.file, bytes, sizeof bytes, g->bytes, &got,
				e);
		frontier_root(&c->s->tree, root);
		if (!rv && (got != sizeof bytes ||
			    segment_foot_decode(&f, bytes, NULL) ||
			    f.shard != c->m->shard || f.base != g->base ||
			    f.end != g->end || f.bytes != g->bytes ||
			    memcmp(f.chain, g->chain, 32) ||
			    (!c->bad.code && memcmp(f.root, root, 32))))
			rv = ERR_DAMAGED;
	}
	if (!rv)
		rv = ops->fdatasync(seg.file, e);
	ops->close(seg.file);
	if (rv == ERR_DAMAGED || rv == ERR_FORMAT || rv == ERR_CHECKSUM ||
	    rv == ERR_VERSION) {
		/* It comes again, the others need not. */
		ops->unlink(c->disk, path, NULL);
		return err_set(e, ERR_DAMAGED, "%s is not what the manifest says",
			       path);
	}
	if (rv || !g->sealed)
		return rv;
	segment_path(c->s, &seg, "idx", path, sizeof path);
	return check_index(c, k, f.index_sum, path, e);
}

/* ---- rows --------------------------------------------------------------------------- */

static int rows_begin(struct snap_check *c, struct err *e)
{
	const struct disk_ops *ops = c->disk->ops;
	char path[64];
	size_t got;
	uint8_t *p;
	int rv;

	snprintf(path, sizeof path, "%s/" SNAP_ROWS, c->s->dir);
	rv = ops->open(c->disk, path, DISK_READ, &c->rows, e);
	if (rv)
		return rv;
	p = buf_extend(&c->in, SNAP_ROWS_HEAD);
	rv = ops->pread(c->rows, p, SNAP_ROWS_HEAD, 0, &got, e);
	if (rv)
		return rv;
	if (got != SNAP_ROWS_HEAD || memcmp(p, SNAP_ROWS_MAGIC, SNAP_ROWS_HEAD))
		return err_set(e, ERR_DAMAGED, "%s is no stream of rows", path);
	buf_clear(&c->in);
	c->rows_at = SNAP_ROWS_HEAD;
	snprintf(path, sizeof path, "%s/state.mdb", c->s->dir);
	rv = c->kv_ops->open(c->kv_arg, c->disk, path, &c->kv, e);
	if (rv)
		return rv;
	return ops->fsync_dir(c->disk, c->s->dir, e);
}

/* One row of what is in memory.  0: *used bytes; ERR_AGAIN: it needs more. */
static int row_import(struct snap_check *c, const uint8_t *p, size_t n,
		      size_t *used, struct err *e)
{
	uint32_t klen, vlen;
	const uint8_t *k, *v;
	uint64_t sum;

	if (n < 8)
		return ERR_AGAIN;
	klen = get_u32(p);
	vlen = get_u32(p + 4);
	if (klen < 1 || klen > 1 + ROW_KEY_MAX || vlen < 8 ||
	    vlen > (64u << 10))
		goto damaged;
	if (n < 8 + (size_t)klen + vlen)
		return ERR_AGAIN;
	k = p + 8;
	v = k + klen;
	sum = get_u64(v + vlen - 8);
	if (sum != row_sum(k[0], k + 1, klen - 1, v, vlen - 8))
		goto damaged;
	if (k[0] == T_STORE_META) {
		if (klen != 5 || memcmp(k + 1, "meta", 4) || c->meta_seen ||
		    meta_decode(c->meta, v, vlen - 8, &c->open, e))
			goto damaged;
		c->meta_seen = true;
	} else if (k[0] != T_STORE_SEGMENT && k[0] != T_STORE_DOOMED) {
		c->digest += sum;
	}
	c->n_rows++;
	*used = 8 + (size_t)klen + vlen;
	return c->kv_ops->put(c->kv, k, klen, v, vlen, e);
damaged:
	return err_set(e, ERR_DAMAGED, "row %" PRIu64 " of the stream is damaged",
		       c->n_rows);
}

static int rows_more(struct snap_check *c, size_t *at, struct err *e)
{
	uint64_t left = c->m->rows_bytes - c->rows_at;
	size_t want = left < READ_CHUNK ? (size_t)left : READ_CHUNK, got = 0;
	int rv;

	buf_consume(&c->in, *at);
	*at = 0;
	if (!want)
		return err_set(e, ERR_DAMAGED, "the stream of rows ends early");
	rv = c->disk->ops->pread(c->rows, buf_reserve(&c->in, want), want,
				 c->rows_at, &got, e);
	if (!rv && got != want)
		rv = err_set(e, ERR_DAMAGED, "the stream of rows is too short");
	c->in.len += got;
	c->rows_at += got;
	return rv;
}

static bool rows_end(const struct snap_check *c)
{
	return !c->in.len && c->rows_at == c->m->rows_bytes;
}

/* Some rows in one transaction.  The meta row comes first, so it stands before the
 * others are complete: the INSTALL record is what makes the folder count. */
static int rows_step(struct snap_check *c, struct err *e)
{
	size_t at = 0, used = 0;
	unsigned n;
	int rv = c->rows ? 0 : rows_begin(c, e);

	if (rv)
		return rv;
	rv = c->kv_ops->begin(c->kv, e);
	if (rv)
		return rv;
	for (n = 0; n < STEP_ROWS && !rv; n++) {
		if (at == c->in.len && c->rows_at == c->m->rows_bytes)
			break;
		rv = row_import(c, c->in.data + at, c->in.len - at, &used, e);
		if (rv == ERR_AGAIN)
			rv = rows_more(c, &at, e);
		else if (!rv)
			at += used;
	}
	if (rv) {
		c->kv_ops->abort(c->kv);
		return rv;
	}
	buf_consume(&c->in, at);
	return c->kv_ops->commit(c->kv, e);
}

/* ---- the whole ------------------------------------------------------------------------ */

static int trees_sync(struct snap_check *c, struct err *e)
{
	struct store *s = c->s;
	unsigned i;
	int rv = tree_flush(s, e);

	for (i = 0; i < s->n_old_trees && !rv; i++)
		rv = c->disk->ops->fdatasync(s->old_trees[i], e);
	if (!rv && s->tree_file)
		rv = c->disk->ops->fdatasync(s->tree_file, e);
	trees_close(c);
	return rv;
}

static int finish(struct snap_check *c, struct err *e)
{
	static const char *const dirs[] = { "/seg", "/tree", "" };
	const struct snap_manifest *m = c->m;
	const struct store_meta *sm = &c->meta->meta;
	uint8_t root[32];
	char path[64];
	unsigned i;
	int rv;

	frontier_root(&c->s->tree, root);
	if (!c->meta_seen || c->n_rows != m->rows ||
	    sm->applied_index != m->index || sm->applied_term != m->term ||
	    sm->next_offset != m->leaves || sm->digest != m->digest ||
	    c->digest != m->digest || sm->conf_index != m->conf_index ||
	    sm->conf_len != m->conf_len ||
	    memcmp(sm->conf, m->conf, m->conf_len) ||
	    memcmp(sm->chain, m->chain, 32) || memcmp(sm->root, m->root, 32) ||
	    memcmp(c->chain, m->chain, 32) || memcmp(root, m->root, 32))
		return err_set(e, ERR_DAMAGED,
			       "rows, records and manifest disagree");
	rv = trees_sync(c, e);
	c->kv_ops->close(c->kv);
	c->kv = NULL;
	c->disk->ops->close(c->rows);
	c->rows = NULL;
	snprintf(path, sizeof path, "%s/" SNAP_ROWS, c->s->dir);
	if (!rv)
		rv = c->disk->ops->unlink(c->disk, path, e);
	for (i = 0; i < 3 && !rv; i++) {
		snprintf(path, sizeof path, "%s%s", c->s->dir, dirs[i]);
		rv = c->disk->ops->fsync_dir(c->disk, path, e);
	}
	return rv;
}

int snap_check_step(struct snap_check *c, bool *done, struct err *e)
{
	uint64_t bytes = 0;
	int rv = 0;

	*done = false;
	memset(e, 0, sizeof *e);
	if (c->tree < snap_trees(c->m))
		return check_tree(c, c->tree++, e);
	while (c->segment < c->m->n_segments && !rv) {
		bytes += c->m->segments[c->segment].bytes;
		rv = check_segment(c, c->segment++, e);
		/* All that is bad goes in one pass: after a power cut half of
		 * what was fetched may be, and each pass reads the whole. */
		if (rv == ERR_DAMAGED) {
			if (!c->bad.code)
				c->bad = *e;
			rv = 0;
		}
		if (rv || bytes >= STEP_BYTES)
			return rv;
	}
	if (c->bad.code) {
		*e = c->bad;
		return e->code;
	}
	if (!c->rows || !rows_end(c))
		return rows_step(c, e);
	rv = finish(c, e);
	*done = !rv;
	return rv;
}

/* ---- folders --------------------------------------------------------------------------- */

struct clear {
	struct disk *disk;
	const char *dir;
	bool keep;
	int rv;
	struct err *e;
};

static void clear_one(void *arg, const char *name, bool is_dir)
{
	struct clear *x = arg;
	char path[400];

	if (is_dir || x->rv)
		return;
	snprintf(path, sizeof path, "%s/%s", x->dir, name);
	x->rv = x->disk->ops->unlink(x->disk, path, x->e);
}

int snap_folder_clear(struct disk *disk, uint32_t shard, uint32_t incarnation,
		      bool keep, struct err *e)
{
	static const char *const dirs[] = { "", "/seg", "/tree" };
	char dir[32], path[48];
	struct clear x = { .disk = disk, .dir = path, .e = e };
	unsigned i;

	store_folder(dir, shard, incarnation);
	for (i = 0; i < 3; i++) {
		if (keep && i == 1)
			continue;
		snprintf(path, sizeof path, "%s%s", dir, dirs[i]);
		if (disk->ops->list(disk, path, clear_one, &x, NULL))
			continue; /* no such folder */
		if (x.rv)
			return x.rv;
		x.rv = disk->ops->fsync_dir(disk, path, e);
	}
	return x.rv;
}

int snap_folder_make(struct disk *disk, uint32_t shard, uint32_t incarnation,
		     struct err *e)
{
	static const char *const dirs[] = { "", "/seg", "/tree" };
	char dir[32], path[48];
	unsigned i;
	int rv = 0;

	store_folder(dir, shard, incarnation);
	for (i = 0; i < 3 && !rv; i++) {
		snprintf(path, sizeof path, "%s%s", dir, dirs[i]);
		rv = disk->ops->mkdir(disk, path, e);
	}
	return rv;
}
