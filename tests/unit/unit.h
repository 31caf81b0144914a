/* SPDX-License-Identifier: Apache-2.0 */
/* What every unit test includes: cmocka, and assertions on our errors. */
#ifndef TESTS_UNIT_H
#define TESTS_UNIT_H

/* cmocka.h needs the others before it. */
/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
/* clang-format on */

#include "base/error.h"

/* The call succeeds. */
#define assert_ok(expr)                                                           \
	do {                                                                      \
		struct suture_error *ok_err_ = (expr);                            \
		if (ok_err_)                                                      \
			fail_msg("%s: %s", #expr, suture_error_message(ok_err_)); \
	} while (0)

/* The call fails with this code and a message that contains `text`. */
#define assert_error(expr, want, text)                                                      \
	do {                                                                                \
		struct suture_error *bad_err_ = (expr);                                     \
		if (!bad_err_)                                                              \
			fail_msg("%s: succeeded", #expr);                                   \
		if (suture_error_code(bad_err_) != (want))                                  \
			fail_msg("%s: code %s: %s", #expr,                                  \
				suture_error_code_name(suture_error_code(bad_err_)),        \
				suture_error_message(bad_err_));                            \
		if (!strstr(suture_error_message(bad_err_), text))                          \
			fail_msg("%s: message: %s", #expr, suture_error_message(bad_err_)); \
		suture_error_destroy(bad_err_);                                             \
	} while (0)

#endif
