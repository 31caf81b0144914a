/* SPDX-License-Identifier: Apache-2.0 */
/* One traced thread: see tracee.h. */
#include <errno.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#include "process/internal.h"
#include "process/tracee.h"
#include "process/tracer.h"

#ifndef PTRACE_EVENT_STOP
#define PTRACE_EVENT_STOP 128
#endif

static struct stop classify(int status)
{
	int event = status >> 8, sig = status & 0xff;

	if (event == PTRACE_EVENT_STOP)
		return (struct stop){sig == SIGTRAP ? STOP_EVENT : STOP_GROUP, 0};
	if (event == PTRACE_EVENT_EXEC)
		return (struct stop){STOP_EXEC, 0};
	if (event)
		return (struct stop){STOP_OTHER, 0};
	if (sig == (SIGTRAP | 0x80)) /* PTRACE_O_TRACESYSGOOD */
		return (struct stop){STOP_SYSCALL, 0};
	return (struct stop){STOP_SIGNAL, sig};
}

static struct stop look(pid_t tid, pid_t tgid, int how)
{
	siginfo_t si = {};

	if (waitid(P_PID, (id_t)tid, &si, WSTOPPED | WEXITED | WNOWAIT | __WALL | how) < 0)
		return (struct stop){errno == EINTR ? STOP_NONE : STOP_GONE, 0};
	if (!si.si_pid)
		return (struct stop){STOP_NONE, 0};
	if (si.si_code == CLD_TRAPPED || si.si_code == CLD_STOPPED)
		return classify(si.si_status);
	/* A traced thread that ends stays a zombie until its tracer collects it. */
	if (tid != tgid)
		waitid(P_PID, (id_t)tid, &si, WEXITED | WNOHANG | __WALL);
	return (struct stop){STOP_GONE, 0};
}

struct stop tracee_look(pid_t tid, pid_t tgid)
{
	return look(tid, tgid, WNOHANG);
}

struct stop tracee_wait(pid_t tid, pid_t tgid)
{
	struct stop stop = {STOP_NONE, 0};

	/*
	 * Sleeping in the kernel until this very thread stops is what costs least: polling from a
	 * raised priority takes the processor away from those that are to stop.
	 */
	while (stop.kind == STOP_NONE && !tracer_is_late())
		stop = look(tid, tgid, 0);
	return stop.kind == STOP_NONE ? tracee_look(tid, tgid) : stop;
}

void tracee_pause(unsigned int round)
{
	struct timespec ts = {.tv_nsec = 50000};

	if (round > 20)
		ts.tv_nsec = round > 100 ? 2000000 : 500000;
	clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL);
}

struct stop tracee_wait_longer(const struct process *p, pid_t tid)
{
	enum { SLEEPS = 50 };
	uint64_t end = monotonic_ns() + 30000000000u;
	int asleep = 0;

	/* Seen asleep many times in a row: not a short wait for a page or a disk. */
	for (unsigned int round = 0; asleep < SLEEPS && monotonic_ns() < end; round++) {
		struct stop stop = tracee_look(tid, p->pid);
		struct proc_stat stat;

		if (stop.kind != STOP_NONE)
			return stop;
		bool is_asleep = proc_stat_read(p->dir_fd, tid, &stat) == 0 && stat.state == 'D';
		asleep = is_asleep ? asleep + 1 : 0;
		tracee_pause(round);
	}
	return tracee_look(tid, p->pid);
}

int tracee_seize(pid_t tid, unsigned long options)
{
	return ptrace(PTRACE_SEIZE, tid, NULL, options) < 0 ? -errno : 0;
}

bool tracee_is_mine(pid_t tid)
{
	siginfo_t si;

	return waitid(P_PID, (id_t)tid, &si,
		       WSTOPPED | WEXITED | WNOHANG | WNOWAIT | __WALL | __WNOTHREAD) == 0;
}

int tracee_interrupt(pid_t tid)
{
	return ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) < 0 ? -errno : 0;
}

int tracee_detach(pid_t tid, struct stop stop)
{
	return ptrace(PTRACE_DETACH, tid, NULL, (long)stop.sig) < 0 ? -errno : 0;
}

int tracee_getregs(pid_t tid, struct user_regs_struct *regs)
{
	return ptrace(PTRACE_GETREGS, tid, NULL, regs) < 0 ? -errno : 0;
}

int tracee_setregs(pid_t tid, const struct user_regs_struct *regs)
{
	return ptrace(PTRACE_SETREGS, tid, NULL, regs) < 0 ? -errno : 0;
}
