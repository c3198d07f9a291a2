/* A shard's snapshot: its last checkpoint as a manifest and files (log-engine 9,
 * docs/format.md).  Segments are shipped as they lie; rows as a stream of their
 * own, walked on the helper thread; leaves are made again from the segments.
 *
 * Nothing of a snapshot is believed before snap_check has read all of it: frames
 * and their chain, rows and their digest, leaves and their root, against the
 * manifest.  The manifest itself is a peer's word. */
#ifndef QUIPU_LOG_SNAPSHOT_H
#define QUIPU_LOG_SNAPSHOT_H

#include "base/buf.h"
#include "log/store.h"

#define SNAP_SEGMENTS_MAX 65536      /* 4 TiB of full segments */
#define SNAP_ROWS_MAX (1ull << 36)   /* bytes of the row stream: 64 GiB, four maps */

struct snap_segment {
	uint64_t base, end;      /* records */
	uint64_t bytes;          /* header and frames; a footer follows if sealed */
	uint64_t idx_bytes;      /* of its index file; 0: it has none */
	uint32_t generation;
	bool sealed;
	uint8_t chain[32];       /* at its end */
};

struct snap_manifest {
	uint64_t id;             /* XXH3 of the encoded form */
	uint8_t cluster_id[16];
	uint32_t shard;
	uint64_t index, term;    /* applied */
	uint64_t conf_index;
	uint32_t conf_len;
	uint8_t conf[4096];
	uint64_t leaves;         /* records = leaves of the tree */
	/* First record of the first segment: above 0 when what was before was
	 * trimmed; then its leaves come as files of the tree. */
	uint64_t base;
	uint8_t chain[32], root[32];
	uint64_t digest;
	uint64_t rows, rows_bytes; /* of the stream */
	uint32_t n_segments;
	struct snap_segment *segments;
};

/* Sets m->id. */
void snap_encode(struct snap_manifest *m, struct buf *out);
/* ERR_FORMAT, ERR_VERSION, ERR_CHECKSUM; what it gives can be trusted to be in
 * itself consistent.  On success snap_release() it. */
int snap_decode(struct snap_manifest *m, const void *p, size_t n,
		struct err *e);
void snap_release(struct snap_manifest *m);

/* Files by number: 0 the rows, 1 + 2k segment k, 2 + 2k its index, then the tree's,
 * up to the leaf before `base`.  Bytes 0: there is none. */
static inline uint32_t snap_trees(const struct snap_manifest *m)
{
	return (uint32_t)((m->base + STORE_TREE_LEAVES - 1) /
			  STORE_TREE_LEAVES);
}
static inline uint32_t snap_files(const struct snap_manifest *m)
{
	return 1 + 2 * m->n_segments + snap_trees(m);
}
uint64_t snap_file_bytes(const struct snap_manifest *m, uint32_t file);
void snap_file_path(const struct snap_manifest *m, uint32_t file,
		    uint32_t incarnation, char *path, size_t size);

/* Write the row stream of the last checkpoint and say what belongs to it.  Runs on
 * the helper thread, between checkpoints.  ERR_NOT_FOUND: there is none yet. */
int snap_export(struct store *s, struct snap_manifest *m, struct err *e);
/* The row stream is needed no more (or was left by a process that ended). */
void snap_export_drop(struct disk *disk, uint32_t shard, uint32_t incarnation);

/* Remove all files of a folder of the shard; that there are none is no error.  `keep`
 * segments, so that what a broken install has fetched need not come again. */
int snap_folder_clear(struct disk *disk, uint32_t shard, uint32_t incarnation,
		      bool keep, struct err *e);
int snap_folder_make(struct disk *disk, uint32_t shard, uint32_t incarnation,
		     struct err *e);

/* Check fetched files and make the folder whole, durable and ready for store_open().
 * Each step is one slice of work for the helper thread: segments, or rows.
 * ERR_DAMAGED: it is not what the manifest says; a bad segment is removed. */
struct snap_check;
struct snap_check *snap_check_new(struct disk *disk, const struct kv_ops *kv,
				  void *kv_arg, const struct snap_manifest *m,
				  uint32_t incarnation);
int snap_check_step(struct snap_check *c, bool *done, struct err *e);
void snap_check_free(struct snap_check *c);

/* ---- for another cluster (consensus/restore.h) ------------------------------- */

struct snap_put {
	uint8_t table;
	uint8_t klen;          /* <= 64 */
	uint32_t vlen;
	const void *key, *val;
};
struct snap_edit {
	const void *conf;      /* takes the place of the configuration */
	uint32_t conf_len;     /* <= sizeof of the manifest's */
	bool (*drop)(unsigned table, const void *key, unsigned klen);
	const struct snap_put *puts; /* rows that are made, or made anew */
	unsigned n_puts;
};
/* The row stream `from` in the shard's folder becomes that of file 0, changed so, and
 * goes; `m` changes with it (but not its id).  Not synced.  ERR_DAMAGED. */
int snap_edit_rows(struct disk *disk, struct snap_manifest *m, uint32_t incarnation,
		   const char *from, const struct snap_edit *how, struct err *e);

#endif
