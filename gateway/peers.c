#include "gateway/peers.h"
#include "base/logf.h"
#include "consensus/members.h"

#include <inttypes.h>
#include <string.h>

/* ---- who may come -------------------------------------------------------------- */

/* That a node is not in the table, or not any more, is no word against its disk.  The
 * meta shard enters the founders one after the other: till then they need no row. */
static int by_table(struct peers *p, uint64_t id, const uint8_t disk_id[16],
		    struct err *e)
{
	const struct member *m = &node_members(p->node)->m[id];
	bool other = member_has_disk(m) && memcmp(m->disk_id, disk_id, 16);
	int rv;

	if (m->state == PLACE_NONE && p->known->founders >> id & 1)
		return 0;
	rv = node_admit(p->node, id, disk_id, e);
	if (rv == ERR_PERM && !other)
		rv = e->code = ERR_NOT_FOUND;
	return rv;
}

/* What this node has seen, then what the cluster has agreed on; written down only
 * where both agree.  A founder without its disk is no candidate for a replacement,
 * so the table does not get to hear of it. */
static int admit(void *arg, uint64_t id, const uint8_t disk_id[16], bool joined,
		 struct err *e)
{
	struct peers *p = arg;
	struct err table = { 0, "" };
	int seen = known_check(p->known, id, disk_id, joined, e), rv = 0;

	if (seen && (seen != ERR_PERM || !joined))
		return seen;
	if (p->node && disk_id)
		rv = by_table(p, id, disk_id, &table);
	if (seen)
		return seen;
	if (rv) {
		*e = table;
		return rv;
	}
	return known_admit(p->known, id, disk_id, joined, e);
}

static bool refused(void *arg, uint64_t id, const char *why)
{
	struct peers *p = arg;

	(void)why; /* the link has logged it */
	return known_refused(p->known, id);
}

struct link_admit peers_admit(struct peers *p)
{
	return (struct link_admit){ admit, refused, p };
}

/* ---- what the table says --------------------------------------------------------- */

static void learn(struct peers *p, const struct members *t, const struct member *m)
{
	bool joined = m->replaced || !(t->founders >> m->id & 1);
	const uint8_t *disk = member_has_disk(m) ? m->disk_id : NULL;
	struct err e = { 0, "" };
	int rv = 0;

	if (m->replaced)
		rv = known_approve(p->known, m->id, disk, m->version, &e);
	else if (disk)
		rv = known_learn(p->known, m->id, disk, joined, &e);
	if (rv)
		log_event(LOG_WARN, "known_not_saved", "why=%s", log_quote(e.msg));
}

static void look(void *arg)
{
	struct peers *p = arg;
	const struct members *t = node_members(p->node);
	struct node_info ni;
	unsigned id;

	if (!t->epoch)
		return;
	node_info(p->node, &ni);
	for (id = 1; id < PLACE_NODES; id++) {
		const struct member *m = &t->m[id];
		struct err e = { 0, "" };

		if (id == ni.id)
			continue;
		if (m->state == PLACE_GONE ||
		    (m->state == PLACE_NONE && !(p->configured >> id & 1))) {
			link_peer_drop(p->net, id);
			continue;
		}
		if (m->state == PLACE_NONE)
			continue;
		learn(p, t, m);
		if (m->address[0] && link_peer_set(p->net, id, m->address, &e))
			log_event(LOG_WARN, "peer_address_bad", "peer=%u why=%s",
				  id, log_quote(e.msg));
	}
}

void peers_watch(struct peers *p, struct net *net, struct node *node)
{
	p->net = net;
	p->node = node;
	if (!net)
		return;
	node_members_watch(node, look, p);
	look(p);
}
