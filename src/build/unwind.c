/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which part of .eh_frame describes which function: an FDE moves with its function, and its CIE
 * with it (LSB Core, "Exception Frames").
 */
#include <string.h>

#include "build/object.h"

struct eh_walk {
	struct object *object;
	const struct object_section *section;
	size_t raw; /* first relocation not yet passed */
};

static struct suture_error *malformed(const struct eh_walk *walk, uint64_t at)
{
	return error_create(SUTURE_ERROR_INPUT, "%s: malformed .eh_frame at 0x%llx",
		walk->object->path, (unsigned long long)at);
}

static uint32_t word_at(const struct object_section *s, uint64_t at)
{
	uint32_t word;

	memcpy(&word, s->data + at, sizeof(word));
	return word;
}

void object_unwind_ref(const struct object *object, const struct ref *raw, struct ref *ret)
{
	const struct object_symbol *sym = &object->symbols.at[raw->symbol];

	*ret = *raw;
	ret->bias = 0;
	if (sym->type == STT_SECTION && !sym->reserved) {
		ret->target = object_span_at(object, sym->shndx, raw->addend, &ret->addend);
	} else {
		ret->target = sym->span;
		ret->addend += (int64_t)sym->offset;
	}
}

static struct span *target_of(const struct object *object, const struct ref *raw)
{
	struct ref ref;

	object_unwind_ref(object, raw, &ref);
	return ref.target;
}

/* The function is the first relocation of an FDE, the LSDA the second. */
static void note_fde(
	struct eh_walk *walk, uint64_t at, uint64_t size, uint64_t cie, uint64_t cie_size)
{
	struct span *span = NULL;

	for (; walk->raw < walk->section->raw.n; walk->raw++) {
		const struct ref *raw = &walk->section->raw.at[walk->raw];

		if (raw->offset >= at + size)
			break;
		if (raw->offset == at + 8) {
			span = target_of(walk->object, raw);
			if (span && (span->kind != SPAN_CODE || span->fde_size))
				span = NULL;
		} else if (span && raw->offset > at + 8) {
			span->lsda = target_of(walk->object, raw);
		}
	}
	if (!span)
		return;
	span->fde = at;
	span->fde_size = size;
	span->cie = cie;
	span->cie_size = cie_size;
}

static struct suture_error *note_entry(struct eh_walk *walk, uint64_t at, uint64_t size)
{
	uint32_t back = word_at(walk->section, at + 4);

	while (walk->raw < walk->section->raw.n && walk->section->raw.at[walk->raw].offset < at)
		walk->raw++;
	if (!back) /* a CIE */
		return NULL;
	uint64_t cie = at + 4 - back;
	if (back > at + 4 || cie + 8 > at || word_at(walk->section, cie + 4) ||
		word_at(walk->section, cie) > at - cie - 4)
		return malformed(walk, at);
	note_fde(walk, at, size, cie, word_at(walk->section, cie) + 4);
	return NULL;
}

static struct suture_error *walk_section(struct object *object, uint32_t index)
{
	struct eh_walk walk = {.object = object, .section = &object->sections.at[index]};
	uint64_t size = walk.section->size;

	object->eh_frame = index;
	for (uint64_t at = 0; size - at >= 4;) {
		uint64_t length = word_at(walk.section, at);

		if (!length) { /* a terminator */
			at += 4;
			continue;
		}
		/* 0xffffffff: 64-bit DWARF, which no compiler emits here. */
		if (length < 4 || length > size - at - 4)
			return malformed(&walk, at);
		TRY(note_entry(&walk, at, length + 4));
		at += length + 4;
	}
	return NULL;
}

struct suture_error *object_read_unwind(struct object *object)
{
	for (size_t i = 1; i < object->sections.n; i++) {
		const struct object_section *s = &object->sections.at[i];

		if (!strcmp(s->name, ".eh_frame") && s->data && s->flags & SHF_ALLOC)
			return walk_section(object, i);
	}
	return NULL;
}
