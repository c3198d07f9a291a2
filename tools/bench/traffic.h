/* Messages to be sent: a corpus of real ones, or made up in its shape. */
#ifndef QUIPU_TOOLS_BENCH_TRAFFIC_H
#define QUIPU_TOOLS_BENCH_TRAFFIC_H

#include "base/buf.h"
#include "base/err.h"

struct text {
	uint32_t from, to;   /* users */
	uint32_t at, len;    /* in `bytes` */
	uint32_t rank;       /* 1, 2 ... of its sender: its client_seq */
	uint32_t after;      /* rank of the sender's previous one to `to`, or 0 */
	uint32_t prev;       /* index + 1 of that one */
	uint32_t next;       /* index + 1 of the sender's next one, or 0 */
};

struct traffic {
	struct text *texts;
	uint32_t n, n_users, n_senders, n_recipients;
	uint32_t *first;     /* by user: index + 1 of its first message, or 0 */
	uint32_t *expected;  /* by user: how many it gets */
	struct buf bytes;
};

/* A gzipped (or plain) file of lines id, from, to, time, text, with tabs between
 * and \\ \t \n \r for those characters in the text, after a line of names. */
int traffic_load(struct traffic *t, const char *path, uint32_t max,
		 struct err *e);
/* n messages of 343 senders to up to 2,699 recipients, sized and skewed like the
 * NUS corpus; the same seed makes the same ones. */
void traffic_make(struct traffic *t, uint32_t n, uint64_t seed);
void traffic_release(struct traffic *t);

#endif
