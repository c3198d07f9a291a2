/* A group opens from what the journal and the store say, and closes.
 *
 * A new group begins with entry 1, its configuration, which is the same on every
 * node and counts as committed.  Entries up to the applied index are known to
 * the core by their terms only. */
#include "consensus/raft_impl.h"
#include "base/alloc.h"
#include "base/assert.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static int cmp_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* The last applied one; of a new group the first, in ascending order of ids, so
 * that entry 1 is the same everywhere. */
static void conf_build(struct raft_configuration *c,
		       const struct group_boot *boot)
{
	uint64_t v[GROUP_VOTERS_MAX];
	char addr[24];
	unsigned i;

	if (boot->conf_len) {
		struct raft_buffer buf = {
			.base = (void *)(uintptr_t)boot->conf,
			.len = boot->conf_len
		};

		AZ(raft_configuration_decode(&buf, c));
		return;
	}
	AN(boot->n_voters >= 1 && boot->n_voters <= GROUP_VOTERS_MAX);
	memcpy(v, boot->voters, boot->n_voters * sizeof *v);
	qsort(v, boot->n_voters, sizeof *v, cmp_u64);
	raft_configuration_init(c);
	for (i = 0; i < boot->n_voters; i++)
		AZ(raft_configuration_add(c, v[i], raft_addr(addr, v[i]),
					  RAFT_VOTER));
}

void group_conf_founders(const uint64_t *ids, unsigned n, struct buf *out)
{
	struct group_boot boot = { .n_voters = n };
	struct raft_configuration c;
	struct raft_buffer bytes;

	AN(n >= 1 && n <= GROUP_VOTERS_MAX);
	memcpy(boot.voters, ids, n * sizeof *ids);
	conf_build(&c, &boot);
	AZ(raft_configuration_encode(&c, &bytes));
	buf_put(out, bytes.base, bytes.len);
	raft_free(bytes.base);
	raft_configuration_close(&c);
}

/* The newest configuration that is here, committed or not, as raft wants it. */
static int conf_newest(struct group *g, const struct group_boot *boot,
		       const struct entry *last, struct group_conf *out,
		       struct err *e)
{
	struct raft_configuration c;
	int rv = 0;

	if (boot->applied_index && boot->conf_len) {
		rv = group_conf_decode(&g->conf, boot->conf_index, boot->conf,
				       boot->conf_len);
		if (rv)
			return err_set(e, ERR_DAMAGED,
				       "the applied configuration is malformed");
	} else if (boot->n_voters) {
		conf_build(&c, boot);
		conf_view(&g->conf, boot->applied_index ? 1 : 0, &c);
		raft_configuration_close(&c);
	}
	*out = g->conf;
	if (!boot->applied_index)
		memset(&g->conf, 0, sizeof g->conf);
	if (last) {
		const uint8_t *p = entry_payload((struct entry *)(uintptr_t)last);

		AZ(group_conf_decode(out, last->index, p + 1, last->len - 1));
	} else if (!boot->applied_index && g->cfg.life) {
		memset(out, 0, sizeof *out);
	}
	return rv;
}

static struct entry *first_entry(struct group *g, const struct group_boot *boot)
{
	struct raft_configuration c;
	struct entry *e;

	conf_build(&c, boot);
	e = conf_entry(g->cfg.shard, &c);
	raft_configuration_close(&c);
	e->term = 1;
	e->index = 1;
	return e;
}

/* This node is the only voter of a configuration. */
static bool is_lone(const struct group_conf *c, uint64_t id)
{
	unsigned i, voters = 0;
	bool self = false;

	for (i = 0; i < c->n; i++) {
		voters += c->members[i].voter;
		self |= c->members[i].voter && c->members[i].id == id;
	}
	return self && voters == 1;
}

struct boot_log {
	uint64_t first, last; /* what the core is started with */
	struct raft_entry *re;
	struct entry **held; /* configurations, whose bytes the core reads */
	unsigned n_held;
};

static void boot_log_release(struct boot_log *b)
{
	unsigned i;

	for (i = 0; i < b->n_held; i++)
		entry_unref(b->held[i]);
	free(b->held);
	free(b->re);
}

/* Terms of what was applied, and the entries after it, from the journal. */
static int boot_load(struct group *g, const struct group_boot *boot,
		     struct boot_log *b, struct err *e)
{
	static char batch;
	uint64_t i;

	b->re = xcalloc(b->last - b->first + 1, sizeof *b->re);
	for (i = b->first; i <= b->last; i++) {
		struct raft_entry *re = &b->re[i - b->first];
		struct entry *en;
		uint8_t type;

		re->type = RAFT_COMMAND;
		re->batch = &batch;
		if (i <= boot->applied_index) {
			re->term = journal_term(g->journal, g->cfg.shard, i);
			if (!re->term)
				return err_set(e, ERR_FAULTY,
					       "journal has no term of %" PRIu64,
					       i);
			continue;
		}
		if (journal_read(g->journal, g->cfg.shard, i, &en, e)) {
			e->code = ERR_FAULTY;
			return err_wrap(e, "entry %" PRIu64, i);
		}
		type = entry_payload(en)[0];
		re->term = en->term;
		re->buf.base = entry_payload(en) + 1;
		re->buf.len = en->len - 1;
		if (type == GROUP_BARRIER)
			re->type = RAFT_BARRIER;
		if (type == GROUP_CHANGE) {
			re->type = RAFT_CHANGE;
			if (!conf_valid(re->buf.base, re->buf.len)) {
				entry_unref(en);
				return err_set(e, ERR_FAULTY,
					       "entry %" PRIu64
					       " is no configuration",
					       i);
			}
			changes_add(g, i);
			b->held = xrealloc(b->held, (b->n_held + 1) *
							    sizeof *b->held);
			b->held[b->n_held++] = entry_ref(en);
		}
		raft_cache_append(&g->cache, en);
		raft_cache_evict(&g->cache, i);
		entry_unref(en);
	}
	return 0;
}

/* The journal holds what was applied and what follows it, or says with its mark
 * that the store has it. */
static int boot_check(struct group *g, const struct group_boot *boot,
		      const struct journal_shard *sh, struct err *e)
{
	uint64_t applied = boot->applied_index, term;

	if (sh->faulty)
		return err_set(e, ERR_FAULTY, "%s", sh->why);
	/* What the mark says was durable and is not, with no entries left to make it
	 * again: the state is at fault, not the journal. */
	if (applied < sh->mark_index &&
	    (!sh->first_index || sh->first_index > applied + 1))
		return err_set(e, ERR_DAMAGED,
			       "the state is of %" PRIu64 ", %" PRIu64
			       " was durable and the journal starts at %" PRIu64,
			       applied, sh->mark_index, sh->first_index);
	if (sh->last_index >= sh->first_index && sh->first_index) {
		if (sh->first_index > applied + 1)
			return err_set(e, ERR_FAULTY,
				       "journal starts at %" PRIu64
				       ", applied is %" PRIu64,
				       sh->first_index, applied);
		if (sh->last_index < applied)
			return err_set(e, ERR_FAULTY,
				       "journal ends at %" PRIu64
				       ", applied is %" PRIu64,
				       sh->last_index, applied);
		term = journal_term(g->journal, g->cfg.shard, applied);
		if (term && term != boot->applied_term)
			return err_set(e, ERR_FAULTY,
				       "entry %" PRIu64 " has term %" PRIu64
				       " in the journal, %" PRIu64
				       " was applied",
				       applied, term, boot->applied_term);
	} else if (applied != sh->mark_index) {
		return err_set(e, ERR_FAULTY,
			       "journal has no entries, mark %" PRIu64
			       ", applied is %" PRIu64,
			       sh->mark_index, applied);
	}
	if (sh->term < sh->last_term || sh->term < boot->applied_term)
		return err_set(e, ERR_FAULTY,
			       "term %" PRIu64 " is below that of an entry",
			       sh->term);
	return 0;
}

static int boot_start(struct group *g, const struct group_boot *boot,
		      struct err *e)
{
	const struct journal_shard *sh =
		journal_shard(g->journal, g->cfg.shard);
	static const struct journal_shard none;
	struct raft_snapshot_metadata meta = { 0 };
	struct raft_event ev = { 0 };
	struct boot_log b = { 0 };
	struct raft_entry re1 = { 0 };
	struct group_conf newest;
	struct entry *e1 = NULL;
	bool vote = false, lone, stranger;
	uint64_t applied = boot->applied_index;
	int rv;

	if (!sh || !sh->present)
		sh = &none;
	raft_cache_init(&g->cache, g->cfg.cache_bytes, applied + 1);
	rv = boot_check(g, boot, sh, e);
	if (rv)
		return rv;
	g->applied = g->snap_index = applied;
	g->applied_term = g->snap_term = boot->applied_term;
	ev.type = RAFT_START;
	ev.start.term = sh->term;
	ev.start.voted_for = sh->vote;
	if (sh->last_index >= sh->first_index && sh->first_index) {
		b.first = sh->first_index;
		b.last = sh->last_index;
		rv = boot_load(g, boot, &b, e);
		if (rv) {
			boot_log_release(&b);
			return rv;
		}
		ev.start.start_index = b.first;
		ev.start.entries = b.re;
		ev.start.n_entries = (unsigned)(b.last - b.first + 1);
		if (!applied && b.re[0].type != RAFT_CHANGE) {
			boot_log_release(&b);
			return err_set(e, ERR_FAULTY,
				       "entry 1 is no configuration");
		}
		g->durable = b.last;
	} else if (applied) {
		b.last = applied;
		ev.start.start_index = applied + 1;
		g->durable = applied;
	} else if (g->cfg.life) {
		/* Born empty: it gets all from a leader. */
		ev.start.start_index = 1;
	} else {
		e1 = first_entry(g, boot);
		re1.term = 1;
		re1.type = RAFT_CHANGE;
		re1.buf.base = entry_payload(e1) + 1;
		re1.buf.len = e1->len - 1;
		re1.batch = &re1;
		raft_cache_append(&g->cache, e1);
		changes_add(g, 1);
		ev.start.start_index = 1;
		ev.start.entries = &re1;
		ev.start.n_entries = 1;
		b.last = 1;
		vote = true;
	}
	/* The cache may have let go of what the journal can read again. */
	if (g->cache.last < b.last) {
		g->cache.first = b.last + 1;
		g->cache.last = b.last;
	}
	g->trail_first = ev.start.start_index;
	rv = conf_newest(g, boot, b.n_held ? b.held[b.n_held - 1] : NULL, &newest,
			 e);
	if (rv) {
		boot_log_release(&b);
		return rv;
	}
	if (applied) {
		conf_build(&meta.configuration, boot);
		meta.index = applied;
		meta.term = boot->applied_term;
		meta.configuration_index =
			boot->conf_index ? boot->conf_index : 1;
		ev.start.metadata = &meta;
	}
	if (!ev.start.term) {
		ev.start.term = 1;
		vote = true;
	}
	/* A lone voter leads at once, without asking anybody; the new term and
	 * its vote for itself are in front of all its entries in the journal.
	 * Not so another replica of its node, which came back before it had the
	 * configurations that made it a member. */
	lone = is_lone(&newest, g->cfg.self);
	stranger = !conf_view_has(&newest, g->cfg.self, g->cfg.life);
	if (lone && !stranger) {
		ev.start.term++;
		ev.start.voted_for = g->cfg.self;
		vote = true;
	} else if (!e1) {
		/* [HOLD] It may have helped a leader just before it stopped. */
		g->hold_until_ms = g->now_ms + g->cfg.election_ms;
	}
	g->raft.current_term = ev.start.term;
	g->raft.voted_for = ev.start.voted_for;
	if (vote)
		disk_write(g, true, 0, &e1, e1 ? 1 : 0);
	g->heard_leader_ms = g->now_ms;
	/* A founder has been one since entry 1. */
	g->was_member = !g->cfg.life ||
			conf_view_has(&g->conf, g->cfg.self, g->cfg.life);
	/* The core would let that one lead, by the id alone: for the step it has one
	 * that no node has. */
	if (lone && stranger)
		g->raft.id = NET_NODE_MAX;
	rv = core_step(g, &ev);
	g->raft.id = g->cfg.self;
	boot_log_release(&b);
	entry_unref(e1);
	if (rv)
		return err_set(e, ERR_FAULTY, "raft does not start: %s",
			       raft_strerror(rv));
	update_role(g);
	return 0;
}

int group_open(struct group **out, const struct group_config *cfg,
	       const struct group_boot *boot, struct journal *journal,
	       struct net *net, struct clock *clock, struct rand *rand,
	       const struct group_ops *ops, void *arg, struct err *e)
{
	struct group *g = xcalloc(1, sizeof *g);
	char addr[24];
	int rv;

	g->cfg = *cfg;
	if (!g->cfg.election_ms)
		g->cfg.election_ms = 1000;
	if (!g->cfg.heartbeat_ms)
		g->cfg.heartbeat_ms = 100;
	if (!g->cfg.cache_bytes)
		g->cfg.cache_bytes = 2u << 20;
	g->journal = journal;
	g->net = net;
	g->clock = clock;
	g->rand = rand;
	g->ops = ops;
	g->arg = arg;
	list_init(&g->reqs);
	list_init(&g->held);
	reads_init(&g->reads_new);
	reads_init(&g->reads_probing);
	reads_init(&g->reads_ok);
	reads_init(&g->reads_failed);
	group_now(g);
	AZ(raft_init(&g->raft, NULL, NULL, cfg->self,
		     raft_addr(addr, cfg->self)));
	g->raft.tracer = NULL; /* its buffer is static, its work not free */
	g->raft.now = g->now_ms;
	raft_seed(&g->raft, (unsigned)rand_u64(rand));
	raft_set_pre_vote(&g->raft, true);
	raft_set_heartbeat_timeout(&g->raft, g->cfg.heartbeat_ms);
	raft_set_election_timeout(&g->raft, g->cfg.election_ms);
	/* It asks again: offers are repeated while they are needed. */
	raft_set_install_snapshot_timeout(&g->raft, 2 * g->cfg.election_ms);
	raft_set_max_inflight_entries(&g->raft, GROUP_INFLIGHT_MAX);
	rv = boot_start(g, boot, e);
	if (rv) {
		group_close(g);
		return rv;
	}
	*out = g;
	return 0;
}

void group_close(struct group *g)
{
	raft_close(&g->raft, NULL);
	disk_release(g);
	msg_release(g);
	raft_cache_release(&g->cache);
	free(g->changes);
	free(g);
}
