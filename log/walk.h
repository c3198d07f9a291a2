/* Frames of a segment file one after the other, with their checksums proven: for
 * whoever reads a whole segment (start, survey, rewrite, a snapshot's check).  Reads
 * ahead in large pieces and past all caches, in any thread. */
#ifndef QUIPU_LOG_WALK_H
#define QUIPU_LOG_WALK_H

#include "log/disk.h"
#include "log/frame.h"

struct segment_walk {
	struct disk *disk;
	struct disk_file *file; /* the caller's */
	uint64_t off, end;      /* of the next frame; frames end here */
	uint64_t at;            /* where `in` begins in the file */
	struct buf in, raw;
};
/* `end`: bytes of header and frames.  Release it whatever next() says. */
void segment_walk_init(struct segment_walk *w, struct disk *disk,
		       struct disk_file *file, uint64_t end);
void segment_walk_release(struct segment_walk *w);
/* 1: a frame; *head are its FRAME_HEADER bytes, w->raw its body, both borrowed until
 * the next call.  0: the end.  ERR_DAMAGED (nothing is said in `e`: w->off is the
 * byte); ERR_IO. */
int segment_walk_next(struct segment_walk *w, struct frame *f,
		      const uint8_t **head, struct err *e);

#endif
