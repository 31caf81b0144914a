/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Relocations of x86-64 objects (System V psABI, section 4.4): what each needs and how its field
 * is written.
 */
#include <elf.h>
#include <string.h>

#include "arch/x86_64/x86_64.h"

#ifndef R_X86_64_CODE_4_GOTPCRELX
#define R_X86_64_CODE_4_GOTPCRELX 43
#endif

enum field { FIELD_ABS, FIELD_ABS_SIGNED, FIELD_PC, FIELD_NONE };

struct reloc_info {
	const char *name;
	enum reloc_need need;
	uint8_t size;
	enum field field;
};

#define RELOC(type, need, size, field) [type] = {#type, RELOC_##need, size, FIELD_##field}

static const struct reloc_info relocs[] = {
	RELOC(R_X86_64_NONE, NEED_NOTHING, 0, NONE),
	RELOC(R_X86_64_64, NEED_VALUE, 8, ABS),
	RELOC(R_X86_64_PC32, NEED_VALUE, 4, PC),
	RELOC(R_X86_64_GOT32, UNSUPPORTED, 4, NONE),
	RELOC(R_X86_64_PLT32, NEED_PLT, 4, PC),
	RELOC(R_X86_64_COPY, UNSUPPORTED, 0, NONE),
	RELOC(R_X86_64_GLOB_DAT, UNSUPPORTED, 8, NONE),
	RELOC(R_X86_64_JUMP_SLOT, UNSUPPORTED, 8, NONE),
	RELOC(R_X86_64_RELATIVE, UNSUPPORTED, 8, NONE),
	RELOC(R_X86_64_GOTPCREL, NEED_GOT, 4, PC),
	RELOC(R_X86_64_32, NEED_VALUE, 4, ABS),
	RELOC(R_X86_64_32S, NEED_VALUE, 4, ABS_SIGNED),
	RELOC(R_X86_64_16, UNSUPPORTED, 2, NONE),
	RELOC(R_X86_64_PC16, UNSUPPORTED, 2, NONE),
	RELOC(R_X86_64_8, UNSUPPORTED, 1, NONE),
	RELOC(R_X86_64_PC8, UNSUPPORTED, 1, NONE),
	RELOC(R_X86_64_DTPMOD64, UNSUPPORTED, 8, NONE),
	RELOC(R_X86_64_DTPOFF64, NEED_DTPOFF, 8, ABS),
	RELOC(R_X86_64_TPOFF64, NEED_TPOFF, 8, ABS),
	RELOC(R_X86_64_TLSGD, NEED_GOT_TLSGD, 4, PC),
	RELOC(R_X86_64_TLSLD, NEED_GOT_TLSLD, 4, PC),
	RELOC(R_X86_64_DTPOFF32, NEED_DTPOFF, 4, ABS_SIGNED),
	RELOC(R_X86_64_GOTTPOFF, NEED_GOT_TPOFF, 4, PC),
	RELOC(R_X86_64_TPOFF32, NEED_TPOFF, 4, ABS_SIGNED),
	RELOC(R_X86_64_PC64, NEED_VALUE, 8, PC),
	RELOC(R_X86_64_GOTOFF64, UNSUPPORTED, 8, NONE),
	RELOC(R_X86_64_GOTPC32, UNSUPPORTED, 4, NONE),
	RELOC(R_X86_64_GOT64, UNSUPPORTED, 8, NONE),
	RELOC(R_X86_64_GOTPCREL64, UNSUPPORTED, 8, NONE),
	RELOC(R_X86_64_GOTPC64, UNSUPPORTED, 8, NONE),
	RELOC(R_X86_64_GOTPLT64, UNSUPPORTED, 8, NONE),
	RELOC(R_X86_64_PLTOFF64, UNSUPPORTED, 8, NONE),
	RELOC(R_X86_64_SIZE32, UNSUPPORTED, 4, NONE),
	RELOC(R_X86_64_SIZE64, UNSUPPORTED, 8, NONE),
	RELOC(R_X86_64_GOTPC32_TLSDESC, NEED_TLSDESC, 4, PC),
	RELOC(R_X86_64_TLSDESC_CALL, NEED_NOTHING, 0, NONE),
	RELOC(R_X86_64_TLSDESC, UNSUPPORTED, 16, NONE),
	RELOC(R_X86_64_IRELATIVE, UNSUPPORTED, 8, NONE),
	RELOC(R_X86_64_RELATIVE64, UNSUPPORTED, 8, NONE),
	RELOC(R_X86_64_GOTPCRELX, NEED_GOT, 4, PC),
	RELOC(R_X86_64_REX_GOTPCRELX, NEED_GOT, 4, PC),
	RELOC(R_X86_64_CODE_4_GOTPCRELX, UNSUPPORTED, 4, NONE),
};

static const struct reloc_info unknown = {
	"an unknown relocation type", RELOC_UNSUPPORTED, 0, FIELD_NONE};

static const struct reloc_info *info_of(uint32_t type)
{
	if (type >= sizeof(relocs) / sizeof(relocs[0]) || !relocs[type].name)
		return &unknown;
	return &relocs[type];
}

enum reloc_need x86_64_reloc_need(uint32_t type)
{
	return info_of(type)->need;
}

size_t x86_64_reloc_size(uint32_t type)
{
	return info_of(type)->size;
}

bool x86_64_reloc_is_abs32(uint32_t type)
{
	const struct reloc_info *info = info_of(type);

	return info->need == RELOC_NEED_VALUE && info->size == 4 && info->field != FIELD_PC;
}

bool x86_64_reloc_is_pcrel(uint32_t type)
{
	return info_of(type)->field == FIELD_PC;
}

const char *x86_64_reloc_name(uint32_t type)
{
	return info_of(type)->name;
}

static bool fits(const struct reloc_info *info, uint64_t value)
{
	if (info->size == 8)
		return true;
	if (info->field == FIELD_ABS)
		return value <= UINT32_MAX;
	return (int64_t)value == (int32_t)value;
}

struct suture_error *x86_64_reloc_apply(
	uint32_t type, uint8_t *field, size_t avail, uint64_t place, uint64_t value, int64_t addend)
{
	const struct reloc_info *info = info_of(type);

	if (info->need == RELOC_UNSUPPORTED)
		return error_create(
			SUTURE_ERROR_UNSUPPORTED, "%s (%u) is not supported", info->name, type);
	if (info->need == RELOC_NEED_NOTHING)
		return NULL;
	if (avail < info->size)
		return error_create(SUTURE_ERROR_INPUT, "%s sticks out of its section", info->name);

	uint64_t result = value + (uint64_t)addend;
	if (info->field == FIELD_PC)
		result -= place;
	if (!fits(info, result))
		return error_create(SUTURE_ERROR_RANGE, "%s at 0x%llx does not reach 0x%llx",
			info->name, (unsigned long long)place, (unsigned long long)value);
	memcpy(field, &result, info->size); /* little endian, as the host */
	return NULL;
}
