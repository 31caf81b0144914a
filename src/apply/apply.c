/* SPDX-License-Identifier: Apache-2.0 */
/* check, apply and revert: the public calls, each a few steps that other files know. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "apply/change.h"
#include "apply/plan.h"
#include "apply/recover.h"
#include "apply/report.h"
#include "apply/stage.h"
#include "base/cleanup.h"

#define DEFAULT_TIMEOUT 10.0
#define TIMEOUT_MAX	(365.0 * 86400)

#define CHECK_LOCK_NS 2000000000ULL

enum { PLACE_TRIES = 5 };

static uint64_t deadline(const struct suture_apply_options *options)
{
	double timeout = options && options->timeout >= 0 ? options->timeout : DEFAULT_TIMEOUT;

	return monotonic_ns() + (uint64_t)((timeout < TIMEOUT_MAX ? timeout : TIMEOUT_MAX) * 1e9);
}

/* The report goes out whatever happened. */
static struct suture_error *finish(struct suture_report *report, uint64_t started_ns,
	struct suture_error *err, struct suture_report **ret)
{
	report->total_ns = monotonic_ns() - started_ns;
	if (ret)
		*ret = report;
	else
		suture_report_destroy(report);
	return err;
}

/* ---- check ---- */

static struct suture_error *check(
	struct suture *ctx, const struct patch *patch, pid_t pid, struct suture_report *report)
{
	_cleanup_(process_closep) struct process *lock = NULL, *process = NULL;
	_cleanup_(target_destroyp) struct target *target = NULL;
	_cleanup_(plan_destroyp) struct plan *plan = NULL;

	TRY(target_open(pid, monotonic_ns() + CHECK_LOCK_NS, &lock, &process));
	report_process(report, process);
	TRY(target_look(ctx, process, &target));
	TRY(plan_create(target, patch, &plan));
	TRY(report_ledger(report, plan->ledger));
	TRY(plan_describe(plan, &report->plan, &report->n_plan));
	return process_alive(process);
}

struct suture_error *suture_check(
	struct suture *ctx, const struct suture_patch *patch, pid_t pid, struct suture_report **ret)
{
	uint64_t started_ns = monotonic_ns();
	struct suture_report *report = report_create(pid);

	if (!report)
		return error_nomem();
	return finish(report, started_ns, check(ctx, patch->patch, pid, report), ret);
}

/* ---- apply ---- */

/* The chosen addresses may be taken before we get there; a thread to borrow may be missing. */
static struct suture_error *stage_somewhere(struct plan *plan, uint64_t deadline_ns)
{
	const struct timespec pause = {.tv_nsec = 5000000};

	for (int i = 0;;) {
		bool taken;
		struct suture_error *err = stage(plan, &taken);

		if (!err || (!taken && suture_error_code(err) != SUTURE_ERROR_BUSY) ||
			i == PLACE_TRIES || monotonic_ns() >= deadline_ns)
			return err;
		suture_error_destroy(err);
		TRY(check_cancelled(plan->target->ctx));
		if (taken) {
			TRY(plan_place(plan));
			i++;
		} else {
			nanosleep(&pause, NULL);
		}
	}
}

/* Whole functions, not only the sites: what a patch was made for may have been replaced. */
static struct suture_error *expect_functions(struct commit *commit, const struct plan *plan)
{
	const struct ledger_function *f = plan->ledger->functions.at;

	vec_foreach (function, &plan->patch->functions) {
		if (!function->address)
			continue;
		TRY(commit_expect(commit, f->name, f->address, function->old_bytes, f->size));
		f++;
	}
	return NULL;
}

static struct suture_error *commit_plan(
	struct plan *plan, uint64_t deadline_ns, struct suture_report *report)
{
	struct hot_ranges ranges = {};
	struct commit commit;

	struct suture_error *err =
		commit_init(&commit, plan->target->process, plan->ledger, COMMIT_APPLY);
	if (!err)
		err = expect_functions(&commit, plan);
	if (!err)
		err = hot_old_code(&ranges, plan->patch, plan->ledger, plan->images);
	if (!err)
		err = change_over(
			&(struct change){plan->target, &ranges, &commit, deadline_ns, report});
	commit_deinit(&commit);
	vec_free(&ranges.v);
	return err;
}

/* Nothing was committed: the payload goes. The reason for that matters more than a failure of it.
 */
static struct suture_error *back_out(struct plan *plan, struct suture_error *err)
{
	struct process *process = plan->target->process;

	struct suture_error *left = unstage(process, plan->ledger);
	if (left)
		log_warning(plan->target->ctx,
			"process %d (%s): the unused payload is still mapped: %s", process->pid,
			process->comm, suture_error_message(left));
	suture_error_destroy(left);
	return err;
}

static struct suture_error *apply(struct suture *ctx, const struct patch *patch, pid_t pid,
	uint64_t deadline_ns, struct suture_report *report)
{
	_cleanup_(process_closep) struct process *lock = NULL, *process = NULL;
	_cleanup_(target_destroyp) struct target *target = NULL;
	_cleanup_(plan_destroyp) struct plan *plan = NULL;
	_cleanup_free_ char *undone = NULL;

	TRY(target_open(pid, deadline_ns, &lock, &process));
	report_process(report, process);
	const struct recovery recovery = {ctx, process, deadline_ns, report};
	TRY(look_and_recover(&recovery, &target, &undone));
	TRY(plan_create(target, patch, &plan));
	TRY(report_ledger(report, plan->ledger));
	TRY(stage_somewhere(plan, deadline_ns));
	struct suture_error *err = commit_plan(plan, deadline_ns, report);
	return err ? back_out(plan, err) : NULL;
}

struct suture_error *suture_apply(struct suture *ctx, const struct suture_patch *patch, pid_t pid,
	const struct suture_apply_options *options, struct suture_report **ret)
{
	uint64_t started_ns = monotonic_ns(), deadline_ns = deadline(options);
	struct suture_report *report = report_create(pid);

	if (!report)
		return error_nomem();
	return finish(report, started_ns, apply(ctx, patch->patch, pid, deadline_ns, report), ret);
}

/* ---- revert ---- */

static struct suture_error *not_applied(
	const struct target *target, const char *name, const char *undone)
{
	const struct process *p = target->process;

	/* It was on its way in or out: now it is gone, which is what was asked for. */
	if (undone && !strcmp(undone, name))
		return NULL;
	if (target->ledgers.damaged.n)
		return error_create(SUTURE_ERROR_LEDGER, "process %d (%s): %s", p->pid, p->comm,
			suture_error_message(target->ledgers.damaged.at[0]));
	return error_create(SUTURE_ERROR_NOT_APPLIED, "patch %s is not applied to process %d (%s)",
		name, p->pid, p->comm);
}

static struct suture_error *revert(struct suture *ctx, const char *name, pid_t pid,
	uint64_t deadline_ns, struct suture_report *report)
{
	_cleanup_(process_closep) struct process *lock = NULL, *process = NULL;
	_cleanup_(target_destroyp) struct target *target = NULL;
	_cleanup_free_ char *undone = NULL;

	TRY(target_open(pid, deadline_ns, &lock, &process));
	report_process(report, process);
	const struct recovery recovery = {ctx, process, deadline_ns, report};
	TRY(look_and_recover(&recovery, &target, &undone));
	const struct ledger *ledger = ledgers_find(&target->ledgers, name);
	if (!ledger)
		return not_applied(target, name, undone);
	TRY(report_ledger(report, ledger));
	return take_out(&recovery, target, ledger);
}

struct suture_error *suture_revert(struct suture *ctx, const char *name, pid_t pid,
	const struct suture_apply_options *options, struct suture_report **ret)
{
	uint64_t started_ns = monotonic_ns(), deadline_ns = deadline(options);
	struct suture_report *report = report_create(pid);

	if (!report)
		return error_nomem();
	report->patch = strdup(name);
	return finish(report, started_ns, revert(ctx, name, pid, deadline_ns, report), ret);
}
