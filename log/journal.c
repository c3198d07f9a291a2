/* The writer: one group at a time, everything that waits is the next group.
 *
 *   submit -> queue -> group (header, rows, records as one iov) -> write_sync
 *          -> index of entries -> callbacks -> next group at once
 *
 * Which file it goes to is journal_ring.c's, which requests are a group
 * journal_queue.c's. */
#include "base/alloc.h"
#include "base/assert.h"
#include "base/logf.h"
#include "base/metric.h"
#include "log/journal_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NONE JOURNAL_NO_FILE
#define IDLE_US 100000
#define STALLED_US 100000 /* from a look at what has no room to the next */

static const uint8_t zeros[JF_BLOCK];

void journal_fail(struct journal *j, const struct err *e)
{
	if (j->failed)
		return;
	j->failed = true;
	j->fatal(j->fatal_arg, e);
}

/* ---- a group --------------------------------------------------------------------- */

/* Rows: one for each shard touched, in order of first touch. */
struct rows {
	uint16_t of[JOURNAL_SHARDS_MAX]; /* row + 1 */
	uint16_t n;
};

static uint8_t *row_of(struct rows *rows, uint8_t *base, uint32_t shard,
		       const struct journal_shard *s)
{
	uint8_t *p;

	if (!rows->of[shard]) {
		rows->of[shard] = ++rows->n;
		p = base + (size_t)(rows->n - 1) * JG_ROW;
		put_u32(p, shard);
		put_u32(p + 4, 0);
		put_u64(p + 8, s->last_index);
		put_u64(p + 16, s->last_term);
	}
	return base + (size_t)(rows->of[shard] - 1) * JG_ROW;
}

static void iov_add(struct journal *j, unsigned *n, const void *p, size_t len)
{
	if (*n == j->iov_cap) {
		j->iov_cap = j->iov_cap ? 2 * j->iov_cap : 256;
		j->iov = xrealloc(j->iov, j->iov_cap * sizeof *j->iov);
	}
	j->iov[*n].iov_base = (void *)(uintptr_t)p;
	j->iov[(*n)++].iov_len = len;
}

static void put_file_header(struct journal *j, uint8_t *p)
{
	struct jf_header h = { .use = j->files[j->cur].use,
			       .node_id = j->cfg.node_id,
			       .last_group = j->next_group - 1 };
	uint32_t s;

	memcpy(h.cluster_id, j->cfg.cluster_id, 16);
	for (s = 0; s < JOURNAL_SHARDS_MAX; s++)
		h.n_shards += j->shards[s].s.present;
	jf_put_header(p, &h);
	p += JF_SHARDS_AT;
	for (s = 0; s < JOURNAL_SHARDS_MAX; s++) {
		if (!j->shards[s].s.present)
			continue;
		jf_put_shard(p, s, &j->shards[s].s);
		p += JF_SHARD;
	}
}

/* One small record into the scratch buffer; its bytes stay put. */
static void put_small(struct journal *j, unsigned *n, uint8_t type,
		      uint32_t shard, uint64_t term, uint64_t index,
		      const void *payload, uint32_t len)
{
	uint8_t *p = buf_extend(&j->scratch, JOURNAL_RECORD_HEADER + len);

	if (len)
		memcpy(p + JOURNAL_RECORD_HEADER, payload, len);
	jr_put(p, type, j->files[j->cur].use, shard, term, index,
	       p + JOURNAL_RECORD_HEADER, len);
	iov_add(j, n, p, JOURNAL_RECORD_HEADER + len);
}

static void put_request(struct journal *j, struct journal_req *r, unsigned *n,
			uint64_t *off, struct rows *rows, uint8_t *base)
{
	struct jreq_priv *rp = jreq_priv(r);
	uint8_t *row = row_of(rows, base, r->shard, &j->shards[r->shard].s);
	uint8_t vote[8];
	unsigned i;

	if (r->has_vote) {
		put_u64(vote, r->vote);
		put_small(j, n, JR_VOTE, r->shard, r->term, 0, vote, 8);
		*off += 64;
	}
	if (r->truncate_from) {
		put_small(j, n, JR_TRUNCATE, r->shard, 0, r->truncate_from,
			  NULL, 0);
		*off += 56;
		put_u64(row + 8, r->truncate_from - 1);
	}
	for (i = 0; i < r->n_entries; i++) {
		struct entry *e = rp->entries[i];

		jr_put(e->rec, JR_ENTRY, j->files[j->cur].use, r->shard,
		       e->term, e->index, entry_payload(e), e->len);
		iov_add(j, n, e->rec, e->rec_len);
		if (j->held_n == j->held_cap) {
			j->held_cap = j->held_cap ? 2 * j->held_cap : 256;
			j->held_off = xrealloc(j->held_off,
					       j->held_cap * sizeof(uint64_t));
		}
		j->held_off[j->held_n++] = *off;
		*off += e->rec_len;
		put_u32(row + 4, get_u32(row + 4) + 1);
		put_u64(row + 8, e->index);
		put_u64(row + 16, e->term);
	}
	if (r->install) {
		put_u64(vote, r->install);
		put_small(j, n, r->install_keeps ? JR_REPAIR : JR_INSTALL,
			  r->shard, r->install_term, r->install_index, vote, 8);
		*off += 64;
		if (!r->install_keeps) {
			put_u64(row + 8, r->install_index);
			put_u64(row + 16, r->install_term);
		}
	}
	if (r->has_mark) {
		put_small(j, n, JR_MARK, r->shard, r->mark_term, r->mark_index,
			  NULL, 0);
		*off += 56;
	}
}

static void on_written(struct disk_write *w, int status, const struct err *e);

static void group_write(struct journal *j, unsigned records, unsigned small)
{
	struct rows rows = { { 0 }, 0 };
	bool first = j->cur_off == 0;
	uint32_t head = first ? JF_HEADER : 0, n_rows = 0;
	struct jg_header g = { .use = j->files[j->cur].use,
			       .group = j->next_group++,
			       .records = (uint16_t)records };
	uint8_t seen[JOURNAL_SHARDS_MAX] = { 0 };
	struct journal_req *r;
	uint64_t off, end;
	unsigned n = 0;
	uint8_t *base;

	for (r = j->w_head; r; r = jreq_priv(r)->next) {
		n_rows += !seen[r->shard];
		seen[r->shard] = 1;
	}
	/* Reserved at once, since the iov points into it. */
	buf_clear(&j->scratch);
	buf_reserve(&j->scratch,
		    head + JG_HEADER + (size_t)n_rows * JG_ROW + small * 64u);
	base = buf_extend(&j->scratch, head + JG_HEADER + n_rows * JG_ROW);
	if (first)
		put_file_header(j, base);
	iov_add(j, &n, base, head + JG_HEADER + (size_t)n_rows * JG_ROW);
	off = j->cur_off + head + JG_HEADER + (uint64_t)n_rows * JG_ROW;
	j->held_n = 0;
	for (r = j->w_head; r; r = jreq_priv(r)->next)
		put_request(j, r, &n, &off, &rows, base + head + JG_HEADER);
	AN(rows.n == n_rows);
	if (first)
		jf_seal_header(base);
	g.length = (uint32_t)(off - j->cur_off - head);
	g.rows = (uint16_t)n_rows;
	jg_put(base + head, &g);
	end = jf_round(off);
	if (end > off)
		iov_add(j, &n, zeros, end - off);
	j->writing = true;
	j->write = (struct disk_write){ .file = j->files[j->cur].file,
					.iov = j->iov,
					.iovcnt = (int)n,
					.offset = j->cur_off,
					.cb = on_written,
					.arg = j };
	j->cur_off = end;
	j->write_start_us = clock_us(j->clock);
	j->idle_at_us = UINT64_MAX;
	j->stats.groups++;
	metric_add(M_JOURNAL_GROUPS, 1);
	j->stats.bytes += end - j->write.offset;
	metric_add(M_JOURNAL_BYTES, end - j->write.offset);
	j->disk->ops->write_sync(j->disk, &j->write);
}

/* Header and rows of a group of what waits.  No row too many is counted: the last
 * page of a full ring may have to hold the mark that makes room. */
static uint64_t group_head(const struct journal *j)
{
	const struct journal_req *r = j->q_head;
	uint32_t rows = 0;

	for (; r && rows < JOURNAL_SHARDS_MAX;
	     r = jreq_priv((struct journal_req *)(uintptr_t)r)->next)
		rows++;
	return JG_HEADER + (uint64_t)rows * JG_ROW;
}

/* Room for a group of so many bytes in the current file, or the next one. */
static bool make_room(struct journal *j, uint64_t bytes)
{
	uint64_t need = jf_round(bytes + group_head(j));
	uint32_t next;

	if (j->cur != NONE && j->cur_off + need <= j->cfg.file_size) {
		/* The last quarter of the last file is for marks and votes. */
		return j->cur_off + need <= j->cfg.file_size / 4 * 3 ||
		       jring_may_grow(j) || jring_next(j) != NONE;
	}
	next = jring_next(j);
	if (next == NONE) {
		jring_grow(j);
		return false;
	}
	jring_begin(j, next);
	return true;
}

/* Bytes that the last file of a full ring still takes of a group.  What waits first
 * may be what makes room: without it nothing is applied and marked. */
static uint64_t last_room(const struct journal *j)
{
	uint64_t end = (j->cfg.file_size / 4 * 3) & ~(uint64_t)(JF_BLOCK - 1);
	uint64_t begin = j->cur_off + group_head(j);

	return j->cur != NONE && begin < end ? end - begin : 0;
}

static void group_start(struct journal *j)
{
	unsigned records = 0, small = 0;
	uint64_t bytes = 0, room;
	bool fits;

	if (j->writing || j->failed || !j->q_head)
		return;
	j->w_head = NULL;
	if (make_room(j, jqueue_group(j))) {
		bytes = jqueue_take(j, UINT64_MAX, &records, &small);
	} else {
		/* What the oldest file waits for goes first. */
		room = last_room(j);
		fits = room && room >= jreq_priv(j->q_head)->bytes;
		if (!fits || jqueue_pinned_waits(j))
			bytes = jqueue_take_small(j, &records, &small);
		if (!j->w_head && fits)
			bytes = jqueue_take(j, room, &records, &small);
	}
	if (!j->w_head)
		return;
	j->q_bytes -= bytes;
	group_write(j, records, small);
	/* The next file is made ready while this one fills. */
	if (j->cur_off * 2 > j->cfg.file_size && jring_next(j) == NONE)
		jring_grow(j);
}

static void durable(struct journal *j, struct journal_req *r, unsigned *at)
{
	struct jindex *x = &j->shards[r->shard];
	struct jreq_priv *rp = jreq_priv(r);
	unsigned i;

	x->s.present = true;
	if (r->has_vote)
		jindex_vote(x, r->term, r->vote);
	if (r->truncate_from) {
		journal_truncated(j, r->shard, r->truncate_from);
		jring_count_free(j);
	}
	for (i = 0; i < r->n_entries; i++) {
		struct entry *e = rp->entries[i];
		struct jplace p = { e->term, j->held_off[(*at)++], j->cur,
				    e->len };

		jindex_append(x, e->index, &p);
		if (e->index > j->files[j->cur].last[r->shard])
			j->files[j->cur].last[r->shard] = e->index;
		entry_unref(e);
	}
	free(rp->entries);
	rp->entries = NULL;
	j->stats.entries += r->n_entries;
	if (r->install) {
		(r->install_keeps ? journal_repaired : journal_installed)(
			j, r->shard, r->install, r->install_index,
			r->install_term);
		jring_count_free(j);
	}
	if (r->has_mark && r->mark_index >= x->s.mark_index) {
		x->s.mark_index = r->mark_index;
		x->s.mark_term = r->mark_term;
		j->marked = true;
		jring_count_free(j);
	}
}

static void on_written(struct disk_write *w, int status, const struct err *e)
{
	struct journal *j = w->arg;
	struct journal_req *r = j->w_head, *next;
	uint64_t us = clock_us(j->clock) - j->write_start_us;
	unsigned at = 0, b = 0;

	j->writing = false;
	if (status) {
		/* The first failed write or sync is the last (log-engine 10). */
		journal_fail(j, e);
		return;
	}
	j->stats.syncs++;
	j->stats.sync_us_last = us;
	metric_observe_us(M_FSYNC_SECONDS, us);
	while (b < 31 && us >> (b + 1))
		b++;
	j->stats.sync_us_hist[b]++;
	j->w_head = NULL;
	if (r)
		j->idle_at_us = clock_us(j->clock) + IDLE_US;
	for (next = r; next; next = jreq_priv(next)->next)
		durable(j, next, &at);
	for (; r; r = next) {
		next = jreq_priv(r)->next;
		r->cb(r);
	}
	jring_shrink(j);
	if (j->q_head)
		group_start(j);
}

/* ---- the owner's side ---------------------------------------------------------------- */

/* Entries have no space; marks and votes keep a quarter file. */
static bool ring_full(const struct journal *j)
{
	if (j->cur == NONE || jring_may_grow(j) || jring_next(j) != NONE)
		return false;
	return j->cur_off + j->q_bytes + j->cfg.file_size / 4 >
	       j->cfg.file_size;
}

int journal_submit(struct journal *j, struct journal_req *r)
{
	struct jreq_priv *rp = jreq_priv(r);
	unsigned i;

	AN(r->shard < JOURNAL_SHARDS_MAX);
	AN(r->n_entries <= JOURNAL_REQ_ENTRIES_MAX);
	AN(!r->install || !r->n_entries);
	if (r->install && !r->install_keeps)
		jqueue_void(j, r->shard);
	if (r->n_entries && !jqueue_is_barrier(r->entries, r->n_entries)) {
		if (j->no_entries || j->q_bytes >= j->cfg.queue_bytes)
			return ERR_FULL;
		if (ring_full(j) && !jqueue_reserve_takes(j, r)) {
			j->refused_us = clock_us(j->clock);
			return ERR_FULL;
		}
	}
	memset(r->priv, 0, sizeof r->priv);
	if (r->n_entries) {
		rp->entries = xmalloc(r->n_entries * sizeof *rp->entries);
		for (i = 0; i < r->n_entries; i++)
			rp->entries[i] = entry_ref(r->entries[i]);
	}
	rp->bytes = jqueue_bytes(r);
	*j->q_tail = r;
	j->q_tail = &rp->next;
	j->q_bytes += rp->bytes;
	j->stats.requests++;
	return 0;
}

uint64_t journal_request_max(const struct journal *j)
{
	return (j->cfg.file_size - JF_HEADER) / 4;
}

void journal_flush(struct journal *j)
{
	group_start(j);
}

uint64_t journal_tick(struct journal *j, uint64_t now_us)
{
	if (j->failed)
		return UINT64_MAX;
	if (!j->writing && j->q_head)
		group_start(j);
	jring_outgrow(j, now_us);
	if (j->full_us && !j->writing)
		return now_us + STALLED_US;
	if (j->writing || j->q_head || j->idle_at_us == UINT64_MAX)
		return j->q_head && !j->writing ? now_us + STALLED_US
						: UINT64_MAX;
	if (now_us < j->idle_at_us)
		return j->idle_at_us;
	/* Something valid follows all that was acknowledged.  In a full ring
	 * there is no room but for the marks that will make some. */
	if (!ring_full(j) && make_room(j, 0)) {
		j->w_head = NULL;
		group_write(j, 0, 0);
	}
	j->idle_at_us = UINT64_MAX;
	return UINT64_MAX;
}

bool journal_idle(const struct journal *j)
{
	return !j->writing && !j->q_head;
}

bool journal_stalled(const struct journal *j)
{
	return !j->writing && !j->growing && !j->shrinking && j->q_head;
}

const struct journal_shard *journal_shard(const struct journal *j,
					  uint32_t shard)
{
	AN(shard < JOURNAL_SHARDS_MAX);
	return &j->shards[shard].s;
}

uint64_t journal_term(const struct journal *j, uint32_t shard, uint64_t index)
{
	const struct jplace *p = jindex_place(&j->shards[shard], index);

	return p ? p->term : 0;
}

int journal_read(struct journal *j, uint32_t shard, uint64_t index,
		 struct entry **out, struct err *e)
{
	const struct jplace *p = jindex_place(&j->shards[shard], index);
	struct entry *en;
	struct jr r;
	size_t got;
	int rv;

	if (!p)
		return err_set(e, ERR_NOT_FOUND,
			       "shard %u: entry %" PRIu64 " is not in the "
			       "journal",
			       shard, index);
	en = entry_new(shard, p->len);
	rv = j->disk->ops->pread(j->files[p->file].file, en->rec, en->rec_len,
				 p->off, &got, e);
	if (!rv && (got != en->rec_len || jr_get(&r, en->rec, got) ||
		    r.shard != shard || r.index != index ||
		    r.term != p->term || r.len != p->len))
		rv = err_set(e, ERR_DAMAGED,
			     "journal file %08u at %" PRIu64
			     ": entry %" PRIu64 " of shard %u is damaged",
			     j->files[p->file].number, p->off, index, shard);
	if (rv) {
		entry_unref(en);
		return rv;
	}
	en->term = r.term;
	en->index = index;
	*out = en;
	return 0;
}

void journal_hold(struct journal *j, uint32_t shard, uint64_t index)
{
	j->shards[shard].hold = index;
}

void journal_stats(const struct journal *j, struct journal_stats *out)
{
	uint32_t i;

	*out = j->stats;
	out->files = j->n_files;
	out->queued_bytes = j->q_bytes;
	out->files_used = 0;
	for (i = 0; i < j->n_files; i++)
		out->files_used += j->files[i].use != 0;
}

int journal_open(struct journal **out, struct disk *disk, struct clock *clock,
		 const struct journal_config *cfg, journal_fatal_cb fatal_cb,
		 void *fatal_arg, struct err *e)
{
	struct journal *j = xcalloc(1, sizeof *j);
	uint32_t s;
	int rv;

	AN(cfg->file_size % JF_BLOCK == 0 && cfg->file_size >= 8 * JF_HEADER);
	j->disk = disk;
	j->clock = clock;
	j->cfg = *cfg;
	j->fatal = fatal_cb;
	j->fatal_arg = fatal_arg;
	j->q_tail = &j->q_head;
	j->cur = NONE;
	j->idle_at_us = UINT64_MAX;
	j->grow_left = UINT64_MAX;
	j->next_group = 1;
	for (s = 0; s < JOURNAL_SHARDS_MAX; s++) {
		j->shards[s].hold = UINT64_MAX;
		j->shards[s].s.first_index = 1;
	}
	rv = disk->ops->mkdir(disk, JOURNAL_DIR, e);
	if (!rv)
		rv = journal_scan(j, e);
	jring_count_free(j);
	if (!rv && !j->n_files)
		rv = jring_first(j, e);
	if (rv) {
		journal_close(j);
		return rv;
	}
	*out = j;
	return 0;
}

void journal_close(struct journal *j)
{
	uint32_t i;

	j->closing = true;
	while (j->q_head) { /* stalled, or a simulated crash */
		struct journal_req *r = j->q_head;
		unsigned k;

		j->q_head = jreq_priv(r)->next;
		for (k = 0; k < r->n_entries; k++)
			entry_unref(jreq_priv(r)->entries[k]);
		free(jreq_priv(r)->entries);
	}
	while (j->w_head) {
		struct journal_req *r = j->w_head;
		unsigned k;

		j->w_head = jreq_priv(r)->next;
		for (k = 0; k < r->n_entries; k++)
			entry_unref(jreq_priv(r)->entries[k]);
		free(jreq_priv(r)->entries);
	}
	if (j->grown)
		j->disk->ops->close(j->grown);
	if (j->gone.file)
		j->disk->ops->close(j->gone.file);
	free(j->gone.last);
	for (i = 0; i < j->n_files; i++) {
		if (j->files[i].file)
			j->disk->ops->close(j->files[i].file);
		free(j->files[i].last);
	}
	for (i = 0; i < JOURNAL_SHARDS_MAX; i++)
		free(j->shards[i].at);
	buf_release(&j->scratch);
	free(j->iov);
	free(j->held_off);
	free(j);
}
