#include "consensus/reconcile.h"
#include "base/assert.h"
#include "base/logf.h"
#include "base/metric.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define FORESEE_ROUNDS_MAX 2000

/* ---- the picture ------------------------------------------------------------------ */

bool reconcile_needed(const struct members *t)
{
	unsigned id;

	for (id = 1; id < PLACE_NODES; id++) {
		const struct member *m = &t->m[id];

		if ((m->state != PLACE_NONE) != (t->founders >> id & 1) ||
		    m->state > PLACE_ACTIVE || m->replaced)
			return true;
	}
	return false;
}

static bool stays(const struct member *m)
{
	return m->state == PLACE_ACTIVE || m->state == PLACE_CORDONED ||
	       m->state == PLACE_DRAINING;
}

unsigned reconcile_factor(const struct members *t, unsigned replicas)
{
	unsigned founders = (unsigned)__builtin_popcountll(t->founders);
	unsigned id, n = 0;

	for (id = 1; id < PLACE_NODES; id++)
		n += stays(&t->m[id]);
	if (!replicas)
		replicas = founders > 1 ? founders : 3;
	if (replicas > n)
		replicas = n;
	if (replicas >= PLACE_REPLICAS_MAX)
		replicas = PLACE_REPLICAS_MAX - 1;
	return replicas ? replicas : 1;
}

void reconcile_nodes(struct place_world *w, const struct members *t, uint64_t up,
		     uint64_t unfit, unsigned replicas)
{
	unsigned id;

	for (id = 1; id < PLACE_NODES; id++) {
		const struct member *m = &t->m[id];

		w->node[id] = (struct place_node){ .state = m->state,
						   .up = up >> id & 1,
						   .successor = m->successor };
		if (unfit >> id & 1 && stays(m))
			w->node[id].state = PLACE_DRAINING;
		memcpy(w->node[id].rack, m->rack, sizeof w->node[id].rack);
	}
	w->factor = reconcile_factor(t, replicas);
}

bool reconcile_shard(struct place_shard *out, const struct shard_picture *p)
{
	unsigned i;

	memset(out, 0, sizeof *out);
	if (!p->known)
		return false;
	out->leader = p->leader;
	out->busy = p->busy;
	out->n = p->n;
	for (i = 0; i < p->n; i++)
		out->replica[i] = (struct place_replica){ p->member[i].id,
							  p->member[i].voter,
							  p->member[i].ready };
	return true;
}

struct place_limits reconcile_limits(struct place_world *w, bool automatic)
{
	struct place_limits l = place_usual;
	unsigned id;

	if (automatic)
		return l;
	l.replica_slack = l.leader_slack = 1000000;
	for (id = 1; id < PLACE_NODES; id++)
		w->node[id].rack[0] = 0;
	return l;
}

unsigned reconcile_foresee(struct place_world *w, bool automatic,
			   void (*cb)(void *arg, const struct place_step *s),
			   void *arg, struct place_plan *last)
{
	struct place_limits l = reconcile_limits(w, automatic);
	unsigned n = 0, round, i, k;
	uint32_t s;

	/* Nothing is on its way here: no need to go slowly. */
	l.moves_max = PLACE_SHARDS_MAX;
	l.transfers_max = PLACE_STEPS_MAX;
	for (s = 0; s < w->n_shards; s++)
		w->shard[s].busy = false;
	for (round = 0; round < FORESEE_ROUNDS_MAX; round++) {
		place_plan(w, &l, last);
		for (i = 0; i < last->n; i++) {
			struct place_shard *at = &w->shard[last->step[i].shard];

			place_apply(w, &last->step[i]);
			for (k = 0; k < at->n; k++)
				at->replica[k].ready |=
					w->node[at->replica[k].node].up;
			if (cb)
				cb(arg, &last->step[i]);
		}
		n += last->n;
		if (!last->n)
			break;
	}
	return n;
}

/* ---- the loop --------------------------------------------------------------------- */

void reconcile_init(struct reconcile *r, uint32_t n_shards,
		    const struct reconcile_config *cfg,
		    const struct reconcile_ops *ops, void *arg)
{
	memset(r, 0, sizeof *r);
	AN(n_shards <= PLACE_SHARDS_MAX);
	AN(cfg->replicas < PLACE_REPLICAS_MAX);
	r->n_shards = n_shards;
	r->cfg = *cfg;
	r->ops = ops;
	r->arg = arg;
}

static void rest(struct reconcile *r, uint64_t due_ms)
{
	r->state = RECONCILE_IDLE;
	r->waiting = 0;
	r->round++;
	r->due_ms = due_ms;
}

static void look(struct reconcile *r, uint64_t now_ms)
{
	uint32_t i;

	r->state = RECONCILE_LOOK;
	r->round++;
	r->due_ms = now_ms + RECONCILE_LOOK_MS;
	r->waiting = r->n_shards;
	memset(r->shard, 0, sizeof r->shard);
	for (i = 0; i < r->n_shards; i++)
		r->ops->view(r->arg, i);
}

void reconcile_viewed(struct reconcile *r, uint32_t round, uint32_t shard,
		      const struct shard_picture *p)
{
	if (r->state != RECONCILE_LOOK || round != r->round ||
	    shard >= r->n_shards)
		return;
	r->shard[shard] = *p;
	r->waiting--;
}

/* How long the standby of a shard has stood still. */
static bool stalls(struct reconcile *r, uint32_t i, uint64_t now_ms, uint8_t *who)
{
	struct reconcile_standby *sb = &r->standby[i];
	const struct shard_picture *p = &r->shard[i];
	unsigned k;

	if (!p->known)
		return false;
	for (k = 0; k < p->n; k++) {
		if (p->member[k].voter)
			continue;
		if (sb->id != p->member[k].id ||
		    sb->match != p->member[k].match || p->member[k].ready) {
			sb->id = p->member[k].id;
			sb->match = p->member[k].match;
			sb->since_ms = now_ms;
		}
		*who = sb->id;
		return now_ms - sb->since_ms >= RECONCILE_STALL_MS;
	}
	sb->id = 0;
	return false;
}

/* What the planner cannot see: the replica of a disk that is no more, and a standby
 * to which nothing comes.  The shard is left to this step then. */
static bool own_step(struct reconcile *r, uint32_t i, uint64_t now_ms,
		     struct place_step *out)
{
	const struct shard_picture *p = &r->shard[i];
	uint8_t who = 0;
	unsigned k;

	*out = (struct place_step){ .op = PLACE_REMOVE, .shard = i };
	if (stalls(r, i, now_ms, &who) && !p->busy) {
		out->node = who;
		snprintf(out->why, sizeof out->why,
			 "the standby on node %u got nothing for %u min", who,
			 RECONCILE_STALL_MS / 60000);
		return true;
	}
	if (!p->known || p->busy)
		return false;
	for (k = 0; k < p->n; k++) {
		uint8_t id = p->member[k].id;

		/* Its match is that of the old one, and may look ready. */
		if (id == p->leader || !r->ops->lacks(r->arg, id, i))
			continue;
		out->node = id;
		snprintf(out->why, sizeof out->why,
			 "node %u has another disk, its old replica is gone", id);
		return true;
	}
	return false;
}

static void picture(struct reconcile *r, uint64_t now_ms,
		    const struct members *t, uint64_t up, uint64_t unfit)
{
	uint64_t seen = 0;
	unsigned id;

	for (id = 1; id < PLACE_NODES; id++)
		if (up >> id & 1 ||
		    (r->up_ms[id] && now_ms - r->up_ms[id] < RECONCILE_DOWN_MS))
			seen |= 1ull << id;
	r->world.shard = r->places;
	r->world.n_shards = r->n_shards;
	reconcile_nodes(&r->world, t, seen, unfit, r->cfg.replicas);
}

static void carry_out(struct reconcile *r, const struct place_step *s)
{
	r->steps++;
	r->waiting++;
	metric_add(M_PLACE_STEPS, 1);
	log_event(LOG_INFO, "placement_step",
		  "op=%s shard=%u node=%u from=%u why=%s", place_op_name(s->op),
		  s->shard, s->node, s->from, log_quote(s->why));
	r->ops->step(r->arg, s, r->world.factor == 1);
}

static void act(struct reconcile *r, uint64_t now_ms, const struct members *t,
		uint64_t up, uint64_t unfit)
{
	struct place_step own[PLACE_STEPS_MAX];
	struct place_limits l;
	unsigned n = 0, i;
	uint32_t s;

	picture(r, now_ms, t, up, unfit);
	for (s = 0; s < r->n_shards; s++) {
		reconcile_shard(&r->places[s], &r->shard[s]);
		if (n < PLACE_STEPS_MAX && own_step(r, s, now_ms, &own[n])) {
			r->places[s].busy = true;
			n++;
		}
	}
	l = reconcile_limits(&r->world, r->cfg.automatic);
	place_plan(&r->world, &l, &r->plan);
	metric_set(M_PLACE_STUCK, r->plan.n_stuck);
	if (r->plan.n_stuck)
		log_event(LOG_DEBUG, "placement_stuck", "shards=%u shard=%u why=%s",
			  r->plan.n_stuck, r->plan.stuck[0].shard,
			  log_quote(r->plan.stuck[0].why));
	if (!n && !r->plan.n) {
		rest(r, now_ms + RECONCILE_REST_MS);
		return;
	}
	r->state = RECONCILE_ACT;
	r->round++;
	r->due_ms = now_ms + RECONCILE_STEPS_MS;
	r->waiting = 0;
	for (i = 0; i < n; i++)
		carry_out(r, &own[i]);
	for (i = 0; i < r->plan.n; i++)
		carry_out(r, &r->plan.step[i]);
}

void reconcile_stepped(struct reconcile *r, uint32_t round,
		       const struct place_step *s, int status, const char *why)
{
	if (status) {
		r->failed++;
		/* Busy is how an empty replica says that it is being made. */
		log_event(status == ERR_BUSY ? LOG_DEBUG : LOG_WARN,
			  "placement_step_failed",
			  "op=%s shard=%u node=%u code=%s why=%s",
			  place_op_name(s->op), s->shard, s->node,
			  err_name(status), log_quote(why));
	}
	if (r->state == RECONCILE_ACT && round == r->round && r->waiting)
		r->waiting--;
}

void reconcile_tick(struct reconcile *r, uint64_t now_ms, bool lead,
		    const struct members *t, uint64_t up, uint64_t unfit)
{
	unsigned id;

	for (id = 1; id < PLACE_NODES; id++)
		if (up >> id & 1)
			r->up_ms[id] = now_ms;
	if (!lead || !t->epoch || !reconcile_needed(t)) {
		if (r->state != RECONCILE_IDLE || r->plan.n_stuck) {
			r->plan.n = r->plan.n_stuck = 0;
			metric_set(M_PLACE_STUCK, 0);
		}
		/* A new leader knows its peers when it has led for a while. */
		rest(r, now_ms + RECONCILE_ACT_MS);
		return;
	}
	if (r->epoch != t->epoch && r->state == RECONCILE_IDLE) {
		r->epoch = t->epoch;
		r->due_ms = now_ms;
	}
	switch (r->state) {
	case RECONCILE_IDLE:
		if (now_ms >= r->due_ms)
			look(r, now_ms);
		break;
	case RECONCILE_LOOK:
		if (!r->waiting || now_ms >= r->due_ms)
			act(r, now_ms, t, up, unfit);
		break;
	case RECONCILE_ACT:
		if (!r->waiting || now_ms >= r->due_ms)
			rest(r, now_ms + RECONCILE_ACT_MS);
		break;
	}
}
