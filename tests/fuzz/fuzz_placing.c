/* What a peer says of its replicas (consensus/placing.h).  The first bytes choose who
 * says it and how many shards there are.  Held: nothing that the planner asserts
 * against gets into the picture, whatever is said, and twice the same changes nothing. */
#include "base/alloc.h"
#include "base/assert.h"
#include "consensus/placing.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void look_at(const struct placing *pl, uint32_t n_shards)
{
	struct place_shard s;
	uint32_t i;
	unsigned k;

	for (i = 0; i < PLACE_SHARDS_MAX; i++) {
		const struct shard_picture *p = &pl->shard[i];

		AN(i < n_shards || !p->known);
		AN(p->n <= PLACE_REPLICAS_MAX);
		for (k = 0; k < p->n; k++)
			AN(p->member[k].id >= 1 && p->member[k].id < PLACE_NODES);
		AN(reconcile_shard(&s, p) == p->known);
		AN(!p->known || (p->leader >= 1 && p->leader < PLACE_NODES));
	}
}

static void look_equal(const struct shard_picture *a, const struct shard_picture *b)
{
	unsigned k;

	AN(a->known == b->known && a->leader == b->leader && a->busy == b->busy &&
	   a->n == b->n);
	for (k = 0; k < a->n; k++)
		AN(a->member[k].id == b->member[k].id &&
		   a->member[k].voter == b->member[k].voter &&
		   a->member[k].ready == b->member[k].ready &&
		   a->member[k].match == b->member[k].match);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct placing *pl = xcalloc(1, sizeof *pl), *was;
	struct member m = { .state = PLACE_ACTIVE };
	uint32_t n_shards, k;
	struct cursor c;
	uint64_t from;
	bool good;

	if (size >= 2) {
		from = 1 + data[0] % 63;
		n_shards = 1 + data[1];
		c = cursor_of(data + 2, size - 2);
		good = placing_take(pl, n_shards, &m, from, &c);
		look_at(pl, n_shards);
		was = xmalloc(sizeof *was);
		*was = *pl;
		c = cursor_of(data + 2, size - 2);
		AN(placing_take(pl, n_shards, &m, from, &c) == good);
		for (k = 0; k < PLACE_SHARDS_MAX; k++)
			look_equal(&was->shard[k], &pl->shard[k]);
		AZ(memcmp(was->term, pl->term, sizeof was->term));
		free(was);
	}
	free(pl);
	return 0;
}
