/* soak: a steady load for a long time, with records that live briefly, and what the
 * servers' folders and heaps hold meanwhile.  Every second recipient is never there:
 * what it is sent goes by its time, the rest when it was acknowledged. */
#include "base/alloc.h"
#include "base/assert.h"
#include "tools/bench/bench.h"
#include "tools/bench/plot.h"

#include <errno.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIVE_MS 30000
#define DRAIN_MS 15000
#define PAIRS 32
#define RATE 200
#define BODY 512
#define MIB 1048576.0

enum kind { JOURNAL, SEGMENTS, STATE, TREES, KINDS };
static const char *const kinds[KINDS] = { "journal", "segments", "state", "trees" };

/* Columns of the table, one value for each sample. */
enum { MINUTE, DISK, RSS = DISK + KINDS, ACKS = RSS + SERVERS_MAX, P99, COLUMNS };

struct soak {
	const struct options *o;
	struct fleet f;
	struct servers v;
	struct user *users;
	struct peer *peers;
	size_t n_peers, n_users, pairs, lane;
	uint64_t *last_seq;      /* by lane: of the one before, for `after` */
	uint8_t *pool;
	uint32_t bytes;
	uint64_t sent, acked, begun_us, paced_us, late; /* paced_us: what is due counts from */
	struct hist ack, all;    /* since the last sample; of the run */
	uint64_t acked_then, sampled_us;
	double *col[COLUMNS];
	size_t n, cap;
	FILE *csv;
};

/* ---- what lies on the disks --------------------------------------------------------- */

static uint64_t on_disk[KINDS];

static int add_file(const char *path, const struct stat *st, int type, struct FTW *at)
{
	enum kind k = STATE;

	(void)at;
	if (type != FTW_F)
		return 0;
	if (strstr(path, "/journal/"))
		k = JOURNAL;
	else if (strstr(path, "/seg/"))
		k = SEGMENTS;
	else if (strstr(path, "/tree/"))
		k = TREES;
	else if (!strstr(path, "/state.mdb"))
		return 0;
	on_disk[k] += (uint64_t)st->st_blocks * 512;
	return 0;
}

/* Of all servers whose folder is known: where the admin socket lies. */
static void measure_disk(const struct soak *s)
{
	unsigned i;

	memset(on_disk, 0, sizeof on_disk);
	for (i = 0; i < s->v.n; i++) {
		char *dir = xstrdup(s->v.s[i].path), *end = strrchr(dir, '/');

		if (end) {
			*end = 0;
			nftw(dir, add_file, 16, FTW_PHYS);
		}
		free(dir);
	}
}

static uint64_t resident(pid_t pid)
{
	unsigned long long size, pages = 0;
	char path[64];
	FILE *f;

	snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
	f = fopen(path, "re");
	if (!f)
		return 0;
	if (fscanf(f, "%llu %llu", &size, &pages) != 2)
		pages = 0;
	fclose(f);
	return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* ---- samples -------------------------------------------------------------------------- */

static void csv_head(struct soak *s)
{
	unsigned i;

	fputs("minutes", s->csv);
	for (i = 0; i < KINDS; i++)
		fprintf(s->csv, ",%s_mib", kinds[i]);
	for (i = 0; i < s->v.n; i++)
		fprintf(s->csv, ",rss_%u_mib", i + 1);
	fputs(",acks_per_s,ack_p99_ms\n", s->csv);
}

static void sample(struct soak *s)
{
	uint64_t now = bench_now_us();
	double *c[COLUMNS];
	unsigned i;

	if (s->n == s->cap) {
		s->cap = s->cap ? 2 * s->cap : 64;
		for (i = 0; i < COLUMNS; i++)
			s->col[i] = xrealloc(s->col[i], s->cap * sizeof(double));
	}
	for (i = 0; i < COLUMNS; i++) {
		c[i] = &s->col[i][s->n];
		*c[i] = 0;
	}
	s->n++;
	measure_disk(s);
	servers_sample(&s->v);
	*c[MINUTE] = (double)(now - s->begun_us) / 60e6;
	for (i = 0; i < KINDS; i++)
		*c[DISK + i] = (double)on_disk[i] / MIB;
	for (i = 0; i < s->v.n; i++)
		*c[RSS + i] = (double)resident(s->v.s[i].pid) / MIB;
	*c[ACKS] = (double)(s->acked - s->acked_then) * 1e6 / (double)(now - s->sampled_us);
	*c[P99] = (double)hist_percentile(&s->ack, .99) / 1e3;
	s->acked_then = s->acked;
	s->sampled_us = now;
	hist_clear(&s->ack);
	if (s->csv) {
		fprintf(s->csv, "%.3f", *c[MINUTE]);
		for (i = DISK; i < COLUMNS; i++)
			if (i < RSS + s->v.n || i >= ACKS)
				fprintf(s->csv, ",%.3f", *c[i]);
		fputc('\n', s->csv);
		fflush(s->csv);
	}
	progress(s->o, "soak: %.1f min, journal %.0f, segments %.1f, state %.1f, trees %.1f "
		 "MiB, %.0f acks/s, p99 %.1f ms", *c[MINUTE], *c[DISK + JOURNAL],
		 *c[DISK + SEGMENTS], *c[DISK + STATE], *c[DISK + TREES], *c[ACKS], *c[P99]);
}

/* Least squares over the second half: what an hour would add. */
static double slope_per_hour(const struct soak *s, const double *v)
{
	size_t from = s->n / 2, i;
	double n = (double)(s->n - from), x = 0, y = 0, xx = 0, xy = 0, d;

	for (i = from; i < s->n; i++) {
		x += s->col[MINUTE][i];
		y += v[i];
		xx += s->col[MINUTE][i] * s->col[MINUTE][i];
		xy += s->col[MINUTE][i] * v[i];
	}
	d = n * xx - x * x;
	return d > 0 ? 60 * (n * xy - x * y) / d : 0;
}

static double most(const struct soak *s, const double *v)
{
	double m = 0;
	size_t i;

	for (i = 0; i < s->n; i++)
		m = v[i] > m ? v[i] : m;
	return m;
}

static double mean(const struct soak *s, const double *v)
{
	size_t from = s->n / 2, i;
	double sum = 0;

	for (i = from; i < s->n; i++)
		sum += v[i];
	return sum / (double)(s->n - from);
}

/* ---- the load --------------------------------------------------------------------------- */

static void on_ack(struct peer *p, struct peer_send *x, const struct wire *w)
{
	struct soak *s = p->fleet->arg;

	s->acked++;
	if (w) {
		hist_add(&s->ack, p->fleet->now_us - x->start_us);
		hist_add(&s->all, p->fleet->now_us - x->start_us);
	}
}

/* What is due by now; a device whose span is full is passed over. */
static void pump(struct soak *s, uint64_t rate)
{
	uint64_t due = (bench_now_us() - s->paced_us) * rate / 1000000, tries = 0;

	while (s->sent < due && tries++ < s->pairs) {
		size_t i = s->lane++ % s->pairs;
		struct peer *p = &s->peers[i];

		if (!peer_can_send(p))
			continue;
		tries = 0;
		s->last_seq[i] = peer_send(p, s->users[s->pairs + i].account,
					   s->last_seq[i], bench_body(s->pool, s->sent),
					   s->bytes, s->sent);
		s->sent++;
	}
	/* What nobody could send in time is not made up for. */
	if (s->sent + rate < due) {
		s->late += due - s->sent;
		s->paced_us += (due - s->sent) * 1000000 / rate;
	}
}

static int prepare(struct soak *s, struct err *e)
{
	char ask[80];
	json_t *j;
	size_t i;
	int rv = fleet_init(&s->f, s->o->gateways, s->o->window, e);

	if (!rv)
		rv = servers_open(&s->v, s->o, e);
	if (rv)
		return rv;
	s->f.on_ack = on_ack;
	s->f.arg = s;
	if (!s->v.n || !s->v.s[0].path[0])
		return err_set(e, ERR_CONFIG, "soak: --admin SOCKET is needed");
	if (s->o->csv) {
		s->csv = fopen(s->o->csv, "we");
		if (!s->csv)
			return err_errno(e, errno, "%s", s->o->csv);
		csv_head(s);
	}
	if (s->o->ttl_s) {
		snprintf(ask, sizeof ask, "{\"verb\":\"retention-ttl\",\"seconds\":%u}",
			 s->o->ttl_s);
		j = admin_call(s->v.s[0].path, ask, e);
		if (!json_is_true(json_object_get(j, "ok"))) {
			json_decref(j);
			return err_set(e, ERR_UNAVAILABLE, "soak: no policy of %u s: %s",
				       s->o->ttl_s, e->msg);
		}
		json_decref(j);
	}
	s->users = xcalloc(s->n_users, sizeof *s->users);
	rv = users_make(s->o, s->users, s->n_users, e);
	if (rv)
		return rv;
	s->pool = bench_pool(s->bytes, rand_u64(&s->f.rand));
	s->last_seq = xcalloc(s->pairs, sizeof *s->last_seq);
	s->peers = xcalloc(s->n_users, sizeof *s->peers);
	for (i = 0; i < s->n_users; i++) {
		if (i >= s->pairs && i % 2) /* never there */
			continue;
		peer_init(&s->peers[i], &s->f, s->users[i].account, s->users[i].device,
			  s->users[i].token, (unsigned)i);
		s->users[i].token = NULL;
		peer_dial(&s->peers[i]);
		s->n_peers++;
	}
	if (!fleet_wait_live(&s->f, (unsigned)s->n_peers, LIVE_MS))
		return err_set(e, ERR_TIMEOUT, "%u of %zu devices are live: %s", s->f.live,
			       s->n_peers, s->f.stats.last_error);
	return 0;
}

static void run(struct soak *s)
{
	uint64_t rate = s->o->rate ? s->o->rate : RATE, every, next, end, now;
	uint64_t us = s->o->minutes ? s->o->minutes * 60000000ull
				    : s->o->seconds * 1000000ull;

	/* Some 700 points, but none within a second of another. */
	every = us / 700 > 1000000 ? us / 700 : 1000000;
	now = s->begun_us = s->paced_us = s->sampled_us = bench_now_us();
	end = now + us;
	for (next = now + every; now < end; now = bench_now_us()) {
		pump(s, rate);
		fleet_turn(&s->f, 5);
		if (now >= next) {
			sample(s);
			next += every;
		}
	}
	end = bench_now_us() + DRAIN_MS * 1000ull;
	while (s->acked < s->sent && bench_now_us() < end)
		fleet_turn(&s->f, 10);
}

/* ---- the result ----------------------------------------------------------------------- */

static int draw(struct soak *s, const double *memory, struct err *e)
{
	static const char *const server[] = { "all", "node 1", "node 2", "node 3", "node 4",
					      "node 5", "node 6", "node 7", "node 8" };
	struct plot_panel p[4] = {
		{ .title = "Disk, all servers", .unit = "MiB" },
		{ .title = "Resident memory", .unit = "MiB" },
		{ .title = "Acknowledged sends", .unit = "1/s", .n_lines = 1,
		  .names = { "acks" }, .values = { s->col[ACKS] } },
		{ .title = "Time to the ack, p99", .unit = "ms", .n_lines = 1,
		  .names = { "p99" }, .values = { s->col[P99] } },
	};
	char title[160];
	unsigned i;

	for (i = 0; i < KINDS; i++) {
		p[0].names[i] = kinds[i];
		p[0].values[i] = s->col[DISK + i];
	}
	p[0].n_lines = KINDS;
	p[1].names[0] = server[0];
	p[1].values[0] = memory;
	for (i = 1; i <= s->v.n && i < PLOT_LINES_MAX; i++) {
		p[1].names[i] = server[i];
		p[1].values[i] = s->col[RSS + i - 1];
	}
	p[1].n_lines = i;
	snprintf(title, sizeof title, "quipu-bench soak: %u servers, %u shards, records of "
		 "%u bytes kept for %u s", s->v.n, s->v.shards, s->bytes, s->o->ttl_s);
	return plot_write(s->o->plot, title, s->col[MINUTE], s->n, p, 4, e);
}

static void figures(struct soak *s, struct report *r)
{
	double *kept = xcalloc(s->n, sizeof *kept), *memory = xcalloc(s->n, sizeof *memory);
	struct err e = { 0 };
	char name[60];
	unsigned k;
	size_t i;

	for (i = 0; i < s->n; i++) {
		for (k = 0; k < KINDS; k++)
			kept[i] += k == TREES ? 0 : s->col[DISK + k][i];
		for (k = 0; k < s->v.n; k++)
			memory[i] += s->col[RSS + k][i];
	}
	for (k = 0; k < KINDS; k++) {
		snprintf(name, sizeof name, "%s_mib_most", kinds[k]);
		report_real(r, name, most(s, s->col[DISK + k]));
		snprintf(name, sizeof name, "%s_mib_per_hour", kinds[k]);
		report_real(r, name, slope_per_hour(s, s->col[DISK + k]));
	}
	report_real(r, "kept_mib_most", most(s, kept));
	report_real(r, "kept_mib_per_hour", slope_per_hour(s, kept));
	report_real(r, "memory_mib_most", most(s, memory));
	report_real(r, "memory_mib_per_hour", slope_per_hour(s, memory));
	/* The verdict: what an hour would add to what is there. */
	report_real(r, "kept_percent_per_hour",
		    mean(s, kept) > 0 ? 100 * slope_per_hour(s, kept) / mean(s, kept) : 0);
	report_real(r, "memory_percent_per_hour",
		    mean(s, memory) > 0
			    ? 100 * slope_per_hour(s, memory) / mean(s, memory) : 0);
	if (s->o->plot && draw(s, memory, &e))
		report_fail(r, "%s", e.msg);
	free(kept);
	free(memory);
}

static void finish(struct soak *s)
{
	size_t i;

	for (i = 0; s->peers && i < s->n_users; i++)
		if (s->peers[i].fleet)
			peer_release(&s->peers[i]);
	for (i = 0; i < COLUMNS; i++)
		free(s->col[i]);
	if (s->csv)
		fclose(s->csv);
	if (s->users)
		users_free(s->users, s->n_users);
	free(s->peers);
	free(s->last_seq);
	free(s->pool);
	fleet_release(&s->f);
	servers_close(&s->v);
	free(s);
}

int bench_soak(const struct options *o)
{
	struct soak *s = xcalloc(1, sizeof *s);
	struct report r;
	struct err e = { 0 };

	s->o = o;
	s->pairs = o->connections ? o->connections : PAIRS;
	s->n_users = 2 * s->pairs;
	s->bytes = o->bytes ? o->bytes : BODY;
	report_init(&r, o, "soak");
	report_u64(&r, "body_bytes", s->bytes);
	report_u64(&r, "ttl_s", o->ttl_s);
	if (prepare(s, &e)) {
		report_fail(&r, "%s", e.msg);
		finish(s);
		return report_end(&r);
	}
	run(s);
	report_u64(&r, "samples", s->n);
	report_u64(&r, "acks", s->acked);
	report_u64(&r, "not_sent_in_time", s->late);
	report_hist(&r, "ack", &s->all);
	if (s->n < 2)
		report_fail(&r, "%zu samples: too short", s->n);
	else
		figures(s, &r);
	report_ground(&r, &s->v, s->acked);
	report_u64(&r, "reconnects", s->f.stats.reconnects);
	if (s->f.stats.refused || s->acked < s->sent)
		report_fail(&r, "%" PRIu64 " sends, %" PRIu64 " answered, %" PRIu64
			    " refused: %s", s->sent, s->acked, s->f.stats.refused,
			    s->f.stats.last_error);
	if (s->f.stats.holes)
		report_fail(&r, "%" PRIu64 " holes in the numbers of inboxes",
			    s->f.stats.holes);
	finish(s);
	return report_end(&r);
}
