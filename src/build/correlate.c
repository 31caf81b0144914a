/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which span of the fixed object is which of the original. Names decide where they mean something;
 * the numbers in foo.isra.0 and count.3 do not. A static local is its original when the same
 * functions refer to it: taking it for another would mix up state, a second copy would lose it.
 */
#include <string.h>

#include "arch/arch.h"
#include "build/compare.h"

struct by_name {
	const char *name;
	size_t length; /* of the part of the name that counts */
	struct span *span;
};
struct names {
	VEC(struct by_name) v;
};

static int compare_names(const void *a, const void *b)
{
	const struct by_name *x = a, *y = b;
	size_t n = x->length < y->length ? x->length : y->length;
	int order = memcmp(x->name, y->name, n);

	if (order)
		return order;
	if (x->length != y->length)
		return x->length < y->length ? -1 : 1;
	return x->span->index < y->span->index ? -1 : x->span->index > y->span->index;
}

static bool same_name(const struct by_name *a, const struct by_name *b)
{
	return a->length == b->length && !memcmp(a->name, b->name, a->length);
}

static void pair(struct span *before, struct span *after)
{
	before->twin = after;
	after->twin = before;
}

static bool is_numbered(const struct span *span)
{
	return span->bind == STB_LOCAL && span->name[symbol_stem(span->name)];
}

/* ---- by full name ---- */

static bool has_plain_name(const struct span *span)
{
	return span->name && !span->anonymous && !span_is_static_local(span);
}

static struct suture_error *list_plain(const struct object *object, struct names *ret)
{
	vec_foreach (p, &object->spans) {
		if (!has_plain_name(*p))
			continue;
		vec_foreach (alias, &(*p)->aliases)
			if (!vec_push(&ret->v, ((struct by_name){*alias, strlen(*alias), *p})))
				return error_nomem();
	}
	if (ret->v.n)
		qsort(ret->v.at, ret->v.n, sizeof(*ret->v.at), compare_names);
	return NULL;
}

static bool same_sort(const struct span *a, const struct span *b)
{
	bool code_a = a->kind == SPAN_CODE, code_b = b->kind == SPAN_CODE;

	return code_a == code_b && (a->kind == SPAN_TLS) == (b->kind == SPAN_TLS);
}

/* Walk two sorted lists; names that are there twice within one object stay alone. */
static void pair_equal_names(const struct names *before, const struct names *after)
{
	size_t i = 0, j = 0;

	while (i < before->v.n && j < after->v.n) {
		struct by_name *b = &before->v.at[i], *a = &after->v.at[j];
		size_t nb = 1, na = 1;

		while (i + nb < before->v.n && same_name(b, b + nb))
			nb++;
		while (j + na < after->v.n && same_name(a, a + na))
			na++;
		if (same_name(a, b)) {
			if (nb == 1 && na == 1 && !a->span->twin && !b->span->twin &&
				same_sort(a->span, b->span))
				pair(b->span, a->span);
			i += nb;
			j += na;
		} else if (compare_names(b, a) < 0) {
			i += nb;
		} else {
			j += na;
		}
	}
}

typedef struct suture_error *(*list_fn)(const struct object *object, struct names *ret);

static struct suture_error *pair_lists(struct object *before, struct object *after, list_fn list)
{
	struct names b = {}, a = {};
	struct suture_error *err = list(before, &b);

	if (!err)
		err = list(after, &a);
	if (!err)
		pair_equal_names(&b, &a);
	vec_free(&b.v);
	vec_free(&a.v);
	return err;
}

/* ---- clones: foo.isra.0, foo.constprop.1.cold ---- */

/* Digits mean nothing, the words do: a clone of another sort has another calling convention. */
static bool same_clone_name(const char *a, const char *b)
{
	size_t stem = symbol_stem(a);

	if (stem != symbol_stem(b) || memcmp(a, b, stem) || !a[stem] || !b[stem])
		return false;
	for (a += stem, b += stem; *a && *b;) {
		if (strchr("0123456789", *a) && strchr("0123456789", *b)) {
			a += strspn(a, "0123456789");
			b += strspn(b, "0123456789");
		} else if (*a++ != *b++) {
			return false;
		}
	}
	return *a == *b;
}

static bool is_clone(const struct span *span)
{
	return span->kind == SPAN_CODE && span->name && !span->twin && is_numbered(span);
}

/* The only unpaired clone of that name in `object`; NULL: none or several. */
static struct span *only_clone(const struct object *object, const char *name)
{
	struct span *found = NULL;

	vec_foreach (p, &object->spans) {
		if (!is_clone(*p) || !same_clone_name((*p)->name, name))
			continue;
		if (found)
			return NULL;
		found = *p;
	}
	return found;
}

static void pair_clones(struct object *before, struct object *after)
{
	vec_foreach (p, &after->spans) {
		if (!is_clone(*p) || only_clone(after, (*p)->name) != *p)
			continue;
		struct span *b = only_clone(before, (*p)->name);
		if (b)
			pair(b, *p);
	}
}

/* ---- static locals: count.3 ---- */

static bool is_static_local(const struct span *span)
{
	return span_is_static_local(span) && !span->twin;
}

static bool same_stem(const struct span *a, const struct span *b)
{
	size_t n = symbol_stem(a->name);

	return n == symbol_stem(b->name) && !memcmp(a->name, b->name, n);
}

/* The source function that a span's code came from. */
static bool same_function(const struct span *a, const struct span *b)
{
	return a->twin == b || (a->name && b->name && same_stem(a, b));
}

static bool refers_to(const struct span *from, const struct span *to)
{
	vec_foreach (ref, &from->refs)
		if (ref->target == to)
			return true;
	return false;
}

/* `part` is there on its side only, and what `whole` is there calls it: split off, or merged. */
static bool is_split_off(const struct span *whole, const struct span *part)
{
	if (part->twin || part->kind != SPAN_CODE)
		return false;
	vec_foreach (p, &part->object->spans)
		if (refers_to(*p, part) && same_function(whole, *p))
			return true;
	return false;
}

static bool share_referrer(const struct span *b, const struct span *a, bool moved)
{
	vec_foreach (pb, &b->object->spans) {
		if (!refers_to(*pb, b))
			continue;
		vec_foreach (pa, &a->object->spans) {
			if (!refers_to(*pa, a))
				continue;
			if (same_function(*pb, *pa) ||
				(moved && (is_split_off(*pb, *pa) || is_split_off(*pa, *pb))))
				return true;
		}
	}
	return false;
}

static bool same_shape(const struct span *b, const struct span *a)
{
	return b->size == a->size && !b->data == !a->data &&
	       (!b->data || !memcmp(b->data, a->data, b->size));
}

/* How sure one must be that two static locals are one. */
struct rule {
	bool same_shape; /* size and initial content are equal */
	bool moved;	 /* into a function that was split off or merged */
};

/* One of the functions is on its side only: what it holds came from, or went to, the other. */
static bool is_moved(const struct span *b, const struct span *a)
{
	return !object_has_function(b->object, a->scope) ||
	       !object_has_function(a->object, b->scope);
}

static bool belong_together(const struct span *b, const struct span *a, struct rule rule)
{
	if (!b->scope || !a->scope)
		return share_referrer(b, a, rule.moved);
	if (!strcmp(b->scope, a->scope))
		return true;
	return rule.moved && is_moved(b, a) && share_referrer(b, a, true);
}

static bool may_be_twins(const struct span *b, const struct span *a, struct rule rule)
{
	return b->kind == a->kind && same_stem(b, a) && (!rule.same_shape || same_shape(b, a)) &&
	       belong_together(b, a, rule);
}

/* The only possible twin of `span` in `object`; NULL: none or several. */
static struct span *only_twin(
	const struct object *object, const struct span *span, struct rule rule)
{
	struct span *found = NULL;

	vec_foreach (p, &object->spans) {
		if (!is_static_local(*p) || !may_be_twins(*p, span, rule))
			continue;
		if (found)
			return NULL;
		found = *p;
	}
	return found;
}

static void pair_static_locals(struct object *before, struct object *after, struct rule rule)
{
	vec_foreach (p, &after->spans) {
		if (!is_static_local(*p))
			continue;
		struct span *b = only_twin(before, *p, rule);
		if (b && only_twin(after, b, rule) == *p)
			pair(b, *p);
	}
}

/* ---- static locals of one name in several scopes ---- */

/* The same instructions: the n-th reference of one is the n-th of the other. */
static bool same_code(const struct span *b, const struct span *a)
{
	uint64_t at = 0;

	if (b->kind != SPAN_CODE || b->size != a->size || b->refs.n != a->refs.n || !b->data)
		return false;
	for (size_t i = 0; i < b->refs.n; i++) {
		const struct ref *rb = &b->refs.at[i], *ra = &a->refs.at[i];

		if (rb->offset != ra->offset || rb->type != ra->type || rb->addend != ra->addend)
			return false;
		if (rb->offset > at && memcmp(b->data + at, a->data + at, rb->offset - at))
			return false;
		at = rb->offset + arch_x86_64.reloc_size(rb->type);
	}
	return at >= b->size || !memcmp(b->data + at, a->data + at, b->size - at);
}

static void pair_by_position(struct span *before, struct span *after)
{
	for (size_t i = 0; i < before->refs.n; i++) {
		struct span *b = before->refs.at[i].target, *a = after->refs.at[i].target;

		if (b && a && is_static_local(b) && is_static_local(a) &&
			may_be_twins(b, a, (struct rule){.same_shape = true}))
			pair(b, a);
	}
}

/* Where the code did not change, it tells. */
static void pair_in_same_code(struct object *before)
{
	vec_foreach (p, &before->spans)
		if ((*p)->twin && same_code(*p, (*p)->twin))
			pair_by_position(*p, (*p)->twin);
}

/* Of that name in that function, whether paired or not. */
static bool is_namesake(const struct span *a, const struct span *b)
{
	return a->scope && a->line && a->kind == b->kind && !a->anonymous && a->name &&
	       same_stem(a, b) && !strcmp(a->scope, b->scope);
}

static struct span *declared_at(const struct object *object, const struct span *like)
{
	struct span *found = NULL;

	vec_foreach (p, &object->spans) {
		if (!is_namesake(*p, like) || (*p)->line != like->line)
			continue;
		if (found) /* on one line */
			return NULL;
		found = *p;
	}
	return found;
}

/* Lines tell only when they have not moved: all of that name must be where they were. */
static bool lines_hold(const struct span *b, const struct object *after)
{
	vec_foreach (p, &b->object->spans)
		if (is_namesake(*p, b) && !declared_at(after, *p))
			return false;
	return true;
}

static void pair_by_line(struct object *before, struct object *after)
{
	vec_foreach (p, &before->spans) {
		struct span *b = *p;

		if (!is_static_local(b) || !b->scope || !b->line || !lines_hold(b, after))
			continue;
		struct span *a = declared_at(after, b);
		if (a && is_static_local(a))
			pair(b, a);
	}
}

/* ---- what has no name but its section's ---- */

static bool is_known_by_section(const struct span *span)
{
	return span->kind == SPAN_INIT ||
	       (!span->name && !span->anonymous &&
		       (span->kind == SPAN_CODE || span->kind == SPAN_DATA ||
			       span->kind == SPAN_TLS));
}

static struct suture_error *list_by_section(const struct object *object, struct names *ret)
{
	vec_foreach (p, &object->spans) {
		const char *name = object->sections.at[(*p)->section].name;

		if (is_known_by_section(*p) &&
			!vec_push(&ret->v, ((struct by_name){name, strlen(name), *p})))
			return error_nomem();
	}
	if (ret->v.n)
		qsort(ret->v.at, ret->v.n, sizeof(*ret->v.at), compare_names);
	return NULL;
}

struct suture_error *correlate(struct object *before, struct object *after)
{
	TRY(pair_lists(before, after, list_plain));
	TRY(pair_lists(before, after, list_by_section));
	pair_clones(before, after);
	pair_in_same_code(before);
	pair_by_line(before, after);
	/* Where several would do, those of the same size and initial content are taken first. */
	pair_static_locals(before, after, (struct rule){.same_shape = true});
	pair_static_locals(before, after, (struct rule){});
	pair_static_locals(before, after, (struct rule){.same_shape = true, .moved = true});
	return NULL;
}

/* ---- between units ---- */

static struct suture_error *list_unpaired_globals(const struct object *object, struct names *ret)
{
	vec_foreach (p, &object->spans) {
		if ((*p)->twin || !(*p)->name || (*p)->bind == STB_LOCAL)
			continue;
		vec_foreach (alias, &(*p)->aliases)
			if (!vec_push(&ret->v, ((struct by_name){*alias, strlen(*alias), *p})))
				return error_nomem();
	}
	if (ret->v.n)
		qsort(ret->v.at, ret->v.n, sizeof(*ret->v.at), compare_names);
	return NULL;
}

struct suture_error *correlate_moved(struct object *before, struct object *after)
{
	return pair_lists(before, after, list_unpaired_globals);
}
