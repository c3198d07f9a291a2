#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
	const char *name, *text;
} err_rows[] = {
#define X(name, text) { #name, text },
#include "base/err.tbl"
#undef X
};

/* base/err.h has words about these for the analyzer. */
#undef err_set
#undef err_errno
#undef err_wrap

#define ERR_FIRST (ERR_BASE + 1)

const char *err_name(int code)
{
	if (code == 0)
		return "OK";
	if (code < ERR_FIRST || code >= ERR_END)
		return "?";
	return err_rows[code - ERR_FIRST].name;
}

const char *err_text(int code)
{
	if (code == 0)
		return "ok";
	if (code < ERR_FIRST || code >= ERR_END)
		return "?";
	return err_rows[code - ERR_FIRST].text;
}

int err_set(struct err *e, int code, const char *fmt, ...)
{
	va_list ap;

	if (!e)
		return code;
	e->code = code;
	va_start(ap, fmt);
	vsnprintf(e->msg, sizeof e->msg, fmt, ap);
	va_end(ap);
	return code;
}

static int code_of_errno(int sys_errno)
{
	switch (sys_errno) {
	case ENOSPC:
	case EDQUOT:
		return ERR_NOSPACE;
	case ENOENT:
		return ERR_NOT_FOUND;
	case EEXIST:
		return ERR_EXISTS;
	case EACCES:
	case EPERM:
	case EROFS:
		return ERR_PERM;
	case ENOMEM:
		return ERR_NOMEM;
	default:
		return ERR_IO;
	}
}

int err_errno(struct err *e, int sys_errno, const char *fmt, ...)
{
	va_list ap;
	size_t n;
	int code = code_of_errno(sys_errno);

	if (!e)
		return code;
	e->code = code;
	va_start(ap, fmt);
	vsnprintf(e->msg, sizeof e->msg, fmt, ap);
	va_end(ap);
	n = strlen(e->msg);
	snprintf(e->msg + n, sizeof e->msg - n, ": %s", strerror(sys_errno));
	return code;
}

int err_wrap(struct err *e, const char *fmt, ...)
{
	char old[ERR_MSG_MAX];
	va_list ap;
	size_t n;

	if (!e)
		return ERR_INVALID;
	memcpy(old, e->msg, sizeof old);
	va_start(ap, fmt);
	vsnprintf(e->msg, sizeof e->msg, fmt, ap);
	va_end(ap);
	n = strlen(e->msg);
	snprintf(e->msg + n, sizeof e->msg - n, ": %s", old);
	return e->code;
}
