/* One node of the cluster as the meta shard (shard 0) has it: who it is, where it
 * waits for its peers, what is to become of it.  Rows: machine.h, T_NODE; the table
 * that every node keeps of it: members.h. */
#ifndef QUIPU_CONSENSUS_MEMBER_H
#define QUIPU_CONSENSUS_MEMBER_H

#include "base/buf.h"
#include "base/cursor.h"
#include "base/err.h"
#include "consensus/placement.h"

#define MEMBER_ADDRESS_MAX 300 /* bytes of host:port */
#define MEMBER_ID_MAX (PLACE_NODES - 1)

/* What CMD_NODE_SET does. */
enum node_op {
	NODE_SET = 1,     /* make or change a row, or (PLACE_NONE) end it */
	NODE_FOUNDER = 2, /* a node of the configuration file, once for each */
	NODE_REPLACE = 3, /* the node goes on with another, empty disk */
};

struct member {
	uint8_t id;            /* 1..63 */
	enum place_state state;
	uint8_t successor;     /* of a leaving or gone one; 0: whoever is best */
	uint8_t disk_id[16];   /* log/nodemeta.h; zeros: it has not said it yet */
	uint64_t version;      /* of the row; no two changes of the table have one */
	uint64_t since_ms;     /* wall clock: in this state since */
	bool replaced;         /* it has another disk than it began with */
	char address[MEMBER_ADDRESS_MAX + 1]; /* host:port; "": not known */
	char rack[PLACE_RACK_MAX + 1];        /* "": a rack of its own */
};

/* Printable ASCII without spaces, quotes and backslashes; a rack: letters, digits,
 * '.', '_', '-'.  Empty is good. */
bool member_address_ok(const char *p, size_t n);
bool member_rack_ok(const char *p, size_t n);
bool member_has_disk(const struct member *m);
/* May a node go from one state to another by NODE_SET?  PLACE_NONE: no row. */
bool member_may_become(enum place_state from, enum place_state to);

/* As it stands in results, messages and the file `members`:
 *   id, state, successor, replaced u8, disk id 16, version, since varints,
 *   address lv, rack lv */
void member_put(struct buf *out, const struct member *m);
/* ERR_FORMAT: cut short or out of range. */
int member_get(struct member *m, struct cursor *c);

#endif
