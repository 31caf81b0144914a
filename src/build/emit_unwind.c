/* SPDX-License-Identifier: Apache-2.0 */
/*
 * .eh_frame of the payload: the FDE of every carried function behind its CIE, so that whoever
 * unwinds (exceptions, pthread_cancel, backtrace, debuggers) passes through new code as through
 * old.
 */
#include <string.h>

#include "base/cleanup.h"
#include "build/assembly.h"

struct copied_cie {
	const struct part *part;
	uint64_t from, to;
};
struct frame {
	struct assembly *as;
	uint32_t section; /* in the patch */
	VEC(uint8_t) bytes;
	VEC(struct copied_cie) cies;
};

static struct suture_error *append(struct frame *frame, const void *data, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (!vec_push(&frame->bytes, ((const uint8_t *)data)[i]))
			return error_nomem();
	return NULL;
}

static void put_word(struct frame *frame, size_t at, uint32_t word)
{
	memcpy(frame->bytes.at + at, &word, sizeof(word));
}

/* An FDE describes the new body; everything else is an ordinary reference. */
static struct suture_error *copy_reloc(struct frame *frame, struct part *part,
	const struct span *span, const struct ref *ref, uint64_t offset)
{
	struct patch_reloc reloc = {.offset = offset, .type = ref->type, .addend = ref->addend};
	struct patch_section *s = &frame->as->patch->sections.at[frame->section];

	if (ref->target != span)
		return emit_reloc(frame->as, part, span, ref, frame->section, offset);
	TRY(emit_payload_symbol(frame->as, part, span, &reloc.symbol));
	return vec_push(&s->relocs, reloc) ? NULL : error_nomem();
}

/* The relocations of one entry, moved with it. */
static struct suture_error *copy_relocs(struct frame *frame, struct part *part,
	const struct span *span, uint64_t from, uint64_t size, uint64_t to)
{
	const struct object *after = part->pair->after;
	const struct object_section *eh = &after->sections.at[after->eh_frame];

	vec_foreach (raw, &eh->raw) {
		struct ref ref;

		if (raw->offset < from || raw->offset - from >= size)
			continue;
		object_unwind_ref(after, raw, &ref);
		TRY(copy_reloc(frame, part, span, &ref, to + raw->offset - from));
	}
	return NULL;
}

static struct suture_error *add_entry(struct frame *frame, struct part *part,
	const struct span *span, uint64_t from, uint64_t size, uint64_t *ret)
{
	const struct object *after = part->pair->after;

	*ret = frame->bytes.n;
	TRY(append(frame, after->sections.at[after->eh_frame].data + from, size));
	return copy_relocs(frame, part, span, from, size, *ret);
}

static struct suture_error *add_cie(
	struct frame *frame, struct part *part, const struct span *span, uint64_t *ret)
{
	vec_foreach (cie, &frame->cies)
		if (cie->part == part && cie->from == span->cie) {
			*ret = cie->to;
			return NULL;
		}
	TRY(add_entry(frame, part, span, span->cie, span->cie_size, ret));
	struct copied_cie copied = {part, span->cie, *ret};
	return vec_push(&frame->cies, copied) ? NULL : error_nomem();
}

/* The FDE counts back to its CIE from its own second word. */
static struct suture_error *add_function(
	struct frame *frame, struct part *part, const struct span *span)
{
	uint64_t cie, fde;

	TRY(add_cie(frame, part, span, &cie));
	TRY(add_entry(frame, part, span, span->fde, span->fde_size, &fde));
	put_word(frame, fde + 4, fde + 4 - cie);
	return NULL;
}

static struct suture_error *start_section(struct frame *frame)
{
	struct patch_section *s = vec_add(&frame->as->patch->sections);

	if (!s || !(s->name = strdup(".eh_frame")))
		return error_nomem();
	s->image = frame->as->image;
	s->type = SHT_PROGBITS;
	s->flags = SHF_ALLOC;
	s->align = 8;
	frame->section = frame->as->patch->sections.n - 1;
	return NULL;
}

static struct suture_error *fill(struct frame *frame)
{
	static const uint8_t terminator[4];

	vec_foreach (work, &frame->as->work) {
		if (work->span->kind != SPAN_CODE || !work->span->fde_size)
			continue;
		if (!frame->bytes.n)
			TRY(start_section(frame));
		TRY(add_function(frame, work->part, work->span));
	}
	return frame->bytes.n ? append(frame, terminator, sizeof(terminator)) : NULL;
}

struct suture_error *emit_unwind(struct assembly *as)
{
	struct frame frame = {.as = as};
	struct suture_error *err = fill(&frame);

	if (!err && frame.bytes.n) {
		struct patch_section *s = &as->patch->sections.at[frame.section];

		s->size = frame.bytes.n;
		s->data = take(frame.bytes.at);
	}
	vec_free(&frame.bytes);
	vec_free(&frame.cies);
	return err;
}
