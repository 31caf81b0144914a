/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Run-pre matching (Ksplice, EuroSys 2009): is what runs at this address what our object would have
 * become? The answer solves, field by field, where everything is that the code refers to.
 */
#ifndef BUILD_MATCH_H
#define BUILD_MATCH_H

#include "build/object.h"
#include "build/target.h"

/* The span or undefined symbol that `ref` names begins at this value. */
struct solved {
	const struct ref *ref;
	struct value value;
};

/* Where an instruction of the object is in the image. */
struct moved {
	uint64_t from; /* offset in the span */
	uint64_t to;   /* address in the image */
};

struct match {
	VEC(struct solved) solved;
	VEC(struct moved) map; /* code: ascending, both */
	uint64_t size;	       /* bytes in the image */
	char *why;	       /* what differs first; NULL: it matches */
};
void match_deinit(struct match *match);

/*
 * Compare code with `size` bytes at `address`; size 0: not known, what follows does not matter.
 * Anonymous constants that it refers to are compared with it. Errors: memory only; ret->why tells
 * whether it matches.
 */
struct suture_error *match_code(const struct target *target, const struct span *span,
	uint64_t address, uint64_t size, struct match *ret) MUST_USE;
/* The same for data: initial content, and what it refers to. */
struct suture_error *match_data(const struct target *target, const struct span *span,
	uint64_t address, struct match *ret) MUST_USE;
/* The image address of an offset of the matched code; 0: no instruction begins there. */
uint64_t match_address(const struct match *match, uint64_t offset);

#endif
