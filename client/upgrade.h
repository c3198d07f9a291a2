/* The client's side of the opening handshake of RFC 6455 (section 4.1), sans-I/O:
 * the request's bytes out, the answer's bytes in.  The answer's head is at most
 * UPGRADE_HEAD_MAX bytes. */
#ifndef QUIPU_CLIENT_UPGRADE_H
#define QUIPU_CLIENT_UPGRADE_H

#include "base/buf.h"
#include "base/err.h"
#include "base/rand.h"

#include <stdbool.h>
#include <stdint.h>

#define UPGRADE_HEAD_MAX 8192
#define UPGRADE_PATH "/v1/stream"

struct upgrade {
	char key[25];    /* base64 of 16 random bytes */
	struct buf head; /* of an answer that has not all come */
	unsigned status; /* HTTP's, once the status line was read */
	uint64_t retry_s; /* Retry-After in seconds; 0: none */
};

void upgrade_init(struct upgrade *u);
void upgrade_release(struct upgrade *u);
/* Append the request for `host` ("name:port", as it stands in the URL). */
void upgrade_request(struct upgrade *u, const char *host, const char *protocol,
		     struct rand *rand, struct buf *out);
/* Take bytes.  1: upgraded, *used of them belonged to the answer; 0: more are
 * needed, all were taken; ERR_PROTOCOL: not an HTTP answer, or one that does not
 * fit the request; ERR_UNAVAILABLE: another status than 101 (u->status). */
int upgrade_feed(struct upgrade *u, const void *p, size_t n, size_t *used,
		 const char *protocol, struct err *e);

struct gateway_url {
	char host[256];   /* without brackets */
	char authority[272]; /* as it stands in the URL */
	uint16_t port;
	bool tls;
};
/* "ws://host:port", "wss://host:port", with http and https as other names of them;
 * without a port 80 or 443; a path of "/" is fine, others are not.  ERR_CONFIG. */
int gateway_url_parse(struct gateway_url *u, const char *text, struct err *e);

#endif
