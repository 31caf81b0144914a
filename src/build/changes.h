/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fix, file by file: which source becomes what. Several sections of a diff may be about one
 * file (a series of commits); they are applied in order.
 */
#ifndef BUILD_CHANGES_H
#define BUILD_CHANGES_H

#include <sys/stat.h>

#include "build/diff.h"
#include "build/root.h"
#include "build/shadow.h"
#include "build/strmap.h"

struct change {
	char *below;	/* path below the source root, for people */
	char *physical; /* absolute; need not exist */
	VEC(const struct diff_file *) parts;
	size_t from;  /* git rename or copy: the change whose file this starts as; SIZE_MAX: none */
	bool existed; /* in the source tree */
	bool brought; /* the fix creates it */
	bool deleted; /* the fix removes it */
	bool binary;  /* in some part */
	bool may_be_read; /* by its name, or because something seems to include it */
	bool reached;	  /* a recorded compile reads it: it has to apply */
	bool applied;
	char *data; /* without the fix; NULL unless existed */
	size_t size;
	struct timespec mtime;
	struct text text; /* with the fix, once applied and not deleted */
	char *storage;	  /* behind text's #line directives */
};

struct changes {
	VEC(struct change) v;
	struct strmap by_path; /* physical path -> index */
};

/*
 * Sort the sections of the diff by file. Reads nothing yet. DIFF: a path that leads out of the
 * source tree. The diff must stay.
 */
struct suture_error *changes_collect(
	const struct diff *diff, const struct source_root *root, struct changes *ret) MUST_USE;
void changes_deinit(struct changes *changes);
/* NULL when the fix does not touch this physical path. */
struct change *changes_find(const struct changes *changes, const char *physical);

/*
 * Apply to every file. A file that is reached and does not take the fix is an error (DIFF; one that
 * has the fix already is told so); of others that fail `applied` stays false. The texts keep the
 * line numbers of what is untouched.
 */
struct suture_error *changes_apply(struct changes *changes) MUST_USE;
/* Put what applied and may be read onto the after side. */
struct suture_error *changes_write(
	const struct changes *changes, const struct shadow *shadow) MUST_USE;

#endif
