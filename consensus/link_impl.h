/* Insides of a link that know no socket: frames and the queue. */
#ifndef QUIPU_CONSENSUS_LINK_IMPL_H
#define QUIPU_CONSENSUS_LINK_IMPL_H

#include "base/err.h"
#include "consensus/net.h"

#define LINK_VERSION 2
#define LINK_VERSION_OLD 1 /* still spoken with who knows no other */
#define LINK_FRAME_HEADER 4
/* The first frame of each side is a hello, or a refusal.  Who dialled then says
 * welcome, since version 2, or refuses. */
#define LINK_HELLO_MAX 256
#define LINK_HELLO_LEN_1 48
#define LINK_HELLO_LEN 80
#define LINK_REFUSAL_MAX 200 /* bytes of text */

/*   0  4  magic "QPLK"          48 16  since version 2: disk id
 *   4  2  version               64  8  founders, bits by node id; 0: joined
 *   6  2  flags; 1: joined      72  4  shards; 0: not known
 *   8 16  cluster id            76  4  zero
 *  24  8  from, node id
 *  32  8  to, node id
 *  40  8  boot nonce, another for each start
 * A welcome is "QPOK".  A refusal is "QPNO", or since version 2 "QPND" where it is
 * for the disk, and the reason as text. */
struct link_hello {
	uint16_t version;
	uint8_t cluster_id[16];
	uint64_t from, to, boot;
	uint8_t disk_id[16]; /* from here on: zero in version 1 */
	bool joined;
	uint64_t founders;
	uint32_t shards;
	bool disk_refused; /* out, with ERR_PERM: it was for the disk */
};

/* Append the whole frame. */
void link_hello_put(struct buf *out, const struct link_hello *h);
void link_refusal_put(struct buf *out, bool for_disk, const char *why);
void link_welcome_put(struct buf *out);
bool link_is_welcome(const uint8_t *p, size_t n);
/* The version that a refusal's text asks for; 0: it is for something else. */
unsigned link_refusal_version(const char *why);
/* ERR_PERM: a refusal, its (cleaned) text is the message; ERR_VERSION: only
 * h->version is set; ERR_PROTOCOL. */
int link_hello_get(struct link_hello *h, const uint8_t *p, size_t n,
		   struct err *e);

/* The next frame of n bytes: its message, borrowed, and how many bytes it took.
 * ERR_AGAIN: not all here yet; ERR_TOO_LARGE: longer than max. */
int link_frame_next(const uint8_t *p, size_t n, size_t max,
		    const uint8_t **msg, size_t *len, size_t *used);

/* What waits to be sent to a peer: framed messages, in pieces that lie where
 * they lie.  One batch fills while the other drains. */
struct link_piece {
	struct entry *entry; /* a reference; NULL: `len` of the batch's bytes */
	size_t len;
};

struct link_batch {
	struct buf bytes;
	struct link_piece *pieces;
	size_t n, cap;
	size_t at, at_off, at_byte; /* piece, inside it, its start in bytes */
};

struct link_queue {
	struct link_batch fill, drain;
	size_t queued; /* bytes not taken yet, at most NET_QUEUE_MAX */
};

/* ERR_TOO_LARGE, ERR_FULL */
int link_queue_put(struct link_queue *q, const void *head, size_t len,
		   struct entry *const *entries, unsigned n_entries);
/* A sign of life. */
void link_queue_put_empty(struct link_queue *q);
/* The next bytes to send, borrowed until taken; false: none. */
bool link_queue_peek(struct link_queue *q, const uint8_t **p, size_t *n);
void link_queue_take(struct link_queue *q, size_t n);
void link_queue_clear(struct link_queue *q);
void link_queue_release(struct link_queue *q);

#endif
