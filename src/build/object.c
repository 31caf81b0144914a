/* SPDX-License-Identifier: Apache-2.0 */
/* Reading a relocatable object, distrusting it: see object.h. Cutting it up is span.c and ref.c. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "arch/arch.h"
#include "base/cleanup.h"
#include "build/object.h"

static struct suture_error *malformed(const struct object *object, const char *what)
{
	return error_create(SUTURE_ERROR_INPUT, "%s: %s", object->path, what);
}

static struct suture_error *elf_failed(const struct object *object, const char *what)
{
	return error_create(
		SUTURE_ERROR_INPUT, "%s: %s: %s", object->path, what, elf_errmsg(elf_errno()));
}

static struct suture_error *check_header(const struct object *object)
{
	GElf_Ehdr ehdr;

	if (elf_kind(object->elf) != ELF_K_ELF || !gelf_getehdr(object->elf, &ehdr))
		return error_create(SUTURE_ERROR_INPUT,
			"%s is no ELF file (LLVM bitcode from -flto?)", object->path);
	if (ehdr.e_type != ET_REL)
		return malformed(object, "not a relocatable object");
	if (ehdr.e_ident[EI_CLASS] != ELFCLASS64 || ehdr.e_machine != arch_x86_64.elf_machine)
		return error_create(SUTURE_ERROR_UNSUPPORTED,
			"%s is for another machine (ELF machine %u); x86-64 is supported",
			object->path, ehdr.e_machine);
	return NULL;
}

static bool is_kept(const struct object_section *s)
{
	static const char *const lists[] = {"__patchable_function_entries", "__mcount_loc"};

	if (!(s->flags & SHF_ALLOC) || s->type == SHT_NOTE || s->type == SHT_X86_64_UNWIND ||
		s->type == SHT_GROUP || !strcmp(s->name, ".eh_frame"))
		return false;
	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
		if (!strcmp(s->name, lists[i]))
			return false;
	return true;
}

static struct suture_error *read_section(
	struct object *object, Elf_Scn *scn, size_t names, struct object_section *s)
{
	GElf_Shdr shdr;

	if (!gelf_getshdr(scn, &shdr))
		return elf_failed(object, "section header");
	s->name = elf_strptr(object->elf, names, shdr.sh_name);
	if (!s->name)
		return malformed(object, "section without a name");
	s->type = shdr.sh_type;
	s->flags = shdr.sh_flags;
	s->size = shdr.sh_size;
	s->entsize = shdr.sh_entsize;
	s->align = shdr.sh_addralign ? shdr.sh_addralign : 1;
	s->kept = is_kept(s);
	if (!strncmp(s->name, ".gnu.lto_", 9))
		return error_create(SUTURE_ERROR_UNSUPPORTED,
			"%s: compiled with -flto, which is not supported yet", object->path);
	if (s->align & (s->align - 1))
		return malformed(object, "section alignment is no power of two");
	if (!(s->flags & SHF_ALLOC) || s->type == SHT_NOBITS)
		return NULL;

	Elf_Data *data = elf_rawdata(scn, NULL);
	if (!data || data->d_size != s->size || (s->size && !data->d_buf))
		return malformed(object, "section data is not all there");
	s->data = data->d_buf;
	return NULL;
}

static struct suture_error *read_sections(struct object *object)
{
	size_t names, n;

	if (elf_getshdrstrndx(object->elf, &names) || elf_getshdrnum(object->elf, &n))
		return elf_failed(object, "section headers");
	for (size_t i = 0; i < n; i++) {
		struct object_section *s = vec_add(&object->sections);

		if (!s)
			return error_nomem();
		s->name = "";
		s->align = 1;
		if (i)
			TRY(read_section(object, elf_getscn(object->elf, i), names, s));
	}
	return NULL;
}

static struct suture_error *read_symbol(struct object *object, Elf_Data *symtab, Elf_Data *xindex,
	size_t strings, size_t i, struct object_symbol *ret)
{
	GElf_Sym sym;
	Elf32_Word wide = 0;

	if (!gelf_getsymshndx(symtab, xindex, i, &sym, &wide))
		return elf_failed(object, "symbol");
	ret->name = elf_strptr(object->elf, strings, sym.st_name);
	if (!ret->name)
		return malformed(object, "symbol without a name");
	ret->value = sym.st_value;
	ret->size = sym.st_size;
	ret->type = GELF_ST_TYPE(sym.st_info);
	ret->bind = GELF_ST_BIND(sym.st_info);
	ret->visibility = GELF_ST_VISIBILITY(sym.st_other);
	ret->reserved = sym.st_shndx >= SHN_LORESERVE && sym.st_shndx != SHN_XINDEX;
	ret->shndx = sym.st_shndx == SHN_XINDEX ? wide : sym.st_shndx;
	if (ret->reserved || ret->shndx == SHN_UNDEF)
		return NULL;
	if (ret->shndx >= object->sections.n)
		return malformed(object, "symbol in a section that is not there");
	/* Only what is kept is ever looked at. */
	const struct object_section *s = &object->sections.at[ret->shndx];
	if (s->kept && (ret->value > s->size || ret->size > s->size - ret->value))
		return error_create(SUTURE_ERROR_INPUT, "%s: symbol %s sticks out of section %s",
			object->path, ret->name, s->name);
	return NULL;
}

static struct suture_error *note_symbol(struct object *object, const struct object_symbol *sym)
{
	uint32_t index = sym - object->symbols.at;

	if (sym->type == STT_FILE && !object->file)
		object->file = sym->name;
	if (sym->bind == STB_LOCAL)
		object->first_global = index + 1;
	if (sym->reserved || sym->shndx == SHN_UNDEF)
		return NULL;
	return vec_push(&object->sections.at[sym->shndx].symbols, index) ? NULL : error_nomem();
}

static struct suture_error *read_symbols(struct object *object)
{
	Elf_Scn *scn = NULL, *symtab = NULL;
	Elf_Data *data, *xindex = NULL;
	GElf_Shdr shdr;

	while ((scn = elf_nextscn(object->elf, scn))) {
		if (!gelf_getshdr(scn, &shdr))
			return elf_failed(object, "section header");
		if (shdr.sh_type == SHT_SYMTAB)
			symtab = scn;
		else if (shdr.sh_type == SHT_SYMTAB_SHNDX)
			xindex = elf_getdata(scn, NULL);
	}
	if (!symtab || !gelf_getshdr(symtab, &shdr) || !(data = elf_getdata(symtab, NULL)))
		return malformed(object, "no symbol table");
	for (size_t i = 0; i < data->d_size / sizeof(Elf64_Sym); i++) {
		struct object_symbol *sym = vec_add(&object->symbols);

		if (!sym)
			return error_nomem();
		TRY(read_symbol(object, data, xindex, shdr.sh_link, i, sym));
		TRY(note_symbol(object, sym));
	}
	return NULL;
}

static int compare_refs(const void *a, const void *b)
{
	const struct ref *x = a, *y = b;

	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static struct suture_error *read_reloc(
	struct object *object, struct object_section *s, Elf_Data *data, size_t i)
{
	GElf_Rela rela;
	struct ref *ref = vec_add(&s->raw);

	if (!ref)
		return error_nomem();
	if (!gelf_getrela(data, i, &rela))
		return elf_failed(object, "relocation");
	*ref = (struct ref){
		.offset = rela.r_offset,
		.type = GELF_R_TYPE(rela.r_info),
		.symbol = GELF_R_SYM(rela.r_info),
		.addend = rela.r_addend,
	};
	if (ref->symbol >= object->symbols.n)
		return malformed(object, "relocation names a symbol that is not there");
	size_t size = arch_x86_64.reloc_size(ref->type);
	if (ref->offset > s->size || size > s->size - ref->offset)
		return error_create(SUTURE_ERROR_INPUT, "%s: relocation sticks out of section %s",
			object->path, s->name);
	return NULL;
}

static struct suture_error *read_relocs_of(struct object *object, Elf_Scn *scn)
{
	GElf_Shdr shdr;

	if (!gelf_getshdr(scn, &shdr))
		return elf_failed(object, "section header");
	if (shdr.sh_type != SHT_RELA && shdr.sh_type != SHT_REL)
		return NULL;
	if (shdr.sh_info >= object->sections.n)
		return malformed(object, "relocations of a section that is not there");
	struct object_section *s = &object->sections.at[shdr.sh_info];
	if (!(s->flags & SHF_ALLOC))
		return NULL;
	if (shdr.sh_type == SHT_REL || s->type == SHT_NOBITS)
		return malformed(object, "relocations of a kind that x86-64 does not have");

	Elf_Data *data = elf_getdata(scn, NULL);
	if (!data)
		return elf_failed(object, "relocations");
	for (size_t i = 0; i < data->d_size / sizeof(Elf64_Rela); i++)
		TRY(read_reloc(object, s, data, i));
	if (s->raw.n)
		qsort(s->raw.at, s->raw.n, sizeof(*s->raw.at), compare_refs);
	return NULL;
}

static struct suture_error *read_relocs(struct object *object)
{
	Elf_Scn *scn = NULL;

	while ((scn = elf_nextscn(object->elf, scn)))
		TRY(read_relocs_of(object, scn));
	return NULL;
}

static struct suture_error *load(struct object *object)
{
	elf_version(EV_CURRENT);
	object->fd = open(object->path, O_RDONLY | O_CLOEXEC);
	if (object->fd < 0)
		return error_errno(errno, "open %s", object->path);
	object->elf = elf_begin(object->fd, ELF_C_READ, NULL);
	if (!object->elf)
		return elf_failed(object, "cannot be read");
	TRY(check_header(object));
	TRY(read_sections(object));
	TRY(read_symbols(object));
	TRY(read_relocs(object));
	TRY(object_make_spans(object));
	TRY(object_make_refs(object));
	TRY(object_read_unwind(object));
	return object_read_scopes(object);
}

struct suture_error *object_open(const char *path, struct object **ret)
{
	_cleanup_(object_closep) struct object *object = calloc(1, sizeof(*object));

	if (!object)
		return error_nomem();
	object->fd = -1;
	object->path = strdup(path);
	if (!object->path)
		return error_nomem();
	TRY(load(object));
	*ret = take(object);
	return NULL;
}

static void span_destroy(struct span *span)
{
	vec_free(&span->aliases);
	vec_free(&span->refs);
	free(span->scope);
	free(span->reason);
	free(span);
}

void object_close(struct object *object)
{
	if (!object)
		return;
	vec_foreach (span, &object->spans)
		span_destroy(*span);
	vec_free(&object->spans);
	vec_foreach (name, &object->functions)
		free(*name);
	vec_free(&object->functions);
	vec_foreach (s, &object->sections) {
		vec_free(&s->symbols);
		vec_free(&s->spans);
		vec_free(&s->raw);
	}
	vec_free(&object->sections);
	vec_free(&object->symbols);
	elf_end(object->elf);
	if (object->fd >= 0)
		close(object->fd);
	free(object->path);
	free(object);
}
