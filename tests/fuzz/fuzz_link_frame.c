/* The bytes of a link between nodes: frames out of a stream, the hello of each. */
#include "base/assert.h"
#include "base/cursor.h"
#include "consensus/link_impl.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void hello(const uint8_t *p, size_t n)
{
	struct buf out = BUF_INIT;
	struct link_hello h;
	struct err e;
	int rv = link_hello_get(&h, p, n, &e);

	AN(rv == 0 || rv == ERR_PERM || rv == ERR_VERSION || rv == ERR_PROTOCOL);
	if (rv == 0) {
		link_hello_put(&out, &h);
		AN(out.len == LINK_FRAME_HEADER + n);
		AN(memcmp(out.data + LINK_FRAME_HEADER, p, n) == 0);
	} else {
		size_t i;

		for (i = 0; e.msg[i]; i++) /* goes to the log: no control bytes */
			AN(e.msg[i] >= ' ' && e.msg[i] <= '~');
		AN(i > 0);
	}
	buf_release(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *msg;
	size_t at = 0, len, used;
	int rv;

	do {
		rv = link_frame_next(data + at, size - at, LINK_HELLO_MAX, &msg,
				     &len, &used);
		AN(rv == 0 || rv == ERR_AGAIN || rv == ERR_TOO_LARGE);
		if (rv == 0) {
			AN(used == len + LINK_FRAME_HEADER && used <= size - at);
			AN(msg == data + at + LINK_FRAME_HEADER);
			AN(len <= LINK_HELLO_MAX);
			hello(msg, len);
			at += used;
		}
	} while (rv == 0);
	return 0;
}
