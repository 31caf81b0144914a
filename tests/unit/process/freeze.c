/* SPDX-License-Identifier: Apache-2.0 */
/* A freeze stops every thread, says who does not stop, and is not noticed. */
#include <sys/epoll.h>

#include "process/freeze.h"
#include "victim.h"

/* ---- threads that check themselves ---- */

static atomic_int never;

static void *spin(void *arg)
{
	(void)arg;
	atomic_fetch_add(&shared->ready, 1);
	while (!atomic_load(&shared->stop))
		atomic_fetch_add(&shared->count[0], 1);
	return NULL;
}

static void *in_epoll(void *arg)
{
	struct epoll_event ev;
	int fd = epoll_create1(0);

	(void)arg;
	atomic_fetch_add(&shared->ready, 1);
	while (!atomic_load(&shared->stop)) {
		int n = epoll_wait(fd, &ev, 1, 50);
		if (n < 0)
			noticed("epoll_wait", errno);
	}
	close(fd);
	return NULL;
}

static void *in_futex(void *arg)
{
	struct timespec ts = {0, 50000000};

	(void)arg;
	atomic_fetch_add(&shared->ready, 1);
	while (!atomic_load(&shared->stop))
		if (syscall(SYS_futex, &never, 0, 0, &ts, NULL, 0) == 0 || errno != ETIMEDOUT)
			noticed("futex", errno);
	return NULL;
}

static void *in_nanosleep(void *arg)
{
	(void)arg;
	atomic_fetch_add(&shared->ready, 1);
	while (!atomic_load(&shared->stop)) {
		struct timespec ts = {0, 50000000};
		uint64_t start = monotonic_ns();
		if (nanosleep(&ts, NULL) < 0)
			noticed("nanosleep", errno);
		if (monotonic_ns() - start < 50000000)
			noticed("short sleep", (long)(monotonic_ns() - start));
	}
	return NULL;
}

static int pipe_fds[2];

static void *in_read(void *arg)
{
	char c;

	(void)arg;
	atomic_fetch_add(&shared->ready, 1);
	ssize_t n = read(pipe_fds[0], &c, 1);
	if (n != 1)
		noticed("read", n < 0 ? errno : n);
	return NULL;
}

static void mixed_victim(void *arg)
{
	static void *(*const kinds[])(void *) = {in_epoll, in_futex, in_nanosleep, in_read};
	int n = *(int *)arg;
	pthread_t threads[256];
	pthread_attr_t attr;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 65536);
	if (pipe(pipe_fds) < 0)
		_exit(1);
	for (int i = 1; i < n; i++)
		if (pthread_create(&threads[i], &attr, i == 1 ? spin : kinds[i % 4], NULL))
			_exit(2);
	in_epoll(NULL);
	for (int i = 1; i < n; i++)
		if (write(pipe_fds[1], "x", 1) != 1)
			_exit(3);
	for (int i = 1; i < n; i++)
		pthread_join(threads[i], NULL);
}

/* Freeze `rounds` times; nothing moves while frozen. */
static void freeze_rounds(pid_t pid, size_t threads, int rounds)
{
	struct process *p;
	struct freeze *f;

	assert_ok(process_open(pid, true, &p));
	assert_ok(freeze_create(p, &f));
	for (int i = 0; i < rounds; i++) {
		assert_ok(freeze_stop(f, in_ms(3000)));
		assert_true(f->frozen);
		assert_int_equal(f->threads.n, threads);
		long before = atomic_load(&shared->count[0]);
		vec_foreach (t, &f->threads) {
			assert_true(t->stopped);
			assert_int_equal(t->regs.cs, 0x33);
			assert_int_equal(task_state(t->tid), 't');
		}
		assert_int_equal(atomic_load(&shared->count[0]), before);
		assert_ok(freeze_resume(f));
		assert_false(f->frozen);
		assert_true(f->last_ns > 0);
		sleep_ms(5);
	}
	freeze_destroy(f);
	process_close(p);
}

static void freeze_n(int n, int rounds)
{
	pid_t pid = victim_start(mixed_victim, &n);

	victim_ready(n);
	sleep_ms(5);
	freeze_rounds(pid, (size_t)n, rounds);
	sleep_ms(60);
	victim_end(pid);
	victim_undisturbed();
}

static void unnoticed_1(void **state)
{
	(void)state;
	NEEDS_PTRACE();
	freeze_n(1, 20);
}

static void unnoticed_8(void **state)
{
	(void)state;
	NEEDS_PTRACE();
	freeze_n(8, 10);
}

static void unnoticed_200(void **state)
{
	(void)state;
	NEEDS_PTRACE();
	freeze_n(200, 4);
}

/* ---- threads that come and go ---- */

static void *short_life(void *arg)
{
	atomic_fetch_add(&shared->count[0], 1);
	return arg;
}

static void *spawner(void *arg)
{
	(void)arg;
	atomic_fetch_add(&shared->ready, 1);
	while (!atomic_load(&shared->stop)) {
		pthread_t threads[4];
		for (int i = 0; i < 4; i++)
			if (pthread_create(&threads[i], NULL, short_life, NULL))
				noticed("pthread_create", i);
		for (int i = 0; i < 4; i++)
			pthread_join(threads[i], NULL);
	}
	return NULL;
}

static void storm_victim(void *arg)
{
	pthread_t threads[3];

	(void)arg;
	for (int i = 0; i < 3; i++)
		pthread_create(&threads[i], NULL, spawner, NULL);
	in_epoll(NULL);
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
}

static bool all_stopped(void *arg, pid_t tid)
{
	int *running = arg;
	char state = task_state(tid);

	*running += state != 't' && state != 'Z' && state != 'X' && state != '-';
	return true;
}

static void thread_storm(void **state)
{
	(void)state;
	struct process *p;
	struct freeze *f;

	NEEDS_PTRACE();
	pid_t pid = victim_start(storm_victim, NULL);
	victim_ready(4);
	assert_ok(process_open(pid, true, &p));
	assert_ok(freeze_create(p, &f));
	int task_fd = openat(p->dir_fd, "task", O_RDONLY | O_DIRECTORY);
	for (int i = 0; i < 20; i++) {
		int running = 0;

		assert_ok(freeze_stop(f, in_ms(3000)));
		assert_true(f->threads.n >= 4);
		long before = atomic_load(&shared->count[0]);
		assert_int_equal(proc_each_tid(task_fd, all_stopped, &running), 0);
		assert_int_equal(running, 0);
		assert_int_equal(atomic_load(&shared->count[0]), before);
		assert_ok(freeze_resume(f));
		sleep_ms(1);
	}
	close(task_fd);
	freeze_destroy(f);
	process_close(p);
	victim_end(pid);
	victim_undisturbed();
}

/* ---- threads that do not stop ---- */

static long max_gap_ms;

/* Notices when it does not run for longer than max_gap_ms. */
static void *metronome(void *arg)
{
	uint64_t last = monotonic_ns();

	(void)arg;
	atomic_fetch_add(&shared->ready, 1);
	while (!atomic_load(&shared->stop)) {
		sleep_ms(1);
		uint64_t now = monotonic_ns();
		if ((long)((now - last) / 1000000) > max_gap_ms)
			noticed("gap in ms", (long)((now - last) / 1000000));
		last = now;
	}
	return NULL;
}

/* A vfork child runs on its parent's stack: nothing but this. */
static pid_t vfork_sleep(const struct timespec *ts)
{
	pid_t pid = vfork();

	if (pid == 0) {
		nanosleep(ts, NULL);
		_exit(0);
	}
	return pid;
}

static void vfork_victim(void *arg)
{
	const struct timespec *child_sleeps = arg;
	pthread_t thread;

	pthread_create(&thread, NULL, metronome, NULL);
	atomic_fetch_add(&shared->ready, 1);
	/* Whenever the test asks for it. */
	while (!atomic_load(&shared->stop)) {
		if (!atomic_exchange(&shared->count[0], 0))
			continue;
		pid_t pid = vfork_sleep(child_sleeps);
		while (waitpid(pid, NULL, 0) < 0)
			if (errno != EINTR)
				noticed("waitpid", errno);
		atomic_fetch_add(&shared->count[1], 1);
	}
	pthread_join(thread, NULL);
}

static void vfork_is_refused_without_a_freeze(void **state)
{
	(void)state;
	struct timespec long_time = {1, 0};
	struct process *p;
	struct freeze *f;

	NEEDS_PTRACE();
	max_gap_ms = 500;
	pid_t pid = victim_start(vfork_victim, &long_time);
	victim_ready(2);
	atomic_store(&shared->count[0], 1);
	wait_state(pid, 'D');
	assert_ok(process_open(pid, true, &p));
	assert_ok(freeze_create(p, &f));
	uint64_t start = monotonic_ns();
	assert_error(freeze_stop(f, in_ms(2000)), SUTURE_ERROR_BUSY, "does not stop: state D");
	assert_true(monotonic_ns() - start < 500000000);
	assert_int_equal(f->stopped_at_ns, 0);
	assert_false(f->frozen);
	/* Nobody holds it: another tracer may come. */
	assert_int_equal(process_tracer_of(p, pid), 0);
	freeze_destroy(f);
	process_close(p);
	victim_kill(pid);
	victim_undisturbed();
}

static void enter_vfork(void *arg)
{
	atomic_store(&shared->count[0], 1);
	wait_state(*(pid_t *)arg, 'D');
}

/* Into vfork after the look: the freeze has begun, fails at its deadline, and all run on. */
static void deadline_lets_all_run(void **state)
{
	(void)state;
	struct timespec child_sleeps = {0, 50000000};
	struct process *p;
	struct freeze *f;

	NEEDS_PTRACE();
	max_gap_ms = 500;
	pid_t pid = victim_start(vfork_victim, &child_sleeps);
	victim_ready(2);
	assert_ok(process_open(pid, true, &p));
	assert_ok(freeze_create(p, &f));
	for (int i = 1; i <= 3; i++) {
		freeze_set_hook(f, enter_vfork, &pid);
		assert_error(
			freeze_stop(f, in_ms(20)), SUTURE_ERROR_BUSY, "does not stop: state D");
		assert_true(f->stopped_at_ns > 0);
		assert_false(f->frozen);
		/* The one that did not stop goes on by itself when it can. */
		for (int j = 0; j < 2000 && atomic_load(&shared->count[1]) < i; j++)
			sleep_ms(1);
		assert_int_equal(atomic_load(&shared->count[1]), i);
		freeze_set_hook(f, NULL, NULL);
		assert_ok(freeze_stop(f, in_ms(1000)));
		assert_ok(freeze_resume(f));
	}
	freeze_destroy(f);
	process_close(p);
	victim_end(pid);
	victim_undisturbed();
}

/* ---- job control ---- */

static void stopped_stays_stopped(void **state)
{
	(void)state;
	struct process *p;
	struct freeze *f;
	int n = 4, status;

	NEEDS_PTRACE();
	pid_t pid = victim_start(mixed_victim, &n);
	victim_ready(n);
	kill(pid, SIGSTOP);
	assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
	assert_true(WIFSTOPPED(status));
	assert_ok(process_open(pid, true, &p));
	assert_ok(freeze_create(p, &f));
	for (int i = 0; i < 5; i++) {
		assert_ok(freeze_stop(f, in_ms(1000)));
		assert_int_equal(f->threads.n, n);
		assert_ok(freeze_resume(f));
		wait_state(pid, 'T');
		long before = atomic_load(&shared->count[0]);
		sleep_ms(3);
		assert_int_equal(atomic_load(&shared->count[0]), before);
	}
	/* Its parent is not told of a second stop. */
	assert_int_equal(waitpid(pid, &status, WUNTRACED | WNOHANG), 0);
	freeze_destroy(f);
	process_close(p);
	kill(pid, SIGCONT);
	victim_end(pid);
	victim_undisturbed();
}

/* SIGSTOP and SIGCONT that come during a freeze take effect after it. */
static void stop_signal_while_frozen(void **state)
{
	(void)state;
	struct process *p;
	struct freeze *f;
	int n = 4;

	NEEDS_PTRACE();
	pid_t pid = victim_start(mixed_victim, &n);
	victim_ready(n);
	assert_ok(process_open(pid, true, &p));
	assert_ok(freeze_create(p, &f));
	assert_ok(freeze_stop(f, in_ms(1000)));
	kill(pid, SIGSTOP);
	assert_ok(freeze_resume(f));
	wait_state(pid, 'T');
	assert_ok(freeze_stop(f, in_ms(1000)));
	kill(pid, SIGCONT);
	assert_ok(freeze_resume(f));
	freeze_destroy(f);
	process_close(p);
	for (int i = 0; i < 1000 && task_state(pid) == 'T'; i++)
		sleep_ms(1);
	victim_end(pid);
}

/* ---- targets that end ---- */

static void killed_while_frozen(void **state)
{
	(void)state;
	struct process *p;
	struct freeze *f;
	struct suture_error *gone = NULL;
	int n = 8, status;

	NEEDS_PTRACE();
	pid_t pid = victim_start(mixed_victim, &n);
	victim_ready(n);
	assert_ok(process_open(pid, true, &p));
	assert_ok(freeze_create(p, &f));
	assert_ok(freeze_stop(f, in_ms(1000)));
	kill(pid, SIGKILL);
	sleep_ms(5);
	assert_ok(freeze_resume(f));
	wait_state(pid, 'Z');
	/* The memory goes with the last thread, which need not be the main one. */
	for (int i = 0; i < 2000 && !gone; i++) {
		sleep_ms(1);
		gone = process_alive(p);
	}
	assert_error(gone, SUTURE_ERROR_NO_PROCESS, "has exited");
	assert_error(freeze_stop(f, in_ms(100)), SUTURE_ERROR_NO_PROCESS, "");
	freeze_destroy(f);
	process_close(p);
	/* Its status is its parent's. */
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void *execs(void *arg)
{
	atomic_fetch_add(&shared->ready, 1);
	while (!atomic_load(&shared->stop))
		;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	execl("/bin/sleep", "sleep", "1000", (char *)NULL);
	return arg;
}

/* execve from a thread that is not the main one, whose id it takes over. */
static void exec_victim(void *arg)
{
	pthread_t thread;

	pthread_create(&thread, NULL, execs, arg);
	atomic_fetch_add(&shared->ready, 1);
	pause();
}

static void exec_between_freezes(void **state)
{
	(void)state;
	struct process *p;
	struct freeze *f;
	bool noticed_it = false;

	NEEDS_PTRACE();
	pid_t pid = victim_start(exec_victim, NULL);
	victim_ready(2);
	assert_ok(process_open(pid, true, &p));
	assert_ok(freeze_create(p, &f));
	assert_ok(freeze_stop(f, in_ms(1000)));
	assert_ok(freeze_resume(f));
	atomic_store(&shared->stop, 1);
	/* Before, in the middle of, and after the execve. */
	for (int i = 0; i < 200 && !noticed_it; i++) {
		struct suture_error *err = freeze_stop(f, in_ms(1000));
		if (!err) {
			assert_ok(freeze_resume(f));
			continue;
		}
		assert_int_equal(suture_error_code(err), SUTURE_ERROR_NO_PROCESS);
		suture_error_destroy(err);
		noticed_it = true;
	}
	assert_true(noticed_it);
	freeze_destroy(f);
	process_close(p);
	wait_state(pid, 'S');
	victim_kill(pid);
}

static void *leaderless(void *arg)
{
	in_epoll(arg);
	_exit(0);
}

static void leaderless_victim(void *arg)
{
	pthread_t threads[2];

	(void)arg;
	pthread_create(&threads[0], NULL, leaderless, NULL);
	pthread_create(&threads[1], NULL, in_nanosleep, NULL);
	pthread_exit(NULL);
}

static void leader_has_exited(void **state)
{
	(void)state;

	NEEDS_PTRACE();
	pid_t pid = victim_start(leaderless_victim, NULL);
	victim_ready(2);
	wait_state(pid, 'Z');
	freeze_rounds(pid, 2, 5);
	victim_end(pid);
	victim_undisturbed();
}

/* ---- others who trace ---- */

static void a_traced_thread_is_named(void **state)
{
	(void)state;
	struct process *p;
	struct freeze *f;
	char byte, text[64];
	int n = 3, ready[2];

	NEEDS_PTRACE();
	pid_t pid = victim_start(mixed_victim, &n);
	victim_ready(n);
	assert_ok(process_open(pid, true, &p));
	assert_ok(freeze_create(p, &f));
	assert_ok(freeze_stop(f, in_ms(1000)));
	pid_t tid = f->threads.at[2].tid;
	assert_ok(freeze_resume(f));
	assert_return_code(pipe(ready), errno);
	pid_t tracer = fork();
	if (tracer == 0) {
		if (ptrace(PTRACE_SEIZE, tid, NULL, NULL) < 0 || write(ready[1], "x", 1) != 1)
			_exit(1);
		pause();
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	snprintf(text, sizeof(text), "thread %d of process %d", tid, pid);
	assert_error(freeze_stop(f, in_ms(1000)), SUTURE_ERROR_TRACED, text);
	victim_kill(tracer);
	assert_ok(freeze_stop(f, in_ms(1000)));
	assert_ok(freeze_resume(f));
	freeze_destroy(f);
	process_close(p);
	victim_end(pid);
	victim_undisturbed();
}

/* A freeze that is dropped while frozen lets go. */
static void destroy_resumes(void **state)
{
	(void)state;
	struct process *p;
	struct freeze *f;
	int n = 5;

	NEEDS_PTRACE();
	pid_t pid = victim_start(mixed_victim, &n);
	victim_ready(n);
	assert_ok(process_open(pid, true, &p));
	assert_ok(freeze_create(p, &f));
	assert_error(freeze_resume(f), SUTURE_ERROR_INTERNAL, "not frozen");
	assert_ok(freeze_stop(f, in_ms(1000)));
	assert_error(freeze_stop(f, in_ms(1000)), SUTURE_ERROR_INTERNAL, "already frozen");
	struct thread *t = &f->threads.at[0];
	freeze_comm(f, t);
	assert_string_equal(t->comm, p->comm);
	freeze_destroy(f);
	process_close(p);
	victim_end(pid);
	victim_undisturbed();
}

/* The tool is killed while it holds everybody, and somebody is about to get a signal. */
static void killed_with_a_frozen_target(void **state)
{
	(void)state;
	int n = 8, go[2];
	char byte;

	NEEDS_PTRACE();
	pid_t pid = victim_start(mixed_victim, &n);
	victim_ready(n);
	assert_return_code(pipe(go), errno);
	pid_t tool = fork();
	if (tool == 0) {
		struct process *p;
		struct freeze *f;
		suture_error_destroy(process_open(pid, true, &p));
		suture_error_destroy(freeze_create(p, &f));
		if (freeze_stop(f, in_ms(1000)) || write(go[1], "x", 1) != 1)
			_exit(1);
		pause();
	}
	close(go[1]);
	assert_int_equal(read(go[0], &byte, 1), 1);
	close(go[0]);
	assert_int_equal(task_state(pid), 't');
	victim_kill(tool);
	victim_end(pid);
	victim_undisturbed();
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(unnoticed_1),
		cmocka_unit_test(unnoticed_8),
		cmocka_unit_test(unnoticed_200),
		cmocka_unit_test(thread_storm),
		cmocka_unit_test(vfork_is_refused_without_a_freeze),
		cmocka_unit_test(deadline_lets_all_run),
		cmocka_unit_test(stopped_stays_stopped),
		cmocka_unit_test(stop_signal_while_frozen),
		cmocka_unit_test(killed_while_frozen),
		cmocka_unit_test(exec_between_freezes),
		cmocka_unit_test(leader_has_exited),
		cmocka_unit_test(a_traced_thread_is_named),
		cmocka_unit_test(destroy_resumes),
		cmocka_unit_test(killed_with_a_frozen_target),
	};
	cmocka_set_test_filter(argc > 1 ? argv[1] : NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
