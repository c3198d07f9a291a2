/* A shard's store over real files and LMDB, against a model in memory: reads by
 * offset and by key, rolls, checkpoints, reopening, lost indexes, damage. */
#include "base/alloc.h"
#include "base/bytes.h"
#include "base/rand.h"
#include "log/frame.h"
#include "log/store.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include <cmocka.h>

#define KEYS 40
#define RECORDS 6000

struct world {
	uv_loop_t loop;
	struct disk *disk;
	struct store *store;
	struct store_config cfg;
	char dir[64];
	struct rand rand;
	/* the model */
	struct record recs[RECORDS];
	uint8_t *payload[RECORDS];
	uint64_t last[KEYS + 1];
	uint64_t n, index;
	unsigned batch_of[RECORDS];
	/* a checkpoint */
	int done;
	uint64_t durable;
	/* a read */
	uint64_t key, next, got;
	bool back;
};

static struct world *w;

static void open_store(void)
{
	struct err e = { 0 };
	int rv = store_open(&w->store, w->disk, &kv_lmdb, NULL, &w->cfg, &e);

	if (rv)
		print_message("%s\n", e.msg);
	assert_int_equal(rv, 0);
}

static int setup(void **state)
{
	struct err e;

	(void)state;
	w = xcalloc(1, sizeof *w);
	snprintf(w->dir, sizeof w->dir, "/tmp/quipu-store-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	assert_int_equal(uv_loop_init(&w->loop), 0);
	assert_int_equal(disk_uv_open(&w->disk, &w->loop, w->dir, &e), 0);
	w->cfg = (struct store_config){ .shard = 7,
					.segment_bytes = 64u << 10,
					.dirty_max_bytes = 1u << 20,
					.tail_cache_bytes = 64u << 10,
					.row_cache_max = 32 };
	memset(w->cfg.cluster_id, 9, 16);
	rand_seeded(&w->rand, 4711);
	open_store();
	return 0;
}

static int teardown(void **state)
{
	char cmd[96];
	unsigned i;

	(void)state;
	store_close(w->store);
	disk_uv_close(w->disk);
	uv_run(&w->loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&w->loop), 0);
	snprintf(cmd, sizeof cmd, "rm -rf %s", w->dir);
	assert_int_equal(system(cmd), 0);
	for (i = 0; i < w->n; i++)
		free(w->payload[i]);
	free(w);
	return 0;
}

static void make_record(uint64_t i)
{
	struct record *r = &w->recs[i];
	uint64_t key = 1 + rand_below(&w->rand, KEYS);
	uint32_t len = (uint32_t)rand_below(&w->rand, 400);

	memset(r, 0, sizeof *r);
	w->payload[i] = xmalloc(len + 1);
	rand_fill(&w->rand, w->payload[i], len);
	if (rand_below(&w->rand, 2))
		memset(w->payload[i], 'a', len);
	r->kind = RECORD_MESSAGE;
	r->cls = 1;
	r->key = key;
	r->n = rand_below(&w->rand, 50) ? ++w->last[key] : 0;
	r->offset = i;
	r->lamport = 10 + i * 3 + rand_below(&w->rand, 3);
	r->time_ms = 1000 + i / 7;
	r->sender = rand_u64(&w->rand);
	r->device = (uint32_t)rand_u64(&w->rand);
	r->seq = i;
	rand_fill(&w->rand, r->mid, 16);
	rand_fill(&w->rand, r->nonce, 16);
	r->payload = w->payload[i];
	r->payload_len = len;
	if (rand_below(&w->rand, 9) == 0) {
		r->flags = RECORD_HAS_ORIGIN;
		r->origin_shard = 3;
		r->origin_offset = i * 2;
		r->origin_lamport = i;
	}
}

/* Entries of the model from `from` on, each a batch, into the store. */
static void append(uint64_t from, uint64_t to)
{
	while (from < to) {
		struct record copy[64];
		unsigned n = w->batch_of[from];
		struct err e;

		memcpy(copy, &w->recs[from], n * sizeof *copy);
		assert_int_equal(store_append(w->store, 2, ++w->index, copy, n,
					      &e),
				 0);
		assert_int_equal(copy[0].offset, from);
		from += n;
	}
}

static void extend(uint64_t to)
{
	uint64_t from = w->n;

	while (w->n < to) {
		unsigned n = 1 + (unsigned)rand_below(&w->rand, 60), i;

		if (n > to - w->n)
			n = (unsigned)(to - w->n);
		w->batch_of[w->n] = n;
		for (i = 0; i < n; i++)
			make_record(w->n + i);
		w->n += n;
	}
	append(from, to);
}

static void ckpt_done(void *arg, int status, uint64_t index, uint64_t term,
		      const struct err *e)
{
	(void)arg;
	(void)e;
	assert_int_equal(status, 0);
	assert_int_equal(term, 2);
	w->durable = index;
	w->done = 1;
}

static void checkpoint(void)
{
	w->done = 0;
	assert_int_equal(store_checkpoint(w->store, ckpt_done, NULL), 0);
	while (!w->done)
		uv_run(&w->loop, UV_RUN_ONCE);
}

static bool same(void *arg, const struct record *r)
{
	const struct record *want = &w->recs[r->offset];

	(void)arg;
	assert_true(r->offset < w->n);
	assert_int_equal(r->key, want->key);
	assert_int_equal(r->n, want->n);
	assert_int_equal(r->lamport, want->lamport);
	assert_int_equal(r->time_ms, want->time_ms);
	assert_int_equal(r->sender, want->sender);
	assert_int_equal(r->device, want->device);
	assert_int_equal(r->seq, want->seq);
	assert_int_equal(r->flags, want->flags);
	assert_int_equal(r->origin_offset, want->origin_offset);
	assert_memory_equal(r->mid, want->mid, 16);
	assert_memory_equal(r->nonce, want->nonce, 16);
	assert_int_equal(r->payload_len, want->payload_len);
	assert_memory_equal(r->payload, want->payload, r->payload_len);
	if (w->key) {
		assert_int_equal(r->key, w->key);
		assert_int_equal(r->n, w->next);
		w->next += w->back ? -1 : 1;
	} else {
		assert_int_equal(r->offset, w->next);
		w->next++;
	}
	w->got++;
	return true;
}

static void check_all(void)
{
	uint64_t k, oldest, from;
	struct err e = { 0 };

	w->key = w->next = w->got = 0;
	assert_int_equal(store_read(w->store, 0, UINT32_MAX, same, NULL, &e), 0);
	assert_int_equal(w->got, w->n);
	for (k = 1; k <= KEYS; k++) {
		assert_int_equal(store_key_last(w->store, k), w->last[k]);
		w->key = k;
		w->back = false;
		for (from = 1; from <= w->last[k];
		     from += 1 + rand_below(&w->rand, 60)) {
			w->next = from;
			w->got = 0;
			assert_int_equal(store_read_key(w->store, k, from, 17,
							SIZE_MAX, same, NULL,
							&oldest, &e),
					 0);
			assert_int_equal(w->got, w->last[k] - from + 1 < 17
							 ? w->last[k] - from + 1
							 : 17);
		}
		w->next = 1;
		w->got = 0;
		assert_int_equal(store_read_key(w->store, k, 0, UINT32_MAX,
						SIZE_MAX, same, NULL, &oldest,
						&e),
				 0);
		assert_int_equal(w->got, w->last[k]);
		w->back = true;
		w->next = w->last[k];
		w->got = 0;
		assert_int_equal(store_read_key_back(w->store, k, 0, UINT32_MAX,
						     SIZE_MAX, same, NULL,
						     &oldest, &e),
				 0);
		assert_int_equal(w->got, w->last[k]);
	}
}

static void test_append_and_read(void **state)
{
	uint8_t root[32], want[32], *leaves = xmalloc(RECORDS * 32);
	struct store_stats st;
	struct buf raw = BUF_INIT;

	(void)state;
	extend(3000);
	check_all();
	store_stats(w->store, &st);
	assert_true(st.segments > 5);
	/* The tree does not depend on how records fell into frames. */
	store_root(w->store, root);
	for (uint64_t i = 0; i < w->n;) {
		frame_body(&raw, &w->recs[i], w->batch_of[i], leaves + 32 * i);
		i += w->batch_of[i];
	}
	merkle_root(leaves, w->n, want);
	assert_memory_equal(root, want, 32);
	free(leaves);
	buf_release(&raw);
}

static void test_reopen_replays(void **state)
{
	uint8_t root[32], again[32];
	uint64_t at;

	(void)state;
	extend(2000);
	checkpoint();
	at = w->n;
	extend(4200);
	store_root(w->store, root);
	/* As after a crash: what followed the checkpoint is applied again. */
	store_close(w->store);
	open_store();
	assert_int_equal(store_meta(w->store)->applied_index, w->durable);
	assert_int_equal(store_meta(w->store)->next_offset, at);
	w->index = w->durable;
	append(at, w->n);
	store_root(w->store, again);
	assert_memory_equal(root, again, 32);
	check_all();
	checkpoint();
	store_close(w->store);
	open_store();
	check_all();
}

static void test_lost_index(void **state)
{
	char cmd[128];

	(void)state;
	extend(3000);
	checkpoint();
	store_close(w->store);
	snprintf(cmd, sizeof cmd, "rm %s/shards/0007-1/seg/*.idx", w->dir);
	assert_int_equal(system(cmd), 0);
	open_store();
	check_all();
}

static bool ignore(void *arg, const struct record *r)
{
	(void)r;
	return ++*(uint64_t *)arg;
}

static void test_damage_is_named(void **state)
{
	char path[128];
	uint64_t got = 0;
	struct err e = { 0 };
	uint8_t byte;
	int fd;

	(void)state;
	extend(3000);
	checkpoint();
	store_close(w->store);
	snprintf(path, sizeof path,
		 "%s/shards/0007-1/seg/0000000000000000.0.seg", w->dir);
	fd = open(path, O_RDWR);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &byte, 1, 30000), 1);
	byte ^= 4;
	assert_int_equal(pwrite(fd, &byte, 1, 30000), 1);
	close(fd);
	open_store();
	assert_int_equal(store_read(w->store, 0, UINT32_MAX, ignore, &got, &e),
			 ERR_DAMAGED);
	assert_non_null(strstr(e.msg, "shard 7: segment 0000000000000000 is "
				      "damaged at byte"));
	assert_true(got > 0 && got < 300);
	/* Nothing was cut: with the byte back, all is there. */
	fd = open(path, O_RDWR);
	byte ^= 4;
	assert_int_equal(pwrite(fd, &byte, 1, 30000), 1);
	close(fd);
	check_all();
}

static bool count_row(void *arg, const void *key, unsigned klen,
		      const void *val, uint32_t len)
{
	unsigned *n = arg;

	assert_int_equal(klen, 2);
	assert_int_equal(len, 8);
	assert_memory_equal(key, val, 2);
	++*n;
	return true;
}

static void test_rows(void **state)
{
	uint8_t key[2] = { 0 }, *row;
	unsigned i, n = 0;
	uint32_t len;
	struct err e;

	(void)state;
	for (i = 0; i < 200; i++) {
		key[0] = (uint8_t)(i * 7);
		key[1] = (uint8_t)i;
		row = row_put(w->store, 5, key, 2, 8);
		memcpy(row, key, 2);
		if (i % 50 == 0) {
			assert_int_equal(store_append(w->store, 2, ++w->index,
						      NULL, 0, &e),
					 0);
			checkpoint();
		}
		if (i % 10 == 9)
			row_del(w->store, 5, key, 2);
	}
	assert_int_equal(row_walk(w->store, 5, count_row, &n, &e), 0);
	assert_int_equal(n, 180);
	store_append(w->store, 2, ++w->index, NULL, 0, &e);
	checkpoint();
	store_close(w->store);
	open_store();
	n = 0;
	assert_int_equal(row_walk(w->store, 5, count_row, &n, &e), 0);
	assert_int_equal(n, 180);
	key[0] = (uint8_t)(9 * 7);
	key[1] = 9;
	assert_null(row_get(w->store, 5, key, 2, &len));
	key[0] = 7;
	key[1] = 1;
	assert_non_null(row_get(w->store, 5, key, 2, &len));
	assert_int_equal(len, 8);
}

/* Nobody is told, and nothing is made durable, of what a damaged row would change. */
static void test_damaged_row(void **state)
{
	const char *path = "shards/0007-1/state.mdb";
	uint8_t key[3] = { 5, 1, 2 }, *row;
	struct err e = { 0 };
	struct kv *kv;
	const void *val;
	uint8_t bad[16];
	uint32_t len;
	size_t n;

	(void)state;
	row = row_put(w->store, 5, key + 1, 2, 8);
	memset(row, 7, 8);
	store_append(w->store, 2, ++w->index, NULL, 0, &e);
	checkpoint();
	store_close(w->store);
	assert_int_equal(kv_lmdb.open(NULL, w->disk, path, &kv, &e), 0);
	assert_int_equal(kv_lmdb.get(kv, key, 3, &val, &n, &e), 0);
	assert_int_equal(n, sizeof bad);
	memcpy(bad, val, n);
	bad[3] ^= 1;
	assert_int_equal(kv_lmdb.begin(kv, &e), 0);
	assert_int_equal(kv_lmdb.put(kv, key, 3, bad, n, &e), 0);
	assert_int_equal(kv_lmdb.commit(kv, &e), 0);
	kv_lmdb.close(kv);
	open_store();
	assert_int_equal(store_check(w->store, &e), 0);
	assert_null(row_get(w->store, 5, key + 1, 2, &len));
	assert_int_equal(store_check(w->store, &e), ERR_DAMAGED);
	assert_string_equal(e.msg, "shard 7: a row of table 5 is damaged");
	assert_int_equal(store_append(w->store, 2, ++w->index, NULL, 0, &e),
			 ERR_DAMAGED);
	assert_int_equal(store_checkpoint(w->store, ckpt_done, NULL),
			 ERR_DAMAGED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_append_and_read, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_reopen_replays, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_lost_index, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_damage_is_named, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_rows, setup, teardown),
		cmocka_unit_test_setup_teardown(test_damaged_row, setup,
						teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
