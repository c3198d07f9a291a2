/* Commands about who is in the cluster and where replicas are. */
#include "base/clock.h"
#include "base/conf.h"
#include "tools/lib/table.h"
#include "tools/quipuctl/ctl.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define POLL_MS 500
#define TABLE_WAIT_MS 10000 /* for the node that is asked to hear of the change */
#define BAR 30

static json_t *verb(const char *name)
{
	return json_pack("{s:s}", "verb", name);
}

static void nap(void)
{
	struct timespec ts = { POLL_MS / 1000, POLL_MS % 1000 * 1000000 };

	nanosleep(&ts, NULL);
}

static const char *yes(const json_t *o, const char *name)
{
	return json_is_true(json_object_get(o, name)) ? "yes" : "no";
}

/* ---- node list ----------------------------------------------------------------------- */

static void list_hints(const json_t *o)
{
	const json_t *n;
	size_t i;

	json_array_foreach(json_object_get(o, "nodes"), i, n) {
		if (*ctl_s(n, "waits"))
			printf("node %" PRIu64 " waits with another disk (%s): "
			       "`quipuctl node replace %" PRIu64 "` lets it in\n",
			       ctl_u(n, "id"), ctl_s(n, "waits"), ctl_u(n, "id"));
		if (!ctl_u(n, "replicas") && (!strcmp(ctl_s(n, "state"), "leaving") ||
					      !strcmp(ctl_s(n, "state"), "gone")))
			printf("node %" PRIu64 " has nothing any more: stop it, then "
			       "`quipuctl node forget %" PRIu64 "`\n",
			       ctl_u(n, "id"), ctl_u(n, "id"));
	}
}

static int list(struct ctl *c)
{
	struct table t;
	json_t *o, *n;
	size_t i;
	int rv = ctl_call(c, verb("node-list"), &o);

	if (rv)
		return rv;
	if (c->json)
		return ctl_print(o);
	if (!ctl_u(o, "epoch"))
		puts("the cluster has no table of nodes yet");
	table_init(&t, "node state up replicas leads rack address");
	json_array_foreach(json_object_get(o, "nodes"), i, n) {
		table_cell(&t, "%" PRIu64, ctl_u(n, "id"));
		table_cell(&t, "%s", ctl_s(n, "state"));
		table_cell(&t, "%s", yes(n, "up"));
		table_cell(&t, "%" PRIu64, ctl_u(n, "replicas"));
		table_cell(&t, "%" PRIu64, ctl_u(n, "leads"));
		table_cell(&t, "%s", *ctl_s(n, "rack") ? ctl_s(n, "rack") : "-");
		table_cell(&t, "%s", *ctl_s(n, "address") ? ctl_s(n, "address") : "-");
	}
	table_print(&t, stdout);
	list_hints(o);
	json_decref(o);
	return CTL_OK;
}

/* ---- plans and progress ----------------------------------------------------------------- */

static void print_plan(const json_t *o)
{
	struct table t;
	json_t *s;
	size_t i;

	table_init(&t, "step op shard node why");
	json_array_foreach(json_object_get(o, "steps"), i, s) {
		table_cell(&t, "%zu", i + 1);
		table_cell(&t, "%s", ctl_s(s, "op"));
		table_cell(&t, "%" PRIu64, ctl_u(s, "shard"));
		table_cell(&t, "%" PRIu64, ctl_u(s, "node"));
		table_cell(&t, "%s", ctl_s(s, "why"));
	}
	if (i)
		table_print(&t, stdout);
	printf("%" PRIu64 " steps\n", ctl_u(o, "total"));
	if (ctl_u(o, "unknown"))
		printf("%" PRIu64 " shards have no leader that answers, and are not in "
		       "this\n", ctl_u(o, "unknown"));
	json_array_foreach(json_object_get(o, "why"), i, s)
		printf("cannot be done: shard %" PRIu64 ": %s\n", ctl_u(s, "shard"),
		       ctl_s(s, "why"));
}

/* request: "plan", with what is to be supposed.  Takes it. */
static int dry_run(struct ctl *c, json_t *request)
{
	json_t *o;
	int rv = ctl_call(c, request, &o);

	if (rv)
		return rv;
	if (c->json)
		return ctl_print(o);
	print_plan(o);
	json_decref(o);
	return CTL_OK;
}

static void bar(uint64_t done, uint64_t all, uint64_t ms)
{
	double rate = ms ? (double)done * 1000 / (double)ms : 0;
	unsigned full = all ? (unsigned)(BAR * done / all) : BAR, i;
	bool tty = isatty(2);

	fprintf(stderr, tty ? "\r[" : "[");
	for (i = 0; i < BAR; i++)
		fputc(i < full ? '#' : '.', stderr);
	fprintf(stderr, "] %" PRIu64 " of %" PRIu64 " steps, %.1f/s", done, all, rate);
	if (rate > 0)
		fprintf(stderr, ", %.0f s left", (double)(all - done) / rate);
	fprintf(stderr, tty ? "   " : "\n");
}

/* The node that is asked has heard of row `version`, or of a later one. */
static int wait_table(struct ctl *c, uint64_t version)
{
	uint64_t end = clock_ms(&clock_real) + TABLE_WAIT_MS;
	json_t *o;

	for (;;) {
		int rv = ctl_call(c, verb("node-list"), &o);
		bool heard = !rv && ctl_u(o, "epoch") >= version;

		if (rv)
			return rv;
		json_decref(o);
		if (heard || clock_ms(&clock_real) >= end)
			return CTL_OK;
		nap();
	}
}

/* Until nothing is left to do, or what is left cannot be done. */
static int wait_done(struct ctl *c)
{
	uint64_t begun = clock_ms(&clock_real), all = 0, left = 1, quiet = 0;
	json_t *o = NULL;
	bool stuck = false;
	int rv;

	while (quiet < 2) {
		json_t *request = verb("plan");

		json_object_set_new(request, "max", json_integer(0));
		rv = ctl_call(c, request, &o);
		if (rv)
			return rv;
		left = ctl_u(o, "total");
		stuck = ctl_u(o, "stuck");
		quiet = left || ctl_u(o, "unknown") ? 0 : quiet + 1;
		if (left > all)
			all = left;
		if (!c->json)
			bar(all - left, all, clock_ms(&clock_real) - begun);
		if (quiet == 2)
			break;
		json_decref(o);
		nap();
	}
	if (!c->json && isatty(2))
		fputc('\n', stderr);
	if (c->json)
		return ctl_print(o) || stuck ? CTL_REFUSED : CTL_OK;
	if (stuck)
		print_plan(o);
	else
		puts("all is where it should be");
	json_decref(o);
	return stuck ? CTL_REFUSED : CTL_OK;
}

/* ---- node: acts --------------------------------------------------------------------------- */

static int act(struct ctl *c, json_t *request, const char *said, uint64_t id)
{
	uint64_t version;
	json_t *o;
	int rv = ctl_call(c, request, &o);

	if (rv)
		return rv;
	version = ctl_u(o, "version");
	if (c->json && !c->wait)
		return ctl_print(o);
	json_decref(o);
	if (!c->json) {
		printf("node %" PRIu64 " %s\n", id, said);
		fflush(stdout);
	}
	if (!c->wait)
		return CTL_OK;
	rv = wait_table(c, version);
	return rv ? rv : wait_done(c);
}

static json_t *about(const char *name, uint64_t id, const char *state)
{
	return json_pack("{s:s,s:I,s:s}", "verb", name, "id", (json_int_t)id, "state",
			 state);
}

static int add(struct ctl *c, uint64_t id)
{
	json_t *o;

	if (!c->addr && !c->dry_run)
		return ctl_usage("node add: --addr HOST:PORT, where it waits for its "
				 "peers");
	o = about(c->dry_run ? "plan" : "node-set", id, "active");
	if (c->rack)
		json_object_set_new(o, "rack", json_string(c->rack));
	if (c->dry_run)
		return dry_run(c, o);
	json_object_set_new(o, "address", json_string(c->addr));
	json_object_set_new(o, "made", json_true());
	return act(c, o, "may join; start it with node.join = yes", id);
}

static int to_state(struct ctl *c, uint64_t id, const char *state, uint64_t successor,
		    const char *said)
{
	json_t *o = about(c->dry_run ? "plan" : "node-set", id, state);

	json_object_set_new(o, "successor", json_integer((json_int_t)successor));
	return c->dry_run ? dry_run(c, o) : act(c, o, said, id);
}

/* Is the node up, as the one that is asked sees it? */
static int is_up(struct ctl *c, uint64_t id, bool *up)
{
	json_t *o, *n;
	size_t i;
	int rv = ctl_call(c, verb("node-list"), &o);

	*up = false;
	if (rv)
		return rv;
	json_array_foreach(json_object_get(o, "nodes"), i, n)
		if (ctl_u(n, "id") == id)
			*up = json_is_true(json_object_get(n, "up"));
	json_decref(o);
	return CTL_OK;
}

static int replace(struct ctl *c, uint64_t id)
{
	uint64_t with;
	json_t *o;
	bool up;
	int rv;

	if (c->with) {
		if (!ctl_number("--with", c->with, 1, CONF_NODE_MAX, &with))
			return CTL_USAGE;
		rv = is_up(c, id, &up);
		if (rv)
			return rv;
		return to_state(c, id, up ? "leaving" : "gone", with,
				up ? "leaves, and the other takes over"
				   : "is given up, and the other takes over");
	}
	o = json_pack("{s:s,s:I,s:s}", "verb", "node-set", "id", (json_int_t)id, "op",
		      "replace");
	if (c->disk)
		json_object_set_new(o, "disk", json_string(c->disk));
	if (c->dry_run) {
		json_decref(o);
		return ctl_usage("node replace: --dry-run goes with --with NODE");
	}
	return act(c, o, "is let in with its new disk; its replicas are made anew", id);
}

static int forget(struct ctl *c, uint64_t id)
{
	if (c->dry_run || c->wait)
		return ctl_usage("node forget moves nothing: no --dry-run, no --wait");
	return act(c, about("node-set", id, "none"), "is off the list", id);
}

static const struct {
	const char *verb, *state, *said;
} states[] = {
	{ "cordon", "cordoned", "gets no new replicas" },
	{ "uncordon", "active", "may get replicas again" },
	{ "drain", "draining", "gives its leaderships away" },
	{ "undrain", "active", "may lead again" },
	{ "decommission", "leaving", "gives all that it has to others" },
};

int ctl_node(struct ctl *c, int argc, char **argv)
{
	uint64_t id;
	size_t i;

	if (argc == 2 && !strcmp(argv[1], "list"))
		return list(c);
	if (argc != 3)
		return ctl_usage("node list, or node add|cordon|uncordon|drain|undrain|"
				 "decommission|replace|forget NODE");
	if (!ctl_number("NODE", argv[2], 1, CONF_NODE_MAX, &id))
		return CTL_USAGE;
	if (!strcmp(argv[1], "add"))
		return add(c, id);
	if (!strcmp(argv[1], "replace"))
		return replace(c, id);
	if (!strcmp(argv[1], "forget"))
		return forget(c, id);
	for (i = 0; i < sizeof states / sizeof states[0]; i++)
		if (!strcmp(argv[1], states[i].verb))
			return to_state(c, id, states[i].state, 0, states[i].said);
	return ctl_usage("node: no \"%s\"", argv[1]);
}

/* ---- shard ---------------------------------------------------------------------------------- */

static void members_cell(struct table *t, const json_t *s)
{
	char text[128] = "";
	const json_t *m;
	size_t i, n = 0;

	json_array_foreach(json_object_get(s, "members"), i, m)
		if (n < sizeof text - 8)
			n += (size_t)snprintf(text + n, sizeof text - n,
					      "%s%" PRIu64 "%s", i ? "," : "",
					      ctl_u(m, "id"),
					      json_is_true(json_object_get(
						      m, "voter")) ? "" : "+");
	table_cell(t, "%s", n ? text : "-");
}

static int shard_list(struct ctl *c)
{
	struct table t;
	json_t *o, *s;
	size_t i;
	int rv = ctl_call(c, verb("places"), &o);

	if (rv)
		return rv;
	if (c->json)
		return ctl_print(o);
	table_init(&t, "shard leader members busy");
	json_array_foreach(json_object_get(o, "shards"), i, s) {
		table_cell(&t, "%" PRIu64, ctl_u(s, "shard"));
		if (ctl_u(s, "leader"))
			table_cell(&t, "%" PRIu64, ctl_u(s, "leader"));
		else
			table_cell(&t, "unknown");
		members_cell(&t, s);
		table_cell(&t, "%s", yes(s, "busy"));
	}
	table_print(&t, stdout);
	puts("(+ is a standby: it gets the log, and does not vote)");
	json_decref(o);
	return CTL_OK;
}

static int shard_replicas(struct ctl *c, uint64_t shard)
{
	json_t *o, *request = verb("places"), *m;
	const json_t *s;
	struct table t;
	size_t i;
	int rv;

	json_object_set_new(request, "shard", json_integer((json_int_t)shard));
	rv = ctl_call(c, request, &o);
	if (rv)
		return rv;
	if (c->json)
		return ctl_print(o);
	s = json_array_get(json_object_get(o, "shards"), 0);
	table_init(&t, "node role caught_up match");
	json_array_foreach(json_object_get(s, "members"), i, m) {
		table_cell(&t, "%" PRIu64, ctl_u(m, "id"));
		table_cell(&t, "%s", ctl_u(m, "id") == ctl_u(s, "leader") ? "leader"
				     : json_is_true(json_object_get(m, "voter"))
					     ? "voter" : "standby");
		table_cell(&t, "%s", yes(m, "ready"));
		table_cell(&t, "%" PRIu64, ctl_u(m, "match"));
	}
	if (i)
		table_print(&t, stdout);
	else
		puts("no leader of it answers");
	json_decref(o);
	return CTL_OK;
}

int ctl_shard(struct ctl *c, int argc, char **argv)
{
	uint64_t shard;

	if (argc == 2 && !strcmp(argv[1], "list"))
		return shard_list(c);
	if (argc != 3 || strcmp(argv[1], "replicas"))
		return ctl_usage("shard list, or shard replicas SHARD");
	if (!ctl_number("SHARD", argv[2], 0, 65535, &shard))
		return CTL_USAGE;
	return shard_replicas(c, shard);
}
