/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The private copy in which both compiles run. Two directories, one per side (before, after), each
 * mirror the original's absolute paths: <side>/home/u/src/x.c stands for /home/u/src/x.c. Files are
 * symbolic links to the originals, a patched file is a real file on the after side; everything
 * around the mirrored trees is one link each. The original is only ever read.
 *
 * To copy all of a large tree costs more than the compile. So only the directories that matter are
 * real ones, the others are one link each. Their price: "linked/../x.h" leads out, to the
 * original. Whoever compiles looks at what was read, and takes a whole copy if it has to.
 */
#ifndef BUILD_SHADOW_H
#define BUILD_SHADOW_H

#include <stdbool.h>
#include <time.h>

#include "base/error.h"
#include "base/vec.h"
#include "build/shell.h"

/* ---- what is in a directory ---- */

struct tree_entry {
	char *path;	    /* absolute */
	unsigned char type; /* DT_REG | DT_DIR | DT_LNK */
};

struct tree {
	char *root;			/* physical */
	VEC(struct tree_entry) entries; /* parents first; without the root itself */
};

/*
 * Everything below `root` (physical) that a compiler could read: version control, objects and
 * dependency files are left out.
 */
struct suture_error *tree_read(const char *root, struct tree *ret) MUST_USE;
void tree_deinit(struct tree *tree);

/* ---- the copy ---- */

enum { SHADOW_BEFORE, SHADOW_AFTER, SHADOW_SIDES };

struct shadow {
	char *side[SHADOW_SIDES];	/* absolute, physical */
	VEC(const struct tree *) trees; /* mirrored; owned by the caller */
};

/* Both sides are made in `work_dir` (physical path); a `second` copy has its place beside them. */
struct suture_error *shadow_init(struct shadow *shadow, const char *work_dir, bool second) MUST_USE;
void shadow_deinit(struct shadow *shadow);
/* To be called for each tree, then shadow_build() once. The tree must stay. */
struct suture_error *shadow_add(struct shadow *shadow, const struct tree *tree) MUST_USE;
/* `directories`: physical paths of those that must be real in the copy; NULL: all. */
struct suture_error *shadow_build(
	struct shadow *shadow, const struct strings *directories) MUST_USE;

const char *shadow_side(const struct shadow *shadow, int side);
/* An absolute original path is inside a mirrored tree, symbolic links resolved. */
bool shadow_covers(const struct shadow *shadow, const char *path);
/*
 * The path to use for `path` (absolute, original, as somebody wrote it): on that side if it leads
 * into a mirrored tree, else unchanged. malloc'ed.
 */
struct suture_error *shadow_path(
	const struct shadow *shadow, int side, const char *path, char **ret) MUST_USE;

/*
 * Change the after side. `path`: original physical path in a directory that is real. The new file
 * gets `mtime` (for __TIMESTAMP__).
 */
struct suture_error *shadow_put(const struct shadow *shadow, const char *path, const void *data,
	size_t size, struct timespec mtime) MUST_USE;
struct suture_error *shadow_remove(const struct shadow *shadow, const char *path) MUST_USE;

#endif
