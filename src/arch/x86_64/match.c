/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Is this linked instruction that one of the object file? Equal bytes outside of relocated fields,
 * or one of the rewritings that linkers are allowed (psABI: "GOTPCRELX", ELF TLS ABI: GD, LD, IE
 * and descriptors to LE or IE), or a branch in its short form.
 */
#include <elf.h>
#include <string.h>

#include "arch/x86_64/x86_64.h"

/* ---- fields ---- */

static int64_t load_signed(const uint8_t *p, size_t size)
{
	int8_t v8;
	int32_t v32;
	int64_t v64;

	switch (size) {
	case 1:
		memcpy(&v8, p, 1);
		return v8;
	case 4:
		memcpy(&v32, p, 4);
		return v32;
	case 8:
		memcpy(&v64, p, 8);
		return v64;
	default:
		return 0;
	}
}

static bool form_of(uint32_t type, enum code_form *ret)
{
	switch (x86_64_reloc_need(type)) {
	case RELOC_NEED_VALUE:
	case RELOC_NEED_PLT:
		*ret = CODE_ADDRESS;
		return true;
	case RELOC_NEED_GOT:
		*ret = CODE_GOT;
		return true;
	case RELOC_NEED_TPOFF:
		*ret = CODE_TPOFF;
		return true;
	case RELOC_NEED_GOT_TPOFF:
		*ret = CODE_GOT_TPOFF;
		return true;
	case RELOC_NEED_GOT_TLSGD:
		*ret = CODE_GOT_TLSGD;
		return true;
	case RELOC_NEED_GOT_TLSLD:
		*ret = CODE_GOT_TLSLD;
		return true;
	case RELOC_NEED_DTPOFF:
		*ret = CODE_DTPOFF;
		return true;
	case RELOC_NEED_TLSDESC:
		*ret = CODE_TLSDESC;
		return true;
	case RELOC_NEED_NOTHING:
		*ret = CODE_NOTHING;
		return true;
	case RELOC_UNSUPPORTED:
		break;
	}
	return false;
}

static bool add_value(struct code_step *step, size_t field, enum code_form form, uint64_t value)
{
	if (step->n_values == sizeof(step->values) / sizeof(step->values[0]))
		return false;
	step->values[step->n_values++] = (struct code_value){field, form, value};
	return true;
}

static bool finish(struct code_step *step, size_t pre, size_t run)
{
	step->pre_length = pre;
	step->run_length = run;
	return pre <= step->pre_size && run <= step->run_size;
}

/* Fields that begin before `length`. */
static size_t fields_within(const struct code_step *step, size_t length)
{
	size_t n = 0;

	while (n < step->n_fields && step->fields[n].offset < length)
		n++;
	return n;
}

/* ---- the same instruction ---- */

static bool same_outside_fields(const struct code_step *step, size_t length, size_t n)
{
	size_t at = 0;

	for (size_t i = 0; i < n; i++) {
		size_t end = step->fields[i].offset + x86_64_reloc_size(step->fields[i].type);

		if (end > length || step->fields[i].offset < at ||
			memcmp(step->pre + at, step->run + at, step->fields[i].offset - at))
			return false;
		at = end;
	}
	return !memcmp(step->pre + at, step->run + at, length - at);
}

static bool solve_field(struct code_step *step, const struct insn *run, size_t i)
{
	const struct code_field *field = &step->fields[i];
	size_t size = x86_64_reloc_size(field->type);
	bool relative = run->rel_size && field->offset == run->rel_at;
	enum code_form form;

	if (!form_of(field->type, &form) || x86_64_reloc_is_pcrel(field->type) != relative)
		return false;
	uint64_t value = load_signed(step->run + field->offset, size);
	if (field->type == R_X86_64_32)
		value = (uint32_t)value;
	if (relative)
		value += step->run_address + run->length;
	return add_value(step, i, form, value);
}

static bool match_same(
	struct code_step *step, const struct insn *pre, const struct insn *run, size_t n)
{
	if (pre->length != run->length || !same_outside_fields(step, pre->length, n))
		return false;
	for (size_t i = 0; i < n; i++)
		if (!solve_field(step, run, i))
			return false;
	return finish(step, pre->length, run->length);
}

/* ---- branches ---- */

/* 0xe9 and 0xeb: jmp; 0x0f 0x8x and 0x7x: conditional. -1: something else. */
static int jump_kind(const uint8_t *code, const struct insn *insn)
{
	if (code[0] == 0xe9 || code[0] == 0xeb)
		return 0x100;
	if (insn->length == 2 && (code[0] & 0xf0) == 0x70)
		return code[0] & 0x0f;
	if (insn->length == 6 && code[0] == 0x0f && (code[1] & 0xf0) == 0x80)
		return code[1] & 0x0f;
	return -1;
}

static bool same_branch(
	const struct code_step *step, const struct insn *pre, const struct insn *run)
{
	if (pre->length == run->length && pre->rel_at == run->rel_at &&
		pre->rel_size == run->rel_size) {
		size_t end = pre->rel_at + pre->rel_size;

		return !memcmp(step->pre, step->run, pre->rel_at) &&
		       !memcmp(step->pre + end, step->run + end, pre->length - end);
	}
	int kind = jump_kind(step->pre, pre);
	return pre->has_target && run->has_target && kind >= 0 && kind == jump_kind(step->run, run);
}

/* Without relocation: inside the function, the caller compares where both go. */
static bool match_plain(struct code_step *step, const struct insn *pre, const struct insn *run)
{
	if (!pre->rel_size || !run->rel_size)
		return pre->length == run->length && !memcmp(step->pre, step->run, pre->length) &&
		       finish(step, pre->length, run->length);
	if (!same_branch(step, pre, run))
		return false;
	step->has_target = true;
	step->pre_target = pre->has_target ? pre->target : pre->pcrel;
	step->run_target = run->has_target ? run->target : run->pcrel;
	return finish(step, pre->length, run->length);
}

/* A relocated branch that the assembler of the target saw within one section. */
static bool match_short_branch(
	struct code_step *step, const struct insn *pre, const struct insn *run)
{
	uint32_t type = step->fields[0].type;

	if ((type != R_X86_64_PLT32 && type != R_X86_64_PC32) || !pre->has_target ||
		!same_branch(step, pre, run))
		return false;
	return add_value(step, 0, CODE_ADDRESS, run->target) &&
	       finish(step, pre->length, run->length);
}

/* ---- GOT references that became direct (psABI B.2, "Optimize GOTPCRELX Relocations") ---- */

/* op foo@GOTPCREL(%rip), %reg; `at` is where its opcode sits, behind an optional REX. */
static bool match_got_operand(
	struct code_step *step, const struct insn *pre, const struct insn *run, size_t at)
{
	const uint8_t *p = step->pre, *r = step->run;
	uint8_t reg = (p[at + 1] >> 3) & 7, op = p[at], modrm, opcode;

	if (pre->length != at + 6 || run->length < at + 6 || step->fields[0].offset != at + 2)
		return false;
	/* mov -> lea, the same length and prefix */
	if (op == 0x8b && run->length == at + 6 && !memcmp(p, r, at) && r[at] == 0x8d &&
		r[at + 1] == p[at + 1])
		return add_value(step, 0, CODE_ADDRESS, run->pcrel) &&
		       finish(step, pre->length, run->length);
	/* The register moves from reg to r/m: REX.R to REX.B. */
	if (at == 1 && (r[0] & 0xf8) != 0x48 && (r[0] & 0xf8) != 0x40)
		return false;
	if (at == 1 &&
		(!!(p[0] & 4) != !!(r[0] & 1) || (r[0] & 4) || ((p[0] ^ r[0]) & 8 && op != 0x8b)))
		return false;
	if (op == 0x8b) {
		opcode = 0xc7;
		modrm = 0xc0 | reg;
	} else if (op == 0x85) {
		opcode = 0xf7;
		modrm = 0xc0 | reg;
	} else if ((op & 0xc7) == 0x03) {
		opcode = 0x81;
		modrm = 0xc0 | (op & 0x38) | reg;
	} else {
		return false;
	}
	if (run->length != at + 6 || r[at] != opcode || r[at + 1] != modrm)
		return false;
	uint64_t value = load_signed(r + at + 2, 4);
	if (!(at == 1 && r[0] & 8)) /* a 32-bit operation */
		value = (uint32_t)value;
	return add_value(step, 0, CODE_ADDRESS, value) && finish(step, pre->length, run->length);
}

/* call/jmp *foo@GOTPCREL(%rip): a direct one and a byte of padding on either side. */
static bool match_got_branch(struct code_step *step, const struct insn *pre)
{
	const uint8_t *p = step->pre, *r = step->run;
	struct insn run;
	size_t skip = 0;

	if (pre->length != 6 || p[0] != 0xff || (p[1] != 0x15 && p[1] != 0x25) ||
		step->run_size < 6)
		return false;
	uint8_t opcode = p[1] == 0x15 ? 0xe8 : 0xe9;
	if (r[0] != opcode) /* addr32 or nop first */
		skip = 1;
	if (skip && r[0] != 0x67 && r[0] != 0x90)
		return false;
	if (r[skip] != opcode || (!skip && r[5] != 0x90) ||
		!x86_64_decode(r + skip, 5, step->run_address + skip, &run) || run.length != 5)
		return false;
	return add_value(step, 0, CODE_ADDRESS, run.target) && finish(step, 6, 6);
}

static bool match_got(struct code_step *step, const struct insn *pre, const struct insn *run)
{
	const uint8_t *p = step->pre;

	if (p[0] == 0xff)
		return match_got_branch(step, pre);
	return match_got_operand(step, pre, run, (p[0] & 0xf0) == 0x40);
}

/* ---- TLS ---- */

/* mov/add x@gottpoff(%rip), %reg -> the offset itself */
static bool match_ie(struct code_step *step, const struct insn *pre, const struct insn *run)
{
	const uint8_t *p = step->pre, *r = step->run;
	uint8_t reg = (p[2] >> 3) & 7;

	if (pre->length != 7 || (p[0] & 0xfb) != 0x48 || step->fields[0].offset != 3 ||
		run->length != 7)
		return false;
	bool high = p[0] & 4, mov = p[1] == 0x8b, add = p[1] == 0x03;
	bool as_imm = r[0] == (high ? 0x49 : 0x48) && r[2] == (0xc0 | reg) &&
		      ((mov && r[1] == 0xc7) || (add && r[1] == 0x81));
	bool as_lea = add && r[0] == (high ? 0x4d : 0x48) && r[1] == 0x8d &&
		      r[2] == (0x80 | reg << 3 | reg);
	if (!as_imm && !as_lea)
		return false;
	return add_value(step, 0, CODE_TPOFF, load_signed(r + 3, 4)) && finish(step, 7, 7);
}

/* lea x@tlsdesc(%rip), %rax -> mov $tpoff, %rax or mov x@gottpoff(%rip), %rax */
static bool match_desc(struct code_step *step, const struct insn *pre, const struct insn *run)
{
	const uint8_t *p = step->pre, *r = step->run;
	uint8_t reg = (p[2] >> 3) & 7;

	if (pre->length != 7 || (p[0] & 0xfb) != 0x48 || p[1] != 0x8d || run->length != 7)
		return false;
	if (r[0] == (p[0] & 4 ? 0x49 : 0x48) && r[1] == 0xc7 && r[2] == (0xc0 | reg))
		return add_value(step, 0, CODE_TPOFF, load_signed(r + 3, 4)) && finish(step, 7, 7);
	if (r[0] == p[0] && r[1] == 0x8b && r[2] == p[2])
		return add_value(step, 0, CODE_GOT_TPOFF, run->pcrel) && finish(step, 7, 7);
	return false;
}

/* call *x@tlsdesc(%rax) -> xchg %ax, %ax */
static bool match_desc_call(struct code_step *step, const struct insn *pre)
{
	if (pre->length != 2 || step->run_size < 2 || memcmp(step->run, "\x66\x90", 2))
		return false;
	return add_value(step, 0, CODE_NOTHING, 0) && finish(step, 2, 2);
}

/* The two instructions of a general- or local-dynamic access and where the first field ends. */
static size_t tls_call_length(const struct code_step *step, size_t at)
{
	const uint8_t *p = step->pre;

	if (step->n_fields < 2 || step->pre_size < at + 6)
		return 0;
	size_t field = step->fields[1].offset;
	size_t prefixes = field - at - 1;
	if (field > at + 4 || field < at + 1)
		return 0;
	if (p[field - 1] == 0xe8 && prefixes <= 3)
		return field + 4;
	if (prefixes >= 1 && p[field - 2] == 0xff && p[field - 1] == 0x15)
		return field + 4;
	return 0;
}

/* lea x@tlsgd(%rip), %rdi; call __tls_get_addr: 16 bytes -> mov %fs:0, %rax and a second one */
static bool match_gd(struct code_step *step)
{
	static const uint8_t load[] = {0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0};
	const uint8_t *p = step->pre, *r = step->run;

	if (step->run_size < 16 || step->pre_size < 16 || memcmp(p, "\x66\x48\x8d\x3d", 4) ||
		tls_call_length(step, 8) != 16 || memcmp(r, load, sizeof(load)))
		return false;
	if (!add_value(step, 1, CODE_NOTHING, 0))
		return false;
	if (!memcmp(r + 9, "\x48\x8d\x80", 3)) /* lea tpoff(%rax), %rax */
		return add_value(step, 0, CODE_TPOFF, load_signed(r + 12, 4)) &&
		       finish(step, 16, 16);
	if (!memcmp(r + 9, "\x48\x03\x05", 3)) /* add x@gottpoff(%rip), %rax */
		return add_value(step, 0, CODE_GOT_TPOFF,
			       step->run_address + 16 + load_signed(r + 12, 4)) &&
		       finish(step, 16, 16);
	return false;
}

/* lea x@tlsld(%rip), %rdi; call __tls_get_addr -> mov %fs:0, %rax behind padding prefixes */
static bool match_ld(struct code_step *step)
{
	static const uint8_t load[] = {0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0};
	const uint8_t *p = step->pre, *r = step->run;
	size_t length = tls_call_length(step, 7), pad = length - sizeof(load);

	if (!length || memcmp(p, "\x48\x8d\x3d", 3) || step->run_size < length || pad > 4)
		return false;
	for (size_t i = 0; i < pad; i++)
		if (r[i] != 0x66)
			return false;
	if (memcmp(r + pad, load, sizeof(load)))
		return false;
	return add_value(step, 0, CODE_NOTHING, 0) && add_value(step, 1, CODE_NOTHING, 0) &&
	       finish(step, length, length);
}

static bool match_relaxed(struct code_step *step, const struct insn *pre, const struct insn *run)
{
	switch (step->fields[0].type) {
	case R_X86_64_PC32:
	case R_X86_64_PLT32:
		return match_short_branch(step, pre, run);
	case R_X86_64_GOTPCREL:
	case R_X86_64_GOTPCRELX:
	case R_X86_64_REX_GOTPCRELX:
		return match_got(step, pre, run);
	case R_X86_64_GOTTPOFF:
		return match_ie(step, pre, run);
	case R_X86_64_GOTPC32_TLSDESC:
		return match_desc(step, pre, run);
	case R_X86_64_TLSDESC_CALL:
		return match_desc_call(step, pre);
	case R_X86_64_TLSGD:
		return match_gd(step);
	case R_X86_64_TLSLD:
		return match_ld(step);
	default:
		return false;
	}
}

bool x86_64_match(struct code_step *step)
{
	struct insn pre, run;

	step->n_values = 0;
	step->has_target = false;
	if (!x86_64_decode(step->pre, step->pre_size, 0, &pre) ||
		!x86_64_decode(step->run, step->run_size, step->run_address, &run))
		return false;
	size_t n = fields_within(step, pre.length);
	if (!n)
		return match_plain(step, &pre, &run);
	if (match_same(step, &pre, &run, n))
		return true;
	step->n_values = 0;
	return n == 1 && match_relaxed(step, &pre, &run);
}
