/* SPDX-License-Identifier: Apache-2.0 */
/* Deciding everything before anything is done: see plan.h. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "apply/escape.h"
#include "apply/plan.h"
#include "apply/room.h"
#include "apply/verify.h"
#include "base/cleanup.h"

/* ---- does it fit? ---- */

static struct suture_error *find_images(struct plan *plan)
{
	const struct patch *patch = plan->patch;

	plan->images = calloc(patch->images.n ?: 1, sizeof(plan->images[0]));
	if (!plan->images)
		return error_nomem();
	for (size_t i = 0; i < patch->images.n; i++) {
		TRY(target_find_image(plan->target, &patch->images.at[i], &plan->images[i]));
		TRY(verify_image(plan->target, plan->images[i]));
	}
	return NULL;
}

/*
 * A coroutine that waits in a call made by the very first instructions would come back to the middle
 * of the detour. Threads are seen by the stack check, coroutines are not.
 */
static struct suture_error *verify_first_calls(struct plan *plan, const struct patch_function *f)
{
	struct insn insn;
	uint32_t end = f->site + f->site_size;

	for (uint32_t at = f->site; at < end && at < f->size; at += insn.length) {
		if (!plan->link->arch->decode(f->old_bytes + at, f->size - at, at, &insn) ||
			!insn.is_call || at + insn.length >= end)
			continue;
		if (uses_coroutines(plan->target))
			return error_create(SUTURE_ERROR_REFUSED,
				"%s calls another function within its first bytes, and the program "
				"uses coroutines: one may wait there unseen",
				f->name);
	}
	return NULL;
}

static struct suture_error *verify_code(struct plan *plan)
{
	vec_foreach (f, &plan->patch->functions) {
		if (!f->address)
			continue;
		TRY(verify_function(plan->target, plan->link->arch, plan->images[f->image], f));
		TRY(verify_first_calls(plan, f));
	}
	vec_foreach (e, &plan->patch->expects)
		TRY(verify_expect(plan->target, plan->images[e->image], e));
	return NULL;
}

/* ---- the record ---- */

static char *copy(const char *s)
{
	return strdup(s ?: "");
}

static struct suture_error *record_images(struct plan *plan)
{
	for (size_t i = 0; i < plan->patch->images.n; i++) {
		const struct patch_image *from = &plan->patch->images.at[i];
		struct ledger_image *image = vec_add(&plan->ledger->images);

		if (!image)
			return error_nomem();
		image->name = copy(from->name);
		memcpy(image->build_id, from->build_id, sizeof(image->build_id));
		image->build_id_size = from->build_id_size;
		image->base = plan->images[i]->base;
		if (!image->name)
			return error_nomem();
	}
	return NULL;
}

static struct suture_error *record_function(struct plan *plan, const struct patch_function *from)
{
	struct ledger_function *f = vec_add(&plan->ledger->functions);

	if (!f)
		return error_nomem();
	f->name = copy(from->name);
	if (!f->name)
		return error_nomem();
	f->image = from->image;
	f->address = from->address + plan->images[from->image]->module->bias;
	f->size = from->size;
	f->site = f->address + from->site;
	f->length = from->site_size;
	f->new_size = from->new_size;
	return error_wrap(process_read(plan->target->process, f->site, f->saved, f->length), "%s",
		from->name);
}

static struct suture_error *record_symbols(struct plan *plan)
{
	vec_foreach (from, &plan->link->functions) {
		struct ledger_symbol *symbol = vec_add(&plan->ledger->symbols);

		if (!symbol)
			return error_nomem();
		symbol->name = copy(from->name);
		symbol->size = from->size;
		symbol->escapes = from->escapes;
		if (!symbol->name)
			return error_nomem();
	}
	return NULL;
}

static uint64_t next_sequence(const struct target *target)
{
	uint64_t last = 0;

	vec_foreach (ledger, &target->ledgers.v) {
		if ((*ledger)->sequence > last)
			last = (*ledger)->sequence;
	}
	return last + 1;
}

static struct suture_error *record(struct plan *plan)
{
	const struct patch *patch = plan->patch;
	struct ledger *ledger = plan->ledger = ledger_create();

	if (!ledger)
		return error_nomem();
	ledger->state = LEDGER_STAGED;
	ledger->sequence = next_sequence(plan->target);
	ledger->applied_at = time(NULL);
	ledger->name = copy(patch->name);
	ledger->version = copy(patch->version);
	ledger->description = copy(patch->description);
	memcpy(ledger->id, patch->id, sizeof(ledger->id));
	if (!ledger->name || !ledger->version || !ledger->description)
		return error_nomem();
	TRY(record_images(plan));
	vec_foreach (f, &patch->functions) {
		if (f->address)
			TRY(record_function(plan, f));
	}
	TRY(record_symbols(plan));
	return ledger_size(ledger, &plan->ledger_size);
}

/* ---- addresses ---- */

static struct suture_error *place_payloads(struct plan *plan, struct maps *maps)
{
	uint64_t mmap_min_addr = room_mmap_min_addr();

	vec_foreach (p, &plan->link->payloads) {
		struct room_request request = {
			.image = p->target->name,
			.low = p->target->module->low,
			.high = p->target->module->high,
			.size = p->size,
			.fixed = plan->patch->images.at[p->image].fixed,
			.mmap_min_addr = mmap_min_addr,
		};

		TRY(error_wrap(room_find(maps, &request, &p->start), "process %d (%s)",
			plan->target->process->pid, plan->target->process->comm));
		TRY(room_take(maps, p->start, p->start + p->size));
	}
	return NULL;
}

static void record_payload(struct ledger_image *image, const struct payload *p)
{
	image->start = p->start;
	image->end = p->start + p->size;
	image->text = payload_area(p, AREA_TEXT);
	image->text_end = image->text + p->areas[AREA_TEXT].size;
	image->eh_frame = payload_area(p, AREA_RO) + p->eh_frame;
	image->eh_frame_size = p->eh_frame_size;
}

static struct suture_error *record_detours(struct plan *plan)
{
	struct ledger_function *f = plan->ledger->functions.at;

	vec_foreach (from, &plan->patch->functions) {
		if (!from->address)
			continue;
		f->new_address = link_symbol_address(plan->link, from->symbol);
		if (!plan->link->arch->detour_encode(f->detour, f->site, f->new_address))
			return error_create(SUTURE_ERROR_RANGE,
				"%s at 0x%llx: a jump does not reach its new code at 0x%llx",
				f->name, (unsigned long long)f->site,
				(unsigned long long)f->new_address);
		f++;
	}
	for (size_t i = 0; i < plan->link->functions.n; i++)
		plan->ledger->symbols.at[i].address =
			link_function_address(plan->link, &plan->link->functions.at[i]);
	return NULL;
}

struct suture_error *plan_place(struct plan *plan)
{
	struct maps maps = {};

	TRY(process_maps(plan->target->process, &maps));
	struct suture_error *err = place_payloads(plan, &maps);
	maps_deinit(&maps);
	if (err)
		return err;
	TRY(link_relocate(plan->link));
	vec_foreach (p, &plan->link->payloads)
		record_payload(&plan->ledger->images.at[p->image], p);
	plan->ledger->address = payload_area(&plan->link->payloads.at[0], AREA_RO);
	return record_detours(plan);
}

/* ---- the whole ---- */

/*
 * Payloads in the order of images, so that the record is in the first one that the ledger names,
 * and the code of every function lives in the payload of its image.
 */
static struct suture_error *check_shape(const struct plan *plan)
{
	const struct patch *patch = plan->patch;

	if (!plan->link->payloads.n || !plan->ledger->functions.n)
		return error_create(SUTURE_ERROR_INPUT, "patch %s replaces nothing", patch->name);
	vec_foreach (f, &patch->functions) {
		const struct patch_symbol *symbol = &patch->symbols.at[f->symbol];

		if (f->address && patch->sections.at[symbol->section].image != f->image)
			return error_create(SUTURE_ERROR_INPUT,
				"the new code of %s is meant for another image", f->name);
	}
	return NULL;
}

struct suture_error *plan_create(
	struct target *target, const struct patch *patch, struct plan **ret)
{
	_cleanup_(plan_destroyp) struct plan *plan = calloc(1, sizeof(*plan));

	if (!plan)
		return error_nomem();
	plan->target = target;
	plan->patch = patch;
	TRY(find_images(plan));
	TRY(verify_ledger(target, patch));
	TRY(link_create(target, patch, plan->images, &plan->link));
	TRY(verify_code(plan));
	TRY(link_find_functions(plan->link));
	TRY(record(plan));
	TRY(check_shape(plan));
	TRY(link_layout(plan->link, plan->ledger_size, LEDGER_TAG_SIZE));
	TRY(plan_place(plan));
	*ret = take(plan);
	return NULL;
}

void plan_destroy(struct plan *plan)
{
	if (!plan)
		return;
	link_destroy(plan->link);
	ledger_destroy(plan->ledger);
	free(plan->images);
	free(plan);
}

/* ---- in words ---- */

struct lines {
	VEC(char *) v;
};

static struct suture_error *add_line(struct lines *lines, const char *fmt, ...) PRINTF(2, 3);
static struct suture_error *add_line(struct lines *lines, const char *fmt, ...)
{
	char *text;
	va_list ap;

	va_start(ap, fmt);
	int n = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (n < 0)
		return error_nomem();
	if (!vec_push(&lines->v, text)) {
		free(text);
		return error_nomem();
	}
	return NULL;
}

static struct suture_error *describe_payload(struct lines *lines, const struct payload *p)
{
	char id[2 * PATCH_BUILD_ID_MAX + 1];

	hex_format(id, p->target->build_id, p->target->build_id_size);
	return add_line(lines,
		"map %llu KiB at 0x%llx for %s (build-id %s at 0x%llx): %llu bytes of code, %llu "
		"of constants and tables, %llu of variables",
		(unsigned long long)(p->size / 1024), (unsigned long long)p->start, p->target->path,
		id, (unsigned long long)p->target->base,
		(unsigned long long)p->areas[AREA_TEXT].used,
		(unsigned long long)p->areas[AREA_RO].used,
		(unsigned long long)p->areas[AREA_DATA].used);
}

static struct suture_error *describe_function(
	struct lines *lines, const struct plan *plan, const struct ledger_function *f)
{
	return add_line(lines,
		"replace %s in %s: 0x%llx (%llu bytes) jumps to 0x%llx (%llu bytes); the detour "
		"is %u bytes at +%llu",
		f->name, plan->ledger->images.at[f->image].name, (unsigned long long)f->address,
		(unsigned long long)f->size, (unsigned long long)f->new_address,
		(unsigned long long)f->new_size, f->length,
		(unsigned long long)(f->site - f->address));
}

static struct suture_error *describe_symbol(
	struct lines *lines, const struct plan *plan, size_t index)
{
	const struct patch_symbol *symbol = &plan->patch->symbols.at[index];
	const struct binding *b = &plan->link->bindings[index];

	if (symbol->kind != PATCH_SYMBOL_DYNAMIC)
		return NULL;
	if (b->resolver)
		return add_line(lines, "bind %s to what its resolver at 0x%llx chooses (%s)",
			symbol->name, (unsigned long long)b->resolver, b->image);
	if (!b->image)
		return add_line(lines, "bind %s to nothing (weak)", symbol->name);
	return add_line(lines, "bind %s to 0x%llx (%s)", symbol->name,
		(unsigned long long)(b->call ?: b->value), b->image);
}

static struct suture_error *describe(const struct plan *plan, struct lines *lines)
{
	vec_foreach (ledger, &plan->target->ledgers.v) {
		if (!ledger_in_force(*ledger))
			TRY(add_line(
				lines, "first take out what is left of patch %s", (*ledger)->name));
	}
	vec_foreach (p, &plan->link->payloads)
		TRY(describe_payload(lines, p));
	for (size_t i = 0; i < plan->patch->symbols.n; i++)
		TRY(describe_symbol(lines, plan, i));
	vec_foreach (f, &plan->ledger->functions)
		TRY(describe_function(lines, plan, f));
	return NULL;
}

struct suture_error *plan_describe(const struct plan *plan, char ***ret, size_t *ret_n)
{
	struct lines lines = {};

	struct suture_error *err = describe(plan, &lines);
	if (err) {
		vec_foreach (line, &lines.v)
			free(*line);
		vec_free(&lines.v);
		return err;
	}
	*ret = lines.v.at;
	*ret_n = lines.v.n;
	return NULL;
}
