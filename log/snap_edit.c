/* The rows of a snapshot for another cluster than the one that made it: some go, some
 * are new, and the meta row has another configuration.  One pass; the meta row, which
 * comes first and has the digest of all, is written last, in its place. */
#include "base/alloc.h"
#include "base/bytes.h"
#include "log/snap_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK (256u << 10)
#define META_DIGEST 48u /* place in the meta row (meta_encode) */

struct edit {
	struct disk *disk;
	struct snap_manifest *m;
	const struct snap_edit *how;
	struct disk_file *in, *out_file;
	uint64_t in_at, in_size, out_at;
	struct buf in_buf, out;
	uint8_t *meta;         /* the first row as it will be; its sum is behind */
	uint32_t meta_len;
	uint64_t digest, rows;
};

static int flush(struct edit *x, struct err *e)
{
	struct iovec iov = { x->out.data, x->out.len };
	int rv = x->disk->ops->pwritev(x->out_file, &iov, 1, x->out_at, e);

	x->out_at += x->out.len;
	buf_clear(&x->out);
	return rv;
}

static void put_row(struct edit *x, const uint8_t *key, uint32_t klen,
		    const uint8_t *val, uint32_t vlen, uint64_t sum)
{
	buf_u32(&x->out, klen);
	buf_u32(&x->out, vlen + 8);
	buf_put(&x->out, key, klen);
	buf_put(&x->out, val, vlen);
	buf_u64(&x->out, sum);
	x->rows++;
}

/* Those of which replicas have their own are not in the digest. */
static bool counted(uint8_t table)
{
	return table != T_STORE_META && table != T_STORE_SEGMENT &&
	       table != T_STORE_DOOMED;
}

static const struct snap_put *put_of(const struct edit *x, const uint8_t *key,
				     uint32_t klen)
{
	unsigned i;

	for (i = 0; i < x->how->n_puts; i++) {
		const struct snap_put *p = &x->how->puts[i];

		if (p->table == key[0] && p->klen == klen - 1 &&
		    !memcmp(p->key, key + 1, p->klen))
			return p;
	}
	return NULL;
}

/* The configuration is the last thing in it. */
static int edit_meta(struct edit *x, const uint8_t *val, uint32_t vlen,
		     struct err *e)
{
	const struct snap_edit *how = x->how;
	uint32_t old = vlen >= META_DIGEST + 8 ? get_u32(val + 4) : UINT32_MAX, head;

	if (x->meta || old > vlen - META_DIGEST - 8)
		return err_set(e, ERR_DAMAGED, "the meta row is damaged");
	head = vlen - old;
	x->meta_len = head + how->conf_len;
	x->meta = xmalloc(x->meta_len);
	memcpy(x->meta, val, head);
	memcpy(x->meta + head, how->conf, how->conf_len);
	put_u32(x->meta + 4, how->conf_len);
	put_row(x, (const uint8_t *)"\0meta", 5, x->meta, x->meta_len, 0);
	return 0;
}

static int edit_row(struct edit *x, const uint8_t *key, uint32_t klen,
		    const uint8_t *val, uint32_t vlen, struct err *e)
{
	uint64_t sum = row_sum(key[0], key + 1, klen - 1, val, vlen);

	if (get_u64(val + vlen) != sum)
		return err_set(e, ERR_DAMAGED, "a row is damaged");
	if (key[0] == T_STORE_META)
		return edit_meta(x, val, vlen, e);
	if (!x->meta)
		return err_set(e, ERR_DAMAGED, "the meta row is not the first");
	if (put_of(x, key, klen) ||
	    (x->how->drop && x->how->drop(key[0], key + 1, klen - 1)))
		return 0;
	if (counted(key[0]))
		x->digest += sum;
	put_row(x, key, klen, val, vlen, sum);
	return 0;
}

static int more(struct edit *x, struct err *e)
{
	uint64_t left = x->in_size - x->in_at;
	size_t want = left < CHUNK ? (size_t)left : CHUNK, got = 0;
	int rv;

	if (!want)
		return err_set(e, ERR_DAMAGED, "the stream of rows ends early");
	rv = x->disk->ops->pread(x->in, buf_reserve(&x->in_buf, want), want, x->in_at,
				 &got, e);
	x->in_buf.len += got;
	x->in_at += got;
	return rv ? rv : got == want ? 0 : err_set(e, ERR_DAMAGED, "too short");
}

static int edit_all(struct edit *x, struct err *e)
{
	size_t at = SNAP_ROWS_HEAD;
	int rv = more(x, e);

	if (!rv && (x->in_buf.len < SNAP_ROWS_HEAD ||
		    memcmp(x->in_buf.data, SNAP_ROWS_MAGIC, SNAP_ROWS_HEAD)))
		rv = err_set(e, ERR_DAMAGED, "no stream of rows");
	buf_put(&x->out, SNAP_ROWS_MAGIC, SNAP_ROWS_HEAD);
	while (!rv && (at < x->in_buf.len || x->in_at < x->in_size)) {
		const uint8_t *p = x->in_buf.data + at;
		size_t n = x->in_buf.len - at;
		uint32_t klen = n >= 8 ? get_u32(p) : 1,
			 vlen = n >= 8 ? get_u32(p + 4) : 8;

		if (klen < 1 || klen > 1 + ROW_KEY_MAX || vlen < 8 ||
		    vlen > (64u << 10))
			return err_set(e, ERR_DAMAGED, "a row's lengths are damaged");
		if (n < 8 || n < 8 + (size_t)klen + vlen) {
			buf_consume(&x->in_buf, at);
			at = 0;
			rv = more(x, e);
			continue;
		}
		rv = edit_row(x, p + 8, klen, p + 8 + klen, vlen - 8, e);
		at += 8 + (size_t)klen + vlen;
		if (!rv && x->out.len >= CHUNK)
			rv = flush(x, e);
	}
	return rv;
}

static int finish(struct edit *x, struct err *e)
{
	const struct snap_edit *how = x->how;
	struct iovec iov;
	struct buf meta = BUF_INIT;
	unsigned i;
	int rv;

	for (i = 0; i < how->n_puts; i++) {
		const struct snap_put *p = &how->puts[i];
		uint8_t key[1 + ROW_KEY_MAX];
		uint64_t sum = row_sum(p->table, p->key, p->klen, p->val, p->vlen);

		key[0] = p->table;
		memcpy(key + 1, p->key, p->klen);
		if (counted(p->table))
			x->digest += sum;
		put_row(x, key, 1 + p->klen, p->val, p->vlen, sum);
	}
	rv = flush(x, e);
	if (rv)
		return rv;
	put_u64(x->meta + META_DIGEST, x->digest);
	buf_put(&meta, x->meta, x->meta_len);
	buf_u64(&meta, row_sum(T_STORE_META, "meta", 4, x->meta, x->meta_len));
	iov = (struct iovec){ meta.data, meta.len };
	rv = x->disk->ops->pwritev(x->out_file, &iov, 1, SNAP_ROWS_HEAD + 8 + 5, e);
	buf_release(&meta);
	if (rv)
		return rv;
	x->m->rows = x->rows;
	x->m->rows_bytes = x->out_at;
	x->m->digest = x->digest;
	x->m->conf_len = how->conf_len;
	memcpy(x->m->conf, how->conf, how->conf_len);
	return 0;
}

int snap_edit_rows(struct disk *disk, struct snap_manifest *m, uint32_t incarnation,
		   const char *from, const struct snap_edit *how, struct err *e)
{
	struct edit x = { .disk = disk, .m = m, .how = how };
	char dir[32], in[64], out[64];
	int rv;

	store_folder(dir, m->shard, incarnation);
	snprintf(in, sizeof in, "%s/%s", dir, from);
	snprintf(out, sizeof out, "%s/" SNAP_ROWS, dir);
	rv = disk->ops->open(disk, in, DISK_READ, &x.in, e);
	if (!rv)
		rv = disk->ops->size(x.in, &x.in_size, e);
	if (!rv && x.in_size != m->rows_bytes)
		rv = err_set(e, ERR_DAMAGED, "%s: not as long as the manifest says", in);
	if (!rv)
		rv = disk->ops->open(disk, out, DISK_WRITE | DISK_CREATE,
				     &x.out_file, e);
	if (!rv)
		rv = disk->ops->truncate(x.out_file, 0, e);
	if (!rv)
		rv = edit_all(&x, e);
	if (!rv && !x.meta)
		rv = err_set(e, ERR_DAMAGED, "%s: no meta row", in);
	if (!rv)
		rv = finish(&x, e);
	if (x.in)
		disk->ops->close(x.in);
	if (x.out_file)
		disk->ops->close(x.out_file);
	if (!rv)
		rv = disk->ops->unlink(disk, in, e);
	buf_release(&x.in_buf);
	buf_release(&x.out);
	free(x.meta);
	return rv;
}
