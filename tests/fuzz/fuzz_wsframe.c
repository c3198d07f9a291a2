/* RFC 6455 frames: the first byte chooses the side and the size of the pieces, the
 * rest is the stream.  The same stream in one piece and in pieces gives the same
 * messages and the same refusal, and never more memory than the cap. */
#include "base/assert.h"
#include "base/wsframe.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MESSAGE_MAX = 4096 };

static void feed(const uint8_t *data, size_t size, bool server, size_t piece,
		 struct buf *log)
{
	struct ws_message m;
	struct ws_reader r;
	const char *why;
	unsigned code;
	size_t at, take;
	int rv = 0;

	ws_reader_init(&r, server, MESSAGE_MAX);
	for (at = 0; at < size && rv >= 0; at += take) {
		uint8_t *copy, *p;
		size_t n;

		take = size - at < piece ? size - at : piece;
		p = copy = malloc(take);
		AN(p);
		memcpy(p, data + at, take);
		n = take;
		while ((rv = ws_read(&r, &p, &n, &m, &code, &why)) > 0) {
			AN(m.n <= MESSAGE_MAX);
			AN(m.op != WS_TEXT || utf8_valid(m.p, m.n));
			buf_u8(log, (uint8_t)m.op);
			buf_u32(log, m.code);
			buf_lv(log, m.p, m.n);
		}
		AN(rv < 0 || (n == 0 && p == copy + take));
		AN(r.message.len <= MESSAGE_MAX);
		AN(r.part.len <= MESSAGE_MAX + WS_HEADER_MAX);
		free(copy);
	}
	if (rv < 0) {
		AN(code == 1002 || code == 1007 || code == 1009);
		buf_u8(log, 0xff);
		buf_u32(log, code);
	}
	ws_reader_release(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct buf whole = BUF_INIT, pieces = BUF_INIT;

	if (size < 2)
		return 0;
	feed(data + 1, size - 1, data[0] & 1, size, &whole);
	feed(data + 1, size - 1, data[0] & 1, 1u + (data[0] >> 1), &pieces);
	AN(whole.len == pieces.len &&
	   (whole.len == 0 || memcmp(whole.data, pieces.data, whole.len) == 0));
	buf_release(&whole);
	buf_release(&pieces);
	return 0;
}
