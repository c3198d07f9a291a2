/* follow: what arrives, as it arrives.  Each record is printed before it is
 * acknowledged, so a reader that was killed sees it again or has seen it; `n` tells
 * a script what it has had. */
#include "tools/quipu/receipts.h"
#include "tools/quipu/view.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct following {
	struct app app;
	const struct options *opt;
	struct receipts receipts;
	uint64_t printed;
};

static void print(struct following *f, const struct msg *m)
{
	if (f->opt->count && f->printed >= f->opt->count)
		return;
	f->printed++;
	if (f->opt->json)
		view_json(stdout, &f->app.profile, "message", m);
	else
		view_line(stdout, &f->app.profile, m);
	if (fflush(stdout))
		app_leave(&f->app, APP_FAILED); /* nobody reads any more */
	if (f->opt->count && f->printed == f->opt->count)
		app_leave(&f->app, APP_OK);
}

static bool wanted(const struct following *f, uint8_t cls)
{
	return cls == CONTENT_TEXT || f->opt->all;
}

static void on_event(struct app *a, const struct client_event *ev)
{
	struct following *f = a->arg;
	struct msg m;

	switch (ev->type) {
	case CLIENT_EV_RECORD:
		view_of_record(&m, ev->record);
		if (!wanted(f, m.cls))
			break;
		print(f, &m);
		if (f->opt->receipts && m.cls == CONTENT_TEXT)
			receipts_owe(&f->receipts, RECEIPT_DELIVERED, m.peer, m.mid);
		break;
	case CLIENT_EV_HOLE:
		if (f->opt->json)
			view_print_json(stdout, json_pack("{s:s,s:I,s:I}", "event", "hole",
							  "from", (json_int_t)ev->from,
							  "to", (json_int_t)ev->to));
		else
			printf("[messages %" PRIu64 " to %" PRIu64 " are gone]\n",
			       ev->from, ev->to);
		break;
	case CLIENT_EV_STATE:
		if (f->opt->json)
			view_print_json(stdout, json_pack("{s:s,s:s,s:I}", "event", "state",
							  "state",
							  client_state_name(ev->state),
							  "cursor", (json_int_t)
							  client_cursor(a->client)));
		/* --sync: all that there was is here. */
		if (ev->state == CLIENT_LIVE && f->opt->sync)
			app_leave(a, APP_OK);
		break;
	default:
		break;
	}
}

/* --from N: what is stored already. */
static bool on_stored(void *arg, const struct store_op *op)
{
	struct following *f = arg;
	struct msg m;

	if (op->kind != STORE_RECORD || op->record.n < f->opt->from ||
	    !wanted(f, op->record.cls))
		return true;
	view_of_record(&m, &op->record);
	print(f, &m);
	return !f->app.leaving;
}

int cmd_follow(const struct options *o, int argc, char **argv)
{
	static struct following f;
	struct err e;
	int rv;

	f.opt = o;
	if (argc != 1)
		return app_usage("follow takes no \"%s\"", argv[1]);
	rv = app_open(&f.app, o, on_event, &f);
	if (rv)
		return rv;
	receipts_open(&f.receipts, &f.app);
	if (o->has_from) {
		char *path = app_log_path(&f.app.profile);

		rv = store_file_scan(path, on_stored, &f, &e);
		free(path);
		if (rv)
			app_leave(&f.app, app_fail(o, "store", "%s", e.msg));
	}
	if (!f.app.leaving)
		app_run(&f.app);
	app_close(&f.app);
	return f.app.status;
}
