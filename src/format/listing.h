/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Old and new code of a function as lines that people read and that can be compared. A branch or an
 * address in an instruction is a reference: by name where the patch knows one, inside the function
 * as an offset, otherwise a number.
 */
#ifndef FORMAT_LISTING_H
#define FORMAT_LISTING_H

#include "format/patch.h"

enum line_ref {
	REF_NONE,
	REF_LOCAL,  /* target: offset in this function */
	REF_NAMED,  /* name */
	REF_NUMBER, /* target: an address that the patch has no name for */
};

struct line {
	uint32_t offset; /* in the function */
	char *text;	 /* "call log_line" */
	char *key;	 /* "call @": equal keys, the same instruction but for the reference */
	enum line_ref ref;
	uint64_t target;
	char *name;
	/* Its address in the image is known, so that it cannot be what REF_NUMBER is. */
	bool exact;
};

struct listing {
	VEC(struct line) lines; /* by offset */
	size_t left_out;	/* bytes behind the last line: the function is too long to show */
};
void listing_deinit(struct listing *l);

/* What addresses of images are called in this patch. */
struct names;
struct suture_error *names_create(const struct patch *patch, struct names **ret) MUST_USE;
void names_destroy(struct names *names);
static inline void names_destroyp(struct names **names)
{
	names_destroy(*names);
}

struct suture_error *listing_old(const struct patch *patch, const struct names *names,
	const struct patch_function *f, struct listing *ret) MUST_USE;
struct suture_error *listing_new(
	const struct patch *patch, const struct patch_function *f, struct listing *ret) MUST_USE;

/* How line i of the old code and line match[i] of the new code relate. */
enum { LINE_UNMATCHED = UINT32_MAX };
enum line_verdict {
	LINE_SAME,
	LINE_DIFFERS,
	LINE_UNKNOWN, /* the same instruction; whether it means the same thing the patch cannot say
		       */
};
/*
 * Align the two: match[i] is the line of `b` for line i of `a`, or LINE_UNMATCHED. Order is kept.
 * malloc'ed.
 */
struct suture_error *listing_align(
	const struct listing *a, const struct listing *b, uint32_t **ret) MUST_USE;
enum line_verdict listing_compare(
	const struct listing *a, size_t i, const struct listing *b, const uint32_t *match);

#endif
