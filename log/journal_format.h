/* Bytes of the journal, internal to log/ (docs/format.md, journal).
 *
 * File header, JF_HEADER bytes:
 *    0   8  magic QUIPUJN1        8  4  version       12  4  header length
 *   16   8  use                  24 16  cluster id    40  8  node id
 *   48   8  last durable group   56  4  shards        60  4  zero
 *   64  64 each: shard u32, incarnation u32, term, vote, last index, last term,
 *       mark index, mark term, zero (u64 each)
 *  end-8  8  XXH3-64 of all before it
 *
 * Group, on a 4,096 boundary:
 *    0   4  magic QJG1            4  4  low 32 bits of XXH3-64 over 8..39
 *    8   8  use                  16  8  group number
 *   24   4  length, all of it    28  2  records       30  2  rows
 *   32   8  XXH3-64 of the rows
 *   40  24 each row: shard u32, entries u32, last index u64, last term u64
 *  then records
 *
 * Record, 56 bytes and the payload, padded to 8:
 *    0   4  magic QJR1            4  4  low 32 bits of XXH3-64 over 8..55
 *    8   4  payload length       12  1  type          13  1  zero
 *   14   2  header length        16  8  use
 *   24   4  shard                28  4  zero          32  8  term
 *   40   8  index                48  8  XXH3-64 of the payload */
#ifndef QUIPU_LOG_JOURNAL_FORMAT_H
#define QUIPU_LOG_JOURNAL_FORMAT_H

#include "base/bytes.h"
#include "base/hash.h"
#include "log/journal.h"

#define JF_VERSION 1
#define JF_HEADER 20480u
#define JF_BLOCK 4096u
#define JF_SHARD 64u
#define JF_SHARDS_AT 64u
#define JG_HEADER 40u
#define JG_ROW 24u
#define JG_RECORDS_MAX 16384u

_Static_assert(JF_SHARDS_AT + JOURNAL_SHARDS_MAX * JF_SHARD + 8 <= JF_HEADER,
	       "all shards fit the file header");

struct jf_header {
	uint64_t use, node_id, last_group;
	uint8_t cluster_id[16];
	uint32_t n_shards;
};

struct jg_header {
	uint64_t use, group;
	uint32_t length;
	uint16_t records, rows;
};

static inline uint64_t jf_round(uint64_t n)
{
	return (n + JF_BLOCK - 1) & ~(uint64_t)(JF_BLOCK - 1);
}

/* What a header holds of a shard. */
void jf_put_shard(uint8_t *p, uint32_t id, const struct journal_shard *s);
void jf_put_header(uint8_t *p, const struct jf_header *h);
void jf_seal_header(uint8_t *p);
/* 0, ERR_FORMAT (no header: never used, or not ours), ERR_CHECKSUM, ERR_VERSION */
int jf_get_header(struct jf_header *h, const uint8_t *p);

void jg_put(uint8_t *p, const struct jg_header *h);
/* Header and rows; `avail` bytes lie at p.  0, ERR_FORMAT, ERR_CHECKSUM. */
int jg_get(struct jg_header *h, const uint8_t *p, size_t avail);

void jr_put(uint8_t *p, uint8_t type, uint64_t use, uint32_t shard,
	    uint64_t term, uint64_t index, const void *payload, uint32_t len);
struct jr {
	uint8_t type;
	uint32_t shard, len, total; /* total with header and padding */
	uint64_t use, term, index;
	const uint8_t *payload;
};
int jr_get(struct jr *r, const uint8_t *p, size_t avail);

#endif
