/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a call costs: a line of input is answered by a line of figures, in picoseconds per call.
 *
 *     plain PS jump PS value V
 *
 * plain: work(), the function that gets patched. jump: the same work, far away, reached over one
 * direct jump that the assembler put there: what a detour is expected to cost, on this machine,
 * now. (A jump within the page may cost nothing.) value is what work(0) gives.
 *
 * Both loops run by turns in short batches and the quickest batch counts: whatever else the
 * machine does only ever adds.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "victim.h"

enum { CALLS = 20000 };

/* Two of the same, neither better aligned. */
#define WORK __attribute__((noipa, aligned(64)))

WORK static uint64_t work(uint64_t x)
{
	return x * 3 + 1; /* patched */
}

/* The linker is told to place this section far from the others: --section-start. */
WORK __attribute__((section(".far"))) uint64_t same_work(uint64_t x);
uint64_t same_work(uint64_t x)
{
	return x * 3 + 1;
}

uint64_t jump(uint64_t x);
__asm__(".text\n\t.balign 64\n\t.globl jump\n\t.type jump, @function\n"
	"jump:\n\tjmp same_work\n\t.size jump, . - jump\n");

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* One loop for both, so that both are called by the same instruction sequence. */
#define BATCH(name, callee)                                               \
	__attribute__((noinline, aligned(64))) static uint64_t name(void) \
	{                                                                 \
		uint64_t start = now(), x = 0;                            \
                                                                          \
		for (int i = 0; i < CALLS; i++)                           \
			x = callee(x);                                    \
		__asm__ volatile("" ::"r"(x));                            \
		return now() - start;                                     \
	}

BATCH(batch_plain, work)
BATCH(batch_jump, jump)

static void keep_least(uint64_t *least, uint64_t ns)
{
	if (ns < *least)
		*least = ns;
}

static void answer(const char *line)
{
	int batches = atoi(line);
	uint64_t plain = UINT64_MAX, jumped = UINT64_MAX;

	for (int i = 0; i < batches; i++) {
		keep_least(&plain, batch_plain());
		keep_least(&jumped, batch_jump());
	}
	printf("plain %lu jump %lu value %lu", plain * 1000 / CALLS, jumped * 1000 / CALLS,
		work(0));
}

int main(void)
{
	return victim_serve(answer);
}
