/* SPDX-License-Identifier: Apache-2.0 */
/* The registers of a stopped thread: see regs.h. */
#include <cpuid.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>

#include "arch/x86_64/regs.h"

/* include/linux/errno.h of the kernel: results that only the kernel and tracers see. */
enum {
	ERESTARTSYS = 512,
	ERESTARTNOINTR = 513,
	ERESTARTNOHAND = 514,
	ERESTART_RESTARTBLOCK = 516,
};

enum {
	USER_CS_64 = 0x33,
	SYSCALL_SIZE = 2,
	FLAG_TRAP = 0x100,
};

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

struct syscall_entry {
	long nr;
	const char *name;
	enum syscall_cost cost;
	/*
	 * Fails with EINTR after a mere stop (found by stopping each of them), and had no effect
	 * then, so that making it again is right. close(2), for one, is not like that.
	 */
	bool spurious_eintr;
};

#define NONE	    SYSCALL_COST_NONE
#define RESTART	    SYSCALL_COST_RESTART
#define LONGER	    SYSCALL_COST_LONGER
#define SHORT	    SYSCALL_COST_SHORT
#define UNSTOPPABLE SYSCALL_COST_UNSTOPPABLE

static const struct syscall_entry syscalls[] = {
	/* Sockets with SO_RCVTIMEO or SO_SNDTIMEO are why so many are here. */
	{SYS_read, "read", NONE, true},
	{SYS_readv, "readv", NONE, true},
	{SYS_write, "write", SHORT, true},
	{SYS_writev, "writev", SHORT, true},
	{SYS_recvfrom, "recvfrom", RESTART, true},
	{SYS_recvmsg, "recvmsg", RESTART, true},
	{SYS_recvmmsg, "recvmmsg", SHORT, true},
	{SYS_sendto, "sendto", SHORT, true},
	{SYS_sendmsg, "sendmsg", SHORT, true},
	{SYS_sendmmsg, "sendmmsg", SHORT, true},
	{SYS_accept, "accept", RESTART, true},
	{SYS_accept4, "accept4", RESTART, true},
	{SYS_connect, "connect", RESTART, true},
	{SYS_epoll_wait, "epoll_wait", LONGER, true},
	{SYS_epoll_pwait, "epoll_pwait", LONGER, true},
	{SYS_epoll_pwait2, "epoll_pwait2", LONGER, true},
	{SYS_io_getevents, "io_getevents", LONGER, true},
	{SYS_io_pgetevents, "io_pgetevents", LONGER, true},
	{SYS_io_uring_enter, "io_uring_enter", SHORT, true},
	{SYS_rt_sigtimedwait, "rt_sigtimedwait", LONGER, true},
	{SYS_semop, "semop", RESTART, true},
	{SYS_semtimedop, "semtimedop", LONGER, true},
	{SYS_futex, "futex", NONE, false},
	{SYS_wait4, "wait4", NONE, false},
	{SYS_waitid, "waitid", NONE, false},
	{SYS_poll, "poll", RESTART, false},
	{SYS_nanosleep, "nanosleep", RESTART, false},
	{SYS_clock_nanosleep, "clock_nanosleep", RESTART, false},
	{SYS_restart_syscall, "restart_syscall", RESTART, false},
	{SYS_select, "select", LONGER, false},
	{SYS_pselect6, "pselect6", LONGER, false},
	{SYS_ppoll, "ppoll", LONGER, false},
	{SYS_pause, "pause", RESTART, false},
	{SYS_rt_sigsuspend, "rt_sigsuspend", RESTART, false},
	{SYS_sendfile, "sendfile", SHORT, false},
	{SYS_splice, "splice", SHORT, false},
	{SYS_pwrite64, "pwrite64", SHORT, false},
	{SYS_pwritev, "pwritev", SHORT, false},
	{SYS_preadv, "preadv", SHORT, false},
	{SYS_fsync, "fsync", SHORT, false},
	{SYS_fdatasync, "fdatasync", SHORT, false},
	{SYS_sync, "sync", SHORT, false},
	{SYS_mmap, "mmap", SHORT, false},
	{SYS_munmap, "munmap", SHORT, false},
	{SYS_exit, "exit", UNSTOPPABLE, false},
	{SYS_exit_group, "exit_group", UNSTOPPABLE, false},
	{SYS_execve, "execve", UNSTOPPABLE, false},
	{SYS_execveat, "execveat", UNSTOPPABLE, false},
	{SYS_vfork, "vfork", UNSTOPPABLE, false},
	{SYS_clone, "clone", SHORT, false},
	{SYS_clone3, "clone3", SHORT, false},
	{SYS_fork, "fork", SHORT, false},
};

static const struct syscall_entry *entry(long nr)
{
	for (size_t i = 0; i < sizeof(syscalls) / sizeof(syscalls[0]); i++)
		if (syscalls[i].nr == nr)
			return &syscalls[i];
	return NULL;
}

enum syscall_cost syscall_cost(long nr)
{
	const struct syscall_entry *e = entry(nr);

	/* One that is not known may have a timeout. */
	return e ? e->cost : SYSCALL_COST_LONGER;
}

const char *syscall_name(long nr)
{
	const struct syscall_entry *e = entry(nr);

	return e ? e->name : NULL;
}

bool regs_is_64bit(const struct user_regs_struct *regs)
{
	return regs->cs == USER_CS_64;
}

bool regs_in_syscall(const struct user_regs_struct *regs)
{
	return (int64_t)regs->orig_rax >= 0;
}

bool regs_hide_interrupt(struct user_regs_struct *regs)
{
	if (!regs_in_syscall(regs) || !regs_is_64bit(regs) || (int64_t)regs->rax != -EINTR)
		return false;
	const struct syscall_entry *e = entry((long)regs->orig_rax);
	if (!e || !e->spurious_eintr)
		return false;
	regs->rax = (uint64_t)-ERESTARTNOHAND;
	return true;
}

void regs_set_syscall(
	struct user_regs_struct *regs, uint64_t ip, uint64_t sp, long nr, const uint64_t args[6])
{
	regs->rip = ip;
	regs->rsp = sp;
	regs->rax = (uint64_t)nr;
	/* Otherwise the kernel takes our call for the old one and "restarts" it: rip - 2. */
	regs->orig_rax = (uint64_t)-1;
	regs->rdi = args[0];
	regs->rsi = args[1];
	regs->rdx = args[2];
	regs->r10 = args[3];
	regs->r8 = args[4];
	regs->r9 = args[5];
	regs->eflags &= ~(uint64_t)FLAG_TRAP;
}

bool regs_abort_rseq(
	struct user_regs_struct *regs, uint64_t start, uint64_t post_commit, uint64_t abort_ip)
{
	if (regs->rip - start >= post_commit)
		return false;
	regs->rip = abort_ip;
	return true;
}

/* ---- the frame ---- */

/* Where the system call that regs are inside of is made again. */
static void rewind_syscall(struct user_regs_struct *regs)
{
	if (!regs_in_syscall(regs))
		return;
	switch (-(int64_t)regs->rax) {
	case ERESTARTSYS:
	case ERESTARTNOINTR:
	case ERESTARTNOHAND:
	case ERESTART_RESTARTBLOCK:
		/*
		 * restart_syscall would keep the timeout, but rt_sigreturn forgets the restart
		 * block (kernel: restore_sigcontext), so this one sleeps its whole time again.
		 */
		regs->rip -= SYSCALL_SIZE;
		regs->rax = regs->orig_rax;
	}
}

static void fill_context(
	ucontext_t *uc, const struct user_regs_struct *regs, uint64_t sigmask, uint64_t fpstate)
{
	/* arch/x86/include/uapi/asm/ucontext.h: FP_XSTATE, SIGCONTEXT_SS, STRICT_RESTORE_SS */
	enum { UC_FLAGS = 1 | 2 | 4 };
	greg_t *g = uc->uc_mcontext.gregs;

	uc->uc_flags = UC_FLAGS;
	/* Invalid on purpose: sigaltstack(2) refuses it, and the thread keeps the one it has. */
	uc->uc_stack.ss_flags = 0x7f0;
	g[REG_R8] = (greg_t)regs->r8;
	g[REG_R9] = (greg_t)regs->r9;
	g[REG_R10] = (greg_t)regs->r10;
	g[REG_R11] = (greg_t)regs->r11;
	g[REG_R12] = (greg_t)regs->r12;
	g[REG_R13] = (greg_t)regs->r13;
	g[REG_R14] = (greg_t)regs->r14;
	g[REG_R15] = (greg_t)regs->r15;
	g[REG_RDI] = (greg_t)regs->rdi;
	g[REG_RSI] = (greg_t)regs->rsi;
	g[REG_RBP] = (greg_t)regs->rbp;
	g[REG_RBX] = (greg_t)regs->rbx;
	g[REG_RDX] = (greg_t)regs->rdx;
	g[REG_RAX] = (greg_t)regs->rax;
	g[REG_RCX] = (greg_t)regs->rcx;
	g[REG_RSP] = (greg_t)regs->rsp;
	g[REG_RIP] = (greg_t)regs->rip;
	g[REG_EFL] = (greg_t)regs->eflags;
	g[REG_CSGSFS] = (greg_t)(regs->cs | regs->gs << 16 | regs->fs << 32 | regs->ss << 48);
	uc->uc_mcontext.fpregs = (fpregset_t)(uintptr_t)fpstate;
	memcpy(&uc->uc_sigmask, &sigmask, sizeof(sigmask));
}

enum {
	XSAVE_LEGACY = 512,
	XSAVE_HEADER = 64,
	XSAVE_SW = 464, /* software bytes of the legacy area */
	FEATURE_PKRU = 9,
	FEATURES_AMX = 3 << 17,
};

void regs_xsave_init(struct regs_xsave *xsave)
{
	enum { LEAF = 0xd };

	*xsave = (struct regs_xsave){};
	for (unsigned int i = 2; i < 63; i++) {
		unsigned int bytes, offset, c, d;

		if (__get_cpuid_count(LEAF, i, &bytes, &offset, &c, &d))
			xsave->end[i] = offset + bytes;
	}
}

/* Bytes that these features need in the standard format (SDM vol. 1, 13.4). */
static size_t xsave_size(const struct regs_xsave *xsave, uint64_t features)
{
	size_t size = XSAVE_LEGACY + XSAVE_HEADER;

	for (unsigned int i = 2; i < 63; i++)
		if ((features >> i & 1) && xsave->end[i] > size)
			size = xsave->end[i];
	return size;
}

/*
 * Turn ptrace's image of the vector state into a signal frame's: the kernel's magic numbers around
 * it (arch/x86/kernel/fpu/signal.c, check_xstate_in_sigframe). Returns its size, 0 if unknown.
 */
static size_t fill_xstate(uint8_t *to, size_t room, const uint8_t *xstate, size_t size,
	const struct regs_xsave *xsave)
{
	struct _fpx_sw_bytes sw = {.magic1 = FP_XSTATE_MAGIC1};
	const uint32_t magic2 = FP_XSTATE_MAGIC2;
	uint64_t features, in_use, compacted;

	if (size < XSAVE_LEGACY + XSAVE_HEADER)
		return 0;
	memcpy(&features, xstate + XSAVE_SW, sizeof(features));
	memcpy(&in_use, xstate + XSAVE_LEGACY, sizeof(in_use));
	memcpy(&compacted, xstate + XSAVE_LEGACY + 8, sizeof(compacted));
	if (!(features & 1) || compacted || (in_use & ~features))
		return 0;
	/* A thread that has no permission for AMX may not have room for it in a frame either. */
	features &= ~((uint64_t)FEATURES_AMX & ~in_use);
	in_use |= features & 1 << FEATURE_PKRU;
	size_t need = xsave_size(xsave, features);
	if (need > size || need + sizeof(magic2) > room)
		return 0;
	sw.extended_size = (uint32_t)(need + sizeof(magic2));
	sw.xstate_bv = features;
	sw.xstate_size = (uint32_t)need;
	memcpy(to, xstate, need);
	memcpy(to + XSAVE_SW, &sw, sizeof(sw));
	memcpy(to + XSAVE_LEGACY, &in_use, sizeof(in_use));
	memcpy(to + need, &magic2, sizeof(magic2));
	return need + sizeof(magic2);
}

/* Words from frame->sp upwards: where `ret` of the call gadget goes, until rt_sigreturn is made. */
static size_t return_path(const struct regs_gadgets *gadgets, uint64_t words[3])
{
	if (gadgets->restore) {
		words[0] = gadgets->restore;
		return 1;
	}
	words[0] = gadgets->pop_rax;
	words[1] = SYS_rt_sigreturn;
	words[2] = gadgets->call;
	return 3;
}

bool regs_frame_build(struct regs_frame *frame, uint64_t top, const struct user_regs_struct *regs,
	uint64_t sigmask, const uint8_t *xstate, size_t xstate_size, const struct regs_xsave *xsave,
	const struct regs_gadgets *gadgets)
{
	/* Kernel's struct ucontext ends behind an 8-byte mask; glibc's goes on. */
	enum { CONTEXT = 304, HEAD = 320 + 64 };
	struct user_regs_struct to = *regs;
	ucontext_t uc = {};
	uint64_t path[3];

	_Static_assert(offsetof(ucontext_t, uc_sigmask) + 8 == CONTEXT, "struct ucontext");
	/* base is 64-byte aligned, and so is the state at base + HEAD, as xrstor wants it. */
	size_t state = fill_xstate(
		frame->bytes + HEAD, sizeof(frame->bytes) - HEAD, xstate, xstate_size, xsave);
	if (!state || top < HEAD + state + 64)
		return false;
	frame->size = HEAD + state;
	frame->base = (top - frame->size) & ~(uint64_t)63;
	rewind_syscall(&to);
	fill_context(&uc, &to, sigmask, frame->base + HEAD);
	size_t words = return_path(gadgets, path);
	size_t context_at = HEAD - CONTEXT;
	memset(frame->bytes, 0, HEAD);
	memcpy(frame->bytes + context_at, &uc, CONTEXT);
	memcpy(frame->bytes + context_at - words * 8, path, words * 8);
	frame->context = frame->base + context_at;
	frame->sp = frame->context - words * 8;
	return true;
}

/* ---- gadgets ---- */

static void find(uint64_t *gadget, const uint8_t *code, size_t size, uint64_t address,
	const char *bytes, size_t len)
{
	if (*gadget)
		return;
	const uint8_t *at = memmem(code, size, bytes, len);
	if (at)
		*gadget = address + (uint64_t)(at - code);
}

bool regs_find_gadgets(
	struct regs_gadgets *gadgets, const uint8_t *code, size_t size, uint64_t address)
{
#define FIND(gadget, bytes) find(&(gadget), code, size, address, bytes, sizeof(bytes) - 1)
	FIND(gadgets->call, "\x0f\x05\xc3");
	FIND(gadgets->restore, "\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05");
	FIND(gadgets->restore, "\xb8\x0f\x00\x00\x00\x0f\x05");
	FIND(gadgets->pop_rax, "\x58\xc3");
#undef FIND
	return gadgets->call && gadgets->restore;
}
