/* Frames of the client protocol, quipu.v1.cbor and quipu.v1.json, from one table
 * (base/wire.tbl; docs/protocol.md).  CBOR is the deterministic subset of RFC 8949
 * 4.2 with integer keys: no tags, floats, open lengths, double keys; depth <= 8.
 * JSON is RFC 8259 with the table's names: ids as 16 hex digits, bytes as base64url
 * without padding, double keys refused.
 *
 * A frame in memory is an array of values by field number.  Composite values are
 * always kept as CBOR, whatever the message's format; the iterators and makers
 * below read and write them, so a caller never sees the difference. */
#ifndef QUIPU_BASE_WIRE_H
#define QUIPU_BASE_WIRE_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define WIRE_U_MAX ((1ull << 53) - 1)
#define WIRE_DEPTH_MAX 8
#define WIRE_KEY_BYTES_MAX 2048
#define WIRE_SUBPROTOCOL_CBOR "quipu.v1.cbor"
#define WIRE_SUBPROTOCOL_JSON "quipu.v1.json"

enum wire_format { WIRE_CBOR, WIRE_JSON };
enum wire_side { WIRE_CLIENT = 1, WIRE_SERVER = 2, WIRE_BOTH = 3 };

/* W_TOKEN = 2 ... */
enum wire_field {
#define FIELD(key, NAME, name, type, max) W_##NAME = key,
#include "base/wire.tbl"
	WIRE_FIELDS = 52
};
/* WIRE_HELLO = 1 ... */
enum wire_frame {
#define FRAME(num, NAME, name, side, needed, optional) WIRE_##NAME = num,
#include "base/wire.tbl"
	WIRE_FRAMES = 21
};

struct wire_bytes {
	const uint8_t *p;
	uint32_t n;
};

struct wire {
	uint64_t has;                    /* bit per field */
	uint64_t u[WIRE_FIELDS];         /* U, T, ID */
	struct wire_bytes b[WIRE_FIELDS]; /* S, B; composites as CBOR */
};

static inline void wire_start(struct wire *w, enum wire_frame t)
{
	w->has = 1;
	w->u[W_T] = t;
}
static inline bool wire_has(const struct wire *w, enum wire_field k)
{
	return w->has >> k & 1;
}
/* Its value, 0 when absent. */
static inline uint64_t wire_u(const struct wire *w, enum wire_field k)
{
	return wire_has(w, k) ? w->u[k] : 0;
}
static inline void wire_set(struct wire *w, enum wire_field k, uint64_t v)
{
	w->has |= 1ull << k;
	w->u[k] = v;
}
/* Borrowed until the frame was encoded. */
static inline void wire_put(struct wire *w, enum wire_field k, const void *p,
			    size_t n)
{
	w->has |= 1ull << k;
	w->b[k].p = (const uint8_t *)p;
	w->b[k].n = (uint32_t)n;
}
void wire_puts(struct wire *w, enum wire_field k, const char *s);

/* Append one message to `out`. Fields must be in range (asserted in the manner of
 * our own bugs). */
void wire_encode(const struct wire *w, enum wire_format f, struct buf *out);

/* One whole message that `from` sent.  Borrows from the input, and for JSON from
 * `scratch` (cleared first; may be NULL for CBOR).  Unknown fields are skipped.
 * Errors: ERR_FORMAT, with the field or place in e->msg: not well formed, wrong
 * type, out of range, missing field; ERR_NOT_FOUND: a frame number that `from`
 * does not send (`w` has its t and, if there, id). */
int wire_decode(struct wire *w, enum wire_format f, enum wire_side from,
		const void *p, size_t n, struct buf *scratch, struct err *e);

const char *wire_frame_name(unsigned t);  /* "hello"; NULL: unknown */
const char *wire_field_name(unsigned k);
/* Bytes that a deliver frame with so many bytes of body and of key has at most, in
 * either format. */
size_t wire_deliver_max(size_t body, size_t keys);

/* ---- composites ----------------------------------------------------------------- */

struct wire_key {
	uint32_t device;
	uint8_t kind;            /* 1 key exchange, 2 ratchet message */
	struct wire_bytes bytes; /* <= WIRE_KEY_BYTES_MAX */
};
struct wire_iter {
	const uint8_t *p, *end;
	uint32_t left;
};
/* Over KEYS, KEY (one), IDS, ITEMS, WORDS of a decoded frame. */
void wire_iter_init(struct wire_iter *it, const struct wire *w,
		    enum wire_field k);
bool wire_iter_key(struct wire_iter *it, struct wire_key *key);
bool wire_iter_id(struct wire_iter *it, uint64_t *id);
bool wire_iter_word(struct wire_iter *it, struct wire_bytes *word);
/* Items are deliver frames without t (w->u[W_T] is set all the same). */
bool wire_iter_item(struct wire_iter *it, struct wire *item);

/* Makers: append one CBOR value to `b`, to be given to wire_put(). */
void wire_make_array(struct buf *b, uint32_t n); /* then n values: */
void wire_make_key(struct buf *b, const struct wire_key *key);
void wire_make_id(struct buf *b, uint64_t id);
void wire_make_word(struct buf *b, const char *s);
void wire_make_item(struct buf *b, const struct wire *deliver);
struct wire_limit {
	const char *name;
	uint64_t value;
};
void wire_make_limits(struct buf *b, const struct wire_limit *l, unsigned n);

/* RFC 9457's members; `type` is the bare NAME here and /problems/NAME on the wire.
 * `outcome`, `instance`, `detail` may be NULL. */
struct wire_problem {
	const char *type, *title, *detail, *instance, *outcome;
	unsigned status;
};
void wire_make_problem(struct buf *b, const struct wire_problem *p);
/* Name without the prefix, copied with its zero, cut to size; "internal" when it
 * has none.  `status` may be NULL. */
void wire_problem_name(const struct wire *w, char *name, size_t size,
		       unsigned *status);
/* An extra text member ("outcome", "detail"); empty when absent. */
struct wire_bytes wire_problem_member(const struct wire *w, const char *name);

#endif
