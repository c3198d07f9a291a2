/* RFC 6455 framing for both sides, sans-I/O.  Bytes in, messages out; fragments
 * are joined up to a cap, control frames answered by the caller.  A reader of an
 * idle connection owns no memory.
 *
 * Refused with the close code of section 7.4.1: reserved bits and opcodes, wrong
 * masking for the side, control frames that are fragmented or over 125 bytes,
 * lengths not in their shortest form (1002); text that is not UTF-8 (1007);
 * messages over the cap, before they are buffered (1009). */
#ifndef QUIPU_BASE_WSFRAME_H
#define QUIPU_BASE_WSFRAME_H

#include "base/buf.h"
#include "base/utf8.h"

#include <stdbool.h>

enum ws_op {
	WS_CONT = 0, WS_TEXT = 1, WS_BINARY = 2, WS_CLOSE = 8, WS_PING = 9,
	WS_PONG = 10
};
#define WS_HEADER_MAX 14
#define WS_CONTROL_MAX 125

struct ws_reader {
	bool masked;         /* frames must be masked: we are the server */
	uint32_t message_max;
	struct buf part;     /* an unfinished frame's bytes, or nothing */
	struct buf message;  /* fragments so far */
	struct utf8 utf8;
	uint8_t op;          /* of the fragmented message; 0: none open */
	bool closed;         /* a close frame was seen: nothing follows */
};

struct ws_message {
	enum ws_op op;       /* TEXT, BINARY, CLOSE, PING, PONG */
	const uint8_t *p;    /* unmasked; valid until the next call; CLOSE: reason */
	size_t n;
	unsigned code;       /* CLOSE: its code, 1005 when it has none */
};

void ws_reader_init(struct ws_reader *r, bool server, uint32_t message_max);
void ws_reader_release(struct ws_reader *r);
/* Take from *p, *n (advanced; the bytes are unmasked in place where possible).
 *   1   a message in *m; call again
 *   0   more bytes are wanted, all of *n was taken (and after a close frame)
 *  -1   a protocol error: close with *code and *why */
int ws_read(struct ws_reader *r, uint8_t **p, size_t *n, struct ws_message *m,
	    unsigned *code, const char **why);

/* Server frames (not masked) around a payload written straight into `out`:
 * at = ws_begin(out); append; ws_end(out, at, op).  Room for a 4-byte header is
 * left; payloads that need another size are moved by ws_end. */
size_t ws_begin(struct buf *out);
void ws_end(struct buf *out, size_t at, enum ws_op op);
/* One whole frame; mask NULL for the server, 4 random bytes for the client. */
void ws_frame(struct buf *out, enum ws_op op, const void *p, size_t n,
	      const uint8_t mask[4]);
void ws_close_frame(struct buf *out, unsigned code, const char *reason,
		    const uint8_t mask[4]);
/* Sec-WebSocket-Accept for a key (section 4.2.2); 28 characters and a zero. */
void ws_accept(const char *key, size_t n, char out[29]);

#endif
