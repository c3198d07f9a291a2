#include "tests/lib/group_rig.h"
#include "base/alloc.h"
#include "base/assert.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what leaves ---------------------------------------------------------------- */

static struct rig *rig_of(struct net *n)
{
	return container_of(n, struct rig, net);
}

static int rig_send(struct net *net, uint64_t peer, const void *head,
		    size_t len, struct entry *const *entries, unsigned n_entries)
{
	struct rig *r = rig_of(net);
	struct cursor c = cursor_of(head, len);
	struct rig_msg *m = &r->sent[r->n_sent++];

	(void)entries;
	AN(r->n_sent < RIG_SENT_MAX);
	memset(m, 0, sizeof *m);
	AN(cursor_u8(&c) == NODE_MSG_GROUP && cursor_u32(&c) == RIG_SHARD);
	m->kind = (enum group_msg)cursor_u8(&c);
	m->peer = peer;
	if (m->kind == GM_JOINING || m->kind == GM_REMOVED) {
		m->life = cursor_u64(&c);
		m->last = cursor_u64(&c);
	}
	if (m->kind != GM_PROBE)
		m->term = cursor_u64(&c);
	switch (m->kind) {
	case GM_APPEND:
		m->prev = cursor_u64(&c);
		m->prev_term = cursor_u64(&c);
		m->commit = cursor_u64(&c);
		m->n = cursor_u32(&c);
		AN(m->n == n_entries);
		cursor_bytes(&c, (size_t)m->n * 12);
		break;
	case GM_APPEND_RESULT:
		m->rejected = cursor_u64(&c);
		m->last = cursor_u64(&c);
		break;
	case GM_VOTE:
	case GM_TIMEOUT_NOW:
		m->last = cursor_u64(&c);
		m->last_term = cursor_u64(&c);
		if (m->kind == GM_VOTE)
			m->flags = cursor_u8(&c);
		break;
	case GM_NEEDED:
		m->last = cursor_u64(&c);
		break;
	case GM_VOTE_RESULT:
		m->flags = cursor_u8(&c);
		break;
	case GM_PROBE:
	case GM_PROBE_RESULT:
		m->seq = cursor_u64(&c);
		break;
	case GM_JOINING:
		m->flags = cursor_u8(&c);
		break;
	case GM_REMOVED:
		break;
	default:
		WRONG("unknown message kind");
	}
	if (cursor_left(&c) && (m->kind == GM_APPEND_RESULT ||
				m->kind == GM_VOTE_RESULT ||
				m->kind == GM_PROBE_RESULT))
		m->life = cursor_u64(&c);
	AN(cursor_done(&c));
	return 0;
}

static void rig_flush(struct net *net)
{
	(void)net;
}

static bool rig_is_up(struct net *net, uint64_t peer)
{
	return !(rig_of(net)->down >> peer & 1);
}

static size_t rig_queued(struct net *net, uint64_t peer)
{
	(void)net;
	(void)peer;
	return 0;
}

static const struct net_ops rig_net = { rig_send, rig_flush, rig_is_up,
					rig_queued };

void rig_forget(struct rig *r)
{
	r->n_sent = 0;
}

unsigned rig_count(const struct rig *r, enum group_msg kind, uint64_t peer)
{
	unsigned i, n = 0;

	for (i = 0; i < r->n_sent; i++)
		n += r->sent[i].kind == kind && r->sent[i].peer == peer;
	return n;
}

const struct rig_msg *rig_last(const struct rig *r, enum group_msg kind,
			       uint64_t peer)
{
	unsigned i = r->n_sent;

	while (i--)
		if (r->sent[i].kind == kind && r->sent[i].peer == peer)
			return &r->sent[i];
	return NULL;
}

/* ---- the group -------------------------------------------------------------------- */

static void on_apply(void *arg, struct entry *e)
{
	struct rig *r = arg;

	AN(e->index == r->applied + 1);
	r->applied = e->index;
}

static void on_state(void *arg, enum group_role role, uint64_t term,
		     uint64_t leader)
{
	struct rig *r = arg;

	(void)term;
	(void)leader;
	r->role = role;
}

static void on_conf(void *arg, const struct group_conf *c)
{
	struct rig *r = arg;

	AN(c->index == r->applied);
	r->conf = *c;
	r->n_confs++;
}

static const struct group_ops ops = { on_apply, on_state, on_conf };

static void on_fatal(void *arg, const struct err *e)
{
	(void)arg;
	fprintf(stderr, "journal: %s\n", e->msg);
	abort();
}

static void start(struct rig *r)
{
	struct journal_config jc = { .node_id = 1,
				     .file_size = 256u << 10,
				     .max_bytes = 64u << 20,
				     .queue_bytes = 8u << 20 };
	struct group_config gc = { .shard = RIG_SHARD,
				   .self = r->self,
				   .life = r->life };
	struct group_boot boot = { .n_voters = r->voters };
	struct err e = { 0 };
	unsigned i;

	for (i = 0; i < r->voters; i++)
		boot.voters[i] = i + 1;
	r->applied = 0;
	r->role = GROUP_FOLLOWER;
	r->disk = disk_sim_start(r->medium);
	AZ(journal_open(&r->journal, r->disk, &r->sim.clock, &jc, on_fatal, r,
			&e));
	AZ(group_open(&r->g, &gc, &boot, r->journal, &r->net, &r->sim.clock,
		      &r->rand, &ops, r, &e));
	rig_turn(r);
}

static void open_as(struct rig *r, uint64_t self, uint64_t life,
		    unsigned voters)
{
	static const struct disk_sim_config disk = { .write_min_us = 1000,
						     .write_max_us = 1000,
						     .work_min_us = 1,
						     .work_max_us = 1 };

	memset(r, 0, sizeof *r);
	sim_init(&r->sim, 5);
	rand_seeded(&r->rand, 5);
	r->medium = disk_sim_new(&r->sim, 1, 5, &disk);
	r->net.ops = &rig_net;
	r->self = self;
	r->life = life;
	r->voters = voters;
	start(r);
	rig_run_ms(r, 10);
}

void rig_open(struct rig *r, unsigned voters)
{
	open_as(r, 1, 0, voters);
}

void rig_open_joiner(struct rig *r, uint64_t life)
{
	open_as(r, 4, life, 0);
}

static void stop(struct rig *r)
{
	disk_sim_kill(r->medium);
	journal_close(r->journal);
	group_close(r->g);
}

void rig_reopen(struct rig *r)
{
	stop(r);
	start(r);
}

void rig_close(struct rig *r)
{
	int owner;

	stop(r);
	while (r->sim.n)
		sim_step(&r->sim, &owner);
	disk_sim_free(r->medium);
	sim_release(&r->sim);
}

void rig_turn(struct rig *r)
{
	while (group_wants_run(r->g))
		group_run(r->g);
	journal_flush(r->journal);
	journal_tick(r->journal, r->sim.now_us);
}

/* The next event of the disk or the timer, if one is due by `end`. */
static bool step(struct rig *r, uint64_t end_us)
{
	uint64_t timer = group_deadline_ms(r->g);
	bool disk = r->sim.n && r->sim.heap[0].at_us <= end_us;
	int owner;

	if (timer < UINT64_MAX / 1000)
		timer *= 1000;
	if (timer <= end_us && (!disk || timer < r->sim.heap[0].at_us)) {
		if (timer > r->sim.now_us)
			r->sim.now_us = timer;
		group_timeout(r->g);
	} else if (disk) {
		sim_step(&r->sim, &owner);
	} else {
		return false;
	}
	rig_turn(r);
	return true;
}

void rig_run_ms(struct rig *r, uint64_t ms)
{
	uint64_t end = r->sim.now_us + ms * 1000;

	while (step(r, end))
		;
	r->sim.now_us = end;
	rig_turn(r);
}

void rig_timeout(struct rig *r)
{
	uint64_t due = group_deadline_ms(r->g);

	AN(due != UINT64_MAX);
	while (group_deadline_ms(r->g) == due && step(r, due * 1000))
		;
}

/* ---- what peers say ---------------------------------------------------------------- */

static int receive(struct rig *r, uint64_t from, struct buf *b)
{
	int rv;

	memset(&r->err, 0, sizeof r->err);
	rv = group_receive(r->g, from, b->data, b->len, &r->err);
	buf_release(b);
	rig_turn(r);
	return rv;
}

int rig_append(struct rig *r, uint64_t from, uint64_t term, uint64_t prev,
	       uint64_t prev_term, uint64_t commit, unsigned n,
	       const uint64_t *terms, struct entry *const *entries)
{
	static const uint8_t command[] = { GROUP_COMMAND, 'x' };
	struct buf b = BUF_INIT;
	unsigned i;

	buf_u8(&b, GM_APPEND);
	buf_u64(&b, term);
	buf_u64(&b, prev);
	buf_u64(&b, prev_term);
	buf_u64(&b, commit);
	buf_u32(&b, n);
	for (i = 0; i < n; i++) {
		buf_u64(&b, terms ? terms[i] : term);
		buf_u32(&b, entries ? entries[i]->len : sizeof command);
	}
	for (i = 0; i < n; i++) {
		if (entries)
			buf_put(&b, entry_payload(entries[i]), entries[i]->len);
		else
			buf_put(&b, command, sizeof command);
	}
	return receive(r, from, &b);
}

int rig_ack(struct rig *r, uint64_t from, uint64_t term, uint64_t rejected,
	    uint64_t last)
{
	struct buf b = BUF_INIT;

	buf_u8(&b, GM_APPEND_RESULT);
	buf_u64(&b, term);
	buf_u64(&b, rejected);
	buf_u64(&b, last);
	if (r->says_life)
		buf_u64(&b, r->says_life);
	return receive(r, from, &b);
}

void rig_life(struct rig *r, uint64_t life)
{
	r->says_life = life;
}

int rig_joining(struct rig *r, uint64_t from, uint64_t life, uint64_t index,
		uint64_t term, unsigned joins)
{
	struct buf b = BUF_INIT;

	buf_u8(&b, GM_JOINING);
	buf_u64(&b, life);
	buf_u64(&b, index);
	buf_u64(&b, term);
	buf_u8(&b, (uint8_t)joins);
	return receive(r, from, &b);
}

int rig_removed(struct rig *r, uint64_t from, uint64_t life, uint64_t index,
		uint64_t term)
{
	struct buf b = BUF_INIT;

	buf_u8(&b, GM_REMOVED);
	buf_u64(&b, life);
	buf_u64(&b, index);
	buf_u64(&b, term);
	return receive(r, from, &b);
}

int rig_vote(struct rig *r, uint64_t from, uint64_t term, uint64_t last,
	     uint64_t last_term, unsigned flags)
{
	struct buf b = BUF_INIT;

	buf_u8(&b, GM_VOTE);
	buf_u64(&b, term);
	buf_u64(&b, last);
	buf_u64(&b, last_term);
	buf_u8(&b, (uint8_t)flags);
	return receive(r, from, &b);
}

int rig_vote_result(struct rig *r, uint64_t from, uint64_t term, unsigned flags)
{
	struct buf b = BUF_INIT;

	buf_u8(&b, GM_VOTE_RESULT);
	buf_u64(&b, term);
	buf_u8(&b, (uint8_t)flags);
	if (r->says_life)
		buf_u64(&b, r->says_life);
	return receive(r, from, &b);
}

int rig_timeout_now(struct rig *r, uint64_t from, uint64_t term, uint64_t last,
		    uint64_t last_term)
{
	struct buf b = BUF_INIT;

	buf_u8(&b, GM_TIMEOUT_NOW);
	buf_u64(&b, term);
	buf_u64(&b, last);
	buf_u64(&b, last_term);
	return receive(r, from, &b);
}

void rig_elect(struct rig *r)
{
	uint64_t term = raft_current_term(&r->g->raft);

	while (r->g->raft.state != RAFT_CANDIDATE)
		rig_timeout(r);
	AZ(rig_vote_result(r, 2, term + 1, RIG_PRE | RIG_GRANTED));
	rig_run_ms(r, 5); /* its own vote is on disk */
	AZ(rig_vote_result(r, 2, term + 1, RIG_GRANTED));
	AN(r->role == GROUP_LEADER);
}

struct entry *rig_conf(const char *spec)
{
	struct raft_configuration c;
	struct entry *e;

	raft_configuration_init(&c);
	while (*spec) {
		char *end, addr[24], role;
		uint64_t id = strtoull(spec, &end, 10), life = 0;

		role = *end++;
		if (*end == '.')
			life = strtoull(end + 1, &end, 16);
		AZ(raft_configuration_add(&c, id, conf_addr(addr, id, life),
					  role == 'v'	? RAFT_VOTER
					  : role == 's' ? RAFT_STANDBY
							: RAFT_SPARE));
		spec = end + (*end == ' ');
	}
	e = conf_entry(RIG_SHARD, &c);
	raft_configuration_close(&c);
	return e;
}

struct entry *rig_command(void)
{
	struct entry *e = entry_new(RIG_SHARD, 100);

	memset(entry_payload(e), 7, 100);
	entry_payload(e)[0] = GROUP_COMMAND;
	return e;
}

int rig_submit(struct rig *r, unsigned n)
{
	struct entry *es[GROUP_SUBMIT_MAX];
	unsigned i;
	int rv;

	for (i = 0; i < n; i++)
		es[i] = rig_command();
	rv = group_submit(r->g, es, n);
	for (i = 0; rv && i < n; i++)
		entry_unref(es[i]);
	rig_turn(r);
	return rv;
}

struct entry *rig_change(const char *roles)
{
	struct raft_configuration c;
	struct raft_buffer buf;
	struct entry *e;
	char addr[24];
	unsigned i;

	raft_configuration_init(&c);
	for (i = 0; roles[i]; i++)
		AZ(raft_configuration_add(&c, i + 1, raft_addr(addr, i + 1),
					  roles[i] == 'v'   ? RAFT_VOTER
					  : roles[i] == 's' ? RAFT_STANDBY
							    : RAFT_SPARE));
	AZ(raft_configuration_encode(&c, &buf));
	raft_configuration_close(&c);
	e = entry_new(RIG_SHARD, (uint32_t)buf.len + 1);
	entry_payload(e)[0] = GROUP_CHANGE;
	memcpy(entry_payload(e) + 1, buf.base, buf.len);
	raft_free(buf.base);
	return e;
}
