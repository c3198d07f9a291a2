/* What a run stands on: the disk's latency, the servers' CPU time and memory. */
#include "base/alloc.h"
#include "base/assert.h"
#include "tools/bench/bench.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define PAGE 4096
#define DISK_PAGES 1024
#define DISK_EVERY_US 10000

/* ---- processes -------------------------------------------------------------------- */

/* CPU time and start time of a process; false: gone. */
static bool proc_stat(pid_t pid, uint64_t *cpu_us, uint64_t *start)
{
	char path[64], text[1024], *at;
	unsigned long long utime, stime, began;
	size_t n;
	FILE *f;

	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	f = fopen(path, "re");
	if (!f)
		return false;
	n = fread(text, 1, sizeof text - 1, f);
	fclose(f);
	text[n] = 0;
	at = strrchr(text, ')'); /* the name may hold anything */
	if (!at || sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u "
			  "%llu %llu %*d %*d %*d %*d %*d %*d %llu",
			  &utime, &stime, &began) != 3)
		return false;
	*cpu_us = (utime + stime) * 1000000u / (uint64_t)sysconf(_SC_CLK_TCK);
	*start = began;
	return true;
}

/* The kernel knows who listens at the other end. */
static pid_t pid_of_socket(const char *path)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	struct ucred cred = { 0, 0, 0 };
	socklen_t len = sizeof cred;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return 0;
	snprintf(sa.sun_path, sizeof sa.sun_path, "%s", path);
	if (connect(fd, (struct sockaddr *)&sa, sizeof sa) ||
	    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len))
		cred.pid = 0;
	close(fd);
	return cred.pid;
}

static void sample(struct server *s)
{
	uint64_t cpu, start;

	if (!s->pid || !proc_stat(s->pid, &cpu, &start) || start != s->start) {
		pid_t pid = s->path[0] ? pid_of_socket(s->path) : 0;

		s->pid = 0;
		if (!pid || !proc_stat(pid, &cpu, &start))
			return;
		s->pid = pid;
		s->start = start;
		s->last_us = 0; /* a new process: all it used counts */
	}
	s->cpu_us += cpu - s->last_us;
	s->last_us = cpu;
}

void servers_sample(struct servers *v)
{
	unsigned i;

	for (i = 0; i < v->n; i++)
		sample(&v->s[i]);
}

static uint64_t journal_syncs(const struct server *s)
{
	json_t *j = json_object_get(s->status, "journal");

	return (uint64_t)json_integer_value(json_object_get(j, "syncs"));
}

static void ask_status(struct server *s)
{
	struct err e;

	if (!s->path[0])
		return;
	json_decref(s->status);
	s->status = admin_call(s->path, "{\"verb\":\"status\"}", &e);
}

void servers_mark(struct servers *v)
{
	unsigned i;

	servers_sample(v);
	for (i = 0; i < v->n; i++) {
		struct server *s = &v->s[i];

		s->cpu_us = 0;
		ask_status(s);
		s->last_syncs = journal_syncs(s);
	}
}

uint64_t servers_cpu_us(const struct servers *v)
{
	uint64_t sum = 0;
	unsigned i;

	for (i = 0; i < v->n; i++)
		sum += v->s[i].cpu_us;
	return sum;
}

void servers_memory(const struct servers *v, uint64_t *rss, uint64_t *anon)
{
	unsigned i;

	*rss = *anon = 0;
	for (i = 0; i < v->n; i++) {
		char path[64], line[128];
		unsigned long long kb;
		FILE *f;

		snprintf(path, sizeof path, "/proc/%d/smaps_rollup",
			 (int)v->s[i].pid);
		f = fopen(path, "re");
		if (!f)
			continue;
		while (fgets(line, sizeof line, f)) {
			if (sscanf(line, "Rss: %llu kB", &kb) == 1)
				*rss += kb << 10;
			else if (sscanf(line, "Anonymous: %llu kB", &kb) == 1)
				*anon += kb << 10;
		}
		fclose(f);
	}
}

/* ---- opening -------------------------------------------------------------------------- */

static void ask_shape(struct servers *v, const char *path)
{
	json_t *j, *shards;
	struct err e;

	j = admin_call(path, "{\"verb\":\"shards\"}", &e);
	shards = json_object_get(j, "shards");
	v->shards = (unsigned)json_array_size(shards);
	v->replicas = (unsigned)json_array_size(
		json_object_get(json_array_get(shards, 0), "voters"));
	json_decref(j);
	if (v->replicas)
		return;
	/* A follower may not know the others' progress; it knows who they are. */
	j = admin_call(path, "{\"verb\":\"nodes\"}", &e);
	v->replicas = (unsigned)json_array_size(json_object_get(j, "nodes"));
	json_decref(j);
}

static int probe_open(struct servers *v, const char *dir);

int servers_open(struct servers *v, const struct options *o, struct err *e)
{
	char *copy = xstrdup(o->pids ? o->pids : o->admins ? o->admins : "");
	char *save, *t;

	memset(v, 0, sizeof *v);
	v->disk_fd = -1;
	v->open = true;
	for (t = strtok_r(copy, ",", &save); t && v->n < SERVERS_MAX;
	     t = strtok_r(NULL, ",", &save)) {
		struct server *s = &v->s[v->n++];

		if (!o->pids) {
			snprintf(s->path, sizeof s->path, "%s", t);
			if (!v->shards)
				ask_shape(v, s->path);
		} else {
			uint64_t cpu;

			s->pid = (pid_t)strtol(t, NULL, 10);
			if (!proc_stat(s->pid, &cpu, &s->start)) {
				free(copy);
				return err_set(e, ERR_CONFIG, "--pids: no "
					       "process %s", t);
			}
			s->last_us = cpu;
		}
	}
	free(copy);
	if (o->data && probe_open(v, o->data) == 0)
		disk_measure(v, DISK_SAMPLES);
	servers_mark(v);
	return 0;
}

void servers_close(struct servers *v)
{
	unsigned i;

	for (i = 0; i < v->n; i++)
		json_decref(v->s[i].status);
	if (v->open && v->disk_fd >= 0)
		close(v->disk_fd);
	free(v->page);
}

/* ---- the disk --------------------------------------------------------------------------- */

/* As a journal writes: pages of a file that was written before, so that a sync has
 * no metadata to carry. */
static int probe_open(struct servers *v, const char *dir)
{
	char *path = xasprintf("%s/bench-%d.tmp", dir, (int)getpid());
	unsigned i;
	int rv = -1;

	v->disk_fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (v->disk_fd < 0)
		goto out;
	unlink(path); /* it lives as long as it is open */
	if (posix_memalign((void **)&v->page, PAGE, PAGE))
		goto out;
	memset(v->page, 0x5a, PAGE);
	for (i = 0; i < DISK_PAGES; i++)
		if (pwrite(v->disk_fd, v->page, PAGE, (off_t)i * PAGE) != PAGE)
			goto out;
	rv = fsync(v->disk_fd);
out:
	if (rv)
		snprintf(v->disk_error, sizeof v->disk_error, "%.100s: %s", path,
			 strerror(errno));
	free(path);
	return rv;
}

void disk_measure(struct servers *v, unsigned n)
{
	unsigned i;

	if (v->disk_error[0] || v->disk_fd < 0)
		return;
	for (i = 0; i < n; i++) {
		uint64_t t0 = bench_now_us();
		off_t at = (off_t)(v->disk.count % DISK_PAGES) * PAGE;

		memcpy(v->page, &t0, sizeof t0);
		if (pwrite(v->disk_fd, v->page, PAGE, at) != PAGE ||
		    fdatasync(v->disk_fd)) {
			snprintf(v->disk_error, sizeof v->disk_error, "%s",
				 strerror(errno));
			return;
		}
		hist_add(&v->disk, bench_now_us() - t0);
	}
}

static void *disk_loop(void *arg)
{
	struct servers *v = arg;

	while (!atomic_load(&v->disk_stop)) {
		disk_measure(v, 1);
		usleep(DISK_EVERY_US);
	}
	return NULL;
}

void disk_begin(struct servers *v)
{
	if (v->disk_fd < 0 || v->disk_error[0])
		return;
	hist_clear(&v->disk);
	atomic_store(&v->disk_stop, false);
	v->disk_runs = pthread_create(&v->disk_thread, NULL, disk_loop, v) == 0;
}

void disk_end(struct servers *v)
{
	if (!v->disk_runs)
		return;
	atomic_store(&v->disk_stop, true);
	pthread_join(v->disk_thread, NULL);
	v->disk_runs = false;
}

void report_ground(struct report *r, const struct servers *v, uint64_t messages)
{
	uint64_t syncs = 0, cpu = servers_cpu_us(v);
	unsigned i;

	if (v->replicas) {
		report_u64(r, "replicas", v->replicas);
		report_u64(r, "shards", v->shards);
	}
	for (i = 0; i < v->n; i++) {
		struct err e;
		json_t *st = NULL;
		uint64_t now;

		if (!v->s[i].path[0])
			continue;
		st = admin_call(v->s[i].path, "{\"verb\":\"status\"}", &e);
		now = (uint64_t)json_integer_value(json_object_get(
			json_object_get(st, "journal"), "syncs"));
		if (now > v->s[i].last_syncs)
			syncs += now - v->s[i].last_syncs;
		json_decref(st);
	}
	report_text(r, "fsync", syncs ? "every ack after fdatasync on a quorum" :
					"no fdatasync was seen in the run");
	report_u64(r, "fdatasyncs_of_servers", syncs);
	if (v->disk.count) {
		report_u64(r, "fdatasync_4k_p50_us",
			   hist_percentile(&v->disk, 0.5));
		report_u64(r, "fdatasync_4k_p99_us",
			   hist_percentile(&v->disk, 0.99));
	} else {
		report_text(r, "fdatasync_4k", v->disk_error[0] ?
			    v->disk_error : "not measured: no --data");
	}
	if (v->n) {
		report_u64(r, "server_processes", v->n);
		report_real(r, "server_cpu_s", (double)cpu / 1e6);
		if (messages)
			report_real(r, "server_cpu_us_per_message",
				    (double)cpu / (double)messages);
	}
}
