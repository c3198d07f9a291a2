#include "gateway/head.h"

#include <stdint.h>
#include <string.h>
#include <strings.h>

/* RFC 9110 5.6.2 */
static bool is_tchar(char ch)
{
	unsigned char c = (unsigned char)ch;

	return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') ||
	       (c >= 'a' && c <= 'z') ||
	       (c != 0 && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

static bool is_token(const char *p, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++)
		if (!is_tchar(p[i]))
			return false;
	return n > 0;
}

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* One segment of the path, `dots` counting its dots so far, UINT32_MAX when it
 * holds anything else. */
static bool dot_segment(uint32_t dots)
{
	return dots == 1 || dots == 2;
}

/* origin-form only (RFC 9112 3.2.1).  Escapes that mean a slash, a backslash or a
 * control character, and dot segments however they are spelt, have no use here and
 * a long history. */
static const char *target_check(const char *p, size_t n)
{
	bool query = false;
	uint32_t dots = 0;
	size_t i;

	if (n == 0 || p[0] != '/')
		return "the target is not a path";
	if (n > HEAD_TARGET_MAX)
		return "the target is too long";
	for (i = 1; i < n; i++) {
		unsigned char c = (unsigned char)p[i];

		if (c <= 0x20 || c >= 0x7f || strchr("\"<>\\^`{|}#", c))
			return "an illegal character in the target";
		if (c == '%') {
			int hi = i + 2 < n ? hex(p[i + 1]) : -1;
			int lo = i + 2 < n ? hex(p[i + 2]) : -1;

			if (hi < 0 || lo < 0)
				return "a broken escape in the target";
			c = (unsigned char)(hi << 4 | lo);
			if (c < 0x20 || c == 0x7f || c == '/' || c == '\\')
				return "a forbidden escape in the target";
			i += 2;
		} else if (c == '?') {
			if (!query && dot_segment(dots))
				return "a dot segment in the target";
			query = true;
			continue;
		} else if (c == '/' && !query) {
			if (dot_segment(dots))
				return "a dot segment in the target";
			dots = 0;
			continue;
		}
		dots = c == '.' && dots < 3 ? dots + 1 : UINT32_MAX;
	}
	return !query && dot_segment(dots) ? "a dot segment in the target"
					   : NULL;
}

void head_begin(struct head *h, const char *method, const char *version,
		const char *target, size_t target_len)
{
	memset(h, 0, sizeof *h);
	if (!is_token(method, strlen(method)) || strlen(method) > 16)
		h->why = "an illegal method";
	else if (strcmp(version, "HTTP/1.1") == 0)
		h->v10 = false;
	else if (strcmp(version, "HTTP/1.0") == 0)
		h->v10 = true;
	else
		h->why = "an unknown HTTP version";
	if (!h->why)
		h->why = target_check(target, target_len);
}

enum single { HOST, LENGTH, ENCODING, AUTH, ORIGIN, KEY, VERSION, PROTOCOL,
	      UPGRADE, TYPE, EXPECT, SINGLES };
static const char *const singles[SINGLES] = {
	[HOST] = "host", [LENGTH] = "content-length",
	[ENCODING] = "transfer-encoding", [AUTH] = "authorization",
	[ORIGIN] = "origin", [KEY] = "sec-websocket-key",
	[VERSION] = "sec-websocket-version",
	[PROTOCOL] = "sec-websocket-protocol", [UPGRADE] = "upgrade",
	[TYPE] = "content-type", [EXPECT] = "expect",
};

static bool host_fits(const char *p, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++)
		if (!((p[i] >= '0' && p[i] <= '9') ||
		      ((p[i] | 32) >= 'a' && (p[i] | 32) <= 'z') ||
		      memchr(".-_:[]%~", p[i], 8)))
			return false;
	return n > 0 && n <= 262;
}

static const char *single_check(enum single s, const char *p, size_t n)
{
	size_t i;

	switch (s) {
	case HOST:
		return host_fits(p, n) ? NULL : "a malformed Host";
	case LENGTH:
		for (i = 0; i < n; i++)
			if (p[i] < '0' || p[i] > '9')
				return "a malformed Content-Length";
		return n > 0 && n <= HEAD_LENGTH_DIGITS_MAX ?
			       NULL : "a malformed Content-Length";
	case ENCODING:
		return n == 7 && strncasecmp(p, "chunked", 7) == 0 ?
			       NULL : "an unknown Transfer-Encoding";
	default:
		return NULL;
	}
}

void head_field(struct head *h, const char *name, size_t name_len,
		const char *value, size_t value_len)
{
	size_t i;
	unsigned s;

	if (h->why)
		return;
	if (++h->fields > HEAD_FIELDS_MAX) {
		h->why = "too many fields";
		return;
	}
	if (!is_token(name, name_len)) {
		h->why = "an illegal field name";
		return;
	}
	for (i = 0; i < value_len; i++) {
		unsigned char c = (unsigned char)value[i];

		if ((c < 0x20 && c != '\t') || c == 0x7f) {
			h->why = "a control character in a field";
			return;
		}
	}
	for (s = 0; s < SINGLES; s++) {
		if (strlen(singles[s]) != name_len ||
		    strncasecmp(singles[s], name, name_len) != 0)
			continue;
		if (h->seen & 1u << s) {
			h->why = "a field that may come once came twice";
			return;
		}
		h->seen |= 1u << s;
		h->why = single_check((enum single)s, value, value_len);
		return;
	}
}

const char *head_end(const struct head *h)
{
	if (h->why)
		return h->why;
	if (!h->v10 && !(h->seen & 1u << HOST))
		return "no Host";
	if (h->seen & 1u << ENCODING && h->seen & 1u << LENGTH)
		return "Content-Length and Transfer-Encoding together";
	if (h->seen & 1u << ENCODING && h->v10)
		return "Transfer-Encoding in HTTP/1.0";
	return NULL;
}

/* ---- raw -------------------------------------------------------------------- */

/* What is behind the empty line; 0: it is not here. */
static size_t end_of(const char *p, size_t at, size_t n)
{
	const char *nl;

	while ((nl = memchr(p + at, '\n', n - at)) != NULL) {
		size_t line = (size_t)(nl - p) - at;

		if (line == 0 || (line == 1 && p[at] == '\r'))
			return (size_t)(nl - p) + 1;
		at = (size_t)(nl - p) + 1;
	}
	return 0;
}

/* One line without its CRLF; false: it ends in a line feed alone. */
static bool next_line(const char **p, const char *end, const char **line,
		      size_t *len)
{
	const char *nl = memchr(*p, '\n', (size_t)(end - *p));

	*line = *p;
	*len = (size_t)(nl - *p);
	*p = nl + 1;
	if (*len == 0 || nl[-1] != '\r')
		return false;
	--*len;
	return true;
}

/* Neither as long nor as short as no word of a request line is, and no zero. */
static bool word(char out[24], const char *p, size_t n)
{
	if (n == 0 || n >= 24 || memchr(p, 0, n))
		return false;
	memcpy(out, p, n);
	out[n] = 0;
	return true;
}

static const char *request_line(struct head *h, const char *p, size_t n,
				unsigned *status)
{
	const char *first = memchr(p, ' ', n), *second = NULL;
	char method[24], version[24];
	size_t target_len;

	if (first)
		second = memchr(first + 1, ' ', n - (size_t)(first + 1 - p));
	if (!second)
		return "a malformed request line";
	target_len = (size_t)(second - first) - 1;
	if (!word(method, p, (size_t)(first - p)))
		return "an illegal method";
	if (!word(version, second + 1, n - (size_t)(second + 1 - p)))
		return "an unknown HTTP version";
	if (strlen(version) == 8 && strncmp(version, "HTTP/", 5) == 0 &&
	    version[5] >= '2' && version[5] <= '9' && version[6] == '.') {
		*status = 505;
		return "HTTP/1.1 only";
	}
	head_begin(h, method, version, first + 1, target_len);
	return h->why;
}

static const char *field_line(struct head *h, const char *p, size_t n)
{
	const char *colon = memchr(p, ':', n), *end = p + n, *value;

	if (p[0] == ' ' || p[0] == '\t')
		return "a folded line";
	if (!colon)
		return "a field without a colon";
	value = colon + 1;
	while (value < end && (*value == ' ' || *value == '\t'))
		value++;
	while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
		end--;
	head_field(h, p, (size_t)(colon - p), value, (size_t)(end - value));
	return h->why;
}

static const char *lines(const char *p, const char *end, unsigned *status)
{
	static const char bare[] = "a line that ends in a line feed alone";
	struct head h = { 0 };
	const char *line, *why;
	size_t n;

	if (!next_line(&p, end, &line, &n))
		return bare;
	why = request_line(&h, line, n, status);
	while (!why) {
		if (!next_line(&p, end, &line, &n))
			return bare;
		if (n == 0)
			return head_end(&h);
		why = field_line(&h, line, n);
	}
	return why;
}

enum head_state head_look(const char *p, size_t n, unsigned *status,
			  const char **why)
{
	/* One empty line in front is none (RFC 9112 2.2). */
	size_t start = n >= 2 && p[0] == '\r' && p[1] == '\n' ? 2 : 0, end;

	end = end_of(p, start, n < HEAD_MAX ? n : HEAD_MAX);
	*status = 400;
	if (!end) {
		if (n < HEAD_MAX)
			return HEAD_PART;
		*status = 431;
		*why = "the head is too long";
		return HEAD_BAD;
	}
	*why = lines(p + start, p + end, status);
	return *why ? HEAD_BAD : HEAD_GOOD;
}
