/* The simulator's rows: struct kv on a file of a disk_sim.  A commit is atomic
 * and durable and counts as one operation of the disk (disk_sim_crash_at: the
 * power goes just before it).  What was not committed is lost with the process;
 * rows whose file name was never synced may be lost with the name.  Use it with
 * disks of disk_sim only; `arg` is not used. */
#ifndef QUIPU_TESTS_LIB_KV_MEM_H
#define QUIPU_TESTS_LIB_KV_MEM_H

#include "log/kv.h"

extern const struct kv_ops kv_mem;

#endif
