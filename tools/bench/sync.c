/* sync: an inbox of 100,000 messages, filled, then read as a device that was away
 * does it: as a stream from its cursor, and as pages.  The account has several
 * devices, for each can be away only once.
 *
 *	quipu-bench sync                           fill, stream, page: warm
 *	quipu-bench sync --only fill --users F     then restart the servers
 *	quipu-bench sync --only stream --users F   cold */
#include "base/alloc.h"
#include "base/bytes.h"
#include "gateway/token.h"
#include "tools/bench/bench.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define SENDERS 64
#define DEPTH 16
#define DEVICES 6
#define PAGE_ITEMS 500
#define PAGES_OPEN 4

struct inbox {
	uint64_t account;
	uint32_t devices[DEVICES], epochs[DEVICES];
	unsigned n, used; /* devices; how many have streamed */
	uint64_t messages, bytes;
	uint64_t nonce, seed; /* of its message ids and of its bodies */
};

struct sync {
	const struct options *o;
	struct fleet f;
	struct inbox box;
	struct servers v;
	uint64_t next_tag, acked, got, items, asked, wrong;
	uint64_t last_seq[SENDERS];
	uint8_t *pool;
	bool *seen;
	bool failed;
};

/* ---- the file that remembers an inbox ------------------------------------------------ */

static int inbox_save(const struct inbox *b, const char *path, struct err *e)
{
	FILE *f = fopen(path, "we");
	unsigned i;

	if (!f)
		return err_errno(e, errno, "%s", path);
	fprintf(f, "%" PRIx64 " %" PRIu64 " %" PRIu64 " %" PRIx64 " %" PRIx64
		" %u %u\n", b->account, b->messages, b->bytes, b->nonce,
		b->seed, b->n, b->used);
	for (i = 0; i < b->n; i++)
		fprintf(f, "%u %u\n", b->devices[i], b->epochs[i]);
	return fclose(f) ? err_errno(e, errno, "%s", path) : 0;
}

static int inbox_load(struct inbox *b, const char *path, struct err *e)
{
	FILE *f = fopen(path, "re");
	unsigned i;
	int n;

	if (!f)
		return err_errno(e, errno, "%s", path);
	n = fscanf(f, "%" SCNx64 " %" SCNu64 " %" SCNu64 " %" SCNx64 " %" SCNx64
		   " %u %u", &b->account, &b->messages, &b->bytes, &b->nonce,
		   &b->seed, &b->n, &b->used);
	if (n != 7)
		n = 0;
	if (n && b->n <= DEVICES)
		for (i = 0; i < b->n && n > 0; i++)
			n = fscanf(f, "%u %u", &b->devices[i], &b->epochs[i]) - 1;
	fclose(f);
	return n > 0 && b->n <= DEVICES ? 0 :
		err_set(e, ERR_FORMAT, "%s: not written by sync --only fill",
			path);
}

static char *token_for(const struct options *o, const struct inbox *b, unsigned i,
		       struct err *e)
{
	return token_issue(o->token_key, b->account, b->devices[i], b->epochs[i],
			   TOKEN_TTL_BENCH_S, e);
}

/* ---- filling ------------------------------------------------------------------------- */

static void fill_more(struct peer *p)
{
	struct sync *s = p->fleet->arg;
	size_t i = (size_t)p->arg;

	while (p->n_open < DEPTH && peer_can_send(p) &&
	       s->next_tag < s->box.messages) {
		s->last_seq[i] = peer_send(p, s->box.account, s->last_seq[i],
					   bench_body(s->pool, s->next_tag),
					   (uint32_t)s->box.bytes, s->next_tag);
		s->next_tag++;
	}
}

static void fill_ack(struct peer *p, struct peer_send *snd, const struct wire *w)
{
	struct sync *s = p->fleet->arg;

	(void)snd;
	if (!w)
		s->failed = true;
	s->acked++;
	fill_more(p);
}

static int add_devices(const struct options *o, struct inbox *b, struct err *e)
{
	char *first = xstrdup(o->admins), line[128];
	int rv = 0;

	first[strcspn(first, ",")] = 0;
	snprintf(line, sizeof line, "{\"verb\":\"device-add\",\"account\":\"%016"
		 PRIx64 "\"}", b->account);
	while (!rv && b->n < DEVICES) {
		json_t *j = admin_call(first, line, e);

		if (j && json_is_true(json_object_get(j, "ok"))) {
			b->devices[b->n] = (uint32_t)json_integer_value(
				json_object_get(j, "device"));
			b->epochs[b->n++] = (uint32_t)json_integer_value(
				json_object_get(j, "epoch"));
		} else {
			rv = j ? err_set(e, ERR_UNAVAILABLE, "device-add: %s",
					 json_string_value(json_object_get(
						 j, "error"))) : e->code;
		}
		json_decref(j);
	}
	free(first);
	return rv;
}

static int fill(struct sync *s, struct err *e)
{
	struct user *u = xcalloc(SENDERS + 1, sizeof *u);
	struct peer *peers = xcalloc(SENDERS, sizeof *peers);
	uint64_t t0, last = 0, moved;
	unsigned i;
	int rv = users_make(s->o, u, SENDERS + 1, e);

	s->box.messages = s->o->messages ? s->o->messages : 100000;
	s->box.bytes = s->o->bytes ? s->o->bytes : 256;
	s->box.account = u[SENDERS].account;
	s->box.devices[0] = u[SENDERS].device;
	s->box.epochs[0] = u[SENDERS].epoch;
	s->box.n = 1;
	s->box.used = 0;
	if (!rv)
		rv = add_devices(s->o, &s->box, e);
	s->box.nonce = get_u64(s->f.nonce);
	s->box.seed = rand_u64(&s->f.rand);
	s->pool = bench_pool(s->box.bytes, s->box.seed);
	s->f.on_ack = fill_ack;
	s->f.on_live = fill_more;
	for (i = 0; i < SENDERS && !rv; i++) {
		peer_init(&peers[i], &s->f, u[i].account, u[i].device,
			  u[i].token, i);
		u[i].token = NULL;
		peers[i].arg = (void *)(size_t)i;
		peer_dial(&peers[i]);
	}
	t0 = moved = bench_now_us();
	while (!rv && s->acked < s->box.messages) {
		fleet_turn(&s->f, 10);
		if (s->acked != last) {
			if (s->acked / 20000 != last / 20000)
				progress(s->o, "fill: %" PRIu64 " of %" PRIu64,
					 s->acked, s->box.messages);
			last = s->acked;
			moved = s->f.now_us;
		} else if (s->f.now_us - moved > s->o->stall_s * 1000000ull) {
			rv = err_set(e, ERR_TIMEOUT, "fill stands at %" PRIu64
				     " of %" PRIu64 ": %s", s->acked,
				     s->box.messages, s->f.stats.last_error);
		}
	}
	if (!rv && s->failed)
		rv = err_set(e, ERR_UNAVAILABLE, "fill: a send was refused: %s",
			     s->f.stats.last_error);
	if (!rv)
		progress(s->o, "fill: %" PRIu64 " messages in %.1f s",
			 s->box.messages, (double)(bench_now_us() - t0) / 1e6);
	for (i = 0; i < SENDERS; i++)
		if (peers[i].fleet)
			peer_release(&peers[i]);
	s->f.on_ack = NULL;
	s->f.on_live = NULL;
	free(peers);
	users_free(u, SENDERS + 1);
	return rv;
}

/* ---- reading ------------------------------------------------------------------------- */

/* The n-th of the inbox: one of those that were sent, each once. */
static void check(struct sync *s, const struct wire *w, uint64_t n)
{
	uint64_t tag;

	if (w->u[W_N] == n && fleet_tag(&s->f, w->b[W_MID], &tag) &&
	    tag < s->box.messages && !s->seen[tag] &&
	    w->b[W_BODY].n == s->box.bytes &&
	    memcmp(w->b[W_BODY].p, bench_body(s->pool, tag), s->box.bytes) == 0)
		s->seen[tag] = true;
	else
		s->wrong++;
}

static void stream_deliver(struct peer *p, const struct wire *w)
{
	struct sync *s = p->fleet->arg;

	check(s, w, ++s->got);
}

static void page_more(struct peer *p)
{
	struct sync *s = p->fleet->arg;

	if (s->asked >= s->box.messages)
		return;
	peer_sync(p, s->asked, s->asked, PAGE_ITEMS);
	s->asked += PAGE_ITEMS;
}

static void page_live(struct peer *p)
{
	unsigned i;

	for (i = 0; i < PAGES_OPEN; i++)
		page_more(p);
}

static void page_got(struct peer *p, const struct wire *w)
{
	struct sync *s = p->fleet->arg;
	uint64_t at = w->u[W_ID], end = (at / PAGE_ITEMS + 1) * PAGE_ITEMS;
	struct wire_iter it;
	struct wire item;

	wire_iter_init(&it, w, W_ITEMS);
	while (wire_iter_item(&it, &item)) {
		s->got++;
		check(s, &item, ++at);
	}
	if (end > s->box.messages)
		end = s->box.messages;
	if (at == w->u[W_ID] && at < end)
		s->wrong++; /* nothing came */
	else if (at < end)
		peer_sync(p, at, at, (unsigned)(end - at)); /* cut by its size */
	else
		page_more(p);
}

static int read_inbox(struct sync *s, bool pages, struct err *e)
{
	uint64_t t0, t1, last = 0, moved;
	struct peer *p = xcalloc(1, sizeof *p);
	struct report r;
	unsigned device = pages ? s->box.n - 1 : s->box.used;
	char *token;

	if (!pages && s->box.used >= s->box.n - 1)
		return err_set(e, ERR_CONFIG, "all devices of this inbox were "
			       "used: fill another");
	token = token_for(s->o, &s->box, device, e);
	if (!token) {
		free(p);
		return e->code;
	}
	s->got = s->asked = s->wrong = 0;
	free(s->seen);
	s->seen = xcalloc(s->box.messages, sizeof *s->seen);
	put_u64(s->f.nonce, s->box.nonce);
	if (!s->pool)
		s->pool = bench_pool(s->box.bytes, s->box.seed);
	peer_init(p, &s->f, s->box.account, s->box.devices[device], token, 0);
	s->f.on_deliver = pages ? NULL : stream_deliver;
	s->f.on_page = page_got;
	s->f.on_live = pages ? page_live : NULL;
	if (pages) {
		/* As a reader of history: the stream itself is up to date. */
		p->cursor = s->box.messages;
		p->no_recv = true;
	}
	servers_mark(&s->v);
	t0 = moved = bench_now_us();
	peer_dial(p);
	while (s->got < s->box.messages && !s->wrong) {
		fleet_turn(&s->f, 10);
		if (s->got != last) {
			last = s->got;
			moved = s->f.now_us;
		} else if (s->f.now_us - moved > s->o->stall_s * 1000000ull) {
			break;
		}
	}
	t1 = bench_now_us();
	servers_sample(&s->v);
	if (!pages)
		s->box.used++;
	report_init(&r, s->o, pages ? "sync by pages" : "sync by stream");
	report_u64(&r, "inbox", s->box.messages);
	report_u64(&r, "body_bytes", s->box.bytes);
	report_real(&r, "seconds", (double)(t1 - t0) / 1e6);
	report_real(&r, "messages_per_s",
		    (double)s->got * 1e6 / (double)(t1 - t0));
	report_ground(&r, &s->v, s->got);
	if (s->got < s->box.messages || s->wrong)
		report_fail(&r, "%" PRIu64 " of %" PRIu64 " messages, %" PRIu64
			    " wrong: %s", s->got, s->box.messages, s->wrong,
			    s->f.stats.last_error);
	peer_release(p);
	free(p);
	s->failed |= report_end(&r);
	return 0;
}

int bench_sync(const struct options *o)
{
	struct sync *s = xcalloc(1, sizeof *s);
	struct err e = { 0, "" };
	const char *only = o->only;
	int rv;

	s->o = o;
	rv = fleet_init(&s->f, o->gateways, o->window, &e);
	s->f.arg = s;
	if (!rv)
		rv = servers_open(&s->v, o, &e);
	if (!rv && (!only || strcmp(only, "fill") == 0))
		rv = fill(s, &e);
	else if (!rv)
		rv = o->users ? inbox_load(&s->box, o->users, &e) :
				err_set(&e, ERR_CONFIG, "--users FILE, as --only "
					"fill left it, is needed");
	if (!rv && (!only || strcmp(only, "stream") == 0))
		rv = read_inbox(s, false, &e);
	if (!rv && (!only || strcmp(only, "page") == 0))
		rv = read_inbox(s, true, &e);
	if (!rv && o->users)
		rv = inbox_save(&s->box, o->users, &e);
	if (rv)
		fprintf(stderr, "quipu-bench: %s\n", e.msg);
	rv = rv || s->failed;
	fleet_release(&s->f);
	servers_close(&s->v);
	free(s->pool);
	free(s->seen);
	free(s);
	return rv;
}
