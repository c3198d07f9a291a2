/* The state machine of a shard against a second spelling of its rules
 * (protocol.md 6), on two replicas with different stores.  The input is a script
 * of commands, batches, checkpoints, crashes and pages.  Held: every result is the
 * model's; both replicas have equal results, roots and pages; a replica that lost
 * what was not in its checkpoint is the same again after replay. */
#include "base/alloc.h"
#include "base/assert.h"
#include "base/cursor.h"
#include "base/logf.h"
#include "consensus/group.h"
#include "consensus/machine.h"
#include "tests/lib/disk_sim.h"
#include "tests/lib/kv_mem.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ACCOUNTS = 3, NUMBERS = 40, ENTRIES_MAX = 160, BATCH_MAX = 32, STEPS_MAX = 400 };

/* ---- the model ------------------------------------------------------------------ */

struct m_sent { /* an accepted (seq, part) */
	uint64_t id, offset, lamport, stamp, n, time_ms;
	uint8_t mid[16];
};
struct m_sender {
	uint64_t floor;
	unsigned n;
	struct m_sent set[DEDUPE_SET_MAX];
};
struct m_device {
	uint64_t cursor;
	uint32_t epoch; /* 0: never added */
	bool removed;
};
struct m_account {
	bool exists;
	uint32_t next, devices[DEVICES_MAX], n_devices;
	uint64_t last_n;
	struct m_device dev[NUMBERS];
};
struct model {
	struct m_account account[ACCOUNTS + 1];
	struct m_sender sender[ACCOUNTS + 1][4];
	uint64_t clock, offset;
	uint64_t time_ms, last_ms; /* of the batch, of the last record */
};

static struct m_sent *sent_find(struct m_sender *s, uint64_t id)
{
	unsigned i;

	for (i = 0; i < s->n; i++)
		if (s->set[i].id == id)
			return &s->set[i];
	return NULL;
}

static struct m_sent *sent_add(struct m_sender *s, uint64_t id)
{
	struct m_sent *x;

	if (s->n == DEDUPE_SET_MAX) {
		unsigned i, least = 0;

		for (i = 1; i < s->n; i++)
			if (s->set[i].id < s->set[least].id)
				least = i;
		if (s->set[least].id / 2 > s->floor)
			s->floor = s->set[least].id / 2;
		s->set[least] = s->set[--s->n];
	}
	x = &s->set[s->n++];
	x->id = id;
	return x;
}

/* More than 2^32 beyond the clock, or than the shard's time allows. */
static bool is_ahead(const struct model *m, uint64_t lamport)
{
	return lamport > m->clock &&
	       (lamport - m->clock > 1ull << 32 ||
		(lamport > 1ull << 32 && lamport / 2048 >= m->time_ms &&
		 lamport > m->time_ms * 2048));
}

static int model_send(struct model *m, const struct cmd_send *c, struct result *r)
{
	struct m_sender *s = &m->sender[c->from][c->device];
	struct m_account *a = &m->account[c->to];
	uint64_t id = 2 * c->seq + c->part;
	struct m_sent *x = sent_find(s, id);

	if (!a->exists)
		return ST_UNKNOWN_RECIPIENT;
	if (x) {
		r->dup = true;
		r->lamport = x->lamport;
		r->stamp = x->stamp;
		r->offset = x->offset;
		r->n = x->n;
		r->time_ms = x->time_ms;
		return memcmp(x->mid, c->mid, 16) ? ST_SEQ_CONFLICT : ST_OK;
	}
	if (c->seq <= s->floor)
		return ST_SETTLED;
	if (!c->part && c->after > s->floor && !sent_find(s, 2 * c->after))
		return ST_GAP;
	if (is_ahead(m, c->seen) || (c->part && is_ahead(m, c->origin_lamport)))
		return ST_CLOCK;
	if (c->seen > m->clock)
		m->clock = c->seen;
	if (c->part && c->origin_lamport > m->clock)
		m->clock = c->origin_lamport;
	m->clock++;
	x = sent_add(s, id);
	memcpy(x->mid, c->mid, 16);
	r->stamp = x->stamp = m->clock;
	r->lamport = x->lamport = c->part ? c->origin_lamport : m->clock;
	r->n = x->n = c->cls ? ++a->last_n : 0;
	r->offset = x->offset = m->offset++;
	r->time_ms = x->time_ms = m->last_ms = m->time_ms;
	return ST_OK;
}

static int model_device_add(struct m_account *a, struct result *r)
{
	unsigned i;

	for (i = 0; i < DEVICES_MAX && a->devices[i]; i++)
		;
	if (!a->exists)
		return ST_NOT_FOUND;
	if (i == DEVICES_MAX)
		return ST_TOO_MANY_DEVICES;
	AN(a->next + 1 < NUMBERS);
	r->device = a->devices[i] = ++a->next;
	r->epoch = 1;
	a->dev[r->device].epoch = 1;
	a->dev[r->device].cursor = a->n_devices++ ? a->last_n : 0;
	return ST_OK;
}

static int model_device_remove(struct m_account *a, uint32_t device)
{
	unsigned i;

	for (i = 0; i < DEVICES_MAX; i++)
		if (device && a->devices[i] == device)
			break;
	if (!a->exists || i == DEVICES_MAX)
		return ST_NOT_FOUND;
	a->devices[i] = 0;
	a->n_devices--;
	a->dev[device].removed = true;
	a->dev[device].epoch++;
	return ST_OK;
}

static int model_cursor(struct m_account *a, uint32_t device, uint64_t cursor)
{
	struct m_device *d = &a->dev[device % NUMBERS];

	if (!a->exists)
		return ST_NOT_FOUND;
	if (cursor > a->last_n)
		return ST_AHEAD;
	if (device >= NUMBERS || !d->epoch)
		return ST_NOT_FOUND;
	if (d->removed)
		return ST_DEVICE_REMOVED;
	if (cursor > d->cursor)
		d->cursor = cursor;
	return ST_OK;
}

static void model_apply(struct model *m, const struct cmd *c, struct result *r)
{
	struct m_account *a = &m->account[c->account];

	memset(r, 0, sizeof *r);
	switch (c->type) {
	case CMD_ACCOUNT_ADD:
		r->status = a->exists ? ST_EXISTS : ST_OK;
		a->exists = true;
		break;
	case CMD_DEVICE_ADD:
		r->status = model_device_add(a, r);
		break;
	case CMD_DEVICE_REMOVE:
		r->status = model_device_remove(a, c->device);
		break;
	case CMD_CURSOR:
		r->status = model_cursor(a, c->device, c->cursor);
		break;
	case CMD_SEND:
		r->status = model_send(m, &c->send, r);
		break;
	case CMD_META_INIT:
	case CMD_FEATURE:
		r->status = ST_BAD_REQUEST; /* not shard 0 */
		break;
	case CMD_NODE_SET:
		r->status = ST_BAD_REQUEST; /* the same */
		break;
	case CMD_RETAIN:
		break; /* tests/unit/test_machine_retain.c */
	}
}

/* ---- replicas --------------------------------------------------------------------- */

struct replica {
	struct sim sim;
	struct disk_sim *medium;
	struct disk *disk;
	struct store_config cfg;
	struct machine m;
	bool checkpoint;
};

struct script {
	struct model model;
	struct replica r[2];
	struct entry *entry[ENTRIES_MAX + 1]; /* by index, from 1 */
	uint64_t last;
	struct cmd batch[BATCH_MAX];
	unsigned n;
	uint64_t time_ms;
	uint8_t nonce;
};

static struct record recs[BATCH_RECORDS_MAX];
static struct result results[BATCH_RECORDS_MAX];

static void no_log(void *arg, const char *line)
{
	(void)arg;
	(void)line;
}

static void replica_start(struct replica *r)
{
	struct err e;

	r->disk = disk_sim_start(r->medium);
	AZ(store_open(&r->m.store, r->disk, &kv_mem, NULL, &r->cfg, &e));
	r->m.shard = r->cfg.shard;
	r->m.recs = recs;
	r->m.results = results;
	r->checkpoint = false;
}

static void replica_open(struct replica *r, unsigned which)
{
	sim_init(&r->sim, which);
	r->medium = disk_sim_new(&r->sim, 1, which, &disk_sim_fast);
	r->cfg = (struct store_config){ .shard = 7,
					.segment_bytes = which ? 4096 : 1 << 20,
					.dirty_max_bytes = 1 << 20,
					.tail_cache_bytes = which ? 1 : 1 << 16,
					.row_cache_max = which ? 1 : 256 };
	replica_start(r);
}

static void settle(struct replica *r)
{
	int owner;

	while (sim_step(&r->sim, &owner))
		;
}

static void replica_close(struct replica *r)
{
	settle(r);
	disk_sim_kill(r->medium);
	store_close(r->m.store);
	settle(r);
	disk_sim_free(r->medium);
	sim_release(&r->sim);
}

static void apply(struct script *s, struct replica *r, uint64_t index, unsigned *n)
{
	struct err e;

	if (machine_apply(&r->m, s->entry[index], n, &e))
		WRONG(e.msg);
}

static void crash(struct script *s, struct replica *r, bool power)
{
	uint64_t i;
	unsigned n;

	if (power)
		disk_sim_crash(r->medium);
	else
		disk_sim_kill(r->medium);
	store_close(r->m.store);
	settle(r);
	replica_start(r);
	i = store_meta(r->m.store)->applied_index;
	AN(i <= s->last);
	while (++i <= s->last)
		apply(s, r, i, &n);
}

static void on_checkpoint(void *arg, int status, uint64_t index, uint64_t term,
			  const struct err *e)
{
	struct replica *r = arg;

	(void)e;
	AZ(status);
	AN(index && term == 1);
	r->checkpoint = false;
}

static void checkpoint(struct script *s, struct replica *r, bool wait)
{
	if (s->last && !r->checkpoint &&
	    store_checkpoint(r->m.store, on_checkpoint, r) == 0)
		r->checkpoint = true;
	if (wait) {
		settle(r);
		AZ(r->checkpoint);
	}
}

static void same_root(struct script *s)
{
	uint8_t a[32], b[32];

	store_root(s->r[0].m.store, a);
	store_root(s->r[1].m.store, b);
	AZ(memcmp(a, b, 32));
	AN(store_meta(s->r[0].m.store)->next_offset == s->model.offset);
	AN(store_meta(s->r[1].m.store)->next_offset == s->model.offset);
}

static void expect(const struct result *got, const struct result *want)
{
	AN(got->status == want->status);
	AN(got->dup == want->dup && got->offset == want->offset);
	AN(got->lamport == want->lamport && got->stamp == want->stamp);
	AN(got->n == want->n && got->time_ms == want->time_ms);
	AN(got->device == want->device && got->epoch == want->epoch);
}

static void apply_batch(struct script *s)
{
	struct buf b = BUF_INIT, one = BUF_INIT;
	struct result want[BATCH_MAX];
	unsigned i, k, n;
	struct entry *e;

	if (!s->n || s->last == ENTRIES_MAX)
		goto out;
	buf_u8(&b, GROUP_COMMAND);
	buf_u64(&b, s->time_ms);
	buf_varint(&b, s->n);
	s->model.time_ms = s->time_ms > s->model.last_ms ? s->time_ms
							 : s->model.last_ms;
	for (i = 0; i < s->n; i++) {
		memset(buf_extend(&b, 16), ++s->nonce, 16);
		buf_clear(&one);
		cmd_encode(&one, &s->batch[i]);
		buf_lv(&b, one.data, one.len);
		model_apply(&s->model, &s->batch[i], &want[i]);
	}
	e = entry_new(7, (uint32_t)b.len);
	memcpy(entry_payload(e), b.data, b.len);
	e->term = 1;
	e->index = ++s->last;
	s->entry[s->last] = e;
	for (k = 0; k < 2; k++) {
		apply(s, &s->r[k], s->last, &n);
		AN(n == s->n);
		for (i = 0; i < n; i++)
			expect(&results[i], &want[i]);
	}
	same_root(s);
out:
	s->n = 0;
	buf_release(&b);
	buf_release(&one);
}

/* ---- steps -------------------------------------------------------------------------- */

static struct cmd *next_cmd(struct script *s)
{
	if (s->n == BATCH_MAX)
		apply_batch(s);
	memset(&s->batch[s->n], 0, sizeof s->batch[0]);
	return &s->batch[s->n++];
}

static void add_send(struct script *s, uint64_t seq, uint8_t who, uint8_t how)
{
	static const uint8_t bytes[8] = "payload";
	struct cmd_send *c;
	uint64_t clock = s->model.clock;

	next_cmd(s)->type = CMD_SEND;
	c = &s->batch[s->n - 1].send;
	c->from = 1 + (who & 3) % ACCOUNTS;
	c->to = 1 + (who >> 2 & 3) % ACCOUNTS;
	c->device = 1 + (who >> 4 & 1);
	c->part = how >> 7 && c->from == c->to;
	c->cls = how & 7;
	c->seq = seq;
	c->after = how & 8 ? 0 : how & 16 ? seq / 2 : seq - 1;
	c->seen = how & 32 ? clock : who & 64 ? clock + CLOCK_SKEW_MAX + who / 128 : 0;
	memset(c->mid, (int)(seq + (how >> 6 & 1)), 16);
	if (c->part) {
		c->origin_shard = 3;
		c->origin_offset = seq;
		c->origin_lamport = clock + seq;
	}
	c->body = bytes;
	c->body_len = who & 7;
	c->headers = bytes;
	c->headers_len = how & 3;
}

/* Another shard has no business with nodes. */
static void add_node(struct script *s, uint8_t arg)
{
	static const uint8_t disk[16];
	struct cmd *c = next_cmd(s);

	c->type = CMD_NODE_SET;
	c->node = (struct cmd_node){ .op = NODE_SET, .id = 1 + arg % 63,
				     .state = PLACE_ACTIVE, .disk_id = disk };
}

static void add_other(struct script *s, uint8_t what, uint8_t arg)
{
	uint64_t account = 1 + arg % ACCOUNTS;
	struct cmd *c;

	if (what >= 252) {
		add_node(s, arg);
		return;
	}
	if (what % 4 == 1 && s->model.account[account].next + BATCH_MAX + 2 >= NUMBERS)
		return;
	c = next_cmd(s);
	c->account = account;
	switch (what % 4) {
	case 0:
		c->type = CMD_ACCOUNT_ADD;
		break;
	case 1:
		c->type = CMD_DEVICE_ADD;
		break;
	case 2:
		c->type = CMD_DEVICE_REMOVE;
		c->device = arg >> 4;
		break;
	default:
		c->type = CMD_CURSOR;
		c->device = arg >> 2 & 7;
		c->cursor = arg >> 5 ? s->model.account[account].last_n - (arg >> 5) + 2
				     : (uint64_t)arg;
		if (c->cursor >> 53)
			c->cursor = 0;
	}
}

static void look(struct script *s, uint8_t what, uint8_t arg)
{
	struct query q = { .type = what & 1 ? QUERY_PAGE : QUERY_ACCOUNT,
			   .account = 1 + arg % ACCOUNTS, .device = what >> 5,
			   .from = arg >> 2, .back = what & 2, .limit = 1 + (arg & 15),
			   .max_bytes = what & 4 ? 1 : 4096 };
	struct m_account *a = &s->model.account[q.account];
	struct buf rec[2] = { BUF_INIT, BUF_INIT }, out[2] = { BUF_INIT, BUF_INIT };
	struct result r[2];
	struct err e;
	unsigned k;

	for (k = 0; k < 2; k++) {
		memset(&r[k], 0, sizeof r[k]);
		AZ(machine_query(&s->r[k].m, &q, &r[k], &rec[k], &e));
		result_encode(&out[k], &r[k]);
	}
	AN(out[0].len == out[1].len);
	AZ(memcmp(out[0].data, out[1].data, out[0].len));
	if (!a->exists)
		AN(r[0].status == ST_NOT_FOUND);
	else
		AN(r[0].inbox_end == a->last_n && r[0].n_devices == a->n_devices);
	if (a->exists && q.type == QUERY_ACCOUNT && a->dev[q.device].epoch) {
		AN(r[0].cursor == a->dev[q.device].cursor);
		AN(r[0].epoch == a->dev[q.device].epoch);
		AN(!r[0].status == !a->dev[q.device].removed);
	}
	if (r[0].n_records) {
		struct cursor c = cursor_of(r[0].records, r[0].records_len);
		struct record one;
		uint64_t last = 0;

		for (k = 0; k < r[0].n_records; k++) {
			AZ(record_get_wire(&one, &c));
			AN(one.key == q.account && one.n >= 1 && one.n <= a->last_n);
			AN(!last || one.n == (q.back ? last - 1 : last + 1));
			AN(q.back || one.n >= q.from);
			last = one.n;
		}
		AN(cursor_done(&c));
	}
	for (k = 0; k < 2; k++) {
		buf_release(&rec[k]);
		buf_release(&out[k]);
	}
}

static void step(struct script *s, struct cursor *c)
{
	uint8_t op = cursor_u8(c), a = cursor_u8(c), b = cursor_u8(c);
	unsigned i;

	switch (op % 8) {
	case 0:
	case 1:
		add_send(s, 1 + (op >> 3) + (op & 1 ? 32u : 0) + (b & 128 ? 64u : 0), a, b);
		break;
	case 2: /* many in order */
		for (i = 0; i < op >> 3; i++)
			add_send(s, 1 + i + (b & 96), a, (uint8_t)(b & ~0x70));
		break;
	case 3:
		add_other(s, a, b);
		break;
	case 4:
		s->time_ms = s->time_ms + a > b ? s->time_ms + a - b : 0;
		apply_batch(s);
		break;
	case 5:
		checkpoint(s, &s->r[a & 1], a & 2);
		break;
	case 6:
		crash(s, &s->r[a & 1], a & 2);
		same_root(s);
		break;
	default:
		look(s, a, b);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct script s;
	struct cursor c = cursor_of(data, size);
	unsigned i;

	log_set_sink(no_log, NULL);
	memset(&s, 0, sizeof s);
	s.time_ms = 1000;
	for (i = 0; i < 2; i++)
		replica_open(&s.r[i], i);
	for (i = 0; i < STEPS_MAX && cursor_left(&c); i++)
		step(&s, &c);
	apply_batch(&s);
	for (i = 0; i < 2; i++)
		replica_close(&s.r[i]);
	while (s.last)
		entry_unref(s.entry[s.last--]);
	return 0;
}
