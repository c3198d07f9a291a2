/* restore: the data folder of one founder of a cluster that goes on from a backup
 * (consensus/restore.h).  Asks no server. */
#include "base/alloc.h"
#include "base/conf.h"
#include "base/hash.h"
#include "consensus/feature.h"
#include "consensus/group.h"
#include "consensus/known.h"
#include "consensus/restore.h"
#include "log/nodemeta.h"
#include "tools/lib/backup_dir.h"
#include "tools/quipuctl/ctl.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

struct run {
	struct ctl *c;
	struct conf conf;
	json_t *backup;
	uv_loop_t loop;
	struct disk *disk;
	struct journal *journal;
	struct restore_config rc;
	uint64_t founders[CONF_PEERS_MAX];
	struct nodemeta meta;
	struct known known;
	struct snap_manifest *m;     /* by shard; released but for index and term */
	uint32_t shards;
	struct journal_req *reqs;    /* two of each shard */
	unsigned waiting;
	struct progress progress;
	int failed;
	struct err err;
};

/* ---- what is asked for ---------------------------------------------------------------- */

static int settings(struct run *r, struct err *e)
{
	struct conf *c = &r->conf;
	unsigned i;
	int rv = conf_load(c, r->c->config, e);

	if (!rv && !r->c->config) {
		char *slash;

		snprintf(c->node.data, sizeof c->node.data, "%s", r->c->socket);
		slash = strrchr(c->node.data, '/');
		if (slash)
			*slash = 0;
	}
	if (!rv)
		rv = conf_check(c, e);
	if (rv)
		return rv;
	r->rc.n_founders = c->n_peers ? c->n_peers : 1;
	r->founders[0] = c->node.id;
	for (i = 0; i < c->n_peers; i++)
		r->founders[i] = c->peer[i].id;
	r->rc.founders = r->founders;
	return 0;
}

static int suits(struct run *r, struct err *e)
{
	const json_t *b = r->backup;
	uint8_t id[16];
	char hex[33];
	unsigned i;

	conf_cluster_id(&r->conf, id);
	for (i = 0; i < 16; i++)
		snprintf(hex + 2 * i, 3, "%02x", id[i]);
	r->shards = (uint32_t)ctl_u(b, "shards");
	if (strcmp(hex, ctl_s(b, "cluster_id")))
		return err_set(e, ERR_CONFIG, "the backup is of cluster %s, the "
			       "configuration says %s (node.cluster): a restored cluster "
			       "keeps its name", ctl_s(b, "cluster"),
			       r->conf.node.cluster);
	if (ctl_u(b, "level") > FEATURE_MAX)
		return err_set(e, ERR_VERSION, "the backup is of feature level %" PRIu64
			       "; this program knows %u", ctl_u(b, "level"), FEATURE_MAX);
	if (r->conf.shards.count && r->conf.shards.count != r->shards)
		return err_set(e, ERR_CONFIG, "the backup has %u shards, the configuration "
			       "(shards.count) says %" PRIu64, r->shards,
			       r->conf.shards.count);
	return 0;
}

/* The same on all founders: the backup, the founders, and nothing else goes into it. */
static int choose_epoch(struct run *r, struct err *e)
{
	uint32_t old = (uint32_t)ctl_u(r->backup, "epoch");
	struct buf salt = BUF_INIT;
	const json_t *s;
	unsigned i;
	size_t k;

	buf_u64(&salt, ctl_u(r->backup, "begun_ms"));
	json_array_foreach(json_object_get(r->backup, "shard"), k, s) {
		buf_put(&salt, ctl_s(s, "root"), strlen(ctl_s(s, "root")));
		buf_u64(&salt, ctl_u(s, "index"));
	}
	for (i = 0; i < r->rc.n_founders; i++)
		buf_u64(&salt, r->founders[i]);
	r->rc.epoch = r->c->epoch ? r->c->epoch
				  : restore_epoch(old, salt.data, salt.len);
	buf_release(&salt);
	if (r->rc.epoch <= old)
		return err_set(e, ERR_INVALID, "--epoch must be above the backup's, %u",
			       old);
	return 0;
}

/* Nothing is written over. */
static int folder_is_new(const char *path, struct err *e)
{
	DIR *d = opendir(path);
	struct dirent *de;
	int rv = 0;

	if (!d)
		return errno == ENOENT ? 0 : err_errno(e, errno, "%s", path);
	while (!rv && (de = readdir(d)))
		if (strcmp(de->d_name, ".") && strcmp(de->d_name, ".."))
			rv = err_set(e, ERR_EXISTS, "%s is not empty (%s): a restore begins "
				     "with an empty folder", path, de->d_name);
	closedir(d);
	return rv;
}

/* ---- shards --------------------------------------------------------------------------- */

static int lay_file(struct run *r, const json_t *shard, const struct snap_manifest *m,
		    uint32_t file, struct err *e)
{
	const json_t *f = backup_file(shard, file);
	char to[BACKUP_PATH_MAX], name[BACKUP_PATH_MAX], sha[BACKUP_SHA], *from, *path;
	uint64_t bytes = snap_file_bytes(m, file);
	int rv;

	if (!bytes)
		return 0;
	backup_name(m, file, name);
	if (!f || ctl_u(f, "bytes") != bytes)
		return err_set(e, ERR_DAMAGED, "the backup has no whole %s", name);
	snap_file_path(m, file, RESTORE_INCARNATION, to, sizeof to);
	if (!file)
		snprintf(strrchr(to, '/'), 32, "/" RESTORE_ROWS);
	from = xasprintf("%s/%s", r->c->from, name);
	path = xasprintf("%s/%s", r->conf.node.data, to);
	rv = backup_copy(from, path, bytes, sha, &r->progress, e);
	if (!rv && strcmp(sha, ctl_s(f, "sha256")))
		rv = err_set(e, ERR_DAMAGED, "%s has other bytes than backup.json says",
			     from);
	free(from);
	free(path);
	return rv;
}

static int lay_shard(struct run *r, const json_t *shard, struct err *e)
{
	struct snap_manifest m;
	uint32_t i, id;
	int rv = backup_manifest(r->c->from, shard, &m, e);

	if (rv)
		return rv;
	id = m.shard;
	if (id != ctl_u(shard, "shard") || id >= r->shards || r->m[id].index ||
	    memcmp(m.cluster_id, r->meta.cluster_id, 16))
		rv = err_set(e, ERR_DAMAGED, "the manifest of shard %" PRIu64
			     " is another's", ctl_u(shard, "shard"));
	if (!rv)
		rv = r->disk->ops->mkdir(r->disk, "shards", e);
	if (!rv)
		rv = snap_folder_make(r->disk, id, RESTORE_INCARNATION, e);
	for (i = 0; !rv && i < snap_files(&m); i++)
		rv = lay_file(r, shard, &m, i, e);
	if (!rv)
		rv = restore_shard(r->disk, &kv_lmdb, NULL, &r->rc, &m, e);
	if (!rv) {
		r->m[id].shard = id;
		r->m[id].index = m.index;
		r->m[id].term = m.term;
	}
	snap_release(&m);
	return rv ? err_wrap(e, "shard %u", id) : 0;
}

/* ---- the journal ------------------------------------------------------------------------ */

static void on_fatal(void *arg, const struct err *e)
{
	struct run *r = arg;

	if (!r->failed)
		r->err = *e;
	r->failed = e->code;
}

static void on_written(struct journal_req *q)
{
	struct run *r = q->arg;

	r->waiting--;
}

static void on_timer(uv_timer_t *t)
{
	(void)t;
}

static int journal(struct run *r, struct err *e)
{
	struct journal_config jc = { .node_id = r->conf.node.id,
				     .file_size = r->conf.journal.file_size,
				     .max_bytes = r->conf.journal.max,
				     .queue_bytes = r->conf.journal.queue };
	uv_timer_t timer;
	uint64_t due;
	uint32_t i;
	int rv;

	memcpy(jc.cluster_id, r->meta.cluster_id, 16);
	rv = journal_open(&r->journal, r->disk, &clock_real, &jc, on_fatal, r, e);
	if (rv)
		return rv;
	r->reqs = xcalloc(2 * r->shards, sizeof *r->reqs);
	for (i = 0; i < r->shards && !rv; i++) {
		struct journal_req *q = &r->reqs[2 * i];

		restore_requests(&r->m[i], q, q + 1);
		q[0].cb = q[1].cb = on_written;
		q[0].arg = q[1].arg = r;
		r->waiting += 2;
		rv = journal_submit(r->journal, q);
		if (!rv)
			rv = journal_submit(r->journal, q + 1);
	}
	if (rv)
		return err_set(e, rv, "the journal is too small for %u shards", r->shards);
	/* Until all is written, and the empty group behind it. */
	uv_timer_init(&r->loop, &timer);
	while (!r->failed) {
		journal_flush(r->journal);
		due = journal_tick(r->journal, clock_us(&clock_real));
		journal_flush(r->journal);
		if (!r->waiting && due == UINT64_MAX && journal_idle(r->journal))
			break;
		uv_timer_start(&timer, on_timer, 20, 0);
		uv_run(&r->loop, UV_RUN_ONCE);
	}
	uv_close((uv_handle_t *)&timer, NULL);
	uv_run(&r->loop, UV_RUN_NOWAIT);
	*e = r->err;
	return r->failed;
}

/* ---- the whole ---------------------------------------------------------------------------- */

static int lay(struct run *r, struct err *e)
{
	const json_t *s;
	unsigned i;
	size_t k;
	int rv = 0;

	r->m = xcalloc(r->shards, sizeof *r->m);
	conf_cluster_id(&r->conf, r->meta.cluster_id);
	r->meta.node_id = r->conf.node.id;
	rand_fill(&rand_real, r->meta.disk_id, 16);
	r->meta.feature_level = (uint32_t)ctl_u(r->backup, "level");
	r->meta.history_epoch = r->rc.epoch;
	r->meta.shards = r->shards;
	for (i = 0; i < r->rc.n_founders; i++)
		r->meta.founders |= 1ull << r->founders[i];
	/* Before data is in it; the other founders' disks are met at their first word. */
	rv = known_open(&r->known, r->disk, &r->meta, e);
	progress_begin(&r->progress, "restore", ctl_u(r->backup, "bytes"), r->c->json);
	json_array_foreach(json_object_get(r->backup, "shard"), k, s)
		if (!rv)
			rv = lay_shard(r, s, e);
	progress_end(&r->progress);
	if (!rv)
		rv = r->disk->ops->fsync_dir(r->disk, "shards", e);
	if (!rv)
		rv = journal(r, e);
	/* From here on it is a node's. */
	if (!rv)
		rv = nodemeta_save(r->disk, &r->meta, e);
	return rv;
}

static int restore(struct run *r, struct err *e)
{
	int rv = settings(r, e);

	if (!rv)
		rv = backup_load(r->c->from, &r->backup, e);
	if (!rv)
		rv = suits(r, e);
	if (!rv)
		rv = choose_epoch(r, e);
	if (!rv)
		rv = folder_is_new(r->conf.node.data, e);
	if (rv)
		return rv;
	uv_loop_init(&r->loop);
	rv = disk_uv_open(&r->disk, &r->loop, r->conf.node.data, e);
	if (!rv)
		rv = r->disk->ops->lock(r->disk, "lock", e);
	if (!rv)
		rv = lay(r, e);
	if (r->journal)
		journal_close(r->journal);
	if (r->disk)
		disk_uv_close(r->disk);
	uv_run(&r->loop, UV_RUN_DEFAULT);
	uv_loop_close(&r->loop);
	return rv;
}

int ctl_restore(struct ctl *c, int argc, char **argv)
{
	struct run r = { .c = c, .progress = { .rate = c->rate } };
	struct err e;
	int rv;

	(void)argv;
	if (argc != 1 || !c->from)
		return ctl_usage("restore --from DIR, with --config FILE or --data DIR");
	rv = restore(&r, &e);
	if (rv) {
		rv = ctl_fail(c, ERR_INVALID, "", &e);
	} else if (c->json) {
		rv = ctl_print(json_pack("{s:b,s:I,s:s,s:I,s:I,s:I}", "ok", 1, "node",
					 (json_int_t)r.conf.node.id, "data",
					 r.conf.node.data, "shards", (json_int_t)r.shards,
					 "epoch", (json_int_t)r.rc.epoch, "cut",
					 (json_int_t)ctl_u(r.backup, "cut")));
	} else {
		printf("%s is the folder of node %" PRIu64 ", one of %u: %u shards, history "
		       "epoch %u\n", r.conf.node.data, r.conf.node.id, r.rc.n_founders,
		       r.shards, r.rc.epoch);
		if (r.rc.n_founders > 1)
			puts("make the others of the same backup before any of them starts");
	}
	free(r.m);
	free(r.reqs);
	json_decref(r.backup);
	return rv;
}
