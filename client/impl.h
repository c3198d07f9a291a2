/* Inside of the device engine: what engine.c, outbox.c, inbox.c and link.c share.
 *
 *	client_on_bytes   link.c: upgrade answer, WebSocket frames
 *	  -> client_take  engine.c: one message, by its type
 *	       welcome, ping, goodbye, error without a send     engine.c
 *	       ack, error of a send                             outbox.c
 *	       deliver, page, caught_up                         inbox.c
 *	client_output     link.c: frames around
 *	  <- client_next_message  engine.c: the most urgent thing that is due, asked
 *	                  one by one; nothing is queued twice, so nothing needs a cap
 */
#ifndef QUIPU_CLIENT_IMPL_H
#define QUIPU_CLIENT_IMPL_H

#include "base/list.h"
#include "base/map.h"
#include "base/wire.h"
#include "base/wsframe.h"
#include "client/quipu.h"
#include "client/upgrade.h"

#define CLIENT_OPEN_BYTES (960u << 10)       /* on the wire; the gateway allows 1 MiB */
#define CLIENT_MESSAGE_MAX (256u << 10)      /* from the gateway */

_Static_assert(CLIENT_RETRY_MIN_MS < CLIENT_RETRY_MAX_MS, "backoff of sends");
_Static_assert(CLIENT_OPEN_BYTES > 2 * CLIENT_BODY_MAX, "two sends fit");

enum send_state {
	SEND_QUEUED,  /* may go out */
	SEND_WIRE,    /* on this connection, unanswered */
	SEND_WAIT,    /* refused for now: again at at_us */
	SEND_BLOCKED, /* `gap`: again when its predecessor is settled */
};

struct send {
	struct list link;        /* outbox.all, in order of seq */
	struct send *prev, *next; /* open sends to the same destination */
	struct client_entry e;   /* e.body: owned */
	enum send_state st;
	uint64_t at_us;          /* WIRE: sent; WAIT: due */
	uint64_t id;             /* of its request on this connection */
	uint64_t gen;            /* of its last put; durable when below c->gen */
	unsigned tries, void_tries;
	bool loaded;             /* from the store: earlier tries are unknown */
	char problem[32];        /* why it became a void */
};

struct outbox {
	struct list all;
	struct map by_seq, tails; /* seq -> send; destination -> its newest */
	size_t n, bytes;          /* bodies */
	size_t wire_bytes;
	uint64_t seq;             /* highest given */
	uint64_t low_synced;      /* lowest unsettled as the store has it */
};

struct fetch {
	uint64_t id, cursor, before;
	uint32_t limit;
	bool sent;
};

struct inbox {
	uint64_t cursor;   /* given to owner and store */
	uint64_t acked;    /* told to the gateway, on this connection */
	uint64_t end;
	uint64_t recv_us;  /* when the ack is due; 0: nothing to acknowledge */
	uint32_t epoch, window;
	bool known, open_start; /* the first record tells where it begins */
	struct fetch fetch[CLIENT_FETCHES_MAX];
	unsigned n_fetch;
};

struct client {
	struct client_config cfg;
	char *token, *agent, *gateways[CLIENT_GATEWAYS_MAX];
	enum client_state state;
	char reason[64];
	struct err err;

	/* the connection */
	bool linked;        /* from wants_dial() to on_closed() */
	bool connected, up; /* bytes may flow; messages may flow */
	bool want_close, close_sent, closing, resuming;
	unsigned gateway, attempt;
	unsigned code, drop_code; /* of their close frame, of ours */
	uint64_t dial_us;   /* IDLE: when */
	uint64_t since_us;  /* of this state */
	uint64_t retry_ms;  /* goodbye's; wins over the backoff */
	bool has_retry, angry;

	/* the session */
	uint64_t id, first_id; /* last request's; last of the connection before */
	uint64_t pong_id;
	bool hello_due, auth_due, ping_due, pong_due, draining;
	uint64_t heard_us, sent_us; /* last message in, out */
	uint64_t ping_us, heartbeat_us, drain_us;

	struct outbox outbox;
	struct inbox inbox;
	uint64_t lamport;
	uint64_t gen;       /* syncs of the store so far, + 1 */
	bool dirty;         /* calls of the store that sync() has not covered */

	/* bytes */
	struct upgrade upgrade;
	struct ws_reader ws;
	struct buf out, msg;
	struct wire w;      /* the message in hand */
};

static inline uint64_t client_now(const struct client *c)
{
	return clock_us(c->cfg.clock);
}
/* The only writer of c->state. */
void client_move(struct client *c, enum client_state st, const char *reason);
/* STOPPED, and the connection is to be closed. */
void client_stop(struct client *c, const char *reason);
/* The store failed: stop, keep its error. */
void client_store_failed(struct client *c, const struct err *e);
/* Close the connection with `code` (RFC 6455 7.4) and dial again later. */
void client_drop(struct client *c, unsigned code, const char *reason);
/* All that the store was told is durable now; false: it failed and we stopped. */
bool client_sync(struct client *c);
void client_heard_clock(struct client *c, uint64_t lamport, uint64_t stamp);
/* One message from the gateway. */
void client_take(struct client *c, const void *p, size_t n);
/* The handshake is over. */
void client_upgraded(struct client *c);
void client_close_code(struct client *c, unsigned code);

void outbox_init(struct outbox *o);
void outbox_release(struct outbox *o);
void outbox_load(struct client *c, const struct client_entry *e);
void outbox_synced(struct client *c);
/* Fill c->w with the next send that may go out. */
bool outbox_next(struct client *c);
void outbox_on_ack(struct client *c, const struct wire *w);
/* true: it was about a send */
bool outbox_on_error(struct client *c, const struct wire *w);
void outbox_disconnected(struct client *c);
size_t outbox_on_wire(const struct client *c);
uint64_t outbox_deadline(const struct client *c);
void outbox_tick(struct client *c);

void inbox_on_welcome(struct client *c, const struct wire *w);
void inbox_on_deliver(struct client *c, const struct wire *w);
void inbox_on_page(struct client *c, const struct wire *w);
bool inbox_on_error(struct client *c, const struct wire *w);
void inbox_disconnected(struct client *c);
bool inbox_recv_due(const struct client *c, uint64_t now);
/* Fill c->w with a recv or sync frame. */
bool inbox_next(struct client *c);

/* link.c */
void link_start(struct client *c);
void link_release(struct client *c);

#endif
