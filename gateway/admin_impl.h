/* Insides of the admin socket: admin.c carries lines, admin_verbs.c answers. */
#ifndef QUIPU_GATEWAY_ADMIN_IMPL_H
#define QUIPU_GATEWAY_ADMIN_IMPL_H

#include "gateway/impl.h"

#include <jansson.h>

struct admin_conn;

/* One request, until its answer has been written; answers leave in the order of
 * the requests. */
struct admin_req {
	struct list link;        /* admin_conn->reqs */
	struct admin_conn *conn;
	struct gateway *g;
	json_t *in;              /* the request, an object */
	char *out;               /* the answer's line, allocated; NULL: not yet */
	size_t out_len;
	struct route_call *call; /* what it waits for */
	uint64_t account;
	uint32_t device;
	bool chosen;             /* we drew the account's id */
	void *aside;             /* of a verb that waits for the node: gone with the */
	void (*drop)(struct admin_req *r); /* request by this */
};

/* Takes over `members` (NULL: none) and adds "ok". */
void admin_ok(struct admin_req *r, json_t *members);
void admin_fail(struct admin_req *r, const char *error, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* admin_node.c: verbs about this process. */
void admin_reload(struct admin_req *r);
void admin_certs(struct admin_req *r);
void admin_histograms(struct admin_req *r);

/* admin_backup.c */
void admin_backup(struct admin_req *r);
void admin_backup_mark(struct admin_req *r);
void admin_backup_shard(struct admin_req *r);
void admin_backup_end(struct admin_req *r);

/* admin_feature.c */
void admin_feature(struct admin_req *r);
void admin_feature_raise(struct admin_req *r);

/* admin_retain.c */
void admin_retention(struct admin_req *r);
void admin_retention_ttl(struct admin_req *r);
void admin_account_erase(struct admin_req *r);
void admin_account_hold(struct admin_req *r);

/* admin_place.c: who is in the cluster, and where replicas are. */
void admin_node_list(struct admin_req *r);
void admin_node_set(struct admin_req *r);
void admin_places(struct admin_req *r);
void admin_plan(struct admin_req *r);

/* A number of the request; false: answered. */
bool admin_want_num(struct admin_req *r, const char *name, uint64_t min,
		    uint64_t max, uint64_t *n);
/* admin_verbs.c, for verbs elsewhere.  "account" into r->account; false: answered. */
bool admin_want_account(struct admin_req *r);
/* A call for that account's shard; NULL: answered. */
struct route_call *admin_call(struct admin_req *r, route_cb *cb);
/* Gives the call back; false: answered. */
bool admin_came_through(struct admin_req *r, int err, const struct result *res);
void admin_refused(struct admin_req *r, int status);

/* Runs the verb: answers now, or later from a callback. */
void admin_verb(struct admin_req *r);

#endif
