/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A target image, indexed for finding things by name and by address, and what the fields of its
 * code and data mean after the static linker is done with them.
 */
#ifndef BUILD_TARGET_H
#define BUILD_TARGET_H

#include "arch/arch.h"
#include "elf/image.h"

struct target {
	struct image *image;
	uint32_t patch_image; /* index into patch.images once the patch needs it */
	bool used;
	/* Private: indices into image->symbols. */
	uint32_t *by_name, *by_address;
	size_t n_names, n_addresses;
};

struct suture_error *target_init(struct target *target, struct image *image) MUST_USE;
void target_deinit(struct target *target);

/* A symbol's name ends at its version: .symtab may hold "foo@@V1". */
size_t symbol_name_length(const char *name);

/* Defined symbols of that name: call until NULL, *at 0 before the first. */
const struct image_symbol *target_find(const struct target *target, const char *name, size_t *at);
/* .dynsym entry of that name, defined or not; 0: none. */
uint32_t target_dynsym(const struct target *target, const char *name);
/* Where the next symbol begins behind `address`, or the end of its segment. */
uint64_t target_next(const struct target *target, uint64_t address);
/* false: not all of it is there. */
bool target_read(const struct target *target, uint64_t address, void *buf, size_t len);
/* The dynamic linker may bind references to this .dynsym entry to another image's definition. */
bool target_preemptible(const struct target *target, uint32_t dynsym);

/* What a reference turned out to mean. */
enum value_kind {
	VALUE_NONE,
	VALUE_ADDRESS,
	VALUE_DYNAMIC,	   /* what the dynamic linker finds by name */
	VALUE_TLS,	   /* offset in the image's own segment */
	VALUE_TLS_DYNAMIC, /* thread-local, by name */
};
struct value {
	enum value_kind kind;
	uint64_t number; /* address, or offset in the TLS segment */
	uint32_t dynsym;
};

/* From the field of a linked instruction. false: it makes no sense. */
bool target_code_value(
	const struct target *target, enum code_form form, uint64_t raw, struct value *ret);
/* From a relocated field of data; `type` is the type that it had before linking. */
bool target_data_value(const struct target *target, uint32_t type, uint64_t address, int64_t bias,
	struct value *ret);

#endif
