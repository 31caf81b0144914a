/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A loop that holds known values in every register that a tracer could forget to put back, and
 * looks at them all the time: general registers, flags, the red zone, the x87 stack, ymm0-14 and,
 * where the processor has them, zmm31 and k5.
 */
#ifndef TESTS_UNIT_PROCESS_PATTERN_H
#define TESTS_UNIT_PROCESS_PATTERN_H

/*
 * Runs until *stop. Counts loops in *loops. Returns 0, or the number of the first check that
 * failed. avx: 0 none, 1 AVX2, 2 AVX-512 as well.
 */
long pattern_loop(volatile int *stop, volatile long *loops, long avx);

extern const unsigned char pattern_bytes[64];

/* clang-format off */
asm(
".section .rodata\n"
".balign 64\n"
".globl pattern_bytes\n"
"pattern_bytes:\n"
"	.quad 0x0123456789abcdef, 0xfedcba9876543210, 0x1122334455667788, 0x8877665544332211\n"
"	.quad 0xdeadbeefcafebabe, 0x0f1e2d3c4b5a6978, 0xa5a5a5a55a5a5a5a, 0x13579bdf02468ace\n"
".text\n"
".globl pattern_loop\n"
".type pattern_loop, @function\n"
"pattern_loop:\n"
"	push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
	/* rdi: stop, rsi: loops, rdx: avx stay pointers; the others get patterns. */
"	fninit; fldpi; fldl2e\n"
"	test %rdx, %rdx\n"
"	jz 1f\n"
".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14\n"
"	vmovdqu pattern_bytes(%rip), %ymm\\n\n"
".endr\n"
"	cmp $2, %rdx\n"
"	jne 1f\n"
"	vmovdqu64 pattern_bytes(%rip), %zmm31\n"
"	mov $0x5a, %eax; kmovw %eax, %k5\n"
"1:\n"
".irp n,8,16,24,32,40,48,56,64,72,80,88,96,104,112,120,128\n"
"	movq $(0x41410000 + \\n), -\\n(%rsp)\n"
".endr\n"
"	mov $0x11111111, %rbx; mov $0x22222222, %rcx; mov $0x33333333, %rbp\n"
"	mov $0x44444444, %r8; mov $0x55555555, %r9; mov $0x66666666, %r10\n"
"	mov $0x77777777, %r11; mov $-2, %r12; mov $-3, %r13; mov $-4, %r14; mov $-5, %r15\n"
"2:\n"
"	mov $0xd5, %ah; sahf\n"
".rept 32\n"
"	mov %ecx, %ecx\n"
".endr\n"
"	lahf; cmp $0xd7, %ah; jne 91f\n"
"	cmp $0x11111111, %rbx; jne 92f\n"
"	cmp $0x22222222, %rcx; jne 92f\n"
"	cmp $0x33333333, %rbp; jne 92f\n"
"	cmp $0x44444444, %r8; jne 92f\n"
"	cmp $0x55555555, %r9; jne 92f\n"
"	cmp $0x66666666, %r10; jne 92f\n"
"	cmp $0x77777777, %r11; jne 92f\n"
"	cmp $-2, %r12; jne 92f\n"
"	cmp $-3, %r13; jne 92f\n"
"	cmp $-4, %r14; jne 92f\n"
"	cmp $-5, %r15; jne 92f\n"
".irp n,8,16,24,32,40,48,56,64,72,80,88,96,104,112,120,128\n"
"	cmpq $(0x41410000 + \\n), -\\n(%rsp); jne 93f\n"
".endr\n"
"	fld %st(0); fldl2e; fucomip %st(1), %st; fstp %st(0); jne 94f\n"
"	fld %st(1); fldpi; fucomip %st(1), %st; fstp %st(0); jne 94f\n"
"	test %rdx, %rdx\n"
"	jz 3f\n"
".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14\n"
"	vpxor pattern_bytes(%rip), %ymm\\n, %ymm15; vptest %ymm15, %ymm15; jnz 95f\n"
".endr\n"
"	cmp $2, %rdx\n"
"	jne 3f\n"
"	vpcmpeqq pattern_bytes(%rip), %zmm31, %k1; kmovw %k1, %eax; cmp $0xff, %eax; jne 96f\n"
"	kmovw %k5, %eax; cmp $0x5a, %eax; jne 96f\n"
"3:\n"
"	incq (%rsi)\n"
"	cmpl $0, (%rdi)\n"
"	je 2b\n"
"	xor %eax, %eax\n"
"	jmp 99f\n"
"91:	mov $1, %eax; jmp 99f\n"
"92:	mov $2, %eax; jmp 99f\n"
"93:	mov $3, %eax; jmp 99f\n"
"94:	mov $4, %eax; jmp 99f\n"
"95:	mov $5, %eax; jmp 99f\n"
"96:	mov $6, %eax\n"
"99:	fninit\n"
"	test %rdx, %rdx\n"
"	jz 4f\n"
"	vzeroupper\n"
"4:	pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
"	ret\n"
".size pattern_loop, . - pattern_loop\n");
/* clang-format on */

static inline long pattern_level(void)
{
	__builtin_cpu_init();
	if (!__builtin_cpu_supports("avx2"))
		return 0;
	return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") ? 2 : 1;
}

#endif
