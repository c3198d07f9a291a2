/* Who leads what, and who should.
 *
 * A node with a replica hears of the leader from its group.  For the others, and for
 * replicas that are damaged, empty or behind, leaders tell every peer: when they begin
 * and when a link is new.  Who asks the wrong node is told the right one, and where
 * nobody told, peers are asked in turn. */
#include "base/logf.h"
#include "consensus/node_impl.h"

#include <inttypes.h>
#include <string.h>

#define HANDOVER_UP_MS 3000 /* a peer is up this long before it gets leaders */
#define HANDOVER_RETRY_MS 5000
#define SLOTS_ASK_MS 500
#define LEADS_ROW 20 /* bytes */

/* ---- news ---------------------------------------------------------------------- */

/* The group's own word, unless others tell of a later term.  Where the group knows of
 * no leader in the term of the news, the news are of one that it has lost. */
uint64_t lead_known(const struct shard *s, uint64_t *term)
{
	bool own = shard_works(s) && s->leader && s->term >= s->heard_term;

	*term = own ? s->term : s->heard_term;
	return own ? s->leader : s->heard_leader;
}

static bool is_up(struct node *n, uint64_t peer)
{
	return n->env.net && peer && peer != n->cfg.id &&
	       n->env.net->ops->is_up(n->env.net, peer);
}

/* The next one that is up, after the one asked last; it stays until it says no. */
static uint64_t guess(struct node *n, struct shard *s)
{
	unsigned i;

	for (i = 0; i < NET_NODE_MAX; i++) {
		uint64_t peer = (s->guessed + i) % NET_NODE_MAX;

		if (!is_up(n, peer))
			continue;
		s->guessed = peer;
		return peer;
	}
	return 0;
}

uint64_t lead_of(struct node *n, struct shard *s)
{
	uint64_t term, peer = lead_known(s, &term);

	if (is_up(n, peer))
		return peer;
	/* A sound replica hears of the next leader soon. */
	return shard_works(s) ? 0 : guess(n, s);
}

void lead_was_wrong(struct node *n, uint32_t shard, uint64_t peer, int status)
{
	struct shard *s = &n->shards[shard];

	if (status != ERR_NOT_LEADER && status != ERR_UNAVAILABLE)
		return;
	if (s->guessed == peer)
		s->guessed = (peer + 1) % NET_NODE_MAX;
	if (s->heard_leader == peer)
		s->heard_leader = 0;
}

static void heard(struct node *n, uint32_t shard, uint64_t leader, uint64_t term)
{
	struct shard *s = &n->shards[shard];

	if (term < s->heard_term || leader >= NET_NODE_MAX || !term)
		return;
	if (s->heard_leader != leader || s->heard_term != term)
		n->woken = true;
	s->heard_leader = leader;
	s->heard_term = term;
}

static void row(struct buf *b, uint32_t shard, uint64_t leader, uint64_t term)
{
	buf_u32(b, shard);
	buf_u64(b, leader);
	buf_u64(b, term);
}

static void tell_all(struct node *n, uint64_t peer)
{
	uint32_t i;

	buf_clear(&n->scratch);
	buf_u8(&n->scratch, MSG_LEADS);
	for (i = 0; i < n->n_shards; i++)
		if (shard_works(&n->shards[i]) &&
		    n->shards[i].role == GROUP_LEADER)
			row(&n->scratch, i, n->cfg.id, n->shards[i].term);
	n->leads_due[peer] = n->scratch.len > 1 && rpc_post(n, peer);
}

void lead_begun(struct shard *s)
{
	struct node *n = s->node;
	uint64_t peer;

	if (!n->env.net)
		return;
	buf_clear(&n->scratch);
	buf_u8(&n->scratch, MSG_LEADS);
	row(&n->scratch, s->id, n->cfg.id, s->term);
	for (peer = 1; peer < NET_NODE_MAX; peer++)
		if (n->up_since_ms[peer] && rpc_post(n, peer))
			n->leads_due[peer] = true;
}

void lead_redirect(struct node *n, const struct shard *s, uint64_t peer)
{
	uint64_t term, leader = lead_known(s, &term);

	if (!leader || leader == peer || leader == n->cfg.id)
		return;
	buf_clear(&n->scratch);
	buf_u8(&n->scratch, MSG_LEADS);
	row(&n->scratch, s->id, leader, term);
	rpc_post(n, peer); /* or it finds the way by itself */
}

static void on_leads(struct node *n, struct cursor *c)
{
	while (cursor_left(c) >= LEADS_ROW) {
		uint32_t shard = cursor_u32(c);
		uint64_t leader = cursor_u64(c), term = cursor_u64(c);

		if (shard < n->n_shards)
			heard(n, shard, leader, term);
	}
}

/* ---- slots ----------------------------------------------------------------------- */

/* A node without shard 0 has the slot table from anybody who has one. */
static void slots_ask(struct node *n, uint64_t now_ms)
{
	unsigned i;

	if (n->slots_epoch || shard_works(&n->shards[0]) || !n->env.net ||
	    now_ms < n->slots_ask_ms)
		return;
	for (i = 1; i <= NET_NODE_MAX; i++) {
		uint64_t peer = (n->slots_asked + i) % NET_NODE_MAX;

		if (!is_up(n, peer))
			continue;
		buf_clear(&n->scratch);
		buf_u8(&n->scratch, MSG_SLOTS);
		if (rpc_post(n, peer))
			continue;
		n->slots_asked = peer;
		n->slots_ask_ms = now_ms + SLOTS_ASK_MS;
		return;
	}
}

static void on_slots(struct node *n, uint64_t peer)
{
	unsigned i;

	if (!n->slots_epoch)
		return;
	buf_clear(&n->scratch);
	buf_u8(&n->scratch, MSG_SLOTS_ARE);
	buf_u32(&n->scratch, n->slots_epoch);
	buf_u32(&n->scratch, n->n_shards);
	for (i = 0; i < SLOTS; i++)
		buf_u16(&n->scratch, n->slots[i]);
	rpc_post(n, peer);
}

static void on_slots_are(struct node *n, uint64_t peer, struct cursor *c)
{
	uint32_t epoch = cursor_u32(c), shards = cursor_u32(c), i;
	struct cursor look = *c;

	if (c->bad || cursor_left(c) != 2 * SLOTS || epoch <= n->slots_epoch)
		return;
	if (shards != n->n_shards) {
		struct err e = { 0 };

		err_set(&e, ERR_CONFIG,
			"node %" PRIu64 " has %u shards, the configuration "
			"(shards.count) says %u", peer, shards, n->n_shards);
		node_fatal(n, &e);
		return;
	}
	for (i = 0; i < SLOTS; i++)
		if (cursor_u16(&look) >= n->n_shards)
			return;
	for (i = 0; i < SLOTS; i++)
		n->slots[i] = cursor_u16(c);
	n->slots_epoch = epoch;
	n->woken = true;
}

bool lead_on_message(struct node *n, uint64_t peer, uint8_t type,
		     struct cursor *c)
{
	switch (type) {
	case MSG_LEADS:
		on_leads(n, c);
		return true;
	case MSG_SLOTS:
		on_slots(n, peer);
		return true;
	case MSG_SLOTS_ARE:
		on_slots_are(n, peer, c);
		return true;
	default:
		return false;
	}
}

void lead_on_up(struct node *n, uint64_t peer)
{
	tell_all(n, peer);
	n->slots_ask_ms = 0;
}

/* It leads on, perhaps, but there is no way to it. */
void lead_on_down(struct node *n, uint64_t peer)
{
	uint32_t i;

	n->leads_due[peer] = false;
	for (i = 0; i < n->n_shards; i++)
		if (n->shards[i].heard_leader == peer)
			n->shards[i].heard_leader = 0;
}

/* ---- leadership spread -------------------------------------------------------------- */

bool node_peer_fit(struct node *n, struct shard *s, uint64_t peer,
		   uint64_t now_ms, uint64_t up_ms)
{
	struct group_info gi;
	unsigned i;

	if (!n->up_since_ms[peer] || n->leaving[peer] ||
	    now_ms - n->up_since_ms[peer] < up_ms)
		return false;
	group_info(s->group, &gi);
	for (i = 0; i < gi.n_voters; i++)
		if (gi.voters[i] == peer)
			return gi.match[i] + GROUP_INFLIGHT_MAX >= gi.last_index;
	return false;
}

/* Where the shard should be led; 0: here, or there is no better place.  No node
 * with a full disk is made a leader, and one that has it looks for another. */
static uint64_t better_place(struct node *n, struct shard *s, uint64_t now_ms)
{
	const struct group_conf *c = group_conf(s->group);
	uint64_t voters[GROUP_VOTERS_MAX];
	unsigned i, k, n_voters = 0;

	if (node_is_kept(n)) /* the meta shard's leader says where to */
		return 0;
	for (i = 0; i < c->n && n_voters < GROUP_VOTERS_MAX; i++)
		if (c->members[i].voter)
			voters[n_voters++] = c->members[i].id;
	for (k = 0; k < n_voters; k++) {
		uint64_t to = voters[(s->id + k) % n_voters];

		if (to != n->cfg.id && n->peer_level[to] < LEVEL_REFUSE &&
		    node_peer_fit(n, s, to, now_ms, HANDOVER_UP_MS))
			return to;
		if (n->level < LEVEL_REFUSE)
			break;
	}
	return 0;
}

/* Each shard has a home by its number among its voters; a leader elsewhere hands it
 * over when the home has been up for a while.  A few at a time, so that no gateway
 * sees all its shards move at once. */
static void leaders_spread(struct node *n, uint64_t now_ms)
{
	unsigned moved = 0;
	uint32_t i;

	if (!n->env.net || now_ms < n->handover_ms || n->going)
		return;
	n->handover_ms = now_ms + 200;
	for (i = 0; i < n->n_shards && moved < 4; i++) {
		struct shard *s = &n->shards[i];
		uint64_t to;

		if (!shard_works(s) || s->role != GROUP_LEADER ||
		    now_ms < s->handover_ms)
			continue;
		to = better_place(n, s, now_ms);
		if (!to)
			continue;
		s->handover_ms = now_ms + HANDOVER_RETRY_MS;
		moved += !group_transfer(s->group, to);
	}
}

void lead_tick(struct node *n, uint64_t now_ms)
{
	uint64_t peer;

	for (peer = 1; peer < NET_NODE_MAX; peer++)
		if (n->leads_due[peer] && n->up_since_ms[peer])
			tell_all(n, peer);
	slots_ask(n, now_ms);
	leaders_spread(n, now_ms);
}
