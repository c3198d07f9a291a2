/* node.meta, members, known peers and the journal. */
#include "base/alloc.h"
#include "base/cursor.h"
#include "consensus/cmd.h"
#include "consensus/group.h"
#include "consensus/known.h"
#include "consensus/members.h"
#include "log/journal.h"
#include "log/nodemeta.h"
#include "log/replicameta.h"
#include "tools/dump/dump.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int dump_nodemeta(struct dump *d, const char *path, struct err *e)
{
	struct nodemeta m;
	uint8_t *p;
	size_t n;
	int rv = dump_read(d, path, 65536, &p, &n, e);

	if (rv)
		return rv;
	rv = nodemeta_decode(&m, p, n, e);
	if (rv) {
		out_damage(d, path, 0, e->msg);
	} else if (!d->quiet) {
		out_begin(d, "node", path, 0);
		out_u(d, "node", m.node_id);
		out_hex(d, "cluster", m.cluster_id, 16);
		out_hex(d, "disk", m.disk_id, 16);
		if (m.version >= 2) {
			out_u(d, "joined", m.joined);
			out_u(d, "level", m.feature_level);
			out_u(d, "epoch", m.history_epoch);
			out_u(d, "founders", m.founders);
			out_u(d, "shards", m.shards);
		}
		out_end(d);
	}
	free(p);
	return 0;
}

int dump_replicameta(struct dump *d, const char *path, struct err *e)
{
	struct replicameta *m = xcalloc(1, sizeof *m);
	uint8_t *p;
	size_t n;
	uint32_t i;
	int rv = dump_read(d, path, 65536, &p, &n, e);

	if (rv) {
		free(m);
		return rv;
	}
	if (replicameta_decode(m, p, n, e)) {
		out_damage(d, path, 0, e->msg);
	} else if (!d->quiet) {
		out_begin(d, "replicas", path, 0);
		out_u(d, "node", m->node_id);
		out_u(d, "generation", m->generation);
		out_end(d);
		for (i = 0; i < JOURNAL_SHARDS_MAX; i++) {
			if (m->shard[i].state == REPLICA_UNTOLD)
				continue;
			out_begin(d, "replica", path, 64 + 16 * i);
			out_u(d, "shard", i);
			out_s(d, "state", m->shard[i].state == REPLICA_HERE
						  ? "here" : "absent");
			out_id(d, "life", m->shard[i].life);
			out_end(d);
		}
	}
	free(p);
	free(m);
	return 0;
}

int dump_members(struct dump *d, const char *path, struct err *e)
{
	struct members *t = xcalloc(1, sizeof *t);
	uint8_t *p;
	size_t n;
	unsigned id;
	int rv = dump_read(d, path, MEMBERS_FILE_MAX, &p, &n, e);

	if (rv) {
		free(t);
		return rv;
	}
	if (members_decode(t, NULL, p, n, e))
		out_damage(d, path, 0, e->msg);
	for (id = 1; id < PLACE_NODES && !d->quiet; id++) {
		const struct member *m = &t->m[id];

		if (m->state == PLACE_NONE)
			continue;
		out_begin(d, "member", path, 0);
		out_u(d, "node", id);
		out_s(d, "state", place_state_name(m->state));
		out_u(d, "version", m->version);
		out_u(d, "since", m->since_ms);
		out_u(d, "successor", m->successor);
		out_s(d, "address", m->address);
		out_s(d, "rack", m->rack);
		out_hex(d, "disk", m->disk_id, 16);
		out_end(d);
	}
	if (t->epoch) {
		out_begin(d, "total", path, 0);
		out_u(d, "epoch", t->epoch);
		out_end(d);
	}
	free(t);
	free(p);
	return 0;
}

int dump_known(struct dump *d, const char *path, struct err *e)
{
	struct known k = { 0 };
	uint8_t *p;
	size_t n;
	unsigned i;
	int rv = dump_read(d, path, 65536, &p, &n, e);

	if (rv)
		return rv;
	rv = known_decode(&k, p, n, e);
	free(p);
	if (rv) {
		out_damage(d, path, 0, e->msg);
		return 0;
	}
	if (d->quiet)
		return 0;
	out_begin(d, "known", path, 0);
	out_u(d, "seq", k.seq);
	out_u(d, "node", k.self);
	out_hex(d, "cluster", k.cluster_id, 16);
	if (k.refused_by)
		out_u(d, "refused_by", k.refused_by);
	out_end(d);
	for (i = 0; i < NET_NODE_MAX; i++) {
		const struct known_peer *it = &k.peers[i];

		if (!it->seen && !it->serial)
			continue;
		out_begin(d, "peer", path, KNOWN_ROWS + i * KNOWN_ROW);
		out_u(d, "node", i);
		if (it->seen)
			out_hex(d, "disk", it->disk_id, 16);
		out_u(d, "joined", it->joined);
		if (it->any)
			out_u(d, "any", 1);
		if (it->serial)
			out_u(d, "serial", it->serial);
		out_end(d);
	}
	return 0;
}

/* ---- commands in an entry --------------------------------------------------------- */

static const char *cmd_name(enum cmd_type t)
{
	static const char *const names[] = { "?",      "account-add",
					     "device-add", "device-remove",
					     "send",   "cursor",
					     "meta-init", "feature" };

	if (t == CMD_NODE_SET)
		return "node-set";
	if (t == CMD_RETAIN)
		return "retain";
	return t < sizeof names / sizeof *names ? names[t] : "?";
}

static void dump_command(struct dump *d, const char *file, uint64_t at,
			 const uint8_t *p, size_t n)
{
	struct cmd c = { 0 };
	struct err e;

	if (cmd_decode(&c, p, n, &e)) {
		out_damage(d, file, at, e.msg);
		return;
	}
	out_begin(d, "command", file, at);
	out_s(d, "cmd", cmd_name(c.type));
	if (c.type == CMD_SEND) {
		out_id(d, "to", c.send.to);
		out_id(d, "from", c.send.from);
		out_u(d, "device", c.send.device);
		out_u(d, "part", c.send.part);
		out_u(d, "seq", c.send.seq);
		out_u(d, "after", c.send.after);
		out_u(d, "class", c.send.cls);
		out_hex(d, "mid", c.send.mid, 16);
		out_u(d, "body_len", c.send.body_len);
		if (d->payload)
			out_hex(d, "body", c.send.body, c.send.body_len);
	} else if (c.type == CMD_NODE_SET) {
		static const char *const ops[] = { "?", "set", "founder",
						   "replace" };

		out_s(d, "op", ops[c.node.op]);
		out_u(d, "node", c.node.id);
		out_s(d, "state", place_state_name(c.node.state));
		out_u(d, "version", c.node.expect);
		out_u(d, "successor", c.node.successor);
		out_hex(d, "disk", c.node.disk_id, 16);
	} else if (c.type == CMD_RETAIN) {
		static const char *const ops[] = { "?", "trim", "dead", "want",
						   "roll", "receipts", "policy",
						   "hold", "erase" };

		out_s(d, "op", ops[c.retain.op]);
		if (c.account)
			out_id(d, "account", c.account);
		out_u(d, "base", c.retain.base);
		out_u(d, "end", c.retain.end);
		out_u(d, "epoch", c.retain.epoch);
		out_u(d, "generation", c.retain.gen);
		out_u(d, "bytes", c.retain.bytes_len);
	} else {
		out_id(d, "account", c.account);
		out_u(d, "device", c.device);
		if (c.type == CMD_CURSOR)
			out_u(d, "cursor", c.cursor);
	}
	out_end(d);
}

static void dump_batch(struct dump *d, const char *file, uint64_t at,
		       const uint8_t *p, size_t n)
{
	struct cursor c = cursor_of(p, n);
	uint64_t count, i, time;

	cursor_u8(&c);
	time = cursor_u64(&c);
	count = cursor_varint(&c);
	out_begin(d, "batch", file, at);
	out_u(d, "time_ms", time);
	out_u(d, "commands", count);
	out_end(d);
	for (i = 0; i < count && !c.bad; i++) {
		const uint8_t *cmd;
		size_t len;

		cursor_bytes(&c, 16);
		cmd = cursor_lv(&c, CMD_MAX, &len);
		if (cmd)
			dump_command(d, file, at + (uint64_t)(cmd - p), cmd,
				     len);
	}
	if (!cursor_done(&c))
		out_damage(d, file, at, "the batch does not end where it should");
}

/* ---- journal ---------------------------------------------------------------------- */

struct jdump {
	struct dump *d;
	const char *only;
	uint64_t groups, records;
};

static void on_record(struct dump *d, const struct journal_walk_event *ev)
{
	static const char *const names[] = { "?",    "entry",   "vote",
					     "truncate", "mark", "install",
					     "signed", "repair" };

	out_begin(d, ev->type < 8 ? names[ev->type] : "?", ev->file,
		  ev->offset);
	out_u(d, "shard", ev->shard);
	out_u(d, "term", ev->term);
	if (ev->type == JR_VOTE && ev->len == 8)
		out_u(d, "vote", get_u64(ev->payload));
	else
		out_u(d, "index", ev->index);
	if (ev->type == JR_ENTRY) {
		out_u(d, "len", ev->len);
		if (ev->len)
			out_s(d, "kind",
			      ev->payload[0] == GROUP_COMMAND   ? "command"
			      : ev->payload[0] == GROUP_BARRIER ? "barrier"
			      : ev->payload[0] == GROUP_CHANGE  ? "change"
								: "?");
	}
	out_end(d);
	if (ev->type == JR_ENTRY && ev->len && ev->payload[0] == GROUP_COMMAND)
		dump_batch(d, ev->file, ev->offset, ev->payload, ev->len);
}

static void on_event(void *arg, const struct journal_walk_event *ev)
{
	struct jdump *j = arg;
	struct dump *d = j->d;

	if (j->only && strcmp(j->only, ev->file))
		return;
	switch (ev->what) {
	case JW_FILE:
		/* A file that was never used has no header: that is no damage. */
		if (ev->damage && strncmp(ev->damage, "no header", 9))
			out_damage(d, ev->file, 0, ev->damage);
		if (d->quiet)
			break;
		out_begin(d, "journal", ev->file, 0);
		if (ev->damage) {
			out_s(d, "state", ev->damage);
		} else {
			out_u(d, "use", ev->use);
			out_u(d, "groups_before", ev->group);
		}
		out_end(d);
		break;
	case JW_GROUP:
		j->groups++;
		if (d->quiet)
			break;
		out_begin(d, "group", ev->file, ev->offset);
		out_u(d, "use", ev->use);
		out_u(d, "group", ev->group);
		out_u(d, "len", ev->len);
		out_end(d);
		break;
	case JW_RECORD:
		j->records++;
		if (ev->damage)
			out_damage(d, ev->file, ev->offset, ev->damage);
		else if (!d->quiet)
			on_record(d, ev);
		break;
	case JW_DAMAGE:
		out_damage(d, ev->file, ev->offset, ev->damage);
		break;
	}
}

int dump_journal(struct dump *d, const char *dir, const char *only,
		 struct err *e)
{
	struct jdump j = { .d = d, .only = only };
	int rv = journal_walk(d->disk, dir, on_event, &j, e);

	if (!rv) {
		out_begin(d, "total", only ? only : "journal", 0);
		out_u(d, "groups", j.groups);
		out_u(d, "records", j.records);
		out_end(d);
	}
	return rv;
}
