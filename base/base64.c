#include "base/base64.h"

static const char url[] =
	"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
static const char standard[] =
	"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

#define NO 0xff
/* Value of a character of the url alphabet, from '-' (0x2d) to 'z' (0x7a). */
static const uint8_t value[] = {
	62, NO, NO, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, NO, NO, NO, /* -./0 */
	NO, NO, NO, NO, 0,  1,	2,  3,	4,  5,	6,  7,	8,  9,	10, 11, /* =>?@A */
	12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, NO, NO, /* M..Z[\ */
	NO, NO, 63, NO, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, /* ]^_`a */
	38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51,
};
_Static_assert(sizeof value == 'z' - '-' + 1, "one row per character");

static uint32_t value_of(char ch)
{
	unsigned i = (unsigned)(uint8_t)ch - '-';

	return i < sizeof value ? value[i] : NO;
}

static void put(struct buf *out, const uint8_t *p, size_t n, const char *abc)
{
	char *o = (char *)buf_reserve(out, n / 3 * 4 + 4);
	const char *start = o;

	for (; n >= 3; p += 3, n -= 3) {
		uint32_t v = (uint32_t)(p[0] << 16 | p[1] << 8 | p[2]);

		*o++ = abc[v >> 18];
		*o++ = abc[v >> 12 & 63];
		*o++ = abc[v >> 6 & 63];
		*o++ = abc[v & 63];
	}
	if (n) {
		uint32_t v = (uint32_t)(p[0] << 16 | (n == 2 ? p[1] << 8 : 0));

		*o++ = abc[v >> 18];
		*o++ = abc[v >> 12 & 63];
		if (n == 2)
			*o++ = abc[v >> 6 & 63];
	}
	out->len += (size_t)(o - start);
}

void base64url_put(struct buf *out, const void *p, size_t n)
{
	put(out, p, n, url);
}

void base64_put(struct buf *out, const void *p, size_t n)
{
	put(out, p, n, standard);
	for (; n % 3; n++)
		buf_u8(out, '=');
}

bool base64url_get(struct buf *out, const char *s, size_t n)
{
	size_t rest = n % 4, whole = n - rest;
	uint8_t *o = buf_reserve(out, n / 4 * 3 + 3);
	const uint8_t *start = o;
	uint32_t bad = 0, v;
	size_t i;

	if (rest == 1)
		return false;
	for (i = 0; i < whole; i += 4) {
		uint32_t a = value_of(s[i]), b = value_of(s[i + 1]);
		uint32_t c = value_of(s[i + 2]), d = value_of(s[i + 3]);

		bad |= a | b | c | d;
		v = a << 18 | b << 12 | c << 6 | d;
		*o++ = (uint8_t)(v >> 16);
		*o++ = (uint8_t)(v >> 8);
		*o++ = (uint8_t)v;
	}
	if (rest) {
		uint32_t a = value_of(s[i]), b = value_of(s[i + 1]);
		uint32_t c = rest == 3 ? value_of(s[i + 2]) : 0;

		/* Bits left over are zero, or two texts would mean one value. */
		bad |= a | b | c | (rest == 3 ? (c & 3) << 6 : (b & 15) << 6);
		v = a << 18 | b << 12 | c << 6;
		*o++ = (uint8_t)(v >> 16);
		if (rest == 3)
			*o++ = (uint8_t)(v >> 8);
	}
	if (bad > 63)
		return false;
	out->len += (size_t)(o - start);
	return true;
}
