/* SPDX-License-Identifier: Apache-2.0 */
/* Words of the manifest that writing and reading must spell alike. */
#ifndef FORMAT_MANIFEST_H
#define FORMAT_MANIFEST_H

#include "format/format.h"

/* By enum patch_symbol_kind; PAYLOAD has none; ends with NULL. */
extern const char *const manifest_kinds[];

struct manifest_type {
	uint8_t elf_type;
	const char *name;
};
/* Ends with a NULL name. */
extern const struct manifest_type manifest_types[];

#endif
