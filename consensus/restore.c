#include "consensus/restore.h"
#include "base/bytes.h"
#include "base/hash.h"
#include "consensus/group.h"
#include "consensus/machine.h"

#include <string.h>

uint32_t restore_epoch(uint32_t old, const void *salt, size_t n)
{
	uint8_t sum[SHA256_LEN];

	sha256(salt, n, sum);
	return (((old >> 16) + 1) << 16) | (uint32_t)(sum[0] << 8 | sum[1]);
}

/* The nodes of the old cluster, with their disks. */
static bool drop(unsigned table, const void *key, unsigned klen)
{
	(void)key;
	(void)klen;
	return table == T_NODE;
}

int restore_shard(struct disk *disk, const struct kv_ops *kv, void *kv_arg,
		  const struct restore_config *rc, struct snap_manifest *m,
		  struct err *e)
{
	uint8_t history[8] = { 0 };
	struct snap_put put = { T_META, 7, 8, "history", history };
	struct buf conf = BUF_INIT;
	struct snap_edit how = { .drop = drop, .puts = &put, .n_puts = !m->shard };
	struct snap_check *check;
	bool done = false;
	int rv;

	put_u32(history, rc->epoch);
	group_conf_founders(rc->founders, rc->n_founders, &conf);
	how.conf = conf.data;
	how.conf_len = (uint32_t)conf.len;
	rv = snap_edit_rows(disk, m, RESTORE_INCARNATION, RESTORE_ROWS, &how, e);
	buf_release(&conf);
	if (rv)
		return rv;
	check = snap_check_new(disk, kv, kv_arg, m, RESTORE_INCARNATION);
	while (!rv && !done)
		rv = snap_check_step(check, &done, e);
	snap_check_free(check);
	return rv;
}

void restore_requests(const struct snap_manifest *m, struct journal_req *vote,
		      struct journal_req *install)
{
	memset(vote, 0, sizeof *vote);
	memset(install, 0, sizeof *install);
	vote->shard = install->shard = m->shard;
	/* Nobody was voted for: the next leader is of a later term. */
	vote->has_vote = true;
	vote->term = m->term;
	install->install = RESTORE_INCARNATION;
	install->install_index = m->index;
	install->install_term = m->term;
}
