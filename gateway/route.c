#include "gateway/route.h"
#include "base/alloc.h"
#include "base/assert.h"

#include <stdlib.h>
#include <string.h>

#define SLAB_CALLS 64
/* Bodies above this are given back to malloc when their call ends. */
#define BODY_KEEP_MAX 4096

struct slab {
	struct list link;
	struct route_call calls[SLAB_CALLS];
};

void route_init(struct route *r, struct node *node, struct clock *clock,
		struct rand *rand)
{
	memset(r, 0, sizeof *r);
	r->node = node;
	r->clock = clock;
	r->rand = rand;
	r->next_ms = UINT64_MAX;
	r->patience_ms = ROUTE_DEADLINE_MS;
	list_init(&r->open);
	list_init(&r->waiting);
	list_init(&r->free);
	list_init(&r->slabs);
}

void route_release(struct route *r)
{
	struct list *l;

	while (!list_empty(&r->open))
		route_cancel(r, container_of(r->open.next, struct route_call,
					     link));
	while ((l = list_pop(&r->slabs)) != NULL) {
		struct slab *s = container_of(l, struct slab, link);
		unsigned i;

		for (i = 0; i < SLAB_CALLS; i++)
			buf_release(&s->calls[i].body);
		free(s);
	}
}

/* Calls come from slabs that are never given back: after the first burst the path
 * of a message allocates nothing. */
static void slab_add(struct route *r)
{
	struct slab *s = xcalloc(1, sizeof *s);
	unsigned i;

	list_append(&r->slabs, &s->link);
	for (i = 0; i < SLAB_CALLS; i++)
		list_append(&r->free, &s->calls[i].link);
}

static void on_answer(struct node_call *nc, int status,
		      const struct result *res);

struct route_call *route_get(struct route *r)
{
	struct route_call *c;

	if (r->n_open >= ROUTE_OPEN_MAX) {
		r->full++;
		return NULL;
	}
	if (list_empty(&r->free))
		slab_add(r);
	/* The most recently used call is the one in the cache. */
	c = container_of(r->free.next, struct route_call, link);
	list_remove(&c->link);
	list_init(&c->retry);
	c->call.cb = on_answer;
	c->call.arg = c;
	c->route = r;
	c->tries = 0;
	c->is_query = c->at_node = c->unknown = c->once = false;
	c->deadline_ms = 0;
	memset(&c->cmd, 0, sizeof c->cmd);
	buf_clear(&c->body);
	r->n_open++;
	return c;
}

void route_put(struct route *r, struct route_call *c)
{
	AN(!c->at_node);
	AN(r->n_open > 0);
	list_remove(&c->link);
	list_remove(&c->retry);
	r->bytes -= c->body.len;
	buf_clear(&c->body);
	if (c->body.cap > BODY_KEEP_MAX)
		buf_release(&c->body);
	r->n_open--;
	list_prepend(&r->free, &c->link);
}

static void submit(struct route *r, struct route_call *c)
{
	uint32_t shard = node_shard_of(r->node, c->id);

	c->at_node = true;
	if (c->is_query)
		node_query(r->node, shard, &c->query, &c->call);
	else
		node_propose(r->node, shard, &c->cmd, &c->call);
}

/* All calls have equal patience, so the open list is sorted by deadline. */
static void begin(struct route *r, struct route_call *c)
{
	c->deadline_ms = clock_ms(r->clock) + r->patience_ms;
	c->tries = 0;
	c->unknown = false;
	list_remove(&c->link);
	list_append(&r->open, &c->link);
	r->calls++;
	submit(r, c);
}

int route_keep(struct route *r, struct route_call *c, const void *p, size_t n)
{
	if (r->bytes + n > ROUTE_BYTES_MAX) {
		r->full++;
		return ERR_FULL;
	}
	buf_put(&c->body, p, n);
	r->bytes += n;
	return 0;
}

int route_propose(struct route *r, struct route_call *c)
{
	struct cmd_send *s = &c->cmd.send;

	AN(!c->at_node);
	c->is_query = false;
	if (c->cmd.type == CMD_SEND && s->body_len &&
	    s->body != c->body.data) {
		AN(c->body.len == 0);
		if (route_keep(r, c, s->body, s->body_len))
			return ERR_FULL;
		s->body = c->body.data;
	}
	begin(r, c);
	return 0;
}

void route_query(struct route *r, struct route_call *c)
{
	AN(!c->at_node);
	c->is_query = true;
	begin(r, c);
}

static void wait_more(struct route *r, struct route_call *c, uint64_t now_ms)
{
	unsigned shift = c->tries < 5 ? c->tries : 5;
	uint64_t ms = (uint64_t)ROUTE_BACKOFF_MIN_MS << shift;

	if (ms > ROUTE_BACKOFF_MAX_MS)
		ms = ROUTE_BACKOFF_MAX_MS;
	ms = ms / 2 + rand_below(r->rand, ms / 2 + 1);
	if (c->tries < UINT8_MAX)
		c->tries++;
	c->retry_ms = now_ms + ms;
	if (c->retry_ms < r->next_ms)
		r->next_ms = c->retry_ms;
	list_append(&r->waiting, &c->retry);
	r->retries++;
}

bool route_again(struct route *r, struct route_call *c)
{
	uint64_t now_ms = clock_ms(r->clock);

	AN(!c->at_node);
	if (now_ms >= c->deadline_ms)
		return false;
	wait_more(r, c, now_ms);
	return true;
}

void route_now(struct route *r, struct route_call *c)
{
	AN(!c->at_node);
	AN(list_empty(&c->retry));
	submit(r, c);
}

static void finish(struct route_call *c)
{
	struct route *r = c->route;

	r->timeouts++;
	c->cb(c, c->unknown ? ERR_UNKNOWN_OUTCOME : ERR_UNAVAILABLE, NULL);
}

static void on_answer(struct node_call *nc, int status,
		      const struct result *res)
{
	struct route_call *c = nc->arg;
	struct route *r = c->route;
	uint64_t now_ms;

	c->at_node = false;
	switch (status) {
	case ERR_UNKNOWN_OUTCOME:
		c->unknown = true;
		if (c->once) {
			finish(c);
			return;
		}
		break;
	case ERR_NOT_LEADER:
	case ERR_BUSY:
	case ERR_FULL:
	case ERR_UNAVAILABLE:
		break;
	case ERR_NOSPACE: /* an answer like the shard's own */
		c->cb(c, 0, &(struct result){ .status = ST_DISK_FULL });
		return;
	default:
		c->cb(c, status, res);
		return;
	}
	now_ms = clock_ms(r->clock);
	if (now_ms >= c->deadline_ms)
		finish(c);
	else
		wait_more(r, c, now_ms);
}

void route_cancel(struct route *r, struct route_call *c)
{
	if (c->at_node) {
		node_call_cancel(r->node, &c->call);
		c->at_node = false;
	}
	route_put(r, c);
}

uint64_t route_deadline_us(const struct route *r)
{
	uint64_t ms = r->next_ms;

	if (!list_empty(&r->open)) {
		const struct route_call *c = container_of(
			r->open.next, struct route_call, link);

		if (c->deadline_ms < ms)
			ms = c->deadline_ms;
	}
	return ms == UINT64_MAX ? UINT64_MAX : ms * 1000;
}

void route_tick(struct route *r)
{
	uint64_t now_ms = clock_ms(r->clock);
	struct list due;

	while (!list_empty(&r->open)) {
		struct route_call *c = container_of(r->open.next,
						    struct route_call, link);

		if (c->deadline_ms > now_ms)
			break;
		if (c->at_node) {
			node_call_cancel(r->node, &c->call);
			c->at_node = false;
			c->unknown = true;
		}
		list_remove(&c->retry);
		list_remove(&c->link);
		finish(c);
	}
	if (r->next_ms > now_ms)
		return;
	/* In the order in which they began to wait, so that the sends of one
	 * connection mostly keep theirs; new ones go to the list's end. */
	list_init(&due);
	r->next_ms = UINT64_MAX;
	LIST_FOREACH_SAFE(l, &r->waiting)
	{
		struct route_call *c = container_of(l, struct route_call, retry);

		if (c->retry_ms <= now_ms) {
			list_remove(l);
			list_append(&due, l);
		} else if (c->retry_ms < r->next_ms) {
			r->next_ms = c->retry_ms;
		}
	}
	while (!list_empty(&due))
		submit(r, container_of(list_pop(&due), struct route_call,
				       retry));
}
