/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who a process is, and whether we may work on it. Everything that can be known to go wrong later
 * is found here, before the target is touched, and each reason has its own words: an operator who
 * reads "permission denied" does not know what to do, one who reads "yama" does.
 *
 * Three things hold on to the very process that was opened: the /proc/PID directory (gives ESRCH
 * when the process is reaped, whoever gets its number next), /proc/PID/mem (stays with the memory:
 * after an execve it reads and writes nothing), and where execve put code and stack.
 */
#include <dirent.h>
#include <fcntl.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "process/internal.h"

struct suture_error *process_gone(const struct process *p)
{
	return error_create(SUTURE_ERROR_NO_PROCESS, "process %d (%s) has exited", p->pid, p->comm);
}

struct suture_error *process_traced(const struct process *p, pid_t tid, pid_t tracer)
{
	char comm[16], thread[48] = "";
	struct suture_error *err;

	proc_comm(tracer, comm);
	if (tid != p->pid)
		snprintf(thread, sizeof(thread), "thread %d of ", tid);
	err = error_create(SUTURE_ERROR_TRACED, "%sprocess %d (%s) is traced by process %d (%s)",
		thread, p->pid, p->comm, tracer, comm);
	return error_hint(err, "detach that debugger or tracer and try again");
}

/* TracerPid names the tracing thread; the process is what an operator knows. */
static pid_t tracer_in(const char *status)
{
	char path[64], text[PROC_SMALL];
	uint64_t tracer, tgid;

	if (!proc_status_number(status, "TracerPid", 10, &tracer) || !tracer)
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/status", (pid_t)tracer);
	if (proc_read_small(AT_FDCWD, path, text, sizeof(text)) > 0 &&
		proc_status_number(text, "Tgid", 10, &tgid))
		tracer = tgid;
	return (pid_t)tracer;
}

pid_t process_tracer_of(const struct process *p, pid_t tid)
{
	char path[64], text[PROC_SMALL];

	snprintf(path, sizeof(path), "task/%d/status", tid);
	return proc_read_small(p->dir_fd, path, text, sizeof(text)) < 0 ? 0 : tracer_in(text);
}

int process_openat(const struct process *p, const char *name, int flags)
{
	char path[128];

	if (snprintf(path, sizeof(path), "task/%d/%s", p->mm_tid, name) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	int fd = openat(p->dir_fd, p->mm_tid == p->pid ? name : path, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* ---- why not ---- */

static const char *user_name(uid_t uid, char buf[64])
{
	char store[1024];
	struct passwd pw, *found = NULL;

	if (getpwuid_r(uid, &pw, store, sizeof(store), &found) == 0 && found)
		snprintf(buf, 64, "%.40s (uid %u)", pw.pw_name, uid);
	else
		snprintf(buf, 64, "uid %u", uid);
	return buf;
}

static int yama_scope(void)
{
	char text[16];

	if (proc_read_small(AT_FDCWD, "/proc/sys/kernel/yama/ptrace_scope", text, sizeof(text)) < 1)
		return 0;
	return atoi(text);
}

/* Real, effective and saved user id of the target, as ptrace(2) compares them. */
static bool same_user(const char *status, uid_t *other)
{
	unsigned int id[3];
	const char *line = strstr(status, "\nUid:");

	if (!line || sscanf(line, "\nUid: %u %u %u", &id[0], &id[1], &id[2]) != 3)
		return true;
	for (int i = 0; i < 3; i++) {
		if (id[i] != getuid()) {
			*other = id[i];
			return false;
		}
	}
	return true;
}

/* The rule of ptrace(2), "Ptrace access mode checking", that most likely said no. */
static struct suture_error *permission(const struct process *p, const char *status)
{
	const char *fmt = "no permission to look into process %d (%s): %s";
	char a[64], b[64];
	struct suture_error *err;
	struct stat st;
	uid_t other = 0;

	if (!same_user(status, &other)) {
		err = error_create(SUTURE_ERROR_PERMISSION,
			"no permission to look into process %d (%s): it belongs to %s, and this is %s",
			p->pid, p->comm, user_name(other, a), user_name(getuid(), b));
		return error_hint(err, "run as that user or as root (CAP_SYS_PTRACE)");
	}
	/* proc(5): the files in /proc/PID belong to root while the process is not dumpable. */
	if (fstatat(p->dir_fd, "stat", &st, 0) == 0 && st.st_uid != getuid()) {
		err = error_create(SUTURE_ERROR_PERMISSION, fmt, p->pid, p->comm,
			"it is not dumpable (PR_SET_DUMPABLE 0, changed its user, or its program "
			"file is not readable)");
		return error_hint(err, "run as root (CAP_SYS_PTRACE)");
	}
	if (yama_scope() > 0) {
		err = error_create(SUTURE_ERROR_PERMISSION,
			"no permission to look into process %d (%s): kernel.yama.ptrace_scope is %d",
			p->pid, p->comm, yama_scope());
		if (yama_scope() >= 3)
			return error_hint(err, "this setting forbids it until the next boot");
		return error_hint(
			err, "run as root (CAP_SYS_PTRACE), or set kernel.yama.ptrace_scope to 0");
	}
	err = error_create(SUTURE_ERROR_PERMISSION, fmt, p->pid, p->comm,
		"it has capabilities that this process lacks, is in another user namespace, or a "
		"security module forbids it");
	return error_hint(err, "run as root (CAP_SYS_PTRACE) in the same container");
}

static bool is_denied(int err)
{
	return err == -EACCES || err == -EPERM;
}

/* ---- the steps of opening ---- */

static struct suture_error *find_process(struct process *p)
{
	char path[32];

	if (p->pid <= 0)
		return error_create(SUTURE_ERROR_NO_PROCESS, "%d is not a process id", p->pid);
	snprintf(path, sizeof(path), "/proc/%d", p->pid);
	p->dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (p->dir_fd >= 0)
		return NULL;
	if (errno != ENOENT && errno != ESRCH)
		return error_errno(errno, "cannot open %s", path);
	if (kill(p->pid, 0) == 0 || errno == EPERM)
		return error_hint(
			error_create(SUTURE_ERROR_PERMISSION,
				"process %d is hidden: /proc is mounted with hidepid", p->pid),
			"run as root");
	return error_create(SUTURE_ERROR_NO_PROCESS, "no process %d", p->pid);
}

static struct suture_error *vanished(const struct process *p, int err, const char *what)
{
	if (err == -ESRCH || err == -ENOENT)
		return error_create(SUTURE_ERROR_NO_PROCESS, "process %d has exited", p->pid);
	return error_errno(-err, "cannot read %s of process %d", what, p->pid);
}

struct live_search {
	const struct process *p;
	pid_t found;
	struct proc_stat stat;
};

static bool is_live(void *arg, pid_t tid)
{
	struct live_search *s = arg;

	if (proc_stat_read(s->p->dir_fd, tid, &s->stat) < 0 || s->stat.state == 'Z' ||
		s->stat.state == 'X' || !s->stat.vsize)
		return true;
	s->found = tid;
	return false;
}

/*
 * The thread through which /proc shows the memory. *stat becomes that thread's. 0 when every
 * thread has exited.
 */
static pid_t memory_thread(const struct process *p, struct proc_stat *stat)
{
	struct live_search s = {.p = p};

	if (stat->state != 'Z' && stat->state != 'X')
		return p->pid;
	_cleanup_close_ int fd = openat(p->dir_fd, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || proc_each_tid(fd, is_live, &s) < 0 || !s.found)
		return 0;
	*stat = s.stat;
	return s.found;
}

static struct suture_error *identify(struct process *p, char *status, struct proc_stat *stat)
{
	uint64_t tgid = (uint64_t)p->pid;
	int err = proc_stat_read(p->dir_fd, 0, stat);

	if (err < 0)
		return vanished(p, err, "stat");
	ssize_t n = proc_read_small(p->dir_fd, "status", status, PROC_SMALL);
	if (n < 0)
		return vanished(p, (int)n, "status");
	memcpy(p->comm, stat->comm, sizeof(p->comm));
	p->start_time = stat->start_time;
	proc_status_number(status, "Tgid", 10, &tgid);
	if (tgid != (uint64_t)p->pid)
		return error_hint(
			error_create(SUTURE_ERROR_NO_PROCESS,
				"%d (%s) is a thread, not a process: it belongs to process %llu",
				p->pid, p->comm, (unsigned long long)tgid),
			"use -p %llu", (unsigned long long)tgid);
	if (p->pid == getpid())
		return error_create(SUTURE_ERROR_NOT_PATCHABLE,
			"process %d (%s) is this very program: it cannot patch itself", p->pid,
			p->comm);
	if (stat->flags & FLAG_KTHREAD)
		return error_create(SUTURE_ERROR_NOT_PATCHABLE,
			"process %d (%s) is a kernel thread", p->pid, p->comm);
	return NULL;
}

static struct suture_error *check_zombie(struct process *p, struct proc_stat *stat)
{
	char comm[16];

	p->mm_tid = memory_thread(p, stat);
	if (p->mm_tid)
		return NULL;
	proc_comm(stat->ppid, comm);
	return error_create(SUTURE_ERROR_NOT_PATCHABLE,
		"process %d (%s) is a zombie: it has exited, and its parent %d (%s) has not "
		"collected it",
		p->pid, p->comm, stat->ppid, comm);
}

static struct suture_error *check_width(const struct process *p, const char *status)
{
	char auxv[PROC_SMALL];
	int fd = process_openat(p, "auxv", O_RDONLY);

	if (is_denied(fd))
		return permission(p, status);
	if (fd < 0)
		return vanished(p, fd, "auxv");
	ssize_t n = read(fd, auxv, sizeof(auxv));
	int bits = n < 0 ? 0 : auxv_bits(auxv, (size_t)n);
	close(fd);
	if (n == 0)
		return process_gone(p);
	if (bits == 32)
		return error_create(SUTURE_ERROR_NOT_PATCHABLE,
			"process %d (%s) is a 32-bit process: only 64-bit ones are supported",
			p->pid, p->comm);
	if (bits != 64)
		return error_create(SUTURE_ERROR_NOT_PATCHABLE,
			"process %d (%s) has no readable auxiliary vector", p->pid, p->comm);
	return NULL;
}

static struct suture_error *open_memory(struct process *p, const char *status)
{
	p->mem_fd = process_openat(p, "mem", p->writable ? O_RDWR : O_RDONLY);
	if (p->mem_fd >= 0)
		return NULL;
	if (is_denied(p->mem_fd))
		return permission(p, status);
	return vanished(p, p->mem_fd, "mem");
}

static struct suture_error *check_tracer(const struct process *p, const char *status)
{
	pid_t tracer = p->writable ? tracer_in(status) : 0;

	return tracer ? process_traced(p, p->pid, tracer) : NULL;
}

static struct suture_error *reader_of_process(
	const struct reader *r, uint64_t addr, void *buf, size_t len)
{
	return process_read((struct process *)r, addr, buf, len);
}

static struct suture_error *open_steps(struct process *p)
{
	char status[PROC_SMALL];
	struct proc_stat stat, again;

	TRY(find_process(p));
	TRY(identify(p, status, &stat));
	TRY(check_zombie(p, &stat));
	TRY(check_width(p, status));
	TRY(open_memory(p, status));
	/*
	 * The image that belongs to mem_fd: the same before and after opening it. Field 28 (the
	 * stack) shows only to those who may trace, so it is read now.
	 */
	if (proc_stat_read(p->dir_fd, p->mm_tid, &again) < 0 || !again.image.start_stack)
		return process_gone(p);
	if (memcmp(&again.image, &stat.image, sizeof(stat.image)) != 0)
		return error_create(SUTURE_ERROR_NO_PROCESS,
			"process %d (%s) is just executing another program", p->pid, p->comm);
	p->image = again.image;
	return check_tracer(p, status);
}

struct suture_error *process_open(pid_t pid, bool write, struct process **ret)
{
	struct process *p = calloc(1, sizeof(*p));

	if (!p)
		return error_nomem();
	p->reader.read = reader_of_process;
	p->pid = p->mm_tid = pid;
	p->writable = write;
	p->mem_fd = p->dir_fd = -1;
	struct suture_error *err = open_steps(p);
	if (err) {
		process_close(p);
		return err;
	}
	*ret = p;
	return NULL;
}

void process_close(struct process *p)
{
	if (!p)
		return;
	if (p->mem_fd >= 0)
		close(p->mem_fd);
	if (p->dir_fd >= 0)
		close(p->dir_fd);
	free(p);
}

/* ---- still there? ---- */

bool process_memory_alive(const struct process *p)
{
	char byte;

	/* mem_rw() of the kernel answers 0 when the memory has no user left, before any EIO. */
	return pread(p->mem_fd, &byte, 1, (off_t)p->image.start_stack) != 0;
}

struct suture_error *process_alive(struct process *p)
{
	struct proc_stat stat;
	int err = proc_stat_read(p->dir_fd, 0, &stat);

	if (err < 0 && err != -ESRCH && err != -ENOENT)
		return vanished(p, err, "stat");
	if (err < 0)
		return process_gone(p);
	pid_t tid = memory_thread(p, &stat);
	if (!tid)
		return process_gone(p);
	if (memcmp(&stat.image, &p->image, sizeof(stat.image)) != 0 || !process_memory_alive(p))
		return error_create(SUTURE_ERROR_NO_PROCESS,
			"process %d (%s) has executed another program (%s)", p->pid, p->comm,
			stat.comm);
	p->mm_tid = tid;
	return NULL;
}
