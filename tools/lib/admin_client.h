/* The operator's side of the admin socket (gateway/admin.h): one request, one
 * answer, with a limit of time. */
#ifndef QUIPU_TOOLS_LIB_ADMIN_CLIENT_H
#define QUIPU_TOOLS_LIB_ADMIN_CLIENT_H

#include "base/err.h"

#include <jansson.h>

#define ADMIN_ANSWER_MAX (16u << 20)
#define ADMIN_WAIT_MS 30000 /* no byte for so long: ERR_TIMEOUT */
#define ADMIN_NAME_MAX 32

struct admin_client;

/* ERR_UNAVAILABLE when nobody listens there. */
int admin_client_open(struct admin_client **out, const char *path, struct err *e);
void admin_client_free(struct admin_client *a);
/* Instead of ADMIN_WAIT_MS. */
void admin_client_patience(struct admin_client *a, unsigned ms);
/* Takes `request`.  0: *answer is the object with "ok" true, the caller's;
 * ERR_INVALID: the server refused: e->msg is its sentence, `name` its error;
 * other errors are the connection's, and `name` is empty. */
int admin_client_call(struct admin_client *a, json_t *request, json_t **answer,
		      char name[ADMIN_NAME_MAX], struct err *e);

#endif
