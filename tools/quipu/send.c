/* send and flush: what is composed goes to the outbox, and out from there.  A run
 * that was killed is repeated as it was: with --id each line has an id of its own,
 * and what was sent before is not sent again. */
#include "base/alloc.h"
#include "tools/quipu/input.h"
#include "tools/quipu/view.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define OUTBOX_PAUSE 4096 /* so many wait: no more lines are read for now */
#define OUTBOX_GO_ON 1024

struct sending {
	struct app app;
	const struct options *opt;
	struct input in;
	struct book book;      /* with --id: what was sent before */
	uint64_t to, line;
	uint64_t acked, refused, before;
	bool reading, failed;
};

static struct sending *of(struct app *a)
{
	return a->arg;
}

static void maybe_done(struct sending *s)
{
	if (!s->reading && client_outbox_len(s->app.client) == 0)
		app_leave(&s->app, s->refused || s->failed ? APP_FAILED : APP_OK);
}

static void tell(struct sending *s, const struct client_settled *d)
{
	json_t *o;
	char mid[33];

	if (!s->opt->json) {
		if (d->outcome == CLIENT_REFUSED)
			fprintf(stderr, "quipu: message %" PRIu64 " to %s was refused: %s\n",
				d->seq, profile_who(&s->app.profile, d->to),
				d->problem ? d->problem : "?");
		return;
	}
	view_mid(mid, d->mid);
	o = json_pack("{s:s,s:o,s:s,s:I,s:s,s:s,s:b,s:I,s:I,s:I,s:I}", "event", "settled",
		      "to", view_id(d->to), "name", profile_who(&s->app.profile, d->to),
		      "seq", (json_int_t)d->seq, "mid", mid, "outcome",
		      d->outcome == CLIENT_ACKED ? "acked" : "refused", "dup", d->dup,
		      "lamport", (json_int_t)d->lamport, "time", (json_int_t)d->time_ms,
		      "shard", (json_int_t)d->shard, "offset", (json_int_t)d->offset);
	if (d->problem)
		json_object_set_new(o, "problem", json_string(d->problem));
	view_print_json(stdout, o);
}

static void on_event(struct app *a, const struct client_event *ev)
{
	struct sending *s = of(a);

	if (ev->type != CLIENT_EV_SETTLED)
		return;
	if (ev->settled->outcome == CLIENT_ACKED)
		s->acked++;
	else
		s->refused++;
	tell(s, ev->settled);
	if (s->reading && client_outbox_len(a->client) < OUTBOX_GO_ON)
		input_pause(&s->in, false);
	maybe_done(s);
}

/* Sent, or in the outbox, since an earlier run? */
static bool known(struct sending *s, const uint8_t mid[16])
{
	const struct msg *m = book_own(&s->book, mid);
	struct client_settled d = { .outcome = CLIENT_ACKED, .dup = true };

	if (!m)
		return false;
	if (m->state == MSG_OPEN)
		return true; /* the engine has it; its answer will come */
	d.seq = m->seq;
	d.to = m->peer;
	memcpy(d.mid, m->mid, 16);
	d.lamport = m->lamport;
	d.time_ms = m->time_ms;
	if (m->state == MSG_REFUSED) {
		d.outcome = CLIENT_REFUSED;
		d.problem = m->problem;
		s->refused++;
	} else {
		s->before++;
	}
	tell(s, &d);
	return true;
}

static void compose(struct sending *s, const char *text, size_t n)
{
	struct client_draft d = { .to = s->to, .cls = CONTENT_TEXT, .body = text,
				  .body_len = n };
	uint8_t mid[16];
	struct err e;
	uint64_t seq;

	s->line++;
	if (n == 0)
		return;
	if (s->opt->id) {
		content_mid(mid, s->app.profile.account, s->to, s->opt->id, s->line);
		if (known(s, mid))
			return;
		d.mid = mid;
	}
	if (client_send(s->app.client, &d, &seq, &e)) {
		s->failed = true;
		app_fail(s->opt, "send", "line %" PRIu64 ": %s", s->line, e.msg);
	}
}

static void on_line(void *arg, char *line, size_t n)
{
	struct sending *s = arg;

	if (!line)
		s->reading = false;
	else
		compose(s, line, n);
	if (s->reading && client_outbox_len(s->app.client) > OUTBOX_PAUSE)
		input_pause(&s->in, true);
	app_kick(&s->app);
	maybe_done(s);
}

static int finish(struct sending *s)
{
	size_t open = client_outbox_len(s->app.client);
	int status = s->app.status;

	if (open && !s->opt->quiet)
		fprintf(stderr, "quipu: %zu not acknowledged yet; kept in the outbox "
			"(quipu flush)\n", open);
	if (open && status == APP_OK)
		status = APP_TIME; /* interrupted */
	if (!s->opt->json && !s->opt->quiet && s->acked + s->before) {
		printf("%" PRIu64 " sent \xe2\x9c\x93", s->acked);
		if (s->before)
			printf(", %" PRIu64 " sent before", s->before);
		puts("");
	}
	s->app.status = status;
	app_close(&s->app);
	input_release(&s->in);
	book_release(&s->book);
	return s->app.status;
}

int cmd_flush(const struct options *o, int argc, char **argv)
{
	struct sending s = { .opt = o };
	int rv;

	if (argc != 1)
		return app_usage("flush takes no \"%s\"", argv[1]);
	book_init(&s.book);
	rv = app_open(&s.app, o, on_event, &s);
	if (rv)
		return rv;
	if (client_outbox_len(s.app.client))
		app_run(&s.app);
	return finish(&s);
}

int cmd_send(const struct options *o, int argc, char **argv)
{
	struct sending s = { .opt = o };
	struct buf text = BUF_INIT;
	struct err e;
	int rv, i;

	if (argc < 2)
		return app_usage("send takes WHO and a text, or reads lines from stdin");
	book_init(&s.book);
	rv = app_open(&s.app, o, on_event, &s);
	if (rv)
		return rv;
	if (profile_contact(&s.app.profile, argv[1], &s.to, &e)) {
		s.app.status = app_fail(o, "not-found", "%s", e.msg);
		return finish(&s);
	}
	if (o->id && book_load(&s.book, &s.app.profile, &e)) {
		s.app.status = app_fail(o, "store", "%s", e.msg);
		return finish(&s);
	}
	for (i = 2; i < argc; i++)
		buf_printf(&text, "%s%s", i > 2 ? " " : "", argv[i]);
	if (argc > 2) {
		compose(&s, (const char *)text.data, text.len);
	} else {
		s.reading = true;
		input_open(&s.in, &s.app.loop, o->whole, on_line, &s);
	}
	buf_release(&text);
	maybe_done(&s);
	app_run(&s.app);
	return finish(&s);
}
