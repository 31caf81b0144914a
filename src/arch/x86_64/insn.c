/* SPDX-License-Identifier: Apache-2.0 */
/*
 * x86-64 instructions: where they end, where they jump, which of their bytes are relative to their
 * own end, and where in a function a detour can be written. Decoding is Zydis's.
 */
#include <Zydis/Zydis.h>
#include <stdio.h>
#include <string.h>

#include "arch/x86_64/x86_64.h"

static bool decode_raw(const uint8_t *code, size_t size, ZydisDecodedInstruction *ret)
{
	ZydisDecoder decoder;

	return ZYAN_SUCCESS(ZydisDecoderInit(
		       &decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64)) &&
	       ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, NULL, code, size, ret));
}

static void fill_fields(const ZydisDecodedInstruction *in, struct insn *ret)
{
	ret->disp_at = in->raw.disp.offset;
	ret->disp_size = in->raw.disp.size / 8;
	ret->imm_at = in->raw.imm[0].offset;
	ret->imm_size = in->raw.imm[0].size / 8;
}

/* RIP-relative memory: mod 0, r/m 5 (Intel SDM 2A, table 2-7). */
static bool is_rip_relative(const ZydisDecodedInstruction *in)
{
	return in->attributes & ZYDIS_ATTRIB_HAS_MODRM && in->raw.modrm.mod == 0 &&
	       in->raw.modrm.rm == 5 && in->raw.disp.size == 32;
}

static void fill_relative(const ZydisDecodedInstruction *in, uint64_t address, struct insn *ret)
{
	uint64_t end = address + in->length;

	if (in->raw.imm[0].size && in->raw.imm[0].is_relative) {
		ret->has_target = true;
		ret->target = end + in->raw.imm[0].value.u;
		ret->rel_at = ret->imm_at;
		ret->rel_size = ret->imm_size;
	} else if (is_rip_relative(in)) {
		ret->has_pcrel = true;
		ret->pcrel = end + (uint64_t)in->raw.disp.value;
		if (in->address_width == 32)
			ret->pcrel = (uint32_t)ret->pcrel;
		ret->rel_at = ret->disp_at;
		ret->rel_size = ret->disp_size;
	}
}

bool x86_64_decode(const uint8_t *code, size_t size, uint64_t address, struct insn *ret)
{
	ZydisDecodedInstruction in;

	if (!decode_raw(code, size, &in))
		return false;
	*ret = (struct insn){
		.length = in.length,
		.is_nop = in.mnemonic == ZYDIS_MNEMONIC_NOP || in.mnemonic == ZYDIS_MNEMONIC_INT3,
		.is_endbr = in.mnemonic == ZYDIS_MNEMONIC_ENDBR64,
		.is_call = in.meta.category == ZYDIS_CATEGORY_CALL,
		.is_jump = in.meta.category == ZYDIS_CATEGORY_UNCOND_BR ||
			   in.meta.category == ZYDIS_CATEGORY_COND_BR,
		.is_cond = in.meta.category == ZYDIS_CATEGORY_COND_BR,
		.is_ret = in.meta.category == ZYDIS_CATEGORY_RET,
	};
	fill_fields(&in, ret);
	fill_relative(&in, address, ret);
	return true;
}

static bool is_fixed(const ZydisDecodedOperandMem *mem)
{
	return mem->type == ZYDIS_MEMOP_TYPE_MEM && mem->index == ZYDIS_REGISTER_NONE &&
	       (mem->base == ZYDIS_REGISTER_NONE || mem->base == ZYDIS_REGISTER_RIP);
}

size_t x86_64_access_size(const uint8_t *code, size_t size)
{
	ZydisDecoder decoder;
	ZydisDecodedInstruction in;
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];

	if (!ZYAN_SUCCESS(
		    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64)) ||
		!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code, size, &in, operands)))
		return 0;
	for (size_t i = 0; i < in.operand_count_visible; i++)
		if (operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY && is_fixed(&operands[i].mem))
			return operands[i].size / 8;
	return 0;
}

static bool format_full(const uint8_t *code, size_t size, uint64_t address, char *buf, size_t len)
{
	ZydisDecoder decoder;
	ZydisFormatter formatter;
	ZydisDecodedInstruction in;
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];

	if (!ZYAN_SUCCESS(
		    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64)) ||
		!ZYAN_SUCCESS(ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_ATT)) ||
		!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code, size, &in, operands)))
		return false;
	return ZYAN_SUCCESS(ZydisFormatterFormatInstruction(
		&formatter, &in, operands, in.operand_count_visible, buf, len, address, NULL));
}

void x86_64_format(const uint8_t *code, size_t size, uint64_t address, char *buf, size_t len)
{
	if (!len)
		return;
	if (!size)
		snprintf(buf, len, "(end of code)");
	else if (!format_full(code, size, address, buf, len))
		snprintf(buf, len, ".byte 0x%02x", code[0]);
}

/* A jump to the first overwritten byte runs the detour; one behind it runs half a jump. */
static struct suture_error *check_target(
	const char *name, uint64_t from, uint64_t target, uint64_t site)
{
	if (target <= site || target >= site + X86_64_DETOUR_SIZE)
		return NULL;
	return error_create(SUTURE_ERROR_REFUSED,
		"%s jumps (at 0x%llx) into its own first bytes (0x%llx), where the detour goes",
		name, (unsigned long long)from, (unsigned long long)target);
}

static struct suture_error *check_branches(
	const char *name, const uint8_t *code, size_t size, uint64_t address, uint64_t site)
{
	struct insn insn;

	for (size_t at = 0; at < size; at += insn.length) {
		if (!x86_64_decode(code + at, size - at, address + at, &insn))
			return error_create(SUTURE_ERROR_REFUSED,
				"%s+0x%zx holds bytes that are no instruction", name, at);
		if (insn.has_target)
			TRY(check_target(name, address + at, insn.target, site));
		if (insn.has_pcrel) /* the address of a label, for a computed goto */
			TRY(check_target(name, address + at, insn.pcrel, site));
	}
	return NULL;
}

struct suture_error *x86_64_detour_site(const char *name, const uint8_t *code, size_t size,
	uint64_t address, const uint64_t *targets, size_t n_targets, uint32_t *ret_site,
	uint32_t *ret_size)
{
	struct insn insn;
	size_t site = 0;

	/* Indirect branches must keep landing on endbr64. */
	if (x86_64_decode(code, size, address, &insn) && insn.is_endbr)
		site = insn.length;
	if (size < site + X86_64_DETOUR_SIZE)
		return error_create(SUTURE_ERROR_TOO_SMALL,
			"%s has %zu bytes of code, a detour needs %zu", name, size,
			site + X86_64_DETOUR_SIZE);
	TRY(check_branches(name, code, size, address, address + site));
	for (size_t i = 0; i < n_targets; i++)
		TRY(check_target(name, address, targets[i], address + site));
	*ret_site = site;
	*ret_size = X86_64_DETOUR_SIZE;
	return NULL;
}
