/* Commands and queries of a shard, and their results: what gateways send to
 * shard leaders and what the state machine (machine.c) executes.  Encodings are
 * little endian with varints (docs/message.md); the same bytes go over links and
 * into raft entries.  Decoders borrow from their input and refuse anything that
 * is malformed or out of range with ERR_FORMAT. */
#ifndef QUIPU_CONSENSUS_CMD_H
#define QUIPU_CONSENSUS_CMD_H

#include "base/buf.h"
#include "base/err.h"
#include "consensus/member.h"
#include "log/record.h"

#include <stdbool.h>
#include <stdint.h>

#define CMD_MAX (100u << 10)       /* bytes of one command */
#define BODY_MAX (60u << 10)       /* bytes of a message body */
#define DEVICES_MAX 6              /* per account */
#define MAILBOX_RECORDS_MAX 100000 /* unacknowledged records of an account */
#define SEND_SPAN_MAX 32           /* highest - lowest unsettled seq, client */
#define DEDUPE_SET_MAX 64          /* (seq, part) kept per sending device */
#define CLOCK_SKEW_MAX (1ull << 32) /* seen above the shard clock: refused */
/* Nor may it be above what so many records a millisecond since 1970 had made: in
 * steps of CLOCK_SKEW_MAX one sender would be at LAMPORT_MAX within minutes. */
#define LAMPORT_PER_MS 2048
#define LAMPORT_MAX ((1ull << 53) - 1) /* the client protocol's largest number */
#define TTL_MAX_S (30u * 86400)
#define SHARDS_MAX 256             /* per cluster */
#define FEATURE_LEVEL_MAX 65535u   /* that can be written; feature.h has the real one */
#define DISK_FULL_RETRY_MS 2000    /* what clients are told with ST_DISK_FULL */
#define RESULT_RECORDS_MAX (1u << 20) /* bytes of encoded records in a result */

enum status {
#define X(name, num, http, problem, title) name = num,
#include "consensus/status.tbl"
#undef X
};
const char *status_problem(int st); /* "seq-conflict"; "internal" if foreign */
const char *status_title(int st);
int status_http(int st);

enum cmd_type {
	CMD_ACCOUNT_ADD = 1,   /* account */
	CMD_DEVICE_ADD = 2,    /* account -> device number */
	CMD_DEVICE_REMOVE = 3, /* account, device: raises its epoch for good */
	CMD_SEND = 4,
	CMD_CURSOR = 5,        /* account, device, cursor: highest acked number */
	CMD_META_INIT = 6,     /* shard 0: slot table and shard count, level */
	CMD_FEATURE = 7,       /* shard 0: level; it never falls (feature.h) */
	CMD_NODE_SET = 16,     /* shard 0: a row of a node */
	CMD_RETAIN = 20,       /* enum retain_op */
};

struct cmd_send {
	uint64_t to;           /* part 0: recipient; part 1: the sender */
	uint64_t from;
	uint32_t device;
	uint8_t part;          /* 0 recipient's record, 1 sender's own copy */
	uint8_t cls;           /* protocol.md 9; 0 void */
	uint32_t flags, ttl;
	uint64_t seq, after, seen;
	uint8_t mid[16];
	uint64_t origin_offset, origin_lamport; /* part 1 */
	uint32_t origin_shard;
	const uint8_t *headers, *body;
	uint32_t headers_len, body_len;
};

/* What may go (retain.c proposes the first five; operators the others). */
enum retain_op {
	RETAIN_TRIM = 1,     /* base, end, epoch: nothing before `end` is kept */
	RETAIN_DEAD = 2,     /* base, end, epoch, gen, block, bits */
	RETAIN_WANT = 3,     /* base, end, epoch, gen: rewrite with those bits */
	RETAIN_ROLL = 4,     /* seal the open segment */
	RETAIN_RECEIPTS = 5, /* end, receipts: acks of records that will go */
	RETAIN_POLICY = 6,   /* ttl_ms: of records without their own */
	RETAIN_HOLD = 7,     /* account, on */
	RETAIN_ERASE = 8,    /* account */
};

struct cmd_retain {
	enum retain_op op;
	uint64_t base, end;    /* a segment of the proposer: records [base, end) */
	uint64_t epoch;        /* of the policy under which it was judged */
	uint32_t gen, block;
	const uint8_t *bytes;  /* DEAD: bits; RECEIPTS: retain_receipt_put() */
	uint32_t bytes_len;
	uint64_t ttl_ms;
	bool on;
	const uint8_t *raw;    /* when decoded: its own bytes */
	uint32_t raw_len;
};
#define RETAIN_BITS_MAX 8192u          /* bytes of DEAD: 65,536 records */
#define RETAIN_RECEIPTS_MAX (48u << 10) /* bytes of RECEIPTS */
#define RETAIN_TTL_MIN_MS 1000u

/* The ack of one send. */
struct retain_receipt {
	uint64_t from, id, offset, lamport, stamp, time_ms, n; /* id: seq << 1 | part */
	uint32_t device;
	uint8_t mid[16];
};
struct cursor;
void retain_receipt_put(struct buf *out, const struct retain_receipt *r);
int retain_receipt_get(struct retain_receipt *r, struct cursor *c);

/* A compare-and-set: two operators do not undo each other. */
struct cmd_node {
	enum node_op op;
	uint64_t expect;       /* the row's version; 0: there is none */
	uint8_t id, successor; /* 1..63; 0..63 */
	enum place_state state;
	const uint8_t *disk_id; /* 16 bytes */
	const char *address, *rack; /* not terminated when decoded */
	uint32_t address_len, rack_len;
};

struct cmd {
	enum cmd_type type;
	uint64_t account;
	uint32_t device;
	uint64_t cursor;
	uint32_t shards;       /* META_INIT */
	uint32_t level;        /* FEATURE; META_INIT: 0 as before there were any */
	struct cmd_send send;
	struct cmd_retain retain;
	struct cmd_node node;
};

/* The command that makes row `m` of one with m->version; both borrow from `m`. */
struct cmd cmd_node_of(enum node_op op, const struct member *m);
void cmd_encode(struct buf *out, const struct cmd *c);
int cmd_decode(struct cmd *c, const uint8_t *p, size_t n, struct err *e);

/* Result of any command or query; fields beyond `status` by kind. */
struct result {
	int status;            /* enum status */
	bool dup;              /* SEND: the first one's ack */
	uint64_t lamport, stamp, offset, time_ms, n; /* SEND */
	uint32_t shard;
	uint32_t device;       /* DEVICE_ADD */
	/* QUERY_ACCOUNT, and what a subscription starts with */
	uint64_t inbox_end, inbox_oldest; /* last number; oldest kept, 1 if all */
	uint64_t cursor;       /* the device's, as the shard keeps it */
	uint32_t epoch;        /* device epoch */
	uint32_t devices;      /* bit i: device i+1 exists */
	uint32_t n_devices;
	/* QUERY_PAGE: records follow, encoded by record_put_wire(), n_records */
	uint32_t n_records;
	bool complete;         /* reached the end of the inbox */
	uint64_t next;         /* first number after this page */
	const uint8_t *records;
	size_t records_len;
};
void result_encode(struct buf *out, const struct result *r);
int result_decode(struct result *r, const uint8_t *p, size_t n, struct err *e);

enum query_type {
	QUERY_ACCOUNT = 1,
	QUERY_PAGE = 2,
	QUERY_NODES = 3, /* shard 0: n_records of member_put(); n: the table's epoch,
			    stamp: its founders, bits by id */
	/* Of the shard itself, account 0: n: applied index, lamport: its clock,
	 * offset: records. */
	QUERY_MARK = 4,
};
struct query {
	enum query_type type;
	uint64_t account;
	uint32_t device;       /* 0: none asked for */
	uint64_t from;         /* PAGE: first number wanted; with back: before */
	bool back;             /* newest first */
	uint32_t limit;        /* <= 500 */
	uint32_t max_bytes;    /* payload bytes, <= 200 KiB */
};
#define QUERY_LIMIT_MAX 500
#define QUERY_BYTES_MAX (200u << 10)
void query_encode(struct buf *out, const struct query *q);
int query_decode(struct query *q, const uint8_t *p, size_t n, struct err *e);

/* Records as they travel on links and in results. */
void record_put_wire(struct buf *out, const struct record *r);
struct cursor;
int record_get_wire(struct record *r, struct cursor *c);

#endif
