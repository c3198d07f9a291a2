#include "client/frame.h"

#include "base/cursor.h"

#include <stdio.h>

enum kind { NONE, NUM, BYTES, TEXT, BOOL, WHOLE };

/* What each field holds; a frame with another kind there is refused. */
static const uint8_t kinds[F_COUNT] = {
	[F_T] = NUM, [F_ID] = NUM, [F_TOKEN] = TEXT, [F_AGENT] = TEXT,
	[F_EPOCH] = NUM, [F_CURSOR] = NUM, [F_WINDOW] = NUM, [F_SEQ] = NUM,
	[F_AFTER] = NUM, [F_TO] = NUM, [F_MID] = BYTES, [F_SEEN] = NUM,
	[F_CLASS] = NUM, [F_LIST] = NUM, [F_GEPOCH] = NUM, [F_BODY] = BYTES,
	[F_TTL] = NUM, [F_N] = NUM, [F_FROM] = NUM, [F_DEV] = NUM,
	[F_LAMPORT] = NUM, [F_STAMP] = NUM, [F_TIME] = NUM, [F_SHARD] = NUM,
	[F_OFFSET] = NUM, [F_DUP] = BOOL, [F_FLAGS] = NUM, [F_ITEMS] = WHOLE,
	[F_NEXT] = NUM, [F_COMPLETE] = BOOL, [F_TRUNCATED] = NUM,
	[F_KIND] = TEXT, [F_PROBLEM] = WHOLE, [F_CODE] = NUM,
	[F_RETRY_MS] = NUM, [F_HEARTBEAT] = NUM, [F_SESSION] = BYTES,
	[F_RESUMED] = BOOL, [F_REASON] = TEXT, [F_BEFORE] = NUM,
	[F_LIMIT] = NUM, [F_GROUP] = NUM,
};

static void put_head(struct buf *out, unsigned major, uint64_t v)
{
	uint8_t h[9];
	unsigned n, i;

	if (v < 24) {
		buf_u8(out, (uint8_t)(major << 5 | v));
		return;
	}
	n = v <= 0xff ? 1 : v <= 0xffff ? 2 : v <= 0xffffffff ? 4 : 8;
	h[0] = (uint8_t)(major << 5 |
			 (n == 1 ? 24u : n == 2 ? 25u : n == 4 ? 26u : 27u));
	for (i = 0; i < n; i++)
		h[1 + i] = (uint8_t)(v >> 8 * (n - 1 - i));
	buf_put(out, h, n + 1);
}

void frame_encode(const struct frame *f, struct buf *out)
{
	uint64_t left;

	put_head(out, 5, (uint64_t)__builtin_popcountll(f->has));
	for (left = f->has; left; left &= left - 1) {
		unsigned k = (unsigned)__builtin_ctzll(left);

		put_head(out, 0, k);
		switch (kinds[k]) {
		case BYTES:
		case TEXT:
			put_head(out, kinds[k] == TEXT ? 3 : 2, f->b[k].n);
			buf_put(out, f->b[k].p, f->b[k].n);
			break;
		case BOOL:
			buf_u8(out, f->u[k] ? 0xf5 : 0xf4);
			break;
		default:
			put_head(out, 0, f->u[k]);
			break;
		}
	}
}

/* A head: major type and argument; shortest form only, no open lengths. */
static inline unsigned get_head(struct cursor *c, uint64_t *v)
{
	uint8_t b = cursor_u8(c);
	unsigned low = b & 31, n, i;
	const uint8_t *p;

	*v = low;
	if (low < 24)
		return b >> 5;
	if (low > 27) {
		c->bad = true;
		return 0;
	}
	n = 1u << (low - 24);
	p = cursor_bytes(c, n);
	if (!p)
		return 0;
	for (*v = 0, i = 0; i < n; i++)
		*v = *v << 8 | p[i];
	if (b >> 5 != 7 &&
	    *v < (n == 1 ? 24 : n == 2 ? 0x100 : n == 4 ? 0x10000 : 1ull << 32))
		c->bad = true;
	return b >> 5;
}

static void skip_value(struct cursor *c, unsigned depth)
{
	uint64_t v;
	unsigned major = get_head(c, &v);

	if (c->bad)
		return;
	if (depth > FRAME_DEPTH_MAX) {
		c->bad = true;
		return;
	}
	switch (major) {
	case 0:
	case 1:
		return;
	case 2:
	case 3:
		if (v > cursor_left(c))
			c->bad = true;
		else
			cursor_bytes(c, (size_t)v);
		return;
	case 4:
	case 5:
		if (v > cursor_left(c)) {
			c->bad = true;
			return;
		}
		for (v = major == 5 ? 2 * v : v; v && !c->bad; v--)
			skip_value(c, depth + 1);
		return;
	case 7:
		if (v < 20 || v > 22)
			c->bad = true;
		return;
	default:
		c->bad = true;
	}
}

static bool decode_map(struct frame *f, struct cursor *c)
{
	uint64_t pairs, key, last = 0, v;
	bool first = true;

	f->has = 0;
	if (get_head(c, &pairs) != 5 || c->bad || pairs > cursor_left(c))
		return false;
	for (; pairs; pairs--) {
		if (get_head(c, &key) != 0 || c->bad || (!first && key <= last))
			return false;
		first = false;
		last = key;
		if (key >= F_COUNT || kinds[key] == NONE) {
			skip_value(c, 1);
		} else if (kinds[key] == WHOLE) {
			const uint8_t *from = c->p;

			skip_value(c, 1);
			frame_bytes(f, (unsigned)key, from,
				    (size_t)(c->p - from));
		} else {
			unsigned major = get_head(c, &v);
			unsigned k = (unsigned)key;

			if (c->bad)
				return false;
			switch (kinds[k]) {
			case NUM:
				if (major != 0)
					return false;
				frame_set(f, k, v);
				break;
			case BOOL:
				if (major != 7 || v < 20 || v > 21)
					return false;
				frame_set(f, k, v == 21);
				break;
			default:
				if (major != (kinds[k] == TEXT ? 3 : 2) ||
				    v > cursor_left(c))
					return false;
				frame_bytes(f, k, c->p, (size_t)v);
				cursor_bytes(c, (size_t)v);
			}
		}
		if (c->bad)
			return false;
	}
	return true;
}

bool frame_decode(struct frame *f, const void *p, size_t n)
{
	struct cursor c = cursor_of(p, n);

	return decode_map(f, &c) && cursor_done(&c) && frame_has(f, F_T) &&
	       (!frame_has(f, F_MID) || f->b[F_MID].n == 16);
}

bool frame_item(const struct frame *page, size_t *at, struct frame *item)
{
	const struct frame_bytes *b = &page->b[F_ITEMS];
	struct cursor c;
	uint64_t count;

	if (!frame_has(page, F_ITEMS) || *at == SIZE_MAX)
		return false;
	c = cursor_of(b->p, b->n);
	if (*at == 0) {
		if (get_head(&c, &count) != 4 || count > FRAME_ITEMS_MAX) {
			*at = SIZE_MAX;
			return false;
		}
	} else {
		cursor_bytes(&c, *at);
	}
	if (!c.bad && cursor_left(&c) == 0)
		return false;
	if (c.bad || !decode_map(item, &c) ||
	    (frame_has(item, F_MID) && item->b[F_MID].n != 16)) {
		*at = SIZE_MAX;
		return false;
	}
	*at = (size_t)(c.p - b->p);
	return true;
}

void frame_problem(const struct frame *f, char *name, size_t size,
		   unsigned *status)
{
	static const char prefix[] = "/problems/";
	const size_t plen = sizeof(prefix) - 1;
	struct cursor c;
	uint64_t pairs;

	snprintf(name, size, "internal");
	*status = 0;
	if (!frame_has(f, F_PROBLEM))
		return;
	c = cursor_of(f->b[F_PROBLEM].p, f->b[F_PROBLEM].n);
	if (get_head(&c, &pairs) != 5)
		return;
	for (; pairs && !c.bad; pairs--) {
		struct cursor v;
		uint64_t num;
		unsigned major;

		skip_value(&c, 1); /* the type's value says enough */
		v = c;
		skip_value(&c, 1);
		if (c.bad)
			return;
		major = get_head(&v, &num);
		if (major == 3 && num > plen && num - plen < size &&
		    memcmp(v.p, prefix, plen) == 0)
			snprintf(name, size, "%.*s", (int)(num - plen),
				 (const char *)v.p + plen);
		else if (major == 0 && num >= 400 && num < 600)
			*status = (unsigned)num;
	}
}
