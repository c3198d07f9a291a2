/* quipuctl: what an operator asks of a running server, through its admin socket.
 * Commands are in tools/quipuctl/. */
#include "base/alloc.h"
#include "tools/quipuctl/ctl.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct command {
	const char *name, *args, *doc;
	int (*run)(struct ctl *c, int argc, char **argv);
} commands[] = {
	{ "status", "", "the server: shards, sessions, journal", ctl_status },
	{ "nodes", "", "the cluster's nodes, as this one sees them", ctl_nodes },
	{ "shards", "[SHARD]", "every shard, or one with its voters", ctl_shards },
	{ "leaders", "", "who leads each shard", ctl_leaders },
	{ "node", "list", "who is in the cluster, in which state, with how much", ctl_node },
	{ "node", "add NODE", "it may join (--addr, --rack)", ctl_node },
	{ "node", "cordon|uncordon NODE", "no new replicas there; again", ctl_node },
	{ "node", "drain|undrain NODE", "nor leaderships: before a restart; after it",
	  ctl_node },
	{ "node", "decommission NODE", "all that it has goes elsewhere", ctl_node },
	{ "node", "replace NODE", "with the new disk that it waits with, or --with NODE",
	  ctl_node },
	{ "node", "forget NODE", "off the list, when nothing is left of it", ctl_node },
	{ "shard", "list", "every shard's leader and members", ctl_shard },
	{ "shard", "replicas SHARD", "its members, and how far they are", ctl_shard },
	{ "account", "add [ID]", "a new account (ID: 16 hex digits)", ctl_account_cmd },
	{ "account", "show ACCOUNT", "its shard, inbox and devices", ctl_account_cmd },
	{ "account", "hold ACCOUNT on|off", "audit hold: nothing of it goes", ctl_account_cmd },
	{ "account", "erase ACCOUNT for-good", "its devices are removed, its inbox destroyed",
	  ctl_account_cmd },
	{ "backup", "", "the cluster into a folder while it serves (--to, --rate;\n"
	  "                            --data for each node here); again: what is new",
	  ctl_backup },
	{ "backup", "verify DIR", "is everything there, byte for byte?  Asks no server",
	  ctl_backup },
	{ "restore", "", "a new node's folder from a backup (--from, --config); asks no\n"
	  "                            server.  All founders alike, then start them",
	  ctl_restore },
	{ "feature", "status", "the cluster's feature level, and what each node knows",
	  ctl_feature },
	{ "feature", "raise [LEVEL]", "use what is new, when all nodes know it; no way back",
	  ctl_feature },
	{ "retention", "status", "what each shard keeps, and what went", ctl_retention },
	{ "retention", "ttl SECONDS", "how long records without their own time stay",
	  ctl_retention },
	{ "device", "add ACCOUNT", "a new device", ctl_device },
	{ "device", "remove ACCOUNT DEVICE", "its sockets close at once", ctl_device },
	{ "token", "ACCOUNT DEVICE", "an access token (--ttl, default 10 min)",
	  ctl_token },
	{ "invite", "NAME", "account, device and token of a new person, as\n"
	  "                            HOME/NAME/profile.json (--gateway, --home)",
	  ctl_invite },
	{ "introduce", "NAME NAME", "each becomes the other's contact (--home)",
	  ctl_introduce },
	{ "transfer", "SHARD NODE", "the shard's leadership to another node",
	  ctl_transfer },
	{ "drain", "", "say goodbye to all clients and stop, as SIGTERM", ctl_drain },
	{ "reload", "", "read the certificates again, as SIGHUP", ctl_reload },
	{ "ca", "init CLUSTER", "a private CA in a folder of its own (--dir, --days,\n"
	  "                            --force); asks no server, as all of ca", ctl_ca },
	{ "ca", "issue node NODE", "a node's certificate and key, or with --force new ones",
	  ctl_ca },
	{ "ca", "issue gateway HOST...", "the same for what clients see", ctl_ca },
	{ "ca", "rotate STEP", "to a new CA without a stop: begin, switch, finish", ctl_ca },
	{ "ca", "show", "certificates, until when, and what a rotation waits for",
	  ctl_ca },
	{ "doctor", "", "what is wrong, what it means, what to do", ctl_doctor },
	{ "top", "", "what the nodes do now, every 2 s (--once: one picture)", ctl_top },
	{ "stats", "", "the counters of /metrics", ctl_stats },
	{ "config", "", "the settings of the running server", ctl_config },
	{ "config", "check FILE", "is this configuration file good?  Asks no server",
	  ctl_config },
};
#define N_COMMANDS (sizeof commands / sizeof commands[0])

static void usage(FILE *f)
{
	size_t i;

	fputs("usage: quipuctl [options] COMMAND\n\ncommands:\n", f);
	for (i = 0; i < N_COMMANDS; i++) {
		char left[64];

		snprintf(left, sizeof left, "%s %s", commands[i].name,
			 commands[i].args);
		fprintf(f, "  %-24s  %s\n", left, commands[i].doc);
	}
	fputs("\noptions:\n"
	      "  -d, --data DIR       data folder of the server; its socket is\n"
	      "                       DIR/admin.sock (./data, or $QUIPU_NODE_DATA)\n"
	      "                       doctor, top, backup: once for every node\n"
	      "  -s, --socket PATH    the socket itself\n"
	      "  -j, --json           answers as JSON, one line\n"
	      "  -t, --ttl SECONDS    life of a token (token: 600; invite: 1 year)\n"
	      "  -g, --gateway URL    invite: ws://HOST:PORT or wss://HOST:PORT;\n"
	      "                       repeat it for more (from the server when absent)\n"
	      "  -H, --home DIR       invite, introduce: folder of the people (./people)\n"
	      "      --ca FILE        invite: CA of wss:// gateways\n"
	      "      --dir DIR        ca: the CA's folder (./ca)\n"
	      "      --days N         ca: how long a certificate is good (a CA 3650,\n"
	      "                       others 365)\n"
	      "      --to DIR         backup: where to\n"
	      "      --from DIR       restore: the backup\n"
	      "      --config FILE    restore: of the node that is made; without, a single\n"
	      "                       node's defaults with --data\n"
	      "      --epoch N        restore: of the history, the same on all nodes (made\n"
	      "                       from the backup; name one to restore it once more)\n"
	      "      --rate N         backup, restore: MiB a second at most (64), 0: no\n"
	      "                       limit\n"
	      "      --addr HOST:PORT node add: where it waits for its peers\n"
	      "      --rack NAME      node add: replicas of a shard avoid one rack\n"
	      "      --with NODE      node replace: another node takes its place\n"
	      "      --disk HEX       node replace: the disk, if not the one that waits\n"
	      "      --dry-run        node: what would be moved, and why; nothing is done\n"
	      "      --wait           node: until all is where it should be\n"
	      "      --once           top: one picture, of one second\n"
	      "      --force          ca: write over a key and certificate that are there\n"
	      "  -h, --help\n"
	      "\nexit status: 0 done; 1 refused, the message says why; 2 wrong usage;\n"
	      "3 no server, or it went away in between; doctor: 4 warnings, 5 errors\n",
	      f);
}

/* ---- what commands share -------------------------------------------------- */

int ctl_usage(const char *fmt, ...)
{
	va_list ap;

	fputs("quipuctl: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputs(" (quipuctl --help)\n", stderr);
	return CTL_USAGE;
}

int ctl_fail(const struct ctl *c, int rv, const char *name, const struct err *e)
{
	if (c->json)
		ctl_print(json_pack("{s:b,s:s,s:s}", "ok", 0, "error",
				    *name ? name : err_name(rv), "detail", e->msg));
	fprintf(stderr, "quipuctl: %s%s%s\n", name, *name ? ": " : "", e->msg);
	if (*name || rv == ERR_CONFIG || rv == ERR_FORMAT || rv == ERR_INVALID)
		return CTL_REFUSED;
	return CTL_UNREACHABLE;
}

int ctl_try(struct ctl *c, json_t *request, json_t **answer,
	    char name[ADMIN_NAME_MAX], struct err *e)
{
	int rv = 0;

	name[0] = 0;
	if (!c->admin)
		rv = admin_client_open(&c->admin, c->socket, e);
	if (rv) {
		json_decref(request);
		return rv;
	}
	return admin_client_call(c->admin, request, answer, name, e);
}

int ctl_call(struct ctl *c, json_t *request, json_t **answer)
{
	char name[ADMIN_NAME_MAX];
	struct err e;
	int rv = ctl_try(c, request, answer, name, &e);

	return rv ? ctl_fail(c, rv, name, &e) : CTL_OK;
}

int ctl_print(json_t *o)
{
	json_dumpf(o, stdout, JSON_COMPACT);
	putchar('\n');
	json_decref(o);
	return CTL_OK;
}

int ctl_done(struct ctl *c, json_t *request, const char *text)
{
	json_t *o;
	int rv = ctl_call(c, request, &o);

	if (rv)
		return rv;
	if (c->json)
		return ctl_print(o);
	puts(text);
	json_decref(o);
	return CTL_OK;
}

json_t *ctl_id(uint64_t account)
{
	char text[17];

	snprintf(text, sizeof text, "%016" PRIx64, account);
	return json_string(text);
}

uint64_t ctl_u(const json_t *o, const char *name)
{
	return (uint64_t)json_integer_value(json_object_get(o, name));
}

const char *ctl_s(const json_t *o, const char *name)
{
	const char *s = json_string_value(json_object_get(o, name));

	return s ? s : "";
}

bool ctl_number(const char *what, const char *s, uint64_t min, uint64_t max,
		uint64_t *v)
{
	char *end;
	unsigned long long n = strtoull(s, &end, 10);

	if (*s < '0' || *s > '9' || *end || n < min || n > max) {
		ctl_usage("%s \"%s\": a number from %" PRIu64 " to %" PRIu64
			  " is expected", what, s, min, max);
		return false;
	}
	*v = n;
	return true;
}

/* ---- main ----------------------------------------------------------------- */

static int run(struct ctl *c, int argc, char **argv)
{
	bool many = strcmp(argv[0], "doctor") == 0 || strcmp(argv[0], "top") == 0 ||
		    strcmp(argv[0], "backup") == 0;
	size_t i;

	for (i = 0; i < N_COMMANDS; i++)
		if (strcmp(commands[i].name, argv[0]) == 0)
			break;
	if (i == N_COMMANDS)
		return ctl_usage("no command \"%s\"", argv[0]);
	if (c->n_sockets > 1 && !many)
		return ctl_usage("%s asks one node: one --data or --socket", argv[0]);
	return commands[i].run(c, argc, argv);
}

enum {
	O_CA = 256, O_DIR, O_DAYS, O_FORCE, O_ONCE, O_TO, O_RATE, O_ADDR, O_RACK,
	O_WITH, O_DISK, O_DRY, O_WAIT, O_FROM, O_CONFIG, O_EPOCH,
};

static const struct option longs[] = {
	{ "data", required_argument, NULL, 'd' },
	{ "socket", required_argument, NULL, 's' },
	{ "json", no_argument, NULL, 'j' },
	{ "ttl", required_argument, NULL, 't' },
	{ "gateway", required_argument, NULL, 'g' },
	{ "home", required_argument, NULL, 'H' },
	{ "ca", required_argument, NULL, O_CA },
	{ "dir", required_argument, NULL, O_DIR },
	{ "days", required_argument, NULL, O_DAYS },
	{ "force", no_argument, NULL, O_FORCE },
	{ "to", required_argument, NULL, O_TO },
	{ "rate", required_argument, NULL, O_RATE },
	{ "from", required_argument, NULL, O_FROM },
	{ "config", required_argument, NULL, O_CONFIG },
	{ "epoch", required_argument, NULL, O_EPOCH },
	{ "once", no_argument, NULL, O_ONCE },
	{ "addr", required_argument, NULL, O_ADDR },
	{ "rack", required_argument, NULL, O_RACK },
	{ "with", required_argument, NULL, O_WITH },
	{ "disk", required_argument, NULL, O_DISK },
	{ "dry-run", no_argument, NULL, O_DRY },
	{ "wait", no_argument, NULL, O_WAIT },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

/* Takes the path. */
static bool add_socket(struct ctl *c, char *path)
{
	if (c->n_sockets == CTL_NODES_MAX) {
		ctl_usage("at most %d data folders or sockets", CTL_NODES_MAX);
		free(path);
		return false;
	}
	c->sockets[c->n_sockets++] = path;
	return true;
}

int main(int argc, char **argv)
{
	const char *data = getenv("QUIPU_NODE_DATA");
	unsigned i;
	struct ctl c = { .home = "./people", .dir = "./ca", .rate = 64u << 20 };
	uint64_t n;
	int o, rv;

	if (!data || !*data)
		data = "./data";
	while ((o = getopt_long(argc, argv, "d:s:jt:g:H:h", longs, NULL)) != -1) {
		switch (o) {
		case 'd':
			if (!add_socket(&c, xasprintf("%s/admin.sock", optarg)))
				return CTL_USAGE;
			break;
		case 's':
			if (!add_socket(&c, xstrdup(optarg)))
				return CTL_USAGE;
			break;
		case 'j':
			c.json = true;
			break;
		case 't':
			if (!ctl_number("--ttl", optarg, 1, 366 * 86400, &c.ttl_s))
				return CTL_USAGE;
			break;
		case 'g':
			if (c.n_gateways == 8)
				return ctl_usage("at most 8 gateways");
			c.gateway[c.n_gateways++] = optarg;
			break;
		case 'H':
			c.home = optarg;
			break;
		case O_CA:
			c.ca = optarg;
			break;
		case O_DIR:
			c.dir = optarg;
			break;
		case O_DAYS:
			if (!ctl_number("--days", optarg, 1, 36500, &n))
				return CTL_USAGE;
			c.days = (unsigned)n;
			break;
		case O_TO:
			c.to = optarg;
			break;
		case O_RATE:
			if (!ctl_number("--rate", optarg, 0, 100000, &n))
				return CTL_USAGE;
			c.rate = n << 20;
			break;
		case O_FROM:
			c.from = optarg;
			break;
		case O_CONFIG:
			c.config = optarg;
			break;
		case O_EPOCH:
			if (!ctl_number("--epoch", optarg, 2, UINT32_MAX, &n))
				return CTL_USAGE;
			c.epoch = (uint32_t)n;
			break;
		case O_ONCE:
			c.once = true;
			break;
		case O_ADDR:
			c.addr = optarg;
			break;
		case O_RACK:
			c.rack = optarg;
			break;
		case O_WITH:
			c.with = optarg;
			break;
		case O_DISK:
			c.disk = optarg;
			break;
		case O_DRY:
			c.dry_run = true;
			break;
		case O_WAIT:
			c.wait = true;
			break;
		case O_FORCE:
			c.force = true;
			break;
		case 'h':
			usage(stdout);
			return CTL_OK;
		default:
			return CTL_USAGE;
		}
	}
	if (optind == argc) {
		usage(stderr);
		return CTL_USAGE;
	}
	if (!c.n_sockets)
		add_socket(&c, xasprintf("%s/admin.sock", data));
	c.socket = c.sockets[0];
	rv = run(&c, argc - optind, argv + optind);
	admin_client_free(c.admin);
	for (i = 0; i < c.n_sockets; i++)
		free((char *)(uintptr_t)c.sockets[i]);
	if (fflush(stdout) || ferror(stdout)) {
		perror("quipuctl: output");
		return CTL_REFUSED;
	}
	return rv;
}
