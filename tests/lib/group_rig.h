/* One group whose peers are the test: messages go in by hand, and what leaves is
 * kept.  Journal and disk are real and simulated as in group_world. */
#ifndef QUIPU_TESTS_LIB_GROUP_RIG_H
#define QUIPU_TESTS_LIB_GROUP_RIG_H

#include "consensus/raft_impl.h"
#include "tests/lib/disk_sim.h"

#define RIG_SHARD 7
#define RIG_SENT_MAX 4096

/* A message that left; fields as far as its kind has them. */
struct rig_msg {
	enum group_msg kind;
	uint64_t peer;
	uint64_t term, prev, prev_term, commit, last, last_term, rejected, seq;
	uint64_t life; /* of a result, of JOINING and REMOVED */
	uint32_t n;
	uint8_t flags;
};

struct rig {
	struct sim sim;
	struct disk_sim *medium;
	struct disk *disk;
	struct journal *journal;
	struct rand rand;
	struct net net; /* the vtable casts back */
	uint64_t self, life;
	unsigned voters;
	struct group_conf conf; /* as last told */
	unsigned n_confs;
	struct group *g;
	struct rig_msg sent[RIG_SENT_MAX];
	unsigned n_sent;
	uint64_t applied, down; /* down: bits of peers without a link */
	enum group_role role;
	uint64_t says_life;
	struct err err; /* of the last group_receive() */
};

/* A group of voters 1..n, self = 1, as new; the disk takes 1 ms. */
void rig_open(struct rig *r, unsigned voters);
/* A replica that joins: empty, no configuration. */
void rig_open_joiner(struct rig *r, uint64_t life);
/* The process ends and comes back. */
void rig_reopen(struct rig *r);
void rig_close(struct rig *r);

/* Time passes; timers fire, disk writes complete, commits are applied. */
void rig_run_ms(struct rig *r, uint64_t ms);
/* Up to and including the group's next timeout. */
void rig_timeout(struct rig *r);
/* What the loop's end of turn does, without time. */
void rig_turn(struct rig *r);

/* Messages of peers.  0 or ERR_. */
int rig_append(struct rig *r, uint64_t from, uint64_t term, uint64_t prev,
	       uint64_t prev_term, uint64_t commit, unsigned n,
	       const uint64_t *terms, struct entry *const *entries);
int rig_ack(struct rig *r, uint64_t from, uint64_t term, uint64_t rejected,
	    uint64_t last);
/* The next results are of the replica with this life (0: a founder). */
void rig_life(struct rig *r, uint64_t life);
int rig_joining(struct rig *r, uint64_t from, uint64_t life, uint64_t index,
		uint64_t term, unsigned joins);
int rig_removed(struct rig *r, uint64_t from, uint64_t life, uint64_t index,
		uint64_t term);
int rig_vote(struct rig *r, uint64_t from, uint64_t term, uint64_t last,
	     uint64_t last_term, unsigned flags);
int rig_vote_result(struct rig *r, uint64_t from, uint64_t term,
		    unsigned flags);
int rig_timeout_now(struct rig *r, uint64_t from, uint64_t term, uint64_t last,
		    uint64_t last_term);
#define RIG_PRE 1u
#define RIG_DISRUPT 2u
#define RIG_GRANTED 2u

/* Lets the group stand up and gives it the votes of 2. */
void rig_elect(struct rig *r);
int rig_submit(struct rig *r, unsigned n);
/* A change to the given roles of servers 1..n ('v', 's'tandby, s'p'are). */
struct entry *rig_change(const char *roles);
/* Any configuration: "1v 2v 4s.7" is two founders and a standby of life 7. */
struct entry *rig_conf(const char *spec);
struct entry *rig_command(void);

void rig_forget(struct rig *r); /* what was sent so far */
unsigned rig_count(const struct rig *r, enum group_msg kind, uint64_t peer);
/* The last such message; NULL: none. */
const struct rig_msg *rig_last(const struct rig *r, enum group_msg kind,
			       uint64_t peer);

#endif
