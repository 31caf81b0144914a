/* SPDX-License-Identifier: Apache-2.0 */
/* A target that is not what the source gives is refused; doubles are told apart or refused. */
#include "fix.h"

#define HEAD "#include <stdio.h>\n#define NI __attribute__((noinline))\nint sink(int, ...);\n"
#define REST                                                                          \
	{                                                                             \
		"rest.c", "int entry(int);\nint sink(int x, ...) { return x; }\n"     \
			  "int another(int x, ...) { return x; }\n"                   \
			  "int main(int c, char **v) { (void)v; return entry(c); }\n" \
	}
#define ENTRY(body) "int NI entry(int x) { " body " }\n"
#define BODY(k) \
	ENTRY("int s = 0; for (int i = 0; i < x; i++) s += sink(i, s) * 5; return s + " k ";")

static void other_flags(void **state)
{
	(void)state;
	FIX_FAILS(SUTURE_ERROR_SOURCE_MISMATCH, "entry of unit.c does not match target at 0x",
		.flags = "-O2", .rebuild = "-O1",
		.files = {REST, {"unit.c", HEAD BODY("1"), HEAD BODY("2")}});
	FIX_FAILS(SUTURE_ERROR_SOURCE_MISMATCH, "the source gives \"", .flags = "-O2",
		.rebuild = "-O2 -fno-omit-frame-pointer",
		.files = {REST, {"unit.c", HEAD BODY("1"), HEAD BODY("2")}});
	FIX_FAILS(SUTURE_ERROR_SOURCE_MISMATCH, "entry of unit.c does not match", .flags = "-O2",
		.rebuild = "-O2 -march=x86-64-v3 -mtune=haswell -DOTHER",
		.files = {REST,
			{"unit.c", HEAD ENTRY("\n#ifdef OTHER\nx++;\n#endif\nreturn sink(x);"),
				HEAD ENTRY("return sink(x, 4);")}});
}

static void other_compiler(void **state)
{
	(void)state;
	if (!have_cc("clang"))
		skip();
	FIX_FAILS(SUTURE_ERROR_SOURCE_MISMATCH, "entry of unit.c", .flags = "-O2 ",
		.rebuild = "-O2 -c -x c /dev/null; clang -O2",
		.files = {REST, {"unit.c", HEAD BODY("1"), HEAD BODY("2")}});
}

/* The same instructions, yet something else: what they refer to tells. */
static void other_operands(void **state)
{
	(void)state;
#define OTHER_AT(level, text, before, after)                                                       \
	FIX_FAILS(SUTURE_ERROR_SOURCE_MISMATCH, text, .flags = level, .rebuild = level " -DOTHER", \
		.files = {REST, {"unit.c", HEAD before, HEAD after}})
#define OTHER(text, before, after) OTHER_AT("-O2", text, before, after)
#define IF(a, b)		   "\n#ifdef OTHER\n" a "\n#else\n" b "\n#endif\n"
	/* a string */
	OTHER("has \"them\" for \"here\"", ENTRY("return puts(" IF("\"here\"", "\"them\"") ");"),
		ENTRY("return puts(\"new\");"));
	/* a callee */
	OTHER("has sink for another",
		"int another(int, ...);\n" ENTRY("return " IF("another", "sink") "(x, 1);"),
		"int another(int, ...);\n" ENTRY("return another(x, 2);"));
	OTHER("has remove for puts", ENTRY("return " IF("puts", "remove") "(\"x\");"),
		ENTRY("return puts(\"y\");"));
	/* an immediate, and a scale */
	OTHER("the target has \"imul $0x74CBB1",
		ENTRY("return sink(x) * " IF("1234567", "7654321") ";"),
		ENTRY("return sink(x) * 7777777;"));
	OTHER("the target has \"mov",
		"int a[90]; short b[90];\n" ENTRY(
			"return " IF("((short *)x)", "((int *)x)") "[3];"),
		ENTRY("return ((short *)x)[4];"));
	/* a variable's initial value */
	OTHER("has another content", "int v = " IF("3", "4") ";\n" ENTRY("return v += sink(x, 1);"),
		"int v = 3;\n" ENTRY("return v += sink(x, 2);"));
	/* a jump table's targets */
#define CASES(a, b)                                                                               \
	ENTRY("switch (x) { case 0: return sink(1); case 1: return sink(7, 2); case " a           \
	      ": return sink(4, 4); case " b ": return sink(5, 6, 7); case 4: return sink(9, 9);" \
	      " case 5: return sink(0); case 6: return 9; } return sink(8, 8, 8, 8);")
	OTHER_AT("-O0", "jump table",
		"#ifdef OTHER\n#define A 2\n#define B 3\n#else\n#define A 3\n#define B 2\n#endif\n" CASES(
			"A", "B"),
		CASES("2", "7"));
}

/* The same static function in two files, also of one name. */
static void doubles(void **state)
{
	(void)state;
#define STATIC(k, e)                                                         \
	HEAD "static int NI helper(int x) { return sink(x, " k ") + 11; }\n" \
	     "int NI " e "(int x) { return helper(x) + 1; }\n"
	struct patch *patch;

	FIX_BUILDS(&patch, .own_build = true,
		.files = {REST, {"unit.c", STATIC("1", "entry"), STATIC("2", "entry")},
			{"other.c", STATIC("1", "other")}, {"third.c", STATIC("1", "third")}});
	assert_string_equal(fix_replaced(patch), "helper");
	uint64_t address = fix_function(patch, "helper")->address;
	patch_destroy(patch);
	FIX_BUILDS(&patch, .files = {REST, {"unit.c", STATIC("1", "entry")},
				   {"other.c", STATIC("1", "other"), STATIC("2", "other")},
				   {"third.c", STATIC("1", "third")}});
	assert_int_not_equal(fix_function(patch, "helper")->address, address);
	patch_destroy(patch);
}

static void one_symbol_one_value(void **state)
{
	(void)state;
	/* Both statics are called like the other in the target. */
#define SWAP(a, b, k)                                                   \
	HEAD "static int NI " a "(int x) { return sink(x, 1) + 11; }\n" \
	     "static int NI " b "(int x) { return sink(x, 1) + 11; }\n" \
	     "int NI first(int x) { return one(x) * 3; }\n"             \
	     "int NI second(int x) { return two(x) * 5; }\n" ENTRY(     \
		     "return first(x) + second(x) + " k ";")
	struct patch *patch;

	FIX_BUILDS(&patch, .own_build = true, .flags = "-O2 -fno-ipa-icf",
		.files = {REST, {"unit.c", SWAP("one", "two", "1"), SWAP("one", "two", "2")}});
	assert_string_equal(fix_replaced(patch), "entry");
	patch_destroy(patch);
}

/* Several recorded compiles of one source: the one that matches is meant. */
static void fix_units_of_two_variants(void **state)
{
	(void)state;
	FIX_FAILS(SUTURE_ERROR_SOURCE_MISMATCH, "entry of unit.c", .optional = true,
		.rebuild = "-O1", .files = {REST, {"unit.c", HEAD BODY("1"), HEAD BODY("2")}});
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(other_flags),
		cmocka_unit_test(other_compiler),
		cmocka_unit_test(other_operands),
		cmocka_unit_test(doubles),
		cmocka_unit_test(one_symbol_one_value),
		cmocka_unit_test(fix_units_of_two_variants),
	};
	return cmocka_run_group_tests(tests, fix_setup, fix_teardown);
}
