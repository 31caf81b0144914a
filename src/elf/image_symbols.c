/* SPDX-License-Identifier: Apache-2.0 */
/* The symbol tables of a target file, the versions of the dynamic one, and an index by address. */
#include <stdlib.h>
#include <string.h>

#include "elf/image_private.h"

/* ---- tables ---- */

static struct suture_error *table_data(Elf_Scn *scn, Elf_Data **ret)
{
	*ret = elf_getdata(scn, NULL);
	if (!*ret || ((*ret)->d_size && !(*ret)->d_buf))
		return image_bad("symbol table: %s", elf_errmsg(-1));
	return NULL;
}

static struct suture_error *to_symbol(
	Elf *elf, const Elf64_Shdr *sh, Elf_Data *data, size_t i, struct image_symbol *ret)
{
	GElf_Sym sym;

	if (!gelf_getsym(data, i, &sym))
		return image_bad("symbol %zu: %s", i, elf_errmsg(-1));
	*ret = (struct image_symbol){
		.name = elf_strptr(elf, sh->sh_link, sym.st_name),
		.value = sym.st_value,
		.size = sym.st_size,
		.type = ELF64_ST_TYPE(sym.st_info),
		.bind = ELF64_ST_BIND(sym.st_info),
		.visibility = ELF64_ST_VISIBILITY(sym.st_other),
		.shndx = sym.st_shndx,
	};
	if (!ret->name)
		return image_bad("symbol name %u: %s", sym.st_name, elf_errmsg(-1));
	return NULL;
}

struct suture_error *image_read_symbols(struct image *image, Elf *elf)
{
	const char *file = NULL;
	struct image_symbol s;
	Elf_Data *data;
	Elf64_Shdr sh;

	Elf_Scn *scn = image_section(elf, SHT_SYMTAB, &sh);
	if (!scn)
		return NULL;
	TRY(table_data(scn, &data));
	for (size_t i = 0; i < data->d_size / sizeof(Elf64_Sym); i++) {
		TRY(to_symbol(elf, &sh, data, i, &s));
		/* Linkers end a file's locals with a nameless STT_FILE before their own. */
		if (s.type == STT_FILE)
			file = s.name[0] ? s.name : NULL;
		else if (s.bind == STB_LOCAL)
			s.file = file;
		if (!vec_push(&image->symbols, s))
			return error_nomem();
	}
	/* The null entry alone is no symbol table. */
	if (image->symbols.n <= 1)
		vec_free(&image->symbols);
	return NULL;
}

/* ---- versions ---- */

struct versions {
	VEC(char *) names; /* by index */
};

static struct suture_error *set_version(
	struct image *image, struct versions *v, size_t index, const Elf64_Shdr *sh, uint32_t name)
{
	index &= 0x7fff;
	while (v->names.n <= index)
		if (!vec_add(&v->names))
			return error_nomem();
	v->names.at[index] = elf_strptr(image->elf, sh->sh_link, name);
	return v->names.at[index] ? NULL : image_bad("version name: %s", elf_errmsg(-1));
}

static struct suture_error *read_definitions(struct image *image, struct versions *v)
{
	Elf64_Shdr sh;
	Elf_Data *data;
	GElf_Verdaux aux;
	GElf_Verdef def;
	int at = 0;

	Elf_Scn *scn = image_section(image->elf, SHT_GNU_verdef, &sh);
	if (!scn)
		return NULL;
	TRY(table_data(scn, &data));
	for (unsigned i = 0; i < sh.sh_info; i++, at += def.vd_next) {
		if (!gelf_getverdef(data, at, &def) || at + def.vd_aux > INT32_MAX / 2u ||
			!gelf_getverdaux(data, at + def.vd_aux, &aux))
			return image_bad("malformed version definitions");
		if (!(def.vd_flags & VER_FLG_BASE))
			TRY(set_version(image, v, def.vd_ndx, &sh, aux.vda_name));
		if (def.vd_next == 0 || def.vd_next > data->d_size)
			break;
	}
	return NULL;
}

static struct suture_error *read_needs(struct image *image, struct versions *v)
{
	Elf64_Shdr sh;
	Elf_Data *data;
	GElf_Vernaux aux;
	GElf_Verneed need;
	uint64_t at = 0;

	Elf_Scn *scn = image_section(image->elf, SHT_GNU_verneed, &sh);
	if (!scn)
		return NULL;
	TRY(table_data(scn, &data));
	for (unsigned i = 0; i < sh.sh_info; i++, at += need.vn_next) {
		if (at > INT32_MAX || !gelf_getverneed(data, at, &need))
			return image_bad("malformed version needs");
		uint64_t aux_at = at + need.vn_aux;
		for (unsigned j = 0; j < need.vn_cnt; j++, aux_at += aux.vna_next) {
			if (aux_at > INT32_MAX || !gelf_getvernaux(data, aux_at, &aux))
				return image_bad("malformed version needs");
			TRY(set_version(image, v, aux.vna_other, &sh, aux.vna_name));
			if (aux.vna_next == 0)
				break;
		}
		if (need.vn_next == 0)
			break;
	}
	return NULL;
}

static struct suture_error *name_versions(struct image *image, const struct versions *v)
{
	Elf64_Shdr sh;
	Elf_Data *data;

	Elf_Scn *scn = image_section(image->elf, SHT_GNU_versym, &sh);
	if (!scn)
		return NULL;
	TRY(table_data(scn, &data));
	if (data->d_size / sizeof(Elf64_Versym) != image->dynsyms.n)
		return image_bad("%zu symbol versions for %zu dynamic symbols",
			data->d_size / sizeof(Elf64_Versym), image->dynsyms.n);
	for (size_t i = 0; i < image->dynsyms.n; i++) {
		GElf_Versym index;

		if (!gelf_getversym(data, i, &index))
			return image_bad("symbol version %zu: %s", i, elf_errmsg(-1));
		index &= 0x7fff;
		if (index < v->names.n)
			image->dynsym_versions.at[i] = v->names.at[index];
	}
	return NULL;
}

static struct suture_error *read_versions(struct image *image)
{
	struct versions v = {};

	struct suture_error *err = read_definitions(image, &v);
	if (!err)
		err = read_needs(image, &v);
	if (!err)
		err = name_versions(image, &v);
	vec_free(&v.names);
	return err;
}

struct suture_error *image_read_dynsyms(struct image *image)
{
	Elf_Data *data;
	Elf64_Shdr sh;

	Elf_Scn *scn = image_section(image->elf, SHT_DYNSYM, &sh);
	if (!scn)
		return NULL;
	TRY(table_data(scn, &data));
	for (size_t i = 0; i < data->d_size / sizeof(Elf64_Sym); i++) {
		struct image_symbol *s = vec_add(&image->dynsyms);

		if (!s || !vec_add(&image->dynsym_versions))
			return error_nomem();
		TRY(to_symbol(image->elf, &sh, data, i, s));
	}
	return read_versions(image);
}

/* ---- by address ---- */

/* Of several names for one start: those with a size, then the widest visible one. */
static int rank(const struct image_symbol *s)
{
	return (s->size ? 4 : 0) + (s->bind == STB_GLOBAL ? 2 : s->bind == STB_LOCAL ? 0 : 1);
}

static int compare(const void *a, const void *b, void *arg)
{
	const struct image_function *x = a, *y = b;
	const struct image_symbol *symbols = arg;

	if (x->start != y->start)
		return x->start < y->start ? -1 : 1;
	int rx = rank(&symbols[x->symbol]), ry = rank(&symbols[y->symbol]);
	if (rx != ry)
		return rx > ry ? -1 : 1;
	return x->symbol < y->symbol ? -1 : 1;
}

struct suture_error *image_index_symbols(struct image *image)
{
	struct image_private *p = image_private(image);
	uint64_t highest = 0;

	for (size_t i = 0; i < image->symbols.n; i++) {
		const struct image_symbol *s = &image->symbols.at[i];
		struct image_function f = {.start = s->value, .symbol = i};

		if ((s->type != STT_FUNC && s->type != STT_GNU_IFUNC) || s->shndx == SHN_UNDEF)
			continue;
		f.end = s->value + s->size < s->value ? s->value : s->value + s->size;
		if (!vec_push(&p->functions, f))
			return error_nomem();
	}
	if (p->functions.n)
		qsort_r(p->functions.at, p->functions.n, sizeof(*p->functions.at), compare,
			image->symbols.at);
	vec_foreach (f, &p->functions) {
		if (f->end > highest)
			highest = f->end;
		f->highest = highest;
	}
	return NULL;
}

const struct image_symbol *image_symbol_at(const struct image *image, uint64_t address)
{
	const struct image_private *p = image_private(image);
	const struct image_function *f = p->functions.at;
	size_t low = 0, high = p->functions.n;

	while (low < high) { /* the first that starts at or above address */
		size_t mid = low + (high - low) / 2;

		if (f[mid].start < address)
			low = mid + 1;
		else
			high = mid;
	}
	if (low < p->functions.n && f[low].start == address)
		return &image->symbols.at[f[low].symbol];
	/* Backwards to the nearest that covers it; aliases are in order of rank. */
	const struct image_symbol *best = NULL;
	for (size_t i = low; i-- > 0 && f[i].highest > address;) {
		if (best && f[i].start != best->value)
			break;
		if (f[i].end > address)
			best = &image->symbols.at[f[i].symbol];
	}
	return best;
}
