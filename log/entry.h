/* A raft entry in memory: one allocation that the proposer, the journal writer
 * and the links share by reference, never by copy.  The bytes in front of the
 * payload are reserved for the journal's record header, so that the writer can
 * hand header and payload to the kernel as one piece.
 *
 *   rec[0 .. JOURNAL_RECORD_HEADER)   journal record header (journal's to fill)
 *   rec[JOURNAL_RECORD_HEADER ..)     payload, `len` bytes; byte 0 is the raft
 *                                     entry type (enum raft_entry_type)
 *   ... zero padding to a multiple of 8
 *
 * An entry is immutable once submitted to anybody, save for the record header,
 * which belongs to the journal writer of this node.  References are counted
 * atomically: writer thread and loop both drop them. */
#ifndef QUIPU_LOG_ENTRY_H
#define QUIPU_LOG_ENTRY_H

#include <stddef.h>
#include <stdint.h>

#define JOURNAL_RECORD_HEADER 56
#define ENTRY_PAYLOAD_MAX (4u << 20) /* 4 MiB; a batch is 128 KiB */

struct entry {
	uint32_t refs; /* atomic */
	uint32_t shard;
	uint64_t term, index;
	uint32_t len; /* payload bytes, type byte included; 1..ENTRY_PAYLOAD_MAX */
	uint32_t rec_len; /* header + payload + padding */
	uint8_t rec[];
};

/* New entry with one reference and an uninitialised payload of `len` bytes
 * (padding zeroed). */
struct entry *entry_new(uint32_t shard, uint32_t len);
struct entry *entry_ref(struct entry *e);
void entry_unref(struct entry *e); /* frees at zero; NULL is fine */

static inline uint8_t *entry_payload(struct entry *e)
{
	return e->rec + JOURNAL_RECORD_HEADER;
}

#endif
