#include "base/metric.h"
#include "base/assert.h"

#include <inttypes.h>
#include <string.h>

enum kind { COUNTER, GAUGE, HISTOGRAM };

static const struct {
	enum kind kind;
	const char *name, *help, *label;
} rows[] = {
#define X(kind, id, name, help, label) { kind, name, help, label },
#include "base/metric.tbl"
#undef X
};

/* Slot of each histogram row in `hists`, each labelled row in `labels`: the
 * position among its like, counted by the compiler. */
enum {
#define X_COUNTER(id)
#define X_GAUGE(id)
#define X_HISTOGRAM(id) H_##id,
#define X(kind, id, name, help, label) X_##kind(id)
#include "base/metric.tbl"
#undef X
	HISTS
};

struct label_set {
	unsigned n;
	char text[METRIC_LABELS_MAX][METRIC_LABEL_LEN];
	uint64_t value[METRIC_LABELS_MAX];
};

uint64_t metric_values[METRIC_END];
static struct hist hists[HISTS];
static struct label_set label_sets[METRIC_END];

static struct hist *hist_of(enum metric m)
{
	switch (m) {
#undef X_HISTOGRAM
#define X_HISTOGRAM(id)                                                        \
	case id:                                                               \
		return &hists[H_##id];
#define X(kind, id, name, help, label) X_##kind(id)
#include "base/metric.tbl"
#undef X
	default:
		WRONG("metric is no histogram");
	}
}

/* ---- counting ------------------------------------------------------------- */

void metric_observe_us(enum metric m, uint64_t us)
{
	hist_add(hist_of(m), us);
}

const struct hist *metric_hist(enum metric m)
{
	return hist_of(m);
}

static unsigned label_find(const struct label_set *s, const char *label)
{
	unsigned i;

	for (i = 0; i < s->n && strcmp(s->text[i], label) != 0; i++)
		;
	return i;
}

void metric_add_label(enum metric m, const char *label, uint64_t n)
{
	struct label_set *s = &label_sets[m];
	char cut[METRIC_LABEL_LEN];
	unsigned i;

	AN(*rows[m].label);
	snprintf(cut, sizeof cut, "%s", label);
	i = label_find(s, cut);
	if (i == s->n) {
		/* The last place is kept for what has no place. */
		if (s->n >= METRIC_LABELS_MAX - 1) {
			snprintf(cut, sizeof cut, "other");
			i = label_find(s, cut);
		}
		if (i == s->n) {
			memcpy(s->text[i], cut, sizeof cut);
			s->n++;
		}
	}
	s->value[i] += n;
	metric_add(m, n);
}

uint64_t metric_get_label(enum metric m, const char *label)
{
	const struct label_set *s = &label_sets[m];
	unsigned i = label_find(s, label);

	return i < s->n ? s->value[i] : 0;
}

void metric_reset(void)
{
	memset(metric_values, 0, sizeof metric_values);
	memset(hists, 0, sizeof hists);
	memset(label_sets, 0, sizeof label_sets);
}

/* ---- text ----------------------------------------------------------------- */

/* Escapes of label values, the same in both formats. */
static void put_label(struct buf *out, const char *s)
{
	for (; *s; s++) {
		if (*s == '\\' || *s == '"')
			buf_u8(out, '\\');
		if (*s == '\n')
			buf_puts(out, "\\n");
		else
			buf_u8(out, (uint8_t)*s);
	}
}

/* Buckets at powers of two from 64 us to 17 s; steps of the histogram end there
 * exactly.  Durations are cut to whole microseconds, so `below 2^b` is what
 * `le` asks for. */
static void put_hist(struct buf *out, const char *name, const struct hist *live)
{
	struct hist h;
	unsigned b;

	hist_clear(&h);
	hist_merge(&h, live);
	/* A writer may be between two of its stores: what the cells hold is
	 * the count, so that buckets and count agree. */
	h.count = hist_below_pow2(&h, 64);
	for (b = 6; b <= 24; b++)
		buf_printf(out, "quipu_%s_bucket{le=\"%.6f\"} %" PRIu64 "\n",
			   name, (double)(1u << b) / 1e6,
			   hist_below_pow2(&h, b));
	buf_printf(out, "quipu_%s_bucket{le=\"+Inf\"} %" PRIu64 "\n", name,
		   h.count);
	buf_printf(out, "quipu_%s_sum %.6f\nquipu_%s_count %" PRIu64 "\n", name,
		   (double)h.sum / 1e6, name, h.count);
}

void metric_render(struct buf *out, bool openmetrics)
{
	static const char *const kinds[] = { "counter", "gauge", "histogram" };
	unsigned m, i;

	for (m = 0; m < METRIC_END; m++) {
		const char *name = rows[m].name;
		/* Prometheus' own format has the suffix in the family's name,
		 * OpenMetrics only in the samples'. */
		const char *total = rows[m].kind == COUNTER ? "_total" : "";
		const char *family = openmetrics ? "" : total;

		buf_printf(out, "# HELP quipu_%s%s %s.\n", name, family,
			   rows[m].help);
		buf_printf(out, "# TYPE quipu_%s%s %s\n", name, family,
			   kinds[rows[m].kind]);
		if (rows[m].kind == HISTOGRAM) {
			put_hist(out, name, hist_of((enum metric)m));
		} else if (*rows[m].label) {
			struct label_set *s = &label_sets[m];

			for (i = 0; i < s->n; i++) {
				buf_printf(out, "quipu_%s%s{%s=\"", name, total,
					   rows[m].label);
				put_label(out, s->text[i]);
				buf_printf(out, "\"} %" PRIu64 "\n",
					   s->value[i]);
			}
		} else {
			buf_printf(out, "quipu_%s%s %" PRIu64 "\n", name, total,
				   metric_get((enum metric)m));
		}
	}
	if (openmetrics)
		buf_puts(out, "# EOF\n");
}

void metric_doc(FILE *f)
{
	static const char *const kinds[] = { "counter", "gauge", "histogram" };
	unsigned m;

	fprintf(f, "# Metrics\n\nMade from base/metric.tbl by `make docs`; do "
		   "not edit. Served at /metrics of the gateway.\n\n"
		   "| metric | kind | label | meaning |\n|---|---|---|---|\n");
	for (m = 0; m < METRIC_END; m++)
		fprintf(f, "| quipu_%s%s | %s | %s | %s |\n", rows[m].name,
			rows[m].kind == COUNTER ? "_total" : "",
			kinds[rows[m].kind], rows[m].label, rows[m].help);
}
