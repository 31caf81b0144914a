/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cutting sections into spans. Functions and variables have symbols. Strings and mergeable
 * constants are cut as the linker cuts them; other anonymous data at the compiler's local labels.
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "arch/arch.h"
#include "build/object.h"

static bool starts_with(const char *s, const char *prefix)
{
	return !strncmp(s, prefix, strlen(prefix));
}

/* ---- names ---- */

/* ".5", ".isra", ".constprop", ...: true and its length when `s` begins with such a piece. */
static bool suffix_piece(const char *s, size_t *ret)
{
	static const char *const known[] = {
		".isra", ".constprop", ".part", ".cold", ".lto_priv", ".llvm"};
	size_t n = 1;

	if (s[0] != '.')
		return false;
	while (isdigit((unsigned char)s[n]))
		n++;
	if (n > 1 && (s[n] == '.' || !s[n])) {
		*ret = n;
		return true;
	}
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		n = strlen(known[i]);
		if (!strncmp(s, known[i], n) && (s[n] == '.' || !s[n])) {
			*ret = n;
			return true;
		}
	}
	return false;
}

static bool only_suffixes(const char *s)
{
	size_t n;

	while (*s) {
		if (!suffix_piece(s, &n))
			return false;
		s += n;
	}
	return true;
}

size_t symbol_stem(const char *name)
{
	const char *dot = strchr(name + (name[0] != '\0'), '.');

	for (; dot; dot = strchr(dot + 1, '.'))
		if (only_suffixes(dot))
			return dot - name;
	return strlen(name);
}

bool symbol_is_cold(const char *name)
{
	const char *cold = strstr(name, ".cold");

	return cold && cold != name && only_suffixes(cold);
}

/* Constants that the compiler names: the number in the name means nothing. */
static bool is_anonymous_name(const char *name)
{
	static const char *const prefixes[] = {".L", "__unnamed_", "CSWTCH.", "__func__.",
		"__FUNCTION__.", "__PRETTY_FUNCTION__.", "switch.table.", "__const."};

	for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++)
		if (starts_with(name, prefixes[i]))
			return true;
	/* GCC: C.3.1234 */
	return name[0] == 'C' && name[1] == '.' && symbol_stem(name) == 1;
}

bool span_has_name(const struct span *span, const char *name)
{
	size_t n = strcspn(name, "@");

	vec_foreach (alias, &span->aliases)
		if (strcspn(*alias, "@") == n && !memcmp(*alias, name, n))
			return true;
	return false;
}

bool span_is_static_local(const struct span *span)
{
	return span->name && !span->anonymous && span->kind != SPAN_CODE &&
	       span->bind == STB_LOCAL && (span->scope || strchr(span->name + 1, '.'));
}

const char *span_name(const struct span *span, char *buf, size_t len)
{
	if (span->name)
		return span->name;
	snprintf(buf, len, "%s+0x%llx", span->object->sections.at[span->section].name,
		(unsigned long long)span->start);
	return buf;
}

/* ---- sections ---- */

static bool is_init_table(const char *name)
{
	static const char *const tables[] = {
		".init_array", ".fini_array", ".preinit_array", ".ctors", ".dtors"};

	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
		size_t n = strlen(tables[i]);

		if (!strncmp(name, tables[i], n) && (!name[n] || name[n] == '.'))
			return true;
	}
	return false;
}

static enum span_kind kind_of(const struct object_section *s)
{
	if (s->flags & SHF_EXECINSTR)
		return SPAN_CODE;
	if (s->flags & SHF_TLS)
		return SPAN_TLS;
	if (is_init_table(s->name))
		return SPAN_INIT;
	if (starts_with(s->name, ".gcc_except_table"))
		return SPAN_LSDA;
	if (!(s->flags & SHF_WRITE) || starts_with(s->name, ".data.rel.ro"))
		return SPAN_CONSTANT;
	return SPAN_DATA;
}

/* ---- cutting ---- */

/* A place where a span begins; `symbol` NULL: at a label or by content. */
struct cut {
	uint64_t offset, size;
	const struct object_symbol *symbol;
};
struct cuts {
	VEC(struct cut) v;
};

static struct suture_error *add_cut(
	struct cuts *cuts, uint64_t offset, uint64_t size, const struct object_symbol *symbol)
{
	struct cut *cut = vec_add(&cuts->v);

	if (!cut)
		return error_nomem();
	*cut = (struct cut){offset, size, symbol};
	return NULL;
}

static bool is_zero(const uint8_t *p, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		if (p[i])
			return false;
	return true;
}

/* A section that the linker merges is cut as the linker cuts it. */
static struct suture_error *cut_merged(const struct object_section *s, struct cuts *cuts)
{
	uint64_t start = 0;

	for (uint64_t at = 0; at < s->size; at += s->entsize) {
		bool string = s->flags & SHF_STRINGS;

		if (string && !is_zero(s->data + at, s->entsize) && at + s->entsize < s->size)
			continue;
		TRY(add_cut(cuts, start, at + s->entsize - start, NULL));
		start = at + s->entsize;
	}
	return NULL;
}

static bool is_object_symbol(const struct object_symbol *sym, enum span_kind kind)
{
	switch (sym->type) {
	case STT_FUNC:
	case STT_GNU_IFUNC:
		return kind == SPAN_CODE && sym->size;
	case STT_OBJECT:
	case STT_TLS:
		return kind != SPAN_CODE;
	case STT_NOTYPE:
		/* Hand-written data, and the compiler's labels of anonymous data. */
		return kind != SPAN_CODE && kind != SPAN_LSDA && kind != SPAN_INIT;
	default:
		return false;
	}
}

static struct suture_error *cut_at_symbols(
	const struct object *object, uint32_t index, enum span_kind kind, struct cuts *cuts)
{
	vec_foreach (i, &object->sections.at[index].symbols) {
		const struct object_symbol *sym = &object->symbols.at[*i];

		if (!is_object_symbol(sym, kind))
			continue;
		bool label = starts_with(sym->name, ".L");
		if (label && sym->value && sym->value == object->sections.at[index].size)
			continue;
		TRY(add_cut(cuts, sym->value, label ? 0 : sym->size, label ? NULL : sym));
	}
	return NULL;
}

/* By offset; at one offset the largest symbol first, global before local, labels last. */
static int compare_cuts(const void *a, const void *b)
{
	const struct cut *x = a, *y = b;

	if (x->offset != y->offset)
		return x->offset < y->offset ? -1 : 1;
	if (!x->symbol != !y->symbol)
		return x->symbol ? -1 : 1;
	if (x->size != y->size)
		return x->size > y->size ? -1 : 1;
	if (!x->symbol)
		return 0;
	int local = (x->symbol->bind == STB_LOCAL) - (y->symbol->bind == STB_LOCAL);
	return local ? local : strcmp(x->symbol->name, y->symbol->name);
}

static void name_span(struct span *span, const struct object_symbol *sym)
{
	span->name = sym->name;
	span->type = sym->type;
	span->bind = sym->bind;
	span->visibility = sym->visibility;
}

static bool is_anonymous(const struct span *span)
{
	if (span->kind == SPAN_LSDA)
		return true;
	/* What sanitizers pass to their handlers, each in a section named after its label. */
	if (span->kind == SPAN_DATA && !span->name && span->section)
		return strstr(span->object->sections.at[span->section].name, "..L");
	if (span->kind != SPAN_CONSTANT)
		return false;
	return !span->name || (span->bind == STB_LOCAL && is_anonymous_name(span->name));
}

static struct suture_error *add_span(struct object *object, uint32_t index, uint64_t start,
	uint64_t size, const struct object_symbol *sym, struct span **ret)
{
	struct object_section *s = &object->sections.at[index];
	struct span *span = calloc(1, sizeof(*span));

	if (!span || !vec_push(&object->spans, span)) {
		free(span);
		return error_nomem();
	}
	*span = (struct span){
		.kind = index ? kind_of(s) : SPAN_DATA,
		.object = object,
		.index = object->spans.n - 1,
		.section = index,
		.start = start,
		.size = size,
		.align = s->align,
		.data = s->data ? s->data + start : NULL,
		.bind = STB_LOCAL,
	};
	while (span->align > 1 && start % span->align)
		span->align /= 2;
	if (sym)
		name_span(span, sym);
	span->anonymous = is_anonymous(span);
	if (index && !vec_push(&s->spans, span))
		return error_nomem();
	if (ret)
		*ret = span;
	return NULL;
}

static bool has_relocs(const struct object_section *s, uint64_t start, uint64_t end)
{
	vec_foreach (raw, &s->raw)
		if (raw->offset >= start && raw->offset < end)
			return true;
	return false;
}

/* Between two symbols: padding, or something without a name. */
static struct suture_error *add_gap(
	struct object *object, uint32_t index, uint64_t start, uint64_t end)
{
	const struct object_section *s = &object->sections.at[index];
	struct insn insn;

	if (start >= end || !s->data)
		return NULL;
	if (is_zero(s->data + start, end - start) && !has_relocs(s, start, end))
		return NULL;
	if (!(s->flags & SHF_EXECINSTR))
		return add_span(object, index, start, end - start, NULL, NULL);
	for (uint64_t at = start; at < end; at += insn.length)
		if (!arch_x86_64.decode(s->data + at, end - at, at, &insn) || !insn.is_nop)
			return add_span(object, index, start, end - start, NULL, NULL);
	return NULL;
}

/* A name for a span that began earlier, or one that lies inside of it. */
static struct suture_error *add_alias(struct span *span, const struct cut *cut)
{
	if (!cut->symbol || cut->offset != span->start)
		return NULL;
	if (!span->name)
		name_span(span, cut->symbol);
	return vec_push(&span->aliases, cut->symbol->name) ? NULL : error_nomem();
}

static struct suture_error *apply_cuts(struct object *object, uint32_t index, struct cuts *cuts)
{
	struct span *last = NULL;
	uint64_t done = 0, size = object->sections.at[index].size;

	for (size_t i = 0; i < cuts->v.n; i++) {
		const struct cut *cut = &cuts->v.at[i];
		uint64_t next = i + 1 < cuts->v.n ? cuts->v.at[i + 1].offset : size;

		if (last && (cut->offset < done || cut->offset == last->start)) {
			if (cut->offset + cut->size > done)
				return error_create(SUTURE_ERROR_UNSUPPORTED, "%s: %s overlaps %s",
					object->path, cut->symbol ? cut->symbol->name : "a label",
					SPAN_NAME(last));
			TRY(add_alias(last, cut));
			continue;
		}
		TRY(add_gap(object, index, done, cut->offset));
		done = cut->offset + (cut->size || cut->symbol ? cut->size : next - cut->offset);
		TRY(add_span(object, index, cut->offset, done - cut->offset, cut->symbol, &last));
		TRY(add_alias(last, cut));
	}
	return add_gap(object, index, done, size);
}

static struct suture_error *cut_section(struct object *object, uint32_t index)
{
	const struct object_section *s = &object->sections.at[index];
	struct cuts cuts = {};
	struct suture_error *err;

	if (s->flags & SHF_MERGE && s->entsize && s->data && s->size % s->entsize == 0)
		err = cut_merged(s, &cuts);
	else
		err = cut_at_symbols(object, index, kind_of(s), &cuts);
	if (!err && cuts.v.n)
		qsort(cuts.v.at, cuts.v.n, sizeof(*cuts.v.at), compare_cuts);
	/* Nothing tells the pieces apart: the section is one. */
	if (!err && !cuts.v.n && s->size)
		err = add_span(object, index, 0, s->size, NULL, NULL);
	else if (!err)
		err = apply_cuts(object, index, &cuts);
	vec_free(&cuts.v);
	return err;
}

static struct suture_error *add_common(struct object *object, struct object_symbol *sym)
{
	struct span *span;

	TRY(add_span(object, 0, 0, sym->size, sym, &span));
	span->type = STT_OBJECT;
	span->align = sym->value ? sym->value : 1;
	sym->span = span;
	return vec_push(&span->aliases, sym->name) ? NULL : error_nomem();
}

static struct suture_error *place_symbols(struct object *object)
{
	int64_t offset;

	vec_foreach (sym, &object->symbols) {
		if (sym->reserved && sym->shndx == SHN_COMMON)
			TRY(add_common(object, sym));
		if (sym->reserved || sym->shndx == SHN_UNDEF)
			continue;
		sym->span = object_span_at(object, sym->shndx, sym->value, &offset);
		sym->offset = sym->span ? (uint64_t)offset : 0;
	}
	return NULL;
}

struct span *object_span_at(
	const struct object *object, uint32_t section, int64_t offset, int64_t *ret_addend)
{
	const struct object_section *s = &object->sections.at[section];
	size_t low = 0, high = s->spans.n;

	if (!high)
		return NULL;
	/* The last one that begins at or before the offset; the first one for negative offsets. */
	while (high - low > 1) {
		size_t middle = low + (high - low) / 2;

		if ((int64_t)s->spans.at[middle]->start <= offset)
			low = middle;
		else
			high = middle;
	}
	*ret_addend = offset - (int64_t)s->spans.at[low]->start;
	return s->spans.at[low];
}

static void find_parent(struct object *object, struct span *cold)
{
	size_t n = strstr(cold->name, ".cold") - cold->name;

	vec_foreach (span, &object->spans)
		if ((*span)->kind == SPAN_CODE && (*span)->name && strlen((*span)->name) == n &&
			!strncmp((*span)->name, cold->name, n))
			cold->parent = *span;
}

struct suture_error *object_make_spans(struct object *object)
{
	for (size_t i = 1; i < object->sections.n; i++)
		if (object->sections.at[i].kept)
			TRY(cut_section(object, i));
	TRY(place_symbols(object));
	vec_foreach (span, &object->spans)
		if ((*span)->kind == SPAN_CODE && (*span)->name && symbol_is_cold((*span)->name))
			find_parent(object, *span);
	return NULL;
}
