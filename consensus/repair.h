/* A damaged replica whose journal is intact is made whole from a peer (install.h has
 * the way of the bytes).  Internal to consensus/.
 *
 *   damaged replica                      a sound one, leader or not
 *   group and store closed
 *   ASK  shard, index           ------>  a checkpoint at that index or later
 *                               <------  OFFER manifest, then as any install
 *   checked, synced
 *   REPAIR or INSTALL record in the journal
 *   what was damaged to quarantine/
 *   opened on the new folder
 *
 * No promise is broken.  Term, vote and entries are in the journal, and the journal
 * is true: what was damaged is only what it can be applied to.  From the moment of the
 * finding the replica says nothing, neither votes nor acks.  What it had acked before
 * was counted by leaders, and still counts, so it must still be here afterwards: the
 * log stays as it is when the snapshot ends inside it (REPAIR), and is void only when
 * the snapshot has all of it, or proves that it is another branch (INSTALL), of which
 * nothing can be committed any more.  The snapshot is never below this journal's mark,
 * for below it entries may be gone.
 *
 * Where the journal itself is damaged votes and acks may be lost.  Such a replica is
 * not repaired: it stands aside until the group replaces it (decision 0015). */
#ifndef QUIPU_CONSENSUS_REPAIR_H
#define QUIPU_CONSENSUS_REPAIR_H

#include "log/disk.h"

#include <stdbool.h>
#include <stdint.h>

#define REPAIR_ASK_MS 1000      /* from one peer to the next */
#define REPAIR_ASKED_MS 10000   /* an asker that falls silent is forgotten */
#define REPAIR_KEPT_MAX 4       /* damaged folders in quarantine/ of a node */

/* After the type, little endian: shard u32, lowest index u64 */
enum { MSG_REPAIR_ASK = 52 };

/* What is wrong with a faulty replica. */
enum shard_fault {
	FAULT_NONE,
	FAULT_STATE, /* its folder: rows, segments; its journal is intact */
	FAULT_LOG,   /* its journal: what it promised may be lost */
};

struct repair_shard {
	uint64_t found_ms, ask_ms; /* damage seen; not before: next question */
	uint64_t asked;            /* the peer asked last */
	/* Of others that ask this replica: bits by id, what they need. */
	uint64_t askers, min, asked_ms;
};

struct node;
struct shard;
struct cursor;
struct snap_manifest;
struct journal_req;

/* Of a faulty shard, now and then: close it, ask for a snapshot. */
void repair_tick(struct shard *s, uint64_t now_ms);
/* Is the snapshot good for this faulty shard? */
bool repair_takes(const struct shard *s, const struct snap_manifest *m);
/* The journal's record that puts the folder of `incarnation` in force; the rest of
 * the request is the caller's. */
void repair_record(const struct shard *s, const struct snap_manifest *m,
		   uint32_t incarnation, struct journal_req *r);
/* Files of the folder go to quarantine/N-SSSS-I-NAME, where those of the last
 * REPAIR_KEPT_MAX folders are kept.  For the helper thread.  *n: the number given. */
int repair_keep(struct disk *d, uint32_t shard, uint32_t incarnation,
		unsigned *n, struct err *e);

/* How far it is, for people; empty: it is none. */
const char *repair_state(const struct shard *s);

void repair_on_ask(struct node *n, uint64_t peer, struct cursor *c);
/* Peers that wait for a snapshot of this sound shard; 0: none, or not yet (a
 * checkpoint comes first). */
uint64_t repair_askers(struct shard *s, uint64_t now_ms);
bool repair_wants_checkpoint(const struct shard *s);

#endif
