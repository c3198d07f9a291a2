/* Messages as people and scripts see them. */
#ifndef QUIPU_TOOLS_QUIPU_VIEW_H
#define QUIPU_TOOLS_QUIPU_VIEW_H

#include "tools/quipu/book.h"

#include <jansson.h>
#include <stdio.h>

/* "14:03" of today, "Mon 14:03" of this week, else the date; local time. */
void view_time(char out[24], uint64_t ms);
/* "14:03 bob: hello", one line, without control characters. */
void view_line(FILE *f, const struct profile *p, const struct msg *m);
/* One JSON object in one line.  A body that is not UTF-8 stands in "body64". */
void view_json(FILE *f, const struct profile *p, const char *event,
	       const struct msg *m);
/* Members for a body: "text" or "body64". */
void view_body(json_t *o, const void *p, size_t n);
json_t *view_id(uint64_t account);
void view_mid(char out[33], const uint8_t mid[16]);
/* A record as a msg that borrows its body (not zero-terminated). */
void view_of_record(struct msg *m, const struct client_record *r);
void view_print_json(FILE *f, json_t *o); /* takes o; one line, flushed */

#endif
