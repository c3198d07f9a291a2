/* One send as bytes, for docs/message.md: compiled and run by tools/dev/gen-docs, so
 * that the page shows what the code makes.  The values are those of protocol.md's
 * example where it has them. */
#include "base/buf.h"
#include "consensus/cmd.h"
#include "consensus/group.h"
#include "log/frame.h"

#include <stdio.h>
#include <string.h>

static void hex(const char *what, const uint8_t *p, size_t n)
{
	size_t i;

	printf("%-22s", what);
	for (i = 0; i < n; i++) {
		if (i && i % 20 == 0)
			printf("\n%-22s", "");
		printf("%02x", p[i]);
		if (i % 4 == 3 && i + 1 < n && i % 20 != 19)
			printf(" ");
	}
	printf("\n");
}

int main(void)
{
	static const uint8_t mid[16] = { 0x60, 0x7c, 0xea, 0xd6, 0x65, 0x41, 0x4c, 0xad,
					 0x9c, 0xd3, 0x2d, 0x6f, 0x4b, 0x59, 0xf7, 0x5f };
	static const char body[] = "hello";
	struct cmd c = { .type = CMD_SEND };
	struct buf cmd = BUF_INIT, batch = BUF_INIT, raw = BUF_INIT, frame = BUF_INIT;
	struct frame f = { .term = 3, .index = 42, .base = 7 };
	uint8_t leaf[32], chain[32] = { 0 }, nonce[16];
	struct record r = { .kind = RECORD_MESSAGE, .cls = 1, .offset = 7, .n = 4 };

	memset(nonce, 0xaa, sizeof nonce);
	c.send.to = 0x4f0c9a1be2d37715;
	c.send.from = 0x11d3f00000000001;
	c.send.device = 1;
	c.send.cls = 1;
	c.send.seq = 1007;
	c.send.after = 1006;
	c.send.seen = 88213;
	c.send.ttl = 604800;
	memcpy(c.send.mid, mid, 16);
	c.send.body = (const uint8_t *)body;
	c.send.body_len = 5;
	cmd_encode(&cmd, &c);
	hex("command", cmd.data, cmd.len);

	buf_u8(&batch, GROUP_COMMAND);
	buf_u64(&batch, 1767225600000);
	buf_varint(&batch, 1);
	buf_put(&batch, nonce, 16);
	buf_lv(&batch, cmd.data, cmd.len);
	printf("\n");
	hex("entry payload", batch.data, batch.len);

	r.time_ms = 1767225600000;
	r.lamport = 88214;
	r.key = c.send.to;
	r.sender = c.send.from;
	r.device = 1;
	r.seq = c.send.seq;
	r.after = c.send.after;
	r.ttl = c.send.ttl;
	memcpy(r.mid, mid, 16);
	memcpy(r.nonce, nonce, 16);
	r.payload = c.send.body;
	r.payload_len = 5;
	frame_body(&raw, &r, 1, leaf);
	printf("\n");
	hex("record", raw.data, raw.len);
	hex("leaf", leaf, 32);
	frame_encode(&frame, &f, &raw, &r, 1, leaf, chain);
	printf("\n");
	hex("frame header", frame.data, FRAME_HEADER);
	printf("\ncommand %zu bytes, entry %zu, record %zu, frame %zu\n", cmd.len,
	       batch.len, raw.len, frame.len);
	buf_release(&cmd);
	buf_release(&batch);
	buf_release(&raw);
	buf_release(&frame);
	return 0;
}
