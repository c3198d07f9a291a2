/* A device's file: what a crash may leave of it, at every byte, and damage. */
#include "base/alloc.h"
#include "base/bytes.h"
#include "base/hash.h"
#include "client/store_file.h"

#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
/* after the four headers that it needs */
#include <cmocka.h>

#define ACCOUNT 0x4f0c9a1be2d37715ull
#define DEVICE 3

struct files {
	char dir[64], path[96];
};

static int setup(void **state)
{
	struct files *f = calloc(1, sizeof *f);

	snprintf(f->dir, sizeof f->dir, "/tmp/quipu-store-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof f->path, "%s/device.log", f->dir);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct files *f = *state;

	unlink(f->path);
	rmdir(f->dir);
	free(f);
	return 0;
}

static struct store_file *open_ok(const struct files *f)
{
	struct store_file *s;
	struct err e = { 0 };

	if (store_file_open(&s, f->path, ACCOUNT, DEVICE, &e))
		fail_msg("%s", e.msg);
	return s;
}

static int open_rv(const struct files *f, struct err *e)
{
	struct store_file *s;
	int rv = store_file_open(&s, f->path, ACCOUNT, DEVICE, e);

	if (rv == 0)
		store_file_close(s, NULL);
	return rv;
}

static uint8_t *slurp(const char *path, size_t *n)
{
	FILE *f = fopen(path, "rb");
	uint8_t *p = xmalloc(1 << 20);

	assert_non_null(f);
	*n = fread(p, 1, 1 << 20, f);
	fclose(f);
	return p;
}

static void spill(const char *path, const uint8_t *p, size_t n)
{
	FILE *f = fopen(path, "wb");

	assert_non_null(f);
	assert_int_equal(fwrite(p, 1, n, f), n);
	fclose(f);
}

/* ---- ops, and what they add up to ----------------------------------------- */

static void put(struct store_file *s, uint64_t seq, const char *body)
{
	struct client_entry e = { .seq = seq, .to = 9, .after = seq - 1, .seen = 4,
				  .cls = 1, .ttl = 60,
				  .body = (const uint8_t *)body,
				  .body_len = (uint32_t)strlen(body) };
	struct client_store *cs = store_file_store(s);

	memset(e.mid, (int)seq, 16);
	assert_int_equal(cs->ops->put(cs, &e, NULL), 0);
}

static void settle(struct store_file *s, uint64_t seq, const char *problem)
{
	struct client_settled d = { .seq = seq, .to = 9, .problem = problem,
				    .outcome = problem ? CLIENT_REFUSED : CLIENT_ACKED,
				    .lamport = problem ? 0 : 50 + seq };
	struct client_store *cs = store_file_store(s);

	assert_int_equal(cs->ops->settle(cs, &d, NULL), 0);
}

static void record(struct store_file *s, uint64_t n, const char *body)
{
	struct client_record r = { .n = n, .from = 9, .device = 1, .seq = n,
				   .lamport = 100 + n, .stamp = 100 + n, .cls = 1,
				   .body = (const uint8_t *)body,
				   .body_len = (uint32_t)strlen(body) };
	struct client_store *cs = store_file_store(s);

	assert_int_equal(cs->ops->record(cs, &r, NULL), 0);
}

static void sync_ok(struct store_file *s)
{
	struct client_store *cs = store_file_store(s);
	struct err e = { 0 };

	if (cs->ops->sync(cs, &e))
		fail_msg("%s", e.msg);
}

/* One line that tells the whole state. */
struct told {
	char text[512];
};

static void tell_entry(void *arg, const struct client_entry *e)
{
	struct told *t = arg;
	size_t n = strlen(t->text);

	snprintf(t->text + n, sizeof t->text - n, " %" PRIu64 "/%u=%.*s", e->seq,
		 e->cls, (int)e->body_len, (const char *)e->body);
}

static void tell(struct store_file *s, struct told *t)
{
	struct client_store *cs = store_file_store(s);
	struct client_meta m;
	size_t n;

	t->text[0] = 0;
	assert_int_equal(cs->ops->load(cs, &m, tell_entry, t, NULL), 0);
	n = strlen(t->text);
	snprintf(t->text + n, sizeof t->text - n,
		 " c=%" PRIu64 " l=%" PRIu64 " s=%" PRIu64, m.cursor, m.lamport, m.seq);
}

/* Nine ops in three synced batches; told[i]: the state after i ops.  Sizes of the
 * file after each op are in at[]. */
#define OPS 9
static void do_op(struct store_file *s, int i)
{
	switch (i) {
	case 0: put(s, 1, "one"); break;
	case 1: put(s, 2, "two, which is longer"); break;
	case 2: record(s, 1, "hello"); break;
	case 3: settle(s, 1, NULL); break;
	case 4: record(s, 2, ""); break;
	case 5: put(s, 3, "three"); break;
	case 6: settle(s, 3, "unknown-recipient"); break;
	case 7: record(s, 3, "a body of some bytes, so that flips hit it"); break;
	case 8: put(s, 4, "four"); break;
	}
}

static void history(const struct files *f, struct told told[OPS + 1],
		    size_t at[OPS + 1])
{
	struct store_file *s;
	struct stat st;
	int i, k;

	for (i = 0; i <= OPS; i++) {
		unlink(f->path);
		s = open_ok(f);
		for (k = 0; k < i; k++) {
			do_op(s, k);
			if (k % 3 == 2)
				sync_ok(s);
		}
		sync_ok(s);
		stat(f->path, &st);
		at[i] = (size_t)st.st_size;
		store_file_close(s, NULL);
		s = open_ok(f);
		tell(s, &told[i]);
		store_file_close(s, NULL);
	}
	/* Once more as a process leaves it that was killed: without the mark. */
	unlink(f->path);
	s = open_ok(f);
	for (k = 0; k < OPS; k++) {
		do_op(s, k);
		if (k % 3 == 2)
			sync_ok(s);
	}
	store_file_close(s, NULL);
	assert_int_equal(truncate(f->path, (off_t)at[OPS]), 0);
}

static void what_is_closed_is_read_back(void **state)
{
	struct files *f = *state;
	struct told told[OPS + 1];
	size_t at[OPS + 1];

	history(f, told, at);
	assert_string_equal(told[0].text, " c=0 l=0 s=0");
	assert_string_equal(told[2].text,
			    " 1/1=one 2/1=two, which is longer c=0 l=0 s=2");
	assert_string_equal(told[OPS].text,
			    " 2/1=two, which is longer 4/1=four c=3 l=104 s=4");
}

/* The prefix that is whole, and the file goes on from there. */
static void every_truncation_leaves_a_prefix(void **state)
{
	struct files *f = *state;
	struct told told[OPS + 1], now;
	size_t at[OPS + 1], n, cut, i;
	struct store_file *s;
	uint8_t *p;

	history(f, told, at);
	p = slurp(f->path, &n);
	for (cut = 0; cut <= n; cut++) {
		spill(f->path, p, cut);
		s = open_ok(f);
		tell(s, &now);
		/* The last padding need not be there. */
		for (i = OPS; i && at[i] > cut + 7; i--)
			;
		if (i && at[i] > cut && strcmp(now.text, told[i].text) != 0)
			i--;
		assert_string_equal(now.text, told[i].text);
		put(s, 77, "after");
		assert_int_equal(store_file_close(s, NULL), 0);
		s = open_ok(f);
		tell(s, &now);
		assert_non_null(strstr(now.text, " 77/1=after c="));
		assert_int_equal(store_file_cut(s), 0);
		store_file_close(s, NULL);
	}
	free(p);
}

/* A flipped bit is never taken for data.  Where a later record proves that the
 * place had been synced, it is damage and the file is left alone. */
static void every_flipped_bit_is_seen(void **state)
{
	struct files *f = *state;
	struct told told[OPS + 1], now;
	size_t at[OPS + 1], n, bit, i, after, proven = 0;
	struct err e;
	uint8_t *p, *q;

	history(f, told, at);
	p = slurp(f->path, &n);
	/* Two bits of each byte: every opening costs a sync. */
	for (bit = 0; bit < n * 8; bit += 3 + bit / 8 % 3) {
		struct store_file *s;
		int rv;

		p[bit / 8] ^= (uint8_t)(1u << bit % 8);
		spill(f->path, p, n);
		rv = store_file_open(&s, f->path, ACCOUNT, DEVICE, &e);
		if (rv == 0) {
			tell(s, &now);
			for (i = 0; i <= OPS && strcmp(now.text, told[i].text); i++)
				;
			assert_true(i <= OPS);
			/* Only the batch after the last proof may be cut, or
			 * nothing when padding was hit. */
			assert_true(i == OPS || bit / 8 >= at[6]);
			store_file_close(s, NULL);
		} else {
			assert_true(rv == ERR_DAMAGED || rv == ERR_VERSION ||
				    rv == ERR_FORMAT);
			q = slurp(f->path, &after);
			assert_int_equal(after, n);
			assert_memory_equal(p, q, n);
			free(q);
			proven++;
		}
		p[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	assert_true(proven > at[6] * 8 / 5);
	free(p);
}

/* With the mark of a good close, damage to the last batch is told as well. */
static void a_good_close_lets_no_damage_pass_as_a_torn_tail(void **state)
{
	struct files *f = *state;
	struct told told[OPS + 1];
	size_t at[OPS + 1], n, i;
	struct store_file *s;
	uint8_t *p;
	int k, rv;

	history(f, told, at);
	unlink(f->path);
	s = open_ok(f);
	for (k = 0; k < OPS; k++)
		do_op(s, k);
	store_file_close(s, NULL);
	p = slurp(f->path, &n);
	for (i = 64; i < at[OPS]; i++) {
		p[i] ^= 0x10;
		spill(f->path, p, n);
		rv = open_rv(f, NULL);
		assert_true(rv == ERR_DAMAGED || (rv == 0 && (p[i] ^ 0x10) == 0));
		p[i] ^= 0x10;
	}
	free(p);
}

/* Of a batch that was being written, later pages may reach the disk before
 * earlier ones: still a torn tail. */
static void pieces_out_of_order_are_a_torn_tail(void **state)
{
	struct files *f = *state;
	struct told told[OPS + 1], now;
	size_t at[OPS + 1], n, i;
	struct store_file *s;
	uint8_t *p;

	history(f, told, at);
	p = slurp(f->path, &n);
	for (i = 6; i < OPS; i++) {
		uint8_t *q = xmalloc(n);

		memcpy(q, p, n);
		memset(q + at[i], 0, at[i + 1] - at[i]);
		spill(f->path, q, n);
		s = open_ok(f);
		tell(s, &now);
		assert_string_equal(now.text, told[i].text);
		assert_int_equal(store_file_cut(s), n - at[i]);
		store_file_close(s, NULL);
		free(q);
	}
	free(p);
}

/* ---- refusals ------------------------------------------------------------- */

static void a_file_has_one_user_at_a_time(void **state)
{
	struct files *f = *state;
	struct store_file *s = open_ok(f);
	struct err e;

	assert_int_equal(open_rv(f, &e), ERR_LOCKED);
	assert_non_null(strstr(e.msg, f->path));
	store_file_close(s, NULL);
	assert_int_equal(open_rv(f, &e), 0);
}

static void foreign_files_are_left_alone(void **state)
{
	struct files *f = *state;
	struct store_file *s = open_ok(f);
	struct err e;
	size_t n;
	uint8_t *p;

	store_file_close(s, NULL);
	assert_int_equal(store_file_open(&s, f->path, ACCOUNT + 1, DEVICE, &e),
			 ERR_INVALID);
	assert_int_equal(store_file_open(&s, f->path, ACCOUNT, DEVICE + 1, &e),
			 ERR_INVALID);
	spill(f->path, (const uint8_t *)"dear diary", 10);
	assert_int_equal(open_rv(f, &e), ERR_FORMAT);
	p = slurp(f->path, &n);
	assert_int_equal(n, 10);
	free(p);
	spill(f->path, (const uint8_t *)"", 0);
	assert_int_equal(open_rv(f, &e), 0);
}

/* A disk without room: the error names the file, and the store says no more yes. */
static void a_full_disk_is_told_and_final(void **state)
{
	struct files *f = *state;
	struct store_file *s = open_ok(f);
	struct client_store *cs = store_file_store(s);
	struct rlimit old, small;
	struct err e = { 0 };

	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &old);
	small = old;
	small.rlim_cur = 100;
	setrlimit(RLIMIT_FSIZE, &small);
	put(s, 1, "one that does not fit into the file any more");
	assert_true(cs->ops->sync(cs, &e) < 0);
	assert_non_null(strstr(e.msg, f->path));
	setrlimit(RLIMIT_FSIZE, &old);
	assert_true(cs->ops->sync(cs, &e) < 0);
	assert_true(store_file_close(s, &e) < 0);
	/* What is there is a torn tail. */
	s = open_ok(f);
	assert_int_equal(store_file_cut(s), 100 - 64);
	store_file_close(s, NULL);
}

static bool count(void *arg, const struct store_op *op)
{
	int *n = arg;

	n[0]++;
	n[op->kind]++;
	return true;
}

static void history_is_read_without_the_lock(void **state)
{
	struct files *f = *state;
	struct store_file *s = open_ok(f);
	int i, n[6] = { 0 };
	struct err e = { 0 };

	for (i = 0; i < OPS; i++)
		do_op(s, i);
	sync_ok(s);
	assert_int_equal(store_file_scan(f->path, count, n, &e), 0);
	assert_int_equal(n[0], OPS);
	assert_int_equal(n[STORE_RECORD], 3);
	store_file_close(s, NULL);
	assert_int_equal(store_file_scan(f->dir, count, n, &e), ERR_INVALID);
}

/* The worked example of docs/format.md, but for the time at which it was made. */
static void the_layout_is_the_documented_one(void **state)
{
	static const char golden[] = "tests/golden/format/device.log";
	struct files *f = *state;
	struct store_file *s = open_ok(f);
	size_t n, want_n;
	uint8_t *p, *want;
	FILE *out;

	put(s, 1, "hello");
	sync_ok(s);
	settle(s, 1, NULL);
	record(s, 1, "hi");
	put(s, 2, "x");
	settle(s, 2, "unknown-recipient");
	store_file_close(s, NULL);
	p = slurp(f->path, &n);
	put_u64(p + 32, 1700000000000);
	put_u64(p + 56, xxh3(p, 56));
	if (getenv("QUIPU_GOLDEN")) {
		out = fopen(golden, "wb");
		assert_non_null(out);
		assert_int_equal(fwrite(p, 1, n, out), n);
		assert_int_equal(fclose(out), 0);
	}
	want = slurp(golden, &want_n);
	assert_int_equal(n, want_n);
	assert_memory_equal(p, want, n);
	/* A later format is not touched. */
	put_u32(p + 8, STORE_FILE_VERSION + 1);
	put_u64(p + 56, xxh3(p, 56));
	spill(f->path, p, n);
	assert_int_equal(open_rv(f, NULL), ERR_VERSION);
	free(want);
	want = slurp(f->path, &want_n);
	assert_int_equal(want_n, n);
	assert_memory_equal(p, want, n);
	free(want);
	free(p);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(what_is_closed_is_read_back),
		T(every_truncation_leaves_a_prefix),
		T(every_flipped_bit_is_seen),
		T(a_good_close_lets_no_damage_pass_as_a_torn_tail),
		T(pieces_out_of_order_are_a_torn_tail),
		T(a_file_has_one_user_at_a_time),
		T(foreign_files_are_left_alone),
		T(a_full_disk_is_told_and_final),
		T(history_is_read_without_the_lock),
		T(the_layout_is_the_documented_one),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
