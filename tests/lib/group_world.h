/* A simulated cluster of raft groups: the real group.h over the real journal, on
 * simulated disks, network and time.  What every run is checked for, whatever
 * it does (a violation prints the seed and aborts):
 *
 *   - at most one leader in a term
 *   - all nodes apply the same entries at the same indexes, each once per life
 *   - an entry that is applied anywhere is durable on a majority of the voters of a
 *     configuration that was in force about then, by their lives
 *   - a read index is never below what a client was told before it asked
 *
 * The store is imitated by a checkpoint that survives crashes: (index, term). */
#ifndef QUIPU_TESTS_LIB_GROUP_WORLD_H
#define QUIPU_TESTS_LIB_GROUP_WORLD_H

#include "consensus/group.h"
#include "tests/lib/disk_sim.h"
#include "tests/lib/net_sim.h"

#define GW_NODES 7
#define GW_SHARD 3

struct gw_config {
	unsigned nodes;
	unsigned founders; /* nodes 1.. that make the group; 0: all */
	uint64_t seed;
	unsigned election_ms, heartbeat_ms; /* 0: the group's defaults */
	size_t cache_bytes;
	uint64_t ring_bytes;    /* of the journal; 0: more than is ever needed */
	uint64_t checkpoint_ms; /* 0: none; else now and then, and the journal
				 * forgets what all nodes have */
	struct net_sim_config net;
	struct disk_sim_config disk;
	bool verbose;
};

struct gw;

struct gw_node {
	struct gw *w;
	unsigned id;
	struct disk_sim *medium;
	bool alive;
	uint64_t life; /* counts starts */
	uint64_t name; /* of its replica: what a configuration calls life */
	bool holds;    /* it has a replica at all */
	struct journal_req install;
	bool installing;
	uint32_t incarnation;
	struct rand rand;
	struct disk *disk;
	struct journal *journal;
	struct net *net;
	struct group *group;

	enum group_role role;
	uint64_t term, leader;
	uint64_t applied, applied_term;
	uint64_t timer_us; /* of the armed event, UINT64_MAX: none */
	/* Survives crashes */
	uint64_t ckpt_index, ckpt_term;
	struct journal_req mark;
	bool marking;
	uint64_t mark_index, mark_term, marked;
	/* What was durable when it died: terms of [1, dead_last]. */
	uint64_t *dead_terms, dead_last;
};

struct gw_stats {
	uint64_t leaders, applied, submitted, refused, reads_ok, reads_failed;
	uint64_t crashes, installs;
};

#define GW_CONFS_MAX 1024
#define GW_OLD_MEDIA_MAX 256

struct gw {
	struct gw_config cfg;
	struct sim sim;
	struct net_sim *net;
	struct gw_node n[GW_NODES + 1]; /* 1.. */
	struct gw_entry {
		uint64_t term, hash;
	} *history; /* by index */
	uint64_t last, cap_history; /* last index applied anywhere */
	uint64_t told;              /* highest index whose client has an answer */
	struct gw_conf {
		uint64_t index;
		uint8_t bytes[512];
		uint32_t len;
	} confs[GW_CONFS_MAX];      /* all that were applied anywhere */
	unsigned n_confs;
	struct group_conf conf;     /* the last of them */
	struct disk_sim *old[GW_OLD_MEDIA_MAX];
	unsigned n_old;
	unsigned *leader_of;        /* by term */
	uint64_t cap_terms;
	uint64_t next_id;
	struct gw_stats stats;
};

extern const struct net_sim_config gw_net_calm;

void gw_init(struct gw *w, const struct gw_config *cfg); /* nothing started */
void gw_release(struct gw *w);
void gw_start(struct gw *w, unsigned node);
void gw_start_all(struct gw *w);
/* power: unsynced bytes may be lost and peers learn late; else only the process
 * ends. */
void gw_crash(struct gw *w, unsigned node, bool power);

/* A replica that joins is made on a node that has none, on a new disk; what was
 * there before is gone. */
void gw_join(struct gw *w, unsigned node);
/* Is the replica there a member of the newest configuration applied anywhere? */
bool gw_is_member(const struct gw *w, unsigned node);

void gw_run_ms(struct gw *w, uint64_t ms);
/* true as soon as cond() holds, false after max_ms. */
bool gw_run_until(struct gw *w, bool (*cond)(struct gw *w), uint64_t max_ms);

/* Node that leads in the highest term of the living, 0: none. */
unsigned gw_leader(const struct gw *w);
bool gw_has_leader(struct gw *w);
/* A leader exists and all living members have applied its whole log. */
bool gw_settled(struct gw *w);
/* n commands of `bytes` payload; the group's answer. */
int gw_submit(struct gw *w, unsigned node, unsigned n, unsigned bytes);
void gw_read(struct gw *w, unsigned node);
/* After gw_settled, when the last entry is of the leader's own term: every entry
 * of every living node's log is the same and there are no others.  (The leader
 * of a quiet group lets uncommitted ends of older terms be.) */
void gw_check_logs(struct gw *w);

void gw_fail(const struct gw *w, const char *fmt, ...)
	__attribute__((format(printf, 2, 3), noreturn));

#endif
