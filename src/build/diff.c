/* SPDX-License-Identifier: Apache-2.0 */
/* Parsing unified diffs: see diff.h. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "build/diff.h"
#include "build/path.h"

#define MAX_LINES 100000000u /* bound on numbers in @@ lines: no sum of two overflows */

/* Where we are in the diff: the current line, and how to go on. */
struct cursor {
	const char *next, *end;
	const char *name;  /* of the diff, for messages */
	const char *text;  /* current line without newline, and without CR if strip_cr */
	size_t len, line;  /* line: from 1 */
	bool newline, eof; /* eof: there is no current line */
	bool had_cr;	   /* the current line ended with CR */
	bool strip_cr;	   /* the diff went through a CRLF conversion: CR is no content */
};

static void advance(struct cursor *c)
{
	if (c->next == c->end) {
		c->eof = true;
		c->had_cr = false;
		c->text = "";
		c->len = 0;
		return;
	}
	const char *nl = memchr(c->next, '\n', c->end - c->next);
	const char *stop = nl ? nl : c->end;

	c->text = c->next;
	c->len = stop - c->next;
	c->newline = nl != NULL;
	c->next = nl ? nl + 1 : c->end;
	c->line++;
	c->had_cr = c->len && c->text[c->len - 1] == '\r';
	c->len -= c->strip_cr && c->had_cr;
}

/* A header line tells whether the whole diff went through a CRLF conversion. */
static void learn_line_end(struct cursor *c)
{
	if (c->had_cr && !c->strip_cr)
		c->len--;
	c->strip_cr = c->had_cr;
}

static bool starts(const struct cursor *c, const char *prefix)
{
	size_t n = strlen(prefix);

	return !c->eof && c->len >= n && memcmp(c->text, prefix, n) == 0;
}

/* The line behind the current one starts with prefix. */
static bool next_starts(const struct cursor *c, const char *prefix)
{
	size_t n = strlen(prefix);

	return (size_t)(c->end - c->next) >= n && memcmp(c->next, prefix, n) == 0;
}

static struct suture_error *malformed(const struct cursor *c, const char *what)
{
	return error_create(SUTURE_ERROR_DIFF, "%s, line %zu: %s", c->name, c->line, what);
}

/* ---- file names ---- */

static char escape_value(char c)
{
	static const char from[] = "abfnrtv\"\\", to[] = "\a\b\f\n\r\t\v\"\\";
	const char *p = strchr(from, c);

	return p && c ? to[p - from] : '\0';
}

/* git's quoted name: C escapes and octal bytes. NULL: malformed (or out of memory). */
static char *unquote(const char *s, size_t len)
{
	char *out = malloc(len + 1);
	size_t n = 0;

	for (size_t i = 1; out && i < len; i++) {
		if (s[i] == '"') {
			out[n] = '\0';
			return out;
		}
		if (s[i] != '\\') {
			out[n++] = s[i];
			continue;
		}
		i++;
		if (i + 2 < len && s[i] >= '0' && s[i] <= '3' && s[i + 1] >= '0' &&
			s[i + 1] <= '7' && s[i + 2] >= '0' && s[i + 2] <= '7') {
			out[n] = (s[i] - '0') << 6 | (s[i + 1] - '0') << 3 | (s[i + 2] - '0');
			i += 2;
		} else {
			out[n] = i < len ? escape_value(s[i]) : '\0';
		}
		if (out[n++] == '\0')
			break;
	}
	free(out);
	return NULL;
}

/* The name in a "--- " or "+++ " line: up to the tab that starts the time stamp. */
static struct suture_error *header_name(const struct cursor *c, size_t skip, char **ret)
{
	const char *s = c->text + skip;
	size_t len = c->len - skip;

	while (len && *s == ' ') {
		s++;
		len--;
	}
	if (len && *s == '"') {
		*ret = unquote(s, len);
	} else {
		const char *tab = memchr(s, '\t', len);

		len = tab ? (size_t)(tab - s) : len;
		while (len && isspace((unsigned char)s[len - 1]))
			len--;
		if (len == 0 || memchr(s, '\0', len))
			return malformed(c, "a file name is missing or holds a NUL byte");
		*ret = strndup(s, len);
	}
	return *ret ? NULL : malformed(c, "cannot read the file name");
}

/* "diff --git a/X b/X" of a section without --- and +++: both halves are alike. */
static void git_names(const char *rest, size_t len, struct diff_file *file)
{
	size_t half = len / 2;

	if (len < 3 || len % 2 == 0 || rest[half] != ' ')
		return;
	file->old_path = strndup(rest, half);
	file->new_path = strndup(rest + half + 1, half);
}

/*
 * "rename from X" has no a/ prefix; give it the one that the section's other paths have. `rest` is
 * what follows "diff --git ": "a/X b/Y", or "X Y" when made with --no-prefix.
 */
static char *prefixed(
	const char *rest, size_t rest_len, bool from, const char *name, size_t name_len)
{
	char *out;
	bool bare = name_len <= rest_len && memcmp(rest, name, name_len) == 0;

	if (!from && name_len < rest_len)
		bare = rest[rest_len - name_len - 1] == ' ';
	if (asprintf(&out, "%s%.*s", bare ? "" : from ? "a/" : "b/", (int)name_len, name) < 0)
		return NULL;
	return out;
}

const char *diff_strip(const char *path, unsigned level)
{
	for (unsigned i = 0; i < level; i++) {
		path = strchr(path, '/');
		if (!path)
			return NULL;
		path += strspn(path, "/");
	}
	if (*path == '\0' || *path == '/')
		return NULL;
	for (const char *p = path; *p;) {
		size_t n = strcspn(p, "/");

		if (n == 2 && p[0] == '.' && p[1] == '.')
			return NULL;
		p += n;
		p += strspn(p, "/");
	}
	for (const char *p = path; *p; p++) {
		if (iscntrl((unsigned char)*p))
			return NULL;
	}
	return path;
}

unsigned diff_depth(const char *path)
{
	unsigned n = 0;

	while ((path = strchr(path, '/'))) {
		path += strspn(path, "/");
		n += *path != '\0';
	}
	return n;
}

/* ---- hunks ---- */

static bool parse_number(const char **p, const char *end, size_t *ret)
{
	size_t n = 0;
	const char *start = *p;

	while (*p < end && isdigit((unsigned char)**p)) {
		n = n * 10 + (*(*p)++ - '0');
		if (n > MAX_LINES)
			return false;
	}
	*ret = n;
	return *p > start;
}

static bool parse_range(const char **p, const char *end, char sign, size_t *start, size_t *count)
{
	*count = 1;
	if (*p >= end || *(*p)++ != sign || !parse_number(p, end, start))
		return false;
	if (*p < end && **p == ',') {
		(*p)++;
		return parse_number(p, end, count);
	}
	return true;
}

static bool parse_hunk_header(const struct cursor *c, struct diff_hunk *hunk)
{
	const char *p = c->text + 3, *end = c->text + c->len;

	hunk->line = c->line;
	if (!parse_range(&p, end, '-', &hunk->old_start, &hunk->old_count))
		return false;
	if (p >= end || *p++ != ' ')
		return false;
	if (!parse_range(&p, end, '+', &hunk->new_start, &hunk->new_count))
		return false;
	return end - p >= 3 && memcmp(p, " @@", 3) == 0;
}

static struct suture_error *parse_hunk_line(
	struct cursor *c, struct diff_hunk *hunk, size_t *old_left, size_t *new_left)
{
	/* Mailers take the blank off an empty context line. */
	bool empty = c->len == 0 || (c->len == 1 && c->had_cr);
	char kind = empty ? ' ' : c->text[0];
	bool old = kind == ' ' || kind == '-', new = kind == ' ' || kind == '+';

	if (!old && !new)
		return malformed(c, "this is no line of a hunk: the diff is damaged or cut off");
	if (old > *old_left || new > *new_left)
		return malformed(c, "the hunk has other lines than its header says");
	struct diff_line *line = vec_add(&hunk->lines);
	if (!line)
		return error_nomem();
	*line = (struct diff_line){kind, c->text + !empty, c->len - !empty, true};
	*old_left -= old;
	*new_left -= new;
	return NULL;
}

static struct suture_error *parse_hunk(struct cursor *c, struct diff_file *file)
{
	struct diff_hunk *hunk = vec_add(&file->hunks);

	if (!hunk)
		return error_nomem();
	if (!parse_hunk_header(c, hunk))
		return malformed(c, "malformed hunk header");
	size_t old_left = hunk->old_count, new_left = hunk->new_count;
	advance(c);
	while (old_left || new_left || starts(c, "\\ ")) {
		if (c->eof)
			return malformed(c, "the diff ends in the middle of a hunk");
		if (starts(c, "\\ ")) {
			if (!hunk->lines.n)
				return malformed(c, "\"No newline\" without a line");
			hunk->lines.at[hunk->lines.n - 1].newline = false;
		} else {
			TRY(parse_hunk_line(c, hunk, &old_left, &new_left));
		}
		advance(c);
	}
	/* A signature ("-- ") or the next header may follow, but no further hunk line. */
	bool next_file = starts(c, "--- ") && next_starts(c, "+++ ");
	bool signature = starts(c, "--") && (c->len == 2 || (c->len == 3 && c->text[2] == ' '));
	if ((starts(c, "-") || starts(c, "+") || starts(c, " ")) && !next_file && !signature)
		return malformed(c, "the hunk has more lines than its header says");
	return NULL;
}

/* ---- sections ---- */

static bool is_header(const struct cursor *c)
{
	return starts(c, "--- ") && next_starts(c, "+++ ");
}

/* The --- and +++ lines, then hunks. `file` may know more from git's lines in front. */
static struct suture_error *parse_section(struct cursor *c, struct diff_file *file)
{
	_cleanup_free_ char *old_path = NULL, *new_path = NULL;

	learn_line_end(c);
	TRY(header_name(c, 4, &old_path));
	advance(c);
	TRY(header_name(c, 4, &new_path));
	advance(c);
	file->created |= strcmp(old_path, "/dev/null") == 0;
	file->deleted |= strcmp(new_path, "/dev/null") == 0;
	if (file->created && file->deleted)
		return malformed(c, "both sides are /dev/null");
	free(file->old_path);
	free(file->new_path);
	file->old_path = file->created ? strdup(new_path) : take(old_path);
	file->new_path = file->deleted ? strdup(file->old_path) : take(new_path);
	if (!file->old_path || !file->new_path)
		return error_nomem();
	if (!starts(c, "@@ "))
		return malformed(c, "a hunk (@@) is expected here");
	while (starts(c, "@@ "))
		TRY(parse_hunk(c, file));
	return NULL;
}

/* One of git's lines between "diff --git" and the hunks; false: it is none. */
static bool git_line(
	const struct cursor *c, const char *rest, size_t rest_len, struct diff_file *file)
{
	static const char *const known[] = {"index ", "old mode ", "new mode ", "similarity index ",
		"dissimilarity index ", "Binary files ", "GIT binary patch", "new file mode",
		"deleted file mode", "rename from ", "rename to ", "copy from ", "copy to "};
	size_t i = 0, n = sizeof(known) / sizeof(known[0]);

	while (i < n && !starts(c, known[i]))
		i++;
	if (i == n)
		return false;
	file->binary |= i == 5 || i == 6;
	file->created |= i == 7;
	file->deleted |= i == 8;
	file->renamed |= i == 9 || i == 10;
	file->copied |= i == 11 || i == 12;
	if (i >= 9) {
		size_t skip = strlen(known[i]);
		bool from = i % 2 == 1;
		char **path = from ? &file->old_path : &file->new_path;

		free(*path);
		*path = prefixed(rest, rest_len, from, c->text + skip, c->len - skip);
	}
	return true;
}

static struct suture_error *parse_git(struct cursor *c, struct diff *diff)
{
	struct diff_file *file = vec_add(&diff->files);

	if (!file)
		return error_nomem();
	learn_line_end(c);
	const char *rest = c->text + strlen("diff --git ");
	size_t len = c->len - strlen("diff --git ");
	file->line = c->line;
	git_names(rest, len, file);
	for (advance(c); git_line(c, rest, len, file); advance(c))
		;
	if (is_header(c))
		return parse_section(c, file);
	if (!file->old_path || !file->new_path) {
		if (file->binary || file->created || file->deleted)
			return malformed(c, "cannot tell the file names of this section");
		diff->files.n--; /* a change of mode, of a name with blanks: nothing to build */
		free(file->old_path);
		free(file->new_path);
	}
	return NULL;
}

static struct suture_error *parse_plain(struct cursor *c, struct diff *diff)
{
	struct diff_file *file = vec_add(&diff->files);

	if (!file)
		return error_nomem();
	file->line = c->line;
	return parse_section(c, file);
}

static struct suture_error *parse_file(struct cursor *c, struct diff *diff)
{
	if (starts(c, "diff --git "))
		return parse_git(c, diff);
	if (is_header(c))
		return parse_plain(c, diff);
	if (starts(c, "@@@ ") || starts(c, "diff --cc ") || starts(c, "diff --combined "))
		return error_create(SUTURE_ERROR_UNSUPPORTED,
			"%s, line %zu: combined diffs (of merges) are not supported", c->name,
			c->line);
	if (starts(c, "*** ") && next_starts(c, "--- "))
		return error_hint(
			error_create(SUTURE_ERROR_UNSUPPORTED,
				"%s, line %zu: context diffs are not supported", c->name, c->line),
			"make a unified diff (diff -u)");
	if (starts(c, "@@ -"))
		return malformed(c, "a hunk without the names of its file (--- and +++)");
	advance(c);
	return NULL;
}

struct suture_error *diff_parse(char *data, size_t size, const char *name, struct diff *ret)
{
	struct cursor c = {.next = data, .end = data + size, .name = name};
	struct diff diff = {.data = data};

	advance(&c);
	while (!c.eof) {
		struct suture_error *err = parse_file(&c, &diff);

		if (err) {
			diff_deinit(&diff);
			return err;
		}
	}
	diff.n_lines = c.line;
	*ret = diff;
	return NULL;
}

struct suture_error *diff_read(const char *path, struct diff *ret)
{
	char *data;
	size_t size;

	TRY(error_wrap(path_read_file(path, DIFF_MAX_SIZE, &data, &size), "the fix"));
	return diff_parse(data, size, path_basename(path), ret);
}

void diff_deinit(struct diff *diff)
{
	vec_foreach (file, &diff->files) {
		vec_foreach (hunk, &file->hunks)
			vec_free(&hunk->lines);
		vec_free(&file->hunks);
		free(file->old_path);
		free(file->new_path);
	}
	vec_free(&diff->files);
	free(diff->data);
	*diff = (struct diff){};
}
