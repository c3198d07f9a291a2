#include "consensus/placing.h"
#include "base/alloc.h"
#include "base/logf.h"
#include "consensus/node_impl.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define READY_BEHIND 64 /* entries: as for a promotion (docs/decisions/0010) */

enum { SHARD_BUSY = 1 };
enum { MEMBER_VOTER = 1, MEMBER_READY = 2 };

uint64_t node_reach(const struct node *n)
{
	uint64_t up = 1ull << n->cfg.id, id;

	for (id = 1; id < NET_NODE_MAX; id++)
		if (n->up_since_ms[id])
			up |= 1ull << id;
	return up;
}

const struct shard_picture *node_picture(const struct node *n, uint32_t shard)
{
	return &n->placing->shard[shard];
}

bool node_lacks(const struct node *n, uint8_t id, uint32_t shard)
{
	const struct placing_peer *p = &n->placing->peer[id];

	return p->answered && !(p->holds[shard / 8] >> shard % 8 & 1);
}

/* ---- this node's own ------------------------------------------------------------- */

static bool is_here(const struct shard *s)
{
	return s->group || s->faulty;
}

static bool leads(const struct shard *s)
{
	return !s->faulty && s->group && s->role == GROUP_LEADER;
}

static bool is_ready(const struct node *n, const struct group_info *gi, unsigned i)
{
	uint64_t id = gi->conf.members[i].id;

	return id == n->cfg.id ||
	       (n->up_since_ms[id] &&
		gi->member_match[i] + READY_BEHIND >= gi->last_index);
}

static void put_shard(struct node *n, const struct shard *s, struct buf *out)
{
	struct group_info gi;
	unsigned i;

	group_info(s->group, &gi);
	buf_u16(out, (uint16_t)s->id);
	buf_u64(out, gi.term);
	buf_u8(out, gi.changing || gi.transferring || !gi.conf_committed
			    ? SHARD_BUSY : 0);
	buf_u8(out, (uint8_t)gi.conf.n);
	for (i = 0; i < gi.conf.n; i++) {
		const struct group_member *m = &gi.conf.members[i];

		buf_u8(out, (uint8_t)m->id);
		buf_u8(out, (uint8_t)((m->voter ? MEMBER_VOTER : 0) |
				      (is_ready(n, &gi, i) ? MEMBER_READY : 0)));
		buf_u64(out, m->id == n->cfg.id ? gi.last_index
						: gi.member_match[i]);
	}
}

/* Without the type byte. */
static void put_all(struct node *n, uint32_t round, struct buf *out)
{
	uint8_t holds[PLACE_SHARDS_MAX / 8] = { 0 };
	uint16_t led = 0;
	uint32_t i;

	for (i = 0; i < n->n_shards; i++) {
		if (is_here(&n->shards[i]))
			holds[i / 8] |= (uint8_t)(1 << i % 8);
		if (leads(&n->shards[i]))
			led++;
	}
	buf_u32(out, round);
	buf_put(out, n->cfg.disk_id, 16);
	buf_put(out, holds, sizeof holds);
	buf_u16(out, led);
	for (i = 0; led && i < n->n_shards; i++)
		if (leads(&n->shards[i]))
			put_shard(n, &n->shards[i], out);
}

/* ---- what one says ------------------------------------------------------------------ */

/* Of two that think they lead, the one of the later term does. */
static bool take_shard(struct placing *pl, uint32_t n_shards, uint64_t from,
		       struct cursor *c)
{
	struct shard_picture p = { .known = true, .leader = (uint8_t)from };
	uint32_t shard = cursor_u16(c);
	uint64_t term = cursor_u64(c);
	uint8_t members, k;

	p.busy = cursor_u8(c) & SHARD_BUSY;
	members = cursor_u8(c);
	for (k = 0; k < members && !c->bad; k++) {
		uint8_t id = cursor_u8(c), flags = cursor_u8(c);
		uint64_t match = cursor_u64(c);

		if (!id || id >= PLACE_NODES)
			c->bad = true;
		/* More than the planner knows: it is left alone. */
		if (p.n == PLACE_REPLICAS_MAX) {
			p.busy = true;
			continue;
		}
		p.member[p.n].id = id;
		p.member[p.n].voter = flags & MEMBER_VOTER;
		p.member[p.n].ready = flags & MEMBER_READY;
		p.member[p.n++].match = match;
	}
	if (c->bad || shard >= n_shards)
		return false;
	if (!pl->shard[shard].known || term > pl->term[shard]) {
		pl->shard[shard] = p;
		pl->term[shard] = term;
	}
	return true;
}

bool placing_take(struct placing *pl, uint32_t n_shards, const struct member *m,
		  uint64_t from, struct cursor *c)
{
	static const uint8_t none[16];
	struct placing_peer *p = &pl->peer[from];
	const uint8_t *disk = cursor_bytes(c, 16);
	const uint8_t *holds = cursor_bytes(c, sizeof p->holds);
	uint16_t led = cursor_u16(c);

	if (c->bad)
		return false;
	while (led && take_shard(pl, n_shards, from, c))
		led--;
	if (led || !cursor_done(c))
		return false;
	/* Of the disk that belongs to the node, or there is nothing to conclude. */
	if (!memcmp(disk, none, 16) || !member_has_disk(m) ||
	    !memcmp(disk, m->disk_id, 16)) {
		memcpy(p->holds, holds, sizeof p->holds);
		p->answered = true;
	}
	return true;
}

static void take_all(struct node *n, uint64_t from, struct cursor *c)
{
	if (!placing_take(n->placing, n->n_shards, &node_members(n)->m[from], from,
			  c))
		log_event(LOG_WARN, "peer_message_refused",
			  "peer=%" PRIu64 " type=%d why=\"malformed\"", from,
			  MSG_PLACES_ARE);
}

static void on_ask(struct node *n, uint64_t peer, struct cursor *c)
{
	uint32_t round = cursor_u32(c);

	if (!cursor_done(c))
		return;
	buf_clear(&n->scratch);
	buf_u8(&n->scratch, MSG_PLACES_ARE);
	put_all(n, round, &n->scratch);
	n->env.net->ops->send(n->env.net, peer, n->scratch.data, n->scratch.len,
			      NULL, 0);
}

bool placing_on_message(struct node *n, uint64_t peer, uint8_t type,
			struct cursor *c)
{
	struct placing *pl = n->placing;

	if (type == MSG_PLACES_ASK) {
		on_ask(n, peer, c);
		return true;
	}
	if (type != MSG_PLACES_ARE)
		return false;
	if (cursor_u32(c) != pl->round || !pl->looking ||
	    !(pl->asked >> peer & 1))
		return true;
	pl->asked &= ~(1ull << peer);
	take_all(n, peer, c);
	return true;
}

/* ---- a look -------------------------------------------------------------------------- */

static void begin(struct node *n, uint64_t now_ms)
{
	struct placing *pl = n->placing;
	struct cursor c;
	uint64_t id;

	pl->looking = true;
	pl->round++;
	pl->asked = node_reach(n) & ~(1ull << n->cfg.id);
	pl->deadline_ms = now_ms + PLACING_WAIT_MS;
	memset(pl->peer, 0, sizeof pl->peer);
	memset(pl->shard, 0, sizeof pl->shard);
	buf_clear(&n->scratch);
	put_all(n, 0, &n->scratch);
	c = cursor_of(n->scratch.data, n->scratch.len);
	cursor_u32(&c);
	take_all(n, n->cfg.id, &c);
	for (id = 1; id < NET_NODE_MAX; id++) {
		if (!(pl->asked >> id & 1))
			continue;
		buf_clear(&n->scratch);
		buf_u8(&n->scratch, MSG_PLACES_ASK);
		buf_u32(&n->scratch, pl->round);
		if (n->env.net->ops->send(n->env.net, id, n->scratch.data,
					  n->scratch.len, NULL, 0))
			pl->asked &= ~(1ull << id);
	}
}

void node_look(struct node *n, struct node_look *l)
{
	list_append(&n->placing->late, &l->link);
	n->tick_ms = 0;
	n->woken = true;
}

void node_look_cancel(struct node *n, struct node_look *l)
{
	(void)n;
	list_remove(&l->link);
}

void placing_tick(struct node *n, uint64_t now_ms)
{
	struct placing *pl = n->placing;
	struct list *it;

	pl->asked &= node_reach(n);
	if (pl->looking && (!pl->asked || now_ms >= pl->deadline_ms)) {
		pl->looking = false;
		while ((it = list_pop(&pl->waiting))) {
			struct node_look *l =
				container_of(it, struct node_look, link);

			l->cb(l);
		}
	}
	if (pl->looking || list_empty(&pl->late))
		return;
	while ((it = list_pop(&pl->late)))
		list_append(&pl->waiting, it);
	begin(n, now_ms);
}

void placing_open(struct node *n)
{
	n->placing = xcalloc(1, sizeof *n->placing);
	list_init(&n->placing->waiting);
	list_init(&n->placing->late);
}

/* Who waits is forgotten with the node. */
void placing_close(struct node *n)
{
	free(n->placing);
	n->placing = NULL;
}
