/* quipu-bench: what its commands share. */
#ifndef QUIPU_TOOLS_BENCH_BENCH_H
#define QUIPU_TOOLS_BENCH_BENCH_H

#include "base/err.h"
#include "base/hist.h"
#include "tools/bench/fleet.h"

#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/types.h>

#define SERVERS_MAX 16
#define DISK_SAMPLES 100
#define TOKEN_TTL_BENCH_S (7 * 86400)

struct options {
	const char *gateways;    /* comma list */
	const char *admins;      /* comma list of admin sockets */
	const char *pids;        /* comma list; NULL: who serves the admin sockets */
	const char *token_key;
	const char *data;        /* folder whose disk is measured */
	const char *file;        /* the corpus */
	const char *users;       /* file: users and their tokens kept, or read */
	const char *only;        /* a part of the command */
	const char *label;       /* printed with the result */
	const char *begun;       /* corpus: a file made when sending begins */
	const char *restart;     /* failover: starts the node whose number follows */
	const char *plot, *csv;  /* soak: files */
	unsigned minutes, ttl_s; /* soak; 0: --seconds; as it is */
	unsigned seconds, inflight, bytes, connections, messages, window, seed;
	unsigned stall_s;        /* no progress for so long: the run failed */
	unsigned rate;           /* messages a second; 0: as fast as acks come */
	unsigned procs;
	bool json, progress;
};

/* ---- users: accounts with one device ------------------------------------------ */

struct user {
	uint64_t account;
	uint32_t device, epoch;
	char *token;             /* taken by peer_init() */
};
/* Make n accounts with a device and a token each, over all admin sockets. */
int users_make(const struct options *o, struct user *u, size_t n, struct err *e);
void users_free(struct user *u, size_t n);

/* ---- the machine and the servers ------------------------------------------------- */

struct server {
	char path[108];          /* admin socket; empty: only a pid */
	pid_t pid;
	uint64_t start;          /* of the process, so that a reused pid is seen */
	uint64_t cpu_us, last_us; /* accumulated; at the last sample */
	uint64_t syncs, last_syncs; /* of its journal */
	json_t *status;          /* its last answer, may be NULL */
};
struct servers {
	struct server s[SERVERS_MAX];
	unsigned n, replicas, shards;
	struct hist disk;        /* us of 4 KiB pwrite + fdatasync, between loads */
	char disk_error[160];
	bool open;
	int disk_fd;
	bool disk_runs;
	atomic_bool disk_stop;
	pthread_t disk_thread;
	uint8_t *page;
};
int servers_open(struct servers *v, const struct options *o, struct err *e);
void servers_close(struct servers *v);
/* Begin to count CPU and syncs anew. */
void servers_mark(struct servers *v);
/* Now and then during a run with kills: what a killed process used since the last
 * sample is not seen. */
void servers_sample(struct servers *v);
uint64_t servers_cpu_us(const struct servers *v);
/* Bytes of all servers: resident, anonymous (their heaps and stacks). */
void servers_memory(const struct servers *v, uint64_t *rss, uint64_t *anon);
/* `n` more 4 KiB pwrite + fdatasync in the folder: when the servers are idle. */
void disk_measure(struct servers *v, unsigned n);
/* The same from a thread, at every 10 ms; forgets what was measured before. */
void disk_begin(struct servers *v);
void disk_end(struct servers *v);
/* One request, one answer (owned by the caller); NULL with `e`. */
json_t *admin_call(const char *path, const char *request, struct err *e);

/* ---- results ---------------------------------------------------------------------- */

struct report {
	json_t *root;
	const struct options *o;
	bool failed;
};
void report_init(struct report *r, const struct options *o, const char *what);
void report_u64(struct report *r, const char *name, uint64_t v);
void report_real(struct report *r, const char *name, double v);
void report_text(struct report *r, const char *name, const char *v);
/* NAME_p50_us and so on. */
void report_hist(struct report *r, const char *name, const struct hist *h);
/* What the figures stand on: fsync, replicas, disk latency, CPU per message. */
void report_ground(struct report *r, const struct servers *v, uint64_t messages);
void report_fail(struct report *r, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* Print; returns the exit code. */
int report_end(struct report *r);
void progress(const struct options *o, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* Random bytes, the same for one seed; the body of a message begins anywhere in it,
 * which its tag decides, so that a reader can compare. */
#define POOL_BITS 24
#define POOL_BYTES (1u << POOL_BITS)
uint8_t *bench_pool(size_t longest, uint64_t seed);
static inline const uint8_t *bench_body(const uint8_t *pool, uint64_t tag)
{
	return pool + (tag * 0x9e3779b97f4a7c15u >> (64 - POOL_BITS));
}

/* ---- commands: an exit code ----------------------------------------------------------- */

int bench_publish(const struct options *o);
int bench_chat(const struct options *o);
int bench_delivery(const struct options *o);
int bench_sync(const struct options *o);
int bench_idle(const struct options *o);
int bench_corpus(const struct options *o);
int bench_soak(const struct options *o);
int bench_failover(const struct options *o);

#endif
