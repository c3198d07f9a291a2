#include "base/alloc.h"
#include "base/cursor.h"
#include "base/wire.h"
#include "client/store_state.h"

#include <stdlib.h>
#include <string.h>

/* ---- bytes ---------------------------------------------------------------- */

void store_encode_put(struct buf *b, const struct client_entry *e)
{
	buf_u8(b, STORE_PUT);
	buf_varint(b, e->seq);
	buf_varint(b, e->after);
	buf_varint(b, e->to);
	buf_varint(b, e->seen);
	buf_varint(b, e->composed_ms);
	buf_put(b, e->mid, sizeof e->mid);
	buf_u8(b, e->cls);
	buf_u8(b, e->void_of);
	buf_varint(b, e->ttl);
	buf_varint(b, e->flags);
	buf_lv(b, e->body, e->body_len);
}

void store_encode_settle(struct buf *b, const struct client_settled *d)
{
	size_t n = d->problem ? strnlen(d->problem, STORE_PROBLEM_MAX - 1) : 0;

	buf_u8(b, STORE_SETTLE);
	buf_varint(b, d->seq);
	buf_varint(b, d->to);
	buf_put(b, d->mid, sizeof d->mid);
	buf_u8(b, (uint8_t)d->outcome);
	buf_u8(b, d->dup);
	buf_varint(b, d->lamport);
	buf_varint(b, d->stamp);
	buf_varint(b, d->offset);
	buf_varint(b, d->time_ms);
	buf_varint(b, d->shard);
	buf_lv(b, d->problem, n);
}

void store_encode_record(struct buf *b, const struct client_record *r)
{
	buf_u8(b, STORE_RECORD);
	buf_varint(b, r->n);
	buf_varint(b, r->from);
	buf_varint(b, r->seq);
	buf_varint(b, r->lamport);
	buf_varint(b, r->stamp);
	buf_varint(b, r->time_ms);
	buf_varint(b, r->group);
	buf_varint(b, r->device);
	buf_varint(b, r->flags);
	buf_varint(b, r->ttl);
	buf_put(b, r->mid, sizeof r->mid);
	buf_u8(b, r->cls);
	buf_lv(b, r->body, r->body_len);
}

void store_encode_meta(struct buf *b, const struct client_meta *m)
{
	buf_u8(b, STORE_META);
	buf_varint(b, m->cursor);
	buf_varint(b, m->lamport);
	buf_varint(b, m->seq);
	buf_varint(b, m->epoch);
	buf_u8(b, m->known);
}

static uint32_t varint32(struct cursor *c)
{
	uint64_t v = cursor_varint(c);

	c->bad |= v > UINT32_MAX;
	return (uint32_t)v;
}

static void mid(struct cursor *c, uint8_t out[16])
{
	const uint8_t *p = cursor_bytes(c, 16);

	if (p)
		memcpy(out, p, 16);
}

static bool truth(struct cursor *c)
{
	uint8_t v = cursor_u8(c);

	c->bad |= v > 1;
	return v;
}

static void body(struct cursor *c, const uint8_t **p, uint32_t *n)
{
	size_t len;

	*p = cursor_lv(c, CLIENT_BODY_MAX, &len);
	*n = (uint32_t)len;
}

static void decode_put(struct cursor *c, struct client_entry *e)
{
	e->seq = cursor_varint(c);
	e->after = cursor_varint(c);
	e->to = cursor_varint(c);
	e->seen = cursor_varint(c);
	e->composed_ms = cursor_varint(c);
	mid(c, e->mid);
	e->cls = cursor_u8(c);
	e->void_of = cursor_u8(c);
	e->ttl = varint32(c);
	e->flags = varint32(c);
	body(c, &e->body, &e->body_len);
	c->bad |= e->seq == 0;
}

static void decode_settle(struct cursor *c, struct store_op *op)
{
	struct client_settled *d = &op->settle;
	const uint8_t *p;
	size_t n;

	d->seq = cursor_varint(c);
	d->to = cursor_varint(c);
	mid(c, d->mid);
	d->outcome = cursor_u8(c);
	d->dup = truth(c);
	d->lamport = cursor_varint(c);
	d->stamp = cursor_varint(c);
	d->offset = cursor_varint(c);
	d->time_ms = cursor_varint(c);
	d->shard = varint32(c);
	p = cursor_lv(c, STORE_PROBLEM_MAX - 1, &n);
	if (p && n) {
		memcpy(op->problem, p, n);
		d->problem = op->problem;
	}
	c->bad |= d->outcome != CLIENT_ACKED && d->outcome != CLIENT_REFUSED;
}

static void decode_record(struct cursor *c, struct client_record *r)
{
	r->n = cursor_varint(c);
	r->from = cursor_varint(c);
	r->seq = cursor_varint(c);
	r->lamport = cursor_varint(c);
	r->stamp = cursor_varint(c);
	r->time_ms = cursor_varint(c);
	r->group = cursor_varint(c);
	r->device = varint32(c);
	r->flags = varint32(c);
	r->ttl = varint32(c);
	mid(c, r->mid);
	r->cls = cursor_u8(c);
	body(c, &r->body, &r->body_len);
}

int store_decode(struct store_op *op, const void *p, size_t n, struct err *e)
{
	struct cursor c = cursor_of(p, n);

	memset(op, 0, sizeof *op);
	op->kind = cursor_u8(&c);
	switch (op->kind) {
	case STORE_PUT:
		decode_put(&c, &op->put);
		break;
	case STORE_SETTLE:
		decode_settle(&c, op);
		break;
	case STORE_RECORD:
		decode_record(&c, &op->record);
		break;
	case STORE_META:
		op->meta.cursor = cursor_varint(&c);
		op->meta.lamport = cursor_varint(&c);
		op->meta.seq = cursor_varint(&c);
		op->meta.epoch = varint32(&c);
		op->meta.known = truth(&c);
		break;
	default:
		return err_set(e, ERR_FORMAT, "unknown kind %u", op->kind);
	}
	if (!cursor_done(&c))
		return err_set(e, ERR_FORMAT, "malformed kind %u", op->kind);
	return 0;
}

/* ---- their sum ------------------------------------------------------------ */

struct store_entry {
	struct list link;
	struct client_entry e;
	uint8_t body[];
};

void store_state_init(struct store_state *s)
{
	memset(s, 0, sizeof *s);
	map_init(&s->entries);
	list_init(&s->order);
}

void store_state_release(struct store_state *s)
{
	struct list *l;

	while ((l = list_pop(&s->order)))
		free(container_of(l, struct store_entry, link));
	map_release(&s->entries);
}

/* A second put takes the first one's place; the order is that of numbers. */
static void put(struct store_state *s, const struct client_entry *e)
{
	struct store_entry *n = xmalloc(sizeof *n + e->body_len), *old;

	n->e = *e;
	n->e.body = n->body;
	if (e->body_len)
		memcpy(n->body, e->body, e->body_len);
	old = map_put(&s->entries, e->seq, n);
	list_append(old ? &old->link : &s->order, &n->link);
	if (old) {
		list_remove(&old->link);
		free(old);
	}
	if (e->seq > s->meta.seq)
		s->meta.seq = e->seq;
}

static void clock_heard(struct store_state *s, uint64_t lamport, uint64_t stamp)
{
	uint64_t heard = lamport > stamp ? lamport : stamp;

	/* As the engine: a `seen` beyond WIRE_U_MAX could never be said. */
	if (heard && heard >= s->meta.lamport && heard < WIRE_U_MAX)
		s->meta.lamport = heard + 1;
}

void store_state_apply(struct store_state *s, const struct store_op *op)
{
	struct store_entry *old;

	switch (op->kind) {
	case STORE_PUT:
		put(s, &op->put);
		break;
	case STORE_SETTLE:
		clock_heard(s, op->settle.lamport, op->settle.stamp);
		old = map_del(&s->entries, op->settle.seq);
		if (old) {
			list_remove(&old->link);
			free(old);
		}
		break;
	case STORE_RECORD:
		clock_heard(s, op->record.lamport, op->record.stamp);
		s->meta.cursor = op->record.n;
		break;
	case STORE_META:
		s->meta = op->meta;
		break;
	}
}

void store_state_load(const struct store_state *s, struct client_meta *m,
		      void (*entry)(void *arg, const struct client_entry *e),
		      void *arg)
{
	*m = s->meta;
	LIST_FOREACH(l, &s->order) {
		const struct store_entry *n =
			container_of(l, struct store_entry, link);

		entry(arg, &n->e);
	}
}
