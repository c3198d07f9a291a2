/* Verbs of a backup (tools/quipuctl/backup.c): the server says which files a snapshot
 * of a shard consists of and keeps them; who asks copies them from the data folder, as
 * the socket lies in it too. */
#include "base/base64.h"
#include "gateway/admin_impl.h"

#include <string.h>

static void put(json_t *o, const char *name, uint64_t n)
{
	json_object_set_new(o, name, json_integer((json_int_t)n));
}

static bool want_shard(struct admin_req *r, uint32_t *shard)
{
	const json_t *v = json_object_get(r->in, "shard");
	json_int_t n = json_integer_value(v);

	if (!json_is_integer(v) || n < 0 || n >= node_shards(r->g->node)) {
		admin_fail(r, "bad-request", "\"shard\" must be a number below %u",
			   node_shards(r->g->node));
		return false;
	}
	*shard = (uint32_t)n;
	return true;
}

void admin_backup(struct admin_req *r)
{
	json_t *o = json_object(), *nodes = json_array();
	struct node_feature_info fi;
	struct node_info ni;
	uint8_t id[16];
	char hex[33];
	unsigned i;

	node_feature_info(r->g->node, &fi);
	node_info(r->g->node, &ni);
	conf_cluster_id(r->g->conf, id);
	for (i = 0; i < 16; i++)
		snprintf(hex + 2 * i, 3, "%02x", id[i]);
	json_object_set_new(o, "cluster", json_string(r->g->conf->node.cluster));
	json_object_set_new(o, "cluster_id", json_string(hex));
	put(o, "shards", node_shards(r->g->node));
	put(o, "level", fi.level);
	put(o, "epoch", fi.epoch);
	for (i = 0; i < ni.n_members; i++)
		json_array_append_new(nodes,
				      json_integer((json_int_t)ni.members[i]));
	json_object_set_new(o, "nodes", nodes);
	admin_ok(r, o);
}

static void marked(struct route_call *c, int err, const struct result *res)
{
	struct admin_req *r = c->arg;

	if (!admin_came_through(r, err, res))
		return;
	if (res->status)
		admin_refused(r, res->status);
	else
		admin_ok(r, json_pack("{s:I,s:I}", "index", (json_int_t)res->n,
				      "clock", (json_int_t)res->lamport));
}

void admin_backup_mark(struct admin_req *r)
{
	struct node_feature_info fi;
	struct route_call *c;
	uint32_t shard;
	uint64_t id = 1;

	node_feature_info(r->g->node, &fi);
	if (!want_shard(r, &shard))
		return;
	if (fi.level < 2) {
		admin_fail(r, "feature-level", "a backup needs feature level 2: "
			   "quipuctl feature status");
		return;
	}
	c = admin_call(r, marked);
	if (!c)
		return;
	/* Calls find their shard by an id: any that lives there. */
	while (node_shard_of(r->g->node, id) != shard)
		id++;
	c->id = id;
	memset(&c->query, 0, sizeof c->query);
	c->query.type = QUERY_MARK;
	route_query(&r->g->route, c);
}

void admin_backup_shard(struct admin_req *r)
{
	const json_t *v = json_object_get(r->in, "index");
	struct node_backup_info bi;
	struct buf text = BUF_INIT;
	struct err e = { 0 };
	json_t *o;
	uint32_t shard;
	int rv;

	if (!want_shard(r, &shard))
		return;
	if (!json_is_integer(v) || json_integer_value(v) < 1) {
		admin_fail(r, "bad-request", "\"index\" must be what backup-mark said");
		return;
	}
	rv = node_backup(r->g->node, shard, (uint64_t)json_integer_value(v), &bi,
			 &e);
	if (rv == ERR_AGAIN) {
		admin_ok(r, json_pack("{s:b}", "ready", 0));
		return;
	}
	if (rv) {
		admin_fail(r, rv == ERR_NOT_FOUND     ? "not-found"
			      : rv == ERR_UNAVAILABLE ? "unavailable"
						      : "refused",
			   "%s", e.msg);
		return;
	}
	base64url_put(&text, bi.bytes, bi.len);
	o = json_pack("{s:b,s:s#}", "ready", 1, "manifest", (char *)text.data,
		      (int)text.len);
	put(o, "incarnation", bi.incarnation);
	buf_release(&text);
	admin_ok(r, o);
}

void admin_backup_end(struct admin_req *r)
{
	uint32_t shard;

	if (!want_shard(r, &shard))
		return;
	node_backup_end(r->g->node, shard);
	admin_ok(r, NULL);
}
