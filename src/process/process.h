/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A live process seen from outside: who it is, its memory, its threads, a freeze, a borrowed thread
 * that makes system calls. Nothing here knows about ELF or patches.
 *
 * A stopped process is borrowed: every function here expects the target to exit, exec or be killed
 * at any instant, and says so with SUTURE_ERROR_NO_PROCESS. Facts behind the choices: ptrace(2),
 * and the measurements quoted in docs/ARCHITECTURE.md.
 */
#ifndef PROCESS_PROCESS_H
#define PROCESS_PROCESS_H

#include <stdbool.h>
#include <sys/types.h>
#include <sys/user.h>

#include "base/error.h"
#include "base/reader.h"
#include "base/vec.h"

/* Where execve put things: another execve gives other values (and another memory). */
struct process_image {
	uint64_t start_code, end_code, start_stack, start_data;
};

struct process {
	struct reader reader; /* first member: &process->reader reads remote memory */
	pid_t pid;
	uint64_t start_time; /* /proc/PID/stat field 22: tells a reused pid */
	int mem_fd;	     /* /proc/PID/mem; reads and writes, also into r-x pages */
	int dir_fd;	     /* /proc/PID: stays with this very process, never with a successor */
	char comm[16];
	bool writable; /* opened for writing */
	/*
	 * A thread that has the process' memory: pid, unless the main thread has exited and the
	 * others run on. /proc/PID/{maps,exe,auxv,map_files} are empty then; task/MM_TID/ has them.
	 */
	pid_t mm_tid;
	struct process_image image; /* private: notices an execve */
};

/*
 * Errors, each with its own message: NO_PROCESS, NOT_PATCHABLE (kernel thread, zombie, 32-bit),
 * PERMISSION (with the rule that forbids it), TRACED (tracer's pid and comm named; only when
 * `write`).
 */
struct suture_error *process_open(pid_t pid, bool write, struct process **ret) MUST_USE;
void process_close(struct process *p);
static inline void process_closep(struct process **p)
{
	process_close(*p);
}
/* NO_PROCESS when it exited or is a zombie; an execve since process_open is noticed too. */
struct suture_error *process_alive(struct process *p) MUST_USE;
/*
 * Open a file of /proc/PID ("exe", "map_files/...") of a thread that has the memory. Descriptor or
 * negative errno.
 */
int process_openat(const struct process *p, const char *name, int flags);

/* ---- memory ---- */

struct suture_error *process_read(
	struct process *p, remote_addr addr, void *buf, size_t len) MUST_USE;
/* Through /proc/PID/mem: no mprotect, private copy of file pages, file untouched. */
struct suture_error *process_write(
	struct process *p, remote_addr addr, const void *buf, size_t len) MUST_USE;

struct map {
	remote_addr start, end;
	uint64_t offset; /* in the file */
	uint64_t inode;
	uint32_t dev_major, dev_minor;
	bool r, w, x, shared;
	char *path; /* "", "[heap]", "/lib/x.so", "/tmp/y (deleted)" */
};
struct maps {
	VEC(struct map) v; /* ascending, disjoint */
};
struct suture_error *process_maps(struct process *p, struct maps *ret) MUST_USE;
void maps_deinit(struct maps *maps);
/* NULL when addr is not mapped. */
const struct map *maps_find(const struct maps *maps, remote_addr addr);

/* ---- freeze ---- */

/* One thread of a freeze. Registers are valid while stopped. */
struct thread {
	pid_t tid;
	char comm[16]; /* filled by freeze_comm() on demand */
	bool stopped;
	bool dead;
	struct user_regs_struct regs;
	/* private */
	int state_;
};

/*
 * Seize ahead (cheap, the target runs on), stop and resume as often as needed, destroy: detaches
 * from all. A freeze hides itself: calls that a stop would make fail with EINTR are restarted
 * (rax -EINTR of a call of that list becomes -ERESTARTNOHAND), pending signals are left for the
 * kernel to deliver, a job-control stop stays one.
 */
struct freeze {
	struct process *process;
	VEC(struct thread) threads;
	bool frozen;
	uint64_t stopped_at_ns,
		last_ns; /* CLOCK_MONOTONIC of the first interrupt; length of the last freeze */
	/* private state follows */
	void *private_;
};

struct suture_error *freeze_create(struct process *p, struct freeze **ret) MUST_USE;
/*
 * Stop every thread, those born meanwhile included, before the deadline (CLOCK_MONOTONIC ns).
 * On failure (BUSY: names the thread that did not stop and what it is doing) all run again.
 */
struct suture_error *freeze_stop(struct freeze *f, uint64_t deadline_ns) MUST_USE;
/* Read registers of every stopped thread (freeze_stop has done so already). */
struct suture_error *freeze_resume(struct freeze *f) MUST_USE;
/*
 * The same in one: stop all, call fn(arg), resume all. fn runs in the thread that holds the target,
 * while the caller waits: handing over twice would add as much again to a short freeze. Returns why
 * it could not be stopped, or else what fn returned; *ret_resume is what freeze_resume() would have
 * returned, NULL when fn was not called.
 */
struct suture_error *freeze_run(struct freeze *f, uint64_t deadline_ns,
	struct suture_error *(*fn)(void *arg), void *arg,
	struct suture_error **ret_resume) MUST_USE;
void freeze_comm(struct freeze *f, struct thread *t);
/* Resumes if frozen, detaches from every thread. Accepts NULL. */
void freeze_destroy(struct freeze *f);
static inline void freeze_destroyp(struct freeze **f)
{
	freeze_destroy(*f);
}

/*
 * Many pieces of remote memory in one system call each 1024 pieces (process_vm_readv). ret_read[i]
 * is set to the bytes read of piece i (0 when it could not be read).
 */
struct piece {
	remote_addr addr;
	void *buf;
	size_t len, got;
};
struct suture_error *process_read_pieces(
	struct process *p, struct piece *pieces, size_t n) MUST_USE;

/* ---- remote system calls ---- */

/*
 * A borrowed thread: one thread of the target, held for the few microseconds of each call, put back
 * with all general, vector and x87 state, flags, red zone, restartable call and rseq section as
 * they were. The other threads run on.
 */
struct borrow;
struct suture_error *borrow_begin(struct process *p, struct borrow **ret) MUST_USE;
/* *ret is the raw kernel return (negative errno on failure of the call itself). */
struct suture_error *borrow_syscall(
	struct borrow *b, long nr, const uint64_t args[6], int64_t *ret) MUST_USE;
/* Puts the thread back. Called, checked and reported by name: it can fail. */
struct suture_error *borrow_end(struct borrow *b) MUST_USE;

/* ---- finding processes ---- */

struct pids {
	VEC(pid_t) v;
};
struct suture_error *process_list_pids(struct pids *ret) MUST_USE;

uint64_t monotonic_ns(void);

#endif
