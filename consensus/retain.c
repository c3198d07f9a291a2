/* The look (retain.h): what may go is found, judged and proposed. */
#include "consensus/retain.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/cursor.h"
#include "base/logf.h"
#include "base/metric.h"
#include "consensus/node_impl.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define TICK_MS 100
#define RETRY_MS 1000
#define BACKOFF_MAX 64         /* periods between two looks at one segment */
#define ROLL_SHARE 4           /* of the records' time: the age of an open segment */

struct retain_memo {
	uint64_t base, next_ms;
	uint32_t backoff;      /* periods */
	bool dead;             /* all of it, when it was judged last */
};

struct retain_look {
	struct node *node;
	struct shard *shard;
	bool running, dropped; /* its work is out; give up when it is back */
	struct store_segment seg;
	bool first;            /* nothing lies before it: it may be trimmed */
	uint64_t epoch, ttl_ms, term, wall_ms;
	struct survey *survey;
	const struct survey_fact *facts;
	unsigned n_facts;
	struct disk_work work;
	int status;
	struct err err;
	bool over;             /* the survey is */
	/* what was found */
	uint8_t *bits;
	uint64_t content, live, held, gain, latest_ms;
	uint64_t alive, fresh; /* records: not dead; dead and no stub yet */
	bool erased;           /* some of them */
	uint64_t erasures;     /* ROLL: machine.erased by then */
	struct buf receipts;
	/* what is proposed */
	uint32_t block;
	struct cmd cmd;
	struct node_call call;
	size_t chunk;          /* of receipts, on its way */
	bool asked, answered, bits_done;
	int answer;
};

void retain_init(struct node *n, const struct retain_config *cfg)
{
	n->retain.cfg = *cfg;
	n->retain.tokens = cfg->rate / 10;
}

/* ---- budget ---------------------------------------------------------------------- */

static void budget_fill(struct retain_node *rn, uint64_t now_ms)
{
	uint64_t gap = now_ms - rn->tokens_ms, most = rn->cfg.rate / 5 + RETAIN_SLICE;

	rn->tokens_ms = now_ms;
	rn->tokens += (gap < 1000 ? gap : 1000) * rn->cfg.rate / 1000;
	if (rn->tokens > most)
		rn->tokens = most;
}

bool retain_budget_take(struct retain_node *rn, uint64_t bytes)
{
	if (rn->tokens < bytes)
		return false;
	rn->tokens -= bytes;
	return true;
}

/* ---- memos ------------------------------------------------------------------------ */

static struct retain_memo *memo_of(struct retain_shard *rs, uint64_t base)
{
	uint32_t lo = 0, hi = rs->n_memos;

	while (lo < hi) {
		uint32_t mid = (lo + hi) / 2;

		if (rs->memos[mid].base < base)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo < rs->n_memos && rs->memos[lo].base == base)
		return &rs->memos[lo];
	rs->memos = xrealloc(rs->memos, (rs->n_memos + 1) * sizeof *rs->memos);
	memmove(rs->memos + lo + 1, rs->memos + lo,
		(rs->n_memos++ - lo) * sizeof *rs->memos);
	rs->memos[lo] = (struct retain_memo){ .base = base };
	return &rs->memos[lo];
}

/* Of segments that are gone. */
static void memos_trim(struct retain_shard *rs, uint64_t trimmed)
{
	uint32_t n = 0;

	while (n < rs->n_memos && rs->memos[n].base < trimmed)
		n++;
	if (!n)
		return;
	memmove(rs->memos, rs->memos + n, (rs->n_memos - n) * sizeof *rs->memos);
	rs->n_memos -= n;
}

static void memos_forget(struct retain_shard *rs)
{
	free(rs->memos);
	rs->memos = NULL;
	rs->n_memos = 0;
}

/* ---- the look: ends --------------------------------------------------------------- */

static void look_free(struct retain_look *l)
{
	survey_free(l->survey);
	buf_release(&l->receipts);
	free(l->bits);
	free(l);
}

/* Next for this shard after `ms`. */
static void look_end(struct retain_look *l, uint64_t ms)
{
	struct node *n = l->node;

	if (l->running && !n->dead) {
		l->dropped = true;
		return;
	}
	if (l->asked && !l->answered)
		node_call_cancel(n, &l->call);
	l->shard->retain.next_ms = clock_ms(n->env.clock) + ms;
	n->retain.look = NULL;
	look_free(l);
}

/* Nothing to be done with this segment for now; the others of the shard go on. */
static void look_later(struct retain_look *l, uint64_t now_ms)
{
	struct retain_shard *rs = &l->shard->retain;
	struct retain_memo *m = memo_of(rs, l->seg.base);
	uint64_t wait;

	m->backoff = m->backoff ? 2 * m->backoff : 1;
	if (m->backoff > BACKOFF_MAX)
		m->backoff = BACKOFF_MAX;
	wait = m->backoff * l->node->retain.cfg.period_ms;
	/* When all of it is over by then it is found in time. */
	if (l->latest_ms && l->latest_ms < l->wall_ms + wait)
		wait = l->latest_ms > l->wall_ms ? l->latest_ms - l->wall_ms
						 : 0;
	if (wait < l->node->retain.cfg.period_ms)
		wait = l->node->retain.cfg.period_ms;
	m->next_ms = now_ms + wait;
	m->dead = l->over && !l->alive;
	rs->content += l->content;
	rs->live += l->live;
	rs->held += l->held;
	look_end(l, 0);
}

/* ---- the look: commands ----------------------------------------------------------- */

static void on_answer(struct node_call *c, int status, const struct result *r)
{
	struct retain_look *l = c->arg;

	l->answered = true;
	l->answer = status ? status : r->status ? ERR_INVALID : 0;
	l->node->retain.due_ms = 0;
}

static void propose(struct retain_look *l, enum retain_op op)
{
	struct cmd_retain *r = &l->cmd.retain;

	l->cmd.type = CMD_RETAIN;
	r->op = op;
	r->base = l->seg.base;
	r->end = l->seg.end;
	r->epoch = l->epoch;
	l->call = (struct node_call){ .cb = on_answer, .arg = l };
	l->asked = true;
	l->answered = false;
	node_propose(l->node, l->shard->id, &l->cmd, &l->call);
}

static void propose_receipts(struct retain_look *l)
{
	struct cursor in = cursor_of(l->receipts.data, l->receipts.len);
	struct retain_receipt r;

	/* Whole ones, as many as a command takes. */
	l->chunk = 0;
	while (cursor_left(&in)) {
		AZ(retain_receipt_get(&r, &in));
		if ((size_t)(in.p - l->receipts.data) > RETAIN_RECEIPTS_MAX)
			break;
		l->chunk = (size_t)(in.p - l->receipts.data);
	}
	l->cmd.retain.bytes = l->receipts.data;
	l->cmd.retain.bytes_len = (uint32_t)l->chunk;
	propose(l, RETAIN_RECEIPTS);
}

static void propose_bits(struct retain_look *l)
{
	uint64_t n = l->seg.end - l->seg.base,
		 at = (uint64_t)l->block * DEAD_BLOCK,
		 here = n - at < DEAD_BLOCK ? n - at : DEAD_BLOCK;

	l->cmd.retain.gen = l->seg.generation + 1;
	l->cmd.retain.block = l->block;
	l->cmd.retain.bytes = l->bits + at / 8;
	l->cmd.retain.bytes_len = (uint32_t)((here + 7) / 8);
	propose(l, RETAIN_DEAD);
	l->block++;
	l->bits_done = at + here == n;
}

/* Rewritten when little of it is alive and that saves something, or when it holds
 * what was erased. */
static bool worth_rewriting(const struct retain_look *l)
{
	if (l->erased)
		return true;
	return l->fresh && l->live * 100 < l->content * l->node->retain.cfg.live &&
	       l->gain >= l->seg.bytes / 8;
}

/* The whole segment was judged. */
static void look_decide(struct retain_look *l, uint64_t now_ms)
{
	struct node *n = l->node;

	if (l->first && !l->alive) {
		if (l->receipts.len)
			propose_receipts(l);
		else
			propose(l, RETAIN_TRIM);
		return;
	}
	if (!worth_rewriting(l)) {
		look_later(l, now_ms);
		return;
	}
	/* There must be room for the new file next to the old one, here at least. */
	if (n->level >= LEVEL_REFUSE && n->disk_free < 2 * l->seg.bytes) {
		look_later(l, now_ms);
		return;
	}
	if (!l->bits_done) {
		propose_bits(l);
		return;
	}
	l->cmd.retain.gen = l->seg.generation + 1;
	propose(l, RETAIN_WANT);
}

/* A trim leaves a record of itself, which by itself is no reason for the next one. */
static void own_record(struct shard *s)
{
	struct retain_shard *rs = &s->retain;
	uint32_t count = store_segments(s->store);
	struct store_segment seg;

	if (!count)
		return;
	store_segment_info(s->store, count - 1, &seg);
	if (rs->own_base != seg.base)
		rs->own = 0;
	rs->own_base = seg.base;
	rs->own++;
}

static void look_answered(struct retain_look *l, uint64_t now_ms)
{
	struct node *n = l->node;
	enum retain_op op = l->cmd.retain.op;

	l->asked = false;
	if (l->answer) {
		/* A policy that changed, a leader that did: all is looked at anew. */
		look_end(l, RETRY_MS);
		return;
	}
	switch (op) {
	case RETAIN_TRIM:
		n->retain.trims++;
		metric_add(M_RETAIN_TRIMS, 1);
		own_record(l->shard);
		log_event(LOG_INFO, "retain_trim",
			  "shard=%u base=%" PRIu64 " end=%" PRIu64, l->shard->id,
			  l->seg.base, l->seg.end);
		look_end(l, 0);
		return;
	case RETAIN_WANT:
		log_event(LOG_INFO, "retain_rewrite_wanted",
			  "shard=%u base=%" PRIu64 " generation=%u stubs=%" PRIu64,
			  l->shard->id, l->seg.base, l->seg.generation + 1,
			  l->fresh);
		memo_of(&l->shard->retain, l->seg.base)->backoff = 0;
		look_later(l, now_ms);
		return;
	case RETAIN_ROLL:
		l->shard->retain.erased = l->erasures;
		l->shard->retain.open_ms = 0;
		look_end(l, 0);
		return;
	case RETAIN_RECEIPTS:
		buf_consume(&l->receipts, l->chunk);
		if (!l->over)
			return;
		break;
	default:
		break;
	}
	look_decide(l, now_ms);
}

/* ---- the look: judging ------------------------------------------------------------ */

static void keep_receipt(struct retain_look *l, const struct survey_fact *f)
{
	struct retain_receipt r = { .from = f->sender,
				    .id = f->seq << 1 | f->part,
				    .offset = f->offset,
				    .lamport = f->lamport,
				    .stamp = f->stamp,
				    .time_ms = f->time_ms,
				    .n = f->n,
				    .device = f->device };

	memcpy(r.mid, f->mid, 16);
	retain_receipt_put(&l->receipts, &r);
}

static void judge(struct retain_look *l, const struct survey_fact *f)
{
	struct machine *m = &l->shard->machine;
	uint64_t i = f->offset - l->seg.base, over;
	enum retain_verdict v = machine_judge(m, f, l->wall_ms, l->ttl_ms);

	l->content += f->content;
	switch (v) {
	case VERDICT_HELD:
		l->held += f->content;
		/* fall through */
	case VERDICT_LIVE:
		l->alive++;
		l->live += f->content;
		over = f->time_ms + machine_ttl_of(f, l->ttl_ms);
		if (v == VERDICT_LIVE && over > l->latest_ms)
			l->latest_ms = over;
		if (f->stub) /* once gone, always */
			break;
		return;
	case VERDICT_ERASED:
		l->erased |= !f->stub;
		/* fall through */
	case VERDICT_DEAD:
		break;
	}
	/* The log's own records say why others are gone: they stay as they are. */
	if (f->n || f->stub) {
		l->bits[i / 8] |= (uint8_t)(1u << i % 8);
		if (!f->stub) {
			l->fresh++;
			if (f->content > SURVEY_STUB_BYTES)
				l->gain += f->content - SURVEY_STUB_BYTES;
		}
	}
	/* A repeat of the send must still find its ack when the record is gone. */
	if (l->first && !l->alive && f->seq &&
	    machine_remembers(m, f->sender, f->device, f->seq << 1 | f->part,
			      f->offset))
		keep_receipt(l, f);
}

/* ---- the look: reading ------------------------------------------------------------ */

static void look_run(struct disk_work *w)
{
	struct retain_look *l = w->arg;

	l->status = survey_step(l->survey, RETAIN_SLICE, &l->facts, &l->n_facts, &l->err);
}

static bool leads(const struct retain_look *l)
{
	const struct shard *s = l->shard;

	return shard_works(s) && s->role == GROUP_LEADER && s->term == l->term &&
	       !l->node->stopping;
}

static void look_done(struct disk_work *w)
{
	struct retain_look *l = w->arg;
	struct node *n = l->node;
	unsigned i;

	l->running = false;
	n->snap.works--;
	if (n->dead)
		return;
	n->retain.due_ms = 0;
	if (l->dropped || !leads(l)) {
		look_end(l, RETRY_MS);
		return;
	}
	if (l->status) {
		/* The scrubber's business; nothing is made of it here. */
		log_event(LOG_WARN, "retain_unreadable",
			  "shard=%u base=%" PRIu64 " why=%s", l->shard->id,
			  l->seg.base, log_quote(l->err.msg));
		look_later(l, clock_ms(n->env.clock));
		return;
	}
	for (i = 0; i < l->n_facts; i++) {
		const struct survey_fact *f = &l->facts[i];

		/* What a damaged file says of its own place is no place. */
		if (f->offset >= l->seg.base && f->offset < l->seg.end)
			judge(l, f);
	}
	if (!l->n_facts) {
		l->over = true;
		look_decide(l, clock_ms(n->env.clock));
	} else if (l->receipts.len && (!l->first || l->alive)) {
		buf_clear(&l->receipts);
	}
}

static void look_step(struct retain_look *l, uint64_t now_ms)
{
	struct node *n = l->node;

	if (l->running)
		return;
	if (!leads(l)) {
		look_end(l, RETRY_MS);
		return;
	}
	if (l->asked) {
		if (l->answered)
			look_answered(l, now_ms);
		return;
	}
	if (l->over)
		return;
	/* So that they stay few. */
	if (l->receipts.len > RETAIN_RECEIPTS_MAX) {
		propose_receipts(l);
		return;
	}
	if (!retain_budget_take(&n->retain, RETAIN_SLICE))
		return;
	l->running = true;
	n->snap.works++;
	l->work = (struct disk_work){ .run = look_run,
				      .done = look_done,
				      .arg = l };
	n->env.disk->ops->work(n->env.disk, &l->work);
}

/* ---- the look: whose turn it is --------------------------------------------------- */

static struct retain_look *look_new(struct node *n, struct shard *s,
				    const struct store_segment *seg)
{
	struct retain_look *l = xcalloc(1, sizeof *l);

	l->node = n;
	l->shard = s;
	l->seg = *seg;
	l->term = s->term;
	l->epoch = machine_retain_epoch(&s->machine);
	l->ttl_ms = machine_ttl_ms(&s->machine);
	l->wall_ms = clock_wall_ms(n->env.clock);
	n->retain.look = l;
	return l;
}

static void look_begin(struct node *n, struct shard *s, uint32_t i)
{
	struct store_segment seg;
	struct retain_look *l;
	struct err e = { 0 };
	char path[96];
	int rv;

	store_segment_info(s->store, i, &seg);
	store_segment_path(s->store, i, path, sizeof path);
	l = look_new(n, s, &seg);
	l->first = i == 0;
	l->bits = xcalloc(1, (size_t)((seg.end - seg.base + 7) / 8));
	rv = survey_open(&l->survey, n->env.disk, path, seg.bytes, &e);
	n->retain.looks++;
	if (!rv)
		return;
	log_event(LOG_WARN, "retain_unreadable",
		  "shard=%u base=%" PRIu64 " why=%s", s->id, seg.base,
		  log_quote(e.msg));
	look_later(l, clock_ms(n->env.clock));
}

/* What a segment keeps past its time is what its newest record waits for: where records
 * live for less than days, it is sealed after a quarter of that. */
static uint64_t roll_ms(struct node *n, struct shard *s)
{
	const struct retain_config *cfg = &n->retain.cfg;
	uint64_t ms = machine_ttl_ms(&s->machine) / ROLL_SHARE;

	if (ms < cfg->period_ms)
		ms = cfg->period_ms;
	return ms < cfg->roll_ms ? ms : cfg->roll_ms;
}

/* An open segment that is old, or that may hold what was erased, is sealed, or nothing
 * in it could ever go. */
static bool roll(struct node *n, struct shard *s, uint64_t now_ms)
{
	struct retain_shard *rs = &s->retain;
	uint32_t count = store_segments(s->store);
	bool erased = rs->erased != s->machine.erased;
	struct store_segment seg;
	struct retain_look *l;

	if (!count)
		return false;
	store_segment_info(s->store, count - 1, &seg);
	if (seg.sealed || seg.end == seg.base)
		return false;
	if (rs->open_base != seg.base || !rs->open_ms ||
	    (rs->own_base == seg.base && rs->own == seg.end - seg.base)) {
		rs->open_base = seg.base;
		rs->open_ms = now_ms;
	}
	if (now_ms - rs->open_ms < roll_ms(n, s) && !erased)
		return false;
	if (erased) /* it may be anywhere */
		memos_forget(rs);
	l = look_new(n, s, &seg);
	l->erasures = s->machine.erased;
	propose(l, RETAIN_ROLL);
	return true;
}

/* Until it is rewritten there is nothing new to be seen, nor before its time.  One that was
 * dead behind others, and is the first now, goes as it is: no backoff holds back all that
 * lies behind it. */
static bool look_due(struct retain_shard *rs, const struct store_segment *seg, bool first,
		     uint64_t now_ms)
{
	const struct retain_memo *m = memo_of(rs, seg->base);

	return (first && m->dead) ||
	       (seg->wanted <= seg->generation && m->next_ms <= now_ms);
}

/* The first segment of the shard whose time it is.  false: none for now. */
static bool shard_look(struct node *n, struct shard *s, uint64_t now_ms)
{
	struct retain_shard *rs = &s->retain;
	uint32_t i, count = store_segments(s->store);

	if (rs->term != s->term) { /* what another term knew is old */
		memos_forget(rs);
		rs->term = s->term;
	}
	memos_trim(rs, store_trimmed(s->store));
	if (roll(n, s, now_ms))
		return true;
	for (i = 0; i < count; i++) {
		struct store_segment seg;

		store_segment_info(s->store, i, &seg);
		if (!seg.sealed || !seg.durable)
			break;
		if (!look_due(rs, &seg, i == 0, now_ms))
			continue;
		if (i == 0)
			rs->content = rs->live = rs->held = 0;
		look_begin(n, s, i);
		return true;
	}
	rs->next_ms = now_ms + n->retain.cfg.period_ms;
	return false;
}

static void look_next(struct node *n, uint64_t now_ms)
{
	struct retain_node *rn = &n->retain;
	uint32_t k;

	if (!rn->cfg.enabled || n->feature.level < feature_of_cmd(CMD_RETAIN) ||
	    n->stopping || n->level >= LEVEL_READONLY)
		return;
	for (k = 0; k < n->n_shards; k++) {
		struct shard *s = &n->shards[rn->next_shard % n->n_shards];

		rn->next_shard++;
		if (shard_works(s) && s->role == GROUP_LEADER &&
		    now_ms >= s->retain.next_ms && s->level < LEVEL_READONLY &&
		    shard_look(n, s, now_ms))
			return;
	}
}

/* ---- for the node ----------------------------------------------------------------- */

void retain_tick(struct node *n, uint64_t now_ms)
{
	struct retain_node *rn = &n->retain;

	rn->due_ms = now_ms + TICK_MS;
	budget_fill(rn, now_ms);
	if (rn->look)
		look_step(rn->look, now_ms);
	else
		look_next(n, now_ms);
	if (n->dead)
		return;
	retain_rewrite_tick(n, now_ms);
	/* A slice that may go at once waits for no grid. */
	if ((rn->look || rn->rewrite) && rn->tokens >= RETAIN_SLICE)
		rn->due_ms = now_ms + 1;
}

uint64_t retain_deadline_ms(const struct node *n)
{
	const struct retain_node *rn = &n->retain;
	const struct retain_look *l = rn->look;

	/* Whoever waits for its work or its answer is woken by it. */
	if ((l && !l->running && (!l->asked || l->answered)) ||
	    retain_rewrite_wants(n))
		return rn->due_ms;
	return UINT64_MAX;
}

void retain_shard_gone(struct shard *s)
{
	struct retain_node *rn = &s->node->retain;

	if (rn->look && rn->look->shard == s)
		look_end(rn->look, RETRY_MS);
	retain_rewrite_gone(s);
	memos_forget(&s->retain);
}

void retain_close(struct node *n)
{
	uint32_t i;

	if (n->retain.look) {
		n->retain.look->running = false;
		/* Its command goes with the shard. */
		n->retain.look->answered = true;
		look_end(n->retain.look, 0);
	}
	retain_rewrite_close(n);
	for (i = 0; i < n->n_shards; i++)
		memos_forget(&n->shards[i].retain);
}

void node_retain_info(struct node *n, uint32_t shard,
		      struct node_retain_info *out)
{
	struct shard *s = &n->shards[shard];
	struct store_stats st;
	uint32_t i;

	memset(out, 0, sizeof *out);
	out->enabled = n->retain.cfg.enabled;
	if (!shard_works(s))
		return;
	store_stats(s->store, &st);
	out->leader = s->role == GROUP_LEADER;
	out->trimmed = store_trimmed(s->store);
	out->records = st.records - out->trimmed;
	out->segments = store_segments(s->store);
	for (i = 0; i < out->segments; i++) {
		struct store_segment seg;

		store_segment_info(s->store, i, &seg);
		out->bytes += seg.bytes;
		out->waiting += seg.wanted > seg.generation;
	}
	if (out->leader) {
		out->content = s->retain.content;
		out->live = s->retain.live;
		out->held = s->retain.held;
	}
	out->doomed = store_doomed(s->store);
	out->freed = st.freed_bytes;
	out->ttl_ms = machine_ttl_ms(&s->machine);
}
