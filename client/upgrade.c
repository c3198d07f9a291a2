/* RFC 6455 4.1 and as much of RFC 9112 as an answer without a body needs. */
#include "base/alloc.h"
#include "base/base64.h"
#include "base/wsframe.h"
#include "client/upgrade.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

void upgrade_init(struct upgrade *u)
{
	memset(u, 0, sizeof *u);
}

void upgrade_release(struct upgrade *u)
{
	buf_release(&u->head);
}

void upgrade_request(struct upgrade *u, const char *host, const char *protocol,
		     struct rand *rand, struct buf *out)
{
	struct buf key = BUF_INIT;
	uint8_t nonce[16];

	rand_fill(rand, nonce, sizeof nonce);
	base64_put(&key, nonce, sizeof nonce);
	memcpy(u->key, key.data, 24);
	u->key[24] = 0;
	buf_release(&key);
	buf_printf(out,
		   "GET " UPGRADE_PATH " HTTP/1.1\r\n"
		   "Host: %s\r\n"
		   "Upgrade: websocket\r\n"
		   "Connection: Upgrade\r\n"
		   "Sec-WebSocket-Key: %s\r\n"
		   "Sec-WebSocket-Version: 13\r\n"
		   "Sec-WebSocket-Protocol: %s\r\n"
		   "\r\n",
		   host, u->key, protocol);
}

/* ---- the answer ----------------------------------------------------------- */

struct line {
	const char *p;
	size_t n;
};

static bool is(struct line l, const char *word)
{
	return l.n == strlen(word) && strncasecmp(l.p, word, l.n) == 0;
}

static struct line trim(struct line l)
{
	while (l.n && (*l.p == ' ' || *l.p == '\t')) {
		l.p++;
		l.n--;
	}
	while (l.n && (l.p[l.n - 1] == ' ' || l.p[l.n - 1] == '\t'))
		l.n--;
	return l;
}

/* Is `word` one of a comma list? */
static bool lists(struct line l, const char *word)
{
	while (l.n) {
		const char *comma = memchr(l.p, ',', l.n);
		struct line one = { l.p, comma ? (size_t)(comma - l.p) : l.n };

		if (is(trim(one), word))
			return true;
		if (!comma)
			break;
		l.n -= one.n + 1;
		l.p = comma + 1;
	}
	return false;
}

static bool next_line(const char **p, const char *end, struct line *l)
{
	const char *nl = memchr(*p, '\n', (size_t)(end - *p));

	if (!nl || nl == *p || nl[-1] != '\r')
		return false;
	l->p = *p;
	l->n = (size_t)(nl - 1 - *p);
	*p = nl + 1;
	return true;
}

static bool number(struct line l, uint64_t max, uint64_t *v)
{
	*v = 0;
	if (l.n == 0 || l.n > 9)
		return false;
	for (; l.n; l.p++, l.n--) {
		if (*l.p < '0' || *l.p > '9')
			return false;
		*v = *v * 10 + (uint64_t)(*l.p - '0');
	}
	return *v <= max;
}

/* HTTP/1.1 101 Switching Protocols */
static bool status_line(struct upgrade *u, struct line l)
{
	uint64_t status;

	if (l.n < 12 || memcmp(l.p, "HTTP/1.1 ", 9) != 0 ||
	    (l.n > 12 && l.p[12] != ' ') ||
	    !number((struct line){ l.p + 9, 3 }, 599, &status) || status < 100)
		return false;
	u->status = (unsigned)status;
	return true;
}

static int head_parse(struct upgrade *u, size_t size, const char *protocol,
		      struct err *e)
{
	const char *p = (const char *)u->head.data, *end = p + size;
	bool upgrade = false, connection = false, accept = false, proto = false;
	char want[29];
	struct line l;

	if (!next_line(&p, end, &l) || !status_line(u, l))
		return err_set(e, ERR_PROTOCOL, "not an HTTP/1.1 server");
	ws_accept(u->key, 24, want);
	while (next_line(&p, end, &l) && l.n) {
		const char *colon = memchr(l.p, ':', l.n);
		struct line name, value;
		uint64_t s;

		if (!colon || colon == l.p)
			return err_set(e, ERR_PROTOCOL, "malformed HTTP header");
		name = (struct line){ l.p, (size_t)(colon - l.p) };
		value = trim((struct line){ colon + 1, l.n - name.n - 1 });
		if (is(name, "Upgrade"))
			upgrade = upgrade || lists(value, "websocket");
		else if (is(name, "Connection"))
			connection = connection || lists(value, "upgrade");
		else if (is(name, "Sec-WebSocket-Accept"))
			accept = value.n == 28 && memcmp(value.p, want, 28) == 0;
		else if (is(name, "Sec-WebSocket-Protocol"))
			proto = value.n == strlen(protocol) &&
				memcmp(value.p, protocol, value.n) == 0;
		else if (is(name, "Sec-WebSocket-Extensions"))
			return err_set(e, ERR_PROTOCOL, "extension not asked for");
		else if (is(name, "Retry-After") && number(value, 86400, &s))
			u->retry_s = s;
	}
	if (u->status != 101)
		return err_set(e, ERR_UNAVAILABLE, "HTTP status %u", u->status);
	if (!upgrade || !connection || !accept || !proto)
		return err_set(e, ERR_PROTOCOL, "upgrade answer without %s",
			       !upgrade ? "Upgrade" :
			       !connection ? "Connection" :
			       !accept ? "the right Sec-WebSocket-Accept"
				       : "the right Sec-WebSocket-Protocol");
	return 1;
}

int upgrade_feed(struct upgrade *u, const void *p, size_t n, size_t *used,
		 const char *protocol, struct err *e)
{
	size_t before = u->head.len, take = n, size;
	const uint8_t *end;
	int rv;

	if (take > UPGRADE_HEAD_MAX - before)
		take = UPGRADE_HEAD_MAX - before;
	buf_put(&u->head, p, take);
	end = u->head.len ? memmem(u->head.data, u->head.len, "\r\n\r\n", 4) : NULL;
	if (!end) {
		if (u->head.len == UPGRADE_HEAD_MAX)
			return err_set(e, ERR_PROTOCOL, "HTTP answer's head is over "
				       "%u bytes", UPGRADE_HEAD_MAX);
		return 0;
	}
	size = (size_t)(end - u->head.data) + 4;
	*used = size - before;
	rv = head_parse(u, size, protocol, e);
	buf_release(&u->head);
	return rv;
}

/* ---- where to ------------------------------------------------------------- */

static bool skip_prefix(const char **p, const char *prefix)
{
	size_t n = strlen(prefix);

	if (strncasecmp(*p, prefix, n) != 0)
		return false;
	*p += n;
	return true;
}

/* Letters, digits and what names and addresses have; so a header can hold it. */
static bool host_ok(const char *p, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++) {
		unsigned char ch = (unsigned char)p[i];

		if (!((ch >= '0' && ch <= '9') || ((ch | 32) >= 'a' && (ch | 32) <= 'z') ||
		      ch == '-' || ch == '.' || ch == '_' || ch == ':'))
			return false;
	}
	return n > 0;
}

int gateway_url_parse(struct gateway_url *u, const char *text, struct err *e)
{
	const char *p = text, *host, *end, *port = NULL;
	uint64_t v;
	size_t n;

	memset(u, 0, sizeof *u);
	if (skip_prefix(&p, "wss://") || skip_prefix(&p, "https://"))
		u->tls = true;
	else if (!skip_prefix(&p, "ws://") && !skip_prefix(&p, "http://"))
		return err_set(e, ERR_CONFIG, "\"%.200s\": a gateway is ws://HOST:PORT "
			       "or wss://HOST:PORT", text);
	end = p + strcspn(p, "/?#");
	if (strcmp(end, "") != 0 && strcmp(end, "/") != 0)
		return err_set(e, ERR_CONFIG, "\"%.200s\": a gateway has no path", text);
	host = p;
	if (*p == '[') {
		const char *close = memchr(p, ']', (size_t)(end - p));

		if (!close)
			return err_set(e, ERR_CONFIG, "\"%.200s\": no ]", text);
		host = p + 1;
		n = (size_t)(close - host);
		if (close + 1 < end)
			port = close[1] == ':' ? close + 2 : end;
	} else {
		const char *colon = memchr(p, ':', (size_t)(end - p));

		n = colon ? (size_t)(colon - p) : (size_t)(end - p);
		if (colon)
			port = colon + 1;
	}
	if (!host_ok(host, n) || n >= sizeof u->host ||
	    (size_t)(end - p) >= sizeof u->authority)
		return err_set(e, ERR_CONFIG, "\"%.200s\": not a host", text);
	v = u->tls ? 443 : 80;
	if (port && (!number((struct line){ port, (size_t)(end - port) }, 65535, &v) ||
		     v == 0))
		return err_set(e, ERR_CONFIG, "\"%.200s\": not a port", text);
	memcpy(u->host, host, n);
	memcpy(u->authority, p, (size_t)(end - p));
	u->port = (uint16_t)v;
	return 0;
}
