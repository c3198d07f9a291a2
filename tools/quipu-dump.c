/* quipu-dump: what is in the files of a node, damaged ones too. */
#include "base/alloc.h"
#include "tools/dump/dump.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <uv.h>

static const char usage[] =
	"usage: quipu-dump [options] FILE|FOLDER...\n"
	"\n"
	"Prints what the files of a node hold, one thing a line: node.meta, members, known,\n"
	"journal (*.jnl), segments (*.seg), their indexes (*.idx), Merkle leaves (*.hash), rows\n"
	"(state.mdb); and a client's file (device.log).  A folder is searched through.\n"
	"Nothing is written.\n"
	"\n"
	"  --json       one JSON object a line\n"
	"  --payload    message bodies too (ciphertext), as hex\n"
	"  --quiet      only damage and totals\n"
	"  -h, --help   this text\n"
	"\n"
	"Exit status: 0 all is well, 1 damage was found, 2 usage, 3 a file could not be\n"
	"read.  The formats are in docs/format.md.\n";

static bool ends(const char *s, const char *end)
{
	size_t n = strlen(s), m = strlen(end);

	return n >= m && !strcmp(s + n - m, end);
}

struct folder {
	char **names;
	size_t n;
};

static void on_name(void *arg, const char *name, bool is_dir)
{
	struct folder *f = arg;

	f->names = xrealloc(f->names, (f->n + 1) * sizeof *f->names);
	f->names[f->n++] = xasprintf("%c%s", is_dir ? 'd' : 'f', name);
}

static int dump_file(struct dump *d, const char *path, const char *name,
		     struct err *e)
{
	if (!strncmp(name, "node.meta", 9))
		return dump_nodemeta(d, path, e);
	if (!strncmp(name, "replicas.meta", 13))
		return dump_replicameta(d, path, e);
	if (!strcmp(name, "members"))
		return dump_members(d, path, e);
	if (!strcmp(name, "known") || !strcmp(name, "known.2"))
		return dump_known(d, path, e);
	if (ends(name, ".seg"))
		return dump_segment(d, path, e);
	if (ends(name, ".idx"))
		return dump_index(d, path, e);
	if (ends(name, ".hash"))
		return dump_tree(d, path, e);
	if (ends(name, ".mdb"))
		return dump_state(d, path, e);
	if (ends(name, "device.log"))
		return dump_device(d, path, e);
	if (ends(name, ".jnl")) {
		char *dir = xstrdup(path), *slash = strrchr(dir, '/');
		int rv;

		if (slash)
			*slash = 0;
		rv = dump_journal(d, slash ? dir : "", name, e);
		free(dir);
		return rv;
	}
	return err_set(e, ERR_FORMAT, "%s: not a file that quipu-dump knows",
		       name);
}

static bool known(const char *name)
{
	return !strncmp(name, "node.meta", 9) || !strcmp(name, "members") ||
	       !strncmp(name, "replicas.meta", 13) ||
	       !strcmp(name, "known") || !strcmp(name, "known.2") ||
	       ends(name, ".seg") ||
	       ends(name, ".idx") || ends(name, ".hash") || ends(name, ".mdb") ||
	       ends(name, "device.log");
}

static int dump_folder(struct dump *d, const char *dir, struct err *e)
{
	struct folder f = { NULL, 0 };
	bool journal = false;
	size_t i;
	int rv = d->disk->ops->list(d->disk, dir, on_name, &f, e), worst = 0;

	for (i = 0; i < f.n; i++) {
		const char *name = f.names[i] + 1;
		char *path = *dir ? xasprintf("%s/%s", dir, name)
				  : xstrdup(name);

		if (rv == 0 && f.names[i][0] == 'd') {
			rv = dump_folder(d, path, e);
		} else if (rv == 0 && ends(name, ".jnl")) {
			if (!journal)
				rv = dump_journal(d, dir, NULL, e);
			journal = true;
		} else if (rv == 0 && known(name)) {
			rv = dump_file(d, path, name, e);
		}
		if (rv) {
			fprintf(stderr, "quipu-dump: %s: %s\n", path, e->msg);
			worst = rv;
			rv = 0;
		}
		free(path);
		free(f.names[i]);
	}
	free(f.names);
	if (worst)
		err_set(e, worst, "some files could not be read");
	return rv ? rv : worst;
}

static int dump_path(struct dump *d, const char *arg, uv_loop_t *loop,
		     struct err *e)
{
	char path[PATH_MAX], *slash;
	struct stat st;
	int rv;

	if (!realpath(arg, path) || stat(path, &st))
		return err_errno(e, errno, "%s", arg);
	slash = strrchr(path, '/');
	if (!S_ISDIR(st.st_mode))
		*slash = 0;
	rv = disk_uv_open(&d->disk, loop,
			  S_ISDIR(st.st_mode) || slash != path ? path : "/", e);
	if (rv)
		return rv;
	if (S_ISDIR(st.st_mode))
		rv = dump_folder(d, "", e);
	else
		rv = dump_file(d, slash + 1, slash + 1, e);
	disk_uv_close(d->disk);
	uv_run(loop, UV_RUN_DEFAULT);
	return rv;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "payload", no_argument, NULL, 'p' },
		{ "quiet", no_argument, NULL, 'q' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct dump d = { 0 };
	struct err e = { 0 };
	uv_loop_t loop;
	int c, i, bad = 0;

	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		if (c == 'j') {
			d.json = true;
		} else if (c == 'p') {
			d.payload = true;
		} else if (c == 'q') {
			d.quiet = true;
		} else {
			fputs(usage, c == 'h' ? stdout : stderr);
			return c == 'h' ? 0 : 2;
		}
	}
	if (optind == argc) {
		fputs(usage, stderr);
		return 2;
	}
	if (uv_loop_init(&loop)) {
		fputs("quipu-dump: no event loop\n", stderr);
		return 3;
	}
	for (i = optind; i < argc; i++) {
		if (dump_path(&d, argv[i], &loop, &e)) {
			fprintf(stderr, "quipu-dump: %s\n", e.msg);
			bad = 1;
		}
	}
	uv_loop_close(&loop);
	return bad ? 3 : d.damaged ? 1 : 0;
}
