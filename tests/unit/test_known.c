/* Which disks may come: the file, its damage, and the rules. */
#include "base/alloc.h"
#include "base/hash.h"
#include "base/logf.h"
#include "consensus/known.h"
#include "tests/lib/disk_sim.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define GOLDEN "tests/golden/format/known"

static const uint8_t disk_a[16] = "disk a 01234567", disk_b[16] = "disk b 01234567",
		     disk_c[16] = "disk c 01234567";

struct world {
	struct sim sim;
	struct disk_sim *ds;
	struct disk *disk;
	struct nodemeta meta; /* of node 1, founder with 2 and 3 */
	struct err e;
};

static void quiet(void *arg, const char *line)
{
	(void)arg;
	(void)line;
}

static void world_init(struct world *w)
{
	memset(w, 0, sizeof *w);
	sim_init(&w->sim, 1);
	w->ds = disk_sim_new(&w->sim, 0, 1, &disk_sim_fast);
	w->disk = disk_sim_start(w->ds);
	w->meta.version = NODEMETA_VERSION;
	w->meta.node_id = 1;
	w->meta.founders = 1 << 1 | 1 << 2 | 1 << 3;
	memcpy(w->meta.cluster_id, "cluster-0123456", 16);
}

static void world_restart(struct world *w)
{
	disk_sim_crash(w->ds);
	w->disk = disk_sim_start(w->ds);
}

static void world_free(struct world *w)
{
	disk_sim_crash(w->ds);
	disk_sim_free(w->ds);
	sim_release(&w->sim);
}

static void power_went(void *arg)
{
	*(bool *)arg = true;
}

static void open_good(struct world *w, struct known *k)
{
	if (known_open(k, w->disk, &w->meta, &w->e))
		fail_msg("known_open: %s", w->e.msg);
}

/* The folder has data from here on. */
static void make_data(struct world *w)
{
	assert_int_equal(w->disk->ops->mkdir(w->disk, "journal", &w->e), 0);
	assert_int_equal(w->disk->ops->fsync_dir(w->disk, "", &w->e), 0);
}

static int come(struct world *w, struct known *k, uint64_t id,
		const uint8_t *disk, bool joined)
{
	return known_admit(k, id, disk, joined, &w->e);
}

static void bytes_are_as_documented(void **state)
{
	static struct known k, got;
	uint8_t bytes[KNOWN_SIZE], want[KNOWN_SIZE + 1];
	struct err e;
	unsigned i;
	FILE *f;

	(void)state;
	k.seq = 7;
	k.self = 1;
	memcpy(k.cluster_id, "cluster-0123456", 16);
	k.refused_by = 3;
	k.peers[2].seen = true;
	memcpy(k.peers[2].disk_id, disk_a, 16);
	k.peers[5] = (struct known_peer){ .seen = true, .joined = true,
					  .any = true, .serial = 9 };
	memcpy(k.peers[5].disk_id, disk_b, 16);
	known_encode(&k, bytes);
	if (getenv("QUIPU_GOLDEN")) {
		f = fopen(GOLDEN, "wb");
		assert_non_null(f);
		assert_int_equal(fwrite(bytes, 1, sizeof bytes, f), sizeof bytes);
		assert_int_equal(fclose(f), 0);
	}
	f = fopen(GOLDEN, "rb");
	assert_non_null(f);
	assert_int_equal(fread(want, 1, sizeof want, f), sizeof bytes);
	fclose(f);
	assert_memory_equal(want, bytes, sizeof bytes);
	assert_int_equal(known_decode(&got, bytes, sizeof bytes, &e), 0);
	assert_memory_equal(&got, &k, sizeof k);
	for (i = 0; i < sizeof bytes; i++) {
		int rv;

		bytes[i] ^= 0x10;
		rv = known_decode(&got, bytes, sizeof bytes, &e);
		assert_true(rv == ERR_CHECKSUM || rv == ERR_FORMAT ||
			    rv == ERR_VERSION);
		bytes[i] ^= 0x10;
	}
}

static void the_first_disk_is_the_only_one(void **state)
{
	struct known k;
	struct world w;

	(void)state;
	world_init(&w);
	open_good(&w, &k);
	assert_int_equal(come(&w, &k, 2, NULL, false), 0); /* an older version */
	assert_int_equal(come(&w, &k, 2, disk_a, false), 0);
	make_data(&w);
	world_restart(&w);
	open_good(&w, &k);
	assert_int_equal(come(&w, &k, 2, disk_a, false), 0);
	assert_int_equal(come(&w, &k, 2, disk_b, false), ERR_PERM);
	assert_non_null(strstr(w.e.msg, "quipuctl node replace 2"));
	assert_int_equal(come(&w, &k, 2, disk_b, true), ERR_PERM);
	assert_int_equal(come(&w, &k, 2, disk_a, true), ERR_PERM);
	assert_int_equal(come(&w, &k, 2, NULL, false), ERR_PERM);
	assert_int_equal(come(&w, &k, 2, disk_a, false), 0);
	/* Founders found, others join. */
	assert_int_equal(come(&w, &k, 3, disk_c, true), ERR_PERM);
	assert_int_equal(come(&w, &k, 4, disk_b, false), ERR_PERM);
	assert_non_null(strstr(w.e.msg, "--join"));
	assert_int_equal(come(&w, &k, 4, disk_b, true), 0);
	/* Who joined does not know who founded. */
	w.meta.founders = 0;
	open_good(&w, &k);
	assert_int_equal(come(&w, &k, 3, disk_c, false), 0);
	world_free(&w);
}

static void a_replacement_is_approved_once(void **state)
{
	struct known k;
	struct world w;

	(void)state;
	world_init(&w);
	open_good(&w, &k);
	make_data(&w);
	assert_int_equal(come(&w, &k, 2, disk_a, false), 0);
	assert_int_equal(known_approve(&k, 2, NULL, 1, &w.e), 0);
	world_restart(&w);
	open_good(&w, &k);
	/* Not as a founder without what it founded; the old one may still come. */
	assert_int_equal(come(&w, &k, 2, disk_b, false), ERR_PERM);
	assert_int_equal(come(&w, &k, 2, disk_a, false), 0);
	assert_int_equal(come(&w, &k, 2, disk_b, true), 0);
	assert_int_equal(come(&w, &k, 2, disk_a, false), ERR_PERM);
	assert_int_equal(come(&w, &k, 2, disk_c, true), ERR_PERM);
	/* An old approval is none. */
	assert_int_equal(known_approve(&k, 2, NULL, 1, &w.e), 0);
	assert_int_equal(come(&w, &k, 2, disk_c, true), ERR_PERM);
	assert_int_equal(known_approve(&k, 2, disk_c, 2, &w.e), 0);
	assert_int_equal(come(&w, &k, 2, disk_b, true), ERR_PERM);
	assert_int_equal(come(&w, &k, 2, disk_c, true), 0);
	/* A founder that was never seen, replaced. */
	assert_int_equal(known_approve(&k, 3, NULL, 1, &w.e), 0);
	assert_int_equal(come(&w, &k, 3, disk_a, true), 0);
	assert_int_equal(known_approve(&k, 64, NULL, 1, &w.e), ERR_INVALID);
	assert_int_equal(known_approve(&k, 1, NULL, 9, &w.e), 0); /* itself */
	world_free(&w);
}

/* What others have met need not be believed at first sight. */
static void the_cluster_knows_more(void **state)
{
	struct known k;
	struct world w;

	(void)state;
	world_init(&w);
	open_good(&w, &k);
	make_data(&w);
	assert_int_equal(known_learn(&k, 4, disk_a, true, &w.e), 0);
	assert_int_equal(known_check(&k, 4, disk_b, true, &w.e), ERR_PERM);
	assert_int_equal(come(&w, &k, 2, disk_b, false), 0);
	/* It does not overrule what was seen. */
	assert_int_equal(known_learn(&k, 2, disk_c, false, &w.e), 0);
	world_restart(&w);
	open_good(&w, &k);
	assert_int_equal(come(&w, &k, 2, disk_c, false), ERR_PERM);
	assert_int_equal(come(&w, &k, 2, disk_b, false), 0);
	assert_int_equal(come(&w, &k, 4, disk_b, true), ERR_PERM);
	assert_int_equal(come(&w, &k, 4, disk_a, true), 0);
	/* To ask is not to let in. */
	assert_int_equal(known_check(&k, 5, disk_a, true, &w.e), 0);
	assert_int_equal(known_check(&k, 5, disk_b, true, &w.e), 0);
	world_free(&w);
}

static void a_refused_founder_refuses_all(void **state)
{
	struct known k;
	struct world w;

	(void)state;
	world_init(&w);
	open_good(&w, &k);
	make_data(&w);
	assert_int_equal(come(&w, &k, 2, disk_a, false), 0);
	assert_true(known_refused(&k, 3));
	assert_int_equal(come(&w, &k, 2, disk_a, false), ERR_FAULTY);
	world_restart(&w);
	open_good(&w, &k);
	assert_int_equal(come(&w, &k, 2, disk_a, false), ERR_FAULTY);
	assert_non_null(strstr(w.e.msg, "refused by node 3"));
	world_free(&w);
	/* Who joins waits to be approved. */
	world_init(&w);
	w.meta.founders = 0;
	open_good(&w, &k);
	assert_false(known_refused(&k, 3));
	assert_int_equal(come(&w, &k, 2, disk_a, false), 0);
	world_free(&w);
}

static void nothing_is_forgotten_in_silence(void **state)
{
	struct known k;
	struct world w;

	(void)state;
	world_init(&w);
	open_good(&w, &k);
	make_data(&w);
	assert_int_equal(come(&w, &k, 2, disk_a, false), 0);
	/* One bad copy is written anew from the other, either. */
	assert_true(disk_sim_flip(w.ds, "known", 130, 0));
	open_good(&w, &k);
	assert_true(disk_sim_flip(w.ds, "known.2", 130, 0));
	open_good(&w, &k);
	assert_int_equal(come(&w, &k, 2, disk_b, false), ERR_PERM);
	w.meta.node_id = 2;
	assert_int_equal(known_open(&k, w.disk, &w.meta, &w.e), ERR_CONFIG);
	w.meta.node_id = 1;
	assert_int_equal(w.disk->ops->unlink(w.disk, "known.2", &w.e), 0);
	open_good(&w, &k);
	assert_true(disk_sim_flip(w.ds, "known", 130, 0));
	assert_true(disk_sim_flip(w.ds, "known.2", 131, 0));
	assert_int_equal(known_open(&k, w.disk, &w.meta, &w.e), ERR_DAMAGED);
	assert_non_null(strstr(w.e.msg, "damaged"));
	w.meta.version = 1;
	assert_int_equal(known_open(&k, w.disk, &w.meta, &w.e), ERR_DAMAGED);
	w.meta.version = NODEMETA_VERSION;
	assert_int_equal(w.disk->ops->unlink(w.disk, "known", &w.e), 0);
	assert_int_equal(w.disk->ops->unlink(w.disk, "known.2", &w.e), 0);
	assert_int_equal(known_open(&k, w.disk, &w.meta, &w.e), ERR_DAMAGED);
	assert_non_null(strstr(w.e.msg, "gone"));
	/* A folder of the version before this file. */
	w.meta.version = 1;
	open_good(&w, &k);
	world_free(&w);
}

/* The power goes at each step: a disk that was let in is the only one from then on,
 * and the node starts. */
static void power_cuts(void **state)
{
	unsigned round;

	(void)state;
	for (round = 0; round < 2; round++) {
		uint64_t n;

		for (n = 1;; n++) {
			struct known k;
			struct world w;
			bool frozen = false;

			world_init(&w);
			if (round)
				open_good(&w, &k);
			disk_sim_crash_at(w.ds, n, power_went, &frozen);
			if (!round)
				open_good(&w, &k);
			if (round) {
				make_data(&w);
				assert_int_equal(come(&w, &k, 2, disk_a, false), 0);
			}
			disk_sim_crash_at(w.ds, 0, NULL, NULL);
			world_restart(&w);
			open_good(&w, &k);
			if (!frozen && round)
				assert_int_equal(come(&w, &k, 2, disk_b, false),
						 ERR_PERM);
			world_free(&w);
			if (!frozen)
				break;
		}
		assert_true(n > 6);
	}
}

static void a_full_disk_lets_nobody_in(void **state)
{
	struct known k;
	struct world w;

	(void)state;
	world_init(&w);
	open_good(&w, &k);
	make_data(&w);
	disk_sim_fail_at(w.ds, 2, ERR_IO);
	assert_int_equal(come(&w, &k, 2, disk_a, false), ERR_IO);
	assert_non_null(strstr(w.e.msg, "node 2"));
	assert_false(k.peers[2].seen);
	assert_int_equal(come(&w, &k, 2, disk_b, false), 0);
	world_restart(&w);
	open_good(&w, &k);
	assert_int_equal(come(&w, &k, 2, disk_b, false), 0);
	assert_int_equal(come(&w, &k, 2, disk_a, false), ERR_PERM);
	world_free(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes_are_as_documented),
		cmocka_unit_test(the_first_disk_is_the_only_one),
		cmocka_unit_test(a_replacement_is_approved_once),
		cmocka_unit_test(the_cluster_knows_more),
		cmocka_unit_test(a_refused_founder_refuses_all),
		cmocka_unit_test(nothing_is_forgotten_in_silence),
		cmocka_unit_test(power_cuts),
		cmocka_unit_test(a_full_disk_lets_nobody_in),
	};

	log_set_sink(quiet, NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
