/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Victims for the tests of this folder: forked children that do something, watch whether anybody
 * disturbs them, and count what they see in memory shared with the test.
 */
#ifndef TESTS_UNIT_PROCESS_VICTIM_H
#define TESTS_UNIT_PROCESS_VICTIM_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../unit.h"
#include "process/internal.h"

/* What a victim tells; zero at start. */
struct shared {
	atomic_int ready; /* threads that have begun their work */
	atomic_int stop;  /* set by the test: end */
	atomic_int bad;	  /* disturbances noticed; `what` names the first */
	atomic_long count[8];
	char what[128];
};

static struct shared *shared;

static inline void noticed(const char *what, long value)
{
	if (atomic_fetch_add(&shared->bad, 1) == 0)
		snprintf(shared->what, sizeof(shared->what), "%s (%ld)", what, value);
}

static inline void sleep_ms(long ms)
{
	struct timespec ts = {ms / 1000, ms % 1000 * 1000000};

	while (nanosleep(&ts, &ts) < 0 && errno == EINTR)
		;
}

/* Fork a child that runs fn(arg) and exits. It dies with the test. */
static inline pid_t victim_start(void (*fn)(void *arg), void *arg)
{
	shared = mmap(
		NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(shared, MAP_FAILED);
	fflush(NULL);
	pid_t pid = fork();
	assert_return_code(pid, errno);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		fn(arg);
		_exit(0);
	}
	return pid;
}

/* Wait until n threads (or whatever the victim counts) have begun. */
static inline void victim_ready(int n)
{
	for (int i = 0; i < 5000 && atomic_load(&shared->ready) < n; i++)
		sleep_ms(1);
	assert_int_equal(atomic_load(&shared->ready), n);
}

static inline void victim_kill(pid_t pid)
{
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

/* End a victim by shared->stop; it must exit normally within some seconds. */
static inline void victim_end(pid_t pid)
{
	int status = 0;

	atomic_store(&shared->stop, 1);
	for (int i = 0; i < 5000; i++) {
		pid_t got = waitpid(pid, &status, WNOHANG);
		if (got == pid) {
			if (!WIFEXITED(status))
				fail_msg("victim died of signal %d", WTERMSIG(status));
			assert_int_equal(WEXITSTATUS(status), 0);
			return;
		}
		sleep_ms(1);
	}
	victim_kill(pid);
	fail_msg("victim does not end");
}

static inline void victim_undisturbed(void)
{
	if (atomic_load(&shared->bad))
		fail_msg("victim noticed %d times: %s", atomic_load(&shared->bad), shared->what);
}

/* The state letter of a process or thread. */
static inline char task_state(pid_t pid)
{
	char path[64];
	struct proc_stat stat = {};

	snprintf(path, sizeof(path), "/proc/%d", pid);
	int fd = open(path, O_RDONLY | O_DIRECTORY);
	if (fd < 0)
		return '-';
	int err = proc_stat_read(fd, 0, &stat);
	close(fd);
	return err ? '-' : stat.state;
}

static inline void wait_state(pid_t pid, char state)
{
	for (int i = 0; i < 2000; i++) {
		if (task_state(pid) == state)
			return;
		sleep_ms(1);
	}
	fail_msg("process %d is in state %c, not %c", pid, task_state(pid), state);
}

/* Nothing here works where even children may not be traced (a seccomp filter, a container). */
static inline bool may_trace(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		pause();
		_exit(0);
	}
	bool ok = ptrace(PTRACE_SEIZE, pid, NULL, NULL) == 0;
	victim_kill(pid);
	return ok;
}

#define NEEDS_PTRACE()                                                    \
	do {                                                              \
		if (!may_trace()) {                                       \
			print_message("SKIP: ptrace is not permitted\n"); \
			skip();                                           \
		}                                                         \
	} while (0)

static inline uint64_t in_ms(uint64_t ms)
{
	return monotonic_ns() + ms * 1000000;
}

#endif
