/* quipu.v1.json, in: a message of RFC 8259 becomes the deterministic CBOR of the
 * same message, field by field of base/wire.tbl, and is judged there.  An object's
 * members are written behind its place one by one, then put in order and moved
 * down, so all memory is the output's.
 *
 * Stricter than JSON: numbers are unsigned integers < 2^53; double names are
 * refused at every depth, also among unknown members; at most MEMBERS_MAX members
 * in an object; names are at most NAME_MAX_BYTES long; depth <= WIRE_DEPTH_MAX. */
#include "base/assert.h"
#include "base/base64.h"
#include "base/utf8.h"
#include "base/wire_impl.h"

#include <stdlib.h>

enum { MEMBERS_MAX = 64, NAME_MAX_BYTES = 64 };

struct json {
	const char *p, *end;
	struct buf *out;
	struct err *e;
};

/* What an object's members mean. */
enum object { O_FRAME, O_ITEM, O_KEY, O_PLAIN };

/* A member where it was written: the key's encoding, then the value's. */
struct member {
	uint32_t at, key_len, len;
	bool unknown; /* checked, then left out */
};

static int value(struct json *j, unsigned depth);
static int object(struct json *j, enum object kind, unsigned depth);

static int bad(struct json *j, const char *why)
{
	return err_set(j->e, ERR_FORMAT, "JSON: %s", why);
}

static void space(struct json *j)
{
	while (j->p < j->end && (*j->p == ' ' || *j->p == '\t' ||
				 *j->p == '\n' || *j->p == '\r'))
		j->p++;
}

/* The next byte that is not space, 0 at the end. */
static char peek(struct json *j)
{
	space(j);
	return j->p < j->end ? *j->p : 0;
}

static bool take(struct json *j, char ch)
{
	if (peek(j) != ch)
		return false;
	j->p++;
	return true;
}

static bool word(struct json *j, const char *w)
{
	size_t n = strlen(w);

	if ((size_t)(j->end - j->p) < n || memcmp(j->p, w, n) != 0)
		return false;
	j->p += n;
	return true;
}

/* ---- text ------------------------------------------------------------------------ */

static int hex4(struct json *j, uint32_t *out)
{
	unsigned i;

	*out = 0;
	if (j->end - j->p < 4)
		return bad(j, "cut escape");
	for (i = 0; i < 4; i++) {
		char ch = *j->p++, low = (char)(ch | 0x20);

		if (ch >= '0' && ch <= '9')
			*out = *out << 4 | (uint32_t)(ch - '0');
		else if (low >= 'a' && low <= 'f')
			*out = *out << 4 | (uint32_t)(low - 'a' + 10);
		else
			return bad(j, "escape");
	}
	return 0;
}

static void utf8_put(struct buf *b, uint32_t u)
{
	if (u < 0x80) {
		buf_u8(b, (uint8_t)u);
	} else if (u < 0x800) {
		buf_u8(b, (uint8_t)(0xc0 | u >> 6));
		buf_u8(b, (uint8_t)(0x80 | (u & 63)));
	} else if (u < 0x10000) {
		buf_u8(b, (uint8_t)(0xe0 | u >> 12));
		buf_u8(b, (uint8_t)(0x80 | (u >> 6 & 63)));
		buf_u8(b, (uint8_t)(0x80 | (u & 63)));
	} else {
		buf_u8(b, (uint8_t)(0xf0 | u >> 18));
		buf_u8(b, (uint8_t)(0x80 | (u >> 12 & 63)));
		buf_u8(b, (uint8_t)(0x80 | (u >> 6 & 63)));
		buf_u8(b, (uint8_t)(0x80 | (u & 63)));
	}
}

/* After a backslash. */
static int escape(struct json *j)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	uint32_t u, low;
	const char *at;
	char ch;

	if (j->p == j->end)
		return bad(j, "cut escape");
	ch = *j->p++;
	if (ch != 'u') {
		at = ch ? strchr(from, ch) : NULL;
		if (!at)
			return bad(j, "escape");
		buf_u8(j->out, (uint8_t)to[at - from]);
		return 0;
	}
	if (hex4(j, &u))
		return j->e->code;
	if (u >= 0xd800 && u < 0xdc00) { /* RFC 8259 7: the pair of a surrogate */
		if (!word(j, "\\u"))
			return bad(j, "half a surrogate pair");
		if (hex4(j, &low))
			return j->e->code;
		if (low < 0xdc00 || low > 0xdfff)
			return bad(j, "half a surrogate pair");
		u = 0x10000 + ((u - 0xd800) << 10) + (low - 0xdc00);
	} else if (u >= 0xdc00 && u < 0xe000) {
		return bad(j, "half a surrogate pair");
	}
	utf8_put(j->out, u);
	return 0;
}

/* Append a string's characters, unescaped, without a head. */
static int characters(struct json *j)
{
	const char *run;

	if (!take(j, '"'))
		return bad(j, "a string was expected");
	for (;;) {
		run = j->p;
		while (j->p < j->end && *j->p != '"' && *j->p != '\\' &&
		       (uint8_t)*j->p >= 0x20)
			j->p++;
		if (!utf8_valid(run, (size_t)(j->p - run)))
			return bad(j, "text is not UTF-8");
		buf_put(j->out, run, (size_t)(j->p - run));
		if (j->p == j->end)
			return bad(j, "cut string");
		if (*j->p == '"') {
			j->p++;
			return 0;
		}
		if (*j->p++ != '\\')
			return bad(j, "control character");
		if (escape(j))
			return j->e->code;
	}
}

/* Put a head in front of what was written since `at`. */
static void head_before(struct buf *out, size_t at, enum cbor_major major,
			uint64_t v)
{
	uint8_t head[CBOR_HEAD_MAX];
	size_t size = (size_t)(cbor_head_at(head, major, v) - head);
	size_t n = out->len - at;

	buf_extend(out, size);
	memmove(out->data + at + size, out->data + at, n);
	memcpy(out->data + at, head, size);
}

static int text(struct json *j)
{
	size_t at = j->out->len;

	if (characters(j))
		return j->e->code;
	head_before(j->out, at, CBOR_TEXT, j->out->len - at);
	return 0;
}

static int bytes(struct json *j)
{
	size_t at = j->out->len;
	const char *run;

	if (!take(j, '"'))
		return bad(j, "a string was expected");
	run = j->p; /* the alphabet has no escapes */
	while (j->p < j->end && *j->p != '"')
		j->p++;
	if (j->p == j->end)
		return bad(j, "cut string");
	if (!base64url_get(j->out, run, (size_t)(j->p - run)))
		return bad(j, "not base64url");
	j->p++;
	head_before(j->out, at, CBOR_BYTES, j->out->len - at);
	return 0;
}

/* ---- numbers --------------------------------------------------------------------- */

static int id(struct json *j)
{
	uint32_t part[4];
	unsigned i;

	if (!take(j, '"'))
		return bad(j, "an id of 16 hex digits was expected");
	for (i = 0; i < 4; i++)
		if (hex4(j, &part[i]))
			return bad(j, "an id has 16 hex digits");
	if (j->p == j->end || *j->p++ != '"')
		return bad(j, "an id has 16 hex digits");
	cbor_put_head(j->out, CBOR_UINT,
		      (uint64_t)part[0] << 48 | (uint64_t)part[1] << 32 |
			      (uint64_t)part[2] << 16 | part[3]);
	return 0;
}

static int number(struct json *j)
{
	const char *start;
	uint64_t v = 0;

	if (!peek(j) || *j->p < '0' || *j->p > '9')
		return bad(j, "an unsigned integer was expected");
	start = j->p;
	for (; j->p < j->end && *j->p >= '0' && *j->p <= '9'; j->p++) {
		v = v * 10 + (uint64_t)(*j->p - '0');
		if (v > WIRE_U_MAX)
			return bad(j, "number above 2^53 - 1");
	}
	if (*start == '0' && j->p - start > 1)
		return bad(j, "number with a leading zero");
	if (j->p < j->end && (*j->p == '.' || *j->p == 'e' || *j->p == 'E'))
		return bad(j, "not an integer");
	cbor_put_head(j->out, CBOR_UINT, v);
	return 0;
}

static int simple(struct json *j, bool null_too)
{
	unsigned v = 0;

	space(j);
	if (word(j, "false"))
		v = CBOR_FALSE;
	else if (word(j, "true"))
		v = CBOR_TRUE;
	else if (null_too && word(j, "null"))
		v = CBOR_NULL;
	else
		return bad(j, "true or false was expected");
	cbor_put_head(j->out, CBOR_SIMPLE, v);
	return 0;
}

/* ---- objects and arrays ---------------------------------------------------------- */

static int array(struct json *j, enum wire_type of, unsigned depth)
{
	size_t at = j->out->len;
	uint32_t n = 0;
	int rv;

	if (!take(j, '['))
		return bad(j, "an array was expected");
	if (depth == 0)
		return bad(j, "too deep");
	if (!take(j, ']')) {
		do {
			n++;
			switch (of) {
			case WT_IDS:
				rv = id(j);
				break;
			case WT_WORDS:
				rv = text(j);
				break;
			case WT_KEYS:
				rv = object(j, O_KEY, depth - 1);
				break;
			case WT_ITEMS:
				rv = object(j, O_ITEM, depth - 1);
				break;
			default:
				rv = value(j, depth - 1);
				break;
			}
			if (rv)
				return rv;
		} while (take(j, ','));
		if (!take(j, ']'))
			return bad(j, "a comma or ] was expected");
	}
	head_before(j->out, at, CBOR_ARRAY, n);
	return 0;
}

/* Any value that CBOR_PLAIN allows. */
static int value(struct json *j, unsigned depth)
{
	switch (peek(j)) {
	case '{':
		return object(j, O_PLAIN, depth);
	case '[':
		return array(j, WT_NONE, depth);
	case '"':
		return text(j);
	case 't':
	case 'f':
	case 'n':
		return simple(j, true);
	default:
		return number(j);
	}
}

static int field(struct json *j, enum wire_type type, unsigned depth)
{
	switch (type) {
	case WT_U:
		return number(j);
	case WT_T:
		return simple(j, false);
	case WT_ID:
		return id(j);
	case WT_S:
		return text(j);
	case WT_B:
	case WT_B16:
		return bytes(j);
	case WT_KEY:
		return object(j, O_KEY, depth);
	case WT_PROBLEM:
	case WT_LIMITS:
		return object(j, O_PLAIN, depth);
	case WT_IDS:
	case WT_KEYS:
	case WT_ITEMS:
	case WT_WORDS:
		return array(j, type, depth);
	case WT_NONE:
		break;
	}
	WRONG("no such field");
}

/* The number of a name, -1 for an unknown one, and the type of its value. */
static int64_t name_lookup(enum object kind, const void *name, size_t n,
			   enum wire_type *type)
{
	static const struct {
		const char *name;
		enum wire_type type;
	} key_names[] = { { "device", WT_U }, { "kind", WT_U }, { "bytes", WT_B } };
	unsigned k;

	if (kind == O_KEY) {
		for (k = 0; k < 3; k++) {
			*type = key_names[k].type;
			if (strlen(key_names[k].name) == n &&
			    memcmp(key_names[k].name, name, n) == 0)
				return k;
		}
	} else if (kind != O_PLAIN) {
		for (k = 0; k < WIRE_FIELDS; k++) {
			*type = wire_fields[k].type;
			if (strlen(wire_fields[k].name) == n &&
			    memcmp(wire_fields[k].name, name, n) == 0)
				return k;
		}
	}
	return -1;
}

static int member(struct json *j, enum object kind, struct member *m,
		  unsigned depth)
{
	struct buf *out = j->out;
	enum wire_type type = WT_NONE;
	size_t at = out->len, n;
	int64_t k;
	int rv;

	if (peek(j) != '"')
		return bad(j, "a name was expected");
	if (characters(j))
		return j->e->code;
	n = out->len - at;
	if (n > NAME_MAX_BYTES)
		return bad(j, "name too long");
	k = name_lookup(kind, out->data + at, n, &type);
	if (k >= 0) {
		out->len = at;
		cbor_put_head(out, CBOR_UINT, (uint64_t)k);
	} else {
		head_before(out, at, CBOR_TEXT, n);
	}
	m->at = (uint32_t)at;
	m->key_len = (uint32_t)(out->len - at);
	m->unknown = k < 0 && kind != O_PLAIN;
	if (!take(j, ':'))
		return bad(j, "a colon was expected");
	rv = k >= 0 ? field(j, type, depth) : value(j, depth);
	if (rv && k >= 0)
		return err_wrap(j->e, "%s", kind == O_KEY ? "key"
							  : wire_fields[k].name);
	m->len = (uint32_t)(out->len - at);
	return rv;
}

/* Bytewise, as base/cbor.h wants map keys; 0: the same name twice. */
static int order(const uint8_t *base, const struct member *a,
		 const struct member *b)
{
	uint32_t n = a->key_len < b->key_len ? a->key_len : b->key_len;
	int rv = memcmp(base + a->at, base + b->at, n);

	return rv ? rv : (a->key_len > b->key_len) - (a->key_len < b->key_len);
}

static int members(struct json *j, enum object kind, struct member *m,
		   unsigned *n, unsigned depth)
{
	*n = 0;
	if (take(j, '}'))
		return 0;
	do {
		struct member next = { 0 };
		unsigned i;
		int rv;

		if (*n == MEMBERS_MAX)
			return bad(j, "too many members");
		rv = member(j, kind, &next, depth);
		if (rv)
			return rv;
		for (i = *n; i > 0; i--) {
			rv = order(j->out->data, &m[i - 1], &next);
			if (rv == 0)
				return bad(j, "a name stands twice");
			if (rv < 0)
				break;
			m[i] = m[i - 1];
		}
		m[i] = next;
		++*n;
	} while (take(j, ','));
	return take(j, '}') ? 0 : bad(j, "a comma or } was expected");
}

static int object(struct json *j, enum object kind, unsigned depth)
{
	struct member m[MEMBERS_MAX];
	struct buf *out = j->out;
	size_t at = out->len, loose, size = 0;
	unsigned i, n, known = 0;

	if (!take(j, '{'))
		return bad(j, "an object was expected");
	if (depth == 0)
		return bad(j, "too deep");
	if (members(j, kind, m, &n, depth - 1))
		return j->e->code;
	for (i = 0; i < n; i++)
		if (!m[i].unknown) {
			known++;
			size += m[i].len;
		}
	loose = out->len;
	buf_reserve(out, CBOR_HEAD_MAX + size); /* m points into it from now on */
	cbor_put_head(out, CBOR_MAP, known);
	for (i = 0; i < n; i++)
		if (!m[i].unknown)
			buf_put(out, out->data + m[i].at, m[i].len);
	memmove(out->data + at, out->data + loose, out->len - loose);
	out->len = at + (out->len - loose);
	return 0;
}

int wire_json_to_cbor(const void *p, size_t n, struct buf *out, struct err *e)
{
	struct json j = { (const char *)p, (const char *)p + n, out, e };

	/* The output is at most a little larger than the input, the loose members
	 * once more: offsets fit 32 bits. */
	if (n > UINT32_MAX / 4)
		return bad(&j, "too large");
	buf_reserve(out, n + CBOR_HEAD_MAX);
	if (object(&j, O_FRAME, WIRE_DEPTH_MAX))
		return e->code;
	space(&j);
	return j.p == j.end ? 0 : bad(&j, "something follows the object");
}
