/* SPDX-License-Identifier: Apache-2.0 */
/* Where a #line directive may stand in C source, and where one is needed: see renumber.h. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "build/renumber.h"

#define RAW_DELIMITER_MAX 16 /* C++ [lex.string] */

/* An open #if: what is known about its groups. */
struct group {
	size_t depth;  /* of parentheses where it starts */
	bool neutral;  /* some group ended at that depth */
	bool has_else; /* #else seen: one of the groups is compiled */
	bool dirty;    /* a directive was put into one of its groups */
};

/* What the compiler is in the middle of at the start of a line. */
struct lexer {
	bool comment;			 /* block comment */
	bool continued;			 /* the line before ended with a backslash */
	bool directive;			 /* inside a preprocessing directive */
	bool line_comment;		 // a continued one
	char quote;			 /* open ' or " (continued lines only) */
	char raw[RAW_DELIMITER_MAX + 3]; /* ")delim\"" that ends an open raw string, or "" */
	size_t depth;			 /* of parentheses outside directives */
	bool group_ended;		 /* the line was #elif, #else or #endif of a dirty group */
	VEC(struct group) groups;
};

static bool is_word(char c)
{
	return isalnum((unsigned char)c) || c == '_';
}

static const char *skip_blanks(const char *p, const char *end)
{
	while (p < end && (*p == ' ' || *p == '\t' || *p == '\f' || *p == '\v'))
		p++;
	return p;
}

static bool is_blank_line(const struct text_line *line)
{
	const char *end = line->text + line->len;
	const char *p = skip_blanks(line->text, end);

	return p == end || (p + 1 == end && *p == '\r');
}

/* The line starts a directive (given that it starts in plain code). */
static bool is_directive(const struct text_line *line)
{
	const char *end = line->text + line->len;
	const char *p = skip_blanks(line->text, end);

	return p < end && *p == '#';
}

static bool ends_with_backslash(const char *text, size_t len)
{
	while (len && isspace((unsigned char)text[len - 1]))
		len--;
	return len && text[len - 1] == '\\';
}

/* ---- conditionals ---- */

static void end_branch(struct lexer *lx, struct group *group)
{
	group->neutral |= lx->depth == group->depth;
	lx->group_ended = group->dirty;
}

static void else_directive(struct lexer *lx, bool is_else)
{
	if (!lx->groups.n)
		return;
	struct group *group = &lx->groups.at[lx->groups.n - 1];

	end_branch(lx, group);
	group->has_else |= is_else;
	lx->depth = group->depth;
}

static void endif_directive(struct lexer *lx)
{
	if (!lx->groups.n)
		return;
	struct group *group = &lx->groups.at[lx->groups.n - 1];

	end_branch(lx, group);
	if (group->neutral || !group->has_else)
		lx->depth = group->depth;
	lx->groups.n--;
}

static bool conditional(struct lexer *lx, const char *p, const char *end)
{
	size_t n = 0;

	p = skip_blanks(p, end);
	while (p + n < end && is_word(p[n]))
		n++;
	if (n >= 2 && memcmp(p, "if", 2) == 0) {
		struct group group = {.depth = lx->depth};

		return vec_push(&lx->groups, group);
	}
	if (n == 5 && memcmp(p, "endif", 5) == 0)
		endif_directive(lx);
	else if (n >= 4 && memcmp(p, "el", 2) == 0)
		else_directive(lx, memcmp(p, "else", 4) == 0);
	return true;
}

/* ---- one line ---- */

/* text[i] is an opening quote; is it that of a raw string, R"delim( ? */
static bool raw_string(struct lexer *lx, const char *text, size_t i, size_t len)
{
	size_t start = i, n = 0;

	while (start && is_word(text[start - 1]))
		start--;
	size_t prefix = i - start;
	if (prefix == 0 || prefix > 3 || text[i - 1] != 'R' ||
		(prefix == 2 && !strchr("LuU", text[start])) ||
		(prefix == 3 && memcmp(text + start, "u8R", 3) != 0))
		return false;
	while (i + 1 + n < len && n <= RAW_DELIMITER_MAX && text[i + 1 + n] != '(') {
		if (strchr(" )\\\t\v\f\r\"", text[i + 1 + n]))
			return false;
		n++;
	}
	if (n > RAW_DELIMITER_MAX || i + 1 + n >= len)
		return false;
	snprintf(lx->raw, sizeof(lx->raw), ")%.*s\"", (int)n, text + i + 1);
	return true;
}

/* 1'000'000: an apostrophe inside a number. */
static bool digit_separator(const char *text, size_t i)
{
	size_t start = i;

	while (start && (is_word(text[start - 1]) || text[start - 1] == '\''))
		start--;
	return start < i && isdigit((unsigned char)text[start]);
}

/* Everything that can be open at the end of a line; returns how many bytes were consumed. */
static size_t inside(struct lexer *lx, const char *text, size_t i, size_t len)
{
	if (lx->comment) {
		const char *end = memmem(text + i, len - i, "*/", 2);

		lx->comment = end == NULL;
		return end ? (size_t)(end + 2 - text) - i : len - i;
	}
	if (lx->raw[0]) {
		const char *end = memmem(text + i, len - i, lx->raw, strlen(lx->raw));
		size_t n = end ? (size_t)(end - text) + strlen(lx->raw) - i : len - i;

		if (end)
			lx->raw[0] = '\0';
		return n;
	}
	if (text[i] == '\\')
		return i + 1 < len ? 2 : 1;
	if (text[i] == lx->quote)
		lx->quote = '\0';
	return 1;
}

static size_t plain(struct lexer *lx, const char *text, size_t i, size_t len)
{
	char c = text[i], next = i + 1 < len ? text[i + 1] : '\0';

	if (c == '/' && next == '*') {
		lx->comment = true;
		return 2;
	}
	if (c == '/' && next == '/') {
		lx->line_comment = true;
		return len - i;
	}
	if (c == '"' && raw_string(lx, text, i, len))
		return 1;
	if (c == '"' || (c == '\'' && !digit_separator(text, i)))
		lx->quote = c;
	if (c == '(' && !lx->directive)
		lx->depth++;
	if (c == ')' && !lx->directive && lx->depth)
		lx->depth--;
	return 1;
}

static bool lex_line(struct lexer *lx, const struct text_line *line)
{
	const char *text = line->text;
	bool fresh = !lx->comment && !lx->continued && !lx->raw[0];

	lx->group_ended = false;
	if (fresh) {
		lx->directive = is_directive(line);
		if (lx->directive && !conditional(lx, (char *)memchr(text, '#', line->len) + 1,
					     text + line->len))
			return false;
	}
	for (size_t i = 0; i < line->len && !lx->line_comment;) {
		if (lx->comment || lx->raw[0] || lx->quote)
			i += inside(lx, text, i, line->len);
		else
			i += plain(lx, text, i, line->len);
	}
	lx->continued = !lx->raw[0] && ends_with_backslash(text, line->len);
	if (!lx->continued) {
		lx->quote = '\0'; /* an apostrophe in a comment or in skipped text */
		lx->line_comment = false;
	}
	return true;
}

/* A directive may stand in front of this line. */
static bool is_safe(struct lexer *lx, const struct text_line *line)
{
	if (lx->comment || lx->continued || lx->raw[0])
		return false;
	/* The end of a function: whatever we miscounted before ends here. */
	if (line->len && line->text[0] == '}')
		lx->depth = 0;
	return lx->depth == 0;
}

/* ---- inserting ---- */

#define DIRECTIVE_MAX 32 /* bytes of one "#line N" */

static struct suture_error *emit(struct text *out, char **pool, size_t number)
{
	int n = snprintf(*pool, DIRECTIVE_MAX, "#line %zu", number);
	struct text_line line = {.text = *pool, .len = n, .newline = true};

	*pool += DIRECTIVE_MAX;
	return vec_push(&out->lines, line) ? NULL : error_nomem();
}

/* At most one directive per line; `pool` has room for all. */
static struct suture_error *renumber(
	struct lexer *lx, const struct text *text, char *pool, struct text *out)
{
	size_t current = 1;  /* what the compiler takes the next line for */
	bool unsure = false; /* it may have skipped our last directive */

	vec_foreach (line, &text->lines) {
		bool wanted = line->original && (unsure || line->original != current);

		if (wanted && is_safe(lx, line) && !is_directive(line) && !is_blank_line(line)) {
			TRY(emit(out, &pool, line->original));
			current = line->original;
			unsure = false;
			if (lx->groups.n)
				lx->groups.at[lx->groups.n - 1].dirty = true;
		}
		if (!vec_push(&out->lines, *line) || !lex_line(lx, line))
			return error_nomem();
		unsure |= lx->group_ended;
		current++;
	}
	return NULL;
}

struct suture_error *text_keep_line_numbers(struct text *text, char **ret_storage)
{
	struct lexer lx = {};
	struct text out = {};
	_cleanup_free_ char *pool = calloc(text->lines.n + 1, DIRECTIVE_MAX);

	if (!pool)
		return error_nomem();
	struct suture_error *err = renumber(&lx, text, pool, &out);
	vec_free(&lx.groups);
	if (err) {
		text_deinit(&out);
		return err;
	}
	text_deinit(text);
	*text = out;
	*ret_storage = take(pool);
	return NULL;
}
