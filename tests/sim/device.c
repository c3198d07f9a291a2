#include "base/alloc.h"
#include "base/assert.h"
#include "tests/sim/run.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define LATER_US 20 /* a deadline that is over is looked at again after this */

struct wake {
	struct device *d;
	unsigned life;
	uint64_t at_us;
};

static struct sim *sim_of(struct device *d)
{
	return &d->run->world.sim;
}

/* ---- what the engine tells --------------------------------------------------------- */

static void on_resume(void *arg);

static void on_stopped(struct device *d, const char *reason)
{
	struct wake *w;

	if (!reason || !strcmp(reason, "closed"))
		return;
	if (strcmp(reason, "elsewhere")) {
		run_fail(d->run, "device %" PRIx64 "/%u stopped: %s",
			 d->account, d->device, reason);
		return;
	}
	/* It has no other connection than dead ones of its own, and only clocks
	 * that disagree by an hour may make one of these look newer. */
	if (!d->run->p.weight[FAULT_CLOCK])
		run_fail(d->run, "device %u.%u lost its connection to an older "
				 "one", d->account_i, d->number);
	d->elsewhere++;
	d->run->elsewhere++;
	w = xmalloc(sizeof *w);
	*w = (struct wake){ d, d->life, 0 };
	sim_after(sim_of(d), -1, 1000000, on_resume, w);
}

static void on_event(void *arg, const struct client_event *ev)
{
	struct device *d = arg;
	struct run *r = d->run;

	switch (ev->type) {
	case CLIENT_EV_STATE:
		sim_trace(&r->world.sim, "device %u.%u %s %s", d->account_i,
			  d->number, client_state_name(ev->state),
			  ev->reason ? ev->reason : "");
		if (ev->state == CLIENT_STOPPED)
			on_stopped(d, ev->reason);
		break;
	case CLIENT_EV_RECORD:
		check_record(&r->check, d, ev->record);
		break;
	case CLIENT_EV_SETTLED:
		check_settled(&r->check, d, ev->settled);
		break;
	case CLIENT_EV_HOLE:
		check_hole(&r->check, d, ev->from, ev->to);
		break;
	case CLIENT_EV_PAGE:
		check_page(&r->check, d, ev);
		break;
	}
}

static void on_durable(void *arg, const struct store_op *op)
{
	check_durable(arg, op);
}

/* ---- its connection ------------------------------------------------------------------ */

static void conn_opened(void *arg, struct world_conn *c)
{
	struct device *d = arg;

	AN(d->conn == c);
	d->open = true;
	client_on_connect(d->client);
	device_pump(d);
}

static void conn_message(void *arg, struct world_conn *c, const uint8_t *p,
			 size_t n)
{
	struct device *d = arg;

	AN(d->conn == c);
	client_on_message(d->client, p, n);
	device_pump(d);
}

static void conn_closed(void *arg, struct world_conn *c, unsigned code)
{
	struct device *d = arg;

	AN(d->conn == c);
	d->conn = NULL;
	d->open = false;
	client_on_closed(d->client, code);
	device_pump(d);
}

static const struct world_client conn_ops = { conn_opened, conn_message,
					      conn_closed };

/* ---- time -------------------------------------------------------------------------------- */

static void on_wake(void *arg);

static void device_arm(struct device *d)
{
	uint64_t now = sim_of(d)->now_us, at = client_deadline_us(d->client);
	struct wake *w;

	if (!d->run->quiet && d->next_write_us < at)
		at = d->next_write_us;
	if (at == UINT64_MAX)
		return;
	if (at < now + LATER_US)
		at = now + LATER_US;
	if (d->armed_us <= at)
		return;
	d->armed_us = at;
	w = xmalloc(sizeof *w);
	*w = (struct wake){ d, d->life, at };
	sim_after(sim_of(d), -1, at - now, on_wake, w);
}

static void on_wake(void *arg)
{
	struct wake w = *(struct wake *)arg;
	struct device *d = w.d;

	free(arg);
	if (!d->client || d->life != w.life)
		return;
	if (d->armed_us == w.at_us)
		d->armed_us = UINT64_MAX;
	if (client_deadline_us(d->client) <= sim_of(d)->now_us)
		client_tick(d->client);
	if (!d->run->quiet && d->next_write_us <= sim_of(d)->now_us)
		people_write(d);
	device_pump(d);
}

static void on_resume(void *arg)
{
	struct wake w = *(struct wake *)arg;

	free(arg);
	if (!w.d->client || w.d->life != w.life)
		return;
	client_resume(w.d->client);
	device_pump(w.d);
}

void device_pump(struct device *d)
{
	struct world *w = &d->run->world;
	struct buf out = BUF_INIT;

	while (d->client) {
		if (client_wants_close(d->client)) {
			if (d->conn)
				world_hang_up(d->conn, false);
			d->conn = NULL;
			d->open = false;
			client_on_closed(d->client, 0);
			continue;
		}
		if (client_wants_dial(d->client)) {
			AN(!d->conn);
			d->conn = world_dial(
				w,
				1 + (unsigned)rand_below(&d->rand, w->cfg.nodes),
				&conn_ops, d);
			continue;
		}
		buf_clear(&out);
		if (d->open && client_next_message(d->client, &out)) {
			world_send(d->conn, out.data, out.len);
			continue;
		}
		if (!client_wants_close(d->client))
			break;
	}
	buf_release(&out);
	if (d->client)
		device_arm(d);
}

/* ---- life ------------------------------------------------------------------------------------ */

struct device *device_new(struct run *r, unsigned account_i, unsigned number)
{
	struct device *d = xcalloc(1, sizeof *d);

	d->run = r;
	d->account_i = account_i;
	d->number = number;
	d->account = r->ids[account_i];
	rand_seeded(&d->rand, r->p.world.seed * 1000003 + account_i * 17 + number);
	store_mem_init(&d->store);
	d->store.durable = on_durable;
	d->store.arg = d;
	return d;
}

void device_start(struct device *d)
{
	struct client_config cfg = {
		.account = d->account,
		.device = d->device,
		.agent = "quipu-sim",
		.window = d->run->p.window,
		.message_mode = true,
		.clock = &sim_of(d)->clock,
		.rand = &d->rand,
		.store = &d->store.store,
		.event = on_event,
		.arg = d,
	};
	struct err e = { 0 };
	char token[64];

	AN(!d->client);
	world_token(token, d->account, d->device, d->epoch);
	cfg.token = token;
	d->life++;
	d->armed_us = UINT64_MAX;
	d->seen_lamport = d->seen_durable;
	d->last_n = d->store.state.meta.cursor;
	if (client_open(&d->client, &cfg, &e)) {
		run_fail(d->run, "device %u.%u does not open: %s", d->account_i,
			 d->number, e.msg);
		return;
	}
	d->next_write_us = sim_of(d)->now_us +
			   rand_below(&d->run->rand, d->run->p.write_mean_us * 2);
	device_pump(d);
}

static void on_restart(void *arg)
{
	struct device *d = arg;

	if (!d->client && !d->run->over)
		device_start(d);
}

void device_crash(struct device *d)
{
	size_t survive;

	if (!d->client)
		return;
	sim_trace(sim_of(d), "device %u.%u crashes", d->account_i, d->number);
	if (d->conn)
		world_hang_up(d->conn, rand_below(&d->run->rand, 2));
	d->conn = NULL;
	d->open = false;
	client_free(d->client);
	d->client = NULL;
	d->life++;
	d->crashes++;
	survive = rand_below(&d->run->rand, d->store.n_pending + 1);
	store_mem_crash(&d->store, survive);
	check_crashed(&d->run->check, d);
	sim_after(sim_of(d), -1, rand_below(&d->run->rand, 2000000), on_restart,
		  d);
}

void device_free(struct device *d)
{
	if (d->client)
		client_free(d->client);
	store_mem_release(&d->store);
	free(d->inbox);
	free(d);
}

bool device_settled(const struct device *d)
{
	return d->client && client_state(d->client) == CLIENT_LIVE &&
	       !client_outbox_len(d->client);
}
