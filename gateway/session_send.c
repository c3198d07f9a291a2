/* A send, from frame to ack (protocol.md 6):
 *
 *	send -> checks of form and limits -> part 0 to the recipient's shard
 *	     -> other devices? part 1, the own copy, to the sender's -> ack
 *
 * Both parts have the client's seq, so whatever is tried again, here or by the
 * client, meets the shard's dedupe and the pair converges.  Whether there are
 * other devices is known from the subscription's start and asked anew when that
 * is older than SESSION_INFO_MS, beside part 0, so nobody waits for it.
 *
 * Order per destination is the shard's: `after` names the send before, and one
 * that overtook it after a change of leader gets ST_GAP.  It then stands aside until
 * its predecessor has its outcome, and all that stand aside for one destination
 * come back together, in order.  (Tried again one by one, they would never catch
 * up: the next send of a busy device always comes too early.) */
#include "gateway/send_form.h"
#include "gateway/session_impl.h"

#include <string.h>

#define GAPS_MAX 3 /* tries when the predecessor is not open here */

/* In route_call.priv. */
struct send {
	struct list link;      /* session->sends */
	uint64_t id, start_us;
	uint64_t lamport, stamp, offset, time_ms; /* of part 0 */
	uint32_t shard;
	uint32_t bytes;        /* counted in session->send_bytes */
	uint32_t own_at, own_len; /* headers of the own copy in call->body */
	uint8_t part, gaps;
	bool dup, own, waits;  /* waits: for on_info() */
	bool aside;            /* for its predecessor */
};
_Static_assert(sizeof(struct send) <= sizeof(((struct route_call *)0)->priv),
	       "a send fits into its call");

static struct send *send_of(struct route_call *c)
{
	return (struct send *)(void *)c->priv;
}

static struct route_call *call_of(struct list *l)
{
	struct send *x = container_of(l, struct send, link);

	return (struct route_call *)(void *)((char *)x -
					     offsetof(struct route_call, priv));
}

/* ---- ends ---------------------------------------------------------------------------- */

static void forget(struct session *s, struct route_call *c)
{
	struct send *x = send_of(c);

	list_remove(&x->link);
	s->n_sends--;
	s->n_aside -= x->aside;
	s->send_bytes -= x->bytes;
}

void send_cancel_all(struct session *s)
{
	while (!list_empty(&s->sends)) {
		struct route_call *c = call_of(s->sends.next);

		forget(s, c);
		route_cancel(s->env->route, c);
	}
}

static void done(struct session *s, struct route_call *c)
{
	forget(s, c);
	route_put(s->env->route, c);
	session_answered(s);
}

static void ack(struct session *s, struct route_call *c, uint64_t n)
{
	const struct send *x = send_of(c);
	struct wire w;

	wire_start(&w, WIRE_ACK);
	wire_set(&w, W_ID, x->id);
	wire_set(&w, W_SEQ, c->cmd.send.seq);
	wire_set(&w, W_LAMPORT, x->lamport);
	wire_set(&w, W_STAMP, x->stamp);
	wire_set(&w, W_SHARD, x->shard);
	wire_set(&w, W_OFFSET, x->offset);
	wire_set(&w, W_TIME, x->time_ms);
	if (n)
		wire_set(&w, W_N, n);
	if (x->dup)
		wire_set(&w, W_DUP, 1);
	session_put(s, &w);
	metric_add(M_ACKS, 1);
	if (x->dup)
		metric_add(M_DUP_ACKS, 1);
	metric_observe_us(M_ACK_SECONDS,
			  clock_us(s->env->clock) - x->start_us);
	done(s, c);
}

/* The send in front of them has its outcome, good or bad. */
static void call_back(struct session *s, uint64_t to)
{
	if (!s->n_aside)
		return;
	LIST_FOREACH(l, &s->sends)
	{
		struct route_call *c = call_of(l);

		if (!send_of(c)->aside || c->cmd.send.to != to)
			continue;
		send_of(c)->aside = false;
		s->n_aside--;
		route_now(s->env->route, c);
	}
}

static void refuse(struct session *s, struct route_call *c, int status)
{
	uint64_t to = c->cmd.send.to;

	session_error_status(s, status, send_of(c)->id, c->cmd.send.seq);
	done(s, c);
	call_back(s, to);
}

/* No answer.  After part 0 was acked the message is there, and only its copy may
 * not be: that is unknown too, and a repetition mends it. */
static void no_answer(struct session *s, struct route_call *c, int err)
{
	const struct send *x = send_of(c);
	bool none = err == ERR_UNAVAILABLE && x->part == 0 && !x->waits;
	uint64_t to = c->cmd.send.to;

	if (err == ERR_FORMAT)
		session_error(s, P_INTERNAL, x->id, c->cmd.send.seq, NULL, NULL);
	else
		session_error(s, P_UNAVAILABLE, x->id, c->cmd.send.seq, NULL,
			      none ? "none" : "unknown");
	done(s, c);
	call_back(s, to);
}

/* ---- part 1 -------------------------------------------------------------------------- */

static void own_copy(struct session *s, struct route_call *c)
{
	struct send *x = send_of(c);
	struct cmd_send *m = &c->cmd.send;

	x->waits = false;
	if (s->n_devices < 2) {
		ack(s, c, 0);
		return;
	}
	x->part = m->part = 1;
	x->gaps = 0;
	c->id = m->to = s->account;
	m->origin_shard = x->shard;
	m->origin_offset = x->offset;
	m->origin_lamport = x->lamport;
	m->headers = x->own_len ? c->body.data + x->own_at : NULL;
	m->headers_len = x->own_len;
	AZ(route_propose(s->env->route, c)); /* its bytes are kept already */
}

/* At the time of a send's arrival. */
static bool info_is_old(const struct session *s, uint64_t at_us)
{
	return at_us / 1000 > s->info_ms + SESSION_INFO_MS;
}

static void on_info(struct route_call *c, int status, const struct result *res)
{
	struct session *s = c->arg;

	s->info_call = NULL;
	if (status == 0 && !session_check_device(s, res)) {
		route_put(c->route, c);
		return;
	}
	if (status == 0) {
		s->n_devices = res->n_devices;
		s->info_ms = session_now(s);
	}
	route_put(c->route, c);
	LIST_FOREACH_SAFE(l, &s->sends)
	{
		struct route_call *x = call_of(l);

		if (!send_of(x)->waits)
			continue;
		if (status)
			no_answer(s, x, status);
		else
			own_copy(s, x);
		if (s->state == SESSION_CLOSED)
			return;
	}
}

static void ask_info(struct session *s)
{
	struct route_call *c;

	if (s->info_call)
		return;
	c = route_get(s->env->route);
	if (!c)
		return;
	memset(&c->query, 0, sizeof c->query);
	c->id = s->account;
	c->cb = on_info;
	c->arg = s;
	c->query.type = QUERY_ACCOUNT;
	c->query.account = s->account;
	c->query.device = s->device;
	s->info_call = c;
	route_query(s->env->route, c);
}

/* ---- part 0 -------------------------------------------------------------------------- */

static bool predecessor_open(struct session *s, const struct cmd_send *m)
{
	LIST_FOREACH(l, &s->sends)
	{
		const struct cmd_send *o = &call_of(l)->cmd.send;

		if (o->seq == m->after && o->to == m->to && o->part == 0)
			return true;
	}
	return false;
}

static void on_part(struct route_call *c, int status, const struct result *res)
{
	struct session *s = c->arg;
	struct send *x = send_of(c);

	if (status) {
		no_answer(s, c, status);
		return;
	}
	if (res->status == ST_GAP && x->part == 0) {
		if (predecessor_open(s, &c->cmd.send)) {
			x->aside = true; /* its deadline is kept by the route */
			s->n_aside++;
			return;
		}
		if (x->gaps++ < GAPS_MAX && route_again(s->env->route, c))
			return;
	}
	if (res->status != ST_OK) {
		refuse(s, c, res->status);
		return;
	}
	if (x->part) {
		ack(s, c, res->n);
		return;
	}
	call_back(s, c->cmd.send.to);
	x->lamport = res->lamport;
	x->stamp = res->stamp;
	x->shard = res->shard;
	x->offset = res->offset;
	x->time_ms = res->time_ms;
	x->dup = res->dup;
	if (!x->own) {
		ack(s, c, c->cmd.send.to == s->account ? res->n : 0);
	} else if (info_is_old(s, x->start_us)) {
		x->waits = true;
		ask_info(s);
		if (!s->info_call) /* no room for a call: the client repeats */
			no_answer(s, c, ERR_UNKNOWN_OUTCOME);
	} else {
		own_copy(s, c);
	}
}

/* ---- the frame -------------------------------------------------------------------------- */

/* Body, headers, headers of the own copy; ERR_FULL, ERR_TOO_LARGE. */
static int keep_bytes(struct session *s, struct route_call *c,
		      const struct wire *w)
{
	struct route *r = s->env->route;
	struct cmd_send *m = &c->cmd.send;
	struct send *x = send_of(c);
	struct buf h = BUF_INIT;
	size_t n = 0, own = 0;
	int rv = 0;

	if (wire_has(w, W_BODY))
		m->body_len = w->b[W_BODY].n;
	if (m->body_len)
		rv = route_keep(r, c, w->b[W_BODY].p, m->body_len);
	if (!rv && (wire_has(w, W_KEYS) || wire_has(w, W_OWN))) {
		n = deliver_headers(&h, w, W_KEYS, W_LIST);
		own = deliver_headers(&h, w, W_OWN, W_OWNLIST);
		if (n > RECORD_HEADERS_MAX || own > RECORD_HEADERS_MAX)
			rv = ERR_TOO_LARGE;
		else
			rv = route_keep(r, c, h.data, h.len);
		buf_release(&h);
	}
	if (rv)
		return rv;
	m->body = c->body.data;
	if (n)
		m->headers = c->body.data + m->body_len;
	m->headers_len = (uint32_t)n;
	x->own_at = m->body_len + (uint32_t)n;
	x->own_len = (uint32_t)own;
	x->bytes = (uint32_t)c->body.len;
	return 0;
}

static int start(struct session *s, const struct wire *w)
{
	struct route_call *c = route_get(s->env->route);
	uint64_t cls = w->u[W_CLASS];
	struct cmd_send *m;
	struct send *x;
	int rv;

	if (!c)
		return ERR_FULL;
	m = &c->cmd.send;
	x = send_of(c);
	memset(x, 0, sizeof *x);
	c->cmd.type = CMD_SEND;
	rv = keep_bytes(s, c, w);
	if (rv) {
		route_put(s->env->route, c);
		return rv;
	}
	m->to = c->id = w->u[W_TO];
	m->from = s->account;
	m->device = s->device;
	m->cls = (uint8_t)cls;
	m->flags = (uint32_t)wire_u(w, W_FLAGS) & DELIVER_URGENT;
	m->ttl = (uint32_t)wire_u(w, W_TTL);
	m->seq = w->u[W_SEQ];
	m->after = w->u[W_AFTER];
	m->seen = w->u[W_SEEN];
	memcpy(m->mid, w->b[W_MID].p, 16);
	x->id = w->u[W_ID];
	x->start_us = s->env->now_us;
	x->own = (cls == 1 || cls == 3) && m->to != s->account;
	c->cb = on_part;
	c->arg = s;
	list_append(&s->sends, &x->link);
	s->n_sends++;
	s->send_bytes += x->bytes;
	AZ(route_propose(s->env->route, c));
	if (x->own && info_is_old(s, x->start_us))
		ask_info(s);
	return 0;
}

void send_on_frame(struct session *s, const struct wire *w)
{
	uint64_t id = w->u[W_ID], seq = w->u[W_SEQ];
	size_t n = wire_has(w, W_BODY) ? w->b[W_BODY].n : 0;
	const char *wrong;

	metric_add(M_SENDS, 1);
	if (s->state == SESSION_DRAINING) {
		session_error(s, P_DRAINING, id, seq, NULL, "none");
		return;
	}
	wrong = send_form(w, s->account);
	if (wrong) {
		session_error(s, P_BAD_REQUEST, id, seq, wrong, NULL);
		return;
	}
	if (s->n_sends >= SESSION_SENDS_MAX ||
	    s->send_bytes + n > SESSION_SEND_BYTES_MAX) {
		session_error(s, P_TOO_MANY_OPEN, id, seq, NULL, "none");
		return;
	}
	switch (start(s, w)) {
	case 0:
		break;
	case ERR_TOO_LARGE:
		session_error(s, P_TOO_LARGE, id, seq, "keys", NULL);
		break;
	default:
		session_error(s, P_BUSY, id, seq, NULL, "none");
	}
}
