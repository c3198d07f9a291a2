/* One way in: parse a header; wait for the whole frame (in `part` when the input
 * ends too early); unmask it where it lies; then a control frame or an unfragmented
 * message is given out as it is, and a fragment is appended to `message`. */
#include "base/wsframe.h"
#include "base/assert.h"
#include "base/base64.h"
#include "base/bytes.h"
#include "base/hash.h"

#define FIN 0x80
#define RESERVED 0x70
#define MASKED 0x80
#define SHORT_MAX 125 /* payload lengths that stand in the second byte */

struct header {
	enum ws_op op;
	bool fin;
	unsigned size; /* of the header itself */
	uint64_t n;
	uint8_t mask[4];
};

static unsigned header_size(uint8_t second)
{
	unsigned n = second & 0x7f;

	return 2 + (n == 126 ? 2 : n == 127 ? 8 : 0) + (second & MASKED ? 4 : 0);
}

static uint64_t big_endian(const uint8_t *p, unsigned n)
{
	uint64_t v = 0;

	while (n--)
		v = v << 8 | *p++;
	return v;
}

static int refuse(struct ws_reader *r, unsigned *code, const char **why,
		  unsigned c, const char *text)
{
	r->closed = true;
	*code = c;
	*why = text;
	return -1;
}

/* What the first two bytes say is checked before the rest is waited for.  1: whole,
 * 0: more bytes are wanted, -1: refused. */
static int header_parse(struct ws_reader *r, const uint8_t *p, size_t n,
			struct header *h, unsigned *code, const char **why)
{
	if (n < 2)
		return 0;
	h->fin = p[0] & FIN;
	h->op = (enum ws_op)(p[0] & 0x0f);
	h->size = header_size(p[1]);
	if (p[0] & RESERVED)
		return refuse(r, code, why, 1002, "reserved bit");
	if (!!(p[1] & MASKED) != r->masked)
		return refuse(r, code, why, 1002,
			      r->masked ? "frame without mask" : "masked frame");
	switch (h->op) {
	case WS_CONT:
		if (!r->op)
			return refuse(r, code, why, 1002, "nothing to continue");
		break;
	case WS_TEXT:
	case WS_BINARY:
		if (r->op)
			return refuse(r, code, why, 1002, "message inside another");
		break;
	case WS_CLOSE:
	case WS_PING:
	case WS_PONG:
		if (!h->fin || (p[1] & 0x7f) > WS_CONTROL_MAX)
			return refuse(r, code, why, 1002, "control frame");
		break;
	default:
		return refuse(r, code, why, 1002, "reserved opcode");
	}
	if (n < h->size)
		return 0;
	h->n = p[1] & 0x7f;
	if (h->n == 126) {
		h->n = big_endian(p + 2, 2);
		if (h->n <= SHORT_MAX)
			return refuse(r, code, why, 1002, "length form");
	} else if (h->n == 127) {
		h->n = big_endian(p + 2, 8);
		if (h->n <= UINT16_MAX || h->n >> 63)
			return refuse(r, code, why, 1002, "length form");
	}
	if (h->op < WS_CLOSE && h->n > r->message_max - r->message.len)
		return refuse(r, code, why, 1009, "message too large");
	if (r->masked)
		memcpy(h->mask, p + h->size - 4, 4);
	return 1;
}

/* Eight bytes at a time: the compiler makes vectors of it. */
static void mask_copy(uint8_t *to, const uint8_t *from, size_t n,
		      const uint8_t mask[4])
{
	uint64_t m = get_u32(mask) * 0x100000001ull;
	size_t i;

	for (i = 0; i + 8 <= n; i += 8)
		put_u64(to + i, get_u64(from + i) ^ m);
	for (; i < n; i++)
		to[i] = from[i] ^ mask[i & 3];
}

void ws_reader_init(struct ws_reader *r, bool server, uint32_t message_max)
{
	memset(r, 0, sizeof *r);
	r->masked = server;
	r->message_max = message_max;
}

void ws_reader_release(struct ws_reader *r)
{
	buf_release(&r->part);
	buf_release(&r->message);
}

/* Codes that may stand in a close frame (7.4.2 and the IANA registry). */
static bool close_code_ok(unsigned c)
{
	return (c >= 1000 && c <= 1003) || (c >= 1007 && c <= 1014) ||
	       (c >= 3000 && c <= 4999);
}

static int control(struct ws_reader *r, struct ws_message *m, unsigned *code,
		   const char **why)
{
	if (m->op != WS_CLOSE)
		return 1;
	r->closed = true;
	m->code = 1005;
	if (m->n == 0)
		return 1;
	if (m->n == 1)
		return refuse(r, code, why, 1002, "close code");
	m->code = (unsigned)big_endian(m->p, 2);
	m->p += 2;
	m->n -= 2;
	if (!close_code_ok(m->code))
		return refuse(r, code, why, 1002, "close code");
	if (!utf8_valid(m->p, m->n))
		return refuse(r, code, why, 1007, "close reason is not UTF-8");
	return 1;
}

/* A whole frame, unmasked, in m->p and m->n.  0: part of a message. */
static int frame(struct ws_reader *r, const struct header *h,
		 struct ws_message *m, unsigned *code, const char **why)
{
	enum ws_op op = h->op == WS_CONT ? (enum ws_op)r->op : h->op;

	m->op = op;
	m->code = 0;
	if (h->op >= WS_CLOSE)
		return control(r, m, code, why);
	if (op == WS_TEXT) {
		if (!utf8_feed(&r->utf8, m->p, m->n) || (h->fin && r->utf8.need))
			return refuse(r, code, why, 1007, "text is not UTF-8");
	}
	if (h->op == WS_CONT || !h->fin) {
		buf_put(&r->message, m->p, m->n);
		r->op = (uint8_t)op;
	}
	if (!h->fin)
		return 0;
	if (h->op == WS_CONT) {
		m->p = r->message.data;
		m->n = r->message.len;
		r->message.len = 0; /* freed at the next call */
		r->op = 0;
	}
	return 1;
}

/* Move up to `want` bytes in all into the unfinished frame. */
static void part_fill(struct ws_reader *r, uint8_t **p, size_t *n, size_t want)
{
	size_t take = want > r->part.len ? want - r->part.len : 0;

	if (take > *n)
		take = *n;
	buf_put(&r->part, *p, take);
	*p += take;
	*n -= take;
}

int ws_read(struct ws_reader *r, uint8_t **p, size_t *n, struct ws_message *m,
	    unsigned *code, const char **why)
{
	struct header h;
	uint8_t *at;
	int rv;

	if (!r->part.len)
		buf_release(&r->part);
	if (!r->op)
		buf_release(&r->message);
	while (!r->closed && *n) {
		if (!r->part.len) {
			rv = header_parse(r, *p, *n, &h, code, why);
			if (rv < 0)
				return rv;
			if (rv == 0 || *n - h.size < h.n) {
				buf_put(&r->part, *p, *n);
				break;
			}
			at = *p + h.size;
			*p = at + h.n;
			*n -= h.size + (size_t)h.n;
		} else {
			/* First the header's bytes, then the payload's. */
			part_fill(r, p, n, 2);
			if (r->part.len >= 2)
				part_fill(r, p, n, header_size(r->part.data[1]));
			rv = header_parse(r, r->part.data, r->part.len, &h, code,
					  why);
			if (rv < 0)
				return rv;
			if (rv == 0)
				break;
			part_fill(r, p, n, h.size + (size_t)h.n);
			if (r->part.len < h.size + h.n)
				break;
			at = r->part.data + h.size;
			r->part.len = 0; /* freed at the next call */
		}
		if (r->masked)
			mask_copy(at, at, (size_t)h.n, h.mask);
		m->p = at;
		m->n = (size_t)h.n;
		rv = frame(r, &h, m, code, why);
		if (rv)
			return rv;
	}
	*p += *n;
	*n = 0;
	return 0;
}

/* ---- out ------------------------------------------------------------------------ */

static unsigned header_put(uint8_t *p, enum ws_op op, size_t n, uint8_t masked)
{
	unsigned i, wide = n <= SHORT_MAX ? 0 : n <= UINT16_MAX ? 2 : 8;

	p[0] = (uint8_t)(FIN | op);
	p[1] = (uint8_t)(masked | (wide == 0 ? n : wide == 2 ? 126 : 127));
	for (i = 0; i < wide; i++)
		p[2 + i] = (uint8_t)((uint64_t)n >> 8 * (wide - 1 - i));
	return 2 + wide;
}

#define ROOM 4u /* for a header of 126..65,535 bytes */

size_t ws_begin(struct buf *out)
{
	size_t at = out->len;

	buf_extend(out, ROOM);
	return at;
}

void ws_end(struct buf *out, size_t at, enum ws_op op)
{
	size_t n = out->len - at - ROOM;
	uint8_t head[WS_HEADER_MAX];
	unsigned size = header_put(head, op, n, 0);

	if (size > ROOM)
		buf_extend(out, size - ROOM);
	if (size != ROOM)
		memmove(out->data + at + size, out->data + at + ROOM, n);
	memcpy(out->data + at, head, size);
	out->len = at + size + n;
}

void ws_frame(struct buf *out, enum ws_op op, const void *p, size_t n,
	      const uint8_t mask[4])
{
	uint8_t *o = buf_reserve(out, WS_HEADER_MAX + n);
	unsigned size = header_put(o, op, n, mask ? MASKED : 0);

	AN(op < WS_CLOSE || n <= WS_CONTROL_MAX);
	if (mask) {
		memcpy(o + size, mask, 4);
		size += 4;
		mask_copy(o + size, p, n, mask);
	} else if (n) {
		memcpy(o + size, p, n);
	}
	out->len += size + n;
}

void ws_close_frame(struct buf *out, unsigned code, const char *reason,
		    const uint8_t mask[4])
{
	uint8_t p[WS_CONTROL_MAX];
	size_t n = reason ? strlen(reason) : 0;

	if (code == 0 || code == 1005) { /* may not stand in a frame */
		ws_frame(out, WS_CLOSE, NULL, 0, mask);
		return;
	}
	if (n > sizeof p - 2)
		n = sizeof p - 2;
	while (n && !utf8_valid(reason, n)) /* cut between characters */
		n--;
	p[0] = (uint8_t)(code >> 8);
	p[1] = (uint8_t)code;
	if (n)
		memcpy(p + 2, reason, n);
	ws_frame(out, WS_CLOSE, p, n + 2, mask);
}

void ws_accept(const char *key, size_t n, char out[29])
{
	static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
	const struct hash_part parts[] = { { key, n }, { guid, sizeof guid - 1 } };
	uint8_t digest[SHA1_LEN];
	struct buf b = BUF_INIT;

	sha1_parts(parts, 2, digest);
	base64_put(&b, digest, sizeof digest);
	AN(b.len == 28);
	memcpy(out, b.data, 28);
	out[28] = 0;
	buf_release(&b);
}
