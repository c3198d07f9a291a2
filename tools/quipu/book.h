/* All messages of a device, read back from its file: what `list`, `history` and
 * `chat` show, and where `send --id` looks whether it has sent before. */
#ifndef QUIPU_TOOLS_QUIPU_BOOK_H
#define QUIPU_TOOLS_QUIPU_BOOK_H

#include "base/buf.h"
#include "tools/lib/content.h"
#include "tools/quipu/app.h"

enum msg_state { MSG_OPEN, MSG_ACKED, MSG_REFUSED };

struct msg {
	uint64_t peer, lamport, seq, n, time_ms;
	uint32_t device;
	uint8_t mid[16];
	uint8_t cls;
	bool mine, delivered, read; /* the last two: told by the peer */
	enum msg_state state;
	uint32_t len;
	uint8_t *body;              /* len bytes and a zero */
	char problem[STORE_PROBLEM_MAX];
};

struct book {
	struct msg **msg; /* owned; in the order of the file until sorted */
	size_t n, cap;
	struct map by_mid; /* first 8 bytes of the id -> struct msg_link */
	struct map told;   /* first 8 bytes of ids that we told to be read */
};

void book_init(struct book *b);
void book_release(struct book *b);
/* Read the file, if there is one. */
int book_load(struct book *b, const struct profile *p, struct err *e);
void book_add(struct book *b, const struct store_op *op);
/* The user's own message with this id; NULL. */
struct msg *book_own(const struct book *b, const uint8_t mid[16]);
/* Was the author told that we have read it? */
bool book_told(const struct book *b, const uint8_t mid[16]);
/* (lamport, account, device); unacked last (protocol.md 8). */
void book_sort(struct book *b, uint64_t self);
/* "", "✓" acked, "✓✓" delivered, "✓✓ read", "✗" refused, "…" on its way. */
const char *msg_ticks(const struct msg *m);

#endif
