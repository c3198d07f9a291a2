/* Rows in LMDB: one environment per shard, default durability (a commit is an
 * fdatasync and then the meta page).  The loop reads in one read transaction,
 * renewed after each checkpoint, so no reader outlives one. */
#include "base/alloc.h"
#include "log/kv.h"

#include <errno.h>
#include <limits.h>
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAP_BYTES (16ull << 30) /* address space only */

struct kv {
	MDB_env *env;
	MDB_dbi dbi;
	MDB_txn *read, *write;
	char path[PATH_MAX];
};

static int lmdb_err(const struct kv *kv, int rc, const char *what,
		    struct err *e)
{
	int code = rc == ENOSPC		    ? ERR_NOSPACE
		   : rc == MDB_MAP_FULL	    ? ERR_NOSPACE
		   : rc == MDB_NOTFOUND	    ? ERR_NOT_FOUND
		   : rc == MDB_CORRUPTED    ? ERR_DAMAGED
		   : rc == MDB_PAGE_NOTFOUND ? ERR_DAMAGED
		   : rc == MDB_INVALID	    ? ERR_DAMAGED
		   : rc == MDB_VERSION_MISMATCH ? ERR_VERSION
					       : ERR_IO;

	return err_set(e, code, "%s: %s: %s", kv->path, what,
		       mdb_strerror(rc));
}

static void kv_close_env(struct kv *kv)
{
	if (kv->write)
		mdb_txn_abort(kv->write);
	if (kv->read)
		mdb_txn_abort(kv->read);
	if (kv->env)
		mdb_env_close(kv->env);
	free(kv);
}

static int kv_open_env(void *arg, struct disk *disk, const char *path,
		       struct kv **out, struct err *e)
{
	struct kv *kv = xcalloc(1, sizeof *kv);
	size_t map = getenv("QUIPU_SMALL_MAPS") ? 256u << 20 : MAP_BYTES;
	MDB_txn *txn = NULL;
	int rc;

	(void)arg;
	snprintf(kv->path, sizeof kv->path, "%s/%s", disk->root, path);
	rc = mdb_env_create(&kv->env);
	if (!rc)
		rc = mdb_env_set_mapsize(kv->env, map);
	if (!rc)
		rc = mdb_env_open(kv->env, kv->path, MDB_NOSUBDIR | MDB_NOTLS,
				  0600);
	if (!rc)
		rc = mdb_txn_begin(kv->env, NULL, 0, &txn);
	if (!rc)
		rc = mdb_dbi_open(txn, NULL, 0, &kv->dbi);
	if (!rc) {
		rc = mdb_txn_commit(txn);
		txn = NULL;
	}
	if (!rc)
		rc = mdb_txn_begin(kv->env, NULL, MDB_RDONLY, &kv->read);
	if (rc) {
		if (txn)
			mdb_txn_abort(txn);
		rc = lmdb_err(kv, rc, "open", e);
		kv_close_env(kv);
		return rc;
	}
	*out = kv;
	return 0;
}

static int kv_get_row(struct kv *kv, const void *key, size_t klen,
		      const void **val, size_t *vlen, struct err *e)
{
	MDB_val k = { klen, (void *)(uintptr_t)key }, v;
	int rc = mdb_get(kv->read, kv->dbi, &k, &v);

	if (rc == MDB_NOTFOUND)
		return ERR_NOT_FOUND;
	if (rc)
		return lmdb_err(kv, rc, "get", e);
	*val = v.mv_data;
	*vlen = v.mv_size;
	return 0;
}

static int kv_walk_rows(struct kv *kv, const void *key, size_t klen,
			bool (*cb)(void *arg, const void *key, size_t klen,
				   const void *val, size_t vlen),
			void *arg, struct err *e)
{
	MDB_val k = { klen, (void *)(uintptr_t)key }, v;
	MDB_cursor *c;
	int rc = mdb_cursor_open(kv->read, kv->dbi, &c);

	if (rc)
		return lmdb_err(kv, rc, "walk", e);
	rc = mdb_cursor_get(c, &k, &v, klen ? MDB_SET_RANGE : MDB_FIRST);
	while (!rc && cb(arg, k.mv_data, k.mv_size, v.mv_data, v.mv_size))
		rc = mdb_cursor_get(c, &k, &v, MDB_NEXT);
	mdb_cursor_close(c);
	return rc && rc != MDB_NOTFOUND ? lmdb_err(kv, rc, "walk", e) : 0;
}

static int kv_walk_all(struct kv *kv,
		       bool (*cb)(void *arg, const void *key, size_t klen,
				  const void *val, size_t vlen),
		       void *arg, struct err *e)
{
	MDB_val k = { 0, NULL }, v;
	MDB_txn *txn;
	MDB_cursor *c;
	int rc = mdb_txn_begin(kv->env, NULL, MDB_RDONLY, &txn);

	if (rc)
		return lmdb_err(kv, rc, "walk", e);
	rc = mdb_cursor_open(txn, kv->dbi, &c);
	if (!rc) {
		rc = mdb_cursor_get(c, &k, &v, MDB_FIRST);
		while (!rc && cb(arg, k.mv_data, k.mv_size, v.mv_data, v.mv_size))
			rc = mdb_cursor_get(c, &k, &v, MDB_NEXT);
		mdb_cursor_close(c);
	}
	mdb_txn_abort(txn);
	return rc && rc != MDB_NOTFOUND ? lmdb_err(kv, rc, "walk", e) : 0;
}

static int kv_begin(struct kv *kv, struct err *e)
{
	int rc = mdb_txn_begin(kv->env, NULL, 0, &kv->write);

	return rc ? lmdb_err(kv, rc, "begin", e) : 0;
}

static int kv_put_row(struct kv *kv, const void *key, size_t klen,
		      const void *val, size_t vlen, struct err *e)
{
	MDB_val k = { klen, (void *)(uintptr_t)key };
	MDB_val v = { vlen, (void *)(uintptr_t)val };
	int rc = mdb_put(kv->write, kv->dbi, &k, &v, 0);

	return rc ? lmdb_err(kv, rc, "put", e) : 0;
}

static int kv_del_row(struct kv *kv, const void *key, size_t klen,
		      struct err *e)
{
	MDB_val k = { klen, (void *)(uintptr_t)key };
	int rc = mdb_del(kv->write, kv->dbi, &k, NULL);

	return rc && rc != MDB_NOTFOUND ? lmdb_err(kv, rc, "del", e) : 0;
}

static int kv_commit(struct kv *kv, struct err *e)
{
	int rc = mdb_txn_commit(kv->write);

	kv->write = NULL;
	return rc ? lmdb_err(kv, rc, "commit", e) : 0;
}

static void kv_abort(struct kv *kv)
{
	if (kv->write)
		mdb_txn_abort(kv->write);
	kv->write = NULL;
}

static void kv_renew(struct kv *kv)
{
	mdb_txn_reset(kv->read);
	if (mdb_txn_renew(kv->read))
		abort(); /* only misuse can fail here */
}

const struct kv_ops kv_lmdb = {
	.open = kv_open_env,
	.close = kv_close_env,
	.get = kv_get_row,
	.walk = kv_walk_rows,
	.walk_all = kv_walk_all,
	.begin = kv_begin,
	.put = kv_put_row,
	.del = kv_del_row,
	.commit = kv_commit,
	.abort = kv_abort,
	.renew = kv_renew,
};
