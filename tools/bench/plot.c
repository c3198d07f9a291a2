#include "tools/bench/plot.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>

#define WIDTH 960
#define LEFT 80
#define RIGHT 150 /* the legend's */
#define TOP 40
#define HIGH 170  /* of a panel's field */
#define GAP 62    /* from one field to the next: title, numbers */
#define TICKS 5

static const char *const colours[PLOT_LINES_MAX] = {
	"#1f77b4", "#d62728", "#2ca02c", "#ff7f0e", "#9467bd",
	"#8c564b", "#e377c2", "#7f7f7f", "#17becf",
};

/* 1, 2 or 5 times a power of ten, some TICKS of which reach `most`. */
static double step_of(double most)
{
	double raw = most / TICKS, p = pow(10, floor(log10(raw))), m = raw / p;

	return p * (m <= 1 ? 1 : m <= 2 ? 2 : m <= 5 ? 5 : 10);
}

static double most_of(const struct plot_panel *p, size_t n)
{
	double most = 0;
	unsigned k;
	size_t i;

	for (k = 0; k < p->n_lines; k++)
		for (i = 0; i < n; i++)
			if (p->values[k][i] > most)
				most = p->values[k][i];
	return most > 0 ? most : 1;
}

static void put_text(FILE *f, double x, double y, const char *anchor, const char *text)
{
	fprintf(f, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s</text>\n", x, y,
		anchor, text);
}

static void put_line(FILE *f, double x1, double y1, double x2, double y2)
{
	fprintf(f, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" "
		"stroke=\"#ddd\"/>\n", x1, y1, x2, y2);
}

static void put_panel(FILE *f, const struct plot_panel *p, const double *minutes, size_t n,
		      double top)
{
	double long_ = minutes[n - 1];
	double wide = WIDTH - LEFT - RIGHT, step, high, at;
	char text[40];
	unsigned k;
	size_t i;

	long_ = long_ > 0 ? long_ : 1;
	step = step_of(most_of(p, n));
	high = ceil(most_of(p, n) / step) * step;
	for (i = 0; (at = (double)i * step) <= high * 1.0001; i++) {
		double y = top + HIGH * (1 - at / high);

		put_line(f, LEFT, y, LEFT + wide, y);
		snprintf(text, sizeof text, "%g", at);
		put_text(f, LEFT - 6, y + 4, "end", text);
	}
	step = step_of(long_);
	for (i = 0; (at = (double)i * step) <= long_ * 1.0001; i++) {
		double x = LEFT + wide * at / long_;

		put_line(f, x, top, x, top + HIGH);
		snprintf(text, sizeof text, "%g", at);
		put_text(f, x, top + HIGH + 15, "middle", text);
	}
	put_text(f, LEFT + wide, top + HIGH + 30, "end", "minutes");
	put_text(f, LEFT - 60, top - 9, "start", p->unit);
	fprintf(f, "<text x=\"%d\" y=\"%.1f\" font-weight=\"bold\">%s</text>\n", LEFT,
		top - 9, p->title);
	for (k = 0; k < p->n_lines; k++) {
		double y = top + 12 + 17 * k;

		fprintf(f, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"1.5\" "
			"points=\"", colours[k]);
		for (i = 0; i < n; i++)
			fprintf(f, "%.1f,%.1f ",
				LEFT + wide * minutes[i] / long_,
				top + HIGH * (1 - p->values[k][i] / high));
		fputs("\"/>\n", f);
		fprintf(f, "<rect x=\"%.1f\" y=\"%.1f\" width=\"14\" height=\"4\" "
			"fill=\"%s\"/>\n", LEFT + wide + 12, y - 6, colours[k]);
		put_text(f, LEFT + wide + 32, y, "start", p->names[k]);
	}
}

int plot_write(const char *path, const char *title, const double *minutes, size_t n,
	       const struct plot_panel *panels, unsigned n_panels, struct err *e)
{
	double high = TOP + n_panels * (HIGH + GAP) + 20;
	unsigned i;
	FILE *f;

	if (n < 2)
		return err_set(e, ERR_INVALID, "%s: fewer than two samples", path);
	f = fopen(path, "we");
	if (!f)
		return err_errno(e, errno, "%s", path);
	fprintf(f, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %.0f\" "
		"font-family=\"sans-serif\" font-size=\"12\">\n"
		"<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n", WIDTH, high);
	fprintf(f, "<text x=\"%d\" y=\"22\" font-size=\"15\">%s</text>\n", LEFT, title);
	for (i = 0; i < n_panels; i++)
		put_panel(f, &panels[i], minutes, n, TOP + 30 + i * (HIGH + GAP));
	fputs("</svg>\n", f);
	if (fclose(f))
		return err_errno(e, errno, "%s", path);
	return 0;
}
