/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What goes into the patch for one target image: the units that are linked into it, the spans of
 * their fixed objects that the payload carries, and what every reference of those is bound to.
 */
#ifndef BUILD_ASSEMBLY_H
#define BUILD_ASSEMBLY_H

#include "build/locate.h"
#include "format/patch.h"

/* A unit, before and after, compared. */
struct pair {
	const struct unit *unit;
	struct object *before; /* NULL: the fix adds the unit */
	struct object *after;  /* NULL: the fix removes it */
};

/* Where a span of `after` is in the patch. */
struct carried {
	bool in;
	bool placed;
	uint32_t section; /* index into patch.sections */
	uint64_t offset;
	uint32_t symbol; /* index into patch.symbols; UINT32_MAX: none yet */
};

/* A unit in the image. */
struct part {
	const struct pair *pair;
	bool hosted; /* the image has it: location is valid */
	struct location location;
	struct carried *carried; /* per span of after */
};

struct work {
	struct part *part;
	struct span *span;
};

struct assembly {
	struct suture *ctx;
	struct patch *patch;
	struct target *target;
	uint32_t image; /* index into patch.images */
	VEC(struct part) parts;
	VEC(struct work) work;	 /* carried spans, in the order of discovery */
	VEC(uint32_t) externals; /* references made so far: indices into patch.symbols */
};

/* What a reference means. */
enum binding_kind {
	BIND_PAYLOAD, /* part, span */
	BIND_ADDRESS, /* place in the image: name, value, size, elf_type */
	BIND_DYNAMIC, /* by name and dynsym (0: not imported yet) */
	BIND_TLS,
	BIND_TLS_DYNAMIC,
};
struct binding {
	enum binding_kind kind;
	struct part *part;
	struct span *span;
	const char *name;
	uint64_t value, size;
	uint8_t elf_type;
	uint32_t dynsym;
	bool weak;
};

/* ---- host.c ---- */

/* Set part.hosted; all assemblies have the same parts in the same order. */
void assembly_choose_hosts(struct assembly *assemblies, size_t n);

/* ---- bind.c ---- */

/* The part that `before` is an object of, where it is hosted; NULL: none. */
struct part *assembly_part_of(struct assembly *as, const struct object *before);
/* Where the twin of a span of the fixed object is; NULL: it has none in this image. */
const struct place *assembly_old_place(struct assembly *as, const struct span *after);
/* Why that place cannot be used. */
struct suture_error *assembly_place_error(struct assembly *as, const struct span *after) MUST_USE;
/* A function of the image gets this new body. */
bool assembly_is_replaced(struct assembly *as, const struct span *after);
/* Errors: SYMBOL, SOURCE_MISMATCH, REFUSED, UNSUPPORTED, each naming both ends. */
struct suture_error *assembly_bind(struct assembly *as, struct part *part, const struct span *from,
	const struct ref *ref, struct binding *ret) MUST_USE;

/* ---- refuse.c: changes that must not go into a running process ---- */

struct suture_error *refuse_changes(const struct part *part) MUST_USE;
/* A span that cannot be carried. */
struct suture_error *refuse_span(const struct part *part, const struct span *span) MUST_USE;

/* ---- emit.c ---- */

/* Sections, symbols and relocations of all that is carried. */
struct suture_error *assembly_emit(struct assembly *as) MUST_USE;
/* The symbol of a carried span. */
struct suture_error *emit_payload_symbol(
	struct assembly *as, struct part *part, const struct span *span, uint32_t *ret) MUST_USE;
/* One relocation of a carried span at `offset` of a patch section. */
struct suture_error *emit_reloc(struct assembly *as, struct part *part, const struct span *from,
	const struct ref *ref, uint32_t section, uint64_t offset) MUST_USE;

/* ---- external.c: references out of the payload ---- */

struct suture_error *emit_external(struct assembly *as, const struct part *part,
	const struct binding *binding, uint32_t *ret) MUST_USE;

/* ---- emit_unwind.c ---- */

struct suture_error *emit_unwind(struct assembly *as) MUST_USE;

/* ---- replace.c: the old functions ---- */

/* patch.functions of everything carried. Errors: TOO_SMALL, REFUSED. */
struct suture_error *emit_functions(struct assembly *as) MUST_USE;

#endif
