#include "consensus/link_impl.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "log/entry.h"

#include <stdlib.h>
#include <string.h>

#define KEEP_BYTES (256u << 10) /* of an empty batch; more is given back */

static void batch_add(struct link_batch *b, struct entry *entry, size_t len)
{
	/* Bytes that follow bytes are one piece: many small messages are then
	 * as cheap as one. */
	if (!entry && b->n && !b->pieces[b->n - 1].entry) {
		b->pieces[b->n - 1].len += len;
		return;
	}
	if (b->n == b->cap) {
		b->cap = b->cap ? 2 * b->cap : 16;
		b->pieces = xrealloc(b->pieces, b->cap * sizeof *b->pieces);
	}
	b->pieces[b->n].entry = entry;
	b->pieces[b->n].len = len;
	b->n++;
}

static void batch_clear(struct link_batch *b)
{
	for (; b->at < b->n; b->at++)
		entry_unref(b->pieces[b->at].entry);
	b->n = b->at = b->at_off = b->at_byte = 0;
	buf_clear(&b->bytes);
	if (b->bytes.cap > KEEP_BYTES)
		buf_release(&b->bytes);
}

int link_queue_put(struct link_queue *q, const void *head, size_t len,
		   struct entry *const *entries, unsigned n_entries)
{
	struct link_batch *b = &q->fill;
	size_t max = NET_QUEUE_MAX - (n_entries ? NET_QUEUE_RESERVE : 0);
	size_t total = len, framed;
	unsigned i;

	for (i = 0; i < n_entries; i++)
		total += entries[i]->len;
	AN(total > 0); /* an empty frame is a sign of life */
	if (len > NET_MESSAGE_MAX || total > NET_MESSAGE_MAX)
		return ERR_TOO_LARGE;
	framed = total + LINK_FRAME_HEADER;
	if (q->queued + framed > max)
		return ERR_FULL;
	buf_u32(&b->bytes, (uint32_t)total);
	buf_put(&b->bytes, head, len);
	batch_add(b, NULL, LINK_FRAME_HEADER + len);
	for (i = 0; i < n_entries; i++)
		batch_add(b, entry_ref(entries[i]), entries[i]->len);
	q->queued += framed;
	return 0;
}

void link_queue_put_empty(struct link_queue *q)
{
	buf_u32(&q->fill.bytes, 0);
	batch_add(&q->fill, NULL, LINK_FRAME_HEADER);
	q->queued += LINK_FRAME_HEADER;
}

bool link_queue_peek(struct link_queue *q, const uint8_t **p, size_t *n)
{
	struct link_batch *b = &q->drain;
	struct link_piece *piece;

	if (b->at == b->n) {
		struct link_batch full = q->fill;

		if (full.n == 0)
			return false;
		batch_clear(b);
		q->fill = *b;
		*b = full;
	}
	piece = &b->pieces[b->at];
	*p = (piece->entry ? entry_payload(piece->entry) :
			     b->bytes.data + b->at_byte) + b->at_off;
	*n = piece->len - b->at_off;
	return true;
}

void link_queue_take(struct link_queue *q, size_t n)
{
	struct link_batch *b = &q->drain;
	struct link_piece *piece = &b->pieces[b->at];

	AN(b->at < b->n && n <= piece->len - b->at_off);
	q->queued -= n;
	b->at_off += n;
	if (b->at_off < piece->len)
		return;
	if (!piece->entry)
		b->at_byte += piece->len;
	entry_unref(piece->entry);
	b->at_off = 0;
	if (++b->at == b->n)
		batch_clear(b);
}

void link_queue_clear(struct link_queue *q)
{
	batch_clear(&q->fill);
	batch_clear(&q->drain);
	q->queued = 0;
}

void link_queue_release(struct link_queue *q)
{
	link_queue_clear(q);
	buf_release(&q->fill.bytes);
	buf_release(&q->drain.bytes);
	free(q->fill.pieces);
	free(q->drain.pieces);
	memset(q, 0, sizeof *q);
}
