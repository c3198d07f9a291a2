/* The state machine, rule by rule (protocol.md 6, 7, 8), over the real store on the
 * simulated disk: commands in, results and rows out. */
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

static void settle(void)
{
	int owner;

	while (sim_step(&w->sim, &owner))
		;
}

static void start(void)
{
	struct err e;

	assert_int_equal(store_open(&w->m.store, disk_sim_start(w->ds), &kv_mem, NULL,
				    &w->cfg, &e),
			 0);
	w->m.shard = w->cfg.shard;
	w->m.recs = recs;
	w->m.results = results;
}

static struct world *world_new(uint32_t shard)
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

static void world_free(struct world *x)
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

static int setup(void **state)
{
	(void)state;
	world_new(7);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	world_free(w);
	return 0;
}

static void add_bytes(const void *p, size_t n)
{
	memset(buf_extend(&w->batch, 16), (int)(w->n_batch + 1), 16); /* nonce */
	buf_lv(&w->batch, p, n);
	w->n_batch++;
}

/* One more command for the batch that is being made. */
static void add(const struct cmd *c)
{
	struct buf b = BUF_INIT;

	cmd_encode(&b, c);
	add_bytes(b.data, b.len);
	buf_release(&b);
}

static int apply_bytes(const struct buf *b, unsigned *n, struct err *e)
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
static void batch(void)
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

static struct result one(struct cmd c)
{
	add(&c);
	batch();
	return results[0];
}

static uint64_t n_records(void)
{
	return store_meta(w->m.store)->next_offset;
}

static uint64_t shard_clock(void)
{
	return store_meta(w->m.store)->clock;
}

/* ---- commands ------------------------------------------------------------------ */

static struct cmd account_add(uint64_t account)
{
	return (struct cmd){ .type = CMD_ACCOUNT_ADD, .account = account };
}

static struct cmd device_add(uint64_t account)
{
	return (struct cmd){ .type = CMD_DEVICE_ADD, .account = account };
}

static struct cmd device_remove(uint64_t account, uint32_t device)
{
	return (struct cmd){ .type = CMD_DEVICE_REMOVE, .account = account,
			     .device = device };
}

static struct cmd cursor_to(uint64_t account, uint32_t device, uint64_t n)
{
	return (struct cmd){ .type = CMD_CURSOR, .account = account, .device = device,
			     .cursor = n };
}

/* From ALICE's first device to BOB; the mid follows from the number. */
static struct cmd send_after(uint64_t seq, uint64_t after)
{
	struct cmd c = { .type = CMD_SEND };

	c.send = (struct cmd_send){ .to = BOB, .from = ALICE, .device = 1, .cls = 1,
				    .seq = seq, .after = after, .ttl = 60,
				    .body = (const uint8_t *)"body", .body_len = 4 };
	memset(c.send.mid, 0x40, 16);
	put_u64(c.send.mid, seq);
	return c;
}

static struct cmd send_seq(uint64_t seq)
{
	return send_after(seq, seq - 1);
}

static struct cmd own_copy(uint64_t seq, uint64_t origin_lamport)
{
	struct cmd c = send_after(seq, 0);

	c.send.part = 1;
	c.send.to = ALICE;
	c.send.origin_shard = 3;
	c.send.origin_offset = 500;
	c.send.origin_lamport = origin_lamport;
	return c;
}

static void people(void)
{
	assert_int_equal(one(account_add(ALICE)).status, ST_OK);
	assert_int_equal(one(device_add(ALICE)).status, ST_OK);
	assert_int_equal(one(account_add(BOB)).status, ST_OK);
	assert_int_equal(one(device_add(BOB)).status, ST_OK);
}

static struct result account_of(uint64_t account, uint32_t device)
{
	struct query q = { .type = QUERY_ACCOUNT, .account = account, .device = device };
	struct buf none = BUF_INIT;
	struct result r;
	struct err e;

	assert_int_equal(machine_query(&w->m, &q, &r, &none, &e), 0);
	buf_release(&none);
	return r;
}

static bool copy_record(void *arg, const struct record *r)
{
	*(struct record *)arg = *r; /* what it borrows is not looked at */
	return false;
}

static struct record record_at(uint64_t offset)
{
	struct record r = { 0 };
	struct err e;

	assert_int_equal(store_read(w->m.store, offset, 1, copy_record, &r, &e), 0);
	assert_int_equal(r.offset, offset);
	return r;
}

static void same_ack(const struct result *again, const struct result *first)
{
	assert_int_equal(again->status, ST_OK);
	assert_true(again->dup);
	assert_int_equal(again->offset, first->offset);
	assert_int_equal(again->lamport, first->lamport);
	assert_int_equal(again->stamp, first->stamp);
	assert_int_equal(again->time_ms, first->time_ms);
	assert_int_equal(again->n, first->n);
}

static void on_checkpoint(void *arg, int status, uint64_t index, uint64_t term,
			  const struct err *e)
{
	(void)arg;
	(void)index;
	(void)term;
	(void)e;
	assert_int_equal(status, 0);
	w->checkpoint = false;
}

static void checkpoint(void)
{
	w->checkpoint = true;
	assert_int_equal(store_checkpoint(w->m.store, on_checkpoint, NULL), 0);
	settle();
	assert_false(w->checkpoint);
}

/* The process dies, or the power goes; the journal has every entry. */
static void restart(bool power)
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

/* ---- section 6: the checks, by number --------------------------------------------- */

static void test_1_unknown_recipient(void **state)
{
	struct result r;

	(void)state;
	r = one(send_seq(1));
	assert_int_equal(r.status, ST_UNKNOWN_RECIPIENT);
	assert_int_equal(n_records(), 0);
	assert_int_equal(shard_clock(), 0);
	/* Refused, so the number is still free. */
	people();
	r = one(send_seq(1));
	assert_int_equal(r.status, ST_OK);
	assert_false(r.dup);
}

static void test_2_retry_gets_the_first_ack(void **state)
{
	struct result first, r;
	struct cmd c = send_seq(1);

	(void)state;
	people();
	w->time_ms = 5000;
	first = one(c);
	assert_int_equal(first.status, ST_OK);
	assert_false(first.dup);
	assert_int_equal(first.n, 1);
	assert_int_equal(first.time_ms, 5000);
	assert_int_equal(first.shard, 7);
	w->time_ms = 6000;
	/* What else the retry says does not matter: seen moves between tries. */
	c.send.seen = 77;
	c.send.body_len = 2;
	r = one(c);
	same_ack(&r, &first);
	assert_int_equal(n_records(), 1);
	assert_int_equal(shard_clock(), first.stamp);
	/* Also when the rows come from the disk, and the record from a segment. */
	checkpoint();
	restart(true);
	r = one(c);
	same_ack(&r, &first);
	assert_int_equal(n_records(), 1);
}

static void test_2_retry_inside_one_batch(void **state)
{
	struct cmd c = send_seq(1), other = send_seq(2);

	(void)state;
	people();
	add(&c);
	add(&other);
	add(&c);
	batch();
	same_ack(&results[2], &results[0]);
	assert_int_equal(results[1].n, 2);
	assert_int_equal(n_records(), 2);
}

static void test_2_number_used_for_another_message(void **state)
{
	struct cmd c = send_seq(1);

	(void)state;
	people();
	assert_int_equal(one(c).status, ST_OK);
	c.send.mid[15] ^= 1;
	assert_int_equal(one(c).status, ST_SEQ_CONFLICT);
	assert_int_equal(n_records(), 1);
	/* Another device of the same account has numbers of its own. */
	c.send.device = 2;
	assert_int_equal(one(c).status, ST_OK);
	assert_int_equal(n_records(), 2);
}

static void test_2_comes_before_the_mailbox_and_the_clock(void **state)
{
	struct result first, r;
	struct cmd c = send_seq(1);

	(void)state;
	people();
	first = one(c);
	c.send.seen = CLOCK_SKEW_MAX * 8;
	c.send.after = 0;
	r = one(c);
	same_ack(&r, &first);
}

static void test_3_settled_below_the_floor(void **state)
{
	uint64_t seq;
	struct result r;

	(void)state;
	people();
	for (seq = 1; seq <= DEDUPE_SET_MAX; seq++)
		assert_int_equal(one(send_seq(seq)).status, ST_OK);
	r = one(send_seq(1)); /* the set is full, nobody has left it */
	assert_true(r.dup);
	assert_int_equal(one(send_seq(seq)).status, ST_OK); /* 1 leaves */
	r = one(send_seq(1));
	assert_int_equal(r.status, ST_SETTLED);
	assert_false(r.dup);
	r = one(send_seq(2));
	assert_true(r.dup);
	assert_int_equal(n_records(), DEDUPE_SET_MAX + 1);
	/* 3 before 4: a settled number is not a gap. */
	assert_int_equal(one(send_after(1, 0)).status, ST_SETTLED);
	checkpoint();
	restart(false);
	assert_int_equal(one(send_seq(1)).status, ST_SETTLED);
	assert_true(one(send_seq(2)).dup);
}

static void test_3_the_floor_lives_as_long_as_the_device(void **state)
{
	uint64_t seq;

	(void)state;
	people();
	for (seq = 1; seq <= DEDUPE_SET_MAX + 5; seq++)
		assert_int_equal(one(send_seq(seq)).status, ST_OK);
	w->time_ms += 365ull * 86400 * 1000; /* no window of time */
	assert_int_equal(one(device_remove(ALICE, 1)).status, ST_OK);
	assert_int_equal(one(send_seq(5)).status, ST_SETTLED);
	assert_true(one(send_seq(6)).dup);
}

static void test_7_the_set_keeps_the_newest_out_of_order(void **state)
{
	uint64_t seq;

	(void)state;
	people();
	/* Odd numbers, downwards; then the even ones between them, upwards: what
	 * leaves is always the lowest. */
	for (seq = 2 * DEDUPE_SET_MAX - 1; seq < UINT64_MAX; seq -= 2)
		assert_int_equal(one(send_after(seq, 0)).status, ST_OK);
	for (seq = 2; seq <= 20; seq += 2) {
		uint64_t floor = seq == 2 ? 0 : seq / 2 - 1;
		struct result r = one(send_after(seq, 0));

		/* By then the floor is 1, 2, 3 .. : the even ones stand above it
		 * until it has passed them. */
		assert_int_equal(r.status, seq <= floor ? ST_SETTLED : ST_OK);
		assert_false(r.dup);
		r = one(send_after(seq / 2, 0));
		assert_int_equal(r.status, ST_SETTLED);
		if (seq > 2)
			assert_true(one(send_after(seq, 0)).dup);
	}
	assert_true(one(send_after(2 * DEDUPE_SET_MAX - 1, 0)).dup);
}

static void test_7_parts_are_two_members_of_the_set(void **state)
{
	struct cmd own = own_copy(1, 9), c = send_after(1, 0);
	struct result first, r;

	(void)state;
	people();
	c.send.to = ALICE; /* a message to oneself: both parts in one shard */
	first = one(c);
	assert_int_equal(first.status, ST_OK);
	r = one(own);
	assert_int_equal(r.status, ST_OK);
	assert_false(r.dup);
	assert_int_equal(n_records(), 2);
	assert_int_equal(r.n, 2);
	r = one(c);
	same_ack(&r, &first);
}

static void test_4_gap(void **state)
{
	uint64_t seq;

	(void)state;
	people();
	/* Nothing of this device was ever written here. */
	assert_int_equal(one(send_after(5, 4)).status, ST_GAP);
	assert_int_equal(one(send_after(5, 0)).status, ST_OK);
	assert_int_equal(one(send_after(7, 6)).status, ST_GAP);
	/* Refused twice is refused: 7 does not stand in for 6. */
	assert_int_equal(one(send_after(8, 7)).status, ST_GAP);
	assert_int_equal(one(send_after(7, 5)).status, ST_OK);
	assert_int_equal(one(send_after(8, 7)).status, ST_OK);
	assert_int_equal(n_records(), 3);
	/* Whatever lies at or below the floor has been. */
	for (seq = 9; seq < 9 + DEDUPE_SET_MAX; seq++)
		assert_int_equal(one(send_after(seq, seq - 1)).status, ST_OK);
	assert_int_equal(one(send_after(100, 6)).status, ST_OK);
	assert_int_equal(one(send_after(102, 101)).status, ST_GAP);
}

static void test_4_counts_only_the_recipients_record(void **state)
{
	struct cmd c = send_after(2, 1), own = own_copy(1, 5);

	(void)state;
	people();
	assert_int_equal(one(own).status, ST_OK); /* itself is not asked for `after` */
	assert_int_equal(one(c).status, ST_GAP);  /* and does not answer for it */
	own = own_copy(3, 6);
	own.send.after = 2;
	assert_int_equal(one(own).status, ST_OK);
}

static void test_4_in_one_batch(void **state)
{
	struct cmd a = send_seq(1), b = send_seq(2), d = send_after(4, 3);

	(void)state;
	people();
	add(&a);
	add(&b);
	add(&d);
	batch();
	assert_int_equal(results[0].status, ST_OK);
	assert_int_equal(results[1].status, ST_OK);
	assert_int_equal(results[2].status, ST_GAP);
	assert_int_equal(n_records(), 2);
	assert_int_equal(results[1].offset, results[0].offset + 1);
}

static void fill_mailbox(void)
{
	uint64_t seq = 0;

	while (seq < MAILBOX_RECORDS_MAX) {
		do {
			struct cmd c = send_seq(++seq);

			add(&c);
		} while (seq < MAILBOX_RECORDS_MAX && w->n_batch < BATCH_RECORDS_MAX);
		batch();
		assert_int_equal(results[0].status, ST_OK);
	}
}

static void test_7_mailbox_limit(void **state)
{
	enum { LAST = MAILBOX_RECORDS_MAX };
	struct cmd c, own = own_copy(1, 4);
	struct result r;

	(void)state;
	people();
	fill_mailbox();
	assert_int_equal(account_of(BOB, 0).inbox_end, LAST);
	c = send_seq(LAST + 1);
	assert_int_equal(one(c).status, ST_MAILBOX_FULL);
	assert_int_equal(n_records(), LAST);
	/* A retry of what is in is no new record; nor does a full mailbox stand in
	 * the way of a void, of an own copy or of another account. */
	r = one(send_seq(LAST));
	assert_int_equal(r.status, ST_OK);
	assert_true(r.dup);
	own.send.to = own.send.from = BOB;
	assert_int_equal(one(own).n, LAST + 1);
	c.send.cls = 0;
	assert_int_equal(one(c).status, ST_OK);
	c = send_after(LAST + 2, 0);
	c.send.to = ALICE;
	assert_int_equal(one(c).status, ST_OK);
	/* Room for one: what was acknowledged by every device. */
	assert_int_equal(one(cursor_to(BOB, 1, 2)).status, ST_OK);
	assert_int_equal(one(send_after(LAST + 3, 0)).status, ST_OK);
	assert_int_equal(one(send_after(LAST + 4, 0)).status, ST_MAILBOX_FULL);
	/* A second device that reads nothing holds the room. */
	assert_int_equal(one(device_add(BOB)).device, 2);
	assert_int_equal(one(cursor_to(BOB, 1, 50)).status, ST_OK);
	assert_int_equal(one(send_after(LAST + 5, 0)).status, ST_OK);
	assert_int_equal(one(cursor_to(BOB, 1, LAST + 1)).status, ST_OK);
	assert_int_equal(one(send_after(LAST + 6, 0)).status, ST_OK);
}

static void test_refused_leaves_no_event(void **state)
{
	struct cmd c[4] = { send_seq(1), send_after(9, 8), send_seq(1), send_seq(2) };
	struct result before, after;
	uint64_t clock;
	unsigned i;

	(void)state;
	people();
	assert_int_equal(one(send_seq(1)).status, ST_OK);
	before = account_of(BOB, 1);
	clock = shard_clock();
	c[0].send.to = NOBODY;
	c[2].send.mid[0] ^= 1;
	c[3].send.seen = clock + CLOCK_SKEW_MAX + 1;
	for (i = 0; i < 4; i++)
		add(&c[i]);
	batch();
	assert_int_equal(results[0].status, ST_UNKNOWN_RECIPIENT);
	assert_int_equal(results[1].status, ST_GAP);
	assert_int_equal(results[2].status, ST_SEQ_CONFLICT);
	assert_int_equal(results[3].status, ST_CLOCK);
	assert_int_equal(n_records(), 1);
	assert_int_equal(shard_clock(), clock);
	assert_int_equal(w->m.n_recs, 0);
	after = account_of(BOB, 1);
	assert_memory_equal(&before, &after, sizeof after);
	assert_int_equal(store_meta(w->m.store)->applied_index, w->last);
	c[3].send.seen = 0; /* the number is as free as before */
	assert_int_equal(one(c[3]).status, ST_OK);
}

static void test_void_takes_the_number_away(void **state)
{
	struct cmd c = send_seq(1), nothing = c;
	struct result r;

	(void)state;
	people();
	nothing.send.cls = 0;
	nothing.send.body_len = 0;
	r = one(nothing);
	assert_int_equal(r.status, ST_OK);
	assert_false(r.dup);
	assert_int_equal(r.n, 0);
	assert_int_equal(account_of(BOB, 0).inbox_end, 0);
	assert_int_equal(n_records(), 1); /* provable all the same */
	assert_int_equal(record_at(0).cls, 0);
	/* The late duplicate of the message finds its number taken. */
	r = one(c);
	assert_int_equal(r.status, ST_OK);
	assert_true(r.dup);
	assert_int_equal(r.n, 0);
	assert_int_equal(account_of(BOB, 0).inbox_end, 0);
	/* What comes after the void is no gap. */
	assert_int_equal(one(send_seq(2)).n, 1);
}

static void test_void_after_the_message_shows_it(void **state)
{
	struct result first, r;
	struct cmd c = send_seq(1);

	(void)state;
	people();
	first = one(c);
	c.send.cls = 0;
	c.send.body_len = 0;
	r = one(c);
	same_ack(&r, &first);
	assert_int_equal(n_records(), 1);
	/* Checks 1 to 4 hold for a void too. */
	c = send_after(9, 8);
	c.send.cls = 0;
	assert_int_equal(one(c).status, ST_GAP);
	c.send.after = 0;
	c.send.to = NOBODY;
	assert_int_equal(one(c).status, ST_UNKNOWN_RECIPIENT);
}

/* ---- section 8: numbers of order, time ----------------------------------------------- */

static void test_8_stamp_is_above_the_clock_and_what_was_seen(void **state)
{
	struct cmd c = send_seq(1);
	struct result r;

	(void)state;
	people();
	r = one(c);
	assert_int_equal(r.stamp, 1);
	assert_int_equal(r.lamport, 1);
	c = send_seq(2);
	c.send.seen = 500;
	r = one(c);
	assert_int_equal(r.stamp, 501);
	assert_int_equal(r.lamport, 501);
	c = send_seq(3);
	c.send.seen = 20; /* older than the shard's clock */
	assert_int_equal(one(c).stamp, 502);
	assert_int_equal(shard_clock(), 502);
	assert_int_equal(record_at(2).lamport, 502);
}

static void test_8_every_record_of_a_batch_is_above_the_last(void **state)
{
	struct cmd c[3] = { send_seq(1), send_seq(2), send_seq(3) };
	unsigned i;

	(void)state;
	people();
	c[1].send.seen = 100;
	for (i = 0; i < 3; i++)
		add(&c[i]);
	batch();
	assert_int_equal(results[0].stamp, 1);
	assert_int_equal(results[1].stamp, 101);
	assert_int_equal(results[2].stamp, 102);
	checkpoint();
	restart(true);
	assert_int_equal(one(send_seq(4)).stamp, 103);
}

static void test_8_nobody_pushes_the_clock_to_its_end(void **state)
{
	struct cmd c = send_seq(1), own = own_copy(2, 0);
	struct result r;

	(void)state;
	people();
	c.send.seen = CLOCK_SKEW_MAX + 1;
	assert_int_equal(one(c).status, ST_CLOCK);
	assert_int_equal(shard_clock(), 0);
	own.send.origin_lamport = CLOCK_SKEW_MAX + 1;
	assert_int_equal(one(own).status, ST_CLOCK);
	assert_int_equal(n_records(), 0);
	c.send.seen = CLOCK_SKEW_MAX;
	r = one(c);
	assert_int_equal(r.status, ST_OK);
	assert_int_equal(r.stamp, CLOCK_SKEW_MAX + 1);
	/* In 1970 the shard's time allows no more. */
	own.send.origin_lamport = CLOCK_SKEW_MAX + 2;
	assert_int_equal(one(own).status, ST_CLOCK);
	w->time_ms = 2 * CLOCK_SKEW_MAX / LAMPORT_PER_MS;
	own.send.origin_lamport = 2 * CLOCK_SKEW_MAX + 1;
	assert_int_equal(one(own).status, ST_CLOCK);
	own.send.origin_lamport = 2 * CLOCK_SKEW_MAX;
	assert_int_equal(one(own).status, ST_OK);
}

static void test_8_the_largest_number_is_out_of_reach(void **state)
{
	uint64_t seq, limit;
	struct cmd c;

	(void)state;
	people();
	w->time_ms = 1800000000000; /* 2027 */
	limit = w->time_ms * LAMPORT_PER_MS;
	/* A sender that takes the largest step each time. */
	for (seq = 1; shard_clock() < limit; seq++) {
		c = send_seq(seq);
		c.send.seen = shard_clock() + CLOCK_SKEW_MAX;
		if (c.send.seen > limit)
			c.send.seen = limit;
		if (seq % 1000 == 1 || c.send.seen == limit) {
			add(&c);
			batch();
			assert_int_equal(results[0].status, ST_OK);
			continue;
		}
		/* The rest of the way without a record of each. */
		store_raise_clock(w->m.store, c.send.seen);
		seq--;
	}
	assert_true(shard_clock() < LAMPORT_MAX / 2);
	c = send_seq(seq);
	c.send.seen = limit + 2;
	assert_int_equal(one(c).status, ST_CLOCK);
	/* Others go on, one by one. */
	c.send.seen = limit;
	assert_int_equal(one(c).stamp, limit + 2);
	c = send_seq(seq + 1);
	c.send.seen = limit + 2; /* above the limit, but it is the shard's clock */
	assert_int_equal(one(c).stamp, limit + 3);
}

static void test_8_own_copy_carries_its_origin(void **state)
{
	struct cmd own = own_copy(1, 700);
	struct record rec;
	struct result r, again;

	(void)state;
	people();
	own.send.seen = 30;
	r = one(own);
	assert_int_equal(r.status, ST_OK);
	assert_int_equal(r.lamport, 700); /* the recipient's shard decided */
	assert_int_equal(r.stamp, 701);
	assert_int_equal(r.n, 1);
	rec = record_at(r.offset);
	assert_int_equal(rec.key, ALICE);
	assert_int_equal(rec.part, 1);
	assert_true(rec.flags & RECORD_HAS_ORIGIN);
	assert_true(rec.msg_flags & 1); /* own copy, protocol.md 3 */
	assert_int_equal(rec.origin_shard, 3);
	assert_int_equal(rec.origin_offset, 500);
	assert_int_equal(rec.origin_lamport, 700);
	again = one(own);
	same_ack(&again, &r);
	/* An origin below the clock does not lower the stamp. */
	own = own_copy(2, 5);
	own.send.seen = 900;
	r = one(own);
	assert_int_equal(r.lamport, 5);
	assert_int_equal(r.stamp, 901);
	assert_int_equal(account_of(ALICE, 0).inbox_end, 2);
}

static void test_time_never_falls(void **state)
{
	(void)state;
	people();
	w->time_ms = 9000;
	assert_int_equal(one(send_seq(1)).time_ms, 9000);
	w->time_ms = 4000; /* the next leader's clock is behind */
	assert_int_equal(one(send_seq(2)).time_ms, 9000);
	checkpoint();
	restart(false);
	w->time_ms = 8999;
	assert_int_equal(one(send_seq(3)).time_ms, 9000);
	assert_int_equal(record_at(2).time_ms, 9000);
	w->time_ms = 9001;
	assert_int_equal(one(send_seq(4)).time_ms, 9001);
}

/* ---- accounts, devices, cursors -------------------------------------------------------- */

static void test_account_add(void **state)
{
	(void)state;
	assert_int_equal(one(account_add(BOB)).status, ST_OK);
	assert_int_equal(one(device_add(BOB)).status, ST_OK);
	assert_int_equal(one(account_add(BOB)).status, ST_EXISTS);
	assert_int_equal(account_of(BOB, 0).n_devices, 1); /* not made anew */
	assert_int_equal(account_of(NOBODY, 0).status, ST_NOT_FOUND);
	assert_int_equal(n_records(), 0);
}

static void test_device_numbers_are_never_given_twice(void **state)
{
	unsigned i;

	(void)state;
	assert_int_equal(one(device_add(BOB)).status, ST_NOT_FOUND);
	assert_int_equal(one(account_add(BOB)).status, ST_OK);
	for (i = 1; i <= DEVICES_MAX; i++) {
		struct result r = one(device_add(BOB));

		assert_int_equal(r.status, ST_OK);
		assert_int_equal(r.device, i);
		assert_int_equal(r.epoch, 1);
	}
	assert_int_equal(one(device_add(BOB)).status, ST_TOO_MANY_DEVICES);
	assert_int_equal(one(device_remove(BOB, 2)).status, ST_OK);
	assert_int_equal(one(device_add(BOB)).device, DEVICES_MAX + 1);
	assert_int_equal(account_of(BOB, 0).devices, 0x7d);
	assert_int_equal(account_of(BOB, 0).n_devices, DEVICES_MAX);
}

static void test_removal_raises_the_epoch(void **state)
{
	struct result r;

	(void)state;
	people();
	assert_int_equal(account_of(BOB, 1).epoch, 1);
	assert_int_equal(account_of(BOB, 1).status, ST_OK);
	assert_int_equal(one(device_remove(BOB, 9)).status, ST_NOT_FOUND);
	assert_int_equal(one(device_remove(BOB, 0)).status, ST_NOT_FOUND);
	assert_int_equal(one(device_remove(NOBODY, 1)).status, ST_NOT_FOUND);
	assert_false(w->m.devices_removed);
	assert_int_equal(one(device_remove(BOB, 1)).status, ST_OK);
	assert_true(w->m.devices_removed);
	r = account_of(BOB, 1);
	assert_int_equal(r.status, ST_DEVICE_REMOVED);
	assert_int_equal(r.epoch, 2);
	assert_int_equal(one(device_remove(BOB, 1)).status, ST_NOT_FOUND);
	assert_int_equal(account_of(BOB, 1).epoch, 2);
	assert_int_equal(account_of(BOB, 7).status, ST_NOT_FOUND);
}

static void test_cursors(void **state)
{
	(void)state;
	people();
	assert_int_equal(one(send_seq(1)).n, 1);
	assert_int_equal(one(send_seq(2)).n, 2);
	/* A linked device begins at the end: its history comes from another. */
	assert_int_equal(one(device_add(BOB)).device, 2);
	assert_int_equal(account_of(BOB, 1).cursor, 0);
	assert_int_equal(account_of(BOB, 2).cursor, 2);

	assert_int_equal(one(cursor_to(BOB, 1, 2)).status, ST_OK);
	assert_int_equal(account_of(BOB, 1).cursor, 2);
	assert_int_equal(one(cursor_to(BOB, 1, 1)).status, ST_OK); /* lower: ignored */
	assert_int_equal(account_of(BOB, 1).cursor, 2);
	assert_int_equal(one(cursor_to(BOB, 1, 3)).status, ST_AHEAD);
	assert_int_equal(account_of(BOB, 1).cursor, 2);
	assert_int_equal(one(cursor_to(BOB, 9, 1)).status, ST_NOT_FOUND);
	assert_int_equal(one(cursor_to(NOBODY, 1, 0)).status, ST_NOT_FOUND);
	assert_int_equal(one(device_remove(BOB, 1)).status, ST_OK);
	assert_int_equal(one(cursor_to(BOB, 1, 2)).status, ST_DEVICE_REMOVED);
	assert_int_equal(n_records(), 2); /* none of this is an event */
	assert_int_equal(shard_clock(), 2);
	checkpoint();
	restart(true);
	assert_int_equal(account_of(BOB, 1).cursor, 2);
	assert_int_equal(account_of(BOB, 1).status, ST_DEVICE_REMOVED);
}

static void test_meta_init(void **state)
{
	struct cmd c = { .type = CMD_META_INIT, .shards = 48 };
	struct world *other = w;
	uint32_t len, i;
	uint8_t *row;

	(void)state;
	assert_int_equal(one(c).status, ST_BAD_REQUEST); /* shard 7 */
	assert_null(row_get(w->m.store, T_META, "slots", 5, &len));
	world_new(0);
	assert_int_equal(one(c).status, ST_OK);
	c.shards = 3;
	assert_int_equal(one(c).status, ST_EXISTS);
	checkpoint();
	restart(true);
	row = row_get(w->m.store, T_META, "slots", 5, &len);
	assert_non_null(row);
	assert_int_equal(len, 8 + 2 * 16384);
	assert_int_equal(get_u32(row), 1);
	assert_int_equal(get_u32(row + 4), 48);
	for (i = 0; i < 16384; i++)
		assert_int_equal(get_u16(row + 8 + 2 * i), i % 48);
	world_free(w);
	w = other;
}

static void test_pages(void **state)
{
	struct query q = { .type = QUERY_PAGE, .account = BOB, .from = 3, .limit = 4 };
	struct buf bytes = BUF_INIT;
	struct cursor in;
	struct record rec;
	struct result r;
	struct err e;
	uint64_t i;

	(void)state;
	people();
	for (i = 1; i <= 10; i++)
		assert_int_equal(one(send_seq(i)).n, i);
	assert_int_equal(machine_query(&w->m, &q, &r, &bytes, &e), 0);
	assert_int_equal(r.n_records, 4);
	assert_int_equal(r.next, 7);
	assert_false(r.complete);
	in = cursor_of(r.records, r.records_len);
	for (i = 3; i < 7; i++) {
		assert_int_equal(record_get_wire(&rec, &in), 0);
		assert_int_equal(rec.n, i);
		assert_int_equal(rec.seq, i);
		assert_int_equal(rec.ttl, 60);
		assert_int_equal(rec.payload_len, 4);
		assert_memory_equal(rec.payload, "body", 4);
	}
	assert_true(cursor_done(&in));
	q.from = 9;
	assert_int_equal(machine_query(&w->m, &q, &r, &bytes, &e), 0);
	assert_int_equal(r.n_records, 2);
	assert_true(r.complete);
	q.from = 11; /* nothing yet */
	assert_int_equal(machine_query(&w->m, &q, &r, &bytes, &e), 0);
	assert_int_equal(r.n_records, 0);
	assert_int_equal(r.next, 11);
	assert_true(r.complete);
	q.back = true;
	q.from = 3;
	assert_int_equal(machine_query(&w->m, &q, &r, &bytes, &e), 0);
	assert_int_equal(r.n_records, 2);
	in = cursor_of(r.records, r.records_len);
	assert_int_equal(record_get_wire(&rec, &in), 0);
	assert_int_equal(rec.n, 2);
	assert_true(r.complete);
	buf_release(&bytes);
}

/* ---- what is no batch -------------------------------------------------------------------- */

static void refused_batch(const struct buf *b, const char *why)
{
	struct err e = { 0 };
	uint64_t applied = store_meta(w->m.store)->applied_index;
	unsigned n = 99;

	assert_int_equal(apply_bytes(b, &n, &e), ERR_FORMAT);
	if (!strstr(e.msg, why))
		fail_msg("\"%s\" does not say \"%s\"", e.msg, why);
	assert_int_equal(n, 0);
	/* The replica stops: nothing of it may be in the log. */
	assert_int_equal(store_meta(w->m.store)->applied_index, applied);
	assert_int_equal(n_records(), 0);
}

static void batch_head(struct buf *b, unsigned count)
{
	buf_clear(b);
	buf_u8(b, GROUP_COMMAND);
	buf_u64(b, 1000);
	buf_varint(b, count);
}

static void batch_of_bytes(struct buf *b, const void *p, size_t n)
{
	batch_head(b, 1);
	memset(buf_extend(b, 16), 0, 16);
	buf_lv(b, p, n);
}

static void test_malformed_batches(void **state)
{
	struct cmd good = account_add(NOBODY), c;
	struct buf b = BUF_INIT, one_cmd = BUF_INIT;
	size_t whole, n;

	(void)state;
	people();
	cmd_encode(&one_cmd, &good);
	batch_of_bytes(&b, one_cmd.data, one_cmd.len);
	whole = b.len;
	buf_u8(&b, 0);
	refused_batch(&b, "trailing bytes");
	for (n = 1; n < whole; n++) { /* cut short anywhere */
		b.len = n;
		refused_batch(&b, n < 10 ? "bad head" : "cut short");
	}
	batch_head(&b, BATCH_RECORDS_MAX + 1);
	refused_batch(&b, "bad head");
	batch_of_bytes(&b, "\x07", 1);
	refused_batch(&b, "unknown command type 7");
	batch_of_bytes(&b, "", 0);
	refused_batch(&b, "unknown command type 0");
	batch_of_bytes(&b, one_cmd.data, one_cmd.len - 1);
	refused_batch(&b, "wrong length");
	memset(one_cmd.data + 1, 0, 8);
	batch_of_bytes(&b, one_cmd.data, one_cmd.len);
	refused_batch(&b, "account id 0");
	/* A good command in front of a bad one leaves no event either. */
	batch_head(&b, 2);
	memset(buf_extend(&b, 16), 0, 16);
	c = send_seq(1);
	buf_clear(&one_cmd);
	cmd_encode(&one_cmd, &c);
	buf_lv(&b, one_cmd.data, one_cmd.len);
	memset(buf_extend(&b, 16), 0, 16);
	c.send.after = 1; /* not below seq */
	buf_clear(&one_cmd);
	cmd_encode(&one_cmd, &c);
	buf_lv(&b, one_cmd.data, one_cmd.len);
	refused_batch(&b, "out of range");
	buf_release(&b);
	buf_release(&one_cmd);
}

static void test_malformed_sends(void **state)
{
	struct cmd bad[12];
	struct buf b = BUF_INIT, one_cmd = BUF_INIT;
	unsigned i, n = 0;

	(void)state;
	people();
#define BAD(change) (bad[n] = send_seq(1), bad[n].send.change, n++)
	BAD(to = 0);
	BAD(from = 0);
	BAD(device = 0);
	BAD(seq = 0);
	BAD(part = 2);
	BAD(part = 1); /* to another account */
	BAD(cls = 8);
	BAD(ttl = TTL_MAX_S + 1);
	BAD(seq = 1ull << 53);
	BAD(seen = 1ull << 53);
	BAD(body_len = BODY_MAX + 1);
	BAD(headers_len = RECORD_HEADERS_MAX + 1);
#undef BAD
	for (i = 0; i < n; i++) {
		uint8_t *zero = xcalloc(1, BODY_MAX + 1);

		bad[i].send.body = bad[i].send.headers = zero;
		buf_clear(&one_cmd);
		cmd_encode(&one_cmd, &bad[i]);
		batch_of_bytes(&b, one_cmd.data, one_cmd.len);
		refused_batch(&b, "send: ");
		free(zero);
	}
	buf_release(&b);
	buf_release(&one_cmd);
}

/* ---- replay ------------------------------------------------------------------------------- */

static void script(unsigned from, unsigned to, unsigned checkpoint_at, bool crash)
{
	unsigned i;

	for (i = from; i < to; i++) {
		struct cmd c = i % 5 == 4 ? send_after(i / 2 + 1, 0) : send_seq(i + 1);

		c.send.device = 1 + i % 3;
		c.send.after = 0;
		if (i % 7 == 3) {
			c.send.to = c.send.from;
			c.send.part = 1;
			c.send.origin_lamport = i;
		}
		w->time_ms += 10;
		add(&c);
		if (i % 3 == 0)
			continue;
		if (i % 11 == 1) {
			struct cmd d = cursor_to(BOB, 1, i / 4);

			add(&d);
		}
		batch();
		if (i == checkpoint_at)
			checkpoint();
		if (crash && i % 40 == 31)
			restart(i % 80 == 31);
	}
	if (w->n_batch)
		batch();
}

static void facts(uint8_t root[32], struct store_meta *m)
{
	checkpoint(); /* the digest is of the last one */
	store_root(w->m.store, root);
	*m = *store_meta(w->m.store);
}

static void test_replay_gives_equal_rows_and_root(void **state)
{
	uint8_t root[32], root2[32];
	struct store_meta m, m2;
	struct world *first = w;

	(void)state;
	people();
	script(0, 300, UINT32_MAX, false);
	facts(root, &m);
	assert_true(n_records() > 100);
	/* The same entries, with checkpoints elsewhere and two kinds of crash. */
	world_new(7);
	people();
	script(0, 300, 100, true);
	restart(true);
	facts(root2, &m2);
	assert_memory_equal(root, root2, 32);
	assert_int_equal(m.digest, m2.digest);
	assert_memory_equal(m.chain, m2.chain, 32);
	assert_int_equal(m.clock, m2.clock);
	assert_int_equal(m.next_offset, m2.next_offset);
	assert_int_equal(m.last_time_ms, m2.last_time_ms);
	assert_int_equal(m.applied_index, m2.applied_index);
	/* One cursor more on one of them, and the digests part: they do look. */
	assert_int_equal(one(cursor_to(BOB, 1, account_of(BOB, 1).inbox_end)).status,
			 ST_OK);
	facts(root2, &m2);
	assert_memory_equal(root, root2, 32);
	assert_int_not_equal(m.digest, m2.digest);
	world_free(w);
	w = first;
}

#define T(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)

/* ---- retention ----------------------------------------------------------------- */

static struct cmd retain(enum retain_op op, uint64_t base, uint64_t end)
{
	struct cmd c = { .type = CMD_RETAIN };

	c.retain.op = op;
	c.retain.base = base;
	c.retain.end = end;
	c.retain.epoch = machine_retain_epoch(&w->m);
	return c;
}

static struct cmd hold(uint64_t account, bool on)
{
	struct cmd c = { .type = CMD_RETAIN, .account = account };

	c.retain.op = RETAIN_HOLD;
	c.retain.on = on;
	return c;
}

static struct cmd erase(uint64_t account)
{
	struct cmd c = { .type = CMD_RETAIN, .account = account };

	c.retain.op = RETAIN_ERASE;
	return c;
}

static struct survey_fact fact_at(uint64_t offset)
{
	struct record r = record_at(offset);
	struct survey_fact f = { .offset = offset, .key = r.key, .n = r.n,
				 .time_ms = r.time_ms, .sender = r.sender,
				 .seq = r.seq, .lamport = r.lamport,
				 .stamp = r.lamport, .device = r.device,
				 .ttl = r.ttl, .content = 16 + r.payload_len };

	memcpy(f.mid, r.mid, 16);
	return f;
}

static enum retain_verdict verdict(uint64_t offset, uint64_t now_ms)
{
	struct survey_fact f = fact_at(offset);

	return machine_judge(&w->m, &f, now_ms, machine_ttl_ms(&w->m));
}

static int code(struct cmd c)
{
	return one(c).status;
}

static void test_what_may_go(void **state)
{
	struct cmd ttl = { .type = CMD_RETAIN };
	uint64_t at, sent_ms;

	(void)state;
	people();
	at = one(send_seq(1)).offset;
	sent_ms = record_at(at).time_ms;
	assert_int_equal(verdict(at, sent_ms), VERDICT_LIVE);
	assert_int_equal(verdict(at, sent_ms + 59999), VERDICT_LIVE);
	assert_int_equal(verdict(at, sent_ms + 60000), VERDICT_DEAD); /* its own */
	ttl.retain.op = RETAIN_POLICY;
	ttl.retain.ttl_ms = 5000;
	assert_int_equal(code(ttl), ST_OK);
	assert_int_equal(verdict(at, sent_ms + 4999), VERDICT_LIVE);
	assert_int_equal(verdict(at, sent_ms + 5000), VERDICT_DEAD);
	/* A hold is stronger than time. */
	assert_int_equal(code(hold(BOB, true)), ST_OK);
	assert_int_equal(verdict(at, sent_ms + 5000), VERDICT_HELD);
	assert_int_equal(code(erase(BOB)), ST_HELD);
	assert_int_equal(code(hold(BOB, false)), ST_OK);
	assert_int_equal(verdict(at, sent_ms), VERDICT_LIVE);
	/* Of two devices the slower one counts. */
	assert_int_equal(code(device_add(BOB)), ST_OK);
	at = one(send_seq(2)).offset;
	assert_int_equal(code(cursor_to(BOB, 1, 2)), ST_OK);
	assert_int_equal(verdict(at, sent_ms), VERDICT_LIVE);
	assert_int_equal(code(cursor_to(BOB, 2, 2)), ST_OK);
	assert_int_equal(verdict(at, sent_ms), VERDICT_DEAD);
	assert_int_equal(code(hold(NOBODY, true)), ST_NOT_FOUND);
}

static void test_a_stale_judgement_does_nothing(void **state)
{
	struct cmd trim;
	uint64_t n;

	(void)state;
	people();
	one(send_seq(1));
	n = n_records();
	trim = retain(RETAIN_TRIM, 0, n);
	assert_int_equal(code(hold(BOB, true)), ST_OK);
	assert_int_equal(code(trim), ST_SETTLED);
	assert_int_equal(store_trimmed(w->m.store), 0);
	assert_int_equal(n_records(), n);
	assert_int_equal(code(retain(RETAIN_TRIM, 0, n + 1)), ST_BAD_REQUEST);
	assert_int_equal(code(retain(RETAIN_TRIM, 0, n)), ST_OK);
	assert_int_equal(store_trimmed(w->m.store), n);
	/* It is an event itself. */
	assert_int_equal(n_records(), n + 1);
	assert_int_equal(record_at(n).kind, RECORD_TRIM);
	assert_int_equal(code(retain(RETAIN_TRIM, 0, n)), ST_BAD_REQUEST);
}

/* Guarantee 2 outlives the record. */
static void test_a_retry_after_the_trim(void **state)
{
	struct retain_receipt rc = { .from = ALICE, .device = 1 };
	struct result first[3], again;
	struct cmd keep, other;
	struct buf b = BUF_INIT;
	uint64_t n, i;

	(void)state;
	people();
	for (i = 0; i < 3; i++)
		first[i] = one(send_seq(i + 1));
	n = n_records();
	for (i = 0; i < 2; i++) {
		struct survey_fact f = fact_at(first[i].offset);

		assert_true(machine_remembers(&w->m, ALICE, 1, f.seq << 1,
					      f.offset));
		rc.id = f.seq << 1;
		rc.offset = f.offset;
		rc.lamport = f.lamport;
		rc.stamp = f.stamp;
		rc.time_ms = f.time_ms;
		rc.n = f.n;
		memcpy(rc.mid, f.mid, 16);
		retain_receipt_put(&b, &rc);
	}
	/* One that nobody can ask for leaves nothing. */
	rc.offset++;
	retain_receipt_put(&b, &rc);
	keep = retain(RETAIN_RECEIPTS, 0, n);
	keep.retain.bytes = b.data;
	keep.retain.bytes_len = (uint32_t)b.len;
	assert_int_equal(code(keep), ST_OK);
	assert_int_equal(code(retain(RETAIN_TRIM, 0, n)), ST_OK);
	checkpoint();
	restart(true);
	for (i = 0; i < 2; i++) {
		again = one(send_seq(i + 1));
		same_ack(&again, &first[i]);
	}
	other = send_seq(1);
	other.send.mid[0] ^= 1;
	assert_int_equal(code(other), ST_SEQ_CONFLICT);
	/* Without a receipt it is known to be there, and no more. */
	assert_int_equal(code(send_seq(3)), ST_SETTLED);
	/* Out of the set, out of the rows. */
	for (i = 4; i < 4 + DEDUPE_SET_MAX; i++)
		assert_int_equal(code(send_after(i, 0)), ST_OK);
	assert_int_equal(code(send_seq(1)), ST_SETTLED);
	buf_release(&b);
}

static void test_an_erased_account(void **state)
{
	struct result r;
	uint64_t at;

	(void)state;
	people();
	at = one(send_seq(1)).offset;
	assert_int_equal(code(erase(BOB)), ST_OK);
	assert_int_equal(verdict(at, 0), VERDICT_ERASED);
	assert_int_equal(record_at(n_records() - 1).kind, RECORD_ERASE);
	assert_int_equal(code(erase(BOB)), ST_EXISTS);
	assert_int_equal(code(hold(BOB, true)), ST_NOT_FOUND);
	assert_int_equal(code(send_seq(2)), ST_UNKNOWN_RECIPIENT);
	/* What was acked before stays so. */
	r = one(send_seq(1));
	assert_int_equal(r.status, ST_OK);
	assert_true(r.dup);
	assert_int_equal(code(device_add(BOB)), ST_NOT_FOUND);
	assert_int_equal(code(account_add(BOB)), ST_EXISTS);
	assert_int_equal(account_of(BOB, 0).status, ST_NOT_FOUND);
	assert_int_equal(account_of(BOB, 1).status, ST_DEVICE_REMOVED);
}

static void test_a_roll_seals(void **state)
{
	struct store_segment g;

	(void)state;
	people();
	one(send_seq(1));
	assert_int_equal(code(retain(RETAIN_ROLL, 0, 0)), ST_OK);
	store_segment_info(w->m.store, 0, &g);
	assert_true(g.sealed);
	assert_int_equal(code(retain(RETAIN_ROLL, 0, 0)), ST_OK);
	one(send_seq(2));
	assert_int_equal(store_segments(w->m.store), 2);
}

static void test_what_a_page_says_after_a_trim(void **state)
{
	struct query q = { .type = QUERY_PAGE, .account = BOB, .from = 1,
			   .limit = 10 };
	struct buf b = BUF_INIT;
	struct result r;
	struct err e;
	uint64_t i, n;

	(void)state;
	people();
	for (i = 1; i <= 3; i++)
		one(send_seq(i));
	assert_int_equal(code(retain(RETAIN_ROLL, 0, 0)), ST_OK);
	n = n_records();
	for (i = 4; i <= 6; i++)
		one(send_seq(i));
	assert_int_equal(code(retain(RETAIN_TRIM, 0, n)), ST_OK);
	assert_int_equal(machine_query(&w->m, &q, &r, &b, &e), 0);
	assert_int_equal(r.inbox_oldest, 4);
	assert_int_equal(r.n_records, 3);
	assert_int_equal(r.next, 7);
	assert_true(r.complete);
	q.back = true;
	q.from = 0;
	assert_int_equal(machine_query(&w->m, &q, &r, &b, &e), 0);
	assert_int_equal(r.inbox_oldest, 4);
	assert_int_equal(r.n_records, 3);
	assert_true(r.complete);
	/* All of it: nothing is left, and that is said too. */
	assert_int_equal(code(retain(RETAIN_ROLL, 0, 0)), ST_OK);
	assert_int_equal(code(retain(RETAIN_TRIM, n, n_records())), ST_OK);
	q.back = false;
	q.from = 2;
	assert_int_equal(machine_query(&w->m, &q, &r, &b, &e), 0);
	assert_int_equal(r.inbox_oldest, 7);
	assert_int_equal(r.n_records, 0);
	assert_int_equal(r.next, 7);
	assert_true(r.complete);
	assert_int_equal(account_of(BOB, 1).inbox_oldest, 7);
	buf_release(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(1_unknown_recipient),
		T(2_retry_gets_the_first_ack),
		T(2_retry_inside_one_batch),
		T(2_number_used_for_another_message),
		T(2_comes_before_the_mailbox_and_the_clock),
		T(3_settled_below_the_floor),
		T(3_the_floor_lives_as_long_as_the_device),
		T(4_gap),
		T(4_counts_only_the_recipients_record),
		T(4_in_one_batch),
		T(7_the_set_keeps_the_newest_out_of_order),
		T(7_parts_are_two_members_of_the_set),
		T(7_mailbox_limit),
		T(refused_leaves_no_event),
		T(void_takes_the_number_away),
		T(void_after_the_message_shows_it),
		T(8_stamp_is_above_the_clock_and_what_was_seen),
		T(8_every_record_of_a_batch_is_above_the_last),
		T(8_nobody_pushes_the_clock_to_its_end),
		T(8_the_largest_number_is_out_of_reach),
		T(8_own_copy_carries_its_origin),
		T(time_never_falls),
		T(account_add),
		T(device_numbers_are_never_given_twice),
		T(removal_raises_the_epoch),
		T(cursors),
		T(meta_init),
		T(pages),
		T(malformed_batches),
		T(malformed_sends),
		T(replay_gives_equal_rows_and_root),
		cmocka_unit_test_setup_teardown(test_what_may_go, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_stale_judgement_does_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_retry_after_the_trim, setup, teardown),
		cmocka_unit_test_setup_teardown(test_an_erased_account, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_roll_seals, setup, teardown),
		cmocka_unit_test_setup_teardown(test_what_a_page_says_after_a_trim, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
