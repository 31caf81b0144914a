/* SPDX-License-Identifier: Apache-2.0 */
/* What cannot be patched into a running process is refused by name. */
#include "fix.h"

#define HEAD "#include <stdio.h>\n#define NI __attribute__((noinline))\nint sink(int, ...);\n"
#define REST                                                                          \
	{                                                                             \
		"rest.c", "int entry(int);\nint sink(int x, ...) { return x; }\n"     \
			  "int main(int c, char **v) { (void)v; return entry(c); }\n" \
	}
#define UNIT(before, after) .files = {REST, {"unit.c", HEAD before, HEAD after}}
#define ENTRY(body)	    "int NI entry(int x) { " body " }\n"

static void constructors(void **state)
{
	(void)state;
#define CTOR(k) \
	"static int v; __attribute__((constructor)) static void setup(void) { v = sink(" k "); }\n"
	FIX_FAILS(SUTURE_ERROR_REFUSED, "constructor setup changed",
		UNIT(CTOR("1") ENTRY("return v;"), CTOR("2") ENTRY("return v;")));
	FIX_FAILS(SUTURE_ERROR_REFUSED, "constructor or destructor was added",
		UNIT("static int v; " ENTRY("return v += sink(x);"),
			CTOR("2") ENTRY("return v += sink(x);")));
	FIX_FAILS(SUTURE_ERROR_REFUSED, "constructor or destructor was added, removed",
		UNIT(CTOR("1") ENTRY("return v += sink(x);"),
			"static int v; " ENTRY("return v += sink(x);")));
}

static void thread_local_variables(void **state)
{
	(void)state;
#define TLS(what) what " " ENTRY("return v += sink(x);")
	FIX_FAILS(SUTURE_ERROR_REFUSED, "v is a new thread-local variable",
		UNIT(ENTRY("return sink(x, 1);"), TLS("static __thread int v;")));
	FIX_FAILS(SUTURE_ERROR_REFUSED, "thread-local variable v changed",
		UNIT(TLS("static __thread int v = 1;"), TLS("static __thread int v = 2;")));
}

static void ifunc_resolver(void **state)
{
	(void)state;
#define IFUNC(k)                                                                                  \
	"static int a(int x) { return sink(x, 1); } static int b(int x) { return sink(x, 2); }\n" \
	"static int (*choose(void))(int) { return " k " ? a : b; }\n"                             \
	"int impl(int) __attribute__((ifunc(\"choose\")));\n" ENTRY("return impl(x);")
	FIX_FAILS(SUTURE_ERROR_REFUSED, "the resolver of IFUNC", UNIT(IFUNC("1"), IFUNC("0")));
}

static void too_small(void **state)
{
	(void)state;
	/* Followed at once by another function, without padding between. */
#define SMALL(k)                                                                                 \
	"#define TIGHT __attribute__((noinline, section(\".text.tight\"), aligned(1), noipa))\n" \
	"void TIGHT tiny(void) { " k " }\n"                                                      \
	"int TIGHT next(int x) { return sink(x, 3) + 1; }\n" ENTRY("tiny(); return next(x);")
	FIX_FAILS(SUTURE_ERROR_TOO_SMALL, "tiny has 1 bytes", .flags = "-Os",
		UNIT(SMALL(""), SMALL("sink(1);")));
}

static void own_padding_is_used(void **state)
{
	(void)state;
	struct patch *patch;

	FIX_BUILDS(&patch,
		UNIT("int NI tiny(void) { return 7; }\n" ENTRY("return sink(x) + 2;"),
			"int NI tiny(void) { return sink(8); }\n" ENTRY("return sink(x) + 2;")));
	patch_destroy(patch);
	FIX_BUILDS(&patch,
		UNIT("void NI tiny(void) { }\n" ENTRY("tiny(); return sink(x) + 2;"),
			"void NI tiny(void) { sink(8); }\n" ENTRY("tiny(); return sink(x) + 2;")));
	struct patch_function *f = fix_function(patch, "tiny");
	assert_non_null(f);
	/* The detour, and the rest of the NOP that it cuts through. */
	assert_in_range(f->size, 6, 16);
	patch_destroy(patch);
}

static void list_sections(void **state)
{
	(void)state;
#define LIST(entries)                                                                     \
	"struct cmd { const char *name; int n; };\n"                                      \
	"#define CMD(v) static const struct cmd cmd_##v"                                  \
	" __attribute__((section(\"commands\"), used)) = {#v, 1};\n"                      \
	"extern const struct cmd __start_commands[], __stop_commands[];\n" entries ENTRY( \
		"return sink(x) + (__stop_commands - __start_commands);")
	FIX_FAILS(SUTURE_ERROR_REFUSED, "cmd_two in section commands is new",
		UNIT(LIST("CMD(one)\n"), LIST("CMD(one)\nCMD(two)\n")));
}

static void folded_functions(void **state)
{
	(void)state;
	if (system("command -v ld.gold >/dev/null"))
		skip();
	FIX_FAILS(SUTURE_ERROR_REFUSED, "folded by the linker",
		.link = "-fuse-ld=gold -Wl,--icf=all", .flags = "-O2 -ffunction-sections",
		UNIT("int NI one(int x) { return sink(x, 77) * 3; }\n"
		     "int NI two(int x) { return sink(x, 77) * 3; }\n" ENTRY(
			     "return one(x) + two(x) + 1;"),
			"int NI one(int x) { return sink(x, 78) * 3; }\n"
			"int NI two(int x) { return sink(x, 77) * 3; }\n" ENTRY(
				"return one(x) + two(x) + 1;")));
}

static void no_build_id(void **state)
{
	(void)state;
	FIX_FAILS(SUTURE_ERROR_UNSUPPORTED, "no build-id", .link = "-Wl,--build-id=none",
		UNIT(ENTRY("return sink(x) + 2;"), ENTRY("return sink(x) + 3;")));
}

static void link_time_optimisation(void **state)
{
	(void)state;
	FIX_FAILS(SUTURE_ERROR_UNSUPPORTED, "-flto", .rebuild = "-O2 -flto",
		UNIT(ENTRY("return sink(x) + 2;"), ENTRY("return sink(x) + 3;")));
}

static void code_models(void **state)
{
	(void)state;
	FIX_FAILS(SUTURE_ERROR_UNSUPPORTED, "R_X86_64_GOTPC64", .flags = "-O2 -mcmodel=large -fPIC",
		UNIT(ENTRY("return sink(x) + 2;"), ENTRY("return sink(x) + 3;")));
}

static void assembler_code(void **state)
{
	(void)state;
#define ASM(k)                                                        \
	"int odd(int); __asm__(\".text\\nodd: mov %edi,%eax; add $" k \
	",%eax; ret\");\n" ENTRY("return odd(sink(x));")
	FIX_FAILS(SUTURE_ERROR_UNSUPPORTED, "assembler code", UNIT(ASM("1"), ASM("2")));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(constructors),
		cmocka_unit_test(thread_local_variables),
		cmocka_unit_test(ifunc_resolver),
		cmocka_unit_test(too_small),
		cmocka_unit_test(own_padding_is_used),
		cmocka_unit_test(list_sections),
		cmocka_unit_test(folded_functions),
		cmocka_unit_test(no_build_id),
		cmocka_unit_test(link_time_optimisation),
		cmocka_unit_test(code_models),
		cmocka_unit_test(assembler_code),
	};
	return cmocka_run_group_tests(tests, fix_setup, fix_teardown);
}
