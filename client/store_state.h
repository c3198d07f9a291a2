/* What both stores share: the calls of client/store.h as bytes, and what they add
 * up to.  Little endian; a varint is LEB128, lv is a varint length and bytes.
 *
 *   kind u8, then
 *   1 PUT      seq after to seen composed_ms varint, mid 16, cls u8, void_of u8,
 *              ttl flags varint, body lv
 *   2 SETTLE   seq to varint, mid 16, outcome u8, dup u8, lamport stamp offset
 *              time_ms shard varint, problem lv (empty: none)
 *   3 RECORD   n from seq lamport stamp time_ms group device flags ttl varint,
 *              mid 16, cls u8, body lv
 *   4 META     cursor lamport seq epoch varint, known u8
 */
#ifndef QUIPU_CLIENT_STORE_STATE_H
#define QUIPU_CLIENT_STORE_STATE_H

#include "base/buf.h"
#include "base/list.h"
#include "base/map.h"
#include "client/store.h"

#include <stddef.h>

enum store_op_kind { STORE_PUT = 1, STORE_SETTLE, STORE_RECORD, STORE_META };

#define STORE_PROBLEM_MAX 32
#define STORE_OP_MAX (CLIENT_BODY_MAX + 256)

struct store_op {
	enum store_op_kind kind;
	union {
		struct client_entry put;
		struct client_settled settle;
		struct client_record record;
		struct client_meta meta;
	};
	char problem[STORE_PROBLEM_MAX]; /* what settle.problem points to */
	uint64_t at; /* of its record in a file */
};

void store_encode_put(struct buf *b, const struct client_entry *e);
void store_encode_settle(struct buf *b, const struct client_settled *d);
void store_encode_record(struct buf *b, const struct client_record *r);
void store_encode_meta(struct buf *b, const struct client_meta *m);
/* All n bytes are one op; borrows bodies.  ERR_FORMAT */
int store_decode(struct store_op *op, const void *p, size_t n, struct err *e);

/* The sum of ops: meta and the entries that are not settled. */
struct store_state {
	struct client_meta meta;
	struct map entries; /* seq -> struct store_entry */
	struct list order;  /* as they were first put */
};
void store_state_init(struct store_state *s);
void store_state_release(struct store_state *s);
void store_state_apply(struct store_state *s, const struct store_op *op);
/* The `load` of client/store.h. */
void store_state_load(const struct store_state *s, struct client_meta *m,
		      void (*entry)(void *arg, const struct client_entry *e),
		      void *arg);

#endif
