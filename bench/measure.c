/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs one command and says what it took, without adding the weight of the program that asks.
 *
 *     measure [-a] FD COMMAND [ARGUMENT...]
 *
 * writes to descriptor FD one line of JSON: start and end (CLOCK_MONOTONIC ns), wall_ns, cpu_ns,
 * status (exit status, or 128 + signal) and peak_bytes; its own exit status is 0 when the command
 * could be run, whatever became of it.
 *
 * Why not in the caller: the peak of a child begins with the size of the one that forked it (it is
 * kept over execve), and this program is small. It also covers children that the command waited
 * for; with -a it is of the command alone (VmHWM when it exits). For that the command is traced,
 * and then every SIGCHLD is a stop: never so where time matters.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

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

static uint64_t peak_bytes(pid_t pid)
{
	char path[64], line[256];
	unsigned long long kib = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	f = fopen(path, "r");
	if (!f)
		die(path);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "VmHWM: %llu kB", &kib) == 1)
			break;
	fclose(f);
	return kib * 1024;
}

/* Wait until it has ended; the status that wait4 gives. */
static int wait_for_end(pid_t pid, struct rusage *usage, uint64_t *peak)
{
	int status;

	for (;;) {
		if (wait4(pid, &status, __WALL, usage) != pid)
			die("wait4");
		if (!WIFSTOPPED(status))
			return status;
		if (status >> 8 == (SIGTRAP | PTRACE_EVENT_EXIT << 8))
			*peak = peak_bytes(pid);
		ptrace(PTRACE_CONT, pid, 0, status >> 16 ? 0 : WSTOPSIG(status));
	}
}

static pid_t start(char **argv, int fd, int gate)
{
	pid_t pid = fork();
	char c;

	if (pid < 0)
		die("fork");
	if (pid > 0)
		return pid;
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	if (gate >= 0 && read(gate, &c, 1) != 1)
		_exit(127);
	execvp(argv[0], argv);
	fprintf(stderr, "measure: %s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

/* As start(), and traced for its exit before it begins. */
static pid_t start_traced(char **argv, int fd)
{
	int gate[2];
	pid_t pid;

	if (pipe2(gate, O_CLOEXEC))
		die("pipe2");
	pid = start(argv, fd, gate[0]);
	if (ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACEEXIT | PTRACE_O_EXITKILL))
		die("ptrace");
	if (write(gate[1], "", 1) != 1)
		die("write");
	return pid;
}

int main(int argc, char **argv)
{
	bool alone = argc > 1 && !strcmp(argv[1], "-a");
	uint64_t begin, end, peak = 0, cpu;
	struct rusage usage;
	int status, fd;
	pid_t pid;

	argv += alone;
	if (argc - alone < 3) {
		fprintf(stderr, "usage: measure [-a] FD COMMAND [ARGUMENT...]\n");
		return 2;
	}
	fd = atoi(argv[1]);
	begin = now();
	pid = alone ? start_traced(argv + 2, fd) : start(argv + 2, fd, -1);
	status = wait_for_end(pid, &usage, &peak);
	end = now();
	cpu = (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000000ull +
	      (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000ull;
	dprintf(fd,
		"{\"start\": %lu, \"end\": %lu, \"wall_ns\": %lu, \"cpu_ns\": %lu, "
		"\"status\": %d, \"peak_bytes\": %lu}\n",
		begin, end, end - begin, cpu,
		WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
		alone ? peak : usage.ru_maxrss * 1024ul);
	return 0;
}
