/* Frames and the records in them: bytes <-> struct record (docs/format.md).
 * XXH3 finds accidents, chain and leaves find tampering (RFC 6962). */
#ifndef QUIPU_LOG_FRAME_H
#define QUIPU_LOG_FRAME_H

#include "base/buf.h"
#include "base/err.h"
#include "base/hash.h"
#include "log/record.h"

#include <stdbool.h>

#define FRAME_HEADER 152u
#define FRAME_LZ4 1u   /* flags: codec */
#define FRAME_STUBS 2u /* some records have lost nonce and payload */

struct frame {
	uint32_t length;     /* stored: header, body, padding to 8 */
	uint32_t raw_len, stored_len, count;
	uint16_t flags;
	uint64_t term, index, base; /* base: offset of the first record */
	uint64_t lamport_first, lamport_last, time_ms;
	uint8_t root[SHA256_LEN];  /* batch root */
	uint8_t chain[SHA256_LEN]; /* after this frame */
};

/* SHA-256(nonce, payload): what stays of a record's content. */
void record_content(const struct record *r, uint8_t out[SHA256_LEN]);

/* Encode records as a raw body, their leaf hashes into `leaves` (n x 32).  time_ms
 * and lamport_first of the frame are its first record's. */
void frame_body(struct buf *raw, const struct record *recs, unsigned n,
		uint8_t *leaves);
/* Header and stored body appended to `out`.  `f` has term, index, base, and gets
 * the rest; `chain` is the chain before it. */
void frame_encode(struct buf *out, struct frame *f, const struct buf *raw,
		  const struct record *recs, unsigned n, const uint8_t *leaves,
		  const uint8_t chain[SHA256_LEN]);
/* Check a header: 0, ERR_FORMAT, ERR_CHECKSUM. */
int frame_header(struct frame *f, const uint8_t *p, size_t avail);
/* Check and unpack the stored body that follows the header into `raw`. */
int frame_unpack(const struct frame *f, const uint8_t *p, struct buf *raw);
/* Does `chain` lead to this frame's chain? */
bool frame_follows(const uint8_t *header, const uint8_t chain[SHA256_LEN]);

/* Walk the records of a raw body; borrowed from it. */
struct frame_iter {
	const struct frame *f;
	const uint8_t *p, *end;
	uint64_t lamport;
	uint32_t i;
};
void frame_iter_init(struct frame_iter *it, const struct frame *f,
		     const struct buf *raw);
/* 1: a record; 0: the end; ERR_DAMAGED. */
int frame_next(struct frame_iter *it, struct record *r);

/* RFC 6962 hashes. */
void merkle_node(const uint8_t l[32], const uint8_t r[32], uint8_t out[32]);
/* Hash of n >= 0 leaves (section 2.1). */
void merkle_root(const uint8_t *leaves, uint64_t n, uint8_t out[32]);

/* The right edge of a growing tree: hashes of its perfect subtrees, largest
 * first. */
struct frontier {
	uint64_t size;
	unsigned n;
	uint8_t peak[64][SHA256_LEN];
};
void frontier_add(struct frontier *t, const uint8_t leaf[32]);
void frontier_root(const struct frontier *t, uint8_t out[32]);

#endif
