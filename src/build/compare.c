/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What differs. Bytes are compared with relocated fields masked, references by what they reach:
 * anonymous constants by content, everything else by twin. Whoever refers to a constant that
 * changed has changed, until nothing is added.
 */
#include <string.h>

#include "arch/arch.h"
#include "base/cleanup.h"
#include "build/compare.h"

static bool contents_equal(const struct span *b, const struct span *a, unsigned depth);

/* Constants refer to constants; compilers nest them two or three deep. */
#define MAX_DEPTH 32

/* ---- bytes ---- */

/* The text with its NUL, when that is all there is but for padding; otherwise the whole size. */
static uint64_t text_size(const struct span *span)
{
	if (!span->anonymous || !span->data || span->refs.n || !span->size || !span->data[0])
		return span->size;
	const uint8_t *nul = memchr(span->data, '\0', span->size);
	if (!nul)
		return span->size;
	for (const uint8_t *p = nul; p < span->data + span->size; p++)
		if (*p)
			return span->size;
	return nul - span->data + 1;
}

static bool is_text(const struct span *span)
{
	return span->size && span->data && !span->refs.n && span->data[0] &&
	       !span->data[text_size(span) - 1] && !memchr(span->data, '\0', text_size(span) - 1);
}

/* Bytes outside of relocated fields; both have fields at the same places. */
static bool bytes_equal(const struct span *b, const struct span *a, uint64_t size)
{
	uint64_t at = 0;

	if (!b->data || !a->data)
		return !b->data && !a->data;
	vec_foreach (ref, &b->refs) {
		if (ref->offset > at && memcmp(b->data + at, a->data + at, ref->offset - at))
			return false;
		uint64_t end = ref->offset + arch_x86_64.reloc_size(ref->type);
		at = end > at ? end : at;
	}
	return at >= size || !memcmp(b->data + at, a->data + at, size - at);
}

/* ---- references ---- */

static const char *global_name(const struct object *object, const struct ref *ref)
{
	const struct object_symbol *sym = &object->symbols.at[ref->symbol];

	return ref->target && sym->bind == STB_LOCAL ? NULL : sym->name;
}

/* Defined in one, only referred to in the other: a global that moved between units. */
static bool same_global(const struct object *before, const struct ref *b,
	const struct object *after, const struct ref *a)
{
	const char *nb = global_name(before, b), *na = global_name(after, a);

	if (!nb || !na || b->addend != a->addend)
		return false;
	if (b->target && !span_has_name(b->target, nb))
		return false;
	return !(a->target && !span_has_name(a->target, na)) && !strcmp(nb, na);
}

static bool sections_equal(
	const struct object_section *b, const struct object_section *a, unsigned depth)
{
	if (b->spans.n != a->spans.n || b->size != a->size)
		return false;
	for (size_t i = 0; i < b->spans.n; i++)
		if (b->spans.at[i]->start != a->spans.at[i]->start ||
			!contents_equal(b->spans.at[i], a->spans.at[i], depth))
			return false;
	return true;
}

/* The span before this one in its section, unless a text: it may be what an end pointer ends. */
static const struct span *may_end_here(const struct span *span)
{
	const struct object_section *s = &span->object->sections.at[span->section];

	if (s->flags & SHF_MERGE)
		return NULL;
	for (size_t i = 1; i < s->spans.n; i++)
		if (s->spans.at[i] == span && !is_text(s->spans.at[i - 1]))
			return s->spans.at[i - 1];
	return NULL;
}

/* Both read so many bytes there, and nothing else: of a larger constant, maybe. */
static bool reads_equal(const struct ref *b, const struct ref *a)
{
	const struct span *sb = b->target, *sa = a->target;

	return b->access && b->access == a->access && b->addend >= 0 && a->addend >= 0 &&
	       sb->data && sa->data && !sb->refs.n && !sa->refs.n &&
	       (uint64_t)b->addend + b->access <= sb->size &&
	       (uint64_t)a->addend + a->access <= sa->size &&
	       !memcmp(sb->data + b->addend, sa->data + a->addend, b->access);
}

static bool anonymous_equal(const struct ref *b, const struct ref *a, unsigned depth)
{
	if (reads_equal(b, a))
		return true;

	const struct object_section *sb = &b->target->object->sections.at[b->target->section];
	const struct object_section *sa = &a->target->object->sections.at[a->target->section];

	if (b->addend != a->addend || !contents_equal(b->target, a->target, depth))
		return false;
	if (sb->ambiguous || sa->ambiguous)
		return sections_equal(sb, sa, depth);
	const struct span *eb = may_end_here(b->target), *ea = may_end_here(a->target);
	if (b->addend || !eb || !ea)
		return true;
	return contents_equal(eb, ea, depth);
}

static bool refs_equal_at(const struct object *before, const struct ref *b,
	const struct object *after, const struct ref *a, unsigned depth)
{
	if (b->type != a->type)
		return false;
	if (!b->target || !a->target)
		return same_global(before, b, after, a);
	if (b->target->anonymous && a->target->anonymous)
		return depth < MAX_DEPTH && anonymous_equal(b, a, depth + 1);
	return b->target->twin == a->target && b->addend == a->addend;
}

bool refs_equal(const struct object *before, const struct ref *b, const struct object *after,
	const struct ref *a)
{
	return refs_equal_at(before, b, after, a, 0);
}

static bool contents_equal(const struct span *b, const struct span *a, unsigned depth)
{
	uint64_t size = text_size(b);

	if (b->kind != a->kind || size != text_size(a) || b->refs.n != a->refs.n)
		return false;
	for (size_t i = 0; i < b->refs.n; i++)
		if (b->refs.at[i].offset != a->refs.at[i].offset ||
			!refs_equal_at(b->object, &b->refs.at[i], a->object, &a->refs.at[i], depth))
			return false;
	return bytes_equal(b, a, size);
}

bool spans_equal(const struct span *before, const struct span *after)
{
	return contents_equal(before, after, 0);
}

/* ---- marking ---- */

static bool same_lsda(const struct span *b, const struct span *a)
{
	if (!b->lsda || !a->lsda)
		return !b->lsda && !a->lsda;
	return contents_equal(b->lsda, a->lsda, 0);
}

static struct suture_error *mark(struct span *span, const char *why, const char *what)
{
	_cleanup_free_ char *reason = NULL;

	if (asprintf(&reason, "%s%s", why, what) < 0)
		return error_nomem();
	span->changed = true;
	free(span->reason);
	span->reason = take(reason);
	return NULL;
}

/* An unchanged part of a changed function jumps back into the old body, and the other way round. */
static struct suture_error *mark_parts(struct object *after, bool *again)
{
	vec_foreach (p, &after->spans) {
		struct span *cold = *p, *parent = cold->parent;

		if (!parent || cold->changed == parent->changed)
			continue;
		*again = true;
		if (parent->changed)
			TRY(mark(cold, "split part of ", parent->name));
		else
			TRY(mark(parent, "changed in ", cold->name));
	}
	return NULL;
}

/* What a reference to something changed makes of the one who refers; NULL: nothing. */
static const char *why_changed(const struct span *from, const struct ref *ref)
{
	const struct span *target = ref->target;

	if (!target || !target->changed)
		return NULL;
	if (target->kind == SPAN_CONSTANT)
		return "refers to changed constant ";
	/* Labels as values: the old table leads into the old body. */
	if (from->kind == SPAN_CONSTANT && target->kind == SPAN_CODE && ref->addend)
		return "points into changed function ";
	return NULL;
}

static struct suture_error *mark_users(struct object *after, bool *again)
{
	vec_foreach (p, &after->spans) {
		if ((*p)->changed || ((*p)->kind != SPAN_CODE && (*p)->kind != SPAN_CONSTANT))
			continue;
		vec_foreach (ref, &(*p)->refs) {
			const char *why = why_changed(*p, ref);

			if (!why)
				continue;
			TRY(mark(*p, why, SPAN_NAME(ref->target)));
			*again = true;
			break;
		}
	}
	return NULL;
}

static struct suture_error *mark_changed(struct span *after)
{
	const struct span *before = after->twin;

	if (!before)
		return mark(after, "new", "");
	if (!contents_equal(before, after, 0) || !same_lsda(before, after))
		return mark(after, "changed", "");
	return NULL;
}

/* Functions that lost or gained their cold part reach it by another reference: changed already. */
struct suture_error *compare(struct object *after)
{
	bool again = true;

	vec_foreach (p, &after->spans)
		if (!(*p)->anonymous)
			TRY(mark_changed(*p));
	while (again) {
		again = false;
		TRY(mark_users(after, &again));
		TRY(mark_parts(after, &again));
	}
	return NULL;
}
