/* The replicated state machine of one shard: entries in, rows, records and
 * results out.  Pure: it sees the entry and the store, no clock, dice, local
 * configuration or hash order, so every replica makes the same bytes.
 *
 * Batch entry payload (docs/message.md): type byte GROUP_COMMAND, then
 *   time u64 (leader's Unix ms), count varint, then per command
 *   nonce 16, command lv (cmd.h) */
#ifndef QUIPU_CONSENSUS_MACHINE_H
#define QUIPU_CONSENSUS_MACHINE_H

#include "consensus/cmd.h"
#include "log/entry.h"
#include "log/store.h"
#include "log/survey.h"

#define BATCH_RECORDS_MAX 1024 /* commands in one entry */

/* Tables of rows (log/store.h) with their value layouts, little endian. */
enum machine_table {
	T_ACCOUNT = 1, /* account BE64 -> ACCOUNT_ROW */
	T_DEVICE = 2,  /* account BE64, device BE32 -> DEVICE_ROW */
	T_DEDUPE = 3,  /* account BE64, device BE32 -> floor u64, count u32,
			  zero u32, count x (seq << 1 | part u64, offset u64),
			  ascending by the first */
	T_META = 4,    /* shard 0: "slots" -> epoch u32, shards u32, 16,384 x u16
			  "feature" -> level u32, zero u32; none: 1
			  "history" -> epoch u32, zero u32; none: 1 */
	T_NODE = 5,    /* shard 0: node id BE64 -> NODE_ROW; 0 -> epoch (version of
			  the newest row), founders that were entered (bits) u64 */
	T_RETAIN = 20, /* "policy" -> epoch, ttl ms (0: 30 days), receipts below
			  this offset, trims u64 */
	T_RECEIPT = 21, /* account BE64, device BE32, (seq << 1 | part) BE64 ->
			  mid 16, Lamport, stamp, time, number u64: the ack of a
			  send whose record was trimmed, while T_DEDUPE has it */
};

struct machine {
	struct store *store;
	uint32_t shard;
	struct record *recs;    /* scratch, BATCH_RECORDS_MAX each; shared by */
	struct result *results; /* all machines of a thread */
	uint64_t time_ms;       /* of the batch being applied */
	unsigned n_recs;
	uint64_t duplicates, refused;
	bool devices_removed;   /* by a batch; the reader clears it */
	bool nodes_changed;     /* the same of T_NODE */
	uint64_t erased;        /* accounts, since the machine was made */
	bool roll;              /* the batch seals the segment */
	/* Highest level of this program (feature.h); 0: all that it knows.  It stops
	 * at commands of a later one. */
	uint32_t feature_max;
	bool feature_raised;    /* by a batch; the reader clears it */
	uint64_t kept;          /* T_RECEIPT has no rows of records from here on */
};

/* Apply a GROUP_COMMAND entry and append its frame.  results[0..n) hold the
 * outcomes in the order of the commands and stay valid until the next apply;
 * records n_recs in recs (borrowing from the entry).  ERR_FORMAT (unknown or
 * malformed command: the replica must stop) or a store error (fatal). */
int machine_apply(struct machine *m, struct entry *e, unsigned *n,
		  struct err *err);

/* Answer a query from the applied state.  Records of a page are encoded into
 * `records` (cleared first), which the result borrows. */
int machine_query(struct machine *m, const struct query *q, struct result *r,
		  struct buf *records, struct err *e);

/* The epoch of the nodes' table (0: there is none), and the founders it was entered
 * with (bits by id).  Shard 0. */
uint64_t machine_nodes(struct machine *m, uint64_t *founders);
/* A node's row; false: none. */
bool machine_node(struct machine *m, uint8_t id, struct member *out);

/* ---- for the leader's look at what may go (retain.c) --------------------- */

enum retain_verdict {
	VERDICT_LIVE,
	VERDICT_HELD,   /* by an audit hold */
	VERDICT_DEAD,   /* every device acknowledged it, or its time is over */
	VERDICT_ERASED, /* its account is */
};
/* A record of this shard, as of what is applied. `ttl_ms`: machine_ttl_ms(). */
enum retain_verdict machine_judge(struct machine *m, const struct survey_fact *f,
				  uint64_t now_ms, uint64_t ttl_ms);
uint64_t machine_ttl_ms(struct machine *m);
/* How long this one lives: its own time when that is the shorter one. */
uint64_t machine_ttl_of(const struct survey_fact *f, uint64_t ttl_ms);
/* Raised whenever less may go than before; commands name it. */
uint64_t machine_retain_epoch(struct machine *m);
/* A repeat of this send would still be answered with this record's ack. */
bool machine_remembers(struct machine *m, uint64_t account, uint32_t device,
		       uint64_t id, uint64_t offset);

/* Last inbox number of an account, 0 when there is none or no account. */
uint64_t machine_inbox_end(struct machine *m, uint64_t account);
/* Highest inbox number a device has acknowledged. */
bool machine_device(struct machine *m, uint64_t account, uint32_t device,
		    struct result *r);

#endif
