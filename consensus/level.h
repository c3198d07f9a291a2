/* Disk levels: how full a node's disk is, in four steps, and what is still taken.
 *
 *   ok, warn   everything
 *   refuse     no new messages, accounts and devices.  Cursors, removals,
 *              checkpoints, votes and what is under way go on in the reserve
 *   readonly   no entries at all, own or of other leaders; votes, marks and what
 *              a new leader commits its past by.  What is committed is applied
 *
 * A level holds from a share used on (percent), or with less than so much of the
 * reserve free (warn: twice, refuse: once, readonly: half of it), whichever comes
 * first.  It is left where 3 points more are free than it began at, so it does not
 * flap.  Nothing here touches a disk: numbers in, a level out. */
#ifndef QUIPU_CONSENSUS_LEVEL_H
#define QUIPU_CONSENSUS_LEVEL_H

#include <stdint.h>

enum level { LEVEL_OK, LEVEL_WARN, LEVEL_REFUSE, LEVEL_READONLY };
#define LEVEL_LEAVE_POINTS 3
/* The reserve is at most this part of the disk: a small one must be of use. */
#define LEVEL_RESERVE_PART 8

struct level_config {
	unsigned warn, refuse, readonly; /* percent used; 0 or 100: never */
	uint64_t reserve;                /* bytes; 0: none */
};

const char *level_name(enum level l); /* "refuse"; "?" of a foreign number */
/* The reserve of a disk of that size. */
uint64_t level_reserve(const struct level_config *c, uint64_t total);
/* Bytes that must be free below the level `l`. */
uint64_t level_begin(const struct level_config *c, enum level l, uint64_t total);
/* The level of a disk that was at `was`. */
enum level level_of(const struct level_config *c, enum level was, uint64_t left,
		    uint64_t total);
/* What a leader goes by: the least level such that a majority of the n voters is at
 * it or below, for a commit needs no more.  Sorts v.  n is 1 or more. */
enum level level_median(enum level *v, unsigned n);

#endif
