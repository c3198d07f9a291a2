/* What each verb of the admin socket does (the table is in admin.h). */
#include "base/alloc.h"
#include "base/assert.h"
#include "base/metric.h"
#include "consensus/link.h"
#include "gateway/admin_impl.h"
#include "gateway/conn.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- members of requests ---------------------------------------------------- */

static json_t *id_json(uint64_t id)
{
	char text[17];

	snprintf(text, sizeof text, "%016" PRIx64, id);
	return json_string(text);
}

static bool id_read(const json_t *v, uint64_t *id)
{
	const char *s = json_string_value(v);
	unsigned i;

	if (!s || json_string_length(v) != 16)
		return false;
	*id = 0;
	for (i = 0; i < 16; i++) {
		const char *digits = "0123456789abcdef";
		const char *d = s[i] ? strchr(digits, s[i]) : NULL;

		if (!d)
			return false;
		*id = *id << 4 | (uint64_t)(d - digits);
	}
	return *id != 0;
}

static bool want_id(struct admin_req *r, const char *name, uint64_t *id)
{
	if (id_read(json_object_get(r->in, name), id))
		return true;
	admin_fail(r, "bad-request", "\"%s\" must be 16 hex digits, not 0", name);
	return false;
}

static bool want_num(struct admin_req *r, const char *name, uint64_t min,
		     uint64_t max, uint64_t *n)
{
	const json_t *v = json_object_get(r->in, name);
	json_int_t i = json_integer_value(v);

	if (json_is_integer(v) && i >= 0 && (uint64_t)i >= min &&
	    (uint64_t)i <= max) {
		*n = (uint64_t)i;
		return true;
	}
	admin_fail(r, "bad-request",
		   "\"%s\" must be a number from %" PRIu64 " to %" PRIu64, name,
		   min, max);
	return false;
}

static void set_num(json_t *o, const char *name, uint64_t n)
{
	json_object_set_new(o, name, json_integer((json_int_t)n));
}

/* ---- the node --------------------------------------------------------------- */

/* Peers that turn this node away for its disk, and those that it turns away. */
static void disks_refused(const struct gateway *g, json_t *o)
{
	json_t *list = json_array();
	struct link_stats st;
	char why[160] = "";
	unsigned by, i;

	by = g->links ? link_refused(g->links, why) : 0;
	set_num(o, "by", by);
	if (by)
		json_object_set_new(o, "why", json_string(why));
	for (i = 1; g->links && i < NET_NODE_MAX; i++)
		if (link_stats(g->links, i, &st) == 0 && st.refused_here)
			json_array_append_new(list, json_integer(i));
	if (json_array_size(list))
		json_object_set(o, "peers", list);
	json_decref(list);
}

static void status(struct admin_req *r)
{
	struct gateway *g = r->g;
	struct node_info ni;
	json_t *o = json_object(), *j = json_object(), *d = json_object();
	json_t *refused = json_object();
	char *listen;

	node_info(g->node, &ni);
	set_num(o, "id", ni.id);
	json_object_set_new(o, "version", json_string(QUIPU_VERSION));
	set_num(o, "uptime_s", (clock_ms(g->clock) - g->started_ms) / 1000);
	set_num(o, "now_ms", clock_wall_ms(g->clock));
	json_object_set_new(o, "ready", json_boolean(gateway_is_ready(g)));
	json_object_set_new(o, "draining", json_boolean(g->leaving));
	set_num(o, "shards", ni.shards);
	set_num(o, "present", ni.present);
	set_num(o, "led", ni.led);
	set_num(o, "faulty", ni.faulty);
	set_num(o, "calls", ni.calls);
	set_num(o, "subs", ni.subs);
	set_num(o, "sessions", g->env.live);
	set_num(o, "http", http_connections(g));
	set_num(o, "sends_open", g->route.n_open);
	listen = gateway_address(g);
	json_object_set_new(o, "listen", json_string(listen));
	free(listen);
	json_object_set_new(d, "level", json_string(level_name(ni.level)));
	set_num(d, "free_bytes", ni.disk_free);
	set_num(d, "size_bytes", ni.disk_total);
	json_object_set_new(o, "disk", d);
	disks_refused(g, refused);
	json_object_set_new(o, "disk_refused", refused);
	set_num(j, "groups", ni.journal.groups);
	set_num(j, "requests", ni.journal.requests);
	set_num(j, "entries", ni.journal.entries);
	set_num(j, "bytes", ni.journal.bytes);
	set_num(j, "syncs", ni.journal.syncs);
	set_num(j, "sync_us_last", ni.journal.sync_us_last);
	set_num(j, "files", ni.journal.files);
	set_num(j, "files_used", ni.journal.files_used);
	set_num(j, "queued_bytes", ni.journal.queued_bytes);
	set_num(j, "torn_tails", ni.journal.torn_tails);
	json_object_set_new(o, "journal", j);
	admin_ok(r, o);
}

static void nodes(struct admin_req *r)
{
	struct node_info ni;
	json_t *list = json_array();
	unsigned i;

	node_info(r->g->node, &ni);
	for (i = 0; i < ni.n_members; i++) {
		json_t *o = json_object();

		set_num(o, "id", ni.members[i]);
		json_object_set_new(o, "self",
				    json_boolean(ni.members[i] == ni.id));
		json_object_set_new(o, "up", json_boolean(ni.member_up[i]));
		json_object_set_new(o, "disk",
				    json_string(level_name(ni.member_level[i])));
		json_array_append_new(list, o);
	}
	admin_ok(r, json_pack("{s:o}", "nodes", list));
}

static const char *role_name(enum group_role role)
{
	switch (role) {
	case GROUP_LEADER:
		return "leader";
	case GROUP_CANDIDATE:
		return "candidate";
	default:
		return "follower";
	}
}

static json_t *shard_json(struct node *n, uint32_t shard)
{
	struct node_shard_info si;
	json_t *o = json_object(), *voters = json_array();
	char root[65];
	unsigned i;

	node_shard_info(n, shard, &si);
	set_num(o, "shard", shard);
	json_object_set_new(o, "role",
			    json_string(si.present ? role_name(si.raft.role)
						   : "absent"));
	set_num(o, "term", si.raft.term);
	set_num(o, "leader", si.raft.leader);
	set_num(o, "commit", si.raft.commit_index);
	set_num(o, "applied", si.raft.applied_index);
	set_num(o, "last", si.raft.last_index);
	set_num(o, "durable", si.durable_index);
	set_num(o, "records", si.records);
	for (i = 0; i < 32; i++)
		snprintf(root + 2 * i, 3, "%02x", si.root[i]);
	json_object_set_new(o, "root", json_string(root));
	json_object_set_new(o, "digest", id_json(si.digest));
	set_num(o, "subs", si.subs);
	json_object_set_new(o, "faulty", json_boolean(si.faulty));
	json_object_set_new(o, "why", json_string(si.why));
	for (i = 0; i < si.raft.n_voters; i++) {
		json_t *v = json_object();

		set_num(v, "id", si.raft.voters[i]);
		set_num(v, "match", si.raft.match[i]);
		json_array_append_new(voters, v);
	}
	json_object_set_new(o, "voters", voters);
	return o;
}

static void shards(struct admin_req *r)
{
	uint32_t n = node_shards(r->g->node), i;
	json_t *list;
	uint64_t one;

	if (json_object_get(r->in, "shard")) {
		if (!want_num(r, "shard", 0, n - 1, &one))
			return;
		list = json_array();
		json_array_append_new(list,
				      shard_json(r->g->node, (uint32_t)one));
	} else {
		list = json_array();
		for (i = 0; i < n; i++)
			json_array_append_new(list, shard_json(r->g->node, i));
	}
	admin_ok(r, json_pack("{s:o}", "shards", list));
}

static void leaders(struct admin_req *r)
{
	uint32_t n = node_shards(r->g->node), i;
	json_t *list = json_array();

	for (i = 0; i < n; i++) {
		struct node_shard_info si;
		json_t *o = json_object();

		node_shard_info(r->g->node, i, &si);
		set_num(o, "shard", i);
		set_num(o, "leader", si.raft.leader);
		json_array_append_new(list, o);
	}
	admin_ok(r, json_pack("{s:o}", "leaders", list));
}

static void transfer(struct admin_req *r)
{
	uint64_t shard, to;
	int rv;

	if (!want_num(r, "shard", 0, node_shards(r->g->node) - 1, &shard) ||
	    !want_num(r, "to", 1, CONF_NODE_MAX, &to))
		return;
	rv = node_transfer(r->g->node, (uint32_t)shard, to);
	switch (rv) {
	case 0:
		admin_ok(r, NULL);
		break;
	case ERR_NOT_LEADER:
		admin_fail(r, "no-leader", "this node does not lead shard %"
			   PRIu64, shard);
		break;
	case ERR_NOT_FOUND:
		admin_fail(r, "not-found", "node %" PRIu64 " is no voter of "
			   "shard %" PRIu64 ", or the replica is faulty", to,
			   shard);
		break;
	case ERR_BUSY:
		admin_fail(r, "busy", "a transfer of shard %" PRIu64
			   " is going on", shard);
		break;
	default:
		admin_fail(r, "internal", "%s", err_text(rv));
	}
}

static void drain(struct admin_req *r)
{
	struct gateway *g = r->g;

	admin_ok(r, NULL);
	if (g->drain_asked && !g->leaving)
		g->drain_asked(g->drain_asked_arg);
}

/* Secrets are files, and no value is one: all can be shown. */
static json_t *level(enum log_level l)
{
	static const char *const names[] = { "debug", "info", "warn", "error" };

	return json_string(names[l]);
}

static void config(struct admin_req *r)
{
	const struct conf *c = r->g->conf;
	json_t *o = json_object();
	char name[16];
	unsigned i;

#define SECTION(name, doc)
#define END(name)
#define VALUE_STR(v) json_string(v)
#define VALUE_LIST(v) json_string(v)
#define VALUE_U64(v) json_integer((json_int_t)(v))
#define VALUE_BOOL(v) json_boolean(v)
#define VALUE_LEVEL(v) level(v)
#define X(section, key, type, def, min, max, unit, doc)                        \
	json_object_set_new(o, #section "." #key, VALUE_##type(c->section.key));
#include "base/conf.tbl"
#undef SECTION
#undef END
#undef X
	for (i = 0; i < c->n_peers; i++) {
		snprintf(name, sizeof name, "peers.%" PRIu64, c->peer[i].id);
		json_object_set_new(o, name, json_string(c->peer[i].addr));
	}
	admin_ok(r, json_pack("{s:o}", "config", o));
}

static void stat_COUNTER(json_t *o, const char *name, enum metric m,
			 const char *label)
{
	if (!label[0])
		set_num(o, name, metric_get(m));
}

static void stat_HISTOGRAM(json_t *o, const char *name, enum metric m,
			   const char *label)
{
	const struct hist *h = metric_hist(m);

	(void)label;
	json_object_set_new(
		o, name,
		json_pack("{s:I,s:I,s:I,s:I}", "count", (json_int_t)h->count,
			  "p50_us", (json_int_t)hist_percentile(h, 0.5),
			  "p99_us", (json_int_t)hist_percentile(h, 0.99),
			  "max_us", (json_int_t)h->max));
}
#define stat_GAUGE stat_COUNTER

/* Labelled rows are shown by /metrics alone. */
static void stats(struct admin_req *r)
{
	json_t *o = json_object();

#define X(kind, id, name, help, label) stat_##kind(o, name, id, label);
#include "base/metric.tbl"
#undef X
	set_num(o, "route_retries", r->g->route.retries);
	set_num(o, "route_timeouts", r->g->route.timeouts);
	set_num(o, "route_full", r->g->route.full);
	admin_ok(r, json_pack("{s:o}", "stats", o));
}

/* ---- accounts --------------------------------------------------------------- */

static void no_answer(struct admin_req *r, int err)
{
	admin_fail(r, "unavailable", "%s",
		   err == ERR_UNKNOWN_OUTCOME ?
			   "no leader answered in time; the outcome is unknown" :
			   "no leader answered in time; nothing was done");
}

static void refused(struct admin_req *r, int st)
{
	const char *error = "internal";

	switch (st) {
	case ST_EXISTS:
		error = "exists";
		break;
	case ST_NOT_FOUND:
	case ST_DEVICE_REMOVED:
		error = "not-found";
		break;
	case ST_HELD:
		error = "held";
		break;
	case ST_TOO_MANY_DEVICES:
		error = "too-many-devices";
		break;
	case ST_CHANGED:
		error = "changed-meanwhile";
		break;
	case ST_WRONG_STATE:
		error = "wrong-state";
		break;
	default:
		break;
	}
	admin_fail(r, error, "%s", status_title(st));
}

/* Gives the call back; false: answered already. */
static bool came_through(struct admin_req *r, int err, const struct result *res)
{
	route_put(&r->g->route, r->call);
	r->call = NULL;
	if (err)
		no_answer(r, err);
	return !err && res;
}

static struct route_call *call_new(struct admin_req *r, route_cb *cb)
{
	struct route_call *c = route_get(&r->g->route);

	if (!c) {
		admin_fail(r, "busy", "too many calls are open");
		return NULL;
	}
	c->id = r->account;
	c->cb = cb;
	c->arg = r;
	r->call = c;
	return c;
}

static void propose(struct admin_req *r, enum cmd_type type, route_cb *cb)
{
	struct route_call *c = call_new(r, cb);

	if (!c)
		return;
	c->cmd.type = type;
	c->cmd.account = r->account;
	c->cmd.device = r->device;
	/* A new account under a number that we drew may be made twice. */
	c->once = !r->chosen;
	AZ(route_propose(&r->g->route, c));
}

static void ask_account(struct admin_req *r, route_cb *cb)
{
	struct route_call *c = call_new(r, cb);

	if (!c)
		return;
	memset(&c->query, 0, sizeof c->query);
	c->query.type = QUERY_ACCOUNT;
	c->query.account = r->account;
	c->query.device = r->device;
	route_query(&r->g->route, c);
}

static void account_added(struct route_call *c, int err,
			  const struct result *res)
{
	struct admin_req *r = c->arg;
	/* An earlier try of ours may have made it: then it is there, and nobody
	 * else can have drawn the same 63 bits. */
	bool ours = r->chosen && c->tries > 0;

	if (!came_through(r, err, res))
		return;
	if (res->status && !(res->status == ST_EXISTS && ours))
		refused(r, res->status);
	else
		admin_ok(r, json_pack("{s:o}", "id", id_json(r->account)));
}

static void account_add(struct admin_req *r)
{
	if (json_object_get(r->in, "id")) {
		if (!want_id(r, "id", &r->account))
			return;
		if (r->account >> 63) {
			admin_fail(r, "bad-request",
				   "ids with the top bit are those of groups");
			return;
		}
	} else {
		r->chosen = true;
		do
			r->account = rand_u64(r->g->rand) >> 1;
		while (!r->account);
	}
	propose(r, CMD_ACCOUNT_ADD, account_added);
}

static void device_added(struct route_call *c, int err, const struct result *res)
{
	struct admin_req *r = c->arg;

	if (!came_through(r, err, res))
		return;
	if (res->status)
		refused(r, res->status);
	else
		admin_ok(r, json_pack("{s:o,s:I,s:I}", "account",
				      id_json(r->account), "device",
				      (json_int_t)res->device, "epoch",
				      (json_int_t)res->epoch));
}

static void device_add(struct admin_req *r)
{
	if (want_id(r, "account", &r->account))
		propose(r, CMD_DEVICE_ADD, device_added);
}

static void device_removed(struct route_call *c, int err,
			   const struct result *res)
{
	struct admin_req *r = c->arg;

	if (!came_through(r, err, res))
		return;
	if (res->status)
		refused(r, res->status);
	else
		admin_ok(r, json_pack("{s:o,s:I}", "account",
				      id_json(r->account), "device",
				      (json_int_t)r->device));
}

static bool want_device(struct admin_req *r)
{
	uint64_t device;

	if (!want_id(r, "account", &r->account) ||
	    !want_num(r, "device", 1, UINT32_MAX, &device))
		return false;
	r->device = (uint32_t)device;
	return true;
}

static void device_remove(struct admin_req *r)
{
	if (want_device(r))
		propose(r, CMD_DEVICE_REMOVE, device_removed);
}

static void account_seen(struct route_call *c, int err, const struct result *res)
{
	struct admin_req *r = c->arg;
	json_t *o, *devices;
	unsigned i;

	if (!came_through(r, err, res))
		return;
	if (res->status) {
		refused(r, res->status);
		return;
	}
	o = json_object();
	devices = json_array();
	json_object_set_new(o, "account", id_json(r->account));
	set_num(o, "shard", res->shard);
	set_num(o, "end", res->inbox_end);
	set_num(o, "oldest", res->inbox_oldest);
	set_num(o, "n_devices", res->n_devices);
	for (i = 0; i < 32; i++)
		if (res->devices >> i & 1)
			json_array_append_new(devices,
					      json_integer((json_int_t)i + 1));
	json_object_set_new(o, "devices", devices);
	admin_ok(r, o);
}

static void account(struct admin_req *r)
{
	if (want_id(r, "account", &r->account))
		ask_account(r, account_seen);
}

/* ---- tokens ----------------------------------------------------------------- */

static void token_answer(struct admin_req *r, uint32_t epoch)
{
	const json_t *ttl = json_object_get(r->in, "ttl");
	uint64_t seconds = ttl ? (uint64_t)json_integer_value(ttl) : TOKEN_TTL_S;
	struct token_claims c = { .account = r->account, .device = r->device,
				  .epoch = epoch };
	struct buf b = BUF_INIT;

	c.issued_s = clock_wall_ms(r->g->clock) / 1000;
	c.expires_s = c.issued_s + seconds;
	token_make(r->g->keys, &c, r->g->rand, &b);
	admin_ok(r, json_pack("{s:s%,s:I}", "token", (const char *)b.data, b.len,
			      "expires_s", (json_int_t)c.expires_s));
	buf_release(&b);
}

static void token_asked(struct route_call *c, int err, const struct result *res)
{
	struct admin_req *r = c->arg;

	if (!came_through(r, err, res))
		return;
	if (res->status)
		refused(r, res->status);
	else
		token_answer(r, res->epoch);
}

static void token(struct admin_req *r)
{
	uint64_t n;

	if (!want_device(r))
		return;
	if (json_object_get(r->in, "ttl") &&
	    !want_num(r, "ttl", 1, TOKEN_TTL_MAX_S, &n))
		return;
	if (!json_object_get(r->in, "epoch"))
		ask_account(r, token_asked);
	else if (want_num(r, "epoch", 0, UINT32_MAX, &n))
		token_answer(r, (uint32_t)n);
}

/* ---- for verbs elsewhere ------------------------------------------------------ */

bool admin_want_num(struct admin_req *r, const char *name, uint64_t min,
		    uint64_t max, uint64_t *n)
{
	return want_num(r, name, min, max, n);
}

bool admin_want_account(struct admin_req *r)
{
	return want_id(r, "account", &r->account);
}

struct route_call *admin_call(struct admin_req *r, route_cb *cb)
{
	return call_new(r, cb);
}

bool admin_came_through(struct admin_req *r, int err, const struct result *res)
{
	return came_through(r, err, res);
}

void admin_refused(struct admin_req *r, int status_no)
{
	refused(r, status_no);
}

/* ---- the table -------------------------------------------------------------- */

static const struct {
	const char *name;
	void (*run)(struct admin_req *r);
} verbs[] = {
	{ "status", status },
	{ "nodes", nodes },
	{ "shards", shards },
	{ "leaders", leaders },
	{ "account-add", account_add },
	{ "device-add", device_add },
	{ "device-remove", device_remove },
	{ "account", account },
	{ "transfer", transfer },
	{ "drain", drain },
	{ "reload", admin_reload },
	{ "certs", admin_certs },
	{ "histograms", admin_histograms },
	{ "backup", admin_backup },
	{ "backup-mark", admin_backup_mark },
	{ "backup-shard", admin_backup_shard },
	{ "backup-end", admin_backup_end },
	{ "feature", admin_feature },
	{ "feature-raise", admin_feature_raise },
	{ "retention", admin_retention },
	{ "retention-ttl", admin_retention_ttl },
	{ "account-erase", admin_account_erase },
	{ "account-hold", admin_account_hold },
	{ "node-list", admin_node_list },
	{ "node-set", admin_node_set },
	{ "places", admin_places },
	{ "plan", admin_plan },
	{ "config", config },
	{ "stats", stats },
	{ "token", token },
};

void admin_verb(struct admin_req *r)
{
	const char *name = json_string_value(json_object_get(r->in, "verb"));
	unsigned i;

	if (!name) {
		admin_fail(r, "bad-request", "no \"verb\"");
		return;
	}
	for (i = 0; i < sizeof verbs / sizeof verbs[0]; i++) {
		if (strcmp(name, verbs[i].name) == 0) {
			verbs[i].run(r);
			return;
		}
	}
	admin_fail(r, "bad-request", "unknown verb");
}
