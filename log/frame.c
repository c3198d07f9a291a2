#include "log/frame.h"
#include "base/assert.h"
#include "base/cursor.h"

#include <lz4.h>

/* ---- records --------------------------------------------------------------------
 * length u32, then
 *   kind u8, flags u8, class u8, part u8, time - frame's varint,
 *   lamport - previous varint, key u64, n varint, sender u64, device varint,
 *   seq varint, after varint, mid 16, message flags varint, ttl varint,
 *   [origin: shard, offset, Lamport varints], headers lv          <- canonical
 *   nonce 16, payload lv; of a stub instead: SHA-256(nonce, payload) 32
 * Leaf = SHA-256(0x00, canonical part without the stub flag, SHA-256(nonce,
 * payload)): it outlives the content. */

static void put_canonical(struct buf *b, const struct record *r,
			  uint64_t time_ms, uint64_t lamport)
{
	uint8_t *p = buf_extend(b, 4);

	p[0] = r->kind;
	p[1] = r->flags & ~RECORD_STUB;
	p[2] = r->cls;
	p[3] = r->part;
	buf_varint(b, r->time_ms - time_ms);
	buf_varint(b, r->lamport - lamport);
	buf_u64(b, r->key);
	buf_varint(b, r->n);
	buf_u64(b, r->sender);
	buf_varint(b, r->device);
	buf_varint(b, r->seq);
	buf_varint(b, r->after);
	buf_put(b, r->mid, 16);
	buf_varint(b, r->msg_flags);
	buf_varint(b, r->ttl);
	if (r->flags & RECORD_HAS_ORIGIN) {
		buf_varint(b, r->origin_shard);
		buf_varint(b, r->origin_offset);
		buf_varint(b, r->origin_lamport);
	}
	buf_lv(b, r->headers, r->headers_len);
}

void record_content(const struct record *r, uint8_t out[SHA256_LEN])
{
	struct hash_part content[] = { { r->nonce, 16 },
				       { r->payload, r->payload_len } };

	if (r->flags & RECORD_STUB)
		memcpy(out, r->content, SHA256_LEN);
	else
		sha256_parts(content, 2, out);
}

static void leaf_hash(const uint8_t *canonical, size_t n,
		      const struct record *r, uint8_t out[32])
{
	static const uint8_t zero = 0;
	uint8_t inner[32];
	struct hash_part leaf[] = { { &zero, 1 }, { canonical, n },
				    { inner, 32 } };

	record_content(r, inner);
	sha256_parts(leaf, 3, out);
}

void frame_body(struct buf *raw, const struct record *recs, unsigned n,
		uint8_t *leaves)
{
	uint64_t lamport = n ? recs[0].lamport : 0;
	unsigned i;

	buf_clear(raw);
	for (i = 0; i < n; i++) {
		const struct record *r = &recs[i];
		size_t at = raw->len, head, len;

		/* The length goes in front once it is known; 4 bytes hold it. */
		buf_extend(raw, 4);
		head = raw->len;
		put_canonical(raw, r, recs[0].time_ms, lamport);
		leaf_hash(raw->data + head, raw->len - head, r,
			  leaves + 32 * (size_t)i);
		if (r->flags & RECORD_STUB) {
			raw->data[head + 1] |= RECORD_STUB;
			buf_put(raw, r->content, SHA256_LEN);
		} else {
			buf_put(raw, r->nonce, 16);
			buf_lv(raw, r->payload, r->payload_len);
		}
		len = raw->len - head;
		put_u32(raw->data + at, (uint32_t)len);
		lamport = r->lamport;
	}
}

void frame_iter_init(struct frame_iter *it, const struct frame *f,
		     const struct buf *raw)
{
	it->f = f;
	it->p = raw->data;
	it->end = raw->len ? raw->data + raw->len : raw->data; /* or null */
	it->lamport = f->lamport_first;
	it->i = 0;
}

/* A larger number would be a second spelling of its low half. */
static uint32_t varint32(struct cursor *c)
{
	uint64_t v = cursor_varint(c);

	if (v > UINT32_MAX)
		c->bad = true;
	return (uint32_t)v;
}

int frame_next(struct frame_iter *it, struct record *r)
{
	struct cursor all = { it->p, it->end, false }, c;
	uint32_t len;
	const uint8_t *p;
	size_t n;

	if (it->i == it->f->count)
		return it->p == it->end ? 0 : ERR_DAMAGED;
	len = cursor_u32(&all);
	p = cursor_bytes(&all, len);
	if (!p)
		return ERR_DAMAGED;
	c = cursor_of(p, len);
	r->kind = cursor_u8(&c);
	r->flags = cursor_u8(&c);
	r->cls = cursor_u8(&c);
	r->part = cursor_u8(&c);
	r->time_ms = it->f->time_ms + cursor_varint(&c);
	r->lamport = it->lamport + cursor_varint(&c);
	r->key = cursor_u64(&c);
	r->n = cursor_varint(&c);
	r->sender = cursor_u64(&c);
	r->device = varint32(&c);
	r->seq = cursor_varint(&c);
	r->after = cursor_varint(&c);
	p = cursor_bytes(&c, 16);
	if (p)
		memcpy(r->mid, p, 16);
	r->msg_flags = varint32(&c);
	r->ttl = varint32(&c);
	r->origin_shard = 0;
	r->origin_offset = r->origin_lamport = 0;
	if (r->flags & RECORD_HAS_ORIGIN) {
		r->origin_shard = varint32(&c);
		r->origin_offset = cursor_varint(&c);
		r->origin_lamport = cursor_varint(&c);
	}
	r->headers = cursor_lv(&c, RECORD_HEADERS_MAX, &n);
	r->headers_len = (uint32_t)n;
	if (r->flags & RECORD_STUB) {
		if (!(it->f->flags & FRAME_STUBS))
			return ERR_DAMAGED;
		r->content = cursor_bytes(&c, SHA256_LEN);
		memset(r->nonce, 0, 16);
		r->payload = NULL;
		r->payload_len = 0;
	} else {
		r->content = NULL;
		p = cursor_bytes(&c, 16);
		if (p)
			memcpy(r->nonce, p, 16);
		r->payload = cursor_lv(&c, RECORD_PAYLOAD_MAX, &n);
		r->payload_len = (uint32_t)n;
	}
	if (!cursor_done(&c))
		return ERR_DAMAGED;
	r->offset = it->f->base + it->i;
	it->lamport = r->lamport;
	it->p = all.p;
	it->i++;
	return 1;
}

/* ---- frames ------------------------------------------------------------------------
 *   0  4 magic QFR1           4  4 low 32 bits of XXH3-64 over 8..151
 *   8  4 frame length        12  2 header length    14  2 flags
 *  16  4 raw length          20  4 stored length    24  8 XXH3-64 of stored body
 *  32  8 term                40  8 index            48  8 base offset
 *  56  4 records             60  4 kind             64  8 first Lamport
 *  72  8 last Lamport        80  8 time             88 32 batch root
 * 120 32 chain = SHA-256(chain before, 32..119) */

void frame_encode(struct buf *out, struct frame *f, const struct buf *raw,
		  const struct record *recs, unsigned n, const uint8_t *leaves,
		  const uint8_t chain[SHA256_LEN])
{
	size_t start = out->len;
	uint8_t *p = buf_extend(out, FRAME_HEADER);
	struct hash_part link[] = { { chain, 32 }, { NULL, 88 } };
	uint16_t flags = 0;
	int packed = 0;
	unsigned i;

	AN(n && raw->len <= FRAME_RAW_MAX);
	for (i = 0; i < n; i++)
		if (recs[i].flags & RECORD_STUB)
			flags = FRAME_STUBS;
	memset(p, 0, FRAME_HEADER);
	f->raw_len = f->stored_len = (uint32_t)raw->len;
	f->flags = flags;
	f->count = n;
	f->lamport_first = recs[0].lamport;
	f->lamport_last = recs[n - 1].lamport;
	f->time_ms = recs[0].time_ms;
	/* Compressed only where it saves an eighth: ciphertext does not. */
	if (raw->len >= 128) {
		int max = (int)(raw->len - raw->len / 8);

		packed = LZ4_compress_default(
			(const char *)raw->data,
			(char *)buf_reserve(out, (size_t)max),
			(int)raw->len, max);
	}
	if (packed > 0) {
		f->flags |= FRAME_LZ4;
		f->stored_len = (uint32_t)packed;
		out->len += (size_t)packed;
	} else {
		buf_put(out, raw->data, raw->len);
	}
	while (out->len % 8)
		buf_u8(out, 0);
	p = out->data + start;
	f->length = (uint32_t)(out->len - start);
	merkle_root(leaves, n, f->root);
	memcpy(p, "QFR1", 4);
	put_u32(p + 8, f->length);
	put_u16(p + 12, FRAME_HEADER);
	put_u16(p + 14, f->flags);
	put_u32(p + 16, f->raw_len);
	put_u32(p + 20, f->stored_len);
	put_u64(p + 24, xxh3(p + FRAME_HEADER, f->stored_len));
	put_u64(p + 32, f->term);
	put_u64(p + 40, f->index);
	put_u64(p + 48, f->base);
	put_u32(p + 56, f->count);
	put_u64(p + 64, f->lamport_first);
	put_u64(p + 72, f->lamport_last);
	put_u64(p + 80, f->time_ms);
	memcpy(p + 88, f->root, 32);
	link[1].p = p + 32;
	sha256_parts(link, 2, f->chain);
	memcpy(p + 120, f->chain, 32);
	put_u32(p + 4, (uint32_t)xxh3(p + 8, FRAME_HEADER - 8));
}

int frame_header(struct frame *f, const uint8_t *p, size_t avail)
{
	if (avail < FRAME_HEADER || memcmp(p, "QFR1", 4))
		return ERR_FORMAT;
	if (get_u32(p + 4) != (uint32_t)xxh3(p + 8, FRAME_HEADER - 8))
		return ERR_CHECKSUM;
	f->length = get_u32(p + 8);
	f->flags = get_u16(p + 14);
	f->raw_len = get_u32(p + 16);
	f->stored_len = get_u32(p + 20);
	f->term = get_u64(p + 32);
	f->index = get_u64(p + 40);
	f->base = get_u64(p + 48);
	f->count = get_u32(p + 56);
	f->lamport_first = get_u64(p + 64);
	f->lamport_last = get_u64(p + 72);
	f->time_ms = get_u64(p + 80);
	memcpy(f->root, p + 88, 32);
	memcpy(f->chain, p + 120, 32);
	if (get_u16(p + 12) != FRAME_HEADER || f->raw_len > FRAME_RAW_MAX ||
	    f->stored_len > f->raw_len || (f->flags & ~(FRAME_LZ4 | FRAME_STUBS)) ||
	    f->length != ((FRAME_HEADER + f->stored_len + 7) & ~7u))
		return ERR_CHECKSUM;
	return 0;
}

int frame_unpack(const struct frame *f, const uint8_t *p, struct buf *raw)
{
	const uint8_t *body = p + FRAME_HEADER;

	buf_clear(raw);
	if (get_u64(p + 24) != xxh3(body, f->stored_len))
		return ERR_CHECKSUM;
	if (!(f->flags & FRAME_LZ4)) {
		if (f->raw_len != f->stored_len)
			return ERR_CHECKSUM;
		buf_put(raw, body, f->raw_len);
		return 0;
	}
	if (LZ4_decompress_safe((const char *)body,
				(char *)buf_extend(raw, f->raw_len),
				(int)f->stored_len,
				(int)f->raw_len) != (int)f->raw_len)
		return ERR_CHECKSUM;
	return 0;
}

bool frame_follows(const uint8_t *header, const uint8_t chain[SHA256_LEN])
{
	struct hash_part link[] = { { chain, 32 }, { header + 32, 88 } };
	uint8_t want[32];

	sha256_parts(link, 2, want);
	return !memcmp(want, header + 120, 32);
}

/* ---- Merkle --------------------------------------------------------------------------- */

void merkle_node(const uint8_t l[32], const uint8_t r[32], uint8_t out[32])
{
	static const uint8_t one = 1;
	struct hash_part parts[] = { { &one, 1 }, { l, 32 }, { r, 32 } };

	sha256_parts(parts, 3, out);
}

void merkle_root(const uint8_t *leaves, uint64_t n, uint8_t out[32])
{
	struct frontier t = { .size = 0 };
	uint64_t i;

	for (i = 0; i < n; i++)
		frontier_add(&t, leaves + 32 * i);
	frontier_root(&t, out);
}

void frontier_add(struct frontier *t, const uint8_t leaf[32])
{
	uint64_t bits = t->size++;

	memcpy(t->peak[t->n++], leaf, 32);
	/* Each one bit of the old size is a subtree that this leaf completes. */
	for (; bits & 1; bits >>= 1) {
		t->n--;
		merkle_node(t->peak[t->n - 1], t->peak[t->n],
			    t->peak[t->n - 1]);
	}
}

void frontier_root(const struct frontier *t, uint8_t out[32])
{
	unsigned i;

	if (!t->n) {
		sha256("", 0, out);
		return;
	}
	memcpy(out, t->peak[t->n - 1], 32);
	for (i = t->n - 1; i > 0; i--)
		merkle_node(t->peak[i - 1], out, out);
}
