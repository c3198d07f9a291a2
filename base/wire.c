/* The CBOR of quipu.v1.cbor: a map of fields in ascending order, driven by the rows
 * of base/wire.tbl.  JSON is transcoded to these bytes first (base/wire_json.c), so
 * there is one place where a frame is judged. */
#include "base/wire.h"
#include "base/assert.h"
#include "base/wire_impl.h"

const struct wire_field_row wire_fields[WIRE_FIELDS] = {
#define FIELD(key, NAME, name, type, max) [key] = { #name, WT_##type, max },
#include "base/wire.tbl"
};

#define F(NAME) +BIT(W_##NAME)
const struct wire_frame_row wire_frames[WIRE_FRAMES] = {
#define FRAME(num, NAME, name, side, needed, optional)                         \
	[num] = { #name, WIRE_##side, needed, optional },
#include "base/wire.tbl"
};
#undef F

/* Fields whose value is in b[]. */
#define IN_BYTES(t) ((t) >= WT_S)

const char *wire_frame_name(unsigned t)
{
	return t < WIRE_FRAMES ? wire_frames[t].name : NULL;
}

const char *wire_field_name(unsigned k)
{
	return k < WIRE_FIELDS ? wire_fields[k].name : NULL;
}

void wire_puts(struct wire *w, enum wire_field k, const char *s)
{
	wire_put(w, k, s, strlen(s));
}

/* ---- out ------------------------------------------------------------------------ */

/* Key and head of a field, at most. */
#define FIELD_HEADS_MAX (2 + CBOR_HEAD_MAX)

static size_t size_max(const struct wire *w)
{
	size_t n = CBOR_HEAD_MAX;
	uint64_t has;

	for (has = w->has; has; has &= has - 1) {
		unsigned k = (unsigned)__builtin_ctzll(has);

		n += FIELD_HEADS_MAX;
		if (IN_BYTES(wire_fields[k].type))
			n += w->b[k].n;
	}
	return n;
}

static uint8_t *bytes_at(uint8_t *p, const struct wire_bytes *b)
{
	if (b->n)
		memcpy(p, b->p, b->n);
	return p + b->n;
}

static uint8_t *field_at(uint8_t *p, const struct wire *w, unsigned k)
{
	const struct wire_field_row *f = &wire_fields[k];

	switch (f->type) {
	case WT_U:
		AN(w->u[k] <= f->max);
		return cbor_head_at(p, CBOR_UINT, w->u[k]);
	case WT_ID:
		return cbor_head_at(p, CBOR_UINT, w->u[k]);
	case WT_T:
		return cbor_head_at(p, CBOR_SIMPLE,
				    w->u[k] ? CBOR_TRUE : CBOR_FALSE);
	case WT_S:
		AN(w->b[k].n <= f->max);
		p = cbor_head_at(p, CBOR_TEXT, w->b[k].n);
		return bytes_at(p, &w->b[k]);
	case WT_B16:
		AN(w->b[k].n == f->max);
		/* fall through */
	case WT_B:
		AN(w->b[k].n <= f->max);
		p = cbor_head_at(p, CBOR_BYTES, w->b[k].n);
		return bytes_at(p, &w->b[k]);
	case WT_IDS:
	case WT_KEY:
	case WT_KEYS:
	case WT_ITEMS:
	case WT_PROBLEM:
	case WT_LIMITS:
	case WT_WORDS: /* made by wire_make_*, or read: CBOR already */
		AN(w->b[k].n);
		return bytes_at(p, &w->b[k]);
	case WT_NONE:
		break;
	}
	WRONG("no such field");
}

void wire_fields_put(const struct wire *w, struct buf *out, bool t)
{
	uint8_t *start = buf_reserve(out, size_max(w)), *p = start;
	uint64_t has = t ? w->has : w->has & ~BIT(W_T);

	for (p = cbor_head_at(p, CBOR_MAP, (unsigned)__builtin_popcountll(has));
	     has; has &= has - 1) {
		unsigned k = (unsigned)__builtin_ctzll(has);

		p = cbor_head_at(p, CBOR_UINT, k);
		p = field_at(p, w, k);
	}
	out->len += (size_t)(p - start);
}

/* A frame that the other side would refuse is our bug. */
static void check_ours(const struct wire *w)
{
	const struct wire_frame_row *f;
	uint64_t needed;

	AN(wire_has(w, W_T) && w->u[W_T] < WIRE_FRAMES);
	f = &wire_frames[w->u[W_T]];
	AN(f->name);
	needed = wire_needed(w);
	AN((w->has & needed) == needed);
	AZ(w->has & ~(BIT(W_T) | f->needed | f->optional));
}

void wire_encode(const struct wire *w, enum wire_format f, struct buf *out)
{
	check_ours(w);
	if (f == WIRE_CBOR)
		wire_fields_put(w, out, true);
	else
		wire_json_put(w, out);
}

/* ---- in ------------------------------------------------------------------------- */

static void key_check(struct cursor *c, unsigned depth)
{
	uint64_t n = cbor_want(c, CBOR_MAP), k, last = 0, has = 0, v;
	size_t len;
	bool first = true;

	for (; n && !c->bad; n--) {
		k = cbor_want(c, CBOR_UINT);
		if (!first && k <= last)
			c->bad = true;
		first = false;
		last = k;
		if (k == 0) {
			v = cbor_want(c, CBOR_UINT);
			c->bad |= v > UINT32_MAX;
		} else if (k == 1) {
			v = cbor_want(c, CBOR_UINT);
			c->bad |= v < 1 || v > 2;
		} else if (k == 2) {
			cbor_string(c, CBOR_BYTES, WIRE_KEY_BYTES_MAX, &len);
		} else {
			cbor_skip(c, CBOR_ANY, depth);
		}
		if (k < 3)
			has |= BIT(k);
	}
	c->bad |= has != 7;
}

static void map_of_text_check(struct cursor *c, uint64_t max)
{
	struct cursor whole = *c;
	uint64_t n = cbor_want(c, CBOR_MAP);
	size_t len;

	cbor_skip(&whole, CBOR_PLAIN, 1); /* order of the keys */
	c->bad |= whole.bad || n > max;
	for (; n && !c->bad; n--) {
		cbor_string(c, CBOR_TEXT, WORD_MAX, &len);
		cbor_want(c, CBOR_UINT);
	}
}

/* A composite; `depth` levels are allowed for it. */
static void composite_check(struct cursor *c, const struct wire_field_row *f,
			    unsigned depth, struct err *e)
{
	uint64_t n = 1;
	struct wire item;
	size_t len;

	if (f->type == WT_PROBLEM) {
		if (cursor_left(c) && *c->p >> 5 != CBOR_MAP)
			c->bad = true;
		cbor_skip(c, CBOR_PLAIN, depth);
		return;
	}
	if (f->type == WT_LIMITS) {
		map_of_text_check(c, f->max);
		return;
	}
	if (f->type != WT_KEY) {
		n = cbor_want(c, CBOR_ARRAY);
		depth--;
	}
	c->bad |= n > f->max;
	for (; n && !c->bad; n--) {
		if (f->type == WT_IDS)
			cbor_want(c, CBOR_UINT);
		else if (f->type == WT_WORDS)
			cbor_string(c, CBOR_TEXT, WORD_MAX, &len);
		else if (f->type == WT_ITEMS)
			wire_item_get(&item, c, e);
		else
			key_check(c, depth - 1);
	}
}

/* The value of field k, checked by its row.  `depth` as above. */
static void value_get(struct wire *w, unsigned k, struct cursor *c,
		      unsigned depth, struct err *e)
{
	const struct wire_field_row *f = &wire_fields[k];
	const uint8_t *p = c->p;
	uint64_t v;
	size_t n;

	switch (f->type) {
	case WT_U:
		w->u[k] = cbor_want(c, CBOR_UINT);
		c->bad |= w->u[k] > f->max;
		break;
	case WT_ID:
		w->u[k] = cbor_want(c, CBOR_UINT);
		break;
	case WT_T:
		if (cbor_head(c, &v) != CBOR_SIMPLE || v == CBOR_NULL)
			c->bad = true;
		w->u[k] = v == CBOR_TRUE;
		break;
	case WT_S:
	case WT_B:
	case WT_B16:
		p = cbor_string(c, f->type == WT_S ? CBOR_TEXT : CBOR_BYTES,
				f->max, &n);
		if (f->type == WT_B16 && n != f->max)
			c->bad = true;
		w->b[k].p = p;
		w->b[k].n = (uint32_t)n;
		break;
	default:
		composite_check(c, f, depth, e);
		w->b[k].p = p;
		w->b[k].n = (uint32_t)(c->p - p);
		break;
	}
	w->has |= BIT(k);
}

/* `n` members, of which those in `allowed` are kept and the rest is skipped; keys
 * ascend from above `last`. */
static void fields_get(struct wire *w, struct cursor *c, uint64_t n, int64_t last,
		       uint64_t allowed, unsigned depth, struct err *e)
{
	for (; n; n--) {
		uint64_t k = cbor_want(c, CBOR_UINT);

		if (!c->bad && k > INT64_MAX)
			c->bad = true;
		if (!c->bad && (int64_t)k <= last)
			c->bad = true;
		if (c->bad) {
			if (!e->code)
				err_set(e, ERR_FORMAT, "field key");
			return;
		}
		last = (int64_t)k;
		if (k < WIRE_FIELDS && allowed >> k & 1)
			value_get(w, (unsigned)k, c, depth, e);
		else
			cbor_skip(c, CBOR_ANY, depth);
		if (c->bad) {
			const char *name = wire_field_name((unsigned)(
				k < WIRE_FIELDS ? k : WIRE_FIELDS));

			if (e->code)
				err_wrap(e, "%s", name);
			else
				err_set(e, ERR_FORMAT, "%s: malformed, of another "
					"type or out of range",
					name ? name : "unknown field");
			return;
		}
	}
}

static void needed_check(const struct wire *w, struct cursor *c, struct err *e)
{
	uint64_t missing = wire_needed(w) & ~w->has;

	if (c->bad || !missing)
		return;
	c->bad = true;
	err_set(e, ERR_FORMAT, "%s: missing",
		wire_field_name((unsigned)__builtin_ctzll(missing)));
}

void wire_item_get(struct wire *w, struct cursor *c, struct err *e)
{
	const struct wire_frame_row *f = &wire_frames[WIRE_DELIVER];
	uint64_t n = cbor_want(c, CBOR_MAP);

	w->has = 0;
	w->u[W_T] = WIRE_DELIVER;
	/* message, list, item: two levels of eight are left besides the item's */
	fields_get(w, c, n, 0, f->needed | f->optional, WIRE_DEPTH_MAX - 3, e);
	needed_check(w, c, e);
}

static int decode(struct wire *w, enum wire_side from, const void *p, size_t n,
		  struct err *e)
{
	const struct wire_frame_row *f;
	struct cursor c = cursor_of(p, n);
	uint64_t members = cbor_want(&c, CBOR_MAP), allowed = BIT(W_ID);
	bool known;

	w->has = 0;
	if (!members || cbor_want(&c, CBOR_UINT) != W_T || c.bad)
		return err_set(e, ERR_FORMAT, "not a map that starts with t");
	value_get(w, W_T, &c, 0, e);
	if (c.bad)
		return err_set(e, ERR_FORMAT, "t: out of range");
	f = w->u[W_T] < WIRE_FRAMES ? &wire_frames[w->u[W_T]] : NULL;
	known = f && f->name && f->side & from;
	if (known)
		allowed = f->needed | f->optional;
	fields_get(w, &c, members - 1, 0, allowed, WIRE_DEPTH_MAX - 1, e);
	if (known)
		needed_check(w, &c, e);
	if (!c.bad && c.p != c.end)
		err_set(e, ERR_FORMAT, "bytes after the frame");
	if (e->code)
		return e->code;
	if (!known)
		return err_set(e, ERR_NOT_FOUND, "unknown frame %u",
			       (unsigned)w->u[W_T]);
	return 0;
}

int wire_decode(struct wire *w, enum wire_format f, enum wire_side from,
		const void *p, size_t n, struct buf *scratch, struct err *e)
{
	struct err own;
	int rv;

	if (!e)
		e = &own;
	e->code = 0;
	w->has = 0;
	if (n > UINT32_MAX)
		return err_set(e, ERR_FORMAT, "too large");
	if (f == WIRE_JSON) {
		AN(scratch);
		buf_clear(scratch);
		rv = wire_json_to_cbor(p, n, scratch, e);
		if (rv)
			return rv;
		p = scratch->data;
		n = scratch->len;
	}
	return decode(w, from, p, n, e);
}
