/* Opening, turning and ending a gateway: what its files share. */
#include "gateway/gateway.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/logf.h"
#include "base/metric.h"
#include "gateway/conn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECOND_MS 1000
#define DRAIN_LOOK_MS 20
#define DRAIN_EACH_MS 1       /* between two goodbyes */
#define DRAIN_ALL_MS 5000     /* but all within */

static enum token_verdict verify(void *arg, const char *token, size_t len,
				 uint64_t now_s, struct token_claims *claims,
				 const char **why)
{
	const struct gateway *g = arg;

	return token_verify(g->keys, token, len, now_s, claims, why);
}

static int open_keys(struct gateway *g, struct err *e)
{
	const struct conf *c = g->conf;
	char *path = c->tokens.key[0] ?
			     xstrdup(c->tokens.key) :
			     xasprintf("%s/token.key", c->node.data);
	int rv = token_keys_open(&g->keys, path, true, g->rand, e);

	free(path);
	return rv ? rv : token_keys_names(g->keys, c->tokens.issuer,
					  c->tokens.audience, e);
}

static int open_admin(struct gateway *g, struct err *e)
{
	char *path = xasprintf("%s/admin.sock", g->conf->node.data);
	int rv = admin_open(&g->admin, g, path, e);

	free(path);
	return rv;
}

static void env_init(struct gateway *g)
{
	struct session_env *env = &g->env;
	const struct conf *c = g->conf;

	env->node = g->node;
	env->route = &g->route;
	env->clock = g->clock;
	env->rand = g->rand;
	env->verify = verify;
	env->verify_arg = g;
	env->hello_ms = (uint32_t)c->gateway.hello_ms;
	env->heartbeat_s = (uint32_t)c->gateway.heartbeat_s;
	env->window_max = (uint32_t)c->gateway.window_max;
	env->history_epoch = node_epoch(g->node);
}

int gateway_open(struct gateway **out, void *loop, struct node *node,
		 const struct conf *conf, struct err *e)
{
	struct gateway *g = xcalloc(1, sizeof *g);
	char *listen;
	unsigned i;
	int rv;

	g->loop = loop;
	g->node = node;
	g->conf = conf;
	g->clock = &clock_real;
	g->rand = &rand_real;
	g->started_ms = clock_ms(g->clock);
	g->second_ms = g->started_ms + SECOND_MS;
	g->read_buf = xmalloc(GATEWAY_READ_MAX);
	list_init(&g->conns);
	list_init(&g->dirty);
	list_init(&g->buffers);
	list_init(&g->bridges);
	list_init(&g->peeks);
	for (i = 0; i < GATEWAY_WHEEL; i++)
		list_init(&g->wheel[i]);
	g->wheel_slot = g->started_ms / GATEWAY_WHEEL_MS;
	admit_init(&g->admit, rand_u64(g->rand));
	route_init(&g->route, node, g->clock, g->rand);
	g->route.patience_ms = (uint32_t)conf->gateway.send_timeout_ms;
	env_init(g);
	AZ(uv_timer_init(g->loop, &g->reaper));
	g->reaper.data = g;
	rv = open_keys(g, e);
	if (!rv)
		rv = certs_open(g, e);
	if (!rv)
		rv = http_open(g, e);
	if (!rv)
		rv = open_admin(g, e);
	/* Last: who can connect can be served. */
	if (!rv)
		rv = listen_open(g, e);
	if (rv) {
		gateway_close(g);
		return rv;
	}
	certs_look(g);
	listen = gateway_address(g);
	log_event(LOG_INFO, "listening", "gateway=%s tls=%s", listen,
		  g->tls ? "yes" : "no");
	free(listen);
	*out = g;
	return 0;
}

/* ---- turns ------------------------------------------------------------------ */

bool gateway_is_ready(const struct gateway *g)
{
	return !g->leaving && node_ready(g->node);
}

void gateway_socket_new(struct gateway *g)
{
	g->n_sockets++;
	metric_set(M_CONNECTIONS, g->n_sockets);
}

void gateway_socket_gone(struct gateway *g)
{
	AN(g->n_sockets > 0);
	g->n_sockets--;
	metric_set(M_CONNECTIONS, g->n_sockets);
}

void gateway_flush(struct gateway *g)
{
	g->in_flush = true;
	/* Before anybody is told of it: a node may learn it from its peers. */
	g->env.history_epoch = node_epoch(g->node);
	http_turn(g);
	conn_flush_all(g);
	g->in_flush = false;
}

static unsigned least32(unsigned a, unsigned b)
{
	return a < b ? a : b;
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

uint64_t gateway_deadline_us(const struct gateway *g)
{
	uint64_t ms = g->second_ms;

	ms = least(ms, http_deadline_ms(g));
	ms = least(ms, conn_deadline_ms(g));
	if (g->accept_again_ms)
		ms = least(ms, g->accept_again_ms);
	if (g->draining && !g->drained)
		ms = least(ms, clock_ms(g->clock) + DRAIN_LOOK_MS);
	return least(ms * 1000, route_deadline_us(&g->route));
}

static void drain_look(struct gateway *g, uint64_t now_ms)
{
	if (!g->draining || g->drained)
		return;
	if (g->drain_left && now_ms >= g->drain_next_ms) {
		unsigned n = least32(g->drain_left, g->drain_step);

		conn_drain(g, n);
		g->drain_left -= n;
		g->drain_next_ms = now_ms + DRAIN_LOOK_MS;
	}
	if (g->n_sockets && now_ms < g->drain_deadline_ms)
		return;
	log_event(LOG_INFO, "drained", "left=%u", g->n_sockets);
	g->drained = true;
	if (g->drain_done)
		g->drain_done(g->drain_arg);
}

void gateway_tick(struct gateway *g)
{
	uint64_t now_ms = clock_ms(g->clock);

	route_tick(&g->route);
	listen_tick(g, now_ms);
	conn_tick(g, now_ms);
	http_tick(g, now_ms);
	bridge_tick(g, now_ms);
	peek_tick(g, now_ms);
	if (g->second_ms <= now_ms) {
		g->second_ms = now_ms + SECOND_MS;
		certs_look(g);
	}
	drain_look(g, now_ms);
}

/* ---- the end ---------------------------------------------------------------- */

void gateway_on_drain(struct gateway *g, void (*cb)(void *arg), void *arg)
{
	g->drain_asked = cb;
	g->drain_asked_arg = arg;
}

void gateway_leave(struct gateway *g)
{
	g->leaving = true;
}

void gateway_drain(struct gateway *g, void (*done)(void *arg), void *arg)
{
	uint64_t now_ms = clock_ms(g->clock);
	unsigned ms;

	AN(!g->draining);
	g->leaving = g->draining = true;
	g->drain_done = done;
	g->drain_arg = arg;
	g->drain_deadline_ms = now_ms + GATEWAY_DRAIN_MS;
	listen_stop(g);
	g->drain_left = conn_count(g);
	ms = least32(g->drain_left * DRAIN_EACH_MS, DRAIN_ALL_MS) + 1;
	g->drain_step = g->drain_left * DRAIN_LOOK_MS / ms + 1;
	g->drain_next_ms = now_ms;
	log_event(LOG_INFO, "draining", "sessions=%u sockets=%u", g->drain_left,
		  g->n_sockets);
}

static void on_reaped(uv_handle_t *handle)
{
	free(handle->data);
}

void gateway_close(struct gateway *g)
{
	/* The loop still has handles that are part of `g`; libuv calls back in
	 * reverse order, so the first one closed is the last one to end. */
	uv_close((uv_handle_t *)&g->reaper, on_reaped);
	listen_stop(g);
	admin_close(g->admin);
	conn_close_all(g);
	peek_close_all(g);
	http_close(g);
	bridge_close_all(g);
	route_release(&g->route);
	tls_ctx_free(g->tls);
	token_keys_free(g->keys);
	admit_release(&g->admit);
	buf_release(&g->env.scratch);
	free(g->read_buf);
}

unsigned gateway_port(const struct gateway *g)
{
	return g->port;
}
