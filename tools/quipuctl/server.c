/* Commands about the server and the cluster. */
#include "base/alloc.h"
#include "base/conf.h"
#include "tools/lib/table.h"
#include "tools/quipuctl/ctl.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static json_t *verb(const char *name)
{
	return json_pack("{s:s}", "verb", name);
}

static bool no_args(int argc, char **argv)
{
	if (argc > 1)
		ctl_usage("%s takes no \"%s\"", argv[0], argv[1]);
	return argc == 1;
}

/* One value as people read it. */
static void cell(struct table *t, const json_t *v)
{
	if (json_is_integer(v))
		table_cell(t, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
	else if (json_is_real(v))
		table_cell(t, "%g", json_real_value(v));
	else if (json_is_boolean(v))
		table_cell(t, "%s", json_is_true(v) ? "yes" : "no");
	else
		table_cell(t, "%s", json_string_value(v) ? json_string_value(v) : "-");
}

/* All members of an object, one a line; those of objects inside as outer.inner. */
static void members(struct table *t, json_t *o, const char *prefix)
{
	const char *name;
	json_t *v;

	json_object_foreach(o, name, v) {
		if (json_is_object(v)) {
			members(t, v, name);
			continue;
		}
		if (!*prefix && strcmp(name, "ok") == 0)
			continue;
		table_cell(t, "%s%s%s", prefix, *prefix ? "." : "", name);
		cell(t, v);
	}
}

static int print_members(struct ctl *c, json_t *o, const char *inner)
{
	struct table t;

	if (c->json)
		return ctl_print(o);
	table_init(&t, "name value");
	members(&t, inner ? json_object_get(o, inner) : o, "");
	table_print(&t, stdout);
	json_decref(o);
	return CTL_OK;
}

int ctl_status(struct ctl *c, int argc, char **argv)
{
	json_t *o;
	int rv;

	if (!no_args(argc, argv))
		return CTL_USAGE;
	rv = ctl_call(c, verb("status"), &o);
	return rv ? rv : print_members(c, o, NULL);
}

int ctl_stats(struct ctl *c, int argc, char **argv)
{
	json_t *o;
	int rv;

	if (!no_args(argc, argv))
		return CTL_USAGE;
	rv = ctl_call(c, verb("stats"), &o);
	return rv ? rv : print_members(c, o, "stats");
}

/* ---- nodes and shards ----------------------------------------------------- */

int ctl_nodes(struct ctl *c, int argc, char **argv)
{
	struct table t;
	json_t *o, *n;
	size_t i;
	int rv;

	if (!no_args(argc, argv))
		return CTL_USAGE;
	rv = ctl_call(c, verb("nodes"), &o);
	if (rv)
		return rv;
	if (c->json)
		return ctl_print(o);
	table_init(&t, "node up self disk");
	json_array_foreach(json_object_get(o, "nodes"), i, n) {
		table_cell(&t, "%" PRIu64, ctl_u(n, "id"));
		cell(&t, json_object_get(n, "up"));
		cell(&t, json_object_get(n, "self"));
		cell(&t, json_object_get(n, "disk"));
	}
	table_print(&t, stdout);
	json_decref(o);
	return CTL_OK;
}

static void shard_row(struct table *t, const json_t *s)
{
	table_cell(t, "%" PRIu64, ctl_u(s, "shard"));
	table_cell(t, "%s", ctl_s(s, "role"));
	table_cell(t, "%" PRIu64, ctl_u(s, "leader"));
	table_cell(t, "%" PRIu64, ctl_u(s, "term"));
	table_cell(t, "%" PRIu64, ctl_u(s, "applied"));
	table_cell(t, "%" PRIu64, ctl_u(s, "commit"));
	table_cell(t, "%" PRIu64, ctl_u(s, "last"));
	table_cell(t, "%" PRIu64, ctl_u(s, "durable"));
	table_cell(t, "%" PRIu64, ctl_u(s, "records"));
	table_cell(t, "%" PRIu64, ctl_u(s, "subs"));
	table_cell(t, "%s", json_is_true(json_object_get(s, "faulty"))
				    ? ctl_s(s, "why") : "ok");
}

/* One shard: also its voters, and the Merkle root that proves its records. */
static void shard_details(const json_t *s)
{
	struct table t;
	json_t *v;
	size_t i;

	printf("\nroot %s\n\n", ctl_s(s, "root"));
	table_init(&t, "voter match");
	json_array_foreach(json_object_get(s, "voters"), i, v) {
		table_cell(&t, "%" PRIu64, ctl_u(v, "id"));
		table_cell(&t, "%" PRIu64, ctl_u(v, "match"));
	}
	table_print(&t, stdout);
}

int ctl_shards(struct ctl *c, int argc, char **argv)
{
	json_t *o, *request = verb("shards"), *s;
	struct table t;
	uint64_t shard;
	size_t i;
	int rv;

	if (argc > 2 || (argc == 2 && !ctl_number("SHARD", argv[1], 0, 65535, &shard))) {
		json_decref(request);
		return argc > 2 ? ctl_usage("shards takes one SHARD") : CTL_USAGE;
	}
	if (argc == 2)
		json_object_set_new(request, "shard", json_integer((json_int_t)shard));
	rv = ctl_call(c, request, &o);
	if (rv)
		return rv;
	if (c->json)
		return ctl_print(o);
	table_init(&t, "shard role leader term applied commit last durable records "
		       "subs state");
	json_array_foreach(json_object_get(o, "shards"), i, s)
		shard_row(&t, s);
	table_print(&t, stdout);
	if (argc == 2)
		shard_details(json_array_get(json_object_get(o, "shards"), 0));
	json_decref(o);
	return CTL_OK;
}

int ctl_leaders(struct ctl *c, int argc, char **argv)
{
	struct table t;
	json_t *o, *s;
	size_t i;
	int rv;

	if (!no_args(argc, argv))
		return CTL_USAGE;
	rv = ctl_call(c, verb("leaders"), &o);
	if (rv)
		return rv;
	if (c->json)
		return ctl_print(o);
	table_init(&t, "shard leader");
	json_array_foreach(json_object_get(o, "leaders"), i, s) {
		table_cell(&t, "%" PRIu64, ctl_u(s, "shard"));
		if (ctl_u(s, "leader"))
			table_cell(&t, "%" PRIu64, ctl_u(s, "leader"));
		else
			table_cell(&t, "unknown");
	}
	table_print(&t, stdout);
	json_decref(o);
	return CTL_OK;
}

/* ---- acts ----------------------------------------------------------------- */

int ctl_transfer(struct ctl *c, int argc, char **argv)
{
	uint64_t shard, to;

	if (argc != 3)
		return ctl_usage("transfer takes SHARD and NODE");
	if (!ctl_number("SHARD", argv[1], 0, 65535, &shard) ||
	    !ctl_number("NODE", argv[2], 1, CONF_NODE_MAX, &to))
		return CTL_USAGE;
	return ctl_done(c, json_pack("{s:s,s:I,s:I}", "verb", "transfer", "shard",
				 (json_int_t)shard, "to", (json_int_t)to),
		    "asked; `quipuctl leaders` shows who leads");
}

int ctl_drain(struct ctl *c, int argc, char **argv)
{
	if (!no_args(argc, argv))
		return CTL_USAGE;
	return ctl_done(c, verb("drain"),
			"draining; the server stops when its clients left");
}

/* ---- configuration -------------------------------------------------------- */

static int check(struct ctl *c, const char *path)
{
	struct conf conf;
	struct err e = { 0 };
	int rv = conf_load(&conf, path, &e);

	if (!rv)
		rv = conf_check(&conf, &e);
	if (rv)
		return ctl_fail(c, rv < 0 ? ERR_CONFIG : rv, "config", &e);
	if (c->json)
		return ctl_print(json_pack("{s:b,s:s}", "ok", 1, "file", path));
	printf("%s is good\n", path);
	return CTL_OK;
}

int ctl_config(struct ctl *c, int argc, char **argv)
{
	json_t *o;
	int rv;

	if (argc >= 2 && strcmp(argv[1], "check") == 0) {
		if (argc != 3)
			return ctl_usage("config check takes one FILE");
		return check(c, argv[2]);
	}
	if (!no_args(argc, argv))
		return CTL_USAGE;
	rv = ctl_call(c, verb("config"), &o);
	return rv ? rv : print_members(c, o, "config");
}
