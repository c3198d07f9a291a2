/* Which disk each peer came with: the guard against a node that lost its disk and
 * comes back under its old number, with promises that it no longer knows of.
 *
 * The first disk that a peer shows is written down, before the peer is let in, and no
 * other one is let in from then on, until an operator has approved a replacement that
 * joins (known_approve).  So a founder with an empty disk reaches nobody who knows it,
 * and no vote of it is ever heard.  When it learns that it is refused, it refuses all
 * others too, for good: two that lost their disks must not make a cluster of their own.
 *
 * `known` and `known.2` in the data folder: two equal copies (docs/format.md).  One
 * file of the node; one thread; writes wait for the disk, and are rare. */
#ifndef QUIPU_CONSENSUS_KNOWN_H
#define QUIPU_CONSENSUS_KNOWN_H

#include "consensus/link.h"
#include "log/disk.h"
#include "log/nodemeta.h"

#define KNOWN_SIZE 4096u
#define KNOWN_VERSION 1
#define KNOWN_ROWS 64 /* where they begin, and bytes of one */
#define KNOWN_ROW 32

struct known_peer {
	uint8_t disk_id[16];
	bool seen;       /* disk_id and joined are of the disk that may come */
	bool joined;
	bool any;        /* approved: the next disk that joins takes its place */
	uint64_t serial; /* of the last approval */
};

struct known {
	struct disk *disk;
	uint64_t self, founders; /* bits; 0: this node joined and does not know */
	uint8_t cluster_id[16];
	uint64_t seq;            /* of the copies: the higher one is newer */
	uint64_t refused_by;     /* a peer that turned this disk away; 0: none */
	struct known_peer peers[NET_NODE_MAX];
};

/* As the folder has it; a bad copy is written anew.  Made where nothing is yet: in a
 * folder without data (so whoever makes a folder calls this before data is in it), and
 * in one of node.meta version 1, whose program knew nobody.  ERR_DAMAGED: both copies
 * are bad or gone, and the disks of the others cannot be told from the ones they had;
 * nothing was changed. */
int known_open(struct known *k, struct disk *disk, const struct nodemeta *m,
	       struct err *e);

/* May a peer come with this disk?  0: yes; known_admit() also writes it down.  ERR_PERM: another
 * one is known.  ERR_FAULTY: this node's own disk was refused.  Or the disk's error.
 * disk_id NULL: it says none (an older version), good for one that never said one. */
int known_check(const struct known *k, uint64_t id, const uint8_t disk_id[16],
		bool joined, struct err *e);
int known_admit(struct known *k, uint64_t id, const uint8_t disk_id[16],
		bool joined, struct err *e);
/* A peer refused this node's disk: true where that ends all talk, durably. */
bool known_refused(struct known *k, uint64_t by);

/* An operator replaces node `id`: from now on this disk is the one that may come, or
 * with NULL the next one that does; only as one that joins, for nothing else makes up
 * for what was lost.  Approvals are numbered by who gives them, from 1 on: one that is
 * not above the last is an old one and changes nothing.  0, or the disk's error. */
int known_approve(struct known *k, uint64_t id, const uint8_t disk_id[16],
		  uint64_t serial, struct err *e);

/* The cluster says which disk node `id` has: written down where this node has not met
 * it yet, so that it need not be believed at first sight.  0, or the disk's error. */
int known_learn(struct known *k, uint64_t id, const uint8_t disk_id[16], bool joined,
		struct err *e);

/* known_admit() and known_refused() for a link. */
struct link_admit known_link_admit(struct known *k);

void known_encode(const struct known *k, uint8_t out[KNOWN_SIZE]);
/* ERR_FORMAT, ERR_CHECKSUM, ERR_VERSION (newer: touch nothing).  disk and founders
 * stay as they are. */
int known_decode(struct known *k, const uint8_t *p, size_t n, struct err *e);

#endif
