/* SPDX-License-Identifier: Apache-2.0 */
/* Changed functions, at every optimisation level and in every kind of target. */
#include "fix.h"

#define HEAD "#include <stdio.h>\n#define NI __attribute__((noinline))\n"
#define REST                                                                            \
	{                                                                               \
		"rest.c", HEAD "int entry(int);\nint main(void) { return entry(3); }\n" \
	}
#define CALLER "int NI entry(int x) { return helper(x) * 3 + 1; }\n"

static const char *const levels[] = {"-O0", "-O1", "-O2", "-O3", "-Os"};
static const char *const compilers[] = {"gcc", "clang"};

static void string_edit(void **state)
{
	(void)state;
	for (size_t c = 0; c < 2; c++) {
		if (!have_cc(compilers[c]))
			continue;
		for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++) {
			struct patch *patch;

			FIX_BUILDS(&patch, .cc = compilers[c], .flags = levels[i],
				.own_build = true,
				.files = {REST,
					{"unit.c",
						HEAD
						"static int NI helper(int x)"
						"{ printf(\"first %d\\n\", x); return x + 1; }\n"
						"int NI other(int x)"
						"{ printf(\"second %d\\n\", x); return x + 2; }\n" CALLER,
						HEAD
						"static int NI helper(int x)"
						"{ printf(\"fixed %d\\n\", x); return x + 1; }\n"
						"int NI other(int x)"
						"{ printf(\"second %d\\n\", x); return x + 2; }\n" CALLER}});
			assert_string_equal(fix_replaced(patch), "helper");
			assert_true(fix_holds(patch, "fixed %d\n"));
			const struct patch_function *f = fix_function(patch, "helper");
			assert_string_equal(f->reason, "changed");
			assert_string_equal(f->unit, "unit.c");
			assert_true(f->size >= 5 && f->site_size == 5);
			assert_non_null(f->old_bytes);
			const struct patch_symbol *s = fix_symbol(patch, "printf");
			assert_non_null(s);
			assert_int_equal(s->kind, PATCH_SYMBOL_DYNAMIC);
			assert_string_equal(s->version, "GLIBC_2.2.5");
			patch_destroy(patch);
		}
	}
}

static void nothing_changes(void **state)
{
	(void)state;
	FIX_FAILS(SUTURE_ERROR_NO_CHANGE, "changes no function",
		.files = {REST,
			{"unit.c", HEAD "static int NI helper(int x) { return x + 1; }\n" CALLER,
				HEAD "/* moved */\n\n\nstatic int NI helper(int x)\n"
				     "{ return x + 1; }\n" CALLER}});
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(string_edit),
		cmocka_unit_test(nothing_changes),
	};
	return cmocka_run_group_tests(tests, fix_setup, fix_teardown);
}
