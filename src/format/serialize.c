/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A patch becomes an ELF relocatable object. Layout:
 *
 *	ELF header
 *	payload sections	1 .. n, in the order of patch->sections
 *	.rela.*			one for each payload section that has relocations
 *	.suture.old, .suture.manifest, .symtab, .strtab, .shstrtab
 *	section header table
 *
 * The header table is last so that a file cut short anywhere is recognised as such. It is written
 * by hand and not through libelf because that one writes to files only, and because the bytes must
 * depend on nothing but the patch.
 */
#include <elf.h>
#include <string.h>

#include "base/cleanup.h"
#include "format/format.h"

/* A growing piece of the file. A failed allocation sticks and is asked for once, at the end. */
struct blob {
	uint8_t *at;
	size_t size, room;
	bool failed;
};

static void blob_add(struct blob *b, const void *data, size_t size)
{
	if (size > b->room - b->size) {
		size_t room = (b->size + size) * 2;
		uint8_t *at = realloc(b->at, room);

		if (!at) {
			b->failed = true;
			return;
		}
		b->at = at;
		b->room = room;
	}
	if (size)
		memcpy(b->at + b->size, data, size);
	b->size += size;
}

static void blob_align(struct blob *b, size_t align)
{
	static const uint8_t zeros[MAX_ALIGN];

	blob_add(b, zeros, -b->size & (align - 1));
}

static void blob_deinit(struct blob *b)
{
	free(b->at);
}

/* Offset of a string that is added to a string table. */
static uint32_t strings_add(struct blob *b, const char *s)
{
	uint32_t at = b->size;

	blob_add(b, s, strlen(s) + 1);
	return at;
}

struct writer {
	const struct patch *patch;
	struct blob file, names, headers, symbols, strings;
	uint32_t *elf_symbol; /* by index into patch->symbols */
	uint32_t n_local;     /* entries of .symtab before the first global one */
	uint32_t symtab;      /* section index */
	size_t manifest_at, manifest_size;
};

static void writer_deinit(struct writer *w)
{
	blob_deinit(&w->file);
	blob_deinit(&w->names);
	blob_deinit(&w->headers);
	blob_deinit(&w->symbols);
	blob_deinit(&w->strings);
	free(w->elf_symbol);
}

/* Appends content and header; `header` has everything but the name, offset and size. */
static void add_section(
	struct writer *w, const char *name, Elf64_Shdr header, const void *data, size_t size)
{
	header.sh_name = *name ? strings_add(&w->names, name) : 0;
	blob_align(&w->file, header.sh_addralign ? header.sh_addralign : 1);
	header.sh_offset = header.sh_type == SHT_NULL ? 0 : w->file.size;
	header.sh_size = size;
	if (header.sh_type != SHT_NOBITS)
		blob_add(&w->file, data, size);
	blob_add(&w->headers, &header, sizeof(header));
}

/* ---- symbols ---- */

/* ELF wants local symbols first; apart from that the order is kept. */
static bool number_symbols(struct writer *w)
{
	const struct patch *p = w->patch;
	uint32_t next = 1;

	w->elf_symbol = calloc(p->symbols.n + 1, sizeof(*w->elf_symbol));
	if (!w->elf_symbol)
		return false;
	for (size_t i = 0; i < p->symbols.n; i++)
		if (p->symbols.at[i].local)
			w->elf_symbol[i] = next++;
	w->n_local = next;
	for (size_t i = 0; i < p->symbols.n; i++)
		if (!p->symbols.at[i].local)
			w->elf_symbol[i] = next++;
	return true;
}

static int compare_names(const void *a, const void *b, void *arg)
{
	const struct patch_symbol *symbols = arg;
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	int names = strcmp(symbols[x].name, symbols[y].name);

	return names ? names : x < y ? -1 : x > y;
}

/*
 * Undefined symbols have names of their own in the file, or readers that go by name would mix up
 * the old function with the new one of that name: all but the first get ":" and their number.
 */
static bool mark_ambiguous(const struct patch *p, bool *ambiguous)
{
	size_t n = p->symbols.n;
	_cleanup_free_ uint32_t *order = calloc(n + 1, sizeof(*order));

	if (!order)
		return false;
	for (size_t i = 0; i < n; i++)
		order[i] = i;
	qsort_r(order, n, sizeof(*order), compare_names, p->symbols.at);
	for (size_t i = 0; i < n; i++) {
		const char *name = p->symbols.at[order[i]].name;

		ambiguous[order[i]] =
			(i > 0 && !strcmp(name, p->symbols.at[order[i - 1]].name)) ||
			(i + 1 < n && !strcmp(name, p->symbols.at[order[i + 1]].name));
	}
	return true;
}

static struct suture_error *symbol_name(struct writer *w, const struct patch_symbol *s,
	bool ambiguous, uint32_t index, uint32_t *ret)
{
	_cleanup_free_ char *name = NULL;

	if (s->kind == PATCH_SYMBOL_PAYLOAD || !ambiguous) {
		*ret = *s->name ? strings_add(&w->strings, s->name) : 0;
		return NULL;
	}
	if (asprintf(&name, "%s:%u", s->name, index) < 0)
		return error_nomem();
	*ret = strings_add(&w->strings, name);
	return NULL;
}

static Elf64_Sym elf_symbol(const struct patch_symbol *s)
{
	uint8_t bind = s->local ? STB_LOCAL : s->weak ? STB_WEAK : STB_GLOBAL;
	Elf64_Sym sym = {.st_info = ELF64_ST_INFO(bind, s->elf_type)};

	if (s->kind == PATCH_SYMBOL_PAYLOAD) {
		sym.st_shndx = s->section + 1;
		sym.st_value = s->value;
		sym.st_size = s->size;
	}
	return sym;
}

static struct suture_error *add_symbols(struct writer *w)
{
	const struct patch *p = w->patch;
	_cleanup_free_ bool *ambiguous = calloc(p->symbols.n + 1, sizeof(*ambiguous));
	const Elf64_Sym null = {};

	if (!number_symbols(w) || !ambiguous || !mark_ambiguous(p, ambiguous))
		return error_nomem();
	blob_add(&w->strings, "", 1);
	blob_add(&w->symbols, &null, sizeof(null));
	for (int local = 1; local >= 0; local--) {
		for (size_t i = 0; i < p->symbols.n; i++) {
			const struct patch_symbol *s = &p->symbols.at[i];
			Elf64_Sym sym = elf_symbol(s);

			if (s->local != local)
				continue;
			TRY(symbol_name(w, s, ambiguous[i], w->elf_symbol[i], &sym.st_name));
			blob_add(&w->symbols, &sym, sizeof(sym));
		}
	}
	return NULL;
}

/* ---- sections ---- */

static void add_payload(struct writer *w)
{
	vec_foreach (s, &w->patch->sections) {
		Elf64_Shdr header = {
			.sh_type = s->type, .sh_flags = s->flags, .sh_addralign = s->align};

		add_section(w, s->name, header, s->data, s->size);
	}
}

static struct suture_error *add_relocs_of(struct writer *w, size_t i)
{
	const struct patch_section *s = &w->patch->sections.at[i];
	Elf64_Shdr header = {.sh_type = SHT_RELA,
		.sh_flags = SHF_INFO_LINK,
		.sh_link = w->symtab,
		.sh_info = i + 1,
		.sh_addralign = 8,
		.sh_entsize = sizeof(Elf64_Rela)};
	_cleanup_free_ Elf64_Rela *rela = calloc(s->relocs.n, sizeof(*rela));
	_cleanup_free_ char *name = NULL;

	if (asprintf(&name, ".rela%s", s->name) < 0)
		name = NULL;
	if (!rela || !name)
		return error_nomem();
	for (size_t k = 0; k < s->relocs.n; k++) {
		const struct patch_reloc *r = &s->relocs.at[k];

		rela[k] = (Elf64_Rela){.r_offset = r->offset,
			.r_info = ELF64_R_INFO((uint64_t)w->elf_symbol[r->symbol], r->type),
			.r_addend = r->addend};
	}
	add_section(w, name, header, rela, s->relocs.n * sizeof(*rela));
	return NULL;
}

static struct suture_error *add_relocs(struct writer *w)
{
	size_t n = w->patch->sections.n, with = 0;

	for (size_t i = 0; i < n; i++)
		with += w->patch->sections.at[i].relocs.n != 0;
	/* null, payload, relocations, old bytes, manifest, then .symtab */
	w->symtab = 1 + n + with + 2;
	for (size_t i = 0; i < n; i++)
		if (w->patch->sections.at[i].relocs.n)
			TRY(add_relocs_of(w, i));
	return NULL;
}

static void add_old_bytes(struct writer *w)
{
	struct blob old = {};

	vec_foreach (f, &w->patch->functions)
		blob_add(&old, f->old_bytes, f->size);
	add_section(w, SECTION_OLD, (Elf64_Shdr){.sh_type = SHT_PROGBITS, .sh_addralign = 1},
		old.at, old.size);
	w->file.failed |= old.failed;
	blob_deinit(&old);
}

static struct suture_error *add_manifest(struct writer *w)
{
	_cleanup_free_ char *text = NULL;

	TRY(manifest_create(w->patch, w->elf_symbol, &text));
	w->manifest_size = strlen(text);
	if (w->manifest_size > MAX_MANIFEST)
		return bad("the manifest is larger than %d MiB", MAX_MANIFEST >> 20);
	w->manifest_at = w->file.size;
	add_section(w, SECTION_MANIFEST, (Elf64_Shdr){.sh_type = SHT_PROGBITS, .sh_addralign = 1},
		text, w->manifest_size);
	return NULL;
}

static void add_tables(struct writer *w)
{
	Elf64_Shdr symtab = {.sh_type = SHT_SYMTAB,
		.sh_link = w->symtab + 1,
		.sh_info = w->n_local,
		.sh_addralign = 8,
		.sh_entsize = sizeof(Elf64_Sym)};
	Elf64_Shdr strtab = {.sh_type = SHT_STRTAB, .sh_addralign = 1};

	add_section(w, ".symtab", symtab, w->symbols.at, w->symbols.size);
	add_section(w, ".strtab", strtab, w->strings.at, w->strings.size);
	/* Not through add_section(): this table must hold its own name before it is written. */
	strtab.sh_name = strings_add(&w->names, ".shstrtab");
	strtab.sh_offset = w->file.size;
	strtab.sh_size = w->names.size;
	blob_add(&w->file, w->names.at, w->names.size);
	blob_add(&w->headers, &strtab, sizeof(strtab));
}

/* readelf knows STT_GNU_IFUNC by name only in files that say they use GNU's extensions. */
static uint8_t os_abi(const struct patch *p)
{
	vec_foreach (s, &p->symbols)
		if (s->elf_type == STT_GNU_IFUNC)
			return ELFOSABI_GNU;
	return ELFOSABI_NONE;
}

static void finish(struct writer *w)
{
	blob_align(&w->file, 8);
	Elf64_Ehdr header = {
		.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT,
			os_abi(w->patch)},
		.e_type = ET_REL,
		.e_machine = EM_X86_64,
		.e_version = EV_CURRENT,
		.e_shoff = w->file.size,
		.e_ehsize = sizeof(Elf64_Ehdr),
		.e_shentsize = sizeof(Elf64_Shdr),
		.e_shnum = w->headers.size / sizeof(Elf64_Shdr),
		.e_shstrndx = w->headers.size / sizeof(Elf64_Shdr) - 1,
	};

	blob_add(&w->file, w->headers.at, w->headers.size);
	if (w->file.size >= sizeof(header))
		memcpy(w->file.at, &header, sizeof(header));
}

static struct suture_error *write_all_parts(struct writer *w)
{
	const Elf64_Ehdr later = {};

	blob_add(&w->file, &later, sizeof(later));
	blob_add(&w->names, "", 1);
	add_section(w, "", (Elf64_Shdr){}, NULL, 0);
	TRY(add_symbols(w));
	add_payload(w);
	TRY(add_relocs(w));
	add_old_bytes(w);
	TRY(add_manifest(w));
	add_tables(w);
	finish(w);
	if (w->file.failed || w->names.failed || w->headers.failed || w->symbols.failed ||
		w->strings.failed)
		return error_nomem();
	return NULL;
}

/* Puts the id into the file and into `patch`. */
static struct suture_error *seal(struct writer *w, struct patch *patch)
{
	char hex[ID_HEX_SIZE + 1];
	size_t at;

	TRY(seal_compute(
		w->file.at, w->file.size, w->manifest_at, w->manifest_size, patch->id, &at));
	hex_encode(hex, patch->id, sizeof(patch->id));
	memcpy(w->file.at + at, hex, ID_HEX_SIZE);
	char *manifest = strndup((char *)w->file.at + w->manifest_at, w->manifest_size);
	if (!manifest)
		return error_nomem();
	free(patch->manifest);
	patch->manifest = manifest;
	return NULL;
}

struct suture_error *patch_serialize(struct patch *patch, void **ret, size_t *ret_size)
{
	_cleanup_(writer_deinit) struct writer w = {.patch = patch};

	TRY(error_wrap(patch_validate(patch), "cannot write the patch"));
	TRY(write_all_parts(&w));
	TRY(seal(&w, patch));
	*ret_size = w.file.size;
	*ret = take(w.file.at);
	return NULL;
}
