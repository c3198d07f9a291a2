/* Who may connect, decided before any byte is read: a cap on all sockets and a
 * token bucket per address (protocol.md 12: 200, one more each second). */
#ifndef QUIPU_GATEWAY_ADMIT_H
#define QUIPU_GATEWAY_ADMIT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#define ADMIT_BUCKETS 4096      /* addresses remembered; older ones start anew */
#define ADMIT_BURST 200
#define ADMIT_PER_SECOND 1

struct admit_bucket {
	uint64_t key;           /* hash of the address, 0: free */
	uint64_t at_ms;         /* when `permits` was right */
	uint32_t permits;
};

struct admit {
	struct admit_bucket *buckets;
	uint64_t seed;
};

void admit_init(struct admit *a, uint64_t seed);
void admit_release(struct admit *a);
/* One connect of this address now?  Loopback and unix sockets always may: there
 * the peers are operators, proxies and tests. */
bool admit_connect(struct admit *a, const struct sockaddr *sa, uint64_t now_ms);

#endif
