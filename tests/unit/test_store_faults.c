/* A store whose disk fails, at each operation of appends and of a checkpoint: a
 * failure is never swallowed, a full disk in the commit costs nothing, and what a
 * checkpoint called durable is there afterwards. */
#include "log/store.h"
#include "tests/lib/disk_sim.h"
#include "tests/lib/kv_mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { BATCHES = 40, BATCH = 8 };

static struct {
	struct sim sim;
	struct disk_sim *ds;
	struct store_config cfg;
	struct store *store;
	uint64_t index;
	int done, status; /* of the last checkpoint */
	char why[160];
} w;

static void settle(void)
{
	int owner;

	while (sim_step(&w.sim, &owner))
		;
}

static void start(void)
{
	struct err e;

	assert_int_equal(store_open(&w.store, disk_sim_start(w.ds), &kv_mem, NULL,
				    &w.cfg, &e),
			 0);
	w.index = store_meta(w.store)->applied_index;
}

static int setup(void **state)
{
	(void)state;
	memset(&w, 0, sizeof w);
	sim_init(&w.sim, 1);
	w.ds = disk_sim_new(&w.sim, 0, 1, &disk_sim_fast);
	w.cfg = (struct store_config){ .shard = 7,
				       .segment_bytes = 16u << 10,
				       .dirty_max_bytes = 1u << 20,
				       .tail_cache_bytes = 16u << 10,
				       .row_cache_max = 8 };
	start();
	return 0;
}

static void stop(void)
{
	disk_sim_fail_at(w.ds, 0, 0);
	disk_sim_kill(w.ds);
	store_close(w.store);
	settle();
}

static int teardown(void **state)
{
	(void)state;
	stop();
	disk_sim_free(w.ds);
	sim_release(&w.sim);
	return 0;
}

/* The entry after the last; the same bytes whenever it is made. */
static int append(struct err *e)
{
	struct record recs[BATCH];
	uint64_t index = w.index + 1, i;
	uint8_t key[8] = { 0 }, *row;

	memset(recs, 0, sizeof recs);
	for (i = 0; i < BATCH; i++) {
		struct record *r = &recs[i];

		r->kind = RECORD_MESSAGE;
		r->cls = 1;
		r->key = 1 + i % 3;
		r->lamport = index * BATCH + i;
		r->time_ms = 1000 + index;
		r->sender = 5;
		r->seq = index;
		r->payload = (const uint8_t *)"a message of some length";
		r->payload_len = 24;
	}
	key[0] = (uint8_t)(index % 50);
	row = row_put(w.store, 5, key, 8, 16);
	memcpy(row, &index, 8);
	w.index = index;
	return store_append(w.store, 1, index, recs, BATCH, e);
}

static void append_to(uint64_t index)
{
	struct err e = { 0 };

	while (w.index < index)
		if (append(&e))
			fail_msg("%s", e.msg);
}

static void on_done(void *arg, int status, uint64_t index, uint64_t term,
		    const struct err *e)
{
	(void)arg;
	assert_int_equal(index, w.index);
	assert_int_equal(term, 1);
	w.done++;
	w.status = status;
	if (status) {
		assert_non_null(e);
		snprintf(w.why, sizeof w.why, "%.*s", (int)sizeof w.why - 1, e->msg);
	}
}

static int checkpoint(void)
{
	int before = w.done;

	assert_int_equal(store_checkpoint(w.store, on_done, NULL), 0);
	settle();
	assert_int_equal(w.done, before + 1);
	return w.status;
}

static bool count_record(void *arg, const struct record *r)
{
	uint64_t *n = arg;

	assert_int_equal(r->offset, (*n)++);
	assert_int_equal(r->payload_len, 24);
	return true;
}

/* After the power went: the store is as of entry `index`, whole. */
static void reopened_at(uint64_t index)
{
	uint64_t n = 0;
	struct err e;

	disk_sim_fail_at(w.ds, 0, 0);
	disk_sim_crash(w.ds);
	store_close(w.store);
	settle();
	start();
	assert_int_equal(w.index, index);
	assert_int_equal(store_meta(w.store)->next_offset, index * BATCH);
	assert_int_equal(store_read(w.store, 0, UINT32_MAX, count_record, &n, &e), 0);
	assert_int_equal(n, index * BATCH);
}

static void test_each_step_of_a_checkpoint_fails(void **state)
{
	uint64_t n;

	for (n = 1;; n++) {
		append_to(BATCHES);
		assert_int_equal(checkpoint(), 0);
		append_to(2 * BATCHES);
		disk_sim_fail_at(w.ds, n, ERR_IO);
		if (!checkpoint())
			break; /* it has fewer than n */
		assert_int_equal(w.status, ERR_IO);
		assert_non_null(strstr(w.why, "injected"));
		/* The process ends; what the first one made durable is there. */
		reopened_at(BATCHES);
		teardown(state);
		setup(state);
	}
	assert_true(n > 5); /* the tree, segments, names, the commit */
	reopened_at(2 * BATCHES);
}

static void test_a_full_disk_is_survived_only_in_the_commit(void **state)
{
	unsigned survived = 0;
	uint64_t n;

	for (n = 1;; n++) {
		append_to(BATCHES);
		disk_sim_fail_at(w.ds, n, ERR_NOSPACE);
		if (!checkpoint())
			break;
		if (w.status == ERR_NOSPACE) {
			survived++;
			/* Nothing is forgotten: the next one has it all. */
			append_to(BATCHES + 5);
			assert_int_equal(checkpoint(), 0);
			reopened_at(BATCHES + 5);
		} else {
			assert_int_equal(w.status, ERR_IO);
		}
		teardown(state);
		setup(state);
	}
	assert_int_equal(survived, 1);
	reopened_at(BATCHES);
}

static void test_each_write_of_an_append_fails(void **state)
{
	uint64_t n;

	for (n = 1;; n++) {
		struct err e = { 0 };

		append_to(3);
		assert_int_equal(checkpoint(), 0);
		disk_sim_fail_at(w.ds, n, ERR_IO);
		while (w.index < BATCHES && !append(&e))
			;
		if (w.index == BATCHES && !e.code)
			break;
		assert_int_equal(e.code, ERR_IO);
		assert_non_null(strstr(e.msg, "injected"));
		reopened_at(3);
		append_to(BATCHES); /* the journal has them */
		assert_int_equal(checkpoint(), 0);
		reopened_at(BATCHES);
		teardown(state);
		setup(state);
	}
	assert_true(n > BATCHES); /* each batch is a write, and segments were sealed */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_each_step_of_a_checkpoint_fails,
						setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_a_full_disk_is_survived_only_in_the_commit, setup,
			teardown),
		cmocka_unit_test_setup_teardown(test_each_write_of_an_append_fails,
						setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
