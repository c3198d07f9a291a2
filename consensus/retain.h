/* Retention: who looks at what may go, and who writes segments anew.
 *
 *   look      on a shard's leader, one segment of one shard at a time: the helper
 *             thread reads it in slices, the loop judges each record by the rows,
 *             and what comes of it are commands (cmd.h, RETAIN_*): TRIM when nothing
 *             is alive up to its end, bits and WANT when little is, ROLL when the
 *             open one is old.  The trim point is the cursor: a new leader begins
 *             behind it.  Nothing is lost when a look is given up.
 *   rewrite   on every replica, one at a time for its disk: what WANT asks for.
 *
 * Both share one budget of bytes a second and keep out of the way of checkpoints, since
 * each slice is one piece of the helper thread's work. */
#ifndef QUIPU_CONSENSUS_RETAIN_H
#define QUIPU_CONSENSUS_RETAIN_H

#include <stdbool.h>
#include <stdint.h>

struct node;
struct shard;

struct retain_config {
	bool enabled;       /* look and propose; rewriting is never off */
	uint64_t period_ms; /* from a look to the next */
	uint64_t rate;      /* bytes a second, read and written */
	uint64_t roll_ms;   /* an open segment is sealed at this age */
	uint32_t live;      /* percent: rewritten when less is alive */
};

struct retain_look;
struct retain_rewrite;
struct retain_memo;

/* In struct shard: what this leader knows of its segments. */
struct retain_shard {
	struct retain_memo *memos; /* by base, ascending */
	uint32_t n_memos;
	uint64_t next_ms;          /* not before */
	uint64_t open_base, open_ms; /* the open segment, since when */
	uint64_t own_base, own;    /* a segment, and how many trims it tells of */
	uint64_t erased;           /* machine.erased when it was looked at last */
	uint64_t term;             /* of the leader that knows this */
	/* Of the last look, for operators: bytes of content. */
	uint64_t content, live, held;
	uint64_t freed;            /* store_stats, as counted already */
};

/* In struct node. */
struct retain_node {
	struct retain_config cfg;
	struct retain_look *look;       /* NULL: none */
	struct retain_rewrite *rewrite;
	uint32_t next_shard;            /* whose turn it is */
	uint64_t due_ms;
	uint64_t tokens, tokens_ms;     /* bytes */
	uint64_t rewrite_retry_ms;
	uint64_t looks, trims, rewrites, rewrites_failed;
};

void retain_init(struct node *n, const struct retain_config *cfg);
void retain_tick(struct node *n, uint64_t now_ms);
uint64_t retain_deadline_ms(const struct node *n);
/* Its store is about to be closed. */
void retain_shard_gone(struct shard *s);
/* Before its shards close; after a simulated crash no work will come back. */
void retain_close(struct node *n);

/* Between retain.c and retain_rewrite.c. */
#define RETAIN_SLICE (512u << 10) /* bytes of one piece of the helper thread's work */
bool retain_budget_take(struct retain_node *rn, uint64_t bytes);
void retain_rewrite_tick(struct node *n, uint64_t now_ms);
bool retain_rewrite_wants(const struct node *n); /* to be ticked */
void retain_rewrite_gone(struct shard *s);
void retain_rewrite_close(struct node *n);

#endif
