/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Call-frame information of one .eh_frame section in memory: records, the rules they give for a
 * pc, and DWARF expressions.
 *
 * Why not libdw: it wants an Elf with the bytes at hand, and a mapped image has no section headers
 * to make one from. Copying hundreds of megabytes to read a few records of some dozen bytes would
 * break the limit on memory; and all that is needed is the small language below, without
 * relocations, without DWARF sections.
 *
 * Sources: LSB 5.0 core, "Exception Frames"; DWARF 5, 6.4 and 2.5; psABI x86-64, 3.6.
 */
#ifndef ELF_CFI_H
#define ELF_CFI_H

#include "elf/module.h"

struct cfi_section {
	const struct reader *reader;
	remote_addr start;
	uint64_t size; /* an upper bound will do: a terminator ends the section, too */
};

/* A code range and the record (FDE) that describes it. */
struct cfi_range {
	remote_addr start, end; /* end > start */
	remote_addr fde;
};

/*
 * Walks the section. visit() is called for every FDE that covers anything; its error ends the walk.
 * INPUT when a record is malformed.
 */
struct suture_error *cfi_walk(const struct cfi_section *s,
	struct suture_error *(*visit)(const struct cfi_range *range, void *arg),
	void *arg) MUST_USE;

/*
 * The rules in force at pc, from the FDE at `fde`. *found is false when it does not cover pc.
 * Expressions of the row are copied by `keep`, which owns the copies (NULL: no memory).
 * The row has no padding surprises: equal rows have equal bytes.
 */
struct suture_error *cfi_row(const struct cfi_section *s, remote_addr fde, remote_addr pc,
	const uint8_t *(*keep)(void *arg, const uint8_t *data, size_t size), void *arg,
	struct unwind_row *ret, bool *found) MUST_USE;

/*
 * Evaluate a DWARF expression over registers and memory. `initial`: pushed first, when not NULL.
 */
struct suture_error *cfi_evaluate(const uint8_t *expr, size_t size,
	const uint64_t regs[UNWIND_REGS], uint32_t valid, const struct reader *memory,
	const uint64_t *initial, uint64_t *ret) MUST_USE;

/* ---- bytes with a position, an end, and a sticky failure; the values are 0 after it ---- */

struct cursor {
	const uint8_t *at, *end;
	remote_addr addr; /* of `end`: pc-relative pointers need it */
	bool bad;
};

uint64_t cursor_fixed(struct cursor *c, size_t size); /* 1, 2, 4 or 8 bytes */
int64_t cursor_signed(struct cursor *c, size_t size);
uint64_t cursor_uleb(struct cursor *c);
int64_t cursor_sleb(struct cursor *c);
const uint8_t *cursor_skip(struct cursor *c, uint64_t size); /* NULL after the end */
/* A pointer in encoding DW_EH_PE_*; data: the base of DW_EH_PE_datarel, 0: not allowed. */
uint64_t cursor_pointer(struct cursor *c, uint8_t encoding, remote_addr data);

#endif
