/* Receipts that are owed: gathered, and sent at most once a second for each person
 * (protocol.md 9). */
#ifndef QUIPU_TOOLS_QUIPU_RECEIPTS_H
#define QUIPU_TOOLS_QUIPU_RECEIPTS_H

#include "tools/lib/content.h"
#include "tools/quipu/app.h"

#define RECEIPTS_OWED_MAX 4096 /* more are not told: ticks are a courtesy */
#define RECEIPTS_EVERY_MS 1000

struct receipt {
	uint64_t to;
	uint8_t mid[16];
	enum receipt_kind kind;
};

struct receipts {
	struct app *app;
	uv_timer_t timer;
	struct receipt owed[RECEIPTS_OWED_MAX];
	unsigned n;
	bool waiting;
};

void receipts_open(struct receipts *r, struct app *a);
/* From an event of the engine. Only messages of contacts are told of. */
void receipts_owe(struct receipts *r, enum receipt_kind kind, uint64_t to,
		  const uint8_t mid[16]);

#endif
