/* Request heads that the HTTP library lets pass and we do not. */
#include "gateway/head.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* after the four headers that it needs */
#include <cmocka.h>

struct field {
	const char *name, *value;
};

static const char *check(const char *method, const char *version,
			 const char *target, const struct field *f, size_t n)
{
	struct head h;
	size_t i;

	head_begin(&h, method, version, target, strlen(target));
	for (i = 0; i < n; i++)
		head_field(&h, f[i].name, strlen(f[i].name), f[i].value,
			   strlen(f[i].value));
	return head_end(&h);
}

static const struct field host[] = { { "Host", "localhost:8080" } };

static const char *target(const char *t)
{
	return check("GET", "HTTP/1.1", t, host, 1);
}

static const char *fields(const struct field *f, size_t n)
{
	return check("GET", "HTTP/1.1", "/livez", f, n);
}
#define FIELDS(...)                                                            \
	fields((const struct field[]){ __VA_ARGS__ },                          \
	       sizeof((const struct field[]){ __VA_ARGS__ }) /                 \
		       sizeof(struct field))
#define H { "Host", "localhost" }

static void good_heads_pass(void **state)
{
	(void)state;
	assert_null(target("/"));
	assert_null(target("/v1/sync?cursor=10&limit=100"));
	assert_null(target("/v1/messages/4f0c9a1be2d37715"));
	assert_null(target("/a.b/..c/c../...?x=../.."));
	assert_null(target("/%41%7e"));
	assert_null(target("/v1/sync?cursor=1%2B1"));
	assert_null(FIELDS(H, { "Accept", "*/*" }, { "Accept", "text/html" }));
	assert_null(FIELDS(H, { "Content-Length", "12" }));
	assert_null(FIELDS({ "hOST", "[::1]:80" }, { "X-Tab", "a\tb" }));
	assert_null(FIELDS(H, { "Transfer-Encoding", "Chunked" }));
	assert_null(check("GET", "HTTP/1.0", "/", NULL, 0));
}

static void targets_that_could_mean_two_paths_are_refused(void **state)
{
	static const char *const bad[] = {
		"", "*", "livez", "http://other/livez", "//..", "/.", "/..",
		"/./livez", "/../livez", "/a/./b", "/a/../b", "/a/..", "/a/..?x",
		"/%2e%2e/livez", "/%2E/livez", "/a/.%2e/b", "/a%2fb", "/a%5Cb",
		"/a%00b", "/a%0d%0ab", "/a%7f", "/%", "/%4", "/%zz", "/a b",
		"/a\\b", "/a<b", "/a\"b", "/a#b", "/a{b", "/a|b", "/a^b",
		"/a`b", "/caf\xc3\xa9", "/a\x01", "/a\x7f", "/x?a b", "/x?%00",
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof bad / sizeof bad[0]; i++)
		if (!target(bad[i]))
			fail_msg("target \"%s\" passed", bad[i]);
}

static void a_target_has_an_end(void **state)
{
	char t[HEAD_TARGET_MAX + 2];

	(void)state;
	memset(t, 'a', sizeof t);
	t[0] = '/';
	t[HEAD_TARGET_MAX] = 0;
	assert_null(target(t));
	t[HEAD_TARGET_MAX] = 'a';
	t[HEAD_TARGET_MAX + 1] = 0;
	assert_non_null(target(t));
}

static void a_nul_in_the_target_is_seen(void **state)
{
	struct head h;

	(void)state;
	head_begin(&h, "GET", "HTTP/1.1", "/livez\0x", 8);
	head_field(&h, "Host", 4, "a", 1);
	assert_non_null(head_end(&h));
}

static void methods_and_versions_are_known(void **state)
{
	(void)state;
	assert_null(check("PATCH", "HTTP/1.1", "/", host, 1));
	assert_non_null(check("", "HTTP/1.1", "/", host, 1));
	assert_non_null(check("G ET", "HTTP/1.1", "/", host, 1));
	assert_non_null(check("GET(", "HTTP/1.1", "/", host, 1));
	assert_non_null(check("ABCDEFGHIJKLMNOPQ", "HTTP/1.1", "/", host, 1));
	assert_non_null(check("GET", "HTTP/1.2", "/", host, 1));
	assert_non_null(check("GET", "HTTP/2.0", "/", host, 1));
	assert_non_null(check("GET", "HTTP/0.9", "/", host, 1));
	assert_non_null(check("GET", "http/1.1", "/", host, 1));
	assert_non_null(check("GET", "HTTP/1.1 ", "/", host, 1));
}

static void what_comes_once_comes_once(void **state)
{
	static const char *const once[] = {
		"Host", "Content-Length", "Authorization", "Origin",
		"Sec-WebSocket-Key", "Sec-WebSocket-Version",
		"Sec-WebSocket-Protocol", "Upgrade", "Content-Type", "Expect",
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof once / sizeof once[0]; i++) {
		struct field f[3] = { { "Host", "1" }, { once[i], "1" },
				      { once[i], "1" } };

		if (!(i ? fields(f, 3) : fields(f + 1, 2)))
			fail_msg("%s passed twice", once[i]);
		assert_null(i ? fields(f, 2) : fields(f, 1));
	}
	assert_non_null(FIELDS(H, { "Transfer-Encoding", "chunked" },
			       { "transfer-encoding", "chunked" }));
}

static void bodies_have_one_length(void **state)
{
	static const char *const lengths[] = { "", "+1", "-1", "1,1", "1 1",
					       "0x10", "1234567890123456" };
	static const char *const codings[] = { "", "gzip", "chunked, gzip",
					       "chunked,chunked", "xchunked" };
	size_t i;

	(void)state;
	for (i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
		struct field f[2] = { { "Host", "a" },
				      { "Content-Length", lengths[i] } };

		if (!fields(f, 2))
			fail_msg("Content-Length \"%s\" passed", lengths[i]);
	}
	for (i = 0; i < sizeof codings / sizeof codings[0]; i++) {
		struct field f[2] = { { "Host", "a" },
				      { "Transfer-Encoding", codings[i] } };

		if (!fields(f, 2))
			fail_msg("Transfer-Encoding \"%s\" passed", codings[i]);
	}
	assert_non_null(FIELDS(H, { "Content-Length", "3" },
			       { "Transfer-Encoding", "chunked" }));
	assert_non_null(check("GET", "HTTP/1.0", "/",
			      (const struct field[]){
				      { "Transfer-Encoding", "chunked" } },
			      1));
}

static void hosts_are_there_and_are_hosts(void **state)
{
	(void)state;
	assert_non_null(check("GET", "HTTP/1.1", "/", NULL, 0));
	assert_non_null(FIELDS({ "Host", "" }));
	assert_non_null(FIELDS({ "Host", "a/b" }));
	assert_non_null(FIELDS({ "Host", "a b" }));
	assert_non_null(FIELDS({ "Host", "user@a" }));
	assert_non_null(FIELDS({ "Host", "a,b" }));
}

static void fields_are_tokens_and_printable(void **state)
{
	struct head h;

	(void)state;
	assert_non_null(FIELDS(H, { "X Y", "1" }));
	assert_non_null(FIELDS(H, { "X:Y", "1" }));
	assert_non_null(FIELDS(H, { "", "1" }));
	assert_non_null(FIELDS(H, { "X-\xc3\xa4", "1" }));
	assert_non_null(FIELDS(H, { "X", "a\rb" }));
	assert_non_null(FIELDS(H, { "X", "a\nb" }));
	assert_non_null(FIELDS(H, { "X", "\x01" }));
	assert_non_null(FIELDS(H, { "X", "\x7f" }));
	head_begin(&h, "GET", "HTTP/1.1", "/", 1);
	head_field(&h, "Host", 4, "a", 1);
	head_field(&h, "X", 1, "a\0b", 3);
	assert_non_null(head_end(&h));
}

static void fields_have_a_number(void **state)
{
	struct head h;
	unsigned i;

	(void)state;
	head_begin(&h, "GET", "HTTP/1.1", "/", 1);
	head_field(&h, "Host", 4, "a", 1);
	for (i = 1; i < HEAD_FIELDS_MAX; i++)
		head_field(&h, "X", 1, "1", 1);
	assert_null(head_end(&h));
	head_field(&h, "X", 1, "1", 1);
	assert_non_null(head_end(&h));
}

/* ---- raw ---- */

static void looks(enum head_state want, unsigned status, const char *p, size_t n)
{
	const char *why = NULL;
	unsigned got;
	char *copy = malloc(n ? n : 1); /* ASan knows its end */

	memcpy(copy, p, n);
	if (head_look(copy, n, &got, &why) != want)
		fail_msg("%.*s: %s", (int)n, p, why ? why : "-");
	if (want == HEAD_BAD)
		assert_int_equal(got, status);
	free(copy);
}

#define LOOK(want, status, text) looks(want, status, text, sizeof text - 1)

static void a_whole_head_is_good_and_a_part_waits(void **state)
{
	static const char good[] =
		"\r\nPOST /v1/sync/ack?a=b HTTP/1.1\r\nHost: a:1\r\nX:\r\n"
		"Y: \t b c \t\r\nContent-Length: 3\r\n\r\nabc\n\nno head";
	size_t end = (size_t)(strstr(good, "abc") - good), n;

	(void)state;
	for (n = 0; n < sizeof good - 1; n++)
		looks(n < end ? HEAD_PART : HEAD_GOOD, 0, good, n);
}

static void what_a_strict_parser_refuses_is_bad(void **state)
{
	(void)state;
	LOOK(HEAD_BAD, 400, "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
	LOOK(HEAD_BAD, 400, "\n\n");
	LOOK(HEAD_BAD, 400, "GET / HTTP/1.1\nHost: a\n\n");
	LOOK(HEAD_BAD, 400, "GET / HTTP/1.1\r\nHost: a\n\r\n");
	LOOK(HEAD_BAD, 400, "GET / HTTP/1.1\r\nHost: a\r\n\n");
	LOOK(HEAD_BAD, 400, "GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n");
	LOOK(HEAD_BAD, 400, "GET / HTTP/1.1\r\nHost: a\r\n\tb: c\r\n\r\n");
	LOOK(HEAD_BAD, 400, "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n");
	LOOK(HEAD_BAD, 400, "GET / HTTP/1.1\r\nHost : a\r\n\r\n");
	LOOK(HEAD_BAD, 400, "GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n");
	LOOK(HEAD_BAD, 400, "GET / HTTP/1.1\r\nHost: a\r\nX: b\rc\r\n\r\n");
	LOOK(HEAD_BAD, 400, "GET / HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n");
	LOOK(HEAD_BAD, 400, "GET / HTTP/1.1\r\n\r\n");
	LOOK(HEAD_BAD, 400, "GET /\r\nHost: a\r\n\r\n");
	LOOK(HEAD_BAD, 400, "GET  / HTTP/1.1\r\nHost: a\r\n\r\n");
	LOOK(HEAD_BAD, 400, "GET / HTTP/1.1 \r\nHost: a\r\n\r\n");
	LOOK(HEAD_BAD, 400, "GET / HTTP/1.1x\r\nHost: a\r\n\r\n");
	LOOK(HEAD_BAD, 400, " / HTTP/1.1\r\nHost: a\r\n\r\n");
	LOOK(HEAD_BAD, 400, "G\0T / HTTP/1.1\r\nHost: a\r\n\r\n");
	LOOK(HEAD_BAD, 400, "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n");
	LOOK(HEAD_BAD, 400, "GET / HTTP/1.1\0\r\nHost: a\r\n\r\n");
	LOOK(HEAD_BAD, 505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
	LOOK(HEAD_BAD, 505, "GET / HTTP/3.0\r\nHost: a\r\n\r\n");
}

static void a_head_has_an_end(void **state)
{
	static const char start[] = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
	static char text[HEAD_MAX + 100];

	(void)state;
	memset(text, 'a', sizeof text);
	memcpy(text, start, sizeof start - 1);
	looks(HEAD_PART, 0, text, HEAD_MAX - 1);
	looks(HEAD_BAD, 431, text, HEAD_MAX);
	memcpy(text + HEAD_MAX - 4, "\r\n\r\n", 4);
	looks(HEAD_GOOD, 0, text, sizeof text);
	memcpy(text + HEAD_MAX - 4, "a\r\n\r\n", 5);
	looks(HEAD_BAD, 431, text, sizeof text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_heads_pass),
		cmocka_unit_test(targets_that_could_mean_two_paths_are_refused),
		cmocka_unit_test(a_target_has_an_end),
		cmocka_unit_test(a_nul_in_the_target_is_seen),
		cmocka_unit_test(methods_and_versions_are_known),
		cmocka_unit_test(what_comes_once_comes_once),
		cmocka_unit_test(bodies_have_one_length),
		cmocka_unit_test(hosts_are_there_and_are_hosts),
		cmocka_unit_test(fields_are_tokens_and_printable),
		cmocka_unit_test(fields_have_a_number),
		cmocka_unit_test(a_whole_head_is_good_and_a_part_waits),
		cmocka_unit_test(what_a_strict_parser_refuses_is_bad),
		cmocka_unit_test(a_head_has_an_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
