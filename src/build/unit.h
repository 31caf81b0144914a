/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A translation unit that the fix reaches, compiled twice: what `capture` hands to the differ.
 */
#ifndef BUILD_UNIT_H
#define BUILD_UNIT_H

#include <stdbool.h>

#include "base/error.h"
#include "base/vec.h"

struct unit {
	char *source;	 /* absolute path of the main source file, in the original tree */
	char *name;	 /* as the compiler was given it: DW_AT_name of its CU */
	char *directory; /* where the compiler ran: DW_AT_comp_dir, original tree */
	char *output;	 /* -o of the recorded command, for messages; may be NULL */
	char *compiler;	 /* argv[0] */
	char *before;	 /* path of the object without the fix; NULL for a unit the fix adds */
	char *after;	 /* path of the object with the fix; NULL for a unit the fix removes */
	bool optional;	 /* several recorded compiles of one source: the one that matches the target
			    is meant, the others are dropped */
};

struct units {
	VEC(struct unit) v;
	VEC(char *) notes; /* hunks set aside and the like, one sentence each */
	char *work_dir;	   /* private directory that holds everything; removed by units_deinit */
	double compile_seconds;
};
void units_deinit(struct units *units);

struct image;
struct capture_options {
	const char *diff;	 /* path */
	const char *compdb;	 /* directory or file */
	const char *source_root; /* NULL: found */
	struct image *
		*targets; /* to tell units that are not part of any target, and missing ones */
	size_t n_targets;
};

/*
 * Find the units that the fix reaches and compile each without and with the fix, at the paths of
 * the original (as the object files tell it: __FILE__, DWARF), in a private copy. Errors: DIFF,
 * COMPDB, COMPILE, UNSUPPORTED (LTO, assembler source), NO_CHANGE.
 */
struct suture;
struct suture_error *capture_units(
	struct suture *ctx, const struct capture_options *options, struct units *ret) MUST_USE;

/*
 * Compare the units' objects, match them against the targets, decide what goes into the patch, and
 * add it to `patch` (images, sections, symbols, functions, expects).
 * Errors: NO_CHANGE, REFUSED, SOURCE_MISMATCH, SYMBOL, TOO_SMALL, UNSUPPORTED.
 */
struct patch;
struct suture_error *select_changes(struct suture *ctx, const struct units *units,
	struct image **targets, size_t n_targets, struct patch *patch) MUST_USE;

#endif
