/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Make one thread of the target perform a system call, and put it back. See inject.c for how, and
 * for what happens when this program is killed in the middle.
 */
#ifndef PROCESS_INJECT_H
#define PROCESS_INJECT_H

#include "arch/x86_64/regs.h"
#include "process/internal.h"

enum inject_outcome {
	INJECT_DONE,
	INJECT_GONE,	  /* the thread has exited: take another */
	INJECT_UNFIT,	  /* it is back as it was, and cannot be used now: take another */
	INJECT_SECCOMP,	  /* it runs under a filter that cannot be suspended: take another */
	INJECT_TRACED,	  /* somebody traces it */
	INJECT_STRAGGLER, /* it does not stop: the tracer thread must end, then take another */
	INJECT_LOST,	  /* the call was begun and has not ended: the tracer thread must end; the
			     thread puts itself back, the result is not known */
	INJECT_EXEC,	  /* the process executes another program */
	INJECT_ERROR,	  /* job.err */
};

struct injection {
	struct process *process;
	const struct maps *maps; /* young enough: taken just before */
	const struct regs_gadgets *gadgets;
	const struct regs_xsave *xsave;
	pid_t tid;
	long nr;
	uint64_t args[6];
	/*
	 * Memory that nobody uses, for threads that are not on a stack of their own: for the main
	 * thread, and for the others; 0: none. INJECT_SCRATCH bytes, page-aligned. Before use the
	 * mark is written to its begin.
	 */
	remote_addr main_scratch, scratch;
	const char *scratch_mark; /* INJECT_SCRATCH_MARK bytes */
	/* For tests: called in front of each step that a kill could separate from the next. */
	void (*hook)(void *arg, int step);
	void *hook_arg;

	enum inject_outcome outcome;
	int64_t result;
	uint64_t held_ns; /* how long the thread was held */
	struct suture_error *err;
};

enum {
	INJECT_SCRATCH = 12288, /* bytes: a mark and a frame with AMX state */
	INJECT_SCRATCH_MARK = 16,
	INJECT_STEPS = 9, /* the hook is called with 0 ... INJECT_STEPS - 1 */
};

/* Runs in the tracer thread; arg is the injection. */
void inject(void *arg);

#endif
