/* struct disk over real files.
 *
 * One writer thread does pwritev + fdatasync in submission order, one helper
 * thread does checkpoints; both start with the first piece of work.  Completions
 * queue under a mutex and come to the loop through one uv_async, so a burst costs
 * one wake-up.  A finished thread first looks for more work, then sleeps on a
 * condition variable. */
#include "base/alloc.h"
#include "base/assert.h"
#include "log/disk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <uv.h>

struct disk_file {
	int fd;
	char *path; /* for messages */
};

/* What travels between the loop and a thread: exactly one of the two. */
struct job {
	struct job *next;
	struct disk_write *write;
	struct disk_work *work;
	int status;
	struct err err;
};

struct worker {
	pthread_t thread;
	bool started, stop, busy;
	pthread_cond_t wake;
	struct job *head, **tail;
	struct disk_uv *disk;
};

struct disk_uv {
	struct disk disk; /* first */
	uv_loop_t *loop;
	uv_async_t async;
	pthread_mutex_t mutex;
	struct worker writer, helper;
	struct job *done, **done_tail;
	unsigned pending; /* jobs not yet given back; keeps the loop alive */
	int lock_fd;
	bool closing;
};

static struct disk_uv *uv_of(struct disk *d)
{
	return (struct disk_uv *)(void *)d;
}

/* The path under the root; in a buffer of the caller. */
static int full_path(struct disk *d, const char *path, char out[PATH_MAX],
		     struct err *e)
{
	int n = snprintf(out, PATH_MAX, "%s/%s", d->root, path);

	if (n < 0 || n >= PATH_MAX)
		return err_set(e, ERR_TOO_LARGE, "path too long: %s", path);
	return 0;
}

/* ---- files ------------------------------------------------------------------- */

static int uv_open_file(struct disk *d, const char *path, int flags,
			struct disk_file **out, struct err *e)
{
	char full[PATH_MAX];
	int fl = flags & DISK_WRITE ? O_RDWR : O_RDONLY, fd, rv;

	if (flags & DISK_CREATE)
		fl |= O_CREAT;
	if (flags & DISK_EXCL)
		fl |= O_EXCL;
	rv = full_path(d, path, full, e);
	if (rv)
		return rv;
	fd = open(full, fl | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_errno(e, errno, "open %s", full);
	*out = xmalloc(sizeof **out);
	(*out)->fd = fd;
	(*out)->path = xstrdup(full);
	return 0;
}

static void uv_close_file(struct disk_file *f)
{
	if (!f)
		return;
	close(f->fd);
	free(f->path);
	free(f);
}

static int uv_size(struct disk_file *f, uint64_t *size, struct err *e)
{
	struct stat st;

	if (fstat(f->fd, &st) < 0)
		return err_errno(e, errno, "stat %s", f->path);
	*size = (uint64_t)st.st_size;
	return 0;
}

static int uv_pread(struct disk_file *f, void *p, size_t n, uint64_t off,
		    size_t *got, struct err *e)
{
	uint8_t *q = p;

	*got = 0;
	while (*got < n) {
		ssize_t k = pread(f->fd, q + *got, n - *got,
				  (off_t)(off + *got));

		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return err_errno(e, errno, "read %s at %llu", f->path,
					 (unsigned long long)off);
		if (k == 0)
			break;
		*got += (size_t)k;
	}
	return 0;
}

/* Write all, however the kernel cuts it.  Copies the iov only when it must go on
 * in the middle of it. */
static int write_all(struct disk_file *f, const struct iovec *iov, int iovcnt,
		     uint64_t off, struct err *e)
{
	struct iovec part;

	while (iovcnt > 0) {
		int n = iovcnt > IOV_MAX ? IOV_MAX : iovcnt;
		ssize_t k = pwritev(f->fd, iov, n, (off_t)off);

		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return err_errno(e, errno, "write %s at %llu", f->path,
					 (unsigned long long)off);
		off += (uint64_t)k;
		while (iovcnt > 0 && (size_t)k >= iov->iov_len) {
			k -= (ssize_t)iov->iov_len;
			iov++;
			iovcnt--;
		}
		if (!k)
			continue;
		part.iov_base = (uint8_t *)iov->iov_base + k;
		part.iov_len = iov->iov_len - (size_t)k;
		while (part.iov_len) {
			k = pwrite(f->fd, part.iov_base, part.iov_len,
				   (off_t)off);
			if (k < 0 && errno == EINTR)
				continue;
			if (k < 0)
				return err_errno(e, errno, "write %s", f->path);
			off += (uint64_t)k;
			part.iov_base = (uint8_t *)part.iov_base + k;
			part.iov_len -= (size_t)k;
		}
		iov++;
		iovcnt--;
	}
	return 0;
}

static int uv_pwritev(struct disk_file *f, const struct iovec *iov, int iovcnt,
		      uint64_t off, struct err *e)
{
	return write_all(f, iov, iovcnt, off, e);
}

static int uv_fdatasync(struct disk_file *f, struct err *e)
{
	if (fdatasync(f->fd) < 0)
		return err_errno(e, errno, "fdatasync %s", f->path);
	return 0;
}

static int uv_truncate(struct disk_file *f, uint64_t size, struct err *e)
{
	if (ftruncate(f->fd, (off_t)size) < 0)
		return err_errno(e, errno, "truncate %s", f->path);
	return 0;
}

static void uv_drop_cache(struct disk_file *f)
{
	posix_fadvise(f->fd, 0, 0, POSIX_FADV_DONTNEED);
}

/* ---- folders ------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int uv_list(struct disk *d, const char *dir,
		   void (*cb)(void *arg, const char *name, bool is_dir),
		   void *arg, struct err *e)
{
	char full[PATH_MAX], **names = NULL;
	size_t n = 0, cap = 0, i;
	struct dirent *de;
	DIR *dp;
	int rv = full_path(d, dir, full, e);

	if (rv)
		return rv;
	dp = opendir(full);
	if (!dp)
		return err_errno(e, errno, "list %s", full);
	/* A folder that could be read only in part must not look like a whole one. */
	while ((void)(errno = 0), (de = readdir(dp))) {
		if (!strcmp(de->d_name, ".") || !strcmp(de->d_name, ".."))
			continue;
		if (n == cap) {
			cap = cap ? 2 * cap : 32;
			names = xrealloc(names, cap * sizeof *names);
		}
		names[n++] = xstrdup(de->d_name);
	}
	if (errno)
		rv = err_errno(e, errno, "list %s", full);
	if (n)
		qsort(names, n, sizeof *names, by_name);
	for (i = 0; i < n; i++) {
		struct stat st;

		if (!rv)
			cb(arg, names[i], !fstatat(dirfd(dp), names[i], &st, 0) &&
					  S_ISDIR(st.st_mode));
		free(names[i]);
	}
	free(names);
	closedir(dp);
	return rv;
}

static int uv_fsync_dir(struct disk *d, const char *dir, struct err *e)
{
	char full[PATH_MAX];
	int fd, rv = full_path(d, dir, full, e);

	if (rv)
		return rv;
	fd = open(full, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_errno(e, errno, "open folder %s", full);
	if (fsync(fd) < 0)
		rv = err_errno(e, errno, "fsync folder %s", full);
	close(fd);
	return rv;
}

static int uv_mkdir(struct disk *d, const char *dir, struct err *e)
{
	char full[PATH_MAX], *slash;
	int rv = full_path(d, dir, full, e);

	if (rv)
		return rv;
	if (mkdir(full, 0700) < 0 && errno != EEXIST)
		return err_errno(e, errno, "make folder %s", full);
	/* A name lasts only when its folder is synced; whoever made it before
	 * may have ended in between. */
	slash = strrchr(dir, '/');
	if (!slash)
		return uv_fsync_dir(d, ".", e);
	snprintf(full, sizeof full, "%.*s", (int)(slash - dir), dir);
	return uv_fsync_dir(d, full, e);
}

static int uv_unlink_file(struct disk *d, const char *path, struct err *e)
{
	char full[PATH_MAX];
	int rv = full_path(d, path, full, e);

	if (!rv && unlink(full) < 0)
		rv = err_errno(e, errno, "remove %s", full);
	return rv;
}

static int uv_rename_file(struct disk *d, const char *from, const char *to,
			  struct err *e)
{
	char a[PATH_MAX], b[PATH_MAX];
	int rv = full_path(d, from, a, e);

	if (!rv)
		rv = full_path(d, to, b, e);
	if (!rv && rename(a, b) < 0)
		rv = err_errno(e, errno, "rename %s to %s", a, b);
	return rv;
}

static int uv_lock(struct disk *d, const char *path, struct err *e)
{
	struct disk_uv *u = uv_of(d);
	char full[PATH_MAX], pid[24] = "";
	int fd, rv = full_path(d, path, full, e);
	ssize_t n;

	if (rv)
		return rv;
	fd = open(full, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_errno(e, errno, "open %s", full);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		n = read(fd, pid, sizeof pid - 1);
		pid[n > 0 ? strcspn(pid, "\n") : 0] = 0;
		close(fd);
		return err_set(e, ERR_LOCKED, "in use by process %s", pid);
	}
	snprintf(pid, sizeof pid, "%d\n", (int)getpid());
	if (ftruncate(fd, 0) < 0 || write(fd, pid, strlen(pid)) < 0) {
		rv = err_errno(e, errno, "write %s", full);
		close(fd);
		return rv;
	}
	u->lock_fd = fd;
	return 0;
}

static int uv_space(struct disk *d, uint64_t *free_bytes, uint64_t *total_bytes,
		    struct err *e)
{
	struct statvfs st;

	if (statvfs(d->root, &st) < 0)
		return err_errno(e, errno, "statvfs %s", d->root);
	*free_bytes = (uint64_t)st.f_bavail * st.f_frsize;
	/* As df: what is reserved for root is not ours and not used either. */
	*total_bytes = (uint64_t)(st.f_blocks - st.f_bfree + st.f_bavail) *
		       st.f_frsize;
	return 0;
}

/* ---- threads --------------------------------------------------------------------- */

static void job_run(struct job *j)
{
	if (j->work) {
		j->work->run(j->work);
		return;
	}
	j->status = write_all(j->write->file, j->write->iov, j->write->iovcnt,
			      j->write->offset, &j->err);
	if (!j->status)
		j->status = uv_fdatasync(j->write->file, &j->err);
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct disk_uv *u = w->disk;

	pthread_mutex_lock(&u->mutex);
	for (;;) {
		struct job *j = w->head;

		if (!j) {
			if (w->stop)
				break;
			pthread_cond_wait(&w->wake, &u->mutex);
			continue;
		}
		w->head = j->next;
		if (!w->head)
			w->tail = &w->head;
		w->busy = true;
		pthread_mutex_unlock(&u->mutex);
		job_run(j);
		pthread_mutex_lock(&u->mutex);
		w->busy = false;
		j->next = NULL;
		*u->done_tail = j;
		u->done_tail = &j->next;
		uv_async_send(&u->async);
	}
	pthread_mutex_unlock(&u->mutex);
	return NULL;
}

static void worker_submit(struct disk_uv *u, struct worker *w, struct job *j)
{
	pthread_mutex_lock(&u->mutex);
	if (!w->started) {
		w->started = true;
		w->disk = u;
		w->tail = &w->head;
		AZ(pthread_cond_init(&w->wake, NULL));
		AZ(pthread_create(&w->thread, NULL, worker_main, w));
	}
	*w->tail = j;
	w->tail = &j->next;
	pthread_cond_signal(&w->wake);
	pthread_mutex_unlock(&u->mutex);
	if (!u->pending++)
		uv_ref((uv_handle_t *)&u->async);
}

static void on_async(uv_async_t *a)
{
	struct disk_uv *u = a->data;
	struct job *j;

	pthread_mutex_lock(&u->mutex);
	j = u->done;
	u->done = NULL;
	u->done_tail = &u->done;
	pthread_mutex_unlock(&u->mutex);
	while (j) {
		struct job *next = j->next;

		if (!--u->pending)
			uv_unref((uv_handle_t *)&u->async);
		if (j->work)
			j->work->done(j->work);
		else
			j->write->cb(j->write, j->status,
				     j->status ? &j->err : NULL);
		free(j);
		j = next;
	}
}

static void uv_write_sync(struct disk *d, struct disk_write *w)
{
	struct job *j = xcalloc(1, sizeof *j);

	j->write = w;
	worker_submit(uv_of(d), &uv_of(d)->writer, j);
}

static void uv_work_submit(struct disk *d, struct disk_work *w)
{
	struct job *j = xcalloc(1, sizeof *j);

	j->work = w;
	worker_submit(uv_of(d), &uv_of(d)->helper, j);
}

static const struct disk_ops disk_uv_ops = {
	.open = uv_open_file,
	.close = uv_close_file,
	.size = uv_size,
	.pread = uv_pread,
	.pwritev = uv_pwritev,
	.fdatasync = uv_fdatasync,
	.truncate = uv_truncate,
	.drop_cache = uv_drop_cache,
	.list = uv_list,
	.mkdir = uv_mkdir,
	.unlink = uv_unlink_file,
	.rename = uv_rename_file,
	.fsync_dir = uv_fsync_dir,
	.lock = uv_lock,
	.space = uv_space,
	.write_sync = uv_write_sync,
	.work = uv_work_submit,
};

/* The root's own name must last too.  A parent that may not be read is somebody
 * else's, who made the root. */
static int sync_parent(const char *root, bool made, struct err *e)
{
	char parent[PATH_MAX + 4];
	int fd, rv = 0;

	snprintf(parent, sizeof parent, "%s/..", root);
	fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return made ? err_errno(e, errno, "open folder %s", parent) : 0;
	if (fsync(fd) < 0 && (made || errno == EIO))
		rv = err_errno(e, errno, "fsync folder %s", parent);
	close(fd);
	return rv;
}

int disk_uv_open(struct disk **out, void *loop, const char *root, struct err *e)
{
	struct disk_uv *u;
	struct stat st;
	char full[PATH_MAX];
	bool made = mkdir(root, 0700) == 0;
	int rv;

	if (!made && errno != EEXIST)
		return err_errno(e, errno, "make folder %s", root);
	if (!realpath(root, full))
		return err_errno(e, errno, "open folder %s", root);
	if (stat(full, &st) == 0 && !S_ISDIR(st.st_mode))
		return err_errno(e, ENOTDIR, "folder %s", full);
	if (access(full, R_OK | W_OK | X_OK) < 0)
		return err_errno(e, errno, "folder %s", full);
	rv = sync_parent(full, made, e);
	if (rv)
		return rv;
	u = xcalloc(1, sizeof *u);
	u->disk.ops = &disk_uv_ops;
	u->disk.root = xstrdup(full);
	u->loop = loop;
	u->lock_fd = -1;
	u->done_tail = &u->done;
	AZ(pthread_mutex_init(&u->mutex, NULL));
	AZ(uv_async_init(u->loop, &u->async, on_async));
	u->async.data = u;
	uv_unref((uv_handle_t *)&u->async); /* idle disks keep no loop alive */
	*out = &u->disk;
	return 0;
}

static void worker_stop(struct disk_uv *u, struct worker *w)
{
	if (!w->started)
		return;
	pthread_mutex_lock(&u->mutex);
	w->stop = true;
	pthread_cond_signal(&w->wake);
	pthread_mutex_unlock(&u->mutex);
	pthread_join(w->thread, NULL);
	pthread_cond_destroy(&w->wake);
}

static void on_closed(uv_handle_t *h)
{
	struct disk_uv *u = h->data;

	pthread_mutex_destroy(&u->mutex);
	free(u->disk.root);
	free(u);
}

void disk_uv_close(struct disk *d)
{
	struct disk_uv *u = uv_of(d);

	worker_stop(u, &u->writer);
	worker_stop(u, &u->helper);
	while (u->done) { /* what finished last: its callback is still due */
		on_async(&u->async);
	}
	if (u->lock_fd >= 0)
		close(u->lock_fd);
	uv_close((uv_handle_t *)&u->async, on_closed);
}
