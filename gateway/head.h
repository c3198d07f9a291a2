/* The request head, checked once more by our own rules before any body byte: the
 * HTTP library lets several Host fields, several Content-Length fields and other
 * means of smuggling pass at every strictness it has (reliability.md 2.3).
 *
 *	head_begin(&h, method, version, raw target)
 *	head_field(&h, name, value)       for every field, in order
 *	why = head_end(&h)                NULL: good; else a sentence: answer 400
 *	                                  and close the connection
 *
 * head_look() is the same for a head that no parser has seen yet. */
#ifndef QUIPU_GATEWAY_HEAD_H
#define QUIPU_GATEWAY_HEAD_H

#include <stdbool.h>
#include <stddef.h>

#define HEAD_FIELDS_MAX 64
#define HEAD_TARGET_MAX 2048
#define HEAD_LENGTH_DIGITS_MAX 15
#define HEAD_MAX 8192 /* bytes of the whole head */

struct head {
	const char *why;
	unsigned fields;
	bool v10;
	unsigned seen; /* bits of enum in head.c: fields that come once */
};

/* `target` is the request target as it came, before any unescaping. */
void head_begin(struct head *h, const char *method, const char *version,
		const char *target, size_t target_len);
void head_field(struct head *h, const char *name, size_t name_len,
		const char *value, size_t value_len);
const char *head_end(const struct head *h);

enum head_state {
	HEAD_PART, /* its end is not here yet */
	HEAD_GOOD,
	HEAD_BAD,  /* *status and *why say what to answer */
};

/* The first n bytes of a connection: RFC 9112's grammar without its allowances for
 * old peers, and the rules above. */
enum head_state head_look(const char *p, size_t n, unsigned *status,
			  const char **why);

#endif
