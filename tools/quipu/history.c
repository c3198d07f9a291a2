/* list and history: from the device's file, without a connection unless --sync. */
#include "base/alloc.h"
#include "tools/lib/table.h"
#include "tools/quipu/view.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- --sync: first receive what there is ---------------------------------- */

static void on_event(struct app *a, const struct client_event *ev)
{
	if (ev->type == CLIENT_EV_STATE && ev->state == CLIENT_LIVE &&
	    client_outbox_len(a->client) == 0)
		app_leave(a, APP_OK);
	if (ev->type == CLIENT_EV_SETTLED && client_state(a->client) == CLIENT_LIVE &&
	    client_outbox_len(a->client) == 0)
		app_leave(a, APP_OK);
}

static int sync_first(const struct options *o)
{
	struct app a;
	int rv = app_open(&a, o, on_event, NULL);

	if (rv)
		return rv;
	app_run(&a);
	app_close(&a);
	return a.status;
}

static int open_book(struct app *a, const struct options *o, struct book *b)
{
	struct err e;
	int rv = o->sync ? sync_first(o) : APP_OK;

	book_init(b);
	if (rv == APP_OK)
		rv = app_profile(a, o);
	if (rv)
		return rv;
	if (book_load(b, &a->profile, &e)) {
		book_release(b);
		profile_release(&a->profile);
		return app_fail(o, "store", "%s", e.msg);
	}
	book_sort(b, a->profile.account);
	return APP_OK;
}

/* ---- --remote: pages of the inbox, newest first --------------------------- */

#define REMOTE_COUNT 100 /* without --count */
#define REMOTE_PAGE 200
#define REMOTE_MAX 100000

struct remote {
	struct book book;
	uint64_t peer, want, have;
	bool all;
};

static void ask_page(struct app *a, uint64_t before)
{
	struct err e;

	if (client_fetch(a->client, 0, before, REMOTE_PAGE, &e))
		app_leave(a, app_fail(a->opt, "fetch", "%s", e.msg));
}

static void on_page(struct app *a, struct remote *r, const struct client_event *ev)
{
	uint64_t lowest = UINT64_MAX;
	size_t i;

	if (ev->reason) {
		app_leave(a, app_fail(a->opt, ev->reason, "the server says: %s",
				      ev->reason));
		return;
	}
	for (i = 0; i < ev->n_records; i++) {
		struct store_op op = { .kind = STORE_RECORD, .record = ev->records[i] };

		if (op.record.n < lowest)
			lowest = op.record.n;
		if ((r->peer && op.record.from != r->peer) || op.record.flags & 16u ||
		    (op.record.cls != CONTENT_TEXT && !r->all) || r->have == r->want)
			continue;
		r->have++;
		book_add(&r->book, &op);
	}
	if (ev->complete || r->have == r->want || lowest <= 1 || ev->n_records == 0)
		app_leave(a, APP_OK);
	else
		ask_page(a, lowest);
}

static void on_remote(struct app *a, const struct client_event *ev)
{
	struct remote *r = a->arg;

	if (ev->type == CLIENT_EV_PAGE) {
		on_page(a, r, ev);
	} else if (ev->type == CLIENT_EV_STATE && ev->state == CLIENT_LIVE) {
		/* Also after a connection that took the answer along. */
		book_release(&r->book);
		book_init(&r->book);
		r->have = 0;
		if (client_inbox_end(a->client))
			ask_page(a, client_inbox_end(a->client) + 1);
		else
			app_leave(a, APP_OK);
	}
}

static int remote_history(const struct options *o, const char *who)
{
	struct remote r = { .want = o->count ? o->count : REMOTE_COUNT, .all = o->all };
	struct app a;
	struct err e;
	size_t i;
	int rv;

	if (r.want > REMOTE_MAX)
		r.want = REMOTE_MAX;
	book_init(&r.book);
	rv = app_open(&a, o, on_remote, &r);
	if (rv)
		return rv;
	if (who && profile_contact(&a.profile, who, &r.peer, &e))
		a.status = app_fail(o, "not-found", "%s", e.msg);
	else
		app_run(&a);
	book_sort(&r.book, a.profile.account);
	for (i = 0; i < r.book.n && a.status == APP_OK; i++) {
		if (o->json)
			view_json(stdout, &a.profile, "message", r.book.msg[i]);
		else
			view_line(stdout, &a.profile, r.book.msg[i]);
	}
	app_close(&a);
	book_release(&r.book);
	return a.status;
}

/* ---- list ----------------------------------------------------------------- */

struct talk {
	uint64_t peer, received, sent, waiting;
	const struct msg *last;
};

static struct talk *talk_of(struct talk **t, size_t *n, uint64_t peer)
{
	size_t i;

	for (i = 0; i < *n; i++)
		if ((*t)[i].peer == peer)
			return &(*t)[i];
	*t = xrealloc(*t, (*n + 1) * sizeof **t);
	memset(&(*t)[*n], 0, sizeof **t);
	(*t)[*n].peer = peer;
	return &(*t)[(*n)++];
}

static int latest_first(const void *a, const void *b)
{
	const struct talk *x = a, *y = b;
	uint64_t tx = x->last ? x->last->time_ms : 0, ty = y->last ? y->last->time_ms : 0;

	return tx < ty ? 1 : tx > ty ? -1 : 0;
}

/* The first bytes of a text, cut at a character. */
static void excerpt(struct buf *b, const struct msg *m)
{
	size_t n = m->len < 40 ? m->len : 40;

	while (n < m->len && n && (m->body[n] & 0xc0) == 0x80)
		n--;
	buf_clear(b);
	content_printable(b, m->body, n, false);
	if (n < m->len)
		buf_put(b, "\xe2\x80\xa6", 4); /* with its zero */
}

static void print_talks(const struct app *a, const struct talk *t, size_t n)
{
	struct buf text = BUF_INIT;
	struct table table;
	size_t i;

	if (a->opt->json) {
		for (i = 0; i < n; i++)
			view_print_json(stdout, json_pack(
				"{s:s,s:o,s:s,s:I,s:I,s:I,s:I}", "event", "conversation",
				"account", view_id(t[i].peer), "name",
				profile_who(&a->profile, t[i].peer), "received",
				(json_int_t)t[i].received, "sent", (json_int_t)t[i].sent,
				"waiting", (json_int_t)t[i].waiting, "time", (json_int_t)
				(t[i].last ? t[i].last->time_ms : 0)));
		return;
	}
	table_init(&table, "who received sent waiting when last");
	for (i = 0; i < n; i++) {
		char at[24] = "-";

		table_cell(&table, "%s", profile_who(&a->profile, t[i].peer));
		table_cell(&table, "%" PRIu64, t[i].received);
		table_cell(&table, "%" PRIu64, t[i].sent);
		table_cell(&table, "%" PRIu64, t[i].waiting);
		buf_clear(&text);
		buf_puts(&text, "");
		if (t[i].last) {
			view_time(at, t[i].last->time_ms);
			excerpt(&text, t[i].last);
		}
		table_cell(&table, "%s", at);
		table_cell(&table, "%s%s", t[i].last && t[i].last->mine ? "me: " : "",
			   text.len ? (const char *)text.data : "");
	}
	table_print(&table, stdout);
	buf_release(&text);
}

int cmd_list(const struct options *o, int argc, char **argv)
{
	struct talk *t = NULL;
	struct book b;
	struct app a;
	size_t i, n = 0;
	const char *name;
	json_t *v;
	int rv;

	if (argc != 1)
		return app_usage("list takes no \"%s\"", argv[1]);
	rv = open_book(&a, o, &b);
	if (rv)
		return rv;
	for (i = 0; i < b.n; i++) {
		struct talk *k;

		if (b.msg[i]->cls != CONTENT_TEXT)
			continue;
		k = talk_of(&t, &n, b.msg[i]->peer);
		k->received += !b.msg[i]->mine;
		k->sent += b.msg[i]->mine && b.msg[i]->state == MSG_ACKED;
		k->waiting += b.msg[i]->state == MSG_OPEN;
		k->last = b.msg[i];
	}
	json_object_foreach(json_object_get(a.profile.json, "contacts"), name, v) {
		uint64_t id;

		if (account_parse(json_string_value(v), &id))
			talk_of(&t, &n, id);
	}
	if (n)
		qsort(t, n, sizeof *t, latest_first);
	print_talks(&a, t, n);
	free(t);
	book_release(&b);
	profile_release(&a.profile);
	return APP_OK;
}

/* ---- history -------------------------------------------------------------- */

int cmd_history(const struct options *o, int argc, char **argv)
{
	uint64_t peer = 0, skip, shown = 0;
	struct book b;
	struct app a;
	struct err e;
	size_t i;
	int rv;

	if (argc > 2)
		return app_usage("history takes one WHO");
	if (o->remote)
		return remote_history(o, argc == 2 ? argv[1] : NULL);
	rv = open_book(&a, o, &b);
	if (rv)
		return rv;
	if (argc == 2 && profile_contact(&a.profile, argv[1], &peer, &e))
		rv = app_fail(o, "not-found", "%s", e.msg);
	/* Only the last ones, when a number is given. */
	for (i = 0; i < b.n; i++)
		shown += (peer == 0 || b.msg[i]->peer == peer) &&
			 (b.msg[i]->cls == CONTENT_TEXT || o->all);
	skip = o->count && o->count < shown ? shown - o->count : 0;
	for (i = 0; i < b.n && rv == APP_OK; i++) {
		const struct msg *m = b.msg[i];

		if ((peer && m->peer != peer) || (m->cls != CONTENT_TEXT && !o->all) ||
		    (skip && skip--))
			continue;
		if (o->json)
			view_json(stdout, &a.profile, "message", m);
		else
			view_line(stdout, &a.profile, m);
	}
	book_release(&b);
	profile_release(&a.profile);
	return rv;
}
