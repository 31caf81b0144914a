/* SPDX-License-Identifier: Apache-2.0 */
/* Filling the public report as far as the work came. */
#ifndef APPLY_REPORT_H
#define APPLY_REPORT_H

#include "apply/ledger.h"

struct suture_report *report_create(pid_t pid);
void report_process(struct suture_report *report, const struct process *process);
struct suture_error *report_ledger(
	struct suture_report *report, const struct ledger *ledger) MUST_USE;
void blockers_destroy(struct suture_blocker *blockers, size_t n);

#endif
