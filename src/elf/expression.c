/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DWARF expressions, as far as call-frame information has them: PLT stubs compute the CFA from the
 * pc, signal trampolines reach registers through the signal frame, realigned stacks through a saved
 * pointer. A stack machine; DWARF 5, 2.5.1. Steps are limited: a hostile one may branch in circles.
 */
#include <dwarf.h>
#include <string.h>

#include "elf/cfi.h"

enum { DEPTH = 64, STEPS = 4096 };

struct evaluation {
	struct cursor c;
	const uint8_t *start;
	const uint64_t *regs;
	uint32_t valid;
	const struct reader *memory;
	uint64_t stack[DEPTH];
	unsigned n;
	const char *fault;
};

/* The first fault is the one to tell. */
static void fail(struct evaluation *e, const char *fault)
{
	if (!e->fault)
		e->fault = fault;
}

static void push(struct evaluation *e, uint64_t value)
{
	if (e->n == DEPTH)
		fail(e, "stack overflow");
	else
		e->stack[e->n++] = value;
}

static uint64_t pop(struct evaluation *e)
{
	if (e->n == 0) {
		fail(e, "stack underflow");
		return 0;
	}
	return e->stack[--e->n];
}

static void push_entry(struct evaluation *e, unsigned index)
{
	if (index >= e->n)
		fail(e, "stack underflow");
	else
		push(e, e->stack[e->n - 1 - index]);
}

static void push_register(struct evaluation *e, uint64_t reg, int64_t offset)
{
	if (reg >= UNWIND_REGS || !(e->valid >> reg & 1))
		fail(e, "needs a register that is not known");
	else
		push(e, e->regs[reg] + (uint64_t)offset);
}

static struct suture_error *dereference(struct evaluation *e, size_t size)
{
	uint64_t addr = pop(e), value = 0;

	if (size != 1 && size != 2 && size != 4 && size != 8)
		fail(e, "odd size of a dereference");
	if (e->fault)
		return NULL;
	TRY(reader_read(e->memory, addr, &value, size));
	push(e, value);
	return NULL;
}

static uint64_t divide(struct evaluation *e, int64_t a, int64_t b)
{
	if (b == 0) {
		fail(e, "division by zero");
		return 0;
	}
	return b == -1 ? -(uint64_t)a : (uint64_t)(a / b);
}

static uint64_t modulo(struct evaluation *e, uint64_t a, uint64_t b)
{
	if (b == 0) {
		fail(e, "division by zero");
		return 0;
	}
	return a % b;
}

static bool unary(struct evaluation *e, uint8_t op)
{
	uint64_t a;

	switch (op) {
	case DW_OP_abs:
		a = pop(e);
		push(e, (int64_t)a < 0 ? -a : a);
		return true;
	case DW_OP_neg:
		push(e, -pop(e));
		return true;
	case DW_OP_not:
		push(e, ~pop(e));
		return true;
	case DW_OP_plus_uconst:
		a = pop(e);
		push(e, a + cursor_uleb(&e->c));
		return true;
	default:
		return false;
	}
}

/* a op b, b on top. Comparisons are signed (DWARF 5, 2.5.1.5). */
static bool compute(struct evaluation *e, uint8_t op, uint64_t a, uint64_t b, uint64_t *ret)
{
	switch (op) {
	case DW_OP_and:
		*ret = a & b;
		return true;
	case DW_OP_div:
		*ret = divide(e, a, b);
		return true;
	case DW_OP_minus:
		*ret = a - b;
		return true;
	case DW_OP_mod:
		*ret = modulo(e, a, b);
		return true;
	case DW_OP_mul:
		*ret = a * b;
		return true;
	case DW_OP_or:
		*ret = a | b;
		return true;
	case DW_OP_plus:
		*ret = a + b;
		return true;
	case DW_OP_shl:
		*ret = b < 64 ? a << b : 0;
		return true;
	case DW_OP_shr:
		*ret = b < 64 ? a >> b : 0;
		return true;
	case DW_OP_shra:
		*ret = (uint64_t)((int64_t)a >> (b < 64 ? b : 63));
		return true;
	case DW_OP_xor:
		*ret = a ^ b;
		return true;
	case DW_OP_eq:
		*ret = a == b;
		return true;
	case DW_OP_ne:
		*ret = a != b;
		return true;
	case DW_OP_ge:
		*ret = (int64_t)a >= (int64_t)b;
		return true;
	case DW_OP_gt:
		*ret = (int64_t)a > (int64_t)b;
		return true;
	case DW_OP_le:
		*ret = (int64_t)a <= (int64_t)b;
		return true;
	case DW_OP_lt:
		*ret = (int64_t)a < (int64_t)b;
		return true;
	default:
		return false;
	}
}

static bool is_binary(uint8_t op)
{
	return op == DW_OP_and || op == DW_OP_div || op == DW_OP_minus || op == DW_OP_mod ||
	       op == DW_OP_mul || op == DW_OP_or || op == DW_OP_plus ||
	       (op >= DW_OP_shl && op <= DW_OP_xor) || (op >= DW_OP_eq && op <= DW_OP_ne);
}

static bool binary(struct evaluation *e, uint8_t op)
{
	uint64_t value = 0;

	if (!is_binary(op))
		return false;
	uint64_t b = pop(e), a = pop(e);
	if (!compute(e, op, a, b, &value))
		return false;
	push(e, value);
	return true;
}

static bool constant(struct evaluation *e, uint8_t op)
{
	switch (op) {
	case DW_OP_lit0 ... DW_OP_lit31:
		push(e, op - DW_OP_lit0);
		return true;
	case DW_OP_addr:
	case DW_OP_const8u:
	case DW_OP_const8s:
		push(e, cursor_fixed(&e->c, 8));
		return true;
	case DW_OP_const1u:
		push(e, cursor_fixed(&e->c, 1));
		return true;
	case DW_OP_const1s:
		push(e, cursor_signed(&e->c, 1));
		return true;
	case DW_OP_const2u:
		push(e, cursor_fixed(&e->c, 2));
		return true;
	case DW_OP_const2s:
		push(e, cursor_signed(&e->c, 2));
		return true;
	case DW_OP_const4u:
		push(e, cursor_fixed(&e->c, 4));
		return true;
	case DW_OP_const4s:
		push(e, cursor_signed(&e->c, 4));
		return true;
	case DW_OP_constu:
		push(e, cursor_uleb(&e->c));
		return true;
	case DW_OP_consts:
		push(e, cursor_sleb(&e->c));
		return true;
	default:
		return false;
	}
}

static void swap(struct evaluation *e)
{
	uint64_t a = pop(e), b = pop(e);

	push(e, a);
	push(e, b);
}

/* The top entry becomes the third. */
static void rotate(struct evaluation *e)
{
	uint64_t a = pop(e), b = pop(e), c = pop(e);

	push(e, a);
	push(e, c);
	push(e, b);
}

static bool shuffle(struct evaluation *e, uint8_t op)
{
	switch (op) {
	case DW_OP_dup:
		push_entry(e, 0);
		return true;
	case DW_OP_over:
		push_entry(e, 1);
		return true;
	case DW_OP_pick:
		push_entry(e, cursor_fixed(&e->c, 1));
		return true;
	case DW_OP_drop:
		pop(e);
		return true;
	case DW_OP_swap:
		swap(e);
		return true;
	case DW_OP_rot:
		rotate(e);
		return true;
	default:
		return false;
	}
}

static void jump(struct evaluation *e, bool taken)
{
	int64_t distance = cursor_signed(&e->c, 2);

	if (e->c.bad || !taken)
		return;
	if (distance < e->start - e->c.at || distance > e->c.end - e->c.at)
		fail(e, "branch out of it");
	else
		e->c.at += distance;
}

static struct suture_error *step(struct evaluation *e, uint8_t op)
{
	uint64_t reg;

	if (constant(e, op) || shuffle(e, op) || unary(e, op) || binary(e, op))
		return NULL;
	switch (op) {
	case DW_OP_breg0 ... DW_OP_breg31:
		push_register(e, op - DW_OP_breg0, cursor_sleb(&e->c));
		return NULL;
	case DW_OP_bregx:
		reg = cursor_uleb(&e->c);
		push_register(e, reg, cursor_sleb(&e->c));
		return NULL;
	case DW_OP_deref:
		return dereference(e, 8);
	case DW_OP_deref_size:
		return dereference(e, cursor_fixed(&e->c, 1));
	case DW_OP_skip:
		jump(e, true);
		return NULL;
	case DW_OP_bra:
		jump(e, pop(e) != 0);
		return NULL;
	case DW_OP_nop:
		return NULL;
	default:
		fail(e, "operation not supported");
		return NULL;
	}
}

struct suture_error *cfi_evaluate(const uint8_t *expr, size_t size,
	const uint64_t regs[UNWIND_REGS], uint32_t valid, const struct reader *memory,
	const uint64_t *initial, uint64_t *ret)
{
	struct evaluation e = {
		.c = {.at = expr, .end = expr + size},
		.start = expr,
		.regs = regs,
		.valid = valid,
		.memory = memory,
	};

	if (initial)
		push(&e, *initial);
	for (unsigned i = 0; e.c.at < e.c.end && !e.fault && !e.c.bad; i++) {
		if (i == STEPS)
			fail(&e, "does not end");
		else
			TRY(step(&e, cursor_fixed(&e.c, 1)));
	}
	if (e.c.bad)
		e.fault = "truncated"; /* whatever came of it */
	uint64_t value = pop(&e);
	if (e.fault)
		return error_create(SUTURE_ERROR_INPUT, "call-frame expression: %s", e.fault);
	*ret = value;
	return NULL;
}
