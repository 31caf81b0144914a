/* SPDX-License-Identifier: Apache-2.0 */
/* Instructions as text with names: see listing.h. */
#include <ctype.h>
#include <elf.h>
#include <string.h>

#include "arch/arch.h"
#include "base/cleanup.h"
#include "format/listing.h"

enum {
	MAX_LINES = 20000,  /* of one function; nobody reads more */
	MAX_STRING = 48,    /* bytes of a string constant that is shown */
	MAGIC = 0x5eed0001, /* stands in fields that a relocation will fill */
	TEXT_SIZE = 256,
};
/* Where new code is taken to be: no address or constant of real code looks like it. */
#define NEW_BASE UINT64_C(0x5eed00000000)

void listing_deinit(struct listing *l)
{
	vec_foreach (line, &l->lines) {
		free(line->text);
		free(line->key);
		free(line->name);
	}
	vec_free(&l->lines);
}

/* ---- names of addresses ---- */

struct name_range {
	uint32_t image;
	uint64_t address, size;
	const char *name;
};

struct names {
	VEC(struct name_range) ranges; /* by image and address */
};

void names_destroy(struct names *names)
{
	if (!names)
		return;
	vec_free(&names->ranges);
	free(names);
}

static int compare_ranges(const void *a, const void *b)
{
	const struct name_range *x = a, *y = b;

	if (x->image != y->image)
		return x->image < y->image ? -1 : 1;
	if (x->address != y->address)
		return x->address < y->address ? -1 : 1;
	return strcmp(x->name, y->name);
}

static bool names_add(
	struct names *names, uint32_t image, uint64_t address, uint64_t size, const char *name)
{
	return vec_push(&names->ranges, ((struct name_range){image, address, size, name}));
}

struct suture_error *names_create(const struct patch *p, struct names **ret)
{
	_cleanup_(names_destroyp) struct names *names = calloc(1, sizeof(*names));
	bool ok = names != NULL;

	for (size_t i = 0; ok && i < p->symbols.n; i++) {
		const struct patch_symbol *s = &p->symbols.at[i];

		if (s->kind == PATCH_SYMBOL_ADDRESS)
			ok = names_add(names, s->image, s->value, s->size, s->name);
	}
	for (size_t i = 0; ok && i < p->functions.n; i++) {
		const struct patch_function *f = &p->functions.at[i];

		ok = !f->address || names_add(names, f->image, f->address, f->size, f->name);
		for (size_t k = 0; ok && k < f->parts.n; k++)
			ok = names_add(names, f->image, f->parts.at[k].address, f->parts.at[k].size,
				f->name);
	}
	for (size_t i = 0; ok && i < p->expects.n; i++) {
		const struct patch_expect *e = &p->expects.at[i];

		ok = names_add(names, e->image, e->address, e->size, e->name);
	}
	if (!ok)
		return error_nomem();
	if (names->ranges.n)
		qsort(names->ranges.at, names->ranges.n, sizeof(*names->ranges.at), compare_ranges);
	*ret = take(names);
	return NULL;
}

/* The last range that starts at or below address. */
static const struct name_range *names_find(
	const struct names *names, uint32_t image, uint64_t address)
{
	size_t low = 0, high = names->ranges.n;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct name_range *r = &names->ranges.at[middle];

		if (r->image < image || (r->image == image && r->address <= address))
			low = middle + 1;
		else
			high = middle;
	}
	const struct name_range *r = low ? &names->ranges.at[low - 1] : NULL;
	if (!r || r->image != image || (r->address != address && address - r->address >= r->size))
		return NULL;
	return r;
}

static char *with_offset(const char *name, int64_t offset, const char *suffix)
{
	char *text;
	uint64_t size = offset < 0 ? -(uint64_t)offset : (uint64_t)offset;
	int n = offset ? asprintf(&text, "%s%s%c0x%llx", name, suffix, offset < 0 ? '-' : '+',
				 (unsigned long long)size)
		       : asprintf(&text, "%s%s", name, suffix);

	return n < 0 ? NULL : text;
}

/* ---- text ---- */

/*
 * The decoder's text with `value` replaced by `with`, other numbers without leading zeros and in
 * lower case. malloc'ed.
 */
static char *rewrite(const char *text, uint64_t value, const char *with)
{
	char *ret = NULL;
	size_t size;
	FILE *out = open_memstream(&ret, &size);
	bool done = !with;

	if (!out)
		return NULL;
	while (*text) {
		if (strncmp(text, "0x", 2) || !isxdigit((unsigned char)text[2])) {
			putc(*text++, out);
			continue;
		}
		char *end;
		uint64_t number = strtoull(text, &end, 16);

		if (!done && number == value)
			fputs(with, out);
		else
			fprintf(out, "0x%llx", (unsigned long long)number);
		done |= number == value;
		text = end;
	}
	if (fclose(out)) {
		free(ret);
		return NULL;
	}
	return ret;
}

/* Sets text and key of `line`, whose reference is in place; `shown`: how it is written. */
static bool set_text(struct line *line, const char *raw, uint64_t value, const char *shown)
{
	line->text = rewrite(raw, value, shown);
	line->key = rewrite(raw, value, shown ? "@" : NULL);
	return line->text && line->key;
}

static bool set_local(struct line *line, const char *raw, uint64_t value, uint64_t offset)
{
	char shown[32];

	line->ref = REF_LOCAL;
	line->target = offset;
	snprintf(shown, sizeof(shown), "<+0x%llx>", (unsigned long long)offset);
	return set_text(line, raw, value, shown);
}

static bool set_number(struct line *line, const char *raw, uint64_t value)
{
	char shown[32];

	line->ref = REF_NUMBER;
	line->target = value;
	snprintf(shown, sizeof(shown), "0x%llx", (unsigned long long)value);
	return set_text(line, raw, value, shown);
}

/*
 * In an image at a fixed address a constant of 32 bits may be an address. Small ones are not: the
 * first page of such an image lies at 64 KiB or above.
 */
static bool absolute_constant(const struct insn *in, const uint8_t *code, bool fixed, uint64_t *ret)
{
	uint8_t at = in->imm_size == 4 && !in->rel_at	 ? in->imm_at
		     : in->disp_size == 4 && !in->rel_at ? in->disp_at
							 : 0;
	int32_t value;

	if (!fixed || !at)
		return false;
	memcpy(&value, code + at, sizeof(value));
	*ret = value;
	return value >= 0x10000;
}

/* ---- old code ---- */

struct old_code {
	const struct patch *patch;
	const struct names *names;
	const struct patch_function *f;
};

static bool set_old_ref(
	const struct old_code *c, struct line *line, const char *raw, uint64_t value)
{
	const struct patch_function *f = c->f;

	if (value >= f->address && value - f->address < f->size)
		return set_local(line, raw, value, value - f->address);
	const struct name_range *r = names_find(c->names, f->image, value);
	if (!r)
		return set_number(line, raw, value);
	line->ref = REF_NAMED;
	line->exact = true;
	line->name = with_offset(r->name, value - r->address, "");
	return line->name && set_text(line, raw, value, line->name);
}

static bool add_old_line(const struct old_code *c, struct listing *l, uint64_t at, uint8_t *length)
{
	const struct patch_function *f = c->f;
	const uint8_t *code = f->old_bytes + at;
	struct line *line = vec_add(&l->lines);
	struct insn in = {};
	char raw[TEXT_SIZE];
	uint64_t value;

	if (!line)
		return false;
	bool ok = arch_x86_64.decode(code, f->size - at, f->address + at, &in);
	arch_x86_64.format(code, f->size - at, f->address + at, raw, sizeof(raw));
	*length = ok && in.length ? in.length : 1;
	line->offset = at;
	if (ok && (in.has_target || in.has_pcrel))
		return set_old_ref(c, line, raw, in.has_target ? in.target : in.pcrel);
	if (ok && absolute_constant(&in, code, c->patch->images.at[f->image].fixed, &value))
		return set_old_ref(c, line, raw, value);
	return set_text(line, raw, 0, NULL);
}

struct suture_error *listing_old(const struct patch *patch, const struct names *names,
	const struct patch_function *f, struct listing *ret)
{
	const struct old_code c = {patch, names, f};
	uint64_t at = 0;

	while (at < f->size && ret->lines.n < MAX_LINES) {
		uint8_t length;

		if (!add_old_line(&c, ret, at, &length))
			return error_nomem();
		at += length;
	}
	ret->left_out = at < f->size ? f->size - at : 0;
	return NULL;
}

/* ---- new code ---- */

struct new_code {
	const struct patch *patch;
	const struct patch_function *f;
	const struct patch_section *section;
	uint64_t start;		    /* of the function in its section */
	uint8_t *bytes;		    /* of the function, MAGIC in the fields of relocations */
	struct patch_reloc *relocs; /* of the section, by offset */
	size_t n_relocs, next;
};

static int compare_relocs(const void *a, const void *b)
{
	const struct patch_reloc *x = a, *y = b;

	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static struct suture_error *new_code_init(struct new_code *c)
{
	const struct patch_symbol *s = &c->patch->symbols.at[c->f->symbol];

	c->section = &c->patch->sections.at[s->section];
	c->start = s->value;
	c->n_relocs = c->section->relocs.n;
	c->bytes = malloc(c->f->new_size);
	c->relocs = calloc(c->n_relocs + 1, sizeof(*c->relocs));
	if (!c->bytes || !c->relocs)
		return error_nomem();
	memcpy(c->bytes, c->section->data + c->start, c->f->new_size);
	if (c->n_relocs)
		memcpy(c->relocs, c->section->relocs.at, c->n_relocs * sizeof(*c->relocs));
	qsort(c->relocs, c->n_relocs, sizeof(*c->relocs), compare_relocs);
	return NULL;
}

static void new_code_deinit(struct new_code *c)
{
	free(c->bytes);
	free(c->relocs);
}

/* What is written behind a name whose address is not taken as it is. */
static const char *suffix_of(uint32_t type)
{
	switch (arch_x86_64.reloc_need(type)) {
	case RELOC_NEED_GOT:
		return "@GOT";
	case RELOC_NEED_TPOFF:
		return "@TPOFF";
	case RELOC_NEED_GOT_TPOFF:
		return "@GOTTPOFF";
	case RELOC_NEED_GOT_TLSGD:
		return "@TLSGD";
	case RELOC_NEED_GOT_TLSLD:
		return "@TLSLD";
	case RELOC_NEED_DTPOFF:
		return "@DTPOFF";
	case RELOC_NEED_TLSDESC:
		return "@TLSDESC";
	default:
		return "";
	}
}

static const char *symbol_label(const struct patch *p, const struct patch_symbol *s)
{
	return *s->name ? s->name : p->sections.at[s->section].name;
}

/* `addend` counts from the symbol: what the instruction refers to. */
static bool set_reloc_ref(const struct new_code *c, struct line *line, const char *raw,
	uint64_t value, const struct patch_reloc *r, int64_t addend)
{
	const struct patch_symbol *s = &c->patch->symbols.at[r->symbol];

	line->ref = REF_NAMED;
	line->exact = s->kind == PATCH_SYMBOL_ADDRESS && s->image == c->f->image &&
		      s->elf_type != STT_GNU_IFUNC && !*suffix_of(r->type);
	line->name = with_offset(symbol_label(c->patch, s), addend, suffix_of(r->type));
	return line->name && set_text(line, raw, value, line->name);
}

/* Append the string constant that the reference points to, if it is one. */
static bool show_string(
	const struct new_code *c, struct line *line, const struct patch_reloc *r, int64_t addend)
{
	const struct patch_symbol *s = &c->patch->symbols.at[r->symbol];
	char *with;

	if (s->kind != PATCH_SYMBOL_PAYLOAD || *suffix_of(r->type))
		return true;
	const struct patch_section *to = &c->patch->sections.at[s->section];
	uint64_t at = s->value + (uint64_t)addend;
	if (!to->data || (to->flags & (SHF_WRITE | SHF_EXECINSTR)) || at >= to->size)
		return true;
	const char *text = (const char *)to->data + at;
	size_t n = 0;
	while (n < MAX_STRING && n < to->size - at && isprint((unsigned char)text[n]))
		n++;
	bool cut = n == MAX_STRING;
	if (n < 1 || (!cut && (n == to->size - at || (text[n] && text[n] != '\n'))))
		return true;
	if (asprintf(&with, "%s  # \"%.*s\"%s", line->text, (int)n, text,
		    cut || text[n] ? "..." : "") < 0)
		return false;
	free(line->text);
	line->text = with;
	return true;
}

static bool relocated_line(const struct new_code *c, struct line *line, const struct patch_reloc *r,
	uint64_t at, uint8_t *length)
{
	uint8_t *code = c->bytes + at;
	size_t room = c->f->new_size - at;
	uint64_t field = r->offset - c->start - at, value = MAGIC;
	size_t size = arch_x86_64.reloc_size(r->type);
	int64_t addend = r->addend;
	struct insn in = {};
	char raw[TEXT_SIZE];

	arch_x86_64.decode(code, room, NEW_BASE + at, &in);
	bool relative = in.rel_at && in.rel_at == field;
	if (relative) {
		value = in.has_target ? in.target : in.pcrel;
		/* The addend counts from the field, the instruction from its end. */
		addend = (int64_t)((uint64_t)addend + (in.length - field));
	} else if ((size == 4 || size == 8) && size <= room - field) {
		memset(code + field, 0, size);
		memcpy(code + field, &(uint32_t){MAGIC}, 4);
	}
	arch_x86_64.decode(code, room, NEW_BASE + at, &in);
	arch_x86_64.format(code, room, NEW_BASE + at, raw, sizeof(raw));
	*length = in.length;
	return set_reloc_ref(c, line, raw, value, r, addend) && show_string(c, line, r, addend);
}

static bool plain_line(
	const struct new_code *c, struct line *line, const struct insn *in, uint64_t at)
{
	const uint8_t *code = c->bytes + at;
	uint64_t value = in->has_target ? in->target : in->pcrel;
	char raw[TEXT_SIZE];

	arch_x86_64.format(code, c->f->new_size - at, NEW_BASE + at, raw, sizeof(raw));
	if (in->has_target || in->has_pcrel) {
		if (value >= NEW_BASE && value - NEW_BASE < c->f->new_size)
			return set_local(line, raw, value, value - NEW_BASE);
		return set_number(line, raw, value);
	}
	if (absolute_constant(in, code, c->patch->images.at[c->f->image].fixed, &value))
		return set_number(line, raw, value);
	return set_text(line, raw, 0, NULL);
}

static bool add_new_line(struct new_code *c, struct listing *l, uint64_t at, uint8_t *length)
{
	struct line *line = vec_add(&l->lines);
	struct insn in = {};
	bool ok = arch_x86_64.decode(c->bytes + at, c->f->new_size - at, NEW_BASE + at, &in);

	if (!line)
		return false;
	line->offset = at;
	*length = ok && in.length ? in.length : 1;
	while (c->next < c->n_relocs && c->relocs[c->next].offset < c->start + at)
		c->next++;
	uint64_t end = c->start + at + *length;
	if (!ok || c->next == c->n_relocs || c->relocs[c->next].offset >= end)
		return plain_line(c, line, &in, at);
	bool done = relocated_line(c, line, &c->relocs[c->next], at, length);
	if (!*length)
		*length = 1;
	return done;
}

struct suture_error *listing_new(
	const struct patch *patch, const struct patch_function *f, struct listing *ret)
{
	_cleanup_(new_code_deinit) struct new_code c = {.patch = patch, .f = f};
	uint64_t at = 0;

	TRY(new_code_init(&c));
	while (at < f->new_size && ret->lines.n < MAX_LINES) {
		uint8_t length;

		if (!add_new_line(&c, ret, at, &length))
			return error_nomem();
		at += length;
	}
	ret->left_out = at < f->new_size ? f->new_size - at : 0;
	return NULL;
}
