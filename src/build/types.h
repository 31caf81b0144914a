/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Objects that a process has already made have the old layout: new code that expects another one
 * reads beside the member it means. So a fix that changes the layout of a type is refused.
 */
#ifndef BUILD_TYPES_H
#define BUILD_TYPES_H

#include "build/unit.h"

/*
 * Compare every structure, union and enumeration that a unit has before and after, by the debug
 * information of its two objects. REFUSED names the type and the member: grown, shrunk, moved,
 * added (also into padding), removed, of another size; an enumerator of another value. New types,
 * new enumerators, and another type of the same size in the same place are no change of layout.
 */
struct suture_error *types_check(const struct units *units) MUST_USE;

#endif
