/* Writing a device's file: store_file.h has the layout and the argument. */
#include "base/alloc.h"
#include "base/assert.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/hash.h"
#include "client/store_file_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

struct store_file {
	struct client_store store; /* first */
	struct store_state state;
	char *path;
	int fd;
	uint64_t size;    /* written to the file */
	uint64_t durable; /* synced of it */
	uint64_t cut;
	struct buf pending;
	struct err failed; /* a write or sync failed: nothing works any more */
	bool unmarked;     /* records since the last mark */
};

static struct store_file *file(struct client_store *s)
{
	return (struct store_file *)s;
}

/* ---- writing -------------------------------------------------------------- */

static int fail(struct store_file *f, int err_no, const char *what, struct err *e)
{
	err_errno(&f->failed, err_no, "%s: %s", f->path, what);
	return err_set(e, f->failed.code, "%s", f->failed.msg);
}

static int write_all(struct store_file *f, const uint8_t *p, size_t n, struct err *e)
{
	while (n) {
		ssize_t w = pwrite(f->fd, p, n, (off_t)f->size);

		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0)
			return fail(f, w < 0 ? errno : EIO, "write", e);
		p += w;
		n -= (size_t)w;
		f->size += (uint64_t)w;
	}
	return 0;
}

static int flush(struct store_file *f, struct err *e)
{
	int rv;

	if (f->failed.code)
		return err_set(e, f->failed.code, "%s", f->failed.msg);
	rv = write_all(f, f->pending.data, f->pending.len, e);
	buf_clear(&f->pending);
	return rv;
}

static size_t begin(struct store_file *f)
{
	size_t at = f->pending.len;
	uint8_t *h = buf_extend(&f->pending, STORE_FILE_RECORD);

	put_u32(h, STORE_FILE_MAGIC);
	put_u64(h + 8, f->durable);
	return at;
}

static int end(struct store_file *f, size_t at, struct err *e)
{
	size_t n = f->pending.len - at - STORE_FILE_RECORD;
	uint8_t *h = f->pending.data + at;
	static const uint8_t zeros[8];

	AN(n > 0 && n <= STORE_OP_MAX);
	put_u32(h + 4, (uint32_t)n);
	put_u64(h + 16, store_file_checksum(f->size + at, h, h + STORE_FILE_RECORD, n));
	buf_put(&f->pending, zeros, -n & 7);
	f->unmarked = true;
	if (f->failed.code)
		return err_set(e, f->failed.code, "%s", f->failed.msg);
	return f->pending.len > STORE_FILE_PENDING_MAX ? flush(f, e) : 0;
}

static int file_sync(struct client_store *s, struct err *e)
{
	struct store_file *f = file(s);
	int rv = flush(f, e);

	if (rv || f->durable == f->size)
		return rv;
	/* After a failed sync nobody knows what is on the disk. */
	if (fdatasync(f->fd))
		return fail(f, errno, "sync", e);
	f->durable = f->size;
	return 0;
}

static int file_put(struct client_store *s, const struct client_entry *entry,
		    struct err *e)
{
	size_t at = begin(file(s));

	store_encode_put(&file(s)->pending, entry);
	return end(file(s), at, e);
}

static int file_settle(struct client_store *s, const struct client_settled *d,
		       struct err *e)
{
	size_t at = begin(file(s));

	store_encode_settle(&file(s)->pending, d);
	return end(file(s), at, e);
}

static int file_record(struct client_store *s, const struct client_record *r,
		       struct err *e)
{
	size_t at = begin(file(s));

	store_encode_record(&file(s)->pending, r);
	return end(file(s), at, e);
}

static int file_meta(struct client_store *s, const struct client_meta *m,
		     struct err *e)
{
	size_t at = begin(file(s));

	store_encode_meta(&file(s)->pending, m);
	return end(file(s), at, e);
}

/* The state as it was read; the engine loads once, before it writes. */
static int file_load(struct client_store *s, struct client_meta *m,
		     void (*entry)(void *arg, const struct client_entry *e),
		     void *arg, struct err *e)
{
	struct store_file *f = file(s);

	(void)e;
	store_state_load(&f->state, m, entry, arg);
	store_state_release(&f->state);
	store_state_init(&f->state);
	return 0;
}

static const struct client_store_ops file_ops = {
	.load = file_load, .put = file_put, .settle = file_settle,
	.record = file_record, .meta = file_meta, .sync = file_sync,
};

/* ---- opening -------------------------------------------------------------- */

static int sync_folder(const char *path, struct err *e)
{
	char *dir = xstrdup(path), *slash = strrchr(dir, '/');
	int fd, rv = 0;

	if (slash == dir)
		slash++;
	if (slash)
		*slash = 0;
	fd = open(slash ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd))
		rv = err_errno(e, errno, "%s: sync", slash ? dir : ".");
	if (fd >= 0)
		close(fd);
	free(dir);
	return rv;
}

static int make(struct store_file *f, uint64_t account, uint32_t device,
		struct err *e)
{
	uint8_t h[STORE_FILE_HEADER] = "quipudev";
	int rv;

	put_u32(h + 8, STORE_FILE_VERSION);
	put_u32(h + 12, STORE_FILE_HEADER);
	put_u64(h + 16, account);
	put_u32(h + 24, device);
	put_u64(h + 32, clock_wall_ms(&clock_real));
	put_u64(h + 56, xxh3(h, 56));
	f->size = 0;
	rv = write_all(f, h, sizeof h, e);
	if (rv == 0 && fsync(f->fd))
		rv = fail(f, errno, "sync", e);
	if (rv == 0)
		rv = sync_folder(f->path, e);
	f->durable = f->size;
	return rv;
}

static bool sum(void *arg, const struct store_op *op)
{
	store_state_apply(arg, op);
	return true;
}

/* The whole file; not mapped, as somebody may cut it under our eyes. */
static int read_file(int fd, const char *path, uint8_t **p, size_t *n, struct err *e)
{
	struct stat st;
	ssize_t r;

	*p = NULL;
	*n = 0;
	if (fstat(fd, &st))
		return err_errno(e, errno, "%s", path);
	if (!S_ISREG(st.st_mode))
		return err_set(e, ERR_INVALID, "%s: not a file", path);
	*p = xmalloc((size_t)st.st_size + 1);
	while (*n < (size_t)st.st_size) {
		r = pread(fd, *p + *n, (size_t)st.st_size - *n, (off_t)*n);
		if (r == 0)
			break;
		if (r < 0 && errno != EINTR) {
			free(*p);
			return err_errno(e, errno, "%s: read", path);
		}
		*n += r > 0 ? (size_t)r : 0;
	}
	return 0;
}

/* The crash came while the header was being written: nothing was promised. */
static bool unfinished(const uint8_t *p, size_t n)
{
	static const uint8_t zeros[STORE_FILE_HEADER];

	if (n > STORE_FILE_HEADER)
		return false;
	if (memcmp(p, zeros, n) == 0)
		return true;
	return n < STORE_FILE_HEADER && memcmp(p, "quipudev", n < 8 ? n : 8) == 0;
}

static int read_back(struct store_file *f, uint64_t account, uint32_t device,
		     const uint8_t *p, size_t n, struct err *e)
{
	uint64_t of_account;
	uint32_t of_device;
	size_t good;
	int rv = store_file_parse(p, n, &of_account, &of_device, sum, &f->state,
				  &good, e);

	if (rv) {
		err_wrap(e, "%s", f->path);
		return rv;
	}
	if (of_account != account || of_device != device)
		return err_set(e, ERR_INVALID, "%s: belongs to device %u of account "
			       "%016" PRIx64, f->path, of_device, of_account);
	f->cut = n - good;
	/* A record whose padding was cut off: the next one starts aligned. */
	f->size = (good + 7) & ~(size_t)7;
	if (f->size != n &&
	    (ftruncate(f->fd, (off_t)good) || ftruncate(f->fd, (off_t)f->size)))
		return err_errno(e, errno, "%s: cut", f->path);
	/* Whatever was written last may still be on its way to the disk. */
	if (fsync(f->fd))
		return err_errno(e, errno, "%s: sync", f->path);
	f->durable = f->size;
	return 0;
}

int store_file_open(struct store_file **out, const char *path, uint64_t account,
		    uint32_t device, struct err *e)
{
	struct store_file *f = xcalloc(1, sizeof *f);
	uint8_t *p;
	size_t n;
	int rv;

	f->store.ops = &file_ops;
	store_state_init(&f->state);
	f->path = xstrdup(path);
	f->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (f->fd < 0) {
		rv = err_errno(e, errno, "%s", path);
		goto failed;
	}
	if (flock(f->fd, LOCK_EX | LOCK_NB)) {
		rv = errno == EWOULDBLOCK
			     ? err_set(e, ERR_LOCKED, "%s: another program uses this "
				       "device", path)
			     : err_errno(e, errno, "%s: lock", path);
		goto failed;
	}
	rv = read_file(f->fd, path, &p, &n, e);
	if (rv)
		goto failed;
	rv = unfinished(p, n) ? make(f, account, device, e)
			      : read_back(f, account, device, p, n, e);
	free(p);
	if (rv)
		goto failed;
	*out = f;
	return 0;
failed:
	if (f->fd >= 0)
		close(f->fd);
	store_state_release(&f->state);
	buf_release(&f->pending);
	free(f->path);
	free(f);
	return rv;
}

struct client_store *store_file_store(struct store_file *f)
{
	return &f->store;
}

uint64_t store_file_cut(const struct store_file *f)
{
	return f->cut;
}

int store_file_close(struct store_file *f, struct err *e)
{
	int rv;

	if (!f)
		return 0;
	rv = file_sync(&f->store, e);
	if (rv == 0 && f->unmarked) {
		size_t at = begin(f);

		buf_u8(&f->pending, STORE_FILE_MARK);
		rv = end(f, at, e);
		if (rv == 0)
			rv = file_sync(&f->store, e);
	}
	close(f->fd);
	store_state_release(&f->state);
	buf_release(&f->pending);
	free(f->path);
	free(f);
	return rv;
}

int store_file_scan(const char *path, bool (*op)(void *arg, const struct store_op *op),
		    void *arg, struct err *e)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), rv;
	uint64_t account;
	uint32_t device;
	uint8_t *p;
	size_t n, good;

	if (fd < 0)
		return err_errno(e, errno, "%s", path);
	rv = read_file(fd, path, &p, &n, e);
	close(fd);
	if (rv)
		return rv;
	if (!unfinished(p, n))
		rv = store_file_parse(p, n, &account, &device, op, arg, &good, e);
	if (rv)
		err_wrap(e, "%s", path);
	free(p);
	return rv;
}
