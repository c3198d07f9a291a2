/* node.meta and node.meta.2: who this data folder belongs to (docs/format.md).  Two
 * equal copies of 512 bytes; one bad copy is written anew, two end the start. */
#ifndef QUIPU_LOG_NODEMETA_H
#define QUIPU_LOG_NODEMETA_H

#include "base/rand.h"
#include "log/disk.h"

#define NODEMETA_SIZE 512u
#define NODEMETA_VERSION 1

struct nodemeta {
	uint64_t node_id;
	uint8_t cluster_id[16];
	uint8_t disk_id[16];  /* random, made with the folder */
};

void nodemeta_encode(const struct nodemeta *m, uint8_t out[NODEMETA_SIZE]);
/* ERR_FORMAT, ERR_CHECKSUM, ERR_VERSION (newer: touch nothing) */
int nodemeta_decode(struct nodemeta *m, const uint8_t *p, size_t n,
		    struct err *e);
/* Make it in an empty folder, else check it against node and cluster in `m` and fill
 * the disk id.  ERR_CONFIG: the folder is another node's; ERR_VERSION; ERR_DAMAGED:
 * both copies are bad, or a folder with data has none. */
int nodemeta_open(struct disk *disk, struct nodemeta *m, struct rand *rand,
		  struct err *e);

#endif
