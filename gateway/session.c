/* States, timers and the small frames of a session.  Five things end a session by
 * the clock: no hello, no leader for the welcome, silence, an expired token, a
 * stall; all are looked at in session_tick() and nowhere else. */
#include "gateway/session_impl.h"

#include <string.h>

static const char *const state_names[SESSION_STATES] = {
	"open", "catching_up", "live", "draining", "closed",
};

const char *session_state_name(enum session_state st)
{
	return st < SESSION_STATES ? state_names[st] : "?";
}

static const struct {
	const char *name, *title;
	unsigned status;
} problems[] = {
	[P_BAD_FRAME] = { "bad-frame", "Malformed frame", 400 },
	[P_UNKNOWN_FRAME] = { "unknown-frame", "Frame is not known here", 400 },
	[P_BAD_REQUEST] = { "bad-request", "Malformed request", 400 },
	[P_TOKEN_MISSING] = { "token-missing", "No token", 401 },
	[P_TOKEN_EXPIRED] = { "token-expired", "Token has expired", 401 },
	[P_TOKEN_INVALID] = { "token-invalid", "Token was refused", 401 },
	[P_DEVICE_REMOVED] = { "device-removed", "Device was removed", 403 },
	[P_TOO_LARGE] = { "too-large", "Too large", 413 },
	[P_TOO_MANY_OPEN] = { "too-many-open", "Too many requests open", 429 },
	[P_INTERNAL] = { "internal", "Internal error", 500 },
	[P_NO_LEADER] = { "no-leader", "The shard has no leader", 503 },
	[P_UNAVAILABLE] = { "unavailable", "The shard did not answer", 503 },
	[P_BUSY] = { "busy", "Too much is under way", 503 },
	[P_DRAINING] = { "draining", "The server is going away", 503 },
};

void session_init(struct session *s, struct session_env *env,
		  enum wire_format format, const struct session_io *io, void *arg)
{
	uint64_t now_ms = clock_ms(env->clock);

	memset(s, 0, sizeof *s);
	s->env = env;
	s->io = io;
	s->arg = arg;
	s->format = (uint8_t)format;
	s->state = SESSION_OPEN;
	s->heard_ms = now_ms;
	s->state_ms = now_ms + env->hello_ms;
	s->token_ms = UINT64_MAX;
	list_init(&s->sends);
	list_init(&s->pages);
}

/* ---- out ------------------------------------------------------------------------ */

void session_sooner(struct session *s, uint64_t deadline_ms)
{
	s->io->arm(s->arg, deadline_ms);
}

void session_put(struct session *s, const struct wire *w)
{
	struct buf *out = s->io->begin(s->arg);

	wire_encode(w, (enum wire_format)s->format, out);
	s->io->end(s->arg);
}

static void put_problem(struct session *s, const struct wire_problem *p,
			uint64_t id, uint64_t seq, unsigned code,
			uint64_t retry_ms)
{
	struct buf *scratch = &s->env->scratch;
	struct wire w;

	buf_clear(scratch);
	wire_make_problem(scratch, p);
	wire_start(&w, WIRE_ERROR);
	wire_put(&w, W_PROBLEM, scratch->data, scratch->len);
	if (id != SESSION_NO_ID)
		wire_set(&w, W_ID, id);
	if (seq != SESSION_NO_ID)
		wire_set(&w, W_SEQ, seq);
	if (code)
		wire_set(&w, W_CODE, code);
	if (retry_ms)
		wire_set(&w, W_RETRY_MS, retry_ms);
	session_put(s, &w);
}

static struct wire_problem problem_of(enum session_problem p,
				      const char *detail, const char *outcome)
{
	return (struct wire_problem){ .type = problems[p].name,
				      .title = problems[p].title,
				      .status = problems[p].status,
				      .detail = detail,
				      .outcome = outcome };
}

void session_error(struct session *s, enum session_problem p, uint64_t id,
		   uint64_t seq, const char *detail, const char *outcome)
{
	struct wire_problem wp = problem_of(p, detail, outcome);

	if (seq != SESSION_NO_ID)
		metric_add_label(M_REFUSED, wp.type, 1);
	put_problem(s, &wp, id, seq, 0, 0);
}

void session_error_status(struct session *s, int status, uint64_t id,
			  uint64_t seq)
{
	struct wire_problem wp = { .type = status_problem(status),
				   .title = status_title(status),
				   .status = (unsigned)status_http(status) };

	if (seq != SESSION_NO_ID)
		metric_add_label(M_REFUSED, wp.type, 1);
	put_problem(s, &wp, id, seq, 0,
		    status == ST_DISK_FULL ? DISK_FULL_RETRY_MS : 0);
}

/* ---- the end ---------------------------------------------------------------------- */

/* Everything given back: no callback finds the session any more. */
static void give_back(struct session *s)
{
	if (s->state == SESSION_CLOSED)
		return;
	if (s->state != SESSION_OPEN)
		metric_set(M_SESSIONS, --s->env->live);
	s->state = SESSION_CLOSED;
	sub_stop(s);
	sub_report(s);
	send_cancel_all(s);
	sync_cancel_all(s);
	if (s->info_call)
		route_cancel(s->env->route, s->info_call);
	s->info_call = NULL;
}

void session_release(struct session *s)
{
	give_back(s);
}

static const char *code_text(unsigned code)
{
	switch (code) {
	case 1002:
		return "1002";
	case 1007:
		return "1007";
	case 1009:
		return "1009";
	case CLOSE_BAD_FRAME:
		return "4400";
	}
	return NULL;
}

void session_close(struct session *s, unsigned code, const char *reason)
{
	if (s->state == SESSION_CLOSED)
		return;
	if (code_text(code))
		metric_add_label(M_FRAMES_REJECTED, code_text(code), 1);
	give_back(s);
	s->io->close(s->arg, code, reason);
}

void session_refuse(struct session *s, enum session_problem p, uint64_t id,
		    unsigned code, const char *detail)
{
	struct wire_problem wp = problem_of(p, detail, NULL);

	if (s->state == SESSION_CLOSED)
		return;
	put_problem(s, &wp, id, SESSION_NO_ID, code, 0);
	session_close(s, code, wp.type);
}

void session_abort(struct session *s, unsigned code, const char *reason)
{
	if (code == CLOSE_BAD_FRAME) /* the framing is sound: it can be told why */
		session_refuse(s, P_BAD_FRAME, SESSION_NO_ID, code, reason);
	else
		session_close(s, code, reason);
}

void session_answered(struct session *s)
{
	if (s->state == SESSION_DRAINING && s->n_sends == 0)
		session_close(s, s->drain_code, "draining");
}

void session_drain(struct session *s, uint64_t retry_ms)
{
	struct wire w;

	if (s->state == SESSION_DRAINING || s->state == SESSION_CLOSED)
		return;
	wire_start(&w, WIRE_GOODBYE);
	wire_set(&w, W_CODE, CLOSE_RESTART);
	wire_puts(&w, W_REASON, "draining");
	wire_set(&w, W_RETRY_MS, retry_ms);
	session_put(s, &w);
	if (s->state == SESSION_OPEN) {
		session_close(s, CLOSE_RESTART, "draining");
		return;
	}
	s->state = SESSION_DRAINING;
	s->drain_code = CLOSE_RESTART;
	s->state_ms = session_now(s) + SESSION_DRAIN_MS;
	s->resub_ms = s->stall_ms = 0;
	sub_stop(s);
	session_sooner(s, s->state_ms);
	session_answered(s);
}

/* ---- tokens -------------------------------------------------------------------------- */

static bool token_good(struct session *s, const struct wire *w,
		       struct token_claims *claims)
{
	static const enum session_problem names[] = {
		[TOKEN_MISSING] = P_TOKEN_MISSING,
		[TOKEN_EXPIRED] = P_TOKEN_EXPIRED,
		[TOKEN_INVALID] = P_TOKEN_INVALID,
	};
	const char *why = NULL;
	enum token_verdict v;

	v = s->env->verify(s->env->verify_arg, (const char *)w->b[W_TOKEN].p,
			   w->b[W_TOKEN].n,
			   clock_wall_ms(s->env->clock) / 1000, claims, &why);
	if (v == TOKEN_OK)
		return true;
	metric_add_label(M_TOKENS_REFUSED, token_problem(v), 1);
	session_refuse(s, names[v], w->u[W_ID], CLOSE_TOKEN, why);
	return false;
}

/* The wall clock is read once: a jump later on closes nobody. */
static void token_until(struct session *s, const struct token_claims *claims)
{
	uint64_t wall_s = clock_wall_ms(s->env->clock) / 1000;
	uint64_t until_s = claims->expires_s + SESSION_TOKEN_GRACE_S;

	s->token_ms = session_now(s) +
		      (until_s > wall_s ? (until_s - wall_s) * 1000 : 0);
	session_sooner(s, s->token_ms);
}

bool session_check_device(struct session *s, const struct result *r)
{
	if (r->status || r->epoch > s->epoch) {
		session_refuse(s, P_DEVICE_REMOVED, SESSION_NO_ID, CLOSE_REMOVED,
			       NULL);
		return false;
	}
	if (r->epoch < s->epoch) {
		/* Signed by us for an epoch that no shard ever gave. */
		session_refuse(s, P_TOKEN_INVALID, SESSION_NO_ID, CLOSE_TOKEN,
			       "the token is of another device epoch");
		return false;
	}
	return true;
}

/* ---- frames ---------------------------------------------------------------------------- */

static void on_hello(struct session *s, const struct wire *w)
{
	struct token_claims claims;
	uint64_t now_ms = session_now(s);

	if (!wire_u(w, W_WINDOW)) {
		session_refuse(s, P_BAD_FRAME, w->u[W_ID], CLOSE_BAD_FRAME,
			       "window is 0");
		return;
	}
	if (!token_good(s, w, &claims))
		return;
	s->said_hello = true;
	s->sub.born_ms = clock_wall_ms(s->env->clock);
	s->account = claims.account;
	s->device = claims.device;
	s->epoch = claims.epoch;
	s->hello_id = w->u[W_ID];
	s->window = (uint32_t)w->u[W_WINDOW];
	if (s->window > s->env->window_max)
		s->window = s->env->window_max;
	s->has_cursor = wire_has(w, W_CURSOR);
	s->has_epoch = wire_has(w, W_EPOCH);
	s->hello_cursor = wire_u(w, W_CURSOR);
	s->hello_epoch = (uint32_t)wire_u(w, W_EPOCH);
	s->state_ms = now_ms + s->env->route->patience_ms; /* for welcome */
	token_until(s, &claims);
	sub_begin(s);
}

static void on_auth(struct session *s, const struct wire *w)
{
	struct token_claims claims;
	struct wire ok;

	if (!token_good(s, w, &claims))
		return;
	if (claims.account != s->account || claims.device != s->device ||
	    claims.epoch != s->epoch) {
		session_refuse(s, P_TOKEN_INVALID, w->u[W_ID], CLOSE_TOKEN,
			       "the token is another device's");
		return;
	}
	token_until(s, &claims);
	wire_start(&ok, WIRE_OK);
	wire_set(&ok, W_ID, w->u[W_ID]);
	session_put(s, &ok);
}

static void on_ping(struct session *s, const struct wire *w)
{
	struct wire pong;

	wire_start(&pong, WIRE_PONG);
	wire_set(&pong, W_ID, w->u[W_ID]);
	session_put(s, &pong);
}

static uint64_t id_of(const struct wire *w)
{
	return wire_has(w, W_ID) ? w->u[W_ID] : SESSION_NO_ID;
}

static void on_frame(struct session *s, const struct wire *w)
{
	bool draining = s->state == SESSION_DRAINING;

	switch (w->u[W_T]) {
	case WIRE_SEND:
		send_on_frame(s, w);
		break;
	case WIRE_RECV:
		sub_on_recv(s, w);
		break;
	case WIRE_PING:
		on_ping(s, w);
		break;
	case WIRE_PONG:
		break;
	case WIRE_SYNC:
		if (draining)
			session_error(s, P_DRAINING, w->u[W_ID], SESSION_NO_ID,
				      NULL, NULL);
		else
			sync_on_frame(s, w);
		break;
	case WIRE_CREDIT:
		if (!draining)
			sub_on_credit(s, w);
		break;
	case WIRE_AUTH:
		on_auth(s, w);
		break;
	case WIRE_HELLO:
		session_refuse(s, P_BAD_FRAME, w->u[W_ID], CLOSE_BAD_FRAME,
			       "hello was said");
		break;
	default: /* in the table, but not served yet: signal, watch, presence */
		session_error(s, P_UNKNOWN_FRAME, id_of(w), SESSION_NO_ID,
			      wire_frame_name((unsigned)w->u[W_T]), NULL);
	}
}

void session_message(struct session *s, const uint8_t *p, size_t n)
{
	struct wire w;
	struct err e;
	int rv;

	if (s->state == SESSION_CLOSED)
		return;
	s->env->now_us = clock_us(s->env->clock);
	s->heard_ms = s->env->now_us / 1000;
	rv = wire_decode(&w, (enum wire_format)s->format, WIRE_CLIENT, p, n,
			 &s->env->scratch, &e);
	if (rv && rv != ERR_NOT_FOUND)
		session_refuse(s, P_BAD_FRAME, SESSION_NO_ID, CLOSE_BAD_FRAME,
			       e.msg);
	else if (s->state == SESSION_OPEN &&
		 (rv || s->said_hello || w.u[W_T] != WIRE_HELLO))
		session_refuse(s, P_BAD_FRAME, SESSION_NO_ID, CLOSE_BAD_FRAME,
			       s->said_hello ? "welcome has not come yet" :
					       "the first frame is hello");
	else if (rv)
		session_error(s, P_UNKNOWN_FRAME, id_of(&w), SESSION_NO_ID,
			      NULL, NULL);
	else if (s->state == SESSION_OPEN)
		on_hello(s, &w);
	else
		on_frame(s, &w);
}

void session_heard(struct session *s)
{
	s->heard_ms = session_now(s);
}

void session_pause(struct session *s, bool paused)
{
	bool changed = s->paused != paused;

	if (s->state == SESSION_CLOSED)
		return;
	s->paused = paused;
	if (changed && s->subscribed)
		node_sub_pause(s->env->node, &s->sub, paused);
	sub_stall(s, true);
}

/* ---- time -------------------------------------------------------------------------------- */

static uint64_t silence_ms(const struct session *s)
{
	return s->heard_ms + s->env->heartbeat_s * 2500ull;
}

static uint64_t sooner(uint64_t a, uint64_t b)
{
	return b && b < a ? b : a;
}

uint64_t session_deadline_ms(const struct session *s)
{
	uint64_t ms = UINT64_MAX;

	if (s->state == SESSION_CLOSED)
		return ms;
	if (s->state == SESSION_OPEN || s->state == SESSION_DRAINING)
		ms = s->state_ms;
	if (s->state != SESSION_OPEN)
		ms = sooner(ms, silence_ms(s));
	ms = sooner(ms, s->token_ms);
	ms = sooner(ms, s->stall_ms);
	ms = sooner(ms, s->resub_ms);
	return s->cursor_call ? ms : sooner(ms, s->cursor_ms);
}

void session_tick(struct session *s)
{
	uint64_t now_ms = session_now(s);

	if (s->state == SESSION_CLOSED)
		return;
	if (s->state == SESSION_OPEN && now_ms >= s->state_ms) {
		if (s->said_hello)
			session_refuse(s, P_NO_LEADER, s->hello_id,
				       CLOSE_OVERLOADED, NULL);
		else
			session_close(s, CLOSE_NO_HELLO, "no hello");
		return;
	}
	if (s->state == SESSION_DRAINING && now_ms >= s->state_ms) {
		session_close(s, s->drain_code, "draining");
		return;
	}
	if (now_ms >= s->token_ms) {
		session_refuse(s, P_TOKEN_EXPIRED, SESSION_NO_ID, CLOSE_TOKEN,
			       NULL);
		return;
	}
	if (s->state != SESSION_OPEN && now_ms >= silence_ms(s)) {
		session_close(s, CLOSE_GOING_AWAY, "silence");
		return;
	}
	if (s->stall_ms && now_ms >= s->stall_ms) {
		session_close(s, CLOSE_OVERLOADED, "stalled");
		return;
	}
	if (s->resub_ms && now_ms >= s->resub_ms)
		sub_again(s);
	sub_cursor_tick(s, now_ms);
}
