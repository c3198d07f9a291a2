#include "base/alloc.h"
#include "base/assert.h"
#include "tools/quipu/app.h"

#include <jansson.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void say(const struct options *o, const char *name, const char *text)
{
	if (o->json) {
		json_t *j = json_pack("{s:s,s:s,s:s}", "event", "error", "error", name,
				      "detail", text);

		json_dumpf(j, stdout, JSON_COMPACT);
		puts("");
		json_decref(j);
	}
	fprintf(stderr, "quipu: %s\n", text);
}

int app_fail(const struct options *o, const char *name, const char *fmt, ...)
{
	char text[600];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	say(o, name, text);
	return APP_FAILED;
}

int app_usage(const char *fmt, ...)
{
	va_list ap;

	fputs("quipu: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputs(" (quipu --help)\n", stderr);
	return APP_USAGE;
}

int app_profile(struct app *a, const struct options *o)
{
	struct err e;

	memset(a, 0, sizeof *a);
	a->opt = o;
	if (profile_load(&a->profile, o->home, &e))
		return app_fail(o, "profile", "%s", e.msg);
	return APP_OK;
}

char *app_log_path(const struct profile *p)
{
	return xasprintf("%s/device.log", p->home);
}

/* ---- why it stopped ------------------------------------------------------- */

static int stopped(struct app *a, const char *reason)
{
	static const struct {
		const char *reason, *text;
	} known[] = {
		{ "token", "the gateway does not take the token (too old?); "
			   "`quipuctl token` makes one, `quipu login --token` keeps it" },
		{ "device-removed", "this device was removed from its account" },
		{ "elsewhere", "this device is connected from another place; only one "
			       "can be" },
		{ "rollback", "this device's file is older than what it did before: a "
			      "copy or a backup.  It must not be used; invite a new "
			      "device" },
		{ "ahead", "the server knows less than this device has received; its "
			   "history was lost, or it is another server" },
	};
	size_t i;

	if (strcmp(reason, "store") == 0)
		return app_fail(a->opt, reason, "%s", client_error(a->client)->msg);
	for (i = 0; i < sizeof known / sizeof known[0]; i++)
		if (strcmp(known[i].reason, reason) == 0)
			return app_fail(a->opt, reason, "%s", known[i].text);
	return app_fail(a->opt, "stopped", "%s", reason);
}

static void on_event(void *arg, const struct client_event *ev)
{
	struct app *a = arg;

	if (ev->type == CLIENT_EV_STATE && ev->state == CLIENT_STOPPED &&
	    !a->leaving)
		app_leave(a, stopped(a, ev->reason ? ev->reason : "?"));
	/* Once is enough to know why nothing happens. */
	if (ev->type == CLIENT_EV_STATE && ev->state == CLIENT_IDLE && !a->leaving &&
	    !a->told_offline && !a->opt->quiet) {
		const char *why = client_os_error(a->os);

		a->told_offline = true;
		fprintf(stderr, "quipu: not connected (%s); trying again\n",
			*why ? why : ev->reason ? ev->reason : "?");
	}
	if (ev->type == CLIENT_EV_STATE && ev->state == CLIENT_LIVE)
		a->told_offline = false;
	if (a->event)
		a->event(a, ev);
}

/* ---- life ----------------------------------------------------------------- */

int app_open(struct app *a, const struct options *o,
	     void (*event)(struct app *a, const struct client_event *ev), void *arg)
{
	struct client_config cfg = { 0 };
	struct err e;
	char *path;
	int rv = app_profile(a, o);

	if (rv)
		return rv;
	a->event = event;
	a->arg = arg;
	path = app_log_path(&a->profile);
	rv = store_file_open(&a->store, path, a->profile.account, a->profile.device, &e);
	free(path);
	if (rv) {
		rv = app_fail(o, "store", "%s", e.msg);
		goto no_store;
	}
	cfg.account = a->profile.account;
	cfg.device = a->profile.device;
	cfg.token = a->profile.token;
	cfg.agent = "quipu-terminal/1";
	cfg.gateways = a->profile.gateways;
	cfg.n_gateways = a->profile.n_gateways;
	cfg.clock = &clock_real;
	cfg.rand = &rand_real;
	cfg.store = store_file_store(a->store);
	cfg.event = on_event;
	cfg.arg = a;
	if (client_open(&a->client, &cfg, &e)) {
		rv = app_fail(o, "client", "%s", e.msg);
		goto no_client;
	}
	AZ(uv_loop_init(&a->loop));
	if (client_os_open(&a->os, &a->loop, a->client, a->profile.ca, &e) == 0)
		return APP_OK;
	rv = app_fail(o, "tls", "%s", e.msg);
	uv_loop_close(&a->loop);
	client_free(a->client);
no_client:
	store_file_close(a->store, NULL);
no_store:
	profile_release(&a->profile);
	return rv;
}

static void on_os_closed(void *arg)
{
	struct app *a = arg;

	a->closed = true;
}

void app_leave(struct app *a, int status)
{
	if (a->leaving)
		return;
	a->leaving = true;
	a->status = status;
}

static void on_deadline(uv_timer_t *t)
{
	app_leave(t->data, APP_TIME);
}

static void on_gave_up(uv_timer_t *t)
{
	*(bool *)t->data = true;
}

static void on_signal(uv_signal_t *s, int number)
{
	(void)number;
	app_leave(s->data, APP_OK);
}

int app_run(struct app *a)
{
	bool gave_up = false;

	uv_timer_init(&a->loop, &a->deadline);
	uv_timer_init(&a->loop, &a->leave);
	uv_signal_init(&a->loop, &a->sigint);
	uv_signal_init(&a->loop, &a->sigterm);
	a->deadline.data = a->sigint.data = a->sigterm.data = a;
	uv_signal_start(&a->sigint, on_signal, SIGINT);
	uv_signal_start(&a->sigterm, on_signal, SIGTERM);
	if (a->opt->timeout_s >= 0)
		uv_timer_start(&a->deadline, on_deadline,
			       (uint64_t)(a->opt->timeout_s * 1000), 0);
	while (!a->leaving)
		uv_run(&a->loop, UV_RUN_ONCE);
	client_close(a->client);
	app_kick(a);
	a->leave.data = &gave_up;
	uv_timer_start(&a->leave, on_gave_up, APP_LEAVE_MS, 0);
	while (client_linked(a->client) && !gave_up)
		uv_run(&a->loop, UV_RUN_ONCE);
	return a->status;
}

static void close_handle(uv_handle_t *h, void *arg)
{
	(void)arg;
	if (!uv_is_closing(h))
		uv_close(h, NULL);
}

void app_kick(struct app *a)
{
	if (a->os)
		client_os_kick(a->os);
}

void app_close(struct app *a)
{
	struct client_os *os = a->os;
	struct err e;

	a->os = NULL; /* it frees itself */
	client_os_close(os, on_os_closed, a);
	while (!a->closed)
		uv_run(&a->loop, UV_RUN_ONCE);
	uv_walk(&a->loop, close_handle, NULL);
	uv_run(&a->loop, UV_RUN_DEFAULT);
	AZ(uv_loop_close(&a->loop));
	client_free(a->client);
	if (store_file_close(a->store, &e) && a->status == APP_OK)
		a->status = app_fail(a->opt, "store", "%s", e.msg);
	profile_release(&a->profile);
}
