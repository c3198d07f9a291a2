/* Inside the simulator's disk: the medium (disk_sim.c) and the vtable over it
 * (disk_sim_ops.c). */
#ifndef QUIPU_TESTS_LIB_DISK_SIM_IMPL_H
#define QUIPU_TESTS_LIB_DISK_SIM_IMPL_H

#include "tests/lib/disk_sim.h"

#define PAGE 4096u
#define SECTOR 512u

/* NULL is a page of zeros.  A clean page shares one buffer. */
struct page {
	uint8_t *now, *durable;
	bool dirty;
};

struct inode {
	struct page *pages;
	size_t n_pages;
	uint32_t *dirty; /* numbers of dirty pages */
	size_t n_dirty, cap_dirty;
	uint64_t size, durable_size;
	uint64_t last_off, last_end; /* of the newest write */
	unsigned refs;   /* names in either image, pending changes, open files */
	struct disk_sim_extra *extra;
};

/* A name of the current or the durable image; folders have no inode. */
struct name {
	char *path;
	struct inode *inode;
};

struct names {
	struct name *v; /* sorted by path */
	size_t n, cap;
};

enum change_kind { CREATE, UNLINK, RENAME };

/* A change of names that no folder sync has made durable yet. */
struct change {
	enum change_kind kind;
	char *path, *to;
	struct inode *inode;
};

struct process;

struct disk_file {
	struct process *process;
	struct inode *inode;
	char *path;
	bool writable;
};

/* A write or a piece of work on its way. */
struct job {
	struct job *next;
	struct process *process;
	struct disk_write *write;
	struct disk_work *work;
	bool ran, armed; /* of work: run() is over; an event comes */
};

struct queue {
	struct job *head, **tail;
	uint64_t busy_until_us;
};

struct process {
	struct disk disk; /* first */
	struct disk_sim *ds;
	struct process *next;
	bool gone;
	bool locked;
	struct queue writes, works;
};

struct disk_sim {
	struct sim *sim;
	int node;
	struct rand rand;
	struct disk_sim_config cfg;
	struct names now, durable;
	struct change *changes;
	size_t n_changes, cap_changes;
	struct process *processes; /* newest first */
	uint64_t used_bytes, ops_done, stall_us;
	uint64_t crash_at, fail_at;
	int fail_code;
	void (*crash_fn)(void *arg);
	void *crash_arg;
	bool frozen;
	struct disk_sim_stats stats;
};

/* disk_sim.c */
struct inode *inode_new(void);
void inode_put(struct disk_sim *ds, struct inode *i);
void inode_read(const struct inode *i, uint64_t off, void *p, size_t n);
void inode_write(struct inode *i, uint64_t off, const void *p, size_t n);
void inode_sync(struct inode *i);
/* Bytes beyond a smaller size read as zeros from then on. */
void inode_resize(struct disk_sim *ds, struct inode *i, uint64_t size);
/* NULL: absent.  A folder's name has no inode. */
struct name *names_find(struct names *ns, const char *path);
void names_set(struct disk_sim *ds, struct names *ns, const char *path,
	       struct inode *i);
void names_remove(struct disk_sim *ds, struct names *ns, const char *path);
/* Make a change of names that only a folder sync makes durable. */
void names_change(struct disk_sim *ds, enum change_kind kind, const char *path,
		  const char *to, struct inode *i);
void names_sync(struct disk_sim *ds, const char *dir);
/* Length of the folder part of a path; 0: the root. */
size_t dir_len(const char *path);

/* disk_sim_ops.c */
extern const struct disk_ops disk_sim_ops;
/* Writes under way at a crash: the oldest may be there whole or in part. */
void writes_at_crash(struct disk_sim *ds, struct process *p);

#endif
