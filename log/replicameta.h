/* replicas.meta and replicas.meta.2: which shards have a replica in this data folder,
 * and under which life (docs/format.md, docs/decisions/0012).  There is none as long as
 * the founders' replicas are the only ones.  Two copies, written one after the other;
 * the one of the higher generation counts. */
#ifndef QUIPU_LOG_REPLICAMETA_H
#define QUIPU_LOG_REPLICAMETA_H

#include "log/disk.h"
#include "log/journal.h"

#define REPLICAMETA_SIZE 4608u
#define REPLICAMETA_VERSION 1

enum replica_state {
	REPLICA_UNTOLD = 0, /* as the node was born: a founder's, or none */
	REPLICA_HERE = 1,   /* made at run time: has a life */
	REPLICA_ABSENT = 2, /* gone; what lies there of it is to be removed */
};

struct replicameta {
	uint64_t generation; /* 0: no file yet */
	uint64_t node_id;
	uint8_t cluster_id[16];
	struct {
		enum replica_state state;
		uint64_t life; /* of REPLICA_HERE, never 0 */
	} shard[JOURNAL_SHARDS_MAX];
};

void replicameta_encode(const struct replicameta *m,
			uint8_t out[REPLICAMETA_SIZE]);
/* ERR_FORMAT, ERR_CHECKSUM, ERR_VERSION (newer: touch nothing) */
int replicameta_decode(struct replicameta *m, const uint8_t *p, size_t n,
		       struct err *e);
/* node_id and cluster_id are the caller's, the rest is filled; a bad or older copy is
 * written anew.  ERR_CONFIG: another node's; ERR_VERSION; ERR_DAMAGED: no copy is
 * good; ERR_NOSPACE, ERR_IO. */
int replicameta_open(struct disk *disk, struct replicameta *m, struct err *e);
/* Both copies, durable on return; for the helper thread. */
int replicameta_save(struct disk *disk, const struct replicameta *m,
		     struct err *e);

#endif
