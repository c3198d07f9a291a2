/* All shards of a process, and the way to those that are led elsewhere: what the
 * gateway sees of the log.  One thread; sans-I/O beneath its vtables, so the
 * simulator runs the same code.
 *
 * The owner calls node_turn() once per loop turn (before it blocks) and
 * node_tick() at node_deadline_us(). Callbacks come only from these two, never
 * from inside a call made into the node. */
#ifndef QUIPU_CONSENSUS_NODE_H
#define QUIPU_CONSENSUS_NODE_H

#include "base/clock.h"
#include "base/rand.h"
#include "consensus/cmd.h"
#include "consensus/group.h"
#include "consensus/level.h"
#include "consensus/net.h"
#include "consensus/reconcile.h"
#include "consensus/retain.h"
#include "log/disk.h"
#include "log/journal.h"
#include "log/kv.h"
#include "log/nodemeta.h"
#include "log/store.h"

#define NODE_CALLS_MAX 65536  /* calls in flight through one node; then busy */
#define NODE_SUBS_MAX 262144  /* subscriptions served by one node */
#define SLOTS 16384

struct node;

struct node_config {
	uint64_t id;
	uint8_t cluster_id[16];
	/* The founders, who make the groups of a new cluster; the configurations of
	 * the groups say who is in them since.  Any node that `net` reports up is a
	 * peer, also one that is not among these. */
	uint64_t members[GROUP_VOTERS_MAX];
	unsigned n_members;
	/* Where they wait for peers, to be entered in the meta shard (members.h);
	 * all NULL: it has no table of nodes.  Read during node_open() only. */
	const char *addresses[GROUP_VOTERS_MAX];
	uint8_t disk_id[16];   /* of the data folder; zeros: not to be entered */
	bool joined;           /* not a founder: it begins with no replica at all */
	uint32_t shards;       /* 0: 16 for one member, 64 for more */
	unsigned election_ms, heartbeat_ms;
	struct journal_config journal;
	struct store_config store;
	uint64_t checkpoint_bytes, checkpoint_age_ms;
	uint32_t batch_bytes, batch_records, batch_inflight;
	struct level_config level;
	uint64_t snapshot_rate; /* bytes a second, 0: the default */
	struct retain_config retain;
	struct reconcile_config placement;
	/* The folder's own, as nodemeta_open() found or made it: the node keeps the
	 * level and the epoch in it.  node_id 0: there is none. */
	struct nodemeta meta;
	bool feature_auto;     /* this node, when it leads, raises the level */
	uint32_t feature_max;  /* below FEATURE_MAX: behave like a program that knows
				  no more (tests, emergencies); 0: FEATURE_MAX */
};

struct node_env {
	struct disk *disk;
	const struct kv_ops *kv;
	void *kv_arg;
	struct net *net;       /* NULL on a single node */
	struct clock *clock;
	struct rand *rand;
	/* A failed write or sync, a shard that met an unknown command: the
	 * process must end.  Never returns control to the node in real life;
	 * the simulator crashes the node. */
	void (*fatal)(void *arg, const struct err *e);
	void *fatal_arg;
};

int node_open(struct node **out, const struct node_config *cfg,
	      const struct node_env *env, struct err *e);
/* The first half of an orderly stop: hand leaderships over, a few at a time, and
 * take none, while everything goes on; done() from node_tick() when this node leads
 * nothing and knows who does, after 5 s at the latest. */
void node_leave(struct node *n, void (*done)(void *arg), void *arg);
/* Stop proposing, hand leaderships over, checkpoint, then done(). */
void node_stop(struct node *n, void (*done)(void *arg), void *arg);
/* After node_stop's done(), or for a simulated crash at any time. */
void node_close(struct node *n);

void node_turn(struct node *n);
uint64_t node_deadline_us(const struct node *n);
void node_tick(struct node *n);

uint32_t node_shards(const struct node *n);
/* slot = XXH3-64(id) mod 16,384, slot table -> shard */
uint32_t node_shard_of(const struct node *n, uint64_t id);
/* Every shard has a known leader, here or elsewhere, and this node's replicas are not
 * faulty. */
bool node_ready(const struct node *n);

/* ---- calls to a shard's leader, wherever it is ------------------------------ */

/* One try.  cb runs exactly once: status 0 and a decoded result (borrowed), or
 *   ERR_NOT_LEADER       nothing was done, try again soon (leader unknown)
 *   ERR_BUSY, ERR_FULL   nothing was done, retry later
 *   ERR_NOSPACE          nothing was done: the disks of a majority are too full for
 *                        it (level.h); later
 *   ERR_UNAVAILABLE      no way to the leader; nothing was done
 *   ERR_UNKNOWN_OUTCOME  may or may not have been done: retry the same command
 *   ERR_FORMAT           the command is malformed
 * The struct is the caller's and stays put until cb; node_call_cancel() gives it
 * back earlier (then no cb; the outcome is unknown). */
struct node_call {
	void (*cb)(struct node_call *c, int status, const struct result *r);
	void *arg;
	void *priv[8];
};
void node_propose(struct node *n, uint32_t shard, const struct cmd *cmd,
		  struct node_call *c);
/* Linearizable: sees everything acked before the call. */
void node_query(struct node *n, uint32_t shard, const struct query *q,
		struct node_call *c);
void node_call_cancel(struct node *n, struct node_call *c);

/* ---- following an inbox ------------------------------------------------------ */

/* A live device as a reader of its inbox at the shard's leader.  start() comes
 * first (what the account and device look like, linearizable), then records in
 * order of n from `from` on, as long as n <= acked + window; flush() ends each
 * run of records (write them out then).  end() is the last callback:
 *   ERR_NOT_LEADER, ERR_UNAVAILABLE  subscribe again from the next number
 *   ERR_EXISTS     a newer session of the same device has taken over
 *   ERR_PERM       the device was removed, or never existed
 *   ERR_NOT_FOUND  no such account
 *   ERR_TRUNCATED  history starts later: oldest in start()'s result next time */
struct node_sub {
	uint64_t account;
	uint32_t device;
	uint32_t window;       /* records beyond `acked` that may be sent */
	uint64_t from;         /* first number wanted; 0: after the kept cursor */
	/* When its session began (wall clock, ms), and whether it goes on after
	 * its leader was lost.  A device has one live subscription: a new
	 * session takes over always; one that goes on does not take over from a
	 * session that began later, or a dead connection would end a live one. */
	uint64_t born_ms;
	bool again;
	void (*start)(struct node_sub *s, const struct result *r);
	void (*record)(struct node_sub *s, const struct record *r);
	void (*flush)(struct node_sub *s);
	void (*end)(struct node_sub *s, int why);
	void *arg;
	void *priv[8];
};
void node_subscribe(struct node *n, uint32_t shard, struct node_sub *s);
/* Move the flow window: everything <= acked was received; a new window size. */
void node_sub_credit(struct node *n, struct node_sub *s, uint64_t acked,
		     uint32_t window);
/* Do not send now / go on (socket buffer full / drained). */
void node_sub_pause(struct node *n, struct node_sub *s, bool paused);
/* No more callbacks. */
void node_unsubscribe(struct node *n, struct node_sub *s);

/* ---- for operators ------------------------------------------------------------ */

struct node_shard_info {
	uint32_t shard;
	struct group_info raft;
	struct store_stats store;
	uint64_t records, clock, digest;
	uint8_t root[32];
	uint64_t durable_index;
	uint32_t subs;
	bool present;          /* a replica is here; else only raft.leader and
				  raft.term, as far as known */
	bool faulty;
	/* Of a faulty one: its journal is damaged, so it has to be replaced; else
	 * it is being repaired: how far that is. */
	bool amnesiac;
	char repair[12];
	char why[160];
};
void node_shard_info(struct node *n, uint32_t shard, struct node_shard_info *out);
struct node_info {
	/* The founders, this node and who is connected, ascending. */
	uint64_t id, members[NET_NODE_MAX];
	bool member_up[NET_NODE_MAX];
	enum level member_level[NET_NODE_MAX]; /* as last heard */
	unsigned n_members;
	uint32_t shards, present, led, faulty;
	uint64_t calls, subs, dirty_bytes;
	enum level level;                /* this node's disk */
	uint64_t disk_free, disk_total;  /* bytes, at the last look */
	struct journal_stats journal;
};
void node_info(struct node *n, struct node_info *out);
/* What this replica keeps; content, live and held are bytes of the leader's last
 * look (0 elsewhere). */
struct node_retain_info {
	bool enabled, leader;
	uint64_t trimmed;      /* first record that is kept */
	uint64_t records, segments, bytes;
	uint64_t content, live, held;
	uint64_t doomed, waiting; /* files to be removed, segments to be rewritten */
	uint64_t freed;        /* bytes, since the start */
	uint64_t ttl_ms;
};
void node_retain_info(struct node *n, uint32_t shard,
		      struct node_retain_info *out);
int node_transfer(struct node *n, uint32_t shard, uint64_t to);
/* Take this node's replica of the shard for damaged and have it made anew from another
 * one.  0: it has begun, or had already.  ERR_BUSY: it leads (it is being handed over)
 * or takes a snapshot: again soon.  ERR_NOT_FOUND; ERR_INVALID: no other node, or its
 * journal is damaged. */
int node_repair(struct node *n, uint32_t shard, struct err *e);

/* ---- who is in a shard's group -------------------------------------------------- */

/* One step, from any node: it goes to the shard's leader (group.h, group_change()).
 * cb runs once, from node_turn() or node_tick():
 *   0                    done; of a hand-over: begun
 *   ERR_BUSY             later.  ADD of a node without an empty replica of the shard
 *                        has it make one, and is to be asked again
 *   ERR_UNKNOWN_OUTCOME  look at what is in force, and go on from there
 *   others               as for group_change(), or ERR_UNAVAILABLE: no way to the
 *                        leader
 * All steps may be repeated: what is so already is ERR_EXISTS or ERR_NOT_FOUND.  A
 * replica that was removed retires by itself: its files go, the shard is absent.
 * `why` is a text, empty with 0.  The struct is the caller's and stays put until cb. */
struct node_change_call {
	void (*cb)(struct node_change_call *c, int status, const char *why);
	void *arg;
};
void node_change(struct node *n, uint32_t shard, enum group_change_op op,
		 uint64_t id, bool to_one, struct node_change_call *c);
/* Hand leadership over to a voter. */
void node_transfer_to(struct node *n, uint32_t shard, uint64_t to,
		      struct node_change_call *c);
struct node_feature_info {
	uint32_t level;        /* in force, as this node knows it (feature.h) */
	uint32_t max;          /* of this node's program */
	uint32_t possible;     /* of all members: what `raise` can reach */
	uint32_t epoch;        /* of the history: what clients are told */
	bool automatic;
	uint64_t lacking;      /* bits of members that hold `possible` down: not up, or
				  older than this node */
	uint32_t peer_max[NET_NODE_MAX]; /* 0: not heard */
};
void node_feature_info(struct node *n, struct node_feature_info *out);
/* ---- backup: the files of a shard, to be copied from the data folder --------- */

struct snap_manifest;
struct node_backup_info {
	uint32_t incarnation;  /* of the folder with the files */
	const struct snap_manifest *manifest; /* borrowed until the next turn */
	const uint8_t *bytes;  /* the same, encoded */
	size_t len;
};
/* A snapshot of this node's replica as of `index` or later (QUERY_MARK says which
 * index has what was acknowledged before it): 0, and its files stay as they are until
 * node_backup_end() or 30 s without another call of this; ERR_AGAIN: ask again soon;
 * ERR_NOT_FOUND: no sound replica here; ERR_NOSPACE, ERR_UNAVAILABLE. */
int node_backup(struct node *n, uint32_t shard, uint64_t index,
		struct node_backup_info *out, struct err *e);
void node_backup_end(struct node *n, uint32_t shard);

/* Of the history, as clients are told; 1 unless it was restored from a backup. */
uint32_t node_epoch(const struct node *n);

#endif
