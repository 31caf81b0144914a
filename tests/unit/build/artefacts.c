/* SPDX-License-Identifier: Apache-2.0 */
/* What compilers make of a change: clones, split parts, inlining, jump tables, constants. */
#include "fix.h"

#define HEAD                                                         \
	"#include <stdio.h>\n#define NI __attribute__((noinline))\n" \
	"int sink(int, ...); void __attribute__((cold)) stop(int, const char *);\n"
#define REST                                                                                         \
	{                                                                                            \
		"rest.c",                                                                            \
			"#include <stdlib.h>\nint entry(int);\nint sink(int x, ...) { return x; }\n" \
			"void stop(int x, const char *s) { exit(x + *s); }\n"                        \
			"int main(int c, char **v) { (void)v; return entry(c); }\n"                  \
	}

static struct patch *build(const char *cc, const char *flags, const char *before, const char *after)
{
	struct patch *patch;

	FIX_BUILDS(&patch, .cc = cc, .flags = flags, .files = {REST, {"unit.c", before, after}});
	return patch;
}

/* gcc -O2 splits unlikely blocks off; they travel with the function. */
static void cold_part(void **state)
{
	(void)state;
#define COLDY(text, n)                                                        \
	HEAD "int NI entry(int x) { for (int i = 0; i < x; i++) {"            \
	     " if (sink(i) > " n ") { stop(x, \"" text "\"); sink(1, x); } }" \
	     " return sink(x) + 1; }\n"
	struct patch *patch = build("gcc", "-O2", COLDY("before", "100"), COLDY("after", "100"));

	assert_string_equal(fix_replaced(patch), "entry");
	const struct patch_function *f = fix_function(patch, "entry");
	assert_string_equal(f->reason, "changed in entry.cold");
	assert_int_equal(f->parts.n, 1);
	assert_true(f->parts.at[0].size > 0);
	assert_string_equal(fix_function(patch, "entry.cold")->reason, "changed");
	assert_non_null(fix_section(patch, ".text.entry.cold"));
	patch_destroy(patch);

	patch = build("gcc", "-O2", COLDY("same", "100"), COLDY("same", "101"));
	assert_string_equal(fix_replaced(patch), "entry");
	assert_string_equal(fix_function(patch, "entry")->reason, "changed");
	assert_string_equal(fix_function(patch, "entry.cold")->reason, "split part of entry");
	patch_destroy(patch);
}

static void cold_added_and_removed(void **state)
{
	(void)state;
#define WARM HEAD "int NI entry(int x) { return sink(x) + 1; }\n"
	struct patch *patch = build("gcc", "-O2", WARM, COLDY("x", "1"));

	assert_int_equal(fix_function(patch, "entry")->parts.n, 0);
	assert_non_null(fix_function(patch, "entry.cold"));
	patch_destroy(patch);
	patch = build("gcc", "-O2", COLDY("x", "1"), WARM);
	assert_int_equal(fix_function(patch, "entry")->parts.n, 1);
	assert_null(fix_function(patch, "entry.cold"));
	patch_destroy(patch);
}

static void isra_and_constprop(void **state)
{
	(void)state;
#define CLONED(k)                                                                             \
	HEAD "struct s { int a, b, c; };\n"                                                   \
	     "static int NI isra(struct s *p) { return sink(p->b * " k ") + sink(3); }\n"     \
	     "static int NI constprop(int x, int y) { return sink(x, y) + y * 7 + " k "; }\n" \
	     "int NI entry(int x) { struct s s = {x, x + 1, 2};"                              \
	     " struct s t = {x, x + 3, x};"                                                   \
	     " return isra(&s) + isra(&t) + constprop(x, 5) + constprop(x + 1, 5) + 1; }\n"
	struct patch *patch = build("gcc", "-O2", CLONED("11"), CLONED("13"));

	assert_non_null(strstr(fix_replaced(patch), "isra.isra.0"));
	assert_non_null(strstr(fix_replaced(patch), "constprop.constprop.0"));
	assert_null(strstr(fix_replaced(patch), "entry"));
	patch_destroy(patch);
}

static void part(void **state)
{
	(void)state;
#define PARTED(k)                                                                               \
	HEAD "static int split(int x) { if (x < 5) return x; int i, s = 0;"                     \
	     " for (i = 0; i < x; i++) { s += sink(i, " k "); s ^= sink(s); s += sink(9, i); }" \
	     " for (i = 0; i < x; i++) { s += sink(i, 4); s ^= sink(s); s += sink(8, i); }"     \
	     " return s; }\n"                                                                   \
	     "int NI first(int x) { return split(x) + 1; }\n"                                   \
	     "int NI second(int x) { return split(x) + 2; }\n"                                  \
	     "int NI entry(int x) { return first(x) + second(x) + split(x + 3); }\n"
	struct patch *patch = build("gcc", "-O2", PARTED("1"), PARTED("2"));

	assert_string_equal(fix_replaced(patch), "split.part.0");
	patch_destroy(patch);
}

static void inlined_into_callers(void **state)
{
	(void)state;
#define INLINED(k)                                                       \
	HEAD "static inline int tiny(int x) { return x * 3 + " k "; }\n" \
	     "int NI one(int x) { return sink(tiny(x)); }\n"             \
	     "int NI two(int x) { return sink(tiny(x + 1)); }\n"         \
	     "int NI three(int x) { return sink(x); }\n"                 \
	     "int NI entry(int x) { return one(x) + two(x) + three(x); }\n"
	struct patch *patch = build("gcc", "-O2", INLINED("1"), INLINED("2"));

	assert_string_equal(fix_replaced(patch), "one two");
	patch_destroy(patch);
}

/* Not inlined any longer: the callee is new to the target. */
static void inlined_no_longer(void **state)
{
	(void)state;
#define CALLEE(attr)                                                                    \
	HEAD "static " attr " int callee(int x) { return sink(x) * 3 + sink(1, x); }\n" \
	     "int NI entry(int x) { return callee(x) + 1; }\n"
	struct patch *patch = build("gcc", "-O2", CALLEE("inline"), CALLEE("NI"));

	assert_string_equal(fix_replaced(patch), "entry");
	assert_int_equal(fix_function(patch, "callee")->address, 0);
	assert_string_equal(fix_function(patch, "callee")->reason, "new");
	patch_destroy(patch);
	patch = build("gcc", "-O2", CALLEE("NI"), CALLEE("inline"));
	assert_string_equal(fix_replaced(patch), "entry");
	patch_destroy(patch);
}

#define SWITCH(a, b)                                                                                 \
	HEAD "int NI entry(int x) { switch (x) { case 0: return sink(1); case 1: return sink(7, 2);" \
	     " case " a ": return puts(\"three\"); case " b ": return sink(5, 6, 7);"                \
	     " case 4: return puts(\"five\"); case 5: return sink(0); case 6: return 9; }"           \
	     " return puts(\"default\"); }\n"                                                        \
	     "int NI other(int x) { switch (x) { case 0: return sink(3); case 1: return sink(5, 2);" \
	     " case 2: return puts(\"1three\"); case 3: return sink(5, 8, 7);"                       \
	     " case 4: return puts(\"1five\"); case 5: return sink(2); case 6: return 5; }"          \
	     " return puts(\"default\"); }\n"

static void case_labels_swapped(void **state)
{
	(void)state;
	static const char *const flags[] = {"-O2", "-O0", "-O2 -fno-pie -no-pie", "-Os -fPIC"};
	static const char *const compilers[] = {"gcc", "clang"};

	for (size_t i = 0; i < 8; i++) {
		if (!have_cc(compilers[i / 4]))
			continue;
		struct patch *patch;
		FIX_BUILDS(&patch, .cc = compilers[i / 4], .flags = flags[i % 4],
			.link = i % 4 == 2 ? "-no-pie" : "",
			.files = {REST, {"unit.c", SWITCH("2", "3"), SWITCH("3", "2")}});
		assert_string_equal(fix_replaced(patch), "entry");
		/* The new table goes to the new body. */
		const struct patch_section *table = fix_section(patch, ".rodata..rodata.entry+0x0");
		if (table) {
			assert_true(table->relocs.n >= 7);
			vec_foreach (r, &table->relocs)
				assert_string_equal(patch->symbols.at[r->symbol].name, "entry");
		}
		patch_destroy(patch);
	}
}

static void wide_and_floating_constants(void **state)
{
	(void)state;
#define CONSTANTS(d, w, e)                                                                                \
	HEAD "#include <wchar.h>\nextern double dsink(double); double NI dsink(double x) { return x; }\n" \
	     "int NI fp(int x) { return dsink(x * " d "); }\n"                                            \
	     "int NI fp2(int x) { return dsink(x * 1.75); }\n"                                            \
	     "int NI wide(int x) { return sink(x, L\"" w "\"); }\n"                                       \
	     "int NI nul(int x) { return sink(x, \"ab\\0" e "\"); }\n"                                    \
	     "int NI nul2(int x) { return sink(x, \"ab\\0cc\"); }\n"                                      \
	     "int NI entry(int x) { return fp(x) + fp2(x) + wide(x) + nul(x) + nul2(x); }\n"
	struct patch *patch =
		build("gcc", "-O2", CONSTANTS("1.5", "wide", "cd"), CONSTANTS("2.5", "wide", "cd"));

	assert_string_equal(fix_replaced(patch), "fp");
	patch_destroy(patch);
	patch = build("gcc", "-O2", CONSTANTS("1.5", "wide", "cd"), CONSTANTS("1.5", "wiDe", "cd"));
	assert_string_equal(fix_replaced(patch), "wide");
	patch_destroy(patch);
	/* The text is the same up to its NUL. */
	patch = build("gcc", "-O2", CONSTANTS("1.5", "wide", "cd"), CONSTANTS("1.5", "wide", "ce"));
	assert_non_null(strstr(fix_replaced(patch), "nul"));
	assert_null(strstr(fix_replaced(patch), "wide"));
	assert_true(fix_holds(patch, "ce"));
	patch_destroy(patch);
}

static void switch_of_values(void **state)
{
	(void)state;
#define VALUES(k)                                                                              \
	HEAD "int NI entry(int x) { switch (x) { case 0: return 31; case 1: return 17;"        \
	     " case 2: return " k "; case 3: return 64; case 4: return 5; case 5: return 9; }" \
	     " return -1; }\n"
	static const char *const compilers[] = {"gcc", "clang"};

	for (size_t i = 0; i < 2; i++) {
		if (!have_cc(compilers[i]))
			continue;
		struct patch *patch = build(compilers[i], "-O2", VALUES("40"), VALUES("41"));
		assert_string_equal(fix_replaced(patch), "entry");
		patch_destroy(patch);
	}
}

static void function_name_constant(void **state)
{
	(void)state;
#define NAMED(x)                                                    \
	HEAD "int NI quiet(int x) { return puts(__func__) + x; }\n" \
	     "int NI entry(int x) { puts(__func__); return quiet(" x "); }\n"
	struct patch *patch = build("gcc", "-O2", NAMED("x"), NAMED("x + 1"));

	assert_string_equal(fix_replaced(patch), "entry");
	assert_true(fix_holds(patch, "entry"));
	patch_destroy(patch);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cold_part),
		cmocka_unit_test(cold_added_and_removed),
		cmocka_unit_test(isra_and_constprop),
		cmocka_unit_test(part),
		cmocka_unit_test(inlined_into_callers),
		cmocka_unit_test(inlined_no_longer),
		cmocka_unit_test(case_labels_swapped),
		cmocka_unit_test(wide_and_floating_constants),
		cmocka_unit_test(switch_of_values),
		cmocka_unit_test(function_name_constant),
	};
	return cmocka_run_group_tests(tests, fix_setup, fix_teardown);
}
