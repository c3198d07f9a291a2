/* Links between nodes of one process, over loopback sockets with real TLS. */
#include "base/alloc.h"
#include "base/bytes.h"
#include "base/hash.h"
#include "base/logf.h"
#include "base/tls.h"
#include "consensus/link.h"
#include "consensus/link_impl.h"
#include "log/entry.h"
#include "tests/lib/certs.h"

#include <arpa/inet.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#include <cmocka.h>

#define WAIT_MS 10000

static char dir[256];
static char log_text[16384];

static void on_log(void *arg, const char *line)
{
	size_t n = strlen(log_text);

	(void)arg;
	snprintf(log_text + n, sizeof log_text - n, "%s\n", line);
}

/* ---- a node --------------------------------------------------------------- */

struct node {
	uint64_t id;
	uv_loop_t loop;
	struct net *net;
	unsigned ups[NET_NODE_MAX], downs[NET_NODE_MAX];
	bool closed;
	/* What came: counter messages must come in order. */
	uint64_t messages, next, bad, bytes;
	size_t last_len;
	uint64_t last_hash;
	bool echo;
};

static void on_up(void *arg, uint64_t peer)
{
	struct node *n = arg;

	assert_int_equal(n->ups[peer], n->downs[peer]);
	n->ups[peer]++;
	n->next = 0;
}

static void on_down(void *arg, uint64_t peer)
{
	struct node *n = arg;

	assert_int_equal(n->ups[peer], n->downs[peer] + 1);
	n->downs[peer]++;
}

static void on_message(void *arg, uint64_t peer, const uint8_t *p, size_t n)
{
	struct node *node = arg;

	assert_int_equal(node->ups[peer], node->downs[peer] + 1);
	node->messages++;
	node->bytes += n;
	node->last_len = n;
	if (n >= 8 && get_u64(p) != node->next++)
		node->bad++;
	if (n > 4096)
		node->last_hash = xxh3(p, n);
	if (node->echo)
		assert_int_equal(node->net->ops->send(node->net, peer, p, n,
						      NULL, 0), 0);
}

struct setup {
	const char *cert; /* base name in the folder; NULL: plain */
	const char *ca;   /* NULL: "ca" */
	const char *cluster;
	const char *listen;
	uint64_t peer;
	uint16_t peer_port;
	unsigned keepalive_ms, dead_ms;
	uint8_t cluster_byte;
	struct door *door; /* who may come; NULL: all */
	uint64_t founders;
};

/* Who may come, and what was heard of it. */
struct door {
	int verdict;     /* for all */
	bool mute;       /* once refused elsewhere, for good */
	unsigned asked, refused;
	bool none;       /* the last one named no disk */
	uint8_t disk_id[16];
	bool joined;
};

static int door_admit(void *arg, uint64_t id, const uint8_t disk_id[16],
		      bool joined, struct err *e)
{
	struct door *d = arg;

	d->asked++;
	d->none = !disk_id;
	if (disk_id)
		memcpy(d->disk_id, disk_id, 16);
	d->joined = joined;
	if (d->verdict)
		err_set(e, d->verdict, "node %u has an empty disk", (unsigned)id);
	return d->verdict;
}

static bool door_refused(void *arg, uint64_t id, const char *why)
{
	struct door *d = arg;

	(void)id;
	assert_non_null(strstr(why, "empty disk"));
	d->refused++;
	return d->mute;
}

static int node_try(struct node *n, uint64_t id, const struct setup *s,
		    struct err *e)
{
	static char ca[512], cert[512], key[512], addr[64];
	struct link_peer_config peer = { s->peer, addr };
	struct link_config c = { .self = id,
				 .cluster_name = s->cluster ? s->cluster : "t",
				 .listen = s->listen ? s->listen :
						       "127.0.0.1:0",
				 .peers = &peer,
				 .n_peers = 1,
				 .keepalive_ms = s->keepalive_ms,
				 .dead_ms = s->dead_ms,
				 .founders = s->founders,
				 .joined = s->cluster_byte == 0 && id == 3 };
	int rv;

	memset(n, 0, sizeof *n);
	n->id = id;
	assert_int_equal(uv_loop_init(&n->loop), 0);
	memset(c.cluster_id, 7 + s->cluster_byte, sizeof c.cluster_id);
	memset(c.disk_id, (int)(64 + id), sizeof c.disk_id);
	if (s->door)
		c.admit = (struct link_admit){ door_admit, door_refused,
					       s->door };
	snprintf(addr, sizeof addr, "127.0.0.1:%u", s->peer_port);
	if (s->cert) {
		snprintf(ca, sizeof ca, "%s/%s.crt", dir, s->ca ? s->ca : "ca");
		snprintf(cert, sizeof cert, "%s/%s.crt", dir, s->cert);
		snprintf(key, sizeof key, "%s/%s.key", dir, s->cert);
		c.ca = ca;
		c.cert = cert;
		c.key = key;
	}
	rv = link_open(&n->net, &n->loop, &c, &rand_real, e);
	if (rv) {
		assert_null(n->net);
		assert_int_equal(uv_loop_close(&n->loop), 0);
		return rv;
	}
	n->net->on_up = on_up;
	n->net->on_down = on_down;
	n->net->on_message = on_message;
	n->net->arg = n;
	return 0;
}

static void node_open(struct node *n, uint64_t id, const struct setup *s)
{
	struct err e = { 0, "" };

	if (node_try(n, id, s, &e))
		fail_msg("link_open: %s", e.msg);
}

static void on_node_closed(void *arg)
{
	((struct node *)arg)->closed = true;
}

static void node_close(struct node *n)
{
	link_close(n->net, on_node_closed, n);
	uv_run(&n->loop, UV_RUN_DEFAULT);
	assert_true(n->closed);
	assert_int_equal(uv_loop_close(&n->loop), 0);
}

static void turn(struct node *n)
{
	uv_run(&n->loop, UV_RUN_NOWAIT);
	n->net->ops->flush(n->net);
}

static void turn_both(struct node *a, struct node *b)
{
	turn(a);
	if (b)
		turn(b);
}

/* Turn both loops (b may be NULL) until the condition holds. */
#define WAIT(a, b, cond)                                                       \
	do {                                                                   \
		uint64_t end_ = uv_hrtime() + WAIT_MS * 1000000ull;            \
		while (!(cond)) {                                              \
			turn_both(a, b);                                       \
			if (uv_hrtime() > end_)                                \
				fail_msg("waited in vain for %s\n%s", #cond,   \
					 log_text);                            \
		}                                                              \
	} while (0)

static bool is_up(struct node *n, uint64_t peer)
{
	return n->net->ops->is_up(n->net, peer);
}

static const struct setup n2_tls = { .cert = "n2", .peer = 1, .peer_port = 1 };

/* Node 2 first, as node 1 dials it. */
static void pair_open(struct node *a, struct node *b, bool tls)
{
	struct setup s2 = n2_tls, s1 = { .cert = "n1", .peer = 2 };

	if (!tls)
		s1.cert = s2.cert = NULL;
	node_open(b, 2, &s2);
	s1.peer_port = link_port(b->net);
	node_open(a, 1, &s1);
	WAIT(a, b, is_up(a, 2) && is_up(b, 1));
}

static void pair_close(struct node *a, struct node *b)
{
	node_close(a);
	node_close(b);
}

static int send_counter(struct node *n, uint64_t to, uint64_t v, size_t len)
{
	uint8_t msg[512] = { 0 };

	put_u64(msg, v);
	return n->net->ops->send(n->net, to, msg, len, NULL, 0);
}

/* ---- the good days -------------------------------------------------------- */

static void both_ways_in_order(bool tls)
{
	struct node a, b;
	struct link_stats before, after;
	unsigned i;

	pair_open(&a, &b, tls);
	assert_int_equal(link_stats(a.net, 2, &before), 0);
	for (i = 0; i < 2000; i++) {
		assert_int_equal(send_counter(&a, 2, i, 8 + i % 100), 0);
		assert_int_equal(send_counter(&b, 1, i, 8 + i % 300), 0);
	}
	assert_true(a.net->ops->queued(a.net, 2) > 2000 * 12);
	a.net->ops->flush(a.net);
	assert_int_equal(link_stats(a.net, 2, &after), 0);
	/* All of it in one write. */
	assert_int_equal(after.writes, before.writes + 1);
	assert_int_equal(after.messages_out, 2000);
	WAIT(&a, &b, a.messages == 2000 && b.messages == 2000);
	assert_int_equal(a.bad + b.bad, 0);
	assert_int_equal(a.net->ops->queued(a.net, 2), 0);
	pair_close(&a, &b);
}

static void in_order_with_tls(void **state)
{
	(void)state;
	both_ways_in_order(true);
}

static void in_order_plain(void **state)
{
	(void)state;
	both_ways_in_order(false);
	assert_non_null(strstr(log_text, "event=link_plain"));
}

/* The greatest message, made of a head and entries, some small, some large. */
static void big_messages(void **state)
{
	static const uint32_t lens[] = { 1, 100, 5000, 16384, 16385, 1 << 20,
					 3 << 20 };
	struct entry *entries[8];
	struct hash_part parts[9];
	struct node a, b;
	uint8_t *head;
	size_t total = 0, left;
	unsigned i, k, tls;

	(void)state;
	for (tls = 0; tls < 2; tls++) {
		pair_open(&a, &b, tls);
		total = 0;
		for (i = 0; i < 7; i++) {
			entries[i] = entry_new(1, lens[i]);
			rand_fill(&rand_real, entry_payload(entries[i]),
				  lens[i]);
			total += lens[i];
		}
		left = NET_MESSAGE_MAX - total;
		head = xmalloc(left + 1);
		rand_fill(&rand_real, head, left);
		put_u64(head, 0);
		parts[0] = (struct hash_part){ head, left };
		for (i = 0; i < 7; i++)
			parts[i + 1] = (struct hash_part){
				entry_payload(entries[i]), lens[i] };
		assert_int_equal(a.net->ops->send(a.net, 2, head, left + 1,
						  entries, 7), ERR_TOO_LARGE);
		assert_int_equal(a.net->ops->send(a.net, 2, head, left, entries,
						  7), 0);
		/* The link holds its own references. */
		for (i = 0; i < 7; i++)
			assert_int_equal(entries[i]->refs, 2);
		WAIT(&a, &b, b.messages == 1);
		assert_int_equal(b.last_len, NET_MESSAGE_MAX);
		assert_true(b.last_hash == xxh3_parts(parts, 8));
		for (k = 0; k < 7; k++) {
			assert_int_equal(entries[k]->refs, 1);
			entry_unref(entries[k]);
		}
		free(head);
		pair_close(&a, &b);
	}
}

static void full_queue_is_an_answer(void **state)
{
	struct node a, b;
	uint8_t *msg = xcalloc(1, 1 << 20);
	struct entry *entry;
	unsigned sent = 0;
	int rv;

	(void)state;
	pair_open(&a, &b, true);
	for (;; sent++) {
		put_u64(msg, sent);
		rv = a.net->ops->send(a.net, 2, msg, 1 << 20, NULL, 0);
		if (rv)
			break;
	}
	assert_int_equal(rv, ERR_FULL);
	assert_int_equal(sent, 31);
	assert_true(a.net->ops->queued(a.net, 2) <= NET_QUEUE_MAX);
	WAIT(&a, &b, b.messages == sent);
	assert_int_equal(b.bad, 0);
	/* Entries leave room for what is small. */
	entry = entry_new(1, 1 << 20);
	memset(entry_payload(entry), 0, entry->len);
	for (sent = 0; !(rv = a.net->ops->send(a.net, 2, msg, 8, &entry, 1)); sent++)
		;
	assert_int_equal(rv, ERR_FULL);
	assert_int_equal(sent, 27);
	assert_int_equal(a.net->ops->send(a.net, 2, msg, 1 << 20, NULL, 0), 0);
	entry_unref(entry);
	assert_int_equal(a.net->ops->send(a.net, 3, msg, 8, NULL, 0),
			 ERR_CLOSED);
	free(msg);
	pair_close(&a, &b);
}

static void idle_links_stay_up(void **state)
{
	struct setup s2 = n2_tls, s1 = { .cert = "n1", .peer = 2 };
	struct node a, b;
	uint64_t until;

	(void)state;
	s1.keepalive_ms = s2.keepalive_ms = 20;
	s1.dead_ms = s2.dead_ms = 200;
	node_open(&b, 2, &s2);
	s1.peer_port = link_port(b.net);
	node_open(&a, 1, &s1);
	WAIT(&a, &b, is_up(&a, 2) && is_up(&b, 1));
	until = uv_hrtime() + 1000 * 1000000ull;
	WAIT(&a, &b, uv_hrtime() > until);
	assert_int_equal(a.ups[2], 1);
	assert_int_equal(b.downs[1], 0);
	assert_int_equal(a.messages + b.messages, 0); /* signs are not told */
	pair_close(&a, &b);
}

/* ---- breaks --------------------------------------------------------------- */

static void a_restarted_node_is_found_again(void **state)
{
	struct setup s2 = n2_tls;
	struct node a, b;
	char listen[32];
	unsigned i, k;

	(void)state;
	pair_open(&a, &b, true);
	snprintf(listen, sizeof listen, "127.0.0.1:%u", link_port(b.net));
	for (k = 1; k <= 3; k++) {
		assert_int_equal(send_counter(&a, 2, 0, 8), 0);
		node_close(&b);
		WAIT(&a, NULL, a.downs[2] == k);
		assert_false(is_up(&a, 2));
		assert_int_equal(send_counter(&a, 2, 0, 8), ERR_CLOSED);
		s2.listen = listen;
		node_open(&b, 2, &s2);
		WAIT(&a, &b, is_up(&a, 2) && is_up(&b, 1));
		/* Nothing of before the break comes after it. */
		for (i = 0; i < 10; i++)
			assert_int_equal(send_counter(&a, 2, i, 8), 0);
		WAIT(&a, &b, b.messages == 10);
		assert_int_equal(b.bad, 0);
	}
	assert_int_equal(a.ups[2], 4);
	pair_close(&a, &b);
	/* The dialer restarts: the acceptor takes the new one. */
	pair_open(&a, &b, true);
	node_close(&a);
	WAIT(&b, NULL, b.downs[1] == 1);
	node_close(&b);
}

static int reload(struct node *n, const char *ca, const char *cert, struct err *e)
{
	char paths[3][3 * sizeof dir];
	struct tls_files files = { paths[0], paths[1], paths[2] };

	snprintf(paths[0], sizeof paths[0], "%s/%s.crt", dir, ca);
	snprintf(paths[1], sizeof paths[1], "%s/%s.crt", dir, cert);
	snprintf(paths[2], sizeof paths[2], "%s/%s.key", dir, cert);
	return link_reload(n->net, &files, e);
}

/* Files that are no good change nothing; good ones are what the next handshake goes
 * by, while the link that is there stays. */
static void certificates_are_read_again(void **state)
{
	static const char *const bad[] = { "mixed", "broken", "old1", "nosan", "n2",
					   "x1", "none", "server1" };
	struct setup s2 = n2_tls;
	struct err e = { 0, "" };
	struct node a, b;
	char listen[32];
	int64_t until;
	unsigned i;

	(void)state;
	pair_open(&a, &b, true);
	snprintf(listen, sizeof listen, "127.0.0.1:%u", link_port(b.net));
	s2.listen = listen;
	until = link_cert_expires(a.net);
	assert_in_range(until - time(NULL), 9 * 86400, 10 * 86400);
	for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		if (!reload(&a, "ca", bad[i], &e))
			fail_msg("%s was taken", bad[i]);
		assert_non_null(strstr(e.msg, bad[i]));
	}
	assert_int_equal(link_cert_expires(a.net), until);
	/* What was in force still is. */
	node_close(&b);
	WAIT(&a, NULL, a.downs[2] == 1);
	node_open(&b, 2, &s2);
	WAIT(&a, &b, is_up(&a, 2) && is_up(&b, 1));

	assert_int_equal(reload(&a, "ca", "later1", &e), 0);
	assert_true(link_cert_expires(a.net) > until);
	assert_int_equal(reload(&a, "xca", "x1", &e), 0);
	assert_int_equal(send_counter(&a, 2, 0, 8), 0);
	WAIT(&a, &b, b.messages == 1);
	assert_int_equal(a.downs[2], 1);
	node_close(&b);
	WAIT(&a, NULL, a.downs[2] == 2);
	node_open(&b, 2, &s2);
	WAIT(&a, &b, strstr(log_text, "event=link_failed peer=2") &&
		     strstr(log_text, "certificate"));
	assert_int_equal(reload(&a, "ca", "n1", &e), 0);
	WAIT(&a, &b, is_up(&a, 2) && is_up(&b, 1));
	pair_close(&a, &b);
}

static void plain_links_have_nothing_to_read(void **state)
{
	struct err e = { 0, "" };
	struct node a, b;

	(void)state;
	pair_open(&a, &b, false);
	assert_int_equal(reload(&a, "none", "none", &e), 0);
	assert_int_equal(link_cert_expires(a.net), 0);
	pair_close(&a, &b);
}

/* A peer that stands still (its loop does not turn) is silent: down. */
static void silence_is_noticed(void **state)
{
	struct setup s2 = n2_tls, s1 = { .cert = "n1", .peer = 2 };
	struct node a, b;

	(void)state;
	s1.keepalive_ms = s2.keepalive_ms = 20;
	s1.dead_ms = 150;
	s2.dead_ms = 60000;
	node_open(&b, 2, &s2);
	s1.peer_port = link_port(b.net);
	node_open(&a, 1, &s1);
	WAIT(&a, &b, is_up(&a, 2) && is_up(&b, 1));
	WAIT(&a, NULL, a.downs[2] == 1);
	assert_non_null(strstr(log_text, "ERR_TIMEOUT"));
	/* It comes back; its old half of the link is replaced. */
	WAIT(&a, &b, is_up(&a, 2) && is_up(&b, 1) && b.ups[1] == 2);
	assert_int_equal(b.downs[1], 1);
	assert_int_equal(send_counter(&b, 1, 0, 8), 0);
	WAIT(&a, &b, a.messages == 1);
	pair_close(&a, &b);
}

/* ---- refusals ------------------------------------------------------------- */

/* Node 1 of the setup and a good node 2 never come up; the log says why. */
static void expect_refused(struct setup s1, struct setup s2, const char *why1,
			   const char *why2)
{
	struct node a, b;

	node_open(&b, 2, &s2);
	s1.peer = 2;
	s1.peer_port = link_port(b.net);
	node_open(&a, 1, &s1);
	WAIT(&a, &b, (!why1 || strstr(log_text, why1)) &&
		     (!why2 || strstr(log_text, why2)));
	assert_int_equal(b.ups[1], 0);
	assert_int_equal(a.ups[2], 0);
	pair_close(&a, &b);
}

static void other_ca(void **state)
{
	struct setup s = { .cert = "x1", .ca = "xca" };

	(void)state;
	expect_refused(s, n2_tls, "self-signed certificate in certificate chain"
		       "", NULL);
}

static void other_node_name(void **state)
{
	/* Node 3's certificate used by who listens as node 2 is refused at
	 * home; a peer with it is refused by name. */
	struct setup s1 = { .cert = "n1" }, s2 = n2_tls;
	struct node n;
	struct err e = { 0, "" };

	(void)state;
	s1.cert = "n3";
	s1.peer = 2;
	s1.peer_port = 1;
	assert_int_equal(node_try(&n, 1, &s1, &e), ERR_TLS);
	assert_non_null(strstr(e.msg, "is for node-3.t.quipu, not for "
				      "node-1.t.quipu"));
	/* Of another cluster, but of the same CA. */
	s1.cert = "o1";
	s1.cluster = "o";
	expect_refused(s1, s2, "is for node-2.t.quipu, not for node-2.o.quipu",
		       NULL);
}

static void other_cluster(void **state)
{
	struct setup s1 = { .cert = "n1", .cluster_byte = 1 };

	(void)state;
	expect_refused(s1, n2_tls, "refused by the peer: node 1 belongs to "
		       "another cluster", "link_refused");
}

static void unknown_node(void **state)
{
	struct setup s1 = { .cert = "n1" }, s2 = n2_tls;

	(void)state;
	s2.peer = 3;
	expect_refused(s1, s2, "node 1 is not one of the peers of node 2",
		       NULL);
}

static void expect_error(struct setup s, int code, const char *what)
{
	struct node n;
	struct err e = { 0, "" };

	s.peer = 2;
	s.peer_port = 1;
	assert_int_equal(node_try(&n, 1, &s, &e), code);
	if (!strstr(e.msg, what))
		fail_msg("\"%s\" does not tell of \"%s\"", e.msg, what);
}

static void bad_configurations_are_named(void **state)
{
	struct node b;
	char listen[32];

	(void)state;
	node_open(&b, 2, &n2_tls);
	snprintf(listen, sizeof listen, "127.0.0.1:%u", link_port(b.net));
	expect_error((struct setup){ .cert = "n1", .listen = listen }, ERR_IO,
		     "Address already in use");
	node_close(&b);
	expect_error((struct setup){ .cert = "none" }, ERR_NOT_FOUND,
		     "none.crt: No such file");
	expect_error((struct setup){ .cert = "broken" }, ERR_TLS,
		     "broken.crt: ");
	expect_error((struct setup){ .cert = "mixed" }, ERR_TLS,
		     "mixed.key: key values mismatch");
	expect_error((struct setup){ .cert = "old1" }, ERR_TLS, "expired");
	expect_error((struct setup){ .cert = "x1" }, ERR_TLS,
		     "unable to get local issuer");
	expect_error((struct setup){ .cert = "nosan" }, ERR_TLS,
		     "not one of its dNSNames");
	expect_error((struct setup){ .listen = "0.0.0.0:0" }, ERR_CONFIG,
		     "only TLS may leave loopback");
	expect_error((struct setup){ .cert = "n1", .listen = "127.0.0.1" },
		     ERR_CONFIG, "expected host:port");
}

/* ---- strangers at the port ------------------------------------------------- */

static int stranger(uint16_t port)
{
	struct sockaddr_in sa = { .sin_family = AF_INET,
				  .sin_port = htons(port) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof sa), 0);
	return fd;
}

static bool hung_up(int fd)
{
	char b[1024];
	ssize_t n;

	while ((n = recv(fd, b, sizeof b, MSG_DONTWAIT)) > 0)
		;
	return n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK);
}

static void strangers_are_turned_away(void **state)
{
	static const uint8_t huge[] = { 1, 1, 0, 0, 'x' };
	struct buf b = BUF_INIT;
	struct link_hello h = { .version = LINK_VERSION, .from = 1, .to = 2 };
	struct setup plain = { .peer = 1, .peer_port = 1 };
	uint8_t junk[4096];
	struct node n;
	unsigned round;
	int fd;

	(void)state;
	for (round = 0; round < 6; round++) {
		struct setup s = round == 0 ? n2_tls : plain;

		node_open(&n, 2, &s);
		fd = stranger(link_port(n.net));
		buf_clear(&b);
		rand_fill(&rand_real, junk, sizeof junk);
		memset(h.cluster_id, 7, 16);
		h.version = LINK_VERSION;
		switch (round) {
		case 0: /* noise where TLS is expected */
			memset(junk, 0xff, 8);
			buf_put(&b, junk, sizeof junk);
			break;
		case 1: /* a first frame longer than a hello */
			buf_put(&b, huge, sizeof huge);
			break;
		case 2: /* no hello */
			buf_u32(&b, 48);
			buf_put(&b, junk, 48);
			b.data[4] = 'X';
			break;
		case 3:
			h.version = LINK_VERSION + 1;
			link_hello_put(&b, &h);
			break;
		case 4: /* an empty frame is no hello */
			buf_u32(&b, 0);
			break;
		default: /* a good hello, then a frame beyond the limit */
			link_hello_put(&b, &h);
			link_welcome_put(&b);
			buf_u32(&b, NET_MESSAGE_MAX + 1);
		}
		assert_int_equal(write(fd, b.data, b.len), (ssize_t)b.len);
		WAIT(&n, NULL, hung_up(fd));
		close(fd);
		assert_int_equal(n.ups[1], round == 5);
		assert_int_equal(n.downs[1], round == 5);
		assert_int_equal(n.messages, 0);
		node_close(&n);
	}
	assert_non_null(strstr(log_text, "version 3"));
	assert_non_null(strstr(log_text, "ERR_TOO_LARGE"));
	buf_release(&b);
}

/* Whoever connects and says nothing holds one of a few places for a while. */
static void silent_strangers_are_few(void **state)
{
	int fds[LINK_ACCEPTING_MAX + 4];
	unsigned i, gone;
	struct node n;

	(void)state;
	node_open(&n, 2, &n2_tls);
	for (i = 0; i < LINK_ACCEPTING_MAX + 4; i++) {
		fds[i] = stranger(link_port(n.net));
		turn(&n);
	}
	do {
		turn(&n);
		for (i = gone = 0; i < LINK_ACCEPTING_MAX + 4; i++)
			gone += hung_up(fds[i]);
	} while (gone < 4);
	assert_int_equal(gone, 4);
	/* After LINK_HANDSHAKE_MS all are gone. */
	WAIT(&n, NULL, hung_up(fds[0]));
	for (i = 0; i < LINK_ACCEPTING_MAX + 4; i++)
		close(fds[i]);
	node_close(&n);
}

/* ---- disks ----------------------------------------------------------------- */

/* Whoever refuses, the dialer or the dialled: nobody hears anything, both know why,
 * and it is asked again until the answer is another one. */
static void another_disk_is_refused(void **state)
{
	unsigned who;

	(void)state;
	for (who = 1; who <= 2; who++) {
		struct door here = { .verdict = ERR_PERM }, there = { 0 };
		struct setup s2 = n2_tls, s1 = { .cert = "n1", .peer = 2 };
		struct node a, b, *no, *yes;
		struct link_stats st;
		char why[160];

		s1.door = who == 1 ? &here : &there;
		s2.door = who == 2 ? &here : &there;
		node_open(&b, 2, &s2);
		s1.peer_port = link_port(b.net);
		node_open(&a, 1, &s1);
		no = who == 1 ? &a : &b;
		yes = who == 1 ? &b : &a;
		WAIT(&a, &b, there.refused >= 3);
		assert_int_equal(a.ups[2] + b.ups[1], 0);
		assert_int_equal(here.refused, 0);
		assert_int_equal(here.disk_id[0], 64 + yes->id);
		assert_int_equal(link_refused(yes->net, why), 1);
		assert_non_null(strstr(why, "has an empty disk"));
		assert_int_equal(link_refused(no->net, why), 0);
		assert_int_equal(link_stats(no->net, yes->id, &st), 0);
		assert_true(st.refused_here && !st.refused_there && !st.up);
		assert_int_equal(link_stats(yes->net, no->id, &st), 0);
		assert_true(st.refused_there && !st.refused_here && !st.up);
		assert_non_null(strstr(log_text, "event=peer_disk_refused"));
		assert_non_null(strstr(log_text, "event=disk_refused"));
		/* An operator approves. */
		here.verdict = 0;
		WAIT(&a, &b, is_up(&a, 2) && is_up(&b, 1));
		assert_int_equal(link_refused(yes->net, why), 0);
		assert_int_equal(send_counter(&a, 2, 0, 8), 0);
		assert_int_equal(send_counter(&b, 1, 0, 8), 0);
		WAIT(&a, &b, a.messages == 1 && b.messages == 1);
		pair_close(&a, &b);
	}
}

/* A node that is refused for good is not heard by those who would hear it either. */
static void refused_by_one_silent_to_all(void **state)
{
	struct door mute = { .mute = true }, firm = { .verdict = ERR_PERM };
	struct setup s2 = n2_tls, s3 = { .cert = "n3", .peer = 1, .peer_port = 1 };
	struct setup s1 = { .cert = "n1", .peer = 3 };
	struct err e = { 0, "" };
	struct node a, b, c;
	char at[32];

	(void)state;
	s1.door = &mute;
	s2.door = &firm;
	node_open(&c, 3, &s3);
	s1.peer_port = link_port(c.net);
	node_open(&a, 1, &s1);
	WAIT(&a, &c, is_up(&a, 3) && is_up(&c, 1));
	assert_true(mute.joined);
	node_open(&b, 2, &s2);
	snprintf(at, sizeof at, "127.0.0.1:%u", link_port(b.net));
	assert_int_equal(link_peer_set(a.net, 2, at, &e), 0);
	WAIT(&a, &b, mute.refused && a.downs[3] == 1);
	WAIT(&a, &c, c.downs[1] == 1);
	/* Those that it would dial, and that dial it, still tell it why. */
	mute.verdict = ERR_FAULTY;
	mute.refused = 0;
	WAIT(&a, &b, mute.refused);
	node_close(&a);
	node_close(&b);
	memset(&mute, 0, sizeof mute);
	mute.mute = true;
	mute.verdict = ERR_FAULTY;
	s2.door = &mute;
	s1.door = &firm;
	s1.peer = 2;
	node_open(&b, 2, &s2);
	s1.peer_port = link_port(b.net);
	node_open(&a, 1, &s1);
	WAIT(&a, &b, mute.refused);
	firm.verdict = 0;
	firm.asked = 0;
	WAIT(&a, &b, firm.asked >= 2);
	assert_int_equal(b.ups[1], 0);
	pair_close(&a, &b);
	node_close(&c);
}

static void founders_must_agree(void **state)
{
	struct setup s1 = { .cert = "n1", .founders = 6 }, s2 = n2_tls;

	(void)state;
	s2.founders = 14;
	expect_refused(s1, s2, "refused by the peer: node 1 says that nodes 6",
		       "event=link_refused");
}

static bool frame_is_here(int fd, uint8_t *p, size_t n)
{
	return recv(fd, p, n, MSG_PEEK | MSG_DONTWAIT) == (ssize_t)n &&
	       recv(fd, p, n, 0) == (ssize_t)n;
}

/* Node 2 is of the version before, which knows no disks: it says so once. */
static void the_version_before_is_understood(void **state)
{
	struct link_hello h = { .version = LINK_VERSION_OLD, .from = 1, .to = 2 };
	struct sockaddr_in sa = { .sin_family = AF_INET };
	struct setup plain = { .peer = 2 };
	uint8_t got[LINK_FRAME_HEADER + LINK_HELLO_LEN];
	struct door door = { 0 };
	struct buf b = BUF_INIT;
	socklen_t len = sizeof sa;
	struct node n;
	int at, fd;

	(void)state;
	plain.door = &door;
	/* It dials. */
	plain.peer = 1;
	plain.peer_port = 1;
	node_open(&n, 2, &plain);
	memset(h.cluster_id, 7, 16);
	link_hello_put(&b, &h);
	fd = stranger(link_port(n.net));
	assert_int_equal(b.len, LINK_FRAME_HEADER + LINK_HELLO_LEN_1);
	assert_int_equal(write(fd, b.data, b.len), (ssize_t)b.len);
	WAIT(&n, NULL, frame_is_here(fd, got, b.len));
	assert_int_equal(get_u16(got + 8), LINK_VERSION_OLD);
	assert_int_equal(n.ups[1], 1);
	assert_true(door.none);
	close(fd);
	node_close(&n);

	/* It is dialled. */
	at = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
		    0);
	sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_int_equal(bind(at, (struct sockaddr *)&sa, sizeof sa), 0);
	assert_int_equal(listen(at, 4), 0);
	assert_int_equal(getsockname(at, (struct sockaddr *)&sa, &len), 0);
	plain.peer = 2;
	plain.peer_port = ntohs(sa.sin_port);
	door.none = false;
	node_open(&n, 1, &plain);
	turn(&n);
	WAIT(&n, NULL, (fd = accept(at, NULL, NULL)) >= 0 || errno != EAGAIN);
	WAIT(&n, NULL, frame_is_here(fd, got, sizeof got));
	assert_int_equal(get_u16(got + 8), LINK_VERSION);
	buf_clear(&b);
	link_refusal_put(&b, false, "the peer speaks version 2 of the link "
			 "protocol, this node version 1");
	assert_int_equal(write(fd, b.data, b.len), (ssize_t)b.len);
	close(fd);
	WAIT(&n, NULL, (fd = accept(at, NULL, NULL)) >= 0 ||
		       errno != EAGAIN);
	assert_true(fd >= 0);
	WAIT(&n, NULL, frame_is_here(fd, got, LINK_FRAME_HEADER +
					     LINK_HELLO_LEN_1));
	assert_int_equal(get_u16(got + 8), LINK_VERSION_OLD);
	buf_clear(&b);
	h.from = 2;
	h.to = 1;
	link_hello_put(&b, &h);
	assert_int_equal(write(fd, b.data, b.len), (ssize_t)b.len);
	WAIT(&n, NULL, is_up(&n, 2));
	assert_true(door.none);
	/* No welcome: it would be a message. */
	assert_int_equal(send_counter(&n, 2, 5, 8), 0);
	turn(&n);
	WAIT(&n, NULL, frame_is_here(fd, got, 12));
	assert_int_equal(get_u64(got + 4), 5);
	close(fd);
	close(at);
	node_close(&n);
	buf_release(&b);
}

/* A node that joins, moves, and leaves, while links run. */
static void peers_come_and_go(void **state)
{
	struct setup s2 = n2_tls, s1 = { .cert = "n1", .peer = 3, .peer_port = 1 };
	struct link_stats st;
	struct err e = { 0, "" };
	struct node a, b;
	char at2[32];

	(void)state;
	s2.peer = 3;
	node_open(&b, 2, &s2);
	snprintf(at2, sizeof at2, "127.0.0.1:%u", link_port(b.net));
	node_open(&a, 1, &s1);
	assert_int_equal(link_peer_set(a.net, 1, at2, &e), ERR_CONFIG);
	assert_int_equal(link_peer_set(a.net, 64, at2, &e), ERR_CONFIG);
	assert_int_equal(link_peer_set(a.net, 2, "nowhere", &e), ERR_CONFIG);
	assert_int_equal(link_stats(a.net, 2, &st), ERR_NOT_FOUND);
	/* Only one of them knows of it. */
	assert_int_equal(link_peer_set(a.net, 2, at2, &e), 0);
	WAIT(&a, &b, strstr(log_text, "node 1 is not one of the peers of node 2"));
	assert_int_equal(link_peer_set(b.net, 1, "127.0.0.1:1", &e), 0);
	WAIT(&a, &b, is_up(&a, 2) && is_up(&b, 1));
	assert_int_equal(send_counter(&a, 2, 0, 8), 0);
	WAIT(&a, &b, b.messages == 1);

	/* The one that dialled lets go; nothing is told from inside the call. */
	link_peer_drop(a.net, 2);
	assert_int_equal(a.downs[2], 0);
	assert_false(is_up(&a, 2));
	assert_int_equal(send_counter(&a, 2, 0, 8), ERR_CLOSED);
	assert_int_equal(link_stats(a.net, 2, &st), ERR_NOT_FOUND);
	WAIT(&a, &b, a.downs[2] == 1 && b.downs[1] == 1);
	link_peer_drop(a.net, 2);
	link_peer_drop(a.net, 77);
	assert_int_equal(link_peer_set(a.net, 2, at2, &e), 0);
	WAIT(&a, &b, is_up(&a, 2) && is_up(&b, 1));

	/* Then the one that was dialled; a word of it back in the same turn. */
	link_peer_drop(b.net, 1);
	assert_int_equal(link_peer_set(b.net, 1, "127.0.0.1:1", &e), 0);
	WAIT(&a, &b, a.ups[2] == 3 && b.ups[1] == 3 && is_up(&b, 1));

	/* It moves: the next dial goes to the new address. */
	node_close(&b);
	WAIT(&a, NULL, a.downs[2] == 3);
	s2.peer = 1;
	node_open(&b, 2, &s2);
	snprintf(at2, sizeof at2, "localhost:%u", link_port(b.net));
	assert_int_equal(link_peer_set(a.net, 2, at2, &e), 0);
	WAIT(&a, &b, is_up(&a, 2) && is_up(&b, 1));
	pair_close(&a, &b);
}

/* Closing in the middle of everything leaves nothing behind (ASan looks). */
static void close_at_any_time(void **state)
{
	struct setup s2 = n2_tls, s1 = { .cert = "n1", .peer = 2 };
	struct node a, b;
	unsigned i, k;

	(void)state;
	for (i = 0; i < 30; i++) {
		node_open(&b, 2, &s2);
		s1.peer_port = link_port(b.net);
		node_open(&a, 1, &s1);
		for (k = 0; k < i; k++) {
			if (is_up(&a, 2))
				send_counter(&a, 2, k, 300);
			turn(&a);
			turn(&b);
		}
		pair_close(&a, &b);
	}
}

/* ---- how fast --------------------------------------------------------------- */

static void throughput(bool tls, size_t len, unsigned total)
{
	struct entry *e = entry_new(1, (uint32_t)len);
	struct node a, b;
	unsigned sent = 0, i;
	uint64_t t0, cpu;
	double s;

	pair_open(&a, &b, tls);
	memset(entry_payload(e), 1, len);
	t0 = uv_hrtime();
	cpu = (uint64_t)clock();
	while (b.messages < total) {
		for (i = 0; i < 256 && sent < total; i++)
			if (a.net->ops->send(a.net, 2, "head", 4, &e, 1) == 0)
				sent++;
		turn(&a);
		turn(&b);
		assert_true(uv_hrtime() - t0 < 60 * 1000000000ull);
	}
	s = (double)(uv_hrtime() - t0) / 1e9;
	cpu = (uint64_t)clock() - cpu;
	print_message("link %s: %u messages of %zu B: %.0f/s, %.0f MB/s, "
		      "%.2f us of CPU each for both ends\n",
		      tls ? "TLS" : "plain", total, len, total / s,
		      total * (double)len / s / 1e6,
		      (double)cpu * 1e6 / CLOCKS_PER_SEC / total);
	assert_int_equal(b.bytes, (uint64_t)total * (len + 4));
	entry_unref(e);
	pair_close(&a, &b);
}

static void figures(void **state)
{
	(void)state;
	throughput(true, 256, 100000);
	throughput(true, 131072, 2000);
	throughput(false, 256, 100000);
	throughput(false, 131072, 2000);
}

static int setup_all(void **state)
{
	char path[3 * sizeof dir];
	FILE *f;

	(void)state;
	certs_dir(dir, sizeof dir);
	certs_ca(dir, "ca");
	certs_ca(dir, "xca");
	certs_leaf(dir, "ca", "n1", "node-1.t.quipu", NULL, 10);
	certs_leaf(dir, "ca", "n2", "node-2.t.quipu", NULL, 10);
	certs_leaf(dir, "ca", "n3", "node-3.t.quipu", NULL, 10);
	certs_leaf(dir, "ca", "later1", "node-1.t.quipu", NULL, 20);
	certs_leaf_for(dir, "ca", "server1", "node-1.t.quipu", "serverAuth");
	certs_leaf(dir, "ca", "o1", "node-1.o.quipu", NULL, 10);
	certs_leaf(dir, "ca", "old1", "node-1.t.quipu", NULL, -1);
	certs_leaf(dir, "ca", "nosan", "node-1.t.quipu", "", 10);
	certs_leaf(dir, "xca", "x1", "node-1.t.quipu", NULL, 10);
	/* A certificate with the key of another. */
	certs_leaf(dir, "ca", "mixed", "node-1.t.quipu", NULL, 10);
	snprintf(path, sizeof path, "cp %s/n2.key %s/mixed.key", dir, dir);
	if (system(path) != 0)
		return -1;
	certs_leaf(dir, "ca", "broken", "node-1.t.quipu", NULL, 10);
	snprintf(path, sizeof path, "%s/broken.crt", dir);
	f = fopen(path, "w");
	fputs("-----BEGIN CERTIFICATE-----\nnothing\n", f);
	fclose(f);
	return 0;
}

static int teardown_all(void **state)
{
	(void)state;
	certs_remove(dir);
	return 0;
}

static int setup_one(void **state)
{
	(void)state;
	log_text[0] = 0;
	log_set_sink(on_log, NULL);
	return 0;
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(in_order_with_tls, setup_one),
		cmocka_unit_test_setup(in_order_plain, setup_one),
		cmocka_unit_test_setup(big_messages, setup_one),
		cmocka_unit_test_setup(full_queue_is_an_answer, setup_one),
		cmocka_unit_test_setup(idle_links_stay_up, setup_one),
		cmocka_unit_test_setup(a_restarted_node_is_found_again,
				       setup_one),
		cmocka_unit_test_setup(certificates_are_read_again, setup_one),
		cmocka_unit_test_setup(plain_links_have_nothing_to_read, setup_one),
		cmocka_unit_test_setup(silence_is_noticed, setup_one),
		cmocka_unit_test_setup(other_ca, setup_one),
		cmocka_unit_test_setup(other_node_name, setup_one),
		cmocka_unit_test_setup(other_cluster, setup_one),
		cmocka_unit_test_setup(unknown_node, setup_one),
		cmocka_unit_test_setup(bad_configurations_are_named, setup_one),
		cmocka_unit_test_setup(strangers_are_turned_away, setup_one),
		cmocka_unit_test_setup(silent_strangers_are_few, setup_one),
		cmocka_unit_test_setup(another_disk_is_refused, setup_one),
		cmocka_unit_test_setup(refused_by_one_silent_to_all, setup_one),
		cmocka_unit_test_setup(founders_must_agree, setup_one),
		cmocka_unit_test_setup(the_version_before_is_understood,
				       setup_one),
		cmocka_unit_test_setup(peers_come_and_go, setup_one),
		cmocka_unit_test_setup(close_at_any_time, setup_one),
		cmocka_unit_test_setup(figures, setup_one),
	};

	return cmocka_run_group_tests(tests, setup_all, teardown_all);
}
