/* The happy path of a link between nodes 1 and 2:
 *   - node 1 dials: resolve, connect, TLS, hello
 *   - node 2 accepts: TLS, hello of node 1 is checked, answers hello
 *   - node 1 checks the hello of node 2, says welcome: both up
 *   - messages are queued by send() and leave at flush(); the timer keeps an idle
 *     link alive
 *
 *     RESOLVE -> CONNECT --+-> SHAKE -> HELLO --+-> UP
 *        |          |      |     |        |     |    |
 *        |          |  (accepted)|        +-> ADMIT  |   (accepted: waits for
 *        |          |            |        |     |    |    the welcome)
 *        +----------+------------+--------+-----+----+--> CLOSED (memory goes when
 *                                                         libuv let go of it)
 * What can fail: every step, by error, refusal, deadline or silence; all end in
 * link_conn_close(), and the timer dials again.  A failure met while sending is only
 * marked; the loop closes the link later, so that no callback comes from inside
 * send() or flush(). */
#include "consensus/link.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/logf.h"
#include "base/metric.h"
#include "consensus/link_uv.h"

#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BACKLOG 64
#define TICK_MAX_MS 50

static const struct net_ops link_ops;

static struct link_net *of_net(const struct net *n)
{
	AN(n->ops == &link_ops);
	return (struct link_net *)(void *)n;
}

struct link_peer *link_peer_of(struct link_net *l, uint64_t id)
{
	struct link_peer *p = id < NET_NODE_MAX ? &l->peers[id] : NULL;

	return p && p->id && !p->dropped ? p : NULL;
}

void link_peer_gone(struct link_peer *p)
{
	struct link_queue queue = p->queue;

	if (!p->dropped || p->conn || p->dial)
		return;
	link_queue_release(&queue);
	memset(p, 0, sizeof *p);
}

static void net_release(struct link_net *l)
{
	unsigned i;

	for (i = 0; i < NET_NODE_MAX; i++)
		link_queue_release(&l->peers[i].queue);
	tls_ctx_free(l->server);
	tls_ctx_free(l->client);
	free(l->in);
	free(l->stage);
	free(l);
}

/* libuv let go of one thing; the last one ends the net. */
void link_net_put(struct link_net *l)
{
	AN(l->open);
	if (--l->open == 0) {
		void (*closed)(void *arg) = l->closed;
		void *arg = l->closed_arg;

		AN(l->closing);
		net_release(l);
		if (closed)
			closed(arg);
	}
}

void link_node_name(const struct link_net *l, uint64_t id,
		      char out[TLS_NAME_MAX])
{
	snprintf(out, TLS_NAME_MAX, "node-%" PRIu64 ".%s.quipu", id,
		 l->cluster);
}

/* ---- dialling and accepting ---------------------------------------------- */

static void addr_text(const struct sockaddr *sa, char *out, size_t n)
{
	char host[48] = "?";
	unsigned port = 0;

	if (sa->sa_family == AF_INET) {
		const struct sockaddr_in *s = (const void *)sa;

		uv_ip4_name(s, host, sizeof host);
		port = ntohs(s->sin_port);
		snprintf(out, n, "%s:%u", host, port);
	} else if (sa->sa_family == AF_INET6) {
		const struct sockaddr_in6 *s = (const void *)sa;

		uv_ip6_name(s, host, sizeof host);
		port = ntohs(s->sin6_port);
		snprintf(out, n, "[%s]:%u", host, port);
	}
}

static void on_connection(uv_stream_t *server, int status)
{
	struct link_net *l = server->data;
	struct sockaddr_storage ss;
	int n = sizeof ss;
	struct link_conn *c;

	if (l->closing)
		return;
	if (status < 0) {
		log_event(LOG_WARN, "link_accept_failed", "why=%s",
			  log_quote(uv_strerror(status)));
		return;
	}
	c = link_conn_new(l, false);
	l->n_accepting++;
	c->state = SHAKE;
	snprintf(c->from, sizeof c->from, "?");
	if (uv_accept(server, (uv_stream_t *)&c->tcp) < 0) {
		link_conn_close(c);
		return;
	}
	if (uv_tcp_getpeername(&c->tcp, (struct sockaddr *)&ss, &n) == 0)
		addr_text((struct sockaddr *)&ss, c->from, sizeof c->from);
	if (l->n_accepting > LINK_ACCEPTING_MAX) {
		struct err e;

		err_set(&e, ERR_FULL, "%d connections are shaking hands "
			"already", LINK_ACCEPTING_MAX);
		link_conn_fail(c, &e);
		return;
	}
	link_conn_start(c);
}

static void on_connect(uv_connect_t *req, int status)
{
	struct link_conn *c = req->data;

	if (c->state == CLOSED)
		return;
	if (status < 0) {
		struct err e;

		err_set(&e, ERR_UNAVAILABLE, "connect: %s",
			uv_strerror(status));
		link_conn_fail(c, &e);
		return;
	}
	link_conn_start(c);
}

static void on_resolved(uv_getaddrinfo_t *req, int status, struct addrinfo *ai)
{
	struct link_conn *c = req->data;
	struct addrinfo *it;
	unsigned n = 0, pick;
	struct err e;
	int rv;

	c->resolving = false;
	if (c->state == CLOSED) {
		uv_freeaddrinfo(ai);
		link_conn_put(c);
		return;
	}
	for (it = ai; it; it = it->ai_next)
		n++;
	if (status < 0 || n == 0) {
		err_set(&e, ERR_UNAVAILABLE, "cannot resolve %s: %s",
			c->peer->addr.host,
			status < 0 ? uv_strerror(status) : "no address");
		uv_freeaddrinfo(ai);
		link_conn_fail(c, &e);
		return;
	}
	/* Another one of several at each try. */
	pick = c->peer->attempts++ % n;
	for (it = ai; pick--; it = it->ai_next)
		;
	addr_text(it->ai_addr, c->from, sizeof c->from);
	c->state = CONNECT;
	c->creq.data = c;
	rv = uv_tcp_connect(&c->creq, &c->tcp, it->ai_addr, on_connect);
	uv_freeaddrinfo(ai);
	if (rv < 0) {
		err_set(&e, ERR_UNAVAILABLE, "connect: %s", uv_strerror(rv));
		link_conn_fail(c, &e);
	}
}

static void dial(struct link_net *l, struct link_peer *p)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM,
				  .ai_flags = AI_NUMERICSERV };
	struct link_conn *c = link_conn_new(l, true);
	char port[8];
	int rv;

	c->peer = p;
	p->dial = c;
	c->state = RESOLVE;
	snprintf(c->from, sizeof c->from, "%.50s:%u", p->addr.host,
		 p->addr.port);
	snprintf(port, sizeof port, "%u", p->addr.port);
	c->gai.data = c;
	rv = uv_getaddrinfo(l->loop, &c->gai, on_resolved, p->addr.host, port,
			    &hints);
	if (rv < 0) {
		struct err e;

		err_set(&e, ERR_UNAVAILABLE, "cannot resolve %s: %s",
			p->addr.host, uv_strerror(rv));
		link_conn_fail(c, &e);
		return;
	}
	c->resolving = true;
}

/* ---- time ----------------------------------------------------------------- */

static void conn_tick(struct link_conn *c, uint64_t now)
{
	struct link_net *l = c->net;
	struct err e;

	if (c->state == UP && now >= c->rx_ms + l->dead_ms) {
		err_set(&e, ERR_TIMEOUT, "silent for %" PRIu64 " ms",
			now - c->rx_ms);
		link_conn_fail(c, &e);
	} else if (c->state == UP && now >= c->tx_ms + l->keepalive_ms &&
		   !c->writing && c->peer->queue.queued == 0) {
		link_queue_put_empty(&c->peer->queue);
		link_conn_flush(c);
	} else if (now >= c->deadline_ms) {
		err_set(&e, ERR_TIMEOUT, "no hello within %d ms",
			LINK_HANDSHAKE_MS);
		link_conn_fail(c, &e);
	}
}

static void on_timer(uv_timer_t *h)
{
	struct link_net *l = h->data;
	uint64_t now = uv_now(l->loop), late;
	unsigned i;

	/* When this loop was busy or the process stood still, peers were not
	 * silent: their bytes wait unread.  Do not count that time. */
	late = now - l->ticked_ms;
	late = l->ticked_ms && late > 2 * l->tick_ms ? late - l->tick_ms : 0;
	l->ticked_ms = now;
	LIST_FOREACH(it, &l->conns) {
		struct link_conn *c = container_of(it, struct link_conn, link);

		c->rx_ms += late;
		conn_tick(c, now);
		if (l->closing)
			return;
	}
	for (i = 1; i < NET_NODE_MAX; i++) {
		struct link_peer *p = &l->peers[i];

		if (p->id > l->self && !p->dropped && !p->dial &&
		    now >= p->dial_at_ms)
			dial(l, p);
	}
}

static void on_async(uv_async_t *h)
{
	struct link_net *l = h->data;

	/* on_down may close others, which stay in the list till later. */
	LIST_FOREACH(it, &l->conns) {
		struct link_conn *c = container_of(it, struct link_conn, link);

		if (c->broken)
			link_conn_fail(c, &c->why);
	}
}

/* ---- struct net ----------------------------------------------------------- */

static int net_send(struct net *n, uint64_t peer, const void *head, size_t len,
		    struct entry *const *entries, unsigned n_entries)
{
	struct link_peer *p = link_peer_of(of_net(n), peer);
	size_t before;
	int rv;

	if (!p || !p->conn || p->conn->broken)
		return ERR_CLOSED;
	before = p->queue.queued;
	rv = link_queue_put(&p->queue, head, len, entries, n_entries);
	if (rv)
		return rv;
	p->stats.messages_out++;
	p->stats.bytes_out += p->queue.queued - before - LINK_FRAME_HEADER;
	metric_add(M_LINK_MESSAGES_OUT, 1);
	metric_add(M_LINK_BYTES_OUT,
		   p->queue.queued - before - LINK_FRAME_HEADER);
	return 0;
}

static void net_flush(struct net *n)
{
	struct link_net *l = of_net(n);

	/* Links are few; a peer without anything queued costs two loads. */
	LIST_FOREACH(it, &l->conns) {
		struct link_conn *c = container_of(it, struct link_conn, link);

		if (c->state == UP && c->peer->queue.queued)
			link_conn_flush(c);
	}
}

static bool net_is_up(struct net *n, uint64_t peer)
{
	struct link_peer *p = link_peer_of(of_net(n), peer);

	return p && p->conn && !p->conn->broken;
}

static size_t net_queued(struct net *n, uint64_t peer)
{
	struct link_peer *p = link_peer_of(of_net(n), peer);

	if (!p || !p->conn)
		return 0;
	return p->queue.queued + p->conn->out.len - p->conn->out_at +
	       p->conn->fly.len - p->conn->fly_at;
}

static const struct net_ops link_ops = { net_send, net_flush, net_is_up,
					 net_queued };

/* ---- open and close ------------------------------------------------------- */

/* Both contexts of the links, or none. */
static int load_tls(struct link_net *l, const struct tls_files *files,
		    struct err *e)
{
	struct tls_ctx *server, *client = NULL;
	char name[TLS_NAME_MAX];
	int rv = tls_ctx_new(&server, TLS_MUTUAL_SERVER, files, e);

	if (!rv)
		rv = tls_ctx_new(&client, TLS_MUTUAL_CLIENT, files, e);
	link_node_name(l, l->self, name);
	if (!rv && tls_ctx_check_own(server, name, e))
		rv = err_wrap(e, "certificate file %s", files->cert);
	if (rv) {
		tls_ctx_free(server);
		tls_ctx_free(client);
		return rv;
	}
	/* Connections keep what they began with. */
	tls_ctx_free(l->server);
	tls_ctx_free(l->client);
	l->server = server;
	l->client = client;
	return 0;
}

int link_reload(struct net *n, const struct tls_files *files, struct err *e)
{
	struct link_net *l = of_net(n);

	return l->server ? load_tls(l, files, e) : 0;
}

int64_t link_cert_expires(const struct net *n)
{
	const struct link_net *l = of_net(n);

	return l->server ? tls_ctx_expires(l->server) : 0;
}

static int open_tls(struct link_net *l, const struct link_config *cfg,
		    struct err *e)
{
	struct tls_files files = { cfg->ca, cfg->cert, cfg->key };

	if (!cfg->ca && !cfg->cert && !cfg->key) {
		log_event(LOG_WARN, "link_plain", "node=%" PRIu64 " why=%s",
			  l->self,
			  log_quote("links are not encrypted: for tests on "
				    "loopback only"));
		return 0;
	}
	return load_tls(l, &files, e);
}

/* Not yet `id`: the caller decides whether it may be there already. */
static int parse_peer(const struct link_net *l, uint64_t id, const char *text,
		      struct addr *a, struct err *e)
{
	int rv;

	if (id == 0 || id >= NET_NODE_MAX)
		return err_set(e, ERR_CONFIG, "node id %" PRIu64
			       " is not 1 to %d", id, NET_NODE_MAX - 1);
	rv = addr_parse(a, text, e);
	if (rv)
		return err_wrap(e, "address of node %" PRIu64, id);
	if (!l->server && !addr_is_loopback(a))
		return err_set(e, ERR_CONFIG, "a plain link to node %" PRIu64
			       " at %s: only TLS may leave loopback", id, text);
	return 0;
}

static int set_peers(struct link_net *l, const struct link_config *cfg,
		     struct err *e)
{
	unsigned i;

	for (i = 0; i < cfg->n_peers; i++) {
		uint64_t id = cfg->peers[i].id;
		struct addr a;
		int rv = parse_peer(l, id, cfg->peers[i].addr, &a, e);

		if (rv)
			return rv;
		if (id == l->self)
			continue;
		if (l->peers[id].id)
			return err_set(e, ERR_CONFIG, "node %" PRIu64
				       " is given twice", id);
		l->peers[id].addr = a;
		l->peers[id].id = id;
	}
	return 0;
}

int link_peer_set(struct net *n, uint64_t id, const char *addr, struct err *e)
{
	struct link_net *l = of_net(n);
	struct link_peer *p;
	struct addr a;
	int rv = parse_peer(l, id, addr, &a, e);

	if (rv)
		return rv;
	if (id == l->self)
		return err_set(e, ERR_CONFIG, "node %" PRIu64 " is this node",
			       id);
	p = &l->peers[id];
	if (p->id && !p->dropped && p->addr.port == a.port &&
	    !strcmp(p->addr.host, a.host))
		return 0;
	log_event(LOG_INFO, "link_peer_set", "peer=%" PRIu64 " addr=%s", id,
		  addr);
	p->id = id;
	p->dropped = false;
	p->addr = a;
	p->retry_ms = p->dial_at_ms = 0;
	/* Whoever is on its way goes to where the peer was. */
	if (p->dial && p->dial->state < UP) {
		struct err moved;

		err_set(&moved, ERR_CLOSED, "the peer has another address");
		link_conn_break(p->dial, &moved);
	}
	return 0;
}

void link_peer_drop(struct net *n, uint64_t id)
{
	struct link_net *l = of_net(n);
	struct link_peer *p = link_peer_of(l, id);
	struct err why;

	if (!p)
		return;
	log_event(LOG_INFO, "link_peer_dropped", "peer=%" PRIu64, id);
	p->dropped = true;
	err_set(&why, ERR_CLOSED, "it is no peer any more");
	if (p->conn)
		link_conn_break(p->conn, &why);
	if (p->dial && p->dial != p->conn)
		link_conn_break(p->dial, &why);
	link_peer_gone(p);
}

/* A socket that is bound and listens.  By hand, so that an error is told before
 * libuv holds anything. */
static int open_socket(const char *text, bool plain, uint16_t *port, int *out,
		       struct err *e)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM,
				  .ai_flags = AI_PASSIVE | AI_NUMERICSERV };
	struct addrinfo *ai;
	union {
		struct sockaddr sa;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} bound = { 0 };
	socklen_t len = sizeof bound;
	char service[8];
	struct addr a;
	int fd, one = 1, rv = addr_parse(&a, text, e);

	if (rv)
		return err_wrap(e, "address to listen at");
	if (plain && !addr_is_loopback(&a))
		return err_set(e, ERR_CONFIG, "plain links at %s: only TLS may "
			       "leave loopback", text);
	snprintf(service, sizeof service, "%u", a.port);
	rv = getaddrinfo(a.host, service, &hints, &ai);
	if (rv)
		return err_set(e, ERR_CONFIG, "cannot resolve %s: %s", a.host,
			       gai_strerror(rv));
	fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
		    0);
	if (fd < 0) {
		rv = err_errno(e, errno, "socket");
	} else if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) ||
		   bind(fd, ai->ai_addr, ai->ai_addrlen) ||
		   listen(fd, BACKLOG)) {
		rv = err_errno(e, errno, "cannot listen for peers at %s", text);
	} else if (getsockname(fd, &bound.sa, &len)) {
		rv = err_errno(e, errno, "getsockname");
	}
	freeaddrinfo(ai);
	if (rv) {
		if (fd >= 0)
			close(fd);
		return rv;
	}
	*port = ntohs(bound.sa.sa_family == AF_INET6 ? bound.v6.sin6_port :
						       bound.v4.sin_port);
	*out = fd;
	return 0;
}

static void open_handles(struct link_net *l, int fd)
{
	AZ(uv_tcp_init(l->loop, &l->listener));
	AZ(uv_timer_init(l->loop, &l->timer));
	AZ(uv_async_init(l->loop, &l->async, on_async));
	l->listener.data = l->timer.data = l->async.data = l;
	l->open = 3;
	AZ(uv_tcp_open(&l->listener, fd));
	AZ(uv_listen((uv_stream_t *)&l->listener, BACKLOG, on_connection));
	AZ(uv_timer_start(&l->timer, on_timer, 0, l->tick_ms));
}

int link_open(struct net **out, void *loop, const struct link_config *cfg,
	      struct rand *rand, struct err *e)
{
	struct link_net *l;
	int fd = -1, rv;

	*out = NULL;
	if (cfg->self == 0 || cfg->self >= NET_NODE_MAX)
		return err_set(e, ERR_CONFIG, "node id %" PRIu64
			       " is not 1 to %d", cfg->self, NET_NODE_MAX - 1);
	if (strlen(cfg->cluster_name) > LINK_CLUSTER_NAME_MAX)
		return err_set(e, ERR_CONFIG, "the cluster's name is longer "
			       "than %d bytes", LINK_CLUSTER_NAME_MAX);
	if (!cfg->listen)
		return err_set(e, ERR_CONFIG, "no address to listen at");
	l = xcalloc(1, sizeof *l);
	l->net.ops = &link_ops;
	l->loop = loop;
	l->rand = rand;
	l->self = cfg->self;
	l->boot = rand_u64(rand);
	memcpy(l->cluster_id, cfg->cluster_id, sizeof l->cluster_id);
	memcpy(l->disk_id, cfg->disk_id, sizeof l->disk_id);
	l->joined = cfg->joined;
	l->founders = cfg->founders;
	l->shards = cfg->shards;
	l->admit = cfg->admit;
	snprintf(l->cluster, sizeof l->cluster, "%s", cfg->cluster_name);
	l->keepalive_ms = cfg->keepalive_ms ? cfg->keepalive_ms :
					      LINK_KEEPALIVE_MS;
	l->dead_ms = cfg->dead_ms ? cfg->dead_ms : LINK_DEAD_MS;
	l->tick_ms = l->keepalive_ms / 4 + 1;
	if (l->tick_ms > TICK_MAX_MS)
		l->tick_ms = TICK_MAX_MS;
	list_init(&l->conns);
	rv = open_tls(l, cfg, e);
	if (!rv)
		rv = set_peers(l, cfg, e);
	if (!rv)
		rv = open_socket(cfg->listen, !l->server, &l->port, &fd, e);
	if (rv) {
		net_release(l);
		return rv;
	}
	l->in = xmalloc(LINK_READ_BYTES);
	l->stage = xmalloc(TLS_RECORD_MAX);
	open_handles(l, fd);
	log_event(LOG_INFO, "link_open", "node=%" PRIu64 " listen=%s port=%u "
		  "tls=%s", l->self, cfg->listen, l->port,
		  l->server ? "yes" : "no");
	*out = &l->net;
	return 0;
}

static void on_handle_closed(uv_handle_t *h)
{
	link_net_put(h->data);
}

void link_close(struct net *n, void (*closed)(void *arg), void *arg)
{
	struct link_net *l = of_net(n);

	AN(!l->closing);
	l->closing = true;
	l->closed = closed;
	l->closed_arg = arg;
	LIST_FOREACH(it, &l->conns)
		link_conn_close(container_of(it, struct link_conn, link));
	uv_close((uv_handle_t *)&l->listener, on_handle_closed);
	uv_close((uv_handle_t *)&l->timer, on_handle_closed);
	uv_close((uv_handle_t *)&l->async, on_handle_closed);
}

uint16_t link_port(const struct net *n)
{
	return of_net(n)->port;
}

unsigned link_refused(const struct net *n, char why[160])
{
	const struct link_net *l = of_net(n);
	unsigned i, count = 0;

	why[0] = 0;
	for (i = 1; i < NET_NODE_MAX; i++) {
		const struct link_peer *p = &l->peers[i];

		if (!p->id || !p->stats.refused_there)
			continue;
		if (!count++)
			snprintf(why, 160, "%s", p->stats.last_error);
	}
	return count;
}

int link_stats(const struct net *n, uint64_t peer, struct link_stats *out)
{
	struct link_peer *p = link_peer_of(of_net(n), peer);

	if (!p)
		return ERR_NOT_FOUND;
	*out = p->stats;
	return 0;
}
