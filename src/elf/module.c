/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening an image that is mapped in a process: program headers, span, load bias, build-id, and
 * the dynamic section with its bounds. The memory belongs to somebody else and may say anything;
 * what passes here is inside the module's span and of sane size, so that the other parts
 * (module_symbols.c, module_versions.c, module_relocs.c) stay simple.
 */
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "elf/module_private.h"
#include "elf/note.h"

#define PAGE	  4096ULL
#define SPACE_END (1ULL << 47) /* user addresses end here, link-time ones too */

/* ---- headers ---- */

static struct suture_error *check_ident(const Elf64_Ehdr *e)
{
	if (memcmp(e->e_ident, ELFMAG, SELFMAG) != 0)
		return module_bad("no ELF header");
	if (e->e_ident[EI_CLASS] != ELFCLASS64)
		return error_create(SUTURE_ERROR_UNSUPPORTED, "not a 64-bit ELF image");
	if (e->e_ident[EI_DATA] != ELFDATA2LSB)
		return error_create(SUTURE_ERROR_UNSUPPORTED, "not a little-endian ELF image");
	if (e->e_machine != EM_X86_64)
		return error_create(SUTURE_ERROR_UNSUPPORTED,
			"ELF machine %u is not supported (x86-64 is)", e->e_machine);
	if (e->e_type != ET_EXEC && e->e_type != ET_DYN)
		return module_bad("ELF type %u is neither executable nor shared object", e->e_type);
	return NULL;
}

static struct suture_error *read_phdrs(struct module *m, const Elf64_Ehdr *e)
{
	if (e->e_phentsize != sizeof(Elf64_Phdr))
		return module_bad("program headers of %u bytes each", e->e_phentsize);
	if (e->e_phnum == 0 || e->e_phnum > MODULE_PHDRS_MAX)
		return module_bad("%u program headers", e->e_phnum);
	if (e->e_phoff >= SPACE_END)
		return module_bad("program headers outside the image");
	m->phdrs.at = calloc(e->e_phnum, sizeof(Elf64_Phdr));
	if (!m->phdrs.at)
		return error_nomem();
	m->phdrs.n = m->phdrs.room = e->e_phnum;
	return error_wrap(
		module_read(m, m->base + e->e_phoff, m->phdrs.at, e->e_phnum * sizeof(Elf64_Phdr)),
		"program headers");
}

/* The span of all PT_LOAD in link-time addresses, and where the ELF header is linked. */
static struct suture_error *load_span(
	const struct module *m, uint64_t *ret_low, uint64_t *ret_high, uint64_t *ret_header)
{
	uint64_t low = UINT64_MAX, high = 0, header = UINT64_MAX;

	vec_foreach (ph, &m->phdrs) {
		if (ph->p_type != PT_LOAD)
			continue;
		if (ph->p_vaddr >= SPACE_END || ph->p_memsz >= SPACE_END - ph->p_vaddr ||
			ph->p_filesz > ph->p_memsz || (ph->p_vaddr - ph->p_offset) % PAGE)
			return module_bad(
				"malformed PT_LOAD at 0x%llx", (unsigned long long)ph->p_vaddr);
		if (ph->p_vaddr < low)
			low = ph->p_vaddr;
		if (ph->p_vaddr + ph->p_memsz > high)
			high = ph->p_vaddr + ph->p_memsz;
		/* The segment that starts in the first page of the file holds the header. */
		if (ph->p_offset < PAGE && header == UINT64_MAX)
			header = ph->p_vaddr - ph->p_offset;
	}
	if (low > high)
		return module_bad("no PT_LOAD");
	if (header == UINT64_MAX)
		return module_bad("no PT_LOAD maps the ELF header");
	*ret_low = low & -PAGE;
	*ret_high = (high + PAGE - 1) & -PAGE;
	*ret_header = header;
	return NULL;
}

static struct suture_error *read_headers(struct module *m)
{
	uint64_t low = 0, high = 0, header = 0;
	Elf64_Ehdr ehdr;

	if (m->base % PAGE || m->base >= SPACE_END)
		return module_bad("no image can start there");
	TRY(error_wrap(module_read(m, m->base, &ehdr, sizeof(ehdr)), "ELF header"));
	TRY(check_ident(&ehdr));
	m->type = ehdr.e_type;
	TRY(read_phdrs(m, &ehdr));
	TRY(load_span(m, &low, &high, &header));
	m->bias = m->base - header; /* may wrap: link-time addresses may be above the base */
	m->low = low + m->bias;
	m->high = high + m->bias;
	if (m->low >= SPACE_END || m->high > SPACE_END || m->low >= m->high)
		return module_bad("segments outside the address space");
	if (m->type == ET_EXEC && m->bias != 0)
		return module_bad("a fixed-address image 0x%llx away from its address",
			(unsigned long long)m->bias);
	return NULL;
}

static struct suture_error *read_build_id(const struct module *m, uint8_t *ret, size_t *ret_size)
{
	*ret_size = 0;
	vec_foreach (ph, &m->phdrs) {
		_cleanup_free_ uint8_t *notes = NULL;
		remote_addr addr = ph->p_vaddr + m->bias;

		if (ph->p_type != PT_NOTE || ph->p_memsz == 0 || ph->p_memsz > NOTES_MAX ||
			!module_spans(m, addr, ph->p_memsz))
			continue;
		notes = malloc(ph->p_memsz);
		if (!notes)
			return error_nomem();
		TRY(error_wrap(module_read(m, addr, notes, ph->p_memsz), "notes"));
		if (note_find_build_id(notes, ph->p_memsz, ph->p_align, ret, ret_size))
			return NULL;
	}
	return NULL;
}

static void read_tls(struct module *m)
{
	vec_foreach (ph, &m->phdrs) {
		if (ph->p_type != PT_TLS)
			continue;
		m->tls_vaddr = ph->p_vaddr;
		m->tls_size = ph->p_memsz;
		m->tls_align = ph->p_align;
	}
}

/* ---- the dynamic section ---- */

/* The tags that matter, the last of each winning as in ld.so. */
struct dynamic {
	uint64_t strtab, strsz, symtab, syment, hash, gnu_hash, versym, verdef, verdef_n, verneed,
		verneed_n, rela, relasz, relaent, jmprel, pltrelsz, pltrel, rel, relr, relrsz,
		relrent, soname, flags;
	bool has_soname;
	VEC(uint64_t) needed;
};

static void dynamic_deinit(struct dynamic *d)
{
	vec_free(&d->needed);
}

static uint64_t *dynamic_field(struct dynamic *d, int64_t tag)
{
	switch (tag) {
	case DT_STRTAB:
		return &d->strtab;
	case DT_STRSZ:
		return &d->strsz;
	case DT_SYMTAB:
		return &d->symtab;
	case DT_SYMENT:
		return &d->syment;
	case DT_HASH:
		return &d->hash;
	case DT_GNU_HASH:
		return &d->gnu_hash;
	case DT_VERSYM:
		return &d->versym;
	case DT_VERDEF:
		return &d->verdef;
	case DT_VERDEFNUM:
		return &d->verdef_n;
	case DT_VERNEED:
		return &d->verneed;
	case DT_VERNEEDNUM:
		return &d->verneed_n;
	case DT_RELA:
		return &d->rela;
	case DT_RELASZ:
		return &d->relasz;
	case DT_RELAENT:
		return &d->relaent;
	case DT_REL:
		return &d->rel;
	case DT_JMPREL:
		return &d->jmprel;
	case DT_PLTRELSZ:
		return &d->pltrelsz;
	case DT_PLTREL:
		return &d->pltrel;
	case DT_RELR:
		return &d->relr;
	case DT_RELRSZ:
		return &d->relrsz;
	case DT_RELRENT:
		return &d->relrent;
	case DT_SONAME:
		return &d->soname;
	case DT_FLAGS:
		return &d->flags;
	default:
		return NULL;
	}
}

static struct suture_error *dynamic_entry(
	struct module *m, struct dynamic *d, const Elf64_Dyn *entry)
{
	uint64_t *field = dynamic_field(d, entry->d_tag);

	if (field)
		*field = entry->d_un.d_val;
	switch (entry->d_tag) {
	case DT_SONAME:
		d->has_soname = true;
		break;
	case DT_NEEDED:
		if (!vec_push(&d->needed, entry->d_un.d_val))
			return error_nomem();
		break;
	case DT_SYMBOLIC:
		m->symbolic = true;
		break;
	case DT_TEXTREL:
		m->textrel = true;
		break;
	case DT_DEBUG:
		m->debug = entry->d_un.d_ptr;
		break;
	}
	return NULL;
}

static struct suture_error *dynamic_read(
	struct module *m, const Elf64_Phdr *ph, struct dynamic *ret)
{
	size_t size = ph->p_memsz / sizeof(Elf64_Dyn) * sizeof(Elf64_Dyn);
	remote_addr addr = ph->p_vaddr + m->bias;
	_cleanup_free_ Elf64_Dyn *entries = NULL;

	if (size > MODULE_DYNAMIC_MAX || !module_spans(m, addr, size))
		return module_bad(
			"dynamic section of %zu bytes at 0x%llx", size, (unsigned long long)addr);
	entries = malloc(size + 1);
	if (!entries)
		return error_nomem();
	TRY(error_wrap(module_read(m, addr, entries, size), "dynamic section"));
	for (size_t i = 0; i < size / sizeof(Elf64_Dyn) && entries[i].d_tag != DT_NULL; i++)
		TRY(dynamic_entry(m, ret, &entries[i]));
	if (ret->flags & DF_SYMBOLIC)
		m->symbolic = true;
	if (ret->flags & DF_TEXTREL)
		m->textrel = true;
	return NULL;
}

/*
 * glibc adds the bias to some of the addresses in the mapped dynamic section (ADJUST_DYN_INFO in
 * elf/get-dynamic-info.h), not to others (DT_VERDEF, DT_RELR), and to none where the section is
 * read-only (vdso); musl adds it to none. An address inside the mapped span is final.
 */
static struct suture_error *dynamic_pointer(
	const struct module *m, const char *what, uint64_t value, remote_addr *ret)
{
	bool final = module_spans(m, value, 1);
	bool linked = module_spans(m, value + m->bias, 1);

	if (value == 0) {
		*ret = 0;
		return NULL;
	}
	if (final && linked && m->bias != 0)
		return error_create(SUTURE_ERROR_UNSUPPORTED,
			"%s 0x%llx is ambiguous: the image is mapped over its link-time addresses",
			what, (unsigned long long)value);
	if (!final && !linked)
		return module_bad(
			"%s 0x%llx is outside the image", what, (unsigned long long)value);
	*ret = final ? value : value + m->bias;
	return NULL;
}

static struct suture_error *dynamic_table(const struct module *m, const char *what, uint64_t value,
	uint64_t size, uint64_t entry, struct module_table *ret)
{
	struct module_table t = {.size = size};

	if (value == 0 || size == 0)
		return NULL;
	TRY(dynamic_pointer(m, what, value, &t.addr));
	if (!module_spans(m, t.addr, size) || size % entry)
		return module_bad("%s of %llu bytes at 0x%llx", what, (unsigned long long)size,
			(unsigned long long)t.addr);
	*ret = t;
	return NULL;
}

static struct suture_error *dynamic_relocs(struct module *m, const struct dynamic *d)
{
	struct module_private *p = module_private(m);

	if (d->rel || (d->jmprel && d->pltrel != DT_RELA))
		return error_create(SUTURE_ERROR_UNSUPPORTED, "relocations without addends");
	if (d->rela && d->relaent != sizeof(Elf64_Rela))
		return module_bad("relocations of %llu bytes", (unsigned long long)d->relaent);
	if (d->relr && d->relrent != sizeof(uint64_t))
		return module_bad("DT_RELR entries of %llu bytes", (unsigned long long)d->relrent);
	TRY(dynamic_table(m, "DT_RELA", d->rela, d->relasz, sizeof(Elf64_Rela), &p->rela));
	TRY(dynamic_table(m, "DT_JMPREL", d->jmprel, d->pltrelsz, sizeof(Elf64_Rela), &p->jmprel));
	TRY(dynamic_table(m, "DT_RELR", d->relr, d->relrsz, sizeof(uint64_t), &p->relr));
	/* Some linkers count DT_JMPREL into DT_RELASZ; ld.so takes it off again, so do we. */
	if (p->jmprel.size && p->rela.size >= p->jmprel.size &&
		p->rela.addr + p->rela.size == p->jmprel.addr + p->jmprel.size)
		p->rela.size -= p->jmprel.size;
	return NULL;
}

static struct suture_error *dynamic_tables(struct module *m, const struct dynamic *d)
{
	struct module_private *p = module_private(m);

	TRY(dynamic_table(m, "DT_STRTAB", d->strtab, d->strsz, 1, &p->strtab));
	TRY(dynamic_pointer(m, "DT_SYMTAB", d->symtab, &p->symtab));
	TRY(dynamic_pointer(m, "DT_HASH", d->hash, &p->hash));
	TRY(dynamic_pointer(m, "DT_GNU_HASH", d->gnu_hash, &p->gnu_hash));
	TRY(dynamic_pointer(m, "DT_VERSYM", d->versym, &p->versym));
	TRY(dynamic_pointer(m, "DT_VERDEF", d->verdef, &p->verdef));
	TRY(dynamic_pointer(m, "DT_VERNEED", d->verneed, &p->verneed));
	p->verdef_n = d->verdef_n;
	p->verneed_n = d->verneed_n;
	if (p->symtab && d->syment != sizeof(Elf64_Sym))
		return module_bad("symbols of %llu bytes", (unsigned long long)d->syment);
	return dynamic_relocs(m, d);
}

static struct suture_error *dynamic_names(struct module *m, const struct dynamic *d)
{
	if (d->has_soname)
		TRY(error_wrap(module_string(m, d->soname, &m->soname), "DT_SONAME"));
	vec_foreach (offset, &d->needed) {
		char **slot = vec_add(&m->needed);

		if (!slot)
			return error_nomem();
		TRY(error_wrap(module_string(m, *offset, slot), "DT_NEEDED"));
	}
	return NULL;
}

static struct suture_error *read_dynamic(struct module *m)
{
	_cleanup_(dynamic_deinit) struct dynamic d = {};

	vec_foreach (ph, &m->phdrs) {
		if (ph->p_type != PT_DYNAMIC)
			continue;
		m->dynamic = true;
		TRY(dynamic_read(m, ph, &d));
		break;
	}
	if (!m->dynamic)
		return NULL;
	TRY(dynamic_tables(m, &d));
	TRY(dynamic_names(m, &d));
	return module_symbols_init(m);
}

/* Bytes of the string at addr up to its NUL, of `max` at most. Names are short: small steps. */
static struct suture_error *string_length(
	const struct module *m, remote_addr addr, uint64_t max, size_t *ret)
{
	char buf[64];

	for (size_t at = 0; at < max; at += sizeof(buf)) {
		size_t step = max - at < sizeof(buf) ? max - at : sizeof(buf);

		TRY(module_read(m, addr + at, buf, step));
		const char *end = memchr(buf, '\0', step);
		if (end) {
			*ret = at + (end - buf);
			return NULL;
		}
	}
	return module_bad("string at 0x%llx does not end", (unsigned long long)addr);
}

struct suture_error *module_string(const struct module *m, uint64_t offset, char **ret)
{
	const struct module_table *t = &module_private(m)->strtab;
	size_t length = 0;

	if (offset >= t->size)
		return module_bad("string %llu of a table of %llu bytes",
			(unsigned long long)offset, (unsigned long long)t->size);
	uint64_t max = t->size - offset < MODULE_STRING_MAX ? t->size - offset : MODULE_STRING_MAX;
	TRY(string_length(m, t->addr + offset, max, &length));
	_cleanup_free_ char *s = malloc(length + 1);
	if (!s)
		return error_nomem();
	TRY(module_read(m, t->addr + offset, s, length + 1));
	s[length] = '\0'; /* somebody may have written there between the two */
	*ret = take(s);
	return NULL;
}

/* ---- opening ---- */

static struct suture_error *fill(struct module *m, const char *path)
{
	m->path = strdup(path);
	if (!m->path)
		return error_nomem();
	TRY(read_headers(m));
	TRY(read_build_id(m, m->build_id, &m->build_id_size));
	read_tls(m);
	return read_dynamic(m);
}

struct suture_error *module_open(
	const struct reader *reader, remote_addr base, const char *path, struct module **ret)
{
	_cleanup_(module_closep) struct module *m = calloc(1, sizeof(*m));

	if (!m)
		return error_nomem();
	m->private_ = calloc(1, sizeof(struct module_private));
	if (!m->private_)
		return error_nomem();
	cache_init(&module_private(m)->cache, reader);
	m->reader = reader;
	m->base = base;
	TRY(error_wrap(fill(m, path), "image %s at 0x%llx", path, (unsigned long long)base));
	*ret = take(m);
	return NULL;
}

void module_close(struct module *m)
{
	if (!m)
		return;
	if (m->private_) {
		module_symbols_deinit(m);
		cache_deinit(&module_private(m)->cache);
	}
	vec_foreach (name, &m->needed)
		free(*name);
	vec_free(&m->needed);
	vec_free(&m->phdrs);
	vec_free(&m->relocs);
	free(m->path);
	free(m->soname);
	free(m->private_);
	free(m);
}

struct suture_error *module_build_id(
	const struct reader *reader, remote_addr base, uint8_t ret[64], size_t *ret_size)
{
	struct module_private p;
	struct module m = {.base = base, .private_ = &p};
	size_t size;

	cache_init(&p.cache, reader);
	struct suture_error *err = read_headers(&m);
	if (!err)
		err = read_build_id(&m, ret, &size);
	if (!err)
		*ret_size = size;
	cache_deinit(&p.cache);
	vec_free(&m.phdrs);
	return error_wrap(err, "image at 0x%llx", (unsigned long long)base);
}
