#include "tests/lib/disk_sim_impl.h"
#include "base/alloc.h"
#include "base/assert.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct process *process_of(struct disk *d)
{
	return (struct process *)(void *)d;
}

/* Nothing has an effect any more. */
static bool off(const struct process *p)
{
	return p->gone || p->ds->frozen;
}

/* Count an operation that changes the medium.  0: do it; 1: pretend. */
static int step(struct process *p, const char *path, struct err *e)
{
	struct disk_sim *ds = p->ds;

	if (off(p))
		return 1;
	ds->ops_done++;
	if (ds->crash_at && !--ds->crash_at) {
		writes_at_crash(ds, p);
		ds->frozen = true;
		ds->crash_fn(ds->crash_arg);
		return 1;
	}
	if (ds->fail_at && !--ds->fail_at)
		return err_set(e, ds->fail_code, "%s: injected", path);
	return 0;
}

int disk_sim_step(struct disk_file *f, struct err *e)
{
	return step(f->process, f->path, e);
}

struct disk_sim_extra **disk_sim_extra(struct disk_file *f)
{
	return &f->inode->extra;
}

/* ---- files ------------------------------------------------------------------------ */

static bool dir_there(struct disk_sim *ds, const char *path, size_t len)
{
	char *dir;
	struct name *n;

	if (!len)
		return true;
	dir = xstrdup(path);
	dir[len] = 0;
	n = names_find(&ds->now, dir);
	free(dir);
	return n && !n->inode;
}

static int ds_open(struct disk *d, const char *path, int flags,
		   struct disk_file **out, struct err *e)
{
	struct process *p = process_of(d);
	struct disk_sim *ds = p->ds;
	struct name *n = names_find(&ds->now, path);
	struct inode *i = n ? n->inode : NULL;
	struct disk_file *f;
	int rv;

	if (n && !i)
		return err_errno(e, EISDIR, "open %s", path);
	if (n && (flags & DISK_EXCL))
		return err_errno(e, EEXIST, "open %s", path);
	if (!n) {
		if (!(flags & DISK_CREATE) ||
		    !dir_there(ds, path, dir_len(path)))
			return err_errno(e, ENOENT, "open %s", path);
		rv = step(p, path, e);
		if (rv < 0)
			return rv;
		i = inode_new();
		if (!rv)
			names_change(ds, CREATE, path, NULL, i);
	}
	f = xcalloc(1, sizeof *f);
	f->process = p;
	f->inode = i;
	f->path = xstrdup(path);
	f->writable = flags & DISK_WRITE;
	i->refs++;
	*out = f;
	return 0;
}

static void ds_close(struct disk_file *f)
{
	if (!f)
		return;
	inode_put(f->process->ds, f->inode);
	free(f->path);
	free(f);
}

static int ds_size(struct disk_file *f, uint64_t *size, struct err *e)
{
	(void)e;
	*size = f->inode->size;
	return 0;
}

static int ds_pread(struct disk_file *f, void *p, size_t n, uint64_t off,
		    size_t *got, struct err *e)
{
	uint64_t size = f->inode->size;

	(void)e;
	*got = off >= size ? 0 : n < size - off ? n : (size_t)(size - off);
	inode_read(f->inode, off, p, *got);
	return 0;
}

static size_t iov_bytes(const struct iovec *iov, int iovcnt)
{
	size_t n = 0;
	int k;

	for (k = 0; k < iovcnt; k++)
		n += iov[k].iov_len;
	return n;
}

/* Into the page cache, growing the file. */
static int write_all(struct disk_file *f, const struct iovec *iov, int iovcnt,
		     uint64_t off, struct err *e)
{
	struct disk_sim *ds = f->process->ds;
	uint64_t end = off + iov_bytes(iov, iovcnt);
	int k;

	AN(f->writable);
	f->inode->last_off = off;
	f->inode->last_end = end;
	if (end > f->inode->size) {
		if (ds->used_bytes + (end - f->inode->size) >
		    ds->cfg.total_bytes)
			return err_errno(e, ENOSPC, "write %s", f->path);
		inode_resize(ds, f->inode, end);
	}
	for (k = 0; k < iovcnt; k++) {
		inode_write(f->inode, off, iov[k].iov_base, iov[k].iov_len);
		off += iov[k].iov_len;
	}
	return 0;
}

static int ds_pwritev(struct disk_file *f, const struct iovec *iov, int iovcnt,
		      uint64_t off, struct err *e)
{
	int rv = step(f->process, f->path, e);

	if (rv)
		return rv < 0 ? rv : 0;
	f->process->ds->stats.writes++;
	return write_all(f, iov, iovcnt, off, e);
}

static int ds_fdatasync(struct disk_file *f, struct err *e)
{
	int rv = step(f->process, f->path, e);

	if (rv)
		return rv < 0 ? rv : 0;
	f->process->ds->stats.syncs++;
	inode_sync(f->inode);
	return 0;
}

static int ds_truncate(struct disk_file *f, uint64_t size, struct err *e)
{
	int rv = step(f->process, f->path, e);

	AN(f->writable);
	if (!rv)
		inode_resize(f->process->ds, f->inode, size);
	return rv < 0 ? rv : 0;
}

static void ds_drop_cache(struct disk_file *f)
{
	(void)f;
}

/* ---- folders ------------------------------------------------------------------------ */

static int ds_list(struct disk *d, const char *dir,
		   void (*cb)(void *arg, const char *name, bool is_dir),
		   void *arg, struct err *e)
{
	struct disk_sim *ds = process_of(d)->ds;
	size_t len = strcmp(dir, ".") ? strlen(dir) : 0, k, n = 0;
	char **names;
	bool *dirs;

	if (!dir_there(ds, dir, len))
		return err_errno(e, ENOENT, "list %s", dir);
	names = xcalloc(ds->now.n + 1, sizeof *names);
	dirs = xcalloc(ds->now.n + 1, sizeof *dirs);
	for (k = 0; k < ds->now.n; k++) {
		const char *path = ds->now.v[k].path;

		if (dir_len(path) != len || memcmp(path, dir, len) ||
		    strlen(path) == len)
			continue;
		names[n] = xstrdup(path + (len ? len + 1 : 0));
		dirs[n++] = !ds->now.v[k].inode;
	}
	/* The callback may change the folder. */
	for (k = 0; k < n; k++) {
		cb(arg, names[k], dirs[k]);
		free(names[k]);
	}
	free(names);
	free(dirs);
	return 0;
}

/* Durable at once, as disk_uv does it. */
static int ds_mkdir(struct disk *d, const char *dir, struct err *e)
{
	struct process *p = process_of(d);
	struct name *n = names_find(&p->ds->now, dir);
	int rv;

	if (n)
		return n->inode ? err_errno(e, EEXIST, "make folder %s", dir)
				: 0;
	if (!dir_there(p->ds, dir, dir_len(dir)))
		return err_errno(e, ENOENT, "make folder %s", dir);
	rv = step(p, dir, e);
	if (rv)
		return rv < 0 ? rv : 0;
	names_set(p->ds, &p->ds->now, dir, NULL);
	names_set(p->ds, &p->ds->durable, dir, NULL);
	return 0;
}

static int ds_unlink(struct disk *d, const char *path, struct err *e)
{
	struct process *p = process_of(d);
	struct name *n = names_find(&p->ds->now, path);
	int rv;

	if (!n || !n->inode)
		return off(p) ? 0 : err_errno(e, ENOENT, "remove %s", path);
	rv = step(p, path, e);
	if (!rv)
		names_change(p->ds, UNLINK, path, NULL, n->inode);
	return rv < 0 ? rv : 0;
}

static int ds_rename(struct disk *d, const char *from, const char *to,
		     struct err *e)
{
	struct process *p = process_of(d);
	struct name *n = names_find(&p->ds->now, from);
	int rv;

	if (!n || !n->inode || !dir_there(p->ds, to, dir_len(to)))
		return off(p) ? 0
			      : err_errno(e, ENOENT, "rename %s to %s", from,
					   to);
	rv = step(p, from, e);
	if (!rv && strcmp(from, to))
		names_change(p->ds, RENAME, from, to, n->inode);
	return rv < 0 ? rv : 0;
}

static int ds_fsync_dir(struct disk *d, const char *dir, struct err *e)
{
	struct process *p = process_of(d);
	int rv;

	if (!dir_there(p->ds, dir, strcmp(dir, ".") ? strlen(dir) : 0))
		return off(p) ? 0 : err_errno(e, ENOENT, "fsync folder %s", dir);
	rv = step(p, dir, e);
	if (!rv)
		names_sync(p->ds, dir);
	return rv < 0 ? rv : 0;
}

static int ds_lock(struct disk *d, const char *path, struct err *e)
{
	struct process *p = process_of(d);

	(void)path;
	if (p->locked)
		return err_set(e, ERR_LOCKED, "in use by this process");
	p->locked = true;
	return 0;
}

static int ds_space(struct disk *d, uint64_t *free_bytes, uint64_t *total_bytes,
		    struct err *e)
{
	struct disk_sim *ds = process_of(d)->ds;

	(void)e;
	*total_bytes = ds->cfg.total_bytes;
	*free_bytes = ds->used_bytes < ds->cfg.total_bytes
			      ? ds->cfg.total_bytes - ds->used_bytes
			      : 0;
	return 0;
}

/* ---- asynchronous ---------------------------------------------------------------------- */

static void push(struct queue *q, struct job *j)
{
	if (!q->head)
		q->tail = &q->head;
	*q->tail = j;
	q->tail = &j->next;
}

static void pop(struct queue *q, struct job *j)
{
	AN(q->head == j);
	q->head = j->next;
	free(j);
}

static void on_written(void *arg)
{
	struct job *j = arg;
	struct process *p = j->process;
	struct disk_write *w = j->write;
	struct err e = { 0 };
	int rv;

	if (off(p)) {
		free(j);
		return;
	}
	rv = step(p, w->file->path, &e);
	if (rv > 0) { /* the power went while this one was being written */
		free(j);
		return;
	}
	pop(&p->writes, j);
	if (!rv) {
		p->ds->stats.writes++;
		rv = write_all(w->file, w->iov, w->iovcnt, w->offset, &e);
	}
	if (!rv) {
		p->ds->stats.syncs++;
		inode_sync(w->file->inode);
	}
	w->cb(w, rv, &e);
}

/* Each in its turn: a slow one holds up those behind it. */
static void schedule(struct process *p, struct queue *q, struct job *j,
		     uint64_t us, void (*fn)(void *))
{
	uint64_t now = p->ds->sim->now_us;
	uint64_t at = (q->busy_until_us > now ? q->busy_until_us : now) + us;

	q->busy_until_us = at;
	sim_after(p->ds->sim, p->ds->node, at - now, fn, j);
}

static uint64_t between(struct rand *r, uint64_t lo, uint64_t hi)
{
	return lo + (hi > lo ? rand_below(r, hi - lo + 1) : 0);
}

static void ds_write_sync(struct disk *d, struct disk_write *w)
{
	struct process *p = process_of(d);
	struct disk_sim *ds = p->ds;
	uint64_t us = between(&ds->rand, ds->cfg.write_min_us,
			      ds->cfg.write_max_us) + ds->stall_us;
	struct job *j;

	if (p->gone)
		return;
	if (rand_permille(&ds->rand, ds->cfg.slow_permille))
		us += rand_below(&ds->rand, ds->cfg.slow_us + 1);
	j = xcalloc(1, sizeof *j);
	j->process = p;
	j->write = w;
	push(&p->writes, j);
	schedule(p, &p->writes, j, us, on_written);
}

void writes_at_crash(struct disk_sim *ds, struct process *p)
{
	struct job *j;

	for (j = p->writes.head; j; j = j->next) {
		bool done = !rand_below(&ds->rand, 4);
		struct disk_file *f = j->write->file;

		if (write_all(f, j->write->iov, j->write->iovcnt,
			      j->write->offset, NULL))
			break;
		if (!done)
			break;
		inode_sync(f->inode); /* only the word of it was missing */
	}
	p->writes.head = NULL;
}

static void work_go(struct process *p, struct job *j);

static void on_work(void *arg)
{
	struct job *j = arg;
	struct process *p = j->process;
	struct disk_work *w = j->work;

	if (p->gone) {
		free(j);
		return;
	}
	if (p->ds->frozen) {
		pop(&p->works, j);
		return;
	}
	if (!j->ran) {
		j->ran = true;
		w->run(w);
		work_go(p, j);
		return;
	}
	pop(&p->works, j);
	if (p->works.head)
		work_go(p, p->works.head);
	w->done(w);
}

static void work_go(struct process *p, struct job *j)
{
	struct disk_sim *ds = p->ds;

	j->armed = true;
	sim_after(ds->sim, ds->node,
		  between(&ds->rand, ds->cfg.work_min_us, ds->cfg.work_max_us),
		  on_work, j);
}

static void ds_work(struct disk *d, struct disk_work *w)
{
	struct process *p = process_of(d);
	struct job *j;
	bool first = !p->works.head;

	if (p->gone)
		return;
	j = xcalloc(1, sizeof *j);
	j->process = p;
	j->work = w;
	push(&p->works, j);
	if (first)
		work_go(p, j);
}

const struct disk_ops disk_sim_ops = {
	.open = ds_open,
	.close = ds_close,
	.size = ds_size,
	.pread = ds_pread,
	.pwritev = ds_pwritev,
	.fdatasync = ds_fdatasync,
	.truncate = ds_truncate,
	.drop_cache = ds_drop_cache,
	.list = ds_list,
	.mkdir = ds_mkdir,
	.unlink = ds_unlink,
	.rename = ds_rename,
	.fsync_dir = ds_fsync_dir,
	.lock = ds_lock,
	.space = ds_space,
	.write_sync = ds_write_sync,
	.work = ds_work,
};
