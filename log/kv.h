/* The durable rows of a shard behind a vtable: LMDB (kv_lmdb.c) and the
 * simulator's in-memory twin.  Values carry their own checksum (the store adds
 * it).  One write transaction at a time; a commit is atomic and durable. */
#ifndef QUIPU_LOG_KV_H
#define QUIPU_LOG_KV_H

#include "base/err.h"
#include "log/disk.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kv;

struct kv_ops {
	/* `path` relative to the disk's root; created if absent. */
	int (*open)(void *arg, struct disk *disk, const char *path,
		    struct kv **out, struct err *e);
	void (*close)(struct kv *kv);
	/* Borrowed until the next call on the reading side; ERR_NOT_FOUND. */
	int (*get)(struct kv *kv, const void *key, size_t klen,
		   const void **val, size_t *vlen, struct err *e);
	/* In key order from >= key; cb returns false to stop. */
	int (*walk)(struct kv *kv, const void *key, size_t klen,
		    bool (*cb)(void *arg, const void *key, size_t klen,
			       const void *val, size_t vlen),
		    void *arg, struct err *e);
	/* All rows as of the last commit, in key order, in a reading view of its
	 * own: for the helper thread, which no commit overtakes. */
	int (*walk_all)(struct kv *kv,
			bool (*cb)(void *arg, const void *key, size_t klen,
				   const void *val, size_t vlen),
			void *arg, struct err *e);
	/* Writing side, may run on the helper thread while get() is used on the
	 * loop: begin, any put/del, commit (durable on return) or abort. */
	int (*begin)(struct kv *kv, struct err *e);
	int (*put)(struct kv *kv, const void *key, size_t klen, const void *val,
		   size_t vlen, struct err *e);
	int (*del)(struct kv *kv, const void *key, size_t klen, struct err *e);
	int (*commit)(struct kv *kv, struct err *e);
	void (*abort)(struct kv *kv);
	/* On the loop after a commit: reads see it from now on. */
	void (*renew)(struct kv *kv);
};

extern const struct kv_ops kv_lmdb;

#endif
