/* Bytes of segment files around their frames: header, footer, and the index file of
 * a sealed one (docs/format.md).  Files: seg/BASE.GEN.seg and .idx, BASE 16 hex
 * digits.  Header and footer have 4,096 bytes and end in their XXH3-64. */
#ifndef QUIPU_LOG_SEGMENT_H
#define QUIPU_LOG_SEGMENT_H

#include "base/buf.h"
#include "base/err.h"
#include "base/hash.h"

#include <stdbool.h>

#define SEGMENT_HEADER 4096u
#define SEGMENT_FOOTER 4096u
#define SEGMENT_VERSION 1       /* of what is written at first */
#define SEGMENT_VERSION_STUBS 2 /* a rewritten one: frames may hold stubs */

struct segment_head {
	uint32_t version; /* 0: SEGMENT_VERSION */
	uint8_t cluster_id[16];
	uint32_t shard, generation;
	uint64_t number, base;   /* ordinal; offset of the first record */
	uint64_t clock, time_ms; /* shard clock before, time of the first frame */
	uint64_t index, term;    /* of the first frame */
	uint8_t chain[SHA256_LEN]; /* before it */
};
void segment_head_encode(const struct segment_head *h,
			 uint8_t out[SEGMENT_HEADER]);
/* ERR_FORMAT, ERR_VERSION, ERR_CHECKSUM */
int segment_head_decode(struct segment_head *h, const uint8_t p[SEGMENT_HEADER],
			struct err *e);

struct segment_foot {
	uint32_t version; /* 0: SEGMENT_VERSION */
	uint32_t shard, generation;
	uint64_t number, base, end;   /* records [base, end) */
	uint64_t bytes;               /* of header and frames */
	uint64_t logical, frames;
	uint64_t lamport, time_ms;    /* of the last record */
	uint8_t chain[SHA256_LEN], root[SHA256_LEN]; /* tree of `end` leaves */
	uint64_t index_sum;           /* XXH3-64 at the end of the .idx file */
};
void segment_foot_encode(const struct segment_foot *f,
			 uint8_t out[SEGMENT_FOOTER]);
int segment_foot_decode(struct segment_foot *f, const uint8_t p[SEGMENT_FOOTER],
			struct err *e);

/* ---- index -------------------------------------------------------------------- */

/* A frame of a segment. */
struct place {
	uint64_t base;         /* offset of its first record */
	uint32_t off, count;   /* byte in the file, records */
};
/* A key in a segment. */
struct kidx {
	uint64_t key, first_n, last_n;
	uint64_t prev;         /* base of the segment with its records before */
	uint32_t *frames;      /* indexes into places, ascending */
	uint64_t *firsts;      /* its first number in each of them */
	uint32_t n, cap;
};
#define KIDX_NO_PREV UINT64_MAX

/* File: magic QUIPUIX1, version u32, shard u32, base u64, end u64, places u32, keys
 * u32; places (16 bytes each); keys ascending: key, first, last, prev u64, frames
 * u32, zero u32; then per frame first u64, frame u32 packed; XXH3-64. */
void index_head_put(struct buf *b, uint32_t shard, uint64_t base, uint64_t end,
		    uint32_t places, uint32_t keys);
void index_place_put(struct buf *b, const struct place *p);
void index_key_put(struct buf *b, const struct kidx *k);
uint64_t index_end_put(struct buf *b); /* returns the sum */

struct index_reader {
	uint32_t shard, n_places, n_keys;
	uint64_t base, end, sum;
	const uint8_t *places, *p, *limit;
	uint32_t left;
};
/* Checks magic, version, sum and sizes. */
int index_open(struct index_reader *r, const uint8_t *p, size_t n,
	       struct err *e);
void index_place(const struct index_reader *r, uint32_t i, struct place *out);
/* 1: a key, with `k->n` frames at *frames (12 bytes each: first, frame); 0: the end;
 * ERR_DAMAGED. */
int index_key(struct index_reader *r, struct kidx *k, const uint8_t **frames);

#endif
