#include "log/nodemeta.h"
#include "base/bytes.h"
#include "base/hash.h"

#include <inttypes.h>
#include <string.h>

/*   0  8 magic QUIPUNM1       8  4 version         12  4 length 512
 *  16  8 node id             24 16 cluster id      40 16 disk id
 * since version 2, zero before:
 *  56  4 flags, 1: joined    60  4 feature level   64  8 history epoch
 *  72  8 founders            80  4 shards
 * 504  8 XXH3-64 over 0..503 */

#define JOINED 1u

static const char *const copies[] = { "node.meta", "node.meta.2" };

void nodemeta_encode(const struct nodemeta *m, uint8_t out[NODEMETA_SIZE])
{
	uint32_t version = m->version ? m->version : NODEMETA_VERSION;

	memset(out, 0, NODEMETA_SIZE);
	memcpy(out, "QUIPUNM1", 8);
	put_u32(out + 8, version);
	put_u32(out + 12, NODEMETA_SIZE);
	put_u64(out + 16, m->node_id);
	memcpy(out + 24, m->cluster_id, 16);
	memcpy(out + 40, m->disk_id, 16);
	if (version >= 2) {
		put_u32(out + 56, m->joined ? JOINED : 0);
		put_u32(out + 60, m->feature_level);
		put_u64(out + 64, m->history_epoch);
		put_u64(out + 72, m->founders);
		put_u32(out + 80, m->shards);
	}
	put_u64(out + 504, xxh3(out, 504));
}

int nodemeta_decode(struct nodemeta *m, const uint8_t *p, size_t n,
		    struct err *e)
{
	if (n < 16 || memcmp(p, "QUIPUNM1", 8))
		return err_set(e, ERR_FORMAT, "not a node.meta file");
	/* Before the checksum: a later version may place it elsewhere. */
	if (get_u32(p + 8) > NODEMETA_VERSION)
		return err_set(e, ERR_VERSION,
			       "format version %u is newer than this program's "
			       "(%d); nothing was changed",
			       get_u32(p + 8), NODEMETA_VERSION);
	if (n != NODEMETA_SIZE || get_u32(p + 12) != NODEMETA_SIZE ||
	    get_u64(p + 504) != xxh3(p, 504))
		return err_set(e, ERR_CHECKSUM, "checksum mismatch");
	memset(m, 0, sizeof *m);
	m->version = get_u32(p + 8);
	m->node_id = get_u64(p + 16);
	memcpy(m->cluster_id, p + 24, 16);
	memcpy(m->disk_id, p + 40, 16);
	if (m->version == 0)
		return err_set(e, ERR_FORMAT, "format version 0");
	if (m->version < 2)
		return 0;
	if (get_u32(p + 56) & ~JOINED)
		return err_set(e, ERR_FORMAT, "unknown flags %x",
			       get_u32(p + 56));
	m->joined = get_u32(p + 56) & JOINED;
	m->feature_level = get_u32(p + 60);
	m->history_epoch = get_u64(p + 64);
	m->founders = get_u64(p + 72);
	m->shards = get_u32(p + 80);
	return 0;
}

static int read_copy(struct disk *d, const char *path, struct nodemeta *m,
		     struct err *e)
{
	uint8_t bytes[NODEMETA_SIZE + 1];
	struct disk_file *f;
	size_t got;
	int rv = d->ops->open(d, path, DISK_READ, &f, e);

	if (rv)
		return rv;
	rv = d->ops->pread(f, bytes, sizeof bytes, 0, &got, e);
	d->ops->close(f);
	if (!rv)
		rv = nodemeta_decode(m, bytes, got, e);
	return rv ? err_wrap(e, "%s", path) : 0;
}

static int write_copy(struct disk *d, const char *path,
		      const struct nodemeta *m, struct err *e)
{
	uint8_t bytes[NODEMETA_SIZE];
	struct iovec iov = { bytes, sizeof bytes };
	struct disk_file *f;
	int rv;

	nodemeta_encode(m, bytes);
	rv = d->ops->open(d, path, DISK_WRITE | DISK_CREATE, &f, e);
	if (rv)
		return rv;
	rv = d->ops->pwritev(f, &iov, 1, 0, e);
	if (!rv)
		rv = d->ops->fdatasync(f, e);
	d->ops->close(f);
	if (!rv)
		rv = d->ops->fsync_dir(d, "", e);
	return rv;
}

static void see_name(void *arg, const char *name, bool is_dir)
{
	bool *data = arg;

	if (is_dir && (!strcmp(name, "journal") || !strcmp(name, "shards")))
		*data = true;
}

int nodemeta_save(struct disk *disk, struct nodemeta *m, struct err *e)
{
	int rv;

	m->version = NODEMETA_VERSION;
	rv = write_copy(disk, copies[0], m, e);
	return rv ? rv : write_copy(disk, copies[1], m, e);
}

int nodemeta_open(struct disk *disk, struct nodemeta *m, struct rand *rand,
		  bool *made, struct err *e)
{
	struct nodemeta got[2], *it;
	uint8_t bytes[2][NODEMETA_SIZE];
	bool data = false;
	int rv[2], i, err;

	*made = false;
	for (i = 0; i < 2; i++) {
		rv[i] = read_copy(disk, copies[i], &got[i], e);
		if (rv[i] == ERR_VERSION || rv[i] == ERR_IO ||
		    rv[i] == ERR_PERM)
			return rv[i];
	}
	if (rv[0] && rv[1]) {
		err = disk->ops->list(disk, "", see_name, &data, e);
		if (err)
			return err;
		/* The second copy is written when the first is durable.  Without
		 * it and without data, the power went while this node was made. */
		if (data || rv[1] != ERR_NOT_FOUND)
			return err_set(e, ERR_DAMAGED,
				       "node.meta is %s, but the folder is not "
				       "new; nothing was changed",
				       rv[0] == ERR_NOT_FOUND ? "missing"
							      : "damaged");
		rand_fill(rand, m->disk_id, sizeof m->disk_id);
		*made = true;
		return nodemeta_save(disk, m, e);
	}
	it = &got[rv[0] ? 1 : 0];
	if (it->node_id != m->node_id)
		return err_set(e, ERR_CONFIG,
			       "the data is of node %" PRIu64
			       ", the configuration says node %" PRIu64,
			       it->node_id, m->node_id);
	if (memcmp(it->cluster_id, m->cluster_id, 16))
		return err_set(e, ERR_CONFIG,
			       "the data is of another cluster than the "
			       "configuration says");
	if (it->version < 2) {
		it->founders = m->founders;
		it->shards = m->shards;
	}
	*m = *it;
	if (rv[0])
		return write_copy(disk, copies[0], m, e);
	/* The first is written first: where they differ, it is the newer one. */
	nodemeta_encode(m, bytes[0]);
	if (!rv[1]) {
		nodemeta_encode(&got[1], bytes[1]);
		if (!memcmp(bytes[0], bytes[1], NODEMETA_SIZE))
			return 0;
	}
	return write_copy(disk, copies[1], m, e);
}
