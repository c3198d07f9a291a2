/* The state machine: accounts, devices and cursors, what is no batch, and replay
 * (sends: test_machine_send.c). */
#include "tests/unit/machine_world.h"

/* ---- accounts, devices, cursors --------------------------------------------------- */

static void test_account_add(void **state)
{
	(void)state;
	assert_int_equal(one(account_add(BOB)).status, ST_OK);
	assert_int_equal(one(device_add(BOB)).status, ST_OK);
	assert_int_equal(one(account_add(BOB)).status, ST_EXISTS);
	assert_int_equal(account_of(BOB, 0).n_devices, 1); /* not made anew */
	assert_int_equal(account_of(NOBODY, 0).status, ST_NOT_FOUND);
	assert_int_equal(n_records(), 0);
}

static void test_device_numbers_are_never_given_twice(void **state)
{
	unsigned i;

	(void)state;
	assert_int_equal(one(device_add(BOB)).status, ST_NOT_FOUND);
	assert_int_equal(one(account_add(BOB)).status, ST_OK);
	for (i = 1; i <= DEVICES_MAX; i++) {
		struct result r = one(device_add(BOB));

		assert_int_equal(r.status, ST_OK);
		assert_int_equal(r.device, i);
		assert_int_equal(r.epoch, 1);
	}
	assert_int_equal(one(device_add(BOB)).status, ST_TOO_MANY_DEVICES);
	assert_int_equal(one(device_remove(BOB, 2)).status, ST_OK);
	assert_int_equal(one(device_add(BOB)).device, DEVICES_MAX + 1);
	assert_int_equal(account_of(BOB, 0).devices, 0x7d);
	assert_int_equal(account_of(BOB, 0).n_devices, DEVICES_MAX);
}

static void test_removal_raises_the_epoch(void **state)
{
	struct result r;

	(void)state;
	people();
	assert_int_equal(account_of(BOB, 1).epoch, 1);
	assert_int_equal(account_of(BOB, 1).status, ST_OK);
	assert_int_equal(one(device_remove(BOB, 9)).status, ST_NOT_FOUND);
	assert_int_equal(one(device_remove(BOB, 0)).status, ST_NOT_FOUND);
	assert_int_equal(one(device_remove(NOBODY, 1)).status, ST_NOT_FOUND);
	assert_false(w->m.devices_removed);
	assert_int_equal(one(device_remove(BOB, 1)).status, ST_OK);
	assert_true(w->m.devices_removed);
	r = account_of(BOB, 1);
	assert_int_equal(r.status, ST_DEVICE_REMOVED);
	assert_int_equal(r.epoch, 2);
	assert_int_equal(one(device_remove(BOB, 1)).status, ST_NOT_FOUND);
	assert_int_equal(account_of(BOB, 1).epoch, 2);
	assert_int_equal(account_of(BOB, 7).status, ST_NOT_FOUND);
}

static void test_cursors(void **state)
{
	(void)state;
	people();
	assert_int_equal(one(send_seq(1)).n, 1);
	assert_int_equal(one(send_seq(2)).n, 2);
	/* A linked device begins at the end: its history comes from another. */
	assert_int_equal(one(device_add(BOB)).device, 2);
	assert_int_equal(account_of(BOB, 1).cursor, 0);
	assert_int_equal(account_of(BOB, 2).cursor, 2);

	assert_int_equal(one(cursor_to(BOB, 1, 2)).status, ST_OK);
	assert_int_equal(account_of(BOB, 1).cursor, 2);
	assert_int_equal(one(cursor_to(BOB, 1, 1)).status, ST_OK); /* lower: ignored */
	assert_int_equal(account_of(BOB, 1).cursor, 2);
	assert_int_equal(one(cursor_to(BOB, 1, 3)).status, ST_AHEAD);
	assert_int_equal(account_of(BOB, 1).cursor, 2);
	assert_int_equal(one(cursor_to(BOB, 9, 1)).status, ST_NOT_FOUND);
	assert_int_equal(one(cursor_to(NOBODY, 1, 0)).status, ST_NOT_FOUND);
	assert_int_equal(one(device_remove(BOB, 1)).status, ST_OK);
	assert_int_equal(one(cursor_to(BOB, 1, 2)).status, ST_DEVICE_REMOVED);
	assert_int_equal(n_records(), 2); /* none of this is an event */
	assert_int_equal(shard_clock(), 2);
	checkpoint();
	restart(true);
	assert_int_equal(account_of(BOB, 1).cursor, 2);
	assert_int_equal(account_of(BOB, 1).status, ST_DEVICE_REMOVED);
}

static uint32_t feature_row(void)
{
	uint32_t len;
	const uint8_t *row = row_get(w->m.store, T_META, "feature", 7, &len);

	return row ? get_u32(row) : 0;
}

static void test_feature(void **state)
{
	struct cmd c = { .type = CMD_FEATURE, .level = 2 },
		   init = { .type = CMD_META_INIT, .shards = 4, .level = 2 };
	struct world *other = w;

	(void)state;
	assert_int_equal(one(c).status, ST_BAD_REQUEST); /* shard 7 */
	world_new(0);
	assert_int_equal(one(c).status, ST_OK);
	assert_true(w->m.feature_raised);
	assert_int_equal(one(c).status, ST_EXISTS);
	checkpoint();
	restart(true);
	assert_int_equal(feature_row(), 2);
	world_free(w);
	world_new(0);
	assert_int_equal(one(init).status, ST_OK);
	assert_int_equal(feature_row(), 2);
	assert_int_equal(one(c).status, ST_EXISTS);
	world_free(w);
	w = other;
}

static void test_meta_init(void **state)
{
	struct cmd c = { .type = CMD_META_INIT, .shards = 48 };
	struct world *other = w;
	uint32_t len, i;
	uint8_t *row;

	(void)state;
	assert_int_equal(one(c).status, ST_BAD_REQUEST); /* shard 7 */
	assert_null(row_get(w->m.store, T_META, "slots", 5, &len));
	world_new(0);
	assert_int_equal(one(c).status, ST_OK);
	c.shards = 3;
	assert_int_equal(one(c).status, ST_EXISTS);
	checkpoint();
	restart(true);
	row = row_get(w->m.store, T_META, "slots", 5, &len);
	assert_non_null(row);
	assert_int_equal(len, 8 + 2 * 16384);
	assert_int_equal(get_u32(row), 1);
	assert_int_equal(get_u32(row + 4), 48);
	for (i = 0; i < 16384; i++)
		assert_int_equal(get_u16(row + 8 + 2 * i), i % 48);
	world_free(w);
	w = other;
}

static void test_pages(void **state)
{
	struct query q = { .type = QUERY_PAGE, .account = BOB, .from = 3, .limit = 4 };
	struct buf bytes = BUF_INIT;
	struct cursor in;
	struct record rec;
	struct result r;
	struct err e;
	uint64_t i;

	(void)state;
	people();
	for (i = 1; i <= 10; i++)
		assert_int_equal(one(send_seq(i)).n, i);
	assert_int_equal(machine_query(&w->m, &q, &r, &bytes, &e), 0);
	assert_int_equal(r.n_records, 4);
	assert_int_equal(r.next, 7);
	assert_false(r.complete);
	in = cursor_of(r.records, r.records_len);
	for (i = 3; i < 7; i++) {
		assert_int_equal(record_get_wire(&rec, &in), 0);
		assert_int_equal(rec.n, i);
		assert_int_equal(rec.seq, i);
		assert_int_equal(rec.ttl, 60);
		assert_int_equal(rec.payload_len, 4);
		assert_memory_equal(rec.payload, "body", 4);
	}
	assert_true(cursor_done(&in));
	q.from = 9;
	assert_int_equal(machine_query(&w->m, &q, &r, &bytes, &e), 0);
	assert_int_equal(r.n_records, 2);
	assert_true(r.complete);
	q.from = 11; /* nothing yet */
	assert_int_equal(machine_query(&w->m, &q, &r, &bytes, &e), 0);
	assert_int_equal(r.n_records, 0);
	assert_int_equal(r.next, 11);
	assert_true(r.complete);
	q.back = true;
	q.from = 3;
	assert_int_equal(machine_query(&w->m, &q, &r, &bytes, &e), 0);
	assert_int_equal(r.n_records, 2);
	in = cursor_of(r.records, r.records_len);
	assert_int_equal(record_get_wire(&rec, &in), 0);
	assert_int_equal(rec.n, 2);
	assert_true(r.complete);
	buf_release(&bytes);
}

/* ---- what is no batch ------------------------------------------------------------- */

static void refused_batch(const struct buf *b, const char *why)
{
	struct err e = { 0 };
	uint64_t applied = store_meta(w->m.store)->applied_index;
	unsigned n = 99;

	assert_int_equal(apply_bytes(b, &n, &e), ERR_FORMAT);
	if (!strstr(e.msg, why))
		fail_msg("\"%s\" does not say \"%s\"", e.msg, why);
	assert_int_equal(n, 0);
	/* The replica stops: nothing of it may be in the log. */
	assert_int_equal(store_meta(w->m.store)->applied_index, applied);
	assert_int_equal(n_records(), 0);
}

static void batch_head(struct buf *b, unsigned count)
{
	buf_clear(b);
	buf_u8(b, GROUP_COMMAND);
	buf_u64(b, 1000);
	buf_varint(b, count);
}

static void batch_of_bytes(struct buf *b, const void *p, size_t n)
{
	batch_head(b, 1);
	memset(buf_extend(b, 16), 0, 16);
	buf_lv(b, p, n);
}

static void test_malformed_batches(void **state)
{
	struct cmd good = account_add(NOBODY), c;
	struct buf b = BUF_INIT, one_cmd = BUF_INIT;
	size_t whole, n;

	(void)state;
	people();
	cmd_encode(&one_cmd, &good);
	batch_of_bytes(&b, one_cmd.data, one_cmd.len);
	whole = b.len;
	buf_u8(&b, 0);
	refused_batch(&b, "trailing bytes");
	for (n = 1; n < whole; n++) { /* cut short anywhere */
		b.len = n;
		refused_batch(&b, n < 10 ? "bad head" : "cut short");
	}
	batch_head(&b, BATCH_RECORDS_MAX + 1);
	refused_batch(&b, "bad head");
	batch_of_bytes(&b, "\x09", 1);
	refused_batch(&b, "unknown command type 9");
	batch_of_bytes(&b, "", 0);
	refused_batch(&b, "unknown command type 0");
	batch_of_bytes(&b, one_cmd.data, one_cmd.len - 1);
	refused_batch(&b, "wrong length");
	memset(one_cmd.data + 1, 0, 8);
	batch_of_bytes(&b, one_cmd.data, one_cmd.len);
	refused_batch(&b, "account id 0");
	/* A good command in front of a bad one leaves no event either. */
	batch_head(&b, 2);
	memset(buf_extend(&b, 16), 0, 16);
	c = send_seq(1);
	buf_clear(&one_cmd);
	cmd_encode(&one_cmd, &c);
	buf_lv(&b, one_cmd.data, one_cmd.len);
	memset(buf_extend(&b, 16), 0, 16);
	c.send.after = 1; /* not below seq */
	buf_clear(&one_cmd);
	cmd_encode(&one_cmd, &c);
	buf_lv(&b, one_cmd.data, one_cmd.len);
	refused_batch(&b, "out of range");
	buf_release(&b);
	buf_release(&one_cmd);
}

static void test_malformed_sends(void **state)
{
	struct cmd bad[12];
	struct buf b = BUF_INIT, one_cmd = BUF_INIT;
	unsigned i, n = 0;

	(void)state;
	people();
#define BAD(change) (bad[n] = send_seq(1), bad[n].send.change, n++)
	BAD(to = 0);
	BAD(from = 0);
	BAD(device = 0);
	BAD(seq = 0);
	BAD(part = 2);
	BAD(part = 1); /* to another account */
	BAD(cls = 8);
	BAD(ttl = TTL_MAX_S + 1);
	BAD(seq = 1ull << 53);
	BAD(seen = 1ull << 53);
	BAD(body_len = BODY_MAX + 1);
	BAD(headers_len = RECORD_HEADERS_MAX + 1);
#undef BAD
	for (i = 0; i < n; i++) {
		uint8_t *zero = xcalloc(1, BODY_MAX + 1);

		bad[i].send.body = bad[i].send.headers = zero;
		buf_clear(&one_cmd);
		cmd_encode(&one_cmd, &bad[i]);
		batch_of_bytes(&b, one_cmd.data, one_cmd.len);
		refused_batch(&b, "send: ");
		free(zero);
	}
	buf_release(&b);
	buf_release(&one_cmd);
}

/* ---- replay ----------------------------------------------------------------------- */

static void script(unsigned from, unsigned to, unsigned checkpoint_at, bool crash)
{
	unsigned i;

	for (i = from; i < to; i++) {
		struct cmd c = i % 5 == 4 ? send_after(i / 2 + 1, 0) : send_seq(i + 1);

		c.send.device = 1 + i % 3;
		c.send.after = 0;
		if (i % 7 == 3) {
			c.send.to = c.send.from;
			c.send.part = 1;
			c.send.origin_lamport = i;
		}
		w->time_ms += 10;
		add(&c);
		if (i % 3 == 0)
			continue;
		if (i % 11 == 1) {
			struct cmd d = cursor_to(BOB, 1, i / 4);

			add(&d);
		}
		batch();
		if (i == checkpoint_at)
			checkpoint();
		if (crash && i % 40 == 31)
			restart(i % 80 == 31);
	}
	if (w->n_batch)
		batch();
}

static void facts(uint8_t root[32], struct store_meta *m)
{
	checkpoint(); /* the digest is of the last one */
	store_root(w->m.store, root);
	*m = *store_meta(w->m.store);
}

static void test_replay_gives_equal_rows_and_root(void **state)
{
	uint8_t root[32], root2[32];
	struct store_meta m, m2;
	struct world *first = w;

	(void)state;
	people();
	script(0, 300, UINT32_MAX, false);
	facts(root, &m);
	assert_true(n_records() > 100);
	/* The same entries, with checkpoints elsewhere and two kinds of crash. */
	world_new(7);
	people();
	script(0, 300, 100, true);
	restart(true);
	facts(root2, &m2);
	assert_memory_equal(root, root2, 32);
	assert_int_equal(m.digest, m2.digest);
	assert_memory_equal(m.chain, m2.chain, 32);
	assert_int_equal(m.clock, m2.clock);
	assert_int_equal(m.next_offset, m2.next_offset);
	assert_int_equal(m.last_time_ms, m2.last_time_ms);
	assert_int_equal(m.applied_index, m2.applied_index);
	/* One cursor more on one of them, and the digests part: they do look. */
	assert_int_equal(one(cursor_to(BOB, 1, account_of(BOB, 1).inbox_end)).status,
			 ST_OK);
	facts(root2, &m2);
	assert_memory_equal(root, root2, 32);
	assert_int_not_equal(m.digest, m2.digest);
	world_free(w);
	w = first;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(account_add),
		T(device_numbers_are_never_given_twice),
		T(removal_raises_the_epoch),
		T(cursors),
		T(feature),
		T(meta_init),
		T(pages),
		T(malformed_batches),
		T(malformed_sends),
		T(replay_gives_equal_rows_and_root),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
