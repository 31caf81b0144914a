/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which image holds which unit. Programs have files and functions of the same names (main.c,
 * usage), and one source may be recorded with several commands; what matches decides, and where
 * nothing matches, the unit stays with the image that looks most like it, whose mismatch is then
 * reported.
 */
#include <dwarf.h>
#include <string.h>

#include "build/assembly.h"

enum rank {
	RANK_NONE,
	RANK_LIKELY, /* names fit, code does not */
	RANK_SURE,   /* code fits */
	RANK_LISTED, /* the debug information lists the unit */
};

/* ---- one unit in one image ---- */

static bool same_directory(Dwarf_Die *die, const struct unit *unit)
{
	Dwarf_Attribute attr;
	const char *dir = dwarf_formstring(dwarf_attr(die, DW_AT_comp_dir, &attr));

	return dir && unit->directory && !strcmp(dir, unit->directory);
}

static bool is_listed(const struct image *image, const struct unit *unit)
{
	Dwarf_Off offset = 0, next;
	size_t header;
	Dwarf_Die die;

	if (!image->dwarf || !unit->name)
		return false;
	for (; !dwarf_nextcu(image->dwarf, offset, &next, &header, NULL, NULL, NULL);
		offset = next) {
		const char *name;

		if (!dwarf_offdie(image->dwarf, offset + header, &die))
			continue;
		name = dwarf_diename(&die);
		if (name && !strcmp(name, unit->name) && same_directory(&die, unit))
			return true;
	}
	return false;
}

static enum rank rank_of(const struct part *part)
{
	const struct location *l = &part->location;

	if (!part->pair->before || !l->file_known || !(l->found || l->mismatched))
		return RANK_NONE;
	if (is_listed(l->target->image, part->pair->unit))
		return RANK_LISTED;
	return l->found > l->mismatched ? RANK_SURE : RANK_LIKELY;
}

/* ---- several commands for one source ---- */

static bool has_place(const struct location *l, uint64_t address)
{
	vec_foreach (p, &l->before->spans)
		if ((*p)->kind == SPAN_CODE && l->places[(*p)->index].state == PLACE_FOUND &&
			l->places[(*p)->index].address == address)
			return true;
	return false;
}

static bool overlap(const struct location *a, const struct location *b)
{
	vec_foreach (p, &a->before->spans) {
		const struct place *place = &a->places[(*p)->index];

		if ((*p)->kind == SPAN_CODE && place->state == PLACE_FOUND &&
			has_place(b, place->address))
			return true;
	}
	return false;
}

static bool same_source(const struct part *a, const struct part *b)
{
	return a != b && a->pair->unit->optional && b->pair->unit->optional &&
	       !strcmp(a->pair->unit->source, b->pair->unit->source);
}

/* `a` is a better account of what is in the image than `b`. */
static bool is_better(const struct part *a, const struct part *b)
{
	if (!a->location.mismatched != !b->location.mismatched)
		return !a->location.mismatched;
	if (a->location.found_bytes != b->location.found_bytes)
		return a->location.found_bytes > b->location.found_bytes;
	return a < b;
}

/* One source compiled twice into one image has functions of its own each time. */
static bool is_superseded(const struct assembly *as, const struct part *part)
{
	vec_foreach (other, &as->parts) {
		if (!other->hosted || !same_source(part, other) || !is_better(other, part))
			continue;
		if (!part->location.found || overlap(&part->location, &other->location))
			return true;
	}
	return false;
}

static void drop_variants(struct assembly *as)
{
	/* From the worst: what is better than it is still there to compare with. */
	for (;;) {
		struct part *worst = NULL;

		vec_foreach (part, &as->parts)
			if (part->hosted && is_superseded(as, part) &&
				(!worst || is_better(worst, part)))
				worst = part;
		if (!worst)
			return;
		worst->hosted = false;
	}
}

/* Another variant of the source is at home somewhere. */
static bool has_better_home(struct assembly *assemblies, size_t n, const struct part *part)
{
	for (size_t i = 0; i < n; i++)
		vec_foreach (other, &assemblies[i].parts)
			if (other->hosted && same_source(part, other) &&
				!other->location.mismatched && other->location.found)
				return true;
	return false;
}

/* ---- all ---- */

static void host_pair(struct assembly *assemblies, size_t n, size_t pair)
{
	enum rank best = RANK_NONE;

	for (size_t i = 0; i < n; i++) {
		enum rank rank = rank_of(&assemblies[i].parts.at[pair]);

		best = rank > best ? rank : best;
	}
	for (size_t i = 0; i < n; i++) {
		struct part *part = &assemblies[i].parts.at[pair];
		enum rank rank = rank_of(part);

		part->hosted = rank >= RANK_SURE || (rank && rank == best);
	}
}

void assembly_choose_hosts(struct assembly *assemblies, size_t n)
{
	for (size_t pair = 0; n && pair < assemblies[0].parts.n; pair++)
		host_pair(assemblies, n, pair);
	for (size_t i = 0; i < n; i++)
		drop_variants(&assemblies[i]);
	for (size_t i = 0; i < n; i++)
		vec_foreach (part, &assemblies[i].parts)
			if (part->hosted && part->pair->unit->optional && !part->location.found &&
				has_better_home(assemblies, n, part))
				part->hosted = false;
}
