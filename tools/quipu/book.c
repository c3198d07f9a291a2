#include "base/alloc.h"
#include "base/bytes.h"
#include "tools/quipu/book.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Ids are random: a second one with the same first half does not happen by
 * itself, but a sender may make one, so there is a chain. */
struct msg_link {
	struct msg *m;
	struct msg_link *next;
};

void book_init(struct book *b)
{
	memset(b, 0, sizeof *b);
	map_init(&b->by_mid);
	map_init(&b->told);
}

void book_release(struct book *b)
{
	size_t i;

	MAP_FOREACH(slot, &b->by_mid) {
		struct msg_link *l = slot->val, *next;

		for (; l; l = next) {
			next = l->next;
			free(l);
		}
	}
	map_release(&b->by_mid);
	map_release(&b->told);
	for (i = 0; i < b->n; i++) {
		free(b->msg[i]->body);
		free(b->msg[i]);
	}
	free(b->msg);
}

struct msg *book_own(const struct book *b, const uint8_t mid[16])
{
	struct msg_link *l = map_get(&b->by_mid, get_u64(mid));

	while (l && memcmp(l->m->mid, mid, 16) != 0)
		l = l->next;
	return l ? l->m : NULL;
}

static struct msg *add(struct book *b, const uint8_t *body, uint32_t len)
{
	struct msg *m = xcalloc(1, sizeof *m);

	m->body = xmalloc(len + 1u);
	if (len)
		memcpy(m->body, body, len);
	m->body[len] = 0;
	m->len = len;
	if (b->n == b->cap) {
		b->cap = b->cap ? 2 * b->cap : 256;
		b->msg = xrealloc(b->msg, b->cap * sizeof *b->msg);
	}
	b->msg[b->n++] = m;
	return m;
}

bool book_told(const struct book *b, const uint8_t mid[16])
{
	return map_get(&b->told, get_u64(mid)) != NULL;
}

static void on_receipt_put(struct book *b, const struct client_entry *e)
{
	enum receipt_kind kind;
	const uint8_t *mids;
	unsigned n, i;

	if (!content_receipt_parse(e->body, e->body_len, &kind, &mids, &n) ||
	    kind != RECEIPT_READ)
		return;
	for (i = 0; i < n; i++)
		map_put(&b->told, get_u64(mids + 16 * i), b);
}

static void on_put(struct book *b, const struct client_entry *e)
{
	struct msg *m = book_own(b, e->mid);
	struct msg_link *l;

	if (e->cls == CONTENT_RECEIPT)
		on_receipt_put(b, e);

	/* A second put is a void: the message was refused, its text stays. */
	if (m || e->cls == 0)
		return;
	m = add(b, e->body, e->body_len);
	m->mine = true;
	m->peer = e->to;
	m->seq = e->seq;
	m->time_ms = e->composed_ms;
	m->cls = e->cls;
	memcpy(m->mid, e->mid, 16);
	l = xcalloc(1, sizeof *l);
	l->m = m;
	l->next = map_put(&b->by_mid, get_u64(m->mid), l);
}

static void on_settle(struct book *b, const struct client_settled *d)
{
	struct msg *m = book_own(b, d->mid);

	if (!m)
		return;
	m->state = d->outcome == CLIENT_ACKED ? MSG_ACKED : MSG_REFUSED;
	m->lamport = d->lamport;
	if (m->state == MSG_ACKED)
		m->time_ms = d->time_ms;
	if (d->problem)
		snprintf(m->problem, sizeof m->problem, "%s", d->problem);
}

static void on_record(struct book *b, const struct client_record *r)
{
	enum receipt_kind kind;
	const uint8_t *mids;
	unsigned n, i;
	struct msg *m;

	if (r->cls == CONTENT_RECEIPT &&
	    content_receipt_parse(r->body, r->body_len, &kind, &mids, &n)) {
		for (i = 0; i < n; i++) {
			m = book_own(b, mids + 16 * i);
			/* Only of whom it was sent to. */
			if (!m || m->peer != r->from)
				continue;
			m->delivered = true;
			m->read = m->read || kind == RECEIPT_READ;
		}
		return;
	}
	m = add(b, r->body, r->body_len);
	m->peer = r->from;
	m->device = r->device;
	m->n = r->n;
	m->seq = r->seq;
	m->lamport = r->lamport;
	m->time_ms = r->time_ms;
	m->cls = r->cls;
	m->state = MSG_ACKED;
	memcpy(m->mid, r->mid, 16);
}

void book_add(struct book *b, const struct store_op *op)
{
	switch (op->kind) {
	case STORE_PUT:
		on_put(b, &op->put);
		break;
	case STORE_SETTLE:
		on_settle(b, &op->settle);
		break;
	case STORE_RECORD:
		on_record(b, &op->record);
		break;
	default:
		break;
	}
}

static bool on_op(void *arg, const struct store_op *op)
{
	book_add(arg, op);
	return true;
}

int book_load(struct book *b, const struct profile *p, struct err *e)
{
	char *path = app_log_path(p);
	int rv = 0;

	if (access(path, F_OK) == 0 || errno != ENOENT)
		rv = store_file_scan(path, on_op, b, e);
	free(path);
	return rv;
}

/* qsort() has no argument. */
static uint64_t sort_self;

static uint64_t author(const struct msg *m)
{
	return m->mine ? sort_self : m->peer;
}

static int by_place(const void *a, const void *b)
{
	const struct msg *x = *(struct msg *const *)a, *y = *(struct msg *const *)b;
	uint64_t lx = x->lamport ? x->lamport : UINT64_MAX;
	uint64_t ly = y->lamport ? y->lamport : UINT64_MAX;

	if (lx != ly)
		return lx < ly ? -1 : 1;
	if (author(x) != author(y))
		return author(x) < author(y) ? -1 : 1;
	if (x->device != y->device)
		return x->device < y->device ? -1 : 1;
	return x->seq < y->seq ? -1 : x->seq > y->seq;
}

void book_sort(struct book *b, uint64_t self)
{
	sort_self = self;
	if (b->n)
		qsort(b->msg, b->n, sizeof *b->msg, by_place);
}

const char *msg_ticks(const struct msg *m)
{
	if (!m->mine)
		return "";
	if (m->state == MSG_OPEN)
		return "\xe2\x80\xa6";
	if (m->state == MSG_REFUSED)
		return "\xe2\x9c\x97";
	return m->read ? "\xe2\x9c\x93\xe2\x9c\x93 read" :
	       m->delivered ? "\xe2\x9c\x93\xe2\x9c\x93" : "\xe2\x9c\x93";
}
