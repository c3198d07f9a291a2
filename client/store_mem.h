/* A store in memory that forgets what was not synced when told to crash: the twin
 * of store_file for the simulator, tests and bench.  It keeps what a device needs
 * (meta, open sends), not the records; who wants those watches. */
#ifndef QUIPU_CLIENT_STORE_MEM_H
#define QUIPU_CLIENT_STORE_MEM_H

#include "client/store_state.h"

struct store_mem {
	struct client_store store; /* first */
	struct store_state state;  /* durable */
	struct buf pending;        /* u32 length, op: since the last sync */
	size_t n_pending;
	uint64_t syncs;
	int fail_sync;             /* an error code: the next sync fails with it */
	/* Called for each op when it becomes durable; may be NULL. */
	void (*durable)(void *arg, const struct store_op *op);
	void *arg;
};

void store_mem_init(struct store_mem *s);
void store_mem_release(struct store_mem *s);
/* Power is lost: of the ops that were not synced the first `survive` are there.
 * The engine that used the store must be freed before its next load. */
void store_mem_crash(struct store_mem *s, size_t survive);

#endif
