/* Sends, from client_send() until they are settled (protocol.md 6 and 7).
 *
 *              next()          ack, 404, void acked
 *   QUEUED ------------> WIRE ----------------------> settled
 *     ^  ^                |  |
 *     |  +--- at_us ------+  +-- gap --> BLOCKED -- predecessor settled --> QUEUED
 *     |       (WAIT: 429, 5xx)
 *     +--- connection lost, or no answer in CLIENT_RESEND_MS
 *
 * A send that is refused for good becomes a void: the same number and message id
 * with class 0, kept in the store before it goes out.  Its ack takes the number
 * away from any late duplicate of the message. */
#include "base/alloc.h"
#include "base/assert.h"
#include "client/impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void outbox_init(struct outbox *o)
{
	list_init(&o->all);
	map_init(&o->by_seq);
	map_init(&o->tails);
}

static void send_free(struct send *s)
{
	free((void *)(uintptr_t)s->e.body);
	free(s);
}

void outbox_release(struct outbox *o)
{
	struct list *l;

	while ((l = list_pop(&o->all)))
		send_free(container_of(l, struct send, link));
	map_release(&o->by_seq);
	map_release(&o->tails);
}

static struct send *first(const struct outbox *o)
{
	return list_empty(&o->all) ? NULL
				   : container_of(o->all.next, struct send, link);
}

/* Lowest number that is not settled; the next one to be given when all are. */
static uint64_t lowest(const struct outbox *o)
{
	const struct send *s = first(o);

	return s ? s->e.seq : o->seq + 1;
}

static struct send *add(struct client *c, const struct client_entry *e)
{
	struct outbox *o = &c->outbox;
	struct send *s = xcalloc(1, sizeof *s), *tail;

	AN(e->seq > 0 && !map_get(&o->by_seq, e->seq));
	s->e = *e;
	s->e.body = NULL;
	if (e->body_len) {
		uint8_t *body = xmalloc(e->body_len);

		memcpy(body, e->body, e->body_len);
		s->e.body = body;
	}
	list_append(&o->all, &s->link);
	map_put(&o->by_seq, e->seq, s);
	tail = map_put(&o->tails, e->to, s);
	if (tail) {
		s->prev = tail;
		tail->next = s;
	}
	o->n++;
	o->bytes += e->body_len;
	if (e->seq > o->seq)
		o->seq = e->seq;
	return s;
}

static void leave_wire(struct client *c, struct send *s, enum send_state st)
{
	if (s->st == SEND_WIRE)
		c->outbox.wire_bytes -= s->e.body_len;
	s->st = st;
}

/* Out of the lists; the followers that waited for it may go. */
static void drop(struct client *c, struct send *s)
{
	struct outbox *o = &c->outbox;
	struct send *f;

	leave_wire(c, s, SEND_QUEUED);
	if (s->prev)
		s->prev->next = s->next;
	if (s->next)
		s->next->prev = s->prev;
	else if (s->prev)
		map_put(&o->tails, s->e.to, s->prev);
	else
		map_del(&o->tails, s->e.to);
	if (!s->prev)
		for (f = s->next; f && f->st == SEND_BLOCKED; f = f->next)
			f->st = SEND_QUEUED;
	list_remove(&s->link);
	map_del(&o->by_seq, s->e.seq);
	o->n--;
	o->bytes -= s->e.body_len;
}

/* ---- composing ------------------------------------------------------------ */

static int check(const struct client *c, const struct client_draft *d,
		 struct err *e)
{
	const struct outbox *o = &c->outbox;

	if (d->to == 0 || d->cls < 1 || d->cls > 6)
		return err_set(e, ERR_INVALID, "a send needs a destination and a "
			       "class of 1 to 6");
	if (d->body_len > CLIENT_BODY_MAX)
		return err_set(e, ERR_TOO_LARGE, "body of %zu bytes is over %u",
			       d->body_len, CLIENT_BODY_MAX);
	if (o->n >= CLIENT_OUTBOX_MAX ||
	    o->bytes + d->body_len > CLIENT_OUTBOX_BYTES_MAX)
		return err_set(e, ERR_FULL, "%zu messages wait to be sent", o->n);
	if (o->seq >= WIRE_U_MAX)
		return err_set(e, ERR_FULL, "the device's numbers are used up");
	return 0;
}

int client_send(struct client *c, const struct client_draft *d, uint64_t *seq,
		struct err *e)
{
	struct outbox *o = &c->outbox;
	struct client_entry en;
	const struct send *tail;
	struct send *s;
	struct err own;
	int rv;

	if (!e)
		e = &own; /* the device keeps the store's */
	rv = check(c, d, e);
	if (rv)
		return rv;
	memset(&en, 0, sizeof en);
	en.seq = o->seq + 1;
	tail = map_get(&o->tails, d->to);
	en.after = tail ? tail->e.seq : 0;
	en.to = d->to;
	en.seen = c->lamport;
	en.composed_ms = clock_wall_ms(c->cfg.clock);
	en.cls = d->cls;
	en.ttl = d->ttl;
	en.flags = d->flags;
	en.body = d->body;
	en.body_len = (uint32_t)d->body_len;
	if (d->mid)
		memcpy(en.mid, d->mid, sizeof en.mid);
	else
		rand_fill(c->cfg.rand, en.mid, sizeof en.mid);
	rv = c->cfg.store->ops->put(c->cfg.store, &en, e);
	if (rv) {
		/* Its number may be in the store: it is used up. */
		o->seq++;
		client_store_failed(c, e);
		return rv;
	}
	s = add(c, &en);
	s->gen = c->gen;
	c->dirty = true;
	*seq = en.seq;
	return 0;
}

void outbox_load(struct client *c, const struct client_entry *e)
{
	struct send *s = add(c, e);

	s->loaded = true;
	if (e->cls == 0)
		snprintf(s->problem, sizeof s->problem, "refused");
}

/* ---- sending -------------------------------------------------------------- */

void outbox_synced(struct client *c)
{
	c->outbox.low_synced = lowest(&c->outbox);
}

static void frame(struct client *c, const struct send *s)
{
	struct wire *w = &c->w;

	wire_start(w, WIRE_SEND);
	wire_set(w, W_ID, s->id);
	wire_set(w, W_SEQ, s->e.seq);
	wire_set(w, W_AFTER, s->e.after);
	wire_set(w, W_TO, s->e.to);
	wire_put(w, W_MID, s->e.mid, sizeof s->e.mid);
	wire_set(w, W_CLASS, s->e.cls);
	/* A void tells no time: a clock too far ahead may be why it is one. */
	wire_set(w, W_SEEN, s->e.cls ? s->e.seen : 0);
	if (s->e.cls == 0)
		return;
	wire_put(w, W_BODY, s->e.body, s->e.body_len);
	if (s->e.ttl)
		wire_set(w, W_TTL, s->e.ttl);
	if (s->e.flags)
		wire_set(w, W_FLAGS, s->e.flags);
}

bool outbox_next(struct client *c)
{
	struct outbox *o = &c->outbox;
	struct send *s = NULL;
	uint64_t low = lowest(o);

	LIST_FOREACH(l, &o->all) {
		struct send *t = container_of(l, struct send, link);

		if (t->e.seq - low >= CLIENT_SPAN)
			return false;
		if (t->st != SEND_QUEUED ||
		    (t->prev && t->prev->st != SEND_WIRE))
			continue;
		if (o->wire_bytes && o->wire_bytes + t->e.body_len > CLIENT_OPEN_BYTES)
			return false;
		s = t;
		break;
	}
	if (!s)
		return false;
	/* The span counts from what a crash would leave unsettled. */
	if ((s->gen >= c->gen || s->e.seq - o->low_synced >= CLIENT_SPAN) &&
	    !client_sync(c))
		return false;
	AN(s->gen < c->gen && s->e.seq - o->low_synced < CLIENT_SPAN);
	s->st = SEND_WIRE;
	s->at_us = client_now(c);
	s->id = ++c->id;
	s->tries++;
	s->void_tries += s->e.cls == 0;
	o->wire_bytes += s->e.body_len;
	frame(c, s);
	return true;
}

/* ---- how it ends ---------------------------------------------------------- */

static void settle(struct client *c, struct send *s, struct client_settled *d)
{
	struct client_event ev = { .type = CLIENT_EV_SETTLED, .settled = d };
	struct err e;

	d->seq = s->e.seq;
	d->to = s->e.to;
	memcpy(d->mid, s->e.mid, sizeof d->mid);
	/* Refused without a record: nobody may name it as predecessor.  Not
	 * stored: whoever names it after a restart gets `gap` and names 0. */
	if (d->outcome == CLIENT_REFUSED && d->lamport == 0 && s->next)
		s->next->e.after = s->prev ? s->prev->e.seq : 0;
	drop(c, s);
	c->dirty = true;
	if (c->cfg.store->ops->settle(c->cfg.store, d, &e))
		client_store_failed(c, &e);
	if (c->cfg.event)
		c->cfg.event(c->cfg.arg, &ev);
	send_free(s);
}

void outbox_on_ack(struct client *c, const struct wire *w)
{
	struct send *s = map_get(&c->outbox.by_seq, wire_u(w, W_SEQ));
	struct client_settled d = { 0 };

	client_heard_clock(c, wire_u(w, W_LAMPORT), wire_u(w, W_STAMP));
	/* A second answer, after a second try; or to what was not asked here. */
	if (!s || s->id <= c->first_id)
		return;
	d.outcome = CLIENT_ACKED;
	d.dup = wire_u(w, W_DUP);
	d.lamport = wire_u(w, W_LAMPORT);
	d.stamp = wire_u(w, W_STAMP);
	d.offset = wire_u(w, W_OFFSET);
	d.shard = (uint32_t)wire_u(w, W_SHARD);
	d.time_ms = wire_u(w, W_TIME);
	/* A void: `dup` of its first try shows that the message did go out.  Of a
	 * later try it is the void itself that had gone through. */
	if (s->e.cls == 0 && (!d.dup || s->loaded || s->void_tries > 1)) {
		d.outcome = CLIENT_REFUSED;
		d.problem = s->problem;
	}
	settle(c, s, &d);
}

static void again_later(struct client *c, struct send *s)
{
	unsigned k = s->tries < 8 ? s->tries : 8;
	uint64_t ms = (uint64_t)CLIENT_RETRY_MIN_MS << (k ? k - 1 : 0);

	if (ms > CLIENT_RETRY_MAX_MS)
		ms = CLIENT_RETRY_MAX_MS;
	leave_wire(c, s, SEND_WAIT);
	s->at_us = client_now(c) + ms * 500 +
		   rand_below(c->cfg.rand, ms * 500 + 1);
}

/* The server knows better when it is of use, within reason. */
static void not_before(const struct client *c, struct send *s, uint64_t ms)
{
	if (ms > CLIENT_BACKOFF_MAX_MS)
		ms = CLIENT_BACKOFF_MAX_MS;
	if (s->at_us < client_now(c) + ms * 1000)
		s->at_us = client_now(c) + ms * 1000;
}

static void make_void(struct client *c, struct send *s, const char *problem)
{
	struct err e;

	leave_wire(c, s, SEND_QUEUED);
	snprintf(s->problem, sizeof s->problem, "%s", problem);
	s->e.void_of = s->e.cls;
	s->e.cls = 0;
	s->void_tries = 0;
	s->loaded = false;
	s->gen = c->gen;
	c->dirty = true;
	if (c->cfg.store->ops->put(c->cfg.store, &s->e, &e))
		client_store_failed(c, &e);
}

static void gap(struct client *c, struct send *s)
{
	if (s->prev) {
		leave_wire(c, s, SEND_BLOCKED);
	} else if (s->e.after) {
		/* What it names was refused; nothing open is before it. */
		leave_wire(c, s, SEND_QUEUED);
		s->e.after = 0;
	} else {
		again_later(c, s);
	}
}

static struct send *of_error(struct client *c, const struct wire *w)
{
	if (wire_has(w, W_SEQ))
		return map_get(&c->outbox.by_seq, w->u[W_SEQ]);
	if (!wire_has(w, W_ID))
		return NULL;
	LIST_FOREACH(l, &c->outbox.all) {
		struct send *s = container_of(l, struct send, link);

		if (s->st == SEND_WIRE && s->id == w->u[W_ID])
			return s;
		if (s->e.seq - lowest(&c->outbox) >= CLIENT_SPAN)
			break;
	}
	return NULL;
}

bool outbox_on_error(struct client *c, const struct wire *w)
{
	struct send *s = of_error(c, w);
	char name[32];
	unsigned status;

	if (!s)
		return wire_has(w, W_SEQ);
	/* The answer to an earlier try says nothing about this one. */
	if (s->st != SEND_WIRE || (wire_has(w, W_ID) && w->u[W_ID] != s->id))
		return true;
	wire_problem_name(w, name, sizeof name, &status);
	if (status == 404) {
		struct client_settled d = { .outcome = CLIENT_REFUSED,
					    .problem = name };

		settle(c, s, &d);
	} else if (strcmp(name, "seq-conflict") == 0 ||
		   strcmp(name, "settled") == 0) {
		/* A number that was used before: our storage is older than
		 * what we did (protocol.md 7). */
		leave_wire(c, s, SEND_QUEUED);
		client_stop(c, "rollback");
	} else if (strcmp(name, "gap") == 0) {
		gap(c, s);
	} else if (status >= 500 || status == 429 || status == 401 || status == 0) {
		again_later(c, s);
		not_before(c, s, wire_u(w, W_RETRY_MS));
	} else if (s->e.cls == 0) {
		struct client_settled d = { .outcome = CLIENT_REFUSED,
					    .problem = s->problem };

		settle(c, s, &d);
	} else {
		make_void(c, s, name);
	}
	return true;
}

/* ---- time and connection -------------------------------------------------- */

void outbox_disconnected(struct client *c)
{
	LIST_FOREACH(l, &c->outbox.all) {
		struct send *s = container_of(l, struct send, link);

		if (s->st == SEND_WIRE || s->st == SEND_BLOCKED)
			leave_wire(c, s, SEND_QUEUED);
	}
	AZ(c->outbox.wire_bytes);
}

size_t outbox_on_wire(const struct client *c)
{
	size_t n = 0;
	uint64_t low = lowest(&c->outbox);

	LIST_FOREACH(l, &c->outbox.all) {
		const struct send *s = container_of(l, struct send, link);

		if (s->e.seq - low >= CLIENT_SPAN)
			break;
		n += s->st == SEND_WIRE;
	}
	return n;
}

uint64_t outbox_deadline(const struct client *c)
{
	uint64_t at = UINT64_MAX, low = lowest(&c->outbox);

	LIST_FOREACH(l, &c->outbox.all) {
		const struct send *s = container_of(l, struct send, link);
		uint64_t t = s->st == SEND_WAIT ? s->at_us :
			     s->st == SEND_WIRE ?
			     s->at_us + CLIENT_RESEND_MS * 1000ull : UINT64_MAX;

		if (s->e.seq - low >= CLIENT_SPAN)
			break;
		if (t < at)
			at = t;
	}
	return at;
}

void outbox_tick(struct client *c)
{
	uint64_t now = client_now(c), low = lowest(&c->outbox);

	LIST_FOREACH(l, &c->outbox.all) {
		struct send *s = container_of(l, struct send, link);

		if (s->e.seq - low >= CLIENT_SPAN)
			break;
		if (s->st == SEND_WAIT && now >= s->at_us)
			s->st = SEND_QUEUED;
		else if (s->st == SEND_WIRE &&
			 now >= s->at_us + CLIENT_RESEND_MS * 1000ull)
			leave_wire(c, s, SEND_QUEUED);
	}
}
