/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From compiled units to a patch: compare each unit before and after, find it in the targets, take
 * the changed functions and what they need that is new. Each target image is assembled by itself.
 */
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "build/assembly.h"
#include "build/compare.h"

struct selection {
	struct suture *ctx;
	struct patch *patch;
	VEC(struct pair) pairs;
	VEC(struct target) targets;
	VEC(struct assembly) assemblies; /* per target */
};

/* ---- units ---- */

static struct suture_error *open_pair(const struct unit *unit, struct pair *pair)
{
	pair->unit = unit;
	if (unit->before)
		TRY(object_open(unit->before, &pair->before));
	if (unit->after)
		TRY(object_open(unit->after, &pair->after));
	if (pair->before && pair->after)
		TRY(correlate(pair->before, pair->after));
	return NULL;
}

static struct suture_error *open_pairs(struct selection *sel, const struct units *units)
{
	vec_foreach (unit, &units->v) {
		struct pair *pair = vec_add(&sel->pairs);

		if (!pair)
			return error_nomem();
		TRY(error_wrap(open_pair(unit, pair), "%s", unit->name));
	}
	vec_foreach (from, &sel->pairs)
		vec_foreach (to, &sel->pairs)
			if (from != to && from->before && to->after)
				TRY(correlate_moved(from->before, to->after));
	vec_foreach (pair, &sel->pairs)
		if (pair->after)
			TRY(compare(pair->after));
	return NULL;
}

/* ---- where they are ---- */

static struct suture_error *locate_part(struct assembly *as, const struct pair *pair)
{
	struct part *part = vec_add(&as->parts);

	if (!part)
		return error_nomem();
	part->pair = pair;
	if (pair->after) {
		part->carried = calloc(pair->after->spans.n + 1, sizeof(*part->carried));
		if (!part->carried)
			return error_nomem();
		for (size_t i = 0; i < pair->after->spans.n; i++)
			part->carried[i].symbol = UINT32_MAX;
	}
	if (!pair->before)
		return NULL;
	TRY(locate(as->target, pair->unit, pair->before, &part->location));
	log_debug(as->ctx, "%s in %s: %zu functions found, %zu differ", pair->unit->name,
		as->target->image->name, part->location.found, part->location.mismatched);
	part->hosted =
		part->location.file_known && (part->location.found || part->location.mismatched);
	return NULL;
}

static struct suture_error *locate_all(struct selection *sel)
{
	vec_foreach (as, &sel->assemblies)
		vec_foreach (pair, &sel->pairs)
			TRY(error_wrap(locate_part(as, pair), "%s", pair->unit->name));
	assembly_choose_hosts(sel->assemblies.at, sel->assemblies.n);
	return NULL;
}

/* ---- what goes in ---- */

/* Nothing tells whether the program has stored its address. */
static void warn_of_old_copy(const struct assembly *as, const struct part *part, struct span *span)
{
	if (span->kind == SPAN_CONSTANT && !span->anonymous && span->twin && span->changed &&
		!spans_equal(span->twin, span))
		log_warning(as->ctx,
			"constant %s of %s changed: code gets the new one, but pointers to it that "
			"the program has stored keep leading to the old one",
			SPAN_NAME(span), part->pair->unit->name);
}

static struct suture_error *carry(struct assembly *as, struct part *part, struct span *span)
{
	struct carried *c = &part->carried[span->index];

	if (c->in)
		return NULL;
	c->in = true;
	TRY(refuse_span(part, span));
	warn_of_old_copy(as, part, span);
	return vec_push(&as->work, ((struct work){part, span})) ? NULL : error_nomem();
}

/* A new global must be new. */
static struct suture_error *check_new_name(
	struct assembly *as, const struct part *part, const struct span *span)
{
	const struct image_symbol *s;
	size_t at = 0;

	if (span->twin || span->bind == STB_LOCAL || !span->name || span->bind == STB_WEAK)
		return NULL;
	while ((s = target_find(as->target, span->name, &at)))
		if (s->bind != STB_LOCAL)
			return error_hint(
				error_create(SUTURE_ERROR_SYMBOL,
					"%s is new in %s, but %s has one already", span->name,
					part->pair->unit->name, as->target->image->name),
				"moving a function or variable between source files is not "
				"supported");
	return NULL;
}

static struct suture_error *follow(
	struct assembly *as, struct part *part, const struct span *span, const struct ref *ref)
{
	struct binding to;

	TRY(assembly_bind(as, part, span, ref, &to));
	if (to.kind != BIND_PAYLOAD)
		return NULL;
	TRY(check_new_name(as, to.part, to.span));
	return carry(as, to.part, to.span);
}

/* Personality and LSDA. */
static struct suture_error *follow_unwind(
	struct assembly *as, struct part *part, const struct span *span)
{
	const struct object *after = part->pair->after;

	if (!span->fde_size)
		return NULL;
	vec_foreach (raw, &after->sections.at[after->eh_frame].raw) {
		bool fde = raw->offset >= span->fde && raw->offset - span->fde < span->fde_size;
		bool cie = raw->offset >= span->cie && raw->offset - span->cie < span->cie_size;
		struct ref ref;

		if (!fde && !cie)
			continue;
		object_unwind_ref(after, raw, &ref);
		if (ref.target != span)
			TRY(follow(as, part, span, &ref));
	}
	return NULL;
}

/* Where a reference may mean either of two constants, all of its section go along. */
static struct suture_error *carry_section(
	struct assembly *as, struct part *part, const struct span *span)
{
	const struct object_section *s = &span->object->sections.at[span->section];

	if (!span->anonymous || !s->ambiguous)
		return NULL;
	vec_foreach (p, &s->spans)
		if ((*p)->anonymous)
			TRY(carry(as, part, *p));
	return NULL;
}

static struct suture_error *close_over(struct assembly *as)
{
	for (size_t i = 0; i < as->work.n; i++) {
		struct work work = as->work.at[i];

		vec_foreach (ref, &work.span->refs)
			TRY(error_wrap(follow(as, work.part, work.span, ref), "%s",
				work.part->pair->unit->name));
		TRY(follow_unwind(as, work.part, work.span));
		TRY(carry_section(as, work.part, work.span));
	}
	return NULL;
}

/* Without local symbols, that there is no symbol does not mean that there is no function. */
static bool hides_locals(const struct image *image)
{
	vec_foreach (s, &image->symbols)
		if (s->type == STT_FUNC && s->bind == STB_LOCAL && s->shndx != SHN_UNDEF &&
			s->file && strcmp(s->file, "crtstuff.c"))
			return false;
	return true;
}

static struct suture_error *carry_changed(struct assembly *as, struct part *part, struct span *span)
{
	const struct place *place = assembly_old_place(as, span);

	if (span->kind != SPAN_CODE || !span->changed || span->parent || !place)
		return NULL;
	if (place->state == PLACE_FOUND)
		return carry(as, part, span);
	if (place->state != PLACE_ABSENT)
		return assembly_place_error(as, span);
	if (span->twin->bind == STB_LOCAL && hides_locals(as->target->image))
		return error_hint(
			error_create(SUTURE_ERROR_SYMBOL,
				"%s of %s changed, and %s has no local symbols to find it by",
				SPAN_NAME(span), part->pair->unit->name, as->target->image->name),
			"keep the target's full symbol table, in the file or in a debug file");
	log_info(as->ctx, "%s of %s changed, but is not in %s", SPAN_NAME(span),
		part->pair->unit->name, as->target->image->name);
	return NULL;
}

static struct suture_error *collect(struct assembly *as)
{
	vec_foreach (part, &as->parts) {
		if (!part->pair->after || (part->pair->before && !part->hosted))
			continue;
		TRY(refuse_changes(part));
		vec_foreach (p, &part->pair->after->spans)
			TRY(carry_changed(as, part, *p));
	}
	return close_over(as);
}

/* ---- one image ---- */

static struct suture_error *add_image(struct assembly *as)
{
	const struct image *image = as->target->image;

	if (!image->build_id_size || image->build_id_size > PATCH_BUILD_ID_MAX)
		return error_hint(
			error_create(SUTURE_ERROR_UNSUPPORTED, "%s has no build-id", image->path),
			"link it with -Wl,--build-id");
	struct patch_image *pi = vec_add(&as->patch->images);
	if (!pi || !(pi->name = strdup(image->name)))
		return error_nomem();
	memcpy(pi->build_id, image->build_id, image->build_id_size);
	pi->build_id_size = image->build_id_size;
	pi->fixed = image->type == ET_EXEC;
	as->image = as->patch->images.n - 1;
	return NULL;
}

static struct suture_error *assemble(struct assembly *as)
{
	TRY(collect(as));
	if (!as->work.n)
		return NULL;
	TRY(add_image(as));
	return assembly_emit(as);
}

/* ---- all of it ---- */

static bool is_hosted(const struct selection *sel, const struct pair *pair)
{
	vec_foreach (as, &sel->assemblies)
		vec_foreach (part, &as->parts)
			if (part->pair == pair && part->hosted)
				return true;
	return false;
}

static bool is_changed(const struct pair *pair)
{
	for (size_t i = 0; pair->after && i < pair->after->spans.n; i++)
		if (pair->after->spans.at[i]->changed)
			return true;
	return false;
}

/* A variant that fits nowhere is no loss when another one of its source does. */
static bool is_spare(const struct selection *sel, const struct pair *pair)
{
	if (!pair->unit->optional)
		return false;
	vec_foreach (other, &sel->pairs)
		if (other != pair && !strcmp(other->unit->source, pair->unit->source) &&
			is_hosted(sel, other))
			return true;
	return false;
}

/* The first unit with a change that no target seems to hold. */
static const struct pair *homeless(const struct selection *sel)
{
	vec_foreach (pair, &sel->pairs)
		if (pair->before && is_changed(pair) && !is_hosted(sel, pair) &&
			!is_spare(sel, pair))
			return pair;
	return NULL;
}

static struct suture_error *init_targets(
	struct selection *sel, struct image **targets, size_t n_targets)
{
	for (size_t i = 0; i < n_targets; i++) {
		struct target *target = vec_add(&sel->targets);

		if (!target)
			return error_nomem();
		TRY(target_init(target, targets[i]));
	}
	vec_foreach (target, &sel->targets) {
		struct assembly *as = vec_add(&sel->assemblies);

		if (!as)
			return error_nomem();
		as->ctx = sel->ctx;
		as->patch = sel->patch;
		as->target = target;
	}
	return NULL;
}

static struct suture_error *check_result(const struct selection *sel)
{
	const struct pair *pair = homeless(sel);

	vec_foreach (f, &sel->patch->functions) {
		if (!f->address)
			continue;
		if (pair)
			log_warning(sel->ctx,
				"%s changes, but no target has functions of it: its changes are "
				"not in the patch",
				pair->unit->name);
		return NULL;
	}
	if (pair)
		return error_hint(
			error_create(SUTURE_ERROR_SOURCE_MISMATCH,
				"%s changes, but no target has functions of it", pair->unit->name),
			"is the program or library that it is linked into among the targets?");
	return error_create(SUTURE_ERROR_NO_CHANGE, "the fix changes no function of the target%s",
		sel->targets.n == 1 ? "" : "s");
}

static struct suture_error *run(
	struct selection *sel, const struct units *units, struct image **targets, size_t n_targets)
{
	TRY(init_targets(sel, targets, n_targets));
	TRY(open_pairs(sel, units));
	TRY(locate_all(sel));
	vec_foreach (as, &sel->assemblies)
		TRY(error_wrap(assemble(as), "%s", as->target->image->name));
	return check_result(sel);
}

static void assembly_deinit(struct assembly *as)
{
	vec_foreach (part, &as->parts) {
		if (part->pair->before)
			location_deinit(&part->location);
		free(part->carried);
	}
	vec_free(&as->parts);
	vec_free(&as->work);
	vec_free(&as->externals);
}

static void selection_deinit(struct selection *sel)
{
	vec_foreach (as, &sel->assemblies)
		assembly_deinit(as);
	vec_free(&sel->assemblies);
	vec_foreach (target, &sel->targets)
		target_deinit(target);
	vec_free(&sel->targets);
	vec_foreach (pair, &sel->pairs) {
		object_close(pair->before);
		object_close(pair->after);
	}
	vec_free(&sel->pairs);
}

struct suture_error *select_changes(struct suture *ctx, const struct units *units,
	struct image **targets, size_t n_targets, struct patch *patch)
{
	struct selection sel = {.ctx = ctx, .patch = patch};
	struct suture_error *err = run(&sel, units, targets, n_targets);

	selection_deinit(&sel);
	return err;
}
