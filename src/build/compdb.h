/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The recorded build: compile_commands.json (the JSON compilation database of Clang's
 * documentation), written by cmake, meson or `bear -- make`. An entry says which compiler ran
 * where, on which source, with which arguments.
 *
 * One bad entry does not spoil the rest: what is wrong with it is kept and reported when the fix
 * needs it.
 */
#ifndef BUILD_COMPDB_H
#define BUILD_COMPDB_H

#include <stdbool.h>

#include "base/error.h"
#include "base/vec.h"
#include "build/shell.h"

enum language {
	LANGUAGE_C,
	LANGUAGE_CXX,
	LANGUAGE_ASSEMBLER,
	LANGUAGE_OTHER,
};

struct command {
	char *directory;     /* absolute */
	char *file;	     /* the source: absolute, normalised as text */
	char *physical;	     /* the same with symbolic links resolved */
	char *output;	     /* "output" or -o, as written; may be NULL */
	struct strings argv; /* argv[0]: compiler or wrapper; response files expanded */
	size_t source_at;    /* which argument is the source */
	enum language language;
	bool lto, debug_info; /* what the flags ask for */
	struct suture_error
		*broken; /* why it cannot be run, or NULL; then argv is not to be used */
};

struct compdb {
	char *path;
	VEC(struct command) commands;
};

/*
 * `path`: the file, or the directory it is in. Entries whose source does not exist any more (a
 * configure script's tests) are left out, and so are those that differ from another one in
 * nothing but where the output goes. COMPDB: missing, not JSON, not a database, empty.
 */
struct suture_error *compdb_read(const char *path, struct compdb *ret) MUST_USE;
void compdb_deinit(struct compdb *db);

/* Whether files of this name can be a translation unit of their own, and in which language. */
bool compdb_language_of(const char *file, enum language *ret);

#endif
