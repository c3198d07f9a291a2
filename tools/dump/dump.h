/* Insides of quipu-dump: every file kind as lines for people or JSON. */
#ifndef QUIPU_TOOLS_DUMP_DUMP_H
#define QUIPU_TOOLS_DUMP_DUMP_H

#include "base/err.h"
#include "log/disk.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct dump {
	struct disk *disk;     /* rooted at the folder of what is dumped */
	bool json, payload, quiet; /* quiet: damage and totals only */
	uint64_t damaged;      /* things that were reported as such */
	bool first;
};

/* One line: out_begin(), members, out_end(). */
void out_begin(struct dump *d, const char *what, const char *file,
	       uint64_t offset);
void out_u(struct dump *d, const char *name, uint64_t v);
void out_id(struct dump *d, const char *name, uint64_t v); /* 16 hex digits */
void out_s(struct dump *d, const char *name, const char *s);
void out_hex(struct dump *d, const char *name, const void *p, size_t n);
void out_end(struct dump *d);
/* Damage, with a sentence; counted. */
void out_damage(struct dump *d, const char *file, uint64_t offset,
		const char *why);

/* Paths are relative to the disk.  0, or ERR_ when the file cannot be read. */
int dump_replicameta(struct dump *d, const char *path, struct err *e);
int dump_nodemeta(struct dump *d, const char *path, struct err *e);
int dump_members(struct dump *d, const char *path, struct err *e);
int dump_known(struct dump *d, const char *path, struct err *e);
int dump_journal(struct dump *d, const char *dir, const char *only,
		 struct err *e);
int dump_segment(struct dump *d, const char *path, struct err *e);
int dump_index(struct dump *d, const char *path, struct err *e);
int dump_tree(struct dump *d, const char *path, struct err *e);
int dump_state(struct dump *d, const char *path, struct err *e);
int dump_device(struct dump *d, const char *path, struct err *e);

/* Whole file into memory (free()); at most `max` bytes. */
int dump_read(struct dump *d, const char *path, uint64_t max, uint8_t **out,
	      size_t *n, struct err *e);

#endif
