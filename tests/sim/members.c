/* Replicas that are added and removed while everything else goes wrong: steps at
 * random, of which the leader refuses what is not valid. */
#include "base/alloc.h"
#include "consensus/node_impl.h"
#include "tests/sim/run.h"

#include <stdlib.h>

#define STEPS 8 /* of one fault */
#define STEP_US 250000
#define RESTORE_US 100000

struct steps {
	struct run *run;
	uint32_t shard;
	unsigned left;
};

static void on_changed(struct node_change_call *c, int status, const char *why)
{
	bool *changing = c->arg;

	(void)status;
	(void)why;
	*changing = false;
}

static void ask(struct run *r, uint32_t shard, enum group_change_op op,
		uint64_t id, bool to_one)
{
	unsigned first = (unsigned)rand_below(&r->rand, r->world.cfg.nodes), i;

	for (i = 0; i < r->world.cfg.nodes; i++) {
		unsigned at = 1 + (first + i) % r->world.cfg.nodes;
		struct world_node *wn = &r->world.nodes[at];

		if (!wn->node || wn->stopping || r->changing[at])
			continue;
		r->changing[at] = true;
		r->change[at] = (struct node_change_call){
			.cb = on_changed, .arg = &r->changing[at]
		};
		node_change(wn->node, shard, op, id, to_one, &r->change[at]);
		world_poke(&r->world, at);
		return;
	}
}

/* The configuration of the leader of the highest term. */
static bool view(const struct run *r, uint32_t shard, struct group_info *out)
{
	struct group_info gi;
	bool found = false;
	unsigned i;

	for (i = 1; i <= r->world.cfg.nodes; i++) {
		if (!chaos_leads(r, i, shard))
			continue;
		group_info(r->world.nodes[i].node->shards[shard].group, &gi);
		if (!found || gi.term > out->term)
			*out = gi;
		found = true;
	}
	return found;
}

/* The next step to all replicas on all nodes; false: none is left. */
static bool grow(struct run *r, uint32_t shard)
{
	struct group_info gi = { 0 };
	unsigned id, i;

	/* One that was asked for before may still be on its way. */
	if (!view(r, shard, &gi) || gi.changing || !gi.conf_committed)
		return true;
	for (id = 1; id <= r->world.cfg.nodes; id++) {
		for (i = 0; i < gi.conf.n && gi.conf.members[i].id != id; i++)
			;
		if (i < gi.conf.n && gi.conf.members[i].voter)
			continue;
		ask(r, shard, i < gi.conf.n ? GROUP_PROMOTE : GROUP_ADD, id,
		    false);
		return true;
	}
	return false;
}

static void on_step(void *arg)
{
	struct steps *s = arg;
	struct run *r = s->run;

	if (r->over || r->quiet || !s->left--) {
		free(s);
		return;
	}
	if (rand_below(&r->rand, 2))
		grow(r, s->shard);
	else
		ask(r, s->shard, rand_below(&r->rand, 3) ? GROUP_REMOVE : GROUP_DEMOTE,
		    1 + rand_below(&r->rand, r->world.cfg.nodes),
		    !rand_below(&r->rand, 4));
	sim_after(&r->world.sim, -1, rand_below(&r->rand, 2 * STEP_US), on_step, s);
}

void members_change(struct run *r)
{
	struct steps *s = xmalloc(sizeof *s);

	*s = (struct steps){ r, (uint32_t)rand_below(&r->rand,
						     r->world.cfg.node.shards),
			     STEPS };
	sim_after(&r->world.sim, -1, 0, on_step, s);
}

static void on_restore(void *arg)
{
	struct steps *s = arg;
	struct run *r = s->run;
	bool more = false;
	uint32_t i;

	if (!r->over)
		for (i = 0; i < r->world.cfg.node.shards; i++)
			more |= grow(r, i);
	if (r->over || (!more && !--s->left)) {
		free(s);
		return;
	}
	if (more)
		s->left = STEPS;
	sim_after(&r->world.sim, -1, RESTORE_US, on_restore, s);
}

void members_restore(struct run *r)
{
	struct steps *s = xmalloc(sizeof *s);

	*s = (struct steps){ r, 0, STEPS };
	sim_after(&r->world.sim, -1, RESTORE_US, on_restore, s);
}
