/* One device's connection, from hello to close: protocol.md 5.  No socket, no
 * loop: whole messages in, messages out through a small vtable.  The server puts
 * it behind gateway/conn.c, the simulator behind its network.
 *
 *            hello, token good,           all up to
 *            subscription began          welcome's n sent
 *     OPEN ---------------> CATCHING_UP ------------> LIVE
 *       |                        |                     |
 *       |                        +------ drain --------+--> DRAINING
 *       +--- error, timeout, peer gone, other socket --+------+--> CLOSED
 *
 * One reader of the log and no queue: records come from node_subscribe() as the
 * window and the socket allow.  A subscription that loses its leader is begun
 * again from the next number, and the client sees nothing but a pause. */
#ifndef QUIPU_GATEWAY_SESSION_H
#define QUIPU_GATEWAY_SESSION_H

#include "base/list.h"
#include "base/wire.h"
#include "consensus/node.h"
#include "gateway/route.h"
#include "gateway/token.h"

#define SESSION_SENDS_MAX 32            /* open at one time */
#define SESSION_SEND_BYTES_MAX (1u << 20)
#define SESSION_WINDOW 256              /* of a hello without one */
#define SESSION_STALL_MS 30000          /* no progress: 1013 */
#define SESSION_DRAIN_MS 10000
#define SESSION_TOKEN_GRACE_S 30        /* after expiry: 4401 */
#define SESSION_CURSOR_MS 1000          /* recv waits so long for company */
#define SESSION_CURSOR_RECORDS 1000     /* or for so many records */
#define SESSION_INFO_MS 5000            /* device count and epoch at most so old */
#define SESSION_PAGES_MAX 4             /* sync calls open */
#define SESSION_MESSAGE_MAX (128u << 10) /* from the client */

enum session_state {
	SESSION_OPEN, SESSION_CATCHING_UP, SESSION_LIVE, SESSION_DRAINING,
	SESSION_CLOSED, SESSION_STATES
};
const char *session_state_name(enum session_state st);

/* What all sessions of a gateway share; the owner fills it. */
struct session_env {
	struct node *node;
	struct route *route;
	struct clock *clock;
	struct rand *rand;
	enum token_verdict (*verify)(void *arg, const char *token, size_t len,
				     uint64_t now_s,
				     struct token_claims *claims,
				     const char **why);
	void *verify_arg;
	uint32_t hello_ms, heartbeat_s, window_max;
	uint32_t history_epoch;  /* 1 unless history was lost and restored */
	struct buf scratch;      /* pages; owner releases it */
	uint64_t now_us;         /* when the message under way came in */
	uint64_t live;           /* sessions between hello and close */
};

struct session_io {
	/* The buffer to which the session appends one message; then end().
	 * Never fails: a message that finds the socket closed goes nowhere. */
	struct buf *(*begin)(void *arg);
	void (*end)(void *arg);
	/* Close with code and reason after what was written.  Called once; the
	 * session is CLOSED and calls nothing any more. */
	void (*close)(void *arg, unsigned code, const char *reason);
	/* Call session_tick() not later than this (mono ms).  Only ever asks
	 * for an earlier time than session_deadline_ms() said before. */
	void (*arm)(void *arg, uint64_t deadline_ms);
};

struct session {
	struct session_env *env;
	const struct session_io *io;
	void *arg;
	struct node_sub sub;
	struct list sends;       /* open ones, oldest first */
	struct list pages;
	struct route_call *cursor_call, *info_call;
	uint64_t account, hello_id, hello_cursor;
	uint64_t next_n;         /* next number to deliver */
	uint64_t base;           /* sub: what it takes as received at its start */
	uint64_t heard;          /* of hello and recv; the shard is told */
	uint64_t acked;          /* that, and what is gone behind it; the sub is told */
	uint64_t credited, proposed;
	uint64_t welcome_n, end; /* inbox end at welcome; highest number known */
	uint64_t heard_ms;
	uint64_t state_ms;       /* OPEN, DRAINING: over by then */
	uint64_t token_ms;       /* expiry and grace */
	/* 0: not running */
	uint64_t cursor_ms, stall_ms, resub_ms;
	uint64_t info_ms;        /* when n_devices was right */
	uint32_t device, epoch;  /* epoch: the device's, of its token */
	uint32_t n_devices, hello_epoch, window, send_bytes;
	uint16_t drain_code;
	uint8_t state, format, n_sends, n_aside, n_pages, sub_tries;
	bool said_hello, subscribed_once, has_cursor, has_epoch;
	bool subscribed, started; /* started: start() came */
	bool barren;             /* its cursor was refused: it follows, but gets no
				    records */
	bool paused;
};

/* `format` is the negotiated subprotocol's. */
void session_init(struct session *s, struct session_env *env,
		  enum wire_format format, const struct session_io *io,
		  void *arg);
/* The transport is gone, or is being closed by its owner: everything is given
 * back, received records are reported to the shard.  No calls to io.  Idempotent;
 * the session's memory is the owner's. */
void session_release(struct session *s);

/* One whole message, borrowed during the call; may call io. */
void session_message(struct session *s, const uint8_t *p, size_t n);
/* The transport met a protocol error (framing, UTF-8, size): close with `code`. */
void session_abort(struct session *s, unsigned code, const char *reason);
/* The transport holds too many unsent bytes, or no longer does.  Paused again while
 * it is: some bytes did leave, so it is not stalled. */
void session_pause(struct session *s, bool paused);
/* Any sign of life below messages (protocol ping or pong). */
void session_heard(struct session *s);
/* goodbye, and close with 1012 once the open sends are answered. */
void session_drain(struct session *s, uint64_t retry_ms);

uint64_t session_deadline_ms(const struct session *s);
void session_tick(struct session *s);

#endif
