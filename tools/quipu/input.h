/* Lines of standard input on a loop, whether it is a terminal, a pipe or a file. */
#ifndef QUIPU_TOOLS_QUIPU_INPUT_H
#define QUIPU_TOOLS_QUIPU_INPUT_H

#include "base/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

#define INPUT_LINE_MAX (1u << 20) /* of a longer line the first bytes come */

struct input {
	uv_loop_t *loop;
	uv_poll_t poll;   /* terminals and pipes */
	uv_idle_t idle;   /* files are always ready, which polling cannot say */
	bool is_file, whole, paused, ended;
	struct buf line;
	/* A line without its newline, zero-terminated; NULL: the end. */
	void (*cb)(void *arg, char *line, size_t n);
	void *arg;
};

/* whole: one "line" of all there is, newlines too. */
void input_open(struct input *in, uv_loop_t *loop, bool whole,
		void (*cb)(void *arg, char *line, size_t n), void *arg);
void input_pause(struct input *in, bool paused);
/* The handles close with the loop's. */
void input_release(struct input *in);

#endif
