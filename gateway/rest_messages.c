/* Sending and reading without a socket.  A body is the frame of quipu.v1.json with
 * t, id and to left out (the path names the recipient), an answer is the frame
 * that the stream would give: one table for both (base/wire.tbl).
 *
 *   PUT  /v1/messages/{account}            send -> ack
 *   GET  /v1/sync?cursor|before,limit,wait      -> page
 *   POST /v1/sync/ack                      recv -> 204
 *
 * A client may change transport in mid-retry: the shard's dedupe knows both. */
#include "base/cursor.h"
#include "base/metric.h"
#include "gateway/deliver.h"
#include "gateway/http.h"
#include "gateway/send_form.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SYNC_WAIT_MAX_S 25
#define SYNC_LOOK_MS 250     /* of a long poll */
#define SYNC_LIMIT 100

/* ---- what they share -------------------------------------------------------- */

static bool alive(struct http_req *r, const struct result *res)
{
	if (!res->status && res->epoch == r->claims.epoch)
		return true;
	http_problem_status(r, ST_DEVICE_REMOVED);
	return false;
}

static struct route_call *call_new(struct http_req *r, uint64_t id, route_cb *cb)
{
	struct route_call *c = route_get(&r->g->route);

	if (!c) {
		http_problem_route(r, ERR_UNAVAILABLE);
		return NULL;
	}
	c->id = id;
	c->cb = cb;
	c->arg = r;
	r->call = c;
	return c;
}

static void call_done(struct http_req *r)
{
	route_put(&r->g->route, r->call);
	r->call = NULL;
}

static void reply_frame(struct http_req *r, const struct wire *w)
{
	wire_encode(w, WIRE_JSON, &r->reply);
	http_reply(r, 200, "application/json");
}

/* The body as a frame: what the path and the method say is put in front, so that a
 * body which says it too has a member twice and is refused. */
static bool body_frame(struct http_req *r, const char *front, struct wire *w,
		       struct buf *scratch)
{
	const char *p = (const char *)r->body.data;
	size_t n = r->body.len, i = 0;
	struct buf text = BUF_INIT;
	struct err e = { 0 };
	int rv = ERR_FORMAT;

	while (i < n && strchr(" \t\r\n", p[i]) && p[i])
		i++;
	if (i < n && p[i] == '{') {
		i++;
		buf_puts(&text, front);
		while (i < n && strchr(" \t\r\n", p[i]) && p[i])
			i++;
		if (i < n && p[i] != '}')
			buf_u8(&text, ',');
		buf_put(&text, p + i, n - i);
		rv = wire_decode(w, WIRE_JSON, WIRE_CLIENT, text.data, text.len,
				 scratch, &e);
	} else {
		err_set(&e, ERR_FORMAT, "not a JSON object");
	}
	buf_release(&text);
	if (rv)
		http_problem(r, 400, "bad-request", "Malformed request", e.msg);
	return !rv;
}

static bool hex_id(const char *s, uint64_t *id)
{
	unsigned i;

	*id = 0;
	if (strlen(s) != 16)
		return false;
	for (i = 0; i < 16; i++) {
		if (s[i] >= '0' && s[i] <= '9')
			*id = *id << 4 | (uint64_t)(s[i] - '0');
		else if (s[i] >= 'a' && s[i] <= 'f')
			*id = *id << 4 | (uint64_t)(s[i] - 'a' + 10);
		else
			return false;
	}
	return *id != 0;
}

/* ---- send ------------------------------------------------------------------- */

/* Decodes the body again for each part: cheaper than keeping it twice. */
static bool send_decode(struct http_req *r, struct wire *w, struct buf *scratch)
{
	char front[64];

	snprintf(front, sizeof front, "{\"t\":%d,\"id\":0,\"to\":\"%016" PRIx64
		 "\"", WIRE_SEND, r->account);
	return body_frame(r, front, w, scratch);
}

static void part_done(struct route_call *c, int err, const struct result *res);

static void send_part(struct http_req *r, uint8_t part)
{
	struct buf scratch = BUF_INIT;
	uint64_t from = r->claims.account;
	struct route_call *c;
	struct cmd_send *s;
	struct wire w;

	if (!send_decode(r, &w, &scratch))
		goto out;
	buf_clear(&r->keep);
	deliver_headers(&r->keep, &w, part ? W_OWN : W_KEYS,
			part ? W_OWNLIST : W_LIST);
	if (r->keep.len > RECORD_HEADERS_MAX) {
		http_problem(r, 413, "too-large", "Too large",
			     "the keys are too many bytes");
		goto out;
	}
	c = call_new(r, part ? from : r->account, part_done);
	if (!c)
		goto out;
	c->cmd.type = CMD_SEND;
	s = &c->cmd.send;
	s->to = part ? from : r->account;
	s->from = from;
	s->device = r->claims.device;
	s->part = part;
	s->cls = (uint8_t)wire_u(&w, W_CLASS);
	s->flags = (uint32_t)wire_u(&w, W_FLAGS) & DELIVER_URGENT;
	s->ttl = (uint32_t)wire_u(&w, W_TTL);
	s->seq = wire_u(&w, W_SEQ);
	s->after = part ? 0 : wire_u(&w, W_AFTER);
	s->seen = wire_u(&w, W_SEEN);
	memcpy(s->mid, w.b[W_MID].p, 16);
	s->headers = r->keep.data;
	s->headers_len = (uint32_t)r->keep.len;
	if (wire_has(&w, W_BODY)) {
		s->body = w.b[W_BODY].p;
		s->body_len = w.b[W_BODY].n;
	}
	if (part) {
		s->origin_shard = r->ack.shard;
		s->origin_offset = r->ack.offset;
		s->origin_lamport = r->ack.lamport;
	}
	if (route_propose(&r->g->route, c)) {
		call_done(r);
		r->retry_s = 1;
		http_problem(r, 503, "busy", "Too much is under way", NULL);
	}
out:
	buf_release(&scratch);
}

static void send_answer(struct http_req *r, uint64_t seq, uint64_t own_n)
{
	const struct result *a = &r->ack;
	struct wire w;

	metric_add(M_ACKS, 1);
	if (a->dup)
		metric_add(M_DUP_ACKS, 1);
	metric_observe_us(M_ACK_SECONDS,
			  clock_us(r->g->clock) - r->start_us);
	wire_start(&w, WIRE_ACK);
	wire_set(&w, W_ID, 0);
	wire_set(&w, W_SEQ, seq);
	wire_set(&w, W_LAMPORT, a->lamport);
	wire_set(&w, W_STAMP, a->stamp);
	wire_set(&w, W_SHARD, a->shard);
	wire_set(&w, W_OFFSET, a->offset);
	wire_set(&w, W_TIME, a->time_ms);
	if (own_n)
		wire_set(&w, W_N, own_n);
	if (a->dup)
		wire_set(&w, W_DUP, 1);
	reply_frame(r, &w);
}

static void part_done(struct route_call *c, int err, const struct result *res)
{
	struct http_req *r = c->arg;
	const struct cmd_send *s = &c->cmd.send;
	uint8_t part = s->part, cls = s->cls;
	uint64_t seq = s->seq;

	if (!err && res->status == ST_GAP && s->after && route_again(&r->g->route, c))
		return; /* the send that it names may be on its way */
	call_done(r);
	if (err) {
		http_problem_route(r, err);
		return;
	}
	if (res->status) {
		metric_add_label(M_REFUSED, status_problem(res->status), 1);
		http_problem_status(r, res->status);
		return;
	}
	if (part) {
		send_answer(r, seq, res->n);
		return;
	}
	r->ack = *res;
	if (r->n_devices > 1 && (cls == 1 || cls == 3) &&
	    r->account != r->claims.account)
		send_part(r, 1);
	else
		send_answer(r, seq, r->account == r->claims.account ? res->n : 0);
}

static void sender_seen(struct route_call *c, int err, const struct result *res)
{
	struct http_req *r = c->arg;

	call_done(r);
	if (err) {
		http_problem_route(r, err);
	} else if (alive(r, res)) {
		r->n_devices = res->n_devices;
		send_part(r, 0);
	}
}

static void ask_sender(struct http_req *r)
{
	struct route_call *c = call_new(r, r->claims.account, sender_seen);

	if (!c)
		return;
	memset(&c->query, 0, sizeof c->query);
	c->query.type = QUERY_ACCOUNT;
	c->query.account = r->claims.account;
	c->query.device = r->claims.device;
	route_query(&r->g->route, c);
}

static void put_message(struct http_req *r)
{
	struct buf scratch = BUF_INIT;
	const char *wrong;
	struct wire w;

	metric_add(M_SENDS, 1);
	if (r->g->draining) {
		r->retry_s = 1;
		http_problem(r, 503, "draining", "The server is going away",
			     NULL);
	} else if (!hex_id(r->param, &r->account)) {
		http_problem(r, 400, "bad-request", "Malformed request",
			     "an account is 16 hex digits, not 0");
	} else if (send_decode(r, &w, &scratch)) {
		wrong = send_form(&w, r->claims.account);
		if (wrong)
			http_problem(r, 400, "bad-request", "Malformed request",
				     wrong);
		else
			ask_sender(r);
	}
	buf_release(&scratch);
}

/* ---- sync ------------------------------------------------------------------- */

static void ask_page(struct http_req *r);

static void page_answer(struct http_req *r, const struct result *res)
{
	struct cursor c = cursor_of(res->records, res->records_len);
	struct buf items = BUF_INIT, keys = BUF_INIT;
	uint64_t wall_ms = clock_wall_ms(r->g->clock);
	struct wire w, item;
	uint32_t i;

	wire_make_array(&items, res->n_records);
	for (i = 0; i < res->n_records; i++) {
		struct record rec;

		if (record_get_wire(&rec, &c))
			break;
		deliver_fill(&item, &rec, r->claims.device, wall_ms, &keys);
		wire_make_item(&items, &item);
	}
	if (i < res->n_records) {
		http_problem(r, 500, "internal", "Internal error", NULL);
	} else {
		wire_start(&w, WIRE_PAGE);
		wire_set(&w, W_ID, 0);
		wire_put(&w, W_ITEMS, items.data, items.len);
		wire_set(&w, W_NEXT, res->next);
		wire_set(&w, W_COMPLETE, res->complete);
		if (res->inbox_oldest > 1)
			wire_set(&w, W_TRUNCATED, res->inbox_oldest);
		reply_frame(r, &w);
	}
	buf_release(&items);
	buf_release(&keys);
}

static void page_seen(struct route_call *c, int err, const struct result *res)
{
	struct http_req *r = c->arg;
	uint64_t now_ms = clock_ms(r->g->clock);

	if (!err && !res->status && !res->n_records && now_ms < r->until_ms &&
	    !r->g->draining && res->epoch == r->claims.epoch &&
	    !http_gone(r)) {
		call_done(r);
		http_later(r, SYNC_LOOK_MS, ask_page);
		return;
	}
	/* The records are borrowed from the call's result: answer first. */
	if (err)
		http_problem_route(r, err);
	else if (alive(r, res))
		page_answer(r, res);
	call_done(r);
}

static void ask_page(struct http_req *r)
{
	struct route_call *c = call_new(r, r->claims.account, page_seen);

	if (!c)
		return;
	memset(&c->query, 0, sizeof c->query);
	c->query.type = QUERY_PAGE;
	c->query.account = r->claims.account;
	c->query.device = r->claims.device;
	c->query.from = r->from;
	c->query.back = r->back;
	c->query.limit = r->limit;
	c->query.max_bytes = QUERY_BYTES_MAX;
	route_query(&r->g->route, c);
}

static void get_sync(struct http_req *r)
{
	uint64_t cursor = 0, before = 0, limit = SYNC_LIMIT, wait_s = 0;
	bool bad = false, has_cursor, has_before;

	has_cursor = http_arg_u64(r, "cursor", WIRE_U_MAX - 1, &cursor, &bad);
	has_before = http_arg_u64(r, "before", WIRE_U_MAX, &before, &bad);
	http_arg_u64(r, "limit", QUERY_LIMIT_MAX, &limit, &bad);
	http_arg_u64(r, "wait", SYNC_WAIT_MAX_S, &wait_s, &bad);
	if (bad || !limit || (has_cursor && has_before)) {
		http_problem(r, 400, "bad-request", "Malformed request",
			     "cursor or before, limit 1 to 500, wait 0 to 25");
		return;
	}
	r->back = has_before;
	r->from = has_before ? before : cursor + 1;
	r->limit = (uint32_t)limit;
	r->until_ms = has_before ? 0 : clock_ms(r->g->clock) + wait_s * 1000;
	ask_page(r);
}

/* ---- recv ------------------------------------------------------------------- */

static void cursor_moved(struct route_call *c, int err, const struct result *res)
{
	struct http_req *r = c->arg;

	call_done(r);
	if (err)
		http_problem_route(r, err);
	else if (res->status)
		http_problem_status(r, res->status);
	else
		http_reply(r, 204, NULL);
}

static void post_ack(struct http_req *r)
{
	struct buf scratch = BUF_INIT;
	struct route_call *c;
	struct wire w;
	char front[16];

	snprintf(front, sizeof front, "{\"t\":%d", WIRE_RECV);
	if (body_frame(r, front, &w, &scratch)) {
		c = call_new(r, r->claims.account, cursor_moved);
		if (c) {
			c->cmd.type = CMD_CURSOR;
			c->cmd.account = r->claims.account;
			c->cmd.device = r->claims.device;
			c->cmd.cursor = w.u[W_CURSOR];
			route_propose(&r->g->route, c);
			metric_add(M_RECEIPTS, 1);
		}
	}
	buf_release(&scratch);
}

const struct http_route rest_messages[] = {
	{ "PUT", "/v1/messages/{}", put_message, true, true },
	{ "GET", "/v1/sync", get_sync, true, false },
	{ "POST", "/v1/sync/ack", post_ack, true, true },
	{ NULL, NULL, NULL, false, false },
};
