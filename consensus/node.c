#include "consensus/node.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/bytes.h"
#include "base/hash.h"
#include "base/logf.h"
#include "consensus/node_impl.h"

#include <inttypes.h>
#include <stdlib.h>

#define TICK_MS 20          /* grid of timers: heartbeats of all shards leave
			       in one write per peer */
#define STOP_MAX_MS 5000
#define HOLDS_MS 1000
#define TURN_ROUNDS_MAX 16
#define TURN_APPLY_MAX (8u << 20) /* bytes; then sockets and timers have a look:
			       a node that replays must not fall silent */

void node_fatal(struct node *n, const struct err *e)
{
	if (n->dead)
		return;
	n->dead = true;
	log_event(LOG_ERROR, "fatal", "code=%s why=%s", err_name(e->code),
		  log_quote(e->msg));
	n->env.fatal(n->env.fatal_arg, e);
}

static void journal_failed(void *arg, const struct err *e)
{
	node_fatal(arg, e);
}

void node_nonce(struct node *n, uint8_t out[16])
{
	if (n->nonces_left < 16) {
		rand_fill(n->env.rand, n->nonces, sizeof n->nonces);
		n->nonces_left = sizeof n->nonces;
	}
	n->nonces_left -= 16;
	memcpy(out, n->nonces + n->nonces_left, 16);
	memset(n->nonces + n->nonces_left, 0, 16);
}

/* ---- calls ------------------------------------------------------------------ */

void node_call_finish(struct node *n, struct node_call *c, int status)
{
	struct call_priv *cp = call_priv(c);

	cp->next = NULL;
	cp->status = status;
	*n->done_tail = c;
	n->done_tail = &cp->next;
}

void node_call_result(struct node *n, struct node_call *c,
		      const struct result *r)
{
	n->calls--;
	c->cb(c, 0, r);
}

static bool calls_done(struct node *n)
{
	struct node_call *c;
	unsigned left = 0;
	bool did = false;

	/* A callback may queue more, which wait for the next round, and it may
	 * cancel others: so each is taken off the list before it is called. */
	for (c = n->done_head; c; c = call_priv(c)->next)
		left++;
	while (left-- && n->done_head) {
		c = n->done_head;
		n->done_head = call_priv(c)->next;
		if (!n->done_head)
			n->done_tail = &n->done_head;
		did = true;
		n->calls--;
		c->cb(c, call_priv(c)->status, NULL);
	}
	return did;
}

static struct shard *call_shard(struct node *n, uint32_t shard,
				struct node_call *c)
{
	memset(c->priv, 0, sizeof c->priv);
	n->woken = true;
	n->calls++;
	AN(shard < n->n_shards);
	if (n->calls > NODE_CALLS_MAX) {
		node_call_finish(n, c, ERR_BUSY);
		return NULL;
	}
	return &n->shards[shard];
}

void node_propose(struct node *n, uint32_t shard, const struct cmd *cmd,
		  struct node_call *c)
{
	struct shard *s = call_shard(n, shard, c);

	if (!s)
		return;
	/* Not yet: an older program would stop at it. */
	if (feature_of_cmd(cmd->type) > n->feature.level)
		node_call_finish(n, c, ERR_BUSY);
	else
		rpc_propose(n, s, cmd, c);
}

void node_query(struct node *n, uint32_t shard, const struct query *q,
		struct node_call *c)
{
	struct shard *s = call_shard(n, shard, c);

	if (s)
		rpc_query(n, s, q, c);
}

static void cancel_waiters(struct batch *b, struct node_call *c)
{
	unsigned i;

	for (i = 0; i < b->n; i++)
		if (b->waiters[i].call == c)
			b->waiters[i].call = NULL;
}

/* Rare (a client that goes away takes its answers along), so a search will do. */
void node_call_cancel(struct node *n, struct node_call *c)
{
	struct node_call **pp = &n->done_head;
	uint32_t i;
	unsigned k;

	n->calls--;
	if (call_priv(c)->remote) {
		rpc_forget_call(n, c);
		return;
	}
	for (; *pp; pp = &call_priv(*pp)->next) {
		if (*pp == c) {
			*pp = call_priv(c)->next;
			if (!*pp)
				n->done_tail = pp;
			return;
		}
	}
	for (i = 0; i < n->n_shards; i++) {
		struct shard *s = &n->shards[i];

		cancel_waiters(&s->forming, c);
		for (k = 0; k < s->fly_n; k++)
			cancel_waiters(&s->inflight[(s->fly_head + k) %
						    SHARD_INFLIGHT_MAX],
				       c);
		LIST_FOREACH(it, &s->reads)
		{
			struct read_wait *w =
				container_of(it, struct read_wait, link);

			if (w->waiter.call == c)
				w->waiter.call = NULL;
		}
	}
}

/* ---- subscriptions ------------------------------------------------------------- */

void node_sub_finish(struct node *n, struct node_sub *s, int why)
{
	struct sub_priv *sp = sub_priv(s);

	rpc_unsubscribe(n, s);
	sp->why = why;
	if (list_empty(&sp->link))
		list_append(&n->ended, &sp->link);
}

static bool subs_ended(struct node *n)
{
	struct list *it;
	bool did = false;
	struct list round;

	if (list_empty(&n->ended))
		return false;
	round = n->ended;
	round.next->prev = &round;
	round.prev->next = &round;
	list_init(&n->ended);
	while ((it = list_pop(&round))) {
		struct sub_priv *sp = container_of(it, struct sub_priv, link);
		struct node_sub *s = (struct node_sub *)(void *)((char *)sp -
			offsetof(struct node_sub, priv));

		did = true;
		n->subs--;
		s->end(s, sp->why);
	}
	return did;
}

void node_subscribe(struct node *n, uint32_t shard, struct node_sub *s)
{
	struct sub_priv *sp = sub_priv(s);

	memset(s->priv, 0, sizeof s->priv);
	n->woken = true;
	list_init(&sp->link);
	AN(shard < n->n_shards);
	if (n->subs++ >= NODE_SUBS_MAX)
		node_sub_finish(n, s, ERR_UNAVAILABLE);
	else
		rpc_subscribe(n, &n->shards[shard], s);
}

void node_sub_credit(struct node *n, struct node_sub *s, uint64_t acked,
		     uint32_t window)
{
	n->woken = true;
	rpc_sub_state(n, s, acked, window, -1);
}

void node_sub_pause(struct node *n, struct node_sub *s, bool paused)
{
	n->woken = true;
	rpc_sub_state(n, s, 0, s->window, paused);
}

void node_unsubscribe(struct node *n, struct node_sub *s)
{
	n->subs--;
	n->woken = true;
	rpc_unsubscribe(n, s);
	list_remove(&sub_priv(s)->link);
}

/* ---- slots ----------------------------------------------------------------------- */

uint32_t node_shards(const struct node *n)
{
	return n->n_shards;
}

uint32_t node_shard_of(const struct node *n, uint64_t id)
{
	return n->slots[xxh3(&id, 8) % SLOTS];
}

static int slots_load(struct node *n, struct err *e)
{
	uint32_t len, i;
	const uint8_t *row = row_get(n->shards[0].store, T_META, "slots", 5,
				     &len);

	if (!row)
		return 0;
	if (get_u32(row + 4) != n->n_shards)
		return err_set(e, ERR_CONFIG,
			       "this cluster was made with %u shards, the "
			       "configuration (shards.count) says %u",
			       get_u32(row + 4), n->n_shards);
	n->slots_epoch = get_u32(row);
	for (i = 0; i < SLOTS; i++)
		n->slots[i] = get_u16(row + 8 + 2 * i);
	return 0;
}

void node_slots_load(struct node *n)
{
	struct err e = { 0 };

	if (slots_load(n, &e))
		node_fatal(n, &e);
	else
		feature_load(n);
}

static void meta_init_done(struct node_call *c, int status,
			   const struct result *r)
{
	struct node *n = c->arg;

	(void)status; /* tried again at the next tick while there is no row */
	(void)r;
	n->init_asked = false;
}

/* The leader of shard 0 writes the slot table of a new cluster. */
static void meta_init(struct node *n, uint64_t now_ms)
{
	struct shard *s = &n->shards[0];
	struct cmd cmd = { .type = CMD_META_INIT, .shards = n->n_shards };

	if (n->slots_epoch || n->init_asked || s->role != GROUP_LEADER ||
	    s->fly_n || s->forming.n)
		return;
	cmd.level = feature_of_birth(n, now_ms);
	if (!cmd.level)
		return;
	n->init_asked = true;
	n->init = (struct node_call){ .cb = meta_init_done, .arg = n };
	node_propose(n, 0, &cmd, &n->init);
}

/* Followers that found their peer's link too full have nobody else to wake them:
 * what they were sent may be acknowledged already. */
static void backlog_look(struct node *n)
{
	if (!n->backlogged)
		return;
	n->backlogged = false;
	MAP_FOREACH(slot, &n->peer_followers)
	{
		struct follower *f = slot->val;

		shard_follower_wake(f->shard, f);
	}
}

/* What the journal may let go of: nothing that is not durable elsewhere, and
 * nothing that a lagging follower needs, whoever leads. */
static void holds(struct node *n, uint64_t now_ms)
{
	uint32_t i;

	if (now_ms < n->holds_ms)
		return;
	n->holds_ms = now_ms + HOLDS_MS;
	for (i = 0; i < n->n_shards; i++) {
		struct shard *s = &n->shards[i];

		if (!shard_works(s))
			continue;
		shard_mark(s);
		group_tell_needed(s->group);
		group_tell_joining(s->group);
		journal_hold(n->journal, i, group_needed_index(s->group));
	}
}

/* ---- turns ---------------------------------------------------------------------------- */

void node_turn(struct node *n)
{
	bool did = true;
	unsigned round;
	uint32_t i;

	n->turn_applied = 0;
	for (round = 0; did && round < TURN_ROUNDS_MAX && !n->dead &&
			n->turn_applied < TURN_APPLY_MAX;
	     round++) {
		did = n->woken = false;
		for (i = 0; i < n->n_shards && !n->dead; i++)
			did |= shard_turn(&n->shards[i]);
		if (n->dead)
			return;
		did |= calls_done(n);
		did |= changes_done(n);
		did |= subs_ended(n);
	}
	if (n->dead)
		return;
	journal_flush(n->journal);
	if (n->env.net)
		n->env.net->ops->flush(n->env.net);
}

static bool work_waits(const struct node *n)
{
	uint32_t i;

	if (n->woken || n->done_head || !list_empty(&n->ended))
		return true;
	for (i = 0; i < n->n_shards; i++)
		if (shard_works(&n->shards[i]) &&
		    (!list_empty(&n->shards[i].ready) ||
		     group_wants_run(n->shards[i].group)))
			return true;
	return false;
}

uint64_t node_deadline_us(const struct node *n)
{
	uint64_t ms = n->tick_ms, jus, snap = snap_deadline_ms(n),
		 retain = retain_deadline_ms(n);
	uint32_t i;

	if (work_waits(n))
		return 0;
	for (i = 0; i < n->n_shards && !n->deaf; i++)
		if (n->shards[i].deadline_ms < ms)
			ms = n->shards[i].deadline_ms;
	if (snap < ms)
		ms = snap;
	if (retain < ms)
		ms = retain;
	/* All shards' timers on one grid: one wake-up, one write per peer. */
	ms = (ms + TICK_MS - 1) / TICK_MS * TICK_MS;
	jus = journal_tick(n->journal, clock_us(n->env.clock));
	return ms * 1000 < jus ? ms * 1000 : jus;
}

static void checkpoints(struct node *n, uint64_t now_ms)
{
	uint32_t i, best = UINT32_MAX;

	if (n->ckpt_shard != UINT32_MAX)
		return;
	for (i = 0; i < n->n_shards; i++)
		if (shard_checkpoint_due(&n->shards[i], now_ms) &&
		    (best == UINT32_MAX || n->shards[i].bytes_since_ckpt >
						   n->shards[best].bytes_since_ckpt))
			best = i;
	if (best != UINT32_MAX)
		shard_checkpoint_start(&n->shards[best]);
}

/* Nothing is left to hand over or to make durable. */
static bool stop_may_end(const struct node *n, uint64_t now_ms)
{
	uint32_t i;

	if (now_ms >= n->stop_deadline_ms)
		return true;
	for (i = 0; i < n->n_shards; i++)
		if (shard_works(&n->shards[i]) &&
		    ((n->shards[i].role == GROUP_LEADER &&
		      shard_has_peers(&n->shards[i])) ||
		     n->shards[i].stop_index > n->shards[i].durable_index))
			return false;
	return true;
}

/* Then the node goes deaf: the others send on, and the journal would never be
 * idle. */
static bool stop_is_done(struct node *n, uint64_t now_ms)
{
	n->deaf |= stop_may_end(n, now_ms);
	if (!n->deaf || n->ckpt_shard != UINT32_MAX || n->snap.works)
		return false;
	/* Entries that wait in a full ring for a leader that we no longer hear
	 * would wait for ever: nobody was told that they are here. */
	return journal_idle(n->journal) || (now_ms >= n->stop_deadline_ms &&
					    journal_stalled(n->journal));
}

void node_tick(struct node *n)
{
	uint64_t now_ms = clock_ms(n->env.clock);
	uint32_t i;

	if (n->dead)
		return;
	for (i = 0; i < n->n_shards; i++) {
		struct shard *s = &n->shards[i];

		if (s->deadline_ms <= now_ms && !n->deaf) {
			group_timeout(s->group);
			shard_refresh_deadline(s);
		}
	}
	journal_tick(n->journal, clock_us(n->env.clock));
	if (now_ms >= n->tick_ms) {
		n->tick_ms = now_ms + (n->going ? TICK_MS : 5 * TICK_MS);
		if (shard_works(&n->shards[0]))
			meta_init(n, now_ms);
		feature_tick(n);
		members_tick(n, now_ms);
		placing_tick(n, now_ms);
		replicas_tick(n, now_ms);
		steward_tick(n, now_ms);
		lead_tick(n, now_ms);
		if (n->stopping)
			node_give_up(n, now_ms, n->n_shards); /* who was behind */
		if (n->left)
			node_leave_look(n, now_ms);
		holds(n, now_ms);
		node_disk_tick(n, now_ms);
		backlog_look(n);
		if (n->stopping && n->stop_done && stop_is_done(n, now_ms)) {
			void (*done)(void *) = n->stop_done;

			n->stop_done = NULL;
			done(n->stop_arg);
			return;
		}
	}
	if (now_ms >= n->snap.due_ms)
		snap_tick(n, now_ms);
	source_serve(n);
	if (now_ms >= n->retain.due_ms)
		retain_tick(n, now_ms);
	if (n->dead)
		return;
	if (!n->deaf)
		checkpoints(n, now_ms);
}

void node_stop(struct node *n, void (*done)(void *arg), void *arg)
{
	uint64_t now_ms = clock_ms(n->env.clock);
	uint32_t i;

	n->going = n->stopping = true;
	n->left = NULL;
	n->stop_done = done;
	n->stop_arg = arg;
	n->stop_deadline_ms = now_ms + STOP_MAX_MS;
	n->tick_ms = now_ms;
	/* The others go on, so a checkpoint is never of everything: what was
	 * applied by now will do. */
	for (i = 0; i < n->n_shards; i++)
		if (shard_works(&n->shards[i]))
			n->shards[i].stop_index =
				store_meta(n->shards[i].store)->applied_index;
	if (n->env.net)
		rpc_leaving(n, 0);
	node_give_up(n, now_ms, n->n_shards);
}

/* ---- open and close ---------------------------------------------------------------------- */

static int open_shards(struct node *n, struct err *e)
{
	uint32_t i;
	int rv;

	rv = n->env.disk->ops->mkdir(n->env.disk, "shards", e);
	if (rv)
		return rv;
	rv = replicas_open(n, e);
	if (rv)
		n->n_shards = 0;
	for (i = 0; i < n->n_shards && !rv; i++) {
		rv = shard_open(&n->shards[i], n, i, e);
		/* Before a shard too many is made. */
		if (!rv && i == 0 && shard_works(&n->shards[0]))
			rv = slots_load(n, e);
		if (!rv && i == 0 && shard_works(&n->shards[0]))
			feature_load(n);
		if (rv) {
			n->n_shards = i + 1;
			return rv;
		}
	}
	return rv;
}

int node_open(struct node **out, const struct node_config *cfg,
	      const struct node_env *env, struct err *e)
{
	struct node *n = xcalloc(1, sizeof *n);
	uint32_t i;
	int rv;

	*out = NULL;
	n->cfg = *cfg;
	n->env = *env;
	n->n_shards = cfg->shards	       ? cfg->shards
		      : cfg->n_members > 1 || cfg->joined ? 64
						  : 16;
	AN(n->n_shards <= SHARDS_MAX && n->n_shards <= JOURNAL_SHARDS_MAX);
	AN(cfg->batch_inflight <= SHARD_INFLIGHT_MAX);
	/* Every replica must be able to apply what this one proposes.  A record
	 * is a little longer than its command, and a frame has an end. */
	AN(cfg->batch_records <= BATCH_RECORDS_MAX);
	AN(cfg->batch_bytes <= FRAME_RAW_MAX / 2);
	n->done_tail = &n->done_head;
	list_init(&n->ended);
	list_init(&n->changes);
	map_init(&n->peer_followers);
	remotes_init(&n->remotes);
	n->snap.rate = cfg->snapshot_rate ? cfg->snapshot_rate : SNAP_RATE;
	n->ckpt_shard = UINT32_MAX;
	retain_init(n, &cfg->retain);
	n->recs = xcalloc(BATCH_RECORDS_MAX, sizeof *n->recs);
	n->results = xcalloc(BATCH_RECORDS_MAX, sizeof *n->results);
	n->shards = xcalloc(n->n_shards, sizeof *n->shards);
	for (i = 0; i < SLOTS; i++)
		n->slots[i] = (uint16_t)(i % n->n_shards);
	if (env->net) {
		env->net->on_up = rpc_on_up;
		env->net->on_down = rpc_on_down;
		env->net->on_message = rpc_on_message;
		env->net->arg = n;
	}
	placing_open(n);
	steward_open(n);
	rv = feature_open(n, e);
	if (!rv)
		rv = members_open(n, e);
	if (!rv)
		rv = journal_open(&n->journal, env->disk, env->clock,
				  &cfg->journal, journal_failed, n, e);
	if (rv)
		n->n_shards = 0;
	else
		rv = open_shards(n, e);
	if (rv) {
		node_close(n);
		return rv;
	}
	n->tick_ms = clock_ms(env->clock);
	/* Before the first entry: it may come back to the disk that it left full. */
	node_disk_tick(n, n->tick_ms);
	/* Nothing is let go of before a leader said what may be. */
	for (i = 0; i < n->n_shards; i++)
		if (!n->shards[i].absent)
			journal_hold(n->journal, i, 0);
	*out = n;
	return 0;
}

void node_close(struct node *n)
{
	uint32_t i;

	n->dead = true;
	retain_close(n);
	feature_release(n);
	/* First: after a simulated crash it still holds requests of shards. */
	if (n->journal)
		journal_close(n->journal);
	for (i = 0; i < n->n_shards; i++)
		shard_close(&n->shards[i]);
	changes_close(n);
	map_release(&n->peer_followers);
	remotes_release(&n->remotes);
	members_close(n);
	placing_close(n);
	steward_close(n);
	buf_release(&n->snap.out);
	buf_release(&n->scratch);
	buf_release(&n->page);
	free(n->shards);
	free(n->recs);
	free(n->results);
	free(n);
}
