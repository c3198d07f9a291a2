#include "consensus/shard.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/logf.h"
#include "base/metric.h"
#include "consensus/node_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- batches ---------------------------------------------------------------- */

static void batch_clear(struct batch *b)
{
	buf_clear(&b->bytes);
	b->n = 0;
	if (b->entry)
		entry_unref(b->entry);
	b->entry = NULL;
}

static void batch_release(struct batch *b)
{
	batch_clear(b);
	buf_release(&b->bytes);
	free(b->waiters);
}

static void batch_fail(struct shard *s, struct batch *b, int status)
{
	unsigned i;

	for (i = 0; i < b->n; i++)
		waiter_answer(s->node, &b->waiters[i], status, NULL);
	batch_clear(b);
}

static bool batch_has_room(const struct shard *s, size_t len)
{
	const struct node_config *c = &s->node->cfg;
	const struct batch *b = &s->forming;

	/* A command larger than a batch travels alone. */
	return b->n == 0 || (b->n < c->batch_records &&
			     b->bytes.len + len + 24 <= c->batch_bytes);
}

/* Turn the forming batch into an entry and hand it to the group. */
static bool batch_submit(struct shard *s)
{
	const struct node_config *c = &s->node->cfg;
	struct batch *b = &s->forming, *slot, tmp;
	struct buf head = BUF_INIT;
	struct entry *e;
	uint8_t *p;
	int rv;

	if (!b->n || s->fly_n >= c->batch_inflight || !group_room(s->group))
		return false;
	buf_u8(&head, GROUP_COMMAND);
	buf_u64(&head, clock_wall_ms(s->node->env.clock));
	buf_varint(&head, b->n);
	e = entry_new(s->id, (uint32_t)(head.len + b->bytes.len));
	p = entry_payload(e);
	memcpy(p, head.data, head.len);
	memcpy(p + head.len, b->bytes.data, b->bytes.len);
	buf_release(&head);
	entry_ref(e);
	rv = group_submit(s->group, &e, 1);
	if (rv) {
		entry_unref(e);
		entry_unref(e);
		/* Nothing was done.  A full journal or window passes by itself;
		 * the batch waits and new commands are told to. */
		if (rv == ERR_BUSY)
			return false;
		batch_fail(s, b, rv == ERR_NOT_LEADER ? rv : ERR_BUSY);
		return true;
	}
	slot = &s->inflight[(s->fly_head + s->fly_n) % SHARD_INFLIGHT_MAX];
	tmp = *slot;
	*slot = *b;
	slot->entry = e;
	slot->formed_us = clock_us(s->node->env.clock);
	*b = tmp;
	s->fly_n++;
	return true;
}

int shard_propose(struct shard *s, const void *cmd, size_t len,
		  const struct waiter *w)
{
	struct batch *b = &s->forming;
	struct cmd decoded;
	int rv;

	/* What apply would stop at must never get into the log: every replica
	 * would end there, now and after each restart. */
	if (cmd_decode(&decoded, cmd, len, NULL))
		return ERR_FORMAT;
	if (!shard_works(s))
		return s->absent ? ERR_NOT_LEADER : ERR_UNAVAILABLE;
	if (s->role != GROUP_LEADER || s->node->stopping)
		return ERR_NOT_LEADER;
	rv = node_disk_takes(s, decoded.type);
	if (rv)
		return rv;
	if (store_full(s->store))
		return ERR_BUSY;
	if (!batch_has_room(s, len)) {
		batch_submit(s);
		if (!batch_has_room(s, len))
			return ERR_BUSY;
	}
	if (b->n == b->cap) {
		b->cap = b->cap ? 2 * b->cap : 16;
		b->waiters = xrealloc(b->waiters, b->cap * sizeof *b->waiters);
	}
	b->waiters[b->n++] = *w;
	node_nonce(s->node, buf_extend(&b->bytes, 16));
	buf_lv(&b->bytes, cmd, len);
	return 0;
}

/* ---- apply -------------------------------------------------------------------- */

static void followers_touch(struct shard *s)
{
	unsigned i;

	for (i = 0; i < s->machine.n_recs; i++) {
		const struct record *r = &s->machine.recs[i];
		struct follower *f;

		if (!r->n)
			continue;
		for (f = map_get(&s->followers, r->key); f; f = f->next)
			shard_follower_wake(s, f);
	}
}

static void follower_drop(struct shard *s, struct follower *f);

static struct follower *follower_removed(struct shard *s)
{
	MAP_FOREACH(slot, &s->followers)
	{
		struct follower *f;

		for (f = slot->val; f; f = f->next) {
			struct result r = { 0 };

			if (f->started &&
			    !machine_device(&s->machine, f->account, f->device,
					    &r))
				return f;
		}
	}
	return NULL;
}

/* Devices that were removed follow no longer: rare enough for a search. */
static void followers_check(struct shard *s)
{
	struct follower *f;

	while ((f = follower_removed(s)) != NULL && !store_check(s->store, NULL)) {
		follower_end(s->node, f, ERR_PERM);
		follower_drop(s, f);
	}
}

/* Who waits here is told, and followers look for the next leader. */
static void drop_all(struct shard *s)
{
	struct follower *f;

	/* What was proposed may still commit under the next leader. */
	while (s->fly_n) {
		batch_fail(s, &s->inflight[s->fly_head], ERR_UNKNOWN_OUTCOME);
		s->fly_head = (s->fly_head + 1) % SHARD_INFLIGHT_MAX;
		s->fly_n--;
	}
	batch_fail(s, &s->forming, ERR_NOT_LEADER);
	while ((f = map_any(&s->followers)) != NULL) {
		follower_end(s->node, f, ERR_NOT_LEADER);
		follower_drop(s, f);
	}
}

static void shard_faulty(struct shard *s, enum shard_fault fault,
			 const struct err *why)
{
	s->faulty = true;
	s->fault = fault;
	s->repair.found_ms = clock_ms(s->node->env.clock);
	metric_add_label(M_DAMAGE_FOUND, fault == FAULT_LOG ? "journal" : "state",
			 1);
	s->deadline_ms = UINT64_MAX;
	snprintf(s->why, sizeof s->why, "%.*s", (int)sizeof s->why - 1, why->msg);
	log_event(LOG_ERROR, "shard_faulty", "shard=%u what=%s why=%s", s->id,
		  fault == FAULT_LOG ? "journal" : "state",
		  log_quote(why->msg));
}

/* The same while it runs: the others elect a leader without it. */
void shard_leave(struct shard *s, enum shard_fault fault, const struct err *why)
{
	shard_faulty(s, fault, why);
	s->role = GROUP_FOLLOWER;
	s->leader = 0;
	if (s->group)
		group_stop(s->group); /* or it would end changes that are gone */
	changes_gone(s);
	drop_all(s);
}

/* A leader that cannot read a record would keep it from its reader for ever; a
 * lone node has nobody who could do better, and serves what it can. */
static void read_failed(struct shard *s, int status, const struct err *why)
{
	if (status == ERR_DAMAGED && !s->faulty && shard_has_peers(s))
		shard_leave(s, FAULT_STATE, why);
}

static void on_apply(void *arg, struct entry *e)
{
	struct shard *s = arg;
	struct node *n = s->node;
	struct batch *b = NULL;
	struct err err = { 0 };
	unsigned count = 0, i;
	int rv;

	if (n->dead || !shard_works(s))
		return;
	switch (entry_payload(e)[0]) {
	case GROUP_COMMAND:
		rv = machine_apply(&s->machine, e, &count, &err);
		break;
	case GROUP_CHANGE:
		store_set_conf(s->store, e->index, entry_payload(e) + 1,
			       e->len - 1);
		rv = store_append(s->store, e->term, e->index, NULL, 0, &err);
		break;
	case GROUP_BARRIER:
		rv = store_append(s->store, e->term, e->index, NULL, 0, &err);
		break;
	default:
		rv = err_set(&err, ERR_FORMAT,
			     "shard %u index %" PRIu64 ": unknown entry type %d",
			     s->id, e->index, entry_payload(e)[0]);
		break;
	}
	if (rv == ERR_DAMAGED) {
		/* The record of a dedupe row is not readable.  What apply did to
		 * rows stays in memory: a faulty shard makes no checkpoint. */
		shard_leave(s, FAULT_STATE, &err);
		return;
	}
	if (rv) {
		node_fatal(n, &err);
		return;
	}
	s->bytes_since_ckpt += e->rec_len;
	n->turn_applied += e->rec_len;
	node_disk_wrote(n, e->rec_len);
	metric_add(M_APPLIED, 1);
	if (s->fly_n) {
		struct entry *own = s->inflight[s->fly_head].entry;

		if (own->index == e->index && own->term == e->term)
			b = &s->inflight[s->fly_head];
	}
	if (b) {
		AN(b->n == count);
		metric_observe_us(M_COMMIT_SECONDS,
				  clock_us(n->env.clock) - b->formed_us);
		for (i = 0; i < count; i++)
			waiter_answer(n, &b->waiters[i], 0,
				      &s->machine.results[i]);
		batch_clear(b);
		s->fly_head = (s->fly_head + 1) % SHARD_INFLIGHT_MAX;
		s->fly_n--;
	}
	if (entry_payload(e)[0] != GROUP_COMMAND)
		return;
	if (s->id == 0 && !n->slots_epoch)
		node_slots_load(n);
	if (s->machine.feature_raised) {
		s->machine.feature_raised = false;
		feature_load(n);
	}
	if (s->n_followers)
		followers_touch(s);
	if (s->machine.devices_removed) {
		s->machine.devices_removed = false;
		followers_check(s);
	}
}

static void on_state(void *arg, enum group_role role, uint64_t term,
		     uint64_t leader)
{
	struct shard *s = arg;
	bool led = s->role == GROUP_LEADER;

	if (s->faulty)
		return;
	if (s->leader != leader || s->role != role)
		log_event(LOG_INFO, "shard_state",
			  "shard=%u role=%s term=%" PRIu64 " leader=%" PRIu64,
			  s->id,
			  role == GROUP_LEADER	    ? "leader"
			  : role == GROUP_CANDIDATE ? "candidate"
						    : "follower",
			  term, leader);
	if (leader && leader != s->leader)
		metric_add(M_LEADER_CHANGES, 1);
	if (role == GROUP_CANDIDATE && (s->role != role || s->term != term))
		metric_add(M_ELECTIONS, 1);
	s->role = role;
	s->term = term;
	s->leader = leader;
	if (led && role != GROUP_LEADER)
		drop_all(s);
	if (!led && role == GROUP_LEADER)
		lead_begun(s);
}

static const struct group_ops shard_group_ops = { on_apply, on_state, NULL };

/* ---- queries ------------------------------------------------------------------ */

static void on_read(struct group_read *r, int status, uint64_t index)
{
	struct read_wait *w = r->arg;
	struct shard *s = w->shard;
	struct node *n = s->node;
	struct result res;
	struct err err = { 0 };
	int rv = 0;

	(void)index;
	list_remove(&w->link);
	if (!status)
		rv = machine_query(&s->machine, &w->query, &res, &n->page, &err);
	if (rv) {
		log_event(LOG_ERROR, "query_failed", "shard=%u why=%s", s->id,
			  log_quote(err.msg));
		status = ERR_UNAVAILABLE;
	}
	waiter_answer(n, &w->waiter, status, status ? NULL : &res);
	buf_clear(&n->page); /* the next to use it begins with an empty one */
	free(w);
	read_failed(s, rv, &err);
}

int shard_query(struct shard *s, const struct query *q, const struct waiter *w)
{
	struct read_wait *rw;

	if (!shard_works(s))
		return s->absent ? ERR_NOT_LEADER : ERR_UNAVAILABLE;
	if (s->role != GROUP_LEADER)
		return ERR_NOT_LEADER;
	rw = xcalloc(1, sizeof *rw);
	rw->shard = s;
	rw->waiter = *w;
	rw->query = *q;
	rw->read.cb = on_read;
	rw->read.arg = rw;
	list_append(&s->reads, &rw->link);
	group_read_index(s->group, &rw->read);
	return 0;
}

/* ---- followers ------------------------------------------------------------------ */

void shard_follower_wake(struct shard *s, struct follower *f)
{
	if (f->started && !f->closed && list_empty(&f->link))
		list_append(&s->ready, &f->link);
}

/* Out of all lists; freed now, or by on_follow_read while its read is out. */
static void follower_drop(struct shard *s, struct follower *f)
{
	struct follower *head = map_get(&s->followers, f->account), **pp = &head;

	while (*pp && *pp != f)
		pp = &(*pp)->next;
	if (*pp) {
		*pp = f->next;
		if (head)
			map_put(&s->followers, f->account, head);
		else
			map_del(&s->followers, f->account);
		s->n_followers--;
	}
	list_remove(&f->link);
	if (f->peer)
		map_del(&s->node->peer_followers, f->peer << 48 ^ f->id);
	/* Its read, or the callback that we are in, still points here. */
	if (!f->started || f->serving)
		f->closed = true;
	else
		free(f);
}

void shard_unfollow(struct shard *s, struct follower *f)
{
	follower_drop(s, f);
}

/* A device has one live subscription: the newest. */
static bool follower_replaces(struct shard *s, struct follower *f)
{
	struct follower *o = map_get(&s->followers, f->account), *next;

	for (; o; o = next) {
		next = o->next;
		if (o == f || o->device != f->device || !o->started)
			continue;
		if (f->again && o->born_ms > f->born_ms)
			return false;
		follower_end(s->node, o, ERR_EXISTS);
		follower_drop(s, o);
	}
	return true;
}

static void on_follow_read(struct group_read *r, int status, uint64_t index)
{
	struct read_wait *w = r->arg;
	struct shard *s = w->shard;
	struct follower *f = w->follower;
	struct result res;
	struct err err = { 0 };

	(void)index;
	list_remove(&w->link);
	free(w);
	if (f->closed) {
		free(f);
		return;
	}
	f->started = true;
	if (!status) {
		struct query q = { .type = QUERY_ACCOUNT,
				   .account = f->account,
				   .device = f->device,
				   .from = f->next_n };

		if (machine_query(&s->machine, &q, &res, &s->node->page, &err))
			status = ERR_UNAVAILABLE;
		else if (res.status == ST_NOT_FOUND && !res.n_devices)
			status = ERR_NOT_FOUND;
		else if (res.status)
			status = ERR_PERM;
	}
	if (status) {
		follower_end(s->node, f, status);
		follower_drop(s, f);
		return;
	}
	if (!follower_replaces(s, f)) {
		follower_end(s->node, f, ERR_EXISTS);
		follower_drop(s, f);
		return;
	}
	if (!f->next_n)
		f->next_n = res.cursor + 1;
	/* start() tells who follows; the records go on behind it. */
	if (f->next_n < res.inbox_oldest)
		f->next_n = res.inbox_oldest;
	f->acked = f->next_n - 1;
	f->serving = true;
	follower_start(s->node, f, &res);
	f->serving = false;
	if (f->closed)
		free(f);
	else
		shard_follower_wake(s, f);
}

void shard_follow(struct shard *s, struct follower *f)
{
	struct read_wait *w = xcalloc(1, sizeof *w);

	list_init(&f->link);
	f->next = map_get(&s->followers, f->account);
	map_put(&s->followers, f->account, f);
	s->n_followers++;
	w->shard = s;
	w->follower = f;
	w->read.cb = on_follow_read;
	w->read.arg = w;
	list_append(&s->reads, &w->link);
	group_read_index(s->group, &w->read);
}

static bool follow_record(void *arg, const struct record *r)
{
	struct follower *f = ((void **)arg)[1];

	/* A local reader may pause or leave inside its callback. */
	f->next_n = r->n + 1;
	follower_record(((void **)arg)[0], f, r);
	return !f->paused && !f->closed;
}

static bool peer_backlogged(struct node *n, uint64_t peer)
{
	return peer && n->env.net->ops->queued(n->env.net, peer) >
			       SUB_NET_BACKLOG_MAX;
}

/* One page for one follower; true when there may be more to send now. */
static bool follower_serve(struct shard *s, struct follower *f)
{
	uint64_t last = machine_inbox_end(&s->machine, f->account), room;
	uint64_t first = f->next_n;
	void *arg[2] = { s->node, f };
	uint64_t oldest = 0;
	struct err err = { 0 };
	unsigned limit = SUB_PAGE_RECORDS;
	int rv;

	if (f->paused || f->next_n > last || f->next_n > f->acked + f->window)
		return false;
	if (peer_backlogged(s->node, f->peer)) {
		s->node->backlogged = true;
		return false;
	}
	room = f->acked + f->window - f->next_n + 1;
	if (room < limit)
		limit = (unsigned)room;
	f->serving = true;
	rv = store_read_key(s->store, f->account, f->next_n, limit,
			    SUB_PAGE_BYTES, follow_record, arg, &oldest, &err);
	if (!f->closed && follower_flush(s->node, f) == ERR_FULL) {
		/* None of the page went out: later, all of it. */
		f->next_n = first;
		f->serving = false;
		s->node->backlogged = true;
		return false;
	}
	f->serving = false;
	if (f->closed) { /* unsubscribed inside a callback */
		free(f);
		return false;
	}
	if (rv == ERR_TRUNCATED) {
		/* Trimmed while it lagged: it is told when it starts again. */
		follower_end(s->node, f, rv);
		follower_drop(s, f);
		return false;
	}
	if (rv) {
		log_event(LOG_ERROR, "follow_failed",
			  "shard=%u account=%016" PRIx64 " why=%s", s->id,
			  f->account, log_quote(err.msg));
		follower_end(s->node, f, rv);
		follower_drop(s, f);
		read_failed(s, rv, &err);
		return false;
	}
	return f->next_n <= last && f->next_n <= f->acked + f->window;
}

static bool followers_serve(struct shard *s)
{
	struct list round;
	struct list *it;

	if (list_empty(&s->ready))
		return false;
	/* Those that want more go to the end of the next round. */
	round = s->ready;
	round.next->prev = &round;
	round.prev->next = &round;
	list_init(&s->ready);
	while ((it = list_pop(&round))) {
		struct follower *f = container_of(it, struct follower, link);

		/* It may have been woken inside its own callbacks. */
		if (follower_serve(s, f) && list_empty(&f->link))
			list_append(&s->ready, &f->link);
	}
	return true;
}

/* ---- turns ------------------------------------------------------------------------ */

void shard_refresh_deadline(struct shard *s)
{
	s->deadline_ms = shard_works(s) ? group_deadline_ms(s->group)
					: UINT64_MAX;
}

bool shard_turn(struct shard *s)
{
	struct err err;
	bool did = false;

	if (!shard_works(s))
		return false;
	if (s->forming.n)
		did |= batch_submit(s);
	if (group_wants_run(s->group)) {
		group_run(s->group);
		did = true;
	}
	if (!s->node->dead)
		did |= followers_serve(s);
	if (!s->faulty && store_check(s->store, &err))
		shard_leave(s, FAULT_STATE, &err);
	else if (did)
		shard_refresh_deadline(s);
	return did;
}

/* ---- open and close ------------------------------------------------------------------ */

static int open_group(struct shard *s, struct err *e)
{
	const struct node *n = s->node;
	const struct store_meta *m = store_meta(s->store);
	struct group_config gc = {
		.shard = s->id,
		.self = n->cfg.id,
		.life = s->life,
		.election_ms = n->cfg.election_ms,
		.heartbeat_ms = n->cfg.heartbeat_ms,
	};
	struct group_boot boot = {
		.applied_index = m->applied_index,
		.applied_term = m->applied_term,
		.n_voters = n->cfg.n_members,
		.conf = m->conf,
		.conf_len = m->conf_len,
		.conf_index = m->conf_index,
	};

	memcpy(boot.voters, n->cfg.members, sizeof boot.voters);
	return group_open(&s->group, &gc, &boot, n->journal, n->env.net,
			  n->env.clock, n->env.rand, &shard_group_ops, s, e);
}

/* Store and group, as journal and folder have them. */
static int open_replica(struct shard *s, struct err *e)
{
	struct node *n = s->node;
	struct store_config sc = n->cfg.store;
	struct err why = { 0 };
	uint32_t id = s->id;
	int rv;

	sc.shard = id;
	sc.incarnation = journal_shard(n->journal, id)->incarnation;
	memcpy(sc.cluster_id, n->cfg.cluster_id, 16);
	rv = store_open(&s->store, n->env.disk, n->env.kv, n->env.kv_arg, &sc,
			&why);
	if (!rv) {
		s->machine = (struct machine){ .store = s->store,
					       .shard = id,
					       .recs = n->recs,
					       .results = n->results,
					       .feature_max = n->feature.max };
		s->durable_index = store_meta(s->store)->applied_index;
		s->durable_term = store_meta(s->store)->applied_term;
		s->ckpt_ms = clock_ms(n->env.clock);
		rv = open_group(s, &why);
	}
	if (rv == ERR_DAMAGED || rv == ERR_FAULTY || rv == ERR_CHECKSUM) {
		const struct journal_shard *js = journal_shard(n->journal, id);

		/* Of both the journal is what counts. */
		if (js->faulty)
			rv = err_set(&why, ERR_FAULTY, "%s", js->why);
		shard_faulty(s, rv == ERR_FAULTY ? FAULT_LOG : FAULT_STATE,
			     &why);
		return 0;
	}
	if (rv) {
		*e = why;
		return err_wrap(e, "shard %u", id);
	}
	snap_clean(s, sc.incarnation);
	shard_refresh_deadline(s);
	return 0;
}

int shard_open(struct shard *s, struct node *n, uint32_t id, struct err *e)
{
	s->node = n;
	s->id = id;
	list_init(&s->ready);
	list_init(&s->reads);
	map_init(&s->followers);
	if (s->absent) {
		s->deadline_ms = UINT64_MAX;
		return 0;
	}
	return open_replica(s, e);
}

bool shard_has_peers(const struct shard *s)
{
	const struct group_conf *c;
	unsigned i;

	if (!s->group)
		return false;
	c = group_conf(s->group);
	if (!c->n) /* none applied yet */
		return s->node->cfg.n_members > 1 || s->life;
	for (i = 0; i < c->n; i++)
		if (c->members[i].voter && c->members[i].id != s->node->cfg.id)
			return true;
	return false;
}

void shard_shut(struct shard *s)
{
	AN(s->role != GROUP_LEADER && list_empty(&s->reads));
	retain_shard_gone(s);
	changes_gone(s);
	if (s->group)
		group_close(s->group);
	s->group = NULL;
	if (s->store)
		store_close(s->store);
	s->store = NULL;
	s->role = GROUP_FOLLOWER;
	s->leader = s->guessed = 0;
	s->bytes_since_ckpt = s->ckpt_retry_ms = s->doomed_wait_ms = 0;
	s->retain.freed = 0;
}

void shard_end(struct shard *s)
{
	drop_all(s);
	if (s->leader && s->term >= s->heard_term) {
		s->heard_leader = s->leader;
		s->heard_term = s->term;
	}
	if (s->group)
		shard_shut(s);
	s->absent = true;
	s->life = 0;
	s->stop_index = s->durable_index = s->durable_term = 0;
	s->install_bad = false;
	shard_refresh_deadline(s);
}

void shard_begin(struct shard *s)
{
	struct err e = { 0 };

	s->absent = false;
	journal_hold(s->node->journal, s->id, 0);
	if (open_replica(s, &e))
		node_fatal(s->node, &e);
	else if (shard_works(s))
		group_tell_joining(s->group);
}

void shard_reopen(struct shard *s)
{
	struct err e = { 0 };

	shard_shut(s);
	s->faulty = false;
	s->fault = FAULT_NONE;
	s->why[0] = 0;
	if (open_replica(s, &e)) {
		node_fatal(s->node, &e);
		return;
	}
	if (shard_works(s))
		group_tell_at_contact(s->group);
}

void shard_close(struct shard *s)
{
	struct list *it;
	unsigned i;

	while ((it = list_pop(&s->reads))) {
		struct read_wait *w = container_of(it, struct read_wait, link);

		if (w->follower && w->follower->closed)
			free(w->follower);
		free(w);
	}
	MAP_FOREACH(slot, &s->followers)
	{
		struct follower *f = slot->val, *next;

		for (; f; f = next) {
			next = f->next;
			free(f);
		}
	}
	map_release(&s->followers);
	batch_release(&s->forming);
	for (i = 0; i < SHARD_INFLIGHT_MAX; i++)
		batch_release(&s->inflight[i]);
	snap_close(s);
	if (s->group)
		group_close(s->group);
	if (s->store)
		store_close(s->store);
}
