#include "base/assert.h"
#include "tools/quipu/input.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static void watch(struct input *in);

static void give(struct input *in, size_t n)
{
	in->cb(in->arg, (char *)in->line.data, n);
}

static void end(struct input *in)
{
	in->ended = true;
	watch(in);
	if (in->line.len || in->whole) {
		size_t n = in->line.len;

		*buf_reserve(&in->line, 1) = 0;
		give(in, n);
		buf_clear(&in->line);
	}
	in->cb(in->arg, NULL, 0);
}

/* Whole lines out; a pause leaves the others for later. */
static void cut_lines(struct input *in)
{
	size_t at = 0;

	while (!in->whole && !in->paused) {
		uint8_t *nl = in->line.len > at
			? memchr(in->line.data + at, '\n', in->line.len - at) : NULL;
		size_t n;

		if (!nl)
			break;
		*nl = 0;
		n = (size_t)(nl - (in->line.data + at));
		in->cb(in->arg, (char *)in->line.data + at, n);
		at += n + 1;
	}
	if (at)
		buf_consume(&in->line, at);
}

static void take(struct input *in)
{
	uint8_t *to = buf_reserve(&in->line, 65536);
	ssize_t n = read(0, to, 65535);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		end(in);
		return;
	}
	if (in->line.len + (size_t)n <= INPUT_LINE_MAX)
		in->line.len += (size_t)n;
	else if (memchr(to, '\n', (size_t)n)) {
		/* The rest of an endless line is dropped. */
		in->line.len = INPUT_LINE_MAX;
		buf_u8(&in->line, '\n');
	}
	cut_lines(in);
}

static void on_poll(uv_poll_t *p, int status, int events)
{
	(void)events;
	if (status < 0)
		end(p->data);
	else
		take(p->data);
}

static void on_idle(uv_idle_t *i)
{
	take(i->data);
}

static void watch(struct input *in)
{
	bool on = !in->paused && !in->ended;

	if (in->is_file && on)
		uv_idle_start(&in->idle, on_idle);
	else if (in->is_file)
		uv_idle_stop(&in->idle);
	else if (on)
		uv_poll_start(&in->poll, UV_READABLE | UV_DISCONNECT, on_poll);
	else
		uv_poll_stop(&in->poll);
}

void input_open(struct input *in, uv_loop_t *loop, bool whole,
		void (*cb)(void *arg, char *line, size_t n), void *arg)
{
	memset(in, 0, sizeof *in);
	in->loop = loop;
	in->whole = whole;
	in->cb = cb;
	in->arg = arg;
	in->is_file = uv_guess_handle(0) == UV_FILE || uv_poll_init(loop, &in->poll, 0);
	in->poll.data = in;
	if (in->is_file)
		AZ(uv_idle_init(loop, &in->idle));
	in->idle.data = in;
	watch(in);
}

void input_pause(struct input *in, bool paused)
{
	if (in->paused == paused || in->ended)
		return;
	in->paused = paused;
	if (!paused)
		cut_lines(in);
	watch(in);
}

void input_release(struct input *in)
{
	buf_release(&in->line);
}
