/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shared by the files of this folder: small files of /proc, and what they say. Parsers take text,
 * so that tests can feed them anything.
 */
#ifndef PROCESS_INTERNAL_H
#define PROCESS_INTERNAL_H

#include "process/process.h"

enum {
	PROC_SMALL = 4096,	   /* bytes; enough for stat, status and syscall of one task */
	FLAG_KTHREAD = 0x00200000, /* PF_KTHREAD in field 9 of /proc/PID/stat */
};

struct proc_stat {
	char comm[16];
	char state; /* R S D T t Z X I ... */
	pid_t ppid;
	uint32_t flags;
	long num_threads;
	uint64_t start_time;
	uint64_t vsize;		    /* bytes; 0 when the task has no memory */
	struct process_image image; /* stack 0 unless we may trace the task */
};

/* The text of /proc/PID/stat; comm may hold spaces and parentheses. */
bool proc_stat_parse(const char *text, struct proc_stat *ret);
/* The number (base 10 or 16) behind "NAME:" in /proc/PID/status. */
bool proc_status_number(const char *text, const char *name, int base, uint64_t *ret);
/* All of a map listing. Neither order nor overlap is repaired: anything odd is an INPUT error. */
struct suture_error *maps_parse(const char *text, struct maps *ret) MUST_USE;

/* What auxv's entries are wide: 64, 32, or 0 when the bytes are neither. */
int auxv_bits(const void *auxv, size_t size);

/*
 * A file of at most size - 1 bytes, NUL-terminated: bytes read or negative errno. A task that is
 * gone gives -ESRCH or -ENOENT.
 */
ssize_t proc_read_small(int dir_fd, const char *path, char *buf, size_t size);
/* A file of any size; malloc'ed and NUL-terminated. Returns 0 or negative errno. */
int proc_read_all(int dir_fd, const char *path, char **ret, size_t *ret_size);
/* stat of the process itself, or of one thread (tid != 0). 0 or negative errno. */
int proc_stat_read(int dir_fd, pid_t tid, struct proc_stat *ret);
/* Comm of any process; "?" when it is gone. */
void proc_comm(pid_t pid, char comm[16]);

/*
 * Calls fn for each tid of the process until it returns false. 0 or negative errno. fd: the opened
 * task directory.
 */
int proc_each_tid(int task_fd, bool (*fn)(void *arg, pid_t tid), void *arg);

/* "process 12 (nginx) has exited". */
struct suture_error *process_gone(const struct process *p) MUST_USE;
/* "process 12 (nginx) is traced by 99 (gdb)"; tid: the thread that could not be seized. */
struct suture_error *process_traced(const struct process *p, pid_t tid, pid_t tracer) MUST_USE;
/* The process that traces a thread; 0: none (or one outside our pid namespace). */
pid_t process_tracer_of(const struct process *p, pid_t tid);
/* false once nobody uses the memory that the process had when it was opened. One system call. */
bool process_memory_alive(const struct process *p);

#endif
