/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The live patch as both sides see it: `build` fills a struct patch and writes it, `apply` reads
 * one and never looks at anything else. On disk it is an ELF relocatable object (ET_REL) that
 * readelf and objdump understand, plus a JSON manifest in section `.suture.manifest`
 * (docs/FORMAT.md).
 *
 * A reference out of the payload is a symbol with a kind; a relocation names a symbol. Nothing is
 * resolved by guessing when the patch is applied: an ADDRESS is a link-time address in an image of
 * known build-id, a DYNAMIC symbol is looked up as the dynamic linker would from that image.
 *
 * All addresses are link-time addresses (as in the image's own symbol table; add the load bias).
 */
#ifndef FORMAT_PATCH_H
#define FORMAT_PATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/vec.h"

#define PATCH_BUILD_ID_MAX   64 /* bytes */
#define PATCH_DIGEST_SIZE    32 /* SHA-256 */
#define PATCH_FORMAT_VERSION 1

struct patch_image {
	char *name; /* base name or soname, for messages and list */
	uint8_t build_id[PATCH_BUILD_ID_MAX];
	size_t build_id_size;
	bool fixed; /* ET_EXEC: payload must be reachable by absolute 32-bit addresses */
};

struct patch_reloc {
	uint64_t offset; /* in the section */
	uint32_t type;	 /* R_X86_64_* */
	uint32_t symbol; /* index into patch.symbols */
	int64_t addend;
};

/* A piece of payload. Flags and alignment are ELF's; payload is mapped by access class. */
struct patch_section {
	char *name;	/* .text.f, .rodata.x, .data.y, .bss.z, .eh_frame */
	uint32_t image; /* index into patch.images: lives within 2 GiB of it */
	uint32_t type;	/* SHT_PROGBITS | SHT_NOBITS | SHT_X86_64_UNWIND */
	uint64_t flags; /* SHF_ALLOC always; SHF_WRITE, SHF_EXECINSTR */
	uint64_t align; /* power of two, at most 4096 */
	uint64_t size;
	uint8_t *data; /* size bytes; NULL for SHT_NOBITS */
	VEC(struct patch_reloc) relocs;
};

enum patch_symbol_kind {
	PATCH_SYMBOL_PAYLOAD,	  /* section + value */
	PATCH_SYMBOL_ADDRESS,	  /* image + value: existing function or data of that image.
				     elf_type STT_GNU_IFUNC: value is the resolver's address and
				     the reference means what the resolver chose */
	PATCH_SYMBOL_DYNAMIC,	  /* name (+ version): what the dynamic linker would bind a
				     reference from `image` to; data or function, IFUNC, COPY */
	PATCH_SYMBOL_TLS,	  /* value: offset in the TLS segment of `image` */
	PATCH_SYMBOL_TLS_DYNAMIC, /* thread-local variable by name, found as DYNAMIC is */
};

struct patch_symbol {
	char *name; /* never NULL; empty only for a section symbol. Two references may share a name
		       (static functions of two files) when they differ in anything else */
	enum patch_symbol_kind kind;
	uint8_t elf_type; /* STT_FUNC, STT_OBJECT, STT_NOTYPE, STT_TLS, STT_GNU_IFUNC, STT_SECTION
			   */
	bool weak;	  /* DYNAMIC: 0 when nobody defines it */
	bool local;	  /* PAYLOAD: STB_LOCAL in the file */
	uint32_t section; /* PAYLOAD: index into patch.sections */
	uint32_t image;	  /* all other kinds: index into patch.images */
	uint64_t value;
	uint64_t size;
	char *version; /* DYNAMIC: symbol version or NULL for the default one */
};

struct patch_range {
	uint64_t address, size;
};

/* A function that the patch replaces (address != 0) or brings (address == 0). */
struct patch_function {
	char *name;
	uint32_t image;
	uint64_t address, size;	       /* the old function in the image */
	uint8_t *old_bytes;	       /* `size` bytes: what must be there; NULL when new */
	uint32_t site;		       /* offset of the detour from address (after endbr64) */
	uint32_t site_size;	       /* bytes that the detour overwrites: 5 for a near jump */
	VEC(struct patch_range) parts; /* further old code that is this function's: .cold, .part */
	uint32_t symbol;	       /* index into patch.symbols: the new body (PAYLOAD) */
	uint64_t new_size;
	char *unit;   /* source file as the compiler was given it */
	char *reason; /* why it is in the patch */
};

/* Code that the payload leans on without replacing it: must be there, byte for byte. */
struct patch_expect {
	char *name;
	uint32_t image;
	uint64_t address, size;
	uint8_t digest[PATCH_DIGEST_SIZE]; /* SHA-256 of the bytes */
};

struct patch {
	char *name; /* [A-Za-z0-9][A-Za-z0-9._+-]{0,127} */
	char *version;
	char *description;	       /* may be NULL */
	char *created_by;	       /* "suture 0.1.0" */
	char *compiler;		       /* what built it, may be NULL */
	uint8_t id[PATCH_DIGEST_SIZE]; /* SHA-256 over the content; set by patch_write and _read */
	VEC(char *) references;
	VEC(struct patch_image) images;
	VEC(struct patch_section) sections;
	VEC(struct patch_symbol) symbols;
	VEC(struct patch_function) functions;
	VEC(struct patch_expect) expects;
	char *manifest; /* JSON text; set by patch_write and patch_read */
};

/* The handle of the public interface. */
struct suture_patch {
	struct patch *patch;
};

struct patch *patch_create(void); /* empty; NULL when out of memory */
void patch_destroy(struct patch *patch);
static inline void patch_destroyp(struct patch **patch)
{
	patch_destroy(*patch);
}

/* Check every index, size, range and string of `patch`; both directions call it. */
struct suture_error *patch_validate(const struct patch *patch) MUST_USE;

/*
 * Serialise: malloc'ed buffer. Deterministic: the same patch gives the same bytes. A patch that is
 * read back has its local symbols first; indices into symbols are the only thing that changes.
 */
struct suture_error *patch_serialize(struct patch *patch, void **ret, size_t *ret_size) MUST_USE;
/* Serialise into `path`, replaced atomically (temporary file, fsync, rename). */
struct suture_error *patch_write(struct patch *patch, const char *path) MUST_USE;

/* Parse and validate; the bytes may be hostile. `what` names them in messages. */
struct suture_error *patch_parse(
	const void *data, size_t size, const char *what, struct patch **ret) MUST_USE;
struct suture_error *patch_read(const char *path, struct patch **ret) MUST_USE;

#endif
