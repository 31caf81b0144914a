/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The old functions: where they are, what must be there, and where the jump to the new one goes.
 */
#include <string.h>

#include "base/cleanup.h"
#include "build/assembly.h"

static const struct arch *const arch = &arch_x86_64;

struct targets {
	VEC(uint64_t) v;
};

/* ---- the site ---- */

/* Padding behind the function, up to whatever comes next. */
static uint64_t padded_size(const struct target *target, const struct place *place)
{
	uint64_t end = place->address + place->size, next = target_next(target, end - 1);
	uint8_t byte[16];
	struct insn insn;

	while (end < next && end - place->address - place->size < 64) {
		size_t room = next - end < sizeof(byte) ? next - end : sizeof(byte);

		if (!target_read(target, end, byte, room) ||
			!arch->decode(byte, room, end, &insn) || !insn.is_nop)
			break;
		end += insn.length;
	}
	return end - place->address;
}

/* Addresses inside of the old function that others jump to: jump tables, its cold part. */
static struct suture_error *collect_targets(
	const struct location *l, const struct span *before, struct targets *ret)
{
	const struct place *place = &l->places[before->index];

	vec_foreach (p, &l->before->spans)
		vec_foreach (ref, &(*p)->refs) {
			if (ref->target != before || !ref->addend)
				continue;
			uint64_t address = match_address(&place->match, ref->addend);
			if (address && !vec_push(&ret->v, address))
				return error_nomem();
		}
	return NULL;
}

/* The old bytes cover all that is overwritten, and end where an instruction of the padding ends. */
static uint64_t covering_size(
	const uint8_t *code, uint64_t size, const struct place *place, uint64_t want)
{
	uint64_t end = place->size;
	struct insn insn;

	while (end < want && arch->decode(code + end, size - end, place->address + end, &insn))
		end += insn.length;
	return end;
}

static struct suture_error *find_site(struct assembly *as, const struct location *l,
	const struct span *before, struct patch_function *f)
{
	const struct place *place = &l->places[before->index];
	uint64_t size = padded_size(as->target, place);
	_cleanup_free_ uint8_t *code = malloc(size);
	struct targets targets = {};

	if (!code)
		return error_nomem();
	TRY(image_read(as->target->image, place->address, code, size));
	struct suture_error *err = collect_targets(l, before, &targets);
	if (!err)
		err = arch->detour_site(f->name, code, size, place->address, targets.v.at,
			targets.v.n, &f->site, &f->site_size);
	vec_free(&targets.v);
	TRY(err);
	f->address = place->address;
	f->size = covering_size(code, size, place, (uint64_t)f->site + f->site_size);
	f->old_bytes = take(code);
	return NULL;
}

/* ---- checks ---- */

/* Identical code folding makes one function of two: the other one must not change. */
static struct suture_error *check_alone(
	const struct assembly *as, const struct span *before, const struct place *place)
{
	const struct image *image = as->target->image;

	vec_foreach (s, &image->symbols) {
		bool other = s->value == place->address && s->shndx != SHN_UNDEF &&
			     (s->type == STT_FUNC || s->type == STT_GNU_IFUNC) &&
			     !span_has_name(before, s->name);

		if (other)
			return error_create(SUTURE_ERROR_REFUSED,
				"%s shares its code in %s with %s (folded by the linker): patching "
				"one would patch both",
				SPAN_NAME(before), image->name, s->name);
	}
	return NULL;
}

static struct suture_error *check_text_relocs(
	const struct assembly *as, const struct patch_function *f)
{
	size_t n;
	const Elf64_Rela *relocs = image_relocs(as->target->image, &n);

	for (size_t i = 0; i < n; i++)
		if (relocs[i].r_offset >= f->address && relocs[i].r_offset - f->address < f->size)
			return error_create(SUTURE_ERROR_UNSUPPORTED,
				"%s of %s is changed by the dynamic linker (text relocations)",
				f->name, as->target->image->name);
	return NULL;
}

/* ---- entries ---- */

static struct suture_error *add_parts(
	const struct location *l, const struct span *before, struct patch_function *f)
{
	vec_foreach (p, &l->before->spans) {
		const struct place *place = &l->places[(*p)->index];

		if ((*p)->parent != before)
			continue;
		if (place->state != PLACE_FOUND)
			return location_error(l, *p);
		if (!vec_push(&f->parts, ((struct patch_range){place->address, place->size})))
			return error_nomem();
	}
	return NULL;
}

static struct suture_error *describe_old(
	struct assembly *as, const struct span *after, struct patch_function *f)
{
	const struct span *before = after->twin;
	const struct location *l = &assembly_part_of(as, before->object)->location;

	TRY(check_alone(as, before, &l->places[before->index]));
	TRY(find_site(as, l, before, f));
	TRY(check_text_relocs(as, f));
	return add_parts(l, before, f);
}

static const char *reason_of(const struct span *span)
{
	if (span->parent)
		return span->reason ? span->reason : "split part";
	return span->reason ? span->reason : "not in the target as a function of its own";
}

static struct suture_error *add_function(struct assembly *as, struct part *part, struct span *span)
{
	struct patch_function f = {.image = as->image, .new_size = span->size}, *slot;
	struct suture_error *err = emit_payload_symbol(as, part, span, &f.symbol);

	f.name = strdup(SPAN_NAME(span));
	f.unit = strdup(part->pair->unit->name);
	f.reason = strdup(reason_of(span));
	if (!f.name || !f.unit || !f.reason)
		err = err ? err : error_nomem();
	if (!err && assembly_is_replaced(as, span))
		err = error_wrap(describe_old(as, span, &f), "%s", part->pair->unit->name);
	/* The patch owns it from here, whole or not. */
	slot = vec_add(&as->patch->functions);
	if (!slot) {
		free(f.name);
		free(f.unit);
		free(f.reason);
		free(f.old_bytes);
		vec_free(&f.parts);
		return err ? err : error_nomem();
	}
	*slot = f;
	return err;
}

struct suture_error *emit_functions(struct assembly *as)
{
	vec_foreach (work, &as->work)
		if (work->span->kind == SPAN_CODE)
			TRY(add_function(as, work->part, work->span));
	return NULL;
}
