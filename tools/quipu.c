/* quipu: the terminal client, for a person and for a script.  Commands are in
 * tools/quipu/. */
#include "base/alloc.h"
#include "tools/quipu/app.h"

#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct command {
	const char *name, *args, *doc;
	int (*run)(const struct options *o, int argc, char **argv);
} commands[] = {
	{ "chat", "WHO", "talk with somebody, line by line", cmd_chat },
	{ "send", "WHO [TEXT...]", "send a text, or each line of stdin; ends when all is\n"
	  "                       acknowledged", cmd_send },
	{ "flush", "", "send what earlier runs left in the outbox", cmd_flush },
	{ "follow", "", "print messages as they arrive", cmd_follow },
	{ "list", "", "conversations, the latest first", cmd_list },
	{ "history", "[WHO]", "what was said, in its order", cmd_history },
	{ "login", "[FILE]", "make this profile from another one, or from --token",
	  cmd_login },
	{ "whoami", "", "name, account and device of this profile", cmd_whoami },
	{ "contacts", "", "names that this profile knows; also\n"
	  "                       contacts add NAME ACCOUNT, contacts remove NAME",
	  cmd_contacts },
};
#define N_COMMANDS (sizeof commands / sizeof commands[0])

static void usage(FILE *f)
{
	size_t i;

	fputs("usage: quipu [options] COMMAND\n\ncommands:\n", f);
	for (i = 0; i < N_COMMANDS; i++) {
		char left[64];

		snprintf(left, sizeof left, "%s %s", commands[i].name,
			 commands[i].args);
		fprintf(f, "  %-19s  %s\n", left, commands[i].doc);
	}
	fputs("\nWHO is the name of a contact, or 16 hex digits of an account.\n"
	      "\noptions:\n"
	      "  -H, --home DIR       folder of profile.json and device.log\n"
	      "                       ($QUIPU_HOME, else ~/.quipu)\n"
	      "  -j, --json           one JSON object a line on stdout\n"
	      "  -q, --quiet          no notices\n"
	      "  -T, --timeout S      end after S seconds with status 3; what is not\n"
	      "                       acknowledged stays in the outbox\n"
	      "  -i, --id KEY         send: names this batch; a second run with the same\n"
	      "                       KEY and lines sends nothing twice\n"
	      "  -w, --whole          send: all of stdin is one message\n"
	      "  -n, --count N        follow: end after N; history, chat: the last N\n"
	      "  -f, --from N         follow: print what is stored from number N on first\n"
	      "  -s, --sync           list, history: receive what there is first;\n"
	      "                       follow: end when caught up\n"
	      "  -r, --remote         history: what the server still holds, instead of the\n"
	      "                       file: received messages, the last 100 or --count\n"
	      "  -a, --all            follow, history: not only texts\n"
	      "      --receipts       follow: tell senders that it was delivered\n"
	      "      --no-receipts    chat: tell nothing\n"
	      "  -t, --token TOKEN    login: a token; makes the profile, or renews it\n"
	      "  -N, --name NAME      login --token: your name\n"
	      "  -g, --gateway URL    login --token: ws://HOST:PORT or wss://HOST:PORT\n"
	      "      --ca FILE        login --token: CA of wss:// gateways\n"
	      "  -h, --help\n"
	      "\nexit status: 0 done; 1 refused, the message says why; 2 wrong usage;\n"
	      "3 not in time, or interrupted while something was not acknowledged\n", f);
}

static bool number(const char *what, const char *s, uint64_t *v)
{
	char *end;

	*v = strtoull(s, &end, 10);
	if (*s >= '0' && *s <= '9' && !*end)
		return true;
	app_usage("%s \"%s\": a number is expected", what, s);
	return false;
}

static bool seconds(const char *s, double *v)
{
	char *end;

	*v = strtod(s, &end);
	if (*s && !*end && *v >= 0 && *v < 1e9)
		return true;
	app_usage("--timeout \"%s\": seconds are expected", s);
	return false;
}

enum { O_CA = 256, O_RECEIPTS, O_NO_RECEIPTS };

static const struct option longs[] = {
	{ "home", required_argument, NULL, 'H' },
	{ "json", no_argument, NULL, 'j' },
	{ "quiet", no_argument, NULL, 'q' },
	{ "timeout", required_argument, NULL, 'T' },
	{ "id", required_argument, NULL, 'i' },
	{ "whole", no_argument, NULL, 'w' },
	{ "count", required_argument, NULL, 'n' },
	{ "from", required_argument, NULL, 'f' },
	{ "sync", no_argument, NULL, 's' },
	{ "remote", no_argument, NULL, 'r' },
	{ "all", no_argument, NULL, 'a' },
	{ "receipts", no_argument, NULL, O_RECEIPTS },
	{ "no-receipts", no_argument, NULL, O_NO_RECEIPTS },
	{ "token", required_argument, NULL, 't' },
	{ "name", required_argument, NULL, 'N' },
	{ "gateway", required_argument, NULL, 'g' },
	{ "ca", required_argument, NULL, O_CA },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

/* 0, or the exit status + 1. */
static int parse(struct options *o, int argc, char **argv)
{
	int c;

	while ((c = getopt_long(argc, argv, "H:jqT:i:wn:f:srat:N:g:h", longs, NULL)) !=
	       -1) {
		switch (c) {
		case 'H': o->home = optarg; break;
		case 'j': o->json = true; break;
		case 'q': o->quiet = true; break;
		case 'T':
			if (!seconds(optarg, &o->timeout_s))
				return APP_USAGE + 1;
			break;
		case 'i': o->id = optarg; break;
		case 'w': o->whole = true; break;
		case 'n':
			if (!number("--count", optarg, &o->count))
				return APP_USAGE + 1;
			break;
		case 'f':
			if (!number("--from", optarg, &o->from))
				return APP_USAGE + 1;
			o->has_from = true;
			break;
		case 's': o->sync = true; break;
		case 'r': o->remote = true; break;
		case 'a': o->all = true; break;
		case O_RECEIPTS: o->receipts = true; break;
		case O_NO_RECEIPTS: o->no_receipts = true; break;
		case 't': o->token = optarg; break;
		case 'N': o->name = optarg; break;
		case 'g':
			if (o->n_gateways == PROFILE_GATEWAYS_MAX)
				return app_usage("at most 8 gateways") + 1;
			o->gateway[o->n_gateways++] = optarg;
			break;
		case O_CA: o->ca = optarg; break;
		case 'h': usage(stdout); return APP_OK + 1;
		default: return APP_USAGE + 1;
		}
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct options o = { .timeout_s = -1, .home = getenv("QUIPU_HOME") };
	const char *user = getenv("HOME");
	char *home = NULL;
	int rv = parse(&o, argc, argv);
	size_t i;

	if (rv)
		return rv - 1;
	if (optind == argc) {
		usage(stderr);
		return APP_USAGE;
	}
	if (!o.home || !*o.home)
		o.home = home = xasprintf("%s/.quipu", user ? user : ".");
	signal(SIGPIPE, SIG_IGN);
	rv = -1;
	for (i = 0; i < N_COMMANDS && rv < 0; i++)
		if (strcmp(commands[i].name, argv[optind]) == 0)
			rv = commands[i].run(&o, argc - optind, argv + optind);
	if (rv < 0)
		rv = app_usage("no command \"%s\"", argv[optind]);
	free(home);
	if (fflush(stdout) || ferror(stdout)) {
		perror("quipu: output");
		return rv ? rv : APP_FAILED;
	}
	return rv;
}
