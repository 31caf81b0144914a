/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of this folder share: limits, the manifest, the seal. docs/FORMAT.md describes
 * the file.
 */
#ifndef FORMAT_FORMAT_H
#define FORMAT_FORMAT_H

#include <stddef.h>

#include "format/patch.h"

/*
 * Limits. A patch beyond them is refused in both directions: they are far above anything real, and
 * low enough that a hostile file cannot make us allocate without end.
 */
enum {
	MAX_IMAGES = 256,
	MAX_SECTIONS = 16384, /* each may need a .rela section; ELF indices end at 0xff00 */
	MAX_SYMBOLS = 1 << 18,
	MAX_RELOCS = 1 << 20, /* in all sections together */
	MAX_FUNCTIONS = 65536,
	MAX_PARTS = 64, /* of one function */
	MAX_EXPECTS = 65536,
	MAX_REFERENCES = 1024,
	MAX_NAME = 65535,	   /* bytes of a symbol name: C++ has long ones */
	MAX_TEXT = 65536,	   /* bytes of a description */
	MAX_ALIGN = 4096,	   /* a page: what mapping the payload can promise */
	MAX_PAYLOAD = 256 << 20,   /* bytes mapped in a target, NOBITS included */
	MAX_OLD_BYTES = 256 << 20, /* of all replaced functions together */
	MAX_NAME_BYTES = 64 << 20, /* of all names together */
	MAX_MANIFEST = 32 << 20,   /* bytes of JSON */
	MAX_SITE_SIZE = 16,	   /* bytes that a detour overwrites */
};
#define MAX_FILE ((size_t)1 << 30)

#define SECTION_MANIFEST ".suture.manifest"
#define SECTION_OLD	 ".suture.old"
#define SECTION_PRIVATE	 ".suture." /* no payload section may be called like this */

#define ID_HEX_SIZE (2 * PATCH_DIGEST_SIZE)

/* The refusal of malformed input. */
#define bad(...) error_create(SUTURE_ERROR_INPUT, __VA_ARGS__)

/* Lower-case hexadecimal of size bytes and a NUL into ret[2 * size + 1]. */
void hex_encode(char *ret, const uint8_t *bytes, size_t size);
/* false: not exactly lower-case hex pairs of at most `max` bytes. */
bool hex_decode(const char *hex, uint8_t *ret, size_t max, size_t *ret_size);

/*
 * The manifest of `patch` as JSON text with the id all zeros, malloc'ed. elf_symbol[i] is the index
 * in the file's .symtab of patch->symbols.at[i]. The old bytes of functions lie one after the other
 * in section .suture.old.
 */
struct suture_error *manifest_create(
	const struct patch *patch, const uint32_t *elf_symbol, char **ret) MUST_USE;

/*
 * Take from the manifest what ELF does not hold. On entry `patch` has its sections (all but the
 * image) and symbols as they stand in the file; an undefined one has no name and receives one here,
 * with everything else about it. `old`: content of section .suture.old.
 */
struct json_t;
struct suture_error *manifest_parse(const struct json_t *root, const uint8_t *old, size_t old_size,
	struct patch *patch) MUST_USE;
/* JSON syntax and the schema version, nothing else. *ret: json_decref(). */
struct suture_error *manifest_load(const char *text, size_t size, struct json_t **ret) MUST_USE;

/*
 * The seal is the patch's id: SHA-256 over the whole file with the id's own 64 hex digits in the
 * manifest taken as '0'. manifest_at, manifest_size: where the manifest lies in the file.
 */
struct suture_error *seal_compute(const uint8_t *file, size_t size, size_t manifest_at,
	size_t manifest_size, uint8_t ret[PATCH_DIGEST_SIZE], size_t *ret_id_at) MUST_USE;

#endif
