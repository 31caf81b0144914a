/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registers of a stopped thread: which system call it was in, how the kernel will go on with
 * it, and a frame from which the thread can restore itself. ptrace(2) layouts; no system calls
 * here.
 *
 * In a ptrace stop of a thread that was inside a system call, orig_rax is the call's number and rax
 * its result so far. Results -512, -513, -514 and -516 never reach the program: when the thread
 * resumes, the kernel looks at them after it has looked for signals, and restarts the call or
 * makes it fail with EINTR (arch/x86/kernel/signal.c, handle_signal and
 * arch_do_signal_or_restart).
 */
#ifndef ARCH_X86_64_REGS_H
#define ARCH_X86_64_REGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/user.h>

#include "base/reader.h"

enum {
	REGS_RED_ZONE = 128,	 /* psABI 3.2.2: bytes below rsp that belong to the function */
	REGS_XSTATE_MAX = 16384, /* NT_X86_XSTATE of any processor so far (11008 with AMX) */
};

/* Stopped while executing 64-bit code (a 64-bit process can switch to 32-bit segments). */
bool regs_is_64bit(const struct user_regs_struct *regs);
/* Stopped inside a system call that the kernel is about to restart or fail. */
bool regs_in_syscall(const struct user_regs_struct *regs);

/*
 * A stop makes epoll_wait and some others fail with EINTR where no signal came. Where that has
 * happened, turn the result into one that leaves the choice to the kernel: EINTR when a handler
 * runs, restart when none does. Returns true when regs were changed and must be written.
 */
bool regs_hide_interrupt(struct user_regs_struct *regs);

/* How bad it would be to stop a thread in this call; lower is better. */
enum syscall_cost {
	SYSCALL_COST_NONE,	  /* restarts as if nothing had happened */
	SYSCALL_COST_RESTART,	  /* restarts through the kernel's restart block, timeout kept */
	SYSCALL_COST_LONGER,	  /* restarts with its whole timeout: later than it should be */
	SYSCALL_COST_SHORT,	  /* may return a short count */
	SYSCALL_COST_UNSTOPPABLE, /* does not stop before somebody else acts: vfork */
};
/* nr: from /proc/TID/syscall. */
enum syscall_cost syscall_cost(long nr);
/* "futex"; NULL for one that is not in the table (it holds those that matter in messages). */
const char *syscall_name(long nr);

/* Registers for `syscall` at ip with the stack at sp. Keeps everything else of regs. */
void regs_set_syscall(
	struct user_regs_struct *regs, uint64_t ip, uint64_t sp, long nr, const uint64_t args[6]);

/*
 * Instructions that a thread can be sent through, found in its executable memory:
 *   call: `syscall; ret`
 *   restore: `mov $15, %eax; syscall` (libc's signal restorer), or
 *   pop_rax: `pop %rax; ret`, which with `call` makes the same.
 * 0: not found.
 */
struct regs_gadgets {
	uint64_t call, restore, pop_rax;
};

/*
 * How far each feature's state reaches in the standard format of xsave. Asked once: in a virtual
 * machine each CPUID costs microseconds.
 */
struct regs_xsave {
	uint32_t end[63];
};
void regs_xsave_init(struct regs_xsave *xsave);

/*
 * A signal frame that puts a thread back to some registers: what rt_sigreturn(2) reads, so that a
 * thread whose tracer was killed restores itself. A system call that the thread was inside of is
 * made again from its start then.
 */
struct regs_frame {
	uint64_t base;	  /* remote address: write `size` bytes there */
	uint64_t context; /* stack pointer with which rt_sigreturn puts the thread back */
	uint64_t sp;	  /* stack pointer with which gadgets->call leads there */
	size_t size;
	_Alignas(64) uint8_t bytes[REGS_XSTATE_MAX + 1024];
};

/*
 * Lay out a frame below `top` (exclusive), and below it the return addresses that lead from
 * gadgets->call into it: with the stack pointer at frame->sp, `syscall; ret` makes a system call
 * and then puts the thread back. xstate: NT_X86_XSTATE as ptrace gives it. false: the vector state
 * has an unknown format.
 */
bool regs_frame_build(struct regs_frame *frame, uint64_t top, const struct user_regs_struct *regs,
	uint64_t sigmask, const uint8_t *xstate, size_t xstate_size, const struct regs_xsave *xsave,
	const struct regs_gadgets *gadgets);

/*
 * A thread inside a restartable sequence (rseq(2)) must not go on inside it after it made a system
 * call. start, post_commit, abort: of its struct rseq_cs. Returns true when rip was moved.
 */
bool regs_abort_rseq(
	struct user_regs_struct *regs, uint64_t start, uint64_t post_commit, uint64_t abort_ip);

/* Look through code at `address`; fills what is still 0. true when nothing more is needed. */
bool regs_find_gadgets(
	struct regs_gadgets *gadgets, const uint8_t *code, size_t size, uint64_t address);

#endif
