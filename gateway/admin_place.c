/* Verbs of the admin socket about who is in the cluster and where replicas are.  What
 * moves is moved by the meta shard's leader (consensus/reconcile.h); here rows are
 * changed, and plans shown. */
#include "base/alloc.h"
#include "base/assert.h"
#include "consensus/placing.h"
#include "consensus/steward.h"
#include "gateway/admin_impl.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define STEPS_SHOWN 500
#define STEPS_SHOWN_MAX 2000

static void put(json_t *o, const char *name, uint64_t n)
{
	json_object_set_new(o, name, json_integer((json_int_t)n));
}

static void put_bool(json_t *o, const char *name, bool b)
{
	json_object_set_new(o, name, json_boolean(b));
}

static void put_hex(json_t *o, const char *name, const uint8_t *p, size_t n)
{
	char text[65] = "";
	size_t i;

	for (i = 0; p && i < n; i++)
		snprintf(text + 2 * i, 3, "%02x", p[i]);
	json_object_set_new(o, name, json_string(text));
}

static bool state_of(const char *name, enum place_state *out)
{
	enum place_state s;

	for (s = PLACE_NONE; s < PLACE_STATES; s++) {
		if (name && strcmp(name, place_state_name(s)) == 0) {
			*out = s;
			return true;
		}
	}
	return false;
}

static const struct reconcile_config *config_of(const struct gateway *g)
{
	static struct reconcile_config c;

	c.replicas = (unsigned)g->conf->placement.replicas;
	c.automatic = g->conf->placement.automatic;
	return &c;
}

/* ---- after a look at all nodes ----------------------------------------------------- */

struct seen {
	struct node_look look;
	struct admin_req *r;
	void (*then)(struct admin_req *r);
};

static void seen_drop(struct admin_req *r)
{
	struct seen *s = r->aside;

	node_look_cancel(r->g->node, &s->look);
	free(s);
	r->aside = NULL;
	r->drop = NULL;
}

static void seen_cb(struct node_look *l)
{
	struct seen *s = l->arg;
	struct admin_req *r = s->r;
	void (*then)(struct admin_req *) = s->then;

	seen_drop(r);
	then(r);
}

static void see(struct admin_req *r, void (*then)(struct admin_req *r))
{
	struct seen *s = xcalloc(1, sizeof *s);

	s->r = r;
	s->then = then;
	s->look = (struct node_look){ .cb = seen_cb, .arg = s };
	r->aside = s;
	r->drop = seen_drop;
	node_look(r->g->node, &s->look);
}

/* ---- nodes ---------------------------------------------------------------------------- */

static unsigned replicas_of(struct node *n, unsigned id, unsigned *leads)
{
	unsigned have = 0, k;
	uint32_t i;

	*leads = 0;
	for (i = 0; i < node_shards(n); i++) {
		const struct shard_picture *p = node_picture(n, i);

		*leads += p->known && p->leader == id;
		for (k = 0; k < p->n; k++)
			have += p->member[k].id == id;
	}
	return have;
}

static json_t *node_json(struct node *n, const struct member *m, uint64_t self)
{
	unsigned leads, have = replicas_of(n, m->id, &leads);
	json_t *o = json_object();

	put(o, "id", m->id);
	json_object_set_new(o, "state", json_string(place_state_name(m->state)));
	json_object_set_new(o, "address", json_string(m->address));
	json_object_set_new(o, "rack", json_string(m->rack));
	put_hex(o, "disk", member_has_disk(m) ? m->disk_id : NULL, 16);
	put_bool(o, "up", node_reach(n) >> m->id & 1);
	put_bool(o, "self", m->id == self);
	put(o, "successor", m->successor);
	put(o, "version", m->version);
	put(o, "since_ms", m->since_ms);
	put(o, "replicas", have);
	put(o, "leads", leads);
	put_hex(o, "waits", node_knocked(n, m->id), 16);
	return o;
}

static void list_seen(struct admin_req *r)
{
	struct node *n = r->g->node;
	const struct members *t = node_members(n);
	json_t *o = json_object(), *list = json_array();
	struct node_info ni;
	unsigned id;

	node_info(n, &ni);
	for (id = 1; id < PLACE_NODES; id++)
		if (t->m[id].state != PLACE_NONE)
			json_array_append_new(list, node_json(n, &t->m[id], ni.id));
	put(o, "epoch", t->epoch);
	put(o, "factor", t->epoch ? reconcile_factor(t, config_of(r->g)->replicas)
				  : 0);
	put_bool(o, "needed", t->epoch && reconcile_needed(t));
	put_bool(o, "automatic", config_of(r->g)->automatic);
	json_object_set_new(o, "nodes", list);
	admin_ok(r, o);
}

void admin_node_list(struct admin_req *r)
{
	see(r, list_seen);
}

/* ---- a row is changed: read it, change it, write it if it is the same still ---------- */

static bool hex_read(const char *s, uint8_t *out, size_t n)
{
	size_t i;

	if (strlen(s) != 2 * n)
		return false;
	for (i = 0; i < n; i++) {
		unsigned v;

		if (strspn(s + 2 * i, "0123456789abcdef") < 2 ||
		    sscanf(s + 2 * i, "%2x", &v) != 1)
			return false;
		out[i] = (uint8_t)v;
	}
	return true;
}

static bool set_text(struct admin_req *r, const char *name, char *out, size_t size,
		     bool (*ok)(const char *p, size_t n))
{
	const json_t *v = json_object_get(r->in, name);
	const char *s = json_string_value(v);
	size_t n = json_string_length(v);

	if (!v)
		return true;
	if (!s || n >= size || !ok(s, n)) {
		admin_fail(r, "bad-request", "\"%s\" is too long, or has a "
			   "character that it must not have", name);
		return false;
	}
	memset(out, 0, size);
	memcpy(out, s, n);
	return true;
}

/* The disk of a replacement: as told, or the one that waits. */
static bool set_disk(struct admin_req *r, struct member *m, bool replace)
{
	const char *hex = json_string_value(json_object_get(r->in, "disk"));
	const uint8_t *waits = node_knocked(r->g->node, m->id);

	if (hex) {
		if (hex_read(hex, m->disk_id, 16))
			return true;
		admin_fail(r, "bad-request", "\"disk\" must be 32 hex digits");
		return false;
	}
	if (!replace)
		return true;
	if (waits) {
		memcpy(m->disk_id, waits, 16);
		return true;
	}
	admin_fail(r, "not-found", "node %u has not asked to come in with another "
		   "disk: start it with the new, empty one first", m->id);
	return false;
}

static bool change(struct admin_req *r, struct member *m, enum node_op *op)
{
	const char *how = json_string_value(json_object_get(r->in, "op"));
	const char *state = json_string_value(json_object_get(r->in, "state"));
	bool replace = how && strcmp(how, "replace") == 0;
	uint64_t n = 0;

	*op = replace ? NODE_REPLACE : NODE_SET;
	if (how && !replace && strcmp(how, "set")) {
		admin_fail(r, "bad-request", "\"op\" is set or replace");
		return false;
	}
	if (json_is_true(json_object_get(r->in, "made")) && m->version) {
		admin_fail(r, "exists", "node %u is in the cluster already", m->id);
		return false;
	}
	if (!json_is_true(json_object_get(r->in, "made")) && !m->version) {
		admin_fail(r, "not-found", "there is no node %u", m->id);
		return false;
	}
	if (json_object_get(r->in, "version")) {
		if (!admin_want_num(r, "version", 0, UINT32_MAX, &n))
			return false;
		if (n != m->version) {
			admin_fail(r, "changed-meanwhile",
				   "somebody else has changed node %u meanwhile",
				   m->id);
			return false;
		}
	}
	if (!m->version)
		m->state = PLACE_ACTIVE;
	if (state && !state_of(state, &m->state)) {
		admin_fail(r, "bad-request", "no state \"%s\"", state);
		return false;
	}
	n = m->successor;
	if (json_object_get(r->in, "successor") &&
	    !admin_want_num(r, "successor", 0, MEMBER_ID_MAX, &n))
		return false;
	m->successor = m->state == PLACE_LEAVING || m->state == PLACE_GONE
			       ? (uint8_t)n : 0;
	if (replace)
		m->state = PLACE_ACTIVE;
	return set_text(r, "address", m->address, sizeof m->address,
			member_address_ok) &&
	       set_text(r, "rack", m->rack, sizeof m->rack, member_rack_ok) &&
	       set_disk(r, m, replace);
}

static void row_written(struct route_call *c, int err, const struct result *res)
{
	struct admin_req *r = c->arg;

	if (!admin_came_through(r, err, res))
		return;
	node_members_refresh(r->g->node);
	if (res->status == ST_WRONG_STATE)
		admin_fail(r, "wrong-state", "node %" PRIu64 " cannot get there from "
			   "the state, or with the disk, that it has",
			   (uint64_t)json_integer_value(json_object_get(r->in, "id")));
	else if (res->status)
		admin_refused(r, res->status);
	else
		admin_ok(r, json_pack("{s:I}", "version", (json_int_t)res->n));
}

/* Calls find their shard by an id: any that lives in shard 0. */
static uint64_t meta_id(struct node *n)
{
	uint64_t id = 1;

	while (node_shard_of(n, id) != 0)
		id++;
	return id;
}

/* The command borrows from a row that stays until the answer. */
static void row_drop(struct admin_req *r)
{
	free(r->aside);
	r->aside = NULL;
	r->drop = NULL;
}

static void row_read(struct route_call *c, int err, const struct result *res)
{
	struct admin_req *r = c->arg;
	struct member *m = r->aside, one;
	enum node_op op;
	struct cursor in;
	uint32_t i;

	if (!admin_came_through(r, err, res))
		return;
	if (res->status) {
		admin_refused(r, res->status);
		return;
	}
	if (!res->n) {
		admin_fail(r, "unavailable", "the cluster has no table of nodes yet: "
			   "see `quipuctl feature`, then try again in a second");
		return;
	}
	in = cursor_of(res->records, res->records_len);
	for (i = 0; i < res->n_records && !member_get(&one, &in); i++)
		if (one.id == m->id)
			*m = one;
	if (!change(r, m, &op))
		return;
	c = admin_call(r, row_written);
	if (!c)
		return;
	c->id = meta_id(r->g->node);
	c->once = true; /* a second one would meet a row that the first has changed */
	c->cmd = cmd_node_of(op, m);
	AZ(route_propose(&r->g->route, c));
}

static void node_set(struct admin_req *r, uint64_t id)
{
	struct route_call *c;
	struct member *m;

	c = admin_call(r, row_read);
	if (!c)
		return;
	m = xcalloc(1, sizeof *m);
	m->id = (uint8_t)id;
	r->aside = m;
	r->drop = row_drop;
	c->id = meta_id(r->g->node);
	memset(&c->query, 0, sizeof c->query);
	c->query.type = QUERY_NODES;
	route_query(&r->g->route, c);
}

/* A row ends when nothing is left of the node: no shard may be unheard of. */
static void end_seen(struct admin_req *r)
{
	struct node *n = r->g->node;
	uint64_t id = (uint64_t)json_integer_value(json_object_get(r->in, "id"));
	unsigned leads, have = replicas_of(n, (unsigned)id, &leads), unknown = 0;
	uint32_t i;

	for (i = 0; i < node_shards(n); i++)
		unknown += !node_picture(n, i)->known;
	if (have)
		admin_fail(r, "in-use", "node %" PRIu64 " still has %u replicas: wait "
			   "until they are elsewhere", id, have);
	else if (unknown)
		admin_fail(r, "unavailable", "%u shards have no leader that answers, "
			   "and may have a replica there", unknown);
	else
		node_set(r, id);
}

void admin_node_set(struct admin_req *r)
{
	const char *state = json_string_value(json_object_get(r->in, "state"));
	uint64_t id;

	if (!admin_want_num(r, "id", 1, MEMBER_ID_MAX, &id))
		return;
	if (state && strcmp(state, "none") == 0)
		see(r, end_seen);
	else
		node_set(r, id);
}

/* ---- places ---------------------------------------------------------------------------- */

static json_t *place_json(uint32_t shard, const struct shard_picture *p)
{
	json_t *o = json_object(), *list = json_array();
	unsigned k;

	for (k = 0; k < p->n; k++) {
		json_t *m = json_object();

		put(m, "id", p->member[k].id);
		put_bool(m, "voter", p->member[k].voter);
		put_bool(m, "ready", p->member[k].ready);
		put(m, "match", p->member[k].match);
		json_array_append_new(list, m);
	}
	put(o, "shard", shard);
	put(o, "leader", p->known ? p->leader : 0);
	put_bool(o, "busy", p->busy);
	json_object_set_new(o, "members", list);
	return o;
}

static void places_seen(struct admin_req *r)
{
	struct node *n = r->g->node;
	json_t *list = json_array();
	uint64_t first = 0, last = node_shards(n) - 1, i;

	if (json_object_get(r->in, "shard"))
		first = last = (uint64_t)json_integer_value(
			json_object_get(r->in, "shard"));
	for (i = first; i <= last; i++)
		json_array_append_new(list, place_json((uint32_t)i,
						       node_picture(n, (uint32_t)i)));
	admin_ok(r, json_pack("{s:o}", "shards", list));
}

void admin_places(struct admin_req *r)
{
	uint64_t shard;

	if (!json_object_get(r->in, "shard") ||
	    admin_want_num(r, "shard", 0, node_shards(r->g->node) - 1, &shard))
		see(r, places_seen);
}

/* ---- plans ------------------------------------------------------------------------------ */

struct shown {
	json_t *list;
	uint64_t max;
};

static void show(void *arg, const struct place_step *s)
{
	struct shown *sh = arg;
	json_t *o;

	if (json_array_size(sh->list) >= sh->max)
		return;
	o = json_object();
	json_object_set_new(o, "op", json_string(place_op_name(s->op)));
	put(o, "shard", s->shard);
	put(o, "node", s->node);
	put(o, "from", s->from);
	json_object_set_new(o, "why", json_string(s->why));
	json_array_append_new(sh->list, o);
}

/* As if a node were in another state, or there at all. */
static bool suppose(struct admin_req *r, struct members *t, uint64_t *up)
{
	const char *state = json_string_value(json_object_get(r->in, "state"));
	uint64_t id, successor = 0;
	struct member *m;

	if (!json_object_get(r->in, "id"))
		return true;
	if (!admin_want_num(r, "id", 1, MEMBER_ID_MAX, &id))
		return false;
	m = &t->m[id];
	m->id = (uint8_t)id;
	if (m->state == PLACE_NONE)
		*up |= 1ull << id;
	if (!state_of(state, &m->state)) {
		admin_fail(r, "bad-request", "\"state\" must be the name of a state");
		return false;
	}
	if (json_object_get(r->in, "successor") &&
	    !admin_want_num(r, "successor", 0, MEMBER_ID_MAX, &successor))
		return false;
	m->successor = (uint8_t)successor;
	return set_text(r, "rack", m->rack, sizeof m->rack, member_rack_ok);
}

static json_t *stuck_json(const struct place_plan *p)
{
	const unsigned max = sizeof p->stuck / sizeof p->stuck[0];
	json_t *list = json_array();
	unsigned i;

	for (i = 0; i < p->n_stuck && i < max; i++)
		json_array_append_new(list, json_pack("{s:I,s:s}", "shard",
						      (json_int_t)p->stuck[i].shard,
						      "why", p->stuck[i].why));
	return list;
}

static void plan_seen(struct admin_req *r)
{
	struct node *n = r->g->node;
	struct members *t = xmalloc(sizeof *t);
	struct place_world w = { .n_shards = node_shards(n) };
	struct shown sh = { .max = STEPS_SHOWN };
	struct place_plan last = { 0 };
	uint64_t up = node_reach(n), total = 0, unknown = 0;
	json_t *o;
	uint32_t i;

	*t = *node_members(n);
	if ((json_object_get(r->in, "max") &&
	     !admin_want_num(r, "max", 0, STEPS_SHOWN_MAX, &sh.max)) ||
	    !suppose(r, t, &up)) {
		free(t);
		return;
	}
	sh.list = json_array();
	w.shard = xcalloc(w.n_shards, sizeof *w.shard);
	for (i = 0; i < w.n_shards; i++)
		unknown += !reconcile_shard(&w.shard[i], node_picture(n, i));
	reconcile_nodes(&w, t, up, node_unfit(n), config_of(r->g)->replicas);
	if (t->epoch && reconcile_needed(t))
		total = reconcile_foresee(&w, config_of(r->g)->automatic, show, &sh,
					  &last);
	o = json_object();
	put(o, "total", total);
	put(o, "stuck", last.n_stuck);
	put(o, "unknown", unknown);
	json_object_set_new(o, "steps", sh.list);
	json_object_set_new(o, "why", stuck_json(&last));
	free(w.shard);
	free(t);
	admin_ok(r, o);
}

void admin_plan(struct admin_req *r)
{
	see(r, plan_seen);
}
