/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small linker: turns the sections of a patch into payloads, one for each image that has any,
 * ready to be written into a target.
 *
 * A payload is one reservation of address space, each part of whole pages with its final protection
 * from the start (no page is ever writable and executable, and no later mprotect is needed, which
 * MemoryDenyWriteExecute would deny):
 *
 *	guard ---	one page; keeps the kernel from merging what follows with a neighbour
 *	ro    r--	the ledger record (others: a tag), .eh_frame, constants, GOT
 *	text  r-x	code, veneers, stubs for unresolved IFUNCs
 *	data  rw-	variables, then zeroes
 *	guard ---
 *
 * Order of use: link_create (binds every symbol), link_find_functions, link_layout, place each
 * payload (payload.start), link_relocate. The target is only read.
 */
#ifndef APPLY_LINK_H
#define APPLY_LINK_H

#include "apply/bind.h"
#include "arch/arch.h"

enum { AREA_RO, AREA_TEXT, AREA_DATA, N_AREAS };

struct link_area {
	uint64_t at;	 /* offset of the area in the payload, pages */
	uint64_t size;	 /* pages; 0: the area is not there */
	uint64_t used;	 /* bytes */
	uint64_t filled; /* bytes that have content; zeroes follow */
	uint8_t *bytes;	 /* `filled` bytes */
};

/* A GOT slot or pair: `need` says what it holds about the symbol. */
struct link_slot {
	uint32_t symbol;
	enum reloc_need need;
	uint64_t at; /* offset in the area */
};

/* A jump to what a 32-bit displacement does not reach, or to an IFUNC that nobody resolved yet. */
struct link_veneer {
	uint32_t symbol;
	uint64_t at;   /* offset in the text area */
	uint64_t slot; /* offset in the ro area; of a stub: in the data area */
};

/* A function of a payload. */
struct link_function {
	const char *name;
	uint32_t section;
	uint64_t offset, size; /* in the section */
	bool escapes;	       /* the payload takes its address */
};

struct payload {
	uint32_t image; /* index into patch.images */
	struct target_image *target;
	remote_addr start; /* set by the caller after link_layout() */
	uint64_t size;	   /* with both guards */
	struct link_area areas[N_AREAS];
	uint64_t eh_frame, eh_frame_size; /* offset in the ro area */
	VEC(struct link_slot) slots;
	VEC(struct link_veneer) veneers;
	VEC(struct link_veneer) stubs;
};

struct link {
	const struct arch *arch;
	const struct patch *patch;
	struct binder binder;
	struct binding *bindings;     /* per symbol; payload symbols: empty */
	uint64_t *section_at;	      /* per section: offset in its payload */
	VEC(struct payload) payloads; /* in the order of patch.images */
	VEC(struct link_function) functions;
};

struct suture_error *link_create(struct target *target, const struct patch *patch,
	struct target_image **images, struct link **ret) MUST_USE;
void link_destroy(struct link *link);
static inline void link_destroyp(struct link **link)
{
	link_destroy(*link);
}
/* Fills `functions`. */
struct suture_error *link_find_functions(struct link *link) MUST_USE;
/*
 * The first payload begins (behind its guard page) with `first` bytes of room, the others with
 * `others`.
 */
struct suture_error *link_layout(struct link *link, uint64_t first, uint64_t others) MUST_USE;
/* Needs every payload's start. RANGE, SYMBOL, UNSUPPORTED say which reference cannot be made. */
struct suture_error *link_relocate(struct link *link) MUST_USE;

/* The payload of an image; NULL: it has none. */
struct payload *link_payload(const struct link *link, uint32_t image);
/* Where a payload symbol is, once the payloads are placed. */
remote_addr link_symbol_address(const struct link *link, uint32_t symbol);
remote_addr link_function_address(const struct link *link, const struct link_function *function);

static inline remote_addr payload_area(const struct payload *p, int area)
{
	return p->start + p->areas[area].at;
}

#endif
