/* Intrusive doubly linked list with a sentinel head. */
#ifndef QUIPU_BASE_LIST_H
#define QUIPU_BASE_LIST_H

#include "base/assert.h"

#include <stdbool.h>
#include <stddef.h>

struct list {
	struct list *next, *prev;
};

#define container_of(ptr, type, member)                                        \
	((type *)(void *)((char *)(ptr) - offsetof(type, member)))
#define LIST_FOREACH(it, head)                                                 \
	for (struct list *it = (head)->next; it != (head); it = it->next)
/* `it` may be removed inside */
#define LIST_FOREACH_SAFE(it, head)                                            \
	for (struct list *it = (head)->next, *it##_n = it->next; it != (head); \
	     it = it##_n, it##_n = it->next)

static inline void list_init(struct list *l)
{
	l->next = l->prev = l;
}
static inline bool list_empty(const struct list *l)
{
	return l->next == l;
}
static inline void list_append(struct list *head, struct list *n)
{
	n->prev = head->prev;
	n->next = head;
	head->prev->next = n;
	head->prev = n;
}
static inline void list_prepend(struct list *head, struct list *n)
{
	list_append(head->next, n);
}
/* Leaves `n` empty, so removing twice is harmless. */
static inline void list_remove(struct list *n)
{
	n->prev->next = n->next;
	n->next->prev = n->prev;
	list_init(n);
}
static inline struct list *list_pop(struct list *head)
{
	struct list *n = head->next;

	if (n == head)
		return NULL;
	AN(n->prev == head);
	head->next = n->next; /* as list_remove(), but the analyzer follows */
	n->next->prev = head;
	list_init(n);
	return n;
}

#endif
