/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tracer: a thread of our own that holds the ptrace relation, because
 * - ptrace(2) binds a tracee to one thread, and a thread that was told to stop but cannot yet (in
 *   vfork, in the kernel for long) can only be let go by that thread's end: the kernel then takes
 *   the request back. Otherwise it would stop minutes later, with nobody there to resume it;
 * - its scheduling class can be raised and is forgotten with it;
 * - callers may come from any thread.
 *
 * A thread that does not stop leaves the tracer asleep in the kernel, waiting for it. Only a signal
 * with a handler ends that sleep, and signals are the program's: past a deadline, and only then,
 * one that the program does not use gets an empty handler for a moment.
 */
#ifndef PROCESS_TRACER_H
#define PROCESS_TRACER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

struct tracer;

struct suture_error *tracer_create(struct tracer **ret) MUST_USE;
/* Ends the thread: whatever it still traces runs on. Accepts NULL. */
void tracer_destroy(struct tracer *t);

/*
 * Run fn(arg) in the tracer, and wait for it; two wake-ups. From deadline_ns (CLOCK_MONOTONIC) on,
 * tracer_is_late() is true in fn, and system calls that it sleeps in fail with EINTR.
 */
struct suture_error *tracer_call(
	struct tracer *t, void (*fn)(void *arg), void *arg, uint64_t deadline_ns) MUST_USE;
/* For functions that run in a tracer. */
bool tracer_is_late(void);
/* What the deadline was for is done: from here on fn is not disturbed. */
void tracer_in_time(void);
/* End the thread, if there is one; the next call starts another. */
void tracer_renew(struct tracer *t);

/*
 * The calling thread and the tracer run before ordinary ones until tracer_relax(), where the
 * kernel permits it (CAP_SYS_NICE, RLIMIT_RTPRIO): a stopped target must not wait for us to get a
 * processor. Same thread for both calls.
 */
void tracer_hurry(struct tracer *t);
void tracer_relax(struct tracer *t);

#endif
