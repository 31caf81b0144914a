/* SPDX-License-Identifier: Apache-2.0 */
/* Diffs are read as patch(1) and git apply read them, and refused when they are not sound. */
#include "build/diff.h"
#include "../unit.h"

static struct suture_error *parse(const char *text, struct diff *ret)
{
	return diff_parse(strdup(text), strlen(text), "fix.diff", ret);
}

/* text with the first file of the diff applied; malloc'ed. */
static struct suture_error *apply_to(
	const char *source, const char *diff_text, bool reverse, char **ret)
{
	struct diff diff = {};
	struct text text = {};
	size_t size;

	assert_ok(parse(diff_text, &diff));
	assert_int_equal(diff.files.n, 1);
	assert_ok(text_parse(source, strlen(source), &text));
	struct suture_error *err = text_apply(&text, &diff.files.at[0], reverse, NULL);
	if (!err)
		err = text_print(&text, ret, &size);
	text_deinit(&text);
	diff_deinit(&diff);
	return err;
}

static void assert_applied(const char *source, const char *diff, const char *want)
{
	char *out, *back;

	assert_ok(apply_to(source, diff, false, &out));
	assert_string_equal(out, want);
	assert_ok(apply_to(out, diff, true, &back));
	assert_string_equal(back, source);
	free(out);
	free(back);
}

static void assert_malformed(const char *text, const char *message)
{
	struct diff diff;

	assert_error(parse(text, &diff), SUTURE_ERROR_DIFF, message);
}

#define HEAD "--- a/x.c\n+++ b/x.c\n"

static void quilt_header_and_signature(void **state)
{
	(void)state;
	struct diff diff;

	assert_ok(
		parse("Description: fix it\n--- not a header\nOrigin: upstream\n---\n"
		      "Index: x/x.c\n=======\n" HEAD "@@ -1,3 +1,4 @@ int f(void)\n a\n+b\n c\n d\n"
		      "-- \n2.39.2\n\ntrailing words\n",
			&diff));
	assert_int_equal(diff.files.n, 1);
	assert_string_equal(diff.files.at[0].old_path, "a/x.c");
	assert_string_equal(diff.files.at[0].new_path, "b/x.c");
	assert_int_equal(diff.files.at[0].hunks.n, 1);
	assert_int_equal(diff.files.at[0].hunks.at[0].lines.n, 4);
	diff_deinit(&diff);
}

static void git_sections(void **state)
{
	(void)state;
	struct diff diff;

	assert_ok(
		parse("diff --git a/old.c b/new.c\nsimilarity index 90%\nrename from old.c\n"
		      "rename to new.c\nindex 1..2 100644\n--- a/old.c\n+++ b/new.c\n"
		      "@@ -1 +1 @@\n-a\n+b\n"
		      "diff --git a/pure.c b/moved.c\nsimilarity index 100%\nrename from pure.c\n"
		      "rename to moved.c\n"
		      "diff --git a/n.c b/n.c\nnew file mode 100644\n--- /dev/null\n+++ b/n.c\n"
		      "@@ -0,0 +1 @@\n+x\n"
		      "diff --git a/d.c b/d.c\ndeleted file mode 100644\n--- a/d.c\n+++ /dev/null\n"
		      "@@ -1 +0,0 @@\n-x\n"
		      "diff --git a/p.png b/p.png\nindex 1..2\nBinary files a/p.png and b/p.png "
		      "differ\n"
		      "diff --git a/empty.h b/empty.h\nnew file mode 100644\nindex 0..e\n"
		      "diff --git \"a/\\303\\244.c\" \"b/\\303\\244.c\"\n--- \"a/\\303\\244.c\"\n"
		      "+++ \"b/\\303\\244.c\"\n@@ -1 +1 @@\n-a\n+b\n",
			&diff));
	assert_int_equal(diff.files.n, 7);
	assert_true(diff.files.at[0].renamed);
	assert_string_equal(diff.files.at[0].old_path, "a/old.c");
	assert_string_equal(diff.files.at[0].new_path, "b/new.c");
	assert_true(diff.files.at[1].renamed);
	assert_string_equal(diff.files.at[1].old_path, "a/pure.c");
	assert_string_equal(diff.files.at[1].new_path, "b/moved.c");
	assert_true(diff.files.at[2].created);
	assert_string_equal(diff.files.at[2].old_path, "b/n.c");
	assert_true(diff.files.at[3].deleted);
	assert_string_equal(diff.files.at[3].new_path, "a/d.c");
	assert_true(diff.files.at[4].binary);
	assert_string_equal(diff.files.at[4].new_path, "b/p.png");
	assert_true(diff.files.at[5].created);
	assert_string_equal(diff.files.at[5].new_path, "b/empty.h");
	assert_string_equal(diff.files.at[6].new_path, "b/\303\244.c");
	diff_deinit(&diff);
}

static void git_without_prefix(void **state)
{
	(void)state;
	struct diff diff;

	assert_ok(parse("diff --git src/old.c src/newer.c\nsimilarity index 100%\n"
			"rename from src/old.c\nrename to src/newer.c\n",
		&diff));
	assert_string_equal(diff.files.at[0].old_path, "src/old.c");
	assert_string_equal(diff.files.at[0].new_path, "src/newer.c");
	diff_deinit(&diff);
}

static void damaged_diffs(void **state)
{
	(void)state;
	assert_malformed(HEAD "@@ -1,3 +1,3 @@\n a\n b\n", "line 5: the diff ends in the middle");
	assert_malformed(
		HEAD "@@ -1,2 +1,2 @@\n a\n b\n c\n-d\n+e\n", "more lines than its header says");
	assert_malformed(HEAD "@@ -1,1 +1,1 @@\n-a\n+b\n+c\n", "more lines than its header says");
	assert_malformed(HEAD "@@ -1,1 +1,1 @@\n-a\n-b\n", "other lines than its header says");
	assert_malformed(HEAD "@@ -1,2 +1,2 @@\n a\n*b\n", "no line of a hunk");
	assert_malformed(HEAD "@@ -1,x +1 @@\n-a\n", "malformed hunk header");
	assert_malformed(HEAD "@@ -99999999999999999999,1 +1 @@\n-a\n", "malformed hunk header");
	assert_malformed(HEAD "something\n", "a hunk (@@) is expected");
	assert_malformed("@@ -1 +1 @@\n-a\n+b\n", "without the names of its file");
	assert_malformed("--- /dev/null\n+++ /dev/null\n@@ -1 +1 @@\n-a\n+b\n", "both sides");
	assert_malformed("--- \"a\\q.c\"\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n", "file name");
	assert_malformed(HEAD "@@ -1 +1 @@\n\\ No newline at end of file\n", "without a line");
	struct diff diff;
	assert_error(parse("diff --cc x.c\n@@@ -1 -1 +1 @@@\n", &diff), SUTURE_ERROR_UNSUPPORTED,
		"combined");
	assert_error(parse("*** a/x.c\n--- b/x.c\n***************\n", &diff),
		SUTURE_ERROR_UNSUPPORTED, "context diff");
}

static void no_diff_at_all(void **state)
{
	(void)state;
	struct diff diff;

	assert_ok(parse("", &diff));
	assert_int_equal(diff.n_lines, 0);
	diff_deinit(&diff);
	assert_ok(parse("hello\nworld\n", &diff));
	assert_int_equal(diff.files.n, 0);
	assert_int_equal(diff.n_lines, 2);
	diff_deinit(&diff);
}

static void stripping(void **state)
{
	(void)state;
	assert_string_equal(diff_strip("a/b/c.c", 0), "a/b/c.c");
	assert_string_equal(diff_strip("a/b/c.c", 1), "b/c.c");
	assert_string_equal(diff_strip("a//b/c.c", 1), "b/c.c");
	assert_string_equal(diff_strip("/abs/c.c", 1), "abs/c.c");
	assert_string_equal(diff_strip("../x.c", 1), "x.c");
	assert_null(diff_strip("/etc/passwd", 0));
	assert_null(diff_strip("a/../../etc/passwd", 1));
	assert_null(diff_strip("a/b/..", 1));
	assert_null(diff_strip("a/b", 2));
	assert_null(diff_strip("a/x\n.c", 1));
	assert_int_equal(diff_depth("a/b/c.c"), 2);
	assert_int_equal(diff_depth("c.c"), 0);
}

#define TEN "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n"

static void applying(void **state)
{
	(void)state;
	assert_applied(TEN,
		HEAD "@@ -1,3 +1,4 @@\n 1\n+one\n 2\n 3\n@@ -8,3 +9,2 @@\n 8\n-9\n 10\n",
		"1\none\n2\n3\n4\n5\n6\n7\n8\n10\n");
	/* Mailers drop the blank of an empty context line. */
	assert_applied("a\n\nb\n", HEAD "@@ -1,3 +1,4 @@\n a\n\n+new\n b\n", "a\n\nnew\nb\n");
	assert_applied("a\nb", HEAD "@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+c\n",
		"a\nc\n");
	assert_applied("a\n", HEAD "@@ -1 +0,0 @@\n-a\n", "");
	assert_applied("", "--- /dev/null\n+++ b/x.c\n@@ -0,0 +1,2 @@\n+a\n+b\n", "a\nb\n");
}

static void elsewhere(void **state)
{
	(void)state;
	/* Seven lines further down, and the second hunk with it. */
	assert_applied("x\nx\nx\nx\nx\nx\nx\n" TEN,
		HEAD "@@ -2,3 +2,4 @@\n 2\n+new\n 3\n 4\n@@ -8,2 +9,3 @@\n 8\n+more\n 9\n",
		"x\nx\nx\nx\nx\nx\nx\n1\n2\nnew\n3\n4\n5\n6\n7\n8\nmore\n9\n10\n");
	char *out;
	/* Not where it says, and possible at two places: no guess. */
	assert_error(apply_to("a\nb\nc\na\nb\nc\na\nb\n", HEAD "@@ -2,2 +2,3 @@\n a\n+new\n b\n",
			     false, &out),
		SUTURE_ERROR_DIFF, "matches at lines 1 and 4");
	/* Possible at three places, but right where it says. */
	assert_ok(apply_to(
		"a\nb\nc\na\nb\nc\na\nb\n", HEAD "@@ -4,2 +4,3 @@\n a\n+new\n b\n", false, &out));
	assert_string_equal(out, "a\nb\nc\na\nnew\nb\nc\na\nb\n");
	free(out);
}

static void not_applying(void **state)
{
	(void)state;
	char *out;

	assert_error(apply_to(TEN,
			     HEAD "@@ -1,3 +1,4 @@\n 1\n+one\n 2\n 3\n"
				  "@@ -5,3 +6,3 @@\n 5\n-six\n+6\n 7\n",
			     false, &out),
		SUTURE_ERROR_DIFF,
		"hunk 2 of 2 (line 8 of the diff): source line 6 is \"6\", the diff expects "
		"\"six\"");
	assert_error(apply_to("1\n", HEAD "@@ -1,2 +1,2 @@\n 1\n-2\n+3\n", false, &out),
		SUTURE_ERROR_DIFF, "only 1 lines");
	assert_error(apply_to(TEN, HEAD "@@ -3,0 +4 @@\n+x\n", false, &out), SUTURE_ERROR_DIFF,
		"without any context");
}

static void line_endings(void **state)
{
	(void)state;
	/* The diff went through a CRLF conversion, the source did not. */
	assert_applied("a\nb\n", "--- a/x.c\r\n+++ b/x.c\r\n@@ -1,2 +1,3 @@\r\n a\r\n+n\r\n b\r\n",
		"a\nn\nb\n");
	/* The source has CRLF and so has the diff's content. */
	assert_applied("a\r\nb\r\n", HEAD "@@ -1,2 +1,3 @@\n a\r\n+n\r\n b\r\n", "a\r\nn\r\nb\r\n");
	/* The source has CRLF, the diff lost it: added lines get it. */
	assert_applied("a\r\nb\r\n", HEAD "@@ -1,2 +1,3 @@\n a\n+n\n b\n", "a\r\nn\r\nb\r\n");
}

static void original_line_numbers(void **state)
{
	(void)state;
	const char *source = "1\n2\n3\n4\n";
	struct diff diff;
	struct text text;
	static const size_t want[] = {1, 0, 3, 4};

	assert_ok(parse(HEAD "@@ -1,3 +1,3 @@\n 1\n-2\n+two\n 3\n", &diff));
	assert_ok(text_parse(source, strlen(source), &text));
	assert_ok(text_apply(&text, &diff.files.at[0], false, NULL));
	assert_int_equal(text.lines.n, 4);
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(text.lines.at[i].original, want[i]);
	text_deinit(&text);
	diff_deinit(&diff);
}

/* Whatever happens to a diff, it is refused, or parsed into something that can be applied. */
static void damaged_at_random(void **state)
{
	(void)state;
	static const char good[] =
		"diff --git a/x.c b/y.c\nsimilarity index 90%\nrename from x.c\nrename to y.c\n"
		"--- a/x.c\n+++ b/y.c\n@@ -1,3 +1,4 @@ f\n 1\n+one\n 2\n 3\n"
		"@@ -8,3 +9,2 @@\n 8\n-9\n 10\n\\ No newline at end of file\n"
		"diff --git \"a/\\303\\244\" \"b/\\303\\244\"\nnew file mode 100644\n"
		"--- /dev/null\n+++ \"b/\\303\\244\"\n@@ -0,0 +1 @@\n+a\n";
	static const char bytes[] = "\0\r\n\\\"@+- 019,/\377";
	uint32_t seed = 1;
	size_t parsed = 0;

	for (int round = 0; round < 20000; round++) {
		size_t size = sizeof(good) - 1;
		char *data = malloc(size);
		struct diff diff;

		memcpy(data, good, size);
		for (int i = 0; i < 1 + round % 4; i++) {
			seed = seed * 1664525 + 1013904223;
			data[(seed >> 8) % size] = bytes[(seed >> 3) % (sizeof(bytes) - 1)];
		}
		if (round % 5 == 0)
			size = seed % size;
		struct suture_error *err = diff_parse(data, size, "fix.diff", &diff);
		if (err) {
			suture_error_destroy(err);
			continue;
		}
		parsed++;
		vec_foreach (file, &diff.files) {
			struct text text;

			assert_non_null(file->old_path);
			assert_non_null(file->new_path);
			const char *below = diff_strip(file->new_path, 1);
			assert_true(!below || (below[0] != '/' && !strstr(below, "../")));
			assert_ok(text_parse(TEN, strlen(TEN), &text));
			suture_error_destroy(text_apply(&text, file, round % 2, NULL));
			text_deinit(&text);
		}
		diff_deinit(&diff);
	}
	/* Enough of both kinds for this to mean something. */
	assert_in_range(parsed, 1000, 19000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(quilt_header_and_signature),
		cmocka_unit_test(git_sections),
		cmocka_unit_test(git_without_prefix),
		cmocka_unit_test(damaged_diffs),
		cmocka_unit_test(no_diff_at_all),
		cmocka_unit_test(stripping),
		cmocka_unit_test(applying),
		cmocka_unit_test(elsewhere),
		cmocka_unit_test(not_applying),
		cmocka_unit_test(line_endings),
		cmocka_unit_test(original_line_numbers),
		cmocka_unit_test(damaged_at_random),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
