/* SPDX-License-Identifier: Apache-2.0 */
/* suture apply: put a live patch into running processes. */
#include "tool.h"

static struct suture_error *apply(
	struct suture *ctx, const struct job *job, pid_t pid, struct suture_report **ret)
{
	return suture_apply(ctx, job->patch, pid, &job->options, ret);
}

static void print_applied(const struct suture_report *report)
{
	out_color(GREEN, "applied");
	out(" %s %s: ", report->patch, report->version);
	print_report(report);
}

int run_apply(struct suture *ctx, struct args *args)
{
	struct job job = {.command = "apply",
		.done = "applied",
		.run = apply,
		.print = print_applied,
		.options.timeout = args->timeout};

	struct suture_error *err = open_job_patch(ctx, &job, args);
	if (err)
		return fail("apply", args, err);
	int status = job_run(ctx, &job, args);
	suture_patch_close(job.patch);
	return status;
}
