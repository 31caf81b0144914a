/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Everything that applying a patch to a process decides, before the first byte is written: which
 * images, that the code there is what the patch expects, that no other patch is in the way, what
 * every symbol means, where the payloads go, what they contain, which bytes the detours are.
 * `check` stops here. The target runs on and is only read.
 */
#ifndef APPLY_PLAN_H
#define APPLY_PLAN_H

#include "apply/link.h"

struct plan {
	struct target *target;
	const struct patch *patch;
	struct target_image **images; /* per patch image */
	struct link *link;
	struct ledger *ledger; /* the record to be: sites, saved bytes, detours are in here */
	uint64_t ledger_size;
};

/* Errors: everything that SUTURE_ERROR_* has for a patch that does not fit the process. */
struct suture_error *plan_create(
	struct target *target, const struct patch *patch, struct plan **ret) MUST_USE;
void plan_destroy(struct plan *plan);
static inline void plan_destroyp(struct plan **plan)
{
	plan_destroy(*plan);
}
/* Choose addresses and link for them; again when an address was taken meanwhile. */
struct suture_error *plan_place(struct plan *plan) MUST_USE;

/* What applying would do, one malloc'ed line each. */
struct suture_error *plan_describe(const struct plan *plan, char ***ret, size_t *ret_n) MUST_USE;

#endif
