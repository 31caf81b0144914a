/* SPDX-License-Identifier: Apache-2.0 */
/* suture revert: take a live patch out of running processes. */
#include "tool.h"

static struct suture_error *revert(
	struct suture *ctx, const struct job *job, pid_t pid, struct suture_report **ret)
{
	return suture_revert(ctx, job->name, pid, &job->options, ret);
}

static void print_reverted(const struct suture_report *report)
{
	out_color(GREEN, "reverted");
	out(" %s %s: ", report->patch, report->version);
	print_report(report);
}

/* What was applied as a file may be taken out as one: its name is what counts. */
static struct suture_error *name_of(
	struct suture *ctx, const char *word, struct suture_patch **ret_patch, const char **ret)
{
	size_t len = strlen(word);
	bool is_file = strchr(word, '/') || (len > 7 && !strcmp(word + len - 7, ".suture"));

	*ret = word;
	if (!is_file)
		return NULL;
	struct suture_error *err = suture_patch_open(ctx, word, ret_patch);
	if (!err)
		*ret = suture_patch_name(*ret_patch);
	return err;
}

int run_revert(struct suture *ctx, struct args *args)
{
	struct job job = {.command = "revert",
		.done = "reverted",
		.run = revert,
		.print = print_reverted,
		.options.timeout = args->timeout};
	struct suture_patch *patch = NULL;

	const char *word = job_arguments("revert", "the name of a patch", args);
	struct suture_error *err = name_of(ctx, word, &patch, &job.name);
	if (err)
		return fail("revert", args, err);
	int status = job_run(ctx, &job, args);
	suture_patch_close(patch);
	return status;
}
