#include "base/logf.h"
#include "base/clock.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define LINE_MAX_BYTES 1024

static enum log_level min_level = LOG_INFO;
static void (*line_sink)(void *arg, const char *line);
static void *sink_arg;

void log_set_level(enum log_level min)
{
	min_level = min;
}

void log_set_sink(void (*sink)(void *arg, const char *line), void *arg)
{
	line_sink = sink;
	sink_arg = arg;
}

void log_event(enum log_level level, const char *event, const char *fmt, ...)
{
	static const char *const names[] = { "debug", "info", "warn", "error" };
	char line[LINE_MAX_BYTES];
	uint64_t ms;
	time_t sec;
	struct tm tm;
	va_list ap;
	size_t n;

	if (level < min_level)
		return;
	ms = clock_wall_ms(&clock_real);
	sec = (time_t)(ms / 1000);
	gmtime_r(&sec, &tm);
	n = strftime(line, sizeof line, "ts=%Y-%m-%dT%H:%M:%S", &tm);
	n += (size_t)snprintf(line + n, sizeof line - n,
			      ".%03dZ level=%s event=%s ", (int)(ms % 1000),
			      names[level], event);
	va_start(ap, fmt);
	vsnprintf(line + n, sizeof line - n - 1, fmt, ap);
	va_end(ap);
	n = strlen(line);
	if (line_sink) {
		line_sink(sink_arg, line);
		return;
	}
	line[n] = '\n';
	fwrite(line, 1, n + 1, stderr);
}

const char *log_quote(const char *s)
{
	static __thread char ring[4][256];
	static __thread unsigned at;
	static const char hex[] = "0123456789abcdef";
	char *out = ring[at++ & 3], *q = out;

	*q++ = '"';
	for (; *s && q < out + sizeof ring[0] - 6; s++) {
		unsigned char c = (unsigned char)*s;

		if (c == '"' || c == '\\') {
			*q++ = '\\';
			*q++ = (char)c;
		} else if (c < 0x20 || c == 0x7f) {
			*q++ = '\\';
			*q++ = 'x';
			*q++ = hex[c >> 4];
			*q++ = hex[c & 15];
		} else {
			*q++ = (char)c;
		}
	}
	*q++ = '"';
	*q = 0;
	return out;
}
