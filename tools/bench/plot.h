/* Lines over time as an SVG file: panels below each other over one axis of minutes. */
#ifndef QUIPU_TOOLS_BENCH_PLOT_H
#define QUIPU_TOOLS_BENCH_PLOT_H

#include "base/err.h"

#include <stddef.h>

#define PLOT_LINES_MAX 9

struct plot_panel {
	const char *title, *unit;
	unsigned n_lines;
	const char *names[PLOT_LINES_MAX];
	const double *values[PLOT_LINES_MAX]; /* n of them each, none below 0 */
};

/* `minutes` ascends, n of them from 0 on. */
int plot_write(const char *path, const char *title, const double *minutes, size_t n,
	       const struct plot_panel *panels, unsigned n_panels, struct err *e);

#endif
