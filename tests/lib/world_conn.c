/* Connections between clients and gateways: two ordered pipes of whole messages
 * with delays.  Neither side knows more than it could on a TCP connection. */
#include "base/alloc.h"
#include "base/assert.h"
#include "tests/lib/world.h"

#include <stdlib.h>
#include <string.h>

struct world_conn {
	struct list link;      /* world->conns */
	struct list node_link; /* world_node->conns, while the session lives */
	struct world *w;
	unsigned node, life;
	const struct world_client *ops;
	void *arg;
	bool client, gateway;  /* sides that are still there */
	bool broken;
	bool closing;          /* the session closed; released at the sweep */
	bool paused;
	unsigned refs;         /* client, gateway, parcels under way */
	uint64_t to_gateway_us, to_client_us; /* arrival of the newest */
	size_t queued;         /* bytes on their way to the client */
	struct buf out;
	struct session session;
};

enum parcel_kind {
	DIAL, TO_GATEWAY, LEFT, DRAINED,     /* at the gateway */
	OPENED, TO_CLIENT, CLOSED,           /* at the client */
};

struct parcel {
	struct world_conn *c;
	enum parcel_kind kind;
	unsigned code;
	bool goes_through; /* although the connection broke */
	size_t len;
	uint8_t data[];
};

static void conn_unref(struct world_conn *c)
{
	if (--c->refs)
		return;
	AN(!c->client && !c->gateway);
	list_remove(&c->link);
	buf_release(&c->out);
	free(c);
}

static void parcel_arrives(void *arg);

static uint64_t conn_delay(struct world *w)
{
	return w->cfg.conn_min_us +
	       rand_below(&w->sim.rand,
			  w->cfg.conn_max_us - w->cfg.conn_min_us + 1);
}

static struct parcel *parcel_new(struct world_conn *c, enum parcel_kind kind,
				 const void *p, size_t n)
{
	struct parcel *x = xcalloc(1, sizeof *x + n);

	x->c = c;
	x->kind = kind;
	x->len = n;
	if (n)
		memcpy(x->data, p, n);
	c->refs++;
	return x;
}

/* In order behind what went before in this direction. */
static void parcel_send(struct parcel *x)
{
	struct world_conn *c = x->c;
	struct world *w = c->w;
	bool to_gateway = x->kind <= DRAINED;
	uint64_t *last = to_gateway ? &c->to_gateway_us : &c->to_client_us;
	uint64_t at = w->sim.now_us + conn_delay(w);

	if (at < *last)
		at = *last;
	*last = at;
	sim_after(&w->sim, to_gateway ? (int)c->node : -1, at - w->sim.now_us,
		  parcel_arrives, x);
}

/* Word from the operating system, whatever the network does. */
static void parcel_tell(struct parcel *x, uint64_t delay_us)
{
	x->goes_through = true;
	sim_after(&x->c->w->sim,
		  x->kind <= DRAINED ? (int)x->c->node : -1, delay_us,
		  parcel_arrives, x);
}

static void tell_closed(struct world_conn *c, uint64_t delay_us)
{
	struct parcel *x = parcel_new(c, CLOSED, NULL, 0);

	x->code = 1006;
	parcel_tell(x, delay_us);
}

void world_lag(struct world *w, struct world_conn *c, uint64_t us)
{
	if (c->to_client_us < w->sim.now_us + us)
		c->to_client_us = w->sim.now_us + us;
}

/* ---- the gateway's side ------------------------------------------------------------ */

static struct buf *io_begin(void *arg)
{
	struct world_conn *c = arg;

	buf_clear(&c->out);
	return &c->out;
}

static void io_end(void *arg)
{
	struct world_conn *c = arg;

	c->queued += c->out.len;
	parcel_send(parcel_new(c, TO_CLIENT, c->out.data, c->out.len));
}

static void io_close(void *arg, unsigned code, const char *reason)
{
	struct world_conn *c = arg;
	struct parcel *x = parcel_new(c, CLOSED, NULL, 0);

	AN(!c->closing);
	c->closing = true;
	sim_trace(&c->w->sim, "node %u closes a connection: %u %s", c->node,
		  code, reason ? reason : "");
	x->code = code;
	parcel_send(x);
}

static void io_arm(void *arg, uint64_t deadline_ms)
{
	(void)arg; /* all deadlines are looked at after each turn */
	(void)deadline_ms;
}

static const struct session_io conn_io = { io_begin, io_end, io_close, io_arm };

static void gateway_leaves(struct world_conn *c)
{
	if (!c->gateway)
		return;
	session_release(&c->session);
	c->gateway = false;
	list_remove(&c->node_link);
	conn_unref(c);
}

static void gateway_opens(struct world_conn *c)
{
	struct world_node *wn = &c->w->nodes[c->node];
	struct sim *s = &c->w->sim;

	if (!wn->node || !wn->env.node || wn->stopping) {
		/* nobody listens there, or no machine that could say so */
		tell_closed(c, rand_below(&s->rand, 2)
				       ? 1000
				       : rand_below(&s->rand, 5000000));
		return;
	}
	if (rand_permille(&s->rand, c->w->cfg.conn_refused_permille)) {
		c->w->refused++;
		tell_closed(c, 1000);
		return;
	}
	c->life = wn->life;
	c->gateway = true;
	c->refs++;
	list_append(&wn->conns, &c->node_link);
	session_init(&c->session, &wn->env, WIRE_CBOR, &conn_io, c);
	parcel_send(parcel_new(c, OPENED, NULL, 0));
}

bool conns_sweep(struct world_node *wn)
{
	bool did = false;

	LIST_FOREACH_SAFE(it, &wn->conns)
	{
		struct world_conn *c =
			container_of(it, struct world_conn, node_link);

		if (c->closing) {
			gateway_leaves(c);
			did = true;
		} else if (!c->paused && c->queued > WORLD_CONN_QUEUE) {
			c->paused = true;
			session_pause(&c->session, true);
			did = true;
		}
	}
	return did;
}

void conns_tick(struct world_node *wn)
{
	uint64_t now_ms = clock_ms(&wn->clock);

	LIST_FOREACH_SAFE(it, &wn->conns)
	{
		struct world_conn *c =
			container_of(it, struct world_conn, node_link);

		if (!c->closing && session_deadline_ms(&c->session) <= now_ms)
			session_tick(&c->session);
	}
}

void conns_drain(struct world_node *wn)
{
	LIST_FOREACH_SAFE(it, &wn->conns)
	{
		struct world_conn *c =
			container_of(it, struct world_conn, node_link);

		if (!c->closing)
			session_drain(&c->session, 500);
	}
}

uint64_t conns_deadline_us(const struct world_node *wn)
{
	uint64_t ms = UINT64_MAX;

	LIST_FOREACH(it, &wn->conns)
	{
		struct world_conn *c =
			container_of(it, struct world_conn, node_link);
		uint64_t at = session_deadline_ms(&c->session);

		if (!c->closing && at < ms)
			ms = at;
	}
	return ms > UINT64_MAX / 1000 ? UINT64_MAX : ms * 1000;
}

void conns_node_down(struct world_node *wn, bool reset)
{
	struct sim *s = &wn->world->sim;

	LIST_FOREACH_SAFE(it, &wn->conns)
	{
		struct world_conn *c =
			container_of(it, struct world_conn, node_link);

		c->broken = true;
		if (c->client)
			tell_closed(c, reset ? rand_below(&s->rand, 50000)
					     : 2000000 + rand_below(&s->rand,
								    8000000));
		gateway_leaves(c);
	}
}

unsigned world_conns(const struct world *w, unsigned node)
{
	unsigned n = 0;

	LIST_FOREACH(it, &w->nodes[node].conns)
		n++;
	return n;
}

/* ---- the client's side ---------------------------------------------------------------- */

struct world_conn *world_dial(struct world *w, unsigned node,
			      const struct world_client *ops, void *arg)
{
	struct world_conn *c = xcalloc(1, sizeof *c);

	c->w = w;
	c->node = node;
	c->ops = ops;
	c->arg = arg;
	c->client = true;
	c->refs = 1;
	list_append(&w->conns, &c->link);
	list_init(&c->node_link);
	parcel_send(parcel_new(c, DIAL, NULL, 0));
	return c;
}

void world_send(struct world_conn *c, const void *p, size_t n)
{
	AN(c->client);
	parcel_send(parcel_new(c, TO_GATEWAY, p, n));
}

static void client_leaves(struct world_conn *c)
{
	c->client = false;
	conn_unref(c);
}

void world_hang_up(struct world_conn *c, bool silent)
{
	AN(c->client);
	if (silent)
		c->broken = true;
	else
		parcel_send(parcel_new(c, LEFT, NULL, 0));
	client_leaves(c);
}

void world_break(struct world *w, struct world_conn *c)
{
	struct sim *s = &w->sim;

	if (c->broken)
		return;
	c->broken = true;
	w->breaks++;
	if (c->client)
		tell_closed(c, rand_below(&s->rand, 3000000));
	parcel_tell(parcel_new(c, LEFT, NULL, 0), rand_below(&s->rand, 3000000));
}

/* ---- arrivals --------------------------------------------------------------------------- */

static void at_gateway(struct world_conn *c, struct parcel *x)
{
	if (x->kind == DIAL) {
		gateway_opens(c);
		return;
	}
	if (!c->gateway || c->closing)
		return;
	AN(c->life == c->w->nodes[c->node].life);
	switch (x->kind) {
	case TO_GATEWAY:
		session_message(&c->session, x->data, x->len);
		break;
	case LEFT:
		gateway_leaves(c);
		break;
	case DRAINED:
		c->paused = false;
		session_pause(&c->session, false);
		break;
	default:
		WRONG("a parcel of the other side");
	}
}

static void at_client(struct world_conn *c, struct parcel *x)
{
	switch (x->kind) {
	case OPENED:
		c->ops->opened(c->arg, c);
		break;
	case TO_CLIENT:
		c->ops->message(c->arg, c, x->data, x->len);
		break;
	case CLOSED:
		c->ops->closed(c->arg, c, x->code);
		if (c->client)
			client_leaves(c);
		break;
	default:
		WRONG("a parcel of the other side");
	}
}

static void parcel_arrives(void *arg)
{
	struct parcel *x = arg;
	struct world_conn *c = x->c;

	if (x->kind == TO_CLIENT) {
		c->queued -= x->len;
		if (c->paused && c->queued < WORLD_CONN_LOW && c->gateway)
			parcel_tell(parcel_new(c, DRAINED, NULL, 0), 0);
	}
	if (!c->broken || x->goes_through) {
		if (x->kind <= DRAINED)
			at_gateway(c, x);
		else if (c->client)
			at_client(c, x);
	}
	free(x);
	conn_unref(c);
}

void conns_release(struct world *w)
{
	LIST_FOREACH_SAFE(it, &w->conns)
	{
		struct world_conn *c = container_of(it, struct world_conn, link);

		c->broken = true;
		if (c->client)
			client_leaves(c);
	}
}
