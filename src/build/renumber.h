/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Line numbers of untouched code must not move: asserts, logs and allocators compile __LINE__ into
 * the code, and a fix of six lines would seem to change every function below it. So `#line` is put
 * behind each run of changed lines, at the next place where a directive may stand.
 */
#ifndef BUILD_RENUMBER_H
#define BUILD_RENUMBER_H

#include "build/diff.h"

/*
 * Insert directives into `text` so that lines with an original number are compiled under it. Not
 * inside a comment, a string, a continued line or parentheses (a macro's arguments): there
 * numbers are off until the next safe line. A directive in a conditional group may be skipped by
 * the compiler, so it is repeated behind the group. *ret_storage holds the inserted lines: to be
 * freed after the text.
 */
struct suture_error *text_keep_line_numbers(struct text *text, char **ret_storage) MUST_USE;

#endif
