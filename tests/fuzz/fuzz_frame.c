/* Frames of a segment file.  A checksum would hide everything behind it from the
 * search, so a first byte with its lowest bit set has them mended: that is a file
 * whose writer was broken, not the disk. */
#include "base/assert.h"
#include "base/bytes.h"
#include "log/frame.h"
#include "log/rewrite.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void mend(uint8_t *p, size_t n)
{
	uint32_t stored;

	if (n < FRAME_HEADER)
		return;
	memcpy(p, "QFR1", 4);
	stored = get_u32(p + 20);
	if (stored <= n - FRAME_HEADER)
		put_u64(p + 24, xxh3(p + FRAME_HEADER, stored));
	put_u32(p + 4, (uint32_t)xxh3(p + 8, FRAME_HEADER - 8));
}

/* Records of a sound frame are written again as they lay there, and with stubs for
 * some of them they keep root and chain. */
static void again(const struct frame *f, const uint8_t *head, const struct buf *raw,
		  struct record *recs, unsigned n)
{
	static const uint8_t zero[SHA256_LEN], dead[8] = { 0xa5, 0x5a, 0xff, 0, 0x11 };
	uint8_t *leaves = malloc((size_t)n * SHA256_LEN);
	struct buf body = BUF_INIT, sound = BUF_INIT, out = BUF_INIT;
	struct frame_rewriter fr = { 0 };
	struct frame g, made;

	AN(leaves);
	if (recs[0].lamport != f->lamport_first || recs[0].time_ms != f->time_ms)
		goto out;
	frame_body(&body, recs, n, leaves);
	AN(body.len == raw->len);
	AN(memcmp(body.data, raw->data, raw->len) == 0);
	/* As it is, its root and chain are most likely wrong. */
	if (frame_rewrite(&fr, &out, f, head, raw, zero, dead, 0, &made))
		AN(!out.len);
	g = *f;
	frame_encode(&sound, &g, raw, recs, n, leaves, zero);
	buf_clear(&out);
	AZ(frame_rewrite(&fr, &out, &g, sound.data, raw, zero, dead, 0, &made));
	AZ(memcmp(out.data + 32, sound.data + 32, FRAME_HEADER - 32));
	AZ(frame_header(&g, out.data, out.len));
	AZ(frame_unpack(&g, out.data, &body));
	buf_clear(&sound);
	buf_put(&sound, out.data, FRAME_HEADER);
	buf_clear(&out);
	AZ(frame_rewrite(&fr, &out, &g, sound.data, &body, zero, dead, 0, &made));
out:
	frame_rewriter_release(&fr);
	buf_release(&body);
	buf_release(&sound);
	buf_release(&out);
	free(leaves);
}

static void walk(const struct frame *f, const uint8_t *head, const struct buf *raw)
{
	enum { KEPT_MAX = 64 };
	struct record recs[KEPT_MAX], r;
	struct frame_iter it;
	unsigned n = 0;
	int rv;

	frame_iter_init(&it, f, raw);
	while ((rv = frame_next(&it, &r)) == 1) {
		AN(r.offset == f->base + n);
		if (n < KEPT_MAX)
			recs[n] = r;
		n++;
	}
	AN(rv == 0 || rv == ERR_DAMAGED);
	if (rv == 0)
		AN(n == f->count);
	if (rv == 0 && n > 0 && n <= KEPT_MAX)
		again(f, head, raw, recs, n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t zero[SHA256_LEN];
	struct buf raw = BUF_INIT;
	struct frame f;
	uint8_t *p;
	size_t n;

	if (size < 1)
		return 0;
	n = size - 1;
	p = malloc(n ? n : 1);
	AN(p);
	memcpy(p, data + 1, n);
	if (data[0] & 1)
		mend(p, n);
	if (frame_header(&f, p, n) == 0) {
		AN(f.stored_len <= f.raw_len && f.raw_len <= FRAME_RAW_MAX);
		AN(f.length % 8 == 0 && f.length >= FRAME_HEADER + f.stored_len);
		frame_follows(p, zero);
		if (f.length <= n && frame_unpack(&f, p, &raw) == 0) {
			AN(raw.len == f.raw_len);
			walk(&f, p, &raw);
		}
	}
	buf_release(&raw);
	free(p);
	return 0;
}
