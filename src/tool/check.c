/* SPDX-License-Identifier: Apache-2.0 */
/* suture check: everything that apply would verify, nothing changed. */
#include "tool.h"

static struct suture_error *check(
	struct suture *ctx, const struct job *job, pid_t pid, struct suture_report **ret)
{
	return suture_check(ctx, job->patch, pid, ret);
}

static void print_checked(const struct suture_report *report)
{
	out_color(GREEN, "can be applied");
	out(": %s %s: %zu function%s in %zu image%s\n", report->patch, report->version,
		report->n_functions, plural(report->n_functions), report->n_images,
		plural(report->n_images));
	for (size_t i = 0; i < report->n_plan; i++)
		out("  %s\n", report->plan[i]);
}

int run_check(struct suture *ctx, struct args *args)
{
	struct job job = {
		.command = "check", .done = "can be applied", .run = check, .print = print_checked};

	struct suture_error *err = open_job_patch(ctx, &job, args);
	if (err)
		return fail("check", args, err);
	int status = job_run(ctx, &job, args);
	suture_patch_close(job.patch);
	return status;
}
