/* Verbs of the admin socket about this process: its certificates, its histograms. */
#include "base/alloc.h"
#include "base/metric.h"
#include "gateway/admin_impl.h"

#include <stdlib.h>

static json_t *untils(const struct gateway *g)
{
	return json_pack("{s:I,s:I}", "links_until",
			 (json_int_t)certs_links_until(g), "gateway_until",
			 (json_int_t)certs_gateway_until(g));
}

void admin_certs(struct admin_req *r)
{
	json_t *o = untils(r->g);

	json_object_set_new(o, "now",
			    json_integer((json_int_t)(clock_wall_ms(r->g->clock) /
						      1000)));
	admin_ok(r, o);
}

void admin_reload(struct admin_req *r)
{
	struct err e = { 0 };

	if (gateway_reload(r->g, &e))
		admin_fail(r, "refused", "%s", e.msg);
	else
		admin_ok(r, untils(r->g));
}

static json_t *cells(const struct hist *h)
{
	json_t *list = json_array();
	unsigned i;

	for (i = 0; i < HIST_CELLS; i++)
		if (h->cells[i])
			json_array_append_new(list, json_pack(
				"[i,I]", (int)i, (json_int_t)h->cells[i]));
	return list;
}

static void hist_COUNTER(json_t *o, const char *name, enum metric m)
{
	(void)o;
	(void)name;
	(void)m;
}
#define hist_GAUGE hist_COUNTER

static void hist_HISTOGRAM(json_t *o, const char *name, enum metric m)
{
	/* Another thread may be writing: a copy is read as hist.h allows. */
	struct hist *h = xcalloc(1, sizeof *h);

	hist_merge(h, metric_hist(m));
	json_object_set_new(o, name, json_pack("{s:I,s:o}", "count",
					       (json_int_t)h->count, "cells",
					       cells(h)));
	free(h);
}

/* As they are since the start: the difference of two answers is what came between. */
void admin_histograms(struct admin_req *r)
{
	json_t *o = json_object();

#define X(kind, id, name, help, label) hist_##kind(o, name, id);
#include "base/metric.tbl"
#undef X
	admin_ok(r, json_pack("{s:o}", "histograms", o));
}
