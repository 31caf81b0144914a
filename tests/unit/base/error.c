/* SPDX-License-Identifier: Apache-2.0 */
/* Error objects carry code, context and hint, and map to the documented exit statuses. */
#include "../unit.h"

static void context_goes_in_front(void **state)
{
	(void)state;
	struct suture_error *err = error_errno(EACCES, "open %s", "/proc/1/mem");

	err = error_wrap(err, "process %d", 1);
	err = error_hint(err, "run as %s", "root");
	assert_string_equal(
		suture_error_message(err), "process 1: open /proc/1/mem: Permission denied");
	assert_string_equal(suture_error_hint(err), "run as root");
	assert_int_equal(suture_error_code(err), SUTURE_ERROR_SYSTEM);
	suture_error_destroy(err);
}

static void hostile_names_are_harmless(void **state)
{
	(void)state;
	struct suture_error *err = error_create(SUTURE_ERROR_INPUT, "no \033[2J%s", "\x7f\b\r");

	err = error_hint(error_wrap(err, "%s", "a\033b\n\tc"), "\a");
	assert_string_equal(suture_error_message(err), "a?b\n\tc: no ?[2J???");
	assert_string_equal(suture_error_hint(err), "?");
	suture_error_destroy(err);
}

static void success_passes_through(void **state)
{
	(void)state;
	assert_null(error_wrap(NULL, "x"));
	assert_null(error_hint(NULL, "x"));
	suture_error_destroy(NULL);
}

static void no_memory_needs_no_memory(void **state)
{
	(void)state;
	struct suture_error *err = error_wrap(error_nomem(), "context");

	assert_int_equal(suture_error_code(err), SUTURE_ERROR_NOMEM);
	assert_string_equal(suture_error_message(err), "out of memory");
	suture_error_destroy(err);
}

static void every_code_has_a_name_and_a_status(void **state)
{
	(void)state;
	for (int code = SUTURE_ERROR_NOMEM; code <= SUTURE_ERROR_INTERNAL; code++) {
		struct suture_error *err = error_create(code, "x");

		assert_string_not_equal(suture_error_code_name(code), "unknown");
		int status = suture_error_status(err);
		assert_in_range(status, SUTURE_STATUS_FAILED, SUTURE_STATUS_BUSY);
		suture_error_destroy(err);
	}
	assert_string_equal(suture_error_code_name(999), "unknown");
	assert_int_equal(suture_error_status(NULL), SUTURE_STATUS_OK);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(context_goes_in_front),
		cmocka_unit_test(hostile_names_are_harmless),
		cmocka_unit_test(success_passes_through),
		cmocka_unit_test(no_memory_needs_no_memory),
		cmocka_unit_test(every_code_has_a_name_and_a_status),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
