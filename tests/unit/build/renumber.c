/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Untouched lines keep their numbers, as the compiler sees them: each case is a source and a fix;
 * the lines marked @ print __LINE__ and must say the same before and after.
 */
#include <fcntl.h>

#include "build/renumber.h"
#include "scratch.h"

/* Lines of `after` that are not in `before` count as brought by the fix. */
static char *renumbered(const char *before, const char *after)
{
	struct text a, b;
	char *storage, *out;
	size_t size, next = 0;

	assert_ok(text_parse(before, strlen(before), &a));
	assert_ok(text_parse(after, strlen(after), &b));
	vec_foreach (line, &b.lines) {
		size_t i = next;

		while (i < a.lines.n && (a.lines.at[i].len != line->len ||
						memcmp(a.lines.at[i].text, line->text, line->len)))
			i++;
		line->original = i < a.lines.n ? i + 1 : 0;
		next = i < a.lines.n ? i + 1 : next;
	}
	assert_ok(text_keep_line_numbers(&b, &storage));
	assert_ok(text_print(&b, &out, &size));
	text_deinit(&a);
	text_deinit(&b);
	free(storage);
	return out;
}

static void assert_renumbered(const char *before, const char *after, const char *want)
{
	_cleanup_free_ char *out = renumbered(before, after);

	assert_string_equal(out, want);
}

static void plain(void **state)
{
	(void)state;
	assert_renumbered("a\nb\nc\n", "a\nb\nc\n", "a\nb\nc\n");
	assert_renumbered("a\nb\nc\n", "a\nB\nc\n", "a\nB\nc\n");
	assert_renumbered("a\nb\nc\n", "a\nnew\nb\nc\n", "a\nnew\n#line 2\nb\nc\n");
	assert_renumbered("a\nb\nc\n", "a\nc\n", "a\n#line 3\nc\n");
	/* Behind each run, not behind the last. */
	assert_renumbered(
		"a\nb\nc\nd\n", "a\nx\nb\nc\ny\nd\n", "a\nx\n#line 2\nb\nc\ny\n#line 4\nd\n");
}

static void where_no_directive_may_stand(void **state)
{
	(void)state;
	/* block comment */
	assert_renumbered("/*\n a\n b\n*/\nc\n", "/*\n new\n a\n b\n*/\nc\n",
		"/*\n new\n a\n b\n*/\n#line 5\nc\n");
	/* a comment that only looks like one in a string, and the other way round */
	assert_renumbered(
		"s = \"/*\";\nb\n", "s = \"/*\";\nnew\nb\n", "s = \"/*\";\nnew\n#line 2\nb\n");
	assert_renumbered(
		"// it's /*\nb\n", "// it's /*\nnew\nb\n", "// it's /*\nnew\n#line 2\nb\n");
	/* continued lines: a macro, a string */
	assert_renumbered("#define M \\\n a \\\n b\nc\n", "#define M \\\n new \\\n a \\\n b\nc\n",
		"#define M \\\n new \\\n a \\\n b\n#line 4\nc\n");
	assert_renumbered("s = \"x\\\ny( \";\nb\n", "s = \"x\\\nnew\\\ny( \";\nb\n",
		"s = \"x\\\nnew\\\ny( \";\n#line 3\nb\n");
	/* a macro's arguments */
	assert_renumbered("M(a,\n  b,\n  c);\nd\n", "M(a,\n  new,\n  b,\n  c);\nd\n",
		"M(a,\n  new,\n  b,\n  c);\n#line 4\nd\n");
	/* a raw string */
	assert_renumbered("s = R\"x(\n)\" a\n)x\";\nb\n", "s = R\"x(\nnew\n)\" a\n)x\";\nb\n",
		"s = R\"x(\nnew\n)\" a\n)x\";\n#line 4\nb\n");
	/* parentheses that do not match end with the function */
	assert_renumbered(
		"M(\nfoo\n}\nd\n", "M(\nfoo\nnew\n}\nd\n", "M(\nfoo\nnew\n#line 3\n}\nd\n");
	/* '(' and '"' are no brackets */
	assert_renumbered("c = '(';\nb\n", "c = '(';\nnew\nb\n", "c = '(';\nnew\n#line 2\nb\n");
	assert_renumbered("c = '\"';\nb\n", "c = '\"';\nnew\nb\n", "c = '\"';\nnew\n#line 2\nb\n");
}

static void conditionals(void **state)
{
	(void)state;
	/* The compiler may skip the first directive, so there is another one behind. */
	assert_renumbered("#if X\na\n#else\nb\n#endif\nc\n", "#if X\nnew\na\n#else\nb\n#endif\nc\n",
		"#if X\nnew\n#line 2\na\n#else\n#line 4\nb\n#endif\n#line 6\nc\n");
	/* Parentheses that every branch closes. */
	assert_renumbered("f(a\n#if X\n, b);\n#else\n, c);\n#endif\nd\n",
		"new\nf(a\n#if X\n, b);\n#else\n, c);\n#endif\nd\n",
		"new\n#line 1\nf(a\n#if X\n, b);\n#else\n, c);\n#endif\nd\n");
	assert_renumbered("f(a\n#if X\n, b);\n#else\n, c);\n#endif\nd\n",
		"f(a\n#if X\nnew\n, b);\n#else\n, c);\n#endif\nd\n",
		"f(a\n#if X\nnew\n, b);\n#else\n, c);\n#endif\n#line 7\nd\n");
}

/* ---- against the compiler ---- */

static const char source[] = /* */
	"#include <stdio.h>\n"
	"#define SHOW(x) printf(\"%s %d\\n\", x, __LINE__)\n"
	"#define ID(x, y) x\n"
	"static void f(void)\n"
	"{\n"
	"	SHOW(\"f\");\n"
	"	ID(SHOW(\"f2\"),\n"
	"		0);\n"
	"	SHOW(\"f3\");\n"
	"}\n"
	"#if 0\n"
	"it's ( not compiled\n"
	"#endif\n"
	"/* comment\n"
	"   ( \" ' */ static void g(void)\n"
	"{\n"
	"#ifdef NOT\n"
	"	SHOW(\"never\");\n"
	"#elif 1\n"
	"	SHOW(\"g\");\n"
	"#else\n"
	"	SHOW(\"never\");\n"
	"#endif\n"
	"	SHOW(\"g2\");\n"
	"	puts(\"a\\\n"
	"b\");\n"
	"	SHOW(\"g3\");\n"
	"}\n"
	"int main(void)\n"
	"{\n"
	"	f();\n"
	"	g();\n"
	"	SHOW(\"main\");\n"
	"}\n";

static char *compile_and_run(const char *dir, const char *name, const char *text)
{
	char *out, command[256];
	size_t size;

	scratch_write(dir, name, text);
	snprintf(command, sizeof(command), "cc -w -o prog %s && ./prog > out", name);
	assert_int_equal(scratch_run(dir, command), 0);
	assert_ok(path_read_file(scratch_path(dir, "out"), 1 << 16, &out, &size));
	return out;
}

static void compiler_agrees(void **state)
{
	/* A line added at each place in turn: whatever it is in the middle of, text or code. */
	_cleanup_free_ char *want = compile_and_run(*state, "before.c", source);
	static const size_t places[] = {3, 5, 8, 11, 13, 16, 17, 19, 23, 30};

	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		_cleanup_free_ char *after = malloc(sizeof(source) + 100);
		const char *at = source;

		for (size_t n = 0; n < places[i]; n++)
			at = strchr(at, '\n') + 1;
		sprintf(after, "%.*s;;\n;;\n%s", (int)(at - source), source, at);
		_cleanup_free_ char *fixed = renumbered(source, after);
		if (places[i] == 13 || places[i] == 3)
			assert_non_null(strstr(fixed, "#line"));
		_cleanup_free_ char *have = compile_and_run(*state, "after.c", fixed);
		assert_string_equal(have, want);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(plain),
		cmocka_unit_test(where_no_directive_may_stand),
		cmocka_unit_test(conditionals),
		cmocka_unit_test_setup_teardown(compiler_agrees, scratch_setup, scratch_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
