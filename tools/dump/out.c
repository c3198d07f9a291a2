#include "base/alloc.h"
#include "tools/dump/dump.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void quoted(const char *s)
{
	putchar('"');
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;

		if (c == '"' || c == '\\')
			printf("\\%c", c);
		else if (c < 0x20 || c == 0x7f)
			printf("\\u%04x", c);
		else
			putchar(c);
	}
	putchar('"');
}

void out_begin(struct dump *d, const char *what, const char *file,
	       uint64_t offset)
{
	if (d->json) {
		printf("{\"what\":\"%s\",\"file\":", what);
		quoted(file);
		printf(",\"at\":%" PRIu64, offset);
	} else {
		printf("%s @%" PRIu64 " %s", file, offset, what);
	}
}

void out_u(struct dump *d, const char *name, uint64_t v)
{
	if (d->json)
		printf(",\"%s\":%" PRIu64, name, v);
	else
		printf(" %s=%" PRIu64, name, v);
}

void out_id(struct dump *d, const char *name, uint64_t v)
{
	if (d->json)
		printf(",\"%s\":\"%016" PRIx64 "\"", name, v);
	else
		printf(" %s=%016" PRIx64, name, v);
}

void out_s(struct dump *d, const char *name, const char *s)
{
	if (d->json) {
		printf(",\"%s\":", name);
		quoted(s);
	} else {
		printf(" %s=%s", name, s);
	}
}

void out_hex(struct dump *d, const char *name, const void *p, size_t n)
{
	const uint8_t *b = p;
	size_t i;

	printf(d->json ? ",\"%s\":\"" : " %s=", name);
	for (i = 0; i < n; i++)
		printf("%02x", b[i]);
	if (d->json)
		putchar('"');
}

void out_end(struct dump *d)
{
	puts(d->json ? "}" : "");
}

void out_damage(struct dump *d, const char *file, uint64_t offset,
		const char *why)
{
	out_begin(d, "DAMAGE", file, offset);
	out_s(d, "why", why);
	out_end(d);
	d->damaged++;
}

int dump_read(struct dump *d, const char *path, uint64_t max, uint8_t **out,
	      size_t *n, struct err *e)
{
	struct disk_file *f;
	uint64_t size = 0;
	int rv = d->disk->ops->open(d->disk, path, DISK_READ, &f, e);

	*out = NULL;
	if (rv)
		return rv;
	rv = d->disk->ops->size(f, &size, e);
	if (!rv && size > max)
		rv = err_set(e, ERR_TOO_LARGE,
			     "%s: %" PRIu64 " bytes, at most %" PRIu64
			     " are read",
			     path, size, max);
	if (!rv) {
		*out = xmalloc(size + 1);
		rv = d->disk->ops->pread(f, *out, size, 0, n, e);
	}
	d->disk->ops->close(f);
	if (rv) {
		free(*out);
		*out = NULL;
	}
	return rv;
}
