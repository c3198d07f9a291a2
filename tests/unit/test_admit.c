/* Who may connect: a bucket per address, and exceptions for this machine. */
#include "gateway/admit.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
/* after the four headers that it needs */
#include <cmocka.h>

static bool v4(struct admit *a, const char *text, uint64_t now_ms)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(9) };

	assert_int_equal(inet_pton(AF_INET, text, &in.sin_addr), 1);
	return admit_connect(a, (struct sockaddr *)&in, now_ms);
}

static bool v6(struct admit *a, const char *text, uint64_t now_ms)
{
	struct sockaddr_in6 in = { .sin6_family = AF_INET6 };

	assert_int_equal(inet_pton(AF_INET6, text, &in.sin6_addr), 1);
	return admit_connect(a, (struct sockaddr *)&in, now_ms);
}

static void spend(struct admit *a, const char *text, uint64_t now_ms,
		  unsigned n)
{
	while (n--)
		assert_true(strchr(text, ':') ? v6(a, text, now_ms) :
						v4(a, text, now_ms));
}

static void a_burst_is_let_in_and_then_one_a_second(void **state)
{
	struct admit a;

	(void)state;
	admit_init(&a, 1);
	spend(&a, "192.0.2.1", 5000, ADMIT_BURST);
	assert_false(v4(&a, "192.0.2.1", 5000));
	assert_false(v4(&a, "192.0.2.1", 5999));
	assert_true(v4(&a, "192.0.2.1", 6000));
	assert_false(v4(&a, "192.0.2.1", 6000));
	/* Fractions of a permit are not lost: 1.5 s twice are three. */
	assert_true(v4(&a, "192.0.2.1", 7500));
	assert_false(v4(&a, "192.0.2.1", 7500));
	assert_true(v4(&a, "192.0.2.1", 9000));
	assert_true(v4(&a, "192.0.2.1", 9000));
	assert_false(v4(&a, "192.0.2.1", 9000));
	admit_release(&a);
}

static void a_bucket_fills_up_to_its_size(void **state)
{
	struct admit a;

	(void)state;
	admit_init(&a, 2);
	spend(&a, "192.0.2.1", 0, ADMIT_BURST);
	spend(&a, "192.0.2.1", 100000000, ADMIT_BURST);
	assert_false(v4(&a, "192.0.2.1", 100000000));
	admit_release(&a);
}

static void addresses_have_their_own_buckets(void **state)
{
	struct admit a;

	(void)state;
	admit_init(&a, 3);
	spend(&a, "192.0.2.1", 0, ADMIT_BURST);
	assert_false(v4(&a, "192.0.2.1", 0));
	assert_true(v4(&a, "192.0.2.2", 0));
	assert_true(v6(&a, "2001:db8::1", 0));
	admit_release(&a);
}

/* A subscriber owns a /64: its lower half is free to choose. */
static void an_ipv6_network_shares_one_bucket(void **state)
{
	struct admit a;

	(void)state;
	admit_init(&a, 4);
	spend(&a, "2001:db8:0:1::1", 0, ADMIT_BURST - 1);
	assert_true(v6(&a, "2001:db8:0:1:ffff::2", 0));
	assert_false(v6(&a, "2001:db8:0:1::3", 0));
	assert_true(v6(&a, "2001:db8:0:2::1", 0));
	admit_release(&a);
}

static void a_mapped_address_is_the_ipv4_one(void **state)
{
	struct admit a;

	(void)state;
	admit_init(&a, 5);
	spend(&a, "::ffff:192.0.2.1", 0, ADMIT_BURST);
	assert_false(v4(&a, "192.0.2.1", 0));
	admit_release(&a);
}

static void this_machine_always_may(void **state)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	struct admit a;
	unsigned i;

	(void)state;
	admit_init(&a, 6);
	for (i = 0; i < 3 * ADMIT_BURST; i++) {
		assert_true(v4(&a, "127.0.0.1", 0));
		assert_true(v4(&a, "127.1.2.3", 0));
		assert_true(v6(&a, "::1", 0));
		assert_true(v6(&a, "::ffff:127.0.0.1", 0));
		assert_true(admit_connect(&a, (struct sockaddr *)&un, 0));
	}
	admit_release(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_burst_is_let_in_and_then_one_a_second),
		cmocka_unit_test(a_bucket_fills_up_to_its_size),
		cmocka_unit_test(addresses_have_their_own_buckets),
		cmocka_unit_test(an_ipv6_network_shares_one_bucket),
		cmocka_unit_test(a_mapped_address_is_the_ipv4_one),
		cmocka_unit_test(this_machine_always_may),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
