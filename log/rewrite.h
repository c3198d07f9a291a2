/* A sealed segment written anew with stubs for what may go (log-engine 11): nonce and
 * payload of those records are destroyed, everything that is chained stays bit by
 * bit.  Frame roots, chain and the shard's root are the same before and after, and
 * the whole new file is read again to prove it before it counts.
 *
 * Works on files only, in slices for the helper thread; whoever reads the old file
 * goes on.  The new file BASE.(GEN+1) stands aside until store_rewrite_commit(); what
 * a crash leaves of it is written over by the next try. */
#ifndef QUIPU_LOG_REWRITE_H
#define QUIPU_LOG_REWRITE_H

#include "log/disk.h"
#include "log/frame.h"
#include "log/segment.h"

struct rewrite_plan {
	char dir[32];            /* the shard's folder */
	uint8_t cluster_id[16];
	uint32_t shard, from, to; /* generations */
	uint64_t base, end;      /* records [base, end) */
	uint64_t bytes;          /* of header and frames of the old file */
	/* Bit i of byte i / 8: record base + i becomes a stub.  Those that are stubs
	 * stay stubs. */
	const uint8_t *dead;
};

struct rewrite_result {
	uint64_t bytes, logical; /* header and frames; frame headers and bodies */
	uint64_t stubs;          /* records that are stubs in it */
};

/* A frame with the same chained bytes, appended to `out`: records whose bit is set
 * (numbered from `first` in `dead`) become stubs.  `head` are the old FRAME_HEADER
 * bytes, `raw` the old body, `before` the chain in front of it.  ERR_DAMAGED: the
 * records are not what root and chain say, so nothing may be made of them. */
struct frame_rewriter {
	struct record *recs;
	uint8_t *leaves, *content;
	uint32_t cap;
	struct buf raw;
	uint64_t stubs;          /* counted up */
};
int frame_rewrite(struct frame_rewriter *fr, struct buf *out,
		  const struct frame *f, const uint8_t head[FRAME_HEADER],
		  const struct buf *raw, const uint8_t before[SHA256_LEN],
		  const uint8_t *dead, uint64_t first, struct frame *made);
void frame_rewriter_release(struct frame_rewriter *fr);

struct rewrite;
/* `dead` is copied. */
struct rewrite *rewrite_new(struct disk *disk, const struct rewrite_plan *p);
void rewrite_free(struct rewrite *r);
const struct rewrite_plan *rewrite_plan(const struct rewrite *r);
/* One slice: about `budget` bytes are read.  *done: the new files are whole, proven
 * and durable.  ERR_DAMAGED: the old file, or what was read back; ERR_NOSPACE: later;
 * anything else is fatal as everywhere. */
int rewrite_step(struct rewrite *r, uint64_t budget, bool *done, struct err *e);
void rewrite_result(const struct rewrite *r, struct rewrite_result *out);
/* Remove what was written (it will not be put in place). */
void rewrite_drop(struct rewrite *r);

#endif
