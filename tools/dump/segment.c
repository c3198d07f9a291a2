/* Segments, their indexes and tree files. */
#include "base/alloc.h"
#include "log/frame.h"
#include "log/segment.h"
#include "tools/dump/dump.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SEGMENT_FILE_MAX (5ull << 30)

static const char *kind_name(uint8_t kind)
{
	static const char *const names[] = { "?",     "message", "receipt",
					     "directory", "erase", "trim",
					     "checkpoint", "feature" };

	return kind < sizeof names / sizeof *names ? names[kind] : "?";
}

static void out_record(struct dump *d, const char *file, uint64_t at,
		       const struct record *r)
{
	out_begin(d, "record", file, at);
	out_u(d, "offset", r->offset);
	out_s(d, "kind", kind_name(r->kind));
	out_u(d, "class", r->cls);
	out_u(d, "flags", r->msg_flags);
	out_u(d, "time_ms", r->time_ms);
	out_u(d, "stamp", r->lamport);
	out_id(d, "key", r->key);
	out_u(d, "n", r->n);
	out_id(d, "sender", r->sender);
	out_u(d, "device", r->device);
	out_u(d, "seq", r->seq);
	out_u(d, "after", r->after);
	out_u(d, "part", r->part);
	out_hex(d, "mid", r->mid, 16);
	if (r->flags & RECORD_HAS_ORIGIN) {
		out_u(d, "origin_shard", r->origin_shard);
		out_u(d, "origin_offset", r->origin_offset);
		out_u(d, "origin_lamport", r->origin_lamport);
	}
	out_u(d, "headers_len", r->headers_len);
	if (r->flags & RECORD_STUB) {
		out_u(d, "stub", 1);
		out_hex(d, "content", r->content, 32);
		out_end(d);
		return;
	}
	out_u(d, "payload_len", r->payload_len);
	if (d->payload)
		out_hex(d, "payload", r->payload, r->payload_len);
	out_end(d);
}

struct walk {
	struct dump *d;
	const char *path;
	uint8_t chain[32];
	bool chained;          /* `chain` is known */
	uint64_t next, frames, records;
	struct buf raw;
};

/* The frame's own fields and records; `p` has all its bytes. */
static void one_frame(struct walk *w, uint64_t at, const uint8_t *p,
		      const struct frame *f)
{
	struct dump *d = w->d;
	struct frame_iter it;
	struct record r;
	int rv;

	w->frames++;
	if (!d->quiet) {
		out_begin(d, "frame", w->path, at);
		out_u(d, "len", f->length);
		out_u(d, "term", f->term);
		out_u(d, "index", f->index);
		out_u(d, "base", f->base);
		out_u(d, "records", f->count);
		out_u(d, "raw", f->raw_len);
		out_s(d, "codec", f->flags & FRAME_LZ4 ? "lz4" : "raw");
		if (f->flags & FRAME_STUBS)
			out_u(d, "stubs", 1);
		out_hex(d, "root", f->root, 32);
		out_hex(d, "chain", f->chain, 32);
		out_end(d);
	}
	if (w->chained && !frame_follows(p, w->chain))
		out_damage(d, w->path, at,
			   "the chain does not lead to this frame");
	if (f->base != w->next)
		out_damage(d, w->path, at, "records are missing before this "
					   "frame");
	memcpy(w->chain, f->chain, 32);
	w->chained = true;
	w->next = f->base + f->count;
	if (frame_unpack(f, p, &w->raw)) {
		out_damage(d, w->path, at, "the body's checksum does not match");
		return;
	}
	frame_iter_init(&it, f, &w->raw);
	while ((rv = frame_next(&it, &r)) == 1) {
		w->records++;
		if (!d->quiet)
			out_record(d, w->path, at, &r);
	}
	if (rv)
		out_damage(d, w->path, at, "a record of the body is malformed");
}

static void footer(struct walk *w, uint64_t at, const uint8_t *p)
{
	struct segment_foot f;
	struct err e;

	if (segment_foot_decode(&f, p, &e)) {
		out_damage(w->d, w->path, at, e.msg);
		return;
	}
	if (!w->d->quiet) {
		out_begin(w->d, "footer", w->path, at);
		out_u(w->d, "number", f.number);
		out_u(w->d, "base", f.base);
		out_u(w->d, "end", f.end);
		out_u(w->d, "frames", f.frames);
		out_u(w->d, "logical", f.logical);
		out_u(w->d, "stamp", f.lamport);
		out_hex(w->d, "chain", f.chain, 32);
		out_hex(w->d, "root", f.root, 32);
		out_id(w->d, "index_sum", f.index_sum);
		out_end(w->d);
	}
	if (f.bytes != at || f.end != w->next)
		out_damage(w->d, w->path, at, "the footer does not fit what is "
					      "in front of it");
	if (w->chained && memcmp(f.chain, w->chain, 32))
		out_damage(w->d, w->path, at,
			   "the chain does not lead to the footer");
}

/* Frames start at multiples of 8: after damage the next good header is searched. */
static void frames(struct walk *w, const uint8_t *p, size_t n)
{
	uint64_t at = SEGMENT_HEADER;
	bool lost = false;

	while (at + FRAME_HEADER <= n) {
		struct frame f;

		if (n - at >= SEGMENT_FOOTER && !memcmp(p + at, "QUIPUSF1", 8)) {
			footer(w, at, p + at);
			return;
		}
		if (!frame_header(&f, p + at, n - at) && f.length <= n - at) {
			one_frame(w, at, p + at, &f);
			at += f.length;
			lost = false;
			continue;
		}
		if (!lost) {
			uint64_t k;

			/* Behind the end of an open segment there may be what a
			 * crash left; only what a frame follows is damage. */
			for (k = at + 8; k + FRAME_HEADER <= n; k += 8)
				if (!frame_header(&f, p + k, n - k))
					break;
			if (k + FRAME_HEADER > n)
				return;
			out_damage(w->d, w->path, at,
				   "no frame can be read here, but one follows");
			w->chained = false;
		}
		lost = true;
		at += 8;
	}
}

int dump_segment(struct dump *d, const char *path, struct err *e)
{
	struct walk w = { .d = d, .path = path };
	struct segment_head h;
	uint8_t *p;
	size_t n;
	int rv = dump_read(d, path, SEGMENT_FILE_MAX, &p, &n, e);

	if (rv)
		return rv;
	if (n < SEGMENT_HEADER) {
		out_damage(d, path, 0, "shorter than its header");
		free(p);
		return 0;
	}
	rv = segment_head_decode(&h, p, e);
	if (rv) {
		out_damage(d, path, 0, e->msg);
	} else {
		if (!d->quiet) {
			out_begin(d, "segment", path, 0);
			out_hex(d, "cluster", h.cluster_id, 16);
			if (h.version != SEGMENT_VERSION)
				out_u(d, "version", h.version);
			out_u(d, "shard", h.shard);
			out_u(d, "generation", h.generation);
			out_u(d, "number", h.number);
			out_u(d, "base", h.base);
			out_u(d, "clock", h.clock);
			out_u(d, "index", h.index);
			out_u(d, "term", h.term);
			out_hex(d, "chain", h.chain, 32);
			out_end(d);
		}
		memcpy(w.chain, h.chain, 32);
		w.chained = true;
		w.next = h.base;
	}
	if (rv != ERR_VERSION)
		frames(&w, p, n);
	out_begin(d, "total", path, n);
	out_u(d, "frames", w.frames);
	out_u(d, "records", w.records);
	out_end(d);
	buf_release(&w.raw);
	free(p);
	return 0;
}

int dump_index(struct dump *d, const char *path, struct err *e)
{
	struct index_reader r;
	struct kidx k = { 0 };
	const uint8_t *f;
	uint8_t *p;
	size_t n;
	uint32_t i;
	int rv = dump_read(d, path, 1u << 30, &p, &n, e);

	if (rv)
		return rv;
	rv = index_open(&r, p, n, e);
	if (rv) {
		out_damage(d, path, 0, e->msg);
		free(p);
		return 0;
	}
	out_begin(d, "index", path, 0);
	out_u(d, "shard", r.shard);
	out_u(d, "base", r.base);
	out_u(d, "end", r.end);
	out_u(d, "frames", r.n_places);
	out_u(d, "keys", r.n_keys);
	out_end(d);
	for (i = 0; i < r.n_places && !d->quiet; i++) {
		struct place pl;

		index_place(&r, i, &pl);
		out_begin(d, "place", path, i);
		out_u(d, "base", pl.base);
		out_u(d, "off", pl.off);
		out_u(d, "records", pl.count);
		out_end(d);
	}
	while ((rv = index_key(&r, &k, &f)) == 1) {
		if (d->quiet)
			continue;
		out_begin(d, "key", path, (uint64_t)(f - p));
		out_id(d, "key", k.key);
		out_u(d, "first_n", k.first_n);
		out_u(d, "last_n", k.last_n);
		if (k.prev != KIDX_NO_PREV)
			out_id(d, "prev", k.prev);
		out_u(d, "frames", k.n);
		out_end(d);
	}
	if (rv)
		out_damage(d, path, (uint64_t)(r.p - p), "malformed key");
	free(p);
	return 0;
}

int dump_tree(struct dump *d, const char *path, struct err *e)
{
	uint8_t *p, root[32];
	size_t n, i;
	int rv = dump_read(d, path, 1u << 30, &p, &n, e);

	if (rv)
		return rv;
	for (i = 0; i + 32 <= n && !d->quiet; i += 32) {
		out_begin(d, "leaf", path, i);
		out_hex(d, "hash", p + i, 32);
		out_end(d);
	}
	if (n % 32)
		out_damage(d, path, n - n % 32, "half a hash at the end");
	merkle_root(p, n / 32, root);
	out_begin(d, "total", path, n);
	out_u(d, "leaves", n / 32);
	out_hex(d, "root_of_file", root, 32);
	out_end(d);
	free(p);
	return 0;
}
