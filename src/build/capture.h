/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stages of capture_units() (unit.h) and what they hand to each other:
 *
 *   capture.c          reading, finding the units that the fix reaches, notes
 *   capture_compile.c  compiling them on both sides
 *   capture_variants.c several compiles of one source
 *   capture_new.c      sources that the fix brings
 *   capture_aside.c    changes that no unit reads
 */
#ifndef BUILD_CAPTURE_H
#define BUILD_CAPTURE_H

#include "build/cflags.h"
#include "build/changes.h"
#include "build/compdb.h"
#include "build/coverage.h"
#include "build/includes.h"
#include "build/jobs.h"
#include "build/root.h"
#include "build/shadow.h"
#include "build/unit.h"

struct capture {
	struct suture *ctx;
	const struct capture_options *options;
	struct units *units;	   /* the result, its work_dir and notes */
	VEC(size_t) unit_commands; /* which command each unit comes from, as compiled */
	char *temp_dir;		   /* TMPDIR of the compilers */
	char *object_dir;
	struct diff diff;
	struct compdb db;
	struct source_root root;
	struct changes changes;
	struct strings changed; /* physical paths that the fix touches */
	struct coverage coverage;
	VEC(struct tree) trees; /* [0]: the source root */
	struct shadow shadow;
	bool whole_copy; /* of the trees, not only of the directories that matter */
	bool escaped;	 /* the copy may have led a compile to a file without the fix */
	bool *in_target; /* per command */
	bool *affected;	 /* per command: candidates first, then only what the fix reaches */
};

/* One sentence for the report. */
struct suture_error *capture_note(struct capture *cap, const char *fmt, ...) MUST_USE PRINTF(2, 3);

/* Where the compiler runs on that side: the recorded directory. */
struct suture_error *capture_directory(
	const struct capture *cap, const struct command *cmd, int side, char **ret) MUST_USE;
/* The original physical path of a file that a compile on that side read as `name`. */
char *capture_original(
	const struct capture *cap, int side, const char *directory, const char *name);

/*
 * Ask the compiler which files the commands `ask` read on that side: changes among them are
 * `reached`, commands that read one are affected. On the before side the others are not.
 */
struct suture_error *capture_confirm(struct capture *cap, int side, const bool *ask) MUST_USE;
/*
 * Compile every affected unit on both sides into cap->units. Sets cap->escaped on failures that a
 * whole copy may not have.
 */
struct suture_error *capture_compile(struct capture *cap) MUST_USE;

/*
 * Of several compiles of one source drop those that the target was not made by, where debug
 * information tells. To be called right after capture_compile().
 */
struct suture_error *capture_choose_variants(struct capture *cap) MUST_USE;
void unit_deinit(struct unit *unit);

/*
 * Compile `source` on the after side as `command` compiles its own; `id`: a number of its own.
 * *ret: the object, NULL if the compiler does not take it.
 */
struct suture_error *capture_compile_other(
	struct capture *cap, size_t command, size_t id, const char *source, char **ret) MUST_USE;
/*
 * `new` (physical) the way a command that wrote `recorded` for `old` (physical) would write it.
 * malloc'ed; NULL: out of memory.
 */
char *capture_respell(const char *recorded, const char *old, const char *new);

/* Named as sources are. Tests and documentation seldom are, what a source includes seldom is not.
 */
bool capture_can_be_included(const char *path);
/*
 * For every change: either a unit reads it, or it is set aside with a note, or (COMPDB,
 * UNSUPPORTED) the target is made of it in a way that we cannot follow.
 */
struct suture_error *capture_account(struct capture *cap) MUST_USE;

/* The fix brings this file, and it looks like a unit of its own. */
bool capture_is_new_source(const struct change *change);
/*
 * Add those new sources to cap->units that the units compiled so far refer to, and those that they
 * refer to. The others (tests, mostly) are set aside with a note.
 */
struct suture_error *capture_new_sources(struct capture *cap) MUST_USE;

#endif
