#include "base/cbor.h"
#include "base/utf8.h"

#define PLAIN_MAX ((1ull << 53) - 1)

void cbor_put_bytes(struct buf *b, enum cbor_major major, const void *p, size_t n)
{
	uint8_t *o = buf_reserve(b, CBOR_HEAD_MAX + n);
	uint8_t *at = cbor_head_at(o, major, n);

	if (n)
		memcpy(at, p, n);
	b->len += (size_t)(at - o) + n;
}

void cbor_put_text(struct buf *b, const char *s)
{
	cbor_put_bytes(b, CBOR_TEXT, s, strlen(s));
}

uint64_t cbor_want(struct cursor *c, enum cbor_major major)
{
	uint64_t v;

	if (cbor_head(c, &v) != major)
		c->bad = true;
	/* A member has two values of at least a byte each. */
	if ((major == CBOR_ARRAY && v > cursor_left(c)) ||
	    (major == CBOR_MAP && v > cursor_left(c) / 2))
		c->bad = true;
	return c->bad ? 0 : v;
}

const uint8_t *cbor_string(struct cursor *c, enum cbor_major major, size_t max,
			   size_t *n)
{
	uint64_t v = cbor_want(c, major);
	const uint8_t *p;

	*n = 0;
	if (c->bad || v > max || v > cursor_left(c)) {
		c->bad = true;
		return NULL;
	}
	p = cursor_bytes(c, (size_t)v);
	if (major == CBOR_TEXT && !utf8_valid(p, (size_t)v)) {
		c->bad = true;
		return NULL;
	}
	*n = (size_t)v;
	return p;
}

/* Bytewise order of the encoded keys (RFC 8949 4.2.1); equal ones are not above. */
static bool above(const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len)
{
	int rv = memcmp(a, b, a_len < b_len ? a_len : b_len);

	return rv > 0 || (rv == 0 && a_len > b_len);
}

static void skip_map(struct cursor *c, uint64_t n, enum cbor_kind kind,
		     unsigned depth)
{
	const uint8_t *last = NULL, *key;
	size_t last_len = 0, len;

	for (; n && !c->bad; n--) {
		key = c->p;
		if (kind == CBOR_PLAIN && cursor_left(c) && *key >> 5 != CBOR_TEXT)
			c->bad = true;
		cbor_skip(c, kind, depth);
		if (c->bad)
			return;
		len = (size_t)(c->p - key);
		if (last && !above(key, len, last, last_len)) {
			c->bad = true;
			return;
		}
		last = key;
		last_len = len;
		cbor_skip(c, kind, depth);
	}
}

void cbor_skip(struct cursor *c, enum cbor_kind kind, unsigned depth)
{
	const uint8_t *start = c->p;
	uint64_t v;
	size_t n;

	switch (cbor_head(c, &v)) {
	case CBOR_UINT:
		if (kind == CBOR_PLAIN && v > PLAIN_MAX)
			c->bad = true;
		return;
	case CBOR_NINT:
		if (kind == CBOR_PLAIN)
			c->bad = true;
		return;
	case CBOR_SIMPLE:
		return;
	case CBOR_BYTES:
		if (kind == CBOR_PLAIN)
			c->bad = true;
		else if (v > cursor_left(c))
			c->bad = true;
		else
			cursor_bytes(c, (size_t)v);
		return;
	case CBOR_TEXT:
		c->p = start;
		cbor_string(c, CBOR_TEXT, SIZE_MAX, &n);
		return;
	case CBOR_ARRAY:
		if (depth == 0 || v > cursor_left(c))
			c->bad = true;
		for (; v && !c->bad; v--)
			cbor_skip(c, kind, depth - 1);
		return;
	case CBOR_MAP:
		if (depth == 0 || v > cursor_left(c) / 2)
			c->bad = true;
		else
			skip_map(c, v, kind, depth - 1);
		return;
	}
	c->bad = true;
}
