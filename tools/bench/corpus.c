/* corpus: every message of a file through the cluster, and all of them found again:
 *   - each user is an account with a device that stays connected (and comes back);
 *   - each sender sends its messages in the order of the file;
 *   - each message is delivered live; then each inbox is read from its beginning;
 *   - both times compared: all there, once, byte for byte, in the order of each
 *     sender, numbers without holes, Lamport numbers as they must be.
 * Who kills servers meanwhile is not this program's business (tools/dev/corpus). */
#include "base/alloc.h"
#include "base/assert.h"
#include "tools/bench/bench.h"
#include "tools/bench/traffic.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define LIVE_MS 120000
#define SYNC_ID (1ull << 52) /* apart from the numbers of sends */
#define SYNC_MS 3000         /* a page that did not come is asked for again */
#define PAGE_ITEMS 500
#define N_MESSAGES 55835     /* made up, when there is no file */
#define OPEN_DEFAULT 1024

struct fate {                /* of a message */
	uint64_t start_us, seen, lamport, stamp, n, delivered_lamport;
	bool sent, acked, delivered, read;
};

struct member {
	struct peer peer;
	uint32_t next;       /* index + 1 of the message to be sent next */
	bool ready;          /* in run->ready */
	struct list link;
	uint64_t last_stamp; /* of what was delivered */
	/* reading back */
	uint64_t got, asked_us, read_stamp;
	bool reading;
};

struct run {
	const struct options *o;
	struct fleet f;
	struct servers v;
	struct traffic t;
	struct report r;
	struct user *users;
	struct member *m;
	struct fate *fates;
	struct list ready;
	uint32_t open, cap, sent, acked, delivered, read, expected_read;
	uint32_t n_reading;
	uint64_t begin_us, moved_us;
	struct hist ack, delivery;
};

static struct member *of_peer(struct peer *p)
{
	return container_of(p, struct member, peer);
}

static uint32_t user_of(struct run *c, const struct member *m)
{
	return (uint32_t)(m - c->m);
}

/* ---- sending -------------------------------------------------------------------------- */

static void send_one(struct run *c, struct member *m)
{
	uint32_t i = m->next - 1;
	const struct text *x = &c->t.texts[i];
	struct fate *d = &c->fates[i];
	uint64_t seq;

	d->start_us = bench_now_us();
	d->seen = m->peer.clock;
	d->sent = true;
	m->next = x->next;
	seq = peer_send(&m->peer, c->users[x->to].account, x->after,
			c->t.bytes.data + x->at, x->len, i);
	AN(seq == x->rank);
	c->open++;
	c->sent++;
}

static void get_ready(struct run *c, struct member *m)
{
	if (m->ready || !m->next || !peer_can_send(&m->peer))
		return;
	m->ready = true;
	list_append(&c->ready, &m->link);
}

/* How many may have been begun by now. */
static uint32_t due(const struct run *c)
{
	uint64_t us = c->f.now_us - c->begin_us;

	if (!c->o->rate || us * c->o->rate / 1000000 > c->t.n)
		return c->t.n;
	return (uint32_t)(us * c->o->rate / 1000000);
}

/* Senders take turns. */
static void pump(struct run *c)
{
	uint32_t limit = due(c);

	while (c->open < c->cap && c->sent < limit && !list_empty(&c->ready)) {
		struct member *m = container_of(list_pop(&c->ready),
						struct member, link);

		m->ready = false;
		send_one(c, m);
		get_ready(c, m);
	}
}

static void on_ack(struct peer *p, struct peer_send *s, const struct wire *w)
{
	struct run *c = p->fleet->arg;
	struct member *m = of_peer(p);
	const struct text *x = &c->t.texts[s->tag];
	struct fate *d = &c->fates[s->tag];

	c->open--;
	if (!w) {
		report_fail(&c->r, "message %" PRIu64 " was refused: %s", s->tag,
			    c->f.stats.last_error);
	} else {
		c->acked++;
		d->acked = true;
		d->lamport = w->u[W_LAMPORT];
		d->stamp = w->u[W_STAMP];
		d->n = wire_u(w, W_N);
		hist_add(&c->ack, c->f.now_us - d->start_us);
		if (d->lamport <= d->seen)
			report_fail(&c->r, "message %" PRIu64 ": Lamport number %"
				    PRIu64 ", but its sender had seen %" PRIu64,
				    s->tag, d->lamport, d->seen);
		if (d->delivered && d->delivered_lamport != d->lamport)
			report_fail(&c->r, "message %" PRIu64 " was delivered with "
				    "Lamport number %" PRIu64 ", acked with %"
				    PRIu64, s->tag, d->delivered_lamport,
				    d->lamport);
		if (x->prev && c->fates[x->prev - 1].acked &&
		    c->fates[x->prev - 1].lamport >= d->lamport)
			report_fail(&c->r, "messages %u and %" PRIu64 " of one "
				    "sender to one recipient: Lamport numbers %"
				    PRIu64 ", %" PRIu64, x->prev - 1, s->tag,
				    c->fates[x->prev - 1].lamport, d->lamport);
	}
	get_ready(c, m);
	pump(c);
}

/* ---- comparing -------------------------------------------------------------------------- */

/* What both the live stream and the inbox must hold; true: no complaint. */
static bool compare(struct run *c, struct member *m, const struct wire *w,
		    const char *where, uint64_t *tag)
{
	const struct text *x;
	const struct fate *d;
	uint32_t me = user_of(c, m);

	if (!wire_has(w, W_MID) || !fleet_tag(&c->f, w->b[W_MID], tag) ||
	    *tag >= c->t.n) {
		report_fail(&c->r, "%s of user %u: number %" PRIu64 " is not of "
			    "this run", where, me, w->u[W_N]);
		return false;
	}
	x = &c->t.texts[*tag];
	d = &c->fates[*tag];
	if (x->to != me || w->u[W_FROM] != c->users[x->from].account ||
	    w->u[W_DEV] != c->users[x->from].device || w->u[W_SEQ] != x->rank) {
		report_fail(&c->r, "%s of user %u: message %" PRIu64 " has another "
			    "sender, recipient or number", where, me, *tag);
		return false;
	}
	if (w->b[W_BODY].n != x->len || !wire_has(w, W_BODY) ||
	    memcmp(w->b[W_BODY].p, c->t.bytes.data + x->at, x->len) != 0) {
		report_fail(&c->r, "%s of user %u: the bytes of message %" PRIu64
			    " differ", where, me, *tag);
		return false;
	}
	if (d->acked && (d->lamport != w->u[W_LAMPORT] ||
			 d->stamp != w->u[W_STAMP] ||
			 (d->n && d->n != w->u[W_N]))) {
		report_fail(&c->r, "%s of user %u: message %" PRIu64 " is not where "
			    "its ack said", where, me, *tag);
		return false;
	}
	return true;
}

static void on_deliver(struct peer *p, const struct wire *w)
{
	struct run *c = p->fleet->arg;
	struct member *m = of_peer(p);
	struct fate *d;
	uint64_t tag;

	if (!compare(c, m, w, "delivery", &tag))
		return;
	d = &c->fates[tag];
	if (d->delivered) {
		report_fail(&c->r, "message %" PRIu64 " was delivered twice", tag);
		return;
	}
	if (c->t.texts[tag].prev && !c->fates[c->t.texts[tag].prev - 1].delivered)
		report_fail(&c->r, "message %" PRIu64 " was delivered before the "
			    "sender's earlier one", tag);
	if (w->u[W_STAMP] <= m->last_stamp)
		report_fail(&c->r, "delivery of user %u: stamp %" PRIu64 " after %"
			    PRIu64, user_of(c, m), w->u[W_STAMP],
			    m->last_stamp);
	m->last_stamp = w->u[W_STAMP];
	d->delivered = true;
	d->delivered_lamport = w->u[W_LAMPORT];
	c->delivered++;
	hist_add(&c->delivery, c->f.now_us - d->start_us);
}

/* ---- reading back ------------------------------------------------------------------------ */

static void ask_page(struct run *c, struct member *m)
{
	m->asked_us = c->f.now_us;
	peer_sync(&m->peer, SYNC_ID + m->got, m->got, PAGE_ITEMS);
}

static void on_live(struct peer *p)
{
	struct member *m = of_peer(p);

	if (m->reading)
		ask_page(p->fleet->arg, m);
}

static void end_reading(struct run *c, struct member *m)
{
	m->reading = false;
	c->n_reading--;
}

static void on_page(struct peer *p, const struct wire *w)
{
	struct run *c = p->fleet->arg;
	struct member *m = of_peer(p);
	uint32_t me = user_of(c, m), before = c->read;
	struct wire_iter it;
	struct wire item;

	if (!m->reading || w->u[W_ID] != SYNC_ID + m->got)
		return; /* asked for twice */
	wire_iter_init(&it, w, W_ITEMS);
	while (wire_iter_item(&it, &item)) {
		uint64_t tag;

		if (item.u[W_N] != m->got + 1)
			report_fail(&c->r, "inbox of user %u: number %" PRIu64
				    " after %" PRIu64, me, item.u[W_N], m->got);
		m->got = item.u[W_N];
		c->read++;
		if (!compare(c, m, &item, "inbox", &tag))
			continue;
		if (c->fates[tag].read)
			report_fail(&c->r, "inbox of user %u: message %" PRIu64
				    " is there twice", me, tag);
		if (c->t.texts[tag].prev &&
		    !c->fates[c->t.texts[tag].prev - 1].read)
			report_fail(&c->r, "inbox of user %u: message %" PRIu64
				    " stands before the sender's earlier one",
				    me, tag);
		if (item.u[W_STAMP] <= m->read_stamp)
			report_fail(&c->r, "inbox of user %u: stamp %" PRIu64
				    " after %" PRIu64, me, item.u[W_STAMP],
				    m->read_stamp);
		m->read_stamp = item.u[W_STAMP];
		c->fates[tag].read = true;
	}
	if (wire_u(w, W_COMPLETE) || c->read == before) {
		if (m->got != c->t.expected[me])
			report_fail(&c->r, "inbox of user %u: %" PRIu64
				    " messages, %u were sent", me, m->got,
				    c->t.expected[me]);
		end_reading(c, m);
	} else {
		ask_page(c, m);
	}
}

static void read_back(struct run *c)
{
	uint64_t t0 = bench_now_us(), next = 0, moved = t0;
	uint32_t i, last = 0;

	for (i = 0; i < c->t.n_users; i++) {
		struct member *m = &c->m[i];

		m->reading = true;
		c->n_reading++;
		if (m->peer.state == PEER_LIVE)
			ask_page(c, m);
	}
	while (c->n_reading) {
		fleet_turn(&c->f, 10);
		if (c->read != last)
			moved = c->f.now_us;
		last = c->read;
		if (c->f.now_us - moved > c->o->stall_s * 1000000ull)
			break;
		if (c->f.now_us < next)
			continue;
		next = c->f.now_us + 1000000;
		progress(c->o, "read back: %u of %u, %u inboxes to go", c->read,
			 c->t.n, c->n_reading);
		for (i = 0; i < c->t.n_users; i++)
			if (c->m[i].reading && c->m[i].peer.state == PEER_LIVE &&
			    c->f.now_us - c->m[i].asked_us > SYNC_MS * 1000)
				ask_page(c, &c->m[i]);
	}
	report_u64(&c->r, "read_back", c->read);
	report_real(&c->r, "read_back_per_s",
		    (double)c->read * 1e6 / (double)(bench_now_us() - t0));
	if (c->n_reading)
		report_fail(&c->r, "%u inboxes could not be read: %s",
			    c->n_reading, c->f.stats.last_error);
}

/* ---- the run ------------------------------------------------------------------------------ */

static int load(struct run *c, struct err *e)
{
	const char *path = c->o->file;

	if (path)
		return traffic_load(&c->t, path, c->o->messages, e);
	traffic_make(&c->t, c->o->messages ? c->o->messages : N_MESSAGES,
		     c->o->seed);
	return 0;
}

static int prepare(struct run *c, struct err *e)
{
	uint32_t i;
	int rv = load(c, e);

	if (!rv)
		rv = fleet_init(&c->f, c->o->gateways, c->o->window, e);
	if (!rv)
		rv = servers_open(&c->v, c->o, e);
	if (rv)
		return rv;
	progress(c->o, "%u messages (%zu bytes) of %u senders to %u recipients: %s",
		 c->t.n, c->t.bytes.len, c->t.n_senders, c->t.n_recipients,
		 c->o->file ? c->o->file : "no file: made up in the same shape");
	c->f.on_ack = on_ack;
	c->f.on_deliver = on_deliver;
	c->f.on_live = on_live;
	c->f.on_page = on_page;
	c->f.arg = c;
	list_init(&c->ready);
	c->cap = c->o->inflight ? c->o->inflight : OPEN_DEFAULT;
	c->fates = xcalloc(c->t.n, sizeof *c->fates);
	c->users = xcalloc(c->t.n_users, sizeof *c->users);
	rv = users_make(c->o, c->users, c->t.n_users, e);
	if (rv)
		return rv;
	progress(c->o, "%u accounts made", c->t.n_users);
	c->m = xcalloc(c->t.n_users, sizeof *c->m);
	for (i = 0; i < c->t.n_users; i++) {
		struct member *m = &c->m[i];

		peer_init(&m->peer, &c->f, c->users[i].account,
			  c->users[i].device, c->users[i].token, i);
		c->users[i].token = NULL;
		list_init(&m->link);
		m->next = c->t.first[i];
		get_ready(c, m);
		peer_dial(&m->peer);
	}
	if (!fleet_wait_live(&c->f, c->t.n_users, LIVE_MS))
		return err_set(e, ERR_TIMEOUT, "%u of %u devices are live: %s",
			       c->f.live, c->t.n_users, c->f.stats.last_error);
	progress(c->o, "%u devices are live", c->f.live);
	return 0;
}

/* Until all is acked and delivered, or nothing moves any more. */
static void send_all(struct run *c)
{
	uint32_t acked = 0, delivered = 0;
	uint64_t next;

	servers_mark(&c->v);
	if (c->o->begun) {
		FILE *f = fopen(c->o->begun, "we");

		if (f)
			fclose(f);
	}
	c->begin_us = c->moved_us = c->f.now_us = bench_now_us();
	next = c->begin_us + 1000000;
	while (c->acked < c->t.n || c->delivered < c->t.n) {
		pump(c);
		fleet_turn(&c->f, c->o->rate ? 1 : 10);
		if (c->acked != acked || c->delivered != delivered)
			c->moved_us = c->f.now_us;
		else if (c->f.now_us - c->moved_us > c->o->stall_s * 1000000ull)
			break;
		acked = c->acked;
		delivered = c->delivered;
		if (c->f.now_us < next)
			continue;
		next = c->f.now_us + 1000000;
		servers_sample(&c->v);
		progress(c->o, "%3.0f s: %u sent, %u acked, %u delivered; %u of %u "
			 "devices live, %" PRIu64 " reconnects, %" PRIu64
			 " retries", (double)(c->f.now_us - c->begin_us) / 1e6,
			 c->sent, c->acked, c->delivered, c->f.live,
			 c->t.n_users, c->f.stats.reconnects,
			 c->f.stats.retries);
	}
	servers_sample(&c->v);
}

static void judge(struct run *c)
{
	uint32_t i, unread = 0, undelivered = 0, unacked = 0;

	for (i = 0; i < c->t.n; i++) {
		unacked += !c->fates[i].acked;
		undelivered += !c->fates[i].delivered;
		unread += !c->fates[i].read;
	}
	if (unacked)
		report_fail(&c->r, "%u of %u messages were not acked: %s", unacked,
			    c->t.n, c->f.stats.last_error);
	if (undelivered)
		report_fail(&c->r, "%u of %u messages were not delivered",
			    undelivered, c->t.n);
	if (unread)
		report_fail(&c->r, "%u of %u messages are in no inbox", unread,
			    c->t.n);
	if (c->f.stats.holes)
		report_fail(&c->r, "%" PRIu64 " holes in the numbers that were "
			    "delivered", c->f.stats.holes);
}

static void figures(struct run *c, double s)
{
	report_text(&c->r, "traffic", c->o->file ? c->o->file :
		    "made up in the shape of the NUS corpus (no file was given)");
	report_u64(&c->r, "messages", c->t.n);
	report_u64(&c->r, "senders", c->t.n_senders);
	report_u64(&c->r, "recipients", c->t.n_recipients);
	report_u64(&c->r, "in_flight", c->cap);
	report_real(&c->r, "seconds", s);
	report_real(&c->r, "messages_per_s", c->acked / s);
	report_hist(&c->r, "ack", &c->ack);
	report_hist(&c->r, "delivery", &c->delivery);
	report_u64(&c->r, "reconnects", c->f.stats.reconnects);
	report_u64(&c->r, "retries", c->f.stats.retries);
	report_u64(&c->r, "answered_as_duplicates", c->f.stats.dups);
	report_u64(&c->r, "delivered_again_and_dropped",
		   c->f.stats.redelivered);
	report_ground(&c->r, &c->v, c->acked);
}

int bench_corpus(const struct options *o)
{
	struct run *c = xcalloc(1, sizeof *c);
	struct err e = { 0, "" };
	uint32_t i;
	int rv;

	c->o = o;
	report_init(&c->r, o, "corpus");
	if (prepare(c, &e)) {
		report_fail(&c->r, "%s", e.msg);
	} else {
		double s;

		send_all(c);
		s = (double)(c->f.now_us - c->begin_us) / 1e6;
		figures(c, s);
		read_back(c);
		judge(c);
	}
	for (i = 0; c->m && i < c->t.n_users; i++)
		peer_release(&c->m[i].peer);
	if (c->users)
		users_free(c->users, c->t.n_users);
	if (c->f.in)
		fleet_release(&c->f);
	servers_close(&c->v);
	traffic_release(&c->t);
	free(c->m);
	free(c->fates);
	rv = report_end(&c->r);
	free(c);
	return rv;
}
