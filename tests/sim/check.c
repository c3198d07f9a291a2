/* The history, kept outside of the product, and what it must add up to. */
#include "tests/sim/run.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/bytes.h"
#include "base/hash.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

void check_init(struct check *c, struct run *r)
{
	memset(c, 0, sizeof *c);
	c->run = r;
	map_init(&c->sends);
}

void check_release(struct check *c)
{
	unsigned i;

	MAP_FOREACH(slot, &c->sends)
		free(slot->val);
	map_release(&c->sends);
	for (i = 0; i < ACCOUNTS_MAX; i++)
		free(c->numbers[i]);
}

#define GONE 16u /* flag of a delivery: there is no content any more */

static uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* The send that a record or an answer names; NULL and a failure: none. */
static struct sent *sent_of(struct check *c, const uint8_t mid[16],
			    const char *where)
{
	struct sent *s = map_get(&c->sends, get_u64(mid));

	if (s && !memcmp(s->mid, mid, 16))
		return s;
	run_fail(c->run, "%s names a message that nobody wrote", where);
	return NULL;
}

/* ---- writing ------------------------------------------------------------------------ */

struct sent *check_compose(struct check *c, struct device *d, uint64_t to,
			   uint8_t cls, uint32_t len, struct buf *body)
{
	struct sent *s = xcalloc(1, sizeof *s);
	uint64_t x;

	s->number = ++c->n_sends;
	s->from = d->account;
	s->device = d->device;
	s->to = to;
	s->to_nobody = account_index(c->run, to) < 0;
	s->cls = cls;
	s->seen = d->seen_lamport;
	put_u64(s->mid, s->number);
	x = s->number * 0x9e3779b97f4a7c15ull;
	put_u64(s->mid + 8, x ^ c->run->p.world.seed);
	while (body->len < len) {
		x = x * 6364136223846793005ull + 1442695040888963407ull;
		buf_u64(body, x);
	}
	body->len = len;
	s->body_len = len;
	s->body_hash = xxh3(body->data, len);
	AZ(map_put(&c->sends, s->number, s));
	return s;
}

void check_composed(struct check *c, struct sent *s, uint64_t seq)
{
	s->seq = seq;
	sim_trace(&c->run->world.sim, "write %" PRIu64 " seq %" PRIu64,
		  s->number, seq);
}

void check_settled(struct check *c, struct device *d,
		   const struct client_settled *st)
{
	struct sent *s = sent_of(c, st->mid, "an answer");
	struct run *r = c->run;

	if (!s)
		return;
	sim_trace(&r->world.sim, "settled %" PRIu64 " %s lamport %" PRIu64
		  " shard %u offset %" PRIu64 "%s %s", s->number,
		  st->outcome == CLIENT_ACKED ? "acked" : "refused", st->lamport,
		  st->shard, st->offset, st->dup ? " dup" : "",
		  st->problem ? st->problem : "");
	c->resolved_dup += st->dup;
	if (s->seq != st->seq || s->to != st->to || s->from != d->account ||
	    s->device != d->device)
		run_fail(r, "the answer to %" PRIu64 " is another one's",
			 s->number);
	if (st->outcome == CLIENT_REFUSED) {
		if (s->fate == FATE_ACKED)
			run_fail(r, "%" PRIu64 " was acked and then refused: %s",
				 s->number, st->problem);
		if (!s->to_nobody && !(r->erased && s->to == r->erased))
			run_fail(r, "%" PRIu64 " was refused: %s", s->number,
				 st->problem ? st->problem : "?");
		if (s->fate == FATE_OPEN)
			c->refused++;
		s->fate = FATE_REFUSED;
		return;
	}
	d->seen_lamport = max_u64(d->seen_lamport, st->lamport);
	if (s->to_nobody || s->fate == FATE_REFUSED) {
		run_fail(r, "%" PRIu64 " was acked, but must be refused",
			 s->number);
		return;
	}
	if (s->fate == FATE_ACKED) {
		/* Its device forgot the first answer. */
		if (s->lamport != st->lamport || s->offset != st->offset ||
		    s->shard != st->shard)
			run_fail(r, "%" PRIu64 " was acked at two places",
				 s->number);
		return;
	}
	s->fate = FATE_ACKED;
	s->lamport = st->lamport;
	s->offset = st->offset;
	s->shard = st->shard;
	c->acked++;
	c->acked_to[account_index(r, s->to)]++;
	if (s->lamport <= s->seen) {
		c->reordered++;
		run_fail(r, "%" PRIu64 " has lamport %" PRIu64
			    ", its writer had seen %" PRIu64, s->number,
			 s->lamport, s->seen);
	}
}

/* ---- reading --------------------------------------------------------------------------- */

static struct seen *seen_at(struct device *d, uint64_t n)
{
	if (n >= d->inbox_cap) {
		size_t cap = n + 1 > 2 * d->inbox_cap ? n + 1 : 2 * d->inbox_cap;

		d->inbox = xrealloc(d->inbox, cap * sizeof *d->inbox);
		memset(d->inbox + d->inbox_cap, 0,
		       (cap - d->inbox_cap) * sizeof *d->inbox);
		d->inbox_cap = cap;
	}
	return &d->inbox[n];
}

/* One number, one content, for every device and for ever. */
static void check_number(struct check *c, unsigned account_i, uint64_t n,
			 const struct sent *s)
{
	size_t cap = c->numbers_cap[account_i];
	uint64_t *v;

	if (n >= cap) {
		size_t more = n + 1 > 2 * cap ? n + 1 : 2 * cap;

		c->numbers[account_i] = xrealloc(c->numbers[account_i],
						 more * sizeof(uint64_t));
		memset(c->numbers[account_i] + cap, 0,
		       (more - cap) * sizeof(uint64_t));
		c->numbers_cap[account_i] = more;
	}
	v = &c->numbers[account_i][n];
	if (*v && *v != s->number)
		run_fail(c->run, "number %" PRIu64 " of account %u is %" PRIu64
				 " and %" PRIu64, n, account_i, *v, s->number);
	*v = s->number;
}

void check_page(struct check *c, struct device *d, const struct client_event *ev)
{
	size_t i;

	c->pages += ev->n_records != 0;
	for (i = 0; i < ev->n_records; i++) {
		const struct client_record *rec = &ev->records[i];
		struct sent *s = sent_of(c, rec->mid, "a page");

		if (!s)
			return;
		check_number(c, d->account_i, rec->n, s);
		if (i && rec->n != rec[-1].n + 1 && rec->n + 1 != rec[-1].n)
			run_fail(c->run, "a page has number %" PRIu64
					 " after %" PRIu64, rec->n, rec[-1].n);
		if (!(rec->flags & GONE) &&
		    xxh3(rec->body, rec->body_len) != s->body_hash)
			run_fail(c->run, "%" PRIu64 " is in a page, but changed",
				 s->number);
		d->seen_lamport = max_u64(d->seen_lamport, rec->lamport);
	}
}

/* What is gone for the device that is told must be known to be gone: history.c looks
 * at when and why. */
static bool all_have(struct run *r, struct device *d, uint64_t n)
{
	uint64_t slot = xxh3(&d->account, 8) % SLOTS;
	struct history *h = &r->history[slot % r->p.world.node.shards];
	size_t i;

	for (i = 0; i < h->n; i++)
		if (h->v[i].key == d->account && h->v[i].n == n)
			return h->v[i].stubbed;
	return false;
}

void check_hole(struct check *c, struct device *d, uint64_t from, uint64_t to)
{
	uint64_t n;

	c->holes++;
	sim_trace(&c->run->world.sim, "device %u.%u is told: %" PRIu64 "..%" PRIu64
				      " are gone", d->account_i, d->number, from,
		  to);
	if (from != d->last_n + 1 || to < from)
		run_fail(c->run, "device %u.%u was told of a hole from %" PRIu64
				 " to %" PRIu64 " after %" PRIu64,
			 d->account_i, d->number, from, to, d->last_n);
	history_hole(c->run, d, from, to);
	for (n = from; n <= to; n++)
		seen_at(d, n)->hole = true;
	d->last_n = to;
}

static bool same_seen(const struct seen *a, const struct seen *b)
{
	return !memcmp(a->mid, b->mid, 16) && a->lamport == b->lamport &&
	       a->from == b->from && a->seq == b->seq &&
	       a->body_hash == b->body_hash;
}

void check_record(struct check *c, struct device *d,
		  const struct client_record *rec)
{
	struct run *r = c->run;
	struct sent *s = sent_of(c, rec->mid, "a delivery");
	struct seen now = { .lamport = rec->lamport, .from = rec->from,
			    .seq = rec->seq }, *was;

	if (!s)
		return;
	sim_trace(&r->world.sim, "device %u.%u gets %" PRIu64 ": %" PRIu64,
		  d->account_i, d->number, rec->n, s->number);
	c->delivered++;
	check_number(c, d->account_i, rec->n, s);
	memcpy(now.mid, rec->mid, 16);
	/* A stub says that there was something. */
	now.body_hash = rec->flags & GONE ? s->body_hash
					  : xxh3(rec->body, rec->body_len);
	if (rec->flags & GONE && !all_have(r, d, rec->n))
		run_fail(r, "device %u.%u got number %" PRIu64 " without its "
			    "content, and nothing says that it may go",
			 d->account_i, d->number, rec->n);
	if (rec->n != d->last_n + 1) {
		c->reordered++;
		run_fail(r, "device %u.%u got number %" PRIu64 " after %" PRIu64,
			 d->account_i, d->number, rec->n, d->last_n);
	}
	d->last_n = rec->n;
	d->seen_lamport = max_u64(d->seen_lamport, rec->lamport);
	was = seen_at(d, rec->n);
	if (was->from && !was->hole && !same_seen(was, &now)) {
		run_fail(r, "device %u.%u was given two contents for number %"
			    PRIu64, d->account_i, d->number, rec->n);
	}
	*was = now;
	if (rec->from != s->from || rec->device != s->device ||
	    rec->seq != s->seq || rec->cls != s->cls ||
	    now.body_hash != s->body_hash ||
	    (s->to != d->account && s->from != d->account))
		run_fail(r, "device %u.%u: number %" PRIu64
			    " is not what was written", d->account_i, d->number,
			 rec->n);
	if (!s->durable)
		run_fail(r, "%" PRIu64 " went out before its device had it on "
			    "its storage", s->number);
}

void check_durable(struct device *d, const struct store_op *op)
{
	struct check *c = &d->run->check;
	struct sent *s;

	switch (op->kind) {
	case STORE_PUT:
		s = sent_of(c, op->put.mid, "an entry");
		if (s)
			s->durable = true;
		break;
	case STORE_SETTLE:
		d->seen_durable = max_u64(d->seen_durable, op->settle.lamport);
		break;
	case STORE_RECORD:
		d->seen_durable = max_u64(d->seen_durable, op->record.lamport);
		break;
	case STORE_META:
		break;
	}
}

void check_crashed(struct check *c, struct device *d)
{
	MAP_FOREACH(slot, &c->sends)
	{
		struct sent *s = slot->val;

		if (s->from == d->account && s->device == d->device &&
		    s->fate == FATE_OPEN && !s->durable)
			s->fate = FATE_FORGOTTEN;
	}
}

/* ---- linearizable reads ------------------------------------------------------------------ */

static void on_read(struct route_call *call, int status,
		    const struct result *res)
{
	struct run *r = call->arg;
	unsigned i = (unsigned)call->priv[1] % ACCOUNTS_MAX;
	unsigned k = (unsigned)call->priv[1] / ACCOUNTS_MAX;
	uint64_t least = call->priv[0];
	bool is_erased = r->erased && call->id == r->erased;

	if (!status) {
		struct device *d = r->devices[i][k];

		r->check.reads_done++;
		if (is_erased && (res->status == ST_NOT_FOUND ||
				  res->status == ST_DEVICE_REMOVED)) {
			route_put(call->route, call);
			return;
		}
		if (call->priv[4])
			run_fail(r, "a read saw an account that was erased");
		else if (res->status || res->inbox_end < least)
			run_fail(r, "a read of account %u by way of node %" PRIu64
				    ", begun after %" PRIu64 " were there, saw "
				    "an inbox of %" PRIu64 " (status %d)", i,
				 call->priv[2], least, res->inbox_end,
				 res->status);
		else if (res->cursor < call->priv[3])
			run_fail(r, "a read of device %u.%u by way of node %"
				    PRIu64 " saw a cursor of %" PRIu64
				    ", and one before it %" PRIu64, i, k + 1,
				 call->priv[2], res->cursor, call->priv[3]);
		r->check.read_end[i] = max_u64(r->check.read_end[i],
					       res->inbox_end);
		if (d)
			d->cursor_read = max_u64(d->cursor_read, res->cursor);
	} else {
		r->coverage.seen[COVER_READ_REFUSED]++;
	}
	route_put(call->route, call);
}

void check_read(struct run *r, unsigned node, unsigned account_i)
{
	struct world_node *wn = &r->world.nodes[node];
	struct route_call *call;
	struct device *d;
	unsigned k = 0;

	/* Leaders may change while accounts are still being made. */
	if (!wn->node || wn->stopping || account_i >= r->made)
		return;
	call = route_get(&wn->route);
	if (!call)
		return;
	r->check.reads++;
	/* One account has no device. */
	if (r->p.devices[account_i])
		k = (unsigned)rand_below(&r->rand, r->p.devices[account_i]);
	d = r->devices[account_i][k];
	call->id = r->ids[account_i];
	call->query = (struct query){
		.type = QUERY_ACCOUNT,
		.account = r->ids[account_i],
		.device = d ? d->device : 0,
	};
	call->cb = on_read;
	call->arg = r;
	call->priv[0] = max_u64(r->check.acked_to[account_i],
				r->check.read_end[account_i]);
	call->priv[1] = account_i + k * ACCOUNTS_MAX;
	call->priv[2] = node;
	call->priv[3] = d ? d->cursor_read : 0;
	call->priv[4] = r->erased_for_good && call->id == r->erased;
	route_query(&wn->route, call);
	world_poke(&r->world, node);
}
