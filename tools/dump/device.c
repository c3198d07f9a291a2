/* A client's file (client/store_file.h). */
#include "client/store_file.h"
#include "tools/dump/dump.h"

#include <stdlib.h>
#include <string.h>

#define DEVICE_FILE_MAX (4ull << 30)

struct walk {
	struct dump *d;
	const char *path;
	uint64_t ops;
};

static void body(struct dump *d, const uint8_t *p, uint32_t n)
{
	out_u(d, "len", n);
	if (d->payload)
		out_hex(d, "body", p, n);
}

static void one(struct walk *w, const struct store_op *op)
{
	struct dump *d = w->d;

	switch (op->kind) {
	case STORE_PUT:
		out_begin(d, "put", w->path, op->at);
		out_u(d, "seq", op->put.seq);
		out_u(d, "after", op->put.after);
		out_id(d, "to", op->put.to);
		out_u(d, "seen", op->put.seen);
		out_u(d, "composed", op->put.composed_ms);
		out_hex(d, "mid", op->put.mid, 16);
		out_u(d, "class", op->put.cls);
		out_u(d, "void_of", op->put.void_of);
		out_u(d, "ttl", op->put.ttl);
		out_u(d, "flags", op->put.flags);
		body(d, op->put.body, op->put.body_len);
		break;
	case STORE_SETTLE:
		out_begin(d, "settle", w->path, op->at);
		out_u(d, "seq", op->settle.seq);
		out_id(d, "to", op->settle.to);
		out_hex(d, "mid", op->settle.mid, 16);
		out_s(d, "outcome", op->settle.outcome == CLIENT_ACKED ? "acked"
								       : "refused");
		out_u(d, "dup", op->settle.dup);
		out_u(d, "lamport", op->settle.lamport);
		out_u(d, "stamp", op->settle.stamp);
		out_u(d, "offset", op->settle.offset);
		out_u(d, "time", op->settle.time_ms);
		out_u(d, "shard", op->settle.shard);
		if (op->settle.problem)
			out_s(d, "problem", op->settle.problem);
		break;
	case STORE_RECORD:
		out_begin(d, "record", w->path, op->at);
		out_u(d, "n", op->record.n);
		out_id(d, "from", op->record.from);
		out_u(d, "device", op->record.device);
		out_u(d, "seq", op->record.seq);
		out_hex(d, "mid", op->record.mid, 16);
		out_u(d, "lamport", op->record.lamport);
		out_u(d, "stamp", op->record.stamp);
		out_u(d, "time", op->record.time_ms);
		out_u(d, "class", op->record.cls);
		out_u(d, "flags", op->record.flags);
		body(d, op->record.body, op->record.body_len);
		break;
	case STORE_META:
		out_begin(d, "meta", w->path, op->at);
		out_u(d, "cursor", op->meta.cursor);
		out_u(d, "lamport", op->meta.lamport);
		out_u(d, "seq", op->meta.seq);
		out_u(d, "epoch", op->meta.epoch);
		out_u(d, "known", op->meta.known);
		break;
	}
	out_end(d);
}

static bool on_op(void *arg, const struct store_op *op)
{
	struct walk *w = arg;

	w->ops++;
	if (!w->d->quiet)
		one(w, op);
	return true;
}

int dump_device(struct dump *d, const char *path, struct err *e)
{
	struct walk w = { d, path, 0 };
	uint64_t account = 0;
	uint32_t device = 0;
	uint8_t *p;
	size_t n, good = 0;
	int rv = dump_read(d, path, DEVICE_FILE_MAX, &p, &n, e);

	if (rv)
		return rv;
	rv = store_file_parse(p, n, &account, &device, on_op, &w, &good, e);
	free(p);
	if (rv == ERR_FORMAT || rv == ERR_VERSION) {
		err_wrap(e, "%s", path);
		return rv;
	}
	if (rv)
		out_damage(d, path, good, e->msg);
	out_begin(d, "total", path, good);
	out_id(d, "account", account);
	out_u(d, "device", device);
	out_u(d, "ops", w.ops);
	out_u(d, "torn", rv ? 0 : n - good);
	out_end(d);
	return 0;
}
