/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the targets are made of, as their debug information tells it: a unit that is in no target
 * need not be compiled, and a unit of a target that the fix reaches but no record tells of must not
 * be missed.
 */
#ifndef BUILD_COVERAGE_H
#define BUILD_COVERAGE_H

#include <elfutils/libdw.h>

#include "build/compdb.h"

struct image;

struct coverage_unit {
	char *path;	   /* DW_AT_comp_dir and DW_AT_name, joined and normalised */
	const char *image; /* name of the target */
	enum language language;
	Dwarf_Die die;
	bool recorded; /* a recorded command compiles it */
};

struct coverage {
	VEC(struct coverage_unit) units;
	bool complete;	/* every target has debug information: what is not listed is not there */
	bool relocated; /* built elsewhere: paths are compared from the source root down */
};

/* The images must stay as long as the coverage. INPUT: damaged debug information. */
struct suture_error *coverage_read(
	struct image *const *images, size_t n, struct coverage *ret) MUST_USE;
void coverage_deinit(struct coverage *cov);

/*
 * ret[i]: command i may be part of a target, as far as the debug information tells. `root`: the
 * source root (physical).
 */
struct suture_error *coverage_match(
	struct coverage *cov, const struct compdb *db, const char *root, bool *ret) MUST_USE;
/* The unit has the name and directory that this command gives. */
bool coverage_is_unit_of(const struct coverage_unit *unit, const struct command *cmd);
/*
 * Sources of units without recorded command that are at hand (physical paths), for a look at what
 * they include.
 */
struct suture_error *coverage_unrecorded(const struct coverage *cov, struct strings *ret) MUST_USE;
/*
 * COMPDB when a unit without recorded command is compiled from `path` (physical, `below` the
 * source root) or has code or declarations from it.
 */
struct suture_error *coverage_check(
	const struct coverage *cov, const char *path, const char *below) MUST_USE;
/* That error, for a source that coverage_unrecorded() told. */
struct suture_error *coverage_missing(const char *source, const char *below) MUST_USE;

#endif
