/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the fix changed in one unit. correlate() finds each span's twin, compare() tells which
 * differ. Both err on the safe side: what cannot be told to be the same counts as new, or changed.
 */
#ifndef BUILD_COMPARE_H
#define BUILD_COMPARE_H

#include "build/object.h"

/* Set span.twin in both objects. */
struct suture_error *correlate(struct object *before, struct object *after) MUST_USE;
/* A global that the fix moved from one unit to another; after correlate() of all units. */
struct suture_error *correlate_moved(struct object *before, struct object *after) MUST_USE;

/*
 * Set span.changed and span.reason of every span of `after`: bytes (relocated fields masked) or
 * references differ from its twin's, or it has none, or it refers to a constant that changed.
 */
struct suture_error *compare(struct object *after) MUST_USE;

/* The same content at both places: bytes, and references that mean the same. */
bool spans_equal(const struct span *before, const struct span *after);
/* The same place, whether moved or not. */
bool refs_equal(const struct object *before, const struct ref *b, const struct object *after,
	const struct ref *a);

#endif
