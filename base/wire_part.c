/* Composite values: read by iterators, written by makers, always as CBOR. */
#include "base/assert.h"
#include "base/wire_impl.h"

#include <stdio.h>

#define PROBLEM_PREFIX "/problems/"

static struct cursor cursor_in(const struct wire_iter *it)
{
	struct cursor c = { it->p, it->end, false };

	return c;
}

/* One value less; false: it was not what was asked for, and the rest is dropped. */
static bool step(struct wire_iter *it, const struct cursor *c)
{
	if (c->bad) {
		it->left = 0;
		return false;
	}
	it->p = c->p;
	it->left--;
	return true;
}

void wire_iter_init(struct wire_iter *it, const struct wire *w, enum wire_field k)
{
	struct cursor c;

	it->p = it->end = NULL;
	it->left = 0;
	if (!wire_has(w, k))
		return;
	c = cursor_of(w->b[k].p, w->b[k].n);
	it->left = 1;
	if (wire_fields[k].type != WT_KEY)
		it->left = (uint32_t)cbor_want(&c, CBOR_ARRAY);
	it->p = c.p;
	it->end = c.end;
}

bool wire_iter_key(struct wire_iter *it, struct wire_key *key)
{
	struct cursor c = cursor_in(it);
	uint64_t n, k;
	size_t len;

	if (!it->left)
		return false;
	memset(key, 0, sizeof *key);
	for (n = cbor_want(&c, CBOR_MAP); n && !c.bad; n--) {
		k = cbor_want(&c, CBOR_UINT);
		if (k == 0) {
			key->device = (uint32_t)cbor_want(&c, CBOR_UINT);
		} else if (k == 1) {
			key->kind = (uint8_t)cbor_want(&c, CBOR_UINT);
		} else if (k == 2) {
			key->bytes.p = cbor_string(&c, CBOR_BYTES,
						   WIRE_KEY_BYTES_MAX, &len);
			key->bytes.n = (uint32_t)len;
		} else {
			cbor_skip(&c, CBOR_ANY, WIRE_DEPTH_MAX);
		}
	}
	return step(it, &c);
}

bool wire_iter_id(struct wire_iter *it, uint64_t *id)
{
	struct cursor c = cursor_in(it);

	if (!it->left)
		return false;
	*id = cbor_want(&c, CBOR_UINT);
	return step(it, &c);
}

bool wire_iter_word(struct wire_iter *it, struct wire_bytes *word)
{
	struct cursor c = cursor_in(it);
	size_t n;

	if (!it->left)
		return false;
	word->p = cbor_string(&c, CBOR_TEXT, WORD_MAX, &n);
	word->n = (uint32_t)n;
	return step(it, &c);
}

bool wire_iter_item(struct wire_iter *it, struct wire *item)
{
	struct cursor c = cursor_in(it);
	struct err e = { 0, "" };

	if (!it->left)
		return false;
	wire_item_get(item, &c, &e);
	return step(it, &c);
}

/* ---- makers --------------------------------------------------------------------- */

void wire_make_array(struct buf *b, uint32_t n)
{
	cbor_put_head(b, CBOR_ARRAY, n);
}

void wire_make_key(struct buf *b, const struct wire_key *key)
{
	AN(key->kind == 1 || key->kind == 2);
	AN(key->bytes.n <= WIRE_KEY_BYTES_MAX);
	cbor_put_head(b, CBOR_MAP, 3);
	cbor_put_head(b, CBOR_UINT, 0);
	cbor_put_head(b, CBOR_UINT, key->device);
	cbor_put_head(b, CBOR_UINT, 1);
	cbor_put_head(b, CBOR_UINT, key->kind);
	cbor_put_head(b, CBOR_UINT, 2);
	cbor_put_bytes(b, CBOR_BYTES, key->bytes.p, key->bytes.n);
}

void wire_make_id(struct buf *b, uint64_t id)
{
	cbor_put_head(b, CBOR_UINT, id);
}

void wire_make_word(struct buf *b, const char *s)
{
	AN(strlen(s) <= WORD_MAX);
	cbor_put_text(b, s);
}

void wire_make_item(struct buf *b, const struct wire *deliver)
{
	uint64_t needed;

	AN(deliver->u[W_T] == WIRE_DELIVER);
	needed = wire_needed(deliver);
	AN((deliver->has & needed) == needed);
	wire_fields_put(deliver, b, false);
}

/* Of two texts' encodings the shorter is below (RFC 8949 4.2.1, for < 24 bytes of
 * equal head size as for longer ones). */
static int text_order(const char *a, const char *b)
{
	size_t x = strlen(a), y = strlen(b);

	return x != y ? (x < y ? -1 : 1) : strcmp(a, b);
}

void wire_make_limits(struct buf *b, const struct wire_limit *l, unsigned n)
{
	const char *last = "", *next;
	unsigned i, done, at = 0;

	AN(n <= wire_fields[W_LIMITS].max);
	cbor_put_head(b, CBOR_MAP, n);
	for (done = 0; done < n; done++) {
		next = NULL;
		for (i = 0; i < n; i++)
			if (text_order(l[i].name, last) > 0 &&
			    (!next || text_order(l[i].name, next) < 0)) {
				next = l[i].name;
				at = i;
			}
		AN(next); /* two limits of one name, or one without */
		AN(strlen(next) <= WORD_MAX && l[at].value <= WIRE_U_MAX);
		cbor_put_text(b, next);
		cbor_put_head(b, CBOR_UINT, l[at].value);
		last = next;
	}
}

static void member_put(struct buf *b, const char *name, const char *text)
{
	if (text) {
		cbor_put_text(b, name);
		cbor_put_text(b, text);
	}
}

void wire_make_problem(struct buf *b, const struct wire_problem *p)
{
	cbor_put_head(b, CBOR_MAP,
		      2u + !!p->title + !!p->detail + !!p->outcome +
			      !!p->instance);
	cbor_put_text(b, "type");
	cbor_put_head(b, CBOR_TEXT, strlen(PROBLEM_PREFIX) + strlen(p->type));
	buf_puts(b, PROBLEM_PREFIX);
	buf_puts(b, p->type);
	member_put(b, "title", p->title);
	member_put(b, "detail", p->detail);
	cbor_put_text(b, "status");
	cbor_put_head(b, CBOR_UINT, p->status);
	member_put(b, "outcome", p->outcome);
	member_put(b, "instance", p->instance);
}

/* Place a cursor on the value of a member; false: there is none. */
static bool member_find(const struct wire *w, const char *name, struct cursor *c)
{
	uint64_t n;
	size_t len;

	if (!wire_has(w, W_PROBLEM))
		return false;
	*c = cursor_of(w->b[W_PROBLEM].p, w->b[W_PROBLEM].n);
	for (n = cbor_want(c, CBOR_MAP); n; n--) {
		const uint8_t *key = cbor_string(c, CBOR_TEXT, SIZE_MAX, &len);

		if (c->bad)
			return false;
		if (len == strlen(name) && memcmp(key, name, len) == 0)
			return true;
		cbor_skip(c, CBOR_PLAIN, WIRE_DEPTH_MAX);
	}
	return false;
}

struct wire_bytes wire_problem_member(const struct wire *w, const char *name)
{
	struct wire_bytes text = { NULL, 0 };
	struct cursor c;
	size_t n;

	if (member_find(w, name, &c)) {
		text.p = cbor_string(&c, CBOR_TEXT, SIZE_MAX, &n);
		text.n = (uint32_t)n;
	}
	return text;
}

/* Names are shown to people and end in logs: nothing but what ours are made of. */
static bool is_name(const uint8_t *p, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++)
		if (!((p[i] >= 'a' && p[i] <= 'z') ||
		      (p[i] >= '0' && p[i] <= '9') || p[i] == '-'))
			return false;
	return n > 0;
}

void wire_problem_name(const struct wire *w, char *name, size_t size,
		       unsigned *status)
{
	const size_t skip = strlen(PROBLEM_PREFIX);
	struct wire_bytes type = wire_problem_member(w, "type");
	struct cursor c;

	if (status) {
		*status = 0;
		if (member_find(w, "status", &c))
			*status = (unsigned)cbor_want(&c, CBOR_UINT);
	}
	if (type.n > skip && memcmp(type.p, PROBLEM_PREFIX, skip) == 0 &&
	    is_name(type.p + skip, type.n - skip))
		snprintf(name, size, "%.*s", (int)(type.n - skip),
			 (const char *)type.p + skip);
	else
		snprintf(name, size, "internal");
}

/* ---- sizes ---------------------------------------------------------------------- */

size_t wire_deliver_max(size_t body, size_t keys)
{
	/* Names, numbers of up to 20 digits, quotes and commas of every field of
	 * the frame as JSON, with its text (kind, every byte escaped). */
	enum { FIXED = 16 * (12 + 24) + 6 * 32 + 96 };

	return FIXED + (body + 2) / 3 * 4 + (keys + 2) / 3 * 4;
}
