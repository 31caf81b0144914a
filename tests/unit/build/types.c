/* SPDX-License-Identifier: Apache-2.0 */
/* A fix that changes a layout is refused, and says which type and which member. */
#include "build/types.h"
#include "scratch.h"

/* Compile both texts with `flags` and compare. */
static struct suture_error *check_with(
	const char *dir, const char *flags, const char *before, const char *after)
{
	static const char use[] = "\nstruct s; int f(void) { return 0; }\n";
	char text[4096], command[256];
	const char *sources[] = {before, after};
	struct unit unit = {.name = (char *)"x.c"};
	struct units units = {};

	for (int i = 0; i < 2; i++) {
		snprintf(text, sizeof(text), "%s%s", sources[i], use);
		scratch_write(dir, "x.c", text);
		snprintf(command, sizeof(command), "cc %s -c x.c -o %c.o", flags, 'a' + i);
		assert_int_equal(scratch_run(dir, command), 0);
	}
	unit.before = (char *)scratch_path(dir, "a.o");
	unit.after = (char *)scratch_path(dir, "b.o");
	assert_true(vec_push(&units.v, unit));
	struct suture_error *err = types_check(&units);
	vec_free(&units.v);
	return err;
}

static struct suture_error *check(const char *dir, const char *before, const char *after)
{
	return check_with(dir, "-g", before, after);
}

#define S(members) "struct s { " members " } v;"

static void same_layout(void **state)
{
	assert_ok(check(*state, S("int a; char b;"), S("int a; char b;")));
	assert_ok(check(*state, S("int a;"), S("int a;") "struct t { int n; } w;"));
	assert_ok(check(*state, S("int a;"), S("unsigned a;")));
	assert_ok(check(*state, S("char *p;"), S("const void *p;")));
	assert_ok(check(*state, "enum e { A, B } v;", "enum e { A, B, C } v;"));
	assert_ok(check(*state, "int x;", "int x; long y;"));
	assert_ok(check(*state, S("struct s *next; int n[];"), S("struct s *next; int n[];")));
}

static void other_layout(void **state)
{
	const char *dir = *state;

	assert_error(check(dir, S("int a;"), S("int a; int b;")), SUTURE_ERROR_REFUSED,
		"x.c: the fix changes struct s: member b is new");
	/* into padding: no size tells */
	assert_error(check(dir, S("char a; int b;"), S("char a; char c; int b;")),
		SUTURE_ERROR_REFUSED, "struct s: member c takes the place of b");
	assert_error(check(dir, S("int b; char a;"), S("int b; char a; char c;")),
		SUTURE_ERROR_REFUSED, "struct s: member c is new");
	assert_error(check(dir, S("int a; int b;"), S("int a;")), SUTURE_ERROR_REFUSED,
		"member b is removed");
	assert_error(check(dir, S("int a;"), S("short a;")), SUTURE_ERROR_REFUSED,
		"member a has 2 bytes instead of 4");
	assert_error(check(dir, S("int a[4];"), S("int a[8];")), SUTURE_ERROR_REFUSED,
		"member a has 32 bytes instead of 16");
	assert_error(check(dir, S("int a : 3; int b : 4;"), S("int a : 4; int b : 4;")),
		SUTURE_ERROR_REFUSED, "member a has 4 bits instead of 3");
	assert_error(check(dir, S("int a;"), "struct s { int a; } __attribute__((aligned(64))) v;"),
		SUTURE_ERROR_REFUSED, "64 bytes instead of 4");
	assert_error(check(dir, "union u { int a; } v;", "union u { int a; long b; } v;"),
		SUTURE_ERROR_REFUSED, "union u: member b is new");
	assert_error(check(dir, "enum e { A, B } v;", "enum e { A, C, B } v;"),
		SUTURE_ERROR_REFUSED, "enum e: B is 2 instead of 1");
}

static void types_without_a_name(void **state)
{
	assert_error(check(*state, "typedef struct { int a; } t; t v;",
			     "typedef struct { long a; } t; t v;"),
		SUTURE_ERROR_REFUSED, "typedef t: member a has 8 bytes");
	assert_error(check(*state, S("int n; struct { char c; int a; } in; long end;"),
			     S("int n; struct { char c; char d; int a; } in; long end;")),
		SUTURE_ERROR_REFUSED, "struct s: in: member d takes the place of a");
	assert_error(check(*state, S("union { int a; short b; };"),
			     S("union { int a; short b; short c; };")),
		SUTURE_ERROR_REFUSED, "struct s: (without a name): member c is new");
}

static void other_forms_of_debug_information(void **state)
{
	static const char *const flags[] = {"-gdwarf-4", "-gdwarf-5 -gz", "-g -O2 -fPIC"};

	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
		assert_ok(check_with(*state, flags[i], S("int a : 2;"), S("int a : 2;")));
		assert_error(check_with(*state, flags[i], S("int a : 2; int b : 5;"),
				     S("int a : 2; int c : 1; int b : 5;")),
			SUTURE_ERROR_REFUSED, "struct s: member c takes the place of b");
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_setup, scratch_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(same_layout),
		TEST(other_layout),
		TEST(types_without_a_name),
		TEST(other_forms_of_debug_information),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
