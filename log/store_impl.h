/* Insides of a shard's store: store.c (open, append, roll), store_rows.c (rows and
 * checkpoints), store_index.c (who is where), store_read.c. */
#ifndef QUIPU_LOG_STORE_IMPL_H
#define QUIPU_LOG_STORE_IMPL_H

#include "base/list.h"
#include "base/map.h"
#include "log/frame.h"
#include "log/store.h"

#define SEGMENT_HEADER 4096u
#define SEGMENT_FOOTER 4096u
#define SEGMENT_VERSION 1
#define STATE_VERSION 1
#define ROW_KEY_MAX 64
#define FRAME_CACHE_SLOTS 256
#define TREE_FILE_LEAVES (1u << 20)

/* The store's own tables; 1..29 are the machine's. */
enum { T_STORE_META = 0, T_STORE_SEGMENT = 30, T_STORE_KEY = 31 };

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

/* A frame of a segment. */
struct place {
	uint64_t base;         /* offset of its first record */
	uint32_t off, count;
};

/* A key in a segment. */
struct kidx {
	uint64_t key, first_n, last_n;
	uint64_t prev;         /* base of the segment with its records before */
	uint32_t *frames;      /* indexes into places, ascending */
	uint64_t *firsts;      /* its first number in each of them */
	uint32_t n, cap;
};

/* Loaded index of a segment. */
struct sindex {
	struct place *places;
	uint32_t n_places, cap_places;
	struct map keys;       /* key -> struct kidx */
};

struct segment {
	uint64_t base, end;    /* records [base, end) */
	uint64_t bytes;        /* of frames, header included, footer not */
	uint64_t logical;
	bool sealed, synced;
	struct disk_file *file;
	struct sindex *index;  /* open segment: always; sealed: when loaded */
	uint64_t used;         /* for dropping loaded indexes */
};
#define SEALED_INDEXES_MAX 8

struct cached_frame {
	uint64_t seg;          /* base + 1; 0: empty */
	uint32_t off;
	struct frame f;
	struct buf raw;
};

struct checkpoint {
	struct disk_work work;
	struct buf rows;
	struct disk_file **sync;
	unsigned n_sync;
	bool new_files;
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

	struct buf raw, out, io;
	uint8_t *leaves;
	unsigned cap_leaves;
	struct cached_frame cache[FRAME_CACHE_SLOTS];
	uint64_t use_clock;
	struct store_stats stats;
};

/* store_rows.c */
int rows_open(struct store *s, struct err *e);
void rows_close(struct store *s);
uint64_t row_sum(uint8_t table, const void *key, unsigned klen,
		 const void *val, uint32_t len);
void meta_encode(const struct store *s, struct buf *b);
int meta_decode(struct store *s, const void *p, size_t n, struct err *e);

/* store_index.c */
struct sindex *sindex_new(void);
void sindex_free(struct sindex *x);
/* Note a frame and its records. */
void sindex_add(struct store *s, struct sindex *x, uint64_t seg,
		const struct frame *f, uint32_t off, const struct record *recs,
		unsigned n, bool rebuild);
int sindex_write(struct store *s, struct segment *g, struct err *e);
/* The index of a segment, from memory, its file, or by a scan. */
int segment_index(struct store *s, struct segment *g, struct sindex **out,
		  struct err *e);
struct segment *segment_of(struct store *s, uint64_t offset);
struct segment *segment_by_base(struct store *s, uint64_t base);

/* store.c */
int segment_file(struct store *s, struct segment *g, struct err *e);
/* A frame of a segment, decoded; borrowed until the next call. */
int segment_frame(struct store *s, struct segment *g, uint32_t off,
		  const struct frame **f, const struct buf **raw,
		  struct err *e);
void frame_cache_put(struct store *s, uint64_t seg, uint32_t off,
		     const struct frame *f, const struct buf *raw);
/* Every frame up to `end` bytes into the file: cb(frame, off, raw). */
int segment_scan(struct store *s, struct segment *g, uint64_t end,
		 const uint8_t *chain,
		 int (*cb)(void *arg, const struct frame *f, uint32_t off,
			   const struct buf *raw),
		 void *arg, uint8_t *chain_out, struct err *e);

#endif
