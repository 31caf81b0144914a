/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A source fix as people write it: a unified diff, plain or git's, often with a header for humans
 * in front (quilt, DEP-3, a mail) that is skipped. It is parsed strictly (a hunk that says seven
 * lines has seven), and applied exactly: context must match byte for byte (line endings apart),
 * at the place the hunk says or at the only other place where it matches.
 *
 * Diffs are hostile input: paths are checked by diff_strip(), never used as they are.
 */
#ifndef BUILD_DIFF_H
#define BUILD_DIFF_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "base/vec.h"

#define DIFF_MAX_SIZE (64u << 20) /* bytes; also of a source file */

struct diff_line {
	char kind; /* ' ' | '-' | '+' */
	const char *text;
	size_t len;   /* without newline */
	bool newline; /* false: "\ No newline at end of file" */
};

struct diff_hunk {
	size_t old_start, old_count, new_start, new_count;
	size_t line; /* of its @@ in the diff, from 1 */
	VEC(struct diff_line) lines;
};

struct diff_file {
	char *old_path, *new_path; /* as in the diff, prefix included; both always set */
	bool created, deleted;	   /* the other side is /dev/null */
	bool renamed, copied;	   /* git: new_path starts as the content of old_path */
	bool binary;		   /* content not in the diff, or not as text */
	size_t line;		   /* where it starts in the diff, from 1 */
	VEC(struct diff_hunk) hunks;
};

struct diff {
	char *data;
	VEC(struct diff_file) files; /* in order; one path may appear again (a series) */
	size_t n_lines;
};

/*
 * Parse. Takes over data (malloc'ed), also on failure. `name` is for messages. No file at all is
 * not an error here. DIFF: malformed; UNSUPPORTED: combined (merge) or context diffs.
 */
struct suture_error *diff_parse(
	char *data, size_t size, const char *name, struct diff *ret) MUST_USE;
struct suture_error *diff_read(const char *path, struct diff *ret) MUST_USE;
void diff_deinit(struct diff *diff);

/*
 * `path` without its first `level` components, as patch -p does; NULL when it has no more than
 * those, or when the rest is not a plain relative path (absolute, "..", control characters).
 */
const char *diff_strip(const char *path, unsigned level);
/* Number of components that could be stripped and leave something. */
unsigned diff_depth(const char *path);

/* ---- text and applying ---- */

struct text_line {
	const char *text; /* in the source's or the diff's buffer, which must stay */
	size_t len;	  /* without newline */
	bool newline;
	bool add_cr;	 /* write "\r" before the newline: an added line in a CRLF file */
	size_t original; /* line number without the fix, from 1; 0: the fix brings it */
};

struct text {
	VEC(struct text_line) lines;
};

/* Split; `data` must stay as long as the text. */
struct suture_error *text_parse(const char *data, size_t size, struct text *ret) MUST_USE;
void text_deinit(struct text *text);
/* The bytes; malloc'ed, *ret_size without the final NUL. */
struct suture_error *text_print(const struct text *text, char **ret, size_t *ret_size) MUST_USE;

/*
 * Apply every hunk of `file` to text, or (reverse) take every hunk out. On failure (DIFF, saying
 * which hunk and where it differs) text is undefined but can be deinitialised. Messages do not
 * name the file: wrap them. *ret_offset: the largest distance by which a hunk was not where it
 * said, or NULL.
 */
struct suture_error *text_apply(
	struct text *text, const struct diff_file *file, bool reverse, size_t *ret_offset) MUST_USE;

#endif
