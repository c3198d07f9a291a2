/* The acceptor.  One listening socket per process: the port in use by somebody
 * else must be an error, so SO_REUSEPORT waits until several loops share it. */
#include "base/addr.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/logf.h"
#include "base/metric.h"
#include "gateway/impl.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define ACCEPT_PAUSE_MS 100

static void admit_socket(struct gateway *g, int fd, const struct sockaddr *sa,
			 socklen_t len)
{
	int one = 1;

	if (g->n_sockets >= g->conf->gateway.max_connections ||
	    !admit_connect(&g->admit, sa, clock_ms(g->clock))) {
		metric_add(M_CONNECTS_REFUSED, 1);
		close(fd);
		return;
	}
	metric_add(M_CONNECTS, 1);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (g->tls)
		bridge_open(g, fd, sa, len);
	else
		peek_open(g, fd, sa, len);
}

static void on_listener(uv_poll_t *p, int status, int events)
{
	struct gateway *g = p->data;
	unsigned i;

	(void)events;
	if (status < 0)
		return;
	for (i = 0; i < GATEWAY_ACCEPTS_MAX; i++) {
		struct sockaddr_storage ss;
		socklen_t len = sizeof ss;
		int fd = accept4(g->listen_fd, (struct sockaddr *)&ss, &len,
				 SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd >= 0) {
			admit_socket(g, fd, (struct sockaddr *)&ss, len);
			continue;
		}
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS ||
		    errno == ENOMEM) {
			/* The backlog stays readable: look away for a while
			 * instead of spinning. */
			log_event(LOG_WARN, "accept", "error=%s", strerror(errno));
			metric_add(M_CONNECTS_REFUSED, 1);
			uv_poll_stop(&g->listener);
			g->accept_again_ms = clock_ms(g->clock) +
					     ACCEPT_PAUSE_MS;
		}
		if (errno != EINTR && errno != ECONNABORTED)
			break;
	}
	http_turn(g);
}

static int bind_one(struct gateway *g, const struct addrinfo *ai,
		    const char *text, struct err *e)
{
	union {
		struct sockaddr sa;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} bound = { 0 };
	socklen_t len = sizeof bound;
	int one = 1, rv;
	int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC,
			0);

	if (fd < 0)
		return err_errno(e, errno, "gateway.listen %s", text);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (ai->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
	if (bind(fd, ai->ai_addr, ai->ai_addrlen) || listen(fd, 4096) ||
	    getsockname(fd, &bound.sa, &len)) {
		rv = err_errno(e, errno, "gateway.listen %s", text);
		close(fd);
		return rv;
	}
	g->port = ntohs(bound.sa.sa_family == AF_INET6 ? bound.v6.sin6_port :
							 bound.v4.sin_port);
	g->listen_fd = fd;
	return 0;
}

int listen_open(struct gateway *g, struct err *e)
{
	const char *text = g->conf->gateway.listen;
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM,
				  .ai_flags = AI_PASSIVE | AI_NUMERICSERV };
	struct addrinfo *list = NULL;
	struct addr a;
	char port[8];
	int rv = addr_parse(&a, text, e);

	if (rv)
		return err_wrap(e, "gateway.listen");
	if (!g->tls && !g->conf->gateway.insecure && !addr_is_loopback(&a))
		return err_set(e, ERR_CONFIG,
			       "gateway.listen %s: plain HTTP only on loopback; "
			       "set gateway.tls_cert and tls_key, or "
			       "gateway.insecure behind a TLS proxy", text);
	snprintf(port, sizeof port, "%u", a.port);
	rv = getaddrinfo(a.host, port, &hints, &list);
	if (rv)
		return err_set(e, ERR_CONFIG, "gateway.listen %s: %s", text,
			       gai_strerror(rv));
	rv = bind_one(g, list, text, e);
	freeaddrinfo(list);
	if (rv)
		return rv;
	rv = uv_poll_init(g->loop, &g->listener, g->listen_fd);
	AZ(rv);
	g->listener.data = g;
	uv_poll_start(&g->listener, UV_READABLE, on_listener);
	g->listening = true;
	return 0;
}

char *gateway_address(const struct gateway *g)
{
	const char *text = g->conf->gateway.listen;
	const char *colon = strrchr(text, ':');

	return xasprintf("%.*s:%u", colon ? (int)(colon - text) : 0, text,
			 g->port);
}

void listen_tick(struct gateway *g, uint64_t now_ms)
{
	if (!g->accept_again_ms || g->accept_again_ms > now_ms)
		return;
	g->accept_again_ms = 0;
	if (g->listening)
		uv_poll_start(&g->listener, UV_READABLE, on_listener);
}

void listen_stop(struct gateway *g)
{
	if (!g->listening)
		return;
	g->listening = false;
	g->accept_again_ms = 0;
	uv_poll_stop(&g->listener);
	uv_close((uv_handle_t *)&g->listener, NULL);
	close(g->listen_fd);
}
