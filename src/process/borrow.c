/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System calls in the target: which thread makes them, and what if it cannot. inject.c does the
 * call itself. Between two calls no thread is held.
 *
 * Threads differ in what being stopped costs them. One that waits for a lock without a timeout
 * notices nothing; one in epoll_wait with a timeout waits longer; one in the middle of a large
 * write may return early. /proc/TID/syscall says which is which before anybody is stopped.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "process/borrow.h"
#include "process/tracer.h"

enum {
	GADGET_CHUNK = 1 << 20,
	GADGET_OVERLAP = 16, /* longer than any gadget */
	PAGE = 4096,
	STACK_SEARCH = 1024,	   /* pages of the main thread's stack looked at for scratch */
	STACK_DISTANCE = 64 << 10, /* that far below its stack pointer */
	PATIENCE_NS = 2000000000,  /* until some thread is fit */
};

struct candidate {
	pid_t tid;
	int rank; /* lower is better */
};
struct candidates {
	VEC(struct candidate) v;
	struct process *process;
};

struct borrow {
	struct process *process;
	struct tracer *tracer;
	struct regs_gadgets gadgets;
	struct maps maps;
	void (*hook)(void *arg, int step);
	void *hook_arg;
	uint64_t longest_ns;
};

/* ---- the way through the target's own code ---- */

static bool is_code_of_file(const struct map *m)
{
	/* Code that the program generates may change under us; a file's does not. */
	return m->x && !m->w && !m->shared && m->inode;
}

static struct suture_error *search(struct borrow *b, const struct map *m, uint8_t *buf, bool *found)
{
	for (remote_addr at = m->start; at < m->end && !*found; at += GADGET_CHUNK) {
		size_t size = GADGET_CHUNK + GADGET_OVERLAP;

		if (size > m->end - at)
			size = m->end - at;
		TRY(process_read(b->process, at, buf, size));
		*found = regs_find_gadgets(&b->gadgets, buf, size, at);
	}
	return NULL;
}

static struct suture_error *find_gadgets(struct borrow *b)
{
	_cleanup_free_ uint8_t *buf = malloc(GADGET_CHUNK + GADGET_OVERLAP);
	struct process *p = b->process;
	bool found = false;

	if (!buf)
		return error_nomem();
	vec_foreach (m, &b->maps.v) {
		if (found)
			break;
		if (!is_code_of_file(m))
			continue;
		struct suture_error *err = search(b, m, buf, &found);
		if (err && suture_error_code(err) == SUTURE_ERROR_NO_PROCESS)
			return err;
		suture_error_destroy(err); /* a file truncated under its mapping: take another */
	}
	if (b->gadgets.call && (b->gadgets.restore || b->gadgets.pop_rax))
		return NULL;
	return error_create(SUTURE_ERROR_UNSUPPORTED,
		"process %d (%s): its code holds no `syscall; ret` and signal return that a thread "
		"could be sent through",
		p->pid, p->comm);
}

/* ---- which thread ---- */

static int rank(const char *text)
{
	static const int running = 25;
	long nr;

	if (sscanf(text, "%ld", &nr) != 1)
		return running;
	if (nr < 0) /* waiting for a page, or in a stop of job control */
		return running + 1;
	return 10 * (int)syscall_cost(nr);
}

static bool add_candidate(void *arg, pid_t tid)
{
	struct candidates *list = arg;
	char path[64], text[256];

	snprintf(path, sizeof(path), "task/%d/syscall", tid);
	ssize_t n = proc_read_small(list->process->dir_fd, path, text, sizeof(text));
	if (n == -ESRCH || n == -ENOENT || n == 0)
		return true;
	struct candidate c = {.tid = tid, .rank = n < 0 ? 100 : rank(text)};
	/* Some hundred are enough to choose from. */
	return vec_push(&list->v, c) && list->v.n < 512;
}

static int compare_candidates(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;

	return (x->rank > y->rank) - (x->rank < y->rank);
}

static struct suture_error *list_candidates(struct process *p, struct candidates *list)
{
	_cleanup_close_ int fd = openat(p->dir_fd, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	list->process = p;
	int err = fd < 0 ? -errno : proc_each_tid(fd, add_candidate, list);
	if (err == -ESRCH || err == -ENOENT)
		return process_gone(p);
	if (err < 0)
		return error_errno(
			-err, "cannot list the threads of process %d (%s)", p->pid, p->comm);
	qsort(list->v.at, list->v.n, sizeof(*list->v.at), compare_candidates);
	return NULL;
}

/* ---- scratch memory ---- */

/* The main thread's stack pointer; 0 when it runs. */
static uint64_t main_stack_pointer(const struct process *p)
{
	char text[256];
	unsigned long long sp = 0;

	if (proc_read_small(p->dir_fd, "syscall", text, sizeof(text)) < 1)
		return 0;
	if (sscanf(text, "%*d %*x %*x %*x %*x %*x %*x %llx", &sp) != 1 &&
		sscanf(text, "-1 %llx", &sp) != 1)
		return 0;
	return sp;
}

/* pagemap: neither present nor swapped, that is never written. */
static bool is_untouched(uint64_t entry)
{
	return !(entry >> 62);
}

/*
 * Pages of the main thread's stack that it has never reached, well below where it is now. They are
 * used only for threads that are not on a stack of their own. 0: none.
 */
static remote_addr find_scratch(const struct borrow *b)
{
	uint64_t entries[STACK_SEARCH], sp = main_stack_pointer(b->process);
	const struct map *stack = sp ? maps_find(&b->maps, sp) : NULL;
	size_t run = 0;

	if (!stack || strcmp(stack->path, "[stack]") != 0 || sp - stack->start < STACK_DISTANCE)
		return 0;
	size_t n = (sp - STACK_DISTANCE - stack->start) / PAGE;
	if (n > STACK_SEARCH)
		n = STACK_SEARCH;
	_cleanup_close_ int fd = process_openat(b->process, "pagemap", O_RDONLY);
	if (fd < 0)
		return 0;
	ssize_t got = pread(fd, entries, n * 8, (off_t)(stack->start / PAGE * 8));
	for (size_t i = 0; got > 0 && i < (size_t)got / 8; i++) {
		run = is_untouched(entries[i]) ? run + 1 : 0;
		if (run == INJECT_SCRATCH / PAGE)
			return stack->start + (i + 1 - run) * PAGE;
	}
	return 0;
}

/* ---- the call ---- */

/* What the failed attempts of one round had in common, for the message. */
struct reasons {
	unsigned int seccomp, traced, straggler;
	pid_t tid; /* of the last one that was not merely unfit */
};

static struct suture_error *lost(const struct injection *in)
{
	return error_create(SUTURE_ERROR_BUSY,
		"system call %ld in thread %d of process %d (%s) has not returned in time; the "
		"thread goes on by itself",
		in->nr, in->tid, in->process->pid, in->process->comm);
}

/* Everything that was told to stop, or was begun, is let go by the tracer's end. */
static struct suture_error *new_tracer(struct borrow *b)
{
	tracer_destroy(take(b->tracer));
	TRY(tracer_create(&b->tracer));
	tracer_hurry(b->tracer);
	return NULL;
}

static struct suture_error *attempt(struct borrow *b, struct injection *in, struct reasons *reasons)
{
	struct process *p = b->process;

	tracer_call(b->tracer, inject, in);
	if (in->held_ns > b->longest_ns)
		b->longest_ns = in->held_ns;
	switch (in->outcome) {
	case INJECT_DONE:
	case INJECT_GONE:
	case INJECT_UNFIT:
		return NULL;
	case INJECT_SECCOMP:
		reasons->seccomp++;
		break;
	case INJECT_TRACED:
		reasons->traced++;
		break;
	case INJECT_STRAGGLER:
		reasons->straggler++;
		TRY(new_tracer(b));
		break;
	case INJECT_EXEC:
		return error_create(SUTURE_ERROR_NO_PROCESS,
			"process %d (%s) has executed another program", p->pid, p->comm);
	case INJECT_LOST:
		TRY(new_tracer(b));
		return lost(in);
	case INJECT_ERROR:
		suture_error_destroy(new_tracer(b));
		return in->err;
	}
	reasons->tid = in->tid;
	return NULL;
}

static struct suture_error *nobody(const struct process *p, const struct reasons *reasons)
{
	pid_t tracer = reasons->traced ? process_tracer_of(p, reasons->tid) : 0;

	if (tracer == getpid())
		return error_create(SUTURE_ERROR_INTERNAL,
			"process %d (%s) is frozen: no thread can be borrowed", p->pid, p->comm);
	if (tracer)
		return process_traced(p, reasons->tid, tracer);
	if (reasons->seccomp)
		return error_hint(
			error_create(SUTURE_ERROR_PERMISSION,
				"process %d (%s) runs under a seccomp filter, which may kill it for "
				"a system call that is not its own",
				p->pid, p->comm),
			"run as root: the filter is suspended for the call then");
	return error_hint(
		error_create(SUTURE_ERROR_BUSY, "no thread of process %d (%s) can be borrowed: %s",
			p->pid, p->comm,
			reasons->straggler ? "they do not stop" : "none is at a fit place"),
		"try again");
}

/* Each thread once, best first. in->outcome says whether one has done it. */
static struct suture_error *one_round(
	struct borrow *b, struct injection *in, struct reasons *reasons)
{
	struct candidates list = {};
	struct maps maps;
	struct suture_error *err = process_maps(b->process, &maps);

	if (err)
		return err;
	maps_deinit(&b->maps);
	b->maps = maps;
	in->maps = &b->maps;
	in->scratch = find_scratch(b);
	err = list_candidates(b->process, &list);
	for (size_t i = 0; i < list.v.n && !err; i++) {
		in->tid = list.v.at[i].tid;
		err = attempt(b, in, reasons);
		if (in->outcome == INJECT_DONE)
			break;
	}
	vec_free(&list.v);
	return err;
}

struct suture_error *borrow_syscall(struct borrow *b, long nr, const uint64_t args[6], int64_t *ret)
{
	struct injection in = {
		.process = b->process,
		.gadgets = &b->gadgets,
		.nr = nr,
		.hook = b->hook,
		.hook_arg = b->hook_arg,
	};
	uint64_t until = monotonic_ns() + PATIENCE_NS;
	useconds_t pause = 100;
	struct reasons reasons;

	memcpy(in.args, args, sizeof(in.args));
	if (!b->tracer)
		TRY(tracer_create(&b->tracer));
	do {
		reasons = (struct reasons){};
		TRY(process_alive(b->process));
		tracer_hurry(b->tracer);
		struct suture_error *err = one_round(b, &in, &reasons);
		if (b->tracer)
			tracer_relax(b->tracer);
		if (err)
			return error_wrap(err, "system call in the target");
		if (in.outcome == INJECT_DONE) {
			*ret = in.result;
			return NULL;
		}
		usleep(pause);
		pause = pause < 20000 ? pause * 2 : pause;
	} while (!reasons.seccomp && monotonic_ns() < until);
	return nobody(b->process, &reasons);
}

struct suture_error *borrow_begin(struct process *p, struct borrow **ret)
{
	struct borrow *b = calloc(1, sizeof(*b));

	if (!b)
		return error_nomem();
	b->process = p;
	struct suture_error *err = process_maps(p, &b->maps);
	if (!err)
		err = find_gadgets(b);
	if (!err)
		err = tracer_create(&b->tracer);
	if (err) {
		suture_error_destroy(borrow_end(b));
		return err;
	}
	*ret = b;
	return NULL;
}

struct suture_error *borrow_end(struct borrow *b)
{
	tracer_destroy(b->tracer);
	maps_deinit(&b->maps);
	free(b);
	return NULL;
}

void borrow_set_hook(struct borrow *b, void (*hook)(void *arg, int step), void *arg)
{
	b->hook = hook;
	b->hook_arg = arg;
}

uint64_t borrow_longest_ns(const struct borrow *b)
{
	return b->longest_ns;
}
