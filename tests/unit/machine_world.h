/* One shard's state machine over the real store on the simulated disk: commands in,
 * results and rows out. */
#ifndef QUIPU_TESTS_UNIT_MACHINE_WORLD_H
#define QUIPU_TESTS_UNIT_MACHINE_WORLD_H

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/cursor.h"
#include "consensus/group.h"
#include "consensus/machine.h"
#include "tests/lib/disk_sim.h"
#include "tests/lib/kv_mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { ALICE = 11, BOB = 22, NOBODY = 99, ENTRIES_MAX = 512 };

static struct world {
	struct sim sim;
	struct disk_sim *ds;
	struct store_config cfg;
	struct machine m;
	struct entry *entry[ENTRIES_MAX]; /* by index, from 1 */
	uint64_t last, time_ms;
	struct buf batch; /* commands */
	unsigned n_batch;
	bool checkpoint;
} *w;

static struct record recs[BATCH_RECORDS_MAX];
static struct result results[BATCH_RECORDS_MAX];

/* ---- a shard ------------------------------------------------------------------ */

static inline void settle(void)
{
	int owner;

	while (sim_step(&w->sim, &owner))
		;
}

static inline void start(void)
{
	struct err e;

	assert_int_equal(store_open(&w->m.store, disk_sim_start(w->ds), &kv_mem, NULL,
				    &w->cfg, &e),
			 0);
	w->m.shard = w->cfg.shard;
	w->m.recs = recs;
	w->m.results = results;
}

static inline struct world *world_new(uint32_t shard)
{
	w = xcalloc(1, sizeof *w);
	sim_init(&w->sim, 1);
	w->ds = disk_sim_new(&w->sim, 0, 1, &disk_sim_fast);
	w->cfg = (struct store_config){ .shard = shard,
					.segment_bytes = 64u << 10,
					.dirty_max_bytes = 64u << 20,
					.tail_cache_bytes = 16u << 10,
					.row_cache_max = 2 };
	w->time_ms = 1000;
	start();
	return w;
}

static inline void world_free(struct world *x)
{
	w = x;
	settle();
	disk_sim_kill(w->ds);
	store_close(w->m.store);
	settle();
	disk_sim_free(w->ds);
	sim_release(&w->sim);
	while (w->last)
		entry_unref(w->entry[w->last--]);
	buf_release(&w->batch);
	free(w);
	w = NULL;
}

static inline int setup(void **state)
{
	(void)state;
	world_new(7);
	return 0;
}

static inline int teardown(void **state)
{
	(void)state;
	world_free(w);
	return 0;
}

static inline void add_bytes(const void *p, size_t n)
{
	memset(buf_extend(&w->batch, 16), (int)(w->n_batch + 1), 16); /* nonce */
	buf_lv(&w->batch, p, n);
	w->n_batch++;
}

/* One more command for the batch that is being made. */
static inline void add(const struct cmd *c)
{
	struct buf b = BUF_INIT;

	cmd_encode(&b, c);
	add_bytes(b.data, b.len);
	buf_release(&b);
}

static inline int apply_bytes(const struct buf *b, unsigned *n, struct err *e)
{
	struct entry *x = entry_new(w->cfg.shard, (uint32_t)b->len);

	memcpy(entry_payload(x), b->data, b->len);
	x->term = 1;
	x->index = ++w->last;
	assert_true(w->last < ENTRIES_MAX);
	w->entry[w->last] = x;
	return machine_apply(&w->m, x, n, e);
}

/* Apply what was added; results[] has the outcomes. */
static inline void batch(void)
{
	struct buf b = BUF_INIT;
	struct err e = { 0 };
	unsigned n;

	buf_u8(&b, GROUP_COMMAND);
	buf_u64(&b, w->time_ms);
	buf_varint(&b, w->n_batch);
	buf_put(&b, w->batch.data, w->batch.len);
	if (apply_bytes(&b, &n, &e))
		fail_msg("%s", e.msg);
	assert_int_equal(n, w->n_batch);
	buf_clear(&w->batch);
	w->n_batch = 0;
	buf_release(&b);
}

static inline struct result one(struct cmd c)
{
	add(&c);
	batch();
	return results[0];
}

static inline uint64_t n_records(void)
{
	return store_meta(w->m.store)->next_offset;
}

static inline uint64_t shard_clock(void)
{
	return store_meta(w->m.store)->clock;
}

/* ---- commands ------------------------------------------------------------------ */

static inline struct cmd account_add(uint64_t account)
{
	return (struct cmd){ .type = CMD_ACCOUNT_ADD, .account = account };
}

static inline struct cmd device_add(uint64_t account)
{
	return (struct cmd){ .type = CMD_DEVICE_ADD, .account = account };
}

static inline struct cmd device_remove(uint64_t account, uint32_t device)
{
	return (struct cmd){ .type = CMD_DEVICE_REMOVE, .account = account,
			     .device = device };
}

static inline struct cmd cursor_to(uint64_t account, uint32_t device, uint64_t n)
{
	return (struct cmd){ .type = CMD_CURSOR, .account = account, .device = device,
			     .cursor = n };
}

/* From ALICE's first device to BOB; the mid follows from the number. */
static inline struct cmd send_after(uint64_t seq, uint64_t after)
{
	struct cmd c = { .type = CMD_SEND };

	c.send = (struct cmd_send){ .to = BOB, .from = ALICE, .device = 1, .cls = 1,
				    .seq = seq, .after = after, .ttl = 60,
				    .body = (const uint8_t *)"body", .body_len = 4 };
	memset(c.send.mid, 0x40, 16);
	put_u64(c.send.mid, seq);
	return c;
}

static inline struct cmd send_seq(uint64_t seq)
{
	return send_after(seq, seq - 1);
}

static inline struct cmd own_copy(uint64_t seq, uint64_t origin_lamport)
{
	struct cmd c = send_after(seq, 0);

	c.send.part = 1;
	c.send.to = ALICE;
	c.send.origin_shard = 3;
	c.send.origin_offset = 500;
	c.send.origin_lamport = origin_lamport;
	return c;
}

static inline void people(void)
{
	assert_int_equal(one(account_add(ALICE)).status, ST_OK);
	assert_int_equal(one(device_add(ALICE)).status, ST_OK);
	assert_int_equal(one(account_add(BOB)).status, ST_OK);
	assert_int_equal(one(device_add(BOB)).status, ST_OK);
}

static inline struct result account_of(uint64_t account, uint32_t device)
{
	struct query q = { .type = QUERY_ACCOUNT, .account = account, .device = device };
	struct buf none = BUF_INIT;
	struct result r;
	struct err e;

	assert_int_equal(machine_query(&w->m, &q, &r, &none, &e), 0);
	buf_release(&none);
	return r;
}

static inline bool copy_record(void *arg, const struct record *r)
{
	*(struct record *)arg = *r; /* what it borrows is not looked at */
	return false;
}

static inline struct record record_at(uint64_t offset)
{
	struct record r = { 0 };
	struct err e;

	assert_int_equal(store_read(w->m.store, offset, 1, copy_record, &r, &e), 0);
	assert_int_equal(r.offset, offset);
	return r;
}

static inline void same_ack(const struct result *again, const struct result *first)
{
	assert_int_equal(again->status, ST_OK);
	assert_true(again->dup);
	assert_int_equal(again->offset, first->offset);
	assert_int_equal(again->lamport, first->lamport);
	assert_int_equal(again->stamp, first->stamp);
	assert_int_equal(again->time_ms, first->time_ms);
	assert_int_equal(again->n, first->n);
}

static inline void on_checkpoint(void *arg, int status, uint64_t index, uint64_t term,
			  const struct err *e)
{
	(void)arg;
	(void)index;
	(void)term;
	(void)e;
	assert_int_equal(status, 0);
	w->checkpoint = false;
}

static inline void checkpoint(void)
{
	w->checkpoint = true;
	assert_int_equal(store_checkpoint(w->m.store, on_checkpoint, NULL), 0);
	settle();
	assert_false(w->checkpoint);
}

/* The process dies, or the power goes; the journal has every entry. */
static inline void restart(bool power)
{
	uint64_t i;
	unsigned n;

	if (power)
		disk_sim_crash(w->ds);
	else
		disk_sim_kill(w->ds);
	store_close(w->m.store);
	settle();
	start();
	for (i = store_meta(w->m.store)->applied_index + 1; i <= w->last; i++) {
		struct err e = { 0 };

		if (machine_apply(&w->m, w->entry[i], &n, &e))
			fail_msg("%s", e.msg);
	}
}

#define T(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)

#endif
