/* What a disk and a clock may do to a program, on command: preloaded into quipud by
 * tests/torture.
 *
 * QUIPU_SHIM names a file of one page that the harness and the process share; its
 * fields are struct control, little endian as the machine is.  Without it, or with
 * all fields 0, calls go through as they are.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct control {
	_Atomic uint32_t no_sync;       /* 1: syncs are said to be done, and are not */
	_Atomic uint32_t sync_delay_ms; /* before each sync */
	_Atomic uint32_t fail_sync;     /* n: the n-th sync from now is EIO; 0: none */
	_Atomic uint32_t fail_write;    /* the same for writes to files */
	_Atomic int64_t clock_ms;       /* the wall clock is this much ahead */
	_Atomic uint64_t syncs;         /* counted by the process */
	_Atomic uint64_t failed;        /* calls that were made to fail */
};

static struct control none;
static struct control *control = &none;

static void *next(const char *name)
{
	void *f = dlsym(RTLD_NEXT, name);

	if (!f)
		abort();
	return f;
}

__attribute__((constructor)) static void attach(void)
{
	const char *path = getenv("QUIPU_SHIM");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *p;

	if (fd < 0)
		return;
	p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (p != MAP_FAILED)
		control = p;
}

/* Counts down to the call that fails. */
static int due(_Atomic uint32_t *n)
{
	uint32_t was = atomic_load(n);

	while (was)
		if (atomic_compare_exchange_weak(n, &was, was - 1))
			break;
	if (was != 1)
		return 0;
	atomic_fetch_add(&control->failed, 1);
	errno = EIO;
	return 1;
}

static int is_file(int fd)
{
	struct stat st;

	return !fstat(fd, &st) && S_ISREG(st.st_mode);
}

/* ---- syncs ------------------------------------------------------------------------ */

enum sync { GO, SKIP, FAIL };

static enum sync before_sync(void)
{
	uint32_t ms = atomic_load(&control->sync_delay_ms);

	atomic_fetch_add(&control->syncs, 1);
	if (ms) {
		struct timespec t = { ms / 1000, ms % 1000 * 1000000l };

		nanosleep(&t, NULL); /* style: sleep, it is the slow disk */
	}
	if (due(&control->fail_sync))
		return FAIL;
	return atomic_load(&control->no_sync) ? SKIP : GO;
}

#define SYNC(call)                                                                  \
	switch (before_sync()) {                                                    \
	case FAIL: return -1;                                                       \
	case SKIP: return 0;                                                        \
	default: return (call);                                                     \
	}

int fdatasync(int fd)
{
	int (*f)(int) = next("fdatasync");

	SYNC(f(fd))
}

int fsync(int fd)
{
	int (*f)(int) = next("fsync");

	SYNC(f(fd))
}

int msync(void *p, size_t n, int flags)
{
	int (*f)(void *, size_t, int) = next("msync");

	SYNC(f(p, n, flags))
}

int syncfs(int fd)
{
	int (*f)(int) = next("syncfs");

	SYNC(f(fd))
}

/* Without syncs there is no O_DSYNC either: LMDB opens its meta pages with it. */
int open(const char *path, int flags, ...)
{
	int (*f)(const char *, int, ...) = next("open");
	mode_t mode = 0;

	if (flags & (O_CREAT | __O_TMPFILE)) {
		__builtin_va_list ap;

		__builtin_va_start(ap, flags);
		mode = __builtin_va_arg(ap, mode_t);
		__builtin_va_end(ap);
	}
	if (atomic_load(&control->no_sync))
		flags &= ~O_SYNC;
	return f(path, flags, mode);
}

/* ---- writes ----------------------------------------------------------------------- */

#define WRITE(fd, call)                                                             \
	if (atomic_load(&control->fail_write) && is_file(fd) &&                     \
	    due(&control->fail_write))                                              \
		return -1;                                                          \
	return (call);

ssize_t pwrite(int fd, const void *p, size_t n, off_t at)
{
	ssize_t (*f)(int, const void *, size_t, off_t) = next("pwrite");

	WRITE(fd, f(fd, p, n, at))
}

ssize_t pwritev(int fd, const struct iovec *iov, int n, off_t at)
{
	ssize_t (*f)(int, const struct iovec *, int, off_t) = next("pwritev");

	WRITE(fd, f(fd, iov, n, at))
}

ssize_t writev(int fd, const struct iovec *iov, int n)
{
	ssize_t (*f)(int, const struct iovec *, int) = next("writev");

	WRITE(fd, f(fd, iov, n))
}

/* ---- the wall clock --------------------------------------------------------------- */

static int64_t ahead_ms(void)
{
	return atomic_load(&control->clock_ms);
}

int clock_gettime(clockid_t id, struct timespec *t)
{
	int (*f)(clockid_t, struct timespec *) = next("clock_gettime");
	int rv = f(id, t);

	if (!rv && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
		int64_t ms = ahead_ms();

		t->tv_sec += ms / 1000;
		t->tv_nsec += ms % 1000 * 1000000;
		if (t->tv_nsec < 0) {
			t->tv_nsec += 1000000000;
			t->tv_sec--;
		} else if (t->tv_nsec >= 1000000000) {
			t->tv_nsec -= 1000000000;
			t->tv_sec++;
		}
	}
	return rv;
}

time_t time(time_t *out)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	if (out)
		*out = t.tv_sec;
	return t.tv_sec;
}

int gettimeofday(struct timeval *restrict tv, void *restrict zone)
{
	struct timespec t;

	(void)zone;
	clock_gettime(CLOCK_REALTIME, &t);
	tv->tv_sec = t.tv_sec;
	tv->tv_usec = t.tv_nsec / 1000;
	return 0;
}
