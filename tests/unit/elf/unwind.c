/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stacks of this very process, unwound as if it were another one and compared with what the
 * C++ runtime's unwinder says: through libc, through signal handlers on either stack, through
 * realigned frames, to the end.
 */
#include <dwarf.h>
#include <pthread.h>
#include <signal.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <ucontext.h>
#include <unwind.h>

#include "base/vec.h"
#include "elf/cfi.h"
#include "elf/module.h"
#include "self.h"

#define noinline __attribute__((noinline))
enum { FRAMES = 64 };

/* ---- walking our own stack ---- */

struct loaded {
	struct module *module;
	struct unwind_table *table;
};
static VEC(struct loaded) images;

static int load_image(struct dl_phdr_info *info, size_t size, void *arg)
{
	(void)size;
	(void)arg;
	struct loaded *l = vec_add(&images);
	uint64_t base = 0;

	for (int i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_LOAD && info->dlpi_phdr[i].p_offset == 0)
			base = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
	assert_ok(module_open(&self_reader, base, info->dlpi_name, &l->module));
	assert_ok(unwind_table_from_module(l->module, &l->table));
	return 0;
}

static int setup(void **state)
{
	(void)state;
	dl_iterate_phdr(load_image, NULL);
	return images.n > 0 ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	vec_foreach (l, &images) {
		unwind_table_destroy(l->table);
		module_close(l->module);
	}
	vec_free(&images);
	return 0;
}

static const struct unwind_row *row_at(uint64_t pc)
{
	vec_foreach (l, &images)
		if (pc >= l->module->low && pc < l->module->high)
			return unwind_table_row(l->table, pc);
	return NULL;
}

struct chain {
	uint64_t pcs[FRAMES];
	size_t n;
	bool complete; /* ended at an outermost frame */
};

/* regs of a frame that is in the middle of a call */
static struct chain walk(uint64_t regs[UNWIND_REGS])
{
	uint32_t valid = (1u << UNWIND_REGS) - 1;
	struct chain chain = {};
	bool exact = false;

	while (chain.n < FRAMES && !chain.complete) {
		chain.pcs[chain.n++] = regs[16];
		const struct unwind_row *row = row_at(regs[16] - !exact);
		if (!row)
			break;
		exact = row->signal_frame;
		assert_ok(unwind_step(row, &self_reader, regs, &valid, &chain.complete));
	}
	return chain;
}

static void from_context(const ucontext_t *uc, uint64_t regs[UNWIND_REGS])
{
	static const int order[UNWIND_REGS] = {REG_RAX, REG_RDX, REG_RCX, REG_RBX, REG_RSI, REG_RDI,
		REG_RBP, REG_RSP, REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14,
		REG_R15, REG_RIP};

	for (int i = 0; i < UNWIND_REGS; i++)
		regs[i] = uc->uc_mcontext.gregs[order[i]];
}

static struct {
	struct chain ours;
	uint64_t truth[FRAMES];
	size_t n_truth;
} seen;

static _Unwind_Reason_Code collect(struct _Unwind_Context *context, void *arg)
{
	(void)arg;
	if (seen.n_truth < FRAMES && _Unwind_GetIP(context))
		seen.truth[seen.n_truth++] = _Unwind_GetIP(context);
	return _URC_NO_REASON;
}

static noinline void look(void)
{
	uint64_t regs[UNWIND_REGS];
	ucontext_t uc;

	seen.n_truth = 0;
	_Unwind_Backtrace(collect, NULL);
	getcontext(&uc);
	from_context(&uc, regs);
	seen.ours = walk(regs);
}

/* Frame 0 is look() itself, at two places; all the others are the same. */
static void assert_seen_right(size_t at_least)
{
	assert_true(seen.ours.complete);
	assert_int_equal(seen.ours.n, seen.n_truth);
	assert_true(seen.ours.n >= at_least);
	for (size_t i = 1; i < seen.ours.n; i++)
		assert_int_equal(seen.ours.pcs[i], seen.truth[i]);
}

/* ---- shapes of stacks ---- */

static volatile int sink;

static noinline int deep(int n)
{
	if (n == 0)
		look();
	else
		sink = deep(n - 1);
	return sink + n;
}

static void nested_calls(void **state)
{
	(void)state;
	deep(10);
	assert_seen_right(13);
}

/* The CFA is found through a saved pointer: DW_CFA_def_cfa_expression. */
static noinline int realigned(int n)
{
	alignas(64) volatile char buf[64];
	volatile char *more = __builtin_alloca(n);

	assert_int_equal((uintptr_t)buf % 64, 0);
	more[0] = buf[0] = n;
	look();
	return more[0] + buf[0];
}

static void realigned_frames(void **state)
{
	(void)state;
	sink = realigned(20);
	assert_seen_right(3);
}

static int compare(const void *a, const void *b)
{
	if (!seen.n_truth)
		look();
	return *(const int *)a - *(const int *)b;
}

static void callback_from_libc(void **state)
{
	(void)state;
	int v[] = {3, 1, 2};

	seen.n_truth = 0;
	qsort(v, 3, sizeof(v[0]), compare);
	assert_int_equal(v[0], 1);
	assert_seen_right(5);
}

static void handler(int sig)
{
	(void)sig;
	look();
}

static int faults;

static void fault_handler(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)info;
	ucontext_t *uc = context;

	look();
	assert_seen_right(5);
	assert_int_equal(seen.ours.pcs[3], uc->uc_mcontext.gregs[REG_RIP]);
	uc->uc_mcontext.gregs[REG_RIP] += 2; /* behind ud2 */
	faults++;
}

static void catch (int sig, bool alternate)
{
	static char stack[64 * 1024];
	const stack_t on = {.ss_sp = stack, .ss_size = sizeof(stack)};
	struct sigaction sa = {.sa_flags = alternate ? SA_ONSTACK : 0};

	sa.sa_flags |= sig == SIGILL ? SA_SIGINFO : 0;
	if (sig == SIGILL)
		sa.sa_sigaction = fault_handler;
	else
		sa.sa_handler = handler;
	assert_int_equal(sigaltstack(&on, NULL), 0);
	assert_int_equal(sigaction(sig, &sa, NULL), 0);
}

static void signal_handler(void **state)
{
	(void)state;
	catch (SIGUSR1, false);
	raise(SIGUSR1);
	assert_seen_right(6);
}

static void signal_handler_on_its_own_stack(void **state)
{
	(void)state;
	catch (SIGUSR1, true);
	raise(SIGUSR1);
	assert_seen_right(6);
}

/*
 * Interrupted at the first instruction of a function: its frame is not there yet, and one byte
 * before nothing is known.
 */
__asm__(".pushsection .text\n"
	"	.skip 16, 0xcc\n"
	".type interrupted, @function\n"
	"interrupted: .cfi_startproc\n"
	"	ud2\n"
	"	push %rbx; .cfi_adjust_cfa_offset 8; .cfi_rel_offset %rbx, 0\n"
	"	xor %ebx, %ebx\n"
	"	ud2\n"
	"	pop %rbx; .cfi_adjust_cfa_offset -8; .cfi_restore %rbx\n"
	"	ret\n"
	".cfi_endproc\n"
	".size interrupted, . - interrupted\n"
	".popsection\n");
void interrupted(void);

static void interrupted_anywhere(void **state)
{
	(void)state;
	catch (SIGILL, true);
	interrupted();
	assert_int_equal(faults, 2);
}

/* ---- threads: the end of the stack is clone's frame ---- */

static void *thread_main(void *arg)
{
	deep(3);
	return arg;
}

static void threads_end(void **state)
{
	(void)state;
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, thread_main, NULL), 0);
	pthread_join(thread, NULL);
	assert_seen_right(7);
}

/* ---- a trampoline without information, and one that is none ---- */

static atomic_int trampoline_found;

static void trampoline_handler(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	uint64_t regs[UNWIND_REGS] = {}, truth[UNWIND_REGS];
	uint32_t valid = 1u << 7 | 1u << 16;
	bool outermost;

	(void)sig;
	(void)info;
	/* The kernel put the trampoline's address right below the ucontext. */
	regs[16] = ((uint64_t *)uc)[-1];
	regs[7] = (uintptr_t)uc;
	const struct unwind_row *row = unwind_sigreturn_row(&self_reader, regs[16]);
	if (!row || !row->signal_frame)
		return;
	assert_ok(unwind_step(row, &self_reader, regs, &valid, &outermost));
	from_context(uc, truth);
	assert_false(outermost);
	assert_int_equal(valid, (1u << UNWIND_REGS) - 1);
	assert_memory_equal(regs, truth, sizeof(regs));
	trampoline_found = 1;
}

static void trampolines_are_known_by_their_code(void **state)
{
	(void)state;
	struct sigaction sa = {.sa_flags = SA_SIGINFO, .sa_sigaction = trampoline_handler};

	assert_int_equal(sigaction(SIGUSR2, &sa, NULL), 0);
	raise(SIGUSR2);
	assert_int_equal(trampoline_found, 1);
	assert_null(unwind_sigreturn_row(&self_reader, (uintptr_t)deep));
	assert_null(unwind_sigreturn_row(&self_reader, 16));
}

/* ---- rows ---- */

static void rows_are_kept_once(void **state)
{
	(void)state;
	const struct unwind_row *row = row_at((uintptr_t)deep);

	assert_non_null(row);
	assert_ptr_equal(row, row_at((uintptr_t)deep));
	assert_ptr_equal(row, row_at((uintptr_t)realigned));
	assert_false(row->signal_frame);
	assert_int_equal(row->cfa_reg, 7);
	assert_int_equal(row->cfa_offset, 8);
	assert_int_equal(row->regs[16].kind, UNWIND_AT_CFA);
	assert_int_equal(row->regs[16].value, -8);
	assert_int_equal(row->regs[3].kind, UNWIND_SAME);
	assert_null(row_at(images.at[0].module->low));
}

/* The payload's way: the same section without its header. */
static void bare_sections(void **state)
{
	(void)state;
	struct module *m = images.at[0].module;
	struct unwind_table *t = NULL;
	uint32_t hdr[2];
	int32_t to_section;

	vec_foreach (ph, &m->phdrs) {
		if (ph->p_type != PT_GNU_EH_FRAME)
			continue;
		uint64_t at = ph->p_vaddr + m->bias;
		assert_ok(reader_read(&self_reader, at, hdr, sizeof(hdr)));
		memcpy(&to_section, &hdr[1], 4);
		uint64_t section = at + 4 + to_section;
		/* The terminator ends it before. */
		assert_ok(unwind_table_from_eh_frame(&self_reader, section, m->high - section, &t));
	}
	assert_non_null(t);
	assert_memory_equal(unwind_table_row(t, (uintptr_t)deep), row_at((uintptr_t)deep),
		sizeof(struct unwind_row));
	assert_null(unwind_table_row(t, (uintptr_t)qsort));
	unwind_table_destroy(t);
}

/* ---- expressions ---- */

static uint64_t evaluate(const uint8_t *expr, size_t size, uint64_t pc)
{
	uint64_t regs[UNWIND_REGS] = {[7] = 0x1000, [16] = pc}, value = 0;

	assert_ok(cfi_evaluate(expr, size, regs, 1u << 7 | 1u << 16, &self_reader, NULL, &value));
	return value;
}
#define eval(pc, ...)                                           \
	({                                                      \
		const uint8_t expr_[] = {__VA_ARGS__};          \
		evaluate(expr_, sizeof(expr_), (uint64_t)(pc)); \
	})

static void expressions(void **state)
{
	(void)state;
	/* What linkers write for lazy PLT stubs: 8 more behind the push, at offset 11. */
#define PLT                                                                             \
	DW_OP_breg7, 8, DW_OP_breg16, 0, DW_OP_lit15, DW_OP_and, DW_OP_lit11, DW_OP_ge, \
		DW_OP_lit3, DW_OP_shl, DW_OP_plus
	assert_int_equal(eval(0x400, PLT), 0x1008);
	assert_int_equal(eval(0x406, PLT), 0x1008);
	assert_int_equal(eval(0x40b, PLT), 0x1010);
	assert_int_equal(eval(&seen, DW_OP_const1s, 0xfe, DW_OP_const1u, 3, DW_OP_mul), -6);
	assert_int_equal(eval(0, DW_OP_consts, 0x7f, DW_OP_lit2, DW_OP_div), 0);
	assert_int_equal(eval(0, DW_OP_lit1, DW_OP_lit2, DW_OP_lit3, DW_OP_rot, DW_OP_minus), -1);
	assert_int_equal(eval(0, DW_OP_lit1, DW_OP_lit2, DW_OP_over, DW_OP_pick, 1), 2);
	assert_int_equal(eval(0, DW_OP_lit1, DW_OP_skip, 1, 0, 0xff, DW_OP_neg), -1);
	assert_int_equal(
		eval(0, DW_OP_lit5, DW_OP_lit1, DW_OP_bra, 1, 0, DW_OP_neg, DW_OP_not), ~5);
	uint64_t word = 0x1122334455667788;
	assert_int_equal(eval(&word, DW_OP_breg16, 0, DW_OP_deref), word);
	assert_int_equal(eval(&word, DW_OP_breg16, 1, DW_OP_deref_size, 2), 0x6677);
}

static void assert_bad(const uint8_t *expr, size_t size, const char *why)
{
	uint64_t regs[UNWIND_REGS] = {}, value;

	assert_error(cfi_evaluate(expr, size, regs, 0, &self_reader, NULL, &value),
		SUTURE_ERROR_INPUT, why);
}
#define bad(why, ...)                                  \
	({                                             \
		const uint8_t expr_[] = {__VA_ARGS__}; \
		assert_bad(expr_, sizeof(expr_), why); \
	})

static void bad_expressions(void **state)
{
	(void)state;
	assert_bad(NULL, 0, "underflow");
	bad("underflow", DW_OP_lit1, DW_OP_plus);
	bad("overflow", DW_OP_lit1, DW_OP_dup, DW_OP_skip, 0xfc, 0xff);
	bad("does not end", DW_OP_skip, 0xfd, 0xff);
	bad("branch", DW_OP_skip, 1, 0);
	bad("branch", DW_OP_skip, 0, 0x80);
	bad("truncated", DW_OP_skip, 0);
	bad("truncated", DW_OP_constu, 0x80);
	bad("truncated", DW_OP_const8u, 1);
	bad("division", DW_OP_lit1, DW_OP_lit0, DW_OP_div);
	bad("division", DW_OP_lit1, DW_OP_lit0, DW_OP_mod);
	bad("register", DW_OP_breg7, 0);
	bad("register", DW_OP_bregx, 0xff, 0x7f, 0);
	bad("not supported", DW_OP_call_frame_cfa);
	bad("no 8 bytes", DW_OP_lit1, DW_OP_deref);
	bad("size", DW_OP_lit1, DW_OP_deref_size, 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nested_calls),
		cmocka_unit_test(realigned_frames),
		cmocka_unit_test(callback_from_libc),
		cmocka_unit_test(signal_handler),
		cmocka_unit_test(signal_handler_on_its_own_stack),
		cmocka_unit_test(interrupted_anywhere),
		cmocka_unit_test(threads_end),
		cmocka_unit_test(trampolines_are_known_by_their_code),
		cmocka_unit_test(rows_are_kept_once),
		cmocka_unit_test(bare_sections),
		cmocka_unit_test(expressions),
		cmocka_unit_test(bad_expressions),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
