/* The engine of one device: outbox, inbox, clock and reconnects, without a
 * socket, a clock, dice or a disk of its own.
 *
 *	feed	client_on_connect(), client_on_bytes(), client_on_closed()
 *	drain	client_output()
 *	time	client_deadline_us(), client_tick()
 *	dial	client_wants_dial(), client_wants_close()
 *
 * The owner asks the last three lines after every call it made.  Nothing here
 * blocks but the store's sync(), which client_output() calls before it hands
 * out bytes that depend on it.
 *
 *           dial          upgraded     welcome        caught_up
 *   IDLE ---------> DIAL ------> HELLO ------> CATCHUP ------> LIVE
 *     ^               |            |              |             |
 *     +---------------+------------+---- closed --+-------------+
 *   any --> STOPPED: only the user's act helps (token, device removed, other
 *   place, storage went back); client_resume() leaves it.
 *
 * Rules: protocol.md 6, 7, 8, 11.
 *   - A send is in the store, with its number and message id, before its first
 *     byte leaves; the pair never changes.  Unknown is not failed: it is sent
 *     again, with the same number, until it is settled.
 *   - highest number on the wire - lowest unsettled < CLIENT_SPAN.
 *   - Sends to one destination name their predecessor (`after`).
 *   - A record is given to the owner once, in order of n, and acknowledged only
 *     after the store has synced it.
 *   - clock = max(every lamport and stamp heard) + 1; it goes out as `seen`.
 */
#ifndef QUIPU_CLIENT_QUIPU_H
#define QUIPU_CLIENT_QUIPU_H

#include "base/buf.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/rand.h"
#include "client/store.h"

#include <stdbool.h>
#include <stdint.h>

#define CLIENT_SPAN 32           /* protocol.md 7 */
#define CLIENT_OUTBOX_MAX 65536  /* unsettled sends; then ERR_FULL */
#define CLIENT_OUTBOX_BYTES_MAX (256u << 20) /* their bodies; then ERR_FULL */
#define CLIENT_WINDOW 256        /* default flow window, records */
#define CLIENT_GATEWAYS_MAX 8
#define CLIENT_FETCHES_MAX 4     /* unanswered client_fetch(); then ERR_FULL */
#define CLIENT_RECV_DELAY_MS 200 /* an ack waits so long for company */
#define CLIENT_BACKOFF_MIN_MS 500
#define CLIENT_BACKOFF_MAX_MS 60000
#define CLIENT_LIVE_RESET_MS 10000 /* so long LIVE: the backoff starts anew */
#define CLIENT_DIAL_MS 10000     /* connect, upgrade, welcome: each */
#define CLIENT_PONG_MS 10000
#define CLIENT_RESEND_MS 20000   /* no answer to a send so long: again */
#define CLIENT_RETRY_MIN_MS 200  /* a send that was refused for now: again after */
#define CLIENT_RETRY_MAX_MS 15000 /* this, doubled each time */
#define CLIENT_DRAIN_MS 10000    /* from goodbye to our close */
#define CLIENT_ANGRY_MS 30000    /* after close 1008 or 1011 this is added */

enum client_state {
	CLIENT_IDLE, CLIENT_DIAL, CLIENT_HELLO, CLIENT_CATCHUP, CLIENT_LIVE,
	CLIENT_STOPPED
};
const char *client_state_name(enum client_state st);

enum client_event_type {
	CLIENT_EV_STATE,    /* state; reason when it stopped or closed */
	CLIENT_EV_RECORD,   /* record: the next of the inbox */
	CLIENT_EV_SETTLED,  /* settled: an outbox entry ended */
	CLIENT_EV_HOLE,     /* from..to: numbers that will not come */
	CLIENT_EV_PAGE,     /* answer to client_fetch(): records */
};

struct client_event {
	enum client_event_type type;
	enum client_state state;
	const char *reason;
	const struct client_record *record;
	const struct client_settled *settled;
	uint64_t from, to;
	/* page */
	const struct client_record *records;
	size_t n_records;
	uint64_t next;
	bool complete;
};

struct client_config {
	uint64_t account;
	uint32_t device;        /* for the owner's eyes; the token names it */
	const char *token;      /* copied, as are the next two */
	const char *agent;
	const char *const *gateways; /* ws://host:port or wss://host:port */
	unsigned n_gateways;    /* 1..CLIENT_GATEWAYS_MAX; 0 in message mode */
	uint32_t window;        /* 0: CLIENT_WINDOW */
	/* No HTTP and no WebSocket frames: the owner moves whole messages with
	 * client_on_message() and client_next_message(). */
	bool message_mode;
	struct clock *clock;
	struct rand *rand;
	struct client_store *store;
	/* Called inside the feeding calls, client_tick() and client_output();
	 * may call client_send() and client_fetch(), nothing else.  What it points
	 * to is borrowed. */
	void (*event)(void *arg, const struct client_event *ev);
	void *arg;
};

struct client;

int client_open(struct client **out, const struct client_config *cfg,
		struct err *e);
void client_free(struct client *c);

/* What the user wants to say. */
struct client_draft {
	uint64_t to;
	uint8_t cls;            /* 1 message, 2 receipt ... protocol.md 9 */
	uint32_t ttl, flags;
	const void *body;
	size_t body_len;        /* <= CLIENT_BODY_MAX */
	const uint8_t *mid;     /* NULL: made here */
};
/* Put into the outbox.  0 and *seq; ERR_FULL, ERR_TOO_LARGE, ERR_INVALID; the
 * store's errors. */
int client_send(struct client *c, const struct client_draft *d, uint64_t *seq,
		struct err *e);
/* Read a page of the inbox; moves nothing.  before = 0: from cursor + 1 on.
 * ERR_UNAVAILABLE unless CATCHUP or LIVE.  CLIENT_EV_PAGE answers (with `reason`
 * when the gateway refused); a connection that is lost takes the answer along. */
int client_fetch(struct client *c, uint64_t cursor, uint64_t before,
		 uint32_t limit, struct err *e);
/* A new token: used at the next hello, and at once on a live connection; leaves
 * STOPPED when its reason is "token". */
void client_set_token(struct client *c, const char *token);
/* Leave STOPPED (the user acted), or dial now instead of later (the system says
 * that the network is back). */
void client_resume(struct client *c);
/* Close the connection in good order and stay STOPPED ("closed"): acks of what
 * is stored go out with the next client_output(). */
void client_close(struct client *c);

enum client_state client_state(const struct client *c);
const char *client_reason(const struct client *c); /* why STOPPED or closed */
size_t client_outbox_len(const struct client *c);
uint64_t client_cursor(const struct client *c);
uint64_t client_lamport(const struct client *c);
uint64_t client_inbox_end(const struct client *c); /* as welcome said */

/* ---- transport ------------------------------------------------------------ */

/* The gateway to connect to now, or NULL.  Answers non-NULL once per dial; then
 * client_on_connect() or client_on_closed() follows.  "" in message mode. */
const char *client_wants_dial(struct client *c);
/* The connection should be closed; client_on_closed() follows. */
bool client_wants_close(const struct client *c);
/* There is a connection, or one is being made: client_on_closed() will come. */
bool client_linked(const struct client *c);
void client_on_connect(struct client *c);
void client_on_bytes(struct client *c, const void *p, size_t n);
/* Closed or never opened.  code: the WebSocket close code in message mode, else
 * 0 (the engine saw the frame itself). */
void client_on_closed(struct client *c, unsigned code);
/* Append the bytes to be written. */
void client_output(struct client *c, struct buf *out);
/* Message mode: one received message; one message to send (false: none). */
void client_on_message(struct client *c, const void *p, size_t n);
bool client_next_message(struct client *c, struct buf *out);
/* When client_tick() wants to be called, in the clock's mono_us; UINT64_MAX:
 * never. */
uint64_t client_deadline_us(const struct client *c);
void client_tick(struct client *c);
/* The store's error that stopped the device (state STOPPED, reason "store"). */
const struct err *client_error(const struct client *c);

#endif
