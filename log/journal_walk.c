/* Reading journal files without owning them: quipu-dump, scrubber.  Goes on after
 * damage, writes nothing, keeps one file in memory. */
#include "base/alloc.h"
#include "log/journal_format.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WALK_FILE_MAX (4ull << 30)

struct walk {
	struct disk *disk;
	const char *dir;
	void (*cb)(void *arg, const struct journal_walk_event *ev);
	void *arg;
	struct err *e;
	int rv;
};

static void walk_records(struct walk *w, struct journal_walk_event *ev,
			 const uint8_t *p, const struct jg_header *g)
{
	uint32_t at = JG_HEADER + (uint32_t)g->rows * JG_ROW;
	uint64_t start = ev->offset;
	unsigned i;

	for (i = 0; i < g->records; i++) {
		struct jr r;
		int rv = jr_get(&r, p + at, g->length - at);

		ev->offset = start + at;
		if (rv) {
			/* Where the next record starts is not known any more. */
			ev->what = JW_DAMAGE;
			ev->damage = "a record's checksum does not match";
			w->cb(w->arg, ev);
			break;
		}
		ev->what = JW_RECORD;
		ev->damage = r.use == g->use ? NULL
					     : "the record is of another use";
		ev->shard = r.shard;
		ev->type = r.type;
		ev->term = r.term;
		ev->index = r.index;
		ev->payload = r.payload;
		ev->len = r.len;
		w->cb(w->arg, ev);
		at += r.total;
	}
}

static void walk_groups(struct walk *w, const char *name, const uint8_t *p,
			uint64_t size, uint64_t use)
{
	uint64_t off = JF_HEADER, gap = 0;

	while (off + JG_HEADER <= size) {
		struct journal_walk_event ev = { .file = name, .use = use,
						 .offset = off };
		struct jg_header g;
		int rv = jg_get(&g, p + off, size - off);

		if (rv || (use && g.use != use)) {
			/* The end of this use, or damage if one follows. */
			if (!gap)
				gap = off;
			off += JF_BLOCK;
			continue;
		}
		if (gap) {
			ev.offset = gap;
			ev.what = JW_DAMAGE;
			ev.damage = "no group can be read here, but one follows";
			w->cb(w->arg, &ev);
			ev.offset = off;
			gap = 0;
		}
		use = ev.use = g.use;
		ev.damage = NULL;
		ev.what = JW_GROUP;
		ev.group = g.group;
		ev.len = g.length;
		w->cb(w->arg, &ev);
		walk_records(w, &ev, p + off, &g);
		off += jf_round(g.length);
	}
}

static void walk_file(struct walk *w, const char *name)
{
	struct journal_walk_event ev = { .file = name, .what = JW_FILE };
	struct jf_header h = { 0 };
	struct disk_file *f;
	uint64_t size;
	uint8_t *p;
	size_t got;
	char path[400];
	int rv;

	snprintf(path, sizeof path, "%s/%s", w->dir, name);
	w->rv = w->disk->ops->open(w->disk, path, DISK_READ, &f, w->e);
	if (w->rv)
		return;
	w->rv = w->disk->ops->size(f, &size, w->e);
	if (!w->rv && size > WALK_FILE_MAX)
		w->rv = err_set(w->e, ERR_TOO_LARGE, "%s: %" PRIu64 " bytes",
				path, size);
	p = w->rv ? NULL : xcalloc(1, size + JF_HEADER);
	if (!w->rv)
		w->rv = w->disk->ops->pread(f, p, size, 0, &got, w->e);
	w->disk->ops->close(f);
	if (!w->rv) {
		rv = jf_get_header(&h, p);
		ev.use = h.use;
		ev.group = h.last_group;
		if (rv)
			ev.damage = rv == ERR_VERSION
					    ? "format is newer than this program"
				    : rv == ERR_FORMAT
					    ? "no header: never used"
					    : "the header's checksum does not match";
		w->cb(w->arg, &ev);
		if (rv != ERR_VERSION)
			walk_groups(w, name, p, size, h.use);
	}
	free(p);
}

static void on_name(void *arg, const char *name, bool is_dir)
{
	struct walk *w = arg;
	unsigned number;
	int end = 0;

	if (!w->rv && !is_dir && sscanf(name, "%8u.jnl%n", &number, &end) == 1 &&
	    end && !name[end])
		walk_file(w, name);
}

int journal_walk(struct disk *disk, const char *dir,
		 void (*cb)(void *arg, const struct journal_walk_event *ev),
		 void *arg, struct err *e)
{
	struct walk w = { disk, dir, cb, arg, e, 0 };
	int rv = disk->ops->list(disk, dir, on_name, &w, e);

	return rv ? rv : w.rv;
}
