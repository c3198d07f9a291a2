/* A device's file: everything that it sent, received and knows of its place, as one
 * append-only log.  The log is the history too; nothing is rewritten.
 *
 *   0   magic "quipudev"                 one header of 64 bytes
 *   8   version u32, now 1
 *  12   header size u32, 64
 *  16   account u64
 *  24   device u32
 *  28   zero u32
 *  32   made at, u64, Unix ms
 *  40   zeros
 *  56   XXH3-64 of bytes 0..55
 *
 *   then records, each at a multiple of 8:
 *   0   magic "Qrec"
 *   4   length of the payload, u32, 1..STORE_OP_MAX
 *   8   durable u64: bytes of the file that were synced before this was written
 *  16   XXH3-64 of (offset of this record u64, bytes 0..15, payload)
 *  24   payload (store_state.h, or the one byte 5: a mark), zeros up to 8
 *
 * After a crash a prefix of what was written since the last sync is there, perhaps
 * followed by pieces.  At the first record that does not check, at X:
 *   - a record further on checks and says durable > X: X was synced, so this is
 *     damage.  ERR_DAMAGED, and the file stays as it is;
 *   - else X is the torn tail: the file is cut there, and the cut is synced before
 *     anything is written.
 * The offset in the checksum keeps bytes of another place or time from passing.  A
 * mark at the end of a good close makes damage to the last records tell itself. */
#ifndef QUIPU_CLIENT_STORE_FILE_H
#define QUIPU_CLIENT_STORE_FILE_H

#include "client/store_state.h"

#define STORE_FILE_VERSION 1u
#define STORE_FILE_HEADER 64u
#define STORE_FILE_RECORD 24u
#define STORE_FILE_PENDING_MAX (1u << 20) /* bytes that wait for a write */

struct store_file;

/* Open or make the file (0600) and lock it.  ERR_LOCKED: another process has it;
 * ERR_VERSION: a newer format; ERR_DAMAGED; ERR_INVALID: another device's. */
int store_file_open(struct store_file **out, const char *path, uint64_t account,
		    uint32_t device, struct err *e);
struct client_store *store_file_store(struct store_file *f);
/* Bytes of a torn tail that opening cut off. */
uint64_t store_file_cut(const struct store_file *f);
/* Sync, mark and close.  The error of the sync; closed all the same. */
int store_file_close(struct store_file *f, struct err *e);

/* Read a file from its begin without a lock and change nothing: every op in order.
 * Ends at a torn tail.  `op` returns false to stop. */
int store_file_scan(const char *path, bool (*op)(void *arg, const struct store_op *op),
		    void *arg, struct err *e);
/* The same over bytes in memory; *end: where the good part ends.  ERR_DAMAGED,
 * ERR_VERSION, ERR_FORMAT (no header).  For tests and fuzzing too. */
int store_file_parse(const uint8_t *p, size_t n, uint64_t *account,
		     uint32_t *device,
		     bool (*op)(void *arg, const struct store_op *op), void *arg,
		     size_t *end, struct err *e);

#endif
