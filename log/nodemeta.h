/* node.meta and node.meta.2: who this data folder belongs to (docs/format.md).  Two
 * equal copies of 512 bytes; one bad copy is written anew, two end the start. */
#ifndef QUIPU_LOG_NODEMETA_H
#define QUIPU_LOG_NODEMETA_H

#include "base/rand.h"
#include "log/disk.h"

#define NODEMETA_SIZE 512u
#define NODEMETA_VERSION 2

struct nodemeta {
	uint32_t version;     /* of the file; 0: this program's */
	uint64_t node_id;
	uint8_t cluster_id[16];
	uint8_t disk_id[16];  /* random, made with the folder */
	/* Since version 2; a folder of version 1 stays what it is until
	 * nodemeta_save(), so that the program before this one can have it back. */
	bool joined;          /* the node came to a cluster that was there */
	uint32_t feature_level;
	uint64_t history_epoch;
	uint64_t founders;    /* bits by id of who made the groups; 0: it joined */
	uint32_t shards;      /* of the cluster; 0: not known */
};

void nodemeta_encode(const struct nodemeta *m, uint8_t out[NODEMETA_SIZE]);
/* ERR_FORMAT, ERR_CHECKSUM, ERR_VERSION (newer: touch nothing) */
int nodemeta_decode(struct nodemeta *m, const uint8_t *p, size_t n,
		    struct err *e);
/* In an empty folder: make it, as `m` says, with a disk id of its own, and `made` is
 * true.  Else check it against node and cluster in `m` and fill the rest from the
 * folder, which knows better than a configuration that has changed since; founders
 * and shards stay where version 1 has none.  ERR_CONFIG: the folder is another node's;
 * ERR_VERSION; ERR_DAMAGED: both copies are bad, or a folder with data has none. */
int nodemeta_open(struct disk *disk, struct nodemeta *m, struct rand *rand,
		  bool *made, struct err *e);
/* Both copies anew, in this program's version: what `m` says, durable on return. */
int nodemeta_save(struct disk *disk, struct nodemeta *m, struct err *e);

#endif
