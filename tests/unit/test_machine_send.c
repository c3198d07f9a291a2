/* What becomes of a send, rule by rule (protocol.md 6, 7, 8). */
#include "tests/unit/machine_world.h"

/* ---- section 6: the checks, by number --------------------------------------------- */

static void test_1_unknown_recipient(void **state)
{
	struct result r;

	(void)state;
	r = one(send_seq(1));
	assert_int_equal(r.status, ST_UNKNOWN_RECIPIENT);
	assert_int_equal(n_records(), 0);
	assert_int_equal(shard_clock(), 0);
	/* Refused, so the number is still free. */
	people();
	r = one(send_seq(1));
	assert_int_equal(r.status, ST_OK);
	assert_false(r.dup);
}

static void test_2_retry_gets_the_first_ack(void **state)
{
	struct result first, r;
	struct cmd c = send_seq(1);

	(void)state;
	people();
	w->time_ms = 5000;
	first = one(c);
	assert_int_equal(first.status, ST_OK);
	assert_false(first.dup);
	assert_int_equal(first.n, 1);
	assert_int_equal(first.time_ms, 5000);
	assert_int_equal(first.shard, 7);
	w->time_ms = 6000;
	/* What else the retry says does not matter: seen moves between tries. */
	c.send.seen = 77;
	c.send.body_len = 2;
	r = one(c);
	same_ack(&r, &first);
	assert_int_equal(n_records(), 1);
	assert_int_equal(shard_clock(), first.stamp);
	/* Also when the rows come from the disk, and the record from a segment. */
	checkpoint();
	restart(true);
	r = one(c);
	same_ack(&r, &first);
	assert_int_equal(n_records(), 1);
}

static void test_2_retry_inside_one_batch(void **state)
{
	struct cmd c = send_seq(1), other = send_seq(2);

	(void)state;
	people();
	add(&c);
	add(&other);
	add(&c);
	batch();
	same_ack(&results[2], &results[0]);
	assert_int_equal(results[1].n, 2);
	assert_int_equal(n_records(), 2);
}

static void test_2_number_used_for_another_message(void **state)
{
	struct cmd c = send_seq(1);

	(void)state;
	people();
	assert_int_equal(one(c).status, ST_OK);
	c.send.mid[15] ^= 1;
	assert_int_equal(one(c).status, ST_SEQ_CONFLICT);
	assert_int_equal(n_records(), 1);
	/* Another device of the same account has numbers of its own. */
	c.send.device = 2;
	assert_int_equal(one(c).status, ST_OK);
	assert_int_equal(n_records(), 2);
}

static void test_2_comes_before_the_mailbox_and_the_clock(void **state)
{
	struct result first, r;
	struct cmd c = send_seq(1);

	(void)state;
	people();
	first = one(c);
	c.send.seen = CLOCK_SKEW_MAX * 8;
	c.send.after = 0;
	r = one(c);
	same_ack(&r, &first);
}

static void test_3_settled_below_the_floor(void **state)
{
	uint64_t seq;
	struct result r;

	(void)state;
	people();
	for (seq = 1; seq <= DEDUPE_SET_MAX; seq++)
		assert_int_equal(one(send_seq(seq)).status, ST_OK);
	r = one(send_seq(1)); /* the set is full, nobody has left it */
	assert_true(r.dup);
	assert_int_equal(one(send_seq(seq)).status, ST_OK); /* 1 leaves */
	r = one(send_seq(1));
	assert_int_equal(r.status, ST_SETTLED);
	assert_false(r.dup);
	r = one(send_seq(2));
	assert_true(r.dup);
	assert_int_equal(n_records(), DEDUPE_SET_MAX + 1);
	/* 3 before 4: a settled number is not a gap. */
	assert_int_equal(one(send_after(1, 0)).status, ST_SETTLED);
	checkpoint();
	restart(false);
	assert_int_equal(one(send_seq(1)).status, ST_SETTLED);
	assert_true(one(send_seq(2)).dup);
}

static void test_3_the_floor_lives_as_long_as_the_device(void **state)
{
	uint64_t seq;

	(void)state;
	people();
	for (seq = 1; seq <= DEDUPE_SET_MAX + 5; seq++)
		assert_int_equal(one(send_seq(seq)).status, ST_OK);
	w->time_ms += 365ull * 86400 * 1000; /* no window of time */
	assert_int_equal(one(device_remove(ALICE, 1)).status, ST_OK);
	assert_int_equal(one(send_seq(5)).status, ST_SETTLED);
	assert_true(one(send_seq(6)).dup);
}

static void test_7_the_set_keeps_the_newest_out_of_order(void **state)
{
	uint64_t seq;

	(void)state;
	people();
	/* Odd numbers, downwards; then the even ones between them, upwards: what
	 * leaves is always the lowest. */
	for (seq = 2 * DEDUPE_SET_MAX - 1; seq < UINT64_MAX; seq -= 2)
		assert_int_equal(one(send_after(seq, 0)).status, ST_OK);
	for (seq = 2; seq <= 20; seq += 2) {
		uint64_t floor = seq == 2 ? 0 : seq / 2 - 1;
		struct result r = one(send_after(seq, 0));

		/* By then the floor is 1, 2, 3 .. : the even ones stand above it
		 * until it has passed them. */
		assert_int_equal(r.status, seq <= floor ? ST_SETTLED : ST_OK);
		assert_false(r.dup);
		r = one(send_after(seq / 2, 0));
		assert_int_equal(r.status, ST_SETTLED);
		if (seq > 2)
			assert_true(one(send_after(seq, 0)).dup);
	}
	assert_true(one(send_after(2 * DEDUPE_SET_MAX - 1, 0)).dup);
}

static void test_7_parts_are_two_members_of_the_set(void **state)
{
	struct cmd own = own_copy(1, 9), c = send_after(1, 0);
	struct result first, r;

	(void)state;
	people();
	c.send.to = ALICE; /* a message to oneself: both parts in one shard */
	first = one(c);
	assert_int_equal(first.status, ST_OK);
	r = one(own);
	assert_int_equal(r.status, ST_OK);
	assert_false(r.dup);
	assert_int_equal(n_records(), 2);
	assert_int_equal(r.n, 2);
	r = one(c);
	same_ack(&r, &first);
}

static void test_4_gap(void **state)
{
	uint64_t seq;

	(void)state;
	people();
	/* Nothing of this device was ever written here. */
	assert_int_equal(one(send_after(5, 4)).status, ST_GAP);
	assert_int_equal(one(send_after(5, 0)).status, ST_OK);
	assert_int_equal(one(send_after(7, 6)).status, ST_GAP);
	/* Refused twice is refused: 7 does not stand in for 6. */
	assert_int_equal(one(send_after(8, 7)).status, ST_GAP);
	assert_int_equal(one(send_after(7, 5)).status, ST_OK);
	assert_int_equal(one(send_after(8, 7)).status, ST_OK);
	assert_int_equal(n_records(), 3);
	/* Whatever lies at or below the floor has been. */
	for (seq = 9; seq < 9 + DEDUPE_SET_MAX; seq++)
		assert_int_equal(one(send_after(seq, seq - 1)).status, ST_OK);
	assert_int_equal(one(send_after(100, 6)).status, ST_OK);
	assert_int_equal(one(send_after(102, 101)).status, ST_GAP);
}

static void test_4_counts_only_the_recipients_record(void **state)
{
	struct cmd c = send_after(2, 1), own = own_copy(1, 5);

	(void)state;
	people();
	assert_int_equal(one(own).status, ST_OK); /* itself is not asked for `after` */
	assert_int_equal(one(c).status, ST_GAP);  /* and does not answer for it */
	own = own_copy(3, 6);
	own.send.after = 2;
	assert_int_equal(one(own).status, ST_OK);
}

static void test_4_in_one_batch(void **state)
{
	struct cmd a = send_seq(1), b = send_seq(2), d = send_after(4, 3);

	(void)state;
	people();
	add(&a);
	add(&b);
	add(&d);
	batch();
	assert_int_equal(results[0].status, ST_OK);
	assert_int_equal(results[1].status, ST_OK);
	assert_int_equal(results[2].status, ST_GAP);
	assert_int_equal(n_records(), 2);
	assert_int_equal(results[1].offset, results[0].offset + 1);
}

static void fill_mailbox(void)
{
	uint64_t seq = 0;

	while (seq < MAILBOX_RECORDS_MAX) {
		do {
			struct cmd c = send_seq(++seq);

			add(&c);
		} while (seq < MAILBOX_RECORDS_MAX && w->n_batch < BATCH_RECORDS_MAX);
		batch();
		assert_int_equal(results[0].status, ST_OK);
	}
}

static void test_7_mailbox_limit(void **state)
{
	enum { LAST = MAILBOX_RECORDS_MAX };
	struct cmd c, own = own_copy(1, 4);
	struct result r;

	(void)state;
	people();
	fill_mailbox();
	assert_int_equal(account_of(BOB, 0).inbox_end, LAST);
	c = send_seq(LAST + 1);
	assert_int_equal(one(c).status, ST_MAILBOX_FULL);
	assert_int_equal(n_records(), LAST);
	/* A retry of what is in is no new record; nor does a full mailbox stand in
	 * the way of a void, of an own copy or of another account. */
	r = one(send_seq(LAST));
	assert_int_equal(r.status, ST_OK);
	assert_true(r.dup);
	own.send.to = own.send.from = BOB;
	assert_int_equal(one(own).n, LAST + 1);
	c.send.cls = 0;
	assert_int_equal(one(c).status, ST_OK);
	c = send_after(LAST + 2, 0);
	c.send.to = ALICE;
	assert_int_equal(one(c).status, ST_OK);
	/* Room for one: what was acknowledged by every device. */
	assert_int_equal(one(cursor_to(BOB, 1, 2)).status, ST_OK);
	assert_int_equal(one(send_after(LAST + 3, 0)).status, ST_OK);
	assert_int_equal(one(send_after(LAST + 4, 0)).status, ST_MAILBOX_FULL);
	/* A second device that reads nothing holds the room. */
	assert_int_equal(one(device_add(BOB)).device, 2);
	assert_int_equal(one(cursor_to(BOB, 1, 50)).status, ST_OK);
	assert_int_equal(one(send_after(LAST + 5, 0)).status, ST_OK);
	assert_int_equal(one(cursor_to(BOB, 1, LAST + 1)).status, ST_OK);
	assert_int_equal(one(send_after(LAST + 6, 0)).status, ST_OK);
}

static void test_refused_leaves_no_event(void **state)
{
	struct cmd c[4] = { send_seq(1), send_after(9, 8), send_seq(1), send_seq(2) };
	struct buf before = BUF_INIT, after = BUF_INIT;
	struct result r;
	uint64_t clock;
	unsigned i;

	(void)state;
	people();
	assert_int_equal(one(send_seq(1)).status, ST_OK);
	r = account_of(BOB, 1);
	result_encode(&before, &r);
	clock = shard_clock();
	c[0].send.to = NOBODY;
	c[2].send.mid[0] ^= 1;
	c[3].send.seen = clock + CLOCK_SKEW_MAX + 1;
	for (i = 0; i < 4; i++)
		add(&c[i]);
	batch();
	assert_int_equal(results[0].status, ST_UNKNOWN_RECIPIENT);
	assert_int_equal(results[1].status, ST_GAP);
	assert_int_equal(results[2].status, ST_SEQ_CONFLICT);
	assert_int_equal(results[3].status, ST_CLOCK);
	assert_int_equal(n_records(), 1);
	assert_int_equal(shard_clock(), clock);
	assert_int_equal(w->m.n_recs, 0);
	r = account_of(BOB, 1);
	result_encode(&after, &r);
	assert_int_equal(before.len, after.len);
	assert_memory_equal(before.data, after.data, after.len);
	buf_release(&before);
	buf_release(&after);
	assert_int_equal(store_meta(w->m.store)->applied_index, w->last);
	c[3].send.seen = 0; /* the number is as free as before */
	assert_int_equal(one(c[3]).status, ST_OK);
}

static void test_void_takes_the_number_away(void **state)
{
	struct cmd c = send_seq(1), nothing = c;
	struct result r;

	(void)state;
	people();
	nothing.send.cls = 0;
	nothing.send.body_len = 0;
	r = one(nothing);
	assert_int_equal(r.status, ST_OK);
	assert_false(r.dup);
	assert_int_equal(r.n, 0);
	assert_int_equal(account_of(BOB, 0).inbox_end, 0);
	assert_int_equal(n_records(), 1); /* provable all the same */
	assert_int_equal(record_at(0).cls, 0);
	/* The late duplicate of the message finds its number taken. */
	r = one(c);
	assert_int_equal(r.status, ST_OK);
	assert_true(r.dup);
	assert_int_equal(r.n, 0);
	assert_int_equal(account_of(BOB, 0).inbox_end, 0);
	/* What comes after the void is no gap. */
	assert_int_equal(one(send_seq(2)).n, 1);
}

static void test_void_after_the_message_shows_it(void **state)
{
	struct result first, r;
	struct cmd c = send_seq(1);

	(void)state;
	people();
	first = one(c);
	c.send.cls = 0;
	c.send.body_len = 0;
	r = one(c);
	same_ack(&r, &first);
	assert_int_equal(n_records(), 1);
	/* Checks 1 to 4 hold for a void too. */
	c = send_after(9, 8);
	c.send.cls = 0;
	assert_int_equal(one(c).status, ST_GAP);
	c.send.after = 0;
	c.send.to = NOBODY;
	assert_int_equal(one(c).status, ST_UNKNOWN_RECIPIENT);
}

/* ---- section 8: numbers of order, time -------------------------------------------- */

static void test_8_stamp_is_above_the_clock_and_what_was_seen(void **state)
{
	struct cmd c = send_seq(1);
	struct result r;

	(void)state;
	people();
	r = one(c);
	assert_int_equal(r.stamp, 1);
	assert_int_equal(r.lamport, 1);
	c = send_seq(2);
	c.send.seen = 500;
	r = one(c);
	assert_int_equal(r.stamp, 501);
	assert_int_equal(r.lamport, 501);
	c = send_seq(3);
	c.send.seen = 20; /* older than the shard's clock */
	assert_int_equal(one(c).stamp, 502);
	assert_int_equal(shard_clock(), 502);
	assert_int_equal(record_at(2).lamport, 502);
}

static void test_8_every_record_of_a_batch_is_above_the_last(void **state)
{
	struct cmd c[3] = { send_seq(1), send_seq(2), send_seq(3) };
	unsigned i;

	(void)state;
	people();
	c[1].send.seen = 100;
	for (i = 0; i < 3; i++)
		add(&c[i]);
	batch();
	assert_int_equal(results[0].stamp, 1);
	assert_int_equal(results[1].stamp, 101);
	assert_int_equal(results[2].stamp, 102);
	checkpoint();
	restart(true);
	assert_int_equal(one(send_seq(4)).stamp, 103);
}

static void test_8_nobody_pushes_the_clock_to_its_end(void **state)
{
	struct cmd c = send_seq(1), own = own_copy(2, 0);
	struct result r;

	(void)state;
	people();
	c.send.seen = CLOCK_SKEW_MAX + 1;
	assert_int_equal(one(c).status, ST_CLOCK);
	assert_int_equal(shard_clock(), 0);
	own.send.origin_lamport = CLOCK_SKEW_MAX + 1;
	assert_int_equal(one(own).status, ST_CLOCK);
	assert_int_equal(n_records(), 0);
	c.send.seen = CLOCK_SKEW_MAX;
	r = one(c);
	assert_int_equal(r.status, ST_OK);
	assert_int_equal(r.stamp, CLOCK_SKEW_MAX + 1);
	/* In 1970 the shard's time allows no more. */
	own.send.origin_lamport = CLOCK_SKEW_MAX + 2;
	assert_int_equal(one(own).status, ST_CLOCK);
	w->time_ms = 2 * CLOCK_SKEW_MAX / LAMPORT_PER_MS;
	own.send.origin_lamport = 2 * CLOCK_SKEW_MAX + 1;
	assert_int_equal(one(own).status, ST_CLOCK);
	own.send.origin_lamport = 2 * CLOCK_SKEW_MAX;
	assert_int_equal(one(own).status, ST_OK);
}

static void test_8_the_largest_number_is_out_of_reach(void **state)
{
	uint64_t seq, limit;
	struct cmd c;

	(void)state;
	people();
	w->time_ms = 1800000000000; /* 2027 */
	limit = w->time_ms * LAMPORT_PER_MS;
	/* A sender that takes the largest step each time. */
	for (seq = 1; shard_clock() < limit; seq++) {
		c = send_seq(seq);
		c.send.seen = shard_clock() + CLOCK_SKEW_MAX;
		if (c.send.seen > limit)
			c.send.seen = limit;
		if (seq % 1000 == 1 || c.send.seen == limit) {
			add(&c);
			batch();
			assert_int_equal(results[0].status, ST_OK);
			continue;
		}
		/* The rest of the way without a record of each. */
		store_raise_clock(w->m.store, c.send.seen);
		seq--;
	}
	assert_true(shard_clock() < LAMPORT_MAX / 2);
	c = send_seq(seq);
	c.send.seen = limit + 2;
	assert_int_equal(one(c).status, ST_CLOCK);
	/* Others go on, one by one. */
	c.send.seen = limit;
	assert_int_equal(one(c).stamp, limit + 2);
	c = send_seq(seq + 1);
	c.send.seen = limit + 2; /* above the limit, but it is the shard's clock */
	assert_int_equal(one(c).stamp, limit + 3);
}

static void test_8_own_copy_carries_its_origin(void **state)
{
	struct cmd own = own_copy(1, 700);
	struct record rec;
	struct result r, again;

	(void)state;
	people();
	own.send.seen = 30;
	r = one(own);
	assert_int_equal(r.status, ST_OK);
	assert_int_equal(r.lamport, 700); /* the recipient's shard decided */
	assert_int_equal(r.stamp, 701);
	assert_int_equal(r.n, 1);
	rec = record_at(r.offset);
	assert_int_equal(rec.key, ALICE);
	assert_int_equal(rec.part, 1);
	assert_true(rec.flags & RECORD_HAS_ORIGIN);
	assert_true(rec.msg_flags & 1); /* own copy, protocol.md 3 */
	assert_int_equal(rec.origin_shard, 3);
	assert_int_equal(rec.origin_offset, 500);
	assert_int_equal(rec.origin_lamport, 700);
	again = one(own);
	same_ack(&again, &r);
	/* An origin below the clock does not lower the stamp. */
	own = own_copy(2, 5);
	own.send.seen = 900;
	r = one(own);
	assert_int_equal(r.lamport, 5);
	assert_int_equal(r.stamp, 901);
	assert_int_equal(account_of(ALICE, 0).inbox_end, 2);
}

static void test_time_never_falls(void **state)
{
	(void)state;
	people();
	w->time_ms = 9000;
	assert_int_equal(one(send_seq(1)).time_ms, 9000);
	w->time_ms = 4000; /* the next leader's clock is behind */
	assert_int_equal(one(send_seq(2)).time_ms, 9000);
	checkpoint();
	restart(false);
	w->time_ms = 8999;
	assert_int_equal(one(send_seq(3)).time_ms, 9000);
	assert_int_equal(record_at(2).time_ms, 9000);
	w->time_ms = 9001;
	assert_int_equal(one(send_seq(4)).time_ms, 9001);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(1_unknown_recipient),
		T(2_retry_gets_the_first_ack),
		T(2_retry_inside_one_batch),
		T(2_number_used_for_another_message),
		T(2_comes_before_the_mailbox_and_the_clock),
		T(3_settled_below_the_floor),
		T(3_the_floor_lives_as_long_as_the_device),
		T(7_the_set_keeps_the_newest_out_of_order),
		T(7_parts_are_two_members_of_the_set),
		T(4_gap),
		T(4_counts_only_the_recipients_record),
		T(4_in_one_batch),
		T(7_mailbox_limit),
		T(refused_leaves_no_event),
		T(void_takes_the_number_away),
		T(void_after_the_message_shows_it),
		T(8_stamp_is_above_the_clock_and_what_was_seen),
		T(8_every_record_of_a_batch_is_above_the_last),
		T(8_nobody_pushes_the_clock_to_its_end),
		T(8_the_largest_number_is_out_of_reach),
		T(8_own_copy_carries_its_origin),
		T(time_never_falls),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
