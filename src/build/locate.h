/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the functions and variables of one unit are in one target image. Names give candidates,
 * run-pre matching decides; what the matched code refers to locates the rest. Nothing is located
 * by being the first of its name.
 */
#ifndef BUILD_LOCATE_H
#define BUILD_LOCATE_H

#include "build/match.h"
#include "build/object.h"
#include "build/target.h"
#include "build/unit.h"

enum place_state {
	PLACE_ABSENT,	 /* no symbol of that name that could be it */
	PLACE_FOUND,	 /* matched; data: initial content matched */
	PLACE_MISMATCH,	 /* there is a candidate, and it is not what the source gives */
	PLACE_AMBIGUOUS, /* several candidates match */
};

/* Where a span of the original object is. */
struct place {
	enum place_state state;
	uint64_t address, size;
	struct match match; /* of code that was found; why: what is wrong otherwise */
	bool checked;
};

/* What is known of a span or of an undefined symbol; one symbol may be reached in several ways. */
struct known {
	bool has_address, has_dynamic, has_tls, has_tls_dynamic;
	uint64_t address, tls;
	uint32_t dynsym;
};

struct location {
	struct target *target;
	const struct unit *unit;
	struct object *before;
	struct place *places;	  /* per span */
	struct known *spans;	  /* per span */
	struct known *symbols;	  /* per symbol of the object: undefined ones */
	size_t found, mismatched; /* functions; of a unit that has none: variables and constants */
	uint64_t found_bytes;
	bool file_known; /* the image names the unit's source file, or names no files at all */
};

struct suture_error *locate(struct target *target, const struct unit *unit, struct object *before,
	struct location *ret) MUST_USE;
void location_deinit(struct location *location);

/*
 * Why a span cannot be used: SOURCE_MISMATCH or SYMBOL, saying what differs where. For states
 * other than PLACE_FOUND.
 */
struct suture_error *location_error(
	const struct location *location, const struct span *span) MUST_USE;

#endif
