#include "tools/lib/backup_dir.h"
#include "base/alloc.h"
#include "consensus/cmd.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK (1u << 20)
#define FILE_MAX (256 << 20) /* backup.json, a manifest */

/* ---- names ------------------------------------------------------------------------ */

void backup_manifest_name(const struct snap_manifest *m, char out[BACKUP_PATH_MAX])
{
	snprintf(out, BACKUP_PATH_MAX, "%04u/manifest-%016" PRIx64 ".snap", m->shard,
		 m->id);
}

void backup_name(const struct snap_manifest *m, uint32_t file,
		 char out[BACKUP_PATH_MAX])
{
	const struct snap_segment *g;

	if (!file) {
		snprintf(out, BACKUP_PATH_MAX, "%04u/rows-%016" PRIx64 ".snap",
			 m->shard, m->id);
		return;
	}
	if (file > 2 * m->n_segments) {
		/* The last of them grows. */
		snprintf(out, BACKUP_PATH_MAX, "%04u/tree/0-%u.%" PRIu64 ".hash",
			 m->shard, file - 1 - 2 * m->n_segments,
			 snap_file_bytes(m, file) / 32);
		return;
	}
	g = &m->segments[(file - 1) / 2];
	snprintf(out, BACKUP_PATH_MAX,
		 "%04u/seg/%016" PRIx64 ".%u.%" PRIu64 "%s.%s", m->shard, g->base,
		 g->generation, g->end, g->sealed ? "" : ".open",
		 file % 2 ? "seg" : "idx");
}

/* ---- files ------------------------------------------------------------------------ */

static void hex(const uint8_t *p, char out[BACKUP_SHA])
{
	unsigned i;

	for (i = 0; i < 32; i++)
		snprintf(out + 2 * i, 3, "%02x", p[i]);
}

int backup_sync_dir(const char *path, struct err *e)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), rv = 0;

	if (fd < 0 || fsync(fd))
		rv = err_errno(e, errno, "%s", path);
	if (fd >= 0)
		close(fd);
	return rv;
}

static int sync_parent(const char *path, struct err *e)
{
	char *dir = xstrdup(path), *slash = strrchr(dir, '/');
	int rv;

	if (slash)
		*slash = 0;
	rv = backup_sync_dir(slash ? dir : ".", e);
	free(dir);
	return rv;
}

int backup_mkdirs(const char *dir, const char *name, struct err *e)
{
	char *path = xasprintf("%s/%s", dir, name), *p;
	int rv = 0;

	for (p = path + 1; *p && !rv; p++) {
		if (*p != '/')
			continue;
		*p = 0;
		if (mkdir(path, 0700) && errno != EEXIST)
			rv = err_errno(e, errno, "%s", path);
		else if (strlen(path) >= strlen(dir))
			rv = sync_parent(path, e);
		*p = '/';
	}
	free(path);
	return rv;
}

/* Reads a source from its beginning; writes and hashes what it gives. */
struct pump {
	int in, out; /* -1: none */
	const char *from, *to;
	EVP_MD_CTX *md;
	struct progress *p;
	bool moved;
};

static int write_all(int fd, const uint8_t *p, size_t n)
{
	while (n) {
		ssize_t w = write(fd, p, n);

		if (w < 0 && errno == EINTR)
			continue;
		if (w < 0)
			return -1;
		p += w;
		n -= (size_t)w;
	}
	return 0;
}

static int pump_run(struct pump *x, uint64_t bytes, struct err *e)
{
	uint8_t *buf = xmalloc(CHUNK);
	int rv = 0;

	while (bytes && !rv) {
		size_t want = bytes < CHUNK ? (size_t)bytes : CHUNK;
		ssize_t got = read(x->in, buf, want);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0) {
			rv = err_errno(e, errno, "%s", x->from);
		} else if (!got) {
			rv = err_set(e, ERR_DAMAGED, "%s is too short", x->from);
		} else if (!EVP_DigestUpdate(x->md, buf, (size_t)got)) {
			rv = err_set(e, ERR_INVALID, "SHA-256 failed");
		} else if (x->out >= 0 && write_all(x->out, buf, (size_t)got)) {
			rv = err_errno(e, errno, "%s", x->to);
		} else {
			bytes -= (uint64_t)got;
			if (x->p)
				progress_add(x->p, (uint64_t)got, x->out >= 0);
		}
	}
	free(buf);
	return rv;
}

static int digest(struct pump *x, uint64_t bytes, char sha[BACKUP_SHA],
		  struct err *e)
{
	uint8_t sum[EVP_MAX_MD_SIZE];
	int rv;

	x->md = EVP_MD_CTX_new();
	if (!x->md || !EVP_DigestInit_ex(x->md, EVP_sha256(), NULL))
		rv = err_set(e, ERR_INVALID, "SHA-256 failed");
	else
		rv = pump_run(x, bytes, e);
	if (!rv && !EVP_DigestFinal_ex(x->md, sum, NULL))
		rv = err_set(e, ERR_INVALID, "SHA-256 failed");
	if (!rv)
		hex(sum, sha);
	EVP_MD_CTX_free(x->md);
	return rv;
}

/* What was written takes its name. */
static int finish(int fd, const char *part, const char *to, struct err *e)
{
	int rv = 0;

	if (fsync(fd))
		rv = err_errno(e, errno, "%s", part);
	if (close(fd) && !rv)
		rv = err_errno(e, errno, "%s", part);
	if (!rv && rename(part, to))
		rv = err_errno(e, errno, "%s", to);
	return rv ? rv : sync_parent(to, e);
}

int backup_copy(const char *from, const char *to, uint64_t bytes,
		char sha[BACKUP_SHA], struct progress *p, struct err *e)
{
	char *part = xasprintf("%s.part", to);
	struct pump x = { .from = from, .to = part, .out = -1, .p = p };
	int rv;

	x.in = open(from, O_RDONLY | O_CLOEXEC);
	if (x.in < 0) {
		rv = err_errno(e, errno, "%s", from);
	} else {
		x.out = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		rv = x.out < 0 ? err_errno(e, errno, "%s", part)
			       : digest(&x, bytes, sha, e);
	}
	if (x.in >= 0)
		close(x.in);
	if (!rv)
		rv = finish(x.out, part, to, e);
	else if (x.out >= 0)
		close(x.out);
	free(part);
	return rv;
}

int backup_put(const char *to, const void *p, size_t n, char sha[BACKUP_SHA],
	       struct err *e)
{
	char *part = xasprintf("%s.part", to);
	uint8_t sum[EVP_MAX_MD_SIZE];
	int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), rv = 0;

	if (fd < 0 || write_all(fd, p, n)) {
		rv = err_errno(e, errno, "%s", part);
		if (fd >= 0)
			close(fd);
	} else {
		rv = finish(fd, part, to, e);
	}
	if (!rv && sha) {
		if (!EVP_Digest(p, n, sum, NULL, EVP_sha256(), NULL))
			rv = err_set(e, ERR_INVALID, "SHA-256 failed");
		else
			hex(sum, sha);
	}
	free(part);
	return rv;
}

int backup_sha(const char *path, uint64_t bytes, char sha[BACKUP_SHA],
	       struct progress *p, struct err *e)
{
	struct pump x = { .from = path, .out = -1, .p = p };
	struct stat st;
	int rv;

	x.in = open(path, O_RDONLY | O_CLOEXEC);
	if (x.in < 0)
		return errno == ENOENT ? err_set(e, ERR_NOT_FOUND, "%s is missing", path)
				       : err_errno(e, errno, "%s", path);
	if (fstat(x.in, &st))
		rv = err_errno(e, errno, "%s", path);
	else if ((uint64_t)st.st_size != bytes)
		rv = err_set(e, ERR_DAMAGED, "%s has %" PRIu64 " bytes and not %" PRIu64,
			     path, (uint64_t)st.st_size, bytes);
	else
		rv = digest(&x, bytes, sha, e);
	close(x.in);
	return rv;
}

/* ---- backup.json ------------------------------------------------------------------- */

/* A name may not lead out of the folder. */
static const char *name_of(const json_t *f)
{
	const char *s = json_string_value(json_object_get(f, "path"));

	return s && *s && *s != '/' && !strstr(s, "..") && strlen(s) < BACKUP_PATH_MAX
		       ? s
		       : NULL;
}

static bool file_fits(const json_t *f, json_int_t *last)
{
	const json_t *n = json_object_get(f, "file"), *bytes = json_object_get(f, "bytes");
	const char *sha = json_string_value(json_object_get(f, "sha256"));

	if (!json_is_integer(n) || json_integer_value(n) <= *last || !name_of(f) ||
	    !json_is_integer(bytes) || json_integer_value(bytes) < 1 || !sha ||
	    strlen(sha) != BACKUP_SHA - 1)
		return false;
	*last = json_integer_value(n);
	return true;
}

static const char *shard_fits(const json_t *s, bool seen[SHARDS_MAX], json_int_t shards)
{
	const json_t *n = json_object_get(s, "shard"), *list = json_object_get(s, "files"),
		     *f;
	json_int_t id = json_integer_value(n), last = -2;
	size_t i;

	if (!json_is_integer(n) || id < 0 || id >= shards || seen[id])
		return "each shard is there once";
	seen[id] = true;
	if (json_integer_value(json_object_get(json_array_get(list, 0), "file")) != -1)
		return "each shard's first file is its manifest";
	json_array_foreach(list, i, f)
		if (!file_fits(f, &last))
			return "files ascend, with path, bytes and sha256";
	return NULL;
}

static bool is_u32(const json_t *n)
{
	return json_is_integer(n) && json_integer_value(n) >= 0 &&
	       json_integer_value(n) <= (json_int_t)UINT32_MAX;
}

/* What does not hold; NULL: all does. */
static const char *shape(const json_t *o)
{
	const json_t *list = json_object_get(o, "shard"), *s,
		     *shards = json_object_get(o, "shards");
	json_int_t n = json_integer_value(shards);
	bool seen[SHARDS_MAX] = { false };
	const char *why;
	size_t i;

	if (!json_is_integer(shards) || n < 1 || n > SHARDS_MAX ||
	    json_array_size(list) != (size_t)n)
		return "as many shards as \"shards\" says";
	if (!is_u32(json_object_get(o, "level")) || !is_u32(json_object_get(o, "epoch")))
		return "level and epoch are numbers";
	json_array_foreach(list, i, s) {
		why = shard_fits(s, seen, n);
		if (why)
			return why;
	}
	return NULL;
}

int backup_parse(const void *p, size_t n, json_t **out, struct err *e)
{
	json_error_t why;
	json_t *o = json_loadb(p, n, JSON_REJECT_DUPLICATES, &why), *format;
	const char *rule;
	int rv = 0;

	*out = NULL;
	format = json_object_get(o, "format");
	if (!o)
		rv = err_set(e, ERR_FORMAT, "line %d: %s", why.line, why.text);
	else if (!json_is_integer(format) || !json_is_array(json_object_get(o, "shard")))
		rv = err_set(e, ERR_FORMAT, "no backup's");
	else if (json_integer_value(format) != BACKUP_FORMAT)
		rv = err_set(e, ERR_VERSION, "of format %" JSON_INTEGER_FORMAT
			     ", this program knows %d", json_integer_value(format),
			     BACKUP_FORMAT);
	else if ((rule = shape(o)))
		rv = err_set(e, ERR_FORMAT, "not so: %s", rule);
	if (rv)
		json_decref(o);
	else
		*out = o;
	return rv;
}

/* A whole file; the caller frees it. */
static int read_whole(const char *path, uint8_t **p, size_t *n, struct err *e)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), rv = 0;
	struct stat st;
	ssize_t got = 1;

	*p = NULL;
	*n = 0;
	if (fd < 0)
		return errno == ENOENT ? err_set(e, ERR_NOT_FOUND, "%s is missing", path)
				       : err_errno(e, errno, "%s", path);
	if (fstat(fd, &st))
		rv = err_errno(e, errno, "%s", path);
	else if (!S_ISREG(st.st_mode) || st.st_size > FILE_MAX)
		rv = err_set(e, ERR_FORMAT, "%s is no file of at most %u MiB", path,
			     FILE_MAX >> 20);
	else
		*p = xmalloc((size_t)st.st_size + 1);
	while (!rv && got && *n < (size_t)st.st_size) {
		got = read(fd, *p + *n, (size_t)st.st_size - *n);
		if (got < 0 && errno != EINTR)
			rv = err_errno(e, errno, "%s", path);
		else if (got > 0)
			*n += (size_t)got;
	}
	close(fd);
	return rv;
}

int backup_load(const char *dir, json_t **out, struct err *e)
{
	char *path = xasprintf("%s/" BACKUP_JSON, dir);
	uint8_t *p;
	size_t n;
	int rv = read_whole(path, &p, &n, e);

	*out = NULL;
	if (!rv && backup_parse(p, n, out, e))
		rv = err_wrap(e, "%s", path);
	free(p);
	free(path);
	return rv;
}

int backup_save(const char *dir, const json_t *o, struct err *e)
{
	char *path = xasprintf("%s/" BACKUP_JSON, dir);
	char *text = json_dumps(o, JSON_INDENT(1));
	int rv = backup_put(path, text, strlen(text), NULL, e);

	free(text);
	free(path);
	return rv;
}

const json_t *backup_file(const json_t *shard, uint32_t file)
{
	const json_t *list = json_object_get(shard, "files"), *f;
	size_t low = 1, high = json_array_size(list);

	while (low < high) { /* they ascend behind the manifest */
		size_t mid = low + (high - low) / 2;
		json_int_t n;

		f = json_array_get(list, mid);
		n = json_integer_value(json_object_get(f, "file"));
		if (n == (json_int_t)file)
			return f;
		if (n < (json_int_t)file)
			low = mid + 1;
		else
			high = mid;
	}
	return NULL;
}

static int check_file(const char *dir, const json_t *f, struct progress *p,
		      struct err *e)
{
	const char *want = json_string_value(json_object_get(f, "sha256"));
	char *path = xasprintf("%s/%s", dir, name_of(f)), sha[BACKUP_SHA];
	int rv = backup_sha(path, (uint64_t)json_integer_value(json_object_get(f, "bytes")),
			    sha, p, e);

	if (!rv && strcmp(sha, want))
		rv = err_set(e, ERR_DAMAGED, "%s has other bytes", path);
	free(path);
	return rv;
}

/* Its manifest is the shard's, and names no file that the entry does not. */
static int check_shard(const char *dir, const json_t *shard, struct err *e)
{
	json_int_t id = json_integer_value(json_object_get(shard, "shard"));
	char name[BACKUP_PATH_MAX];
	struct snap_manifest m;
	uint32_t i;
	int rv = backup_manifest(dir, shard, &m, e);

	if (rv)
		return rv;
	if (m.shard != (uint64_t)id)
		rv = err_set(e, ERR_DAMAGED, "the manifest of shard %" JSON_INTEGER_FORMAT
			     " is another's", id);
	for (i = 0; !rv && i < snap_files(&m); i++) {
		const json_t *f = backup_file(shard, i);
		uint64_t bytes = snap_file_bytes(&m, i);

		if (!bytes)
			continue;
		backup_name(&m, i, name);
		if (!f || strcmp(name_of(f), name) ||
		    (uint64_t)json_integer_value(json_object_get(f, "bytes")) != bytes)
			rv = err_set(e, ERR_DAMAGED, "the backup has no whole %s", name);
	}
	snap_release(&m);
	return rv;
}

int backup_verify(const char *dir, const json_t *o, struct progress *p, unsigned *bad,
		  struct err *e)
{
	const json_t *s, *f;
	struct err one;
	size_t i, k;

	*bad = 0;
	json_array_foreach(json_object_get(o, "shard"), i, s) {
		unsigned was = *bad;

		json_array_foreach(json_object_get(s, "files"), k, f)
			if (check_file(dir, f, p, &one) && !(*bad)++)
				*e = one;
		if (*bad == was && check_shard(dir, s, &one) && !(*bad)++)
			*e = one;
	}
	return *bad ? ERR_DAMAGED : 0;
}

int backup_manifest(const char *dir, const json_t *shard, struct snap_manifest *m,
		    struct err *e)
{
	const json_t *f = json_array_get(json_object_get(shard, "files"), 0);
	uint8_t *p;
	char *path;
	size_t n;
	int rv = check_file(dir, f, NULL, e);

	if (rv)
		return rv;
	path = xasprintf("%s/%s", dir, name_of(f));
	rv = read_whole(path, &p, &n, e);
	if (!rv && snap_decode(m, p, n, e))
		rv = err_wrap(e, "%s", path);
	free(p);
	free(path);
	return rv;
}
