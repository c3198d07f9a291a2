/* Between the files of the session machine.
 *
 *	session.c        states, timers, frames without a story of their own
 *	session_sub.c    the inbox: welcome, deliver, recv, credit
 *	session_send.c   send: part 0, own copy, ack
 *	session_sync.c   sync: pages */
#ifndef QUIPU_GATEWAY_SESSION_IMPL_H
#define QUIPU_GATEWAY_SESSION_IMPL_H

#include "base/alloc.h"
#include "base/assert.h"
#include "base/metric.h"
#include "gateway/deliver.h"
#include "gateway/session.h"

#define SESSION_NO_ID UINT64_MAX
#define SESSION_PAGE_BYTES (240u << 10) /* of a page frame; clients allow 256 KiB */

enum session_close {
	CLOSE_GOING_AWAY = 1001, CLOSE_INTERNAL = 1011, CLOSE_RESTART = 1012,
	CLOSE_OVERLOADED = 1013, CLOSE_BAD_FRAME = 4400, CLOSE_TOKEN = 4401,
	CLOSE_REMOVED = 4403, CLOSE_NO_HELLO = 4408, CLOSE_ELSEWHERE = 4409,
};

/* Problems that the gateway itself has; the shard's are in status.tbl. */
enum session_problem {
	P_BAD_FRAME, P_UNKNOWN_FRAME, P_BAD_REQUEST, P_TOKEN_MISSING,
	P_TOKEN_EXPIRED, P_TOKEN_INVALID, P_DEVICE_REMOVED, P_TOO_LARGE,
	P_TOO_MANY_OPEN, P_INTERNAL, P_NO_LEADER, P_UNAVAILABLE, P_BUSY,
	P_DRAINING,
};

static inline uint64_t session_now(const struct session *s)
{
	return clock_ms(s->env->clock);
}
void session_sooner(struct session *s, uint64_t deadline_ms);

/* One frame out.  The makers' bytes may be in env->scratch. */
void session_put(struct session *s, const struct wire *w);
/* An error frame about a request (SESSION_NO_ID: about the session); `detail`,
 * `outcome` may be NULL.  Uses env->scratch: a decoded JSON frame is gone. */
void session_error(struct session *s, enum session_problem p, uint64_t id,
		   uint64_t seq, const char *detail, const char *outcome);
/* The same for a shard's refusal. */
void session_error_status(struct session *s, int status, uint64_t id,
			  uint64_t seq);
/* Error frame with the close code, then the end. */
void session_refuse(struct session *s, enum session_problem p, uint64_t id,
		    unsigned code, const char *detail);
void session_close(struct session *s, unsigned code, const char *reason);
/* A send was answered: a draining session may be done. */
void session_answered(struct session *s);
/* Is the device still the one that its token names?  Closes if not. */
bool session_check_device(struct session *s, const struct result *r);

/* session_sub.c */
void sub_begin(struct session *s);  /* after hello */
void sub_again(struct session *s);  /* at resub_ms */
void sub_stop(struct session *s);
void sub_on_recv(struct session *s, const struct wire *w);
void sub_on_credit(struct session *s, const struct wire *w);
void sub_stall(struct session *s, bool progress);
void sub_cursor_tick(struct session *s, uint64_t now_ms);
/* Report what was received and forget the answer. */
void sub_report(struct session *s);

/* session_send.c */
void send_on_frame(struct session *s, const struct wire *w);
void send_cancel_all(struct session *s);

/* session_sync.c */
void sync_on_frame(struct session *s, const struct wire *w);
void sync_cancel_all(struct session *s);

#endif
