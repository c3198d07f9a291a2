/* A fault that never happens finds nothing: what all seeds together came to see. */
#include "base/metric.h"
#include "tests/sim/run.h"

#include <inttypes.h>

static const char *const names[COVER_END] = {
	[COVER_POWER] = "power cuts",
	[COVER_KILL] = "kills",
	[COVER_DISK_END] = "ends by a disk",
	[COVER_RESTART] = "restarts",
	[COVER_TRUNCATED] = "durable entries cut",
	[COVER_TWO_LEADERS] = "looks at a deposed leader",
	[COVER_READ_REFUSED] = "reads without an answer",
	[COVER_CROWDED] = "turns with a crowded ring",
	[COVER_DIRTY_FULL] = "turns with too many dirty rows",
	[COVER_DISK_LEVEL] = "turns at a disk level",
	[COVER_FAULTY] = "turns with a damaged replica",
	[COVER_INSTALLING] = "turns with an install",
	[COVER_INSTALLED] = "snapshots installed",
	[COVER_UPGRADED] = "feature levels raised",
	[COVER_WIPED] = "disks wiped",
	[COVER_REPAIRED] = "replicas made anew",
	[COVER_MADE] = "replicas made",
	[COVER_RETIRED] = "replicas retired",
	[COVER_LONE] = "turns of a lone voter",
	[COVER_ELSEWHERE] = "devices connected elsewhere",
	[COVER_DUP_ACK] = "repeated acks",
	[COVER_PAGE] = "pages",
	[COVER_REFUSED] = "sends refused",
	[COVER_CONN_BROKEN] = "connections broken",
	[COVER_CONN_REFUSED] = "connections refused",
};

/* The product's own counts, of this process. */
static const struct {
	enum metric metric;
	const char *name;
} counts[] = {
	{ M_ELECTIONS, "elections" },
	{ M_LEADER_CHANGES, "changes of leaders seen" },
	{ M_REPAIRS, "repairs" },
	{ M_CHECKPOINTS, "checkpoints" },
	{ M_JOURNAL_GROUPS, "journal groups" },
	{ M_APPLIED, "entries applied" },
};

void coverage_add(struct coverage *sum, const struct coverage *c)
{
	unsigned i;

	for (i = 0; i < FAULTS; i++)
		sum->faults[i] += c->faults[i];
	for (i = 0; i < COVER_END; i++)
		sum->seen[i] += c->seen[i];
}

struct table {
	FILE *f;
	unsigned col;
	char never[600];
	size_t len;
};

static void row(struct table *t, const char *name, uint64_t n)
{
	if (n) {
		fprintf(t->f, "%s%10" PRIu64 " %-28s", t->col ? "" : "  ", n, name);
		t->col = (t->col + 1) % 3;
		if (!t->col)
			fputc('\n', t->f);
	} else if (t->len < sizeof t->never) {
		t->len += (size_t)snprintf(t->never + t->len,
					   sizeof t->never - t->len, "%s%s",
					   t->len ? ", " : "", name);
	}
}

void coverage_print(const struct coverage *c, FILE *f)
{
	struct table t = { .f = f };
	size_t i;

	fprintf(f, "what happened:\n");
	for (i = 0; i < FAULTS; i++)
		row(&t, fault_name((enum fault)i), c->faults[i]);
	for (i = 0; i < COVER_END; i++)
		row(&t, names[i], c->seen[i]);
	for (i = 0; i < sizeof counts / sizeof *counts; i++)
		row(&t, counts[i].name, metric_get(counts[i].metric));
	fprintf(f, "%snever: %s\n", t.col ? "\n" : "", t.len ? t.never : "-");
}
