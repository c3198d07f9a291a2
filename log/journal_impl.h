/* Insides of the journal, shared by journal.c (writer), journal_ring.c (files),
 * journal_queue.c and journal_scan.c (recovery). */
#ifndef QUIPU_LOG_JOURNAL_IMPL_H
#define QUIPU_LOG_JOURNAL_IMPL_H

#include "base/buf.h"
#include "log/journal_format.h"

#define JOURNAL_FILES_MAX 4096
#define JOURNAL_DIR "journal"

/* Where an entry lies. */
struct jplace {
	uint64_t term, off; /* off: of its record header */
	uint32_t file, len;
};

/* Entries [first, first + n) of a shard; `head` of the array may be unused. */
struct jindex {
	struct journal_shard s; /* what others see */
	struct jplace *at;
	uint32_t head, n, cap;
	uint64_t hold; /* keep entries from here on */
};

#define JOURNAL_NO_FILE UINT32_MAX

struct jfile {
	struct disk_file *file;
	uint32_t number;       /* of its name */
	uint64_t use;          /* 0: never used, or free again */
	uint64_t *last;        /* per shard: highest entry index in it */
};

struct journal {
	struct disk *disk;
	struct clock *clock;
	struct journal_config cfg;
	journal_fatal_cb fatal;
	void *fatal_arg;
	struct jindex shards[JOURNAL_SHARDS_MAX];

	struct jfile files[JOURNAL_FILES_MAX];
	uint32_t n_files;
	uint32_t n_free;       /* of them, that could be written next */
	uint32_t next_number;
	uint64_t next_use, next_group;
	uint32_t cur;          /* file being written; UINT32_MAX before the first */
	uint64_t cur_off;

	/* queue of requests, then the group being written */
	struct journal_req *q_head, **q_tail;
	struct journal_req *w_head;
	uint64_t q_bytes;
	bool writing, failed, closing;
	struct disk_write write;
	struct iovec *iov;
	unsigned iov_cap;
	struct buf scratch;    /* headers, rows, small records of the group */
	uint64_t write_start_us;
	uint64_t *held_off;    /* places of the entries of the group being written */
	unsigned held_n, held_cap;
	uint64_t idle_at_us;   /* due time of the empty group, UINT64_MAX none */
	uint64_t full_us;      /* no room for what waits or was refused, since; 0: no */
	uint64_t refused_us;   /* when entries last found a full ring */
	uint64_t outgrown;     /* bytes that the ring may have above max_bytes */

	struct disk_work grow;
	bool growing;
	uint64_t grow_left, grown_bytes; /* by journal_limit(), and since then */
	bool no_entries;
	int grow_status;
	struct err grow_err;
	struct disk_file *grown;
	uint64_t grow_retry_us;

	struct disk_work shrink;
	bool shrinking, marked; /* marked: since the last look at what is too much */
	struct jfile gone;     /* the file that is being removed */
	int shrink_status;
	bool unlinked;
	struct err shrink_err;
	uint64_t shrink_retry_us;

	struct journal_stats stats;
};

struct jreq_priv {
	struct journal_req *next;
	struct entry **entries; /* own copy of the array, with references */
	uint64_t bytes;
};
_Static_assert(sizeof(struct jreq_priv) <=
		       sizeof(((struct journal_req *)0)->priv),
	       "jreq_priv fits");
static inline struct jreq_priv *jreq_priv(struct journal_req *r)
{
	return (struct jreq_priv *)(void *)r->priv;
}

/* journal_index.c: the index of a shard; used by recovery in the same order */
/* NULL: not here. */
struct jplace *jindex_place(const struct jindex *x, uint64_t index);
void jindex_append(struct jindex *x, uint64_t index, const struct jplace *p);
void jindex_truncate(struct jindex *x, uint64_t from);
void jindex_drop_below(struct jindex *x, uint64_t index);
/* The file has another place in the list. */
void jindex_moved(struct jindex *x, uint32_t from, uint32_t to);
void jindex_vote(struct jindex *x, uint64_t term, uint64_t vote);

/* journal.c.  The first failed write or sync is the last. */
void journal_fail(struct journal *j, const struct err *e);

/* journal_ring.c: of the index and of the files */
/* Entries from `from` on are void, and what is void pins no file. */
void journal_truncated(struct journal *j, uint32_t shard, uint64_t from);
/* A snapshot at `index` takes the place of all entries of the shard. */
void journal_installed(struct journal *j, uint32_t shard, uint32_t incarnation,
		       uint64_t index, uint64_t term);
/* Another folder with the state at `index`; entries stay. */
void journal_repaired(struct journal *j, uint32_t shard, uint32_t incarnation,
		      uint64_t index, uint64_t term);

/* The file that is used again next, or was never used; JOURNAL_NO_FILE: there is one
 * file.  A never used one pins nothing. */
uint32_t jring_oldest(const struct journal *j);
/* The same if it may be written now. */
uint32_t jring_next(const struct journal *j);
/* After whatever may free a file or take one. */
void jring_count_free(struct journal *j);
void jring_begin(struct journal *j, uint32_t file); /* it is the current one */
bool jring_may_grow(const struct journal *j);
void jring_grow(struct journal *j); /* if it may, by the helper thread */
/* After marks: if the ring is larger than it should be and half of it is free, its oldest
 * file goes.  Nothing is being written. */
void jring_shrink(struct journal *j);
/* With each tick. */
void jring_outgrow(struct journal *j, uint64_t now_us);
/* Of a new journal; waits for the disk. */
int jring_first(struct journal *j, struct err *e);

/* journal_queue.c.  Each takes requests off the queue into the group (w_head) and
 * returns their bytes. */
uint64_t jqueue_bytes(struct journal_req *r);
/* Entries and truncations of the shard that wait will not be written: an install
 * takes their place, and may need the room that they wait for. */
void jqueue_void(struct journal *j, uint32_t shard);
/* One entry of a type byte alone. */
bool jqueue_is_barrier(struct entry *const *entries, unsigned n);
/* Bytes of the group that may be made now; the queue is not empty. */
uint64_t jqueue_group(const struct journal *j);
/* In order until the group is full, or so many bytes; at least one. */
uint64_t jqueue_take(struct journal *j, uint64_t room, unsigned *records,
		     unsigned *small);
/* There is no room for what is first.  Votes and marks pass it, as far as the
 * current file has room: a mark may be what frees the next file, and neither
 * depends on entries in front of it.  So do barriers and truncations alone, unless
 * something of their shard waits in front: by its barrier a new leader commits what
 * fills the ring, and a truncation voids it.  So do, in the same way, entries of the
 * shard that pins the oldest file: what pins it may be committed only with them, here
 * or by a leader elsewhere that counts on this node. */
uint64_t jqueue_take_small(struct journal *j, unsigned *records,
			   unsigned *small);
/* Entries of that shard wait. */
bool jqueue_pinned_waits(const struct journal *j);
/* These are such, and jqueue_take_small() has room for them now. */
bool jqueue_reserve_takes(const struct journal *j, const struct journal_req *r);

/* journal_scan.c */
int journal_scan(struct journal *j, struct err *e);

#endif
