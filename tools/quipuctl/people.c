/* Commands about accounts, devices, tokens and the people behind them. */
#include "base/alloc.h"
#include "base/rand.h"
#include "tools/lib/profile.h"
#include "tools/lib/table.h"
#include "tools/quipuctl/ctl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define INVITE_TTL_S (365 * 86400)
#define TRIES_MAX 60      /* of a step whose outcome is unknown */
#define TRY_PAUSE_US 500000

bool ctl_account(const char *s, uint64_t *id)
{
	if (account_parse(s, id))
		return true;
	ctl_usage("ACCOUNT \"%s\": 16 hex digits are expected", s);
	return false;
}

/* ---- account, device, token ----------------------------------------------- */

static int account_show(struct ctl *c, uint64_t id)
{
	struct table t;
	json_t *o, *d;
	size_t i;
	int rv = ctl_call(c, json_pack("{s:s,s:o}", "verb", "account", "account",
				       ctl_id(id)), &o);

	if (rv)
		return rv;
	if (c->json)
		return ctl_print(o);
	table_init(&t, "account shard oldest end devices");
	table_cell(&t, "%s", ctl_s(o, "account"));
	table_cell(&t, "%" PRIu64, ctl_u(o, "shard"));
	table_cell(&t, "%" PRIu64, ctl_u(o, "oldest"));
	table_cell(&t, "%" PRIu64, ctl_u(o, "end"));
	{
		char list[256] = "";
		size_t n = 0;

		json_array_foreach(json_object_get(o, "devices"), i, d)
			n += (size_t)snprintf(list + n, sizeof list - n, "%s%"
					      JSON_INTEGER_FORMAT, n ? "," : "",
					      json_integer_value(d));
		table_cell(&t, "%s", n ? list : "none");
	}
	table_print(&t, stdout);
	json_decref(o);
	return CTL_OK;
}

int ctl_account_cmd(struct ctl *c, int argc, char **argv)
{
	json_t *o, *request;
	uint64_t id = 0;
	int rv;

	if (argc == 3 && strcmp(argv[1], "show") == 0)
		return ctl_account(argv[2], &id) ? account_show(c, id) : CTL_USAGE;
	if (argc > 1 && (!strcmp(argv[1], "erase") || !strcmp(argv[1], "hold")))
		return ctl_account_retain(c, argc, argv);
	if (argc < 2 || argc > 3 || strcmp(argv[1], "add") != 0)
		return ctl_usage("account add [ID], account show ACCOUNT, "
				 "account hold ACCOUNT on|off, or "
				 "account erase ACCOUNT for-good");
	if (argc == 3 && !ctl_account(argv[2], &id))
		return CTL_USAGE;
	request = json_pack("{s:s}", "verb", "account-add");
	if (id)
		json_object_set_new(request, "id", ctl_id(id));
	rv = ctl_call(c, request, &o);
	if (rv)
		return rv;
	if (c->json)
		return ctl_print(o);
	puts(ctl_s(o, "id"));
	json_decref(o);
	return CTL_OK;
}

int ctl_device(struct ctl *c, int argc, char **argv)
{
	bool add = argc == 3 && strcmp(argv[1], "add") == 0;
	uint64_t id, device = 0;
	json_t *o, *request;
	int rv;

	if (!add && !(argc == 4 && strcmp(argv[1], "remove") == 0))
		return ctl_usage("device add ACCOUNT, or device remove ACCOUNT DEVICE");
	if (!ctl_account(argv[2], &id) ||
	    (!add && !ctl_number("DEVICE", argv[3], 1, UINT32_MAX, &device)))
		return CTL_USAGE;
	request = json_pack("{s:s,s:o}", "verb", add ? "device-add" : "device-remove",
			    "account", ctl_id(id));
	if (!add)
		json_object_set_new(request, "device",
				    json_integer((json_int_t)device));
	rv = ctl_call(c, request, &o);
	if (rv)
		return rv;
	if (c->json)
		return ctl_print(o);
	if (add)
		printf("%" PRIu64 "\n", ctl_u(o, "device"));
	else
		printf("device %" PRIu64 " is removed\n", device);
	json_decref(o);
	return CTL_OK;
}

static json_t *token_request(uint64_t account, uint64_t device, uint64_t ttl_s)
{
	json_t *request = json_pack("{s:s,s:o,s:I}", "verb", "token", "account",
				    ctl_id(account), "device", (json_int_t)device);

	if (ttl_s)
		json_object_set_new(request, "ttl", json_integer((json_int_t)ttl_s));
	return request;
}

int ctl_token(struct ctl *c, int argc, char **argv)
{
	uint64_t account, device;
	json_t *o;
	int rv;

	if (argc != 3)
		return ctl_usage("token takes ACCOUNT and DEVICE");
	if (!ctl_account(argv[1], &account) ||
	    !ctl_number("DEVICE", argv[2], 1, UINT32_MAX, &device))
		return CTL_USAGE;
	rv = ctl_call(c, token_request(account, device, c->ttl_s), &o);
	if (rv)
		return rv;
	if (c->json)
		return ctl_print(o);
	puts(ctl_s(o, "token"));
	json_decref(o);
	return CTL_OK;
}

/* ---- people --------------------------------------------------------------- */

static bool passes(const char *name)
{
	return strcmp(name, "unavailable") == 0 || strcmp(name, "no-leader") == 0 ||
	       strcmp(name, "busy") == 0;
}

/* The account's id is ours, so asking twice makes one account. */
static int add_account(struct ctl *c, uint64_t id)
{
	char name[ADMIN_NAME_MAX];
	struct err e;
	json_t *o;
	int rv, i;

	for (i = 0;; i++) {
		rv = ctl_try(c, json_pack("{s:s,s:o}", "verb", "account-add", "id",
					  ctl_id(id)), &o, name, &e);
		if (!rv) {
			json_decref(o);
			return CTL_OK;
		}
		if (i && strcmp(name, "exists") == 0)
			return CTL_OK;
		if (!passes(name) || i == TRIES_MAX)
			return ctl_fail(c, rv, name, &e);
		usleep(TRY_PAUSE_US);
	}
}

/* The account is new: a device that it has is the one we asked for. */
static uint64_t device_of(struct ctl *c, uint64_t id)
{
	char name[ADMIN_NAME_MAX];
	uint64_t device = 0;
	struct err e;
	json_t *o, *d;
	size_t i;

	if (ctl_try(c, json_pack("{s:s,s:o}", "verb", "account", "account", ctl_id(id)),
		    &o, name, &e))
		return 0;
	json_array_foreach(json_object_get(o, "devices"), i, d)
		device = (uint64_t)json_integer_value(d);
	json_decref(o);
	return device;
}

static int add_device(struct ctl *c, uint64_t id, uint64_t *device)
{
	char name[ADMIN_NAME_MAX];
	struct err e;
	json_t *o;
	int rv, i;

	for (i = 0;; i++) {
		if (i && (*device = device_of(c, id)) != 0)
			return CTL_OK;
		rv = ctl_try(c, json_pack("{s:s,s:o}", "verb", "device-add", "account",
					  ctl_id(id)), &o, name, &e);
		if (!rv) {
			*device = ctl_u(o, "device");
			json_decref(o);
			return CTL_OK;
		}
		if (!passes(name) || i == TRIES_MAX)
			return ctl_fail(c, rv, name, &e);
		usleep(TRY_PAUSE_US);
	}
}

static int make_token(struct ctl *c, uint64_t id, uint64_t device, json_t **o)
{
	char name[ADMIN_NAME_MAX];
	struct err e;
	int rv, i;

	for (i = 0;; i++) {
		rv = ctl_try(c, token_request(id, device,
					      c->ttl_s ? c->ttl_s : INVITE_TTL_S),
			     o, name, &e);
		if (!rv)
			return CTL_OK;
		if (!passes(name) || i == TRIES_MAX)
			return ctl_fail(c, rv, name, &e);
		usleep(TRY_PAUSE_US);
	}
}

/* Where clients connect, as the server says. */
static int own_gateway(struct ctl *c, json_t *gateways)
{
	json_t *o, *conf = NULL;
	int rv = ctl_call(c, json_pack("{s:s}", "verb", "status"), &o);
	char *url;

	if (rv)
		return rv;
	rv = ctl_call(c, json_pack("{s:s}", "verb", "config"), &conf);
	if (rv == CTL_OK) {
		bool tls = *ctl_s(json_object_get(conf, "config"), "gateway.tls_cert");

		url = xasprintf("%s://%s", tls ? "wss" : "ws", ctl_s(o, "listen"));
		json_array_append_new(gateways, json_string(url));
		free(url);
	}
	json_decref(conf);
	json_decref(o);
	return rv;
}

static int write_profile(struct ctl *c, const char *home, json_t *json)
{
	struct profile p;
	struct err e;
	int rv = profile_make(&p, home, json, &e);

	if (!rv)
		rv = profile_save(&p, &e);
	if (rv)
		return ctl_fail(c, ERR_CONFIG, "profile", &e);
	if (c->json)
		ctl_print(json_pack("{s:b,s:s,s:s,s:o,s:I}", "ok", 1, "name", p.name,
					 "home", home, "account", ctl_id(p.account),
					 "device", (json_int_t)p.device));
	else
		printf("%s is account %016" PRIx64 ", device %u; profile in %s\n",
		       p.name, p.account, p.device, p.path);
	profile_release(&p);
	return CTL_OK;
}

int ctl_invite(struct ctl *c, int argc, char **argv)
{
	json_t *gateways, *token = NULL, *json;
	uint64_t id = 0, device = 0;
	char *home, *path, *ca = NULL;
	unsigned i;
	int rv;

	if (argc != 2 || !person_name_ok(argv[1]))
		return ctl_usage("invite takes a NAME of letters, digits, dashes");
	home = xasprintf("%s/%s", c->home, argv[1]);
	path = xasprintf("%s/profile.json", home);
	gateways = json_array();
	rv = CTL_OK;
	if (c->ca && !(ca = realpath(c->ca, NULL))) {
		struct err e;

		err_errno(&e, errno, "%s", c->ca);
		rv = ctl_fail(c, ERR_CONFIG, "ca", &e);
	}
	if (rv == CTL_OK && access(path, F_OK) == 0) {
		struct err e;

		err_set(&e, ERR_EXISTS, "%s is there already", path);
		rv = ctl_fail(c, ERR_EXISTS, "exists", &e);
	}
	for (i = 0; i < c->n_gateways; i++)
		json_array_append_new(gateways, json_string(c->gateway[i]));
	if (rv == CTL_OK && c->n_gateways == 0)
		rv = own_gateway(c, gateways);
	/* The top bit is for groups. */
	while (id == 0)
		id = rand_u64(&rand_real) >> 1;
	if (rv == CTL_OK)
		rv = add_account(c, id);
	if (rv == CTL_OK)
		rv = add_device(c, id, &device);
	if (rv == CTL_OK)
		rv = make_token(c, id, device, &token);
	if (rv == CTL_OK) {
		json = json_pack("{s:i,s:s,s:o,s:I,s:s,s:O,s:{}}", "version", 1, "name",
				 argv[1], "account", ctl_id(id), "device",
				 (json_int_t)device, "token", ctl_s(token, "token"),
				 "gateways", gateways, "contacts");
		if (ca)
			json_object_set_new(json, "ca", json_string(ca));
		rv = write_profile(c, home, json);
	}
	json_decref(token);
	json_decref(gateways);
	free(ca);
	free(path);
	free(home);
	return rv;
}

static int learn(struct profile *p, const struct profile *other, struct err *e)
{
	int rv = profile_add_contact(p, other->name, other->account, e);

	return rv ? rv : profile_save(p, e);
}

int ctl_introduce(struct ctl *c, int argc, char **argv)
{
	struct profile a, b;
	char *home_a, *home_b;
	struct err e;
	int rv;

	if (argc != 3 || !person_name_ok(argv[1]) || !person_name_ok(argv[2]) ||
	    strcmp(argv[1], argv[2]) == 0)
		return ctl_usage("introduce takes two NAMEs");
	home_a = xasprintf("%s/%s", c->home, argv[1]);
	home_b = xasprintf("%s/%s", c->home, argv[2]);
	rv = profile_load(&a, home_a, &e);
	if (!rv) {
		rv = profile_load(&b, home_b, &e);
		if (!rv) {
			rv = learn(&a, &b, &e);
			if (!rv)
				rv = learn(&b, &a, &e);
			profile_release(&b);
		}
		profile_release(&a);
	}
	free(home_a);
	free(home_b);
	if (rv)
		return ctl_fail(c, ERR_CONFIG, rv == ERR_NOT_FOUND ? "not-found" : "profile",
				&e);
	if (c->json)
		return ctl_print(json_pack("{s:b}", "ok", 1));
	printf("%s and %s know each other\n", argv[1], argv[2]);
	return CTL_OK;
}
