/* SPDX-License-Identifier: Apache-2.0 */
/* The operations table of x86-64: see arch.h. */
#include <elf.h>

#include "arch/x86_64/x86_64.h"

const struct arch arch_x86_64 = {
	.name = "x86_64",
	.elf_machine = EM_X86_64,
	.detour_size = X86_64_DETOUR_SIZE,
	.decode = x86_64_decode,
	.access_size = x86_64_access_size,
	.format = x86_64_format,
	.match = x86_64_match,
	.detour_site = x86_64_detour_site,
	.detour_encode = x86_64_detour_encode,
	.veneer_size = X86_64_VENEER_SIZE,
	.veneer_encode = x86_64_veneer_encode,
	.resolve_size = X86_64_RESOLVE_SIZE,
	.resolve_encode = x86_64_resolve_encode,
	.reloc_need = x86_64_reloc_need,
	.reloc_size = x86_64_reloc_size,
	.reloc_is_abs32 = x86_64_reloc_is_abs32,
	.reloc_is_pcrel = x86_64_reloc_is_pcrel,
	.reloc_pc32 = R_X86_64_PC32,
	.reloc_name = x86_64_reloc_name,
	.reloc_apply = x86_64_reloc_apply,
};

const struct arch *arch_for(uint16_t elf_machine)
{
	return elf_machine == EM_X86_64 ? &arch_x86_64 : NULL;
}
