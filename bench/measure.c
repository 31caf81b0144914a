/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs one command and says what it took, without adding the weight of the program that asks.
 *
 *     measure FD COMMAND [ARGUMENT...]
 *
 * writes to descriptor FD one line of JSON: start and end (CLOCK_MONOTONIC ns), wall_ns, cpu_ns,
 * status (exit status, or 128 + signal) and peak_bytes; its own exit status is 0 when the command
 * could be run, whatever became of it.
 *
 * Why not wait4 in the caller: ru_maxrss of a child begins with the size of the one that forked it
 * (it is kept over execve), and counts the children that it waited for itself. The size meant here
 * is that of this one process: VmHWM, read at the last moment when it still has memory. For that
 * the command is traced for its exit alone: one stop more, some 20 us, in its wall time.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
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

/* The command, held until it is traced. */
static pid_t start(char **argv, int fd)
{
	pid_t pid = fork();

	if (pid < 0)
		die("fork");
	if (pid > 0)
		return pid;
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	raise(SIGSTOP);
	execvp(argv[0], argv);
	fprintf(stderr, "measure: %s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

int main(int argc, char **argv)
{
	uint64_t begin, end, peak = 0, cpu;
	struct rusage usage;
	int status, fd;
	pid_t pid;

	if (argc < 3) {
		fprintf(stderr, "usage: measure FD COMMAND [ARGUMENT...]\n");
		return 2;
	}
	fd = atoi(argv[1]);
	pid = start(argv + 2, fd);
	if (waitpid(pid, &status, WUNTRACED) != pid || !WIFSTOPPED(status))
		die("waitpid");
	if (ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACEEXIT | PTRACE_O_EXITKILL))
		die("ptrace");
	begin = now();
	kill(pid, SIGCONT);
	for (;;) {
		if (wait4(pid, &status, __WALL, &usage) != pid)
			die("wait4");
		if (!WIFSTOPPED(status))
			break;
		if (status >> 8 == (SIGTRAP | PTRACE_EVENT_EXIT << 8)) {
			peak = peak_bytes(pid);
			ptrace(PTRACE_CONT, pid, 0, 0);
		} else if (status >> 16 == PTRACE_EVENT_STOP) {
			ptrace(PTRACE_CONT, pid, 0, 0);
		} else {
			ptrace(PTRACE_CONT, pid, 0, WSTOPSIG(status));
		}
	}
	end = now();
	cpu = (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000000ull +
	      (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000ull;
	dprintf(fd,
		"{\"start\": %llu, \"end\": %llu, \"wall_ns\": %llu, \"cpu_ns\": %llu, "
		"\"status\": %d, \"peak_bytes\": %llu}\n",
		(unsigned long long)begin, (unsigned long long)end,
		(unsigned long long)(end - begin), (unsigned long long)cpu,
		WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
		(unsigned long long)peak);
	return 0;
}
