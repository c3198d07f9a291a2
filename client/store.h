/* What a device keeps, as a vtable: its sends that are not settled, its place in
 * the inbox, its counters and what it received.  Twins: store_file (one
 * append-only log with checksums) and store_mem (simulator, tests, bench).
 *
 * Calls are buffered; sync() makes all earlier ones durable, in order: after a
 * crash a prefix of them is there.  The engine sends nothing and acknowledges
 * nothing that sync() has not covered. */
#ifndef QUIPU_CLIENT_STORE_H
#define QUIPU_CLIENT_STORE_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define CLIENT_BODY_MAX (60u << 10)

/* One send, from its composition until it is settled. */
struct client_entry {
	uint64_t seq, after, to, seen;
	uint64_t composed_ms;   /* Unix time, for display */
	uint8_t mid[16];
	uint8_t cls;            /* 0: turned into a void */
	uint8_t void_of;        /* its class before that */
	uint32_t ttl, flags;
	const uint8_t *body;
	uint32_t body_len;
};

enum client_outcome {
	CLIENT_ACKED = 1,  /* durable, in its place */
	CLIENT_REFUSED,    /* no record, and none will come */
};

/* How a send ended. */
struct client_settled {
	uint64_t seq, to;
	uint8_t mid[16];
	enum client_outcome outcome;
	bool dup;
	uint64_t lamport, stamp, offset, time_ms;
	uint32_t shard;
	const char *problem;    /* REFUSED: its name; borrowed */
};

/* A record of the inbox. */
struct client_record {
	uint64_t n, from, seq, lamport, stamp, time_ms, group;
	uint32_t device, flags, ttl;
	uint8_t mid[16];
	uint8_t cls;
	const uint8_t *body;
	uint32_t body_len;
};

struct client_meta {
	uint64_t cursor;        /* all records <= cursor are stored */
	uint64_t lamport;       /* the device's clock */
	uint64_t seq;           /* highest number given to a send */
	uint32_t epoch;         /* history epoch the cursor belongs to */
	bool known;             /* a cursor exists: welcomed at least once */
};

struct client_store;

struct client_store_ops {
	/* What is there: meta, then the unsettled entries in order of seq. */
	int (*load)(struct client_store *s, struct client_meta *m,
		    void (*entry)(void *arg, const struct client_entry *e),
		    void *arg, struct err *e);
	/* Keep an entry; a second put of the same seq replaces it.  Moves the
	 * kept meta.seq up to entry->seq. */
	int (*put)(struct client_store *s, const struct client_entry *entry,
		   struct err *e);
	/* The entry leaves the open set. */
	int (*settle)(struct client_store *s, const struct client_settled *d,
		      struct err *e);
	/* A received record; moves the kept meta.cursor to record->n.  It and
	 * settle() move the kept clock above the Lamport numbers they carry. */
	int (*record)(struct client_store *s, const struct client_record *r,
		      struct err *e);
	int (*meta)(struct client_store *s, const struct client_meta *m,
		    struct err *e);
	int (*sync)(struct client_store *s, struct err *e);
};

struct client_store {
	const struct client_store_ops *ops;
};

#endif
