/* The journal's queue: which of the waiting requests make the next group. */
#include "log/journal_impl.h"

#include <stdlib.h>

#define GROUP_BYTES_MAX (8u << 20)

/* Small records of a request: vote, truncation, mark. */
static unsigned small_records(const struct journal_req *r)
{
	return r->has_vote + (r->truncate_from != 0) + r->has_mark +
	       (r->install != 0);
}

uint64_t jqueue_bytes(struct journal_req *r)
{
	uint64_t n = small_records(r) * 64;
	unsigned i;

	for (i = 0; i < r->n_entries; i++)
		n += jreq_priv(r)->entries[i]->rec_len;
	return n;
}

bool jqueue_is_barrier(struct entry *const *entries, unsigned n)
{
	return n == 1 && entries[0]->len == 1;
}

void jqueue_void(struct journal *j, uint32_t shard)
{
	struct journal_req *r;
	unsigned i;

	for (r = j->q_head; r; r = jreq_priv(r)->next) {
		struct jreq_priv *rp = jreq_priv(r);

		if (r->shard != shard)
			continue;
		for (i = 0; i < r->n_entries; i++)
			entry_unref(rp->entries[i]);
		free(rp->entries);
		rp->entries = NULL;
		r->n_entries = 0;
		r->truncate_from = 0;
		j->q_bytes -= rp->bytes;
		rp->bytes = jqueue_bytes(r);
		j->q_bytes += rp->bytes;
	}
}

static uint64_t group_max(const struct journal *j)
{
	uint64_t half = (j->cfg.file_size - JF_HEADER) / 2;

	return half < GROUP_BYTES_MAX ? half : GROUP_BYTES_MAX;
}

uint64_t jqueue_group(const struct journal *j)
{
	uint64_t first = jreq_priv(j->q_head)->bytes, max = group_max(j);
	uint64_t n = j->q_bytes < max ? j->q_bytes : max;

	return n > first ? n : first;
}

struct taking {
	struct journal_req **tail;
	unsigned *records, *small;
	uint64_t bytes;
};

static struct taking take_begin(struct journal *j, unsigned *records,
				unsigned *small)
{
	*records = *small = 0;
	j->w_head = NULL;
	return (struct taking){ &j->w_head, records, small, 0 };
}

/* Out of the queue at *pp, into the group. */
static void take_one(struct journal *j, struct taking *t,
		     struct journal_req **pp)
{
	struct journal_req *r = *pp;
	struct jreq_priv *rp = jreq_priv(r);

	*pp = rp->next;
	if (j->q_tail == &rp->next)
		j->q_tail = pp;
	rp->next = NULL;
	*t->tail = r;
	t->tail = &rp->next;
	t->bytes += rp->bytes;
	*t->records += r->n_entries + small_records(r);
	*t->small += small_records(r);
}

uint64_t jqueue_take(struct journal *j, uint64_t room, unsigned *records,
		     unsigned *small)
{
	struct taking t = take_begin(j, records, small);
	uint64_t max = group_max(j);

	if (room < max)
		max = room;

	while (j->q_head) {
		const struct journal_req *r = j->q_head;
		unsigned n = r->n_entries + small_records(r);

		if (j->w_head &&
		    (t.bytes + jreq_priv(j->q_head)->bytes > max ||
		     *records + n > JG_RECORDS_MAX))
			break;
		take_one(j, &t, &j->q_head);
	}
	return t.bytes;
}

/* It waits for this shard: what it holds of it is above its mark. */
static bool pins(const struct journal *j, uint32_t old, uint32_t shard)
{
	return old != JOURNAL_NO_FILE &&
	       j->files[old].last[shard] > j->shards[shard].s.mark_index;
}

/* How much of the last file a request may take.  Each is a page at the worst, and
 * other shards may vote, mark and install any number of times while one of them pins
 * the oldest file: entries of that one leave the last three sixteenths, votes and
 * barriers of others the last eighth, and all but what that one marks, voids or
 * installs the last sixteenth.  Its votes are of more use than others': with one
 * that waits it answers nobody, and is not even offered the snapshot that would make
 * room. */
static uint64_t small_room(const struct journal *j, uint32_t old,
			   const struct journal_req *r, bool entries)
{
	uint64_t room, keep;

	if (j->cur == JOURNAL_NO_FILE)
		return 0;
	room = j->cfg.file_size - j->cur_off;
	if (entries)
		keep = j->cfg.file_size / 16 * 3;
	else if (r->has_mark || r->install || r->truncate_from)
		keep = pins(j, old, r->shard) ? 0 : j->cfg.file_size / 16;
	else
		keep = pins(j, old, r->shard) ? j->cfg.file_size / 16
					      : j->cfg.file_size / 8;
	return room > keep ? room - keep : 0;
}

bool jqueue_reserve_takes(const struct journal *j, const struct journal_req *r)
{
	uint64_t bytes = JG_HEADER + 2 * JG_ROW + small_records(r) * 64;
	uint32_t old = jring_oldest(j);
	struct journal_req *q;
	unsigned i;

	if (!pins(j, old, r->shard))
		return false;
	for (i = 0; i < r->n_entries; i++)
		bytes += r->entries[i]->rec_len;
	for (q = j->q_head; q; q = jreq_priv(q)->next)
		if (q->shard == r->shard)
			bytes += jreq_priv(q)->bytes;
	return bytes <= small_room(j, old, r, true);
}

bool jqueue_pinned_waits(const struct journal *j)
{
	uint32_t old = jring_oldest(j);
	struct journal_req *r;

	for (r = j->q_head; r; r = jreq_priv(r)->next)
		if (r->n_entries && pins(j, old, r->shard))
			return true;
	return false;
}

uint64_t jqueue_take_small(struct journal *j, unsigned *records,
			   unsigned *small)
{
	struct taking t = take_begin(j, records, small);
	struct journal_req **pp = &j->q_head;
	uint64_t behind[JOURNAL_SHARDS_MAX / 64] = { 0 }; /* bits of shards */
	uint32_t old = jring_oldest(j);
	unsigned rows = 2;

	while (*pp) {
		const struct journal_req *r = *pp;
		uint64_t bit = 1ull << (r->shard & 63);
		bool barrier = jqueue_is_barrier(jreq_priv(*pp)->entries,
						 r->n_entries);
		bool entries = r->n_entries && (!barrier || r->truncate_from);
		bool waits = (entries && !pins(j, old, r->shard)) ||
			     ((r->n_entries || r->truncate_from) &&
			      behind[r->shard / 64] & bit);

		/* Each with a row of its own, at the worst. */
		if (waits ||
		    *records + r->n_entries + small_records(r) > JG_RECORDS_MAX ||
		    JG_HEADER + t.bytes + jreq_priv(*pp)->bytes +
					     rows * JG_ROW >
				     small_room(j, old, r, entries)) {
			behind[r->shard / 64] |= bit;
			pp = &jreq_priv(*pp)->next;
		} else {
			take_one(j, &t, pp);
			rows++;
		}
	}
	return t.bytes;
}
