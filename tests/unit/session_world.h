/* A session alone in the world: what it asks of the node is written down here and
 * answered by the test, word by word.  Defines node_propose() and friends in place
 * of consensus/node.c, so only one program may include it. */
#ifndef QUIPU_TESTS_UNIT_SESSION_WORLD_H
#define QUIPU_TESTS_UNIT_SESSION_WORLD_H

#include "base/metric.h"
#include "gateway/session.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef SESSION_WORLD_ASSERTS /* a fuzz target: no test to fail, so it aborts */
#include "base/assert.h"
#define assert_true(x) AN(x)
#define assert_false(x) AZ(x)
#define assert_null(x) AZ(x)
#define assert_non_null(x) AN(x)
#define assert_int_equal(a, b) AN((uint64_t)(a) == (uint64_t)(b))
#define assert_ptr_equal(a, b) AN((a) == (b))
#define assert_string_equal(a, b) AZ(strcmp(a, b))
#define print_message printf
#else
/* after the four headers that it needs */
#include <cmocka.h>
#endif

#define ANN 0xa11ceull
#define BOB 0xb0bull
#define CALLS_MAX 64
#define FRAMES_MAX 4096

struct asked {
	struct node_call *call;
	bool is_query;
	uint32_t shard;
	struct cmd cmd;
	struct query query;
	uint8_t body[256], headers[256]; /* what cmd.send pointed at */
};

struct world {
	struct clock clock;
	uint64_t now_us, wall_ms, armed_ms;
	struct rand rand;
	struct route route;
	struct session_env env;
	struct session s;
	enum wire_format format;

	struct asked asked[CALLS_MAX]; /* oldest first */
	unsigned n_asked, cancelled;
	struct node_sub *sub;          /* NULL: not subscribed */
	unsigned subs, unsubs;
	uint64_t credit_acked;
	uint32_t credit_window;
	unsigned credits;
	bool sub_paused;

	struct buf frames[FRAMES_MAX];
	unsigned n_frames, frame;      /* of them read */
	bool in_frame;
	struct wire w;                 /* the last one read */
	struct buf scratch;            /* behind w */
	unsigned code;                 /* of close, 0: open */
	char reason[128];
};
static struct world *the_world;

/* ---- the node ----------------------------------------------------------------- */

static struct asked *ask(struct node_call *c, uint32_t shard)
{
	struct world *d = the_world;
	struct asked *a;

	assert_true(d->n_asked < CALLS_MAX);
	a = &d->asked[d->n_asked++];
	memset(a, 0, sizeof *a);
	a->call = c;
	a->shard = shard;
	return a;
}

void node_propose(struct node *n, uint32_t shard, const struct cmd *cmd,
		  struct node_call *c)
{
	struct asked *a = ask(c, shard);

	(void)n;
	a->cmd = *cmd;
	if (cmd->type != CMD_SEND)
		return;
	if (cmd->send.body_len && cmd->send.body_len <= sizeof a->body)
		memcpy(a->body, cmd->send.body, cmd->send.body_len);
	if (cmd->send.headers_len && cmd->send.headers_len <= sizeof a->headers)
		memcpy(a->headers, cmd->send.headers, cmd->send.headers_len);
}

void node_query(struct node *n, uint32_t shard, const struct query *q,
		struct node_call *c)
{
	struct asked *a = ask(c, shard);

	(void)n;
	a->is_query = true;
	a->query = *q;
}

static void asked_remove(struct world *d, unsigned i)
{
	d->n_asked--;
	memmove(&d->asked[i], &d->asked[i + 1],
		(d->n_asked - i) * sizeof d->asked[0]);
}

void node_call_cancel(struct node *n, struct node_call *c)
{
	struct world *d = the_world;
	unsigned i;

	(void)n;
	for (i = 0; i < d->n_asked; i++)
		if (d->asked[i].call == c)
			break;
	assert_true(i < d->n_asked); /* only what is open is cancelled */
	asked_remove(d, i);
	d->cancelled++;
}

uint32_t node_shard_of(const struct node *n, uint64_t id)
{
	(void)n;
	return (uint32_t)(id % 16);
}

void node_subscribe(struct node *n, uint32_t shard, struct node_sub *s)
{
	(void)n;
	assert_null(the_world->sub);
	assert_int_equal(shard, s->account % 16);
	the_world->sub = s;
	the_world->subs++;
	the_world->sub_paused = false;
}

void node_sub_credit(struct node *n, struct node_sub *s, uint64_t acked,
		     uint32_t window)
{
	(void)n;
	assert_ptr_equal(the_world->sub, s);
	the_world->credit_acked = acked;
	the_world->credit_window = window;
	the_world->credits++;
}

void node_sub_pause(struct node *n, struct node_sub *s, bool paused)
{
	(void)n;
	assert_ptr_equal(the_world->sub, s);
	the_world->sub_paused = paused;
}

void node_unsubscribe(struct node *n, struct node_sub *s)
{
	(void)n;
	assert_ptr_equal(the_world->sub, s);
	the_world->sub = NULL;
	the_world->unsubs++;
}

/* The i-th open call gets its answer. */
static void answer(struct world *d, unsigned i, int status, struct result *r)
{
	struct node_call *c = d->asked[i].call;

	assert_true(i < d->n_asked);
	asked_remove(d, i);
	c->cb(c, status, r);
}

static inline void answer_status(struct world *d, unsigned i, int st)
{
	struct result r = { .status = st };

	answer(d, i, 0, &r);
}

static inline void sub_end(struct world *d, int why)
{
	struct node_sub *s = d->sub;

	assert_non_null(s);
	d->sub = NULL;
	s->end(s, why);
}

static struct record record_of(uint64_t n)
{
	return (struct record){
		.kind = RECORD_MESSAGE, .cls = 1, .key = ANN, .n = n,
		.offset = 100 + n, .time_ms = 5000 + n, .lamport = 10 * n,
		.sender = BOB, .device = 1, .seq = n,
		.payload = (const uint8_t *)"hello", .payload_len = 5,
	};
}

/* Records [from, to] and the end of their run. */
static inline void records(struct world *d, uint64_t from, uint64_t to)
{
	for (; from <= to && d->sub; from++) {
		struct record r = record_of(from);

		d->sub->record(d->sub, &r);
	}
	if (d->sub)
		d->sub->flush(d->sub);
}

/* ---- clock, tokens, the socket --------------------------------------------------- */

static uint64_t world_mono(struct clock *c)
{
	(void)c;
	return the_world->now_us;
}

static uint64_t world_wall(struct clock *c)
{
	(void)c;
	return the_world->wall_ms;
}

/* Tokens of this world: "good ACCOUNT DEVICE EPOCH EXPIRES_S", all hex. */
static enum token_verdict world_verify(void *arg, const char *token, size_t len,
				       uint64_t now_s, struct token_claims *claims,
				       const char **why)
{
	char text[128] = { 0 };
	unsigned long long account, device, epoch, expires;

	(void)arg;
	*why = "said the test";
	if (len == 0)
		return TOKEN_MISSING;
	assert_true(len < sizeof text);
	memcpy(text, token, len);
	if (sscanf(text, "good %llx %llx %llx %llx", &account, &device, &epoch,
		   &expires) != 4)
		return TOKEN_INVALID;
	if (expires <= now_s)
		return TOKEN_EXPIRED;
	*claims = (struct token_claims){ .account = account,
					 .device = (uint32_t)device,
					 .epoch = (uint32_t)epoch,
					 .expires_s = expires };
	return TOKEN_OK;
}

static struct buf *io_begin(void *arg)
{
	struct world *d = arg;

	assert_int_equal(d->code, 0);
	assert_false(d->in_frame);
	assert_true(d->n_frames < FRAMES_MAX);
	d->in_frame = true;
	return &d->frames[d->n_frames++];
}

static void io_end(void *arg)
{
	((struct world *)arg)->in_frame = false;
}

static void io_close(void *arg, unsigned code, const char *reason)
{
	struct world *d = arg;

	assert_int_equal(d->code, 0);
	assert_int_equal(d->s.state, SESSION_CLOSED);
	d->code = code;
	snprintf(d->reason, sizeof d->reason, "%s", reason ? reason : "");
}

static void io_arm(void *arg, uint64_t deadline_ms)
{
	struct world *d = arg;

	if (deadline_ms < d->armed_ms)
		d->armed_ms = deadline_ms;
}

static const struct session_io world_io = { io_begin, io_end, io_close, io_arm };

/* Time passes; timers run when they were asked for, as conn.c does it. */
static inline void pass(struct world *d, uint64_t ms)
{
	uint64_t until_us = d->now_us + ms * 1000;

	for (;;) {
		uint64_t due = d->armed_ms * 1000, route = route_deadline_us(&d->route);
		uint64_t next = route < due ? route : due;

		if (d->armed_ms == UINT64_MAX)
			next = route;
		if (next > until_us)
			break;
		if (next > d->now_us) {
			d->wall_ms += (next - d->now_us) / 1000;
			d->now_us = next;
		}
		route_tick(&d->route);
		if (d->armed_ms > d->now_us / 1000)
			continue;
		d->armed_ms = UINT64_MAX;
		if (session_deadline_ms(&d->s) <= d->now_us / 1000)
			session_tick(&d->s);
		if (session_deadline_ms(&d->s) < d->armed_ms)
			d->armed_ms = session_deadline_ms(&d->s);
	}
	d->wall_ms += (until_us - d->now_us) / 1000;
	d->now_us = until_us;
}

/* ---- the client ------------------------------------------------------------------- */

static inline void say(struct world *d, const struct wire *w)
{
	struct buf b = BUF_INIT;

	wire_encode(w, d->format, &b);
	session_message(&d->s, b.data, b.len);
	buf_release(&b);
}

/* The next frame, which must be `t`. */
static struct wire *expect(struct world *d, unsigned t)
{
	struct buf *b = &d->frames[d->frame];
	struct err e = { 0 };
	int rv;

	assert_true(d->frame < d->n_frames);
	d->frame++;
	rv = wire_decode(&d->w, d->format, WIRE_SERVER, b->data, b->len,
			 &d->scratch, &e);
	if (rv)
		print_message("%s\n", e.msg);
	assert_int_equal(rv, 0);
	assert_int_equal(d->w.u[W_T], t);
	return &d->w;
}

static inline void expect_nothing(struct world *d)
{
	assert_int_equal(d->frame, d->n_frames);
}

static inline void expect_error(struct world *d, const char *name, uint64_t id,
			 unsigned code)
{
	struct wire *w = expect(d, WIRE_ERROR);
	char got[64];

	wire_problem_name(w, got, sizeof got, NULL);
	assert_string_equal(got, name);
	if (id == UINT64_MAX)
		assert_false(wire_has(w, W_ID));
	else
		assert_int_equal(w->u[W_ID], id);
	assert_int_equal(wire_u(w, W_CODE), code);
}

static inline void expect_close(struct world *d, unsigned code)
{
	expect_nothing(d);
	assert_int_equal(d->code, code);
	assert_int_equal(d->s.state, SESSION_CLOSED);
	assert_null(d->sub);
	assert_int_equal(session_deadline_ms(&d->s), UINT64_MAX);
}

#endif
