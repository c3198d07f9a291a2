/* The leader's side of a snapshot (install.h): who needs one, the export, and the
 * files by pieces, at a rate.
 *
 * A source stays while somebody asks; when the journal has gone on past it, what an
 * install would bring is behind again, so a new one takes its place. */
#include "consensus/install.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/cursor.h"
#include "base/logf.h"
#include "consensus/node_impl.h"
#include "log/snapshot.h"

#include <inttypes.h>
#include <stdlib.h>

#define SOURCE_IDLE_MS 30000
#define OFFER_MS 1000  /* not more often to one peer */
#define RETRY_MS 1000  /* after an export that failed */
#define BACKLOG_MAX (2u << 20) /* bytes queued to a peer: data waits */

struct snap_source {
	struct shard *shard;
	struct node *node;
	struct disk_work work;
	bool running, ready, dropped;
	bool pinned;             /* somebody on this machine copies its files */
	int status;
	struct err err;
	struct snap_manifest m;
	struct buf bytes;        /* the offer */
	uint32_t incarnation;
	uint64_t used_ms;
	uint64_t offered_ms[NET_NODE_MAX];
	struct disk_file *file;  /* the one asked for last */
	uint32_t file_no;
};

static void source_free(struct snap_source *src)
{
	if (src->file)
		src->node->env.disk->ops->close(src->file);
	snap_release(&src->m);
	buf_release(&src->bytes);
	free(src);
}

bool source_busy(const struct shard *s)
{
	return s->source && s->source->running;
}

void source_drop(struct shard *s)
{
	struct snap_source *src = s->source;

	if (!src)
		return;
	if (src->running && !s->node->dead) {
		src->dropped = true; /* freed when its work is done */
		return;
	}
	s->source = NULL;
	if (s->store)
		store_hold(s->store, false);
	s->node->snap.sources--;
	/* After a crash the next start removes it. */
	if (!s->node->dead)
		snap_export_drop(s->node->env.disk, s->id, src->incarnation);
	source_free(src);
}

static void export_run(struct disk_work *w)
{
	struct snap_source *src = w->arg;

	src->status = snap_export(src->shard->store, &src->m, &src->err);
}

static void export_done(struct disk_work *w)
{
	struct snap_source *src = w->arg;
	struct node *n = src->node;
	struct shard *s = src->shard;

	src->running = false;
	n->snap.works--;
	if (n->dead) /* its shard's closing frees it */
		return;
	if (src->status || src->dropped) {
		if (src->status && src->status != ERR_NOT_FOUND)
			log_event(LOG_WARN, "snapshot_failed",
				  "shard=%u why=%s", s->id,
				  log_quote(src->err.msg));
		s->source_retry_ms = clock_ms(n->env.clock) + RETRY_MS;
		source_drop(s);
		return;
	}
	buf_u8(&src->bytes, MSG_SNAP_OFFER);
	snap_encode(&src->m, &src->bytes);
	src->ready = true;
	src->used_ms = clock_ms(n->env.clock);
	log_event(LOG_INFO, "snapshot_made",
		  "shard=%u index=%" PRIu64 " segments=%u rows=%" PRIu64
		  " id=%016" PRIx64, s->id, src->m.index, src->m.n_segments,
		  src->m.rows, src->m.id);
}

static void source_start(struct shard *s)
{
	struct node *n = s->node;
	struct snap_source *src = xcalloc(1, sizeof *src);
	const struct journal_shard *js = journal_shard(n->journal, s->id);

	src->shard = s;
	src->node = n;
	src->incarnation = js->incarnation ? js->incarnation : 1;
	src->running = true;
	src->work = (struct disk_work){ .run = export_run,
					.done = export_done,
					.arg = src };
	s->source = src;
	store_hold(s->store, true); /* what it names must stay */
	n->snap.sources++;
	n->snap.works++;
	n->env.disk->ops->work(n->env.disk, &src->work);
}

/* Its entries are in the journal no more: it leads nowhere. */
static bool stale(const struct snap_source *src)
{
	const struct journal_shard *js =
		journal_shard(src->node->journal, src->shard->id);

	return src->m.index + 1 < js->first_index ||
	       !group_leads_on(src->shard->group, src->m.index);
}

void source_tick(struct shard *s, uint64_t now_ms)
{
	struct node *n = s->node;
	struct snap_source *src = s->source;
	uint64_t lagging = group_take_lagging(s->group), peer;
	uint64_t asked = repair_askers(s, now_ms);

	if (src && src->ready &&
	    ((stale(src) && !src->pinned) || n->stopping ||
	     now_ms - src->used_ms > SOURCE_IDLE_MS)) {
		source_drop(s);
		src = NULL;
	}
	if (!(lagging | asked) || n->stopping || !n->env.net)
		return;
	if (src && src->ready && asked && src->m.index < s->repair.min) {
		source_drop(s);
		src = NULL;
	}
	if (!src) {
		if (s->durable_index && now_ms >= s->source_retry_ms &&
		    n->level < LEVEL_READONLY &&
		    n->snap.sources < SNAP_SOURCES_MAX && !install_holds(s))
			source_start(s);
		return;
	}
	if (!src->ready)
		return;
	for (peer = 1; peer < NET_NODE_MAX; peer++) {
		if (!((lagging | asked) >> peer & 1) ||
		    (src->offered_ms[peer] &&
		     now_ms - src->offered_ms[peer] < OFFER_MS) ||
		    n->env.net->ops->send(n->env.net, peer, src->bytes.data,
					  src->bytes.len, NULL, 0))
			continue;
		src->offered_ms[peer] = now_ms;
		src->used_ms = now_ms;
		s->repair.askers &= ~(1ull << peer);
		if (lagging >> peer & 1)
			group_offered(s->group, peer, src->m.index);
	}
}

/* ---- a backup ----------------------------------------------------------------- */

int node_backup(struct node *n, uint32_t shard, uint64_t index,
		struct node_backup_info *out, struct err *e)
{
	struct shard *s = &n->shards[shard];
	struct snap_source *src = s->source;
	uint64_t now_ms = clock_ms(n->env.clock);

	if (!shard_works(s))
		return err_set(e, ERR_NOT_FOUND,
			       "this node has no sound replica of shard %u", shard);
	if (n->stopping)
		return err_set(e, ERR_UNAVAILABLE, "the node stops");
	if (src && src->ready && src->m.index >= index) {
		src->pinned = true;
		src->used_ms = now_ms;
		out->incarnation = src->incarnation;
		out->manifest = &src->m;
		out->bytes = src->bytes.data + 1; /* behind the type of the offer */
		out->len = src->bytes.len - 1;
		return 0;
	}
	if (src && src->running)
		return ERR_AGAIN;
	source_drop(s); /* whoever fetches it is offered the next one */
	if (s->durable_index < index) {
		if (s->wanted_index < index)
			s->wanted_index = index;
		return ERR_AGAIN;
	}
	if (n->level >= LEVEL_READONLY)
		return err_set(e, ERR_NOSPACE, "no room for the stream of rows");
	if (n->snap.sources < SNAP_SOURCES_MAX && !install_holds(s))
		source_start(s);
	return ERR_AGAIN;
}

void node_backup_end(struct node *n, uint32_t shard)
{
	struct shard *s = &n->shards[shard];

	if (s->source && s->source->pinned)
		source_drop(s);
}

/* ---- files -------------------------------------------------------------------- */

static void gone(struct node *n, const struct snap_get *g)
{
	buf_clear(&n->snap.out);
	buf_u8(&n->snap.out, MSG_SNAP_GONE);
	buf_u32(&n->snap.out, g->shard);
	buf_u64(&n->snap.out, g->id);
	n->env.net->ops->send(n->env.net, g->peer, n->snap.out.data,
			      n->snap.out.len, NULL, 0);
}

static int source_file(struct snap_source *src, uint32_t file, struct err *e)
{
	const struct disk_ops *ops = src->node->env.disk->ops;
	char path[96];
	int rv;

	if (src->file && src->file_no == file)
		return 0;
	if (src->file)
		ops->close(src->file);
	src->file = NULL;
	snap_file_path(&src->m, file, src->incarnation, path, sizeof path);
	rv = ops->open(src->node->env.disk, path, DISK_READ, &src->file, e);
	if (!rv)
		src->file_no = file;
	return rv;
}

static void serve_one(struct node *n, const struct snap_get *g)
{
	struct snap_source *src = n->shards[g->shard].source;
	struct buf *out = &n->snap.out;
	struct err e = { 0 };
	uint64_t size;
	size_t got = 0;
	int rv;

	if (!src || !src->ready || src->m.id != g->id) {
		gone(n, g);
		return;
	}
	src->used_ms = clock_ms(n->env.clock);
	size = g->file < snap_files(&src->m) ? snap_file_bytes(&src->m, g->file)
					     : 0;
	if (g->off >= size || g->len > size - g->off) {
		log_event(LOG_WARN, "peer_message_refused",
			  "peer=%" PRIu64 " shard=%u why=\"snapshot place\"",
			  g->peer, g->shard);
		return;
	}
	buf_clear(out);
	buf_u8(out, MSG_SNAP_DATA);
	buf_u32(out, g->shard);
	buf_u64(out, g->id);
	buf_u32(out, g->file);
	buf_u64(out, g->off);
	rv = source_file(src, g->file, &e);
	if (!rv)
		rv = n->env.disk->ops->pread(src->file, buf_extend(out, g->len),
					     g->len, g->off, &got, &e);
	if (rv || got != g->len) {
		log_event(LOG_WARN, "snapshot_unreadable",
			  "shard=%u file=%u why=%s", g->shard, g->file,
			  log_quote(rv ? e.msg : "too short"));
		source_drop(&n->shards[g->shard]);
		gone(n, g);
		return;
	}
	n->snap.tokens -= g->len < n->snap.tokens ? g->len : n->snap.tokens;
	n->snap.served_bytes += g->len;
	n->env.net->ops->send(n->env.net, g->peer, out->data, out->len, NULL,
			      0);
}

void source_serve(struct node *n)
{
	struct snap_node *sn = &n->snap;
	uint64_t now_us = clock_us(n->env.clock), left = sn->gets_n, gap;

	if (!sn->gets_n)
		return;
	/* A tenth of a second's worth at most is saved up. */
	gap = now_us - sn->tokens_us;
	sn->tokens += (gap < 1000000 ? gap : 1000000) * sn->rate / 1000000;
	if (sn->tokens > sn->rate / 10 + SNAP_CHUNK)
		sn->tokens = sn->rate / 10 + SNAP_CHUNK;
	sn->tokens_us = now_us;
	while (left-- && sn->tokens >= SNAP_CHUNK) {
		struct snap_get g = sn->gets[sn->gets_head];

		sn->gets_head = (sn->gets_head + 1) % SNAP_GETS_MAX;
		sn->gets_n--;
		if (!n->env.net->ops->is_up(n->env.net, g.peer))
			continue;
		if (n->env.net->ops->queued(n->env.net, g.peer) > BACKLOG_MAX)
			sn->gets[(sn->gets_head + sn->gets_n++) %
				 SNAP_GETS_MAX] = g;
		else
			serve_one(n, &g);
	}
}

void source_on_get(struct node *n, uint64_t peer, struct cursor *c)
{
	struct snap_node *sn = &n->snap;
	struct snap_get g = { .peer = peer };

	g.shard = cursor_u32(c);
	g.id = cursor_u64(c);
	g.file = cursor_u32(c);
	g.len = cursor_u32(c);
	g.off = cursor_u64(c);
	/* One that finds no room is asked again. */
	if (!cursor_done(c) || g.shard >= n->n_shards || !g.len ||
	    g.len > SNAP_CHUNK || sn->gets_n == SNAP_GETS_MAX)
		return;
	sn->gets[(sn->gets_head + sn->gets_n++) % SNAP_GETS_MAX] = g;
	source_serve(n);
}
