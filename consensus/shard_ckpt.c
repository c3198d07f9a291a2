/* Checkpoints of a shard: when one is due, and the journal's mark that follows it. */
#include "base/logf.h"
#include "base/metric.h"
#include "consensus/node_impl.h"

#include <string.h>

#define CKPT_RETRY_MS 1000 /* after one that found a full disk */
#define CKPT_DOOMED_MS 2000 /* one that frees space, after the one before */
#define CKPT_STUCK_MS 600000 /* at most, where the disk does not let files go */

bool shard_checkpoint_due(const struct shard *s, uint64_t now_ms)
{
	const struct node *n = s->node;

	/* A faulty one may have no store. */
	if (!shard_works(s) || s->marking || install_holds(s))
		return false;
	if (s->ckpt_retry_ms && now_ms < s->ckpt_retry_ms)
		return false;
	/* Files wait for it to be removed. */
	if (store_doomed(s->store) &&
	    now_ms - s->ckpt_ms >= CKPT_DOOMED_MS + s->doomed_wait_ms)
		return true;
	if (store_meta(s->store)->applied_index <= s->durable_index)
		return false;
	if (s->ckpt_retry_ms || repair_wants_checkpoint(s))
		return true;
	return s->bytes_since_ckpt >= n->cfg.checkpoint_bytes ||
	       now_ms - s->ckpt_ms >= n->cfg.checkpoint_age_ms ||
	       store_dirty_bytes(s->store) >
		       n->cfg.store.dirty_max_bytes / 4 * 3 ||
	       journal_pinned_by(n->journal) == s->id ||
	       s->stop_index > s->durable_index ||
	       (s->wanted_index > s->durable_index &&
		store_meta(s->store)->applied_index >= s->wanted_index);
}

static void on_mark(struct journal_req *r)
{
	struct shard *s = r->arg;

	s->marking = false;
	/* An install written with it has voided the group and its entries. */
	if (s->node->dead || install_holds(s))
		return;
	group_durable(s->group, s->durable_index, s->durable_term);
	journal_hold(s->node->journal, s->id, group_needed_index(s->group));
}

void shard_mark(struct shard *s)
{
	struct journal *j = s->node->journal;

	if (!shard_works(s) || s->marking || install_holds(s) ||
	    journal_shard(j, s->id)->mark_index >= s->durable_index)
		return;
	memset(&s->mark, 0, sizeof s->mark);
	s->mark.shard = s->id;
	s->mark.has_mark = true;
	s->mark.mark_index = s->durable_index;
	s->mark.mark_term = s->durable_term;
	s->mark.cb = on_mark;
	s->mark.arg = s;
	s->marking = !journal_submit(j, &s->mark);
}

/* What it removed.  What the disk does not let go is tried again, less and less often;
 * checkpoints that come for another reason try it as well. */
static void freed(struct shard *s)
{
	struct store_stats st;
	uint32_t stuck = store_stuck(s->store);
	uint64_t was = s->doomed_wait_ms;

	s->doomed_wait_ms = stuck ? 2 * was + CKPT_DOOMED_MS : 0;
	if (s->doomed_wait_ms > CKPT_STUCK_MS)
		s->doomed_wait_ms = CKPT_STUCK_MS;
	if (stuck && !was)
		log_event(LOG_WARN, "doomed_stuck", "shard=%u files=%u", s->id, stuck);

	store_stats(s->store, &st);
	metric_add(M_RETAIN_FREED, st.freed_bytes - s->retain.freed);
	s->retain.freed = st.freed_bytes;
}

static void on_checkpoint(void *arg, int status, uint64_t index, uint64_t term,
			  const struct err *e)
{
	struct shard *s = arg;
	struct node *n = s->node;

	n->ckpt_shard = UINT32_MAX;
	s->ckpt_ms = clock_ms(n->env.clock);
	if (n->dead)
		return;
	if (status == ERR_NOSPACE) {
		s->ckpt_retry_ms = s->ckpt_ms + CKPT_RETRY_MS;
		log_event(LOG_WARN, "checkpoint_nospace", "shard=%u why=%s",
			  s->id, log_quote(e->msg));
		return;
	}
	if (status) {
		node_fatal(n, e);
		return;
	}
	metric_add(M_CHECKPOINTS, 1);
	freed(s);
	s->durable_index = index;
	s->durable_term = term;
	shard_mark(s);
}

int shard_checkpoint_start(struct shard *s)
{
	int rv = store_checkpoint(s->store, on_checkpoint, s);

	if (!rv) {
		s->node->ckpt_shard = s->id;
		s->bytes_since_ckpt = 0;
		s->ckpt_retry_ms = 0;
	}
	return rv;
}
