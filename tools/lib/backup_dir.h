/* A backup in a folder (docs/format.md, "Backup"): backup.json names every file with
 * its length and SHA-256, and what is not named does not belong to it. */
#ifndef QUIPU_TOOLS_LIB_BACKUP_DIR_H
#define QUIPU_TOOLS_LIB_BACKUP_DIR_H

#include "base/err.h"
#include "log/snapshot.h"
#include "tools/lib/progress.h"

#include <jansson.h>

#define BACKUP_FORMAT 1
#define BACKUP_JSON "backup.json"
#define BACKUP_PATH_MAX 96 /* of a name within the folder */
#define BACKUP_SHA 65      /* SHA-256 in hex, with its end */

/* The name of file `file` of a manifest (log/snapshot.h) within a backup.  Files that
 * never change keep their names from one backup to the next. */
void backup_name(const struct snap_manifest *m, uint32_t file,
		 char out[BACKUP_PATH_MAX]);
void backup_manifest_name(const struct snap_manifest *m, char out[BACKUP_PATH_MAX]);

/* backup.json: ERR_NOT_FOUND, ERR_FORMAT, ERR_VERSION.  The caller's.  What it gives is
 * of the form of docs/format.md as to shards and their files; other members are not
 * looked at. */
int backup_load(const char *dir, json_t **out, struct err *e);
int backup_parse(const void *p, size_t n, json_t **out, struct err *e);
/* Durable when it returns, the old one or the new after a crash. */
int backup_save(const char *dir, const json_t *o, struct err *e);
/* Each file that is named is there, as long as it says, with those bytes, and those that
 * the manifests name are named.  ERR_DAMAGED: `bad` files are not, or so many shards'
 * manifests differ; the first is in e. */
int backup_verify(const char *dir, const json_t *o, struct progress *p, unsigned *bad,
		  struct err *e);
/* `o` and `shard`, an entry of its "shard", are of backup_load().  The manifest is
 * checked against its SHA-256.  On success snap_release() it. */
int backup_manifest(const char *dir, const json_t *shard, struct snap_manifest *m,
		    struct err *e);
/* "files" of an entry by its number there; NULL: none. */
const json_t *backup_file(const json_t *shard, uint32_t file);

/* Write bytes, or the first `bytes` of a file, to `to`, by way of `to`.part, durable;
 * hex of the SHA-256 of what was written.  More bytes than there are: ERR_DAMAGED. */
int backup_put(const char *to, const void *p, size_t n, char sha[BACKUP_SHA],
	       struct err *e);
int backup_copy(const char *from, const char *to, uint64_t bytes,
		char sha[BACKUP_SHA], struct progress *p, struct err *e);
/* Of a file of exactly that length; ERR_NOT_FOUND, ERR_DAMAGED. */
int backup_sha(const char *path, uint64_t bytes, char sha[BACKUP_SHA],
	       struct progress *p, struct err *e);
int backup_mkdirs(const char *dir, const char *name, struct err *e);
int backup_sync_dir(const char *path, struct err *e);

#endif
