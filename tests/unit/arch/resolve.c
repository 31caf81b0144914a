/* SPDX-License-Identifier: Apache-2.0 */
/* The stub for an unresolved IFUNC, executed: asks once, and no register notices. */
#include <immintrin.h>
#include <sys/mman.h>

#include "../unit.h"
#include "arch/arch.h"

static int asked;

static double implementation(double a, int b, double c, int d)
{
	return a * 1000 + b * 100 + c * 10 + d;
}

/* Leaves nothing as it was that a function may change. */
static void *resolver(void)
{
	asked++;
	__asm__ volatile("pxor %%xmm0,%%xmm0; pxor %%xmm1,%%xmm1; pxor %%xmm7,%%xmm7;"
			 "xor %%edi,%%edi; xor %%esi,%%esi; xor %%edx,%%edx; xor %%ecx,%%ecx;"
			 "xor %%r8d,%%r8d; xor %%r9d,%%r9d; xor %%r10d,%%r10d; xor %%r11d,%%r11d;"
			 "xor %%eax,%%eax; fninit" ::
				 : "xmm0", "xmm1", "xmm7", "rdi", "rsi", "rdx", "rcx", "r8", "r9",
			 "r10", "r11", "rax");
	return (void *)implementation;
}

static uint8_t *make_stub(uint64_t **ret_slot)
{
	const struct arch *arch = &arch_x86_64;
	uint8_t *page =
		mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t *slot = (uint64_t *)(page + 4096);

	assert_ptr_not_equal(page, MAP_FAILED);
	*slot = arch->resolve_encode(page, (uintptr_t)page, (uintptr_t)slot, (uintptr_t)resolver);
	assert_true(*slot > (uintptr_t)page && *slot < (uintptr_t)page + arch->resolve_size);
	assert_int_equal(mprotect(page, 4096, PROT_READ | PROT_EXEC), 0);
	*ret_slot = slot;
	return page;
}

static void asks_once(void **state)
{
	(void)state;
	uint64_t *slot;
	double (*f)(double, int, double, int) = (void *)make_stub(&slot);

	asked = 0;
	assert_true(f(1, 2, 3, 4) == 1234);
	assert_int_equal(asked, 1);
	assert_int_equal(*slot, (uintptr_t)implementation);
	assert_true(f(5, 6, 7, 8) == 5678);
	assert_int_equal(asked, 1);
	munmap((void *)f, 8192);
}

__attribute__((used)) static uint64_t seen[11];

/* Notes every register that a caller might pass something in. */
__attribute__((naked)) static void note(void)
{
	__asm__("mov %rax, seen(%rip); mov %rcx, seen+8(%rip); mov %rdx, seen+16(%rip);"
		"mov %rsi, seen+24(%rip); mov %rdi, seen+32(%rip); mov %r8, seen+40(%rip);"
		"mov %r9, seen+48(%rip); mov %r10, seen+56(%rip); mov %r11, seen+64(%rip);"
		"pushf; popq seen+72(%rip); mov %rsp, seen+80(%rip); ret");
}

static void *resolve_note(void)
{
	resolver();
	return (void *)note;
}

static void keeps_general_registers_and_flags(void **state)
{
	(void)state;
	uint64_t *slot, sp;
	uint8_t *stub = make_stub(&slot);

	mprotect(stub, 4096, PROT_READ | PROT_WRITE);
	*slot = arch_x86_64.resolve_encode(
		stub, (uintptr_t)stub, (uintptr_t)slot, (uintptr_t)resolve_note);
	mprotect(stub, 4096, PROT_READ | PROT_EXEC);
	__asm__ volatile("mov %1, %%rbx; sub $128, %%rsp;" /* past our own red zone */
			 "mov $1,%%eax; mov $2,%%ecx; mov $3,%%edx; mov $4,%%esi; mov $5,%%edi;"
			 "mov $6,%%r8d; mov $7,%%r9d; mov $8,%%r10d; mov $9,%%r11d; stc;"
			 "call *%%rbx; mov %%rsp, %0; add $128, %%rsp"
			 : "=&r"(sp)
			 : "r"(stub)
			 : "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "cc",
			 "memory");
	for (uint64_t i = 0; i < 9; i++)
		assert_int_equal(seen[i], i + 1);
	assert_int_equal(seen[9] & 1, 1); /* carry */
	assert_int_equal(seen[10], sp - 8);
	munmap(stub, 8192);
}

/* Vector arguments are wider than what plain C code saves. */
__attribute__((target("avx"))) static void keeps_wide_vectors(void **state)
{
	(void)state;
	uint64_t *slot;
	uint8_t *stub = make_stub(&slot);
	float in[8] = {1, 2, 3, 4, 5, 6, 7, 8}, out[8] = {};

	if (!__builtin_cpu_supports("avx"))
		skip();
	asked = 0;
	__asm__ volatile("vmovups (%1), %%ymm7; vmovups (%1), %%ymm13; sub $128, %%rsp;"
			 "call *%2; add $128, %%rsp; vaddps %%ymm7, %%ymm13, %%ymm7;"
			 "vmovups %%ymm7, (%0)"
			 :
			 : "r"(out), "r"(in), "r"(stub)
			 : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm13",
			 "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory",
			 "cc");
	assert_int_equal(asked, 1);
	for (int i = 0; i < 8; i++)
		assert_true(out[i] == 2 * in[i]);
	munmap(stub, 8192);
}

static void out_of_reach(void **state)
{
	(void)state;
	uint8_t buf[256];

	assert_int_equal(arch_x86_64.resolve_encode(buf, 0x1000, 0x1000 + (3ULL << 31), 0x2000), 0);
	assert_int_not_equal(arch_x86_64.resolve_encode(buf, 0x1000, 0x3000, 0x2000), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(asks_once),
		cmocka_unit_test(keeps_general_registers_and_flags),
		cmocka_unit_test(keeps_wide_vectors),
		cmocka_unit_test(out_of_reach),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
