/* One raft group as the shard sees it: entries in, commits out.  Behind it stand
 * raft_core.c (the one caller of raft_step), raft_disk.c (votes and entries to
 * log/journal), raft_msg.c (messages to peers), raft_log.c (recent entries in
 * memory, older ones from the journal), raft_change.c (who is in the group).  All
 * rules of raft.md section 8 live there, each with the number of the bug it guards
 * against.
 *
 * Nothing here calls back from inside a call that the owner makes into it, save
 * where a comment says so; callbacks come from group_run(), which the owner
 * calls once per loop turn and group that wants it (group_wants_run). */
#ifndef QUIPU_CONSENSUS_GROUP_H
#define QUIPU_CONSENSUS_GROUP_H

#include "base/clock.h"
#include "base/rand.h"
#include "consensus/net.h"
#include "log/entry.h"
#include "log/journal.h"

#include <stdbool.h>

#define GROUP_VOTERS_MAX 9
#define GROUP_MEMBERS_MAX 18     /* voters and standbys */
#define GROUP_INFLIGHT_MAX 256 /* raft entries un-acked per follower */

enum group_role { GROUP_FOLLOWER, GROUP_CANDIDATE, GROUP_LEADER };

/* First payload byte of an entry (= raft's entry type) */
enum group_entry_type { GROUP_COMMAND = 1, GROUP_BARRIER = 2, GROUP_CHANGE = 3 };

struct group;

/* One replica.  `life` tells it from other replicas of the shard that this node
 * has had or will have: 0 for the founders, which were made with the group, else
 * 64 random bits, drawn when the empty replica was made (docs/decisions/0010). */
struct group_member {
	uint64_t id, life;
	bool voter; /* else a standby: it gets the log and counts for nothing */
};
struct group_conf {
	uint64_t index; /* of its entry; 0: none yet (a replica that joins) */
	unsigned n;
	struct group_member members[GROUP_MEMBERS_MAX]; /* in the order of joining */
};

struct group_config {
	uint32_t shard;
	uint64_t self;
	uint64_t life;         /* 0: a founder.  Else the group is born empty and
				  asks the others to be added */
	unsigned election_ms;  /* default 1000, the same on every node */
	unsigned heartbeat_ms; /* default 100 */
	size_t cache_bytes;    /* recent entries kept in memory; default 2 MiB */
};

/* What the shard's durable state says at start. */
struct group_boot {
	uint64_t applied_index, applied_term; /* 0, 0: a new group */
	/* Of a new group the first configuration, which becomes entry 1
	 * (identical on every node). */
	uint64_t voters[GROUP_VOTERS_MAX];
	unsigned n_voters;
	/* The last applied configuration and the index of its entry: the entry's
	 * payload behind the type byte.  Length 0: the first one. */
	const void *conf;
	uint32_t conf_len;
	uint64_t conf_index;
};

struct group_ops {
	/* Entry `e` is committed; strictly ascending indexes, each once per
	 * process life, from boot.applied_index + 1.  Borrowed: take a
	 * reference to keep it.  Includes barriers and changes. */
	void (*apply)(void *arg, struct entry *e);
	/* Role, term or leader changed.  leader 0: unknown.  When role becomes
	 * GROUP_LEADER, entries proposed in older terms may still commit; when
	 * it ceases, outcomes of own uncommitted entries are unknown. */
	void (*state)(void *arg, enum group_role role, uint64_t term,
		      uint64_t leader);
	/* NULL, or told right after apply() of a change: the configuration that
	 * is in force from there on. */
	void (*conf)(void *arg, const struct group_conf *c);
};

/* Loads term, vote and entries of the shard from the journal.  A new group of
 * one voter (itself) leads at once.  ERR_FAULTY: the journal says rot, or it
 * lacks what was applied or promised.  ERR_DAMAGED: the state lacks what was durable,
 * and the journal starts behind applied_index + 1. */
int group_open(struct group **out, const struct group_config *cfg,
	       const struct group_boot *boot, struct journal *journal,
	       struct net *net, struct clock *clock, struct rand *rand,
	       const struct group_ops *ops, void *arg, struct err *e);
/* Journal requests in flight must have come back (journal_idle). */
void group_close(struct group *g);

/* A message of this group from `from`: the bytes after the node's message header
 * (see GROUP_MSG_HEAD).  Malformed bytes: ERR_PROTOCOL, the link is closed. */
int group_receive(struct group *g, uint64_t from, const uint8_t *p, size_t n,
		  struct err *e);
/* A new link to `peer`: messages of the old one no longer count. */
void group_peer_up(struct group *g, uint64_t peer);
void group_peer_down(struct group *g, uint64_t peer);

/* Timers: when the next timeout is due (monotonic ms), and the call for it. */
uint64_t group_deadline_ms(const struct group *g);
void group_timeout(struct group *g);

/* Deliver what calls and completions have queued: commits to apply(), state().
 * Owner calls it while group_wants_run(). */
bool group_wants_run(const struct group *g);
void group_run(struct group *g);

/* Propose entries (type byte set by the caller; term and index are given here).
 * Takes over the caller's references on success.  ERR_NOT_LEADER, ERR_BUSY (window
 * or journal full, or a transfer is going on): nothing taken. */
int group_submit(struct group *g, struct entry **entries, unsigned n);
/* How many more entries may be submitted now. */
unsigned group_room(const struct group *g);

/* Linearizable read (read index, raft.md rule 20): cb(arg, 0, index) once this
 * node has confirmed that it led after the call began; the reader then waits for
 * apply of `index` (cb is called only when it is applied).  Else ERR_NOT_LEADER
 * or ERR_UNAVAILABLE.  Many reads share one probe round.  A lone voter answers
 * from group_run without a probe. */
struct group_read {
	void (*cb)(struct group_read *r, int status, uint64_t index);
	void *arg;
	struct group_read *next; /* the group's */
	uint64_t priv[3];
};
void group_read_index(struct group *g, struct group_read *r);

/* Hand leadership to `to` (rule 16): stops submits, waits for its log, transfers;
 * gives up after an election timeout.  ERR_NOT_LEADER, ERR_BUSY, ERR_NOT_FOUND. */
int group_transfer(struct group *g, uint64_t to);

/* ---- membership (raft_change.c, docs/decisions/0010) ---------------------------- */

/* One step, by the leader.  A replacement is ADD, then PROMOTE once the standby has
 * the log, then REMOVE of the old one: add first, then remove. */
enum group_change_op {
	GROUP_ADD,     /* as a standby: the empty replica that asked for it there */
	GROUP_PROMOTE, /* a standby whose log is near the end becomes a voter */
	GROUP_DEMOTE,  /* a voter becomes a standby */
	GROUP_REMOVE,  /* a voter or a standby leaves */
};
/* The struct is the caller's and stays put until cb, which runs once, from
 * group_run():
 *   0                    committed and applied here; a promoted voter has it too
 *   ERR_NOT_LEADER, ERR_BUSY, ERR_INVALID   nothing was done (what held when it was
 *                        accepted held no more when its turn came)
 *   ERR_TIMEOUT          promoted; a demotion or removal of the same node has taken
 *                        over before it was heard of
 *   ERR_UNKNOWN_OUTCOME  leadership was lost: go on from what is in force then
 *   ERR_UNAVAILABLE      the group stopped */
struct group_change {
	enum group_change_op op;
	uint64_t id;
	bool to_one; /* DEMOTE, REMOVE: this may leave a single voter */
	void (*cb)(struct group_change *c, int status);
	void *arg;
};
/* 0: accepted, cb will come.  Else nothing was done, and e says why:
 *   ERR_NOT_LEADER
 *   ERR_BUSY       later: another change or a transfer is under way, the journal
 *                  is full, the standby is behind or silent, or too few of the
 *                  voters that it would leave are heard of
 *   ERR_NOT_FOUND  no such member; for ADD: no empty replica there has asked
 *   ERR_EXISTS     it is so already
 *   ERR_INVALID    the leader itself (transfer first), the last voter but one
 *                  without to_one, the last one, too many members, no node id */
int group_change(struct group *g, struct group_change *c, struct err *e);
/* The last applied configuration. */
const struct group_conf *group_conf(const struct group *g);
/* This replica was a member, and a committed configuration without it is known, by
 * its own log or from another replica that knows more.  It may go. */
bool group_removed(const struct group *g);
/* Tell the others that this empty replica waits to be added, or ask whether it was
 * removed; now and then.  Nothing where all is well. */
void group_tell_joining(struct group *g);
/* The configuration of a group's founders, as a store's meta row has it. */
void group_conf_founders(const uint64_t *ids, unsigned n, struct buf *out);
/* A configuration as an entry or a store's meta row has it (behind the type byte).
 * ERR_FORMAT. */
int group_conf_decode(struct group_conf *out, uint64_t index, const void *p,
		      size_t n);

/* The applied state up to `index` is durable: entries below may be dropped from
 * memory and, at the journal's pace, from disk (raft SNAPSHOT with trailing). */
void group_durable(struct group *g, uint64_t index, uint64_t term);

/* ---- snapshots (consensus/install.h) ------------------------------------------ */

/* Peers (bits by id) that need entries which this leader's log has no more; asking
 * forgets them, and they are found again while it lasts. */
uint64_t group_take_lagging(struct group *g);
/* Does the core go on from `index` without a snapshot?  It forgets the term of what
 * lies right before its first entry when it takes a newer snapshot. */
bool group_leads_on(const struct group *g, uint64_t index);
/* The peer was offered a snapshot at `index`: what follows it is needed. */
void group_offered(struct group *g, uint64_t peer, uint64_t index);
/* Would a snapshot of committed state at (index, term) bring this node forward?
 * Not where its log has that entry: what follows may be promised already. */
bool group_wants_snapshot(const struct group *g, uint64_t index, uint64_t term);
/* Tell a leader how far this log is sure to agree with its own: all that is
 * committed and durable here.  Ends its waiting for an install. */
void group_tell_matched(struct group *g, uint64_t peer);
/* The same, at the first word of a leader. */
void group_tell_at_contact(struct group *g);
/* Deaf to messages and timers; of its own accord it writes nothing more.  After
 * group_void() nothing that is on its way counts any more: an install has taken its
 * place; group_quiet() when all of it has come back.  For a group that is about to be closed. */
void group_freeze(struct group *g, bool on);
void group_void(struct group *g);
bool group_quiet(const struct group *g);
/* It serves no more, and is frozen: reads fail at the next group_run(), a change is
 * given back without a word.  Also inside of its callbacks. */
void group_stop(struct group *g);

struct group_info {
	enum group_role role;
	uint64_t term, leader, last_index, commit_index, applied_index;
	uint64_t match[GROUP_VOTERS_MAX], voters[GROUP_VOTERS_MAX];
	unsigned n_voters; /* voters of the newest configuration, also uncommitted */
	struct group_conf conf; /* the newest, also uncommitted */
	uint64_t member_match[GROUP_MEMBERS_MAX]; /* as known to the leader */
	bool conf_committed;
	uint64_t joiners; /* bits of ids: empty replicas that ask to be added */
	bool changing;    /* a change is under way */
	bool removed;
	bool transferring;
	uint64_t elections, terms_led, dropped_stale, dropped_rej, resent;
};
void group_info(const struct group *g, struct group_info *out);
/* Lowest index that any voter still needs from the leader's log; 0: not known yet.
 * For journal_hold(). */
uint64_t group_needed_index(const struct group *g);
/* A leader tells its followers what it is; now and then. */
void group_tell_needed(struct group *g);

/* Every message between nodes starts with one byte NODE_MSG_*; a group's then
 * has the shard (u32), and group_receive gets what follows. */
#define NODE_MSG_GROUP 1
#define GROUP_MSG_HEAD 5

#endif
