#include "tools/lib/backup_dir.h"
#include "base/alloc.h"

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
#define JSON_MAX (256u << 20)

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

int backup_load(const char *dir, json_t **out, struct err *e)
{
	char *path = xasprintf("%s/" BACKUP_JSON, dir);
	json_error_t why;
	const json_t *format;
	int rv = 0;

	*out = NULL;
	if (access(path, R_OK)) {
		rv = errno == ENOENT ? err_set(e, ERR_NOT_FOUND, "%s is missing", path)
				     : err_errno(e, errno, "%s", path);
	} else {
		*out = json_load_file(path, JSON_REJECT_DUPLICATES, &why);
		format = json_object_get(*out, "format");
		if (!*out)
			rv = err_set(e, ERR_FORMAT, "%s: line %d: %s", path, why.line,
				     why.text);
		else if (!json_is_integer(format) ||
			 !json_is_array(json_object_get(*out, "shard")))
			rv = err_set(e, ERR_FORMAT, "%s is no backup's", path);
		else if (json_integer_value(format) != BACKUP_FORMAT)
			rv = err_set(e, ERR_VERSION,
				     "%s is of format %" JSON_INTEGER_FORMAT
				     ", this program knows %d", path,
				     json_integer_value(format), BACKUP_FORMAT);
	}
	if (rv) {
		json_decref(*out);
		*out = NULL;
	}
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

/* A name may not lead out of the folder. */
static const char *name_of(const json_t *f)
{
	const char *s = json_string_value(json_object_get(f, "path"));

	return s && *s && *s != '/' && !strstr(s, "..") ? s : NULL;
}

static int check_file(const char *dir, const json_t *f, struct progress *p,
		      struct err *e)
{
	const char *name = name_of(f),
		   *want = json_string_value(json_object_get(f, "sha256"));
	json_int_t bytes = json_integer_value(json_object_get(f, "bytes"));
	char sha[BACKUP_SHA], *path;
	int rv;

	if (!name || !want || bytes < 0)
		return err_set(e, ERR_FORMAT, "%s/" BACKUP_JSON " names a file without "
			       "path, bytes or sha256", dir);
	path = xasprintf("%s/%s", dir, name);
	rv = backup_sha(path, (uint64_t)bytes, sha, p, e);
	if (!rv && strcmp(sha, want))
		rv = err_set(e, ERR_DAMAGED, "%s has other bytes", path);
	free(path);
	return rv;
}

int backup_verify(const char *dir, const json_t *o, struct progress *p, unsigned *bad,
		  struct err *e)
{
	const json_t *s, *f;
	struct err one;
	size_t i, k;
	int rv = 0;

	*bad = 0;
	json_array_foreach(json_object_get(o, "shard"), i, s) {
		json_array_foreach(json_object_get(s, "files"), k, f) {
			if (!check_file(dir, f, p, &one))
				continue;
			if (!*bad)
				*e = one;
			++*bad;
			rv = ERR_DAMAGED;
		}
	}
	return rv;
}

int backup_manifest(const char *dir, const json_t *shard, struct snap_manifest *m,
		    struct err *e)
{
	const json_t *list = json_object_get(shard, "files"), *f = json_array_get(list, 0);
	const char *name = name_of(f);
	json_int_t bytes = json_integer_value(json_object_get(f, "bytes"));
	uint8_t *p;
	char *path;
	FILE *in;
	int rv = check_file(dir, f, NULL, e);

	if (rv)
		return rv;
	if (bytes > (json_int_t)JSON_MAX)
		return err_set(e, ERR_FORMAT, "%s: too long", name);
	path = xasprintf("%s/%s", dir, name);
	p = xmalloc((size_t)bytes + 1);
	in = fopen(path, "rb");
	if (!in || fread(p, 1, (size_t)bytes, in) != (size_t)bytes)
		rv = err_set(e, ERR_IO, "%s cannot be read", path);
	if (in)
		fclose(in);
	if (!rv)
		rv = snap_decode(m, p, (size_t)bytes, e);
	if (rv)
		err_wrap(e, "%s", path);
	free(p);
	free(path);
	return rv;
}
