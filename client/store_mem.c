#include "base/assert.h"
#include "base/bytes.h"
#include "client/store_mem.h"

#include <string.h>

static struct store_mem *mem(struct client_store *s)
{
	return (struct store_mem *)s;
}

static size_t begin(struct store_mem *m)
{
	size_t at = m->pending.len;

	buf_u32(&m->pending, 0);
	return at;
}

static int end(struct store_mem *m, size_t at)
{
	put_u32(m->pending.data + at, (uint32_t)(m->pending.len - at - 4));
	m->n_pending++;
	return 0;
}

static int mem_load(struct client_store *s, struct client_meta *m,
		    void (*entry)(void *arg, const struct client_entry *e),
		    void *arg, struct err *e)
{
	(void)e;
	AZ(mem(s)->n_pending);
	store_state_load(&mem(s)->state, m, entry, arg);
	return 0;
}

static int mem_put(struct client_store *s, const struct client_entry *entry,
		   struct err *e)
{
	size_t at = begin(mem(s));

	(void)e;
	store_encode_put(&mem(s)->pending, entry);
	return end(mem(s), at);
}

static int mem_settle(struct client_store *s, const struct client_settled *d,
		      struct err *e)
{
	size_t at = begin(mem(s));

	(void)e;
	store_encode_settle(&mem(s)->pending, d);
	return end(mem(s), at);
}

static int mem_record(struct client_store *s, const struct client_record *r,
		      struct err *e)
{
	size_t at = begin(mem(s));

	(void)e;
	store_encode_record(&mem(s)->pending, r);
	return end(mem(s), at);
}

static int mem_meta(struct client_store *s, const struct client_meta *m,
		    struct err *e)
{
	size_t at = begin(mem(s));

	(void)e;
	store_encode_meta(&mem(s)->pending, m);
	return end(mem(s), at);
}

/* The first `n` pending ops become durable; the others are gone. */
static void settle_pending(struct store_mem *m, size_t n)
{
	const uint8_t *p = m->pending.data;

	for (; n; n--) {
		uint32_t len = get_u32(p);
		struct store_op op;

		AZ(store_decode(&op, p + 4, len, NULL));
		store_state_apply(&m->state, &op);
		if (m->durable)
			m->durable(m->arg, &op);
		p += 4 + len;
	}
	buf_release(&m->pending);
	m->n_pending = 0;
}

static int mem_sync(struct client_store *s, struct err *e)
{
	struct store_mem *m = mem(s);

	if (m->fail_sync)
		return err_set(e, m->fail_sync, "sync: as the test asked");
	m->syncs++;
	settle_pending(m, m->n_pending);
	return 0;
}

static const struct client_store_ops mem_ops = {
	.load = mem_load, .put = mem_put, .settle = mem_settle,
	.record = mem_record, .meta = mem_meta, .sync = mem_sync,
};

void store_mem_init(struct store_mem *s)
{
	memset(s, 0, sizeof *s);
	s->store.ops = &mem_ops;
	store_state_init(&s->state);
	buf_init(&s->pending);
}

void store_mem_release(struct store_mem *s)
{
	store_state_release(&s->state);
	buf_release(&s->pending);
}

void store_mem_crash(struct store_mem *s, size_t survive)
{
	settle_pending(s, survive < s->n_pending ? survive : s->n_pending);
}
