/* The simulator's disk: struct disk over a page cache and a durable image.
 *
 * A struct disk_sim is the medium of one node and outlives its processes;
 * disk_sim_start() gives the struct disk of a process.  Bytes become durable at
 * fdatasync or when a write_sync completes, names when their folder is synced.
 * disk_sim_crash() takes the power away: each unsynced 4 KiB page is, by the
 * seed, kept, lost or torn at 512 bytes, each unsynced name kept or lost, each
 * unsynced size old, new or between.  disk_sim_kill() ends only the process:
 * the page cache stays.
 *
 * After either, the old struct disk does nothing any more (calls succeed without
 * effect, no callback comes), so that its owner can be torn down with the
 * ordinary calls. */
#ifndef QUIPU_TESTS_LIB_DISK_SIM_H
#define QUIPU_TESTS_LIB_DISK_SIM_H

#include "log/disk.h"
#include "tests/lib/sim.h"

struct disk_sim;

struct disk_sim_config {
	uint64_t write_min_us, write_max_us; /* of a write + fdatasync */
	unsigned slow_permille;              /* writes that take slow_us more */
	uint64_t slow_us;
	uint64_t work_min_us, work_max_us;   /* until run(), and until done() */
	uint64_t total_bytes;                /* 0: 1 TiB */
};

extern const struct disk_sim_config disk_sim_fast;

/* `node` owns the events; dice come from `seed` alone. */
struct disk_sim *disk_sim_new(struct sim *s, int node, uint64_t seed,
			      const struct disk_sim_config *cfg);
/* After the last event of its processes ran or was dropped with the simulator. */
void disk_sim_free(struct disk_sim *ds);

/* A process opens the disk; the one before must have crashed or been killed. */
struct disk *disk_sim_start(struct disk_sim *ds);
void disk_sim_crash(struct disk_sim *ds);
void disk_sim_kill(struct disk_sim *ds);
void disk_sim_configure(struct disk_sim *ds, const struct disk_sim_config *cfg);

/* ---- faults ------------------------------------------------------------------- */

/* Operations that change the medium (write, sync, rename, unlink, folder sync,
 * commit), counted over all processes. */
uint64_t disk_sim_ops_done(const struct disk_sim *ds);
/* The power goes just before the n-th such operation from now (n >= 1): from
 * there on the medium is frozen, and fn(arg) is called at once; the caller then
 * crashes the disk when the code under test has returned.  n = 0 disarms. */
void disk_sim_crash_at(struct disk_sim *ds, uint64_t n, void (*fn)(void *arg),
		       void *arg);
/* The n-th operation from now fails with `code` (ERR_IO, ERR_NOSPACE) without
 * effect; 0 disarms. */
void disk_sim_fail_at(struct disk_sim *ds, uint64_t n, int code);
/* ENOSPC as if `bytes` were the size of the file system. */
void disk_sim_set_total(struct disk_sim *ds, uint64_t bytes);
/* All asynchronous writes wait this much longer from now on (0: as configured). */
void disk_sim_stall(struct disk_sim *ds, uint64_t us);
/* Damage durable and cached bytes of a file: flip one bit, or zero a sector.
 * false: no such byte. */
bool disk_sim_flip(struct disk_sim *ds, const char *path, uint64_t off,
		   unsigned bit);
bool disk_sim_zero(struct disk_sim *ds, const char *path, uint64_t off,
		   uint64_t len);

/* Rot: one bit or one sector of some file's durable bytes, by the seed; files of
 * rows and the newest write of each file are left alone.  The path, or NULL:
 * nothing there to damage. */
const char *disk_sim_rot(struct disk_sim *ds, const char *below);

struct disk_sim_stats {
	uint64_t writes, syncs, crashes, kills;
	uint64_t pages_kept, pages_lost, pages_torn, names_lost, used_bytes;
};
void disk_sim_stats(const struct disk_sim *ds, struct disk_sim_stats *out);

/* ---- for kv_mem ------------------------------------------------------------------ */

/* Something that lives and dies with a file: the rows of kv_mem. */
struct disk_sim_extra {
	void (*drop)(struct disk_sim_extra *x);
};
struct disk_sim_extra **disk_sim_extra(struct disk_file *f);
/* One operation in the sense above.  0: do it; 1: frozen, pretend; else ERR_. */
int disk_sim_step(struct disk_file *f, struct err *e);

#endif
