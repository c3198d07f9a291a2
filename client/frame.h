/* Frames of the client protocol in CBOR, as a device writes and reads them
 * (protocol.md 1, 3, 4): deterministic encoding, integer keys, no tags, floats,
 * open lengths or double keys.  A frame is an array of values by field number,
 * so unknown fields cost nothing and are ignored.
 *
 * Decoding borrows from its input. */
#ifndef QUIPU_CLIENT_FRAME_H
#define QUIPU_CLIENT_FRAME_H

#include "base/buf.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum frame_type {
	FRAME_HELLO = 1, FRAME_WELCOME, FRAME_AUTH, FRAME_OK, FRAME_SEND,
	FRAME_ACK, FRAME_DELIVER, FRAME_RECV, FRAME_SYNC, FRAME_PAGE,
	FRAME_CAUGHT_UP, FRAME_SIGNAL, FRAME_WATCH, FRAME_PRESENCE,
	FRAME_CREDIT, FRAME_NOTICE, FRAME_PING, FRAME_PONG, FRAME_ERROR,
	FRAME_GOODBYE
};

/* Field numbers. */
enum frame_field {
	F_T = 0, F_ID = 1, F_TOKEN = 2, F_AGENT = 3, F_EPOCH = 4, F_CURSOR = 5,
	F_WINDOW = 6, F_SEQ = 7, F_AFTER = 8, F_TO = 9, F_MID = 10, F_SEEN = 11,
	F_CLASS = 12, F_LIST = 13, F_GEPOCH = 14, F_BODY = 15, F_TTL = 19,
	F_N = 20, F_FROM = 21, F_DEV = 22, F_LAMPORT = 23, F_STAMP = 24,
	F_TIME = 25, F_SHARD = 26, F_OFFSET = 27, F_DUP = 28, F_FLAGS = 30,
	F_ITEMS = 31, F_NEXT = 32, F_COMPLETE = 33, F_TRUNCATED = 34,
	F_KIND = 35, F_PROBLEM = 39, F_CODE = 40, F_RETRY_MS = 41,
	F_HEARTBEAT = 43, F_SESSION = 44, F_RESUMED = 46, F_REASON = 47,
	F_BEFORE = 49, F_LIMIT = 50, F_GROUP = 51,
	F_COUNT = 52
};

#define FRAME_DEPTH_MAX 8
#define FRAME_ITEMS_MAX 500

struct frame_bytes {
	const uint8_t *p;
	uint32_t n;
};

/* u: numbers and truth values.  b: bytes and text; of `items` and `problem` the
 * whole encoded value. */
struct frame {
	uint64_t has; /* bit per field */
	uint64_t u[F_COUNT];
	struct frame_bytes b[F_COUNT];
};

static inline void frame_start(struct frame *f, enum frame_type t)
{
	f->has = 1u << F_T;
	f->u[F_T] = t;
}
static inline bool frame_has(const struct frame *f, unsigned k)
{
	return f->has >> k & 1;
}
static inline uint64_t frame_u(const struct frame *f, unsigned k)
{
	return f->has >> k & 1 ? f->u[k] : 0;
}
static inline void frame_set(struct frame *f, unsigned k, uint64_t v)
{
	f->has |= 1ull << k;
	f->u[k] = v;
}
static inline void frame_bytes(struct frame *f, unsigned k, const void *p,
			       size_t n)
{
	f->has |= 1ull << k;
	f->b[k].p = p;
	f->b[k].n = (uint32_t)n;
}

/* Only the fields that a device sends. */
void frame_encode(const struct frame *f, struct buf *out);
/* One whole message; false: not a frame.  f->has is set from scratch. */
bool frame_decode(struct frame *f, const void *p, size_t n);
/* Walk the items of a page: start with *at = 0; false at the end or at damage
 * (then *at is SIZE_MAX). */
bool frame_item(const struct frame *page, size_t *at, struct frame *item);
/* Name of an error frame's problem ("unknown-recipient"), copied with its zero;
 * "internal" when it has none.  *status: its HTTP status, 0 if absent. */
void frame_problem(const struct frame *f, char *name, size_t size,
		   unsigned *status);

#endif
