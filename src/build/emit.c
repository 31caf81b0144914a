/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Carried spans as sections of the patch. Functions and variables get a section each. Anonymous
 * constants of one section stay together, at their old distances, for a pointer to the end of one
 * is a pointer to the next.
 */
#include <string.h>

#include "base/cleanup.h"
#include "build/assembly.h"

#define MAX_SECTION_ALIGN 4096 /* what patch_validate() accepts */

/* ---- sections ---- */

static uint64_t patch_flags(const struct span *span)
{
	switch (span->kind) {
	case SPAN_CODE:
		return SHF_ALLOC | SHF_EXECINSTR;
	case SPAN_DATA:
		return SHF_ALLOC | SHF_WRITE;
	default:
		return SHF_ALLOC;
	}
}

static const char *prefix_of(const struct span *span)
{
	switch (span->kind) {
	case SPAN_CODE:
		return ".text.";
	case SPAN_DATA:
		return span->data ? ".data." : ".bss.";
	default:
		return ".rodata.";
	}
}

static struct suture_error *add_section(struct assembly *as, char *name, const struct span *span,
	uint64_t align, uint64_t size, uint32_t *ret)
{
	struct patch_section *s = vec_add(&as->patch->sections);

	if (!s || !name) {
		free(name);
		return error_nomem();
	}
	*s = (struct patch_section){
		.name = name,
		.image = as->image,
		.type = span->data || span->kind != SPAN_DATA ? SHT_PROGBITS : SHT_NOBITS,
		.flags = patch_flags(span),
		.align = align,
		.size = size,
	};
	*ret = as->patch->sections.n - 1;
	if (align > MAX_SECTION_ALIGN)
		return error_create(SUTURE_ERROR_UNSUPPORTED,
			"%s is aligned to %llu bytes; at most %d are supported", name,
			(unsigned long long)align, MAX_SECTION_ALIGN);
	if (s->type == SHT_PROGBITS && size) {
		s->data = calloc(1, size);
		if (!s->data)
			return error_nomem();
	}
	return NULL;
}

static void fill(struct assembly *as, uint32_t section, uint64_t offset, const struct span *span)
{
	uint8_t *data = as->patch->sections.at[section].data;

	if (data && span->data && span->size)
		memcpy(data + offset, span->data, span->size);
}

static void settle(struct assembly *as, struct part *part, const struct span *span, uint32_t at,
	uint64_t offset)
{
	struct carried *c = &part->carried[span->index];

	c->placed = true;
	c->section = at;
	c->offset = offset;
	fill(as, at, offset, span);
}

static struct suture_error *place_alone(
	struct assembly *as, struct part *part, const struct span *span)
{
	char *name = NULL;
	uint32_t section;

	if (asprintf(&name, "%s%s", prefix_of(span), SPAN_NAME(span)) < 0)
		name = NULL;
	TRY(add_section(as, name, span, span->align, span->size, &section));
	settle(as, part, span, section, 0);
	return NULL;
}

/* Mergeable constants: only those that are used, one behind the other. */
static struct suture_error *place_merged(
	struct assembly *as, struct part *part, const struct object_section *s)
{
	const struct span *first = NULL;
	uint64_t size = 0;
	uint32_t section;

	vec_foreach (p, &s->spans) {
		struct carried *c = &part->carried[(*p)->index];

		if (!c->in)
			continue;
		first = first ? first : *p;
		c->offset = (size + (*p)->align - 1) & ~((*p)->align - 1);
		size = c->offset + (*p)->size;
	}
	TRY(add_section(as, strdup(s->name), first, s->align, size, &section));
	vec_foreach (p, &s->spans)
		if (part->carried[(*p)->index].in)
			settle(as, part, *p, section, part->carried[(*p)->index].offset);
	return NULL;
}

/* What is not referred to keeps its place, without its relocations. */
static struct suture_error *place_whole(
	struct assembly *as, struct part *part, const struct object_section *s)
{
	uint32_t section;

	TRY(add_section(as, strdup(s->name), s->spans.at[0], s->align, s->size, &section));
	vec_foreach (p, &s->spans) {
		if (part->carried[(*p)->index].in)
			settle(as, part, *p, section, (*p)->start);
		else
			fill(as, section, (*p)->start, *p);
	}
	return NULL;
}

static struct suture_error *place(struct assembly *as, struct part *part, const struct span *span)
{
	const struct object_section *s = &span->object->sections.at[span->section];

	if (part->carried[span->index].placed)
		return NULL;
	if (!span->anonymous || s->spans.n == 1)
		return place_alone(as, part, span);
	if (s->flags & SHF_MERGE)
		return place_merged(as, part, s);
	return place_whole(as, part, s);
}

/* ---- symbols ---- */

static uint8_t symbol_type(const struct span *span)
{
	if (span->anonymous)
		return STT_SECTION;
	return span->kind == SPAN_CODE ? STT_FUNC : STT_OBJECT;
}

static struct suture_error *section_symbol(struct assembly *as, uint32_t section, uint32_t *ret)
{
	for (size_t i = 0; i < as->patch->symbols.n; i++) {
		const struct patch_symbol *s = &as->patch->symbols.at[i];

		if (s->kind == PATCH_SYMBOL_PAYLOAD && s->elf_type == STT_SECTION &&
			s->section == section) {
			*ret = i;
			return NULL;
		}
	}
	struct patch_symbol *s = vec_add(&as->patch->symbols);
	if (!s || !(s->name = strdup("")))
		return error_nomem();
	s->kind = PATCH_SYMBOL_PAYLOAD;
	s->elf_type = STT_SECTION;
	s->local = true;
	s->section = section;
	*ret = as->patch->symbols.n - 1;
	return NULL;
}

struct suture_error *emit_payload_symbol(
	struct assembly *as, struct part *part, const struct span *span, uint32_t *ret)
{
	struct carried *c = &part->carried[span->index];

	if (symbol_type(span) == STT_SECTION)
		return section_symbol(as, c->section, ret);
	if (c->symbol == UINT32_MAX) {
		struct patch_symbol *s = vec_add(&as->patch->symbols);

		if (!s || !(s->name = strdup(SPAN_NAME(span))))
			return error_nomem();
		s->kind = PATCH_SYMBOL_PAYLOAD;
		s->elf_type = symbol_type(span);
		s->local = span->bind == STB_LOCAL;
		s->section = c->section;
		s->value = c->offset;
		s->size = span->size;
		c->symbol = as->patch->symbols.n - 1;
	}
	*ret = c->symbol;
	return NULL;
}

/* ---- relocations ---- */

struct suture_error *emit_reloc(struct assembly *as, struct part *part, const struct span *from,
	const struct ref *ref, uint32_t section, uint64_t offset)
{
	struct binding to;
	struct patch_reloc reloc = {
		.offset = offset,
		.type = ref->type,
		.addend = ref->addend - ref->bias,
	};

	TRY(assembly_bind(as, part, from, ref, &to));
	if (to.kind == BIND_PAYLOAD) {
		const struct carried *c = &to.part->carried[to.span->index];

		if (!c->placed)
			return error_create(SUTURE_ERROR_INTERNAL,
				"%s refers to %s, which was not carried", SPAN_NAME(from),
				SPAN_NAME(to.span));
		TRY(emit_payload_symbol(as, to.part, to.span, &reloc.symbol));
		if (symbol_type(to.span) == STT_SECTION)
			reloc.addend += (int64_t)c->offset;
	} else {
		TRY(error_wrap(emit_external(as, part, &to, &reloc.symbol), "%s", SPAN_NAME(from)));
	}
	return vec_push(&as->patch->sections.at[section].relocs, reloc) ? NULL : error_nomem();
}

static struct suture_error *emit_relocs(
	struct assembly *as, struct part *part, const struct span *span)
{
	const struct carried *c = &part->carried[span->index];
	const struct arch *arch = &arch_x86_64;

	vec_foreach (ref, &span->refs) {
		if (arch->reloc_need(ref->type) == RELOC_UNSUPPORTED)
			return error_create(SUTURE_ERROR_UNSUPPORTED,
				"%s: relocation %s (%u) is not supported", SPAN_NAME(span),
				arch->reloc_name(ref->type), ref->type);
		TRY(emit_reloc(as, part, span, ref, c->section, c->offset + ref->offset));
	}
	return NULL;
}

struct suture_error *assembly_emit(struct assembly *as)
{
	for (size_t i = 0; i < as->work.n; i++)
		TRY(place(as, as->work.at[i].part, as->work.at[i].span));
	for (size_t i = 0; i < as->work.n; i++)
		TRY(emit_relocs(as, as->work.at[i].part, as->work.at[i].span));
	TRY(emit_unwind(as));
	return emit_functions(as);
}
