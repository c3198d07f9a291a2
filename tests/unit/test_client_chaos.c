/* The device engine against two shards that keep the rules of protocol.md 6 to the
 * letter (64 numbers and a floor for a device, `after`, voids), while connections
 * break, answers are lost, the gateway refuses for now and the process dies with any
 * part of what was not synced.  In the end every message is there once, in order,
 * and every record is stored once.  `test_client_chaos SEED` plays one seed aloud. */
#include "base/alloc.h"
#include "base/assert.h"
#include "tests/lib/device_world.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* after the four headers that it needs */
#include <cmocka.h>

#define SHARDS 2
#define KNOWN 64
#define FLYING_MAX (8 * CLIENT_SPAN) /* with second tries */
#define MESSAGES 400
#define RECORDS 300
#define STEPS_MAX 200000

static uint64_t one_seed;

struct kept {
	uint64_t seq, lamport;
	uint8_t mid[16];
};

/* What a shard knows of the one device, and what it appended. */
struct model {
	struct kept set[KNOWN];
	unsigned n;
	uint64_t floor, clock;
	uint32_t log[2 * MESSAGES]; /* number in the body; 0: a void */
	unsigned n_log;
};

/* A send on its way through the gateway. */
struct flying {
	struct wire w;
	uint8_t mid[16], body[4];
};

struct play {
	struct device_world d;
	struct flying *fly;         /* FLYING_MAX */
	unsigned n_fly;
	struct rand dice;
	struct model shard[SHARDS];
	uint64_t kept_cursor;       /* that the inbox's shard was told */
	uint64_t end, sent_n;       /* of the inbox; delivered on this connection */
	bool fresh;                 /* welcomed for the first time */
	uint32_t said;              /* messages composed that a crash cannot undo */
	uint32_t stored[2 * MESSAGES]; /* seq -> number, once durable */
	uint8_t outcome[MESSAGES + 1]; /* of a number, as the store has it */
	uint64_t records;           /* durable, in order */
	unsigned crashes, losses, refusals, voids;
	bool quiet;                 /* no records come while it sends */
	bool calm;                  /* the world is kind from now on */
};

static bool dice(struct play *p, unsigned permille)
{
	return !p->calm && rand_permille(&p->dice, permille);
}

/* ---- the shards ----------------------------------------------------------- */

static struct kept *find(struct model *m, uint64_t seq)
{
	unsigned i;

	for (i = 0; i < m->n; i++)
		if (m->set[i].seq == seq)
			return &m->set[i];
	return NULL;
}

static struct kept *append(struct model *m, const struct wire *w)
{
	struct kept *k;
	unsigned i, low = 0;
	uint32_t number = 0;

	if (m->n == KNOWN) {
		for (i = 1; i < KNOWN; i++)
			if (m->set[i].seq < m->set[low].seq)
				low = i;
		m->floor = m->set[low].seq;
		m->set[low] = m->set[--m->n];
	}
	k = &m->set[m->n++];
	k->seq = w->u[W_SEQ];
	memcpy(k->mid, w->b[W_MID].p, 16);
	m->clock = (m->clock > w->u[W_SEEN] ? m->clock : w->u[W_SEEN]) + 1;
	k->lamport = m->clock;
	if (w->u[W_CLASS])
		memcpy(&number, w->b[W_BODY].p, sizeof number);
	AN(m->n_log < 2 * MESSAGES);
	m->log[m->n_log++] = number;
	return k;
}

/* Refused for good: by what it is, so every try of it is. */
static bool forbidden(const struct wire *w)
{
	uint32_t number = 0;

	if (w->u[W_CLASS])
		memcpy(&number, w->b[W_BODY].p, sizeof number);
	return number % 41 == 7;
}

static void on_send(struct play *p, const struct wire *w)
{
	struct model *m = &p->shard[w->u[W_TO] % SHARDS];
	struct kept *k = find(m, w->u[W_SEQ]);
	bool dup = k != NULL;

	/* Refused before it came to the shard, for now or for good. */
	if (dice(p, 40)) {
		p->refusals++;
		say_error(&p->d, w, "unavailable", 503, 0);
		return;
	}
	if (forbidden(w)) {
		p->voids++;
		say_error(&p->d, w, "forbidden", 403, 0);
		return;
	}
	if (k && memcmp(k->mid, w->b[W_MID].p, 16) != 0) {
		say_error(&p->d, w, "seq-conflict", 409, 0);
		return;
	}
	if (!k && w->u[W_SEQ] <= m->floor) {
		say_error(&p->d, w, "settled", 409, 0);
		return;
	}
	if (!k && w->u[W_AFTER] > m->floor && !find(m, w->u[W_AFTER])) {
		say_error(&p->d, w, "gap", 409, 0);
		return;
	}
	if (!k)
		k = append(m, w);
	if (dice(p, 60)) /* appended, and the answer is lost with the connection */
		return;
	say_ack(&p->d, w->u[W_SEQ], k->lamport, dup);
}

/* Each shard answers when it likes; now and then one send overtakes another. */
static void fly(struct play *p, const struct wire *w)
{
	struct flying *f = &p->fly[p->n_fly++];

	AN(p->n_fly <= FLYING_MAX);
	f->w = *w;
	memcpy(f->mid, w->b[W_MID].p, 16);
	f->w.b[W_MID].p = f->mid;
	if (w->u[W_CLASS]) {
		memcpy(f->body, w->b[W_BODY].p, 4);
		f->w.b[W_BODY].p = f->body;
	}
}

static void land(struct play *p)
{
	while (p->n_fly && !dice(p, 300)) {
		unsigned i = dice(p, 100) ? (unsigned)rand_below(&p->dice, p->n_fly) : 0;
		struct flying f = p->fly[i];

		f.w.b[W_MID].p = f.mid;
		f.w.b[W_BODY].p = f.body;
		p->n_fly--;
		memmove(&p->fly[i], &p->fly[i + 1], (p->n_fly - i) * sizeof f);
		for (; i < p->n_fly; i++) {
			p->fly[i].w.b[W_MID].p = p->fly[i].mid;
			p->fly[i].w.b[W_BODY].p = p->fly[i].body;
		}
		on_send(p, &f.w);
	}
}

/* What the gateway has taken goes on to the shards when the device is gone; its
 * answers reach nobody. */
static void gone(struct play *p)
{
	unsigned i;

	for (i = 0; i < p->n_fly; i++) {
		const struct wire *w = &p->fly[i].w;
		struct model *m = &p->shard[w->u[W_TO] % SHARDS];

		if (!dice(p, 500) && !forbidden(w) && !find(m, w->u[W_SEQ]) &&
		    w->u[W_SEQ] > m->floor &&
		    (w->u[W_AFTER] <= m->floor || find(m, w->u[W_AFTER])))
			append(m, w);
	}
	p->n_fly = 0;
}

static void on_frame(struct play *p, const struct wire *w)
{
	struct wire up;

	switch (w->u[W_T]) {
	case WIRE_HELLO:
		AN(!wire_has(w, W_CURSOR) || w->u[W_CURSOR] >= p->kept_cursor);
		/* What it names as its place it acknowledges. */
		AN(wire_u(w, W_CURSOR) <= p->records);
		if (wire_has(w, W_CURSOR))
			p->kept_cursor = w->u[W_CURSOR];
		p->sent_n = p->kept_cursor;
		/* Records come twice for all the device knows. */
		if (p->sent_n > 3 && dice(p, 300))
			p->sent_n -= 3;
		if (wire_has(w, W_CURSOR))
			say_welcome(&p->d, true, NULL, p->end);
		else
			say_welcome(&p->d, false, "new", p->kept_cursor);
		wire_start(&up, WIRE_CAUGHT_UP);
		wire_set(&up, W_N, p->end);
		say(&p->d, &up);
		break;
	case WIRE_SEND:
		fly(p, w);
		break;
	case WIRE_RECV:
		/* Only what its storage holds may be acknowledged. */
		AN(w->u[W_CURSOR] <= p->records);
		if (w->u[W_CURSOR] > p->kept_cursor)
			p->kept_cursor = w->u[W_CURSOR];
		break;
	case WIRE_PING:
		say_id(&p->d, WIRE_PONG, w->u[W_ID]);
		break;
	default:
		break;
	}
}

/* ---- the device ----------------------------------------------------------- */

/* The store's log becomes durable: records in order, once. */
static void durable(void *arg, const struct store_op *op)
{
	struct play *p = arg;

	if (op->kind == STORE_RECORD) {
		AN(op->record.n == p->records + 1);
		p->records++;
	} else if (op->kind == STORE_PUT && op->put.cls) {
		uint32_t number;

		AN(op->put.seq < 2 * MESSAGES);
		memcpy(&number, op->put.body, sizeof number);
		p->stored[op->put.seq] = number;
		if (number > p->said)
			p->said = number;
	} else if (op->kind == STORE_SETTLE) {
		p->outcome[p->stored[op->settle.seq]] = (uint8_t)op->settle.outcome;
	}
}

static void compose(struct play *p, uint32_t *next, uint64_t to)
{
	struct client_draft d = { .to = to, .cls = 1,
				  .body = next, .body_len = sizeof *next };
	uint64_t seq;

	if (*next > MESSAGES)
		return;
	AZ(client_send(p->d.client, &d, &seq, NULL));
	++*next;
}

static void drain(struct play *p)
{
	while (client_state(p->d.client) >= CLIENT_HELLO && device_take(&p->d)) {
		struct wire w = p->d.w;

		if (dice(p, 8)) { /* lost on its way, and all after it */
			p->losses++;
			client_on_closed(p->d.client, 0);
			gone(p);
			return;
		}
		on_frame(p, &w);
	}
	if (client_wants_close(p->d.client)) {
		client_on_closed(p->d.client, 0);
		gone(p);
	}
}

/* What happens next, by chance. */
static void step(struct play *p, uint32_t *next)
{
	struct client *c = p->d.client;
	unsigned burst;

	if (client_wants_dial(c))
		client_on_connect(c);
	drain(p);
	land(p);
	if (*next <= MESSAGES && rand_permille(&p->dice, 400))
		compose(p, next, 10 + rand_below(&p->dice, SHARDS));
	/* To one, so that its shard forgets the first of them. */
	for (burst = dice(p, 10) ? 200 : 0; burst; burst--)
		compose(p, next, 10);
	/* Acknowledging records syncs the store: half of the seeds do without
	 * while they send. */
	if (p->end < RECORDS && rand_permille(&p->dice, 300) &&
	    (!p->quiet || *next > MESSAGES))
		p->end++;
	while (client_state(c) == CLIENT_LIVE && p->sent_n < p->end &&
	       p->sent_n < p->kept_cursor + 8) {
		p->sent_n++;
		say_deliver(&p->d, p->sent_n, 3 * p->sent_n);
	}
	drain(p);
	if (dice(p, 6)) {
		p->crashes++;
		gone(p);
		device_crash(&p->d, rand_below(&p->dice, p->d.mem.n_pending + 1));
		/* Messages that no storage held are composed again. */
		*next = p->said + 1;
		c = p->d.client;
	} else if (dice(p, 6) && client_linked(c)) {
		p->losses++;
		client_on_closed(c, dice(p, 500) ? 1001 : 0);
		gone(p);
	}
	AN(client_state(c) != CLIENT_STOPPED);
	if (rand_permille(&p->dice, 300) || p->calm) {
		uint64_t at = client_deadline_us(c);

		/* Answers that are due come before patience ends, mostly. */
		if (p->n_fly && at > p->d.now_us + 1000000 && !dice(p, 5))
			at = p->d.now_us + 1000000;
		if (at != UINT64_MAX && at > p->d.now_us)
			p->d.now_us = at;
		client_tick(c);
	}
	p->d.n_events = 0;
}

/* Each once, and per shard in the order in which they were composed. */
static void check(const struct play *p)
{
	bool seen[MESSAGES + 1] = { false };
	unsigned i, k, n = 0, voids = 0;

	for (k = 0; k < SHARDS; k++) {
		uint32_t last = 0;

		for (i = 0; i < p->shard[k].n_log; i++) {
			uint32_t number = p->shard[k].log[i];

			voids += number == 0;
			if (number == 0)
				continue;
			AN(number <= MESSAGES && !seen[number]);
			AN(number > last);
			AN(p->outcome[number] == CLIENT_ACKED);
			seen[number] = true;
			last = number;
			n++;
		}
	}
	/* A message is there, or a void has its number and the user knows. */
	for (i = 1; i <= MESSAGES; i++)
		AN(seen[i] || p->outcome[i] == CLIENT_REFUSED);
	AN(n + voids == MESSAGES && voids == MESSAGES / 41 + 1);
	AN(p->records == RECORDS && p->kept_cursor == RECORDS);
}

static void play(uint64_t seed, bool aloud)
{
	struct play *p = xcalloc(1, sizeof *p);
	uint32_t next = 1;
	unsigned steps = 0;

	p->fly = xcalloc(FLYING_MAX + 1, sizeof *p->fly);
	rand_seeded(&p->dice, seed * 2 + 1);
	device_world_init(&p->d, seed);
	p->d.mem.durable = durable;
	p->d.mem.arg = p;
	device_open(&p->d);
	p->quiet = seed & 1;
	while (next <= MESSAGES || client_outbox_len(p->d.client) ||
	       p->kept_cursor < RECORDS) {
		if (steps++ > STEPS_MAX) {
			fprintf(stderr, "seed %" PRIu64 " comes to no end: %s, next %u, open "
				"%zu, acknowledged %" PRIu64 ", stored %" PRIu64 "\n", seed,
				client_state_name(client_state(p->d.client)), next,
				client_outbox_len(p->d.client), p->kept_cursor,
				p->records);
			WRONG("no end");
		}
		p->calm = steps > 3000;
		step(p, &next);
	}
	AZ(p->d.mem.store.ops->sync(&p->d.mem.store, NULL));
	check(p);
	if (aloud)
		printf("seed %" PRIu64 ": %u steps, %u crashes, %u losses, %u refusals, "
		       "%u voids\n", seed, steps, p->crashes, p->losses, p->refusals,
		       p->voids);
	device_world_release(&p->d);
	free(p->fly);
	free(p);
}

static void nothing_is_lost_doubled_or_out_of_order(void **state)
{
	uint64_t seed;

	(void)state;
	if (one_seed) {
		play(one_seed, true);
		return;
	}
	for (seed = 1; seed <= 200; seed++) {
		/* Known when an assertion ends the process. */
		fprintf(stderr, "\rseed %" PRIu64 " ", seed);
		play(seed, false);
	}
	fputs("\n", stderr);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_is_lost_doubled_or_out_of_order),
	};

	if (argc > 1)
		one_seed = strtoull(argv[1], NULL, 10);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
