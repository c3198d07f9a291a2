/* The simulator's disk and rows keep what they must over a crash, and lose the
 * rest: a test bed that forgets nothing would find nothing. */
#include "tests/lib/disk_sim.h"
#include "tests/lib/kv_mem.h"

#include <inttypes.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* after the four headers that it needs */
#include <cmocka.h>

struct bed {
	struct sim sim;
	struct disk_sim *ds;
	struct disk *d;
};

static void bed_open(struct bed *b, uint64_t seed)
{
	sim_init(&b->sim, seed);
	b->ds = disk_sim_new(&b->sim, 1, seed, &disk_sim_fast);
	b->d = disk_sim_start(b->ds);
}

static void run(struct bed *b)
{
	int owner;

	while (sim_step(&b->sim, &owner))
		;
}

static void bed_close(struct bed *b)
{
	disk_sim_crash(b->ds);
	run(b);
	disk_sim_free(b->ds);
	sim_release(&b->sim);
}

static void reboot(struct bed *b)
{
	disk_sim_crash(b->ds);
	b->d = disk_sim_start(b->ds);
}

static struct disk_file *open_file(struct bed *b, const char *path, int flags)
{
	struct disk_file *f;

	assert_int_equal(b->d->ops->open(b->d, path, flags, &f, NULL), 0);
	return f;
}

static void put(struct bed *b, struct disk_file *f, uint64_t off, int c,
		size_t n)
{
	uint8_t *p = malloc(n);
	struct iovec iov = { p, n };

	memset(p, c, n);
	assert_int_equal(b->d->ops->pwritev(f, &iov, 1, off, NULL), 0);
	free(p);
}

/* Bytes equal to c in [off, off + n) that the file has. */
static size_t count(struct bed *b, const char *path, uint64_t off, int c,
		    size_t n)
{
	struct disk_file *f;
	uint8_t *p;
	size_t got, i, k = 0;

	if (b->d->ops->open(b->d, path, DISK_READ, &f, NULL))
		return 0;
	p = malloc(n);
	assert_int_equal(b->d->ops->pread(f, p, n, off, &got, NULL), 0);
	for (i = 0; i < got; i++)
		k += p[i] == (uint8_t)c;
	b->d->ops->close(f);
	free(p);
	return k;
}

static void synced_bytes_survive_and_others_have_every_fate(void **state)
{
	unsigned kept = 0, lost = 0, torn = 0;
	uint64_t seed;

	(void)state;
	for (seed = 1; seed <= 200; seed++) {
		struct bed b;
		struct disk_file *f;
		size_t n;

		bed_open(&b, seed);
		f = open_file(&b, "a", DISK_WRITE | DISK_CREATE);
		put(&b, f, 0, 1, 8192);
		assert_int_equal(b.d->ops->fdatasync(f, NULL), 0);
		assert_int_equal(b.d->ops->fsync_dir(b.d, ".", NULL), 0);
		put(&b, f, 4096, 2, 4096);
		assert_int_equal(count(&b, "a", 0, 2, 8192), 4096);
		reboot(&b);
		b.d->ops->close(f);
		assert_int_equal(count(&b, "a", 0, 1, 4096), 4096);
		n = count(&b, "a", 4096, 2, 4096);
		assert_int_equal(n + count(&b, "a", 4096, 1, 4096), 4096);
		assert_int_equal(n % 512, 0);
		kept += n == 4096;
		lost += n == 0;
		torn += n && n < 4096;
		/* What a crash left is durable: the next one takes nothing. */
		reboot(&b);
		assert_int_equal(count(&b, "a", 4096, 2, 4096), n);
		bed_close(&b);
	}
	assert_true(kept > 20 && lost > 20 && torn > 20);
}

static void names_need_their_folder_synced(void **state)
{
	unsigned there = 0, renamed = 0, unlinked = 0;
	uint64_t seed;

	(void)state;
	for (seed = 1; seed <= 200; seed++) {
		struct bed b;
		struct disk_file *f;
		size_t old, new;

		bed_open(&b, seed);
		assert_int_equal(b.d->ops->mkdir(b.d, "d", NULL), 0);
		f = open_file(&b, "d/kept", DISK_WRITE | DISK_CREATE);
		put(&b, f, 0, 1, 512);
		assert_int_equal(b.d->ops->fdatasync(f, NULL), 0);
		b.d->ops->close(f);
		b.d->ops->close(open_file(&b, "d/gone", DISK_WRITE | DISK_CREATE));
		assert_int_equal(b.d->ops->fsync_dir(b.d, "d", NULL), 0);

		b.d->ops->close(open_file(&b, "d/new", DISK_WRITE | DISK_CREATE));
		assert_int_equal(b.d->ops->rename(b.d, "d/kept", "d/moved", NULL), 0);
		assert_int_equal(b.d->ops->unlink(b.d, "d/gone", NULL), 0);
		reboot(&b);
		old = count(&b, "d/kept", 0, 1, 512);
		new = count(&b, "d/moved", 0, 1, 512);
		assert_int_equal(old + new, 512); /* one of the two names */
		renamed += new == 512;
		if (!b.d->ops->open(b.d, "d/new", DISK_READ, &f, NULL)) {
			there++;
			b.d->ops->close(f);
		}
		if (!b.d->ops->open(b.d, "d/gone", DISK_READ, &f, NULL))
			b.d->ops->close(f);
		else
			unlinked++;
		bed_close(&b);
	}
	assert_in_range(there, 20, 180);
	assert_in_range(renamed, 20, 180);
	assert_in_range(unlinked, 20, 180);
}

struct written {
	struct disk_write w;
	struct iovec iov;
	uint8_t bytes[4096];
	int calls, status;
};

static void on_written(struct disk_write *w, int status, const struct err *e)
{
	struct written *x = w->arg;

	(void)e;
	x->calls++;
	x->status = status;
}

static void write_sync(struct bed *b, struct written *x, struct disk_file *f,
		       uint64_t off, int c)
{
	memset(x, 0, sizeof *x);
	memset(x->bytes, c, sizeof x->bytes);
	x->iov = (struct iovec){ x->bytes, sizeof x->bytes };
	x->w = (struct disk_write){ .file = f, .iov = &x->iov, .iovcnt = 1,
				    .offset = off, .cb = on_written, .arg = x };
	b->d->ops->write_sync(b->d, &x->w);
	assert_int_equal(x->calls, 0);
}

static void a_reported_write_is_durable_and_order_is_kept(void **state)
{
	unsigned second_without_first = 0, lost = 0;
	uint64_t seed;

	(void)state;
	for (seed = 1; seed <= 200; seed++) {
		struct bed b;
		struct disk_file *f;
		struct written x[2];
		int owner;
		size_t n0, n1;

		bed_open(&b, seed);
		f = open_file(&b, "j", DISK_WRITE | DISK_CREATE);
		assert_int_equal(b.d->ops->fsync_dir(b.d, ".", NULL), 0);
		write_sync(&b, &x[0], f, 0, 1);
		write_sync(&b, &x[1], f, 4096, 2);
		if (seed % 2) {
			while (!x[0].calls)
				assert_true(sim_step(&b.sim, &owner));
		}
		disk_sim_crash(b.ds);
		run(&b);
		assert_int_equal(x[0].calls, seed % 2);
		assert_int_equal(x[1].calls, 0);
		b.d->ops->close(f);
		b.d = disk_sim_start(b.ds);
		n0 = count(&b, "j", 0, 1, 4096);
		n1 = count(&b, "j", 4096, 2, 4096);
		if (x[0].calls)
			assert_int_equal(n0, 4096);
		second_without_first += n1 && n0 < 4096;
		lost += !n1;
		bed_close(&b);
	}
	assert_int_equal(second_without_first, 0);
	assert_in_range(lost, 50, 199);
}

static void went(void *arg)
{
	++*(int *)arg;
}

static void the_power_can_go_between_any_two_operations(void **state)
{
	uint64_t n;

	(void)state;
	for (n = 1; n <= 4; n++) {
		struct bed b;
		struct disk_file *f;
		int calls = 0;
		size_t k;

		bed_open(&b, n);
		disk_sim_crash_at(b.ds, n, went, &calls);
		f = open_file(&b, "a", DISK_WRITE | DISK_CREATE); /* 1 */
		b.d->ops->fsync_dir(b.d, ".", NULL);		     /* 2 */
		put(&b, f, 0, 1, 512);				     /* 3 */
		b.d->ops->fdatasync(f, NULL);			     /* 4 */
		assert_int_equal(calls, 1);
		b.d->ops->close(f);
		reboot(&b);
		k = count(&b, "a", 0, 1, 512);
		if (n <= 3)
			assert_int_equal(k, 0);
		bed_close(&b);
	}
}

static void full_and_failing_disks_say_so(void **state)
{
	struct bed b;
	struct disk_file *f;
	struct iovec iov = { (void *)"x", 1 };
	struct written x;
	uint64_t fr, total;

	(void)state;
	bed_open(&b, 1);
	disk_sim_set_total(b.ds, 8192);
	f = open_file(&b, "a", DISK_WRITE | DISK_CREATE);
	put(&b, f, 0, 1, 8192);
	assert_int_equal(b.d->ops->pwritev(f, &iov, 1, 8192, NULL), ERR_NOSPACE);
	assert_int_equal(b.d->ops->space(b.d, &fr, &total, NULL), 0);
	assert_true(fr == 0 && total == 8192);
	put(&b, f, 0, 2, 8192); /* in place is no new space */
	disk_sim_fail_at(b.ds, 1, ERR_IO);
	assert_int_equal(b.d->ops->fdatasync(f, NULL), ERR_IO);
	disk_sim_fail_at(b.ds, 1, ERR_IO);
	write_sync(&b, &x, f, 0, 3);
	run(&b);
	assert_int_equal(x.calls, 1);
	assert_int_equal(x.status, ERR_IO);
	assert_int_equal(b.d->ops->unlink(b.d, "a", NULL), 0);
	b.d->ops->close(f);
	assert_int_equal(b.d->ops->fsync_dir(b.d, ".", NULL), 0);
	b.d->ops->space(b.d, &fr, &total, NULL);
	assert_true(fr == 8192);
	bed_close(&b);
}

/* ---- rows -------------------------------------------------------------------------- */

static bool one_row(void *arg, const void *key, size_t klen, const void *val,
		    size_t vlen)
{
	char *out = arg;

	snprintf(out + strlen(out), 100 - strlen(out), "%.*s=%.*s ", (int)klen,
		 (const char *)key, (int)vlen, (const char *)val);
	return true;
}

static const char *rows(struct kv *kv, const char *from)
{
	static char out[100];

	out[0] = 0;
	assert_int_equal(kv_mem.walk(kv, from, strlen(from), one_row, out, NULL),
			 0);
	return out;
}

static void kv_put(struct kv *kv, const char *k, const char *v)
{
	assert_int_equal(kv_mem.put(kv, k, strlen(k), v, strlen(v), NULL), 0);
}

static void rows_commit_whole_and_readers_keep_their_view(void **state)
{
	struct bed b;
	struct kv *kv;
	const void *val;
	size_t vlen;

	(void)state;
	bed_open(&b, 3);
	assert_int_equal(kv_mem.open(NULL, b.d, "kv", &kv, NULL), 0);
	assert_int_equal(b.d->ops->fsync_dir(b.d, ".", NULL), 0);
	assert_int_equal(kv_mem.begin(kv, NULL), 0);
	kv_put(kv, "b", "1");
	kv_put(kv, "a", "2");
	kv_put(kv, "b", "3");
	kv_put(kv, "c", "4");
	assert_int_equal(kv_mem.del(kv, "c", 1, NULL), 0);
	assert_int_equal(kv_mem.commit(kv, NULL), 0);
	assert_string_equal(rows(kv, ""), "");
	kv_mem.renew(kv);
	assert_string_equal(rows(kv, ""), "a=2 b=3 ");
	assert_string_equal(rows(kv, "aa"), "b=3 ");
	assert_int_equal(kv_mem.get(kv, "c", 1, &val, &vlen, NULL), ERR_NOT_FOUND);
	assert_int_equal(kv_mem.get(kv, "b", 1, &val, &vlen, NULL), 0);
	assert_memory_equal(val, "3", 1);

	assert_int_equal(kv_mem.begin(kv, NULL), 0);
	assert_int_equal(kv_mem.del(kv, "a", 1, NULL), 0);
	kv_put(kv, "z", "5");
	reboot(&b); /* not committed */
	kv_mem.close(kv);
	assert_int_equal(kv_mem.open(NULL, b.d, "kv", &kv, NULL), 0);
	assert_string_equal(rows(kv, ""), "a=2 b=3 ");
	assert_int_equal(kv_mem.begin(kv, NULL), 0);
	assert_int_equal(kv_mem.del(kv, "a", 1, NULL), 0);
	kv_put(kv, "z", "5");
	assert_int_equal(kv_mem.commit(kv, NULL), 0);
	reboot(&b);
	kv_mem.close(kv);
	assert_int_equal(kv_mem.open(NULL, b.d, "kv", &kv, NULL), 0);
	assert_string_equal(rows(kv, ""), "b=3 z=5 ");
	kv_mem.close(kv);
	bed_close(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(synced_bytes_survive_and_others_have_every_fate),
		cmocka_unit_test(names_need_their_folder_synced),
		cmocka_unit_test(a_reported_write_is_durable_and_order_is_kept),
		cmocka_unit_test(the_power_can_go_between_any_two_operations),
		cmocka_unit_test(full_and_failing_disks_say_so),
		cmocka_unit_test(rows_commit_whole_and_readers_keep_their_view),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
