#include "consensus/known.h"
#include "base/assert.h"
#include "base/bytes.h"
#include "base/hash.h"
#include "base/logf.h"

#include <inttypes.h>
#include <string.h>

/*    0  8 magic QUIPUKN1      8  4 version        12  4 length 4096
 *   16  8 sequence           24  8 node id        32 16 cluster id
 *   48  8 refused by (node id; 0: nobody)         56  8 zero
 *   64 32 for each node id 0..63:
 *          0 16 disk id   16  4 flags   20  4 zero   24  8 serial
 * 2112    zero
 * 4088  8 XXH3-64 over 0..4087 */

#define SUM (KNOWN_SIZE - 8)

enum { SEEN = 1, JOINED = 2, ANY = 4, ALL_FLAGS = 7 };

static const char *const copies[] = { "known", "known.2" };

void known_encode(const struct known *k, uint8_t out[KNOWN_SIZE])
{
	unsigned i;

	memset(out, 0, KNOWN_SIZE);
	memcpy(out, "QUIPUKN1", 8);
	put_u32(out + 8, KNOWN_VERSION);
	put_u32(out + 12, KNOWN_SIZE);
	put_u64(out + 16, k->seq);
	put_u64(out + 24, k->self);
	memcpy(out + 32, k->cluster_id, 16);
	put_u64(out + 48, k->refused_by);
	for (i = 0; i < NET_NODE_MAX; i++) {
		const struct known_peer *p = &k->peers[i];
		uint8_t *row = out + KNOWN_ROWS + i * KNOWN_ROW;

		memcpy(row, p->disk_id, 16);
		put_u32(row + 16, (p->seen ? SEEN : 0) | (p->joined ? JOINED : 0) |
				  (p->any ? ANY : 0));
		put_u64(row + 24, p->serial);
	}
	put_u64(out + SUM, xxh3(out, SUM));
}

int known_decode(struct known *k, const uint8_t *p, size_t n, struct err *e)
{
	unsigned i;

	if (n < 16 || memcmp(p, "QUIPUKN1", 8))
		return err_set(e, ERR_FORMAT, "not a file of known peers");
	if (get_u32(p + 8) > KNOWN_VERSION)
		return err_set(e, ERR_VERSION,
			       "format version %u is newer than this program's "
			       "(%d); nothing was changed",
			       get_u32(p + 8), KNOWN_VERSION);
	if (n != KNOWN_SIZE || get_u32(p + 12) != KNOWN_SIZE ||
	    get_u64(p + SUM) != xxh3(p, SUM))
		return err_set(e, ERR_CHECKSUM, "checksum mismatch");
	for (i = 0; i < NET_NODE_MAX; i++)
		if (get_u32(p + KNOWN_ROWS + i * KNOWN_ROW + 16) & ~(uint32_t)ALL_FLAGS)
			return err_set(e, ERR_FORMAT, "unknown flags of node %u",
				       i);
	k->seq = get_u64(p + 16);
	k->self = get_u64(p + 24);
	memcpy(k->cluster_id, p + 32, 16);
	k->refused_by = get_u64(p + 48);
	for (i = 0; i < NET_NODE_MAX; i++) {
		const uint8_t *row = p + KNOWN_ROWS + i * KNOWN_ROW;
		uint32_t flags = get_u32(row + 16);

		memcpy(k->peers[i].disk_id, row, 16);
		k->peers[i].seen = flags & SEEN;
		k->peers[i].joined = flags & JOINED;
		k->peers[i].any = flags & ANY;
		k->peers[i].serial = get_u64(row + 24);
	}
	return 0;
}

/* ---- the two copies --------------------------------------------------------- */

static int read_copy(struct known *k, const char *path, struct err *e)
{
	uint8_t bytes[KNOWN_SIZE + 1];
	struct disk *d = k->disk;
	struct disk_file *f;
	size_t got;
	int rv = d->ops->open(d, path, DISK_READ, &f, e);

	if (rv)
		return rv;
	rv = d->ops->pread(f, bytes, sizeof bytes, 0, &got, e);
	d->ops->close(f);
	if (!rv)
		rv = known_decode(k, bytes, got, e);
	return rv ? err_wrap(e, "%s", path) : 0;
}

static int write_copy(const struct known *k, const char *path, struct err *e)
{
	uint8_t bytes[KNOWN_SIZE];
	struct iovec iov = { bytes, sizeof bytes };
	struct disk *d = k->disk;
	struct disk_file *f;
	int rv;

	known_encode(k, bytes);
	rv = d->ops->open(d, path, DISK_WRITE | DISK_CREATE, &f, e);
	if (rv)
		return rv;
	rv = d->ops->pwritev(f, &iov, 1, 0, e);
	if (!rv)
		rv = d->ops->fdatasync(f, e);
	d->ops->close(f);
	if (!rv)
		rv = d->ops->fsync_dir(d, "", e);
	return rv ? err_wrap(e, "%s", path) : 0;
}

/* In place, one after the other: one of them is whole at any time. */
static int save(struct known *k, struct err *e)
{
	int rv;

	k->seq++;
	rv = write_copy(k, copies[0], e);
	return rv ? rv : write_copy(k, copies[1], e);
}

/* What the disk has not taken is not known: the old row comes back, and the next
 * save writes it over what may have got there. */
static int save_peer(struct known *k, uint64_t id, const struct known_peer *now,
		     struct err *e)
{
	struct known_peer was = k->peers[id];
	int rv;

	k->peers[id] = *now;
	rv = save(k, e);
	if (rv)
		k->peers[id] = was;
	return rv;
}

static void see_name(void *arg, const char *name, bool is_dir)
{
	bool *data = arg;

	if (is_dir && (!strcmp(name, "journal") || !strcmp(name, "shards")))
		*data = true;
}

static int begin(struct known *k, const struct nodemeta *m, const int rv[2],
		 struct err *e)
{
	bool gone = rv[0] == ERR_NOT_FOUND && rv[1] == ERR_NOT_FOUND;
	bool data = false;
	int err = k->disk->ops->list(k->disk, "", see_name, &data, e);

	if (err)
		return err;
	/* Without data, the power went while this node was made. */
	if (data && !(gone && m->version < 2))
		return err_set(e, ERR_DAMAGED, "the files `known` and `known.2` "
			       "are %s: this node cannot tell a peer that lost "
			       "its disk from the one it was; nothing was "
			       "changed", gone ? "gone" : "damaged");
	return save(k, e);
}

int known_open(struct known *k, struct disk *disk, const struct nodemeta *m,
	       struct err *e)
{
	struct known got[2];
	int rv[2], i, err = 0;

	memset(k, 0, sizeof *k);
	k->disk = disk;
	k->self = m->node_id;
	k->founders = m->founders;
	memcpy(k->cluster_id, m->cluster_id, 16);
	for (i = 0; i < 2; i++) {
		got[i] = *k;
		rv[i] = read_copy(&got[i], copies[i], e);
		if (rv[i] == ERR_VERSION || rv[i] == ERR_IO ||
		    rv[i] == ERR_PERM)
			return rv[i];
	}
	if (rv[0] && rv[1])
		return begin(k, m, rv, e);
	i = rv[0] || (!rv[1] && got[1].seq > got[0].seq) ? 1 : 0;
	if (got[i].self != k->self ||
	    memcmp(got[i].cluster_id, k->cluster_id, 16))
		return err_set(e, ERR_CONFIG, "%s: of another node or cluster "
			       "than node.meta", copies[i]);
	*k = got[i];
	if (rv[!i] || got[!i].seq != k->seq)
		err = write_copy(k, copies[!i], e);
	return err;
}

/* ---- who may come ------------------------------------------------------------ */

static int refuse_disk(uint64_t id, bool joined, struct err *e)
{
	if (joined)
		return err_set(e, ERR_PERM, "node %" PRIu64 " joins with another "
			       "disk than the one known here; to let it in: "
			       "quipuctl node replace %" PRIu64, id, id);
	return err_set(e, ERR_PERM, "node %" PRIu64 " came with another disk (an "
		       "empty one?): it may not vote; quipuctl node replace %"
		       PRIu64 ", and start it with --join on an empty folder",
		       id, id);
}

static bool same_disk(const struct known_peer *p, const uint8_t disk_id[16],
		      bool joined)
{
	return p->seen && !memcmp(p->disk_id, disk_id, 16) && p->joined == joined;
}

int known_check(const struct known *k, uint64_t id, const uint8_t disk_id[16],
		bool joined, struct err *e)
{
	const struct known_peer *p;

	AN(id > 0 && id < NET_NODE_MAX);
	p = &k->peers[id];
	if (k->refused_by)
		return err_set(e, ERR_FAULTY, "node %" PRIu64 " was refused by "
			       "node %" PRIu64 " for its disk and talks to "
			       "nobody", k->self, k->refused_by);
	if (!disk_id && p->seen)
		return err_set(e, ERR_PERM, "node %" PRIu64 " has named a disk "
			       "before and names none now: an older version is "
			       "not let in again", id);
	if (!disk_id || same_disk(p, disk_id, joined))
		return 0;
	if (p->any ? !joined : p->seen)
		return refuse_disk(id, joined, e);
	if (!p->seen && k->founders && !p->any &&
	    joined == (k->founders >> id & 1))
		return err_set(e, ERR_PERM, joined ?
			       "node %" PRIu64 " was to be there when the cluster "
			       "was made, and joins now: quipuctl node replace "
			       "%" PRIu64 " first" :
			       "node %" PRIu64 " was not there when the cluster "
			       "was made: start it with --join on an empty "
			       "folder (node %" PRIu64 ")", id, id);
	return 0;
}

int known_admit(struct known *k, uint64_t id, const uint8_t disk_id[16],
		bool joined, struct err *e)
{
	struct known_peer now = { .seen = true, .joined = joined };
	int rv = known_check(k, id, disk_id, joined, e);

	if (rv || !disk_id || same_disk(&k->peers[id], disk_id, joined))
		return rv;
	now.serial = k->peers[id].serial;
	memcpy(now.disk_id, disk_id, 16);
	rv = save_peer(k, id, &now, e);
	if (rv)
		return err_wrap(e, "node %" PRIu64 " cannot be written down", id);
	log_event(LOG_INFO, "peer_disk_known", "peer=%" PRIu64 " joined=%s", id,
		  joined ? "yes" : "no");
	return 0;
}

int known_learn(struct known *k, uint64_t id, const uint8_t disk_id[16], bool joined,
		struct err *e)
{
	struct known_peer now = { .seen = true, .joined = joined };

	if (id == 0 || id >= NET_NODE_MAX || id == k->self || k->peers[id].seen ||
	    k->peers[id].any)
		return 0;
	now.serial = k->peers[id].serial;
	memcpy(now.disk_id, disk_id, 16);
	return save_peer(k, id, &now, e);
}

bool known_refused(struct known *k, uint64_t by)
{
	struct err e = { 0, "" };

	/* Who joined has no replica that promised anything: it asks again until
	 * it is approved. */
	if (!k->founders)
		return false;
	if (k->refused_by)
		return true;
	k->refused_by = by;
	if (save(k, &e))
		log_event(LOG_ERROR, "known_not_saved", "why=%s",
			  log_quote(e.msg));
	return true;
}

int known_approve(struct known *k, uint64_t id, const uint8_t disk_id[16],
		  uint64_t serial, struct err *e)
{
	struct known_peer now = { .joined = true, .serial = serial };

	if (id == 0 || id >= NET_NODE_MAX)
		return err_set(e, ERR_INVALID, "node id %" PRIu64 " is not 1 to %d",
			       id, NET_NODE_MAX - 1);
	if (id == k->self || serial <= k->peers[id].serial ||
	    (disk_id && same_disk(&k->peers[id], disk_id, true)))
		return 0;
	if (disk_id) {
		now.seen = true;
		memcpy(now.disk_id, disk_id, 16);
	} else {
		/* Until then the old one may come, if it is not lost after all. */
		now = k->peers[id];
		now.any = true;
		now.serial = serial;
	}
	if (save_peer(k, id, &now, e))
		return err_wrap(e, "node %" PRIu64 " cannot be approved", id);
	log_event(LOG_INFO, "peer_disk_approved", "peer=%" PRIu64 " serial=%"
		  PRIu64, id, serial);
	return 0;
}

static int link_may(void *arg, uint64_t id, const uint8_t disk_id[16],
		    bool joined, struct err *e)
{
	return known_admit(arg, id, disk_id, joined, e);
}

static bool link_was_refused(void *arg, uint64_t id, const char *why)
{
	(void)why; /* the link has logged it */
	return known_refused(arg, id);
}

struct link_admit known_link_admit(struct known *k)
{
	return (struct link_admit){ link_may, link_was_refused, k };
}
