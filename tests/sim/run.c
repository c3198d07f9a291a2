#include "base/alloc.h"
#include "base/assert.h"
#include "consensus/node_impl.h"
#include "tests/sim/run.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define READY_US 30000000
#define STUCK_US 60000000 /* without progress so long: it never will */
#define CURE_US 60000000  /* as reliability promises */

void run_fail(struct run *r, const char *fmt, ...)
{
	char text[sizeof r->world.failure];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	world_fail(&r->world, "%s", text);
}

static bool failed(const struct run *r)
{
	return r->world.failure[0];
}

static void on_turn(void *arg, unsigned node)
{
	replicas_look(arg, node);
}

bool run_sound(const struct run *r, unsigned node, uint32_t shard)
{
	const struct node *n = r->world.nodes[node].node;

	return n && shard_works(&n->shards[shard]) && !n->shards[shard].going;
}

static bool all_up(const struct run *r)
{
	unsigned i;

	for (i = 1; i <= r->world.cfg.nodes; i++)
		if (!r->world.nodes[i].rotten &&
		    (!world_up(&r->world, i) ||
		     !node_ready(r->world.nodes[i].node)))
			return false;
	return true;
}

static bool step_until(struct run *r, bool (*done)(struct run *r), uint64_t us)
{
	uint64_t end = r->world.sim.now_us + us;

	while (r->world.sim.now_us < end && !failed(r)) {
		if (done && done(r))
			return true;
		if (!world_step(&r->world))
			break;
	}
	return !done;
}

static bool ready(struct run *r)
{
	return all_up(r);
}

/* ---- the end of a run ------------------------------------------------------------- */

static bool device_level(struct run *r, const struct device *d)
{
	uint32_t shard = node_shard_of(r->world.nodes[1].node, d->account);
	struct machine *m = &r->world.nodes[1].node->shards[shard].machine;
	uint64_t end;
	struct result res = { 0 };

	if (!run_sound(r, 1, shard))
		return false;
	end = machine_inbox_end(m, d->account);
	machine_device(m, d->account, d->device, &res);
	return device_settled(d) && d->store.state.meta.cursor == end &&
	       res.cursor == end;
}

/* All programs are the newest in the end: then so is the level, everywhere. */
static bool features_level(struct run *r)
{
	unsigned i;

	for (i = 1; i <= r->world.cfg.nodes; i++)
		if (r->world.nodes[i].rotten)
			return true;
	for (i = 1; i <= r->world.cfg.nodes; i++)
		if (r->world.nodes[i].node->feature.level != FEATURE_MAX)
			return false;
	return true;
}

static bool level(struct run *r)
{
	unsigned i, k;

	if (r->world.sim.events % 64 || !all_up(r) ||
	    (r->p.erase_us && !r->erased_for_good))
		return false;
	for (i = 0; i < r->p.accounts; i++)
		for (k = 0; k < r->p.devices[i]; k++)
			if (!device_level(r, r->devices[i][k]))
				return false;
	if (!features_level(r))
		return false;
	r->upgraded = r->p.old_nodes != 0;
	return replicas_level(r);
}

/* Everything pending finishes, however slow the links are, as long as something
 * goes on. */
static bool quiesce(struct run *r)
{
	uint64_t was, now = 0;

	do {
		was = now;
		if (step_until(r, level, STUCK_US))
			return true;
		now = r->check.acked + r->check.refused + r->check.delivered + 1;
	} while (now != was && !failed(r));
	return false;
}

static void say_what_hangs(struct run *r)
{
	unsigned i, k;

	replicas_trace(r);
	for (i = 1; i <= r->world.cfg.nodes; i++)
		if (!r->world.nodes[i].rotten &&
		    (!world_up(&r->world, i) ||
		     !node_ready(r->world.nodes[i].node))) {
			run_fail(r, "node %u is not ready", i);
			return;
		}
	for (i = 0; i < r->p.accounts; i++)
		for (k = 0; k < r->p.devices[i]; k++) {
			struct device *d = r->devices[i][k];

			if (d->client && device_level(r, d))
				continue;
			run_fail(r, "device %u.%u does not settle: %s (%s), %zu "
				    "open, cursor %" PRIu64 " of %" PRIu64,
				 i, k + 1,
				 d->client ? client_state_name(
						     client_state(d->client))
					   : "crashed",
				 d->client ? client_reason(d->client) : "",
				 d->client ? client_outbox_len(d->client) : 0,
				 d->store.state.meta.cursor,
				 d->client ? client_inbox_end(d->client) : 0);
			return;
		}
	if (r->p.erase_us && !r->erased_for_good)
		run_fail(r, "the account is not erased");
	else
		run_fail(r, "replicas do not level");
}

/* ---- repair -------------------------------------------------------------------- */

static bool whole(const struct run *r, unsigned node)
{
	uint32_t i;

	if (!world_up(&r->world, node))
		return false;
	for (i = 0; i < r->p.world.node.shards; i++)
		if (!run_sound(r, node, i))
			return false;
	return true;
}

/* Rot that nobody has read is not seen: every replica of the node is made anew. */
static bool made_anew(struct run *r)
{
	unsigned node = r->world.cfg.nodes;
	struct node *n = r->world.nodes[node].node;
	uint32_t i;
	bool all = true;

	if (r->world.sim.events % 16 || !whole(r, node))
		return false;
	for (i = 0; i < n->n_shards; i++) {
		if (journal_shard(n->journal, i)->incarnation > r->before[i])
			continue;
		node_repair(n, i, NULL);
		all = false;
	}
	return all;
}

/* Damage of a minority, save of a journal, is gone in the end. */
static bool cure(struct run *r)
{
	struct world_node *wn = &r->world.nodes[r->world.cfg.nodes];
	uint32_t i;

	if (!wn->rotten || wn->rotten_log || wn->wiped ||
	    r->world.cfg.nodes < 3)
		return true;
	for (i = 0; i < r->p.world.node.shards; i++)
		r->before[i] = r->incarnation[wn->id][i];
	if (!step_until(r, made_anew, CURE_US))
		return false;
	wn->rotten = false;
	r->coverage.seen[COVER_REPAIRED] += r->p.world.node.shards;
	return step_until(r, level, STUCK_US);
}

static void heal(struct run *r)
{
	unsigned i, k;

	sim_trace(&r->world.sim, "heal");
	chaos_heal(r);
	/* Or entries of its own would go on for ever. */
	r->world.cfg.node.retain.enabled = false;
	for (i = 1; i <= r->world.cfg.nodes; i++)
		if (r->world.nodes[i].node)
			r->world.nodes[i].node->retain.cfg.enabled = false;
	for (i = 0; i < r->p.accounts; i++)
		for (k = 0; k < r->p.devices[i]; k++) {
			struct device *d = r->devices[i][k];

			if (!d->client)
				continue;
			client_resume(d->client);
			device_pump(d);
		}
}

static void phases(struct run *r)
{
	unsigned i;

	for (i = 1; i <= r->world.cfg.nodes; i++) {
		if (r->p.old_nodes >> i & 1)
			r->world.nodes[i].feature_max = 1;
		world_start(&r->world, i);
	}
	if (!step_until(r, ready, READY_US)) {
		run_fail(r, "the cluster does not get ready");
		return;
	}
	if (!people_set_up(r)) {
		run_fail(r, "accounts and devices cannot be made");
		return;
	}
	people_start(r);
	chaos_start(r);
	step_until(r, NULL, r->p.chaos_us);
	if (failed(r))
		return;
	heal(r);
	if (!quiesce(r))
		say_what_hangs(r);
	if (!failed(r) && !cure(r))
		run_fail(r, "a damaged replica is not repaired");
	if (failed(r))
		return;
	replicas_end(r);
	check_end(&r->check);
}

static void report(struct run *r, struct run_result *out)
{
	struct world *w = &r->world;
	unsigned i;

	memset(out, 0, sizeof *out);
	out->ok = !failed(r);
	memcpy(out->failure, w->failure, sizeof out->failure);
	out->trace_hash = w->sim.trace_hash;
	out->events = w->sim.events;
	out->sim_us = w->sim.now_us;
	out->sends = r->check.n_sends;
	out->acked = r->check.acked;
	out->refused = r->check.refused;
	out->delivered = r->check.delivered;
	out->reads = r->check.reads_done;
	out->pages = r->check.pages;
	out->faults = r->faults;
	out->crashes = w->crashes + w->kills + w->disk_deaths;
	out->holes = r->check.holes;
	for (i = 0; i < SHARDS_MAX; i++) {
		out->trimmed += r->history[i].trimmed;
		out->rewrites += r->history[i].rewrites;
	}
	out->lost = r->check.lost;
	out->duplicated = r->check.duplicated;
	out->reordered = r->check.reordered;
	r->coverage.seen[COVER_POWER] = w->crashes;
	r->coverage.seen[COVER_KILL] = w->kills;
	r->coverage.seen[COVER_DISK_END] = w->disk_deaths;
	r->coverage.seen[COVER_RESTART] = r->restarts;
	r->coverage.seen[COVER_UPGRADED] = r->upgraded;
	r->coverage.seen[COVER_ELSEWHERE] = r->elsewhere;
	r->coverage.seen[COVER_DUP_ACK] = r->check.resolved_dup;
	r->coverage.seen[COVER_PAGE] = r->check.pages;
	r->coverage.seen[COVER_REFUSED] = r->check.refused;
	r->coverage.seen[COVER_CONN_BROKEN] = w->breaks;
	r->coverage.seen[COVER_CONN_REFUSED] = w->refused;
	out->coverage = r->coverage;
}

void run_seed(uint64_t seed, bool verbose, struct run_result *out)
{
	struct run *r = xcalloc(1, sizeof *r);
	unsigned i, k;

	params_draw(&r->p, seed);
	rand_seeded(&r->rand, seed * 31 + 7);
	world_init(&r->world, &r->p.world);
	r->world.sim.verbose = verbose;
	r->world.arg = r;
	r->world.down = chaos_node_down;
	r->world.turned = on_turn;
	check_init(&r->check, r);
	replicas_init(r);
	memset(r->applied, 0xff, sizeof r->applied);
	phases(r);
	report(r, out);
	r->over = r->quiet = true;
	for (i = 0; i < r->p.accounts; i++)
		for (k = 0; k < r->p.devices[i]; k++)
			if (r->devices[i][k] && r->devices[i][k]->client)
				device_crash(r->devices[i][k]);
	world_release(&r->world);
	people_release(r);
	check_release(&r->check);
	replicas_release(r);
	history_release(r);
	free(r);
}
