/* The cluster's nodes in the state machine: who may become what, and by whose word. */
#include "tests/unit/machine_world.h"

static int setup_meta(void **state)
{
	(void)state;
	world_new(0);
	return 0;
}

static struct member row_of(uint8_t id)
{
	struct member m;

	if (!machine_node(&w->m, id, &m))
		m = (struct member){ .id = id };
	return m;
}

static uint64_t epoch(void)
{
	uint64_t founders;

	return machine_nodes(&w->m, &founders);
}

static struct result put(enum node_op op, const struct member *m)
{
	struct cmd c = cmd_node_of(op, m);

	return one(c);
}

/* From whatever it is now. */
static int become(uint8_t id, enum place_state to)
{
	struct member m = row_of(id);

	m.state = to;
	return put(NODE_SET, &m).status;
}

static void test_rows(void **state)
{
	struct member m = { .id = 4, .state = PLACE_ACTIVE, .rack = "r-1" };
	struct result r;

	(void)state;
	memcpy(m.address, "node-4.example:7300", 20);
	assert_int_equal(epoch(), 0);
	r = put(NODE_SET, &m);
	assert_int_equal(r.status, ST_OK);
	assert_int_equal(r.n, 1);
	m = row_of(4);
	assert_int_equal(m.version, 1);
	assert_int_equal(m.since_ms, 1000);
	assert_string_equal(m.address, "node-4.example:7300");
	assert_string_equal(m.rack, "r-1");
	assert_false(member_has_disk(&m));
	/* A shorter address leaves nothing of the longer one. */
	w->time_ms = 2000;
	memcpy(m.address, "n4:1", 5);
	m.rack[0] = 0;
	assert_int_equal(put(NODE_SET, &m).n, 2);
	checkpoint();
	restart(true);
	m = row_of(4);
	assert_string_equal(m.address, "n4:1");
	assert_string_equal(m.rack, "");
	assert_int_equal(m.since_ms, 1000); /* the state is the same */
	assert_int_equal(become(4, PLACE_DRAINING), ST_OK);
	assert_int_equal(row_of(4).since_ms, 2000);
	assert_int_equal(epoch(), 3);
	assert_int_equal(n_records(), 0);
}

static void test_two_operators(void **state)
{
	struct member a = { .id = 2, .state = PLACE_ACTIVE }, b;
	struct result r;

	(void)state;
	assert_int_equal(put(NODE_SET, &a).status, ST_OK);
	r = put(NODE_SET, &a); /* both saw no row */
	assert_int_equal(r.status, ST_CHANGED);
	assert_int_equal(r.n, 1);
	a = b = row_of(2);
	a.state = PLACE_DRAINING;
	assert_int_equal(put(NODE_SET, &a).status, ST_OK);
	b.state = PLACE_CORDONED;
	assert_int_equal(put(NODE_SET, &b).status, ST_CHANGED);
	assert_int_equal(row_of(2).state, PLACE_DRAINING);
	/* A row that was ended and made again is another one. */
	b = row_of(2);
	assert_int_equal(become(2, PLACE_LEAVING), ST_OK);
	assert_int_equal(become(2, PLACE_NONE), ST_OK);
	assert_int_equal(become(2, PLACE_ACTIVE), ST_OK);
	assert_int_equal(put(NODE_SET, &b).status, ST_CHANGED);
}

static void test_every_step(void **state)
{
	enum place_state from, to;

	(void)state;
	for (from = PLACE_NONE; from < PLACE_STATES; from++) {
		for (to = PLACE_NONE; to < PLACE_STATES; to++) {
			int want = member_may_become(from, to) ? ST_OK
				   : from ? ST_WRONG_STATE : ST_NOT_FOUND;

			/* A fresh row, in that state. */
			if (row_of(3).state)
				assert_int_equal(become(3, PLACE_GONE), ST_OK);
			if (row_of(3).state)
				assert_int_equal(become(3, PLACE_NONE), ST_OK);
			if (from)
				assert_int_equal(become(3, PLACE_ACTIVE), ST_OK);
			if (from > PLACE_ACTIVE)
				assert_int_equal(become(3, from), ST_OK);
			assert_int_equal(become(3, to), want);
			assert_int_equal(row_of(3).state, want ? from : to);
		}
	}
	assert_false(member_may_become(PLACE_GONE, PLACE_ACTIVE));
	assert_false(member_may_become(PLACE_ACTIVE, PLACE_NONE));
}

static void test_disks(void **state)
{
	struct member m = { .id = 3, .state = PLACE_ACTIVE };

	(void)state;
	assert_int_equal(put(NODE_REPLACE, &m).status, ST_NOT_FOUND);
	assert_int_equal(put(NODE_SET, &m).status, ST_OK);
	m = row_of(3);
	memset(m.disk_id, 'a', 16); /* it says what it has */
	assert_int_equal(put(NODE_SET, &m).status, ST_OK);
	m = row_of(3);
	assert_false(m.replaced);
	memset(m.disk_id, 'b', 16);
	assert_int_equal(put(NODE_SET, &m).status, ST_WRONG_STATE);
	memset(m.disk_id, 0, 16);
	assert_int_equal(put(NODE_SET, &m).status, ST_WRONG_STATE);
	assert_int_equal(put(NODE_REPLACE, &m).status, ST_WRONG_STATE);
	memset(m.disk_id, 'b', 16);
	m.state = PLACE_CORDONED;
	assert_int_equal(put(NODE_REPLACE, &m).status, ST_BAD_REQUEST);
	m.state = PLACE_ACTIVE;
	assert_int_equal(put(NODE_REPLACE, &m).status, ST_OK);
	/* The disk that was given up does not come back. */
	m = row_of(3);
	assert_true(m.replaced);
	assert_memory_equal(m.disk_id, "bbbbbbbbbbbbbbbb", 16);
	memset(m.disk_id, 'a', 16);
	assert_int_equal(put(NODE_REPLACE, &m).status, ST_WRONG_STATE);
	/* Gone is for good, but for another disk. */
	assert_int_equal(become(3, PLACE_GONE), ST_OK);
	assert_int_equal(become(3, PLACE_ACTIVE), ST_WRONG_STATE);
	m = row_of(3);
	m.state = PLACE_ACTIVE;
	assert_int_equal(put(NODE_REPLACE, &m).status, ST_WRONG_STATE);
	memset(m.disk_id, 'c', 16);
	assert_int_equal(put(NODE_REPLACE, &m).status, ST_OK);
	assert_int_equal(row_of(3).state, PLACE_ACTIVE);
}

static void test_successors(void **state)
{
	struct member m;

	(void)state;
	assert_int_equal(become(1, PLACE_ACTIVE), ST_OK);
	assert_int_equal(become(2, PLACE_ACTIVE), ST_OK);
	m = row_of(1);
	m.successor = 2; /* of one that stays */
	assert_int_equal(put(NODE_SET, &m).status, ST_WRONG_STATE);
	m.state = PLACE_LEAVING;
	assert_int_equal(put(NODE_SET, &m).status, ST_OK);
	assert_int_equal(row_of(1).successor, 2);
	m = row_of(1);
	m.successor = 9;
	assert_int_equal(put(NODE_SET, &m).status, ST_WRONG_STATE);
	m.successor = 1;
	assert_int_equal(put(NODE_SET, &m).status, ST_WRONG_STATE);
}

static void test_founders(void **state)
{
	struct member m = { .id = 1, .state = PLACE_ACTIVE };
	uint64_t founders;

	(void)state;
	assert_int_equal(put(NODE_FOUNDER, &m).status, ST_OK);
	assert_int_equal(put(NODE_FOUNDER, &m).status, ST_EXISTS);
	assert_int_equal(become(1, PLACE_GONE), ST_OK);
	assert_int_equal(become(1, PLACE_NONE), ST_OK);
	/* Who was taken off the list does not come back by itself. */
	assert_int_equal(put(NODE_FOUNDER, &m).status, ST_EXISTS);
	assert_int_equal(row_of(1).state, PLACE_NONE);
	/* An operator was faster. */
	m.id = 2;
	assert_int_equal(become(2, PLACE_CORDONED), ST_OK);
	assert_int_equal(put(NODE_FOUNDER, &m).status, ST_EXISTS);
	assert_int_equal(row_of(2).state, PLACE_CORDONED);
	machine_nodes(&w->m, &founders);
	assert_int_equal(founders, 6);
}

static void test_query(void **state)
{
	struct query q = { .type = QUERY_NODES };
	struct buf bytes = BUF_INIT;
	struct cursor in;
	struct result r;
	struct member m;
	struct err e;

	(void)state;
	assert_int_equal(machine_query(&w->m, &q, &r, &bytes, &e), 0);
	assert_int_equal(r.n_records, 0);
	assert_int_equal(r.n, 0);
	assert_int_equal(become(63, PLACE_ACTIVE), ST_OK);
	assert_int_equal(become(5, PLACE_CORDONED), ST_OK);
	assert_int_equal(machine_query(&w->m, &q, &r, &bytes, &e), 0);
	assert_int_equal(r.n_records, 2);
	assert_int_equal(r.n, 2);
	assert_int_equal(r.stamp, 0);
	in = cursor_of(r.records, r.records_len);
	assert_int_equal(member_get(&m, &in), 0);
	assert_int_equal(m.id, 5);
	assert_int_equal(m.state, PLACE_CORDONED);
	assert_int_equal(member_get(&m, &in), 0);
	assert_int_equal(m.id, 63);
	assert_true(cursor_done(&in));
	buf_release(&bytes);
}

static void test_elsewhere(void **state)
{
	struct query q = { .type = QUERY_NODES };
	struct member m = { .id = 1, .state = PLACE_ACTIVE };
	struct buf bytes = BUF_INIT;
	struct result r;
	struct err e;

	(void)state;
	assert_int_equal(put(NODE_SET, &m).status, ST_BAD_REQUEST);
	assert_int_equal(machine_query(&w->m, &q, &r, &bytes, &e), 0);
	assert_int_equal(r.status, ST_BAD_REQUEST);
	buf_release(&bytes);
}

/* docs/message.md */
static void test_bytes(void **state)
{
	static const uint8_t want[] = {
		16, 1, 4, 2, 0, 0xac, 2, /* set node 4 to cordoned, of version 300 */
		'd', 'd', 'd', 'd', 'd', 'd', 'd', 'd', 'd', 'd', 'd', 'd', 'd',
		'd', 'd', 'd', 4, 'n', '4', ':', '1', 2, 'r', '1',
	};
	struct member m = { .id = 4, .state = PLACE_CORDONED, .version = 300,
			    .address = "n4:1", .rack = "r1" };
	struct cmd c = cmd_node_of(NODE_SET, &m), got;
	struct buf b = BUF_INIT;
	struct err e;
	size_t i;

	(void)state;
	memset(m.disk_id, 'd', 16);
	cmd_encode(&b, &c);
	assert_int_equal(b.len, sizeof want);
	assert_memory_equal(b.data, want, sizeof want);
	assert_int_equal(cmd_decode(&got, b.data, b.len, &e), 0);
	assert_int_equal(got.node.expect, 300);
	assert_int_equal(got.node.state, PLACE_CORDONED);
	for (i = 0; i < b.len; i++)
		assert_int_equal(cmd_decode(&got, b.data, i, &e), ERR_FORMAT);
	for (i = 1; i < 5; i++) {
		uint8_t was = b.data[i];

		b.data[i] = 64;
		assert_int_equal(cmd_decode(&got, b.data, b.len, &e), ERR_FORMAT);
		b.data[i] = was;
	}
	b.data[24] = ' ';
	assert_int_equal(cmd_decode(&got, b.data, b.len, &e), ERR_FORMAT);
	buf_release(&b);
}

static void test_words(void **state)
{
	char line[400];

	(void)state;
	memset(line, 'x', sizeof line);
	assert_true(member_address_ok("", 0));
	assert_true(member_address_ok("[::1]:7300", 10));
	assert_false(member_address_ok("a b", 3));
	assert_false(member_address_ok("a\"", 2));
	assert_true(member_address_ok(line, MEMBER_ADDRESS_MAX));
	assert_false(member_address_ok(line, MEMBER_ADDRESS_MAX + 1));
	assert_true(member_rack_ok(line, PLACE_RACK_MAX));
	assert_false(member_rack_ok(line, PLACE_RACK_MAX + 1));
	assert_false(member_rack_ok("a:b", 3));
}

#define ON_META(f) cmocka_unit_test_setup_teardown(f, setup_meta, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_META(test_rows),
		ON_META(test_two_operators),
		ON_META(test_every_step),
		ON_META(test_disks),
		ON_META(test_successors),
		ON_META(test_founders),
		ON_META(test_query),
		cmocka_unit_test_setup_teardown(test_elsewhere, setup, teardown),
		cmocka_unit_test(test_bytes),
		cmocka_unit_test(test_words),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
