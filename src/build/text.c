/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Applying a diff to a text that remembers which line was which in the original: see diff.h.
 */
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "build/diff.h"

struct suture_error *text_parse(const char *data, size_t size, struct text *ret)
{
	struct text text = {};
	const char *end = data + size;

	while (data < end) {
		const char *nl = memchr(data, '\n', end - data);
		const char *stop = nl ? nl : end;
		struct text_line line = {
			.text = data,
			.len = stop - data,
			.newline = nl != NULL,
			.original = text.lines.n + 1,
		};

		if (!vec_push(&text.lines, line)) {
			text_deinit(&text);
			return error_nomem();
		}
		data = nl ? nl + 1 : end;
	}
	*ret = text;
	return NULL;
}

void text_deinit(struct text *text)
{
	vec_free(&text->lines);
}

struct suture_error *text_print(const struct text *text, char **ret, size_t *ret_size)
{
	size_t size = 0;

	vec_foreach (line, &text->lines)
		size += line->len + line->add_cr + line->newline;
	char *out = malloc(size + 1), *p = out;
	if (!out)
		return error_nomem();
	vec_foreach (line, &text->lines) {
		memcpy(p, line->text, line->len);
		p += line->len;
		if (line->add_cr)
			*p++ = '\r';
		if (line->newline)
			*p++ = '\n';
	}
	*p = '\0';
	*ret = out;
	*ret_size = size;
	return NULL;
}

/* One hunk in the direction in which it is applied. */
struct side {
	VEC(const struct diff_line *) before, after;
	size_t start; /* index at which `before` should be, without earlier shifts */
};

#define _cleanup_side_ __attribute__((cleanup(side_deinit)))

static void side_deinit(struct side *side)
{
	vec_free(&side->before);
	vec_free(&side->after);
}

static struct suture_error *side_init(struct side *side, const struct diff_hunk *hunk, bool reverse)
{
	char gone = reverse ? '+' : '-';
	size_t start = reverse ? hunk->new_start : hunk->old_start;
	size_t count = reverse ? hunk->new_count : hunk->old_count;

	*side = (struct side){};
	vec_foreach (line, &hunk->lines) {
		if (line->kind == ' ' || line->kind == gone) {
			if (!vec_push(&side->before, line))
				return error_nomem();
		}
		if (line->kind == ' ' || line->kind != gone) {
			if (!vec_push(&side->after, line))
				return error_nomem();
		}
	}
	/* "-5,0" means behind line 5, "-5,1" means line 5. */
	side->start = count && start ? start - 1 : start;
	return NULL;
}

static size_t without_cr(const char *text, size_t len)
{
	return len - (len && text[len - 1] == '\r');
}

static bool same_line(const struct text_line *a, const struct diff_line *b, bool loose)
{
	size_t a_len = loose ? without_cr(a->text, a->len) : a->len;
	size_t b_len = loose ? without_cr(b->text, b->len) : b->len;

	if (!loose && a->add_cr)
		return false;
	return a_len == b_len && a->newline == b->newline && memcmp(a->text, b->text, a_len) == 0;
}

static bool matches_at(const struct text *text, size_t at, const struct side *side, bool loose)
{
	if (at > text->lines.n || side->before.n > text->lines.n - at)
		return false;
	for (size_t i = 0; i < side->before.n; i++) {
		if (!same_line(&text->lines.at[at + i], side->before.at[i], loose))
			return false;
	}
	return true;
}

/* Where the hunk differs from the text at the place it names; for the message. */
static struct suture_error *mismatch(const struct text *text, size_t at, const struct side *side)
{
	for (size_t i = 0; i < side->before.n; i++) {
		const struct diff_line *want = side->before.at[i];

		if (at + i >= text->lines.n)
			return error_create(SUTURE_ERROR_DIFF,
				"the source has only %zu lines, the diff expects \"%.*s\" behind",
				text->lines.n, (int)(want->len < 60 ? want->len : 60), want->text);
		const struct text_line *have = &text->lines.at[at + i];
		if (!same_line(have, want, true))
			return error_create(SUTURE_ERROR_DIFF,
				"source line %zu is \"%.*s\", the diff expects \"%.*s\"",
				have->original, (int)(have->len < 60 ? have->len : 60), have->text,
				(int)(want->len < 60 ? want->len : 60), want->text);
	}
	return error_create(SUTURE_ERROR_DIFF, "the end of the file is another one");
}

/*
 * The place of the hunk at or behind `low`: where it says, else the only place where it matches.
 * More than one would be a guess.
 */
static struct suture_error *locate(const struct text *text, const struct side *side, size_t low,
	size_t expected, bool loose, size_t *ret)
{
	size_t found = SIZE_MAX;

	if (expected >= low && matches_at(text, expected, side, loose)) {
		*ret = expected;
		return NULL;
	}
	for (size_t at = low; at < text->lines.n && side->before.n; at++) {
		if (!matches_at(text, at, side, loose))
			continue;
		if (found != SIZE_MAX)
			return error_create(SUTURE_ERROR_DIFF,
				"not where it says (line %zu), and it matches at lines %zu and %zu",
				expected + 1, found + 1, at + 1);
		found = at;
	}
	if (found == SIZE_MAX)
		return mismatch(text, expected, side);
	*ret = found;
	return NULL;
}

/* Make room so that `after` lines stand where `before` lines were. */
static struct suture_error *resize(struct text *text, size_t at, size_t before, size_t after)
{
	size_t tail = text->lines.n - at - before;

	for (size_t i = before; i < after; i++) {
		if (!vec_add(&text->lines))
			return error_nomem();
	}
	if (text->lines.at)
		memmove(text->lines.at + at + after, text->lines.at + at + before,
			tail * sizeof(*text->lines.at));
	text->lines.n = at + after + tail;
	return NULL;
}

/*
 * Replace side->before at `at` by side->after; unchanged lines stay what they are. When only line
 * endings made the hunk match loosely, added lines get those of the source.
 */
static struct suture_error *splice(
	struct text *text, size_t at, const struct diff_hunk *hunk, char gone, bool loose)
{
	VEC(struct text_line) lines = {};
	const struct text_line *old = text->lines.at + at;
	bool ok = true, crlf = false;

	vec_foreach (line, &hunk->lines) {
		if (line->kind == ' ' || line->kind == gone)
			crlf |= old->len && old->text[old->len - 1] == '\r';
		if (line->kind == ' ')
			ok &= vec_push(&lines, *old);
		old += line->kind == ' ' || line->kind == gone;
		if (line->kind == ' ' || line->kind == gone)
			continue;
		struct text_line new = {
			.text = line->text,
			.len = loose ? without_cr(line->text, line->len) : line->len,
			.newline = line->newline,
			.add_cr = loose && crlf,
		};
		ok &= vec_push(&lines, new);
	}
	struct suture_error *err = ok ? NULL : error_nomem();
	if (!err)
		err = resize(text, at, old - (text->lines.at + at), lines.n);
	if (!err && lines.n)
		memcpy(text->lines.at + at, lines.at, lines.n * sizeof(*lines.at));
	vec_free(&lines);
	return err;
}

static struct suture_error *locate_either(const struct text *text, const struct side *side,
	size_t low, size_t expected, bool *ret_loose, size_t *ret)
{
	if (!side->before.n && text->lines.n)
		return error_hint(error_create(SUTURE_ERROR_DIFF,
					  "lines are added without any context to find the place"),
			"make the diff with context lines (diff -u)");
	struct suture_error *err = locate(text, side, low, expected, false, ret);
	*ret_loose = err != NULL;
	if (err) {
		suture_error_destroy(err);
		err = locate(text, side, low, expected, true, ret);
	}
	return err;
}

struct suture_error *text_apply(
	struct text *text, const struct diff_file *file, bool reverse, size_t *ret_offset)
{
	size_t low = 0, largest = 0;
	ptrdiff_t shift = 0; /* what hunks so far moved, and how far off they were */

	for (size_t i = 0; i < file->hunks.n; i++) {
		const struct diff_hunk *hunk = &file->hunks.at[i];
		_cleanup_side_ struct side side = {};
		size_t at = 0;
		bool loose = false;

		TRY(side_init(&side, hunk, reverse));
		ptrdiff_t expected = (ptrdiff_t)side.start + shift;
		if (expected < (ptrdiff_t)low)
			expected = low;
		TRY(error_wrap(locate_either(text, &side, low, expected, &loose, &at),
			"hunk %zu of %zu (line %zu of the diff)", i + 1, file->hunks.n,
			hunk->line));
		TRY(splice(text, at, hunk, reverse ? '+' : '-', loose));
		shift = (ptrdiff_t)(at + side.after.n) - (ptrdiff_t)(side.start + side.before.n);
		ptrdiff_t off = (ptrdiff_t)at - expected;
		if ((size_t)(off < 0 ? -off : off) > largest)
			largest = off < 0 ? -off : off;
		low = at + side.after.n;
	}
	if (ret_offset)
		*ret_offset = largest;
	return NULL;
}
