/* SPDX-License-Identifier: Apache-2.0 */
/*
 * File names as text, and whole files as bytes: what finding and copying sources needs. Nothing
 * here writes outside the paths it is given. Results are malloc'ed; NULL means out of memory
 * unless said otherwise.
 */
#ifndef BUILD_PATH_H
#define BUILD_PATH_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

/* `path` if absolute, else base + "/" + path; "." and ".." are taken out as text. */
char *path_join(const char *base, const char *path);
/* Everything before the last slash; "/" at the top, "." without any slash. */
char *path_dirname(const char *path);
/* Behind the last slash; points into `path`. */
const char *path_basename(const char *path);
/* The extension with its dot, "" without one; points into `path`. */
const char *path_extension(const char *path);
/* `path` is `root` or below it; both absolute and normalised. */
bool path_under(const char *path, const char *root);
/* The part of path below root, without leading slash ("" for root itself). */
const char *path_below(const char *path, const char *root);
/* `path` ends with `tail` at a component boundary. */
bool path_ends_with(const char *path, const char *tail);
/*
 * Symbolic links resolved as far as the path exists; what does not exist is appended as text. So
 * two names of one file compare equal. Absolute paths only.
 */
char *path_physical(const char *path);
bool path_is_file(const char *path);
bool path_is_directory(const char *path);

/*
 * A whole regular file of at most `max` bytes; one NUL follows, which *ret_size does not count.
 */
struct suture_error *path_read_file(
	const char *path, size_t max, char **ret, size_t *ret_size) MUST_USE;
struct suture_error *path_write_file(const char *path, const void *data, size_t size) MUST_USE;
/* Make a directory and its parents. */
struct suture_error *path_make_directory(const char *path) MUST_USE;
/* Remove a directory and everything below it; symbolic links are removed, not followed. */
void path_remove_tree(const char *path);

#endif
