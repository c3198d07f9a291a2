/* Insides of struct node, shared by node.c, shard.c and rpc.c only. */
#ifndef QUIPU_CONSENSUS_NODE_IMPL_H
#define QUIPU_CONSENSUS_NODE_IMPL_H

#include "base/cursor.h"
#include "consensus/feature.h"
#include "consensus/install.h"
#include "consensus/members.h"
#include "consensus/placing.h"
#include "consensus/shard.h"
#include "consensus/steward.h"
#include "log/replicameta.h"

/* Types of messages between nodes, those of lead.c (of calls: rpc.c, of snapshots:
 * install.h); after it, little endian:
 *   LEADS  (shard u32, leader u64, term u64) repeated: who leads, as the sender knows
 *   SLOTS  nothing: the sender has no slot table
 *   SLOTS_ARE  epoch u32, shards u32, shard u16 of each slot */
enum lead_message {
	MSG_LEADS = 40,
	MSG_SLOTS = 46,
	MSG_SLOTS_ARE = 47,
};

/* What replica.c keeps. */
struct replicas {
	struct replicameta m;   /* as it is to be */
	uint64_t durable;       /* generation on the disk */
	bool writing;
	uint64_t retry_ms;
	struct disk_work work;
	struct disk *disk;
	struct replicameta out;
	int status;
	struct err err;
};

/* Types of messages between nodes of replica.c and change.c; after it:
 *   MAKE     shard u32: make an empty replica, the leader wants to add it
 *   CHANGE   id u64, shard u32, op u8 (group_change_op; 16: hand over), node u64,
 *            to_one u8
 *   CHANGED  id u64, status i32, why (to the end) */
enum change_message {
	MSG_MAKE = 41,
	MSG_CHANGE = 42,
	MSG_CHANGED = 43,
};

/* A call or subscription sent to a peer, by id.  ids: slot | generation << 20. */
#define REMOTE_SLOTS_MAX (1u << 20)

struct remote {
	void *what;       /* node_call or node_sub; NULL: free */
	uint64_t peer;
	uint32_t gen;
	uint32_t next_free;
	uint32_t shard;
	bool is_sub, is_query;
};

struct remotes {
	struct remote *slots;
	uint32_t cap, used, free_head; /* UINT32_MAX: none */
};

struct node {
	struct node_config cfg;
	struct node_env env;
	struct journal *journal;
	struct shard *shards;
	uint32_t n_shards;
	uint16_t slots[SLOTS];
	uint32_t slots_epoch;
	struct node_call init; /* of the slot table, by the leader of shard 0 */
	uint64_t slots_ask_ms; /* not before: who has no shard 0 asks the others */
	uint64_t slots_asked;  /* the peer asked last */
	bool init_asked;

	struct remotes remotes;
	struct map peer_followers; /* peer << 48 ^ id -> struct follower */
	/* Local calls whose callback is due (status without a result). */
	struct node_call *done_head, **done_tail;
	struct list ended; /* local subs whose end() is due */
	uint64_t calls, subs;

	struct members_node *members;
	struct placing *placing;
	struct list changes;    /* change.c's */
	uint64_t change_next;
	struct replicas replicas;

	struct steward *steward;
	struct snap_node snap;
	struct retain_node retain;
	struct feature_node feature;

	struct buf scratch, page;
	uint8_t nonces[4096]; /* drawn in one go: a syscall per 256 */
	unsigned nonces_left; /* bytes */
	struct record *recs;
	struct result *results;

	uint64_t turn_applied; /* bytes of entries in this turn */
	uint64_t tick_ms;   /* next housekeeping */
	uint32_t ckpt_shard; /* running, UINT32_MAX: none */
	uint64_t handover_ms, holds_ms, disk_ms;
	uint64_t up_since_ms[NET_NODE_MAX];
	bool leaving[NET_NODE_MAX]; /* it stops: no leadership for it */
	bool leads_due[NET_NODE_MAX]; /* it was not told what this node leads */
	enum level level;   /* of the disk, at the last look */
	uint64_t disk_free, disk_total;
	uint64_t disk_wrote, disk_next; /* bytes since then; so many: look again */
	enum level peer_level[NET_NODE_MAX];
	int told_level[NET_NODE_MAX]; /* -1: none yet on this link */
	uint32_t links[NET_NODE_MAX]; /* raised when one breaks */
	bool going;         /* node_leave() was called: no leadership for us */
	bool stopping, dead;
	bool deaf;          /* about to end: takes no messages any more */
	bool woken;         /* something was asked for since the last turn */
	bool backlogged;    /* followers of a peer wait for its link to drain */
	void (*left)(void *arg);
	void *left_arg;
	uint64_t left_begun_ms;
	void (*stop_done)(void *arg);
	void *stop_arg;
	uint64_t stop_deadline_ms;
};

/* Overlay of node_call.priv and node_sub.priv. */
struct call_priv {
	struct node_call *next;
	int status;
	uint32_t remote; /* slot + 1 when it is with a peer */
	uint64_t id;
};
struct sub_priv {
	struct list link;    /* node->ended */
	int why;
	uint32_t remote;     /* slot + 1 */
	uint64_t id;
	struct follower *follower; /* local */
	struct shard *shard;
};
_Static_assert(sizeof(struct call_priv) <= sizeof(((struct node_call *)0)->priv),
	       "call_priv fits");
_Static_assert(sizeof(struct sub_priv) <= sizeof(((struct node_sub *)0)->priv),
	       "sub_priv fits");

static inline struct call_priv *call_priv(struct node_call *c)
{
	return (struct call_priv *)(void *)c->priv;
}
static inline struct sub_priv *sub_priv(struct node_sub *s)
{
	return (struct sub_priv *)(void *)s->priv;
}

/* node.c */
void node_fatal(struct node *n, const struct err *e);
/* Queue the callback of a local call with a bare status. */
void node_call_finish(struct node *n, struct node_call *c, int status);
void node_sub_finish(struct node *n, struct node_sub *s, int why);
/* Run the callback of a call with its result. */
void node_call_result(struct node *n, struct node_call *c,
		      const struct result *r);
void node_slots_load(struct node *n);
void node_nonce(struct node *n, uint8_t out[16]);

/* node_disk.c */
void node_disk_tick(struct node *n, uint64_t now_ms);
void node_disk_look(struct node *n);
void node_disk_peer_up(struct node *n, uint64_t peer);
void node_disk_heard(struct node *n, uint64_t peer, unsigned l);
/* What each shard may take, from the levels of its voters. */
void node_disk_judge(struct node *n);
static inline void node_disk_wrote(struct node *n, uint64_t bytes)
{
	n->disk_wrote += bytes;
	if (n->disk_wrote + journal_grown(n->journal) > n->disk_next)
		node_disk_look(n);
}
/* 0; ERR_NOSPACE: the voters' disks are too full for it; ERR_BUSY: only this
 * leader's is, and another will lead soon. */
int node_disk_takes(const struct shard *s, enum cmd_type type);

/* rpc.c: answers to whoever waits, and messages of peers */
void waiter_answer(struct node *n, const struct waiter *w, int status,
		   const struct result *r);
void follower_start(struct node *n, struct follower *f, const struct result *r);
/* Records of one page: begin, add..., end. */
void follower_record(struct node *n, struct follower *f, const struct record *r);
/* ERR_FULL: the page is dropped, the link takes no more now. */
int follower_flush(struct node *n, struct follower *f);
void follower_end(struct node *n, struct follower *f, int why);

/* replica.c: replicas that are made and retired at run time. */
int replicas_open(struct node *n, struct err *e); /* before the shards */
void replicas_tick(struct node *n, uint64_t now_ms);
void replica_on_make(struct node *n, uint64_t peer, struct cursor *c);
void replica_ask(struct node *n, uint32_t shard, uint64_t peer);

/* change.c: changes of groups, asked for on any node. */
bool changes_done(struct node *n); /* tell who waits here */
void changes_gone(struct shard *s); /* its group runs no more */
void changes_on_down(struct node *n, uint64_t peer);
void changes_close(struct node *n);
/* True: the message was one of these. */
bool change_on_message(struct node *n, uint64_t peer, uint8_t type,
		       struct cursor *c);

/* lead.c: who leads what, and who should.
 *
 * The node that a call for the shard goes to; 0: unknown or not to be reached. */
uint64_t lead_of(struct node *n, struct shard *s);
/* The leader as far as known, connected or not. */
uint64_t lead_known(const struct shard *s, uint64_t *term);
/* `peer` was asked as the leader, and said `status`. */
void lead_was_wrong(struct node *n, uint32_t shard, uint64_t peer, int status);
void lead_begun(struct shard *s); /* this node leads it since now */
void lead_on_up(struct node *n, uint64_t peer);
void lead_on_down(struct node *n, uint64_t peer);
/* `peer` asked the wrong node: who is the right one? */
void lead_redirect(struct node *n, const struct shard *s, uint64_t peer);
void lead_tick(struct node *n, uint64_t now_ms);
/* True: the message was one of lead.c's. */
bool lead_on_message(struct node *n, uint64_t peer, uint8_t type,
		     struct cursor *c);
/* Could the peer lead the shard: up for so long, not leaving, near the end of the
 * log? */
bool node_peer_fit(struct node *n, struct shard *s, uint64_t peer,
		   uint64_t now_ms, uint64_t up_ms);
/* node_leave.c: begin transfers of what this node leads until at_once are under
 * way; what node_leave() waits for. */
void node_give_up(struct node *n, uint64_t now_ms, unsigned at_once);
void node_leave_look(struct node *n, uint64_t now_ms);
/* To one peer, or to all (0): no leadership for this node any more. */
void rpc_leaving(struct node *n, uint64_t peer);
int rpc_post(struct node *n, uint64_t peer); /* what is in n->scratch */
/* How full this node's disk is; 0, or ERR_ of the link. */
int rpc_level(struct node *n, uint64_t peer);
void rpc_on_up(void *arg, uint64_t peer);
void rpc_on_down(void *arg, uint64_t peer);
void rpc_on_message(void *arg, uint64_t peer, const uint8_t *p, size_t len);
void rpc_propose(struct node *n, struct shard *s, const struct cmd *cmd,
		 struct node_call *c);
void rpc_query(struct node *n, struct shard *s, const struct query *q,
	       struct node_call *c);
void rpc_subscribe(struct node *n, struct shard *s, struct node_sub *sub);
void rpc_sub_state(struct node *n, struct node_sub *sub, uint64_t acked,
		   uint32_t window, int paused);
void rpc_unsubscribe(struct node *n, struct node_sub *sub);
void rpc_forget_call(struct node *n, struct node_call *c);
void remotes_init(struct remotes *r);
void remotes_release(struct remotes *r);

#endif
