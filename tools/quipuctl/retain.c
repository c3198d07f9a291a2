/* Commands about what stays and what goes. */
#include "tools/lib/table.h"
#include "tools/quipuctl/ctl.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static void bytes_cell(struct table *t, uint64_t n)
{
	table_cell(t, "%.1f", (double)n / (1 << 20));
}

static int status(struct ctl *c)
{
	struct table t;
	json_t *o, *s;
	size_t i;
	int rv = ctl_call(c, json_pack("{s:s}", "verb", "retention"), &o);

	if (rv)
		return rv;
	if (c->json)
		return ctl_print(o);
	if (!json_is_true(json_object_get(o, "enabled")))
		puts("retention is off (retain.enabled): nothing is proposed by this node");
	table_init(&t, "shard leads oldest records segments MiB live_% held_MiB "
		       "waiting doomed freed_MiB ttl_s");
	json_array_foreach(json_object_get(o, "shards"), i, s) {
		uint64_t content = ctl_u(s, "content");

		table_cell(&t, "%" PRIu64, ctl_u(s, "shard"));
		table_cell(&t, "%s", json_is_true(json_object_get(s, "leader")) ?
					     "yes" : "no");
		table_cell(&t, "%" PRIu64, ctl_u(s, "oldest"));
		table_cell(&t, "%" PRIu64, ctl_u(s, "records"));
		table_cell(&t, "%" PRIu64, ctl_u(s, "segments"));
		bytes_cell(&t, ctl_u(s, "bytes"));
		if (content)
			table_cell(&t, "%" PRIu64, ctl_u(s, "live") * 100 / content);
		else
			table_cell(&t, "-");
		bytes_cell(&t, ctl_u(s, "held"));
		table_cell(&t, "%" PRIu64, ctl_u(s, "waiting"));
		table_cell(&t, "%" PRIu64, ctl_u(s, "doomed"));
		bytes_cell(&t, ctl_u(s, "freed"));
		table_cell(&t, "%" PRIu64, ctl_u(s, "ttl_s"));
	}
	table_print(&t, stdout);
	json_decref(o);
	return CTL_OK;
}

int ctl_retention(struct ctl *c, int argc, char **argv)
{
	uint64_t s;

	if (argc == 2 && !strcmp(argv[1], "status"))
		return status(c);
	if (argc != 3 || strcmp(argv[1], "ttl"))
		return ctl_usage("retention status, or retention ttl SECONDS");
	if (!ctl_number("SECONDS", argv[2], 1, 2592000, &s))
		return CTL_USAGE;
	return ctl_done(c, json_pack("{s:s,s:I}", "verb", "retention-ttl", "seconds",
				     (json_int_t)s),
			"all shards keep records for that time");
}

int ctl_account_retain(struct ctl *c, int argc, char **argv)
{
	uint64_t id;
	bool on;

	if (!strcmp(argv[1], "erase")) {
		if (argc != 4 || strcmp(argv[3], "for-good"))
			return ctl_usage("account erase ACCOUNT for-good: its devices are "
					 "removed and its inbox is destroyed");
		if (!ctl_account(argv[2], &id))
			return CTL_USAGE;
		return ctl_done(c, json_pack("{s:s,s:o}", "verb", "account-erase",
					     "account", ctl_id(id)),
				"the account is erased; its records follow");
	}
	if (argc != 4 || (strcmp(argv[3], "on") && strcmp(argv[3], "off")))
		return ctl_usage("account hold ACCOUNT on|off");
	if (!ctl_account(argv[2], &id))
		return CTL_USAGE;
	on = !strcmp(argv[3], "on");
	return ctl_done(c, json_pack("{s:s,s:o,s:b}", "verb", "account-hold", "account",
				     ctl_id(id), "on", on),
			on ? "nothing of it goes any more" : "the hold is over");
}
