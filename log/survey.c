#include "log/survey.h"
#include "base/alloc.h"
#include "log/walk.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct survey {
	struct disk *disk;
	struct disk_file *file;
	struct segment_walk walk;
	struct survey_fact *facts;
	unsigned n, cap;
};

int survey_open(struct survey **out, struct disk *disk, const char *path,
		uint64_t bytes, struct err *e)
{
	struct survey *s = xcalloc(1, sizeof *s);
	int rv = disk->ops->open(disk, path, DISK_READ, &s->file, e);

	if (rv) {
		free(s);
		return rv;
	}
	s->disk = disk;
	segment_walk_init(&s->walk, disk, s->file, bytes);
	*out = s;
	return 0;
}

void survey_free(struct survey *s)
{
	if (!s)
		return;
	segment_walk_release(&s->walk);
	s->disk->ops->close(s->file);
	free(s->facts);
	free(s);
}

static void fact(struct survey *s, const struct record *r)
{
	struct survey_fact *f;

	if (s->n == s->cap) {
		s->cap = s->cap ? 2 * s->cap : 1024;
		s->facts = xrealloc(s->facts, s->cap * sizeof *s->facts);
	}
	f = &s->facts[s->n++];
	*f = (struct survey_fact){
		.offset = r->offset,
		.key = r->key,
		.n = r->n,
		.time_ms = r->time_ms,
		.sender = r->sender,
		.seq = r->seq,
		.lamport = r->flags & RECORD_HAS_ORIGIN ? r->origin_lamport
							: r->lamport,
		.stamp = r->lamport,
		.device = r->device,
		.ttl = r->ttl,
		.content = 16 + r->payload_len,
		.kind = r->kind,
		.part = r->part,
		.stub = r->flags & RECORD_STUB,
	};
	memcpy(f->mid, r->mid, 16);
	if (f->stub)
		f->content = 0;
}

int survey_step(struct survey *s, uint64_t budget,
		const struct survey_fact **facts, unsigned *n, struct err *e)
{
	uint64_t until = s->walk.off + budget, at;
	int rv;

	s->n = 0;
	do {
		struct frame_iter it;
		const uint8_t *head;
		struct record r;
		struct frame f;

		at = s->walk.off;
		rv = segment_walk_next(&s->walk, &f, &head, e);
		if (rv == 1) {
			int one;

			frame_iter_init(&it, &f, &s->walk.raw);
			while ((one = frame_next(&it, &r)) == 1)
				fact(s, &r);
			if (one)
				rv = ERR_DAMAGED;
		}
	} while (rv == 1 && s->walk.off < until);
	*facts = s->facts;
	*n = s->n;
	if (rv == ERR_DAMAGED)
		return err_set(e, ERR_DAMAGED,
			       "a segment is damaged at byte %" PRIu64, at);
	return rv < 0 ? rv : 0;
}
