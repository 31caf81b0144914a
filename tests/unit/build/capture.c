/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Small programs, their recorded builds, and fixes: which units are compiled, from what, and what
 * is refused. The compiler is the real one.
 */
#include <ctype.h>

#include "base/log.h"
#include "build/unit.h"
#include "elf/image.h"
#include "scratch.h"

/* One run of capture_units(). */
struct run {
	struct suture *ctx;
	struct units units;
	struct image *image;
};

static void run_init(struct run *run)
{
	*run = (struct run){.ctx = suture_create()};
	assert_non_null(run->ctx);
}

static void run_deinit(struct run *run)
{
	units_deinit(&run->units);
	image_close(run->image);
	suture_destroy(run->ctx);
}
#define _cleanup_run_ __attribute__((cleanup(run_deinit)))

#define ENTRY(command, file) \
	"{\"directory\": \"@\", \"command\": \"" command "\", \"file\": \"" file "\"}"

/* The recorded build; "@" not in front of a letter is the directory. */
static void record(const char *dir, const char *entries)
{
	char text[8192] = "[", *p = text + 1;

	for (const char *e = entries; *e; e++)
		p = *e == '@' && !isalpha(e[1]) ? stpcpy(p, dir) : (*p = *e, p + 1);
	strcpy(p, "]");
	scratch_write(dir, "compile_commands.json", text);
}

/* The fix from what is below old/ to what is below new/ (as diff -ruN makes it), then capture. */
static struct suture_error *capture(
	const char *dir, const char *fix, const char *target, struct run *run)
{
	scratch_write(dir, "fix.diff", fix);
	struct capture_options options = {
		.diff = scratch_path(dir, "fix.diff"),
		.compdb = dir,
		.targets = &run->image,
	};

	if (target) {
		assert_ok(image_open(scratch_path(dir, target), &run->image));
		options.n_targets = 1;
	}
	return capture_units(run->ctx, &options, &run->units);
}

/* The source names of the units, base names, in order. */
static void assert_units(const struct run *run, const char *want)
{
	char text[1024] = "";

	vec_foreach (unit, &run->units.v) {
		strcat(strcat(text, text[0] ? " " : ""), path_basename(unit->source));
		assert_true(!unit->before || path_is_file(unit->before));
		assert_true(!unit->after || path_is_file(unit->after));
	}
	assert_string_equal(text, want);
}

static void assert_note(const struct run *run, const char *text)
{
	vec_foreach (note, &run->units.notes) {
		if (strstr(*note, text))
			return;
	}
	fail_msg("no note with \"%s\"", text);
}

/* Bytes of one section are the same in both objects of the unit. */
static bool same_section(const char *dir, const struct unit *unit, const char *section)
{
	_cleanup_free_ char *line = NULL;

	assert_true(asprintf(&line,
			    "objcopy -O binary -j %s --set-section-flags %s=alloc %s A && "
			    "objcopy -O binary -j %s --set-section-flags %s=alloc %s B && "
			    "test -s A && cmp -s A B",
			    section, section, unit->before, section, section, unit->after) > 0);
	return scratch_run(dir, line) == 0;
}

/* ---- programs ---- */

static const char a_c[] = "#include \"h.h\"\n"
			  "extern void fail(const char *, int);\n"
			  "#define check(x) ((x) ? (void)0 : fail(__FILE__, __LINE__))\n"
			  "int f(int x)\n"
			  "{\n"
			  "	return x * K;\n"
			  "}\n"
			  "\n"
			  "int g(int x)\n"
			  "{\n"
			  "	check(x > 3);\n"
			  "	return x;\n"
			  "}\n";

#define FIX_A                                                                  \
	"--- a/src/a.c\n+++ b/src/a.c\n@@ -4,4 +4,6 @@ x\n int f(int x)\n {\n" \
	"+	if (x == 7)\n+		return 0;\n 	return x * K;\n }\n"
#define FIX_H "--- a/src/h.h\n+++ b/src/h.h\n@@ -1 +1 @@\n-#define K 4\n+#define K 5\n"

static const char build_entries[] = /* */
	ENTRY("gcc -g -O2 -c src/a.c -o a.o", "src/a.c") "," ENTRY("gcc -g -O2 -c src/b.c -o b.o",
		"src/b.c") "," ENTRY("gcc -g -O2 -c src/c.c -o c.o", "src/c.c");

static int program_setup(void **state)
{
	if (scratch_setup(state))
		return -1;
	scratch_write(*state, "src/a.c", a_c);
	scratch_write(*state, "src/h.h", "#define K 4\n");
	scratch_write(*state, "src/b.c", "#include \"sub/../h.h\"\nint b(void) { return K; }\n");
	scratch_write(*state, "src/c.c",
		"int b(void), f(int), g(int); void fail(const char *f, int l) { (void)f; (void)l; }\n"
		"int main(void) { return b() + f(1) + g(4); }\n");
	scratch_write(*state, "src/sub/README", "nothing\n");
	record(*state, build_entries);
	return 0;
}

static void link_target(const char *dir)
{
	assert_int_equal(scratch_run(dir, "gcc -g -O2 -c src/a.c && gcc -g -O2 -c src/b.c && "
					  "gcc -g -O2 -c src/c.c && gcc -o prog a.o b.o c.o"),
		0);
}

/* ---- what is compiled ---- */

static void one_source(void **state)
{
	_cleanup_run_ struct run run;
	_cleanup_free_ char *work = NULL;

	run_init(&run);
	assert_ok(capture(*state, FIX_A, NULL, &run));
	assert_units(&run, "a.c");
	struct unit *unit = &run.units.v.at[0];
	assert_string_equal(unit->source, scratch_path(*state, "src/a.c"));
	assert_string_equal(unit->name, "src/a.c");
	assert_string_equal(unit->directory, *state);
	assert_string_equal(unit->output, "a.o");
	assert_string_equal(unit->compiler, "gcc");
	assert_false(unit->optional);
	assert_false(same_section(*state, unit, ".text.f"));
	/* __LINE__ and __FILE__ are those of the original. */
	assert_true(same_section(*state, unit, ".text.g"));
	assert_true(same_section(*state, unit, ".rodata.g.str1.1"));
	assert_true(run.units.compile_seconds > 0);
	work = strdup(run.units.work_dir);
	units_deinit(&run.units);
	assert_false(path_is_directory(work));
}

/* The whole original tree, with times. */
static char *snapshot(const char *dir)
{
	char *text;
	size_t size;

	assert_int_equal(scratch_run(dir, "find . -not -name snapshot -not -name . -printf "
					  "'%p %y %s %T@ %i\\n' | sort > snapshot"),
		0);
	assert_ok(path_read_file(scratch_path(dir, "snapshot"), 1 << 20, &text, &size));
	return text;
}

static void original_untouched(void **state)
{
	_cleanup_run_ struct run run;

	run_init(&run);
	record(*state, ENTRY("gcc -g -O2 -MD -MF a.d -save-temps -fstack-usage -c src/a.c -o a.o",
			       "src/a.c"));
	assert_int_equal(scratch_run(*state, "touch a.d a.o a.i a.su a.s"), 0);
	scratch_write(*state, "fix.diff", FIX_A);
	struct capture_options options = {
		.diff = scratch_path(*state, "fix.diff"), .compdb = *state};
	_cleanup_free_ char *before = snapshot(*state);
	assert_ok(capture_units(run.ctx, &options, &run.units));
	assert_units(&run, "a.c");
	_cleanup_free_ char *after = snapshot(*state);
	assert_string_equal(before, after);
}

static void header(void **state)
{
	_cleanup_run_ struct run run;

	run_init(&run);
	/* c.c must not even be looked at by the compiler: it could not be. */
	scratch_write(*state, "src/c.c", "#error\n");
	assert_ok(capture(*state, FIX_H, NULL, &run));
	assert_units(&run, "a.c b.c");
	assert_false(same_section(*state, &run.units.v.at[1], ".text.b"));
}

static void header_of_the_same_name(void **state)
{
	_cleanup_run_ struct run run;

	run_init(&run);
	/* b.c includes another h.h: a candidate that the compiler rules out. */
	scratch_write(*state, "other/h.h", "#define K 9\n");
	scratch_write(*state, "src/b.c", "#include <h.h>\nint b(void) { return K; }\n");
	record(*state, ENTRY("gcc -g -c src/a.c", "src/a.c") "," ENTRY(
			       "gcc -g -Iother -c src/b.c", "src/b.c"));
	assert_ok(capture(*state, FIX_H, NULL, &run));
	assert_units(&run, "a.c");
}

static void computed_and_forced_includes(void **state)
{
	_cleanup_run_ struct run run;

	run_init(&run);
	scratch_write(*state, "src/b.c", "int b(void) { return K; }\n");
	scratch_write(*state, "src/c.c", "#include HEADER\nint c(void) { return K; }\n");
	record(*state, ENTRY("gcc -include src/h.h -c src/b.c", "src/b.c") "," ENTRY(
			       "gcc -Isrc -DHEADER=\\\"<h.h>\\\" -c src/c.c", "src/c.c"));
	assert_ok(capture(*state, FIX_H, NULL, &run));
	assert_units(&run, "b.c c.c");
}

static void includes_of_macros(void **state)
{
	_cleanup_run_ struct run run;

	run_init(&run);
	/* c.c cannot be compiled: it must not be a candidate. */
	scratch_write(*state, "src/names.h", "#define OTHER <stddef.h>\n#define HDR  \"h.h\"\n");
	scratch_write(*state, "src/a.c", "#include \"names.h\"\n#include HDR\nint a = K;\n");
	scratch_write(
		*state, "src/b.c", "#define S(x) #x\n#define HB S(h.h)\n#include HB\nint b = K;\n");
	scratch_write(*state, "src/c.c", "#include \"names.h\"\n#include OTHER\n#error\n");
	assert_ok(capture(*state, FIX_H, NULL, &run));
	assert_units(&run, "a.c b.c");
}

static void build_directory_elsewhere(void **state)
{
	_cleanup_run_ struct run run;

	run_init(&run);
	/* A generated header in the build directory includes a changed one of the source. */
	scratch_write(*state, "out/sub/gen.h", "#include \"../../src/h.h\"\n");
	scratch_write(*state, "src/b.c", "#include <gen.h>\nint b(void) { return K; }\n");
	assert_int_equal(scratch_run(*state, "mkdir -p real && ln -s real link && "
					     "ln -s ../src/h.h real/alias.h"),
		0);
	scratch_write(*state, "src/c.c", "#include <alias.h>\nint c(void) { return K; }\n");
	record(*state, "{\"directory\": \"@/out\", \"command\": \"gcc -Isub -c @/src/b.c\", "
		       "\"file\": \"@/src/b.c\"},"
		       "{\"directory\": \"@/link\", \"command\": \"gcc -I@/link -c ../src/c.c\", "
		       "\"file\": \"../src/c.c\"}");
	assert_ok(capture(*state, FIX_H, NULL, &run));
	assert_units(&run, "b.c c.c");
	assert_false(same_section(*state, &run.units.v.at[0], ".text.b"));
	assert_false(same_section(*state, &run.units.v.at[1], ".text.c"));
	assert_string_equal(run.units.v.at[1].directory, scratch_path(*state, "link"));
}

static void several_compiles_of_one_source(void **state)
{
	_cleanup_run_ struct run run;

	run_init(&run);
	record(*state, ENTRY("gcc -O2 -c src/a.c -o a.o", "src/a.c") "," ENTRY(
			       "gcc -O2 -fPIC -c src/a.c -o a.lo",
			       "src/a.c") "," ENTRY("gcc -O2 -c src/a.c -o again.o", "src/a.c"));
	assert_ok(capture(*state, FIX_A, NULL, &run));
	assert_units(&run, "a.c a.c");
	assert_true(run.units.v.at[0].optional);
	assert_true(run.units.v.at[1].optional);
	/* Nothing asks for PIC: two times the same object. */
	units_deinit(&run.units);
	record(*state, ENTRY("gcc -O2 -c src/a.c -o a.o", "src/a.c") ","
		ENTRY("gcc -O2 -DPIC -c src/a.c -o a.lo", "src/a.c"));
	assert_ok(capture(*state, FIX_A, NULL, &run));
	assert_units(&run, "a.c");
	assert_false(run.units.v.at[0].optional);
}

static void files_that_come_and_go(void **state)
{
	_cleanup_run_ struct run run;

	run_init(&run);
	/* h.h goes, n.h comes, a.c is renamed. */
	assert_ok(capture(*state,
		"diff --git a/src/a.c b/src/z.c\nsimilarity index 90%\nrename from src/a.c\n"
		"rename to src/z.c\n--- a/src/a.c\n+++ b/src/z.c\n@@ -1,2 +1,2 @@\n"
		"-#include \"h.h\"\n+#include \"n.h\"\n extern void fail(const char *, int);\n"
		"--- a/src/b.c\n+++ b/src/b.c\n@@ -1,2 +1,2 @@\n-#include \"sub/../h.h\"\n"
		"+#include \"n.h\"\n int b(void) { return K; }\n"
		"--- a/src/h.h\n+++ /dev/null\n@@ -1 +0,0 @@\n-#define K 4\n"
		"--- /dev/null\n+++ b/src/n.h\n@@ -0,0 +1 @@\n+#define K 6\n",
		NULL, &run));
	assert_units(&run, "a.c b.c");
	assert_false(same_section(*state, &run.units.v.at[0], ".text.f"));
	assert_int_equal(run.units.notes.n, 0);
}

static void sources_that_come(void **state)
{
	_cleanup_run_ struct run run;

	run_init(&run);
	/* a.c calls new.c, which calls newer.c; tests/t.c is nobody's business, nor does it
	 * compile. */
	assert_ok(capture(*state,
		"--- a/src/a.c\n+++ b/src/a.c\n@@ -4,5 +4,6 @@\n int f(int x)\n {\n"
		"-	return x * K;\n+	int helper(int);\n+	return helper(x) * K;\n }\n \n"
		"--- /dev/null\n+++ b/src/new.c\n@@ -0,0 +1,3 @@\n+#include \"h.h\"\n"
		"+int helper2(int);\n+int helper(int x) { return helper2(x) + K; }\n"
		"--- /dev/null\n+++ b/src/newer.c\n@@ -0,0 +1 @@\n+int helper2(int x) { return x; }\n"
		"--- /dev/null\n+++ b/tests/t.c\n@@ -0,0 +1 @@\n+#include <no/such/header.h>\n"
		"--- /dev/null\n+++ b/tests/u.c\n@@ -0,0 +1 @@\n+int main(void) { return 0; }\n",
		NULL, &run));
	assert_units(&run, "a.c new.c newer.c");
	assert_null(run.units.v.at[1].before);
	assert_non_null(run.units.v.at[1].after);
	assert_string_equal(run.units.v.at[1].name, "src/new.c");
	assert_note(&run, "src/new.c: a new source, compiled with the flags of");
	assert_note(&run, "tests/t.c: a new source, set aside: it does not compile");
	assert_note(&run, "tests/u.c: a new source, set aside: nothing in the patch refers to it");
}

static void source_that_goes(void **state)
{
	_cleanup_run_ struct run run;

	run_init(&run);
	assert_ok(capture(*state,
		"--- a/src/b.c\n+++ /dev/null\n@@ -1,2 +0,0 @@\n-#include \"sub/../h.h\"\n"
		"-int b(void) { return K; }\n",
		NULL, &run));
	assert_units(&run, "b.c");
	assert_non_null(run.units.v.at[0].before);
	assert_null(run.units.v.at[0].after);
}

/* ---- what is set aside ---- */

#define FIX_TEST   "--- a/tests/t.c\n+++ b/tests/t.c\n@@ -1 +1 @@\n-old\n+new\n"
#define FIX_README "--- a/src/sub/README\n+++ b/src/sub/README\n@@ -1 +1 @@\n-nothing\n+more\n"

static void set_aside(void **state)
{
	_cleanup_run_ struct run run;

	run_init(&run);
	/* Missing files and files that do not take the diff: nobody needs them. */
	scratch_write(*state, "src/sub/README", "something else\n");
	assert_ok(capture(*state, FIX_TEST FIX_README FIX_A, NULL, &run));
	assert_units(&run, "a.c");
	assert_note(&run, "tests/t.c: set aside");
	assert_note(&run, "src/sub/README: set aside");
}

static void nothing_to_do(void **state)
{
	_cleanup_run_ struct run run;

	run_init(&run);
	assert_error(capture(*state, FIX_README, NULL, &run), SUTURE_ERROR_NO_CHANGE, "no unit");
	assert_error(capture(*state, "", NULL, &run), SUTURE_ERROR_NO_CHANGE, "empty");
	assert_error(capture(*state, "hello\n", NULL, &run), SUTURE_ERROR_DIFF, "no unified diff");
}

static void units_of_no_target(void **state)
{
	_cleanup_run_ struct run run;

	run_init(&run);
	link_target(*state);
	scratch_write(*state, "src/tool.c", "#include \"h.h\"\nint tool(void) { return K; }\n");
	record(*state, ENTRY("gcc -g -O2 -c src/a.c", "src/a.c") "," ENTRY("gcc -g -O2 -c src/b.c",
			       "src/b.c") "," ENTRY("gcc -g -O2 -c src/c.c",
			       "src/c.c") "," ENTRY("gcc -g -O2 -c src/tool.c", "src/tool.c"));
	assert_ok(capture(*state,
		FIX_H "--- a/src/tool.c\n+++ b/src/tool.c\n@@ -1,2 +1,2 @@\n #include \"h.h\"\n"
		      "-int tool(void) { return K; }\n+int tool(void) { return K + 1; }\n",
		"prog", &run));
	assert_units(&run, "a.c b.c");
	assert_note(&run, "tool.c: part of no target");
}

static void one_source_in_two_languages(void **state)
{
	_cleanup_run_ struct run run;

	run_init(&run);
	link_target(*state);
	record(*state, ENTRY("gcc -g -O2 -c src/a.c", "src/a.c") "," ENTRY(
			       "g++ -g -O2 -c src/a.c -o a++.o",
			       "src/a.c") "," ENTRY("gcc -g -O2 -c src/b.c",
			       "src/b.c") "," ENTRY("gcc -g -O2 -c src/c.c", "src/c.c"));
	assert_ok(capture(*state, FIX_A, "prog", &run));
	assert_units(&run, "a.c");
	assert_string_equal(run.units.v.at[0].compiler, "gcc");
	assert_false(run.units.v.at[0].optional);
}

static void the_compile_that_made_the_target(void **state)
{
	_cleanup_run_ struct run run;

	run_init(&run);
	link_target(*state);
	record(*state, ENTRY("gcc -g -O2 -fPIC -c src/a.c -o a.lo", "src/a.c") "," ENTRY(
			       "gcc -g -O2 -c src/a.c -o a.o",
			       "src/a.c") "," ENTRY("gcc -g -O2 -c src/b.c",
			       "src/b.c") "," ENTRY("gcc -g -O2 -fPIC -c src/b.c",
			       "src/b.c") "," ENTRY("gcc -g -O2 -c src/c.c", "src/c.c"));
	assert_ok(capture(*state, FIX_H, "prog", &run));
	assert_units(&run, "a.c b.c");
	assert_false(run.units.v.at[0].optional);
	assert_false(run.units.v.at[1].optional);
	assert_string_equal(run.units.v.at[0].output, "a.o");
}

static void only_foreign_units(void **state)
{
	_cleanup_run_ struct run run;

	run_init(&run);
	link_target(*state);
	scratch_write(*state, "src/tool.c", "int tool(void) { return 1; }\n");
	record(*state, ENTRY("gcc -g -O2 -c src/a.c", "src/a.c") "," ENTRY("gcc -g -O2 -c src/b.c",
			       "src/b.c") "," ENTRY("gcc -g -O2 -c src/c.c",
			       "src/c.c") "," ENTRY("gcc -g -O2 -c src/tool.c", "src/tool.c"));
	assert_error(capture(*state,
			     "--- a/src/tool.c\n+++ b/src/tool.c\n@@ -1 +1 @@\n"
			     "-int tool(void) { return 1; }\n+int tool(void) { return 2; }\n",
			     "prog", &run),
		SUTURE_ERROR_NO_CHANGE, "no unit of the target");
}

/* ---- what is refused ---- */

static void unrecorded_units(void **state)
{
	_cleanup_run_ struct run run;

	link_target(*state);
	record(*state, ENTRY("gcc -g -O2 -c src/a.c", "src/a.c") "," ENTRY(
			       "gcc -g -O2 -c src/c.c", "src/c.c"));
	run_init(&run);
	/* b.c is in the target and reads h.h, but nobody knows how to compile it. */
	assert_error(capture(*state, FIX_H, "prog", &run), SUTURE_ERROR_COMPDB, "src/b.c");
	image_close(run.image);
	run.image = NULL;
	assert_error(capture(*state,
			     "--- a/src/b.c\n+++ b/src/b.c\n@@ -1,2 +1,2 @@\n"
			     " #include \"sub/../h.h\"\n-int b(void) { return K; }\n"
			     "+int b(void) { return K + 1; }\n",
			     "prog", &run),
		SUTURE_ERROR_COMPDB, "no command for it");
	image_close(run.image);
	run.image = NULL;
	assert_ok(capture(*state, FIX_A, "prog", &run));
}

static void diffs_that_do_not_apply(void **state)
{
	_cleanup_run_ struct run run;

	run_init(&run);
	assert_error(capture(*state,
			     "--- a/src/a.c\n+++ b/src/a.c\n@@ -4,2 +4,2 @@\n int f(int x)\n"
			     "-[\n+]\n",
			     NULL, &run),
		SUTURE_ERROR_DIFF, "src/a.c: the fix does not apply: hunk 1 of 1");
	assert_error(capture(*state, FIX_TEST, NULL, &run), SUTURE_ERROR_DIFF,
		"none of the 1 file that the diff changes");
	assert_error(capture(*state, FIX_A "--- a/../../x\n+++ b/../../x\n@@ -1 +1 @@\n-a\n+b\n",
			     NULL, &run),
		SUTURE_ERROR_DIFF, "b/../../x");
	assert_int_equal(scratch_run(*state, "ln -s /etc out-of-here"), 0);
	assert_error(capture(*state,
			     FIX_A "--- a/out-of-here/passwd\n+++ b/out-of-here/passwd\n"
				   "@@ -1 +1 @@\n-a\n+b\n",
			     NULL, &run),
		SUTURE_ERROR_DIFF, "leads out of the source tree");
	scratch_write(*state, "fix.diff", FIX_A);
	assert_int_equal(scratch_run(*state, "patch -s -p1 -i fix.diff"), 0);
	assert_error(
		capture(*state, FIX_A, NULL, &run), SUTURE_ERROR_DIFF, "already contains the fix");
}

static void other_languages(void **state)
{
	_cleanup_run_ struct run run;

	run_init(&run);
	record(*state, ENTRY("gcc -flto -c src/a.c", "src/a.c"));
	assert_error(capture(*state, FIX_A, NULL, &run), SUTURE_ERROR_UNSUPPORTED,
		"link-time optimization");
	record(*state, ENTRY("g++ -c src/a.c", "src/a.c"));
	assert_error(capture(*state, FIX_A, NULL, &run), SUTURE_ERROR_UNSUPPORTED, "C++");
	scratch_write(*state, "src/a.S", "#include \"h.h\"\n\t.long K\n");
	record(*state, ENTRY("gcc -c src/a.S", "src/a.S"));
	assert_error(capture(*state, FIX_H, NULL, &run), SUTURE_ERROR_UNSUPPORTED, "assembler");
	scratch_write(*state, "src/p.y", "old\n");
	assert_error(capture(*state, "--- a/src/p.y\n+++ b/src/p.y\n@@ -1 +1 @@\n-old\n+new\n",
			     NULL, &run),
		SUTURE_ERROR_UNSUPPORTED, "generator");
	record(*state, ENTRY("cd . && gcc -c src/a.c", "src/a.c"));
	assert_error(capture(*state, FIX_A, NULL, &run), SUTURE_ERROR_COMPDB, "needs a shell");
}

static void copies_and_amalgamations(void **state)
{
	_cleanup_run_ struct run run;
	static const char header[] = "struct connection {\n\tint descriptor, state, retries;\n"
				     "\tchar name[16];\n};\n";
	static const char code[] = "int parse_header(const char *text, int length)\n{\n"
				   "\tint sum = length;\n\treturn sum + text[0];\n}\n";

	run_init(&run);
	/* src/h2.h is copied to inc/, and that is used */
	scratch_write(*state, "src/h2.h", header);
	scratch_write(*state, "inc/h2.h", header);
	scratch_write(*state, "src/a.c", "#include \"../inc/h2.h\"\nstruct connection a;\n");
	record(*state, ENTRY("gcc -c src/a.c", "src/a.c"));
	assert_error(capture(*state,
			     "--- a/src/h2.h\n+++ b/src/h2.h\n@@ -1,4 +1,4 @@\n"
			     " struct connection {\n \tint descriptor, state, retries;\n"
			     "-\tchar name[16];\n+\tchar name[32];\n };\n",
			     NULL, &run),
		SUTURE_ERROR_UNSUPPORTED, "inc/h2.h holds the same code");
	/* src/part.c is made part of all.c, and that is compiled */
	scratch_write(*state, "src/part.c", code);
	scratch_write(*state, "all.c", code);
	record(*state, ENTRY("gcc -c all.c", "all.c"));
	assert_error(capture(*state,
			     "--- a/src/part.c\n+++ b/src/part.c\n@@ -1,5 +1,5 @@\n"
			     " int parse_header(const char *text, int length)\n {\n"
			     "-\tint sum = length;\n+\tint sum = length - 1;\n"
			     " \treturn sum + text[0];\n }\n",
			     NULL, &run),
		SUTURE_ERROR_UNSUPPORTED, "all.c holds the same code");
}

static void compilers_that_fail(void **state)
{
	_cleanup_run_ struct run run;

	run_init(&run);
	struct suture_error *err = capture(*state,
		"--- a/src/h.h\n+++ b/src/h.h\n@@ -1 +1 @@\n-#define K 4\n+#define K 4)(\n", NULL,
		&run);
	assert_non_null(err);
	assert_int_equal(suture_error_code(err), SUTURE_ERROR_COMPILE);
	assert_non_null(strstr(suture_error_message(err), "with the fix"));
	assert_non_null(strstr(suture_error_message(err), "src/h.h"));
	assert_null(strstr(suture_error_message(err), "suture-build-"));
	suture_error_destroy(err);
	record(*state, ENTRY("no-such-compiler -c src/a.c", "src/a.c"));
	assert_error(capture(*state, FIX_A, NULL, &run), SUTURE_ERROR_COMPILE,
		"no-such-compiler of the recorded build is not there");
	record(*state, ENTRY("gcc -c src/a.c", "src/a.c"));
	suture_cancel(run.ctx);
	assert_error(capture(*state, FIX_A, NULL, &run), SUTURE_ERROR_CANCELLED, "");
}

static void ambiguous_root(void **state)
{
	_cleanup_run_ struct run run;

	run_init(&run);
	assert_int_equal(scratch_run(*state, "mkdir copy && cp -r src copy/"), 0);
	record(*state,
		ENTRY("gcc -c src/a.c",
			"src/a.c") ","
				   "{\"directory\": \"@/copy\", \"command\": \"gcc -c src/a.c\", \"file\": \"src/a.c\"}");
	assert_error(capture(*state, FIX_A, NULL, &run), SUTURE_ERROR_DIFF, "fits at 2 places");
	/* Only one of them takes the diff. */
	scratch_write(*state, "copy/src/a.c", "int other;\n");
	assert_ok(capture(*state, FIX_A, NULL, &run));
	assert_string_equal(run.units.v.at[0].directory, *state);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, program_setup, scratch_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(one_source),
		TEST(original_untouched),
		TEST(header),
		TEST(header_of_the_same_name),
		TEST(computed_and_forced_includes),
		TEST(includes_of_macros),
		TEST(build_directory_elsewhere),
		TEST(several_compiles_of_one_source),
		TEST(files_that_come_and_go),
		TEST(sources_that_come),
		TEST(source_that_goes),
		TEST(set_aside),
		TEST(nothing_to_do),
		TEST(units_of_no_target),
		TEST(one_source_in_two_languages),
		TEST(the_compile_that_made_the_target),
		TEST(only_foreign_units),
		TEST(unrecorded_units),
		TEST(diffs_that_do_not_apply),
		TEST(other_languages),
		TEST(copies_and_amalgamations),
		TEST(compilers_that_fail),
		TEST(ambiguous_root),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
