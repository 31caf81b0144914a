/* SPDX-License-Identifier: Apache-2.0 */
/* What recorded commands mean, and how they are run again elsewhere. */
#include <ctype.h>

#include "build/cflags.h"
#include "build/compdb.h"
#include "build/shadow.h"
#include "scratch.h"

static void assert_words(const struct strings *strings, const char *want)
{
	char text[8192] = "";

	vec_foreach (s, &strings->v) {
		strcat(text, *s);
		strcat(text, "|");
	}
	assert_string_equal(text, want);
}

static void assert_split(const char *command, const char *want)
{
	_cleanup_strings_ struct strings words = {};

	assert_ok(shell_split(command, &words));
	assert_words(&words, want);
}

static void shell_words(void **state)
{
	(void)state;
	struct strings words;

	assert_split("gcc  -c\tx.c\n", "gcc|-c|x.c|");
	assert_split("gcc -DX='a \"b\" \\c' x.c", "gcc|-DX=a \"b\" \\c|x.c|");
	assert_split("gcc -DX=\"\\\"a\\\" \\$ \\n\"", "gcc|-DX=\"a\" $ \\n|");
	assert_split("gcc -DX=\\\"a\\ b\\\"", "gcc|-DX=\"a b\"|");
	assert_split("a\\\nb 'c\\\nd' \"e\\\nf\"", "ab|c\\\nd|ef|");
	assert_split("a '' \"\"", "a|||");
	assert_split("", "");
	assert_error(shell_split("cd x && gcc", &words), SUTURE_ERROR_COMPDB, "needs a shell");
	assert_error(shell_split("gcc $CFLAGS", &words), SUTURE_ERROR_COMPDB, "needs a shell");
	assert_error(shell_split("gcc \"`x`\"", &words), SUTURE_ERROR_COMPDB, "needs a shell");
	assert_error(shell_split("gcc 'x", &words), SUTURE_ERROR_COMPDB, "needs a shell");
	assert_error(shell_split("gcc > x", &words), SUTURE_ERROR_COMPDB, "needs a shell");
}

/* Write a database with these entries ("@" not in front of a letter: the directory), and read it.
 */
static struct suture_error *read_db(const char *dir, const char *entries, struct compdb *ret)
{
	char text[8192] = "[", *p = text + 1;

	for (const char *e = entries; *e; e++)
		p = *e == '@' && !isalpha(e[1]) ? stpcpy(p, dir) : (*p = *e, p + 1);
	strcpy(p, "]");
	scratch_write(dir, "compile_commands.json", text);
	return compdb_read(dir, ret);
}

#define ENTRY(command, file) \
	"{\"directory\": \"@\", \"command\": \"" command "\", \"file\": \"" file "\"}"

static void databases(void **state)
{
	struct compdb db;

	scratch_write(*state, "x.c", "");
	scratch_write(*state, "sub/x.c", "");
	scratch_write(*state, "args.rsp", "-DA 'b c'\n-I\\ d @more.rsp");
	scratch_write(*state, "more.rsp", "-DMORE");
	assert_ok(read_db(*state,
		ENTRY("gcc -O2 -c x.c -o x.o", "x.c") "," ENTRY(
			"gcc -O2 -c x.c -o other.o -MD -MF x.d",
			"x.c") "," ENTRY("gcc -O2 -fPIC -c x.c -o x.lo",
			"./sub/../x.c") "," ENTRY("ccache gcc @args.rsp -c @/sub/x.c y.o",
			"@/sub/x.c") "," ENTRY("gcc -c conftest.c",
			"conftest.c") ","
				      "{\"directory\": \"sub\", \"arguments\": [\"gcc\", \"-c\", \"x.c\", \"-ox.o\"], "
				      "\"file\": \"x.c\"}",
		&db));
	assert_int_equal(db.commands.n, 4);
	assert_string_equal(db.commands.at[0].output, "x.o");
	assert_string_equal(db.commands.at[0].file, scratch_path(*state, "x.c"));
	assert_string_equal(db.commands.at[1].output, "x.lo");
	assert_string_equal(db.commands.at[1].file, scratch_path(*state, "x.c"));
	assert_null(db.commands.at[2].broken);
	assert_string_equal(db.commands.at[2].argv.v.at[3], "b c");
	assert_string_equal(db.commands.at[2].argv.v.at[4], "-I d");
	assert_string_equal(db.commands.at[2].argv.v.at[5], "-DMORE");
	assert_string_equal(db.commands.at[3].file, scratch_path(*state, "sub/x.c"));
	assert_string_equal(db.commands.at[3].output, "x.o");
	compdb_deinit(&db);
}

static void bad_databases(void **state)
{
	struct compdb db;

	assert_error(compdb_read(*state, &db), SUTURE_ERROR_COMPDB, "no compile_commands.json");
	assert_error(compdb_read("/nonexistent/x", &db), SUTURE_ERROR_COMPDB, "/nonexistent/x");
	assert_error(read_db(*state, "", &db), SUTURE_ERROR_COMPDB, "no entry");
	assert_error(read_db(*state, "{", &db), SUTURE_ERROR_COMPDB, "line 1");
	assert_error(read_db(*state, "{}", &db), SUTURE_ERROR_COMPDB, "entry 0");
	assert_error(read_db(*state, "{\"directory\": 3, \"file\": \"x\"}", &db),
		SUTURE_ERROR_COMPDB, "entry 0");
	assert_error(read_db(*state, "7", &db), SUTURE_ERROR_COMPDB, "entry 0");
	scratch_write(*state, "compile_commands.json", "{}");
	assert_error(compdb_read(*state, &db), SUTURE_ERROR_COMPDB, "an array is expected");
	scratch_write(*state, "compile_commands.json", "");
	assert_error(compdb_read(*state, &db), SUTURE_ERROR_COMPDB, "line");
}

/* The reason that a single command cannot be used, or NULL. */
static void assert_broken(const char *dir, const char *entry, const char *why)
{
	struct compdb db;

	assert_ok(read_db(dir, entry, &db));
	assert_int_equal(db.commands.n, 1);
	assert_non_null(db.commands.at[0].broken);
	assert_non_null(strstr(suture_error_message(db.commands.at[0].broken), why));
	compdb_deinit(&db);
}

static void broken_entries(void **state)
{
	scratch_write(*state, "x.c", "");
	assert_broken(*state, ENTRY("cd y; gcc -c x.c", "x.c"), "needs a shell");
	assert_broken(*state, ENTRY("gcc -c y.c", "x.c"), "no argument of its command");
	assert_broken(*state, ENTRY("", "x.c"), "empty");
	assert_broken(
		*state, ENTRY("/bin/sh ../libtool --mode=compile gcc -c x.c", "x.c"), "libtool");
	assert_broken(*state, "{\"directory\": \"@\", \"file\": \"x.c\"}", "neither");
	assert_broken(*state, "{\"directory\": \"@\", \"file\": \"x.c\", \"arguments\": [1]}",
		"argument 0");
}

static void languages_and_flags(void **state)
{
	struct compdb db;
	static const enum language want[] = {LANGUAGE_C, LANGUAGE_CXX, LANGUAGE_CXX,
		LANGUAGE_ASSEMBLER, LANGUAGE_C, LANGUAGE_CXX};
	static const bool debug[] = {true, false, true, false, true, false};
	static const bool lto[] = {true, false, false, false, false, true};

	scratch_write(*state, "x.c", "");
	scratch_write(*state, "x.cc", "");
	scratch_write(*state, "x.S", "");
	assert_ok(read_db(*state,
		ENTRY("gcc -g -flto -c x.c", "x.c") "," ENTRY("g++ -g -g0 -c x.c", "x.c") "," ENTRY(
			"gcc -flto=auto -fno-lto -ggdb3 -c x.cc",
			"x.cc") "," ENTRY("gcc -gz -c x.S",
			"x.S") "," ENTRY("gcc -gdwarf-4 -x c -c x.cc",
			"x.cc") "," ENTRY("gcc -xc++ -flto=thin -c x.c", "x.c"),
		&db));
	assert_int_equal(db.commands.n, 6);
	for (size_t i = 0; i < 6; i++) {
		assert_null(db.commands.at[i].broken);
		assert_int_equal(db.commands.at[i].language, want[i]);
		assert_int_equal(db.commands.at[i].debug_info, debug[i]);
		assert_int_equal(db.commands.at[i].lto, lto[i]);
	}
	compdb_deinit(&db);
}

/* The command of the only entry, made for the private copy of `dir`; "@" stands for its side. */
static void assert_made(const char *dir, const char *command, const char *want)
{
	char entry[4096], work[4096], text[8192] = "";
	struct compdb db;
	struct tree tree;
	struct shadow shadow;
	_cleanup_strings_ struct strings argv = {};

	snprintf(entry, sizeof(entry), ENTRY("%s", "x.c"), command);
	assert_ok(read_db(dir, entry, &db));
	assert_null(db.commands.at[0].broken);
	snprintf(work, sizeof(work), "%s/work", dir);
	path_remove_tree(work);
	assert_ok(tree_read(dir, &tree));
	assert_ok(path_make_directory(work));
	assert_ok(shadow_init(&shadow, work, false));
	assert_ok(shadow_add(&shadow, &tree));
	assert_ok(shadow_build(&shadow, NULL));
	struct cflags_job job = {&shadow, SHADOW_AFTER, NULL, "OBJ", "DEP"};
	assert_ok(cflags_make(&db.commands.at[0], &job, &argv));
	char *p = text;
	vec_foreach (arg, &argv.v) {
		for (const char *s = *arg; *s;) {
			if (strncmp(s, shadow.side[SHADOW_AFTER], strlen(work) + 2) == 0) {
				*p++ = '%';
				s += strlen(work) + 2;
			} else if (strncmp(s, dir, strlen(dir)) == 0) {
				*p++ = '@';
				s += strlen(dir);
			} else {
				*p++ = *s++;
			}
		}
		*p++ = ' ';
	}
	*p = '\0';
	assert_string_equal(text, want);
	shadow_deinit(&shadow);
	tree_deinit(&tree);
	compdb_deinit(&db);
}

#define OURS  "-w -ffunction-sections -fdata-sections -fmerge-constants -Wa,-L -c -MD -o OBJ -MF DEP "
#define GOURS "-w -g -ffunction-sections -fdata-sections -fmerge-constants -Wa,-L -c -MD -o OBJ -MF DEP "

static void commands_in_the_copy(void **state)
{
	scratch_write(*state, "x.c", "");
	scratch_write(*state, "inc/x.h", "");
	/* outputs, dependency files and fatal warnings go, the rest stays */
	assert_made(*state,
		"gcc -g -O2 -MD -MF x.d -MT x.o -MQx -MP -Werror -Werror=format -Wall "
		"-save-temps=obj -c -o x.o x.c",
		"gcc -ffile-prefix-map=%= -g -O2 -Wall x.c " OURS);
	assert_made(*state, "ccache gcc -Wp,-MMD,x.d,-DX,-MT,y -Wp,-MD,z -oout x.c y.o libz.a -lm",
		"ccache gcc -ffile-prefix-map=%= -Wp,-DX x.c -lm " GOURS);
	/* paths of the source tree lead to the copy, in every form; others do not */
	assert_made(*state,
		"gcc -g -I@/inc -I @/inc -isystem @/inc -iquote@/inc -include @/inc/x.h -Iinc "
		"-I/usr/include --sysroot=/ -fplugin=@/x.so -DDIR=@/inc -c @/x.c",
		"gcc -ffile-prefix-map=%= -g -I%@/inc -I %@/inc -isystem %@/inc -iquote%@/inc "
		"-include %@/inc/x.h -Iinc -I/usr/include --sysroot=/ -fplugin=%@/x.so "
		"-DDIR=@/inc %@/x.c " OURS);
	/* a recorded prefix map goes on mapping */
	assert_made(*state, "gcc -g -ffile-prefix-map=@=. -c x.c",
		"gcc -ffile-prefix-map=%= -g -ffile-prefix-map=%@=. x.c " OURS);
	assert_made(*state, "clang -g -ffile-prefix-map=@=. -c @/x.c",
		"clang -g -ffile-prefix-map=%@=. %@/x.c " OURS);
}

static void debug_paths(void **state)
{
	struct compdb db;

	scratch_write(*state, "x.c", "");
	assert_ok(read_db(*state,
		ENTRY("gcc -fdebug-prefix-map=@=/src -ffile-prefix-map=@/sub=. -c x.c", "x.c"),
		&db));
	char *a = cflags_debug_path(&db.commands.at[0], scratch_path(*state, "x.c"));
	char *b = cflags_debug_path(&db.commands.at[0], scratch_path(*state, "sub/x.c"));
	char *c = cflags_debug_path(&db.commands.at[0], "x.c");
	assert_string_equal(a, "/src/x.c");
	assert_string_equal(b, "./x.c");
	assert_string_equal(c, "x.c");
	free(a);
	free(b);
	free(c);
	compdb_deinit(&db);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(shell_words),
		cmocka_unit_test_setup_teardown(databases, scratch_setup, scratch_teardown),
		cmocka_unit_test_setup_teardown(bad_databases, scratch_setup, scratch_teardown),
		cmocka_unit_test_setup_teardown(broken_entries, scratch_setup, scratch_teardown),
		cmocka_unit_test_setup_teardown(
			languages_and_flags, scratch_setup, scratch_teardown),
		cmocka_unit_test_setup_teardown(
			commands_in_the_copy, scratch_setup, scratch_teardown),
		cmocka_unit_test_setup_teardown(debug_paths, scratch_setup, scratch_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
