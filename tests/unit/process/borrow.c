/* SPDX-License-Identifier: Apache-2.0 */
/* A borrowed thread makes system calls, and neither it nor the others notice. */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/epoll.h>
#include <ucontext.h>

#include "pattern.h"
#include "process/borrow.h"
#include "victim.h"

/*
 * AddressSanitizer works below the stack pointer itself, and unmaps the alternate stack that a
 * thread has at its end: what happens to these victims is its doing.
 */
#ifdef __SANITIZE_ADDRESS__
#define NEEDS_PLAIN_STACKS() skip()
#else
#define NEEDS_PLAIN_STACKS()
#endif

/* ---- what is asked of a borrowed thread ---- */

static int64_t remote_getppid(struct borrow *b)
{
	const uint64_t args[6] = {1, 2, 3, 4, 5, 6};
	int64_t got = 0;

	assert_ok(borrow_syscall(b, SYS_getppid, args, &got));
	return got;
}

/* Map, write, read, unmap. */
static void map_and_unmap(struct process *p, struct borrow *b)
{
	const uint64_t map[6] = {
		0, 8192, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, (uint64_t)-1, 0};
	uint64_t word = 0;
	struct maps maps;
	int64_t got;

	assert_ok(borrow_syscall(b, SYS_mmap, map, &got));
	assert_true(got > 0);
	remote_addr at = (remote_addr)got;
	assert_ok(process_maps(p, &maps));
	const struct map *m = maps_find(&maps, at);
	assert_non_null(m);
	assert_true(m->r && m->x && !m->w && m->end >= at + 8192);
	maps_deinit(&maps);
	assert_ok(process_write(p, at + 4092, "abcdefgh", 8));
	assert_ok(process_read(p, at + 4092, &word, 8));
	assert_memory_equal(&word, "abcdefgh", 8);
	const uint64_t unmap[6] = {at, 8192};
	assert_ok(borrow_syscall(b, SYS_munmap, unmap, &got));
	assert_int_equal(got, 0);
	assert_error(process_read(p, at, &word, 8), SUTURE_ERROR_INPUT, "no such memory");
}

static void borrow_rounds(pid_t pid, int rounds)
{
	struct process *p;
	struct borrow *b;
	int64_t got;

	assert_ok(process_open(pid, true, &p));
	assert_ok(borrow_begin(p, &b));
	for (int i = 0; i < rounds; i++) {
		assert_int_equal(remote_getppid(b), getpid());
		map_and_unmap(p, b);
	}
	/* The call's own failure is a result. */
	const uint64_t bad[6] = {1, 8192};
	assert_ok(borrow_syscall(b, SYS_munmap, bad, &got));
	assert_int_equal(got, -EINVAL);
	assert_ok(borrow_end(b));
	process_close(p);
}

static uint64_t blocked_signals(pid_t pid)
{
	char path[64], text[4096];
	uint64_t mask = UINT64_MAX;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	if (proc_read_small(AT_FDCWD, path, text, sizeof(text)) > 0)
		proc_status_number(text, "SigBlk", 16, &mask);
	return mask;
}

/* ---- threads that run ---- */

static void pattern_victim(void *arg)
{
	static _Thread_local char alternate[16384];
	stack_t ss = {.ss_sp = alternate, .ss_size = sizeof(alternate)};

	(void)arg;
	sigaltstack(&ss, NULL);
	atomic_fetch_add(&shared->ready, 1);
	long bad = pattern_loop(
		(volatile int *)&shared->stop, (volatile long *)&shared->count[0], pattern_level());
	if (bad)
		noticed("register check", bad);
	if (sigaltstack(NULL, &ss) < 0 || ss.ss_sp != alternate || ss.ss_flags)
		noticed("alternate stack", ss.ss_flags);
}

static void *pattern_thread(void *arg)
{
	pattern_victim(arg);
	return arg;
}

static void pattern_threads(void *arg)
{
	pthread_t thread;

	pthread_create(&thread, NULL, pattern_thread, arg);
	pattern_victim(arg);
	pthread_join(thread, NULL);
}

static bool still_loops(void)
{
	long loops = atomic_load(&shared->count[0]);

	for (int i = 0; i < 2000 && atomic_load(&shared->count[0]) < loops + 10; i++)
		sleep_ms(1);
	return atomic_load(&shared->count[0]) >= loops + 10;
}

static void registers_survive(void **state)
{
	(void)state;
	NEEDS_PLAIN_STACKS();
	NEEDS_PTRACE();
	pid_t pid = victim_start(pattern_threads, NULL);
	victim_ready(2);
	borrow_rounds(pid, 60);
	assert_true(still_loops());
	victim_end(pid);
	victim_undisturbed();
}

/* ---- threads that are blocked ---- */

static int fds[2];

static void blocked_in_read(void)
{
	char c;
	ssize_t n = read(fds[0], &c, 1);

	if (n != 1)
		noticed("read", n < 0 ? errno : n);
}

static void blocked_in_epoll(void)
{
	struct epoll_event ev = {.events = EPOLLIN};
	int ep = epoll_create1(0);

	epoll_ctl(ep, EPOLL_CTL_ADD, fds[0], &ev);
	int n = epoll_wait(ep, &ev, 1, -1);
	if (n != 1)
		noticed("epoll_wait", n < 0 ? errno : n);
}

static void blocked_in_futex(void)
{
	static atomic_int word;

	for (;;) {
		struct timespec ts = {0, 1000000};
		struct epoll_event ev = {.events = EPOLLIN};

		(void)ev;
		if (syscall(SYS_futex, &word, 0, 0, &ts, NULL, 0) == 0 || errno != ETIMEDOUT)
			noticed("futex", errno);
		if (atomic_load(&shared->stop))
			return;
	}
}

static void blocked_in_nanosleep(void)
{
	while (!atomic_load(&shared->stop)) {
		struct timespec ts = {0, 100000000};
		uint64_t start = monotonic_ns();

		if (nanosleep(&ts, NULL) < 0)
			noticed("nanosleep", errno);
		if (monotonic_ns() - start < 100000000)
			noticed("short sleep", (long)(monotonic_ns() - start));
	}
}

static void on_signal(int sig)
{
	(void)sig;
	atomic_fetch_add(&shared->count[1], 1);
}

static void blocked_in_sigsuspend(void)
{
	sigset_t only, before;

	signal(SIGUSR1, on_signal);
	sigemptyset(&only);
	sigaddset(&only, SIGUSR1);
	sigprocmask(SIG_BLOCK, &only, NULL);
	sigfillset(&only);
	sigdelset(&only, SIGUSR1);
	if (sigsuspend(&only) != -1 || errno != EINTR)
		noticed("sigsuspend", errno);
	sigprocmask(SIG_BLOCK, NULL, &before);
	if (!sigismember(&before, SIGUSR1) || sigismember(&before, SIGUSR2))
		noticed("mask after sigsuspend", 0);
	if (atomic_load(&shared->count[1]) != 1)
		noticed("handler calls", atomic_load(&shared->count[1]));
}

static void (*const blocked[])(void) = {blocked_in_read, blocked_in_epoll, blocked_in_futex,
	blocked_in_nanosleep, blocked_in_sigsuspend};
enum { N_BLOCKED = sizeof(blocked) / sizeof(blocked[0]) };

static void blocked_victim(void *arg)
{
	if (pipe(fds) < 0)
		_exit(1);
	atomic_store(&shared->count[7], fds[1]);
	atomic_fetch_add(&shared->ready, 1);
	(*(void (*const *)(void))arg)();
}

static uint64_t mask_before;

static pid_t blocked_start(int kind)
{
	pid_t pid = victim_start(blocked_victim, (void *)&blocked[kind]);

	victim_ready(1);
	wait_state(pid, 'S');
	mask_before = blocked_signals(pid);
	return pid;
}

/* What each waits for. Nothing may have come back before. */
static void blocked_finish(pid_t pid, int kind)
{
	char path[64];

	sleep_ms(1);
	wait_state(pid, 'S');
	victim_undisturbed();
	assert_int_equal(blocked_signals(pid), mask_before);
	if (kind == 4) {
		kill(pid, SIGUSR1);
		victim_end(pid);
		victim_undisturbed();
		return;
	}
	snprintf(path, sizeof(path), "/proc/%d/fd/%ld", pid, atomic_load(&shared->count[7]));
	int fd = open(path, O_WRONLY);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, "x", 1), 1);
	close(fd);
	victim_end(pid);
	victim_undisturbed();
}

static void blocked_calls_go_on(void **state)
{
	(void)state;
	NEEDS_PTRACE();
	for (int kind = 0; kind < N_BLOCKED; kind++) {
		pid_t pid = blocked_start(kind);
		borrow_rounds(pid, 3);
		blocked_finish(pid, kind);
	}
}

/* ---- being killed in the middle ---- */

static void die_at(void *arg, int step)
{
	if (step == *(int *)arg)
		kill(getpid(), SIGKILL);
}

/* A tool that is killed in front of this step of a call. */
static void killed_in(pid_t pid, long nr, int step)
{
	int status = 0;
	pid_t tool = fork();

	if (tool == 0) {
		static const uint64_t args[6] = {(uint64_t)-1};
		struct process *p;
		struct borrow *b;
		int64_t got;
		if (process_open(pid, true, &p) || borrow_begin(p, &b))
			_exit(1);
		borrow_set_hook(b, die_at, &step);
		if (borrow_syscall(b, nr, args, &got))
			_exit(2);
		_exit(3);
	}
	assert_int_equal(waitpid(tool, &status, 0), tool);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* fchdir(-1) is harmless if it is made. */
static void killed_at(pid_t pid, int step)
{
	killed_in(pid, SYS_fchdir, step);
}

static void a_running_thread_survives_our_death(void **state)
{
	(void)state;
	NEEDS_PTRACE();
	pid_t pid = victim_start(pattern_victim, NULL);
	victim_ready(1);
	for (int step = 0; step < INJECT_STEPS; step++) {
		for (int i = 0; i < 5; i++)
			killed_at(pid, step);
		if (!still_loops())
			fail_msg("victim is in state %c after step %d", task_state(pid), step);
		if (blocked_signals(pid))
			fail_msg("signals stay blocked after step %d", step);
		victim_undisturbed();
	}
	victim_end(pid);
	victim_undisturbed();
}

static void a_blocked_thread_survives_our_death(void **state)
{
	(void)state;
	NEEDS_PTRACE();
	for (int kind = 0; kind < N_BLOCKED; kind++) {
		for (int step = 0; step < INJECT_STEPS; step++) {
			pid_t pid = blocked_start(kind);
			killed_at(pid, step);
			killed_at(pid, step);
			blocked_finish(pid, kind);
		}
	}
}

/* ---- job control ---- */

static void a_stopped_process_stays_stopped(void **state)
{
	(void)state;
	NEEDS_PTRACE();
	pid_t pid = blocked_start(0);
	kill(pid, SIGSTOP);
	wait_state(pid, 'T');
	borrow_rounds(pid, 3);
	wait_state(pid, 'T');
	killed_at(pid, 5);
	wait_state(pid, 'T');
	borrow_rounds(pid, 1);
	wait_state(pid, 'T');
	kill(pid, SIGCONT);
	blocked_finish(pid, 0);
}

/* ---- stacks of all kinds ---- */

/* Less than a frame needs. */
enum { SMALL = 2048, CANARY = 65536 };
static struct {
	unsigned char canary[CANARY];
	unsigned char stack[SMALL];
} __attribute__((aligned(64))) coroutine;
static ucontext_t main_context, coroutine_context;

static void check_canary(const unsigned char *canary, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (canary[i] != 0xa5)
			noticed("memory below a small stack", (long)(size - i));
}

static void in_coroutine(void)
{
	char c;

	atomic_fetch_add(&shared->ready, 1);
	if (read(fds[0], &c, 1) != 1)
		noticed("read", errno);
}

/* The only thread sits on a stack of its own making, with data right below. */
static void coroutine_victim(void *arg)
{
	(void)arg;
	if (pipe(fds) < 0)
		_exit(1);
	atomic_store(&shared->count[7], fds[1]);
	memset(coroutine.canary, 0xa5, CANARY);
	getcontext(&coroutine_context);
	coroutine_context.uc_stack.ss_sp = coroutine.stack;
	coroutine_context.uc_stack.ss_size = SMALL;
	coroutine_context.uc_link = &main_context;
	makecontext(&coroutine_context, in_coroutine, 0);
	swapcontext(&main_context, &coroutine_context);
	check_canary(coroutine.canary, CANARY);
}

static void a_small_stack_is_not_overrun(void **state)
{
	(void)state;
	NEEDS_PLAIN_STACKS();
	NEEDS_PTRACE();
	pid_t pid = victim_start(coroutine_victim, NULL);
	victim_ready(1);
	wait_state(pid, 'S');
	mask_before = blocked_signals(pid);
	borrow_rounds(pid, 3);
	for (int step = 0; step < INJECT_STEPS; step++)
		killed_at(pid, step);
	borrow_rounds(pid, 2);
	blocked_finish(pid, 0);
}

static void in_handler(int sig)
{
	(void)sig;
	atomic_fetch_add(&shared->ready, 1);
	while (!atomic_load(&shared->stop))
		atomic_fetch_add(&shared->count[0], 1);
}

/* A handler on an alternate stack that is itself a part of the main stack. */
static void altstack_victim(void *arg)
{
	enum { ROOM = 16384 };
	struct {
		unsigned char canary[CANARY / 4];
		unsigned char stack[ROOM];
	} here;
	/* As small as the kernel permits: with another frame on top it would overflow. */
	size_t size = (size_t)sysconf(_SC_MINSIGSTKSZ) + 512;
	stack_t ss = {.ss_sp = here.stack, .ss_size = size};
	struct sigaction sa = {.sa_handler = in_handler, .sa_flags = SA_ONSTACK};

	(void)arg;
	if (size > ROOM)
		_exit(3);
	memset(here.canary, 0xa5, sizeof(here.canary));
	if (sigaltstack(&ss, NULL) < 0 || sigaction(SIGUSR1, &sa, NULL) < 0)
		_exit(1);
	raise(SIGUSR1);
	check_canary(here.canary, sizeof(here.canary));
	if (sigaltstack(NULL, &ss) < 0 || ss.ss_sp != here.stack || ss.ss_flags)
		noticed("alternate stack", ss.ss_flags);
}

static void an_alternate_stack_is_not_overrun(void **state)
{
	(void)state;
	NEEDS_PTRACE();
	pid_t pid = victim_start(altstack_victim, NULL);
	victim_ready(1);
	borrow_rounds(pid, 3);
	for (int step = 0; step < INJECT_STEPS; step++)
		killed_at(pid, step);
	assert_true(still_loops());
	victim_end(pid);
	victim_undisturbed();
}

/* ---- restartable sequences ---- */

/* rseq(2): the area that libc has registered for the thread. */
extern const ptrdiff_t __rseq_offset __attribute__((weak));
extern const unsigned int __rseq_size __attribute__((weak));

/*
 * Enters a sequence, stays in it, leaves it by the end ("committed") or is sent to its abort
 * handler. Being stopped, let alone borrowed, must abort it.
 */
static long in_sequence(volatile char *rseq_area, volatile int *inside, volatile int *leave)
{
	long aborted = 0;

	asm volatile(".pushsection __rseq_cs, \"aw\"\n"
		     ".balign 32\n"
		     "9: .long 0, 0\n"
		     ".quad 1f, 2f - 1f, 4f\n"
		     ".popsection\n"
		     "lea 9b(%%rip), %%rax\n"
		     "mov %%rax, 8(%[area])\n"
		     "1:\n"
		     "movl $1, (%[inside])\n"
		     "cmpl $0, (%[leave])\n"
		     "je 1b\n"
		     "2:\n"
		     "jmp 3f\n"
		     ".long 0x53053053\n"
		     "4:\n"
		     "mov $1, %[aborted]\n"
		     "3:\n"
		     : [aborted] "+r"(aborted)
		     : [area] "r"(rseq_area), [inside] "r"(inside), [leave] "r"(leave)
		     : "rax", "memory");
	return aborted;
}

static void rseq_victim(void *arg)
{
	(void)arg;
	volatile char *area = (char *)__builtin_thread_pointer() + __rseq_offset;

	atomic_fetch_add(&shared->ready, 1);
	/* Aborts for any other reason (preemption) just enter it again. */
	while (!atomic_load(&shared->stop))
		if (in_sequence(area, (volatile int *)&shared->count[2],
			    (volatile int *)&shared->count[3]))
			atomic_fetch_add(&shared->count[0], 1);
		else
			noticed("committed", 1);
}

static void a_restartable_sequence_is_aborted(void **state)
{
	(void)state;
	struct process *p;
	struct borrow *b;

	NEEDS_PTRACE();
	if (!&__rseq_size || !__rseq_size) {
		print_message("SKIP: the C library registers no rseq area\n");
		skip();
	}
	pid_t pid = victim_start(rseq_victim, NULL);
	victim_ready(1);
	assert_ok(process_open(pid, true, &p));
	assert_ok(borrow_begin(p, &b));
	for (int i = 0; i < 20; i++) {
		long aborts = atomic_load(&shared->count[0]);

		assert_int_equal(remote_getppid(b), getpid());
		/* Not entered again before it was aborted: nobody lets it commit. */
		for (int j = 0; j < 2000 && atomic_load(&shared->count[0]) == aborts; j++)
			sleep_ms(1);
		assert_true(atomic_load(&shared->count[0]) > aborts);
	}
	assert_ok(borrow_end(b));
	process_close(p);
	atomic_store(&shared->stop, 1);
	kill(pid, SIGSTOP); /* aborts the last one */
	wait_state(pid, 'T');
	kill(pid, SIGCONT);
	victim_end(pid);
	victim_undisturbed();
}

/* ---- seccomp ---- */

static void filtered_victim(void *arg)
{
	const uid_t *uid = arg;
	/* Kill for mmap, munmap and getppid. */
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 3, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_munmap, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	struct sock_fprog prog = {sizeof(code) / sizeof(code[0]), code};

	if (*uid && (setgid(*uid) < 0 || setuid(*uid) < 0))
		_exit(1);
	prctl(PR_SET_DUMPABLE, 1);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
		prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) < 0)
		_exit(2);
	blocked_victim((void *)&blocked[0]);
}

static void a_seccomp_filter_is_suspended(void **state)
{
	(void)state;
	static const uid_t root;

	NEEDS_PTRACE();
	if (getuid() != 0) {
		print_message("SKIP: needs root to suspend a filter\n");
		skip();
	}
	pid_t pid = victim_start(filtered_victim, (void *)&root);
	victim_ready(1);
	wait_state(pid, 'S');
	mask_before = blocked_signals(pid);
	borrow_rounds(pid, 3);
	for (int step = 0; step < INJECT_STEPS; step++)
		killed_at(pid, step);
	/* Until the call stands in the registers, the filter does not see it if we die. */
	for (int step = 0; step < 5; step++)
		killed_in(pid, SYS_getppid, step);
	blocked_finish(pid, 0);
}

static int borrow_as(uid_t uid, pid_t pid)
{
	int status;
	pid_t child = fork();

	if (child == 0) {
		struct process *p;
		struct borrow *b;
		int64_t got;
		if (setgid(uid) < 0 || setuid(uid) < 0)
			_exit(10);
		if (process_open(pid, true, &p) || borrow_begin(p, &b))
			_exit(11);
		struct suture_error *err = borrow_syscall(b, SYS_getppid, (uint64_t[6]){}, &got);
		if (!err)
			_exit(got == getppid() ? 0 : 12);
		fprintf(stderr, "%s\n", suture_error_message(err));
		_exit(suture_error_code(err) == SUTURE_ERROR_PERMISSION &&
					strstr(suture_error_message(err), "seccomp")
				? 1
				: 13);
	}
	waitpid(child, &status, 0);
	return status;
}

static void a_seccomp_filter_refuses_ordinary_users(void **state)
{
	(void)state;
	uid_t nobody = 65534;

	NEEDS_PTRACE();
	if (getuid() != 0) {
		print_message("SKIP: needs root, to become an ordinary user\n");
		skip();
	}
	pid_t pid = victim_start(filtered_victim, &nobody);
	victim_ready(1);
	wait_state(pid, 'S');
	mask_before = blocked_signals(pid);
	assert_int_equal(borrow_as(nobody, pid), 1 << 8);
	blocked_finish(pid, 0);
}

static void ordinary_victim(void *arg)
{
	const uid_t *uid = arg;

	if (setgid(*uid) < 0 || setuid(*uid) < 0)
		_exit(1);
	prctl(PR_SET_DUMPABLE, 1);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	blocked_victim((void *)&blocked[1]);
}

static void the_same_ordinary_user_may(void **state)
{
	(void)state;
	uid_t nobody = 65534;

	NEEDS_PTRACE();
	if (getuid() != 0) {
		print_message("SKIP: needs root, to become an ordinary user\n");
		skip();
	}
	pid_t pid = victim_start(ordinary_victim, &nobody);
	victim_ready(1);
	wait_state(pid, 'S');
	mask_before = blocked_signals(pid);
	assert_int_equal(borrow_as(nobody, pid), 0);
	blocked_finish(pid, 1);
}

/* ---- together with a freeze ---- */

static void not_while_frozen(void **state)
{
	(void)state;
	struct process *p;
	struct freeze *f;
	struct borrow *b;
	int64_t got;

	NEEDS_PTRACE();
	pid_t pid = blocked_start(0);
	assert_ok(process_open(pid, true, &p));
	assert_ok(freeze_create(p, &f));
	assert_ok(borrow_begin(p, &b));
	assert_ok(freeze_stop(f, in_ms(1000)));
	assert_error(borrow_syscall(b, SYS_getppid, (uint64_t[6]){}, &got), SUTURE_ERROR_INTERNAL,
		"is frozen");
	assert_ok(freeze_resume(f));
	assert_int_equal(remote_getppid(b), getpid());
	assert_ok(borrow_end(b));
	freeze_destroy(f);
	process_close(p);
	blocked_finish(pid, 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(registers_survive),
		cmocka_unit_test(blocked_calls_go_on),
		cmocka_unit_test(a_running_thread_survives_our_death),
		cmocka_unit_test(a_blocked_thread_survives_our_death),
		cmocka_unit_test(a_stopped_process_stays_stopped),
		cmocka_unit_test(a_small_stack_is_not_overrun),
		cmocka_unit_test(an_alternate_stack_is_not_overrun),
		cmocka_unit_test(a_restartable_sequence_is_aborted),
		cmocka_unit_test(a_seccomp_filter_is_suspended),
		cmocka_unit_test(a_seccomp_filter_refuses_ordinary_users),
		cmocka_unit_test(the_same_ordinary_user_may),
		cmocka_unit_test(not_while_frozen),
	};
	cmocka_set_test_filter(argc > 1 ? argv[1] : NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
