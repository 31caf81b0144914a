/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Taking a patch out of a process: see recover.h. The same steps serve a revert that was asked for
 * and the clean-up after a tool that was killed; only what may be found at the sites differs.
 *
 * Order: restore the sites in a freeze in which nobody is inside the payload, then unmap. From the
 * first write on the record says REVERTING; killed anywhere, the next run starts over.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "apply/escape.h"
#include "apply/recover.h"
#include "apply/stage.h"
#include "base/cleanup.h"

static struct suture_error *restore(const struct recovery *r, struct target *target,
	const struct ledger *ledger, enum commit_kind kind)
{
	struct hot_ranges ranges = {};
	struct commit commit;

	struct suture_error *err = commit_init(&commit, r->process, ledger, kind);
	if (!err)
		err = commit_verify(&commit);
	if (!err)
		err = hot_payloads(&ranges, ledger);
	if (!err)
		err = change_over(
			&(struct change){target, &ranges, &commit, r->deadline_ns, r->report});
	commit_deinit(&commit);
	vec_free(&ranges.v);
	return err;
}

/*
 * No detour leads to the payload any more and nobody is inside, so nobody hands out new pointers to
 * it. A thread to borrow may be missing for a moment, too: all in calls that cannot be left.
 */
static struct suture_error *unmap_once(
	const struct recovery *r, struct target *target, const struct ledger *ledger)
{
	TRY(escape_check(target, ledger));
	return unstage(r->process, ledger);
}

static struct suture_error *unmap(
	const struct recovery *r, struct target *target, const struct ledger *ledger)
{
	const struct timespec pause = {.tv_nsec = 5000000};

	for (;;) {
		struct suture_error *err = unmap_once(r, target, ledger);

		if (!err)
			return NULL;
		if (suture_error_code(err) != SUTURE_ERROR_BUSY || r->ctx->cancelled ||
			monotonic_ns() >= r->deadline_ns)
			return error_hint(
				error_wrap(err,
					"the code is as it was before, but the payload of "
					"patch %s is still mapped",
					ledger->name),
				"run the same command again to remove it");
		suture_error_destroy(err);
		nanosleep(&pause, NULL);
	}
}

/* Known now, what holds the payload is no surprise after the detours are gone. */
static struct suture_error *wait_for_escapes(
	const struct recovery *r, struct target *target, const struct ledger *ledger)
{
	const struct timespec pause = {.tv_nsec = 50000000};

	for (;;) {
		struct suture_error *err = escape_check(target, ledger);

		if (!err || suture_error_code(err) != SUTURE_ERROR_BUSY ||
			monotonic_ns() >= r->deadline_ns)
			return err;
		suture_error_destroy(err);
		TRY(check_cancelled(r->ctx));
		nanosleep(&pause, NULL);
	}
}

struct suture_error *take_out(
	const struct recovery *r, struct target *target, const struct ledger *ledger)
{
	if (ledger->state != LEDGER_STAGED) {
		TRY(wait_for_escapes(r, target, ledger));
		TRY(restore(r, target, ledger,
			ledger_in_force(ledger) ? COMMIT_REVERT : COMMIT_RECOVER));
	}
	return unmap(r, target, ledger);
}

static const char *why_not_in_force(const struct ledger *ledger)
{
	return ledger->unloaded ? "its image has been unloaded" : "its operation was interrupted";
}

static const struct ledger *find_interrupted(const struct target *target)
{
	vec_foreach (ledger, &target->ledgers.v) {
		if (!ledger_in_force(*ledger))
			return *ledger;
	}
	return NULL;
}

struct suture_error *look_and_recover(
	const struct recovery *r, struct target **ret, char **ret_undone)
{
	_cleanup_free_ char *undone = NULL;
	bool first = true;

	for (;;) {
		_cleanup_(target_destroyp) struct target *target = NULL;

		TRY(target_look(r->ctx, r->process, &target));
		if (first)
			TRY(unstage_orphans(target));
		first = false;
		const struct ledger *ledger = find_interrupted(target);
		if (!ledger) {
			*ret = take(target);
			*ret_undone = take(undone);
			return NULL;
		}
		log_info(r->ctx, "process %d (%s): taking out patch %s: %s", r->process->pid,
			r->process->comm, ledger->name, why_not_in_force(ledger));
		TRY(error_wrap(take_out(r, target, ledger), "taking out patch %s (%s)",
			ledger->name, why_not_in_force(ledger)));
		free(undone);
		undone = strdup(ledger->name);
		if (!undone)
			return error_nomem();
	}
}
