/* One device's engine in message mode, its store, a clock that the test moves, and
 * the words of a gateway to say to it. */
#ifndef QUIPU_TESTS_LIB_DEVICE_WORLD_H
#define QUIPU_TESTS_LIB_DEVICE_WORLD_H

#include "base/wire.h"
#include "client/quipu.h"
#include "client/store_mem.h"

/* A client_event, copied. */
struct device_event {
	enum client_event_type type;
	enum client_state state;
	char reason[64];
	uint64_t n, seq, from, to;
	enum client_outcome outcome;
	bool dup;
	uint8_t mid[16];
	size_t n_records;
};

struct device_world {
	struct clock clock; /* first */
	uint64_t now_us;
	struct rand rand;
	struct store_mem mem;
	struct client *client;
	bool bytes; /* not message mode */
	struct wire w;      /* last message taken */
	struct buf message; /* that it borrows from */
	struct device_event *events;
	size_t n_events, cap_events;
};

void device_world_init(struct device_world *d, uint64_t seed);
void device_world_release(struct device_world *d);
void device_open(struct device_world *d);
/* The process dies, `survive` of the unsynced calls are in the store; anew. */
void device_crash(struct device_world *d, size_t survive);
void device_pass(struct device_world *d, uint64_t ms); /* time, then tick */

/* Dial and connect; the wait is passed. */
void device_connect(struct device_world *d);
/* device_connect, take hello, say welcome (resumed when it had a cursor) and
 * caught_up. */
void device_live(struct device_world *d);
void device_lose(struct device_world *d); /* the connection */
/* The next message that the device sends, in d->w. */
bool device_take(struct device_world *d);
/* The next one is of that type, or the test fails. */
void device_expect(struct device_world *d, enum wire_frame t);
void device_expect_nothing(struct device_world *d);
uint64_t device_send(struct device_world *d, uint64_t to, const char *text);

/* The gateway says: */
void say(struct device_world *d, struct wire *w);
void say_welcome(struct device_world *d, bool resumed, const char *reason,
		 uint64_t n);
void say_ack(struct device_world *d, uint64_t seq, uint64_t lamport, bool dup);
void say_deliver(struct device_world *d, uint64_t n, uint64_t lamport);
/* About d->w's request when it is a send (id and seq), else the session. */
void say_error(struct device_world *d, const struct wire *send, const char *name,
	       unsigned status, unsigned code);
void say_error_retry(struct device_world *d, const struct wire *send,
		     const char *name, unsigned status, unsigned code,
		     uint64_t retry_ms);
void say_goodbye(struct device_world *d, unsigned code, uint64_t retry_ms);
void say_id(struct device_world *d, enum wire_frame t, uint64_t id);

/* The last event of a type; NULL: none. */
const struct device_event *device_last(const struct device_world *d,
				       enum client_event_type type);
size_t device_count(const struct device_world *d, enum client_event_type type);

#endif
