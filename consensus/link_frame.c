#include "consensus/link_impl.h"
#include "base/assert.h"
#include "base/bytes.h"
#include "base/cursor.h"

#include <stdio.h>

#define FLAG_JOINED 1u

static const char magic_hello[4] = "QPLK", magic_refusal[4] = "QPNO",
		  magic_disk[4] = "QPND", magic_welcome[4] = "QPOK";

void link_hello_put(struct buf *out, const struct link_hello *h)
{
	bool old = h->version == LINK_VERSION_OLD;

	buf_u32(out, old ? LINK_HELLO_LEN_1 : LINK_HELLO_LEN);
	buf_put(out, magic_hello, sizeof magic_hello);
	buf_u16(out, h->version);
	buf_u16(out, h->joined && !old ? FLAG_JOINED : 0);
	buf_put(out, h->cluster_id, sizeof h->cluster_id);
	buf_u64(out, h->from);
	buf_u64(out, h->to);
	buf_u64(out, h->boot);
	if (old)
		return;
	buf_put(out, h->disk_id, sizeof h->disk_id);
	buf_u64(out, h->founders);
	buf_u32(out, h->shards);
	buf_u32(out, 0);
}

void link_refusal_put(struct buf *out, bool for_disk, const char *why)
{
	size_t n = strnlen(why, LINK_REFUSAL_MAX);

	buf_u32(out, (uint32_t)(sizeof magic_refusal + n));
	buf_put(out, for_disk ? magic_disk : magic_refusal,
		sizeof magic_refusal);
	buf_put(out, why, n);
}

void link_welcome_put(struct buf *out)
{
	buf_u32(out, sizeof magic_welcome);
	buf_put(out, magic_welcome, sizeof magic_welcome);
}

bool link_is_welcome(const uint8_t *p, size_t n)
{
	return n == sizeof magic_welcome && !memcmp(p, magic_welcome, n);
}

#define WRONG_VERSION "version %u of the link protocol, this node version %u"

unsigned link_refusal_version(const char *why)
{
	const char *at = strstr(why, "the peer speaks version ");
	unsigned ours, theirs;

	if (!at || sscanf(at, "the peer speaks " WRONG_VERSION, &ours,
			  &theirs) != 2 || theirs < LINK_VERSION_OLD ||
	    theirs >= ours)
		return 0;
	return theirs;
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
	const uint8_t *magic = cursor_bytes(&c, 4), *id, *disk = NULL;
	uint32_t flags, zero = 0;

	memset(h, 0, sizeof *h);
	if (magic && memcmp(magic, magic_disk, 4) == 0)
		h->disk_refused = true;
	if (magic && (h->disk_refused || memcmp(magic, magic_refusal, 4) == 0))
		return get_refusal(&c, e);
	if (!magic || memcmp(magic, magic_hello, 4) != 0)
		return err_set(e, ERR_PROTOCOL, "the first bytes are no hello "
			       "of a node");
	h->version = cursor_u16(&c);
	/* The rest of another version's hello may look different. */
	if (!c.bad && (h->version < LINK_VERSION_OLD ||
		       h->version > LINK_VERSION))
		return err_set(e, ERR_VERSION, "the peer speaks " WRONG_VERSION,
			       h->version, LINK_VERSION);
	flags = cursor_u16(&c);
	id = cursor_bytes(&c, sizeof h->cluster_id);
	h->from = cursor_u64(&c);
	h->to = cursor_u64(&c);
	h->boot = cursor_u64(&c);
	if (h->version > LINK_VERSION_OLD) {
		disk = cursor_bytes(&c, sizeof h->disk_id);
		h->founders = cursor_u64(&c);
		h->shards = cursor_u32(&c);
		zero = cursor_u32(&c);
		h->joined = flags & FLAG_JOINED;
		flags &= ~FLAG_JOINED;
	}
	if (!cursor_done(&c) || zero != 0 || flags != 0)
		return err_set(e, ERR_PROTOCOL, "malformed hello");
	memcpy(h->cluster_id, id, sizeof h->cluster_id);
	if (disk)
		memcpy(h->disk_id, disk, sizeof h->disk_id);
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
