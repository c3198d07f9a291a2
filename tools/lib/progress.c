#include "tools/lib/progress.h"
#include "base/clock.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SHOW_US 200000
#define BAR 30

void progress_begin(struct progress *p, const char *what, uint64_t total, bool quiet)
{
	uint64_t rate = p->rate;

	memset(p, 0, sizeof *p);
	p->rate = rate;
	p->what = what;
	p->total = total;
	p->quiet = quiet || !isatty(STDERR_FILENO);
	p->begun_us = clock_us(&clock_real);
}

static void show(struct progress *p, uint64_t now)
{
	double s = (double)(now - p->begun_us) / 1e6 + 1e-6;
	double rate = (double)p->done / s, share;
	uint64_t total = p->total > p->done ? p->total : p->done, left;
	char bar[BAR + 1];
	unsigned i;

	share = total ? (double)p->done / (double)total : 1;
	for (i = 0; i < BAR; i++)
		bar[i] = i < (unsigned)(share * BAR) ? '#' : '.';
	bar[BAR] = 0;
	left = rate > 1 ? (uint64_t)((double)(total - p->done) / rate) : 0;
	fprintf(stderr, "\r%s [%s] %3.0f %%  %.1f of %.1f MiB  %.1f MiB/s  %" PRIu64
		":%02" PRIu64 " left \033[K", p->what, bar, share * 100,
		(double)p->done / (1 << 20), (double)total / (1 << 20),
		rate / (1 << 20), left / 60, left % 60);
	fflush(stderr);
	p->shown = true;
	p->shown_us = now;
}

void progress_add(struct progress *p, uint64_t bytes, bool moved)
{
	uint64_t now = clock_us(&clock_real), due;

	p->done += bytes;
	if (moved && p->rate) {
		p->limited += bytes;
		due = p->begun_us +
		      (uint64_t)((double)p->limited / (double)p->rate * 1e6);
		if (due > now) {
			struct timespec t = { (time_t)((due - now) / 1000000),
					      (long)((due - now) % 1000000 * 1000) };

			nanosleep(&t, NULL);
			now = clock_us(&clock_real);
		} else if (now - due > 1000000) {
			/* No more than a second's worth is saved up. */
			p->limited = (uint64_t)((double)(now - 1000000 - p->begun_us) /
						1e6 * (double)p->rate);
		}
	}
	if (!p->quiet && now - p->shown_us >= SHOW_US)
		show(p, now);
}

void progress_end(struct progress *p)
{
	if (!p->shown)
		return;
	show(p, clock_us(&clock_real));
	fputc('\n', stderr);
}
