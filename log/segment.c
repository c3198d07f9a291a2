#include "log/segment.h"
#include "base/bytes.h"
#include "base/cursor.h"

#include <string.h>

static void seal(uint8_t *p)
{
	put_u64(p + 4088, xxh3(p, 4088));
}

static int check(const uint8_t *p, const char *magic, const char *what,
		 struct err *e)
{
	if (memcmp(p, magic, 8))
		return err_set(e, ERR_FORMAT, "not a segment %s", what);
	if (get_u32(p + 8) > SEGMENT_VERSION_STUBS)
		return err_set(e, ERR_VERSION,
			       "segment format %u is newer than this program's",
			       get_u32(p + 8));
	if (get_u64(p + 4088) != xxh3(p, 4088) || !get_u32(p + 8) ||
	    get_u32(p + 12) != 4096)
		return err_set(e, ERR_CHECKSUM, "checksum mismatch in the %s",
			       what);
	return 0;
}

void segment_head_encode(const struct segment_head *h,
			 uint8_t out[SEGMENT_HEADER])
{
	memset(out, 0, SEGMENT_HEADER);
	memcpy(out, "QUIPUSG1", 8);
	put_u32(out + 8, h->version ? h->version : SEGMENT_VERSION);
	put_u32(out + 12, SEGMENT_HEADER);
	memcpy(out + 16, h->cluster_id, 16);
	put_u32(out + 32, h->shard);
	put_u32(out + 36, h->generation);
	put_u64(out + 40, h->number);
	put_u64(out + 48, h->base);
	put_u64(out + 56, h->clock);
	put_u64(out + 64, h->time_ms);
	put_u64(out + 72, h->index);
	put_u64(out + 80, h->term);
	memcpy(out + 88, h->chain, 32);
	seal(out);
}

int segment_head_decode(struct segment_head *h, const uint8_t p[SEGMENT_HEADER],
			struct err *e)
{
	int rv = check(p, "QUIPUSG1", "header", e);

	if (rv)
		return rv;
	h->version = get_u32(p + 8);
	memcpy(h->cluster_id, p + 16, 16);
	h->shard = get_u32(p + 32);
	h->generation = get_u32(p + 36);
	h->number = get_u64(p + 40);
	h->base = get_u64(p + 48);
	h->clock = get_u64(p + 56);
	h->time_ms = get_u64(p + 64);
	h->index = get_u64(p + 72);
	h->term = get_u64(p + 80);
	memcpy(h->chain, p + 88, 32);
	return 0;
}

void segment_foot_encode(const struct segment_foot *f,
			 uint8_t out[SEGMENT_FOOTER])
{
	memset(out, 0, SEGMENT_FOOTER);
	memcpy(out, "QUIPUSF1", 8);
	put_u32(out + 8, f->version ? f->version : SEGMENT_VERSION);
	put_u32(out + 12, SEGMENT_FOOTER);
	put_u32(out + 16, f->shard);
	put_u32(out + 20, f->generation);
	put_u64(out + 24, f->number);
	put_u64(out + 32, f->base);
	put_u64(out + 40, f->end);
	put_u64(out + 48, f->bytes);
	put_u64(out + 56, f->logical);
	put_u64(out + 64, f->frames);
	put_u64(out + 72, f->lamport);
	put_u64(out + 80, f->time_ms);
	memcpy(out + 88, f->chain, 32);
	memcpy(out + 120, f->root, 32);
	put_u64(out + 152, f->index_sum);
	seal(out);
}

int segment_foot_decode(struct segment_foot *f, const uint8_t p[SEGMENT_FOOTER],
			struct err *e)
{
	int rv = check(p, "QUIPUSF1", "footer", e);

	if (rv)
		return rv;
	f->version = get_u32(p + 8);
	f->shard = get_u32(p + 16);
	f->generation = get_u32(p + 20);
	f->number = get_u64(p + 24);
	f->base = get_u64(p + 32);
	f->end = get_u64(p + 40);
	f->bytes = get_u64(p + 48);
	f->logical = get_u64(p + 56);
	f->frames = get_u64(p + 64);
	f->lamport = get_u64(p + 72);
	f->time_ms = get_u64(p + 80);
	memcpy(f->chain, p + 88, 32);
	memcpy(f->root, p + 120, 32);
	f->index_sum = get_u64(p + 152);
	return 0;
}

/* ---- index -------------------------------------------------------------------- */

#define INDEX_HEAD 40u
#define INDEX_PLACE 16u
#define INDEX_KEY 40u
#define INDEX_FRAME 12u

void index_head_put(struct buf *b, uint32_t shard, uint64_t base, uint64_t end,
		    uint32_t places, uint32_t keys)
{
	buf_put(b, "QUIPUIX1", 8);
	buf_u32(b, SEGMENT_VERSION);
	buf_u32(b, shard);
	buf_u64(b, base);
	buf_u64(b, end);
	buf_u32(b, places);
	buf_u32(b, keys);
}

void index_place_put(struct buf *b, const struct place *p)
{
	buf_u64(b, p->base);
	buf_u32(b, p->off);
	buf_u32(b, p->count);
}

void index_key_put(struct buf *b, const struct kidx *k)
{
	uint32_t i;

	buf_u64(b, k->key);
	buf_u64(b, k->first_n);
	buf_u64(b, k->last_n);
	buf_u64(b, k->prev);
	buf_u32(b, k->n);
	buf_u32(b, 0);
	for (i = 0; i < k->n; i++) {
		buf_u64(b, k->firsts[i]);
		buf_u32(b, k->frames[i]);
	}
}

uint64_t index_end_put(struct buf *b)
{
	uint64_t sum = xxh3(b->data, b->len);

	buf_u64(b, sum);
	return sum;
}

int index_open(struct index_reader *r, const uint8_t *p, size_t n,
	       struct err *e)
{
	uint64_t left;

	if (n < INDEX_HEAD + 8 || memcmp(p, "QUIPUIX1", 8))
		return err_set(e, ERR_FORMAT, "not an index file");
	if (get_u32(p + 8) > SEGMENT_VERSION)
		return err_set(e, ERR_VERSION,
			       "index format %u is newer than this program's",
			       get_u32(p + 8));
	r->sum = get_u64(p + n - 8);
	if (r->sum != xxh3(p, n - 8))
		return err_set(e, ERR_CHECKSUM, "checksum mismatch");
	r->shard = get_u32(p + 12);
	r->base = get_u64(p + 16);
	r->end = get_u64(p + 24);
	r->n_places = get_u32(p + 32);
	r->n_keys = r->left = get_u32(p + 36);
	left = n - INDEX_HEAD - 8;
	if ((uint64_t)r->n_places * INDEX_PLACE > left)
		return err_set(e, ERR_DAMAGED, "more frames than bytes");
	r->places = p + INDEX_HEAD;
	r->p = r->places + (size_t)r->n_places * INDEX_PLACE;
	r->limit = p + n - 8;
	if ((uint64_t)r->n_keys * INDEX_KEY > (uint64_t)(r->limit - r->p))
		return err_set(e, ERR_DAMAGED, "more keys than bytes");
	return 0;
}

void index_place(const struct index_reader *r, uint32_t i, struct place *out)
{
	const uint8_t *p = r->places + (size_t)i * INDEX_PLACE;

	out->base = get_u64(p);
	out->off = get_u32(p + 8);
	out->count = get_u32(p + 12);
}

int index_key(struct index_reader *r, struct kidx *k, const uint8_t **frames)
{
	uint32_t i;

	if (!r->left)
		return r->p == r->limit ? 0 : ERR_DAMAGED;
	if ((size_t)(r->limit - r->p) < INDEX_KEY)
		return ERR_DAMAGED;
	k->key = get_u64(r->p);
	k->first_n = get_u64(r->p + 8);
	k->last_n = get_u64(r->p + 16);
	k->prev = get_u64(r->p + 24);
	k->n = get_u32(r->p + 32);
	r->p += INDEX_KEY;
	if (!k->n || (uint64_t)k->n * INDEX_FRAME > (uint64_t)(r->limit - r->p))
		return ERR_DAMAGED;
	*frames = r->p;
	for (i = 0; i < k->n; i++)
		if (get_u32(r->p + (size_t)i * INDEX_FRAME + 8) >= r->n_places)
			return ERR_DAMAGED;
	r->p += (size_t)k->n * INDEX_FRAME;
	r->left--;
	return 1;
}
