/* sync: one page of the inbox, forward from a cursor or backward from `before`.
 * Reads only; the session's own place does not move. */
#include "gateway/session_impl.h"
#include "base/cursor.h"

#include <string.h>

/* In route_call.priv. */
struct page {
	struct list link; /* session->pages */
	uint64_t id;
};

static struct page *page_of(struct route_call *c)
{
	return (struct page *)(void *)c->priv;
}

static struct route_call *call_of(struct list *l)
{
	struct page *x = container_of(l, struct page, link);

	return (struct route_call *)(void *)((char *)x -
					     offsetof(struct route_call, priv));
}

static void forget(struct session *s, struct route_call *c)
{
	list_remove(&page_of(c)->link);
	s->n_pages--;
}

void sync_cancel_all(struct session *s)
{
	while (!list_empty(&s->pages)) {
		struct route_call *c = call_of(s->pages.next);

		forget(s, c);
		route_cancel(s->env->route, c);
	}
}

/* Bytes of an item that are not body or key, in CBOR. */
#define ITEM_MAX 160

/* How many of the records fit into one frame. */
static uint32_t count_fitting(const struct session *s, const struct result *res)
{
	struct cursor in = cursor_of(res->records, res->records_len);
	size_t bytes = 0;
	struct record r;
	uint32_t n;

	for (n = 0; n < res->n_records; n++) {
		if (record_get_wire(&r, &in))
			break;
		/* Of its headers a device gets one key. */
		if (s->format == WIRE_CBOR)
			bytes += ITEM_MAX + r.payload_len + r.headers_len;
		else
			bytes += wire_deliver_max(r.payload_len, r.headers_len);
		if (n && bytes > SESSION_PAGE_BYTES)
			break;
	}
	return n;
}

static void put_page(struct session *s, const struct route_call *c, uint64_t id,
		     const struct result *res)
{
	struct cursor in = cursor_of(res->records, res->records_len);
	uint64_t wall_ms = clock_wall_ms(s->env->clock), next = res->next;
	uint32_t n = count_fitting(s, res), i;
	struct buf *items = &s->env->scratch, keys = BUF_INIT;
	bool complete = res->complete && n == res->n_records;
	struct wire w;
	struct record r;

	buf_clear(items);
	wire_make_array(items, n);
	for (i = 0; i < n; i++) {
		AZ(record_get_wire(&r, &in)); /* it was counted */
		deliver_fill(&w, &r, s->device, wall_ms, &keys);
		wire_make_item(items, &w);
		next = c->query.back ? r.n : r.n + 1;
	}
	buf_release(&keys);
	wire_start(&w, WIRE_PAGE);
	wire_set(&w, W_ID, id);
	wire_put(&w, W_ITEMS, items->data, items->len);
	wire_set(&w, W_NEXT, next);
	wire_set(&w, W_COMPLETE, complete);
	if (res->inbox_oldest > 1 && !c->query.back &&
	    c->query.from < res->inbox_oldest)
		wire_set(&w, W_TRUNCATED, res->inbox_oldest);
	session_put(s, &w);
}

static void on_page(struct route_call *c, int status, const struct result *res)
{
	struct session *s = c->arg;
	uint64_t id = page_of(c)->id;

	forget(s, c);
	if (status == ERR_FORMAT) {
		session_error(s, P_INTERNAL, id, SESSION_NO_ID, NULL, NULL);
	} else if (status) {
		session_error(s, P_UNAVAILABLE, id, SESSION_NO_ID, NULL, "none");
	} else if (res->status) {
		session_error_status(s, res->status, id, SESSION_NO_ID);
	} else {
		if (res->inbox_end > s->end)
			s->end = res->inbox_end;
		put_page(s, c, id, res);
	}
	route_put(s->env->route, c);
}

void sync_on_frame(struct session *s, const struct wire *w)
{
	uint64_t id = w->u[W_ID];
	bool back = wire_has(w, W_BEFORE);
	struct route_call *c;

	if (back == wire_has(w, W_CURSOR) || w->u[W_LIMIT] == 0) {
		session_error(s, P_BAD_REQUEST, id, SESSION_NO_ID,
			      w->u[W_LIMIT] ? "either cursor or before" :
					      "limit is 0",
			      NULL);
		return;
	}
	if (s->n_pages >= SESSION_PAGES_MAX) {
		session_error(s, P_TOO_MANY_OPEN, id, SESSION_NO_ID, NULL, NULL);
		return;
	}
	c = route_get(s->env->route);
	if (!c) {
		session_error(s, P_BUSY, id, SESSION_NO_ID, NULL, NULL);
		return;
	}
	memset(&c->query, 0, sizeof c->query);
	c->id = s->account;
	c->cb = on_page;
	c->arg = s;
	c->query.type = QUERY_PAGE;
	c->query.account = s->account;
	c->query.device = s->device;
	c->query.back = back;
	c->query.from = back ? w->u[W_BEFORE] : w->u[W_CURSOR] + 1;
	c->query.limit = (uint32_t)w->u[W_LIMIT];
	c->query.max_bytes = QUERY_BYTES_MAX;
	page_of(c)->id = id;
	list_append(&s->pages, &page_of(c)->link);
	s->n_pages++;
	route_query(s->env->route, c);
}
