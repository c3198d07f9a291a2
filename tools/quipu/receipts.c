#include "tools/quipu/receipts.h"

#include <inttypes.h>
#include <string.h>

/* All that is owed to the first one's author, of its kind. */
static void send_some(struct receipts *r)
{
	uint64_t to = r->owed[0].to, seq;
	enum receipt_kind kind = r->owed[0].kind;
	struct client_draft d = { .to = to, .cls = CONTENT_RECEIPT,
				  .ttl = CONTENT_RECEIPT_TTL_S };
	uint8_t mids[16 * CONTENT_RECEIPT_MAX];
	struct buf body = BUF_INIT;
	unsigned i, n = 0, kept = 0;

	for (i = 0; i < r->n; i++) {
		if (r->owed[i].to == to && r->owed[i].kind == kind &&
		    n < CONTENT_RECEIPT_MAX)
			memcpy(mids + 16 * n++, r->owed[i].mid, 16);
		else
			r->owed[kept++] = r->owed[i];
	}
	r->n = kept;
	content_receipt(&body, kind, mids, n);
	d.body = body.data;
	d.body_len = body.len;
	/* A full outbox loses a tick, nothing else. */
	client_send(r->app->client, &d, &seq, NULL);
	buf_release(&body);
}

static void on_timer(uv_timer_t *t)
{
	struct receipts *r = t->data;

	r->waiting = r->n > 0;
	if (r->waiting)
		uv_timer_start(t, on_timer, RECEIPTS_EVERY_MS, 0);
	while (r->n)
		send_some(r);
	app_kick(r->app);
}

void receipts_open(struct receipts *r, struct app *a)
{
	r->app = a;
	r->n = 0;
	r->waiting = false;
	uv_timer_init(&a->loop, &r->timer);
	r->timer.data = r;
}

void receipts_owe(struct receipts *r, enum receipt_kind kind, uint64_t to,
		  const uint8_t mid[16])
{
	struct receipt *o;

	if (r->n == RECEIPTS_OWED_MAX || to == r->app->profile.account ||
	    !profile_knows(&r->app->profile, to))
		return;
	o = &r->owed[r->n++];
	o->to = to;
	o->kind = kind;
	memcpy(o->mid, mid, 16);
	if (r->waiting)
		return;
	r->waiting = true;
	uv_timer_start(&r->timer, on_timer, 20, 0);
}
