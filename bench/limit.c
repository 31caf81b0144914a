/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bare limit of a freeze: what it takes to stop all threads of a process and let them go again,
 * with nothing done in between. No program that stops a process by ptrace(2) can be faster.
 *
 *     limit PID [ROUNDS]
 *
 * Seizes all threads ahead, which does not stop them; then, per round: interrupt all, wait for
 * each, resume all. One line of JSON: threads, rounds, and of all rounds freeze_ns (median), min_ns
 * and p99_ns; stop_ns is the median of the part until the last one has stopped.
 *
 * The threads stay seized between rounds and are let go by this program's end. Nothing is done for
 * the target's sake: calls may fail with EINTR, as after any stop.
 */
#include <dirent.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>

enum { MAX_THREADS = 65536, MAX_ROUNDS = 100000, PAUSE_NS = 2000000 };

static pid_t tids[MAX_THREADS];
static int signals[MAX_THREADS];
static int n_threads;

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void seize_all(const char *pid)
{
	char path[64];
	struct dirent *e;

	snprintf(path, sizeof(path), "/proc/%s/task", pid);
	DIR *d = opendir(path);
	if (!d)
		die(path);
	while ((e = readdir(d)) && n_threads < MAX_THREADS) {
		if (e->d_name[0] == '.')
			continue;
		tids[n_threads] = atoi(e->d_name);
		if (ptrace(PTRACE_SEIZE, tids[n_threads], 0, 0) < 0)
			die("PTRACE_SEIZE");
		n_threads++;
	}
	closedir(d);
}

static void interrupt_all(void)
{
	for (int i = 0; i < n_threads; i++)
		if (ptrace(PTRACE_INTERRUPT, tids[i], 0, 0) < 0)
			die("PTRACE_INTERRUPT");
}

static void wait_all(void)
{
	for (int i = 0; i < n_threads; i++) {
		int status;

		if (waitpid(tids[i], &status, __WALL) != tids[i] || !WIFSTOPPED(status))
			die("waitpid");
		/* A signal that arrived first is handed on. */
		signals[i] = status >> 16 ? 0 : WSTOPSIG(status);
	}
}

static void resume_all(void)
{
	for (int i = 0; i < n_threads; i++)
		if (ptrace(PTRACE_CONT, tids[i], 0, signals[i]) < 0)
			die("PTRACE_CONT");
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	int rounds = argc > 2 ? atoi(argv[2]) : 1;

	if (argc < 2 || rounds < 1 || rounds > MAX_ROUNDS) {
		fprintf(stderr, "usage: limit PID [ROUNDS]\n");
		return 2;
	}
	uint64_t *freeze = calloc(rounds, sizeof(*freeze)), *stop = calloc(rounds, sizeof(*stop));
	if (!freeze || !stop)
		die("calloc");
	seize_all(argv[1]);
	for (int i = 0; i < rounds; i++) {
		const struct timespec pause = {0, i ? PAUSE_NS : 0};

		nanosleep(&pause, NULL);
		uint64_t start = now();
		interrupt_all();
		wait_all();
		uint64_t stopped = now();
		resume_all();
		freeze[i] = now() - start;
		stop[i] = stopped - start;
	}
	qsort(freeze, rounds, sizeof(*freeze), compare);
	qsort(stop, rounds, sizeof(*stop), compare);
	printf("{\"threads\": %d, \"rounds\": %d, \"freeze_ns\": %llu, \"min_ns\": %llu, "
	       "\"p99_ns\": %llu, \"stop_ns\": %llu}\n",
		n_threads, rounds, (unsigned long long)freeze[rounds / 2],
		(unsigned long long)freeze[0],
		(unsigned long long)freeze[(size_t)(rounds - 1) * 99 / 100],
		(unsigned long long)stop[rounds / 2]);
	return 0;
}
