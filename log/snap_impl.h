/* Shared by snapshot.c and snap_check.c. */
#ifndef QUIPU_LOG_SNAP_IMPL_H
#define QUIPU_LOG_SNAP_IMPL_H

#include "log/snapshot.h"
#include "log/store_impl.h"

#define SNAP_ROWS "rows.snap"
#define SNAP_ROWS_MAGIC "QUIPURS1"
#define SNAP_ROWS_HEAD 8u

#endif
