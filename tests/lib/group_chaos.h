/* What tests of groups by seed have in common (group_world.h): a world that the seed
 * makes, its clients, the end at which all must be well, and how seeds are asked for. */
#ifndef QUIPU_TESTS_LIB_GROUP_CHAOS_H
#define QUIPU_TESTS_LIB_GROUP_CHAOS_H

#include "tests/lib/group_world.h"

/* Timers, caches, checkpoints, slow nets and disks: as the seed says. */
void chaos_config(struct gw_config *cfg, uint64_t seed);
/* Whoever leads, or thinks that he does, gets up to `most` commands of less than
 * `bytes`, and reads. */
void chaos_clients(struct gw *w, unsigned most, unsigned bytes);
/* Half of the dead that hold a replica. */
void chaos_restart_some(struct gw *w);
void chaos_heal(struct gw *w);
/* After all is healed: a leader, equal logs, and, after `calm_ms` in which nobody has to
 * stand up, progress. */
void chaos_ends_well(struct gw *w, uint64_t calm_ms);

/* GROUP_SEED=n: this one, told; else GROUP_SEEDS (or `usual`) from GROUP_FROM or 1. */
void chaos_seeds(unsigned usual,
		 void (*run)(const void *kind, uint64_t seed, bool verbose),
		 const void *kind);

#endif
