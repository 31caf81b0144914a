/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the diff's paths start. A diff says "a/lib/x.c"; the recorded build says where sources are:
 * the root is the directory, and the strip level the number of leading components, with which the
 * most files of the diff are found. Two answers are told apart by whether the diff applies.
 */
#ifndef BUILD_ROOT_H
#define BUILD_ROOT_H

#include "build/compdb.h"
#include "build/diff.h"

struct source_root {
	char *path;	/* physical */
	unsigned level; /* components to strip (patch -p) */
};

/* `given`: the caller's root, or NULL. DIFF: nothing fits (says what was tried), or too much. */
struct suture_error *root_find(const struct diff *diff, const struct compdb *db, const char *given,
	struct source_root *ret) MUST_USE;
void root_deinit(struct source_root *root);

/*
 * The path of one file of the diff below the root: that of the new name if it exists (or the file
 * is created), else of the old one. DIFF when it is hostile or too short. *ret points into file.
 */
struct suture_error *root_path(
	const struct source_root *root, const struct diff_file *file, const char **ret) MUST_USE;

#endif
