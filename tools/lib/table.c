#include "base/alloc.h"
#include "base/assert.h"
#include "tools/lib/table.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static void add(struct table *t, char *text)
{
	if (t->n == t->cap) {
		t->cap = t->cap ? 2 * t->cap : 64;
		t->cell = xrealloc(t->cell, t->cap * sizeof *t->cell);
	}
	t->cell[t->n++] = text;
}

void table_init(struct table *t, const char *heads)
{
	memset(t, 0, sizeof *t);
	while (*heads) {
		size_t n = strcspn(heads, " ");

		AN(t->columns < TABLE_COLUMNS_MAX);
		add(t, xasprintf("%.*s", (int)n, heads));
		t->columns++;
		heads += n + strspn(heads + n, " ");
	}
}

void table_cell(struct table *t, const char *fmt, ...)
{
	char *text;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) < 0) /* style: alloc, fails below */
		WRONG("vasprintf");
	va_end(ap);
	add(t, text);
}

/* Columns, not bytes: UTF-8's following bytes take no room. */
static unsigned width(const char *s)
{
	unsigned n = 0;

	for (; *s; s++)
		n += (*s & 0xc0) != 0x80;
	return n;
}

static bool is_number(const char *s)
{
	size_t n = strspn(s, "0123456789.");

	return n > 0 && (s[n] == 0 || s[n] == ' ');
}

void table_print(struct table *t, FILE *f)
{
	unsigned wide[TABLE_COLUMNS_MAX] = { 0 };
	bool right[TABLE_COLUMNS_MAX];
	size_t i;

	AZ(t->n % t->columns);
	for (i = 0; i < t->n; i++) {
		unsigned c = (unsigned)(i % t->columns), w = width(t->cell[i]);

		if (w > wide[c])
			wide[c] = w;
		if (i < t->columns)
			right[c] = t->n > t->columns;
		else
			right[c] = right[c] && is_number(t->cell[i]);
	}
	for (i = 0; i < t->n; i++) {
		unsigned c = (unsigned)(i % t->columns);
		int pad = (int)(wide[c] - width(t->cell[i]));
		bool last = c + 1 == t->columns;

		fprintf(f, "%*s%s%*s%s", right[c] ? pad : 0, "", t->cell[i],
			right[c] || last ? 0 : pad, "", last ? "\n" : "  ");
		free(t->cell[i]);
	}
	free(t->cell);
	memset(t, 0, sizeof *t);
}
