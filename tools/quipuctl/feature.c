/* Commands about the feature level of the cluster. */
#include "consensus/cmd.h"
#include "tools/lib/table.h"
#include "tools/quipuctl/ctl.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static int status(struct ctl *c)
{
	uint64_t level, possible;
	struct table t;
	json_t *o, *n;
	size_t i;
	int rv = ctl_call(c, json_pack("{s:s}", "verb", "feature"), &o);

	if (rv)
		return rv;
	if (c->json)
		return ctl_print(o);
	level = ctl_u(o, "level");
	possible = ctl_u(o, "possible");
	printf("level %" PRIu64 " is in force, all members know %" PRIu64
	       ", history epoch %" PRIu64 "\n",
	       level, possible, ctl_u(o, "epoch"));
	if (level < ctl_u(o, "max") && level >= possible)
		puts("a newer level waits for the nodes that lack it: start or upgrade "
		     "them, or remove them");
	else if (level < possible && !json_is_true(json_object_get(o, "auto")))
		puts("quipuctl feature raise makes use of what is new (feature.auto_raise "
		     "is off)");
	table_init(&t, "node knows lacks");
	json_array_foreach(json_object_get(o, "nodes"), i, n) {
		table_cell(&t, "%" PRIu64, ctl_u(n, "id"));
		if (ctl_u(n, "max"))
			table_cell(&t, "%" PRIu64, ctl_u(n, "max"));
		else
			table_cell(&t, "-");
		table_cell(&t, "%s", json_is_true(json_object_get(n, "lacking")) ?
					     "yes" : "no");
	}
	table_print(&t, stdout);
	json_decref(o);
	return CTL_OK;
}

int ctl_feature(struct ctl *c, int argc, char **argv)
{
	uint64_t level;
	json_t *o;
	int rv;

	if (argc == 2 && !strcmp(argv[1], "status"))
		return status(c);
	if (argc < 2 || argc > 3 || strcmp(argv[1], "raise"))
		return ctl_usage("feature status, or feature raise [LEVEL]");
	if (argc == 3) {
		if (!ctl_number("LEVEL", argv[2], 1, FEATURE_LEVEL_MAX, &level))
			return CTL_USAGE;
	} else {
		rv = ctl_call(c, json_pack("{s:s}", "verb", "feature"), &o);
		if (rv)
			return rv;
		level = ctl_u(o, "possible");
		json_decref(o);
	}
	rv = ctl_call(c, json_pack("{s:s,s:I}", "verb", "feature-raise", "level",
				   (json_int_t)level), &o);
	if (rv)
		return rv;
	if (c->json)
		return ctl_print(o);
	printf("feature level %" PRIu64 " is in force\n", ctl_u(o, "level"));
	json_decref(o);
	return CTL_OK;
}
