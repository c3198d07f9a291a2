#include "tools/bench/bench.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

void report_init(struct report *r, const struct options *o, const char *what)
{
	memset(r, 0, sizeof *r);
	r->root = json_object();
	r->o = o;
	report_text(r, "bench", what);
	if (o->label)
		report_text(r, "label", o->label);
}

void report_u64(struct report *r, const char *name, uint64_t v)
{
	json_object_set_new(r->root, name, json_integer((json_int_t)v));
}

void report_real(struct report *r, const char *name, double v)
{
	json_object_set_new(r->root, name, json_real(v));
}

void report_text(struct report *r, const char *name, const char *v)
{
	json_object_set_new(r->root, name, json_string(v));
}

void report_hist(struct report *r, const char *name, const struct hist *h)
{
	static const struct {
		const char *name;
		double p;
	} ps[] = { { "p50", .5 }, { "p90", .9 }, { "p99", .99 },
		   { "p999", .999 } };
	char key[80];
	unsigned i;

	for (i = 0; i < sizeof ps / sizeof *ps; i++) {
		snprintf(key, sizeof key, "%s_%s_us", name, ps[i].name);
		report_u64(r, key, hist_percentile(h, ps[i].p));
	}
	snprintf(key, sizeof key, "%s_max_us", name);
	report_u64(r, key, h->max);
}

void report_fail(struct report *r, const char *fmt, ...)
{
	char text[500];
	json_t *list = json_object_get(r->root, "failures");
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	r->failed = true;
	if (!list) {
		list = json_array();
		json_object_set_new(r->root, "failures", list);
	}
	if (json_array_size(list) < 20)
		json_array_append_new(list, json_string(text));
}

int report_end(struct report *r)
{
	const char *key;
	json_t *v, *line;
	size_t i;

	json_object_set_new(r->root, "ok", json_boolean(!r->failed));
	if (r->o->json) {
		json_dumpf(r->root, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
		putchar('\n');
	} else {
		json_object_foreach(r->root, key, v) {
			switch (json_typeof(v)) {
			case JSON_STRING:
				printf("%-28s %s\n", key, json_string_value(v));
				break;
			case JSON_INTEGER:
				printf("%-28s %" JSON_INTEGER_FORMAT "\n", key,
				       json_integer_value(v));
				break;
			case JSON_REAL:
				printf("%-28s %.3f\n", key, json_real_value(v));
				break;
			case JSON_ARRAY:
				json_array_foreach(v, i, line)
					printf("FAILED: %s\n",
					       json_string_value(line));
				break;
			default:
				printf("%-28s %s\n", key,
				       json_is_true(v) ? "yes" : "no");
			}
		}
		putchar('\n');
	}
	fflush(stdout);
	json_decref(r->root);
	return r->failed;
}

void progress(const struct options *o, const char *fmt, ...)
{
	va_list ap;

	if (!o->progress)
		return;
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}
