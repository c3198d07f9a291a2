/* chat: a conversation, line by line.  On a terminal the typed line is replaced by
 * the message with its tick once it is acknowledged; elsewhere lines just follow. */
#include "base/alloc.h"
#include "tools/quipu/input.h"
#include "tools/quipu/receipts.h"
#include "tools/quipu/view.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BACKLOG 20   /* messages shown at the start, unless --count says */
#define SLOW_MS 1500 /* a message that waits longer is shown as waiting */

struct chat {
	struct app app;
	const struct options *opt;
	struct input in;
	struct receipts receipts;
	struct book book;
	uv_timer_t slow;
	uint64_t peer;
	const char *name;
	bool pretty;      /* a terminal that can move its cursor */
	bool typed_shown; /* the last typed line stands right above */
	bool reading, told_live, refused;
};

static void plain(struct chat *c)
{
	c->typed_shown = false;
}

static void notice(struct chat *c, const char *text)
{
	plain(c);
	if (!c->opt->json && !c->opt->quiet)
		printf("[%s]\n", text);
	fflush(stdout);
}

static void show(struct chat *c, const struct msg *m)
{
	if (c->opt->json)
		view_json(stdout, &c->app.profile, "message", m);
	else
		view_line(stdout, &c->app.profile, m);
	fflush(stdout);
}

/* ---- from the engine ------------------------------------------------------ */

static void maybe_done(struct chat *c)
{
	if (!c->reading && client_outbox_len(c->app.client) == 0)
		app_leave(&c->app, c->refused ? APP_FAILED : APP_OK);
}

static void on_settled(struct chat *c, const struct client_settled *d)
{
	struct store_op op = { .kind = STORE_SETTLE, .settle = *d };
	struct msg *m = book_own(&c->book, d->mid);

	book_add(&c->book, &op);
	if (!m || m->cls != CONTENT_TEXT)
		return;
	c->refused |= m->state == MSG_REFUSED;
	if (c->pretty && c->typed_shown)
		fputs("\033[A\033[2K", stdout); /* up, and the typed line away */
	plain(c);
	show(c, m);
}

/* "✓✓ read: the text", for the newest message that the receipt names. */
static void on_receipt(struct chat *c, const struct client_record *r)
{
	enum receipt_kind kind;
	const uint8_t *mids;
	unsigned n;
	struct msg *m;

	if (!content_receipt_parse(r->body, r->body_len, &kind, &mids, &n))
		return;
	m = book_own(&c->book, mids + 16 * (n - 1));
	if (!m || m->peer != r->from)
		return;
	plain(c);
	if (c->opt->json)
		view_json(stdout, &c->app.profile, "ticks", m);
	else
		view_line(stdout, &c->app.profile, m);
	fflush(stdout);
}

static void on_record(struct chat *c, const struct client_record *r)
{
	struct store_op op = { .kind = STORE_RECORD, .record = *r };
	struct msg m;

	book_add(&c->book, &op);
	if (r->cls == CONTENT_RECEIPT) {
		on_receipt(c, r);
		return;
	}
	if (r->cls != CONTENT_TEXT)
		return;
	view_of_record(&m, r);
	if (!c->opt->no_receipts)
		receipts_owe(&c->receipts, r->from == c->peer ? RECEIPT_READ
							      : RECEIPT_DELIVERED,
			     r->from, r->mid);
	plain(c);
	if (r->from == c->peer || c->opt->json)
		show(c, &m);
	else if (!c->opt->quiet)
		printf("[%s wrote; `quipu history` shows it]\n",
		       profile_who(&c->app.profile, r->from));
	fflush(stdout);
}

static void on_event(struct app *a, const struct client_event *ev)
{
	struct chat *c = a->arg;

	switch (ev->type) {
	case CLIENT_EV_RECORD:
		on_record(c, ev->record);
		break;
	case CLIENT_EV_SETTLED:
		on_settled(c, ev->settled);
		maybe_done(c);
		break;
	case CLIENT_EV_HOLE:
		notice(c, "some messages are gone");
		break;
	case CLIENT_EV_STATE:
		if (ev->state == CLIENT_LIVE)
			notice(c, c->told_live ? "connected again" : "connected");
		c->told_live |= ev->state == CLIENT_LIVE;
		break;
	default:
		break;
	}
}

/* ---- from the person ------------------------------------------------------ */

static void on_slow(uv_timer_t *t)
{
	struct chat *c = t->data;

	if (client_outbox_len(c->app.client) && !c->opt->json)
		notice(c, client_state(c->app.client) < CLIENT_CATCHUP
				  ? "not connected; kept, and sent later"
				  : "waiting for the server");
}

static void say(struct chat *c, const char *text, size_t n)
{
	struct client_draft d = { .to = c->peer, .cls = CONTENT_TEXT, .body = text,
				  .body_len = n };
	struct store_op op = { .kind = STORE_PUT };
	struct err e;

	rand_fill(&rand_real, op.put.mid, sizeof op.put.mid);
	d.mid = op.put.mid;
	if (client_send(c->app.client, &d, &op.put.seq, &e)) {
		app_fail(c->opt, "send", "%s", e.msg);
		return;
	}
	op.put.to = c->peer;
	op.put.cls = d.cls;
	op.put.composed_ms = clock_wall_ms(&clock_real);
	op.put.body = (const uint8_t *)text;
	op.put.body_len = (uint32_t)n;
	book_add(&c->book, &op);
	uv_timer_start(&c->slow, on_slow, SLOW_MS, 0);
}

static void command(struct chat *c, const char *line)
{
	if (strcmp(line, "/quit") == 0 || strcmp(line, "/q") == 0)
		app_leave(&c->app, APP_OK);
	else if (strcmp(line, "/who") == 0)
		notice(c, client_state_name(client_state(c->app.client)));
	else
		notice(c, "/quit leaves, /who says whether you are connected; a line "
			  "that begins with // is sent with one /");
}

static void on_line(void *arg, char *line, size_t n)
{
	struct chat *c = arg;

	if (!line) {
		c->reading = false;
	} else if (line[0] == '/' && line[1] != '/') {
		command(c, line);
	} else if (n) {
		c->typed_shown = true;
		say(c, line[0] == '/' ? line + 1 : line, line[0] == '/' ? n - 1 : n);
	}
	app_kick(&c->app);
	maybe_done(c);
}

/* ---- the command ---------------------------------------------------------- */

/* The last messages with this person; that they are read now is told once. */
static void backlog(struct chat *c)
{
	uint64_t max = c->opt->count ? c->opt->count : BACKLOG, n = 0;
	size_t i, from = 0;

	book_sort(&c->book, c->app.profile.account);
	for (i = c->book.n; i && n < max; i--) {
		const struct msg *m = c->book.msg[i - 1];

		n += m->peer == c->peer && m->cls == CONTENT_TEXT;
		from = i - 1;
	}
	for (i = from; i < c->book.n; i++) {
		const struct msg *m = c->book.msg[i];

		if (m->peer != c->peer || m->cls != CONTENT_TEXT)
			continue;
		show(c, m);
		if (!m->mine && !c->opt->no_receipts && !book_told(&c->book, m->mid))
			receipts_owe(&c->receipts, RECEIPT_READ, m->peer, m->mid);
	}
}

int cmd_chat(const struct options *o, int argc, char **argv)
{
	static struct chat c;
	const char *term = getenv("TERM");
	struct err e;
	int rv;

	c.opt = o;
	if (argc != 2)
		return app_usage("chat takes one WHO");
	rv = app_open(&c.app, o, on_event, &c);
	if (rv)
		return rv;
	book_init(&c.book);
	c.pretty = !o->json && isatty(0) && isatty(1) && term && strcmp(term, "dumb");
	if (profile_contact(&c.app.profile, argv[1], &c.peer, &e) ||
	    book_load(&c.book, &c.app.profile, &e)) {
		c.app.status = app_fail(o, "not-found", "%s", e.msg);
	} else {
		c.name = profile_who(&c.app.profile, c.peer);
		receipts_open(&c.receipts, &c.app);
		uv_timer_init(&c.app.loop, &c.slow);
		c.slow.data = &c;
		backlog(&c);
		if (!o->json && !o->quiet && isatty(1))
			printf("[%s with %s; a line is a message, /quit leaves]\n",
			       c.app.profile.name, c.name);
		fflush(stdout);
		c.reading = true;
		input_open(&c.in, &c.app.loop, false, on_line, &c);
		app_run(&c.app);
	}
	if (client_outbox_len(c.app.client) && !o->quiet)
		fprintf(stderr, "quipu: %zu not acknowledged yet; kept in the outbox\n",
			client_outbox_len(c.app.client));
	app_close(&c.app);
	input_release(&c.in);
	book_release(&c.book);
	return c.app.status;
}
