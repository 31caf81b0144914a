/* SPDX-License-Identifier: Apache-2.0 */
/* Comparing the layout of types: see types.h. */
#include <dwarf.h>
#include <elfutils/libdw.h>
#include <elfutils/libdwfl.h>
#include <string.h>

#include "base/cleanup.h"
#include "build/strmap.h"
#include "build/types.h"

#define MAX_DEPTH 32 /* anonymous members in anonymous members */

struct type {
	char *name; /* "struct x", "typedef y" */
	Dwarf_Die die;
};

/* The named types of an object. */
struct types {
	Dwfl *dwfl;
	VEC(struct type) v;
	struct strmap by_name;
};

#define _cleanup_types_ __attribute__((cleanup(types_deinit)))

static void types_deinit(struct types *types)
{
	vec_foreach (type, &types->v)
		free(type->name);
	vec_free(&types->v);
	strmap_deinit(&types->by_name);
	if (types->dwfl)
		dwfl_end(types->dwfl);
}

/* ---- reading ---- */

static const char *kind_of(int tag)
{
	switch (tag) {
	case DW_TAG_structure_type:
		return "struct";
	case DW_TAG_union_type:
		return "union";
	case DW_TAG_enumeration_type:
		return "enum";
	default:
		return NULL;
	}
}

/* The type that a DIE has, without const, volatile and the like. */
static bool type_of(Dwarf_Die *die, Dwarf_Die *ret)
{
	Dwarf_Attribute attr;

	return dwarf_formref_die(dwarf_attr_integrate(die, DW_AT_type, &attr), ret) &&
	       dwarf_peel_type(ret, ret) == 0;
}

static struct suture_error *add_type(
	struct types *types, const char *kind, const char *name, const Dwarf_Die *die)
{
	char *full;

	if (asprintf(&full, "%s %s", kind, name) < 0)
		return error_nomem();
	size_t n = types->v.n, *at = strmap_add(&types->by_name, full, n);
	struct type *type = at && *at == n ? vec_add(&types->v) : NULL;
	if (type)
		*type = (struct type){full, *die};
	else
		free(full);
	return at && (type || *at != n) ? NULL : error_nomem();
}

/* A named type, or a typedef of one without a name of its own. */
static struct suture_error *read_type(struct types *types, Dwarf_Die *die)
{
	const char *kind = kind_of(dwarf_tag(die)), *name = dwarf_diename(die);
	Dwarf_Die target;

	if (!name || dwarf_hasattr(die, DW_AT_declaration))
		return NULL;
	if (kind)
		return add_type(types, kind, name, die);
	if (dwarf_tag(die) != DW_TAG_typedef || !type_of(die, &target))
		return NULL;
	if (kind_of(dwarf_tag(&target)) && !dwarf_diename(&target))
		return add_type(types, "typedef", name, &target);
	return NULL;
}

/* Through libdwfl, which relocates the references that the sections of an object have. */
static struct suture_error *types_read(struct types *types, const char *path)
{
	static const Dwfl_Callbacks callbacks = {
		.find_elf = dwfl_build_id_find_elf,
		.find_debuginfo = dwfl_standard_find_debuginfo,
		.section_address = dwfl_offline_section_address,
	};
	Dwarf_Die *cu = NULL, die;
	Dwarf_Addr bias;

	types->dwfl = dwfl_begin(&callbacks);
	if (!types->dwfl)
		return error_nomem();
	Dwfl_Module *module = dwfl_report_offline(types->dwfl, "", path, -1);
	if (dwfl_report_end(types->dwfl, NULL, NULL) != 0 || !module)
		return error_create(SUTURE_ERROR_COMPILE,
			"%s: the compiler's object is damaged: %s", path, dwfl_errmsg(-1));
	while ((cu = dwfl_module_nextcu(module, cu, &bias))) {
		if (dwarf_child(cu, &die) != 0)
			continue;
		do
			TRY(read_type(types, &die));
		while (dwarf_siblingof(&die, &die) == 0);
	}
	return NULL;
}

/* ---- comparing ---- */

static const char *name_or_anonymous(Dwarf_Die *die)
{
	const char *name = dwarf_diename(die);

	return name ? name : "(without a name)";
}

/* The next child of that tag from *die on (which may be it); false: there is none. */
static bool find_tag(Dwarf_Die *die, int tag)
{
	while (dwarf_tag(die) != tag) {
		if (dwarf_siblingof(die, die) != 0)
			return false;
	}
	return true;
}

static bool first_child(Dwarf_Die *parent, int tag, Dwarf_Die *ret)
{
	return dwarf_child(parent, ret) == 0 && find_tag(ret, tag);
}

static bool next_child(Dwarf_Die *die, int tag)
{
	return dwarf_siblingof(die, die) == 0 && find_tag(die, tag);
}

static Dwarf_Word number(Dwarf_Die *die, unsigned attribute)
{
	Dwarf_Attribute attr;
	Dwarf_Word value = 0;

	if (dwarf_formudata(dwarf_attr(die, attribute, &attr), &value) != 0)
		return 0;
	return value;
}

/* In bits, bit fields included (DWARF 5, 5.7.6). */
static Dwarf_Word offset_of(Dwarf_Die *member)
{
	return number(member, DW_AT_data_member_location) * 8 +
	       number(member, DW_AT_data_bit_offset);
}

/* In bits; 0 for a flexible array. */
static Dwarf_Word size_of(Dwarf_Die *member)
{
	Dwarf_Word size = number(member, DW_AT_bit_size);
	Dwarf_Die type;

	if (size || !type_of(member, &type) || dwarf_aggregate_size(&type, &size) != 0)
		return size;
	return dwarf_hasattr(member, DW_AT_bit_size) ? size : size * 8;
}

static struct suture_error *other_size(const char *member, Dwarf_Word old, Dwarf_Word new)
{
	bool bytes = old % 8 == 0 && new % 8 == 0;
	unsigned unit = bytes ? 8 : 1;

	return error_create(SUTURE_ERROR_REFUSED, "member %s has %llu %s instead of %llu", member,
		(unsigned long long)new / unit, bytes ? "bytes" : "bits",
		(unsigned long long)old / unit);
}

static struct suture_error *compare_types(Dwarf_Die *old, Dwarf_Die *new, int depth);

/* A member whose type has no name is laid out here and nowhere else. */
static struct suture_error *compare_inner(Dwarf_Die *old, Dwarf_Die *new, int depth)
{
	Dwarf_Die a, b;

	if (!type_of(old, &a) || !type_of(new, &b))
		return NULL;
	if (dwarf_tag(&a) != dwarf_tag(&b) || !kind_of(dwarf_tag(&a)) || dwarf_diename(&a) ||
		dwarf_diename(&b))
		return NULL;
	return error_wrap(compare_types(&a, &b, depth + 1), "%s", name_or_anonymous(old));
}

static struct suture_error *compare_member(Dwarf_Die *old, Dwarf_Die *new, int depth)
{
	const char *a = name_or_anonymous(old), *b = name_or_anonymous(new);
	Dwarf_Word old_offset = offset_of(old), new_offset = offset_of(new);
	Dwarf_Word old_size = size_of(old), new_size = size_of(new);

	if (strcmp(a, b) != 0)
		return error_create(SUTURE_ERROR_REFUSED, "member %s takes the place of %s", b, a);
	if (old_offset != new_offset)
		return error_create(SUTURE_ERROR_REFUSED, "member %s moves from byte %llu to %llu",
			a, (unsigned long long)old_offset / 8, (unsigned long long)new_offset / 8);
	if (old_size != new_size)
		return other_size(a, old_size, new_size);
	return compare_inner(old, new, depth);
}

static struct suture_error *compare_members(Dwarf_Die *old, Dwarf_Die *new, int depth)
{
	Dwarf_Die a, b;
	bool more_a = first_child(old, DW_TAG_member, &a);
	bool more_b = first_child(new, DW_TAG_member, &b);

	while (more_a && more_b) {
		TRY(compare_member(&a, &b, depth));
		more_a = next_child(&a, DW_TAG_member);
		more_b = next_child(&b, DW_TAG_member);
	}
	if (more_a)
		return error_create(
			SUTURE_ERROR_REFUSED, "member %s is removed", name_or_anonymous(&a));
	if (more_b)
		return error_create(
			SUTURE_ERROR_REFUSED, "member %s is new", name_or_anonymous(&b));
	return NULL;
}

static struct suture_error *compare_enumerators(Dwarf_Die *old, Dwarf_Die *new)
{
	_cleanup_strmap_ struct strmap values = {};
	Dwarf_Die die;

	for (bool more = first_child(old, DW_TAG_enumerator, &die); more;
		more = next_child(&die, DW_TAG_enumerator)) {
		if (!strmap_add(&values, name_or_anonymous(&die), number(&die, DW_AT_const_value)))
			return error_nomem();
	}
	for (bool more = first_child(new, DW_TAG_enumerator, &die); more;
		more = next_child(&die, DW_TAG_enumerator)) {
		const size_t *value = strmap_find(&values, name_or_anonymous(&die));

		if (value && *value != number(&die, DW_AT_const_value))
			return error_create(SUTURE_ERROR_REFUSED, "%s is %llu instead of %zu",
				name_or_anonymous(&die),
				(unsigned long long)number(&die, DW_AT_const_value), *value);
	}
	return NULL;
}

static struct suture_error *compare_types(Dwarf_Die *old, Dwarf_Die *new, int depth)
{
	if (depth > MAX_DEPTH)
		return NULL;
	if (dwarf_tag(old) == DW_TAG_enumeration_type)
		TRY(compare_enumerators(old, new));
	else
		TRY(compare_members(old, new, depth));
	if (dwarf_bytesize(old) != dwarf_bytesize(new))
		return error_create(SUTURE_ERROR_REFUSED, "it has %d bytes instead of %d",
			dwarf_bytesize(new), dwarf_bytesize(old));
	return NULL;
}

static struct suture_error *check_unit(const struct unit *unit)
{
	_cleanup_types_ struct types old = {}, new = {};

	TRY(types_read(&old, unit->before));
	TRY(types_read(&new, unit->after));
	vec_foreach (type, &new.v) {
		const size_t *at = strmap_find(&old.by_name, type->name);

		if (at)
			TRY(error_wrap(compare_types(&old.v.at[*at].die, &type->die, 0),
				"%s: the fix changes %s", unit->name, type->name));
	}
	return NULL;
}

struct suture_error *types_check(const struct units *units)
{
	vec_foreach (unit, &units->v) {
		if (!unit->before || !unit->after)
			continue;
		TRY(error_hint(check_unit(unit),
			"what the process has made already has the old layout; such a fix needs a "
			"restart"));
	}
	return NULL;
}
