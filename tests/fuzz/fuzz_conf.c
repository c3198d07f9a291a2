/* Configuration files: what is accepted prints as a file that means the same. */
#include "base/assert.h"
#include "base/conf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char *print(const struct conf *c, size_t *n)
{
	char *text = NULL;
	FILE *f = open_memstream(&text, n);

	AN(f);
	conf_print(c, f);
	AZ(fclose(f));
	return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct conf c, again; /* large */
	char *text, *second;
	struct err e;
	size_t n, m;

	conf_init(&c);
	if (conf_parse(&c, (const char *)data, size, "fuzz.ini", &e)) {
		AN(e.code < 0 && e.msg[0]);
		return 0;
	}
	text = print(&c, &n);
	conf_init(&again);
	AZ(conf_parse(&again, text, n, "printed.ini", &e));
	second = print(&again, &m);
	AN(n == m && memcmp(text, second, n) == 0);
	if (conf_check(&c, &e))
		AN(e.code < 0 && e.msg[0]);
	free(text);
	free(second);
	return 0;
}
