#include "tests/lib/group_world.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/hash.h"
#include "consensus/raft_impl.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_BYTES (256u << 10)
#define RING_BYTES (64u << 20)
#define CKPT_WRITE_US 5000

const struct net_sim_config gw_net_calm = {
	.delay_min_us = 50, .delay_max_us = 400,
};

static void dump(const struct gw *w)
{
	unsigned i;

	for (i = 1; i <= w->cfg.nodes; i++) {
		const struct gw_node *n = &w->n[i];
		const struct group *g = n->group;

		if (!n->alive) {
			fprintf(stderr, "  %u is down\n", i);
			continue;
		}
		fprintf(stderr,
			"  %u: state %d term %" PRIu64 " trail %" PRIu64
			" last %" PRIu64 " stored %" PRIu64 " durable %" PRIu64
			" commit %" PRIu64 " applied %" PRIu64 " snap %" PRIu64
			" waiting %u votes %u\n",
			i, g->raft.state, (uint64_t)g->raft.current_term,
			g->trail_first, g->cache.last,
			(uint64_t)g->raft.last_stored, g->durable, g->commit,
			g->applied, g->snap_index, g->n_waiting,
			g->votes_pending);
	}
}

void gw_fail(const struct gw *w, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "\nseed %" PRIu64 ", %.3f s: ", w->cfg.seed,
		(double)w->sim.now_us / 1e6);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\n");
	dump(w);
	fflush(stdout);
	abort();
}

/* ---- what must hold ------------------------------------------------------------ */

static void check_leader(struct gw *w, const struct gw_node *n)
{
	while (n->term >= w->cap_terms) {
		uint64_t cap = w->cap_terms ? 2 * w->cap_terms : 1024;

		w->leader_of = xrealloc(w->leader_of, cap * sizeof(unsigned));
		memset(w->leader_of + w->cap_terms, 0,
		       (cap - w->cap_terms) * sizeof(unsigned));
		w->cap_terms = cap;
	}
	if (w->leader_of[n->term] && w->leader_of[n->term] != n->id)
		gw_fail(w, "nodes %u and %u both lead in term %" PRIu64,
			w->leader_of[n->term], n->id, n->term);
	if (!w->leader_of[n->term])
		w->stats.leaders++;
	w->leader_of[n->term] = n->id;
}

static bool has_durable(const struct gw_node *n, uint64_t index, uint64_t term)
{
	if (!n->alive)
		return index <= n->dead_last && n->dead_terms[index] == term;
	if (index <= n->group->snap_index)
		return true;
	return index <= n->group->durable &&
	       log_term(n->group, index) == term;
}

static bool majority_has(struct gw *w, const struct group_conf *c,
			 uint64_t index, uint64_t term, unsigned *have)
{
	unsigned i, voters = 0;

	*have = 0;
	for (i = 0; i < c->n; i++) {
		const struct group_member *m = &c->members[i];

		if (!m->voter)
			continue;
		voters++;
		*have += w->n[m->id].holds && w->n[m->id].name == m->life &&
			 has_durable(&w->n[m->id], index, term);
	}
	return *have > voters / 2;
}

/* A leader counts by the newest configuration that it has, which another one may
 * have got since. */
static void check_durable(struct gw *w, uint64_t index, uint64_t term)
{
	struct group_info info;
	unsigned i, have, some;

	if (index == 1)
		return; /* the first configuration is committed by agreement */
	if (majority_has(w, &w->conf, index, term, &have))
		return;
	for (i = 1; i <= w->cfg.nodes; i++) {
		if (!w->n[i].alive)
			continue;
		group_info(w->n[i].group, &info);
		if (majority_has(w, &info.conf, index, term, &some))
			return;
	}
	gw_fail(w, "entry %" PRIu64 " of term %" PRIu64
		" is committed but on %u disks of its voters only",
		index, term, have);
}

static void conf_note(struct gw *w, struct entry *e)
{
	struct gw_conf *c = &w->confs[w->n_confs++];

	AN(w->n_confs <= GW_CONFS_MAX && e->len - 1 <= sizeof c->bytes);
	c->index = e->index;
	c->len = e->len - 1;
	memcpy(c->bytes, entry_payload(e) + 1, c->len);
	AZ(group_conf_decode(&w->conf, e->index, c->bytes, c->len));
}

static void on_apply(void *arg, struct entry *e)
{
	struct gw_node *n = arg;
	struct gw *w = n->w;
	uint64_t hash = xxh3(entry_payload(e), e->len);

	if (e->index != n->applied + 1)
		gw_fail(w, "node %u applies %" PRIu64 " after %" PRIu64, n->id,
			e->index, n->applied);
	n->applied = e->index;
	n->applied_term = e->term;
	if (e->index >= w->cap_history) {
		w->cap_history = w->cap_history ? 2 * w->cap_history : 4096;
		w->history = xrealloc(w->history,
				      w->cap_history * sizeof *w->history);
	}
	if (e->index > w->last) {
		if (e->index != w->last + 1)
			gw_fail(w, "node %u: hole before %" PRIu64, n->id,
				e->index);
		check_durable(w, e->index, e->term);
		w->last = e->index;
		w->history[e->index] = (struct gw_entry){ e->term, hash };
		if (entry_payload(e)[0] == GROUP_CHANGE)
			conf_note(w, e);
		w->stats.applied++;
	} else if (w->history[e->index].term != e->term ||
		   w->history[e->index].hash != hash) {
		gw_fail(w, "node %u applies another entry %" PRIu64
			" (term %" PRIu64 ", others %" PRIu64 ")",
			n->id, e->index, e->term, w->history[e->index].term);
	}
	if (n->role == GROUP_LEADER && e->index > w->told)
		w->told = e->index;
}

static void on_state(void *arg, enum group_role role, uint64_t term,
		     uint64_t leader)
{
	struct gw_node *n = arg;

	sim_trace(&n->w->sim, "node %u: %s term %" PRIu64 " leader %" PRIu64,
		  n->id,
		  role == GROUP_LEADER	    ? "leader"
		  : role == GROUP_CANDIDATE ? "candidate"
					    : "follower",
		  term, leader);
	if (term < n->term)
		gw_fail(n->w, "node %u: term %" PRIu64 " after %" PRIu64, n->id,
			term, n->term);
	n->role = role;
	n->term = term;
	n->leader = leader;
	if (role == GROUP_LEADER)
		check_leader(n->w, n);
}

static const struct group_ops ops = { on_apply, on_state, NULL };

/* ---- a node -------------------------------------------------------------------- */

static void node_turn(struct gw_node *n);

struct timer {
	struct gw_node *n;
	uint64_t life, at_us;
};

static void on_timer(void *arg)
{
	struct timer t = *(struct timer *)arg;
	struct gw_node *n = t.n;

	free(arg);
	if (!n->alive || n->life != t.life || n->timer_us != t.at_us)
		return;
	n->timer_us = UINT64_MAX;
	if (n->w->sim.now_us / 1000 >= group_deadline_ms(n->group))
		group_timeout(n->group);
}

static void node_arm(struct gw_node *n)
{
	uint64_t now = n->w->sim.now_us, at, ms = group_deadline_ms(n->group);
	struct timer *t;

	at = journal_tick(n->journal, now);
	if (ms < at / 1000)
		at = ms * 1000;
	if (at <= now)
		at = now + 1;
	if (at == UINT64_MAX || at >= n->timer_us)
		return;
	n->timer_us = at;
	t = xmalloc(sizeof *t);
	*t = (struct timer){ n, n->life, at };
	sim_after(&n->w->sim, (int)n->id, at - now, on_timer, t);
}

static void node_turn(struct gw_node *n)
{
	unsigned rounds = 0;

	if (!n->alive)
		return;
	while (group_wants_run(n->group)) {
		group_run(n->group);
		if (++rounds > 100000)
			gw_fail(n->w, "node %u always wants to run", n->id);
	}
	if (n->group->broken)
		gw_fail(n->w, "node %u: its group stopped", n->id);
	journal_flush(n->journal);
	n->net->ops->flush(n->net);
	node_arm(n);
}

static void on_message(void *arg, uint64_t peer, const uint8_t *p, size_t len)
{
	struct gw_node *n = arg;
	struct err e = { 0 };

	AN(len > GROUP_MSG_HEAD && p[0] == NODE_MSG_GROUP);
	AN(get_u32(p + 1) == GW_SHARD);
	if (group_receive(n->group, peer, p + GROUP_MSG_HEAD,
			  len - GROUP_MSG_HEAD, &e))
		gw_fail(n->w, "node %u refuses a message of %" PRIu64 ": %s",
			n->id, peer, e.msg);
}

static void on_up(void *arg, uint64_t peer)
{
	group_peer_up(((struct gw_node *)arg)->group, peer);
}

static void on_down(void *arg, uint64_t peer)
{
	group_peer_down(((struct gw_node *)arg)->group, peer);
}

static void on_fatal(void *arg, const struct err *e)
{
	struct gw_node *n = arg;

	gw_fail(n->w, "node %u: journal: %s", n->id, e->msg);
}

/* ---- checkpoints --------------------------------------------------------------- */

struct ckpt {
	struct gw_node *n;
	uint64_t life, index, term, at_us;
};

static void on_mark(struct journal_req *r)
{
	struct gw_node *n = r->arg;

	n->marking = false;
	n->marked = n->mark_index;
	group_durable(n->group, n->mark_index, n->mark_term);
	journal_hold(n->journal, GW_SHARD, group_needed_index(n->group));
}

/* With an ample ring, files are used again only behind what the slowest node has,
 * since there is no way yet to bring back a node that fell behind all journals.
 * In a small one that would stop everybody, and a node may be left behind. */
static void installs(struct gw_node *l);

static uint64_t markable(const struct gw *w, const struct gw_node *n)
{
	uint64_t low = UINT64_MAX;
	unsigned i;

	if (w->cfg.ring_bytes || w->cfg.founders)
		return n->ckpt_index;
	for (i = 1; i <= w->cfg.nodes; i++)
		if (w->n[i].ckpt_index < low)
			low = w->n[i].ckpt_index;
	return low;
}

static void ckpt_written(void *arg)
{
	struct ckpt c = *(struct ckpt *)arg;
	struct gw_node *n = c.n;
	uint64_t low;

	free(arg);
	if (!n->alive || n->life != c.life)
		return;
	if (n->installing)
		return;
	n->ckpt_index = c.index;
	n->ckpt_term = c.term;
	low = markable(n->w, n);
	if (n->marking || !low || low > n->applied || low == n->marked)
		return;
	n->marking = true;
	n->mark_index = low;
	n->mark_term = n->w->history[low].term;
	n->mark = (struct journal_req){ .shard = GW_SHARD,
					.has_mark = true,
					.mark_index = low,
					.mark_term = n->mark_term,
					.cb = on_mark,
					.arg = n };
	AZ(journal_submit(n->journal, &n->mark));
}

static void on_ckpt(void *arg)
{
	struct ckpt *c = arg;
	struct gw_node *n = c->n;

	if (!n->alive || n->life != c->life) {
		free(c);
		return;
	}
	if (n->w->cfg.founders)
		installs(n);
	group_tell_needed(n->group);
	journal_hold(n->journal, GW_SHARD, group_needed_index(n->group));
	/* As the product does: now and then, and when the journal fills up.  Also
	 * without news: others may have moved the mark. */
	if (n->applied &&
	    (n->w->sim.now_us >= c->at_us ||
	     journal_pinned_by(n->journal) == GW_SHARD)) {
		struct ckpt *w = xmalloc(sizeof *w);

		*w = (struct ckpt){ n, n->life, n->applied, n->applied_term, 0 };
		sim_after(&n->w->sim, (int)n->id, CKPT_WRITE_US, ckpt_written,
			  w);
	}
	if (n->w->sim.now_us >= c->at_us)
		c->at_us = n->w->sim.now_us +
			   1000 * (n->w->cfg.checkpoint_ms / 2 +
				   rand_below(&n->rand,
					      n->w->cfg.checkpoint_ms));
	sim_after(&n->w->sim, (int)n->id, 50000, on_ckpt, c);
}

/* The leader's journal does not reach back to what it has: even the term of that
 * entry is needed. */
static bool left_behind(const struct gw *w, const struct gw_node *n)
{
	unsigned l = gw_leader(w);

	if (!gw_is_member(w, n->id))
		return true;

	return w->cfg.ring_bytes && l && l != n->id &&
	       n->applied < journal_shard(w->n[l].journal, GW_SHARD)
				    ->first_index;
}

/* ---- the cluster --------------------------------------------------------------- */

static unsigned founders(const struct gw *w)
{
	return w->cfg.founders ? w->cfg.founders : w->cfg.nodes;
}

static void reads_forget(struct group_reads *q)
{
	struct group_read *r, *next;

	for (r = q->head; r; r = next) {
		next = r->next;
		free(r); /* first in struct read */
	}
}

/* ---- snapshots, imitated: the leader's checkpoint, by way of the journal's INSTALL
 * record, group closed and opened anew ------------------------------------------- */

static int open_group(struct gw *w, struct gw_node *n, struct err *e);

static void install_reopen(void *arg)
{
	struct ckpt c = *(struct ckpt *)arg;
	struct gw_node *n = c.n;
	struct err e = { 0 };

	free(arg);
	if (!n->alive || n->life != c.life)
		return;
	reads_forget(&n->group->reads_new);
	reads_forget(&n->group->reads_probing);
	reads_forget(&n->group->reads_ok);
	reads_forget(&n->group->reads_failed);
	group_close(n->group);
	n->ckpt_index = n->marked = c.index;
	n->ckpt_term = c.term;
	if (open_group(n->w, n, &e))
		gw_fail(n->w, "node %u: group_open after an install: %s", n->id,
			e.msg);
	group_tell_at_contact(n->group);
	n->installing = false;
	n->w->stats.installs++;
}

static void install_recorded(struct journal_req *r)
{
	sim_after(&((struct ckpt *)r->arg)->n->w->sim,
		  (int)((struct ckpt *)r->arg)->n->id, 1, install_reopen, r->arg);
}

static void install_try(void *arg)
{
	struct ckpt *c = arg;
	struct gw_node *n = c->n;

	if (!n->alive || n->life != c->life) {
		free(c);
		return;
	}
	if (!group_wants_snapshot(n->group, c->index, c->term)) {
		group_freeze(n->group, false);
		n->installing = false;
		free(c);
		return;
	}
	if (n->marking || !group_quiet(n->group)) {
		sim_after(&n->w->sim, (int)n->id, 5000, install_try, c);
		return;
	}
	group_void(n->group);
	n->install = (struct journal_req){ .shard = GW_SHARD,
					   .install = ++n->incarnation,
					   .install_index = c->index,
					   .install_term = c->term,
					   .cb = install_recorded,
					   .arg = c };
	AZ(journal_submit(n->journal, &n->install));
}

static void installs(struct gw_node *l)
{
	uint64_t lagging = group_take_lagging(l->group);
	unsigned i;

	for (i = 1; i <= l->w->cfg.nodes; i++) {
		struct gw_node *n = &l->w->n[i];
		struct ckpt *c;

		if (!(lagging >> i & 1) || !n->alive || n->installing ||
		    !l->marked || !l->net->ops->is_up(l->net, i))
			continue;
		group_offered(l->group, i, l->marked);
		if (!group_wants_snapshot(n->group, l->marked,
					  l->w->history[l->marked].term))
			continue;
		c = xcalloc(1, sizeof *c);
		c->n = n;
		c->life = n->life;
		c->index = l->marked;
		c->term = l->w->history[l->marked].term;
		n->installing = true;
		group_freeze(n->group, true);
		sim_after(&l->w->sim, (int)i, 20000, install_try, c);
	}
}

static void on_joining(void *arg)
{
	struct ckpt *c = arg;
	struct gw_node *n = c->n;

	if (!n->alive || n->life != c->life) {
		free(c);
		return;
	}
	group_tell_joining(n->group);
	sim_after(&n->w->sim, (int)n->id, 200000, on_joining, c);
}

bool gw_is_member(const struct gw *w, unsigned node)
{
	return w->n[node].holds &&
	       (!w->conf.index ||
		conf_view_has(&w->conf, node, w->n[node].name));
}

void gw_join(struct gw *w, unsigned node)
{
	struct gw_node *n = &w->n[node];

	if (n->alive)
		gw_crash(w, node, false);
	AN(w->n_old < GW_OLD_MEDIA_MAX);
	w->old[w->n_old++] = n->medium;
	n->medium = disk_sim_new(&w->sim, (int)node,
				 rand_u64(&n->rand), &w->cfg.disk);
	n->name = rand_u64(&n->rand) | 1;
	n->holds = true;
	n->ckpt_index = n->ckpt_term = n->mark_index = n->mark_term = 0;
	n->dead_last = 0;
	n->incarnation = 0;
	gw_start(w, node);
}

static int open_group(struct gw *w, struct gw_node *n, struct err *e)
{
	struct group_config gc = { .shard = GW_SHARD,
				   .self = n->id,
				   .life = n->name,
				   .election_ms = w->cfg.election_ms,
				   .heartbeat_ms = w->cfg.heartbeat_ms,
				   .cache_bytes = w->cfg.cache_bytes };
	struct group_boot boot = { .applied_index = n->ckpt_index,
				   .applied_term = n->ckpt_term };
	unsigned i;

	if (!n->name)
		for (; boot.n_voters < founders(w); boot.n_voters++)
			boot.voters[boot.n_voters] = boot.n_voters + 1;
	for (i = 0; i < w->n_confs && w->confs[i].index <= n->ckpt_index; i++) {
		boot.conf = w->confs[i].bytes;
		boot.conf_len = w->confs[i].len;
		boot.conf_index = w->confs[i].index;
	}
	n->role = GROUP_FOLLOWER;
	n->term = n->leader = 0;
	n->applied = n->ckpt_index;
	n->applied_term = n->ckpt_term;
	return group_open(&n->group, &gc, &boot, n->journal, n->net,
			  &w->sim.clock, &n->rand, &ops, n, e);
}

void gw_start(struct gw *w, unsigned node)
{
	struct gw_node *n = &w->n[node];
	struct journal_config jc = { .node_id = node,
				     .file_size = w->cfg.ring_bytes
							  ? w->cfg.ring_bytes / 4
							  : FILE_BYTES,
				     .max_bytes = w->cfg.ring_bytes
							  ? w->cfg.ring_bytes
							  : RING_BYTES,
				     .queue_bytes = 8u << 20 };
	const struct journal_shard *js;
	struct err e = { 0 };

	AN(!n->alive && n->holds);
	memcpy(jc.cluster_id, "group-world-test", 16);
	n->life++;
	n->timer_us = UINT64_MAX;
	n->marking = n->installing = false;
	n->disk = disk_sim_start(n->medium);
	if (journal_open(&n->journal, n->disk, &w->sim.clock, &jc, on_fatal, n,
			 &e))
		gw_fail(w, "node %u: journal_open: %s", node, e.msg);
	js = journal_shard(n->journal, GW_SHARD);
	n->marked = js->mark_index;
	/* An install that the journal has recorded is in force. */
	if (js->incarnation && js->mark_index > n->ckpt_index) {
		n->ckpt_index = js->mark_index;
		n->ckpt_term = js->mark_term;
	}
	n->net = net_sim_start(w->net, node);
	n->net->on_up = on_up;
	n->net->on_down = on_down;
	n->net->on_message = on_message;
	n->net->arg = n;
	if (open_group(w, n, &e))
		gw_fail(w, "node %u: group_open: %s", node, e.msg);
	n->alive = true;
	sim_trace(&w->sim, "node %u starts, applied %" PRIu64, node,
		  n->ckpt_index);
	if (w->cfg.founders) {
		struct ckpt *c = xcalloc(1, sizeof *c);

		c->n = n;
		c->life = n->life;
		sim_after(&w->sim, (int)node, 1000, on_joining, c);
	}
	if (w->cfg.checkpoint_ms) {
		struct ckpt *c = xcalloc(1, sizeof *c);

		c->n = n;
		c->life = n->life;
		sim_after(&w->sim, (int)node, 1000 * w->cfg.checkpoint_ms,
			  on_ckpt, c);
	}
	node_turn(n);
}

void gw_start_all(struct gw *w)
{
	unsigned i;

	for (i = 1; i <= founders(w); i++)
		gw_start(w, i);
}

static void node_stop(struct gw_node *n)
{
	struct group *g = n->group;

	n->alive = false;
	reads_forget(&g->reads_new);
	reads_forget(&g->reads_probing);
	reads_forget(&g->reads_ok);
	reads_forget(&g->reads_failed);
	journal_close(n->journal); /* forgets what is in flight */
	group_close(n->group);
	n->journal = NULL;
	n->group = NULL;
}

void gw_crash(struct gw *w, unsigned node, bool power)
{
	struct gw_node *n = &w->n[node];
	uint64_t i;

	AN(n->alive);
	sim_trace(&w->sim, "node %u %s", node, power ? "loses power" : "dies");
	w->stats.crashes++;
	n->dead_last = n->group->durable;
	n->dead_terms = xrealloc(n->dead_terms,
				 (n->dead_last + 1) * sizeof(uint64_t));
	for (i = 1; i <= n->dead_last; i++)
		n->dead_terms[i] = i <= n->group->snap_index
					   ? w->history[i].term
					   : log_term(n->group, i);
	if (power)
		disk_sim_crash(n->medium);
	else
		disk_sim_kill(n->medium);
	net_sim_stop(w->net, node, !power);
	node_stop(n);
}

void gw_init(struct gw *w, const struct gw_config *cfg)
{
	unsigned i;

	AN(cfg->nodes >= 1 && cfg->nodes <= GW_NODES);
	memset(w, 0, sizeof *w);
	w->cfg = *cfg;
	sim_init(&w->sim, cfg->seed);
	w->sim.verbose = cfg->verbose;
	w->net = net_sim_new(&w->sim, cfg->nodes, &cfg->net);
	for (i = 1; i <= cfg->nodes; i++) {
		struct gw_node *n = &w->n[i];

		n->w = w;
		n->id = i;
		n->holds = i <= founders(w);
		rand_seeded(&n->rand, cfg->seed * 1000 + i);
		n->medium = disk_sim_new(&w->sim, (int)i, cfg->seed * 77 + i,
					 &cfg->disk);
	}
}

void gw_release(struct gw *w)
{
	unsigned i;

	for (i = 1; i <= w->cfg.nodes; i++) {
		if (w->n[i].alive) {
			disk_sim_kill(w->n[i].medium);
			net_sim_stop(w->net, i, true);
			node_stop(&w->n[i]);
		}
	}
	/* Events own memory of their own: let them find everybody dead. */
	while (w->sim.n) {
		int owner;

		sim_step(&w->sim, &owner);
	}
	for (i = 1; i <= w->cfg.nodes; i++) {
		disk_sim_free(w->n[i].medium);
		free(w->n[i].dead_terms);
	}
	for (i = 0; i < w->n_old; i++)
		disk_sim_free(w->old[i]);
	net_sim_free(w->net);
	sim_release(&w->sim);
	free(w->history);
	free(w->leader_of);
}

static void step(struct gw *w)
{
	int owner = -1;

	if (sim_step(&w->sim, &owner) && owner > 0)
		node_turn(&w->n[owner]);
}

void gw_run_ms(struct gw *w, uint64_t ms)
{
	uint64_t end = w->sim.now_us + ms * 1000;

	while (w->sim.n && w->sim.heap[0].at_us <= end)
		step(w);
	w->sim.now_us = end;
}

bool gw_run_until(struct gw *w, bool (*cond)(struct gw *w), uint64_t max_ms)
{
	uint64_t end = w->sim.now_us + max_ms * 1000;

	while (!cond(w)) {
		if (!w->sim.n || w->sim.heap[0].at_us > end)
			return false;
		step(w);
	}
	return true;
}

unsigned gw_leader(const struct gw *w)
{
	unsigned i, best = 0;

	for (i = 1; i <= w->cfg.nodes; i++)
		if (w->n[i].alive && w->n[i].role == GROUP_LEADER &&
		    (!best || w->n[i].term > w->n[best].term))
			best = i;
	return best;
}

bool gw_has_leader(struct gw *w)
{
	return gw_leader(w) != 0;
}

bool gw_settled(struct gw *w)
{
	unsigned i, l = gw_leader(w);
	struct group_info info;

	if (!l)
		return false;
	group_info(w->n[l].group, &info);
	for (i = 1; i <= w->cfg.nodes; i++)
		if (w->n[i].alive && w->n[i].applied != info.last_index &&
		    !left_behind(w, &w->n[i]))
			return false;
	return true;
}

int gw_submit(struct gw *w, unsigned node, unsigned n, unsigned bytes)
{
	struct entry *es[GROUP_SUBMIT_MAX];
	unsigned i;
	int rv;

	AN(n <= GROUP_SUBMIT_MAX && w->n[node].alive);
	for (i = 0; i < n; i++) {
		uint8_t *p;

		es[i] = entry_new(GW_SHARD, 9 + bytes);
		p = entry_payload(es[i]);
		p[0] = GROUP_COMMAND;
		put_u64(p + 1, ++w->next_id);
		memset(p + 9, (int)w->next_id, bytes);
	}
	rv = group_submit(w->n[node].group, es, n);
	if (rv) {
		w->stats.refused += n;
		for (i = 0; i < n; i++)
			entry_unref(es[i]);
	} else {
		w->stats.submitted += n;
	}
	node_turn(&w->n[node]);
	return rv;
}

struct read {
	struct group_read r; /* first */
	struct gw *w;
	uint64_t floor;
};

static void on_read(struct group_read *r, int status, uint64_t index)
{
	struct read *rd = (struct read *)(void *)r;

	if (status) {
		rd->w->stats.reads_failed++;
	} else {
		rd->w->stats.reads_ok++;
		if (index < rd->floor)
			gw_fail(rd->w, "stale read: index %" PRIu64
				", a client knew %" PRIu64,
				index, rd->floor);
	}
	free(rd);
}

void gw_read(struct gw *w, unsigned node)
{
	struct read *rd = xcalloc(1, sizeof *rd);

	rd->r.cb = on_read;
	rd->w = w;
	rd->floor = w->told;
	group_read_index(w->n[node].group, &rd->r);
	node_turn(&w->n[node]);
}

void gw_check_logs(struct gw *w)
{
	unsigned i;
	uint64_t k;

	for (i = 1; i <= w->cfg.nodes; i++) {
		struct gw_node *n = &w->n[i];

		if (!n->alive || left_behind(w, n))
			continue;
		if (n->group->cache.last != w->last)
			gw_fail(w, "node %u's log ends at %" PRIu64, i,
				n->group->cache.last);
		for (k = n->group->snap_index + 1; k <= w->last; k++) {
			struct entry *e = log_get(n->group, k);

			if (!e)
				gw_fail(w, "node %u has lost entry %" PRIu64, i,
					k);
			if (e->term != w->history[k].term ||
			    xxh3(entry_payload(e), e->len) !=
				    w->history[k].hash)
				gw_fail(w, "node %u has another entry %" PRIu64,
					i, k);
			entry_unref(e);
		}
	}
}
