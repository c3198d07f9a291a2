/* Request heads: the first line is "METHOD TARGET VERSION", each further one
 * "NAME:VALUE", as an HTTP parser hands them over; and the same bytes raw.  What
 * passes is checked against the rules that smuggling breaks, spelt here a second
 * time. */
#include "base/assert.h"
#include "gateway/head.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct counts {
	unsigned host, length, encoding, fields;
};

/* Up to `end` or the next `ch`. */
static const char *until(const char *p, const char *end, char ch)
{
	const char *at = p < end ? memchr(p, ch, (size_t)(end - p)) : NULL;

	return at ? at : end;
}

static char *copy(const char *p, const char *end)
{
	char *s = malloc((size_t)(end - p) + 1);

	AN(s);
	memcpy(s, p, (size_t)(end - p));
	s[end - p] = 0;
	return s;
}

static void count(struct counts *n, const char *name, size_t len)
{
	n->fields++;
	n->host += len == 4 && !strncasecmp(name, "host", 4);
	n->length += len == 14 && !strncasecmp(name, "content-length", 14);
	n->encoding += len == 17 && !strncasecmp(name, "transfer-encoding", 17);
}

static void check_target(const char *p, size_t n)
{
	size_t i;

	AN(n > 0 && n <= HEAD_TARGET_MAX && p[0] == '/');
	for (i = 0; i < n; i++)
		AN(p[i] > ' ' && p[i] < 0x7f && p[i] != '#' && p[i] != '\\');
	AN(!memmem(p, n, "%2f", 3) && !memmem(p, n, "%2F", 3));
	AN(!memmem(p, n, "%00", 3) && !memmem(p, n, "%0a", 3));
	n = (size_t)(until(p, p + n, '?') - p);
	AN(!memmem(p, n, "/../", 4) && !memmem(p, n, "/./", 3));
	AN(!memmem(p, n, "/%2e%2e/", 8) && !memmem(p, n, "/.%2E/", 6));
}

/* The same bytes as a head that no parser has seen. */
static void check_raw(const char *p, size_t size)
{
	enum head_state state;
	unsigned status;
	const char *why, *end, *nl;

	state = head_look(p, size, &status, &why);
	if (state == HEAD_PART) {
		AN(size < HEAD_MAX && !memmem(p, size, "\r\n\r\n", 4));
		return;
	}
	if (state == HEAD_BAD) {
		AN(why[0] && (status == 400 || status == 431 || status == 505));
		return;
	}
	if (p[0] == '\r') {
		p += 2;
		size -= 2;
	}
	end = memmem(p, size, "\r\n\r\n", 4);
	AN(end);
	nl = p;
	for (; (nl = memchr(nl, '\n', (size_t)(end - nl))) != NULL; nl++)
		AN(nl[-1] == '\r' && nl[1] != ' ' && nl[1] != '\t');
	AN(!memchr(p, 0, (size_t)(end - p)));
	AN(memmem(p, (size_t)(end - p), " HTTP/1.", 8));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *p = (const char *)data, *end = p + size, *line, *a, *b;
	char *method, *version, *target;
	struct counts n = { 0, 0, 0, 0 };
	struct head h;
	const char *why;

	if (size == 0)
		return 0;
	check_raw(p, size);
	line = until(p, end, '\n');
	a = until(p, line, ' ');
	b = a < line ? until(a + 1, line, ' ') : line;
	method = copy(p, a);
	target = copy(a < line ? a + 1 : a, b);
	version = copy(b < line ? b + 1 : b, line);
	head_begin(&h, method, version, target,
		   (size_t)(b - (a < line ? a + 1 : a)));
	while (line < end) {
		p = line + 1;
		line = until(p, end, '\n');
		a = until(p, line, ':');
		head_field(&h, p, (size_t)(a - p), a < line ? a + 1 : a,
			   (size_t)(line - (a < line ? a + 1 : a)));
		count(&n, p, (size_t)(a - p));
	}
	why = head_end(&h);
	if (!why) {
		AN(n.fields <= HEAD_FIELDS_MAX && n.host <= 1);
		AN(n.length + n.encoding <= 1);
		AN(n.host == 1 || !strcmp(version, "HTTP/1.0"));
		check_target(target, strlen(target));
	} else {
		AN(why[0]);
	}
	free(method);
	free(version);
	free(target);
	return 0;
}
