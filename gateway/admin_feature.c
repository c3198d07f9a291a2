/* Verbs about the feature level (consensus/feature.h). */
#include "base/assert.h"
#include "consensus/feature.h"
#include "gateway/admin_impl.h"

#include <inttypes.h>
#include <string.h>

static void put(json_t *o, const char *name, uint64_t n)
{
	json_object_set_new(o, name, json_integer((json_int_t)n));
}

void admin_feature(struct admin_req *r)
{
	json_t *o = json_object(), *list = json_array();
	struct node_feature_info fi;
	struct node_info ni;
	uint64_t id;

	node_feature_info(r->g->node, &fi);
	node_info(r->g->node, &ni);
	put(o, "level", fi.level);
	put(o, "max", fi.max);
	put(o, "possible", fi.possible);
	json_object_set_new(o, "auto", json_boolean(fi.automatic));
	put(o, "epoch", fi.epoch);
	for (id = 1; id < NET_NODE_MAX; id++) {
		uint32_t max = id == ni.id ? fi.max : fi.peer_max[id];
		json_t *n;

		if (!max && !(fi.lacking >> id & 1))
			continue;
		n = json_object();
		put(n, "id", id);
		put(n, "max", max);
		json_object_set_new(n, "lacking",
				    json_boolean(fi.lacking >> id & 1));
		json_array_append_new(list, n);
	}
	json_object_set_new(o, "nodes", list);
	admin_ok(r, o);
}

static void raised(struct route_call *c, int err, const struct result *res)
{
	struct admin_req *r = c->arg;
	uint32_t level = c->cmd.level;

	if (!admin_came_through(r, err, res))
		return;
	if (res->status && res->status != ST_EXISTS)
		admin_refused(r, res->status);
	else
		admin_ok(r, json_pack("{s:I}", "level", (json_int_t)level));
}

void admin_feature_raise(struct admin_req *r)
{
	const json_t *v = json_object_get(r->in, "level");
	json_int_t want = json_integer_value(v);
	struct node_feature_info fi;
	struct route_call *c;
	uint64_t id = 1;

	node_feature_info(r->g->node, &fi);
	if (!json_is_integer(v) || want < 1 || want > FEATURE_LEVEL_MAX) {
		admin_fail(r, "bad-request", "\"level\" must be a number from 1 to %u",
			   FEATURE_LEVEL_MAX);
		return;
	}
	if (want <= fi.level) {
		admin_ok(r, json_pack("{s:I}", "level", (json_int_t)fi.level));
		return;
	}
	/* A member that is down may come back as an older program. */
	if (want > fi.possible) {
		admin_fail(r, "feature-level",
			   "level %" PRIu64 " is not known to all members: all that "
			   "are up and said so know %u", (uint64_t)want, fi.possible);
		return;
	}
	c = admin_call(r, raised);
	if (!c)
		return;
	while (node_shard_of(r->g->node, id) != 0)
		id++; /* calls find their shard by an id: any that lives there */
	c->id = id;
	memset(&c->cmd, 0, sizeof c->cmd);
	c->cmd.type = CMD_FEATURE;
	c->cmd.level = (uint32_t)want;
	AZ(route_propose(&r->g->route, c));
}
