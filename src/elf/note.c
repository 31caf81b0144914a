/* SPDX-License-Identifier: Apache-2.0 */
/* Finding the build-id: see note.h. */
#include <elf.h>
#include <string.h>

#include "elf/note.h"

static size_t skip(size_t n, size_t align)
{
	return (n + align - 1) & ~(align - 1);
}

static bool is_build_id(const Elf64_Nhdr *note, const uint8_t *name)
{
	return note->n_type == NT_GNU_BUILD_ID && note->n_namesz == sizeof(ELF_NOTE_GNU) &&
	       memcmp(name, ELF_NOTE_GNU, sizeof(ELF_NOTE_GNU)) == 0 && note->n_descsz > 0 &&
	       note->n_descsz <= BUILD_ID_MAX;
}

bool note_find_build_id(const uint8_t *data, size_t size, uint64_t align, uint8_t ret[BUILD_ID_MAX],
	size_t *ret_size)
{
	size_t pad = align == 8 ? 8 : 4, at = 0;
	Elf64_Nhdr note;

	while (size - at >= sizeof(note)) {
		memcpy(&note, data + at, sizeof(note));
		at += sizeof(note);
		/* The fields have 32 bits: rounding up cannot overflow size_t. */
		if (note.n_namesz > size - at)
			return false;
		size_t desc = skip(at + note.n_namesz, pad);
		if (desc > size || note.n_descsz > size - desc)
			return false;
		if (is_build_id(&note, data + at)) {
			memcpy(ret, data + desc, note.n_descsz);
			*ret_size = note.n_descsz;
			return true;
		}
		at = skip(desc + note.n_descsz, pad);
		if (at > size)
			return false;
	}
	return false;
}
