/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Run-time relocations of a target file by slot, and PLT stubs. Sections are read rather than
 * DT_RELA: only a section header knows the IRELATIVE relocations of a static executable.
 */
#include <stdlib.h>
#include <string.h>

#include "elf/image_private.h"

/* ---- relocations ---- */

static struct suture_error *add(struct image *image, Elf64_Rela r)
{
	if (ELF64_R_SYM(r.r_info) >= image->dynsyms.n && ELF64_R_SYM(r.r_info) != 0)
		return image_bad("relocation at 0x%llx refers to symbol %llu of %zu",
			(unsigned long long)r.r_offset, (unsigned long long)ELF64_R_SYM(r.r_info),
			image->dynsyms.n);
	return vec_push(&image_private(image)->relocs, r) ? NULL : error_nomem();
}

static struct suture_error *read_rela(struct image *image, Elf_Data *data)
{
	const uint8_t *at = data->d_buf; /* of any alignment */
	Elf64_Rela r;

	for (size_t i = 0; i < data->d_size / sizeof(r); i++) {
		memcpy(&r, at + i * sizeof(r), sizeof(r));
		TRY(add(image, r));
	}
	return NULL;
}

static struct suture_error *add_relative(struct image *image, uint64_t offset)
{
	Elf64_Rela r = {.r_offset = offset, .r_info = ELF64_R_INFO(0, R_X86_64_RELATIVE)};

	TRY(error_wrap(
		image_read(image, offset, &r.r_addend, sizeof(r.r_addend)), "DT_RELR addend"));
	return add(image, r);
}

/* gABI, "Relative Relocation Table": addresses (even) and bit maps of the words behind (odd). */
static struct suture_error *read_relr(struct image *image, Elf_Data *data)
{
	const uint8_t *at = data->d_buf;
	uint64_t where = 0, word;

	for (size_t i = 0; i < data->d_size / sizeof(word); i++) {
		memcpy(&word, at + i * sizeof(word), sizeof(word));
		if (!(word & 1)) {
			TRY(add_relative(image, word));
			where = word + 8;
			continue;
		}
		for (unsigned bit = 0; (word >>= 1) != 0; bit++)
			if (word & 1)
				TRY(add_relative(image, where + bit * 8));
		where += 63 * 8;
	}
	return NULL;
}

static int by_offset(const void *a, const void *b)
{
	const Elf64_Rela *x = a, *y = b;

	return x->r_offset < y->r_offset ? -1 : x->r_offset > y->r_offset;
}

struct suture_error *image_read_relocs(struct image *image)
{
	struct image_private *p = image_private(image);

	for (Elf_Scn *scn = NULL; (scn = elf_nextscn(image->elf, scn));) {
		GElf_Shdr sh;

		/* Without SHF_ALLOC they are the static linker's, left by --emit-relocs. */
		if (!gelf_getshdr(scn, &sh) || !(sh.sh_flags & SHF_ALLOC) ||
			(sh.sh_type != SHT_RELA && sh.sh_type != SHT_RELR))
			continue;
		Elf_Data *data = elf_rawdata(scn, NULL);
		if (!data || (data->d_size && !data->d_buf))
			return image_bad("relocations: %s", elf_errmsg(-1));
		TRY(sh.sh_type == SHT_RELA ? read_rela(image, data) : read_relr(image, data));
	}
	if (p->relocs.n)
		qsort(p->relocs.at, p->relocs.n, sizeof(*p->relocs.at), by_offset);
	return NULL;
}

const Elf64_Rela *image_relocs(const struct image *image, size_t *ret_n)
{
	*ret_n = image_private(image)->relocs.n;
	return image_private(image)->relocs.at;
}

const Elf64_Rela *image_reloc_at(const struct image *image, uint64_t address)
{
	const struct image_private *p = image_private(image);
	Elf64_Rela key = {.r_offset = address};

	if (p->relocs.n == 0)
		return NULL;
	return bsearch(&key, p->relocs.at, p->relocs.n, sizeof(key), by_offset);
}

/* ---- PLT stubs ---- */

static bool skip_bytes(const uint8_t **p, size_t *left, const char *bytes, size_t n, size_t total)
{
	if (*left < total || memcmp(*p, bytes, n) != 0)
		return false;
	*p += total;
	*left -= total;
	return true;
}

/*
 * Decoded by hand, for these are fixed strings of bytes and nothing else is a stub:
 *	[endbr64] [mov $index,%r11d] [bnd] jmp *slot(%rip)
 *		GNU ld, gold, lld and mold: .plt, .plt.sec, .plt.got, .iplt, with -z ibt and without
 *	mov slot(%rip),%r11; call or jmp
 *		lld -z retpolineplt
 */
static bool decode_stub(const uint8_t *code, size_t left, uint64_t address, uint64_t *ret_slot)
{
	const uint8_t *p = code;
	int32_t disp;

	skip_bytes(&p, &left, "\xf3\x0f\x1e\xfa", 4, 4);
	skip_bytes(&p, &left, "\x41\xbb", 2, 6);
	skip_bytes(&p, &left, "\xf2", 1, 1);
	if (skip_bytes(&p, &left, "\xff\x25", 2, 6)) {
		memcpy(&disp, p - 4, sizeof(disp));
	} else if (skip_bytes(&p, &left, "\x4c\x8b\x1d", 3, 7)) {
		if (left < 1 || (*p != 0xe8 && *p != 0xe9))
			return false;
		memcpy(&disp, p - 4, sizeof(disp));
	} else {
		return false;
	}
	*ret_slot = address + (p - code) + (int64_t)disp;
	return true;
}

bool image_plt_slot(const struct image *image, uint64_t address, uint64_t *ret_slot)
{
	uint64_t slot;
	size_t have;
	const uint8_t *code = image_bytes(image, address, PF_X, &have);

	if (!code || !decode_stub(code, have, address, &slot))
		return false;
	const Elf64_Rela *r = image_reloc_at(image, slot);
	if (!r)
		return false;
	switch (ELF64_R_TYPE(r->r_info)) {
	case R_X86_64_JUMP_SLOT:
	case R_X86_64_GLOB_DAT:
	case R_X86_64_IRELATIVE:
		break;
	default:
		return false;
	}
	/*
	 * A function whose body is one -fno-plt tail call has the same bytes. It has a symbol with
	 * a size; a stub that stands for an IFUNC's address has one without (GNU ld sets it 0).
	 */
	const struct image_symbol *s = image_symbol_at(image, address);
	if (s && s->value == address && s->size != 0)
		return false;
	*ret_slot = slot;
	return true;
}
