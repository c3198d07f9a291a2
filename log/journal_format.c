#include "log/journal_format.h"

static const char file_magic[8] = { 'Q', 'U', 'I', 'P', 'U', 'J', 'N', '1' };

void jf_put_shard(uint8_t *p, uint32_t id, const struct journal_shard *s)
{
	put_u32(p, id);
	put_u32(p + 4, s->incarnation);
	put_u64(p + 8, s->term);
	put_u64(p + 16, s->vote);
	put_u64(p + 24, s->last_index);
	put_u64(p + 32, s->last_term);
	put_u64(p + 40, s->mark_index);
	put_u64(p + 48, s->mark_term);
	put_u64(p + 56, 0);
}

void jf_put_header(uint8_t *p, const struct jf_header *h)
{
	memset(p, 0, JF_HEADER);
	memcpy(p, file_magic, 8);
	put_u32(p + 8, JF_VERSION);
	put_u32(p + 12, JF_HEADER);
	put_u64(p + 16, h->use);
	memcpy(p + 24, h->cluster_id, 16);
	put_u64(p + 40, h->node_id);
	put_u64(p + 48, h->last_group);
	put_u32(p + 56, h->n_shards);
}

void jf_seal_header(uint8_t *p)
{
	put_u64(p + JF_HEADER - 8, xxh3(p, JF_HEADER - 8));
}

int jf_get_header(struct jf_header *h, const uint8_t *p)
{
	if (memcmp(p, file_magic, 8))
		return ERR_FORMAT;
	/* A newer version may keep its checksum elsewhere: say so first. */
	if (get_u32(p + 8) > JF_VERSION && get_u32(p + 8) < 1000)
		return ERR_VERSION;
	if (get_u64(p + JF_HEADER - 8) != xxh3(p, JF_HEADER - 8))
		return ERR_CHECKSUM;
	h->use = get_u64(p + 16);
	memcpy(h->cluster_id, p + 24, 16);
	h->node_id = get_u64(p + 40);
	h->last_group = get_u64(p + 48);
	h->n_shards = get_u32(p + 56);
	if (get_u32(p + 12) != JF_HEADER || h->n_shards > JOURNAL_SHARDS_MAX)
		return ERR_CHECKSUM;
	return 0;
}

void jg_put(uint8_t *p, const struct jg_header *h)
{
	memcpy(p, "QJG1", 4);
	put_u64(p + 8, h->use);
	put_u64(p + 16, h->group);
	put_u32(p + 24, h->length);
	put_u16(p + 28, h->records);
	put_u16(p + 30, h->rows);
	put_u64(p + 32, xxh3(p + JG_HEADER, (size_t)h->rows * JG_ROW));
	put_u32(p + 4, (uint32_t)xxh3(p + 8, JG_HEADER - 8));
}

int jg_get(struct jg_header *h, const uint8_t *p, size_t avail)
{
	if (avail < JG_HEADER || memcmp(p, "QJG1", 4))
		return ERR_FORMAT;
	if (get_u32(p + 4) != (uint32_t)xxh3(p + 8, JG_HEADER - 8))
		return ERR_CHECKSUM;
	h->use = get_u64(p + 8);
	h->group = get_u64(p + 16);
	h->length = get_u32(p + 24);
	h->records = get_u16(p + 28);
	h->rows = get_u16(p + 30);
	if (h->length > avail ||
	    h->length < JG_HEADER + (uint32_t)h->rows * JG_ROW ||
	    h->rows > JOURNAL_SHARDS_MAX)
		return ERR_CHECKSUM;
	if (get_u64(p + 32) != xxh3(p + JG_HEADER, (size_t)h->rows * JG_ROW))
		return ERR_CHECKSUM;
	return 0;
}

void jr_put(uint8_t *p, uint8_t type, uint64_t use, uint32_t shard,
	    uint64_t term, uint64_t index, const void *payload, uint32_t len)
{
	memcpy(p, "QJR1", 4);
	put_u32(p + 8, len);
	p[12] = type;
	p[13] = 0;
	put_u16(p + 14, JOURNAL_RECORD_HEADER);
	put_u64(p + 16, use);
	put_u32(p + 24, shard);
	put_u32(p + 28, 0);
	put_u64(p + 32, term);
	put_u64(p + 40, index);
	put_u64(p + 48, xxh3(payload, len));
	put_u32(p + 4, (uint32_t)xxh3(p + 8, JOURNAL_RECORD_HEADER - 8));
}

int jr_get(struct jr *r, const uint8_t *p, size_t avail)
{
	if (avail < JOURNAL_RECORD_HEADER || memcmp(p, "QJR1", 4))
		return ERR_FORMAT;
	if (get_u32(p + 4) !=
	    (uint32_t)xxh3(p + 8, JOURNAL_RECORD_HEADER - 8))
		return ERR_CHECKSUM;
	r->len = get_u32(p + 8);
	r->type = p[12];
	r->use = get_u64(p + 16);
	r->shard = get_u32(p + 24);
	r->term = get_u64(p + 32);
	r->index = get_u64(p + 40);
	r->payload = p + JOURNAL_RECORD_HEADER;
	if (r->len > ENTRY_PAYLOAD_MAX || r->shard >= JOURNAL_SHARDS_MAX)
		return ERR_CHECKSUM;
	r->total = (JOURNAL_RECORD_HEADER + r->len + 7) & ~7u;
	if (r->total > avail)
		return ERR_CHECKSUM;
	if (get_u64(p + 48) != xxh3(r->payload, r->len))
		return ERR_CHECKSUM;
	return 0;
}
