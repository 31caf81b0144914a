/* SPDX-License-Identifier: Apache-2.0 */
/*
 * .eh_frame of an image that has no PT_GNU_EH_FRAME. gcc -static and musl-gcc link without
 * --eh-frame-hdr: the section is mapped, but no program header says where.
 */
#ifndef ELF_EH_FRAME_SEARCH_H
#define ELF_EH_FRAME_SEARCH_H

#include "elf/module.h"

/*
 * Looks for what only a section start looks like: a CIE, records up to a terminator without a gap,
 * all of them about this image's code.
 */
struct suture_error *eh_frame_search(const struct module *m, const struct reader *reader,
	remote_addr *ret_start, uint64_t *ret_size, bool *found) MUST_USE;

#endif
