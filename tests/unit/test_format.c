/* Golden bytes of the disk formats: what the product writes for fixed input, made by
 * the real journal and store over the simulated disk.  docs/format.md walks through
 * these files.  QUIPU_GOLDEN=write makes them anew: only for a new format version. */
#include "base/alloc.h"
#include "base/bytes.h"
#include "log/journal.h"
#include "log/journal_format.h"
#include "log/nodemeta.h"
#include "log/replicameta.h"
#include "log/store.h"
#include "tests/lib/disk_sim.h"
#include "tests/lib/kv_mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define GOLDEN "tests/golden/format/"

static void golden(const char *name, const void *p, size_t n)
{
	char path[128];
	uint8_t *want = xmalloc(n + 1);
	size_t got;
	FILE *f;

	snprintf(path, sizeof path, GOLDEN "%s", name);
	if (getenv("QUIPU_GOLDEN")) {
		f = fopen(path, "wb");
		assert_non_null(f);
		assert_int_equal(fwrite(p, 1, n, f), n);
		assert_int_equal(fclose(f), 0);
	}
	f = fopen(path, "rb");
	if (!f)
		print_message("%s is missing\n", path);
	assert_non_null(f);
	got = fread(want, 1, n + 1, f);
	fclose(f);
	assert_int_equal(got, n);
	assert_memory_equal(want, p, n);
	free(want);
}

struct world {
	struct sim sim;
	struct disk_sim *ds;
	struct disk *disk;
	unsigned done;
};

static void world_init(struct world *w)
{
	memset(w, 0, sizeof *w);
	sim_init(&w->sim, 1);
	w->ds = disk_sim_new(&w->sim, 0, 1, &disk_sim_fast);
	w->disk = disk_sim_start(w->ds);
}

static void world_free(struct world *w)
{
	while (sim_step(&w->sim, &(int){ 0 }))
		;
	disk_sim_crash(w->ds);
	disk_sim_free(w->ds);
	sim_release(&w->sim);
}

static uint8_t *file_bytes(struct world *w, const char *path, size_t *n)
{
	struct disk_file *f;
	struct err e;
	uint64_t size;
	uint8_t *p;

	assert_int_equal(w->disk->ops->open(w->disk, path, DISK_READ, &f, &e),
			 0);
	assert_int_equal(w->disk->ops->size(f, &size, &e), 0);
	p = xmalloc(size + 1);
	assert_int_equal(w->disk->ops->pread(f, p, size, 0, n, &e), 0);
	w->disk->ops->close(f);
	return p;
}

static void golden_file(struct world *w, const char *name, const char *path)
{
	size_t n;
	uint8_t *p = file_bytes(w, path, &n);

	golden(name, p, n);
	free(p);
}

static void cluster(uint8_t id[16])
{
	memcpy(id, "cluster-0123456", 16);
}

static void test_nodemeta(void **state)
{
	struct nodemeta m, got;
	uint8_t bytes[NODEMETA_SIZE];
	struct err e;
	unsigned i;

	(void)state;
	memset(&m, 0, sizeof m);
	m.version = 1;
	m.node_id = 2;
	cluster(m.cluster_id);
	memcpy(m.disk_id, "disk-0123456789", 16);
	nodemeta_encode(&m, bytes);
	golden("node.meta.v1", bytes, sizeof bytes);
	assert_int_equal(nodemeta_decode(&got, bytes, sizeof bytes, &e), 0);
	assert_memory_equal(&got, &m, sizeof m);
	m.version = 2;
	m.joined = true;
	m.feature_level = 3;
	m.history_epoch = 0x0102030405060708;
	m.founders = 1 << 1 | 1 << 2 | 1 << 3;
	m.shards = 64;
	nodemeta_encode(&m, bytes);
	golden("node.meta", bytes, sizeof bytes);
	assert_int_equal(nodemeta_decode(&got, bytes, sizeof bytes, &e), 0);
	assert_memory_equal(&got, &m, sizeof m);
	for (i = 0; i < sizeof bytes; i++) {
		int rv;

		bytes[i] ^= 0x10;
		rv = nodemeta_decode(&got, bytes, sizeof bytes, &e);
		assert_true(rv == ERR_CHECKSUM || rv == ERR_FORMAT ||
			    rv == ERR_VERSION);
		bytes[i] ^= 0x10;
	}
}

static void no_more(void *arg)
{
	(void)arg;
}

static void some_replicas(struct replicameta *m)
{
	memset(m, 0, sizeof *m);
	m->node_id = 4;
	cluster(m->cluster_id);
	m->generation = 7;
	m->shard[0].state = REPLICA_ABSENT;
	m->shard[5].state = REPLICA_HERE;
	m->shard[5].life = 0x1122334455667788;
}

static void test_replicameta(void **state)
{
	static struct replicameta m, got;
	uint8_t bytes[REPLICAMETA_SIZE];
	struct err e;
	unsigned i;

	(void)state;
	some_replicas(&m);
	replicameta_encode(&m, bytes);
	golden("replicas.meta", bytes, sizeof bytes);
	assert_int_equal(replicameta_decode(&got, bytes, sizeof bytes, &e), 0);
	assert_memory_equal(&got, &m, sizeof m);
	for (i = 0; i < sizeof bytes; i++) {
		int rv;

		bytes[i] ^= 0x10;
		rv = replicameta_decode(&got, bytes, sizeof bytes, &e);
		assert_true(rv == ERR_CHECKSUM || rv == ERR_FORMAT ||
			    rv == ERR_VERSION);
		bytes[i] ^= 0x10;
	}
	for (i = 0; i < sizeof bytes; i++)
		assert_int_not_equal(replicameta_decode(&got, bytes, i, &e), 0);
}

static void test_replicameta_open(void **state)
{
	static struct replicameta m, got;
	struct world w;
	struct err e;

	(void)state;
	some_replicas(&m);
	world_init(&w);
	got = (struct replicameta){ .node_id = 4 };
	cluster(got.cluster_id);
	assert_int_equal(replicameta_open(w.disk, &got, &e), 0);
	assert_int_equal(got.generation, 0);
	assert_int_equal(replicameta_save(w.disk, &m, &e), 0);
	assert_int_equal(replicameta_open(w.disk, &got, &e), 0);
	assert_memory_equal(&got, &m, sizeof m);
	/* One bad copy is written anew. */
	assert_true(disk_sim_flip(w.ds, "replicas.meta", 70, 0));
	assert_int_equal(replicameta_open(w.disk, &got, &e), 0);
	assert_memory_equal(&got, &m, sizeof m);
	assert_true(disk_sim_flip(w.ds, "replicas.meta.2", 70, 0));
	assert_int_equal(replicameta_open(w.disk, &got, &e), 0);
	assert_memory_equal(&got, &m, sizeof m);
	got.node_id = 5;
	assert_int_equal(replicameta_open(w.disk, &got, &e), ERR_CONFIG);
	assert_true(disk_sim_flip(w.ds, "replicas.meta", 70, 0));
	assert_true(disk_sim_flip(w.ds, "replicas.meta.2", 71, 0));
	got.node_id = 4;
	assert_int_equal(replicameta_open(w.disk, &got, &e), ERR_DAMAGED);
	world_free(&w);
}

static void test_nodemeta_open(void **state)
{
	struct nodemeta m = { .node_id = 2 }, other = { .node_id = 3 };
	struct world w;
	struct rand r;
	struct err e;
	uint8_t disk[16];
	bool made;

	(void)state;
	world_init(&w);
	rand_seeded(&r, 9);
	cluster(m.cluster_id);
	cluster(other.cluster_id);
	assert_int_equal(nodemeta_open(w.disk, &m, &r, &made, &e), 0);
	memcpy(disk, m.disk_id, 16);
	/* One bad copy is written anew, from the other. */
	assert_true(disk_sim_flip(w.ds, "node.meta", 30, 0));
	memset(m.disk_id, 0, 16);
	assert_int_equal(nodemeta_open(w.disk, &m, &r, &made, &e), 0);
	assert_memory_equal(m.disk_id, disk, 16);
	assert_true(disk_sim_flip(w.ds, "node.meta.2", 30, 0));
	assert_int_equal(nodemeta_open(w.disk, &m, &r, &made, &e), 0);
	assert_int_equal(nodemeta_open(w.disk, &other, &r, &made, &e), ERR_CONFIG);
	assert_non_null(strstr(e.msg, "node 2"));
	assert_true(disk_sim_flip(w.ds, "node.meta", 30, 0));
	assert_true(disk_sim_flip(w.ds, "node.meta.2", 31, 0));
	assert_int_equal(nodemeta_open(w.disk, &m, &r, &made, &e), ERR_DAMAGED);
	world_free(&w);
}

static void put_file(struct world *w, const char *path, const uint8_t *p)
{
	struct iovec iov = { (void *)(uintptr_t)p, NODEMETA_SIZE };
	struct disk_file *f;
	struct err e;

	assert_int_equal(w->disk->ops->open(w->disk, path,
					    DISK_WRITE | DISK_CREATE, &f, &e), 0);
	assert_int_equal(w->disk->ops->pwritev(f, &iov, 1, 0, &e), 0);
	w->disk->ops->close(f);
}

/* A folder of the program before stays readable to it until something is saved, also
 * when one copy has to be mended; a save that ends in the middle counts. */
static void test_nodemeta_versions(void **state)
{
	struct nodemeta m, want;
	uint8_t old[NODEMETA_SIZE], now[NODEMETA_SIZE], *p;
	struct world w;
	struct rand r;
	struct err e;
	size_t n;
	bool made;

	(void)state;
	world_init(&w);
	rand_seeded(&r, 9);
	memset(&m, 0, sizeof m);
	m.version = 1;
	m.node_id = 2;
	cluster(m.cluster_id);
	memcpy(m.disk_id, "disk-0123456789", 16);
	nodemeta_encode(&m, old);
	put_file(&w, "node.meta", old);
	memset(&want, 0, sizeof want);
	want.node_id = 2;
	cluster(want.cluster_id);
	want.founders = 14;
	want.shards = 16;
	m = want;
	assert_int_equal(nodemeta_open(w.disk, &m, &r, &made, &e), 0);
	assert_false(made);
	assert_int_equal(m.founders, 14);
	assert_int_equal(m.shards, 16);
	assert_memory_equal(m.disk_id, "disk-0123456789", 16);
	p = file_bytes(&w, "node.meta.2", &n);
	assert_memory_equal(p, old, n);
	free(p);
	m.feature_level = 2;
	assert_int_equal(nodemeta_save(w.disk, &m, &e), 0);
	nodemeta_encode(&m, now);
	/* The power went between the copies. */
	put_file(&w, "node.meta.2", old);
	m = want;
	m.founders = 6;
	assert_int_equal(nodemeta_open(w.disk, &m, &r, &made, &e), 0);
	assert_int_equal(m.founders, 14);
	assert_int_equal(m.feature_level, 2);
	p = file_bytes(&w, "node.meta.2", &n);
	assert_memory_equal(p, now, n);
	free(p);
	world_free(&w);
}

/* The power goes at each step of a node's first start; it must start the next time,
 * as one and the same from the moment it said that it had started. */
static void test_nodemeta_first_start(void **state)
{
	struct nodemeta m = { .node_id = 2 };
	struct err e;
	uint64_t n;

	(void)state;
	cluster(m.cluster_id);
	for (n = 1;; n++) {
		struct world w;
		struct rand r;
		uint8_t disk[16];
		bool whole, made;

		world_init(&w);
		rand_seeded(&r, 9);
		disk_sim_crash_at(w.ds, n, no_more, NULL);
		/* After the crash the frozen disk pretends. */
		assert_int_equal(nodemeta_open(w.disk, &m, &r, &made, &e), 0);
		whole = disk_sim_ops_done(w.ds) < n;
		memcpy(disk, m.disk_id, 16);
		disk_sim_crash_at(w.ds, 0, NULL, NULL);
		disk_sim_crash(w.ds);
		w.disk = disk_sim_start(w.ds);
		assert_int_equal(nodemeta_open(w.disk, &m, &r, &made, &e), 0);
		if (whole)
			assert_memory_equal(m.disk_id, disk, 16);
		world_free(&w);
		if (whole)
			break;
	}
	assert_true(n > 6); /* two copies: write, sync, name */
}

static void on_fatal(void *arg, const struct err *e)
{
	(void)arg;
	print_message("%s\n", e->msg);
	fail();
}

static void on_written(struct journal_req *r)
{
	((struct world *)r->arg)->done++;
}

static void test_journal(void **state)
{
	struct journal_config cfg = { .node_id = 2,
				      .file_size = 1u << 20,
				      .max_bytes = 8u << 20,
				      .queue_bytes = 1u << 20 };
	struct journal_req r = { .shard = 5, .cb = on_written };
	struct entry *en[2];
	struct journal *j;
	struct world w;
	struct err e;
	uint8_t *p;
	size_t n;
	unsigned i;

	(void)state;
	world_init(&w);
	cluster(cfg.cluster_id);
	assert_int_equal(journal_open(&j, w.disk, &w.sim.clock, &cfg, on_fatal,
				      &w, &e),
			 0);
	for (i = 0; i < 2; i++) {
		en[i] = entry_new(5, 6);
		memcpy(entry_payload(en[i]), i ? "\2world" : "\2hello", 6);
		en[i]->term = 3;
		en[i]->index = 7 + i;
	}
	r.arg = &w;
	r.has_vote = true;
	r.term = 3;
	r.vote = 2;
	r.entries = en;
	r.n_entries = 2;
	r.has_mark = true;
	r.mark_index = 6;
	r.mark_term = 2;
	assert_int_equal(journal_submit(j, &r), 0);
	entry_unref(en[0]);
	entry_unref(en[1]);
	while (!w.done) {
		journal_flush(j);
		sim_step(&w.sim, &(int){ 0 });
	}
	p = file_bytes(&w, "journal/00000000.jnl", &n);
	assert_int_equal(n, cfg.file_size);
	golden("journal.head", p, JF_HEADER + JF_BLOCK);
	free(p);
	journal_close(j);
	world_free(&w);
}

static void on_ckpt(void *arg, int status, uint64_t index, uint64_t term,
		    const struct err *e)
{
	(void)e;
	(void)term;
	assert_int_equal(status, 0);
	assert_int_equal(index, 11);
	((struct world *)arg)->done++;
}

static void test_store(void **state)
{
	struct store_config cfg = { .shard = 5,
				    .segment_bytes = 440,
				    .dirty_max_bytes = 1u << 20,
				    .tail_cache_bytes = 1u << 20,
				    .row_cache_max = 100 };
	struct record recs[2] = {
		{ .kind = RECORD_MESSAGE, .cls = 1, .time_ms = 1700000000000,
		  .lamport = 41, .key = 0x1111, .n = 1, .sender = 0x2222,
		  .device = 1, .seq = 1, .payload = (const uint8_t *)"hello",
		  .payload_len = 5 },
		{ .kind = RECORD_MESSAGE, .cls = 1, .time_ms = 1700000000002,
		  .lamport = 44, .key = 0x3333, .n = 1, .sender = 0x2222,
		  .device = 1, .seq = 2, .after = 1,
		  .payload = (const uint8_t *)"hi", .payload_len = 2 },
	};
	struct store *s;
	struct rewrite *rw;
	bool done;
	struct world w;
	struct err e = { 0 };
	unsigned i;

	(void)state;
	world_init(&w);
	cluster(cfg.cluster_id);
	for (i = 0; i < 16; i++) {
		recs[0].mid[i] = recs[0].nonce[i] = (uint8_t)i;
		recs[1].mid[i] = recs[1].nonce[i] = (uint8_t)(0xf0 + i);
	}
	assert_int_equal(store_open(&s, w.disk, &kv_mem, NULL, &cfg, &e), 0);
	/* Bodies under 128 bytes are stored as they are: LZ4's output may differ
	 * from release to release. */
	assert_int_equal(store_append(s, 3, 7, recs, 1, &e), 0);
	recs[1].flags = RECORD_HAS_ORIGIN;
	recs[1].origin_shard = 9;
	recs[1].origin_offset = 1000;
	recs[1].origin_lamport = 30;
	/* The second frame fills the segment, which is sealed. */
	assert_int_equal(store_append(s, 3, 11, recs + 1, 1, &e), 0);
	assert_int_equal(store_checkpoint(s, on_ckpt, &w), 0);
	while (!w.done)
		sim_step(&w.sim, &(int){ 0 });
	golden_file(&w, "segment.seg",
		    "shards/0005-1/seg/0000000000000000.0.seg");
	golden_file(&w, "segment.idx",
		    "shards/0005-1/seg/0000000000000000.0.idx");
	golden_file(&w, "tree.hash", "shards/0005-1/tree/0-0.hash");
	/* The first record's content is destroyed: same root, same chain. */
	store_dead(s, 0, 1, 0, &(uint8_t){ 1 }, 1);
	store_want(s, 0, 2, 1);
	rw = store_rewrite_begin(s);
	assert_non_null(rw);
	for (done = false; !done;)
		assert_int_equal(rewrite_step(rw, 1, &done, &e), 0);
	assert_true(store_rewrite_commit(s, rw));
	rewrite_free(rw);
	golden_file(&w, "segment-stub.seg",
		    "shards/0005-1/seg/0000000000000000.1.seg");
	golden_file(&w, "segment-stub.idx",
		    "shards/0005-1/seg/0000000000000000.1.idx");
	store_close(s);
	world_free(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nodemeta),
		cmocka_unit_test(test_nodemeta_open),
		cmocka_unit_test(test_replicameta),
		cmocka_unit_test(test_replicameta_open),
		cmocka_unit_test(test_nodemeta_versions),
		cmocka_unit_test(test_nodemeta_first_start),
		cmocka_unit_test(test_journal),
		cmocka_unit_test(test_store),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
