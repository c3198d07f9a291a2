/* A record of the log as a device sees it: the deliver frame, and the headers that
 * a send leaves in its record for it.
 *
 * Headers of a record, opaque to the log: nothing, or
 *   list varint (the device list it was encrypted for), count u8, then per key
 *   device varint, kind u8, bytes lv
 * Each device is given its own key and none of the others'. */
#ifndef QUIPU_GATEWAY_DELIVER_H
#define QUIPU_GATEWAY_DELIVER_H

#include "base/wire.h"
#include "log/record.h"

enum deliver_flag {
	DELIVER_OWN = 1,      /* own copy */
	DELIVER_REQUEST = 2,  /* message request */
	DELIVER_URGENT = 4,
	DELIVER_NO_KEY = 8,   /* for this device */
	DELIVER_GONE = 16,    /* kind says why */
	DELIVER_POINTER = 32,
};

/* Append the headers of a send: `keys` is W_KEYS or W_OWN, `list` the epoch that
 * goes with it.  Returns the bytes added; more than RECORD_HEADERS_MAX must be
 * refused. */
size_t deliver_headers(struct buf *out, const struct wire *send,
		       enum wire_field keys, enum wire_field list);

/* A deliver frame, borrowing from the record and, where it has a key, from `keys`
 * (cleared first). */
void deliver_fill(struct wire *w, const struct record *r, uint32_t device,
		  uint64_t wall_ms, struct buf *keys);

#endif
