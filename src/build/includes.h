/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which recorded compiles might read a changed file? Answered by looking at #include lines, so
 * that no compiler runs for units that the fix does not reach. Names are matched by their ends
 * ("sub/x.h" may be any .../sub/x.h of the trees), an #include of a macro may mean any name that
 * the macro is defined as anywhere, and anything if the macro is computed: the answer holds every
 * unit that does, and some that do not.
 */
#ifndef BUILD_INCLUDES_H
#define BUILD_INCLUDES_H

#include "build/compdb.h"
#include "build/shadow.h"

/*
 * `changed`: absolute physical paths, which need not exist (files that the fix brings).
 * ret[i] is set for command i when it might include one of them, or its source is one of them;
 * ret_others[i] the same for `others`, physical paths of sources whose command is not known.
 * ret_read[i]: some source might include changed file i.
 */
struct suture_error *includes_find(const struct compdb *db, const struct strings *others,
	const struct tree *trees, size_t n_trees, const struct strings *changed, bool *ret,
	bool *ret_others, bool *ret_read) MUST_USE;

/* The files that a dependency file (-MD) names, as it names them. */
struct suture_error *includes_read_deps(const char *path, struct strings *ret) MUST_USE;

#endif
