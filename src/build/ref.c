/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Relocations as references between spans. A relocation against a section symbol says where it
 * points only together with its instruction: the addend counts from the field, the processor from
 * the end of the instruction. The same holds for tables of offsets, which count from their start.
 */
#include <string.h>

#include "arch/arch.h"
#include "build/object.h"

static const struct arch *const arch = &arch_x86_64;

/* ---- code: bias and branch of every relocation, and references that need no relocation ---- */

struct code {
	struct object *object;
	struct object_section *section;
	struct span *span;
	size_t raw; /* first relocation not yet passed */
};

/*
 * A branch to another function of the same section, or its address, which the assembler resolved
 * itself: when the function moves alone, it needs a relocation again.
 */
static struct suture_error *add_resolved(struct code *code, const struct insn *insn, uint64_t at)
{
	uint64_t reached = insn->has_target ? insn->target : insn->pcrel;
	uint64_t start = code->span->start, end = start + code->span->size;

	if (!insn->rel_size || (reached >= start && reached < end))
		return NULL;
	if (insn->rel_size != 4) {
		code->span->opaque = true;
		return NULL;
	}
	struct ref *ref = vec_add(&code->span->refs);
	if (!ref)
		return error_nomem();
	*ref = (struct ref){
		.offset = at + insn->rel_at - start,
		.type = arch->reloc_pc32,
		.bias = insn->length - insn->rel_at,
		.branch = insn->has_target,
	};
	ref->target = object_span_at(code->object, code->span->section, reached, &ref->addend);
	return NULL;
}

static uint8_t access_size(const struct code *code, const struct insn *insn, uint64_t at)
{
	size_t size = arch->access_size(code->section->data + at, insn->length);

	return size <= UINT8_MAX ? size : 0;
}

/* The relocations of one instruction. */
static struct suture_error *scan_insn(struct code *code, const struct insn *insn, uint64_t at)
{
	bool relative = false;

	for (; code->raw < code->section->raw.n; code->raw++) {
		struct ref *ref = &code->section->raw.at[code->raw];

		if (ref->offset >= at + insn->length)
			break;
		if (!insn->is_call && !insn->is_jump)
			ref->access = access_size(code, insn, at);
		if (!insn->rel_size || ref->offset != at + insn->rel_at)
			continue;
		relative = true;
		ref->bias = insn->length - insn->rel_at;
		ref->branch = insn->is_call || insn->is_jump;
	}
	return relative ? NULL : add_resolved(code, insn, at);
}

static struct suture_error *scan_function(struct code *code)
{
	const struct span *span = code->span;
	struct insn insn;

	for (uint64_t at = 0; at < span->size; at += insn.length) {
		if (!arch->decode(span->data + at, span->size - at, span->start + at, &insn)) {
			code->span->opaque = true;
			return NULL;
		}
		TRY(scan_insn(code, &insn, span->start + at));
	}
	return NULL;
}

static struct suture_error *scan_code(struct object *object, struct object_section *section)
{
	struct code code = {.object = object, .section = section};

	vec_foreach (span, &section->spans) {
		while (code.raw < section->raw.n &&
			section->raw.at[code.raw].offset < (*span)->start)
			code.raw++;
		code.span = *span;
		TRY(scan_function(&code));
	}
	return NULL;
}

/* ---- targets ---- */

/*
 * PC-relative fields in data. A jump table holds distances from its own start, as do clang's
 * "reltable"s; anything else counts from the field itself.
 */
static int64_t data_bias(const struct object *object, const struct span *span,
	const struct ref *raw, uint64_t offset)
{
	const struct object_symbol *sym = &object->symbols.at[raw->symbol];
	const struct object_section *s = &object->sections.at[span->section];

	if (span->kind != SPAN_CONSTANT || !arch->reloc_is_pcrel(raw->type))
		return 0;
	bool to_code = !sym->reserved && sym->shndx &&
		       object->sections.at[sym->shndx].flags & SHF_EXECINSTR;
	if (to_code || strstr(s->name, "reltable"))
		return -(int64_t)offset;
	return 0;
}

static void resolve(const struct object *object, struct ref *ref)
{
	const struct object_symbol *sym = &object->symbols.at[ref->symbol];

	ref->addend += ref->bias;
	if (sym->type == STT_SECTION && !sym->reserved) {
		ref->target = object_span_at(object, sym->shndx, ref->addend, &ref->addend);
	} else if (sym->span) {
		ref->target = sym->span;
		ref->addend += (int64_t)sym->offset;
	}
}

/*
 * The assembler replaces a local label by its section, so that "label - 4" looks like the end of
 * whatever stands before. Where this can happen, the section is compared and carried as a whole.
 */
static void note_ambiguous(struct object *object, const struct ref *ref)
{
	const struct object_symbol *sym = &object->symbols.at[ref->symbol];

	if (!ref->target || sym->type != STT_SECTION || !ref->target->anonymous || !ref->addend)
		return;
	struct object_section *s = &object->sections.at[ref->target->section];
	if (s->spans.n > 1 && !(s->flags & SHF_MERGE))
		s->ambiguous = true;
}

static int compare_refs(const void *a, const void *b)
{
	const struct ref *x = a, *y = b;

	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static struct suture_error *resolve_section(struct object *object, struct object_section *s)
{
	uint32_t index = s - object->sections.at;

	vec_foreach (raw, &s->raw) {
		int64_t offset;
		struct span *span = object_span_at(object, index, raw->offset, &offset);
		struct ref *ref = span ? vec_add(&span->refs) : NULL;

		if (!span || offset < 0 || (uint64_t)offset >= span->size)
			return error_create(SUTURE_ERROR_INPUT,
				"%s: a relocation in section %s belongs to nothing", object->path,
				s->name);
		if (!ref)
			return error_nomem();
		*ref = *raw;
		ref->offset = offset;
		if (span->kind != SPAN_CODE)
			ref->bias = data_bias(object, span, raw, offset);
		resolve(object, ref);
		note_ambiguous(object, ref);
	}
	vec_foreach (span, &s->spans)
		if ((*span)->refs.n)
			qsort((*span)->refs.at, (*span)->refs.n, sizeof(*(*span)->refs.at),
				compare_refs);
	return NULL;
}

struct suture_error *object_make_refs(struct object *object)
{
	vec_foreach (s, &object->sections)
		if (s->kept && s->flags & SHF_EXECINSTR)
			TRY(scan_code(object, s));
	vec_foreach (s, &object->sections)
		if (s->kept)
			TRY(resolve_section(object, s));
	return NULL;
}
