/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tracer: a thread of our own that holds the ptrace relation, because
 * - ptrace(2) binds a tracee to one thread, and a thread that was told to stop but cannot yet (in
 *   vfork, in the kernel for long) can only be let go by that thread's end: the kernel then takes
 *   the request back. Otherwise it would stop minutes later, with nobody there to resume it;
 * - its scheduling class can be raised and is forgotten with it;
 * - callers may come from any thread.
 *
 * tracer_call() runs a function in it and waits. A call costs two wake-ups.
 */
#ifndef PROCESS_TRACER_H
#define PROCESS_TRACER_H

#include <sys/types.h>

#include "base/error.h"

struct tracer;

struct suture_error *tracer_create(struct tracer **ret) MUST_USE;
/* Ends the thread: whatever it still traces runs on. Accepts NULL. */
void tracer_destroy(struct tracer *t);
static inline void tracer_destroyp(struct tracer **t)
{
	tracer_destroy(*t);
}
void tracer_call(struct tracer *t, void (*fn)(void *arg), void *arg);
/*
 * The calling thread and the tracer run before ordinary ones until tracer_relax(), where the
 * kernel permits it (CAP_SYS_NICE, RLIMIT_RTPRIO): a stopped target must not wait for us to get a
 * processor. Same thread for both calls.
 */
void tracer_hurry(struct tracer *t);
void tracer_relax(struct tracer *t);

#endif
