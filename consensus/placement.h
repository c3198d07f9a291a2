/* Where replicas and leaderships should go: a pure planner.  A picture of the
 * cluster in, the next few steps out, each with its reason in words.  No clock, no
 * dice, no memory between calls: the same picture gives the same steps, so a new
 * leader of the meta shard goes on where the old one stopped, and a dry run shows
 * what would be done.
 *
 *	plan -> carry the steps out, in any order, some or all -> look -> plan ...
 *
 * until there is no step left.  It gets there: every change of place makes the
 * picture better by more than a slack, so nothing moves to and fro.
 *
 * What no step ever does:
 *	a second replica of a shard on one node;
 *	a voter less than `factor`, or less than a majority of what remains up;
 *	a replica or leadership to a node that is not there for it;
 *	two steps of one shard at a time, or more than moves_max shards with a standby.
 *
 * Order of what is wanted: finish what has begun; leaderships off nodes that are to
 * be left alone; the missing replica and the one on a node that goes; distinct racks;
 * as many replicas on each node; as many leaderships on each node.
 *
 * reconcile.h calls it. */
#ifndef QUIPU_CONSENSUS_PLACEMENT_H
#define QUIPU_CONSENSUS_PLACEMENT_H

#include <stdbool.h>
#include <stdint.h>

#define PLACE_NODES 64        /* ids 1..63 */
#define PLACE_SHARDS_MAX 256
#define PLACE_REPLICAS_MAX 9  /* of a shard */
#define PLACE_RACK_MAX 32     /* bytes of a rack's label */
#define PLACE_STEPS_MAX 32    /* of one plan */
#define PLACE_WHY_MAX 120

enum place_state {
	PLACE_NONE,     /* no such node */
	PLACE_ACTIVE,
	PLACE_CORDONED, /* keeps what it has, gets no new replicas */
	PLACE_DRAINING, /* the same, and leads nothing */
	PLACE_LEAVING,  /* all it has goes elsewhere: decommissioned, or replaced */
	PLACE_GONE,     /* it will not come back: nothing is asked of it */
	PLACE_STATES
};
const char *place_state_name(enum place_state s); /* "draining"; "?" */

struct place_node {
	enum place_state state;
	bool up;            /* can be reached; the caller waits out short breaks */
	uint8_t successor;  /* of a leaving or gone one: node that gets its replicas
			       as far as it can take them; 0: whoever is best */
	char rack[PLACE_RACK_MAX + 1]; /* "": a rack of its own */
};

struct place_replica {
	uint8_t node;
	bool voter;         /* else a standby */
	bool ready;         /* near the end of the leader's log */
};

struct place_shard {
	struct place_replica replica[PLACE_REPLICAS_MAX];
	unsigned n;
	uint8_t leader;     /* 0: not known, nothing can be done */
	bool busy;          /* a change or hand-over is under way */
};

struct place_world {
	struct place_node node[PLACE_NODES]; /* by id */
	struct place_shard *shard;           /* by number; borrowed */
	uint32_t n_shards;
	unsigned factor;    /* voters wanted, 1..PLACE_REPLICAS_MAX - 1 */
};

struct place_limits {
	unsigned moves_max;     /* shards with a standby: data on its way */
	unsigned transfers_max; /* hand-overs in one plan */
	unsigned replica_slack; /* a replica moves from a node that has so many more;
				   2 or more */
	unsigned leader_slack;  /* the same of leaderships */
};
extern const struct place_limits place_usual; /* 4, 4, 2, 2 */

enum place_op {
	PLACE_ADD,      /* a standby of `shard` on `node` */
	PLACE_PROMOTE,  /* the standby on `node` to a voter */
	PLACE_REMOVE,   /* the replica on `node` */
	PLACE_TRANSFER, /* the leadership from `from` to `node` */
};
const char *place_op_name(enum place_op op); /* "add" */

struct place_step {
	enum place_op op;
	uint32_t shard;
	uint8_t node, from;
	char why[PLACE_WHY_MAX];
};

struct place_plan {
	struct place_step step[PLACE_STEPS_MAX];
	unsigned n;
	/* What should be done and cannot be: the first of them, and how many. */
	struct {
		uint32_t shard;
		char why[PLACE_WHY_MAX];
	} stuck[8];
	unsigned n_stuck;
};

void place_plan(const struct place_world *w, const struct place_limits *l,
		struct place_plan *out);

/* Carry a step out in the picture: for dry runs and tests.  A new standby is not
 * ready. */
void place_apply(struct place_world *w, const struct place_step *s);

/* Node `id` still holds so many replicas / leads so many shards. */
unsigned place_replicas(const struct place_world *w, uint8_t id);
unsigned place_leads(const struct place_world *w, uint8_t id);

#endif
