/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One system call in one thread of the target.
 *
 * The thread is stopped, sent through a `syscall` instruction that its program has anyway (no code
 * is written), held again at the exit of the call, given back all its registers and let go. Only
 * the kernel runs meanwhile, so vector and x87 registers never change. The general registers include
 * orig_rax and the kernel's private result (-ERESTART...): as the thread leaves the stop, the
 * kernel goes on with the system call that it was in, or delivers a signal that has come,
 * exactly as if we had not been there.
 *
 * Being killed. When this program dies, the kernel lets the thread go where it stands: somewhere on
 * the way through our system call. So a signal frame lies ready below its red zone, and the
 * instruction behind `syscall` is a `ret` that leads into rt_sigreturn(2) with that frame: left
 * alone, the thread restores its registers, its vector state and its signal mask by itself. Step by
 * step, "killed here" means:
 *
 *   - seized, interrupted, looked at: nothing was changed;
 *   - frame written: it lies in memory that nobody uses;
 *   - registers set: the thread calls rt_sigreturn at once and is back;
 *   - at the entry of the call: the same, until the call's number is in the registers; then it
 *     makes the call, and is back;
 *   - at the exit of the call: it is back;
 *   - registers restored: it is back.
 *
 * Left alone in this way, a system call that it was blocked in is made again from its start (ptrace
 * would have kept a timeout and would have noticed a signal that came just then).
 *
 * No SIGTRAP is ever generated: single steps and breakpoints would kill the thread if we died,
 * system call stops do not (with TRACESYSGOOD; without it, the kernel would send one).
 *
 * All signals are blocked on the way, so that none is delivered to a thread that is not where it
 * seems to be. They wait in their queues. The frame and the normal way back both restore the mask.
 */
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "process/inject.h"
#include "process/tracee.h"

#ifndef PTRACE_GET_RSEQ_CONFIGURATION
#define PTRACE_GET_RSEQ_CONFIGURATION 0x420f
#endif
#ifndef PTRACE_GETSIGMASK
#define PTRACE_GETSIGMASK 0x420a
#define PTRACE_SETSIGMASK 0x420b
#endif
#ifndef PTRACE_O_SUSPEND_SECCOMP
#define PTRACE_O_SUSPEND_SECCOMP (1 << 21)
#endif

enum {
	STACK_MARGIN = 1024,	/* bytes left free below the frame */
	HANDLER_DEPTH = 32768,	/* bytes of stack looked at for a signal frame */
	NT_X86_XSTATE_ = 0x202, /* elf.h of old C libraries lacks it */
};

/* What a thread gets back. */
struct saved {
	struct user_regs_struct regs;
	uint64_t sigmask;
	struct stop stop;
};

static void step(struct injection *in, int number)
{
	if (in->hook)
		in->hook(in->hook_arg, number);
}

static void failed(struct injection *in, int err, const char *what)
{
	in->outcome = err == -ESRCH ? INJECT_GONE : INJECT_ERROR;
	if (err != -ESRCH)
		in->err = error_errno(-err, "cannot %s thread %d of process %d (%s)", what, in->tid,
			in->process->pid, in->process->comm);
}

/* ---- taking hold of the thread ---- */

/* false: it is in uninterruptible sleep, and would not stop. */
static bool look_before(const struct injection *in, bool *seccomp)
{
	char path[64], text[PROC_SMALL];
	uint64_t mode = 0;

	snprintf(path, sizeof(path), "task/%d/status", in->tid);
	if (proc_read_small(in->process->dir_fd, path, text, sizeof(text)) < 0)
		return true;
	*seccomp = proc_status_number(text, "Seccomp", 10, &mode) && mode;
	return !strstr(text, "\nState:\tD");
}

static bool hold(struct injection *in)
{
	unsigned long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXEC;
	bool seccomp = false;

	if (!look_before(in, &seccomp)) {
		in->outcome = INJECT_UNFIT;
		return false;
	}
	if (seccomp)
		options |= PTRACE_O_SUSPEND_SECCOMP;
	int err = tracee_seize(in->tid, options);
	if (!err)
		return true;
	if (err == -ESRCH) {
		in->outcome = INJECT_GONE;
		return false;
	}
	struct proc_stat stat;
	if (proc_stat_read(in->process->dir_fd, in->tid, &stat) < 0 || stat.state == 'Z')
		in->outcome = INJECT_GONE;
	else if (process_tracer_of(in->process, in->tid))
		in->outcome = INJECT_TRACED;
	else if (seccomp)
		in->outcome = INJECT_SECCOMP;
	else
		failed(in, err, "trace");
	return false;
}

/* Give up on a thread that is stopped and was not touched, apart from hiding the stop. */
static void release(struct injection *in, struct stop stop, enum inject_outcome why)
{
	int err = tracee_detach(in->tid, stop);

	if (err == -ESRCH)
		in->outcome = INJECT_GONE;
	else if (err < 0)
		failed(in, err, "release");
	else
		in->outcome = why;
}

/* Read it, hide the stop; let it go when it is not fit. */
static bool has_stopped(struct injection *in, struct saved *saved)
{
	switch (saved->stop.kind) {
	case STOP_NONE:
		in->outcome = INJECT_STRAGGLER;
		return false;
	case STOP_GONE:
		in->outcome = INJECT_GONE;
		return false;
	case STOP_EXEC:
		release(in, saved->stop, INJECT_EXEC);
		return false;
	default:
		break;
	}
	int err = tracee_getregs(in->tid, &saved->regs);
	if (!err && regs_hide_interrupt(&saved->regs))
		err = tracee_setregs(in->tid, &saved->regs);
	if (err < 0) {
		failed(in, err, "access registers of");
		return false;
	}
	/* On its way into a signal handler: let it, and take another (or itself, later). */
	if (saved->stop.kind == STOP_SIGNAL || !regs_is_64bit(&saved->regs)) {
		release(in, saved->stop, INJECT_UNFIT);
		return false;
	}
	return true;
}

static bool stop_thread(struct injection *in, struct saved *saved)
{
	pid_t tgid = in->process->pid;
	int err = tracee_interrupt(in->tid);

	if (err < 0 && err != -ESRCH) {
		failed(in, err, "interrupt");
		return false;
	}
	saved->stop = tracee_wait(in->tid, tgid);
	if (saved->stop.kind == STOP_NONE)
		saved->stop = tracee_wait_longer(in->process, in->tid);
	return has_stopped(in, saved);
}

/* ---- where the frame goes ---- */

/* Is there a signal frame not far up the stack? It begins with the address of the restorer. */
static bool in_signal_handler(
	const struct injection *in, const struct user_regs_struct *regs, const struct map *stack)
{
	uint64_t words[HANDLER_DEPTH / 8];
	size_t size = stack->end - regs->rsp;

	if (!in->gadgets->restore)
		return false;
	if (size > sizeof(words))
		size = sizeof(words);
	struct suture_error *err = process_read(in->process, regs->rsp & ~(uint64_t)7, words, size);
	if (err) {
		suture_error_destroy(err);
		return true;
	}
	/* Stopped by job control on the way back from a call of ours whose maker was killed. */
	if (regs->rip == in->gadgets->call + 2 && words[0] == in->gadgets->restore)
		return false;
	for (size_t i = 0; i < size / 8; i++)
		if (words[i] == in->gadgets->restore)
			return true;
	return false;
}

/*
 * Memory below the stack pointer is free only if it is stack. That is certain for the main thread's
 * stack, and for a thread whose control block lies at the top of the same mapping, with a guard
 * below; but not in a signal handler, whose alternate stack may be a part of either. Coroutines and
 * alternate stacks may end right where they are, next to other data.
 */
static const struct map *own_stack(const struct injection *in, const struct user_regs_struct *regs)
{
	const struct map *m = maps_find(in->maps, regs->rsp);

	if (!m || !m->r || !m->w || m->shared || in_signal_handler(in, regs, m))
		return NULL;
	if (strcmp(m->path, "[stack]") == 0)
		return m;
	const struct map *guard = m > in->maps->v.at ? m - 1 : NULL;
	bool guarded = guard && guard->end == m->start && !guard->r && !guard->w && !guard->x;
	return guarded && regs->fs_base > regs->rsp && regs->fs_base < m->end ? m : NULL;
}

static bool build_frame(struct injection *in, const struct saved *saved, const uint8_t *xstate,
	size_t xstate_size, struct regs_frame *frame)
{
	const struct user_regs_struct *regs = &saved->regs;
	const struct map *stack = own_stack(in, regs);

	if (stack &&
		regs_frame_build(frame, regs->rsp - REGS_RED_ZONE, regs, saved->sigmask, xstate,
			xstate_size, in->xsave, in->gadgets) &&
		frame->base >= stack->start + STACK_MARGIN)
		return true;
	remote_addr scratch = in->tid == in->process->pid ? in->main_scratch : in->scratch;
	/* On its way back out of the scratch already (tools died, and it is stopped): not twice. */
	if (!scratch || regs->rsp - scratch <= INJECT_SCRATCH ||
		!regs_frame_build(frame, scratch + INJECT_SCRATCH, regs, saved->sigmask, xstate,
			xstate_size, in->xsave, in->gadgets) ||
		frame->base < scratch + INJECT_SCRATCH_MARK)
		return false;
	struct suture_error *err =
		process_write(in->process, scratch, in->scratch_mark, INJECT_SCRATCH_MARK);
	suture_error_destroy(err);
	return !err;
}

/* ---- state beyond the registers ---- */

struct rseq_configuration {
	uint64_t pointer;
	uint32_t size, signature, flags, pad;
};

/* struct rseq_cs of rseq(2) */
struct rseq_section {
	uint32_t version, flags;
	uint64_t start_ip, post_commit_offset, abort_ip;
};

/* false: its restartable sequence cannot be read. */
static bool leave_rseq(struct injection *in, struct user_regs_struct *regs)
{
	struct rseq_configuration conf = {};
	struct rseq_section cs;
	uint64_t section;

	/* A kernel without this request, or a thread without rseq: nothing to leave. */
	if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, in->tid, sizeof(conf), &conf) < 0 ||
		!conf.pointer || regs_in_syscall(regs))
		return true;
	struct suture_error *err =
		process_read(in->process, conf.pointer + 8, &section, sizeof(section));
	if (!err && section)
		err = process_read(in->process, section, &cs, sizeof(cs));
	if (err) {
		suture_error_destroy(err);
		return false;
	}
	if (section)
		regs_abort_rseq(regs, cs.start_ip, cs.post_commit_offset, cs.abort_ip);
	return true;
}

static bool read_xstate(struct injection *in, uint8_t *xstate, size_t *size)
{
	struct iovec iov = {xstate, REGS_XSTATE_MAX};

	if (ptrace(PTRACE_GETREGSET, in->tid, NT_X86_XSTATE_, &iov) < 0)
		return false;
	*size = iov.iov_len;
	return true;
}

/* Everything that the thread needs to restore itself, written where it will find it. */
static bool prepare_frame(struct injection *in, struct saved *saved, struct regs_frame *frame)
{
	uint8_t xstate[REGS_XSTATE_MAX];
	size_t size;

	if (ptrace(PTRACE_GETSIGMASK, in->tid, sizeof(saved->sigmask), &saved->sigmask) < 0 ||
		!leave_rseq(in, &saved->regs) || !read_xstate(in, xstate, &size) ||
		!build_frame(in, saved, xstate, size, frame))
		return false;
	struct suture_error *err =
		process_write(in->process, frame->base, frame->bytes, frame->size);
	suture_error_destroy(err);
	return !err;
}

/* ---- the call ---- */

/* Resume until the next system-call stop. Stops of job control are passed through. */
static struct stop next_syscall_stop(struct injection *in)
{
	struct stop stop;

	for (int i = 0; i < 16; i++) {
		if (ptrace(PTRACE_SYSCALL, in->tid, NULL, NULL) < 0)
			return (struct stop){STOP_GONE, 0};
		stop = tracee_wait(in->tid, in->process->pid);
		if (stop.kind != STOP_EVENT && stop.kind != STOP_GROUP)
			return stop;
	}
	return stop;
}

static int set_sigmask(struct injection *in, uint64_t mask)
{
	if (ptrace(PTRACE_SETSIGMASK, in->tid, sizeof(mask), &mask) < 0)
		return -errno;
	return 0;
}

/* Where it was, as it was, running. */
static void put_back(struct injection *in, const struct saved *saved, struct stop stop)
{
	step(in, 6);
	int err = set_sigmask(in, saved->sigmask);
	step(in, 7);
	if (!err)
		err = tracee_setregs(in->tid, &saved->regs);
	step(in, 8);
	if (!err)
		err = tracee_detach(in->tid, stop);
	if (err < 0)
		failed(in, err, "put back");
}

/* It did not come to the stop that was expected. */
static void off_the_path(struct injection *in, const struct saved *saved, struct stop stop)
{
	switch (stop.kind) {
	case STOP_GONE:
		in->outcome = INJECT_GONE;
		return;
	case STOP_NONE:
		in->outcome = INJECT_LOST;
		return;
	default: /* a signal that cannot be blocked (SIGSTOP) */
		in->outcome = INJECT_UNFIT;
		put_back(in, saved, stop);
	}
}

/*
 * Enter the kernel as rt_sigreturn, which is harmless if we die and allowed by every seccomp
 * filter, and become the real call only at the entry stop.
 */
static struct stop enter(
	struct injection *in, const struct saved *saved, const struct regs_frame *frame)
{
	static const uint64_t none[6];
	struct user_regs_struct regs = saved->regs;
	struct stop stop = {STOP_GONE, 0};

	regs_set_syscall(&regs, in->gadgets->call, frame->context, SYS_rt_sigreturn, none);
	step(in, 1);
	if (tracee_setregs(in->tid, &regs) < 0)
		return stop;
	step(in, 2);
	if (set_sigmask(in, ~(uint64_t)0) < 0)
		return stop;
	step(in, 3);
	stop = next_syscall_stop(in);
	if (stop.kind != STOP_SYSCALL)
		return stop;
	step(in, 4);
	if (tracee_getregs(in->tid, &regs) < 0)
		return (struct stop){STOP_GONE, 0};
	uint64_t after = regs.rip;
	regs_set_syscall(&regs, after, frame->sp, in->nr, in->args);
	regs.orig_rax = (uint64_t)in->nr;
	if (tracee_setregs(in->tid, &regs) < 0)
		return (struct stop){STOP_GONE, 0};
	return stop;
}

static void call(struct injection *in, struct saved *saved, const struct regs_frame *frame)
{
	struct user_regs_struct regs;
	struct stop stop = enter(in, saved, frame);

	if (stop.kind != STOP_SYSCALL) {
		off_the_path(in, saved, stop);
		return;
	}
	step(in, 5);
	stop = next_syscall_stop(in);
	if (stop.kind != STOP_SYSCALL) {
		off_the_path(in, saved, stop);
		return;
	}
	int err = tracee_getregs(in->tid, &regs);
	if (err < 0) {
		failed(in, err, "read registers of");
		return;
	}
	in->result = (int64_t)regs.rax;
	in->outcome = INJECT_DONE;
	put_back(in, saved, stop);
}

void inject(void *arg)
{
	struct injection *in = arg;
	struct saved saved;
	struct regs_frame frame;

	in->outcome = INJECT_ERROR;
	if (!hold(in))
		return;
	uint64_t start = monotonic_ns();
	if (!stop_thread(in, &saved))
		return;
	step(in, 0);
	if (prepare_frame(in, &saved, &frame))
		call(in, &saved, &frame);
	else
		release(in, saved.stop, INJECT_UNFIT);
	/* A step failed although the thread is there: only the tracer's end lets it go now. */
	if (in->outcome == INJECT_GONE && tracee_look(in->tid, in->process->pid).kind != STOP_GONE)
		in->outcome = INJECT_LOST;
	in->held_ns = monotonic_ns() - start;
}
