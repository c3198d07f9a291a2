/* The checks of quipuctl doctor.  Each looks at what all nodes said, and takes those
 * that said nothing as they are: absent. */
#include "base/conf.h"
#include "consensus/node.h"
#include "gateway/route.h"
#include "tools/quipuctl/ctl.h"
#include "tools/quipuctl/doctor.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define DAY_S 86400
#define CERT_WARN_S (30 * DAY_S)
#define CERT_ERROR_S (7 * DAY_S)
#define CLOCK_WARN_MS 500
#define CLOCK_ERROR_MS 30000  /* a token is made for minutes */
#define LAG_WARN 2000         /* entries; what is in flight is at most 256 */
#define NEAR_PERCENT 80       /* of a limit */
#define PINNED_PERCENT 75
#define SETTLED_S 90          /* after a start leaderships move by themselves */
#define FSYNC_MIN_COUNT 50    /* writes; few say nothing */

#define EACH(d, nd)                                                            \
	for (struct doctor_node *nd = (d)->node; nd < (d)->node + (d)->n; nd++) \
		if (!nd->why[0])

static const json_t *in(const json_t *o, const char *outer, const char *name)
{
	return json_object_get(json_object_get(o, outer), name);
}

static uint64_t number(const json_t *o, const char *outer, const char *name)
{
	return (uint64_t)json_integer_value(in(o, outer, name));
}

static uint64_t setting(const struct doctor_node *nd, const char *name)
{
	return number(nd->config, "config", name);
}

static const char *text_setting(const struct doctor_node *nd, const char *name)
{
	const char *s = json_string_value(in(nd->config, "config", name));

	return s ? s : "";
}

static const char *node_name(const struct doctor_node *nd, char out[24])
{
	snprintf(out, 24, "node %" PRIu64, ctl_u(nd->status, "id"));
	return out;
}

static const char *id_name(uint64_t id, char out[24])
{
	snprintf(out, 24, "node %" PRIu64, id);
	return out;
}

/* ---- who is there ---------------------------------------------------------- */

/* What is known of each node id: a member, up in somebody's eyes. */
struct people {
	bool member[NET_NODE_MAX], up[NET_NODE_MAX];
	unsigned members, ups;
};

static void meet(struct doctor *d, struct people *p)
{
	memset(p, 0, sizeof *p);
	EACH(d, nd) {
		json_t *n;
		size_t i;

		json_array_foreach(json_object_get(nd->nodes, "nodes"), i, n) {
			uint64_t id = ctl_u(n, "id");

			if (id == 0 || id >= NET_NODE_MAX)
				continue;
			p->members += !p->member[id];
			p->member[id] = true;
			if (!json_is_true(json_object_get(n, "up")) || p->up[id])
				continue;
			p->up[id] = true;
			p->ups++;
		}
	}
}

static void check_nodes(struct doctor *d, const struct people *p)
{
	char name[24];
	unsigned i;

	for (i = 0; i < d->n; i++)
		if (d->node[i].why[0])
			doctor_find(d, DOCTOR_UNREACHABLE, DOCTOR_ERROR,
				    d->node[i].where, "%s", d->node[i].why);
	for (i = 1; i < NET_NODE_MAX; i++)
		if (p->member[i] && !p->up[i])
			doctor_find(d, DOCTOR_NODE_DOWN, DOCTOR_ERROR,
				    id_name(i, name), "no node has a link to it");
	EACH(d, nd) {
		json_t *n;
		size_t k;

		json_array_foreach(json_object_get(nd->nodes, "nodes"), k, n) {
			uint64_t id = ctl_u(n, "id");

			if (id < NET_NODE_MAX && p->up[id] &&
			    !json_is_true(json_object_get(n, "up")))
				doctor_find(d, DOCTOR_NODE_DOWN, DOCTOR_WARN,
					    node_name(nd, name), "it has no link to "
					    "node %" PRIu64 ", others have", id);
		}
	}
	if (p->members && p->ups <= p->members / 2)
		doctor_find(d, DOCTOR_NO_QUORUM, DOCTOR_ERROR, "cluster",
			    "%u of %u nodes are up", p->ups, p->members);
}

/* Each node once, by its own word or by that of one that turns it away. */
static void check_refused(struct doctor *d)
{
	bool said[NET_NODE_MAX] = { false };
	char name[24];

	EACH(d, nd) {
		const char *why = json_string_value(in(nd->status, "disk_refused",
						       "why"));
		uint64_t id = ctl_u(nd->status, "id");

		if (!number(nd->status, "disk_refused", "by"))
			continue;
		if (id < NET_NODE_MAX)
			said[id] = true;
		doctor_find(d, DOCTOR_DISK_REFUSED, DOCTOR_ERROR,
			    node_name(nd, name), "%s", why ? why : "?");
	}
	EACH(d, nd) {
		json_t *id;
		size_t i;

		json_array_foreach(in(nd->status, "disk_refused", "peers"), i, id) {
			uint64_t peer = (uint64_t)json_integer_value(id);

			if (peer == 0 || peer >= NET_NODE_MAX || said[peer])
				continue;
			said[peer] = true;
			doctor_find(d, DOCTOR_DISK_REFUSED, DOCTOR_ERROR,
				    id_name(peer, name), "node %" PRIu64
				    " does not let its disk in",
				    ctl_u(nd->status, "id"));
		}
	}
}

/* ---- shards ------------------------------------------------------------------ */

static void check_leaders(struct doctor *d)
{
	struct { bool seen, led; } shard[JOURNAL_SHARDS_MAX] = { { false, false } };
	unsigned without = 0, i;
	char list[128] = "";

	EACH(d, nd) {
		json_t *s;
		size_t k;

		json_array_foreach(json_object_get(nd->shards, "shards"), k, s) {
			uint64_t id = ctl_u(s, "shard");

			if (id >= JOURNAL_SHARDS_MAX)
				continue;
			shard[id].seen = true;
			shard[id].led |= ctl_u(s, "leader") != 0;
		}
	}
	for (i = 0; i < JOURNAL_SHARDS_MAX; i++) {
		size_t at = strlen(list);

		if (!shard[i].seen || shard[i].led)
			continue;
		if (without++ < 8)
			snprintf(list + at, sizeof list - at, "%s%u", at ? " " : "", i);
	}
	if (without)
		doctor_find(d, DOCTOR_NO_LEADER, DOCTOR_ERROR, "cluster",
			    "%u shard%s: %s%s", without, without == 1 ? "" : "s", list,
			    without > 8 ? " ..." : "");
}

static void check_replicas(struct doctor *d, const struct people *p)
{
	char name[24];

	EACH(d, nd) {
		uint64_t behind[NET_NODE_MAX] = { 0 };
		json_t *s, *v;
		size_t i, k;

		json_array_foreach(json_object_get(nd->shards, "shards"), i, s) {
			if (json_is_true(json_object_get(s, "faulty")))
				doctor_find(d, DOCTOR_FAULTY, DOCTOR_ERROR,
					    node_name(nd, name), "shard %" PRIu64 ": %s",
					    ctl_u(s, "shard"), ctl_s(s, "why"));
			if (strcmp(ctl_s(s, "role"), "leader") != 0)
				continue;
			json_array_foreach(json_object_get(s, "voters"), k, v) {
				uint64_t id = ctl_u(v, "id");
				uint64_t last = ctl_u(s, "last"), at = ctl_u(v, "match");

				if (id < NET_NODE_MAX && p->up[id] &&
				    last > at + LAG_WARN && last - at > behind[id])
					behind[id] = last - at;
			}
		}
		for (k = 1; k < NET_NODE_MAX; k++)
			if (behind[k])
				doctor_find(d, DOCTOR_LAG, DOCTOR_WARN, id_name(k, name),
					    "%" PRIu64 " entries behind node %" PRIu64,
					    behind[k], ctl_u(nd->status, "id"));
	}
}

static void check_evenness(struct doctor *d, const struct people *p)
{
	uint64_t led, shards, fair, most = 0, least = UINT64_MAX;
	const struct doctor_node *top = NULL;
	unsigned asked = 0;
	char name[24];

	EACH(d, nd) {
		if (ctl_u(nd->status, "uptime_s") < SETTLED_S)
			return;
		led = ctl_u(nd->status, "led");
		asked++;
		if (led >= most) {
			most = led;
			top = nd;
		}
		if (led < least)
			least = led;
	}
	if (!top || asked != p->members || asked < 2 || p->ups != p->members)
		return;
	shards = ctl_u(top->status, "shards");
	fair = (shards + asked - 1) / asked;
	if (most > 2 * fair || (least == 0 && shards >= 2 * asked))
		doctor_find(d, DOCTOR_UNEVEN, DOCTOR_WARN, node_name(top, name),
			    "leads %" PRIu64 " of %" PRIu64 " shards, another node %"
			    PRIu64, most, shards, least);
}

/* ---- each node -------------------------------------------------------------- */

static enum doctor_grade disk_grade(const char *level)
{
	if (strcmp(level, "ok") == 0)
		return DOCTOR_GOOD;
	return strcmp(level, "warn") == 0 ? DOCTOR_WARN : DOCTOR_ERROR;
}

/* A node's own word, and for one that gave none, what the others heard last. */
static void check_disks(struct doctor *d)
{
	bool told[NET_NODE_MAX] = { false };
	enum doctor_grade grade;
	char name[24];

	EACH(d, nd) {
		const char *level = json_string_value(in(nd->status, "disk", "level"));
		uint64_t id = ctl_u(nd->status, "id");

		if (id < NET_NODE_MAX)
			told[id] = true;
		grade = disk_grade(level ? level : "ok");
		if (grade)
			doctor_find(d, DOCTOR_DISK, grade, node_name(nd, name),
				    "level %s, %" PRIu64 " of %" PRIu64 " MiB free", level,
				    number(nd->status, "disk", "free_bytes") >> 20,
				    number(nd->status, "disk", "size_bytes") >> 20);
	}
	EACH(d, nd) {
		json_t *n;
		size_t i;

		json_array_foreach(json_object_get(nd->nodes, "nodes"), i, n) {
			uint64_t id = ctl_u(n, "id");

			if (id >= NET_NODE_MAX || told[id] ||
			    !json_is_true(json_object_get(n, "up")))
				continue;
			told[id] = true;
			grade = disk_grade(ctl_s(n, "disk"));
			if (grade)
				doctor_find(d, DOCTOR_DISK, grade, id_name(id, name),
					    "level %s, as the others heard",
					    ctl_s(n, "disk"));
		}
	}
}

static void check_journal(struct doctor *d, struct doctor_node *nd, const char *name)
{
	uint64_t p99 = (uint64_t)json_integer_value(json_object_get(
		in(nd->stats, "stats", "journal_fsync_seconds"), "p99_us"));
	uint64_t count = (uint64_t)json_integer_value(json_object_get(
		in(nd->stats, "stats", "journal_fsync_seconds"), "count"));
	uint64_t election_us = setting(nd, "raft.election_ms") * 1000;
	uint64_t used = number(nd->status, "journal", "files_used") *
			setting(nd, "journal.file_size");
	uint64_t max = setting(nd, "journal.max");

	if (count >= FSYNC_MIN_COUNT && p99 > election_us / 4)
		doctor_find(d, DOCTOR_FSYNC, p99 > election_us ? DOCTOR_ERROR : DOCTOR_WARN,
			    name, "p99 is %" PRIu64 " ms since the start, raft.election_ms "
			    "is %" PRIu64, p99 / 1000, election_us / 1000);
	if (max && used > max / 100 * PINNED_PERCENT)
		doctor_find(d, DOCTOR_PINNED, DOCTOR_WARN, name,
			    "%" PRIu64 " of at most %" PRIu64 " MiB are in use", used >> 20,
			    max >> 20);
}

static void check_cert(struct doctor *d, struct doctor_node *nd, const char *name,
		       const char *member, const char *what)
{
	uint64_t until = ctl_u(nd->certs, member), now = ctl_u(nd->certs, "now");

	if (until && until <= now)
		doctor_find(d, DOCTOR_CERT, DOCTOR_ERROR, name,
			    "the certificate of %s has expired", what);
	else if (until && until - now < CERT_WARN_S)
		doctor_find(d, DOCTOR_CERT, until - now < CERT_ERROR_S ? DOCTOR_ERROR :
									 DOCTOR_WARN,
			    name, "the certificate of %s ends in %" PRIu64 " days", what,
			    (until - now) / DAY_S);
}

static void near(struct doctor *d, const char *name, const char *what, uint64_t is,
		 uint64_t most)
{
	if (most && is * 100 >= most * NEAR_PERCENT)
		doctor_find(d, DOCTOR_LIMITS, DOCTOR_WARN, name,
			    "%s: %" PRIu64 " of at most %" PRIu64, what, is, most);
}

static void check_limits(struct doctor *d, struct doctor_node *nd, const char *name)
{
	near(d, name, "clients' sockets (gateway.max_connections)",
	     number(nd->stats, "stats", "connections"),
	     setting(nd, "gateway.max_connections"));
	near(d, name, "open sends and queries of clients", ctl_u(nd->status, "sends_open"),
	     ROUTE_OPEN_MAX);
	near(d, name, "open calls", ctl_u(nd->status, "calls"), NODE_CALLS_MAX);
	near(d, name, "changed rows in memory (store.dirty_max a shard)",
	     number(nd->stats, "stats", "dirty_bytes"),
	     setting(nd, "store.dirty_max") * ctl_u(nd->status, "shards"));
	near(d, name, "bytes that wait for the journal (journal.queue)",
	     number(nd->status, "journal", "queued_bytes"), setting(nd, "journal.queue"));
}

static void key_is_private(struct doctor *d, struct doctor_node *nd, const char *name,
			   const char *member)
{
	const char *path = text_setting(nd, member);
	struct stat st;

	if (*path && stat(path, &st) == 0 && (st.st_mode & 077))
		doctor_find(d, DOCTOR_CONFIG, DOCTOR_WARN, name,
			    "%s %s can be read by others (mode %04o): chmod 600", member,
			    path, st.st_mode & 07777);
}

static void check_config(struct doctor *d, struct doctor_node *nd, const char *name)
{
	size_t members = json_array_size(json_object_get(nd->nodes, "nodes"));

	key_is_private(d, nd, name, "tls.key");
	key_is_private(d, nd, name, "gateway.tls_key");
	if (members > 1 && members % 2 == 0)
		doctor_find(d, DOCTOR_CONFIG, DOCTOR_WARN, name,
			    "%zu nodes survive no more failures than %zu", members,
			    members - 1);
	if (members > 1 && !*text_setting(nd, "tls.ca"))
		doctor_find(d, DOCTOR_CONFIG, DOCTOR_WARN, name,
			    "links to peers are not encrypted (tls.ca)");
	if (json_is_true(in(nd->config, "config", "gateway.insecure")))
		doctor_find(d, DOCTOR_CONFIG, DOCTOR_WARN, name,
			    "gateway.insecure: right only behind a TLS proxy");
	if (!setting(nd, "disk.reserve"))
		doctor_find(d, DOCTOR_CONFIG, DOCTOR_WARN, name,
			    "disk.reserve is 0: a full disk ends the process");
}

/* ---- nodes against each other -------------------------------------------------- */

static void check_clock(struct doctor *d, struct doctor_node *nd, const char *name)
{
	int64_t off = nd->skew_ms < 0 ? -nd->skew_ms : nd->skew_ms;

	if (off > CLOCK_WARN_MS)
		doctor_find(d, DOCTOR_CLOCK, off > CLOCK_ERROR_MS ? DOCTOR_ERROR :
								    DOCTOR_WARN,
			    name, "%" PRId64 " ms from this machine's", nd->skew_ms);
}

static void check_sameness(struct doctor *d)
{
	static const char *const same[] = { "raft.election_ms", "raft.heartbeat_ms",
					    "node.cluster", "shards.count" };
	const struct doctor_node *first = NULL;
	char name[24];
	unsigned i;

	EACH(d, nd) {
		if (!first) {
			first = nd;
			continue;
		}
		if (strcmp(ctl_s(nd->status, "version"),
			   ctl_s(first->status, "version")) != 0)
			doctor_find(d, DOCTOR_VERSION, DOCTOR_WARN, node_name(nd, name),
				    "version %s, node %" PRIu64 " has %s",
				    ctl_s(nd->status, "version"),
				    ctl_u(first->status, "id"),
				    ctl_s(first->status, "version"));
		for (i = 0; i < sizeof same / sizeof same[0]; i++)
			if (!json_equal(in(nd->config, "config", same[i]),
					in(first->config, "config", same[i])))
				doctor_find(d, DOCTOR_CONFIG, DOCTOR_ERROR,
					    node_name(nd, name), "%s is not that of node "
					    "%" PRIu64, same[i],
					    ctl_u(first->status, "id"));
	}
}

void doctor_checks(struct doctor *d)
{
	struct people p;
	char name[24];

	meet(d, &p);
	check_nodes(d, &p);
	check_refused(d);
	check_leaders(d);
	check_replicas(d, &p);
	check_disks(d);
	EACH(d, nd) {
		node_name(nd, name);
		check_journal(d, nd, name);
		check_clock(d, nd, name);
		check_cert(d, nd, name, "links_until", "its links");
		check_cert(d, nd, name, "gateway_until", "its gateway");
		check_limits(d, nd, name);
		check_config(d, nd, name);
	}
	check_sameness(d);
	check_evenness(d, &p);
}
