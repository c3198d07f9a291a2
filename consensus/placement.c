/* The plan is made in passes, one for each line of "what is wanted" (placement.h).
 * A shard gets at most one step; a pass looks only at shards that have none yet.
 *
 * Why it comes to rest.  Loads are counted as they will be when all moves under way
 * have ended (a shard with more replicas than wanted has a victim, chosen here once
 * for the count and for the removal).  A move is begun only where it takes a replica
 * off a node that must be left, makes the shard's racks more distinct, or evens out
 * two loads that differ by slack >= 2 and leaves the racks no worse: the sum of the
 * squares of the loads falls each time. */
#include "consensus/placement.h"
#include "base/assert.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const struct place_limits place_usual = { .moves_max = 4, .transfers_max = 4,
					  .replica_slack = 2,
					  .leader_slack = 2 };

const char *place_state_name(enum place_state s)
{
	static const char *const names[PLACE_STATES] = {
		"none", "active", "cordoned", "draining", "leaving", "gone",
	};

	return (unsigned)s < PLACE_STATES ? names[s] : "?";
}

const char *place_op_name(enum place_op op)
{
	static const char *const names[] = { "add", "promote", "remove",
					     "transfer" };

	return (unsigned)op < 4 ? names[op] : "?";
}

#define VICTIM_ROUNDS 8

struct planner {
	const struct place_world *w;
	const struct place_limits *l;
	struct place_plan *out;
	uint8_t rack[PLACE_NODES];     /* number of its rack: the least id in it */
	int load[PLACE_NODES];         /* replicas, when all moves have ended */
	int leads[PLACE_NODES];        /* shards led, after the steps so far */
	/* Of a shard with too many replicas: who leaves first, and who at all. */
	uint8_t victim[PLACE_SHARDS_MAX];
	uint64_t leaves[PLACE_SHARDS_MAX]; /* bits by id */
	unsigned moves, transfers;     /* under way and planned */
};

/* ---- the picture ------------------------------------------------------------- */

static const struct place_node *node_of(const struct planner *p, uint8_t id)
{
	AN(id < PLACE_NODES);
	return &p->w->node[id];
}

static bool goes(const struct planner *p, uint8_t id)
{
	enum place_state s = node_of(p, id)->state;

	return s == PLACE_LEAVING || s == PLACE_GONE || s == PLACE_NONE;
}

static bool takes_replicas(const struct planner *p, uint8_t id)
{
	return node_of(p, id)->state == PLACE_ACTIVE && node_of(p, id)->up;
}

static bool may_lead(const struct planner *p, uint8_t id)
{
	enum place_state s = node_of(p, id)->state;

	return s == PLACE_ACTIVE || s == PLACE_CORDONED;
}

static int find(const struct place_shard *s, uint8_t id)
{
	unsigned i;

	for (i = 0; i < s->n; i++)
		if (s->replica[i].node == id)
			return (int)i;
	return -1;
}

static unsigned voters(const struct place_shard *s)
{
	unsigned i, n = 0;

	for (i = 0; i < s->n; i++)
		n += s->replica[i].voter;
	return n;
}

static bool has_standby(const struct place_shard *s)
{
	return voters(s) < s->n;
}

static void number_racks(struct planner *p)
{
	uint8_t i, k;

	for (i = 1; i < PLACE_NODES; i++) {
		p->rack[i] = i;
		for (k = 1; k < i && node_of(p, i)->rack[0]; k++) {
			if (strcmp(node_of(p, k)->rack, node_of(p, i)->rack) == 0) {
				p->rack[i] = k;
				break;
			}
		}
	}
}

/* Replicas in the rack of `id` on other nodes than `id` and `but`.  Those that go
 * anyhow do not count: their place is free. */
static int in_rack(const struct planner *p, const struct place_shard *s,
		   uint8_t id, uint8_t but)
{
	unsigned i;
	int n = 0;

	for (i = 0; i < s->n; i++) {
		uint8_t k = s->replica[i].node;

		n += k != id && k != but && !goes(p, k) &&
		     p->rack[k] == p->rack[id];
	}
	return n;
}

/* ---- steps ------------------------------------------------------------------- */

static bool is_full(const struct planner *p)
{
	return p->out->n == PLACE_STEPS_MAX;
}

static bool has_step(const struct planner *p, uint32_t shard)
{
	unsigned i;

	for (i = 0; i < p->out->n; i++)
		if (p->out->step[i].shard == shard)
			return true;
	return false;
}

static void step(struct planner *p, enum place_op op, uint32_t shard,
		 uint8_t node, const char *fmt, ...)
	__attribute__((format(printf, 5, 6)));
static void step(struct planner *p, enum place_op op, uint32_t shard,
		 uint8_t node, const char *fmt, ...)
{
	struct place_step *s = &p->out->step[p->out->n];
	va_list ap;

	AN(p->out->n < PLACE_STEPS_MAX);
	p->out->n++;
	s->op = op;
	s->shard = shard;
	s->node = node;
	s->from = op == PLACE_TRANSFER ? p->w->shard[shard].leader : 0;
	va_start(ap, fmt);
	vsnprintf(s->why, sizeof s->why, fmt, ap);
	va_end(ap);
}

static void stuck(struct planner *p, uint32_t shard, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
static void stuck(struct planner *p, uint32_t shard, const char *fmt, ...)
{
	const unsigned max = sizeof p->out->stuck / sizeof p->out->stuck[0];
	va_list ap;

	if (p->out->n_stuck < max) {
		p->out->stuck[p->out->n_stuck].shard = shard;
		va_start(ap, fmt);
		vsnprintf(p->out->stuck[p->out->n_stuck].why, PLACE_WHY_MAX, fmt,
			  ap);
		va_end(ap);
	}
	p->out->n_stuck++;
}

/* ---- who leaves a shard that has too many ------------------------------------- */

/* Enough of the others are up to commit the removal and what follows. */
static bool may_remove(const struct planner *p, const struct place_shard *s,
		       uint8_t id)
{
	unsigned i, n = 0, up = 0;

	for (i = 0; i < s->n; i++) {
		const struct place_replica *r = &s->replica[i];

		if (!r->voter || r->node == id)
			continue;
		n++;
		up += node_of(p, r->node)->up && r->ready;
	}
	return n >= p->w->factor && up >= n / 2 + 1;
}

/* Is `a` rather to be removed than `b`? */
static bool worse(const struct planner *p, const struct place_shard *s, uint8_t a,
		  uint8_t b)
{
	const int gone_a = node_of(p, a)->state == PLACE_GONE ? 2 : goes(p, a);
	const int gone_b = node_of(p, b)->state == PLACE_GONE ? 2 : goes(p, b);
	const int rack_a = in_rack(p, s, a, 0), rack_b = in_rack(p, s, b, 0);

	if (gone_a != gone_b)
		return gone_a > gone_b;
	if (rack_a != rack_b)
		return rack_a > rack_b;
	if (p->load[a] != p->load[b])
		return p->load[a] > p->load[b];
	if ((a == s->leader) != (b == s->leader))
		return b == s->leader; /* saves a hand-over */
	return a < b;
}

/* Of all replicas. */
static uint8_t victim_at_last(const struct planner *p, const struct place_shard *s)
{
	uint8_t best = 0;
	unsigned i;

	for (i = 0; i < s->n; i++)
		if (!best || worse(p, s, s->replica[i].node, best))
			best = s->replica[i].node;
	return best;
}

/* Of the voters that may be removed now, but for one; 0: none. */
static uint8_t victim_of(const struct planner *p, const struct place_shard *s,
			 uint8_t but)
{
	uint8_t best = 0;
	unsigned i;

	for (i = 0; i < s->n; i++) {
		uint8_t id = s->replica[i].node;

		if (id == but || !s->replica[i].voter || !may_remove(p, s, id))
			continue;
		if (!best || worse(p, s, id, best))
			best = id;
	}
	return best;
}

static void drop(struct place_shard *s, uint8_t id)
{
	int i = find(s, id);

	AN(i >= 0);
	s->n--;
	memmove(&s->replica[i], &s->replica[i + 1],
		(s->n - (unsigned)i) * sizeof s->replica[0]);
}

/* Who leaves shard i in the end; true: others than were thought before. */
static bool choose_victims(struct planner *p, uint32_t i)
{
	struct place_shard s = p->w->shard[i];
	uint64_t was = p->leaves[i], now = 0;
	unsigned k;

	if (s.n <= p->w->factor)
		return false;
	for (k = 0; k < s.n; k++)
		p->load[s.replica[k].node] += (int)(was >> s.replica[k].node & 1);
	p->victim[i] = 0;
	while (s.n > p->w->factor) {
		uint8_t id = victim_at_last(p, &s);

		if (!p->victim[i])
			p->victim[i] = id;
		now |= 1ull << id;
		p->load[id]--;
		drop(&s, id);
	}
	p->leaves[i] = now;
	return now != was;
}

static void count(struct planner *p)
{
	bool changed = true;
	uint32_t i;
	unsigned k;

	for (i = 0; i < p->w->n_shards; i++) {
		const struct place_shard *s = &p->w->shard[i];

		for (k = 0; k < s->n; k++)
			p->load[s->replica[k].node]++;
		p->leads[s->leader]++;
		/* Data on its way.  One that nobody leads will not go on, and one
		 * that waits for a removal copies nothing: they hold nobody up. */
		p->moves += s->leader && has_standby(s);
	}
	/* Each choice with the others already made: else a shard that is looked at
	 * first would see loads that others are about to take away. */
	for (k = 0; changed && k < VICTIM_ROUNDS; k++)
		for (i = 0, changed = false; i < p->w->n_shards; i++)
			changed |= choose_victims(p, i);
}

/* ---- leaderships -------------------------------------------------------------- */

static uint8_t heir_in(const struct planner *p, const struct place_shard *s,
		       bool draining)
{
	uint8_t best = 0;
	unsigned i;

	for (i = 0; i < s->n; i++) {
		const struct place_replica *r = &s->replica[i];
		const struct place_node *n = node_of(p, r->node);

		if (r->node == s->leader || !r->voter || !r->ready || !n->up ||
		    !(draining ? n->state == PLACE_DRAINING
			       : may_lead(p, r->node)))
			continue;
		if (!best || p->leads[r->node] < p->leads[best])
			best = r->node;
	}
	return best;
}

/* Which voter should lead instead; 0: none can.  Where the leader's node goes for
 * good, one that is drained for a while is better than none. */
static uint8_t heir_of(const struct planner *p, const struct place_shard *s)
{
	uint8_t id = heir_in(p, s, false);

	return id || !goes(p, s->leader) ? id : heir_in(p, s, true);
}

static void transfer(struct planner *p, uint32_t shard, uint8_t to)
{
	p->leads[p->w->shard[shard].leader]--;
	p->leads[to]++;
	p->transfers++;
}

static bool is_free(const struct planner *p, uint32_t shard)
{
	const struct place_shard *s = &p->w->shard[shard];

	return s->leader && !s->busy && !is_full(p) && !has_step(p, shard);
}

static void leaders_leave(struct planner *p)
{
	uint32_t i;

	for (i = 0; i < p->w->n_shards; i++) {
		const struct place_shard *s = &p->w->shard[i];
		uint8_t to;

		if (!is_free(p, i) || may_lead(p, s->leader))
			continue;
		to = heir_of(p, s);
		if (!to) {
			stuck(p, i, "node %u is %s and leads it, and no other voter "
			      "is up, caught up and free to lead", s->leader,
			      place_state_name(node_of(p, s->leader)->state));
			continue;
		}
		if (p->transfers >= p->l->transfers_max)
			continue;
		step(p, PLACE_TRANSFER, i, to, "node %u is %s and leads it",
		     s->leader, place_state_name(node_of(p, s->leader)->state));
		transfer(p, i, to);
	}
}

static bool even_leaders_once(struct planner *p)
{
	uint32_t i, at = 0;
	int most = 0;
	uint8_t to = 0;

	for (i = 0; i < p->w->n_shards; i++) {
		const struct place_shard *s = &p->w->shard[i];
		uint8_t heir;

		if (!is_free(p, i) || has_standby(s))
			continue;
		heir = heir_of(p, s);
		if (heir && p->leads[s->leader] - p->leads[heir] > most) {
			most = p->leads[s->leader] - p->leads[heir];
			to = heir;
			at = i;
		}
	}
	if (!to || most < (int)p->l->leader_slack)
		return false;
	step(p, PLACE_TRANSFER, at, to, "node %u leads %d shards, node %u %d",
	     p->w->shard[at].leader, p->leads[p->w->shard[at].leader], to,
	     p->leads[to]);
	transfer(p, at, to);
	return true;
}

static void even_leaders(struct planner *p)
{
	while (p->transfers < p->l->transfers_max && !is_full(p) &&
	       even_leaders_once(p))
		;
}

/* ---- what has begun ------------------------------------------------------------ */

static void remove_surplus(struct planner *p, uint32_t i)
{
	const struct place_shard *s = &p->w->shard[i];
	uint8_t id = p->victim[i], to;
	int k = find(s, id);

	/* Who was counted as leaving: by now the loads say that it has left. */
	if (k < 0 || !s->replica[k].voter || !may_remove(p, s, id))
		id = victim_of(p, s, 0);
	/* Nobody else may lead: rather another one leaves, unless it is the one that goes. */
	if (id && id == s->leader && !heir_of(p, s) && !goes(p, id) &&
	    victim_of(p, s, id))
		id = victim_of(p, s, id);
	if (!id) {
		stuck(p, i, "too few of its voters are up and caught up to remove "
		      "one");
		return;
	}
	if (id != s->leader) {
		step(p, PLACE_REMOVE, i, id, goes(p, id) ?
		     "%u voters, %u wanted, and node %u is %s" :
		     "%u voters, %u wanted; node %u (%s) is in the fullest place",
		     voters(s), p->w->factor, id,
		     place_state_name(node_of(p, id)->state));
		return;
	}
	to = heir_of(p, s);
	if (!to) {
		stuck(p, i, "node %u is to lose its replica and leads, and no other "
		      "voter can", id);
		return;
	}
	if (p->transfers >= p->l->transfers_max)
		return;
	step(p, PLACE_TRANSFER, i, to,
	     "the replica on node %u, which leads, is to be removed", id);
	transfer(p, i, to);
}

static void finish_standby(struct planner *p, uint32_t i)
{
	const struct place_shard *s = &p->w->shard[i];
	unsigned k;

	for (k = 0; k < s->n; k++) {
		const struct place_replica *r = &s->replica[k];

		if (r->voter)
			continue;
		if (voters(s) > p->w->factor) /* fewer are wanted than then */
			step(p, PLACE_REMOVE, i, r->node,
			     "%u voters, %u wanted, and no standby", voters(s),
			     p->w->factor);
		else if (goes(p, r->node) || !node_of(p, r->node)->up)
			step(p, PLACE_REMOVE, i, r->node,
			     "the standby's node %u is %s", r->node,
			     goes(p, r->node) ?
			     place_state_name(node_of(p, r->node)->state) :
			     "down");
		else if (r->ready)
			step(p, PLACE_PROMOTE, i, r->node,
			     "the standby on node %u has caught up", r->node);
		else
			continue;
		return;
	}
}

static void finish(struct planner *p)
{
	uint32_t i;

	for (i = 0; i < p->w->n_shards; i++) {
		const struct place_shard *s = &p->w->shard[i];

		if (!is_free(p, i))
			continue;
		if (has_standby(s))
			finish_standby(p, i);
		else if (voters(s) > p->w->factor)
			remove_surplus(p, i);
	}
}

/* ---- new places ---------------------------------------------------------------- */

/* Where a replica of `s` would best be, `instead` of one (0: one more); 0: nowhere. */
static uint8_t place_for(const struct planner *p, const struct place_shard *s,
			 uint8_t instead)
{
	uint8_t id, best = 0, heir = instead ? node_of(p, instead)->successor : 0;

	if (heir && heir < PLACE_NODES && takes_replicas(p, heir) &&
	    find(s, heir) < 0)
		return heir;
	for (id = 1; id < PLACE_NODES; id++) {
		int a, b;

		if (!takes_replicas(p, id) || find(s, id) >= 0)
			continue;
		a = in_rack(p, s, id, instead);
		b = best ? in_rack(p, s, best, instead) : 0;
		if (!best || a < b || (a == b && p->load[id] < p->load[best]))
			best = id;
	}
	return best;
}

/* A shard to which nothing happens, so that a move may begin. */
static bool is_quiet(const struct planner *p, uint32_t i)
{
	const struct place_shard *s = &p->w->shard[i];

	return is_free(p, i) && !has_standby(s) && voters(s) <= p->w->factor;
}

static uint8_t who_goes(const struct planner *p, const struct place_shard *s)
{
	uint8_t best = 0;
	unsigned i;

	for (i = 0; i < s->n; i++) {
		uint8_t id = s->replica[i].node;

		if (goes(p, id) && (!best || worse(p, s, id, best)))
			best = id;
	}
	return best;
}

static unsigned ups(const struct planner *p, const struct place_shard *s)
{
	unsigned i, n = 0;

	for (i = 0; i < s->n; i++)
		n += s->replica[i].voter && node_of(p, s->replica[i].node)->up;
	return n;
}

/* A move begins: what it will have done to the loads. */
static void move_counts(struct planner *p, uint8_t to, uint8_t instead)
{
	p->moves++;
	p->load[to]++;
	if (instead)
		p->load[instead]--;
}

/* Shards with the fewest voters up come first. */
static void repair(struct planner *p)
{
	unsigned up;
	uint32_t i;

	for (up = 0; up < PLACE_REPLICAS_MAX; up++) {
		for (i = 0; i < p->w->n_shards; i++) {
			const struct place_shard *s = &p->w->shard[i];
			unsigned n = voters(s);
			uint8_t who, to;

			if (ups(p, s) != up || !is_quiet(p, i))
				continue;
			who = who_goes(p, s);
			if (n >= p->w->factor && !who)
				continue;
			to = place_for(p, s, who);
			if (!to) {
				stuck(p, i, who ? "its replica on node %u, which is "
				      "%s, has nowhere to go" :
				      "%u voters, and no node for another (%s)",
				      who ? who : n, who ?
				      place_state_name(node_of(p, who)->state) :
				      "active, up, not yet in use by it");
				continue;
			}
			if (p->moves >= p->l->moves_max)
				continue;
			if (who)
				step(p, PLACE_ADD, i, to,
				     "replaces the replica on node %u, which is %s",
				     who, place_state_name(node_of(p, who)->state));
			else
				step(p, PLACE_ADD, i, to, "%u of %u voters", n,
				     p->w->factor);
			/* One of several may be missing too: who goes is replaced,
			 * and the count of voters is made up later. */
			move_counts(p, to, n >= p->w->factor ? who : 0);
		}
	}
}

struct move {
	uint32_t shard;
	uint8_t from, to;
	int racks, loads;   /* how much better */
};

static bool better(const struct move *a, const struct move *b)
{
	return a->racks != b->racks ? a->racks > b->racks : a->loads > b->loads;
}

static void best_of_shard(const struct planner *p, uint32_t i, struct move *best)
{
	const struct place_shard *s = &p->w->shard[i];
	unsigned k;

	for (k = 0; k < s->n; k++) {
		struct move m = { .shard = i, .from = s->replica[k].node };
		int was = in_rack(p, s, m.from, 0);
		uint8_t id;

		/* Others keep what they have. */
		if (node_of(p, m.from)->state != PLACE_ACTIVE)
			continue;
		for (id = 1; id < PLACE_NODES; id++) {
			if (!takes_replicas(p, id) || find(s, id) >= 0)
				continue;
			m.to = id;
			m.racks = was - in_rack(p, s, id, m.from);
			m.loads = p->load[m.from] - p->load[id];
			if ((m.racks > 0 ||
			     (m.racks == 0 &&
			      m.loads >= (int)p->l->replica_slack)) &&
			    (!best->to || better(&m, best)))
				*best = m;
		}
	}
}

static void even_replicas(struct planner *p)
{
	while (p->moves < p->l->moves_max && !is_full(p)) {
		struct move best = { 0 };
		uint32_t i;

		for (i = 0; i < p->w->n_shards; i++)
			if (is_quiet(p, i) &&
			    voters(&p->w->shard[i]) == p->w->factor)
				best_of_shard(p, i, &best);
		if (!best.to)
			return;
		if (best.racks)
			step(p, PLACE_ADD, best.shard, best.to,
			     "its replica on node %u shares a rack, node %u's is "
			     "free of it", best.from, best.to);
		else
			step(p, PLACE_ADD, best.shard, best.to,
			     "node %u has %d replicas, node %u %d", best.from,
			     p->load[best.from], best.to, p->load[best.to]);
		move_counts(p, best.to, best.from);
	}
}

/* ---- the plan ------------------------------------------------------------------- */

void place_plan(const struct place_world *w, const struct place_limits *l,
		struct place_plan *out)
{
	struct planner p = { .w = w, .l = l, .out = out };

	AN(w->factor >= 1 && w->factor < PLACE_REPLICAS_MAX);
	AN(w->n_shards <= PLACE_SHARDS_MAX);
	AN(l->replica_slack >= 2 && l->leader_slack >= 2);
	memset(out, 0, sizeof *out);
	number_racks(&p);
	count(&p);
	leaders_leave(&p);
	finish(&p);
	repair(&p);
	even_replicas(&p);
	even_leaders(&p);
}

void place_apply(struct place_world *w, const struct place_step *st)
{
	struct place_shard *s = &w->shard[st->shard];
	int i = find(s, st->node);

	switch (st->op) {
	case PLACE_ADD:
		AN(i < 0 && s->n < PLACE_REPLICAS_MAX);
		s->replica[s->n++] = (struct place_replica){ .node = st->node };
		break;
	case PLACE_PROMOTE:
		AN(i >= 0);
		s->replica[i].voter = true;
		break;
	case PLACE_REMOVE:
		drop(s, st->node);
		break;
	case PLACE_TRANSFER:
		AN(i >= 0);
		s->leader = st->node;
		break;
	}
}

unsigned place_replicas(const struct place_world *w, uint8_t id)
{
	unsigned n = 0;
	uint32_t i;

	for (i = 0; i < w->n_shards; i++)
		n += find(&w->shard[i], id) >= 0;
	return n;
}

unsigned place_leads(const struct place_world *w, uint8_t id)
{
	unsigned n = 0;
	uint32_t i;

	for (i = 0; i < w->n_shards; i++)
		n += w->shard[i].leader == id;
	return n;
}
