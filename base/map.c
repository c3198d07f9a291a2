#include "base/map.h"
#include "base/alloc.h"
#include "base/assert.h"

#include <stdlib.h>

/* Finalizer of splitmix64: ids may be small and dense. */
static size_t map_home(const struct map *m, uint64_t k)
{
	k ^= k >> 30;
	k *= 0xbf58476d1ce4e5b9ull;
	k ^= k >> 27;
	k *= 0x94d049bb133111ebull;
	k ^= k >> 31;
	return (size_t)k & (m->cap - 1);
}

void map_init(struct map *m)
{
	m->slots = NULL;
	m->cap = m->len = 0;
}

void map_release(struct map *m)
{
	free(m->slots);
	map_init(m);
}

static struct map_slot *map_find(const struct map *m, uint64_t key)
{
	size_t i = map_home(m, key);

	while (m->slots[i].val && m->slots[i].key != key)
		i = (i + 1) & (m->cap - 1);
	return &m->slots[i];
}

void *map_get(const struct map *m, uint64_t key)
{
	return m->cap ? map_find(m, key)->val : NULL;
}

static void map_grow(struct map *m)
{
	struct map old = *m;

	m->cap = old.cap ? old.cap * 2 : 16;
	m->slots = xcalloc(m->cap, sizeof *m->slots);
	MAP_FOREACH(s, &old)
	*map_find(m, s->key) = *s;
	free(old.slots);
}

void *map_put(struct map *m, uint64_t key, void *val)
{
	struct map_slot *s;
	void *old;

	AN(val);
	if ((m->len + 1) * 4 > m->cap * 3)
		map_grow(m);
	s = map_find(m, key);
	old = s->val;
	m->len += !old;
	s->key = key;
	s->val = val;
	return old;
}

void *map_del(struct map *m, uint64_t key)
{
	struct map_slot *s;
	void *old;
	size_t hole, i;

	if (!m->cap || !(old = (s = map_find(m, key))->val))
		return NULL;
	hole = (size_t)(s - m->slots);
	for (i = (hole + 1) & (m->cap - 1); m->slots[i].val;
	     i = (i + 1) & (m->cap - 1)) {
		size_t home = map_home(m, m->slots[i].key);

		/* may move back unless its home lies behind the hole */
		if (((i - home) & (m->cap - 1)) >= ((i - hole) & (m->cap - 1))) {
			m->slots[hole] = m->slots[i];
			hole = i;
		}
	}
	m->slots[hole].val = NULL;
	m->len--;
	return old;
}

void *map_any(const struct map *m)
{
	MAP_FOREACH(slot, m)
		return slot->val;
	return NULL;
}
