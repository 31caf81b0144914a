/* SPDX-License-Identifier: Apache-2.0 */
/* Fixes that span several units and images. */
#include "fix.h"

#define HEAD "#include <stdio.h>\n#define NI __attribute__((noinline))\nint sink(int, ...);\n"
#define REST                                                                          \
	{                                                                             \
		"rest.c", "int entry(int);\nint sink(int x, ...) { return x; }\n"     \
			  "int main(int c, char **v) { (void)v; return entry(c); }\n" \
	}
#define ENTRY(body)	"int NI entry(int x) { " body " }\n"
#define HELPER(attr, k) attr " int NI helper(int x) { return sink(x, " k ") + 11; }\n"

static const struct patch_symbol *only_symbol(const struct patch *patch, const char *name)
{
	const struct patch_symbol *found = NULL;

	vec_foreach (s, &patch->symbols) {
		if (strcmp(s->name, name))
			continue;
		assert_null(found);
		found = s;
	}
	assert_non_null(found);
	return found;
}

static void new_unit_and_new_globals(void **state)
{
	(void)state;
	struct patch *patch;

	FIX_BUILDS(&patch,
		.files = {REST,
			{"a.c", HEAD ENTRY("return sink(x, 1);"),
				HEAD "int added(int); extern int counter; int fresh = 7;\n" ENTRY(
					"counter++; return added(x);")},
			{"b.c", HEAD "int NI other(int x) { return sink(x, 4); }\n",
				HEAD
				"int counter; extern int fresh;"
				"int NI other(int x) { return sink(x, 4) + fresh + counter; }\n"},
			{"c.c", "",
				HEAD
				"static int mine = 3; int added(int x) { return mine += sink(x); }\n",
				.is_new = true}});
	assert_string_equal(fix_replaced(patch), "entry other");
	assert_string_equal(fix_function(patch, "added")->reason, "new");
	assert_string_equal(fix_function(patch, "added")->unit, "c.c");
	assert_int_equal(only_symbol(patch, "counter")->kind, PATCH_SYMBOL_PAYLOAD);
	assert_int_equal(only_symbol(patch, "fresh")->kind, PATCH_SYMBOL_PAYLOAD);
	assert_int_equal(only_symbol(patch, "added")->kind, PATCH_SYMBOL_PAYLOAD);
	assert_int_equal(only_symbol(patch, "sink")->kind, PATCH_SYMBOL_ADDRESS);
	patch_destroy(patch);
}

static void moved_and_changed(void **state)
{
	(void)state;
	struct patch *patch;

	FIX_BUILDS(&patch,
		.files = {REST,
			{"a.c",
				HEAD "int state = 5;\n" HELPER("", "1")
					ENTRY("return helper(x) + state;"),
				HEAD "int helper(int); extern int state;\n" ENTRY(
					"return helper(x) + state;")},
			{"b.c", HEAD "int NI other(int x) { return sink(x, 4); }\n",
				HEAD "int state = 5;\n" HELPER("",
					"2") "int NI other(int x) { return sink(x, 4) + state; }\n"}});
	assert_string_equal(fix_replaced(patch), "helper other");
	assert_string_equal(fix_function(patch, "helper")->unit, "b.c");
	assert_int_equal(only_symbol(patch, "state")->kind, PATCH_SYMBOL_ADDRESS);
	patch_destroy(patch);
}

static void static_made_global_and_back(void **state)
{
	(void)state;
	struct patch *patch;

	FIX_BUILDS(&patch, .flags = "-O2 -fno-ipa-ra",
		.files = {REST,
			{"a.c",
				HEAD "static int v;\n" HELPER("static", "1")
					ENTRY("v++; return helper(x) + 1;"),
				HEAD "int v;\n" HELPER("", "1")
					ENTRY("v++; return helper(x) + 1;")},
			{"b.c", HEAD "int NI other(int x) { return sink(x, 4); }\n",
				HEAD
				"int helper(int); extern int v;\n"
				"int NI other(int x) { return sink(x, 4) + helper(x) + v; }\n"}});
	assert_non_null(fix_function(patch, "other"));
	assert_null(fix_function(patch, "helper"));
	assert_int_equal(only_symbol(patch, "helper")->kind, PATCH_SYMBOL_ADDRESS);
	assert_int_equal(only_symbol(patch, "v")->kind, PATCH_SYMBOL_ADDRESS);
	patch_destroy(patch);
	FIX_BUILDS(&patch, .flags = "-O2 -fno-ipa-ra",
		.files = {
			REST, {"a.c", HEAD HELPER("", "1") ENTRY("return helper(x) + 1;"),
				      HEAD HELPER("static", "2") ENTRY("return helper(x) + 1;")}});
	assert_non_null(fix_function(patch, "helper")->old_bytes);
	patch_destroy(patch);
}

static void removed_and_renamed(void **state)
{
	(void)state;
	struct patch *patch;

	FIX_BUILDS(&patch,
		.files = {REST, {"a.c", HEAD HELPER("static", "1") ENTRY("return helper(x) + 1;"),
					HEAD ENTRY("return sink(x) + 1;")}});
	assert_string_equal(fix_replaced(patch), "entry");
	patch_destroy(patch);
	FIX_BUILDS(&patch,
		.files = {REST,
			{"a.c", HEAD HELPER("static", "1") ENTRY("return helper(x) + 1;"),
				HEAD
				"static int NI better(int x) { return sink(x, 1) + 11; }\n" ENTRY(
					"return better(x) + 1;")}});
	assert_string_equal(fix_replaced(patch), "entry");
	assert_string_equal(fix_function(patch, "better")->reason, "new");
	patch_destroy(patch);
}

static void signature_change(void **state)
{
	(void)state;
	struct patch *patch;

	FIX_BUILDS(&patch,
		.files = {REST,
			{"a.c", HEAD "int NI api(int x) { return sink(x) + 5; }\n",
				HEAD "int NI api(int x, int y) { return sink(x, y) + y; }\n"},
			{"b.c", HEAD "int api(int);\n" ENTRY("return api(x) + 1;"),
				HEAD "int api(int, int);\n" ENTRY("return api(x, 2) + 1;")}});
	assert_string_equal(fix_replaced(patch), "api entry");
	patch_destroy(patch);
}

static void library_and_program(void **state)
{
	(void)state;
	struct patch *patch;

#define SHARED(k) "static inline int checked(int x) { return x > " k " ? " k " : x; }\n"
	FIX_BUILDS(&patch, .flags = "-O2 -fPIC",
		.files = {REST,
			{"main.c",
				HEAD SHARED("9") "int lib(int);\n" ENTRY(
					"return sink(checked(x)) + lib(x);"),
				HEAD SHARED("8") "int lib(int);\n" ENTRY(
					"return sink(checked(x)) + lib(x);")},
			{"lib.c",
				HEAD SHARED(
					"9") "int NI lib(int x) { return puts(\"lib\") + checked(x); }\n",
				HEAD SHARED(
					"8") "int NI lib(int x) { return puts(\"lib\") + checked(x); }\n",
				.in_library = true}});
	assert_string_equal(fix_replaced(patch), "entry lib");
	assert_int_equal(patch->images.n, 2);
	assert_string_equal(patch->images.at[fix_function(patch, "lib")->image].name, "libfix.so");
	assert_string_equal(patch->images.at[fix_function(patch, "entry")->image].name, "target");
	patch_destroy(patch);
}

/* The program has a function of that name, in a file of that name, which is another one. */
static void namesakes_in_two_images(void **state)
{
	(void)state;
	struct patch *patch;

	FIX_BUILDS(&patch, .flags = "-O2 -fPIC",
		.files = {REST,
			{"one/util.c",
				HEAD
				"__attribute__((visibility(\"hidden\"))) int NI reset(int x)"
				"{ return puts(\"lib\") + x; } int lib(int x) { return reset(x) * 3; }\n",
				HEAD
				"__attribute__((visibility(\"hidden\"))) int NI reset(int x)"
				"{ return puts(\"LIB\") + x; } int lib(int x) { return reset(x) * 3; }\n",
				.in_library = true},
			{"two/util.c", HEAD
				"int lib(int); int NI reset(int x) { return sink(x, 77) * 5; }\n" ENTRY(
					"return reset(x) + lib(x);")}});
	assert_string_equal(fix_replaced(patch), "reset");
	assert_int_equal(patch->images.n, 1);
	assert_string_equal(patch->images.at[0].name, "libfix.so");
	patch_destroy(patch);
}

static void the_variant_that_fits(void **state)
{
	(void)state;
	static const char *const flags[][2] = {{"-O2 -fPIC", "-O1"}, {"-O1", "-O2 -fPIC"}};

	for (size_t i = 0; i < 2; i++) {
		struct patch *patch;

		FIX_BUILDS(&patch, .flags = flags[i][0],
			.files = {REST,
				{"a.c",
					HEAD "int g; int NI tiny(void) { return 1; }\n" ENTRY(
						"for (int i = 0; i < x; i++) g += sink(i, g); return g + 5;"),
					HEAD "int g; int NI tiny(void) { return 1; }\n" ENTRY(
						"for (int i = 0; i < x; i++) g += sink(i, g); return g + 6;"),
					.variant = flags[i][1]}});
		assert_string_equal(fix_replaced(patch), "entry");
		patch_destroy(patch);
	}
}

/* Twice in one program, under other names: both are meant. */
static void both_variants(void **state)
{
	(void)state;
	struct patch *patch;

#define TEMPLATE(k) HEAD "int NI NAME(int x) { return sink(x, NUMBER) * " k "; }\n"
	FIX_BUILDS(&patch, .optional = true,
		.files = {REST,
			{"entry.c", HEAD "int eight(int), sixteen(int);\n" ENTRY(
					    "return eight(x) + sixteen(x);")},
			{"one/tmpl.c", TEMPLATE("7"), TEMPLATE("9"), "-DNAME=eight -DNUMBER=8",
				.variant = "-O2 -DNAME=sixteen -DNUMBER=16"},
			{"two/tmpl.c", TEMPLATE("7"), NULL, "-DNAME=sixteen -DNUMBER=16"}});
	assert_string_equal(fix_replaced(patch), "sixteen eight");
	patch_destroy(patch);
}

static void in_no_target(void **state)
{
	(void)state;
	FIX_FAILS(SUTURE_ERROR_SOURCE_MISMATCH, "b.c changes, but no target has functions of it",
		.flags = "-O2 -fPIC", .after_link = "rm libfix.so",
		.files = {REST, {"a.c", HEAD "int lib(int);\n" ENTRY("return sink(x) + lib(x);")},
			{"b.c", HEAD "int NI lib(int x) { return puts(\"1\") + x; }\n",
				HEAD "int NI lib(int x) { return puts(\"2\") + x; }\n",
				.in_library = true}});
}

/* gcc -fipa-icf makes one of two. */
static void folded_by_the_compiler(void **state)
{
	(void)state;
#define TWO(a, b)                                                 \
	HEAD "int NI one(int x) { return sink(x, " a ") * 3; }\n" \
	     "int NI two(int x) { return sink(x, " b              \
	     ") * 3; }\n" ENTRY("return one(x) + two(x + 1) + 1;")
	struct patch *patch;

	/* Static functions get two names for one address. */
#define STATICS(a, b)                                                    \
	HEAD "static int NI one(int x) { return sink(x, " a ") * 3; }\n" \
	     "static int NI two(int x) { return sink(x, " b              \
	     ") * 3; }\n" ENTRY("return one(x) + two(x + 1) + 1;")
	FIX_BUILDS(&patch, .files = {REST, {"a.c", STATICS("7", "7"), STATICS("7", "8")}});
	assert_non_null(strstr(fix_replaced(patch), "entry"));
	patch_destroy(patch);
	/* Exported ones: a jump from one to the other, or an alias. */
	FIX_BUILDS(&patch, .files = {REST, {"a.c", TWO("7", "7"), TWO("7", "8")}});
	assert_non_null(strstr(fix_replaced(patch), "two"));
	assert_null(strstr(fix_replaced(patch), "one"));
	patch_destroy(patch);
	/* An alias that the fix cuts. */
#define ALIAS(decl) \
	HEAD "int NI one(int x) { return sink(x, 7) * 3; }\n" decl "\n" ENTRY("return one(x) + 1;")
	FIX_FAILS(SUTURE_ERROR_REFUSED, "two shares its code with one before the fix",
		.files = {REST, {"a.c", ALIAS("int two(int) __attribute__((alias(\"one\")));"),
					ALIAS("int NI two(int x) { return sink(x, 8) * 4; }")}});
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(new_unit_and_new_globals),
		cmocka_unit_test(moved_and_changed),
		cmocka_unit_test(static_made_global_and_back),
		cmocka_unit_test(removed_and_renamed),
		cmocka_unit_test(signature_change),
		cmocka_unit_test(library_and_program),
		cmocka_unit_test(namesakes_in_two_images),
		cmocka_unit_test(the_variant_that_fits),
		cmocka_unit_test(both_variants),
		cmocka_unit_test(in_no_target),
		cmocka_unit_test(folded_by_the_compiler),
	};
	return cmocka_run_group_tests(tests, fix_setup, fix_teardown);
}
