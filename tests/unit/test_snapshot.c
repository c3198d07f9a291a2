/* Snapshots: the manifest's bytes, a folder made from an export, damage of any byte of
 * it, and what the journal makes of an INSTALL record. */
#include "base/alloc.h"
#include "base/bytes.h"
#include "log/journal.h"
#include "log/snapshot.h"
#include "tests/lib/disk_sim.h"
#include "tests/lib/kv_mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define GOLDEN "tests/golden/format/snapshot.manifest"
#define SHARD 5

struct world {
	struct sim sim;
	struct disk_sim *ds;
	struct disk *disk;
	struct store *s;
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

/* ---- a store with a few segments ---------------------------------------------- */

static struct store_config config(uint32_t incarnation)
{
	struct store_config cfg = { .shard = SHARD,
				    .incarnation = incarnation,
				    .segment_bytes = 2000,
				    .dirty_max_bytes = 1u << 20,
				    .tail_cache_bytes = 1u << 20,
				    .row_cache_max = 100 };

	memcpy(cfg.cluster_id, "cluster-0123456", 16);
	return cfg;
}

static void append(struct store *s, uint64_t index)
{
	uint8_t body[300];
	struct record recs[2] = { { 0 }, { 0 } };
	struct err e = { 0 };
	unsigned i, k;
	uint8_t *row;

	for (i = 0; i < 2; i++) {
		struct record *r = &recs[i];

		for (k = 0; k < sizeof body; k++)
			body[k] = (uint8_t)(index * 7 + k * (k ^ index));
		r->kind = RECORD_MESSAGE;
		r->time_ms = 1700000000000 + index;
		r->lamport = 10 * index + i;
		r->key = 1 + i;
		r->n = index;
		r->payload = body;
		r->payload_len = 100 + (uint32_t)(index * 13 % 200);
		row = row_put(s, 1, &index, 8, 16);
		put_u64(row, index);
		row_dirty(s, row);
	}
	assert_int_equal(store_append(s, 3, index, recs, 2, &e), 0);
}

static void on_ckpt(void *arg, int status, uint64_t index, uint64_t term,
		    const struct err *e)
{
	(void)e;
	(void)term;
	(void)index;
	assert_int_equal(status, 0);
	((struct world *)arg)->done++;
}

static void checkpoint(struct world *w)
{
	w->done = 0;
	assert_int_equal(store_checkpoint(w->s, on_ckpt, w), 0);
	while (!w->done)
		sim_step(&w->sim, &(int){ 0 });
}

static void make(struct world *w, uint64_t entries)
{
	struct store_config cfg = config(1);
	struct err e = { 0 };
	uint64_t i;

	assert_int_equal(store_open(&w->s, w->disk, &kv_mem, NULL, &cfg, &e), 0);
	store_set_conf(w->s, 1, "the voters", 10);
	for (i = 2; i < 2 + entries; i++)
		append(w->s, i);
	checkpoint(w);
	append(w->s, 2 + entries); /* behind the checkpoint: not part of it */
}

static void copy(struct world *w, const char *from, const char *to, uint64_t n)
{
	struct disk_file *a, *b;
	struct err e = { 0 };
	uint8_t *p = xmalloc(n);
	struct iovec iov = { p, n };
	size_t got;

	assert_int_equal(w->disk->ops->open(w->disk, from, DISK_READ, &a, &e), 0);
	assert_int_equal(w->disk->ops->open(w->disk, to, DISK_WRITE | DISK_CREATE,
					    &b, &e),
			 0);
	assert_int_equal(w->disk->ops->pread(a, p, n, 0, &got, &e), 0);
	assert_int_equal(got, n);
	assert_int_equal(w->disk->ops->truncate(b, 0, &e), 0);
	assert_int_equal(w->disk->ops->pwritev(b, &iov, 1, 0, &e), 0);
	w->disk->ops->close(a);
	w->disk->ops->close(b);
	free(p);
}

static void ship(struct world *w, const struct snap_manifest *m)
{
	struct err e = { 0 };
	char from[96], to[96];
	uint32_t f;

	assert_int_equal(snap_folder_make(w->disk, SHARD, 2, &e), 0);
	assert_int_equal(snap_folder_clear(w->disk, SHARD, 2, false, &e), 0);
	for (f = 0; f < snap_files(m); f++) {
		snap_file_path(m, f, 1, from, sizeof from);
		snap_file_path(m, f, 2, to, sizeof to);
		if (snap_file_bytes(m, f))
			copy(w, from, to, snap_file_bytes(m, f));
	}
}

static int check(struct world *w, const struct snap_manifest *m)
{
	struct snap_check *c = snap_check_new(w->disk, &kv_mem, NULL, m, 2);
	struct err e = { 0 };
	bool done = false;
	int rv = 0;

	while (!rv && !done)
		rv = snap_check_step(c, &done, &e);
	snap_check_free(c);
	return rv;
}

static void test_a_folder_from_an_export(void **state)
{
	struct store_config cfg = config(2);
	struct snap_manifest m;
	struct store_meta was;
	struct store *s;
	struct world w;
	struct err e = { 0 };
	uint8_t a[32], b[32];
	uint32_t len;
	uint64_t i;

	(void)state;
	world_init(&w);
	make(&w, 20);
	assert_int_equal(snap_export(w.s, &m, &e), 0);
	assert_int_equal(m.index, 21);
	assert_int_equal(m.leaves, 40);
	assert_true(m.n_segments > 3);
	ship(&w, &m);
	assert_int_equal(check(&w, &m), 0);
	assert_int_equal(store_open(&s, w.disk, &kv_mem, NULL, &cfg, &e), 0);
	assert_int_equal(store_meta(s)->applied_index, 21);
	assert_int_equal(store_meta(s)->conf_len, 10);
	assert_memory_equal(store_meta(s)->conf, "the voters", 10);
	/* It goes on as the other one does. */
	append(s, 22);
	store_root(s, a);
	store_root(w.s, b);
	assert_memory_equal(a, b, 32);
	was = *store_meta(s);
	assert_memory_equal(was.chain, store_meta(w.s)->chain, 32);
	for (i = 2; i <= 22; i++)
		assert_non_null(row_get(s, 1, &i, 8, &len));
	assert_int_equal(store_key_last(s, 1), 22);
	store_close(s);
	store_close(w.s);
	snap_release(&m);
	world_free(&w);
}

/* Two segments are trimmed, the third is full of stubs. */
static void retain(struct world *w)
{
	struct store_segment g;
	struct rewrite *r;
	struct err e = { 0 };
	uint8_t bits[100];
	unsigned i;
	bool done = false;

	checkpoint(w);
	for (i = 0; i < 2; i++) {
		store_segment_info(w->s, 0, &g);
		store_trim(w->s, g.base, g.end, g.end);
	}
	store_segment_info(w->s, 0, &g);
	memset(bits, 0xff, sizeof bits);
	store_dead(w->s, g.base, 1, 0, bits, (uint32_t)(g.end - g.base + 7) / 8);
	store_want(w->s, g.base, g.end, 1);
	r = store_rewrite_begin(w->s);
	assert_non_null(r);
	while (!done)
		assert_int_equal(rewrite_step(r, 1 << 20, &done, &e), 0);
	assert_true(store_rewrite_commit(w->s, r));
	rewrite_free(r);
	checkpoint(w);
	checkpoint(w);
}

static bool count_stub(void *arg, const struct record *r)
{
	*(unsigned *)arg += r->flags & RECORD_STUB;
	return true;
}

static void test_what_was_trimmed_comes_as_leaves(void **state)
{
	struct store_config cfg = config(2);
	struct snap_manifest m, again;
	struct buf b = BUF_INIT;
	struct store *s;
	struct world w;
	struct err e = { 0 };
	uint8_t a[32], was[32];
	unsigned stubs = 0;
	uint64_t off;
	char path[96];

	(void)state;
	world_init(&w);
	make(&w, 20);
	retain(&w);
	assert_int_equal(snap_export(w.s, &m, &e), 0);
	assert_true(m.base > 0 && m.base == store_trimmed(w.s));
	assert_int_equal(snap_trees(&m), 1);
	snap_encode(&m, &b);
	assert_int_equal(b.data[8], 2);
	assert_int_equal(snap_decode(&again, b.data, b.len, &e), 0);
	assert_int_equal(again.base, m.base);
	snap_release(&again);
	buf_release(&b);
	for (off = 0; off < 32 * m.base; off += 7) {
		ship(&w, &m);
		snap_file_path(&m, snap_files(&m) - 1, 2, path, sizeof path);
		assert_true(disk_sim_flip(w.ds, path, off, off % 8));
		assert_int_equal(check(&w, &m), ERR_DAMAGED);
	}
	ship(&w, &m);
	assert_int_equal(check(&w, &m), 0);
	assert_int_equal(store_open(&s, w.disk, &kv_mem, NULL, &cfg, &e), 0);
	assert_int_equal(store_trimmed(s), m.base);
	assert_int_equal(store_doomed(s), 0);
	assert_int_equal(store_read(s, m.base, UINT32_MAX, count_stub, &stubs, &e),
			 0);
	assert_true(stubs > 0);
	assert_int_equal(store_read(s, m.base - 1, 1, count_stub, &stubs, &e),
			 ERR_TRUNCATED);
	append(s, 23);
	append(w.s, 23);
	store_root(s, a);
	store_root(w.s, was);
	assert_memory_equal(a, was, 32);
	store_close(s);
	store_close(w.s);
	snap_release(&m);
	world_free(&w);
}

static void test_no_checkpoint_no_snapshot(void **state)
{
	struct store_config cfg = config(1);
	struct snap_manifest m;
	struct world w;
	struct err e = { 0 };

	(void)state;
	world_init(&w);
	assert_int_equal(store_open(&w.s, w.disk, &kv_mem, NULL, &cfg, &e), 0);
	append(w.s, 2);
	assert_int_equal(snap_export(w.s, &m, &e), ERR_NOT_FOUND);
	store_close(w.s);
	world_free(&w);
}

/* A bit anywhere in rows or segments is seen; in an index, which is derived, it
 * costs the index. */
static void test_every_damage_is_seen(void **state)
{
	struct snap_manifest m;
	struct world w;
	struct err e = { 0 };
	uint32_t f;
	uint64_t off;

	(void)state;
	world_init(&w);
	make(&w, 12);
	assert_int_equal(snap_export(w.s, &m, &e), 0);
	for (f = 0; f < snap_files(&m); f++) {
		uint64_t size = snap_file_bytes(&m, f);

		for (off = 0; off < size; off += 1 + size / 41) {
			char path[96];

			ship(&w, &m);
			snap_file_path(&m, f, 2, path, sizeof path);
			assert_true(disk_sim_flip(w.ds, path, off,
						  (unsigned)off % 8));
			if (f && f % 2 == 0) {
				assert_int_equal(check(&w, &m), 0);
				continue;
			}
			assert_int_equal(check(&w, &m), ERR_DAMAGED);
		}
	}
	store_close(w.s);
	snap_release(&m);
	world_free(&w);
}

/* A manifest that promises something else than its files hold. */
/* One pass finds every segment that must come again, and leaves the others. */
static void test_all_that_is_bad_goes_at_once(void **state)
{
	struct snap_manifest m;
	struct disk_file *f;
	struct world w;
	struct err e = { 0 };
	char path[96];
	uint32_t k;

	(void)state;
	world_init(&w);
	make(&w, 40);
	assert_int_equal(snap_export(w.s, &m, &e), 0);
	assert_true(m.n_segments > 6);
	ship(&w, &m);
	for (k = 1; k < m.n_segments; k += 2) {
		snap_file_path(&m, 2 * k + 1, 2, path, sizeof path);
		assert_true(disk_sim_flip(w.ds, path, m.segments[k].bytes / 2, 1));
	}
	assert_int_equal(check(&w, &m), ERR_DAMAGED);
	for (k = 0; k < m.n_segments; k++) {
		snap_file_path(&m, 2 * k + 1, 2, path, sizeof path);
		assert_int_equal(w.disk->ops->open(w.disk, path, DISK_READ, &f, NULL),
				 k % 2 ? ERR_NOT_FOUND : 0);
		if (k % 2 == 0)
			w.disk->ops->close(f);
	}
	store_close(w.s);
	snap_release(&m);
	world_free(&w);
}

static void test_another_manifest(void **state)
{
	struct snap_manifest m, other;
	struct world w;
	struct err e = { 0 };
	unsigned i;

	(void)state;
	world_init(&w);
	make(&w, 12);
	assert_int_equal(snap_export(w.s, &m, &e), 0);
	for (i = 0; i < 7; i++) {
		ship(&w, &m);
		other = m;
		other.index += i == 0;
		other.digest += i == 1;
		other.rows += i == 2;
		other.chain[0] ^= i == 3;
		other.root[31] ^= i == 4;
		other.leaves += i == 5;
		other.conf[3] ^= i == 6;
		assert_int_equal(check(&w, &other), ERR_DAMAGED);
	}
	store_close(w.s);
	snap_release(&m);
	world_free(&w);
}

/* ---- manifest ------------------------------------------------------------------- */

static void test_manifest(void **state)
{
	struct snap_segment segs[2] = {
		{ .base = 0, .end = 30, .bytes = 5000, .idx_bytes = 200,
		  .generation = 1, .sealed = true, .chain = { 7, 8 } },
		{ .base = 30, .end = 40, .bytes = 4400, .chain = { 1, 2, 3 } },
	};
	struct snap_manifest m = { .shard = SHARD, .index = 21, .term = 3,
				   .conf_index = 1, .conf_len = 10,
				   .leaves = 40, .chain = { 1, 2, 3 },
				   .root = { 4, 5, 6 }, .digest = 0x1234,
				   .rows = 9, .rows_bytes = 1000,
				   .n_segments = 2, .segments = segs };
	struct snap_manifest got;
	struct buf b = BUF_INIT, again = BUF_INIT;
	struct err e = { 0 };
	uint8_t want[1024];
	size_t n, i;
	FILE *f;

	(void)state;
	memcpy(m.cluster_id, "cluster-0123456", 16);
	memcpy(m.conf, "the voters", 10);
	snap_encode(&m, &b);
	if (getenv("QUIPU_GOLDEN")) {
		f = fopen(GOLDEN, "wb");
		assert_non_null(f);
		assert_int_equal(fwrite(b.data, 1, b.len, f), b.len);
		assert_int_equal(fclose(f), 0);
	}
	f = fopen(GOLDEN, "rb");
	assert_non_null(f);
	n = fread(want, 1, sizeof want, f);
	fclose(f);
	assert_int_equal(n, b.len);
	assert_memory_equal(want, b.data, n);
	assert_int_equal(snap_decode(&got, b.data, b.len, &e), 0);
	assert_int_equal(got.id, m.id);
	snap_encode(&got, &again);
	assert_int_equal(again.len, b.len);
	assert_memory_equal(again.data, b.data, b.len);
	snap_release(&got);
	for (i = 0; i < b.len; i++) {
		b.data[i] ^= 1;
		assert_true(snap_decode(&got, b.data, b.len, &e) < 0);
		b.data[i] ^= 1;
		assert_true(snap_decode(&got, b.data, i, &e) < 0);
	}
	/* Whole, but it contradicts itself. */
	segs[1].base = segs[0].end = 29;
	segs[1].base = 31;
	buf_clear(&b);
	snap_encode(&m, &b);
	assert_int_equal(snap_decode(&got, b.data, b.len, &e), ERR_FORMAT);
	segs[1].base = 29;
	m.rows_bytes = SNAP_ROWS_MAX;
	buf_clear(&b);
	snap_encode(&m, &b);
	assert_int_equal(snap_decode(&got, b.data, b.len, &e), 0);
	snap_release(&got);
	/* More rows than any state can have: sums of sizes would go round. */
	m.rows_bytes = UINT64_MAX;
	buf_clear(&b);
	snap_encode(&m, &b);
	assert_int_equal(snap_decode(&got, b.data, b.len, &e), ERR_FORMAT);
	buf_release(&b);
	buf_release(&again);
}

/* ---- journal -------------------------------------------------------------------- */

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

static void submit(struct world *w, struct journal *j, struct journal_req *r)
{
	r->shard = SHARD;
	r->cb = on_written;
	r->arg = w;
	w->done = 0;
	assert_int_equal(journal_submit(j, r), 0);
	while (!w->done) {
		journal_flush(j);
		sim_step(&w->sim, &(int){ 0 });
	}
}

static void entry_at(struct world *w, struct journal *j, uint64_t index,
		     uint64_t term, uint32_t len)
{
	struct entry *en = entry_new(SHARD, len);
	struct journal_req r = { .entries = &en, .n_entries = 1 };

	memset(entry_payload(en), 2, len);
	en->index = index;
	en->term = term;
	submit(w, j, &r);
	entry_unref(en);
}

static struct journal *reopen(struct world *w, struct journal *j)
{
	struct journal_config cfg = { .node_id = 2,
				      .file_size = 256u << 10,
				      .max_bytes = 1u << 20,
				      .queue_bytes = 1u << 20 };
	struct err e = { 0 };

	if (j)
		journal_close(j);
	assert_int_equal(journal_open(&j, w->disk, &w->sim.clock, &cfg, on_fatal,
				      w, &e),
			 0);
	return j;
}

static void expect(const struct journal *j, uint32_t incarnation,
		   uint64_t first, uint64_t last, uint64_t mark)
{
	const struct journal_shard *s = journal_shard(j, SHARD);

	assert_false(s->faulty);
	assert_int_equal(s->incarnation, incarnation);
	assert_int_equal(s->first_index, first);
	assert_int_equal(s->last_index, last);
	assert_int_equal(s->mark_index, mark);
	assert_int_equal(s->term, 4);
	assert_int_equal(s->vote, 2);
}

/* Entries before it are void, also those with a greater index; what follows counts;
 * all of it after a restart too, and when its own file was used again. */
static void test_install_record(void **state)
{
	struct journal_req vote = { .has_vote = true, .term = 4, .vote = 2 };
	struct journal_req install = { .install = 2,
				       .install_index = 100,
				       .install_term = 4 };
	struct journal *j;
	struct world w;
	uint64_t i;

	(void)state;
	world_init(&w);
	j = reopen(&w, NULL);
	submit(&w, j, &vote);
	for (i = 1; i <= 110; i++)
		entry_at(&w, j, i, 3, 100);
	submit(&w, j, &install);
	expect(j, 2, 101, 100, 100);
	assert_int_equal(journal_term(j, SHARD, 105), 0);
	j = reopen(&w, j);
	expect(j, 2, 101, 100, 100);
	for (i = 101; i <= 104; i++)
		entry_at(&w, j, i, 4, 100);
	expect(j, 2, 101, 104, 100);
	j = reopen(&w, j);
	expect(j, 2, 101, 104, 100);
	assert_int_equal(journal_term(j, SHARD, 103), 4);
	for (i = 105; i <= 1200; i++) {
		struct journal_req mark = { .has_mark = true,
					    .mark_index = i,
					    .mark_term = 4 };

		entry_at(&w, j, i, 4, 3000);
		if (i % 20 == 0)
			submit(&w, j, &mark);
	}
	assert_true(journal_shard(j, SHARD)->first_index > 200);
	i = journal_shard(j, SHARD)->first_index;
	j = reopen(&w, j);
	expect(j, 2, i, 1200, 1200);
	/* And once more. */
	install.install = 3;
	install.install_index = 5000;
	submit(&w, j, &install);
	j = reopen(&w, j);
	expect(j, 3, 5001, 5000, 5000);
	journal_close(j);
	world_free(&w);
}

/* What was promised stays, whatever folder it is applied to. */
static void test_repair_record(void **state)
{
	struct journal_req mark = { .has_mark = true,
				    .mark_index = 50,
				    .mark_term = 3 };
	struct journal_req vote = { .has_vote = true, .term = 4, .vote = 2 };
	struct journal_req repair = { .has_vote = true,
				      .term = 4,
				      .install = 2,
				      .install_keeps = true,
				      .install_index = 80,
				      .install_term = 3 };
	struct journal_req install = { .install = 1,
				       .install_index = 20,
				       .install_term = 3 };
	struct journal *j;
	struct world w;
	uint64_t i;

	(void)state;
	world_init(&w);
	j = reopen(&w, NULL);
	submit(&w, j, &vote);
	/* One of the past does not undo it. */
	submit(&w, j, &install);
	for (i = 21; i <= 110; i++)
		entry_at(&w, j, i, 3, 100);
	submit(&w, j, &mark);
	submit(&w, j, &repair);
	for (i = 0; i < 2; i++) {
		expect(j, 2, 21, 110, 80);
		assert_int_equal(journal_term(j, SHARD, 110), 3);
		assert_int_equal(journal_shard(j, SHARD)->mark_term, 3);
		j = reopen(&w, j);
	}
	/* Not when headers of later files say it either. */
	for (i = 111; i <= 1200; i++) {
		struct journal_req more = { .has_mark = true,
					    .mark_index = i,
					    .mark_term = 4 };

		entry_at(&w, j, i, 4, 3000);
		if (i % 20 == 0)
			submit(&w, j, &more);
	}
	i = journal_shard(j, SHARD)->first_index;
	assert_true(i > 200);
	j = reopen(&w, j);
	expect(j, 2, i, 1200, 1200);
	journal_close(j);
	world_free(&w);
}

/* What waits in the queue is void with it, and comes back all the same. */
static void test_install_voids_the_queue(void **state)
{
	struct journal_req vote = { .has_vote = true, .term = 4, .vote = 2 };
	struct journal_req wait[2] = { { .shard = SHARD }, { .shard = SHARD } };
	struct journal_req install = { .shard = SHARD,
				       .install = 2,
				       .install_index = 100,
				       .install_term = 4,
				       .cb = on_written };
	struct entry *en[2];
	struct journal *j;
	struct world w;
	unsigned i;

	(void)state;
	world_init(&w);
	j = reopen(&w, NULL);
	submit(&w, j, &vote);
	entry_at(&w, j, 1, 3, 100);
	w.done = 0;
	for (i = 0; i < 2; i++) {
		en[i] = entry_new(SHARD, 50);
		memset(entry_payload(en[i]), 2, 50);
		en[i]->index = 2 + i;
		en[i]->term = 4;
		wait[i].entries = &en[i];
		wait[i].n_entries = 1;
		wait[i].truncate_from = i ? 0 : 2;
		wait[i].cb = on_written;
		wait[i].arg = &w;
		assert_int_equal(journal_submit(j, &wait[i]), 0);
	}
	install.arg = &w;
	assert_int_equal(journal_submit(j, &install), 0);
	while (w.done < 3) {
		journal_flush(j);
		sim_step(&w.sim, &(int){ 0 });
	}
	for (i = 0; i < 2; i++)
		entry_unref(en[i]);
	assert_true(journal_idle(j));
	expect(j, 2, 101, 100, 100);
	j = reopen(&w, j);
	expect(j, 2, 101, 100, 100);
	journal_close(j);
	world_free(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_manifest),
		cmocka_unit_test(test_a_folder_from_an_export),
		cmocka_unit_test(test_what_was_trimmed_comes_as_leaves),
		cmocka_unit_test(test_no_checkpoint_no_snapshot),
		cmocka_unit_test(test_every_damage_is_seen),
		cmocka_unit_test(test_all_that_is_bad_goes_at_once),
		cmocka_unit_test(test_another_manifest),
		cmocka_unit_test(test_install_record),
		cmocka_unit_test(test_repair_record),
		cmocka_unit_test(test_install_voids_the_queue),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
