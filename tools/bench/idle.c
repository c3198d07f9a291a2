/* idle: what a connection costs that says nothing, session state included.  The
 * connections are held by children, for a process has few descriptors; each tells
 * the parent when all of its own are live. */
#include "base/alloc.h"
#include "base/assert.h"
#include "tools/bench/bench.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define WARM 64           /* connections before the first look at the memory */
#define SPARE_FDS 64
#define LIVE_MS 120000
#define SETTLE_MS 3000
#define PROCS_MAX 64

struct holder {
	pid_t pid;
	int pipe;             /* its reports */
	unsigned live;
};

/* A child: n devices, live, for as long as the parent lives. */
static void hold(const struct options *o, struct user *u, size_t n,
		 unsigned first, int out)
{
	struct fleet f;
	struct err e = { 0, "" };
	struct peer *p = xcalloc(n, sizeof *p);
	unsigned said = 0;
	size_t i;

	if (fleet_init(&f, o->gateways, o->window, &e)) {
		fprintf(stderr, "quipu-bench: %s\n", e.msg);
		_exit(1);
	}
	for (i = 0; i < n; i++) {
		peer_init(&p[i], &f, u[i].account, u[i].device, u[i].token,
			  first + (unsigned)i);
		peer_dial(&p[i]);
	}
	for (;;) {
		struct pollfd pf = { out, 0, 0 };

		fleet_turn(&f, 100);
		if (f.live != said) {
			said = f.live;
			if (write(out, &said, sizeof said) < 0)
				_exit(0);
		}
		if (poll(&pf, 1, 0) > 0 && pf.revents & (POLLERR | POLLHUP))
			_exit(0); /* the parent ended */
	}
}

static int start(const struct options *o, struct holder *h, struct user *u,
		 size_t n, unsigned first, struct err *e)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC | O_NONBLOCK))
		return err_errno(e, errno, "pipe");
	h->pid = fork();
	if (h->pid < 0)
		return err_errno(e, errno, "fork");
	if (h->pid == 0) {
		close(fds[0]);
		hold(o, u, n, first, fds[1]);
	}
	close(fds[1]);
	h->pipe = fds[0];
	h->live = 0;
	return 0;
}

/* All live children together; what they say is their latest count. */
static unsigned count(struct holder *h, unsigned n)
{
	unsigned i, sum = 0, v;

	for (i = 0; i < n; i++) {
		while (read(h[i].pipe, &v, sizeof v) == sizeof v)
			h[i].live = v;
		sum += h[i].live;
	}
	return sum;
}

static bool await(const struct options *o, struct holder *h, unsigned n,
		  unsigned live)
{
	uint64_t end = bench_now_us() + LIVE_MS * 1000ull, next = 0;

	while (count(h, n) < live) {
		if (bench_now_us() > end)
			return false;
		if (bench_now_us() > next) {
			next = bench_now_us() + 2000000;
			progress(o, "idle: %u of %u are live", count(h, n),
				 live);
		}
		usleep(50000);
	}
	sleep(SETTLE_MS / 1000);
	return true;
}

struct look {
	unsigned live;
	uint64_t rss, anon;
};

/* Start what is missing to `n` (of which `have` are there), wait, look. */
static int grow(const struct options *o, struct user *u, unsigned have,
		unsigned n, unsigned per, struct holder *h, unsigned *n_held,
		struct servers *v, struct look *l, struct err *e)
{
	unsigned step;
	int rv;

	for (; have < n; have += step) {
		step = n - have < per ? n - have : per;
		if (*n_held == PROCS_MAX)
			return err_set(e, ERR_CONFIG, "more than %d processes",
				       PROCS_MAX);
		rv = start(o, &h[*n_held], u + have, step, have, e);
		if (rv)
			return rv;
		(*n_held)++;
	}
	if (!await(o, h, *n_held, n))
		return err_set(e, ERR_TIMEOUT, "%u of %u devices are live",
			       count(h, *n_held), n);
	servers_sample(v);
	servers_memory(v, &l->rss, &l->anon);
	l->live = n;
	return 0;
}

/* Twice: what servers had freed before is used up by the first half, so the second
 * half shows the price.  (Memory that earlier loads left free hides all of it: use
 * fresh servers.) */
static int measure(const struct options *o, struct report *r, struct servers *v,
		   struct holder *h, unsigned *n_held, struct err *e)
{
	unsigned n = o->connections ? o->connections : 15000, per;
	struct look l[3];
	struct user *u;
	struct rlimit rl;
	int rv;

	n = n < 4 * WARM ? 4 * WARM : n;
	u = xcalloc(n, sizeof *u);
	rv = users_make(o, u, n, e);
	getrlimit(RLIMIT_NOFILE, &rl);
	per = (unsigned)(rl.rlim_cur < 20000 ? rl.rlim_cur : 20000) - SPARE_FDS;
	if (o->procs && n / o->procs + 1 < per)
		per = n / o->procs + 1;
	if (!rv)
		rv = grow(o, u, 0, WARM, per, h, n_held, v, &l[0], e);
	if (!rv)
		rv = grow(o, u, WARM, n / 2, per, h, n_held, v, &l[1], e);
	if (!rv)
		rv = grow(o, u, n / 2, n, per, h, n_held, v, &l[2], e);
	if (rv)
		goto out;
	report_u64(r, "connections", n);
	report_u64(r, "client_processes", *n_held);
	report_real(r, "bytes_per_connection",
		    ((double)l[2].anon - (double)l[1].anon) /
			    (l[2].live - l[1].live));
	report_real(r, "rss_bytes_per_connection",
		    ((double)l[2].rss - (double)l[1].rss) /
			    (l[2].live - l[1].live));
	report_real(r, "bytes_per_connection_first_half",
		    ((double)l[1].anon - (double)l[0].anon) /
			    (l[1].live - l[0].live));
	report_u64(r, "anonymous_before", l[0].anon);
	report_u64(r, "anonymous_after", l[2].anon);
	/* Idle is also: no CPU. */
	servers_mark(v);
	sleep(o->seconds);
	servers_sample(v);
	report_real(r, "server_cpu_permille_of_a_core",
		    (double)servers_cpu_us(v) / 1000.0 / o->seconds);
	if (count(h, *n_held) != n)
		rv = err_set(e, ERR_CLOSED, "only %u of %u stayed live",
			     count(h, *n_held), n);
out:
	users_free(u, n);
	return rv;
}

int bench_idle(const struct options *o)
{
	struct holder h[PROCS_MAX];
	struct servers v;
	struct report r;
	struct err e = { 0, "" };
	unsigned held = 0, i;
	int rv = servers_open(&v, o, &e);

	report_init(&r, o, "idle");
	if (!rv)
		rv = measure(o, &r, &v, h, &held, &e);
	if (rv)
		report_fail(&r, "%s", e.msg);
	for (i = 0; i < held; i++) {
		kill(h[i].pid, SIGKILL);
		waitpid(h[i].pid, NULL, 0);
		close(h[i].pipe);
	}
	if (!rv)
		report_ground(&r, &v, 0);
	servers_close(&v);
	return report_end(&r);
}
