/* What the core wants of a file system, as a vtable with two twins: disk_uv
 * (real files, one writer thread, one helper thread) and the simulator's
 * (page cache against durable image).
 *
 * Paths are relative to the disk's root folder, '/' separated.  Synchronous
 * calls run in the caller's thread.  They return 0 or a negative ERR_ code with
 * `e` filled.  A failed write or sync of data that was promised (write_sync,
 * fdatasync) is fatal for the process: callers end it (log-engine 10), nobody
 * retries an fsync. */
#ifndef QUIPU_LOG_DISK_H
#define QUIPU_LOG_DISK_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct disk;
struct disk_file; /* opaque, one per open file */

enum disk_open_flags {
	DISK_READ = 0,
	DISK_WRITE = 1,  /* read and write */
	DISK_CREATE = 2, /* with DISK_WRITE: create if absent */
	DISK_EXCL = 4,   /* with DISK_CREATE: fail with ERR_EXISTS if there */
};

/* One asynchronous pwritev + fdatasync, done by the disk's single writer thread
 * in submission order.  The struct and the iov stay put until `cb`, which runs
 * on the loop, exactly once, never inside write_sync().  status: 0 or ERR_. */
struct disk_write {
	struct disk_file *file;
	struct iovec *iov;
	int iovcnt;
	uint64_t offset;
	void (*cb)(struct disk_write *w, int status, const struct err *e);
	void *arg;
	void *priv[4]; /* the twin's */
};

/* Work for the helper thread (checkpoints): run() there, then done() on the
 * loop.  One at a time, in submission order. The simulator runs run() at a
 * later simulated time on its only thread. */
struct disk_work {
	void (*run)(struct disk_work *w);
	void (*done)(struct disk_work *w);
	void *arg;
	void *priv[4];
};

struct disk_ops {
	int (*open)(struct disk *d, const char *path, int flags,
		    struct disk_file **out, struct err *e);
	void (*close)(struct disk_file *f);
	int (*size)(struct disk_file *f, uint64_t *size, struct err *e);
	/* All n bytes or ERR_; *got < n only at the end of the file. */
	int (*pread)(struct disk_file *f, void *p, size_t n, uint64_t off,
		     size_t *got, struct err *e);
	/* Buffered: in the page cache on return, durable after fdatasync. */
	int (*pwritev)(struct disk_file *f, const struct iovec *iov, int iovcnt,
		       uint64_t off, struct err *e);
	int (*fdatasync)(struct disk_file *f, struct err *e);
	int (*truncate)(struct disk_file *f, uint64_t size, struct err *e);
	/* Drop cached pages of the file where the system can (benchmarks). */
	void (*drop_cache)(struct disk_file *f);
	/* Entries of a folder by callback, sorted by name; no "." and "..". */
	int (*list)(struct disk *d, const char *dir,
		    void (*cb)(void *arg, const char *name, bool is_dir),
		    void *arg, struct err *e);
	int (*mkdir)(struct disk *d, const char *dir, struct err *e); /* ok if there */
	int (*unlink)(struct disk *d, const char *path, struct err *e);
	int (*rename)(struct disk *d, const char *from, const char *to,
		      struct err *e);
	int (*fsync_dir)(struct disk *d, const char *dir, struct err *e);
	/* Exclusive lock of the whole root; ERR_LOCKED names the holder's pid. */
	int (*lock)(struct disk *d, const char *path, struct err *e);
	int (*space)(struct disk *d, uint64_t *free_bytes, uint64_t *total_bytes,
		     struct err *e);
	void (*write_sync)(struct disk *d, struct disk_write *w);
	void (*work)(struct disk *d, struct disk_work *w);
};

struct disk {
	const struct disk_ops *ops;
	char *root; /* absolute folder of the real twin; NULL in the simulator */
};

/* The real twin: root is created if absent.  Threads start on demand; callbacks
 * come through uv_async on `loop` (a uv_loop_t *, passed as void * so that this
 * header stays free of uv.h). */
int disk_uv_open(struct disk **out, void *loop, const char *root, struct err *e);
/* Waits for running work; the uv handles close asynchronously on the loop. */
void disk_uv_close(struct disk *d);

#endif
