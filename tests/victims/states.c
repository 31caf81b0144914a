/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One thread in each state that a live patcher may meet: blocked in every call that the kernel does
 * not restart by itself after a stop, spinning, in a signal handler on an alternate stack. All of
 * them notice when they are disturbed: an EINTR, a short timeout, a short count is counted.
 *
 * Lines: "f" what the function that gets patched says; "report" one word per disturbance since the
 * start, or "undisturbed"; "progress" how often the spinning thread and the handler have run.
 */
#define _GNU_SOURCE /* semtimedop */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "victim.h"

int f(int x);

static atomic_ulong spins, handled;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char disturbed[2048];

static void note(const char *what, long got)
{
	char text[128];

	snprintf(text, sizeof(text), " %s:%ld/%d", what, got, errno);
	pthread_mutex_lock(&lock);
	strncat(disturbed, text, sizeof(disturbed) - strlen(disturbed) - 1);
	pthread_mutex_unlock(&lock);
}

/* A call that must time out after half a second, again and again, and not before. */
static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void expect_timeout(const char *what, long got, long want, int err, double start)
{
	if (got != want || (err && errno != err))
		note(what, got);
	else if (now() - start < 0.49)
		note(what, (long)((now() - start) * 1000));
}

static void *in_epoll(void *arg)
{
	struct epoll_event e;
	int ep = epoll_create1(0);

	for (;;) {
		double start = now();

		expect_timeout("epoll_wait", epoll_wait(ep, &e, 1, 500), 0, 0, start);
	}
	return arg;
}

static void *in_epoll_forever(void *arg)
{
	struct epoll_event e;
	long got = epoll_wait(epoll_create1(0), &e, 1, -1);

	note("epoll_wait-forever", got);
	return arg;
}

static void *in_recv(void *arg)
{
	struct timeval half = {.tv_usec = 500000};
	int s[2];
	char c;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, s) ||
		setsockopt(s[0], SOL_SOCKET, SO_RCVTIMEO, &half, sizeof(half)))
		abort();
	for (;;) {
		double start = now();

		errno = 0;
		expect_timeout("recv", recv(s[0], &c, 1, 0), -1, EAGAIN, start);
	}
	return arg;
}

static void *in_semop(void *arg)
{
	struct sembuf op = {.sem_op = -1};
	struct timespec half = {.tv_nsec = 500000000};
	int id = semget(IPC_PRIVATE, 1, 0600);

	if (id < 0 || semctl(id, 0, SETVAL, 0))
		abort();
	*(int *)arg = id;
	for (;;) {
		double start = now();

		errno = 0;
		expect_timeout("semtimedop", semtimedop(id, &op, 1, &half), -1, EAGAIN, start);
	}
	return arg;
}

static void *in_sigtimedwait(void *arg)
{
	struct timespec half = {.tv_nsec = 500000000};
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	for (;;) {
		double start = now();

		errno = 0;
		expect_timeout("sigtimedwait", sigtimedwait(&set, NULL, &half), -1, EAGAIN, start);
	}
	return arg;
}

static void *in_nanosleep(void *arg)
{
	for (;;) {
		struct timespec half = {.tv_nsec = 500000000};
		double start = now();

		expect_timeout("nanosleep", nanosleep(&half, NULL), 0, 0, start);
	}
	return arg;
}

static void *in_futex(void *arg)
{
	pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
	pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

	pthread_mutex_lock(&mutex);
	for (;;) {
		struct timespec t;
		double start = now();

		clock_gettime(CLOCK_REALTIME, &t);
		t.tv_nsec += 500000000;
		t.tv_sec += t.tv_nsec / 1000000000;
		t.tv_nsec %= 1000000000;
		errno = 0;
		expect_timeout(
			"futex", pthread_cond_timedwait(&cond, &mutex, &t), ETIMEDOUT, 0, start);
	}
	return arg;
}

static void *in_read(void *arg)
{
	int p[2];
	char c;
	long got;

	if (pipe(p))
		abort();
	got = read(p[0], &c, 1);
	note("read", got);
	return arg;
}

static void *in_sigsuspend(void *arg)
{
	sigset_t all;

	sigfillset(&all);
	note("sigsuspend", sigsuspend(&all));
	return arg;
}

/* Vector and general registers carry a sum that only holds when none is ever disturbed. */
static void *spinning(void *arg)
{
	volatile double check = 0;
	unsigned long i = 0;

	for (;;) {
		double a = 0, b = 1;

		for (int k = 0; k < 1000; k++) {
			a += b;
			b *= -1;
		}
		check = a;
		if (check != 0)
			note("spinning", (long)i);
		atomic_store(&spins, ++i);
		sched_yield();
	}
	return arg;
}

static void handler(int sig)
{
	struct timespec little = {.tv_nsec = 2000000};

	(void)sig;
	clock_nanosleep(CLOCK_MONOTONIC, 0, &little, NULL);
	atomic_fetch_add(&handled, 1);
}

/* Most of its life in a handler on an alternate stack. */
static void *in_handler(void *arg)
{
	stack_t stack = {.ss_sp = malloc(65536), .ss_size = 65536};
	struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK | SA_RESTART};
	struct timespec pause = {.tv_nsec = 100000};

	sigaltstack(&stack, NULL);
	sigaction(SIGUSR1, &action, NULL);
	for (;;) {
		pthread_kill(pthread_self(), SIGUSR1);
		nanosleep(&pause, NULL);
	}
	return arg;
}

static int semaphore = -1;

static void answer(const char *line)
{
	if (!strcmp(line, "f"))
		printf("%d", f(1));
	else if (!strcmp(line, "progress"))
		printf("%lu %lu", atomic_load(&spins), atomic_load(&handled));
	else if (!strcmp(line, "report"))
		printf("%s", *disturbed ? disturbed + 1 : "undisturbed");
	else if (!strcmp(line, "end"))
		semctl(semaphore, 0, IPC_RMID);
}

int main(void)
{
	void *(*const states[])(void *) = {in_epoll, in_epoll_forever, in_recv, in_semop,
		in_sigtimedwait, in_nanosleep, in_futex, in_read, in_sigsuspend, spinning,
		in_handler};
	pthread_t t;

	for (size_t i = 0; i < sizeof(states) / sizeof(*states); i++)
		if (pthread_create(&t, NULL, states[i], &semaphore))
			return 1;
	usleep(100000);
	return victim_serve(answer);
}
