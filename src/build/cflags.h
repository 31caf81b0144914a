/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A recorded compiler command, understood well enough to run it again somewhere else: which
 * argument is the source, which are paths, which write files. Both GCC's and Clang's options are
 * known; an unknown option is passed on as it is.
 */
#ifndef BUILD_CFLAGS_H
#define BUILD_CFLAGS_H

#include "build/compdb.h"

struct shadow;

/*
 * Fill source_at, language, output, lto and debug_info of a command whose argv and file are set.
 * COMPDB when no argument is its source; UNSUPPORTED for commands that are no plain compile.
 */
struct suture_error *cflags_examine(struct command *cmd) MUST_USE;
/* The arguments that decide what the object will be: without outputs and dependency files. */
struct suture_error *cflags_identity(const struct command *cmd, struct strings *ret) MUST_USE;
/*
 * Values of -include and -imacros into `files`; of -I, -iquote and the like into `dirs`; of -D into
 * `defines`.
 */
struct suture_error *cflags_includes(const struct command *cmd, struct strings *files,
	struct strings *dirs, struct strings *defines) MUST_USE;
/*
 * `path` as the recorded compile wrote it into debug information: through its own
 * -ffile-prefix-map and -fdebug-prefix-map. malloc'ed; NULL: out of memory.
 */
char *cflags_debug_path(const struct command *cmd, const char *path);

struct cflags_job {
	const struct shadow *shadow;
	int side;	      /* SHADOW_BEFORE | SHADOW_AFTER */
	const char *source;   /* original path of another source to compile, or NULL */
	const char *object;   /* where the object goes; NULL: only list dependencies */
	const char *dep_file; /* where the list of files that were read goes */
};

/*
 * The command that compiles in the private copy: paths lead there, nothing is written but object
 * and dep_file, functions and data get sections of their own, and the object tells the original's
 * paths.
 */
struct suture_error *cflags_make(
	const struct command *cmd, const struct cflags_job *job, struct strings *ret) MUST_USE;

/* One of the flags that cflags_make() adds, or of a kind that does not reach the code. */
bool cflags_is_ours(const char *flag);

#endif
