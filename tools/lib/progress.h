/* How far a command is that takes its time: a bar with rate and remaining time on a
 * terminal, nothing elsewhere; and a limit of the rate. */
#ifndef QUIPU_TOOLS_LIB_PROGRESS_H
#define QUIPU_TOOLS_LIB_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
	const char *what;
	uint64_t total, done;  /* bytes; the total may be a guess that is bettered */
	uint64_t rate;         /* bytes a second at most; 0: as fast as it goes */
	uint64_t limited;      /* bytes that the rate counts */
	uint64_t begun_us, shown_us;
	bool quiet, shown;
};

void progress_begin(struct progress *p, const char *what, uint64_t total, bool quiet);
/* So much more; `moved`: it counts for the rate, and the call may sleep for it. */
void progress_add(struct progress *p, uint64_t bytes, bool moved);
void progress_end(struct progress *p);

#endif
