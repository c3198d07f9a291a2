/* failover: a node that leads a part of the shards gets SIGKILL under load, again and
 * again: how long until every device's sends are acknowledged again; and the same with
 * SIGTERM, by which it hands its leaderships over first: the slowest acks meanwhile.
 *
 * All is seen by devices: a new connection to another gateway is part of it. */
#include "base/alloc.h"
#include "base/assert.h"
#include "tools/bench/bench.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define LANES 96
#define RATE 1000        /* sends a second: some ten of each lane */
#define BODY 256
#define LIVE_MS 30000
#define RESUME_MS 30000  /* that is no failover any more */
#define START_MS 90000
#define SETTLE_MS 6000   /* leaderships go home */
#define AFTER_MS 1000

struct failover {
	const struct options *o;
	struct fleet f;
	struct servers v;
	struct user *users;
	struct peer *peers;
	uint64_t *last_seq;
	bool *resumed;           /* by lane: a send begun after the event was acked */
	size_t n, lane, n_resumed;
	uint8_t *pool;
	uint64_t sent, acked, paced_us;
	uint64_t event_us, resume_us; /* 0: none is under way */
	struct hist calm, during, resume;
};

static void on_ack(struct peer *p, struct peer_send *x, const struct wire *w)
{
	struct failover *v = p->fleet->arg;
	uint64_t now = p->fleet->now_us, us = now - x->start_us;
	size_t i = (size_t)(p - v->peers);

	v->acked++;
	if (!w)
		return;
	hist_add(v->event_us ? &v->during : &v->calm, us);
	if (!v->event_us || v->resumed[i] || x->start_us < v->event_us)
		return;
	v->resumed[i] = true;
	v->n_resumed++;
	v->resume_us = now - v->event_us;
}

static void pump(struct failover *v)
{
	uint64_t rate = v->o->rate ? v->o->rate : RATE, tries = 0;
	uint64_t due = (bench_now_us() - v->paced_us) * rate / 1000000;

	while (v->sent < due && tries++ < v->n) {
		size_t i = v->lane++ % v->n;
		struct peer *p = &v->peers[i];

		if (!peer_can_send(p)) { /* its turn is lost */
			v->paced_us += 1000000 / rate;
			due--;
			continue;
		}
		v->last_seq[i] = peer_send(p, v->users[v->n + i].account,
					   v->last_seq[i], bench_body(v->pool, v->sent),
					   BODY, v->sent);
		v->sent++;
	}
}

static void turn(struct failover *v)
{
	pump(v);
	fleet_turn(&v->f, 1);
}

static void turn_for(struct failover *v, uint64_t ms)
{
	uint64_t end = bench_now_us() + ms * 1000;

	while (bench_now_us() < end)
		turn(v);
}

static bool await_resumed(struct failover *v)
{
	uint64_t end = bench_now_us() + RESUME_MS * 1000ull;

	while (v->n_resumed < v->n && bench_now_us() < end)
		turn(v);
	return v->n_resumed == v->n;
}

/* The load goes on while the command works. */
static int start_again(struct failover *v, unsigned node, struct err *e)
{
	char *command = xasprintf("%s %u >/dev/null 2>&1", v->o->restart, node);
	uint64_t end = bench_now_us() + START_MS * 1000ull;
	pid_t pid = fork();
	int status = 1, rv;

	if (pid == 0) {
		execl("/bin/sh", "sh", "-c", command, (char *)NULL);
		_exit(127);
	}
	while (pid > 0 && waitpid(pid, &status, WNOHANG) == 0 &&
	       bench_now_us() < end)
		turn(v);
	rv = pid < 0 || status ? err_set(e, ERR_UNAVAILABLE, "\"%s\" failed", command) : 0;
	free(command);
	return rv;
}

/* One whose parent has not asked for it yet has ended too. */
static bool runs(pid_t pid)
{
	char path[64], text[256], *at;
	size_t n;
	FILE *f;

	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	f = fopen(path, "re");
	if (!f)
		return false;
	n = fread(text, 1, sizeof text - 1, f);
	fclose(f);
	text[n] = 0;
	at = strrchr(text, ')');
	return at && strncmp(at, ") Z", 3) != 0;
}

/* One node goes and comes back. */
static int once(struct failover *v, unsigned i, int sig, struct err *e)
{
	struct server *s = &v->v.s[i];
	uint64_t end;

	servers_sample(&v->v);
	if (!s->pid)
		return err_set(e, ERR_CLOSED, "node %u does not run", i + 1);
	memset(v->resumed, 0, v->n * sizeof *v->resumed);
	v->n_resumed = 0;
	v->event_us = bench_now_us();
	if (kill(s->pid, sig))
		return err_errno(e, errno, "kill %d", (int)s->pid);
	/* An orderly one takes its time. */
	end = bench_now_us() + START_MS * 1000ull;
	while (sig != SIGKILL && runs(s->pid) && bench_now_us() < end)
		turn(v);
	if (!await_resumed(v))
		return err_set(e, ERR_TIMEOUT, "%zu of %zu devices have no ack %u s after "
			       "node %u went: %s", v->n - v->n_resumed, v->n,
			       RESUME_MS / 1000, i + 1, v->f.stats.last_error);
	if (sig == SIGKILL) {
		hist_add(&v->resume, v->resume_us);
		progress(v->o, "failover: node %u: %.0f ms", i + 1,
			 (double)v->resume_us / 1e3);
	}
	turn_for(v, AFTER_MS);
	v->event_us = 0;
	if (start_again(v, i + 1, e))
		return e->code;
	turn_for(v, SETTLE_MS);
	return 0;
}

static int prepare(struct failover *v, struct err *e)
{
	size_t i;
	int rv = fleet_init(&v->f, v->o->gateways, v->o->window, e);

	if (!rv)
		rv = servers_open(&v->v, v->o, e);
	if (rv)
		return rv;
	if (!v->o->restart || v->v.n < 3 || !v->v.s[0].path[0])
		return err_set(e, ERR_CONFIG, "failover: --admin of three servers or more, "
			       "in the order of their numbers, and --restart COMMAND");
	v->f.on_ack = on_ack;
	v->f.arg = v;
	v->users = xcalloc(2 * v->n, sizeof *v->users);
	rv = users_make(v->o, v->users, 2 * v->n, e);
	if (rv)
		return rv;
	v->pool = bench_pool(BODY, rand_u64(&v->f.rand));
	v->last_seq = xcalloc(v->n, sizeof *v->last_seq);
	v->resumed = xcalloc(v->n, sizeof *v->resumed);
	v->peers = xcalloc(v->n, sizeof *v->peers);
	for (i = 0; i < v->n; i++) {
		peer_init(&v->peers[i], &v->f, v->users[i].account, v->users[i].device,
			  v->users[i].token, (unsigned)i);
		v->users[i].token = NULL;
		peer_dial(&v->peers[i]);
	}
	if (!fleet_wait_live(&v->f, (unsigned)v->n, LIVE_MS))
		return err_set(e, ERR_TIMEOUT, "%u of %zu devices are live: %s", v->f.live,
			       v->n, v->f.stats.last_error);
	v->paced_us = bench_now_us();
	turn_for(v, SETTLE_MS);
	return 0;
}

static int run(struct failover *v, struct report *r, struct err *e)
{
	unsigned n = v->o->messages ? v->o->messages : 10, i;
	bool kills = !v->o->only || strcmp(v->o->only, "kill") == 0,
	     stops = !v->o->only || strcmp(v->o->only, "stop") == 0;
	int rv = prepare(v, e);

	for (i = 0; kills && i < n && !rv; i++)
		rv = once(v, i % v->v.n, SIGKILL, e);
	if (rv)
		return rv;
	if (kills) {
		report_u64(r, "kills", n);
		report_hist(r, "resume", &v->resume);
		hist_clear(&v->during);
	}
	for (i = 0; stops && i < n && !rv; i++)
		rv = once(v, i % v->v.n, SIGTERM, e);
	if (!rv && stops) {
		report_u64(r, "stops", n);
		report_hist(r, "ack_during_stop", &v->during);
	}
	report_hist(r, "ack_else", &v->calm);
	return rv;
}

int bench_failover(const struct options *o)
{
	struct failover *v = xcalloc(1, sizeof *v);
	struct err e = { 0 };
	struct report r;
	size_t i;

	v->o = o;
	v->n = o->connections ? o->connections : LANES;
	report_init(&r, o, "failover");
	report_u64(&r, "connections", v->n);
	if (run(v, &r, &e))
		report_fail(&r, "%s", e.msg);
	else
		report_ground(&r, &v->v, v->acked);
	report_u64(&r, "acks", v->acked);
	report_u64(&r, "reconnects", v->f.stats.reconnects);
	if (v->f.stats.refused)
		report_fail(&r, "%" PRIu64 " refused: %s", v->f.stats.refused,
			    v->f.stats.last_error);
	for (i = 0; v->peers && i < v->n; i++)
		peer_release(&v->peers[i]);
	if (v->users)
		users_free(v->users, 2 * v->n);
	free(v->peers);
	free(v->last_seq);
	free(v->resumed);
	free(v->pool);
	fleet_release(&v->f);
	servers_close(&v->v);
	free(v);
	return report_end(&r);
}
