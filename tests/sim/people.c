#include "base/alloc.h"
#include "base/assert.h"
#include "tests/sim/run.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define SET_UP_US 30000000

/* ---- accounts and devices -------------------------------------------------------- */

struct set_up {
	bool done;
	int status;
	struct result res;
};

static void on_set_up(struct route_call *c, int status, const struct result *res)
{
	struct set_up *s = c->arg;

	s->done = true;
	s->status = status;
	if (!status)
		s->res = *res;
	route_put(c->route, c);
}

/* One command by way of node 1, without faults, to its answer. */
static bool command(struct run *r, const struct cmd *cmd, uint64_t account,
		    struct result *res)
{
	struct world *w = &r->world;
	uint64_t end = w->sim.now_us + SET_UP_US;

	while (w->sim.now_us < end && !w->failure[0]) {
		struct set_up s = { 0 };
		struct route_call *c = route_get(&w->nodes[1].route);

		c->cmd = *cmd;
		c->id = account;
		c->cb = on_set_up;
		c->arg = &s;
		AZ(route_propose(&w->nodes[1].route, c));
		world_poke(w, 1);
		while (!s.done && world_step(w))
			;
		if (!s.status) {
			*res = s.res;
			return true;
		}
	}
	return false;
}

bool people_set_up(struct run *r)
{
	unsigned i, k;

	for (i = 0; i < r->p.accounts; i++) {
		struct cmd cmd = { .type = CMD_ACCOUNT_ADD };
		struct result res;

		do
			r->ids[i] = rand_u64(&r->rand) >> 1;
		while (account_index(r, r->ids[i]) != (int)i);
		cmd.account = r->ids[i];
		if (!command(r, &cmd, r->ids[i], &res) ||
		    (res.status && res.status != ST_EXISTS))
			return false;
		r->made = i + 1;
		for (k = 0; k < r->p.devices[i]; k++) {
			struct device *d = device_new(r, i, k + 1);

			r->devices[i][k] = d;
			r->n_devices++;
			cmd.type = CMD_DEVICE_ADD;
			if (!command(r, &cmd, r->ids[i], &res) || res.status)
				return false;
			d->device = res.device;
			d->epoch = res.epoch;
			r->listed[i] = res.device; /* they count from 1 */
		}
	}
	/* Not at a level of older programs. */
	for (i = 0; i < r->p.accounts && r->p.world.node.retain.enabled &&
		    !r->p.old_nodes; i++) {
		struct cmd cmd = { .type = CMD_RETAIN };
		struct result res;

		cmd.retain.op = RETAIN_POLICY;
		cmd.retain.ttl_ms = r->p.ttl_ms;
		if (!command(r, &cmd, r->ids[i], &res) || res.status)
			return false;
	}
	return true;
}

int account_index(const struct run *r, uint64_t id)
{
	unsigned i;

	for (i = 0; i < r->p.accounts; i++)
		if (r->ids[i] == id)
			return (int)i;
	return -1;
}

struct device *device_of(struct run *r, uint64_t account, uint32_t device)
{
	int i = account_index(r, account);
	unsigned k;

	for (k = 0; i >= 0 && k < r->p.devices[i]; k++)
		if (r->devices[i][k]->device == device)
			return r->devices[i][k];
	return NULL;
}

/* ---- erasure ------------------------------------------------------------------------ */

/* Only where a majority's disks have no room for any entry may it be refused, and
 * then the operator comes back. */
static void on_erased(struct route_call *c, int status, const struct result *res)
{
	struct run *r = c->arg;
	bool full = r->readonly_us &&
		    r->world.sim.now_us - r->readonly_us <= ROUTE_DEADLINE_MS * 1000ull;

	if (!status && (!res->status || res->status == ST_EXISTS))
		r->erased_for_good = true;
	else if (!status && !(res->status == ST_DISK_FULL && full))
		run_fail(r, "the account is not erased: status %d", res->status);
	route_put(c->route, c);
}

static void on_erase_time(void *arg)
{
	people_erase(arg);
}

/* By whatever node is up, again and again, as an operator would. */
void people_erase(struct run *r)
{
	unsigned node = 1 + (unsigned)rand_below(&r->rand, r->world.cfg.nodes);
	struct world_node *wn = &r->world.nodes[node];
	struct route_call *c;

	if (r->erased_for_good || r->over)
		return;
	sim_after(&r->world.sim, -1, 3000000, on_erase_time, r);
	if (!wn->node || wn->stopping)
		return;
	c = route_get(&wn->route);
	if (!c)
		return;
	r->erased = r->ids[r->p.accounts - 1];
	memset(&c->cmd, 0, sizeof c->cmd);
	c->cmd.type = CMD_RETAIN;
	c->cmd.account = r->erased;
	c->cmd.retain.op = RETAIN_ERASE;
	c->id = r->erased;
	c->cb = on_erased;
	c->arg = r;
	AZ(route_propose(&wn->route, c));
	world_poke(&r->world, node);
}

void people_start(struct run *r)
{
	unsigned i, k;

	for (i = 0; i < r->p.accounts; i++)
		for (k = 0; k < r->p.devices[i]; k++)
			device_start(r->devices[i][k]);
	if (r->p.erase_us)
		sim_after(&r->world.sim, -1, r->p.erase_us, on_erase_time, r);
}

void people_release(struct run *r)
{
	unsigned i, k;

	for (i = 0; i < r->p.accounts; i++)
		for (k = 0; k < r->p.devices[i]; k++)
			if (r->devices[i][k])
				device_free(r->devices[i][k]);
}

/* ---- writing ------------------------------------------------------------------------ */

static uint32_t body_size(struct run *r)
{
	if (rand_permille(&r->rand, r->p.big_permille))
		return 16 + (uint32_t)rand_below(&r->rand, CLIENT_BODY_MAX - 16);
	return 16 + (uint32_t)rand_below(&r->rand, 200);
}

static uint8_t class_of(struct run *r)
{
	uint64_t x = rand_below(&r->rand, 20);

	return x < 16 ? 1 : x < 18 ? 2 : 3;
}

/* Scrolls in what came before; reading moves nothing. */
static void read_page(struct device *d)
{
	struct run *r = d->run;
	uint64_t at = rand_below(&r->rand, d->last_n + 2);
	bool back = at && rand_below(&r->rand, 2);
	struct err e = { 0 };
	int rv = client_fetch(d->client, back ? 0 : at, back ? at : 0,
			      1 + (uint32_t)rand_below(&r->rand, 100), &e);

	if (rv && rv != ERR_UNAVAILABLE && rv != ERR_FULL)
		run_fail(r, "device %u.%u may not read a page: %s",
			 d->account_i, d->number, e.msg);
}

void people_write(struct device *d)
{
	struct run *r = d->run;
	unsigned burst = rand_below(&r->rand, 8) ? 1 : 6;
	uint64_t mean = r->p.write_mean_us;

	if (!rand_below(&r->rand, 4))
		read_page(d);
	while (burst--) {
		struct client_draft dr = { 0 };
		struct buf body = BUF_INIT;
		struct err e = { 0 };
		struct sent *s;
		uint64_t to = r->ids[rand_below(&r->rand, r->p.accounts)], seq;
		int rv;

		if (to == d->account)
			to = r->ids[(d->account_i + 1) % r->p.accounts];
		if (rand_permille(&r->rand, r->p.lost_permille))
			to = 1 + rand_below(&r->rand, 1000); /* nobody */
		s = check_compose(&r->check, d, to, class_of(r), body_size(r),
				  &body);
		dr.to = to;
		dr.cls = s->cls;
		dr.mid = s->mid;
		dr.body = body.data;
		dr.body_len = body.len;
		rv = client_send(d->client, &dr, &seq, &e);
		buf_release(&body);
		if (rv) {
			run_fail(r, "device %u.%u may not send: %s",
				 d->account_i, d->number, e.msg);
			return;
		}
		check_composed(&r->check, s, seq);
	}
	d->next_write_us = r->world.sim.now_us + mean / 2 +
			   rand_below(&r->rand, mean);
}
