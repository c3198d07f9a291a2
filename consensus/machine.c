/* What each command does, in the order of protocol.md section 6.  Nothing here
 * may differ between replicas: same entries, same bytes. */
#include "consensus/machine_impl.h"
#include "base/assert.h"
#include "base/cursor.h"
#include "base/hash.h"
#include "consensus/feature.h"

/* Keys are big endian, so that rows of one account are neighbours in order. */
static unsigned device_key(uint8_t key[12], uint64_t account, uint32_t device)
{
	uint64_t a = __builtin_bswap64(account);
	uint32_t d = __builtin_bswap32(device);

	memcpy(key, &a, 8);
	memcpy(key + 8, &d, 4);
	return 12;
}

uint8_t *machine_account(struct machine *m, uint64_t account)
{
	uint64_t key = __builtin_bswap64(account);
	uint32_t len;

	return row_get(m->store, T_ACCOUNT, &key, 8, &len);
}

uint8_t *machine_device_row(struct machine *m, uint64_t account,
			    uint32_t device)
{
	uint8_t key[12];
	uint32_t len;

	return row_get(m->store, T_DEVICE, key, device_key(key, account, device),
		       &len);
}

static int apply_account_add(struct machine *m, const struct cmd *c)
{
	uint64_t key = __builtin_bswap64(c->account);
	uint8_t *row = machine_account(m, c->account);

	if (row)
		return ST_EXISTS;
	row = row_put(m->store, T_ACCOUNT, &key, 8, ACCOUNT_ROW);
	put_u32(row + A_NEXT_DEVICE, 1);
	put_u64(row + A_CREATED, m->time_ms);
	return ST_OK;
}

/* The lowest cursor of all devices is what mailbox limits and retention count
 * from.  An account without devices keeps everything. */
static void floor_update(struct machine *m, uint64_t account)
{
	uint8_t *row = machine_account(m, account);
	uint32_t devices[DEVICES_MAX];
	uint64_t floor = UINT64_MAX;
	unsigned i;

	for (i = 0; i < DEVICES_MAX; i++)
		devices[i] = get_u32(row + A_DEVICES + 4 * i);
	for (i = 0; i < DEVICES_MAX; i++) {
		uint8_t *d;

		if (!devices[i])
			continue;
		d = machine_device_row(m, account, devices[i]);
		AN(d);
		if (get_u64(d + D_CURSOR) < floor)
			floor = get_u64(d + D_CURSOR);
	}
	row = machine_account(m, account);
	if (floor != UINT64_MAX && floor > get_u64(row + A_FLOOR)) {
		put_u64(row + A_FLOOR, floor);
		row_dirty(m->store, row);
	}
}

static int apply_device_add(struct machine *m, const struct cmd *c,
			    struct result *r)
{
	uint8_t *row = machine_account(m, c->account), key[12];
	uint32_t number;
	uint64_t start;
	unsigned i;

	if (!row || get_u32(row + A_FLAGS) & ACCOUNT_ERASED)
		return ST_NOT_FOUND;
	for (i = 0; i < DEVICES_MAX; i++)
		if (!get_u32(row + A_DEVICES + 4 * i))
			break;
	if (i == DEVICES_MAX)
		return ST_TOO_MANY_DEVICES;
	number = get_u32(row + A_NEXT_DEVICE);
	/* The first device gets all that waits; a linked one starts at the end
	 * of the inbox, its history comes from another device. */
	start = get_u32(row + A_N_DEVICES) ? get_u64(row + A_LAST_N) : 0;
	put_u32(row + A_DEVICES + 4 * i, number);
	put_u32(row + A_NEXT_DEVICE, number + 1);
	put_u32(row + A_N_DEVICES, get_u32(row + A_N_DEVICES) + 1);
	put_u32(row + A_LIST, get_u32(row + A_LIST) + 1);
	row_dirty(m->store, row);
	row = row_put(m->store, T_DEVICE, key,
		      device_key(key, c->account, number), DEVICE_ROW);
	put_u64(row + D_CURSOR, start);
	put_u64(row + D_CREATED, m->time_ms);
	put_u32(row + D_EPOCH, 1);
	r->device = number;
	r->epoch = 1;
	return ST_OK;
}

static int apply_device_remove(struct machine *m, const struct cmd *c)
{
	uint8_t *row = machine_account(m, c->account), *d;
	unsigned i;

	if (!row)
		return ST_NOT_FOUND;
	for (i = 0; i < DEVICES_MAX; i++)
		if (c->device && get_u32(row + A_DEVICES + 4 * i) == c->device)
			break;
	if (i == DEVICES_MAX)
		return ST_NOT_FOUND;
	put_u32(row + A_DEVICES + 4 * i, 0);
	put_u32(row + A_N_DEVICES, get_u32(row + A_N_DEVICES) - 1);
	put_u32(row + A_LIST, get_u32(row + A_LIST) + 1);
	row_dirty(m->store, row);
	d = machine_device_row(m, c->account, c->device);
	AN(d);
	put_u32(d + D_EPOCH, get_u32(d + D_EPOCH) + 1);
	put_u32(d + D_FLAGS, get_u32(d + D_FLAGS) | DEVICE_REMOVED);
	row_dirty(m->store, d);
	floor_update(m, c->account);
	m->devices_removed = true;
	return ST_OK;
}

static int apply_cursor(struct machine *m, const struct cmd *c)
{
	uint8_t *row = machine_account(m, c->account), *d;

	if (!row)
		return ST_NOT_FOUND;
	if (c->cursor > get_u64(row + A_LAST_N))
		return ST_AHEAD;
	d = machine_device_row(m, c->account, c->device);
	if (!d)
		return ST_NOT_FOUND;
	if (get_u32(d + D_FLAGS) & DEVICE_REMOVED)
		return ST_DEVICE_REMOVED;
	if (c->cursor > get_u64(d + D_CURSOR)) {
		put_u64(d + D_CURSOR, c->cursor);
		row_dirty(m->store, d);
		floor_update(m, c->account);
	}
	return ST_OK;
}

static void feature_put(struct machine *m, uint32_t level)
{
	uint32_t len;
	uint8_t *row = row_get(m->store, T_META, "feature", 7, &len);

	if (!row)
		row = row_put(m->store, T_META, "feature", 7, 8);
	put_u32(row, level);
	row_dirty(m->store, row);
	m->feature_raised = true;
}

static int apply_feature(struct machine *m, const struct cmd *c)
{
	uint32_t len;
	const uint8_t *row;

	if (m->shard != 0)
		return ST_BAD_REQUEST;
	row = row_get(m->store, T_META, "feature", 7, &len);
	if (row && get_u32(row) >= c->level)
		return ST_EXISTS;
	feature_put(m, c->level);
	return ST_OK;
}

static int apply_meta_init(struct machine *m, const struct cmd *c)
{
	uint32_t len, i;
	uint8_t *row;

	if (m->shard != 0)
		return ST_BAD_REQUEST;
	if (row_get(m->store, T_META, "slots", 5, &len))
		return ST_EXISTS;
	row = row_put(m->store, T_META, "slots", 5, 8 + 2 * 16384);
	put_u32(row, 1);
	put_u32(row + 4, c->shards);
	for (i = 0; i < 16384; i++)
		put_u16(row + 8 + 2 * i, (uint16_t)(i % c->shards));
	if (c->level)
		feature_put(m, c->level);
	return ST_OK;
}

/* ---- send ------------------------------------------------------------------ */

struct dup_search {
	struct result *r;
	const struct cmd_send *s;
	bool found, same;
};

static void dup_result(struct dup_search *d, const struct record *rec)
{
	d->found = true;
	d->same = memcmp(rec->mid, d->s->mid, 16) == 0;
	d->r->lamport = rec->flags & RECORD_HAS_ORIGIN ? rec->origin_lamport
						      : rec->lamport;
	d->r->stamp = rec->lamport;
	d->r->offset = rec->offset;
	d->r->time_ms = rec->time_ms;
	d->r->n = rec->n;
	d->r->dup = true;
}

static bool dup_record(void *arg, const struct record *rec)
{
	dup_result(arg, rec);
	return false;
}

/* The first one's ack again; another message under the same number is an error.
 * The first record may still be in this batch. */
static int answer_duplicate(struct machine *m, const struct cmd_send *s,
			    uint64_t offset, struct result *r, struct err *e,
			    int *st)
{
	struct dup_search d = { r, s, false, false };
	uint64_t base = store_meta(m->store)->next_offset;
	int rv;

	m->duplicates++;
	if (offset < store_trimmed(m->store)) {
		const uint8_t *kept = machine_receipt(m, s->from, s->device,
						      s->seq << 1 | s->part);

		if (!kept) {
			*st = ST_SETTLED;
			return 0;
		}
		d.same = memcmp(kept + R_MID, s->mid, 16) == 0;
		r->lamport = get_u64(kept + R_LAMPORT);
		r->stamp = get_u64(kept + R_STAMP);
		r->offset = offset;
		r->time_ms = get_u64(kept + R_TIME);
		r->n = get_u64(kept + R_N);
		r->dup = true;
	} else if (offset >= base) {
		AN(offset - base < m->n_recs);
		dup_result(&d, &m->recs[offset - base]);
	} else {
		rv = store_read(m->store, offset, 1, dup_record, &d, e);
		if (rv)
			return rv;
		if (!d.found)
			return err_set(e, ERR_DAMAGED,
				       "record %llu of a dedupe row is missing",
				       (unsigned long long)offset);
	}
	*st = d.same ? ST_OK : ST_SEQ_CONFLICT;
	return 0;
}

/* Place of (seq, part) in a set of `count` ascending slots: first slot >= it. */
static uint32_t set_place(const uint8_t *set, uint32_t count, uint64_t id)
{
	/* Nearly every send has the highest number yet. */
	uint32_t i = count;

	while (i > 0 && get_u64(set + (i - 1) * DEDUPE_SLOT) >= id)
		i--;
	return i;
}

bool machine_set_has(const uint8_t *row, uint64_t id, uint64_t *offset)
{
	uint32_t count = get_u32(row + U_COUNT);
	const uint8_t *set = row + U_SET;
	uint32_t i = set_place(set, count, id);

	if (i == count || get_u64(set + i * DEDUPE_SLOT) != id)
		return false;
	*offset = get_u64(set + i * DEDUPE_SLOT + 8);
	return true;
}

/* Put (id, offset) in; when full the smallest leaves and raises the floor.  The
 * row grows in powers of two up to DEDUPE_SET_MAX slots. */
static void set_insert(struct machine *m, const struct cmd_send *s,
		       uint8_t *row, uint32_t len, const uint8_t key[12],
		       uint64_t id, uint64_t offset)
{
	uint32_t count = get_u32(row + U_COUNT), i;
	uint64_t gone = 0;
	uint8_t *set;

	if (count == DEDUPE_SET_MAX) {
		uint64_t seq = get_u64(row + U_SET) >> 1;

		if (get_u64(row + U_SET + 8) < m->kept)
			gone = get_u64(row + U_SET);
		if (seq > get_u64(row + U_FLOOR))
			put_u64(row + U_FLOOR, seq);
		memmove(row + U_SET, row + U_SET + DEDUPE_SLOT,
			(count - 1) * DEDUPE_SLOT);
		count--;
	} else if (U_SET + (count + 1) * DEDUPE_SLOT > len) {
		row = row_put(m->store, T_DEDUPE, key, 12,
			      U_SET + 2 * count * DEDUPE_SLOT);
	}
	set = row + U_SET;
	i = set_place(set, count, id);
	memmove(set + (i + 1) * DEDUPE_SLOT, set + i * DEDUPE_SLOT,
		(count - i) * DEDUPE_SLOT);
	put_u64(set + i * DEDUPE_SLOT, id);
	put_u64(set + i * DEDUPE_SLOT + 8, offset);
	put_u32(row + U_COUNT, count + 1);
	row_dirty(m->store, row);
	if (gone)
		machine_receipt_drop(m, s->from, s->device, gone);
}

static uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* The event of an accepted send. */
static struct record *record_add(struct machine *m, const struct cmd_send *s,
				 const uint8_t nonce[16], uint64_t n,
				 uint64_t stamp)
{
	struct record *rec = &m->recs[m->n_recs];

	memset(rec, 0, sizeof *rec);
	rec->kind = s->cls == 2 ? RECORD_RECEIPT : RECORD_MESSAGE;
	rec->cls = s->cls;
	rec->msg_flags = s->flags | (s->part ? 1u : 0u);
	rec->ttl = s->ttl;
	rec->offset = store_meta(m->store)->next_offset + m->n_recs;
	rec->time_ms = m->time_ms;
	rec->lamport = stamp;
	rec->key = s->to;
	rec->n = n;
	rec->sender = s->from;
	rec->device = s->device;
	rec->seq = s->seq;
	rec->after = s->after;
	rec->part = s->part;
	memcpy(rec->mid, s->mid, 16);
	if (s->part) {
		rec->flags = RECORD_HAS_ORIGIN;
		rec->origin_shard = s->origin_shard;
		rec->origin_offset = s->origin_offset;
		rec->origin_lamport = s->origin_lamport;
	}
	rec->headers = s->headers;
	rec->headers_len = s->headers_len;
	memcpy(rec->nonce, nonce, 16);
	rec->payload = s->body;
	rec->payload_len = s->body_len;
	m->n_recs++;
	return rec;
}

uint64_t machine_clock(const struct machine *m)
{
	return m->n_recs ? m->recs[m->n_recs - 1].lamport
			 : store_meta(m->store)->clock;
}

/* What a sender may say to have seen.  Time is the batch's, which never falls, so
 * replicas agree; a young clock of the wall stands in nobody's way. */
static uint64_t lamport_limit(const struct machine *m, uint64_t clock)
{
	uint64_t by_time = m->time_ms < LAMPORT_MAX / LAMPORT_PER_MS
				   ? m->time_ms * LAMPORT_PER_MS
				   : LAMPORT_MAX;
	uint64_t limit = max_u64(by_time, CLOCK_SKEW_MAX);

	if (limit > clock + CLOCK_SKEW_MAX)
		limit = clock + CLOCK_SKEW_MAX;
	return max_u64(limit, clock);
}

static bool mailbox_full(const uint8_t *row)
{
	return get_u64(row + A_LAST_N) - get_u64(row + A_FLOOR) >=
	       MAILBOX_RECORDS_MAX;
}

static int apply_send(struct machine *m, const struct cmd_send *s,
		      const uint8_t nonce[16], struct result *r, struct err *e,
		      int *st)
{
	uint64_t id = s->seq << 1 | s->part, offset, clock, stamp, n = 0;
	uint8_t key[12], *account, *row;
	struct record *rec;
	uint32_t len = 0;

	account = machine_account(m, s->to);
	if (!account) { /* 1 */
		*st = ST_UNKNOWN_RECIPIENT;
		return 0;
	}
	device_key(key, s->from, s->device);
	row = row_get(m->store, T_DEDUPE, key, 12, &len);
	if (row) {
		uint64_t floor = get_u64(row + U_FLOOR);

		if (machine_set_has(row, id, &offset)) /* 2 */
			return answer_duplicate(m, s, offset, r, e, st);
		if (s->seq <= floor) { /* 3 */
			*st = ST_SETTLED;
			return 0;
		}
		if (s->part == 0 && s->after > floor && /* 4 */
		    !machine_set_has(row, s->after << 1, &offset)) {
			*st = ST_GAP;
			return 0;
		}
	} else if (s->part == 0 && s->after) {
		*st = ST_GAP;
		return 0;
	}
	clock = machine_clock(m);
	stamp = max_u64(max_u64(clock, s->seen),
			s->part ? s->origin_lamport : 0) + 1;
	if (stamp - 1 > lamport_limit(m, clock) || stamp > LAMPORT_MAX) {
		*st = ST_CLOCK;
		return 0;
	}
	account = machine_account(m, s->to);
	if (get_u32(account + A_FLAGS) & ACCOUNT_ERASED) {
		*st = ST_UNKNOWN_RECIPIENT;
		return 0;
	}
	if (s->part == 0 && s->cls && mailbox_full(account)) { /* 7 */
		int rv = machine_floor_by_trim(m, s->to, e);

		if (rv)
			return rv;
		account = machine_account(m, s->to);
		if (mailbox_full(account)) {
			*st = ST_MAILBOX_FULL;
			return 0;
		}
	}
	if (s->cls) { /* a void takes its number and no place in the inbox */
		n = get_u64(account + A_LAST_N) + 1;
		put_u64(account + A_LAST_N, n);
		row_dirty(m->store, account);
	}
	rec = record_add(m, s, nonce, n, stamp);
	if (!row) {
		len = U_SET + 2 * DEDUPE_SLOT;
		row = row_put(m->store, T_DEDUPE, key, 12, len);
	} else {
		row = row_get(m->store, T_DEDUPE, key, 12, &len);
	}
	set_insert(m, s, row, len, key, id, rec->offset);
	r->lamport = s->part ? s->origin_lamport : stamp;
	r->stamp = stamp;
	r->offset = rec->offset;
	r->time_ms = m->time_ms;
	r->n = n;
	*st = ST_OK;
	return 0;
}

static int apply_one(struct machine *m, const uint8_t nonce[16],
		     const uint8_t *p, size_t len, struct result *r,
		     struct err *e)
{
	struct cmd c;
	uint32_t level;
	int rv, st = ST_BAD_REQUEST;

	rv = cmd_decode(&c, p, len, e);
	if (rv) /* never skipped: replicas of other versions would differ */
		return rv;
	level = feature_of_cmd(c.type);
	if (c.level > level)
		level = c.level;
	if (level > (m->feature_max ? m->feature_max : FEATURE_MAX))
		return err_set(e, ERR_VERSION,
			       "command type %d is of feature level %u, which "
			       "this program does not know",
			       (int)c.type, level);
	memset(r, 0, sizeof *r);
	r->shard = m->shard;
	switch (c.type) {
	case CMD_ACCOUNT_ADD:
		st = apply_account_add(m, &c);
		break;
	case CMD_DEVICE_ADD:
		st = apply_device_add(m, &c, r);
		break;
	case CMD_DEVICE_REMOVE:
		st = apply_device_remove(m, &c);
		break;
	case CMD_CURSOR:
		st = apply_cursor(m, &c);
		break;
	case CMD_META_INIT:
		st = apply_meta_init(m, &c);
		break;
	case CMD_SEND:
		rv = apply_send(m, &c.send, nonce, r, e, &st);
		break;
	case CMD_NODE_SET:
		st = machine_apply_node(m, &c.node, r);
		break;
	case CMD_FEATURE:
		st = apply_feature(m, &c);
		break;
	case CMD_RETAIN:
		st = machine_apply_retain(m, &c, nonce);
		break;
	}
	r->status = st;
	m->refused += st != ST_OK;
	return rv;
}

int machine_apply(struct machine *m, struct entry *e, unsigned *n,
		  struct err *err)
{
	struct cursor in = cursor_of(entry_payload(e), e->len);
	uint64_t count;
	unsigned i;
	int rv;

	*n = 0;
	cursor_u8(&in); /* the type byte */
	m->time_ms = max_u64(cursor_u64(&in), store_meta(m->store)->last_time_ms);
	count = cursor_varint(&in);
	m->n_recs = 0;
	m->roll = false;
	m->kept = machine_policy(m, P_KEPT);
	if (in.bad || count > BATCH_RECORDS_MAX)
		return err_set(err, ERR_FORMAT, "batch %llu: bad head",
			       (unsigned long long)e->index);
	for (i = 0; i < count; i++) {
		const uint8_t *nonce = cursor_bytes(&in, 16), *p;
		size_t len;

		p = cursor_lv(&in, CMD_MAX, &len);
		if (!p)
			return err_set(err, ERR_FORMAT, "batch %llu: cut short",
				       (unsigned long long)e->index);
		rv = apply_one(m, nonce, p, len, &m->results[i], err);
		if (rv)
			return err_wrap(err, "shard %u index %llu command %u",
					m->shard, (unsigned long long)e->index,
					i);
	}
	if (!cursor_done(&in))
		return err_set(err, ERR_FORMAT, "batch %llu: trailing bytes",
			       (unsigned long long)e->index);
	*n = (unsigned)count;
	rv = store_append(m->store, e->term, e->index, m->recs, m->n_recs, err);
	return rv || !m->roll ? rv : store_roll(m->store, err);
}

/* ---- queries ---------------------------------------------------------------- */

uint64_t machine_inbox_end(struct machine *m, uint64_t account)
{
	uint8_t *row = machine_account(m, account);

	return row ? get_u64(row + A_LAST_N) : 0;
}

bool machine_device(struct machine *m, uint64_t account, uint32_t device,
		    struct result *r)
{
	uint8_t *d = machine_device_row(m, account, device);

	if (!d)
		return false;
	r->cursor = get_u64(d + D_CURSOR);
	r->epoch = get_u32(d + D_EPOCH);
	return !(get_u32(d + D_FLAGS) & DEVICE_REMOVED);
}

static void query_account(struct machine *m, const struct query *q,
			  struct result *r)
{
	uint8_t *row = machine_account(m, q->account);
	unsigned i;

	if (!row || (get_u32(row + A_FLAGS) & ACCOUNT_ERASED && !q->device)) {
		r->status = ST_NOT_FOUND;
		return;
	}
	r->inbox_end = get_u64(row + A_LAST_N);
	r->inbox_oldest = 1;
	r->n_devices = get_u32(row + A_N_DEVICES);
	for (i = 0; i < DEVICES_MAX; i++) {
		uint32_t d = get_u32(row + A_DEVICES + 4 * i);

		if (d && d <= 32)
			r->devices |= 1u << (d - 1);
	}
	if (q->device && !machine_device(m, q->account, q->device, r))
		r->status = r->epoch ? ST_DEVICE_REMOVED : ST_NOT_FOUND;
}

struct page {
	struct result *r;
	struct buf *out;
};

static bool page_record(void *arg, const struct record *rec)
{
	struct page *pg = arg;

	record_put_wire(pg->out, rec);
	pg->r->n_records++;
	pg->r->next = rec->n;
	return pg->out->len < RESULT_RECORDS_MAX - 2 * RECORD_PAYLOAD_MAX;
}

/* The oldest number that is kept, exactly when the device (or who asks for `from`)
 * has not got there yet. */
static int query_oldest(struct machine *m, const struct query *q,
			struct result *r, struct err *e)
{
	uint64_t from = q->from ? q->from : q->device ? r->cursor + 1 : 0;

	return r->status ? 0
			 : store_key_oldest(m->store, q->account, from,
					    &r->inbox_oldest, e);
}

int machine_query(struct machine *m, const struct query *q, struct result *r,
		  struct buf *records, struct err *e)
{
	struct page pg = { r, records };
	uint32_t limit = q->limit ? q->limit : 100;
	size_t bytes = q->max_bytes ? q->max_bytes : QUERY_BYTES_MAX;
	uint64_t oldest = 1;
	int rv = 0;

	memset(r, 0, sizeof *r);
	r->shard = m->shard;
	buf_clear(records);
	if (q->type == QUERY_NODES) {
		machine_query_nodes(m, r, records);
		return store_check(m->store, e);
	}
	if (q->type == QUERY_MARK) {
		r->n = store_meta(m->store)->applied_index;
		r->lamport = store_meta(m->store)->clock;
		r->offset = store_meta(m->store)->next_offset;
		return store_check(m->store, e);
	}
	query_account(m, q, r);
	rv = store_check(m->store, e);
	if (!rv && q->type == QUERY_ACCOUNT)
		rv = query_oldest(m, q, r, e);
	if (rv || q->type == QUERY_ACCOUNT || r->status)
		return rv;
	if (!q->back) {
		uint64_t from = q->from ? q->from : 1;

		/* What is gone is told, and the page starts behind it. */
		if (from <= r->inbox_end)
			rv = store_read_key(m->store, q->account, from, limit,
					    bytes, page_record, &pg, &oldest, e);
		if (rv == ERR_TRUNCATED) {
			r->inbox_oldest = from = oldest;
			rv = from <= r->inbox_end
				     ? store_read_key(m->store, q->account, from,
						      limit, bytes, page_record,
						      &pg, &oldest, e)
				     : 0;
		}
		if (!r->n_records)
			r->next = from - 1;
		r->next++;
		r->complete = r->next > r->inbox_end;
	} else {
		rv = store_read_key_back(m->store, q->account, q->from, limit,
					 bytes, page_record, &pg, &oldest, e);
		if (rv == ERR_TRUNCATED) {
			r->inbox_oldest = oldest;
			rv = 0;
		}
		r->complete = r->n_records == 0 || r->next <= oldest;
	}
	r->records = records->data;
	r->records_len = records->len;
	return rv ? rv : store_check(m->store, e);
}
