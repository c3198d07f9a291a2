/* One run of the simulator: a world, people with devices who write to each other,
 * faults from the seed, and a checker that keeps its own history.
 *
 *	params.c    what the seed draws (swarm: some faults are fully off)
 *	coverage.c  what happened, over all seeds
 *	device.c    a device: client engine over store_mem and a world_conn
 *	people.c    accounts, what they write, crashes of their devices
 *	chaos.c     faults of nodes, disks and network
 *	check.c     the history, and the guarantees of the design at the end
 *	history.c   every log as it was applied, and what of it may be gone
 *	replicas.c  what holds between replicas at every event
 *	run.c       phases: set up, chaos, heal, quiesce, check */
#ifndef QUIPU_TESTS_SIM_RUN_H
#define QUIPU_TESTS_SIM_RUN_H

#include "base/map.h"
#include "client/quipu.h"
#include "client/store_mem.h"
#include "tests/lib/world.h"
#include "tests/sim/chaos.h"

#include <stdio.h>

#define ACCOUNTS_MAX 8
#define DEVICES_RUN_MAX 3 /* per account */

struct run;

/* ---- what the seed draws ------------------------------------------------------ */

struct params {
	struct world_config world;
	unsigned accounts, devices[ACCOUNTS_MAX];
	uint64_t chaos_us;          /* length of the phase with faults */
	uint64_t write_mean_us;     /* per device, between two messages */
	uint32_t window;            /* of clients */
	uint32_t big_permille;      /* bodies of up to 60 KiB */
	uint32_t lost_permille;     /* messages to an account that is none */
	uint64_t fault_mean_us;
	unsigned weight[FAULTS];       /* enum fault -> share */
	unsigned full_restart_permille;
	bool far_behind;            /* followers outrun by the journals */
	uint64_t read_max_us;       /* between two linearizable reads */
	uint64_t ttl_ms;            /* of records */
	unsigned old_nodes;         /* bits: programs of feature level 1 at first */
	uint64_t erase_us;          /* after the start of chaos; 0: nobody is erased */
};
void params_draw(struct params *p, uint64_t seed);
/* What it drew, a few lines with `indent` in front. */
void params_print(const struct params *p, const char *indent, FILE *f);

/* ---- what a run came to see ----------------------------------------------------- */

enum cover {
	COVER_POWER, COVER_KILL, COVER_DISK_END, COVER_RESTART, COVER_TRUNCATED,
	COVER_TWO_LEADERS, COVER_READ_REFUSED, COVER_CROWDED, COVER_DIRTY_FULL,
	COVER_DISK_LEVEL, COVER_FAULTY, COVER_INSTALLING, COVER_INSTALLED,
	COVER_ELSEWHERE, COVER_UPGRADED, COVER_WIPED, COVER_REPAIRED,
	COVER_MADE, COVER_RETIRED, COVER_LONE,
	COVER_DUP_ACK, COVER_PAGE, COVER_REFUSED, COVER_CONN_BROKEN,
	COVER_CONN_REFUSED,
	COVER_END
};
struct coverage {
	uint64_t faults[FAULTS];
	uint64_t seen[COVER_END];
};
void coverage_add(struct coverage *sum, const struct coverage *c);
/* A table, and what is missing in it. */
void coverage_print(const struct coverage *c, FILE *f);

/* ---- history -------------------------------------------------------------------- */

enum send_fate { FATE_OPEN, FATE_ACKED, FATE_REFUSED, FATE_FORGOTTEN };

/* One message as its writer knows it. */
struct sent {
	uint64_t number;        /* in the run, from 1; starts its mid */
	uint64_t from, to, seq, seen, body_hash;
	uint32_t device, body_len;
	uint8_t mid[16], cls;
	enum send_fate fate;
	bool durable, to_nobody;
	uint64_t lamport, offset;
	uint32_t shard;
	unsigned found, copies; /* records in the recipient's, own inbox */
};

/* One delivery, the newest that a device saw of a number. */
struct seen {
	uint8_t mid[16];
	uint64_t lamport, from, seq, body_hash;
	bool hole;              /* it was told that there is none */
};

/* A record, without its body. */
struct kept {
	uint8_t mid[16];
	uint64_t n, key, offset, lamport, sender, seq, time_ms, origin_lamport,
		origin_offset, body_hash;
	uint32_t device, shard, origin_shard;
	uint8_t part, cls, kind;
	bool stub, stubbed;     /* as read; somewhere a stub by now */
};

struct history {
	struct kept *v;         /* by offset */
	size_t n, cap;
	uint64_t trim, trimmed; /* judged up to; the highest seen */
	uint64_t rewrites;
};

struct check {
	struct run *run;
	struct map sends;       /* number -> struct sent */
	uint64_t n_sends, acked, refused, delivered, resolved_dup;
	uint64_t lost, duplicated, reordered, holes;
	uint64_t acked_to[ACCOUNTS_MAX]; /* with an inbox number */
	uint64_t reads, reads_done, pages;
	uint64_t read_end[ACCOUNTS_MAX]; /* inbox of it that any read has seen */
	/* Who wrote what is at a number of an inbox, whoever was told first. */
	uint64_t *numbers[ACCOUNTS_MAX];
	size_t numbers_cap[ACCOUNTS_MAX];
};

struct device {
	struct run *run;
	unsigned account_i, number; /* as in accounts[], from 1 */
	uint64_t account;
	uint32_t device, epoch;
	struct store_mem store;
	struct client *client;  /* NULL: crashed */
	struct world_conn *conn;
	bool open;              /* conn may carry messages */
	struct rand rand;
	uint64_t armed_us;
	unsigned life;
	/* what its owner saw; the durable half survives a crash */
	uint64_t seen_lamport, seen_durable;
	uint64_t last_n;        /* newest record given by this engine */
	struct seen *inbox;     /* by number */
	size_t inbox_cap;
	uint64_t next_write_us;
	uint64_t cursor_read;   /* that any read has seen */
	unsigned crashes, elsewhere;
};

/* ---- run ------------------------------------------------------------------------- */

struct run {
	struct world world;
	struct params p;
	struct check check;
	struct rand rand;       /* of people and faults */
	uint64_t ids[ACCOUNTS_MAX];
	struct device *devices[ACCOUNTS_MAX][DEVICES_RUN_MAX];
	unsigned n_devices;
	unsigned made;          /* accounts of ids[] that are there */
	/* Devices of each, with those that were added twice for want of an answer. */
	unsigned listed[ACCOUNTS_MAX];
	bool quiet;             /* no new messages, no faults */
	bool over;
	uint64_t faults, restarts, elsewhere;
	bool upgraded;
	uint64_t erased;        /* account: asked for; 0: not yet */
	bool erased_for_good;   /* and answered */
	uint64_t readonly_us;   /* a node last took a majority's disks for full; 0: never */
	uint64_t read_leaders_us; /* not before */
	struct coverage coverage;
	struct map chains;      /* shard, applied index -> chain */
	struct map leaders;     /* shard, term -> node */
	uint64_t applied[WORLD_NODES_MAX + 1][SHARDS_MAX];
	struct history history[SHARDS_MAX];
	uint64_t rewritten[WORLD_NODES_MAX + 1][SHARDS_MAX];
	uint64_t wall_max_ms;   /* of any node, ever */
	/* One change of a group that each node is asked for. */
	struct node_change_call change[WORLD_NODES_MAX + 1];
	bool changing[WORLD_NODES_MAX + 1];
	/* What the replica that was retired last had durable: it counted. */
	uint64_t retired[WORLD_NODES_MAX + 1][SHARDS_MAX];
	bool absent[WORLD_NODES_MAX + 1][SHARDS_MAX];
	/* What a replica has durable in its journal, and in which term it is. */
	uint64_t stored[WORLD_NODES_MAX + 1][SHARDS_MAX];
	uint64_t term[WORLD_NODES_MAX + 1][SHARDS_MAX];
	uint64_t mark[WORLD_NODES_MAX + 1][SHARDS_MAX];
	uint32_t incarnation[WORLD_NODES_MAX + 1][SHARDS_MAX];
	uint32_t before[SHARDS_MAX]; /* its repair, of the rotten node */
};

struct run_result {
	bool ok;
	char failure[400];
	uint64_t trace_hash, events, sim_us;
	uint64_t sends, acked, refused, delivered, faults, crashes, reads, pages;
	uint64_t lost, duplicated, reordered;
	uint64_t trimmed, rewrites, holes;
	struct coverage coverage;
};
void run_seed(uint64_t seed, bool verbose, struct run_result *out);
void run_fail(struct run *r, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* The replica is there and does not say that it is damaged. */
bool run_sound(const struct run *r, unsigned node, uint32_t shard);

/* people.c */
bool people_set_up(struct run *r);  /* accounts and devices, without faults */
void people_start(struct run *r);
void people_release(struct run *r);
void people_write(struct device *d); /* at its next_write_us */
void people_erase(struct run *r);     /* the last account, until it is done */
int account_index(const struct run *r, uint64_t id);
struct device *device_of(struct run *r, uint64_t account, uint32_t device);

/* device.c */
struct device *device_new(struct run *r, unsigned account_i, unsigned number);
void device_free(struct device *d);
void device_start(struct device *d);
void device_crash(struct device *d);
/* After any call into its engine. */
void device_pump(struct device *d);
bool device_settled(const struct device *d);

/* chaos.c */
void chaos_start(struct run *r);
void chaos_node_down(void *arg, unsigned node);
void chaos_heal(struct run *r);
/* Every replica back on every node: now and then, until the run is over. */
void members_restore(struct run *r);
void members_change(struct run *r); /* a few changes, one after the other */
bool chaos_leads(const struct run *r, unsigned node, uint32_t shard);
/* More than one node takes itself for the leader: both are read from. */
void chaos_two_leaders(struct run *r, uint32_t shard);

/* check.c */
void check_init(struct check *c, struct run *r);
void check_release(struct check *c);
/* Before client_send(): the draft's mid and body are made here. */
struct sent *check_compose(struct check *c, struct device *d, uint64_t to,
			   uint8_t cls, uint32_t len, struct buf *body);
void check_composed(struct check *c, struct sent *s, uint64_t seq);
void check_record(struct check *c, struct device *d,
		  const struct client_record *rec);
void check_page(struct check *c, struct device *d,
		const struct client_event *ev);
void check_hole(struct check *c, struct device *d, uint64_t from, uint64_t to);
void check_settled(struct check *c, struct device *d,
		   const struct client_settled *st);
/* An op of the device's store became durable. */
void check_durable(struct device *d, const struct store_op *op);
void check_crashed(struct check *c, struct device *d);
/* A linearizable read by way of a node. */
void check_read(struct run *r, unsigned node, unsigned account_i);
void check_end(struct check *c);

/* history.c */
struct shard;
void kept_of(struct kept *k, const struct record *rec, uint32_t shard);
void history_look(struct run *r, struct shard *s, unsigned node);
void history_hole(struct run *r, struct device *d, uint64_t from, uint64_t to);
void history_release(struct run *r);

/* replicas.c */
void replicas_init(struct run *r);
void replicas_release(struct run *r);
void replicas_look(struct run *r, unsigned node); /* after its turn */
bool replicas_level(struct run *r);               /* all applied the same */
void replicas_trace(struct run *r);
void replicas_end(struct run *r);

#endif
