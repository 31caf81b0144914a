/* SPDX-License-Identifier: Apache-2.0 */
/* Variables and constants: what is new is carried, what exists stays what it is, or is refused. */
#include "fix.h"

#define HEAD "#include <stdio.h>\n#define NI __attribute__((noinline))\nint sink(int, ...);\n"
#define REST                                                                                       \
	{                                                                                          \
		"rest.c", "int entry(int);\nint shared = 5;\nint sink(int x, ...) { return x; }\n" \
			  "int main(int c, char **v) { (void)v; return entry(c); }\n"              \
	}
#define UNIT(before, after) .files = {REST, {"unit.c", HEAD before, HEAD after}}

static const char *const compilers[] = {"gcc", "clang"};
#define FOR_COMPILERS(cc)                                                               \
	for (const char *const *cc##_ = compilers, *cc; cc##_ < compilers + 2; cc##_++) \
		if ((cc = *cc##_) && have_cc(cc))

static const struct patch_reloc *reloc_to(
	const struct patch *patch, const char *section, const char *symbol)
{
	const struct patch_section *s = fix_section(patch, section);

	if (!s)
		fail_msg("no section %s", section);
	vec_foreach (r, &s->relocs)
		if (!strcmp(patch->symbols.at[r->symbol].name, symbol))
			return r;
	return NULL;
}

static void new_variables(void **state)
{
	(void)state;
	FOR_COMPILERS(cc)
	{
		struct patch *patch;

		FIX_BUILDS(&patch, .cc = cc,
			UNIT("int NI entry(int x) { return sink(x) + 1; }\n",
				"static int calls = 7; int hits; extern int shared;\n"
				"static const char *const names[] = {\"new one\", \"two\"};\n"
				"int NI entry(int x) { static long last; last += x; hits++; shared++;"
				" return sink(x, names[x]) + calls++ + last; }\n"));
		assert_string_equal(fix_replaced(patch), "entry");
		const struct patch_section *data = fix_section(patch, ".data.calls");
		assert_non_null(data);
		assert_int_equal(data->flags, SHF_ALLOC | SHF_WRITE);
		assert_int_equal(data->data[0], 7);
		const struct patch_section *bss = fix_section(patch, ".bss.hits");
		assert_non_null(bss);
		assert_int_equal(bss->type, SHT_NOBITS);
		assert_true(fix_holds(patch, "new one"));
		const struct patch_symbol *shared = fix_symbol(patch, "shared");
		assert_int_equal(shared->kind, PATCH_SYMBOL_ADDRESS);
		assert_int_equal(shared->elf_type, STT_OBJECT);
		patch_destroy(patch);
	}
}

/* Found by those who refer to it, for the number in its name is another one. */
static void static_local_renumbered(void **state)
{
	(void)state;
#define COUNTERS(before, edit)                                                             \
	"int NI one(int x) { " before " static int count; count += x; return count; }\n"   \
	"int NI two(int x) { static int count = 9; count += x; return count " edit "; }\n" \
	"int NI entry(int x) { return two(one(x)); }\n"
	FOR_COMPILERS(cc)
	{
		struct patch *patch;

		FIX_BUILDS(&patch, .cc = cc,
			UNIT(COUNTERS("", ""),
				"static int NI zero(int x) { static int count = 1; return count += x; }\n" COUNTERS(
					"", "+ zero(x)")));
		assert_string_equal(fix_replaced(patch), "two");
		/* two's count is the image's; zero's is new. */
		size_t n = 0;
		vec_foreach (s, &patch->symbols)
			n += s->kind == PATCH_SYMBOL_ADDRESS && strstr(s->name, "count") != NULL;
		assert_int_equal(n, 1);
		patch_destroy(patch);
	}
}

static void static_local_removed(void **state)
{
	(void)state;
	FOR_COMPILERS(cc)
	FIX_FAILS(SUTURE_ERROR_REFUSED, "has no counterpart", .cc = cc,
		UNIT("int NI entry(int x) { static int count; return count += sink(x); }\n",
			"int NI entry(int x) { return sink(x) + 1; }\n"));
}

static void static_renamed(void **state)
{
	(void)state;
	FIX_FAILS(SUTURE_ERROR_REFUSED, "variable state disappeared and status appeared",
		UNIT("static int state; int NI entry(int x) { return state += sink(x); }\n",
			"static int status; int NI entry(int x) { return status += sink(x, 1); }\n"));
}

static void existing_data_changed(void **state)
{
	(void)state;
#define TABLE(init) init " int NI entry(int x) { return sink(x, &table) + *(int *)&table; }\n"
	FIX_FAILS(SUTURE_ERROR_REFUSED, "initial value of table changed",
		UNIT(TABLE("int table = 1;"), TABLE("int table = 2;")));
	FIX_FAILS(SUTURE_ERROR_REFUSED,
		"initial value of table changed (.bss.table to .data.table)",
		UNIT(TABLE("static int table;"), TABLE("static int table = 2;")));
	FIX_FAILS(SUTURE_ERROR_REFUSED, "size of table changed from 16 to 20",
		UNIT(TABLE("static int table[4] = {1};"), TABLE("static int table[5] = {1};")));
	FIX_FAILS(SUTURE_ERROR_REFUSED, "initial value of table changed",
		UNIT("int NI f(void) { return 1; } int NI g(void) { return 2; }\n" TABLE(
			     "int (*table)(void) = f;"),
			"int NI f(void) { return 1; } int NI g(void) { return 2; }\n" TABLE(
				"int (*table)(void) = g;")));
	FIX_FAILS(SUTURE_ERROR_REFUSED, "initial value of table changed",
		UNIT(TABLE("const char *table = \"a\";"), TABLE("const char *table = \"b\";")));
	FIX_FAILS(SUTURE_ERROR_REFUSED, "constant table changed, and other source files",
		UNIT(TABLE("const int table[4] = {1};"), TABLE("const int table[4] = {2};")));
}

static void constant_changed(void **state)
{
	(void)state;
#define LIMITS(v)                                                       \
	"static const int limits[4] = {1, 2, " v ", 4};\n"              \
	"static const int others[4] = {1, 2, 3, 5};\n"                  \
	"int NI first(int x) { return sink(x) + limits[x]; }\n"         \
	"int NI second(int x) { return sink(x, 1) + limits[x + 1]; }\n" \
	"int NI third(int x) { return sink(x, 1) + others[x + 1]; }\n"  \
	"int NI entry(int x) { return first(x) + second(x) + third(x); }\n"
	FOR_COMPILERS(cc)
	{
		struct patch *patch;

		FIX_BUILDS(&patch, .cc = cc, UNIT(LIMITS("3"), LIMITS("30")));
		assert_string_equal(fix_replaced(patch), "first second");
		/* Clang has such constants merged, without a name. */
		if (!strcmp(cc, "gcc")) {
			assert_string_equal(fix_function(patch, "first")->reason,
				"refers to changed constant limits");
			assert_int_equal(fix_section(patch, ".rodata.limits")->data[8], 30);
		}
		patch_destroy(patch);
	}
}

static void constant_pointed_to(void **state)
{
	(void)state;
#define OPS(v)                                                         \
	"struct ops { int n; const char *s; };\n"                      \
	"static const struct ops ops = {" v ", \"name\"};\n"           \
	"static const struct ops *current = &ops;\n"                   \
	"int NI set(const struct ops *p) { current = p; return 0; }\n" \
	"int NI entry(int x) { return sink(x) + current->n + set(&ops); }\n"
	FIX_FAILS(SUTURE_ERROR_REFUSED, "constant ops changed, and variable current points to it",
		UNIT(OPS("1"), OPS("2")));
}

/* An unchanged constant stays the image's, a changed function's address its old one. */
static void addresses_keep_their_identity(void **state)
{
	(void)state;
#define POINTERS(k)                                                     \
	"static const int key[2] = {1, 2};\n"                           \
	"static int NI handler(int x) { return sink(x, 5) * " k "; }\n" \
	"int (*chosen)(int);\n"                                         \
	"int NI entry(int x) { chosen = handler; sink(x, key);"         \
	" return handler(x) + (chosen == handler) + " k "; }\n"
	static const char *const flags[] = {"-O2", "-O2 -fPIC", "-O2 -fno-pie", "-O0"};

	for (size_t i = 0; i < 4; i++) {
		struct patch *patch;

		FIX_BUILDS(&patch, .flags = flags[i], .link = i == 2 ? "-no-pie" : NULL,
			UNIT(POINTERS("3"), POINTERS("4")));
		assert_string_equal(fix_replaced(patch), "handler entry");
		const struct patch_function *f = fix_function(patch, "handler");
		bool old = false, new = false;
		vec_foreach (r, &fix_section(patch, ".text.entry")->relocs) {
			const struct patch_symbol *s = &patch->symbols.at[r->symbol];

			if (strcmp(s->name, "handler"))
				continue;
			old |= s->kind == PATCH_SYMBOL_ADDRESS && s->value == f->address;
			new |= s->kind == PATCH_SYMBOL_PAYLOAD;
		}
		assert_true(old && new);
		assert_int_equal(fix_symbol(patch, "key")->kind, PATCH_SYMBOL_ADDRESS);
		assert_null(fix_section(patch, ".rodata.key"));
		patch_destroy(patch);
	}
}

static void common_symbols(void **state)
{
	(void)state;
	struct patch *patch;

	FIX_BUILDS(&patch, .flags = "-O2 -fcommon",
		UNIT("int common[8]; int NI entry(int x) { return common[x] += sink(x); }\n",
			"int common[8]; int NI entry(int x) { return common[x] -= sink(x); }\n"));
	assert_int_equal(fix_symbol(patch, "common")->kind, PATCH_SYMBOL_ADDRESS);
	patch_destroy(patch);
	FIX_FAILS(SUTURE_ERROR_REFUSED, "size of common changed", .flags = "-O2 -fcommon",
		UNIT("int common[8]; int NI entry(int x) { return common[x] += sink(x); }\n",
			"int common[9]; int NI entry(int x) { return common[x] -= sink(x); }\n"));
}

/* Two statics of one name in different scopes of one function. */
static void same_name_in_two_scopes(void **state)
{
	(void)state;
#define SCOPES(k)                                                                     \
	"int NI entry(int x) { if (x > " k ") { static int n; return n += sink(x); }" \
	" static int n = 4; return n -= sink(x, 1); }\n"
	FOR_COMPILERS(cc)
	{
		struct patch *patch;

		FIX_BUILDS(&patch, .cc = cc, UNIT(SCOPES("3"), SCOPES("4")));
		assert_non_null(reloc_to(patch, ".text.entry", "sink"));
		size_t n = 0;
		vec_foreach (s, &patch->symbols)
			n += s->kind == PATCH_SYMBOL_ADDRESS && strcmp(s->name, "sink") != 0;
		assert_int_equal(n, 2);
		patch_destroy(patch);
	}
}

/* The same size and content: only the line of declaration tells. */
#define TWINS(first, third, k)                                \
	"int NI entry(int x) { " first "\n"                   \
	" if (x == 1) {\n"                                    \
	"  static int n; return n += sink(x, " k ", &n); }\n" \
	" " third "\n"                                        \
	" if (x == 2) {\n"                                    \
	"  static int n; return n -= sink(x, " k ", &n); }\n" \
	" return 0; }\n"
#define THIRD "if (x < 0) { static int n; return n *= sink(x, &n); }"

/* `is_new`: what clang, which numbers in order, calls the new one; NULL: there is none. */
static void check_twins(const char *cc, const char *after, const char *is_new)
{
	struct patch *patch;
	size_t old = 0;

	FIX_BUILDS(&patch, .cc = cc, .files = {REST, {"unit.c", HEAD TWINS("", "", "5"), after}});
	vec_foreach (s, &patch->symbols) {
		if (s->elf_type != STT_OBJECT || !strchr(s->name, 'n'))
			continue;
		old += s->kind == PATCH_SYMBOL_ADDRESS;
		if (s->kind != PATCH_SYMBOL_PAYLOAD)
			continue;
		assert_non_null(is_new);
		if (!strcmp(cc, "clang"))
			assert_string_equal(s->name, is_new);
	}
	assert_int_equal(old, 2);
	patch_destroy(patch);
}

static void twins_in_two_scopes(void **state)
{
	(void)state;
	FOR_COMPILERS(cc)
	{
		check_twins(cc, HEAD TWINS("", "", "6"), NULL);
		check_twins(cc, HEAD TWINS("", THIRD, "6"), "entry.n.1");
		check_twins(cc, HEAD TWINS(THIRD, "", "6"), "entry.n");
		/* Lines that moved tell nothing. */
		FIX_FAILS(SUTURE_ERROR_REFUSED, "has no counterpart", .cc = cc,
			UNIT(TWINS("", "", "5"), "\n\n\n" TWINS("", "", "6")));
	}
}

/* One function loses its count, another one gets one: they are not the same, wherever inlined. */
static void static_of_another_function(void **state)
{
	(void)state;
#define SCOPED(one, two)                           \
	"static inline int f(int x) { " one " }\n" \
	"static inline int g(int x) { " two " }\n" \
	"int NI entry(int x) { return f(x) * 3 + g(x); }\n"
	FIX_FAILS(SUTURE_ERROR_REFUSED, "has no counterpart",
		UNIT(SCOPED("static int n; return n += sink(x, &n);", "return sink(x);"),
			SCOPED("return sink(x, 1);", "static int n; return n += sink(x, 2, &n);")));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(new_variables),
		cmocka_unit_test(static_local_renumbered),
		cmocka_unit_test(static_local_removed),
		cmocka_unit_test(static_renamed),
		cmocka_unit_test(existing_data_changed),
		cmocka_unit_test(constant_changed),
		cmocka_unit_test(constant_pointed_to),
		cmocka_unit_test(addresses_keep_their_identity),
		cmocka_unit_test(common_symbols),
		cmocka_unit_test(same_name_in_two_scopes),
		cmocka_unit_test(twins_in_two_scopes),
		cmocka_unit_test(static_of_another_function),
	};
	return cmocka_run_group_tests(tests, fix_setup, fix_teardown);
}
