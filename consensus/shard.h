/* One shard on one node: its raft group, its store, its state machine, the
 * commands that wait and the devices that follow.  Internal to consensus/; others
 * use node.h.
 *
 *   propose -> forming batch -> entry -> group -> apply -> results to callers
 *                                                      -> records to followers
 *
 * Forming needs no timer: up to batch_inflight entries fly, what arrives
 * meanwhile is the next batch. */
#ifndef QUIPU_CONSENSUS_SHARD_H
#define QUIPU_CONSENSUS_SHARD_H

#include "base/list.h"
#include "base/map.h"
#include "consensus/machine.h"
#include "consensus/node.h"
#include "consensus/repair.h"

#define SHARD_INFLIGHT_MAX 32 /* entries of own batches un-applied */
#define SUB_PAGE_RECORDS 256  /* records of one device per round */
#define SUB_PAGE_BYTES (64u << 10)
/* A peer's queue above this makes its followers wait. */
#define SUB_NET_BACKLOG_MAX (4u << 20)

/* Who waits for the result of a command or query: a caller in this process, or
 * a call id of a peer. */
struct waiter {
	struct node_call *call; /* NULL: remote */
	uint64_t peer, id;
	uint32_t link;          /* node->links[peer] when it asked */
};

struct batch {
	struct buf bytes;      /* nonce + command, repeated */
	struct waiter *waiters;
	unsigned n, cap;
	struct entry *entry;   /* once submitted */
	uint64_t formed_us;    /* and when */
};

/* A device that follows its inbox, at the shard's leader. */
struct follower {
	struct list link;      /* shard->ready, when there is something to do */
	struct follower *next; /* of the same account */
	uint64_t account;
	uint64_t next_n, acked, end_known;
	uint64_t peer, id;     /* peer 0: a local sub */
	struct node_sub *local;
	struct shard *shard;   /* of remote ones */
	uint64_t born_ms;
	uint32_t device, window;
	bool again;            /* born_ms, again: as in node_sub */
	bool started, paused, closed;
	bool serving;          /* inside one of its callbacks */
};

struct read_wait {
	struct group_read read;
	struct list link;          /* shard->reads */
	struct shard *shard;
	struct waiter waiter;      /* a query, or */
	struct follower *follower; /* the start of a follower */
	struct query query;
};

/* A replica on its way out (replica.c). */
enum shard_going {
	SHARD_STAYS,
	SHARD_FREEZES, /* deaf; what works on its files comes to an end */
	SHARD_SAVES,   /* replicas.meta is told that it is gone */
	SHARD_FORGETS, /* so is the journal */
	SHARD_CLOSES,  /* what the group still waits for */
	SHARD_CLEARS,  /* its files are removed */
};

struct install;
struct snap_source;
struct snap_removal;

struct shard {
	struct node *node;
	uint32_t id;
	struct group *group;
	struct store *store;
	struct machine machine;
	enum group_role role;
	uint64_t leader, term;
	/* As leaders tell all peers (lead.c): who led it, in which term. */
	uint64_t heard_leader, heard_term;
	uint64_t guessed;      /* where nobody told: the peer asked last */
	bool faulty;
	bool absent;           /* no replica of it is here: no group, no store */
	uint64_t life;         /* of the replica (group.h) */
	enum shard_going going;
	bool making;           /* an empty one, when replicas.meta has its life */
	uint64_t meta_generation; /* of replicas.meta: that which says so */
	struct journal_req forget;
	enum shard_fault fault; /* in which way */
	enum level level;      /* of a majority of its voters' disks */
	char why[160];

	struct batch forming;
	struct batch inflight[SHARD_INFLIGHT_MAX]; /* ring */
	unsigned fly_head, fly_n;

	struct map followers;  /* account -> struct follower list */
	struct list ready;
	unsigned n_followers;
	struct list reads;     /* read_waits in the group */

	uint64_t deadline_ms;  /* the group's, cached */
	uint64_t durable_index, durable_term;
	uint64_t bytes_since_ckpt, ckpt_ms;
	uint64_t ckpt_retry_ms; /* the last one found a full disk: not before */
	uint64_t doomed_wait_ms; /* before one only for files that it is to remove */
	uint64_t stop_index;   /* applied when the node began to stop */
	uint64_t wanted_index; /* a backup waits for a checkpoint of it */
	struct journal_req mark;
	bool marking;
	struct install *install;    /* NULL: none, as nearly always */
	struct snap_source *source; /* what it ships to others */
	struct snap_removal *removal; /* of the folders before this one */
	uint64_t install_retry_ms, source_retry_ms; /* not before */
	bool install_bad;      /* the last one was damaged: copy nothing of ours */
	uint64_t handover_ms;  /* not before: next try to hand leadership on */
	struct retain_shard retain;
	struct repair_shard repair;
};

/* There is a replica here, and it is not damaged: it has a group and a store. */
static inline bool shard_works(const struct shard *s)
{
	return !s->faulty && !s->absent;
}
/* Are there other voters, by the last applied configuration? */
bool shard_has_peers(const struct shard *s);
/* Damage stops this replica, not the node; nothing is cut. */
void shard_leave(struct shard *s, enum shard_fault fault, const struct err *why);
/* Close group and store; nothing of theirs may be under way. */
void shard_shut(struct shard *s);
/* Close group and store, open them on what the journal says is in force now. */
void shard_reopen(struct shard *s);
/* Leave no group and no store behind: the shard is absent. */
void shard_end(struct shard *s);
void shard_begin(struct shard *s);
int shard_open(struct shard *s, struct node *n, uint32_t id, struct err *e);
void shard_close(struct shard *s);

/* The command goes into the forming batch; the waiter gets the result.  Returns 0
 * or ERR_ with the waiter not taken; ERR_FORMAT: not a command that apply takes. */
int shard_propose(struct shard *s, const void *cmd, size_t len,
		  const struct waiter *w);
int shard_query(struct shard *s, const struct query *q, const struct waiter *w);
/* f->account, device, next_n, window and target are set; start() or end() is
 * told later.  The shard owns f from here on. */
void shard_follow(struct shard *s, struct follower *f);
void shard_follower_wake(struct shard *s, struct follower *f);
/* Forget it without a word (the other side is gone or asked for it). */
void shard_unfollow(struct shard *s, struct follower *f);

/* One round of work: form and submit, apply, serve followers.  True when
 * something was done. */
bool shard_turn(struct shard *s);
void shard_refresh_deadline(struct shard *s);
/* Checkpoint if it is due; called while no other one runs on the disk. */
bool shard_checkpoint_due(const struct shard *s, uint64_t now_ms);
int shard_checkpoint_start(struct shard *s);
/* Tell the journal what is durable in rows and segments, if it does not know: it
 * learns of it last, and a crash may come between the two. */
void shard_mark(struct shard *s);

#endif
