/* Insides of a shard's store: store.c (open, append, roll), store_rows.c (rows and
 * checkpoints), store_index.c (who is where), store_read.c. */
#ifndef QUIPU_LOG_STORE_IMPL_H
#define QUIPU_LOG_STORE_IMPL_H

#include "base/list.h"
#include "base/map.h"
#include "log/frame.h"
#include "log/segment.h"
#include "log/store.h"

#define STATE_VERSION 1
#define STATE_VERSION_RETAIN 2 /* records were trimmed, or made stubs */
#define ROW_KEY_MAX 64
#define FRAME_CACHE_SLOTS 256

/* The store's own tables; 1..26 are the machine's. */
enum {
	T_STORE_META = 0,
	T_STORE_DOOMED = 27, /* this node's own, as SEGMENT */
	T_STORE_DEAD = 28,
	T_STORE_TRIM = 29,
	T_STORE_SEGMENT = 30,
	T_STORE_KEY = 31,
};

struct row {
	struct row *next;      /* same hash */
	struct list all, dirty;
	uint64_t hash, sum;    /* sum: as counted in the digest, 0: not */
	uint64_t pinned;       /* checkpoint that carries it */
	uint32_t len, cap;
	uint8_t table, klen, key[ROW_KEY_MAX];
	bool is_dirty, absent, referenced;
	uint8_t val[] __attribute__((aligned(8)));
};

/* Loaded index of a segment. */
struct sindex {
	struct place *places;
	uint32_t n_places, cap_places;
	struct map keys;       /* key -> struct kidx */
};

struct segment {
	uint64_t number;       /* ordinal in the shard */
	uint64_t base, end;    /* records [base, end) */
	uint64_t bytes;        /* of frames, header included, footer not */
	uint64_t logical;
	uint32_t generation;
	uint32_t wanted;       /* generation; not above: nothing is to be done */
	bool sealed, synced;
	bool refused;          /* to be rewritten: it cannot */
	struct disk_file *file;
	struct sindex *index;  /* open segment: always; sealed: when loaded */
	uint64_t used;         /* for dropping loaded indexes */
};
#define SEALED_INDEXES_MAX 8
#define SEALED_FILES_MAX 16    /* open descriptors of sealed segments */
#define TREE_BUFFER_MAX (256u << 10) /* leaves not yet written */

/* A record of a decoded frame: found by key without decoding its neighbours. */
struct rec_slot {
	uint64_t key, prev_lamport;
	uint32_t off, zero;
};

struct cached_frame {
	uint64_t seg;          /* base + 1; 0: empty */
	uint32_t off, cap_slots;
	struct frame f;
	struct buf raw;
	struct rec_slot *slots; /* f.count of them */
};

struct doomed {
	uint64_t base, bytes;  /* of the file */
	uint32_t gen;
};

struct checkpoint {
	struct disk_work work;
	struct buf rows;
	struct disk_file **sync, **old_trees;
	unsigned n_sync, n_old_trees;
	bool new_files;
	struct doomed *gone;   /* to be removed after the commit, then removed */
	uint32_t n_gone, n_stuck;
	uint64_t gen, index, term;
	int status;
	struct err err;
	void (*done)(void *arg, int status, uint64_t index, uint64_t term,
		     const struct err *e);
	void *arg;
};

struct store {
	struct disk *disk;
	struct store_config cfg;
	const struct kv_ops *kv_ops;
	struct kv *kv;
	char dir[32];
	struct store_meta meta;
	struct frontier tree;

	struct segment *segs;  /* ascending; the last one may be open */
	uint32_t n_segs, cap_segs;
	bool new_files;
	struct disk_file *tree_file;
	uint64_t tree_no;
	struct disk_file **old_trees; /* filled up since the last checkpoint */
	unsigned n_old_trees;

	struct map rows;       /* hash -> struct row chain */
	struct list all, dirty;
	uint64_t n_rows, dirty_bytes, pinned_bytes, gen;
	struct row *keep;      /* handed out last: not evicted */
	struct checkpoint *ckpt;
	struct err bad;        /* a damaged row was met */

	bool retains;          /* STATE_VERSION_RETAIN */
	uint64_t trim;         /* first record that is kept */
	uint64_t next_number;  /* of the next segment, when there is none */
	struct doomed *doomed;
	uint32_t n_doomed, cap_doomed;
	uint32_t n_stuck;      /* of the last checkpoint */
	unsigned hold;         /* who ships files */
	struct disk_file **closing; /* when the checkpoint is through */
	unsigned n_closing;

	struct buf tree_out;   /* leaves from offset tree_at on */
	uint64_t tree_at;

	struct buf raw, out, io;
	uint8_t *leaves;
	unsigned cap_leaves;
	struct cached_frame cache[FRAME_CACHE_SLOTS];
	size_t cache_bytes;
	unsigned cache_hand;
	uint64_t use_clock;
	struct store_stats stats;
};

/* store.c */
void store_folder(char out[32], uint32_t shard, uint32_t incarnation);
struct open_segment {
	uint64_t base, bytes, logical; /* base UINT64_MAX: none is open */
};
/* The meta row into s->meta and s->tree. */
int meta_decode(struct store *s, const void *p, size_t n,
		struct open_segment *open, struct err *e);

/* store_rows.c */
void rows_init(struct store *s);
/* The meta row's bytes; ERR_NOT_FOUND: a new store. */
int rows_open(struct store *s, void *kv_arg, struct buf *meta, struct err *e);
void rows_close(struct store *s);
/* A simulated crash: the disk has forgotten the work, so nobody will run it. */
void ckpt_abandon(struct store *s);
uint64_t row_sum(uint8_t table, const void *key, unsigned klen,
		 const void *val, uint32_t len);
void meta_encode(const struct store *s, struct buf *b);

/* store_retain.c */
int trim_load(struct store *s);  /* before the segments */
int retain_load(struct store *s, struct err *e); /* after them */
/* A doomed file was removed. */
void doomed_gone(struct store *s, uint64_t base, uint32_t gen);
void closing_close(struct store *s);

/* store_index.c */
struct sindex *sindex_new(void);
void sindex_free(struct sindex *x);
/* Note a frame and its records.  `rebuild`: the rows of the keys have it already. */
void sindex_add(struct store *s, struct sindex *x, uint64_t seg,
		const struct frame *f, uint32_t off, const struct record *recs,
		unsigned n, bool rebuild);
/* The .idx file of a segment that is being sealed. */
int sindex_write(struct store *s, struct segment *g, uint64_t *sum,
		 struct err *e);
/* The index of a segment, from memory, its file, or by a scan. */
int segment_index(struct store *s, struct segment *g, struct sindex **out,
		  struct err *e);
/* Rebuild the open segment's index up to its durable end; checks its frames and
 * the chain. */
int sindex_recover(struct store *s, struct segment *g, struct err *e);

/* store_segment.c */
/* NULL: no such record, no such segment */
struct segment *segment_of(struct store *s, uint64_t offset);
struct segment *segment_by_base(struct store *s, uint64_t base);
void segment_path(const struct store *s, const struct segment *g,
		  const char *ext, char *path, size_t size);
int segment_file(struct store *s, struct segment *g, struct err *e);
struct segment *segment_new(struct store *s, uint64_t term, uint64_t index,
			    uint64_t time_ms, struct err *e);
int segment_seal(struct store *s, struct segment *g, struct err *e);
/* The segment list's row. */
void segment_row(struct store *s, const struct segment *g);
int segments_open(struct store *s, uint64_t open_base, uint64_t open_bytes,
		  uint64_t open_logical, struct err *e);
void segments_close(struct store *s);
/* A frame of a segment, decoded; borrowed until the next call. `next`: where the
 * following frame starts, or the end. */
int segment_frame(struct store *s, struct segment *g, const struct place *pl,
		  uint64_t next, const struct cached_frame **out,
		  struct err *e);
void frame_cache_forget(struct store *s, uint64_t seg);
/* Takes raw's memory; gives back some other. */
void frame_cache_put(struct store *s, uint64_t seg, uint32_t off,
		     const struct frame *f, struct buf *raw);
/* Every frame up to `end` bytes into the file: cb(frame, off, raw).  `chain`: the one
 * before the first frame, checked and moved on; NULL: not checked. */
int segment_scan(struct store *s, struct segment *g, uint64_t end,
		 uint8_t *chain,
		 int (*cb)(void *arg, const struct frame *f, uint32_t off,
			   const struct buf *raw, struct err *e),
		 void *arg, struct err *e);
/* Leaves of [first, first + n) to the tree file's buffer; all of it to the file. */
int tree_add(struct store *s, uint64_t first, const uint8_t *leaves, unsigned n,
	     struct err *e);
int tree_flush(struct store *s, struct err *e);

#endif
