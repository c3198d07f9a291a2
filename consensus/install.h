/* Bringing up a replica that is behind the journals of all others, by a snapshot
 * (log-engine 9; bytes in log/snapshot.h).  Internal to consensus/.
 *
 *   leader                            follower
 *   lagging peer seen
 *   export (helper thread)
 *   OFFER manifest         ------->   wanted?  make the folder of incarnation n+1
 *                          <-------   GET file, place        (a window of them)
 *   DATA, at its rate      ------->   written as they come
 *                                     checked, synced        (helper thread)
 *                                     group deaf, INSTALL in the journal
 *                                     group and store closed, opened on n+1
 *                          <-------   append result: all below is matched
 *
 * The follower goes on as what it is until the INSTALL record: it votes, and its
 * journal stays true.  The core of raft is never told to install (decision 0003): a
 * replica that has installed is one that was started anew.  A broken link goes on
 * where it was; after a crash segments that lie there are not fetched again, and a
 * newer manifest uses those of the one before. */
#ifndef QUIPU_CONSENSUS_INSTALL_H
#define QUIPU_CONSENSUS_INSTALL_H

#include "consensus/shard.h"

#define SNAP_CHUNK (256u << 10)      /* bytes of one message */
#define SNAP_WINDOW (8 * SNAP_CHUNK) /* asked for and not here, per install */
#define SNAP_RATE (64u << 20)        /* bytes a second that a node ships */
#define SNAP_INSTALLS_MAX 4          /* of one node at a time */
#define SNAP_SOURCES_MAX 8           /* row streams that a node keeps */
#define SNAP_GETS_MAX 256            /* questions that wait for the rate */

/* Types of messages between nodes; after it, little endian:
 *   OFFER  manifest
 *   GET    shard u32, manifest u64, file u32, length u32, place u64
 *   DATA   shard u32, manifest u64, file u32, place u64, bytes
 *   GONE   shard u32, manifest u64 */
enum snap_message {
	MSG_SNAP_OFFER = 32,
	MSG_SNAP_GET = 33,
	MSG_SNAP_DATA = 34,
	MSG_SNAP_GONE = 35,
};

struct snap_get {
	uint64_t peer, id, off;
	uint32_t shard, file, len;
};

/* What a node has of both sides. */
struct snap_node {
	unsigned installs, sources;
	unsigned works;          /* on the helper thread */
	struct snap_get gets[SNAP_GETS_MAX]; /* ring */
	unsigned gets_head, gets_n;
	uint64_t due_ms;         /* snap_tick() */
	uint64_t rate, tokens, tokens_us;
	uint64_t installed, served_bytes;
	struct buf out;
};

struct node;
struct cursor;

/* True: the message was one of these. */
bool snap_on_message(struct node *n, uint64_t peer, uint8_t type,
		     struct cursor *c);
void snap_on_up(struct node *n, uint64_t peer);
void snap_tick(struct node *n, uint64_t now_ms);
/* When node_tick() is due for this, ms; UINT64_MAX: at its own pace. */
uint64_t snap_deadline_ms(const struct node *n);
/* The shard is about to change its folder: no checkpoint, no mark. */
bool install_holds(const struct shard *s);
/* What it is doing, for people; NULL: nothing. */
const char *install_state(const struct shard *s);
/* After a simulated crash or an orderly stop: no work is running. */
void snap_close(struct shard *s);
/* The replica goes.  true: nothing of both sides is left. */
bool snap_gone(struct shard *s);
/* What folders of earlier incarnations hold is removed, on the helper thread. */
void snap_clean(struct shard *s, uint32_t incarnation);

/* source.c, for install.c's dispatch */
void source_on_get(struct node *n, uint64_t peer, struct cursor *c);
void source_tick(struct shard *s, uint64_t now_ms);
void source_serve(struct node *n);
void source_drop(struct shard *s);
bool source_busy(const struct shard *s);

#endif
