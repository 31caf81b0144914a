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
	ENOUGH = 4, /* good candidates; to look at all of many threads takes milliseconds */
	MOST = 1024,
	STACK_DISTANCE = 32 << 10, /* bytes between scratch and anything the stack has held */
};

/* munmap of much memory on a busy machine takes its time. */
static const uint64_t call_ns = 5000000000;
/* Until some thread is fit; until a tracer (one of ours that has just ended, at best) lets go. */
static const uint64_t patience_ns = 2000000000, traced_ns = 100000000;

struct candidate {
	pid_t tid;
	int rank; /* lower is better */
};
struct candidates {
	VEC(struct candidate) v;
	struct process *process;
	size_t good; /* that would not notice */
	bool all;    /* do not stop at enough good ones */
};

struct borrow {
	struct process *process;
	struct tracer *tracer;
	struct regs_gadgets gadgets;
	struct regs_xsave xsave;
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
	list->good += c.rank <= 10 * SYSCALL_COST_RESTART;
	return vec_push(&list->v, c) && list->v.n < MOST && (list->all || list->good < ENOUGH);
}

static int compare_candidates(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;

	return (x->rank > y->rank) - (x->rank < y->rank);
}

static struct suture_error *list_candidates(struct process *p, bool all, struct candidates *list)
{
	_cleanup_close_ int fd = openat(p->dir_fd, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	list->process = p;
	list->all = all;
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

/* In front of scratch that was used before: those pages are touched, and still nobody's. */
static const char scratch_mark[INJECT_SCRATCH_MARK] = "suture scratch\n";

/* pagemap: neither present nor swapped, that is never written. */
static bool is_untouched(uint64_t entry)
{
	return !(entry >> 62);
}

static bool is_marked(struct process *p, remote_addr scratch)
{
	char mark[sizeof(scratch_mark)];
	struct suture_error *err = process_read(p, scratch, mark, sizeof(mark));
	bool same = !err && memcmp(mark, scratch_mark, sizeof(mark)) == 0;

	suture_error_destroy(err);
	return same;
}

static const struct map *main_stack(const struct maps *maps)
{
	vec_foreach (m, &maps->v)
		if (strcmp(m->path, "[stack]") == 0 && m->r && m->w && !m->shared)
			return m;
	return NULL;
}

/*
 * The low end of the main thread's stack: the kernel maps 128 KiB more than execve needs. It is
 * taken only if it has never been touched. For the main thread itself, which is held meanwhile,
 * that is enough; for others a wide strip above it must be untouched too, so that the main thread
 * would have to go that much deeper than ever in the microseconds of a call.
 */
static void find_scratch(const struct borrow *b, struct injection *in)
{
	enum { OWN = INJECT_SCRATCH / PAGE, PAGES = OWN + STACK_DISTANCE / PAGE };
	const struct map *stack = main_stack(&b->maps);
	uint64_t entries[PAGES];
	size_t free_pages;

	in->main_scratch = in->scratch = 0;
	if (!stack || stack->end - stack->start < PAGES * PAGE)
		return;
	_cleanup_close_ int fd = process_openat(b->process, "pagemap", O_RDONLY);
	if (fd < 0 || pread(fd, entries, sizeof(entries), (off_t)(stack->start / PAGE * 8)) !=
			      (ssize_t)sizeof(entries))
		return;
	bool ours = !is_untouched(entries[0]) && is_marked(b->process, stack->start);
	for (free_pages = ours ? OWN : 0; free_pages < PAGES; free_pages++)
		if (!is_untouched(entries[free_pages]))
			break;
	if (free_pages >= OWN)
		in->main_scratch = stack->start;
	if (free_pages == PAGES)
		in->scratch = stack->start;
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

static struct suture_error *attempt(struct borrow *b, struct injection *in, struct reasons *reasons)
{
	struct process *p = b->process;

	TRY(tracer_call(b->tracer, inject, in, monotonic_ns() + call_ns));
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
		tracer_renew(b->tracer);
		break;
	case INJECT_EXEC:
		return error_create(SUTURE_ERROR_NO_PROCESS,
			"process %d (%s) has executed another program", p->pid, p->comm);
	case INJECT_LOST:
		tracer_renew(b->tracer);
		return lost(in);
	case INJECT_ERROR:
		tracer_renew(b->tracer);
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

/* Each thread (or each of some good ones) once, best first. in->outcome says whether one has done
 * it. */
static struct suture_error *one_round(
	struct borrow *b, struct injection *in, bool all, struct reasons *reasons)
{
	struct candidates list = {};
	struct maps maps;
	struct suture_error *err = process_maps(b->process, &maps);

	if (err)
		return err;
	maps_deinit(&b->maps);
	b->maps = maps;
	in->maps = &b->maps;
	find_scratch(b, in);
	err = list_candidates(b->process, all, &list);
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
		.xsave = &b->xsave,
		.nr = nr,
		.scratch_mark = scratch_mark,
		.hook = b->hook,
		.hook_arg = b->hook_arg,
	};
	uint64_t start = monotonic_ns(), patience;
	useconds_t pause = 100;
	unsigned int rounds = 0;
	struct reasons reasons;

	memcpy(in.args, args, sizeof(in.args));
	do {
		reasons = (struct reasons){};
		TRY(process_alive(b->process));
		tracer_hurry(b->tracer);
		struct suture_error *err = one_round(b, &in, rounds++ > 0, &reasons);
		tracer_relax(b->tracer);
		if (err)
			return error_wrap(err, "system call in the target");
		if (in.outcome == INJECT_DONE) {
			*ret = in.result;
			return NULL;
		}
		usleep(pause);
		pause = pause < 20000 ? pause * 2 : pause;
		patience = reasons.traced ? traced_ns : patience_ns;
	} while (!reasons.seccomp && monotonic_ns() - start < patience);
	return nobody(b->process, &reasons);
}

struct suture_error *borrow_begin(struct process *p, struct borrow **ret)
{
	struct borrow *b = calloc(1, sizeof(*b));

	if (!b)
		return error_nomem();
	b->process = p;
	regs_xsave_init(&b->xsave);
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
