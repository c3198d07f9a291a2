/* The loop that gets the cluster to where its operators want it: on the meta shard's
 * leader, look at all shards, plan (placement.h), carry a few steps out, look again.
 *
 *	IDLE -> LOOK    every shard's leader is asked who its members are
 *	     -> ACT     the plan's steps are asked for
 *	     -> IDLE    a second later, or sooner rest when there was nothing to do
 *
 * It keeps nothing that a new leader could not see for itself, but how long a standby
 * has stood still.  A cluster of its founders alone, all of them active on the disks
 * that they began with, is left alone: nothing is asked.
 *
 * Sans-I/O: the owner calls reconcile_tick(); answers come by reconcile_viewed(), never
 * inside of what asked for them, and reconcile_stepped(). */
#ifndef QUIPU_CONSENSUS_RECONCILE_H
#define QUIPU_CONSENSUS_RECONCILE_H

#include "consensus/members.h"

#define RECONCILE_ACT_MS 1000    /* from one look to the next while there is work */
#define RECONCILE_REST_MS 5000   /* and while there is none */
#define RECONCILE_LOOK_MS 5000   /* who has not answered then is not known */
#define RECONCILE_STEPS_MS 30000 /* a step that has no outcome then is looked for */
#define RECONCILE_DOWN_MS 10000  /* a node is taken for down after so long */
#define RECONCILE_STALL_MS 600000 /* a standby that got nothing for so long goes */

/* What the leader of a shard says of it. */
struct shard_picture {
	bool known;            /* there is a leader, and it answered */
	uint8_t leader;
	bool busy;             /* a change or a hand-over is under way */
	unsigned n;
	struct {
		uint8_t id;
		bool voter, ready;
		uint64_t match;
	} member[PLACE_REPLICAS_MAX];
};

struct reconcile_ops {
	/* -> reconcile_viewed(), once */
	void (*view)(void *arg, uint32_t shard);
	/* -> reconcile_stepped(), once.  to_one: a single voter may be left. */
	void (*step)(void *arg, const struct place_step *s, bool to_one);
	/* Has the node said, at the time of the last views, that it has no replica of
	 * the shard? */
	bool (*lacks)(void *arg, uint8_t id, uint32_t shard);
};

struct reconcile_config {
	unsigned replicas;     /* voters of a shard; 0: as many as there are founders,
				  3 where there is one */
	bool automatic;        /* even out replicas and leaderships */
};

struct reconcile_standby {
	uint8_t id;            /* 0: none */
	uint64_t match, since_ms;
};

enum reconcile_state { RECONCILE_IDLE, RECONCILE_LOOK, RECONCILE_ACT };

struct reconcile {
	const struct reconcile_ops *ops;
	void *arg;
	struct reconcile_config cfg;
	uint32_t n_shards;
	enum reconcile_state state;
	uint64_t due_ms, epoch;
	unsigned waiting;      /* answers */
	uint32_t round;        /* answers of an older one do not count */
	uint64_t up_ms[PLACE_NODES]; /* last seen up */
	struct shard_picture shard[PLACE_SHARDS_MAX];
	struct reconcile_standby standby[PLACE_SHARDS_MAX];
	struct place_shard places[PLACE_SHARDS_MAX];
	struct place_world world;
	struct place_plan plan; /* the last */
	uint64_t steps, failed;
};

void reconcile_init(struct reconcile *r, uint32_t n_shards,
		    const struct reconcile_config *cfg,
		    const struct reconcile_ops *ops, void *arg);
/* `up`: nodes that can be reached; `unfit`: nodes that should neither lead nor get
 * a replica now; bits by id.  `lead`: this node leads shard 0. */
void reconcile_tick(struct reconcile *r, uint64_t now_ms, bool lead,
		    const struct members *t, uint64_t up, uint64_t unfit);
/* round: r->round as it was when it was asked for. */
void reconcile_viewed(struct reconcile *r, uint32_t round, uint32_t shard,
		      const struct shard_picture *p);
void reconcile_stepped(struct reconcile *r, uint32_t round,
		       const struct place_step *s, int status, const char *why);

/* ---- what it is made of, also for dry runs ---------------------------------------- */

/* Is there more to look after than founders that are as they began? */
bool reconcile_needed(const struct members *t);
/* Voters that a shard is to have. */
unsigned reconcile_factor(const struct members *t, unsigned replicas);
/* The nodes of a picture. */
void reconcile_nodes(struct place_world *w, const struct members *t, uint64_t up,
		     uint64_t unfit, unsigned replicas);
/* One of its shards; false: it is not known, and nothing is planned for it. */
bool reconcile_shard(struct place_shard *out, const struct shard_picture *p);
/* Limits of the planner; not automatic: only what states demand, and racks are
 * taken out of the picture. */
struct place_limits reconcile_limits(struct place_world *w, bool automatic);
/* All steps to the end, by carrying them out in the picture `w`, each told to cb.
 * How many there are; *stuck: how many shards are stuck then, `last` the last plan. */
unsigned reconcile_foresee(struct place_world *w, bool automatic,
			   void (*cb)(void *arg, const struct place_step *s),
			   void *arg, struct place_plan *last);

#endif
