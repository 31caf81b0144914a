/* SPDX-License-Identifier: Apache-2.0 */
/* The pieces of arch_x86_64; callers outside this folder use arch.h only. */
#ifndef ARCH_X86_64_X86_64_H
#define ARCH_X86_64_X86_64_H

#include "arch/arch.h"

#define X86_64_DETOUR_SIZE  5 /* jmp rel32 */
#define X86_64_VENEER_SIZE  6 /* jmp *slot(%rip) */
#define X86_64_RESOLVE_SIZE 192

/* insn.c */
bool x86_64_decode(const uint8_t *code, size_t size, uint64_t address, struct insn *ret);
size_t x86_64_access_size(const uint8_t *code, size_t size);
void x86_64_format(const uint8_t *code, size_t size, uint64_t address, char *buf, size_t len);
struct suture_error *x86_64_detour_site(const char *name, const uint8_t *code, size_t size,
	uint64_t address, const uint64_t *targets, size_t n_targets, uint32_t *ret_site,
	uint32_t *ret_size) MUST_USE;

/* match.c */
bool x86_64_match(struct code_step *step);

/* detour.c */
bool x86_64_detour_encode(uint8_t *buf, uint64_t from, uint64_t to);
bool x86_64_veneer_encode(uint8_t *buf, uint64_t at, uint64_t slot);

/* resolve.c */
uint64_t x86_64_resolve_encode(uint8_t *buf, uint64_t at, uint64_t slot, uint64_t resolver);

/* reloc.c */
enum reloc_need x86_64_reloc_need(uint32_t type);
size_t x86_64_reloc_size(uint32_t type);
bool x86_64_reloc_is_abs32(uint32_t type);
bool x86_64_reloc_is_pcrel(uint32_t type);
const char *x86_64_reloc_name(uint32_t type);
struct suture_error *x86_64_reloc_apply(uint32_t type, uint8_t *field, size_t avail, uint64_t place,
	uint64_t value, int64_t addend) MUST_USE;

#endif
