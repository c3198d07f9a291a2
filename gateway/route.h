/* From an account to the leader of its shard, with patience: one command or query,
 * tried again, always the same bytes, until it has an answer or patience_ms are
 * over.  Sans-I/O: a node, a clock and dice.
 *
 *	c = route_get(r)          NULL: full, an answer to the client
 *	fill c->cmd or c->query, c->id, c->cb, c->arg
 *	route_propose(r, c) or route_query(r, c)
 *	   ... cb(c, status, result), from node_turn(), node_tick(), route_tick()
 *	route_put(r, c), or in the callback once more route_propose(), or
 *	route_again() when the shard's refusal may pass (ST_GAP)
 *
 * Nothing is retried that was answered.  A try whose outcome is unknown is
 * followed by the same command: the shard's dedupe makes it one.  Commands that it
 * does not know (a new device) set c->once. */
#ifndef QUIPU_GATEWAY_ROUTE_H
#define QUIPU_GATEWAY_ROUTE_H

#include "base/list.h"
#include "consensus/node.h"

#define ROUTE_OPEN_MAX 32768       /* calls of one gateway */
#define ROUTE_BYTES_MAX (128u << 20) /* their bodies */
#define ROUTE_DEADLINE_MS 10000 /* of a route whose owner sets no other */
#define ROUTE_BACKOFF_MIN_MS 10
#define ROUTE_BACKOFF_MAX_MS 200
#define ROUTE_PRIV 16

struct route_call;
/* status 0: `res` is the shard's answer, borrowed.  Else the last word:
 *   ERR_UNAVAILABLE      no leader answered in time; nothing was done
 *   ERR_UNKNOWN_OUTCOME  as before, but a try may have been carried out
 *   ERR_FORMAT           our encoding was refused (a bug) */
typedef void route_cb(struct route_call *c, int status,
		      const struct result *res);

struct route_call {
	struct node_call call;
	struct list link;          /* route->open, by deadline */
	struct list retry;         /* route->waiting */
	uint64_t deadline_ms, retry_ms;
	uint64_t id;               /* whose shard: account */
	struct cmd cmd;
	struct query query;
	struct buf body;           /* own copy of cmd.send's bytes */
	struct route *route;
	route_cb *cb;
	void *arg;
	uint8_t tries;
	bool is_query, at_node, unknown;
	bool once;                 /* no dedupe would make two of it one: an unknown
				      outcome is the last word */
	uint64_t priv[ROUTE_PRIV]; /* the caller's */
};

struct route {
	struct node *node;
	struct clock *clock;
	struct rand *rand;
	struct list open, waiting, free, slabs;
	uint64_t next_ms;          /* earliest retry_ms of `waiting`, or more */
	uint32_t patience_ms;      /* of every call alike; set before the first */
	uint32_t n_open;
	size_t bytes;
	uint64_t calls, retries, timeouts, full;
};

void route_init(struct route *r, struct node *node, struct clock *clock,
		struct rand *rand);
/* Cancels what is open: no more callbacks. */
void route_release(struct route *r);

struct route_call *route_get(struct route *r);
void route_put(struct route *r, struct route_call *c);
/* Append to the call's own bytes, for what c->cmd.send borrows: first the body, then
 * its headers; point at them in c->body when all are in.  ERR_FULL:
 * ROUTE_BYTES_MAX. */
int route_keep(struct route *r, struct route_call *c, const void *p, size_t n);
/* First try now; the callback never runs inside.  c->cmd.send.body is copied
 * unless it already is the call's own.  ERR_FULL: ROUTE_BYTES_MAX; no callback
 * then, and the call is still the caller's. */
int route_propose(struct route *r, struct route_call *c);
void route_query(struct route *r, struct route_call *c);
/* From the callback: another try of the same after a pause, under the deadline
 * of the first.  false when that is over. */
bool route_again(struct route *r, struct route_call *c);
/* Another try of the same at once, under the deadline of the first: for a call
 * that was kept aside after its callback. */
void route_now(struct route *r, struct route_call *c);
/* No callback any more; back to the pool.  The outcome is unknown. */
void route_cancel(struct route *r, struct route_call *c);

uint64_t route_deadline_us(const struct route *r);
void route_tick(struct route *r);

#endif
