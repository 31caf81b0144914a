/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Searching a process for function pointers: see escape.h. Only functions that the patch brings and
 * whose address its code or data takes are looked for; most patches have none and cost nothing
 * here.
 *
 * The search runs while the target does. Asked before the detours are removed it says whether
 * reverting makes sense; asked after, nobody is left who could hand out new pointers, and only then
 * its answer allows to unmap. The unused part of a stack is left out: what lies there is dead.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "apply/escape.h"
#include "base/cleanup.h"

#define MS 1000000ULL

enum {
	STEP = 1 << 20,
	STOP_MS = 200,
	POINTER_GUARD = 0x30, /* tcbhead_t.pointer_guard, glibc sysdeps/x86_64/nptl/tls.h */
	N_SIGNALS = 64,
};

/* Memory below a stack pointer. */
struct dead_range {
	remote_addr low, high;
};

struct search {
	struct target *target;
	const struct ledger *ledger;
	VEC(struct dead_range) dead; /* ascending */
	uint64_t guard;
	int pagemap_fd; /* -1: none */
};

/* atexit() and others keep pointers so in glibc (PTR_MANGLE). */
static uint64_t mangle(uint64_t pointer, uint64_t guard)
{
	uint64_t x = pointer ^ guard;

	return x << 17 | x >> 47;
}

static const struct ledger_symbol *find(const struct search *s, uint64_t word)
{
	vec_foreach (e, &s->ledger->symbols) {
		if (e->escapes &&
			(word == e->address || (s->guard && word == mangle(e->address, s->guard))))
			return e;
	}
	return NULL;
}

static struct suture_error *held(
	const struct search *s, const struct ledger_symbol *e, const char *fmt, ...) PRINTF(3, 4);
static struct suture_error *held(
	const struct search *s, const struct ledger_symbol *e, const char *fmt, ...)
{
	const struct process *p = s->target->process;
	char where[192];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(where, sizeof(where), fmt, ap);
	va_end(ap);
	return error_hint(error_create(SUTURE_ERROR_BUSY,
				  "process %d (%s) holds a pointer to %s of patch %s %s", p->pid,
				  p->comm, e->name, s->ledger->name, where),
		"the patch can be taken out when the program has dropped that pointer");
}

/* ---- threads ---- */

static struct suture_error *look_at_registers(const struct search *s, const struct thread *t)
{
	const unsigned long long *regs = (const void *)&t->regs;

	for (size_t i = 0; i < sizeof(t->regs) / sizeof(regs[0]); i++) {
		const struct ledger_symbol *e = find(s, regs[i]);

		if (e)
			return held(s, e, "in a register of thread %d", t->tid);
	}
	return NULL;
}

/* Only of a stack that is a mapping of its own: the heap may hold stacks, and much else. */
static struct suture_error *note_dead(struct search *s, const struct thread *t)
{
	const struct map *map = maps_find(&s->target->maps, t->regs.rsp);
	remote_addr top = t->regs.fs_base;
	bool main_stack = map && !strcmp(map->path, "[stack]");

	if (!map || (!main_stack && (map->path[0] || top < t->regs.rsp || top >= map->end)))
		return NULL;
	struct dead_range *dead = vec_add(&s->dead);
	if (!dead)
		return error_nomem();
	*dead = (struct dead_range){map->start, t->regs.rsp & -8ULL};
	return NULL;
}

static int by_low(const void *a, const void *b)
{
	const struct dead_range *x = a, *y = b;

	return x->low < y->low ? -1 : x->low > y->low;
}

static struct suture_error *look_at_threads(struct search *s, const struct freeze *freeze)
{
	struct process *p = s->target->process;

	vec_foreach (t, &freeze->threads) {
		TRY(note_dead(s, t));
		if (s->guard)
			continue;
		/* One value for all threads. A thread without a descriptor has none. */
		struct suture_error *err = process_read(
			p, t->regs.fs_base + POINTER_GUARD, &s->guard, sizeof(s->guard));
		if (err)
			s->guard = 0;
		suture_error_destroy(err);
	}
	if (s->dead.n)
		qsort(s->dead.at, s->dead.n, sizeof(s->dead.at[0]), by_low);
	vec_foreach (t, &freeze->threads)
		TRY(look_at_registers(s, t));
	return NULL;
}

static struct suture_error *search_threads(struct search *s)
{
	_cleanup_(freeze_destroyp) struct freeze *freeze = NULL;

	TRY(freeze_create(s->target->process, &freeze));
	TRY(freeze_stop(freeze, monotonic_ns() + STOP_MS * MS));
	/* What was read in the stop is kept; the rest of the work is done while the target runs. */
	TRY(freeze_resume(freeze));
	return look_at_threads(s, freeze);
}

/* ---- memory ---- */

static bool in_payload(const struct ledger *ledger, remote_addr at)
{
	vec_foreach (image, &ledger->images) {
		if (at >= image->start && at < image->end)
			return true;
	}
	return false;
}

static struct suture_error *search_piece(const struct search *s, const struct map *map,
	remote_addr at, const uint64_t *words, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		const struct ledger_symbol *e = find(s, words[i]);

		if (e)
			return held(s, e, "at 0x%llx (%.64s)", (unsigned long long)(at + i * 8),
				map->path[0] ? map->path : "anonymous memory");
	}
	return NULL;
}

/*
 * Nothing was ever stored in [at, at + n): no page is present or swapped out (bits 63 and 62 of
 * /proc/PID/pagemap). Programs reserve far more memory than they use.
 */
static bool never_used(const struct search *s, remote_addr at, size_t n)
{
	uint64_t pages[STEP / 4096 + 1];
	size_t count = (at % 4096 + n + 4095) / 4096;
	ssize_t size = count * sizeof(pages[0]);

	if (s->pagemap_fd < 0 ||
		pread(s->pagemap_fd, pages, size, at / 4096 * sizeof(pages[0])) != size)
		return false;
	for (size_t i = 0; i < count; i++) {
		if (pages[i] >> 62)
			return false;
	}
	return true;
}

static struct suture_error *search_range(const struct search *s, const struct map *map,
	remote_addr low, remote_addr high, uint64_t *buf)
{
	for (remote_addr at = low; at < high;) {
		size_t n = high - at < STEP ? high - at : STEP;
		struct piece piece = {at, buf, n, 0};

		/* A private file mapping has content without ever being written, but not ours. */
		if (!map->shared && never_used(s, at, n)) {
			at += n;
			continue;
		}
		TRY(process_read_pieces(s->target->process, &piece, 1));
		TRY(search_piece(s, map, at, buf, piece.got / 8));
		/* A page that cannot be read (a file that became shorter) holds no pointer. */
		at = piece.got < n ? ((at + piece.got) & -4096ULL) + 4096 : at + n;
	}
	return NULL;
}

static struct suture_error *search_map(const struct search *s, const struct map *map, uint64_t *buf)
{
	remote_addr at = map->start;

	vec_foreach (dead, &s->dead) {
		if (dead->low < at || dead->high > map->end)
			continue;
		TRY(search_range(s, map, at, dead->low, buf));
		at = dead->high;
	}
	return search_range(s, map, at, map->end, buf);
}

static struct suture_error *search_memory(struct search *s)
{
	_cleanup_free_ uint64_t *buf = malloc(STEP);
	_cleanup_close_ int fd =
		process_openat(s->target->process, "pagemap", O_RDONLY | O_CLOEXEC);

	if (!buf)
		return error_nomem();
	s->pagemap_fd = fd;
	vec_foreach (map, &s->target->maps.v) {
		if (map->r && map->w && !in_payload(s->ledger, map->start))
			TRY(search_map(s, map, buf));
	}
	return NULL;
}

/* ---- signals ---- */

/* struct kernel_sigaction of x86-64, include/linux/signal_types.h */
struct kernel_sigaction {
	uint64_t handler, flags, restorer, mask;
};

/* Signals that have a handler: SigCgt of /proc/PID/status. */
static uint64_t caught_signals(const struct process *p)
{
	_cleanup_fclose_ FILE *f = NULL;
	unsigned long long mask = ~0ULL;
	char line[256];

	int fd = process_openat(p, "status", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return mask;
	f = fdopen(fd, "r");
	if (!f) {
		close(fd);
		return mask;
	}
	while (fgets(line, sizeof(line), f) && sscanf(line, "SigCgt: %llx", &mask) != 1)
		;
	return mask;
}

/* The kernel writes the answers into a page of the target that is there for a moment. */
static struct suture_error *ask_handlers(const struct search *s, struct borrow *b, remote_addr page,
	uint64_t caught, struct kernel_sigaction *ret)
{
	for (unsigned sig = 1; sig <= N_SIGNALS; sig++) {
		remote_addr to = page + (sig - 1) * sizeof(ret[0]);
		const uint64_t args[6] = {sig, 0, to, 8};
		int64_t result;

		if (caught & 1ULL << (sig - 1))
			TRY(borrow_syscall(b, SYS_rt_sigaction, args, &result));
	}
	return process_read(s->target->process, page, ret, N_SIGNALS * sizeof(ret[0]));
}

static struct suture_error *with_page(const struct search *s, struct borrow *b, uint64_t caught,
	struct kernel_sigaction *handlers)
{
	const uint64_t map[6] = {
		0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, (uint64_t)-1, 0};
	int64_t page, ignored;

	TRY(borrow_syscall(b, SYS_mmap, map, &page));
	if (page < 0 && page > -4096)
		return error_errno(-page, "process %d (%s) cannot map a page",
			s->target->process->pid, s->target->process->comm);
	struct suture_error *err = ask_handlers(s, b, page, caught, handlers);
	const uint64_t unmap[6] = {page, 4096};
	struct suture_error *left = borrow_syscall(b, SYS_munmap, unmap, &ignored);
	if (err)
		suture_error_destroy(left);
	return err ?: left;
}

static struct suture_error *search_signals(const struct search *s)
{
	struct kernel_sigaction handlers[N_SIGNALS] = {};
	uint64_t caught = caught_signals(s->target->process);
	struct borrow *b;

	if (!caught)
		return NULL;
	TRY(borrow_begin(s->target->process, &b));
	struct suture_error *err = with_page(s, b, caught, handlers);
	struct suture_error *end = borrow_end(b);
	if (err) {
		suture_error_destroy(end);
		return err;
	}
	TRY(end);
	for (int i = 0; i < N_SIGNALS; i++) {
		const struct ledger_symbol *e = find(s, handlers[i].handler);

		if (e)
			return held(s, e, "as the handler of signal %d", i + 1);
	}
	return NULL;
}

static bool any_escapes(const struct ledger *ledger)
{
	vec_foreach (symbol, &ledger->symbols) {
		if (symbol->escapes)
			return true;
	}
	return false;
}

struct suture_error *escape_check(struct target *target, const struct ledger *ledger)
{
	struct search s = {.target = target, .ledger = ledger};

	if (!any_escapes(ledger))
		return NULL;
	TRY(target_reread_maps(target));
	struct suture_error *err = search_threads(&s);
	if (!err)
		err = search_signals(&s);
	if (!err)
		err = search_memory(&s);
	vec_free(&s.dead);
	return err;
}
