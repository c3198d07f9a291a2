/* Insides of struct group, shared by raft_core.c, raft_boot.c, raft_disk.c,
 * raft_msg.c, raft_vote.c, raft_snap.c, raft_log.c, raft_read.c, raft_conf.c and
 * raft_change.c; raft.h stops here.
 *
 * One step, in this order:
 *   event -> raft_step() -> entries into the cache and, with term and vote, into
 *   one journal request -> messages out (held back while a term or vote of ours
 *   is not durable) -> commit index and committed configurations
 *
 * The numbers B1..B22 are bugs of libraft 0.22.1 (docs/decisions/0003). */
#ifndef QUIPU_CONSENSUS_RAFT_IMPL_H
#define QUIPU_CONSENSUS_RAFT_IMPL_H

#include "base/cursor.h"
#include "base/list.h"
#include "consensus/group.h"

#include <raft.h>

/* Memory ownership of raft_step changes with the next release, and the packaged
 * binaries have other structs. */
#if RAFT_VERSION_NUMBER != 2201
#error "the adapter is written for libraft 0.22.1 and no other release"
#endif
#ifndef RAFT__LEGACY_no
#error "libraft must be built with --enable-v0=no"
#endif

#define GROUP_AE_BYTES_MAX (1u << 20) /* payload of one message, save one entry */
#define GROUP_AE_ENTRIES_MAX 1024     /* entries of one message */
#define GROUP_HELD_MAX 1024           /* messages waiting for a vote's fsync */
#define GROUP_SUBMIT_MAX 64           /* entries of one group_submit() */
#define GROUP_RUN_APPLY_MAX 16        /* entries applied per group_run(); 2 MiB */
#define GROUP_TRAILING_MIN (2 * GROUP_INFLIGHT_MAX)
#define GROUP_DISK_RETRY_MS 10        /* the journal was full */
#define GROUP_CHANGE_LAG_MAX 64       /* entries that a new voter may be behind */

/* Message kinds, the byte after the group's message head */
enum group_msg {
	GM_APPEND = 1,
	GM_APPEND_RESULT = 2,
	GM_VOTE = 3,
	GM_VOTE_RESULT = 4,
	GM_TIMEOUT_NOW = 5,
	GM_PROBE = 6,
	GM_PROBE_RESULT = 7,
	GM_NEEDED = 8,
	GM_JOINING = 9,
	GM_REMOVED = 10,
};

/* Recent entries: a ring of references over [first, last]. */
struct raft_cache {
	struct entry **ring;
	size_t cap; /* power of two, or 0 */
	uint64_t first, last;
	size_t bytes, max_bytes;
};

/* One journal request: what one update wants on disk. */
struct disk_req {
	struct list link; /* group->reqs, oldest first */
	struct journal_req jr;
	struct group *g;
	bool submitted;
	uint64_t first;   /* index of entries[0] */
	unsigned count;   /* entries still valid: truncation shortens it */
	unsigned n;
	struct entry *entries[];
};

struct held_msg {
	struct list link;
	uint64_t peer;
	struct buf head;
	unsigned n;
	struct entry *entries[];
};

struct group_peer {
	/* Last AppendEntries sent, for B15 and B22.  Entries up to sent_upto
	 * went out in sent_term on the link as it stands. */
	uint64_t sent_term, sent_upto, sent_ms;
	uint64_t ae_ms, ae_term, ae_prev, ae_commit;
	bool ae_any;
	bool lag_reported;
	uint64_t offered; /* index of the snapshot that it was offered */
	uint64_t probe_seq; /* newest round answered in our term */
	uint64_t heard_ms;  /* the member there answered an append; 0: not yet */
	uint64_t short_ms;  /* since when it says that it lacks what it had acked */
	uint64_t joining;   /* life of the empty replica that asks to be added */
};

struct group_reads {
	struct group_read *head, **tail;
};

struct group {
	struct raft raft;
	struct group_config cfg;
	struct journal *journal;
	struct net *net;
	struct clock *clock;
	struct rand *rand;
	const struct group_ops *ops;
	void *arg;
	char addr[24];   /* of the sender of the message in the core */
	uint64_t lagging; /* bits of peers behind our log */
	bool tell;       /* the next leader how far we match */
	bool frozen, voided;
	bool broken;     /* a step failed: the group does nothing any more */
	uint64_t now_ms; /* never goes back */
	uint64_t hold_until_ms;
	uint64_t last_timeout_ms;
	bool hurried;    /* the leader's link broke: an early timeout is set */
	uint64_t heard_leader_ms;

	/* Entries */
	struct raft_cache cache;
	uint64_t trail_first; /* lowest index whose term the core knows */
	uint64_t snap_index, snap_term;
	uint64_t *changes;    /* indexes of changes above the commit index */
	unsigned n_changes, cap_changes;
	/* What the running event brings: update.entries points into in_raft. */
	const struct raft_entry *in_raft;
	struct entry **in_entries;
	unsigned in_n;
	bool in_batch; /* the core was given a batch that it may leave to us */

	/* Disk */
	struct list reqs;
	unsigned votes_pending, n_waiting;
	uint64_t durable; /* all entries up to here are in our journal */
	struct list held;
	unsigned n_held;

	/* Messages */
	struct buf out;
	struct group_peer peers[NET_NODE_MAX];
	uint64_t prevote_from; /* a pre-vote of a lower term is in the core */

	/* Progress as the owner sees it */
	uint64_t commit, applied, applied_term;
	enum group_role told_role;
	uint64_t told_term, told_leader;
	uint64_t lead_index; /* raft.md rule 20: L */
	bool was_leader;

	/* Reads */
	struct group_reads reads_new, reads_probing, reads_ok, reads_failed;
	uint64_t probe_seq, probe_index, probe_ms;

	uint64_t needed; /* as the leader last told; 0: it has not */

	/* Transfer */
	uint64_t xfer_to, xfer_deadline_ms;
	bool xfer_sent;

	/* Membership */
	struct group_conf conf; /* the last applied one */
	bool was_member;     /* a configuration had this replica in it */
	/* Up to where somebody had applied all, and was left with one that has
	 * not got it. */
	uint64_t removed_at, removed_term;
	struct group_change *chg, *chg_before;
	uint64_t chg_index, chg_term; /* 0: not submitted yet */
	bool chg_applied, chg_ended;
	int chg_status;

	uint64_t elections, terms_led, dropped_stale, dropped_rej, resent;
	uint64_t dropped_strange; /* answers of replicas that are no members */
};

/* raft_core.c */
int core_step(struct group *g, struct raft_event *ev);
void update_role(struct group *g); /* after a step that changed the state */
void changes_add(struct group *g, uint64_t index);
void leader_forget(struct group *g);
void group_break(struct group *g, const char *why);
uint64_t group_now(struct group *g);
static inline bool group_leads(const struct group *g)
{
	return !g->broken && g->raft.state == RAFT_LEADER;
}

/* raft_conf.c */
const char *raft_addr(char out[24], uint64_t id);
const char *conf_addr(char out[24], uint64_t id, uint64_t life);
unsigned conf_voters(const struct raft_configuration *c);
bool conf_has_voter(const struct raft_configuration *c, uint64_t id);
bool conf_has(const struct raft_configuration *c, uint64_t id, uint64_t life);
/* By the newest configuration this very replica is the only voter. */
bool conf_lone(const struct group *g);
void conf_view(struct group_conf *out, uint64_t index,
	       const struct raft_configuration *c);
bool conf_view_has(const struct group_conf *c, uint64_t id, uint64_t life);
/* Is this the core's encoding of a configuration that we can live with? */
bool conf_valid(const uint8_t *p, size_t n);
void conf_copy(struct raft_configuration *out,
	       const struct raft_configuration *c);
struct entry *conf_entry(uint32_t shard, const struct raft_configuration *c);

/* raft_change.c */
struct group_since { /* the entry that made a replica a member */
	uint64_t index, term; /* term 0: unknown */
};
uint64_t conf_newest_index(const struct group *g);
bool change_wants_run(const struct group *g);
void change_run(struct group *g);
bool peer_is(const struct group *g, uint64_t id, uint64_t life);
bool self_is_member(const struct group *g);
bool self_votes(const struct group *g); /* by the newest configuration here */
void conf_applied(struct group *g, const struct entry *e);
void on_joining_heard(struct group *g, uint64_t from, uint64_t life,
		      const struct group_since *since, bool joins);
void on_removed_heard(struct group *g, uint64_t life, uint64_t index,
		      uint64_t term);

/* raft_disk.c */
void disk_write(struct group *g, bool vote, uint64_t truncate_from,
		struct entry *const *entries, unsigned n);
void disk_retry(struct group *g);
void disk_release(struct group *g);

/* raft_msg.c */
void msg_send(struct group *g, const struct raft_message *m);
void msg_send_probe(struct group *g, uint64_t peer);
void msg_held_flush(struct group *g);
void msg_release(struct group *g);
void msg_begin(struct group *g, enum group_msg kind);
bool msg_post(struct group *g, uint64_t peer, struct entry *const *es,
	       unsigned n);
void msg_life_put(struct group *g);
uint64_t msg_life_get(struct cursor *c);
int msg_refuse(struct err *e, uint64_t from, const char *what);
int msg_receive(struct group *g, uint64_t from, struct raft_message *m);
void msg_send_joining(struct group *g, uint64_t peer,
		      const struct group_since *since, bool joins);
void msg_send_removed(struct group *g, uint64_t peer, uint64_t life);

/* raft_vote.c */
int on_vote(struct group *g, uint64_t from, struct cursor *c, struct err *e);
int on_vote_result(struct group *g, uint64_t from, struct cursor *c,
		   struct err *e);
int on_timeout_now(struct group *g, uint64_t from, struct cursor *c,
		   struct err *e);
void calm_down(struct group *g);

/* raft_log.c */
void raft_cache_init(struct raft_cache *c, size_t max_bytes, uint64_t next);
void raft_cache_release(struct raft_cache *c);
void raft_cache_append(struct raft_cache *c, struct entry *e); /* own reference */
void raft_cache_truncate(struct raft_cache *c, uint64_t from);
void raft_cache_evict(struct raft_cache *c, uint64_t upto);
struct entry *raft_cache_get(const struct raft_cache *c, uint64_t index);
/* New reference, from memory or the journal; NULL when neither has it. */
struct entry *log_get(struct group *g, uint64_t index);
uint64_t log_term(const struct group *g, uint64_t index); /* 0: unknown */
void log_evict(struct group *g);

/* raft_read.c */
void reads_init(struct group_reads *q);
void reads_fail(struct group *g, struct group_reads *q, int status);
void reads_on_probe_result(struct group *g, uint64_t from, uint64_t term,
			   uint64_t seq);
bool reads_want_run(const struct group *g);
void reads_run(struct group *g);
void reads_resend(struct group *g, uint64_t peer); /* 0: all */
void transfer_poll(struct group *g);

#endif
