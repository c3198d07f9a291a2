/* quipu.v1.json, out: a frame in memory as one JSON object in the order of its
 * field numbers.  Members of composites that this version does not know are left
 * out. */
#include "base/assert.h"
#include "base/base64.h"
#include "base/wire_impl.h"

static void number_put(struct buf *out, uint64_t v)
{
	char digits[20];
	unsigned n = 0;

	do {
		digits[sizeof digits - ++n] = (char)('0' + v % 10);
		v /= 10;
	} while (v);
	buf_put(out, digits + sizeof digits - n, n);
}

static void id_put(struct buf *out, uint64_t v)
{
	static const char hex[] = "0123456789abcdef";
	uint8_t *p = buf_extend(out, 18);
	unsigned i;

	*p++ = '"';
	for (i = 0; i < 16; i++)
		*p++ = (uint8_t)hex[v >> (60 - 4 * i) & 15];
	*p = '"';
}

static void text_put(struct buf *out, const uint8_t *p, size_t n)
{
	static const char from_set[] = "\"\\\b\f\n\r\t", to_set[] = "\"\\bfnrt";
	size_t i, from = 0;
	const char *at;

	buf_u8(out, '"');
	for (i = 0; i < n; i++) {
		if (p[i] >= 0x20 && p[i] != '"' && p[i] != '\\')
			continue;
		buf_put(out, p + from, i - from);
		from = i + 1;
		at = p[i] ? strchr(from_set, p[i]) : NULL;
		if (at)
			buf_printf(out, "\\%c", to_set[at - from_set]);
		else
			buf_printf(out, "\\u%04x", p[i]);
	}
	buf_put(out, p + from, n - from);
	buf_u8(out, '"');
}

static void bytes_put(struct buf *out, const uint8_t *p, size_t n)
{
	buf_u8(out, '"');
	base64url_put(out, p, n);
	buf_u8(out, '"');
}

static void name_put(struct buf *out, const char *name, bool first)
{
	if (!first)
		buf_u8(out, ',');
	text_put(out, (const uint8_t *)name, strlen(name));
	buf_u8(out, ':');
}

/* Any CBOR_PLAIN value: what a problem or the limits hold. */
static void plain_put(struct buf *out, struct cursor *c, unsigned depth)
{
	static const char *const simple[] = { "false", "true", "null" };
	const uint8_t *start = c->p;
	enum cbor_major major;
	uint64_t v, i;
	size_t n;

	AN(depth);
	major = cbor_head(c, &v);
	switch (major) {
	case CBOR_UINT:
		number_put(out, v);
		break;
	case CBOR_TEXT:
		c->p = start;
		start = cbor_string(c, CBOR_TEXT, SIZE_MAX, &n);
		text_put(out, start, n);
		break;
	case CBOR_SIMPLE:
		buf_puts(out, simple[v - CBOR_FALSE]);
		break;
	case CBOR_ARRAY:
	case CBOR_MAP:
		buf_u8(out, major == CBOR_MAP ? '{' : '[');
		for (i = 0; i < v && !c->bad; i++) {
			if (i)
				buf_u8(out, ',');
			if (major == CBOR_MAP) {
				plain_put(out, c, depth - 1);
				buf_u8(out, ':');
			}
			plain_put(out, c, depth - 1);
		}
		buf_u8(out, major == CBOR_MAP ? '}' : ']');
		break;
	default:
		c->bad = true;
		break;
	}
	AZ(c->bad); /* read and judged, or made by us */
}

static void key_put(struct buf *out, const struct wire_key *key)
{
	buf_u8(out, '{');
	name_put(out, "device", true);
	number_put(out, key->device);
	name_put(out, "kind", false);
	number_put(out, key->kind);
	name_put(out, "bytes", false);
	bytes_put(out, key->bytes.p, key->bytes.n);
	buf_u8(out, '}');
}

static void fields_put(const struct wire *w, struct buf *out, uint64_t has);

/* Between [ and ]: one value of a list; false at its end. */
static bool element_put(struct buf *out, enum wire_type type,
			struct wire_iter *it, bool first)
{
	struct wire_bytes text;
	struct wire_key key;
	struct wire item;
	uint64_t id;

	if (!it->left)
		return false;
	if (!first)
		buf_u8(out, ',');
	if (type == WT_IDS) {
		AN(wire_iter_id(it, &id));
		id_put(out, id);
	} else if (type == WT_WORDS) {
		AN(wire_iter_word(it, &text));
		text_put(out, text.p, text.n);
	} else if (type == WT_ITEMS) {
		AN(wire_iter_item(it, &item));
		fields_put(&item, out, item.has);
	} else {
		AN(wire_iter_key(it, &key));
		key_put(out, &key);
	}
	return true;
}

static void field_put(const struct wire *w, struct buf *out, unsigned k)
{
	const struct wire_field_row *f = &wire_fields[k];
	const struct wire_bytes *b = &w->b[k];
	struct wire_iter it;
	struct cursor c;
	bool first;

	switch (f->type) {
	case WT_U:
		AN(w->u[k] <= f->max);
		number_put(out, w->u[k]);
		return;
	case WT_T:
		buf_puts(out, w->u[k] ? "true" : "false");
		return;
	case WT_ID:
		id_put(out, w->u[k]);
		return;
	case WT_S:
		AN(b->n <= f->max);
		text_put(out, b->p, b->n);
		return;
	case WT_B16:
		AN(b->n == f->max);
		/* fall through */
	case WT_B:
		AN(b->n <= f->max);
		bytes_put(out, b->p, b->n);
		return;
	case WT_PROBLEM:
	case WT_LIMITS:
		c = cursor_of(b->p, b->n);
		plain_put(out, &c, WIRE_DEPTH_MAX);
		return;
	case WT_KEY:
		wire_iter_init(&it, w, (enum wire_field)k);
		element_put(out, WT_KEY, &it, true);
		return;
	case WT_IDS:
	case WT_KEYS:
	case WT_ITEMS:
	case WT_WORDS:
		wire_iter_init(&it, w, (enum wire_field)k);
		buf_u8(out, '[');
		for (first = true; element_put(out, f->type, &it, first);)
			first = false;
		buf_u8(out, ']');
		return;
	case WT_NONE:
		break;
	}
	WRONG("no such field");
}

static void fields_put(const struct wire *w, struct buf *out, uint64_t has)
{
	bool first = true;

	buf_u8(out, '{');
	for (; has; has &= has - 1) {
		unsigned k = (unsigned)__builtin_ctzll(has);

		name_put(out, wire_fields[k].name, first);
		field_put(w, out, k);
		first = false;
	}
	buf_u8(out, '}');
}

void wire_json_put(const struct wire *w, struct buf *out)
{
	fields_put(w, out, w->has);
}
