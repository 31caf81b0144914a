/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The change-over: freeze, look at the stacks, commit, let go; when somebody is in the way, again
 * after a pause, until the deadline.
 */
#ifndef APPLY_CHANGE_H
#define APPLY_CHANGE_H

#include "apply/commit.h"
#include "apply/quiesce.h"

struct change {
	struct target *target;
	const struct hot_ranges *ranges; /* where nobody may be */
	struct commit *commit;
	uint64_t deadline_ns;	      /* CLOCK_MONOTONIC */
	struct suture_report *report; /* times, threads, blockers go here */
};

/*
 * BUSY: not quiescent before the deadline, nothing is changed; report->blockers says why.
 * CANCELLED: suture_cancel() was called, nothing is changed.
 */
struct suture_error *change_over(const struct change *change) MUST_USE;

/* The functions that a patch replaces, and their parts. */
struct suture_error *hot_old_code(struct hot_ranges *ranges, const struct patch *patch,
	const struct ledger *ledger, struct target_image *const *images) MUST_USE;
/* The code of a patch. */
struct suture_error *hot_payloads(struct hot_ranges *ranges, const struct ledger *ledger) MUST_USE;

#endif
