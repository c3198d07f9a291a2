/* quipuctl top: what the nodes do now, every two seconds, from two samples of each. */
#include "base/alloc.h"
#include "base/clock.h"
#include "base/hist.h"
#include "tools/lib/table.h"
#include "tools/quipuctl/ctl.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EVERY_MS 2000
#define ONCE_MS 1000
#define PATIENCE_MS 3000 /* for one answer of a node; then it is "down" */
#define IDS_MAX 64

/* What one node said at one time. */
struct sample {
	uint64_t at_us;    /* 0: it gave no answer */
	json_t *status, *stats, *histograms;
};

struct node_row {
	const char *socket;
	struct admin_client *admin;
	struct sample then, now;
	uint64_t id;       /* as it said once; 0: never */
};

struct top {
	struct node_row node[CTL_NODES_MAX];
	unsigned n;
	uint64_t behind[IDS_MAX]; /* entries, by the word of the leaders asked */
};

/* ---- asking ------------------------------------------------------------------ */

static void sample_drop(struct sample *s)
{
	json_decref(s->status);
	json_decref(s->stats);
	json_decref(s->histograms);
	memset(s, 0, sizeof *s);
}

static bool ask(struct node_row *r, const char *verb, json_t **answer)
{
	char name[ADMIN_NAME_MAX];
	struct err e;

	if (!r->admin) {
		if (admin_client_open(&r->admin, r->socket, &e))
			return false;
		admin_client_patience(r->admin, PATIENCE_MS);
	}
	if (!admin_client_call(r->admin, json_pack("{s:s}", "verb", verb), answer, name,
			       &e))
		return true;
	if (!name[0]) { /* the connection's end; a refusal is none */
		admin_client_free(r->admin);
		r->admin = NULL;
	}
	return false;
}

/* How far behind its followers are, says each leader. */
static void look_behind(struct top *t, const json_t *shards)
{
	json_t *s, *v;
	size_t i, k;

	json_array_foreach(json_object_get(shards, "shards"), i, s) {
		if (strcmp(ctl_s(s, "role"), "leader") != 0)
			continue;
		json_array_foreach(json_object_get(s, "voters"), k, v) {
			uint64_t id = ctl_u(v, "id"), last = ctl_u(s, "last");
			uint64_t match = ctl_u(v, "match");

			if (id < IDS_MAX && last > match &&
			    last - match > t->behind[id])
				t->behind[id] = last - match;
		}
	}
}

static void look(struct top *t, struct node_row *r)
{
	json_t *shards = NULL;

	sample_drop(&r->then);
	r->then = r->now;
	memset(&r->now, 0, sizeof r->now);
	if (!ask(r, "status", &r->now.status) || !ask(r, "stats", &r->now.stats)) {
		sample_drop(&r->now);
		return;
	}
	r->now.at_us = clock_us(&clock_real);
	r->id = ctl_u(r->now.status, "id");
	ask(r, "histograms", &r->now.histograms); /* an older server has none */
	if (ask(r, "shards", &shards))
		look_behind(t, shards);
	json_decref(shards);
}

/* ---- figures ------------------------------------------------------------------- */

static uint64_t stat_of(const struct sample *s, const char *name)
{
	return ctl_u(json_object_get(s->stats, "stats"), name);
}

/* Two samples of one life of the process? */
static bool comparable(const struct node_row *r)
{
	return r->then.at_us && r->now.at_us > r->then.at_us &&
	       ctl_u(r->now.status, "uptime_s") >= ctl_u(r->then.status, "uptime_s") &&
	       stat_of(&r->now, "sends") >= stat_of(&r->then, "sends");
}

/* A second; -1: not known. */
static double rate(const struct node_row *r, const char *name)
{
	if (!comparable(r))
		return -1;
	return (double)(stat_of(&r->now, name) - stat_of(&r->then, name)) * 1e6 /
	       (double)(r->now.at_us - r->then.at_us);
}

static const json_t *cells_of(const struct sample *s, const char *name)
{
	return json_object_get(json_object_get(json_object_get(s->histograms,
							       "histograms"), name),
			       "cells");
}

static void add_cells(struct hist *h, const json_t *cells, bool minus)
{
	json_t *cell;
	size_t i;

	json_array_foreach(cells, i, cell) {
		json_int_t at = json_integer_value(json_array_get(cell, 0));
		json_int_t n = json_integer_value(json_array_get(cell, 1));

		if (at < 0 || at >= (json_int_t)HIST_CELLS)
			continue;
		h->cells[at] += minus ? -(uint64_t)n : (uint64_t)n;
		h->count += minus ? -(uint64_t)n : (uint64_t)n;
	}
}

/* p99 in ms of what came between the two samples; -1: nothing, or not known. */
static double p99(const struct node_row *r, const char *name)
{
	struct hist *h;
	double ms = -1;

	if (!comparable(r) || !cells_of(&r->now, name))
		return -1;
	h = xcalloc(1, sizeof *h);
	add_cells(h, cells_of(&r->now, name), false);
	add_cells(h, cells_of(&r->then, name), true);
	h->max = UINT64_MAX;
	if (h->count)
		ms = (double)hist_percentile(h, 0.99) / 1000;
	free(h);
	return ms;
}

static const char *state(const struct node_row *r)
{
	if (!r->now.at_us)
		return "down";
	if (json_is_true(json_object_get(r->now.status, "draining")))
		return "draining";
	return json_is_true(json_object_get(r->now.status, "ready")) ? "ready" :
								       "not ready";
}

static uint64_t disk_percent(const struct node_row *r)
{
	const json_t *d = json_object_get(r->now.status, "disk");
	uint64_t size = ctl_u(d, "size_bytes"), left = ctl_u(d, "free_bytes");

	return size && left <= size ? (size - left) * 100 / size : 0;
}

/* ---- showing ------------------------------------------------------------------- */

static void figure(struct table *t, double v, int digits)
{
	if (v < 0)
		table_cell(t, "-");
	else
		table_cell(t, "%.*f", digits, v);
}

static void show_row(struct top *t, struct table *out, const struct node_row *r)
{
	const json_t *disk = json_object_get(r->now.status, "disk");

	if (r->id)
		table_cell(out, "%" PRIu64, r->id);
	else
		table_cell(out, "?");
	table_cell(out, "%s", state(r));
	if (!r->now.at_us) {
		unsigned i;

		for (i = 0; i < 9; i++)
			table_cell(out, "-");
	} else {
		figure(out, rate(r, "acks"), 0);
		figure(out, rate(r, "sends"), 0);
		figure(out, rate(r, "deliveries"), 0);
		figure(out, p99(r, "ack_seconds"), 1);
		figure(out, p99(r, "journal_fsync_seconds"), 1);
		table_cell(out, "%" PRIu64, stat_of(&r->now, "connections"));
		table_cell(out, "%" PRIu64 "/%" PRIu64, ctl_u(r->now.status, "led"),
			   ctl_u(r->now.status, "shards"));
		table_cell(out, "%" PRIu64 "%% %s", disk_percent(r), ctl_s(disk, "level"));
		table_cell(out, "%" PRIu64, ctl_u(r->now.status, "faulty"));
	}
	table_cell(out, "%" PRIu64, r->id < IDS_MAX ? t->behind[r->id] : 0);
}

static void show(struct top *t, FILE *f)
{
	double acks = 0;
	struct table out;
	unsigned i;

	table_init(&out, "node state acks/s sends/s deliv/s ack_p99_ms fsync_p99_ms conns led "
		   "disk faulty behind");
	for (i = 0; i < t->n; i++) {
		double a = rate(&t->node[i], "acks");

		show_row(t, &out, &t->node[i]);
		acks += a > 0 ? a : 0;
	}
	table_print(&out, f);
	fprintf(f, "%.0f acks/s in all; ctrl-c ends\n", acks);
}

static void set_figure(json_t *o, const char *name, double v)
{
	json_object_set_new(o, name, v < 0 ? json_null() : json_real(v));
}

static int show_json(struct top *t)
{
	json_t *rows = json_array();
	unsigned i;

	for (i = 0; i < t->n; i++) {
		struct node_row *r = &t->node[i];
		json_t *o = json_pack("{s:I,s:s}", "id", (json_int_t)r->id, "state",
				      state(r));

		set_figure(o, "acks_s", rate(r, "acks"));
		set_figure(o, "sends_s", rate(r, "sends"));
		set_figure(o, "deliveries_s", rate(r, "deliveries"));
		set_figure(o, "ack_p99_ms", p99(r, "ack_seconds"));
		set_figure(o, "fsync_p99_ms", p99(r, "journal_fsync_seconds"));
		if (r->now.at_us) {
			json_object_set_new(o, "connections", json_integer(
				(json_int_t)stat_of(&r->now, "connections")));
			json_object_set(o, "led", json_object_get(r->now.status, "led"));
			json_object_set(o, "faulty", json_object_get(r->now.status,
								     "faulty"));
			json_object_set_new(o, "disk_percent", json_integer(
				(json_int_t)disk_percent(r)));
		}
		json_object_set_new(o, "behind", json_integer(
			(json_int_t)(r->id < IDS_MAX ? t->behind[r->id] : 0)));
		json_array_append_new(rows, o);
	}
	ctl_print(json_pack("{s:b,s:o}", "ok", 1, "nodes", rows));
	return fflush(stdout) ? CTL_REFUSED : CTL_OK;
}

/* Over the old picture, line by line, so that nothing flickers. */
static int redraw(struct top *t)
{
	char *text = NULL, *p, *nl;
	size_t n;
	FILE *f = open_memstream(&text, &n);

	show(t, f);
	fclose(f);
	fputs("\033[H", stdout);
	for (p = text; (nl = strchr(p, '\n')); p = nl + 1)
		printf("%.*s\033[K\n", (int)(nl - p), p);
	fputs("\033[J", stdout);
	free(text);
	return fflush(stdout) ? CTL_REFUSED : CTL_OK;
}

int ctl_top(struct ctl *c, int argc, char **argv)
{
	bool tty = isatty(1) && !c->json && !c->once, any = false;
	struct top *t;
	unsigned i;
	int rv = CTL_OK;

	if (argc > 1)
		return ctl_usage("%s takes no \"%s\"", argv[0], argv[1]);
	t = xcalloc(1, sizeof *t);
	for (; t->n < c->n_sockets; t->n++)
		t->node[t->n].socket = c->sockets[t->n];
	if (tty)
		fputs("\033[2J", stdout);
	for (i = 0; i < t->n; i++)
		look(t, &t->node[i]);
	do {
		poll(NULL, 0, c->once ? ONCE_MS : EVERY_MS);
		memset(t->behind, 0, sizeof t->behind);
		for (i = 0; i < t->n; i++)
			look(t, &t->node[i]);
		if (c->json)
			rv = show_json(t);
		else if (tty)
			rv = redraw(t);
		else
			show(t, stdout);
		if (!tty && !c->once && fflush(stdout))
			rv = CTL_REFUSED;
	} while (!c->once && rv == CTL_OK);
	for (i = 0; i < t->n; i++) {
		any |= t->node[i].now.at_us != 0;
		sample_drop(&t->node[i].then);
		sample_drop(&t->node[i].now);
		admin_client_free(t->node[i].admin);
	}
	free(t);
	return rv || any ? rv : CTL_UNREACHABLE;
}
