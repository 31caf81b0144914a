/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Is this patch whole? Every index, size, range and string is checked here once, for a patch that
 * was just built as for one that was just read, so that the code behind can be simple.
 */
#include <elf.h>
#include <string.h>

#include "arch/arch.h"
#include "base/cleanup.h"
#include "format/format.h"

/* ---- text ---- */

/* Length of the UTF-8 sequence at s and its code point; 0 when it is none (RFC 3629). */
static size_t utf8_next(const unsigned char *s, uint32_t *ret)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	size_t n = s[0] < 0x80		   ? 1
		   : (s[0] & 0xe0) == 0xc0 ? 2
		   : (s[0] & 0xf0) == 0xe0 ? 3
		   : (s[0] & 0xf8) == 0xf0 ? 4
					   : 0;
	uint32_t c = n == 1 ? s[0] : s[0] & (0x7f >> n);

	for (size_t i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (s[i] & 0x3f);
	}
	if (n > 1 && (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)))
		return 0;
	*ret = c;
	return n;
}

/* Names reach terminals and logs: a control character could rewrite what the operator sees. */
static struct suture_error *check_text(const char *s, size_t max, bool lines, const char *what)
{
	const unsigned char *p = (const unsigned char *)s;
	uint32_t c;

	if (!s)
		return bad("%s is missing", what);
	if (strlen(s) > max)
		return bad("%s is longer than %zu bytes", what, max);
	while (*p) {
		size_t n = utf8_next(p, &c);

		if (!n)
			return bad("%s is not valid UTF-8", what);
		if (lines && (c == '\n' || c == '\t')) {
			p += n;
			continue;
		}
		if (c < 0x20 || (c >= 0x7f && c < 0xa0))
			return bad("%s has a control character (0x%02x)", what, c);
		p += n;
	}
	return NULL;
}

static struct suture_error *check_name(const char *s, const char *what)
{
	TRY(check_text(s, MAX_NAME, false, what));
	if (!*s)
		return bad("%s is empty", what);
	return NULL;
}

static struct suture_error *check_optional(const char *s, bool lines, const char *what)
{
	return s ? check_text(s, MAX_TEXT, lines, what) : NULL;
}

/* ---- arithmetic ---- */

static bool range_ok(uint64_t start, uint64_t size)
{
	return start <= UINT64_MAX - size;
}

static bool inside(uint64_t offset, uint64_t size, uint64_t room)
{
	return offset <= room && size <= room - offset;
}

/* ---- the parts ---- */

/* [A-Za-z0-9][A-Za-z0-9._+-]{0,127}: it is a file name, a command-line word and a ledger key. */
static struct suture_error *check_patch_word(const char *s, const char *what)
{
	static const char rest[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
				   "._+-";

	if (!s || !*s)
		return bad("the patch has no %s", what);
	if (strlen(s) > 128 || strspn(s, rest) != strlen(s) || strchr("._+-", *s))
		return error_hint(bad("the patch %s is malformed", what),
			"letters, digits and . _ + -, starting with a letter or digit, at most 128 "
			"of them");
	return NULL;
}

static struct suture_error *check_head(const struct patch *p)
{
	TRY(check_patch_word(p->name, "name"));
	TRY(check_patch_word(p->version, "version"));
	TRY(check_optional(p->description, true, "the description"));
	TRY(check_name(p->created_by, "created_by"));
	TRY(check_optional(p->compiler, false, "the compiler"));
	if (p->references.n > MAX_REFERENCES)
		return bad("%zu references: more than %d", p->references.n, MAX_REFERENCES);
	for (size_t i = 0; i < p->references.n; i++)
		TRY(error_wrap(check_name(p->references.at[i], "text"), "references[%zu]", i));
	return NULL;
}

static struct suture_error *check_image(const struct patch *p, size_t i)
{
	const struct patch_image *image = &p->images.at[i];

	TRY(check_name(image->name, "name"));
	if (strchr(image->name, '/'))
		return bad("the name %s is a path", image->name);
	if (image->build_id_size == 0)
		return bad("%s has no build-id", image->name);
	if (image->build_id_size > PATCH_BUILD_ID_MAX)
		return bad("build_id is longer than %d bytes", PATCH_BUILD_ID_MAX);
	for (size_t k = 0; k < i; k++) {
		const struct patch_image *other = &p->images.at[k];

		if (other->build_id_size == image->build_id_size &&
			!memcmp(other->build_id, image->build_id, image->build_id_size))
			return bad("the same build-id as images[%zu]", k);
	}
	return NULL;
}

static struct suture_error *check_section_kind(const struct patch_section *s)
{
	const uint64_t known = SHF_ALLOC | SHF_WRITE | SHF_EXECINSTR;

	if (s->type != SHT_PROGBITS && s->type != SHT_NOBITS && s->type != SHT_X86_64_UNWIND)
		return bad("type 0x%x: no such payload", s->type);
	if (s->flags & SHF_TLS)
		return error_create(
			SUTURE_ERROR_UNSUPPORTED, "new thread-local storage is not supported");
	if (s->flags & ~known || !(s->flags & SHF_ALLOC))
		return bad("flags 0x%llx: only SHF_ALLOC (always), SHF_WRITE and SHF_EXECINSTR",
			(unsigned long long)s->flags);
	if ((s->flags & SHF_WRITE) && (s->flags & SHF_EXECINSTR))
		return bad("both writable and executable");
	if ((s->flags & SHF_EXECINSTR) && s->type == SHT_NOBITS)
		return bad("code without bytes");
	if (s->align == 0 || s->align > MAX_ALIGN || (s->align & (s->align - 1)))
		return bad("alignment %llu is no power of two up to %d",
			(unsigned long long)s->align, MAX_ALIGN);
	return NULL;
}

static struct suture_error *check_reloc(
	const struct patch *p, const struct patch_section *s, const struct patch_reloc *r)
{
	const struct arch *arch = arch_for(EM_X86_64);

	if (arch->reloc_need(r->type) == RELOC_UNSUPPORTED)
		return error_create(SUTURE_ERROR_UNSUPPORTED, "type %u (%s) is not supported",
			r->type, arch->reloc_name(r->type));
	if (!inside(r->offset, arch->reloc_size(r->type), s->size))
		return bad("offset 0x%llx is outside the section", (unsigned long long)r->offset);
	if (r->symbol >= p->symbols.n)
		return bad("no symbol %u", r->symbol);
	return NULL;
}

static struct suture_error *check_relocs(const struct patch *p, const struct patch_section *s)
{
	if (s->relocs.n && s->type == SHT_NOBITS)
		return bad("relocations without bytes to relocate");
	for (size_t i = 0; i < s->relocs.n; i++)
		TRY(error_wrap(check_reloc(p, s, &s->relocs.at[i]), "relocation %zu", i));
	return NULL;
}

static struct suture_error *check_section(const struct patch *p, const struct patch_section *s)
{
	TRY(check_name(s->name, "name"));
	if (!strncmp(s->name, SECTION_PRIVATE, strlen(SECTION_PRIVATE)))
		return bad("the name %s is reserved", s->name);
	if (s->image >= p->images.n)
		return bad("no image %u", s->image);
	TRY(check_section_kind(s));
	if ((s->type == SHT_NOBITS || s->size == 0) != (s->data == NULL))
		return bad(s->data ? "has data where none belongs" : "has no data");
	return check_relocs(p, s);
}

static struct suture_error *check_sections(const struct patch *p)
{
	uint64_t total = 0;
	size_t relocs = 0;

	if (p->sections.n > MAX_SECTIONS)
		return bad("%zu sections: more than %d", p->sections.n, MAX_SECTIONS);
	for (size_t i = 0; i < p->sections.n; i++) {
		const struct patch_section *s = &p->sections.at[i];

		TRY(error_wrap(
			check_section(p, s), "sections[%zu] (%s)", i, s->name ? s->name : "?"));
		if (s->size > MAX_PAYLOAD - total)
			return bad("the payload is larger than %d MiB", MAX_PAYLOAD >> 20);
		total += s->size;
		relocs += s->relocs.n;
	}
	if (relocs > MAX_RELOCS)
		return bad("%zu relocations: more than %d", relocs, MAX_RELOCS);
	return NULL;
}

static struct suture_error *check_payload_symbol(
	const struct patch *p, const struct patch_symbol *s)
{
	if (s->elf_type != STT_SECTION)
		TRY(check_name(s->name, "name"));
	if (s->section >= p->sections.n)
		return bad("no section %u", s->section);
	if (!inside(s->value, s->size, p->sections.at[s->section].size))
		return bad("reaches beyond section %s", p->sections.at[s->section].name);
	if (s->elf_type == STT_TLS || s->elf_type == STT_GNU_IFUNC)
		return error_create(SUTURE_ERROR_UNSUPPORTED,
			"a new thread-local variable or IFUNC is not supported");
	if (s->elf_type == STT_SECTION && !s->local)
		return bad("a section symbol must be local");
	if (s->elf_type > STT_SECTION)
		return bad("ELF type %u is no symbol of a payload", s->elf_type);
	if (s->weak || s->version)
		return bad("only a dynamic symbol can be weak or have a version");
	return NULL;
}

static struct suture_error *check_external_symbol(
	const struct patch *p, const struct patch_symbol *s)
{
	bool tls = s->kind == PATCH_SYMBOL_TLS || s->kind == PATCH_SYMBOL_TLS_DYNAMIC;
	bool dynamic = s->kind == PATCH_SYMBOL_DYNAMIC || s->kind == PATCH_SYMBOL_TLS_DYNAMIC;

	TRY(check_name(s->name, "name"));
	TRY(check_optional(s->version, false, "version"));
	if (s->image >= p->images.n)
		return bad("no image %u", s->image);
	if (tls ? s->elf_type != STT_TLS : s->elf_type > STT_FUNC && s->elf_type != STT_GNU_IFUNC)
		return bad("ELF type %u does not fit the kind", s->elf_type);
	if (!dynamic && (s->weak || s->version))
		return bad("only a dynamic symbol can be weak or have a version");
	if (dynamic && s->value)
		return bad("a dynamic symbol has no value");
	if (s->version && !*s->version)
		return bad("version is empty");
	if (s->local)
		return bad("a reference out of the payload cannot be local");
	if (!range_ok(s->value, s->size))
		return bad("reaches beyond the end of memory");
	return NULL;
}

static int compare_externals(const void *a, const void *b)
{
	const struct patch_symbol *x = *(const struct patch_symbol *const *)a;
	const struct patch_symbol *y = *(const struct patch_symbol *const *)b;
	int name = strcmp(x->name, y->name);

	if (name)
		return name;
	if (x->image != y->image)
		return x->image < y->image ? -1 : 1;
	if (x->kind != y->kind)
		return x->kind < y->kind ? -1 : 1;
	if (x->value != y->value)
		return x->value < y->value ? -1 : 1;
	return strcmp(x->version ? x->version : "", y->version ? y->version : "");
}

static struct suture_error *check_unique(const struct patch *p)
{
	_cleanup_free_ const struct patch_symbol **sorted =
		calloc(p->symbols.n + 1, sizeof(const struct patch_symbol *));
	size_t n = 0;

	if (!sorted)
		return error_nomem();
	vec_foreach (s, &p->symbols)
		if (s->kind != PATCH_SYMBOL_PAYLOAD)
			sorted[n++] = s;
	qsort(sorted, n, sizeof(*sorted), compare_externals);
	for (size_t i = 1; i < n; i++)
		if (!compare_externals(&sorted[i - 1], &sorted[i]))
			return bad("two equal references to %s", sorted[i]->name);
	return NULL;
}

static struct suture_error *check_symbols(const struct patch *p)
{
	if (p->symbols.n > MAX_SYMBOLS)
		return bad("%zu symbols: more than %d", p->symbols.n, MAX_SYMBOLS);
	for (size_t i = 0; i < p->symbols.n; i++) {
		const struct patch_symbol *s = &p->symbols.at[i];
		struct suture_error *err;

		if (!s->name)
			return bad("symbols[%zu] has no name", i);
		if (s->kind == PATCH_SYMBOL_PAYLOAD)
			err = check_payload_symbol(p, s);
		else if (s->kind <= PATCH_SYMBOL_TLS_DYNAMIC)
			err = check_external_symbol(p, s);
		else
			err = bad("no kind %d", (int)s->kind);
		TRY(error_wrap(err, "symbols[%zu] (%s)", i, s->name));
	}
	return check_unique(p);
}

static struct suture_error *check_new_code(const struct patch *p, const struct patch_function *f)
{
	if (f->symbol >= p->symbols.n)
		return bad("no symbol %u", f->symbol);
	const struct patch_symbol *s = &p->symbols.at[f->symbol];

	if (s->kind != PATCH_SYMBOL_PAYLOAD)
		return bad("the new code, %s, is not in the payload", s->name);
	const struct patch_section *section = &p->sections.at[s->section];
	if (!(section->flags & SHF_EXECINSTR))
		return bad("the new code is in %s, which is not executable", section->name);
	if (section->image != f->image)
		return bad("the new code is near another image");
	if (f->new_size == 0 || !inside(s->value, f->new_size, section->size))
		return bad("new_size %llu reaches beyond section %s",
			(unsigned long long)f->new_size, section->name);
	return NULL;
}

static struct suture_error *check_old_code(const struct patch_function *f)
{
	if (f->size == 0 || !range_ok(f->address, f->size))
		return bad("size %llu makes no sense", (unsigned long long)f->size);
	if (!f->old_bytes)
		return bad("the old bytes are missing");
	/* The detour may reach into the function's own padding: what it begins in is the code. */
	if (f->site >= f->size)
		return bad("site %u is outside the function", f->site);
	if (f->site_size == 0 || f->site_size > MAX_SITE_SIZE ||
		!range_ok(f->address, (uint64_t)f->site + f->site_size))
		return bad("site_size %u is not 1 to %d", f->site_size, MAX_SITE_SIZE);
	if (f->parts.n > MAX_PARTS)
		return bad("%zu parts: more than %d", f->parts.n, MAX_PARTS);
	for (size_t i = 0; i < f->parts.n; i++)
		if (!f->parts.at[i].size || !range_ok(f->parts.at[i].address, f->parts.at[i].size))
			return bad("parts[%zu] makes no sense", i);
	return NULL;
}

static struct suture_error *check_function(const struct patch *p, const struct patch_function *f)
{
	TRY(check_name(f->name, "name"));
	TRY(check_optional(f->unit, false, "unit"));
	TRY(check_optional(f->reason, false, "reason"));
	if (f->image >= p->images.n)
		return bad("no image %u", f->image);
	TRY(check_new_code(p, f));
	if (f->address)
		return check_old_code(f);
	if (f->size || f->old_bytes || f->site || f->site_size || f->parts.n)
		return bad("a new function has no old code");
	return NULL;
}

static int compare_functions(const void *a, const void *b)
{
	const struct patch_function *x = *(const struct patch_function *const *)a;
	const struct patch_function *y = *(const struct patch_function *const *)b;

	if (x->image != y->image)
		return x->image < y->image ? -1 : 1;
	return x->address < y->address ? -1 : x->address > y->address;
}

/* Two detours in one another would be the end of both functions. */
static struct suture_error *check_disjoint(const struct patch *p)
{
	_cleanup_free_ const struct patch_function **sorted =
		calloc(p->functions.n + 1, sizeof(const struct patch_function *));
	size_t n = 0;

	if (!sorted)
		return error_nomem();
	vec_foreach (f, &p->functions)
		if (f->address)
			sorted[n++] = f;
	if (!n)
		return bad("the patch replaces no function");
	qsort(sorted, n, sizeof(*sorted), compare_functions);
	for (size_t i = 1; i < n; i++) {
		const struct patch_function *a = sorted[i - 1], *b = sorted[i];
		uint64_t end = a->size;

		if (end < (uint64_t)a->site + a->site_size)
			end = (uint64_t)a->site + a->site_size;
		if (a->image == b->image && b->address - a->address < end)
			return bad("functions %s and %s overlap", a->name, b->name);
	}
	return NULL;
}

static struct suture_error *check_functions(const struct patch *p)
{
	uint64_t old = 0;

	if (p->functions.n > MAX_FUNCTIONS)
		return bad("%zu functions: more than %d", p->functions.n, MAX_FUNCTIONS);
	for (size_t i = 0; i < p->functions.n; i++) {
		const struct patch_function *f = &p->functions.at[i];

		TRY(error_wrap(
			check_function(p, f), "functions[%zu] (%s)", i, f->name ? f->name : "?"));
		if (f->size > MAX_OLD_BYTES - old)
			return bad("the old functions are larger than %d MiB", MAX_OLD_BYTES >> 20);
		old += f->size;
	}
	return check_disjoint(p);
}

static struct suture_error *check_expects(const struct patch *p)
{
	if (p->expects.n > MAX_EXPECTS)
		return bad("%zu expects: more than %d", p->expects.n, MAX_EXPECTS);
	for (size_t i = 0; i < p->expects.n; i++) {
		const struct patch_expect *e = &p->expects.at[i];

		TRY(error_wrap(check_name(e->name, "name"), "expects[%zu]", i));
		if (e->image >= p->images.n)
			return bad("expects[%zu] (%s): no image %u", i, e->name, e->image);
		if (e->size == 0 || e->size > MAX_OLD_BYTES || !range_ok(e->address, e->size))
			return bad("expects[%zu] (%s): size %llu makes no sense", i, e->name,
				(unsigned long long)e->size);
	}
	return NULL;
}

struct suture_error *patch_validate(const struct patch *patch)
{
	TRY(check_head(patch));
	if (patch->images.n == 0 || patch->images.n > MAX_IMAGES)
		return bad("%zu images: not 1 to %d", patch->images.n, MAX_IMAGES);
	for (size_t i = 0; i < patch->images.n; i++)
		TRY(error_wrap(check_image(patch, i), "images[%zu]", i));
	TRY(check_sections(patch));
	TRY(check_symbols(patch));
	TRY(check_functions(patch));
	return check_expects(patch);
}
