/* SPDX-License-Identifier: Apache-2.0 */
/*
 * In which order the dynamic linker looks for a name: the link map (struct r_debug, <link.h>), the
 * global scope, and the scope of what was dlopen'ed. Rules: glibc elf/dl-lookup.c and
 * elf/dl-deps.c; musl's are the same as far as they can be told apart from outside.
 */
#ifndef APPLY_SCOPE_H
#define APPLY_SCOPE_H

#include "apply/target.h"

struct scope {
	struct target *target;
	VEC(size_t) order; /* images (indices) in link-map order; the executable first */
	VEC(char *) names; /* l_name of each */
	size_t n_startup;  /* so many of them were loaded at start: the global scope */
};

/* UNSUPPORTED without a link map (static executables), INPUT when it makes no sense. */
struct suture_error *scope_create(struct target *target, struct scope **ret) MUST_USE;
void scope_destroy(struct scope *scope);

/* Where a name is defined. */
struct definition {
	struct target_image *image;
	struct module_symbol symbol; /* name NULL */
};

/*
 * The definition that a reference from `from` binds to; *found false: there is none. SYMBOL when
 * the rules allow two answers (who loaded a dlopen'ed library is not told from outside).
 */
struct suture_error *scope_lookup(struct scope *scope, struct target_image *from, const char *name,
	const char *version, struct definition *ret, bool *found) MUST_USE;

/* The executable among the images, link map or not; NULL when it cannot be told. */
struct target_image *scope_executable(struct target *target);

#endif
