/* The file `members` (members.h):
 *   0  8 magic QUIPUMB1       8  4 version         12  4 length of the file
 *  16 16 cluster id          32  8 epoch           40  8 founders, bits by id
 *  48  4 rows                52  4 zero
 *  56    rows (member_put()), ascending by id
 * end-8  XXH3-64 over all before it */
#include "base/alloc.h"
#include "base/hash.h"
#include "base/logf.h"
#include "consensus/members.h"

#include <stdlib.h>
#include <string.h>

#define HEAD 56

void members_encode(struct buf *out, const struct members *t,
		    const uint8_t cluster_id[16])
{
	size_t start = out->len;
	uint32_t rows = 0;
	uint8_t *p;
	unsigned id;

	p = buf_extend(out, HEAD);
	memset(p, 0, HEAD);
	memcpy(p, "QUIPUMB1", 8);
	put_u32(p + 8, MEMBERS_VERSION);
	memcpy(p + 16, cluster_id, 16);
	put_u64(p + 32, t->epoch);
	put_u64(p + 40, t->founders);
	for (id = 1; id < PLACE_NODES; id++) {
		if (t->m[id].state == PLACE_NONE)
			continue;
		member_put(out, &t->m[id]);
		rows++;
	}
	p = out->data + start;
	put_u32(p + 12, (uint32_t)(out->len - start + 8));
	put_u32(p + 48, rows);
	buf_u64(out, xxh3(p, out->len - start));
}

int members_decode(struct members *t, const uint8_t cluster_id[16],
		   const uint8_t *p, size_t n, struct err *e)
{
	struct cursor c;
	uint32_t rows;
	uint8_t last = 0;

	memset(t, 0, sizeof *t);
	if (n < 16 || memcmp(p, "QUIPUMB1", 8))
		return err_set(e, ERR_FORMAT, "not a members file");
	/* Before the checksum: a later version may place it elsewhere. */
	if (get_u32(p + 8) > MEMBERS_VERSION)
		return err_set(e, ERR_VERSION,
			       "format version %u is newer than this program's "
			       "(%d); nothing was changed",
			       get_u32(p + 8), MEMBERS_VERSION);
	if (n < HEAD + 8 || get_u32(p + 12) != n ||
	    get_u64(p + n - 8) != xxh3(p, n - 8))
		return err_set(e, ERR_CHECKSUM, "checksum mismatch");
	if (cluster_id && memcmp(p + 16, cluster_id, 16))
		return err_set(e, ERR_CONFIG, "of another cluster");
	t->epoch = get_u64(p + 32);
	t->founders = get_u64(p + 40);
	c = cursor_of(p + HEAD, n - HEAD - 8);
	for (rows = get_u32(p + 48); rows && !c.bad; rows--) {
		struct member m;

		if (member_get(&m, &c) || m.id <= last) {
			c.bad = true;
			break;
		}
		last = m.id;
		t->m[m.id] = m;
	}
	if (!cursor_done(&c) || !t->epoch) {
		memset(t, 0, sizeof *t);
		return err_set(e, ERR_FORMAT, "a row is malformed");
	}
	return 0;
}

int members_load(struct members *t, struct disk *disk,
		 const uint8_t cluster_id[16], struct err *e)
{
	struct disk_file *f;
	uint8_t *p;
	size_t got;
	int rv;

	memset(t, 0, sizeof *t);
	rv = disk->ops->open(disk, "members", DISK_READ, &f, e);
	if (rv)
		return rv == ERR_NOT_FOUND ? 0 : rv;
	p = xmalloc(MEMBERS_FILE_MAX + 1);
	rv = disk->ops->pread(f, p, MEMBERS_FILE_MAX + 1, 0, &got, e);
	disk->ops->close(f);
	if (!rv)
		rv = members_decode(t, cluster_id, p, got, e);
	free(p);
	if (rv == ERR_FORMAT || rv == ERR_CHECKSUM || rv == ERR_CONFIG) {
		log_event(LOG_WARN, "members_damaged", "why=%s",
			  log_quote(e->msg));
		return 0;
	}
	return rv ? err_wrap(e, "members") : 0;
}
