/* Records of the inbox: in order of n, once, acknowledged when stored
 * (protocol.md 8 and 11).
 *
 *   deliver n == cursor + 1   store.record(), to the owner, cursor = n
 *   deliver n <= cursor       had it: dropped
 *   deliver n >  cursor + 1   the numbers between are gone: a hole, told
 *   enough of them, or CLIENT_RECV_DELAY_MS later: store.sync(), then recv */
#include "base/alloc.h"
#include "base/assert.h"
#include "client/impl.h"

#include <stdlib.h>
#include <string.h>

#define FLAG_GONE 16u

static void owner(struct client *c, struct client_event *ev)
{
	if (c->cfg.event)
		c->cfg.event(c->cfg.arg, ev);
}

static void record_of(const struct wire *w, struct client_record *r)
{
	memset(r, 0, sizeof *r);
	r->n = wire_u(w, W_N);
	r->from = wire_u(w, W_FROM);
	r->seq = wire_u(w, W_SEQ);
	r->lamport = wire_u(w, W_LAMPORT);
	r->stamp = wire_u(w, W_STAMP);
	r->time_ms = wire_u(w, W_TIME);
	r->group = wire_u(w, W_GROUP);
	r->device = (uint32_t)wire_u(w, W_DEV);
	r->flags = (uint32_t)wire_u(w, W_FLAGS);
	r->ttl = (uint32_t)wire_u(w, W_TTL);
	r->cls = (uint8_t)wire_u(w, W_CLASS);
	if (wire_has(w, W_MID) && w->b[W_MID].n == sizeof r->mid)
		memcpy(r->mid, w->b[W_MID].p, sizeof r->mid);
	if (wire_has(w, W_BODY)) {
		r->body = w->b[W_BODY].p;
		r->body_len = w->b[W_BODY].n;
	}
}

/* ---- the place in the inbox ----------------------------------------------- */

static bool keep_meta(struct client *c)
{
	struct client_meta m = { .cursor = c->inbox.cursor, .lamport = c->lamport,
				 .seq = c->outbox.seq, .epoch = c->inbox.epoch,
				 .known = c->inbox.known };
	struct err e;

	c->dirty = true;
	if (c->cfg.store->ops->meta(c->cfg.store, &m, &e) == 0)
		return true;
	client_store_failed(c, &e);
	return false;
}

static void recv_soon(struct client *c)
{
	struct inbox *in = &c->inbox;
	uint64_t now = client_now(c);

	if (in->recv_us == 0)
		in->recv_us = now + CLIENT_RECV_DELAY_MS * 1000ull;
	/* Half a window is enough company. */
	if (in->cursor - in->acked >= (in->window + 1) / 2)
		in->recv_us = now;
}

static void skip(struct client *c, uint64_t from, uint64_t to)
{
	struct client_event ev = { .type = CLIENT_EV_HOLE, .from = from, .to = to };

	c->inbox.cursor = to;
	if (!keep_meta(c))
		return;
	owner(c, &ev);
	recv_soon(c);
}

void inbox_on_welcome(struct client *c, const struct wire *w)
{
	struct inbox *in = &c->inbox;
	struct wire_bytes why = w->b[W_REASON];
	bool resumed = wire_u(w, W_RESUMED);
	uint64_t oldest = wire_u(w, W_TRUNCATED);

	in->end = wire_u(w, W_N);
	if (wire_u(w, W_WINDOW))
		in->window = (uint32_t)w->u[W_WINDOW];
	if (!resumed && wire_has(w, W_REASON) && why.n == 8 &&
	    memcmp(why.p, "rollback", 8) == 0) {
		client_stop(c, "rollback");
		return;
	}
	if (!resumed && wire_has(w, W_REASON) && why.n == 5 &&
	    memcmp(why.p, "ahead", 5) == 0) {
		client_stop(c, "ahead");
		return;
	}
	if (!resumed) {
		/* New here, or the shard lost history: begin where it says.  What
		 * is stored stays; what is open is sent with its number. */
		in->open_start = !wire_has(w, W_CURSOR);
		in->cursor = wire_u(w, W_CURSOR);
	}
	if (!resumed || in->epoch != wire_u(w, W_EPOCH) || !in->known) {
		in->epoch = (uint32_t)wire_u(w, W_EPOCH);
		/* With an open start there is no place to keep yet. */
		in->known = !in->open_start;
		if (in->known && !keep_meta(c))
			return;
	}
	in->acked = in->cursor;
	if (oldest > in->cursor + 1 && !in->open_start)
		skip(c, in->cursor + 1, oldest - 1);
}

void inbox_on_deliver(struct client *c, const struct wire *w)
{
	struct inbox *in = &c->inbox;
	struct client_record r;
	struct client_event ev = { .type = CLIENT_EV_RECORD, .record = &r };
	struct err e;

	record_of(w, &r);
	if (r.n == 0)
		return;
	if (in->open_start) {
		in->open_start = false;
		in->known = true;
		in->cursor = in->acked = r.n - 1;
		if (!keep_meta(c))
			return;
	}
	client_heard_clock(c, r.lamport, r.stamp);
	if (r.n <= in->cursor) {
		/* Sent twice: the gateway has not heard our place. */
		recv_soon(c);
		return;
	}
	if (r.n > in->cursor + 1)
		skip(c, in->cursor + 1, r.n - 1);
	if (c->state == CLIENT_STOPPED)
		return;
	if (r.n > in->end)
		in->end = r.n;
	if (r.flags & FLAG_GONE) {
		skip(c, r.n, r.n);
		return;
	}
	c->dirty = true;
	if (c->cfg.store->ops->record(c->cfg.store, &r, &e)) {
		client_store_failed(c, &e);
		return;
	}
	in->cursor = r.n;
	recv_soon(c);
	owner(c, &ev);
}

void inbox_disconnected(struct client *c)
{
	c->inbox.recv_us = 0;
	c->inbox.n_fetch = 0;
}

/* ---- what goes out -------------------------------------------------------- */

bool inbox_recv_due(const struct client *c, uint64_t now)
{
	const struct inbox *in = &c->inbox;

	return in->recv_us && (now >= in->recv_us || c->closing || c->draining);
}

bool inbox_next(struct client *c)
{
	struct inbox *in = &c->inbox;
	struct wire *w = &c->w;
	unsigned i;

	if (inbox_recv_due(c, client_now(c))) {
		if (!client_sync(c))
			return false;
		in->recv_us = 0;
		in->acked = in->cursor;
		wire_start(w, WIRE_RECV);
		wire_set(w, W_CURSOR, in->cursor);
		return true;
	}
	for (i = 0; i < in->n_fetch && !c->closing && !c->draining; i++) {
		struct fetch *f = &in->fetch[i];

		if (f->sent)
			continue;
		f->sent = true;
		f->id = ++c->id;
		wire_start(w, WIRE_SYNC);
		wire_set(w, W_ID, f->id);
		wire_set(w, W_LIMIT, f->limit);
		wire_set(w, f->before ? W_BEFORE : W_CURSOR,
			 f->before ? f->before : f->cursor);
		return true;
	}
	return false;
}

/* ---- pages ---------------------------------------------------------------- */

int client_fetch(struct client *c, uint64_t cursor, uint64_t before,
		 uint32_t limit, struct err *e)
{
	struct inbox *in = &c->inbox;
	struct fetch *f;

	if (c->state != CLIENT_CATCHUP && c->state != CLIENT_LIVE)
		return err_set(e, ERR_UNAVAILABLE, "not connected");
	if (limit < 1 || limit > 500 || cursor > WIRE_U_MAX || before > WIRE_U_MAX)
		return err_set(e, ERR_INVALID, "a page has 1 to 500 records");
	if (in->n_fetch == CLIENT_FETCHES_MAX)
		return err_set(e, ERR_FULL, "%u pages are being read",
			       CLIENT_FETCHES_MAX);
	f = &in->fetch[in->n_fetch++];
	memset(f, 0, sizeof *f);
	f->cursor = cursor;
	f->before = before;
	f->limit = limit;
	return 0;
}

static bool take_fetch(struct client *c, uint64_t id)
{
	struct inbox *in = &c->inbox;
	unsigned i;

	for (i = 0; i < in->n_fetch; i++) {
		if (!in->fetch[i].sent || in->fetch[i].id != id)
			continue;
		in->n_fetch--;
		memmove(&in->fetch[i], &in->fetch[i + 1],
			(in->n_fetch - i) * sizeof in->fetch[0]);
		return true;
	}
	return false;
}

void inbox_on_page(struct client *c, const struct wire *w)
{
	struct client_event ev = { .type = CLIENT_EV_PAGE };
	struct client_record *recs;
	struct wire_iter it;
	struct wire *item;
	uint64_t max_lamport = 0, max_stamp = 0;
	size_t n = 0;

	if (!take_fetch(c, wire_u(w, W_ID)))
		return;
	recs = xmalloc(500 * sizeof *recs);
	item = xmalloc(sizeof *item);
	wire_iter_init(&it, w, W_ITEMS);
	while (n < 500 && wire_iter_item(&it, item)) {
		record_of(item, &recs[n]);
		if (recs[n].lamport > max_lamport)
			max_lamport = recs[n].lamport;
		if (recs[n].stamp > max_stamp)
			max_stamp = recs[n].stamp;
		n++;
	}
	client_heard_clock(c, max_lamport, max_stamp);
	ev.records = recs;
	ev.n_records = n;
	ev.next = wire_u(w, W_NEXT);
	ev.complete = wire_u(w, W_COMPLETE);
	owner(c, &ev);
	free(item);
	free(recs);
}

/* A page that was refused: the owner gets an empty one that is not complete. */
bool inbox_on_error(struct client *c, const struct wire *w)
{
	struct client_event ev = { .type = CLIENT_EV_PAGE };
	char name[32];

	if (!wire_has(w, W_ID) || !take_fetch(c, w->u[W_ID]))
		return false;
	wire_problem_name(w, name, sizeof name, NULL);
	ev.reason = name;
	owner(c, &ev);
	return true;
}
