/* Verbs of the admin socket about this process: its certificates. */
#include "gateway/admin_impl.h"

static json_t *untils(const struct gateway *g)
{
	return json_pack("{s:I,s:I}", "links_until",
			 (json_int_t)certs_links_until(g), "gateway_until",
			 (json_int_t)certs_gateway_until(g));
}

void admin_certs(struct admin_req *r)
{
	json_t *o = untils(r->g);

	json_object_set_new(o, "now",
			    json_integer((json_int_t)(clock_wall_ms(r->g->clock) /
						      1000)));
	admin_ok(r, o);
}

void admin_reload(struct admin_req *r)
{
	struct err e = { 0 };

	if (gateway_reload(r->g, &e))
		admin_fail(r, "refused", "%s", e.msg);
	else
		admin_ok(r, untils(r->g));
}
