/* What a send must look like before it becomes a command: one rule for the stream
 * and for REST.  The shard refuses malformed commands too (cmd.h), but it can only
 * say that they are. */
#ifndef QUIPU_GATEWAY_SEND_FORM_H
#define QUIPU_GATEWAY_SEND_FORM_H

#include "base/wire.h"

#include <stdint.h>

/* NULL, or what is wrong with a decoded send of this account; a text without
 * anything of the client's in it. */
const char *send_form(const struct wire *w, uint64_t account);

#endif
