/* Errors of the world: a negative code and a message to which every layer
 * adds its words on the way up.  Our own bugs are asserts (base/assert.h). */
#ifndef QUIPU_BASE_ERR_H
#define QUIPU_BASE_ERR_H

#include <stddef.h>

enum err_code {
	ERR_BASE = -2000,
#define X(name, text) name,
#include "base/err.tbl"
#undef X
	ERR_END
};

#define ERR_MSG_MAX 400

struct err {
	int code; /* 0 or one of enum err_code */
	char msg[ERR_MSG_MAX];
};

/* Name ("ERR_FULL") and plain text of a code; "?" for a foreign number. */
const char *err_name(int code);
const char *err_text(int code);

/* Set code and message; returns `code`, so that `return err_set(...)` works.
 * `e` may be NULL. */
int err_set(struct err *e, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* The same from errno: code chosen by it, its text appended. */
int err_errno(struct err *e, int sys_errno, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* Put "fmt: " in front of the message; returns e->code. */
int err_wrap(struct err *e, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* The static analyzer sees one file at a time: tell it that none of these
 * answers 0. */
#ifdef __clang_analyzer__
#define err_set(e, code, ...) ((void)(err_set)(e, code, __VA_ARGS__), -1)
#define err_errno(e, n, ...) ((void)(err_errno)(e, n, __VA_ARGS__), -1)
#define err_wrap(...) ((void)(err_wrap)(__VA_ARGS__), -1)
#endif

#endif
