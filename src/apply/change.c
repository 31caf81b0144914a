/* SPDX-License-Identifier: Apache-2.0 */
/* Attempts and their pauses: see change.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "apply/change.h"
#include "apply/report.h"
#include "base/cleanup.h"

#define MS 1000000ULL

enum {
	FIRST_PAUSE_MS = 1,
	LAST_PAUSE_MS = 100,
	/* How long a freeze may wait for a thread that does not stop, while the others stand. */
	FIRST_STOP_MS = 50,
	LAST_STOP_MS = 400,
	STOP_MS_PER_1000_THREADS = 100,
};

/* ---- ranges ---- */

static struct suture_error *add_range(struct hot_ranges *ranges, struct hot_range range)
{
	return vec_push(&ranges->v, range) ? NULL : error_nomem();
}

/*
 * A pc up to the site is fine: the thread is about to run the detour. A return address is never a
 * function's first byte, and may be one past the last (a call that does not return ends it).
 */
static struct suture_error *add_function(struct hot_ranges *ranges, const struct ledger_function *f)
{
	remote_addr end = f->address + f->size;

	if (end < f->site + f->length)
		end = f->site + f->length;
	return add_range(ranges,
		(struct hot_range){f->name, f->address, f->site + 1, end, f->address + 1, end});
}

static struct suture_error *add_parts(struct hot_ranges *ranges, const char *name,
	const struct patch_function *function, uint64_t bias)
{
	vec_foreach (part, &function->parts) {
		remote_addr start = part->address + bias, end = start + part->size;

		TRY(add_range(ranges, (struct hot_range){name, start, start, end, start, end}));
	}
	return NULL;
}

struct suture_error *hot_old_code(struct hot_ranges *ranges, const struct patch *patch,
	const struct ledger *ledger, struct target_image *const *images)
{
	const struct ledger_function *f = ledger->functions.at;

	vec_foreach (function, &patch->functions) {
		if (!function->address)
			continue;
		TRY(add_function(ranges, f));
		TRY(add_parts(ranges, f->name, function, images[function->image]->module->bias));
		f++;
	}
	return NULL;
}

struct suture_error *hot_payloads(struct hot_ranges *ranges, const struct ledger *ledger)
{
	ranges->entries = true;
	/* Functions first: they have the names. Then all of the code. */
	vec_foreach (symbol, &ledger->symbols) {
		remote_addr start = symbol->address, end = start + symbol->size;

		TRY(add_range(
			ranges, (struct hot_range){symbol->name, start, start, end, start, end}));
	}
	vec_foreach (image, &ledger->images) {
		if (image->text)
			TRY(add_range(
				ranges, (struct hot_range){ledger->name, image->text, image->text,
						image->text_end, image->text, image->text_end}));
	}
	return NULL;
}

/* ---- one attempt ---- */

struct attempt {
	const struct change *change;
	struct quiesce *quiesce;
	struct freeze *freeze;
	bool quiet;
	bool stood; /* the freeze came about */
	size_t threads;
};

static void note_times(struct suture_report *report, const struct freeze *freeze)
{
	report->freeze_ns = freeze->last_ns;
	if (freeze->last_ns > report->longest_freeze_ns)
		report->longest_freeze_ns = freeze->last_ns;
}

static struct suture_error *in_freeze(void *arg)
{
	struct attempt *a = arg;

	a->stood = true;
	a->threads = a->freeze->threads.n;
	TRY(quiesce_check(a->quiesce, a->freeze, &a->quiet));
	return a->quiet ? commit_run(a->change->commit) : NULL;
}

static struct suture_error *attempt(struct attempt *a, uint64_t stop_by_ns)
{
	const struct change *change = a->change;

	a->quiet = false;
	/* Once more in the freeze; what fails is found without one, what works is warm then. */
	TRY(commit_verify(change->commit));
	TRY(quiesce_prepare(a->quiesce));
	a->stood = false;
	struct suture_error *resume,
		*err = freeze_run(a->freeze, stop_by_ns, in_freeze, a, &resume);
	if (!a->stood)
		return err;
	change->report->attempts++;
	change->report->threads = a->threads;
	note_times(change->report, a->freeze);
	if (err || !a->quiet) {
		suture_error_destroy(resume);
		return err;
	}
	/* The change is made; a thread that cannot be resumed is on its way out of the process. */
	if (resume)
		log_warning(change->target->ctx, "%s", suture_error_message(resume));
	suture_error_destroy(resume);
	return NULL;
}

/* ---- giving up ---- */

static void append_frames(FILE *f, const struct suture_blocker *b)
{
	size_t end = b->n_frames < b->depth + 4 ? b->n_frames : b->depth + 4;

	for (size_t i = b->depth + 1; i < end; i++) {
		const struct suture_frame *frame = &b->frames[i];

		fprintf(f, "%s%s", i == b->depth + 1 ? ", called by " : " < ",
			frame->symbol ?: frame->image ?: "?");
	}
}

static struct suture_error *busy_error(const struct change *change)
{
	const struct suture_report *report = change->report;
	const struct process *p = change->target->process;
	_cleanup_free_ char *text = NULL;
	size_t size;

	FILE *f = open_memstream(&text, &size);
	if (!f)
		return error_nomem();
	for (size_t i = 0; i < report->n_blockers && i < 3; i++) {
		const struct suture_blocker *b = &report->blockers[i];

		fprintf(f, "%sthread %d (%s) is inside %s", i ? "; " : "", b->tid, b->comm,
			b->function);
		append_frames(f, b);
	}
	if (report->n_blockers > 3)
		fprintf(f, "; and %zu more threads", report->n_blockers - 3);
	bool bad = ferror(f);
	if (fclose(f) || bad)
		return error_nomem();
	return error_hint(error_create(SUTURE_ERROR_BUSY, "process %d (%s) is busy: %s", p->pid,
				  p->comm, text),
		"try again with a longer --timeout, or when the process has less to do");
}

static struct suture_error *give_up(struct attempt *a)
{
	struct suture_report *report = a->change->report;

	blockers_destroy(report->blockers, report->n_blockers);
	report->blockers = NULL;
	report->n_blockers = 0;
	TRY(quiesce_blockers(a->quiesce, a->freeze, &report->blockers, &report->n_blockers));
	return busy_error(a->change);
}

/* ---- again and again ---- */

static uint64_t min(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static void pause_ms(uint64_t ms, uint64_t deadline_ns)
{
	uint64_t now = monotonic_ns(), ns = ms * MS;

	ns = now < deadline_ns ? min(ns, deadline_ns - now) : 0;
	nanosleep(
		&(struct timespec){.tv_sec = ns / (1000 * MS), .tv_nsec = ns % (1000 * MS)}, NULL);
}

static struct suture_error *repeat(struct attempt *a)
{
	const struct change *change = a->change;
	uint64_t pause = FIRST_PAUSE_MS, stop = FIRST_STOP_MS, n = 0;

	for (;;) {
		TRY(check_cancelled(change->target->ctx));
		uint64_t extra = n * STOP_MS_PER_1000_THREADS / 1000;
		struct suture_error *err = attempt(a, monotonic_ns() + (stop + extra) * MS);
		bool late = monotonic_ns() >= change->deadline_ns;
		bool does_not_stop = err && suture_error_code(err) == SUTURE_ERROR_BUSY;

		if (a->quiet || (err && (late || !does_not_stop)))
			return err;
		suture_error_destroy(err);
		n = a->freeze->threads.n;
		if (!err && a->quiesce->undecided)
			continue; /* with unwind tables it may be clear at once */
		if (late)
			return give_up(a);
		pause_ms(pause, change->deadline_ns);
		pause = min(2 * pause, LAST_PAUSE_MS);
		stop = min(2 * stop, LAST_STOP_MS);
	}
}

struct suture_error *change_over(const struct change *change)
{
	_cleanup_(freeze_destroyp) struct freeze *freeze = NULL;
	struct quiesce quiesce;

	TRY(freeze_create(change->target->process, &freeze));
	struct suture_error *err = quiesce_init(&quiesce, change->target, change->ranges);
	struct attempt a = {.change = change, .quiesce = &quiesce, .freeze = freeze};
	if (!err)
		err = repeat(&a);
	quiesce_deinit(&quiesce);
	return err;
}
