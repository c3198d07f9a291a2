/* Hash map from a u64 to a pointer: open addressing, linear probing, backward
 * shift on removal.  Iteration order depends on the table's history and must
 * never decide what apply does. */
#ifndef QUIPU_BASE_MAP_H
#define QUIPU_BASE_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct map_slot {
	uint64_t key;
	void *val; /* NULL: free */
};

struct map {
	struct map_slot *slots;
	size_t cap, len;
};

void map_init(struct map *m);
void map_release(struct map *m); /* values are the caller's */
void *map_get(const struct map *m, uint64_t key);
/* Returns the value replaced, or NULL. `val` is not NULL. */
void *map_put(struct map *m, uint64_t key, void *val);
void *map_del(struct map *m, uint64_t key);
/* Some value, NULL when there is none: for taking all out one by one. */
void *map_any(const struct map *m);

#define MAP_FOREACH(slot, m)                                                   \
	for (struct map_slot *slot = (m)->slots;                               \
	     (m)->cap && slot < (m)->slots + (m)->cap; slot++)                 \
		if (slot->val)

#endif
