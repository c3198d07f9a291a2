/* Rows in memory, and the checkpoint that makes them durable.
 *
 * A row is changed in place and joins the dirty list.  A checkpoint copies dirty
 * rows into one buffer on the loop and pins them (kv does not have them yet, so
 * they may not be evicted); the helper thread syncs segment and tree files, then
 * writes rows, meta row and applied index in one transaction. */
#include "base/alloc.h"
#include "base/assert.h"
#include "base/cursor.h"
#include "log/store_impl.h"

#include <stdio.h>
#include <stdlib.h>

#define VALUE_MAX (60u << 10)
#define ROW_OVERHEAD 128u

uint64_t row_sum(uint8_t table, const void *key, unsigned klen,
		 const void *val, uint32_t len)
{
	uint8_t head[1 + ROW_KEY_MAX];
	struct hash_part parts[] = { { head, 1 + klen }, { val, len } };
	uint64_t sum;

	head[0] = table;
	memcpy(head + 1, key, klen);
	sum = xxh3_parts(parts, 2);
	return sum ? sum : 1;
}

static bool node_local(uint8_t table)
{
	return table == T_STORE_SEGMENT || table == T_STORE_DOOMED;
}

static uint64_t row_hash(unsigned table, const void *key, unsigned klen)
{
	uint8_t head[1 + ROW_KEY_MAX];

	head[0] = (uint8_t)table;
	memcpy(head + 1, key, klen);
	return xxh3(head, 1 + klen);
}

static struct row *row_find(const struct store *s, uint64_t hash,
			    unsigned table, const void *key, unsigned klen)
{
	struct row *r = map_get(&s->rows, hash);

	while (r && (r->table != table || r->klen != klen ||
		     memcmp(r->key, key, klen)))
		r = r->next;
	return r;
}

static void row_unlink(struct store *s, struct row *r)
{
	struct row *head = map_get(&s->rows, r->hash), **pp = &head;

	while (*pp != r)
		pp = &(*pp)->next;
	*pp = r->next;
	if (head)
		map_put(&s->rows, r->hash, head);
	else
		map_del(&s->rows, r->hash);
	list_remove(&r->all);
	list_remove(&r->dirty);
	s->n_rows--;
}

static void row_link(struct store *s, struct row *r)
{
	r->next = map_get(&s->rows, r->hash);
	map_put(&s->rows, r->hash, r);
	list_append(&s->all, &r->all);
	list_init(&r->dirty);
	s->n_rows++;
}

/* CLOCK over clean rows that kv has. */
static void evict(struct store *s)
{
	uint64_t tries = s->n_rows;

	while (s->n_rows > s->cfg.row_cache_max && tries--) {
		struct row *r = container_of(s->all.next, struct row, all);

		list_remove(&r->all);
		list_append(&s->all, &r->all);
		if (r->is_dirty || r->pinned || r == s->keep)
			continue;
		if (r->referenced) {
			r->referenced = false;
			continue;
		}
		row_unlink(s, r);
		free(r);
	}
}

static struct row *row_new(struct store *s, uint64_t hash, unsigned table,
			   const void *key, unsigned klen, uint32_t len)
{
	struct row *r = xcalloc(1, sizeof *r + len);

	AN(table < 32 && klen <= ROW_KEY_MAX && len <= VALUE_MAX);
	r->hash = hash;
	r->table = (uint8_t)table;
	r->klen = (uint8_t)klen;
	memcpy(r->key, key, klen);
	r->len = r->cap = len;
	row_link(s, r);
	return r;
}

/* From kv into memory; NULL when kv has none.  Apply has no way to refuse a damaged
 * row: it goes on without it, store_append() and store_check() say so before
 * anybody is told, and no checkpoint makes it durable. */
static struct row *row_load(struct store *s, uint64_t hash, unsigned table,
			    const void *key, unsigned klen)
{
	uint8_t full[1 + ROW_KEY_MAX];
	const void *val;
	size_t len;
	struct row *r;
	struct err e = { 0 };
	int rv;

	full[0] = (uint8_t)table;
	memcpy(full + 1, key, klen);
	rv = s->kv_ops->get(s->kv, full, 1 + klen, &val, &len, &e);
	if (rv == ERR_NOT_FOUND)
		return NULL;
	if (rv || len < 8 || len - 8 > VALUE_MAX ||
	    get_u64((const uint8_t *)val + len - 8) !=
		    row_sum((uint8_t)table, key, klen, val, (uint32_t)len - 8)) {
		if (!s->bad.code)
			err_set(&s->bad, ERR_DAMAGED,
				"shard %u: a row of table %u is damaged%s%s",
				s->cfg.shard, table, rv ? ": " : "",
				rv ? e.msg : "");
		return NULL;
	}
	r = row_new(s, hash, table, key, klen, (uint32_t)len - 8);
	memcpy(r->val, val, len - 8);
	r->sum = get_u64((const uint8_t *)val + len - 8);
	return r;
}

static struct row *row_fetch(struct store *s, unsigned table, const void *key,
			     unsigned klen)
{
	uint64_t hash = row_hash(table, key, klen);
	struct row *r = row_find(s, hash, table, key, klen);

	if (!r)
		r = row_load(s, hash, table, key, klen);
	if (r)
		r->referenced = true;
	s->keep = r;
	if (s->n_rows > s->cfg.row_cache_max)
		evict(s);
	return r;
}

void *row_get(struct store *s, unsigned table, const void *key, unsigned klen,
	      uint32_t *len)
{
	struct row *r = row_fetch(s, table, key, klen);

	if (!r || r->absent)
		return NULL;
	*len = r->len;
	return r->val;
}

static void mark_dirty(struct store *s, struct row *r)
{
	if (r->is_dirty)
		return;
	r->is_dirty = true;
	list_append(&s->dirty, &r->dirty);
	s->dirty_bytes += r->len + ROW_OVERHEAD;
}

void *row_put(struct store *s, unsigned table, const void *key, unsigned klen,
	      uint32_t len)
{
	struct row *r = row_fetch(s, table, key, klen);

	if (!r) {
		r = row_new(s, row_hash(table, key, klen), table, key, klen,
			    len);
	} else if (r->absent) {
		r->absent = false;
		memset(r->val, 0, r->cap);
		r->len = 0;
	}
	if (len > r->cap) {
		struct row *old = r;

		r = row_new(s, old->hash, table, key, klen, len);
		memcpy(r->val, old->val, old->len);
		r->sum = old->sum;
		r->pinned = old->pinned;
		if (old->is_dirty)
			s->dirty_bytes -= old->len + ROW_OVERHEAD;
		row_unlink(s, old);
		free(old);
	} else if (r->is_dirty) {
		s->dirty_bytes += len;
		s->dirty_bytes -= r->len;
	}
	if (len > r->len && r->len < r->cap)
		memset(r->val + r->len, 0, len - r->len);
	r->len = len;
	mark_dirty(s, r);
	s->keep = r;
	return r->val;
}

void row_dirty(struct store *s, void *value)
{
	mark_dirty(s, container_of(value, struct row, val));
}

void row_del(struct store *s, unsigned table, const void *key, unsigned klen)
{
	struct row *r = row_fetch(s, table, key, klen);

	if (!r || r->absent)
		return;
	mark_dirty(s, r);
	r->absent = true;
}

int store_check(const struct store *s, struct err *e)
{
	return s->bad.code ? err_set(e, s->bad.code, "%s", s->bad.msg) : 0;
}

bool store_full(const struct store *s)
{
	return s->dirty_bytes + s->pinned_bytes > 2 * s->cfg.dirty_max_bytes;
}

uint64_t store_dirty_bytes(const struct store *s)
{
	return s->dirty_bytes;
}

bool store_checkpoint_running(const struct store *s)
{
	return s->ckpt != NULL;
}

/* ---- walking ----------------------------------------------------------------- */

struct walk {
	struct store *s;
	unsigned table;
	bool (*cb)(void *arg, const void *key, unsigned klen, const void *val,
		   uint32_t len);
	void *arg;
	struct row **mem;      /* rows in memory of the table, in key order */
	size_t n, i;
	bool stopped, damaged;
};

static int by_key(const void *a, const void *b)
{
	const struct row *x = *(struct row *const *)a,
			 *y = *(struct row *const *)b;
	unsigned n = x->klen < y->klen ? x->klen : y->klen;
	int c = memcmp(x->key, y->key, n);

	return c ? c : x->klen - y->klen;
}

static int mem_against(const struct row *r, const void *key, size_t klen)
{
	size_t n = r->klen < klen ? r->klen : klen;
	int c = memcmp(r->key, key, n);

	return c ? c : (int)r->klen - (int)klen;
}

static bool give_mem(struct walk *w)
{
	const struct row *r = w->mem[w->i++];

	return r->absent || w->cb(w->arg, r->key, r->klen, r->val, r->len);
}

static bool walk_kv(void *arg, const void *key, size_t klen, const void *val,
		    size_t vlen)
{
	struct walk *w = arg;
	const uint8_t *k = key;

	if (klen < 1 || k[0] != w->table)
		return false;
	while (w->i < w->n && mem_against(w->mem[w->i], k + 1, klen - 1) < 0)
		if (!give_mem(w))
			return !(w->stopped = true);
	if (w->i < w->n && !mem_against(w->mem[w->i], k + 1, klen - 1)) {
		if (!give_mem(w))
			return !(w->stopped = true);
		return true;
	}
	if (vlen < 8 || get_u64((const uint8_t *)val + vlen - 8) !=
				row_sum((uint8_t)w->table, k + 1,
					(unsigned)klen - 1, val,
					(uint32_t)vlen - 8)) {
		w->damaged = true;
		return false;
	}
	if (!w->cb(w->arg, k + 1, (unsigned)klen - 1, val, (uint32_t)vlen - 8))
		w->stopped = true;
	return !w->stopped;
}

int row_walk(struct store *s, unsigned table,
	     bool (*cb)(void *arg, const void *key, unsigned klen,
			const void *val, uint32_t len),
	     void *arg, struct err *e)
{
	struct walk w = { .s = s, .table = table, .cb = cb, .arg = arg };
	uint8_t first = (uint8_t)table;
	int rv;

	w.mem = xmalloc((s->n_rows + 1) * sizeof *w.mem);
	LIST_FOREACH(it, &s->all)
	{
		struct row *r = container_of(it, struct row, all);

		if (r->table == table)
			w.mem[w.n++] = r;
	}
	qsort(w.mem, w.n, sizeof *w.mem, by_key);
	rv = s->kv_ops->walk(s->kv, &first, 1, walk_kv, &w, e);
	while (!rv && !w.stopped && !w.damaged && w.i < w.n)
		if (!give_mem(&w))
			break;
	free(w.mem);
	if (!rv && w.damaged)
		rv = err_set(e, ERR_DAMAGED, "shard %u: a row of table %u is "
					     "damaged",
			     s->cfg.shard, table);
	return rv;
}

/* ---- checkpoints -------------------------------------------------------------- */

/* table u8, klen u8, absent u8, zero u8, len u32, key, value, sum u64 */
static void ckpt_add(struct store *s, struct checkpoint *c, struct row *r)
{
	uint8_t *p = buf_extend(&c->rows, 8);
	uint64_t sum = r->absent ? 0
				 : row_sum(r->table, r->key, r->klen, r->val,
					   r->len);

	p[0] = r->table;
	p[1] = r->klen;
	p[2] = r->absent;
	p[3] = 0;
	put_u32(p + 4, r->absent ? 0 : r->len);
	buf_put(&c->rows, r->key, r->klen);
	if (!r->absent)
		buf_put(&c->rows, r->val, r->len);
	buf_u64(&c->rows, sum);
	if (!node_local(r->table))
		s->meta.digest += sum - r->sum;
	r->sum = sum;
}

static int ckpt_rows(struct store *s, struct checkpoint *c)
{
	struct cursor in = cursor_of(c->rows.data, c->rows.len);
	uint8_t key[1 + ROW_KEY_MAX];
	int rv = s->kv_ops->begin(s->kv, &c->err);

	if (rv)
		return rv;
	while (!rv && cursor_left(&in)) {
		const uint8_t *h = cursor_bytes(&in, 8), *k, *v;
		uint32_t len = get_u32(h + 4);

		k = cursor_bytes(&in, h[1]);
		v = cursor_bytes(&in, len + 8); /* the sum follows the value */
		key[0] = h[0];
		memcpy(key + 1, k, h[1]);
		if (h[2])
			rv = s->kv_ops->del(s->kv, key, 1u + h[1], &c->err);
		else
			rv = s->kv_ops->put(s->kv, key, 1u + h[1], v, len + 8,
					    &c->err);
	}
	if (rv) {
		s->kv_ops->abort(s->kv);
		return rv;
	}
	return s->kv_ops->commit(s->kv, &c->err);
}

/* Those that the rows just committed call doomed.  What cannot be removed is tried
 * again with the next checkpoint. */
static void ckpt_unlink(struct store *s, struct checkpoint *c)
{
	static const char *const ext[] = { "seg", "idx" };
	char path[96];
	uint32_t i, k, n = 0;

	for (i = 0; i < c->n_gone; i++) {
		struct segment g = { .base = c->gone[i].base,
				     .generation = c->gone[i].gen };
		int rv = 0;

		for (k = 0; k < 2 && !rv; k++) {
			segment_path(s, &g, ext[k], path, sizeof path);
			rv = s->disk->ops->unlink(s->disk, path, NULL);
			if (rv == ERR_NOT_FOUND)
				rv = 0;
		}
		if (!rv)
			c->gone[n++] = c->gone[i];
	}
	c->n_stuck = c->n_gone - n;
	c->n_gone = n;
	snprintf(path, sizeof path, "%s/seg", s->dir);
	if (n)
		c->status = s->disk->ops->fsync_dir(s->disk, path, &c->err);
}

static void ckpt_run(struct disk_work *w)
{
	struct store *s = w->arg;
	struct checkpoint *c = container_of(w, struct checkpoint, work);
	char path[48];
	unsigned i;

	/* A failed write on the loop's side ends it before it begins. */
	for (i = 0; i < c->n_sync && !c->status; i++)
		c->status = s->disk->ops->fdatasync(c->sync[i], &c->err);
	if (!c->status && c->new_files) {
		snprintf(path, sizeof path, "%s/seg", s->dir);
		c->status = s->disk->ops->fsync_dir(s->disk, path, &c->err);
		snprintf(path, sizeof path, "%s/tree", s->dir);
		if (!c->status)
			c->status = s->disk->ops->fsync_dir(s->disk, path,
							    &c->err);
	}
	/* A failed sync of files must not be taken for a full disk. */
	if (c->status == ERR_NOSPACE)
		c->status = ERR_IO;
	if (!c->status)
		c->status = ckpt_rows(s, c);
	if (!c->status && c->n_gone)
		ckpt_unlink(s, c);
}

static void ckpt_free(struct store *s, struct checkpoint *c)
{
	while (c->n_old_trees)
		s->disk->ops->close(c->old_trees[--c->n_old_trees]);
	free(c->old_trees);
	free(c->gone);
	buf_release(&c->rows);
	free(c->sync);
	free(c);
}

void ckpt_abandon(struct store *s)
{
	if (s->ckpt)
		ckpt_free(s, s->ckpt);
	s->ckpt = NULL;
}

static void ckpt_done(struct disk_work *w)
{
	struct store *s = w->arg;
	struct checkpoint *c = container_of(w, struct checkpoint, work);
	uint32_t i;

	if (!c->status) {
		s->kv_ops->renew(s->kv);
		s->stats.checkpoints++;
	}
	LIST_FOREACH_SAFE(it, &s->all)
	{
		struct row *r = container_of(it, struct row, all);

		if (r->pinned != c->gen)
			continue;
		r->pinned = 0;
		if (c->status)
			mark_dirty(s, r); /* still only in memory */
		else if (r->absent && !r->is_dirty) {
			row_unlink(s, r);
			free(r);
		}
	}
	/* Files were synced before the transaction could fail. */
	if (c->status)
		s->new_files |= c->new_files;
	if (!c->status)
		s->n_stuck = c->n_stuck;
	for (i = 0; i < c->n_gone && !c->status; i++)
		doomed_gone(s, c->gone[i].base, c->gone[i].gen);
	s->pinned_bytes = 0;
	s->ckpt = NULL;
	closing_close(s);
	c->done(c->arg, c->status, c->index, c->term,
		c->status ? &c->err : NULL);
	ckpt_free(s, c);
}

static void ckpt_sync(struct checkpoint *c, struct disk_file *f)
{
	c->sync = xrealloc(c->sync, (c->n_sync + 1) * sizeof *c->sync);
	c->sync[c->n_sync++] = f;
}

int store_checkpoint(struct store *s,
		     void (*done)(void *arg, int status, uint64_t index,
				  uint64_t term, const struct err *e),
		     void *arg)
{
	struct checkpoint *c;
	struct buf meta = BUF_INIT;
	struct list *it;
	uint8_t *p;
	uint32_t i;

	if (s->ckpt)
		return ERR_BUSY;
	if (s->bad.code)
		return s->bad.code;
	c = s->ckpt = xcalloc(1, sizeof *c);
	c->status = tree_flush(s, &c->err);
	c->gen = ++s->gen;
	c->index = s->meta.applied_index;
	c->term = s->meta.applied_term;
	c->done = done;
	c->arg = arg;
	while ((it = list_pop(&s->dirty))) {
		struct row *r = container_of(it, struct row, dirty);

		ckpt_add(s, c, r);
		r->is_dirty = false;
		r->pinned = c->gen;
	}
	s->pinned_bytes = s->dirty_bytes;
	s->dirty_bytes = 0;
	meta_encode(s, &meta);
	p = buf_extend(&c->rows, 8);
	memset(p, 0, 8);
	p[0] = T_STORE_META;
	p[1] = 4;
	put_u32(p + 4, (uint32_t)meta.len);
	buf_put(&c->rows, "meta", 4);
	buf_put(&c->rows, meta.data, meta.len);
	buf_u64(&c->rows, row_sum(T_STORE_META, "meta", 4, meta.data,
				  (uint32_t)meta.len));
	buf_release(&meta);
	for (i = 0; i < s->n_segs; i++) {
		struct segment *g = &s->segs[i];

		if (g->synced || !g->file)
			continue;
		ckpt_sync(c, g->file);
		g->synced = g->sealed;
	}
	if (s->tree_file)
		ckpt_sync(c, s->tree_file);
	for (i = 0; i < s->n_old_trees; i++)
		ckpt_sync(c, s->old_trees[i]);
	c->old_trees = s->old_trees;
	c->n_old_trees = s->n_old_trees;
	s->old_trees = NULL;
	s->n_old_trees = 0;
	c->new_files = s->new_files;
	s->new_files = false;
	if (store_doomed(s)) {
		c->n_gone = s->n_doomed;
		c->gone = xmalloc(c->n_gone * sizeof *c->gone);
		memcpy(c->gone, s->doomed, c->n_gone * sizeof *c->gone);
	}
	c->work = (struct disk_work){ .run = ckpt_run,
				      .done = ckpt_done,
				      .arg = s };
	s->disk->ops->work(s->disk, &c->work);
	return 0;
}

/* ---- open and close -------------------------------------------------------------- */

void rows_init(struct store *s)
{
	map_init(&s->rows);
	list_init(&s->all);
	list_init(&s->dirty);
}

int rows_open(struct store *s, void *kv_arg, struct buf *meta, struct err *e)
{
	static const uint8_t key[] = "\0meta";
	const void *val;
	char path[64];
	size_t len;
	int rv;

	snprintf(path, sizeof path, "%s/state.mdb", s->dir);
	rv = s->kv_ops->open(kv_arg, s->disk, path, &s->kv, e);
	if (rv)
		return rv;
	rv = s->kv_ops->get(s->kv, key, 5, &val, &len, e);
	if (rv == ERR_NOT_FOUND) {
		/* Before the first commit, or it could lose its name with the
		 * power, and the journal has forgotten what it held. */
		rv = s->disk->ops->fsync_dir(s->disk, s->dir, e);
		return rv ? rv : ERR_NOT_FOUND;
	}
	if (rv)
		return rv;
	if (len < 8 || get_u64((const uint8_t *)val + len - 8) !=
			       row_sum(T_STORE_META, "meta", 4, val,
				       (uint32_t)len - 8))
		return err_set(e, ERR_DAMAGED, "%s: the meta row is damaged",
			       path);
	buf_put(meta, val, len - 8);
	return 0;
}

void rows_close(struct store *s)
{
	struct list *it;

	while ((it = list_pop(&s->all)))
		free(container_of(it, struct row, all));
	map_release(&s->rows);
	if (s->kv)
		s->kv_ops->close(s->kv);
}
