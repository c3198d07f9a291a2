#include "tests/lib/group_chaos.h"

#include <stdlib.h>

#define HEAL_MS 30000

void chaos_config(struct gw_config *cfg, uint64_t seed)
{
	cfg->seed = seed;
	cfg->net = gw_net_calm;
	cfg->disk = disk_sim_fast;
	if (seed % 2) {
		cfg->election_ms = 300;
		cfg->heartbeat_ms = 50;
	}
	if (seed % 3)
		cfg->cache_bytes = 20000; /* lagging peers read the journal */
	if (seed % 5 > 1)
		cfg->checkpoint_ms = 300;
	if (seed % 7 > 3) {
		cfg->net.slow_permille = 20;
		cfg->net.slow_us = 100000;
	}
	if (seed % 4 > 1) {
		cfg->disk.slow_permille = 20;
		cfg->disk.slow_us = 200000;
	}
}

void chaos_clients(struct gw *w, unsigned most, unsigned bytes)
{
	unsigned i;

	for (i = 1; i <= w->cfg.nodes; i++) {
		if (!w->n[i].alive || w->n[i].role != GROUP_LEADER)
			continue;
		if (rand_below(&w->sim.rand, 3)) {
			unsigned size = (unsigned)rand_below(&w->sim.rand, bytes);

			gw_submit(w, i,
				  1 + (unsigned)rand_below(&w->sim.rand, most),
				  size);
		}
		if (rand_below(&w->sim.rand, 2))
			gw_read(w, i);
	}
}

void chaos_restart_some(struct gw *w)
{
	unsigned i;

	for (i = 1; i <= w->cfg.nodes; i++)
		if (w->n[i].holds && !w->n[i].alive &&
		    rand_below(&w->sim.rand, 2))
			gw_start(w, i);
}

void chaos_heal(struct gw *w)
{
	unsigned i;

	net_sim_heal_all(w->net);
	for (i = 1; i <= w->cfg.nodes; i++) {
		disk_sim_stall(w->n[i].medium, 0);
		if (w->n[i].holds && !w->n[i].alive)
			gw_start(w, i);
	}
}

void chaos_ends_well(struct gw *w, uint64_t calm_ms)
{
	uint64_t last = w->last;
	unsigned tries;

	if (!gw_run_until(w, gw_has_leader, HEAL_MS))
		gw_fail(w, "no leader %d s after all is healed", HEAL_MS / 1000);
	if (!gw_run_until(w, gw_settled, HEAL_MS))
		gw_fail(w, "logs are not equal %d s after all is healed",
			HEAL_MS / 1000);
	gw_run_ms(w, calm_ms);
	for (tries = 0; gw_submit(w, gw_leader(w), 1, 10); tries++) {
		if (tries == HEAL_MS / 10)
			gw_fail(w, "no entry is taken after all is healed");
		gw_run_ms(w, 10);
	}
	if (!gw_run_until(w, gw_settled, HEAL_MS) || w->last <= last)
		gw_fail(w, "no progress after all is healed");
}

static uint64_t env(const char *name, uint64_t def)
{
	const char *s = getenv(name);

	return s ? strtoull(s, NULL, 10) : def;
}

void chaos_seeds(unsigned usual,
		 void (*run)(const void *kind, uint64_t seed, bool verbose),
		 const void *kind)
{
	uint64_t one = env("GROUP_SEED", 0), from = env("GROUP_FROM", 1), seed,
		 n = env("GROUP_SEEDS", usual);

	if (one)
		run(kind, one, true);
	else
		for (seed = from; seed < from + n; seed++)
			run(kind, seed, false);
}
