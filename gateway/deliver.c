#include "gateway/deliver.h"
#include "base/cursor.h"

size_t deliver_headers(struct buf *out, const struct wire *send,
		       enum wire_field keys, enum wire_field list)
{
	size_t start = out->len, count;
	struct wire_iter it;
	struct wire_key key;

	if (!wire_has(send, keys))
		return 0;
	buf_varint(out, wire_u(send, list));
	count = out->len;
	buf_u8(out, 0);
	wire_iter_init(&it, send, keys);
	while (wire_iter_key(&it, &key)) {
		out->data[count]++;
		buf_varint(out, key.device);
		buf_u8(out, key.kind);
		buf_lv(out, key.bytes.p, key.bytes.n);
	}
	return out->len - start;
}

static void fill_key(struct wire *w, const struct record *r, uint32_t device,
		     struct buf *keys)
{
	struct cursor c = cursor_of(r->headers, r->headers_len);
	uint64_t list = cursor_varint(&c);
	unsigned n = cursor_u8(&c);

	buf_clear(keys);
	while (n-- && !c.bad) {
		uint64_t who = cursor_varint(&c);
		struct wire_key key = { .device = device,
					.kind = cursor_u8(&c) };
		size_t len;

		key.bytes.p = cursor_lv(&c, WIRE_KEY_BYTES_MAX, &len);
		key.bytes.n = (uint32_t)len;
		if (who != device || c.bad)
			continue;
		wire_make_key(keys, &key);
		wire_put(w, W_KEY, keys->data, keys->len);
		break;
	}
	if (list <= UINT32_MAX)
		wire_set(w, W_LIST, list);
	if (!wire_has(w, W_KEY))
		w->u[W_FLAGS] |= DELIVER_NO_KEY;
}

static bool expired(const struct record *r, uint64_t wall_ms)
{
	return r->ttl && wall_ms > r->time_ms + r->ttl * 1000ull;
}

void deliver_fill(struct wire *w, const struct record *r, uint32_t device,
		  uint64_t wall_ms, struct buf *keys)
{
	wire_start(w, WIRE_DELIVER);
	wire_set(w, W_N, r->n);
	wire_set(w, W_FROM, r->sender);
	wire_set(w, W_DEV, r->device);
	wire_set(w, W_SEQ, r->seq);
	wire_put(w, W_MID, r->mid, 16);
	wire_set(w, W_LAMPORT, r->flags & RECORD_HAS_ORIGIN ? r->origin_lamport :
							      r->lamport);
	wire_set(w, W_STAMP, r->lamport);
	wire_set(w, W_TIME, r->time_ms);
	wire_set(w, W_CLASS, r->cls);
	wire_set(w, W_FLAGS, r->msg_flags);
	if (r->ttl)
		wire_set(w, W_TTL, r->ttl);
	if (r->flags & RECORD_STUB || expired(r, wall_ms)) {
		w->u[W_FLAGS] |= DELIVER_GONE;
		wire_puts(w, W_KIND, r->flags & RECORD_STUB ? "erased" :
							      "expired");
		return;
	}
	if (r->payload_len)
		wire_put(w, W_BODY, r->payload, r->payload_len);
	if (r->headers_len)
		fill_key(w, r, device, keys);
}
