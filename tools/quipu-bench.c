/* quipu-bench: load against running servers, and figures that say what they stand
 * on.  Commands are in tools/bench/. */
#include "tools/bench/bench.h"

#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct command {
	const char *name;
	int (*run)(const struct options *o);
	const char *doc;
} commands[] = {
	{ "publish", bench_publish,
	  "durable acks: 1 and 1,024 in flight, 256 B and 1 KiB" },
	{ "delivery", bench_delivery,
	  "from a send to its arrival at another device: 1 and 100 pairs" },
	{ "chat", bench_chat, "1,000 users, each waits for its ack" },
	{ "sync", bench_sync,
	  "an inbox of 100,000 messages, by stream and by pages" },
	{ "idle", bench_idle, "memory of 15,000 idle connections" },
	{ "soak", bench_soak,
	  "disk and memory under a steady load, as a table and a plot" },
	{ "failover", bench_failover,
	  "nodes that get SIGKILL, then SIGTERM, under load" },
	{ "corpus", bench_corpus,
	  "real messages: all there, once, in order (FILE.tsv.gz; without one,\n"
	  "           traffic of the same shape)" },
};

static void usage(FILE *f)
{
	size_t i;

	fputs("usage: quipu-bench COMMAND [options] [FILE]\n\ncommands:\n", f);
	for (i = 0; i < sizeof commands / sizeof *commands; i++)
		fprintf(f, "  %-8s %s\n", commands[i].name, commands[i].doc);
	fputs("\noptions:\n"
	      "  -g, --gateway LIST     host:port, several by comma "
	      "(127.0.0.1:8080)\n"
	      "  -a, --admin LIST       admin sockets of all servers "
	      "(./data/admin.sock)\n"
	      "  -k, --token-key FILE   the servers' signing key "
	      "(./data/token.key)\n"
	      "  -d, --data DIR         folder whose disk is measured "
	      "(./data)\n"
	      "      --pids LIST        servers to watch, instead of who serves "
	      "--admin\n"
	      "  -t, --seconds N        length of a measurement (10)\n"
	      "  -n, --inflight N       sends not yet acked, all together\n"
	      "  -b, --bytes N          of a message's body, up to 61440\n"
	      "  -c, --connections N    devices\n"
	      "  -m, --messages N       of sync: size of the inbox; of corpus: at "
	      "most so many;\n"
	      "                         of failover: kills, and stops (10)\n"
	      "  -w, --window N         flow window of a device (1024)\n"
	      "      --only PART        sync: fill, stream or page; failover: kill or "
	      "stop\n"
	      "      --users FILE       sync: where fill leaves the inbox's device\n"
	      "      --seed N           of generated traffic (1)\n"
	      "      --rate N           corpus: at most N messages a second; soak: so "
	      "many (200)\n"
	      "      --restart COMMAND  failover: starts the node whose number "
	      "follows\n"
	      "      --minutes N        soak: its length, instead of --seconds\n"
	      "      --ttl N            soak: seconds that records are kept\n"
	      "      --csv FILE         soak: a line for each sample\n"
	      "      --plot FILE        soak: the same as a picture, SVG\n"
	      "      --begun FILE       corpus: made when sending begins\n"
	      "      --label TEXT       printed with the result\n"
	      "      --stall N          seconds without progress that fail a run "
	      "(60)\n"
	      "      --procs N          idle: processes (by itself)\n"
	      "  -j, --json             one JSON object for each result\n"
	      "  -q, --quiet            no progress\n", f);
}

enum { O_PIDS = 256, O_ONLY, O_USERS, O_SEED, O_STALL, O_PROCS, O_RATE, O_LABEL,
       O_BEGUN, O_MINUTES, O_TTL, O_CSV, O_PLOT,
       O_RESTART };

static const struct option longs[] = {
	{ "gateway", required_argument, NULL, 'g' },
	{ "admin", required_argument, NULL, 'a' },
	{ "token-key", required_argument, NULL, 'k' },
	{ "data", required_argument, NULL, 'd' },
	{ "pids", required_argument, NULL, O_PIDS },
	{ "seconds", required_argument, NULL, 't' },
	{ "inflight", required_argument, NULL, 'n' },
	{ "bytes", required_argument, NULL, 'b' },
	{ "connections", required_argument, NULL, 'c' },
	{ "messages", required_argument, NULL, 'm' },
	{ "window", required_argument, NULL, 'w' },
	{ "only", required_argument, NULL, O_ONLY },
	{ "users", required_argument, NULL, O_USERS },
	{ "seed", required_argument, NULL, O_SEED },
	{ "stall", required_argument, NULL, O_STALL },
	{ "label", required_argument, NULL, O_LABEL },
	{ "begun", required_argument, NULL, O_BEGUN },
	{ "rate", required_argument, NULL, O_RATE },
	{ "restart", required_argument, NULL, O_RESTART },
	{ "minutes", required_argument, NULL, O_MINUTES },
	{ "ttl", required_argument, NULL, O_TTL },
	{ "csv", required_argument, NULL, O_CSV },
	{ "plot", required_argument, NULL, O_PLOT },
	{ "procs", required_argument, NULL, O_PROCS },
	{ "json", no_argument, NULL, 'j' },
	{ "quiet", no_argument, NULL, 'q' },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

static unsigned number(const char *name, const char *text, unsigned max)
{
	char *end;
	unsigned long v = strtoul(text, &end, 10);

	if (*end || end == text || *text == '-' || v > max) {
		fprintf(stderr, "quipu-bench: %s %s: a number up to %u is "
			"expected\n", name, text, max);
		exit(2);
	}
	return (unsigned)v;
}

static void parse(struct options *o, int argc, char **argv)
{
	int c;

	while ((c = getopt_long(argc, argv, "g:a:k:d:t:n:b:c:m:w:jqh", longs,
				NULL)) != -1) {
		switch (c) {
		case 'g': o->gateways = optarg; break;
		case 'a': o->admins = optarg; break;
		case 'k': o->token_key = optarg; break;
		case 'd': o->data = optarg; break;
		case O_PIDS: o->pids = optarg; break;
		case 't': o->seconds = number("--seconds", optarg, 86400); break;
		case 'n': o->inflight = number("--inflight", optarg, 65536); break;
		case 'b': o->bytes = number("--bytes", optarg, 61440); break;
		case 'c': o->connections = number("--connections", optarg, 200000);
			break;
		case 'm': o->messages = number("--messages", optarg, 100000000);
			break;
		case 'w': o->window = number("--window", optarg, 1024); break;
		case O_ONLY: o->only = optarg; break;
		case O_USERS: o->users = optarg; break;
		case O_SEED: o->seed = number("--seed", optarg, UINT32_MAX); break;
		case O_STALL: o->stall_s = number("--stall", optarg, 86400); break;
		case O_LABEL: o->label = optarg; break;
		case O_BEGUN: o->begun = optarg; break;
		case O_RATE: o->rate = number("--rate", optarg, 10000000); break;
		case O_MINUTES: o->minutes = number("--minutes", optarg, 100000); break;
		case O_TTL: o->ttl_s = number("--ttl", optarg, 30 * 86400); break;
		case O_RESTART: o->restart = optarg; break;
		case O_CSV: o->csv = optarg; break;
		case O_PLOT: o->plot = optarg; break;
		case O_PROCS: o->procs = number("--procs", optarg, 64); break;
		case 'j': o->json = true; break;
		case 'q': o->progress = false; break;
		case 'h': usage(stdout); exit(0);
		default: exit(2);
		}
	}
	if (optind < argc)
		o->file = argv[optind++];
	if (optind < argc) {
		fprintf(stderr, "quipu-bench: what is \"%s\"?\n", argv[optind]);
		exit(2);
	}
}

int main(int argc, char **argv)
{
	struct options o = { .gateways = "127.0.0.1:8080",
			     .admins = "data/admin.sock",
			     .token_key = "data/token.key",
			     .data = "data",
			     .seconds = 10,
			     .window = 1024,
			     .seed = 1,
			     .stall_s = 60,
			     .progress = true };
	size_t i;

	if (argc < 2 || strcmp(argv[1], "--help") == 0 ||
	    strcmp(argv[1], "-h") == 0) {
		usage(argc < 2 ? stderr : stdout);
		return argc < 2 ? 2 : 0;
	}
	signal(SIGPIPE, SIG_IGN);
	for (i = 0; i < sizeof commands / sizeof *commands; i++) {
		if (strcmp(argv[1], commands[i].name) != 0)
			continue;
		parse(&o, argc - 1, argv + 1);
		return commands[i].run(&o);
	}
	fprintf(stderr, "quipu-bench: no command \"%s\"; --help lists them\n",
		argv[1]);
	return 2;
}
