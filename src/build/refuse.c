/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Changes that would be lost, or would lose something, in a process that runs already: initial
 * values of existing variables, code and tables that are used once when the program starts.
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "build/assembly.h"
#include "build/compare.h"

#define HOOK_HINT \
	"leave it as it is and set the value where it is used, or restart the program with the fix"

static struct suture_error *refuse(const struct part *part, const char *what, const char *hint)
{
	return error_hint(
		error_create(SUTURE_ERROR_REFUSED, "%s: %s", part->pair->unit->name, what), "%s",
		hint);
}

#define REFUSE(part, hint, ...)                              \
	({                                                   \
		char what_[512];                             \
		snprintf(what_, sizeof(what_), __VA_ARGS__); \
		refuse(part, what_, hint);                   \
	})

static const char *section_name(const struct span *span)
{
	return span->section ? span->object->sections.at[span->section].name : "COMMON";
}

/* ---- variables that exist ---- */

static struct suture_error *refuse_variable(const struct part *part, const struct span *after)
{
	const struct span *before = after->twin;
	const char *name = SPAN_NAME(after);

	if (after->kind == SPAN_TLS)
		return REFUSE(part, HOOK_HINT, "thread-local variable %s changed", name);
	if (before->kind != after->kind)
		return REFUSE(part, HOOK_HINT, "%s moved from section %s to %s", name,
			section_name(before), section_name(after));
	if (before->size != after->size)
		return REFUSE(part, HOOK_HINT, "the size of %s changed from %llu to %llu bytes",
			name, (unsigned long long)before->size, (unsigned long long)after->size);
	if (!before->data != !after->data)
		return REFUSE(part, HOOK_HINT, "the initial value of %s changed (%s to %s)", name,
			section_name(before), section_name(after));
	return REFUSE(part, HOOK_HINT, "the initial value of %s changed", name);
}

static bool is_variable(const struct span *span)
{
	return !span->anonymous && (span->kind == SPAN_DATA || span->kind == SPAN_TLS);
}

static struct suture_error *check_variable(const struct part *part, const struct span *after)
{
	const struct span *before = after->twin;

	if (!before || !(is_variable(after) || is_variable(before)))
		return NULL;
	if (after->changed)
		return refuse_variable(part, after);
	if (after->align > before->align)
		return REFUSE(part, HOOK_HINT, "the alignment of %s grew from %llu to %llu",
			SPAN_NAME(after), (unsigned long long)before->align,
			(unsigned long long)after->align);
	return NULL;
}

/* A variable that points at what is replaced keeps pointing at the old. */
static struct suture_error *check_pointers(const struct part *part, const struct span *after)
{
	if (after->kind != SPAN_DATA || !after->twin)
		return NULL;
	vec_foreach (ref, &after->refs) {
		const struct span *target = ref->target;

		if (!target || !target->changed)
			continue;
		if (target->kind == SPAN_CONSTANT)
			return REFUSE(part, HOOK_HINT,
				"constant %s changed, and variable %s points to it",
				SPAN_NAME(target), SPAN_NAME(after));
		if (target->kind == SPAN_CODE && ref->addend)
			return REFUSE(part, HOOK_HINT,
				"function %s changed, and variable %s points into it",
				SPAN_NAME(target), SPAN_NAME(after));
	}
	return NULL;
}

/* ---- variables that disappeared ---- */

static bool is_referred_to(const struct span *span)
{
	vec_foreach (p, &span->object->spans)
		vec_foreach (ref, &(*p)->refs)
			if (ref->target == span)
				return true;
	return false;
}

/* What took its place: of its name and another sort (thread-local or not), or of its shape. */
static const struct span *like(const struct object *after, const struct span *before)
{
	vec_foreach (p, &after->spans)
		if (is_variable(*p) && !(*p)->twin && (*p)->name && before->name &&
			!strcmp((*p)->name, before->name))
			return *p;
	vec_foreach (p, &after->spans)
		if ((*p)->kind == before->kind && is_variable(*p) && !(*p)->twin &&
			(*p)->size == before->size && !(*p)->data == !before->data &&
			is_referred_to(*p))
			return *p;
	return NULL;
}

static struct suture_error *check_removed(const struct part *part, const struct span *before)
{
	const struct span *instead;

	if (!is_variable(before) || before->twin || !is_referred_to(before))
		return NULL;
	if (span_is_static_local(before))
		return REFUSE(part,
			"a live patch keeps the variable: leave it where it is, under its name",
			"static variable %s has no counterpart in the fixed source; a new one "
			"would not have its value",
			before->name);
	instead = like(part->pair->after, before);
	if (instead)
		return REFUSE(part, "if it was renamed, keep the old name in the live patch",
			"variable %s disappeared and %s%s appeared; a new one would not have its "
			"value",
			SPAN_NAME(before), before->kind == instead->kind ? "" : "another ",
			SPAN_NAME(instead));
	return NULL;
}

/* ---- one became two, two became one ---- */

static struct span *span_named(const struct object *object, const char *name)
{
	vec_foreach (p, &object->spans)
		if (span_has_name(*p, name))
			return *p;
	return NULL;
}

/* A static function whose address nobody takes: who calls it is compiled here, too. */
static bool is_only_called(const struct span *span)
{
	if (span->kind != SPAN_CODE || span->bind != STB_LOCAL)
		return false;
	vec_foreach (p, &span->object->spans)
		vec_foreach (ref, &(*p)->refs)
			if (ref->target == span && !ref->branch)
				return false;
	return true;
}

/*
 * Compilers fold equal functions into one with two names, and stop doing so when one changes. Who
 * holds the address of the old one may mean either.
 */
static struct suture_error *check_folded(
	const struct part *part, const struct span *self, const struct object *other)
{
	if (self->anonymous || span_is_static_local(self))
		return NULL;
	vec_foreach (alias, &self->aliases) {
		/* The numbers of clones mean nothing. */
		if ((self->bind == STB_LOCAL && (*alias)[symbol_stem(*alias)]) ||
			(self->twin && span_has_name(self->twin, *alias)))
			continue;
		const struct span *same = span_named(other, *alias);
		if (!same)
			continue;
		bool before = self->object == part->pair->before;
		if (self->kind != SPAN_DATA && self->kind != SPAN_TLS &&
			spans_equal(before ? self : same, before ? same : self))
			continue;
		if (is_only_called(self) && is_only_called(same))
			continue;
		const struct span *twin = same->twin ? same->twin : same;
		return REFUSE(part, "build with -fno-ipa-icf, or change both alike",
			"%s shares its code with %s %s the fix, and not %s it", *alias,
			SPAN_NAME(twin), before ? "after" : "before", before ? "before" : "after");
	}
	return NULL;
}

/* ---- what is used once, at the start ---- */

static struct suture_error *check_init_table(const struct part *part, const struct span *span)
{
	if (span->kind != SPAN_INIT)
		return NULL;
	if (!span->twin || span->changed)
		return REFUSE(part, HOOK_HINT,
			"a constructor or destructor was added, removed or moved (section %s); "
			"the program has run its constructors already",
			section_name(span));
	if (!strncmp(section_name(span), ".fini", 5) || !strncmp(section_name(span), ".dtors", 6))
		return NULL;
	vec_foreach (ref, &span->refs)
		if (ref->target && ref->target->kind == SPAN_CODE && ref->target->changed)
			return REFUSE(part, HOOK_HINT, "constructor %s changed; it has run already",
				SPAN_NAME(ref->target));
	return NULL;
}

static struct suture_error *check_ifunc(const struct part *part, const struct span *span)
{
	if (span->kind == SPAN_CODE && span->type == STT_GNU_IFUNC && span->changed)
		return REFUSE(part, "patch the implementations instead",
			"the resolver of IFUNC %s changed; its choice has been made already",
			SPAN_NAME(span));
	return NULL;
}

/* Other units refer to it, and are not recompiled. */
static struct suture_error *check_constant(const struct part *part, const struct span *span)
{
	if (span->kind == SPAN_CONSTANT && span->changed && span->twin && span->bind != STB_LOCAL)
		return REFUSE(part, "give the fixed function a constant of its own",
			"constant %s changed, and other source files may use it", SPAN_NAME(span));
	return NULL;
}

/* Names that are C identifiers get __start_ and __stop_ symbols: somebody walks the section. */
static bool is_list_section(const char *name)
{
	if (!isalpha((unsigned char)*name) && *name != '_')
		return false;
	for (; *name; name++)
		if (!isalnum((unsigned char)*name) && *name != '_')
			return false;
	return true;
}

static struct suture_error *check_list(const struct part *part, const struct span *span)
{
	if (span->kind == SPAN_CODE || !span->section || !is_list_section(section_name(span)) ||
		(span->twin && !span->changed))
		return NULL;
	return REFUSE(part, HOOK_HINT, "%s in section %s is %s; the program walks that section",
		SPAN_NAME(span), section_name(span), span->twin ? "changed" : "new");
}

static struct suture_error *check_relocs(const struct part *part, const struct span *span)
{
	const struct arch *arch = &arch_x86_64;

	vec_foreach (ref, &span->refs)
		if (arch->reloc_need(ref->type) == RELOC_UNSUPPORTED)
			return error_create(SUTURE_ERROR_UNSUPPORTED,
				"%s: %s uses relocation %s (%u), which is not supported%s",
				part->pair->unit->name, SPAN_NAME(span),
				arch->reloc_name(ref->type), ref->type,
				arch->reloc_size(ref->type) == 8
					? " (code models other than small are not)"
					: "");
	return NULL;
}

static struct suture_error *check_code(const struct part *part, const struct span *span)
{
	if (span->kind != SPAN_CODE || !span->changed)
		return NULL;
	TRY(check_relocs(part, span));
	return span->twin ? check_relocs(part, span->twin) : NULL;
}

struct suture_error *refuse_changes(const struct part *part)
{
	const struct object *before = part->pair->before, *after = part->pair->after;

	vec_foreach (p, &after->spans) {
		TRY(check_variable(part, *p));
		TRY(check_pointers(part, *p));
		TRY(check_init_table(part, *p));
		TRY(check_ifunc(part, *p));
		TRY(check_constant(part, *p));
		TRY(check_list(part, *p));
		TRY(check_code(part, *p));
		if (before)
			TRY(check_folded(part, *p, before));
	}
	if (!before)
		return NULL;
	vec_foreach (p, &before->spans) {
		TRY(check_folded(part, *p, after));
		TRY(check_removed(part, *p));
		if ((*p)->kind == SPAN_INIT && !(*p)->twin)
			TRY(check_init_table(part, *p));
	}
	return NULL;
}

struct suture_error *refuse_span(const struct part *part, const struct span *span)
{
	if (span->kind == SPAN_TLS)
		return REFUSE(part, "use another kind of storage in the live patch",
			"%s is a new thread-local variable", SPAN_NAME(span));
	if (span->kind == SPAN_CODE && span->type == STT_GNU_IFUNC)
		return REFUSE(part, "call an implementation directly", "%s is a new IFUNC",
			SPAN_NAME(span));
	if (span->kind == SPAN_CODE && span->opaque)
		return error_create(SUTURE_ERROR_UNSUPPORTED,
			"%s: %s holds code that cannot be moved alone (data or short branches out "
			"of it)",
			part->pair->unit->name, SPAN_NAME(span));
	if (span->kind == SPAN_CODE && !span->name)
		return error_create(SUTURE_ERROR_UNSUPPORTED,
			"%s: assembler code outside of functions changed or is needed",
			part->pair->unit->name);
	if (span->kind == SPAN_INIT)
		return REFUSE(part, HOOK_HINT, "section %s changed", section_name(span));
	return NULL;
}
