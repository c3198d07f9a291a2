/* Configurations: who is in the group, as bytes, as the core has them, and as the
 * owner sees them.
 *
 * The core's encoding: version u8, n u64, then per server id u64, address with NUL,
 * role u8; zeros up to a multiple of 8.  The address is ours to fill: the decimal
 * id of a founder, "id.life" (16 hex digits) of a replica that joined. */
#include "consensus/raft_impl.h"
#include "base/assert.h"

#include <string.h>

const char *raft_addr(char out[24], uint64_t id)
{
	char *p = out + 23;

	/* Once per message, so without printf. */
	*p = 0;
	do
		*--p = (char)('0' + id % 10);
	while (id /= 10);
	return memmove(out, p, (size_t)(out + 24 - p));
}

const char *conf_addr(char out[24], uint64_t id, uint64_t life)
{
	static const char hex[] = "0123456789abcdef";
	char *p;
	int i;

	raft_addr(out, id);
	if (!life)
		return out;
	AN(id < NET_NODE_MAX);
	p = out + strlen(out);
	*p++ = '.';
	for (i = 60; i >= 0; i -= 4)
		*p++ = hex[life >> i & 15];
	*p = 0;
	return out;
}

/* False: not as conf_addr() writes it. */
static bool addr_life(const char *addr, uint64_t id, uint64_t *life)
{
	char want[24];
	const char *p = strchr(addr, '.');

	*life = 0;
	if (p) {
		for (p++; *p; p++) {
			unsigned digit = *p <= '9' ? (unsigned)(*p - '0')
						   : (unsigned)(*p - 'a' + 10);

			*life = *life << 4 | (digit & 15);
		}
	}
	return !strcmp(addr, conf_addr(want, id, *life));
}

unsigned conf_voters(const struct raft_configuration *c)
{
	unsigned i, n = 0;

	for (i = 0; i < c->n; i++)
		n += c->servers[i].role == RAFT_VOTER;
	return n;
}

static const struct raft_server *conf_server(const struct raft_configuration *c,
					     uint64_t id)
{
	unsigned i;

	for (i = 0; i < c->n; i++)
		if (c->servers[i].id == id)
			return &c->servers[i];
	return NULL;
}

bool conf_has_voter(const struct raft_configuration *c, uint64_t id)
{
	const struct raft_server *s = conf_server(c, id);

	return s && s->role == RAFT_VOTER;
}

bool conf_has(const struct raft_configuration *c, uint64_t id, uint64_t life)
{
	const struct raft_server *s = conf_server(c, id);
	char want[24];

	return s && !strcmp(s->address, conf_addr(want, id, life));
}

bool conf_lone(const struct group *g)
{
	const struct raft_configuration *c = &g->raft.configuration;

	return conf_voters(c) == 1 && conf_has_voter(c, g->cfg.self) &&
	       conf_has(c, g->cfg.self, g->cfg.life);
}

void conf_view(struct group_conf *out, uint64_t index,
	       const struct raft_configuration *c)
{
	unsigned i;

	AN(c->n <= GROUP_MEMBERS_MAX);
	out->index = index;
	out->n = c->n;
	for (i = 0; i < c->n; i++) {
		struct group_member *m = &out->members[i];

		m->id = c->servers[i].id;
		m->voter = c->servers[i].role == RAFT_VOTER;
		addr_life(c->servers[i].address, m->id, &m->life);
	}
}

/* The core's decoder trusts its input, so all of it is looked at here. */
int group_conf_decode(struct group_conf *out, uint64_t index, const void *p,
		      size_t n)
{
	struct cursor c = cursor_of(p, n);
	uint64_t seen = 0, count, i;
	unsigned voters = 0;

	memset(out, 0, sizeof *out);
	out->index = index;
	if (cursor_u8(&c) != 1)
		return ERR_FORMAT;
	count = cursor_u64(&c);
	if (c.bad || count < 1 || count > GROUP_MEMBERS_MAX)
		return ERR_FORMAT;
	for (i = 0; i < count; i++) {
		struct group_member *m = &out->members[i];
		char addr[24];
		unsigned k = 0;
		uint8_t role;

		m->id = cursor_u64(&c);
		if (c.bad || m->id < 1 || m->id >= NET_NODE_MAX ||
		    seen >> m->id & 1)
			return ERR_FORMAT;
		seen |= 1ull << m->id;
		do
			addr[k] = (char)cursor_u8(&c);
		while (!c.bad && addr[k] && ++k < sizeof addr);
		if (c.bad || k == sizeof addr || !addr_life(addr, m->id, &m->life))
			return ERR_FORMAT;
		role = cursor_u8(&c);
		/* A spare makes the leader's timer spin (B6). */
		if (c.bad || (role != RAFT_VOTER && role != RAFT_STANDBY))
			return ERR_FORMAT;
		m->voter = role == RAFT_VOTER;
		voters += m->voter;
	}
	out->n = (unsigned)count;
	if (cursor_left(&c) > 7)
		return ERR_FORMAT;
	while (cursor_left(&c))
		if (cursor_u8(&c))
			return ERR_FORMAT;
	return voters >= 1 && voters <= GROUP_VOTERS_MAX ? 0 : ERR_FORMAT;
}

bool conf_valid(const uint8_t *p, size_t n)
{
	struct group_conf c;

	return !group_conf_decode(&c, 0, p, n);
}

void conf_copy(struct raft_configuration *out,
	       const struct raft_configuration *c)
{
	unsigned i;

	raft_configuration_init(out);
	for (i = 0; i < c->n; i++)
		AZ(raft_configuration_add(out, c->servers[i].id,
					  c->servers[i].address,
					  c->servers[i].role));
}

struct entry *conf_entry(uint32_t shard, const struct raft_configuration *c)
{
	struct raft_buffer buf;
	struct entry *e;

	AZ(raft_configuration_encode(c, &buf));
	e = entry_new(shard, (uint32_t)buf.len + 1);
	entry_payload(e)[0] = GROUP_CHANGE;
	memcpy(entry_payload(e) + 1, buf.base, buf.len);
	raft_free(buf.base);
	return e;
}
