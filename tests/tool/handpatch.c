/* SPDX-License-Identifier: Apache-2.0 */
/*
 * handpatch OBJECT OUT NAME [--set KEY=VALUE]... IMAGE FUNCTION... [-- IMAGE FUNCTION...]
 *
 * Makes a patch file from a compiled replacement, with no questions asked: for tests of the engine,
 * which need patches that the builder would not make. Everything executable in OBJECT becomes
 * payload; FUNCTIONs replace those of the same name in IMAGE; data that IMAGE has already is
 * referred to; other undefined names are bound dynamically (or by address where IMAGE defines
 * them).
 *
 * Keys: old=HEX     overwrite the expected bytes of the first function
 *       build-id=HEX
 *       site=N      offset of the detour of the first function
 *       expect=FUNCTION   the patch leans on it
 *       part=FUNCTION     belongs to the first function
 *       version-of=NAME@VERSION  the symbol version of a dynamic reference
 */
#include <err.h>
#include <fcntl.h>
#include <gelf.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "arch/arch.h"
#include "elf/image.h"
#include "format/patch.h"

static struct patch *patch;
static struct image *image; /* the one that the object is for */
static Elf *object;
static Elf_Data *symtab, *strtab;
static uint32_t *section_map; /* ELF section -> patch section, plus one */
static uint32_t *symbol_map;  /* ELF symbol -> patch symbol, plus one */
static size_t n_sections, n_symbols;

static void check(struct suture_error *e)
{
	if (e)
		errx(1, "%s", suture_error_message(e));
}

static const struct image_symbol *image_find(const char *name)
{
	const struct image_symbol *found = NULL;

	vec_foreach (s, &image->symbols) {
		/* Of several names for one thing the defined one counts. */
		if (s->name && !strcmp(s->name, name) && s->shndx && !found)
			found = s;
	}
	return found;
}

static GElf_Sym elf_symbol(size_t i)
{
	GElf_Sym s;

	if (!gelf_getsym(symtab, (int)i, &s))
		errx(1, "symbol %zu", i);
	return s;
}

static const char *symbol_name(const GElf_Sym *s)
{
	return (const char *)strtab->d_buf + s->st_name;
}

/* The symbol of a data section that the image has already, by its only symbol. */
static const struct image_symbol *existing_data(size_t section)
{
	for (size_t i = 1; i < n_symbols; i++) {
		GElf_Sym s = elf_symbol(i);

		if (s.st_shndx == section && GELF_ST_TYPE(s.st_info) != STT_SECTION)
			return image_find(symbol_name(&s));
	}
	return NULL;
}

static void add_section(size_t index, const char *name, const GElf_Shdr *shdr, Elf_Scn *scn)
{
	struct patch_section *s = vec_add(&patch->sections);
	Elf_Data *data = elf_getdata(scn, NULL);

	s->name = strdup(name);
	s->type = shdr->sh_type;
	s->flags = shdr->sh_flags & (SHF_ALLOC | SHF_WRITE | SHF_EXECINSTR);
	s->align = shdr->sh_addralign ?: 1;
	s->size = shdr->sh_size;
	if (shdr->sh_type != SHT_NOBITS) {
		s->data = malloc(s->size ?: 1);
		if (s->size)
			memcpy(s->data, data->d_buf, s->size);
	}
	section_map[index] = (uint32_t)patch->sections.n;
}

static void add_sections(void)
{
	size_t shstrndx;
	Elf_Scn *scn = NULL;

	elf_getshdrstrndx(object, &shstrndx);
	while ((scn = elf_nextscn(object, scn))) {
		GElf_Shdr shdr;
		gelf_getshdr(scn, &shdr);
		const char *name = elf_strptr(object, shstrndx, shdr.sh_name);

		if (!(shdr.sh_flags & SHF_ALLOC) || !shdr.sh_size || shdr.sh_type == SHT_NOTE)
			continue;
		if (shdr.sh_flags & SHF_TLS)
			continue;
		bool code = shdr.sh_flags & SHF_EXECINSTR;
		if (!code && strcmp(name, ".eh_frame") && existing_data(elf_ndxscn(scn)))
			continue;
		add_section(elf_ndxscn(scn), name, &shdr, scn);
	}
}

static void refer(struct patch_symbol *to, const struct image_symbol *from)
{
	to->kind = from->type == STT_TLS ? PATCH_SYMBOL_TLS : PATCH_SYMBOL_ADDRESS;
	to->elf_type = from->type;
	to->value = from->value;
	to->size = from->size;
}

static uint32_t patch_symbol(size_t index)
{
	GElf_Sym s = elf_symbol(index);
	unsigned type = GELF_ST_TYPE(s.st_info);
	const char *name = symbol_name(&s);

	if (symbol_map[index])
		return symbol_map[index] - 1;
	struct patch_symbol *to = vec_add(&patch->symbols);
	symbol_map[index] = (uint32_t)patch->symbols.n;
	to->elf_type = type;
	if (s.st_shndx < n_sections && section_map[s.st_shndx]) {
		to->kind = PATCH_SYMBOL_PAYLOAD;
		to->section = section_map[s.st_shndx] - 1;
		to->value = s.st_value;
		to->size = s.st_size;
		to->local = GELF_ST_BIND(s.st_info) == STB_LOCAL;
		to->name = strdup(type == STT_SECTION ? "" : name);
		return symbol_map[index] - 1;
	}
	const struct image_symbol *have =
		type == STT_SECTION ? existing_data(s.st_shndx) : image_find(name);
	to->name = strdup(have ? have->name : name);
	if (have) {
		refer(to, have);
	} else {
		to->kind = type == STT_TLS ? PATCH_SYMBOL_TLS_DYNAMIC : PATCH_SYMBOL_DYNAMIC;
		to->weak = GELF_ST_BIND(s.st_info) == STB_WEAK;
	}
	return symbol_map[index] - 1;
}

/* Every function has its name in the patch, also those that nothing refers to by it. */
static void add_functions(void)
{
	for (size_t i = 1; i < n_symbols; i++) {
		GElf_Sym s = elf_symbol(i);

		if (GELF_ST_TYPE(s.st_info) == STT_FUNC && s.st_shndx < n_sections &&
			section_map[s.st_shndx])
			patch_symbol(i);
	}
}

static void add_relocs(void)
{
	Elf_Scn *scn = NULL;

	while ((scn = elf_nextscn(object, scn))) {
		GElf_Shdr shdr;
		gelf_getshdr(scn, &shdr);
		if (shdr.sh_type != SHT_RELA || !section_map[shdr.sh_info])
			continue;
		Elf_Data *data = elf_getdata(scn, NULL);
		for (size_t i = 0; i < shdr.sh_size / shdr.sh_entsize; i++) {
			GElf_Rela rela;
			gelf_getrela(data, (int)i, &rela);
			uint32_t symbol = patch_symbol(GELF_R_SYM(rela.r_info));
			struct patch_section *s =
				&patch->sections.at[section_map[shdr.sh_info] - 1];
			struct patch_reloc *r = vec_add(&s->relocs);
			*r = (struct patch_reloc){rela.r_offset, (uint32_t)GELF_R_TYPE(rela.r_info),
				symbol, rela.r_addend};
		}
	}
}

static size_t find_in_object(const char *name)
{
	for (size_t i = 1; i < n_symbols; i++) {
		GElf_Sym s = elf_symbol(i);

		if (s.st_shndx && !strcmp(symbol_name(&s), name))
			return i;
	}
	errx(1, "%s is not in the object", name);
}

static const struct image_symbol *must_find(const char *name)
{
	const struct image_symbol *s = image_find(name);

	if (!s)
		errx(1, "%s is not in %s", name, image->path);
	return s;
}

static void add_function(const char *name)
{
	const struct image_symbol *old = must_find(name);
	size_t index = find_in_object(name);
	uint32_t symbol = patch_symbol(index), length;
	struct patch_function *f = vec_add(&patch->functions);
	uint8_t code[65536];

	f->name = strdup(name);
	f->address = old->value;
	f->size = old->size;
	f->old_bytes = malloc(old->size ?: 1);
	check(image_read(image, old->value, f->old_bytes, old->size));
	f->symbol = symbol;
	f->new_size = elf_symbol(index).st_size;
	f->unit = strdup("hand.c");
	f->reason = strdup("changed");
	/* With its padding, as far as that can be seen: up to the next 16 bytes. */
	size_t with_padding = old->size + (-(old->value + old->size) & 15);
	if (with_padding > sizeof(code) || image_read(image, old->value, code, with_padding))
		with_padding = old->size;
	check(image_read(image, old->value, code, with_padding));
	struct suture_error *e = arch_x86_64.detour_site(
		name, code, with_padding, old->value, NULL, 0, &f->site, &length);
	f->site_size = 5;
	suture_error_destroy(e); /* the engine is to say so */
}

static void add_expect(const char *name)
{
	const struct image_symbol *s = must_find(name);
	struct patch_expect *e = vec_add(&patch->expects);
	uint8_t *code = malloc(s->size ?: 1);

	e->name = strdup(name);
	e->address = s->value;
	e->size = s->size;
	check(image_read(image, s->value, code, s->size));
	crypto_hash_sha256(e->digest, code, s->size);
	free(code);
}

static size_t unhex(const char *hex, uint8_t *to, size_t max)
{
	size_t n = 0;

	for (; hex[0] && hex[1] && n < max; hex += 2)
		sscanf(hex, "%2hhx", &to[n++]);
	return n;
}

static void set(const char *text)
{
	const char *value = strchr(text, '=') + 1;
	struct patch_function *f = &patch->functions.at[0];

	if (!strncmp(text, "old=", 4))
		unhex(value, f->old_bytes, f->size);
	else if (!strncmp(text, "build-id=", 9))
		patch->images.at[0].build_id_size =
			unhex(value, patch->images.at[0].build_id, PATCH_BUILD_ID_MAX);
	else if (!strncmp(text, "site=", 5))
		f->site = (uint32_t)atoi(value);
	else if (!strncmp(text, "expect=", 7))
		add_expect(value);
	else if (!strncmp(text, "part=", 5)) {
		struct patch_range *part = vec_add(&f->parts);
		*part = (struct patch_range){must_find(value)->value, must_find(value)->size};
	} else if (!strncmp(text, "version-of=", 11)) {
		const char *at = strchr(value, '@');
		vec_foreach (s, &patch->symbols) {
			if (s->kind == PATCH_SYMBOL_DYNAMIC &&
				!strncmp(s->name, value, (size_t)(at - value)))
				s->version = strdup(at + 1);
		}
	} else {
		errx(1, "unknown key: %s", text);
	}
}

static void open_object(const char *path)
{
	Elf_Scn *scn = NULL;

	elf_version(EV_CURRENT);
	object = elf_begin(open(path, O_RDONLY | O_CLOEXEC), ELF_C_READ, NULL);
	if (!object)
		errx(1, "%s: %s", path, elf_errmsg(-1));
	while ((scn = elf_nextscn(object, scn))) {
		GElf_Shdr shdr;
		gelf_getshdr(scn, &shdr);
		if (shdr.sh_type != SHT_SYMTAB)
			continue;
		symtab = elf_getdata(scn, NULL);
		strtab = elf_getdata(elf_getscn(object, shdr.sh_link), NULL);
		n_symbols = shdr.sh_size / shdr.sh_entsize;
	}
	elf_getshdrnum(object, &n_sections);
	section_map = calloc(n_sections, sizeof(*section_map));
	symbol_map = calloc(n_symbols, sizeof(*symbol_map));
}

static void add_image(void)
{
	struct patch_image *to = vec_add(&patch->images);

	to->name = strdup(image->name);
	memcpy(to->build_id, image->build_id, sizeof(to->build_id));
	to->build_id_size = image->build_id_size;
	to->fixed = image->type == ET_EXEC;
}

int main(int argc, char **argv)
{
	int i = 4;

	if (argc < 6)
		errx(2, "usage: handpatch OBJECT OUT NAME [--set KEY=VALUE]... IMAGE FUNCTION...");
	patch = patch_create();
	patch->name = strdup(argv[3]);
	patch->version = strdup("1");
	patch->description = strdup("made by hand");
	patch->created_by = strdup("handpatch");
	while (i + 2 < argc && !strcmp(argv[i], "--set"))
		i += 2;
	check(image_open(argv[i++], &image));
	add_image();
	open_object(argv[1]);
	add_sections();
	add_relocs();
	add_functions();
	for (; i < argc; i++)
		add_function(argv[i]);
	for (int k = 4; !strcmp(argv[k], "--set"); k += 2)
		set(argv[k + 1]);
	check(patch_write(patch, argv[2]));
	return 0;
}
