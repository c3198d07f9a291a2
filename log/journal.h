/* The journal holds the commands of all shards of a node: one ring of files, one
 * writer, one fdatasync per group (docs/format.md, log-engine 4).
 *
 * Invariants
 *   synced <= written <= queued     group numbers
 *   group g+1 is written only after the fdatasync of g returned
 *   a file is used again only after every shard's durable applied index has
 *   passed its last entry there
 *
 * Damage: a bad group with no valid group of a greater number anywhere is a torn
 * tail and is cut (reported).  Everything else is rot: the shards it may hit are
 * FAULTY, nothing is cut. */
#ifndef QUIPU_LOG_JOURNAL_H
#define QUIPU_LOG_JOURNAL_H

#include "base/clock.h"
#include "log/disk.h"
#include "log/entry.h"

#include <stdbool.h>

#define JOURNAL_SHARDS_MAX 256   /* shard numbers are < this */
#define JOURNAL_REQ_ENTRIES_MAX 1024 /* entries in one request */

struct journal;

struct journal_config {
	uint8_t cluster_id[16];
	uint64_t node_id;
	uint64_t file_size;   /* bytes, multiple of 4096; default 64 MiB */
	uint64_t max_bytes;   /* of all files; default 4 GiB.  A ring that is full
			       * and gets no room for seconds grows on, to twice
			       * of it at most: what it waits for may be waiting
			       * for it; and gives that back later, file by file */
	uint64_t queue_bytes; /* waiting for the writer; default 64 MiB */
};

/* What recovery (and later the running journal) knows of a shard.  Entries
 * [first_index, last_index] are readable by journal_read(); last_index ==
 * first_index - 1 means none. */
struct journal_shard {
	bool present;         /* the journal has heard of the shard */
	bool faulty;          /* rot: must not vote, ack or lead; see `why` */
	char why[160];
	uint64_t term, vote;  /* last durable VOTE; 0, 0 if none */
	uint64_t first_index, last_index;
	uint64_t last_term;   /* of last_index */
	uint64_t mark_index, mark_term; /* last MARK: durable applied index */
	uint32_t incarnation; /* of its folder; 0: none was ever installed */
};

/* One request: any of a vote, a truncation, entries, a mark, or an install with no
 * more than a vote, written in this order as one piece of one group.  The struct is
 * the caller's and stays put until cb, which runs exactly once on the loop, never
 * inside the submitting call, after the fdatasync that covers it.  References on the
 * entries are taken by the journal and dropped by it. The entries array may go at once. */
struct journal_req {
	uint32_t shard;
	bool has_vote;
	uint64_t term, vote;
	uint64_t truncate_from; /* entries from this index on are void; 0: none */
	struct entry *const *entries; /* ascending, consecutive indexes */
	unsigned n_entries;
	bool has_mark;
	uint64_t mark_index, mark_term;
	/* A snapshot is in force: the folder's incarnation, applied index and
	 * term are these; all entries before are void, also those that wait,
	 * and the next is index + 1.  Index 0: the replica is gone, and what comes
	 * next begins with nothing, save for the vote.  With `keeps` no entry is void:
	 * the log goes on as it is, and has the one at install_index or those right
	 * behind it. */
	uint32_t install;
	bool install_keeps;
	uint64_t install_index, install_term;
	void (*cb)(struct journal_req *r);
	void *arg;
	void *priv[6]; /* the journal's */
};

/* Called once when the writer failed: the owner ends the process. */
typedef void (*journal_fatal_cb)(void *arg, const struct err *e);

/* Opens or creates journal/ on `disk`, scans all files.  Errors: ERR_VERSION
 * (newer format: nothing is changed), ERR_DAMAGED (file headers of this node all
 * bad), ERR_CONFIG (other cluster or node id), ERR_NOSPACE, ERR_IO. */
int journal_open(struct journal **out, struct disk *disk, struct clock *clock,
		 const struct journal_config *cfg, journal_fatal_cb fatal,
		 void *fatal_arg, struct err *e);
/* Nothing may be being written, save after a simulated crash.  Requests that still
 * wait (journal_stalled) are given up: no callback. */
void journal_close(struct journal *j);

const struct journal_shard *journal_shard(const struct journal *j,
					  uint32_t shard);
/* Read an entry back (recovery, lagging followers): new reference, checksum
 * verified.  ERR_NOT_FOUND outside [first, last]; ERR_DAMAGED on rot. */
int journal_read(struct journal *j, uint32_t shard, uint64_t index,
		 struct entry **out, struct err *e);
/* Term of an entry in range without reading it; 0 if out of range. */
uint64_t journal_term(const struct journal *j, uint32_t shard, uint64_t index);

/* Queue a request.  ERR_FULL (and no callback) when queue_bytes wait or the ring
 * is at max_bytes; the pinning shard is then journal_pinned_by().  Requests with
 * only votes, truncations, marks and installs are never refused as full, nor is a barrier
 * (one entry of its type byte).  A truncation alone makes room, where what it voids is
 * what fills the ring.  Entries of the shard that pins the oldest file are taken at
 * max_bytes too, as far as a part of the space kept for votes and marks goes. */
int journal_submit(struct journal *j, struct journal_req *r);
/* Bytes of entries that one request should not exceed (a single entry may): several
 * fit a file, so that what marks and votes need is never taken by one. */
uint64_t journal_request_max(const struct journal *j);
/* Hand the queue to the writer now if it is idle; call at the end of each turn
 * of the loop.  While a group is being written, the queue gathers the next. */
void journal_flush(struct journal *j);
/* Timed work: the empty group that follows within 100 ms after the queue ran
 * empty.  Returns the next deadline, monotonic us, UINT64_MAX for none. */
uint64_t journal_tick(struct journal *j, uint64_t now_us);
bool journal_idle(const struct journal *j); /* nothing queued or in flight */
/* After journal_tick(): what is queued finds no room, and nothing runs that makes
 * some. */
bool journal_stalled(const struct journal *j);

/* Less than an eighth of the ring is free: time to take no new work from clients.
 * What is left is for entries of other leaders and for those by which a new
 * leader commits what it finds: a ring that is full of entries of which nobody
 * knows that they are committed would never empty. */
bool journal_crowded(const struct journal *j);
/* Shard whose durable applied index keeps the oldest used file from being
 * recycled, when files in use are above 3/4 of max; UINT32_MAX if none. */
uint32_t journal_pinned_by(const struct journal *j);
/* Hold entries from `index` on for a lagging follower as long as the ring stays
 * under 3/4 of max_bytes (UINT64_MAX: no hold). */
void journal_hold(struct journal *j, uint32_t shard, uint64_t index);
/* What the disk has room for, everything at first: so many bytes of new files, and
 * entries at all; without that journal_submit() refuses them as a full ring does. */
void journal_limit(struct journal *j, uint64_t grow_bytes, bool entries);
uint64_t journal_grown(const struct journal *j); /* bytes of files since then */

struct journal_stats {
	uint64_t groups, requests, entries, bytes, syncs;
	uint64_t files, files_used, queued_bytes;
	uint64_t torn_tails, sync_us_last;
	uint64_t sync_us_hist[32]; /* log2 buckets of fdatasync+write, us */
};
void journal_stats(const struct journal *j, struct journal_stats *out);

/* Read-only walk for quipu-dump and the scrubber: never writes, goes on after
 * damage.  Events are given in file order; `damage` is NULL or says what is
 * wrong with the thing at (file, offset). */
struct journal_walk_event {
	const char *file;
	uint64_t offset;
	enum { JW_FILE, JW_GROUP, JW_RECORD, JW_DAMAGE } what;
	uint64_t use, group;
	uint32_t shard;
	uint8_t type; /* enum journal_record_type */
	uint64_t term, index;
	const uint8_t *payload;
	uint32_t len;
	const char *damage;
};
int journal_walk(struct disk *disk, const char *dir,
		 void (*cb)(void *arg, const struct journal_walk_event *ev),
		 void *arg, struct err *e);

enum journal_record_type {
	JR_ENTRY = 1, JR_VOTE = 2, JR_TRUNCATE = 3, JR_MARK = 4,
	JR_INSTALL = 5, JR_SIGNED = 6, JR_REPAIR = 7,
};

#endif
