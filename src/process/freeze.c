/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stop every thread of a process for an instant, without the process noticing.
 *
 * The order is what makes it short. Waking a thread so that it stops costs microseconds, and they
 * add up; so everything else comes before the first interrupt: listing, seizing (which does not
 * stop), memory, a look for threads that could not stop now. Then all are interrupted, and only
 * then waited for, each by its id (asking for "any" is quadratic in the kernel). Threads born
 * meanwhile are found by listing again: when everybody in the list has stopped and the list has
 * nobody new, nobody is left who could make one.
 *
 * Between two freezes no thread stays seized. A seized thread stops at every signal that it gets,
 * even those it ignores, until the tracer comes back from whatever it does; letting go entirely
 * costs a tenth more than resuming, and nothing can be left hanging.
 *
 * While a thread is stopped its registers are changed in one case only: see regs_hide_interrupt().
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <unistd.h>

#include "arch/x86_64/regs.h"
#include "base/cleanup.h"
#include "process/freeze.h"
#include "process/internal.h"
#include "process/tracee.h"
#include "process/tracer.h"

enum {
	LIST_ROUNDS = 8,      /* before the first interrupt; more are made after it */
	SETTLE_NS = 20000000, /* how long a thread may be uninterruptible at first sight */
	SEIZE_NS = 50000000,  /* for a thread that cannot be seized, and should be */
};

/*
 * struct thread.state_: the kind of its stop (enum stop_kind) in the low byte, the signal in the
 * next, and whether it was told to stop.
 */
#define INTERRUPTED   0x10000
#define STATE(stop)   ((int)(stop).kind | (stop).sig << 8)
#define STATE_STOP(s) ((struct stop){(enum stop_kind)((s)&0xff), (s) >> 8 & 0xff})

struct freeze_state {
	struct tracer *tracer;
	int task_fd;
	/* Open addressing: index into freeze->threads plus one, by tid. Power of two. */
	uint32_t *index;
	size_t index_size;
	size_t seized;		 /* threads[0..seized) are seized, dead or to be given up */
	void (*hook)(void *arg); /* for tests */
	void *hook_arg;
};

/* What the tracer thread works on, and how it ended. */
struct job {
	struct freeze *f;
	uint64_t deadline_ns;
	struct suture_error *err;
	struct suture_error *(*fn)(void *arg); /* to be called while all stand; may be NULL */
	void *arg;
	struct suture_error *resume_err;
	/* A thread was told to stop and has not: the tracer's end undoes that. */
	bool straggler;
};

static struct freeze_state *state_of(struct freeze *f)
{
	return f->private_;
}

/* ---- the list of threads ---- */

static uint32_t *index_slot(struct freeze *f, pid_t tid)
{
	struct freeze_state *pr = state_of(f);
	size_t mask = pr->index_size - 1;

	for (size_t i = (uint32_t)tid * 2654435761u & mask;; i = (i + 1) & mask) {
		uint32_t *slot = &pr->index[i];

		if (!*slot || f->threads.at[*slot - 1].tid == tid)
			return slot;
	}
}

/* Keeps the index at most half full, with room for `more` threads. */
static bool index_reserve(struct freeze *f, size_t more)
{
	struct freeze_state *pr = state_of(f);
	size_t size = pr->index_size ? pr->index_size : 256;

	while (size / 2 < f->threads.n + more)
		size *= 2;
	if (size == pr->index_size)
		return true;
	uint32_t *bigger = calloc(size, sizeof(*bigger));
	if (!bigger)
		return false;
	free(pr->index);
	pr->index = bigger;
	pr->index_size = size;
	for (size_t i = 0; i < f->threads.n; i++)
		*index_slot(f, f->threads.at[i].tid) = (uint32_t)i + 1;
	return true;
}

static void list_clear(struct freeze *f)
{
	struct freeze_state *pr = state_of(f);

	f->threads.n = 0;
	pr->seized = 0;
	if (pr->index)
		memset(pr->index, 0, pr->index_size * sizeof(*pr->index));
}

static bool list_add(void *arg, pid_t tid)
{
	struct job *job = arg;
	struct freeze *f = job->f;

	if (!index_reserve(f, 1)) {
		job->err = error_nomem();
		return false;
	}
	uint32_t *slot = index_slot(f, tid);
	if (*slot)
		return true;
	struct thread *t = vec_add(&f->threads);
	if (!t) {
		job->err = error_nomem();
		return false;
	}
	t->tid = tid;
	*slot = (uint32_t)f->threads.n;
	return true;
}

/* Adds the threads that are not in the list yet. */
static struct suture_error *list_more(struct job *job)
{
	struct process *p = job->f->process;
	int err = proc_each_tid(state_of(job->f)->task_fd, list_add, job);

	if (job->err)
		return take(job->err);
	if (err == -ESRCH || err == -ENOENT)
		return process_gone(p);
	if (err < 0)
		return error_errno(
			-err, "cannot list the threads of process %d (%s)", p->pid, p->comm);
	return NULL;
}

/* ---- seizing ---- */

static bool has_exited(const struct process *p, pid_t tid)
{
	struct proc_stat stat;

	return proc_stat_read(p->dir_fd, tid, &stat) < 0 || stat.state == 'Z' || stat.state == 'X';
}

static struct suture_error *exec_seen(const struct process *p)
{
	return error_create(SUTURE_ERROR_NO_PROCESS, "process %d (%s) has executed another program",
		p->pid, p->comm);
}

static struct suture_error *cannot_seize(const struct process *p, pid_t tid, int err)
{
	pid_t tracer = process_tracer_of(p, tid);

	if (tracer)
		return process_traced(p, tid, tracer);
	return error_hint(error_create(SUTURE_ERROR_PERMISSION,
				  "no permission to trace thread %d of process %d (%s): %s", tid,
				  p->pid, p->comm, strerror(-err)),
		"it is traced from outside this container, or a security module forbids it");
}

static struct suture_error *seize(struct process *p, struct thread *t, uint64_t deadline_ns)
{
	uint64_t give_up = monotonic_ns() + SEIZE_NS;

	for (unsigned int round = 0;; round++) {
		/* TRACEEXEC: an execve from here on shows as a stop. */
		int err = tracee_seize(t->tid, PTRACE_O_TRACEEXEC);
		if (!err)
			return NULL;
		if (err == -ESRCH || has_exited(p, t->tid)) {
			t->dead = true;
			return NULL;
		}
		/* An execve by a thread that we have seized: this is the id it has now. */
		if (tracee_is_mine(t->tid))
			return exec_seen(p);
		/*
		 * A tracer thread of ours that has ended may need a moment to let go; an id that an
		 * execve is passing on belongs to nobody for a moment.
		 */
		pid_t tracer = process_tracer_of(p, t->tid);
		uint64_t now = monotonic_ns();
		if ((tracer && tracer != getpid()) || now > give_up || now > deadline_ns)
			return cannot_seize(p, t->tid, err);
		tracee_pause(round);
	}
}

static struct suture_error *seize_new(struct job *job)
{
	struct freeze *f = job->f;
	struct freeze_state *pr = state_of(f);

	while (pr->seized < f->threads.n)
		TRY(seize(f->process, &f->threads.at[pr->seized++], job->deadline_ns));
	return NULL;
}

/* ---- threads that will not stop ---- */

/* "in fdatasync", or what there is to say. */
static void activity(const struct process *p, pid_t tid, char *buf, size_t size)
{
	char path[64], text[256], wchan[64] = "";
	struct proc_stat stat = {.state = '?'};
	long nr;

	proc_stat_read(p->dir_fd, tid, &stat);
	snprintf(path, sizeof(path), "task/%d/wchan", tid);
	if (proc_read_small(p->dir_fd, path, wchan, sizeof(wchan)) < 1 || wchan[0] == '0')
		wchan[0] = '\0';
	snprintf(path, sizeof(path), "task/%d/syscall", tid);
	ssize_t n = proc_read_small(p->dir_fd, path, text, sizeof(text));
	if (n > 0 && sscanf(text, "%ld", &nr) == 1 && nr >= 0) {
		const char *name = syscall_name(nr);
		snprintf(buf, size, "state %c, in system call %s%s%ld%s%s%s%s", stat.state,
			name ? name : "number ", name ? " (" : "", nr, name ? ")" : "",
			wchan[0] ? " [" : "", wchan, wchan[0] ? "]" : "");
	} else {
		snprintf(buf, size, "state %c%s%s", stat.state, wchan[0] ? ", at " : "", wchan);
	}
}

static struct suture_error *does_not_stop(struct freeze *f, struct thread *t)
{
	const struct process *p = f->process;
	char doing[256];

	freeze_comm(f, t);
	activity(p, t->tid, doing, sizeof(doing));
	return error_hint(error_create(SUTURE_ERROR_BUSY,
				  "thread %d (%s) of process %d (%s) does not stop: %s", t->tid,
				  t->comm, p->pid, p->comm, doing),
		"try again when it has left that system call");
}

/*
 * A thread in uninterruptible sleep would keep all others frozen until it wakes. Better to see it
 * before the first interrupt. What is short (a disk read) is waited for here.
 */
static struct suture_error *check_stoppable(struct job *job)
{
	struct freeze *f = job->f;
	uint64_t until = monotonic_ns() + SETTLE_NS;

	if (until > job->deadline_ns)
		until = job->deadline_ns;
	vec_foreach (t, &f->threads) {
		struct proc_stat stat;

		for (unsigned int round = 0; !t->dead; round++) {
			if (proc_stat_read(f->process->dir_fd, t->tid, &stat) < 0 ||
				stat.state != 'D')
				break;
			if (monotonic_ns() > until)
				return does_not_stop(f, t);
			tracee_pause(round);
		}
	}
	return NULL;
}

/* ---- stopping ---- */

/* Read the registers of a thread that has just stopped, and hide the stop. */
static struct suture_error *stopped(struct freeze *f, struct thread *t)
{
	const struct process *p = f->process;
	int err = tracee_getregs(t->tid, &t->regs);

	if (!err && regs_hide_interrupt(&t->regs))
		err = tracee_setregs(t->tid, &t->regs);
	if (err == -ESRCH) { /* killed while stopped */
		t->dead = true;
		return NULL;
	}
	if (err < 0)
		return error_errno(-err, "cannot access registers of thread %d of process %d (%s)",
			t->tid, p->pid, p->comm);
	t->stopped = true;
	if (!regs_is_64bit(&t->regs))
		return error_create(SUTURE_ERROR_NOT_PATCHABLE,
			"thread %d of process %d (%s) executes 32-bit code", t->tid, p->pid,
			p->comm);
	return NULL;
}

static struct suture_error *wait_stop(struct job *job, struct thread *t)
{
	struct freeze *f = job->f;
	struct stop stop = tracee_wait(t->tid, f->process->pid);

	t->state_ = STATE(stop) | INTERRUPTED;
	if (stop.kind == STOP_NONE)
		return does_not_stop(f, t);
	if (stop.kind == STOP_EXEC) {
		t->stopped = true; /* so that it is let go */
		return exec_seen(f->process);
	}
	if (stop.kind == STOP_GONE) {
		t->dead = true;
		return NULL;
	}
	return stopped(f, t);
}

/*
 * Interrupt all from `from` on, then wait for each: never one by one. The last one first: when it
 * has stopped nearly all others have, and nobody was kept from it by our looking.
 */
static struct suture_error *interrupt_and_wait(struct job *job, size_t from)
{
	struct freeze *f = job->f;

	for (size_t i = from; i < f->threads.n; i++) {
		struct thread *t = &f->threads.at[i];

		if (t->dead)
			continue;
		t->state_ |= INTERRUPTED;
		if (tracee_interrupt(t->tid) < 0)
			t->dead = tracee_look(t->tid, f->process->pid).kind == STOP_GONE;
	}
	for (size_t i = f->threads.n; i-- > from;)
		if (!f->threads.at[i].dead)
			TRY(wait_stop(job, &f->threads.at[i]));
	return NULL;
}

/* Everything that comes before the first interrupt. The look takes longest, seized threads wait for
 * nobody then. */
static struct suture_error *prepare(struct job *job)
{
	struct freeze *f = job->f;
	size_t known = 0;

	list_clear(f);
	TRY(list_more(job));
	TRY(check_stoppable(job));
	for (int round = 0; round < LIST_ROUNDS && known < f->threads.n; round++) {
		known = f->threads.n;
		TRY(seize_new(job));
		TRY(list_more(job));
	}
	TRY(seize_new(job));
	if (state_of(f)->hook)
		state_of(f)->hook(state_of(f)->hook_arg);
	/* After seizing: from here on an execve is seen as a stop. */
	return process_alive(f->process);
}

static struct suture_error *stop_all(struct job *job)
{
	struct freeze *f = job->f;
	size_t from = 0;

	do {
		size_t end = f->threads.n;

		TRY(interrupt_and_wait(job, from));
		from = end;
		TRY(list_more(job));
		TRY(seize_new(job));
	} while (from < f->threads.n);
	/* An execve by a thread that was not seized yet has replaced the memory. */
	return process_memory_alive(f->process) ? NULL : exec_seen(f->process);
}

/* ---- letting go ---- */

static struct suture_error *let_go(struct freeze *f, struct thread *t)
{
	const struct process *p = f->process;
	int err = tracee_detach(t->tid, STATE_STOP(t->state_));

	t->stopped = false;
	if (!err)
		return NULL;
	/* Killed while it was stopped: collect it, so that it does not stay a zombie. */
	t->dead = true;
	if (tracee_look(t->tid, p->pid).kind == STOP_GONE || err == -ESRCH)
		return NULL;
	return error_errno(
		-err, "cannot resume thread %d of process %d (%s)", t->tid, p->pid, p->comm);
}

/* All that are stopped run again. The first failure is returned, and does not end the work. */
static struct suture_error *let_all_go(struct freeze *f)
{
	struct suture_error *first = NULL;

	vec_foreach (t, &f->threads) {
		if (!t->stopped)
			continue;
		struct suture_error *err = let_go(f, t);
		if (err && !first)
			first = err;
		else
			suture_error_destroy(err);
	}
	if (f->frozen)
		f->last_ns = monotonic_ns() - f->stopped_at_ns;
	f->frozen = false;
	return first;
}

/* Threads that have stopped since are put right; true when one has not. */
static bool collect_late(struct freeze *f, struct stop (*look)(const struct process *p, pid_t tid))
{
	bool left = false;

	vec_foreach (t, &f->threads) {
		if (t->dead || t->stopped)
			continue;
		if (t->state_ & INTERRUPTED) {
			struct stop stop = look(f->process, t->tid);

			t->state_ = STATE(stop) | INTERRUPTED;
			if (stop.kind == STOP_GONE)
				t->dead = true;
			else if (stop.kind != STOP_NONE)
				suture_error_destroy(stopped(f, t));
		}
		left |= !t->dead && !t->stopped;
	}
	return left;
}

static struct stop look_once(const struct process *p, pid_t tid)
{
	return tracee_look(tid, p->pid);
}

/*
 * After a failure. Everybody who has stopped goes on at once. Those who were told to stop and have
 * not are waited for, if all that they lack is a processor: a thread that is let go between the
 * request and its stop may fail with EINTR, and nobody would put that right. What remains
 * (uninterruptible, or seized and never interrupted) goes on when the tracer ends: true then.
 */
static bool roll_back(struct freeze *f)
{
	collect_late(f, look_once);
	suture_error_destroy(let_all_go(f)); /* the reason for letting go matters more */
	bool left = collect_late(f, tracee_wait_longer);
	suture_error_destroy(let_all_go(f));
	return left;
}

/* ---- jobs of the tracer thread ---- */

/* Dead threads are of no interest to those who look at a frozen process. */
static void drop_dead(struct freeze *f)
{
	size_t n = 0;

	for (size_t i = 0; i < f->threads.n; i++)
		if (f->threads.at[i].stopped)
			f->threads.at[n++] = f->threads.at[i];
	f->threads.n = n;
}

static void stop_job(void *arg)
{
	struct job *job = arg;
	struct freeze *f = job->f;

	job->err = prepare(job);
	if (!job->err) {
		f->stopped_at_ns = monotonic_ns();
		f->frozen = true;
		job->err = stop_all(job);
	}
	if (job->err)
		job->straggler = roll_back(f);
	else
		drop_dead(f);
}

static void run_job(void *arg)
{
	struct job *job = arg;

	stop_job(job);
	if (job->err)
		return;
	tracer_in_time();
	job->err = job->fn(job->arg);
	job->resume_err = let_all_go(job->f);
}

static void resume_job(void *arg)
{
	struct job *job = arg;

	job->err = let_all_go(job->f);
}

/* ---- the interface ---- */

struct suture_error *freeze_create(struct process *p, struct freeze **ret)
{
	struct freeze *f = calloc(1, sizeof(*f));
	struct freeze_state *pr = calloc(1, sizeof(*pr));
	struct suture_error *err;

	if (!f || !pr) {
		free(f);
		free(pr);
		return error_nomem();
	}
	f->process = p;
	f->private_ = pr;
	pr->task_fd = openat(p->dir_fd, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (pr->task_fd < 0)
		err = errno == ENOENT || errno == ESRCH
			      ? process_gone(p)
			      : error_errno(errno, "cannot list the threads of process %d", p->pid);
	else
		err = tracer_create(&pr->tracer);
	if (err) {
		freeze_destroy(f);
		return err;
	}
	*ret = f;
	return NULL;
}

/* Have the tracer thread stop all, and whatever else the job is. */
static struct suture_error *stop_and(struct freeze *f, void (*work)(void *arg), struct job *job)
{
	struct freeze_state *pr = state_of(f);

	if (f->frozen)
		return error_create(
			SUTURE_ERROR_INTERNAL, "process %d is already frozen", f->process->pid);
	tracer_hurry(pr->tracer);
	struct suture_error *err = tracer_call(pr->tracer, work, job, job->deadline_ns);
	if (!f->frozen)
		tracer_relax(pr->tracer);
	if (job->straggler)
		tracer_renew(pr->tracer);
	return err ? err : job->err;
}

struct suture_error *freeze_stop(struct freeze *f, uint64_t deadline_ns)
{
	struct job job = {.f = f, .deadline_ns = deadline_ns};

	return stop_and(f, stop_job, &job);
}

struct suture_error *freeze_run(struct freeze *f, uint64_t deadline_ns,
	struct suture_error *(*fn)(void *arg), void *arg, struct suture_error **ret_resume)
{
	struct job job = {.f = f, .deadline_ns = deadline_ns, .fn = fn, .arg = arg};
	struct suture_error *err = stop_and(f, run_job, &job);

	*ret_resume = job.resume_err;
	return err;
}

struct suture_error *freeze_resume(struct freeze *f)
{
	struct freeze_state *pr = state_of(f);
	struct job job = {.f = f};

	if (!f->frozen)
		return error_create(
			SUTURE_ERROR_INTERNAL, "process %d is not frozen", f->process->pid);
	struct suture_error *err = tracer_call(pr->tracer, resume_job, &job, UINT64_MAX);
	tracer_relax(pr->tracer);
	return err ? err : job.err;
}

void freeze_comm(struct freeze *f, struct thread *t)
{
	struct proc_stat stat;

	if (t->comm[0])
		return;
	if (proc_stat_read(f->process->dir_fd, t->tid, &stat) == 0)
		memcpy(t->comm, stat.comm, sizeof(t->comm));
	else
		strcpy(t->comm, "?");
}

void freeze_destroy(struct freeze *f)
{
	if (!f)
		return;
	struct freeze_state *pr = state_of(f);
	/* A thread that cannot be resumed one by one is by the tracer's end. */
	if (f->frozen)
		suture_error_destroy(freeze_resume(f));
	tracer_destroy(pr->tracer);
	if (pr->task_fd >= 0)
		close(pr->task_fd);
	free(pr->index);
	free(pr);
	vec_free(&f->threads);
	free(f);
}

void freeze_set_hook(struct freeze *f, void (*hook)(void *arg), void *arg)
{
	state_of(f)->hook = hook;
	state_of(f)->hook_arg = arg;
}
