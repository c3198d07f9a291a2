#include "log/entry.h"
#include "base/alloc.h"
#include "base/assert.h"

#include <stdlib.h>
#include <string.h>

struct entry *entry_new(uint32_t shard, uint32_t len)
{
	uint32_t rec_len = (JOURNAL_RECORD_HEADER + len + 7) & ~7u;
	struct entry *e;

	AN(len >= 1 && len <= ENTRY_PAYLOAD_MAX);
	e = xmalloc(sizeof *e + rec_len);
	e->refs = 1;
	e->shard = shard;
	e->term = e->index = 0;
	e->len = len;
	e->rec_len = rec_len;
	memset(e->rec + rec_len - 8, 0, 8);
	return e;
}

struct entry *entry_ref(struct entry *e)
{
	__atomic_fetch_add(&e->refs, 1, __ATOMIC_RELAXED);
	return e;
}

void entry_unref(struct entry *e)
{
	if (e && __atomic_fetch_sub(&e->refs, 1, __ATOMIC_ACQ_REL) == 1)
		free(e);
}
