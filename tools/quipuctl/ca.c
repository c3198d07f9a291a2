/* quipuctl ca: the private CA of a cluster, in a folder of its own that no node
 * needs to see.
 *
 *	ca.crt ca.key        what signs
 *	bundle.crt           what nodes trust (tls.ca): ca.crt, and during a rotation
 *	                     the other one too
 *	node-N.crt .key      of node N; gateway.crt .key: what clients see
 *	next.crt next.key    from `rotate begin` to `rotate switch`
 *	old.crt old.key      from `rotate switch` to `rotate finish`
 *
 * Each step of a rotation leaves files with which every node can talk to every
 * other, whichever of them has them yet. */
#include "base/alloc.h"
#include "base/conf.h"
#include "base/rand.h"
#include "tools/lib/table.h"
#include "tools/quipuctl/ctl.h"
#include "tools/quipuctl/pki.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <openssl/obj_mac.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define CA_DAYS 3650
#define LEAF_DAYS 365
#define SHOW_MAX 256 /* certificates in one folder */

static const char *place(const struct ctl *c, char out[PKI_PATH_MAX], const char *name)
{
	snprintf(out, PKI_PATH_MAX, "%s/%s", c->dir, name);
	return out;
}

static bool there(const struct ctl *c, const char *name)
{
	char path[PKI_PATH_MAX];

	return access(place(c, path, name), F_OK) == 0;
}

static int failed(const struct ctl *c, int rv, const struct err *e)
{
	ctl_fail(c, ERR_CONFIG, rv == ERR_EXISTS ? "exists" :
				rv == ERR_NOT_FOUND ? "not-found" : "ca", e);
	return CTL_REFUSED;
}

static int refuse(const struct ctl *c, struct err *e)
{
	return failed(c, e->code, e);
}

static int read_ca(const struct ctl *c, struct pki_pair *ca, struct err *e)
{
	char path[PKI_PATH_MAX];
	int rv;

	*ca = (struct pki_pair){ NULL, NULL };
	rv = pki_read_cert(place(c, path, "ca.crt"), &ca->cert, e);
	if (!rv)
		rv = pki_read_key(place(c, path, "ca.key"), &ca->key, e);
	if (!rv && X509_check_private_key(ca->cert, ca->key) != 1)
		rv = err_set(e, ERR_CONFIG, "%s/ca.key does not belong to ca.crt",
			     c->dir);
	if (rv)
		pki_release(ca);
	return rv;
}

/* The key first: a certificate without its key is what no later try repairs. */
static int write_pair(const struct ctl *c, const char *name, const struct pki_pair *p,
		      bool force, struct err *e)
{
	char crt[PKI_PATH_MAX], key[PKI_PATH_MAX], file[128];
	int rv;

	snprintf(file, sizeof file, "%.100s.crt", name);
	place(c, crt, file);
	snprintf(file, sizeof file, "%.100s.key", name);
	place(c, key, file);
	if (!force && access(crt, F_OK) == 0)
		return err_set(e, ERR_EXISTS, "%s is there already; --force writes it "
			       "anew", crt);
	rv = pki_write_key(key, p->key, force, e);
	return rv ? rv : pki_write_cert(crt, &p->cert, 1, force, e);
}

static void new_ca(struct pki_pair *out, const char *cluster, unsigned days)
{
	char cn[PKI_CLUSTER_MAX + 16];

	snprintf(cn, sizeof cn, "%.40s CA %08x", cluster,
		 (unsigned)rand_u64(&rand_real));
	pki_make(out, PKI_CA, cluster, cn, NULL, days, NULL);
}

static int write_bundle(const struct ctl *c, const char *other, struct err *e)
{
	X509 *certs[2] = { NULL, NULL };
	char path[PKI_PATH_MAX];
	int rv = pki_read_cert(place(c, path, "ca.crt"), &certs[0], e);

	if (!rv && other)
		rv = pki_read_cert(place(c, path, other), &certs[1], e);
	if (!rv)
		rv = pki_write_cert(place(c, path, "bundle.crt"), certs,
				    other ? 2 : 1, true, e);
	X509_free(certs[0]);
	X509_free(certs[1]);
	return rv;
}

/* ---- init, issue ---------------------------------------------------------- */

static int init(struct ctl *c, int argc, char **argv)
{
	struct pki_pair ca;
	struct err e = { 0 };
	int rv;

	if (argc != 3 || !pki_cluster_ok(argv[2]))
		return ctl_usage("ca init takes CLUSTER, the node.cluster of all nodes: "
				 "letters, digits and dashes, at most %d",
				 PKI_CLUSTER_MAX);
	if (mkdir(c->dir, 0700) && errno != EEXIST) {
		err_errno(&e, errno, "%s", c->dir);
		return refuse(c, &e);
	}
	if (there(c, "next.crt") || there(c, "old.crt")) {
		err_set(&e, ERR_EXISTS, "%s: a rotation is under way; nothing was "
			"written (quipuctl ca show)", c->dir);
		return refuse(c, &e);
	}
	new_ca(&ca, argv[2], c->days ? c->days : CA_DAYS);
	rv = write_pair(c, "ca", &ca, c->force, &e);
	pki_release(&ca);
	if (!rv)
		rv = write_bundle(c, NULL, &e);
	if (rv)
		return failed(c, rv, &e);
	if (c->json)
		return ctl_print(json_pack("{s:b,s:s}", "ok", 1, "dir", c->dir));
	printf("%s/ca.key signs for cluster %s: keep it where no node is\n"
	       "%s/bundle.crt goes to every node as tls.ca\n", c->dir, argv[2], c->dir);
	return CTL_OK;
}

/* CN and SAN of what is asked for; the file's name without its end. */
static int leaf_names(int argc, char **argv, const char *cluster, char name[128],
		      char cn[128], char san[2048])
{
	uint64_t id;
	int i;

	san[0] = 0;
	if (argc == 4 && strcmp(argv[2], "node") == 0) {
		if (!ctl_number("NODE", argv[3], 1, CONF_NODE_MAX, &id))
			return CTL_USAGE;
		snprintf(name, 128, "node-%" PRIu64, id);
		snprintf(cn, 128, "node-%" PRIu64 ".%.40s.quipu", id, cluster);
		pki_san_add(san, 2048, cn);
		return CTL_OK;
	}
	if (argc < 4 || argc > 3 + PKI_NAMES_MAX || strcmp(argv[2], "gateway") != 0)
		return ctl_usage("ca issue takes node NODE, or gateway HOST... (at most "
				 "%d)", PKI_NAMES_MAX);
	snprintf(name, 128, "gateway");
	snprintf(cn, 128, "%.64s", argv[3]);
	for (i = 3; i < argc; i++) {
		size_t n = strlen(argv[i]);

		if (n >= 6 && strcmp(argv[i] + n - 6, ".quipu") == 0)
			return ctl_usage("\"%s\": names that end in .quipu are those of "
					 "nodes", argv[i]);
		if (!pki_san_add(san, 2048, argv[i]))
			return ctl_usage("\"%s\" is neither a host name nor an address",
					 argv[i]);
	}
	return CTL_OK;
}

static int issue(struct ctl *c, int argc, char **argv)
{
	char cluster[PKI_CLUSTER_MAX + 1], name[128], cn[128], san[2048];
	unsigned days = c->days ? c->days : LEAF_DAYS;
	struct pki_pair ca, leaf;
	struct err e = { 0 };
	int64_t ca_days;
	bool node;
	int rv = read_ca(c, &ca, &e);

	if (rv)
		return failed(c, rv, &e);
	pki_name(ca.cert, NID_organizationName, cluster, sizeof cluster);
	rv = leaf_names(argc, argv, cluster, name, cn, san);
	if (rv) {
		pki_release(&ca);
		return rv;
	}
	ca_days = (pki_until(ca.cert) - (int64_t)time(NULL)) / 86400;
	if ((int64_t)days > ca_days) {
		pki_release(&ca);
		err_set(&e, ERR_CONFIG, "the CA itself ends in %" PRId64 " days: rotate "
			"it (quipuctl ca rotate begin), or ask for less with --days",
			ca_days);
		return refuse(c, &e);
	}
	node = strcmp(argv[2], "node") == 0;
	pki_make(&leaf, node ? PKI_NODE : PKI_GATEWAY, cluster, cn, san, days, &ca);
	rv = write_pair(c, name, &leaf, c->force, &e);
	pki_release(&leaf);
	pki_release(&ca);
	if (rv)
		return failed(c, rv, &e);
	if (c->json)
		return ctl_print(json_pack("{s:b,s:s,s:s}", "ok", 1, "name", cn, "file",
					   name));
	printf("%s/%s.crt and .key are for %s, good for %u days\n", c->dir, name, cn,
	       days);
	return CTL_OK;
}

/* ---- rotate ---------------------------------------------------------------- */

static int told(struct ctl *c, const char *step, const char *text)
{
	if (c->json)
		return ctl_print(json_pack("{s:b,s:s}", "ok", 1, "step", step));
	puts(text);
	return CTL_OK;
}

static int rotate_begin(struct ctl *c)
{
	char cluster[PKI_CLUSTER_MAX + 1];
	struct pki_pair ca, next;
	struct err e = { 0 };
	int rv = read_ca(c, &ca, &e);

	if (rv)
		return failed(c, rv, &e);
	pki_name(ca.cert, NID_organizationName, cluster, sizeof cluster);
	pki_release(&ca);
	if (there(c, "old.crt")) {
		err_set(&e, ERR_EXISTS, "the last rotation is not finished: quipuctl ca "
			"rotate finish");
		return refuse(c, &e);
	}
	if (!there(c, "next.crt")) { /* else of a run that was cut off */
		new_ca(&next, cluster, c->days ? c->days : CA_DAYS);
		rv = write_pair(c, "next", &next, true, &e);
		pki_release(&next);
	}
	if (!rv)
		rv = write_bundle(c, "next.crt", &e);
	if (rv)
		return failed(c, rv, &e);
	return told(c, "begin", "bundle.crt trusts both CAs: copy it to every node (tls.ca), "
		    "`quipuctl reload` on each,\nthen `quipuctl ca rotate switch`");
}

/* Each rename may be the last one of a run that was cut off. */
static int step_over(const struct ctl *c, const char *end, struct err *e)
{
	char ca[PKI_PATH_MAX], old[PKI_PATH_MAX], next[PKI_PATH_MAX], file[16];

	snprintf(file, sizeof file, "ca.%s", end);
	place(c, ca, file);
	snprintf(file, sizeof file, "old.%s", end);
	place(c, old, file);
	snprintf(file, sizeof file, "next.%s", end);
	place(c, next, file);
	if (access(next, F_OK))
		return 0;
	if ((access(old, F_OK) && rename(ca, old)) || rename(next, ca))
		return err_errno(e, errno, "%s", ca);
	return 0;
}

static int rotate_switch(struct ctl *c)
{
	struct err e = { 0 };
	int rv;

	if (!there(c, "next.crt") && !there(c, "old.crt")) {
		err_set(&e, ERR_NOT_FOUND, "no rotation is under way: quipuctl ca rotate "
			"begin");
		return refuse(c, &e);
	}
	/* next.crt goes last: while it is there the switch is not done. */
	rv = step_over(c, "key", &e);
	if (!rv)
		rv = step_over(c, "crt", &e);
	if (!rv)
		rv = write_bundle(c, "old.crt", &e);
	if (rv)
		return failed(c, rv, &e);
	return told(c, "switch", "the new CA signs: `quipuctl ca issue node N --force` for "
		    "every node, copy, `quipuctl reload`\non each, then `quipuctl ca "
		    "rotate finish`");
}

struct seen {
	char name[64];   /* of the file */
	X509 *cert;
	char key[24];    /* what is to be said of its key */
};

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct seen *)a)->name, ((const struct seen *)b)->name);
}

static void look_at_key(const struct ctl *c, struct seen *s)
{
	char path[PKI_PATH_MAX], file[64];
	EVP_PKEY *key = NULL;
	struct stat st;
	struct err e;

	snprintf(file, sizeof file, "%.*s.key", (int)strlen(s->name) - 4, s->name);
	if (stat(place(c, path, file), &st))
		snprintf(s->key, sizeof s->key, "none");
	else if (st.st_mode & 077)
		snprintf(s->key, sizeof s->key, "mode %04o!", st.st_mode & 07777);
	else if (pki_read_key(path, &key, &e))
		snprintf(s->key, sizeof s->key, "unreadable");
	else
		snprintf(s->key, sizeof s->key, "%s",
			 X509_check_private_key(s->cert, key) == 1 ? "ok" : "another's!");
	EVP_PKEY_free(key);
}

/* Certificates of the folder, by name; the bundle is made of others. */
static int look(const struct ctl *c, struct seen *list, unsigned *n, struct err *e)
{
	DIR *d = opendir(c->dir);
	struct dirent *de;

	*n = 0;
	if (!d)
		return err_errno(e, errno, "%s", c->dir);
	while (*n < SHOW_MAX && (de = readdir(d))) {
		size_t k = strlen(de->d_name);
		char path[PKI_PATH_MAX];
		struct seen *s = &list[*n];
		struct err drop;

		if (k < 5 || k >= sizeof s->name ||
		    strcmp(de->d_name + k - 4, ".crt") != 0 ||
		    strcmp(de->d_name, "bundle.crt") == 0)
			continue;
		snprintf(s->name, sizeof s->name, "%.63s", de->d_name);
		if (pki_read_cert(place(c, path, s->name), &s->cert, &drop))
			continue;
		look_at_key(c, s);
		++*n;
	}
	closedir(d);
	qsort(list, *n, sizeof *list, by_name);
	return 0;
}

static int rotate_finish(struct ctl *c)
{
	struct seen *list = xcalloc(SHOW_MAX, sizeof *list);
	struct err e = { 0 };
	X509 *ca = NULL;
	unsigned n = 0, i;
	char path[PKI_PATH_MAX];
	int rv = 0;

	if (!there(c, "old.crt") || there(c, "next.crt"))
		rv = err_set(&e, ERR_NOT_FOUND, "nothing is to be finished: the steps "
			     "are begin, switch, finish");
	if (!rv)
		rv = pki_read_cert(place(c, path, "ca.crt"), &ca, &e);
	if (!rv)
		rv = look(c, list, &n, &e);
	for (i = 0; i < n; i++) {
		if (!rv && strcmp(list[i].name, "old.crt") != 0 &&
		    !pki_signed_by(list[i].cert, ca))
			rv = err_set(&e, ERR_CONFIG, "%s is still of the old CA: issue it "
				     "anew with --force, copy it and reload", list[i].name);
		X509_free(list[i].cert);
	}
	X509_free(ca);
	free(list);
	if (!rv)
		rv = write_bundle(c, NULL, &e);
	if (!rv && unlink(place(c, path, "old.key")) && errno != ENOENT)
		rv = err_errno(&e, errno, "%s", path);
	if (!rv && unlink(place(c, path, "old.crt")))
		rv = err_errno(&e, errno, "%s", path);
	if (rv)
		return failed(c, rv, &e);
	return told(c, "finish", "bundle.crt trusts the new CA alone: copy it to every node, "
		    "`quipuctl reload` on each");
}

static int rotate(struct ctl *c, int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[2], "begin") == 0)
		return rotate_begin(c);
	if (argc == 3 && strcmp(argv[2], "switch") == 0)
		return rotate_switch(c);
	if (argc == 3 && strcmp(argv[2], "finish") == 0)
		return rotate_finish(c);
	return ctl_usage("ca rotate takes begin, switch or finish");
}

/* ---- show ------------------------------------------------------------------ */

static const char *issuer_of(const struct seen *list, unsigned n, X509 *x)
{
	unsigned i;

	for (i = 0; i < n; i++)
		if (pki_kind_of(list[i].cert) == PKI_CA && list[i].cert != x &&
		    pki_signed_by(x, list[i].cert))
			return list[i].name;
	return pki_signed_by(x, x) ? "itself" : "another's";
}

static int show(struct ctl *c)
{
	static const char *const kinds[] = { "ca", "node", "gateway" };
	struct seen *list = xcalloc(SHOW_MAX, sizeof *list);
	json_t *all = json_array();
	struct err e = { 0 };
	struct table t;
	unsigned n, i;
	int rv = look(c, list, &n, &e);

	if (rv) {
		json_decref(all);
		free(list);
		return failed(c, rv, &e);
	}
	if (!c->json)
		table_init(&t, "file name kind signed_by until days key");
	for (i = 0; i < n; i++) {
		struct seen *s = &list[i];
		int64_t until = pki_until(s->cert);
		int64_t days = (until - (int64_t)time(NULL)) / 86400;
		const char *kind = kinds[pki_kind_of(s->cert)];
		const char *issuer = issuer_of(list, n, s->cert);
		time_t at = (time_t)until;
		char cn[128], date[16];
		struct tm tm;

		pki_name(s->cert, NID_commonName, cn, sizeof cn);
		strftime(date, sizeof date, "%F", gmtime_r(&at, &tm));
		json_array_append_new(all, json_pack(
			"{s:s,s:s,s:s,s:s,s:I,s:I,s:s}", "file", s->name, "name", cn,
			"kind", kind, "signed_by", issuer, "until", (json_int_t)until,
			"days", (json_int_t)days, "key", s->key));
		if (c->json)
			continue;
		table_cell(&t, "%s", s->name);
		table_cell(&t, "%s", cn);
		table_cell(&t, "%s", kind);
		table_cell(&t, "%s", issuer);
		table_cell(&t, "%s", date);
		table_cell(&t, "%" PRId64, days);
		table_cell(&t, "%s", s->key);
	}
	for (i = 0; i < n; i++)
		X509_free(list[i].cert);
	free(list);
	if (c->json)
		return ctl_print(json_pack("{s:b,s:o}", "ok", 1, "certificates", all));
	json_decref(all);
	table_print(&t, stdout);
	if (there(c, "next.crt"))
		puts("\na rotation has begun; next: quipuctl ca rotate switch");
	else if (there(c, "old.crt"))
		puts("\na rotation is under way; next: quipuctl ca rotate finish");
	return CTL_OK;
}

int ctl_ca(struct ctl *c, int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (strlen(c->dir) > PKI_PATH_MAX - 128)
		return ctl_usage("--dir is longer than %d bytes", PKI_PATH_MAX - 128);
	if (strcmp(what, "init") == 0)
		return init(c, argc, argv);
	if (strcmp(what, "issue") == 0)
		return issue(c, argc, argv);
	if (strcmp(what, "rotate") == 0)
		return rotate(c, argc, argv);
	if (strcmp(what, "show") == 0 && argc == 2)
		return show(c);
	return ctl_usage("ca takes init, issue, rotate or show");
}

/* ---- the server's ------------------------------------------------------------ */

int ctl_reload(struct ctl *c, int argc, char **argv)
{
	json_t *o;
	int rv;

	if (argc > 1)
		return ctl_usage("%s takes no \"%s\"", argv[0], argv[1]);
	rv = ctl_call(c, json_pack("{s:s}", "verb", "reload"), &o);
	if (rv)
		return rv;
	if (c->json)
		return ctl_print(o);
	puts("certificates were read again and are in force");
	json_decref(o);
	return CTL_OK;
}
