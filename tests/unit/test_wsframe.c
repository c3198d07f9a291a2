/* RFC 6455 frames in every split, what is refused with which close code; and the
 * small codecs beneath: base64url, UTF-8. */
#include "base/assert.h"
#include "base/base64.h"
#include "base/rand.h"
#include "base/utf8.h"
#include "base/wsframe.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* after the four headers that it needs */
#include <cmocka.h>

static const uint8_t mask[4] = { 0x37, 0xfa, 0x21, 0x3d };

/* The example of RFC 6455 1.3. */
static void accept_is_the_rfcs(void **state)
{
	char out[29];

	(void)state;
	ws_accept("dGhlIHNhbXBsZSBub25jZQ==", 24, out);
	assert_string_equal(out, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

/* The bytes of RFC 6455 5.7. */
static void frames_are_the_rfcs(void **state)
{
	static const uint8_t hello[] = { 0x81, 0x05, 'H', 'e', 'l', 'l', 'o' };
	static const uint8_t masked[] = { 0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d,
					  0x7f, 0x9f, 0x4d, 0x51, 0x58 };
	struct buf b = BUF_INIT;

	(void)state;
	ws_frame(&b, WS_TEXT, "Hello", 5, NULL);
	assert_int_equal(b.len, sizeof hello);
	assert_memory_equal(b.data, hello, b.len);
	buf_clear(&b);
	ws_frame(&b, WS_TEXT, "Hello", 5, mask);
	assert_int_equal(b.len, sizeof masked);
	assert_memory_equal(b.data, masked, b.len);
	buf_release(&b);
}

/* A whole frame in the input is given out where it lies. */
static void whole_frames_are_not_copied(void **state)
{
	struct buf in = BUF_INIT;
	struct ws_reader r;
	struct ws_message m;
	const char *why;
	unsigned code;
	uint8_t *p;
	size_t n;

	(void)state;
	ws_frame(&in, WS_BINARY, "first", 5, mask);
	ws_frame(&in, WS_BINARY, "second", 6, mask);
	p = in.data;
	n = in.len;
	ws_reader_init(&r, true, 100);
	assert_int_equal(ws_read(&r, &p, &n, &m, &code, &why), 1);
	assert_ptr_equal(m.p, in.data + 6);
	assert_memory_equal(m.p, "first", 5);
	assert_int_equal(ws_read(&r, &p, &n, &m, &code, &why), 1);
	assert_ptr_equal(m.p, in.data + 11 + 6);
	assert_memory_equal(m.p, "second", 6);
	assert_int_equal(ws_read(&r, &p, &n, &m, &code, &why), 0);
	assert_null(r.part.data);
	ws_reader_release(&r);
	buf_release(&in);
}

struct got {
	unsigned n;
	struct ws_message last;
	struct buf log; /* op, length, bytes of each message */
	unsigned code;
	const char *why;
};

/* Feed in pieces of at most `piece` bytes, each an allocation of its own. */
static int feed(struct ws_reader *r, const uint8_t *in, size_t n, size_t piece,
		struct got *g)
{
	size_t at, take;
	int rv = 0;

	g->n = 0;
	g->why = NULL;
	buf_clear(&g->log);
	for (at = 0; at < n && rv >= 0; at += take) {
		uint8_t *copy, *p;
		size_t left;

		take = n - at < piece ? n - at : piece;
		p = copy = malloc(take);
		assert_non_null(copy);
		memcpy(copy, in + at, take);
		left = take;
		while ((rv = ws_read(r, &p, &left, &g->last, &g->code,
				     &g->why)) > 0) {
			g->n++;
			buf_u8(&g->log, (uint8_t)g->last.op);
			buf_u32(&g->log, g->last.code);
			buf_lv(&g->log, g->last.p, g->last.n);
		}
		if (rv == 0) {
			assert_int_equal(left, 0);
			assert_ptr_equal(p, copy + take);
		}
		free(copy);
	}
	return rv;
}

static void every_split_gives_the_same_messages(void **state)
{
	static const size_t sizes[] = { 0, 1, 7, 8, 9, 125, 126, 127, 65535, 65536,
					70001 };
	struct buf in = BUF_INIT, want = BUF_INIT;
	struct got g = { .log = BUF_INIT };
	struct ws_reader r;
	uint8_t *bytes;
	size_t i, piece;
	int side;

	(void)state;
	bytes = malloc(70001);
	assert_non_null(bytes);
	for (i = 0; i < 70001; i++)
		bytes[i] = (uint8_t)(i * 7 + i / 251);
	for (side = 0; side < 2; side++) {
		const uint8_t *m = side ? mask : NULL;

		buf_clear(&in);
		buf_clear(&want);
		for (i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
			ws_frame(&in, WS_BINARY, bytes, sizes[i], m);
			buf_u8(&want, WS_BINARY);
			buf_u32(&want, 0);
			buf_lv(&want, bytes, sizes[i]);
		}
		ws_frame(&in, WS_PING, "hi", 2, m);
		ws_close_frame(&in, 4401, "token", m);
		buf_puts(&in, "what follows a close frame is not read");
		buf_u8(&want, WS_PING);
		buf_u32(&want, 0);
		buf_lv(&want, "hi", 2);
		buf_u8(&want, WS_CLOSE);
		buf_u32(&want, 4401);
		buf_lv(&want, "token", 5);
		for (piece = 1; piece <= in.len; piece = piece * 2 + 1) {
			ws_reader_init(&r, side, 70001);
			AZ(feed(&r, in.data, in.len, piece, &g));
			assert_int_equal(g.log.len, want.len);
			assert_memory_equal(g.log.data, want.data, want.len);
			assert_null(r.part.data); /* idle: owns nothing */
			assert_null(r.message.data);
			ws_reader_release(&r);
		}
	}
	free(bytes);
	buf_release(&in);
	buf_release(&want);
	buf_release(&g.log);
}

/* begin and end write what frame writes, at the sizes where the header changes. */
static void payloads_written_in_place_are_the_same(void **state)
{
	static const size_t sizes[] = { 0, 1, 125, 126, 65535, 65536, 100000 };
	struct buf a = BUF_INIT, b = BUF_INIT;
	uint8_t *bytes = calloc(1, 100000);
	size_t i, at;

	(void)state;
	assert_non_null(bytes);
	for (i = 0; i < 100000; i++)
		bytes[i] = (uint8_t)(i * 13);
	for (i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		ws_frame(&a, WS_TEXT, bytes, sizes[i], NULL);
		at = ws_begin(&b);
		buf_put(&b, bytes, sizes[i]);
		ws_end(&b, at, WS_TEXT);
	}
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.data, b.data, a.len);
	free(bytes);
	buf_release(&a);
	buf_release(&b);
}

static void fragments_are_joined_around_control_frames(void **state)
{
	/* "é€" cut inside both characters, a ping between */
	static const uint8_t in[] = { 0x01, 0x01, 0xc3, 0x89, 0x00, 0x00, 0x02,
				      0xa9, 0xe2, 0x80, 0x02, 0x82, 0xac };
	struct got g = { .log = BUF_INIT };
	struct ws_reader r;
	size_t piece;

	(void)state;
	for (piece = 1; piece <= sizeof in; piece++) {
		ws_reader_init(&r, false, 5);
		AZ(feed(&r, in, sizeof in, piece, &g));
		assert_int_equal(g.n, 2);
		assert_int_equal(g.log.data[0], WS_PING);
		assert_int_equal(g.log.data[6], WS_TEXT);
		assert_memory_equal(g.log.data + 12, "\xc3\xa9\xe2\x82\xac", 5);
		assert_null(r.message.data);
		ws_reader_release(&r);
	}
	buf_release(&g.log);
}

struct refused {
	const char *bytes; /* from a server, not masked; in hex */
	unsigned code;	   /* 0: no error */
};

static void wrong_frames_are_refused_by_their_code(void **state)
{
	static const struct refused table[] = {
		{ "8200", 0 },
		{ "c200", 1002 }, { "a200", 1002 }, { "9200", 1002 }, /* RSV */
		{ "8300", 1002 }, { "8700", 1002 }, { "8b00", 1002 }, /* opcodes */
		{ "8f00", 1002 },
		{ "828000000000", 1002 },			/* masked */
		{ "8000", 1002 }, { "0000", 1002 },		/* nothing open */
		{ "0200 8200", 1002 }, { "0200 8100", 1002 },	/* one inside */
		{ "0200 8000", 0 }, { "0200 0000 8900 8000", 0 },
		{ "0900", 1002 }, { "0800", 1002 },		/* fragmented */
		{ "897e007e", 1002 }, { "8a7f", 1002 },		/* control > 125 */
		{ "827e007d", 1002 }, { "827e007e", 0 },	/* shortest form */
		{ "827f000000000000ffff", 1002 },
		{ "827f8000000000000000", 1002 },
		{ "827e03e8", 0 }, { "827e03e9", 1009 },	/* cap 1000 */
		{ "827f0000000000010000", 1009 },
		{ "827f7fffffffffffffff", 1009 },
		{ "027e03e7", 0 },
		{ "0201aa 807e03e7", 0 }, { "0201aa 807e03e8", 1009 },
		{ "8102c3a9", 0 }, { "8102c328", 1007 }, { "8101c3", 1007 },
		{ "0101c3 8000", 1007 }, { "0101c3 800128", 1007 },
		{ "0101c3 8001a9", 0 }, { "8202c328", 0 },
		{ "8103eda080", 1007 },
		{ "8800", 0 }, { "880103", 1002 },		/* close */
		{ "880203e8", 0 }, { "880203e7", 1002 }, { "880203ec", 1002 },
		{ "880203ed", 1002 }, { "880203ee", 1002 }, { "880203f7", 1002 },
		{ "880203f6", 0 }, { "88020bb7", 1002 }, { "88020bb8", 0 },
		{ "88021387", 0 }, { "88021388", 1002 },
		{ "880403e8c3a9", 0 }, { "880403e8c328", 1007 },
		{ "8800 ffff", 0 },				/* after it */
	};
	struct got g = { .log = BUF_INIT };
	struct ws_reader r;
	uint8_t bytes[64];
	size_t i, n, piece;

	(void)state;
	for (i = 0; i < sizeof table / sizeof table[0]; i++) {
		const char *hex = table[i].bytes;
		unsigned v;

		for (n = 0; *hex; hex += *hex == ' ' ? 1 : 2)
			if (*hex != ' ') {
				assert_int_equal(sscanf(hex, "%2x", &v), 1);
				bytes[n++] = (uint8_t)v;
			}
		for (piece = 1; piece <= n; piece++) {
			int rv;

			ws_reader_init(&r, false, 1000);
			g.code = 0;
			rv = feed(&r, bytes, n, piece, &g);
			if (rv != (table[i].code ? -1 : 0) ||
			    g.code != table[i].code)
				fail_msg("%s by %zu: %d, code %u, not %u",
					 table[i].bytes, piece, rv, g.code,
					 table[i].code);
			ws_reader_release(&r);
		}
	}
	buf_release(&g.log);
}

static void a_server_wants_masks(void **state)
{
	static const uint8_t in[] = { 0x82, 0x00 };
	struct got g = { .log = BUF_INIT };
	struct ws_reader r;

	(void)state;
	ws_reader_init(&r, true, 1000);
	assert_int_equal(feed(&r, in, 2, 2, &g), -1);
	assert_int_equal(g.code, 1002);
	assert_string_equal(g.why, "frame without mask");
	/* and says so once */
	assert_int_equal(feed(&r, in, 2, 2, &g), 0);
	ws_reader_release(&r);
	buf_release(&g.log);
}

/* A peer that announces much and sends little costs what it sent. */
static void announced_lengths_reserve_nothing(void **state)
{
	static const uint8_t in[] = { 0x82, 0xff, 0, 0, 0, 0, 0, 0x0f, 0, 0,
				      1,    2,	  3, 4, 9 };
	struct got g = { .log = BUF_INIT };
	struct ws_reader r;

	(void)state;
	ws_reader_init(&r, true, 16 << 20);
	AZ(feed(&r, in, sizeof in, sizeof in, &g));
	assert_true(r.part.cap <= 64);
	ws_reader_release(&r);
	buf_release(&g.log);
}

static void close_reasons_are_cut_between_characters(void **state)
{
	struct buf b = BUF_INIT;
	char reason[200];
	unsigned i;

	(void)state;
	for (i = 0; i < 198; i += 3)
		memcpy(reason + i, "\xe2\x82\xac", 4);
	ws_close_frame(&b, 1000, reason, NULL);
	assert_int_equal(b.data[1], 2 + 123); /* 41 whole ones */
	assert_true(utf8_valid(b.data + 4, b.len - 4));
	buf_clear(&b);
	ws_close_frame(&b, 1000, reason + 1, NULL); /* broken at once: none */
	assert_int_equal(b.data[1], 2);
	buf_clear(&b);
	ws_close_frame(&b, 1005, "x", NULL);
	assert_int_equal(b.len, 2);
	buf_release(&b);
}

/* ---- base64, UTF-8 ------------------------------------------------------------------ */

static void base64_is_strict(void **state)
{
	/* RFC 4648 10, without padding */
	static const char *const vectors[] = { "", "Zg", "Zm8", "Zm9v", "Zm9vYg",
					       "Zm9vYmE", "Zm9vYmFy" };
	static const char *const refused[] = {
		"A", "AAAAA", "AB", "AAB", "Zg==", "Zh", "Zm9=", "Zm 9", "Zm9\n",
		"+AAA", "/AAA", "AA.A", "A{AA", "AA\x80" "A", "@AAA", "AA[A", "AA`A",
	};
	struct buf b = BUF_INIT, text = BUF_INIT;
	struct rand rnd;
	size_t i, n;

	(void)state;
	for (n = 0; n <= 6; n++) {
		buf_clear(&text);
		base64url_put(&text, "foobar", n);
		assert_int_equal(text.len, strlen(vectors[n]));
		assert_memory_equal(text.data, vectors[n], text.len);
	}
	for (i = 0; i < sizeof refused / sizeof refused[0]; i++) {
		buf_clear(&b);
		buf_puts(&b, "kept");
		if (base64url_get(&b, refused[i], strlen(refused[i])))
			fail_msg("%s was accepted", refused[i]);
		assert_int_equal(b.len, 4);
	}
	rand_seeded(&rnd, 11);
	for (i = 0; i < 2000; i++) {
		uint8_t in[100];

		n = rand_below(&rnd, sizeof in);
		rand_fill(&rnd, in, n);
		buf_clear(&text);
		buf_clear(&b);
		base64url_put(&text, in, n);
		assert_true(base64url_get(&b, (char *)text.data, text.len));
		assert_int_equal(b.len, n);
		if (n)
			assert_memory_equal(b.data, in, n);
	}
	buf_clear(&text);
	base64_put(&text, "\xfb\xff", 2);
	buf_u8(&text, 0);
	assert_string_equal((char *)text.data, "+/8=");
	buf_release(&b);
	buf_release(&text);
}

/* Every code point by the definition of RFC 3629, whole and in two feeds; and every
 * sequence of two bytes. */
static void utf8_agrees_with_its_definition(void **state)
{
	uint32_t u;
	unsigned n, cut;

	(void)state;
	for (u = 0; u < 0x120000; u += u < 0x10100 ? 1 : 61) {
		bool ok = u <= 0x10ffff && (u < 0xd800 || u > 0xdfff);
		uint8_t s[4];

		n = u < 0x80 ? 1 : u < 0x800 ? 2 : u < 0x10000 ? 3 : 4;
		for (cut = n; cut-- > 1;)
			s[cut] = (uint8_t)(0x80 | (u >> 6 * (n - 1 - cut) & 63));
		s[0] = (uint8_t)(n == 1 ? u : (0xf00u >> n & 0xff) | u >> 6 * (n - 1));
		assert_int_equal(utf8_valid(s, n), ok);
		for (cut = 0; cut < n; cut++) {
			struct utf8 st = { 0, 0, 0 };

			assert_int_equal(utf8_feed(&st, s, cut) &&
						 utf8_feed(&st, s + cut, n - cut) &&
						 !st.need,
					 ok);
			if (cut)
				assert_false(utf8_valid(s, cut));
		}
	}
	for (u = 0; u < 0x10000; u++) {
		uint8_t s[2] = { (uint8_t)(u >> 8), (uint8_t)u };
		bool two = s[0] >= 0xc2 && s[0] <= 0xdf && (s[1] & 0xc0) == 0x80;

		assert_int_equal(utf8_valid(s, 2),
				 two || (s[0] < 0x80 && s[1] < 0x80));
	}
	/* overlong forms */
	assert_false(utf8_valid("\xe0\x9f\xbf", 3));
	assert_false(utf8_valid("\xf0\x8f\xbf\xbf", 4));
	/* in the middle of a run of eight */
	assert_false(utf8_valid("aaaaaaaaaaa\xff" "aaaaaaaaaaaaaaa", 27));
	assert_true(utf8_valid("aaaaaaaaaaa\xc3\xa9" "aaaaaaaaaaaaaaa", 28));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(accept_is_the_rfcs),
		cmocka_unit_test(frames_are_the_rfcs),
		cmocka_unit_test(whole_frames_are_not_copied),
		cmocka_unit_test(every_split_gives_the_same_messages),
		cmocka_unit_test(payloads_written_in_place_are_the_same),
		cmocka_unit_test(fragments_are_joined_around_control_frames),
		cmocka_unit_test(wrong_frames_are_refused_by_their_code),
		cmocka_unit_test(a_server_wants_masks),
		cmocka_unit_test(announced_lengths_reserve_nothing),
		cmocka_unit_test(close_reasons_are_cut_between_characters),
		cmocka_unit_test(base64_is_strict),
		cmocka_unit_test(utf8_agrees_with_its_definition),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
