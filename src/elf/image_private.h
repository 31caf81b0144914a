/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the parts of the image code share. Headers and symbols are taken with gelf_*, which copies
 * them: elf64_* gives pointers into the file, and that may have any alignment.
 */
#ifndef ELF_IMAGE_PRIVATE_H
#define ELF_IMAGE_PRIVATE_H

#include <gelf.h>

#include "elf/image.h"

/* One function symbol of the index by address. */
struct image_function {
	uint64_t start, end; /* end == start: size unknown */
	uint64_t highest;    /* end of any function up to and including this one */
	uint32_t symbol;
};

struct image_private {
	int fd, debug_fd; /* -1: not open. libdw wants them open */
	const uint8_t *bytes;
	size_t size; /* of the file */
	bool pie;    /* DF_1_PIE */
	VEC(Elf64_Rela) relocs;
	VEC(struct image_function) functions;
};

static inline struct image_private *image_private(const struct image *image)
{
	return image->private_;
}

#define image_bad(...) error_create(SUTURE_ERROR_INPUT, __VA_ARGS__)

/* Refuses by name what is not a 64-bit x86-64 ELF file; `e` may be a part of one. */
struct suture_error *image_check_header(const Elf64_Ehdr *e, size_t have) MUST_USE;
/* Opens `path` with libelf and checks the header. Messages without the path. */
struct suture_error *image_open_elf(const char *path, int *ret_fd, Elf **ret) MUST_USE;
/* The first section of that type, with its header; NULL: none. */
Elf_Scn *image_section(Elf *elf, uint32_t type, Elf64_Shdr *ret);

/* The file's bytes at a link-time address, in a segment that has all of `flags` (PF_*). */
const uint8_t *image_bytes(
	const struct image *image, uint64_t address, uint32_t flags, size_t *ret_size);

/* image_symbols.c: .symtab of `elf`; none found is no error. */
struct suture_error *image_read_symbols(struct image *image, Elf *elf) MUST_USE;
struct suture_error *image_read_dynsyms(struct image *image) MUST_USE;
struct suture_error *image_index_symbols(struct image *image) MUST_USE;
/* image_relocs.c */
struct suture_error *image_read_relocs(struct image *image) MUST_USE;
/* image_debug.c: fill in symbols and DWARF from a debug file where the image lacks them. */
struct suture_error *image_find_debug(struct image *image, const char *debug_dir) MUST_USE;
/* NULL when `elf` has no debugging entries. */
Dwarf *image_dwarf(Elf *elf);

#endif
