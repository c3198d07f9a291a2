/* A whole Quipu in one thread and simulated time: N nodes, each a struct node
 * over its own disk_sim, net_sim and kv_mem, with a gateway's route and sessions
 * on top, and message-level connections that clients dial.
 *
 *	world_init, world_start for each node
 *	world_step until something; world_crash, world_start, net_sim_cut ...
 *	world_release
 *
 * Callbacks of a node's code run only inside world_step().  A broken rule that
 * the world itself sees (a node ends without an injected fault, a replica calls
 * itself faulty) is kept in `failure`. */
#ifndef QUIPU_TESTS_LIB_WORLD_H
#define QUIPU_TESTS_LIB_WORLD_H

#include "base/list.h"
#include "consensus/known.h"
#include "consensus/node.h"
#include "gateway/session.h"
#include "tests/lib/disk_sim.h"
#include "tests/lib/net_sim.h"

#define WORLD_NODES_MAX NET_SIM_NODES
#define WORLD_CONN_QUEUE 65536 /* unsent bytes towards a client: pause */
#define WORLD_CONN_LOW 16384

struct world;
struct world_conn;

struct world_config {
	uint64_t seed;
	unsigned nodes;
	unsigned founders;           /* the first of them; 0: all.  The others join */
	struct node_config node;     /* id and members are filled in */
	struct net_sim_config net;
	struct disk_sim_config disk;
	uint64_t conn_min_us, conn_max_us; /* delay of a client's message */
	unsigned conn_refused_permille;
	uint32_t heartbeat_s, window_max;
	bool guard;                  /* nodes know the disks of their peers, and
					links go by that (consensus/known.h) */
	uint32_t drift_ppm;          /* of each node's clocks, at most, either way */
};

/* One cluster's ids and sizes at which little is much; all else is the caller's. */
void world_config_small(struct world_config *cfg);

struct world_node {
	struct clock clock;    /* first: a wall clock of its own */
	int64_t wall_off_ms;
	int32_t drift_ppm;     /* its oscillator runs this much faster */
	struct world *world;
	unsigned id;
	unsigned life;         /* raised at each start */
	struct disk_sim *medium, *lost; /* lost: the one before world_wipe() */
	struct known known;
	struct disk *disk;
	struct node *node;     /* NULL: down */
	struct rand rand;
	struct route route;
	struct session_env env;
	struct list conns;     /* gateway sides */
	uint64_t armed_us;
	bool frozen;           /* disk_sim_crash_at went off */
	bool ended;            /* the node called fatal() */
	bool expect_end;       /* a disk error was injected: fatal() is right */
	bool full;             /* its disk is, so starts may fail too */
	bool rotten;           /* so was it for good */
	bool wiped;            /* its disk is another one, and nobody may hear it */
	bool rotten_log;       /* and more than its shards' folders */
	bool stopping, stopped;
	unsigned feature_max;  /* of its program from the next start on; 0: the newest */
};

enum world_crash { WORLD_POWER, WORLD_KILL };

struct world {
	struct sim sim;
	struct world_config cfg;
	struct net_sim *net;
	struct world_node nodes[WORLD_NODES_MAX + 1]; /* from 1 */
	struct list conns;
	bool wiped;            /* some node was */
	char failure[400];     /* the first; empty: none */
	uint64_t crashes, kills, starts, disk_deaths, breaks, refused;
	/* Told after a node went down for any reason. */
	void (*down)(void *arg, unsigned node);
	/* After each turn of a node that is still up. */
	void (*turned)(void *arg, unsigned node);
	void *arg;
};

void world_init(struct world *w, const struct world_config *cfg);
void world_release(struct world *w);
/* Keep the first broken rule. */
void world_fail(struct world *w, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* false: the disk's power went during the start (it is down again). */
bool world_start(struct world *w, unsigned node);
void world_crash(struct world *w, unsigned node, enum world_crash how);
/* Orderly: goodbye to clients, leaders handed over, checkpoint; ends in `down`. */
void world_stop(struct world *w, unsigned node);
/* The power goes just before the node's n-th disk operation from now. */
void world_crash_at(struct world *w, unsigned node, uint64_t n);
/* That operation fails with EIO, which ends the node. */
void world_fail_disk_at(struct world *w, unsigned node, uint64_t n);
/* Its disk has room for `spare` bytes more, until world_disk_free(). */
void world_disk_full(struct world *w, unsigned node, uint64_t spare);
void world_disk_free(struct world *w, unsigned node);
/* Damage durable bytes of a node: it may end, and may not start again. */
void world_rot(struct world *w, unsigned node, bool journal);
/* Its disk is replaced by an empty one, once; it is down afterwards.  For worlds with
 * a guard; false and nothing is done: it is so already, or some node is down or has not
 * met it, so that it could not know better. */
bool world_wipe(struct world *w, unsigned node);
bool world_up(const struct world *w, unsigned node);

/* Run one event and the turn of the node it touched.  false: no event left. */
bool world_step(struct world *w);
/* A test called into a node from outside an event: give it a turn. */
void world_poke(struct world *w, unsigned node);

/* ---- what a client sees ------------------------------------------------------- */

struct world_client {
	void (*opened)(void *arg, struct world_conn *c);
	void (*message)(void *arg, struct world_conn *c, const uint8_t *p,
			size_t n);
	/* Closed or never opened; the connection is gone. */
	void (*closed)(void *arg, struct world_conn *c, unsigned code);
};

/* One of opened() or closed() follows, never inside. */
struct world_conn *world_dial(struct world *w, unsigned node,
			      const struct world_client *ops, void *arg);
void world_send(struct world_conn *c, const void *p, size_t n);
/* The client leaves: no more callbacks, the pointer is dead.  `silent`: the
 * gateway hears nothing of it (a client that lost its power). */
void world_hang_up(struct world_conn *c, bool silent);
/* The network breaks a connection: what is under way is lost; each side hears of
 * it after a time of its own. */
void world_break(struct world *w, struct world_conn *c);
/* The client reads nothing for so long; what is sent to it piles up. */
void world_lag(struct world *w, struct world_conn *c, uint64_t us);
/* Gateway sides of a node that are open. */
unsigned world_conns(const struct world *w, unsigned node);

/* A token of the simulator: account, device, device epoch. */
void world_token(char out[64], uint64_t account, uint32_t device,
		 uint32_t epoch);

/* world_conn.c, for world.c */
bool conns_sweep(struct world_node *wn); /* true: sessions did something */
void conns_tick(struct world_node *wn);
void conns_drain(struct world_node *wn);
uint64_t conns_deadline_us(const struct world_node *wn);
void conns_node_down(struct world_node *wn, bool reset);
void conns_release(struct world *w);

#endif
