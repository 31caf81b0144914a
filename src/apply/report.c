/* SPDX-License-Identifier: Apache-2.0 */
/* Reports and listings: the parts of the public interface that only hold data. */
#include <stdlib.h>
#include <string.h>

#include "apply/report.h"

struct suture_report *report_create(pid_t pid)
{
	struct suture_report *report = calloc(1, sizeof(*report));

	if (report)
		report->pid = pid;
	return report;
}

void report_process(struct suture_report *report, const struct process *process)
{
	memcpy(report->comm, process->comm, sizeof(report->comm));
}

static struct suture_error *set_name(
	struct suture_report *report, const char *name, const char *version)
{
	free(report->patch);
	free(report->version);
	report->patch = strdup(name);
	report->version = strdup(version ?: "");
	return report->patch && report->version ? NULL : error_nomem();
}

struct suture_error *report_ledger(struct suture_report *report, const struct ledger *ledger)
{
	report->n_images = ledger->images.n;
	report->n_functions = ledger->functions.n;
	report->payload_bytes = ledger_payload_bytes(ledger);
	return set_name(report, ledger->name, ledger->version);
}

static void frames_destroy(struct suture_frame *frames, size_t n)
{
	for (size_t i = 0; i < n && frames; i++) {
		free(frames[i].symbol);
		free(frames[i].image);
	}
	free(frames);
}

void blockers_destroy(struct suture_blocker *blockers, size_t n)
{
	for (size_t i = 0; i < n && blockers; i++) {
		free(blockers[i].function);
		frames_destroy(blockers[i].frames, blockers[i].n_frames);
	}
	free(blockers);
}

void suture_report_destroy(struct suture_report *report)
{
	if (!report)
		return;
	blockers_destroy(report->blockers, report->n_blockers);
	for (size_t i = 0; i < report->n_plan; i++)
		free(report->plan[i]);
	free(report->plan);
	free(report->patch);
	free(report->version);
	free(report);
}

static void applied_deinit(struct suture_applied *applied)
{
	for (size_t i = 0; i < applied->n_functions; i++) {
		free(applied->functions[i].name);
		free(applied->functions[i].image);
	}
	free(applied->functions);
	free(applied->name);
	free(applied->version);
	free(applied->id);
	free(applied->description);
	free(applied->state);
}

void suture_listing_destroy(struct suture_listing *listing)
{
	if (!listing)
		return;
	for (size_t i = 0; i < listing->n_patches; i++)
		applied_deinit(&listing->patches[i]);
	free(listing->patches);
	free(listing);
}
