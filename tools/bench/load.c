/* publish, chat, delivery: devices that keep a number of sends in flight. */
#include "base/alloc.h"
#include "base/assert.h"
#include "tools/bench/bench.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define WARM_MS 1000
#define LIVE_MS 30000
#define DRAIN_MS 15000
#define PER_DEVICE 16     /* in flight: half the span, so that one late ack
			   * leaves the others room */
#define STARTS (1u << 21) /* sends whose start is remembered for delivery */

struct lane {
	struct peer *peer;
	uint64_t to, last_seq;
	unsigned owed;
};

struct load {
	const struct options *o;
	struct fleet f;
	struct servers v;
	struct user *users;
	struct peer *peers;
	struct lane *lanes;      /* one for each sender; peers[i] is lane i's */
	size_t n_users, n_peers, n_lanes;
	unsigned depth;          /* in flight for each lane */
	unsigned total;          /* in flight for all, <= lanes * depth */
	bool await_delivery;     /* the next send waits for the last's arrival */
	bool chat;               /* another destination for each send */
	bool stop, measure;
	uint8_t *pool;           /* bodies begin anywhere in it */
	uint32_t bytes;
	uint64_t next_tag, sent, acked, delivered, wrong;
	uint64_t *starts;
	uint64_t window_acks, window_delivered, load_us, cpu_us;
	struct hist ack, deliver;
};

static void one_send(struct load *l, struct lane *lane)
{
	if (l->chat) {
		size_t me = (size_t)(lane - l->lanes);
		size_t i = rand_below(&l->f.rand, l->n_peers - 1);

		/* The previous send, wherever it went, is settled: there is
		 * none to come `after`. */
		lane->to = l->peers[i < me ? i : i + 1].account;
		lane->last_seq = 0;
	}
	l->starts[l->next_tag % STARTS] = bench_now_us();
	lane->last_seq = peer_send(lane->peer, lane->to, lane->last_seq,
				   bench_body(l->pool, l->next_tag), l->bytes,
				   l->next_tag);
	l->next_tag++;
	l->sent++;
}

/* `more` sends are due now; the span may put them off till the next ack. */
static void pump(struct load *l, struct lane *lane, unsigned more)
{
	lane->owed += more;
	while (lane->owed && !l->stop && peer_can_send(lane->peer)) {
		lane->owed--;
		one_send(l, lane);
	}
}

static void on_ack(struct peer *p, struct peer_send *s, const struct wire *w)
{
	struct load *l = p->fleet->arg;

	l->acked++;
	if (l->measure && w) {
		l->window_acks++;
		hist_add(&l->ack, p->fleet->now_us - s->start_us);
	}
	pump(l, p->arg, !l->await_delivery);
}

static void on_deliver(struct peer *p, const struct wire *w)
{
	struct load *l = p->fleet->arg;
	uint64_t tag;

	if (!fleet_tag(&l->f, w->b[W_MID], &tag) ||
	    w->b[W_BODY].n != l->bytes ||
	    memcmp(w->b[W_BODY].p, bench_body(l->pool, tag), l->bytes) != 0) {
		l->wrong++;
		return;
	}
	l->delivered++;
	if (l->measure) {
		l->window_delivered++;
		hist_add(&l->deliver, l->f.now_us - l->starts[tag % STARTS]);
	}
	if (l->await_delivery)
		pump(l, p->arg, 1);
}

/* ---- one run ------------------------------------------------------------------------ */

static int prepare(struct load *l, struct err *e)
{
	size_t i, n_peers;
	int rv = fleet_init(&l->f, l->o->gateways, l->o->window, e);

	if (rv)
		return rv;
	rv = servers_open(&l->v, l->o, e);
	if (rv)
		return rv;
	l->f.on_ack = on_ack;
	l->f.on_deliver = on_deliver;
	l->f.arg = l;
	l->users = xcalloc(l->n_users, sizeof *l->users);
	rv = users_make(l->o, l->users, l->n_users, e);
	if (rv)
		return rv;
	n_peers = l->n_peers;
	AN(n_peers);
	l->peers = xcalloc(l->n_peers, sizeof *l->peers);
	l->lanes = xcalloc(l->n_lanes, sizeof *l->lanes);
	l->starts = xcalloc(STARTS, sizeof *l->starts);
	l->pool = bench_pool(l->bytes, rand_u64(&l->f.rand));
	for (i = 0; i < l->n_peers; i++) {
		peer_init(&l->peers[i], &l->f, l->users[i].account,
			  l->users[i].device, l->users[i].token, (unsigned)i);
		l->users[i].token = NULL;
		peer_dial(&l->peers[i]);
	}
	for (i = 0; i < l->n_lanes; i++) {
		size_t to = l->n_users > l->n_peers ?
				    l->n_peers + i % (l->n_users - l->n_peers) :
				    (i + n_peers / 2) % n_peers;

		l->lanes[i].peer = &l->peers[i];
		l->lanes[i].to = l->users[to].account;
		l->peers[i].arg = &l->lanes[i];
	}
	if (!fleet_wait_live(&l->f, (unsigned)l->n_peers, LIVE_MS))
		return err_set(e, ERR_TIMEOUT, "%u of %zu devices are live: %s",
			       l->f.live, l->n_peers, l->f.stats.last_error);
	return 0;
}

static void run_for(struct load *l, uint64_t ms)
{
	uint64_t end = bench_now_us() + ms * 1000, next = 0;

	while (l->f.now_us < end) {
		fleet_turn(&l->f, 10);
		if (l->f.now_us > next) {
			servers_sample(&l->v);
			next = l->f.now_us + 500000;
		}
	}
}

static void run(struct load *l)
{
	uint64_t t0;
	unsigned i, k, n = 0;

	for (k = 0; k < l->depth; k++)
		for (i = 0; i < l->n_lanes && n < l->total; i++, n++)
			pump(l, &l->lanes[i], 1);
	run_for(l, WARM_MS);
	servers_mark(&l->v);
	/* One send at a time leaves the disk idle: it is measured meanwhile, so
	 * that both meet the same machine, whoever else uses it. */
	if (l->total == 1)
		disk_begin(&l->v);
	t0 = bench_now_us();
	l->measure = true;
	run_for(l, l->o->seconds * 1000ull);
	l->measure = false;
	l->load_us = bench_now_us() - t0;
	disk_end(&l->v);
	servers_sample(&l->v);
	l->cpu_us = servers_cpu_us(&l->v);
}

/* What is open gets its answer, what was acked arrives. */
static void drain(struct load *l, bool deliveries)
{
	uint64_t end = bench_now_us() + DRAIN_MS * 1000ull;

	l->stop = true;
	while ((l->acked < l->sent || (deliveries && l->delivered < l->sent)) &&
	       bench_now_us() < end)
		fleet_turn(&l->f, 10);
}

static void finish(struct load *l)
{
	size_t i;

	for (i = 0; i < l->n_peers; i++)
		if (l->peers)
			peer_release(&l->peers[i]);
	free(l->peers);
	free(l->lanes);
	free(l->starts);
	free(l->pool);
	if (l->users)
		users_free(l->users, l->n_users);
	fleet_release(&l->f);
	servers_close(&l->v);
}

static int go(struct load *l, const char *what)
{
	struct report r;
	struct err e = { 0, "" };
	double s;

	report_init(&r, l->o, what);
	report_u64(&r, "in_flight", l->total);
	report_u64(&r, "body_bytes", l->bytes);
	report_u64(&r, "connections", l->n_peers);
	if (prepare(l, &e)) {
		report_fail(&r, "%s", e.msg);
		finish(l);
		return report_end(&r);
	}
	run(l);
	drain(l, l->chat || l->await_delivery);
	s = (double)l->load_us / 1e6;
	if (l->total > 1)
		disk_measure(&l->v, DISK_SAMPLES);
	report_real(&r, "seconds", s);
	report_u64(&r, "acks", l->window_acks);
	report_real(&r, "acks_per_s", (double)l->window_acks / s);
	report_hist(&r, "ack", &l->ack);
	if (l->window_delivered) {
		report_real(&r, "delivered_per_s",
			    (double)l->window_delivered / s);
		report_hist(&r, "delivery", &l->deliver);
	}
	report_ground(&r, &l->v, l->window_acks);
	if (l->v.disk.count && l->total == 1)
		report_real(&r, "ack_p50_over_fdatasync_p50",
			    (double)hist_percentile(&l->ack, .5) /
				    (double)hist_percentile(&l->v.disk, .5));
	report_u64(&r, "retries", l->f.stats.retries);
	report_u64(&r, "reconnects", l->f.stats.reconnects);
	if (l->f.stats.refused || l->acked < l->sent)
		report_fail(&r, "%" PRIu64 " sends, %" PRIu64 " answered, %" PRIu64
			    " refused: %s", l->sent, l->acked,
			    l->f.stats.refused, l->f.stats.last_error);
	if ((l->chat || l->await_delivery) && l->delivered != l->sent)
		report_fail(&r, "%" PRIu64 " sent, %" PRIu64 " delivered",
			    l->sent, l->delivered);
	if (l->wrong)
		report_fail(&r, "%" PRIu64 " deliveries are not what was sent",
			    l->wrong);
	if (l->f.stats.holes)
		report_fail(&r, "%" PRIu64 " holes in the numbers of inboxes",
			    l->f.stats.holes);
	finish(l);
	return report_end(&r);
}

/* As ciphertext is: no two bodies of a batch share bytes, so nothing that
 * compresses does better here than in life. */
uint8_t *bench_pool(size_t longest, uint64_t seed)
{
	uint8_t *p = xmalloc(POOL_BYTES + longest);
	struct rand r;

	rand_seeded(&r, seed);
	rand_fill(&r, p, POOL_BYTES + longest);
	return p;
}

static struct load *load_new(const struct options *o)
{
	struct load *l = xcalloc(1, sizeof *l);

	l->o = o;
	l->bytes = o->bytes ? o->bytes : 256;
	return l;
}

/* Senders that are connected, recipients that are not: what an ack costs. */
static int publish(const struct options *o, unsigned inflight, unsigned bytes)
{
	struct load *l = load_new(o);
	size_t senders = (inflight + PER_DEVICE - 1) / PER_DEVICE;
	int rv;

	if (o->connections > senders)
		senders = o->connections;
	l->bytes = bytes;
	l->n_lanes = l->n_peers = senders;
	/* So many that none fills up (100,000 records) in a run. */
	l->n_users = senders + (senders < 64 ? 64 : senders);
	l->depth = PER_DEVICE;
	l->total = inflight;
	rv = go(l, "publish");
	free(l);
	return rv;
}

int bench_publish(const struct options *o)
{
	static const unsigned inflights[] = { 1, 1024 }, bytes[] = { 256, 1024 };
	unsigned i, k;
	int rv = 0;

	if (o->inflight || o->bytes)
		return publish(o, o->inflight ? o->inflight : 1024,
			       o->bytes ? o->bytes : 256);
	for (i = 0; i < 2; i++)
		for (k = 0; k < 2; k++)
			rv |= publish(o, inflights[i], bytes[k]);
	return rv;
}

/* Users who talk to each other, each waiting for its ack. */
int bench_chat(const struct options *o)
{
	struct load *l = load_new(o);
	int rv;

	l->chat = true;
	l->n_users = l->n_peers = l->n_lanes =
		o->connections ? o->connections : 1000;
	l->depth = 1;
	l->total = (unsigned)l->n_lanes;
	rv = go(l, "chat");
	free(l);
	return rv;
}

/* Pairs who answer each other, each on another gateway than the other. */
static int delivery(const struct options *o, unsigned pairs)
{
	struct load *l = load_new(o);
	int rv;

	l->await_delivery = true;
	l->n_users = l->n_peers = l->n_lanes = 2 * pairs;
	l->depth = 1;
	l->total = pairs;
	rv = go(l, "delivery");
	free(l);
	return rv;
}

int bench_delivery(const struct options *o)
{
	int rv;

	if (o->connections)
		return delivery(o, (o->connections + 1) / 2);
	rv = delivery(o, 1);
	return delivery(o, 100) | rv;
}
