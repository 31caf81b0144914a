/* SPDX-License-Identifier: Apache-2.0 */
/* Locating a unit in an image: see locate.h. */
#include <dwarf.h>
#include <string.h>

#include "base/cleanup.h"
#include "build/locate.h"

/* ---- candidates ---- */

struct candidate {
	uint64_t address, size; /* size 0: not known */
};
struct candidates {
	VEC(struct candidate) v;
};

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* Locals stand under the name of their source file. */
static bool same_file(const struct location *l, const struct image_symbol *s)
{
	if (!s->file || !l->unit->name)
		return true;
	const char *file = base_name(s->file);
	return !strcmp(file, base_name(l->unit->name)) ||
	       (l->before->file && !strcmp(file, base_name(l->before->file)));
}

static bool is_candidate(
	const struct location *l, const struct span *span, const struct image_symbol *s)
{
	bool code = s->type == STT_FUNC || s->type == STT_GNU_IFUNC;

	if ((span->kind == SPAN_CODE) != code || s->shndx == SHN_ABS)
		return false;
	if ((span->kind == SPAN_TLS) != (s->type == STT_TLS))
		return false;
	if (span->bind == STB_LOCAL)
		return s->bind == STB_LOCAL && same_file(l, s);
	/* A hidden global becomes local when linked. */
	return s->bind != STB_LOCAL || !s->file || s->visibility == STV_HIDDEN ||
	       s->visibility == STV_INTERNAL;
}

static struct suture_error *add_candidate(struct candidates *c, uint64_t address, uint64_t size)
{
	vec_foreach (have, &c->v)
		if (have->address == address) {
			have->size = have->size > size ? have->size : size;
			return NULL;
		}
	return vec_push(&c->v, ((struct candidate){address, size})) ? NULL : error_nomem();
}

static struct suture_error *by_names(
	const struct location *l, const struct span *span, struct candidates *ret)
{
	vec_foreach (alias, &span->aliases) {
		const struct image_symbol *s;
		size_t at = 0;

		while ((s = target_find(l->target, *alias, &at)))
			if (is_candidate(l, span, s))
				TRY(add_candidate(ret, s->value, s->size));
	}
	return NULL;
}

/* What callers say goes before names; without a symbol there, the size is not known. */
static struct suture_error *narrow(const struct known *known, struct candidates *c)
{
	struct candidate only = {known->address, 0};

	if (!known->has_address)
		return NULL;
	vec_foreach (have, &c->v)
		if (have->address == known->address)
			only = *have;
	c->v.n = 0;
	return add_candidate(c, only.address, only.size);
}

/* ---- what matched code says about others ---- */

static struct known *known_of(const struct location *l, const struct ref *ref)
{
	return ref->target ? &l->spans[ref->target->index] : &l->symbols[ref->symbol];
}

/* A reference by name and one by address may both be there when the name's definition is here. */
static bool consistent(const struct location *l, const struct known *k, const struct value *v)
{
	const struct image *image = l->target->image;

	switch (v->kind) {
	case VALUE_ADDRESS:
		if (k->has_address)
			return k->address == v->number;
		return !k->has_dynamic || !image->dynsyms.at[k->dynsym].value ||
		       image->dynsyms.at[k->dynsym].value == v->number;
	case VALUE_DYNAMIC:
		return v->number == 0 && (!k->has_dynamic || k->dynsym == v->dynsym);
	case VALUE_TLS:
		return !k->has_tls || k->tls == v->number;
	case VALUE_TLS_DYNAMIC:
		return !k->has_tls_dynamic || k->dynsym == v->dynsym;
	case VALUE_NONE:
		break;
	}
	return true;
}

/* ld --wrap=name */
static bool is_wrapped(const char *have, const char *name)
{
	return !strncmp(have, "__wrap_", 7) && !strcmp(have + 7, name);
}

/* Symbols of that name exist, and none of them is here. */
static bool named_elsewhere(
	const struct target *target, const char *name, uint64_t address, bool local)
{
	const struct image_symbol *s;
	bool any = false;
	size_t at = 0;

	while ((s = target_find(target, name, &at))) {
		if (s->type == STT_TLS || (!local && s->bind == STB_LOCAL && s->file))
			continue;
		any = true;
		if (s->value == address)
			return false;
	}
	const struct image_symbol *there = image_symbol_at(target->image, address);
	return any && !(there && is_wrapped(there->name, name));
}

/* The target's own names for the place must not contradict. */
static bool name_fits(const struct location *l, const struct ref *ref, const struct value *v)
{
	const struct span *span = ref->target;
	const struct object_symbol *sym = &l->before->symbols.at[ref->symbol];

	if (v->kind == VALUE_DYNAMIC || v->kind == VALUE_TLS_DYNAMIC) {
		const char *name = l->target->image->dynsyms.at[v->dynsym].name;
		return span ? span_has_name(span, name) : !strcmp(name, sym->name);
	}
	if (v->kind != VALUE_ADDRESS)
		return true;
	if (!span)
		return !named_elsewhere(l->target, sym->name, v->number, false);
	/* A static local's number is not worth a name. */
	if (!span->name || span->name[symbol_stem(span->name)])
		return true;
	return !named_elsewhere(l->target, span->name, v->number, span->bind == STB_LOCAL);
}

static void learn(struct known *k, const struct value *v)
{
	switch (v->kind) {
	case VALUE_ADDRESS:
		k->has_address = true;
		k->address = v->number;
		break;
	case VALUE_DYNAMIC:
		k->has_dynamic = true;
		k->dynsym = v->dynsym;
		break;
	case VALUE_TLS:
		k->has_tls = true;
		k->tls = v->number;
		break;
	case VALUE_TLS_DYNAMIC:
		k->has_tls_dynamic = true;
		k->dynsym = v->dynsym;
		break;
	case VALUE_NONE:
		break;
	}
}

/* Copies of an anonymous constant, and places inside of functions, are no single value. */
static bool is_single(const struct ref *ref)
{
	const struct span *target = ref->target;

	return !target || (!target->anonymous && !(target->kind == SPAN_CODE && ref->addend));
}

static const char *ref_name(const struct location *l, const struct ref *ref, char *buf)
{
	return ref->target ? span_name(ref->target, buf, SPAN_NAME_MAX)
			   : l->before->symbols.at[ref->symbol].name;
}

static const char *value_name(const struct location *l, const struct value *v)
{
	const struct image *image = l->target->image;
	const struct image_symbol *s;

	if (v->kind == VALUE_DYNAMIC || v->kind == VALUE_TLS_DYNAMIC)
		return image->dynsyms.at[v->dynsym].name;
	s = v->kind == VALUE_ADDRESS ? image_symbol_at(image, v->number) : NULL;
	return s && s->value == v->number ? s->name : "something else";
}

static struct suture_error *check_consistent(
	const struct location *l, const struct match *match, char **ret)
{
	char buf[SPAN_NAME_MAX];

	vec_foreach (s, &match->solved) {
		if (!is_single(s->ref) || (consistent(l, known_of(l, s->ref), &s->value) &&
						  name_fits(l, s->ref, &s->value)))
			continue;
		if (asprintf(ret, "the target has %s for %s", value_name(l, &s->value),
			    ref_name(l, s->ref, buf)) < 0) {
			*ret = NULL;
			return error_nomem();
		}
		return NULL;
	}
	return NULL;
}

static void learn_all(const struct location *l, const struct match *match)
{
	vec_foreach (s, &match->solved)
		if (is_single(s->ref))
			learn(known_of(l, s->ref), &s->value);
}

/* ---- code ---- */

static struct suture_error *try_candidate(
	struct location *l, const struct span *span, const struct candidate *c, struct match *ret)
{
	TRY(match_code(l->target, span, c->address, c->size, ret));
	if (!ret->why)
		TRY(check_consistent(l, ret, &ret->why));
	return NULL;
}

static void settle(
	struct location *l, const struct span *span, const struct candidate *c, struct match *match)
{
	struct place *place = &l->places[span->index];
	struct value here = {.kind = VALUE_ADDRESS, .number = c->address};

	match_deinit(&place->match);
	place->state = PLACE_FOUND;
	place->address = c->address;
	place->size = c->size ? c->size : match->size;
	place->match = *match;
	*match = (struct match){};
	learn(&l->spans[span->index], &here);
	learn_all(l, &place->match);
}

/* Of several, those that the debug information puts into this very unit. */
static bool in_unit(const struct location *l, uint64_t address)
{
	Dwarf_Off offset = 0, next;
	size_t header;
	Dwarf_Die die;

	for (; !dwarf_nextcu(l->target->image->dwarf, offset, &next, &header, NULL, NULL, NULL);
		offset = next) {
		Dwarf_Attribute attr;

		if (!dwarf_offdie(l->target->image->dwarf, offset + header, &die) ||
			dwarf_haspc(&die, address) <= 0)
			continue;
		const char *name = dwarf_diename(&die);
		const char *dir = dwarf_formstring(dwarf_attr(&die, DW_AT_comp_dir, &attr));
		return name && !strcmp(name, l->unit->name) &&
		       (!dir || !l->unit->directory || !strcmp(dir, l->unit->directory));
	}
	return false;
}

static size_t only_in_unit(const struct location *l, const struct candidates *c, const bool *good)
{
	size_t only = SIZE_MAX;

	if (!l->target->image->dwarf || !l->unit->name)
		return SIZE_MAX;
	for (size_t i = 0; i < c->v.n; i++) {
		if (!good[i] || !in_unit(l, c->v.at[i].address))
			continue;
		if (only != SIZE_MAX)
			return SIZE_MAX;
		only = i;
	}
	return only;
}

static struct suture_error *choose(
	struct location *l, const struct span *span, const struct candidates *c)
{
	struct place *place = &l->places[span->index];
	_cleanup_free_ bool *good = calloc(c->v.n + 1, sizeof(bool));
	size_t n = 0, which = SIZE_MAX;
	struct suture_error *err = NULL;

	if (!good)
		return error_nomem();
	for (size_t i = 0; i < c->v.n && !err; i++) {
		struct match match = {};

		err = try_candidate(l, span, &c->v.at[i], &match);
		good[i] = !err && !match.why;
		if (good[i]) {
			which = i;
			n++;
		} else if (!place->match.why) {
			place->match.why = take(match.why);
			place->address = c->v.at[i].address;
		}
		match_deinit(&match);
	}
	if (n > 1)
		which = only_in_unit(l, c, good);
	if (err || which == SIZE_MAX) {
		place->state = n > 1 ? PLACE_AMBIGUOUS : PLACE_MISMATCH;
		return err;
	}
	struct match match = {};
	err = try_candidate(l, span, &c->v.at[which], &match);
	if (!err)
		settle(l, span, &c->v.at[which], &match);
	match_deinit(&match);
	return err;
}

static struct suture_error *locate_code(struct location *l, const struct span *span, bool *progress)
{
	struct place *place = &l->places[span->index];
	struct candidates c = {};
	struct suture_error *err = by_names(l, span, &c);

	if (!err)
		err = narrow(&l->spans[span->index], &c);
	match_deinit(&place->match);
	place->state = PLACE_ABSENT;
	if (!err && c.v.n)
		err = choose(l, span, &c);
	*progress |= place->state == PLACE_FOUND;
	vec_free(&c.v);
	return err;
}

/* ---- data ---- */

/* A place is known from code; is there what the source puts there? */
static struct suture_error *check_data(struct location *l, const struct span *span, bool *progress)
{
	struct place *place = &l->places[span->index];
	struct known *known = &l->spans[span->index];

	place->checked = true;
	place->address = known->address;
	place->size = span->size;
	TRY(match_data(l->target, span, known->address, &place->match));
	if (!place->match.why)
		TRY(check_consistent(l, &place->match, &place->match.why));
	place->state = place->match.why ? PLACE_MISMATCH : PLACE_FOUND;
	if (place->state == PLACE_FOUND)
		learn_all(l, &place->match);
	*progress = true;
	return NULL;
}

/* Nobody that was matched refers to it: by its name, when there is only one. */
static struct suture_error *name_data(struct location *l, const struct span *span, bool *progress)
{
	struct known *known = &l->spans[span->index];
	struct candidates c = {};
	struct suture_error *err = by_names(l, span, &c);

	if (!err && c.v.n == 1 && (!c.v.at[0].size || c.v.at[0].size == span->size)) {
		struct value v = {.kind = span->kind == SPAN_TLS ? VALUE_TLS : VALUE_ADDRESS,
			.number = c.v.at[0].address};

		learn(known, &v);
		*progress = true;
	} else if (!err && c.v.n > 1) {
		l->places[span->index].state = PLACE_AMBIGUOUS;
	}
	vec_free(&c.v);
	return err;
}

static bool is_located_data(const struct span *span)
{
	return span->name && !span->anonymous &&
	       (span->kind == SPAN_DATA || span->kind == SPAN_CONSTANT);
}

/* ---- places inside of functions ---- */

/* Jumps between a function and its cold part, jump tables: the matched counterpart is meant. */
static struct suture_error *check_inside(
	struct location *l, struct place *place, const struct solved *s, bool *progress)
{
	const struct place *to = &l->places[s->ref->target->index];

	if (to->state != PLACE_FOUND || place->state != PLACE_FOUND)
		return NULL;
	uint64_t reached = s->value.number + s->ref->addend;
	uint64_t want = match_address(&to->match, s->ref->addend);
	if (s->value.kind == VALUE_ADDRESS && (reached == want || !want))
		return NULL;
	*progress = true;
	place->state = PLACE_MISMATCH;
	if (asprintf(&place->match.why, "it goes to 0x%llx instead of +0x%llx of %s",
		    (unsigned long long)reached, (unsigned long long)s->ref->addend,
		    SPAN_NAME(s->ref->target)) < 0) {
		place->match.why = NULL;
		return error_nomem();
	}
	return NULL;
}

static struct suture_error *check_insides(struct location *l)
{
	bool progress = true;

	while (progress) {
		progress = false;
		for (size_t i = 0; i < l->before->spans.n; i++) {
			struct place *place = &l->places[i];
			const struct span *self = l->before->spans.at[i];

			vec_foreach (s, &place->match.solved) {
				const struct ref *ref = s->ref;

				/* Those of a function to itself were checked when it was matched */
				if (ref->target && ref->target != self &&
					ref->target->kind == SPAN_CODE && ref->addend)
					TRY(check_inside(l, place, s, &progress));
			}
		}
	}
	return NULL;
}

/* ---- all of it ---- */

static struct suture_error *pass(struct location *l, bool locals, bool *progress)
{
	vec_foreach (p, &l->before->spans) {
		const struct span *span = *p;
		struct place *place = &l->places[span->index];

		if (span->kind == SPAN_CODE && place->state != PLACE_FOUND && !span->opaque &&
			(span->name || l->spans[span->index].has_address) &&
			(locals || span->bind != STB_LOCAL))
			TRY(locate_code(l, span, progress));
		if (is_located_data(span) && !place->checked && l->spans[span->index].has_address)
			TRY(check_data(l, span, progress));
	}
	return NULL;
}

static struct suture_error *name_pass(struct location *l, bool *progress)
{
	vec_foreach (p, &l->before->spans) {
		const struct known *k = &l->spans[(*p)->index];
		bool tls = (*p)->kind == SPAN_TLS && (*p)->name;

		if ((is_located_data(*p) && !k->has_address && !k->has_dynamic) ||
			(tls && !k->has_tls && !k->has_tls_dynamic))
			TRY(name_data(l, *p, progress));
	}
	return NULL;
}

static bool has_code(const struct object *object)
{
	vec_foreach (p, &object->spans)
		if ((*p)->kind == SPAN_CODE)
			return true;
	return false;
}

static void count(struct location *l)
{
	bool code = has_code(l->before);

	vec_foreach (p, &l->before->spans) {
		const struct place *place = &l->places[(*p)->index];

		/* A unit of variables only is known by them. */
		if ((*p)->kind != SPAN_CODE && (code || !place->checked))
			continue;
		l->found += place->state == PLACE_FOUND;
		l->found_bytes += place->state == PLACE_FOUND ? place->size : 0;
		l->mismatched += place->state == PLACE_MISMATCH;
	}
}

static void find_file(struct location *l)
{
	bool any = false;

	vec_foreach (s, &l->target->image->symbols) {
		if (s->type != STT_FILE || !s->name[0])
			continue;
		any = true;
		struct image_symbol file = {.file = s->name};
		l->file_known |= same_file(l, &file);
	}
	l->file_known |= !any;
}

static struct suture_error *run(struct location *l)
{
	bool progress = true, named = false;

	find_file(l);
	TRY(pass(l, false, &progress));
	while (progress) {
		progress = false;
		TRY(pass(l, true, &progress));
		if (!progress && !named) {
			named = true;
			TRY(name_pass(l, &progress));
		}
	}
	TRY(check_insides(l));
	count(l);
	return NULL;
}

struct suture_error *locate(
	struct target *target, const struct unit *unit, struct object *before, struct location *ret)
{
	*ret = (struct location){
		.target = target,
		.unit = unit,
		.before = before,
		.places = calloc(before->spans.n + 1, sizeof(struct place)),
		.spans = calloc(before->spans.n + 1, sizeof(struct known)),
		.symbols = calloc(before->symbols.n + 1, sizeof(struct known)),
	};
	struct suture_error *err =
		ret->places && ret->spans && ret->symbols ? run(ret) : error_nomem();
	if (err)
		location_deinit(ret);
	return err;
}

void location_deinit(struct location *location)
{
	for (size_t i = 0; location->places && i < location->before->spans.n; i++)
		match_deinit(&location->places[i].match);
	free(location->places);
	free(location->spans);
	free(location->symbols);
	*location = (struct location){};
}

struct suture_error *location_error(const struct location *l, const struct span *span)
{
	const struct place *place = &l->places[span->index];
	const char *image = l->target->image->name, *unit = l->unit->name;

	switch (place->state) {
	case PLACE_ABSENT:
		return error_create(
			SUTURE_ERROR_SYMBOL, "%s of %s is not in %s", SPAN_NAME(span), unit, image);
	case PLACE_AMBIGUOUS:
		return error_hint(
			error_create(SUTURE_ERROR_SYMBOL,
				"%s of %s: several in %s look the same, and nothing tells which is "
				"meant",
				SPAN_NAME(span), unit, image),
			"debug information of the target would tell them apart");
	case PLACE_MISMATCH:
		return error_hint(
			error_create(SUTURE_ERROR_SOURCE_MISMATCH,
				"%s of %s does not match %s at 0x%llx: %s", SPAN_NAME(span), unit,
				image, (unsigned long long)place->address,
				place->match.why ? place->match.why : "it differs"),
			"built with another compiler or other flags, or from another source?");
	case PLACE_FOUND:
		break;
	}
	return error_create(SUTURE_ERROR_INTERNAL, "%s is located", SPAN_NAME(span));
}
