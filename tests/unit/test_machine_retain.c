/* Retention in the state machine: what may go, and what is said of it afterwards. */
#include "tests/unit/machine_world.h"

static struct cmd retain(enum retain_op op, uint64_t base, uint64_t end)
{
	struct cmd c = { .type = CMD_RETAIN };

	c.retain.op = op;
	c.retain.base = base;
	c.retain.end = end;
	c.retain.epoch = machine_retain_epoch(&w->m);
	return c;
}

static struct cmd hold(uint64_t account, bool on)
{
	struct cmd c = { .type = CMD_RETAIN, .account = account };

	c.retain.op = RETAIN_HOLD;
	c.retain.on = on;
	return c;
}

static struct cmd erase(uint64_t account)
{
	struct cmd c = { .type = CMD_RETAIN, .account = account };

	c.retain.op = RETAIN_ERASE;
	return c;
}

static struct survey_fact fact_at(uint64_t offset)
{
	struct record r = record_at(offset);
	struct survey_fact f = { .offset = offset, .key = r.key, .n = r.n,
				 .time_ms = r.time_ms, .sender = r.sender,
				 .seq = r.seq, .lamport = r.lamport,
				 .stamp = r.lamport, .device = r.device,
				 .ttl = r.ttl, .content = 16 + r.payload_len };

	memcpy(f.mid, r.mid, 16);
	return f;
}

static enum retain_verdict verdict(uint64_t offset, uint64_t now_ms)
{
	struct survey_fact f = fact_at(offset);

	return machine_judge(&w->m, &f, now_ms, machine_ttl_ms(&w->m));
}

static int code(struct cmd c)
{
	return one(c).status;
}

static void test_what_may_go(void **state)
{
	struct cmd ttl = { .type = CMD_RETAIN };
	uint64_t at, sent_ms;

	(void)state;
	people();
	at = one(send_seq(1)).offset;
	sent_ms = record_at(at).time_ms;
	assert_int_equal(verdict(at, sent_ms), VERDICT_LIVE);
	assert_int_equal(verdict(at, sent_ms + 59999), VERDICT_LIVE);
	assert_int_equal(verdict(at, sent_ms + 60000), VERDICT_DEAD); /* its own */
	ttl.retain.op = RETAIN_POLICY;
	ttl.retain.ttl_ms = 5000;
	assert_int_equal(code(ttl), ST_OK);
	assert_int_equal(verdict(at, sent_ms + 4999), VERDICT_LIVE);
	assert_int_equal(verdict(at, sent_ms + 5000), VERDICT_DEAD);
	/* A hold is stronger than time. */
	assert_int_equal(code(hold(BOB, true)), ST_OK);
	assert_int_equal(verdict(at, sent_ms + 5000), VERDICT_HELD);
	assert_int_equal(code(erase(BOB)), ST_HELD);
	assert_int_equal(code(hold(BOB, false)), ST_OK);
	assert_int_equal(verdict(at, sent_ms), VERDICT_LIVE);
	/* Of two devices the slower one counts. */
	assert_int_equal(code(device_add(BOB)), ST_OK);
	at = one(send_seq(2)).offset;
	assert_int_equal(code(cursor_to(BOB, 1, 2)), ST_OK);
	assert_int_equal(verdict(at, sent_ms), VERDICT_LIVE);
	assert_int_equal(code(cursor_to(BOB, 2, 2)), ST_OK);
	assert_int_equal(verdict(at, sent_ms), VERDICT_DEAD);
	assert_int_equal(code(hold(NOBODY, true)), ST_NOT_FOUND);
}

static void test_a_stale_judgement_does_nothing(void **state)
{
	struct cmd trim;
	uint64_t n;

	(void)state;
	people();
	one(send_seq(1));
	n = n_records();
	trim = retain(RETAIN_TRIM, 0, n);
	assert_int_equal(code(hold(BOB, true)), ST_OK);
	assert_int_equal(code(trim), ST_SETTLED);
	assert_int_equal(store_trimmed(w->m.store), 0);
	assert_int_equal(n_records(), n);
	assert_int_equal(code(retain(RETAIN_TRIM, 0, n + 1)), ST_BAD_REQUEST);
	assert_int_equal(code(retain(RETAIN_TRIM, 0, n)), ST_OK);
	assert_int_equal(store_trimmed(w->m.store), n);
	/* It is an event itself. */
	assert_int_equal(n_records(), n + 1);
	assert_int_equal(record_at(n).kind, RECORD_TRIM);
	assert_int_equal(code(retain(RETAIN_TRIM, 0, n)), ST_BAD_REQUEST);
}

/* Guarantee 2 outlives the record. */
static void test_a_retry_after_the_trim(void **state)
{
	struct retain_receipt rc = { .from = ALICE, .device = 1 };
	struct result first[3], again;
	struct cmd keep, other;
	struct buf b = BUF_INIT;
	uint64_t n, i;

	(void)state;
	people();
	for (i = 0; i < 3; i++)
		first[i] = one(send_seq(i + 1));
	n = n_records();
	for (i = 0; i < 2; i++) {
		struct survey_fact f = fact_at(first[i].offset);

		assert_true(machine_remembers(&w->m, ALICE, 1, f.seq << 1,
					      f.offset));
		rc.id = f.seq << 1;
		rc.offset = f.offset;
		rc.lamport = f.lamport;
		rc.stamp = f.stamp;
		rc.time_ms = f.time_ms;
		rc.n = f.n;
		memcpy(rc.mid, f.mid, 16);
		retain_receipt_put(&b, &rc);
	}
	/* One that nobody can ask for leaves nothing. */
	rc.offset++;
	retain_receipt_put(&b, &rc);
	keep = retain(RETAIN_RECEIPTS, 0, n);
	keep.retain.bytes = b.data;
	keep.retain.bytes_len = (uint32_t)b.len;
	assert_int_equal(code(keep), ST_OK);
	assert_int_equal(code(retain(RETAIN_TRIM, 0, n)), ST_OK);
	checkpoint();
	restart(true);
	for (i = 0; i < 2; i++) {
		again = one(send_seq(i + 1));
		same_ack(&again, &first[i]);
	}
	other = send_seq(1);
	other.send.mid[0] ^= 1;
	assert_int_equal(code(other), ST_SEQ_CONFLICT);
	/* Without a receipt it is known to be there, and no more. */
	assert_int_equal(code(send_seq(3)), ST_SETTLED);
	/* Out of the set, out of the rows. */
	for (i = 4; i < 4 + DEDUPE_SET_MAX; i++)
		assert_int_equal(code(send_after(i, 0)), ST_OK);
	assert_int_equal(code(send_seq(1)), ST_SETTLED);
	buf_release(&b);
}

static void test_an_erased_account(void **state)
{
	struct result r;
	uint64_t at;

	(void)state;
	people();
	at = one(send_seq(1)).offset;
	assert_int_equal(code(erase(BOB)), ST_OK);
	assert_int_equal(verdict(at, 0), VERDICT_ERASED);
	assert_int_equal(record_at(n_records() - 1).kind, RECORD_ERASE);
	assert_int_equal(code(erase(BOB)), ST_EXISTS);
	assert_int_equal(code(hold(BOB, true)), ST_NOT_FOUND);
	assert_int_equal(code(send_seq(2)), ST_UNKNOWN_RECIPIENT);
	/* What was acked before stays so. */
	r = one(send_seq(1));
	assert_int_equal(r.status, ST_OK);
	assert_true(r.dup);
	assert_int_equal(code(device_add(BOB)), ST_NOT_FOUND);
	assert_int_equal(code(account_add(BOB)), ST_EXISTS);
	assert_int_equal(account_of(BOB, 0).status, ST_NOT_FOUND);
	assert_int_equal(account_of(BOB, 1).status, ST_DEVICE_REMOVED);
}

static void test_a_roll_seals(void **state)
{
	struct store_segment g;

	(void)state;
	people();
	one(send_seq(1));
	assert_int_equal(code(retain(RETAIN_ROLL, 0, 0)), ST_OK);
	store_segment_info(w->m.store, 0, &g);
	assert_true(g.sealed);
	assert_int_equal(code(retain(RETAIN_ROLL, 0, 0)), ST_OK);
	one(send_seq(2));
	assert_int_equal(store_segments(w->m.store), 2);
}

static void test_what_a_page_says_after_a_trim(void **state)
{
	struct query q = { .type = QUERY_PAGE, .account = BOB, .from = 1,
			   .limit = 10 };
	struct buf b = BUF_INIT;
	struct result r;
	struct err e;
	uint64_t i, n;

	(void)state;
	people();
	for (i = 1; i <= 3; i++)
		one(send_seq(i));
	assert_int_equal(code(retain(RETAIN_ROLL, 0, 0)), ST_OK);
	n = n_records();
	for (i = 4; i <= 6; i++)
		one(send_seq(i));
	assert_int_equal(code(retain(RETAIN_TRIM, 0, n)), ST_OK);
	assert_int_equal(machine_query(&w->m, &q, &r, &b, &e), 0);
	assert_int_equal(r.inbox_oldest, 4);
	assert_int_equal(r.n_records, 3);
	assert_int_equal(r.next, 7);
	assert_true(r.complete);
	q.back = true;
	q.from = 0;
	assert_int_equal(machine_query(&w->m, &q, &r, &b, &e), 0);
	assert_int_equal(r.inbox_oldest, 4);
	assert_int_equal(r.n_records, 3);
	assert_true(r.complete);
	/* All of it: nothing is left, and that is said too. */
	assert_int_equal(code(retain(RETAIN_ROLL, 0, 0)), ST_OK);
	assert_int_equal(code(retain(RETAIN_TRIM, n, n_records())), ST_OK);
	q.back = false;
	q.from = 2;
	assert_int_equal(machine_query(&w->m, &q, &r, &b, &e), 0);
	assert_int_equal(r.inbox_oldest, 7);
	assert_int_equal(r.n_records, 0);
	assert_int_equal(r.next, 7);
	assert_true(r.complete);
	assert_int_equal(account_of(BOB, 1).inbox_oldest, 7);
	buf_release(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(what_may_go),
		T(a_stale_judgement_does_nothing),
		T(a_retry_after_the_trim),
		T(an_erased_account),
		T(a_roll_seals),
		T(what_a_page_says_after_a_trim),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
