/* A server's answer to the opening handshake, as a device reads it: in one piece
 * and byte by byte it means the same.  Nothing but the right Sec-WebSocket-Accept
 * opens; "$$" in the input stands for it, so that the search can get there. */
#include "base/assert.h"
#include "base/wire.h"
#include "base/wsframe.h"
#include "client/upgrade.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void start(struct upgrade *u)
{
	struct buf request = BUF_INIT;
	struct rand rand;

	rand_seeded(&rand, 3);
	upgrade_init(u);
	upgrade_request(u, "localhost:80", WIRE_SUBPROTOCOL_CBOR, &rand, &request);
	AN(request.len > 0);
	buf_release(&request);
}

static int feed(const struct buf *in, size_t piece, unsigned *status, size_t *taken)
{
	struct upgrade u;
	struct err e;
	size_t at = 0, n, used;
	int rv = 0;

	start(&u);
	while (rv == 0 && at < in->len) {
		n = in->len - at < piece ? in->len - at : piece;
		used = n;
		rv = upgrade_feed(&u, in->data + at, n, &used,
				  WIRE_SUBPROTOCOL_CBOR, &e);
		AN(used <= n);
		AN(u.head.len <= UPGRADE_HEAD_MAX);
		at += rv == 1 ? used : n;
	}
	AN(rv == 0 || rv == 1 || rv == ERR_PROTOCOL || rv == ERR_UNAVAILABLE);
	*status = rv < 0 ? 0 : u.status;
	*taken = rv == 1 ? at : 0;
	upgrade_release(&u);
	return rv;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct buf in = BUF_INIT;
	struct upgrade u;
	char accept[29];
	unsigned status[2];
	size_t taken[2], i;

	start(&u);
	ws_accept(u.key, strlen(u.key), accept);
	upgrade_release(&u);
	for (i = 0; i < size; i++)
		if (data[i] == '$' && i + 1 < size && data[i + 1] == '$') {
			buf_put(&in, accept, 28);
			i++;
		} else {
			buf_u8(&in, data[i]);
		}
	if (in.len) {
		AN(feed(&in, in.len, &status[0], &taken[0]) ==
		   feed(&in, 1, &status[1], &taken[1]));
		AN(status[0] == status[1] && taken[0] == taken[1]);
	}
	buf_release(&in);
	return 0;
}
