#include "tests/lib/kv_mem.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "tests/lib/disk_sim.h"

#include <stdlib.h>
#include <string.h>

struct row {
	unsigned refs;
	bool deleted;
	size_t klen, vlen;
	uint8_t bytes[]; /* key, value */
};

/* A whole state; never changed, so a reader keeps its own. */
struct version {
	unsigned refs;
	size_t n;
	struct row *rows[];
};

/* What a file holds on the medium. */
struct image {
	struct disk_sim_extra extra; /* first */
	struct version *version;
};

struct kv {
	struct disk *disk;
	struct disk_file *file;
	struct image *image;
	struct version *read;
	bool writing;
	struct row **puts; /* in the order of the calls; deletions too */
	size_t n, cap;
};

static void row_put_ref(struct row *r)
{
	if (!--r->refs)
		free(r);
}

static struct version *version_new(size_t n)
{
	struct version *v = xmalloc(sizeof *v + n * sizeof v->rows[0]);

	v->refs = 1;
	v->n = 0;
	return v;
}

static void version_put(struct version *v)
{
	size_t k;

	if (--v->refs)
		return;
	for (k = 0; k < v->n; k++)
		row_put_ref(v->rows[k]);
	free(v);
}

static void version_add(struct version *v, struct row *r)
{
	r->refs++;
	v->rows[v->n++] = r;
}

static void image_drop(struct disk_sim_extra *x)
{
	struct image *im = (struct image *)(void *)x;

	version_put(im->version);
	free(im);
}

static int key_cmp(const void *a, size_t an, const void *b, size_t bn)
{
	int c = memcmp(a, b, an < bn ? an : bn);

	return c ? c : (an > bn) - (an < bn);
}

static int row_cmp(const struct row *a, const struct row *b)
{
	return key_cmp(a->bytes, a->klen, b->bytes, b->klen);
}

/* First row >= key. */
static size_t version_at(const struct version *v, const void *key, size_t klen)
{
	size_t lo = 0, hi = v->n;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (key_cmp(v->rows[mid]->bytes, v->rows[mid]->klen, key,
			    klen) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static int km_open(void *arg, struct disk *disk, const char *path,
		   struct kv **out, struct err *e)
{
	struct disk_sim_extra **x;
	struct disk_file *f;
	struct kv *kv;
	int rv = disk->ops->open(disk, path, DISK_WRITE | DISK_CREATE, &f, e);

	(void)arg;
	if (rv)
		return rv;
	x = disk_sim_extra(f);
	if (!*x) {
		struct image *im = xcalloc(1, sizeof *im);

		im->extra.drop = image_drop;
		im->version = version_new(0);
		*x = &im->extra;
	}
	kv = xcalloc(1, sizeof *kv);
	kv->disk = disk;
	kv->file = f;
	kv->image = (struct image *)(void *)*x;
	kv->read = kv->image->version;
	kv->read->refs++;
	*out = kv;
	return 0;
}

static void km_abort(struct kv *kv)
{
	size_t k;

	for (k = 0; k < kv->n; k++)
		row_put_ref(kv->puts[k]);
	kv->n = 0;
	kv->writing = false;
}

static void km_close(struct kv *kv)
{
	km_abort(kv);
	version_put(kv->read);
	kv->disk->ops->close(kv->file);
	free(kv->puts);
	free(kv);
}

static int km_get(struct kv *kv, const void *key, size_t klen, const void **val,
		  size_t *vlen, struct err *e)
{
	size_t k = version_at(kv->read, key, klen);
	const struct row *r = k < kv->read->n ? kv->read->rows[k] : NULL;

	(void)e;
	if (!r || key_cmp(r->bytes, r->klen, key, klen))
		return ERR_NOT_FOUND;
	*val = r->bytes + r->klen;
	*vlen = r->vlen;
	return 0;
}

static int km_walk(struct kv *kv, const void *key, size_t klen,
		   bool (*cb)(void *arg, const void *key, size_t klen,
			      const void *val, size_t vlen),
		   void *arg, struct err *e)
{
	size_t k;

	(void)e;
	for (k = version_at(kv->read, key, klen); k < kv->read->n; k++) {
		const struct row *r = kv->read->rows[k];

		if (!cb(arg, r->bytes, r->klen, r->bytes + r->klen, r->vlen))
			break;
	}
	return 0;
}

static int km_walk_all(struct kv *kv,
		       bool (*cb)(void *arg, const void *key, size_t klen,
				  const void *val, size_t vlen),
		       void *arg, struct err *e)
{
	const struct version *v = kv->image->version;
	size_t k;

	(void)e;
	for (k = 0; k < v->n; k++) {
		const struct row *r = v->rows[k];

		if (!cb(arg, r->bytes, r->klen, r->bytes + r->klen, r->vlen))
			break;
	}
	return 0;
}

static int km_begin(struct kv *kv, struct err *e)
{
	(void)e;
	AN(!kv->writing);
	kv->writing = true;
	return 0;
}

static void add(struct kv *kv, const void *key, size_t klen, const void *val,
		size_t vlen, bool deleted)
{
	struct row *r = xmalloc(sizeof *r + klen + vlen);

	AN(kv->writing);
	AN(klen);
	*r = (struct row){ 1, deleted, klen, vlen };
	memcpy(r->bytes, key, klen);
	if (vlen)
		memcpy(r->bytes + klen, val, vlen);
	if (kv->n == kv->cap) {
		kv->cap = kv->cap ? 2 * kv->cap : 64;
		kv->puts = xrealloc(kv->puts, kv->cap * sizeof *kv->puts);
	}
	kv->puts[kv->n++] = r;
}

static int km_put(struct kv *kv, const void *key, size_t klen, const void *val,
		  size_t vlen, struct err *e)
{
	(void)e;
	add(kv, key, klen, val, vlen, false);
	return 0;
}

static int km_del(struct kv *kv, const void *key, size_t klen, struct err *e)
{
	(void)e;
	add(kv, key, klen, NULL, 0, true);
	return 0;
}

/* Stable: of equal keys the last call stays last. */
static void sort(struct row **v, struct row **tmp, size_t n)
{
	size_t m = n / 2, a = 0, b = m, k = 0;

	if (n < 2)
		return;
	sort(v, tmp, m);
	sort(v + m, tmp, n - m);
	while (a < m && b < n)
		tmp[k++] = row_cmp(v[b], v[a]) < 0 ? v[b++] : v[a++];
	while (a < m)
		tmp[k++] = v[a++];
	while (b < n)
		tmp[k++] = v[b++];
	memcpy(v, tmp, n * sizeof *v);
}

static struct version *merge(const struct version *old, struct row **puts,
			     size_t n)
{
	struct version *v = version_new(old->n + n);
	size_t a = 0, b = 0;

	while (a < old->n || b < n) {
		int c = a == old->n ? 1
			: b == n    ? -1
				    : row_cmp(old->rows[a], puts[b]);

		if (b + 1 < n && c >= 0 && !row_cmp(puts[b], puts[b + 1])) {
			b++; /* overwritten in the same transaction */
			continue;
		}
		if (c < 0) {
			version_add(v, old->rows[a++]);
			continue;
		}
		if (!c)
			a++;
		if (!puts[b]->deleted)
			version_add(v, puts[b]);
		b++;
	}
	return v;
}

static int km_commit(struct kv *kv, struct err *e)
{
	int rv = disk_sim_step(kv->file, e);
	struct row **tmp;
	struct version *v;

	AN(kv->writing);
	if (!rv) {
		tmp = xcalloc(kv->n + 1, sizeof *tmp);
		sort(kv->puts, tmp, kv->n);
		free(tmp);
		v = merge(kv->image->version, kv->puts, kv->n);
		version_put(kv->image->version);
		kv->image->version = v;
	}
	km_abort(kv);
	return rv < 0 ? rv : 0;
}

static void km_renew(struct kv *kv)
{
	version_put(kv->read);
	kv->read = kv->image->version;
	kv->read->refs++;
}

const struct kv_ops kv_mem = {
	.open = km_open,
	.close = km_close,
	.get = km_get,
	.walk = km_walk,
	.walk_all = km_walk_all,
	.begin = km_begin,
	.put = km_put,
	.del = km_del,
	.commit = km_commit,
	.abort = km_abort,
	.renew = km_renew,
};
