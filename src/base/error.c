/* SPDX-License-Identifier: Apache-2.0 */
/* Error objects: see error.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

struct suture_error {
	enum suture_error_code code;
	char *message;
	char *hint;
};

static struct suture_error nomem = {
	.code = SUTURE_ERROR_NOMEM,
	.message = (char *)"out of memory",
};

static const char *const code_names[] = {
	[SUTURE_ERROR_NOMEM] = "no-memory",
	[SUTURE_ERROR_SYSTEM] = "system",
	[SUTURE_ERROR_USAGE] = "usage",
	[SUTURE_ERROR_INPUT] = "malformed-input",
	[SUTURE_ERROR_UNSUPPORTED] = "unsupported",
	[SUTURE_ERROR_NO_PROCESS] = "no-process",
	[SUTURE_ERROR_NOT_PATCHABLE] = "not-patchable",
	[SUTURE_ERROR_PERMISSION] = "permission",
	[SUTURE_ERROR_TRACED] = "traced",
	[SUTURE_ERROR_NO_IMAGE] = "no-image",
	[SUTURE_ERROR_BUILD_ID] = "build-id-mismatch",
	[SUTURE_ERROR_CODE_MISMATCH] = "code-mismatch",
	[SUTURE_ERROR_SYMBOL] = "symbol",
	[SUTURE_ERROR_RANGE] = "out-of-range",
	[SUTURE_ERROR_NO_ROOM] = "no-room",
	[SUTURE_ERROR_TOO_SMALL] = "function-too-small",
	[SUTURE_ERROR_ALREADY] = "already-applied",
	[SUTURE_ERROR_NOT_APPLIED] = "not-applied",
	[SUTURE_ERROR_NO_CHANGE] = "no-functional-change",
	[SUTURE_ERROR_BUSY] = "busy",
	[SUTURE_ERROR_DEPENDENCY] = "dependency",
	[SUTURE_ERROR_DIFF] = "diff",
	[SUTURE_ERROR_COMPDB] = "compilation-database",
	[SUTURE_ERROR_COMPILE] = "compiler",
	[SUTURE_ERROR_NO_SYMBOLS] = "no-symbols",
	[SUTURE_ERROR_SOURCE_MISMATCH] = "source-mismatch",
	[SUTURE_ERROR_REFUSED] = "refused",
	[SUTURE_ERROR_LEDGER] = "ledger",
	[SUTURE_ERROR_CANCELLED] = "cancelled",
	[SUTURE_ERROR_INTERNAL] = "internal",
};

/*
 * Messages quote names out of files and processes that anybody made. What could rewrite a terminal
 * or forge a line of a log does not get into them.
 */
static char *printable(char *text)
{
	for (char *p = text; *p; p++)
		if (((unsigned char)*p < 0x20 && *p != '\n' && *p != '\t') || *p == 0x7f)
			*p = '?';
	return text;
}

static struct suture_error *create(enum suture_error_code code, const char *fmt, va_list ap)
{
	struct suture_error *err = calloc(1, sizeof(*err));

	if (!err)
		return &nomem;
	err->code = code;
	if (vasprintf(&err->message, fmt, ap) < 0) {
		free(err);
		return &nomem;
	}
	printable(err->message);
	return err;
}

struct suture_error *error_create(enum suture_error_code code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	struct suture_error *err = create(code, fmt, ap);
	va_end(ap);
	return err;
}

struct suture_error *error_errno(int errnum, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	struct suture_error *err = create(SUTURE_ERROR_SYSTEM, fmt, ap);
	va_end(ap);
	if (err == &nomem)
		return err;

	char *with;
	if (asprintf(&with, "%s: %s", err->message, strerror(errnum)) < 0) {
		suture_error_destroy(err);
		return &nomem;
	}
	free(err->message);
	err->message = with;
	return err;
}

struct suture_error *error_nomem(void)
{
	return &nomem;
}

struct suture_error *error_wrap(struct suture_error *err, const char *fmt, ...)
{
	char *context, *message;
	va_list ap;

	if (!err || err == &nomem)
		return err;
	va_start(ap, fmt);
	int n = vasprintf(&context, fmt, ap);
	va_end(ap);
	if (n < 0)
		return err;
	n = asprintf(&message, "%s: %s", context, err->message);
	free(context);
	if (n < 0)
		return err;
	free(err->message);
	err->message = printable(message);
	return err;
}

struct suture_error *error_hint(struct suture_error *err, const char *fmt, ...)
{
	char *hint;
	va_list ap;

	if (!err || err == &nomem)
		return err;
	va_start(ap, fmt);
	int n = vasprintf(&hint, fmt, ap);
	va_end(ap);
	if (n < 0)
		return err;
	free(err->hint);
	err->hint = printable(hint);
	return err;
}

enum suture_error_code suture_error_code(const struct suture_error *err)
{
	return err->code;
}

const char *suture_error_code_name(enum suture_error_code code)
{
	size_t n = sizeof(code_names) / sizeof(code_names[0]);

	if ((size_t)code >= n || !code_names[code])
		return "unknown";
	return code_names[code];
}

enum suture_status suture_error_status(const struct suture_error *err)
{
	if (!err)
		return SUTURE_STATUS_OK;
	switch (err->code) {
	case SUTURE_ERROR_USAGE:
		return SUTURE_STATUS_USAGE;
	case SUTURE_ERROR_ALREADY:
	case SUTURE_ERROR_NOT_APPLIED:
	case SUTURE_ERROR_NO_CHANGE:
	case SUTURE_ERROR_NO_IMAGE:
		return SUTURE_STATUS_NOTHING;
	case SUTURE_ERROR_BUSY:
		return SUTURE_STATUS_BUSY;
	default:
		return SUTURE_STATUS_FAILED;
	}
}

const char *suture_error_message(const struct suture_error *err)
{
	return err->message;
}

const char *suture_error_hint(const struct suture_error *err)
{
	return err->hint;
}

void suture_error_destroy(struct suture_error *err)
{
	if (!err || err == &nomem)
		return;
	free(err->message);
	free(err->hint);
	free(err);
}
