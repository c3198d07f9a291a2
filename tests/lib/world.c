#include "tests/lib/world.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/hash.h"
#include "tests/lib/kv_mem.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TURN_US 5 /* a node that has more to do comes back after so long */

struct alarm_clock {
	struct world_node *wn;
	unsigned life;
	uint64_t at_us;
};

void world_config_small(struct world_config *cfg)
{
	struct node_config *n = &cfg->node;

	cfg->disk = disk_sim_fast;
	memcpy(n->cluster_id, "simulated quipu", 16);
	memcpy(n->journal.cluster_id, n->cluster_id, 16);
	memcpy(n->store.cluster_id, n->cluster_id, 16);
	n->journal.file_size = 256 << 10;
	n->journal.max_bytes = 64u << 20;
	n->journal.queue_bytes = 256 << 10;
	n->store.segment_bytes = 256 << 10;
	n->store.dirty_max_bytes = 1 << 20;
	n->store.tail_cache_bytes = 64 << 10;
	n->store.row_cache_max = 256;
	n->checkpoint_bytes = 1 << 20;
	n->checkpoint_age_ms = 20000;
	n->batch_bytes = 128 << 10;
	n->batch_records = 1024;
	n->batch_inflight = 2;
	n->feature_auto = true;
}

void world_fail(struct world *w, const char *fmt, ...)
{
	va_list ap;

	if (w->failure[0])
		return;
	va_start(ap, fmt);
	vsnprintf(w->failure, sizeof w->failure, fmt, ap);
	va_end(ap);
	sim_trace(&w->sim, "FAILED %s", w->failure);
}

static uint64_t mix(uint64_t seed, uint64_t a, uint64_t b)
{
	uint64_t v[3] = { seed, a, b };

	return xxh3(v, sizeof v);
}

/* A node's clocks run a little too fast or too slow. */
static uint64_t node_mono_us(struct clock *c)
{
	const struct world_node *wn = (struct world_node *)(void *)c;

	return wn->world->sim.now_us * (uint64_t)(1000000 + wn->drift_ppm) /
	       1000000;
}

/* From its time to all nodes' time; no less than asked for. */
static uint64_t node_delay_us(const struct world_node *wn, uint64_t us)
{
	if (us > UINT32_MAX)
		return us;
	return us * 1000000 / (uint64_t)(1000000 + wn->drift_ppm) + 1;
}

static uint64_t node_wall_ms(struct clock *c)
{
	struct world_node *wn = (struct world_node *)(void *)c;

	return clock_wall_ms(&wn->world->sim.clock) + (uint64_t)wn->wall_off_ms +
	       (uint64_t)((int64_t)(node_mono_us(c) - wn->world->sim.now_us) /
			  1000);
}

void world_init(struct world *w, const struct world_config *cfg)
{
	unsigned i;

	memset(w, 0, sizeof *w);
	AN(cfg->nodes >= 1 && cfg->nodes <= WORLD_NODES_MAX);
	w->cfg = *cfg;
	sim_init(&w->sim, cfg->seed);
	list_init(&w->conns);
	w->net = net_sim_new(&w->sim, cfg->nodes, &cfg->net);
	if (!cfg->founders)
		w->cfg.founders = cfg->nodes;
	w->cfg.node.n_members = w->cfg.founders;
	for (i = 1; i <= cfg->nodes; i++) {
		struct world_node *wn = &w->nodes[i];

		if (i <= w->cfg.founders) {
			w->cfg.node.members[i - 1] = i;
			w->cfg.node.addresses[i - 1] = "simulated:1";
		}
		wn->world = w;
		wn->id = i;
		wn->clock.mono_us = node_mono_us;
		wn->clock.wall_ms = node_wall_ms;
		if (cfg->drift_ppm)
			wn->drift_ppm = (int32_t)rand_below(&w->sim.rand,
							    2 * cfg->drift_ppm) -
					(int32_t)cfg->drift_ppm;
		list_init(&wn->conns);
		wn->medium = disk_sim_new(&w->sim, (int)i,
					  mix(cfg->seed, 'd', i), &cfg->disk);
	}
}

/* ---- timers ---------------------------------------------------------------------- */

static void node_arm(struct world_node *wn);

static void on_alarm(void *arg)
{
	struct alarm_clock a = *(struct alarm_clock *)arg;
	struct world_node *wn = a.wn;
	uint64_t now = clock_us(&wn->clock);

	free(arg);
	if (!wn->node || wn->life != a.life)
		return;
	if (wn->armed_us == a.at_us)
		wn->armed_us = UINT64_MAX;
	if (node_deadline_us(wn->node) <= now)
		node_tick(wn->node);
	if (!wn->ended && route_deadline_us(&wn->route) <= now)
		route_tick(&wn->route);
	if (!wn->ended)
		conns_tick(wn);
}

static void node_arm(struct world_node *wn)
{
	struct sim *s = &wn->world->sim;
	uint64_t at = node_deadline_us(wn->node), now, x;
	struct alarm_clock *a;

	x = route_deadline_us(&wn->route);
	if (x < at)
		at = x;
	x = conns_deadline_us(wn);
	if (x < at)
		at = x;
	if (at == UINT64_MAX)
		return;
	now = clock_us(&wn->clock);
	if (at < now + TURN_US)
		at = now + TURN_US;
	if (wn->armed_us <= at)
		return;
	wn->armed_us = at;
	a = xmalloc(sizeof *a);
	*a = (struct alarm_clock){ wn, wn->life, at };
	sim_after(s, (int)wn->id, node_delay_us(wn, at - now), on_alarm, a);
}

/* ---- life of a node ------------------------------------------------------------------ */

static void on_fatal(void *arg, const struct err *e)
{
	struct world_node *wn = arg;

	wn->ended = true;
	if (!wn->frozen && !wn->expect_end)
		world_fail(wn->world, "node %u ended: %s", wn->id, e->msg);
}

/* Nothing leaves the node from here on. */
static void on_frozen(void *arg)
{
	struct world_node *wn = arg;

	wn->frozen = true;
	sim_trace(&wn->world->sim, "node %u: power goes inside a turn", wn->id);
	net_sim_stop(wn->world->net, wn->id, true);
}

static void on_stopped(void *arg)
{
	struct world_node *wn = arg;

	wn->stopped = true;
}

static enum token_verdict verify(void *arg, const char *token, size_t len,
				 uint64_t now_s, struct token_claims *claims,
				 const char **why)
{
	char copy[64];
	uint64_t account;
	unsigned device, epoch;

	(void)arg;
	if (len >= sizeof copy) {
		*why = "too long";
		return TOKEN_INVALID;
	}
	memcpy(copy, token, len);
	copy[len] = 0;
	if (sscanf(copy, "sim/%" SCNx64 "/%u/%u", &account, &device, &epoch) !=
	    3) {
		*why = "not of the simulator";
		return TOKEN_INVALID;
	}
	*claims = (struct token_claims){ account, device, epoch, now_s,
					 now_s + 86400 };
	return TOKEN_OK;
}

void world_token(char out[64], uint64_t account, uint32_t device,
		 uint32_t epoch)
{
	snprintf(out, 64, "sim/%" PRIx64 "/%u/%u", account, device, epoch);
}

bool world_up(const struct world *w, unsigned node)
{
	return w->nodes[node].node;
}

/* What quipud does between its disk and its links. */
static int guard(struct world_node *wn, struct node_config *cfg,
		 const struct net *net, struct err *e)
{
	struct net_sim_door door = { .joined = cfg->meta.joined };

	memcpy(cfg->disk_id, cfg->meta.disk_id, 16);
	memcpy(door.disk_id, cfg->meta.disk_id, 16);
	door.admit = known_link_admit(&wn->known);
	if (net)
		net_sim_door(wn->world->net, wn->id, &door);
	return known_open(&wn->known, wn->disk, &cfg->meta, e);
}

bool world_start(struct world *w, unsigned node)
{
	struct world_node *wn = &w->nodes[node];
	struct node_config cfg = w->cfg.node;
	struct node_env env = { 0 };
	struct err e = { 0 };
	unsigned i;
	bool made;
	int rv;

	AN(!wn->node);
	wn->life++;
	wn->frozen = wn->ended = false;
	wn->expect_end = wn->full || wn->rotten;
	wn->stopping = wn->stopped = false;
	wn->armed_us = UINT64_MAX;
	rand_seeded(&wn->rand, mix(w->cfg.seed, node, wn->life));
	wn->disk = disk_sim_start(wn->medium);
	cfg.id = node;
	memset(cfg.disk_id, (int)node, 16);
	cfg.journal.node_id = node;
	cfg.joined = node > w->cfg.founders;
	env.disk = wn->disk;
	env.kv = &kv_mem;
	env.net = w->cfg.nodes > 1 ? net_sim_start(w->net, node) : NULL;
	env.clock = &wn->clock;
	env.rand = &wn->rand;
	env.fatal = on_fatal;
	env.fatal_arg = wn;
	w->starts++;
	sim_trace(&w->sim, "start %u", node);
	cfg.feature_max = wn->feature_max;
	cfg.meta.node_id = node;
	memcpy(cfg.meta.cluster_id, cfg.cluster_id, 16);
	for (i = 0; i < cfg.n_members; i++)
		cfg.meta.founders |= 1ull << cfg.members[i];
	cfg.meta.shards = cfg.shards;
	rv = nodemeta_open(wn->disk, &cfg.meta, &wn->rand, &made, &e);
	if (!rv && w->cfg.guard)
		rv = guard(wn, &cfg, env.net, &e);
	if (!rv)
		rv = node_open(&wn->node, &cfg, &env, &e);
	if (rv || wn->frozen || wn->ended) {
		if (!wn->frozen && !wn->expect_end)
			world_fail(w, "node %u does not start: %s", node, e.msg);
		if (rv)
			wn->node = NULL;
		world_crash(w, node, WORLD_POWER);
		return false;
	}
	route_init(&wn->route, wn->node, &wn->clock, &wn->rand);
	wn->env = (struct session_env){
		.node = wn->node,
		.route = &wn->route,
		.clock = &wn->clock,
		.rand = &wn->rand,
		.verify = verify,
		.hello_ms = 5000,
		.heartbeat_s = w->cfg.heartbeat_s,
		.window_max = w->cfg.window_max,
		.history_epoch = node_epoch(wn->node),
	};
	node_arm(wn);
	return true;
}

void world_crash(struct world *w, unsigned node, enum world_crash how)
{
	struct world_node *wn = &w->nodes[node];
	bool reset = how == WORLD_KILL || rand_below(&w->sim.rand, 2);

	sim_trace(&w->sim, "crash %u %s", node,
		  how == WORLD_POWER ? "power" : "kill");
	if (how == WORLD_POWER || wn->frozen) {
		disk_sim_crash(wn->medium);
		w->crashes++;
	} else {
		disk_sim_kill(wn->medium);
		w->kills++;
	}
	if (w->cfg.nodes > 1)
		net_sim_stop(w->net, node, reset);
	if (wn->node) {
		conns_node_down(wn, reset);
		if (wn->env.node) {
			route_release(&wn->route);
			buf_release(&wn->env.scratch);
			wn->env.node = NULL;
		}
		node_close(wn->node);
		wn->node = NULL;
	}
	wn->life++;
	if (w->down)
		w->down(w->arg, node);
}

static void on_left(void *arg)
{
	struct world_node *wn = arg;

	conns_drain(wn);
	node_stop(wn->node, on_stopped, wn);
}

void world_stop(struct world *w, unsigned node)
{
	struct world_node *wn = &w->nodes[node];

	if (!wn->node || wn->stopping)
		return;
	sim_trace(&w->sim, "stop %u", node);
	wn->stopping = true;
	node_leave(wn->node, on_left, wn);
	node_arm(wn);
}

void world_crash_at(struct world *w, unsigned node, uint64_t n)
{
	disk_sim_crash_at(w->nodes[node].medium, n, on_frozen,
			  &w->nodes[node]);
}

void world_fail_disk_at(struct world *w, unsigned node, uint64_t n)
{
	w->nodes[node].expect_end = true;
	disk_sim_fail_at(w->nodes[node].medium, n, ERR_IO);
}

void world_disk_full(struct world *w, unsigned node, uint64_t spare)
{
	struct disk_sim_stats st;

	disk_sim_stats(w->nodes[node].medium, &st);
	w->nodes[node].full = w->nodes[node].expect_end = true;
	disk_sim_set_total(w->nodes[node].medium, st.used_bytes + spare);
}

void world_rot(struct world *w, unsigned node, bool journal)
{
	const char *path = disk_sim_rot(w->nodes[node].medium,
					journal ? "" : "shards/");

	sim_trace(&w->sim, "rot on node %u: %s", node, path ? path : "none");
	w->nodes[node].rotten = w->nodes[node].expect_end = true;
	w->nodes[node].rotten_log |= path && strncmp(path, "shards/", 7);
}

bool world_wipe(struct world *w, unsigned node)
{
	struct world_node *wn = &w->nodes[node];
	unsigned i;

	AN(w->cfg.guard);
	if (wn->wiped)
		return false;
	for (i = 1; i <= w->cfg.nodes; i++)
		if (i != node && (!w->nodes[i].node || w->nodes[i].frozen ||
				  !w->nodes[i].known.peers[node].seen))
			return false;
	wn->wiped = wn->rotten = wn->expect_end = w->wiped = true;
	if (wn->node)
		world_crash(w, node, WORLD_POWER);
	sim_trace(&w->sim, "wipe %u", node);
	/* What is under way to the old one still comes back to it. */
	wn->lost = wn->medium;
	wn->medium = disk_sim_new(&w->sim, (int)node, mix(w->cfg.seed, 'w', node),
				  &w->cfg.disk);
	return true;
}

/* Not a vote, not a word of it. */
static void nobody_hears(struct world *w)
{
	unsigned a, b;

	for (a = 1; w->wiped && a <= w->cfg.nodes; a++)
		for (b = 1; w->nodes[a].wiped && w->nodes[a].node &&
			    b <= w->cfg.nodes; b++)
			if (b != a && net_sim_is_up(w->net, a, b))
				world_fail(w, "node %u hears node %u, whose disk "
					      "was wiped", b, a);
}

void world_disk_free(struct world *w, unsigned node)
{
	w->nodes[node].full = false;
	disk_sim_set_total(w->nodes[node].medium, 1ull << 40);
}

static void node_settle(struct world_node *wn)
{
	struct world *w = wn->world;

	if (!wn->node)
		return;
	while (!wn->ended && !wn->frozen) {
		node_turn(wn->node);
		if (!conns_sweep(wn))
			break;
	}
	if (wn->frozen) {
		world_crash(w, wn->id, WORLD_POWER);
	} else if (wn->ended) {
		w->disk_deaths++;
		world_crash(w, wn->id, WORLD_KILL);
	} else if (wn->stopped) {
		world_crash(w, wn->id, WORLD_KILL);
	} else {
		node_arm(wn);
		if (w->turned)
			w->turned(w->arg, wn->id);
	}
}

bool world_step(struct world *w)
{
	int owner;

	if (!sim_step(&w->sim, &owner))
		return false;
	if (owner > 0)
		node_settle(&w->nodes[owner]);
	nobody_hears(w);
	return true;
}

void world_poke(struct world *w, unsigned node)
{
	node_settle(&w->nodes[node]);
}

void world_release(struct world *w)
{
	unsigned i;

	w->down = w->turned = NULL;
	for (i = 1; i <= w->cfg.nodes; i++)
		if (w->nodes[i].node)
			world_crash(w, i, WORLD_KILL);
	conns_release(w);
	/* What is still under way frees itself when its time comes. */
	while (world_step(w))
		;
	for (i = 1; i <= w->cfg.nodes; i++) {
		disk_sim_free(w->nodes[i].medium);
		if (w->nodes[i].lost)
			disk_sim_free(w->nodes[i].lost);
	}
	net_sim_free(w->net);
	sim_release(&w->sim);
}
