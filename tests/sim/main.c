/* quipu-sim: a cluster, its gateways and its clients in simulated time.
 *
 * usage: quipu-sim [--seeds N] [--first SEED] [--until-failure]
 *        quipu-sim --seed SEED [--quiet]
 *        quipu-sim --describe SEED
 *
 * A seed decides everything; the same seed gives the same trace hash.  --seed
 * prints the trace.  Exit status 1: a seed failed. */
#include "base/logf.h"
#include "tests/sim/run.h"

#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct totals {
	uint64_t passed, failed, events, sim_us;
	uint64_t sends, acked, delivered, faults, crashes, reads, pages;
	uint64_t trimmed, rewrites, holes;
	uint64_t lost, duplicated, reordered;
	struct coverage coverage;
};

static void add(struct totals *t, const struct run_result *x)
{
	t->passed += x->ok;
	t->failed += !x->ok;
	t->events += x->events;
	t->sim_us += x->sim_us;
	t->sends += x->sends;
	t->acked += x->acked;
	t->delivered += x->delivered;
	t->faults += x->faults;
	t->crashes += x->crashes;
	t->reads += x->reads;
	t->pages += x->pages;
	t->trimmed += x->trimmed;
	t->rewrites += x->rewrites;
	t->holes += x->holes;
	t->lost += x->lost;
	t->duplicated += x->duplicated;
	t->reordered += x->reordered;
	coverage_add(&t->coverage, &x->coverage);
}

static void describe(uint64_t seed)
{
	struct params p;

	params_draw(&p, seed);
	params_print(&p, "  ", stdout);
}

static void print_seed(uint64_t seed, const struct run_result *x,
		       const char *program)
{
	if (x->ok) {
		printf("seed %" PRIu64 ": ok  trace %016" PRIx64
		       "  %" PRIu64 " acked, %" PRIu64 " delivered, %" PRIu64
		       " faults, %" PRIu64 " crashes, %" PRIu64 " events\n",
		       seed, x->trace_hash, x->acked, x->delivered, x->faults,
		       x->crashes, x->events);
	} else {
		printf("seed %" PRIu64 ": FAILED  trace %016" PRIx64 "\n  %s\n"
		       "  again: %s --seed %" PRIu64 "\n",
		       seed, x->trace_hash, x->failure, program, seed);
		describe(seed);
	}
	fflush(stdout);
}

static double cpu_s(void)
{
	return (double)clock() / CLOCKS_PER_SEC;
}

/* Two runs of one seed must not differ, or no failure could be looked at again. */
static bool repeats(uint64_t seed, const struct run_result *first)
{
	struct run_result second;

	run_seed(seed, false, &second);
	if (second.trace_hash == first->trace_hash &&
	    second.events == first->events)
		return true;
	printf("seed %" PRIu64 ": FAILED  not repeatable: trace %016" PRIx64
	       " and %016" PRIx64 "\n", seed, first->trace_hash,
	       second.trace_hash);
	return false;
}

/* An assertion of the product ends the run: say which seed it was. */
static uint64_t current_seed;
static const char *current_program;

static void on_abort(int sig)
{
	fflush(stdout);
	printf("seed %" PRIu64 ": FAILED  signal %d\n  the program ended\n"
	       "  again: %s --seed %" PRIu64 "\n", current_seed, sig,
	       current_program, current_seed);
	describe(current_seed);
	fflush(stdout);
	signal(sig, SIG_DFL);
	raise(sig);
}

static void run(uint64_t seed, bool verbose, struct run_result *x)
{
	current_seed = seed;
	run_seed(seed, verbose, x);
}

static int run_many(uint64_t first, uint64_t n, bool until_failure,
		    const char *program)
{
	struct totals t = { 0 };
	uint64_t i;

	for (i = 0; i < n && !(until_failure && t.failed); i++) {
		struct run_result x;

		run(first + i, false, &x);
		if (x.ok && i % 50 == 0)
			x.ok = repeats(first + i, &x);
		add(&t, &x);
		print_seed(first + i, &x, program);
	}
	printf("%" PRIu64 " seeds, %.0f s simulated, %" PRIu64 " events, %" PRIu64
	       " faults, %" PRIu64 " crashes, %.1f s of CPU\n",
	       i, (double)t.sim_us / 1e6, t.events, t.faults, t.crashes, cpu_s());
	printf("%" PRIu64 " sent, %" PRIu64 " acked, %" PRIu64
	       " delivered, %" PRIu64 " pages, %" PRIu64
	       " linearizable reads\n",
	       t.sends, t.acked, t.delivered, t.pages, t.reads);
	printf("%" PRIu64 " records trimmed, %" PRIu64 " segments rewritten, %"
	       PRIu64 " holes told\n", t.trimmed, t.rewrites, t.holes);
	coverage_print(&t.coverage, stdout);
	printf("%" PRIu64 " lost, %" PRIu64 " duplicated, %" PRIu64
	       " reordered\n", t.lost, t.duplicated, t.reordered);
	printf("%" PRIu64 " passed, %" PRIu64 " failed\n", t.passed, t.failed);
	return t.failed != 0;
}

static void print_line(void *arg, const char *line)
{
	(void)arg;
	printf("            %s\n", line);
}

static void drop_line(void *arg, const char *line)
{
	(void)arg;
	(void)line;
}

static int usage(void)
{
	fprintf(stderr, "usage: quipu-sim [--seeds N] [--first SEED] "
			"[--until-failure]\n"
			"       quipu-sim --seed SEED [--quiet]\n"
			"       quipu-sim --describe SEED\n");
	return 2;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "seed", required_argument, NULL, 's' },
		{ "describe", required_argument, NULL, 'd' },
		{ "seeds", required_argument, NULL, 'n' },
		{ "first", required_argument, NULL, 'f' },
		{ "quiet", no_argument, NULL, 'q' },
		{ "until-failure", no_argument, NULL, 'u' },
		{ NULL, 0, NULL, 0 },
	};
	uint64_t seed = 0, first = 1, n = 60;
	bool one = false, quiet = false, until_failure = false;
	struct run_result x;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 's':
			seed = strtoull(optarg, NULL, 10);
			one = true;
			break;
		case 'd':
			printf("seed %s\n", optarg);
			describe(strtoull(optarg, NULL, 10));
			return 0;
		case 'n':
			n = strtoull(optarg, NULL, 10);
			break;
		case 'f':
			first = strtoull(optarg, NULL, 10);
			break;
		case 'q':
			quiet = true;
			break;
		case 'u':
			until_failure = true;
			break;
		default:
			return usage();
		}
	}
	if (optind < argc)
		return usage();
	current_program = argv[0];
	signal(SIGABRT, on_abort);
	signal(SIGSEGV, on_abort);
	setvbuf(stdout, NULL, _IOFBF, 1 << 16);
	log_set_sink(one && !quiet ? print_line : drop_line, NULL);
	if (!one)
		return run_many(first, n, until_failure, argv[0]);
	run(seed, !quiet, &x);
	if (x.ok)
		x.ok = repeats(seed, &x);
	print_seed(seed, &x, argv[0]);
	return !x.ok;
}
