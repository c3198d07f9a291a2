/* Rows of the cluster's nodes, in shard 0.  Each change names the version of the row
 * that it was made from; the version is the number of the change, so that one never
 * comes back. */
#include "consensus/machine_impl.h"

static uint8_t *node_row(struct machine *m, uint64_t id)
{
	uint64_t key = __builtin_bswap64(id);
	uint32_t len;

	return row_get(m->store, T_NODE, &key, 8, &len);
}

uint64_t machine_nodes(struct machine *m, uint64_t *founders)
{
	uint8_t *head = node_row(m, 0);

	*founders = head ? get_u64(head + NS_FOUNDERS) : 0;
	return head ? get_u64(head + NS_EPOCH) : 0;
}

static bool is_zero(const uint8_t disk[16])
{
	static const uint8_t none[16];

	return memcmp(disk, none, 16) == 0;
}

bool machine_node(struct machine *m, uint8_t id, struct member *out)
{
	const uint8_t *row = node_row(m, id);

	if (!row)
		return false;
	memset(out, 0, sizeof *out);
	out->id = id;
	out->state = (enum place_state)row[N_STATE];
	out->successor = row[N_SUCCESSOR];
	memcpy(out->disk_id, row + N_DISK, 16);
	out->replaced = row[N_REPLACED];
	out->version = get_u64(row + N_VERSION);
	out->since_ms = get_u64(row + N_SINCE);
	memcpy(out->rack, row + N_RACK, PLACE_RACK_MAX);
	memcpy(out->address, row + N_ADDRESS, MEMBER_ADDRESS_MAX);
	return true;
}

static enum place_state state_of(struct machine *m, uint64_t id)
{
	const uint8_t *row = node_row(m, id);

	return row ? (enum place_state)row[N_STATE] : PLACE_NONE;
}

/* A disk that is known stays until it is replaced, and never comes back. */
static bool disk_allowed(const struct cmd_node *c, const uint8_t *row)
{
	static const uint8_t none[16];
	const uint8_t *disk = row ? row + N_DISK : none;

	if (c->op == NODE_REPLACE)
		return row && !is_zero(c->disk_id) &&
		       memcmp(c->disk_id, disk, 16) &&
		       memcmp(c->disk_id, row + N_FORMER, 16);
	return is_zero(disk) || memcmp(c->disk_id, disk, 16) == 0;
}

static bool successor_allowed(struct machine *m, const struct cmd_node *c)
{
	if (!c->successor)
		return true;
	return (c->state == PLACE_LEAVING || c->state == PLACE_GONE) &&
	       c->successor != c->id &&
	       state_of(m, c->successor) == PLACE_ACTIVE;
}

/* The version of the next change. */
static uint64_t raise_epoch(struct machine *m, uint64_t founder)
{
	const uint64_t key = 0;
	uint8_t *head = node_row(m, 0);
	uint64_t epoch;

	if (!head)
		head = row_put(m->store, T_NODE, &key, 8, NODES_ROW);
	epoch = get_u64(head + NS_EPOCH) + 1;
	put_u64(head + NS_EPOCH, epoch);
	if (founder)
		put_u64(head + NS_FOUNDERS,
			get_u64(head + NS_FOUNDERS) | 1ull << founder);
	row_dirty(m->store, head);
	return epoch;
}

static void fill(struct machine *m, const struct cmd_node *c, uint64_t version)
{
	uint64_t key = __builtin_bswap64((uint64_t)c->id);
	uint8_t *row = node_row(m, c->id);

	if (!row) {
		row = row_put(m->store, T_NODE, &key, 8, NODE_ROW);
		memset(row, 0, NODE_ROW); /* the id may have had one before */
		put_u64(row + N_SINCE, m->time_ms);
	}
	if (row[N_STATE] != (uint8_t)c->state)
		put_u64(row + N_SINCE, m->time_ms);
	if (c->op == NODE_REPLACE) {
		memcpy(row + N_FORMER, row + N_DISK, 16);
		row[N_REPLACED] = 1;
	}
	put_u64(row + N_VERSION, version);
	memcpy(row + N_DISK, c->disk_id, 16);
	row[N_STATE] = (uint8_t)c->state;
	row[N_SUCCESSOR] = c->successor;
	memset(row + N_RACK, 0, NODE_ROW - N_RACK);
	memcpy(row + N_RACK, c->rack, c->rack_len);
	memcpy(row + N_ADDRESS, c->address, c->address_len);
	row_dirty(m->store, row);
}

int machine_apply_node(struct machine *m, const struct cmd_node *c,
		       struct result *r)
{
	uint8_t *row;
	enum place_state was;
	uint64_t version, founders, key = __builtin_bswap64((uint64_t)c->id);

	if (m->shard != 0)
		return ST_BAD_REQUEST;
	row = node_row(m, c->id);
	was = row ? (enum place_state)row[N_STATE] : PLACE_NONE;
	version = row ? get_u64(row + N_VERSION) : 0;
	r->n = version;
	if (c->op == NODE_FOUNDER) {
		/* Once, and never again when it was taken off the list. */
		machine_nodes(m, &founders);
		if (founders >> c->id & 1)
			return ST_EXISTS;
		if (row) {
			raise_epoch(m, c->id);
			m->nodes_changed = true;
			return ST_EXISTS;
		}
	}
	if (version != c->expect)
		return ST_CHANGED;
	if (c->op != NODE_SET && c->state != PLACE_ACTIVE)
		return ST_BAD_REQUEST;
	if (c->op == NODE_REPLACE) {
		if (!row)
			return ST_NOT_FOUND;
	} else if (!member_may_become(was, c->state)) {
		return row ? ST_WRONG_STATE : ST_NOT_FOUND;
	}
	if (c->state == PLACE_NONE) {
		raise_epoch(m, 0);
		row_del(m->store, T_NODE, &key, 8);
		r->n = 0;
		m->nodes_changed = true;
		return ST_OK;
	}
	row = node_row(m, c->id);
	if (!disk_allowed(c, row) || !successor_allowed(m, c))
		return ST_WRONG_STATE;
	r->n = raise_epoch(m, c->op == NODE_FOUNDER ? c->id : 0);
	fill(m, c, r->n);
	m->nodes_changed = true;
	return ST_OK;
}

void machine_query_nodes(struct machine *m, struct result *r, struct buf *out)
{
	struct member one;
	uint8_t id;

	if (m->shard != 0) {
		r->status = ST_BAD_REQUEST;
		return;
	}
	r->n = machine_nodes(m, &r->stamp);
	for (id = 1; id <= MEMBER_ID_MAX; id++) {
		if (!machine_node(m, id, &one))
			continue;
		member_put(out, &one);
		r->n_records++;
	}
	r->records = out->data;
	r->records_len = out->len;
}
