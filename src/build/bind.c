/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a reference in the payload means: new things are in the payload, everything that exists
 * stays what it is in the running image. The address of a changed function is its old one, which
 * jumps: a program compares and stores such addresses.
 */
#include <string.h>

#include "build/assembly.h"

/* ---- places ---- */

struct part *assembly_part_of(struct assembly *as, const struct object *before)
{
	vec_foreach (part, &as->parts)
		if (part->hosted && part->pair->before == before)
			return part;
	return NULL;
}

const struct place *assembly_old_place(struct assembly *as, const struct span *after)
{
	const struct part *part = after->twin ? assembly_part_of(as, after->twin->object) : NULL;

	return part ? &part->location.places[after->twin->index] : NULL;
}

static const struct known *old_known(struct assembly *as, const struct span *after)
{
	const struct part *part = after->twin ? assembly_part_of(as, after->twin->object) : NULL;

	return part ? &part->location.spans[after->twin->index] : NULL;
}

static bool is_found(const struct place *place)
{
	return place && place->state == PLACE_FOUND;
}

bool assembly_is_replaced(struct assembly *as, const struct span *after)
{
	return after->kind == SPAN_CODE && after->changed && !after->parent &&
	       is_found(assembly_old_place(as, after));
}

struct suture_error *assembly_place_error(struct assembly *as, const struct span *after)
{
	return location_error(&assembly_part_of(as, after->twin->object)->location, after->twin);
}

/* ---- bindings ---- */

/* Lives as long as the object. */
static const char *lasting_name(const struct span *span)
{
	return span->name ? span->name : span->object->sections.at[span->section].name;
}

static struct suture_error *to_payload(struct part *part, struct span *span, struct binding *ret)
{
	*ret = (struct binding){.kind = BIND_PAYLOAD, .part = part, .span = span};
	return NULL;
}

static struct suture_error *to_dynamic(const struct assembly *as, const char *name, uint32_t dynsym,
	bool weak, struct binding *ret)
{
	if (as->target->image->is_static && !weak)
		return error_create(SUTURE_ERROR_SYMBOL, "%s is not in the static executable %s",
			name, as->target->image->name);
	*ret = (struct binding){.kind = BIND_DYNAMIC, .name = name, .dynsym = dynsym, .weak = weak};
	return NULL;
}

/* The image's symbol for a place, of this very name if there is one. */
static const struct image_symbol *symbol_there(
	const struct assembly *as, const char *name, uint64_t address)
{
	const struct image_symbol *s;
	size_t at = 0;

	while ((s = target_find(as->target, name, &at)))
		if (s->value == address && s->type != STT_TLS)
			return s;
	s = image_symbol_at(as->target->image, address);
	return s && s->value == address ? s : NULL;
}

static void to_address(const struct assembly *as, uint64_t address, struct binding *ret)
{
	const struct image_symbol *s = symbol_there(as, ret->name, address);

	ret->kind = BIND_ADDRESS;
	ret->value = address;
	if (!s)
		return;
	ret->elf_type = s->type;
	ret->size = s->size;
}

/* From what matched code said of it. */
static bool to_known(const struct assembly *as, const struct known *known, const char *name,
	uint64_t size, uint8_t type, struct binding *ret)
{
	*ret = (struct binding){.name = name, .size = size, .elf_type = type};
	if (known->has_dynamic) {
		ret->kind = BIND_DYNAMIC;
		ret->dynsym = known->dynsym;
	} else if (known->has_tls_dynamic) {
		ret->kind = BIND_TLS_DYNAMIC;
		ret->dynsym = known->dynsym;
	} else if (known->has_tls) {
		ret->kind = BIND_TLS;
		ret->value = known->tls;
	} else if (known->has_address && known->address) {
		to_address(as, known->address, ret);
	} else {
		return false;
	}
	return true;
}

/* ---- functions ---- */

static struct suture_error *bind_inside(
	struct assembly *as, struct part *part, struct span *target, struct binding *ret)
{
	const struct span *whole = target->parent ? target->parent : target;

	if (!whole->changed && is_found(assembly_old_place(as, whole)))
		return error_create(SUTURE_ERROR_UNSUPPORTED,
			"refers to the inside of %s, which has not changed", SPAN_NAME(target));
	return to_payload(part, target, ret);
}

static struct suture_error *bind_function(
	struct assembly *as, struct part *part, const struct ref *ref, struct binding *ret)
{
	struct span *target = ref->target;
	const struct place *place = assembly_old_place(as, target);

	if (target->parent || ref->addend)
		return bind_inside(as, part, target, ret);
	if (!place || place->state == PLACE_ABSENT)
		return to_payload(part, target, ret);
	if (place->state != PLACE_FOUND)
		return assembly_place_error(as, target);
	const struct known *known = old_known(as, target);
	if (target->changed && ref->branch && !known->has_dynamic)
		return to_payload(part, target, ret);
	to_known(
		as, known, target->name ? target->name : "code", target->twin->size, STT_FUNC, ret);
	return NULL;
}

/* ---- data ---- */

static struct suture_error *bind_data(
	struct assembly *as, struct part *part, const struct ref *ref, struct binding *ret)
{
	struct span *target = ref->target;
	const struct place *place = assembly_old_place(as, target);
	const struct known *known = old_known(as, target);
	bool constant = target->kind == SPAN_CONSTANT;

	if (target->anonymous || !target->twin || (constant && target->changed))
		return to_payload(part, target, ret);
	if (known && place->state == PLACE_MISMATCH)
		return assembly_place_error(as, target);
	if (known && to_known(as, known, lasting_name(target), target->size,
			     target->kind == SPAN_TLS ? STT_TLS : STT_OBJECT, ret))
		return NULL;
	if (known && place->state == PLACE_AMBIGUOUS)
		return assembly_place_error(as, target);
	/* A constant that the linker found unused. */
	if (constant && target->bind == STB_LOCAL)
		return to_payload(part, target, ret);
	return error_create(SUTURE_ERROR_SYMBOL, "%s of %s is not in %s", SPAN_NAME(target),
		part->pair->unit->name, as->target->image->name);
}

/* ---- names ---- */

static const struct known *known_by_name(const struct part *part, const char *name)
{
	const struct object *before = part->pair->before;

	if (!part->hosted || !before)
		return NULL;
	for (size_t i = before->first_global; i < before->symbols.n; i++) {
		const struct object_symbol *sym = &before->symbols.at[i];

		if (strcmp(sym->name, name))
			continue;
		return sym->span ? &part->location.spans[sym->span->index]
				 : &part->location.symbols[i];
	}
	return NULL;
}

/* A definition of a unit that is in another target: only what the linker made known can be used. */
static struct suture_error *check_exported(
	const struct assembly *as, const struct part *part, const struct span *span)
{
	if (span->twin)
		return NULL;
	return error_hint(error_create(SUTURE_ERROR_UNSUPPORTED,
				  "refers to %s, which is new in %s, and that is no part of %s",
				  SPAN_NAME(span), part->pair->unit->name, as->target->image->name),
		"use what is new within one executable or library only");
}

/* Defined by another unit of the fix: new, moved, or no longer static there. */
static struct suture_error *bind_elsewhere(struct assembly *as, const struct part *from,
	const struct ref *ref, const char *name, struct binding *ret, bool *found)
{
	vec_foreach (part, &as->parts) {
		const struct object *after = part->pair->after;

		size_t i = after ? after->first_global : 0;

		for (; part != from && after && i < after->symbols.n; i++) {
			const struct object_symbol *sym = &after->symbols.at[i];
			struct ref there = *ref;

			if (!sym->span || strcmp(sym->name, name))
				continue;
			if (part->pair->before && !part->hosted)
				return check_exported(as, part, sym->span);
			there.target = sym->span;
			there.symbol = i;
			there.addend = (int64_t)sym->offset;
			there.branch = false;
			*found = true;
			return sym->span->kind == SPAN_CODE ? bind_function(as, part, &there, ret)
							    : bind_data(as, part, &there, ret);
		}
	}
	return NULL;
}

static bool is_visible(const struct image_symbol *s)
{
	return s->bind != STB_LOCAL || !s->file || s->visibility == STV_HIDDEN ||
	       s->visibility == STV_INTERNAL;
}

/* The image's own definition; the same address under two names is no doubt. */
static struct suture_error *find_definition(
	const struct assembly *as, const char *name, const struct image_symbol **ret)
{
	const struct image_symbol *s, *found = NULL;
	size_t at = 0;

	while ((s = target_find(as->target, name, &at))) {
		if (!is_visible(s))
			continue;
		if (found && (found->value != s->value || found->type != s->type))
			return error_create(SUTURE_ERROR_SYMBOL,
				"there are several symbols %s in %s, and nothing tells which is "
				"meant",
				name, as->target->image->name);
		found = s;
	}
	*ret = found;
	return NULL;
}

static struct suture_error *bind_image_name(
	struct assembly *as, const char *name, bool weak, struct binding *ret)
{
	uint32_t dynsym = target_dynsym(as->target, name);
	const struct image_symbol *s = NULL;

	TRY(find_definition(as, name, &s));
	if (!s || (dynsym && target_preemptible(as->target, dynsym))) {
		bool tls = s ? s->type == STT_TLS
			     : dynsym && as->target->image->dynsyms.at[dynsym].type == STT_TLS;

		TRY(to_dynamic(as, name, dynsym, weak, ret));
		if (tls)
			ret->kind = BIND_TLS_DYNAMIC;
		return NULL;
	}
	if (s->shndx == SHN_ABS)
		return error_create(SUTURE_ERROR_UNSUPPORTED, "%s of %s is an absolute symbol",
			name, as->target->image->name);
	*ret = (struct binding){
		.kind = s->type == STT_TLS ? BIND_TLS : BIND_ADDRESS,
		.name = name,
		.value = s->value,
		.size = s->size,
		.elf_type = s->type,
	};
	return NULL;
}

static struct suture_error *bind_name(
	struct assembly *as, struct part *part, const struct ref *ref, struct binding *ret)
{
	const struct object_symbol *sym = &part->pair->after->symbols.at[ref->symbol];
	const struct known *known;
	bool weak = sym->bind == STB_WEAK, elsewhere = false;

	if (sym->reserved || sym->shndx || sym->bind == STB_LOCAL || !sym->name[0])
		return error_create(SUTURE_ERROR_UNSUPPORTED,
			"refers to symbol %s in a way that is not understood", sym->name);
	if (!strcmp(sym->name, "_GLOBAL_OFFSET_TABLE_"))
		return error_create(SUTURE_ERROR_UNSUPPORTED,
			"refers to _GLOBAL_OFFSET_TABLE_: code model medium or large is not "
			"supported");
	known = known_by_name(part, sym->name);
	if (known && to_known(as, known, sym->name, 0, STT_NOTYPE, ret)) {
		ret->weak = weak && ret->kind == BIND_DYNAMIC;
		return NULL;
	}
	TRY(bind_elsewhere(as, part, ref, sym->name, ret, &elsewhere));
	return elsewhere ? NULL : bind_image_name(as, sym->name, weak, ret);
}

struct suture_error *assembly_bind(struct assembly *as, struct part *part, const struct span *from,
	const struct ref *ref, struct binding *ret)
{
	struct suture_error *err;

	if (!ref->target)
		err = bind_name(as, part, ref, ret);
	else if (ref->target->kind == SPAN_CODE)
		err = bind_function(as, part, ref, ret);
	else
		err = bind_data(as, part, ref, ret);
	return error_wrap(err, "%s", SPAN_NAME(from));
}
