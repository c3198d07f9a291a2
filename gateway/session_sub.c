/* The inbox side of a session.
 *
 *	hello -> node_subscribe() -> start(): welcome, or why not
 *	record(): deliver, in order of n, while sent - acked < window
 *	recv: acked moves; the sub is told when it may go on, the shard once a
 *	      second or per 1,000 records
 *	end(): the leader moved: from the next number at the new one; or the end
 *
 * A new subscription counts all before its first number as received, so after a
 * resubscribe the window that it is given is what the client has left. */
#include "gateway/session_impl.h"
#include "base/logf.h"

#include <inttypes.h>
#include <string.h>

#define RESUB_MIN_MS 10
#define RESUB_MAX_MS 200

/* ---- subscribing ------------------------------------------------------------------ */

/* What may still be sent, seen from `from`: the client's window less what is on
 * its way to it. */
static uint32_t room_from(const struct session *s, uint64_t received)
{
	uint64_t limit = s->acked + s->window;

	return limit > received ? (uint32_t)(limit - received) : 0;
}

static void on_start(struct node_sub *sub, const struct result *r);
static void on_record(struct node_sub *sub, const struct record *r);
static void on_flush(struct node_sub *sub);
static void on_end(struct node_sub *sub, int why);

static void subscribe(struct session *s, uint64_t from, uint32_t window)
{
	s->sub.account = s->account;
	s->sub.device = s->device;
	s->sub.from = from;
	s->sub.window = window;
	s->sub.again = s->subscribed_once;
	s->subscribed_once = true;
	s->sub.start = on_start;
	s->sub.record = on_record;
	s->sub.flush = on_flush;
	s->sub.end = on_end;
	s->sub.arg = s;
	s->subscribed = true;
	s->started = false;
	s->resub_ms = 0;
	node_subscribe(s->env->node, node_shard_of(s->env->node, s->account),
		       &s->sub);
}

static bool same_epoch(const struct session *s)
{
	return s->has_cursor && s->has_epoch &&
	       s->hello_epoch == s->env->history_epoch;
}

void sub_begin(struct session *s)
{
	subscribe(s, same_epoch(s) ? s->hello_cursor + 1 : 0, s->window);
}

void sub_again(struct session *s)
{
	if (s->state == SESSION_OPEN) {
		sub_begin(s);
		return;
	}
	s->base = s->next_n - 1;
	s->credited = s->acked;
	subscribe(s, s->next_n, s->barren ? 0 : room_from(s, s->base));
}

void sub_stop(struct session *s)
{
	if (s->subscribed)
		node_unsubscribe(s->env->node, &s->sub);
	s->subscribed = s->started = false;
}

static void credit(struct session *s)
{
	uint64_t received = s->acked > s->base ? s->acked : s->base;

	s->credited = s->acked;
	node_sub_credit(s->env->node, &s->sub, received, room_from(s, received));
}

/* ---- stalls ------------------------------------------------------------------------- */

/* Something may wait for this client, and it or its socket does not take it.
 * `progress`: it just took something. */
void sub_stall(struct session *s, bool progress)
{
	bool blocked = s->paused || (s->subscribed && s->started &&
				     s->next_n > s->acked + s->window);

	if (!blocked || s->state == SESSION_CLOSED) {
		s->stall_ms = 0;
	} else if (!s->stall_ms || progress) {
		s->stall_ms = session_now(s) + SESSION_STALL_MS;
		session_sooner(s, s->stall_ms);
	}
}

/* ---- welcome -------------------------------------------------------------------------- */

static void look_caught_up(struct session *s)
{
	struct wire w;

	if (s->state != SESSION_CATCHING_UP || s->barren ||
	    s->next_n <= s->welcome_n)
		return;
	s->state = SESSION_LIVE;
	wire_start(&w, WIRE_CAUGHT_UP);
	wire_set(&w, W_N, s->welcome_n);
	session_put(s, &w);
}

/* Where the device goes on (protocol.md 11); NULL: resumed, else the reason. */
static const char *place(struct session *s, const struct result *r)
{
	if (same_epoch(s)) {
		s->acked = s->heard = s->hello_cursor;
		s->next_n = s->hello_cursor + 1;
		if (s->hello_cursor < r->cursor)
			return "rollback";
		if (s->hello_cursor > r->inbox_end)
			return "ahead";
		return NULL;
	}
	s->acked = s->heard = r->cursor;
	s->next_n = r->cursor + 1;
	return s->has_cursor ? "epoch" : "new";
}

/* What is gone needs no acknowledgement, or the window would be full of it.  The
 * shard's cursor stays where the device is: one that has not heard of the hole when
 * its connection breaks comes back with its own, and that is no rollback. */
static void skip_to(struct session *s, uint64_t oldest)
{
	s->next_n = oldest;
	if (s->acked < oldest - 1)
		s->acked = oldest - 1;
}

static void put_limits(struct wire *w, struct buf *scratch)
{
	static const struct wire_limit limits[] = {
		{ "message", SESSION_MESSAGE_MAX }, { "body", BODY_MAX },
		{ "sends", SESSION_SENDS_MAX },
		{ "send_bytes", SESSION_SEND_BYTES_MAX },
		{ "pages", SESSION_PAGES_MAX },
	};

	buf_clear(scratch);
	wire_make_limits(scratch, limits, sizeof limits / sizeof limits[0]);
	wire_put(w, W_LIMITS, scratch->data, scratch->len);
}

static void welcome(struct session *s, const struct result *r)
{
	const char *reason = place(s, r);
	uint8_t name[16];
	struct wire w;

	s->base = s->next_n - 1;
	s->credited = s->acked;
	s->proposed = r->cursor;
	s->welcome_n = s->end = r->inbox_end;
	s->barren = reason && (reason[0] == 'r' || reason[0] == 'a');
	rand_fill(s->env->rand, name, sizeof name);
	wire_start(&w, WIRE_WELCOME);
	wire_set(&w, W_ID, s->hello_id);
	wire_put(&w, W_SESSION, name, sizeof name);
	wire_set(&w, W_EPOCH, s->env->history_epoch);
	wire_set(&w, W_N, r->inbox_end);
	wire_set(&w, W_RESUMED, !reason);
	wire_set(&w, W_HEARTBEAT, s->env->heartbeat_s);
	wire_set(&w, W_WINDOW, s->window);
	wire_set(&w, W_TIME, clock_wall_ms(s->env->clock));
	put_limits(&w, &s->env->scratch);
	if (!s->barren && s->next_n < r->inbox_oldest) {
		wire_set(&w, W_TRUNCATED, r->inbox_oldest);
		skip_to(s, r->inbox_oldest);
	}
	if (reason) {
		wire_puts(&w, W_REASON, reason);
		wire_set(&w, W_CURSOR, r->cursor);
	}
	s->state = SESSION_CATCHING_UP;
	metric_set(M_SESSIONS, ++s->env->live);
	session_put(s, &w);
	session_sooner(s, s->heard_ms + s->env->heartbeat_s * 2500ull);
	if (s->barren) {
		/* Never clamped: the client registers as a new device, and an
		 * operator looks where the records went. */
		log_event(LOG_ERROR, "cursor_refused",
			  "account=%016" PRIx64 " device=%u why=%s cursor=%"
			  PRIu64 " kept=%" PRIu64 " end=%" PRIu64,
			  s->account, s->device, reason, s->hello_cursor,
			  r->cursor, r->inbox_end);
		/* It still follows: how else would it end when the device is
		 * removed or connects elsewhere? */
		node_sub_credit(s->env->node, &s->sub, 0, 0);
		return;
	}
	if (s->heard > s->proposed) {
		s->cursor_ms = session_now(s) + SESSION_CURSOR_MS;
		session_sooner(s, s->cursor_ms);
	}
	look_caught_up(s);
}

static void on_start(struct node_sub *sub, const struct result *r)
{
	struct session *s = sub->arg;

	s->sub_tries = 0;
	s->started = true;
	if (!session_check_device(s, r))
		return;
	s->n_devices = r->n_devices;
	s->info_ms = session_now(s);
	if (s->state == SESSION_OPEN) {
		welcome(s, r);
	} else if (!s->barren) {
		if (r->inbox_end > s->end)
			s->end = r->inbox_end;
		/* It lagged until its time was over.  A welcome tells it. */
		if (s->next_n < r->inbox_oldest) {
			session_close(s, CLOSE_GOING_AWAY, "history starts later");
			return;
		}
		credit(s); /* recvs since it was asked for */
		look_caught_up(s);
	}
	if (s->paused && s->subscribed)
		node_sub_pause(s->env->node, &s->sub, true);
	sub_stall(s, false);
}

/* ---- records ----------------------------------------------------------------------------- */

static void on_end(struct node_sub *sub, int why);

static void on_record(struct node_sub *sub, const struct record *r)
{
	struct session *s = sub->arg;
	struct wire w;

	/* On their way when the cursor was refused, or sent before. */
	if (s->barren || r->n < s->next_n)
		return;
	if (r->n > s->next_n) {
		/* A device must never be given silence for a record: its next
		 * recv would acknowledge what it has not seen. */
		log_event(LOG_ERROR, "inbox_gap",
			  "account=%016" PRIx64 " wanted=%" PRIu64 " got=%" PRIu64,
			  s->account, s->next_n, r->n);
		sub_stop(s);
		on_end(sub, ERR_UNAVAILABLE);
		return;
	}
	s->next_n = r->n + 1;
	if (r->n > s->end)
		s->end = r->n;
	/* What it fetched by pages and acknowledged is not sent again. */
	if (r->n > s->acked) {
		deliver_fill(&w, r, s->device,
			     r->ttl ? clock_wall_ms(s->env->clock) : 0,
			     &s->env->scratch);
		session_put(s, &w);
		metric_add(M_DELIVERIES, 1);
	}
	look_caught_up(s);
	if (s->next_n > s->acked + s->window)
		sub_stall(s, false);
}

static void on_flush(struct node_sub *sub)
{
	(void)sub; /* the owner writes at the end of the turn */
}

static void on_end(struct node_sub *sub, int why)
{
	struct session *s = sub->arg;
	uint64_t ms;

	s->subscribed = s->started = false;
	switch (why) {
	case ERR_EXISTS:
		session_close(s, CLOSE_ELSEWHERE, "connected elsewhere");
		return;
	case ERR_PERM:
	case ERR_NOT_FOUND:
		session_refuse(s, P_DEVICE_REMOVED, SESSION_NO_ID, CLOSE_REMOVED,
			       NULL);
		return;
	case ERR_NOT_LEADER:
	case ERR_UNAVAILABLE:
	case ERR_TRUNCATED:
		break;
	default: /* a replica that cannot read its log; others may */
		log_event(LOG_WARN, "subscription_ended",
			  "account=%016" PRIx64 " why=%s", s->account,
			  err_name(why));
	}
	ms = (uint64_t)RESUB_MIN_MS << (s->sub_tries < 5 ? s->sub_tries : 5);
	if (ms > RESUB_MAX_MS)
		ms = RESUB_MAX_MS;
	if (s->sub_tries < UINT8_MAX)
		s->sub_tries++;
	ms = ms / 2 + rand_below(s->env->rand, ms / 2 + 1);
	s->resub_ms = session_now(s) + ms;
	session_sooner(s, s->resub_ms);
	sub_stall(s, false);
}

/* ---- recv and credit ---------------------------------------------------------------------- */

void sub_on_recv(struct session *s, const struct wire *w)
{
	uint64_t cursor = w->u[W_CURSOR];

	if (cursor <= s->heard)
		return;
	if (cursor > s->end || s->barren) {
		session_refuse(s, P_BAD_FRAME, SESSION_NO_ID, CLOSE_BAD_FRAME,
			       "cursor is beyond the inbox");
		return;
	}
	metric_add(M_RECEIPTS, cursor - s->heard);
	s->heard = cursor;
	if (s->acked < cursor)
		s->acked = cursor;
	/* Told in good time, not with every record. */
	if (s->subscribed && s->started &&
	    (s->acked - s->credited >= s->window / 4 + 1 ||
	     s->next_n > s->credited + s->window))
		credit(s);
	sub_stall(s, true);
	if (!s->cursor_ms) {
		s->cursor_ms = session_now(s) + SESSION_CURSOR_MS;
		session_sooner(s, s->cursor_ms);
	}
	if (s->heard - s->proposed >= SESSION_CURSOR_RECORDS)
		sub_cursor_tick(s, s->cursor_ms);
}

void sub_on_credit(struct session *s, const struct wire *w)
{
	uint64_t window = w->u[W_WINDOW];

	if (window == 0) {
		session_refuse(s, P_BAD_FRAME, SESSION_NO_ID, CLOSE_BAD_FRAME,
			       "window is 0");
		return;
	}
	s->window = (uint32_t)(window > s->env->window_max ? s->env->window_max :
							      window);
	if (s->subscribed && s->started && !s->barren)
		credit(s);
	sub_stall(s, true);
}

/* ---- the cursor that the shard keeps --------------------------------------------------------- */

static void on_cursor(struct route_call *c, int status, const struct result *res)
{
	struct session *s = c->arg;
	uint64_t told = c->cmd.cursor;

	s->cursor_call = NULL;
	route_put(s->env->route, c);
	if (status == 0 && res->status == ST_OK) {
		s->proposed = told;
	} else if (status == 0 && res->status != ST_DISK_FULL) {
		if (res->status == ST_DEVICE_REMOVED ||
		    res->status == ST_NOT_FOUND) {
			session_refuse(s, P_DEVICE_REMOVED, SESSION_NO_ID,
				       CLOSE_REMOVED, NULL);
			return;
		}
		log_event(LOG_ERROR, "cursor_refused",
			  "account=%016" PRIx64 " device=%u why=%s cursor=%"
			  PRIu64, s->account, s->device,
			  status_problem(res->status), told);
		s->proposed = told; /* the next one may fare better */
	}
	s->cursor_ms = s->heard > s->proposed ?
			       session_now(s) + SESSION_CURSOR_MS :
			       0;
	if (s->cursor_ms)
		session_sooner(s, s->cursor_ms);
}

static void on_cursor_orphan(struct route_call *c, int status,
			     const struct result *res)
{
	(void)status; /* told again after the next hello, by its cursor */
	(void)res;
	route_put(c->route, c);
}

static struct route_call *cursor_propose(struct session *s, route_cb *cb)
{
	struct route_call *c = route_get(s->env->route);

	if (!c)
		return NULL;
	c->id = s->account;
	c->cb = cb;
	c->arg = s;
	c->cmd.type = CMD_CURSOR;
	c->cmd.account = s->account;
	c->cmd.device = s->device;
	c->cmd.cursor = s->heard;
	AZ(route_propose(s->env->route, c));
	return c;
}

void sub_cursor_tick(struct session *s, uint64_t now_ms)
{
	if (s->cursor_call || !s->cursor_ms || now_ms < s->cursor_ms)
		return;
	s->cursor_ms = 0;
	if (s->heard <= s->proposed)
		return;
	s->cursor_call = cursor_propose(s, on_cursor);
	if (!s->cursor_call) {
		s->cursor_ms = now_ms + SESSION_CURSOR_MS;
		session_sooner(s, s->cursor_ms);
	}
}

void sub_report(struct session *s)
{
	bool told = s->heard <= s->proposed || !s->said_hello || s->barren;

	if (s->cursor_call) {
		told |= s->cursor_call->cmd.cursor == s->heard;
		s->cursor_call->cb = on_cursor_orphan;
		s->cursor_call = NULL;
	}
	if (!told)
		cursor_propose(s, on_cursor_orphan);
}
