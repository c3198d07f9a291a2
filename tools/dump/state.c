/* The rows of a shard (state.mdb), read in a child process: LMDB checks nothing, and
 * a damaged file may crash its reader. */
#include "base/bytes.h"
#include "consensus/machine.h"
#include "log/store_impl.h"
#include "tools/dump/dump.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *table_name(unsigned t)
{
	switch (t) {
	case T_STORE_META:
		return "meta";
	case T_STORE_SEGMENT:
		return "segment";
	case T_STORE_KEY:
		return "key";
	case T_STORE_TRIM:
		return "trim";
	case T_STORE_DEAD:
		return "dead";
	case T_STORE_DOOMED:
		return "doomed";
	case T_ACCOUNT:
		return "account";
	case T_DEVICE:
		return "device";
	case T_DEDUPE:
		return "dedupe";
	case T_META:
		return "slots";
	case T_NODE:
		return "node";
	case T_RETAIN:
		return "retain";
	case T_RECEIPT:
		return "receipt";
	default:
		return "?";
	}
}

static bool one_row(struct dump *d, const char *path, const uint8_t *k,
		    size_t klen, const uint8_t *v, size_t vlen)
{
	uint32_t len = (uint32_t)vlen - 8;

	if (klen < 1 || klen > 1 + ROW_KEY_MAX || vlen < 8 ||
	    row_sum(k[0], k + 1, (unsigned)klen - 1, v, len) !=
		    get_u64(v + len)) {
		out_damage(d, path, 0, "a row's checksum does not match");
		return false;
	}
	if (d->quiet)
		return true;
	out_begin(d, "row", path, 0);
	out_s(d, "table", table_name(k[0]));
	out_hex(d, "key", k + 1, klen - 1);
	out_u(d, "len", len);
	if (k[0] == T_STORE_META && len >= 88) {
		out_u(d, "version", get_u32(v));
		out_u(d, "applied_index", get_u64(v + 8));
		out_u(d, "applied_term", get_u64(v + 16));
		out_u(d, "clock", get_u64(v + 24));
		out_u(d, "next_offset", get_u64(v + 32));
		out_id(d, "digest", get_u64(v + 48));
	} else if (k[0] == T_STORE_KEY && len == 32) {
		out_u(d, "last_n", get_u64(v));
		out_u(d, "offset", get_u64(v + 8));
		out_id(d, "segment", get_u64(v + 16));
	} else if (len <= 256 || d->payload) {
		out_hex(d, "value", v, len);
	}
	out_end(d);
	return true;
}

static int read_rows(struct dump *d, const char *path)
{
	char full[PATH_MAX];
	MDB_env *env;
	MDB_txn *txn;
	MDB_dbi dbi;
	MDB_cursor *c;
	MDB_val k, v;
	uint64_t rows = 0, digest = 0, want = 0;
	int rc;

	snprintf(full, sizeof full, "%s/%s", d->disk->root, path);
	if ((rc = mdb_env_create(&env)) ||
	    (rc = mdb_env_set_mapsize(env, 16ull << 30)) ||
	    (rc = mdb_env_open(env, full, MDB_NOSUBDIR | MDB_RDONLY | MDB_NOTLS,
			       0)) ||
	    (rc = mdb_txn_begin(env, NULL, MDB_RDONLY, &txn)) ||
	    (rc = mdb_dbi_open(txn, NULL, 0, &dbi)) ||
	    (rc = mdb_cursor_open(txn, dbi, &c))) {
		out_damage(d, path, 0, mdb_strerror(rc));
		return 1;
	}
	while (!(rc = mdb_cursor_get(c, &k, &v, MDB_NEXT))) {
		const uint8_t *key = k.mv_data, *val = v.mv_data;

		rows++;
		if (!one_row(d, path, key, k.mv_size, val, v.mv_size))
			continue;
		if (key[0] == T_STORE_META && v.mv_size > 56)
			want = get_u64(val + 48);
		else if (key[0] != T_STORE_SEGMENT && key[0] != T_STORE_DOOMED)
			digest += get_u64(val + v.mv_size - 8);
	}
	if (rc != MDB_NOTFOUND)
		out_damage(d, path, 0, mdb_strerror(rc));
	if (digest != want)
		out_damage(d, path, 0, "the rows' digest is not the meta row's");
	out_begin(d, "total", path, 0);
	out_u(d, "rows", rows);
	out_id(d, "digest", digest);
	out_end(d);
	mdb_cursor_close(c);
	mdb_txn_abort(txn);
	mdb_env_close(env);
	return d->damaged ? 1 : 0;
}

int dump_state(struct dump *d, const char *path, struct err *e)
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid < 0)
		return err_errno(e, errno, "fork");
	if (!pid) {
		d->damaged = 0;
		status = read_rows(d, path);
		fflush(stdout);
		_exit(status);
	}
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return err_errno(e, errno, "waitpid");
	if (WIFSIGNALED(status))
		out_damage(d, path, 0, "reading the rows crashed");
	else if (WEXITSTATUS(status))
		d->damaged++;
	return 0;
}
