/* Insides of quipu, the terminal client: a profile, its store, the device engine
 * on a loop, and one file for each command. */
#ifndef QUIPU_TOOLS_QUIPU_APP_H
#define QUIPU_TOOLS_QUIPU_APP_H

#include "base/err.h"
#include "client/os_uv.h"
#include "client/quipu.h"
#include "client/store_file.h"
#include "tools/lib/profile.h"

#include <stdbool.h>
#include <stdint.h>

/* Exit status: */
enum {
	APP_OK = 0,
	APP_FAILED = 1,  /* refused, or a file is wrong; the message says why */
	APP_USAGE = 2,
	APP_TIME = 3,    /* not in time; what was to be sent stays in the outbox */
};

#define APP_LEAVE_MS 2000 /* the last acknowledgements may take so long */

struct options {
	const char *home;
	bool json, quiet;
	double timeout_s;     /* negative: none */
	/* login */
	const char *token, *name;
	const char *gateway[PROFILE_GATEWAYS_MAX];
	unsigned n_gateways;
	const char *ca;
	/* send */
	const char *id;
	bool whole;
	/* follow, history */
	uint64_t from, count;
	bool has_from, all, sync, remote, receipts, no_receipts;
};

struct app {
	const struct options *opt;
	struct profile profile;
	struct store_file *store;
	struct client *client;
	struct client_os *os;
	uv_loop_t loop;
	uv_timer_t deadline, leave;
	uv_signal_t sigint, sigterm;
	bool leaving, closed;
	int status;
	bool told_offline;
	void (*event)(struct app *a, const struct client_event *ev);
	void *arg;            /* of the command */
};

/* Print "quipu: ..." (and as JSON with --json) and return APP_FAILED. */
int app_fail(const struct options *o, const char *name, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
int app_usage(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Profile alone. */
int app_profile(struct app *a, const struct options *o);
/* Profile, store, engine, loop.  `event` sees every event of the engine after the
 * app did.  APP_OK, or the exit status, then nothing is to be closed. */
int app_open(struct app *a, const struct options *o,
	     void (*event)(struct app *a, const struct client_event *ev), void *arg);
/* Connect and run until app_leave(); --timeout ends it with APP_TIME. */
int app_run(struct app *a);
/* End in good order with this exit status; the first one counts. */
void app_leave(struct app *a, int status);
void app_close(struct app *a);
/* The client was given something to send.  Also from timers and input that are still
 * served while app_close() waits, when nothing is sent any more. */
void app_kick(struct app *a);
char *app_log_path(const struct profile *p);

int cmd_login(const struct options *o, int argc, char **argv);
int cmd_whoami(const struct options *o, int argc, char **argv);
int cmd_contacts(const struct options *o, int argc, char **argv);
int cmd_send(const struct options *o, int argc, char **argv);
int cmd_flush(const struct options *o, int argc, char **argv);
int cmd_follow(const struct options *o, int argc, char **argv);
int cmd_chat(const struct options *o, int argc, char **argv);
int cmd_list(const struct options *o, int argc, char **argv);
int cmd_history(const struct options *o, int argc, char **argv);

#endif
