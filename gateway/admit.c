#include "gateway/admit.h"
#include "base/alloc.h"
#include "base/hash.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

void admit_init(struct admit *a, uint64_t seed)
{
	a->buckets = xcalloc(ADMIT_BUCKETS, sizeof *a->buckets);
	a->seed = seed;
}

void admit_release(struct admit *a)
{
	free(a->buckets);
	a->buckets = NULL;
}

/* The address as far as one subscriber owns it: IPv4 whole, IPv6 its /64. */
static bool address(const struct sockaddr *sa, uint8_t out[8])
{
	memset(out, 0, 8);
	if (sa->sa_family == AF_INET) {
		struct sockaddr_in in;

		memcpy(&in, sa, sizeof in);
		memcpy(out, &in.sin_addr, 4);
		out[4] = 4;
		return out[0] != 127;
	}
	if (sa->sa_family == AF_INET6) {
		struct sockaddr_in6 in;

		memcpy(&in, sa, sizeof in);
		if (IN6_IS_ADDR_LOOPBACK(&in.sin6_addr))
			return false;
		if (IN6_IS_ADDR_V4MAPPED(&in.sin6_addr)) {
			memcpy(out, in.sin6_addr.s6_addr + 12, 4);
			out[4] = 4;
			return out[0] != 127;
		}
		memcpy(out, &in.sin6_addr, 8);
		return true;
	}
	return false;
}

bool admit_connect(struct admit *a, const struct sockaddr *sa, uint64_t now_ms)
{
	uint8_t bytes[16];
	struct admit_bucket *b;
	uint64_t key, more;

	if (!address(sa, bytes))
		return true;
	memcpy(bytes + 8, &a->seed, 8);
	key = xxh3(bytes, sizeof bytes) | 1;
	/* Two addresses of one slot push each other out: that errs to the
	 * visitor's side and needs no list to walk. */
	b = &a->buckets[key / 2 % ADMIT_BUCKETS];
	if (b->key != key) {
		b->key = key;
		b->permits = ADMIT_BURST;
		b->at_ms = now_ms;
	}
	more = (now_ms - b->at_ms) * ADMIT_PER_SECOND / 1000;
	if (more) {
		b->permits = more + b->permits > ADMIT_BURST ?
				     ADMIT_BURST : b->permits + (uint32_t)more;
		b->at_ms += more * 1000 / ADMIT_PER_SECOND;
	}
	if (!b->permits)
		return false;
	b->permits--;
	return true;
}
