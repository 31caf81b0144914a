/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Errors are objects passed upwards; NULL is success. Whoever fails says what it knows
 * (error_create), each layer adds in front what only it knows (error_wrap), the tool prints.
 * "cannot read maps of process 4711: permission denied" beats -EACCES.
 *
 * Creating an error never fails: without memory a static object stands in. Control characters in
 * the text (names out of hostile files) become "?", newlines and tabs stay.
 */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>

#include "suture/suture.h"

#define MUST_USE     __attribute__((warn_unused_result))
#define PRINTF(f, a) __attribute__((format(printf, f, a)))

struct suture_error *error_create(enum suture_error_code code, const char *fmt, ...) MUST_USE
	PRINTF(2, 3);
/* SUTURE_ERROR_SYSTEM with ": strerror(errnum)" behind the text. */
struct suture_error *error_errno(int errnum, const char *fmt, ...) MUST_USE PRINTF(2, 3);
/* The out-of-memory error (static, need not be destroyed but may be). */
struct suture_error *error_nomem(void) MUST_USE;
/* Puts "text: " in front of the message. err NULL stays NULL. Code and hint stay. */
struct suture_error *error_wrap(struct suture_error *err, const char *fmt, ...) MUST_USE
	PRINTF(2, 3);
/* Sets what the operator can do. err NULL stays NULL. */
struct suture_error *error_hint(struct suture_error *err, const char *fmt, ...) MUST_USE
	PRINTF(2, 3);

static inline void error_destroyp(struct suture_error **err)
{
	suture_error_destroy(*err);
}
#define _cleanup_error_ __attribute__((cleanup(error_destroyp)))

/* Return a failure upwards. */
#define TRY(expr)                                       \
	do {                                            \
		struct suture_error *try_err_ = (expr); \
		if (try_err_)                           \
			return try_err_;                \
	} while (0)

#endif
