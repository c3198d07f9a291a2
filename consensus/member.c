#include "consensus/member.h"

#include <string.h>

bool member_address_ok(const char *p, size_t n)
{
	size_t i;

	if (n > MEMBER_ADDRESS_MAX)
		return false;
	for (i = 0; i < n; i++)
		if (p[i] <= ' ' || p[i] > '~' || p[i] == '"' || p[i] == '\\')
			return false;
	return true;
}

static bool is_letter(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
	       (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
}

bool member_rack_ok(const char *p, size_t n)
{
	size_t i;

	if (n > PLACE_RACK_MAX)
		return false;
	for (i = 0; i < n; i++)
		if (!is_letter(p[i]))
			return false;
	return true;
}

bool member_has_disk(const struct member *m)
{
	static const uint8_t none[16];

	return memcmp(m->disk_id, none, 16) != 0;
}

bool member_may_become(enum place_state from, enum place_state to)
{
	/* A node that is gone comes back by NODE_REPLACE only: its old disk must
	 * never vote again.  One that leaves may be kept after all. */
	static const uint8_t may[PLACE_STATES] = {
		[PLACE_NONE] = 1 << PLACE_ACTIVE | 1 << PLACE_CORDONED,
		[PLACE_ACTIVE] = 1 << PLACE_ACTIVE | 1 << PLACE_CORDONED |
				 1 << PLACE_DRAINING | 1 << PLACE_LEAVING |
				 1 << PLACE_GONE,
		[PLACE_CORDONED] = 1 << PLACE_ACTIVE | 1 << PLACE_CORDONED |
				   1 << PLACE_DRAINING | 1 << PLACE_LEAVING |
				   1 << PLACE_GONE,
		[PLACE_DRAINING] = 1 << PLACE_ACTIVE | 1 << PLACE_CORDONED |
				   1 << PLACE_DRAINING | 1 << PLACE_LEAVING |
				   1 << PLACE_GONE,
		[PLACE_LEAVING] = 1 << PLACE_ACTIVE | 1 << PLACE_CORDONED |
				  1 << PLACE_DRAINING | 1 << PLACE_LEAVING |
				  1 << PLACE_GONE | 1 << PLACE_NONE,
		[PLACE_GONE] = 1 << PLACE_GONE | 1 << PLACE_NONE,
	};

	return (unsigned)from < PLACE_STATES && (unsigned)to < PLACE_STATES &&
	       may[from] >> to & 1;
}

void member_put(struct buf *out, const struct member *m)
{
	buf_u8(out, m->id);
	buf_u8(out, (uint8_t)m->state);
	buf_u8(out, m->successor);
	buf_u8(out, m->replaced);
	buf_put(out, m->disk_id, 16);
	buf_varint(out, m->version);
	buf_varint(out, m->since_ms);
	buf_lv(out, m->address, strlen(m->address));
	buf_lv(out, m->rack, strlen(m->rack));
}

int member_get(struct member *m, struct cursor *c)
{
	const uint8_t *disk, *p;
	uint8_t replaced;
	size_t n;

	memset(m, 0, sizeof *m);
	m->id = cursor_u8(c);
	m->state = (enum place_state)cursor_u8(c);
	m->successor = cursor_u8(c);
	replaced = cursor_u8(c);
	m->replaced = replaced;
	disk = cursor_bytes(c, 16);
	if (disk)
		memcpy(m->disk_id, disk, 16);
	m->version = cursor_varint(c);
	m->since_ms = cursor_varint(c);
	p = cursor_lv(c, MEMBER_ADDRESS_MAX, &n);
	c->bad |= !member_address_ok((const char *)p, n);
	if (n && !c->bad)
		memcpy(m->address, p, n);
	p = cursor_lv(c, PLACE_RACK_MAX, &n);
	c->bad |= !member_rack_ok((const char *)p, n);
	if (n && !c->bad)
		memcpy(m->rack, p, n);
	c->bad |= !m->id || m->id > MEMBER_ID_MAX || m->state == PLACE_NONE ||
		  (unsigned)m->state >= PLACE_STATES ||
		  m->successor > MEMBER_ID_MAX || replaced > 1 || !m->version;
	return c->bad ? ERR_FORMAT : 0;
}
