/* Metrics of this process: rows of metric.tbl, shown as OpenMetrics or Prometheus
 * text.  Each row has one writing thread; the loop that renders may be another
 * (relaxed loads and stores, no locks).  Labelled rows belong to the loop. */
#ifndef QUIPU_BASE_METRIC_H
#define QUIPU_BASE_METRIC_H

#include "base/buf.h"
#include "base/hist.h"

#include <stdbool.h>
#include <stdio.h>

enum metric {
#define X(kind, id, name, help, label) id,
#include "base/metric.tbl"
#undef X
	METRIC_END
};

#define METRIC_LABELS_MAX 64 /* label values of one row; more count as "other" */
#define METRIC_LABEL_LEN 40  /* bytes of a label value, with the zero */

extern uint64_t metric_values[METRIC_END];

/* Counters and gauges. */
static inline void metric_add(enum metric m, uint64_t n)
{
	__atomic_store_n(&metric_values[m], metric_values[m] + n,
			 __ATOMIC_RELAXED);
}
static inline void metric_set(enum metric m, uint64_t v)
{
	__atomic_store_n(&metric_values[m], v, __ATOMIC_RELAXED);
}
static inline uint64_t metric_get(enum metric m)
{
	return __atomic_load_n(&metric_values[m], __ATOMIC_RELAXED);
}
/* Labelled counters; `label` is copied on first use. */
void metric_add_label(enum metric m, const char *label, uint64_t n);
uint64_t metric_get_label(enum metric m, const char *label);
/* Histograms: a duration in microseconds. */
void metric_observe_us(enum metric m, uint64_t us);
const struct hist *metric_hist(enum metric m);

/* All rows as text.  openmetrics: application/openmetrics-text; version=1.0.0
 * with # EOF, else text/plain; version=0.0.4. */
void metric_render(struct buf *out, bool openmetrics);
/* One page of Markdown (docs/metrics.md). */
void metric_doc(FILE *f);
/* All to zero (tests). */
void metric_reset(void);

#endif
