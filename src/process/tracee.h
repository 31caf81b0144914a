/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One traced thread: seize, see how it stopped, let go. For freeze.c and borrow.c; every call runs
 * in the tracer thread.
 *
 * Stops are only looked at (WNOWAIT), never collected. The kernel keeps the signal of a
 * signal-delivery-stop in the very field that collecting clears: if this program is killed while it
 * holds a thread, the kernel lets the thread go and delivers that signal. Collected, it would be
 * lost.
 */
#ifndef PROCESS_TRACEE_H
#define PROCESS_TRACEE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

enum stop_kind {
	STOP_NONE,    /* runs */
	STOP_EVENT,   /* PTRACE_EVENT_STOP: our interrupt, or the birth of a thread */
	STOP_GROUP,   /* job control: SIGSTOP and its like; stays stopped when let go */
	STOP_SIGNAL,  /* about to be given `sig`: must be handed back */
	STOP_SYSCALL, /* entry or exit of a system call */
	STOP_EXEC,    /* the process executes another program */
	STOP_OTHER,   /* another ptrace event */
	STOP_GONE,    /* exited, killed, or its id was taken over by an exec */
};

struct stop {
	enum stop_kind kind;
	int sig; /* STOP_SIGNAL: what tracee_detach must hand back; otherwise 0 */
};

/* tgid: of the target; the status of its main thread is its parent's and is never collected. */
struct stop tracee_look(pid_t tid, pid_t tgid);
/* Wait until it stops or is gone; STOP_NONE when the tracer is late. */
struct stop tracee_wait(pid_t tid, pid_t tgid);
/*
 * Wait on behind a deadline, as long as nothing but a processor is missing: a thread that has been
 * told to stop and is let go before it does may see EINTR. STOP_NONE when it is in uninterruptible
 * sleep (those calls do not fail with EINTR), or has not stopped for half a minute.
 */
struct process;
struct stop tracee_wait_longer(const struct process *p, pid_t tid);
/*
 * 0, -ESRCH when gone, -EPERM when somebody else traces it or it has just exited. Options are
 * PTRACE_O_*; never EXITKILL.
 */
int tracee_seize(pid_t tid, unsigned long options);
/* Does the calling thread trace it? */
bool tracee_is_mine(pid_t tid);
int tracee_interrupt(pid_t tid);
/* Let it go, with the signal that it was about to get. 0 or negative errno. */
int tracee_detach(pid_t tid, struct stop stop);
int tracee_getregs(pid_t tid, struct user_regs_struct *regs);
int tracee_setregs(pid_t tid, const struct user_regs_struct *regs);

/* A pause between two looks at something, growing with `round`, which counts from 0. */
void tracee_pause(unsigned int round);

#endif
