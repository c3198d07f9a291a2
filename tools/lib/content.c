#include "base/bytes.h"
#include "base/hash.h"
#include "tools/lib/content.h"

#include <string.h>

void content_receipt(struct buf *b, enum receipt_kind kind, const uint8_t *mids,
		     unsigned n)
{
	buf_u8(b, (uint8_t)kind);
	buf_put(b, mids, 16u * n);
}

bool content_receipt_parse(const uint8_t *p, size_t n, enum receipt_kind *kind,
			   const uint8_t **mids, unsigned *count)
{
	if (n < 17 || (n - 1) % 16 || (n - 1) / 16 > CONTENT_RECEIPT_MAX ||
	    (p[0] != RECEIPT_DELIVERED && p[0] != RECEIPT_READ))
		return false;
	*kind = p[0];
	*mids = p + 1;
	*count = (unsigned)(n - 1) / 16;
	return true;
}

/* Length of the well-formed character at p (Unicode 3.9, table 3-7); 0: none. */
static unsigned character(const uint8_t *p, size_t n)
{
	unsigned len = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 :
		       p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 0, i;

	if (len == 0 || len > n)
		return 0;
	for (i = 1; i < len; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
	    (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
		return 0;
	return len;
}

/* Also C1 controls (U+0080..9F) and what turns the direction of the line round. */
static bool harmless(const uint8_t *p, unsigned len, bool lines)
{
	if (len == 1)
		return (p[0] >= 0x20 && p[0] != 0x7f) || (lines && p[0] == '\n');
	if (len == 2 && p[0] == 0xc2 && p[1] < 0xa0)
		return false;
	if (len == 3 && p[0] == 0xe2 && p[1] == 0x80 && p[2] >= 0xaa && p[2] <= 0xae)
		return false;
	if (len == 3 && p[0] == 0xe2 && p[1] == 0x81 && p[2] >= 0xa6 && p[2] <= 0xa9)
		return false;
	return true;
}

void content_printable(struct buf *b, const void *text, size_t n, bool lines)
{
	const uint8_t *p = text;

	while (n) {
		unsigned len = character(p, n), i;

		if (len && harmless(p, len, lines)) {
			buf_put(b, p, len);
			if (*p == '\n')
				buf_puts(b, "  ");
		} else {
			len = len ? len : 1;
			for (i = 0; i < len; i++)
				buf_printf(b, "\\x%02x", p[i]);
		}
		p += len;
		n -= len;
	}
	buf_u8(b, 0);
	b->len--;
}

void content_mid(uint8_t mid[16], uint64_t from, uint64_t to, const char *name,
		 uint64_t line)
{
	const struct hash_part part[] = { { "quipu-send", 10 }, { &from, 8 }, { &to, 8 },
					  { &line, 8 }, { name, strlen(name) } };
	uint8_t h[SHA256_LEN];

	sha256_parts(part, 5, h);
	memcpy(mid, h, 16);
}
