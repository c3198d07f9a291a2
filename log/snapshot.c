/* Manifests, and the leader's side of a snapshot: the row stream.  snap_check.c has
 * the other side. */
#include "log/snapshot.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/cursor.h"
#include "log/snap_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t magic[8] = { 'Q', 'U', 'I', 'P', 'U', 'S', 'M', '1' };

#define SNAP_VERSION 1         /* what nothing was trimmed from */
#define SNAP_VERSION_TRIMMED 2 /* names its first record */
#define SNAP_TREES_MAX 4096    /* 2^32 trimmed records */
#define SNAP_SEGMENT 72u /* bytes of one in the manifest */
#define EXPORT_CHUNK (256u << 10)

/* ---- manifest ---------------------------------------------------------------------
 * magic QUIPUSM1, version u32, shard u32, cluster id 16, index, term, conf index,
 * leaves u64, chain 32, root 32, digest, rows, row bytes u64, conf length u32,
 * segments u32, conf, [version 2: first record u64]; per segment base, end, bytes,
 * index bytes u64, generation u32, flags u32 (1 sealed), chain 32; XXH3 of all before */

void snap_encode(struct snap_manifest *m, struct buf *b)
{
	size_t start = b->len;
	uint32_t i;

	buf_put(b, magic, 8);
	buf_u32(b, m->base ? SNAP_VERSION_TRIMMED : SNAP_VERSION);
	buf_u32(b, m->shard);
	buf_put(b, m->cluster_id, 16);
	buf_u64(b, m->index);
	buf_u64(b, m->term);
	buf_u64(b, m->conf_index);
	buf_u64(b, m->leaves);
	buf_put(b, m->chain, 32);
	buf_put(b, m->root, 32);
	buf_u64(b, m->digest);
	buf_u64(b, m->rows);
	buf_u64(b, m->rows_bytes);
	buf_u32(b, m->conf_len);
	buf_u32(b, m->n_segments);
	buf_put(b, m->conf, m->conf_len);
	if (m->base)
		buf_u64(b, m->base);
	for (i = 0; i < m->n_segments; i++) {
		const struct snap_segment *g = &m->segments[i];

		buf_u64(b, g->base);
		buf_u64(b, g->end);
		buf_u64(b, g->bytes);
		buf_u64(b, g->idx_bytes);
		buf_u32(b, g->generation);
		buf_u32(b, g->sealed);
		buf_put(b, g->chain, 32);
	}
	m->id = xxh3(b->data + start, b->len - start);
	buf_u64(b, m->id);
}

/* Segments follow each other without a gap, only the last is open, and the last
 * one's chain is the shard's. */
static bool consistent(const struct snap_manifest *m)
{
	uint64_t next = m->base;
	uint32_t i;

	if (m->base > (uint64_t)SNAP_TREES_MAX * STORE_TREE_LEAVES)
		return false;
	for (i = 0; i < m->n_segments; i++) {
		const struct snap_segment *g = &m->segments[i];

		if (g->base != next || g->end < g->base ||
		    g->bytes < SEGMENT_HEADER || g->bytes >= UINT32_MAX ||
		    g->idx_bytes > 1u << 30 ||
		    (!g->sealed && (g->idx_bytes || i + 1 < m->n_segments)))
			return false;
		next = g->end;
	}
	return next == m->leaves && m->index && m->term &&
	       m->rows_bytes >= SNAP_ROWS_HEAD &&
	       m->rows_bytes <= SNAP_ROWS_MAX && m->rows &&
	       (!m->n_segments ||
		!memcmp(m->segments[m->n_segments - 1].chain, m->chain, 32));
}

static void copy(struct cursor *c, uint8_t *to, size_t n)
{
	const uint8_t *p = cursor_bytes(c, n);

	if (p && n)
		memcpy(to, p, n);
}

int snap_decode(struct snap_manifest *m, const void *p, size_t n,
		struct err *e)
{
	struct cursor c = cursor_of(p, n);
	const uint8_t *q = cursor_bytes(&c, 8);
	uint32_t version, i;

	memset(m, 0, sizeof *m);
	if (!q || memcmp(q, magic, 8))
		return err_set(e, ERR_FORMAT, "no manifest of a snapshot");
	version = cursor_u32(&c);
	if (version != SNAP_VERSION && version != SNAP_VERSION_TRIMMED)
		return err_set(e, ERR_VERSION, "manifest format %u is unknown",
			       version);
	if (n < 16 || get_u64((const uint8_t *)p + n - 8) != xxh3(p, n - 8))
		return err_set(e, ERR_CHECKSUM, "the manifest is damaged");
	m->shard = cursor_u32(&c);
	copy(&c, m->cluster_id, 16);
	m->index = cursor_u64(&c);
	m->term = cursor_u64(&c);
	m->conf_index = cursor_u64(&c);
	m->leaves = cursor_u64(&c);
	copy(&c, m->chain, 32);
	copy(&c, m->root, 32);
	m->digest = cursor_u64(&c);
	m->rows = cursor_u64(&c);
	m->rows_bytes = cursor_u64(&c);
	m->conf_len = cursor_u32(&c);
	m->n_segments = cursor_u32(&c);
	if (c.bad || m->conf_len > sizeof m->conf ||
	    m->n_segments > SNAP_SEGMENTS_MAX ||
	    cursor_left(&c) != m->conf_len +
				       (version == SNAP_VERSION ? 0 : 8) +
				       (size_t)m->n_segments * SNAP_SEGMENT + 8)
		return err_set(e, ERR_FORMAT, "the manifest's sizes differ");
	copy(&c, m->conf, m->conf_len);
	if (version == SNAP_VERSION_TRIMMED) {
		m->base = cursor_u64(&c);
		c.bad |= !m->base; /* a second spelling of version 1 */
	}
	m->segments = xcalloc(m->n_segments + 1, sizeof *m->segments);
	for (i = 0; i < m->n_segments; i++) {
		struct snap_segment *g = &m->segments[i];
		uint32_t flags;

		g->base = cursor_u64(&c);
		g->end = cursor_u64(&c);
		g->bytes = cursor_u64(&c);
		g->idx_bytes = cursor_u64(&c);
		g->generation = cursor_u32(&c);
		flags = cursor_u32(&c);
		g->sealed = flags & 1;
		copy(&c, g->chain, 32);
		c.bad |= flags > 1;
	}
	m->id = cursor_u64(&c);
	if (!cursor_done(&c) || !consistent(m)) {
		snap_release(m);
		return err_set(e, ERR_FORMAT,
			       "the manifest contradicts itself");
	}
	return 0;
}

void snap_release(struct snap_manifest *m)
{
	free(m->segments);
	m->segments = NULL;
	m->n_segments = 0;
}

uint64_t snap_file_bytes(const struct snap_manifest *m, uint32_t file)
{
	const struct snap_segment *g;

	if (!file)
		return m->rows_bytes;
	if (file > 2 * m->n_segments) {
		uint64_t first = (uint64_t)(file - 1 - 2 * m->n_segments) *
				 STORE_TREE_LEAVES;
		uint64_t n = m->base - first;

		return 32 * (n < STORE_TREE_LEAVES ? n : STORE_TREE_LEAVES);
	}
	g = &m->segments[(file - 1) / 2];
	if (file % 2)
		return g->bytes + (g->sealed ? SEGMENT_FOOTER : 0);
	return g->idx_bytes;
}

void snap_file_path(const struct snap_manifest *m, uint32_t file,
		    uint32_t incarnation, char *path, size_t size)
{
	const struct snap_segment *g;
	char dir[32];

	store_folder(dir, m->shard, incarnation);
	if (!file) {
		snprintf(path, size, "%s/" SNAP_ROWS, dir);
		return;
	}
	if (file > 2 * m->n_segments) {
		snprintf(path, size, "%s/tree/0-%u.hash", dir,
			 file - 1 - 2 * m->n_segments);
		return;
	}
	g = &m->segments[(file - 1) / 2];
	snprintf(path, size, "%s/seg/%016" PRIx64 ".%u.%s", dir, g->base,
		 g->generation, file % 2 ? "seg" : "idx");
}

/* ---- export -------------------------------------------------------------------------
 * Rows: magic QUIPURS1, then per row key length u32, value length u32, key, value as
 * in the state (its checksum included), in key order, the meta row first. */

struct export {
	struct store *s;
	struct snap_manifest *m;
	struct store *meta;    /* for what the meta row says */
	struct open_segment open;
	struct disk_file *file;
	struct buf out;
	bool any;
	int rv;
	struct err *e;
};

static int export_flush(struct export *x)
{
	struct iovec iov = { x->out.data, x->out.len };

	x->rv = x->s->disk->ops->pwritev(x->file, &iov, 1, x->m->rows_bytes,
					 x->e);
	x->m->rows_bytes += x->out.len;
	buf_clear(&x->out);
	return x->rv;
}

static void export_segment(struct export *x, const uint8_t *key,
			   const uint8_t *val)
{
	struct snap_manifest *m = x->m;
	struct snap_segment *g;
	uint64_t base;

	if (!(m->n_segments & (m->n_segments + 1)))
		m->segments = xrealloc(m->segments,
				       (2 * (size_t)m->n_segments + 2) *
					       sizeof *m->segments);
	g = &m->segments[m->n_segments++];
	memset(g, 0, sizeof *g);
	memcpy(&base, key + 1, 8);
	g->base = __builtin_bswap64(base);
	g->end = get_u64(val + 8);
	g->bytes = get_u64(val + 16);
	g->generation = get_u32(val + 32);
	g->sealed = get_u32(val + 36) & 1;
}

static bool export_row(void *arg, const void *key, size_t klen, const void *val,
		       size_t vlen)
{
	struct export *x = arg;
	const uint8_t *k = key, *v = val;

	if (klen < 1 || klen > 1 + ROW_KEY_MAX || vlen < 8 ||
	    get_u64(v + vlen - 8) != row_sum(k[0], k + 1, (unsigned)klen - 1, v,
					     (uint32_t)vlen - 8)) {
		x->rv = err_set(x->e, ERR_DAMAGED, "a row is damaged");
		return false;
	}
	if (k[0] == T_STORE_META && klen == 5 && !memcmp(k + 1, "meta", 4)) {
		x->any = true;
		x->rv = meta_decode(x->meta, v, vlen - 8, &x->open, x->e);
	} else if (k[0] == T_STORE_SEGMENT && klen == 9 && vlen >= 48) {
		export_segment(x, k, v);
	} else if (k[0] == T_STORE_DOOMED) {
		return true; /* files of this node */
	}
	buf_u32(&x->out, (uint32_t)klen);
	buf_u32(&x->out, (uint32_t)vlen);
	buf_put(&x->out, k, klen);
	buf_put(&x->out, v, vlen);
	x->m->rows++;
	if (!x->rv && x->out.len >= EXPORT_CHUNK)
		export_flush(x);
	return !x->rv;
}

/* End chains from the footers, sizes of the index files; the open one from the meta
 * row. */
static int export_chains(struct export *x, uint32_t incarnation)
{
	const struct disk_ops *ops = x->s->disk->ops;
	struct snap_manifest *m = x->m;
	uint32_t i;
	int rv = 0;

	for (i = 0; i < m->n_segments && !rv; i++) {
		struct snap_segment *g = &m->segments[i];
		uint8_t bytes[SEGMENT_FOOTER];
		struct segment_foot f;
		struct disk_file *file;
		char path[96];
		size_t got;

		if (!g->sealed) {
			g->bytes = x->open.bytes;
			g->end = m->leaves;
			memcpy(g->chain, m->chain, 32);
			continue;
		}
		snap_file_path(m, 1 + 2 * i, incarnation, path, sizeof path);
		rv = ops->open(x->s->disk, path, DISK_READ, &file, x->e);
		if (rv)
			break;
		rv = ops->pread(file, bytes, sizeof bytes, g->bytes, &got,
				x->e);
		ops->close(file);
		if (!rv && got != sizeof bytes)
			rv = err_set(x->e, ERR_DAMAGED, "%s is too short", path);
		if (!rv)
			rv = segment_foot_decode(&f, bytes, x->e);
		if (!rv)
			memcpy(g->chain, f.chain, 32);
		snap_file_path(m, 2 + 2 * i, incarnation, path, sizeof path);
		if (rv || ops->open(x->s->disk, path, DISK_READ, &file, NULL))
			continue;
		rv = ops->size(file, &g->idx_bytes, x->e);
		ops->close(file);
		if (g->idx_bytes > 1u << 30)
			g->idx_bytes = 0;
	}
	return rv;
}

int snap_export(struct store *s, struct snap_manifest *m, struct err *e)
{
	struct export x = { .s = s, .m = m, .e = e };
	uint32_t inc = s->cfg.incarnation ? s->cfg.incarnation : 1;
	char path[96];
	int rv;

	memset(m, 0, sizeof *m);
	memset(e, 0, sizeof *e);
	m->shard = s->cfg.shard;
	memcpy(m->cluster_id, s->cfg.cluster_id, 16);
	x.meta = xcalloc(1, sizeof *x.meta);
	x.meta->cfg = s->cfg;
	snap_file_path(m, 0, inc, path, sizeof path);
	rv = s->disk->ops->open(s->disk, path, DISK_WRITE | DISK_CREATE, &x.file,
				e);
	if (!rv)
		rv = s->disk->ops->truncate(x.file, 0, e);
	if (!rv) {
		buf_put(&x.out, SNAP_ROWS_MAGIC, SNAP_ROWS_HEAD);
		rv = s->kv_ops->walk_all(s->kv, export_row, &x, e);
	}
	if (!rv)
		rv = x.rv;
	if (!rv)
		rv = export_flush(&x);
	if (!rv && (!x.any || !x.meta->meta.applied_index))
		rv = err_set(e, ERR_NOT_FOUND, "no checkpoint yet");
	if (!rv) {
		const struct store_meta *sm = &x.meta->meta;

		m->index = sm->applied_index;
		m->term = sm->applied_term;
		m->conf_index = sm->conf_index;
		m->conf_len = sm->conf_len;
		memcpy(m->conf, sm->conf, sm->conf_len);
		m->leaves = sm->next_offset;
		memcpy(m->chain, sm->chain, 32);
		memcpy(m->root, sm->root, 32);
		m->base = m->n_segments ? m->segments[0].base : m->leaves;
		m->digest = sm->digest;
		rv = export_chains(&x, inc);
	}
	if (!rv && !consistent(m))
		rv = err_set(e, ERR_DAMAGED, "the segment list has a gap");
	if (x.file)
		s->disk->ops->close(x.file);
	buf_release(&x.out);
	free(x.meta);
	if (rv) {
		snap_release(m);
		snap_export_drop(s->disk, s->cfg.shard, inc);
	}
	return rv;
}

void snap_export_drop(struct disk *disk, uint32_t shard, uint32_t incarnation)
{
	char dir[32], path[64];

	store_folder(dir, shard, incarnation);
	snprintf(path, sizeof path, "%s/" SNAP_ROWS, dir);
	disk->ops->unlink(disk, path, NULL);
}
