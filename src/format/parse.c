/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A patch file becomes a patch. The bytes may be anybody's: every offset, size, index and string is
 * checked before it is used, sums cannot wrap, and what is allocated is bounded by the limits in
 * format.h whatever the file says.
 */
#include <elf.h>
#include <jansson.h>
#include <string.h>

#include "base/cleanup.h"
#include "format/format.h"

struct file {
	const uint8_t *data;
	size_t size;
	Elf64_Ehdr header;
	Elf64_Shdr *sections;	 /* header.e_shnum */
	uint32_t n_payload;	 /* sections 1 .. n_payload */
	uint32_t symtab, strtab; /* section indices; 0: not seen */
	uint32_t old, manifest;
	size_t names_left; /* of MAX_NAME_BYTES */
	struct patch *patch;
};

/* ---- ELF ---- */

static struct suture_error *parse_header(struct file *f)
{
	const Elf64_Ehdr *h = &f->header;

	if (f->size < SELFMAG || memcmp(f->data, ELFMAG, SELFMAG))
		return bad(f->size ? "not a patch file (no ELF header)" : "the file is empty");
	if (f->size < sizeof(*h))
		return bad("truncated: %zu bytes, shorter than an ELF header", f->size);
	memcpy(&f->header, f->data, sizeof(*h));
	if (h->e_ident[EI_CLASS] != ELFCLASS64 || h->e_ident[EI_DATA] != ELFDATA2LSB)
		return bad("not a patch file (not 64-bit little-endian ELF)");
	if (h->e_ident[EI_VERSION] != EV_CURRENT || h->e_version != EV_CURRENT)
		return bad("unknown ELF version");
	if (h->e_type != ET_REL)
		return bad("not a patch file (ELF type %u, not a relocatable object)", h->e_type);
	if (h->e_machine != EM_X86_64)
		return error_create(SUTURE_ERROR_UNSUPPORTED,
			"the patch is for ELF machine %u; x86-64 is supported", h->e_machine);
	if (h->e_phnum || h->e_shentsize != sizeof(Elf64_Shdr) || h->e_ehsize != sizeof(Elf64_Ehdr))
		return bad("malformed ELF header");
	if (h->e_shnum == 0 || h->e_shnum >= SHN_LORESERVE || h->e_shstrndx >= h->e_shnum)
		return bad("malformed section count in the ELF header");
	return NULL;
}

static bool in_file(const struct file *f, uint64_t offset, uint64_t size)
{
	return offset <= f->size && size <= f->size - offset;
}

static struct suture_error *parse_section_table(struct file *f)
{
	size_t size = f->header.e_shnum * sizeof(Elf64_Shdr);

	/* We write the table last: when it is not there, the end of the file is missing. */
	if (!in_file(f, f->header.e_shoff, size))
		return bad("truncated: the section table at 0x%llx is beyond the end (%zu bytes)",
			(unsigned long long)f->header.e_shoff, f->size);
	f->sections = malloc(size);
	if (!f->sections)
		return error_nomem();
	memcpy(f->sections, f->data + f->header.e_shoff, size);
	for (unsigned i = 1; i < f->header.e_shnum; i++) {
		const Elf64_Shdr *s = &f->sections[i];

		if (s->sh_type != SHT_NOBITS && !in_file(f, s->sh_offset, s->sh_size))
			return bad("truncated: section %u reaches beyond the end", i);
	}
	return NULL;
}

/* A copy of the string at `offset` of string table `table`. */
static struct suture_error *get_string(
	struct file *f, uint32_t table, uint32_t offset, const char **ret)
{
	const Elf64_Shdr *s = &f->sections[table];

	if (s->sh_type != SHT_STRTAB || offset >= s->sh_size)
		return bad("a name is outside its string table");
	const char *at = (const char *)f->data + s->sh_offset + offset;
	size_t size = strnlen(at, s->sh_size - offset);
	if (size == s->sh_size - offset)
		return bad("a name has no end");
	if (size > MAX_NAME || size >= f->names_left)
		return bad("a name is too long");
	f->names_left -= size + 1;
	*ret = at;
	return NULL;
}

static struct suture_error *section_name(struct file *f, uint32_t i, const char **ret)
{
	return error_wrap(
		get_string(f, f->header.e_shstrndx, f->sections[i].sh_name, ret), "section %u", i);
}

/* `*slot` is section i; there must not be a second one of that sort. */
static struct suture_error *only(uint32_t *slot, uint32_t i, const char *what)
{
	if (*slot)
		return bad("sections %u and %u: two of %s", *slot, i, what);
	*slot = i;
	return NULL;
}

/* Sections that we do not know and that do not go into a target mean nothing to us. */
static struct suture_error *classify(struct file *f, uint32_t i)
{
	const Elf64_Shdr *s = &f->sections[i];
	const char *name;

	TRY(section_name(f, i, &name));
	if (s->sh_flags & SHF_ALLOC) {
		if (f->n_payload != i - 1)
			return bad("section %u (%s): payload sections must come first", i, name);
		if (++f->n_payload > MAX_SECTIONS)
			return bad("more than %d payload sections", MAX_SECTIONS);
		return NULL;
	}
	if (s->sh_type == SHT_SYMTAB)
		return only(&f->symtab, i, "symbol table");
	if (!strcmp(name, SECTION_OLD) && s->sh_type == SHT_PROGBITS)
		return only(&f->old, i, SECTION_OLD);
	if (!strcmp(name, SECTION_MANIFEST) && s->sh_type == SHT_PROGBITS)
		return only(&f->manifest, i, SECTION_MANIFEST);
	if (!strncmp(name, SECTION_PRIVATE, strlen(SECTION_PRIVATE)))
		return bad("section %u (%s): not known to this suture", i, name);
	return NULL;
}

static struct suture_error *classify_all(struct file *f)
{
	for (uint32_t i = 1; i < f->header.e_shnum; i++)
		TRY(classify(f, i));
	if (!f->manifest)
		return error_hint(bad("not a patch file (no section " SECTION_MANIFEST ")"),
			"patch files are made by `suture build`");
	if (!f->symtab || !f->old)
		return bad("no section %s", f->symtab ? SECTION_OLD : ".symtab");
	f->strtab = f->sections[f->symtab].sh_link;
	if (f->strtab >= f->header.e_shnum)
		return bad(".symtab has no string table");
	return NULL;
}

/* ---- payload ---- */

static struct suture_error *parse_sections(struct file *f)
{
	uint64_t total = 0;

	for (uint32_t i = 1; i <= f->n_payload; i++) {
		const Elf64_Shdr *s = &f->sections[i];
		struct patch_section *section = vec_add(&f->patch->sections);
		const char *name;

		TRY(section_name(f, i, &name));
		if (!section || !(section->name = strdup(name)))
			return error_nomem();
		if (s->sh_size > MAX_PAYLOAD - total)
			return bad("the payload is larger than %d MiB", MAX_PAYLOAD >> 20);
		total += s->sh_size;
		section->type = s->sh_type;
		section->flags = s->sh_flags;
		section->align = s->sh_addralign;
		section->size = s->sh_size;
		if (s->sh_type == SHT_NOBITS || s->sh_size == 0)
			continue;
		section->data = malloc(s->sh_size);
		if (!section->data)
			return error_nomem();
		memcpy(section->data, f->data + s->sh_offset, s->sh_size);
	}
	return NULL;
}

static struct suture_error *parse_symbol(struct file *f, const Elf64_Sym *sym)
{
	struct patch_symbol *s = vec_add(&f->patch->symbols);
	uint8_t bind = ELF64_ST_BIND(sym->st_info);
	const char *name;

	if (!s)
		return error_nomem();
	/* Everything about a reference out of the payload is in the manifest. */
	if (sym->st_shndx == SHN_UNDEF)
		return NULL;
	if (sym->st_shndx > f->n_payload)
		return bad("section %u is not payload", sym->st_shndx);
	if (bind != STB_LOCAL && bind != STB_GLOBAL)
		return bad("binding %u", bind);
	TRY(get_string(f, f->strtab, sym->st_name, &name));
	s->name = strdup(name);
	s->kind = PATCH_SYMBOL_PAYLOAD;
	s->elf_type = ELF64_ST_TYPE(sym->st_info);
	s->local = bind == STB_LOCAL;
	s->section = sym->st_shndx - 1;
	s->value = sym->st_value;
	s->size = sym->st_size;
	return s->name ? NULL : error_nomem();
}

static struct suture_error *parse_symbols(struct file *f)
{
	const Elf64_Shdr *s = &f->sections[f->symtab];
	size_t n = s->sh_size / sizeof(Elf64_Sym);

	if (s->sh_entsize != sizeof(Elf64_Sym) || s->sh_size % sizeof(Elf64_Sym) || n == 0)
		return bad("malformed symbol table");
	if (n - 1 > MAX_SYMBOLS)
		return bad("more than %d symbols", MAX_SYMBOLS);
	for (size_t i = 1; i < n; i++) {
		Elf64_Sym sym;

		memcpy(&sym, f->data + s->sh_offset + i * sizeof(sym), sizeof(sym));
		TRY(error_wrap(parse_symbol(f, &sym), "symbol %zu", i));
	}
	return NULL;
}

static struct suture_error *parse_relocs_of(struct file *f, const Elf64_Shdr *s)
{
	struct patch_section *section = &f->patch->sections.at[s->sh_info - 1];
	size_t n = s->sh_size / sizeof(Elf64_Rela);

	if (s->sh_entsize != sizeof(Elf64_Rela) || s->sh_size % sizeof(Elf64_Rela) ||
		s->sh_link != f->symtab)
		return bad("malformed relocations of %s", section->name);
	if (section->relocs.n)
		return bad("two relocation sections for %s", section->name);
	for (size_t i = 0; i < n; i++) {
		struct patch_reloc *r = vec_add(&section->relocs);
		Elf64_Rela rela;

		if (!r)
			return error_nomem();
		memcpy(&rela, f->data + s->sh_offset + i * sizeof(rela), sizeof(rela));
		uint64_t symbol = ELF64_R_SYM(rela.r_info);
		if (symbol == 0 || symbol > f->patch->symbols.n)
			return bad("relocation %zu of %s: no symbol %llu", i, section->name,
				(unsigned long long)symbol);
		r->offset = rela.r_offset;
		r->type = ELF64_R_TYPE(rela.r_info);
		r->symbol = symbol - 1;
		r->addend = rela.r_addend;
	}
	return NULL;
}

static struct suture_error *parse_relocs(struct file *f)
{
	uint64_t total = 0;

	for (uint32_t i = 1; i < f->header.e_shnum; i++) {
		const Elf64_Shdr *s = &f->sections[i];

		if (s->sh_info == 0 || s->sh_info > f->n_payload)
			continue;
		if (s->sh_type == SHT_REL)
			return bad("section %u: relocations without addends", i);
		if (s->sh_type != SHT_RELA)
			continue;
		if (s->sh_size / sizeof(Elf64_Rela) > MAX_RELOCS - total)
			return bad("more than %d relocations", MAX_RELOCS);
		total += s->sh_size / sizeof(Elf64_Rela);
		TRY(parse_relocs_of(f, s));
	}
	return NULL;
}

/* ---- manifest ---- */

/*
 * The name of an undefined symbol is for readers of the file; it must not tell them another story
 * than the manifest tells us: the same, or with ":" and a number behind where that is ambiguous.
 */
static struct suture_error *check_external_names(struct file *f)
{
	const Elf64_Shdr *s = &f->sections[f->symtab];

	for (size_t i = 0; i < f->patch->symbols.n; i++) {
		const struct patch_symbol *symbol = &f->patch->symbols.at[i];
		const char *name;
		Elf64_Sym sym;

		if (!symbol->name)
			return bad("symbol %zu is not defined and not among the externals", i + 1);
		if (symbol->kind == PATCH_SYMBOL_PAYLOAD)
			continue;
		memcpy(&sym, f->data + s->sh_offset + (i + 1) * sizeof(sym), sizeof(sym));
		TRY(error_wrap(get_string(f, f->strtab, sym.st_name, &name), "symbol %zu", i + 1));
		size_t len = strlen(symbol->name);
		if (strncmp(name, symbol->name, len) || (name[len] && name[len] != ':'))
			return bad("symbol %zu (%s): the manifest calls it %s", i + 1, name,
				symbol->name);
	}
	return NULL;
}

static struct suture_error *check_seal(const struct file *f)
{
#ifndef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
	const Elf64_Shdr *m = &f->sections[f->manifest];
	uint8_t digest[PATCH_DIGEST_SIZE], stored[PATCH_DIGEST_SIZE];
	char hex[ID_HEX_SIZE + 1];
	size_t at, size;

	TRY(seal_compute(f->data, f->size, m->sh_offset, m->sh_size, digest, &at));
	memcpy(hex, f->data + at, ID_HEX_SIZE);
	hex[ID_HEX_SIZE] = '\0';
	if (!hex_decode(hex, stored, sizeof(stored), &size) ||
		memcmp(stored, digest, sizeof(digest)))
		return error_hint(bad("damaged: the content does not match the id in the manifest"),
			"copy the patch file again, or build it again");
#else
	(void)f;
#endif
	return NULL;
}

static struct suture_error *parse_manifest(struct file *f)
{
	const Elf64_Shdr *m = &f->sections[f->manifest], *old = &f->sections[f->old];
	const char *text = (const char *)f->data + m->sh_offset;
	_cleanup_(json_decrefp) json_t *json = NULL;

	if (m->sh_size > MAX_MANIFEST)
		return bad("the manifest is larger than %d MiB", MAX_MANIFEST >> 20);
	TRY(manifest_load(text, m->sh_size, &json));
	TRY(check_seal(f));
	TRY(manifest_parse(json, f->data + old->sh_offset, old->sh_size, f->patch));
	f->patch->manifest = strndup(text, m->sh_size);
	return f->patch->manifest ? NULL : error_nomem();
}

static struct suture_error *parse_all(struct file *f)
{
	TRY(parse_header(f));
	TRY(parse_section_table(f));
	TRY(classify_all(f));
	TRY(parse_sections(f));
	TRY(parse_symbols(f));
	TRY(parse_relocs(f));
	TRY(parse_manifest(f));
	TRY(check_external_names(f));
	return patch_validate(f->patch);
}

struct suture_error *patch_parse(
	const void *data, size_t size, const char *what, struct patch **ret)
{
	_cleanup_(patch_destroyp) struct patch *patch = patch_create();
	struct file f = {.data = data, .size = size, .names_left = MAX_NAME_BYTES, .patch = patch};

	if (!patch)
		return error_nomem();
	struct suture_error *err = parse_all(&f);
	free(f.sections);
	if (err)
		return error_wrap(err, "%s", what);
	*ret = take(patch);
	return NULL;
}
