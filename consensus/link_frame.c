#include "consensus/link_impl.h"
#include "base/assert.h"
#include "base/bytes.h"
#include "base/cursor.h"

static const char magic_hello[4] = "QPLK", magic_refusal[4] = "QPNO";

void link_hello_put(struct buf *out, const struct link_hello *h)
{
	buf_u32(out, LINK_HELLO_LEN);
	buf_put(out, magic_hello, sizeof magic_hello);
	buf_u16(out, h->version);
	buf_u16(out, 0);
	buf_put(out, h->cluster_id, sizeof h->cluster_id);
	buf_u64(out, h->from);
	buf_u64(out, h->to);
	buf_u64(out, h->boot);
}

void link_refusal_put(struct buf *out, const char *why)
{
	size_t n = strnlen(why, LINK_REFUSAL_MAX);

	buf_u32(out, (uint32_t)(sizeof magic_refusal + n));
	buf_put(out, magic_refusal, sizeof magic_refusal);
	buf_put(out, why, n);
}

static int get_refusal(struct cursor *c, struct err *e)
{
	char text[LINK_REFUSAL_MAX + 1];
	size_t i, n = cursor_left(c);

	if (n > LINK_REFUSAL_MAX)
		return err_set(e, ERR_PROTOCOL, "refusal of %zu bytes", n);
	for (i = 0; i < n; i++) {
		uint8_t b = c->p[i];

		text[i] = b >= ' ' && b <= '~' ? (char)b : '?';
	}
	text[n] = 0;
	return err_set(e, ERR_PERM, "refused by the peer: %s", text);
}

int link_hello_get(struct link_hello *h, const uint8_t *p, size_t n,
		   struct err *e)
{
	struct cursor c = cursor_of(p, n);
	const uint8_t *magic = cursor_bytes(&c, 4), *id;
	uint16_t zero;

	memset(h, 0, sizeof *h);
	if (magic && memcmp(magic, magic_refusal, 4) == 0)
		return get_refusal(&c, e);
	if (!magic || memcmp(magic, magic_hello, 4) != 0)
		return err_set(e, ERR_PROTOCOL, "the first bytes are no hello "
			       "of a node");
	h->version = cursor_u16(&c);
	/* The rest of another version's hello may look different. */
	if (!c.bad && h->version != LINK_VERSION)
		return err_set(e, ERR_VERSION, "the peer speaks version %u of "
			       "the link protocol, this node version %u",
			       h->version, LINK_VERSION);
	zero = cursor_u16(&c);
	id = cursor_bytes(&c, sizeof h->cluster_id);
	h->from = cursor_u64(&c);
	h->to = cursor_u64(&c);
	h->boot = cursor_u64(&c);
	if (!cursor_done(&c) || zero != 0)
		return err_set(e, ERR_PROTOCOL, "malformed hello");
	memcpy(h->cluster_id, id, sizeof h->cluster_id);
	return 0;
}

int link_frame_next(const uint8_t *p, size_t n, size_t max,
		    const uint8_t **msg, size_t *len, size_t *used)
{
	uint32_t l;

	if (n < LINK_FRAME_HEADER)
		return ERR_AGAIN;
	l = get_u32(p);
	if (l > max)
		return ERR_TOO_LARGE;
	if (n - LINK_FRAME_HEADER < l)
		return ERR_AGAIN;
	*msg = p + LINK_FRAME_HEADER;
	*len = l;
	*used = LINK_FRAME_HEADER + (size_t)l;
	return 0;
}
