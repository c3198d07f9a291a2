/* Swarm: every seed draws its own sizes, and switches whole kinds of faults off,
 * so that rare combinations are not drowned by frequent ones. */
#include "tests/sim/run.h"

#include <inttypes.h>
#include <string.h>

static uint64_t pick(struct rand *r, const uint64_t *v, size_t n)
{
	return v[rand_below(r, n)];
}
#define PICK(r, ...)                                                           \
	pick(r, (const uint64_t[]){ __VA_ARGS__ },                             \
	     sizeof((const uint64_t[]){ __VA_ARGS__ }) / sizeof(uint64_t))

static void draw_node(struct node_config *n, struct rand *r, bool cluster)
{
	n->shards = (uint32_t)PICK(r, 1, 1, 2, 2, 3, 4, 8);
	n->election_ms = (unsigned)PICK(r, 200, 500, 1000);
	n->heartbeat_ms = n->election_ms / (unsigned)PICK(r, 5, 10);
	memcpy(n->cluster_id, "simulated quipu", 16);
	memcpy(n->journal.cluster_id, n->cluster_id, 16);
	memcpy(n->store.cluster_id, n->cluster_id, 16);
	n->journal.file_size = PICK(r, 256 << 10, 512 << 10, 1 << 20);
	/* In small rings followers fall behind and are brought up by snapshot. */
	n->journal.max_bytes = n->journal.file_size *
			       (cluster ? PICK(r, 8, 16, 256) : PICK(r, 8, 16));
	n->journal.queue_bytes = PICK(r, 256 << 10, 8 << 20);
	n->store.segment_bytes = PICK(r, 64 << 10, 256 << 10, 1 << 20);
	n->store.dirty_max_bytes = PICK(r, 256 << 10, 1 << 20);
	n->store.tail_cache_bytes = PICK(r, 4 << 10, 64 << 10, 1 << 20);
	n->store.row_cache_max = (uint32_t)PICK(r, 16, 256, 4096);
	n->checkpoint_bytes = PICK(r, 16 << 10, 128 << 10, 1 << 20);
	n->checkpoint_age_ms = PICK(r, 500, 3000, 20000);
	n->batch_bytes = (uint32_t)PICK(r, 8 << 10, 128 << 10);
	n->batch_records = (uint32_t)PICK(r, 2, 16, 1024);
	n->batch_inflight = (uint32_t)PICK(r, 1, 2, 8);
	n->feature_auto = true;
	/* Without levels a full disk ends a node; with them it mostly does not. */
	n->level = (struct level_config){
		.warn = 85,
		.refuse = (unsigned)PICK(r, 92, 92, 100),
		.readonly = (unsigned)PICK(r, 97, 97, 100),
		.reserve = PICK(r, 0, 256 << 10),
	};
}

void params_draw(struct params *p, uint64_t seed)
{
	struct rand r;
	unsigned i, kinds;

	memset(p, 0, sizeof *p);
	rand_seeded(&r, seed ^ 0x7061726d73ull);
	p->world.seed = seed;
	p->world.nodes = (unsigned)PICK(&r, 1, 2, 3, 3, 3, 3, 3, 3, 3, 4, 5, 5, 7);
	draw_node(&p->world.node, &r, p->world.nodes > 1);
	p->world.net = (struct net_sim_config){
		.delay_min_us = 50,
		.delay_max_us = PICK(&r, 200, 2000, 20000),
		.slow_permille = (unsigned)PICK(&r, 0, 5, 50),
		.slow_us = PICK(&r, 10000, 200000),
		.far_us = PICK(&r, 0, 0, 1000, 40000),
	};
	/* Up to two in a hundred, far more than a clock's crystal is off. */
	p->world.drift_ppm = (uint32_t)PICK(&r, 0, 0, 200, 20000);
	p->world.disk = (struct disk_sim_config){
		.write_min_us = 100,
		.write_max_us = PICK(&r, 400, 3000, 20000),
		.slow_permille = (unsigned)PICK(&r, 0, 5, 30),
		.slow_us = PICK(&r, 20000, 400000),
		.work_min_us = 200,
		.work_max_us = PICK(&r, 2000, 100000),
	};
	p->world.conn_min_us = 200;
	p->world.conn_max_us = PICK(&r, 1000, 30000, 150000);
	p->world.conn_refused_permille = (unsigned)PICK(&r, 0, 100, 400);
	p->world.heartbeat_s = (uint32_t)PICK(&r, 2, 10, 60);
	p->world.window_max = (uint32_t)PICK(&r, 4, 64, 1024);
	p->window = (uint32_t)PICK(&r, 1, 8, 256);
	p->accounts = (unsigned)PICK(&r, 2, 2, 3, 4, 5, ACCOUNTS_MAX - 1);
	for (i = 0; i < p->accounts; i++)
		p->devices[i] = 1 + (unsigned)rand_below(&r, DEVICES_RUN_MAX);
	p->chaos_us = 1000000 * PICK(&r, 5, 10, 20);
	p->write_mean_us = PICK(&r, 50000, 200000, 500000);
	p->big_permille = (uint32_t)PICK(&r, 0, 20, 100);
	p->lost_permille = (uint32_t)PICK(&r, 0, 30);
	p->fault_mean_us = PICK(&r, 200000, 700000, 2000000);
	/* Most kinds together, or a few that show better alone. */
	kinds = (unsigned)PICK(&r, 2, 4, 7, 7, 7, 10);
	for (i = 0; i < FAULT_WIPE; i++)
		p->weight[i] = rand_below(&r, 10) < kinds
				       ? (unsigned)rand_below(&r, 10) + 1
				       : 0;
	if (p->world.nodes == 1)
		for (i = 0; i < FAULTS; i++)
			if (fault_needs_peers((enum fault)i))
				p->weight[i] = 0;
	/* Half of the runs see everything lose its power at once. */
	if (rand_below(&r, 2))
		p->weight[FAULT_POWER_ALL] = 3;
	/* Much is written into a small ring while nodes stay away for long: they
	 * come back behind all journals. */
	if (p->world.nodes > 1 && !rand_below(&r, 3)) {
		p->far_behind = true;
		p->world.node.shards = (uint32_t)PICK(&r, 1, 2);
		p->world.node.journal.file_size = 256 << 10;
		p->world.node.journal.max_bytes = PICK(&r, 1 << 20, 2 << 20);
		p->world.node.checkpoint_bytes = 16 << 10;
		p->world.node.store.segment_bytes = PICK(&r, 64 << 10, 256 << 10);
		p->world.node.snapshot_rate = PICK(&r, 0, 4 << 20, 16 << 20);
		p->big_permille = (uint32_t)PICK(&r, 100, 300);
		p->write_mean_us = 50000;
		p->chaos_us = 20000000;
		p->weight[FAULT_KILL] += 2;
		p->weight[FAULT_ISOLATE] += 2;
		p->weight[FAULT_ROT] = 0;
	}
	/* Often enough, some ask when their node dies, and ask again in its next
	 * life before the first answer has come. */
	p->read_max_us = PICK(&r, 100000, 100000, 5000);
	/* One of two is no minority. */
	if (p->world.nodes == 2)
		p->weight[FAULT_ROT] = 0;
	/* The entries of a faulty shard are let go of by nobody. */
	if (p->world.nodes > 1 && p->weight[FAULT_ROT])
		p->world.node.journal.max_bytes = 256u << 20;
	/* Drawn last, so that it changes nothing of what was drawn before. */
	p->world.node.retain = (struct retain_config){
		.enabled = rand_below(&r, 4) != 0,
		.period_ms = PICK(&r, 100, 300, 2000),
		.rate = PICK(&r, 4 << 20, 64 << 20),
		.roll_ms = PICK(&r, 500, 2000, 10000),
		.live = (uint32_t)PICK(&r, 30, 60, 100),
	};
	p->ttl_ms = PICK(&r, 1000, 3000, 8000, TTL_MAX_S * 1000ull);
	/* The last account has no device, is written to, and is erased. */
	if (p->world.node.retain.enabled && rand_below(&r, 2)) {
		p->devices[p->accounts++] = 0;
		p->erase_us = rand_below(&r, p->chaos_us);
	}
	/* Some nodes begin as older programs and are newer after a restart. */
	if (!rand_below(&r, 4))
		p->old_nodes = (unsigned)rand_below(&r, 1u << p->world.nodes) << 1;
	/* One of two is no minority.  Half of those that look at disks lose one. */
	if (p->world.nodes > 1 && !rand_below(&r, 2)) {
		p->world.guard = true;
		if (p->world.nodes > 2 && !p->far_behind && rand_below(&r, 2))
			p->weight[FAULT_WIPE] = 1;
	}
	/* The others keep entries for it, as for a faulty one; and the feature level is
	 * not raised while one does not say what it can. */
	if (p->weight[FAULT_WIPE]) {
		p->world.node.journal.max_bytes = 256u << 20;
		p->old_nodes = 0;
	}
	/* A damaged replica stays, and a wiped node is let in by nobody. */
	if (p->world.nodes > 2 && !p->weight[FAULT_ROT] &&
	    !p->weight[FAULT_WIPE] && rand_below(&r, 3))
		p->weight[FAULT_MEMBER] = 4 + (unsigned)rand_below(&r, 9);
}

#define PRINT(f, indent, fmt, ...) fprintf(f, "%s" fmt "\n", indent, __VA_ARGS__)

void params_print(const struct params *p, const char *indent, FILE *f)
{
	const struct world_config *w = &p->world;
	const struct node_config *n = &w->node;
	unsigned i, devices = 0, off = 0;

	for (i = 0; i < p->accounts; i++)
		devices += p->devices[i];
	PRINT(f, indent, "%u nodes, %u shards, %u accounts, %u devices, %"
	      PRIu64 " s of faults, one in %" PRIu64 " ms%s",
	      w->nodes, n->shards, p->accounts, devices, p->chaos_us / 1000000,
	      p->fault_mean_us / 1000, p->far_behind ? ", far behind" : "");
	PRINT(f, indent, "a message in %" PRIu64 " ms, %u in 1000 big, %u to nobody, "
	      "window %u of %u, a read in %" PRIu64 " us",
	      p->write_mean_us / 1000, p->big_permille, p->lost_permille,
	      p->window, w->window_max, p->read_max_us / 2);
	PRINT(f, indent, "election %u ms, heartbeat %u ms, clocks off by %u ppm, "
	      "links %" PRIu64 " us, %u in 1000 + %" PRIu64 " us, far %" PRIu64
	      " us", n->election_ms, n->heartbeat_ms, w->drift_ppm,
	      w->net.delay_max_us, w->net.slow_permille, w->net.slow_us,
	      w->net.far_us);
	PRINT(f, indent, "disk %" PRIu64 " us, %u in 1000 + %" PRIu64
	      " us, work %" PRIu64 " us, levels %u/%u, reserve %" PRIu64 " KiB",
	      w->disk.write_max_us, w->disk.slow_permille, w->disk.slow_us,
	      w->disk.work_max_us, n->level.refuse, n->level.readonly,
	      n->level.reserve >> 10);
	PRINT(f, indent, "journal %" PRIu64 " of %" PRIu64 " KiB, queue %" PRIu64
	      " KiB, batch %u KiB or %u, %u in flight",
	      n->journal.max_bytes / n->journal.file_size,
	      n->journal.file_size >> 10, n->journal.queue_bytes >> 10,
	      n->batch_bytes >> 10, n->batch_records, n->batch_inflight);
	PRINT(f, indent, "segments %" PRIu64 " KiB, checkpoint %" PRIu64
	      " KiB or %" PRIu64 " ms, dirty %" PRIu64 " KiB, tail %" PRIu64
	      " KiB, %u rows, snapshots %" PRIu64 " KiB/s",
	      n->store.segment_bytes >> 10, n->checkpoint_bytes >> 10,
	      (uint64_t)n->checkpoint_age_ms, n->store.dirty_max_bytes >> 10,
	      n->store.tail_cache_bytes >> 10, n->store.row_cache_max,
	      (uint64_t)n->snapshot_rate >> 10);
	if (w->guard)
		PRINT(f, indent, "%s", "nodes know the disks of their peers");
	if (p->old_nodes)
		PRINT(f, indent, "older programs on nodes %#x (bits)",
		      p->old_nodes);
	fprintf(f, "%sfaults", indent);
	for (i = 0; i < FAULTS; i++) {
		if (p->weight[i])
			fprintf(f, " %s:%u", fault_name((enum fault)i),
				p->weight[i]);
		off += !p->weight[i];
	}
	fprintf(f, ", %u kinds off\n", off);
}
