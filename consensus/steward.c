#include "consensus/steward.h"
#include "base/alloc.h"
#include "consensus/node_impl.h"

#include <stdlib.h>
#include <string.h>

#define UP_MS 3000 /* as for every hand-over */
#define STEPS_MAX (3 * PLACE_STEPS_MAX) /* also those whose outcome nobody awaits */

struct asked {
	struct node_change_call call;
	struct place_step step;
	struct steward *sw;
	uint32_t round;
	bool used;
};

struct steward {
	struct node *n;
	struct reconcile r;
	struct node_look look;
	uint32_t look_round;
	bool looking;
	struct asked asked[STEPS_MAX];
};

bool node_is_kept(const struct node *n)
{
	const struct members *t = node_members(n);

	return t->epoch && reconcile_needed(t);
}

uint64_t node_unfit(const struct node *n)
{
	uint64_t unfit = 0, id, now_ms = clock_ms(n->env.clock);

	for (id = 1; id < NET_NODE_MAX; id++) {
		uint64_t up = n->up_since_ms[id];

		if (id == n->cfg.id ? n->going || n->level >= LEVEL_REFUSE
				    : n->leaving[id] ||
				      n->peer_level[id] >= LEVEL_REFUSE ||
				      (up && now_ms - up < UP_MS))
			unfit |= 1ull << id;
	}
	return unfit;
}

const struct place_plan *node_plan(const struct node *n)
{
	return &n->steward->r.plan;
}

static void looked(struct node_look *l)
{
	struct steward *sw = l->arg;
	uint32_t i;

	sw->looking = false;
	for (i = 0; i < sw->n->n_shards; i++)
		reconcile_viewed(&sw->r, sw->look_round, i,
				 node_picture(sw->n, i));
}

/* One look answers for all shards. */
static void view(void *arg, uint32_t shard)
{
	struct steward *sw = arg;

	if (shard != 0)
		return;
	sw->look_round = sw->r.round;
	if (sw->looking)
		return;
	sw->looking = true;
	sw->look = (struct node_look){ .cb = looked, .arg = sw };
	node_look(sw->n, &sw->look);
}

static void stepped(struct node_change_call *c, int status, const char *why)
{
	struct asked *a = c->arg;

	a->used = false;
	reconcile_stepped(&a->sw->r, a->round, &a->step, status, why);
}

static void step(void *arg, const struct place_step *s, bool to_one)
{
	static const enum group_change_op change[] = {
		[PLACE_ADD] = GROUP_ADD,
		[PLACE_PROMOTE] = GROUP_PROMOTE,
		[PLACE_REMOVE] = GROUP_REMOVE,
	};
	struct steward *sw = arg;
	struct asked *a;
	unsigned i;

	for (i = 0; i < STEPS_MAX && sw->asked[i].used; i++)
		;
	if (i == STEPS_MAX) {
		reconcile_stepped(&sw->r, sw->r.round, s, ERR_BUSY,
				  "too many steps are under way");
		return;
	}
	a = &sw->asked[i];
	*a = (struct asked){ .sw = sw, .round = sw->r.round, .used = true,
			     .step = *s };
	a->call = (struct node_change_call){ .cb = stepped, .arg = a };
	if (s->op == PLACE_TRANSFER)
		node_transfer_to(sw->n, s->shard, s->node, &a->call);
	else
		node_change(sw->n, s->shard, change[s->op], s->node, to_one,
			    &a->call);
}

static bool lacks(void *arg, uint8_t id, uint32_t shard)
{
	struct steward *sw = arg;

	return node_lacks(sw->n, id, shard);
}

static const struct reconcile_ops ops = { view, step, lacks };

void steward_tick(struct node *n, uint64_t now_ms)
{
	struct shard *s = &n->shards[0];
	bool lead = s->group && !s->faulty && s->role == GROUP_LEADER && !n->going;

	reconcile_tick(&n->steward->r, now_ms, lead, node_members(n),
		       node_reach(n), node_unfit(n));
}

void steward_open(struct node *n)
{
	n->steward = xcalloc(1, sizeof *n->steward);
	n->steward->n = n;
	reconcile_init(&n->steward->r, n->n_shards, &n->cfg.placement, &ops,
		       n->steward);
}

void steward_close(struct node *n)
{
	free(n->steward);
	n->steward = NULL;
}
