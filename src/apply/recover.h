/* SPDX-License-Identifier: Apache-2.0 */
/* Undoing what a tool that was killed left half done, and taking patches out. */
#ifndef APPLY_RECOVER_H
#define APPLY_RECOVER_H

#include "apply/change.h"

struct recovery {
	struct suture *ctx;
	struct process *process;
	uint64_t deadline_ns;
	struct suture_report *report;
};

/*
 * Look at the process; whatever is interrupted in it is undone first (that of a forked child whose
 * parent was just being patched included), and what is left of patches whose image was unloaded.
 * *ret_undone: the name of one that was, or NULL.
 */
struct suture_error *look_and_recover(
	const struct recovery *r, struct target **ret, char **ret_undone) MUST_USE;

/* Restore the code that a patch replaced and unmap its payload, in whatever state it is. */
struct suture_error *take_out(
	const struct recovery *r, struct target *target, const struct ledger *ledger) MUST_USE;

#endif
