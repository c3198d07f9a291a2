/* Insides of quipuctl: one function for each command. */
#ifndef QUIPU_TOOLS_QUIPUCTL_CTL_H
#define QUIPU_TOOLS_QUIPUCTL_CTL_H

#include "base/err.h"
#include "tools/lib/admin_client.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* Exit status: */
enum {
	CTL_OK = 0,
	CTL_REFUSED = 1,     /* the server said no, or a file is wrong */
	CTL_USAGE = 2,
	CTL_UNREACHABLE = 3, /* no server, or it went away */
	CTL_WARNINGS = 4,    /* doctor: the worst that it found */
	CTL_ERRORS = 5,
};

#define CTL_NODES_MAX 63 /* ids are 1..63 */

struct ctl {
	const char *socket;  /* path of the admin socket */
	const char *sockets[CTL_NODES_MAX]; /* doctor, top: of all nodes; [0] is it */
	unsigned n_sockets;
	bool json;
	const char *gateway[8], *home, *ca;
	unsigned n_gateways;
	const char *dir;     /* ca: folder of the CA */
	bool once;           /* top: one picture, then the end */
	bool force;          /* ca: write over what is there */
	const char *to, *from; /* backup, restore: the backup's folder */
	const char *config;  /* restore: the node's; NULL: a single one's defaults */
	uint64_t rate;       /* backup, restore: bytes a second; 0: no limit */
	uint32_t epoch;      /* restore: of the history; 0: made from the backup */
	const char *addr, *rack, *with, *disk; /* node; NULL: not given */
	bool dry_run, wait;  /* node */
	unsigned days;       /* ca: 0: the default of each kind */
	uint64_t ttl_s;      /* of tokens; 0: the default of each command */
	struct admin_client *admin; /* opened at the first call */
};

/* Print "quipuctl: ..." and return the exit status that fits. */
int ctl_fail(const struct ctl *c, int rv, const char *name, const struct err *e);
int ctl_usage(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Takes `request`.  CTL_OK and *answer, or what ctl_fail() returned. */
int ctl_call(struct ctl *c, json_t *request, json_t **answer);
/* The same without a message: 0 or the error, `name` the server's word. */
int ctl_try(struct ctl *c, json_t *request, json_t **answer,
	    char name[ADMIN_NAME_MAX], struct err *e);
/* A call whose answer is said in one line (with --json: is printed). */
int ctl_done(struct ctl *c, json_t *request, const char *text);
/* Print as JSON and release. */
int ctl_print(json_t *o);
/* Parse arguments; on failure the message was printed. */
bool ctl_account(const char *s, uint64_t *id);
bool ctl_number(const char *what, const char *s, uint64_t min, uint64_t max,
		uint64_t *v);
json_t *ctl_id(uint64_t account);
uint64_t ctl_u(const json_t *o, const char *name);
const char *ctl_s(const json_t *o, const char *name);

int ctl_status(struct ctl *c, int argc, char **argv);
int ctl_nodes(struct ctl *c, int argc, char **argv);
int ctl_shards(struct ctl *c, int argc, char **argv);
int ctl_leaders(struct ctl *c, int argc, char **argv);
int ctl_transfer(struct ctl *c, int argc, char **argv);
int ctl_drain(struct ctl *c, int argc, char **argv);
int ctl_stats(struct ctl *c, int argc, char **argv);
int ctl_config(struct ctl *c, int argc, char **argv);

int ctl_node(struct ctl *c, int argc, char **argv);
int ctl_shard(struct ctl *c, int argc, char **argv);

int ctl_account_cmd(struct ctl *c, int argc, char **argv);
int ctl_account_retain(struct ctl *c, int argc, char **argv);
int ctl_retention(struct ctl *c, int argc, char **argv);
int ctl_backup(struct ctl *c, int argc, char **argv);
int ctl_restore(struct ctl *c, int argc, char **argv);
int ctl_feature(struct ctl *c, int argc, char **argv);
int ctl_device(struct ctl *c, int argc, char **argv);
int ctl_token(struct ctl *c, int argc, char **argv);

int ctl_doctor(struct ctl *c, int argc, char **argv);

int ctl_top(struct ctl *c, int argc, char **argv);

int ctl_ca(struct ctl *c, int argc, char **argv);
int ctl_reload(struct ctl *c, int argc, char **argv);

int ctl_invite(struct ctl *c, int argc, char **argv);
int ctl_introduce(struct ctl *c, int argc, char **argv);

#endif
