#include "consensus/members.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/logf.h"
#include "consensus/node_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SOON_MS 2000      /* from one question to the next while things change */
#define CHANGING_MS 30000 /* so long after a change */
#define QUIET_MS 30000
#define SAVE_RETRY_MS 10000

struct save {
	struct disk_work work;
	struct disk *disk;
	struct buf bytes;
	uint64_t epoch, retry_ms;
	bool running;
	int status;
	struct err err;
};

struct members_node {
	struct node *n;
	struct members now;
	uint64_t saved;          /* epoch of the file */
	uint64_t heard;          /* newest epoch that somebody spoke of */
	uint64_t due_ms, changed_ms;
	char *address[GROUP_VOTERS_MAX]; /* of the founders; NULL: enter none */
	struct node_call ask;    /* for the rows */
	struct node_call enter;  /* of a founder, or of this node's disk */
	bool asking, entering;
	struct save save;
	uint8_t knocked[PLACE_NODES][16];
	uint64_t knocks;         /* bits by id */
	void (*cb)(void *arg);
	void *arg;
};

const struct members *node_members(const struct node *n)
{
	return &n->members->now;
}

void node_members_watch(struct node *n, void (*cb)(void *arg), void *arg)
{
	n->members->cb = cb;
	n->members->arg = arg;
}

void node_members_refresh(struct node *n)
{
	n->members->due_ms = 0;
}

/* ---- who may take part ---------------------------------------------------------- */

const uint8_t *node_knocked(const struct node *n, uint64_t id)
{
	if (id >= PLACE_NODES || !(n->members->knocks >> id & 1))
		return NULL;
	return n->members->knocked[id];
}

int node_admit(struct node *n, uint64_t id, const uint8_t disk_id[16],
	       struct err *e)
{
	struct members_node *mn = n->members;
	const struct member *m;

	if (!mn->now.epoch)
		return 0;
	if (!id || id >= PLACE_NODES)
		return err_set(e, ERR_PERM, "node %" PRIu64 ": no such id", id);
	m = &mn->now.m[id];
	if (m->state == PLACE_NONE)
		return err_set(e, ERR_PERM,
			       "node %" PRIu64 " is not in the cluster "
			       "(quipuctl node add)", id);
	if (member_has_disk(m) && memcmp(m->disk_id, disk_id, 16)) {
		memcpy(mn->knocked[id], disk_id, 16);
		mn->knocks |= 1ull << id;
		return err_set(e, ERR_PERM,
			       "node %" PRIu64 " comes with another disk than it "
			       "had (quipuctl node replace)", id);
	}
	mn->knocks &= ~(1ull << id);
	if (m->state == PLACE_GONE)
		return err_set(e, ERR_PERM,
			       "node %" PRIu64 " was given up (quipuctl node "
			       "replace)", id);
	return 0;
}

/* ---- what the others know ------------------------------------------------------- */

static void tell(struct node *n, uint64_t peer)
{
	buf_clear(&n->scratch);
	buf_u8(&n->scratch, MSG_MEMBERS);
	buf_u64(&n->scratch, n->members->now.epoch);
	/* Full: they ask by themselves, if later. */
	n->env.net->ops->send(n->env.net, peer, n->scratch.data, n->scratch.len,
			      NULL, 0);
}

static void tell_all(struct node *n)
{
	uint64_t peer;

	for (peer = 1; peer < NET_NODE_MAX && n->env.net; peer++)
		if (peer != n->cfg.id && n->up_since_ms[peer])
			tell(n, peer);
}

void members_on_up(struct node *n, uint64_t peer)
{
	/* An older version knows no such message. */
	if (n->members->now.epoch)
		tell(n, peer);
}

/* ---- the rows ------------------------------------------------------------------- */

static void take(struct members_node *mn, const struct members *t)
{
	struct node *n = mn->n;
	unsigned id, rows = 0;

	/* A peer's table may be newer than the answer to a question. */
	if (t->epoch <= mn->now.epoch)
		return;
	for (id = 1; id < PLACE_NODES; id++) {
		rows += t->m[id].state != PLACE_NONE;
		/* What it was refused for holds no more. */
		if (t->m[id].version != mn->now.m[id].version)
			mn->knocks &= ~(1ull << id);
	}
	mn->now = *t;
	mn->changed_ms = clock_ms(n->env.clock);
	log_event(LOG_INFO, "members_changed", "epoch=%" PRIu64 " nodes=%u",
		  t->epoch, rows);
	tell_all(n);
	if (mn->cb)
		mn->cb(mn->arg);
}

static void post(struct node *n, uint64_t peer, uint8_t type)
{
	buf_clear(&n->scratch);
	buf_u8(&n->scratch, type);
	if (type == MSG_MEMBERS_ARE)
		members_encode(&n->scratch, &n->members->now, n->cfg.cluster_id);
	rpc_post(n, peer); /* full: it asks again at the next word of an epoch */
}

static void on_members(struct node *n, uint64_t peer, struct cursor *c)
{
	struct members_node *mn = n->members;
	uint64_t epoch = cursor_u64(c);

	if (!cursor_done(c))
		return;
	if (epoch > mn->now.epoch)
		post(n, peer, MSG_MEMBERS_ASK);
	if (epoch > mn->heard) {
		mn->heard = epoch;
		if (epoch > mn->now.epoch)
			mn->due_ms = 0;
	}
}

static void on_members_are(struct node *n, uint64_t peer, struct cursor *c)
{
	struct members *t;
	size_t len = cursor_left(c);
	struct err e = { 0, "" };

	if (len > MEMBERS_FILE_MAX)
		return;
	t = xcalloc(1, sizeof *t);
	if (members_decode(t, n->cfg.cluster_id, cursor_bytes(c, len), len, &e))
		log_event(LOG_WARN, "members_refused", "peer=%" PRIu64 " why=%s", peer,
			  log_quote(e.msg));
	else if (t->epoch > n->members->now.epoch)
		take(n->members, t);
	free(t);
}

bool members_on_message(struct node *n, uint64_t peer, uint8_t type,
			struct cursor *c)
{
	switch (type) {
	case MSG_MEMBERS:
		on_members(n, peer, c);
		return true;
	case MSG_MEMBERS_ASK:
		if (n->members->now.epoch)
			post(n, peer, MSG_MEMBERS_ARE);
		return true;
	case MSG_MEMBERS_ARE:
		on_members_are(n, peer, c);
		return true;
	default:
		return false;
	}
}

static void asked(struct node_call *call, int status, const struct result *r)
{
	struct members_node *mn = call->arg;
	struct members *t;
	struct cursor c;
	uint64_t now_ms = clock_ms(mn->n->env.clock);
	uint32_t i;

	mn->asking = false;
	mn->due_ms = now_ms + SOON_MS;
	if (status || r->status)
		return;
	t = xcalloc(1, sizeof *t);
	t->epoch = r->n;
	t->founders = r->stamp;
	c = cursor_of(r->records, r->records_len);
	for (i = 0; i < r->n_records; i++) {
		struct member m;

		if (member_get(&m, &c))
			break;
		t->m[m.id] = m;
	}
	if (cursor_done(&c)) {
		take(mn, t);
		if (mn->heard <= mn->now.epoch &&
		    now_ms - mn->changed_ms >= CHANGING_MS)
			mn->due_ms = now_ms + QUIET_MS;
	}
	free(t);
}

static void ask(struct members_node *mn, uint64_t now_ms)
{
	struct query q = { .type = QUERY_NODES };

	if (mn->asking || now_ms < mn->due_ms ||
	    mn->n->feature.level < feature_of_cmd(CMD_NODE_SET))
		return;
	mn->asking = true;
	mn->ask = (struct node_call){ .cb = asked, .arg = mn };
	node_query(mn->n, 0, &q, &mn->ask);
}

/* ---- what a node enters by itself ------------------------------------------------ */

static void entered(struct node_call *call, int status, const struct result *r)
{
	struct members_node *mn = call->arg;

	(void)status; /* looked at again at the next tick */
	(void)r;
	mn->entering = false;
	mn->due_ms = 0;
}

static void enter(struct members_node *mn, enum node_op op,
		  const struct member *m)
{
	struct cmd c = cmd_node_of(op, m);

	mn->entering = true;
	mn->enter = (struct node_call){ .cb = entered, .arg = mn };
	node_propose(mn->n, 0, &c, &mn->enter);
}

static void enter_founders(struct members_node *mn)
{
	struct node *n = mn->n;
	struct shard *s = &n->shards[0];
	struct member m = { .state = PLACE_ACTIVE };
	uint64_t founders;
	unsigned i;

	if (mn->entering || !s->store || s->faulty || s->role != GROUP_LEADER ||
	    !mn->address[0] || !n->slots_epoch ||
	    n->feature.level < feature_of_cmd(CMD_NODE_SET))
		return;
	machine_nodes(&s->machine, &founders);
	for (i = 0; i < n->cfg.n_members; i++)
		if (!(founders >> n->cfg.members[i] & 1))
			break;
	if (i == n->cfg.n_members)
		return;
	m.id = (uint8_t)n->cfg.members[i];
	if (mn->address[i])
		snprintf(m.address, sizeof m.address, "%s", mn->address[i]);
	enter(mn, NODE_FOUNDER, &m);
}

/* Only while the row has none: another disk is an operator's decision. */
static void enter_disk(struct members_node *mn)
{
	struct member m = mn->now.m[mn->n->cfg.id];
	static const uint8_t none[16];

	if (mn->entering || m.state == PLACE_NONE || member_has_disk(&m) ||
	    memcmp(mn->n->cfg.disk_id, none, 16) == 0 ||
	    !member_may_become(m.state, m.state))
		return;
	memcpy(m.disk_id, mn->n->cfg.disk_id, 16);
	enter(mn, NODE_SET, &m);
}

/* ---- the file ---------------------------------------------------------------------- */

static void save_run(struct disk_work *w)
{
	struct save *s = w->arg;
	struct disk *d = s->disk;
	struct iovec iov = { s->bytes.data, s->bytes.len };
	struct disk_file *f;

	s->status = d->ops->open(d, "members.new", DISK_WRITE | DISK_CREATE, &f,
				 &s->err);
	if (s->status)
		return;
	s->status = d->ops->truncate(f, 0, &s->err);
	if (!s->status)
		s->status = d->ops->pwritev(f, &iov, 1, 0, &s->err);
	if (!s->status)
		s->status = d->ops->fdatasync(f, &s->err);
	d->ops->close(f);
	if (!s->status)
		s->status = d->ops->rename(d, "members.new", "members", &s->err);
	if (!s->status)
		s->status = d->ops->fsync_dir(d, "", &s->err);
}

static void save_done(struct disk_work *w)
{
	struct save *s = w->arg;
	struct members_node *mn = container_of(s, struct members_node, save);
	struct node *n = mn->n;

	s->running = false;
	n->snap.works--;
	if (!s->status) {
		mn->saved = s->epoch;
		return;
	}
	s->retry_ms = clock_ms(n->env.clock) + SAVE_RETRY_MS;
	log_event(LOG_WARN, "members_not_saved", "why=%s", log_quote(s->err.msg));
}

/* Nothing depends on it but where a restart looks for its peers. */
static void save(struct members_node *mn, uint64_t now_ms)
{
	struct save *s = &mn->save;
	struct node *n = mn->n;

	if (s->running || mn->saved == mn->now.epoch || now_ms < s->retry_ms ||
	    n->level >= LEVEL_READONLY || n->stopping)
		return;
	s->running = true;
	s->disk = n->env.disk;
	s->epoch = mn->now.epoch;
	buf_clear(&s->bytes);
	members_encode(&s->bytes, &mn->now, n->cfg.cluster_id);
	s->work = (struct disk_work){ .run = save_run, .done = save_done,
				      .arg = s };
	n->snap.works++;
	n->env.disk->ops->work(n->env.disk, &s->work);
}

/* ---- life ------------------------------------------------------------------------- */

void members_tick(struct node *n, uint64_t now_ms)
{
	struct members_node *mn = n->members;
	struct shard *s = &n->shards[0];

	if (s->store && s->machine.nodes_changed) {
		s->machine.nodes_changed = false;
		mn->due_ms = 0;
	}
	save(mn, now_ms);
	if (n->going)
		return;
	enter_founders(mn);
	enter_disk(mn);
	ask(mn, now_ms);
}

int members_open(struct node *n, struct err *e)
{
	struct members_node *mn = xcalloc(1, sizeof *mn);
	unsigned i;
	int rv;

	n->members = mn;
	mn->n = n;
	for (i = 0; i < n->cfg.n_members; i++) {
		if (n->cfg.addresses[i])
			mn->address[i] = xstrdup(n->cfg.addresses[i]);
		n->cfg.addresses[i] = NULL;
	}
	rv = members_load(&mn->now, n->env.disk, n->cfg.cluster_id, e);
	mn->saved = mn->heard = mn->now.epoch;
	return rv;
}

/* After a simulated crash or an orderly stop: no work is running, and calls are
 * forgotten with the node. */
void members_close(struct node *n)
{
	struct members_node *mn = n->members;
	unsigned i;

	if (!mn)
		return;
	for (i = 0; i < GROUP_VOTERS_MAX; i++)
		free(mn->address[i]);
	buf_release(&mn->save.bytes);
	free(mn);
	n->members = NULL;
}
