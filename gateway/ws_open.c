/* GET /v1/stream: the server's half of RFC 6455 4.2, and who may open a stream
 * from a browser.  What does not ask for a WebSocket of version 13 is told what
 * would (426). */
#include "base/wsframe.h"
#include "gateway/http.h"

#include <string.h>
#include <strings.h>

#define KEY_LEN 24 /* 16 bytes in base64 */

/* The next element of a comma list, without blanks; NULL at the end. */
static const char *element(const char **list, size_t *n)
{
	const char *p = *list + strspn(*list, " \t,"), *end;

	if (!*p)
		return NULL;
	end = p + strcspn(p, ",");
	*list = end;
	while (end > p && (end[-1] == ' ' || end[-1] == '\t'))
		end--;
	*n = (size_t)(end - p);
	return p;
}

static bool has_token(const char *list, const char *want)
{
	const char *p;
	size_t n;

	while (list && (p = element(&list, &n)) != NULL)
		if (n == strlen(want) && strncasecmp(p, want, n) == 0)
			return true;
	return false;
}

static bool key_good(const char *key)
{
	size_t i;

	if (!key || strlen(key) != KEY_LEN || strcmp(key + KEY_LEN - 2, "==") != 0)
		return false;
	for (i = 0; i < KEY_LEN - 2; i++) {
		char c = key[i];

		if (!((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
		      (c >= '0' && c <= '9') || c == '+' || c == '/'))
			return false;
	}
	return true;
}

/* Only browsers send an Origin, and they cannot be made to lie: a page of another
 * site must not open a stream with what the browser keeps for us. */
static bool origin_good(struct http_req *r)
{
	const char *origin = http_field(r, "Origin");
	const char *host = http_field(r, "Host");
	const char *list = r->g->conf->gateway.origins, *p, *at;
	size_t n;

	if (!origin)
		return true;
	at = strstr(origin, "://");
	if (at && host && strcasecmp(at + 3, host) == 0)
		return true;
	while ((p = element(&list, &n)) != NULL)
		if (n == strlen(origin) && strncasecmp(p, origin, n) == 0)
			return true;
	return false;
}

/* The first of the offered ones that is known. */
static const char *protocol_of(const char *list, enum wire_format *format)
{
	const char *p;
	size_t n;

	while (list && (p = element(&list, &n)) != NULL) {
		if (n == strlen(WIRE_SUBPROTOCOL_CBOR) &&
		    memcmp(p, WIRE_SUBPROTOCOL_CBOR, n) == 0) {
			*format = WIRE_CBOR;
			return WIRE_SUBPROTOCOL_CBOR;
		}
		if (n == strlen(WIRE_SUBPROTOCOL_JSON) &&
		    memcmp(p, WIRE_SUBPROTOCOL_JSON, n) == 0) {
			*format = WIRE_JSON;
			return WIRE_SUBPROTOCOL_JSON;
		}
	}
	return NULL;
}

static bool asks_for_websocket(struct http_req *r)
{
	const char *version = http_field(r, "Sec-WebSocket-Version");

	return has_token(http_field(r, "Upgrade"), "websocket") &&
	       has_token(http_field(r, "Connection"), "upgrade") && version &&
	       strcmp(version, "13") == 0;
}

void ws_open(struct http_req *r)
{
	const char *key = http_field(r, "Sec-WebSocket-Key"), *protocol;
	enum wire_format format = WIRE_CBOR;
	char accept[29];

	if (r->v10 || r->head || !asks_for_websocket(r)) {
		http_problem(r, 426, "upgrade-required",
			     "This is a WebSocket of version 13", NULL);
		return;
	}
	if (!key_good(key)) {
		http_problem(r, 400, "bad-request", "Malformed request",
			     "a malformed Sec-WebSocket-Key");
		return;
	}
	if (!origin_good(r)) {
		http_problem(r, 403, "forbidden",
			     "This origin may not open a stream", NULL);
		return;
	}
	protocol = protocol_of(http_field(r, "Sec-WebSocket-Protocol"), &format);
	if (!protocol) {
		http_problem(r, 400, "subprotocol", "No subprotocol in common",
			     "known: " WIRE_SUBPROTOCOL_CBOR
			     ", " WIRE_SUBPROTOCOL_JSON);
		return;
	}
	if (r->g->draining) {
		r->retry_s = 1;
		http_problem(r, 503, "draining", "The server is going away",
			     NULL);
		return;
	}
	ws_accept(key, KEY_LEN, accept);
	r->limit = format;
	http_upgrade(r, accept, protocol);
}
