/* What leaves a store: trimmed segments, rewritten ones, and their files.  Also with
 * the power going before every single disk operation of the whole story. */
#include "log/store.h"
#include "base/alloc.h"
#include "tests/lib/disk_sim.h"
#include "tests/lib/kv_mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { BATCH = 8, TEXT = 100, KEYS = 3, LAST = 90, WANT_AT = 30, TRIM_AT = 50, ROLL_AT = 60 };

static struct {
	struct sim sim;
	struct disk_sim *ds;
	struct disk *disk;
	struct store_config cfg;
	struct store *store;
	uint64_t index;
	uint64_t last[KEYS + 1];
	int done, status;
	bool frozen;
	uint64_t dead_end, trim; /* what the story dropped */
	uint64_t next, stubs;    /* of a read */
} w;

static void settle(void)
{
	int owner;

	while (sim_step(&w.sim, &owner))
		;
}

static void start(void)
{
	struct err e = { 0 };
	uint64_t k;

	w.disk = disk_sim_start(w.ds);
	if (store_open(&w.store, w.disk, &kv_mem, NULL, &w.cfg, &e))
		fail_msg("%s", e.msg);
	w.index = store_meta(w.store)->applied_index;
	for (k = 1; k <= KEYS; k++)
		w.last[k] = store_key_last(w.store, k);
}

static int setup(void **state)
{
	(void)state;
	memset(&w, 0, sizeof w);
	sim_init(&w.sim, 1);
	w.ds = disk_sim_new(&w.sim, 0, 1, &disk_sim_fast);
	w.cfg = (struct store_config){ .shard = 7,
				       .segment_bytes = 8u << 10,
				       .dirty_max_bytes = 1u << 20,
				       .tail_cache_bytes = 4u << 10,
				       .row_cache_max = 8 };
	start();
	return 0;
}

static void stop(bool power)
{
	disk_sim_crash_at(w.ds, 0, NULL, NULL);
	if (power)
		disk_sim_crash(w.ds);
	else
		disk_sim_kill(w.ds);
	store_close(w.store);
	settle();
}

static int teardown(void **state)
{
	(void)state;
	stop(false);
	disk_sim_free(w.ds);
	sim_release(&w.sim);
	return 0;
}

static const char *payload(uint64_t offset)
{
	static char text[TEXT];
	uint64_t x = offset + 1;
	unsigned i;

	/* It must not pack well. */
	for (i = 0; i + 1 < TEXT; i++) {
		x = x * 6364136223846793005ull + 1442695040888963407ull;
		text[i] = (char)('!' + (x >> 57) % 90);
	}
	return text;
}

/* Every second record of the first segment. */
static bool is_dead(uint64_t offset)
{
	return offset < w.dead_end && offset % 2;
}

static void want(void)
{
	uint8_t bits[DEAD_BLOCK / 8];
	struct store_segment g;

	store_segment_info(w.store, 0, &g);
	assert_int_equal(g.base, 0);
	assert_true(g.sealed);
	w.dead_end = g.end;
	memset(bits, 0xaa, sizeof bits);
	store_dead(w.store, 0, 1, 0, bits, (uint32_t)(g.end + 7) / 8);
	store_want(w.store, 0, g.end, 1);
}

/* The next segment but one goes as well. */
static void trim(void)
{
	struct store_segment g;

	store_segment_info(w.store, 0, &g);
	store_trim(w.store, g.base, g.end, g.end);
	store_segment_info(w.store, 0, &g);
	store_trim(w.store, g.base, g.end, g.end);
	w.trim = g.end;
}

static void apply(void)
{
	struct record recs[BATCH];
	char texts[BATCH][TEXT];
	struct err e = { 0 };
	uint64_t offset = store_meta(w.store)->next_offset, i;

	memset(recs, 0, sizeof recs);
	w.index++;
	for (i = 0; i < BATCH; i++) {
		struct record *r = &recs[i];

		snprintf(texts[i], TEXT, "%s", payload(offset + i));
		r->kind = RECORD_MESSAGE;
		r->cls = 1;
		r->key = 1 + (offset + i) % KEYS;
		r->n = ++w.last[r->key];
		r->lamport = w.index * BATCH + i;
		r->time_ms = 1000 + w.index;
		r->sender = 5;
		r->seq = w.index;
		memset(r->nonce, (int)i, 16);
		r->payload = (const uint8_t *)texts[i];
		r->payload_len = (uint32_t)strlen(texts[i]);
	}
	if (store_append(w.store, 1, w.index, recs, BATCH, &e))
		fail_msg("%s", e.msg);
	if (w.index == WANT_AT)
		want();
	if (w.index == TRIM_AT)
		trim();
	if (w.index == ROLL_AT)
		assert_int_equal(store_roll(w.store, &e), 0);
}

static void on_done(void *arg, int status, uint64_t index, uint64_t term,
		    const struct err *e)
{
	(void)arg;
	(void)index;
	(void)term;
	(void)e;
	w.done++;
	w.status = status;
}

static void checkpoint(void)
{
	assert_int_equal(store_checkpoint(w.store, on_done, NULL), 0);
	settle();
	assert_true(w.frozen || !w.status);
}

static bool rewrite_all(void)
{
	struct rewrite *r;
	bool any = false;

	while (!w.frozen && (r = store_rewrite_begin(w.store)) != NULL) {
		struct err e = { 0 };
		bool done = false;

		while (!done && !w.frozen)
			if (rewrite_step(r, 3000, &done, &e) && !w.frozen)
				fail_msg("%s", e.msg);
		if (!w.frozen)
			any |= store_rewrite_commit(w.store, r);
		rewrite_free(r);
	}
	return any;
}

/* Entries up to the last, with checkpoints and rewrites in between. */
static void go_on(void)
{
	while (w.index < LAST && !w.frozen) {
		apply();
		if (w.index % 10 == 5 && !w.frozen)
			checkpoint();
		if (w.index % 10 == 7)
			rewrite_all();
	}
	while (!w.frozen) {
		checkpoint();
		if (!w.frozen && !rewrite_all() && !store_doomed(w.store))
			break;
	}
}

static bool check_record(void *arg, const struct record *r)
{
	uint64_t step = *(uint64_t *)arg;

	assert_int_equal(r->offset, w.next);
	w.next += step;
	if (r->flags & RECORD_STUB) {
		assert_true(is_dead(r->offset));
		assert_int_equal(r->payload_len, 0);
		w.stubs++;
	} else {
		assert_int_equal(r->payload_len, strlen(payload(r->offset)));
		assert_memory_equal(r->payload, payload(r->offset),
				    r->payload_len);
	}
	return true;
}

static bool no_record(void *arg, const struct record *r)
{
	(void)arg;
	fail_msg("record %llu was given", (unsigned long long)r->offset);
	return false;
}

static bool count_back(void *arg, const struct record *r)
{
	assert_int_equal(r->n, --*(uint64_t *)arg);
	return true;
}

/* All that must be readable is, and nothing else. */
static void check_reads(void)
{
	uint64_t one = 1, keys = KEYS, oldest, before, k, n;
	struct err e = { 0 };

	w.next = w.trim;
	w.stubs = 0;
	assert_int_equal(store_trimmed(w.store), w.trim);
	assert_int_equal(store_read(w.store, w.trim, UINT32_MAX, check_record,
				    &one, &e),
			 0);
	assert_int_equal(w.next, LAST * BATCH);
	if (w.trim)
		assert_int_equal(store_read(w.store, w.trim - 1, 1, no_record,
					    NULL, &e),
				 ERR_TRUNCATED);
	for (k = 1; k <= KEYS; k++) {
		/* The first of a key at or behind the trim point. */
		n = w.trim / KEYS + (w.trim % KEYS > k - 1);
		w.next = n * KEYS + k - 1;
		if (n) {
			assert_int_equal(store_read_key(w.store, k, 1, 100, 1 << 20,
							no_record, NULL, &oldest, &e),
					 ERR_TRUNCATED);
			assert_int_equal(oldest, n + 1);
			assert_int_equal(store_read_key(w.store, k, n, 100, 1 << 20,
							no_record, NULL, &oldest, &e),
					 ERR_TRUNCATED);
			assert_int_equal(oldest, n + 1);
		}
		assert_int_equal(store_key_oldest(w.store, k, 0, &oldest, &e), 0);
		assert_int_equal(oldest, n + 1);
		assert_int_equal(store_read_key(w.store, k, n + 1, UINT32_MAX,
						1 << 20, check_record, &keys,
						&oldest, &e),
				 0);
		assert_true(w.next >= LAST * BATCH);
		before = w.last[k] + 1;
		assert_int_equal(store_read_key_back(w.store, k, 0, UINT32_MAX,
						     1 << 20, count_back, &before,
						     &oldest, &e),
				 n ? ERR_TRUNCATED : 0);
		assert_int_equal(before, n + 1);
		assert_int_equal(oldest, n + 1);
	}
}

static void count_file(void *arg, const char *name, bool is_dir)
{
	(void)name;
	(void)is_dir;
	++*(unsigned *)arg;
}

/* No file is left that nobody names, and none is missing. */
static void check_files(void)
{
	unsigned files = 0, want_files = 0;
	struct store_segment g;
	uint32_t i;

	assert_int_equal(w.disk->ops->list(w.disk, "shards/0007-1/seg", count_file,
					   &files, NULL),
			 0);
	for (i = 0; i < store_segments(w.store); i++) {
		store_segment_info(w.store, i, &g);
		want_files += g.sealed ? 2 : 1;
		assert_int_equal(g.generation, g.wanted);
	}
	assert_int_equal(files, want_files);
}

static void root(uint8_t out[32])
{
	store_root(w.store, out);
}

static void check_stubs(void)
{
	uint64_t one = 1;
	struct err e;

	w.next = w.stubs = 0;
	assert_int_equal(store_read(w.store, 0, (unsigned)w.dead_end,
				    check_record, &one, &e),
			 0);
	assert_int_equal(w.stubs, w.dead_end / 2);
}

static void test_a_rewritten_segment(void **state)
{
	uint8_t before[32], after[32], chain[32];
	struct store_segment g;
	uint64_t bytes;

	(void)state;
	while (w.index < WANT_AT)
		apply();
	w.next = 0;
	root(before);
	memcpy(chain, store_meta(w.store)->chain, 32);
	assert_null(store_rewrite_begin(w.store)); /* it is not durable yet */
	checkpoint();
	store_segment_info(w.store, 0, &g);
	bytes = g.bytes;
	assert_true(rewrite_all());
	store_segment_info(w.store, 0, &g);
	assert_int_equal(g.generation, 1);
	assert_true(g.bytes < bytes);
	check_stubs();
	/* Also without its index. */
	assert_int_equal(w.disk->ops->unlink(w.disk, "shards/0007-1/seg/"
						     "0000000000000000.0.idx",
					     NULL),
			 0);
	stop(false);
	start();
	while (w.index < WANT_AT)
		apply();
	assert_true(rewrite_all());
	check_stubs();
	assert_int_equal(store_doomed(w.store), 1);
	/* While somebody ships it, the old file stays. */
	store_hold(w.store, true);
	checkpoint();
	store_hold(w.store, false);
	assert_int_equal(store_doomed(w.store), 1);
	checkpoint();
	assert_int_equal(store_doomed(w.store), 0);
	root(after);
	assert_memory_equal(before, after, 32);
	assert_memory_equal(chain, store_meta(w.store)->chain, 32);
	go_on();
	check_reads();
	check_files();
}

static void test_what_is_trimmed_is_told(void **state)
{
	struct store_segment g;
	uint32_t n;

	(void)state;
	while (w.index < TRIM_AT - 1)
		apply();
	checkpoint();
	n = store_segments(w.store);
	apply();
	assert_int_equal(store_segments(w.store), n - 2);
	assert_int_equal(store_doomed(w.store), 3); /* and a rewrite not begun */
	go_on();
	check_reads();
	check_files();
	stop(true);
	start();
	check_reads();
	check_files();
	store_segment_info(w.store, 0, &g);
	assert_int_equal(g.base, w.trim);
}

/* Nothing is left at all: numbers, chain and offsets go on. */
static void test_all_is_trimmed(void **state)
{
	uint64_t end, oldest;
	struct err e = { 0 };

	(void)state;
	while (w.index < 20)
		apply();
	assert_int_equal(store_roll(w.store, &e), 0);
	end = store_meta(w.store)->next_offset;
	store_trim(w.store, 0, end, end);
	assert_int_equal(store_segments(w.store), 0);
	checkpoint();
	stop(true);
	start();
	assert_int_equal(store_segments(w.store), 0);
	assert_int_equal(store_key_oldest(w.store, 1, 0, &oldest, &e), 0);
	assert_int_equal(oldest, w.last[1] + 1);
	while (w.index < 25)
		apply();
	checkpoint();
	stop(true);
	start();
	assert_int_equal(store_segments(w.store), 1);
	w.trim = end;
}

/* A file that the disk does not let go costs nothing, and goes later. */
static void test_a_file_that_stays(void **state)
{
	uint32_t doomed;
	unsigned n = 0;

	(void)state;
	while (w.index < TRIM_AT)
		apply();
	doomed = store_doomed(w.store);
	/* Up to the first removal; what fails before it fails the checkpoint. */
	w.frozen = true;
	do {
		assert_int_equal(store_doomed(w.store), doomed);
		disk_sim_fail_at(w.ds, ++n, ERR_IO);
		checkpoint();
		disk_sim_fail_at(w.ds, 0, 0);
	} while (w.status);
	w.frozen = false;
	assert_int_equal(store_stuck(w.store), 1);
	assert_int_equal(store_doomed(w.store), 1);
	checkpoint();
	assert_int_equal(store_stuck(w.store), 0);
	assert_int_equal(store_doomed(w.store), 0);
	go_on();
	check_reads();
	check_files();
}

static void on_frozen(void *arg)
{
	(void)arg;
	w.frozen = true;
}

static void test_the_power_goes_at_every_operation(void **state)
{
	uint8_t want_root[32], got[32], want_chain[32];
	uint64_t n, crashes = 0;

	go_on();
	root(want_root);
	memcpy(want_chain, store_meta(w.store)->chain, 32);
	check_reads();
	check_files();
	for (n = 1;; n++) {
		teardown(state);
		setup(state);
		disk_sim_crash_at(w.ds, n, on_frozen, NULL);
		go_on();
		if (!w.frozen)
			break;
		crashes++;
		stop(true);
		w.frozen = false;
		start();
		/* What the story did is known from the rows. */
		if (w.index < TRIM_AT)
			w.trim = 0;
		go_on();
		root(got);
		assert_memory_equal(got, want_root, 32);
		assert_memory_equal(store_meta(w.store)->chain, want_chain, 32);
		check_reads();
		check_files();
	}
	print_message("crashed at each of %llu operations\n",
		      (unsigned long long)crashes);
	assert_true(crashes > 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_a_rewritten_segment, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_what_is_trimmed_is_told,
						setup, teardown),
		cmocka_unit_test_setup_teardown(test_all_is_trimmed, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_a_file_that_stays, setup,
						teardown),
		cmocka_unit_test_setup_teardown(
			test_the_power_goes_at_every_operation, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
