#include "tests/lib/disk_sim_impl.h"
#include "base/alloc.h"
#include "base/assert.h"

#include <stdlib.h>
#include <string.h>

const struct disk_sim_config disk_sim_fast = {
	.write_min_us = 100,
	.write_max_us = 400,
	.work_min_us = 100,
	.work_max_us = 1000,
};

static const uint8_t zeros[PAGE];

/* ---- contents ------------------------------------------------------------------ */

struct inode *inode_new(void)
{
	return xcalloc(1, sizeof(struct inode));
}

static void page_free(struct page *p)
{
	if (p->now != p->durable)
		free(p->now);
	free(p->durable);
}

void inode_put(struct disk_sim *ds, struct inode *i)
{
	size_t k;

	if (!i)
		return;
	AN(i->refs);
	if (--i->refs)
		return;
	for (k = 0; k < i->n_pages; k++)
		page_free(&i->pages[k]);
	if (i->extra)
		i->extra->drop(i->extra);
	ds->used_bytes -= i->size;
	free(i->pages);
	free(i->dirty);
	free(i);
}

void inode_read(const struct inode *i, uint64_t off, void *p, size_t n)
{
	uint8_t *q = p;

	while (n) {
		size_t k = off / PAGE, at = off % PAGE;
		size_t m = n < PAGE - at ? n : PAGE - at;
		const uint8_t *src = k < i->n_pages ? i->pages[k].now : NULL;

		memcpy(q, src ? src + at : zeros, m);
		q += m;
		off += m;
		n -= m;
	}
}

static struct page *page_touch(struct inode *i, size_t k)
{
	struct page *p;

	if (k >= i->n_pages) {
		size_t n = k + 1 > 2 * i->n_pages ? k + 1 : 2 * i->n_pages;

		i->pages = xrealloc(i->pages, n * sizeof *i->pages);
		memset(i->pages + i->n_pages, 0,
		       (n - i->n_pages) * sizeof *i->pages);
		i->n_pages = n;
	}
	p = &i->pages[k];
	if (!p->dirty) {
		p->dirty = true;
		if (i->n_dirty == i->cap_dirty) {
			i->cap_dirty = i->cap_dirty ? 2 * i->cap_dirty : 16;
			i->dirty = xrealloc(i->dirty,
					    i->cap_dirty * sizeof *i->dirty);
		}
		i->dirty[i->n_dirty++] = (uint32_t)k;
	}
	return p;
}

/* A buffer of its own for what the cache holds. */
static uint8_t *page_own(struct page *p)
{
	uint8_t *b;

	if (p->now && p->now != p->durable)
		return p->now;
	b = xmalloc(PAGE);
	memcpy(b, p->now ? p->now : zeros, PAGE);
	return p->now = b;
}

static void page_zero(struct page *p)
{
	if (p->now != p->durable)
		free(p->now);
	p->now = NULL;
}

void inode_write(struct inode *i, uint64_t off, const void *p, size_t n)
{
	const uint8_t *q = p;

	while (n) {
		size_t k = off / PAGE, at = off % PAGE;
		size_t m = n < PAGE - at ? n : PAGE - at;
		struct page *pg = page_touch(i, k);

		if (m == PAGE && !memcmp(q, zeros, PAGE))
			page_zero(pg);
		else
			memcpy(page_own(pg) + at, q, m);
		q += m;
		off += m;
		n -= m;
	}
}

void inode_sync(struct inode *i)
{
	size_t d;

	for (d = 0; d < i->n_dirty; d++) {
		struct page *p = &i->pages[i->dirty[d]];

		if (p->now != p->durable)
			free(p->durable);
		p->durable = p->now;
		p->dirty = false;
	}
	i->n_dirty = 0;
	i->durable_size = i->size;
}

void inode_resize(struct disk_sim *ds, struct inode *i, uint64_t size)
{
	uint64_t old = i->size;
	size_t k, at = size % PAGE;

	ds->used_bytes += size - old;
	i->size = size;
	if (size >= old)
		return;
	if (at && size / PAGE < i->n_pages && i->pages[size / PAGE].now)
		inode_write(i, size, zeros, PAGE - at);
	for (k = (size + PAGE - 1) / PAGE; k < i->n_pages; k++)
		if (i->pages[k].now)
			page_zero(page_touch(i, k));
}

/* ---- names ----------------------------------------------------------------------- */

static size_t names_at(const struct names *ns, const char *path, bool *found)
{
	size_t lo = 0, hi = ns->n;

	*found = false;
	while (lo < hi) {
		size_t mid = (lo + hi) / 2;
		int c = strcmp(ns->v[mid].path, path);

		if (!c) {
			*found = true;
			return mid;
		}
		if (c < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

struct name *names_find(struct names *ns, const char *path)
{
	bool found;
	size_t k = names_at(ns, path, &found);

	return found ? &ns->v[k] : NULL;
}

void names_set(struct disk_sim *ds, struct names *ns, const char *path,
	       struct inode *i)
{
	bool found;
	size_t k = names_at(ns, path, &found);

	if (i)
		i->refs++;
	if (found) {
		inode_put(ds, ns->v[k].inode);
		ns->v[k].inode = i;
		return;
	}
	if (ns->n == ns->cap) {
		ns->cap = ns->cap ? 2 * ns->cap : 16;
		ns->v = xrealloc(ns->v, ns->cap * sizeof *ns->v);
	}
	memmove(ns->v + k + 1, ns->v + k, (ns->n - k) * sizeof *ns->v);
	ns->n++;
	ns->v[k].path = xstrdup(path);
	ns->v[k].inode = i;
}

void names_remove(struct disk_sim *ds, struct names *ns, const char *path)
{
	bool found;
	size_t k = names_at(ns, path, &found);

	if (!found)
		return;
	inode_put(ds, ns->v[k].inode);
	free(ns->v[k].path);
	memmove(ns->v + k, ns->v + k + 1, (--ns->n - k) * sizeof *ns->v);
}

static void names_clear(struct disk_sim *ds, struct names *ns)
{
	size_t k;

	for (k = 0; k < ns->n; k++) {
		inode_put(ds, ns->v[k].inode);
		free(ns->v[k].path);
	}
	ns->n = 0;
}

static void names_apply(struct disk_sim *ds, struct names *ns,
			const struct change *c)
{
	struct name *n = names_find(ns, c->path);

	switch (c->kind) {
	case CREATE:
		names_set(ds, ns, c->path, c->inode);
		break;
	case UNLINK:
		if (n && n->inode == c->inode)
			names_remove(ds, ns, c->path);
		break;
	case RENAME:
		if (n && n->inode == c->inode)
			names_remove(ds, ns, c->path);
		names_set(ds, ns, c->to, c->inode);
		break;
	}
}

static void change_free(struct disk_sim *ds, struct change *c)
{
	inode_put(ds, c->inode);
	free(c->path);
	free(c->to);
}

void names_change(struct disk_sim *ds, enum change_kind kind, const char *path,
		  const char *to, struct inode *i)
{
	struct change *c;

	if (ds->n_changes == ds->cap_changes) {
		ds->cap_changes = ds->cap_changes ? 2 * ds->cap_changes : 16;
		ds->changes = xrealloc(ds->changes,
				       ds->cap_changes * sizeof *ds->changes);
	}
	c = &ds->changes[ds->n_changes++];
	*c = (struct change){ kind, xstrdup(path), to ? xstrdup(to) : NULL, i };
	i->refs++;
	names_apply(ds, &ds->now, c);
}

size_t dir_len(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? (size_t)(slash - path) : 0;
}

static bool in_dir(const char *path, const char *dir)
{
	size_t n = dir_len(path);

	if (!strcmp(dir, "."))
		dir = "";
	return n == strlen(dir) && !memcmp(path, dir, n);
}

void names_sync(struct disk_sim *ds, const char *dir)
{
	size_t k, n = 0;

	for (k = 0; k < ds->n_changes; k++) {
		struct change *c = &ds->changes[k];

		if (in_dir(c->path, dir) || (c->to && in_dir(c->to, dir))) {
			names_apply(ds, &ds->durable, c);
			change_free(ds, c);
		} else {
			ds->changes[n++] = *c;
		}
	}
	ds->n_changes = n;
}

/* ---- power off --------------------------------------------------------------------- */

/* One mood for a whole crash, so that "all lost" and "all kept" are frequent. */
struct mood {
	unsigned keep, lose; /* permille; the rest is torn */
};

static struct mood mood_draw(struct rand *r)
{
	static const struct mood moods[] = {
		{ 0, 1000 }, { 1000, 0 }, { 500, 500 }, { 450, 450 },
		{ 100, 850 }, { 850, 100 }, { 0, 0 },
	};

	return moods[rand_below(r, sizeof moods / sizeof *moods)];
}

static void page_crash(struct disk_sim *ds, struct page *p, struct mood m)
{
	unsigned x = (unsigned)rand_below(&ds->rand, 1000), s;
	uint8_t *torn;

	if (p->now == p->durable || x < m.keep) {
		if (p->now != p->durable)
			free(p->durable);
		p->durable = p->now;
		ds->stats.pages_kept++;
		return;
	}
	if (x < m.keep + m.lose) {
		free(p->now);
		p->now = p->durable;
		ds->stats.pages_lost++;
		return;
	}
	torn = xcalloc(1, PAGE);
	for (s = 0; s < PAGE; s += SECTOR) {
		const uint8_t *src = rand_below(&ds->rand, 2) ? p->now
							       : p->durable;

		if (src)
			memcpy(torn + s, src + s, SECTOR);
	}
	page_free(p);
	p->now = p->durable = torn;
	ds->stats.pages_torn++;
}

static void inode_crash(struct disk_sim *ds, struct inode *i, struct mood m)
{
	uint64_t lo = i->durable_size, hi = i->size, size;
	bool undone = false;
	size_t d;

	if (lo > hi) { /* a truncation: done or not */
		undone = rand_below(&ds->rand, 2);
		size = undone ? lo : hi;
	} else {
		size = rand_permille(&ds->rand, m.keep) ? hi
		       : rand_permille(&ds->rand, m.lose)
			       ? lo
			       : lo + rand_below(&ds->rand, hi - lo + 1);
	}
	for (d = 0; d < i->n_dirty; d++) {
		struct page *p = &i->pages[i->dirty[d]];

		if (undone && i->dirty[d] >= hi / PAGE)
			page_crash(ds, p, (struct mood){ 0, 1000 });
		else
			page_crash(ds, p, m);
		p->dirty = false;
	}
	i->n_dirty = 0;
	ds->used_bytes += size - i->size;
	i->size = size;
	i->durable_size = size;
	for (d = (size + PAGE - 1) / PAGE; d < i->n_pages; d++) {
		page_free(&i->pages[d]);
		memset(&i->pages[d], 0, sizeof i->pages[d]);
	}
	if (size % PAGE && size / PAGE < i->n_pages &&
	    i->pages[size / PAGE].now)
		memset(i->pages[size / PAGE].now + size % PAGE, 0,
		       PAGE - size % PAGE);
}

static void names_crash(struct disk_sim *ds, struct mood m)
{
	size_t k;

	for (k = 0; k < ds->n_changes; k++) {
		struct change *c = &ds->changes[k];

		if (rand_permille(&ds->rand, m.keep + (1000 - m.keep - m.lose) / 2))
			names_apply(ds, &ds->durable, c);
		else
			ds->stats.names_lost++;
		change_free(ds, c);
	}
	ds->n_changes = 0;
	names_clear(ds, &ds->now);
	for (k = 0; k < ds->durable.n; k++)
		names_set(ds, &ds->now, ds->durable.v[k].path,
			  ds->durable.v[k].inode);
}

static void process_end(struct process *p)
{
	struct job *j, *next;

	p->gone = true;
	p->locked = false;
	/* The others free themselves when their event comes. */
	for (j = p->works.head; j; j = next) {
		next = j->next;
		if (!j->armed)
			free(j);
	}
	p->writes.head = p->works.head = NULL;
}

void disk_sim_crash(struct disk_sim *ds)
{
	struct process *p = ds->processes;
	struct mood m = mood_draw(&ds->rand);
	size_t k;

	if (!p || p->gone)
		return;
	if (!ds->frozen)
		writes_at_crash(ds, p);
	process_end(p);
	for (k = 0; k < ds->now.n; k++)
		if (ds->now.v[k].inode)
			inode_crash(ds, ds->now.v[k].inode, m);
	for (k = 0; k < ds->durable.n; k++) /* unlinked since */
		if (ds->durable.v[k].inode)
			inode_crash(ds, ds->durable.v[k].inode, m);
	for (k = 0; k < ds->n_changes; k++)
		inode_crash(ds, ds->changes[k].inode, m);
	names_crash(ds, m);
	ds->frozen = false;
	ds->crash_at = ds->fail_at = 0;
	ds->stats.crashes++;
}

void disk_sim_kill(struct disk_sim *ds)
{
	struct process *p = ds->processes;

	if (!p || p->gone)
		return;
	if (ds->frozen) {
		disk_sim_crash(ds);
		return;
	}
	writes_at_crash(ds, p);
	process_end(p);
	ds->crash_at = ds->fail_at = 0;
	ds->stats.kills++;
}

/* ---- life ---------------------------------------------------------------------------- */

struct disk_sim *disk_sim_new(struct sim *s, int node, uint64_t seed,
			      const struct disk_sim_config *cfg)
{
	struct disk_sim *ds = xcalloc(1, sizeof *ds);

	ds->sim = s;
	ds->node = node;
	rand_seeded(&ds->rand, seed);
	disk_sim_configure(ds, cfg);
	return ds;
}

void disk_sim_configure(struct disk_sim *ds, const struct disk_sim_config *cfg)
{
	ds->cfg = *cfg;
	if (!ds->cfg.total_bytes)
		ds->cfg.total_bytes = 1ull << 40;
}

struct disk *disk_sim_start(struct disk_sim *ds)
{
	struct process *p = xcalloc(1, sizeof *p);

	AN(!ds->processes || ds->processes->gone);
	p->disk.ops = &disk_sim_ops;
	p->ds = ds;
	p->writes.tail = &p->writes.head;
	p->works.tail = &p->works.head;
	p->next = ds->processes;
	ds->processes = p;
	return &p->disk;
}

void disk_sim_free(struct disk_sim *ds)
{
	size_t k;

	for (k = 0; k < ds->n_changes; k++)
		change_free(ds, &ds->changes[k]);
	names_clear(ds, &ds->now);
	names_clear(ds, &ds->durable);
	while (ds->processes) {
		struct process *p = ds->processes;

		ds->processes = p->next;
		free(p);
	}
	free(ds->changes);
	free(ds->now.v);
	free(ds->durable.v);
	free(ds);
}

/* ---- faults ---------------------------------------------------------------------------- */

uint64_t disk_sim_ops_done(const struct disk_sim *ds)
{
	return ds->ops_done;
}

void disk_sim_crash_at(struct disk_sim *ds, uint64_t n, void (*fn)(void *arg),
		       void *arg)
{
	ds->crash_at = n;
	ds->crash_fn = fn;
	ds->crash_arg = arg;
}

void disk_sim_fail_at(struct disk_sim *ds, uint64_t n, int code)
{
	ds->fail_at = n;
	ds->fail_code = code;
}

void disk_sim_set_total(struct disk_sim *ds, uint64_t bytes)
{
	ds->cfg.total_bytes = bytes;
}

void disk_sim_stall(struct disk_sim *ds, uint64_t us)
{
	ds->stall_us = us;
}

static struct inode *inode_at(struct disk_sim *ds, const char *path,
			      uint64_t off)
{
	struct name *n = names_find(&ds->now, path);

	return n && n->inode && off < n->inode->size ? n->inode : NULL;
}

/* On the medium and in the cache, as rot that a fresh read meets. */
static void damage(struct inode *i, uint64_t off, uint8_t flip, bool zero)
{
	struct page *p = page_touch(i, off / PAGE);
	uint8_t *now = page_own(p);
	uint8_t *b = now + off % PAGE;

	*b = zero ? 0 : *b ^ flip;
	if (p->durable) {
		b = p->durable + off % PAGE;
		*b = zero ? 0 : *b ^ flip;
	}
}

bool disk_sim_flip(struct disk_sim *ds, const char *path, uint64_t off,
		   unsigned bit)
{
	struct inode *i = inode_at(ds, path, off);

	if (i)
		damage(i, off, (uint8_t)(1u << bit), false);
	return i;
}

bool disk_sim_zero(struct disk_sim *ds, const char *path, uint64_t off,
		   uint64_t len)
{
	struct inode *i = inode_at(ds, path, off);

	for (; i && len && off < i->size; off++, len--)
		damage(i, off, 0, true);
	return i;
}

const char *disk_sim_rot(struct disk_sim *ds, const char *below)
{
	unsigned tries;

	for (tries = 0; tries < 64 && ds->now.n; tries++) {
		struct name *n = &ds->now.v[rand_below(&ds->rand, ds->now.n)];
		struct inode *i = n->inode;
		uint64_t off;

		if (!i || i->extra || !i->size ||
		    strncmp(n->path, below, strlen(below)))
			continue;
		off = rand_below(&ds->rand, i->size);
		/* Nobody could tell it from a write that was torn. */
		if (off / PAGE * PAGE < i->last_end &&
		    off / PAGE * PAGE + PAGE > i->last_off)
			continue;
		/* Zeros that were never written are no loss to anybody. */
		if (off / PAGE >= i->n_pages || !i->pages[off / PAGE].durable)
			continue;
		if (rand_below(&ds->rand, 2))
			disk_sim_flip(ds, n->path, off,
				      (unsigned)rand_below(&ds->rand, 8));
		else
			disk_sim_zero(ds, n->path, off / SECTOR * SECTOR, SECTOR);
		return n->path;
	}
	return NULL;
}

void disk_sim_stats(const struct disk_sim *ds, struct disk_sim_stats *out)
{
	*out = ds->stats;
	out->used_bytes = ds->used_bytes;
}
