/* SPDX-License-Identifier: Apache-2.0 */
/* One traced thread: see tracee.h. */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#include "process/internal.h"
#include "process/tracee.h"

#ifndef PTRACE_EVENT_STOP
#define PTRACE_EVENT_STOP 128
#endif

enum { NAP_MAX_NS = 1000000 };

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

struct stop tracee_look(pid_t tid, pid_t tgid)
{
	const int how = WSTOPPED | WEXITED | WNOHANG | __WALL;
	siginfo_t si = {};

	if (waitid(P_PID, (id_t)tid, &si, how | WNOWAIT) < 0)
		return (struct stop){STOP_GONE, 0};
	if (!si.si_pid)
		return (struct stop){STOP_NONE, 0};
	if (si.si_code == CLD_TRAPPED || si.si_code == CLD_STOPPED)
		return classify(si.si_status);
	/* A traced thread that ends stays a zombie until its tracer collects it. */
	if (tid != tgid)
		waitid(P_PID, (id_t)tid, &si, WEXITED | WNOHANG | __WALL);
	return (struct stop){STOP_GONE, 0};
}

void tracee_pause(unsigned int round)
{
	struct timespec ts = {.tv_nsec = 10000};

	if (round < 20) {
		sched_yield();
		return;
	}
	if (round > 200)
		ts.tv_nsec = round > 1000 ? 1000000 : 100000;
	clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL);
}

struct stop tracee_wait_in_turn(pid_t tid, pid_t tgid, uint64_t since_ns, uint64_t deadline_ns)
{
	for (;;) {
		struct stop stop = tracee_look(tid, tgid);
		uint64_t now = monotonic_ns(), nap = (now - since_ns) / 8;

		if (stop.kind != STOP_NONE || now > deadline_ns)
			return stop;
		if (nap > NAP_MAX_NS)
			nap = NAP_MAX_NS;
		clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){.tv_nsec = (long)nap}, NULL);
	}
}

struct stop tracee_wait(pid_t tid, pid_t tgid, uint64_t deadline_ns)
{
	for (unsigned int round = 0;; round++) {
		struct stop stop = tracee_look(tid, tgid);

		if (stop.kind != STOP_NONE || (round % 8 == 7 && monotonic_ns() > deadline_ns))
			return stop;
		tracee_pause(round);
	}
}

struct stop tracee_wait_longer(const struct process *p, pid_t tid)
{
	enum { LOOKS = 5, LOOK_NS = 10000000 };
	uint64_t end = monotonic_ns() + 30000000000u;
	int asleep = 0;

	/* Seen asleep several times in a row: not a short wait for a page or a disk. */
	while (asleep < LOOKS && monotonic_ns() < end) {
		struct stop stop = tracee_wait(tid, p->pid, monotonic_ns() + LOOK_NS);
		struct proc_stat stat;

		if (stop.kind != STOP_NONE)
			return stop;
		bool is_asleep = proc_stat_read(p->dir_fd, tid, &stat) == 0 && stat.state == 'D';
		asleep = is_asleep ? asleep + 1 : 0;
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
