/* SPDX-License-Identifier: Apache-2.0 */
/* A freeze stops every thread, says who does not stop, and is not noticed. */
#include <sys/epoll.h>

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(unnoticed_1),
		cmocka_unit_test(unnoticed_8),
		cmocka_unit_test(unnoticed_200),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
