/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which function a static local belongs to. Object code does not say: when functions are inlined,
 * others refer to it. Debug information does, and the line where it is declared, which the capture
 * keeps for source that the fix does not touch.
 */
#include <dwarf.h>
#include <elfutils/libdwfl.h>
#include <string.h>

#include "build/object.h"

#define MAX_DEPTH 256 /* of nested scopes */

struct scopes {
	struct object *object;
	Dwfl_Module *module;
};

static bool needs_scope(const struct span *span)
{
	return span->name && span->bind == STB_LOCAL && !span->anonymous &&
	       span->kind != SPAN_CODE && strchr(span->name, '.');
}

static bool any_needs_scope(const struct object *object)
{
	vec_foreach (span, &object->spans)
		if (needs_scope(*span))
			return true;
	return false;
}

/* The address in the layout that libdwfl made up; false: not at one fixed address. */
static bool address_of(Dwarf_Die *die, Dwarf_Addr *ret)
{
	Dwarf_Attribute attr, value;
	Dwarf_Op *ops;
	size_t n;

	if (!dwarf_attr(die, DW_AT_location, &attr) || dwarf_getlocation(&attr, &ops, &n) || n != 1)
		return false;
	if (ops[0].atom == DW_OP_addr) {
		*ret = ops[0].number;
		return true;
	}
	return (ops[0].atom == DW_OP_addrx || ops[0].atom == DW_OP_GNU_addr_index) &&
	       !dwarf_getlocation_attr(&attr, ops, &value) && !dwarf_formaddr(&value, ret);
}

static struct span *span_of(const struct scopes *scopes, Dwarf_Addr address)
{
	int base = dwfl_module_relocate_address(scopes->module, &address);
	GElf_Word section = 0;
	int64_t offset;

	if (base < 0 || !dwfl_module_relocation_info(scopes->module, base, &section) ||
		section >= scopes->object->sections.n || address > INT64_MAX)
		return NULL;
	struct span *span = object_span_at(scopes->object, section, address, &offset);
	return span && !offset ? span : NULL;
}

static struct suture_error *note_variable(
	const struct scopes *scopes, Dwarf_Die *die, const char *function)
{
	Dwarf_Addr address;
	struct span *span = address_of(die, &address) ? span_of(scopes, address) : NULL;
	int line = 0;

	if (!span || !needs_scope(span) || span->scope)
		return NULL;
	if (!dwarf_decl_line(die, &line))
		span->line = line;
	span->scope = strdup(function);
	return span->scope ? NULL : error_nomem();
}

static struct suture_error *note_function(struct object *object, Dwarf_Die *die)
{
	const char *name = dwarf_diename(die);

	/* A declaration says that somebody else has it; what was inlined refers to what has a body.
	 */
	if (!name || dwarf_hasattr(die, DW_AT_declaration))
		return NULL;
	char *copy = strdup(name);
	if (!copy || !vec_push(&object->functions, copy)) {
		free(copy);
		return error_nomem();
	}
	return NULL;
}

static struct suture_error *walk(
	const struct scopes *scopes, Dwarf_Die *parent, const char *function, unsigned depth)
{
	Dwarf_Die die;

	if (depth > MAX_DEPTH || dwarf_child(parent, &die))
		return NULL;
	do {
		int tag = dwarf_tag(&die);
		const char *inside = function;

		if (tag == DW_TAG_subprogram || tag == DW_TAG_inlined_subroutine)
			inside = dwarf_diename(&die);
		if (tag == DW_TAG_subprogram)
			TRY(note_function(scopes->object, &die));
		if (tag == DW_TAG_variable && function)
			TRY(note_variable(scopes, &die, function));
		else if (inside)
			TRY(walk(scopes, &die, inside, depth + 1));
	} while (!dwarf_siblingof(&die, &die));
	return NULL;
}

static struct suture_error *walk_units(const struct scopes *scopes)
{
	Dwarf_Die *unit = NULL;
	Dwarf_Addr bias;

	while ((unit = dwfl_module_nextcu(scopes->module, unit, &bias)))
		TRY(walk(scopes, unit, NULL, 0));
	return NULL;
}

static int compare_texts(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

bool object_has_function(const struct object *object, const char *name)
{
	if (object->functions.n)
		return bsearch(&name, object->functions.at, object->functions.n, sizeof(char *),
			       compare_texts) != NULL;
	vec_foreach (span, &object->spans)
		if ((*span)->kind == SPAN_CODE && span_has_name(*span, name))
			return true;
	return false;
}

struct suture_error *object_read_scopes(struct object *object)
{
	static const Dwfl_Callbacks callbacks = {
		.find_elf = dwfl_build_id_find_elf,
		.find_debuginfo = dwfl_standard_find_debuginfo,
		.section_address = dwfl_offline_section_address,
	};
	struct scopes scopes = {.object = object};
	struct suture_error *err = NULL;

	if (!any_needs_scope(object))
		return NULL;
	Dwfl *dwfl = dwfl_begin(&callbacks);
	if (!dwfl)
		return error_nomem();
	scopes.module = dwfl_report_offline(dwfl, object->path, object->path, -1);
	/* Without debug information those who refer to a variable must do. */
	if (scopes.module && !dwfl_report_end(dwfl, NULL, NULL))
		err = walk_units(&scopes);
	dwfl_end(dwfl);
	if (object->functions.n)
		qsort(object->functions.at, object->functions.n, sizeof(char *), compare_texts);
	return err;
}
