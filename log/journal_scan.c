/* Recovery of the journal: read all files, find all groups, tell a torn tail from
 * rot, rebuild votes, marks and the index of entries (log-engine 4, 10).
 *
 *  1. every file: header, then groups from boundary to boundary.  Where no valid
 *     group starts, the rest of the file is searched for one of the same use:
 *     there is none behind the end of the log.
 *  2. groups in order of their numbers.  A bad one behind all valid ones is the
 *     torn tail; any other, or a number that is missing, is rot: its shards are
 *     FAULTY unless all it held lies below their marks.
 *  3. records of the valid groups are replayed in order.
 *
 * Nothing is written here, but the end of the log is synced. */
#include "base/alloc.h"
#include "base/assert.h"
#include "base/logf.h"
#include "log/journal_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct found {
	uint64_t group, use, off;
	uint32_t file, length;
	bool bad;              /* header and rows are good, a record is not */
	bool unknown;          /* not even the header */
	bool weak;             /* good, but the file's header is not */
	size_t rec, n_recs;    /* in scan->recs, when it is good */
};

/* What replay needs of a record, so that no byte is read twice. */
struct srec {
	uint64_t term, index, off, vote; /* vote: or incarnation */
	uint32_t shard, len;
	uint8_t type;
};

struct scan {
	struct journal *j;
	struct found *found;
	struct srec *recs;
	size_t n, cap, n_recs, cap_recs;
	struct buf file;       /* the one being looked at */
	uint32_t bad_headers;  /* of files that hold groups */
	/* The newest file header's last indexes, moved by what follows it. */
	uint64_t newest_use, ends[JOURNAL_SHARDS_MAX];
	struct err *e;
};

static void found_add(struct scan *sc, struct found f)
{
	if (sc->n == sc->cap) {
		sc->cap = sc->cap ? 2 * sc->cap : 256;
		sc->found = xrealloc(sc->found, sc->cap * sizeof *sc->found);
	}
	sc->found[sc->n++] = f;
}

static void rec_add(struct scan *sc, const struct jr *r, uint64_t off)
{
	if (sc->n_recs == sc->cap_recs) {
		sc->cap_recs = sc->cap_recs ? 2 * sc->cap_recs : 1024;
		sc->recs = xrealloc(sc->recs, sc->cap_recs * sizeof *sc->recs);
	}
	sc->recs[sc->n_recs++] = (struct srec){
		.term = r->term,
		.index = r->index,
		.off = off,
		.vote = (r->type == JR_VOTE || r->type == JR_INSTALL ||
			 r->type == JR_REPAIR) &&
					r->len == 8
				? get_u64(r->payload)
				: 0,
		.shard = r->shard,
		.len = r->len,
		.type = r->type,
	};
}

static bool records_good(struct scan *sc, const uint8_t *p,
			 const struct jg_header *g, uint64_t off)
{
	uint32_t at = JG_HEADER + (uint32_t)g->rows * JG_ROW;
	size_t before = sc->n_recs;
	unsigned i;

	for (i = 0; i < g->records; i++) {
		struct jr r;

		if (jr_get(&r, p + at, g->length - at) || r.use != g->use) {
			sc->n_recs = before;
			return false;
		}
		rec_add(sc, &r, off + at);
		at += r.total;
	}
	return true;
}

/* All groups of one file's image. */
static void scan_groups(struct scan *sc, uint32_t file, const uint8_t *p,
			uint64_t size, uint64_t use)
{
	uint64_t off = JF_HEADER;
	bool gap = false;
	uint64_t gap_at = 0;

	while (off + JG_HEADER <= size) {
		struct jg_header g;
		int rv = jg_get(&g, p + off, size - off);
		size_t rec = sc->n_recs;
		bool ok;

		if (rv || (use && g.use != use)) {
			/* An older use ends here; or damage, if a group of this
			 * use follows. */
			if (!gap)
				gap_at = off;
			gap = true;
			off += JF_BLOCK;
			continue;
		}
		if (!use)
			use = g.use; /* the header is lost, groups tell */
		if (gap)
			found_add(sc, (struct found){ .group = g.group - 1,
						      .use = use,
						      .off = gap_at,
						      .file = file,
						      .unknown = true });
		gap = false;
		ok = records_good(sc, p + off, &g, off);
		found_add(sc, (struct found){ .group = g.group,
					      .use = use,
					      .off = off,
					      .file = file,
					      .length = g.length,
					      .bad = !ok,
					      .rec = rec,
					      .n_recs = sc->n_recs - rec });
		off += jf_round(g.length);
	}
}

static void header_shards(struct journal *j, const uint8_t *p, uint32_t n)
{
	uint32_t i;

	for (i = 0; i < n; i++) {
		const uint8_t *q = p + JF_SHARDS_AT + (size_t)i * JF_SHARD;
		uint32_t id = get_u32(q);
		struct journal_shard *s;

		if (id >= JOURNAL_SHARDS_MAX)
			continue;
		s = &j->shards[id].s;
		s->present = true;
		/* The newest statement wins; terms and marks only rise. */
		if (get_u64(q + 8) > s->term ||
		    (get_u64(q + 8) == s->term && get_u64(q + 16))) {
			s->term = get_u64(q + 8);
			s->vote = get_u64(q + 16);
		}
		/* Marks are of an incarnation: one that began with nothing has
		 * lower ones. */
		if (get_u32(q + 4) < s->incarnation)
			continue;
		if (get_u32(q + 4) > s->incarnation ||
		    get_u64(q + 40) > s->mark_index) {
			s->incarnation = get_u32(q + 4);
			s->mark_index = get_u64(q + 40);
			s->mark_term = get_u64(q + 48);
		}
	}
}

static int file_read(struct scan *sc, struct jfile *f, uint64_t *size)
{
	struct disk *d = sc->j->disk;
	size_t got;
	int rv = d->ops->size(f->file, size, sc->e);

	if (rv)
		return rv;
	buf_clear(&sc->file);
	buf_reserve(&sc->file, *size + JF_HEADER);
	rv = d->ops->pread(f->file, sc->file.data, *size, 0, &got, sc->e);
	if (!rv && got != *size)
		rv = err_set(sc->e, ERR_IO, "short read");
	/* A file cut short has a header of zeros all the same. */
	if (!rv)
		memset(sc->file.data + *size, 0, JF_HEADER);
	return rv;
}

static int scan_file(struct scan *sc, uint32_t i)
{
	struct journal *j = sc->j;
	struct jfile *f = &j->files[i];
	struct jf_header h = { 0 };
	size_t before = sc->n;
	uint64_t size;
	uint8_t *p;
	int rv = file_read(sc, f, &size);

	if (rv)
		return err_wrap(sc->e, "journal file %08u", f->number);
	p = sc->file.data;
	rv = jf_get_header(&h, p);
	if (rv == ERR_VERSION) {
		uint32_t version = get_u32(p + 8);

		return err_set(sc->e, ERR_VERSION,
			       "journal file %08u has a newer format (version "
			       "%u, this program knows %u); nothing was changed",
			       f->number, version, JF_VERSION);
	}
	if (!rv) {
		if (memcmp(h.cluster_id, j->cfg.cluster_id, 16) ||
		    h.node_id != j->cfg.node_id) {
			return err_set(sc->e, ERR_CONFIG,
				       "journal file %08u belongs to node %" PRIu64
				       " of another cluster or node",
				       f->number, h.node_id);
		}
		header_shards(j, p, h.n_shards);
	}
	scan_groups(sc, i, p, size, h.use);
	/* A use counts from its first group on, which is written together with
	 * the header. */
	f->use = sc->n > before ? sc->found[sc->n - 1].use : 0;
	if (h.use >= j->next_use)
		j->next_use = h.use + 1;
	if (f->use >= j->next_use)
		j->next_use = f->use + 1;
	if (!rv || !f->use)
		return 0;
	log_event(LOG_WARN, "journal_header_bad", "file=%08u", f->number);
	sc->bad_headers += sc->n > before + 1;
	for (; before < sc->n; before++)
		sc->found[before].weak = true;
	return 0;
}

static int rank(const struct found *f)
{
	return f->unknown ? 3 : f->bad ? 2 : f->weak;
}

static int by_group(const void *a, const void *b)
{
	const struct found *x = a, *y = b;

	if (x->group != y->group)
		return x->group < y->group ? -1 : 1;
	return rank(x) - rank(y);
}

/* ---- damage --------------------------------------------------------------------- */

static void faulty(struct journal *j, uint32_t shard, uint64_t last,
		   const char *what, uint64_t group)
{
	struct journal_shard *s = &j->shards[shard].s;

	if (last && last <= s->mark_index) {
		log_event(LOG_WARN, "journal_rot_harmless",
			  "shard=%u group=%" PRIu64 " mark=%" PRIu64, shard,
			  group, s->mark_index);
		return;
	}
	if (s->faulty)
		return;
	s->faulty = true;
	snprintf(s->why, sizeof s->why, "journal: %s in group %" PRIu64, what,
		 group);
	log_event(LOG_ERROR, "journal_rot", "shard=%u why=%s", shard,
		  log_quote(s->why));
}

static void faulty_all(struct journal *j, const char *what, uint64_t group)
{
	uint32_t i;

	for (i = 0; i < JOURNAL_SHARDS_MAX; i++)
		faulty(j, i, 0, what, group);
}

/* A group whose rows are good tells whom its damage may hit. */
static void faulty_rows(struct journal *j, const uint8_t *p,
			const struct jg_header *g)
{
	unsigned i;

	for (i = 0; i < g->rows; i++) {
		const uint8_t *row = p + JG_HEADER + i * JG_ROW;

		if (get_u32(row) < JOURNAL_SHARDS_MAX)
			faulty(j, get_u32(row),
			       get_u32(row + 4) ? get_u64(row + 8) : 0,
			       "damaged record", g->group);
	}
}

/* ---- replay ---------------------------------------------------------------------- */

static void replay_record(struct scan *sc, const struct srec *r,
			  const struct found *f)
{
	struct journal *j = sc->j;
	struct jindex *x = &j->shards[r->shard];
	bool newest = f->use == sc->newest_use;
	struct jplace at = { r->term, r->off, f->file, r->len };

	x->s.present = true;
	switch (r->type) {
	case JR_ENTRY:
		jindex_append(x, r->index, &at);
		if (newest)
			sc->ends[r->shard] = r->index;
		if (r->index > j->files[f->file].last[r->shard])
			j->files[f->file].last[r->shard] = r->index;
		break;
	case JR_VOTE:
		if (r->len == 8)
			jindex_vote(x, r->term, r->vote);
		break;
	case JR_TRUNCATE:
		journal_truncated(j, r->shard, r->index);
		if (newest && sc->ends[r->shard] >= r->index)
			sc->ends[r->shard] = r->index - 1;
		break;
	case JR_MARK:
		if (r->index >= x->s.mark_index) {
			x->s.mark_index = r->index;
			x->s.mark_term = r->term;
		}
		break;
	case JR_INSTALL:
		/* One that a later file's header has left behind is history. */
		if (r->len != 8 || r->vote < x->s.incarnation ||
		    r->vote > UINT32_MAX)
			break;
		journal_installed(j, r->shard, (uint32_t)r->vote, r->index,
				  r->term);
		if (newest)
			sc->ends[r->shard] = r->index;
		break;
	case JR_REPAIR:
		if (r->len == 8 && r->vote >= x->s.incarnation &&
		    r->vote <= UINT32_MAX)
			journal_repaired(j, r->shard, (uint32_t)r->vote,
					 r->index, r->term);
		break;
	default:
		break;
	}
}

static int group_read(struct journal *j, const struct found *f, struct buf *b,
		      struct err *e)
{
	size_t got;
	int rv;

	buf_clear(b);
	rv = j->disk->ops->pread(j->files[f->file].file,
				 buf_extend(b, f->length), f->length, f->off,
				 &got, e);
	if (!rv && got != f->length)
		rv = err_set(e, ERR_IO, "short read");
	return rv;
}

/* Marks first: they decide what damage is harmless. */
static int replay(struct scan *sc, size_t n, bool marks)
{
	struct journal *j = sc->j;
	struct buf b = BUF_INIT;
	size_t i, k;
	int rv = 0;

	for (i = 0; i < n && !rv; i++) {
		const struct found *f = &sc->found[i];
		struct jg_header g;

		for (k = 0; k < f->n_recs; k++)
			if (!marks || sc->recs[f->rec + k].type == JR_MARK ||
			    sc->recs[f->rec + k].type == JR_INSTALL ||
			    sc->recs[f->rec + k].type == JR_REPAIR)
				replay_record(sc, &sc->recs[f->rec + k], f);
		if (marks || !f->bad)
			continue;
		rv = group_read(j, f, &b, sc->e);
		if (!rv && !jg_get(&g, b.data, b.len))
			faulty_rows(j, b.data, &g);
	}
	buf_release(&b);
	return rv;
}

/* The remains of torn groups whose numbers were given again: after a crash the
 * next group may go to another file, so that they stay. */
static void drop_torn_before(struct scan *sc)
{
	size_t i, n = 0;

	for (i = 0; i < sc->n; i++)
		if (!n || sc->found[i].group != sc->found[n - 1].group)
			sc->found[n++] = sc->found[i];
	sc->n = n;
}

static bool good(const struct found *f)
{
	return !f->bad && !f->unknown;
}

/* Where the log ends.  The first write of a use is header and group in one: if
 * the log ends with such a group whose header is torn, nothing was promised of
 * either. */
static size_t find_end(struct scan *sc)
{
	size_t i, end = 0, of_file = 0;
	uint32_t file;

	for (i = 0; i < sc->n; i++)
		if (good(&sc->found[i]))
			end = i + 1;
	if (!end || !sc->found[end - 1].weak)
		return end;
	file = sc->found[end - 1].file;
	for (i = 0; i < end; i++)
		of_file += sc->found[i].file == file;
	return of_file == 1 ? end - 1 : end;
}

/* Files of which only a torn tail is left are free. */
static void free_torn(struct scan *sc, size_t end)
{
	size_t i, k;

	for (i = end; i < sc->n; i++) {
		for (k = 0; k < end; k++)
			if (sc->found[k].file == sc->found[i].file)
				break;
		if (k == end)
			sc->j->files[sc->found[i].file].use = 0;
	}
}

/* Do all entries that a group's rows tell of lie at or below the marks? */
static bool below_marks(struct journal *j, const uint8_t *p,
			const struct jg_header *g)
{
	unsigned i;

	for (i = 0; i < g->rows; i++) {
		const uint8_t *row = p + JG_HEADER + i * JG_ROW;
		uint32_t shard = get_u32(row);

		if (shard < JOURNAL_SHARDS_MAX && get_u32(row + 4) &&
		    get_u64(row + 8) > j->shards[shard].s.mark_index)
			return false;
	}
	return true;
}

static void drop_file(struct scan *sc, uint32_t file, size_t *end)
{
	size_t i, n = 0, cut = 0;

	for (i = 0; i < sc->n; i++) {
		cut += i < *end && sc->found[i].file == file;
		if (sc->found[i].file != file)
			sc->found[n++] = sc->found[i];
	}
	sc->n = n;
	*end -= cut;
	sc->j->files[file].use = 0;
}

/* Is the oldest file, that of found[0], only the remains of torn writes?
 *
 * - No group in it is good: a first write that was torn once.  The good group of
 *   its number was written elsewhere, and that file is in a new use by now.
 * - It was about to be used again: the torn write lies over some of its groups,
 *   under its old header, a torn one or the new one.  It was free then: what is
 *   readable in it lies below the marks.
 *
 * Should it be rot after all, entries above the marks that it took away are missed
 * in front of those in later files or by the newest header. */
static int oldest_is_torn(struct scan *sc, size_t end, bool *torn)
{
	struct journal *j = sc->j;
	uint32_t file = sc->found[0].file;
	bool damage = false, below = true, any_good = false;
	struct buf b = BUF_INIT;
	size_t i;
	int rv = 0;

	for (i = 0; i < end && !rv; i++) {
		const struct found *f = &sc->found[i];
		struct jg_header g;

		if (f->file != file)
			continue;
		/* Its last groups may be gone without a trace in the file. */
		damage |= !good(f) || f[1].group > f->group + 1;
		any_good |= good(f);
		if (f->unknown || !below)
			continue;
		rv = group_read(j, f, &b, sc->e);
		below = !rv && !jg_get(&g, b.data, b.len) &&
			below_marks(j, b.data, &g);
	}
	buf_release(&b);
	*torn = !rv && damage && (below || !any_good);
	return rv;
}

static int drop_reused(struct scan *sc, size_t *end)
{
	while (*end && sc->found[0].file != sc->found[*end - 1].file) {
		uint32_t file = sc->found[0].file;
		bool torn;
		int rv = oldest_is_torn(sc, *end, &torn);

		if (rv)
			return rv;
		if (!torn)
			break;
		log_event(LOG_WARN, "journal_torn_reuse", "file=%08u",
			  sc->j->files[file].number);
		drop_file(sc, file, end);
	}
	return 0;
}

static int judge(struct scan *sc)
{
	struct journal *j = sc->j;
	size_t i, end = 0;
	int rv;

	if (sc->n)
		qsort(sc->found, sc->n, sizeof *sc->found, by_group);
	drop_torn_before(sc);
	end = find_end(sc);
	if (end < sc->n) {
		free_torn(sc, end);
		j->stats.torn_tails++;
		log_event(LOG_WARN, "journal_torn_tail",
			  "group=%" PRIu64 " file=%08u offset=%" PRIu64,
			  sc->found[end].group,
			  j->files[sc->found[end].file].number,
			  sc->found[end].off);
	}
	rv = replay(sc, end, true);
	if (!rv)
		rv = drop_reused(sc, &end);
	if (rv)
		return rv;
	for (i = 1; i < end; i++) {
		if (sc->found[i].unknown)
			continue;
		if (sc->found[i].group > sc->found[i - 1].group + 1 ||
		    sc->found[i - 1].unknown)
			faulty_all(j, "a group is missing",
				   sc->found[i].group - 1);
	}
	rv = replay(sc, end, false);
	if (rv)
		return rv;
	/* The log goes on where it ended: the next group takes the place and the
	 * number of a torn one. */
	j->next_group = 1;
	if (end) {
		const struct found *f = &sc->found[end - 1];

		j->next_group = f->group + 1;
		j->cur = f->file;
		j->cur_off = f->off + jf_round(f->length);
		/* A process may have ended between write and sync: what it left
		 * in the page cache is believed now, so it must be durable. */
		rv = j->disk->ops->fdatasync(j->files[j->cur].file, sc->e);
	}
	return rv;
}

/* What the newest header says was there, must be there or below the mark. */
static void check_ends(struct scan *sc)
{
	struct journal *j = sc->j;
	uint32_t i;

	for (i = 0; i < JOURNAL_SHARDS_MAX; i++) {
		struct journal_shard *s = &j->shards[i].s;

		if (sc->ends[i] > s->last_index &&
		    sc->ends[i] > s->mark_index)
			faulty(j, i, 0, "entries end below a file header's "
					"last index",
			       0);
	}
}

struct listing {
	struct journal *j;
	struct err *e;
	int rv;
};

static void on_name(void *arg, const char *name, bool is_dir)
{
	struct listing *l = arg;
	struct journal *j = l->j;
	struct jfile *f;
	char path[64];
	unsigned number;
	int end = 0;

	if (l->rv)
		return;
	if (is_dir || sscanf(name, "%8u.jnl%n", &number, &end) != 1 ||
	    name[end] || j->n_files == JOURNAL_FILES_MAX) {
		log_event(LOG_WARN, "journal_unknown_file", "name=%s",
			  log_quote(name));
		return;
	}
	f = &j->files[j->n_files++];
	f->number = number;
	f->last = xcalloc(JOURNAL_SHARDS_MAX, sizeof *f->last);
	if (number >= j->next_number)
		j->next_number = number + 1;
	snprintf(path, sizeof path, JOURNAL_DIR "/%08u.jnl", number);
	l->rv = j->disk->ops->open(j->disk, path, DISK_WRITE, &f->file, l->e);
}

/* Last indexes of the newest header only: older ones may name what a later
 * truncation took away. */
static int newest_ends(struct scan *sc)
{
	struct journal *j = sc->j;
	uint32_t i, best = UINT32_MAX;
	struct jf_header h;
	uint8_t *p;
	size_t got;
	int rv = 0;

	for (i = 0; i < j->n_files; i++)
		if (j->files[i].use &&
		    (best == UINT32_MAX || j->files[i].use > j->files[best].use))
			best = i;
	if (best == UINT32_MAX)
		return 0;
	sc->newest_use = j->files[best].use;
	p = xmalloc(JF_HEADER);
	rv = j->disk->ops->pread(j->files[best].file, p, JF_HEADER, 0, &got,
				 sc->e);
	if (!rv && got == JF_HEADER && !jf_get_header(&h, p))
		for (i = 0; i < h.n_shards; i++) {
			const uint8_t *q = p + JF_SHARDS_AT + i * JF_SHARD;

			if (get_u32(q) < JOURNAL_SHARDS_MAX)
				sc->ends[get_u32(q)] = get_u64(q + 24);
		}
	free(p);
	return rv;
}

int journal_scan(struct journal *j, struct err *e)
{
	struct listing l = { j, e, 0 };
	struct scan sc = { .j = j, .e = e };
	uint32_t i;
	int rv;

	j->next_use = 1;
	rv = j->disk->ops->list(j->disk, JOURNAL_DIR, on_name, &l, e);
	if (rv || l.rv)
		return rv ? rv : l.rv;
	/* A process may have ended before it synced the name of a new file. */
	rv = j->disk->ops->fsync_dir(j->disk, JOURNAL_DIR, e);
	for (i = 0; i < j->n_files && !rv; i++) {
		rv = scan_file(&sc, i);
		if (j->files[i].use >= j->next_use)
			j->next_use = j->files[i].use + 1;
	}
	if (!rv && sc.bad_headers && sc.bad_headers == j->n_files)
		rv = err_set(e, ERR_DAMAGED,
			     "all %u journal file headers are damaged",
			     sc.bad_headers);
	if (!rv)
		rv = newest_ends(&sc);
	if (!rv)
		rv = judge(&sc);
	if (!rv)
		check_ends(&sc);
	free(sc.found);
	free(sc.recs);
	buf_release(&sc.file);
	return rv;
}
