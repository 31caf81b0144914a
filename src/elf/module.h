/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An ELF image as it is mapped in a process, read through memory alone: the file may be deleted,
 * replaced, or in another mount namespace. Program headers, build-id, dynamic symbols with
 * versions, relocations, unwind rules. Everything read is hostile.
 */
#ifndef ELF_MODULE_H
#define ELF_MODULE_H

#include <elf.h>
#include <stdbool.h>

#include "base/error.h"
#include "base/reader.h"
#include "base/vec.h"

struct module_symbol {
	char *name;
	uint64_t value; /* link-time address; TLS: offset in the segment */
	uint64_t size;
	uint8_t type, bind, visibility; /* STT_*, STB_*, STV_* */
	bool defined;
	uint16_t version_index; /* raw versym entry, hidden bit included; 1 when unversioned */
};

struct module_reloc {
	uint64_t offset; /* link-time address of the slot */
	uint32_t type;
	uint32_t symbol; /* dynsym index; 0: none */
	int64_t addend;
	bool plt; /* from DT_JMPREL */
};

struct module {
	char *path;	    /* for messages */
	char *soname;	    /* DT_SONAME or NULL */
	remote_addr base;   /* where the ELF header is mapped */
	uint64_t bias;	    /* remote address = link-time address + bias */
	uint64_t low, high; /* remote span of all PT_LOAD, page-aligned */
	uint16_t type;	    /* ET_EXEC | ET_DYN */
	uint8_t build_id[64];
	size_t build_id_size;
	VEC(Elf64_Phdr) phdrs;
	bool dynamic;	/* has PT_DYNAMIC */
	bool symbolic;	/* DT_SYMBOLIC or DF_SYMBOLIC */
	bool textrel;	/* DT_TEXTREL or DF_TEXTREL: the dynamic linker changed code */
	uint64_t debug; /* DT_DEBUG value (struct r_debug) or 0 */
	VEC(char *) needed;
	uint64_t tls_size, tls_align, tls_vaddr; /* PT_TLS memsz; 0: none */
	VEC(struct module_reloc) relocs;	 /* filled by module_relocs() */
	const struct reader *reader;
	void *private_;
};

/* `base`: remote address of the ELF header. `reader` must outlive the module. */
struct suture_error *module_open(const struct reader *reader, remote_addr base, const char *path,
	struct module **ret) MUST_USE;
void module_close(struct module *m);
static inline void module_closep(struct module **m)
{
	module_close(*m);
}

/* Only the build-id of an image, cheaply. *ret_size 0 when it has none. */
struct suture_error *module_build_id(
	const struct reader *reader, remote_addr base, uint8_t ret[64], size_t *ret_size) MUST_USE;

/*
 * A defined dynamic symbol by name, as the dynamic linker would find it in this one module (GNU or
 * SysV hash, version rules of ld.so's do_lookup_x). version NULL: the default one. *found tells.
 * ret->name is NULL (the caller has it).
 */
struct suture_error *module_lookup(const struct module *m, const char *name, const char *version,
	struct module_symbol *ret, bool *found) MUST_USE;
/* A dynsym entry by index; ret->name is malloc'ed. */
struct suture_error *module_symbol(
	const struct module *m, uint32_t index, struct module_symbol *ret) MUST_USE;
size_t module_symbol_count(const struct module *m);
/*
 * Name of a symbol's version (module_symbol.version_index), defined or needed; *ret is NULL for the
 * base version and in a module without versions. The name belongs to the module.
 */
struct suture_error *module_version_name(
	const struct module *m, uint16_t version_index, const char **ret) MUST_USE;
/* The dynamic function symbol that a remote address is in, for reports. NULL: none. */
const char *module_symbolize(struct module *m, remote_addr pc, uint64_t *ret_offset);
/*
 * Fills m->relocs from DT_RELA, DT_JMPREL and DT_RELR (as R_X86_64_RELATIVE, addend 0: it stood in
 * the slot, which has been relocated since). Offsets lie inside the module, symbols below
 * module_symbol_count(). A static non-PIE image names its IRELATIVE relocations nowhere in memory:
 * there are none here, see image_relocs().
 */
struct suture_error *module_relocs(struct module *m) MUST_USE;

/* ---- unwinding ---- */

/* x86-64 DWARF register numbers: 0 rax 1 rdx 2 rcx 3 rbx 4 rsi 5 rdi 6 rbp 7 rsp 8-15 r8-r15 16 ra
 */
enum { UNWIND_REGS = 17 };

enum unwind_rule_kind {
	UNWIND_SAME,	   /* unchanged */
	UNWIND_UNDEFINED,  /* lost; for the return address: outermost frame */
	UNWIND_AT_CFA,	   /* stored at CFA + value */
	UNWIND_CFA,	   /* is CFA + value */
	UNWIND_REGISTER,   /* in register `value` */
	UNWIND_EXPRESSION, /* anything else: needs unwind_expression() */
};
struct unwind_rule {
	enum unwind_rule_kind kind;
	int64_t value;
	const uint8_t
		*expr; /* UNWIND_EXPRESSION: DW_CFA_(val_)expression bytes, owned by the cache */
	size_t expr_size;
	bool expr_is_value;
};
struct unwind_row {
	bool cfa_is_expr;
	uint8_t cfa_reg;
	int64_t cfa_offset;
	const uint8_t *cfa_expr;
	size_t cfa_expr_size;
	struct unwind_rule regs[UNWIND_REGS];
	bool signal_frame;
};

/*
 * Where call-frame information comes from: a module's PT_GNU_EH_FRAME, or a bare .eh_frame section
 * in memory (a payload's). Rows are cached per pc.
 */
struct unwind_table;
/*
 * Without PT_GNU_EH_FRAME (gcc -static, musl-gcc) the section is found by its looks. An image that
 * has none gives a table without rows. The table reads through the module's reader, not through
 * the module.
 */
struct suture_error *unwind_table_from_module(
	const struct module *m, struct unwind_table **ret) MUST_USE;
struct suture_error *unwind_table_from_eh_frame(const struct reader *reader, remote_addr eh_frame,
	size_t size, struct unwind_table **ret) MUST_USE;
void unwind_table_destroy(struct unwind_table *t);
static inline void unwind_table_destroyp(struct unwind_table **t)
{
	unwind_table_destroy(*t);
}
/*
 * The row in force at remote pc (already minus one for call frames; the caller of a signal frame
 * is none). NULL: no information. Belongs to the table. Malformed records count as none.
 */
const struct unwind_row *unwind_table_row(struct unwind_table *t, remote_addr pc);
/*
 * The row of a signal trampoline that has no information, as musl's: the code at pc (not minus one)
 * is `mov $SYS_rt_sigreturn,%rax; syscall`. NULL: it is not. Static.
 */
const struct unwind_row *unwind_sigreturn_row(const struct reader *reader, remote_addr pc);
/*
 * One step outwards: regs[] (DWARF numbering, regs[16] is the pc) become the caller's. valid is a
 * bit mask of known registers. memory reads go through `stack`. *outermost: there is no caller: the
 * row says so, or the return address is 0; regs are left alone then. On failure, too.
 */
struct suture_error *unwind_step(const struct unwind_row *row, const struct reader *stack,
	uint64_t regs[UNWIND_REGS], uint32_t *valid, bool *outermost) MUST_USE;

#endif
