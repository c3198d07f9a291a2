/* The data folder of a founder of a cluster that goes on from a backup: same records,
 * same accounts and devices, same name and so the same proofs; other nodes, and another
 * epoch of the history, by which clients and nodes of the old one know that they are
 * not meant.
 *
 *   node.meta comes last: a folder with data and without it is opened by nobody
 *   per shard: the caller lays the files of a manifest into the folder of incarnation 1
 *              (the rows under the name RESTORE_ROWS), then restore_shard()
 *   journal:   a vote of the manifest's term and an INSTALL record for each shard
 *
 * All founders must be made of the same backup with the same founders and epoch: they
 * begin with equal replicas and no entry. */
#ifndef QUIPU_CONSENSUS_RESTORE_H
#define QUIPU_CONSENSUS_RESTORE_H

#include "base/clock.h"
#include "log/journal.h"
#include "log/kv.h"
#include "log/snapshot.h"

#define RESTORE_ROWS "rows.in"
#define RESTORE_INCARNATION 1u

struct restore_config {
	const uint64_t *founders; /* ids, 1..GROUP_VOTERS_MAX of them */
	unsigned n_founders;
	uint32_t epoch;           /* greater than the backup's */
};

/* The epoch that follows `old`: its count in the upper half, and 16 bits of the sum in
 * the lower, so that two restores from one backup differ. */
uint32_t restore_epoch(uint32_t old, const void *salt, size_t n);
/* Make the folder whole, durable and ready for store_open(): everything is read.
 * Changes `m` to what the folder is.  ERR_DAMAGED: the files are not what it said. */
int restore_shard(struct disk *disk, const struct kv_ops *kv, void *kv_arg,
		  const struct restore_config *rc, struct snap_manifest *m,
		  struct err *e);
/* The requests of one shard; submit both in this order, they stay put until their cb. */
void restore_requests(const struct snap_manifest *m, struct journal_req *vote,
		      struct journal_req *install);

#endif
