/* Kinds of faults. */
#ifndef QUIPU_TESTS_SIM_CHAOS_H
#define QUIPU_TESTS_SIM_CHAOS_H

#include <stdbool.h>

enum fault {
	FAULT_POWER,       /* one node loses its power between two events */
	FAULT_POWER_AT,    /* inside a turn, before one disk operation */
	FAULT_POWER_ALL,   /* all nodes at once */
	FAULT_KILL,        /* one process ends, its page cache stays */
	FAULT_STOP,        /* orderly */
	FAULT_DISK_ERROR,  /* one operation fails, the process ends */
	FAULT_DISK_SLOW,   /* writes of one node take long for a while */
	FAULT_SPLIT,       /* two halves */
	FAULT_ISOLATE,     /* one node alone, the leader of a shard if any */
	FAULT_ONE_WAY,     /* one direction between two nodes */
	FAULT_BRIDGE,      /* two halves that share one node */
	FAULT_TRANSFER,    /* a shard's leadership is handed on */
	FAULT_CONN,        /* a client's connection breaks */
	FAULT_DEVICE,      /* a device loses what it did not sync */
	FAULT_CONN_ALL,    /* all connections break */
	FAULT_DISK_FULL,   /* a disk has no room for a while */
	FAULT_CLOCK,       /* a node's wall clock jumps */
	FAULT_ROT,         /* durable bytes of the last node are damaged */
	FAULT_POWER_SOME,  /* a minority of the nodes at once */
	FAULT_READER,      /* a device reads nothing for a while */
	FAULT_STEP,        /* a wall clock is put back to the right time */
	FAULT_WIPE,        /* the last node comes back with an empty disk */
	FAULT_MEMBER,      /* replicas of a shard are added and removed */
	FAULTS
};

bool fault_needs_peers(enum fault f);
const char *fault_name(enum fault f);

#endif
