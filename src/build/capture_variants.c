/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One source, several recorded compiles: for a library and for a program, with and without -fPIC.
 * GCC writes its options into the debug information (DW_AT_producer), so where the target's own
 * says with which ones a unit was made, the other compiles are dropped. What cannot be told apart
 * so is left to run-pre matching. See capture.h.
 */
#include <dwarf.h>
#include <elfutils/libdw.h>
#include <elfutils/libdwfl.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "build/capture.h"
#include "build/path.h"

#define OBJECT_MAX (1u << 30) /* bytes */

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Compiler, version and options without ours, in one order. */
static struct suture_error *split_producer(const char *producer, struct strings *ret)
{
	_cleanup_free_ char *copy = strdup(producer);
	char *save = NULL;

	if (!copy)
		return error_nomem();
	for (char *s = strtok_r(copy, " ", &save); s; s = strtok_r(NULL, " ", &save)) {
		if (!cflags_is_ours(s))
			TRY(strings_add(ret, s));
	}
	if (ret->v.n)
		qsort(ret->v.at, ret->v.n, sizeof(*ret->v.at), by_text);
	return NULL;
}

static bool same_strings(const struct strings *a, const struct strings *b)
{
	if (a->v.n != b->v.n)
		return false;
	for (size_t i = 0; i < a->v.n; i++) {
		if (strcmp(a->v.at[i], b->v.at[i]) != 0)
			return false;
	}
	return true;
}

static void dwfl_endp(Dwfl **dwfl)
{
	if (*dwfl)
		dwfl_end(*dwfl);
}

/*
 * The producer of an object's first unit; *ret stays empty when it does not say. Through libdwfl,
 * which relocates the references to strings that an object has.
 */
static struct suture_error *producer_of_object(const char *path, struct strings *ret)
{
	static const Dwfl_Callbacks callbacks = {
		.find_elf = dwfl_build_id_find_elf,
		.find_debuginfo = dwfl_standard_find_debuginfo,
		.section_address = dwfl_offline_section_address,
	};
	__attribute__((cleanup(dwfl_endp))) Dwfl *dwfl = dwfl_begin(&callbacks);
	Dwarf_Attribute attr;
	Dwarf_Addr bias;
	Dwarf_Die *die;

	if (!dwfl)
		return error_nomem();
	Dwfl_Module *module = dwfl_report_offline(dwfl, "", path, -1);
	if (dwfl_report_end(dwfl, NULL, NULL) != 0 || !module)
		return error_create(SUTURE_ERROR_COMPILE,
			"%s: the compiler's object is damaged: %s", path, dwfl_errmsg(-1));
	die = dwfl_module_nextcu(module, NULL, &bias);
	const char *producer =
		die ? dwarf_formstring(dwarf_attr(die, DW_AT_producer, &attr)) : NULL;
	return producer ? split_producer(producer, ret) : NULL;
}

/* A target has a unit of this command that was made as `made` says. */
static struct suture_error *is_in_target(
	const struct capture *cap, size_t command, const struct strings *made, bool *ret)
{
	vec_foreach (unit, &cap->coverage.units) {
		_cleanup_strings_ struct strings producer = {};
		Dwarf_Attribute attr;
		Dwarf_Die die = unit->die;

		if (!coverage_is_unit_of(unit, &cap->db.commands.at[command]))
			continue;
		const char *text = dwarf_formstring(dwarf_attr(&die, DW_AT_producer, &attr));
		if (text)
			TRY(split_producer(text, &producer));
		if (producer.v.n && same_strings(&producer, made)) {
			*ret = true;
			return NULL;
		}
	}
	return NULL;
}

static bool same_source(const struct capture *cap, size_t a, size_t b)
{
	return strcmp(cap->units->v.at[a].source, cap->units->v.at[b].source) == 0;
}

/* How many compiles of this unit's source are marked. */
static size_t count_marked(const struct capture *cap, size_t unit, const bool *marks)
{
	size_t n = 0;

	for (size_t i = 0; i < cap->units->v.n; i++)
		n += marks[i] && same_source(cap, i, unit);
	return n;
}

/* Of each source, those that are marked stay; all of them, if none is. */
static void drop_unmarked(struct capture *cap, const bool *marks, bool *drop)
{
	for (size_t i = 0; i < cap->units->v.n; i++)
		drop[i] = cap->units->v.at[i].optional && !marks[i] && count_marked(cap, i, marks);
}

static struct suture_error *mark(struct capture *cap, bool *marks)
{
	for (size_t i = 0; i < cap->units->v.n; i++) {
		const struct unit *unit = &cap->units->v.at[i];
		_cleanup_strings_ struct strings made = {};

		if (!unit->optional || !unit->before)
			continue;
		TRY(producer_of_object(unit->before, &made));
		if (made.v.n)
			TRY(is_in_target(cap, cap->unit_commands.at[i], &made, &marks[i]));
	}
	return NULL;
}

/* ---- compiles that make no difference ---- */

static struct suture_error *same_file(const char *a, const char *b, bool *ret)
{
	_cleanup_free_ char *data_a = NULL, *data_b = NULL;
	size_t size_a, size_b;

	if (!a || !b) {
		*ret = !a && !b;
		return NULL;
	}
	TRY(path_read_file(a, OBJECT_MAX, &data_a, &size_a));
	TRY(path_read_file(b, OBJECT_MAX, &data_b, &size_b));
	*ret = size_a == size_b && memcmp(data_a, data_b, size_a) == 0;
	return NULL;
}

/* -DPIC where nothing asks for it: the same object twice. */
static struct suture_error *drop_repeated(struct capture *cap, size_t first, bool *drop)
{
	for (size_t i = first + 1; i < cap->units->v.n; i++) {
		const struct unit *a = &cap->units->v.at[first], *b = &cap->units->v.at[i];
		bool same;

		if (!b->optional || drop[i] || !same_source(cap, i, first))
			continue;
		TRY(same_file(a->before, b->before, &same));
		if (same)
			TRY(same_file(a->after, b->after, &same));
		drop[i] = same;
	}
	return NULL;
}

/* Without those to drop; a unit that is left alone is not optional any more. */
static void compact(struct capture *cap, const bool *drop)
{
	struct units *units = cap->units;
	size_t kept = 0;

	for (size_t i = 0; i < units->v.n; i++) {
		struct unit *unit = &units->v.at[i];

		if (!drop[i]) {
			units->v.at[kept++] = *unit;
			continue;
		}
		log_info(cap->ctx, "%s (%s): not the compile that made the target", unit->source,
			unit->output ? unit->output : "no output");
		unit_deinit(unit);
	}
	units->v.n = kept;
	for (size_t i = 0; i < kept; i++) {
		bool several = false;

		for (size_t j = 0; j < kept && units->v.at[i].optional; j++)
			several |= i != j && same_source(cap, i, j);
		units->v.at[i].optional = several;
	}
}

struct suture_error *capture_choose_variants(struct capture *cap)
{
	_cleanup_free_ bool *marks = calloc(cap->units->v.n + 1, sizeof(bool));
	_cleanup_free_ bool *drop = calloc(cap->units->v.n + 1, sizeof(bool));

	if (!marks || !drop)
		return error_nomem();
	TRY(mark(cap, marks));
	drop_unmarked(cap, marks, drop);
	for (size_t i = 0; i < cap->units->v.n; i++) {
		if (cap->units->v.at[i].optional && !drop[i])
			TRY(drop_repeated(cap, i, drop));
	}
	compact(cap, drop);
	return NULL;
}
