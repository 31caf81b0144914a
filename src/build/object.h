/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A compiled unit as pieces that can be compared. An ET_REL file is cut into *spans*, one per
 * function, variable, string or constant, and every relocation becomes a reference from one span
 * to another, independent of where the assembler put things and which symbol it chose to name.
 *
 * Objects are compiled with -ffunction-sections -fdata-sections, and with the assembler keeping
 * its local labels (-Wa,-L): the labels tell where one anonymous constant ends and the next begins.
 */
#ifndef BUILD_OBJECT_H
#define BUILD_OBJECT_H

#include <gelf.h>
#include <stdbool.h>

#include "base/error.h"
#include "base/vec.h"

enum span_kind {
	SPAN_CODE,
	SPAN_DATA,     /* writable */
	SPAN_CONSTANT, /* read-only; .data.rel.ro counts */
	SPAN_TLS,
	SPAN_INIT, /* tables that the runtime walks once: .init_array, .ctors, ... */
	SPAN_LSDA, /* .gcc_except_table */
};

struct span;

/* One relocation, seen as "the span at this offset refers to that span". */
struct ref {
	uint64_t offset; /* of the field, from the start of the span */
	uint32_t type;
	uint32_t symbol;     /* what the relocation names: index into object.symbols */
	struct span *target; /* NULL: symbol is not defined in this object */
	int64_t addend;	     /* from the start of target (or the symbol) to what is reached */
	/* The formula's own addend is addend - bias. In code: distance from the field to the end of
	 * its instruction; in tables of offsets: distance from the field to the table. */
	int64_t bias;
	bool branch;	/* operand of a call or jump, through a GOT slot or not */
	uint8_t access; /* bytes accessed there and nowhere else; 0: not known */
};

struct span {
	const char *name; /* NULL: known by its content only */
	enum span_kind kind;
	struct object *object;
	uint32_t index;	  /* in object.spans */
	uint32_t section; /* 0: COMMON */
	uint64_t start;	  /* in the section */
	uint64_t size;
	uint64_t align;
	const uint8_t *data; /* NULL: zeroes (.bss) */
	uint8_t type, bind, visibility;
	bool anonymous; /* a constant without identity: any copy with the same content will do */
	bool opaque;	/* code that does not decode */
	VEC(const char *) aliases; /* all names at its start */
	VEC(struct ref) refs;	   /* ascending offsets */
	/* Code: its unwind description in .eh_frame; fde_size 0: none. */
	uint64_t fde, fde_size, cie, cie_size;
	struct span *lsda;

	/* Static locals, when debug information tells: the function, and the line of declaration.
	 */
	char *scope;
	unsigned line;

	/* Filled by correlate(), compare() and select. */
	struct span *twin;   /* the same thing in the other object */
	struct span *parent; /* of a .cold part: the function that it was split off from */
	bool changed;	     /* has no twin, or differs from it */
	char *reason;	     /* why it is in the patch; owned */
};

struct object_section {
	const char *name;
	uint32_t type;
	uint64_t flags, align, size, entsize;
	const uint8_t *data; /* NULL for SHT_NOBITS */
	bool kept;	     /* is cut into spans */
	bool ambiguous; /* several anonymous spans, and a reference that may mean either of two */
	VEC(uint32_t) symbols;	  /* defined here */
	VEC(struct span *) spans; /* ascending, disjoint, covering what is not padding */
	VEC(struct ref) raw; /* relocations as read: symbol, addend as in the file, bias, branch */
};

struct object_symbol {
	const char *name;
	uint64_t value, size;
	uint8_t type, bind, visibility;
	uint32_t shndx;	   /* SHN_XINDEX resolved; SHN_UNDEF, SHN_COMMON, SHN_ABS as they are */
	bool reserved;	   /* shndx is one of SHN_LORESERVE.. (ABS, COMMON) */
	struct span *span; /* defined in this object */
	uint64_t offset;   /* from the start of span */
};

struct object {
	char *path;
	const char *file; /* STT_FILE: base name of the source; NULL when there is none */
	int fd;
	Elf *elf;
	uint32_t eh_frame;		     /* section index; 0: none */
	VEC(struct object_section) sections; /* by ELF index */
	VEC(struct object_symbol) symbols;   /* by ELF index: locals first */
	size_t first_global;
	VEC(struct span *) spans;
	VEC(char *) functions; /* names of source functions, when static locals made us look */
};

/* Errors: INPUT (malformed), UNSUPPORTED (LTO, another machine, REL relocations). */
struct suture_error *object_open(const char *path, struct object **ret) MUST_USE;
void object_close(struct object *object);
static inline void object_closep(struct object **object)
{
	object_close(*object);
}

/* Name for messages: its own, or one made up from section and offset. buf is used if needed. */
const char *span_name(const struct span *span, char *buf, size_t len);
#define SPAN_NAME_MAX	128
#define SPAN_NAME(span) span_name(span, (char[SPAN_NAME_MAX]){}, SPAN_NAME_MAX)

/* Is it one of the span's names? What follows an '@' (a version) does not count. */
bool span_has_name(const struct span *span, const char *name);

/*
 * A variable inside of a function. GCC: count.3; clang: f.count, f.count.1. Numbers go by order,
 * which a new one upsets.
 */
bool span_is_static_local(const struct span *span);

/* Length of `name` without the suffixes that a compiler adds (.isra.0, .constprop.1, .cold, .5). */
size_t symbol_stem(const char *name);
/* "foo.cold", "foo.cold.1", "foo.part.0.cold": a split part that jumps back into its function. */
bool symbol_is_cold(const char *name);

/* ---- between object.c, span.c and ref.c ---- */

struct suture_error *object_make_spans(struct object *object) MUST_USE;
struct suture_error *object_make_refs(struct object *object) MUST_USE;
/* Find each function's FDE. */
struct suture_error *object_read_unwind(struct object *object) MUST_USE;
/* A function of the source, inlined ones included; without debug information, of the object. */
bool object_has_function(const struct object *object, const char *name);
/* Fill scope and line of static locals. */
struct suture_error *object_read_scopes(struct object *object) MUST_USE;
/* A relocation of .eh_frame as a reference; offset stays relative to the section. */
void object_unwind_ref(const struct object *object, const struct ref *raw, struct ref *ret);
/* The span that an offset of a section belongs to, and the offset from its start; NULL: none. */
struct span *object_span_at(
	const struct object *object, uint32_t section, int64_t offset, int64_t *ret_addend);

#endif
