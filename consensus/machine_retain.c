/* What retention commands do (cmd.h, RETAIN_*).  The leader looks through its segments
 * and says what may go; here it is done, everywhere alike.  Nothing here reads a
 * segment: what a record is worth was found out by the leader, under a policy epoch
 * that must still hold. */
#include "base/assert.h"
#include "base/cursor.h"
#include "consensus/machine_impl.h"

static uint8_t *policy(struct machine *m)
{
	uint32_t len;
	uint8_t *row = row_get(m->store, T_RETAIN, "policy", 6, &len);

	return row ? row : row_put(m->store, T_RETAIN, "policy", 6, POLICY_ROW);
}

static void policy_raise(struct machine *m, enum policy_row field, uint64_t to)
{
	uint8_t *row = policy(m);

	put_u64(row + field, to);
	row_dirty(m->store, row);
}

uint64_t machine_policy(struct machine *m, enum policy_row field)
{
	uint32_t len;
	const uint8_t *row = row_get(m->store, T_RETAIN, "policy", 6, &len);

	return row ? get_u64(row + field) : 0;
}

uint64_t machine_ttl_ms(struct machine *m)
{
	uint64_t ttl = machine_policy(m, P_TTL);

	return ttl ? ttl : TTL_MAX_S * 1000ull;
}

uint64_t machine_retain_epoch(struct machine *m)
{
	return machine_policy(m, P_EPOCH);
}

/* ---- receipts ------------------------------------------------------------------- */

static void receipt_key(uint8_t key[20], uint64_t account, uint32_t device,
			uint64_t id)
{
	account = __builtin_bswap64(account);
	device = __builtin_bswap32(device);
	id = __builtin_bswap64(id);
	memcpy(key, &account, 8);
	memcpy(key + 8, &device, 4);
	memcpy(key + 12, &id, 8);
}

const uint8_t *machine_receipt(struct machine *m, uint64_t account,
			       uint32_t device, uint64_t id)
{
	uint8_t key[20];
	uint32_t len;

	receipt_key(key, account, device, id);
	return row_get(m->store, T_RECEIPT, key, 20, &len);
}

void machine_receipt_drop(struct machine *m, uint64_t account, uint32_t device,
			  uint64_t id)
{
	uint8_t key[20];

	receipt_key(key, account, device, id);
	row_del(m->store, T_RECEIPT, key, 20);
}

bool machine_remembers(struct machine *m, uint64_t account, uint32_t device,
		       uint64_t id, uint64_t offset)
{
	uint8_t key[12];
	uint64_t at, a = __builtin_bswap64(account);
	uint32_t len, d = __builtin_bswap32(device);
	const uint8_t *row;

	memcpy(key, &a, 8);
	memcpy(key + 8, &d, 4);
	row = row_get(m->store, T_DEDUPE, key, 12, &len);
	return row && machine_set_has(row, id, &at) && at == offset;
}

/* Those that the sets still name; the others nobody can ask for any more. */
static int apply_receipts(struct machine *m, const struct cmd_retain *c)
{
	struct cursor in = cursor_of(c->bytes, c->bytes_len);
	struct retain_receipt r;

	if (c->end > store_meta(m->store)->next_offset)
		return ST_BAD_REQUEST;
	while (cursor_left(&in)) {
		uint8_t key[20], *row;

		AZ(retain_receipt_get(&r, &in)); /* it was decoded before */
		if (!machine_remembers(m, r.from, r.device, r.id, r.offset))
			continue;
		receipt_key(key, r.from, r.device, r.id);
		row = row_put(m->store, T_RECEIPT, key, 20, RECEIPT_ROW);
		memcpy(row + R_MID, r.mid, 16);
		put_u64(row + R_LAMPORT, r.lamport);
		put_u64(row + R_STAMP, r.stamp);
		put_u64(row + R_TIME, r.time_ms);
		put_u64(row + R_N, r.n);
	}
	if (c->end > machine_policy(m, P_KEPT))
		policy_raise(m, P_KEPT, c->end);
	m->kept = machine_policy(m, P_KEPT);
	return ST_OK;
}

/* ---- records of what went -------------------------------------------------------- */

static void event(struct machine *m, uint8_t kind, uint64_t account,
		  const uint8_t nonce[16], const uint8_t *payload, uint32_t len)
{
	struct record *rec = &m->recs[m->n_recs];

	memset(rec, 0, sizeof *rec);
	rec->kind = kind;
	rec->offset = store_meta(m->store)->next_offset + m->n_recs;
	rec->time_ms = m->time_ms;
	rec->lamport = machine_clock(m) + 1;
	rec->key = account;
	memcpy(rec->nonce, nonce, 16);
	rec->payload = payload;
	rec->payload_len = len;
	m->n_recs++;
}

/* ---- trim and rewrite --------------------------------------------------------------- */

static int apply_trim(struct machine *m, const struct cmd_retain *c,
		      const uint8_t nonce[16])
{
	if (c->base < store_trimmed(m->store) || c->base >= c->end ||
	    c->end > store_meta(m->store)->next_offset)
		return ST_BAD_REQUEST;
	store_trim(m->store, c->base, c->end, c->end);
	policy_raise(m, P_TRIMS, machine_policy(m, P_TRIMS) + 1);
	/* What the command said, for who asks later why records are missing. */
	event(m, RECORD_TRIM, 0, nonce, c->raw, c->raw_len);
	return ST_OK;
}

static bool next_generation(struct machine *m, const struct cmd_retain *c)
{
	return c->base >= store_trimmed(m->store) && c->base < c->end &&
	       c->end <= store_meta(m->store)->next_offset &&
	       c->gen == store_wanted(m->store, c->base) + 1;
}

static int apply_dead(struct machine *m, const struct cmd_retain *c)
{
	if (!next_generation(m, c) ||
	    (uint64_t)c->block * DEAD_BLOCK >= c->end - c->base)
		return ST_BAD_REQUEST;
	store_dead(m->store, c->base, c->gen, c->block, c->bytes, c->bytes_len);
	return ST_OK;
}

static int apply_want(struct machine *m, const struct cmd_retain *c)
{
	if (!next_generation(m, c))
		return ST_BAD_REQUEST;
	store_want(m->store, c->base, c->end, c->gen);
	return ST_OK;
}

/* ---- policy, hold, erasure ------------------------------------------------------------ */

static int apply_hold(struct machine *m, uint64_t account, bool on)
{
	uint8_t *row = machine_account(m, account);
	uint32_t flags;

	if (!row || get_u32(row + A_FLAGS) & ACCOUNT_ERASED)
		return ST_NOT_FOUND;
	flags = get_u32(row + A_FLAGS) & ~ACCOUNT_HELD;
	put_u32(row + A_FLAGS, on ? flags | ACCOUNT_HELD : flags);
	row_dirty(m->store, row);
	policy_raise(m, P_EPOCH, machine_policy(m, P_EPOCH) + 1);
	return ST_OK;
}

static int apply_erase(struct machine *m, uint64_t account,
		       const uint8_t nonce[16])
{
	uint8_t *row = machine_account(m, account);
	uint32_t devices[DEVICES_MAX];
	unsigned i;

	if (!row)
		return ST_NOT_FOUND;
	if (get_u32(row + A_FLAGS) & ACCOUNT_ERASED)
		return ST_EXISTS;
	if (get_u32(row + A_FLAGS) & ACCOUNT_HELD)
		return ST_HELD;
	for (i = 0; i < DEVICES_MAX; i++) {
		devices[i] = get_u32(row + A_DEVICES + 4 * i);
		put_u32(row + A_DEVICES + 4 * i, 0);
	}
	put_u32(row + A_N_DEVICES, 0);
	put_u32(row + A_LIST, get_u32(row + A_LIST) + 1);
	put_u32(row + A_FLAGS, get_u32(row + A_FLAGS) | ACCOUNT_ERASED);
	row_dirty(m->store, row);
	for (i = 0; i < DEVICES_MAX; i++) {
		uint8_t *d = devices[i] ? machine_device_row(m, account,
							     devices[i])
					: NULL;

		if (!d)
			continue;
		put_u32(d + D_EPOCH, get_u32(d + D_EPOCH) + 1);
		put_u32(d + D_FLAGS, get_u32(d + D_FLAGS) | DEVICE_REMOVED);
		row_dirty(m->store, d);
	}
	m->devices_removed = true;
	m->erased++;
	event(m, RECORD_ERASE, account, nonce, NULL, 0);
	return ST_OK;
}

int machine_apply_retain(struct machine *m, const struct cmd *c,
			 const uint8_t nonce[16])
{
	const struct cmd_retain *r = &c->retain;

	switch (r->op) {
	case RETAIN_TRIM:
	case RETAIN_DEAD:
	case RETAIN_WANT:
		/* Found under rules that have changed meanwhile. */
		if (r->epoch != machine_policy(m, P_EPOCH))
			return ST_SETTLED;
		return r->op == RETAIN_TRIM   ? apply_trim(m, r, nonce)
		       : r->op == RETAIN_DEAD ? apply_dead(m, r)
					      : apply_want(m, r);
	case RETAIN_RECEIPTS:
		return apply_receipts(m, r);
	case RETAIN_ROLL:
		m->roll = true;
		return ST_OK;
	case RETAIN_POLICY:
		policy_raise(m, P_TTL, r->ttl_ms);
		policy_raise(m, P_EPOCH, machine_policy(m, P_EPOCH) + 1);
		return ST_OK;
	case RETAIN_HOLD:
		return apply_hold(m, c->account, r->on);
	case RETAIN_ERASE:
		return apply_erase(m, c->account, nonce);
	}
	return ST_BAD_REQUEST;
}

int machine_floor_by_trim(struct machine *m, uint64_t account, struct err *e)
{
	uint32_t trims = (uint32_t)machine_policy(m, P_TRIMS) << ACCOUNT_TRIMS,
		 flags;
	uint64_t oldest, floor;
	uint8_t *row;
	int rv;

	row = machine_account(m, account);
	flags = get_u32(row + A_FLAGS);
	floor = get_u64(row + A_FLOOR);
	if (flags >> ACCOUNT_TRIMS == trims >> ACCOUNT_TRIMS)
		return 0;
	rv = store_key_oldest(m->store, account, floor + 1, &oldest, e);
	if (rv)
		return rv;
	row = machine_account(m, account);
	put_u32(row + A_FLAGS, (flags & ((1u << ACCOUNT_TRIMS) - 1)) | trims);
	if (oldest - 1 > floor)
		put_u64(row + A_FLOOR, oldest - 1);
	row_dirty(m->store, row);
	return 0;
}

/* ---- for the leader's look ------------------------------------------------------------ */

uint64_t machine_ttl_of(const struct survey_fact *f, uint64_t ttl_ms)
{
	uint64_t own = f->ttl * 1000ull;

	return own && own < ttl_ms ? own : ttl_ms;
}

enum retain_verdict machine_judge(struct machine *m, const struct survey_fact *f,
				  uint64_t now_ms, uint64_t ttl_ms)
{
	const uint8_t *row;
	bool over;

	/* What the log says of itself goes with what it is about. */
	if (!f->n)
		return VERDICT_DEAD;
	over = now_ms > f->time_ms &&
	       now_ms - f->time_ms >= machine_ttl_of(f, ttl_ms);
	row = machine_account(m, f->key);
	if (!row)
		return over ? VERDICT_DEAD : VERDICT_LIVE;
	if (get_u32(row + A_FLAGS) & ACCOUNT_HELD)
		return VERDICT_HELD;
	if (get_u32(row + A_FLAGS) & ACCOUNT_ERASED)
		return VERDICT_ERASED;
	return over || f->n <= get_u64(row + A_FLOOR) ? VERDICT_DEAD
						      : VERDICT_LIVE;
}
