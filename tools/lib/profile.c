#include "base/alloc.h"
#include "client/upgrade.h"
#include "tools/lib/profile.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX (1u << 20)

bool account_parse(const char *s, uint64_t *id)
{
	unsigned i;

	*id = 0;
	for (i = 0; i < 16; i++) {
		char ch = s[i];
		unsigned v = ch >= '0' && ch <= '9' ? (unsigned)(ch - '0') :
			     ch >= 'a' && ch <= 'f' ? (unsigned)(ch - 'a') + 10 : 16;

		if (v == 16)
			return false;
		*id = *id << 4 | v;
	}
	return s[16] == 0 && *id != 0;
}

bool person_name_ok(const char *s)
{
	size_t i, n = strlen(s);
	uint64_t id;

	if (n == 0 || n >= PROFILE_NAME_MAX || s[0] == '.' || s[0] == '-' ||
	    account_parse(s, &id))
		return false;
	for (i = 0; i < n; i++) {
		unsigned char c = (unsigned char)s[i];

		if (!((c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') ||
		      c == '-' || c == '_' || c == '.' || c >= 0x80))
			return false;
	}
	return true;
}

/* ---- members -------------------------------------------------------------- */

static int wrong(const struct profile *p, const char *member, const char *why,
		 struct err *e)
{
	return err_set(e, ERR_FORMAT, "%s: \"%s\" %s", p->path, member, why);
}

static int gateways(struct profile *p, struct err *e)
{
	const json_t *list = json_object_get(p->json, "gateways");
	size_t i, n = json_array_size(list);

	if (!json_is_array(list) || n < 1 || n > PROFILE_GATEWAYS_MAX)
		return wrong(p, "gateways", "must be 1 to 8 of ws://HOST:PORT", e);
	for (i = 0; i < n; i++) {
		const char *s = json_string_value(json_array_get(list, i));
		struct gateway_url u;
		struct err why;

		if (!s)
			return wrong(p, "gateways", "must be texts", e);
		if (gateway_url_parse(&u, s, &why))
			return wrong(p, "gateways", why.msg, e);
		p->gateways[i] = s;
	}
	p->n_gateways = (unsigned)n;
	return 0;
}

static int contacts(struct profile *p, struct err *e)
{
	json_t *o = json_object_get(p->json, "contacts"), *v;
	const char *name;
	uint64_t id;

	if (!o) {
		json_object_set_new(p->json, "contacts", json_object());
		return 0;
	}
	if (!json_is_object(o))
		return wrong(p, "contacts", "must be an object", e);
	json_object_foreach(o, name, v)
		if (!person_name_ok(name) || !json_string_value(v) ||
		    !account_parse(json_string_value(v), &id))
			return wrong(p, "contacts", "must be names with 16 hex digits",
				     e);
	return 0;
}

int profile_make(struct profile *p, const char *home, json_t *json, struct err *e)
{
	const json_t *v;
	const char *s;
	int rv = 0;

	memset(p, 0, sizeof *p);
	p->home = xstrdup(home);
	p->path = xasprintf("%s/profile.json", home);
	p->json = json;
	v = json_object_get(json, "version");
	if (!json_is_integer(v) || json_integer_value(v) != 1)
		rv = wrong(p, "version", "must be 1: this program knows no other", e);
	p->name = json_string_value(json_object_get(json, "name"));
	if (!rv && (!p->name || !person_name_ok(p->name)))
		rv = wrong(p, "name", "must be a name without blanks", e);
	s = json_string_value(json_object_get(json, "account"));
	if (!rv && (!s || !account_parse(s, &p->account)))
		rv = wrong(p, "account", "must be 16 hex digits", e);
	v = json_object_get(json, "device");
	if (!rv && (!json_is_integer(v) || json_integer_value(v) < 1 ||
		    json_integer_value(v) > UINT32_MAX))
		rv = wrong(p, "device", "must be a number from 1", e);
	p->device = (uint32_t)json_integer_value(v);
	p->token = json_string_value(json_object_get(json, "token"));
	if (!rv && (!p->token || strlen(p->token) > 2048))
		rv = wrong(p, "token", "must be a text of at most 2048 bytes", e);
	s = json_string_value(json_object_get(json, "ca"));
	if (s)
		p->ca = *s == '/' ? xstrdup(s) : xasprintf("%s/%s", home, s);
	if (!rv)
		rv = gateways(p, e);
	if (!rv)
		rv = contacts(p, e);
	if (rv)
		profile_release(p);
	return rv;
}

int profile_load(struct profile *p, const char *home, struct err *e)
{
	char *path = xasprintf("%s/profile.json", home);
	json_error_t je;
	struct stat st;
	json_t *json;
	FILE *f = fopen(path, "re");
	int rv = 0;

	memset(p, 0, sizeof *p);
	if (!f || fstat(fileno(f), &st))
		rv = errno == ENOENT ? err_set(e, ERR_NOT_FOUND, "%s: no profile; "
					       "`quipuctl invite` makes one, `quipu "
					       "login` imports one", path)
				     : err_errno(e, errno, "%s", path);
	else if (!S_ISREG(st.st_mode) || st.st_size > FILE_MAX)
		rv = err_set(e, ERR_FORMAT, "%s: not a profile", path);
	if (!rv) {
		json = json_loadf(f, JSON_REJECT_DUPLICATES, &je);
		if (json)
			rv = profile_make(p, home, json, e);
		else
			rv = err_set(e, ERR_FORMAT, "%s:%d:%d: %s", path, je.line,
				     je.column, je.text);
	}
	if (f)
		fclose(f);
	free(path);
	return rv;
}

/* ---- writing -------------------------------------------------------------- */

/* mkdir -p, for the owner alone. */
static int make_folders(const char *home, struct err *e)
{
	char *path = xstrdup(home), *p = path;
	int rv = 0;

	while (!rv && *p) {
		p += strspn(p, "/");
		p += strcspn(p, "/");
		{
			char kept = *p;

			*p = 0;
			if (*path && mkdir(path, 0700) && errno != EEXIST)
				rv = err_errno(e, errno, "%s", path);
			*p = kept;
		}
	}
	free(path);
	return rv;
}

int profile_save(struct profile *p, struct err *e)
{
	char *text, *tmp;
	int fd, rv = make_folders(p->home, e);
	size_t n;

	if (rv)
		return rv;
	text = json_dumps(p->json, JSON_INDENT(1) | JSON_SORT_KEYS);
	if (!text)
		return err_set(e, ERR_FORMAT, "%s: not UTF-8", p->path);
	tmp = xasprintf("%s.new", p->path);
	n = strlen(text);
	text[n++] = '\n'; /* in the place of its zero */
	unlink(tmp); /* of a crash: its mode, or where it points, may be anything */
	fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, text, n) != (ssize_t)n || fsync(fd) ||
	    rename(tmp, p->path))
		rv = err_errno(e, errno, "%s", tmp);
	if (fd >= 0)
		close(fd);
	free(text);
	free(tmp);
	return rv;
}

void profile_release(struct profile *p)
{
	json_decref(p->json);
	free(p->home);
	free(p->path);
	free(p->ca);
	memset(p, 0, sizeof *p);
}

/* ---- contacts ------------------------------------------------------------- */

int profile_contact(const struct profile *p, const char *who, uint64_t *account,
		    struct err *e)
{
	const char *s = json_string_value(
		json_object_get(json_object_get(p->json, "contacts"), who));

	if (account_parse(s ? s : who, account))
		return 0;
	return err_set(e, ERR_NOT_FOUND, "%s knows no \"%s\": `quipu --home %s contacts "
		       "add %s ACCOUNT`, or give the account's 16 hex digits",
		       p->name, who, p->home, who);
}

static const char *contact_name(const struct profile *p, const char *id)
{
	json_t *v, *o = json_object_get(p->json, "contacts");
	const char *name;

	json_object_foreach(o, name, v)
		if (strcmp(json_string_value(v), id) == 0)
			return name;
	return NULL;
}

bool profile_knows(const struct profile *p, uint64_t account)
{
	char id[17];

	snprintf(id, sizeof id, "%016" PRIx64, account);
	return contact_name(p, id);
}

const char *profile_who(const struct profile *p, uint64_t account)
{
	static char ring[4][17];
	static unsigned next;
	char *id = ring[next++ & 3];
	const char *name;

	if (account == p->account)
		return "me";
	snprintf(id, sizeof ring[0], "%016" PRIx64, account);
	name = contact_name(p, id);
	return name ? name : id;
}

int profile_add_contact(struct profile *p, const char *name, uint64_t account,
			struct err *e)
{
	char id[17];

	if (!person_name_ok(name))
		return err_set(e, ERR_INVALID, "\"%s\": a name has letters, digits, "
			       "dashes, dots, and is not an account's id", name);
	snprintf(id, sizeof id, "%016" PRIx64, account);
	json_object_set_new(json_object_get(p->json, "contacts"), name,
			    json_string(id));
	return 0;
}
