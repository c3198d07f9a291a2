#include "base/utf8.h"
#include "base/bytes.h"

#define HIGH_BITS 0x8080808080808080ull

/* What may follow a lead byte: how many bytes, and the range of the first of
 * them (RFC 3629 4: no overlong forms, no surrogates, nothing over U+10FFFF). */
static bool lead(struct utf8 *u, uint8_t b)
{
	u->lo = 0x80;
	u->hi = 0xbf;
	if (b >= 0xc2 && b <= 0xdf) {
		u->need = 1;
	} else if (b >= 0xe0 && b <= 0xef) {
		u->need = 2;
		if (b == 0xe0)
			u->lo = 0xa0;
		else if (b == 0xed)
			u->hi = 0x9f;
	} else if (b >= 0xf0 && b <= 0xf4) {
		u->need = 3;
		if (b == 0xf0)
			u->lo = 0x90;
		else if (b == 0xf4)
			u->hi = 0x8f;
	} else {
		return false;
	}
	return true;
}

bool utf8_feed(struct utf8 *u, const void *data, size_t n)
{
	const uint8_t *p = data, *end;

	if (n == 0) /* `data` may be NULL */
		return true;
	end = p + n;
	while (p < end) {
		if (u->need) {
			if (*p < u->lo || *p > u->hi)
				return false;
			u->lo = 0x80;
			u->hi = 0xbf;
			u->need--;
			p++;
			continue;
		}
		while (end - p >= 8 && !(get_u64(p) & HIGH_BITS))
			p += 8;
		while (p < end && *p < 0x80)
			p++;
		if (p < end && !lead(u, *p++))
			return false;
	}
	return true;
}

bool utf8_valid(const void *p, size_t n)
{
	struct utf8 u = { 0, 0, 0 };

	return utf8_feed(&u, p, n) && u.need == 0;
}
