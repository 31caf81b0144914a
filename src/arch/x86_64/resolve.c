/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stub that stands for an IFUNC whose choice nobody recorded: its first caller asks the resolver,
 * in the program's own thread as ld.so's lazy binding does, and every later one jumps straight on.
 *
 * The caller's arguments may be in any register, and with -fipa-ra or a vector calling convention
 * it may rely on others too: general registers, flags and the x87, SSE, AVX and AVX-512 state are
 * saved around the resolver (xsave with the state components that the kernel has enabled, fxsave on
 * processors without it). The processor that we run on is the one that the target runs on.
 */
#include <cpuid.h>
#include <string.h>

#include "arch/x86_64/x86_64.h"

/* State components (Intel SDM volume 1, 13.1): x87, SSE, AVX, opmask, ZMM_Hi256, Hi16_ZMM. */
#define XSAVE_MASK   0xe7u
#define FXSAVE_SIZE  512u
#define XSAVE_HEADER 64u

struct code {
	uint8_t *buf;
	uint64_t at; /* address of buf[0] */
	uint32_t n;
	bool bad;
};

static void emit(struct code *c, const void *bytes, size_t n)
{
	if (c->n + n > X86_64_RESOLVE_SIZE) {
		c->bad = true;
		return;
	}
	memcpy(c->buf + c->n, bytes, n);
	c->n += n;
}

#define EMIT(c, ...)                                    \
	do {                                            \
		const uint8_t bytes_[] = {__VA_ARGS__}; \
		emit(c, bytes_, sizeof(bytes_));        \
	} while (0)

static void emit_u32(struct code *c, uint32_t value)
{
	emit(c, &value, sizeof(value));
}

/* The 32-bit displacement that ends an instruction. */
static void emit_rel32(struct code *c, uint64_t target)
{
	uint64_t delta = target - (c->at + c->n + 4);

	if ((int64_t)delta != (int32_t)delta)
		c->bad = true;
	emit_u32(c, (uint32_t)delta);
}

static uint64_t xcr0(void)
{
	uint32_t low, high;

	__asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	return (uint64_t)high << 32 | low;
}

/* The components to save and the size of the area; mask 0: no xsave. */
static void state_area(uint32_t *ret_mask, uint32_t *ret_size)
{
	uint32_t a, b, c, d, mask;

	*ret_mask = 0;
	*ret_size = FXSAVE_SIZE;
	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
		return;
	mask = xcr0() & XSAVE_MASK;
	*ret_size = FXSAVE_SIZE + XSAVE_HEADER;
	for (unsigned i = 2; i < 8; i++) {
		if (!(mask & 1u << i))
			continue;
		__cpuid_count(0xd, i, a, b, c, d);
		if (a + b > *ret_size)
			*ret_size = a + b;
	}
	*ret_mask = mask;
}

static void emit_save(struct code *c, uint32_t mask)
{
	if (!mask) {
		EMIT(c, 0x48, 0x0f, 0xae, 0x04, 0x24); /* fxsave64 (%rsp) */
		return;
	}
	EMIT(c, 0x31, 0xc0); /* xor %eax,%eax: xsave wants a header of zeroes */
	for (uint32_t at = FXSAVE_SIZE; at < FXSAVE_SIZE + XSAVE_HEADER; at += 8) {
		EMIT(c, 0x48, 0x89, 0x84, 0x24); /* mov %rax,at(%rsp) */
		emit_u32(c, at);
	}
	EMIT(c, 0xb8); /* mov $mask,%eax */
	emit_u32(c, mask);
	EMIT(c, 0x31, 0xd2);		       /* xor %edx,%edx */
	EMIT(c, 0x48, 0x0f, 0xae, 0x24, 0x24); /* xsave64 (%rsp) */
}

static void emit_restore(struct code *c, uint32_t mask)
{
	if (!mask) {
		EMIT(c, 0x48, 0x0f, 0xae, 0x0c, 0x24); /* fxrstor64 (%rsp) */
		return;
	}
	EMIT(c, 0xb8);
	emit_u32(c, mask);
	EMIT(c, 0x31, 0xd2);
	EMIT(c, 0x48, 0x0f, 0xae, 0x2c, 0x24); /* xrstor64 (%rsp) */
}

uint64_t x86_64_resolve_encode(uint8_t *buf, uint64_t at, uint64_t slot, uint64_t resolver)
{
	struct code c = {.buf = buf, .at = at};
	uint32_t mask, size;

	state_area(&mask, &size);
	size = (size + 63) & ~63u;
	memset(buf, 0xcc, X86_64_RESOLVE_SIZE);
	EMIT(&c, 0xff, 0x25); /* jmp *slot(%rip) */
	emit_rel32(&c, slot);

	uint64_t first = at + c.n;
	EMIT(&c, 0x9c);				/* pushf */
	EMIT(&c, 0x50, 0x51, 0x52, 0x56, 0x57); /* push %rax %rcx %rdx %rsi %rdi */
	EMIT(&c, 0x41, 0x50, 0x41, 0x51, 0x41, 0x52, 0x41, 0x53); /* push %r8 %r9 %r10 %r11 */
	EMIT(&c, 0x55, 0x48, 0x89, 0xe5);			  /* push %rbp; mov %rsp,%rbp */
	EMIT(&c, 0x48, 0x83, 0xe4, 0xc0);			  /* and $-64,%rsp */
	EMIT(&c, 0x48, 0x81, 0xec);				  /* sub $size,%rsp */
	emit_u32(&c, size);
	EMIT(&c, 0xfc); /* cld: the psABI's state at entry of a function */
	emit_save(&c, mask);
	EMIT(&c, 0x48, 0xb8); /* movabs $resolver,%rax */
	emit(&c, &resolver, sizeof(resolver));
	EMIT(&c, 0xff, 0xd0);	    /* call *%rax */
	EMIT(&c, 0x48, 0x89, 0x05); /* mov %rax,slot(%rip) */
	emit_rel32(&c, slot);
	emit_restore(&c, mask);
	EMIT(&c, 0x48, 0x89, 0xec, 0x5d);			  /* mov %rbp,%rsp; pop %rbp */
	EMIT(&c, 0x41, 0x5b, 0x41, 0x5a, 0x41, 0x59, 0x41, 0x58); /* pop %r11 %r10 %r9 %r8 */
	EMIT(&c, 0x5f, 0x5e, 0x5a, 0x59, 0x58);			  /* pop %rdi %rsi %rdx %rcx %rax */
	EMIT(&c, 0x9d, 0xff, 0x25);				  /* popf; jmp *slot(%rip) */
	emit_rel32(&c, slot);
	return c.bad ? 0 : first;
}
