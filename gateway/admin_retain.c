/* Verbs about retention: what stays, what goes, and for how long. */
#include "base/assert.h"
#include "consensus/feature.h"
#include "gateway/admin_impl.h"

#include <inttypes.h>
#include <string.h>

#define TTL_MAX_ADMIN_S 2592000

/* What nobody would carry out is not promised; older programs stop at it. */
static bool enabled(struct admin_req *r)
{
	struct node_retain_info ri;
	struct node_feature_info fi;

	node_retain_info(r->g->node, 0, &ri);
	node_feature_info(r->g->node, &fi);
	if (!ri.enabled)
		admin_fail(r, "not-enabled",
			   "retain.enabled is off: set it on all nodes first");
	else if (fi.level < feature_of_cmd(CMD_RETAIN))
		admin_fail(r, "feature-level",
			   "the cluster is at feature level %u, retention is of "
			   "level %u: quipuctl feature status",
			   fi.level, feature_of_cmd(CMD_RETAIN));
	return ri.enabled && fi.level >= feature_of_cmd(CMD_RETAIN);
}

static void put(json_t *o, const char *name, uint64_t n)
{
	json_object_set_new(o, name, json_integer((json_int_t)n));
}

void admin_retention(struct admin_req *r)
{
	json_t *o = json_object(), *list = json_array();
	struct node_retain_info ri = { 0 };
	uint32_t i;

	for (i = 0; i < node_shards(r->g->node); i++) {
		json_t *s = json_object();

		node_retain_info(r->g->node, i, &ri);
		put(s, "shard", i);
		json_object_set_new(s, "leader", json_boolean(ri.leader));
		put(s, "oldest", ri.trimmed);
		put(s, "records", ri.records);
		put(s, "segments", ri.segments);
		put(s, "bytes", ri.bytes);
		put(s, "content", ri.content);
		put(s, "live", ri.live);
		put(s, "held", ri.held);
		put(s, "doomed", ri.doomed);
		put(s, "waiting", ri.waiting);
		put(s, "freed", ri.freed);
		put(s, "ttl_s", ri.ttl_ms / 1000);
		json_array_append_new(list, s);
	}
	json_object_set_new(o, "enabled", json_boolean(ri.enabled));
	json_object_set_new(o, "shards", list);
	admin_ok(r, o);
}

static void propose(struct admin_req *r, enum retain_op op, bool on, uint64_t ttl_s,
		    uint64_t id, route_cb *cb)
{
	struct route_call *c = admin_call(r, cb);

	if (!c)
		return;
	c->id = id;
	memset(&c->cmd, 0, sizeof c->cmd);
	c->cmd.type = CMD_RETAIN;
	c->cmd.account = op == RETAIN_POLICY ? 0 : r->account;
	c->cmd.retain.op = op;
	c->cmd.retain.on = on;
	c->cmd.retain.ttl_ms = ttl_s * 1000;
	AZ(route_propose(&r->g->route, c));
}

/* Done twice is done. */
static void answered(struct route_call *c, int err, const struct result *res)
{
	struct admin_req *r = c->arg;
	bool erased = c->cmd.retain.op == RETAIN_ERASE && c->tries > 0;

	if (!admin_came_through(r, err, res))
		return;
	if (res->status && !(res->status == ST_EXISTS && erased))
		admin_refused(r, res->status);
	else
		admin_ok(r, NULL);
}

void admin_account_erase(struct admin_req *r)
{
	if (enabled(r) && admin_want_account(r))
		propose(r, RETAIN_ERASE, false, 0, r->account, answered);
}

void admin_account_hold(struct admin_req *r)
{
	const json_t *on = json_object_get(r->in, "on");

	if (!enabled(r) || !admin_want_account(r))
		return;
	if (!json_is_boolean(on))
		admin_fail(r, "bad-request", "\"on\" must be true or false");
	else
		propose(r, RETAIN_HOLD, json_is_true(on), 0, r->account, answered);
}

/* ---- the time of all shards, one after the other ------------------------------- */

static void ttl_next(struct admin_req *r);

static void ttl_answered(struct route_call *c, int err, const struct result *res)
{
	struct admin_req *r = c->arg;

	if (!admin_came_through(r, err, res))
		return;
	if (res->status) {
		admin_refused(r, res->status);
		return;
	}
	r->device++;
	ttl_next(r);
}

static void ttl_next(struct admin_req *r)
{
	uint64_t id = 1, ttl = (uint64_t)json_integer_value(
					json_object_get(r->in, "seconds"));

	if (r->device >= node_shards(r->g->node)) {
		admin_ok(r, NULL);
		return;
	}
	/* Calls find their shard by an id: any that lives there. */
	while (node_shard_of(r->g->node, id) != r->device)
		id++;
	propose(r, RETAIN_POLICY, false, ttl, id, ttl_answered);
}

void admin_retention_ttl(struct admin_req *r)
{
	const json_t *v = json_object_get(r->in, "seconds");
	json_int_t s = json_integer_value(v);

	if (!enabled(r))
		return;
	if (!json_is_integer(v) || s < 1 || s > TTL_MAX_ADMIN_S) {
		admin_fail(r, "bad-request",
			   "\"seconds\" must be a number from 1 to %d",
			   TTL_MAX_ADMIN_S);
		return;
	}
	r->device = 0;
	ttl_next(r);
}
