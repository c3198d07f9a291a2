/* The journal over the simulator's disk: what was called back survives every crash,
 * a torn tail is cut, rot is named and never cut, files go round. */
#include "base/alloc.h"
#include "base/bytes.h"
#include "log/journal_impl.h"
#include "tests/lib/disk_sim.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SHARDS 5
#define MAX_INDEX 4000

/* What the test knows of a shard. */
struct shard_model {
	uint64_t term_of[MAX_INDEX + 1], tag_of[MAX_INDEX + 1];
	uint64_t last, durable_last; /* submitted; called back */
	uint64_t term, vote, durable_term, durable_vote;
	uint64_t mark, durable_mark;
	bool truncating;       /* a truncation is in flight */
};

struct world {
	struct sim sim;
	struct disk_sim *ds;
	struct disk *disk;
	struct journal *j;
	struct journal_config cfg;
	struct shard_model shard[SHARDS];
	struct rand rand;
	struct req *live[16];  /* in flight */
	unsigned in_flight;
	bool dead;
	bool tight;            /* marks are many and near */
	uint64_t acked;
};

struct req {
	struct journal_req r;  /* first */
	struct world *w;
	uint64_t last, term, vote, mark;
};

static void on_fatal(void *arg, const struct err *e)
{
	struct world *w = arg;

	(void)e;
	w->dead = true;
}

static void on_crash(void *arg)
{
	((struct world *)arg)->dead = true;
}

static int reopen(struct world *w, struct err *e)
{
	w->disk = disk_sim_start(w->ds);
	return journal_open(&w->j, w->disk, &w->sim.clock, &w->cfg, on_fatal, w,
			    e);
}

static void world_sized(struct world *w, uint64_t seed, uint64_t file_size,
			unsigned files, uint64_t queue_bytes)
{
	struct err e = { 0 };
	int rv;

	memset(w, 0, sizeof *w);
	sim_init(&w->sim, seed);
	rand_seeded(&w->rand, seed * 77 + 1);
	w->ds = disk_sim_new(&w->sim, 0, seed, &disk_sim_fast);
	w->cfg = (struct journal_config){ .node_id = 3,
					  .file_size = file_size,
					  .max_bytes = files * file_size,
					  .queue_bytes = queue_bytes };
	memset(w->cfg.cluster_id, 5, 16);
	rv = reopen(w, &e);
	if (rv)
		print_message("%s\n", e.msg);
	assert_int_equal(rv, 0);
}

static void world_init(struct world *w, uint64_t seed)
{
	world_sized(w, seed, 256u << 10, 8, 1u << 20);
}

static void go(struct world *w, struct req *q)
{
	assert_true(w->in_flight < 16);
	w->live[w->in_flight++] = q;
}

/* The process is gone, and with it what it waited for. */
static void forget_live(struct world *w)
{
	while (w->in_flight)
		free(w->live[--w->in_flight]);
}

static void world_free(struct world *w)
{
	disk_sim_crash(w->ds);
	if (w->j)
		journal_close(w->j);
	while (sim_step(&w->sim, &(int){ 0 }))
		;
	forget_live(w);
	disk_sim_free(w->ds);
	sim_release(&w->sim);
}

static void payload_of(uint8_t *p, uint32_t len, uint64_t tag)
{
	uint32_t i;

	p[0] = 1;
	put_u64(p + 1, tag);
	for (i = 9; i < len; i++)
		p[i] = (uint8_t)(tag * 31 + i);
}

static uint32_t len_of(uint64_t tag)
{
	return 9 + (uint32_t)(tag * 2654435761u % 1500);
}

static void on_done(struct journal_req *r)
{
	struct req *q = (struct req *)r;
	struct world *w = q->w;
	struct shard_model *m = &w->shard[r->shard];
	unsigned i = 0;

	while (w->live[i] != q)
		i++;
	w->live[i] = w->live[--w->in_flight];
	if (!w->dead) {
		if (r->n_entries || r->truncate_from)
			m->durable_last = q->last;
		if (r->has_vote) {
			m->durable_term = q->term;
			m->durable_vote = q->vote;
		}
		if (r->has_mark)
			m->durable_mark = q->mark;
		if (r->truncate_from)
			m->truncating = false;
		w->acked++;
	}
	free(q);
}

/* One random request of one shard, as raft would make it. */
static void submit(struct world *w)
{
	static uint64_t tags;
	uint32_t s = (uint32_t)rand_below(&w->rand, SHARDS);
	struct shard_model *m = &w->shard[s];
	struct req *q = xcalloc(1, sizeof *q);
	struct entry *entries[8];
	struct shard_model before = *m;
	unsigned i;
	int rv;

	q->w = w;
	q->r.shard = s;
	q->r.cb = on_done;
	if (rand_below(&w->rand, 8) == 0) {
		q->r.has_vote = true;
		q->term = q->r.term = ++m->term;
		q->vote = q->r.vote = rand_below(&w->rand, 4);
		m->vote = q->vote;
	}
	if (rand_below(&w->rand, 12) == 0 && !m->truncating &&
	    m->last > m->mark + 3) {
		m->last -= 1 + rand_below(&w->rand, m->last - m->mark - 1);
		q->r.truncate_from = m->last + 1;
		m->truncating = true;
	}
	if (rand_below(&w->rand, w->tight ? 3 : 10) == 0 && m->durable_last > m->mark &&
	    !m->truncating && m->durable_last <= m->last) {
		q->r.has_mark = true;
		q->mark = q->r.mark_index =
			w->tight ? m->durable_last :
			m->mark + 1 +
			rand_below(&w->rand, m->durable_last - m->mark);
		q->r.mark_term = m->term_of[q->mark];
		m->mark = q->mark;
	}
	q->r.n_entries = (unsigned)rand_below(&w->rand, 9);
	if (m->last + 8 > MAX_INDEX)
		q->r.n_entries = 0;
	for (i = 0; i < q->r.n_entries; i++) {
		uint64_t tag = ++tags, index = ++m->last;

		entries[i] = entry_new(s, len_of(tag));
		payload_of(entry_payload(entries[i]), len_of(tag), tag);
		entries[i]->term = m->term + 1;
		entries[i]->index = index;
		m->term_of[index] = m->term + 1;
		m->tag_of[index] = tag;
	}
	q->r.entries = entries;
	q->last = m->last;
	rv = journal_submit(w->j, &q->r);
	for (i = 0; i < q->r.n_entries; i++)
		entry_unref(entries[i]);
	if (rv) {
		assert_int_equal(rv, ERR_FULL);
		*m = before;
		free(q);
		return;
	}
	go(w, q);
}

static void step(struct world *w)
{
	uint64_t at;
	int owner;

	journal_flush(w->j);
	at = journal_tick(w->j, w->sim.now_us);
	(void)at;
	sim_step(&w->sim, &owner);
}

static void check_shard(struct world *w, uint32_t s)
{
	const struct journal_shard *js = journal_shard(w->j, s);
	struct shard_model *m = &w->shard[s];
	uint64_t i;

	assert_false(js->faulty);
	assert_true(js->term >= m->durable_term);
	if (js->term == m->durable_term && js->term)
		assert_int_equal(js->vote, m->durable_vote);
	assert_true(js->mark_index >= m->durable_mark);
	assert_true(js->mark_index <= m->mark);
	/* A truncation in flight may or may not have happened. */
	if (!m->truncating)
		assert_true(js->last_index >= m->durable_last ||
			    js->mark_index >= m->durable_last);
	for (i = js->mark_index + 1; i <= m->durable_last && !m->truncating;
	     i++) {
		struct entry *e;
		struct err err = { 0 };
		uint8_t want[2048];

		if (journal_read(w->j, s, i, &e, &err)) {
			print_message("shard %u index %llu: %s\n", s,
				      (unsigned long long)i, err.msg);
			fail();
		}
		assert_int_equal(e->term, m->term_of[i]);
		assert_int_equal(e->index, i);
		assert_int_equal(e->len, len_of(m->tag_of[i]));
		payload_of(want, e->len, m->tag_of[i]);
		assert_memory_equal(entry_payload(e), want, e->len);
		entry_unref(e);
	}
}

/* Go on from what the disk holds, as a restarted node would. */
static void adopt(struct world *w)
{
	uint32_t s;

	for (s = 0; s < SHARDS; s++) {
		const struct journal_shard *js = journal_shard(w->j, s);
		struct shard_model *m = &w->shard[s];
		uint64_t i;

		check_shard(w, s);
		m->truncating = false;
		m->term = m->durable_term = js->term;
		m->vote = m->durable_vote = js->vote;
		m->mark = m->durable_mark = js->mark_index;
		m->last = js->last_index > js->mark_index ? js->last_index
							  : js->mark_index;
		m->durable_last = m->last;
		for (i = js->mark_index + 1; i <= m->last; i++) {
			struct entry *e;
			struct err err;

			assert_int_equal(journal_read(w->j, s, i, &e, &err), 0);
			m->term_of[i] = e->term;
			m->tag_of[i] = get_u64(entry_payload(e) + 1);
			entry_unref(e);
		}
	}
}

/* `shrink`: the ring is to be half as large after a time, and larger again. */
static unsigned run_seed(uint64_t seed, bool shrink)
{
	struct world *w = xmalloc(sizeof *w);
	unsigned round, i, fewer = 0;

	if (shrink)
		world_sized(w, seed, 8 * JF_HEADER, 8, 1u << 20);
	else
		world_init(w, seed);
	for (round = 0; round < 6; round++) {
		struct journal_stats st;
		struct err e = { 0 };
		uint64_t files;
		int rv;

		journal_stats(w->j, &st);
		files = st.files;

		disk_sim_crash_at(w->ds, 1 + rand_below(&w->rand, shrink ? 400 : 120),
				  on_crash, w);
		for (i = 0; i < (shrink ? 9000 : 3000) && !w->dead; i++) {
			if (w->in_flight < 12)
				submit(w);
			if (rand_below(&w->rand, 3))
				step(w);
		}
		journal_stats(w->j, &st);
		fewer += st.files < files;
		w->dead = true;
		disk_sim_crash(w->ds);
		journal_close(w->j);
		w->j = NULL;
		while (sim_step(&w->sim, &(int){ 0 }))
			;
		forget_live(w);
		w->dead = false;
		w->tight = shrink && round % 2 == 0;
		if (shrink)
			w->cfg.max_bytes = (w->tight ? 2 : 8) * w->cfg.file_size;
		rv = reopen(w, &e);
		if (rv)
			print_message("seed %llu: %s\n",
				      (unsigned long long)seed, e.msg);
		assert_int_equal(rv, 0);
		adopt(w);
	}
	assert_true(w->acked > 20);
	world_free(w);
	free(w);
	return fewer;
}

static void test_crashes(void **state)
{
	uint64_t seed;

	(void)state;
	for (seed = 1; seed <= 60; seed++)
		run_seed(seed, false);
}

static void test_crashes_of_a_ring_that_shrinks(void **state)
{
	unsigned fewer = 0;
	uint64_t seed;

	(void)state;
	for (seed = 1; seed <= 60; seed++)
		fewer += run_seed(seed, true);
	print_message("a file was removed in %u lives\n", fewer);
	assert_true(fewer > 20);
}

/* Entries of two shards in groups of their own, all called back. */
static void fill(struct world *w, unsigned n)
{
	unsigned i;

	for (i = 0; i < n; i++) {
		struct req *q = xcalloc(1, sizeof *q);
		struct shard_model *m = &w->shard[i % 2];
		struct entry *e = entry_new(i % 2, 600);

		payload_of(entry_payload(e), 600, i);
		e->term = 1;
		e->index = ++m->last;
		q->w = w;
		q->r.shard = i % 2;
		q->r.entries = &e;
		q->r.n_entries = 1;
		q->r.cb = on_done;
		q->last = m->last;
		assert_int_equal(journal_submit(w->j, &q->r), 0);
		entry_unref(e);
		go(w, q);
		while (w->in_flight)
			step(w);
	}
}

static struct err restart(struct world *w)
{
	struct err e = { 0 };

	disk_sim_crash(w->ds);
	journal_close(w->j);
	w->j = NULL;
	while (sim_step(&w->sim, &(int){ 0 }))
		;
	forget_live(w);
	reopen(w, &e);
	return e;
}

static void test_rot_is_named(void **state)
{
	struct world *w = xmalloc(sizeof *w);
	uint64_t off = JF_HEADER + 4 * JF_BLOCK; /* the fifth group: shard 0 */
	struct err e = { 0 };
	struct entry *entry;

	(void)state;
	world_init(w, 5);
	fill(w, 12);
	assert_true(disk_sim_flip(w->ds, "journal/00000000.jnl", off + 200, 3));
	e = restart(w);
	assert_int_equal(e.code, 0);
	assert_true(journal_shard(w->j, 0)->faulty);
	assert_non_null(strstr(journal_shard(w->j, 0)->why, "group 5"));
	assert_false(journal_shard(w->j, 1)->faulty);
	assert_int_equal(journal_shard(w->j, 1)->last_index, 6);
	assert_int_equal(journal_read(w->j, 1, 6, &entry, &e), 0);
	entry_unref(entry);
	/* The bit back, and all of it is there: nothing was cut. */
	assert_true(disk_sim_flip(w->ds, "journal/00000000.jnl", off + 200, 3));
	e = restart(w);
	assert_int_equal(e.code, 0);
	assert_false(journal_shard(w->j, 0)->faulty);
	assert_int_equal(journal_shard(w->j, 0)->last_index, 6);
	world_free(w);
	free(w);
}

static void test_torn_tail(void **state)
{
	struct world *w = xmalloc(sizeof *w);
	struct journal_stats st;
	struct err e;

	(void)state;
	world_init(w, 6);
	fill(w, 5);
	/* The last group, not followed by any: as after a cut in mid-write. */
	assert_true(disk_sim_flip(w->ds, "journal/00000000.jnl",
				  JF_HEADER + 4 * JF_BLOCK + 300, 1));
	e = restart(w);
	assert_int_equal(e.code, 0);
	journal_stats(w->j, &st);
	assert_int_equal(st.torn_tails, 1);
	assert_false(journal_shard(w->j, 0)->faulty);
	assert_int_equal(journal_shard(w->j, 0)->last_index, 2);
	assert_int_equal(journal_shard(w->j, 1)->last_index, 2);
	world_free(w);
	free(w);
}

static void test_newer_format(void **state)
{
	struct world *w = xmalloc(sizeof *w);
	struct err e;

	(void)state;
	world_init(w, 7);
	fill(w, 3);
	/* Version 1 becomes 3. */
	assert_true(disk_sim_flip(w->ds, "journal/00000000.jnl", 8, 1));
	e = restart(w);
	assert_int_equal(e.code, ERR_VERSION);
	assert_non_null(strstr(e.msg, "nothing was changed"));
	w->j = NULL;
	world_free(w);
	free(w);
}

static void write_vote(struct world *w, uint64_t term, uint64_t vote)
{
	struct req *q = xcalloc(1, sizeof *q);

	q->w = w;
	q->r.has_vote = true;
	q->r.term = q->term = term;
	q->r.vote = q->vote = vote;
	q->r.cb = on_done;
	assert_int_equal(journal_submit(w->j, &q->r), 0);
	go(w, q);
	while (w->in_flight)
		step(w);
}

/* A vote may reach the disk before an older one that waits with entries, when the
 * ring is full: the older one takes back neither term nor vote. */
static void test_older_vote_comes_later(void **state)
{
	struct world *w = xmalloc(sizeof *w);
	unsigned round;
	struct err e;

	(void)state;
	world_init(w, 9);
	write_vote(w, 7, 2);
	write_vote(w, 7, 0);
	write_vote(w, 6, 3);
	for (round = 0; round < 2; round++) {
		assert_int_equal(journal_shard(w->j, 0)->term, 7);
		assert_int_equal(journal_shard(w->j, 0)->vote, 2);
		e = restart(w);
		assert_int_equal(e.code, 0);
	}
	write_vote(w, 8, 0);
	assert_int_equal(journal_shard(w->j, 0)->vote, 0);
	world_free(w);
	free(w);
}

static void on_filled(struct journal_req *r)
{
	if (r->arg)
		++*(unsigned *)r->arg;
}

/* What waits before a full ring is written as far as it goes: the first of it may be
 * what makes room. */
static void test_a_full_ring_is_filled(void **state)
{
	enum { REQS = 400, LEN_MAX = 40000 };
	uint64_t seed;

	(void)state;
	for (seed = 1; seed <= 20; seed++) {
		struct world *w = xmalloc(sizeof *w);
		struct journal_req *reqs = xcalloc(REQS, sizeof *reqs);
		const struct jreq_priv *first;
		uint64_t end, last[2] = { 0 };
		unsigned n = 0;

		world_init(w, seed);
		end = w->cfg.file_size / 4 * 3;
		for (;;) {
			uint32_t len = 500 + (uint32_t)rand_below(&w->rand, LEN_MAX);
			/* The first file's shard, and it alone, pins it. */
			uint32_t shard = w->j->cur && w->j->cur < 8;
			struct entry *e = entry_new(shard, len);
			int rv;

			assert_true(n < REQS);
			payload_of(entry_payload(e), len, n);
			e->term = 1;
			e->index = last[shard] + 1;
			reqs[n] = (struct journal_req){ .shard = shard,
							.entries = &e,
							.n_entries = 1,
							.cb = on_filled };
			rv = journal_submit(w->j, &reqs[n]);
			entry_unref(e);
			n += !rv;
			last[shard] += !rv;
			if (!rv && rand_below(&w->rand, 9))
				continue;
			journal_flush(w->j);
			while (sim_step(&w->sim, &(int){ 0 }))
				;
			if (rv && w->j->q_head)
				break;
		}
		assert_true(journal_stalled(w->j));
		first = jreq_priv(w->j->q_head);
		if (w->j->cur_off + jf_round(first->bytes + JG_HEADER + JG_ROW) <=
		    end)
			fail_msg("seed %" PRIu64 ": %" PRIu64 " bytes wait at %"
				 PRIu64 " of %" PRIu64, seed, first->bytes,
				 w->j->cur_off, end);
		world_free(w);
		free(reqs);
		free(w);
	}
}

/* What a shard voids pins no file: the truncation passes what waits for room, save
 * what its own shard wrote before it. */
static void test_a_truncation_makes_room(void **state)
{
	enum { REQS = 2000, LEN = 3000 };
	struct journal_req *reqs = xcalloc(REQS, sizeof *reqs);
	struct journal_req cut[2] = { { .shard = 0, .truncate_from = 1,
					.cb = on_filled },
				      { .shard = 1, .truncate_from = 1,
					.cb = on_filled } };
	struct world *w = xmalloc(sizeof *w);
	uint64_t last[2] = { 0 };
	unsigned n = 0, done = 0;

	(void)state;
	world_init(w, 3);
	while (!w->j->q_head) {
		struct entry *e;
		uint32_t shard = w->j->n_files == 8 && w->j->cur == 7 &&
						 w->j->cur_off > 150000
					 ? 0
					 : 1;

		assert_true(n < REQS);
		e = entry_new(shard, LEN);
		payload_of(entry_payload(e), LEN, n);
		e->term = 1;
		e->index = ++last[shard];
		reqs[n] = (struct journal_req){ .shard = shard, .entries = &e,
						.n_entries = 1, .cb = on_filled,
						.arg = &done };
		assert_int_equal(journal_submit(w->j, &reqs[n++]), 0);
		entry_unref(e);
		journal_flush(w->j);
		while (sim_step(&w->sim, &(int){ 0 }))
			;
	}
	assert_int_equal(done, n - 1);
	cut[0].arg = cut[1].arg = &done;
	assert_int_equal(journal_submit(w->j, &cut[0]), 0);
	journal_flush(w->j);
	while (sim_step(&w->sim, &(int){ 0 }))
		;
	assert_int_equal(done, n - 1);
	assert_int_equal(journal_submit(w->j, &cut[1]), 0);
	journal_flush(w->j);
	while (sim_step(&w->sim, &(int){ 0 }))
		;
	assert_int_equal(done, n + 2);
	assert_true(journal_idle(w->j));
	assert_int_equal(journal_shard(w->j, 0)->last_index, 0);
	assert_int_equal(journal_shard(w->j, 1)->last_index, 0);
	world_free(w);
	free(reqs);
	free(w);
}

static void settle(struct world *w)
{
	journal_flush(w->j);
	while (sim_step(&w->sim, &(int){ 0 }))
		;
}

static int submit_entry(struct world *w, struct journal_req *r, uint32_t shard,
			uint64_t index, uint32_t len, unsigned *done)
{
	struct entry *e = entry_new(shard, len);
	int rv;

	payload_of(entry_payload(e), len, (unsigned)index);
	e->term = 1;
	e->index = index;
	*r = (struct journal_req){ .shard = shard, .entries = &e, .n_entries = 1,
				   .cb = on_filled, .arg = done };
	rv = journal_submit(w->j, r);
	entry_unref(e);
	return rv;
}

/* Entries of the shard that pins the oldest file are what may commit the ones that pin
 * it: they pass what other shards wait with, into the space kept for marks, and what
 * votes and marks need stays. */
static void test_what_pins_goes_first(void **state)
{
	enum { REQS = 2000, LEN = 8000, BIG = 60000 };
	struct journal_req *reqs = xcalloc(REQS, sizeof *reqs);
	struct journal_req pinned[16], vote[16], mark[2] = {
		{ .shard = 0, .has_mark = true, .mark_term = 1, .cb = on_filled },
		{ .shard = 1, .has_mark = true, .mark_term = 1, .cb = on_filled },
	};
	struct world *w = xmalloc(sizeof *w);
	unsigned n = 0, done = 0, freed = 0, votes = 0, own_votes = 0, k;
	uint64_t last = 0;

	(void)state;
	world_init(w, 4);
	/* Shard 0 has the first entry of the ring, and shard 1 all the others, most of
	 * them in a checkpoint. */
	assert_int_equal(submit_entry(w, &pinned[0], 0, 1, LEN, &done), 0);
	settle(w);
	assert_int_equal(done, 1);
	while (!w->j->q_head) {
		assert_true(n < REQS);
		assert_int_equal(submit_entry(w, &reqs[n++], 1, ++last,
					      w->j->cur == 7 ? BIG : LEN, NULL),
				 0);
		settle(w);
		if (w->j->cur != 7 || mark[1].mark_index)
			continue;
		mark[1].mark_index = last - 1;
		assert_int_equal(journal_submit(w->j, &mark[1]), 0);
		settle(w);
	}
	assert_true(journal_stalled(w->j));
	assert_int_equal(journal_pinned_by(w->j), 0);
	assert_int_equal(submit_entry(w, &reqs[n], 1, last + 1, LEN, NULL),
			 ERR_FULL);
	/* As many as there is room for; the next one is refused, not queued. */
	for (k = 1; !submit_entry(w, &pinned[k], 0, k + 1, LEN, &done); k++) {
		settle(w);
		assert_int_equal(done, k + 1);
		assert_true(k < 15);
	}
	assert_true(k > 1);
	assert_true(w->j->cur_off <= w->cfg.file_size / 16 * 13);
	assert_int_equal(journal_shard(w->j, 0)->last_index, k);
	assert_int_equal(journal_shard(w->j, 1)->last_index, last - 1);
	/* Votes of the others end where one of its own still goes. */
	for (k = 0; k < 15 && votes == k; k++) {
		vote[k] = (struct journal_req){ .shard = 1, .has_vote = true,
						.term = 2 + k, .vote = 1,
						.cb = on_filled, .arg = &votes };
		assert_int_equal(journal_submit(w->j, &vote[k]), 0);
		settle(w);
	}
	assert_true(votes > 1 && votes < 15);
	vote[15] = (struct journal_req){ .shard = 0, .has_vote = true, .term = 2,
					 .vote = 1, .cb = on_filled,
					 .arg = &own_votes };
	assert_int_equal(journal_submit(w->j, &vote[15]), 0);
	settle(w);
	assert_int_equal(own_votes, 1);
	assert_int_equal(votes, k - 1);
	/* Committed, applied and in a checkpoint: the ring goes on. */
	mark[0].mark_index = journal_shard(w->j, 0)->last_index;
	mark[0].arg = &freed;
	assert_int_equal(journal_submit(w->j, &mark[0]), 0);
	settle(w);
	assert_int_equal(freed, 1);
	assert_int_not_equal(journal_pinned_by(w->j), 0);
	world_free(w);
	free(reqs);
	free(w);
}

/* However many of them wait: a group has no more records than its header can count. */
static void test_what_pins_comes_in_groups(void **state)
{
	enum { REQS = 70, EACH = 1000, MIB = 1 << 20 };
	struct journal_req *reqs = xcalloc(REQS + 32, sizeof *reqs);
	struct journal_req mark = { .shard = 1, .has_mark = true, .mark_term = 1,
				    .cb = on_filled };
	struct world *w = xmalloc(sizeof *w);
	unsigned done = 0, n = REQS, i, k;
	struct entry *e[EACH];
	uint64_t last = 0;

	(void)state;
	world_sized(w, 5, 16 * MIB, 2, 64 * MIB);
	/* The first entry of the ring is shard 0's, and its second file has begun. */
	assert_int_equal(submit_entry(w, &reqs[n++], 0, 1, 9, NULL), 0);
	settle(w);
	while (w->j->cur != 1 || w->j->cur_off < 5 * MIB) {
		assert_int_equal(submit_entry(w, &reqs[n++], 1, ++last, MIB, NULL),
				 0);
		settle(w);
	}
	mark.mark_index = last;
	assert_int_equal(journal_submit(w->j, &mark), 0);
	settle(w);
	for (i = 0; i < 5; i++)
		assert_int_equal(submit_entry(w, &reqs[n++], 1, ++last, MIB, NULL),
				 0);
	for (k = 0; k < REQS; k++) {
		for (i = 0; i < EACH; i++) {
			e[i] = entry_new(0, 1);
			*entry_payload(e[i]) = 1;
			e[i]->term = 1;
			e[i]->index = 2 + k * EACH + i;
		}
		reqs[k] = (struct journal_req){ .entries = e, .n_entries = EACH,
						.cb = on_filled, .arg = &done };
		assert_int_equal(journal_submit(w->j, &reqs[k]), 0);
		for (i = 0; i < EACH; i++)
			entry_unref(e[i]);
	}
	settle(w);
	assert_int_equal(done, REQS);
	assert_int_equal(restart(w).code, 0);
	assert_int_equal(journal_shard(w->j, 0)->last_index, 1 + REQS * EACH);
	world_free(w);
	free(reqs);
	free(w);
}

static void on_passed(void *arg)
{
	(void)arg;
}

static void pass(struct world *w, uint64_t us)
{
	sim_after(&w->sim, 0, us, on_passed, NULL);
	settle(w);
}

/* A ring that stays full, whoever could empty it: after seconds it grows, to twice
 * its size and no more; and gives it back when it is emptied at last. */
static void test_a_ring_that_stays_full_grows(void **state)
{
	enum { REQS = 4000, LEN = 8000 };
	struct journal_req *reqs = xcalloc(REQS, sizeof *reqs);
	struct world *w = xmalloc(sizeof *w);
	struct journal_stats st;
	unsigned n = 0, tries;
	uint64_t last = 0, t;
	struct err e;

	(void)state;
	world_init(w, 11);
	for (tries = 0; tries < 400 && n < REQS; tries++) {
		t = w->sim.now_us;
		while (n < REQS && !submit_entry(w, &reqs[n], 0, last + 1, LEN,
						 NULL)) {
			n++;
			last++;
			settle(w);
			if (tries)
				journal_tick(w->j, w->sim.now_us);
		}
		journal_stats(w->j, &st);
		if (!tries) {
			assert_int_equal(st.files, 8);
			for (t += 4000000; w->sim.now_us < t;) {
				journal_tick(w->j, w->sim.now_us);
				pass(w, 100000);
				submit_entry(w, &reqs[n], 0, last + 1, LEN, NULL);
			}
			journal_stats(w->j, &st);
			assert_int_equal(st.files, 8);
		}
		journal_tick(w->j, w->sim.now_us);
		pass(w, 150000);
	}
	journal_stats(w->j, &st);
	assert_int_equal(st.files, 16);
	e = restart(w);
	assert_int_equal(e.code, 0);
	assert_int_equal(journal_shard(w->j, 0)->last_index, last);
	/* One with each mark, from when half of it is free. */
	for (tries = 1; tries <= 40; tries++) {
		uint64_t files = st.files;

		reqs[0] = (struct journal_req){ .has_mark = true, .mark_term = 1,
						.mark_index = last * tries / 40,
						.cb = on_filled };
		assert_int_equal(journal_submit(w->j, &reqs[0]), 0);
		settle(w);
		journal_stats(w->j, &st);
		assert_true(st.files == files || st.files == files - 1);
		assert_true(tries > 15 || st.files == 16);
	}
	assert_int_equal(st.files, 8);
	e = restart(w);
	assert_int_equal(e.code, 0);
	assert_int_equal(journal_shard(w->j, 0)->last_index, last);
	journal_stats(w->j, &st);
	assert_int_equal(st.files, 8);
	world_free(w);
	free(reqs);
	free(w);
}

static void count_event(void *arg, const struct journal_walk_event *ev)
{
	unsigned *n = arg;

	n[ev->what]++;
	if (ev->what == JW_FILE && ev->damage)
		n[JW_FILE]--; /* never used */
}

static void test_walk(void **state)
{
	struct world *w = xmalloc(sizeof *w);
	unsigned n[4] = { 0 };
	struct err e;

	(void)state;
	world_init(w, 8);
	fill(w, 12);
	assert_int_equal(journal_walk(w->disk, "journal", count_event, n, &e),
			 0);
	assert_int_equal(n[JW_FILE], 1);
	assert_int_equal(n[JW_GROUP], 12);
	assert_int_equal(n[JW_RECORD], 12);
	assert_int_equal(n[JW_DAMAGE], 0);
	assert_true(disk_sim_flip(w->ds, "journal/00000000.jnl",
				  JF_HEADER + 4 * JF_BLOCK + 200, 3));
	memset(n, 0, sizeof n);
	assert_int_equal(journal_walk(w->disk, "journal", count_event, n, &e),
			 0);
	assert_int_equal(n[JW_RECORD], 11);
	assert_int_equal(n[JW_DAMAGE], 1);
	world_free(w);
	free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_crashes),
		cmocka_unit_test(test_crashes_of_a_ring_that_shrinks),
		cmocka_unit_test(test_rot_is_named),
		cmocka_unit_test(test_torn_tail),
		cmocka_unit_test(test_newer_format),
		cmocka_unit_test(test_older_vote_comes_later),
		cmocka_unit_test(test_a_full_ring_is_filled),
		cmocka_unit_test(test_a_truncation_makes_room),
		cmocka_unit_test(test_what_pins_goes_first),
		cmocka_unit_test(test_what_pins_comes_in_groups),
		cmocka_unit_test(test_a_ring_that_stays_full_grows),
		cmocka_unit_test(test_walk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
