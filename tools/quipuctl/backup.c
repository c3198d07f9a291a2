/* Backup of a cluster that serves:
 *
 *	for each shard, one after the other
 *	  backup-mark    which entry has all that is acknowledged now (its leader says)
 *	  backup-shard   a node with a sound replica: checkpoint, snapshot as of then
 *	  copy           its files, from that node's data folder; what an earlier run
 *	                 has copied is read and compared, not copied again
 *	  backup-end
 *	backup.json      names them all; then what it does not name goes
 *
 * A run that was broken off is begun again: files that are whole stay. */
#include "base/alloc.h"
#include "base/base64.h"
#include "base/clock.h"
#include "tools/lib/backup_dir.h"
#include "tools/quipuctl/ctl.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#define TRIES_MAX 5           /* of a shard, when its replica changed meanwhile */
#define WAIT_US 120000000ull  /* for one snapshot */
#define KEEP_US 5000000ull

struct run {
	struct ctl *c;
	struct admin_client *nodes[CTL_NODES_MAX];
	char *folders[CTL_NODES_MAX]; /* of data */
	json_t *about, *shards, *before; /* before: path -> entry of the last backup */
	json_t *named;                   /* path -> true, of this one */
	struct progress progress;
	uint64_t cut, bytes, copied, kept;
	unsigned node;                   /* that answered last */
};

/* ---- asking ------------------------------------------------------------------------- */

static int ask(struct run *r, unsigned node, json_t *request, json_t **answer,
	       char name[ADMIN_NAME_MAX], struct err *e)
{
	name[0] = 0;
	if (!r->nodes[node]) {
		int rv = admin_client_open(&r->nodes[node], r->c->sockets[node], e);

		if (rv) {
			json_decref(request);
			return rv;
		}
	}
	return admin_client_call(r->nodes[node], request, answer, name, e);
}

static json_t *shard_request(const char *verb, uint32_t shard)
{
	return json_pack("{s:s,s:I}", "verb", verb, "shard", (json_int_t)shard);
}

static void nap(void)
{
	struct timespec t = { 0, 20000000 };

	nanosleep(&t, NULL);
}

/* A snapshot of the shard as of `index`, from the first node that has one. */
static int snapshot(struct run *r, uint32_t shard, uint64_t index, json_t **answer,
		    char name[ADMIN_NAME_MAX], struct err *e)
{
	uint64_t end = clock_us(&clock_real) + WAIT_US;
	unsigned tried = 0;

	for (;;) {
		json_t *q = shard_request("backup-shard", shard);
		int rv;

		json_object_set_new(q, "index", json_integer((json_int_t)index));
		rv = ask(r, r->node, q, answer, name, e);
		if (rv) {
			r->node = (r->node + 1) % r->c->n_sockets;
			if (++tried >= r->c->n_sockets)
				return rv;
			continue;
		}
		if (json_is_true(json_object_get(*answer, "ready")))
			return 0;
		json_decref(*answer);
		if (clock_us(&clock_real) > end)
			return err_set(e, ERR_TIMEOUT, "shard %u: no snapshot within "
				       "%llu s", shard, WAIT_US / 1000000);
		nap();
	}
}

/* ---- one shard ---------------------------------------------------------------------- */

struct source {
	struct run *r;
	uint32_t shard, incarnation;
	uint64_t index, asked_us;
	struct snap_manifest m;
};

/* The node keeps the files for somebody who asks. */
static int keep(struct source *s, char name[ADMIN_NAME_MAX], struct err *e)
{
	json_t *q, *answer;
	int rv;

	if (clock_us(&clock_real) - s->asked_us < KEEP_US)
		return 0;
	q = shard_request("backup-shard", s->shard);
	json_object_set_new(q, "index", json_integer((json_int_t)s->index));
	rv = ask(s->r, s->r->node, q, &answer, name, e);
	if (!rv)
		json_decref(answer);
	s->asked_us = clock_us(&clock_real);
	return rv;
}

static int copy_one(struct source *s, uint32_t file, json_t *files, struct err *e)
{
	struct run *r = s->r;
	uint64_t bytes = snap_file_bytes(&s->m, file);
	char name[BACKUP_PATH_MAX], from[BACKUP_PATH_MAX], sha[BACKUP_SHA];
	char *to, *source;
	const json_t *old;
	int rv = 0;

	if (!bytes)
		return 0;
	backup_name(&s->m, file, name);
	snap_file_path(&s->m, file, s->incarnation, from, sizeof from);
	to = xasprintf("%s/%s", r->c->to, name);
	source = xasprintf("%s/%s", r->folders[r->node], from);
	old = json_object_get(r->before, name);
	/* A name says what is in the file; what it was says if it still is. */
	if (backup_sha(to, bytes, sha, &r->progress, e) ||
	    (old && strcmp(sha, ctl_s(old, "sha256")))) {
		rv = backup_mkdirs(r->c->to, name, e);
		if (!rv)
			rv = backup_copy(source, to, bytes, sha, &r->progress, e);
		r->copied += bytes;
	} else {
		r->kept += bytes;
	}
	if (!rv) {
		r->bytes += bytes;
		json_array_append_new(files, json_pack(
			"{s:I,s:s,s:I,s:s}", "file", (json_int_t)file, "path", name,
			"bytes", (json_int_t)bytes, "sha256", sha));
		json_object_set_new(r->named, name, json_true());
	}
	free(to);
	free(source);
	return rv;
}

static int copy_manifest(struct source *s, const struct buf *bytes, json_t *files,
			 struct err *e)
{
	char name[BACKUP_PATH_MAX], sha[BACKUP_SHA], *to;
	int rv;

	backup_manifest_name(&s->m, name);
	to = xasprintf("%s/%s", s->r->c->to, name);
	rv = backup_mkdirs(s->r->c->to, name, e);
	if (!rv)
		rv = backup_put(to, bytes->data, bytes->len, sha, e);
	if (!rv) {
		json_array_append_new(files, json_pack(
			"{s:I,s:s,s:I,s:s}", "file", (json_int_t)-1, "path", name,
			"bytes", (json_int_t)bytes->len, "sha256", sha));
		json_object_set_new(s->r->named, name, json_true());
	}
	free(to);
	return rv;
}

static void root_hex(const uint8_t root[32], char out[65])
{
	unsigned i;

	for (i = 0; i < 32; i++)
		snprintf(out + 2 * i, 3, "%02x", root[i]);
}

static int copy_shard(struct source *s, const json_t *mark, const json_t *answer,
		      char name[ADMIN_NAME_MAX], struct err *e)
{
	const char *text = ctl_s(answer, "manifest");
	struct buf bytes = BUF_INIT;
	json_t *files = json_array();
	char root[65];
	uint32_t i;
	int rv = ERR_FORMAT;

	s->incarnation = (uint32_t)ctl_u(answer, "incarnation");
	s->asked_us = clock_us(&clock_real);
	if (!base64url_get(&bytes, text, strlen(text)))
		err_set(e, ERR_FORMAT, "shard %u: the answer is no manifest", s->shard);
	else
		rv = snap_decode(&s->m, bytes.data, bytes.len, e);
	if (!rv)
		rv = copy_manifest(s, &bytes, files, e);
	for (i = 0; !rv && i < snap_files(&s->m); i++) {
		rv = copy_one(s, i, files, e);
		if (!rv)
			rv = keep(s, name, e);
	}
	if (!rv) {
		root_hex(s->m.root, root);
		json_array_append_new(s->r->shards, json_pack(
			"{s:I,s:I,s:I,s:I,s:I,s:s,s:O}", "shard", (json_int_t)s->shard,
			"index", (json_int_t)s->m.index, "term", (json_int_t)s->m.term,
			"records", (json_int_t)s->m.leaves, "clock",
			(json_int_t)ctl_u(mark, "clock"), "root", root, "files",
			files));
		if (ctl_u(mark, "clock") < s->r->cut)
			s->r->cut = ctl_u(mark, "clock");
	}
	json_decref(files);
	buf_release(&bytes);
	snap_release(&s->m);
	return rv;
}

static int shard_try(struct run *r, uint32_t shard, char name[ADMIN_NAME_MAX],
		     struct err *e)
{
	struct source s = { .r = r, .shard = shard };
	json_t *mark, *answer;
	int rv = ask(r, r->node, shard_request("backup-mark", shard), &mark, name, e);

	if (rv)
		return rv;
	s.index = ctl_u(mark, "index");
	rv = snapshot(r, shard, s.index, &answer, name, e);
	if (!rv) {
		json_t *end;
		char other[ADMIN_NAME_MAX];
		struct err ignored;

		rv = copy_shard(&s, mark, answer, name, e);
		json_decref(answer);
		if (!ask(r, r->node, shard_request("backup-end", shard), &end, other,
			 &ignored))
			json_decref(end);
	}
	json_decref(mark);
	return rv;
}

static int shard(struct run *r, uint32_t i)
{
	char name[ADMIN_NAME_MAX] = "";
	unsigned tries = 0;
	struct err e;
	int rv;

	do {
		if (tries) {
			admin_client_free(r->nodes[r->node]);
			r->nodes[r->node] = NULL;
			r->node = (r->node + 1) % r->c->n_sockets;
		}
		rv = shard_try(r, i, name, &e);
	} while (rv && rv != ERR_NOSPACE && strcmp(name, "feature-level") &&
		 ++tries < TRIES_MAX);
	return rv ? ctl_fail(r->c, rv, name, &e) : CTL_OK;
}

/* ---- the whole ------------------------------------------------------------------------ */

/* Could it be a backup's: a file with one of its endings, a folder of its levels? */
static bool may_be_ours(const char *name, bool is_dir, unsigned depth)
{
	static const char *const ends[] = { ".snap", ".seg", ".idx", ".hash", ".part" };
	const char *dot = strrchr(name, '.');
	unsigned i;

	if (is_dir && depth)
		return depth == 1 && (!strcmp(name, "seg") || !strcmp(name, "tree"));
	if (is_dir)
		return strlen(name) == 4 && strspn(name, "0123456789") == 4;
	if (!depth)
		return !strcmp(name, "lock") || !strcmp(name, BACKUP_JSON) ||
		       !strcmp(name, BACKUP_JSON ".part");
	for (i = 0; i < sizeof ends / sizeof ends[0]; i++)
		if (dot && !strcmp(dot, ends[i]))
			return true;
	return false;
}

/* Left over from earlier backups and broken runs.  What somebody else has put there
 * stays. */
static void sweep(struct run *r, const char *folder, unsigned depth)
{
	char *path = *folder ? xasprintf("%s/%s", r->c->to, folder) : xstrdup(r->c->to);
	DIR *d = opendir(path);
	struct dirent *de;

	while (d && (de = readdir(d))) {
		char *name = *folder ? xasprintf("%s/%s", folder, de->d_name)
				     : xstrdup(de->d_name);
		char *full = xasprintf("%s/%s", r->c->to, name);
		struct stat st;

		if (!lstat(full, &st) &&
		    may_be_ours(de->d_name, S_ISDIR(st.st_mode), depth)) {
			if (S_ISDIR(st.st_mode))
				sweep(r, name, depth + 1);
			else if (S_ISREG(st.st_mode) && depth &&
				 !json_object_get(r->named, name))
				unlink(full);
		}
		free(full);
		free(name);
	}
	if (d)
		closedir(d);
	free(path);
}

/* Without a backup.json it is a new folder, or what a broken run has left; a mistyped
 * --to gets nothing mixed in and loses nothing. */
static int folder_is_free(const char *to, struct err *e)
{
	DIR *d = opendir(to);
	struct dirent *de;
	int rv = 0;

	if (!d)
		return err_errno(e, errno, "%s", to);
	while (!rv && (de = readdir(d))) {
		char *full = xasprintf("%s/%s", to, de->d_name);
		struct stat st;

		if (de->d_name[0] != '.' && strcmp(de->d_name, "lost+found") &&
		    (lstat(full, &st) ||
		     !may_be_ours(de->d_name, S_ISDIR(st.st_mode), 0)))
			rv = err_set(e, ERR_EXISTS, "%s has something else in it (%s): a "
				     "backup begins with an empty folder", to,
				     de->d_name);
		free(full);
	}
	closedir(d);
	return rv;
}

static void names_of(const json_t *backup, json_t *names)
{
	const json_t *s, *f;
	size_t i, k;

	json_array_foreach(json_object_get(backup, "shard"), i, s)
		json_array_foreach(json_object_get(s, "files"), k, f)
			json_object_set(names, ctl_s(f, "path"), (json_t *)(uintptr_t)f);
}

/* The folder is empty, or has a backup of this cluster, or what is left of one. */
static int folder_open(struct run *r, int *lock, struct err *e)
{
	const char *to = r->c->to;
	json_t *old = NULL;
	char *path;
	int rv;

	if (mkdir(to, 0700) && errno != EEXIST)
		return err_errno(e, errno, "%s", to);
	path = xasprintf("%s/" BACKUP_JSON, to);
	rv = access(path, F_OK) ? folder_is_free(to, e) : 0;
	free(path);
	if (rv)
		return rv;
	path = xasprintf("%s/lock", to);
	*lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	rv = *lock < 0 ? err_errno(e, errno, "%s", path) : 0;
	if (!rv && flock(*lock, LOCK_EX | LOCK_NB))
		rv = err_set(e, ERR_INVALID, "%s: another backup is writing there", to);
	free(path);
	if (rv)
		return rv;
	rv = backup_load(to, &old, e);
	if (rv == ERR_NOT_FOUND)
		return 0;
	if (!rv && strcmp(ctl_s(old, "cluster_id"), ctl_s(r->about, "cluster_id")))
		rv = err_set(e, ERR_INVALID, "%s has a backup of another cluster, %s", to,
			     ctl_s(old, "cluster"));
	if (!rv)
		names_of(old, r->before);
	json_decref(old);
	return rv;
}

/* What is to be copied, about. */
static uint64_t guess(struct run *r)
{
	char name[ADMIN_NAME_MAX];
	uint64_t sum = 0;
	json_t *o, *s;
	struct err e;
	size_t i;

	if (ask(r, 0, json_pack("{s:s}", "verb", "retention"), &o, name, &e))
		return 0;
	json_array_foreach(json_object_get(o, "shards"), i, s)
		sum += ctl_u(s, "bytes");
	json_decref(o);
	return sum;
}

static int save(struct run *r, uint64_t begun_ms, struct err *e)
{
	json_t *o = json_pack(
		"{s:I,s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:O}", "format",
		(json_int_t)BACKUP_FORMAT, "cluster", ctl_s(r->about, "cluster"),
		"cluster_id", ctl_s(r->about, "cluster_id"), "shards",
		(json_int_t)ctl_u(r->about, "shards"), "level",
		(json_int_t)ctl_u(r->about, "level"), "epoch",
		(json_int_t)ctl_u(r->about, "epoch"), "begun_ms", (json_int_t)begun_ms,
		"ended_ms", (json_int_t)clock_wall_ms(&clock_real), "cut",
		(json_int_t)r->cut, "bytes", (json_int_t)r->bytes, "shard", r->shards);
	int rv = backup_save(r->c->to, o, e);

	json_decref(o);
	return rv;
}

static int told(struct run *r)
{
	progress_end(&r->progress);
	if (r->c->json)
		return ctl_print(json_pack(
			"{s:b,s:s,s:I,s:I,s:I,s:I,s:I}", "ok", 1, "to", r->c->to,
			"shards", (json_int_t)json_array_size(r->shards), "bytes",
			(json_int_t)r->bytes, "copied", (json_int_t)r->copied, "kept",
			(json_int_t)r->kept, "cut", (json_int_t)r->cut));
	printf("%zu shards, %.1f MiB, of them %.1f MiB new; everything up to Lamport %" PRIu64
	       " is in it\n", json_array_size(r->shards), (double)r->bytes / (1 << 20),
	       (double)r->copied / (1 << 20), r->cut);
	return CTL_OK;
}

static int backup(struct run *r)
{
	uint64_t begun_ms = clock_wall_ms(&clock_real);
	char name[ADMIN_NAME_MAX];
	struct err e;
	int rv, lock = -1;
	uint32_t i;

	rv = ask(r, 0, json_pack("{s:s}", "verb", "backup"), &r->about, name, &e);
	if (rv)
		return ctl_fail(r->c, rv, name, &e);
	rv = folder_open(r, &lock, &e);
	if (rv) {
		rv = ctl_fail(r->c, ERR_INVALID, "", &e);
		goto out;
	}
	progress_begin(&r->progress, "backup", guess(r), r->c->json);
	r->cut = UINT64_MAX;
	for (i = 0; i < ctl_u(r->about, "shards") && !rv; i++)
		rv = shard(r, i);
	if (rv)
		goto out;
	rv = save(r, begun_ms, &e);
	if (rv) {
		rv = ctl_fail(r->c, ERR_INVALID, "", &e);
		goto out;
	}
	sweep(r, "", 0);
	rv = told(r);
out:
	if (lock >= 0)
		close(lock);
	return rv;
}

static int verify(struct ctl *c, const char *dir)
{
	struct progress p = { 0 };
	unsigned bad;
	struct err e;
	json_t *o;
	int rv = backup_load(dir, &o, &e);

	if (rv)
		return ctl_fail(c, ERR_INVALID, "", &e);
	progress_begin(&p, "verify", ctl_u(o, "bytes"), c->json);
	rv = backup_verify(dir, o, &p, &bad, &e);
	progress_end(&p);
	if (rv) {
		fprintf(stderr, "quipuctl: %u files are bad\n", bad);
		rv = ctl_fail(c, ERR_INVALID, "", &e);
	} else if (c->json) {
		json_object_del(o, "shard");
		json_object_set_new(o, "ok", json_true());
		return ctl_print(o);
	} else {
		printf("%s: cluster %s, %" PRIu64 " shards, %.1f MiB, whole; everything "
		       "up to Lamport %" PRIu64 " is in it\n", dir, ctl_s(o, "cluster"),
		       ctl_u(o, "shards"), (double)ctl_u(o, "bytes") / (1 << 20),
		       ctl_u(o, "cut"));
	}
	json_decref(o);
	return rv;
}

int ctl_backup(struct ctl *c, int argc, char **argv)
{
	struct run r = { .c = c, .progress = { .rate = c->rate } };
	unsigned i;
	int rv;

	if (argc == 3 && !strcmp(argv[1], "verify"))
		return verify(c, argv[2]);
	if (argc != 1 || !c->to)
		return ctl_usage("backup --to DIR, or backup verify DIR");
	for (i = 0; i < c->n_sockets; i++) {
		const char *slash = strrchr(c->sockets[i], '/');

		r.folders[i] = slash ? xasprintf("%.*s", (int)(slash - c->sockets[i]),
						 c->sockets[i])
				     : xstrdup(".");
	}
	r.shards = json_array();
	r.before = json_object();
	r.named = json_object();
	rv = backup(&r);
	for (i = 0; i < c->n_sockets; i++) {
		free(r.folders[i]);
		admin_client_free(r.nodes[i]);
	}
	json_decref(r.about);
	json_decref(r.shards);
	json_decref(r.before);
	json_decref(r.named);
	return rv;
}
