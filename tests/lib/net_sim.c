#include "tests/lib/net_sim.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/err.h"
#include "log/entry.h"

#include <stdlib.h>
#include <string.h>

#define DEAD_US 2000000
#define RETRY_MIN_US 50000
#define RETRY_MAX_US 500000

struct endpoint {
	struct net net; /* first */
	struct net_sim *ns;
	unsigned node;
	unsigned life; /* raised at each start */
	bool alive;
	struct net_sim_door door;
};

struct message {
	struct net_sim *ns;
	unsigned from, to;
	uint64_t epoch;
	size_t len;
	uint8_t data[];
};

/* One direction. */
struct pipe {
	uint64_t last_us;      /* arrival of the newest message */
	uint64_t far_us;
	size_t queued;         /* bytes under way */
	bool cut;
	struct message **held; /* arrived at the cut, in order */
	size_t n_held, cap_held;
};

/* One pair; a < b. */
struct pair {
	bool up;
	bool dying;            /* a death is scheduled */
	bool dialling;
	uint64_t epoch;        /* raised at each change */
};

struct net_sim {
	struct sim *sim;
	unsigned n;
	struct net_sim_config cfg;
	struct endpoint *ends[NET_SIM_NODES + 1];
	struct pipe pipes[NET_SIM_NODES + 1][NET_SIM_NODES + 1];
	struct pair pairs[NET_SIM_NODES + 1][NET_SIM_NODES + 1];
	uint64_t messages;
	void (*tap)(void *arg, unsigned from, unsigned to, const uint8_t *p,
		    size_t n);
	void *tap_arg;
};

struct timer {
	struct net_sim *ns;
	unsigned a, b;
	unsigned life; /* of a's process */
	uint64_t epoch;
};

static struct pair *pair_of(struct net_sim *ns, unsigned a, unsigned b)
{
	return a < b ? &ns->pairs[a][b] : &ns->pairs[b][a];
}

static bool alive(const struct net_sim *ns, unsigned node)
{
	return ns->ends[node] && ns->ends[node]->alive;
}

static bool cut_between(const struct net_sim *ns, unsigned a, unsigned b)
{
	return ns->pipes[a][b].cut || ns->pipes[b][a].cut;
}

static void pipe_clear(struct pipe *p)
{
	size_t i;

	for (i = 0; i < p->n_held; i++)
		free(p->held[i]);
	p->n_held = 0;
	p->queued = 0;
}

static void later(struct net_sim *ns, unsigned owner, unsigned a, unsigned b,
		  uint64_t delay_us, void (*fn)(void *))
{
	struct timer *t = xmalloc(sizeof *t);

	*t = (struct timer){ ns, a, b, ns->ends[a] ? ns->ends[a]->life : 0,
			     pair_of(ns, a, b)->epoch };
	sim_after(ns->sim, (int)owner, delay_us, fn, t);
}

static bool same_life(const struct timer *t)
{
	return alive(t->ns, t->a) && t->ns->ends[t->a]->life == t->life;
}

static void pair_dial(struct net_sim *ns, unsigned a, unsigned b);

/* Each side learns in an event of its own, so that its node takes a turn. */
static void tell_down(void *arg)
{
	struct timer t = *(struct timer *)arg;

	free(arg);
	if (same_life(&t) && t.ns->ends[t.a]->net.on_down)
		t.ns->ends[t.a]->net.on_down(t.ns->ends[t.a]->net.arg, t.b);
}

static void tell_up(void *arg)
{
	struct timer t = *(struct timer *)arg;

	free(arg);
	if (same_life(&t) && pair_of(t.ns, t.a, t.b)->epoch == t.epoch)
		t.ns->ends[t.a]->net.on_up(t.ns->ends[t.a]->net.arg, t.b);
}

static void pair_down(struct net_sim *ns, unsigned a, unsigned b)
{
	struct pair *p = pair_of(ns, a, b);

	if (!p->up)
		return;
	p->up = false;
	p->dying = false;
	p->epoch++;
	pipe_clear(&ns->pipes[a][b]);
	pipe_clear(&ns->pipes[b][a]);
	later(ns, a, a, b, 0, tell_down);
	later(ns, b, b, a, 0, tell_down);
	pair_dial(ns, a, b);
}

/* What `who` makes of the hello of `of`. */
static int ask(struct net_sim *ns, unsigned who, unsigned of)
{
	const struct link_admit *a = &ns->ends[who]->door.admit;
	const struct net_sim_door *d = &ns->ends[of]->door;
	struct err e = { 0, "" };

	return a->admit ? a->admit(a->arg, of, d->disk_id, d->joined, &e) : 0;
}

/* `who` hears that its disk was refused. */
static void told(struct net_sim *ns, unsigned who, unsigned by)
{
	const struct link_admit *a = &ns->ends[who]->door.admit;
	unsigned i;

	if (!a->refused || !a->refused(a->arg, by, "another disk"))
		return;
	for (i = 1; i <= ns->n; i++)
		if (i != who)
			pair_down(ns, who, i);
}

/* The lower one dials, so the other one judges first, as links do. */
static bool may_talk(struct net_sim *ns, unsigned a, unsigned b)
{
	int there = ask(ns, b, a), here = 0;

	if (there == ERR_PERM)
		told(ns, a, b);
	if (there == 0 || there == ERR_FAULTY)
		here = ask(ns, a, b);
	if (here == ERR_PERM)
		told(ns, b, a);
	return !there && !here && alive(ns, a) && alive(ns, b);
}

static void on_dial(void *arg)
{
	struct timer t = *(struct timer *)arg;
	struct pair *p = pair_of(t.ns, t.a, t.b);

	free(arg);
	p->dialling = false;
	if (p->up || !alive(t.ns, t.a) || !alive(t.ns, t.b))
		return;
	if (cut_between(t.ns, t.a, t.b) || !may_talk(t.ns, t.a, t.b)) {
		pair_dial(t.ns, t.a, t.b);
		return;
	}
	p->up = true;
	p->epoch++;
	later(t.ns, t.a, t.a, t.b, 0, tell_up);
	later(t.ns, t.b, t.b, t.a, 0, tell_up);
}

static void pair_dial(struct net_sim *ns, unsigned a, unsigned b)
{
	struct pair *p = pair_of(ns, a, b);

	if (p->dialling || p->up)
		return;
	p->dialling = true;
	later(ns, a, a, b,
	      RETRY_MIN_US +
		      rand_below(&ns->sim->rand, RETRY_MAX_US - RETRY_MIN_US),
	      on_dial);
}

static void on_dead(void *arg)
{
	struct timer t = *(struct timer *)arg;
	struct pair *p = pair_of(t.ns, t.a, t.b);

	free(arg);
	if (p->epoch != t.epoch || !p->dying)
		return;
	p->dying = false;
	if (cut_between(t.ns, t.a, t.b) || !alive(t.ns, t.a) ||
	    !alive(t.ns, t.b))
		pair_down(t.ns, t.a, t.b);
}

static void pair_dies(struct net_sim *ns, unsigned a, unsigned b, uint64_t us)
{
	struct pair *p = pair_of(ns, a, b);

	if (!p->up || p->dying)
		return;
	p->dying = true;
	later(ns, a, a, b, us, on_dead);
}

/* ---- messages ---------------------------------------------------------------- */

static void give(struct message *m)
{
	struct net_sim *ns = m->ns;
	struct endpoint *e = ns->ends[m->to];

	ns->pipes[m->from][m->to].queued -= m->len;
	ns->messages++;
	e->net.on_message(e->net.arg, m->from, m->data, m->len);
	free(m);
}

static void hold(struct pipe *p, struct message *m)
{
	if (p->n_held == p->cap_held) {
		p->cap_held = p->cap_held ? 2 * p->cap_held : 16;
		p->held = xrealloc(p->held, p->cap_held * sizeof *p->held);
	}
	p->held[p->n_held++] = m;
}

static void on_arrival(void *arg)
{
	struct message *m = arg;
	struct net_sim *ns = m->ns;
	struct pipe *p = &ns->pipes[m->from][m->to];

	if (pair_of(ns, m->from, m->to)->epoch != m->epoch ||
	    !alive(ns, m->to)) {
		free(m);
		return;
	}
	if (p->cut || p->n_held)
		hold(p, m);
	else
		give(m);
}

static void on_release(void *arg)
{
	struct timer t = *(struct timer *)arg;
	struct pipe *p = &t.ns->pipes[t.a][t.b];
	struct message **held = p->held;
	size_t i, n = p->n_held;

	free(arg);
	if (p->cut || pair_of(t.ns, t.a, t.b)->epoch != t.epoch)
		return;
	p->held = NULL;
	p->n_held = p->cap_held = 0;
	for (i = 0; i < n; i++) {
		if (alive(t.ns, t.b) &&
		    held[i]->epoch == pair_of(t.ns, t.a, t.b)->epoch)
			give(held[i]);
		else
			free(held[i]);
	}
	free(held);
}

static int ns_send(struct net *net, uint64_t peer, const void *head, size_t len,
		   struct entry *const *entries, unsigned n_entries)
{
	struct endpoint *e = (struct endpoint *)(void *)net;
	struct net_sim *ns = e->ns;
	struct pipe *p = &ns->pipes[e->node][peer];
	const struct net_sim_config *c = &ns->cfg;
	struct message *m;
	size_t total = len, at = len;
	uint64_t us;
	unsigned i;

	AN(peer >= 1 && peer <= ns->n && peer != e->node);
	for (i = 0; i < n_entries; i++)
		total += entries[i]->len;
	AN(total <= NET_MESSAGE_MAX);
	if (!e->alive || !pair_of(ns, e->node, (unsigned)peer)->up)
		return ERR_CLOSED;
	if (p->queued + total >
	    NET_QUEUE_MAX - (n_entries ? NET_QUEUE_RESERVE : 0))
		return ERR_FULL;
	m = xmalloc(sizeof *m + total);
	*m = (struct message){ ns, e->node, (unsigned)peer,
			       pair_of(ns, e->node, (unsigned)peer)->epoch,
			       total };
	memcpy(m->data, head, len);
	for (i = 0; i < n_entries; i++) {
		memcpy(m->data + at, entry_payload(entries[i]),
		       entries[i]->len);
		at += entries[i]->len;
	}
	if (ns->tap)
		ns->tap(ns->tap_arg, e->node, (unsigned)peer, m->data, total);
	us = c->delay_min_us + p->far_us +
	     rand_below(&ns->sim->rand,
			c->delay_max_us - c->delay_min_us + 1);
	if (rand_permille(&ns->sim->rand, c->slow_permille))
		us += rand_below(&ns->sim->rand, c->slow_us + 1);
	us += ns->sim->now_us;
	if (us < p->last_us)
		us = p->last_us; /* order of a connection */
	p->last_us = us;
	p->queued += total;
	sim_after(ns->sim, (int)peer, us - ns->sim->now_us, on_arrival, m);
	return 0;
}

static void ns_flush(struct net *net)
{
	(void)net;
}

static bool ns_is_up(struct net *net, uint64_t peer)
{
	struct endpoint *e = (struct endpoint *)(void *)net;

	return e->alive && peer >= 1 && peer <= e->ns->n && peer != e->node &&
	       pair_of(e->ns, e->node, (unsigned)peer)->up;
}

static size_t ns_queued(struct net *net, uint64_t peer)
{
	struct endpoint *e = (struct endpoint *)(void *)net;

	return e->ns->pipes[e->node][peer].queued;
}

static const struct net_ops net_sim_ops = { ns_send, ns_flush, ns_is_up,
					    ns_queued };

/* ---- world's side --------------------------------------------------------------- */

struct net_sim *net_sim_new(struct sim *s, unsigned n,
			    const struct net_sim_config *cfg)
{
	struct net_sim *ns = xcalloc(1, sizeof *ns);
	unsigned a, b;

	AN(n <= NET_SIM_NODES);
	ns->sim = s;
	ns->n = n;
	ns->cfg = *cfg;
	for (a = 1; cfg->far_us && a <= n; a++)
		for (b = 1; b <= n; b++)
			if (rand_below(&s->rand, 2))
				ns->pipes[a][b].far_us =
					rand_below(&s->rand, cfg->far_us);
	return ns;
}

/* Messages still in the event queue go with the simulator's memory: call after
 * the last step. */
void net_sim_free(struct net_sim *ns)
{
	unsigned a, b;

	for (a = 1; a <= ns->n; a++) {
		free(ns->ends[a]);
		for (b = 1; b <= ns->n; b++) {
			pipe_clear(&ns->pipes[a][b]);
			free(ns->pipes[a][b].held);
		}
	}
	free(ns);
}

struct net *net_sim_start(struct net_sim *ns, unsigned node)
{
	struct endpoint *e = ns->ends[node];
	unsigned b;

	if (!e)
		e = ns->ends[node] = xcalloc(1, sizeof *e);
	memset(&e->net, 0, sizeof e->net);
	memset(&e->door, 0, sizeof e->door);
	e->net.ops = &net_sim_ops;
	e->ns = ns;
	e->node = node;
	e->alive = true;
	e->life++;
	for (b = 1; b <= ns->n; b++) {
		if (b == node)
			continue;
		/* The peer may not have noticed that the process before died. */
		pair_down(ns, node, b);
		pair_dial(ns, node < b ? node : b, node < b ? b : node);
	}
	return &e->net;
}

void net_sim_door(struct net_sim *ns, unsigned node, const struct net_sim_door *d)
{
	ns->ends[node]->door = *d;
}

void net_sim_stop(struct net_sim *ns, unsigned node, bool reset)
{
	unsigned b;

	if (!alive(ns, node))
		return;
	ns->ends[node]->alive = false;
	for (b = 1; b <= ns->n; b++) {
		struct pair *p;

		if (b == node)
			continue;
		p = pair_of(ns, node, b);
		if (!p->up)
			continue;
		if (reset) {
			pair_down(ns, node, b);
		} else {
			p->dying = false;
			pair_dies(ns, node, b, DEAD_US);
		}
	}
}

void net_sim_cut(struct net_sim *ns, unsigned a, unsigned b, bool cut)
{
	struct pipe *p = &ns->pipes[a][b];

	if (p->cut == cut)
		return;
	p->cut = cut;
	if (cut)
		pair_dies(ns, a, b, DEAD_US);
	else if (p->n_held)
		later(ns, b, a, b, 0, on_release);
}

void net_sim_heal_all(struct net_sim *ns)
{
	unsigned a, b;

	for (a = 1; a <= ns->n; a++)
		for (b = 1; b <= ns->n; b++)
			if (a != b)
				net_sim_cut(ns, a, b, false);
}

bool net_sim_is_up(const struct net_sim *ns, unsigned a, unsigned b)
{
	return a < b ? ns->pairs[a][b].up : ns->pairs[b][a].up;
}

void net_sim_tap(struct net_sim *ns,
		 void (*tap)(void *arg, unsigned from, unsigned to,
			     const uint8_t *p, size_t n),
		 void *arg)
{
	ns->tap = tap;
	ns->tap_arg = arg;
}

uint64_t net_sim_messages(const struct net_sim *ns)
{
	return ns->messages;
}
