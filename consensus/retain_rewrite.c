/* Segments written anew, one at a time for the node's disk (retain.h). */
#include "base/alloc.h"
#include "base/logf.h"
#include "base/metric.h"
#include "consensus/node_impl.h"
#include "consensus/retain.h"

#include <inttypes.h>
#include <stdlib.h>

#define REWRITE_RETRY_MS 10000

struct retain_rewrite {
	struct node *node;
	struct shard *shard;   /* NULL: its store has gone */
	struct rewrite *job;
	struct disk_work work;
	bool running, done;
	int status;
	struct err err;
	uint64_t begun_ms;
};

static void rewrite_end(struct retain_rewrite *r, bool drop)
{
	struct node *n = r->node;

	n->retain.rewrite = NULL;
	if (drop && !n->dead)
		rewrite_drop(r->job);
	rewrite_free(r->job);
	free(r);
}

static void rewrite_run(struct disk_work *w)
{
	struct retain_rewrite *r = w->arg;

	r->status = rewrite_step(r->job, RETAIN_SLICE, &r->done, &r->err);
}

static void rewrite_failed(struct retain_rewrite *r)
{
	struct node *n = r->node;
	struct err e = r->err;

	if (r->status != ERR_NOSPACE && r->status != ERR_DAMAGED &&
	    r->status != ERR_FULL) {
		node_fatal(n, &e);
		return;
	}
	n->retain.rewrites_failed++;
	n->retain.rewrite_retry_ms = clock_ms(n->env.clock) + REWRITE_RETRY_MS;
	log_event(LOG_WARN, "rewrite_failed", "shard=%u base=%" PRIu64 " why=%s",
		  r->shard->id, rewrite_plan(r->job)->base, log_quote(e.msg));
	/* Bad bytes do not get better; the scrubber finds them too. */
	if (r->status != ERR_NOSPACE)
		store_rewrite_refuse(r->shard->store, r->job);
	rewrite_end(r, true);
}

static void rewrite_done(struct disk_work *w)
{
	struct retain_rewrite *r = w->arg;
	struct node *n = r->node;
	const struct rewrite_plan *p = rewrite_plan(r->job);
	struct rewrite_result res;

	r->running = false;
	n->snap.works--;
	if (n->dead)
		return;
	n->retain.due_ms = 0;
	if (!r->shard || !shard_works(r->shard) || n->stopping) {
		rewrite_end(r, true);
		return;
	}
	if (r->status) {
		rewrite_failed(r);
		return;
	}
	if (!r->done)
		return;
	rewrite_result(r->job, &res);
	if (store_rewrite_commit(r->shard->store, r->job)) {
		n->retain.rewrites++;
		metric_add(M_RETAIN_REWRITES, 1);
		log_event(LOG_INFO, "rewritten",
			  "shard=%u base=%" PRIu64 " generation=%u was=%" PRIu64
			  " bytes=%" PRIu64 " stubs=%" PRIu64 " ms=%" PRIu64,
			  r->shard->id, p->base, p->to, p->bytes, res.bytes,
			  res.stubs, clock_ms(n->env.clock) - r->begun_ms);
	}
	rewrite_end(r, false);
}

static void rewrite_next(struct node *n, uint64_t now_ms)
{
	struct retain_node *rn = &n->retain;
	uint32_t i;

	if (now_ms < rn->rewrite_retry_ms || n->stopping ||
	    n->level >= LEVEL_READONLY)
		return;
	for (i = 0; i < n->n_shards && !rn->rewrite; i++) {
		struct shard *s = &n->shards[i];
		struct retain_rewrite *r;
		struct rewrite *job;

		job = !shard_works(s) || install_holds(s)
			      ? NULL
			      : store_rewrite_begin(s->store);
		if (!job)
			continue;
		r = rn->rewrite = xcalloc(1, sizeof *r);
		r->node = n;
		r->shard = s;
		r->job = job;
		r->begun_ms = now_ms;
	}
}

void retain_rewrite_tick(struct node *n, uint64_t now_ms)
{
	struct retain_rewrite *r = n->retain.rewrite;

	if (!r) {
		rewrite_next(n, now_ms);
		return;
	}
	if (r->running)
		return;
	if (!r->shard || !shard_works(r->shard) || n->stopping) {
		rewrite_end(r, true);
		return;
	}
	/* It is read, written, and read again. */
	if (!retain_budget_take(&n->retain, RETAIN_SLICE))
		return;
	r->running = true;
	n->snap.works++;
	r->work = (struct disk_work){ .run = rewrite_run,
				      .done = rewrite_done,
				      .arg = r };
	n->env.disk->ops->work(n->env.disk, &r->work);
}

bool retain_rewrite_wants(const struct node *n)
{
	return n->retain.rewrite && !n->retain.rewrite->running;
}

void retain_rewrite_gone(struct shard *s)
{
	struct retain_rewrite *r = s->node->retain.rewrite;

	if (!r || r->shard != s)
		return;
	r->shard = NULL;
	if (!r->running)
		rewrite_end(r, true);
}

void retain_rewrite_close(struct node *n)
{
	if (n->retain.rewrite)
		rewrite_end(n->retain.rewrite, false);
}
