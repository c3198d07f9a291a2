/* A shard's store: segments of events, Merkle tree, per-key index and the rows
 * of its state, with the applied index that ties them (log-engine 5, 6, 7).
 *
 * Written only at apply, by the shard's loop; the checkpoint runs on the disk's
 * helper thread.  Nothing here is needed for an ack: the journal can make it
 * again, so appends are buffered writes and rows stay in memory until the
 * checkpoint, which makes segments durable first, then rows and applied index in
 * one transaction.  On open everything behind the durable end is forgotten
 * (segment bytes are overwritten by replay with equal content).
 *
 * Folder: shards/0007-1/ {state.mdb, seg/, tree/} on the disk. */
#ifndef QUIPU_LOG_STORE_H
#define QUIPU_LOG_STORE_H

#include "base/clock.h"
#include "log/disk.h"
#include "log/kv.h"
#include "log/record.h"
#include "log/rewrite.h"

#include <stdbool.h>

#define STORE_TREE_LEAVES (1u << 20) /* to a file of the tree */

struct store;

struct store_config {
	uint8_t cluster_id[16];
	uint32_t shard;
	uint32_t incarnation;     /* of the folder; 0 is 1 */
	uint64_t segment_bytes;   /* logical; default 64 MiB */
	uint64_t dirty_max_bytes; /* default 8 MiB: then store_full() */
	uint64_t tail_cache_bytes; /* recent frames kept decoded; default 4 MiB */
	uint32_t row_cache_max;   /* clean rows kept; default 65,536 */
};

/* Durable facts, as of the last append in memory (store_meta) or as of the last
 * checkpoint (after open). */
struct store_meta {
	uint64_t applied_index, applied_term;
	uint64_t clock;       /* highest Lamport given */
	uint64_t next_offset; /* records so far = tree size */
	uint64_t last_time_ms;
	uint8_t chain[32];
	uint8_t root[32];     /* RFC 6962 root, as of the last open: store_root() */
	uint64_t digest;      /* sum of row checksums, as of the last checkpoint */
	uint64_t conf_index;  /* last applied configuration change */
	uint8_t conf[4096];   /* opaque bytes of it */
	uint32_t conf_len;
};

/* `kv_open` makes the row store of the folder: kv_lmdb_open or the simulator's
 * twin.  Errors: ERR_VERSION, ERR_DAMAGED (named: row, segment frame, digest),
 * ERR_IO. */
int store_open(struct store **out, struct disk *disk, const struct kv_ops *kv,
	       void *kv_arg, const struct store_config *cfg, struct err *e);
/* No checkpoint may be running, unless its disk never will (a simulated crash).
 * Nothing is written. */
void store_close(struct store *s);
const struct store_meta *store_meta(const struct store *s);
/* RFC 6962 root over the leaves of all records. */
void store_root(const struct store *s, uint8_t out[32]);

/* ---- apply ------------------------------------------------------------- */

/* Append the records of one raft entry as one frame.  Fills offset, in `recs`
 * (lamport, time_ms, key, n are the caller's, lamport strictly rising, time not
 * falling).  n == 0 only moves the applied index.  A frame's raw body must stay
 * within FRAME_RAW_MAX.  A write error is fatal: ERR_ is returned and the caller
 * ends the process. */
int store_append(struct store *s, uint64_t term, uint64_t index,
		 struct record *recs, unsigned n, struct err *e);
/* Raise the shard clock without a record. */
void store_raise_clock(struct store *s, uint64_t lamport);
void store_set_conf(struct store *s, uint64_t index, const void *conf,
		    uint32_t len);

/* ERR_DAMAGED once a damaged row was met: what row_get() said since then may be
 * wrong, and nothing is appended or made durable any more. */
int store_check(const struct store *s, struct err *e);

/* ---- retention: in apply, the same on all replicas (log-engine 11) ------- */

#define DEAD_BLOCK 65536u /* records to one row of bits */

/* Records before `offset` are gone, for good and at once: no read gives them.  Sealed
 * segments that end by then leave the list; their files go after the next checkpoint.
 * [base, end) names the segment that the leader drops by it: its marks are forgotten. */
void store_trim(struct store *s, uint64_t base, uint64_t end, uint64_t offset);
/* First record that is kept; 0 when nothing was ever trimmed. */
uint64_t store_trimmed(const struct store *s);
/* Seal the open segment if it holds anything. */
int store_roll(struct store *s, struct err *e);
/* What may go of segment [base, end) in its generation `gen`: bits of one block, and
 * when all are there the wish.  Generations follow each other: the next one is
 * store_wanted() + 1.  A replica writes it when it gets to it. */
void store_dead(struct store *s, uint64_t base, uint32_t gen, uint32_t block,
		const uint8_t *bits, uint32_t len);
void store_want(struct store *s, uint64_t base, uint64_t end, uint32_t gen);
uint32_t store_wanted(struct store *s, uint64_t base); /* 0: never rewritten */

/* ---- retention: this replica's files ------------------------------------- */

/* Of the first segment that waits for it.  NULL: none does, or not while a checkpoint
 * runs.  The rewrite outlives the store; commit it into the same one. */
struct rewrite *store_rewrite_begin(struct store *s);
/* Its new file takes the old one's place, durable with the next checkpoint.  false:
 * it came too late, and its file was removed. */
bool store_rewrite_commit(struct store *s, struct rewrite *r);
/* It cannot be done: not tried again before the next start. */
void store_rewrite_refuse(struct store *s, const struct rewrite *r);
/* Files that the next checkpoint removes; none while held. */
uint32_t store_doomed(const struct store *s);
/* Of them, those that the last checkpoint could not remove. */
uint32_t store_stuck(const struct store *s);
/* Somebody ships files of the last checkpoint: none goes until all have let go. */
void store_hold(struct store *s, bool on);

struct store_segment {
	uint64_t base, end, bytes;
	uint32_t generation, wanted; /* wanted above: a rewrite is due */
	bool sealed, durable;
};
uint32_t store_segments(const struct store *s);
void store_segment_info(const struct store *s, uint32_t i,
			struct store_segment *out);
void store_segment_path(const struct store *s, uint32_t i, char *path,
			size_t size);

/* Rows.  `table` < 32.  The value is a flat byte string, mutable in place: the
 * pointer stays valid until the next store_* call that may evict (any row_get or
 * row_put); call row_dirty() after changing it.  klen <= 64, value <= 60 KiB. */
void *row_get(struct store *s, unsigned table, const void *key, unsigned klen,
	      uint32_t *len); /* NULL: absent */
void *row_put(struct store *s, unsigned table, const void *key, unsigned klen,
	      uint32_t len); /* creates or resizes (old bytes kept, new zeroed); dirty */
void row_dirty(struct store *s, void *value);
void row_del(struct store *s, unsigned table, const void *key, unsigned klen);
/* All rows of a table, memory and kv merged, in key order; cb returns false to
 * stop.  For admin verbs and tests, not for apply. */
int row_walk(struct store *s, unsigned table,
	     bool (*cb)(void *arg, const void *key, unsigned klen,
			const void *val, uint32_t len),
	     void *arg, struct err *e);

/* ---- checkpoints ------------------------------------------------------- */

/* True when dirty rows are at their limit: the shard answers busy. */
bool store_full(const struct store *s);
bool store_checkpoint_running(const struct store *s);
uint64_t store_dirty_bytes(const struct store *s);
/* Start one; `done(arg, status, applied index, term)` runs on the loop when rows
 * and index are durable (status 0), or ERR_NOSPACE: kept in memory, try again.
 * Any other failure is fatal for the caller. ERR_BUSY if one runs. */
int store_checkpoint(struct store *s,
		     void (*done)(void *arg, int status, uint64_t index,
				  uint64_t term, const struct err *e),
		     void *arg);

/* ---- reading ----------------------------------------------------------- */

/* Records of one key from inbox number `from` on, at most `limit` records and
 * about `max_bytes` payload bytes (at least one record), ascending and without
 * holes.  cb gets borrowed bytes, valid only inside it, and returns false to
 * stop.  Returns 0, ERR_TRUNCATED (nothing given: *oldest is the first number that is
 * kept, the one after the last when none is) or ERR_DAMAGED. */
int store_read_key(struct store *s, uint64_t key, uint64_t from,
		   unsigned limit, size_t max_bytes,
		   bool (*cb)(void *arg, const struct record *r), void *arg,
		   uint64_t *oldest, struct err *e);
/* The same newest first, from `before` - 1 down (0: from the end).  ERR_TRUNCATED also
 * after records were given: *oldest was the last that is kept. */
int store_read_key_back(struct store *s, uint64_t key, uint64_t before,
			unsigned limit, size_t max_bytes,
			bool (*cb)(void *arg, const struct record *r),
			void *arg, uint64_t *oldest, struct err *e);
/* Records by offset: what auditors, consumers and tests use. Follows: returns at
 * the applied end. */
int store_read(struct store *s, uint64_t from_offset, unsigned limit,
	       bool (*cb)(void *arg, const struct record *r), void *arg,
	       struct err *e);
/* Last inbox number of a key, 0 if none.  From memory or one row; no I/O on
 * segments. */
uint64_t store_key_last(struct store *s, uint64_t key);
/* The first number of a key that is kept, as far as somebody who wants `from` cares:
 * when it is not above `from`, any number not above `from` may be said.  1 when
 * nothing was ever trimmed. */
int store_key_oldest(struct store *s, uint64_t key, uint64_t from,
		     uint64_t *oldest, struct err *e);

struct store_stats {
	uint64_t segments, frames, records, raw_bytes, stored_bytes;
	uint64_t dirty_bytes, cached_rows, checkpoints;
	uint64_t tail_hits, tail_misses;
	/* By this process: */
	uint64_t trimmed_segments, rewritten_segments, freed_bytes;
};
void store_stats(const struct store *s, struct store_stats *out);

#endif
