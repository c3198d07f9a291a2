#include "gateway/send_form.h"
#include "consensus/cmd.h"

enum { DAY_S = 86400 };

/* Longest ttl of each class, seconds (protocol.md 9).  A void may carry the one of
 * the message whose number it takes. */
static const uint32_t ttl_max[] = {
	30 * DAY_S, 30 * DAY_S, 7 * DAY_S, 30 * DAY_S, 30 * DAY_S, 120, 30 * DAY_S,
};
#define CLASSES (sizeof ttl_max / sizeof ttl_max[0])
_Static_assert(30 * DAY_S == TTL_MAX_S, "no class outlives what a command may say");

const char *send_form(const struct wire *w, uint64_t account)
{
	uint64_t cls = wire_u(w, W_CLASS);

	if (wire_u(w, W_SEQ) == 0)
		return "seq is 0";
	if (wire_u(w, W_AFTER) >= wire_u(w, W_SEQ))
		return "after is not below seq";
	if (w->u[W_TO] == 0)
		return "to is 0";
	if (cls >= CLASSES)
		return "the class is the server's";
	if (cls == 0 && wire_has(w, W_BODY) && w->b[W_BODY].n)
		return "a void has no body";
	if (cls == 6 && w->u[W_TO] != account)
		return "state goes to the own account";
	if (wire_u(w, W_TTL) > ttl_max[cls])
		return "ttl is too long for the class";
	return NULL;
}
