/* The ring of files: which may be written next, and how many there are.
 *
 * Files are used in turn.  One that holds nothing above any shard's mark (and
 * hold) is used again, the oldest first, so the uses in force are consecutive.
 * A new one is written full of zeros by the helper thread ahead of need.
 *
 * A ring above its size gets smaller by its oldest file, which is the beginning of the
 * log: the log is as good without it as with it.  But not with it and without the file
 * behind it: none is used again until the folder that has lost the name is synced. */
#include "base/alloc.h"
#include "base/logf.h"
#include "log/journal_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NONE JOURNAL_NO_FILE
#define GROW_RETRY_US 1000000
#define GROW_CHUNK (1u << 20)
#define REFUSED_US 200000 /* whoever was refused asks again sooner */
#define SHRINK_RETRY_US 60000000
#define FULL_US 5000000 /* a ring that is full for so long may outgrow its size */

/* ---- which file ----------------------------------------------------------------- */

void journal_installed(struct journal *j, uint32_t shard, uint32_t incarnation,
		       uint64_t index, uint64_t term)
{
	struct jindex *x = &j->shards[shard];
	uint32_t i;

	x->head = x->n = 0;
	x->s.first_index = index + 1;
	x->s.last_index = index;
	x->s.last_term = term;
	x->s.incarnation = incarnation;
	/* Above the mark, save for a replica that is gone: the next one on this node
	 * begins with nothing. */
	x->s.mark_index = index;
	x->s.mark_term = term;
	/* What it voids pins no file. */
	for (i = 0; i < j->n_files; i++)
		j->files[i].last[shard] = 0;
}

/* The log is what it was, and replay begins behind the new folder's state. */
void journal_repaired(struct journal *j, uint32_t shard, uint32_t incarnation,
		      uint64_t index, uint64_t term)
{
	struct journal_shard *s = &j->shards[shard].s;

	s->incarnation = incarnation;
	if (index >= s->mark_index) {
		s->mark_index = index;
		s->mark_term = term;
	}
}

void journal_truncated(struct journal *j, uint32_t shard, uint64_t from)
{
	uint32_t i;

	jindex_truncate(&j->shards[shard], from);
	for (i = 0; i < j->n_files; i++)
		if (j->files[i].last[shard] >= from)
			j->files[i].last[shard] = from - 1;
}

static bool file_free(const struct journal *j, const struct jfile *f, bool force)
{
	uint32_t s;

	if (!f->use)
		return true;
	for (s = 0; s < JOURNAL_SHARDS_MAX; s++) {
		const struct jindex *x = &j->shards[s];

		if (f->last[s] > x->s.mark_index ||
		    (!force && f->last[s] >= x->hold && f->last[s]))
			return false;
	}
	return true;
}

static uint64_t ring_bytes(const struct journal *j)
{
	return (uint64_t)j->n_files * j->cfg.file_size;
}

static bool below_max(const struct journal *j)
{
	return j->n_files < JOURNAL_FILES_MAX &&
	       ring_bytes(j) + j->cfg.file_size <=
		       j->cfg.max_bytes + j->outgrown;
}

/* Below two there is no ring: the file that is written is never the next one. */
bool jring_may_grow(const struct journal *j)
{
	return below_max(j) && (j->grow_left >= j->cfg.file_size || j->n_files < 2);
}

/* How large the ring may get as things are. */
static uint64_t ring_max(const struct journal *j)
{
	uint64_t has = ring_bytes(j), max = j->cfg.max_bytes;

	if (has >= max)
		return has;
	if (has + j->grow_left < has)
		return max;
	return has + j->grow_left < max ? has + j->grow_left : max;
}

uint32_t jring_oldest(const struct journal *j)
{
	uint32_t i, old = NONE;

	for (i = 0; i < j->n_files; i++)
		if (i != j->cur &&
		    (old == NONE || j->files[i].use < j->files[old].use))
			old = i;
	return old;
}

uint32_t jring_next(const struct journal *j)
{
	uint32_t old = jring_oldest(j);
	/* Behind three quarters of the ring a lagging follower loses its hold; not
	 * for a full disk, which may have room again before it is too late. */
	bool force = !below_max(j) || ring_bytes(j) * 4 > j->cfg.max_bytes * 3;

	return old != NONE && !j->shrinking && file_free(j, &j->files[old], force)
		       ? old
		       : NONE;
}

/* After whatever may free a file or take one.  Files are used again in the order
 * of their uses: one behind a file that is not free is of no use yet. */
void jring_count_free(struct journal *j)
{
	uint64_t stop = UINT64_MAX;
	uint32_t i;

	for (i = 0; i < j->n_files; i++)
		if (i == j->cur || !file_free(j, &j->files[i], true))
			if (j->files[i].use < stop)
				stop = j->files[i].use;
	j->n_free = 0;
	for (i = 0; i < j->n_files; i++)
		j->n_free += i != j->cur && j->files[i].use < stop;
}

void jring_begin(struct journal *j, uint32_t i)
{
	struct jfile *f = &j->files[i];
	uint32_t s;

	for (s = 0; s < JOURNAL_SHARDS_MAX; s++) {
		if (f->use && f->last[s])
			jindex_drop_below(&j->shards[s], f->last[s] + 1);
		f->last[s] = 0;
	}
	f->use = j->next_use++;
	j->cur = i;
	j->cur_off = 0;
	jring_count_free(j);
}

bool journal_crowded(const struct journal *j)
{
	uint64_t room = j->n_free * j->cfg.file_size;

	if (jring_may_grow(j))
		room += ring_max(j) - ring_bytes(j);
	if (j->cur != NONE && j->cur_off < j->cfg.file_size / 4 * 3)
		room += j->cfg.file_size / 4 * 3 - j->cur_off;
	return room < ring_max(j) / 8;
}

uint32_t journal_pinned_by(const struct journal *j)
{
	uint32_t i, s, old = NONE, used = 0;

	for (i = 0; i < j->n_files; i++) {
		if (!j->files[i].use || i == j->cur)
			continue;
		used++;
		if (old == NONE || j->files[i].use < j->files[old].use)
			old = i;
	}
	if (old == NONE ||
	    (uint64_t)(used + 1) * j->cfg.file_size * 4 < ring_max(j) * 3)
		return NONE;
	for (s = 0; s < JOURNAL_SHARDS_MAX; s++)
		if (j->files[old].last[s] > j->shards[s].s.mark_index)
			return s;
	return NONE;
}

/* ---- how many --------------------------------------------------------------------- */

static int file_fill(struct journal *j, struct disk_file *f, struct err *e)
{
	uint64_t off;
	uint8_t *chunk = xcalloc(1, GROW_CHUNK);
	int rv = 0;

	for (off = 0; off < j->cfg.file_size && !rv; off += GROW_CHUNK) {
		uint64_t n = j->cfg.file_size - off;
		struct iovec iov = { chunk, n < GROW_CHUNK ? n : GROW_CHUNK };

		rv = j->disk->ops->pwritev(f, &iov, 1, off, e);
	}
	if (!rv)
		rv = j->disk->ops->fdatasync(f, e);
	free(chunk);
	return rv;
}

static void grow_run(struct disk_work *w)
{
	struct journal *j = w->arg;
	char path[64];

	memset(&j->grow_err, 0, sizeof j->grow_err);
	snprintf(path, sizeof path, JOURNAL_DIR "/%08u.jnl", j->next_number);
	j->grown = NULL;
	j->grow_status = j->disk->ops->open(j->disk, path,
					    DISK_WRITE | DISK_CREATE,
					    &j->grown, &j->grow_err);
	if (!j->grow_status)
		j->grow_status = file_fill(j, j->grown, &j->grow_err);
	if (!j->grow_status)
		j->grow_status = j->disk->ops->fsync_dir(j->disk, JOURNAL_DIR,
							 &j->grow_err);
	if (j->grow_status && j->grown) {
		j->disk->ops->close(j->grown);
		j->grown = NULL;
		if (j->grow_status == ERR_NOSPACE)
			j->disk->ops->unlink(j->disk, path, NULL);
	}
}

static void files_add(struct journal *j, struct disk_file *file)
{
	struct jfile *f = &j->files[j->n_files++];

	f->file = file;
	f->number = j->next_number++;
	f->use = 0;
	f->last = xcalloc(JOURNAL_SHARDS_MAX, sizeof *f->last);
	jring_count_free(j);
}

static void grow_done(struct disk_work *w)
{
	struct journal *j = w->arg;

	j->growing = false;
	if (j->failed || j->closing)
		return;
	if (j->grow_status == ERR_NOSPACE) {
		/* An answer, not an end: the ring stays as it is. */
		log_event(LOG_WARN, "journal_nospace", "why=%s",
			  log_quote(j->grow_err.msg));
		j->grow_retry_us = clock_us(j->clock) + GROW_RETRY_US;
		return;
	}
	if (j->grow_status) {
		journal_fail(j, &j->grow_err);
		return;
	}
	files_add(j, j->grown);
	j->grown = NULL;
	journal_flush(j);
}

void jring_grow(struct journal *j)
{
	if (j->growing || !jring_may_grow(j) || clock_us(j->clock) < j->grow_retry_us)
		return;
	j->growing = true;
	j->grown_bytes += j->cfg.file_size;
	j->grow_left -= j->grow_left < j->cfg.file_size ? j->grow_left
							: j->cfg.file_size;
	j->grow = (struct disk_work){ .run = grow_run,
				      .done = grow_done,
				      .arg = j };
	j->disk->ops->work(j->disk, &j->grow);
}

static void shrink_run(struct disk_work *w)
{
	struct journal *j = w->arg;
	char path[64];

	memset(&j->shrink_err, 0, sizeof j->shrink_err);
	snprintf(path, sizeof path, JOURNAL_DIR "/%08u.jnl", j->gone.number);
	j->shrink_status = j->disk->ops->unlink(j->disk, path, &j->shrink_err);
	j->unlinked = !j->shrink_status;
	if (j->unlinked)
		j->shrink_status = j->disk->ops->fsync_dir(j->disk, JOURNAL_DIR,
							   &j->shrink_err);
}

static void shrink_done(struct disk_work *w)
{
	struct journal *j = w->arg;

	j->shrinking = false;
	if (j->failed || j->closing)
		return;
	if (j->unlinked && j->shrink_status) {
		journal_fail(j, &j->shrink_err);
		return;
	}
	if (j->unlinked) {
		log_event(LOG_INFO, "journal_shrinks",
			  "bytes=%" PRIu64 " max=%" PRIu64, ring_bytes(j),
			  j->cfg.max_bytes);
		j->disk->ops->close(j->gone.file);
		free(j->gone.last);
	} else {
		/* It is a part of the log still, and the oldest one. */
		log_event(LOG_WARN, "journal_stays", "why=%s",
			  log_quote(j->shrink_err.msg));
		j->shrink_retry_us = clock_us(j->clock) + SHRINK_RETRY_US;
		j->files[j->n_files++] = j->gone;
		jring_count_free(j);
	}
	memset(&j->gone, 0, sizeof j->gone);
	journal_flush(j);
}

/* Out of the list; the last one takes its place. */
static void file_take(struct journal *j, uint32_t i)
{
	struct jfile *f = &j->files[i];
	uint32_t s, last = j->n_files - 1;

	for (s = 0; s < JOURNAL_SHARDS_MAX; s++) {
		if (f->use && f->last[s])
			jindex_drop_below(&j->shards[s], f->last[s] + 1);
		f->last[s] = 0;
		if (i != last)
			jindex_moved(&j->shards[s], last, i);
	}
	j->gone = *f;
	*f = j->files[last];
	memset(&j->files[last], 0, sizeof j->files[last]);
	j->n_files--;
	if (j->cur == last)
		j->cur = i;
	jring_count_free(j);
}

void jring_shrink(struct journal *j)
{
	uint64_t left = ring_bytes(j) - j->cfg.file_size;
	uint32_t i = jring_oldest(j);

	/* What waits finds room meanwhile in the file that is being written. */
	if (!j->marked || j->shrinking || j->growing || j->failed || j->closing ||
	    i == NONE || left < j->cfg.max_bytes || j->n_files < 3 ||
	    j->n_free * 2 < j->n_files || j->cur_off * 2 > j->cfg.file_size ||
	    clock_us(j->clock) < j->shrink_retry_us)
		return;
	j->marked = false;
	if (jring_next(j) != i)
		return;
	j->outgrown = left - j->cfg.max_bytes;
	file_take(j, i);
	j->shrinking = true;
	j->shrink = (struct disk_work){ .run = shrink_run,
					.done = shrink_done,
					.arg = j };
	j->disk->ops->work(j->disk, &j->shrink);
}

/* Rings of several nodes may wait for one another: each is full of entries of a shard
 * that are committed only when a node has room whose ring is full of another shard's.
 * Nobody but time can tell, and nothing helps but room.  Twice max_bytes is more than
 * can be under way, since a crowded ring takes nothing new from clients. */
void jring_outgrow(struct journal *j, uint64_t now_us)
{
	bool full = (j->q_head && !j->writing && !j->growing && !j->shrinking) ||
		    (j->refused_us && now_us - j->refused_us < REFUSED_US);

	if (!full) {
		j->full_us = 0;
	} else if (!j->full_us) {
		j->full_us = now_us;
	} else if (now_us - j->full_us >= FULL_US && !below_max(j) &&
		   ring_bytes(j) < 2 * j->cfg.max_bytes && j->cur != NONE &&
		   jring_next(j) == NONE) {
		j->outgrown = ring_bytes(j) + j->cfg.file_size - j->cfg.max_bytes;
		j->full_us = 0;
		log_event(LOG_WARN, "journal_outgrows",
			  "bytes=%" PRIu64 " max=%" PRIu64,
			  ring_bytes(j) + j->cfg.file_size, j->cfg.max_bytes);
		jring_grow(j);
	}
}

void journal_limit(struct journal *j, uint64_t grow_bytes, bool entries)
{
	/* The one that is being filled is not all on the disk yet. */
	if (j->growing)
		grow_bytes -= grow_bytes < j->cfg.file_size ? grow_bytes
							    : j->cfg.file_size;
	j->grow_left = grow_bytes;
	j->grown_bytes = 0;
	j->no_entries = !entries;
}

uint64_t journal_grown(const struct journal *j)
{
	return j->grown_bytes;
}

int jring_first(struct journal *j, struct err *e)
{
	grow_run(&(struct disk_work){ .arg = j });
	if (j->grow_status)
		*e = j->grow_err;
	else
		files_add(j, j->grown);
	j->grown = NULL;
	return j->grow_status;
}
