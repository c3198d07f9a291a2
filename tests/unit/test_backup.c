/* backup.json (docs/format.md, "Backup"): its bytes, what of it is believed, names
 * of files, and files that are not what it says. */
#include "base/alloc.h"
#include "base/buf.h"
#include "tools/lib/backup_dir.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define GOLDEN "tests/golden/format/backup.json"

static char *read_text(const char *path, size_t *n)
{
	FILE *f = fopen(path, "rb");
	char *text = xmalloc(1u << 16);

	assert_non_null(f);
	*n = fread(text, 1, (1u << 16) - 1, f);
	text[*n] = 0;
	fclose(f);
	return text;
}

static void write_text(const char *path, const char *text)
{
	FILE *f = fopen(path, "wb");

	assert_non_null(f);
	assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
	assert_int_equal(fclose(f), 0);
}

/* Written as it was read; files are found by their numbers. */
static void test_golden(void **state)
{
	char dir[] = "/tmp/quipu-backup-XXXXXX", path[64];
	struct err e = { 0 };
	size_t n, n2;
	char *want = read_text(GOLDEN, &n), *got;
	const json_t *s;
	json_t *o;

	(void)state;
	assert_int_equal(backup_parse(want, n, &o, &e), 0);
	assert_non_null(mkdtemp(dir));
	assert_int_equal(backup_save(dir, o, &e), 0);
	json_decref(o);
	snprintf(path, sizeof path, "%s/" BACKUP_JSON, dir);
	got = read_text(path, &n2);
	assert_string_equal(got, want);
	assert_int_equal(backup_load(dir, &o, &e), 0);
	s = json_array_get(json_object_get(o, "shard"), 1);
	assert_string_equal(json_string_value(json_object_get(backup_file(s, 3), "path")),
			    "0001/seg/000000000000001e.1.40.open.seg");
	assert_non_null(backup_file(s, 0));
	assert_null(backup_file(s, 4));
	json_decref(o);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(backup_load(dir, &o, &e), ERR_NOT_FOUND);
	assert_null(o);
	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(backup_load(dir, &o, &e), ERR_FORMAT);
	assert_int_equal(rmdir(path), 0);
	assert_int_equal(rmdir(dir), 0);
	free(want);
	free(got);
}

static void test_what_is_refused(void **state)
{
	static const struct {
		const char *was, *is;
		int code;
	} changes[] = {
		{ "\"format\": 1", "\"format\": 2", ERR_VERSION },
		{ "\"format\": 1", "\"format\": \"1\"", ERR_FORMAT },
		{ "\"shards\": 2", "\"shards\": 3", ERR_FORMAT },
		{ "\"shards\": 2", "\"shards\": 0", ERR_FORMAT },
		{ "\"shards\": 2", "\"shards\": 4294967298", ERR_FORMAT },
		{ "\"epoch\": 1", "\"epoch\": 4294967297", ERR_FORMAT },
		{ "\"level\": 2", "\"level\": -1", ERR_FORMAT },
		{ "\"shard\": 1", "\"shard\": 0", ERR_FORMAT },
		{ "\"shard\": 1", "\"shard\": 2", ERR_FORMAT },
		{ "\"shard\": 1", "\"shard\": -1", ERR_FORMAT },
		{ "\"file\": -1", "\"file\": 0", ERR_FORMAT },
		{ "\"file\": 3", "\"file\": 1", ERR_FORMAT },
		{ "0000/manifest", "../manifest", ERR_FORMAT },
		{ "\"0000/rows", "\"/000/rows", ERR_FORMAT },
		{ "0001/seg/", "0001/../", ERR_FORMAT },
		{ "\"bytes\": 1000", "\"bytes\": -1", ERR_FORMAT },
		{ "\"bytes\": 1000", "\"bytes\": 1.5", ERR_FORMAT },
		{ "\"sha256\": \"00", "\"sha256\": \"0", ERR_FORMAT },
		{ "\"sha256\"", "\"sha512\"", ERR_FORMAT },
		{ "\"files\"", "\"shard\"", ERR_FORMAT }, /* twice */
		{ "{", "[", ERR_FORMAT },
	};
	size_t n, i;
	char *text = read_text(GOLDEN, &n);
	struct err e = { 0 };
	json_t *o;

	(void)state;
	for (i = 0; i < sizeof changes / sizeof changes[0]; i++) {
		struct buf b = BUF_INIT;
		const char *at = strstr(text, changes[i].was);

		assert_non_null(at);
		buf_put(&b, text, (size_t)(at - text));
		buf_put(&b, changes[i].is, strlen(changes[i].is));
		at += strlen(changes[i].was);
		buf_put(&b, at, strlen(at));
		assert_int_equal(backup_parse(b.data, b.len, &o, &e), changes[i].code);
		assert_null(o);
		assert_true(e.msg[0]);
		buf_release(&b);
	}
	for (i = 0; i + 2 < n; i += 7)
		assert_int_equal(backup_parse(text, i, &o, &e), ERR_FORMAT);
	free(text);
}

/* Every file of every kind has a name of its own, and a growing one another each time
 * it has grown. */
static void test_names(void **state)
{
	struct snap_segment segs[2] = {
		{ .base = 4096, .end = 5000, .bytes = 5000, .idx_bytes = 200,
		  .generation = 7, .sealed = true },
		{ .base = 5000, .end = UINT64_MAX, .bytes = 4400, .generation = UINT32_MAX },
	};
	struct snap_manifest m = { .id = UINT64_MAX, .shard = 255, .base = 4096,
				   .n_segments = 2, .segments = segs };
	static const char *const names[] = {
		"0255/rows-ffffffffffffffff.snap",
		"0255/seg/0000000000001000.7.5000.seg",
		"0255/seg/0000000000001000.7.5000.idx",
		"0255/seg/0000000000001388.4294967295.18446744073709551615.open.seg",
		"0255/seg/0000000000001388.4294967295.18446744073709551615.open.idx",
		"0255/tree/0-0.4096.hash",
	};
	char name[BACKUP_PATH_MAX];
	uint32_t i;

	(void)state;
	assert_int_equal(snap_files(&m), 6);
	for (i = 0; i < 6; i++) {
		backup_name(&m, i, name);
		assert_string_equal(name, names[i]);
	}
	backup_manifest_name(&m, name);
	assert_string_equal(name, "0255/manifest-ffffffffffffffff.snap");
}

static void test_files(void **state)
{
	static const char abc[] = "ba7816bf8f01cfea414140de5dae2223"
				  "b00361a396177a9cb410ff61f20015ad";
	char dir[] = "/tmp/quipu-backup-XXXXXX", from[64], to[64], sha[BACKUP_SHA];
	struct err e = { 0 };
	size_t n;
	char *got;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(from, sizeof from, "%s/a/from", dir);
	snprintf(to, sizeof to, "%s/a/to", dir);
	assert_int_equal(backup_mkdirs(dir, "a/from", &e), 0);
	assert_int_equal(backup_mkdirs(dir, "a/from", &e), 0);
	assert_int_equal(backup_put(from, "abc", 3, sha, &e), 0);
	assert_string_equal(sha, abc);
	/* It may have grown meanwhile; what is asked for is copied. */
	write_text(from, "abcd");
	assert_int_equal(backup_copy(from, to, 3, sha, NULL, &e), 0);
	assert_string_equal(sha, abc);
	got = read_text(to, &n);
	assert_string_equal(got, "abc");
	free(got);
	assert_int_equal(backup_copy(from, to, 5, sha, NULL, &e), ERR_DAMAGED);
	got = read_text(to, &n);
	assert_string_equal(got, "abc"); /* the name is of what was whole */
	free(got);
	assert_int_equal(backup_sha(to, 3, sha, NULL, &e), 0);
	assert_int_equal(backup_sha(to, 2, sha, NULL, &e), ERR_DAMAGED);
	assert_int_equal(backup_sha(to, 4, sha, NULL, &e), ERR_DAMAGED);
	unlink(to);
	assert_int_equal(backup_sha(to, 3, sha, NULL, &e), ERR_NOT_FOUND);
	snprintf(to, sizeof to, "%s/a/to.part", dir);
	unlink(to);
	unlink(from);
	snprintf(to, sizeof to, "%s/a", dir);
	assert_int_equal(rmdir(to), 0);
	assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_golden),
		cmocka_unit_test(test_what_is_refused),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
