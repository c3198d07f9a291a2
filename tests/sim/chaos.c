/* Faults of nodes, disks and network, one after the other as the dice fall.
 * Every fault that lasts heals by itself after a while, or at the end. */
#include "base/alloc.h"
#include "consensus/node_impl.h"
#include "tests/sim/run.h"

#include <stdlib.h>

#define LASTS_US 3000000

static const char *const names[FAULTS] = {
	"power", "power-at", "power-all", "kill",     "stop",
	"disk-error", "disk-slow", "split", "isolate", "one-way",
	"bridge", "transfer", "conn", "device", "conn-all",
	"disk-full", "clock", "rot", "power-some", "slow-reader",
	"clock-step", "wipe", "member",
};

const char *fault_name(enum fault f)
{
	return names[f];
}

bool fault_needs_peers(enum fault f)
{
	return (f >= FAULT_SPLIT && f <= FAULT_TRANSFER) || f == FAULT_ROT ||
	       f == FAULT_POWER_SOME || f == FAULT_WIPE ||
	       f == FAULT_MEMBER;
}

struct job {
	struct run *run;
	unsigned node;
};

static void later(struct run *r, unsigned node, uint64_t us, void (*fn)(void *))
{
	struct job *j = xmalloc(sizeof *j);

	*j = (struct job){ r, node };
	sim_after(&r->world.sim, -1, us, fn, j);
}

static uint64_t dice(struct run *r, uint64_t n)
{
	return rand_below(&r->rand, n);
}

static unsigned some_node(struct run *r)
{
	return 1 + (unsigned)dice(r, r->world.cfg.nodes);
}

/* ---- nodes ------------------------------------------------------------------------ */

static void on_restart(void *arg)
{
	struct job j = *(struct job *)arg;

	free(arg);
	if (j.run->over || world_up(&j.run->world, j.node))
		return;
	j.run->restarts++;
	if (dice(j.run, 2))
		j.run->world.nodes[j.node].feature_max = 0; /* upgraded */
	world_start(&j.run->world, j.node);
	/* The power may go again while it reads its files. */
	if (!j.run->quiet && world_up(&j.run->world, j.node) &&
	    j.run->p.weight[FAULT_POWER_AT] && !dice(j.run, 8))
		world_crash_at(&j.run->world, j.node, 1 + dice(j.run, 20));
}

void chaos_node_down(void *arg, unsigned node)
{
	struct run *r = arg;
	uint32_t i;

	for (i = 0; i < SHARDS_MAX; i++)
		r->applied[node][i] = UINT64_MAX;
	r->changing[node] = false;
	if (r->over)
		return;
	later(r, node,
	      r->world.nodes[node].rotten ? 1000000
	      : r->quiet		  ? 1000
	      : r->p.far_behind && dice(r, 2) ? dice(r, 10000000)
	      : dice(r, 4) ? dice(r, 300000)
						    : dice(r, 5000000),
	      on_restart);
}

static void power_all(struct run *r)
{
	unsigned i;

	for (i = 1; i <= r->world.cfg.nodes; i++)
		if (world_up(&r->world, i))
			world_crash(&r->world, i, WORLD_POWER);
}

/* Of nodes in a row, so that each can be among them. */
static void power_some(struct run *r)
{
	unsigned n = r->world.cfg.nodes, first = some_node(r), i;

	for (i = 0; i < (n - 1) / 2; i++)
		if (world_up(&r->world, 1 + (first + i) % n))
			world_crash(&r->world, 1 + (first + i) % n, WORLD_POWER);
}

static void on_fast_again(void *arg)
{
	struct job j = *(struct job *)arg;

	free(arg);
	disk_sim_stall(j.run->world.nodes[j.node].medium, 0);
}

static void disk_slow(struct run *r, unsigned node)
{
	disk_sim_stall(r->world.nodes[node].medium, 5000 + dice(r, 300000));
	later(r, node, dice(r, LASTS_US), on_fast_again);
}

static void on_room_again(void *arg)
{
	struct job j = *(struct job *)arg;

	free(arg);
	world_disk_free(&j.run->world, j.node);
}

static void disk_full(struct run *r, unsigned node)
{
	world_disk_full(&r->world, node, dice(r, 300000));
	later(r, node, dice(r, LASTS_US), on_room_again);
}

static void transfer(struct run *r)
{
	unsigned i;
	uint32_t shard;

	for (i = 1; i <= r->world.cfg.nodes; i++) {
		struct node *n = r->world.nodes[i].node;

		if (!n || r->world.nodes[i].stopping)
			continue;
		shard = (uint32_t)dice(r, n->n_shards);
		if (n->shards[shard].role != GROUP_LEADER)
			continue;
		node_transfer(n, shard, some_node(r));
		world_poke(&r->world, i);
		return;
	}
}

/* ---- network -------------------------------------------------------------------------- */

static void on_heal(void *arg)
{
	struct job j = *(struct job *)arg;

	free(arg);
	net_sim_heal_all(j.run->world.net);
}

static void cut_both(struct run *r, unsigned a, unsigned b)
{
	net_sim_cut(r->world.net, a, b, true);
	net_sim_cut(r->world.net, b, a, true);
}

/* Nodes in the mask from those out of it; `shared` sees both. */
static void split(struct run *r, unsigned mask, unsigned shared)
{
	unsigned a, b, n = r->world.cfg.nodes;

	for (a = 1; a <= n; a++)
		for (b = a + 1; b <= n; b++)
			if (a != shared && b != shared &&
			    (mask >> a & 1) != (mask >> b & 1))
				cut_both(r, a, b);
	later(r, 0, dice(r, LASTS_US), on_heal);
}

static void isolate(struct run *r)
{
	unsigned node = some_node(r), i;

	for (i = 1; i <= r->world.cfg.nodes; i++) {
		struct node *n = r->world.nodes[i].node;

		if (n && n->shards[0].role == GROUP_LEADER)
			node = i;
	}
	split(r, 1u << node, 0);
}

static void one_way(struct run *r)
{
	unsigned a = some_node(r), b = some_node(r);

	if (a == b)
		b = a % r->world.cfg.nodes + 1;
	net_sim_cut(r->world.net, a, b, true);
	later(r, 0, dice(r, LASTS_US), on_heal);
}

/* ---- clients ---------------------------------------------------------------------------- */

static struct device *some_device(struct run *r)
{
	unsigned i = (unsigned)dice(r, r->p.accounts);

	while (!r->p.devices[i]) /* one of the first has some */
		i--;
	return r->devices[i][dice(r, r->p.devices[i])];
}

static void conn_break(struct run *r)
{
	struct device *d = some_device(r);

	if (d->conn)
		world_break(&r->world, d->conn);
}

static void reader_slow(struct run *r)
{
	struct device *d = some_device(r);

	if (d->conn)
		world_lag(&r->world, d->conn, dice(r, LASTS_US));
}

static void conn_break_all(struct run *r)
{
	unsigned i, k;

	for (i = 0; i < r->p.accounts; i++)
		for (k = 0; k < r->p.devices[i]; k++)
			if (r->devices[i][k]->conn)
				world_break(&r->world, r->devices[i][k]->conn);
}

/* ---- schedule ------------------------------------------------------------------------------ */

static void fault(struct run *r, enum fault f)
{
	unsigned node = some_node(r);
	struct world *w = &r->world;
	bool up = world_up(w, node);

	sim_trace(&w->sim, "fault %s %u", names[f], node);
	r->faults++;
	r->coverage.faults[f]++;
	switch (f) {
	case FAULT_POWER:
		if (up)
			world_crash(w, node, WORLD_POWER);
		break;
	case FAULT_POWER_AT:
		if (up)
			world_crash_at(w, node, 1 + dice(r, 60));
		break;
	case FAULT_POWER_ALL:
		power_all(r);
		break;
	case FAULT_KILL:
		if (up)
			world_crash(w, node, WORLD_KILL);
		break;
	case FAULT_STOP:
		world_stop(w, node);
		break;
	case FAULT_DISK_ERROR:
		if (up)
			world_fail_disk_at(w, node, 1 + dice(r, 60));
		break;
	case FAULT_DISK_SLOW:
		disk_slow(r, node);
		break;
	case FAULT_SPLIT:
		split(r, (unsigned)dice(r, 1u << w->cfg.nodes) << 1, 0);
		break;
	case FAULT_ISOLATE:
		isolate(r);
		break;
	case FAULT_ONE_WAY:
		one_way(r);
		break;
	case FAULT_BRIDGE:
		split(r, (unsigned)dice(r, 1u << w->cfg.nodes) << 1, node);
		break;
	case FAULT_TRANSFER:
		transfer(r);
		break;
	case FAULT_CONN:
		conn_break(r);
		break;
	case FAULT_DEVICE:
		device_crash(some_device(r));
		break;
	case FAULT_CONN_ALL:
		conn_break_all(r);
		break;
	case FAULT_DISK_FULL:
		disk_full(r, node);
		break;
	case FAULT_CLOCK:
		w->nodes[node].wall_off_ms = (int64_t)dice(r, 7200000) - 3600000;
		break;
	case FAULT_ROT:
		/* Most of a disk is no journal. */
		world_rot(w, w->cfg.nodes, !dice(r, 4));
		break;
	case FAULT_POWER_SOME:
		power_some(r);
		break;
	case FAULT_MEMBER:
		members_change(r);
		break;
	case FAULT_READER:
		reader_slow(r);
		break;
	case FAULT_STEP:
		w->nodes[node].wall_off_ms = 0;
		break;
	case FAULT_WIPE:
		r->coverage.seen[COVER_WIPED] += world_wipe(w, w->cfg.nodes);
		break;
	case FAULTS:
		break;
	}
}

static void on_fault(void *arg)
{
	struct job j = *(struct job *)arg;
	struct run *r = j.run;
	unsigned total = 0, f;
	uint64_t x;

	free(arg);
	if (r->quiet)
		return;
	for (f = 0; f < FAULTS; f++)
		total += r->p.weight[f];
	if (!total)
		return;
	x = dice(r, total);
	for (f = 0; x >= r->p.weight[f]; f++)
		x -= r->p.weight[f];
	fault(r, (enum fault)f);
	later(r, 0, dice(r, 2 * r->p.fault_mean_us), on_fault);
}

bool chaos_leads(const struct run *r, unsigned node, uint32_t shard)
{
	const struct node *n = r->world.nodes[node].node;

	return n && shard < n->n_shards && shard_works(&n->shards[shard]) &&
	       n->shards[shard].role == GROUP_LEADER;
}

static void on_read(void *arg)
{
	struct job j = *(struct job *)arg;

	free(arg);
	if (j.run->over)
		return;
	check_read(j.run, some_node(j.run),
		   (unsigned)dice(j.run, j.run->p.accounts));
	later(j.run, 0, dice(j.run, j.run->p.read_max_us), on_read);
}

/* One of them is deposed and may not know it: what one tells the other must not have
 * missed. */
static void on_read_leaders(void *arg)
{
	struct job j = *(struct job *)arg;
	struct run *r = j.run;
	unsigned i, first;

	free(arg);
	if (r->over)
		return;
	first = some_node(r);
	for (i = 0; i < r->world.cfg.nodes; i++)
		check_read(r, 1 + (first + i) % r->world.cfg.nodes, j.node);
}

void chaos_two_leaders(struct run *r, uint32_t shard)
{
	unsigned i = (unsigned)dice(r, r->p.accounts);
	const struct world_node *wn = &r->world.nodes[1];

	if (r->over || r->world.sim.now_us < r->read_leaders_us)
		return;
	for (; wn < &r->world.nodes[WORLD_NODES_MAX] && !wn->node; wn++)
		;
	if (!wn->node || node_shard_of(wn->node, r->ids[i]) != shard)
		return;
	r->coverage.seen[COVER_TWO_LEADERS]++;
	r->read_leaders_us = r->world.sim.now_us + 1000;
	later(r, i, 0, on_read_leaders);
}

void chaos_start(struct run *r)
{
	later(r, 0, dice(r, 2 * r->p.fault_mean_us), on_fault);
	later(r, 0, dice(r, r->p.read_max_us), on_read);
}

/* Everything that was broken on purpose is whole again; no more faults. */
void chaos_heal(struct run *r)
{
	unsigned i;

	r->quiet = true;
	if (r->p.weight[FAULT_MEMBER])
		members_restore(r);
	net_sim_heal_all(r->world.net);
	r->world.cfg.conn_refused_permille = 0;
	for (i = 1; i <= r->world.cfg.nodes; i++) {
		struct world_node *wn = &r->world.nodes[i];

		disk_sim_stall(wn->medium, 0);
		disk_sim_configure(wn->medium, &disk_sim_fast);
		world_disk_free(&r->world, i);
		disk_sim_crash_at(wn->medium, 0, NULL, NULL);
		/* An error that was given already may still end its node. */
		disk_sim_fail_at(wn->medium, 0, 0);
		if (!wn->feature_max)
			continue;
		wn->feature_max = 0; /* the last upgrades */
		if (wn->node)
			world_crash(&r->world, i, WORLD_KILL);
	}
}
