/* backup.json: what is accepted names files within the folder, each shard once, and is
 * accepted again as it is written. */
#include "base/assert.h"
#include "tools/lib/backup_dir.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void names(const json_t *shard)
{
	const json_t *f;
	size_t i;

	json_array_foreach(json_object_get(shard, "files"), i, f) {
		const char *path = json_string_value(json_object_get(f, "path"));
		json_int_t n = json_integer_value(json_object_get(f, "file"));

		AN(path && path[0] && path[0] != '/' && !strstr(path, ".."));
		AN(strlen(path) < BACKUP_PATH_MAX);
		AN(n >= (i ? 0 : -1));
		if (i && n <= UINT32_MAX)
			AN(backup_file(shard, (uint32_t)n) == f);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct err e = { 0 };
	const json_t *s;
	json_t *o, *again;
	char *text;
	size_t i;
	int rv = backup_parse(data, size, &o, &e);

	AN(!rv == !!o);
	AN(!rv || e.msg[0]);
	if (rv)
		return 0;
	json_array_foreach(json_object_get(o, "shard"), i, s)
		names(s);
	text = json_dumps(o, JSON_INDENT(1));
	AN(text);
	AZ(backup_parse(text, strlen(text), &again, &e));
	AN(json_equal(o, again));
	free(text);
	json_decref(again);
	json_decref(o);
	return 0;
}
