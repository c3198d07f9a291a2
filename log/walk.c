#include "log/walk.h"
#include "log/segment.h"

#define WALK_CHUNK (1u << 20)

void segment_walk_init(struct segment_walk *w, struct disk *disk,
		       struct disk_file *file, uint64_t end)
{
	*w = (struct segment_walk){ .disk = disk,
				    .file = file,
				    .off = SEGMENT_HEADER,
				    .at = SEGMENT_HEADER,
				    .end = end };
}

void segment_walk_release(struct segment_walk *w)
{
	buf_release(&w->in);
	buf_release(&w->raw);
}

/* More bytes behind those of the next frame. */
static int more(struct segment_walk *w, struct err *e)
{
	uint64_t left;
	size_t want = WALK_CHUNK, got = 0;
	int rv;

	buf_consume(&w->in, (size_t)(w->off - w->at));
	w->at = w->off;
	left = w->end - w->at - w->in.len;
	if (want > left)
		want = (size_t)left;
	rv = w->disk->ops->pread(w->file, buf_reserve(&w->in, want), want,
				 w->at + w->in.len, &got, e);
	w->in.len += got;
	return rv ? rv : got ? 0 : ERR_DAMAGED;
}

int segment_walk_next(struct segment_walk *w, struct frame *f,
		      const uint8_t **head, struct err *e)
{
	if (w->off >= w->end)
		return w->off == w->end ? 0 : ERR_DAMAGED;
	for (;;) {
		size_t have = w->in.len - (size_t)(w->off - w->at);
		const uint8_t *p = w->in.data + (w->off - w->at);
		int rv = have < FRAME_HEADER ? ERR_AGAIN
					     : frame_header(f, p, have);

		if (!rv && f->length > have)
			rv = ERR_AGAIN;
		if (rv == ERR_AGAIN && w->at + w->in.len < w->end) {
			rv = more(w, e);
			if (rv)
				return rv;
			continue;
		}
		if (rv || frame_unpack(f, p, &w->raw))
			return ERR_DAMAGED;
		*head = p;
		w->off += f->length;
		return 1;
	}
}
