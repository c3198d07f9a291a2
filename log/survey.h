/* What is in a sealed segment, record by record, for whoever decides what may go.
 * Reads the file only, in slices for the helper thread. */
#ifndef QUIPU_LOG_SURVEY_H
#define QUIPU_LOG_SURVEY_H

#include "log/disk.h"
#include "log/record.h"

struct survey_fact {
	uint64_t offset, key, n, time_ms, sender, seq;
	uint64_t lamport, stamp; /* as in its ack, and its own in the shard */
	uint32_t device, ttl;    /* ttl: seconds, 0: the default */
	uint32_t content;        /* bytes that a stub would not have */
	uint8_t kind, part, mid[16];
	bool stub;
};
#define SURVEY_STUB_BYTES 32u /* of a stub instead of its content */

struct survey;
/* `bytes`: of header and frames. */
int survey_open(struct survey **out, struct disk *disk, const char *path,
		uint64_t bytes, struct err *e);
void survey_free(struct survey *s);
/* The records of about `budget` bytes of file: *facts are borrowed until the next
 * step.  *n == 0: the end.  ERR_DAMAGED: what comes is not readable. */
int survey_step(struct survey *s, uint64_t budget,
		const struct survey_fact **facts, unsigned *n, struct err *e);

#endif
