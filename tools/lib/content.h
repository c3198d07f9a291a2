/* What stands in a message's body until end-to-end encryption fills it: texts and
 * receipts in the clear (protocol.md 9).
 *
 *   class 1   the text, UTF-8
 *   class 2   u8 kind (1 delivered, 2 read), then 1..CONTENT_RECEIPT_MAX message
 *             ids of 16 bytes, sent by who received them to who wrote them */
#ifndef QUIPU_TOOLS_LIB_CONTENT_H
#define QUIPU_TOOLS_LIB_CONTENT_H

#include "base/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONTENT_RECEIPT_MAX 256
#define CONTENT_RECEIPT_TTL_S (7 * 86400)

enum content_class { CONTENT_VOID = 0, CONTENT_TEXT = 1, CONTENT_RECEIPT = 2 };
enum receipt_kind { RECEIPT_DELIVERED = 1, RECEIPT_READ = 2 };

void content_receipt(struct buf *b, enum receipt_kind kind, const uint8_t *mids,
		     unsigned n);
/* *mids: n ids, borrowed. */
bool content_receipt_parse(const uint8_t *p, size_t n, enum receipt_kind *kind,
			   const uint8_t **mids, unsigned *count);
/* A stranger's text for a terminal: broken UTF-8 and control characters (but not
 * newlines, when `lines`) are shown as \xNN.  What follows a newline is moved in, or
 * a text could pretend to be several messages.  Appended with a zero that is not
 * counted. */
void content_printable(struct buf *b, const void *p, size_t n, bool lines);
/* Message id of what the user named: sending it twice sends it once. */
void content_mid(uint8_t mid[16], uint64_t from, uint64_t to, const char *name,
		 uint64_t line);

#endif
