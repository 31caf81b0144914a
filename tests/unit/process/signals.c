/* SPDX-License-Identifier: Apache-2.0 */
/* Signals that come while a thread is held: none is lost, reordered, invented or hidden. */
#include <sys/epoll.h>

#include "process/borrow.h"
#include "process/freeze.h"
#include "victim.h"

enum { COUNTED = 0, EINTRS = 1, RESTARTS = 2, PIPE = 7 };

/* ---- numbered signals ---- */

static void in_order(int sig, siginfo_t *si, void *uc)
{
	long last = atomic_fetch_add(&shared->count[COUNTED], 1);

	(void)sig;
	(void)uc;
	if (si->si_value.sival_int != last)
		noticed("signal out of order", si->si_value.sival_int);
}

static void handle(int sig, void (*handler)(int, siginfo_t *, void *), int flags)
{
	struct sigaction sa = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags};

	sigaction(sig, &sa, NULL);
}

/* One thread, always in one of some calls, or in its handler. */
static void counting_victim(void *arg)
{
	struct epoll_event ev;
	int ep = epoll_create1(0);

	(void)arg;
	handle(SIGRTMIN + 1, in_order, 0);
	atomic_fetch_add(&shared->ready, 1);
	while (!atomic_load(&shared->stop)) {
		struct timespec ts = {0, 1000000};

		if (epoll_wait(ep, &ev, 1, 1) < 0 && errno != EINTR)
			noticed("epoll_wait", errno);
		if (nanosleep(&ts, NULL) < 0 && errno != EINTR)
			noticed("nanosleep", errno);
	}
}

/* A child that sends n numbered signals, as fast as they are taken. */
static pid_t start_sender(pid_t pid, int n)
{
	pid_t sender = fork();

	if (sender)
		return sender;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (int i = 0; i < n; i++) {
		/* EAGAIN: so many are queued already. Do not fill the queue of the whole user. */
		while (i - atomic_load(&shared->count[COUNTED]) > 100 ||
			sigqueue(pid, SIGRTMIN + 1, (union sigval){.sival_int = i}) < 0)
			usleep(50);
		if (i % 16 == 0)
			usleep(100);
	}
	_exit(0);
}

static void all_arrived(pid_t pid, pid_t sender, long n)
{
	int status;

	assert_int_equal(waitpid(sender, &status, 0), sender);
	assert_int_equal(status, 0);
	for (int i = 0; i < 3000 && atomic_load(&shared->count[COUNTED]) < n; i++)
		sleep_ms(1);
	assert_int_equal(atomic_load(&shared->count[COUNTED]), n);
	victim_end(pid);
	victim_undisturbed();
}

static void freezes_and_borrows_lose_none(void **state)
{
	(void)state;
	enum { N = 4000 };
	struct process *p;
	struct freeze *f;
	struct borrow *b;
	int64_t got;

	NEEDS_PTRACE();
	pid_t pid = victim_start(counting_victim, NULL);
	victim_ready(1);
	assert_ok(process_open(pid, true, &p));
	assert_ok(freeze_create(p, &f));
	assert_ok(borrow_begin(p, &b));
	pid_t sender = start_sender(pid, N);
	for (int i = 0; i < 100; i++) {
		assert_ok(freeze_stop(f, in_ms(2000)));
		assert_ok(freeze_resume(f));
		assert_ok(borrow_syscall(b, SYS_getppid, (uint64_t[6]){}, &got));
		assert_int_equal(got, getpid());
	}
	assert_ok(borrow_end(b));
	freeze_destroy(f);
	process_close(p);
	all_arrived(pid, sender, N);
}

/* A thread that is about to be given a signal when it is frozen. */
static void send_and_wait(void *arg)
{
	const int *pid_and_number = arg;

	sigqueue(pid_and_number[0], SIGRTMIN + 1, (union sigval){.sival_int = pid_and_number[1]});
	wait_state(pid_and_number[0], 't');
}

static void a_signal_in_delivery_is_handed_back(void **state)
{
	(void)state;
	enum { N = 20 };
	struct process *p;
	struct freeze *f;

	NEEDS_PTRACE();
	pid_t pid = victim_start(counting_victim, NULL);
	victim_ready(1);
	assert_ok(process_open(pid, true, &p));
	assert_ok(freeze_create(p, &f));
	for (int i = 0; i < N; i++) {
		int pid_and_number[2] = {pid, i};

		freeze_set_hook(f, send_and_wait, pid_and_number);
		assert_ok(freeze_stop(f, in_ms(2000)));
		assert_int_equal(atomic_load(&shared->count[COUNTED]), i);
		assert_ok(freeze_resume(f));
		for (int j = 0; j < 2000 && atomic_load(&shared->count[COUNTED]) <= i; j++)
			sleep_ms(1);
		assert_int_equal(atomic_load(&shared->count[COUNTED]), i + 1);
	}
	freeze_destroy(f);
	process_close(p);
	victim_end(pid);
	victim_undisturbed();
}

/* ---- the same, with tools that are killed while they hold the thread ---- */

static void kill_after(void *arg, int step)
{
	if (step == *(int *)arg)
		kill(getpid(), SIGKILL);
}

/* step < 0: killed with the target frozen. */
static void killed_tool(pid_t pid, int step)
{
	int status;
	pid_t tool = fork();

	if (tool == 0) {
		struct process *p;
		struct freeze *f;
		struct borrow *b;
		int64_t got;
		if (process_open(pid, true, &p))
			_exit(1);
		if (step < 0) {
			if (freeze_create(p, &f) || freeze_stop(f, in_ms(2000)))
				_exit(2);
			usleep(500);
			kill(getpid(), SIGKILL);
		}
		if (borrow_begin(p, &b))
			_exit(3);
		borrow_set_hook(b, kill_after, &step);
		if (borrow_syscall(b, SYS_getppid, (uint64_t[6]){}, &got))
			_exit(4);
		_exit(5);
	}
	assert_int_equal(waitpid(tool, &status, 0), tool);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void killed_tools_lose_none(void **state)
{
	(void)state;
	enum { N = 3000 };

	NEEDS_PTRACE();
	pid_t pid = victim_start(counting_victim, NULL);
	victim_ready(1);
	pid_t sender = start_sender(pid, N);
	for (int i = 0; i < 40; i++)
		killed_tool(pid, i % (INJECT_STEPS + 1) - 1);
	all_arrived(pid, sender, N);
}

/* ---- real interruptions are not hidden ---- */

static void count_signal(int sig, siginfo_t *si, void *uc)
{
	(void)sig;
	(void)si;
	(void)uc;
	atomic_fetch_add(&shared->count[COUNTED], 1);
}

static int fds[2];

static ssize_t wait_in_epoll(void)
{
	struct epoll_event ev;

	return epoll_wait(fds[0], &ev, 1, -1);
}

static ssize_t wait_in_read(void)
{
	char c;

	return read(fds[0], &c, 1);
}

static ssize_t wait_in_nanosleep(void)
{
	struct timespec ts = {1000, 0};

	return nanosleep(&ts, NULL);
}

static ssize_t (*const waits[])(void) = {wait_in_epoll, wait_in_read, wait_in_nanosleep};
enum { N_WAITS = sizeof(waits) / sizeof(waits[0]) };

/* SIGUSR1 interrupts, SIGUSR2 does not where the call can be restarted, SIGWINCH is ignored. */
static void interrupted_victim(void *arg)
{
	int kind = *(int *)arg;

	handle(SIGUSR1, count_signal, 0);
	handle(SIGUSR2, count_signal, SA_RESTART);
	if (kind == 0)
		fds[0] = epoll_create1(0);
	else if (pipe(fds) < 0)
		_exit(1);
	atomic_fetch_add(&shared->ready, 1);
	while (!atomic_load(&shared->stop)) {
		ssize_t n = waits[kind]();
		if (n >= 0 || errno != EINTR)
			noticed("call returned", n < 0 ? errno : n);
		atomic_fetch_add(&shared->count[EINTRS], 1);
	}
}

static void settled(long signals, long eintrs)
{
	for (int i = 0; i < 2000 && (atomic_load(&shared->count[COUNTED]) < signals ||
					    atomic_load(&shared->count[EINTRS]) < eintrs);
		i++)
		sleep_ms(1);
	assert_int_equal(atomic_load(&shared->count[COUNTED]), signals);
	assert_int_equal(atomic_load(&shared->count[EINTRS]), eintrs);
}

static void send_in_the_middle(void *arg, int step)
{
	int *what = arg; /* pid, signal, step */

	if (step != what[2])
		return;
	kill(what[0], what[1]);
	what[2] = -1; /* once */
}

static void interrupted(int kind)
{
	struct process *p;
	struct freeze *f;
	struct borrow *b;
	int64_t got;
	long signals = 0, eintrs = 0;

	pid_t pid = victim_start(interrupted_victim, &kind);
	victim_ready(1);
	wait_state(pid, 'S');
	assert_ok(process_open(pid, true, &p));
	assert_ok(freeze_create(p, &f));
	assert_ok(borrow_begin(p, &b));
	for (int i = 0; i < 27; i++) {
		static const int sigs[] = {SIGUSR1, SIGWINCH, SIGUSR2};
		int what[3] = {pid, sigs[i % 3], i / 3};

		wait_state(pid, 'S');
		if (what[1] != SIGWINCH)
			signals++;
		/* Only read is restarted after a handler with SA_RESTART. */
		if (what[1] == SIGUSR1 || (what[1] == SIGUSR2 && kind != 1))
			eintrs++;
		if (i % 2) {
			assert_ok(freeze_stop(f, in_ms(1000)));
			kill(pid, what[1]);
			assert_ok(freeze_resume(f));
		} else {
			borrow_set_hook(b, send_in_the_middle, what);
			assert_ok(borrow_syscall(b, SYS_getppid, (uint64_t[6]){}, &got));
			assert_int_equal(got, getpid());
			borrow_set_hook(b, NULL, NULL);
		}
		settled(signals, eintrs);
	}
	assert_ok(borrow_end(b));
	freeze_destroy(f);
	process_close(p);
	wait_state(pid, 'S');
	atomic_store(&shared->stop, 1);
	kill(pid, SIGUSR1);
	victim_end(pid);
	victim_undisturbed();
}

static void interruptions_are_not_hidden(void **state)
{
	(void)state;
	NEEDS_PTRACE();
	for (int kind = 0; kind < N_WAITS; kind++)
		interrupted(kind);
}

/* ---- ignored signals stay ignored ---- */

static void deaf_victim(void *arg)
{
	struct epoll_event ev;
	int ep = epoll_create1(0);

	(void)arg;
	atomic_fetch_add(&shared->ready, 1);
	while (!atomic_load(&shared->stop))
		if (epoll_wait(ep, &ev, 1, 5) < 0)
			noticed("epoll_wait", errno);
}

/* A traced thread is woken even by a signal that it ignores. */
static void ignored_signals_interrupt_nothing(void **state)
{
	(void)state;
	struct process *p;
	struct freeze *f;
	struct borrow *b;
	int64_t got;

	NEEDS_PTRACE();
	pid_t pid = victim_start(deaf_victim, NULL);
	victim_ready(1);
	assert_ok(process_open(pid, true, &p));
	assert_ok(freeze_create(p, &f));
	assert_ok(borrow_begin(p, &b));
	pid_t sender = fork();
	if (sender == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (kill(pid, SIGWINCH) == 0)
			usleep(20);
		_exit(0);
	}
	for (int i = 0; i < 100; i++) {
		assert_ok(freeze_stop(f, in_ms(2000)));
		assert_ok(freeze_resume(f));
		assert_ok(borrow_syscall(b, SYS_getppid, (uint64_t[6]){}, &got));
	}
	victim_kill(sender);
	assert_ok(borrow_end(b));
	freeze_destroy(f);
	process_close(p);
	victim_end(pid);
	victim_undisturbed();
}

/* ---- job control in the middle of a call ---- */

static void stopped_in_the_middle(void **state)
{
	(void)state;
	struct process *p;
	struct borrow *b;
	int64_t got;
	int kind = 1;

	NEEDS_PTRACE();
	pid_t pid = victim_start(interrupted_victim, &kind);
	victim_ready(1);
	wait_state(pid, 'S');
	assert_ok(process_open(pid, true, &p));
	assert_ok(borrow_begin(p, &b));
	for (int step = 0; step < INJECT_STEPS; step++) {
		int what[3] = {pid, SIGSTOP, step};

		borrow_set_hook(b, send_in_the_middle, what);
		assert_ok(borrow_syscall(b, SYS_getppid, (uint64_t[6]){}, &got));
		assert_int_equal(got, getpid());
		borrow_set_hook(b, NULL, NULL);
		wait_state(pid, 'T');
		what[1] = SIGCONT;
		what[2] = step;
		borrow_set_hook(b, send_in_the_middle, what);
		assert_ok(borrow_syscall(b, SYS_getppid, (uint64_t[6]){}, &got));
		assert_int_equal(got, getpid());
		borrow_set_hook(b, NULL, NULL);
		wait_state(pid, 'S');
	}
	settled(0, 0);
	assert_ok(borrow_end(b));
	process_close(p);
	atomic_store(&shared->stop, 1);
	kill(pid, SIGUSR1);
	victim_end(pid);
	victim_undisturbed();
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(freezes_and_borrows_lose_none),
		cmocka_unit_test(a_signal_in_delivery_is_handed_back),
		cmocka_unit_test(killed_tools_lose_none),
		cmocka_unit_test(interruptions_are_not_hidden),
		cmocka_unit_test(ignored_signals_interrupt_nothing),
		cmocka_unit_test(stopped_in_the_middle),
	};
	cmocka_set_test_filter(argc > 1 ? argv[1] : NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
