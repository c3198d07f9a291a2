#include "base/conf.h"
#include "base/addr.h"
#include "base/alloc.h"
#include "base/assert.h"
#include "base/hash.h"

#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

extern char **environ;

#define CONF_FILE_MAX (1u << 20) /* bytes of a configuration file */

enum type { T_STR, T_LIST, T_U64, T_BOOL, T_LEVEL };
enum unit { U_NONE, U_SIZE, U_MS, U_S };

struct row {
	const char *section, *key;
	enum type type;
	enum unit unit;
	const char *def;
	uint64_t min, max;
	size_t offset;
	const char *doc;
};

static const struct row rows[] = {
#define SECTION(name, doc)
#define END(name)
#define X(section, key, type, def, min, max, unit, doc)                        \
	{ #section, #key, T_##type, U_##unit, def, min, max,                   \
	  offsetof(struct conf, section.key), doc },
#include "base/conf.tbl"
#undef SECTION
#undef X
#undef END
};

static const struct {
	const char *name, *doc;
} sections[] = {
#define SECTION(name, doc) { #name, doc },
#define END(name)
#define X(section, key, type, def, min, max, unit, doc)
#include "base/conf.tbl"
#undef SECTION
#undef X
#undef END
};

#define N_ROWS (sizeof rows / sizeof rows[0])
#define N_SECTIONS (sizeof sections / sizeof sections[0])

static const char *const levels[] = { "debug", "info", "warn", "error" };

static const struct unit_name {
	enum unit unit;
	const char *name;
	uint64_t factor; /* in the smallest unit: bytes, milliseconds */
} unit_names[] = {
	{ U_SIZE, "B", 1 },
	{ U_SIZE, "KiB", 1ull << 10 },
	{ U_SIZE, "MiB", 1ull << 20 },
	{ U_SIZE, "GiB", 1ull << 30 },
	{ U_SIZE, "TiB", 1ull << 40 },
	{ U_MS, "ms", 1 },
	{ U_MS, "s", 1000 },
	{ U_MS, "min", 60 * 1000 },
	{ U_MS, "h", 3600 * 1000 },
};

#define N_UNITS (sizeof unit_names / sizeof unit_names[0])

static bool section_known(const char *name)
{
	size_t i;

	for (i = 0; i < N_SECTIONS; i++)
		if (strcmp(sections[i].name, name) == 0)
			return true;
	return false;
}

static const struct row *row_find(const char *section, const char *key)
{
	size_t i;

	for (i = 0; i < N_ROWS; i++)
		if (strcmp(rows[i].section, section) == 0 &&
		    strcmp(rows[i].key, key) == 0)
			return &rows[i];
	return NULL;
}

/* ---- values --------------------------------------------------------------- */

static int parse_number(const struct row *r, const char *text, uint64_t *out,
			struct err *e)
{
	enum unit unit = r->unit == U_S ? U_MS : r->unit;
	uint64_t v = 0, factor = r->unit == U_S ? 1000 : 1;
	const char *p = text;
	size_t i;

	if (!isdigit((unsigned char)*p))
		return err_set(e, ERR_CONFIG, "\"%s\" is not a number", text);
	for (; isdigit((unsigned char)*p); p++)
		if (__builtin_mul_overflow(v, 10, &v) ||
		    __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
			return err_set(e, ERR_CONFIG, "%s is too large", text);
	while (*p == ' ')
		p++;
	if (*p) {
		for (i = 0; i < N_UNITS; i++)
			if (unit_names[i].unit == unit &&
			    strcmp(unit_names[i].name, p) == 0)
				break;
		if (i == N_UNITS)
			return err_set(e, ERR_CONFIG, "\"%s\" is no unit here "
				       "(%s)", p,
				       unit == U_SIZE ? "B, KiB, MiB, GiB, TiB"
				       : unit == U_MS ? "ms, s, min, h"
						      : "a plain number");
		factor = unit_names[i].factor;
	}
	if (__builtin_mul_overflow(v, factor, &v))
		return err_set(e, ERR_CONFIG, "%s is too large", text);
	if (r->unit == U_S) {
		if (v % 1000)
			return err_set(e, ERR_CONFIG,
				       "%s is not in whole seconds", text);
		v /= 1000;
	}
	*out = v;
	return 0;
}

/* A number with the largest unit that divides it. */
static const char *number_text(const struct row *r, uint64_t v, char *out,
			       size_t n)
{
	const struct unit_name *best = NULL;
	size_t i;

	if (r->unit == U_S)
		v *= 1000;
	for (i = 0; i < N_UNITS && r->unit != U_NONE; i++) {
		const struct unit_name *u = &unit_names[i];

		if (u->unit == (r->unit == U_S ? U_MS : r->unit) &&
		    v % u->factor == 0 && (v || !best))
			best = u;
	}
	snprintf(out, n, "%llu%s",
		 (unsigned long long)(best ? v / best->factor : v),
		 best ? best->name : "");
	return out;
}

/* Can a file say it?  What begins like a remark or holds control characters is
 * refused wherever it comes from, so that conf_print() never changes a meaning. */
static bool text_fits(const char *value)
{
	const char *p;

	for (p = value; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f ||
		    (*p == ';' && (p == value || strchr(" ,", p[-1]))))
			return false;
	return p == value || (*value != ' ' && p[-1] != ' ');
}

static int set_text(const struct row *r, char *at, const char *value,
		    bool append, struct err *e)
{
	size_t have = append ? strlen(at) : 0, n = strlen(value);
	size_t comma = have ? 1 : 0;

	if (!text_fits(value))
		return err_set(e, ERR_CONFIG, "a remark (;), a control character "
			       "or a space at an end cannot be part of a value");
	if (have + comma + n > r->max)
		return err_set(e, ERR_CONFIG, "longer than %llu bytes",
			       (unsigned long long)r->max);
	if (have + comma + n < r->min)
		return err_set(e, ERR_CONFIG, "may not be empty");
	AN(r->max < CONF_STRING_MAX);
	if (comma)
		at[have] = ',';
	memcpy(at + have + comma, value, n + 1);
	return 0;
}

static int set_row(struct conf *c, const struct row *r, const char *value,
		   bool append, struct err *e)
{
	char *at = (char *)c + r->offset, lo[32], hi[32];
	uint64_t v = 0;
	size_t i;
	int rv;

	switch (r->type) {
	case T_STR:
		return set_text(r, at, value, false, e);
	case T_LIST:
		return set_text(r, at, value, append, e);
	case T_U64:
		rv = parse_number(r, value, &v, e);
		if (rv)
			return rv;
		if (v < r->min || v > r->max)
			return err_set(e, ERR_CONFIG,
				       "%s is not between %s and %s", value,
				       number_text(r, r->min, lo, sizeof lo),
				       number_text(r, r->max, hi, sizeof hi));
		memcpy(at, &v, sizeof v);
		return 0;
	case T_BOOL:
		if (!strcmp(value, "yes") || !strcmp(value, "true"))
			*(bool *)at = true;
		else if (!strcmp(value, "no") || !strcmp(value, "false"))
			*(bool *)at = false;
		else
			return err_set(e, ERR_CONFIG,
				       "\"%s\" is neither yes nor no", value);
		return 0;
	case T_LEVEL:
		for (i = 0; i < sizeof levels / sizeof levels[0]; i++)
			if (strcmp(levels[i], value) == 0) {
				enum log_level l = (enum log_level)i;

				memcpy(at, &l, sizeof l);
				return 0;
			}
		return err_set(e, ERR_CONFIG, "\"%s\" is none of debug, info, "
			       "warn, error", value);
	}
	WRONG("type of a parameter");
}

/* Key of a row `N = host:port`: the node id; 0 if it is none. */
static uint64_t peer_key(const char *key)
{
	uint64_t id = 0;
	const char *p;

	if (*key < '1' || *key > '9')
		return 0;
	for (p = key; isdigit((unsigned char)*p); p++)
		if ((id = id * 10 + (uint64_t)(*p - '0')) > CONF_NODE_MAX)
			return 0;
	return *p ? 0 : id;
}

static int set_peer(struct conf *c, uint64_t id, const char *value,
		    struct err *e)
{
	struct addr a;
	unsigned i;
	int rv = addr_parse(&a, value, e);

	if (rv)
		return rv;
	if (a.port == 0 || !text_fits(value))
		return err_set(e, ERR_CONFIG, "a peer cannot have %s",
			       a.port ? "a remark (;) in its name" : "port 0");
	for (i = 0; i < c->n_peers && c->peer[i].id < id; i++)
		;
	if (i == c->n_peers || c->peer[i].id != id) {
		if (c->n_peers == CONF_PEERS_MAX)
			return err_set(e, ERR_CONFIG, "more than %d nodes",
				       CONF_PEERS_MAX);
		memmove(&c->peer[i + 1], &c->peer[i],
			(c->n_peers - i) * sizeof c->peer[0]);
		c->n_peers++;
		c->peer[i].id = id;
	}
	snprintf(c->peer[i].addr, sizeof c->peer[i].addr, "%s", value);
	return 0;
}

static int set_key(struct conf *c, const char *section, const char *key,
		   const char *value, bool append, struct err *e)
{
	const struct row *r;
	int rv;

	if (!section_known(section))
		return err_set(e, ERR_CONFIG, "unknown section [%s]", section);
	r = row_find(section, key);
	if (!r && strcmp(section, "peers") == 0) {
		uint64_t id = peer_key(key);

		if (!id)
			return err_set(e, ERR_CONFIG, "unknown key %s.%s (a "
				       "node is a number, 1 to %d)", section,
				       key, CONF_NODE_MAX);
		rv = set_peer(c, id, value, e);
	} else if (!r) {
		return err_set(e, ERR_CONFIG, "unknown key %s.%s", section,
			       key);
	} else {
		rv = set_row(c, r, value, append, e);
	}
	return rv ? err_wrap(e, "%s.%s", section, key) : 0;
}

void conf_init(struct conf *c)
{
	struct err e;
	size_t i;

	memset(c, 0, sizeof *c);
	/* A minimum length holds for what people write; "" as the default of an
	 * optional text is fine, as its minimum is 0. */
	for (i = 0; i < N_ROWS; i++)
		AZ(set_row(c, &rows[i], rows[i].def, false, &e));
}

int conf_set(struct conf *c, const char *name, const char *value,
	     struct err *e)
{
	char section[32];
	const char *dot = strchr(name, '.');
	size_t n = dot ? (size_t)(dot - name) : 0;

	if (!dot || n == 0 || n >= sizeof section)
		return err_set(e, ERR_CONFIG, "\"%s\": expected section.key",
			       name);
	memcpy(section, name, n);
	section[n] = 0;
	return set_key(c, section, dot + 1, value, false, e);
}

/* ---- the file ------------------------------------------------------------- */

/* inih tells the handler no line number, so the reader that feeds it counts.
 * The first error stops the reading. */
struct reading {
	struct conf *c;
	const char *path, *p, *end;
	unsigned line;
	bool seen[N_ROWS], seen_peer[CONF_NODE_MAX + 1];
	struct err err;
};

static char *read_line(char *str, int num, void *stream)
{
	struct reading *rd = stream;
	const char *nl;
	size_t n;

	if (rd->p == rd->end || rd->err.code)
		return NULL;
	nl = memchr(rd->p, '\n', (size_t)(rd->end - rd->p));
	n = (size_t)((nl ? nl + 1 : rd->end) - rd->p);
	rd->line++;
	/* A last line without its end may not be longer than others. */
	if (n - (nl != NULL) > (size_t)num - 2) {
		err_set(&rd->err, ERR_CONFIG, "%s:%u: the line is longer than "
			"%d bytes", rd->path, rd->line, num - 2);
		return NULL;
	}
	if (memchr(rd->p, 0, n)) {
		err_set(&rd->err, ERR_CONFIG, "%s:%u: a zero byte: this is not "
			"a text file", rd->path, rd->line);
		return NULL;
	}
	memcpy(str, rd->p, n);
	str[n] = 0;
	rd->p += n;
	return str;
}

static int on_key(void *user, const char *section, const char *key,
		  const char *value)
{
	struct reading *rd = user;
	const struct row *r = row_find(section, key);
	uint64_t id = !r && !strcmp(section, "peers") ? peer_key(key) : 0;
	bool *seen = r ? &rd->seen[r - rows] : id ? &rd->seen_peer[id] : NULL;
	bool again = (r || id) && *seen;

	if (rd->err.code)
		return 0;
	if (!*section)
		err_set(&rd->err, ERR_CONFIG, "\"%s\" stands before the first "
			"[section]", key);
	else if (again && (!r || r->type != T_LIST))
		err_set(&rd->err, ERR_CONFIG, "%s.%s is given twice", section,
			key);
	else
		set_key(rd->c, section, key, value, again, &rd->err);
	if (rd->err.code) {
		err_wrap(&rd->err, "%s:%u", rd->path, rd->line);
		return 0;
	}
	if (seen)
		*seen = true;
	return 1;
}

int conf_parse(struct conf *c, const char *text, size_t len, const char *path,
	       struct err *e)
{
	struct reading rd = { .c = c, .path = path, .p = text,
			      .end = text + len };
	int line = ini_parse_stream(read_line, &rd, on_key, &rd);

	if (rd.err.code) {
		if (e)
			*e = rd.err;
		return rd.err.code;
	}
	if (line)
		return err_set(e, ERR_CONFIG, "%s:%d: neither [section] nor "
			       "key = value", path, line);
	return 0;
}

static int load_file(struct conf *c, const char *path, struct err *e)
{
	FILE *f = fopen(path, "r");
	char *text;
	size_t n;
	int rv;

	if (!f)
		return err_errno(e, errno, "cannot open %s", path);
	text = xmalloc(CONF_FILE_MAX + 1);
	n = fread(text, 1, CONF_FILE_MAX + 1, f);
	if (ferror(f))
		rv = err_errno(e, errno, "cannot read %s", path);
	else if (n > CONF_FILE_MAX)
		rv = err_set(e, ERR_CONFIG, "%s is larger than %u bytes", path,
			     CONF_FILE_MAX);
	else
		rv = conf_parse(c, text, n, path, e);
	free(text);
	fclose(f);
	return rv;
}

/* ---- the environment ------------------------------------------------------ */

/* QUIPU_GATEWAY_LISTEN=... Variables of other programs of ours (QUIPU_TOKEN)
 * have no section's name in second place and are left alone. */
static int load_env(struct conf *c, struct err *e)
{
	char **v;
	size_t i, k;

	for (v = environ; v && *v; v++) {
		const char *name = *v, *rest, *eq = strchr(name, '=');
		char var[64], key[32];
		int rv;

		if (strncmp(name, "QUIPU_", 6) != 0 || !eq)
			continue;
		rest = name + 6;
		for (i = 0; i < N_SECTIONS; i++) {
			k = strlen(sections[i].name);
			if (strncasecmp(rest, sections[i].name, k) == 0 &&
			    rest[k] == '_')
				break;
		}
		if (i == N_SECTIONS)
			continue;
		rest += k + 1;
		if ((size_t)(eq - name) >= sizeof var ||
		    (size_t)(eq - rest) >= sizeof key)
			return err_set(e, ERR_CONFIG, "environment variable "
				       "%.60s...: unknown key", name);
		memcpy(var, name, (size_t)(eq - name));
		var[eq - name] = 0;
		for (k = 0; rest + k < eq; k++)
			key[k] = (char)tolower((unsigned char)rest[k]);
		key[k] = 0;
		rv = set_key(c, sections[i].name, key, eq + 1, false, e);
		if (rv)
			return err_wrap(e, "environment variable %s", var);
	}
	return 0;
}

int conf_load(struct conf *c, const char *path, struct err *e)
{
	int rv;

	conf_init(c);
	rv = path ? load_file(c, path, e) : 0;
	return rv ? rv : load_env(c, e);
}

/* ---- rules over several rows ---------------------------------------------- */

const char *conf_peer_addr(const struct conf *c, uint64_t id)
{
	unsigned i;

	for (i = 0; i < c->n_peers; i++)
		if (c->peer[i].id == id)
			return c->peer[i].addr;
	return NULL;
}

const char *conf_peer_listen(const struct conf *c)
{
	return *c->peers.listen ? c->peers.listen :
				  conf_peer_addr(c, c->node.id);
}

void conf_cluster_id(const struct conf *c, uint8_t out[16])
{
	static const char what[] = "quipu cluster";
	struct hash_part parts[2] = {
		{ what, sizeof what }, /* with its zero */
		{ c->node.cluster, strlen(c->node.cluster) },
	};
	uint8_t sum[SHA256_LEN];

	sha256_parts(parts, 2, sum);
	memcpy(out, sum, 16);
}

static int check_peers(const struct conf *c, struct err *e)
{
	struct addr a;
	unsigned i, n_tls = !!*c->tls.ca + !!*c->tls.cert + !!*c->tls.key;
	int rv;

	if (n_tls != 0 && n_tls != 3)
		return err_set(e, ERR_CONFIG,
			       "tls.ca, tls.cert and tls.key belong together");
	if (*c->peers.listen) {
		rv = addr_parse(&a, c->peers.listen, e);
		if (rv)
			return err_wrap(e, "peers.listen");
	}
	if (c->node.join && c->n_peers < 2)
		return err_set(e, ERR_CONFIG, "node.join needs [peers]: this "
			       "node's own row and one of a node that is there");
	if (c->n_peers == 0)
		return 0;
	if (!conf_peer_addr(c, c->node.id))
		return err_set(e, ERR_CONFIG, "node.id is %llu, but [peers] has"
			       " no row for it",
			       (unsigned long long)c->node.id);
	if (c->peers.dead_ms < 2 * c->peers.keepalive_ms)
		return err_set(e, ERR_CONFIG, "peers.dead_ms must be at least "
			       "twice peers.keepalive_ms");
	if (n_tls)
		return 0;
	for (i = 0; i <= c->n_peers; i++) {
		const char *text = i < c->n_peers ? c->peer[i].addr :
						    conf_peer_listen(c);

		rv = addr_parse(&a, text, e);
		if (rv)
			return rv;
		if (!addr_is_loopback(&a))
			return err_set(e, ERR_CONFIG, "links to %s need [tls] "
				       "ca, cert and key: plain ones are for "
				       "loopback only", text);
	}
	return 0;
}

static int check_gateway(const struct conf *c, struct err *e)
{
	struct addr a;
	int rv = addr_parse(&a, c->gateway.listen, e);

	if (rv)
		return err_wrap(e, "gateway.listen");
	if (!*c->gateway.tls_cert != !*c->gateway.tls_key)
		return err_set(e, ERR_CONFIG, "gateway.tls_cert and "
			       "gateway.tls_key belong together");
	if (!*c->gateway.tls_cert && !addr_is_loopback(&a) &&
	    !c->gateway.insecure)
		return err_set(e, ERR_CONFIG, "gateway.listen = %s would serve "
			       "plain HTTP to the network: set "
			       "gateway.tls_cert and tls_key, or "
			       "gateway.insecure = yes behind a TLS proxy",
			       c->gateway.listen);
	return 0;
}

int conf_check(const struct conf *c, struct err *e)
{
	const char *p;
	int rv = check_peers(c, e);

	if (!rv)
		rv = check_gateway(c, e);
	if (rv)
		return rv;
	for (p = c->node.cluster; *p; p++)
		if (!isalnum((unsigned char)*p) &&
		    (*p != '-' || p == c->node.cluster || !p[1]))
			return err_set(e, ERR_CONFIG, "node.cluster \"%s\": "
				       "only letters, digits and inner dashes",
				       c->node.cluster);
	if (c->journal.file_size % 4096)
		return err_set(e, ERR_CONFIG,
			       "journal.file_size is no multiple of 4096");
	if (c->journal.max < 2 * c->journal.file_size)
		return err_set(e, ERR_CONFIG, "journal.max must hold at least "
			       "two files of journal.file_size");
	if (c->disk.warn > c->disk.refuse || c->disk.refuse > c->disk.readonly)
		return err_set(e, ERR_CONFIG, "disk.warn, disk.refuse and "
			       "disk.readonly must not fall");
	if (c->raft.election_ms < 3 * c->raft.heartbeat_ms)
		return err_set(e, ERR_CONFIG, "raft.election_ms must be at "
			       "least three times raft.heartbeat_ms");
	return 0;
}

/* ---- output --------------------------------------------------------------- */

static const char *value_text(const struct conf *c, const struct row *r,
			      char *out, size_t n)
{
	const char *at = (const char *)c + r->offset;
	enum log_level level;
	uint64_t v;

	switch (r->type) {
	case T_STR:
	case T_LIST:
		return at;
	case T_U64:
		memcpy(&v, at, sizeof v);
		return number_text(r, v, out, n);
	case T_BOOL:
		return *(const bool *)at ? "yes" : "no";
	case T_LEVEL:
		memcpy(&level, at, sizeof level);
		return levels[level];
	}
	WRONG("type of a parameter");
}

/* As it may have come: the reader's lines are short (INI_MAX_LINE). */
static void print_row(const char *key, const char *value, int len, FILE *f)
{
	bool tight = strlen(key) + (size_t)len > 150;

	fprintf(f, "%s%s%.*s\n", key, tight ? "=" : " = ", len, value);
}

/* A row for each part of a list. */
static void print_list(const char *key, const char *list, FILE *f)
{
	const char *end;
	bool none = true;
	size_t len;

	for (; *list; list = *end ? end + 1 : end) {
		list += strspn(list, " ");
		for (len = strcspn(list, ","), end = list + len;
		     len && list[len - 1] == ' ';)
			len--;
		if (len)
			print_row(key, list, (int)len, f);
		none = none && !len;
	}
	if (none)
		print_row(key, "", 0, f);
}

void conf_print(const struct conf *c, FILE *f)
{
	const char *value;
	char num[32];
	size_t s, i;

	for (s = 0; s < N_SECTIONS; s++) {
		fprintf(f, "%s[%s]\n", s ? "\n" : "", sections[s].name);
		for (i = 0; i < N_ROWS; i++) {
			if (strcmp(rows[i].section, sections[s].name))
				continue;
			value = value_text(c, &rows[i], num, sizeof num);
			if (rows[i].type == T_LIST)
				print_list(rows[i].key, value, f);
			else
				print_row(rows[i].key, value,
					  (int)strlen(value), f);
		}
		if (!strcmp(sections[s].name, "peers"))
			for (i = 0; i < c->n_peers; i++)
				fprintf(f, "%llu=%s\n",
					(unsigned long long)c->peer[i].id,
					c->peer[i].addr);
	}
}

void conf_help(FILE *f)
{
	size_t s, i;

	for (s = 0; s < N_SECTIONS; s++) {
		fprintf(f, "%s[%s] %s\n", s ? "\n" : "", sections[s].name,
			sections[s].doc);
		for (i = 0; i < N_ROWS; i++)
			if (!strcmp(rows[i].section, sections[s].name))
				fprintf(f, "  %-16s %s%s%s%s\n", rows[i].key,
					rows[i].doc,
					*rows[i].def ? " (" : "", rows[i].def,
					*rows[i].def ? ")" : "");
	}
}

void conf_doc(FILE *f)
{
	static const char *const kinds[] = { "text", "list", "number",
					     "yes or no", "level" };
	static const char *const units[] = { "number", "size", "time", "time" };
	char lo[32], hi[32];
	size_t s, i;

	fprintf(f, "# Parameters of quipud\n\n"
		   "Made from base/conf.tbl by `make docs`; do not edit.\n\n"
		   "An INI file (`quipud --config FILE`), then the environment "
		   "(`QUIPU_SECTION_KEY`), then the\ncommand line "
		   "(`--set section.key=value`); later ones win. An unknown "
		   "section or key is an error.\nSizes take B, KiB, MiB, GiB, "
		   "TiB; times take ms, s, min, h; a number alone counts in "
		   "the unit at\nthe end of the key's name, or in bytes.\n");
	for (s = 0; s < N_SECTIONS; s++) {
		fprintf(f, "\n## [%s]\n\n%s.\n\n| key | kind | default | range |"
			   " meaning |\n|---|---|---|---|---|\n",
			sections[s].name, sections[s].doc);
		for (i = 0; i < N_ROWS; i++) {
			const struct row *r = &rows[i];
			bool num = r->type == T_U64;

			if (strcmp(r->section, sections[s].name))
				continue;
			fprintf(f, "| %s | %s | %s | ", r->key,
				num ? units[r->unit] : kinds[r->type], r->def);
			if (num)
				fprintf(f, "%s to %s",
					number_text(r, r->min, lo, sizeof lo),
					number_text(r, r->max, hi, sizeof hi));
			else if (r->type == T_STR || r->type == T_LIST)
				fprintf(f, "up to %llu bytes",
					(unsigned long long)r->max);
			fprintf(f, " | %s |\n", r->doc);
		}
		if (!strcmp(sections[s].name, "peers"))
			fprintf(f, "| 1 .. %d | host:port | | up to %d rows | "
				   "Address of that node |\n",
				CONF_NODE_MAX, CONF_PEERS_MAX);
	}
}
