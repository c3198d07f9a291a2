/* A device's own account, as its shard sees it now. */
#include "gateway/http.h"

#include <inttypes.h>
#include <string.h>

/* A token outlives the removal of its device; the shard's word counts. */
static bool device_lives(struct http_req *r, const struct result *res)
{
	if (!res->status && res->epoch == r->claims.epoch)
		return true;
	if (res->status && res->status != ST_DEVICE_REMOVED &&
	    res->status != ST_NOT_FOUND)
		http_problem_status(r, res->status);
	else
		http_problem_status(r, ST_DEVICE_REMOVED);
	return false;
}

static void account_seen(struct route_call *c, int err, const struct result *res)
{
	struct http_req *r = c->arg;
	const char *comma = "";
	unsigned i;

	route_put(&r->g->route, c);
	r->call = NULL;
	if (err) {
		http_problem_route(r, err);
		return;
	}
	if (!device_lives(r, res))
		return;
	buf_printf(&r->reply,
		   "{\"account\":\"%016" PRIx64 "\",\"device\":%u,"
		   "\"epoch\":%u,\"shard\":%u,\"n\":%" PRIu64
		   ",\"oldest\":%" PRIu64 ",\"cursor\":%" PRIu64
		   ",\"devices\":[",
		   r->claims.account, r->claims.device, res->epoch, res->shard,
		   res->inbox_end, res->inbox_oldest, res->cursor);
	for (i = 0; i < 32; i++) {
		if (!(res->devices >> i & 1))
			continue;
		buf_printf(&r->reply, "%s%u", comma, i + 1);
		comma = ",";
	}
	buf_puts(&r->reply, "]}");
	http_reply(r, 200, "application/json");
}

static void account(struct http_req *r)
{
	struct route_call *c = route_get(&r->g->route);

	if (!c) {
		http_problem_route(r, ERR_UNAVAILABLE);
		return;
	}
	memset(&c->query, 0, sizeof c->query);
	c->query.type = QUERY_ACCOUNT;
	c->query.account = r->claims.account;
	c->query.device = r->claims.device;
	c->id = r->claims.account;
	c->cb = account_seen;
	c->arg = r;
	r->call = c;
	route_query(&r->g->route, c);
}

const struct http_route rest_account[] = {
	{ "GET", "/v1/account", account, true, false },
	{ NULL, NULL, NULL, false, false },
};
