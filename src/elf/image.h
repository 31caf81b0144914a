/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A target image as a file, with all its names: .symtab from the file itself or from its separate
 * debug file (.gnu_debuglink, build-id path), .dynsym, DWARF. What a patch is built against.
 */
#ifndef ELF_IMAGE_H
#define ELF_IMAGE_H

#include <elf.h>
#include <elfutils/libdw.h>
#include <libelf.h>
#include <stdbool.h>

#include "base/error.h"
#include "base/vec.h"

struct image_symbol {
	const char *name;
	uint64_t value, size;
	uint8_t type, bind, visibility; /* STT_*, STB_*, STV_* */
	uint16_t shndx;
	const char
		*file; /* the STT_FILE entry that a local symbol stands under; NULL for globals */
};

struct image {
	char *path;
	char *debug_path; /* separate debug file in use; NULL: all comes from the file itself */
	char *name;	  /* soname, or base name */
	uint16_t type;	  /* ET_EXEC | ET_DYN */
	bool is_static;	  /* no PT_INTERP and no DT_NEEDED and not a shared library */
	bool is_library;  /* ET_DYN with DT_SONAME or without PT_INTERP and not static-pie */
	bool symbolic;	  /* DF_SYMBOLIC / DT_SYMBOLIC */
	uint8_t build_id[64];
	size_t build_id_size;
	VEC(Elf64_Phdr) phdrs;
	VEC(struct image_symbol) symbols; /* .symtab, file order */
	VEC(struct image_symbol) dynsyms; /* .dynsym, file order; symbols[0] is the null entry */
	VEC(char *) dynsym_versions;	  /* per dynsym: version name or NULL; defined or needed */
	uint64_t tls_vaddr, tls_size, tls_align;
	Elf *elf;	/* the file */
	Elf *debug_elf; /* the debug file, or elf */
	/* NULL without debug information; compressed or not, DWARF 4 and 5 */
	Dwarf *dwarf;
	void *private_;
};

/*
 * Debug files are searched as gdb does: by build-id, then by .gnu_debuglink, each in `debug_dir`
 * (may be NULL) before /usr/lib/debug; one whose build-id or CRC differs is passed over.
 * Errors: INPUT (not ELF, truncated, an object or core file, a debug file), UNSUPPORTED (32-bit,
 * other machine), NO_SYMBOLS (says where it looked) when there is neither .symtab nor a debug file.
 * No build-id is no error here: build_id_size is 0.
 */
struct suture_error *image_open_with(
	const char *path, const char *debug_dir, struct image **ret) MUST_USE;
/* debug_dir from the environment: SUTURE_DEBUG_DIR */
struct suture_error *image_open(const char *path, struct image **ret) MUST_USE;
void image_close(struct image *image);
static inline void image_closep(struct image **image)
{
	image_close(*image);
}
/* Bytes at a link-time address, from the file; SUTURE_ERROR_INPUT when not all are there. */
struct suture_error *image_read(
	const struct image *image, uint64_t address, void *buf, size_t len) MUST_USE;
/*
 * All relocations that are applied at run time, ascending by offset: those of the dynamic linker
 * (DT_RELR ones as R_X86_64_RELATIVE), and IRELATIVE of static executables, which apply them
 * themselves. Symbol indices are those of dynsyms.
 */
const Elf64_Rela *image_relocs(const struct image *image, size_t *ret_n);
/* Relocation of the dynamic linker on this very slot (GOT, PLT GOT, data), or NULL. */
const Elf64_Rela *image_reloc_at(const struct image *image, uint64_t address);
/*
 * If `address` is a PLT stub: the GOT slot that it jumps through. How a stub looks is found by
 * decoding (lazy, -z now, -z ibt, both linkers' forms), not by section name.
 */
bool image_plt_slot(const struct image *image, uint64_t address, uint64_t *ret_slot);
/* Function symbol that covers address (exact start preferred), or NULL. */
const struct image_symbol *image_symbol_at(const struct image *image, uint64_t address);

#endif
