/* Certificates of links and gateway: read again while everything runs, and how long
 * they last. */
#include "base/logf.h"
#include "base/metric.h"
#include "consensus/link.h"
#include "gateway/impl.h"

#include <inttypes.h>

static int load_web(const struct gateway *g, struct tls_ctx **out, struct err *e)
{
	struct tls_files files = { .cert = g->conf->gateway.tls_cert,
				   .key = g->conf->gateway.tls_key };

	*out = NULL;
	if (!files.cert[0])
		return 0;
	if (tls_ctx_new(out, TLS_SERVER, &files, e))
		return err_wrap(e, "gateway.tls_cert");
	return 0;
}

int certs_open(struct gateway *g, struct err *e)
{
	return load_web(g, &g->tls, e);
}

void gateway_links(struct gateway *g, struct net *links)
{
	g->links = links;
	certs_look(g);
}

uint64_t certs_links_until(const struct gateway *g)
{
	int64_t until = g->links ? link_cert_expires(g->links) : 0;

	return until > 0 ? (uint64_t)until : 0;
}

uint64_t certs_gateway_until(const struct gateway *g)
{
	int64_t until = g->tls ? tls_ctx_expires(g->tls) : 0;

	return until > 0 ? (uint64_t)until : 0;
}

int gateway_reload(struct gateway *g, struct err *e)
{
	struct tls_files files = { g->conf->tls.ca, g->conf->tls.cert,
				   g->conf->tls.key };
	struct tls_ctx *web;
	int rv = load_web(g, &web, e);

	if (!rv && g->links) {
		rv = link_reload(g->links, &files, e);
		if (rv)
			err_wrap(e, "links");
	}
	if (rv) {
		tls_ctx_free(web);
		metric_add(M_CERT_RELOADS_FAILED, 1);
		log_event(LOG_ERROR, "certs_kept", "why=%s", log_quote(e->msg));
		return rv;
	}
	tls_ctx_free(g->tls); /* connections keep what they need */
	g->tls = web;
	metric_add(M_CERT_RELOADS, 1);
	certs_look(g);
	log_event(LOG_INFO, "certs_reloaded",
		  "links_until=%" PRIu64 " gateway_until=%" PRIu64,
		  certs_links_until(g), certs_gateway_until(g));
	return 0;
}

/* 0: there is none; 1: expired, so that an alarm can tell the two. */
static uint64_t left_s(uint64_t until_s, uint64_t now_s)
{
	if (!until_s)
		return 0;
	return until_s > now_s + 1 ? until_s - now_s : 1;
}

void certs_look(struct gateway *g)
{
	uint64_t now_s = clock_wall_ms(g->clock) / 1000;

	metric_set(M_LINK_CERT_SECONDS, left_s(certs_links_until(g), now_s));
	metric_set(M_GATEWAY_CERT_SECONDS, left_s(certs_gateway_until(g), now_s));
}
