/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Searching a process for ways into a payload: see escape.h. Functions that the patch brings and whose
 * address its code or data takes are looked for, in plain form and as glibc disguises pointers; and
 * where coroutines may be, what their suspended stacks would hold: the addresses behind the calls that
 * the payload makes. Most patches in most programs have neither and cost nothing here.
 *
 * The search runs while the target does. Asked before the detours are removed it says whether reverting
 * makes sense; asked after, nobody is left who could hand out new pointers, and only then its answer
 * allows to unmap. Stacks of threads are the stack check's business: of them only the part in use is
 * looked at, and only for pointers. What lies below a stack pointer is dead.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "apply/escape.h"
#include "arch/arch.h"
#include "base/cleanup.h"

#define MS 1000000ULL

enum {
	STEP = 1 << 20,
	FILTER_BITS = 1 << 16,
	TOP_SEARCH = 8192, /* bytes at the end of a stack that may be its thread descriptor */
	STOP_MS = 200,
	POINTER_GUARD = 0x30, /* tcbhead_t.pointer_guard, glibc sysdeps/x86_64/nptl/tls.h */
	N_SIGNALS = 64,
};

/* A value that leads into the payload. */
struct way {
	uint64_t word;
	const char *name; /* of the function */
	bool is_return;	  /* behind a call; else the start of a function */
};

/* The stack of a thread: unused below sp, in use above. */
struct stack {
	remote_addr low, sp, high;
};

struct search {
	struct target *target;
	const struct ledger *ledger;
	VEC(struct way) ways;	  /* ascending */
	VEC(struct stack) stacks; /* ascending */
	uint64_t guard;
	int pagemap_fd; /* -1: none */
	/* One bit for each hash of a way: most words are dismissed by it. */
	uint64_t filter[FILTER_BITS / 64];
};

/* ---- what is looked for ---- */

static struct suture_error *add_way(
	struct search *s, uint64_t word, const char *name, bool is_return)
{
	struct way way = {word, name, is_return};

	return vec_push(&s->ways, way) ? NULL : error_nomem();
}

static struct suture_error *add_pointers(struct search *s)
{
	vec_foreach (symbol, &s->ledger->symbols) {
		if (symbol->escapes)
			TRY(add_way(s, symbol->address, symbol->name, false));
	}
	return NULL;
}

static struct suture_error *add_returns_of(struct search *s, const struct ledger_symbol *symbol)
{
	_cleanup_free_ uint8_t *code = malloc(symbol->size ?: 1);
	struct insn insn;

	if (!code)
		return error_nomem();
	TRY(process_read(s->target->process, symbol->address, code, symbol->size));
	for (uint64_t at = 0; at < symbol->size; at += insn.length) {
		if (!arch_x86_64.decode(code + at, symbol->size - at, symbol->address + at, &insn))
			break;
		if (insn.is_call)
			TRY(add_way(s, symbol->address + at + insn.length, symbol->name, true));
	}
	return NULL;
}

static bool is_switch(const char *name)
{
	static const char *const names[] = {"makecontext", "swapcontext", "setcontext"};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (!strcmp(name, names[i]))
			return true;
	}
	return false;
}

/* A slot that is bound lazily points into its own image until the first call. */
static struct suture_error *is_bound(const struct target *target, const struct module *m,
	const struct module_reloc *reloc, bool *ret)
{
	uint64_t to;

	TRY(process_read(target->process, reloc->offset + m->bias, &to, sizeof(to)));
	*ret = to && !(reloc->type == R_X86_64_JUMP_SLOT && to >= m->low && to < m->high);
	return NULL;
}

static struct suture_error *refers_to_switch(
	const struct target *target, struct module *m, bool *ret)
{
	TRY(module_relocs(m));
	for (size_t i = 0; i < m->relocs.n && !*ret; i++) {
		const struct module_reloc *reloc = &m->relocs.at[i];
		struct module_symbol symbol;

		if (!reloc->symbol ||
			(reloc->type != R_X86_64_JUMP_SLOT && reloc->type != R_X86_64_GLOB_DAT))
			continue;
		TRY(module_symbol(m, reloc->symbol, &symbol));
		bool match = is_switch(symbol.name);
		free(symbol.name);
		if (match)
			TRY(is_bound(target, m, reloc, ret));
	}
	return NULL;
}

bool uses_coroutines(struct target *target)
{
	for (size_t i = 0; i < target->images.n && !target->coroutines_known; i++) {
		struct target_image *image = &target->images.at[i];
		struct suture_error *err = target_module(target, image);

		if (!err)
			err = refers_to_switch(target, image->module, &target->coroutines);
		/* What cannot be read as an image does not import anything. */
		suture_error_destroy(err);
		if (target->coroutines)
			break;
	}
	target->coroutines_known = true;
	return target->coroutines;
}

static struct suture_error *add_returns(struct search *s)
{
	if (!uses_coroutines(s->target))
		return NULL;
	vec_foreach (symbol, &s->ledger->symbols)
		TRY(add_returns_of(s, symbol));
	return NULL;
}

/* atexit() and others keep pointers so in glibc (PTR_MANGLE). */
static uint64_t mangle(uint64_t pointer, uint64_t guard)
{
	uint64_t x = pointer ^ guard;

	return x << 17 | x >> 47;
}

static int by_word(const void *a, const void *b)
{
	const struct way *x = a, *y = b;

	return x->word < y->word ? -1 : x->word > y->word;
}

static uint32_t hash(uint64_t word)
{
	return word * 0x9e3779b97f4a7c15ULL >> 48;
}

static struct suture_error *add_mangled(struct search *s)
{
	for (size_t i = 0, n = s->ways.n; i < n && s->guard; i++) {
		struct way way = s->ways.at[i];

		if (!way.is_return)
			TRY(add_way(s, mangle(way.word, s->guard), way.name, false));
	}
	if (s->ways.n)
		qsort(s->ways.at, s->ways.n, sizeof(s->ways.at[0]), by_word);
	vec_foreach (way, &s->ways)
		s->filter[hash(way->word) / 64] |= 1ULL << hash(way->word) % 64;
	return NULL;
}

static const struct way *find(const struct search *s, uint64_t word)
{
	struct way key = {.word = word};

	if (!(s->filter[hash(word) / 64] >> hash(word) % 64 & 1))
		return NULL;
	return bsearch(&key, s->ways.at, s->ways.n, sizeof(key), by_word);
}

static struct suture_error *held(
	const struct search *s, const struct way *way, const char *fmt, ...) PRINTF(3, 4);
static struct suture_error *held(
	const struct search *s, const struct way *way, const char *fmt, ...)
{
	const struct process *p = s->target->process;
	char where[192];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(where, sizeof(where), fmt, ap);
	va_end(ap);
	if (way->is_return)
		return error_hint(
			error_create(SUTURE_ERROR_BUSY,
				"process %d (%s) may have a coroutine inside %s of patch %s: a "
				"return address is %s",
				p->pid, p->comm, way->name, s->ledger->name, where),
			"the patch can be taken out when the coroutine has left it");
	return error_hint(error_create(SUTURE_ERROR_BUSY,
				  "process %d (%s) holds a pointer to %s of patch %s %s", p->pid,
				  p->comm, way->name, s->ledger->name, where),
		"the patch can be taken out when the program has dropped that pointer");
}

/* ---- threads ---- */

static struct suture_error *look_at_registers(const struct search *s, const struct thread *t)
{
	const unsigned long long *regs = (const void *)&t->regs;

	for (size_t i = 0; i < sizeof(t->regs) / sizeof(regs[0]); i++) {
		const struct way *way = find(s, regs[i]);

		/* The stack check has seen where the thread is. */
		if (way && !way->is_return)
			return held(s, way, "in a register of thread %d", t->tid);
	}
	return NULL;
}

/* Only a stack that is a mapping of its own: the heap may hold stacks, and much else. */
static struct suture_error *note_stack(struct search *s, const struct thread *t)
{
	const struct map *map = maps_find(&s->target->maps, t->regs.rsp);
	remote_addr top = t->regs.fs_base & -8ULL, sp = t->regs.rsp & -8ULL;

	if (!map)
		return NULL;
	if (!strcmp(map->path, "[stack]"))
		top = map->end;
	else if (map->path[0] || top < sp || top >= map->end)
		return NULL;
	struct stack *stack = vec_add(&s->stacks);
	if (!stack)
		return error_nomem();
	*stack = (struct stack){map->start, sp, top};
	return NULL;
}

static int by_low(const void *a, const void *b)
{
	const struct stack *x = a, *y = b;

	return x->low < y->low ? -1 : x->low > y->low;
}

static struct suture_error *look_at_threads(struct search *s, const struct freeze *freeze)
{
	struct process *p = s->target->process;

	vec_foreach (t, &freeze->threads) {
		TRY(note_stack(s, t));
		if (s->guard)
			continue;
		/* One value for all threads. A thread without a descriptor has none. */
		struct suture_error *err = process_read(
			p, t->regs.fs_base + POINTER_GUARD, &s->guard, sizeof(s->guard));
		if (err)
			s->guard = 0;
		suture_error_destroy(err);
	}
	if (s->stacks.n)
		qsort(s->stacks.at, s->stacks.n, sizeof(s->stacks.at[0]), by_low);
	TRY(add_mangled(s));
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

/* in_use: of a stack, where return addresses are no news. */
static struct suture_error *search_piece(const struct search *s, const struct map *map,
	remote_addr at, const uint64_t *words, size_t n, bool in_use)
{
	for (size_t i = 0; i < n; i++) {
		const struct way *way = find(s, words[i]);

		if (way && !(in_use && way->is_return))
			return held(s, way, "at 0x%llx (%.64s)", (unsigned long long)(at + i * 8),
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
	remote_addr low, remote_addr high, bool in_use, uint64_t *buf)
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
		TRY(search_piece(s, map, at, buf, piece.got / 8, in_use));
		/* A page that cannot be read (a file that became shorter) holds no pointer. */
		at = piece.got < n ? ((at + piece.got) & -4096ULL) + 4096 : at + n;
	}
	return NULL;
}

/*
 * The stack of a thread that has ended, kept by glibc for the next one: full of return addresses that
 * nobody will use. Known by the thread descriptor on top (tcbhead_t: tcb and self, at 0 and 0x10, point
 * at itself) that no thread has. Returns where it ends; 0: it is none.
 */
static remote_addr ended_stack(const struct search *s, const struct map *map)
{
	uint64_t words[TOP_SEARCH / 8];
	remote_addr from = map->end - sizeof(words);

	if (map->path[0] || map->shared || map->end - map->start < 2 * sizeof(words))
		return 0;
	struct suture_error *err = process_read(s->target->process, from, words, sizeof(words));
	suture_error_destroy(err);
	for (size_t i = 0; !err && i + 2 < TOP_SEARCH / 8; i += 2) {
		if (words[i] == from + i * 8 && words[i + 2] == words[i])
			return words[i];
	}
	return 0;
}

static struct suture_error *search_map(const struct search *s, const struct map *map, uint64_t *buf)
{
	remote_addr at = map->start, ended;
	bool has_thread = false;

	vec_foreach (stack, &s->stacks) {
		if (stack->low < at || stack->high > map->end)
			continue;
		has_thread = true;
		TRY(search_range(s, map, at, stack->low, false, buf));
		TRY(search_range(s, map, stack->sp, stack->high, true, buf));
		at = stack->high;
	}
	ended = has_thread ? 0 : ended_stack(s, map);
	return search_range(s, map, ended ?: at, map->end, false, buf);
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
		const struct way *way = find(s, handlers[i].handler);

		if (way && !way->is_return)
			return held(s, way, "as the handler of signal %d", i + 1);
	}
	return NULL;
}

static struct suture_error *search(struct search *s)
{
	TRY(add_pointers(s));
	TRY(add_returns(s));
	if (!s->ways.n)
		return NULL;
	TRY(target_reread_maps(s->target));
	TRY(search_threads(s));
	TRY(search_signals(s));
	return search_memory(s);
}

struct suture_error *escape_check(struct target *target, const struct ledger *ledger)
{
	struct search s = {.target = target, .ledger = ledger};

	struct suture_error *err = search(&s);
	vec_free(&s.ways);
	vec_free(&s.stacks);
	return err;
}
