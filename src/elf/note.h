/* SPDX-License-Identifier: Apache-2.0 */
/* The build-id in a run of ELF notes (a PT_NOTE segment), from file or memory. */
#ifndef ELF_NOTE_H
#define ELF_NOTE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { BUILD_ID_MAX = 64, NOTES_MAX = 64 * 1024 };

/*
 * `align`: p_align; 8 means notes padded to 8 bytes (.note.gnu.property), all else to 4, as
 * binutils and elfutils take it. A malformed note ends the search. Untouched when not found.
 */
bool note_find_build_id(const uint8_t *data, size_t size, uint64_t align, uint8_t ret[BUILD_ID_MAX],
	size_t *ret_size);

#endif
