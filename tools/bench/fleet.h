/* Many devices of one process over epoll: the load generator's own client.  It
 * shares two cores with the servers that it measures, so it is lean: no engine per
 * device (client/quipu.h is that), no store, one buffer for all reads, one write
 * per device and turn.  The rules of protocol.md 6, 7 and 11 are kept all the
 * same: span < 32, `after`, retries with the same seq and mid, resume by cursor.
 *
 *          dial            101           welcome          caught_up
 *   WAIT ---------> DIAL --------> HELLO --------> CATCHUP ---------> LIVE
 *    ^                |              |               |                 |
 *    +----------------+--------------+---- closed ---+-----------------+
 *
 * A device comes back by itself, each time at the next gateway of the list, and
 * sends what is open again.  Callbacks may submit, never close. */
#ifndef QUIPU_TOOLS_BENCH_FLEET_H
#define QUIPU_TOOLS_BENCH_FLEET_H

#include "base/hist.h"
#include "base/list.h"
#include "base/rand.h"
#include "base/wire.h"
#include "base/wsframe.h"

#include <netinet/in.h>
#include <stdbool.h>

#define PEER_SPAN 32              /* protocol.md 7 */
#define FLEET_GATEWAYS_MAX 16
#define FLEET_DIALS_MAX 128       /* on their way to LIVE at one time */
#define FLEET_READ_BYTES (256u << 10)
#define FLEET_PING_S 45           /* a gateway closes who is silent for 150 s */
#define FLEET_RETRY_MS 50         /* after an answer that asks to come again */
#define FLEET_ANSWER_MS 25000     /* a gateway answers within 10 s */
#define FLEET_BACKOFF_MIN_MS 20
#define FLEET_BACKOFF_MAX_MS 1000

enum peer_state { PEER_OFF, PEER_WAIT, PEER_DIAL, PEER_HELLO, PEER_CATCHUP,
		  PEER_LIVE };

/* A send that is not settled.  `body` is the caller's until on_ack(). */
struct peer_send {
	uint64_t seq, after, to, seen;
	uint64_t start_us;        /* of the first try */
	uint64_t retry_us;        /* 0: on the wire */
	uint64_t sent_us;         /* of the last try */
	uint64_t tag;             /* the caller's; the low half of mid */
	const void *body;
	uint32_t len, tries;
	bool open;
};

struct peer {
	struct fleet *fleet;
	struct list all;
	struct list dirty;        /* has output */
	struct list wait;         /* timed: dial, retries, a recv to be said */
	int fd;
	enum peer_state state;
	unsigned gateway, attempts;
	uint64_t account;
	uint32_t device;
	char *token;
	uint64_t wake_us;         /* when `wait` wants to be looked at */
	uint64_t tried_us;        /* of the last dial */
	uint64_t said_us;         /* of the last write */
	bool writable;            /* EPOLLOUT is asked for */
	bool was_live;
	/* sending */
	struct peer_send ring[PEER_SPAN]; /* by seq % PEER_SPAN */
	uint64_t next_seq, low_seq; /* the lowest unsettled, next_seq if none */
	uint64_t clock;           /* highest lamport and stamp heard */
	uint64_t last_to, last_to_seq; /* of the caller with one destination */
	unsigned n_open;
	/* receiving */
	uint64_t cursor, told;    /* received; said so */
	bool no_recv;             /* the inbox is read, not emptied */
	struct ws_reader ws;
	struct buf out;
	size_t out_at;
	struct buf head;          /* of the HTTP answer */
	char accept[29];
	void *arg;
};

struct fleet_stats {
	uint64_t acks, dups, retries, reconnects, delivered, redelivered;
	uint64_t refused;         /* sends that no retry can help: a failure */
	uint64_t holes;           /* deliver with a number that was not next */
	uint64_t bytes_in, bytes_out, reads, writes;
	char last_error[200];     /* the most recent refusal or break */
};

struct fleet {
	int epoll;
	unsigned window;
	struct sockaddr_in gateways[FLEET_GATEWAYS_MAX];
	char names[FLEET_GATEWAYS_MAX][64];
	unsigned n_gateways;
	struct list all, dirty, wait, dialq;
	unsigned dialing, live, n_peers;
	uint64_t now_us, tick_us, second_us;
	uint8_t *in;
	struct buf scratch;
	struct rand rand;         /* seeded: masks, waits */
	uint8_t nonce[8];         /* the high half of every mid of this run */
	struct fleet_stats stats;
	/* Each may be NULL. */
	void (*on_live)(struct peer *p);
	void (*on_ack)(struct peer *p, struct peer_send *s, const struct wire *w);
	void (*on_deliver)(struct peer *p, const struct wire *w);
	void (*on_page)(struct peer *p, const struct wire *w);
	void *arg;
};

uint64_t bench_now_us(void);

/* `gateways` is a comma list of host:port. */
int fleet_init(struct fleet *f, const char *gateways, unsigned window,
	       struct err *e);
void fleet_release(struct fleet *f);
/* One turn: wait at most `ms`, read, call back, flush. */
void fleet_turn(struct fleet *f, int ms);
/* Turn until `n` devices are LIVE; false after `ms`. */
bool fleet_wait_live(struct fleet *f, unsigned n, unsigned ms);

/* `token` is taken.  Dials as soon as there is a place. */
void peer_init(struct peer *p, struct fleet *f, uint64_t account, uint32_t device,
	       char *token, unsigned gateway);
void peer_dial(struct peer *p);
/* Close the socket; no more dialling until peer_dial(). */
void peer_off(struct peer *p);
void peer_release(struct peer *p);

static inline bool peer_can_send(const struct peer *p)
{
	return p->next_seq - p->low_seq < PEER_SPAN;
}
/* Begin a send; after: the seq of the previous one to `to`, 0: none.  Returns its
 * seq.  peer_can_send() must hold. */
uint64_t peer_send(struct peer *p, uint64_t to, uint64_t after, const void *body,
		   uint32_t len, uint64_t tag);
void peer_sync(struct peer *p, uint64_t id, uint64_t cursor, unsigned limit);
/* The tag of a message of this run; false: foreign. */
bool fleet_tag(const struct fleet *f, struct wire_bytes mid, uint64_t *tag);

/* fleet.c, for peer.c */
void fleet_dirty(struct peer *p);
void fleet_wake(struct peer *p, uint64_t at_us);
void peer_lost(struct peer *p, const char *why);
/* peer.c */
void peer_message(struct peer *p, const struct ws_message *m);
void peer_hello(struct peer *p);
void peer_ping(struct peer *p);
void peer_tick(struct peer *p);

#endif
