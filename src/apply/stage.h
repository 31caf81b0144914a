/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bringing payloads into a target and out again, while it runs: a borrowed thread maps and unmaps,
 * /proc/PID/mem writes. The ledger record comes first, so that a tool that finds the target after
 * this one was killed knows what is whose.
 */
#ifndef APPLY_STAGE_H
#define APPLY_STAGE_H

#include "apply/plan.h"

/*
 * Map and write every payload and the record, state STAGED. On failure nothing stays mapped. *taken
 * (with NO_ROOM): an address was taken since it was chosen; plan_place() and try again.
 */
struct suture_error *stage(struct plan *plan, bool *taken) MUST_USE;

/*
 * Unmap the payloads of a record, the one that holds the record last. No detour may lead to them
 * and no thread may be in them. What is not there any more is passed over.
 */
struct suture_error *unstage(struct process *process, const struct ledger *ledger) MUST_USE;

/* Unmap reservations that a tool made and did not live to put anything into. */
struct suture_error *unstage_orphans(struct target *target) MUST_USE;

#endif
