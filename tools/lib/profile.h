/* A person's profile, HOME/profile.json (0600): who they are, where the gateways
 * are, and the names of those they talk to.
 *
 *	{"version":1, "name":"alice", "account":"4f0c9a1be2d37715", "device":1,
 *	 "token":"eyJ...", "gateways":["ws://127.0.0.1:8080"], "ca":"ca.pem",
 *	 "contacts":{"bob":"8d11..."}}
 *
 * `ca` is there only when wss:// gateways have certificates of a CA of their own; a
 * path that is not absolute starts at HOME. */
#ifndef QUIPU_TOOLS_LIB_PROFILE_H
#define QUIPU_TOOLS_LIB_PROFILE_H

#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define PROFILE_GATEWAYS_MAX 8
#define PROFILE_NAME_MAX 64 /* of people, with the zero */

struct profile {
	char *home, *path;
	json_t *json; /* the whole file; owned */
	const char *name, *token; /* borrowed from it */
	char *ca;     /* absolute or from the working folder; NULL */
	uint64_t account;
	uint32_t device;
	const char *gateways[PROFILE_GATEWAYS_MAX];
	unsigned n_gateways;
};

/* ERR_NOT_FOUND: no profile there; ERR_FORMAT: which member is wrong. */
int profile_load(struct profile *p, const char *home, struct err *e);
/* Check `json` and make it the profile of `home`; takes it.  Nothing is written. */
int profile_make(struct profile *p, const char *home, json_t *json, struct err *e);
/* Write it, all or nothing; makes the folder. */
int profile_save(struct profile *p, struct err *e);
void profile_release(struct profile *p);

/* Of a contact's name, or 16 hex digits; ERR_NOT_FOUND. */
int profile_contact(const struct profile *p, const char *who, uint64_t *account,
		    struct err *e);
/* Name of an account: a contact's, "me" for one's own, or its 16 digits; one of four
 * static buffers. */
const char *profile_who(const struct profile *p, uint64_t account);
/* Is the account a contact? */
bool profile_knows(const struct profile *p, uint64_t account);
/* Add or replace; profile_save() keeps it.  ERR_INVALID: not a name. */
int profile_add_contact(struct profile *p, const char *name, uint64_t account,
			struct err *e);

/* 16 lower-case hex digits, not all zero. */
bool account_parse(const char *s, uint64_t *id);
/* Letters, digits, '-', '_', '.': what can be a folder too; not 16 hex digits. */
bool person_name_ok(const char *s);

#endif
