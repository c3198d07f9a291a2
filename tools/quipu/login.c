/* Who one is, and whom one knows: no connection is made. */
#include "base/alloc.h"
#include "base/base64.h"
#include "tools/lib/table.h"
#include "tools/quipu/view.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Account and device stand in the token (its payload is the gateway's to verify). */
static int claims(const char *token, uint64_t *account, uint32_t *device)
{
	const char *a = strchr(token, '.'), *b = a ? strchr(a + 1, '.') : NULL;
	struct buf json = BUF_INIT;
	json_t *o = NULL;
	json_int_t did = 0;
	bool good = false;

	if (b && base64url_get(&json, a + 1, (size_t)(b - a - 1)))
		o = json_loadb((const char *)json.data, json.len,
			       JSON_REJECT_DUPLICATES, NULL);
	if (o) {
		const char *sub = json_string_value(json_object_get(o, "sub"));

		did = json_integer_value(json_object_get(o, "did"));
		good = sub && account_parse(sub, account) && did > 0 &&
		       did <= UINT32_MAX;
		*device = (uint32_t)did;
	}
	json_decref(o);
	buf_release(&json);
	return good ? 0 : -1;
}

static int keep(const struct options *o, json_t *json)
{
	struct profile p;
	struct err e;

	if (profile_make(&p, o->home, json, &e) || profile_save(&p, &e))
		return app_fail(o, "profile", "%s", e.msg);
	if (o->json)
		view_print_json(stdout, json_pack("{s:s,s:s,s:o,s:I}", "event", "login",
						  "name", p.name, "account",
						  view_id(p.account), "device",
						  (json_int_t)p.device));
	else
		printf("%s is account %016" PRIx64 ", device %u; profile in %s\n", p.name,
		       p.account, p.device, p.path);
	profile_release(&p);
	return APP_OK;
}

/* A new token for the profile that is there. */
static int renew(const struct options *o, uint64_t account, uint32_t device)
{
	struct app a;
	int rv = app_profile(&a, o);

	if (rv)
		return rv;
	if (a.profile.account != account || a.profile.device != device)
		rv = app_fail(o, "token", "the token is for device %u of account %016"
			      PRIx64 ", the profile %s is another's", device, account,
			      a.profile.path);
	else
		json_object_set_new(a.profile.json, "token", json_string(o->token));
	if (rv == APP_OK)
		rv = keep(o, json_incref(a.profile.json));
	profile_release(&a.profile);
	return rv;
}

static int by_token(const struct options *o)
{
	char *path = xasprintf("%s/profile.json", o->home);
	json_t *gateways, *json;
	uint64_t account;
	uint32_t device;
	unsigned i;
	int there = access(path, F_OK) == 0;

	free(path);
	if (claims(o->token, &account, &device))
		return app_fail(o, "token", "that is not a token of a Quipu server");
	if (there)
		return renew(o, account, device);
	if (o->n_gateways == 0 || !o->name)
		return app_usage("login --token for a new profile needs --name and "
				 "--gateway");
	gateways = json_array();
	for (i = 0; i < o->n_gateways; i++)
		json_array_append_new(gateways, json_string(o->gateway[i]));
	json = json_pack("{s:i,s:s,s:o,s:I,s:s,s:o,s:{}}", "version", 1, "name", o->name,
			 "account", view_id(account), "device", (json_int_t)device,
			 "token", o->token, "gateways", gateways, "contacts");
	if (!json)
		return app_usage("--name and --gateway must be UTF-8");
	if (o->ca) {
		char *ca = realpath(o->ca, NULL);

		if (!ca) {
			json_decref(json);
			return app_fail(o, "ca", "%s: %m", o->ca);
		}
		json_object_set_new(json, "ca", json_string(ca));
		free(ca);
	}
	return keep(o, json);
}

int cmd_login(const struct options *o, int argc, char **argv)
{
	json_error_t je;
	json_t *json;
	char *path;

	if (o->token && argc == 1)
		return by_token(o);
	if (argc != 2 || o->token)
		return app_usage("login takes a profile's FILE (- for stdin), or --token");
	path = xasprintf("%s/profile.json", o->home);
	if (access(path, F_OK) == 0) {
		int rv = app_fail(o, "exists", "%s is there already", path);

		free(path);
		return rv;
	}
	free(path);
	json = strcmp(argv[1], "-") == 0
		       ? json_loadf(stdin, JSON_REJECT_DUPLICATES, &je)
		       : json_load_file(argv[1], JSON_REJECT_DUPLICATES, &je);
	if (!json)
		return app_fail(o, "profile", "%s:%d: %s", argv[1], je.line, je.text);
	return keep(o, json);
}

int cmd_whoami(const struct options *o, int argc, char **argv)
{
	struct app a;
	int rv = app_profile(&a, o);

	if (argc != 1)
		rv = app_usage("whoami takes no \"%s\"", argv[1]);
	if (rv)
		return rv;
	if (o->json)
		view_print_json(stdout, json_pack("{s:s,s:s,s:o,s:I}", "event", "whoami",
						  "name", a.profile.name, "account",
						  view_id(a.profile.account), "device",
						  (json_int_t)a.profile.device));
	else
		printf("%s, account %016" PRIx64 ", device %u, %s\n", a.profile.name,
		       a.profile.account, a.profile.device, a.profile.gateways[0]);
	profile_release(&a.profile);
	return APP_OK;
}

static int contacts_list(const struct app *a)
{
	json_t *list = json_object_get(a->profile.json, "contacts"), *v;
	struct table t;
	const char *name;

	if (a->opt->json) {
		json_t *o = json_pack("{s:s,s:O}", "event", "contacts", "contacts", list);

		view_print_json(stdout, o);
		return APP_OK;
	}
	table_init(&t, "name account");
	json_object_foreach(list, name, v) {
		table_cell(&t, "%s", name);
		table_cell(&t, "%s", json_string_value(v));
	}
	table_print(&t, stdout);
	return APP_OK;
}

int cmd_contacts(const struct options *o, int argc, char **argv)
{
	struct app a;
	uint64_t id;
	struct err e;
	bool add = argc == 4 && strcmp(argv[1], "add") == 0;
	bool del = argc == 3 && strcmp(argv[1], "remove") == 0;
	int rv;

	if (argc != 1 && !add && !del)
		return app_usage("contacts, contacts add NAME ACCOUNT, or contacts "
				 "remove NAME");
	if (add && !account_parse(argv[3], &id))
		return app_usage("ACCOUNT \"%s\": 16 hex digits are expected", argv[3]);
	rv = app_profile(&a, o);
	if (rv)
		return rv;
	if (argc == 1)
		rv = contacts_list(&a);
	if (add && profile_add_contact(&a.profile, argv[2], id, &e))
		rv = app_fail(o, "name", "%s", e.msg);
	if (del && json_object_del(json_object_get(a.profile.json, "contacts"), argv[2]))
		rv = app_fail(o, "not-found", "%s knows no \"%s\"", a.profile.name,
			      argv[2]);
	if (argc > 1 && rv == APP_OK && profile_save(&a.profile, &e))
		rv = app_fail(o, "profile", "%s", e.msg);
	profile_release(&a.profile);
	return rv;
}
