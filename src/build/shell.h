/* SPDX-License-Identifier: Apache-2.0 */
/* A command line as text: how a POSIX shell, or a compiler's response file, takes it apart. */
#ifndef BUILD_SHELL_H
#define BUILD_SHELL_H

#include "base/error.h"
#include "base/vec.h"

struct strings {
	VEC(char *) v;
};
void strings_deinit(struct strings *strings);
/* Takes over s (malloc'ed; NULL: out of memory). */
struct suture_error *strings_take(struct strings *strings, char *s) MUST_USE;
/* Copies s. */
struct suture_error *strings_add(struct strings *strings, const char *s) MUST_USE;

#define _cleanup_strings_ __attribute__((cleanup(strings_deinit)))

/*
 * POSIX shell words (XCU 2.2): quotes and backslashes. COMPDB when the text needs more of a shell
 * than that: variables, substitutions, pipes, redirections, lists.
 */
struct suture_error *shell_split(const char *command, struct strings *ret) MUST_USE;

/*
 * Replace each "@file" by the words in that file (GCC, "Overall Options"); files are relative to
 * `directory`, a file that cannot be opened leaves the argument as it is.
 */
struct suture_error *shell_expand_response_files(
	struct strings *argv, const char *directory) MUST_USE;

#endif
