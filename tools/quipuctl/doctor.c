/* quipuctl doctor: asks every node that was named, and says what is wrong, what it
 * means and what to do. */
#include "tools/quipuctl/doctor.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "tools/quipuctl/ctl.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *name, *means, *what;
} checks[] = {
#define X(id, name, means, what) { name, means, what },
#include "tools/quipuctl/doctor.tbl"
#undef X
};

#define PATIENCE_MS 5000 /* for one answer of a node */

static const char *const grades[] = { "good", "warning", "error" };

void doctor_find(struct doctor *d, enum doctor_check check, enum doctor_grade grade,
		 const char *where, const char *fmt, ...)
{
	char what[512];
	json_t *o;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof what, fmt, ap);
	va_end(ap);
	o = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s}", "id", checks[check].name, "grade",
		      grades[grade], "where", where, "what", what, "means",
		      checks[check].means, "do", checks[check].what);
	if (!o) /* a path or a reason that is not UTF-8 */
		o = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s}", "id", checks[check].name,
			      "grade", grades[grade], "where", "?", "what", "?", "means",
			      checks[check].means, "do", checks[check].what);
	json_array_append_new(d->findings, o);
	if (grade > d->worst)
		d->worst = grade;
}

/* ---- asking ------------------------------------------------------------------ */

/* Messages of the connection begin with its path, which the row has too. */
static void gone(struct doctor_node *nd, const struct err *e)
{
	size_t n = strlen(nd->where);
	bool twice = strncmp(e->msg, nd->where, n) == 0 && e->msg[n] == ':';

	snprintf(nd->why, sizeof nd->why, "%.250s", twice ? e->msg + n + 2 : e->msg);
}

static bool ask(struct admin_client *a, struct doctor_node *nd, const char *verb,
		json_t **answer)
{
	char name[ADMIN_NAME_MAX];
	struct err e = { 0 };

	if (nd->why[0])
		return false;
	if (!admin_client_call(a, json_pack("{s:s}", "verb", verb), answer, name, &e))
		return true;
	/* An older server without the verb is no dead one. */
	if (!name[0])
		gone(nd, &e);
	return false;
}

static void visit(struct doctor_node *nd, const char *socket)
{
	struct admin_client *a = NULL;
	struct err e = { 0 };
	uint64_t before, after;

	if (admin_client_open(&a, socket, &e)) {
		gone(nd, &e);
		return;
	}
	admin_client_patience(a, PATIENCE_MS);
	before = clock_wall_ms(&clock_real);
	if (ask(a, nd, "status", &nd->status)) {
		after = clock_wall_ms(&clock_real);
		/* An answer that took long says little about the clock. */
		if (ctl_u(nd->status, "now_ms") && after - before < 200)
			nd->skew_ms = (int64_t)ctl_u(nd->status, "now_ms") -
				      (int64_t)(before + (after - before) / 2);
	}
	ask(a, nd, "nodes", &nd->nodes);
	ask(a, nd, "shards", &nd->shards);
	ask(a, nd, "stats", &nd->stats);
	ask(a, nd, "config", &nd->config);
	ask(a, nd, "certs", &nd->certs);
	admin_client_free(a);
}

static void leave(struct doctor_node *nd)
{
	json_decref(nd->status);
	json_decref(nd->nodes);
	json_decref(nd->shards);
	json_decref(nd->stats);
	json_decref(nd->config);
	json_decref(nd->certs);
}

/* ---- telling ------------------------------------------------------------------- */

static void print(const struct doctor *d)
{
	const char *last = "";
	json_t *f;
	size_t i;

	json_array_foreach(d->findings, i, f) {
		printf("%s  %s  %s: %s\n", ctl_s(f, "grade"), ctl_s(f, "id"),
		       ctl_s(f, "where"), ctl_s(f, "what"));
		/* Findings of one check stand together; said once. */
		if (strcmp(last, ctl_s(f, "id")) != 0)
			printf("    means: %s\n    do:    %s\n", ctl_s(f, "means"),
			       ctl_s(f, "do"));
		last = ctl_s(f, "id");
	}
	printf("%s%zu finding%s, %u node%s asked, %d checks\n", i ? "\n" : "", i,
	       i == 1 ? "" : "s", d->n, d->n == 1 ? "" : "s", DOCTOR_CHECKS);
}

/* Worst first; within a grade as they were found. */
static void sort(struct doctor *d)
{
	json_t *sorted = json_array(), *f;
	int g;
	size_t i;

	for (g = DOCTOR_ERROR; g >= 0; g--)
		json_array_foreach(d->findings, i, f)
			if (strcmp(ctl_s(f, "grade"), grades[g]) == 0)
				json_array_append(sorted, f);
	json_decref(d->findings);
	d->findings = sorted;
}

int ctl_doctor(struct ctl *c, int argc, char **argv)
{
	static const int status[] = { CTL_OK, CTL_WARNINGS, CTL_ERRORS };
	struct doctor *d;
	unsigned i;
	int rv;

	if (argc > 1)
		return ctl_usage("%s takes no \"%s\"", argv[0], argv[1]);
	d = xcalloc(1, sizeof *d);
	d->findings = json_array();
	for (i = 0; i < c->n_sockets; i++) {
		d->node[d->n].where = c->sockets[i];
		visit(&d->node[d->n++], c->sockets[i]);
	}
	doctor_checks(d);
	sort(d);
	rv = status[d->worst];
	if (c->json)
		ctl_print(json_pack("{s:b,s:s,s:i,s:O}", "ok", 1, "worst",
				    grades[d->worst], "asked", (int)d->n, "findings",
				    d->findings));
	else
		print(d);
	for (i = 0; i < d->n; i++)
		leave(&d->node[i]);
	json_decref(d->findings);
	free(d);
	return rv;
}
