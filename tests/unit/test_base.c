/* Buffers, cursors, maps, lists, errors, random: the ground everything stands on. */
#include "base/buf.h"
#include "base/cursor.h"
#include "base/err.h"
#include "base/hash.h"
#include "base/list.h"
#include "base/map.h"
#include "base/rand.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
/* after the four headers that it needs */
#include <cmocka.h>

static void varints_survive_the_round_trip(void **state)
{
	static const uint64_t v[] = { 0,	 1,	      127,
				      128,	 16383,	      16384,
				      UINT32_MAX, 1ull << 53, UINT64_MAX };
	struct buf b = BUF_INIT;
	struct cursor c;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof v / sizeof v[0]; i++)
		buf_varint(&b, v[i]);
	c = cursor_of(b.data, b.len);
	for (i = 0; i < sizeof v / sizeof v[0]; i++)
		assert_true(cursor_varint(&c) == v[i]);
	assert_true(cursor_done(&c));
	buf_release(&b);
}

static void cursor_refuses_long_and_cut_varints(void **state)
{
	static const uint8_t longer[] = { 0x80, 0x00 };
	static const uint8_t over[] = { 0xff, 0xff, 0xff, 0xff, 0xff,
					0xff, 0xff, 0xff, 0xff, 0x02 };
	static const uint8_t cut[] = { 0x80 };
	struct cursor c;

	(void)state;
	c = cursor_of(longer, sizeof longer);
	cursor_varint(&c);
	assert_true(c.bad);
	c = cursor_of(over, sizeof over);
	cursor_varint(&c);
	assert_true(c.bad);
	c = cursor_of(cut, sizeof cut);
	cursor_varint(&c);
	assert_true(c.bad);
}

static void cursor_stays_bad_and_yields_zeros(void **state)
{
	static const uint8_t in[] = { 1, 2, 3 };
	struct cursor c = cursor_of(in, sizeof in);
	size_t n;

	(void)state;
	assert_int_equal(cursor_u8(&c), 1);
	assert_int_equal(cursor_u32(&c), 0);
	assert_true(c.bad);
	assert_int_equal(cursor_u8(&c), 0);
	assert_false(cursor_done(&c));
	c = cursor_of("\x05" "abc", 4);
	assert_null(cursor_lv(&c, 100, &n));
	assert_true(c.bad);
	c = cursor_of("\x03" "abc", 4);
	assert_null(cursor_lv(&c, 2, &n)); /* over the caller's limit */
}

static void map_agrees_with_a_plain_array(void **state)
{
	enum { KEYS = 512 };
	static int there[KEYS];
	uint64_t seed = 7;
	struct rand r;
	struct map m;
	unsigned i, len = 0;

	(void)state;
	rand_seeded(&r, seed);
	map_init(&m);
	for (i = 0; i < 50000; i++) {
		uint64_t k = rand_below(&r, KEYS);

		if (rand_permille(&r, 500)) {
			assert_int_equal(map_put(&m, k * 16384, &there[k]) !=
						 NULL,
					 there[k]);
			len += !there[k];
			there[k] = 1;
		} else {
			assert_int_equal(map_del(&m, k * 16384) != NULL,
					 there[k]);
			len -= there[k];
			there[k] = 0;
		}
		assert_int_equal(m.len, len);
	}
	for (i = 0; i < KEYS; i++)
		assert_int_equal(map_get(&m, i * 16384ull) != NULL, there[i]);
	map_release(&m);
}

static void list_removes_twice_without_harm(void **state)
{
	struct list head, a, b;

	(void)state;
	list_init(&head);
	list_append(&head, &a);
	list_prepend(&head, &b);
	assert_ptr_equal(list_pop(&head), &b);
	list_remove(&a);
	list_remove(&a);
	assert_true(list_empty(&head));
	assert_null(list_pop(&head));
}

static void errors_gather_words_on_the_way_up(void **state)
{
	struct err e = { 0 };

	(void)state;
	assert_int_equal(err_errno(&e, ENOSPC, "write %s", "x.jnl"),
			 ERR_NOSPACE);
	assert_int_equal(err_wrap(&e, "journal"), ERR_NOSPACE);
	assert_string_equal(e.msg,
			    "journal: write x.jnl: No space left on device");
	assert_string_equal(err_name(ERR_NOSPACE), "ERR_NOSPACE");
	assert_string_equal(err_name(12345), "?");
}

static void sha256_of_parts_is_that_of_the_whole(void **state)
{
	/* FIPS 180-4 example "abc" */
	static const uint8_t want[32] = {
		0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41, 0x40,
		0xde, 0x5d, 0xae, 0x22, 0x23, 0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17,
		0x7a, 0x9c, 0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad
	};
	struct hash_part parts[] = { { "a", 1 }, { "", 0 }, { "bc", 2 } };
	uint8_t got[32];

	(void)state;
	sha256("abc", 3, got);
	assert_memory_equal(got, want, 32);
	sha256_parts(parts, 3, got);
	assert_memory_equal(got, want, 32);
	assert_true(xxh3_parts(parts, 3) == xxh3("abc", 3));
}

static void seeded_random_repeats_itself(void **state)
{
	struct rand a, b;
	unsigned i;

	(void)state;
	rand_seeded(&a, 42);
	rand_seeded(&b, 42);
	for (i = 0; i < 100; i++)
		assert_true(rand_u64(&a) == rand_u64(&b));
	rand_seeded(&b, 43);
	assert_false(rand_u64(&a) == rand_u64(&b));
	for (i = 0; i < 1000; i++)
		assert_true(rand_below(&a, 7) < 7);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(varints_survive_the_round_trip),
		cmocka_unit_test(cursor_refuses_long_and_cut_varints),
		cmocka_unit_test(cursor_stays_bad_and_yields_zeros),
		cmocka_unit_test(map_agrees_with_a_plain_array),
		cmocka_unit_test(list_removes_twice_without_harm),
		cmocka_unit_test(errors_gather_words_on_the_way_up),
		cmocka_unit_test(sha256_of_parts_is_that_of_the_whole),
		cmocka_unit_test(seeded_random_repeats_itself),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
