/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Running compilers, several at a time. Only children that were started here are waited for: the
 * program that uses the library may have others.
 */
#ifndef BUILD_JOBS_H
#define BUILD_JOBS_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/error.h"
#include "base/vec.h"
#include "build/shell.h"

struct job {
	struct strings argv;
	char *directory; /* where it runs */
	char *log;	 /* file that gets its output and messages */
	/* results */
	int start_errno; /* it could not be started, or 0 */
	int status;	 /* as waitpid() gives it */
	bool done;
	double seconds;
	/* private */
	pid_t pid;
	int pidfd;
};

struct jobs {
	VEC(struct job) v;
};
void jobs_deinit(struct jobs *jobs);

struct suture;
/*
 * Run all with `temp_dir` as TMPDIR, in the C locale, as many at a time as there are processors.
 * A job that fails is no error here: see job_failed(). After the first one no more are started.
 * CANCELLED: what was running has been ended. In any case nothing is left running.
 */
struct suture_error *jobs_run(
	const struct suture *ctx, struct jobs *jobs, const char *temp_dir) MUST_USE;
static inline bool job_failed(const struct job *job)
{
	return job->start_errno || (job->done && job->status != 0);
}
/*
 * COMPILE: what `what` (a source, and which side of the fix) ran into. The compiler's own words
 * follow, with `root` (the private copy's) cut out of the paths.
 */
struct suture_error *job_error(const struct job *job, const char *what, const char *root) MUST_USE;

#endif
