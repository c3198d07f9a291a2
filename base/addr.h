/* "host:port" as people write it: "127.0.0.1:8080", "[::1]:8080",
 * "node-2.example:7001".  Text only; nothing is resolved here. */
#ifndef QUIPU_BASE_ADDR_H
#define QUIPU_BASE_ADDR_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define ADDR_HOST_MAX 256 /* with the zero at its end */

struct addr {
	char host[ADDR_HOST_MAX]; /* without brackets */
	uint16_t port;
};

/* ERR_CONFIG with the reason.  Port 0 is good (the system chooses one). */
int addr_parse(struct addr *a, const char *text, struct err *e);
/* 127/8, ::1 or "localhost" */
bool addr_is_loopback(const struct addr *a);

#endif
