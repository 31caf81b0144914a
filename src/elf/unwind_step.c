/* SPDX-License-Identifier: Apache-2.0 */
/* One frame outwards by a row's rules: see module.h. */
#include <string.h>

#include "elf/cfi.h"

enum { RSP = 7, PC = 16 };

static struct suture_error *find_cfa(const struct unwind_row *row, const struct reader *stack,
	const uint64_t *regs, uint32_t valid, uint64_t *ret)
{
	if (row->cfa_is_expr)
		return cfi_evaluate(
			row->cfa_expr, row->cfa_expr_size, regs, valid, stack, NULL, ret);
	if (!(valid >> row->cfa_reg & 1))
		return error_create(SUTURE_ERROR_INPUT,
			"the frame is based on register %u, which is not known", row->cfa_reg);
	*ret = regs[row->cfa_reg] + (uint64_t)row->cfa_offset;
	return NULL;
}

struct step {
	const struct reader *stack;
	const uint64_t *regs; /* before */
	uint32_t valid;
	uint64_t cfa;
};

static struct suture_error *by_expression(
	const struct step *s, const struct unwind_rule *rule, uint64_t *ret)
{
	TRY(cfi_evaluate(rule->expr, rule->expr_size, s->regs, s->valid, s->stack, &s->cfa, ret));
	if (rule->expr_is_value)
		return NULL;
	return reader_read(s->stack, *ret, ret, sizeof(*ret));
}

/* The caller's value of one register; *known false: it is lost. */
static struct suture_error *apply_rule(const struct step *s, unsigned reg,
	const struct unwind_rule *rule, uint64_t *ret, bool *known)
{
	*known = true;
	switch (rule->kind) {
	case UNWIND_SAME:
		*known = s->valid >> reg & 1;
		*ret = s->regs[reg];
		return NULL;
	case UNWIND_AT_CFA:
		return reader_read(s->stack, s->cfa + (uint64_t)rule->value, ret, sizeof(*ret));
	case UNWIND_CFA:
		*ret = s->cfa + (uint64_t)rule->value;
		return NULL;
	case UNWIND_REGISTER:
		*known = rule->value >= 0 && rule->value < UNWIND_REGS &&
			 (s->valid >> rule->value & 1);
		if (*known)
			*ret = s->regs[rule->value];
		return NULL;
	case UNWIND_EXPRESSION:
		return by_expression(s, rule, ret);
	case UNWIND_UNDEFINED:
		break;
	}
	*known = false;
	return NULL;
}

struct suture_error *unwind_step(const struct unwind_row *row, const struct reader *stack,
	uint64_t regs[UNWIND_REGS], uint32_t *valid, bool *outermost)
{
	struct step s = {.stack = stack, .regs = regs, .valid = *valid};
	uint64_t caller[UNWIND_REGS] = {};
	uint32_t caller_valid = 0;
	bool known;

	if (row->regs[PC].kind == UNWIND_UNDEFINED) {
		*outermost = true;
		return NULL;
	}
	/* Nothing said where the return address is: that is no frame. */
	if (row->regs[PC].kind == UNWIND_SAME)
		return error_create(SUTURE_ERROR_INPUT, "no rule for the return address");
	TRY(find_cfa(row, stack, regs, *valid, &s.cfa));
	for (unsigned reg = 0; reg < UNWIND_REGS; reg++) {
		TRY(apply_rule(&s, reg, &row->regs[reg], &caller[reg], &known));
		if (known)
			caller_valid |= 1u << reg;
	}
	if (!(caller_valid >> PC & 1))
		return error_create(SUTURE_ERROR_INPUT, "the return address is not known");
	*outermost = caller[PC] == 0;
	if (*outermost)
		return NULL;
	memcpy(regs, caller, sizeof(caller));
	*valid = caller_valid;
	return NULL;
}

/* ---- signal trampolines ---- */

/*
 * Linux pushes the frame so that rsp points at the ucontext when the trampoline runs; uc_mcontext
 * is at 40, its gregs in the order of REG_* of <sys/ucontext.h>. DW_OP_breg7 takes a signed LEB128:
 * two bytes for every offset from 64 on.
 */
#define AT_RSP(offset) 0x77, ((offset)&0x7f) | 0x80, (offset) >> 7
#define GREG(reg, n)                                             \
	[reg] = {                                                \
		.kind = UNWIND_EXPRESSION,                       \
		.expr = (const uint8_t[]){AT_RSP(40 + 8 * (n))}, \
		.expr_size = 3,                                  \
	}

static const struct unwind_row sigreturn_row = {
	.cfa_is_expr = true,
	.cfa_expr = (const uint8_t[]){AT_RSP(40 + 8 * 15), 0x06 /* DW_OP_deref */},
	.cfa_expr_size = 4,
	.signal_frame = true,
	.regs = {GREG(8, 0), GREG(9, 1), GREG(10, 2), GREG(11, 3), GREG(12, 4), GREG(13, 5),
		GREG(14, 6), GREG(15, 7), GREG(5, 8), GREG(4, 9), GREG(6, 10), GREG(3, 11),
		GREG(1, 12), GREG(0, 13), GREG(2, 14), GREG(RSP, 15), GREG(PC, 16)},
};

const struct unwind_row *unwind_sigreturn_row(const struct reader *reader, remote_addr pc)
{
	static const uint8_t code[] = {0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05};
	uint8_t have[sizeof(code)];

	struct suture_error *err = reader_read(reader, pc, have, sizeof(have));
	bool same = !err && memcmp(have, code, sizeof(code)) == 0;
	suture_error_destroy(err);
	return same ? &sigreturn_row : NULL;
}
