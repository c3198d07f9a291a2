#include "log/rewrite.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/bytes.h"
#include "log/walk.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- one frame ------------------------------------------------------------------ */

void frame_rewriter_release(struct frame_rewriter *fr)
{
	free(fr->recs);
	free(fr->leaves);
	free(fr->content);
	buf_release(&fr->raw);
	memset(fr, 0, sizeof *fr);
}

static bool bit(const uint8_t *dead, uint64_t i)
{
	return dead[i / 8] >> i % 8 & 1;
}

int frame_rewrite(struct frame_rewriter *fr, struct buf *out,
		  const struct frame *f, const uint8_t head[FRAME_HEADER],
		  const struct buf *raw, const uint8_t before[SHA256_LEN],
		  const uint8_t *dead, uint64_t first, struct frame *made)
{
	struct frame_iter it;
	size_t start = out->len;
	uint64_t stubs = 0;
	uint32_t i;

	if (!f->count || f->count > raw->len)
		return ERR_DAMAGED;
	if (f->count > fr->cap) {
		fr->cap = f->count;
		fr->recs = xrealloc(fr->recs, fr->cap * sizeof *fr->recs);
		fr->leaves = xrealloc(fr->leaves, 32 * (size_t)fr->cap);
		fr->content = xrealloc(fr->content, 32 * (size_t)fr->cap);
	}
	frame_iter_init(&it, f, raw);
	for (i = 0; i < f->count; i++) {
		struct record *r = &fr->recs[i];

		if (frame_next(&it, r) != 1)
			return ERR_DAMAGED;
		if (!(r->flags & RECORD_STUB) && bit(dead, first + i)) {
			uint8_t *content = fr->content + 32 * (size_t)i;

			record_content(r, content);
			r->flags |= RECORD_STUB;
			r->content = content;
		}
		stubs += r->flags & RECORD_STUB;
	}
	/* Leaves are taken from the records, so a root and a chain that come out
	 * as they were prove them. */
	*made = (struct frame){ .term = f->term, .index = f->index,
				.base = f->base };
	if (frame_next(&it, fr->recs) ||
	    fr->recs[0].lamport != f->lamport_first ||
	    fr->recs[0].time_ms != f->time_ms)
		return ERR_DAMAGED;
	frame_body(&fr->raw, fr->recs, f->count, fr->leaves);
	/* A stub may be longer than a short content was. */
	if (fr->raw.len > FRAME_RAW_MAX)
		return ERR_FULL;
	frame_encode(out, made, &fr->raw, fr->recs, f->count, fr->leaves, before);
	if (memcmp(out->data + start + 32, head + 32, FRAME_HEADER - 32)) {
		out->len = start;
		return ERR_DAMAGED;
	}
	fr->stubs += stubs;
	return 0;
}

/* ---- a segment -------------------------------------------------------------------- */

enum phase { OPEN, COPY, INDEX, VERIFY, DONE };

struct rewrite {
	struct disk *disk;
	struct rewrite_plan plan;
	uint8_t *dead;
	enum phase phase;
	struct disk_file *old, *file;
	struct segment_walk walk;
	struct frame_rewriter fr;
	struct segment_head head;
	struct segment_foot foot; /* the old one's, then the new one's */
	uint8_t chain[SHA256_LEN];
	uint64_t next;           /* record */
	uint32_t frames;
	struct place *places;    /* of the new file */
	uint32_t n_places, cap_places;
	struct buf out;
	struct rewrite_result res;
};

struct rewrite *rewrite_new(struct disk *disk, const struct rewrite_plan *p)
{
	struct rewrite *r = xcalloc(1, sizeof *r);
	size_t n = (size_t)((p->end - p->base + 7) / 8);

	AN(p->to > p->from);
	r->disk = disk;
	r->plan = *p;
	r->dead = xmalloc(n + 1);
	memcpy(r->dead, p->dead, n);
	r->plan.dead = r->dead;
	return r;
}

static void files_close(struct rewrite *r)
{
	segment_walk_release(&r->walk);
	memset(&r->walk, 0, sizeof r->walk);
	if (r->old)
		r->disk->ops->close(r->old);
	if (r->file)
		r->disk->ops->close(r->file);
	r->old = r->file = NULL;
}

void rewrite_free(struct rewrite *r)
{
	if (!r)
		return;
	files_close(r);
	frame_rewriter_release(&r->fr);
	buf_release(&r->out);
	free(r->places);
	free(r->dead);
	free(r);
}

const struct rewrite_plan *rewrite_plan(const struct rewrite *r)
{
	return &r->plan;
}

void rewrite_result(const struct rewrite *r, struct rewrite_result *out)
{
	AN(r->phase == DONE);
	*out = r->res;
}

static void path_of(const struct rewrite *r, uint32_t generation, const char *ext,
		    char path[96])
{
	snprintf(path, 96, "%s/seg/%016" PRIx64 ".%u.%s", r->plan.dir,
		 r->plan.base, generation, ext);
}

void rewrite_drop(struct rewrite *r)
{
	char path[96];

	files_close(r);
	path_of(r, r->plan.to, "seg", path);
	r->disk->ops->unlink(r->disk, path, NULL);
	path_of(r, r->plan.to, "idx", path);
	r->disk->ops->unlink(r->disk, path, NULL);
}

static int damaged(const struct rewrite *r, uint32_t generation, uint64_t at,
		   struct err *e)
{
	return err_set(e, ERR_DAMAGED,
		       "shard %u: segment %016" PRIx64
		       ".%u is damaged at byte %" PRIu64,
		       r->plan.shard, r->plan.base, generation, at);
}

static int put(struct rewrite *r, const void *p, size_t n, uint64_t off,
	       struct err *e)
{
	struct iovec iov = { (void *)(uintptr_t)p, n };

	return r->disk->ops->pwritev(r->file, &iov, 1, off, e);
}

static int read_page(struct rewrite *r, struct disk_file *f, uint64_t off,
		     uint8_t page[4096], struct err *e)
{
	size_t got;
	int rv = r->disk->ops->pread(f, page, 4096, off, &got, e);

	return rv ? rv : got == 4096 ? 0 : ERR_DAMAGED;
}

/* Header and footer of one generation against the plan. */
static int ends(struct rewrite *r, struct disk_file *f, uint32_t generation,
		uint64_t bytes, struct segment_head *h, struct segment_foot *foot,
		struct err *e)
{
	uint8_t page[4096];
	int rv = read_page(r, f, 0, page, e);

	if (!rv && segment_head_decode(h, page, NULL))
		rv = ERR_DAMAGED;
	if (!rv)
		rv = read_page(r, f, bytes, page, e);
	if (!rv && segment_foot_decode(foot, page, NULL))
		rv = ERR_DAMAGED;
	if (!rv && (h->generation != generation || foot->generation != generation ||
		    h->shard != r->plan.shard || foot->shard != r->plan.shard ||
		    h->base != r->plan.base || foot->base != r->plan.base ||
		    foot->end != r->plan.end || foot->bytes != bytes ||
		    memcmp(h->cluster_id, r->plan.cluster_id, 16)))
		rv = ERR_DAMAGED;
	return rv == ERR_DAMAGED ? damaged(r, generation, 0, e) : rv;
}

static int open_old(struct rewrite *r, struct err *e)
{
	const struct disk_ops *ops = r->disk->ops;
	uint8_t page[SEGMENT_HEADER];
	struct segment_head h;
	char path[96];
	int rv;

	path_of(r, r->plan.from, "seg", path);
	rv = ops->open(r->disk, path, DISK_READ, &r->old, e);
	if (rv == ERR_NOT_FOUND)
		return damaged(r, r->plan.from, 0, e);
	if (!rv)
		rv = ends(r, r->old, r->plan.from, r->plan.bytes, &r->head,
			  &r->foot, e);
	if (rv)
		return rv;
	path_of(r, r->plan.to, "seg", path);
	rv = ops->open(r->disk, path, DISK_WRITE | DISK_CREATE, &r->file, e);
	if (!rv)
		rv = ops->truncate(r->file, 0, e);
	if (rv)
		return rv;
	h = r->head;
	h.version = SEGMENT_VERSION_STUBS;
	h.generation = r->plan.to;
	segment_head_encode(&h, page);
	rv = put(r, page, sizeof page, 0, e);
	r->res.bytes = SEGMENT_HEADER;
	memcpy(r->chain, r->head.chain, 32);
	r->next = r->plan.base;
	segment_walk_init(&r->walk, r->disk, r->old, r->plan.bytes);
	r->phase = COPY;
	return rv;
}

static void place_add(struct rewrite *r, const struct frame *f)
{
	if (r->n_places == r->cap_places) {
		r->cap_places = r->cap_places ? 2 * r->cap_places : 256;
		r->places = xrealloc(r->places,
				     r->cap_places * sizeof *r->places);
	}
	r->places[r->n_places++] = (struct place){ f->base, (uint32_t)r->res.bytes,
						   f->count };
}

static int copy_some(struct rewrite *r, uint64_t budget, struct err *e)
{
	uint64_t until = r->walk.off + budget, start = r->res.bytes;
	int rv;

	buf_clear(&r->out);
	for (;;) {
		uint64_t at = r->walk.off;
		struct frame f, made;
		const uint8_t *head;

		rv = segment_walk_next(&r->walk, &f, &head, e);
		if (rv == 1 && (f.base != r->next ||
				f.count > r->plan.end - f.base))
			rv = ERR_DAMAGED;
		if (rv == 1) {
			rv = frame_rewrite(&r->fr, &r->out, &f, head,
					   &r->walk.raw, r->chain, r->dead,
					   f.base - r->plan.base, &made);
			if (rv == ERR_FULL)
				return err_set(e, ERR_FULL,
					       "a frame at byte %" PRIu64
					       " has no room for its stubs", at);
			rv = rv ? rv : 1;
		}
		if (rv == ERR_DAMAGED)
			return damaged(r, r->plan.from, at, e);
		if (rv != 1)
			break;
		place_add(r, &made);
		memcpy(r->chain, made.chain, 32);
		r->next += made.count;
		r->res.bytes += made.length;
		r->res.logical += FRAME_HEADER + made.raw_len;
		if (r->walk.off >= until) {
			rv = 0;
			break;
		}
	}
	if (!rv && r->out.len)
		rv = put(r, r->out.data, r->out.len, start, e);
	if (rv || r->walk.off < r->plan.bytes)
		return rv;
	if (r->next != r->plan.end || memcmp(r->chain, r->foot.chain, 32))
		return damaged(r, r->plan.from, r->walk.off, e);
	r->phase = INDEX;
	return 0;
}

/* The same keys and frames at other places.  Without a good old index there is none:
 * it is derived, whoever needs it makes it. */
static int index_some(struct rewrite *r, struct err *e)
{
	const struct disk_ops *ops = r->disk->ops;
	struct disk_file *f;
	struct index_reader ir;
	struct buf in = BUF_INIT, out = BUF_INIT;
	char path[96];
	uint64_t size = 0;
	size_t got = 0;
	uint32_t i;
	int rv;

	r->foot.index_sum = 0;
	path_of(r, r->plan.from, "idx", path);
	if (ops->open(r->disk, path, DISK_READ, &f, NULL))
		return 0;
	rv = ops->size(f, &size, e);
	if (!rv && size <= 1u << 30)
		rv = ops->pread(f, buf_extend(&in, (size_t)size), (size_t)size, 0,
				&got, e);
	ops->close(f);
	if (rv || got != size || index_open(&ir, in.data, got, NULL) ||
	    ir.base != r->plan.base || ir.end != r->plan.end ||
	    ir.shard != r->plan.shard || ir.n_places != r->n_places)
		goto out;
	index_head_put(&out, ir.shard, ir.base, ir.end, ir.n_places, ir.n_keys);
	for (i = 0; i < r->n_places; i++)
		index_place_put(&out, &r->places[i]);
	/* Keys lie behind the places, and name frames by their number. */
	buf_put(&out, ir.p, (size_t)(ir.limit - ir.p));
	r->foot.index_sum = index_end_put(&out);
	path_of(r, r->plan.to, "idx", path);
	rv = ops->open(r->disk, path, DISK_WRITE | DISK_CREATE, &f, e);
	if (!rv) {
		struct iovec iov = { out.data, out.len };

		rv = ops->truncate(f, 0, e);
		if (!rv)
			rv = ops->pwritev(f, &iov, 1, 0, e);
		if (!rv)
			rv = ops->fdatasync(f, e);
		ops->close(f);
	}
out:
	buf_release(&in);
	buf_release(&out);
	return rv;
}

/* The footer, everything to the disk, and from the start to read it again. */
static int seal(struct rewrite *r, struct err *e)
{
	uint8_t page[SEGMENT_FOOTER];
	char dir[48];
	int rv = index_some(r, e);

	if (rv)
		return rv;
	r->foot.version = SEGMENT_VERSION_STUBS;
	r->foot.generation = r->plan.to;
	r->foot.bytes = r->res.bytes;
	r->foot.logical = r->res.logical;
	segment_foot_encode(&r->foot, page);
	rv = put(r, page, sizeof page, r->res.bytes, e);
	if (!rv)
		rv = r->disk->ops->fdatasync(r->file, e);
	snprintf(dir, sizeof dir, "%s/seg", r->plan.dir);
	if (!rv)
		rv = r->disk->ops->fsync_dir(r->disk, dir, e);
	/* A failed sync must not be taken for a full disk. */
	if (rv)
		return rv;
	r->res.stubs = r->fr.stubs;
	segment_walk_release(&r->walk);
	segment_walk_init(&r->walk, r->disk, r->file, r->res.bytes);
	memcpy(r->chain, r->head.chain, 32);
	r->next = r->plan.base;
	r->phase = VERIFY;
	return 0;
}

/* Nothing of what is in memory is believed: bits, root of each frame and chain are
 * taken from what was read back. */
static int verify_frame(struct rewrite *r, const struct frame *f,
			const uint8_t *head)
{
	struct frame_iter it;
	uint8_t root[32];
	uint32_t i;

	if (f->base != r->next || !f->count || f->count > r->fr.cap ||
	    f->count > r->plan.end - f->base || !frame_follows(head, r->chain))
		return ERR_DAMAGED;
	frame_iter_init(&it, f, &r->walk.raw);
	for (i = 0; i < f->count; i++)
		if (frame_next(&it, &r->fr.recs[i]) != 1 ||
		    (bit(r->dead, f->base - r->plan.base + i) &&
		     !(r->fr.recs[i].flags & RECORD_STUB)))
			return ERR_DAMAGED;
	frame_body(&r->fr.raw, r->fr.recs, f->count, r->fr.leaves);
	merkle_root(r->fr.leaves, f->count, root);
	if (memcmp(root, f->root, 32))
		return ERR_DAMAGED;
	memcpy(r->chain, f->chain, 32);
	r->next += f->count;
	return 0;
}

static int verify_some(struct rewrite *r, uint64_t budget, struct err *e)
{
	uint64_t until = r->walk.off + budget;
	struct segment_head h;
	struct segment_foot f;
	int rv;

	do {
		uint64_t at = r->walk.off;
		const uint8_t *head;
		struct frame fr;

		rv = segment_walk_next(&r->walk, &fr, &head, e);
		if (rv == 1 && verify_frame(r, &fr, head))
			rv = ERR_DAMAGED;
		if (rv == ERR_DAMAGED)
			return damaged(r, r->plan.to, at, e);
		if (rv < 0)
			return rv;
	} while (rv == 1 && r->walk.off < until);
	if (r->walk.off < r->res.bytes)
		return 0;
	rv = ends(r, r->file, r->plan.to, r->res.bytes, &h, &f, e);
	if (rv)
		return rv;
	if (r->next != r->plan.end || memcmp(r->chain, r->foot.chain, 32) ||
	    memcmp(f.chain, r->foot.chain, 32) ||
	    memcmp(f.root, r->foot.root, 32) ||
	    memcmp(h.chain, r->head.chain, 32) || h.clock != r->head.clock)
		return damaged(r, r->plan.to, r->walk.off, e);
	files_close(r);
	r->phase = DONE;
	return 0;
}

int rewrite_step(struct rewrite *r, uint64_t budget, bool *done, struct err *e)
{
	int rv = 0;

	switch (r->phase) {
	case OPEN:
		rv = open_old(r, e);
		break;
	case COPY:
		rv = copy_some(r, budget, e);
		break;
	case INDEX:
		rv = seal(r, e);
		break;
	case VERIFY:
		rv = verify_some(r, budget, e);
		break;
	case DONE:
		break;
	}
	*done = !rv && r->phase == DONE;
	return rv;
}
