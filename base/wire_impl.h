/* Shared by the codec's files: rows of base/wire.tbl and the two text forms. */
#ifndef QUIPU_BASE_WIRE_IMPL_H
#define QUIPU_BASE_WIRE_IMPL_H

#include "base/cbor.h"
#include "base/wire.h"

enum wire_type {
	WT_NONE, WT_U, WT_T, WT_ID, WT_S, WT_B, WT_B16, WT_IDS, WT_KEY, WT_KEYS,
	WT_ITEMS, WT_PROBLEM, WT_LIMITS, WT_WORDS
};
struct wire_field_row {
	const char *name;
	enum wire_type type;
	uint64_t max;
};
struct wire_frame_row {
	const char *name;
	enum wire_side side;
	uint64_t needed, optional; /* bits by field, without t */
};
extern const struct wire_field_row wire_fields[WIRE_FIELDS];
extern const struct wire_frame_row wire_frames[WIRE_FRAMES];

#define BIT(k) (1ull << (k))
#define GONE 16u /* flag: a record that left only its number */
#define WORD_MAX 64u

/* What a frame (or an item, which has no t) must have.  Of a gone record only its
 * number is known for sure. */
static inline uint64_t wire_needed(const struct wire *w)
{
	uint64_t needed = wire_frames[w->u[W_T]].needed;

	if (w->u[W_T] == WIRE_DELIVER && wire_u(w, W_FLAGS) & GONE)
		needed = BIT(W_N) | BIT(W_FLAGS);
	return needed;
}

/* Append the map of w's fields; `t` tells whether t is one of them. */
void wire_fields_put(const struct wire *w, struct buf *out, bool t);
/* One deliver frame without t. */
void wire_item_get(struct wire *w, struct cursor *c, struct err *e);

/* A message as JSON (wire_json_out.c), and JSON as the CBOR of the same message
 * (wire_json.c). */
void wire_json_put(const struct wire *w, struct buf *out);
int wire_json_to_cbor(const void *p, size_t n, struct buf *out, struct err *e);

#endif
