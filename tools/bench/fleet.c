#include "tools/bench/fleet.h"
#include "base/addr.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/base64.h"
#include "base/hash.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define TICK_US 5000
#define DIAL_US 10000000ull
#define HTTP_HEAD_MAX 4096
#define EVENTS 256
#define OUT_KEEP (64u << 10)

uint64_t bench_now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

/* ---- opening ---------------------------------------------------------------- */

static int add_gateway(struct fleet *f, const char *text, struct err *e)
{
	struct addrinfo hints = { .ai_family = AF_INET,
				  .ai_socktype = SOCK_STREAM };
	struct addrinfo *ai;
	struct addr a;
	int rv = addr_parse(&a, text, e);

	if (rv)
		return rv;
	if (f->n_gateways == FLEET_GATEWAYS_MAX)
		return err_set(e, ERR_CONFIG, "more than %d gateways",
			       FLEET_GATEWAYS_MAX);
	rv = getaddrinfo(a.host, NULL, &hints, &ai);
	if (rv)
		return err_set(e, ERR_CONFIG, "cannot resolve %s: %s", a.host,
			       gai_strerror(rv));
	memcpy(&f->gateways[f->n_gateways], ai->ai_addr,
	       sizeof f->gateways[0]);
	f->gateways[f->n_gateways].sin_port = htons(a.port);
	freeaddrinfo(ai);
	snprintf(f->names[f->n_gateways], sizeof f->names[0], "%.62s", text);
	f->n_gateways++;
	return 0;
}

int fleet_init(struct fleet *f, const char *gateways, unsigned window,
	       struct err *e)
{
	char *copy = xstrdup(gateways), *save, *t;
	int rv = 0;

	memset(f, 0, sizeof *f);
	list_init(&f->all);
	list_init(&f->dirty);
	list_init(&f->wait);
	list_init(&f->dialq);
	f->window = window;
	f->epoll = -1;
	for (t = strtok_r(copy, ",", &save); t && !rv;
	     t = strtok_r(NULL, ",", &save)) {
		if (strncmp(t, "ws://", 5) == 0)
			t += 5;
		rv = add_gateway(f, t, e);
	}
	free(copy);
	if (!rv && !f->n_gateways)
		rv = err_set(e, ERR_CONFIG, "no gateway");
	if (rv)
		return rv;
	f->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (f->epoll < 0)
		return err_errno(e, errno, "epoll_create1");
	f->in = xmalloc(FLEET_READ_BYTES);
	rand_seeded(&f->rand, rand_u64(&rand_real));
	rand_fill(&rand_real, f->nonce, sizeof f->nonce);
	f->now_us = f->tick_us = f->second_us = bench_now_us();
	return 0;
}

void fleet_release(struct fleet *f)
{
	AN(list_empty(&f->all));
	if (f->epoll >= 0)
		close(f->epoll);
	free(f->in);
	buf_release(&f->scratch);
}

void peer_init(struct peer *p, struct fleet *f, uint64_t account, uint32_t device,
	       char *token, unsigned gateway)
{
	memset(p, 0, sizeof *p);
	p->fleet = f;
	p->fd = -1;
	list_append(&f->all, &p->all);
	list_init(&p->dirty);
	list_init(&p->wait);
	p->account = account;
	p->device = device;
	p->token = token;
	p->gateway = gateway % f->n_gateways;
	p->next_seq = p->low_seq = 1;
	f->n_peers++;
}

void fleet_dirty(struct peer *p)
{
	if (list_empty(&p->dirty))
		list_append(&p->fleet->dirty, &p->dirty);
}

void fleet_wake(struct peer *p, uint64_t at_us)
{
	if (list_empty(&p->wait)) {
		list_append(&p->fleet->wait, &p->wait);
		p->wake_us = at_us;
	} else if (at_us < p->wake_us) {
		p->wake_us = at_us;
	}
}

/* ---- a connection's life ------------------------------------------------------ */

static void want(struct peer *p, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.ptr = p };

	AZ(epoll_ctl(p->fleet->epoll, EPOLL_CTL_MOD, p->fd, &ev));
	p->writable = events & EPOLLOUT;
}

static void drop(struct peer *p)
{
	struct fleet *f = p->fleet;

	if (p->state == PEER_LIVE)
		f->live--;
	else if (p->state >= PEER_DIAL)
		f->dialing--;
	p->state = PEER_OFF;
	if (p->fd >= 0)
		close(p->fd); /* leaves epoll by itself */
	p->fd = -1;
	p->writable = false;
	list_remove(&p->dirty);
	list_remove(&p->wait);
	ws_reader_release(&p->ws);
	buf_release(&p->head);
	buf_release(&p->out);
	p->out_at = 0;
}

void peer_lost(struct peer *p, const char *why)
{
	struct fleet *f = p->fleet;
	unsigned shift = p->attempts < 6 ? p->attempts : 6;
	uint64_t ms = (uint64_t)FLEET_BACKOFF_MIN_MS << shift;

	snprintf(f->stats.last_error, sizeof f->stats.last_error, "%s: %s",
		 f->names[p->gateway], why);
	drop(p);
	if (ms > FLEET_BACKOFF_MAX_MS)
		ms = FLEET_BACKOFF_MAX_MS;
	p->attempts++;
	p->gateway = (p->gateway + 1) % f->n_gateways;
	p->state = PEER_WAIT;
	fleet_wake(p, f->now_us + 1000 * (ms / 2 + rand_below(&f->rand, ms)));
}

void peer_dial(struct peer *p)
{
	AN(p->state == PEER_OFF);
	p->state = PEER_WAIT;
	fleet_wake(p, p->fleet->now_us);
}

void peer_off(struct peer *p)
{
	drop(p);
}

void peer_release(struct peer *p)
{
	drop(p);
	list_remove(&p->all);
	p->fleet->n_peers--;
	free(p->token);
}

static void say_upgrade(struct peer *p)
{
	uint8_t key[16];
	struct buf text = BUF_INIT;

	rand_fill(&p->fleet->rand, key, sizeof key);
	base64_put(&text, key, sizeof key);
	ws_accept((const char *)text.data, text.len, p->accept);
	buf_printf(&p->out, "GET /v1/stream HTTP/1.1\r\nHost: %s\r\n"
		   "Upgrade: websocket\r\nConnection: Upgrade\r\n"
		   "Sec-WebSocket-Key: %.*s\r\nSec-WebSocket-Version: 13\r\n"
		   "Sec-WebSocket-Protocol: " WIRE_SUBPROTOCOL_CBOR "\r\n\r\n",
		   p->fleet->names[p->gateway], (int)text.len,
		   (const char *)text.data);
	buf_release(&text);
	fleet_dirty(p);
}

static void dial(struct peer *p)
{
	struct fleet *f = p->fleet;
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = p };
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK |
				 SOCK_CLOEXEC, 0);

	p->state = PEER_DIAL;
	f->dialing++;
	p->tried_us = f->now_us;
	p->fd = fd;
	if (fd < 0 ||
	    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) ||
	    (connect(fd, (struct sockaddr *)&f->gateways[p->gateway],
		     sizeof f->gateways[0]) && errno != EINPROGRESS) ||
	    epoll_ctl(f->epoll, EPOLL_CTL_ADD, fd, &ev)) {
		peer_lost(p, strerror(errno));
		return;
	}
	say_upgrade(p);
}

/* The end of the HTTP head: the upgrade, or a refusal.  Returns how many of the n
 * new bytes belong to the head; 0: not all here. */
static size_t upgrade(struct peer *p, const uint8_t *in, size_t n)
{
	size_t before = p->head.len, used;
	const char *text, *end, *field;
	char why[120];

	buf_put(&p->head, in, n);
	buf_u8(&p->head, 0);
	p->head.len--;
	text = (const char *)p->head.data;
	end = strstr(text, "\r\n\r\n");
	if (!end) {
		if (p->head.len > HTTP_HEAD_MAX)
			peer_lost(p, "an endless HTTP head");
		return 0;
	}
	used = (size_t)(end + 4 - text) - before;
	field = strcasestr(text, "\r\nSec-WebSocket-Accept:");
	if (strncmp(text, "HTTP/1.1 101 ", 13) != 0 || !field ||
	    !strstr(field, p->accept)) {
		int line = (int)strcspn(text, "\r\n");

		snprintf(why, sizeof why, "no upgrade: %.*s",
			 line < 60 ? line : 60, text);
		peer_lost(p, why);
		return 0;
	}
	buf_release(&p->head);
	ws_reader_init(&p->ws, false, 512u << 10);
	p->state = PEER_HELLO;
	peer_hello(p);
	return used;
}

static void readable(struct peer *p)
{
	struct fleet *f = p->fleet;
	struct ws_message m;
	const char *why = NULL;
	unsigned code;
	uint8_t *at = f->in;
	size_t left;
	ssize_t n = recv(p->fd, f->in, FLEET_READ_BYTES, 0);
	int rv;

	if (n <= 0) {
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		peer_lost(p, n == 0 ? "closed" : strerror(errno));
		return;
	}
	f->stats.reads++;
	f->stats.bytes_in += (size_t)n;
	left = (size_t)n;
	if (p->state == PEER_DIAL) {
		size_t used = upgrade(p, at, left);

		if (!used)
			return;
		at += used;
		left -= used;
	}
	while (p->fd >= 0) {
		rv = ws_read(&p->ws, &at, &left, &m, &code, &why);
		if (rv < 0)
			peer_lost(p, why);
		if (rv <= 0)
			break;
		peer_message(p, &m);
	}
}

static void flush(struct peer *p)
{
	size_t n = p->out.len - p->out_at;
	ssize_t w;

	if (p->fd < 0 || !n)
		return;
	w = send(p->fd, p->out.data + p->out_at, n, MSG_NOSIGNAL);
	p->fleet->stats.writes++;
	if (w < 0) {
		/* ENOTCONN, EAGAIN: the connect goes on */
		if (errno != EAGAIN && errno != EINTR && errno != ENOTCONN) {
			peer_lost(p, strerror(errno));
			return;
		}
		w = 0;
	}
	p->fleet->stats.bytes_out += (size_t)w;
	p->said_us = p->fleet->now_us;
	p->out_at += (size_t)w;
	if (p->out_at < p->out.len) {
		if (!p->writable)
			want(p, EPOLLIN | EPOLLOUT);
		return;
	}
	if (p->writable)
		want(p, EPOLLIN);
	p->out_at = p->out.len = 0;
	if (p->out.cap > OUT_KEEP)
		buf_release(&p->out);
}

static void flush_all(struct fleet *f)
{
	struct list *l;

	while ((l = list_pop(&f->dirty)))
		flush(container_of(l, struct peer, dirty));
}

/* ---- turns -------------------------------------------------------------------- */

static void each_second(struct fleet *f)
{
	LIST_FOREACH(l, &f->all) {
		struct peer *p = container_of(l, struct peer, all);
		struct peer_send *s = &p->ring[p->low_seq % PEER_SPAN];

		if ((p->state == PEER_DIAL || p->state == PEER_HELLO) &&
		    f->now_us - p->tried_us > DIAL_US)
			peer_lost(p, "no welcome within 10 s");
		else if (p->state >= PEER_CATCHUP && p->n_open && s->open &&
			 !s->retry_us &&
			 f->now_us - s->sent_us > FLEET_ANSWER_MS * 1000ull)
			peer_lost(p, "no answer to a send");
		else if (p->state >= PEER_CATCHUP &&
			 f->now_us - p->said_us > FLEET_PING_S * 1000000ull)
			peer_ping(p);
	}
}

static void tick(struct fleet *f)
{
	struct list due;

	list_init(&due);
	LIST_FOREACH_SAFE(l, &f->wait) {
		struct peer *p = container_of(l, struct peer, wait);

		if (p->wake_us > f->now_us)
			continue;
		list_remove(l);
		list_append(&due, l);
	}
	while (!list_empty(&due)) {
		struct peer *p = container_of(list_pop(&due), struct peer, wait);

		if (p->state != PEER_WAIT)
			peer_tick(p);
		else if (f->dialing < FLEET_DIALS_MAX)
			dial(p);
		else
			fleet_wake(p, f->now_us + TICK_US);
	}
	if (f->now_us - f->second_us > 1000000) {
		f->second_us = f->now_us;
		each_second(f);
	}
}

void fleet_turn(struct fleet *f, int ms)
{
	struct epoll_event ev[EVENTS];
	int i, n;

	flush_all(f);
	if (!list_empty(&f->wait) && ms > TICK_US / 1000)
		ms = TICK_US / 1000;
	n = epoll_wait(f->epoll, ev, EVENTS, ms);
	f->now_us = bench_now_us();
	for (i = 0; i < n; i++) {
		struct peer *p = ev[i].data.ptr;

		if (p->fd < 0)
			continue;
		if (ev[i].events & EPOLLOUT)
			flush(p);
		if (p->fd >= 0 && ev[i].events & ~EPOLLOUT)
			readable(p);
	}
	if (f->now_us - f->tick_us >= TICK_US) {
		f->tick_us = f->now_us;
		tick(f);
	}
	flush_all(f);
}

bool fleet_wait_live(struct fleet *f, unsigned n, unsigned ms)
{
	uint64_t end = bench_now_us() + ms * 1000ull;

	while (f->live < n && bench_now_us() < end)
		fleet_turn(f, 10);
	return f->live >= n;
}
