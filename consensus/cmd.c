/* Encodings of commands, queries, results and records on links.
 *
 *   command   type u8, then by type:
 *     ACCOUNT_ADD     account u64
 *     DEVICE_ADD      account u64
 *     DEVICE_REMOVE   account u64, device varint
 *     CURSOR          account u64, device varint, cursor varint
 *     META_INIT       shards varint, [level varint, from level 2 on]
 *     FEATURE         level varint
 *     NODE_SET        op, id, state, successor u8, version varint, disk id 16,
 *                     address lv, rack lv
 *     RETAIN          op u8, then by op:
 *       TRIM          base, end, epoch varints
 *       DEAD          base, end, epoch, gen, block varints, bits lv
 *       WANT          base, end, epoch, gen varints
 *       ROLL          nothing
 *       RECEIPTS      end varint, lv: from u64, device, seq << 1 | part, offset
 *                     varints, mid 16, Lamport, stamp, time, number varints, ...
 *       POLICY        ttl ms varint
 *       HOLD          account u64, on u8
 *       ERASE         account u64
 *     SEND            to u64, from u64, device varint, part u8, class u8,
 *                     flags varint, ttl varint, seq, after, seen varints,
 *                     mid 16, [part 1: origin shard, offset, Lamport varints],
 *                     headers lv, body lv
 *   lv = varint length, then that many bytes */
#include "consensus/cmd.h"
#include "base/assert.h"
#include "base/cursor.h"

static const struct {
	int http;
	const char *problem, *title;
} statuses[] = {
#define X(name, num, http, problem, title) [num] = { http, problem, title },
#include "consensus/status.tbl"
#undef X
};
#define N_STATUSES (int)(sizeof statuses / sizeof statuses[0])

const char *status_problem(int st)
{
	return st >= 0 && st < N_STATUSES ? statuses[st].problem : "internal";
}

const char *status_title(int st)
{
	return st >= 0 && st < N_STATUSES ? statuses[st].title
					  : "Internal error";
}

int status_http(int st)
{
	return st >= 0 && st < N_STATUSES ? statuses[st].http : 500;
}

static void send_encode(struct buf *out, const struct cmd_send *s)
{
	uint8_t *p = buf_extend(out, 16);

	put_u64(p, s->to);
	put_u64(p + 8, s->from);
	buf_varint(out, s->device);
	buf_u8(out, s->part);
	buf_u8(out, s->cls);
	buf_varint(out, s->flags);
	buf_varint(out, s->ttl);
	buf_varint(out, s->seq);
	buf_varint(out, s->after);
	buf_varint(out, s->seen);
	buf_put(out, s->mid, 16);
	if (s->part) {
		buf_varint(out, s->origin_shard);
		buf_varint(out, s->origin_offset);
		buf_varint(out, s->origin_lamport);
	}
	buf_lv(out, s->headers, s->headers_len);
	buf_lv(out, s->body, s->body_len);
}

static void retain_encode(struct buf *out, const struct cmd *c)
{
	const struct cmd_retain *r = &c->retain;

	buf_u8(out, (uint8_t)r->op);
	switch (r->op) {
	case RETAIN_TRIM:
	case RETAIN_DEAD:
	case RETAIN_WANT:
		buf_varint(out, r->base);
		buf_varint(out, r->end);
		buf_varint(out, r->epoch);
		if (r->op != RETAIN_TRIM)
			buf_varint(out, r->gen);
		if (r->op == RETAIN_DEAD) {
			buf_varint(out, r->block);
			buf_lv(out, r->bytes, r->bytes_len);
		}
		break;
	case RETAIN_ROLL:
		break;
	case RETAIN_RECEIPTS:
		buf_varint(out, r->end);
		buf_lv(out, r->bytes, r->bytes_len);
		break;
	case RETAIN_POLICY:
		buf_varint(out, r->ttl_ms);
		break;
	case RETAIN_HOLD:
		buf_u64(out, c->account);
		buf_u8(out, r->on);
		break;
	case RETAIN_ERASE:
		buf_u64(out, c->account);
		break;
	}
}

static void node_encode(struct buf *out, const struct cmd_node *n)
{
	buf_u8(out, (uint8_t)n->op);
	buf_u8(out, n->id);
	buf_u8(out, (uint8_t)n->state);
	buf_u8(out, n->successor);
	buf_varint(out, n->expect);
	buf_put(out, n->disk_id, 16);
	buf_lv(out, n->address, n->address_len);
	buf_lv(out, n->rack, n->rack_len);
}

struct cmd cmd_node_of(enum node_op op, const struct member *m)
{
	struct cmd c = { .type = CMD_NODE_SET };

	c.node = (struct cmd_node){ .op = op, .expect = m->version, .id = m->id,
				    .successor = m->successor,
				    .state = m->state, .disk_id = m->disk_id,
				    .address = m->address, .rack = m->rack,
				    .address_len = (uint32_t)strlen(m->address),
				    .rack_len = (uint32_t)strlen(m->rack) };
	return c;
}

void retain_receipt_put(struct buf *out, const struct retain_receipt *r)
{
	buf_u64(out, r->from);
	buf_varint(out, r->device);
	buf_varint(out, r->id);
	buf_varint(out, r->offset);
	buf_put(out, r->mid, 16);
	buf_varint(out, r->lamport);
	buf_varint(out, r->stamp);
	buf_varint(out, r->time_ms);
	buf_varint(out, r->n);
}

void cmd_encode(struct buf *out, const struct cmd *c)
{
	buf_u8(out, (uint8_t)c->type);
	switch (c->type) {
	case CMD_ACCOUNT_ADD:
	case CMD_DEVICE_ADD:
		buf_u64(out, c->account);
		break;
	case CMD_DEVICE_REMOVE:
		buf_u64(out, c->account);
		buf_varint(out, c->device);
		break;
	case CMD_CURSOR:
		buf_u64(out, c->account);
		buf_varint(out, c->device);
		buf_varint(out, c->cursor);
		break;
	case CMD_META_INIT:
		buf_varint(out, c->shards);
		if (c->level > 1) /* else as older programs know it */
			buf_varint(out, c->level);
		break;
	case CMD_FEATURE:
		buf_varint(out, c->level);
		break;
	case CMD_SEND:
		send_encode(out, &c->send);
		break;
	case CMD_NODE_SET:
		node_encode(out, &c->node);
		break;
	case CMD_RETAIN:
		retain_encode(out, c);
		break;
	}
}

/* A varint that must fit; sets bad otherwise. */
static uint64_t bounded(struct cursor *c, uint64_t max)
{
	uint64_t v = cursor_varint(c);

	if (v > max) {
		c->bad = true;
		return 0;
	}
	return v;
}

#define U53_MAX ((1ull << 53) - 1)

static int send_decode(struct cmd_send *s, struct cursor *c, struct err *e)
{
	const uint8_t *mid;
	size_t n;

	s->to = cursor_u64(c);
	s->from = cursor_u64(c);
	s->device = (uint32_t)bounded(c, UINT32_MAX);
	s->part = cursor_u8(c);
	s->cls = cursor_u8(c);
	s->flags = (uint32_t)bounded(c, UINT32_MAX);
	s->ttl = (uint32_t)bounded(c, TTL_MAX_S);
	s->seq = bounded(c, U53_MAX);
	s->after = bounded(c, U53_MAX);
	s->seen = bounded(c, U53_MAX);
	mid = cursor_bytes(c, 16);
	if (mid)
		memcpy(s->mid, mid, 16);
	if (s->part) {
		s->origin_shard = (uint32_t)bounded(c, UINT32_MAX);
		s->origin_offset = bounded(c, U53_MAX);
		s->origin_lamport = bounded(c, U53_MAX);
	}
	s->headers = cursor_lv(c, RECORD_HEADERS_MAX, &n);
	s->headers_len = (uint32_t)n;
	s->body = cursor_lv(c, BODY_MAX, &n);
	s->body_len = (uint32_t)n;
	if (c->bad)
		return err_set(e, ERR_FORMAT, "send: cut short or out of range");
	if (!s->to || !s->from || !s->device || !s->seq || s->part > 1 ||
	    s->cls > 7 || s->after >= s->seq ||
	    (s->part == 1 && s->to != s->from))
		return err_set(e, ERR_FORMAT,
			       "send: to, from, device, seq, after, part or "
			       "class is out of range");
	return 0;
}

int retain_receipt_get(struct retain_receipt *r, struct cursor *c)
{
	const uint8_t *p;

	r->from = cursor_u64(c);
	r->device = (uint32_t)bounded(c, UINT32_MAX);
	r->id = cursor_varint(c);
	r->offset = cursor_varint(c);
	p = cursor_bytes(c, 16);
	if (p)
		memcpy(r->mid, p, 16);
	r->lamport = bounded(c, U53_MAX);
	r->stamp = bounded(c, U53_MAX);
	r->time_ms = cursor_varint(c);
	r->n = bounded(c, U53_MAX);
	return c->bad ? ERR_FORMAT : 0;
}

static void retain_decode(struct cmd *c, struct cursor *in)
{
	struct cmd_retain *r = &c->retain;
	struct retain_receipt one;
	struct cursor list;
	size_t n = 0;

	r->raw = in->p;
	r->op = (enum retain_op)cursor_u8(in);
	switch (r->op) {
	case RETAIN_TRIM:
	case RETAIN_DEAD:
	case RETAIN_WANT:
		r->base = bounded(in, U53_MAX);
		r->end = bounded(in, U53_MAX);
		r->epoch = bounded(in, U53_MAX);
		if (r->op != RETAIN_TRIM)
			r->gen = (uint32_t)bounded(in, INT32_MAX);
		if (r->op == RETAIN_DEAD) {
			r->block = (uint32_t)bounded(in, INT32_MAX);
			r->bytes = cursor_lv(in, RETAIN_BITS_MAX, &n);
			in->bad |= !n;
		}
		in->bad |= r->base >= r->end;
		break;
	case RETAIN_ROLL:
		break;
	case RETAIN_RECEIPTS:
		r->end = bounded(in, U53_MAX);
		r->bytes = cursor_lv(in, RETAIN_RECEIPTS_MAX, &n);
		list = cursor_of(r->bytes, in->bad ? 0 : n);
		while (!in->bad && cursor_left(&list))
			in->bad |= retain_receipt_get(&one, &list) != 0;
		break;
	case RETAIN_POLICY:
		r->ttl_ms = bounded(in, TTL_MAX_S * 1000ull);
		in->bad |= r->ttl_ms < RETAIN_TTL_MIN_MS;
		break;
	case RETAIN_HOLD:
		c->account = cursor_u64(in);
		n = cursor_u8(in);
		in->bad |= n > 1 || !c->account;
		r->on = n;
		n = 0;
		break;
	case RETAIN_ERASE:
		c->account = cursor_u64(in);
		in->bad |= !c->account;
		break;
	default:
		in->bad = true;
	}
	r->bytes_len = (uint32_t)n;
	r->raw_len = in->bad ? 0 : (uint32_t)(in->p - r->raw);
}

static void node_decode(struct cmd_node *n, struct cursor *in)
{
	size_t len;

	n->op = (enum node_op)cursor_u8(in);
	n->id = cursor_u8(in);
	n->state = (enum place_state)cursor_u8(in);
	n->successor = cursor_u8(in);
	n->expect = bounded(in, U53_MAX);
	n->disk_id = cursor_bytes(in, 16);
	n->address = (const char *)cursor_lv(in, MEMBER_ADDRESS_MAX, &len);
	n->address_len = (uint32_t)len;
	in->bad |= !member_address_ok(n->address, len);
	n->rack = (const char *)cursor_lv(in, PLACE_RACK_MAX, &len);
	n->rack_len = (uint32_t)len;
	in->bad |= !member_rack_ok(n->rack, len);
	in->bad |= n->op < NODE_SET || n->op > NODE_REPLACE || !n->id ||
		   n->id > MEMBER_ID_MAX || n->successor > MEMBER_ID_MAX ||
		   (unsigned)n->state >= PLACE_STATES;
}

int cmd_decode(struct cmd *c, const uint8_t *p, size_t n, struct err *e)
{
	struct cursor in = cursor_of(p, n);
	int rv = 0;

	memset(c, 0, sizeof *c);
	c->type = (enum cmd_type)cursor_u8(&in);
	switch (c->type) {
	case CMD_ACCOUNT_ADD:
	case CMD_DEVICE_ADD:
		c->account = cursor_u64(&in);
		break;
	case CMD_DEVICE_REMOVE:
		c->account = cursor_u64(&in);
		c->device = (uint32_t)bounded(&in, UINT32_MAX);
		break;
	case CMD_CURSOR:
		c->account = cursor_u64(&in);
		c->device = (uint32_t)bounded(&in, UINT32_MAX);
		c->cursor = bounded(&in, U53_MAX);
		break;
	case CMD_META_INIT:
		c->shards = (uint32_t)bounded(&in, SHARDS_MAX);
		if (!c->shards)
			in.bad = true;
		if (cursor_left(&in)) {
			c->level = (uint32_t)bounded(&in, FEATURE_LEVEL_MAX);
			in.bad |= c->level < 2;
		}
		break;
	case CMD_FEATURE:
		c->level = (uint32_t)bounded(&in, FEATURE_LEVEL_MAX);
		in.bad |= c->level < 2;
		break;
	case CMD_SEND:
		rv = send_decode(&c->send, &in, e);
		break;
	case CMD_NODE_SET:
		node_decode(&c->node, &in);
		break;
	case CMD_RETAIN:
		retain_decode(c, &in);
		break;
	default:
		return err_set(e, ERR_FORMAT, "unknown command type %d",
			       (int)c->type);
	}
	if (rv)
		return rv;
	if (!cursor_done(&in))
		return err_set(e, ERR_FORMAT,
			       "command type %d: wrong length or range",
			       (int)c->type);
	if (c->type != CMD_SEND && c->type != CMD_META_INIT &&
	    c->type != CMD_FEATURE && c->type != CMD_NODE_SET &&
	    c->type != CMD_RETAIN && !c->account)
		return err_set(e, ERR_FORMAT, "account id 0");
	return 0;
}

void query_encode(struct buf *out, const struct query *q)
{
	buf_u8(out, (uint8_t)q->type);
	buf_u64(out, q->account);
	buf_varint(out, q->device);
	buf_varint(out, q->from);
	buf_u8(out, q->back);
	buf_varint(out, q->limit);
	buf_varint(out, q->max_bytes);
}

int query_decode(struct query *q, const uint8_t *p, size_t n, struct err *e)
{
	struct cursor in = cursor_of(p, n);
	uint8_t back;

	q->type = (enum query_type)cursor_u8(&in);
	q->account = cursor_u64(&in);
	q->device = (uint32_t)bounded(&in, UINT32_MAX);
	q->from = bounded(&in, U53_MAX);
	back = cursor_u8(&in);
	q->back = back;
	q->limit = (uint32_t)bounded(&in, QUERY_LIMIT_MAX);
	q->max_bytes = (uint32_t)bounded(&in, QUERY_BYTES_MAX);
	if (!cursor_done(&in) || back > 1 ||
	    !q->account != (q->type == QUERY_NODES || q->type == QUERY_MARK) ||
	    (q->type != QUERY_ACCOUNT && q->type != QUERY_PAGE &&
	     q->type != QUERY_NODES && q->type != QUERY_MARK))
		return err_set(e, ERR_FORMAT, "malformed query");
	return 0;
}

/* Fields of a result that are not zero, as a bit set, then their values. */
void result_encode(struct buf *out, const struct result *r)
{
	const uint64_t v[] = {
		(uint64_t)r->status, r->dup, r->lamport, r->stamp, r->offset,
		r->time_ms, r->n, r->shard, r->device, r->inbox_end,
		r->inbox_oldest, r->cursor, r->epoch, r->devices, r->n_devices,
		r->n_records, r->complete, r->next,
	};
	uint32_t mask = 0, i;

	for (i = 0; i < sizeof v / sizeof v[0]; i++)
		mask |= (uint32_t)(v[i] != 0) << i;
	if (r->records_len)
		mask |= 1u << 31;
	buf_varint(out, mask);
	for (i = 0; i < sizeof v / sizeof v[0]; i++)
		if (v[i])
			buf_varint(out, v[i]);
	if (r->records_len)
		buf_lv(out, r->records, r->records_len);
}

int result_decode(struct result *r, const uint8_t *p, size_t n, struct err *e)
{
	struct cursor in = cursor_of(p, n);
	uint64_t v[18], mask = cursor_varint(&in);
	uint32_t i;

	memset(r, 0, sizeof *r);
	for (i = 0; i < 18; i++)
		v[i] = mask & (1u << i) ? cursor_varint(&in) : 0;
	if (mask & (1u << 31))
		r->records = cursor_lv(&in, RESULT_RECORDS_MAX, &r->records_len);
	if (!cursor_done(&in) || (mask & ~(uint64_t)0x8003ffff) ||
	    v[0] > INT32_MAX)
		return err_set(e, ERR_FORMAT, "malformed result");
	r->status = (int)v[0];
	r->dup = v[1];
	r->lamport = v[2];
	r->stamp = v[3];
	r->offset = v[4];
	r->time_ms = v[5];
	r->n = v[6];
	r->shard = (uint32_t)v[7];
	r->device = (uint32_t)v[8];
	r->inbox_end = v[9];
	r->inbox_oldest = v[10];
	r->cursor = v[11];
	r->epoch = (uint32_t)v[12];
	r->devices = (uint32_t)v[13];
	r->n_devices = (uint32_t)v[14];
	r->n_records = (uint32_t)v[15];
	r->complete = v[16];
	r->next = v[17];
	return 0;
}

/* The record as a reader needs it: no nonce (it salts the leaf, not the content)
 * and no chain. */
void record_put_wire(struct buf *out, const struct record *r)
{
	uint8_t *p = buf_extend(out, 20);

	p[0] = r->kind;
	p[1] = r->flags;
	p[2] = r->cls;
	p[3] = r->part;
	put_u64(p + 4, r->key);
	put_u64(p + 12, r->sender);
	buf_varint(out, r->device);
	buf_varint(out, r->msg_flags);
	buf_varint(out, r->ttl);
	buf_varint(out, r->offset);
	buf_varint(out, r->time_ms);
	buf_varint(out, r->lamport);
	buf_varint(out, r->n);
	buf_varint(out, r->seq);
	buf_varint(out, r->after);
	buf_put(out, r->mid, 16);
	if (r->flags & RECORD_HAS_ORIGIN) {
		buf_varint(out, r->origin_shard);
		buf_varint(out, r->origin_offset);
		buf_varint(out, r->origin_lamport);
	}
	buf_lv(out, r->headers, r->headers_len);
	buf_lv(out, r->payload, r->payload_len);
}

int record_get_wire(struct record *r, struct cursor *c)
{
	const uint8_t *p = cursor_bytes(c, 20), *mid;
	size_t n;

	memset(r, 0, sizeof *r);
	if (!p)
		return ERR_FORMAT;
	r->kind = p[0];
	r->flags = p[1];
	r->cls = p[2];
	r->part = p[3];
	r->key = get_u64(p + 4);
	r->sender = get_u64(p + 12);
	r->device = (uint32_t)bounded(c, UINT32_MAX);
	r->msg_flags = (uint32_t)bounded(c, UINT32_MAX);
	r->ttl = (uint32_t)bounded(c, UINT32_MAX);
	r->offset = cursor_varint(c);
	r->time_ms = cursor_varint(c);
	r->lamport = cursor_varint(c);
	r->n = cursor_varint(c);
	r->seq = cursor_varint(c);
	r->after = cursor_varint(c);
	mid = cursor_bytes(c, 16);
	if (mid)
		memcpy(r->mid, mid, 16);
	if (r->flags & RECORD_HAS_ORIGIN) {
		r->origin_shard = (uint32_t)bounded(c, UINT32_MAX);
		r->origin_offset = cursor_varint(c);
		r->origin_lamport = cursor_varint(c);
	}
	r->headers = cursor_lv(c, RECORD_HEADERS_MAX, &n);
	r->headers_len = (uint32_t)n;
	r->payload = cursor_lv(c, RECORD_PAYLOAD_MAX, &n);
	r->payload_len = (uint32_t)n;
	return c->bad ? ERR_FORMAT : 0;
}
