/* What operators and their machines ask for: alive, ready, figures, public keys;
 * and the door to the stream. */
#include "base/metric.h"
#include "consensus/link.h"
#include "gateway/http.h"

#include <string.h>

/* The process turns its loop: that is all that a restart could mend. */
static void livez(struct http_req *r)
{
	buf_puts(&r->reply, "live\n");
	http_reply(r, 200, "text/plain; charset=utf-8");
}

/* May clients be sent here? */
static void readyz(struct http_req *r)
{
	char why[160];

	if (gateway_is_ready(r->g)) {
		buf_puts(&r->reply, "ready\n");
		http_reply(r, 200, "text/plain; charset=utf-8");
		return;
	}
	r->retry_s = 1;
	if (r->g->leaving)
		http_problem(r, 503, "draining", "The server is going away",
			     NULL);
	else if (r->g->links && link_refused(r->g->links, why))
		http_problem(r, 503, "disk-refused", "Peers know another disk "
			     "of this node", why);
	else
		http_problem(r, 503, "no-leader",
			     "Some shard has no leader, or a replica is faulty",
			     NULL);
}

static void gauges(struct gateway *g)
{
	struct node_info ni;
	char why[160];

	node_info(g->node, &ni);
	metric_set(M_LINK_REFUSED_BY, g->links ? link_refused(g->links, why) : 0);
	metric_set(M_SHARDS_LED, ni.led);
	metric_set(M_SHARDS_FAULTY, ni.faulty);
	metric_set(M_DIRTY_BYTES, ni.dirty_bytes);
	metric_set(M_SESSIONS, g->env.live);
	metric_set(M_CONNECTIONS, g->n_sockets);
}

static void metrics(struct http_req *r)
{
	const char *accept = http_field(r, "Accept");
	bool open = accept && strstr(accept, "application/openmetrics-text");

	gauges(r->g);
	metric_render(&r->reply, open);
	http_reply(r, 200,
		   open ? "application/openmetrics-text; version=1.0.0; "
			  "charset=utf-8" :
			  "text/plain; version=0.0.4; charset=utf-8");
}

static void jwks(struct http_req *r)
{
	token_keys_jwks(r->g->keys, &r->reply);
	http_reply(r, 200, "application/jwk-set+json");
}

const struct http_route rest_system[] = {
	{ "GET", "/livez", livez, false, false },
	{ "GET", "/readyz", readyz, false, false },
	{ "GET", "/metrics", metrics, false, false },
	{ "GET", "/.well-known/jwks.json", jwks, false, false },
	{ "GET", "/v1/stream", ws_open, false, false },
	{ NULL, NULL, NULL, false, false },
};
