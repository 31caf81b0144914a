/* SPDX-License-Identifier: Apache-2.0 */
/* Targets of every kind: how references are bound follows from how the target was linked. */
#include "fix.h"

#define HEAD                                                             \
	"#include <stdio.h>\n#include <string.h>\n#include <stdlib.h>\n" \
	"#define NI __attribute__((noinline))\nint sink(int, ...);\n"
#define REST                                                                                      \
	{                                                                                         \
		"rest.c",                                                                         \
			"#include <stdlib.h>\n__thread int rest_tls = 3;\nint entry(int);\n"      \
			"int rest_global = 4; int NI_sink(int x) { return x; }\n"                 \
			"int sink(int x, ...) { return x + rest_tls; }\n"                         \
			"int main(int c, char **v) { (void)v; return entry(c) + rest_global; }\n" \
	}
#define ENTRY(body)	    "int NI entry(int x) { " body " }\n"
#define UNIT(before, after) .own_build = true, .files = {REST, {"unit.c", HEAD before, HEAD after}}

static const char *const kinds[][2] = {
	{"-O2", ""},
	{"-O2 -fPIE", "-pie -Wl,-z,now"},
	{"-O2 -fPIE -fno-plt", "-pie"},
	{"-O2 -fno-pie", "-no-pie"},
	{"-O2 -fno-pie -fcf-protection", "-no-pie -Wl,-z,ibt"},
	{"-O2 -fno-pie", "-no-pie -static"},
	{"-O2 -fPIE", "-static-pie"},
	{"-O2 -fPIE -fno-plt", "-static-pie"},
	{"-O2 -fPIE", "-pie -fuse-ld=lld"},
	{"-O2 -fPIE -fno-plt", "-pie -fuse-ld=gold"},
	{"-O0 -fno-pie", "-no-pie -fuse-ld=lld"},
};
#define N_KINDS (sizeof(kinds) / sizeof(kinds[0]))

static enum patch_symbol_kind kind_of(const struct patch *patch, const char *name)
{
	const struct patch_symbol *s = fix_symbol(patch, name);

	if (!s)
		fail_msg("no symbol %s", name);
	return s->kind;
}

/* Known and new functions, data, thread-local variables, libc's. */
static void programs(void **state)
{
	(void)state;
	for (size_t i = 0; i < N_KINDS; i++) {
		struct patch *patch;
		bool is_static = strstr(kinds[i][1], "static");

		FIX_BUILDS(&patch, .flags = kinds[i][0], .link = kinds[i][1],
			UNIT("extern __thread int rest_tls; static __thread int own_tls;\n"
			     "extern int rest_global; static int NI local(int x) { return sink(x, 4); }\n" ENTRY(
				     "own_tls += rest_tls; memset(&rest_global, x, 2);"
				     " return local(x) + puts(\"old\");"),
				"extern __thread int rest_tls; static __thread int own_tls;\n"
				"extern int rest_global; static int NI local(int x) { return sink(x, 4); }\n" ENTRY(
					"own_tls -= rest_tls; memset(&rest_global, x, 3);"
					" fputs(\"new\", stderr); return local(x) + puts(\"fix\")"
					" + atoi(\"1\");")));
		assert_string_equal(fix_replaced(patch), "entry");
		assert_int_equal(kind_of(patch, "local"), PATCH_SYMBOL_ADDRESS);
		assert_int_equal(kind_of(patch, "rest_global"), PATCH_SYMBOL_ADDRESS);
		assert_int_equal(kind_of(patch, "rest_tls"), PATCH_SYMBOL_TLS);
		assert_int_equal(kind_of(patch, "own_tls"), PATCH_SYMBOL_TLS);
		assert_int_not_equal(
			fix_symbol(patch, "own_tls")->value, fix_symbol(patch, "rest_tls")->value);
		assert_int_equal(kind_of(patch, "puts"),
			is_static ? PATCH_SYMBOL_ADDRESS : PATCH_SYMBOL_DYNAMIC);
		assert_true(patch->images.n == 1 &&
			    patch->images.at[0].fixed == !!strstr(kinds[i][1], "no-pie"));
		vec_foreach (e, &patch->expects)
			assert_true(e->size > 0 && e->address > 0);
		assert_true(patch->expects.n >= 1);
		patch_destroy(patch);
	}
}

static void not_in_a_static_program(void **state)
{
	(void)state;
	FIX_FAILS(SUTURE_ERROR_SYMBOL, "getsid is not in the static executable", .link = "-static",
		.flags = "-O2 -fno-pie",
		UNIT("int getsid(int);\n" ENTRY("return sink(x, 1);"),
			"int getsid(int);\n" ENTRY("return sink(x, getsid(0));")));
}

/* In static programs these are resolved through the program's own IRELATIVE slots. */
static void ifunc_callee(void **state)
{
	(void)state;
	static const char *const links[] = {"-static", "-static-pie", ""};

#define IFUNC(k)                                                                                  \
	"static int a(int x) { return sink(x, 1); } static int b(int x) { return sink(x, 2); }\n" \
	"static int (*choose(void))(int) { return getenv ? a : b; }\n"                            \
	"int impl(int) __attribute__((ifunc(\"choose\")));\n"                                     \
	"size_t NI len(const char *s) { return strlen(s) + " k                                    \
	"; }\n" ENTRY("return impl(x) + " k " + len(\"1\");")
	for (size_t i = 0; i < 3; i++) {
		struct patch *patch;

		FIX_BUILDS(&patch, .link = links[i], .flags = i ? "-O2 -fPIE" : "-O2 -fno-pie",
			UNIT(IFUNC("1"), IFUNC("2")));
		const struct patch_symbol *s = fix_symbol(patch, "impl");
		assert_int_equal(s->kind, PATCH_SYMBOL_ADDRESS);
		assert_int_equal(s->elf_type, STT_GNU_IFUNC);
		s = fix_symbol(patch, "strlen");
		assert_int_equal(s->kind, i == 2 ? PATCH_SYMBOL_DYNAMIC : PATCH_SYMBOL_ADDRESS);
		if (i != 2)
			assert_int_equal(s->elf_type, STT_GNU_IFUNC);
		patch_destroy(patch);
	}
}

static void shared_library(void **state)
{
	(void)state;
#define LIBRARY(k)                                                                              \
	"__thread int tls; static __thread int own; int global; static int local;\n"            \
	"__attribute__((visibility(\"hidden\"))) int NI hidden(int x) { return sink(x, 1); }\n" \
	"int NI exported(int x) { return sink(x, " k "); }\n"                                   \
	"int (*pointer)(int);\n" ENTRY(                                                         \
		"tls += x; own += x; global += x; local += x; pointer = exported;"              \
		" return exported(x) + hidden(x) + " k ";")
	static const char *const flags[] = {
		"-O2 -fPIC", "-O2 -fPIC -fno-plt", "-O2 -fPIC -mtls-dialect=gnu2"};

	for (size_t i = 0; i < 3; i++) {
		struct patch *patch;

		FIX_BUILDS(&patch, .flags = flags[i], .link = "-shared -Wl,-soname,libx.so.1",
			UNIT(LIBRARY("1"), LIBRARY("2")));
		assert_string_equal(patch->images.at[0].name, "libx.so.1");
		assert_string_equal(fix_replaced(patch), "exported entry");
		assert_int_equal(kind_of(patch, "global"), PATCH_SYMBOL_DYNAMIC);
		assert_int_equal(kind_of(patch, "local"), PATCH_SYMBOL_ADDRESS);
		assert_int_equal(kind_of(patch, "tls"), PATCH_SYMBOL_TLS_DYNAMIC);
		assert_int_equal(kind_of(patch, "own"), PATCH_SYMBOL_TLS);
		assert_int_equal(kind_of(patch, "hidden"), PATCH_SYMBOL_ADDRESS);
		/* Interposable: its calls and its address go through the dynamic linker. */
		vec_foreach (r, &fix_section(patch, ".text.entry")->relocs) {
			const struct patch_symbol *s = &patch->symbols.at[r->symbol];

			if (!strcmp(s->name, "exported"))
				assert_int_equal(s->kind, PATCH_SYMBOL_DYNAMIC);
		}
		patch_destroy(patch);
	}
}

static void symbolic_library(void **state)
{
	(void)state;
	struct patch *patch;

	FIX_BUILDS(&patch, .flags = "-O2 -fPIC", .link = "-shared -Wl,-Bsymbolic",
		UNIT(LIBRARY("1"), LIBRARY("2")));
	assert_int_equal(kind_of(patch, "global"), PATCH_SYMBOL_ADDRESS);
	patch_destroy(patch);
}

static void copy_relocated(void **state)
{
	(void)state;
	struct patch *patch;

	FIX_BUILDS(&patch, .flags = "-O2 -fno-pie", .link = "-no-pie",
		UNIT(ENTRY("return fputs(\"a\", stdout);"), ENTRY("return fputs(\"b\", stdout);")));
	const struct patch_symbol *s = fix_symbol(patch, "stdout");
	assert_int_equal(s->kind, PATCH_SYMBOL_ADDRESS);
	patch_destroy(patch);
}

static void weak_undefined(void **state)
{
	(void)state;
#define WEAK(k)                                                 \
	"extern int maybe(int) __attribute__((weak));\n" ENTRY( \
		"return maybe ? maybe(x) : sink(x, " k ");")
	static const char *const links[] = {"", "-static"};

	for (size_t i = 0; i < 2; i++) {
		struct patch *patch;

		FIX_BUILDS(&patch, .link = links[i], .flags = i ? "-O2 -fno-pie" : "-O2",
			UNIT(WEAK("1"), WEAK("2")));
		const struct patch_symbol *s = fix_symbol(patch, "maybe");
		assert_int_equal(s->kind, PATCH_SYMBOL_DYNAMIC);
		assert_true(s->weak);
		patch_destroy(patch);
	}
}

static void separate_debug_file(void **state)
{
	(void)state;
	struct patch *patch;

	FIX_BUILDS(&patch, .flags = "-O2 -g",
		.after_link = "objcopy --only-keep-debug target target.debug && strip target && "
			      "objcopy --add-gnu-debuglink=target.debug target",
		UNIT("static int NI local(int x) { return sink(x, 1); }\n" ENTRY(
			     "return local(x) + 1;"),
			"static int NI local(int x) { return sink(x, 2); }\n" ENTRY(
				"return local(x) + 1;")));
	assert_string_equal(fix_replaced(patch), "local");
	patch_destroy(patch);
}

static void no_local_symbols(void **state)
{
	(void)state;
	/* entry calls it and is matched: the call tells where it is. */
	struct patch *patch;

	FIX_BUILDS(&patch, .after_link = "strip -x target",
		UNIT("static int NI local(int x) { return sink(x, 1); }\n" ENTRY(
			     "return local(x) + 1;"),
			"static int NI local(int x) { return sink(x, 2); }\n" ENTRY(
				"return local(x) + 1;")));
	assert_string_equal(fix_replaced(patch), "local");
	patch_destroy(patch);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(programs),
		cmocka_unit_test(not_in_a_static_program),
		cmocka_unit_test(ifunc_callee),
		cmocka_unit_test(shared_library),
		cmocka_unit_test(symbolic_library),
		cmocka_unit_test(copy_relocated),
		cmocka_unit_test(weak_undefined),
		cmocka_unit_test(separate_debug_file),
		cmocka_unit_test(no_local_symbols),
	};
	return cmocka_run_group_tests(tests, fix_setup, fix_teardown);
}
