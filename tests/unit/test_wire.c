/* The client protocol's codec: the golden frames in both subprotocols, what is
 * refused and why, composites by iterators and makers. */
#include "base/assert.h"
#include "base/wire.h"
#include "base/wire_impl.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* after the four headers that it needs */
#include <cmocka.h>

#define GOLDEN "tests/golden/wire"

static void file_read(const char *name, const char *ext, struct buf *out)
{
	char path[512];
	FILE *f;
	int ch;

	snprintf(path, sizeof path, GOLDEN "/%s.%s", name, ext);
	f = fopen(path, "rb");
	if (!f)
		fail_msg("%s cannot be read: run from the top folder", path);
	buf_clear(out);
	while ((ch = fgetc(f)) != EOF)
		buf_u8(out, (uint8_t)ch);
	fclose(f);
}

static void expect_bytes(const char *name, const struct buf *got,
			 const struct buf *want)
{
	if (got->len != want->len || memcmp(got->data, want->data, got->len))
		fail_msg("%s: %zu bytes %.*s differ from the %zu of the golden file",
			 name, got->len, got->len < 2000 ? (int)got->len : 2000,
			 (const char *)got->data, want->len);
}

/* The side that sends this frame, by trying: a golden frame has one at least. */
static enum wire_side side_of(const struct buf *cbor)
{
	struct wire w;
	struct err e;

	if (wire_decode(&w, WIRE_CBOR, WIRE_CLIENT, cbor->data, cbor->len, NULL,
			&e) == ERR_NOT_FOUND)
		return WIRE_SERVER;
	return WIRE_CLIENT;
}

static void golden_one(const char *name)
{
	struct buf cbor = BUF_INIT, json = BUF_INIT, scratch = BUF_INIT;
	struct buf out = BUF_INIT;
	struct wire w;
	struct err e;
	enum wire_side side;

	file_read(name, "cbor", &cbor);
	file_read(name, "json", &json);
	assert_int_equal(json.data[json.len - 1], '\n');
	side = side_of(&cbor);

	if (wire_decode(&w, WIRE_CBOR, side, cbor.data, cbor.len, NULL, &e))
		fail_msg("%s.cbor: %s", name, e.msg);
	wire_encode(&w, WIRE_CBOR, &out);
	expect_bytes(name, &out, &cbor);
	buf_clear(&out);
	wire_encode(&w, WIRE_JSON, &out);
	buf_u8(&out, '\n');
	expect_bytes(name, &out, &json);

	if (wire_decode(&w, WIRE_JSON, side, json.data, json.len, &scratch, &e))
		fail_msg("%s.json: %s", name, e.msg);
	buf_clear(&out);
	wire_encode(&w, WIRE_CBOR, &out);
	expect_bytes(name, &out, &cbor);
	buf_clear(&out);
	wire_encode(&w, WIRE_JSON, &out);
	buf_u8(&out, '\n');
	expect_bytes(name, &out, &json);

	buf_release(&cbor);
	buf_release(&json);
	buf_release(&scratch);
	buf_release(&out);
}

/* For each NAME.json of the folder; returns how many there were. */
static unsigned for_golden(void (*call)(const char *name))
{
	struct dirent **names;
	int i, n = scandir(GOLDEN, &names, NULL, alphasort);
	unsigned count = 0;

	assert_true(n > 0);
	for (i = 0; i < n; i++) {
		char *dot = strrchr(names[i]->d_name, '.');

		if (dot && strcmp(dot, ".json") == 0) {
			*dot = 0;
			call(names[i]->d_name);
			count++;
		}
		free(names[i]);
	}
	free(names);
	return count;
}

static void golden_frames_are_equal_in_both_codecs(void **state)
{
	(void)state;
	assert_true(for_golden(golden_one) >= WIRE_FRAMES - 1);
}

/* Every cut and every changed byte either fails or gives a frame that survives
 * its own round trip with the very same bytes. */
static void damage_one(const char *name)
{
	struct buf cbor = BUF_INIT, out = BUF_INIT;
	size_t i, limit;
	enum wire_side side;
	struct wire w;
	struct err e;

	file_read(name, "cbor", &cbor);
	side = side_of(&cbor);
	limit = cbor.len < 400 ? cbor.len : 400;
	for (i = 0; i < limit; i++) {
		uint8_t keep = cbor.data[i];
		unsigned v;

		assert_int_equal(wire_decode(&w, WIRE_CBOR, side, cbor.data, i,
					     NULL, &e),
				 ERR_FORMAT);
		for (v = 0; v < 10; v++) {
			struct buf all = BUF_INIT;

			cbor.data[i] = (uint8_t)(v < 8 ? keep ^ 1u << v
						 : v < 9 ? 0 : UINT8_MAX);
			if (wire_decode(&w, WIRE_CBOR, side, cbor.data, cbor.len,
					NULL, &e))
				continue;
			buf_clear(&out);
			wire_encode(&w, WIRE_CBOR, &out);
			/* equal, but for fields that were skipped */
			assert_true(out.len <= cbor.len);
			if (out.len == cbor.len)
				assert_memory_equal(out.data, cbor.data, out.len);
			wire_encode(&w, WIRE_JSON, &all);
			buf_release(&all);
		}
		cbor.data[i] = keep;
	}
	buf_release(&cbor);
	buf_release(&out);
}

static void damaged_frames_fail_or_mean_themselves(void **state)
{
	(void)state;
	for_golden(damage_one);
}

/* ---- what is refused -------------------------------------------------------------- */

struct refusal {
	const char *input, *why; /* why: part of the message; NULL: accepted */
};

static size_t unhex(const char *hex, uint8_t *out)
{
	unsigned v;
	size_t n = 0;

	for (; *hex; hex++) {
		if (*hex == ' ')
			continue;
		assert_int_equal(sscanf(hex, "%2x", &v), 1);
		out[n++] = (uint8_t)v;
		hex++;
	}
	return n;
}

static void expect(int rv, const struct err *e, const struct refusal *r)
{
	if (!r->why) {
		if (rv)
			fail_msg("%s: refused: %s", r->input, e->msg);
		return;
	}
	if (!rv)
		fail_msg("%s: accepted", r->input);
	if (!strstr(e->msg, r->why))
		fail_msg("%s: refused by \"%s\", not by \"%s\"", r->input, e->msg,
			 r->why);
	assert_int_equal(rv, strstr(r->why, "unknown frame") ? ERR_NOT_FOUND
							     : ERR_FORMAT);
}

static void cbor_is_strict(void **state)
{
	static const struct refusal table[] = {
		{ "a2 00 11 01 05", NULL },			/* ping */
		{ "", "starts with t" },
		{ "a0", "starts with t" },
		{ "80", "starts with t" },
		{ "a1 01 05", "starts with t" },
		{ "a1 00 11", "id: missing" },
		{ "a1 00 19 0100", "t: out of range" },
		{ "a1 00 00", "unknown frame 0" },
		{ "a1 00 18 ff", "unknown frame 255" },
		{ "a1 00 02", "unknown frame 2" },		/* the server's */
		{ "a2 00 18 63 01 05", "unknown frame 99" },
		{ "a2 00 11 01 05 00", "after the frame" },
		{ "a2 00 11 01", "starts with t" },		/* count too high */
		{ "a2 00 11 01 18", "id" },
		{ "a3 00 11 01 1a 00010000", "field key" },		/* count too high */
		{ "b8 02 00 11 01 05", "starts with t" },	/* long count */
		{ "bf 00 11 01 05 ff", "starts with t" },	/* open length */
		{ "a2 18 00 11 01 05", "starts with t" },	/* long key */
		{ "a2 00 18 11 01 05", "t: out of range" },	/* long number */
		{ "a2 00 11 01 18 17", "id" },
		{ "a2 00 11 01 19 00ff", "id" },
		{ "a2 00 11 01 1a 0000ffff", "id" },
		{ "a2 00 11 01 1b 00000000ffffffff", "id" },
		{ "a2 00 11 01 1b 001fffffffffffff", NULL },	/* 2^53 - 1 */
		{ "a2 00 11 01 1b 0020000000000000", "id" },
		{ "a2 00 11 01 20", "id" },			/* -1 */
		{ "a2 00 11 01 f9 0000", "id" },		/* a float */
		{ "a2 00 11 01 c1 05", "id" },			/* a tag */
		{ "a2 00 11 01 f6", "id" },
		{ "a2 00 11 01 61 35", "id" },
		{ "a3 00 11 01 05 01 05", "field key" },	/* twice */
		{ "a3 00 11 09 05 01 05", "field key" },	/* descending */
		{ "a2 00 11 20 05", "field key" },
		{ "a3 00 11 01 05 61 78 05", "field key" },
		{ "a3 00 11 01 05 1b ffffffffffffffff 00", "field key" },
		/* unknown fields are skipped, yet well formed */
		{ "a3 00 11 01 05 18 63 05", NULL },
		{ "a3 00 11 01 05 18 63 f5", NULL },
		{ "a3 00 11 01 05 18 63 20", NULL },
		{ "a3 00 11 01 05 18 63 f7", "unknown field" },
		{ "a3 00 11 01 05 18 63 f8 20", "unknown field" },
		{ "a3 00 11 01 05 18 63 c0 05", "unknown field" },
		{ "a3 00 11 01 05 18 63 fb 0000000000000000", "unknown field" },
		{ "a3 00 11 01 05 18 63 63 616263", NULL },
		{ "a3 00 11 01 05 18 63 62 c3 28", "unknown field" }, /* UTF-8 */
		{ "a3 00 11 01 05 18 63 7f 61 61 ff", "unknown field" },
		{ "a3 00 11 01 05 18 63 a2 01 00 02 00", NULL },
		{ "a3 00 11 01 05 18 63 a2 02 00 01 00", "unknown field" },
		{ "a3 00 11 01 05 18 63 a2 01 00 01 00", "unknown field" },
		{ "a3 00 11 01 05 18 63 a2 61 62 00 62 61 61 00", NULL },
		{ "a3 00 11 01 05 18 63 a2 62 61 61 00 61 62 00", "unknown field" },
		{ "a3 00 11 01 05 18 63 9b 7fffffffffffffff", "unknown field" },
		{ "a3 00 11 01 05 18 63 bb 7fffffffffffffff", "unknown field" },
		{ "a3 00 11 01 05 18 63 5b 7fffffffffffffff", "unknown field" },
		{ "a3 00 11 01 05 18 63 81818181818180", NULL },   /* 8 levels */
		{ "a3 00 11 01 05 18 63 8181818181818180", "unknown field" },
		/* a field that this frame does not have is no matter */
		{ "a3 00 11 01 05 0c 18 63", NULL },
		{ "a3 00 0f 06 19 0400 18 63 80", NULL },	/* credit 1,024 */
		{ "a2 00 0f 06 19 0401", "window" },
		/* watch: ids */
		{ "a3 00 0d 01 05 18 24 80", NULL },
		{ "a3 00 0d 01 05 18 24 81 1b ffffffffffffffff", NULL },
		{ "a3 00 0d 01 05 18 24 81 20", "accounts" },
		{ "a3 00 0d 01 05 18 24 82 01", "accounts" },
		{ "a3 00 0d 01 05 18 24 01", "accounts" },
		/* presence, truth */
		{ "a2 00 0e 18 25 01", NULL },
		{ "a2 00 0e 18 25 02", "presence" },
		{ "a2 00 0e 18 25 f5", "presence" },
	};
	uint8_t bytes[256];
	struct wire w;
	struct err e;
	size_t i, n;

	(void)state;
	for (i = 0; i < sizeof table / sizeof table[0]; i++) {
		n = unhex(table[i].input, bytes);
		expect(wire_decode(&w, WIRE_CBOR, WIRE_CLIENT, bytes, n, NULL, &e),
		       &e, &table[i]);
	}
}

#define SEND "{\"t\":5,\"id\":1,\"seq\":2,\"after\":0,\"mid\":\"YHzq1mVBTK2c0y1vS1n3Xw\"," \
	     "\"seen\":0,\"class\":1,"
#define TO "\"to\":\"4f0c9a1be2d37715\""

static void json_is_strict(void **state)
{
	static const struct refusal table[] = {
		{ "{\"t\":17,\"id\":5}", NULL },
		{ " {\t\"id\" : 5 ,\r\n\"t\":17 } ", NULL },
		{ "{\"t\":17,\"\\u0069\\u0064\":5}", NULL },
		{ "", "object was expected" },
		{ "[]", "object was expected" },
		{ "{}", "starts with t" },
		{ "{\"t\":17,\"id\":5", "comma or }" },
		{ "{\"t\":17,\"id\":5,}", "name was expected" },
		{ "{\"t\":17 \"id\":5}", "comma or }" },
		{ "{\"t\" 17}", "colon" },
		{ "{\"t\":17,\"id\":5}x", "follows the object" },
		{ "{\"t\":17,\"id\":5}{}", "follows the object" },
		{ "{t:17,\"id\":5}", "name was expected" },
		{ "{'t':17,\"id\":5}", "name was expected" },
		{ "{\"t\":17,\"id\":5,\"id\":5}", "stands twice" },
		{ "{\"t\":17,\"id\":5,\"\\u0069d\":5}", "stands twice" },
		{ "{\"t\":17,\"id\":5,\"x\":1,\"y\":2,\"x\":1}", "stands twice" },
		{ "{\"t\":17,\"id\":5,\"x\":{\"a\":1,\"a\":1}}", "stands twice" },
		{ "{\"t\":17,\"id\":-5}", "id: JSON: an unsigned integer" },
		{ "{\"t\":17,\"id\":05}", "leading zero" },
		{ "{\"t\":17,\"id\":5.0}", "not an integer" },
		{ "{\"t\":17,\"id\":5e0}", "not an integer" },
		{ "{\"t\":17,\"id\":+5}", "unsigned integer" },
		{ "{\"t\":17,\"id\":\"5\"}", "unsigned integer" },
		{ "{\"t\":17,\"id\":null}", "unsigned integer" },
		{ "{\"t\":17,\"id\":9007199254740991}", NULL },
		{ "{\"t\":17,\"id\":9007199254740992}", "2^53" },
		{ "{\"t\":17,\"id\":99999999999999999999999}", "2^53" },
		{ "{\"t\":\"ping\",\"id\":5}", "t: JSON" },
		{ "{\"t\":99,\"id\":5}", "unknown frame 99" },
		{ "{\"t\":2}", "unknown frame 2" },
		{ "{\"t\":17}", "id: missing" },
		/* unknown members */
		{ "{\"t\":17,\"id\":5,\"x\":[true,false,null,{},[],\"\\n\"]}", NULL },
		{ "{\"t\":17,\"id\":5,\"x\":[1,]}", "unsigned integer" },
		{ "{\"t\":17,\"id\":5,\"x\":[1 2]}", "comma or ]" },
		{ "{\"t\":17,\"id\":5,\"x\":nul}", "true or false" },
		{ "{\"t\":17,\"id\":5,\"x\":[[[[[[[]]]]]]]}", NULL },
		{ "{\"t\":17,\"id\":5,\"x\":[[[[[[[[]]]]]]]]}", "too deep" },
		{ "{\"t\":17,\"id\":5,\"x\":\"\t\"}", "control character" },
		{ "{\"t\":17,\"id\":5,\"x\":\"\\x\"}", "escape" },
		{ "{\"t\":17,\"id\":5,\"x\":\"\\u12g4\"}", "escape" },
		{ "{\"t\":17,\"id\":5,\"x\":\"\\ud800\"}", "surrogate" },
		{ "{\"t\":17,\"id\":5,\"x\":\"\\udc00\"}", "surrogate" },
		{ "{\"t\":17,\"id\":5,\"x\":\"\\ud83d\\ud83d\"}", "surrogate" },
		{ "{\"t\":17,\"id\":5,\"x\":\"\\ud83d\\ude00\\u0000\"}", NULL },
		{ "{\"t\":17,\"id\":5,\"x\":\"\xc3\x28\"}", "UTF-8" },
		{ "{\"t\":17,\"id\":5,\"x\":\"\xed\xa0\x80\"}", "UTF-8" },
		{ "{\"t\":17,\"id\":5,\"x\":\"", "cut string" },
		{ "{\"t\":17,\"id\":5,\"x\":\"\\", "cut escape" },
		/* send: ids, bytes, keys */
		{ SEND TO "}", NULL },
		{ SEND "\"to\":\"4F0C9A1BE2D37715\"}", NULL },
		{ SEND "\"to\":\"4f0c9a1be2d3771\"}", "16 hex digits" },
		{ SEND "\"to\":\"4f0c9a1be2d377155\"}", "16 hex digits" },
		{ SEND "\"to\":5}", "16 hex digits" },
		{ SEND TO ",\"body\":\"\"}", NULL },
		{ SEND TO ",\"body\":\"AA\"}", NULL },
		{ SEND TO ",\"body\":\"A\"}", "base64url" },
		{ SEND TO ",\"body\":\"AB\"}", "base64url" },	/* left-over bits */
		{ SEND TO ",\"body\":\"AA==\"}", "base64url" },
		{ SEND TO ",\"body\":\"A+/A\"}", "base64url" },
		{ SEND TO ",\"body\":\"AA\\n\"}", "base64url" },
		{ SEND TO ",\"keys\":[]}", NULL },
		{ SEND TO ",\"keys\":{}}", "array was expected" },
		{ SEND TO ",\"keys\":[{\"kind\":1,\"device\":1,\"bytes\":\"\"}]}", NULL },
		{ SEND TO ",\"keys\":[{\"kind\":1,\"device\":1}]}", "keys" },
		{ SEND TO ",\"keys\":[{\"kind\":0,\"device\":1,\"bytes\":\"\"}]}", "keys" },
		{ SEND TO ",\"keys\":[{\"kind\":3,\"device\":1,\"bytes\":\"\"}]}", "keys" },
		{ SEND TO ",\"keys\":[{\"kind\":1,\"device\":4294967296,\"bytes\":\"\"}]}",
		  "keys" },
		{ SEND TO ",\"keys\":[{\"kind\":1,\"device\":1,\"bytes\":\"\",\"new\":1}]}",
		  NULL },
		{ SEND TO ",\"keys\":[{\"kind\":1,\"device\":1,\"bytes\":\"\",\"kind\":1}]}",
		  "stands twice" },
		{ SEND TO ",\"class\":1}", "stands twice" },
		{ "{\"t\":5,\"id\":1,\"seq\":2,\"after\":0,\"seen\":0,\"class\":8," TO
		  ",\"mid\":\"YHzq1mVBTK2c0y1vS1n3Xw\"}", "class" },
		{ "{\"t\":5,\"id\":1,\"seq\":2,\"after\":0,\"seen\":0,\"class\":1," TO
		  ",\"mid\":\"YHzq1mVBTK2c0y1vS1n3\"}", "mid" },
	};
	struct buf scratch = BUF_INIT;
	struct wire w;
	struct err e;
	size_t i, n;

	(void)state;
	for (i = 0; i < sizeof table / sizeof table[0]; i++) {
		n = strlen(table[i].input);
		expect(wire_decode(&w, WIRE_JSON, WIRE_CLIENT, table[i].input, n,
				   &scratch, &e),
		       &e, &table[i]);
	}
	buf_release(&scratch);
}

/* ---- limits, composites ----------------------------------------------------------- */

static void send_start(struct wire *w)
{
	static const uint8_t mid[16] = "0123456789abcde";

	wire_start(w, WIRE_SEND);
	wire_set(w, W_ID, 1);
	wire_set(w, W_SEQ, 7);
	wire_set(w, W_AFTER, 0);
	wire_put(w, W_MID, mid, sizeof mid);
	wire_set(w, W_TO, UINT64_MAX);
	wire_set(w, W_SEEN, WIRE_U_MAX);
	wire_set(w, W_CLASS, 1);
}

static int reread(struct wire *w, enum wire_side from, const struct wire *sent,
		  struct buf *bytes, struct err *e)
{
	buf_clear(bytes);
	wire_encode(sent, WIRE_CBOR, bytes);
	return wire_decode(w, WIRE_CBOR, from, bytes->data, bytes->len, NULL, e);
}

static void composites_hold_their_limits(void **state)
{
	static const struct {
		enum wire_field k;
		uint32_t n;
		bool ok;
	} table[] = {
		{ W_KEYS, 0, true },	{ W_KEYS, 8, true },
		{ W_KEYS, 9, false },	{ W_OWN, 9, false },
		{ W_ACCOUNTS, 200, true }, { W_ACCOUNTS, 201, false },
		{ W_FEATURES, 32, true }, { W_FEATURES, 33, false },
	};
	struct buf part = BUF_INIT, bytes = BUF_INIT;
	struct wire w, in;
	struct err e;
	size_t i;
	uint32_t j;

	(void)state;
	for (i = 0; i < sizeof table / sizeof table[0]; i++) {
		enum wire_field k = table[i].k;
		int rv;

		buf_clear(&part);
		wire_make_array(&part, table[i].n);
		for (j = 0; j < table[i].n; j++) {
			struct wire_key key = { j, 1, { NULL, 0 } };

			if (k == W_ACCOUNTS)
				wire_make_id(&part, j * 0x0101010101010101ull);
			else if (k == W_FEATURES)
				wire_make_word(&part, "word");
			else
				wire_make_key(&part, &key);
		}
		if (k == W_ACCOUNTS) {
			wire_start(&w, WIRE_WATCH);
			wire_set(&w, W_ID, 1);
		} else if (k == W_FEATURES) {
			wire_start(&w, WIRE_HELLO);
			wire_set(&w, W_ID, 1);
			wire_puts(&w, W_TOKEN, "a.b.c");
			wire_puts(&w, W_AGENT, "test");
			wire_set(&w, W_WINDOW, 1);
		} else {
			send_start(&w);
		}
		wire_put(&w, k, part.data, part.len);
		rv = reread(&in, WIRE_CLIENT, &w, &bytes, &e);
		assert_int_equal(rv, table[i].ok ? 0 : ERR_FORMAT);
		if (rv)
			assert_non_null(strstr(e.msg, wire_field_name(k)));
	}
	buf_release(&part);
	buf_release(&bytes);
}

/* Texts and bytes one over their limit; the maker would be stopped by an assert,
 * so these bytes are made by hand. */
static void strings_hold_their_limits(void **state)
{
	static const struct {
		enum wire_frame t;
		enum wire_field k;
		enum cbor_major major;
		size_t max;
	} table[] = {
		{ WIRE_AUTH, W_TOKEN, CBOR_TEXT, 2048 },
		{ WIRE_HELLO, W_AGENT, CBOR_TEXT, 64 },
		{ WIRE_SEND, W_BODY, CBOR_BYTES, 61440 },
		{ WIRE_SIGNAL, W_KIND, CBOR_TEXT, 32 },
	};
	struct buf b = BUF_INIT, text = BUF_INIT;
	struct wire w;
	struct err e;
	size_t i, over;

	(void)state;
	memset(buf_extend(&text, 61441), 'x', 61441);
	for (i = 0; i < sizeof table / sizeof table[0]; i++)
		for (over = 0; over <= 1; over++) {
			buf_clear(&b);
			cbor_put_head(&b, CBOR_MAP, 2);
			cbor_put_head(&b, CBOR_UINT, 0);
			cbor_put_head(&b, CBOR_UINT, table[i].t);
			cbor_put_head(&b, CBOR_UINT, table[i].k);
			cbor_put_bytes(&b, table[i].major, text.data,
				       table[i].max + over);
			assert_int_equal(wire_decode(&w, WIRE_CBOR, WIRE_CLIENT,
						     b.data, b.len, NULL, &e),
					 ERR_FORMAT);
			if (over)
				assert_non_null(strstr(e.msg, "out of range"));
			else
				assert_non_null(strstr(e.msg, ": missing"));
		}
	buf_release(&b);
	buf_release(&text);
}

static void iterators_give_what_makers_made(void **state)
{
	static const uint8_t bytes[WIRE_KEY_BYTES_MAX] = { 1, 2, 3 };
	struct wire_key keys[] = { { 1, 1, { bytes, 3 } },
				   { UINT32_MAX, 2, { bytes, sizeof bytes } },
				   { 0, 2, { NULL, 0 } } };
	struct buf part = BUF_INIT, json = BUF_INIT, scratch = BUF_INIT;
	struct wire w, in;
	struct wire_key key;
	struct wire_iter it;
	struct err e;
	unsigned i;

	(void)state;
	wire_make_array(&part, 3);
	for (i = 0; i < 3; i++)
		wire_make_key(&part, &keys[i]);
	send_start(&w);
	wire_put(&w, W_KEYS, part.data, part.len);
	wire_encode(&w, WIRE_JSON, &json);
	AZ(wire_decode(&in, WIRE_JSON, WIRE_CLIENT, json.data, json.len, &scratch,
		       &e));
	assert_true(wire_u(&in, W_TO) == UINT64_MAX);
	assert_true(wire_u(&in, W_SEEN) == WIRE_U_MAX);
	wire_iter_init(&it, &in, W_KEYS);
	for (i = 0; wire_iter_key(&it, &key); i++) {
		assert_true(i < 3);
		assert_int_equal(key.device, keys[i].device);
		assert_int_equal(key.kind, keys[i].kind);
		assert_int_equal(key.bytes.n, keys[i].bytes.n);
		if (key.bytes.n)
			assert_memory_equal(key.bytes.p, keys[i].bytes.p,
					    key.bytes.n);
	}
	assert_int_equal(i, 3);
	wire_iter_init(&it, &in, W_OWN); /* absent: nothing */
	assert_false(wire_iter_key(&it, &key));
	buf_release(&part);
	buf_release(&json);
	buf_release(&scratch);
}

static void items_are_deliver_frames(void **state)
{
	struct buf part = BUF_INIT, bytes = BUF_INIT;
	struct wire w, item, in;
	struct wire_iter it;
	struct err e;
	unsigned i;

	(void)state;
	wire_make_array(&part, 2);
	wire_start(&item, WIRE_DELIVER);
	wire_set(&item, W_N, 5);
	wire_set(&item, W_FLAGS, 16);
	wire_make_item(&part, &item);
	for (i = 0; i < 2; i++) { /* the second: 6, not gone, the rest is missing */
		wire_set(&item, W_N, 6);
		wire_set(&item, W_FLAGS, i ? 0 : 16 | 1);
		wire_fields_put(&item, &part, false);
		wire_start(&w, WIRE_PAGE);
		wire_set(&w, W_ID, 1);
		wire_put(&w, W_ITEMS, part.data, part.len);
		wire_set(&w, W_NEXT, 7);
		wire_set(&w, W_COMPLETE, 1);
		assert_int_equal(reread(&in, WIRE_SERVER, &w, &bytes, &e),
				 i ? ERR_FORMAT : 0);
		if (i) {
			assert_non_null(strstr(e.msg, "items: seq: missing"));
			break;
		}
		wire_iter_init(&it, &in, W_ITEMS);
		assert_true(wire_iter_item(&it, &item));
		assert_true(wire_u(&item, W_N) == 5 && item.u[W_T] == WIRE_DELIVER);
		assert_false(wire_has(&item, W_T));
		assert_true(wire_iter_item(&it, &item));
		assert_true(wire_u(&item, W_N) == 6);
		assert_false(wire_iter_item(&it, &item));
		part.len = 0;
		wire_make_array(&part, 1);
	}
	buf_release(&part);
	buf_release(&bytes);
}

static void problems_are_rfc_9457(void **state)
{
	struct wire_problem p = { "seq-conflict", "Another message", NULL,
				  "r-17", "unknown", 409 };
	struct buf part = BUF_INIT, bytes = BUF_INIT;
	struct wire w, in;
	struct wire_bytes text;
	unsigned status;
	char name[32];
	struct err e;

	(void)state;
	wire_make_problem(&part, &p);
	wire_start(&w, WIRE_ERROR);
	wire_put(&w, W_PROBLEM, part.data, part.len);
	AZ(reread(&in, WIRE_SERVER, &w, &bytes, &e));
	wire_problem_name(&in, name, sizeof name, &status);
	assert_string_equal(name, "seq-conflict");
	assert_int_equal(status, 409);
	text = wire_problem_member(&in, "outcome");
	assert_int_equal(text.n, 7);
	assert_memory_equal(text.p, "unknown", 7);
	assert_int_equal(wire_problem_member(&in, "detail").n, 0);
	assert_int_equal(wire_problem_member(&in, "status").n, 0); /* no text */
	wire_problem_name(&in, name, 4, NULL);
	assert_string_equal(name, "seq");

	buf_clear(&bytes);
	wire_encode(&w, WIRE_JSON, &bytes);
	buf_u8(&bytes, 0);
	assert_string_equal((char *)bytes.data,
			    "{\"t\":19,\"problem\":{"
			    "\"type\":\"/problems/seq-conflict\","
			    "\"title\":\"Another message\",\"status\":409,"
			    "\"outcome\":\"unknown\",\"instance\":\"r-17\"}}");

	/* a foreign one */
	part.len = 0;
	cbor_put_head(&part, CBOR_MAP, 0);
	wire_put(&w, W_PROBLEM, part.data, part.len);
	AZ(reread(&in, WIRE_SERVER, &w, &bytes, &e));
	wire_problem_name(&in, name, sizeof name, &status);
	assert_string_equal(name, "internal");
	assert_int_equal(status, 0);

	/* one that would paint the terminal of whoever reads it */
	part.len = 0;
	p.type = "gap\x1b[2J";
	wire_make_problem(&part, &p);
	wire_put(&w, W_PROBLEM, part.data, part.len);
	AZ(reread(&in, WIRE_SERVER, &w, &bytes, &e));
	wire_problem_name(&in, name, sizeof name, &status);
	assert_string_equal(name, "internal");
	assert_int_equal(status, 409);
	buf_release(&part);
	buf_release(&bytes);
}

static void limits_are_sorted_by_their_encoding(void **state)
{
	struct wire_limit l[] = { { "sends", 32 }, { "window", 1024 },
				  { "body", 61440 }, { "frame", 131072 } };
	static const char want[] = "\xa4\x64" "body" "\x19\xf0\x00\x65" "frame"
				   "\x1a\x00\x02\x00\x00\x65" "sends" "\x18\x20\x66"
				   "window" "\x19\x04\x00";
	struct buf part = BUF_INIT;

	(void)state;
	wire_make_limits(&part, l, 4);
	assert_int_equal(part.len, sizeof want - 1);
	assert_memory_equal(part.data, want, part.len);
	buf_release(&part);
}

static void unknown_frames_keep_their_id(void **state)
{
	static const uint8_t in[] = { 0xa3, 0, 0x18, 99, 1, 5, 7, 0x61, 'x' };
	static const char json[] = "{\"id\":5,\"t\":99,\"seq\":7}";
	struct buf scratch = BUF_INIT;
	struct wire w;
	struct err e;

	(void)state;
	assert_int_equal(wire_decode(&w, WIRE_CBOR, WIRE_CLIENT, in, sizeof in,
				     NULL, &e),
			 ERR_NOT_FOUND);
	assert_true(wire_u(&w, W_T) == 99 && wire_u(&w, W_ID) == 5);
	assert_false(wire_has(&w, W_SEQ));
	assert_int_equal(wire_decode(&w, WIRE_JSON, WIRE_CLIENT, json,
				     sizeof json - 1, &scratch, &e),
			 ERR_NOT_FOUND);
	assert_true(wire_u(&w, W_T) == 99 && wire_u(&w, W_ID) == 5);
	assert_null(wire_frame_name(99));
	assert_string_equal(wire_frame_name(WIRE_CAUGHT_UP), "caught_up");
	buf_release(&scratch);
}

static void the_largest_deliver_fits_its_bound(void **state)
{
	static const uint8_t bytes[61440];
	struct wire_key key = { UINT32_MAX, 2, { bytes, WIRE_KEY_BYTES_MAX } };
	char kind[33];
	struct buf part = BUF_INIT, out = BUF_INIT;
	struct wire w;
	unsigned k;

	(void)state;
	wire_start(&w, WIRE_DELIVER);
	for (k = 1; k < WIRE_FIELDS; k++)
		if ((wire_frames[WIRE_DELIVER].needed |
		     wire_frames[WIRE_DELIVER].optional) & BIT(k))
			wire_set(&w, (enum wire_field)k,
				 wire_fields[k].max ? wire_fields[k].max
						    : UINT64_MAX);
	memset(kind, 1, sizeof kind);
	wire_put(&w, W_KIND, kind, 32);
	wire_put(&w, W_MID, bytes, 16);
	wire_put(&w, W_BODY, bytes, sizeof bytes);
	wire_make_key(&part, &key);
	wire_put(&w, W_KEY, part.data, part.len);
	wire_encode(&w, WIRE_JSON, &out);
	assert_true(out.len <= wire_deliver_max(sizeof bytes, WIRE_KEY_BYTES_MAX));
	buf_clear(&out);
	wire_encode(&w, WIRE_CBOR, &out);
	assert_true(out.len <= wire_deliver_max(sizeof bytes, WIRE_KEY_BYTES_MAX));
	buf_release(&part);
	buf_release(&out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(golden_frames_are_equal_in_both_codecs),
		cmocka_unit_test(damaged_frames_fail_or_mean_themselves),
		cmocka_unit_test(cbor_is_strict),
		cmocka_unit_test(json_is_strict),
		cmocka_unit_test(composites_hold_their_limits),
		cmocka_unit_test(strings_hold_their_limits),
		cmocka_unit_test(iterators_give_what_makers_made),
		cmocka_unit_test(items_are_deliver_frames),
		cmocka_unit_test(problems_are_rfc_9457),
		cmocka_unit_test(limits_are_sorted_by_their_encoding),
		cmocka_unit_test(unknown_frames_keep_their_id),
		cmocka_unit_test(the_largest_deliver_fits_its_bound),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
