#include "log/replicameta.h"
#include "base/bytes.h"
#include "base/hash.h"

#include <inttypes.h>
#include <string.h>

/*    0  8 magic QUIPURP1       8  4 version         12  4 length 4608
 *   16  8 generation          24 16 cluster id      40  8 node id
 *   64 16 each shard, 256: state u8, zero, life u64
 * 4600  8 XXH3-64 over 0..4599 */
#define SHARDS_AT 64u
#define ROW 16u
#define SUM_AT (REPLICAMETA_SIZE - 8)

_Static_assert(SHARDS_AT + JOURNAL_SHARDS_MAX * ROW <= SUM_AT, "all shards fit");

static const char *const copies[] = { "replicas.meta", "replicas.meta.2" };

void replicameta_encode(const struct replicameta *m,
			uint8_t out[REPLICAMETA_SIZE])
{
	uint32_t i;

	memset(out, 0, REPLICAMETA_SIZE);
	memcpy(out, "QUIPURP1", 8);
	put_u32(out + 8, REPLICAMETA_VERSION);
	put_u32(out + 12, REPLICAMETA_SIZE);
	put_u64(out + 16, m->generation);
	memcpy(out + 24, m->cluster_id, 16);
	put_u64(out + 40, m->node_id);
	for (i = 0; i < JOURNAL_SHARDS_MAX; i++) {
		out[SHARDS_AT + i * ROW] = (uint8_t)m->shard[i].state;
		put_u64(out + SHARDS_AT + i * ROW + 8, m->shard[i].life);
	}
	put_u64(out + SUM_AT, xxh3(out, SUM_AT));
}

int replicameta_decode(struct replicameta *m, const uint8_t *p, size_t n,
		       struct err *e)
{
	uint32_t i;

	memset(m, 0, sizeof *m);
	if (n < 16 || memcmp(p, "QUIPURP1", 8))
		return err_set(e, ERR_FORMAT, "not a replicas.meta file");
	/* Before the checksum: a later version may place it elsewhere. */
	if (get_u32(p + 8) > REPLICAMETA_VERSION)
		return err_set(e, ERR_VERSION,
			       "format version %u is newer than this program's "
			       "(%d); nothing was changed",
			       get_u32(p + 8), REPLICAMETA_VERSION);
	if (n != REPLICAMETA_SIZE || get_u32(p + 12) != REPLICAMETA_SIZE ||
	    get_u64(p + SUM_AT) != xxh3(p, SUM_AT))
		return err_set(e, ERR_CHECKSUM, "checksum mismatch");
	m->generation = get_u64(p + 16);
	memcpy(m->cluster_id, p + 24, 16);
	m->node_id = get_u64(p + 40);
	if (!get_u32(p + 8) || !m->generation)
		return err_set(e, ERR_FORMAT, "version or generation 0");
	for (i = 0; i < JOURNAL_SHARDS_MAX; i++) {
		uint8_t state = p[SHARDS_AT + i * ROW];
		uint64_t life = get_u64(p + SHARDS_AT + i * ROW + 8);

		if (state > REPLICA_ABSENT ||
		    (state == REPLICA_HERE) != (life != 0))
			return err_set(e, ERR_FORMAT,
				       "shard %u: state %u with life %016" PRIx64,
				       i, state, life);
		m->shard[i].state = (enum replica_state)state;
		m->shard[i].life = life;
	}
	return 0;
}

static int read_copy(struct disk *d, const char *path, struct replicameta *m,
		     struct err *e)
{
	uint8_t bytes[REPLICAMETA_SIZE + 1];
	struct disk_file *f;
	size_t got;
	int rv = d->ops->open(d, path, DISK_READ, &f, e);

	if (rv)
		return rv;
	rv = d->ops->pread(f, bytes, sizeof bytes, 0, &got, e);
	d->ops->close(f);
	if (!rv)
		rv = replicameta_decode(m, bytes, got, e);
	return rv ? err_wrap(e, "%s", path) : 0;
}

static int write_copy(struct disk *d, const char *path,
		      const struct replicameta *m, struct err *e)
{
	uint8_t bytes[REPLICAMETA_SIZE];
	struct iovec iov = { bytes, sizeof bytes };
	struct disk_file *f;
	int rv;

	replicameta_encode(m, bytes);
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

int replicameta_save(struct disk *disk, const struct replicameta *m,
		     struct err *e)
{
	int rv = write_copy(disk, copies[0], m, e);

	return rv ? rv : write_copy(disk, copies[1], m, e);
}

int replicameta_open(struct disk *disk, struct replicameta *m, struct err *e)
{
	struct replicameta got[2];
	int rv[2], i;

	for (i = 0; i < 2; i++) {
		rv[i] = read_copy(disk, copies[i], &got[i], e);
		if (rv[i] == ERR_VERSION || rv[i] == ERR_IO ||
		    rv[i] == ERR_PERM)
			return rv[i];
	}
	if (rv[0] && rv[1]) {
		/* The second copy is begun when the first is durable: without
		 * it the power went while the first was made, of which nobody
		 * was told. */
		if (rv[1] != ERR_NOT_FOUND)
			return err_set(e, ERR_DAMAGED,
				       "no copy of replicas.meta is good; "
				       "nothing was changed");
		m->generation = 0;
		memset(m->shard, 0, sizeof m->shard);
		return 0;
	}
	i = rv[0] || (!rv[1] && got[1].generation > got[0].generation);
	if (got[i].node_id != m->node_id ||
	    memcmp(got[i].cluster_id, m->cluster_id, 16))
		return err_set(e, ERR_CONFIG,
			       "replicas.meta is of node %" PRIu64
			       " or of another cluster", got[i].node_id);
	*m = got[i];
	if (rv[!i] || got[!i].generation != m->generation)
		return write_copy(disk, copies[!i], m, e);
	return 0;
}
