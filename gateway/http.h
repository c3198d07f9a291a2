/* Requests, as the rest_*.c files see them: the HTTP library has parsed the head,
 * our own check has passed, the body is here whole. */
#ifndef QUIPU_GATEWAY_HTTP_H
#define QUIPU_GATEWAY_HTTP_H

#include "gateway/impl.h"

#define HTTP_BODY_MAX (192u << 10) /* a message body in base64url, and more */
#define HTTP_PARAM_MAX 64

struct MHD_Connection;
struct http_req;

struct http_route {
	const char *method;
	const char *path;        /* one "{}" matches one segment */
	/* Answers with http_reply() or http_problem(), now or later. */
	void (*handle)(struct http_req *r);
	bool bearer;             /* needs an access token: r->claims */
	bool body;               /* needs a JSON body */
};
extern const struct http_route rest_system[], rest_messages[], rest_account[];

#define HTTP_REQ_MAGIC 0x68747270u

struct http_req {
	uint32_t magic;
	struct list link;        /* all requests of the gateway */
	struct gateway *g;
	struct MHD_Connection *mc;
	const struct http_route *route;
	char *target;            /* raw */
	size_t target_len;
	struct buf body, reply;
	struct buf keep;         /* a handler's, for what it waits for */
	unsigned status;         /* 0: not answered yet */
	const char *type;        /* of the reply */
	const char *allow;       /* 405 */
	unsigned retry_s;        /* Retry-After, 0: none */
	bool checked, close, suspended, queued, upgrade, v10;
	bool head;               /* HEAD: a GET whose content stays here */
	char param[HTTP_PARAM_MAX];
	char id[17];             /* request id: instance of problems */
	struct token_claims claims;
	uint64_t start_us;
	/* What a handler waits for; cancelled with the request. */
	struct route_call *call;
	struct result ack;
	uint64_t account, from;
	uint32_t n_devices, limit;
	bool back;
	uint64_t until_ms;       /* long poll: answer by then */
	uint64_t later_ms;       /* call `later` then; 0: not */
	void (*later)(struct http_req *r);
};

/* r->reply is the content. */
void http_reply(struct http_req *r, unsigned status, const char *type);
/* problem+json; detail may be NULL and say anything */
void http_problem(struct http_req *r, unsigned status, const char *name,
		  const char *title, const char *detail);
/* The same for an outcome of a shard (status.tbl). */
void http_problem_status(struct http_req *r, int status);
/* A call that did not come through: 503 with the outcome. */
void http_problem_route(struct http_req *r, int err);
/* Query parameter; NULL when absent. */
const char *http_arg(struct http_req *r, const char *name);
/* Whole decimal number <= max; false: absent (then *v is untouched) or bad
 * (*bad is set). */
bool http_arg_u64(struct http_req *r, const char *name, uint64_t max,
		  uint64_t *v, bool *bad);
const char *http_field(struct http_req *r, const char *name);

/* Have `later` called after `ms`, when the gateway drains at once. */
void http_later(struct http_req *r, uint64_t ms,
		void (*later)(struct http_req *r));

/* The client has left, or at least ended its side: the library does not look while
 * a request waits. */
bool http_gone(const struct http_req *r);

/* ws_open.c: GET /v1/stream */
void ws_open(struct http_req *r);
/* http.c, for ws_open.c: answer with 101 and hand the socket to conn_open(). */
void http_upgrade(struct http_req *r, const char *accept, const char *protocol);

#endif
