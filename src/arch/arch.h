/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What depends on the processor: one table of operations per CPU. x86_64/ is the first; aarch64
 * must fit without touching the callers. Register access for ptrace is in here too.
 */
#ifndef ARCH_ARCH_H
#define ARCH_ARCH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/reader.h"

/* One decoded instruction, as much of it as comparing and scanning needs. */
struct insn {
	uint8_t length;
	bool is_nop; /* any NOP form, int3 padding included */
	bool is_endbr;
	bool is_call, is_jump, is_cond, is_ret;
	bool has_target; /* direct branch */
	uint64_t target;
	bool has_pcrel; /* a PC-relative memory operand */
	uint64_t pcrel; /* the address it refers to */
	/* Where displacement and immediate sit in the bytes; size 0: none. */
	uint8_t disp_at, disp_size, imm_at, imm_size;
	/* The displacement or immediate that is relative to the end of this instruction. */
	uint8_t rel_at, rel_size;
};

/* What applying one relocation needs beyond its own fields. */
enum reloc_need {
	RELOC_NEED_VALUE,     /* S + A (- P) */
	RELOC_NEED_GOT,	      /* a GOT slot holding S */
	RELOC_NEED_PLT,	      /* S directly, or a veneer when out of range */
	RELOC_NEED_TPOFF,     /* thread-pointer offset of S */
	RELOC_NEED_GOT_TPOFF, /* a GOT slot holding it */
	RELOC_NEED_GOT_TLSGD, /* a GOT pair: module id, offset */
	RELOC_NEED_GOT_TLSLD, /* a GOT pair: module id, 0 */
	RELOC_NEED_DTPOFF,    /* offset in the module's TLS block */
	RELOC_NEED_TLSDESC,   /* a TLS descriptor */
	RELOC_NEED_NOTHING,   /* a marker */
	RELOC_UNSUPPORTED,
};

/* ---- comparing code with what a linker made of it ---- */

/* A relocated field of the code before linking. */
struct code_field {
	uint64_t offset;
	uint32_t type;
};

/* What a linked field says. Addresses are those reached, addends included. */
enum code_form {
	CODE_ADDRESS,	/* of the target, or of a stub that jumps to it */
	CODE_GOT,	/* of a GOT slot that holds the target's address */
	CODE_TPOFF,	/* offset from the thread pointer */
	CODE_GOT_TPOFF, /* address of a GOT slot that holds it */
	CODE_GOT_TLSGD, /* of a GOT pair: module, offset */
	CODE_GOT_TLSLD, /* of a GOT pair: module, 0 */
	CODE_DTPOFF,	/* offset in the module's block; from the thread pointer when negative */
	CODE_TLSDESC,	/* address of a descriptor */
	CODE_NOTHING,	/* relaxed away */
};
struct code_value {
	size_t field; /* index into code_step.fields */
	enum code_form form;
	uint64_t value;
};

/*
 * One step of a comparison: the instruction at `pre`, before linking, and the one at `run`.
 * Longer sequences that linkers rewrite as a whole (TLS) are one step.
 */
struct code_step {
	const uint8_t *pre, *run;
	size_t pre_size, run_size;
	uint64_t run_address;
	const struct code_field *fields; /* ascending; offsets from pre */
	size_t n_fields;
	/* Results. */
	size_t pre_length, run_length;
	struct code_value values[4];
	size_t n_values;
	/* A branch or address without relocation: where each goes, from pre and as an address. */
	bool has_target;
	int64_t pre_target;
	uint64_t run_target;
};

struct arch {
	const char *name;
	uint16_t elf_machine;
	uint32_t detour_size; /* bytes of the direct jump */

	/* false: bytes at code (at most size) are no instruction. */
	bool (*decode)(const uint8_t *code, size_t size, uint64_t address, struct insn *ret);
	/*
	 * Bytes that the instruction accesses at its one fixed address (PC-relative or absolute,
	 * no index). 0: it has none, or takes the address only.
	 */
	size_t (*access_size)(const uint8_t *code, size_t size);
	/* One instruction as text, AT&T syntax, NUL-terminated. */
	void (*format)(const uint8_t *code, size_t size, uint64_t address, char *buf, size_t len);

	/* false: the two are not the same instruction. Tolerates linker relaxations. */
	bool (*match)(struct code_step *step);

	/*
	 * Where in a function the detour goes: behind endbr64, into patchable-entry NOPs. `size`
	 * may include the function's own trailing padding. `targets`: addresses inside the function
	 * that something jumps to indirectly (jump tables). TOO_SMALL or REFUSED say why not.
	 */
	struct suture_error *(*detour_site)(const char *name, const uint8_t *code, size_t size,
		uint64_t address, const uint64_t *targets, size_t n_targets, uint32_t *ret_site,
		uint32_t *ret_size)MUST_USE;
	/* Encode the jump; false when `to` is out of reach. Writes detour_size bytes. */
	bool (*detour_encode)(uint8_t *buf, uint64_t from, uint64_t to);
	/* A jump of veneer_size bytes through an absolute 8-byte slot. */
	uint32_t veneer_size;
	bool (*veneer_encode)(uint8_t *buf, uint64_t at, uint64_t slot);

	/*
	 * A stub of resolve_size bytes for an IFUNC that nobody has resolved: jumps through the
	 * 8-byte slot (in writable memory), which at first must hold the address that this returns;
	 * there the resolver is asked, the slot set, and no register changed. 0: out of reach.
	 */
	uint32_t resolve_size;
	uint64_t (*resolve_encode)(uint8_t *buf, uint64_t at, uint64_t slot, uint64_t resolver);

	enum reloc_need (*reloc_need)(uint32_t type);
	/* Bytes that the relocation's field has; 0: none. */
	size_t (*reloc_size)(uint32_t type);
	/* true when the field is absolute and 32 bits wide: payload must be in the low 2 GiB. */
	bool (*reloc_is_abs32)(uint32_t type);
	/* true when the field counts from its own place, GOT-relative ones included. */
	bool (*reloc_is_pcrel)(uint32_t type);
	/* The 32-bit PC-relative type: for branches that the assembler resolved itself. */
	uint32_t reloc_pc32;
	/* Stable name, "R_X86_64_PC32". */
	const char *(*reloc_name)(uint32_t type);
	/*
	 * Write the field. value: S, slot address, tpoff or dtpoff as reloc_need() said. place:
	 * remote address of the field. RANGE when it does not fit.
	 */
	struct suture_error *(*reloc_apply)(uint32_t type, uint8_t *field, size_t avail,
		uint64_t place, uint64_t value, int64_t addend)MUST_USE;
};

extern const struct arch arch_x86_64;
/* NULL when the machine is not supported. */
const struct arch *arch_for(uint16_t elf_machine);

#endif
