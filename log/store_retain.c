/* What leaves the store: the trim point, whole segments, rewritten ones, and the files
 * that are doomed by that.
 *
 * Trim point and marks of what is dead are rows, the same on all replicas.  Files are
 * a replica's own: a segment leaves the list at apply, but its file goes only after
 * the checkpoint that names it as doomed is durable, since the checkpoint before
 * still needs it; and not while somebody ships it (store_hold). */
#include "base/alloc.h"
#include "base/assert.h"
#include "base/bytes.h"
#include "log/store_impl.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- keys -------------------------------------------------------------------------
 * trim     "trim"                            -> offset u64
 * dead     base BE64                         -> generation u32, zero u32, end u64
 *          base BE64, gen BE32, block BE32   -> bits of DEAD_BLOCK records
 * doomed   base BE64, gen BE32               -> bytes u64
 *          "number"                          -> of the next segment, u64 */

#define WANT_ROW 16u

static unsigned key_base(uint8_t key[16], uint64_t base)
{
	base = __builtin_bswap64(base);
	memcpy(key, &base, 8);
	return 8;
}

static unsigned key_gen(uint8_t key[16], uint64_t base, uint32_t gen)
{
	key_base(key, base);
	gen = __builtin_bswap32(gen);
	memcpy(key + 8, &gen, 4);
	return 12;
}

static unsigned key_block(uint8_t key[16], uint64_t base, uint32_t gen,
			  uint32_t block)
{
	key_gen(key, base, gen);
	block = __builtin_bswap32(block);
	memcpy(key + 12, &block, 4);
	return 16;
}

/* ---- files that must go ----------------------------------------------------------- */

static void doom_add(struct store *s, uint64_t base, uint32_t gen, uint64_t bytes)
{
	if (s->n_doomed == s->cap_doomed) {
		s->cap_doomed = s->cap_doomed ? 2 * s->cap_doomed : 8;
		s->doomed = xrealloc(s->doomed,
				     s->cap_doomed * sizeof *s->doomed);
	}
	s->doomed[s->n_doomed++] = (struct doomed){ base, bytes, gen };
}

static void doom(struct store *s, uint64_t base, uint32_t gen, uint64_t bytes)
{
	uint8_t key[16];
	uint8_t *row = row_put(s, T_STORE_DOOMED, key, key_gen(key, base, gen), 8);

	put_u64(row, bytes);
	doom_add(s, base, gen, bytes);
}

void doomed_gone(struct store *s, uint64_t base, uint32_t gen)
{
	uint8_t key[16];
	uint32_t i;

	for (i = 0; i < s->n_doomed; i++) {
		if (s->doomed[i].base != base || s->doomed[i].gen != gen)
			continue;
		s->stats.freed_bytes += s->doomed[i].bytes;
		s->doomed[i] = s->doomed[--s->n_doomed];
		break;
	}
	row_del(s, T_STORE_DOOMED, key, key_gen(key, base, gen));
}

/* A checkpoint that runs may be syncing it. */
static void file_close(struct store *s, struct segment *g)
{
	if (g->file && s->ckpt) {
		s->closing = xrealloc(s->closing, (s->n_closing + 1) *
							  sizeof *s->closing);
		s->closing[s->n_closing++] = g->file;
	} else if (g->file) {
		s->disk->ops->close(g->file);
	}
	g->file = NULL;
}

void closing_close(struct store *s)
{
	while (s->n_closing)
		s->disk->ops->close(s->closing[--s->n_closing]);
	free(s->closing);
	s->closing = NULL;
}

/* Nothing of it is in memory any more. */
static void forget(struct store *s, struct segment *g)
{
	file_close(s, g);
	sindex_free(g->index);
	g->index = NULL;
	frame_cache_forget(s, g->base);
}

static uint64_t file_bytes(const struct segment *g)
{
	return g->bytes + SEGMENT_FOOTER;
}

uint32_t store_doomed(const struct store *s)
{
	return s->hold ? 0 : s->n_doomed;
}

uint32_t store_stuck(const struct store *s)
{
	return s->n_stuck;
}

void store_hold(struct store *s, bool on)
{
	AN(on || s->hold);
	s->hold += on ? 1 : -1u;
}

/* ---- trim ------------------------------------------------------------------------- */

uint64_t store_trimmed(const struct store *s)
{
	return s->trim;
}

/* Bits of one generation. */
static void dead_forget(struct store *s, uint64_t base, uint64_t end, uint32_t gen)
{
	uint64_t blocks = (end - base + DEAD_BLOCK - 1) / DEAD_BLOCK, i;
	uint8_t key[16];

	for (i = 0; i < blocks; i++)
		row_del(s, T_STORE_DEAD, key,
			key_block(key, base, gen, (uint32_t)i));
}

static void drop_first(struct store *s)
{
	struct segment *g = &s->segs[0];
	uint8_t key[16], *row;

	doom(s, g->base, g->generation, file_bytes(g));
	if (g->wanted > g->generation) /* part of it may lie there */
		doom(s, g->base, g->wanted, 0);
	row_del(s, T_STORE_SEGMENT, key, key_base(key, g->base));
	if (s->n_segs == 1) {
		row = row_put(s, T_STORE_DOOMED, "number", 6, 8);
		put_u64(row, g->number + 1);
		s->next_number = g->number + 1;
	}
	forget(s, g);
	memmove(s->segs, s->segs + 1, --s->n_segs * sizeof *s->segs);
	s->stats.trimmed_segments++;
}

void store_trim(struct store *s, uint64_t base, uint64_t end, uint64_t offset)
{
	uint8_t key[16], *row;
	uint32_t gen;

	AN(base <= end && end <= s->meta.next_offset &&
	   offset <= s->meta.next_offset);
	s->retains = true;
	gen = store_wanted(s, base);
	dead_forget(s, base, end, gen);
	dead_forget(s, base, end, gen + 1);
	row_del(s, T_STORE_DEAD, key, key_base(key, base));
	if (offset <= s->trim)
		return;
	s->trim = offset;
	row = row_put(s, T_STORE_TRIM, "trim", 4, 8);
	put_u64(row, offset);
	while (s->n_segs && s->segs[0].sealed && s->segs[0].end <= offset)
		drop_first(s);
}

int store_roll(struct store *s, struct err *e)
{
	struct segment *g = s->n_segs ? &s->segs[s->n_segs - 1] : NULL;

	if (!g || g->sealed || g->end == g->base)
		return 0;
	return segment_seal(s, g, e);
}

/* ---- what is dead in a segment ---------------------------------------------------- */

uint32_t store_wanted(struct store *s, uint64_t base)
{
	uint8_t key[16];
	uint32_t len;
	const uint8_t *row = row_get(s, T_STORE_DEAD, key, key_base(key, base),
				     &len);

	return row && len == WANT_ROW ? get_u32(row) : 0;
}

void store_dead(struct store *s, uint64_t base, uint32_t gen, uint32_t block,
		const uint8_t *bits, uint32_t len)
{
	uint8_t key[16], *row;

	AN(len && len <= DEAD_BLOCK / 8);
	s->retains = true;
	row = row_put(s, T_STORE_DEAD, key, key_block(key, base, gen, block), len);
	memcpy(row, bits, len);
}

void store_want(struct store *s, uint64_t base, uint64_t end, uint32_t gen)
{
	uint32_t was = store_wanted(s, base);
	uint8_t key[16], *row;
	struct segment *g;

	AN(gen > was && base < end);
	s->retains = true;
	if (was)
		dead_forget(s, base, end, was);
	row = row_put(s, T_STORE_DEAD, key, key_base(key, base), WANT_ROW);
	put_u32(row, gen);
	put_u64(row + 8, end);
	g = segment_by_base(s, base);
	if (g && g->sealed && g->end == end)
		g->wanted = gen;
}

/* ---- rewriting -------------------------------------------------------------------- */

static struct segment *next_rewrite(struct store *s)
{
	uint32_t i;

	for (i = 0; i < s->n_segs; i++) {
		struct segment *g = &s->segs[i];

		if (g->sealed && g->synced && g->wanted > g->generation &&
		    !g->refused)
			return g;
	}
	return NULL;
}

struct rewrite *store_rewrite_begin(struct store *s)
{
	struct segment *g = s->ckpt || s->bad.code ? NULL : next_rewrite(s);
	struct rewrite_plan p = { .shard = s->cfg.shard };
	struct rewrite *r;
	uint64_t n, i;
	uint8_t *dead;

	if (!g)
		return NULL;
	memcpy(p.dir, s->dir, sizeof p.dir);
	memcpy(p.cluster_id, s->cfg.cluster_id, 16);
	p.from = g->generation;
	p.to = g->wanted;
	p.base = g->base;
	p.end = g->end;
	p.bytes = g->bytes;
	n = g->end - g->base;
	dead = xcalloc(1, n / 8 + 1);
	for (i = 0; i < n; i += DEAD_BLOCK) {
		uint8_t key[16];
		uint32_t len, room = (uint32_t)((n - i < DEAD_BLOCK
							 ? n - i
							 : DEAD_BLOCK) + 7) / 8;
		const uint8_t *row = row_get(
			s, T_STORE_DEAD, key,
			key_block(key, p.base, p.to, (uint32_t)(i / DEAD_BLOCK)),
			&len);

		if (row)
			memcpy(dead + i / 8, row, len < room ? len : room);
	}
	p.dead = dead;
	r = rewrite_new(s->disk, &p);
	free(dead);
	return r;
}

static struct segment *rewrite_of(struct store *s, const struct rewrite *r)
{
	const struct rewrite_plan *p = rewrite_plan(r);
	struct segment *g = segment_by_base(s, p->base);

	return g && g->generation == p->from && g->wanted == p->to &&
			       g->end == p->end
		       ? g
		       : NULL;
}

bool store_rewrite_commit(struct store *s, struct rewrite *r)
{
	struct segment *g = rewrite_of(s, r);
	struct rewrite_result res;

	if (!g) { /* trimmed meanwhile, which doomed this file too, or out of date */
		if (!segment_by_base(s, rewrite_plan(r)->base) ||
		    segment_by_base(s, rewrite_plan(r)->base)->generation !=
			    rewrite_plan(r)->to)
			rewrite_drop(r);
		return false;
	}
	rewrite_result(r, &res);
	doom(s, g->base, g->generation,
	     g->bytes > res.bytes ? g->bytes - res.bytes : 0);
	s->stats.rewritten_segments++;
	forget(s, g);
	g->generation = rewrite_plan(r)->to;
	g->bytes = res.bytes;
	g->logical = res.logical;
	segment_row(s, g);
	return true;
}

void store_rewrite_refuse(struct store *s, const struct rewrite *r)
{
	struct segment *g = rewrite_of(s, r);

	if (g)
		g->refused = true;
}

/* ---- list ------------------------------------------------------------------------- */

uint32_t store_segments(const struct store *s)
{
	return s->n_segs;
}

void store_segment_info(const struct store *s, uint32_t i,
			struct store_segment *out)
{
	const struct segment *g = &s->segs[i];

	AN(i < s->n_segs);
	*out = (struct store_segment){ .base = g->base,
				       .end = g->end,
				       .bytes = g->bytes,
				       .generation = g->generation,
				       .wanted = g->wanted,
				       .sealed = g->sealed,
				       .durable = g->sealed && g->synced &&
						  !s->ckpt };
}

void store_segment_path(const struct store *s, uint32_t i, char *path, size_t size)
{
	AN(i < s->n_segs);
	segment_path(s, &s->segs[i], "seg", path, size);
}

/* ---- open ------------------------------------------------------------------------- */

struct load {
	struct store *s;
	bool bad;
};

static bool load_want(void *arg, const void *key, unsigned klen, const void *val,
		      uint32_t len)
{
	struct load *l = arg;
	struct segment *g;
	uint64_t base;

	if (klen != 8)
		return true;
	if (len != WANT_ROW)
		return !(l->bad = true);
	memcpy(&base, key, 8);
	g = segment_by_base(l->s, __builtin_bswap64(base));
	if (g && g->sealed && g->end == get_u64((const uint8_t *)val + 8))
		g->wanted = get_u32(val);
	return true;
}

static bool load_doomed(void *arg, const void *key, unsigned klen,
			const void *val, uint32_t len)
{
	struct load *l = arg;
	uint64_t base;
	uint32_t gen;

	if (len != 8 || (klen != 12 && klen != 6))
		return !(l->bad = true);
	if (klen == 6) {
		l->s->next_number = get_u64(val);
		return true;
	}
	memcpy(&base, key, 8);
	memcpy(&gen, (const uint8_t *)key + 8, 4);
	doom_add(l->s, __builtin_bswap64(base), __builtin_bswap32(gen),
		 get_u64(val));
	return true;
}

int trim_load(struct store *s)
{
	uint32_t len;
	const uint8_t *row = row_get(s, T_STORE_TRIM, "trim", 4, &len);

	if (!row)
		return s->bad.code;
	if (len != 8)
		return ERR_DAMAGED;
	s->trim = get_u64(row);
	return 0;
}

int retain_load(struct store *s, struct err *e)
{
	struct load l = { .s = s };
	int rv = row_walk(s, T_STORE_DEAD, load_want, &l, e);

	if (!rv)
		rv = row_walk(s, T_STORE_DOOMED, load_doomed, &l, e);
	if (!rv && l.bad)
		rv = err_set(e, ERR_DAMAGED,
			     "shard %u: a row of what is to go is damaged",
			     s->cfg.shard);
	return rv;
}
