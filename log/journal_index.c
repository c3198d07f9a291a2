/* Where the entries of a shard lie in the journal: what is readable, and what of it
 * a later record has replaced or voided. */
#include "base/alloc.h"
#include "log/journal_impl.h"

#include <string.h>

struct jplace *jindex_place(const struct jindex *x, uint64_t index)
{
	if (!x->n || index < x->s.first_index || index > x->s.last_index)
		return NULL;
	return &x->at[x->head + (index - x->s.first_index)];
}

void jindex_truncate(struct jindex *x, uint64_t from)
{
	if (!x->n || from > x->s.last_index)
		return;
	if (from <= x->s.first_index) {
		x->n = 0;
		x->s.last_index = from - 1;
		x->s.first_index = from;
		x->s.last_term = 0;
		return;
	}
	x->n = (uint32_t)(from - x->s.first_index);
	x->s.last_index = from - 1;
	x->s.last_term = jindex_place(x, from - 1)->term;
}

/* A vote that came alone may have passed an older one that waits with entries:
 * terms only rise, and a vote once given in a term stands. */
void jindex_vote(struct jindex *x, uint64_t term, uint64_t vote)
{
	if (term < x->s.term || (term == x->s.term && !vote))
		return;
	x->s.term = term;
	x->s.vote = vote;
}

void jindex_drop_below(struct jindex *x, uint64_t index)
{
	uint64_t k;

	if (!x->n || index <= x->s.first_index)
		return;
	k = index - x->s.first_index;
	if (k > x->n)
		k = x->n;
	x->head += (uint32_t)k;
	x->n -= (uint32_t)k;
	x->s.first_index += k;
	if (x->head > 1024 && x->head > x->cap / 2) {
		memmove(x->at, x->at + x->head, x->n * sizeof *x->at);
		x->head = 0;
	}
}

void jindex_moved(struct jindex *x, uint32_t from, uint32_t to)
{
	uint32_t i;

	for (i = x->head; i < x->head + x->n; i++)
		if (x->at[i].file == from)
			x->at[i].file = to;
}

void jindex_append(struct jindex *x, uint64_t index, const struct jplace *p)
{
	jindex_truncate(x, index); /* a later entry replaces the earlier one */
	if (!x->n || index != x->s.last_index + 1) {
		/* Older files may reach back over a hole that marks cover. */
		x->head = x->n = 0;
		x->s.first_index = index;
	}
	if (x->head + x->n == x->cap) {
		x->cap = x->cap ? 2 * x->cap : 64;
		x->at = xrealloc(x->at, x->cap * sizeof *x->at);
	}
	x->at[x->head + x->n++] = *p;
	x->s.last_index = index;
	x->s.last_term = p->term;
}
