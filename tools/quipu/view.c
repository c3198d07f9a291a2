#include "base/alloc.h"
#include "base/base64.h"
#include "base/clock.h"
#include "tools/quipu/view.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void view_time(char out[24], uint64_t ms)
{
	time_t t = (time_t)(ms / 1000), now = (time_t)(clock_wall_ms(&clock_real) / 1000);
	struct tm at, today;

	localtime_r(&t, &at);
	localtime_r(&now, &today);
	if (at.tm_year == today.tm_year && at.tm_yday == today.tm_yday)
		strftime(out, 24, "%H:%M", &at);
	else if (t < now && now - t < 6 * 86400)
		strftime(out, 24, "%a %H:%M", &at);
	else
		strftime(out, 24, "%Y-%m-%d %H:%M", &at);
}

void view_line(FILE *f, const struct profile *p, const struct msg *m)
{
	static const char *const cls[] = { "void", "", "receipt", "control", "group key",
					   "call", "state", "event" };
	struct buf text = BUF_INIT;
	char at[24];

	view_time(at, m->time_ms);
	content_printable(&text, m->body, m->len, true);
	fprintf(f, "%s %s: ", at, m->mine ? "me" : profile_who(p, m->peer));
	if (m->cls != CONTENT_TEXT)
		fprintf(f, "[%s of %u bytes]", cls[m->cls & 7], m->len);
	else
		fputs((const char *)text.data, f);
	if (m->mine)
		fprintf(f, "  %s", msg_ticks(m));
	if (m->state == MSG_REFUSED)
		fprintf(f, " not sent: %s", m->problem[0] ? m->problem : "refused");
	fputc('\n', f);
	buf_release(&text);
}

json_t *view_id(uint64_t account)
{
	char text[17];

	snprintf(text, sizeof text, "%016" PRIx64, account);
	return json_string(text);
}

void view_mid(char out[33], const uint8_t mid[16])
{
	unsigned i;

	for (i = 0; i < 16; i++)
		snprintf(out + 2 * i, 3, "%02x", mid[i]);
}

void view_body(json_t *o, const void *p, size_t n)
{
	json_t *text = json_stringn(n ? p : "", n);
	struct buf b = BUF_INIT;

	if (text) {
		json_object_set_new(o, "text", text);
		return;
	}
	base64url_put(&b, p, n);
	json_object_set_new(o, "body64", json_stringn((const char *)b.data, b.len));
	buf_release(&b);
}

void view_of_record(struct msg *m, const struct client_record *r)
{
	memset(m, 0, sizeof *m);
	m->peer = r->from;
	m->device = r->device;
	m->n = r->n;
	m->seq = r->seq;
	m->lamport = r->lamport;
	m->time_ms = r->time_ms;
	m->cls = r->cls;
	m->state = MSG_ACKED;
	m->len = r->body_len;
	m->body = (uint8_t *)(uintptr_t)r->body;
	memcpy(m->mid, r->mid, 16);
}

void view_print_json(FILE *f, json_t *o)
{
	json_dumpf(o, f, JSON_COMPACT);
	fputc('\n', f);
	fflush(f);
	json_decref(o);
}

void view_json(FILE *f, const struct profile *p, const char *event,
	       const struct msg *m)
{
	static const char *const state[] = { "open", "acked", "refused" };
	json_t *o = json_object();
	char mid[33];

	view_mid(mid, m->mid);
	json_object_set_new(o, "event", json_string(event));
	json_object_set_new(o, m->mine ? "to" : "from", view_id(m->peer));
	json_object_set_new(o, "name", json_string(profile_who(p, m->peer)));
	if (!m->mine)
		json_object_set_new(o, "n", json_integer((json_int_t)m->n));
	json_object_set_new(o, "seq", json_integer((json_int_t)m->seq));
	json_object_set_new(o, "mid", json_string(mid));
	json_object_set_new(o, "lamport", json_integer((json_int_t)m->lamport));
	json_object_set_new(o, "time", json_integer((json_int_t)m->time_ms));
	json_object_set_new(o, "class", json_integer(m->cls));
	if (m->mine) {
		json_object_set_new(o, "state", json_string(state[m->state]));
		json_object_set_new(o, "delivered", json_boolean(m->delivered));
		json_object_set_new(o, "read", json_boolean(m->read));
	}
	if (m->problem[0])
		json_object_set_new(o, "problem", json_string(m->problem));
	view_body(o, m->body, m->len);
	view_print_json(f, o);
}
