/* Replicas that are made and retired at run time (docs/decisions/0012).
 *
 *   make     life drawn -> replicas.meta has it -> group and store opened, empty; it
 *            asks to be added
 *   retire   group deaf, work on its files at an end -> replicas.meta says that it is
 *            gone -> so does the journal, under a new incarnation -> group and store
 *            closed -> files removed
 *
 * A power cut between any two of these leaves what the next start goes on with: what
 * replicas.meta calls absent is never opened, and is forgotten and removed. */
#include "base/alloc.h"
#include "base/logf.h"
#include "consensus/node_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SAVE_RETRY_MS 1000 /* after a full disk */

/* ---- replicas.meta ----------------------------------------------------------------- */

static void meta_set(struct shard *s, enum replica_state state, uint64_t life)
{
	struct replicameta *m = &s->node->replicas.m;

	m->shard[s->id].state = state;
	m->shard[s->id].life = life;
	s->meta_generation = ++m->generation;
}

static bool meta_says(const struct shard *s)
{
	return s->node->replicas.durable >= s->meta_generation;
}

static void save_run(struct disk_work *w)
{
	struct replicas *r = w->arg;

	memset(&r->err, 0, sizeof r->err);
	r->status = replicameta_save(r->disk, &r->out, &r->err);
}

static void save_done(struct disk_work *w)
{
	struct replicas *r = w->arg;
	struct node *n = container_of(r, struct node, replicas);

	r->writing = false;
	n->snap.works--;
	if (n->dead)
		return;
	if (r->status == ERR_NOSPACE) {
		r->retry_ms = clock_ms(n->env.clock) + SAVE_RETRY_MS;
		return;
	}
	if (r->status) {
		node_fatal(n, &r->err);
		return;
	}
	r->durable = r->out.generation;
	n->tick_ms = 0;
}

static void save(struct node *n, uint64_t now_ms)
{
	struct replicas *r = &n->replicas;

	if (r->writing || r->durable == r->m.generation || now_ms < r->retry_ms)
		return;
	r->writing = true;
	r->out = r->m;
	r->disk = n->env.disk;
	r->work = (struct disk_work){ .run = save_run, .done = save_done,
				      .arg = r };
	n->snap.works++;
	n->env.disk->ops->work(n->env.disk, &r->work);
}

/* ---- retire ------------------------------------------------------------------------ */

static void on_forgotten(struct journal_req *req)
{
	struct shard *s = req->arg;

	s->going = SHARD_CLOSES;
	s->node->tick_ms = 0;
}

/* A new incarnation, with nothing in it; one is left out, whose folder a broken
 * install may have begun. */
static void forget(struct shard *s)
{
	struct node *n = s->node;
	uint32_t was = journal_shard(n->journal, s->id)->incarnation;
	struct err e = { 0 };

	s->going = SHARD_FORGETS;
	s->forget = (struct journal_req){ .shard = s->id,
					  .install = (was ? was : 1) + 2,
					  .cb = on_forgotten,
					  .arg = s };
	if (journal_submit(n->journal, &s->forget)) {
		err_set(&e, ERR_IO, "the journal takes no install");
		node_fatal(n, &e);
	}
}

static void freeze(struct shard *s)
{
	group_freeze(s->group, true);
	shard_refresh_deadline(s);
	if (!snap_gone(s) || s->marking || store_checkpoint_running(s->store))
		return;
	s->going = SHARD_SAVES;
	meta_set(s, REPLICA_ABSENT, 0);
}

static void closes(struct shard *s)
{
	struct node *n = s->node;

	if (s->group) {
		group_run(s->group);
		if (n->dead || !list_empty(&s->reads) || !group_quiet(s->group) ||
		    s->role == GROUP_LEADER)
			return;
		log_event(LOG_INFO, "replica_retired", "shard=%u", s->id);
		shard_end(s);
	}
	journal_hold(n->journal, s->id, UINT64_MAX);
	s->going = SHARD_CLEARS;
	snap_clean(s, journal_shard(n->journal, s->id)->incarnation);
}

static void go(struct shard *s)
{
	switch (s->going) {
	case SHARD_FREEZES:
		freeze(s);
		break;
	case SHARD_SAVES:
		if (!meta_says(s))
			break;
		if (s->group)
			group_void(s->group);
		forget(s);
		break;
	case SHARD_CLOSES:
		closes(s);
		break;
	case SHARD_CLEARS:
		if (!s->removal)
			s->going = SHARD_STAYS;
		break;
	default:
		break;
	}
}

/* ---- make -------------------------------------------------------------------------- */

static void make(struct node *n, struct shard *s)
{
	uint64_t life = 0;

	if (!s->absent || s->going || s->making || n->stopping ||
	    n->level >= LEVEL_REFUSE ||
	    journal_shard(n->journal, s->id)->faulty)
		return; /* it is asked again */
	while (!life)
		life = rand_u64(n->env.rand);
	s->making = true;
	meta_set(s, REPLICA_HERE, life);
	n->tick_ms = 0;
}

static void made(struct shard *s)
{
	struct replicameta *m = &s->node->replicas.m;

	if (!meta_says(s))
		return;
	s->making = false;
	s->life = m->shard[s->id].life;
	log_event(LOG_INFO, "replica_made", "shard=%u life=%016" PRIx64, s->id,
		  s->life);
	shard_begin(s);
}

void replica_on_make(struct node *n, uint64_t peer, struct cursor *c)
{
	uint32_t shard = cursor_u32(c);
	struct shard *s;

	if (!cursor_done(c) || shard >= n->n_shards) {
		log_event(LOG_WARN, "peer_message_refused",
			  "peer=%" PRIu64 " type=%d why=\"malformed\"", peer,
			  MSG_MAKE);
		return;
	}
	s = &n->shards[shard];
	/* One that is here asks to be added, or hears that it was removed. */
	if (shard_works(s) && !s->going)
		group_tell_joining(s->group);
	else
		make(n, s);
}

void replica_ask(struct node *n, uint32_t shard, uint64_t peer)
{
	buf_clear(&n->scratch);
	buf_u8(&n->scratch, MSG_MAKE);
	buf_u32(&n->scratch, shard);
	rpc_post(n, peer); /* or it is asked again */
}

/* ---- for the node ------------------------------------------------------------------- */

void replicas_tick(struct node *n, uint64_t now_ms)
{
	uint32_t i;

	for (i = 0; i < n->n_shards && !n->dead; i++) {
		struct shard *s = &n->shards[i];

		if (!s->going && shard_works(s) && !n->stopping &&
		    group_removed(s->group))
			s->going = SHARD_FREEZES;
		/* A node that stops goes on with it when it starts again. */
		if (s->going && (!n->stopping || s->going >= SHARD_FORGETS))
			go(s);
		if (s->making && !n->stopping)
			made(s);
	}
	if (!n->dead && !n->stopping)
		save(n, now_ms);
}

static void see_folder(void *arg, const char *name, bool is_dir)
{
	struct node *n = arg;
	unsigned shard, inc;
	int end = 0;

	if (!is_dir || sscanf(name, "%4u-%u%n", &shard, &inc, &end) != 2 ||
	    name[end] || shard >= n->n_shards)
		return;
	if (n->shards[shard].absent && !n->shards[shard].going)
		n->shards[shard].going = SHARD_CLOSES;
}

int replicas_open(struct node *n, struct err *e)
{
	struct replicas *r = &n->replicas;
	uint32_t i;
	int rv;

	r->m.node_id = n->cfg.id;
	memcpy(r->m.cluster_id, n->cfg.cluster_id, 16);
	rv = replicameta_open(n->env.disk, &r->m, e);
	if (rv)
		return rv;
	r->durable = r->m.generation;
	for (i = 0; i < n->n_shards; i++) {
		const struct journal_shard *js = journal_shard(n->journal, i);
		struct shard *s = &n->shards[i];
		enum replica_state state = r->m.shard[i].state;
		bool remembers = js->last_index || js->mark_index;

		/* Made or retired at run time: there was a file about it. */
		if (state == REPLICA_UNTOLD &&
		    (n->cfg.joined ? remembers
				   : js->incarnation > 1 && !remembers))
			return err_set(e, ERR_DAMAGED,
				       "replicas.meta is missing: nobody knows "
				       "which replica of shard %u this node has; "
				       "nothing was changed", i);
		s->absent = state == REPLICA_ABSENT ||
			    (state == REPLICA_UNTOLD && n->cfg.joined);
		s->life = r->m.shard[i].life;
		if (s->absent && remembers)
			s->going = SHARD_SAVES;
	}
	return n->env.disk->ops->list(n->env.disk, "shards", see_folder, n, e);
}
